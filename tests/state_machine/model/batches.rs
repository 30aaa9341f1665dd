//! Batches in the model: what is gone of each, and when it is forgotten. The rest is seen from the jobs.

use super::*;
use djqs::internal::queue::state::BATCH_KEPT;

#[derive(Clone, Debug)]
pub(crate) struct ModelBatch {
    pub(crate) name: BatchName,
    /// Its jobs that are gone: those that were done, those that were cancelled, and the others.
    done: u64,
    cancelled: u64,
    deleted: u64,
    /// When it is forgotten, unless it has jobs or somebody waits for it.
    forgotten_at: Moment,
}

impl Model {
    pub(crate) fn batch_stats(&self, name: &BatchName) -> BatchStats {
        let Some(batch) = self.batch(name) else { return BatchStats::default() };
        let mut jobs = self.counts_of(|job| job.options.batch.as_ref() == Some(name));
        jobs.done += batch.done;
        jobs.cancelled += batch.cancelled;
        BatchStats { jobs, deleted: batch.deleted }
    }

    /// Whether BATCH says `complete=yes`.
    pub(crate) fn is_complete(&self, name: &BatchName, total: u64) -> bool {
        let stats = self.batch_stats(name);
        let StateCounts { ready, delayed, leased, dead, done, cancelled, .. } = stats.jobs;
        let (busy, ended) = (ready + delayed + leased, dead + done + cancelled + stats.deleted);
        busy == 0 && ended >= total.max(1)
    }

    pub(crate) fn wait_for_batch(
        &mut self,
        session: SessionId,
        name: &BatchName,
        total: u64,
    ) -> Result<(), Code> {
        let bound =
            self.memory_max.saturating_add((self.memory_max / 20).saturating_sub(QUEUE_OVERHEAD_BYTES));
        if self.batch(name).is_none() && self.memory() + BATCH_OVERHEAD_BYTES > bound {
            return Err(Code::Full);
        }
        self.make_batch(name);
        self.waiters_for_batches.push((session, name.clone(), total));
        Ok(())
    }

    pub(super) fn batch(&self, name: &BatchName) -> Option<&ModelBatch> {
        self.batches.iter().find(|batch| batch.name == *name)
    }

    pub(super) fn make_batch(&mut self, name: &BatchName) {
        if self.batch(name).is_none() {
            let (name, forgotten_at) = (name.clone(), Moment::from_millis(0));
            self.batches.push(ModelBatch { name, done: 0, cancelled: 0, deleted: 0, forgotten_at });
        }
    }

    /// Counts a job that was just removed.
    pub(super) fn count_gone(&mut self, now: Now, job: &ModelJob) {
        let Some(name) = &job.options.batch else { return };
        let batch = self.batches.iter_mut().find(|batch| batch.name == *name).expect("it had this job");
        match job.state() {
            JobState::Done => batch.done += 1,
            JobState::Cancelled => batch.cancelled += 1,
            _ => batch.deleted += 1,
        }
        batch.forgotten_at = now.mono.after(BATCH_KEPT);
    }

    /// Ends the waits for a batch that is complete: of those for few jobs first.
    pub(super) fn wake_complete(&mut self, name: Option<BatchName>) {
        let Some(name) = name else { return };
        let mut woken: Vec<_> = self.waiters_for_batches.clone();
        woken.retain(|(_, batch, total)| *batch == name && self.is_complete(&name, *total));
        woken.sort_by_key(|&(_, _, total)| total);
        for (session, ..) in woken {
            self.waiters_for_batches.retain(|waiter| waiter.0 != session);
            self.hand(session, Handed::Batch(self.batch_stats(&name)));
        }
    }

    /// Those batches that are known only because somebody waited for them.
    pub(super) fn forget_unused_batches(&mut self) {
        let used: Vec<_> = self.batches.iter().map(|batch| self.is_used(batch)).collect();
        let mut used = used.into_iter();
        self.batches.retain(|batch| {
            let gone = batch.done + batch.cancelled + batch.deleted;
            used.next().expect("there are as many") || gone > 0
        });
    }

    pub(crate) fn forgotten_batches(&self) -> impl Iterator<Item = (Moment, Due)> {
        let unused = self.batches.iter().filter(|batch| !self.is_used(batch));
        unused.map(|batch| (batch.forgotten_at, Due::BatchForgotten(batch.name.clone())))
    }

    /// Moves the times of batches to those of another clock.
    pub(super) fn move_batches(&mut self, moved: impl Fn(Moment) -> Option<Moment>) {
        for batch in &mut self.batches {
            batch.forgotten_at = moved(batch.forgotten_at).unwrap_or(Moment::from_millis(0));
        }
    }

    fn is_used(&self, batch: &ModelBatch) -> bool {
        self.jobs.iter().any(|job| job.options.batch.as_ref() == Some(&batch.name))
            || self.waiters_for_batches.iter().any(|waiter| waiter.1 == batch.name)
    }
}
