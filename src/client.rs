//! The client: connects to a server, sends commands and reads replies. It uses the protocol like any other
//! program and does not know the server's internals.
//!
//! - [`Client`] is one connection, for one thread. It has a method for each command, which waits for the
//!   reply.
//! - [`Client::submit_all`] pipelines many submissions, which is much faster.
//! - [`retry`] connects again after a failure, and says which commands may be repeated.
//! - [`follow`] submits jobs and follows them to their end, also if the server restarts meanwhile.
//! - [`feed`] runs a text of commands, for the `client` program; [`print`](mod@print) shows the replies as
//!   text or as JSON.
//!
//! A client has no pool of connections and no background thread. Use one client for each thread: a lease
//! belongs to the connection that got it.

use std::io;
use std::time::Duration;

use crate::error::{Error, Refusal};
use crate::job::{Acked, Group, Job, JobId, JobState, Lease, QueueName, Search, Submission};
use crate::protocol::native::{Answer, job_json, write_command};
use crate::protocol::{Command, OnDrained, Retry, Wait};
use crate::stats::{QueueStats, ServerStats};

mod address;
mod batch;
mod ends;
pub mod feed;
mod figures;
mod fleet;
pub mod follow;
mod json;
pub mod print;
pub mod retry;
mod script;
mod text;
pub(crate) mod wire;

pub use crate::job::Failure;
pub use address::{Address, BadAddress};
pub use batch::BatchError;
pub use ends::RUN_KEPT;
pub use figures::QueueSummary;

use wire::{Replies, Wire};

/// The initial size of the read buffer, in bytes. It grows with the replies.
const ROOM_BYTES: usize = 8 * 1024;

/// The most commands in one write when commands are pipelined.
const WRITE_COMMANDS_MAX: usize = 1024;

/// The size at which a write is sent, even if it has fewer commands.
const WRITE_BYTES: usize = 64 * 1024;

/// How many writes may wait for their replies before the next is sent, in addition to the one whose replies
/// are being read. The limit keeps the server from blocking on replies that this side does not read, and
/// limits how many commands are in doubt when a connection breaks: 17 writes.
const WRITES_AHEAD: usize = 16;

/// How long the server's machine may leave what was sent to it unacknowledged before the connection breaks.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One connection to a server.
///
/// Every method sends one command and blocks until its reply arrives. Servers reply at once, except to
/// [`Client::get`]. When a client is dropped, the jobs that it leased go back to their queues, and each is
/// charged a crash. [`Client::quit`] returns them without that.
///
/// After [`Error::Disconnected`] and [`Error::BadReply`] it is unknown what the server has received and will
/// send. The client then refuses all further calls, since it could take a reply for that of another command.
/// Connect again with [`Client::reconnect`].
///
/// ```
/// use djqs::{Client, Submission, protocol::Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = djqs::Broker::in_memory(djqs::broker::Config::default());
/// # let server = djqs::server::Server::bind("127.0.0.1:0".parse()?, broker, Default::default())?;
/// # let address = server.local_addr()?.to_string();
/// # std::thread::spawn(move || server.run());
/// let mut client = Client::connect(&address)?; // Such as "127.0.0.1:11300".
/// let accepted = client.submit(Submission::new("CLEANUP_LOGS: 2s_delay").queue("logs")?.attempts(3))?;
///
/// let queues = ["logs".parse()?];
/// let lease = client.get(&queues, Wait::Forever)?.expect("a wait without end brings a job");
/// assert_eq!(lease.id, accepted.id);
/// client.ack(lease.id)?;
/// assert_eq!(client.stats()?.totals.acked, 1);
/// client.quit()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    server: Address,
    wire: Wire,
    replies: Replies,
    /// The command that is being sent; kept to reuse its memory.
    out: Vec<u8>,
    /// Whether every command has had its reply, so that the next reply belongs to the next command.
    in_sync: bool,
}

/// A job that the server has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// Its id.
    pub id: JobId,
    /// If there was an unfinished job with the same key: the state of that job. `id` is then its id, and no
    /// job was added.
    pub duplicate: Option<JobState>,
}

/// What [`Client::get_or_drained`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Got {
    /// A job, which this client has leased.
    Job(Lease),
    /// There is no job, and the queues are drained; these of them are paused with jobs that are ready or delayed.
    Drained(Vec<QueueName>),
    /// No job came in time.
    TimedOut,
}

