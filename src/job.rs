//! The basic types: a job, its id, queue, priority and key, and what its submitter may ask for.
//!
//! Every type here is valid by construction: a [`QueueName`] obeys the naming rule, a [`Key`] the rule for keys. Text
//! is parsed once, at the edge, by the dialects in [`crate::protocol`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smol_str::SmolStr;

#[cfg(feature = "serde")]
use crate::error::BadJson;

/// The longest duration a job may ask for (delay, time to run, backoff): 2³²−1 seconds, beanstalkd's limit.
pub const MAX_DURATION: Duration = Duration::from_secs(u32::MAX as u64);

/// The longest wait between two attempts, however often a job has failed: one hour.
pub const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// The longest unique key, in bytes.
pub const MAX_KEY_BYTES: usize = 200;

/// The longest queue name, in bytes (beanstalkd's limit for tubes).
pub const MAX_QUEUE_NAME_BYTES: usize = 200;

/// The longest failure reason that is kept with a job, in bytes; a longer one is cut.
pub const MAX_REASON_BYTES: usize = 1024;

/// A job's id: a number that counts up from 1. No two jobs of a data directory ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A job's urgency: the lowest number goes first. 0 is the most urgent; the default is 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u32);

impl Priority {
    /// Jobs of a priority below this, the default, are counted as urgent, as in beanstalkd.
    pub const URGENT_BELOW: Priority = Priority(1024);
}

impl Default for Priority {
    fn default() -> Self {
        Priority(1024)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a queue: 1 to 200 bytes of `A-Z a-z 0-9 + / ; . $ _ ( ) -`, not beginning with `-`.
///
/// The rule is beanstalkd's rule for tubes, so that a name is valid in both dialects.
///
/// ```
/// use djqs::QueueName;
/// assert!(QueueName::new("mail.outgoing").is_ok());
/// assert!(QueueName::new("-mail").is_err());
/// assert_eq!(QueueName::default().as_str(), "default");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(SmolStr);

/// A text is not a queue name. The error's text states the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadQueueName;

impl fmt::Display for BadQueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a queue name is 1 to 200 bytes of A-Z a-z 0-9 + / ; . $ _ ( ) - and does not begin with -",
        )
    }
}

impl std::error::Error for BadQueueName {}

impl QueueName {
    /// Makes a name of `text`.
    ///
    /// # Errors
    /// [`BadQueueName`] if the text breaks the rule.
    pub fn new(text: &str) -> Result<QueueName, BadQueueName> {
        QueueName::from_bytes(text.as_bytes())
    }

