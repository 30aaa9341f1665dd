//! Jobs until they have ended: waiting for that, batches, cancelling, why a job is where it is.

use super::Client;
use std::time::Duration;

use crate::error::Error;
use crate::job::{BatchName, Finished, Group, Job, JobId, JobState, Submission};
use crate::protocol::native::{Answer, job_json};
use crate::protocol::{Cancel, Command, Wait};
use crate::stats::BatchStats;

/// How long [`Client::run`] keeps a job that is not to be kept.
pub const RUN_KEPT: Duration = Duration::from_secs(60);

impl Client {
    /// Waits for the end of a job, for at most `wait`. `None` if it has not ended by then.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) for an id that was never given;
    /// otherwise see [`Client::call`].
    pub fn wait(&mut self, id: JobId, wait: Wait) -> Result<Option<Finished>, Error> {
        match self.call(&Command::Wait { id, wait })? {
            Answer::Finished { how, .. } => Ok(Some(how)),
            Answer::Empty => Ok(None),
            _ => self.unexpected_reply(),
        }
    }

    /// Submits a job and waits until it has ended. A job that is not to be kept is kept for
    /// [`RUN_KEPT`], because a worker may be done with it before this waits.
    ///
    /// ```
    /// use djqs::{Client, Submission, job::Finished};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = djqs::Broker::in_memory(djqs::broker::Config::default());
    /// # let server = djqs::server::Server::bind("127.0.0.1:0".parse()?, broker, Default::default())?;
    /// # let address = server.local_addr()?.to_string();
    /// # std::thread::spawn(move || server.run());
    /// # let at = address.clone();
    /// # std::thread::spawn(move || {
    /// #     let mut worker = Client::connect(&at).unwrap();
    /// #     let lease = worker.get(&[], djqs::protocol::Wait::Forever).unwrap().unwrap();
    /// #     worker.ack_with(lease.id, "4").unwrap();
    /// # });
    /// let mut client = Client::connect(&address)?;
    /// match client.run(Submission::new("ADD: 2 2"))? {
    ///     Finished::Done { result: Some(result), .. } => assert_eq!(&*result, b"4"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Client::submit`].
    pub fn run(&mut self, mut submission: Submission) -> Result<Finished, Error> {
        if submission.options.keep.is_zero() {
            submission.options.keep = RUN_KEPT;
        }
        let accepted = self.submit(submission)?;
        match self.wait(accepted.id, Wait::Forever)? {
            Some(finished) => Ok(finished),
            None => self.unexpected_reply(),
        }
    }

    /// The counts of a batch, and whether it is complete with at least `total` jobs: at once if it is, otherwise
    /// after `wait` at the latest. A batch that is not known has no jobs.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn batch(&mut self, name: &BatchName, total: u64, wait: Wait) -> Result<(BatchStats, bool), Error> {
        match self.call(&Command::Batch { name: name.clone(), total, wait })? {
            Answer::Batch { stats, complete } => Ok((stats, complete)),
            _ => self.unexpected_reply(),
        }
    }

    /// Cancels a job that is ready, delayed or leased; others are left as they are. Returns the state that it was
    /// in.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) if there is no such job; otherwise
    /// see [`Client::call`].
    pub fn cancel(&mut self, id: JobId, reason: Option<&str>) -> Result<JobState, Error> {
        match self.call(&Command::Cancel { what: Cancel::Job(id), reason: reason.map(Into::into) })? {
            Answer::Was(state) => Ok(state),
            _ => self.unexpected_reply(),
        }
    }

    /// Cancels the ready, delayed and leased jobs of a queue or a batch, or those in one of these states. Returns
    /// how many.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn cancel_all(
        &mut self,
        of: impl Into<Group>,
        state: Option<JobState>,
        reason: Option<&str>,
    ) -> Result<u64, Error> {
        let what = Cancel::All { of: of.into(), state };
        self.count(&Command::Cancel { what, reason: reason.map(Into::into) })
    }

    /// Renews a lease, and says how far the job is, from 0 to 100, and what is being done, for people.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn progress(&mut self, id: JobId, percent: Option<u8>, note: Option<&str>) -> Result<(), Error> {
        let note = note.map(Into::into);
        self.done(&Command::Touch { id, ttr: None, progress: percent.map(|n| n.min(100)), note })
    }

    /// Why a job is where it is, as a sentence for people.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) for an id that was never given;
    /// otherwise see [`Client::call`].
    pub fn why(&mut self, id: JobId) -> Result<String, Error> {
        match self.call(&Command::Why { id })? {
            Answer::Why { sentence, .. } => Ok(sentence),
            _ => self.unexpected_reply(),
        }
    }

    /// Looks at a job as [`Client::list`] shows it: with the reason of its last failure and its last attempts.
    ///
    /// # Errors
    /// As for [`Client::peek`].
    pub fn show(&mut self, id: JobId) -> Result<Job, Error> {
        let lines = self.lines(&Command::Show { id })?;
        self.parsed(lines.first().and_then(|line| job_json::read(line.as_bytes())))
    }
}
