//! One of the jobs that a worker runs at a time: its connection, fetching, waiting, and reconnecting.
//!
//! Each slot has its own connection, because a lease belongs to a connection, and because a waiting GET
//! blocks its connection. While a job runs, the connection is free to renew its lease.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, never, select};
use log::info;

use super::connection::{Connection, Event};
use super::control::Phase;
use super::held::{Ending, Held, Run};
use super::presence::Since;
use super::turns::{Emptiness, Mark};
use super::{Shared, WorkerError};
use crate::client::retry::{Backoff, LONGEST_WAIT};
use crate::clock::Moment;
use crate::error::{Code, Refusal};
use crate::job::Lease;
use crate::protocol::native::Answer;
use crate::protocol::{Command, Wait};

/// How long a new connection's server may take to answer PING.
const GREETING_PATIENCE: Duration = Duration::from_secs(20);

/// How long the server may take to close a connection after QUIT.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// One of the jobs that a worker runs at a time.
pub(super) struct Slot {
    shared: Arc<Shared>,
    runs: Sender<Run>,
    wake: Receiver<()>,
    link: Option<Link>,
    backoff: Backoff,
}

/// A connection whose server has answered.
struct Link {
    connection: Connection,
    since: Since,
    made: Moment,
}

/// Why nothing was fetched.
enum Nothing {
    /// The phase has changed, or the worker has no more to do: look again.
    Orders,
    /// The server can't be reached, or refuses everything.
    Away {
        why: String,
        /// When the server asked to be tried again.
        retry_after: Option<Duration>,
    },
}