    /// Makes a name of bytes as they come from a socket.
    ///
    /// # Errors
    /// [`BadQueueName`] if the bytes break the rule.
    pub fn from_bytes(bytes: &[u8]) -> Result<QueueName, BadQueueName> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"+/;.$_()-".contains(b);
        if bytes.is_empty()
            || bytes.len() > MAX_QUEUE_NAME_BYTES
            || bytes[0] == b'-'
            || !bytes.iter().all(allowed)
        {
            return Err(BadQueueName);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadQueueName)?;
        Ok(QueueName(SmolStr::new(text)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for QueueName {
    /// `default`, the queue of a command that does not name one.
    fn default() -> Self {
        QueueName(SmolStr::new_static("default"))
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for QueueName {
    type Err = BadQueueName;
    fn from_str(text: &str) -> Result<Self, BadQueueName> {
        QueueName::new(text)
    }
}

/// A unique key: 1 to 200 bytes of UTF-8 without spaces or control characters, not ending in `:`.
///
/// Keys are unique within a queue: while a job of the queue has the key, a second submission with it gets the id
/// of that job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// A text is not a key. The error's text states the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a key is 1 to 200 bytes of UTF-8 without spaces or control characters and does not end in :",
        )
    }
}

impl std::error::Error for BadKey {}

impl Key {
    /// Makes a key of `text`.
    ///
    /// # Errors
    /// [`BadKey`] if the text breaks the rule.
    pub fn new(text: &str) -> Result<Key, BadKey> {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_KEY_BYTES || text.ends_with(':') || text.contains(bad) {
            return Err(BadKey);
        }
        Ok(Key(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The state of a job.
///
/// ```text
///             TASK delay=…            TASK
///                  |                    |
///                  v      time is up    v        GET             ACK
///              [delayed] ----------> [ready] ----------> [leased] ----> gone
///                  ^                  ^  ^                 |  |
///                  |  FAIL: backoff   |  |  RETURN, lease  |  |
///                  +------------------|--|--lapsed or lost-+  | FAIL, attempts spent
///                                     |  +-----------------+  v
///                                     +----- RETRY ------ [dead]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// A worker may get it at any moment.
    Ready,
    /// Waits: it was submitted or returned with a delay, or backs off after a failure.
    Delayed,
    /// A worker has it, until its lease lapses.
    Leased,
    /// Its attempts are spent, or a worker declared it dead. It is kept until it is retried or deleted.
    Dead,
}

impl JobState {
    /// All four, in the order in which they are counted and listed.
    pub const ALL: [JobState; 4] = [JobState::Ready, JobState::Delayed, JobState::Leased, JobState::Dead];

    /// The state's name on the wire: `ready`, `delayed`, `leased`, `dead`.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Ready => "ready",
            JobState::Delayed => "delayed",
            JobState::Leased => "leased",
            JobState::Dead => "dead",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<JobState> {
        JobState::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a submitter may ask for, beyond queue and body. [`Submission`] has the same setters; options of their own
/// are for many submissions that share them.
///
/// ```
/// use std::time::Duration;
/// use djqs::{Options, QueueName, Submission};
///
/// let (logs, often) = (QueueName::new("logs")?, Options::default().attempts(100).backoff(Duration::from_secs(5)));
/// let jobs = (1..=9).map(|host| Submission::new(format!("CLEANUP_LOGS: web{host}")).to(&logs).options(&often));
/// # assert_eq!(jobs.clone().last().unwrap().options.attempts, 100);
/// # assert!(jobs.clone().all(|job| job.queue == logs));
/// # Ok::<(), djqs::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The lowest goes first. Default 1024.
    pub priority: Priority,
    /// How long the job waits before it is ready. Default none; at most [`MAX_DURATION`].
    pub delay: Duration,
    /// How long a lease lasts unless it is renewed. Default 60 s; at least 1 ms, at most [`MAX_DURATION`].
    pub ttr: Duration,
    /// The number of failures and crashes after which the job is dead; 0 for never. Default 10.
    pub attempts: u32,
    /// The wait after the first failure, doubled each time, at most [`MAX_BACKOFF`]. Default 1 s.
    pub backoff: Duration,
    /// While a job of the queue has this key, a second submission gets that job's id. Default none.
    pub key: Option<Key>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            priority: Priority::default(),
            delay: Duration::ZERO,
            ttr: Duration::from_secs(60),
            attempts: 10,
            backoff: Duration::from_secs(1),
            key: None,
        }
    }
}

impl Options {
    /// Sets the priority: see [`Options::priority`].
    pub fn priority(mut self, priority: u32) -> Options {
        self.priority = Priority(priority);
        self
    }

    /// Sets the delay: see [`Options::delay`].
    pub fn delay(mut self, delay: Duration) -> Options {
        self.delay = delay;
        self
    }

    /// Sets the time to run: see [`Options::ttr`].
    pub fn ttr(mut self, ttr: Duration) -> Options {
        self.ttr = ttr;
        self
    }

    /// Sets the limit of attempts: see [`Options::attempts`].
    pub fn attempts(mut self, attempts: u32) -> Options {
        self.attempts = attempts;
        self
    }

    /// Sets the wait after the first failure: see [`Options::backoff`].
    pub fn backoff(mut self, backoff: Duration) -> Options {
        self.backoff = backoff;
        self
    }

    /// Sets the unique key, or that there is none: see [`Options::key`].
    pub fn key(mut self, key: impl Into<Option<Key>>) -> Options {
        self.key = key.into();
        self
    }
}

/// A job as it is submitted: a body, and what else is asked for.
///
/// ```
/// use std::time::Duration;
/// use djqs::Submission;
///
/// # fn main() -> Result<(), djqs::Error> {
/// let plain = Submission::new("CLEANUP_LOGS: 2s_delay");
/// let invoice = Submission::new("INVOICE: 2024-07")
///     .queue("finance")?
///     .key("invoice:2024-07")?
///     .attempts(3)
///     .backoff(Duration::from_secs(30));
/// assert_eq!(invoice.queue.as_str(), "finance");
/// assert!(Submission::new("x").queue("-no-name").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Submission {
    /// The queue it goes to.
    pub queue: QueueName,
    /// What else is asked for.
    pub options: Options,
    /// The work, as any bytes; the server does not interpret it.
    pub body: Arc<[u8]>,
}

impl Submission {
    /// A submission to the queue `default` with default [`Options`]. The body may be text or any bytes.
    pub fn new(body: impl AsRef<[u8]>) -> Submission {
        Submission { queue: QueueName::default(), options: Options::default(), body: body.as_ref().into() }
    }

    /// A submission whose body is a task name and a value as JSON: `RESIZE: {"width":9}`. [`Lease::json`] reads it.
    ///
    /// # Errors
    /// [`BadJson`] if the value can't be JSON, such as a map whose keys are not text.
    #[cfg(feature = "serde")]
    pub fn json<T: serde_core::Serialize + ?Sized>(task: &str, value: &T) -> Result<Submission, BadJson> {
        let json = serde_json::to_string(value).map_err(BadJson)?;
        Ok(Submission::new(format!("{task}: {json}")))
    }

    /// Sets the queue. Names are checked here, so that a submission can't fail later because of its name. See
    /// [`Submission::to`] for a name that exists already.
    ///
    /// # Errors
    /// [`BadQueueName`] if the text breaks the naming rule.
    pub fn queue(mut self, name: &str) -> Result<Submission, BadQueueName> {
        self.queue = QueueName::new(name)?;
        Ok(self)
    }

    /// Sets the queue to one whose name is checked already.
    pub fn to(mut self, queue: &QueueName) -> Submission {
        self.queue = queue.clone();
        self
    }

    /// Replaces all options.
    pub fn options(mut self, options: &Options) -> Submission {
        self.options = options.clone();
        self
    }

    /// Sets the unique key: see [`Options::key`].
    ///
    /// # Errors
    /// [`BadKey`] if the text breaks the rule for keys.
    pub fn key(mut self, key: &str) -> Result<Submission, BadKey> {
        self.options.key = Some(Key::new(key)?);
        Ok(self)
    }

    /// Sets the priority: see [`Options::priority`].
    pub fn priority(mut self, priority: u32) -> Submission {
        self.options.priority = Priority(priority);
        self
    }

    /// Sets the delay: see [`Options::delay`].
    pub fn delay(mut self, delay: Duration) -> Submission {
        self.options.delay = delay;
        self
    }

    /// Sets the time to run: see [`Options::ttr`].
    pub fn ttr(mut self, ttr: Duration) -> Submission {
        self.options.ttr = ttr;
        self
    }

    /// Sets the limit of attempts: see [`Options::attempts`].
    pub fn attempts(mut self, attempts: u32) -> Submission {
        self.options.attempts = attempts;
        self
    }

    /// Sets the wait after the first failure: see [`Options::backoff`].
    pub fn backoff(mut self, backoff: Duration) -> Submission {
        self.options.backoff = backoff;
        self
    }
}

/// How a job's past attempts ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A worker reported a failure. Counts as an attempt.
    pub failures: u32,
    /// Its lease lapsed, or its worker disconnected. Counts as an attempt.
    pub crashes: u32,
    /// A worker returned it undone. Does not count as an attempt.
    pub returns: u32,
}

impl Counts {
    /// Failures and crashes together: the attempts that are used up.
    pub fn spent(&self) -> u32 {
        self.failures.saturating_add(self.crashes)
    }
}

/// A leased job, as its worker receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The job's number.
    pub id: JobId,
    /// The queue it came from.
    pub queue: QueueName,
    /// Which attempt this is: 1 for the first.
    pub attempt: u32,
    /// How long the lease lasts unless it is renewed.
    pub ttr: Duration,
    /// The work.
    pub body: Arc<[u8]>,
}

impl Lease {
    /// A first lease of a job in the queue `default`, for 60 s. Servers give leases; a test of a handler makes its own
    /// and sets the fields that it needs.
    pub fn new(id: JobId, body: impl AsRef<[u8]>) -> Lease {
        let (queue, ttr) = (QueueName::default(), Options::default().ttr);
        Lease { id, queue, attempt: 1, ttr, body: body.as_ref().into() }
    }

