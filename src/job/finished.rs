//! How a job ended, and groups of jobs.

use std::sync::Arc;
use std::time::Duration;

use super::names::{BatchName, QueueName};

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finished {
    /// It is done.
    Done {
        /// The attempt that succeeded: 1 for the first.
        attempt: u32,
        /// How long this attempt took, to the millisecond.
        ran: Duration,
        /// What its worker returned; `None` if there was no room for it.
        result: Option<Arc<[u8]>>,
    },
    /// It is dead.
    Dead {
        /// How many of its attempts failed or crashed.
        failures: u32,
        /// Why the last one failed.
        reason: Option<Arc<str>>,
    },
    /// It was cancelled.
    Cancelled {
        /// Why.
        reason: Option<Arc<str>>,
    },
    /// It is not there any more: it is done and was not kept, or was deleted.
    Gone,
}

/// What was done with the result of an acknowledged job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// It was given to those who wait for it, and is kept if the job is.
    Whole,
    /// There was no room to keep it; the job is done without it.
    ResultDropped,
}

/// The jobs of one queue, or of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Group {
    /// Those of a queue.
    Queue(QueueName),
    /// Those of a batch.
    Batch(BatchName),
}

impl From<QueueName> for Group {
    fn from(queue: QueueName) -> Group {
        Group::Queue(queue)
    }
}

impl From<&QueueName> for Group {
    fn from(queue: &QueueName) -> Group {
        Group::Queue(queue.clone())
    }
}

impl From<BatchName> for Group {
    fn from(batch: BatchName) -> Group {
        Group::Batch(batch)
    }
}