/// What a wait on the connection brought.
enum Heard {
    Event(Event),
    Orders,
    Silence,
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, runs: Sender<Run>) -> Slot {
        let wake = shared.control.register();
        Slot { shared, runs, wake, link: None, backoff: Backoff::default() }
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
            match self.shared.control.phase() {
                Phase::Fetch => {}
                Phase::Pause => {
                    self.idle(None);
                    continue;
                }
                Phase::Finish { .. } | Phase::AtOnce => return None,
            }
            match self.connect().and_then(|()| self.fetch()) {
                Ok(lease) => return Some(lease),
                Err(Nothing::Orders) => {}
                Err(Nothing::Away { why, retry_after }) => self.stay_away(&why, retry_after),
            }
        }
    }

    /// Connects if there is no connection, and waits for the server to answer.
    fn connect(&mut self) -> Result<(), Nothing> {
        if self.link.is_some() {
            return Ok(());
        }
        let mut connection =
            Connection::open(&self.shared.server).map_err(|error| away(error.to_string()))?;
        let deadline = self.shared.now().after(GREETING_PATIENCE);
        loop {
            match listen(&self.shared, &mut connection, &self.wake, Some(deadline)) {
                Heard::Event(Event::Up) => connection.send(&Command::Ping),
                Heard::Event(Event::Answer(Answer::Pong)) => break,
                Heard::Event(Event::Answer(Answer::Refused(refusal))) => return Err(refused(&refusal)),
                Heard::Event(Event::Answer(other)) => {
                    return Err(away(format!("it answered PING with {other:?}")));
                }
                Heard::Event(Event::Closed(why)) => return Err(away(why)),
                Heard::Silence => return Err(away("it does not answer".into())),
                Heard::Orders if self.shared.control.phase() == Phase::Fetch => {}
                Heard::Orders => return Err(Nothing::Orders),
            }
        }
        self.link = Some(Link { connection, since: self.shared.presence.reached(), made: self.shared.now() });
        Ok(())
    }

    /// Asks for a job and waits for it.
    fn fetch(&mut self) -> Result<Lease, Nothing> {
        let asked = self.shared.turns.ask();
        let answer = self.ask_for_job();
        match answer {
            // The turn ends with the job.
            Ok(Answer::Leased(lease)) => return Ok(lease),
            Ok(Answer::Empty) if self.shared.drain => return self.drained(asked),
            _ => self.shared.turns.broke_off(),
        }
        match answer {
            Err(Nothing::Orders) => self.take_back(),
            Ok(Answer::Refused(refusal)) if is_our_fault(&refusal) => {
                self.shared.fail(WorkerError::Refused(refusal));
            }
            Ok(Answer::Refused(refusal)) => return Err(refused(&refusal)),
            Ok(other) => return Err(away(format!("it answered GET with {other:?}"))),
            Err(away) => return Err(away),
        }
        Err(Nothing::Orders)
    }

    /// Sends GET and waits for its reply, until the phase changes.
    fn ask_for_job(&mut self) -> Result<Answer, Nothing> {
        let Some(link) = &mut self.link else { return Err(Nothing::Orders) };
        let wait = if self.shared.drain { Wait::AtMost(Duration::ZERO) } else { Wait::Forever };
        link.connection.send(&Command::Lease { queues: self.shared.queues.clone(), wait });
        loop {
            let heard = listen(&self.shared, &mut link.connection, &self.wake, None);
            let fetching = self.shared.control.phase() == Phase::Fetch;
            match heard {
                // It arrived when the worker was stopped: no attempt may be charged.
                Heard::Event(Event::Answer(Answer::Leased(_))) if !fetching => return Err(Nothing::Orders),
                Heard::Event(Event::Answer(answer)) => return Ok(answer),
                Heard::Event(Event::Closed(why)) => return Err(away(why)),
                Heard::Orders if !fetching => return Err(Nothing::Orders),
                Heard::Event(Event::Up) | Heard::Orders | Heard::Silence => {}
            }
        }
    }

    /// There was no job: the end, unless another may still come.
    fn drained(&mut self, asked: Mark) -> Result<Lease, Nothing> {
        match self.shared.turns.found_nothing(asked) {
            Emptiness::AskAgain => {}
            Emptiness::Others => self.idle(None),
            Emptiness::Drained => {
                info!(event = "drained"; "the queues are empty");
                self.shared.control.stop();
            }
        }
        Err(Nothing::Orders)
    }

    /// Withdraws a waiting GET: on QUIT the server returns a job that the GET may have got, without a charge.
    ///
    /// All replies must be read: closing with unread ones would reset the connection, so the server might not
    /// see the QUIT, and count the lease as crashed.
    fn take_back(&mut self) {
        let Some(Link { mut connection, .. }) = self.link.take() else { return };
        connection.send(&Command::Quit);
        connection.finish_writing();
        let deadline = self.shared.now().after(QUIT_PATIENCE);
        loop {
            match listen(&self.shared, &mut connection, &self.wake, Some(deadline)) {
                Heard::Event(Event::Closed(_)) | Heard::Silence => return,
                Heard::Event(_) | Heard::Orders => {}
            }
        }
    }

    fn work(&mut self, lease: Lease) {
        let Some(link) = &mut self.link else { return };
        let (ending, closed) = Held::hold(&self.shared, &mut link.connection, &self.wake, &self.runs, lease);
        self.count(&ending);
        if let Some(why) = closed {
            self.drop_link(&why);
        }
        self.backoff.reset();
        self.shared.turns.job_ended();
        if self.shared.drain {
            self.shared.control.wake_all();
        }
    }

    fn count(&self, ending: &Ending) {
        let mut summary = self.shared.summary.lock();
        *match ending {
            Ending::Done => &mut summary.done,
            Ending::Failed { .. } => &mut summary.failed,
            Ending::Dead { .. } => &mut summary.dead,
            Ending::Returned { .. } => &mut summary.returned,
            Ending::Lost { .. } => &mut summary.lost,
        } += 1;
    }

    /// Logs that the server can't be reached, and waits before the next attempt.
    fn stay_away(&mut self, why: &str, retry_after: Option<Duration>) {
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
        self.idle(Some(retry_after.map_or(wait, |asked| asked.max(wait))));
    }

    fn drop_link(&mut self, why: &str) {
        if let Some(link) = self.link.take() {
            self.shared.presence.lost(link.since, why);
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

/// Waits for data from the connection, for a change of phase, or until the deadline.
fn listen(
    shared: &Shared,
    connection: &mut Connection,
    wake: &Receiver<()>,
    deadline: Option<Moment>,
) -> Heard {
    let timer = deadline.map_or_else(never, |at| after(at.until(shared.now())));
    let incoming = connection.incoming().clone();
    select! {
        recv(incoming) -> incoming => Heard::Event(connection.take(incoming)),
        recv(wake) -> _ => Heard::Orders,
        recv(timer) -> _ => Heard::Silence,
    }
}

fn away(why: String) -> Nothing {
    Nothing::Away { why, retry_after: None }
}

fn refused(refusal: &Refusal) -> Nothing {
    Nothing::Away { why: refusal.to_string(), retry_after: refusal.retry_after }
}

/// Whether the same command would be refused for ever.
fn is_our_fault(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::Usage | Code::UnknownVerb | Code::TooBig | Code::BadName)
}
