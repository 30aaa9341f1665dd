//! What a client has sent and the server has not executed yet: one connection's read buffer.
//!
//! It limits the time that a command may take to arrive. It does not know what the bytes mean.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use socket2::Socket;

use super::polling::Polling;
use super::shared::Shared;
use crate::clock::Moment;

/// The size of an empty buffer.
const BUFFER_BYTES: usize = 4096;

/// A buffer that reads fill grows up to this size. Beyond it, the buffer only grows for a command that needs
/// it.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// How much later than its deadline a slow command may be dropped.
const LIMIT_SLACK: Duration = Duration::from_secs(1);

/// What a read has brought.
pub(super) enum Received {
    Bytes,
    /// The client sends nothing more.
    End,
    /// Nothing, for as long as the caller wanted to wait.
    Nothing,
}

/// Received bytes that are not executed yet.
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// When the command at the head has to be complete.
    frame_deadline: Option<Moment>,
    /// The socket's read timeout as it is now.
    timeout: Option<Duration>,
    /// Whether a read has run into it.
    timed_out: bool,
    polling: Polling,
}

impl Input {
    pub(super) fn new() -> Input {
        Input {
            bytes: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            frame_deadline: None,
            timeout: None,
            timed_out: false,
            polling: Polling::default(),
        }
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Removes bytes from the head.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The deadline of the command at the head, of which a part has arrived.
    pub(super) fn frame_deadline(&mut self, shared: &Shared) -> Moment {
        let latest = || shared.now().after(shared.config.frame_timeout);
        *self.frame_deadline.get_or_insert_with(latest)
    }

    /// A command ends here. The next one gets a deadline of its own.
    pub(super) fn end_frame(&mut self) {
        self.frame_deadline = None;
    }

    pub(super) fn has_grown(&self) -> bool {
        self.bytes.len() > BUFFER_BYTES
    }

    /// Returns the buffer to its first size if it is empty.
    pub(super) fn shrink(&mut self) {
        if self.has_grown() && self.unread().is_empty() {
            // Frees the whole buffer first: its cut-off end would be of no use to the next buffer that grows.
            self.bytes = Vec::new();
            self.bytes = vec![0; BUFFER_BYTES];
        }
    }

    /// Reads what has arrived, or blocks until something arrives or `idle_after` is over.
    ///
    /// # Errors
    /// `TimedOut` after the deadline; an error of the socket.
    pub(super) fn receive(
        &mut self,
        stream: &Socket,
        deadline: Option<Moment>,
        idle_after: Option<Duration>,
        shared: &Shared,
    ) -> io::Result<Received> {
        let left = deadline.map(|deadline| deadline.until(shared.now()));
        if left.is_some_and(|left| left.is_zero()) {
            let text = "the rest of a command did not arrive in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        self.limit_time(stream, left.into_iter().chain(idle_after).min())?;
        match self.read(stream, &shared.polling) {
            Ok(0) => Ok(Received::End),
            Ok(_) => Ok(Received::Bytes),
            // The limit is over, or an earlier command's limit was still set. The next call finds out which.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.timed_out = true;
                Ok(Received::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets reads block for about `limit` at most. A timeout that is close enough, or no longer needed,
    /// stays: most reads from a pipelining client end in half a command, and each change is a system call.
    fn limit_time(&mut self, stream: &Socket, limit: Option<Duration>) -> io::Result<()> {
        let fits = match (self.timeout, limit) {
            (None, None) => true,
            (Some(_), None) => !self.timed_out,
            (None, Some(_)) => false,
            (Some(timeout), Some(limit)) => timeout <= limit + LIMIT_SLACK,
        };
        if !fits {
            stream.set_read_timeout(limit)?;
            self.timeout = limit;
            self.timed_out = false;
        }
        Ok(())
    }

    /// Reads once. The buffer grows while reads fill it, so that a pipelining client needs few of them, and
    /// shrinks when a read brings little.
    fn read(&mut self, stream: &Socket, others: &AtomicBool) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        let read = self.polling.read(stream, &mut self.bytes[self.end..], others)?;
        let was_empty = self.end == 0;
        self.end += read;
        if self.end == self.bytes.len() && self.bytes.len() < READ_AHEAD_BYTES {
            self.bytes.resize(self.bytes.len() * 4, 0);
        } else if was_empty && read < self.bytes.len() / 64 && self.has_grown() {
            self.bytes.truncate(BUFFER_BYTES.max(read));
            self.bytes.shrink_to_fit();
        }
        Ok(read)
    }
}
