//! The lines of STATS and QUEUES as values. A figure that an older server does not send is zero; one that
//! this version does not know is ignored.

use std::collections::HashMap;
use std::time::Duration;

use crate::job::QueueName;
use crate::protocol::native::parse_duration;
use crate::stats::{JournalStats, QueueStats, ServerStats, StateCounts, Totals};

/// A queue, as QUEUES shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSummary {
    /// Its name.
    pub name: QueueName,
    /// Its jobs by state.
    pub jobs: StateCounts,
    /// Connections that wait for its jobs.
    pub waiting: u64,
    /// Whether it is paused, and for how much longer (`None` inside: until it is resumed).
    pub paused: Option<Option<Duration>>,
}

/// Reads the lines of STATS; `None` if they are something else.
pub(super) fn server_stats(lines: &[String]) -> Option<ServerStats> {
    let figures = Figures::read(lines.iter().map(|line| line.split_once(": ")))?;
    let journal = match figures.text("journal")? {
        "none" => None,
        _ => Some(Box::new(figures.journal()?)),
    };
    Some(ServerStats {
        version: figures.text("version")?.to_owned(),
        pid: figures.number("pid")?.try_into().ok()?,
        uptime: Duration::from_secs(figures.number("uptime_seconds")?),
        draining: figures.flag("draining"),
        jobs: figures.jobs("jobs_")?,
        queues: figures.number("queues")?,
        connections: figures.number("connections")?,
        connections_max: figures.number("connections_max")?,
        connections_total: figures.number("connections_total")?,
        waiting: figures.number("waiting")?,
        memory_bytes: figures.number("memory_bytes")?,
        memory_max_bytes: figures.number("memory_max_bytes")?,
        totals: figures.totals()?,
        journal,
    })
}

/// Reads the lines of STATS for a queue; `None` if they are something else.
pub(super) fn queue_stats(lines: &[String]) -> Option<QueueStats> {
    let figures = Figures::read(lines.iter().map(|line| line.split_once(": ")))?;
    Some(QueueStats {
        name: QueueName::new(figures.text("queue")?).ok()?,
        jobs: figures.jobs("jobs_")?,
        waiting: figures.number("waiting")?,
        paused: figures.paused()?,
        totals: figures.totals()?,
    })
}

/// Reads a line of QUEUES; `None` if it is something else.
pub(super) fn queue_summary(line: &str) -> Option<QueueSummary> {
    let (name, rest) = line.split_once(' ')?;
    let figures = Figures::read(rest.split(' ').map(|word| word.split_once('=')))?;
    Some(QueueSummary {
        name: QueueName::new(name).ok()?,
        jobs: figures.jobs("")?,
        waiting: figures.number("waiting")?,
        paused: figures.paused()?,
    })
}

struct Figures<'a>(HashMap<&'a str, &'a str>);

