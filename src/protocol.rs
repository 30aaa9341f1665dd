//! What a client can ask and what the server can answer, without a word of either dialect's text.
//!
//! [`Command`] and [`Reply`] are the contract; [`native`] turns them into the upper-case text that people
//! type. The dialect is decided per command, by the case of its verb's first letter, in [`Decoder`]. Nothing
//! here sees a socket: bytes come in, values go out, and the other way round.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Refusal;
use crate::job::{Job, JobId, JobState, Lease, QueueName, Submission};
use crate::stats::{QueueStats, ServerStats};

pub mod native;

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
}

/// Which of the two texts a command came in, and its reply goes out in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Upper-case verbs, replies ending in LF.
    Native,
}

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// The largest body, in bytes.
    pub body_max: usize,
}

impl Default for FrameLimits {
    /// Bodies of at most 65,535 bytes, as beanstalkd's `-z` has it.
    fn default() -> Self {
        FrameLimits { body_max: 65_535 }
    }
}

/// The longest header, in bytes without its LF: verb, arguments and options, up to and including the colon.
pub const HEADER_BYTES_MAX: usize = 4096;

/// What [`Decoder::next`] found at the head of the bytes it was shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Not a whole command yet: read more and show the same bytes again, with what came behind them.
    Incomplete,
    /// These bytes belong to a refused command: drop them; there is nothing to answer.
    Skip {
        /// How many bytes to drop.
        consumed: usize,
    },
    /// A whole command.
    Command {
        /// How many bytes to drop.
        consumed: usize,
        /// What is asked.
        command: Command,
        /// In which dialect to answer.
        dialect: Dialect,
    },
    /// A command that can't be carried out.
    Refused {
        /// How many bytes to drop.
        consumed: usize,
        /// Why.
        refusal: Refusal,
        /// In which dialect to answer.
        dialect: Dialect,
        /// Whether the place in the stream is lost, so that the connection has to close behind the answer.
        close: bool,
    },
    /// Not a client of ours (an HTTP request): send these bytes as they are and close; carry out nothing more.
    Farewell {
        /// What to send.
        text: &'static [u8],
    },
}

/// Cuts a connection's bytes into commands. It keeps no bytes of its own, only where in a skipped command it is.
#[derive(Debug)]
pub struct Decoder {
    limits: FrameLimits,
    skipping: Skipping,
    /// How far the unfinished line at the head of the buffer has been searched for its LF already, so that
    /// a line that comes a byte at a time is not searched from its start each time.
    searched: usize,
}

#[derive(Debug)]
enum Skipping {
    Nothing,
    /// An overlong line, up to and including its LF.
    Line,
    /// The body of a refused command: so many bytes are still to come.
    Body(u64),
}
