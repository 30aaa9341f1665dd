//! A job as JSON: the objects of LIST. The names of their members and the order are the protocol's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_core::ser::{Serialize, SerializeMap, Serializer};

use super::base64;
use crate::job::{Job, Key};

/// Writes a job as one object.
pub(super) fn write(job: &Job, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &Listed(job)).expect("numbers and strings are always JSON");
}

struct Listed<'a>(&'a Job);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let job = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &job.id.0)?;
        map.serialize_entry("queue", job.queue.as_str())?;
        map.serialize_entry("state", job.state.as_str())?;
        map.serialize_entry("priority", &job.priority.0)?;
        map.serialize_entry("ttr_ms", &millis(job.ttr))?;
        map.serialize_entry("attempts", &job.attempts)?;
        map.serialize_entry("backoff_ms", &millis(job.backoff))?;
        if let Some(key) = job.key.as_ref().map(Key::as_str) {
            map.serialize_entry("key", key)?;
        }
        map.serialize_entry("created", &seconds_since_1970(job.created))?;
        if let Some(remaining) = job.remaining {
            map.serialize_entry("remaining_ms", &millis(remaining))?;
        }
        map.serialize_entry("attempt", &job.attempt())?;
        map.serialize_entry("failures", &job.counts.failures)?;
        map.serialize_entry("crashes", &job.counts.crashes)?;
        map.serialize_entry("returns", &job.counts.returns)?;
        if let Some(reason) = job.reason.as_deref() {
            map.serialize_entry("reason", reason)?;
        }
        body_member(&mut map, &job.body)?;
        map.end()
    }
}

/// The body as text, or in base64 if it is not UTF-8.
pub(crate) fn body_member<M: SerializeMap>(map: &mut M, body: &Arc<[u8]>) -> Result<(), M::Error> {
    match std::str::from_utf8(body) {
        Ok(text) => map.serialize_entry("body", text),
        Err(_) => map.serialize_entry("body_base64", &base64::encode(body)),
    }
}

/// A duration as JSON shows it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as JSON and the lines of text show it.
pub(crate) fn seconds_since_1970(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
