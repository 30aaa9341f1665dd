//! The transitions that the verbs are composed of. Each updates every set and count that a job is in.

use std::sync::Arc;
use std::time::Duration;

use super::shared_options::SharedOptionsIx;
use super::*;
use crate::change::{JobSize, extra_end_bytes, job_bytes};

impl State {
    /// Leases ready jobs to the sessions that wait for them, unless the queue is paused.
    pub(super) fn serve(&mut self, now: Now, queue: QueueIx) {
        if self.queue(queue).paused.is_none() {
            self.serve_at_most(now, queue, usize::MAX);
        }
    }

    /// Leases ready jobs to at most `most` of the sessions that wait for them; the one that has waited
    /// longest comes first. Returns whether no job or no session is left.
    pub(super) fn serve_at_most(&mut self, now: Now, queue: QueueIx, most: usize) -> bool {
        let mut served = 0;
        loop {
            let found = self.queue(queue);
            let (Some((_, id)), Some((_, &session))) = (found.ready.first(), found.waiters.first_key_value())
            else {
                return true;
            };
            if served == most {
                return false;
            }
            self.lease_to(now, id, session);
            self.wake_with(session, Handed::Lease(id));
            served += 1;
        }
    }

    pub(super) fn lease_to(&mut self, now: Now, id: JobId, session: SessionId) {
        let slot = self.slot(id);
        let (queue, ttr) = (slot.queue, self.shared_options.get(slot.options).ttr());
        self.relocate(now, id, Place::Leased { until: now.mono.after(ttr), holder: session });
        self.count(queue, |totals| totals.leased += 1);
    }

    pub(super) fn return_to_queue(&mut self, now: Now, id: JobId, delay: Duration) {
        let queue = self.slot(id).queue;
        self.count(queue, |totals| totals.returned += 1);
        let mut counts = self.slot(id).counts();
        counts.returns = counts.returns.saturating_add(1);
        self.record_counts(id, counts);
        self.requeue(now, id, delay);
    }

    pub(super) fn crash(&mut self, now: Now, id: JobId, crash: Crash) {
        let slot = self.slot(id);
        let (queue, options) = (slot.queue, self.shared_options.get(slot.options));
        let mut counts = slot.counts();
        counts.crashes = counts.crashes.saturating_add(1);
        if let Place::Leased { holder, .. } = self.slot(id).place() {
            self.note_lease_end(holder, id, LeaseEnd::Lost);
        }
        let end = match crash {
            Crash::Lapsed => AttemptEnd::Lapsed,
            Crash::Lost => AttemptEnd::Lost,
        };
        self.note_attempt(now, id, end, None);
        self.count(queue, |totals| totals.crashed += 1);
        self.record_counts(id, counts);
        self.set_crash(id, crash);
        if options.attempts_spent(counts) {
            self.die(now, id);
        } else {
            self.requeue(now, id, Duration::ZERO);
        }
    }

    pub(super) fn die(&mut self, now: Now, id: JobId) {
        let queue = self.slot(id).queue;
        self.count(queue, |totals| totals.died += 1);
        let place = self.next_dead();
        self.relocate(now, id, place);
        self.note_status(now, id);
        if !self.job_waiters.is_empty() {
            let slot = self.slot(id);
            let (failures, reason) = (slot.counts().spent(), slot.reason().cloned());
            self.tell_waiters(now, id, || Finished::Dead { failures, reason });
        }
    }

    /// The place of a job that becomes dead now, after all jobs that are dead.
    pub(super) fn next_dead(&mut self) -> Place {
        // Only a forged journal can exhaust the numbers. Later jobs are then ordered by their ids.
        self.last_dead_seq = self.last_dead_seq.saturating_add(1);
        Place::Dead { dead_seq: self.last_dead_seq }
    }

