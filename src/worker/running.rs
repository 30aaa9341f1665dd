//! The jobs that run in this worker now, for the threads that act for all of them: renewal and orders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::clock::Moment;
use crate::job::JobId;

/// The jobs that run now.
#[derive(Debug)]
pub(super) struct Running {
    jobs: Mutex<BTreeMap<JobId, Arc<Tie>>>,
    /// A connection was lost that may have got a job.
    lost_one: AtomicBool,
    /// Until when [`Running::next`] said to wait. Set and read while `jobs` is locked.
    next_look: Mutex<Option<Moment>>,
    changed: (Sender<()>, Receiver<()>),
}

/// A running job's lease, as its slot and the other threads see it.
#[derive(Debug)]
pub(super) struct Tie {
    pub(super) id: JobId,
    ttr: Duration,
    state: Mutex<TieState>,
    news: Sender<()>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TieState {
    /// When the last command was sent by which the server confirmed the lease.
    pub(super) confirmed: Moment,
    /// When a BEAT named it last.
    asked: Moment,
    /// Whether the connection is lost by which the job came.
    pub(super) is_orphan: bool,
    /// Since when no connection is known to hold the lease.
    pub(super) adrift: Option<Moment>,
    /// Whether a HOLD has found that the lease has ended.
    pub(super) is_lost: bool,
}

/// What is to be done next for all jobs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Hold(Vec<JobId>),
    Beat(Vec<JobId>),
    /// Nothing before this moment, if there is one.
    Wait(Option<Moment>),
}

impl Running {
    pub(super) fn new() -> Running {
        Running {
            jobs: Mutex::default(),
            lost_one: AtomicBool::new(false),
            next_look: Mutex::new(None),
            changed: bounded(1),
        }
    }

    /// A job begins to run. The receiver gets a token when its slot should look at its [`Tie::state`] and ask
    /// the server about the lease.
    pub(super) fn begins(&self, id: JobId, ttr: Duration, now: Moment) -> (Arc<Tie>, Receiver<()>) {
        let (news, receiver) = bounded(1);
        let state = TieState { confirmed: now, asked: now, is_orphan: false, adrift: None, is_lost: false };
        let tie = Arc::new(Tie { id, ttr, state: Mutex::new(state), news });
        let mut jobs = self.jobs.lock();
        jobs.insert(id, tie.clone());
        let is_soon_enough = self.next_look.lock().is_some_and(|at| at <= now.after(ttr / 3));
        drop(jobs);
        // Most jobs end before they need a renewal, and need not wake anybody.
        if !is_soon_enough {
            self.wake();
        }
        (tie, receiver)
    }

    /// A run has ended. The job may run again already, in another slot.
    pub(super) fn ended(&self, tie: &Arc<Tie>) {
        let mut jobs = self.jobs.lock();
        if jobs.get(&tie.id).is_some_and(|found| Arc::ptr_eq(found, tie)) {
            jobs.remove(&tie.id);
        }
    }

    /// The connection is lost by which a job came.
    pub(super) fn cast_adrift(&self, tie: &Tie, now: Moment) {
        let mut state = tie.state.lock();
        state.is_orphan = true;
        state.adrift.get_or_insert(now);
        drop(state);
        self.wake();
    }

    /// The connection is lost by which HOLD was sent.
    pub(super) fn holder_lost(&self, now: Moment) {
        for tie in self.jobs.lock().values() {
            let mut state = tie.state.lock();
            if state.is_orphan {
                state.adrift.get_or_insert(now);
            }
        }
    }

