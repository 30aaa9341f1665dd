//! What a client has sent and the server has not executed yet: one connection's read buffer.
//!
//! It limits the time that a command may take to arrive, and it polls for a moment before it sleeps. It does
//! not know what the bytes mean.

use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::Socket;

use super::shared::Shared;
use crate::clock::{Moment, Stopwatch};

/// The size of an empty buffer.
const BUFFER_BYTES: usize = 4096;

/// A buffer that reads fill grows up to this size. Beyond it, the buffer only grows for a command that needs
/// it.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// How long a connection's thread polls for the next command before it sleeps. A local client that awaits
/// each reply sends its next command within this time.
const POLL_TIME: Duration = Duration::from_micros(50);

/// A connection skips polling for at most 2^this reads.
const POLLS_IN_VAIN_MAX: u32 = 6;

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

/// Polls for the next command for a moment, yielding in between, before the thread sleeps: waking it would
/// cost both sides more.
///
/// One thread of the server polls at a time, or they would take the processor from threads with work to do.
/// After each poll in vain a connection skips polling for twice as many reads as before.
#[derive(Default)]
struct Polling {
    in_vain: u32,
    reads_to_skip: u32,
}

impl Polling {
    /// Reads. Blocks if nothing has arrived.
    fn read(&mut self, mut stream: &Socket, bytes: &mut [u8], others: &AtomicBool) -> io::Result<usize> {
        if self.reads_to_skip > 0 {
            self.reads_to_skip -= 1;
        } else if !others.swap(true, Ordering::Acquire) {
            let read = poll(stream, bytes);
            others.store(false, Ordering::Release);
            if let Some(read) = read {
                self.in_vain = 0;
                return Ok(read);
            }
            self.in_vain = (self.in_vain + 1).min(POLLS_IN_VAIN_MAX);
            self.reads_to_skip = (1 << self.in_vain) - 1;
        }
        loop {
            match stream.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// Polls for [`POLL_TIME`].
fn poll(stream: &Socket, bytes: &mut [u8]) -> Option<usize> {
    let stopwatch = Stopwatch::start();
    loop {
        match rustix::net::recv(stream, &mut *bytes, RecvFlags::DONTWAIT) {
            Ok((read, _)) => return Some(read),
            Err(Errno::AGAIN) if stopwatch.elapsed() < POLL_TIME => std::thread::yield_now(),
            // Another error: the blocking read will report it.
            Err(_) => return None,
        }
    }
}
