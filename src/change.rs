//! What has to survive the process: changes to jobs and queues, as the journal writes them and recovery reads
//! them.
//!
//! A change has the new value of what it changes, not a difference. Replaying one twice, or one that a later
//! change overrides, does no harm. Leases are not written: after a restart a leased job is ready again.

use std::sync::Arc;
use std::time::Duration;

use crate::job::{Attempt, BatchName, Counts, JobId, Key, Priority, QueueName};

/// The part of a job that never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// How long each lease lasts; whole milliseconds.
    pub ttr: Duration,
    /// Its limit of attempts; 0 for none.
    pub attempts: u32,
    /// Its wait after the first failure; whole milliseconds.
    pub backoff: Duration,
    /// Its unique key.
    pub key: Option<Key>,
    /// When it was submitted, in seconds since 1970.
    pub created_s: u32,
    /// How long it is kept once it is done; whole milliseconds.
    pub keep: Duration,
    /// Its batch.
    pub batch: Option<BatchName>,
    /// The body; of a job that is done, its result.
    pub body: Arc<[u8]>,
}

/// The part of a job that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Its priority now.
    pub priority: Priority,
    /// Where it is.
    pub place: Place,
    /// How its past attempts ended.
    pub counts: Counts,
    /// Why the last one failed.
    pub reason: Option<Arc<str>>,
}

/// Where a job would be after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Ready. A leased job is written as ready.
    Ready,
    /// Delayed until this wall-clock time, in milliseconds since 1970.
    Delayed {
        /// When it is ready.
        until_wall_ms: u64,
    },
    /// Dead.
    Dead {
        /// Numbers the dead jobs in the order in which they died; 0 if that is not known, as in records of
        /// older versions.
        dead_seq: u64,
    },
    /// Done, and kept until this wall-clock time, in milliseconds since 1970.
    Done {
        /// When it is forgotten.
        until_wall_ms: u64,
        /// How long its last attempt took, in milliseconds.
        ran_ms: u32,
        /// Whether there was no room for its result.
        result_dropped: bool,
    },
    /// Cancelled, and kept until this wall-clock time, in milliseconds since 1970.
    Cancelled {
        /// When it is forgotten.
        until_wall_ms: u64,
    },
}

/// The counts of a batch that can't be told from the jobs that are still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchCounts {
    /// Its name.
    pub name: BatchName,
    /// Its jobs that were done and are gone.
    pub done: u64,
    /// Its jobs that were cancelled and are gone.
    pub cancelled: u64,
    /// Its jobs that were deleted.
    pub deleted: u64,
    /// When it last changed, in milliseconds since 1970.
    pub changed_wall_ms: u64,
}

/// Whether a queue is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseState {
    /// It is not paused.
    Running,
    /// Paused until it is resumed.
    Paused,
    /// Paused until this wall-clock time, in milliseconds since 1970.
    PausedUntil {
        /// When the pause ends.
        wall_ms: u64,
    },
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A whole job: it was accepted, or compaction has written it again.
    Job(JobSpec, JobStatus),
    /// The new status of a job.
    Status(JobId, JobStatus),
    /// A job is done, and kept with this status and result.
    Done(JobId, JobStatus, Arc<[u8]>),
    /// A job is gone: done, or deleted.
    Gone(JobId),
    /// A job of a batch is gone. One record, so that a crash can't separate the two.
    GoneOf(JobId, BatchCounts),
    /// The counts of a batch: it begins, or compaction has written it again.
    Batch(BatchCounts),
    /// A queue was paused or resumed.
    Pause(QueueName, PauseState),
    /// A failed attempt of a job, to be remembered. Its number says which.
    Attempt(JobId, Attempt),
    /// No id up to and including this one may be given again. Compaction writes it, since the job with the
    /// highest id may be gone.
    IdsUsed(JobId),
}

/// What the size of a job's record depends on.
#[derive(Clone, Copy, Debug)]
pub struct JobSize<'a> {
    /// Its number.
    pub id: JobId,
    /// Its queue.
    pub queue: &'a QueueName,
    /// How long a lease lasts.
    pub ttr: Duration,
    /// Its limit of attempts.
    pub attempts: u32,
    /// Its wait after the first failure.
    pub backoff: Duration,
    /// Its unique key.
    pub key: Option<&'a Key>,
    /// How long it is kept.
    pub keep: Duration,
    /// Its batch.
    pub batch: Option<&'a BatchName>,
    /// Its priority now.
    pub priority: Priority,
    /// Why its last attempt failed.
    pub reason: Option<&'a str>,
    /// The length of its body.
    pub body_bytes: usize,
}

