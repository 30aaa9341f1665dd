//! Goes on after a failure: connects again, with growing waits, and repeats what may be repeated.
//!
//! When a connection breaks before a reply has come, the command may or may not have been carried out. What
//! that means for sending it again:
//!
//! | command | again? |
//! |---|---|
//! | `TASK` with a key | yes: while the job is unfinished, the second one is answered with the first one's id |
//! | `TASK` without a key | no: the job may be there twice |
//! | `GET` | yes: the lease of the broken connection has ended, at the price of one attempt of that job |
//! | `ACK`, `FAIL`, `RETURN`, `TOUCH` | no: the lease ended with its connection, and the job goes to somebody else |
//! | `PEEK`, `LIST`, `STATS`, `QUEUES`, `PING`, `HELP` | yes: they change nothing |
//! | `PAUSE`, `RESUME` | yes: the second changes nothing more; a pause's time begins anew |
//! | `DELETE`, `RETRY`, `PURGE` | no: the second may answer that there was nothing to do, or take what came since |

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use super::Client;
use crate::clock::Clock;
use crate::error::Error;
use crate::protocol::Command;
use crate::protocol::native::Answer;

/// The first wait of a [`Backoff`].
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The longest wait of a [`Backoff`], but for its jitter.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long to wait between attempts: 50 ms, doubled each time up to 5 s, and up to a quarter more at random,
/// so that a thousand clients of a server that comes back do not come all at once.
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
    /// How long to wait now.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST_WAIT);
        // The standard library's hasher has a new random seed each time.
        let jitter_percent = RandomState::new().hash_one(wait) % 26;
        wait + wait * jitter_percent as u32 / 100
    }

    /// An attempt succeeded: the next wait is the first again.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }
}

impl Client {
    /// [`Client::connect`], again and again with the waits of a [`Backoff`] until it works, or `patience` is
    /// over. Blocks meanwhile; the last attempt begins before `patience` is over.
    ///
    /// # Errors
    /// [`Error::Connect`], the last attempt's.
    pub fn connect_within(server: &str, patience: Duration) -> Result<Client, Error> {
        let clock = Clock::system();
        let deadline = clock.now().mono.after(patience);
        let mut waits = Backoff::default();
        loop {
            let error = match Client::connect(server) {
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

    /// [`Client::call`], and where the connection breaks: connects again and repeats the command, for as long
    /// as `patience` lasts. Commands that are not repeatable ([`Command::spec`]) are sent once. Leases that
    /// this client held are lost with the broken connection.
    ///
    /// # Errors
    /// As [`Client::call`]; [`Error::Connect`] where the server did not come back in time. The command may
    /// then have been carried out.
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
            // A server that accepts and closes at once must not be called in a tight loop.
            thread::sleep(waits.next_wait().min(left));
            *self = Client::connect_within(self.server.as_str(), deadline.until(clock.now().mono))?;
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
