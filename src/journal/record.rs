//! Records: one change each, as bytes.
//!
//! A record is a tag byte and its fields. Integers are in LEB128 (seven bits a byte, the lowest first, in as
//! few bytes as possible). Texts and bodies follow their length. A record has no length of its own: records
//! lie end to end in a batch, and its checksum is checked before the first of them is read.
//!
//! | record | tag | fields |
//! |---|---|---|
//! | a whole job | 1 | id, queue, ttr, attempts, backoff, key (empty: none), time of submission, status, body |
//! | its status | 2 | id, status |
//! | its end | 3 | id |
//! | a queue's pause | 4 | queue; 0 running, 1 paused, or 2 and until when |
//! | ids used | 5 | the highest |
//! | segments dropped | 6 | the highest |
//!
//! A status is: priority; 0 ready, 1 and until when: delayed, 2 dead, or 3 and its number among the dead;
//! failures, crashes, returns; the length of the reason and one more (0: none), and the reason. A queue is
//! one byte of length and its name. Durations are in milliseconds, moments in milliseconds since 1970, the
//! time of submission in four bytes of seconds since 1970, the lowest first. Dead jobs had 2 before turns
//! were recorded: replay puts them in line in the order of their records.
//!
//! Each change has exactly one form, and the decoder accepts no other: encoding what it has accepted gives
//! the same bytes. `version_1_bytes_are_pinned` keeps the format unchanged.

use std::sync::Arc;
use std::time::Duration;

use crate::change::{Change, JobSpec, JobStatus, PauseState, Place, millis};
use crate::job::{Counts, JobId, Key, Priority, QueueName};

const TAG_JOB: u8 = 1;
const TAG_STATUS: u8 = 2;
const TAG_GONE: u8 = 3;
const TAG_PAUSE: u8 = 4;
const TAG_IDS_USED: u8 = 5;
const TAG_DROPPED: u8 = 6;

const PLACE_READY: u8 = 0;
const PLACE_DELAYED: u8 = 1;
const PLACE_DEAD: u8 = 2;
const PLACE_DEAD_NUMBERED: u8 = 3;

const PAUSE_RUNNING: u8 = 0;
const PAUSE_PAUSED: u8 = 1;
const PAUSE_UNTIL: u8 = 2;

/// What a record can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A change to a job or a queue.
    Change(Change),
    /// Segments up to and including this one are not needed. It is durable before the first of them is
    /// removed, so a segment that is missing without it is known to be lost.
    Dropped(u64),
}

/// What is wrong with a record that has the right checksum but breaks the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRecord(pub(super) &'static str);

/// Appends `change` to `out`.
pub(super) fn encode(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Job(spec, status) => put_job(spec, status, out),
        Change::Status(id, status) => {
            out.push(TAG_STATUS);
            put_int(id.0, out);
            put_status(status, out);
        }
        Change::Gone(id) => {
            out.push(TAG_GONE);
            put_int(id.0, out);
        }
        Change::Pause(queue, state) => {
            out.push(TAG_PAUSE);
            put_queue(queue, out);
            put_pause(*state, out);
        }
        Change::IdsUsed(id) => {
            out.push(TAG_IDS_USED);
            put_int(id.0, out);
        }
    }
}

/// Appends the record that says that segments up to `segment` are not needed.
pub(super) fn encode_dropped(segment: u64, out: &mut Vec<u8>) {
    out.push(TAG_DROPPED);
    put_int(segment, out);
}

/// Reads the records that lie end to end in `payload`, in order.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Begins at the front of `payload`.
    pub(super) fn new(payload: &'a [u8]) -> Records<'a> {
        Records { rest: payload }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = take_record(&mut self.rest);
        if record.is_err() {
            // The beginning of the next record is unknown.
            self.rest = &[];
        }
        Some(record)
    }
}

fn take_record(rest: &mut &[u8]) -> Result<Record, BadRecord> {
    let change = match take_byte(rest)? {
        TAG_JOB => take_job(rest)?,
        TAG_STATUS => Change::Status(take_id(rest)?, take_status(rest)?),
        TAG_GONE => Change::Gone(take_id(rest)?),
        TAG_PAUSE => Change::Pause(take_queue(rest)?, take_pause(rest)?),
        TAG_IDS_USED => Change::IdsUsed(take_id(rest)?),
        TAG_DROPPED => return Ok(Record::Dropped(take_int(rest)?)),
        _ => return Err(BadRecord("unknown kind of record")),
    };
    Ok(Record::Change(change))
}

fn put_job(spec: &JobSpec, status: &JobStatus, out: &mut Vec<u8>) {
    out.push(TAG_JOB);
    put_int(spec.id.0, out);
    put_queue(&spec.queue, out);
    put_int(millis(spec.ttr), out);
    put_int(u64::from(spec.attempts), out);
    put_int(millis(spec.backoff), out);
    let key = spec.key.as_ref().map_or("", Key::as_str);
    put_bytes(key.as_bytes(), out);
    out.extend_from_slice(&spec.created_s.to_le_bytes());
    put_status(status, out);
    put_bytes(&spec.body, out);
}

