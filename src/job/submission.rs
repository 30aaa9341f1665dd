//! A job as it is submitted, and what may be asked for with it.

use std::sync::Arc;
use std::time::Duration;

use super::names::{BadKey, BadQueueName, BatchName, Key, Priority, QueueName};

/// The longest duration a job may ask for (delay, time to run, backoff): 2³²−1 seconds, beanstalkd's limit.
pub const MAX_DURATION: Duration = Duration::from_secs(u32::MAX as u64);

/// The longest wait between two attempts, however often a job has failed: one hour.
pub const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// What a submitter may ask for, beyond queue and body. [`Submission`] has the same setters; options of their
/// own are for many submissions that share them.
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
    /// How long the job is kept, with its result, once it is done. Its key holds for that time too. Default
    /// zero: it is gone at once. At most [`MAX_DURATION`].
    pub keep: Duration,
    /// The batch that the job counts in. Default none.
    pub batch: Option<BatchName>,
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
            keep: Duration::ZERO,
            batch: None,
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

    /// Sets how long the job is kept once it is done: see [`Options::keep`].
    pub fn keep(mut self, keep: Duration) -> Options {
        self.keep = keep;
        self
    }

    /// Sets the batch, or that there is none: see [`Options::batch`].
    pub fn batch(mut self, batch: impl Into<Option<BatchName>>) -> Options {
        self.batch = batch.into();
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
        self.options = self.options.priority(priority);
        self
    }

    /// Sets the delay: see [`Options::delay`].
    pub fn delay(mut self, delay: Duration) -> Submission {
        self.options = self.options.delay(delay);
        self
    }

    /// Sets the time to run: see [`Options::ttr`].
    pub fn ttr(mut self, ttr: Duration) -> Submission {
        self.options = self.options.ttr(ttr);
        self
    }

    /// Sets the limit of attempts: see [`Options::attempts`].
    pub fn attempts(mut self, attempts: u32) -> Submission {
        self.options = self.options.attempts(attempts);
        self
    }

    /// Sets the wait after the first failure: see [`Options::backoff`].
    pub fn backoff(mut self, backoff: Duration) -> Submission {
        self.options = self.options.backoff(backoff);
        self
    }

    /// Sets how long the job is kept once it is done: see [`Options::keep`].
    pub fn keep(mut self, keep: Duration) -> Submission {
        self.options = self.options.keep(keep);
        self
    }

    /// Sets the batch: see [`Options::batch`].
    ///
    /// # Errors
    /// [`BadQueueName`] if the text breaks the naming rule.
    pub fn batch(mut self, name: &str) -> Result<Submission, BadQueueName> {
        self.options.batch = Some(BatchName::new(name)?);
        Ok(self)
    }
}