    pub(super) fn revive(&mut self, now: Now, id: JobId) {
        let queue = self.slot(id).queue;
        self.count(queue, |totals| totals.retried += 1);
        let Counts { failures, crashes, returns } = self.slot(id).counts();
        self.note_past(id, |past| {
            past.failures = past.failures.saturating_add(failures);
            past.crashes = past.crashes.saturating_add(crashes);
            past.deaths = past.deaths.saturating_add(1);
            past.kicks = past.kicks.saturating_add(1);
        });
        self.record_counts(id, Counts { returns, ..Counts::default() });
        self.requeue(now, id, Duration::ZERO);
    }

    /// Makes a job ready, and leases it to a session that waits for it; with a `wait`, makes it delayed.
    pub(super) fn requeue(&mut self, now: Now, id: JobId, wait: Duration) {
        if wait.is_zero() {
            self.relocate(now, id, Place::Ready);
            self.note_status(now, id);
            self.serve(now, self.slot(id).queue);
        } else {
            self.relocate(now, id, Place::delayed(now, wait));
            self.note_status(now, id);
        }
    }

    pub(super) fn relocate(&mut self, now: Now, id: JobId, to: Place) {
        let slot = self.jobs.get_mut(id).expect("the caller knows that the job exists");
        let from = slot.set_place(to);
        let sets = Sets::of(slot);
        self.remove_from_sets(id, sets, from);
        self.insert_into_sets(id, sets, to);
        self.pass_key(id, from, to);
        if matches!(from, Place::Leased { .. }) {
            self.forget_progress(id);
        }
        if let Some(batch) = self.shared_options.batch_of(sets.options) {
            self.batch_changed(now, batch);
        }
        self.note_drained(sets.queue);
    }

    /// A cancelled job gives up its key, and takes it back when it is ready again.
    fn pass_key(&mut self, id: JobId, from: Place, to: Place) {
        let cancelled = |place| matches!(place, Place::Cancelled { .. });
        if cancelled(from) == cancelled(to) {
            return;
        }
        let slot = self.slot(id);
        let Some(key) = slot.key() else { return };
        let key = (slot.queue, key.clone());
        if cancelled(from) {
            self.keys.insert(key, id);
        } else if self.keys.get(&key) == Some(&id) {
            self.keys.remove(&key);
        }
    }

    /// Renews a lease until another moment.
    pub(super) fn renew(&mut self, id: JobId, until: Moment) {
        let slot = self.jobs.get_mut(id).expect("the caller knows that the job exists");
        let Place::Leased { until: before, holder } = slot.place() else { return };
        // A job that is about to be returned is not among the leases any more.
        let session = self.sessions[holder.0 as usize].as_mut().expect("the session is open");
        let Some(since) = session.leases.remove(&(before, id)) else { return };
        session.leases.insert((until, id), since);
        slot.set_place(Place::Leased { until, holder });
        self.schedule_session(holder);
    }

    /// The size of a job's record, if there is a journal.
    fn live_size(&self, id: JobId, slot: &Slot) -> u64 {
        if !self.sums_live_bytes {
            return 0;
        }
        let options = self.shared_options.get(slot.options);
        job_bytes(&JobSize {
            id,
            queue: &self.queue(slot.queue).name,
            ttr: options.ttr(),
            attempts: options.attempts,
            backoff: options.backoff(),
            key: slot.key(),
            keep: options.keep(),
            batch: options.batch.map(|batch| self.batch_name(batch)),
            priority: slot.priority,
            reason: slot.reason().map(|reason| &**reason),
            body_bytes: slot.body.len(),
        }) + history_bytes(id, slot.history())
    }

    fn extra_end_size(&self, options: SharedOptionsIx) -> u64 {
        if self.shared_options.batch_of(options).is_none() && self.shared_options.keep_of(options).is_zero() {
            return 0;
        }
        let options = self.shared_options.get(options);
        extra_end_bytes(options.keep(), options.batch.map(|batch| self.batch_name(batch)))
    }

    /// Changes a job, and updates the sum of the records' sizes.
    fn resize(&mut self, id: JobId, change: impl FnOnce(&mut Slot)) {
        let before = self.live_size(id, self.slot(id));
        change(self.jobs.get_mut(id).expect("the caller knows that the job exists"));
        let after = self.live_size(id, self.slot(id));
        self.live_bytes = self.live_bytes + after - before;
    }

