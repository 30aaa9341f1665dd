//! Replies that are not safe to be sent yet, while their connection's thread reads on.
//!
//! Where many clients await their replies and each has to be durable first, the thread that has synced them sends
//! them too, instead of waking as many others to do so. It never blocks on a client: what a socket does not take at once
//! is left to the connection's own thread.

use std::net::Shutdown;

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
    /// The dialects of these replies, each with how many there are in a row: what is needed to take them back.
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

    /// Gives back what it has grown by, beyond `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
        self.dialects.shrink_to(1);
    }

    /// Whether any of these took effect is not known any more: says so of each, and nothing else.
    pub(super) fn take_back(&mut self, refusal: Refusal) {
        self.bytes.clear();
        let unavailable = Reply::Refused(refusal);
        for (dialect, count) in &self.dialects {
            (0..*count).for_each(|_| dialect.write_reply(&unavailable, &mut self.bytes));
        }
    }
}

/// What a connection's thread and the one that sends for it share.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    waits: bool,
    left: Left,
}

/// What the sender has left.
#[derive(Default)]
pub(super) struct Left {
    pub(super) replies: Replies,
    /// How many bytes of them are sent.
    pub(super) sent: usize,
    /// The journal can no longer be written, and they say so.
    pub(super) is_last: bool,
}

impl Outbox {
    /// Keeps replies until [`Outbox::send`].
    pub(super) fn keep(&self, replies: Replies) {
        *self.state.lock() = State { waits: true, left: Left { replies, sent: 0, is_last: false } };
    }

    /// Sends what is kept, as far as the socket takes it at once, now that it is `safe`.
    pub(super) fn send(&self, stream: &Socket, safe: Result<(), Refusal>) {
        let mut state = self.state.lock();
        let left = &mut state.left;
        if let Err(refusal) = safe {
            left.replies.take_back(refusal);
            left.is_last = true;
        }
        while left.sent < left.replies.bytes.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(stream, &left.replies.bytes[left.sent..], flags) {
                Ok(sent) => left.sent += sent,
                Err(Errno::INTR) => {}
                // It is full; or whatever else it is, the connection's thread will meet it.
                Err(_) => break,
            }
        }
        let is_last = left.is_last;
        state.waits = false;
        drop(state);
        self.done.notify_one();
        if is_last {
            // Wakes the thread out of its read.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Blocks until what was kept has been dealt with; says what is left of it.
    pub(super) fn join(&self) -> Left {
        let mut state = self.state.lock();
        while state.waits {
            self.done.wait(&mut state);
        }
        std::mem::take(&mut state.left)
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
    fn what_a_slow_reader_does_not_take_is_left_to_its_own_thread() {
        let (ours, mut theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let (outbox, replies) = (Outbox::default(), accepted(1_000_000));
        let all = replies.bytes.clone();
        outbox.keep(replies);
        outbox.send(&ours, Ok(()));
        let left = outbox.join();
        assert!(!left.is_last);
        assert!(0 < left.sent && left.sent < all.len(), "{} of {}", left.sent, all.len());
        let mut read = vec![0; left.sent];
        theirs.read_exact(&mut read).unwrap();
        read.extend_from_slice(&left.replies.bytes[left.sent..]);
        assert!(read == all, "the sent and the left part are not the whole");
    }

    #[test]
    fn of_what_is_not_safe_nothing_is_said_and_the_thread_is_woken() {
        let (ours, mut theirs) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let mut replies = accepted(2);
        replies.push(&Reply::Done, Dialect::Beanstalk(Verb::Delete));
        let outbox = Outbox::default();
        outbox.keep(replies);
        outbox.send(&ours, Err(Refusal::new(Code::Unavailable, "broken")));
        assert!(outbox.join().is_last);
        assert_eq!((&ours).read(&mut [0; 8]).unwrap(), 0);
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ERR unavailable broken\nERR unavailable broken\nINTERNAL_ERROR\r\n");
    }
}
