//! Follows jobs to their end, also if the connection breaks or the server restarts meanwhile.
//!
//! - [`Tasks`] reads `TASK` commands from a text.
//! - [`Steady`] is a connection that is made again when it is lost. It submits tasks, and waits for jobs and
//!   batches.
//! - [`follow_all`] waits for many jobs, in the order in which they are given.
//!
//! A submission whose reply was lost is sent again. So that this makes no second job, each task needs a key,
//! and has to be kept for longer than the connection may be lost. [`Plan`] sees to both.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::Duration;

use super::retry::Backoff;
use super::{Address, Client};
use crate::clock::{Clock, Moment};
use crate::error::{Code, Error};
use crate::job::{BatchName, Finished, JobId};
use crate::protocol::native::Answer;
use crate::protocol::{Command, Wait};
use crate::stats::BatchStats;

mod report;
mod results;
mod submit;
mod tasks;

pub use report::{json_line, terminal_text};
pub use results::{Ended, follow_all};
pub use submit::Submitted;
pub use tasks::{Plan, Task, TaskText, Tasks};

/// A connection that is made again when it is lost. Commands that were not answered are then sent again.
#[derive(Debug)]
pub struct Steady {
    client: Client,
    clock: Clock,
    /// How long to try before giving up.
    patience: Duration,
    /// When to give up; `None` while all is well.
    deadline: Option<Moment>,
    waits: Backoff,
}

/// How waiting for a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchEnd {
    /// The batch is complete, with these counts.
    Complete(BatchStats),
    /// The server has forgotten jobs that it had accepted, for example because it keeps them in memory and was
    /// restarted. These are the counts that it has.
    Forgotten(BatchStats),
}

impl Steady {
    /// Connects. This is tried once; only later failures are survived, each for as long as `patience`.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn connect(server: &Address, patience: Duration) -> Result<Steady, Error> {
        let client = Client::connect_to(server)?;
        let (clock, waits) = (Clock::system(), Backoff::default());
        Ok(Steady { client, clock, patience, deadline: None, waits })
    }

    /// Sends a command that may be repeated ([`Command::spec`]), until it is answered.
    ///
    /// # Errors
    /// [`Error::Refused`] for a refusal that does not pass, and any other error if the server was away for too
    /// long.
    pub fn call(&mut self, command: &Command) -> Result<Answer, Error> {
        loop {
            match self.client.call(command) {
                Ok(answer) => {
                    self.is_well();
                    return Ok(answer);
                }
                Err(error) => self.recover(error)?,
            }
        }
    }

    /// Waits for the end of a job. A job that the server does not know is [`Finished::Gone`].
    ///
    /// # Errors
    /// As for [`Steady::call`].
    pub fn wait(&mut self, id: JobId) -> Result<Finished, Error> {
        match self.call(&Command::Wait { id, wait: Wait::Forever }) {
            Ok(Answer::Finished { how, .. }) => Ok(how),
            Ok(_) => self.client.unexpected_reply(),
            Err(Error::Refused(refusal)) if refusal.code == Code::NotFound => Ok(Finished::Gone),
            Err(error) => Err(error),
        }
    }

    /// Waits until a batch is complete to which nothing is being submitted any more.
    ///
    /// # Errors
    /// As for [`Steady::call`].
    pub fn wait_for_batch(&mut self, name: &BatchName) -> Result<BatchEnd, Error> {
        let (stats, mut complete) = self.batch(name, 1, Wait::AtMost(Duration::ZERO))?;
        let total = stats.total();
        if complete || total == 0 {
            return Ok(BatchEnd::Complete(stats));
        }
        loop {
            let wait = Command::Batch { name: name.clone(), total, wait: Wait::Forever };
            let stats = match self.client.call(&wait) {
                Ok(Answer::Batch { stats, complete: now }) => {
                    self.is_well();
                    complete = now;
                    stats
                }
                Ok(_) => return self.client.unexpected_reply(),
                Err(error) => {
                    self.recover(error)?;
                    // A server that has forgotten the batch would wait for ever.
                    let (stats, now) = self.batch(name, total, Wait::AtMost(Duration::ZERO))?;
                    complete = now;
                    stats
                }
            };
            if complete {
                return Ok(BatchEnd::Complete(stats));
            }
            if stats.total() < total {
                return Ok(BatchEnd::Forgotten(stats));
            }
        }
    }

    fn batch(&mut self, name: &BatchName, total: u64, wait: Wait) -> Result<(BatchStats, bool), Error> {
        match self.call(&Command::Batch { name: name.clone(), total, wait })? {
            Answer::Batch { stats, complete } => Ok((stats, complete)),
            _ => self.client.unexpected_reply(),
        }
    }

    /// The next error has all of the patience again.
    fn is_well(&mut self) {
        if self.deadline.take().is_some() {
            self.waits.reset();
        }
    }

    /// Waits a little after an error that may pass, and connects again if the connection is lost.
    fn recover(&mut self, error: Error) -> Result<(), Error> {
        let passes = match &error {
            // Jobs end, and then there is room again.
            Error::Refused(refusal) if refusal.code == Code::Full => {
                thread::sleep(refusal.retry_after.unwrap_or(Duration::from_secs(1)));
                return self.connect_if_lost();
            }
            // The server is about to stop, and may be started again.
            Error::Refused(refusal) => matches!(refusal.code, Code::Draining | Code::Unavailable),
            Error::Disconnected { .. } => true,
            _ => false,
        };
        if !passes {
            return Err(error);
        }
        let left = self.time_left();
        if left.is_zero() {
            return Err(error);
        }
        thread::sleep(self.waits.next_wait().min(left));
        self.connect_if_lost()
    }

    fn connect_if_lost(&mut self) -> Result<(), Error> {
        if self.client.is_closed() {
            let left = self.time_left();
            self.client = Client::connect_to_within(&self.client.server, left)?;
        }
        Ok(())
    }

    /// Until this side gives up. The time begins with the first error.
    fn time_left(&mut self) -> Duration {
        let now = self.clock.now().mono;
        self.deadline.get_or_insert(now.after(self.patience)).until(now)
    }
}

/// A random number, for a name that nobody else uses.
fn random() -> u64 {
    // The standard library's hasher has a new random seed each time.
    RandomState::new().build_hasher().finish()
}
