//! The handle that stops, pauses and resumes a worker while it runs.

use std::sync::Arc;

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
        let inner = Inner { clock, phase: Mutex::new(Phase::Fetch), wakers: Mutex::default() };
        Control { inner: Arc::new(inner) }
    }

    /// Fetches nothing more and lets running jobs finish within the worker's grace period. Then cancels those
    /// that still run and returns them, without charging an attempt. Does nothing if the worker is already
    /// stopping.
    pub fn stop(&self) {
        let since = self.inner.clock.now().mono;
        self.change(|phase| match phase {
            Phase::Fetch | Phase::Pause => Phase::Finish { since },
            stopping => stopping,
        });
    }

    /// Fetches nothing more, cancels running jobs now, and returns them without charging an attempt.
    pub fn stop_at_once(&self) {
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

    fn change(&self, next: impl FnOnce(Phase) -> Phase) {
        let (before, after) = {
            let mut phase = self.inner.phase.lock();
            let before = *phase;
            *phase = next(before);
            (before, *phase)
        };
        if before != after {
            match after {
                Phase::Fetch => info!(event = "resumed"; "resumed"),
                Phase::Pause => info!(event = "paused"; "paused: finishing what runs, fetching nothing"),
                Phase::Finish { .. } => {
                    info!(event = "stopping"; "stopping: finishing what runs, fetching nothing")
                }
                Phase::AtOnce => info!(event = "stopping_at_once"; "stopping at once: ending what runs"),
            }
            self.wake_all();
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
