//! A job as JSON: the objects of LIST. The names of their members and the order are the protocol's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_core::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::base64;
use crate::job::{
    Attempt, AttemptEnd, BatchName, Counts, Job, JobId, JobState, Key, Priority, Progress, QueueName,
    WorkerName,
};

/// Writes a job as one object.
pub(super) fn write(job: &Job, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &Listed(job)).expect("numbers and strings are always JSON");
}

struct Listed<'a>(&'a Job);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        members(&mut map, self.0)?;
        map.end()
    }
}

/// Writes the members of a job's object.
pub(crate) fn members<M: SerializeMap>(map: &mut M, job: &Job) -> Result<(), M::Error> {
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
    if !job.keep.is_zero() {
        map.serialize_entry("keep_ms", &millis(job.keep))?;
    }
    if let Some(batch) = job.batch.as_ref().map(BatchName::as_str) {
        map.serialize_entry("batch", batch)?;
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
    if !job.history.is_empty() {
        map.serialize_entry("history", &job.history.iter().map(Shown).collect::<Vec<_>>())?;
    }
    if let Some(Progress { percent, note, at }) = &job.progress {
        if let Some(percent) = percent {
            map.serialize_entry("progress", percent)?;
        }
        if let Some(note) = note {
            map.serialize_entry("progress_note", &**note)?;
        }
        map.serialize_entry("progress_at", &seconds_since_1970(*at))?;
    }
    match (job.state, &job.result) {
        (JobState::Done, Some(result)) => text_member(map, "result", "result_base64", result),
        (JobState::Done, None) => map.serialize_entry("result_dropped", &true),
        _ => body_member(map, &job.body),
    }
}

struct Shown<'a>(&'a Attempt);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Attempt { number, worker, started_ms, ended_ms, end, reason } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("number", number)?;
        if let Some(worker) = worker.as_ref().map(WorkerName::as_str) {
            map.serialize_entry("worker", worker)?;
        }
        map.serialize_entry("started_ms", started_ms)?;
        map.serialize_entry("ended_ms", ended_ms)?;
        map.serialize_entry("end", end.as_str())?;
        if let Some(reason) = reason.as_deref() {
            map.serialize_entry("reason", reason)?;
        }
        map.end()
    }
}

fn read_attempt(object: &Value) -> Option<Attempt> {
    let number = |name| object.get(name).and_then(Value::as_u64);
    let text = |name| object.get(name).and_then(Value::as_str);
    let end = text("end")?;
    Some(Attempt {
        number: number("number")?.try_into().ok()?,
        worker: text("worker").map(WorkerName::new).transpose().ok()?,
        started_ms: number("started_ms")?,
        ended_ms: number("ended_ms")?,
        end: AttemptEnd::ALL.into_iter().find(|known| known.as_str() == end)?,
        reason: text("reason").map(Into::into),
    })
}

/// Reads a job's object; `None` if it is none. Unknown members are ignored: they are how the protocol grows.
pub(crate) fn read(json: &[u8]) -> Option<Job> {
    let object: Value = serde_json::from_slice(json).ok()?;
    let text = |name| object.get(name).and_then(Value::as_str);
    let number = |name| object.get(name).and_then(Value::as_u64);
    let number_u32 = |name| number(name).and_then(|number| u32::try_from(number).ok());
    let time = |name| number(name).map(Duration::from_millis);
    let bytes = |plain, encoded| match (text(plain), text(encoded)) {
        (Some(text), None) => Some(Arc::from(text.as_bytes())),
        (None, Some(base64)) => Some(base64::decode(base64)?.into()),
        _ => None,
    };
    let state = JobState::from_name(text("state")?)?;
    let dropped = object.get("result_dropped").is_some();
    let (body, result) = match state {
        JobState::Done if dropped => (Arc::default(), None),
        JobState::Done => (Arc::default(), Some(bytes("result", "result_base64")?)),
        _ => (bytes("body", "body_base64")?, None),
    };
    Some(Job {
        id: JobId(number("id")?),
        queue: QueueName::new(text("queue")?).ok()?,
        state,
        priority: Priority(number_u32("priority")?),
        ttr: time("ttr_ms")?,
        attempts: number_u32("attempts")?,
        backoff: time("backoff_ms")?,
        key: text("key").map(Key::new).transpose().ok()?,
        keep: time("keep_ms").unwrap_or_default(),
        batch: text("batch").map(BatchName::new).transpose().ok()?,
        created: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(number("created")?))?,
        remaining: time("remaining_ms"),
        counts: Counts {
            failures: number_u32("failures")?,
            crashes: number_u32("crashes")?,
            returns: number_u32("returns")?,
        },
        reason: text("reason").map(Into::into),
        history: match object.get("history").and_then(Value::as_array) {
            Some(attempts) => attempts.iter().map(read_attempt).collect::<Option<_>>()?,
            None => Vec::new(),
        },
        progress: match number("progress_at") {
            Some(at) => Some(Progress::new(
                number("progress").and_then(|percent| percent.try_into().ok()),
                text("progress_note").map(Into::into),
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))?,
            )),
            None => None,
        },
        body,
        result,
    })
}

