//! What a client can ask and what the server can answer, independent of either dialect's text.
//!
//! [`native`] turns a [`Command`] and a [`Reply`] into the upper-case text that people type, [`beanstalk`]
//! into the lower-case text of beanstalkd's clients. Nothing here uses a socket: bytes become values, and
//! values bytes.
//!
//! Each dialect is a file or folder of its own. It makes a command from a line and the body behind it, and
//! bytes from a reply. [`Decoder`] finds the lines, skips what is refused, and picks the dialect of each
//! command by the case of its verb's first letter.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Refusal;
pub use crate::job::OnDrained;
use crate::job::{
    BatchName, Finished, Group, Hello, Job, JobId, JobState, Lease, Options, Order, Priority, QueueName,
    Search, Submission, Why, Wish, WorkerName,
};
use crate::stats::{BatchStats, JobStats, QueueDetails, QueueStats, ServerDetails, ServerStats, WorkerStats};

pub mod beanstalk;
mod decoder;
pub mod native;
mod number;
mod spec;

pub(crate) use decoder::is_beanstalkd;
pub use decoder::{Decoder, FrameLimits, HEADER_BYTES_MAX, Step};
pub(crate) use spec::FEW_QUEUES;
pub use spec::Spec;

/// How many jobs [`Command::List`] shows by default.
pub const LIST_LIMIT_DEFAULT: u32 = 100;

/// The most jobs that [`Command::List`] shows.
pub const LIST_LIMIT_MAX: u32 = 1000;

/// How long a command that finds no job waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until there is a job.
    Forever,
    /// At most this long; with zero, not at all.
    AtMost(Duration),
}

/// What [`Command::Retry`] makes ready again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// One dead or cancelled job.
    Job(JobId),
    /// The dead jobs of a queue or a batch, oldest first, at most `limit` of them.
    All {
        /// Whose dead jobs.
        of: Group,
        /// The most jobs; `None` for all.
        limit: Option<u64>,
    },
}

/// What [`Command::Several`] does to each job, as DELETE, RETRY or CANCEL does to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Each {
    /// Remove it.
    Delete,
    /// Make it ready again.
    Retry,
    /// Cancel it, for this reason.
    Cancel(Option<Arc<str>>),
}

/// What [`Command::Cancel`] cancels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// One job.
    Job(JobId),
    /// The ready, delayed and leased jobs of a queue or a batch.
    All {
        /// Whose jobs.
        of: Group,
        /// Only those in this state.
        state: Option<JobState>,
    },
}