fn take_job(rest: &mut &[u8]) -> Result<Change, BadRecord> {
    let id = take_id(rest)?;
    let queue = take_queue(rest)?;
    let ttr = Duration::from_millis(take_int(rest)?);
    let attempts = take_u32(rest)?;
    let backoff = Duration::from_millis(take_int(rest)?);
    let key = match take_text(rest)? {
        "" => None,
        text => Some(Key::new(text).map_err(|_| BadRecord("not a key"))?),
    };
    let created_s = take(rest, 4)?;
    let created_s = u32::from_le_bytes([created_s[0], created_s[1], created_s[2], created_s[3]]);
    let status = take_status(rest)?;
    let body = Arc::from(take_bytes(rest)?);
    Ok(Change::Job(JobSpec { id, queue, ttr, attempts, backoff, key, created_s, body }, status))
}

fn put_status(status: &JobStatus, out: &mut Vec<u8>) {
    put_int(u64::from(status.priority.0), out);
    match status.place {
        Place::Ready => out.push(PLACE_READY),
        Place::Delayed { until_wall_ms } => {
            out.push(PLACE_DELAYED);
            put_int(until_wall_ms, out);
        }
        Place::Dead { dead_seq: 0 } => out.push(PLACE_DEAD),
        Place::Dead { dead_seq } => {
            out.push(PLACE_DEAD_NUMBERED);
            put_int(dead_seq, out);
        }
    }
    put_int(u64::from(status.counts.failures), out);
    put_int(u64::from(status.counts.crashes), out);
    put_int(u64::from(status.counts.returns), out);
    // One more than its length, so that no reason differs from an empty one.
    match &status.reason {
        None => out.push(0),
        Some(reason) => {
            put_int(reason.len() as u64 + 1, out);
            out.extend_from_slice(reason.as_bytes());
        }
    }
}

fn take_status(rest: &mut &[u8]) -> Result<JobStatus, BadRecord> {
    let priority = Priority(take_u32(rest)?);
    let place = match take_byte(rest)? {
        PLACE_READY => Place::Ready,
        PLACE_DELAYED => Place::Delayed { until_wall_ms: take_int(rest)? },
        PLACE_DEAD => Place::Dead { dead_seq: 0 },
        PLACE_DEAD_NUMBERED => match take_int(rest)? {
            0 => return Err(BadRecord("a dead job's number of 0")),
            dead_seq => Place::Dead { dead_seq },
        },
        _ => return Err(BadRecord("not a place")),
    };
    let (failures, crashes, returns) = (take_u32(rest)?, take_u32(rest)?, take_u32(rest)?);
    let reason = match take_int(rest)? {
        0 => None,
        n => Some(Arc::from(text(take_long(rest, n - 1)?)?)),
    };
    Ok(JobStatus { priority, place, counts: Counts { failures, crashes, returns }, reason })
}

fn put_pause(state: PauseState, out: &mut Vec<u8>) {
    match state {
        PauseState::Running => out.push(PAUSE_RUNNING),
        PauseState::Paused => out.push(PAUSE_PAUSED),
        PauseState::PausedUntil { wall_ms } => {
            out.push(PAUSE_UNTIL);
            put_int(wall_ms, out);
        }
    }
}

fn take_pause(rest: &mut &[u8]) -> Result<PauseState, BadRecord> {
    match take_byte(rest)? {
        PAUSE_RUNNING => Ok(PauseState::Running),
        PAUSE_PAUSED => Ok(PauseState::Paused),
        PAUSE_UNTIL => Ok(PauseState::PausedUntil { wall_ms: take_int(rest)? }),
        _ => Err(BadRecord("not a state of a queue")),
    }
}

fn put_queue(queue: &QueueName, out: &mut Vec<u8>) {
    // A name has at most 200 bytes.
    out.push(queue.as_str().len() as u8);
    out.extend_from_slice(queue.as_str().as_bytes());
}

fn take_queue(rest: &mut &[u8]) -> Result<QueueName, BadRecord> {
    let length = take_byte(rest)?;
    QueueName::from_bytes(take(rest, usize::from(length))?).map_err(|_| BadRecord("not a queue's name"))
}

fn take_id(rest: &mut &[u8]) -> Result<JobId, BadRecord> {
    take_int(rest).map(JobId)
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_int(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadRecord> {
    let length = take_int(rest)?;
    take_long(rest, length)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, BadRecord> {
    text(take_bytes(rest)?)
}

fn text(bytes: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(bytes).map_err(|_| BadRecord("not UTF-8"))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], BadRecord> {
    let (taken, left) = rest.split_at_checked(length).ok_or(BadRecord("a field reaches past the batch"))?;
    *rest = left;
    Ok(taken)
}

fn take_long<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], BadRecord> {
    take(rest, usize::try_from(length).unwrap_or(usize::MAX))
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, BadRecord> {
    take(rest, 1).map(|bytes| bytes[0])
}

fn put_int(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_int(rest: &mut &[u8]) -> Result<u64, BadRecord> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
            return Err(BadRecord("not an integer"));
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BadRecord("not an integer"))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, BadRecord> {
    u32::try_from(take_int(rest)?).map_err(|_| BadRecord("an integer is too large"))
}

#[cfg(test)]
mod tests;
