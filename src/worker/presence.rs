//! Whether the server can be reached. A change is logged once, not once for each connection.

use log::{info, warn};
use parking_lot::Mutex;

/// Whether the server can be reached, as the connections of all slots find out.
#[derive(Debug)]
pub(super) struct Presence {
    server: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reached: Reached,
    /// How often the server was reached after it had not been. The end of a connection from an earlier epoch
    /// says nothing about the server now.
    epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    NotYet,
    Yes,
    NoLonger,
}

/// How often the server had been reached when a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Presence {
    pub(super) fn new(server: &str) -> Presence {
        let state = State { reached: Reached::NotYet, epoch: 0 };
        Presence { server: server.to_owned(), state: Mutex::new(state) }
    }

    /// A connection was made.
    pub(super) fn reached(&self) -> Epoch {
        let mut state = self.state.lock();
        if state.reached != Reached::Yes {
            let again = if state.reached == Reached::NoLonger { " again" } else { "" };
            state.reached = Reached::Yes;
            state.epoch += 1;
            info!(event = "connected", server = self.server.as_str(); "connected to {}{again}", self.server);
        }
        Epoch(state.epoch)
    }

    /// No connection could be made.
    pub(super) fn not_reached(&self, why: &str) {
        self.gone(&mut self.state.lock(), why);
    }

    /// A connection has ended.
    pub(super) fn lost(&self, epoch: Epoch, why: &str) {
        let mut state = self.state.lock();
        if epoch.0 == state.epoch {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_connection_from_an_earlier_epoch_is_ignored() {
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
