//! One of the jobs that a worker runs at a time: its connection, fetching, waiting, and reconnecting.
//!
//! Each slot has its own connection, because a lease belongs to a connection, and because a waiting GET
//! blocks its connection. While a job runs, the connection is free to renew its lease.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, never, select};
use log::info;

use super::connection::Event;
use super::control::Phase;
use super::held::{HeldLease, Run};
use super::link::{Link, Received, Unreachable, connect, receive};
use super::run_log::RunEnd;
use super::turns::{Drain, Emptiness, Mark};
use super::{Shared, WorkerError};
use crate::client::retry::{Backoff, LONGEST_WAIT};
use crate::error::{Code, Refusal};
use crate::job::{JobId, JobState, Lease};
use crate::protocol::native::Answer;
use crate::protocol::{Command, OnDrained, Wait};

/// How long a worker that has drained its queues may take to ask for the jobs that it has not done.
const LOOK_PATIENCE: Duration = Duration::from_secs(20);

/// How long the server may take to close a connection after QUIT.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// One of the jobs that a worker runs at a time.
pub(super) struct Slot {
    shared: Arc<Shared>,
    runs: Sender<Run>,
    wake: Receiver<()>,
    link: Option<Link>,
    /// Dropped when the first link is made.
    unlinked: Option<Sender<Infallible>>,
    backoff: Backoff,
}

/// Why no job was fetched.
enum NoJob {
    /// The phase has changed, or the worker has no more to do: look again.
    PhaseChanged,
    /// The server can't be reached, or refused the command.
    Unreachable(Unreachable),
}