    /// The body before and after its first `: `. Without one, all of it and nothing.
    pub(crate) fn task_and_args(&self) -> (&[u8], &[u8]) {
        match self.body.windows(2).position(|pair| pair == b": ") {
            Some(at) => (&self.body[..at], &self.body[at + 2..]),
            None => (&self.body, b""),
        }
    }

    /// Reads the JSON in the body: all of a body that begins with `{` or `[`, otherwise the part after the task
    /// name and its `: `, as in `RESIZE: {"width":9}`.
    ///
    /// ```
    /// use djqs::{Client, Submission, protocol::Wait};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Size {
    ///     width: u32,
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = djqs::Broker::in_memory(djqs::broker::Config::default());
    /// # let server = djqs::server::Server::bind("127.0.0.1:0".parse()?, broker, Default::default())?;
    /// # let address = server.local_addr()?.to_string();
    /// # std::thread::spawn(move || server.run());
    /// let mut client = Client::connect(&address)?;
    /// client.submit(Submission::json("RESIZE", &Size { width: 9 })?.attempts(2))?;
    /// let lease = client.get(&[], Wait::Forever)?.expect("there is a job");
    /// assert_eq!(lease.json::<Size>()?.width, 9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BadJson`] if that is not JSON, or not a `T`.
    #[cfg(feature = "serde")]
    pub fn json<T: serde_core::de::DeserializeOwned>(&self) -> Result<T, BadJson> {
        let json = match (self.body.first(), self.task_and_args()) {
            (Some(b'{' | b'['), _) | (_, (_, [])) => &self.body[..],
            (_, (_, args)) => args,
        };
        serde_json::from_slice(json).map_err(BadJson)
    }
}

/// A job and all that is known about it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// The job's number.
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Its state.
    pub state: JobState,
    /// Its priority now.
    pub priority: Priority,
    /// How long each lease of it lasts.
    pub ttr: Duration,
    /// Its limit of attempts; 0 for none.
    pub attempts: u32,
    /// Its wait after the first failure.
    pub backoff: Duration,
    /// Its unique key.
    pub key: Option<Key>,
    /// When it was submitted, to the second.
    pub created: SystemTime,
    /// The rest of its delay or of its lease; `None` for ready and dead jobs.
    pub remaining: Option<Duration>,
    /// How its past attempts ended.
    pub counts: Counts,
    /// Why its last attempt failed, as its worker reported it.
    pub reason: Option<Arc<str>>,
    /// The work.
    pub body: Arc<[u8]>,
}

