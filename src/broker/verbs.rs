//! The verbs as methods of a [`Session`], for programs that embed the broker. Each executes its [`Command`].

use std::time::Duration;

use super::{Accepted, Failed, Outcome, Session};
#[cfg(doc)]
use super::{LIST_BYTES_MAX, LIST_JOBS_MAX};
#[cfg(doc)]
use crate::error::Code;
use crate::error::Refusal;
use crate::job::{
    Acked, BatchName, Failure, Finished, Group, Job, JobId, JobState, Lease, QueueName, Submission, Why,
};
use crate::protocol::{Cancel, Command, OnDrained, Reply, Retry, Wait};
use crate::stats::{BatchStats, QueueStats};

impl Session {
    /// Accepts a job.
    ///
    /// # Errors
    /// [`Code::Draining`]; [`Code::Full`] if the jobs take all the memory that they may, or the disk is full.
    pub fn submit(&mut self, submission: Submission) -> Result<Accepted, Refusal> {
        match self.reply(Command::Submit(Box::new(submission)))? {
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

    /// A leased job is done. It is removed, or kept for as long as its submitter asked for.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack(&mut self, id: JobId) -> Result<(), Refusal> {
        self.done(Command::Ack { id, result: None })
    }

    /// A leased job is done, with a result. It is removed, or kept with its result for as long as its submitter
    /// asked for.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack_with(&mut self, id: JobId, result: impl AsRef<[u8]>) -> Result<Acked, Refusal> {
        match self.reply(Command::Ack { id, result: Some(result.as_ref().into()) })? {
            Reply::Done => Ok(Acked::Whole),
            Reply::ResultDropped => Ok(Acked::ResultDropped),
            other => unexpected(&other),
        }
    }

    /// How a job ended; `None` if it has not.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an id that was never given.
    pub fn finished(&mut self, id: JobId) -> Result<Option<Finished>, Refusal> {
        match self.reply(Command::Wait { id, wait: Wait::AtMost(Duration::ZERO) })? {
            Reply::Finished { how, .. } => Ok(Some(how)),
            Reply::Empty => Ok(None),
            other => unexpected(&other),
        }
    }

    /// The counts of a batch. One that is not known has no jobs.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn batch(&mut self, name: &BatchName) -> Result<BatchStats, Refusal> {
        let (name, wait) = (name.clone(), Wait::AtMost(Duration::ZERO));
        match self.reply(Command::Batch { name, total: 1, wait })? {
            Reply::Batch { stats, .. } => Ok(stats),
            other => unexpected(&other),
        }
    }

    /// Cancels a job that is ready, delayed or leased; others are left as they are. Returns the state that it
    /// was in.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn cancel(&mut self, id: JobId, reason: Option<&str>) -> Result<JobState, Refusal> {
        match self.reply(Command::Cancel { what: Cancel::Job(id), reason: reason.map(Into::into) })? {
            Reply::Was(state) => Ok(state),
            other => unexpected(&other),
        }
    }

    /// Cancels the ready, delayed and leased jobs of a queue or a batch, or those in one of these states.
    /// Returns how many.
    ///
    /// # Errors
    /// [`Code::Usage`] for a state of jobs that have ended.
    pub fn cancel_all(
        &mut self,
        of: impl Into<Group>,
        state: Option<JobState>,
        reason: Option<&str>,
    ) -> Result<u64, Refusal> {
        let what = Cancel::All { of: of.into(), state };
        self.count(Command::Cancel { what, reason: reason.map(Into::into) })
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
        self.done(Command::Touch { id, ttr, progress: None, note: None })
    }

    /// Renews a lease, and says how far the job is, from 0 to 100, and what is being done, for people.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn progress(&mut self, id: JobId, percent: Option<u8>, note: Option<&str>) -> Result<(), Refusal> {
        let note = note.map(Into::into);
        self.done(Command::Touch { id, ttr: None, progress: percent.map(|n| n.min(100)), note })
    }

    /// Why a job is where it is.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an id that was never given.
    pub fn why(&mut self, id: JobId) -> Result<Why, Refusal> {
        match self.reply(Command::Why { id })? {
            Reply::Why(why) => Ok(*why),
            other => unexpected(&other),
        }
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

    /// Looks at the jobs of a queue or a batch, oldest first: at most `limit` (and [`LIST_JOBS_MAX`]) of them, or
    /// [`LIST_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn list(
        &mut self,
        of: impl Into<Group>,
        state: Option<JobState>,
        limit: u32,
        after: Option<JobId>,
    ) -> Result<Vec<Job>, Refusal> {
        match self.reply(Command::List { of: of.into(), state, limit, after })? {
            Reply::Jobs(jobs) => Ok(jobs),
            other => unexpected(&other),
        }
    }

    /// Makes a dead job ready again, with all its attempts, or a cancelled one.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is no such dead or cancelled job.
    pub fn retry(&mut self, id: JobId) -> Result<(), Refusal> {
        self.count(Command::Retry(Retry::Job(id))).map(|_| ())
    }

    /// Makes the dead jobs of a queue or a batch ready again, oldest first, at most `limit` of them. Returns how
    /// many.
    ///
    /// # Errors
    /// [`Code::Internal`] after a fault in the broker.
    pub fn retry_all(&mut self, of: impl Into<Group>, limit: Option<u64>) -> Result<u64, Refusal> {
        self.count(Command::Retry(Retry::All { of: of.into(), limit }))
    }

    /// Removes a job, unless another session has it leased.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn delete(&mut self, id: JobId) -> Result<(), Refusal> {
        self.done(Command::Delete { id })
    }

    /// Removes the ready, delayed and dead jobs of a queue or a batch, or those in one state. Returns how many.
    ///
    /// # Errors
    /// [`Code::Usage`] for leased jobs: they belong to their workers.
    pub fn purge(&mut self, of: impl Into<Group>, state: Option<JobState>) -> Result<u64, Refusal> {
        self.count(Command::Purge { of: of.into(), state })
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
