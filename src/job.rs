//! The basic types: a job, its id, queue, priority and key, and what its submitter may ask for.
//!
//! Every type here is valid by construction: a [`QueueName`] obeys the naming rule, a [`Key`] the rule for
//! keys. Text is parsed once, at the edge, by the dialects in [`crate::protocol`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

mod attempt;
mod finished;
mod fleet;
#[cfg(feature = "serde")]
mod json;
mod names;
mod search;
mod submission;
mod why;

pub use attempt::{ATTEMPT_REASON_BYTES_MAX, ATTEMPTS_REMEMBERED, Attempt, AttemptEnd};
pub use finished::{Acked, Finished, Group};
pub use fleet::{Hello, Order, Secret, Wish};
#[cfg(feature = "serde")]
pub use json::BadJson;
pub use names::{
    BadKey, BadQueueName, BatchName, JobId, Key, MAX_KEY_BYTES, MAX_QUEUE_NAME_BYTES, Priority, QueueName,
    WorkerName,
};
pub use search::Search;
pub use submission::{MAX_BACKOFF, MAX_DURATION, Options, Submission};
pub use why::{AHEAD_MAX, Pause, Progress, Rate, Why};

/// The longest failure reason that is kept with a job, in bytes; a longer one is cut.
pub const MAX_REASON_BYTES: usize = 1024;

/// The state of a job.
///
/// ```text
///             TASK delay=…            TASK
///                  |                    |
///                  v      time is up    v        GET             ACK          keep= is over
///              [delayed] ----------> [ready] ----------> [leased] ----> [done] ----> gone
///                  ^                  ^  ^                 |  |
///                  |  FAIL: backoff   |  |  RETURN, lease  |  |
///                  +------------------|--|--lapsed or lost-+  | FAIL, attempts spent
///                                     |  +-----------------+  v
///                                     +----- RETRY ------ [dead]
/// ```
///
/// Without `keep=` a job that is done is gone at once. CANCEL makes a ready, delayed or leased job
/// `cancelled`; RETRY makes it ready again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// A worker may get it at any moment.
    Ready,
    /// Waits: it was submitted or returned with a delay, or backs off after a failure.
    Delayed,
    /// A worker has it, until its lease lapses.
    Leased,
    /// Its attempts are spent, or a worker declared it dead. It is kept until it is retried or deleted.
    Dead,
    /// A worker has acknowledged it. It is kept, with its result, for as long as its submitter asked for.
    Done,
    /// It was cancelled. It is kept for an hour, or longer if its submitter asked for that.
    Cancelled,
}

impl JobState {
    /// All six, in the order in which they are counted and listed.
    pub const ALL: [JobState; 6] = [
        JobState::Ready,
        JobState::Delayed,
        JobState::Leased,
        JobState::Dead,
        JobState::Done,
        JobState::Cancelled,
    ];

    /// Whether the job has ended: it is dead, done or cancelled.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Dead | JobState::Done | JobState::Cancelled)
    }

    /// The state's name on the wire: `ready`, `delayed`, `leased`, `dead`, `done`, `cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Ready => "ready",
            JobState::Delayed => "delayed",
            JobState::Leased => "leased",
            JobState::Dead => "dead",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<JobState> {
        JobState::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a wait for a job does when its queues are drained. A queue is drained if none of its jobs is leased,
/// and none is ready or delayed unless the queue is paused. Jobs that are done, dead or cancelled don't
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDrained {
    /// It continues: another job may be submitted.
    Wait,
    /// It ends.
    End,
}

/// How a job's past attempts ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A worker reported a failure. Counts as an attempt.
    pub failures: u32,
    /// Its lease lapsed, or its worker disconnected. Counts as an attempt.
    pub crashes: u32,
    /// A worker returned it undone. Does not count as an attempt.
    pub returns: u32,
}

impl Counts {
    /// Failures and crashes together: the attempts that are used up.
    pub fn spent(&self) -> u32 {
        self.failures.saturating_add(self.crashes)
    }
}

/// How a job failed: the reason, and what to do with the job.
///
/// ```
/// use std::time::Duration;
/// use djqs::job::Failure;
///
/// let try_again = Failure::new("no disk"); // After the job's own backoff.
/// let try_later = Failure::new("no disk").retry_in(Duration::from_secs(3600));
/// let no_use = Failure::new("no such user").dead();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    reason: String,
    delay: Option<Duration>,
    dead: bool,
}

