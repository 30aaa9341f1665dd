//! Says that a command waits.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// A reply that takes longer than this is worth a word.
const MOMENT: Duration = Duration::from_secs(1);

/// From a command to its reply. If that takes longer than a moment, standard error says so.
pub(super) struct Waiting {
    /// Dropping it ends the thread.
    _reply: Sender<()>,
}

impl Waiting {
    /// A wait for the reply to a command with this verb.
    pub(super) fn start(verb: &[u8]) -> Waiting {
        let (reply, received) = mpsc::channel::<()>();
        let verb = verb.escape_ascii().to_string();
        thread::spawn(move || {
            if received.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{verb} waits for its reply; Ctrl-C stops it");
            }
        });
        Waiting { _reply: reply }
    }
}
