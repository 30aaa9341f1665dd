//! The broker: what a server, or a program with the queue inside it, knows of the queue.
//!
//! A [`Broker`] is a set of queues. A [`Session`] is one client of it: what it has leased, what it waits for.
//! The server opens a session for each connection; a program that embeds the broker opens its own. Dropping a
//! session means that the connection was lost: each of its leases counts as a crash. [`Session::quit`]
//! returns its jobs instead.
//!
//! # The contract
//!
//! Everything that serves clients knows the names in this file, and nothing of the queue, its state or the
//! journal. An engine provides what is behind them; today there is one, `broker/embedded.rs`. An engine has
//! to provide:
//!
//! - `connect`: opens a session.
//! - `execute`: one [`Command`] to one [`Outcome`]. Blocks only for a submission, while the engine must write
//!   first.
//! - `execute_all`: several brief commands, in their order, for less than each alone would cost.
//! - `wait`: blocks until what an [`Outcome::Wait`] asked for has come, or the wait is over.
//! - `settle`, `settle_or_call`: after one of these, a crash can't take back what the commands up to then
//!   have returned. No reply may be shown before.
//! - `canceller`: a handle that ends the session's waits from another thread.
//! - `quit`, and dropping the session.
//! - `drain`, `close`, `stats`.
//!
//! The verbs as methods (`broker/verbs.rs`) are written with `execute`, so an engine gets them for nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::error::Refusal;
use crate::job::{BatchName, Finished, JobId, Lease, OnDrained, Order, QueueName};
pub use crate::journal::storage::{DiskError, DiskStorage, Storage, StorageFile};
use crate::journal::{self};
pub use crate::journal::{
    Damage, Failure, Fsync, JournalStats, OnFailure, OpenError, Options as JournalOptions, Recovered,
    TornTail, Unavailable,
};
use crate::protocol::{Command, Dialect, Reply};
pub use crate::queue::state::{Accepted, Failed, Warn};
use crate::stats::{BatchStats, Machine, ServerStats};

mod embedded;
mod verbs;

/// The most jobs that one LIST returns.
pub const LIST_JOBS_MAX: u32 = 1000;

/// The most jobs that one search looks at.
pub const SEARCH_JOBS_MAX: u64 = 10_000;

/// The most bytes of bodies, results and reasons in which one search looks for a text. It ends early then, and says
/// from where to go on.
pub const SEARCH_BYTES_MAX: u64 = 64 << 20;

/// A LIST ends early when its jobs, with their keys and reasons, have reached this many bytes, so that a
/// reply stays bounded.
pub const LIST_BYTES_MAX: usize = 1 << 20;

/// The most that a record of a job takes in the journal, beside its body: names, key, reason and numbers, and
/// the record that its batch begins.
const RECORD_BYTES_MAX: u64 = 2048;

/// The smallest size of the journal's segments, in bytes, in which every job fits whose body is at most
/// `body_max` long. A job that does not fit makes its segment longer, for which there may be no room: on a
/// full disk all replies may have to wait for it.
pub fn segment_bytes_for(body_max: u64) -> u64 {
    journal::segment_bytes_for(body_max + RECORD_BYTES_MAX)
}

/// A good size for the journal's segments, in bytes, if no body is longer than `body_max`: room for twenty
/// such jobs, within 16 to 64 MiB unless a job needs more. If few jobs fit in a segment, much is left over at
/// the ends of segments, which a full disk can't spare; if segments are large, so is what is kept ready
/// (docs/journal.md).
pub fn segment_bytes_by_default(body_max: u64) -> u64 {
    let twenty = body_max.saturating_add(RECORD_BYTES_MAX).saturating_mul(20);
    twenty.clamp(16 << 20, 64 << 20).max(segment_bytes_for(body_max))
}

/// What a broker is made with. Start from the default and set what is to differ:
///
/// ```
/// let mut config = djqs::broker::Config::default();
/// config.memory_max = 64 << 20;
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// The most memory that all jobs together may take, in bytes; beyond it, submissions are refused. Default
    /// 1 GiB.
    pub memory_max: u64,
    /// Where the time comes from. Default the system's clocks.
    pub clock: Clock,
    /// The seed of the backoffs' jitter. Default different in each process.
    pub seed: u64,
    /// Called once if the broker fails: a fault in the code has left a change half made
    /// ([`Failure::Broken`]), or the journal can't be written. Every command is refused from then on, and
    /// nothing more is acknowledged. A server should end, and be started again. Default: nothing is called.
    pub on_failure: Option<OnFailure>,
}