    pub(super) fn reprioritise(&mut self, id: JobId, priority: Priority) {
        let slot = self.slot(id);
        let (was, queue, place) = (slot.priority, slot.queue, slot.place());
        if was == priority {
            return;
        }
        self.resize(id, |slot| slot.priority = priority);
        if place == Place::Ready {
            self.leave_ready(queue, was, id);
            self.enter_ready(queue, priority, id);
        }
    }

    /// Replaces a job's body, even if there is no memory for it.
    pub(super) fn set_body(&mut self, id: JobId, body: Arc<[u8]>) {
        let (before, after) = (self.slot(id).body.len() as u64, body.len() as u64);
        self.resize(id, |slot| slot.body = body);
        self.budget.resize(before, after);
    }

    pub(super) fn insert(&mut self, now: Now, id: JobId, slot: Slot) {
        self.budget.take(job_cost(&slot.body, slot.extra.as_deref()));
        let place = slot.place();
        if let Some(key) = slot.key()
            && !matches!(place, Place::Cancelled { .. })
        {
            self.keys.insert((slot.queue, key.clone()), id);
        }
        let sets = Sets::of(&slot);
        self.live_bytes += self.live_size(id, &slot);
        self.extra_end_bytes += self.extra_end_size(sets.options);
        self.jobs.insert(id, slot);
        self.account_for_shared();
        self.insert_into_sets(id, sets, place);
        if let Some(batch) = self.shared_options.batch_of(sets.options) {
            self.batch_changed(now, batch);
        }
    }

    pub(super) fn remove(&mut self, now: Now, id: JobId, why: Why) {
        let slot = self.jobs.remove(id).expect("the caller knows that the job exists");
        self.budget.release(job_cost(&slot.body, slot.extra.as_deref()));
        let place = slot.place();
        if let Some(key) = slot.key()
            && !matches!(place, Place::Cancelled { .. })
        {
            self.keys.remove(&(slot.queue, key.clone()));
        }
        self.live_bytes -= self.live_size(id, &slot);
        self.extra_end_bytes -= self.extra_end_size(slot.options);
        self.remove_from_sets(id, Sets::of(&slot), place);
        let batch = self.shared_options.batch_of(slot.options);
        self.shared_options.release(slot.options);
        self.account_for_shared();
        if let Some(batch) = batch {
            self.count_gone(batch, place.state(), why);
            self.batch_changed(now, batch);
        }
        if self.journaled {
            self.effects.changes.push(match batch {
                None => Change::Gone(id),
                Some(batch) => Change::GoneOf(id, self.batch_counts(batch)),
            });
        }
        self.tell_waiters(now, id, || Finished::Gone);
        self.note_drained(slot.queue);
        self.drop_if_unused(slot.queue);
    }

    /// Inserts a job into the sets that belong to its place.
    fn insert_into_sets(&mut self, id: JobId, sets: Sets, place: Place) {
        let Sets { queue, priority, options } = sets;
        let state = place.state();
        if let Some(batch) = self.shared_options.batch_of(options) {
            self.enter_batch(batch, state, id);
        }
        *count_of(&mut self.counts, state) += 1;
        let found = self.queue_mut(queue);
        *count_of(&mut found.counts, state) += 1;
        found.listed.insert(state, id);
        match place {
            Place::Ready => self.enter_ready(queue, priority, id),
            Place::Dead { dead_seq } => {
                found.dead.insert((dead_seq, id));
            }
            Place::Delayed { until, .. } => {
                found.delayed.insert((until, id));
                self.schedule_queue(queue);
            }
            Place::Done { until, .. } | Place::Cancelled { until } => {
                found.kept.insert((until, id));
                self.schedule_queue(queue);
            }
            Place::Leased { until, holder } => {
                let since = until.before(self.shared_options.get(options).ttr());
                self.session_mut(holder).leases.insert((until, id), since);
                self.schedule_session(holder);
            }
        }
    }

