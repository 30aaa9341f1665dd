//! One connection's replies: how they collect, and the one way in which they are sent.
//!
//! Nothing is sent before the journal is as durable as the server promises. If another thread is writing the
//! journal, replies go to the [`Outbox`](super::outbox::Outbox), and that thread sends them.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::outbox::Replies;
use super::peer::Peer;
use super::shared::Shared;
use crate::broker::Session;
use crate::error::Refusal;
use crate::protocol::{Dialect, Reply};

/// The capacity to which a buffer of replies shrinks.
const BUFFER_BYTES: usize = 4096;

/// Replies in a larger buffer than this are not left to other threads, which have more to do; the client
/// takes longer to read them anyway.
const LEAVE_BYTES_MAX: usize = 4096;

/// Replies are sent when they have reached this size, even if more commands can be executed: a pipelining
/// client can't make the server keep more.
const REPLIES_BYTES_MAX: usize = 256 * 1024;

/// How long, and how much, to read after the last reply. The kernel discards what was sent if a socket is
/// closed with unread bytes in it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Why a connection is dropped.
#[derive(Debug)]
pub(super) enum Dropped {
    /// The socket failed, or the client was too slow.
    Socket(io::Error),
    /// The journal can't be written any more. The client was told.
    JournalFailed,
}

impl From<io::Error> for Dropped {
    fn from(error: io::Error) -> Dropped {
        Dropped::Socket(error)
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dropped::Socket(error) => error.fmt(f),
            Dropped::JournalFailed => f.write_str("the journal can no longer be written"),
        }
    }
}

/// The replies of one connection.
pub(super) struct Output<'a> {
    /// Its outbox has earlier replies, which another thread sends once they are durable.
    peer: &'a Arc<Peer>,
    shared: &'a Shared,
    /// Replies that are not sent yet.
    replies: Replies,
    /// Whether the outbox may hold any.
    others_send: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(peer: &'a Arc<Peer>, shared: &'a Shared) -> Output<'a> {
        Output { peer, shared, replies: Replies::default(), others_send: false }
    }

    pub(super) fn push(&mut self, reply: &Reply, dialect: Dialect) {
        self.replies.push(reply, dialect);
    }

    pub(super) fn push_text(&mut self, text: &[u8]) {
        self.replies.bytes.extend_from_slice(text);
    }

    /// The size of the replies that are not sent yet.
    pub(super) fn bytes(&self) -> usize {
        self.replies.bytes.len()
    }

    /// Whether other threads may still have replies to send.
    pub(super) fn others_send(&self) -> bool {
        self.others_send
    }

    /// Sends the replies if there are many.
    pub(super) fn flush_if_large(&mut self, session: &mut Session) -> Result<(), Dropped> {
        if self.bytes() >= REPLIES_BYTES_MAX { self.flush(session) } else { Ok(()) }
    }

    /// Blocks until all that the replies say is durable, and sends them.
    pub(super) fn flush(&mut self, session: &mut Session) -> Result<(), Dropped> {
        self.join()?;
        if self.replies.bytes.is_empty() {
            return Ok(());
        }
        let settled = session.settle();
        self.send(settled)
    }

    /// The same, but leaves the replies to the thread that is writing the journal, if there is one.
    pub(super) fn flush_or_leave(&mut self, session: &mut Session) -> Result<(), Dropped> {
        self.join()?;
        if self.replies.bytes.is_empty() {
            return Ok(());
        }
        if self.replies.bytes.capacity() > LEAVE_BYTES_MAX {
            return self.flush(session);
        }
        let (peer, replies) = (self.peer, &mut self.replies);
        let settled = session.settle_or_call(|| {
            peer.outbox.keep(std::mem::take(replies));
            let peer = Arc::clone(peer);
            move |durable| peer.send_outbox(durable)
        });
        if matches!(settled, Ok(false)) {
            self.others_send = true;
            return Ok(());
        }
        self.send(settled.map(drop))
    }

    /// Waits until the other thread has sent what was left to it, and sends the rest.
    pub(super) fn join(&mut self) -> Result<(), Dropped> {
        if !std::mem::take(&mut self.others_send) {
            return Ok(());
        }
        let mut kept = self.peer.outbox.join();
        send(&self.peer.stream, kept.unsent(), self.shared)?;
        if kept.journal_failed {
            return Err(Dropped::JournalFailed);
        }
        if self.replies.bytes.capacity() == 0 {
            kept.replies.clear();
            self.replies = kept.replies;
        }
        Ok(())
    }

    /// Blocks until no other thread sends for this connection: until then the socket counts as one.
    pub(super) fn end(self) {
        let _ = self.peer.outbox.join();
    }

    /// Frees what an empty buffer has grown by.
    pub(super) fn shrink(&mut self) {
        if self.replies.bytes.is_empty() && self.replies.bytes.capacity() > 4 * BUFFER_BYTES {
            self.replies.shrink_to(BUFFER_BYTES);
        }
    }

    /// Sends the replies, or that they are not durable.
    fn send(&mut self, settled: Result<(), Refusal>) -> Result<(), Dropped> {
        if let Err(refusal) = settled {
            self.replies.refuse_all(refusal);
            send(&self.peer.stream, &self.replies.bytes, self.shared)?;
            return Err(Dropped::JournalFailed);
        }
        send(&self.peer.stream, &self.replies.bytes, self.shared)?;
        self.replies.clear();
        if self.replies.bytes.capacity() > 2 * REPLIES_BYTES_MAX {
            self.shrink();
        }
        Ok(())
    }
}

/// Sends all bytes, or fails at the deadline for replies. The socket's own timeout (`SO_SNDTIMEO`) is the
/// same time: a write that takes longer returns with what it has sent.
fn send(mut stream: &Socket, mut bytes: &[u8], shared: &Shared) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let deadline = shared.now().after(shared.config.write_timeout);
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the client did not take its replies in time");
    loop {
        match stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        if deadline <= shared.now() {
            return Err(late());
        }
    }
}

/// Shuts the sending side down and reads on for a moment, so that the client gets the last reply.
pub(super) fn linger(mut stream: &Socket, shared: &Shared) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = shared.now().after(LINGER);
    let mut scrap = [0; 4096];
    let mut read = 0;
    while read < LINGER_BYTES_MAX {
        let left = deadline.until(shared.now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut scrap) {
            Ok(0) | Err(_) => return,
            Ok(more) => read += more,
        }
    }
}
