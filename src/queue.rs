//! The shared queue: the state machine behind its Mutex, the waiting and the wake-ups.
//!
//! Every connection's thread calls in here. What a call changed is handed to a [`Recorder`] before the lock is
//! let go, so that the record's order is the order of what happened; those who were handed a job are woken after it.
//! Nothing is read or written under the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{ArcMutexGuard, Condvar, Mutex, MutexGuard, RawMutex};

use crate::change::Change;
use crate::clock::{Clock, Moment, Now, Stopwatch};
use crate::error::Refusal;
use crate::job::{JobId, Lease, QueueName};
use state::{Ending, SessionId, State, Warn};

mod idset;
mod random;
pub mod state;
mod table;

/// How many jobs a long operation touches before it lets others have the lock: some tens of microseconds' worth.
pub const SLICE_JOBS: u64 = 256;

/// Is told of every change, under the queue's lock, in the order in which they happen.
pub trait Recorder: Send {
    /// A place in the record of changes, to be waited for.
    type Position: Copy + Default + Ord + Send;

    /// Takes note of changes; must not block. The state is as they left it.
    fn record(&mut self, changes: &[Change], state: &State);

    /// The place of all that has happened.
    fn position(&self) -> Self::Position;

    /// The place of the last change to one job, so far as it may still have to be waited for.
    fn position_of(&mut self, id: JobId) -> Self::Position;
}

/// How long a thread that wants the lock for several verbs tries to take it before it sleeps. Whoever has it is mostly done by
/// then; to sleep and be woken costs more, on both sides.
const TRYING_TIME: Duration = Duration::from_micros(4);

/// For how many of the processor's pauses it waits between two tries.
const PAUSES: usize = 8;

/// The queue that all connections share. Its methods are safe to call from any thread.
pub struct Queue<R: Recorder> {
    inner: Arc<Mutex<Inner<R>>>,
    /// Whether a thread tries to take the lock, and does not sleep meanwhile.
    trying: AtomicBool,
    /// Where the timekeeper sleeps. Notified when a deadline earlier than the one that it sleeps to appears.
    timekeeper: Condvar,
    clock: Clock,
}

/// What the lock guards.
struct Inner<R> {
    state: State,
    recorder: R,
    /// By session number: where its thread sleeps while it waits for a job.
    bells: Vec<Arc<Bell>>,
    /// The moment that the timekeeper sleeps to; `None` while it is awake or has nothing to wait for.
    sleeping_to: Option<Moment>,
    timekeeper_idle: bool,
    stopped: bool,
    /// How often the lock was taken for verbs.
    times_locked: u64,
}

/// Who is to be woken once the lock is let go.
struct Errands {
    bells: Vec<Arc<Bell>>,
    /// The timekeeper, too.
    hurry: bool,
}

/// Where one session's thread waits, and why it may have been woken.
#[derive(Debug, Default)]
pub struct Bell {
    condvar: Condvar,
    /// Set under the queue's lock: the wait is over, whether or not there is a job.
    cancelled: AtomicBool,
}

/// How a wait for a job ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<P> {
    /// With a job, and the place in the record of changes that has to be safe before it is shown.
    Leased(Lease, P),
    /// Time is up.
    TimedOut,
    /// A lease of the session's own is about to lapse.
    LapsesSoon,
    /// [`Queue::cancel`] ended it.
    Cancelled,
    /// There is no room for it: see [`State::room_for`].
    Refused(Refusal),
}

impl<R> Inner<R> {
    /// What is to be done once the lock is let go.
    fn errands(&mut self) -> Errands {
        let wakes = std::mem::take(&mut self.state.effects().wakes);
        let bells = wakes.iter().map(|session| self.bells[session.0 as usize].clone()).collect();
        Errands { bells, hurry: self.outruns_timekeeper() }
    }

    /// Whether something is due before the timekeeper would wake: then it has to be woken, by whoever asked.
    fn outruns_timekeeper(&mut self) -> bool {
        let hurry = self.timekeeper_idle
            && match (self.state.next_deadline(), self.sleeping_to) {
                (Some(next), Some(sleeping_to)) => next < sleeping_to,
                (Some(_), None) => true,
                (None, _) => false,
            };
        if hurry {
            // Once is enough: others need not wake it for the same deadline.
            self.timekeeper_idle = false;
        }
        hurry
    }
}

impl<R: Recorder> Inner<R> {
    /// Tells the recorder what has happened, and returns the place of that.
    fn record(&mut self) -> R::Position {
        let mut changes = std::mem::take(&mut self.state.effects().changes);
        if !changes.is_empty() {
            self.recorder.record(&changes, &self.state);
            changes.clear();
        }
        // So that the room for them is there next time.
        self.state.effects().changes = changes;
        self.recorder.position()
    }