    /// Removes a job from the sets that belong to its place.
    fn remove_from_sets(&mut self, id: JobId, sets: Sets, place: Place) {
        let Sets { queue, priority, options } = sets;
        let state = place.state();
        if let Some(batch) = self.shared_options.batch_of(options) {
            self.leave_batch(batch, state, id);
        }
        *count_of(&mut self.counts, state) -= 1;
        let found = self.queue_mut(queue);
        *count_of(&mut found.counts, state) -= 1;
        found.listed.remove(state, id);
        match place {
            Place::Ready => self.leave_ready(queue, priority, id),
            Place::Dead { dead_seq } => {
                found.dead.remove(&(dead_seq, id));
            }
            Place::Delayed { until, .. } => {
                found.delayed.remove(&(until, id));
            }
            Place::Done { until, .. } | Place::Cancelled { until } => {
                found.kept.remove(&(until, id));
            }
            Place::Leased { until, holder } => {
                self.session_mut(holder).leases.remove(&(until, id));
            }
        }
    }

    fn enter_ready(&mut self, queue: QueueIx, priority: Priority, id: JobId) {
        let urgent = u64::from(priority < Priority::URGENT_BELOW);
        self.urgent += urgent;
        let found = self.queue_mut(queue);
        found.urgent += urgent;
        found.ready.insert(priority, id);
    }

    fn leave_ready(&mut self, queue: QueueIx, priority: Priority, id: JobId) {
        let urgent = u64::from(priority < Priority::URGENT_BELOW);
        self.urgent -= urgent;
        let found = self.queue_mut(queue);
        found.urgent -= urgent;
        found.ready.remove(priority, id);
    }

    /// Updates the memory that jobs share.
    fn account_for_shared(&mut self) {
        let after = self.jobs.pages() * PAGE_OVERHEAD_BYTES
            + self.shared_options.len() * SHARED_OPTIONS_OVERHEAD_BYTES;
        self.budget.resize(self.shared_bytes, after);
        self.shared_bytes = after;
    }

    /// Changes a job's [`Extra`], and updates the memory that it takes. Does not check that there is room.
    pub(super) fn amend(&mut self, id: JobId, change: impl FnOnce(&mut Extra)) {
        let before = extra_cost(self.slot(id).extra.as_deref());
        let stays = counts_in_advance(self.shared_options.get(self.slot(id).options).attempts);
        self.resize(id, |slot| {
            let extra = slot.extra.get_or_insert_default();
            change(extra);
            if !stays && **extra == Extra::default() {
                // A job costs what it has now, as after a restart, not what it once had.
                slot.extra = None;
            }
        });
        let after = extra_cost(self.slot(id).extra.as_deref());
        self.budget.resize(before, after);
    }

    /// Sets a job's counts, even if there is no memory for them.
    pub(super) fn set_counts(&mut self, id: JobId, counts: Counts) {
        let slot = self.jobs.get_mut(id).expect("the caller knows that the job exists");
        let more = slot.set_counts(counts);
        if more != slot.extra.as_ref().map(|extra| extra.more).unwrap_or_default() {
            self.amend(id, |extra| extra.more = more);
        }
    }

    /// Sets a job's counts. Counts that decide when it dies are exact. Without memory for more, others stop
    /// at what its slot can hold.
    pub(super) fn record_counts(&mut self, id: JobId, counts: Counts) {
        let Counts { failures, crashes, returns } = counts;
        let highest = failures.max(crashes).max(returns);
        if highest <= COUNTED_IN_SLOT || self.has_room_for_extra(id) {
            self.set_counts(id, counts);
        } else {
            let [failures, crashes, returns] =
                [failures, crashes, returns].map(|count| count.min(COUNTED_IN_SLOT));
            self.set_counts(id, Counts { failures, crashes, returns });
        }
    }

    /// Replaces a job's reason, if there is room for the new one.
    pub(super) fn note_reason(&mut self, id: JobId, reason: Arc<str>) {
        let extra = self.slot(id).extra.as_deref();
        let before = extra.and_then(|extra| extra.reason.as_ref()).map_or(0, |reason| reason.len());
        let grown = match extra {
            Some(_) => (reason.len() as u64).saturating_sub(before as u64),
            None => EXTRA_OVERHEAD_BYTES + reason.len() as u64,
        };
        if grown == 0 || self.budget.has_room(Purpose::Note, grown) {
            self.set_reason(id, Some(reason));
        }
    }

