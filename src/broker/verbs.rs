//! The verbs as methods of a [`Session`], for programs that embed the broker. Each executes its [`Command`].

use std::time::Duration;

use super::{Accepted, Failed, Outcome, Session};
#[cfg(doc)]
use super::{LIST_BYTES_MAX, LIST_JOBS_MAX};
#[cfg(doc)]
use crate::error::Code;
use crate::error::Refusal;
use crate::job::{Failure, Job, JobId, JobState, Lease, QueueName, Submission};
use crate::protocol::{Command, OnDrained, Reply, Retry, Wait};
use crate::stats::QueueStats;

impl Session {
    /// Accepts a job.
    ///
    /// # Errors
    /// [`Code::Draining`]; [`Code::Full`] if the jobs take all the memory that they may, or the disk is full.
    pub fn submit(&mut self, submission: Submission) -> Result<Accepted, Refusal> {
        match self.reply(Command::Submit(submission))? {
            Reply::Accepted { id, duplicate } => Ok(Accepted { id, duplicate }),
            other => unexpected(&other),
        }
    }

    /// Leases the next job of the named queues, or of `default` if none is named. `None` if there is no job
    /// now.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn lease(&mut self, queues: &[QueueName]) -> Result<Option<Lease>, Refusal> {
        match self.reply(Command::Lease {
            queues: queues.to_vec(),
            wait: Wait::AtMost(Duration::ZERO),
            on_drained: OnDrained::Wait,
        })? {
            Reply::Leased(lease) => Ok(Some(lease)),
            Reply::Empty => Ok(None),
            other => unexpected(&other),
        }
    }

    /// A leased job is done. It is removed.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack(&mut self, id: JobId) -> Result<(), Refusal> {
        self.done(Command::Ack { id })
    }

    /// A leased job failed. It is tried again after its backoff, until its attempts are spent, unless the
    /// [`Failure`] says otherwise.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn fail(&mut self, id: JobId, failure: Failure) -> Result<Failed, Refusal> {
        let (delay, dead, reason) = failure.into_parts();
        match self.reply(Command::Fail { id, delay, dead, reason })? {
            Reply::RetryIn(wait) => Ok(Failed::RetryIn(wait)),
            Reply::Dead => Ok(Failed::Dead),
            other => unexpected(&other),
        }
    }

    /// Returns a leased job undone. It is ready again after `delay`, and no attempt is charged.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn return_job(&mut self, id: JobId, delay: Duration) -> Result<(), Refusal> {
        self.done(Command::Return { id, delay })
    }

    /// Renews a lease, for `ttr` or the job's own time to run.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn touch(&mut self, id: JobId, ttr: Option<Duration>) -> Result<(), Refusal> {
        self.done(Command::Touch { id, ttr })
    }

    /// Looks at a job.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn peek(&mut self, id: JobId) -> Result<Job, Refusal> {
        match self.reply(Command::Peek { id })? {
            Reply::Found(job) => Ok(*job),
            other => unexpected(&other),
        }
    }

    /// Looks at a queue's jobs, oldest first: at most `limit` (and [`LIST_JOBS_MAX`]) of them, or
    /// [`LIST_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn list(
        &mut self,
        queue: &QueueName,
        state: Option<JobState>,
        limit: u32,
        after: Option<JobId>,
    ) -> Result<Vec<Job>, Refusal> {
        match self.reply(Command::List { queue: queue.clone(), state, limit, after })? {
            Reply::Jobs(jobs) => Ok(jobs),
            other => unexpected(&other),
        }
    }

    /// Makes a dead job ready again, with all its attempts.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is no such dead job.
    pub fn retry(&mut self, id: JobId) -> Result<(), Refusal> {
        self.count(Command::Retry(Retry::Job(id))).map(|_| ())
    }

    /// Makes a queue's dead jobs ready again, oldest first, at most `limit` of them. Returns how many.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn retry_queue(&mut self, queue: &QueueName, limit: Option<u64>) -> Result<u64, Refusal> {
        self.count(Command::Retry(Retry::Queue { queue: queue.clone(), limit }))
    }

    /// Removes a job, unless another session has it leased.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn delete(&mut self, id: JobId) -> Result<(), Refusal> {
        self.done(Command::Delete { id })
    }

    /// Removes a queue's ready, delayed and dead jobs, or those in one of these states. Returns how many.
    ///
    /// # Errors
    /// [`Code::Usage`] for leased jobs: they belong to their workers.
    pub fn purge(&mut self, queue: &QueueName, state: Option<JobState>) -> Result<u64, Refusal> {
        self.count(Command::Purge { queue: queue.clone(), state })
    }

    /// Hands out nothing of a queue, for `time` or until it is resumed.
    ///
    /// # Errors
    /// [`Code::Full`] if the queue does not exist yet, and there is no memory for it.
    pub fn pause(&mut self, queue: &QueueName, time: Option<Duration>) -> Result<(), Refusal> {
        self.done(Command::Pause { queue: queue.clone(), time })
    }

    /// Hands out a paused queue's jobs again.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn resume(&mut self, queue: &QueueName) -> Result<(), Refusal> {
        self.done(Command::Resume { queue: queue.clone() })
    }

    /// One queue's counters.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn queue_stats(&mut self, queue: &QueueName) -> Result<QueueStats, Refusal> {
        match self.reply(Command::Stats { queue: Some(queue.clone()) })? {
            Reply::QueueStats(stats) => Ok(*stats),
            other => unexpected(&other),
        }
    }

    /// All queues' counters, in the order in which the queues were created.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn queues(&mut self) -> Result<Vec<QueueStats>, Refusal> {
        match self.reply(Command::Queues)? {
            Reply::Queues(queues) => Ok(queues),
            other => unexpected(&other),
        }
    }

    fn done(&mut self, command: Command) -> Result<(), Refusal> {
        match self.reply(command)? {
            Reply::Done => Ok(()),
            other => unexpected(&other),
        }
    }

    fn count(&mut self, command: Command) -> Result<u64, Refusal> {
        match self.reply(command)? {
            Reply::Count(count) => Ok(count),
            other => unexpected(&other),
        }
    }

    fn reply(&mut self, command: Command) -> Result<Reply, Refusal> {
        match self.execute(command) {
            Outcome::Reply(Reply::Refused(refusal)) => Err(refusal),
            Outcome::Reply(reply) => Ok(reply),
            other => unreachable!("no verb here waits or leaves, but the outcome is {other:?}"),
        }
    }
}

fn unexpected(reply: &Reply) -> ! {
    unreachable!("no engine answers this verb with {reply:?}")
}
