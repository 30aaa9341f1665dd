//! Sessions: how they begin and end, the queue that a session uses, the queues that it watches, and the
//! warning before one of its leases lapses.
//!
//! Every session uses and watches `default` until it says otherwise. Only the sessions that did are counted.
//! So one that never says otherwise costs nothing here, and `default` need not exist for it.

use std::time::Duration;

use super::{Crash, Handed, Owner, PendingWait, QueueIx, Session, SessionEnd, SessionId, State};
use crate::clock::Now;
#[cfg(doc)]
use crate::error::Code;
use crate::error::Refusal;
use crate::job::QueueName;

/// A lease lapses soon if at most this time is left.
pub const LAPSES_SOON: Duration = Duration::from_secs(1);

/// The most queues that a session may watch. Each lease looks at all of them under the lock.
pub const WATCHED_MAX: usize = 1024;

/// Whether a wait for a job also ends when one of the session's leases is about to lapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warn {
    /// It does not.
    Never,
    /// It ends [`LAPSES_SOON`] before.
    BeforeLapse,
}

impl State {
    /// Opens a session for a new connection.
    pub fn open_session(&mut self) -> SessionId {
        if let Some(number) = self.free_sessions.pop() {
            self.sessions[number as usize] = Some(Session::default());
            return SessionId(number);
        }
        self.sessions.push(Some(Session::default()));
        SessionId(u32::try_from(self.sessions.len() - 1).expect("fewer than 2^32 connections"))
    }

    /// Ends a session in slices of `most` leases. Returns whether it has ended; until then, call it again.
    ///
    /// One that was lost and whose worker wants that keeps its leases for a while: see `fleet`.
    ///
    /// Its jobs are returned most urgent first. So the first slices return nothing: they sort the leases, as
    /// one session may have a million of them. A lease that has been sorted does not lapse any more.
    pub fn end_session(&mut self, now: Now, session: SessionId, ending: SessionEnd, most: u64) -> bool {
        self.cancel_wait(session);
        if ending == SessionEnd::Lost && self.park(now, session) {
            return true;
        }
        for _ in 0..most {
            let Some(((_, id), since)) = self.session_mut(session).leases.pop_first() else { break };
            let priority = self.slot(id).priority;
            self.session_mut(session).returning.insert((priority, id), since);
        }
        if !self.session(session).leases.is_empty() {
            return false;
        }
        for _ in 0..most {
            let Some((&(_, id), _)) = self.session(session).returning.first_key_value() else { break };
            // The session has never seen a job that it has not taken, so that job did not fail.
            let handed = &self.session(session).handed;
            let seen = !matches!(handed, Some(Handed::Lease(handed)) if *handed == id);
            match ending {
                // It was cancelled since it was sorted.
                _ if !self.is_leased_by(session, id) => {}
                SessionEnd::Lost if seen => self.crash(now, id, Crash::Lost),
                SessionEnd::Lost | SessionEnd::Quit => self.return_to_queue(now, id, Duration::ZERO),
            }
            self.session_mut(session).returning.pop_first();
        }
        let ended = self.session(session).returning.is_empty();
        if ended {
            self.forget_session(session);
        }
        ended
    }

    pub(super) fn forget_session(&mut self, session: SessionId) {
        if let Some(at) = self.session(session).scheduled_at {
            self.timers.remove(&(at, Owner::Session(session)));
        }
        self.detach(session);
        self.leave_fleet(session);
        self.set_asked(session, Vec::new());
        self.sessions[session.0 as usize] = None;
        self.free_sessions.push(session.0);
    }

    /// Sets the queue of what the session submits without naming one.
    ///
    /// # Errors
    /// [`Code::Full`] if the queue does not exist, and there is no memory for it.
    pub fn use_queue(&mut self, session: SessionId, name: &QueueName) -> Result<(), Refusal> {
        let queue = if *name == QueueName::default() { None } else { Some(self.queue_with_room(name)?) };
        if let Some(queue) = queue {
            self.queue_mut(queue).using += 1;
            self.using_others += 1;
        }
        let before = std::mem::replace(&mut self.session_mut(session).used, queue);
        if let Some(queue) = before {
            self.stop_using(queue);
        }
        Ok(())
    }

    /// Adds a queue to those that the session watches. Returns how many it watches then.
    ///
    /// # Errors
    /// [`Code::Full`] if the queue does not exist, and there is no memory for it, or if the session already
    /// watches [`WATCHED_MAX`].
    pub fn watch(&mut self, session: SessionId, name: &QueueName) -> Result<usize, Refusal> {
        if self.watches(session, name) {
            return Ok(self.watched_count(session));
        }
        if self.session(session).watched.len() >= WATCHED_MAX {
            return Err(Refusal::full(
                super::FULL_RETRY_AFTER,
                format!("a connection watches at most {WATCHED_MAX} queues: ignore some first"),
            ));
        }
        let queue = self.queue_with_room(name)?;
        if self.session(session).watched.is_empty() {
            // Until now it watched `default` without being counted.
            let default = self.queue_named(&QueueName::default());
            self.watching_others += 1;
            self.start_watching(session, default);
        }
        self.start_watching(session, queue);
        Ok(self.watched_count(session))
    }

