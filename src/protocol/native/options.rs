//! The values of options, read from text. Each reader names the option in its error, and says what it takes.

use std::time::Duration;

use super::duration::{BadDuration, duration};
use super::text::{number, quoted};
use crate::error::{Code, Refusal};
use crate::job::{BatchName, JobId, JobState, Key, QueueName, Secret, WorkerName};
use crate::protocol::LIST_LIMIT_MAX;

pub(super) fn queue_name(_: &'static str, value: &[u8]) -> Result<QueueName, Refusal> {
    QueueName::from_bytes(value)
        .map_err(|rule| Refusal::new(Code::BadName, format!("{}: {rule}", quoted(value))))
}

pub(super) fn batch_name(_: &'static str, value: &[u8]) -> Result<BatchName, Refusal> {
    BatchName::from_bytes(value)
        .map_err(|rule| Refusal::new(Code::BadName, format!("batch {}: {rule}", quoted(value))))
}

pub(super) fn worker_name(_: &'static str, value: &[u8]) -> Result<WorkerName, Refusal> {
    WorkerName::from_bytes(value)
        .map_err(|rule| Refusal::new(Code::BadName, format!("worker {}: {rule}", quoted(value))))
}

/// The error does not show what was given.
pub(super) fn secret(name: &'static str, value: &[u8]) -> Result<Secret, Refusal> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.len() == 32);
    let number = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = number.and_then(|text| u128::from_str_radix(text, 16).ok());
    number
        .map(Secret)
        .ok_or_else(|| Refusal::usage(format!("{name} is 32 hexadecimal digits: 128 random bits")))
}

/// What a worker says of itself: printable ASCII, so that it can be shown anywhere.
pub(super) fn label(name: &'static str, value: &[u8]) -> Result<Box<str>, Refusal> {
    let text =
        std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && text.len() <= LABEL_BYTES_MAX);
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic())).map(Into::into).ok_or_else(|| {
        Refusal::usage(format!(
            "{name} is 1 to {LABEL_BYTES_MAX} printable characters of ASCII, not {}",
            quoted(value)
        ))
    })
}

/// The most bytes of what a worker says of itself.
const LABEL_BYTES_MAX: usize = 200;

/// The ids in a body, with commas between them. An empty body has none.
pub(super) fn job_ids(body: &[u8]) -> Result<Vec<JobId>, Refusal> {
    let words = body.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let words = words.filter(|_| !body.trim_ascii().is_empty());
    words.map(|word| number(word).map(JobId).ok_or_else(|| not_an_id(word))).collect()
}

pub(super) fn percent(name: &'static str, value: &[u8]) -> Result<u8, Refusal> {
    within(name, value, 0, 100).map(|number| number as u8)
}

pub(super) fn batch_total(name: &'static str, value: &[u8]) -> Result<u64, Refusal> {
    within(name, value, 1, u64::MAX)
}

pub(super) fn queue_names(name: &'static str, value: &[u8]) -> Result<Vec<QueueName>, Refusal> {
    value.split(|byte| *byte == b',').map(|one| queue_name(name, one)).collect()
}

pub(super) fn number_u32(name: &'static str, value: &[u8]) -> Result<u32, Refusal> {
    within(name, value, 0, u64::from(u32::MAX)).map(|number| number as u32)
}

pub(super) fn list_limit(name: &'static str, value: &[u8]) -> Result<u32, Refusal> {
    within(name, value, 1, u64::from(LIST_LIMIT_MAX)).map(|number| number as u32)
}

pub(super) fn retry_limit(name: &'static str, value: &[u8]) -> Result<u64, Refusal> {
    within(name, value, 1, u64::MAX)
}

fn within(name: &'static str, value: &[u8], min: u64, max: u64) -> Result<u64, Refusal> {
    number(value).filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        Refusal::usage(format!("{name} is a whole number from {min} to {max}, not {}", quoted(value)))
    })
}

pub(super) fn job_id(_: &'static str, value: &[u8]) -> Result<JobId, Refusal> {
    number(value).map(JobId).ok_or_else(|| not_an_id(value))
}

#[cold]
pub(super) fn not_an_id(word: &[u8]) -> Refusal {
    Refusal::usage(format!("{} is no job's id; an id is a whole number up to {}", quoted(word), u64::MAX))
}

pub(super) fn any_duration(name: &'static str, value: &[u8]) -> Result<Duration, Refusal> {
    duration(value).map_err(|BadDuration| Refusal::usage(format!("{name}={}: {BadDuration}", quoted(value))))
}

pub(super) fn lease_duration(name: &'static str, value: &[u8]) -> Result<Duration, Refusal> {
    match any_duration(name, value)? {
        Duration::ZERO => {
            Err(Refusal::usage(format!("{name} is at least 1ms: a lease of no time can't be worked on")))
        }
        ttr => Ok(ttr),
    }
}

pub(super) fn unique_key(name: &'static str, value: &[u8]) -> Result<Key, Refusal> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| Key::new(text).ok())
        .ok_or_else(|| Refusal::usage(format!("{name}={}: {}", quoted(value), crate::job::BadKey)))
}

pub(super) fn job_state(name: &'static str, value: &[u8]) -> Result<JobState, Refusal> {
    let state = std::str::from_utf8(value).ok().and_then(JobState::from_name);
    state.ok_or_else(|| {
        Refusal::usage(format!(
            "{name} is ready, delayed, leased, dead, done or cancelled, not {}",
            quoted(value)
        ))
    })
}

/// The form of a reply that is JSON.
pub(super) fn json(name: &'static str, value: &[u8]) -> Result<(), Refusal> {
    match value {
        b"json" => Ok(()),
        _ => Err(Refusal::usage(format!("{name} is json or not given, not {}", quoted(value)))),
    }
}

pub(super) fn yes(name: &'static str, value: &[u8]) -> Result<(), Refusal> {
    match value {
        b"yes" => Ok(()),
        _ => Err(Refusal::usage(format!("{name} is yes or not given, not {}", quoted(value)))),
    }
}
