//! What the queue's lock guards, and what happens under it: a change is made, recorded, and leaves sessions
//! to wake.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Condvar;

use super::state::{SessionId, State, Warn};
use super::{Broken, Recorder};
use crate::clock::{Moment, Now};
use crate::error::Refusal;
use crate::job::{BatchName, Finished, JobId, Lease, OnDrained, Order, QueueName};
use crate::stats::BatchStats;

/// What the lock guards.
pub struct Locked<R> {
    pub(super) state: State,
    recorder: R,
    /// By session number: where its thread sleeps while it waits for a job.
    pub(super) waiters: Vec<Arc<Waiter>>,
    /// The moment that the timekeeper sleeps to; `None` while it is awake or has nothing to wait for.
    pub(super) sleeping_to: Option<Moment>,
    pub(super) timekeeper_idle: bool,
    pub(super) stopped: bool,
    /// Set while a change is made, so that it stays set if the change panics.
    pub(super) changing: bool,
    /// Whether somebody has seen that a change has panicked, and has told everybody.
    pub(super) broken: bool,
    /// How often [`Queue::locked`](super::Queue::locked) has taken the lock.
    pub(super) times_locked: u64,
}

impl<R> fmt::Debug for Locked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").finish_non_exhaustive()
    }
}

/// Who has to be woken after the lock is released.
pub(super) struct Wakeups {
    pub(super) waiters: Vec<Arc<Waiter>>,
    pub(super) timekeeper: bool,
}

/// Where one session's thread waits, and why it may have been woken.
#[derive(Debug, Default)]
pub struct Waiter {
    pub(super) condvar: Condvar,
    /// Set under the queue's lock: the wait is over, with or without a job.
    pub(super) cancelled: AtomicBool,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<P> {
    /// With a job, and the place in the record of changes that has to be durable before the job is shown.
    Leased(Lease, P),
    /// All of its queues are drained; these of them are paused with jobs that are ready or delayed. Then comes
    /// the place in the record that has to be durable before this is shown.
    Drained(Vec<QueueName>, P),
    /// With the end of the job, and the place that has to be durable before it is shown.
    Finished(JobId, Finished, P),
    /// With the batch, complete or at the deadline.
    Batch {
        /// Its counts.
        stats: BatchStats,
        /// Whether it is complete.
        complete: bool,
        /// The place that has to be durable before they are shown.
        position: P,
    },
    /// With an order for the session's worker.
    Order(Order),
    /// At its deadline.
    TimedOut,
    /// Because one of the session's own leases is about to lapse.
    LapsesSoon,
    /// [`Queue::cancel`](super::Queue::cancel) ended it.
    Cancelled,
    /// It was refused: see [`State::room_for`].
    Refused(Refusal),
}

impl<R> Locked<R> {
    pub(super) fn new(state: State, recorder: R) -> Locked<R> {
        Locked {
            state,
            recorder,
            waiters: Vec::new(),
            sleeping_to: None,
            timekeeper_idle: false,
            stopped: false,
            changing: false,
            broken: false,
            times_locked: 0,
        }
    }

    /// Whether somebody has to be woken, for which the lock must be released.
    pub fn has_wakeups(&mut self) -> bool {
        !self.state.effects().wakes.is_empty()
    }

    fn take_wakeups(&mut self) -> Wakeups {
        let wakes = std::mem::take(&mut self.state.effects().wakes);
        let waiters = wakes.iter().map(|session| self.waiters[session.0 as usize].clone()).collect();
        Wakeups { waiters, timekeeper: self.outruns_timekeeper() }
    }

    /// Whether something is due before the timekeeper would wake, so that it has to be woken. Says so once
    /// for each deadline.
    fn outruns_timekeeper(&mut self) -> bool {
        let outruns = self.timekeeper_idle
            && match (self.state.next_deadline(), self.sleeping_to) {
                (Some(next), Some(sleeping_to)) => next < sleeping_to,
                (Some(_), None) => true,
                (None, _) => false,
            };
        if outruns {
            self.timekeeper_idle = false;
        }
        outruns
    }
}

impl<R: Recorder> Locked<R> {
    /// Makes a change, records it, and takes the wake-ups that it leaves. Returns also the place of everything
    /// recorded up to then. If it panics, every later change is refused.
    pub(super) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> T,
    ) -> Result<(T, R::Position, Wakeups), Broken> {
        if self.changing {
            return Err(Broken);
        }
        self.changing = true;
        let result = change(self);
        let position = self.record();
        let wakeups = self.take_wakeups();
        self.changing = false;
        Ok((result, position, wakeups))
    }

    /// Calls `verb` with the state at the moment `now`, and records what it changed. Returns also the place
    /// of everything recorded up to then.
    pub fn with<T>(&mut self, now: Now, verb: impl FnOnce(&mut State, Now) -> T) -> (T, R::Position) {
        let result = verb(&mut self.state, now);
        (result, self.record())
    }

    /// Leases a job of the named queues (if none is named, of those that the session watches), if there is
    /// one. Returns also the place that has to be durable before the job is shown to anybody.
    pub fn lease(
        &mut self,
        now: Now,
        session: SessionId,
        queues: &[QueueName],
    ) -> Option<(Lease, R::Position)> {
        let lease = self.state.lease(now, session, queues)?;
        let position = self.recorder.position_of(lease.id);
        self.record();
        Some((lease, position))
    }

