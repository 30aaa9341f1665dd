//! A thread for each connection, and the next one for a thread whose client has gone.
//!
//! A new thread costs more than many a connection has to do, and its allocations come from another heap than those that an
//! earlier one leaves behind. So a thread that has done its work waits a while for more. The one that has waited for the
//! shortest time gets it: its stack is still in the cache, and those that are not needed end.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, ThreadId, current};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// A thread's stack, in bytes. Only pages that are used cost memory.
const STACK_BYTES: usize = 256 * 1024;

/// How many threads wait for work at most; what more there are end with theirs.
pub(super) const IDLE_MAX: usize = 32;

/// How long a thread waits for more work before it ends.
const IDLE_FOR: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// Threads by need. Those that wait end when this is dropped.
pub(super) struct Threads {
    idle: Arc<Idle>,
    idle_for: Duration,
}

/// The threads that wait; `None` once nobody can have any work for them.
struct Idle(Mutex<Option<Vec<Waiting>>>);

/// A thread that waits, and how it is handed its work.
type Waiting = (ThreadId, Sender<Work>);

impl Threads {
    pub(super) fn new() -> Threads {
        Threads::that_wait(IDLE_FOR)
    }

    fn that_wait(idle_for: Duration) -> Threads {
        Threads { idle: Arc::new(Idle(Mutex::new(Some(Vec::new())))), idle_for }
    }

    /// Has a thread do this work: one that waits, or a new one.
    ///
    /// # Errors
    /// The system's, where no thread can be started: then the work is dropped.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut work: Work = Box::new(work);
        let waiting = self.idle.0.lock().as_mut().and_then(Vec::pop);
        if let Some((_, hand_over)) = waiting {
            // It takes what comes, since nobody but it takes it out of the list when its time is up.
            match hand_over.send(work) {
                Ok(()) => return Ok(()),
                Err(unsent) => work = unsent.into_inner(),
            }
        }
        let (idle, idle_for) = (Arc::clone(&self.idle), self.idle_for);
        Builder::new().name("connection".into()).stack_size(STACK_BYTES).spawn(move || {
            loop {
                work();
                let Some(next) = idle.wait(idle_for) else { return };
                work = next;
            }
        })?;
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        *self.idle.0.lock() = None;
    }
}

impl Idle {
    /// The next work; `None` where enough others wait, or none comes.
    fn wait(&self, time: Duration) -> Option<Work> {
        let (hand_over, next) = bounded(1);
        let me = current().id();
        {
            let mut idle = self.0.lock();
            let waiting = idle.as_mut().filter(|waiting| waiting.len() < IDLE_MAX)?;
            waiting.push((me, hand_over));
        }
        match next.recv_timeout(time) {
            Ok(work) => return Some(work),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        {
            let mut idle = self.0.lock();
            let waiting = idle.as_mut()?;
            if let Some(at) = waiting.iter().position(|(thread, _)| *thread == me) {
                waiting.remove(at);
                return None;
            }
        }
        // Somebody has taken it out of the list a moment ago, to hand it something.
        next.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::Receiver;

    use super::*;
    use crate::clock::Stopwatch;

    /// Far more than anything here takes, and far less than a thread waits here.
    const LONG: Duration = Duration::from_secs(60);

    fn threads() -> Threads {
        Threads::that_wait(Duration::from_secs(3600))
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Stopwatch::start();
        while !done() {
            assert!(begun.elapsed() < LONG, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    fn waiting(threads: &Threads) -> Vec<ThreadId> {
        threads.idle.0.lock().as_ref().unwrap().iter().map(|(thread, _)| *thread).collect()
    }

    /// Has them do work that says which thread did it.
    fn who_runs(threads: &Threads) -> ThreadId {
        let (say, said) = bounded(1);
        threads.run(move || say.send(current().id()).unwrap()).unwrap();
        said.recv_timeout(LONG).unwrap()
    }

    /// Has so many threads wait for the end of what is returned.
    fn busy(threads: &Threads, count: usize) -> Sender<()> {
        let (release, held) = bounded::<()>(0);
        for _ in 0..count {
            let held: Receiver<()> = held.clone();
            threads.run(move || assert!(held.recv().is_err())).unwrap();
        }
        release
    }

    #[test]
    fn the_thread_that_came_last_gets_the_next_work() {
        let threads = threads();
        drop(busy(&threads, 3));
        until("all three wait", || waiting(&threads).len() == 3);
        for _ in 0..3 {
            let last = waiting(&threads)[2];
            assert_eq!(who_runs(&threads), last);
            until("it waits again", || waiting(&threads).len() == 3);
        }
    }

    #[test]
    fn work_never_waits_for_a_thread_that_is_busy() {
        let threads = threads();
        let release = busy(&threads, 3);
        who_runs(&threads);
        drop(release);
    }

    #[test]
    fn of_a_crowd_only_some_wait_and_none_outlives_its_owner() {
        let threads = threads();
        let release = busy(&threads, IDLE_MAX + 8);
        let living = Arc::downgrade(&threads.idle);
        // Each thread has one, and their owner.
        assert_eq!(living.strong_count(), IDLE_MAX + 8 + 1);
        drop(release);
        until("the rest have ended", || living.strong_count() == IDLE_MAX + 1);
        assert_eq!(waiting(&threads).len(), IDLE_MAX);
        drop(threads);
        until("all have ended", || living.strong_count() == 0);
    }

    #[test]
    fn a_thread_that_nobody_needs_ends() {
        let threads = Threads::that_wait(Duration::from_millis(1));
        let living = Arc::downgrade(&threads.idle);
        for _ in 0..50 {
            // Now and then its time is up in the moment in which it is handed this.
            who_runs(&threads);
            until("it waits, or has ended", || !waiting(&threads).is_empty() || living.strong_count() == 1);
        }
        until("all have ended", || living.strong_count() == 1);
    }
}
