//! Batches: jobs that are followed together, by a name that their submissions share.
//!
//! A batch counts its jobs by state, and remembers how many are gone and how. It knows which of them are still
//! there, so that they can be listed and worked on. It is forgotten an hour after its last change, if all its
//! jobs have ended and none is left.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::change::{BatchCounts, batch_bytes};
use crate::stats::BatchStats;

/// The most batches that are remembered at one time. A submission to one more is refused.
pub const BATCHES_MAX: usize = 100_000;

/// The accounted memory of a batch without its jobs.
pub const BATCH_OVERHEAD_BYTES: u64 = 512;

/// How long a batch is remembered after its last change, once its jobs have ended and are gone.
pub const BATCH_KEPT: Duration = Duration::from_secs(3600);

/// The most jobs that are restored as gone. Only a forged journal has more, and sums must not overflow.
const GONE_MAX: u64 = 1 << 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BatchIx(pub(super) u32);

#[derive(Debug, Default)]
pub(super) struct Batches {
    all: Vec<Option<Batch>>,
    free: Vec<u32>,
    names: BTreeMap<BatchName, BatchIx>,
}

#[derive(Debug)]
pub(super) struct Batch {
    name: BatchName,
    /// Its jobs that are still there.
    there: StateCounts,
    /// The same by state, oldest first.
    pub(super) listed: IdSet<JobState>,
    /// Its jobs that were done, were cancelled, or were deleted before that, and are gone.
    gone: Gone,
    /// When it last changed.
    changed_wall_ms: u64,
    /// When it is forgotten, unless it has jobs or somebody waits for it.
    forget_at: Moment,
    /// Sessions that wait until it is complete, by the number of jobs that they wait for, and their tickets.
    waiters: BTreeMap<(u64, u64), SessionId>,
    scheduled_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gone {
    done: u64,
    cancelled: u64,
    deleted: u64,
}

/// Why a job is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is done.
    Done,
    /// It was deleted, or its time as done or cancelled is over.
    Dropped,
}

impl Batch {
    fn stats(&self) -> BatchStats {
        let StateCounts { done, cancelled, .. } = self.there;
        BatchStats {
            jobs: StateCounts {
                done: done + self.gone.done,
                cancelled: cancelled + self.gone.cancelled,
                ..self.there
            },
            deleted: self.gone.deleted,
        }
    }

    fn is_empty(&self) -> bool {
        self.there == StateCounts::default()
    }

    fn counts(&self) -> BatchCounts {
        let Gone { done, cancelled, deleted } = self.gone;
        let (name, changed_wall_ms) = (self.name.clone(), self.changed_wall_ms);
        BatchCounts { name, done, cancelled, deleted, changed_wall_ms }
    }
}

impl State {
    /// The counts of a batch. One that is not known has no jobs.
    pub fn batch_stats(&self, name: &BatchName) -> BatchStats {
        self.batches.names.get(name).map_or_else(BatchStats::default, |&batch| self.batch(batch).stats())
    }

    /// Makes a session wait until a batch is complete with at least `total` jobs. [`Effects::wakes`] names it
    /// then.
    ///
    /// Call it under the same lock as [`State::batch_stats`], which found that it is not.
    ///
    /// # Errors
    /// [`Code::Full`] if the batch is not known yet, and there is no room for it.
    pub fn wait_for_batch(
        &mut self,
        session: SessionId,
        name: &BatchName,
        total: u64,
    ) -> Result<(), Refusal> {
        self.room_for_batch(name, Purpose::Queue)?;
        let batch = self.batch_named(name);
        let ticket = self.next_ticket();
        self.batch_mut(batch).waiters.insert((total, ticket), session);
        self.session_mut(session).pending_wait = Some(PendingWait::Batch { ticket, batch, total });
        Ok(())
    }

    /// Takes the counts of the batch that the session has waited for.
    pub fn take_batch(&mut self, session: SessionId) -> Option<BatchStats> {
        match self.session_mut(session).handed.take()? {
            Handed::Batch(stats) => Some(*stats),
            _ => None,
        }
    }