    fn record(&mut self) -> R::Position {
        let mut changes = std::mem::take(&mut self.state.effects().changes);
        if !changes.is_empty() {
            self.recorder.record(&changes, &self.state);
            changes.clear();
        }
        // Puts the allocation back for the next time.
        self.state.effects().changes = changes;
        self.recorder.position()
    }

    /// One round of a wait: ends it, or prepares to sleep.
    pub(super) fn wait(
        &mut self,
        now: Now,
        waiter: &Waiter,
        session: SessionId,
        wait: &Wait<'_>,
    ) -> Option<Waited<R::Position>> {
        // It asks in the first round, and again if the lease that it was given has lapsed before it woke.
        let asks = !self.state.is_waiting(session);
        let warned = self.state.take_warned(session);
        let over = self.result_of_wait(now, session, wait, asks).or_else(|| {
            // A job takes precedence over a warning.
            if waiter.cancelled.load(Ordering::Relaxed) {
                Some(Waited::Cancelled)
            } else if warned || asks && self.has_to_warn(now, session, wait) {
                Some(Waited::LapsesSoon)
            } else if wait.deadline.is_some_and(|deadline| deadline <= now.mono) {
                Some(self.at_deadline(wait))
            } else {
                None
            }
        });
        if over.is_some() {
            self.state.cancel_wait(session);
        } else if asks && let Err(refusal) = self.begin_wait(session, wait) {
            return Some(Waited::Refused(refusal));
        }
        over
    }

    /// What the session waits for, if it has come.
    fn result_of_wait(
        &mut self,
        now: Now,
        session: SessionId,
        wait: &Wait<'_>,
        asks: bool,
    ) -> Option<Waited<R::Position>> {
        match wait.awaited {
            Awaited::Job { .. } if !asks => None,
            Awaited::Job { queues, on_drained, .. } => {
                let handed = self.state.take_handed(session);
                if let Some(lease) = handed.or_else(|| self.state.lease(now, session, queues)) {
                    let position = self.recorder.position_of(lease.id);
                    return Some(Waited::Leased(lease, position));
                }
                let drained = (on_drained == OnDrained::End).then(|| self.state.drained(session, queues));
                drained.flatten().map(|paused| Waited::Drained(paused, self.recorder.position()))
            }
            Awaited::End(id) => match self.state.take_finished(session) {
                Some(how) => Some(Waited::Finished(id, how, self.recorder.position())),
                None => match self.state.finished(id) {
                    Ok(how) => how.map(|how| Waited::Finished(id, how, self.recorder.position())),
                    Err(refusal) => Some(Waited::Refused(refusal)),
                },
            },
            Awaited::Order => match self.state.take_order(session) {
                Ok(order) => order.map(Waited::Order),
                Err(refusal) => Some(Waited::Refused(refusal)),
            },
            Awaited::Batch { name, total } => {
                let stats = self.state.take_batch(session).unwrap_or_else(|| self.state.batch_stats(name));
                let position = self.recorder.position();
                stats.is_complete(total).then_some(Waited::Batch { stats, complete: true, position })
            }
        }
    }

    /// Whether the wait ends because one of the session's own leases lapses soon.
    fn has_to_warn(&self, now: Now, session: SessionId, wait: &Wait<'_>) -> bool {
        matches!(wait.awaited, Awaited::Job { warn: Warn::BeforeLapse, .. })
            && self.state.lapses_soon(now, session)
    }

    fn at_deadline(&self, wait: &Wait<'_>) -> Waited<R::Position> {
        match wait.awaited {
            Awaited::Job { .. } | Awaited::End(_) | Awaited::Order => Waited::TimedOut,
            Awaited::Batch { name, .. } => {
                let (stats, position) = (self.state.batch_stats(name), self.recorder.position());
                Waited::Batch { stats, complete: false, position }
            }
        }
    }

    fn begin_wait(&mut self, session: SessionId, wait: &Wait<'_>) -> Result<(), Refusal> {
        match wait.awaited {
            Awaited::Job { queues, warn, on_drained } => {
                self.state.room_for(queues)?;
                self.state.wait(session, queues, warn, on_drained);
            }
            Awaited::End(id) => self.state.wait_for_end(session, id),
            Awaited::Batch { name, total } => self.state.wait_for_batch(session, name, total)?,
            Awaited::Order => self.state.wait_for_order(session)?,
        }
        Ok(())
    }
}

/// What a session waits for, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Wait<'a> {
    /// What.
    pub awaited: Awaited<'a>,
    /// When the wait ends without it; `None` for never.
    pub deadline: Option<Moment>,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug)]
pub enum Awaited<'a> {
    /// A job, to lease it.
    Job {
        /// Of one of these queues; if none is named, of those that the session watches.
        queues: &'a [QueueName],
        /// Whether the wait also ends before one of the session's own leases lapses.
        warn: Warn,
        /// Whether the wait ends when the queues are drained.
        on_drained: OnDrained,
    },
    /// The end of a job.
    End(JobId),
    /// A batch, until it is complete.
    Batch {
        /// Which.
        name: &'a BatchName,
        /// With how many jobs.
        total: u64,
    },
    /// An order for the session's worker.
    Order,
}
