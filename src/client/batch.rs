//! Many jobs at once: one thread sends while another receives, so that neither side ever waits for the other.

use std::fmt;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::wire::{Replies, Wire};
use super::{Accepted, Client, WRITE_BYTES, WRITE_COMMANDS_MAX, WRITES_AHEAD};
use crate::error::{Error, Refusal};
use crate::job::Submission;
use crate::protocol::Command;
use crate::protocol::native::{Answer, write_command};

/// Why a batch was not submitted whole, and what is known of it.
///
/// The first `results.len()` submissions were answered, in order. Those behind them, up to `taken`, may or
/// may not have been accepted. The ones behind those were not sent, nor taken from the iterator.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchError {
    /// What was answered, in order.
    pub results: Vec<Result<Accepted, Refusal>>,
    /// How many submissions were taken from the iterator.
    pub taken: u64,
    /// What went wrong.
    pub source: Error,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchError { results, taken, source } = self;
        write!(
            f,
            "{source}: {} of {taken} submissions were answered, the others may or may not be accepted",
            results.len()
        )
    }
}

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Client {
    /// Submits many jobs, sending ahead of the replies. The results are in the order of the submissions; a
    /// job that is refused does not keep the following ones from being sent. Blocks until all are answered.
    ///
    /// Takes submissions from the iterator as they can be sent: beyond the results, it holds at most 64 KiB
    /// and one submission at a time, and at most 17,408 submissions are sent without being answered.
    ///
    /// # Errors
    /// [`BatchError`] where the connection breaks: it holds the results so far.
    pub fn submit_all(
        &mut self,
        submissions: impl IntoIterator<Item = Submission>,
    ) -> Result<Vec<Result<Accepted, Refusal>>, BatchError> {
        if let Err(source) = self.step_out() {
            return Err(BatchError { results: Vec::new(), taken: 0, source });
        }
        let (sizes, expected) = bounded(WRITES_AHEAD);
        let (wire, replies) = (&self.wire, &mut self.replies);
        let ((taken, sent), (results, received)) = thread::scope(|scope| {
            let receiver = scope.spawn(move || {
                let mut results = Vec::new();
                let received = receive_all(wire, replies, &expected, &mut results);
                if received.is_err() {
                    // Wakes the sender out of a write that nobody would read.
                    wire.shut_down();
                }
                (results, received)
            });
            let sent = send_all(wire, submissions.into_iter(), sizes);
            (sent, receiver.join().expect("the receiver does not panic"))
        });
        // What was received tells more: a server that turns a client away says why before it closes.
        match received.and(sent) {
            Ok(()) => {
                self.in_step = true;
                Ok(results)
            }
            Err(source) => Err(BatchError { results, taken, source }),
        }
    }
}

/// Sends submissions until there are no more, or the receiver has ended; says how many it took.
fn send_all(
    wire: &Wire,
    mut submissions: impl Iterator<Item = Submission>,
    sizes: Sender<u64>,
) -> (u64, Result<(), Error>) {
    let mut taken = 0;
    let mut out = Vec::with_capacity(WRITE_BYTES);
    loop {
        out.clear();
        let before = taken;
        while taken - before < WRITE_COMMANDS_MAX as u64
            && out.len() < WRITE_BYTES
            && let Some(submission) = submissions.next()
        {
            write_command(&Command::Submit(submission), &mut out);
            taken += 1;
        }
        // The receiver is told first, so that it knows of every reply that comes. It only ends before the
        // sender where something is wrong, and then says so itself.
        if taken == before || sizes.send(taken - before).is_err() {
            return (taken, Ok(()));
        }
        if let Err(error) = wire.send(&out) {
            return (taken, Err(error));
        }
    }
}

/// Receives the replies to all that is sent, until the sender ends.
fn receive_all(
    wire: &Wire,
    replies: &mut Replies,
    expected: &Receiver<u64>,
    results: &mut Vec<Result<Accepted, Refusal>>,
) -> Result<(), Error> {
    for size in expected {
        for _ in 0..size {
            results.push(match replies.wait(wire)? {
                Answer::Accepted { id, duplicate } => Ok(Accepted { id, duplicate }),
                Answer::Refused(refusal) => Err(refusal),
                _ => return Err(Error::BadReply("it answers something other than a submission".into())),
            });
        }
    }
    Ok(())
}
