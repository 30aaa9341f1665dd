//! Those who wait for a place in the journal, in the order of their places: threads that sleep, and calls that are to be made.

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

/// What is called, once, when its place is reached or never will be. It must not block: others wait behind it.
pub(super) type Call = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// One thread that waits. A thread waits for one place at a time, so it has one of these for life.
#[derive(Debug)]
pub(super) struct Sleeper {
    thread: Thread,
    state: AtomicU8,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Sleeper>>> = const { RefCell::new(None) };
}

impl Sleeper {
    /// This thread's, ready to wait.
    pub(super) fn own() -> Arc<Sleeper> {
        OWN.with_borrow_mut(|own| {
            let new = || Arc::new(Sleeper { thread: thread::current(), state: AtomicU8::new(WAITS) });
            let sleeper = own.get_or_insert_with(new);
            sleeper.state.store(WAITS, Ordering::Relaxed);
            Arc::clone(sleeper)
        })
    }

    /// Blocks until it is woken. Returns whether its place was reached; otherwise it is to look again.
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

/// One that waits.
pub(super) enum Waiter {
    Thread(Arc<Sleeper>),
    Call(Call),
}

/// Those who wait, by their places.
#[derive(Default)]
pub(super) struct Waiters {
    queue: VecDeque<(u64, Waiter)>,
}

impl Waiters {
    /// Adds one that waits for `position`.
    pub(super) fn push(&mut self, position: u64, waiter: Waiter) {
        // Nearly always the last place: they come almost in order.
        let at = self.queue.iter().rposition(|(other, _)| *other <= position).map_or(0, |index| index + 1);
        self.queue.insert(at, (position, waiter));
    }

    /// Takes those whose place is reached.
    pub(super) fn take_reached(&mut self, position: u64) -> Woken {
        let count = self.queue.partition_point(|(wanted, _)| *wanted <= position);
        Woken { waiters: self.queue.drain(..count).collect(), unavailable: None }
    }

    /// Takes all: their places will not be reached.
    pub(super) fn take_all(&mut self, unavailable: Unavailable) -> Woken {
        Woken { waiters: self.queue.drain(..).collect(), unavailable: Some(unavailable) }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Who is to be told, once no lock is held.
#[must_use]
pub(super) struct Woken {
    waiters: Vec<(u64, Waiter)>,
    unavailable: Option<Unavailable>,
}

impl Woken {
    /// Tells them.
    pub(super) fn wake(self) {
        let state = if self.unavailable.is_none() { REACHED } else { LOOK_AGAIN };
        for (_, waiter) in self.waiters {
            match waiter {
                Waiter::Thread(sleeper) => sleeper.wake(state),
                Waiter::Call(call) => {
                    let result = self.unavailable.clone().map_or(Ok(()), Err);
                    // The thread that makes the call writes the journal for all others, who still wait: its panic, which
                    // the panic hook has reported, ends here.
                    if catch_unwind(AssertUnwindSafe(|| call(result))).is_err() {
                        log::error!("a call that waited for the journal panicked");
                    }
                }
            }
        }
    }
}