    fn with<T>(&mut self, now: Now, verb: impl FnOnce(&mut State, Now) -> T) -> (T, R::Position) {
        let result = verb(&mut self.state, now);
        (result, self.record())
    }

    fn lease(&mut self, now: Now, session: SessionId, queues: &[QueueName]) -> Option<(Lease, R::Position)> {
        let lease = self.state.lease(now, session, queues)?;
        let position = self.recorder.position_of(lease.id);
        self.record();
        Some((lease, position))
    }
}

/// The queue's lock, for several verbs in a row: taking it for each costs more than most of them, where other threads want it
/// too. Those who were handed a job meanwhile are woken when it is dropped. Whoever holds one calls no method of the
/// queue, and does not block.
pub struct Held<R: Recorder> {
    /// `None` only while it is dropped.
    guard: Option<ArcMutexGuard<RawMutex, Inner<R>>>,
    queue: Arc<Queue<R>>,
}

impl<R: Recorder> Held<R> {
    /// As [`Queue::with`].
    pub fn with<T>(&mut self, now: Now, verb: impl FnOnce(&mut State, Now) -> T) -> (T, R::Position) {
        self.inner().with(now, verb)
    }

    /// As [`Queue::lease`].
    pub fn lease(
        &mut self,
        now: Now,
        session: SessionId,
        queues: &[QueueName],
    ) -> Option<(Lease, R::Position)> {
        self.inner().lease(now, session, queues)
    }

    /// Whether somebody was handed a job: then it is time to let go, and wake them.
    pub fn has_errands(&mut self) -> bool {
        !self.inner().state.effects().wakes.is_empty()
    }

    fn inner(&mut self) -> &mut Inner<R> {
        self.guard.as_mut().expect("it is held until it is dropped")
    }
}

impl<R: Recorder> Drop for Held<R> {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            let errands = guard.errands();
            drop(guard);
            self.queue.run(errands);
        }
    }
}

impl<R: Recorder> Queue<R> {
    /// Makes a queue of a state and a clock; every change is told to the recorder, if the state is set to leave any.
    pub fn new(state: State, clock: Clock, recorder: R) -> Queue<R> {
        let inner = Inner {
            state,
            recorder,
            bells: Vec::new(),
            sleeping_to: None,
            timekeeper_idle: false,
            stopped: false,
            times_locked: 0,
        };
        Queue {
            inner: Arc::new(Mutex::new(inner)),
            trying: AtomicBool::new(false),
            timekeeper: Condvar::new(),
            clock,
        }
    }

    /// Calls `verb` with the state, under the lock, at the moment `now`; then passes on what it left to be done. Returns
    /// also the place of all that happened up to then.
    pub fn with<T>(&self, now: Now, verb: impl FnOnce(&mut State, Now) -> T) -> (T, R::Position) {
        let mut inner = self.inner.lock();
        inner.times_locked += 1;
        let done = inner.with(now, verb);
        self.settle(inner);
        done
    }

    /// Takes the lock for several verbs.
    pub fn hold(self: &Arc<Self>) -> Held<R> {
        let guard = self.inner.try_lock_arc().or_else(|| self.try_to_hold());
        let mut guard = guard.unwrap_or_else(|| self.inner.lock_arc());
        guard.times_locked += 1;
        Held { guard: Some(guard), queue: Arc::clone(self) }
    }

    /// How often [`Queue::with`] and [`Queue::hold`] have taken the lock, for tests.
    pub fn times_locked(&self) -> u64 {
        self.inner.lock().times_locked
    }

    /// Tries for a moment to take the lock. One thread at a time does so, or many would keep the processor from the one that
    /// has it, and take it before those that sleep.
    fn try_to_hold(&self) -> Option<ArcMutexGuard<RawMutex, Inner<R>>> {
        if self.trying.swap(true, Ordering::Acquire) {
            return None;
        }
        let stopwatch = Stopwatch::start();
        let mut guard = None;
        while guard.is_none() && stopwatch.elapsed() < TRYING_TIME {
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
            guard = self.inner.try_lock_arc();
        }
        self.trying.store(false, Ordering::Release);
        guard
    }

    /// Leases a job of the named queues (none named: of those that the session watches), if there is one. Returns also the place that has to be safe before the job is
    /// shown to anybody.
    pub fn lease(&self, now: Now, session: SessionId, queues: &[QueueName]) -> Option<(Lease, R::Position)> {
        let mut inner = self.inner.lock();
        let leased = inner.lease(now, session, queues);
        self.settle(inner);
        leased
    }

