//! A connection whose server has answered the worker's introduction.

use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};

use super::Shared;
use super::connection::{Connection, Event, Incoming};
use super::presence::Epoch;
use crate::clock::Moment;
use crate::error::{Code, Refusal};
use crate::protocol::Command;
use crate::protocol::native::Answer;

/// How long a new connection's server may take to answer.
const GREETING_PATIENCE: Duration = Duration::from_secs(20);

/// A connection whose server has answered.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) made: Moment,
    pub(super) abilities: Abilities,
}

/// What the server can do for a worker that has introduced itself. One of an older version: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    /// It renews all leases by one command.
    pub(super) beat: bool,
    /// It lets leases outlive their connection.
    pub(super) hold: bool,
    /// It tells the worker what to do.
    pub(super) orders: bool,
}

/// The server can't be reached, or refused the command.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) why: String,
    /// How long the server asked to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Unreachable {
    pub(super) fn because(why: impl Into<String>) -> Unreachable {
        Unreachable { why: why.into(), retry_after: None }
    }
}

impl From<Refusal> for Unreachable {
    fn from(refusal: Refusal) -> Unreachable {
        Unreachable { why: refusal.to_string(), retry_after: refusal.retry_after }
    }
}

/// A connection that is being made.
pub(super) struct Greeting {
    connection: Connection,
    deadline: Moment,
}

impl Greeting {
    pub(super) fn begin(shared: &Shared) -> Result<Greeting, Unreachable> {
        let connection =
            Connection::open(&shared.server).map_err(|error| Unreachable::because(error.to_string()))?;
        Ok(Greeting { connection, deadline: shared.now().after(GREETING_PATIENCE) })
    }

    /// Wait for this channel until the deadline, and pass what it receives to [`Greeting::proceed`].
    pub(super) fn incoming(&self) -> &Receiver<Incoming> {
        self.connection.incoming()
    }

    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Handles what was received, or that nothing was in time. Returns the link when it is made.
    pub(super) fn proceed(
        mut self,
        shared: &Shared,
        received: Option<Result<Incoming, crossbeam_channel::RecvError>>,
    ) -> Result<Greeted, Unreachable> {
        let Some(received) = received else { return Err(Unreachable::because("it does not answer")) };
        let abilities = match self.connection.take(received) {
            Event::Connected => {
                self.connection.send(&match &shared.hello {
                    Some(hello) => Command::Hello(Box::new(hello.clone())),
                    None => Command::Ping,
                });
                return Ok(Greeted::NotYet(self));
            }
            Event::Answer(Answer::Hello { verbs, .. }) => {
                let knows = |verb: &str| verbs.iter().any(|known| known == verb);
                Abilities { beat: knows("BEAT"), hold: knows("HOLD"), orders: knows("ORDERS") }
            }
            Event::Answer(Answer::Pong) => Abilities::default(),
            Event::Answer(Answer::Refused(refusal)) if refusal.code == Code::UnknownVerb => {
                Abilities::default()
            }
            Event::Answer(Answer::Refused(refusal)) => return Err(refusal.into()),
            Event::Answer(other) => {
                return Err(Unreachable::because(format!("it answered HELLO with {other:?}")));
            }
            Event::Closed(why) => return Err(Unreachable::because(why)),
        };
        let (epoch, made) = (shared.presence.reached(), shared.now());
        Ok(Greeted::Yes(Link { connection: self.connection, epoch, made, abilities }))
    }
}

/// How far a [`Greeting`] is.
pub(super) enum Greeted {
    NotYet(Greeting),
    Yes(Link),
}

/// What ended a wait.
pub(super) enum Received {
    Event(Event),
    /// The channel of the caller has a token, or is closed.
    Woken,
    Timeout,
}

/// Waits for data from the connection, for the caller's channel, or until the deadline.
pub(super) fn receive<T>(
    shared: &Shared,
    connection: &mut Connection,
    wake: &Receiver<T>,
    deadline: Option<Moment>,
) -> Received {
    let timer = deadline.map_or_else(never, |at| after(at.until(shared.now())));
    let incoming = connection.incoming().clone();
    select! {
        recv(incoming) -> incoming => Received::Event(connection.take(incoming)),
        recv(wake) -> _ => Received::Woken,
        recv(timer) -> _ => Received::Timeout,
    }
}

/// Makes a link. `None` if the caller's channel has a token or is closed, and the caller wants to stop then.
pub(super) fn connect<T>(
    shared: &Shared,
    wake: &Receiver<T>,
    stops: impl Fn() -> bool,
) -> Result<Option<Link>, Unreachable> {
    let mut greeting = Greeting::begin(shared)?;
    loop {
        let timer = after(greeting.deadline().until(shared.now()));
        let incoming = greeting.incoming().clone();
        let received = select! {
            recv(incoming) -> incoming => Some(incoming),
            recv(wake) -> _ => match stops() {
                true => return Ok(None),
                false => continue,
            },
            recv(timer) -> _ => None,
        };
        match greeting.proceed(shared, received)? {
            Greeted::NotYet(same) => greeting = same,
            Greeted::Yes(link) => return Ok(Some(link)),
        }
    }
}
