//! Polls for the next command for a moment, yielding in between, before a connection's thread sleeps: waking
//! it would cost both sides more. A lone local client that awaits each reply gets 2.5 times the work done
//! (docs/performance.md).
//!
//! One thread of the server polls at a time, or they would take the processor from threads with work to do.
//! After each poll in vain a connection skips polling for twice as many reads as before.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::Socket;

use crate::clock::Stopwatch;

/// How long a thread polls. A local client that awaits each reply sends its next command within this time.
const POLL_TIME: Duration = Duration::from_micros(50);

/// A connection skips polling for less than 2^this reads.
const POLLS_IN_VAIN_MAX: u32 = 6;

/// Whether polling has paid on one connection.
#[derive(Default)]
pub(super) struct Polling {
    in_vain: u32,
    reads_to_skip: u32,
}

impl Polling {
    /// Reads. Blocks if nothing has arrived. `others` says whether another thread polls.
    pub(super) fn read(
        &mut self,
        mut stream: &Socket,
        bytes: &mut [u8],
        others: &AtomicBool,
    ) -> io::Result<usize> {
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
