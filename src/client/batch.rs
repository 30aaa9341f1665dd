//! Submits many jobs at once: one thread sends while another receives, so that neither waits for the other.

use std::fmt;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::wire::{Replies, Wire};
use super::{Accepted, Client, WRITE_BYTES, WRITE_COMMANDS_MAX, WRITES_AHEAD};
use crate::error::{Error, Refusal};
use crate::job::Submission;
use crate::protocol::Command;
use crate::protocol::native::{Answer, write_command};

/// Why a batch was not submitted completely, and what is known about it.
///
/// The first `results.len()` submissions were answered, in order. The others up to `taken` may or may not
/// have been accepted. The rest was neither sent nor taken from the iterator.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchError {
    /// The answers, in order.
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
    /// Submits many jobs without waiting for each reply. The results are in the order of the submissions. A
    /// refused job does not stop the ones after it. Blocks until all are answered.
    ///
    /// Takes submissions from the iterator when they can be sent. Apart from the results, it keeps at most 64
    /// KiB and one submission in memory. At most 17,408 submissions are sent and not answered at any time.
    ///
    /// # Errors
    /// [`BatchError`] if the connection breaks; it has the results so far. Also if the thread that reads the
    /// replies can't be started; then nothing was sent.
    pub fn submit_all(
        &mut self,
        submissions: impl IntoIterator<Item = Submission>,
    ) -> Result<Vec<Result<Accepted, Refusal>>, BatchError> {
        if let Err(source) = self.lose_sync() {
            return Err(BatchError { results: Vec::new(), taken: 0, source });
        }
        let (sizes, expected) = bounded(WRITES_AHEAD);
        let (wire, replies) = (&self.wire, &mut self.replies);
        let ((taken, sent), (results, received)) = thread::scope(|scope| {
            let receiver = thread::Builder::new().name("receiver".into()).spawn_scoped(scope, move || {
                let mut results = Vec::new();
                let received = receive_all(wire, replies, &expected, &mut results);
                if received.is_err() {
                    // Ends a write of the sender that the server would not read.
                    wire.shut_down();
                }
                (results, received)
            });
            let receiver = match receiver {
                Ok(receiver) => receiver,
                Err(error) => return ((0, Ok(())), (Vec::new(), Err(Error::Thread(error)))),
            };
            let sent = send_all(wire, submissions.into_iter(), sizes);
            (sent, receiver.join().expect("the receiver does not panic"))
        });
        // The receiver's error says more: a server that refuses a client says why before it closes.
        match received.and(sent) {
            Ok(()) => {
                self.in_sync = true;
                Ok(results)
            }
            Err(source @ Error::Thread(_)) => {
                // Nothing was sent.
                self.in_sync = true;
                Err(BatchError { results, taken, source })
            }
            Err(source) => Err(BatchError { results, taken, source }),
        }
    }
}

/// Sends submissions until there are no more, or the receiver has ended. Returns how many it took.
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
            write_command(&Command::Submit(Box::new(submission)), &mut out);
            taken += 1;
        }
        // First to the receiver, so that it expects every reply that comes. It ends before the sender only
        // after an error, which it reports itself.
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
                _ => return Err(Error::BadReply("it is not the reply to a submission".into())),
            });
        }
    }
    Ok(())
}
