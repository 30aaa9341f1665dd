//! Whether the server is there, told once for all connections; and how long to wait before the next attempt.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use log::{info, warn};
use parking_lot::Mutex;

/// The wait after the first failed attempt, doubled with each one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait between two attempts.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is known of the server.
#[derive(Debug)]
pub(super) struct Presence {
    server: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reached: Reached,
    /// How often the server has come (back). A connection of an earlier time that ends is old news.
    time: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    NotYet,
    Yes,
    NoLonger,
}

/// Since which coming of the server a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since(u64);

impl Presence {
    pub(super) fn new(server: &str) -> Presence {
        let state = State { reached: Reached::NotYet, time: 0 };
        Presence { server: server.to_owned(), state: Mutex::new(state) }
    }

    /// A connection stands.
    pub(super) fn reached(&self) -> Since {
        let mut state = self.state.lock();
        if state.reached != Reached::Yes {
            let again = if state.reached == Reached::NoLonger { " again" } else { "" };
            state.reached = Reached::Yes;
            state.time += 1;
            info!(event = "connected", server = self.server.as_str(); "connected to {}{again}", self.server);
        }
        Since(state.time)
    }

    /// No connection could be made.
    pub(super) fn not_reached(&self, why: &str) {
        self.gone(&mut self.state.lock(), why);
    }

    /// A connection that stood has broken.
    pub(super) fn lost(&self, since: Since, why: &str) {
        let mut state = self.state.lock();
        if since.0 == state.time {
            self.gone(&mut state, why);
        }
    }

    fn gone(&self, state: &mut State, why: &str) {
        let server = self.server.as_str();
        if state.reached == Reached::NoLonger {
            log::debug!("still no connection to {server}: {why}");
            return;
        }
        state.reached = Reached::NoLonger;
        warn!(event = "away", server = server, reason = why; "no connection to {server}: {why}; trying again until there is one");
    }
}

/// The waits between attempts to connect: doubled each time, and spread, so that a thousand workers don't all
/// knock in the same moment when their server is back.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff { next: BACKOFF_MIN }
    }

    /// How long to wait now: at least three quarters of the full wait, at most all of it.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(BACKOFF_MAX);
        wait.mul_f64(0.75 + 0.25 * random())
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }
}

/// A number from 0 up to 1. The keys of a hash map are all the randomness that this needs.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let mut backoff = Backoff::new();
        for millis in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let (wait, full) = (backoff.wait(), Duration::from_millis(millis));
            assert!(full * 3 / 4 <= wait && wait <= full, "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= BACKOFF_MIN);
    }

    #[test]
    fn end_of_an_old_connection_is_old_news() {
        let presence = Presence::new("127.0.0.1:1");
        let (first, second) = (presence.reached(), presence.reached());
        assert_eq!(first, second);
        presence.lost(first, "gone");
        assert_eq!(presence.state.lock().reached, Reached::NoLonger);
        let third = presence.reached();
        presence.lost(second, "gone");
        assert_eq!(presence.state.lock().reached, Reached::Yes);
        presence.lost(third, "gone");
        assert_eq!(presence.state.lock().reached, Reached::NoLonger);
    }
}