    /// Sets a job's reason, even if there is no memory for it.
    pub(super) fn set_reason(&mut self, id: JobId, reason: Option<Arc<str>>) {
        if reason.as_ref() == self.slot(id).reason() {
            return;
        }
        match reason.as_deref().and_then(Crash::of_reason) {
            Some(crash) => self.set_crash(id, crash),
            None => {
                self.resize(id, |slot| slot.set_crash(None));
                self.amend(id, |extra| extra.reason = reason);
            }
        }
    }

    /// Sets a job's reason to a crash, which its slot can hold.
    pub(super) fn set_crash(&mut self, id: JobId, crash: Crash) {
        self.resize(id, |slot| slot.set_crash(Some(crash)));
        if self.slot(id).extra.as_ref().is_some_and(|extra| extra.reason.is_some()) {
            self.amend(id, |extra| extra.reason = None);
        }
    }

    /// Adds to a job's past, if there is room for it.
    pub(super) fn note_past(&mut self, id: JobId, add: impl FnOnce(&mut Past)) {
        if self.has_room_for_extra(id) {
            self.amend(id, |extra| add(&mut extra.past));
        }
    }

    fn has_room_for_extra(&self, id: JobId) -> bool {
        self.slot(id).extra.is_some() || self.budget.has_room(Purpose::Note, EXTRA_OVERHEAD_BYTES)
    }

    pub(super) fn backoff(&mut self, backoff: Duration, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(63);
        let plain = backoff.as_millis().saturating_mul(1 << doublings);
        let longest = MAX_BACKOFF.as_millis();
        // Up to a quarter longer, so that jobs that failed together are not retried together.
        let quarter = plain.min(longest) * u128::from(self.random.next() % 1024) / 4096;
        Duration::from_millis((plain.min(longest) + quarter).min(longest) as u64)
    }
}

/// What decides, beside a job's place, which sets it is in.
#[derive(Clone, Copy)]
struct Sets {
    queue: QueueIx,
    priority: Priority,
    options: SharedOptionsIx,
}

impl Sets {
    fn of(slot: &Slot) -> Sets {
        Sets { queue: slot.queue, priority: slot.priority, options: slot.options }
    }
}

pub(super) fn count_of(counts: &mut StateCounts, state: JobState) -> &mut u64 {
    match state {
        JobState::Ready => &mut counts.ready,
        JobState::Delayed => &mut counts.delayed,
        JobState::Leased => &mut counts.leased,
        JobState::Dead => &mut counts.dead,
        JobState::Done => &mut counts.done,
        JobState::Cancelled => &mut counts.cancelled,
    }
}

pub(super) fn job_cost(body: &[u8], extra: Option<&Extra>) -> u64 {
    JOB_OVERHEAD_BYTES + body.len() as u64 + extra_cost(extra)
}

fn extra_cost(extra: Option<&Extra>) -> u64 {
    extra.map_or(0, |extra| {
        let key = extra.key.as_ref().map_or(0, |key| key.as_str().len());
        let reason = extra.reason.as_ref().map_or(0, |reason| reason.len());
        let said = extra.said.as_ref().map_or(0, |said| {
            super::slot::SAID_OVERHEAD_BYTES + said.note.as_ref().map_or(0, |note| note.len() as u64)
        });
        EXTRA_OVERHEAD_BYTES + (key + reason) as u64 + said + history_cost(&extra.history)
    })
}

/// A reason of at most [`MAX_REASON_BYTES`].
pub(super) fn cut(reason: Arc<str>) -> Arc<str> {
    cut_to(&reason, MAX_REASON_BYTES)
}

/// A text of at most `most` bytes.
pub(super) fn cut_to(text: &Arc<str>, most: usize) -> Arc<str> {
    if text.len() <= most { Arc::clone(text) } else { text[..text.floor_char_boundary(most)].into() }
}
