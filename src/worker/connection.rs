//! One connection to the server. The owner writes commands; a thread connects and reads the answers.
//!
//! Thus the owner never blocks for longer than a write, and can wait for this connection and for other events
//! at the same time. Addresses, sockets and the parsing of replies are in [`crate::client::wire`].

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

/// The connection breaks when the server's machine has acknowledged nothing for this long, or when a write
/// has blocked for this long.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The first size of the buffer for replies.
const BUFFER_BYTES: usize = 16 * 1024;

/// What happens on a connection.
#[derive(Debug)]
pub(super) enum Event {
    /// The connection is made.
    Connected,
    /// The server answered.
    Answer(Answer),
    /// The connection has ended, or could not be made; this is the last event. The text says why.
    Closed(String),
}

/// What the reading thread sends.
pub(super) enum Incoming {
    Connected(Writer),
    Answer(Answer),
    Closed(String),
}

/// The writing half. When it is dropped, even unread in the channel, the connection ends and so does the
/// reading thread.
pub(super) struct Writer(Arc<Wire>);

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// One connection to the server.
pub(super) struct Connection {
    writer: Option<Writer>,
    incoming: Receiver<Incoming>,
    /// Why this side closed it.
    broken: Option<String>,
    out: Vec<u8>,
}

impl Connection {
    /// Begins to connect. [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// The reading thread can't be started.
    pub(super) fn open(server: &Address) -> io::Result<Connection> {
        let (sender, incoming) = unbounded();
        let server = server.clone();
        thread::Builder::new()
            .name("worker-reader".into())
            .spawn(move || connect_and_read(&server, &sender))?;
        Ok(Connection { writer: None, incoming, broken: None, out: Vec::new() })
    }

    /// Wait for this channel, and pass what it receives to [`Connection::take`].
    pub(super) fn incoming(&self) -> &Receiver<Incoming> {
        &self.incoming
    }

    /// Turns what the channel received into an event.
    pub(super) fn take(&mut self, incoming: Result<Incoming, RecvError>) -> Event {
        match incoming {
            Ok(Incoming::Connected(writer)) => {
                self.writer = Some(writer);
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
        let Some(Writer(wire)) = &self.writer else { return };
        if let Err(error) = wire.send(&self.out) {
            self.fail(error.to_string());
        }
    }

    /// Tells the server that nothing more will be sent.
    pub(super) fn finish_writing(&self) {
        if let Some(Writer(wire)) = &self.writer {
            wire.finish_writing();
        }
    }

    /// Closes the connection for this reason; [`Event::Closed`] follows.
    pub(super) fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
        if let Some(Writer(wire)) = &self.writer {
            wire.shut_down();
        }
    }

    fn closed(&mut self, why: String) -> Event {
        // The channel's sender is gone, so it would always be ready.
        self.incoming = never();
        Event::Closed(self.broken.take().unwrap_or(why))
    }
}

fn connect_and_read(server: &Address, sender: &Sender<Incoming>) {
    let Err(end) = pass_on_answers(server, sender);
    // This and the sends below fail if the connection has been dropped. The next read then ends this thread.
    let _ = sender.send(Incoming::Closed(end.to_string()));
}

/// Connects and passes on the answers until the connection ends, which is an error in any case.
fn pass_on_answers(server: &Address, sender: &Sender<Incoming>) -> Result<Infallible, Error> {
    let wire = Arc::new(Wire::connect(server, SILENCE_MAX)?);
    wire.set_write_timeout(SILENCE_MAX).map_err(|error| Error::Disconnected { source: Some(error) })?;
    let _ = sender.send(Incoming::Connected(Writer(Arc::clone(&wire))));
    let mut replies = Replies::new(BUFFER_BYTES);
    loop {
        let _ = sender.send(Incoming::Answer(replies.wait(&*wire)?));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use crossbeam_channel::Select;

    use super::*;

    #[test]
    fn connection_that_is_dropped_before_its_first_event_is_taken_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let connection = Connection::open(&address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut events = Select::new();
        events.recv(connection.incoming());
        events.ready();
        drop(connection);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }
}
