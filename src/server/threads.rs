//! A thread for each connection. A thread whose connection has ended waits a while for the next one.
//!
//! A client that connects for each job costs the server 48 µs a job; with a new thread each time it is 65 µs
//! (docs/performance.md). A new thread would also allocate from another heap than the one that earlier
//! connections' jobs are freed to. Of the waiting threads, the one that has waited for the shortest time gets
//! the work: its stack is still in the processor's cache, and threads that are not needed reach the end of
//! their wait.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, ThreadId, current};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// A thread's stack, in bytes. Only pages that are used cost memory.
const STACK_BYTES: usize = 256 * 1024;

/// How many threads wait for work at most. Further threads end with their work.
pub(super) const IDLE_MAX: usize = 32;

/// How long a thread waits for more work before it ends.
const IDLE_FOR: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// Starts and reuses threads. Waiting threads end when this is dropped.
pub(super) struct Threads {
    idle: Arc<Idle>,
    idle_for: Duration,
}

/// The waiting threads, the last to come at the end; `None` once no more work can come.
struct Idle(Mutex<Option<Vec<Waiting>>>);

/// A waiting thread, and where to send its work.
type Waiting = (ThreadId, Sender<Work>);

impl Threads {
    pub(super) fn new() -> Threads {
        Threads::with_wait(IDLE_FOR)
    }

    fn with_wait(idle_for: Duration) -> Threads {
        Threads { idle: Arc::new(Idle(Mutex::new(Some(Vec::new())))), idle_for }
    }

    /// Runs the work in a waiting thread, or in a new one.
    ///
    /// # Errors
    /// The system's, if no thread can be started. The work is then dropped.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut work: Work = Box::new(work);
        let waiting = self.idle.0.lock().as_mut().and_then(Vec::pop);
        if let Some((_, sender)) = waiting {
            // The thread takes the work: it ends only after it has removed itself from the list.
            match sender.send(work) {
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
    /// Waits for the next work; `None` if enough other threads wait, or if none comes in time.
    fn wait(&self, time: Duration) -> Option<Work> {
        let (sender, next) = bounded(1);
        let me = current().id();
        {
            let mut idle = self.0.lock();
            let waiting = idle.as_mut().filter(|waiting| waiting.len() < IDLE_MAX)?;
            waiting.push((me, sender));
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
        // Another thread has just removed it from the list, to send it work.
        next.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::Receiver;

    use super::*;
    use crate::clock::Stopwatch;

    /// Much longer than anything here takes, and much shorter than a thread waits here.
    const LONG: Duration = Duration::from_secs(60);

    fn threads() -> Threads {
        Threads::with_wait(Duration::from_secs(3600))
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Stopwatch::start();
        while !done() {
            assert!(begun.elapsed() < LONG, "waited in vain until {what}");
            std::thread::yield_now();
        }
    }

    fn waiting(threads: &Threads) -> Vec<ThreadId> {
        threads.idle.0.lock().as_ref().unwrap().iter().map(|(thread, _)| *thread).collect()
    }

    /// Runs work and returns the thread that ran it.
    fn thread_of_work(threads: &Threads) -> ThreadId {
        let (sender, receiver) = bounded(1);
        threads.run(move || sender.send(current().id()).unwrap()).unwrap();
        receiver.recv_timeout(LONG).unwrap()
    }

    /// Keeps `count` threads busy until what it returns is dropped.
    fn busy(threads: &Threads, count: usize) -> Sender<()> {
        let (release, released) = bounded::<()>(0);
        for _ in 0..count {
            let released: Receiver<()> = released.clone();
            threads.run(move || assert!(released.recv().is_err())).unwrap();
        }
        release
    }

    #[test]
    fn thread_that_waited_for_the_shortest_time_gets_the_next_work() {
        let threads = threads();
        drop(busy(&threads, 3));
        until("all three wait", || waiting(&threads).len() == 3);
        for _ in 0..3 {
            let last = waiting(&threads)[2];
            assert_eq!(thread_of_work(&threads), last);
            until("it waits again", || waiting(&threads).len() == 3);
        }
    }

    #[test]
    fn work_never_waits_for_a_busy_thread() {
        let threads = threads();
        let release = busy(&threads, 3);
        thread_of_work(&threads);
        drop(release);
    }

    #[test]
    fn only_some_threads_wait_and_none_outlives_its_owner() {
        let threads = threads();
        let release = busy(&threads, IDLE_MAX + 8);
        let living = Arc::downgrade(&threads.idle);
        // One of each thread, and their owner's.
        assert_eq!(living.strong_count(), IDLE_MAX + 8 + 1);
        drop(release);
        until("the rest have ended", || living.strong_count() == IDLE_MAX + 1);
        assert_eq!(waiting(&threads).len(), IDLE_MAX);
        drop(threads);
        until("all have ended", || living.strong_count() == 0);
    }

    #[test]
    fn thread_without_work_ends() {
        let threads = Threads::with_wait(Duration::from_millis(1));
        let living = Arc::downgrade(&threads.idle);
        for _ in 0..50 {
            // Sometimes its wait ends at the moment at which it is sent this.
            thread_of_work(&threads);
            until("it waits, or has ended", || !waiting(&threads).is_empty() || living.strong_count() == 1);
        }
        until("all have ended", || living.strong_count() == 1);
    }
}