impl<'a> JobSize<'a> {
    /// The values of a job with this status.
    pub fn of(spec: &'a JobSpec, status: &'a JobStatus) -> JobSize<'a> {
        JobSize {
            id: spec.id,
            queue: &spec.queue,
            ttr: spec.ttr,
            attempts: spec.attempts,
            backoff: spec.backoff,
            key: spec.key.as_ref(),
            keep: spec.keep,
            batch: spec.batch.as_ref(),
            priority: status.priority,
            reason: status.reason.as_deref(),
            body_bytes: spec.body.len(),
        }
    }
}

/// The length of a job's record if it is ready and all its counts are below 128: what a job adds to the bytes
/// that the journal has to keep. The state sums it up, and the journal compares the sum with what it has on
/// disk.
///
/// Counts and places change without a word to the journal. Leaving them out makes this a few bytes less than
/// the record, and a sum that is easily kept.
pub fn job_bytes(job: &JobSize<'_>) -> u64 {
    let (queue, key) = (job.queue.as_str().len(), job.key.map_or(0, |key| key.as_str().len()));
    let variable = int_length(job.id.0)
        + int_length(millis(job.ttr))
        + int_length(u64::from(job.attempts))
        + int_length(millis(job.backoff))
        + int_length(key as u64)
        + int_length(job.body_bytes as u64);
    let extras = if has_extras(job.keep, job.batch) {
        int_length(millis(job.keep)) + 1 + job.batch.map_or(0, |batch| batch.as_str().len())
    } else {
        0
    };
    // The tag, the length of the queue's name, the time of submission, the place, three counts.
    let fixed = 1 + 1 + 4 + 1 + 3;
    (fixed + variable + queue + key + extras + job.body_bytes) as u64 + status_bytes(job.priority, job.reason)
}

/// Whether a job's record has the fields that few jobs need.
pub(crate) fn has_extras(keep: Duration, batch: Option<&BatchName>) -> bool {
    !keep.is_zero() || batch.is_some()
}

/// What a job's end may take in the journal beyond that of a plain job: the record that it is done, if it is
/// kept, and the counts of its batch.
pub fn extra_end_bytes(keep: Duration, batch: Option<&BatchName>) -> u64 {
    let done = if keep.is_zero() { 0 } else { DONE_NUMBERS_BYTES };
    done + batch.map_or(0, batch_bytes)
}

/// What the numbers of a job that is done take in its record.
const DONE_NUMBERS_BYTES: u64 = 32;

/// What a remembered attempt adds to the bytes that the journal has to keep: the length of its record.
pub fn attempt_bytes(id: JobId, attempt: &Attempt) -> u64 {
    let Attempt { number, worker, started_ms, ended_ms, end: _, reason } = attempt;
    let worker = worker.as_ref().map_or(0, |worker| worker.as_str().len());
    let reason = reason.as_ref().map_or(1, |reason| int_length(reason.len() as u64 + 1) + reason.len());
    let numbers: usize = [id.0, u64::from(*number), *started_ms, *ended_ms].into_iter().map(int_length).sum();
    // The tag, the length of the worker's name, how it ended.
    (3 + numbers + worker + reason) as u64
}

/// What a batch adds to the bytes that the journal has to keep.
pub fn batch_bytes(batch: &BatchName) -> u64 {
    batch.as_str().len() as u64 + BATCH_NUMBERS_BYTES
}

/// What the numbers of a batch take in its record, with its tag: three counts below 2²⁸ and a time.
const BATCH_NUMBERS_BYTES: u64 = 20;

/// The part of [`job_bytes`] that a status may change.
pub fn status_bytes(priority: Priority, reason: Option<&str>) -> u64 {
    let reason = reason.map_or(1, |reason| int_length(reason.len() as u64 + 1) + reason.len());
    (int_length(u64::from(priority.0)) + reason) as u64
}

/// What a paused queue adds to the bytes that the journal has to keep.
pub fn pause_bytes(queue: &QueueName) -> u64 {
    queue.as_str().len() as u64 + 3
}

/// A duration as it is written: whole milliseconds, at most 584 million years.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The length of an integer as it is written: seven bits a byte.
pub(crate) fn int_length(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}
