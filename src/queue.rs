//! The shared queue: the state machine behind its Mutex, the waiting and the wake-ups.
//!
//! Every connection's thread calls in here. What a call changed is handed to the journal before the lock is
//! let go, so that the journal's order is the order of what happened; those who were handed a job are woken after it.
//! Nothing is read or written under the lock.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::change::Change;
use crate::clock::{Clock, Moment, Now};
use crate::job::{Lease, QueueName};
use state::{Ending, SessionId, State};

mod idset;
mod random;
pub mod state;
mod table;

/// How many jobs a long operation touches before it lets others have the lock: some tens of microseconds' worth.
pub const SLICE_JOBS: u64 = 256;

/// Told of every change, under the queue's lock: it must not block. Returns nothing: what has to be waited for, its
/// owner remembers.
pub trait Recorder: Send {
    /// Takes note of one change.
    fn record(&mut self, change: &Change);
}

/// The queue that all connections share. Its methods are safe to call from any thread.
pub struct Queue {
    inner: Mutex<Inner>,
    /// Where the timekeeper sleeps. Notified when a deadline earlier than the one that it sleeps to appears.
    timekeeper: Condvar,
    clock: Clock,
}

/// What the lock guards.
struct Inner {
    state: State,
    recorder: Option<Box<dyn Recorder>>,
    /// By session number: where its thread sleeps while it waits for a job.
    bells: Vec<Arc<Bell>>,
    /// The moment that the timekeeper sleeps to; `None` while it is awake or has nothing to wait for.
    sleeping_to: Option<Moment>,
    timekeeper_idle: bool,
    stopped: bool,
}

/// Where one session's thread waits, and why it may have been woken.
#[derive(Default)]
struct Bell {
    condvar: Condvar,
    /// Set under the queue's lock: the wait is over, whether or not there is a job.
    called_off: std::sync::atomic::AtomicBool,
}

/// How a wait for a job ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// With a job.
    Leased(Lease),
    /// Time is up.
    TimedOut,
    /// [`Queue::call_off`] ended it.
    CalledOff,
}

impl Queue {
    /// Makes a queue of a state and a clock; every change is told to the recorder.
    pub fn new(mut state: State, clock: Clock, recorder: Option<Box<dyn Recorder>>) -> Queue {
        if recorder.is_some() {
            state.set_journaled();
        }
        let inner = Inner {
            state,
            recorder,
            bells: Vec::new(),
            sleeping_to: None,
            timekeeper_idle: false,
            stopped: false,
        };
        Queue { inner: Mutex::new(inner), timekeeper: Condvar::new(), clock }
    }

    /// Calls `verb` with the state, under the lock and at one moment; then passes on what it left to be done.
    pub fn with<R>(&self, verb: impl FnOnce(&mut State, Now) -> R) -> R {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        let result = verb(&mut inner.state, now);
        self.settle(inner);
        result
    }

    /// Calls `slice` until it says that it is finished; others get their turn in between.
    pub fn in_slices(&self, mut slice: impl FnMut(&mut State, Now) -> bool) {
        while !self.with(&mut slice) {}
    }

    /// Lets a connection in.
    pub fn open_session(&self) -> SessionId {
        let mut inner = self.inner.lock();
        let session = inner.state.open_session();
        if inner.bells.len() <= session.0 as usize {
            inner.bells.push(Arc::new(Bell::default()));
        }
        inner.bells[session.0 as usize] = Arc::new(Bell::default());
        session
    }

    /// Ends a session; see [`State::end_session`].
    pub fn end_session(&self, session: SessionId, ending: Ending) {
        self.in_slices(|state, now| state.end_session(now, session, ending, SLICE_JOBS));
    }

