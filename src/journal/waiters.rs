//! Waiters for positions in the journal, in order: threads that sleep, and calls to be made.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};

use super::failure::Unavailable;

const WAITS: u8 = 0;
const REACHED: u8 = 1;
const LOOK_AGAIN: u8 = 2;

/// Called once when its position is reached or never will be. It must not block, because others wait.
pub(super) type Call = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// A thread that waits. It waits for one position at a time, so each thread has one of these.
#[derive(Debug)]
pub(super) struct Sleeper {
    thread: Thread,
    state: AtomicU8,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Sleeper>>> = const { RefCell::new(None) };
}

impl Sleeper {
    /// This thread's sleeper, ready to wait.
    pub(super) fn own() -> Arc<Sleeper> {
        OWN.with_borrow_mut(|own| {
            let new = || Arc::new(Sleeper { thread: thread::current(), state: AtomicU8::new(WAITS) });
            let sleeper = own.get_or_insert_with(new);
            sleeper.state.store(WAITS, Ordering::Relaxed);
            Arc::clone(sleeper)
        })
    }

    /// Blocks until it is woken. Returns whether its position was reached. If not, look again for the reason.
    pub(super) fn park(&self) -> bool {
        loop {
            match self.state.load(Ordering::Acquire) {
                WAITS => thread::park(),
                state => return state == REACHED,
            }
        }
    }

    fn wake(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.thread.unpark();
    }
}

/// A thread, or a call.
pub(super) enum Waiter {
    Thread(Arc<Sleeper>),
    Call(Call),
}

/// The waiters, by position.
#[derive(Default)]
pub(super) struct Waiters {
    queue: VecDeque<(u64, Waiter)>,
}

impl Waiters {
    /// Adds a waiter for `position`.
    pub(super) fn push(&mut self, position: u64, waiter: Waiter) {
        // Nearly always at the end: they come almost in order.
        let at = self.queue.iter().rposition(|(other, _)| *other <= position).map_or(0, |index| index + 1);
        self.queue.insert(at, (position, waiter));
    }

    /// Takes those whose position is reached.
    pub(super) fn take_reached(&mut self, position: u64) -> Woken {
        let count = self.queue.partition_point(|(wanted, _)| *wanted <= position);
        Woken { waiters: self.queue.drain(..count).collect(), unavailable: None }
    }

    /// Takes all, because their positions will not be reached.
    pub(super) fn take_all(&mut self, unavailable: Unavailable) -> Woken {
        Woken { waiters: self.queue.drain(..).collect(), unavailable: Some(unavailable) }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Waiters to wake once no lock is held.
#[must_use]
pub(super) struct Woken {
    waiters: Vec<(u64, Waiter)>,
    unavailable: Option<Unavailable>,
}

impl Woken {
    /// Wakes them.
    pub(super) fn wake(self) {
        let state = if self.unavailable.is_none() { REACHED } else { LOOK_AGAIN };
        for (_, waiter) in self.waiters {
            match waiter {
                Waiter::Thread(sleeper) => sleeper.wake(state),
                Waiter::Call(call) => {
                    let result = self.unavailable.clone().map_or(Ok(()), Err);
                    // This thread writes the journal for others that still wait, so a panic ends here. The
                    // panic hook has reported it.
                    if catch_unwind(AssertUnwindSafe(|| call(result))).is_err() {
                        log::error!("a callback that waited for the journal panicked");
                    }
                }
            }
        }
    }
}