impl Default for Config {
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let seed = RandomState::new().hash_one(std::process::id());
        Config { memory_max: 1 << 30, clock: Clock::system(), seed, on_failure: None }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { memory_max, clock, seed, on_failure } = self;
        f.debug_struct("Config")
            .field("memory_max", memory_max)
            .field("clock", clock)
            .field("seed", seed)
            .field("on_failure", &on_failure.as_ref().map(|_| "…"))
            .finish()
    }
}

/// A set of queues, and the clients' way to them. Clones are handles to the same broker.
#[derive(Clone, Debug)]
pub struct Broker {
    engine: Arc<embedded::Engine>,
}

/// What the server counts for STATS.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Gauges {
    /// Connections open now.
    pub connections: AtomicU64,
    /// The most that will be served.
    pub connections_max: AtomicU64,
    /// Connections accepted so far.
    pub connections_total: AtomicU64,
    /// The largest body that is accepted, in bytes.
    pub body_max: AtomicU64,
    /// Where the server runs, set once.
    pub machine: OnceLock<Machine>,
    /// How to learn what processor time the process has taken, in user mode and in the kernel; set once.
    pub cpu: OnceLock<fn() -> (Duration, Duration)>,
}

impl Broker {
    /// Makes a broker that keeps its jobs in memory only: they are gone when the process ends.
    ///
    /// ```
    /// use djqs::{Broker, Submission, broker::Config};
    /// let broker = Broker::in_memory(Config::default());
    /// let mut session = broker.connect();
    /// session.submit(Submission::new("CLEANUP_LOGS: 2s_delay"))?;
    /// let lease = session.lease(&[])?.expect("a job was submitted");
    /// session.ack(lease.id)?;
    /// # Ok::<(), djqs::Refusal>(())
    /// ```
    ///
    /// # Panics
    /// If the system can't start a thread: it would be of no use without its timekeeper. Nothing else can
    /// fail here, so that there is no `Result`.
    pub fn in_memory(config: Config) -> Broker {
        Broker { engine: embedded::Engine::in_memory(config) }
    }

    /// Makes a broker that keeps its jobs in a journal, and reads those that are there already. Blocks while
    /// it does.
    ///
    /// # Errors
    /// [`OpenError`] if the journal can't be read or written; nothing in it has been changed then. Also if a
    /// thread can't be started.
    pub fn open(
        config: Config,
        storage: Arc<dyn Storage>,
        options: JournalOptions,
    ) -> Result<(Broker, Recovered), OpenError> {
        let (engine, recovered) = embedded::Engine::open(config, storage, options)?;
        Ok((Broker { engine }, recovered))
    }

    /// Makes everything so far durable, and marks the end of the journal as clean. Later commands get
    /// [`Code::Unavailable`](crate::Code::Unavailable). Blocks. Without a journal it does nothing.
    ///
    /// # Errors
    /// [`Unavailable`] if the journal can't be written.
    pub fn close(&self) -> Result<(), Unavailable> {
        self.engine.close()
    }

    /// Opens a session for a client.
    pub fn connect(&self) -> Session {
        Session { engine: self.engine.connect() }
    }

    /// Refuses new jobs from now on; everything else continues.
    pub fn drain(&self) {
        self.engine.drain();
    }

    /// Does everything that is due by now: a test on a manual clock calls it after moving the clock.
    pub fn tick(&self) {
        self.engine.tick();
    }

    /// The broker's clock.
    pub fn clock(&self) -> &Clock {
        self.engine.clock()
    }

    /// What the server counts for STATS.
    pub fn gauges(&self) -> &Gauges {
        self.engine.gauges()
    }

    /// The server's counters as they are now. They may include jobs that are not durable yet, so that they
    /// can be read while the disk is slow or stuck.
    pub fn stats(&self) -> ServerStats {
        self.engine.stats()
    }
}

/// One client of a broker. See the module's documentation.
///
/// Don't show what its methods return to anybody, nor act on it, before [`Session::settle`] has returned:
/// until then a crash can take it back. One call of it serves any number of commands before it; that makes
/// pipelining fast.
#[derive(Debug)]
pub struct Session {
    engine: embedded::Session,
}

/// The result of a command.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was executed, or refused.
    Reply(Reply),
    /// What it asks for is not there yet: call [`Session::wait`].
    Wait(Wanted),
    /// The client leaves: call [`Session::quit`].
    Goodbye,
}

/// Ends one session's waits, from any thread. Clones are handles to the same session.
#[derive(Clone, Debug)]
pub struct Canceller {
    engine: embedded::Canceller,
}

impl Canceller {
    /// Ends the session's wait now, and each later one as it begins. Does nothing once the session has ended.
    /// Does not block.
    pub fn cancel(&self) {
        self.engine.cancel();
    }
}