    /// Leases a job of the named queues, or waits for one until `deadline` (`None`: for ever). Blocks.
    ///
    /// `patience` is how long to wait before `on_long_wait` is called, once, without the lock: most waits are short,
    /// and what a long one needs arranged is not worth it for them.
    pub fn wait(
        &self,
        session: SessionId,
        queues: &[QueueName],
        deadline: Option<Moment>,
        patience: Duration,
        on_long_wait: &mut dyn FnMut(),
    ) -> Waited {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        if let Some(lease) = inner.state.lease(now, session, queues) {
            self.settle(inner);
            return Waited::Leased(lease);
        }
        let bell = inner.bells[session.0 as usize].clone();
        inner.state.wait(session, queues);
        let mut patient_until = Some(now.mono.after(patience));
        loop {
            if let Some(lease) = inner.state.take_handed(session) {
                return Waited::Leased(lease);
            }
            let over = if bell.called_off.load(std::sync::atomic::Ordering::Relaxed) {
                Some(Waited::CalledOff)
            } else if deadline.is_some_and(|deadline| deadline <= self.clock.now().mono) {
                Some(Waited::TimedOut)
            } else {
                None
            };
            if let Some(over) = over {
                inner.state.leave(session);
                return over;
            }
            if patient_until.is_some_and(|until| until <= self.clock.now().mono) {
                patient_until = None;
                MutexGuard::unlocked(&mut inner, &mut *on_long_wait);
                continue;
            }
            let wake_at = [deadline, patient_until].into_iter().flatten().min();
            match wake_at.and_then(|moment| self.clock.instant_of(moment)) {
                Some(instant) => {
                    bell.condvar.wait_until(&mut inner, instant);
                }
                None => bell.condvar.wait(&mut inner),
            }
        }
    }

    /// Ends a session's wait, now or when it next begins one.
    pub fn call_off(&self, session: SessionId) {
        let inner = self.inner.lock();
        let bell = inner.bells[session.0 as usize].clone();
        bell.called_off.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(inner);
        bell.condvar.notify_one();
    }

    /// Carries out what is due, and sleeps until something is; returns when [`Queue::stop`] is called. The
    /// timekeeper's thread lives in here.
    pub fn keep_time(&self) {
        loop {
            let now = self.clock.now();
            let mut inner = self.inner.lock();
            if inner.stopped {
                return;
            }
            match inner.state.next_deadline() {
                Some(moment) if moment <= now.mono => {
                    inner.state.tick(now, SLICE_JOBS);
                    self.settle(inner);
                }
                next => {
                    inner.sleeping_to = next;
                    inner.timekeeper_idle = true;
                    match next.and_then(|moment| self.clock.instant_of(moment)) {
                        Some(instant) => {
                            self.timekeeper.wait_until(&mut inner, instant);
                        }
                        None => self.timekeeper.wait(&mut inner),
                    }
                    inner.timekeeper_idle = false;
                }
            }
        }
    }

    /// Carries out all that is due by now: what a test on a manual clock calls after moving it.
    pub fn tick(&self) {
        self.in_slices(|state, now| {
            state.tick(now, SLICE_JOBS);
            state.next_deadline().is_none_or(|moment| moment > now.mono)
        });
        // Waits have deadlines too, and nobody sleeps to a manual clock's.
        let bells = self.inner.lock().bells.clone();
        bells.iter().for_each(|bell| {
            bell.condvar.notify_one();
        });
    }

    /// Lets the timekeeper return.
    pub fn stop(&self) {
        self.inner.lock().stopped = true;
        self.timekeeper.notify_one();
    }

    /// The clock that the queue goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Tells the journal, lets go of the lock, then wakes whom there is to wake.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>) {
        let inner_ref = &mut *inner;
        let effects = inner_ref.state.effects();
        if let Some(recorder) = &mut inner_ref.recorder {
            effects.changes.iter().for_each(|change| recorder.record(change));
        }
        effects.changes.clear();
        let wakes = std::mem::take(&mut effects.wakes);
        let bells: Vec<_> = wakes.iter().map(|session| inner_ref.bells[session.0 as usize].clone()).collect();
        let hurry = inner.timekeeper_idle
            && match (inner.state.next_deadline(), inner.sleeping_to) {
                (Some(next), Some(sleeping_to)) => next < sleeping_to,
                (Some(_), None) => true,
                (None, _) => false,
            };
        if hurry {
            // Once is enough: others need not wake it for the same deadline.
            inner.timekeeper_idle = false;
        }
        drop(inner);
        for bell in bells {
            bell.condvar.notify_one();
        }
        if hurry {
            self.timekeeper.notify_one();
        }
    }
}