impl Failure {
    /// A failure for this reason, which may be empty. At most
    /// [`MAX_REASON_BYTES`] of it are kept with the job.
    pub fn new(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), ..Failure::default() }
    }

    /// Has the job tried again after this long, instead of its own backoff.
    pub fn retry_in(mut self, delay: Duration) -> Failure {
        self.delay = Some(delay);
        self
    }

    /// Makes the job dead at once, whatever attempts it has left.
    pub fn dead(mut self) -> Failure {
        self.dead = true;
        self
    }

    /// The parts: the delay, whether the job is dead now, and the reason, if there is one.
    pub(crate) fn into_parts(self) -> (Option<Duration>, bool, Option<Arc<str>>) {
        let Failure { reason, delay, dead } = self;
        (delay, dead, Some(reason).filter(|reason| !reason.is_empty()).map(Into::into))
    }
}

/// A leased job, as its worker receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The job's number.
    pub id: JobId,
    /// The queue it came from.
    pub queue: QueueName,
    /// Which attempt this is: 1 for the first.
    pub attempt: u32,
    /// How long the lease lasts unless it is renewed.
    pub ttr: Duration,
    /// The work.
    pub body: Arc<[u8]>,
}

impl Lease {
    /// A first lease of a job in the queue `default`, for 60 s. Servers give leases; a test of a handler
    /// makes its own and sets the fields that it needs.
    pub fn new(id: JobId, body: impl AsRef<[u8]>) -> Lease {
        let (queue, ttr) = (QueueName::default(), Options::default().ttr);
        Lease { id, queue, attempt: 1, ttr, body: body.as_ref().into() }
    }

    /// The task name and what follows its `: `. Without a task name, nothing and all of the body.
    pub(crate) fn task_and_args(&self) -> (&[u8], &[u8]) {
        match self.body.windows(2).position(|pair| pair == b": ") {
            Some(at) if is_task_name(&self.body[..at]) => (&self.body[..at], &self.body[at + 2..]),
            _ => (b"", &self.body),
        }
    }
}

/// Whether this is a task name, `[A-Za-z0-9_.-]+`: before the first `: ` of a body it names the task.
pub(crate) fn is_task_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}

/// A job and all that is known about it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// The job's number.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Its state.
    pub state: JobState,
    /// Its priority now.
    pub priority: Priority,
    /// How long each lease of it lasts.
    pub ttr: Duration,
    /// Its limit of attempts; 0 for none.
    pub attempts: u32,
    /// Its wait after the first failure.
    pub backoff: Duration,
    /// Its unique key.
    pub key: Option<Key>,
    /// When it was submitted, to the second.
    pub created: SystemTime,
    /// How long it is kept once it is done.
    pub keep: Duration,
    /// The batch that it counts in.
    pub batch: Option<BatchName>,
    /// The rest of its delay, of its lease, or of the time for which it is kept; `None` for ready and dead
    /// jobs.
    pub remaining: Option<Duration>,
    /// How its past attempts ended.
    pub counts: Counts,
    /// Why its last attempt failed, as its worker reported it; of a cancelled job, why it was cancelled.
    pub reason: Option<Arc<str>>,
    /// The work. Empty once the job is done.
    pub body: Arc<[u8]>,
    /// Its last failed attempts, the oldest first; at most [`ATTEMPTS_REMEMBERED`]. LIST and `PEEK form=json` show
    /// them.
    pub history: Vec<Attempt>,
    /// What its worker has said of it while it works on it.
    pub progress: Option<Progress>,
    /// What its worker returned; only of a job that is done. `None` also if there was no room for it.
    pub result: Option<Arc<[u8]>>,
}

impl Job {
    /// A ready job that was submitted in 1970 with default [`Options`]. Servers show jobs; a test makes its
    /// own and sets the fields that it needs.
    pub fn new(id: JobId, body: impl AsRef<[u8]>) -> Job {
        let Submission { queue, options, body } = Submission::new(body);
        Job {
            id,
            queue,
            state: JobState::Ready,
            priority: options.priority,
            ttr: options.ttr,
            attempts: options.attempts,
            backoff: options.backoff,
            key: options.key,
            created: SystemTime::UNIX_EPOCH,
            keep: options.keep,
            batch: options.batch,
            remaining: None,
            counts: Counts::default(),
            reason: None,
            body,
            history: Vec::new(),
            progress: None,
            result: None,
        }
    }

    /// The number of the attempt that is running, or would run next: 1 for the first. Of a dead or done job,
    /// its last attempt.
    pub fn attempt(&self) -> u32 {
        match self.state {
            JobState::Dead => self.counts.spent().max(1),
            _ => self.counts.spent().saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_job_shows_its_last_attempt() {
        let mut job = Job::new(JobId(1), "x");
        job.counts = Counts { failures: 2, crashes: 1, returns: 5 };
        assert_eq!(job.attempt(), 4);
        job.state = JobState::Dead;
        assert_eq!(job.attempt(), 3);
        job.counts = Counts::default();
        assert_eq!(job.attempt(), 1, "buried by beanstalkd's protocol before any failure");
    }
}