impl<'a> Figures<'a> {
    fn read(pairs: impl Iterator<Item = Option<(&'a str, &'a str)>>) -> Option<Figures<'a>> {
        pairs.collect::<Option<_>>().map(Figures)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).map_or(Some(0), |value| value.parse().ok())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("yes")
    }

    fn micros(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_micros)
    }

    fn paused(&self) -> Option<Option<Option<Duration>>> {
        match self.text("paused")? {
            "no" => Some(None),
            "yes" => Some(Some(None)),
            time => Some(Some(Some(parse_duration(time).ok()?))),
        }
    }

    fn jobs(&self, prefix: &str) -> Option<StateCounts> {
        let number = |state| self.number(&format!("{prefix}{state}"));
        Some(StateCounts {
            ready: number("ready")?,
            delayed: number("delayed")?,
            leased: number("leased")?,
            dead: number("dead")?,
            // Older servers don't have these.
            done: number("done").unwrap_or_default(),
            cancelled: number("cancelled").unwrap_or_default(),
        })
    }

    fn totals(&self) -> Option<Totals> {
        Some(Totals {
            submitted: self.number("submitted_total")?,
            leased: self.number("leased_total")?,
            acked: self.number("acked_total")?,
            failed: self.number("failed_total")?,
            crashed: self.number("crashed_total")?,
            returned: self.number("returned_total")?,
            died: self.number("died_total")?,
            retried: self.number("retried_total")?,
            deleted: self.number("deleted_total")?,
            cancelled: self.number("cancelled_total").unwrap_or_default(),
        })
    }

    /// The journal's figures. STATS does not have the numbers of its segments, nor their size.
    fn journal(&self) -> Option<JournalStats> {
        Some(JournalStats {
            fsync: self.text("journal")?.strip_prefix("fsync ")?.to_owned(),
            segments: self.number("journal_segments")?,
            total_bytes: self.number("journal_total_bytes")?,
            live_bytes: self.number("journal_live_bytes")?,
            dead_bytes: self.number("journal_dead_bytes")?,
            batches: self.number("journal_batches")?,
            records: self.number("journal_records")?,
            syncs: self.number("journal_fsyncs")?,
            sync_p50: self.micros("journal_fsync_p50_microseconds")?,
            sync_p99: self.micros("journal_fsync_p99_microseconds")?,
            sync_max: self.micros("journal_fsync_max_microseconds")?,
            replayed_records: self.number("journal_replayed_records")?,
            replayed_bytes: self.number("journal_replayed_bytes")?,
            replayed_clean: self.flag("journal_replayed_clean"),
            ..JournalStats::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Reply;
    use crate::protocol::native::{Answer, read_answer, write_reply};

    fn lines(reply: &Reply) -> Vec<String> {
        let mut out = Vec::new();
        write_reply(reply, &mut out);
        let Ok(Some((_, Answer::Lines(lines)))) = read_answer(&out) else { panic!("{reply:?}") };
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn totals(first: u64) -> Totals {
        let [submitted, leased, acked, failed, crashed, returned, died, retried, deleted, cancelled] =
            std::array::from_fn(|n| first + n as u64);
        Totals { submitted, leased, acked, failed, crashed, returned, died, retried, deleted, cancelled }
    }

    #[test]
    fn figures_are_read_as_they_were_written() {
        let journal = JournalStats {
            fsync: "50ms".into(),
            segments: 1,
            total_bytes: 2,
            live_bytes: 3,
            dead_bytes: 4,
            batches: 5,
            records: 6,
            syncs: 7,
            sync_p50: Duration::from_micros(8),
            sync_p99: Duration::from_micros(9),
            sync_max: Duration::from_micros(10),
            replayed_records: 11,
            replayed_bytes: 12,
            replayed_clean: true,
            ..JournalStats::default()
        };
        for journal in [None, Some(Box::new(journal))] {
            let stats = ServerStats {
                version: "1.2.3".into(),
                pid: 4,
                uptime: Duration::from_secs(5),
                draining: true,
                jobs: StateCounts { ready: 6, delayed: 7, leased: 8, dead: 9, done: 91, cancelled: 92 },
                queues: 10,
                connections: 11,
                connections_max: 12,
                connections_total: 13,
                waiting: 14,
                memory_bytes: 15,
                memory_max_bytes: 16,
                totals: totals(17),
                journal,
            };
            assert_eq!(server_stats(&lines(&Reply::ServerStats(Box::new(stats.clone())))), Some(stats));
        }
        for paused in [None, Some(None), Some(Some(Duration::from_millis(1500)))] {
            let name = QueueName::new("mail").unwrap();
            let jobs = StateCounts { ready: 1, delayed: 2, leased: 3, dead: 4, done: 41, cancelled: 42 };
            let stats = QueueStats { name, jobs, waiting: 5, paused, totals: totals(6) };
            assert_eq!(queue_stats(&lines(&Reply::QueueStats(Box::new(stats.clone())))), Some(stats.clone()));
            let QueueStats { name, jobs, waiting, paused, totals: _ } = stats.clone();
            let summary = QueueSummary { name, jobs, waiting, paused };
            assert_eq!(queue_summary(&lines(&Reply::Queues(vec![stats]))[0]), Some(summary));
        }
    }

    #[test]
    fn figures_that_are_not_known_or_not_there_are_no_error() {
        let summary = queue_summary("mail ready=1 later=x paused=no").unwrap();
        assert_eq!((summary.jobs.ready, summary.jobs.dead, summary.paused), (1, 0, None));
        assert_eq!(queue_summary("mail ready=many paused=no"), None);
        assert_eq!(server_stats(&["something else".to_owned()]), None);
    }
}
