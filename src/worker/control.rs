//! The handle that stops, pauses and resumes a worker while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::info;
use parking_lot::Mutex;

use crate::clock::{Clock, Moment};

/// Controls a worker from another thread. Clones control the same worker. No call waits for its effect.
#[derive(Clone, Debug)]
pub struct Control {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    phase: Mutex<Phase>,
    /// One for each slot. A token means "look at the phase again"; one waiting token is enough.
    wakers: Mutex<Vec<Sender<()>>>,
    /// How many jobs run, for the log.
    running: AtomicUsize,
    told_to_stop: AtomicBool,
}

/// What the slots should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Fetch and work.
    Fetch,
    /// Finish running jobs, fetch nothing.
    Pause,
    /// Finish running jobs within the grace period, then end.
    Finish {
        /// When the grace period began.
        since: Moment,
    },
    /// Cancel running jobs, then end.
    AtOnce,
}

impl Control {
    pub(super) fn new(clock: Clock) -> Control {
        let (phase, wakers) = (Mutex::new(Phase::Fetch), Mutex::default());
        let (running, told_to_stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        Control { inner: Arc::new(Inner { clock, phase, wakers, running, told_to_stop }) }
    }

    /// Fetches nothing more and lets running jobs finish within the worker's grace period. Then cancels those
    /// that still run and returns them, without charging an attempt. Does nothing if the worker is already
    /// stopping.
    pub fn stop(&self) {
        self.inner.told_to_stop.store(true, Ordering::SeqCst);
        self.change(self.finish());
    }

    /// The same, without a line in the log: the caller logs why. Returns whether the worker was not stopping
    /// yet.
    pub(super) fn end(&self) -> bool {
        let ends = self.set(self.finish()).is_some();
        if ends {
            self.wake_all();
        }
        ends
    }

    /// Fetches nothing more, cancels running jobs now, and returns them without charging an attempt.
    pub fn stop_at_once(&self) {
        self.inner.told_to_stop.store(true, Ordering::SeqCst);
        self.change(|_| Phase::AtOnce);
    }

    /// Lets running jobs finish, and fetches nothing more until [`Control::resume`]. Does nothing if the
    /// worker is stopping.
    pub fn pause(&self) {
        self.change(|phase| if phase == Phase::Fetch { Phase::Pause } else { phase });
    }

    /// Fetches again after [`Control::pause`]. Does nothing if the worker is not paused.
    pub fn resume(&self) {
        self.change(|phase| if phase == Phase::Pause { Phase::Fetch } else { phase });
    }

    /// Whether the worker is stopping, by a call or by itself.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase(), Phase::Finish { .. } | Phase::AtOnce)
    }

    /// Whether the worker did not begin to stop by itself alone.
    pub(super) fn told_to_stop(&self) -> bool {
        self.inner.told_to_stop.load(Ordering::SeqCst)
    }

    pub(super) fn phase(&self) -> Phase {
        *self.inner.phase.lock()
    }

    /// A receiver that gets a token after every change of phase, and from [`Control::wake_all`].
    pub(super) fn register(&self) -> Receiver<()> {
        let (waker, wake) = bounded(1);
        self.inner.wakers.lock().push(waker);
        wake
    }

    pub(super) fn wake_all(&self) {
        for waker in self.inner.wakers.lock().iter() {
            // Full: it has not looked since the last token. Disconnected: its slot has ended.
            let _ = waker.try_send(());
        }
    }

    /// A job's run begins.
    pub(super) fn run_begins(&self) {
        self.inner.running.fetch_add(1, Ordering::SeqCst);
    }

    /// A job's run has ended.
    pub(super) fn run_ended(&self) {
        self.inner.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn finish(&self) -> impl FnOnce(Phase) -> Phase + use<> {
        let since = self.inner.clock.now().mono;
        move |phase| match phase {
            Phase::Fetch | Phase::Pause => Phase::Finish { since },
            stopping => stopping,
        }
    }

    fn change(&self, next: impl FnOnce(Phase) -> Phase) {
        if let Some(phase) = self.set(next) {
            self.log(phase);
            self.wake_all();
        }
    }

    /// The new phase, if it has changed.
    fn set(&self, next: impl FnOnce(Phase) -> Phase) -> Option<Phase> {
        let mut phase = self.inner.phase.lock();
        let before = *phase;
        *phase = next(before);
        (before != *phase).then_some(*phase)
    }

    /// A worker that stops while nothing runs logs only that it has stopped.
    fn log(&self, phase: Phase) {
        let idle = self.inner.running.load(Ordering::SeqCst) == 0;
        match phase {
            Phase::Fetch => info!(event = "resumed"; "resumed"),
            Phase::Pause if idle => info!(event = "paused"; "paused: fetching nothing"),
            Phase::Pause => info!(event = "paused"; "paused: finishing what runs, fetching nothing"),
            Phase::Finish { .. } | Phase::AtOnce if idle => {}
            Phase::Finish { .. } => {
                info!(event = "stopping"; "stopping: finishing what runs, fetching nothing")
            }
            Phase::AtOnce => info!(event = "stopping_at_once"; "stopping at once: ending what runs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_can_be_hastened_but_not_taken_back() {
        let control = Control::new(Clock::system());
        control.pause();
        assert_eq!(control.phase(), Phase::Pause);
        control.resume();
        assert_eq!(control.phase(), Phase::Fetch);
        control.stop();
        let Phase::Finish { since } = control.phase() else { panic!("{:?}", control.phase()) };
        control.pause();
        control.resume();
        control.stop();
        assert_eq!(control.phase(), Phase::Finish { since });
        control.stop_at_once();
        control.stop();
        assert_eq!(control.phase(), Phase::AtOnce);
    }

    #[test]
    fn change_of_phase_wakes_every_slot_once() {
        let control = Control::new(Clock::system());
        let wakes = [control.register(), control.register()];
        control.pause();
        control.stop();
        for wake in &wakes {
            assert!(wake.try_recv().is_ok() && wake.try_recv().is_err());
        }
    }
}
