//! What has to outlive the process: each change to a job or a queue, as the journal writes it and recovery
//! reads it.
//!
//! A change carries the whole of what it changes, not a difference: replaying one twice, or one that a later
//! one overrides, does no harm. A lease is not written: after a restart a leased job is ready again.

use std::sync::Arc;
use std::time::Duration;

use crate::job::{Counts, JobId, Key, Priority, QueueName};

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
    /// The work.
    pub body: Arc<[u8]>,
}

/// The part of a job that changes in its life.
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
    /// Ready; a leased job is written as this.
    Ready,
    /// Delayed until this wall-clock time, in milliseconds since 1970.
    Delayed {
        /// When it is ready.
        until_wall_ms: u64,
    },
    /// Dead.
    Dead {
        /// Numbers the dead in the order in which they became so; 0 where that is not known, as in records of old.
        turn: u64,
    },
}

/// Whether a queue hands out jobs, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseState {
    /// It hands out jobs.
    Running,
    /// Paused until it is resumed.
    Paused,
    /// Paused until this wall-clock time, in milliseconds since 1970.
    PausedUntil {
        /// When it hands out jobs again.
        wall_ms: u64,
    },
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A job, whole: accepted, or written anew by compaction.
    Job(JobSpec, JobStatus),
    /// What changed of a job that is there already.
    Status(JobId, JobStatus),
    /// A job is finished or deleted.
    Gone(JobId),
    /// A queue was paused or resumed.
    Pause(QueueName, PauseState),
    /// No id up to and including this one will be given again. Written by compaction, for the case that
    /// the job with the highest id is gone.
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
    /// Its priority now.
    pub priority: Priority,
    /// Why its last attempt failed.
    pub reason: Option<&'a str>,
    /// The length of its body.
    pub body_bytes: usize,
}

impl<'a> JobSize<'a> {
    /// That of a job with that status.
    pub fn of(spec: &'a JobSpec, status: &'a JobStatus) -> JobSize<'a> {
        JobSize {
            id: spec.id,
            queue: &spec.queue,
            ttr: spec.ttr,
            attempts: spec.attempts,
            backoff: spec.backoff,
            key: spec.key.as_ref(),
            priority: status.priority,
            reason: status.reason.as_deref(),
            body_bytes: spec.body.len(),
        }
    }
}

/// How large what has to be kept is in the journal: its records' sizes, which the journal knows, for sums that the queue keeps.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// What a job takes.
    pub job: fn(&JobSize<'_>) -> u64,
    /// What a paused queue takes.
    pub pause: fn(&QueueName) -> u64,
}
