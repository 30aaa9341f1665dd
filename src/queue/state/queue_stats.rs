//! Counters of the state, of queues and of jobs.

use std::time::Duration;

use super::{PauseEnd, Place, QueueIx, State};
use crate::clock::Now;
use crate::job::{JobId, QueueName};
use crate::stats::{JobStats, QueueDetails, QueueStats, StateCounts, Totals};

impl State {
    /// The highest id given so far.
    pub fn last_id(&self) -> JobId {
        self.last_id
    }

    /// All jobs by state.
    pub fn counts(&self) -> StateCounts {
        self.counts
    }

    /// What has been counted since the state was created.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> u64 {
        self.names.len() as u64
    }

    /// How many sessions wait for a job.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The memory that is accounted for, and its limit, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        (self.budget.taken(), self.budget.limit())
    }

    /// How many jobs there are; what their ends take in the journal beyond those of plain jobs; and how
    /// many bytes the journal has to keep: the sum of [`job_bytes`](crate::change::job_bytes),
    /// [`pause_bytes`](crate::change::pause_bytes) and [`batch_bytes`](crate::change::batch_bytes).
    pub fn live(&self) -> (u64, u64, u64) {
        (self.counts.total(), self.extra_end_bytes, self.live_bytes)
    }

    /// One queue's counters.
    pub fn queue_stats(&self, now: Now, name: &QueueName) -> Option<QueueStats> {
        self.named(name).map(|queue| self.stats_of(now, queue))
    }

    /// All ready jobs of a priority below [`Priority::URGENT_BELOW`](crate::Priority::URGENT_BELOW).
    pub fn urgent(&self) -> u64 {
        self.urgent
    }

    /// One queue's counters, and how many sessions use and watch it. `default` has them even if it does not
    /// exist.
    pub fn queue_details(&self, now: Now, name: &QueueName) -> Option<QueueDetails> {
        let (using, watching) = self.attached_to(name);
        let Some(queue) = self.named(name) else {
            let nothing = || {
                let mut details = QueueDetails::of(name.clone());
                details.stats.totals = self.default_past.totals;
                QueueDetails { using, watching, pauses: self.default_past.pauses, ..details }
            };
            return (*name == QueueName::default()).then(nothing);
        };
        let found = self.queue(queue);
        Some(QueueDetails {
            stats: self.stats_of(now, queue),
            urgent: found.urgent,
            using,
            watching,
            pauses: found.past.pauses,
            pause_time: found.paused.and(found.pause_time),
        })
    }

    /// The names of at most `most` queues in the order in which they were created, from the first whose age
    /// is above `after`. Each comes with its age, from which the next call continues.
    pub fn queue_names(&self, after: u64, most: usize) -> Vec<(u64, QueueName)> {
        let rest = self.by_age.range(after.saturating_add(1)..).take(most);
        rest.map(|(&age, &queue)| (age, self.queue(queue).name.clone())).collect()
    }

    /// One job and its past.
    pub fn job_stats(&self, now: Now, id: JobId) -> Option<JobStats> {
        let slot = self.jobs.get(id)?;
        let past = slot.extra.as_ref().map(|extra| extra.past).unwrap_or_default();
        let counts = slot.counts();
        let lapses = u64::from(past.crashes) + u64::from(counts.crashes);
        let ended =
            lapses + u64::from(past.failures) + u64::from(counts.failures) + u64::from(counts.returns);
        let (leased, dead) =
            (matches!(slot.place(), Place::Leased { .. }), matches!(slot.place(), Place::Dead { .. }));
        Some(JobStats {
            age: Duration::from_secs((now.wall_ms / 1000).saturating_sub(slot.created_s.into())),
            delay: match slot.place() {
                Place::Delayed { seconds, .. } => Duration::from_secs(seconds.into()),
                _ => Duration::ZERO,
            },
            leases: ended + u64::from(leased),
            lapses,
            returns: counts.returns.into(),
            deaths: u64::from(past.deaths) + u64::from(dead),
            kicks: past.kicks.into(),
            job: self.job(now, id, slot),
        })
    }

    /// The counters of at most `most` queues, in the order and with the ages of [`State::queue_names`].
    pub fn queues(&self, now: Now, after: u64, most: usize) -> Vec<(u64, QueueStats)> {
        let rest = self.by_age.range(after.saturating_add(1)..).take(most);
        rest.map(|(&age, &queue)| (age, self.stats_of(now, queue))).collect()
    }

    fn stats_of(&self, now: Now, queue: QueueIx) -> QueueStats {
        let queue = self.queue(queue);
        QueueStats {
            name: queue.name.clone(),
            jobs: queue.counts,
            waiting: queue.waiters.len() as u64,
            paused: queue.paused.map(|end| match end {
                PauseEnd::Resumed => None,
                PauseEnd::At(end) => Some(end.until(now.mono)),
            }),
            totals: queue.past.totals,
        }
    }
}
