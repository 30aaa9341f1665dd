//! What the state can tell of itself.

use super::{PAGE_OVERHEAD_BYTES, PauseEnd, QueueIx, State, TERMS_OVERHEAD_BYTES};
use crate::clock::Now;
use crate::job::{JobId, QueueName};
use crate::stats::{QueueStats, StateCounts, Totals};

impl State {
    /// The highest id given so far.
    pub fn last_id(&self) -> JobId {
        self.last_id
    }

    /// All jobs by state.
    pub fn counts(&self) -> StateCounts {
        self.counts
    }

    /// What has happened since the state was made.
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

    /// What all jobs take in memory, as accounted, and the limit on it; in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let pages = self.jobs.pages() * PAGE_OVERHEAD_BYTES;
        let terms = self.terms.len() * TERMS_OVERHEAD_BYTES;
        (self.memory + pages + terms, self.memory_max)
    }

    /// How many jobs there are, and what of the journal has to be kept for them and for paused queues, in bytes, as the
    /// [`Measure`](crate::change::Measure) has it.
    pub fn live(&self) -> (u64, u64) {
        let StateCounts { ready, delayed, leased, dead } = self.counts;
        (ready + delayed + leased + dead, self.live_bytes)
    }

    /// One queue's counters.
    pub fn queue_stats(&self, now: Now, name: &QueueName) -> Option<QueueStats> {
        self.names.get(name).map(|&queue| self.stats_of(now, queue))
    }

    /// The counters of queues in the order in which they came to be, after the one of that age; at most `most`, each
    /// with its age, to go on from.
    pub fn queues(&self, now: Now, after: u64, most: usize) -> Vec<(u64, QueueStats)> {
        let rest = self.by_age.range(after.saturating_add(1)..).take(most);
        rest.map(|(&age, &queue)| (age, self.stats_of(now, queue))).collect()
    }

    fn stats_of(&self, now: Now, queue: QueueIx) -> QueueStats {
        let queue = self.queue(queue);
        QueueStats {
            name: queue.name.clone(),
            jobs: queue.counts,
            waiting: queue.line.len() as u64,
            paused: queue.paused.map(|end| match end {
                PauseEnd::Resumed => None,
                PauseEnd::At(end) => Some(end.until(now.mono)),
            }),
            totals: queue.totals,
        }
    }
}
