//! The shared queue: the state machine behind its Mutex, the waiting and the wake-ups.
//!
//! Every connection's thread calls this module. What a call changes is passed to a [`Recorder`] before the
//! lock is released, so the record has the order in which changes happened. Sessions that were given a job
//! are woken after that. No I/O happens under the lock.
//!
//! A panic under the lock may leave a change half made. From then on the queue is [`Broken`]: every call is
//! refused, and the callback given to [`Queue::new`] is called once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::change::Change;
use crate::clock::{Clock, Now, Stopwatch};
use crate::error::{Code, Refusal};
use crate::job::JobId;
use locked::Wakeups;
pub use locked::{Awaited, Locked, Wait, Waited, Waiter};
use state::{SessionEnd, SessionId, State};

mod budget;
mod idset;
mod locked;
mod random;
pub mod state;
mod table;

/// How many jobs a long operation touches before it releases the lock for others: some tens of microseconds'
/// worth.
pub const SLICE_JOBS: u64 = 256;

/// Receives every change, under the queue's lock, in the order in which they happen.
pub trait Recorder: Send {
    /// A place in the record of changes, to be waited for.
    type Position: Copy + Default + Ord + Send;

    /// Records changes; must not block. `state` is the state after them.
    fn record(&mut self, changes: &[Change], state: &State);

    /// The place of everything recorded so far.
    fn position(&self) -> Self::Position;

    /// The place of the last change to one job, if it may not be durable yet.
    fn position_of(&mut self, id: JobId) -> Self::Position;
}

/// How long a thread tries to take the lock before it sleeps. The thread that has it is usually done by then;
/// to sleep and be woken costs more, on both sides. With 10,000 queues, 64 commands sent ahead run 1.36 to
/// 1.5 times as fast with this as without (docs/performance.md).
const TRYING_TIME: Duration = Duration::from_micros(4);

/// How many of the processor's pauses it waits between two tries.
const PAUSES: usize = 8;

/// The queue that all connections share. Its methods are safe to call from any thread.
pub struct Queue<R: Recorder> {
    locked: Mutex<Locked<R>>,
    /// Whether a thread tries to take the lock instead of sleeping.
    trying: AtomicBool,
    /// Where the timekeeper sleeps. Notified when a deadline appears that is earlier than the one it sleeps
    /// to.
    timekeeper: Condvar,
    /// Called once, without the lock, when the queue has become [`Broken`].
    on_broken: Box<dyn Fn() + Send + Sync>,
    clock: Clock,
}

/// A panic under the lock may have left a change half made: nothing in the queue can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault in the server has left a change half made; restart it (its log has the details)")
    }
}

impl std::error::Error for Broken {}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Refusal {
        Refusal::new(Code::Internal, broken.to_string())
    }
}

/// Declared before the lock is taken, so that it is dropped after the lock is released. If a change has
/// panicked, it wakes all who wait.
struct Alarm<'a, R: Recorder>(&'a Queue<R>);

impl<R: Recorder> fmt::Debug for Queue<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl<R: Recorder> Drop for Alarm<'_, R> {
    fn drop(&mut self) {
        // A thread may panic for a reason of its own and end its session here; then no change is unfinished.
        if std::thread::panicking() {
            self.0.break_if_unfinished();
        }
    }
}

impl<R: Recorder> Queue<R> {
    /// Makes a queue of a state and a clock. Every change goes to the recorder, if the state is set to leave
    /// any. `on_broken` is called once, without the lock, when a panic has left the queue [`Broken`].
    pub fn new(
        state: State,
        clock: Clock,
        recorder: R,
        on_broken: impl Fn() + Send + Sync + 'static,
    ) -> Queue<R> {
        let locked = Locked::new(state, recorder);
        Queue {
            locked: Mutex::new(locked),
            trying: AtomicBool::new(false),
            timekeeper: Condvar::new(),
            on_broken: Box::new(on_broken),
            clock,
        }
    }

