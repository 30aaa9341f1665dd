//! A worker as JSON: the objects of WORKERS. The names of their members and the order are the protocol's.

use serde_core::ser::{Serialize, SerializeMap, Serializer};

use super::job_json::millis;
use crate::job::{QueueName, Wish};
use crate::stats::{HeldJob, WorkerStats};

/// Writes a worker as one object.
pub(super) fn write(worker: &WorkerStats, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &Shown(worker)).expect("numbers and strings are always JSON");
}

struct Shown<'a>(&'a WorkerStats);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Every field by its name, so that one that is added can't be forgotten here.
        let WorkerStats {
            name,
            host,
            pid,
            slots,
            version,
            wish,
            connections,
            known_for,
            queues,
            held,
            jobs,
            done,
            failed,
        } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", name.as_str())?;
        if let Some(host) = host {
            map.serialize_entry("host", host)?;
        }
        if let Some(pid) = pid {
            map.serialize_entry("pid", pid)?;
        }
        if let Some(slots) = slots {
            map.serialize_entry("slots", slots)?;
        }
        if let Some(version) = version {
            map.serialize_entry("version", version)?;
        }
        map.serialize_entry("wish", wish_name(*wish))?;
        map.serialize_entry("connections", connections)?;
        map.serialize_entry("known_ms", &millis(*known_for))?;
        map.serialize_entry("queues", &queues.iter().map(QueueName::as_str).collect::<Vec<_>>())?;
        map.serialize_entry("held", held)?;
        map.serialize_entry("jobs", &jobs.iter().map(ShownJob).collect::<Vec<_>>())?;
        map.serialize_entry("done", done)?;
        map.serialize_entry("failed", failed)?;
        map.end()
    }
}

struct ShownJob<'a>(&'a HeldJob);

impl Serialize for ShownJob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("id", &self.0.id.0)?;
        map.serialize_entry("held_ms", &millis(self.0.held_for))?;
        map.end()
    }
}

fn wish_name(wish: Wish) -> &'static str {
    match wish {
        Wish::Work => "work",
        Wish::Quiet => "quiet",
        Wish::Stop => "stop",
    }
}
