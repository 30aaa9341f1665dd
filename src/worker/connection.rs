//! One connection to the server: commands are written here, a thread of its own reads the answers.
//!
//! That thread also resolves the name and connects, so that nothing here blocks for longer than a write: whoever
//! owns a [`Connection`] waits for its events and for others at the same time.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, Sender, never, unbounded};
use socket2::{SockRef, TcpKeepalive};

use crate::protocol::Command;
use crate::protocol::native::{Answer, read_answer, write_command};

/// How long one address of the server's may take to answer a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server's machine may be silent about what was sent to it before the connection counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The largest answer: the largest body that a server may be set to take (1 GiB) and its header.
const ANSWER_BYTES_MAX: usize = (1 << 30) + (1 << 16);

/// What a connection has to say.
#[derive(Debug)]
pub(super) enum Event {
    /// It stands.
    Up,
    /// The server answered.
    Answer(Answer),
    /// It is broken, or could not be made; nothing comes after this. For people: why.
    Closed(String),
}

/// What the reading thread passes on.
pub(super) enum Incoming {
    Up(TcpStream),
    Answer(Answer),
    Closed(String),
}

/// One connection to the server.
pub(super) struct Connection {
    stream: Option<TcpStream>,
    incoming: Receiver<Incoming>,
    /// Why this side gave it up.
    broken: Option<String>,
    out: Vec<u8>,
}

impl Connection {
    /// Begins to connect; [`Event::Up`] or [`Event::Closed`] says what came of it.
    ///
    /// # Errors
    /// Where the reading thread can't be started.
    pub(super) fn open(server: &str) -> io::Result<Connection> {
        let (sender, incoming) = unbounded();
        let server = server.to_owned();
        thread::Builder::new()
            .name("worker-reader".into())
            .spawn(move || connect_and_read(&server, &sender))?;
        Ok(Connection { stream: None, incoming, broken: None, out: Vec::new() })
    }

    /// What to wait for; pass what comes to [`Connection::take`].
    pub(super) fn incoming(&self) -> &Receiver<Incoming> {
        &self.incoming
    }

    /// Makes an event of what came.
    pub(super) fn take(&mut self, incoming: Result<Incoming, RecvError>) -> Event {
        match incoming {
            Ok(Incoming::Up(stream)) => {
                self.stream = Some(stream);
                Event::Up
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
        let Some(stream) = &mut self.stream else { return };
        if let Err(error) = io::Write::write_all(stream, &self.out) {
            self.give_up(error.to_string());
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish_writing(&self) {
        if let Some(stream) = &self.stream {
            // Fails only where the connection is gone already, and then its end is on its way here.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Counts the connection as broken; [`Event::Closed`] follows.
    pub(super) fn give_up(&mut self, why: String) {
        self.broken.get_or_insert(why);
        self.shut_down();
    }

    fn shut_down(&self) {
        if let Some(stream) = &self.stream {
            // As above. It also ends the reading thread's read.
            let _ = stream.shutdown(Shutdown::Both);
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

fn connect_and_read(server: &str, sender: &Sender<Incoming>) {
    let why = match converse(server, sender) {
        Ok(()) => "the server closed the connection".to_owned(),
        Err(error) => error.to_string(),
    };
    // Fails where nobody wants to know any more; so do the sends below.
    let _ = sender.send(Incoming::Closed(why));
}

/// Connects and passes on the answers until the server closes.
fn converse(server: &str, sender: &Sender<Incoming>) -> io::Result<()> {
    let stream = connect(server)?;
    let mut reading = stream.try_clone()?;
    let _ = sender.send(Incoming::Up(stream));
    let mut chunk = vec![0; 16 * 1024];
    let mut unread = Vec::new();
    loop {
        let count = match reading.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        unread.extend_from_slice(&chunk[..count]);
        // An answer's last byte is a LF: without one, what is unread can't have become whole.
        if memchr::memchr(b'\n', &chunk[..count]).is_some() {
            pass_on(&mut unread, sender)?;
        }
        if unread.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("an answer without end: is this a DJQS server?"));
        }
    }
}

/// Passes on the whole answers at the head of `unread` and leaves the rest.
fn pass_on(unread: &mut Vec<u8>, sender: &Sender<Incoming>) -> io::Result<()> {
    let mut used = 0;
    let found = loop {
        match read_answer(&unread[used..]) {
            Ok(Some((bytes, answer))) => {
                used += bytes;
                let _ = sender.send(Incoming::Answer(answer));
            }
            Ok(None) => break Ok(()),
            Err(bad) => break Err(io::Error::other(format!("{bad}: is this a DJQS server?"))),
        }
    };
    unread.drain(..used);
    found
}

/// Connects to the first of the server's addresses that answers.
fn connect(server: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            // It met itself, as an attempt to reach a free port of this machine may (TCP's simultaneous open). It must not
            // stand: the server that is to come back there could not listen.
            Ok(stream) if stream.local_addr()? == address => last = io::ErrorKind::ConnectionRefused.into(),
            Ok(stream) => return configured(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A GET waits for hours, so the only way to notice a server whose machine is gone is to have the kernel ask.
fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    let keepalive = TcpKeepalive::new().with_time(SILENCE_MAX / 2).with_interval(SILENCE_MAX / 6);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    Ok(stream)
}
