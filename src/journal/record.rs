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
//! | a whole job with extras | 7 | as 1, and before the status: keep, batch |
//! | a job that is done, kept | 8 | id, status, result |
//! | the end of a job of a batch | 9 | id, batch counts |
//! | batch counts | 10 | batch counts |
//! | a failed attempt | 11 | id, number, worker, when it began, when it ended, how, reason |
//!
//! Tags from 7 on, and places from 4 on, came with version 2. A job has extras if it is to be kept or is in a
//! batch, and only then.
//!
//! A status is: priority; 0 ready, 1 and until when: delayed, 2 dead, 3 and its number among the dead, 4 and
//! until when, how long it ran, and whether its result was dropped (0 or 1): done, or 5 and until when:
//! cancelled; failures, crashes, returns; the length of the reason and one more (0: none), and the reason. A queue is
//! one byte of length and its name, and so is a batch; without a batch the length is 0. Batch counts are its name,
//! its jobs that are gone: done, cancelled, deleted; and when it last changed. Durations are in milliseconds, moments in milliseconds since 1970, the
//! time of submission in four bytes of seconds since 1970, the lowest first. Dead jobs had 2 before turns
//! were recorded: replay puts them in line in the order of their records.
//!
//! A worker is one byte of length and its name; without one the length is 0. How an attempt ended is 0 failed, 1 lapsed or
//! 2 lost. Its reason is as in a status.
//!
//! Each change has exactly one form, and the decoder accepts no other: encoding what it has accepted gives
//! the same bytes. `bytes_are_pinned` keeps the format unchanged.

use std::sync::Arc;
use std::time::Duration;

use crate::change::{BatchCounts, Change, JobSpec, JobStatus, PauseState, Place, has_extras, millis};
use crate::job::{Attempt, AttemptEnd, BatchName, Counts, JobId, Key, Priority, QueueName, WorkerName};

const TAG_JOB: u8 = 1;
const TAG_STATUS: u8 = 2;
const TAG_GONE: u8 = 3;
const TAG_PAUSE: u8 = 4;
const TAG_IDS_USED: u8 = 5;
const TAG_DROPPED: u8 = 6;
const TAG_JOB_WITH_EXTRAS: u8 = 7;
const TAG_DONE: u8 = 8;
const TAG_GONE_OF: u8 = 9;
const TAG_BATCH: u8 = 10;
const TAG_ATTEMPT: u8 = 11;

const PLACE_READY: u8 = 0;
const PLACE_DELAYED: u8 = 1;
const PLACE_DEAD: u8 = 2;
const PLACE_DEAD_NUMBERED: u8 = 3;
const PLACE_DONE: u8 = 4;
const PLACE_CANCELLED: u8 = 5;

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
        Change::Done(id, status, result) => {
            out.push(TAG_DONE);
            put_int(id.0, out);
            put_status(status, out);
            put_bytes(result, out);
        }
        Change::Gone(id) => {
            out.push(TAG_GONE);
            put_int(id.0, out);
        }
        Change::GoneOf(id, counts) => {
            out.push(TAG_GONE_OF);
            put_int(id.0, out);
            put_batch_counts(counts, out);
        }
        Change::Attempt(id, attempt) => {
            out.push(TAG_ATTEMPT);
            put_int(id.0, out);
            put_attempt(attempt, out);
        }
        Change::Batch(counts) => {
            out.push(TAG_BATCH);
            put_batch_counts(counts, out);
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
        TAG_JOB => take_job(rest, Extras::Absent)?,
        TAG_JOB_WITH_EXTRAS => take_job(rest, Extras::Present)?,
        TAG_DONE => Change::Done(take_id(rest)?, take_status(rest)?, take_bytes(rest)?.into()),
        TAG_GONE_OF => Change::GoneOf(take_id(rest)?, take_batch_counts(rest)?),
        TAG_BATCH => Change::Batch(take_batch_counts(rest)?),
        TAG_ATTEMPT => Change::Attempt(take_id(rest)?, take_attempt(rest)?),
        TAG_STATUS => Change::Status(take_id(rest)?, take_status(rest)?),
        TAG_GONE => Change::Gone(take_id(rest)?),
        TAG_PAUSE => Change::Pause(take_queue(rest)?, take_pause(rest)?),
        TAG_IDS_USED => Change::IdsUsed(take_id(rest)?),
        TAG_DROPPED => return Ok(Record::Dropped(take_int(rest)?)),
        _ => return Err(BadRecord("unknown kind of record")),
    };
    Ok(Record::Change(change))
}

/// Whether a job's record has the fields that few jobs need.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extras {
    Absent,
    Present,
}

fn put_job(spec: &JobSpec, status: &JobStatus, out: &mut Vec<u8>) {
    let extras = has_extras(spec.keep, spec.batch.as_ref());
    out.push(if extras { TAG_JOB_WITH_EXTRAS } else { TAG_JOB });
    put_int(spec.id.0, out);
    put_queue(&spec.queue, out);
    put_int(millis(spec.ttr), out);
    put_int(u64::from(spec.attempts), out);
    put_int(millis(spec.backoff), out);
    let key = spec.key.as_ref().map_or("", Key::as_str);
    put_bytes(key.as_bytes(), out);
    out.extend_from_slice(&spec.created_s.to_le_bytes());
    if extras {
        put_int(millis(spec.keep), out);
        put_name(spec.batch.as_ref().map_or("", BatchName::as_str), out);
    }
    put_status(status, out);
    put_bytes(&spec.body, out);
}

