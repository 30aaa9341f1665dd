//! Submits tasks, many in one write, until each is accepted or refused for good.

use super::{Steady, Task};
use crate::client::Client;
use crate::error::{Code, Error, Refusal};
use crate::job::{JobId, JobState};
use crate::protocol::native::Answer;

/// What the server said to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Submitted {
    /// It is a job with this id.
    New(JobId),
    /// There is a job with the key that the text gives. It may be another submitter's, and is then not in the
    /// batch.
    Duplicate(JobId, JobState),
    /// It was refused.
    Refused(Refusal),
}

impl Steady {
    /// Submits these tasks. `submitted` gets one outcome for each, in their order. They must fit well into one
    /// write, as [`Tasks::next_items`](super::Tasks::next_items) gives them.
    ///
    /// A task that is refused for want of room is sent again until there is room.
    ///
    /// # Errors
    /// The server was away for too long. `submitted` then has the tasks at the start whose outcome is known.
    /// Those after them may have been accepted.
    pub fn submit(&mut self, tasks: &[Task], submitted: &mut Vec<Submitted>) -> Result<(), Error> {
        let mut outcomes = vec![None; tasks.len()];
        let mut out = Vec::new();
        let result = loop {
            let open: Vec<usize> = (0..tasks.len()).filter(|at| outcomes[*at].is_none()).collect();
            if open.is_empty() {
                break Ok(());
            }
            out.clear();
            open.iter().for_each(|at| out.extend_from_slice(&tasks[*at].encoded));
            let mut trouble = None;
            let mut progress = false;
            let exchanged = self.client.exchange_all(&out, open.len(), |at, answer| {
                let at = open[at];
                outcomes[at] = match answer {
                    Answer::Accepted { id, duplicate } => Some(match duplicate {
                        Some(state) if tasks[at].own_key => Submitted::Duplicate(id, state),
                        _ => Submitted::New(id),
                    }),
                    Answer::Refused(refusal) if may_pass(refusal.code) => {
                        trouble.get_or_insert(refusal);
                        None
                    }
                    Answer::Refused(refusal) => Some(Submitted::Refused(refusal)),
                    _ => return Err(Error::BadReply("it is not the reply to a submission".into())),
                };
                progress |= outcomes[at].is_some();
                Ok(())
            });
            if progress {
                self.is_well();
            }
            let recovered = match (exchanged, trouble) {
                (Err(error), _) => self.recover(error),
                (Ok(()), Some(refusal)) => self.recover(Error::Refused(refusal)),
                (Ok(()), None) => Ok(()),
            };
            if recovered.is_err() {
                break recovered;
            }
        };
        submitted.extend(outcomes.into_iter().map_while(|outcome| outcome));
        result
    }
}

fn may_pass(code: Code) -> bool {
    matches!(code, Code::Full | Code::Draining | Code::Unavailable)
}

impl Client {
    /// Sends `count` commands in one write, and passes on their answers in order.
    pub(super) fn exchange_all(
        &mut self,
        commands: &[u8],
        count: usize,
        mut each: impl FnMut(usize, Answer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.lose_sync()?;
        self.wire.send(commands)?;
        for at in 0..count {
            each(at, self.replies.wait(&self.wire)?)?;
        }
        self.in_sync = true;
        Ok(())
    }
}
