//! A client of the server: connects, sends commands, understands replies. It speaks the wire like anybody
//! else's program and knows nothing of the server's insides.
//!
//! - [`Client`] is one connection, used by one thread: a method a command, each waiting for its reply.
//! - [`Client::submit_all`] sends many jobs ahead of their replies, which is what makes it fast.
//! - [`retry`] connects again after a failure, and says which commands may be repeated.
//! - [`feed`] carries out a text of commands, for the `client` program and programs like it; [`print`](mod@print)
//!   shows the replies as text or as JSON.
//!
//! What the client deliberately does not do: it has no pool of connections and no thread of its own between
//! calls. Open a second client for a second thread; leases belong to the connection that got them.

use std::time::Duration;

use crate::error::Error;
use crate::job::{Job, JobId, JobState, Lease, QueueName, Submission};
use crate::protocol::native::{Answer, job_json, write_command};
use crate::protocol::{Command, Retry, Wait};
use crate::stats::{QueueStats, ServerStats};

mod address;
mod batch;
pub mod feed;
mod figures;
mod json;
pub mod print;
pub mod retry;
mod script;
pub(crate) mod wire;

pub use address::{Address, BadAddress};
pub use batch::BatchError;
pub use figures::QueueSummary;

use wire::{Replies, Wire};

/// How much one read takes at first, in bytes: the buffer grows with what comes.
const ROOM_BYTES: usize = 8 * 1024;

/// Commands that are sent ahead go out in writes of at most so many.
const WRITE_COMMANDS_MAX: usize = 1024;

/// A write goes out when it has come to this much, even if it holds fewer commands.
const WRITE_BYTES: usize = 64 * 1024;

/// How many writes may wait for their replies before the next goes out, beside the one whose replies are
/// coming in. It keeps the server from being stopped by replies that this side is slow to take, and bounds
/// what is not known when a connection breaks: at most 17 writes.
const WRITES_AHEAD: usize = 16;

/// How long the server's machine may leave what was sent to it unacknowledged before the connection breaks.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// One connection to a server.
///
/// Every method sends one command and blocks until its reply has come; but for [`Client::get`], servers reply
/// at once. What was leased through a client goes back to its queue when the client is dropped, and that
/// counts as a crash of the job: end with [`Client::quit`] to hand it back without blame.
///
/// After an error that leaves it unknown what the server has received or will send ([`Error::Disconnected`],
/// [`Error::BadReply`]), the client refuses all further calls: an answer could be taken for another
/// command's. Connect again with [`Client::reconnect`].
///
/// ```no_run
/// use djqs::{Client, Submission};
///
/// let mut client = Client::connect("127.0.0.1:11300")?;
/// let accepted = client.submit(Submission::new("CLEANUP_LOGS: 2s_delay"))?;
/// println!("job {} is accepted", accepted.id);
/// # Ok::<(), djqs::Error>(())
/// ```
#[derive(Debug)]
pub struct Client {
    server: Address,
    wire: Wire,
    replies: Replies,
    /// The command on its way out; kept for its room.
    out: Vec<u8>,
    /// Whether every command that was sent has had its reply, so that the next reply is the next command's.
    in_step: bool,
}

/// A job that the server has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// Its number.
    pub id: JobId,
    /// Where an unfinished job with the same key was there before: that job's state. `id` is then its number,
    /// and no job was added.
    pub duplicate: Option<JobState>,
}

/// What becomes of a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterFailure {
    /// It will be tried again after this long.
    RetryIn(Duration),
    /// It is dead: its attempts are spent, or the worker gave it up.
    Dead,
}

/// How a job failed: the reason, and what to do with the job.
///
/// ```
/// use std::time::Duration;
/// use djqs::client::Failure;
///
/// let try_again = Failure::new("no disk"); // After the job's own backoff.
/// let try_later = Failure::new("no disk").retry_in(Duration::from_secs(3600));
/// let no_use = Failure::new("no such user").dead();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    reason: String,
    delay: Option<Duration>,
    dead: bool,
}

impl Failure {
    /// A failure for this reason, which may be empty. At most
    /// [`MAX_REASON_BYTES`](crate::job::MAX_REASON_BYTES) of it are kept with the job.
    pub fn new(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), ..Failure::default() }
    }

    /// Has the job tried again after this long, instead of its own backoff.
    pub fn retry_in(mut self, delay: Duration) -> Failure {
        self.delay = Some(delay);
        self
    }

    /// Makes the job dead at once, whatever attempts it has left.
    pub fn dead(mut self) -> Failure {
        self.dead = true;
        self
    }
}

