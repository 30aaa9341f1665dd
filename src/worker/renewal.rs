//! Renews the leases of all running jobs, on one connection: a BEAT names those that are due.
//!
//! The same connection takes over the leases of connections that are lost, by HOLD. A slot's own connection
//! would not do for that: it ends before the others' jobs do.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};
use log::debug;

use super::Shared;
use super::link::{Link, Received, connect, receive};
use super::running::Next;
use crate::client::retry::Backoff;
use crate::clock::Moment;
use crate::job::JobId;
use crate::protocol::Command;
use crate::protocol::native::Answer;

/// The most ids in a BEAT: they must fit into the body of a command.
const BEAT_IDS_MAX: usize = 3000;

/// The most jobs that a worker may run at a time if its leases are to outlive a connection: HOLD names all.
pub(super) const HOLD_IDS_MAX: usize = BEAT_IDS_MAX;

/// How long the server may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// HOLD is repeated this often in the time that leases outlive their connection.
const HOLDS: u32 = 3;

/// Renews until `ended` is closed, or until a server turns out to be too old for that.
pub(super) fn renew_all(shared: &Shared, ended: &Receiver<Infallible>) {
    let mut renewal = Renewal { shared, ended, link: None, held: None, backoff: Backoff::default() };
    while renewal.step().is_some() {}
}

struct Renewal<'a> {
    shared: &'a Shared,
    ended: &'a Receiver<Infallible>,
    link: Option<Link>,
    /// When the last HOLD was sent that was answered.
    held: Option<Moment>,
    backoff: Backoff,
}

impl Renewal<'_> {
    /// Does what is due, or waits until something is. `None` at the end.
    fn step(&mut self) -> Option<()> {
        let running = &self.shared.running;
        match running.next(self.shared.now(), self.held, self.shared.resume / HOLDS) {
            Next::Wait(until) => self.wait(until, running.changed()),
            Next::Hold(ids) => {
                let sent = self.shared.now();
                running.hold_sent();
                match self.ask(&Command::Hold { ids: ids.clone() })? {
                    Some(lost) => {
                        running.held(&ids, &lost, sent);
                        self.held = Some(sent);
                    }
                    None => running.reply_lost(),
                }
                Some(())
            }
            Next::Beat(mut ids) => {
                ids.truncate(BEAT_IDS_MAX);
                let sent = self.shared.now();
                running.beat_sent(&ids, sent);
                if let Some(lost) = self.ask(&Command::Beat { ids: ids.clone() })? {
                    running.renewed(&ids, &lost, sent);
                }
                Some(())
            }
        }
    }

    /// Waits until the moment or for a token. Notices if the connection is lost meanwhile.
    fn wait(&mut self, until: Option<Moment>, token: &Receiver<()>) -> Option<()> {
        let timer = until.map_or_else(never, |at| after(at.until(self.shared.now())));
        let incoming = self.link.as_ref().map_or_else(never, |link| link.connection.incoming().clone());
        select! {
            recv(self.ended) -> _ => return None,
            recv(token) -> _ => {}
            recv(timer) -> _ => {}
            recv(incoming) -> _ => self.drop_link("the connection for renewals is lost"),
        }
        Some(())
    }

    /// Sends a command and waits for its reply: the ids of the jobs that the worker does not have. `Some(None)` if
    /// there was no good one; then it has waited a little.
    fn ask(&mut self, command: &Command) -> Option<Option<Vec<JobId>>> {
        if self.link.is_none() {
            match connect(self.shared, self.ended, || true) {
                Ok(Some(link)) if link.abilities.beat && link.abilities.hold => self.link = Some(link),
                Ok(_) => return None,
                Err(unreachable) => return self.failed(&unreachable.why),
            }
        }
        let link = self.link.as_mut()?;
        link.connection.send(command);
        let deadline = self.shared.now().after(ANSWER_PATIENCE);
        let answer = match receive(self.shared, &mut link.connection, self.ended, Some(deadline)) {
            Received::Event(super::connection::Event::Answer(answer)) => answer,
            Received::Event(super::connection::Event::Closed(why)) => return self.failed(&why),
            Received::Event(super::connection::Event::Connected) => {
                return self.failed("it is connected twice");
            }
            Received::Timeout => return self.failed("the server is silent"),
            Received::Woken => return None,
        };
        match answer {
            Answer::Held { lost, .. } => {
                self.backoff.reset();
                Some(Some(lost))
            }
            Answer::Count(_) => {
                self.backoff.reset();
                Some(Some(Vec::new()))
            }
            other => self.failed(&format!("the server answered {other:?}")),
        }
    }

    fn failed(&mut self, why: &str) -> Option<Option<Vec<JobId>>> {
        self.drop_link(why);
        let wait = self.backoff.next_wait();
        self.wait(Some(self.shared.now().after(wait)), &never())?;
        Some(None)
    }

    fn drop_link(&mut self, why: &str) {
        debug!("no renewal: {why}");
        if self.link.take().is_some() {
            self.shared.running.holder_lost(self.shared.now());
        }
    }
}
