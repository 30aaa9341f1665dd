//! A thread for each connection, and the next one for a thread whose client has gone.
//!
//! A new thread costs more than many a connection has to do, and its allocations come from another heap than those that an
//! earlier one leaves behind. So a thread that has done its work waits a while for more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// A thread's stack, in bytes. Only pages that are used cost memory.
const STACK_BYTES: usize = 256 * 1024;

/// How many threads wait for work at most; what more there are end with theirs.
pub(super) const IDLE_MAX: usize = 32;

/// How long a thread waits for more work before it ends.
const IDLE_FOR: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// Threads by need. Those that wait end when this is dropped.
pub(super) struct Threads {
    /// Has no room of its own: what is sent is in the hands of a thread that waits, or comes back.
    hand_over: Sender<Work>,
    idle: Idle,
}

/// What a thread that waits holds, and no more: nothing that its work had.
#[derive(Clone)]
struct Idle {
    next: Receiver<Work>,
    count: Arc<AtomicUsize>,
}

impl Threads {
    pub(super) fn new() -> Threads {
        let (hand_over, next) = bounded(0);
        Threads { hand_over, idle: Idle { next, count: Arc::default() } }
    }

    /// Has a thread do this work: one that waits, or a new one.
    ///
    /// # Errors
    /// The system's, where no thread can be started: then the work is dropped.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Err(nobody_waits) = self.hand_over.try_send(Box::new(work)) else { return Ok(()) };
        let mut work = nobody_waits.into_inner();
        let idle = self.idle.clone();
        let thread = std::thread::Builder::new().name("connection".into()).stack_size(STACK_BYTES);
        thread.spawn(move || {
            loop {
                work();
                let Some(next) = idle.wait() else { return };
                work = next;
            }
        })?;
        Ok(())
    }
}

impl Idle {
    /// The next work; `None` where enough others wait, or none comes.
    fn wait(&self) -> Option<Work> {
        let others = self.count.fetch_add(1, Ordering::Relaxed);
        let next = if others < IDLE_MAX { self.next.recv_timeout(IDLE_FOR).ok() } else { None };
        self.count.fetch_sub(1, Ordering::Relaxed);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use super::*;
    use crate::clock::Stopwatch;

    /// Far more than anything here takes.
    const LONG: Duration = Duration::from_secs(30);

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Stopwatch::start();
        while !done() {
            assert!(begun.elapsed() < LONG, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    fn waiting(threads: &Threads) -> usize {
        threads.idle.count.load(Ordering::SeqCst)
    }

    /// Has them do work that says which thread did it.
    fn who_runs(threads: &Threads) -> Receiver<ThreadId> {
        let (say, said) = bounded(1);
        threads.run(move || say.send(current().id()).unwrap()).unwrap();
        said
    }

    #[test]
    fn a_thread_that_waits_gets_the_next_work() {
        let threads = Threads::new();
        let first = who_runs(&threads).recv_timeout(LONG).unwrap();
        // It counts as waiting a moment before it can be handed anything: then another is started, and both wait.
        until("the same thread again", || {
            until("it waits", || waiting(&threads) > 0);
            who_runs(&threads).recv_timeout(LONG).unwrap() == first
        });
    }

    #[test]
    fn work_never_waits_for_a_thread_that_is_busy() {
        let threads = Threads::new();
        let (release, held) = bounded::<()>(0);
        for _ in 0..3 {
            let held = held.clone();
            threads.run(move || assert!(held.recv().is_err())).unwrap();
        }
        who_runs(&threads).recv_timeout(LONG).unwrap();
        drop(release);
    }

    #[test]
    fn of_a_crowd_only_some_wait_and_none_outlives_its_owner() {
        let threads = Threads::new();
        let (release, held) = bounded::<()>(0);
        for _ in 0..IDLE_MAX + 8 {
            let held = held.clone();
            threads.run(move || assert!(held.recv().is_err())).unwrap();
        }
        let living = Arc::downgrade(&threads.idle.count);
        // Each thread has one, and their owner.
        assert_eq!(living.strong_count(), IDLE_MAX + 8 + 1);
        drop(release);
        until("the rest have ended", || living.strong_count() <= IDLE_MAX + 1);
        drop(threads);
        until("all have ended", || living.strong_count() == 0);
    }
}
