//! What happens at a given time: delays end, leases lapse, pauses end. Waits end that wait for drained queues.
//!
//! A timer names a queue, a session, a batch, or the ended jobs whose waiters are being woken, and the time at
//! which to check it. It may be early but never late: what it names knows when it is really due. A lease that is
//! acknowledged in time, as nearly all are, therefore never touches the timers.

use std::collections::BTreeSet;

use super::*;

impl State {
    /// The earliest time at which [`State::tick`] may have something to do.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.first().map(|entry| entry.0)
    }

    /// Ends the delays, leases and pauses that are due, at most `most` of them. Call it again at once while
    /// [`State::next_deadline`] is not after `now`.
    pub fn tick(&mut self, now: Now, most: u64) {
        let mut budget = most;
        while budget > 0
            && let Some(&(at, owner)) = self.timers.first()
            && at <= now.mono
        {
            self.timers.pop_first();
            let all_woken = match owner {
                Owner::Queue(queue) => {
                    self.tick_queue(now, queue, &mut budget);
                    true
                }
                Owner::Session(session) => {
                    self.tick_session(now, session, &mut budget);
                    true
                }
                Owner::Batch(batch) => self.tick_batch(now, batch),
                Owner::Endings => self.wake_endings(now),
            };
            // If not, its timer is still there, for the next call.
            budget = if all_woken { budget.saturating_sub(1) } else { 0 };
        }
    }

    fn tick_queue(&mut self, now: Now, queue: QueueIx, budget: &mut u64) {
        self.queue_mut(queue).scheduled_at = None;
        while *budget > 0
            && let Some(&(until, id)) = self.queue(queue).delayed.first()
            && until <= now.mono
        {
            self.relocate(now, id, Place::Ready);
            self.serve(now, queue);
            *budget -= 1;
        }
        // The queue may be dropped with the last of them.
        while *budget > 0
            && let Some(found) = &self.queues[queue.0 as usize]
            && let Some(&(until, id)) = found.kept.first()
            && until <= now.mono
        {
            self.remove(now, id, Why::Dropped);
            *budget -= 1;
        }
        if self.queues[queue.0 as usize].is_none() {
            return;
        }
        self.schedule_queue(queue);
        if matches!(self.queue(queue).paused, Some(PauseEnd::At(end)) if end <= now.mono)
            && !self.end_pause(now, queue)
        {
            // Its timer is still there, for the next call.
            *budget = 0;
        }
        self.end_drains(queue, budget);
    }

    fn tick_session(&mut self, now: Now, session: SessionId, budget: &mut u64) {
        self.session_mut(session).scheduled_at = None;
        self.warn_if_due(now, session);
        while *budget > 0
            && let Some((&(until, id), _)) = self.session(session).leases.first_key_value()
            && until <= now.mono
        {
            self.crash(now, id, Crash::Lapsed);
            *budget -= 1;
        }
        if self.session(session).parked_until.is_some_and(|until| until <= now.mono) {
            while *budget > 0
                && let Some((&(_, id), _)) = self.session(session).leases.first_key_value()
            {
                self.crash(now, id, Crash::Lost);
                *budget -= 1;
            }
            if self.session(session).leases.is_empty() {
                return self.forget_session(session);
            }
        }
        self.schedule_session(session);
    }

    /// Sets a queue's timer to fire at once.
    pub(super) fn schedule_at_once(&mut self, queue: QueueIx) {
        let scheduled_at = self.queue(queue).scheduled_at;
        let at_once = Some(Moment::from_millis(0));
        let scheduled_at = schedule(&mut self.timers, Owner::Queue(queue), scheduled_at, at_once);
        self.queue_mut(queue).scheduled_at = scheduled_at;
    }

    /// Sets a queue's timer, unless it is already set for an earlier time.
    pub(super) fn schedule_queue(&mut self, queue: QueueIx) {
        let found = self.queue(queue);
        let delay = found.delayed.first().map(|entry| entry.0);
        let pause = match found.paused {
            Some(PauseEnd::At(end)) => Some(end),
            _ => None,
        };
        let kept = found.kept.first().map(|entry| entry.0);
        let due = [delay, pause, kept].into_iter().flatten().min();
        let scheduled_at = found.scheduled_at;
        let scheduled_at = schedule(&mut self.timers, Owner::Queue(queue), scheduled_at, due);
        self.queue_mut(queue).scheduled_at = scheduled_at;
    }

    pub(super) fn schedule_session(&mut self, session: SessionId) {
        let found = self.session(session);
        let margin = match &found.pending_wait {
            Some(PendingWait::Lease { warn: Warn::BeforeLapse, .. }) => LAPSES_SOON,
            _ => Duration::ZERO,
        };
        let lapse = found.leases.first_key_value().map(|entry| entry.0.0.before(margin));
        let due = [lapse, found.parked_until].into_iter().flatten().min();
        let scheduled_at = found.scheduled_at;
        let scheduled_at = schedule(&mut self.timers, Owner::Session(session), scheduled_at, due);
        self.session_mut(session).scheduled_at = scheduled_at;
    }
}

/// Sets the timer of an owner that is due at `due`, unless its timer at `scheduled_at` is earlier. Returns
/// the time of its timer.
pub(super) fn schedule(
    timers: &mut BTreeSet<(Moment, Owner)>,
    owner: Owner,
    scheduled_at: Option<Moment>,
    due: Option<Moment>,
) -> Option<Moment> {
    let Some(due) = due else { return scheduled_at };
    match scheduled_at {
        Some(at) if at <= due => return scheduled_at,
        Some(at) => timers.remove(&(at, owner)),
        None => false,
    };
    timers.insert((due, owner));
    Some(due)
}