/// What a session can wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wanted {
    /// A job.
    Job {
        /// Of one of these queues; empty for those that the session watches.
        queues: Vec<QueueName>,
        /// Whether the wait also ends before one of the session's own leases lapses.
        warn: Warn,
        /// Whether the wait also ends when the queues are drained.
        on_drained: OnDrained,
        /// When the wait ends without a job; `None` for never.
        deadline: Option<Moment>,
    },
    /// The end of a job.
    End {
        /// Which.
        id: JobId,
        /// When the wait ends without it; `None` for never.
        deadline: Option<Moment>,
    },
    /// An order for the session's worker.
    Order {
        /// When the wait ends without one; `None` for never.
        deadline: Option<Moment>,
    },
    /// That a batch is complete.
    Batch {
        /// Which.
        name: BatchName,
        /// With how many jobs.
        total: u64,
        /// When the wait ends in any case; `None` for never.
        deadline: Option<Moment>,
    },
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waited {
    /// With a job.
    Leased(Lease),
    /// All of the queues are drained; these of them are paused with jobs that are ready or delayed.
    Drained(Vec<QueueName>),
    /// With the end of a job.
    Finished {
        /// Which job.
        id: JobId,
        /// How it ended.
        how: Finished,
    },
    /// With an order for the session's worker.
    Order(Order),
    /// With a batch that is complete, or with its counts at the deadline.
    Batch {
        /// Its counts.
        stats: BatchStats,
        /// Whether it is complete.
        complete: bool,
    },
    /// At its deadline.
    TimedOut,
    /// Because one of the session's own leases is about to lapse.
    LapsesSoon,
    /// [`Canceller::cancel`] ended it.
    Cancelled,
    /// It was refused, for instance because there is no memory for the queues that it names
    /// ([`Code::Full`](crate::Code::Full)).
    Refused(Refusal),
}

impl Session {
    /// Executes a command. Blocks only for a submission, while the journal is far behind.
    pub fn execute(&mut self, command: Command) -> Outcome {
        self.engine.execute(command)
    }

    /// Executes commands that are all [brief](crate::protocol::Spec::brief), in their order, with the queue's
    /// lock taken as seldom as possible. Ends with the last of them, with one that has to wait, or when the
    /// leased bodies have reached a limit. Takes the commands from `commands` and adds their results to
    /// `outcomes`, each with its dialect.
    pub(crate) fn execute_all(
        &mut self,
        commands: &mut VecDeque<(Command, Dialect)>,
        outcomes: &mut VecDeque<(Outcome, Dialect)>,
    ) {
        self.engine.execute_all(commands, outcomes);
    }

    /// Waits for what [`Outcome::Wait`] asked for. Blocks: before that, arrange for [`Canceller::cancel`] to
    /// be called when the client disconnects.
    pub fn wait(&mut self, wanted: &Wanted) -> Waited {
        self.engine.wait(wanted)
    }

    /// Blocks until everything that this session was told is as durable as the journal's policy promises.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if the journal can no longer be written: it is unknown
    /// which of the commands since the last settling survive.
    pub fn settle(&mut self) -> Result<(), Refusal> {
        self.engine.settle()
    }

    /// As [`Session::settle`], but if another thread is writing already, returns false instead of waiting.
    /// Then the callback that `prepare` makes is called once, by the thread that learns the result; it must
    /// not block.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable), as above; the callback gets the same.
    pub fn settle_or_call<C>(&mut self, prepare: impl FnOnce() -> C) -> Result<bool, Refusal>
    where
        C: FnOnce(Result<(), Refusal>) + Send + 'static,
    {
        self.engine.settle_or_call(prepare)
    }

    /// Ends the session: the jobs that it has leased are returned, and no attempt is charged.
    pub fn quit(self) {
        self.engine.quit();
    }

    /// A handle that ends this session's waits from another thread.
    ///
    /// ```
    /// use djqs::{Broker, broker::{Config, Outcome, Waited}, protocol::{Command, OnDrained, Wait}};
    /// let broker = Broker::in_memory(Config::default());
    /// let mut session = broker.connect();
    /// let canceller = session.canceller();
    /// std::thread::spawn(move || canceller.cancel());
    /// let (queues, wait, on_drained) = (Vec::new(), Wait::Forever, OnDrained::Wait);
    /// let get = Command::Lease { queues, wait, on_drained };
    /// let Outcome::Wait(wanted) = session.execute(get) else { unreachable!() };
    /// assert_eq!(session.wait(&wanted), Waited::Cancelled);
    /// ```
    pub fn canceller(&self) -> Canceller {
        Canceller { engine: self.engine.canceller() }
    }
}