/// What happens to a job after its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterFailure {
    /// It will be tried again after this long.
    RetryIn(Duration),
    /// It is dead: its attempts are spent, or the worker declared it dead.
    Dead,
}

impl Client {
    /// Connects to a server, whose [`Address`] is `HOST`, `HOST:PORT` or `unix:PATH`. A name is resolved, and
    /// all of its addresses are tried in turn, for at most 5 seconds each.
    ///
    /// # Errors
    /// [`Error::Connect`]: the text is not an address ([`BadAddress`] is the source), or the server can't be
    /// reached there; then with the reason of the last address.
    pub fn connect(server: &str) -> Result<Client, Error> {
        Client::connect_to(&parse(server)?)
    }

    /// [`Client::connect`] to an address that is parsed already.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn connect_to(server: &Address) -> Result<Client, Error> {
        let wire = Wire::connect(server, SILENCE_MAX)?;
        let replies = Replies::new(ROOM_BYTES);
        Ok(Client { server: server.clone(), wire, replies, out: Vec::new(), in_sync: true })
    }

    /// Replaces the connection by a new one to the same server. Each job that the old one had leased is
    /// charged a crash.
    ///
    /// # Errors
    /// [`Error::Connect`]; the client is then unchanged.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        *self = Client::connect_to(&self.server)?;
        Ok(())
    }

    /// The server's address.
    pub fn server(&self) -> &Address {
        &self.server
    }

    /// Sends any command and waits for its answer, which is never [`Answer::Refused`]. [`Command::Quit`] has
    /// no answer: use [`Client::quit`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the server did not execute it, or if it is a [`Command::Compat`], which this
    /// protocol has no words for; the client remains usable. [`Error::Disconnected`] and [`Error::BadReply`]:
    /// see [`Client`].
    pub fn call(&mut self, command: &Command) -> Result<Answer, Error> {
        let answer = self.exchange(command)?;
        self.in_sync = true;
        match answer {
            Answer::Refused(refusal) => Err(Error::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Sends a command and reads the answer. The caller sets `in_sync` again if the answer is a good one.
    fn exchange(&mut self, command: &Command) -> Result<Answer, Error> {
        if matches!(command, Command::Compat(_)) {
            return Err(
                Refusal::usage("only the beanstalkd dialect has this command; nothing was sent").into()
            );
        }
        self.lose_sync()?;
        self.out.clear();
        write_command(command, &mut self.out);
        self.wire.send(&self.out)?;
        self.replies.wait(&self.wire)
    }

    /// Clears `in_sync`, so that an early return leaves the client unusable. Fails if it is already.
    fn lose_sync(&mut self) -> Result<(), Error> {
        if !std::mem::replace(&mut self.in_sync, false) {
            return Err(broken("an earlier error ended this connection: connect again"));
        }
        Ok(())
    }

    /// Submits a job. When this returns, the job is durable as the server's `--fsync` promises.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::Full`](crate::Code::Full) if the server has no room now, with
    /// [`Code::Draining`](crate::Code::Draining) if it accepts no new jobs; otherwise see [`Client::call`].
    /// After [`Error::Disconnected`] the job may have been accepted: see [`retry`].
    pub fn submit(&mut self, submission: Submission) -> Result<Accepted, Error> {
        match self.call(&Command::Submit(Box::new(submission)))? {
            Answer::Accepted { id, duplicate } => Ok(Accepted { id, duplicate }),
            _ => self.unexpected_reply(),
        }
    }

    /// Leases the most urgent job of these queues, or of the queue `default` if none is given. If there is
    /// none, it blocks for at most `wait`; `None` if no job came in time.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn get(&mut self, queues: &[QueueName], wait: Wait) -> Result<Option<Lease>, Error> {
        match self.call(&Command::Lease { queues: queues.to_vec(), wait, on_drained: OnDrained::Wait })? {
            Answer::Leased(lease) => Ok(Some(lease)),
            Answer::Empty => Ok(None),
            _ => self.unexpected_reply(),
        }
    }

    /// As [`Client::get`], but the wait also ends when the queues are drained: none of their jobs is leased,
    /// and none is ready or delayed unless the queue is paused. Jobs that are done, dead or cancelled don't
    /// count.
    ///
    /// # Errors
    /// See [`Client::call`]. [`Error::Refused`] with [`Code::Usage`](crate::Code::Usage) if the server is of a
    /// version that does not know the option `drain`.
    pub fn get_or_drained(&mut self, queues: &[QueueName], wait: Wait) -> Result<Got, Error> {
        match self.call(&Command::Lease { queues: queues.to_vec(), wait, on_drained: OnDrained::End })? {
            Answer::Leased(lease) => Ok(Got::Job(lease)),
            Answer::Drained { paused } => Ok(Got::Drained(paused)),
            Answer::Empty => Ok(Got::TimedOut),
            _ => self.unexpected_reply(),
        }
    }

    /// Reports that a leased job is done. The server then forgets it, or keeps it for as long as its submitter
    /// asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotLeased`](crate::Code::NotLeased) if the lease has lapsed; another
    /// worker may have the job by now. Otherwise see [`Client::call`].
    pub fn ack(&mut self, id: JobId) -> Result<(), Error> {
        self.done(&Command::Ack { id, result: None })
    }

    /// Reports that a leased job is done, with a result. Those who wait for the job get the result, and so do
    /// those who ask for it while it is kept: see [`Submission::keep`]. Returns whether there was room for it.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn ack_with(&mut self, id: JobId, result: impl AsRef<[u8]>) -> Result<Acked, Error> {
        match self.call(&Command::Ack { id, result: Some(result.as_ref().into()) })? {
            Answer::Done => Ok(Acked::Whole),
            Answer::ResultDropped => Ok(Acked::ResultDropped),
            _ => self.unexpected_reply(),
        }
    }

    /// Reports that a leased job failed. It is tried again after its backoff, until its attempts are spent,
    /// unless the [`Failure`] says otherwise.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn fail(&mut self, id: JobId, failure: Failure) -> Result<AfterFailure, Error> {
        let (delay, dead, reason) = failure.into_parts();
        match self.call(&Command::Fail { id, delay, dead, reason })? {
            Answer::RetryIn(wait) => Ok(AfterFailure::RetryIn(wait)),
            Answer::Dead => Ok(AfterFailure::Dead),
            _ => self.unexpected_reply(),
        }
    }

    /// Returns a leased job undone; it is ready again after `delay`. No attempt is charged.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn return_job(&mut self, id: JobId, delay: Duration) -> Result<(), Error> {
        self.done(&Command::Return { id, delay })
    }

    /// Renews a lease: it lasts for `ttr` from now, or for the job's own time to run.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn touch(&mut self, id: JobId, ttr: Option<Duration>) -> Result<(), Error> {
        self.done(&Command::Touch { id, ttr, progress: None, note: None })
    }

    /// Looks at a job without leasing it. The reason of its last failure is only in [`Client::list`].
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) if there is no such job; otherwise
    /// see [`Client::call`].
    pub fn peek(&mut self, id: JobId) -> Result<Job, Error> {
        match self.call(&Command::Peek { id })? {
            Answer::Found(found) => Ok(*found),
            _ => self.unexpected_reply(),
        }
    }

    /// Lists the jobs of a queue or a batch, oldest first: those in `state`, or all; at most `limit` (the server gives at
    /// most 1000, or about 1 MiB); those after the job `after`, or from the first. To get them all, repeat it
    /// with the last id as `after` until nothing comes.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn list(
        &mut self,
        of: impl Into<Group>,
        state: Option<JobState>,
        limit: u32,
        after: Option<JobId>,
    ) -> Result<Vec<Job>, Error> {
        let lines = self.lines(&Command::List { of: of.into(), state, limit, after })?;
        self.parsed(lines.iter().map(|line| job_json::read(line.as_bytes())).collect())
    }

    /// Looks for jobs, the newest first: at most `limit` (and 1000), with ids below `before`. One call looks at the
    /// newest 10,000 at most. Returns what it has found and, if it has not looked at all, the `before` with which to go
    /// on.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn search(
        &mut self,
        search: Search,
        limit: u32,
        before: Option<JobId>,
    ) -> Result<(Vec<Job>, Option<JobId>), Error> {
        match self.call(&Command::Search { search: Box::new(search), limit, before })? {
            Answer::Searched { lines, before, .. } => {
                let jobs = lines.iter().map(|line| job_json::read(line)).collect();
                Ok((self.parsed(jobs)?, before))
            }
            _ => self.unexpected_reply(),
        }
    }

    /// Makes a dead job, or a queue's dead jobs, ready again. Returns how many.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) if the job is not dead; otherwise
    /// see [`Client::call`].
    pub fn retry(&mut self, retry: Retry) -> Result<u64, Error> {
        self.count(&Command::Retry(retry))
    }

    /// Deletes a job in any state.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) if there is no such job, with
    /// [`Code::NotLeased`](crate::Code::NotLeased) if another connection has leased it; otherwise see
    /// [`Client::call`].
    pub fn delete(&mut self, id: JobId) -> Result<(), Error> {
        self.done(&Command::Delete { id })
    }

    /// Deletes the jobs of a queue or a batch: those in `state`, or the ready, delayed and dead ones. Returns how
    /// many.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn purge(&mut self, of: impl Into<Group>, state: Option<JobState>) -> Result<u64, Error> {
        self.count(&Command::Purge { of: of.into(), state })
    }

    /// Pauses a queue: it gives out no jobs for `time`, or until it is resumed.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn pause(&mut self, queue: &QueueName, time: Option<Duration>) -> Result<(), Error> {
        self.done(&Command::Pause { queue: queue.clone(), time })
    }

    /// Resumes a paused queue.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn resume(&mut self, queue: &QueueName) -> Result<(), Error> {
        self.done(&Command::Resume { queue: queue.clone() })
    }

    /// The server's counters.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn stats(&mut self) -> Result<ServerStats, Error> {
        let lines = self.lines(&Command::Stats { queue: None })?;
        self.parsed(figures::server_stats(&lines))
    }

    /// A queue's counters.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) if there is no such queue; otherwise
    /// see [`Client::call`].
    pub fn queue_stats(&mut self, queue: &QueueName) -> Result<QueueStats, Error> {
        let lines = self.lines(&Command::Stats { queue: Some(queue.clone()) })?;
        self.parsed(figures::queue_stats(&lines))
    }

    /// All queues that exist.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn queues(&mut self) -> Result<Vec<QueueSummary>, Error> {
        let lines = self.lines(&Command::Queues)?;
        self.parsed(lines.iter().map(|line| figures::queue_summary(line)).collect())
    }

    /// Checks that the server answers.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn ping(&mut self) -> Result<(), Error> {
        match self.call(&Command::Ping)? {
            Answer::Pong => Ok(()),
            _ => self.unexpected_reply(),
        }
    }

    /// Ends the connection. Jobs that are still leased go back to their queues, without a charged attempt.
    /// Blocks until the server has closed the connection.
    ///
    /// # Errors
    /// [`Error::Disconnected`] if the connection breaks first, [`Error::BadReply`] if the server answers
    /// anything.
    pub fn quit(mut self) -> Result<(), Error> {
        match self.exchange(&Command::Quit) {
            Err(Error::Disconnected { source: None }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.unexpected_reply(),
        }
    }

    fn done(&mut self, command: &Command) -> Result<(), Error> {
        match self.call(command)? {
            Answer::Done => Ok(()),
            _ => self.unexpected_reply(),
        }
    }

    fn count(&mut self, command: &Command) -> Result<u64, Error> {
        match self.call(command)? {
            Answer::Count(count) => Ok(count),
            _ => self.unexpected_reply(),
        }
    }

    fn lines(&mut self, command: &Command) -> Result<Vec<String>, Error> {
        let Answer::Lines(lines) = self.call(command)? else { return self.unexpected_reply() };
        match lines.into_iter().map(String::from_utf8).collect() {
            Ok(texts) => Ok(texts),
            Err(_) => self.unexpected_reply(),
        }
    }

    fn parsed<T>(&mut self, read: Option<T>) -> Result<T, Error> {
        read.map_or_else(|| self.unexpected_reply(), Ok)
    }

    /// The reply is not one to the command that was sent, so the two sides are out of sync.
    fn unexpected_reply<T>(&mut self) -> Result<T, Error> {
        self.in_sync = false;
        Err(Error::BadReply("it is the reply to another command".into()))
    }
}

/// Parses an address.
fn parse(server: &str) -> Result<Address, Error> {
    server.parse().map_err(|bad: BadAddress| Error::Connect {
        server: server.into(),
        source: io::Error::new(io::ErrorKind::InvalidInput, bad),
    })
}

/// The error for a connection that this side has declared broken.
fn broken(why: &'static str) -> Error {
    Error::Disconnected { source: Some(io::Error::new(io::ErrorKind::NotConnected, why)) }
}
