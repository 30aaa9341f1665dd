//! What the server counts, as plain values; `stats/list.rs` makes lists of them, which the dialects write as
//! text.

use std::time::Duration;

use crate::job::{Job, JobId, QueueName, Wish, WorkerName};
pub use list::{Kind, Stat, Value};

mod list;

/// The number of jobs in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Ready jobs.
    pub ready: u64,
    /// Delayed jobs, including those that back off after a failure.
    pub delayed: u64,
    /// Leased jobs.
    pub leased: u64,
    /// Dead jobs.
    pub dead: u64,
    /// Jobs that are done and kept.
    pub done: u64,
    /// Cancelled jobs.
    pub cancelled: u64,
}

impl StateCounts {
    /// All jobs.
    pub fn total(&self) -> u64 {
        let StateCounts { ready, delayed, leased, dead, done, cancelled } = *self;
        ready + delayed + leased + dead + done + cancelled
    }

    /// Jobs that are still to be done.
    pub fn unfinished(&self) -> u64 {
        self.ready + self.delayed + self.leased
    }
}

/// What has happened since the queue was created, or since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Jobs accepted.
    pub submitted: u64,
    /// Leases given.
    pub leased: u64,
    /// Jobs done.
    pub acked: u64,
    /// Failures that workers reported.
    pub failed: u64,
    /// Leases that lapsed or whose connection was lost.
    pub crashed: u64,
    /// Jobs returned undone.
    pub returned: u64,
    /// Jobs that became dead.
    pub died: u64,
    /// Dead or cancelled jobs made ready again.
    pub retried: u64,
    /// Jobs deleted or purged.
    pub deleted: u64,
    /// Jobs cancelled.
    pub cancelled: u64,
}

/// The counts of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Its jobs by state. Those that are done or cancelled are counted here also when they are gone.
    pub jobs: StateCounts,
    /// Its jobs that were deleted before they were done or cancelled.
    pub deleted: u64,
}

impl BatchStats {
    /// All jobs that were counted in.
    pub fn total(&self) -> u64 {
        self.jobs.total() + self.deleted
    }

    /// The counts with their names, in the order of BATCH.
    pub fn list(&self) -> [(&'static str, u64); 8] {
        let BatchStats { jobs, deleted } = *self;
        let StateCounts { ready, delayed, leased, dead, done, cancelled } = jobs;
        [
            ("total", self.total()),
            ("ready", ready),
            ("delayed", delayed),
            ("leased", leased),
            ("done", done),
            ("dead", dead),
            ("cancelled", cancelled),
            ("deleted", deleted),
        ]
    }

    /// Whether one of its jobs is still to be done.
    pub fn is_busy(&self) -> bool {
        self.jobs.unfinished() > 0
    }

    /// Whether at least `total` jobs, and at least one, were counted in, and all have ended.
    pub fn is_complete(&self, total: u64) -> bool {
        !self.is_busy() && self.total() >= total.max(1)
    }
}

/// A worker that has introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Its name.
    pub name: WorkerName,
    /// The machine it says it runs on.
    pub host: Option<Box<str>>,
    /// Its process number.
    pub pid: Option<u32>,
    /// How many jobs it runs at a time.
    pub slots: Option<u32>,
    /// Its version.
    pub version: Option<Box<str>>,
    /// What an operator wants of it.
    pub wish: Wish,
    /// Its connections that are open.
    pub connections: u64,
    /// How long it has been known.
    pub known_for: Duration,
    /// The queues of which its connections last asked for jobs.
    pub queues: Vec<QueueName>,
    /// How many jobs it holds.
    pub held: u64,
    /// These jobs; of very many, those that lapse first.
    pub jobs: Vec<HeldJob>,
    /// Jobs that it has reported as done since it is known.
    pub done: u64,
    /// Failures that it has reported since it is known.
    pub failed: u64,
}

/// A job that a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldJob {
    /// Which.
    pub id: JobId,
    /// For how long.
    pub held_for: Duration,
}

/// One queue's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Its name.
    pub name: QueueName,
    /// Its jobs by state.
    pub jobs: StateCounts,
    /// Connections that wait for its jobs.
    pub waiting: u64,
    /// Whether it is paused, and for how much longer (`None` inside: until it is resumed).
    pub paused: Option<Option<Duration>>,
    /// What has happened since it was created.
    pub totals: Totals,
}

impl QueueStats {
    /// The counters of an empty queue, to which nothing has happened. Servers show queues; a test makes its
    /// own and sets the fields that it needs.
    pub fn new(name: QueueName) -> QueueStats {
        QueueStats { name, jobs: StateCounts::default(), waiting: 0, paused: None, totals: Totals::default() }
    }
}

/// The server's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// The server's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Time since it started.
    pub uptime: Duration,
    /// Whether it refuses new jobs.
    pub draining: bool,
    /// All jobs by state.
    pub jobs: StateCounts,
    /// Queues that exist.
    pub queues: u64,
    /// Connections open now.
    pub connections: u64,
    /// The most connections that it will serve.
    pub connections_max: u64,
    /// Connections accepted since it started.
    pub connections_total: u64,
    /// Connections that wait for a job.
    pub waiting: u64,
    /// The memory that jobs take, as accounted, in bytes.
    pub memory_bytes: u64,
    /// The limit on it, in bytes.
    pub memory_max_bytes: u64,
    /// What has happened since the server started.
    pub totals: Totals,
    /// The journal's counters; `None` if jobs are in memory only.
    pub journal: Option<Box<JournalStats>>,
}

