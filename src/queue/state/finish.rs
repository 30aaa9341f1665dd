//! How jobs end, and who waits for that.
//!
//! The sessions that wait for a job stand in a map that has only jobs that are waited for. When a job ends,
//! its waiters are moved as a whole to `endings`, and woken from there a few at a time: any number may wait
//! for one job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::slot::ResultIs;
use super::*;

/// How many sessions the ends of jobs and batches wake before the caller has taken [`Effects::wakes`]. The timers
/// wake the others.
const WOKEN_AT_ONCE_MAX: usize = 64;

/// How long a cancelled job is kept at least.
pub const CANCELLED_KEPT_MIN: Duration = Duration::from_secs(3600);

/// What a worker returned with its ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returned {
    /// No result, which is an empty one.
    Nothing,
    /// A result, which may be empty.
    Result(Arc<[u8]>),
    /// A result that the disk has no room for.
    NoRoom,
}

/// A job that has ended, and those of its waiters who don't know it yet, by ticket.
#[derive(Debug)]
pub(super) struct Ending {
    finished: Finished,
    waiters: BTreeMap<u64, SessionId>,
}

impl State {
    /// A leased job is done. It is removed, or kept with its result for as long as its submitter asked for. If
    /// there is no room for its result, it is done without it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        returned: Returned,
    ) -> Result<Acked, Refusal> {
        let slot = self.leased_by(session, id)?;
        let (queue, options) = (slot.queue, slot.options);
        self.count(queue, |totals| totals.acked += 1);
        self.count_report(session, true);
        let keep = self.shared_options.keep_of(options);
        if keep.is_zero() {
            if !self.job_waiters.is_empty() {
                let (attempt, ran) = self.attempt_of(now, id);
                let result = match returned {
                    Returned::Result(result) => Some(result),
                    Returned::Nothing => Some(Arc::default()),
                    Returned::NoRoom => None,
                };
                if result.is_some() {
                    self.tell_waiters(now, id, || Finished::Done { attempt, ran, result });
                }
            }
            self.remove(now, id, Why::Done);
            return Ok(Acked::Whole);
        }
        let (attempt, ran) = self.attempt_of(now, id);
        let result = match returned {
            Returned::Result(result) if self.has_room_for_result(id, &result) => Some(result),
            Returned::Nothing => Some(Arc::default()),
            Returned::Result(_) | Returned::NoRoom => None,
        };
        self.set_body(id, result.clone().unwrap_or_default());
        let kept = if result.is_some() { ResultIs::Kept } else { ResultIs::Dropped };
        let ran_ms = u32::try_from(ran.as_millis()).unwrap_or(u32::MAX);
        self.relocate(now, id, Place::Done { until: now.mono.after(keep), ran_ms, result: kept });
        self.note_done(now, id);
        let acked = if result.is_some() { Acked::Whole } else { Acked::ResultDropped };
        self.tell_waiters(now, id, || Finished::Done { attempt, ran, result });
        Ok(acked)
    }

    /// Whether the submitter of a job asked for its result to be kept.
    pub fn keeps_result(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some_and(|slot| !self.shared_options.keep_of(slot.options).is_zero())
    }

    fn has_room_for_result(&self, id: JobId, result: &[u8]) -> bool {
        let grown = result.len().saturating_sub(self.slot(id).body.len()) as u64;
        grown == 0 || self.budget.has_room(Purpose::Note, grown)
    }

    /// The current attempt of a leased job, and how long it has taken.
    fn attempt_of(&self, now: Now, id: JobId) -> (u32, Duration) {
        let ran = self.leased_since(id).map_or(Duration::ZERO, |since| now.mono.until(since));
        (self.slot(id).counts().spent().saturating_add(1), ran)
    }

    /// When a leased job was leased.
    pub(super) fn leased_since(&self, id: JobId) -> Option<Moment> {
        let Place::Leased { until, holder } = self.jobs.get(id)?.place() else { return None };
        let (session, priority) = (self.session(holder), self.slot(id).priority);
        let since = session.leases.get(&(until, id)).or_else(|| session.returning.get(&(priority, id)));
        since.copied()
    }

    /// Cancels a ready, delayed or leased job; others are left as they are. Returns the state that the job
    /// was in.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn cancel(&mut self, now: Now, id: JobId, reason: Option<Arc<str>>) -> Result<JobState, Refusal> {
        let was = self.jobs.get(id).ok_or_else(|| not_found(id))?.place().state();
        if !was.is_final() {
            self.cancel_unfinished(now, id, reason);
        }
        Ok(was)
    }

    /// Cancels the jobs of a queue or a batch in one state with ids up to `last`; at most `most` in one call.
    /// The state is ready, delayed or leased.
    pub fn cancel_all(
        &mut self,
        now: Now,
        of: &Group,
        from: JobState,
        reason: Option<&Arc<str>>,
        last: JobId,
        most: u64,
    ) -> Slice {
        debug_assert!(!from.is_final());
        self.in_slices(of, from, last, most, |state, id| state.cancel_unfinished(now, id, reason.cloned()))
    }

    fn cancel_unfinished(&mut self, now: Now, id: JobId, reason: Option<Arc<str>>) {
        let slot = self.slot(id);
        let (queue, place) = (slot.queue, slot.place());
        let keep = self.shared_options.get(slot.options).keep().max(CANCELLED_KEPT_MIN);
        self.count(queue, |totals| totals.cancelled += 1);
        if let Place::Leased { holder, .. } = place {
            self.note_lease_end(holder, id, LeaseEnd::Cancelled);
        }
        self.set_reason(id, None);
        if let Some(reason) = reason {
            self.note_reason(id, cut(reason));
        }
        self.relocate(now, id, Place::Cancelled { until: now.mono.after(keep) });
        self.note_status(now, id);
        let reason = self.slot(id).reason().cloned();
        self.tell_waiters(now, id, || Finished::Cancelled { reason });
    }

    /// Makes a cancelled job ready again.
    ///
    /// # Errors
    /// [`Code::NotFound`] if another job has its key by now.
    pub(super) fn restart(&mut self, now: Now, id: JobId) -> Result<(), Refusal> {
        let slot = self.slot(id);
        let queue = slot.queue;
        if let Some(key) = slot.key()
            && let Some(other) = self.keys.get(&(queue, key.clone()))
        {
            return Err(Refusal::new(
                Code::NotFound,
                format!("job {id} is cancelled, and its key is that of job {other} by now"),
            ));
        }
        self.count(queue, |totals| totals.retried += 1);
        self.note_past(id, |past| past.kicks = past.kicks.saturating_add(1));
        self.set_reason(id, None);
        self.requeue(now, id, Duration::ZERO);
        Ok(())
    }

    /// How a job ended; `None` if it has not.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an id that was never given.
    pub fn finished(&self, id: JobId) -> Result<Option<Finished>, Refusal> {
        let Some(slot) = self.jobs.get(id) else {
            return if id <= self.last_id && id != JobId(0) {
                Ok(Some(Finished::Gone))
            } else {
                Err(not_found(id))
            };
        };
        let counts = slot.counts();
        Ok(match slot.place() {
            Place::Ready | Place::Delayed { .. } | Place::Leased { .. } => None,
            Place::Dead { .. } => {
                Some(Finished::Dead { failures: counts.spent(), reason: slot.reason().cloned() })
            }
            Place::Cancelled { .. } => Some(Finished::Cancelled { reason: slot.reason().cloned() }),
            Place::Done { ran_ms, result, .. } => Some(Finished::Done {
                attempt: counts.spent().saturating_add(1),
                ran: Duration::from_millis(ran_ms.into()),
                result: (result == ResultIs::Kept).then(|| slot.body.clone()),
            }),
        })
    }

    /// Makes a session wait for the end of a job. [`Effects::wakes`] names it then.
    ///
    /// Call it under the same lock as [`State::finished`], which found that the job has not ended.
    pub fn wait_for_end(&mut self, session: SessionId, id: JobId) {
        let ticket = self.next_ticket();
        self.job_waiters.entry(id).or_default().insert(ticket, session);
        self.session_mut(session).pending_wait = Some(PendingWait::Job { ticket, id });
    }

    /// Takes the end of the job that the session has waited for.
    pub fn take_finished(&mut self, session: SessionId) -> Option<Finished> {
        match self.session_mut(session).handed.take()? {
            Handed::Finished(finished) => Some(finished),
            _ => None,
        }
    }

    pub(super) fn forget_waiter(&mut self, id: JobId, ticket: u64) {
        // If it is not here, it is among the `endings`, which pass over it.
        if let Some(waiters) = self.job_waiters.get_mut(&id) {
            waiters.remove(&ticket);
            if waiters.is_empty() {
                self.job_waiters.remove(&id);
            }
        }
    }

    /// Wakes those who wait for the end of this job.
    pub(super) fn tell_waiters(&mut self, now: Now, id: JobId, finished: impl FnOnce() -> Finished) {
        if self.job_waiters.is_empty() {
            return;
        }
        if let Some(waiters) = self.job_waiters.remove(&id) {
            self.endings.push_back(Ending { finished: finished(), waiters });
            self.wake_endings(now);
        }
    }

    /// How many more sessions may be woken now by the end of a job or a batch.
    pub(super) fn wakes_left(&self) -> usize {
        WOKEN_AT_ONCE_MAX.saturating_sub(self.effects.wakes.len())
    }

    /// Wakes some of those who wait for a job that has ended. The timers continue. Returns whether all are
    /// woken.
    pub(super) fn wake_endings(&mut self, now: Now) -> bool {
        let mut left = self.wakes_left();
        while let Some(mut ending) = self.endings.pop_front() {
            while left > 0
                && let Some((ticket, session)) = ending.waiters.pop_first()
            {
                left -= 1;
                if self.waits_with(session, ticket) {
                    self.wake_with(session, Handed::Finished(ending.finished.clone()));
                }
            }
            if !ending.waiters.is_empty() {
                self.endings.push_front(ending);
                self.timers.insert((now.mono, Owner::Endings));
                return false;
            }
        }
        true
    }

    /// Whether this session still waits with this ticket: it may have stopped, or have been replaced.
    fn waits_with(&self, session: SessionId, ticket: u64) -> bool {
        let session = self.sessions.get(session.0 as usize).and_then(Option::as_ref);
        session.is_some_and(|session| match &session.pending_wait {
            Some(PendingWait::Job { ticket: its, .. }) => *its == ticket,
            _ => false,
        })
    }

    /// Ends a session's wait with what it waited for.
    pub(super) fn wake_with(&mut self, session: SessionId, handed: Handed) {
        self.cancel_wait(session);
        self.session_mut(session).handed = Some(handed);
        self.effects.wakes.push(session);
    }
}
