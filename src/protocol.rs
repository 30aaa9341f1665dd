//! What a client can ask and what the server can answer, without a word of either dialect's text.
//!
//! [`Command`] and [`Reply`] are the contract; [`native`] turns them into the upper-case text that people
//! type, [`beanstalk`] into the lower-case text that beanstalkd's clients speak. The dialect is decided per command, by the case of its verb's first letter, in [`Decoder`]. Nothing
//! here sees a socket: bytes come in, values go out, and the other way round.
//!
//! A dialect is one file (or a folder) of its own beside this one: it makes a command of a line and of the body
//! behind it, and bytes of a reply. [`Decoder`] finds the lines, skips what is refused and picks the dialect.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Refusal;
use crate::job::{Job, JobId, JobState, Lease, Options, Priority, QueueName, Submission};
use crate::stats::{JobStats, QueueDetails, QueueStats, ServerDetails, ServerStats};

pub mod beanstalk;
mod decoder;
pub mod native;
mod number;
mod spec;

pub use decoder::{Decoder, FrameLimits, HEADER_BYTES_MAX, Step};
pub(crate) use spec::FEW_QUEUES;
pub use spec::Spec;

/// How many jobs [`Command::List`] shows where the command does not say.
pub const LIST_LIMIT_DEFAULT: u32 = 100;

/// How many jobs [`Command::List`] shows at most.
pub const LIST_LIMIT_MAX: u32 = 1000;

/// How long a command that finds no job waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until there is one.
    Forever,
    /// At most this long; zero answers at once.
    AtMost(Duration),
}

/// What [`Command::Retry`] brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// One dead job.
    Job(JobId),
    /// A queue's dead jobs, oldest first, at most `limit` of them.
    Queue {
        /// Whose dead jobs.
        queue: QueueName,
        /// How many at most; `None` for all.
        limit: Option<u64>,
    },
}

/// What a client asks for, in either dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Accept a job.
    Submit(Submission),
    /// Lease the next job of these queues.
    Lease {
        /// The queues; empty for those that the connection watches, which are `default` unless it said otherwise.
        queues: Vec<QueueName>,
        /// How long to wait for a job.
        wait: Wait,
    },
    /// A leased job is done.
    Ack {
        /// Which.
        id: JobId,
    },
    /// A leased job failed.
    Fail {
        /// Which.
        id: JobId,
        /// How long to wait before the next attempt; `None` for the job's own backoff.
        delay: Option<Duration>,
        /// Whether to give it up now, whatever attempts it has left.
        dead: bool,
        /// Why, for people.
        reason: Option<Arc<str>>,
    },
    /// A leased job is handed back undone; no attempt is charged.
    Return {
        /// Which.
        id: JobId,
        /// How long until it is ready again; zero for at once.
        delay: Duration,
    },
    /// Let a lease start anew.
    Touch {
        /// Which job's.
        id: JobId,
        /// For how long, from now; `None` for the job's own time to run.
        ttr: Option<Duration>,
    },
    /// Look at a job without leasing it.
    Peek {
        /// Which.
        id: JobId,
    },
    /// Look at a queue's jobs, oldest first.
    List {
        /// Whose jobs.
        queue: QueueName,
        /// Only those in this state.
        state: Option<JobState>,
        /// How many at most.
        limit: u32,
        /// Only jobs with larger numbers than this.
        after: Option<JobId>,
    },
    /// Dead jobs back to ready.
    Retry(Retry),
    /// Remove a job.
    Delete {
        /// Which.
        id: JobId,
    },
    /// Remove a queue's jobs, but for leased ones.
    Purge {
        /// Whose jobs.
        queue: QueueName,
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
    /// Say goodbye: what the connection still has leased is handed back, and it closes.
    Quit,
    /// What only the beanstalkd dialect can say.
    Compat(Compat),
}

