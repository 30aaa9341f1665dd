//! Waits for many jobs, in the order in which they are given.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Receiver;

use super::Steady;
use crate::error::{Code, Error};
use crate::job::{Finished, JobId};
use crate::protocol::native::{Answer, write_command};
use crate::protocol::{Command, Wait};

/// How many WAITs are sent ahead of their replies.
const AHEAD: usize = 512;

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The line of its task.
    pub line: u64,
    /// Its id.
    pub id: JobId,
    /// How it ended.
    pub how: Finished,
}

impl Ended {
    /// A job that ended in this way.
    pub fn new(line: u64, id: JobId, how: Finished) -> Ended {
        Ended { line, id, how }
    }
}

/// Waits for the end of each job that comes, given with the line of its task, and passes it on in the order of the
/// jobs. WAITs are sent ahead of their replies. `None` is passed on when there may be a pause, so that what has been
/// written should be flushed. Ends when no more jobs can come.
///
/// # Errors
/// The outer error is that of `each`. The inner one: the server was away for too long.
pub fn follow_all(
    steady: &mut Steady,
    jobs: &Receiver<(u64, JobId)>,
    mut each: impl FnMut(Option<Ended>) -> io::Result<()>,
) -> io::Result<Result<(), Error>> {
    // Those for which a WAIT is to be sent; `sent` of them have been.
    let mut window: VecDeque<(u64, JobId)> = VecDeque::new();
    let mut sent = 0;
    let mut out = Vec::new();
    loop {
        if window.is_empty() {
            each(None)?;
            let Ok(job) = jobs.recv() else { return Ok(Ok(())) };
            window.push_back(job);
        }
        if sent <= AHEAD / 2 {
            window.extend(jobs.try_iter().take(AHEAD - window.len()));
        }
        let outcome = if sent < window.len() {
            out.clear();
            for &(_, id) in window.range(sent..) {
                write_command(&Command::Wait { id, wait: Wait::Forever }, &mut out);
            }
            sent = window.len();
            steady.client.send_ahead(&out)
        } else {
            Ok(())
        };
        let answer = match outcome.and_then(|()| steady.client.answer_sent_ahead()) {
            Ok(None) => {
                each(None)?;
                steady.client.receive_more().map(|()| None)
            }
            other => other,
        };
        let how = match answer {
            Ok(None) => continue,
            Ok(Some(Answer::Finished { how, .. })) => how,
            Ok(Some(Answer::Refused(refusal))) if refusal.code == Code::NotFound => Finished::Gone,
            other => {
                // The other replies that are under way are given up with the connection.
                steady.client.in_sync = false;
                let error = match other {
                    Ok(Some(Answer::Refused(refusal))) => Error::Refused(refusal),
                    Ok(_) => Error::BadReply("it is the reply to another command".into()),
                    Err(error) => error,
                };
                if let Err(error) = steady.recover(error) {
                    return Ok(Err(error));
                }
                sent = 0;
                continue;
            }
        };
        steady.is_well();
        sent -= 1;
        let (line, id) = window.pop_front().expect("each answer belongs to a job in the window");
        each(Some(Ended { line, id, how }))?;
    }
}

impl super::Client {
    /// Sends commands whose answers are read later.
    fn send_ahead(&mut self, commands: &[u8]) -> Result<(), Error> {
        self.wire.send(commands)
    }

    /// The next answer that has been received.
    fn answer_sent_ahead(&mut self) -> Result<Option<Answer>, Error> {
        Ok(self.replies.next()?.map(|(_, answer)| answer))
    }

    /// Blocks until more has been received.
    fn receive_more(&mut self) -> Result<(), Error> {
        match self.replies.receive(&self.wire)? {
            0 => Err(Error::Disconnected { source: None }),
            _ => Ok(()),
        }
    }
}