    /// Removes a queue from those that the session watches, if it is one of them. Returns how many it watches
    /// then.
    ///
    /// # Errors
    /// [`Code::Usage`] if it is the only one: a session that watches nothing would wait for ever.
    pub fn ignore(&mut self, session: SessionId, name: &QueueName) -> Result<usize, Refusal> {
        if !self.watches(session, name) {
            return Ok(self.watched_count(session));
        }
        if self.watched_count(session) == 1 {
            return Err(Refusal::usage(
                "the only queue that is watched can't be ignored: watch another one first",
            ));
        }
        let queue = self.named(name).expect("it is watched");
        let found = self.session_mut(session);
        found.watched.retain(|watched| *watched != queue);
        found.asked_watched = false;
        self.stop_watching(queue);
        Ok(self.watched_count(session))
    }

    /// The queues that a session watches, in the order in which it named them.
    pub fn watched(&self, session: SessionId) -> Vec<QueueName> {
        match &self.session(session).watched[..] {
            [] => vec![QueueName::default()],
            queues => queues.iter().map(|&queue| self.queue(queue).name.clone()).collect(),
        }
    }

    /// Whether one of the session's leases lapses soon.
    pub fn lapses_soon(&self, now: Now, session: SessionId) -> bool {
        let first = self.session(session).leases.first_key_value();
        first.is_some_and(|((until, _), _)| until.before(LAPSES_SOON) <= now.mono)
    }

    /// Whether a warning has ended the session's wait since the last call.
    pub fn take_warned(&mut self, session: SessionId) -> bool {
        std::mem::take(&mut self.session_mut(session).warned)
    }

    /// The queues that a session watches, of those that exist.
    pub(super) fn watched_by(&self, session: SessionId) -> impl Iterator<Item = QueueIx> {
        let watched = &self.session(session).watched;
        let default = if watched.is_empty() { self.named(&QueueName::default()) } else { None };
        watched.iter().copied().chain(default)
    }

    /// Ends the wait of a session that wants a warning before its lease lapses, if that is due.
    pub(super) fn warn_if_due(&mut self, now: Now, session: SessionId) {
        let pending_wait = &self.session(session).pending_wait;
        let wants = matches!(pending_wait, Some(PendingWait::Lease { warn: Warn::BeforeLapse, .. }));
        if wants && self.lapses_soon(now, session) {
            self.cancel_wait(session);
            self.session_mut(session).warned = true;
            self.effects.wakes.push(session);
        }
    }

    /// How many sessions use `name`, and how many watch it.
    pub(super) fn attached_to(&self, name: &QueueName) -> (u64, u64) {
        let (mut using, mut watching) = match self.named(name) {
            Some(queue) => (self.queue(queue).using, self.queue(queue).watching),
            None => (0, 0),
        };
        if *name == QueueName::default() {
            let sessions = (self.sessions.len() - self.free_sessions.len()) as u64;
            using += sessions - self.using_others;
            watching += sessions - self.watching_others;
        }
        (using, watching)
    }

    /// Removes a session that ends from the counts of its queues.
    pub(super) fn detach(&mut self, session: SessionId) {
        if let Some(queue) = self.session_mut(session).used.take() {
            self.stop_using(queue);
        }
        let watched = std::mem::take(&mut self.session_mut(session).watched);
        self.watching_others -= u64::from(!watched.is_empty());
        watched.into_iter().for_each(|queue| self.stop_watching(queue));
    }

    fn watches(&self, session: SessionId, name: &QueueName) -> bool {
        match &self.session(session).watched[..] {
            [] => *name == QueueName::default(),
            watched => self.named(name).is_some_and(|queue| watched.contains(&queue)),
        }
    }

    fn watched_count(&self, session: SessionId) -> usize {
        self.session(session).watched.len().max(1)
    }

    fn queue_with_room(&mut self, name: &QueueName) -> Result<QueueIx, Refusal> {
        self.room_for(std::slice::from_ref(name))?;
        Ok(self.queue_named(name))
    }

    /// Notes of which queues a session asks for jobs; with none, of those that it watches.
    pub(super) fn note_asked(&mut self, session: SessionId, queues: &[QueueName]) {
        let found = self.session(session);
        if queues.is_empty() {
            if !found.asked_watched {
                let watched = self.watched(session);
                self.set_asked(session, watched);
                self.session_mut(session).asked_watched = true;
            }
        } else if found.asked != queues {
            self.set_asked(session, queues.to_vec());
        }
    }

    fn set_asked(&mut self, session: SessionId, queues: Vec<QueueName>) {
        for name in &queues {
            *self.asking.entry(name.clone()).or_default() += 1;
        }
        let found = self.session_mut(session);
        found.asked_watched = false;
        for name in std::mem::replace(&mut found.asked, queues) {
            if let Some(count) = self.asking.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.asking.remove(&name);
                }
            }
        }
    }

    fn start_watching(&mut self, session: SessionId, queue: QueueIx) {
        self.session_mut(session).asked_watched = false;
        self.queue_mut(queue).watching += 1;
        self.session_mut(session).watched.push(queue);
    }

    fn stop_watching(&mut self, queue: QueueIx) {
        self.queue_mut(queue).watching -= 1;
        self.drop_if_unused(queue);
    }

    fn stop_using(&mut self, queue: QueueIx) {
        self.queue_mut(queue).using -= 1;
        self.using_others -= 1;
        self.drop_if_unused(queue);
    }
}