/// What a client asks for, in either dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Accept a job.
    Submit(Box<Submission>),
    /// Lease the next job of these queues.
    Lease {
        /// The queues; empty for those that the connection watches: `default`, unless it has chosen others.
        queues: Vec<QueueName>,
        /// How long to wait for a job.
        wait: Wait,
        /// Whether the wait ends when the queues are drained.
        on_drained: OnDrained,
    },
    /// A leased job is done.
    Ack {
        /// Which.
        id: JobId,
        /// What came of it, for those who wait for the job and those who look at it while it is kept.
        result: Option<Arc<[u8]>>,
    },
    /// A leased job failed.
    Fail {
        /// Which.
        id: JobId,
        /// The time until the next attempt; `None` for the job's own backoff.
        delay: Option<Duration>,
        /// Whether it is dead now, even if it has attempts left.
        dead: bool,
        /// Why, for people.
        reason: Option<Arc<str>>,
    },
    /// Return a leased job undone; no attempt is charged.
    Return {
        /// Which.
        id: JobId,
        /// The time until it is ready again; zero for now.
        delay: Duration,
    },
    /// Renew a lease.
    Touch {
        /// Which job's.
        id: JobId,
        /// How long it lasts from now; `None` for the job's own time to run.
        ttr: Option<Duration>,
        /// How much is done, from 0 to 100.
        progress: Option<u8>,
        /// What the worker does, for people.
        note: Option<Arc<str>>,
    },
    /// Look at a job without leasing it.
    Peek {
        /// Which.
        id: JobId,
    },
    /// Look at a job, with all that LIST shows of it.
    Show {
        /// Which.
        id: JobId,
    },
    /// Why is a job where it is?
    Why {
        /// Which.
        id: JobId,
    },
    /// Wait for the end of a job.
    Wait {
        /// Which.
        id: JobId,
        /// How long.
        wait: Wait,
    },
    /// The counts of a batch, at once or when it is complete.
    Batch {
        /// Which.
        name: BatchName,
        /// How many jobs have to be counted in before it can be complete.
        total: u64,
        /// How long to wait until it is complete.
        wait: Wait,
    },
    /// Take back jobs that are not done yet.
    Cancel {
        /// Which.
        what: Cancel,
        /// Why, for people.
        reason: Option<Arc<str>>,
    },
    /// Look at the jobs of a queue or a batch, oldest first.
    List {
        /// Whose jobs.
        of: Group,
        /// Only those in this state.
        state: Option<JobState>,
        /// The most jobs.
        limit: u32,
        /// Only jobs with higher ids than this.
        after: Option<JobId>,
    },
    /// Look for jobs, the newest first.
    Search {
        /// Which.
        search: Box<Search>,
        /// The most jobs.
        limit: u32,
        /// Only jobs with lower ids than this.
        before: Option<JobId>,
    },
    /// Delete, retry or cancel several jobs.
    Several {
        /// Which.
        ids: Vec<JobId>,
        /// What is done to each.
        what: Each,
    },
    /// Make dead or cancelled jobs ready again.
    Retry(Retry),
    /// Remove a job.
    Delete {
        /// Which.
        id: JobId,
    },
    /// Remove the ready, delayed and dead jobs of a queue or a batch, or those in another state than leased.
    Purge {
        /// Whose jobs.
        of: Group,
        /// Only those in this state.
        state: Option<JobState>,
    },
    /// Hand out nothing of a queue.
    Pause {
        /// Which queue.
        queue: QueueName,
        /// For how long; `None` until it is resumed.
        time: Option<Duration>,
    },
    /// Hand out a paused queue's jobs again.
    Resume {
        /// Which queue.
        queue: QueueName,
    },
    /// Introduces the connection as one of a worker's.
    Hello(Box<Hello>),
    /// Take over leases of the worker's lost connections. Its other leases of lost connections are returned.
    Hold {
        /// All jobs that the worker still works on.
        ids: Vec<JobId>,
    },
    /// Renew leases, whichever connection of the worker has them.
    Beat {
        /// Of these jobs.
        ids: Vec<JobId>,
    },
    /// What should the worker do?
    Orders {
        /// How long to wait for an order.
        wait: Wait,
    },
    /// Tell the workers of a name what is wanted of them.
    Wish {
        /// Which workers.
        worker: WorkerName,
        /// What.
        wish: Wish,
    },
    /// All workers that have introduced themselves.
    Workers,
    /// The server's counters, or one queue's.
    Stats {
        /// Which queue; `None` for the server.
        queue: Option<QueueName>,
    },
    /// All queues with their counts.
    Queues,
    /// Is anybody there?
    Ping,
    /// The list of verbs.
    Help,
    /// Leave: the jobs that the connection has leased are returned, and it is closed.
    Quit,
    /// A command of the beanstalkd dialect alone.
    Compat(Compat),
}

/// The commands of the beanstalkd dialect alone. There, a connection uses one queue and watches others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compat {
    /// Accept a job in the queue that the connection uses.
    SubmitHere(Box<Options>, Arc<[u8]>),
    /// Lease the next job of the queues that the connection watches. The wait ends before one of its own
    /// leases lapses.
    LeaseWatched {
        /// How long to wait for a job.
        wait: Wait,
    },
    /// Lease one job, ready or not.
    LeaseJob {
        /// Which.
        id: JobId,
    },
    /// A job is done if the connection has leased it, and removed if nobody has.
    Finish {
        /// Which.
        id: JobId,
    },
    /// Return a leased job undone, with another priority; no attempt is charged.
    ReturnAs {
        /// Which.
        id: JobId,
        /// Its priority from now on.
        priority: Priority,
        /// The time until it is ready again.
        delay: Duration,
    },
    /// A leased job is dead now, even if it has attempts left.
    Bury {
        /// Which.
        id: JobId,
        /// Its priority from now on.
        priority: Priority,
    },
    /// Make dead jobs of the queue that the connection uses ready again, those that have been dead for
    /// longest first. If there are none, make its delayed jobs ready, the soonest first.
    Kick {
        /// The most jobs.
        limit: u64,
    },
    /// Make one dead or delayed job ready.
    KickJob {
        /// Which.
        id: JobId,
    },
    /// Look at the next job to leave this state, in the queue that the connection uses.
    PeekNext {
        /// Which state.
        state: JobState,
    },
    /// Use this queue from now on.
    Use {
        /// Which.
        queue: QueueName,
    },
    /// Which queue is used?
    Used,
    /// Watch this queue too from now on.
    Watch {
        /// Which.
        queue: QueueName,
    },
    /// Stop watching this queue.
    Ignore {
        /// Which.
        queue: QueueName,
    },
    /// Which queues are watched?
    Watched,
    /// Hand out nothing of a queue that exists, for a time; a time of zero ends its pause.
    PauseExisting {
        /// Which queue.
        queue: QueueName,
        /// For how long.
        time: Duration,
    },
    /// One job, and its history.
    JobStats {
        /// Which.
        id: JobId,
    },
    /// One queue's counters, and how many connections use and watch it.
    QueueDetails {
        /// Which.
        queue: QueueName,
    },
    /// The server's counters, in full.
    ServerDetails,
    /// All queues' names.
    QueueNames,
}

