//! Continues after a failure: connects again, with growing waits, and repeats commands that may be repeated.
//!
//! If a connection breaks before a reply arrives, the command may or may not have been executed. Whether it
//! may be sent again:
//!
//! | command | again? |
//! |---|---|
//! | `TASK` with a key | yes: while the job is unfinished, the second `TASK` gets its id |
//! | `TASK` without a key | no: there could be two jobs |
//! | `GET` | yes: the lease ended with the connection, and the job was charged an attempt |
//! | `ACK`, `FAIL`, `RETURN`, `TOUCH` | no: the lease ended with the connection, and another worker may have the job |
//! | `PEEK`, `LIST`, `WAIT`, `BATCH`, `STATS`, `QUEUES`, `PING`, `HELP` | yes: they change nothing |
//! | `PAUSE`, `RESUME` | yes: the second has the same effect; the time of a pause starts again |
//! | `DELETE`, `RETRY`, `PURGE` | no: the second may find nothing, or affect jobs that came in between |

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use super::{Address, Client, parse};
use crate::clock::Clock;
use crate::error::Error;
use crate::protocol::Command;
use crate::protocol::native::Answer;

/// The first wait of a [`Backoff`].
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The longest wait of a [`Backoff`], without its jitter.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The waits between attempts: 50 ms, doubled each time up to 5 s. Each is up to a quarter longer at random,
/// so that a thousand clients do not connect all at once when their server is back.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: FIRST_WAIT }
    }
}

impl Backoff {
    /// The wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST_WAIT);
        // The standard library's hasher has a new random seed each time.
        let jitter_percent = RandomState::new().hash_one(wait) % 26;
        wait + wait * jitter_percent as u32 / 100
    }

    /// Starts with the first wait again, after an attempt has succeeded.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
}

impl Client {
    /// Repeats [`Client::connect`], with the waits of a [`Backoff`], until it succeeds or `patience` is over.
    ///
    /// # Errors
    /// [`Error::Connect`] of the last attempt, or at once if the text is not an address.
    pub fn connect_within(server: &str, patience: Duration) -> Result<Client, Error> {
        Client::connect_to_within(&parse(server)?, patience)
    }

    pub(super) fn connect_to_within(server: &Address, patience: Duration) -> Result<Client, Error> {
        let clock = Clock::system();
        let deadline = clock.now().mono.after(patience);
        let mut waits = Backoff::default();
        loop {
            let error = match Client::connect_to(server) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let left = deadline.until(clock.now().mono);
            if left.is_zero() {
                return Err(error);
            }
            thread::sleep(waits.next_wait().min(left));
        }
    }

    /// Does what [`Client::call`] does. If the connection breaks, it connects again and repeats the command,
    /// until `patience` is over. Commands that are not repeatable ([`Command::spec`]) are sent once. Leases
    /// of this client are lost with the broken connection.
    ///
    /// # Errors
    /// Those of [`Client::call`]; [`Error::Connect`] if the server did not come back in time. The command may
    /// then have been executed.
    pub fn call_again(&mut self, command: &Command, patience: Duration) -> Result<Answer, Error> {
        let clock = Clock::system();
        let deadline = clock.now().mono.after(patience);
        let mut waits = Backoff::default();
        loop {
            let error = match self.call(command) {
                Err(error @ Error::Disconnected { .. }) if command.spec().repeatable => error,
                outcome => return outcome,
            };
            let left = deadline.until(clock.now().mono);
            if left.is_zero() {
                return Err(error);
            }
            // Otherwise a server that accepts and closes at once would be called in a tight loop.
            thread::sleep(waits.next_wait().min(left));
            *self = Client::connect_to_within(&self.server, deadline.until(clock.now().mono))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_with_a_quarter_more_at_most() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next_wait()).collect();
        let mut expected = FIRST_WAIT;
        for wait in &waits {
            assert!((expected..=expected * 5 / 4).contains(wait), "{wait:?} in {waits:?}");
            expected = (expected * 2).min(LONGEST_WAIT);
        }
        assert_eq!(expected, LONGEST_WAIT);
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST_WAIT * 5 / 4);
    }
}