fn take_job(rest: &mut &[u8], extras: Extras) -> Result<Change, BadRecord> {
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
    let (mut keep, mut batch) = (Duration::ZERO, None);
    if extras == Extras::Present {
        keep = Duration::from_millis(take_int(rest)?);
        batch = match take_name(rest)? {
            b"" => None,
            name => Some(batch_name(name)?),
        };
        if !has_extras(keep, batch.as_ref()) {
            return Err(BadRecord("a job with extras that has none"));
        }
    }
    let status = take_status(rest)?;
    let body = Arc::from(take_bytes(rest)?);
    let spec = JobSpec { id, queue, ttr, attempts, backoff, key, created_s, keep, batch, body };
    Ok(Change::Job(spec, status))
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
        Place::Done { until_wall_ms, ran_ms, result_dropped } => {
            out.push(PLACE_DONE);
            put_int(until_wall_ms, out);
            put_int(ran_ms.into(), out);
            out.push(result_dropped.into());
        }
        Place::Cancelled { until_wall_ms } => {
            out.push(PLACE_CANCELLED);
            put_int(until_wall_ms, out);
        }
    }
    put_int(u64::from(status.counts.failures), out);
    put_int(u64::from(status.counts.crashes), out);
    put_int(u64::from(status.counts.returns), out);
    put_reason(status.reason.as_deref(), out);
}

/// One more than its length, so that no reason differs from an empty one.
fn put_reason(reason: Option<&str>, out: &mut Vec<u8>) {
    match reason {
        None => out.push(0),
        Some(reason) => {
            put_int(reason.len() as u64 + 1, out);
            out.extend_from_slice(reason.as_bytes());
        }
    }
}

fn take_reason(rest: &mut &[u8]) -> Result<Option<Arc<str>>, BadRecord> {
    match take_int(rest)? {
        0 => Ok(None),
        n => Ok(Some(Arc::from(text(take_long(rest, n - 1)?)?))),
    }
}

fn put_attempt(attempt: &Attempt, out: &mut Vec<u8>) {
    let Attempt { number, worker, started_ms, ended_ms, end, reason } = attempt;
    put_int(u64::from(*number), out);
    put_name(worker.as_ref().map_or("", WorkerName::as_str), out);
    put_int(*started_ms, out);
    put_int(*ended_ms, out);
    out.push(*end as u8);
    put_reason(reason.as_deref(), out);
}

fn take_attempt(rest: &mut &[u8]) -> Result<Attempt, BadRecord> {
    Ok(Attempt {
        number: take_u32(rest)?,
        worker: match take_name(rest)? {
            b"" => None,
            name => Some(WorkerName::from_bytes(name).map_err(|_| BadRecord("not a worker's name"))?),
        },
        started_ms: take_int(rest)?,
        ended_ms: take_int(rest)?,
        end: match AttemptEnd::ALL.get(usize::from(take_byte(rest)?)) {
            Some(end) => *end,
            None => return Err(BadRecord("not the end of an attempt")),
        },
        reason: take_reason(rest)?,
    })
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
        PLACE_DONE => Place::Done {
            until_wall_ms: take_int(rest)?,
            ran_ms: take_u32(rest)?,
            result_dropped: match take_byte(rest)? {
                0 => false,
                1 => true,
                _ => return Err(BadRecord("neither 0 nor 1")),
            },
        },
        PLACE_CANCELLED => Place::Cancelled { until_wall_ms: take_int(rest)? },
        _ => return Err(BadRecord("not a place")),
    };
    let (failures, crashes, returns) = (take_u32(rest)?, take_u32(rest)?, take_u32(rest)?);
    let reason = take_reason(rest)?;
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

fn put_batch_counts(counts: &BatchCounts, out: &mut Vec<u8>) {
    let BatchCounts { name, done, cancelled, deleted, changed_wall_ms } = counts;
    put_name(name.as_str(), out);
    for number in [done, cancelled, deleted, changed_wall_ms] {
        put_int(*number, out);
    }
}

fn take_batch_counts(rest: &mut &[u8]) -> Result<BatchCounts, BadRecord> {
    Ok(BatchCounts {
        name: batch_name(take_name(rest)?)?,
        done: take_int(rest)?,
        cancelled: take_int(rest)?,
        deleted: take_int(rest)?,
        changed_wall_ms: take_int(rest)?,
    })
}

fn batch_name(name: &[u8]) -> Result<BatchName, BadRecord> {
    BatchName::from_bytes(name).map_err(|_| BadRecord("not a batch's name"))
}

fn put_queue(queue: &QueueName, out: &mut Vec<u8>) {
    put_name(queue.as_str(), out);
}

fn take_queue(rest: &mut &[u8]) -> Result<QueueName, BadRecord> {
    QueueName::from_bytes(take_name(rest)?).map_err(|_| BadRecord("not a queue's name"))
}

fn put_name(name: &str, out: &mut Vec<u8>) {
    // A name has at most 200 bytes.
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

fn take_name<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadRecord> {
    let length = take_byte(rest)?;
    take(rest, usize::from(length))
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