impl From<Compat> for Command {
    fn from(compat: Compat) -> Command {
        Command::Compat(compat)
    }
}

/// What the server answers, in either dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The job is accepted.
    Accepted {
        /// Its id, or that of the unfinished job with the same key.
        id: JobId,
        /// The state of that job, if there was one.
        duplicate: Option<JobState>,
    },
    /// A leased job.
    Leased(Lease),
    /// No job came in time.
    Empty,
    /// There was no job, and the queues are drained.
    Drained {
        /// Those of them that are paused with jobs that are ready or delayed.
        paused: Vec<QueueName>,
    },
    /// Done.
    Done,
    /// A failed job will be tried again after this long.
    RetryIn(Duration),
    /// A failed job is dead.
    Dead,
    /// The job is done; there was no room for its result.
    ResultDropped,
    /// How a job ended.
    Finished {
        /// Which.
        id: JobId,
        /// How.
        how: Finished,
    },
    /// The counts of a batch, and whether it is complete.
    Batch {
        /// Its counts.
        stats: BatchStats,
        /// Whether it is complete, with as many jobs as were asked for.
        complete: bool,
    },
    /// The state in which the job was that is to be cancelled. It is cancelled if that was ready, delayed or
    /// leased.
    Was(JobState),
    /// The connection is introduced.
    Hello,
    /// How many of the leases the worker has, and which it does not have.
    Held {
        /// How many it has.
        count: u64,
        /// Those that it does not have.
        lost: Vec<JobId>,
    },
    /// What the worker should do.
    Order(Order),
    /// All workers.
    Workers(Vec<WorkerStats>),
    /// How many jobs, or workers, the command changed.
    Count(u64),
    /// Why a job is where it is.
    Why(Box<Why>),
    /// A job looked at.
    Found(Box<Job>),
    /// Jobs looked at.
    Jobs(Vec<Job>),
    /// Jobs that were found.
    Searched {
        /// They, the newest first.
        jobs: Vec<Job>,
        /// How many jobs were looked at.
        searched: u64,
        /// If not all were looked at: only jobs with lower ids are left.
        before: Option<JobId>,
    },
    /// How many of several jobs the command changed, and which it did not.
    Several {
        /// How many it changed.
        count: u64,
        /// Those that it did not change.
        refused: Vec<JobId>,
    },
    /// The server's counters.
    ServerStats(Box<ServerStats>),
    /// One queue's counters.
    QueueStats(Box<QueueStats>),
    /// All queues.
    Queues(Vec<QueueStats>),
    /// Somebody is here.
    Pong,
    /// The list of verbs.
    Help,
    /// The command was refused.
    Refused(Refusal),

    // Replies to the commands of the beanstalkd dialect alone.
    /// There was no job, and one of the connection's own leases is about to lapse.
    LapsesSoon,
    /// The queue that the connection uses.
    Using(QueueName),
    /// The number of queues that the connection watches.
    Watching(usize),
    /// Queues by name.
    Names(Vec<QueueName>),
    /// One job, and its history.
    JobStats(Box<JobStats>),
    /// One queue's counters, and how many connections use and watch it.
    QueueDetails(Box<QueueDetails>),
    /// The server's counters, in full.
    ServerDetails(Box<ServerDetails>),
}

/// The dialect of a command, and of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Upper-case verbs, replies ending in LF.
    Native,
    /// Lower-case verbs, replies ending in CR LF. The words of a reply depend on the verb that it answers.
    Beanstalk(beanstalk::Verb),
}

impl Dialect {
    /// Appends a reply to `out`.
    pub fn write_reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match self {
            Dialect::Native => native::write_reply(reply, out),
            Dialect::Beanstalk(verb) => beanstalk::write_reply(verb, reply, out),
        }
    }
}