    pub(super) fn forget_batch_waiter(&mut self, batch: BatchIx, total: u64, ticket: u64) {
        self.batch_mut(batch).waiters.remove(&(total, ticket));
        let found = self.batch(batch);
        if !found.waiters.is_empty() {
            return;
        }
        if found.stats().total() == 0 {
            self.drop_batch(batch);
        } else if found.is_empty() {
            // Its timer may have passed over it while somebody waited.
            self.schedule_batch(batch, found.forget_at);
        }
    }

    /// Checks that a batch is known, or that there is room for it.
    pub(super) fn room_for_batch(&self, name: &BatchName, purpose: Purpose) -> Result<(), Refusal> {
        if self.batches.names.contains_key(name) {
            return Ok(());
        }
        if self.batches.names.len() >= BATCHES_MAX {
            return Err(Refusal::full(
                FULL_RETRY_AFTER,
                format!(
                    "there are {BATCHES_MAX} batches: one is forgotten an hour after its jobs have ended and are gone"
                ),
            ));
        }
        if !self.budget.has_room(purpose, BATCH_OVERHEAD_BYTES) {
            let (taken, limit) = self.memory();
            return Err(Refusal::full(
                FULL_RETRY_AFTER,
                format!("no memory for one more batch, with {taken} of {limit} bytes taken (--max-memory)"),
            ));
        }
        Ok(())
    }

    pub(super) fn batch_named(&mut self, name: &BatchName) -> BatchIx {
        if let Some(&batch) = self.batches.names.get(name) {
            return batch;
        }
        let batch = Batch {
            name: name.clone(),
            there: StateCounts::default(),
            listed: IdSet::new(),
            gone: Gone::default(),
            changed_wall_ms: 0,
            forget_at: Moment::from_micros(0),
            waiters: BTreeMap::new(),
            scheduled_at: None,
        };
        let ix = match self.batches.free.pop() {
            Some(number) => {
                self.batches.all[number as usize] = Some(batch);
                BatchIx(number)
            }
            None => {
                self.batches.all.push(Some(batch));
                BatchIx(u32::try_from(self.batches.all.len() - 1).expect("there are at most 100,000"))
            }
        };
        self.batches.names.insert(name.clone(), ix);
        self.budget.take(BATCH_OVERHEAD_BYTES);
        self.live_bytes += if self.sums_live_bytes { batch_bytes(name) } else { 0 };
        ix
    }

    fn drop_batch(&mut self, batch: BatchIx) {
        let found = self.batches.all[batch.0 as usize].take().expect("the caller knows that it exists");
        if let Some(at) = found.scheduled_at {
            self.timers.remove(&(at, Owner::Batch(batch)));
        }
        self.batches.names.remove(&found.name);
        self.batches.free.push(batch.0);
        self.budget.release(BATCH_OVERHEAD_BYTES);
        self.live_bytes -= if self.sums_live_bytes { batch_bytes(&found.name) } else { 0 };
    }

    pub(super) fn batch(&self, batch: BatchIx) -> &Batch {
        self.batches.all[batch.0 as usize]
            .as_ref()
            .expect("jobs, waits and timers name only batches that exist")
    }

    fn batch_mut(&mut self, batch: BatchIx) -> &mut Batch {
        self.batches.all[batch.0 as usize]
            .as_mut()
            .expect("jobs, waits and timers name only batches that exist")
    }

    /// The batch of this name, if it is known.
    pub(super) fn known_batch(&self, name: &BatchName) -> Option<BatchIx> {
        self.batches.names.get(name).copied()
    }

    pub(super) fn batch_name(&self, batch: BatchIx) -> &BatchName {
        &self.batch(batch).name
    }

    pub(super) fn enter_batch(&mut self, batch: BatchIx, state: JobState, id: JobId) {
        let found = self.batch_mut(batch);
        *moves::count_of(&mut found.there, state) += 1;
        found.listed.insert(state, id);
    }

    pub(super) fn leave_batch(&mut self, batch: BatchIx, state: JobState, id: JobId) {
        let found = self.batch_mut(batch);
        *moves::count_of(&mut found.there, state) -= 1;
        found.listed.remove(state, id);
    }

