//! The figures as lists of a name, a kind, a value and a help text: what STATS, the second dialect's
//! documents and metrics are written from. New ones go to the end of their group.

use std::fmt;
use std::time::Duration;

use super::{JournalStats, QueueStats, ServerDetails, ServerStats, StateCounts, Totals};

/// One figure.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stat {
    /// Its name in STATS, such as `jobs_ready`. A unit is at its end; a counter ends in `_total`.
    pub name: &'static str,
    /// What kind of figure it is.
    pub kind: Kind,
    /// Its value now.
    pub value: Value,
    /// What it says, for people.
    pub help: &'static str,
}

/// What kind of figure a [`Stat`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, while the server runs.
    Counter,
    /// It is not a number.
    Text,
}

/// The value of a [`Stat`]. `Display` is how STATS shows it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A whole number.
    Number(u64),
    /// A ratio.
    Decimal(f64),
    /// Yes or no.
    Flag(bool),
    /// A time, shown to the microsecond.
    Time(Duration),
    /// A text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Decimal(decimal) => write!(f, "{decimal:.1}"),
            Value::Flag(flag) => f.write_str(if *flag { "yes" } else { "no" }),
            Value::Time(time) => write!(f, "{}.{:06}", time.as_secs(), time.subsec_micros()),
            Value::Text(text) => f.write_str(text),
        }
    }
}

fn gauge(name: &'static str, value: u64, help: &'static str) -> Stat {
    Stat { name, kind: Kind::Gauge, value: Value::Number(value), help }
}

fn counter(name: &'static str, value: u64, help: &'static str) -> Stat {
    Stat { name, kind: Kind::Counter, value: Value::Number(value), help }
}

fn flag(name: &'static str, value: bool, help: &'static str) -> Stat {
    Stat { name, kind: Kind::Gauge, value: Value::Flag(value), help }
}

fn text(name: &'static str, value: impl Into<String>, help: &'static str) -> Stat {
    Stat { name, kind: Kind::Text, value: Value::Text(value.into()), help }
}

impl ServerStats {
    /// The figures, in the order of STATS.
    pub fn list(&self) -> Vec<Stat> {
        // Every field by its name, so that one that is added can't be forgotten here.
        let ServerStats {
            version,
            pid,
            uptime,
            draining,
            jobs,
            queues,
            connections,
            connections_max,
            connections_total,
            waiting,
            memory_bytes,
            memory_max_bytes,
            totals,
            journal,
        } = self;
        let mut list = vec![
            text("version", version, "The server's version."),
            gauge("pid", u64::from(*pid), "The server's process number."),
            gauge("uptime_seconds", uptime.as_secs(), "Time since the server started."),
            flag("draining", *draining, "Whether new jobs are refused."),
            gauge("queues", *queues, "Queues that exist."),
            gauge("connections", *connections, "Connections that are open."),
            gauge("connections_max", *connections_max, "The most connections that are served."),
            counter("connections_total", *connections_total, "Connections accepted."),
            gauge("waiting", *waiting, "Connections that wait for a job."),
            gauge("memory_bytes", *memory_bytes, "Memory that jobs take, as accounted."),
            gauge("memory_max_bytes", *memory_max_bytes, "The limit on that memory."),
        ];
        list.extend(jobs.list());
        list.extend(totals.list());
        match journal {
            None => list.push(text("journal", "none", "When the journal is synced.")),
            Some(journal) => list.extend(journal.list()),
        }
        list
    }
}

impl JournalStats {
    fn list(&self) -> Vec<Stat> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let per_batch = Value::Decimal(self.records as f64 / self.batches.max(1) as f64);
        vec![
            text("journal", format!("fsync {}", self.fsync), "When the journal is synced."),
            gauge("journal_segments", self.segments, "Segments that hold records."),
            gauge("journal_total_bytes", self.total_bytes, "The size of those segments."),
            gauge("journal_live_bytes", self.live_bytes, "Bytes of records that are still needed."),
            gauge("journal_dead_bytes", self.dead_bytes, "Bytes of records that compaction will remove."),
            counter("journal_batches", self.batches, "Writes to the journal."),
            counter("journal_records", self.records, "Records written."),
            Stat {
                name: "journal_records_per_batch",
                kind: Kind::Gauge,
                value: per_batch,
                help: "Records in a write, on average.",
            },
            counter("journal_fsyncs", self.syncs, "Syncs of the journal."),
            gauge(
                "journal_fsync_p50_microseconds",
                micros(self.sync_p50),
                "Half of the syncs took at most this long.",
            ),
            gauge(
                "journal_fsync_p99_microseconds",
                micros(self.sync_p99),
                "99 of 100 syncs took at most this long.",
            ),
            gauge("journal_fsync_max_microseconds", micros(self.sync_max), "The slowest sync."),
            gauge("journal_replayed_records", self.replayed_records, "Records read at the start."),
            gauge("journal_replayed_bytes", self.replayed_bytes, "Bytes read at the start."),
            flag(
                "journal_replayed_clean",
                self.replayed_clean,
                "Whether the server before ended gracefully.",
            ),
        ]
    }
}

