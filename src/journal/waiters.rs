//! Threads that wait for a place in the journal, in the order of their places.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};

const WAITS: u8 = 0;
const REACHED: u8 = 1;
const LOOK_AGAIN: u8 = 2;

/// One thread that waits. A thread waits for one place at a time, so it has one of these for life.
#[derive(Debug)]
pub(super) struct Waiter {
    thread: Thread,
    state: AtomicU8,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Waiter>>> = const { RefCell::new(None) };
}

impl Waiter {
    /// This thread's, ready to wait.
    pub(super) fn own() -> Arc<Waiter> {
        OWN.with_borrow_mut(|own| {
            let new = || Arc::new(Waiter { thread: thread::current(), state: AtomicU8::new(WAITS) });
            let waiter = own.get_or_insert_with(new);
            waiter.state.store(WAITS, Ordering::Relaxed);
            Arc::clone(waiter)
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

/// Those who wait, by their places.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    queue: VecDeque<(u64, Arc<Waiter>)>,
}

impl Waiters {
    /// Adds one that waits for `position`.
    pub(super) fn push(&mut self, position: u64, waiter: Arc<Waiter>) {
        // Nearly always the last place: they come almost in order.
        let at = self.queue.iter().rposition(|(other, _)| *other <= position).map_or(0, |index| index + 1);
        self.queue.insert(at, (position, waiter));
    }

    /// Takes those whose place is reached.
    pub(super) fn take_reached(&mut self, position: u64) -> Woken {
        let count = self.queue.partition_point(|(wanted, _)| *wanted <= position);
        Woken { waiters: self.queue.drain(..count).collect(), state: REACHED }
    }

    /// Takes all, to look again.
    pub(super) fn take_all(&mut self) -> Woken {
        Woken { waiters: self.queue.drain(..).collect(), state: LOOK_AGAIN }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Threads to be woken, once no lock is held.
#[must_use]
#[derive(Debug)]
pub(super) struct Woken {
    waiters: Vec<(u64, Arc<Waiter>)>,
    state: u8,
}

impl Woken {
    /// Wakes them.
    pub(super) fn wake(self) {
        for (_, waiter) in self.waiters {
            waiter.wake(self.state);
        }
    }
}