    /// Calls `work` under the lock. After that, records what changed and wakes the sessions that were given a
    /// job.
    ///
    /// `work` runs several verbs if it can: taking the lock for each costs more than most of them when other
    /// threads want it too. It must not block and must not call the queue.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn locked<T>(&self, work: impl FnOnce(&mut Locked<R>) -> T) -> Result<T, Broken> {
        let work = |locked: &mut Locked<R>| {
            locked.times_locked += 1;
            work(locked)
        };
        self.run(work, |_| false).map(|(result, _)| result)
    }

    /// As [`Queue::locked`], for one verb: see [`Locked::with`].
    ///
    /// # Errors
    /// [`Broken`].
    pub fn with<T>(
        &self,
        now: Now,
        verb: impl FnOnce(&mut State, Now) -> T,
    ) -> Result<(T, R::Position), Broken> {
        self.locked(|locked| locked.with(now, verb))
    }

    /// Calls `slice` until it returns true. Others get the lock in between. Returns the place of everything
    /// that was recorded up to then.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn in_slices(&self, mut slice: impl FnMut(&mut State, Now) -> bool) -> Result<R::Position, Broken> {
        loop {
            let now = self.clock.now();
            let (finished, position) =
                self.run(|locked| slice(&mut locked.state, now), |finished| !finished)?;
            if finished {
                return Ok(position);
            }
        }
    }

    /// Runs `work` under the lock, records what changed, releases the lock, and wakes those who have to be
    /// woken. If the caller takes the lock again at once (`again`), the lock is handed to a thread that waits
    /// for it: else the caller would nearly always be faster, and keep the others waiting for milliseconds.
    fn run<T>(
        &self,
        work: impl FnOnce(&mut Locked<R>) -> T,
        again: impl FnOnce(&T) -> bool,
    ) -> Result<(T, R::Position), Broken> {
        let _alarm = Alarm(self);
        let mut guard = self.lock();
        let (result, position, wakeups) = guard.change(work)?;
        if again(&result) {
            MutexGuard::unlock_fair(guard);
        } else {
            drop(guard);
        }
        self.wake(wakeups);
        Ok((result, position))
    }

    fn lock(&self) -> MutexGuard<'_, Locked<R>> {
        self.locked.try_lock().or_else(|| self.try_to_lock()).unwrap_or_else(|| self.locked.lock())
    }

    /// Tries for [`TRYING_TIME`] to take the lock. One thread at a time does so: many would keep the
    /// processor from the thread that has it, and overtake those that sleep.
    fn try_to_lock(&self) -> Option<MutexGuard<'_, Locked<R>>> {
        if self.trying.swap(true, Ordering::Acquire) {
            return None;
        }
        let stopwatch = Stopwatch::start();
        let mut guard = None;
        while guard.is_none() && stopwatch.elapsed() < TRYING_TIME {
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
            guard = self.locked.try_lock();
        }
        self.trying.store(false, Ordering::Release);
        guard
    }

    /// How often [`Queue::locked`] has taken the lock, for tests.
    pub fn times_locked(&self) -> u64 {
        self.locked.lock().times_locked
    }

    /// Opens a session. Returns also what [`Queue::cancel`] needs to end this session's waits, and no later
    /// session's that gets the same number.
    pub fn open_session(&self) -> (SessionId, Arc<Waiter>) {
        let mut locked = self.locked.lock();
        let session = locked.state.open_session();
        let number = session.0 as usize;
        if locked.waiters.len() <= number {
            locked.waiters.resize_with(number + 1, Arc::default);
        }
        let waiter = Arc::<Waiter>::default();
        locked.waiters[number] = Arc::clone(&waiter);
        (session, waiter)
    }

    /// Ends a session; see [`State::end_session`].
    ///
    /// # Errors
    /// [`Broken`].
    pub fn end_session(&self, session: SessionId, ending: SessionEnd) -> Result<(), Broken> {
        self.in_slices(|state, now| state.end_session(now, session, ending, SLICE_JOBS)).map(|_| ())
    }

    /// Waits for a job, which it leases, or for the end of a job or a batch. Blocks.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn wait(&self, session: SessionId, wait: &Wait<'_>) -> Result<Waited<R::Position>, Broken> {
        let mut now = self.clock.now();
        let _alarm = Alarm(self);
        let mut guard = self.locked.lock();
        let waiter = guard.waiters[session.0 as usize].clone();
        loop {
            let (over, _, wakeups) = guard.change(|locked| locked.wait(now, &waiter, session, wait))?;
            if let Some(over) = over {
                drop(guard);
                self.wake(wakeups);
                return Ok(over);
            }
            self.wake(wakeups);
            match wait.deadline.and_then(|deadline| self.clock.instant_of(deadline)) {
                Some(instant) => {
                    waiter.condvar.wait_until(&mut guard, instant);
                }
                None => waiter.condvar.wait(&mut guard),
            }
            now = self.clock.now();
        }
    }

    /// Ends a session's wait now, and each later one as it begins.
    pub fn cancel(&self, waiter: &Waiter) {
        // Under the lock, so that it can't fall between a waiting thread's look at it and that thread's
        // sleep.
        let locked = self.locked.lock();
        waiter.cancelled.store(true, Ordering::Relaxed);
        drop(locked);
        waiter.condvar.notify_one();
    }

    /// Does what is due, and sleeps until something is; returns after [`Queue::stop`], or when the queue is
    /// [`Broken`]. The timekeeper's thread runs this. `after_changes` is called, without the lock, after each
    /// change, because nobody waits for such a change to be durable.
    pub fn keep_time(&self, after_changes: impl Fn()) {
        loop {
            let now = self.clock.now();
            let mut guard = self.locked.lock();
            if guard.stopped || guard.changing {
                return;
            }
            let next = guard.state.next_deadline();
            if next.is_some_and(|moment| moment <= now.mono) {
                drop(guard);
                if self.run(|locked| locked.state.tick(now, SLICE_JOBS), |()| true).is_err() {
                    return;
                }
                after_changes();
                continue;
            }
            guard.sleeping_to = next;
            guard.timekeeper_idle = true;
            match next.and_then(|moment| self.clock.instant_of(moment)) {
                Some(instant) => {
                    self.timekeeper.wait_until(&mut guard, instant);
                }
                None => self.timekeeper.wait(&mut guard),
            }
            guard.timekeeper_idle = false;
        }
    }

    /// Does all that is due by now: a test on a manual clock calls it after moving the clock.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn tick(&self) -> Result<(), Broken> {
        self.in_slices(|state, now| {
            state.tick(now, SLICE_JOBS);
            state.next_deadline().is_none_or(|moment| moment > now.mono)
        })?;
        // Waits have deadlines too, and no thread sleeps to a manual clock's.
        self.wake_all_waiters();
        Ok(())
    }

    /// Makes the timekeeper return.
    pub fn stop(&self) {
        self.locked.lock().stopped = true;
        self.timekeeper.notify_one();
    }

    /// The queue's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Wakes waiting threads, without the lock.
    fn wake(&self, wakeups: Wakeups) {
        for waiter in wakeups.waiters {
            waiter.condvar.notify_one();
        }
        if wakeups.timekeeper {
            self.timekeeper.notify_one();
        }
    }

    fn wake_all_waiters(&self) {
        let waiters = self.locked.lock().waiters.clone();
        waiters.iter().for_each(|waiter| {
            waiter.condvar.notify_one();
        });
    }

    #[cold]
    fn break_if_unfinished(&self) {
        let mut locked = self.locked.lock();
        if locked.changing && !std::mem::replace(&mut locked.broken, true) {
            drop(locked);
            self.wake_all_waiters();
            self.timekeeper.notify_one();
            (self.on_broken)();
        }
    }
}