impl Client {
    /// Connects to a server, whose [`Address`] is `HOST`, `HOST:PORT` or `unix:PATH`. A name is resolved, and
    /// all of its addresses are tried in turn, for at most 5 seconds each.
    ///
    /// # Errors
    /// [`Error::Connect`]: the text is not an address ([`BadAddress`] is the source), or the server can't be
    /// reached there; then with the reason of the last address.
    pub fn connect(server: &str) -> Result<Client, Error> {
        let address = server.parse().map_err(|bad: BadAddress| Error::Connect {
            server: server.into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, bad),
        })?;
        Client::connect_to(&address)
    }

    /// [`Client::connect`] to an address that is parsed already.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn connect_to(server: &Address) -> Result<Client, Error> {
        let wire = Wire::connect(server, SILENCE_MAX)?;
        let replies = Replies::new(ROOM_BYTES);
        Ok(Client { server: server.clone(), wire, replies, out: Vec::new(), in_step: true })
    }

    /// Gives the connection up and makes a new one to the same server. What the old one had leased counts as
    /// crashed.
    ///
    /// # Errors
    /// [`Error::Connect`]; the client is then as it was.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        *self = Client::connect_to(&self.server)?;
        Ok(())
    }

    /// The server, as it was given to [`Client::connect`].
    pub fn server(&self) -> &Address {
        &self.server
    }

    /// Sends any command and waits for its answer, which is never [`Answer::Refused`]. [`Command::Quit`] has
    /// no answer: use [`Client::quit`].
    ///
    /// # Errors
    /// [`Error::Refused`] where the server did not carry it out; the client can go on.
    /// [`Error::Disconnected`] and [`Error::BadReply`]: see [`Client`].
    pub fn call(&mut self, command: &Command) -> Result<Answer, Error> {
        let answer = self.exchange(command)?;
        self.in_step = true;
        match answer {
            Answer::Refused(refusal) => Err(Error::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Sends a command and takes what answers it. The client is out of step until the caller knows better.
    fn exchange(&mut self, command: &Command) -> Result<Answer, Error> {
        self.step_out()?;
        self.out.clear();
        write_command(command, &mut self.out);
        self.wire.send(&self.out)?;
        self.replies.wait(&self.wire)
    }

    /// Marks the client as out of step, so that whatever ends early leaves it so.
    fn step_out(&mut self) -> Result<(), Error> {
        if !std::mem::replace(&mut self.in_step, false) {
            return Err(broken("an earlier error ended this connection: connect again"));
        }
        Ok(())
    }

    /// Submits a job. Once this returns, it is as safe as the server's policy promises.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::Full`](crate::Code::Full) where the server has no room now, with
    /// [`Code::Draining`](crate::Code::Draining) where it takes no new jobs; else see [`Client::call`]. After
    /// [`Error::Disconnected`] the job may have been accepted: see [`retry`].
    pub fn submit(&mut self, submission: Submission) -> Result<Accepted, Error> {
        match self.call(&Command::Submit(submission))? {
            Answer::Accepted { id, duplicate } => Ok(Accepted { id, duplicate }),
            _ => self.surprised(),
        }
    }

    /// Leases the next job of these queues (of the queue `default` where none is named). Blocks as long as
    /// `wait` says if there is none; `None` where there was none in time.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn get(&mut self, queues: &[QueueName], wait: Wait) -> Result<Option<Lease>, Error> {
        match self.call(&Command::Lease { queues: queues.to_vec(), wait })? {
            Answer::Leased(lease) => Ok(Some(lease)),
            Answer::Empty => Ok(None),
            _ => self.surprised(),
        }
    }

    /// Says that a leased job is done. It is gone then.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotLeased`](crate::Code::NotLeased) where the lease has lapsed: the
    /// job may be with another worker by now. Else see [`Client::call`].
    pub fn ack(&mut self, id: JobId) -> Result<(), Error> {
        self.done(&Command::Ack { id })
    }

    /// Reports that a leased job failed. It is tried again after its backoff, until its attempts are spent,
    /// unless the [`Failure`] says otherwise.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn fail(&mut self, id: JobId, failure: Failure) -> Result<AfterFailure, Error> {
        let Failure { delay, dead, reason } = failure;
        let reason = Some(reason).filter(|reason| !reason.is_empty()).map(Into::into);
        match self.call(&Command::Fail { id, delay, dead, reason })? {
            Answer::RetryIn(wait) => Ok(AfterFailure::RetryIn(wait)),
            Answer::Dead => Ok(AfterFailure::Dead),
            _ => self.surprised(),
        }
    }

    /// Returns a leased job undone; it is ready again after `delay`. No attempt is charged.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn return_job(&mut self, id: JobId, delay: Duration) -> Result<(), Error> {
        self.done(&Command::Return { id, delay })
    }

    /// Lets a lease start anew, for `ttr` from now, or for the job's own time to run.
    ///
    /// # Errors
    /// As for [`Client::ack`].
    pub fn touch(&mut self, id: JobId, ttr: Option<Duration>) -> Result<(), Error> {
        self.done(&Command::Touch { id, ttr })
    }

    /// Looks at a job without leasing it. The reason of its last failure is only in [`Client::list`].
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) where there is none; else see
    /// [`Client::call`].
    pub fn peek(&mut self, id: JobId) -> Result<Job, Error> {
        match self.call(&Command::Peek { id })? {
            Answer::Found(found) => Ok(*found),
            _ => self.surprised(),
        }
    }

    /// Lists a queue's jobs, oldest first: those in `state`, or all; at most `limit` (the server gives at most
    /// 1000, or about 1 MiB); those after the job `after`, or from the first. To get them all, repeat it with the
    /// last id as `after` until nothing comes.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn list(
        &mut self,
        queue: &QueueName,
        state: Option<JobState>,
        limit: u32,
        after: Option<JobId>,
    ) -> Result<Vec<Job>, Error> {
        let lines = self.lines(&Command::List { queue: queue.clone(), state, limit, after })?;
        self.understood(lines.iter().map(|line| job_json::read(line.as_bytes())).collect())
    }

    /// Brings a dead job, or a queue's dead jobs, back to ready; says how many.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) where the job is not dead; else see
    /// [`Client::call`].
    pub fn retry(&mut self, retry: Retry) -> Result<u64, Error> {
        self.count(&Command::Retry(retry))
    }

    /// Removes a job, in whatever state it is.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) where there is none, with
    /// [`Code::NotLeased`](crate::Code::NotLeased) where it is leased by another connection; else see
    /// [`Client::call`].
    pub fn delete(&mut self, id: JobId) -> Result<(), Error> {
        self.done(&Command::Delete { id })
    }

    /// Removes a queue's jobs, those in `state` or all but the leased ones; says how many.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn purge(&mut self, queue: &QueueName, state: Option<JobState>) -> Result<u64, Error> {
        self.count(&Command::Purge { queue: queue.clone(), state })
    }

    /// Lets a queue hand out nothing, for `time` or until it is resumed.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn pause(&mut self, queue: &QueueName, time: Option<Duration>) -> Result<(), Error> {
        self.done(&Command::Pause { queue: queue.clone(), time })
    }

    /// Lets a paused queue hand out jobs again.
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
        self.understood(figures::server_stats(&lines))
    }

    /// A queue's counters.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Code::NotFound`](crate::Code::NotFound) if there is no such queue; else see
    /// [`Client::call`].
    pub fn queue_stats(&mut self, queue: &QueueName) -> Result<QueueStats, Error> {
        let lines = self.lines(&Command::Stats { queue: Some(queue.clone()) })?;
        self.understood(figures::queue_stats(&lines))
    }

    /// All queues that exist.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn queues(&mut self) -> Result<Vec<QueueSummary>, Error> {
        let lines = self.lines(&Command::Queues)?;
        self.understood(lines.iter().map(|line| figures::queue_summary(line)).collect())
    }

    /// Asks whether the server is there.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn ping(&mut self) -> Result<(), Error> {
        match self.call(&Command::Ping)? {
            Answer::Pong => Ok(()),
            _ => self.surprised(),
        }
    }

    /// Says goodbye: what is still leased goes back to its queue, and no attempt is charged for it. Blocks
    /// until the server has closed.
    ///
    /// # Errors
    /// [`Error::Disconnected`] where the connection breaks before, [`Error::BadReply`] where anything is
    /// answered.
    pub fn quit(mut self) -> Result<(), Error> {
        match self.exchange(&Command::Quit) {
            Err(Error::Disconnected { source: None }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.surprised(),
        }
    }

    fn done(&mut self, command: &Command) -> Result<(), Error> {
        match self.call(command)? {
            Answer::Done => Ok(()),
            _ => self.surprised(),
        }
    }

    fn count(&mut self, command: &Command) -> Result<u64, Error> {
        match self.call(command)? {
            Answer::Count(count) => Ok(count),
            _ => self.surprised(),
        }
    }

    fn lines(&mut self, command: &Command) -> Result<Vec<String>, Error> {
        let Answer::Lines(lines) = self.call(command)? else { return self.surprised() };
        match lines.into_iter().map(String::from_utf8).collect() {
            Ok(texts) => Ok(texts),
            Err(_) => self.surprised(),
        }
    }

    fn understood<T>(&mut self, read: Option<T>) -> Result<T, Error> {
        read.map_or_else(|| self.surprised(), Ok)
    }

    /// A reply of the protocol, but not one to the command that was sent: the two sides are out of step.
    fn surprised<T>(&mut self) -> Result<T, Error> {
        self.in_step = false;
        Err(Error::BadReply("it answers something other than what was asked".into()))
    }
}

/// A connection that this side knows to be broken.
fn broken(why: &'static str) -> Error {
    Error::Disconnected { source: Some(std::io::Error::new(std::io::ErrorKind::NotConnected, why)) }
}
