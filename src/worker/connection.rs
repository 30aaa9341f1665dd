//! One connection to the server: commands are written here, a thread of its own reads the answers.
//!
//! That thread also resolves the name and connects, so that nothing here blocks for longer than a write:
//! whoever owns a [`Connection`] waits for its events and for others at the same time.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, Sender, never, unbounded};

use crate::client::Address;
use crate::client::wire::{Replies, Wire};
use crate::error::Error;
use crate::protocol::Command;
use crate::protocol::native::{Answer, write_command};

/// How long the server's machine may be silent about what was sent to it before the connection counts as
/// broken.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How much one read takes at first, in bytes.
const ROOM_BYTES: usize = 16 * 1024;

/// What a connection has to say.
#[derive(Debug)]
pub(super) enum Event {
    /// It stands.
    Connected,
    /// The server answered.
    Answer(Answer),
    /// It is broken, or could not be made; nothing comes after this. For people: why.
    Closed(String),
}

/// What the reading thread passes on.
pub(super) enum Incoming {
    Connected(Arc<Wire>),
    Answer(Answer),
    Closed(String),
}

/// One connection to the server.
pub(super) struct Connection {
    wire: Option<Arc<Wire>>,
    incoming: Receiver<Incoming>,
    /// Why this side gave it up.
    broken: Option<String>,
    out: Vec<u8>,
}

impl Connection {
    /// Begins to connect; [`Event::Connected`] or [`Event::Closed`] says what came of it.
    ///
    /// # Errors
    /// Where the reading thread can't be started.
    pub(super) fn open(server: &Address) -> io::Result<Connection> {
        let (sender, incoming) = unbounded();
        let server = server.clone();
        thread::Builder::new()
            .name("worker-reader".into())
            .spawn(move || connect_and_read(&server, &sender))?;
        Ok(Connection { wire: None, incoming, broken: None, out: Vec::new() })
    }

    /// What to wait for; pass what comes to [`Connection::take`].
    pub(super) fn incoming(&self) -> &Receiver<Incoming> {
        &self.incoming
    }

    /// Makes an event of what came.
    pub(super) fn take(&mut self, incoming: Result<Incoming, RecvError>) -> Event {
        match incoming {
            Ok(Incoming::Connected(wire)) => {
                self.wire = Some(wire);
                Event::Connected
            }
            Ok(Incoming::Answer(answer)) => Event::Answer(answer),
            Ok(Incoming::Closed(why)) => self.closed(why),
            Err(RecvError) => self.closed("its reading thread ended".into()),
        }
    }

    /// Sends a command. If it can't be sent, [`Event::Closed`] follows.
    pub(super) fn send(&mut self, command: &Command) {
        self.out.clear();
        write_command(command, &mut self.out);
        let Some(wire) = &self.wire else { return };
        if let Err(error) = wire.send(&self.out) {
            self.fail(error.to_string());
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish_writing(&self) {
        if let Some(wire) = &self.wire {
            wire.finish_writing();
        }
    }

    /// Counts the connection as broken; [`Event::Closed`] follows.
    pub(super) fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
        self.shut_down();
    }

    fn shut_down(&self) {
        if let Some(wire) = &self.wire {
            wire.shut_down();
        }
    }

    fn closed(&mut self, why: String) -> Event {
        // A channel whose sender is gone is always ready: it must not be waited on again.
        self.incoming = never();
        Event::Closed(self.broken.take().unwrap_or(why))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn connect_and_read(server: &Address, sender: &Sender<Incoming>) {
    let Err(end) = converse(server, sender);
    // Fails if nobody waits for it any more, like the sends below.
    let _ = sender.send(Incoming::Closed(end.to_string()));
}

/// Connects and passes on the answers until the connection ends, as it always does.
fn converse(server: &Address, sender: &Sender<Incoming>) -> Result<Infallible, Error> {
    let wire = Arc::new(Wire::connect(server, SILENCE_MAX)?);
    wire.set_write_timeout(SILENCE_MAX).map_err(|error| Error::Disconnected { source: Some(error) })?;
    let _ = sender.send(Incoming::Connected(Arc::clone(&wire)));
    let mut replies = Replies::new(ROOM_BYTES);
    loop {
        let _ = sender.send(Incoming::Answer(replies.wait(&*wire)?));
    }
}
