//! Replies that are not durable yet, while their connection's thread reads on.
//!
//! If many clients await durable replies, the thread that has synced the journal sends the replies too,
//! instead of waking all their threads: with 64 connections that does 1.3 times the jobs
//! (docs/performance.md). It never blocks on a client: what a socket does not take at once is sent when the
//! socket takes more, or by the connection's own thread.

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::Socket;

use crate::error::Refusal;
use crate::protocol::{Dialect, Reply};

/// Replies of one connection, in the order of its commands.
#[derive(Default)]
pub(super) struct Replies {
    pub(super) bytes: Vec<u8>,
    /// The dialects of these replies and how many of each follow one another: what [`Replies::refuse_all`]
    /// needs.
    dialects: Vec<(Dialect, u32)>,
}

impl Replies {
    pub(super) fn push(&mut self, reply: &Reply, dialect: Dialect) {
        dialect.write_reply(reply, &mut self.bytes);
        match self.dialects.last_mut() {
            Some((last, count)) if *last == dialect => *count += 1,
            _ => self.dialects.push((dialect, 1)),
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.dialects.clear();
    }

    /// Frees what it has grown by beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
        self.dialects.shrink_to(1);
    }

    /// Replaces each reply by this refusal: it is not known which of the commands took effect.
    pub(super) fn refuse_all(&mut self, refusal: Refusal) {
        self.bytes.clear();
        let refused = Reply::Refused(refusal);
        for (dialect, count) in &self.dialects {
            (0..*count).for_each(|_| dialect.write_reply(&refused, &mut self.bytes));
        }
    }
}

/// What a connection's thread shares with those that send for it.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// Notified when the replies are no longer waiting for the journal.
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether the replies wait for the journal: until then nothing of them may be sent.
    waiting: bool,
    kept: Kept,
}

/// Replies in the outbox.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) replies: Replies,
    /// How many of their bytes are sent.
    sent: usize,
    /// Whether they say that the journal has failed.
    pub(super) journal_failed: bool,
}

/// How much of the replies is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Sent {
    /// All that can be.
    All,
    /// The socket is full.
    Partly,
}

impl Kept {
    pub(super) fn unsent(&self) -> &[u8] {
        &self.replies.bytes[self.sent..]
    }

    fn send(&mut self, stream: &Socket) -> Sent {
        while !self.unsent().is_empty() {
            match rustix::net::send(stream, self.unsent(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Partly,
                // The connection's thread will get the same error.
                Err(_) => break,
            }
        }
        Sent::All
    }
}

impl Outbox {
    /// Keeps replies until [`Outbox::send`].
    pub(super) fn keep(&self, replies: Replies) {
        let kept = Kept { replies, ..Kept::default() };
        *self.state.lock() = State { waiting: true, kept };
    }

    /// Sends the kept replies now that they are durable, or says that they will never be. Does not block.
    pub(super) fn send(&self, stream: &Socket, durable: Result<(), Refusal>) -> Sent {
        let mut state = self.state.lock();
        if let Err(refusal) = durable {
            state.kept.replies.refuse_all(refusal);
            state.kept.journal_failed = true;
        }
        let sent = state.kept.send(stream);
        state.waiting = false;
        drop(state);
        self.done.notify_one();
        sent
    }

    /// Sends what [`Outbox::send`] could not, if the connection's thread has not done so. Does not block.
    pub(super) fn send_rest(&self, stream: &Socket) -> Sent {
        let mut state = self.state.lock();
        if state.waiting { Sent::All } else { state.kept.send(stream) }
    }

    /// Blocks until the kept replies no longer wait for the journal, and takes them.
    pub(super) fn join(&self) -> Kept {
        let mut state = self.state.lock();
        while state.waiting {
            self.done.wait(&mut state);
        }
        std::mem::take(&mut state.kept)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::error::Code;
    use crate::job::JobId;
    use crate::protocol::beanstalk::Verb;

    fn accepted(count: u64) -> Replies {
        let mut replies = Replies::default();
        for id in 1..=count {
            replies.push(&Reply::Accepted { id: JobId(id), duplicate: None }, Dialect::Native);
        }
        replies
    }

    #[test]
    fn replies_that_a_full_socket_does_not_take_stay_in_the_outbox() {
        let (ours, mut theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let (outbox, replies) = (Outbox::default(), accepted(1_000_000));
        let all = replies.bytes.clone();
        outbox.keep(replies);
        assert_eq!(outbox.send(&ours, Ok(())), Sent::Partly);
        let kept = outbox.join();
        assert!(!kept.journal_failed);
        assert!(0 < kept.sent && kept.sent < all.len(), "{} of {}", kept.sent, all.len());
        let mut read = vec![0; kept.sent];
        theirs.read_exact(&mut read).unwrap();
        read.extend_from_slice(kept.unsent());
        assert!(read == all, "the sent and the unsent part are not the whole");
    }

    #[test]
    fn a_writable_socket_gets_nothing_that_is_not_durable_yet() {
        let (ours, theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let outbox = Outbox::default();
        outbox.keep(accepted(1));
        assert_eq!(outbox.send_rest(&ours), Sent::All);
        let error = (&theirs).read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn replies_that_the_journal_lost_are_refused_in_their_dialects() {
        let (ours, mut theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut replies = accepted(2);
        replies.push(&Reply::Done, Dialect::Beanstalk(Verb::Delete));
        let outbox = Outbox::default();
        outbox.keep(replies);
        let sent = outbox.send(&ours, Err(Refusal::new(Code::Unavailable, "broken")));
        assert_eq!(sent, Sent::All);
        assert!(outbox.join().journal_failed);
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ERR unavailable broken\nERR unavailable broken\nINTERNAL_ERROR\r\n");
    }
}