impl QueueStats {
    /// The figures, in the order of STATS. `paused` is the pause as that shows it.
    pub fn list(&self, paused: String) -> Vec<Stat> {
        let QueueStats { name, jobs, waiting, paused: _, totals } = self;
        let mut list = vec![
            text("queue", name.as_str(), "The queue's name."),
            gauge("waiting", *waiting, "Connections that wait for its jobs."),
            text("paused", paused, "Whether it is paused, or for how much longer."),
        ];
        list.extend(jobs.list());
        list.extend(totals.list());
        list
    }
}

impl StateCounts {
    fn list(&self) -> [Stat; 6] {
        let StateCounts { ready, delayed, leased, dead, done, cancelled } = *self;
        [
            gauge("jobs_ready", ready, "Jobs that are ready."),
            gauge("jobs_delayed", delayed, "Jobs that are delayed, or back off after a failure."),
            gauge("jobs_leased", leased, "Jobs that workers have."),
            gauge("jobs_dead", dead, "Jobs that have failed for good."),
            gauge("jobs_done", done, "Jobs that are done and kept with their results."),
            gauge("jobs_cancelled", cancelled, "Jobs that were cancelled."),
        ]
    }
}

impl Totals {
    fn list(&self) -> [Stat; 10] {
        let Totals { submitted, leased, acked, failed, crashed, returned, died, retried, deleted, cancelled } =
            *self;
        [
            counter("submitted_total", submitted, "Jobs accepted."),
            counter("leased_total", leased, "Leases given."),
            counter("acked_total", acked, "Jobs done."),
            counter("failed_total", failed, "Failures that workers reported."),
            counter("crashed_total", crashed, "Leases that lapsed, or whose connection was lost."),
            counter("returned_total", returned, "Jobs returned undone."),
            counter("died_total", died, "Jobs that became dead."),
            counter("retried_total", retried, "Dead or cancelled jobs made ready again."),
            counter("deleted_total", deleted, "Jobs deleted or purged."),
            counter("cancelled_total", cancelled, "Jobs cancelled."),
        ]
    }
}

impl ServerDetails {
    /// The figures of [`ServerStats::list`], and more. [`ServerDetails::commands`] are not among them.
    pub fn list(&self) -> Vec<Stat> {
        let ServerDetails {
            stats,
            urgent,
            commands: _,
            submitters,
            workers,
            rewritten,
            body_max,
            machine,
            cpu: (user, system),
        } = self;
        let time =
            |name, time: &Duration, help| Stat { name, kind: Kind::Counter, value: Value::Time(*time), help };
        let segments = |of: fn(&JournalStats) -> u64| stats.journal.as_deref().map_or(0, of);
        let mut list = stats.list();
        list.extend([
            gauge("jobs_urgent", *urgent, "Ready jobs of a priority below 1024."),
            gauge("submitters", *submitters, "Open connections that have submitted."),
            gauge("workers", *workers, "Open connections that have asked for jobs."),
            gauge("body_max_bytes", *body_max, "The largest body that is accepted."),
            time("cpu_user_seconds_total", user, "Processor time of the process."),
            time("cpu_system_seconds_total", system, "Processor time of the kernel for the process."),
            gauge(
                "journal_oldest_segment",
                segments(|journal| journal.oldest_segment),
                "The oldest segment's number.",
            ),
            gauge(
                "journal_newest_segment",
                segments(|journal| journal.newest_segment),
                "The newest segment's number.",
            ),
            gauge(
                "journal_segment_bytes",
                segments(|journal| journal.segment_bytes),
                "The size of a segment.",
            ),
            counter("journal_rewritten_jobs_total", *rewritten, "Jobs that compaction has written anew."),
            text("instance", &machine.instance, "A word that no other run of a server has."),
            text("hostname", &machine.hostname, "The machine's name."),
            text("os", &machine.os, "The kernel's version."),
            text("platform", &machine.platform, "The processor's architecture."),
        ]);
        list
    }
}
