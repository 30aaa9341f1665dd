//! How a run of a job ended, from its handler.

use std::fmt;
use std::time::Duration;

/// What a handler returns for its job.
///
/// A handler may also return `()`, which is [`Outcome::Done`], or a `Result<T, E>`. There `T` is `()` or the
/// job's result, as a [`JobResult`], and the error is a failure with the error's text as the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done; the job is removed.
    Done,
    /// It is done, with a result for those who wait for the job, and, if its submitter asked for that, kept with
    /// it. The job is done also if the server has no room for the result, or if the result is longer than the
    /// server's limit for bodies.
    DoneWith {
        /// Any bytes.
        result: Vec<u8>,
    },
    /// It failed. It is tried again until its attempts are used up.
    Retry {
        /// The time until the next attempt; `None` for the job's own backoff.
        delay: Option<Duration>,
        /// Why, for people; may be empty. Kept with the job, up to [`crate::job::MAX_REASON_BYTES`].
        reason: String,
    },
    /// It failed, and another attempt would fail too: the job is dead.
    Dead {
        /// Why, for people; may be empty. Kept with the job, up to [`crate::job::MAX_REASON_BYTES`].
        reason: String,
    },
    /// It was not tried, or not finished. The job is returned, and no attempt is charged.
    ///
    /// The queue hands it out again each time, so set a delay unless the next try can succeed at once.
    Return {
        /// The time until it is ready again.
        delay: Duration,
    },
    /// This worker can't run such jobs at all, for instance because a program is missing. The job is
    /// returned, and the worker stops as by [`super::Control::stop`], so that it does not use up the attempts
    /// of every job in the queue. [`super::Worker::run`] then returns [`super::WorkerError::Unfit`].
    Unfit {
        /// Why, for people.
        reason: String,
        /// The exit code for the program.
        exit_code: u8,
    },
}

impl Outcome {
    /// Done, with a result.
    pub fn done_with(result: impl Into<Vec<u8>>) -> Outcome {
        Outcome::DoneWith { result: result.into() }
    }

    /// A failure, to be tried again after the job's backoff.
    pub fn retry(reason: impl fmt::Display) -> Outcome {
        Outcome::Retry { delay: None, reason: reason.to_string() }
    }

    /// A failure for good.
    pub fn dead(reason: impl fmt::Display) -> Outcome {
        Outcome::Dead { reason: reason.to_string() }
    }

    /// Returned, ready again at once.
    pub fn returned() -> Outcome {
        Outcome::Return { delay: Duration::ZERO }
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Outcome {
        Outcome::Done
    }
}

impl<T: Into<JobResult>, E: fmt::Display> From<Result<T, E>> for Outcome {
    fn from(result: Result<T, E>) -> Outcome {
        match result.map(Into::into) {
            Ok(JobResult(None)) => Outcome::Done,
            Ok(JobResult(Some(result))) => Outcome::DoneWith { result },
            Err(error) => Outcome::retry(error),
        }
    }
}

/// A job's result, or none: what a handler may return in an `Ok`.
///
/// It is made from `()`, which is none, and from texts and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobResult(Option<Vec<u8>>);

impl From<()> for JobResult {
    fn from((): ()) -> JobResult {
        JobResult(None)
    }
}

impl From<Vec<u8>> for JobResult {
    fn from(result: Vec<u8>) -> JobResult {
        JobResult(Some(result))
    }
}

impl From<String> for JobResult {
    fn from(result: String) -> JobResult {
        JobResult(Some(result.into()))
    }
}

impl From<&str> for JobResult {
    fn from(result: &str) -> JobResult {
        JobResult(Some(result.into()))
    }
}
