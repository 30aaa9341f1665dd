//! How a run of a job ended, as its handler says it.

use std::fmt;
use std::time::Duration;

/// What a handler says of the job that it was given.
///
/// A handler may also return `()`, which is [`Outcome::Done`], or a `Result<(), E>`, whose error is a failure
/// with the error's text as the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The work is done; the job goes away.
    Done,
    /// It failed and is tried again, until the job's attempts are spent.
    Retry {
        /// How long to wait before the next attempt; `None` for the job's own backoff.
        delay: Option<Duration>,
        /// Why, for people; may be empty. Kept with the job, up to [`crate::job::MAX_REASON_BYTES`].
        reason: String,
    },
    /// It failed and no attempt will do better; the job is dead at once.
    Dead {
        /// Why, for people; may be empty. Kept with the job, up to [`crate::job::MAX_REASON_BYTES`].
        reason: String,
    },
    /// It was not tried, or not to its end; the job is handed back and no attempt is charged.
    ///
    /// The queue gives it out again as often as it is handed back, so a delay is wise where nothing will have
    /// changed in a moment.
    Return {
        /// How long until it is ready again.
        delay: Duration,
    },
    /// This worker can't do such work at all, say for want of a program: the job is handed back, and the worker
    /// stops as [`super::Control::stop`] has it, rather than spend the attempts of every job in the queue.
    /// [`super::Worker::run`] then returns [`super::WorkerError::Unfit`].
    Unfit {
        /// Why, for people.
        reason: String,
        /// What the program should exit with.
        exit_code: u8,
    },
}

impl Outcome {
    /// A failure, to be tried again after the job's backoff.
    pub fn retry(reason: impl fmt::Display) -> Outcome {
        Outcome::Retry { delay: None, reason: reason.to_string() }
    }

    /// A failure for good.
    pub fn dead(reason: impl fmt::Display) -> Outcome {
        Outcome::Dead { reason: reason.to_string() }
    }

    /// Handed back, ready again at once.
    pub fn returned() -> Outcome {
        Outcome::Return { delay: Duration::ZERO }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Outcome {
        Outcome::Done
    }
}

impl<E: fmt::Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Outcome {
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::retry(error),
        }
    }
}