/// The body as text, or in base64 if it is not UTF-8.
pub(crate) fn body_member<M: SerializeMap>(map: &mut M, body: &Arc<[u8]>) -> Result<(), M::Error> {
    text_member(map, "body", "body_base64", body)
}

/// Bytes as text, or in base64 under another name if they are not UTF-8.
pub(crate) fn text_member<M: SerializeMap>(
    map: &mut M,
    plain: &str,
    encoded: &str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(plain, text),
        Err(_) => map.serialize_entry(encoded, &base64::encode(bytes)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_is_read_as_it_was_written() {
        let full = Job {
            id: JobId(u64::MAX),
            queue: QueueName::new("mail").unwrap(),
            state: JobState::Delayed,
            priority: Priority(u32::MAX),
            ttr: Duration::from_millis(1),
            attempts: 3,
            backoff: Duration::from_millis(1500),
            key: Some(Key::new("order:\"9\"").unwrap()),
            keep: Duration::from_secs(3600),
            batch: Some(BatchName::new("night").unwrap()),
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            remaining: Some(Duration::from_secs(5)),
            counts: Counts { failures: 1, crashes: 2, returns: 3 },
            reason: Some("line\nend".into()),
            body: Arc::from(&b"\"text\"\n"[..]),
            history: vec![
                Attempt {
                    number: 1,
                    worker: Some(WorkerName::new("w1").unwrap()),
                    started_ms: 5,
                    ended_ms: 6,
                    end: AttemptEnd::Failed,
                    reason: Some("no\nroom".into()),
                },
                Attempt {
                    number: 2,
                    worker: None,
                    started_ms: 7,
                    ended_ms: 8,
                    end: AttemptEnd::Lost,
                    reason: None,
                },
            ],
            progress: Some(Progress::new(
                Some(50),
                Some("half".into()),
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001),
            )),
            result: None,
        };
        let done = Job {
            state: JobState::Done,
            body: Arc::default(),
            result: Some(Arc::from(&b"\xff"[..])),
            ..full.clone()
        };
        let dropped = Job { result: None, ..done.clone() };
        let bare = Job {
            key: None,
            remaining: None,
            reason: None,
            progress: None,
            body: Arc::from(&b"\xff\0"[..]),
            ..full.clone()
        };
        for job in [full, bare, done, dropped] {
            let mut json = Vec::new();
            write(&job, &mut json);
            assert_eq!(read(&json), Some(job));
        }
    }

    #[test]
    fn object_that_lacks_a_member_is_no_job() {
        let json = concat!(
            r#"{"id":1,"queue":"q","state":"ready","priority":1,"ttr_ms":1,"attempts":1,"backoff_ms":1,"#,
            r#""created":1,"failures":0,"crashes":0,"returns":0,"body":"b","new":[]}"#,
        )
        .as_bytes();
        assert!(read(json).is_some());
        assert_eq!(read(br#"{"id":1}"#), None);
        assert_eq!(read(&json[..json.len() - 1]), None);
    }
}