    /// Counts a job of the batch that is gone, and was in this state until now.
    pub(super) fn count_gone(&mut self, batch: BatchIx, was: JobState, why: Why) {
        let gone = &mut self.batch_mut(batch).gone;
        match (why, was) {
            (Why::Done, _) | (Why::Dropped, JobState::Done) => gone.done += 1,
            (Why::Dropped, JobState::Cancelled) => gone.cancelled += 1,
            (Why::Dropped, _) => gone.deleted += 1,
        }
    }

    /// Notes that a job of the batch has changed its state: the batch may be complete now.
    pub(super) fn batch_changed(&mut self, now: Now, batch: BatchIx) {
        let found = self.batch_mut(batch);
        (found.changed_wall_ms, found.forget_at) = (now.wall_ms, now.mono.after(BATCH_KEPT));
        if !found.stats().is_busy() {
            let forget = if found.is_empty() { Some(found.forget_at) } else { None };
            if !found.waiters.is_empty() {
                self.wake_batch_waiters(now, batch);
            }
            if let Some(at) = forget {
                self.schedule_batch(batch, at);
            }
        }
    }

    /// Wakes some of those who wait for the batch, if it is complete. The timers continue. Returns whether all
    /// are woken.
    fn wake_batch_waiters(&mut self, now: Now, batch: BatchIx) -> bool {
        let stats = self.batch(batch).stats();
        while let Some((&(total, _), &session)) = self.batch(batch).waiters.first_key_value()
            && stats.is_complete(total)
        {
            if self.wakes_left() == 0 {
                self.schedule_batch(batch, now.mono);
                return false;
            }
            self.wake_with(session, Handed::Batch(Box::new(stats)));
        }
        true
    }

    fn schedule_batch(&mut self, batch: BatchIx, at: Moment) {
        let scheduled_at = self.batch(batch).scheduled_at;
        let scheduled_at = timers::schedule(&mut self.timers, Owner::Batch(batch), scheduled_at, Some(at));
        self.batch_mut(batch).scheduled_at = scheduled_at;
    }

    /// Returns whether all whose wait is over are woken.
    pub(super) fn tick_batch(&mut self, now: Now, batch: BatchIx) -> bool {
        self.batch_mut(batch).scheduled_at = None;
        if !self.wake_batch_waiters(now, batch) {
            return false;
        }
        let found = self.batch(batch);
        if found.is_empty() && found.waiters.is_empty() {
            match found.forget_at {
                at if at <= now.mono => self.drop_batch(batch),
                at => self.schedule_batch(batch, at),
            }
        }
        true
    }

    /// Records that a batch begins, before its first job. Its name may be that of a batch that was forgotten,
    /// whose counts are still in the journal.
    pub(super) fn note_batch(&mut self, batch: BatchIx) {
        if self.journaled && self.batch(batch).stats().total() == 0 {
            let counts = self.batch_counts(batch);
            self.effects.changes.push(Change::Batch(counts));
        }
    }

    /// What the record of a job's end says of its batch.
    pub(super) fn batch_counts(&self, batch: BatchIx) -> BatchCounts {
        self.batch(batch).counts()
    }

    /// Restores the counts of a batch.
    pub(super) fn restore_batch(&mut self, now: Now, counts: BatchCounts) {
        let BatchCounts { name, done, cancelled, deleted, changed_wall_ms } = counts;
        let batch = self.batch_named(&name);
        let age = Duration::from_millis(now.wall_ms.saturating_sub(changed_wall_ms));
        let found = self.batch_mut(batch);
        let [done, cancelled, deleted] = [done, cancelled, deleted].map(|count| count.min(GONE_MAX));
        found.gone = Gone { done, cancelled, deleted };
        found.changed_wall_ms = changed_wall_ms;
        // Not reckoned from when it changed, which may be before the beginning of this process's clock.
        found.forget_at = now.mono.after(BATCH_KEPT.saturating_sub(age));
        if found.is_empty() {
            self.schedule_batch(batch, now.mono);
        }
    }

    /// The counts of at most `most` batches whose names are after `after`, as changes that restore them.
    pub fn export_batches(&self, after: Option<&BatchName>, most: usize) -> Vec<Change> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rest = self.batches.names.range::<BatchName, _>((from, std::ops::Bound::Unbounded)).take(most);
        rest.map(|(_, &batch)| Change::Batch(self.batch_counts(batch))).collect()
    }
}
