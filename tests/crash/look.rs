//! All that a server shows of its jobs, read while nobody else is connected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use djqs::QueueName;
use djqs::protocol::native::parse_duration;
use serde_json::Value;

use crate::common::{Talk, until};
use crate::rig::now_ms;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The wall clock before the first question and after the last answer, in milliseconds.
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
    pub(crate) jobs: Vec<Listed>,
    /// The paused queues, and for how much longer (`None`: until they are resumed).
    pub(crate) paused: BTreeMap<QueueName, Option<Duration>>,
    pub(crate) stats: BTreeMap<String, String>,
}

/// A job as LIST shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) queue: String,
    pub(crate) state: String,
    pub(crate) priority: u64,
    pub(crate) ttr_ms: u64,
    pub(crate) attempts: u64,
    pub(crate) backoff_ms: u64,
    pub(crate) key: Option<String>,
    pub(crate) remaining_ms: Option<u64>,
    pub(crate) failures: u64,
    pub(crate) crashes: u64,
    pub(crate) returns: u64,
    pub(crate) reason: Option<String>,
    pub(crate) body: Body,
}

/// A body; messages show its beginning.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}… of {} bytes", self.0[..self.0.len().min(12)].escape_ascii(), self.0.len())
    }
}

impl Look {
    /// Asks for everything, when the server has come to what was due.
    pub(crate) fn at(address: SocketAddr) -> Look {
        let mut talk = Talk::to(address);
        let mut look = Look::default();
        until("what is due to be done", || {
            look = Look::now(&mut talk);
            let due = |job: &Listed| job.state == "delayed" && job.remaining_ms == Some(0);
            !look.jobs.iter().any(due) && !look.paused.values().any(|left| *left == Some(Duration::ZERO))
        });
        look
    }

    fn now(talk: &mut Talk) -> Look {
        let mut look = Look { from_ms: now_ms(), ..Look::default() };
        for line in talk.ask_lines("QUEUES") {
            let mut words = line.split(' ');
            let queue = words.next().unwrap();
            let paused = words.find_map(|word| word.strip_prefix("paused=")).unwrap();
            if paused != "no" {
                let time = (paused != "yes").then(|| parse_duration(paused).unwrap());
                look.paused.insert(QueueName::new(queue).unwrap(), time);
            }
            let mut last = 0;
            loop {
                let lines = talk.ask_lines(&format!("LIST queue={queue} limit=1000 after={last}"));
                if lines.is_empty() {
                    break;
                }
                look.jobs.extend(lines.iter().map(|line| Listed::read(line)));
                last = look.jobs.last().map_or(0, |job| job.id);
            }
        }
        look.stats = Look::stats(talk);
        look.to_ms = now_ms();
        look
    }

    /// The lines of STATS.
    pub(crate) fn stats(talk: &mut Talk) -> BTreeMap<String, String> {
        let lines = talk.ask_lines("STATS");
        let pair = |line: &String| line.split_once(": ").map(|(name, value)| (name.into(), value.into()));
        lines.iter().map(|line| pair(line).unwrap()).collect()
    }
}

impl Listed {
    fn read(line: &str) -> Listed {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"));
        let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"));
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        Listed {
            id: number("id"),
            queue: text("queue").unwrap(),
            state: text("state").unwrap(),
            priority: number("priority"),
            ttr_ms: number("ttr_ms"),
            attempts: number("attempts"),
            backoff_ms: number("backoff_ms"),
            key: text("key"),
            remaining_ms: json["remaining_ms"].as_u64(),
            failures: number("failures"),
            crashes: number("crashes"),
            returns: number("returns"),
            reason: text("reason"),
            body: Body(match text("body") {
                Some(text) => text.into_bytes(),
                None => BASE64_STANDARD.decode(text("body_base64").unwrap()).unwrap(),
            }),
        }
    }
}
