//! What the server counts, as plain values: the dialects turn them into text.

use std::time::Duration;

use crate::job::QueueName;
pub use crate::journal::JournalStats;

/// How many jobs are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Ready jobs.
    pub ready: u64,
    /// Delayed jobs, those that back off included.
    pub delayed: u64,
    /// Leased jobs.
    pub leased: u64,
    /// Dead jobs.
    pub dead: u64,
}

/// What has happened since the queue came to be, or since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs accepted.
    pub submitted: u64,
    /// Leases handed out.
    pub leased: u64,
    /// Jobs done.
    pub acked: u64,
    /// Failures that workers reported.
    pub failed: u64,
    /// Leases that lapsed or whose connection was lost.
    pub crashed: u64,
    /// Jobs handed back undone.
    pub returned: u64,
    /// Jobs that became dead.
    pub died: u64,
    /// Dead jobs brought back.
    pub retried: u64,
    /// Jobs deleted or purged.
    pub deleted: u64,
}

/// One queue's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Its name.
    pub name: QueueName,
    /// Its jobs by state.
    pub jobs: StateCounts,
    /// Connections that wait for its jobs.
    pub waiting: u64,
    /// Whether it is paused, and for how much longer (`None` inside: until it is resumed).
    pub paused: Option<Option<Duration>>,
    /// What has happened since it came to be.
    pub totals: Totals,
}

/// The server's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// The server's version.
    pub version: String,
    /// Its process number.
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
    /// Memory taken by jobs, as accounted, in bytes.
    pub memory_bytes: u64,
    /// The limit on it, in bytes.
    pub memory_max_bytes: u64,
    /// What has happened since the server started.
    pub totals: Totals,
    /// The journal's counters; `None` where jobs are in memory only.
    pub journal: Option<Box<JournalStats>>,
}
