//! The connection to a server: connects, writes, and splits the received bytes into replies. The client
//! program's feed, the library's [`Client`](super::Client) and the worker use it. None of them knows the kind
//! of socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use memchr::memchr;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::address::{Address, Endpoint};
use crate::error::Error;
use crate::protocol::native::{Answer, read_answer};

/// How long one address of a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a server. Threads may share it: one writes while another reads.
#[derive(Debug)]
pub(crate) struct Wire(Socket);

impl Wire {
    /// Connects. A name is resolved, and all of its addresses are tried in turn.
    ///
    /// A TCP connection breaks when the server's machine has acknowledged nothing for `silence_max`. While
    /// this side waits for a reply, it probes that machine. A Unix socket has no such limit and needs none:
    /// when the server ends, the kernel closes the connection.
    pub(crate) fn connect(address: &Address, silence_max: Duration) -> Result<Wire, Error> {
        let socket = match &address.endpoint {
            Endpoint::Tcp(host, port) => connect_tcp(host, *port, silence_max),
            Endpoint::Unix(path) => connect_unix(path, CONNECT_TIMEOUT),
        };
        match socket {
            Ok(socket) => Ok(Wire(socket)),
            Err(source) => Err(Error::Connect { server: address.to_string(), source }),
        }
    }

    /// Limits how long a write may block.
    pub(crate) fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_write_timeout(Some(timeout))
    }

    /// Writes all of these bytes.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        (&self.0).write_all(bytes).map_err(|error| Error::Disconnected { source: Some(error) })
    }

    /// Whether the connection is open, and nothing has been received that is not read yet. Does not block.
    pub(crate) fn is_quiet(&self) -> bool {
        let received = recv(&self.0, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        received.is_err_and(|error| error == Errno::WOULDBLOCK)
    }

    /// Tells the server that nothing more will be sent.
    pub(crate) fn finish_writing(&self) {
        // Fails only if the connection is already gone; reading then reports that.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Ends the connection, and with it every read and write that blocks.
    pub(crate) fn shut_down(&self) {
        // It fails only if the connection is already gone.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Read for &Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(bytes)
    }
}

impl Write for &Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16, silence_max: Duration) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match connect_to(address, silence_max) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(address: SocketAddr, silence_max: Duration) -> io::Result<Socket> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    // An attempt to connect to a free port of this machine may be given that very port as its own, and then
    // connects to itself (TCP's simultaneous open). It must not stay: a server could not listen there.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let socket = Socket::from(stream);
    let keepalive = TcpKeepalive::new().with_time(silence_max / 2).with_interval(silence_max / 6);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(silence_max))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn connect_unix(path: &Path, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The kernel makes a client wait while the server's queue of new connections is full. This limits the
    // wait.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the server accepts no connection")
        }
        _ => error,
    })?;
    socket.set_write_timeout(None)?;
    Ok(socket)
}

/// The longest reply: the largest body that a server can be configured to accept, and its header. Anything
/// longer is not from a DJQS server.
const REPLY_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// How many bytes of a bad reply the error shows.
const SHOWN_BYTES_MAX: usize = 64;

/// What a reply can begin with. Anything else is refused before its line has ended, because it may never end.
const FIRST_WORDS: [&[u8]; 11] =
    [b"ACK", b"JOB", b"OK", b"EMPTY", b"PONG", b"ERR", b"DONE", b"DEAD", b"CANCELLED", b"GONE", b"ORDER"];

/// Splits the bytes that were received into replies.
#[derive(Debug)]
pub(crate) struct Replies {
    /// The buffer. The bytes from `start` to `end` have been received and not been returned as replies.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether those bytes may hold a whole reply. Each reply ends in an LF, so without a new LF there is
    /// none. Thus a long reply is not parsed again each time more of it arrives.
    may_hold_reply: bool,
}

impl Replies {
    /// An empty buffer of this size. It grows for a longer reply.
    pub(crate) fn new(size: usize) -> Replies {
        Replies { bytes: vec![0; size], start: 0, end: 0, may_hold_reply: false }
    }

    /// The next reply that has been received, and its bytes.
    pub(crate) fn next(&mut self) -> Result<Option<(&[u8], Answer)>, Error> {
        if !self.may_hold_reply {
            return Ok(None);
        }
        let unread = &self.bytes[self.start..self.end];
        match read_answer(unread) {
            Ok(Some((length, answer))) => {
                self.start += length;
                Ok(Some((&unread[..length], answer)))
            }
            Ok(None) => {
                self.may_hold_reply = false;
                Ok(None)
            }
            Err(bad) => {
                Err(if is_http(unread) { bad_reply(unread) } else { Error::BadReply(bad.to_string()) })
            }
        }
    }