    /// A connection was lost that waited for a job: the reply may be lost with it.
    pub(super) fn reply_lost(&self) {
        self.lost_one.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Asks a job's slot to look whether its lease has ended.
    pub(super) fn check(&self, id: JobId) {
        if let Some(tie) = self.jobs.lock().get(&id) {
            tie.tell();
        }
    }

    /// The same for all jobs.
    pub(super) fn check_all(&self) {
        self.jobs.lock().values().for_each(|tie| tie.tell());
    }

    /// Gets a token when [`Running::next`] may have changed.
    pub(super) fn changed(&self) -> &Receiver<()> {
        &self.changed.1
    }

    /// What is due at `now`. While there are orphans, a HOLD is due when `held` was `hold_interval` ago.
    pub(super) fn next(&self, now: Moment, held: Option<Moment>, hold_interval: Duration) -> Next {
        let jobs = self.jobs.lock();
        let states: Vec<_> = jobs.values().map(|tie| (tie.id, tie.ttr, *tie.state.lock())).collect();
        // A connection may be lost for the worker and not yet for the server, so that one HOLD is not enough.
        let hold_at = match states.iter().any(|(_, _, state)| state.is_orphan) {
            true => held.map_or(Some(now), |at| Some(at.after(hold_interval))),
            false => None,
        };
        let is_adrift = states.iter().any(|(_, _, state)| state.adrift.is_some_and(|at| Some(at) > held));
        if is_adrift || self.lost_one.load(Ordering::SeqCst) || hold_at.is_some_and(|at| at <= now) {
            return Next::Hold(states.iter().map(|(id, ..)| *id).collect());
        }
        let due = |(_, ttr, state): &(JobId, Duration, TieState), part| {
            state.confirmed.max(state.asked).after(*ttr / part)
        };
        let beat_at = states.iter().map(|job| due(job, 3)).min();
        if beat_at.is_some_and(|at| at <= now) {
            // Those that are due before long are renewed with it, so that one command serves all.
            let soon = states.iter().filter(|job| due(job, 6) <= now);
            return Next::Beat(soon.map(|(id, ..)| *id).collect());
        }
        let next_look = hold_at.into_iter().chain(beat_at).min();
        *self.next_look.lock() = next_look;
        Next::Wait(next_look)
    }

    /// A HOLD was sent that names these jobs.
    pub(super) fn hold_sent(&self) {
        self.lost_one.store(false, Ordering::SeqCst);
    }

    /// A HOLD that was sent then was answered: the worker has all of these jobs but the lost ones.
    pub(super) fn held(&self, ids: &[JobId], lost: &[JobId], sent: Moment) {
        self.each(ids, |tie| {
            let mut state = tie.state.lock();
            match lost.contains(&tie.id) {
                true => state.is_lost = true,
                false if state.adrift.is_some_and(|at| at <= sent) => state.adrift = None,
                false => {}
            }
        });
        self.each(lost, Tie::tell);
    }

    /// A BEAT is being sent.
    pub(super) fn beat_sent(&self, ids: &[JobId], now: Moment) {
        self.each(ids, |tie| tie.state.lock().asked = now);
    }

    /// A BEAT that was sent then was answered.
    pub(super) fn renewed(&self, ids: &[JobId], lost: &[JobId], sent: Moment) {
        self.each(ids, |tie| match lost.contains(&tie.id) {
            // The slot asks why.
            true => tie.tell(),
            false => tie.confirm(sent),
        });
    }

    fn each(&self, ids: &[JobId], act: impl Fn(&Tie)) {
        let jobs = self.jobs.lock();
        ids.iter().filter_map(|id| jobs.get(id)).for_each(|tie| act(tie));
    }

    fn wake(&self) {
        // Full: it has not looked since the last token.
        let _ = self.changed.0.try_send(());
    }
}

impl Tie {
    pub(super) fn state(&self) -> TieState {
        *self.state.lock()
    }

    /// The server has confirmed the lease by its answer to a command that was sent then.
    pub(super) fn confirm(&self, sent: Moment) {
        let mut state = self.state.lock();
        state.confirmed = state.confirmed.max(sent);
    }

    fn tell(&self) {
        let _ = self.news.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn one_beat_renews_all_that_are_due_soon() {
        let (running, start) = (Running::new(), Clock::system().now().mono);
        let at = |seconds| start.after(Duration::from_secs(seconds));
        let next = |seconds| running.next(at(seconds), None, Duration::from_secs(1));
        let ids: Vec<JobId> = (1..=3).map(JobId).collect();
        let _jobs: Vec<_> =
            (0..3).map(|n| running.begins(ids[n], Duration::from_secs(60), at(4 * n as u64))).collect();
        assert_eq!(next(19), Next::Wait(Some(at(20))));
        assert_eq!(next(20), Next::Beat(ids.clone()));
        running.beat_sent(&ids, at(20));
        assert_eq!(next(21), Next::Wait(Some(at(40))), "a BEAT without an answer is not repeated at once");
        running.renewed(&ids, &[], at(20));
        assert_eq!(next(39), Next::Wait(Some(at(40))));
    }

    #[test]
    fn hold_names_all_and_is_repeated_while_there_are_orphans() {
        let (running, start) = (Running::new(), Clock::system().now().mono);
        let at = |seconds| start.after(Duration::from_secs(seconds));
        let (first, _news) = running.begins(JobId(1), Duration::from_secs(600), at(0));
        let (_second, second_news) = running.begins(JobId(2), Duration::from_secs(600), at(0));
        running.cast_adrift(&first, at(1));
        let ids = vec![JobId(1), JobId(2)];
        assert_eq!(running.next(at(1), None, Duration::from_secs(5)), Next::Hold(ids.clone()));
        running.held(&ids, &[JobId(2)], at(2));
        assert!(first.state().adrift.is_none() && second_news.try_recv().is_ok());
        assert_eq!(running.next(at(3), Some(at(2)), Duration::from_secs(5)), Next::Wait(Some(at(7))));
        assert_eq!(running.next(at(7), Some(at(2)), Duration::from_secs(5)), Next::Hold(ids));
        running.ended(&first);
        assert_eq!(running.next(at(8), Some(at(2)), Duration::from_secs(5)), Next::Wait(Some(at(200))));
    }
}
