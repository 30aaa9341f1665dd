//! Why a job is where it is, for people and programs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::JobState;
use super::names::WorkerName;

/// What a worker has said of a job that it works on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done, from 0 to 100.
    pub percent: Option<u8>,
    /// What it does, for people.
    pub note: Option<Arc<str>>,
    /// When it said so, to the second.
    pub at: SystemTime,
}

impl Progress {
    /// What was said at this time.
    pub fn new(percent: Option<u8>, note: Option<Arc<str>>, at: SystemTime) -> Progress {
        Progress { percent, note, at }
    }
}

/// Why a job is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// It is ready, and waits for its turn.
    Ready {
        /// How many jobs are leased before it, counted up to [`AHEAD_MAX`].
        ahead: u64,
        /// How many connections last asked for jobs of its queue. Busy ones are among them.
        workers: u64,
        /// How many jobs of its queue were leased of late and in which time, if that is known.
        rate: Option<Rate>,
        /// Whether its queue is paused.
        pause: Option<Pause>,
    },
    /// It waits for a time.
    Delayed {
        /// How much longer.
        remaining: Duration,
        /// How many of its attempts have failed or crashed: if there are any, it backs off.
        failures: u32,
        /// Why the last one failed.
        reason: Option<Arc<str>>,
    },
    /// A worker has it.
    Leased {
        /// Which, if it has introduced itself.
        worker: Option<WorkerName>,
        /// For how long.
        held_for: Duration,
        /// When its lease lapses, from now.
        remaining: Duration,
        /// What the worker has said.
        progress: Option<Progress>,
    },
    /// It is dead.
    Dead {
        /// How many of its attempts failed or crashed.
        failures: u32,
        /// Why the last one failed.
        reason: Option<Arc<str>>,
    },
    /// It is done, and kept.
    Done {
        /// How much longer.
        remaining: Duration,
    },
    /// It was cancelled.
    Cancelled {
        /// Why.
        reason: Option<Arc<str>>,
    },
    /// It is not there any more: it was done and not kept, or was deleted.
    Gone,
}

/// How many jobs were leased in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub leased: u64,
    /// In this time, which is not zero.
    pub time: Duration,
}

impl Rate {
    /// How many in a second.
    pub fn per_second(self) -> f64 {
        self.leased as f64 / self.time.as_secs_f64()
    }
}

/// How much longer a queue is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Until it is resumed.
    UntilResumed,
    /// For this time.
    For(Duration),
}

/// How many jobs before a job are counted at most.
pub const AHEAD_MAX: u64 = 10_000;

impl Why {
    /// The job's state, if it is there.
    pub fn state(&self) -> Option<JobState> {
        Some(match self {
            Why::Ready { .. } => JobState::Ready,
            Why::Delayed { .. } => JobState::Delayed,
            Why::Leased { .. } => JobState::Leased,
            Why::Dead { .. } => JobState::Dead,
            Why::Done { .. } => JobState::Done,
            Why::Cancelled { .. } => JobState::Cancelled,
            Why::Gone => return None,
        })
    }
}