    /// Calls `slice` until it says that it is finished; others get their turn in between. Returns the place of all
    /// that happened up to then.
    pub fn in_slices(&self, mut slice: impl FnMut(&mut State, Now) -> bool) -> R::Position {
        loop {
            let now = self.clock.now();
            let mut inner = self.inner.lock();
            let finished = slice(&mut inner.state, now);
            if finished {
                return self.settle(inner);
            }
            self.settle_and(inner, MutexGuard::unlock_fair);
        }
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

    /// Leases a job of the named queues (none named: of those that the session watches), or waits for one until `deadline`
    /// (`None`: for ever). Blocks.
    pub fn wait(
        &self,
        session: SessionId,
        queues: &[QueueName],
        warn: Warn,
        deadline: Option<Moment>,
    ) -> Waited<R::Position> {
        let mut now = self.clock.now();
        let mut inner = self.inner.lock();
        let bell = inner.bells[session.0 as usize].clone();
        loop {
            // It asks the first time round, and again where the lease that it was handed lapsed before it woke.
            let state = &mut inner.state;
            let asks = !state.is_waiting(session);
            // A warning that comes together with a job is over with it.
            let warned = state.take_warned(session);
            if asks
                && let Some(lease) = state.take_handed(session).or_else(|| state.lease(now, session, queues))
            {
                let position = inner.recorder.position_of(lease.id);
                self.settle(inner);
                return Waited::Leased(lease, position);
            }
            let warned = warned || asks && warn == Warn::BeforeLapse && inner.state.lapses_soon(now, session);
            let over = if bell.cancelled.load(Ordering::Relaxed) {
                Some(Waited::Cancelled)
            } else if warned {
                Some(Waited::LapsesSoon)
            } else if deadline.is_some_and(|deadline| deadline <= now.mono) {
                Some(Waited::TimedOut)
            } else {
                None
            };
            if let Some(over) = over {
                inner.state.leave(session);
                return over;
            }
            if asks {
                if let Err(refusal) = inner.state.room_for(queues) {
                    return Waited::Refused(refusal);
                }
                inner.state.wait(session, queues, warn);
                if warn == Warn::BeforeLapse && inner.outruns_timekeeper() {
                    self.timekeeper.notify_one();
                }
            }
            match deadline.and_then(|deadline| self.clock.instant_of(deadline)) {
                Some(instant) => {
                    bell.condvar.wait_until(&mut inner, instant);
                }
                None => bell.condvar.wait(&mut inner),
            }
            now = self.clock.now();
        }
    }

    /// What [`Queue::cancel`] needs to end this session's waits, and no later session's that gets the same number.
    pub fn bell(&self, session: SessionId) -> Arc<Bell> {
        Arc::clone(&self.inner.lock().bells[session.0 as usize])
    }

    /// Ends a session's wait now, and each later one as it begins.
    pub fn cancel(&self, bell: &Bell) {
        // Under the lock, so that it can't fall between a waiting thread's look at it and that thread's sleep.
        let inner = self.inner.lock();
        bell.cancelled.store(true, Ordering::Relaxed);
        drop(inner);
        bell.condvar.notify_one();
    }

    /// Carries out what is due, and sleeps until something is; returns when [`Queue::stop`] is called. The
    /// timekeeper's thread lives in here. `after_changes` is called, without the lock, after each change: it comes from
    /// nobody who would wait for its being safe.
    pub fn keep_time(&self, after_changes: impl Fn()) {
        loop {
            let now = self.clock.now();
            let mut inner = self.inner.lock();
            if inner.stopped {
                return;
            }
            match inner.state.next_deadline() {
                Some(moment) if moment <= now.mono => {
                    inner.state.tick(now, SLICE_JOBS);
                    self.settle_and(inner, MutexGuard::unlock_fair);
                    after_changes();
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

    /// Tells the recorder, lets go of the lock, then wakes whom there is to wake.
    fn settle(&self, guard: MutexGuard<'_, Inner<R>>) -> R::Position {
        self.settle_and(guard, drop)
    }

    /// Does so and lets go of the lock in a way of the caller's. One that takes it again at once has to unlock it fairly:
    /// mostly it would be faster than those that have to wake first, and keep them waiting for milliseconds.
    fn settle_and<'a>(
        &'a self,
        mut guard: MutexGuard<'a, Inner<R>>,
        unlock: impl FnOnce(MutexGuard<'a, Inner<R>>),
    ) -> R::Position {
        let position = guard.record();
        let errands = guard.errands();
        unlock(guard);
        self.run(errands);
        position
    }

    /// Wakes whom there is to wake, without the lock.
    fn run(&self, errands: Errands) {
        for bell in errands.bells {
            bell.condvar.notify_one();
        }
        if errands.hurry {
            self.timekeeper.notify_one();
        }
    }
}