    /// Reads once; blocks until bytes arrive. `Ok(0)` is the end of the connection.
    pub(crate) fn receive(&mut self, mut source: impl Read) -> Result<usize, Error> {
        self.make_room()?;
        let read = loop {
            match source.read(&mut self.bytes[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Disconnected { source: Some(error) }),
                Ok(read) => break read,
            }
        };
        self.may_hold_reply |= memchr(b'\n', &self.bytes[self.end..self.end + read]).is_some();
        self.end += read;
        let unread = &self.bytes[self.start..self.end];
        if !self.may_hold_reply && !may_begin_reply(unread) {
            return Err(bad_reply(unread));
        }
        Ok(read)
    }

    /// The next reply; blocks until it has been received.
    pub(crate) fn wait(&mut self, mut source: impl Read) -> Result<Answer, Error> {
        loop {
            if let Some((_, answer)) = self.next()? {
                return Ok(answer);
            }
            if self.receive(&mut source)? == 0 {
                return Err(Error::Disconnected { source: None });
            }
        }
    }

    fn make_room(&mut self) -> Result<(), Error> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end >= REPLY_BYTES_MAX {
            return Err(bad_reply(&self.bytes[..self.end]));
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.end * 2, 0);
        }
        Ok(())
    }
}

fn may_begin_reply(bytes: &[u8]) -> bool {
    FIRST_WORDS.iter().any(|word| bytes.starts_with(word) || word.starts_with(bytes))
}

fn is_http(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/")
}

/// An error that shows the first line that was received instead of a reply, escaped and shortened.
fn bad_reply(bytes: &[u8]) -> Error {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let shown = &line[..line.len().min(SHOWN_BYTES_MAX)];
    let more = if shown.len() < line.len() { "..." } else { "" };
    let why = match is_http(bytes) {
        true => ", as a web server does, or a DJQS server that got a line ending in HTTP/1.0 or HTTP/1.1",
        false => "",
    };
    Error::BadReply(format!("it sent \"{}{more}\"{why}", shown.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::job::JobId;

    /// Gives one byte per read.
    struct Slowly(Cursor<Vec<u8>>);

    impl Read for Slowly {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buf[..1])
        }
    }

    #[test]
    fn replies_that_arrive_a_byte_at_a_time_are_read_whole() {
        let text = b"ACK 7\nJOB 8 queue=default attempt=1 ttr=60s len=3:\na\nb\nEMPTY\nGONE 9\n\
            DONE 9 attempt=1 seconds=1.000: x\nDEAD 9 failures=1: x\nCANCELLED 9: x\nORDER quiet\n"
            .to_vec();
        let mut source = Slowly(Cursor::new(text));
        let mut replies = Replies::new(1);
        let answers: Vec<Answer> = (0..8).map(|_| replies.wait(&mut source).unwrap()).collect();
        assert_eq!(answers[0], Answer::Accepted { id: JobId(7), duplicate: None });
        assert!(matches!(&answers[1], Answer::Leased(lease) if &*lease.body == b"a\nb"));
        assert_eq!(answers[2], Answer::Empty);
        let end = replies.wait(&mut source);
        assert!(matches!(end, Err(Error::Disconnected { source: None })), "{end:?}");
    }

    #[test]
    fn connecting_to_a_unix_socket_that_accepts_nobody_times_out() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect_unix(&path, Duration::from_millis(20)) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(waiting.iter().all(|socket| socket.write_timeout().unwrap().is_none()));
    }

    #[test]
    fn bad_reply_is_refused_before_its_line_ends() {
        for text in ["H", "SSH-2.0-OpenSSH", "220 mail", "-ERR", "\u{0}", "OKAY?\n", "EMTPY"] {
            let mut replies = Replies::new(64);
            let outcome = replies.wait(Cursor::new(text));
            assert!(matches!(outcome, Err(Error::BadReply(_))), "{text:?}: {outcome:?}");
        }
    }

    #[test]
    fn bad_reply_is_shown_escaped_and_shortened() {
        let mut replies = Replies::new(64);
        let Err(Error::BadReply(shown)) = replies.wait(Cursor::new("HTTP/1.1 400 \x1b[2J\r\nServer: x\r\n"))
        else {
            panic!("no bad reply");
        };
        assert!(shown.starts_with(r#"it sent "HTTP/1.1 400 \x1b[2J", as a web server does"#), "{shown}");
    }
}
