//! How often each command was given, counted without a lock: each session counts its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::queue::state::SessionId;
use crate::stats::{CommandCounts, Counted};

/// One session's commands. Only its own thread adds to it.
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; CommandCounts::LEN]);

impl Tally {
    pub(super) fn count(&self, counted: Counted) {
        let count = &self.0[counted as usize];
        // No other thread writes it, so that a plain addition is enough.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn of(&self, counted: Counted) -> u64 {
        self.0[counted as usize].load(Ordering::Relaxed)
    }

    fn all(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed))
    }
}

/// All sessions' commands.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    /// Of sessions that have ended.
    ended: CommandCounts,
    open: HashMap<SessionId, Arc<Tally>>,
}

impl Tallies {
    pub(super) fn open(&self, session: SessionId) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        self.0.lock().open.insert(session, Arc::clone(&tally));
        tally
    }

    /// To be called before the session's number can be used again.
    pub(super) fn close(&self, session: SessionId) {
        let mut sums = self.0.lock();
        if let Some(tally) = sums.open.remove(&session) {
            sums.ended.add(tally.all());
        }
    }

    /// All commands, how many open sessions have submitted, and how many have asked for jobs.
    pub(super) fn sums(&self) -> (CommandCounts, u64, u64) {
        let sums = self.0.lock();
        let mut commands = sums.ended.clone();
        let (mut submitters, mut workers) = (0, 0);
        for tally in sums.open.values() {
            commands.add(tally.all());
            submitters += u64::from(tally.of(Counted::Submit) > 0);
            let asked = [Counted::LeaseForever, Counted::LeaseWithin, Counted::LeaseJob];
            workers += u64::from(asked.into_iter().any(|counted| tally.of(counted) > 0));
        }
        (commands, submitters, workers)
    }
}