/// What a journal has done since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JournalStats {
    /// When it is synced, as `--fsync` takes it.
    pub fsync: String,
    /// Segments in use.
    pub segments: u64,
    /// The number of the oldest of them.
    pub oldest_segment: u64,
    /// The number of the newest of them, which is being written.
    pub newest_segment: u64,
    /// The size of a new segment, in bytes.
    pub segment_bytes: u64,
    /// Bytes on disk, including files of zeros for segments to come.
    pub total_bytes: u64,
    /// Bytes of the newest whole record of each job, and of what else must be kept.
    pub live_bytes: u64,
    /// Bytes of segments in use that are not live.
    pub dead_bytes: u64,
    /// Batches written.
    pub batches: u64,
    /// Records written.
    pub records: u64,
    /// Syncs of batches.
    pub syncs: u64,
    /// Half of these syncs took at most this long.
    pub sync_p50: Duration,
    /// 99 of 100 of these syncs took at most this long.
    pub sync_p99: Duration,
    /// The longest of these syncs.
    pub sync_max: Duration,
    /// Records read when it was opened.
    pub replayed_records: u64,
    /// Bytes read when it was opened.
    pub replayed_bytes: u64,
    /// Whether the server before ended gracefully, or there was none.
    pub replayed_clean: bool,
}

/// One job and its history. Everything that is not in [`Job::counts`] is counted since the server started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobStats {
    /// The job.
    pub job: Job,
    /// Time since it was submitted, in whole seconds.
    pub age: Duration,
    /// The length of its current delay, in whole seconds; zero if it has none.
    pub delay: Duration,
    /// How often it was leased.
    pub leases: u64,
    /// How often a lease of it lapsed or was lost.
    pub lapses: u64,
    /// How often it was returned.
    pub returns: u64,
    /// How often it became dead.
    pub deaths: u64,
    /// How often an operator made it ready, from dead or before its time.
    pub kicks: u64,
}

impl JobStats {
    /// The history of a job that was submitted just now. See [`QueueStats::new`].
    pub fn new(job: Job) -> JobStats {
        let (age, delay) = (Duration::ZERO, Duration::ZERO);
        JobStats { job, age, delay, leases: 0, lapses: 0, returns: 0, deaths: 0, kicks: 0 }
    }
}

/// One queue's counters, and how many connections use and watch it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDetails {
    /// Its counters.
    pub stats: QueueStats,
    /// Ready jobs of a priority below [`Priority::URGENT_BELOW`](crate::Priority::URGENT_BELOW).
    pub urgent: u64,
    /// Connections that use it for what they submit.
    pub using: u64,
    /// Connections that watch it.
    pub watching: u64,
    /// How often it was paused since it was created.
    pub pauses: u64,
    /// The length of its pause; `None` if it is not paused, or paused until it is resumed.
    pub pause_time: Option<Duration>,
}

impl QueueDetails {
    /// The details of a queue that does not exist.
    pub fn of(name: QueueName) -> QueueDetails {
        QueueDetails {
            stats: QueueStats::new(name),
            urgent: 0,
            using: 0,
            watching: 0,
            pauses: 0,
            pause_time: None,
        }
    }
}

/// The server's counters, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerDetails {
    /// The counters of STATS.
    pub stats: ServerStats,
    /// Ready jobs of a priority below [`Priority::URGENT_BELOW`](crate::Priority::URGENT_BELOW).
    pub urgent: u64,
    /// Commands since the server started.
    pub commands: CommandCounts,
    /// Connections that are open and have submitted.
    pub submitters: u64,
    /// Connections that are open and have asked for jobs.
    pub workers: u64,
    /// Jobs that compaction has written anew.
    pub rewritten: u64,
    /// The largest body, in bytes.
    pub body_max: u64,
    /// Where it runs.
    pub machine: Machine,
    /// Processor time of the process, in user mode and in the kernel.
    pub cpu: (Duration, Duration),
}

/// Where a server runs, and which run it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Machine {
    /// The machine's name.
    pub hostname: String,
    /// The kernel's version.
    pub os: String,
    /// The processor's architecture.
    pub platform: String,
    /// A random word that no other run of any server has.
    pub instance: String,
}

/// The commands that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as its command is")]
#[non_exhaustive]
pub enum Counted {
    Submit,
    Peek,
    PeekReady,
    PeekDelayed,
    PeekDead,
    LeaseForever,
    LeaseWithin,
    LeaseJob,
    Finish,
    Return,
    Use,
    Watch,
    Ignore,
    Bury,
    Kick,
    Touch,
    ServerStats,
    JobStats,
    QueueStats,
    QueueNames,
    Used,
    Watched,
    Pause,
}

/// How often each command was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandCounts([u64; CommandCounts::LEN]);

impl CommandCounts {
    /// How many kinds of commands are counted.
    pub const LEN: usize = Counted::Pause as usize + 1;

    /// How often this one was given.
    pub fn of(&self, counted: Counted) -> u64 {
        self.0[counted as usize]
    }

    /// Adds counts, given in the order of [`Counted`].
    pub fn add(&mut self, counts: impl Iterator<Item = u64>) {
        self.0.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}