impl From<Unreachable> for NoJob {
    fn from(unreachable: Unreachable) -> NoJob {
        NoJob::Unreachable(unreachable)
    }
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, runs: Sender<Run>, unlinked: Sender<Infallible>) -> Slot {
        let wake = shared.control.register();
        Slot { shared, runs, wake, link: None, unlinked: Some(unlinked), backoff: Backoff::default() }
    }

    /// Works until the worker stops or has done enough.
    pub(super) fn serve(mut self) {
        while self.shared.turns.take() {
            let Some(lease) = self.next_lease() else { return };
            self.work(lease);
        }
    }

    /// Waits for a job, through pauses and while the server can't be reached; `None` when the worker has to
    /// stop.
    fn next_lease(&mut self) -> Option<Lease> {
        loop {
            self.shared.end_if_time_is_up();
            match self.shared.control.phase() {
                Phase::Fetch => {}
                Phase::Pause => {
                    self.idle(self.shared.time_left());
                    continue;
                }
                Phase::Finish { .. } | Phase::AtOnce => return None,
            }
            match self.connect().and_then(|()| self.fetch()) {
                Ok(lease) => return Some(lease),
                Err(NoJob::PhaseChanged) => {}
                Err(NoJob::Unreachable(unreachable)) => self.wait_to_reconnect(&unreachable),
            }
        }
    }

    /// Connects if there is no connection, and waits for the server to answer.
    fn connect(&mut self) -> Result<(), NoJob> {
        if self.link.is_some() {
            return Ok(());
        }
        let fetching = || self.shared.control.phase() == Phase::Fetch;
        let link = connect(&self.shared, &self.wake, || !fetching())?.ok_or(NoJob::PhaseChanged)?;
        self.link = Some(link);
        self.unlinked = None;
        Ok(())
    }

    /// Asks for a job and waits for it.
    fn fetch(&mut self) -> Result<Lease, NoJob> {
        let asked = self.shared.turns.ask();
        let answer = self.ask_for_job();
        match answer {
            // The turn ends with the job.
            Ok(Answer::Leased(lease)) => return Ok(lease),
            Ok(Answer::Empty) if self.shared.drain == Drain::Ready => return self.nothing_ready(asked),
            _ => self.shared.turns.get_failed(),
        }
        match answer {
            Err(NoJob::PhaseChanged) => self.withdraw_get(),
            Ok(Answer::Drained { paused }) => {
                if self.shared.drained(&paused) {
                    self.look_at_unfinished_jobs();
                }
            }
            // The wait was as long as the time left, so that is over.
            Ok(Answer::Empty) if self.shared.time_left().is_some() => self.shared.time_is_up(),
            Ok(Answer::Refused(refusal)) if is_permanent(&refusal) => {
                let knows_drain = self.shared.drain != Drain::All || !refusal.text.contains("\"drain");
                self.shared.fail(match knows_drain {
                    true => WorkerError::Refused(refusal),
                    false => WorkerError::NoDrain(refusal),
                });
            }
            Ok(Answer::Refused(refusal)) => return Err(Unreachable::from(refusal).into()),
            Ok(other) => return Err(unreachable(format!("it answered GET with {other:?}"))),
            Err(no_job) => return Err(no_job),
        }
        Err(NoJob::PhaseChanged)
    }

    /// Sends GET and waits for its reply, until the phase changes.
    fn ask_for_job(&mut self) -> Result<Answer, NoJob> {
        let Some(link) = &mut self.link else { return Err(NoJob::PhaseChanged) };
        let (wait, on_drained) = match self.shared.drain {
            Drain::No => (Wait::Forever, OnDrained::Wait),
            Drain::Ready => (Wait::AtMost(Duration::ZERO), OnDrained::Wait),
            Drain::All => (self.shared.time_left().map_or(Wait::Forever, Wait::AtMost), OnDrained::End),
        };
        link.connection.send(&Command::Lease { queues: self.shared.queues.clone(), wait, on_drained });
        loop {
            let received = receive(&self.shared, &mut link.connection, &self.wake, None);
            let fetching = self.shared.control.phase() == Phase::Fetch;
            match received {
                // It arrived when the worker was stopped: no attempt may be charged.
                Received::Event(Event::Answer(Answer::Leased(_))) if !fetching => {
                    return Err(NoJob::PhaseChanged);
                }
                Received::Event(Event::Answer(answer)) => return Ok(answer),
                Received::Event(Event::Closed(why)) => return Err(unreachable(why)),
                Received::Woken if !fetching => return Err(NoJob::PhaseChanged),
                Received::Event(Event::Connected) | Received::Woken | Received::Timeout => {}
            }
        }
    }

    /// Asks for the jobs that this worker has not done. Others may have done them since.
    fn look_at_unfinished_jobs(&mut self) {
        let (Some(unfinished), Some(link)) = (&self.shared.unfinished, &mut self.link) else { return };
        let ids: Vec<JobId> = unfinished.lock().iter().copied().collect();
        let deadline = self.shared.now().after(LOOK_PATIENCE);
        for id in ids {
            link.connection.send(&Command::Peek { id });
            loop {
                match receive(&self.shared, &mut link.connection, &self.wake, Some(deadline)) {
                    Received::Event(Event::Answer(answer)) => {
                        if is_done(&answer) {
                            unfinished.lock().remove(&id);
                        }
                        break;
                    }
                    Received::Event(Event::Connected) => {}
                    Received::Woken if self.shared.control.phase() != Phase::AtOnce => {}
                    Received::Event(Event::Closed(_)) | Received::Woken | Received::Timeout => return,
                }
            }
        }
    }

    /// There was no ready job: the end, unless a running job may submit another.
    fn nothing_ready(&mut self, asked: Mark) -> Result<Lease, NoJob> {
        match self.shared.turns.found_nothing(asked) {
            Emptiness::AskAgain => {}
            Emptiness::Others => self.idle(self.shared.time_left()),
            Emptiness::Nothing => {
                if self.shared.control.end() {
                    info!(event = "drained"; "the queues have no ready job");
                }
            }
        }
        Err(NoJob::PhaseChanged)
    }

    /// Withdraws a waiting GET: on QUIT the server returns a job that the GET may have got, without a charge.
    ///
    /// All replies must be read: closing with unread ones would reset the connection, so the server might not
    /// see the QUIT, and count the lease as crashed.
    fn withdraw_get(&mut self) {
        let Some(Link { mut connection, .. }) = self.link.take() else { return };
        connection.send(&Command::Quit);
        connection.finish_writing();
        let deadline = self.shared.now().after(QUIT_PATIENCE);
        loop {
            match receive(&self.shared, &mut connection, &self.wake, Some(deadline)) {
                Received::Event(Event::Closed(_)) | Received::Timeout => return,
                Received::Event(_) | Received::Woken => {}
            }
        }
    }

    fn work(&mut self, lease: Lease) {
        let id = lease.id;
        self.shared.control.run_begins();
        let (end, closed) = HeldLease::hold(&self.shared, &mut self.link, &self.wake, &self.runs, lease);
        self.shared.control.run_ended();
        self.count(id, &end);
        if let Some(why) = closed {
            self.drop_link(&why);
        }
        self.backoff.reset();
        self.shared.turns.job_ended();
        if self.shared.drain == Drain::Ready {
            self.shared.control.wake_all();
        }
    }

    fn count(&self, id: JobId, end: &RunEnd) {
        if let Some(unfinished) = &self.shared.unfinished {
            let mut unfinished = unfinished.lock();
            match end {
                RunEnd::Done | RunEnd::Cancelled { .. } => unfinished.remove(&id),
                _ => unfinished.insert(id),
            };
        }
        let mut summary = self.shared.summary.lock();
        *match end {
            RunEnd::Done => &mut summary.done,
            RunEnd::Failed { .. } => &mut summary.failed,
            RunEnd::Dead { .. } => &mut summary.dead,
            RunEnd::Returned { .. } => &mut summary.returned,
            RunEnd::Cancelled { .. } => &mut summary.cancelled,
            RunEnd::Lost { .. } => &mut summary.lost,
        } += 1;
    }

    /// Logs that the server can't be reached, and waits before the next attempt.
    fn wait_to_reconnect(&mut self, Unreachable { why, retry_after }: &Unreachable) {
        match &self.link {
            Some(link) => {
                // A server that answers PING and refuses GET must not restart the short waits.
                if link.made.after(LONGEST_WAIT) <= self.shared.now() {
                    self.backoff.reset();
                }
                self.drop_link(why);
            }
            None => self.shared.presence.not_reached(why),
        }
        let wait = self.backoff.next_wait();
        let wait = retry_after.map_or(wait, |asked| asked.max(wait));
        self.idle(Some(self.shared.time_left().map_or(wait, |left| left.min(wait))));
    }

    fn drop_link(&mut self, why: &str) {
        if let Some(link) = self.link.take() {
            if link.abilities.hold && !self.shared.resume.is_zero() {
                // It may have brought a job. HOLD returns that.
                self.shared.running.reply_lost();
            }
            self.shared.presence.lost(link.epoch, why);
        }
    }

    /// Waits for a change of phase, or until the time is over. Notices if the server disconnects meanwhile.
    fn idle(&mut self, at_most: Option<Duration>) {
        let incoming = self.link.as_ref().map_or_else(never, |link| link.connection.incoming().clone());
        let timer = at_most.map_or_else(never, after);
        select! {
            recv(self.wake) -> _ => {}
            recv(timer) -> _ => {}
            recv(incoming) -> incoming => {
                let event = self.link.as_mut().map(|link| link.connection.take(incoming));
                match event {
                    Some(Event::Closed(why)) => self.drop_link(&why),
                    _ => self.drop_link("it sent something that nobody asked for"),
                }
            }
        }
    }
}

fn unreachable(why: String) -> NoJob {
    Unreachable::because(why).into()
}

/// Whether the answer to a PEEK means that nothing is left to do of the job: it is gone, or kept as done or
/// cancelled.
fn is_done(answer: &Answer) -> bool {
    match answer {
        Answer::Found(job) => matches!(job.state, JobState::Done | JobState::Cancelled),
        Answer::Refused(refusal) => refusal.code == Code::NotFound,
        _ => false,
    }
}

/// Whether the same command would be refused for ever.
fn is_permanent(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::Usage | Code::UnknownVerb | Code::TooBig | Code::BadName)
}