impl Job {
    /// A ready job that was submitted in 1970 with default [`Options`]. Servers show jobs; a test makes its own and sets
    /// the fields that it needs.
    pub fn new(id: JobId, body: impl AsRef<[u8]>) -> Job {
        let Submission { queue, options, body } = Submission::new(body);
        Job {
            id,
            queue,
            state: JobState::Ready,
            priority: options.priority,
            ttr: options.ttr,
            attempts: options.attempts,
            backoff: options.backoff,
            key: options.key,
            created: SystemTime::UNIX_EPOCH,
            remaining: None,
            counts: Counts::default(),
            reason: None,
            body,
        }
    }

    /// The number of the attempt that is running, or would run next: 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.counts.spent().saturating_add(1)
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> Option<serde_json::Value> {
        let (id, queue, ttr) = (JobId(1), QueueName::default(), Duration::from_secs(60));
        Lease { id, queue, attempt: 1, ttr, body: body.into() }.json().ok()
    }

    #[test]
    fn json_is_the_body_or_what_follows_the_task_name() {
        let object = serde_json::json!({ "a": 1 });
        assert_eq!(read(br#"{"a": 1}"#), Some(object.clone()));
        assert_eq!(read(br#"RESIZE: {"a": 1}"#), Some(object.clone()));
        assert_eq!(read(b"[1, 2]"), Some(serde_json::json!([1, 2])));
        assert_eq!(read(b"RESIZE: 7"), Some(7.into()));
        assert_eq!(read(b"7"), Some(7.into()));
        assert_eq!(
            (read(b""), read(b"RESIZE"), read(b"RESIZE: {"), read(b"RESIZE: \xff")),
            (None, None, None, None)
        );
        let submission = Submission::json("RESIZE", &object).unwrap();
        assert_eq!(&submission.body[..], br#"RESIZE: {"a":1}"#);
        assert!(Submission::json("RESIZE", &std::collections::HashMap::from([((1, 2), 3)])).is_err());
    }
}