/// What only the beanstalkd dialect can say: it has a queue that the connection uses and queues that it watches, and does
/// some things to one job that the native dialect does otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compat {
    /// Accept a job in the queue that the connection uses.
    SubmitHere(Options, Arc<[u8]>),
    /// Lease the next job of the queues that the connection watches; do not wait on while a lease of its own is
    /// about to lapse.
    LeaseWatched {
        /// How long to wait for a job.
        wait: Wait,
    },
    /// Lease one job, ready or not.
    LeaseJob {
        /// Which.
        id: JobId,
    },
    /// A job is done if the connection has it leased, and removed if nobody has.
    Finish {
        /// Which.
        id: JobId,
    },
    /// A leased job is handed back undone, with another priority; no attempt is charged.
    ReturnAs {
        /// Which.
        id: JobId,
        /// Its priority from now on.
        priority: Priority,
        /// How long until it is ready again.
        delay: Duration,
    },
    /// A leased job is given up, whatever attempts it has left.
    Bury {
        /// Which.
        id: JobId,
        /// Its priority from now on.
        priority: Priority,
    },
    /// Dead jobs of the queue that the connection uses back to ready, those that have been dead for longest first; where there
    /// are none, its delayed ones, the soonest first.
    Kick {
        /// How many at most.
        limit: u64,
    },
    /// One dead or delayed job to ready.
    KickJob {
        /// Which.
        id: JobId,
    },
    /// Look at the job of the queue that the connection uses that is next to leave this state.
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
    /// Watch this queue no more.
    Ignore {
        /// Which.
        queue: QueueName,
    },
    /// Which queues are watched?
    Watched,
    /// Hand out nothing of a queue that exists, for a time; no time ends a pause.
    PauseExisting {
        /// Which queue.
        queue: QueueName,
        /// For how long.
        time: Duration,
    },
    /// One job, and what it has been through.
    JobStats {
        /// Which.
        id: JobId,
    },
    /// One queue's counters, and who is attached to it.
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
pub enum Reply {
    /// The job is accepted and as safe as the server's policy promises.
    Accepted {
        /// Its number.
        id: JobId,
        /// Where an unfinished job with the same key was there before: that job's state. `id` is then its number.
        duplicate: Option<JobState>,
    },
    /// A leased job.
    Leased(Lease),
    /// There was no job in time.
    Empty,
    /// Done.
    Done,
    /// A failed job will be tried again after this long.
    RetryIn(Duration),
    /// A failed job is dead.
    Dead,
    /// So many jobs were touched by the command.
    Count(u64),
    /// A job looked at.
    Found(Box<Job>),
    /// Jobs looked at.
    Jobs(Vec<Job>),
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
    /// The command was not carried out.
    Refused(Refusal),

    // What only the beanstalkd dialect asks for.
    /// There was no job yet, and a lease of the connection's own is about to lapse.
    LapsesSoon,
    /// The queue that the connection uses.
    Using(QueueName),
    /// How many queues the connection watches.
    Watching(usize),
    /// Queues by name.
    Names(Vec<QueueName>),
    /// One job, and what it has been through.
    JobStats(Box<JobStats>),
    /// One queue's counters, and who is attached to it.
    QueueDetails(Box<QueueDetails>),
    /// The server's counters, in full.
    ServerDetails(Box<ServerDetails>),
}

/// Which of the two texts a command came in, and its reply goes out in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Upper-case verbs, replies ending in LF.
    Native,
    /// Lower-case verbs, replies ending in CR LF; a reply's words are those of the verb that it answers.
    Beanstalk(beanstalk::Verb),
}

impl Dialect {
    /// Writes a reply behind what is in `out`.
    pub fn write_reply(self, reply: &Reply, out: &mut Vec<u8>) {
        match self {
            Dialect::Native => native::write_reply(reply, out),
            Dialect::Beanstalk(verb) => beanstalk::write_reply(verb, reply, out),
        }
    }
}
