//! What [`super::Worker::run`] returns: how many jobs ended in which way, or why the worker ended by itself.

use std::fmt;
use std::io;

use crate::client::BadAddress;
use crate::error::Refusal;

/// How many jobs ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Done.
    pub done: u64,
    /// Failed; they will be tried again.
    pub failed: u64,
    /// Failed for good.
    pub dead: u64,
    /// Returned; no attempt was charged.
    pub returned: u64,
    /// Cancelled by somebody while they ran here.
    pub cancelled: u64,
    /// The lease was lost, or the report got no reply: another worker has the job, or will get it.
    pub lost: u64,
    /// How many jobs had not ended as done or cancelled when this worker last had them. A job that failed first
    /// and was done later is not among them. After [`super::Worker::drain`], nor is one that is gone by then because another
    /// worker has done it. Counted with [`super::Worker::drain`] and [`super::Worker::stop_after`] only; otherwise 0.
    pub unfinished: u64,
    /// Whether a worker that drains its queues may have left jobs there: its [time](super::Worker::drain_timeout)
    /// was up, or a queue is paused and has jobs.
    pub jobs_left: bool,
    /// Whether the worker was told to stop, by [`super::Control::stop`] or [`super::Control::stop_at_once`] or by the server.
    pub told_to_stop: bool,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            done,
            failed,
            dead,
            returned,
            cancelled,
            lost,
            unfinished: _,
            jobs_left: _,
            told_to_stop: _,
        } = self;
        write!(f, "{done} done, {failed} failed, {dead} dead, {returned} returned, ")?;
        match cancelled {
            0 => write!(f, "{lost} lost"),
            _ => write!(f, "{cancelled} cancelled, {lost} lost"),
        }
    }
}

/// Why a worker ended by itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerError {
    /// A handler said [`super::Outcome::Unfit`]: this worker can't do such jobs.
    Unfit {
        /// The handler's reason.
        reason: String,
        /// The exit code for the program, from the handler.
        exit_code: u8,
    },
    /// The server's address is not one.
    Address {
        /// What was given.
        server: String,
        /// Why it is not an address.
        source: BadAddress,
    },
    /// The server refuses this worker's GET, and would refuse it again.
    Refused(Refusal),
    /// The server is of a version that can't say when its queues are drained: see [`super::Worker::drain`].
    NoDrain(Refusal),
    /// A thread could not be started.
    Thread(io::Error),
    /// One of the worker's threads ended early: a fault in this library.
    Internal,
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::Unfit { reason, .. } => f.write_str(reason),
            WorkerError::Address { server, source } => write!(f, "{server:?}: {source}"),
            WorkerError::Refused(refusal) => write!(f, "the server refused GET: {refusal}"),
            WorkerError::NoDrain(refusal) => write!(
                f,
                "the server is too old for --drain, it does not know GET drain=yes: upgrade it, or use --drain=ready, \
                 which does not wait for delayed jobs (it said: {refusal})"
            ),
            WorkerError::Thread(source) => write!(f, "cannot start a thread: {source}"),
            WorkerError::Internal => f.write_str("a thread of the worker ended early"),
        }
    }
}

impl std::error::Error for WorkerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WorkerError::Refused(refusal) | WorkerError::NoDrain(refusal) => Some(refusal),
            WorkerError::Address { source, .. } => Some(source),
            WorkerError::Thread(source) => Some(source),
            WorkerError::Unfit { .. } | WorkerError::Internal => None,
        }
    }
}
