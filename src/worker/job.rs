//! What a handler gets: the job, and whether it is cancelled.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use parking_lot::Mutex;

#[cfg(feature = "serde")]
use crate::job::BadJson;
use crate::job::{JobId, Lease, QueueName};

/// A job that this worker holds, as its handler sees it.
///
/// ```
/// use djqs::worker::WorkerJob;
/// use djqs::{JobId, Lease};
///
/// // As a test of a handler would make one.
/// let job = WorkerJob::new(Lease::new(JobId(7), "SEND_NOTIFICATION: user 9: hello"));
/// assert_eq!(job.task(), "SEND_NOTIFICATION");
/// assert_eq!(job.args(), "user 9: hello");
/// ```
#[derive(Debug)]
pub struct WorkerJob {
    lease: Lease,
    gently: Latch,
    at_once: Latch,
    called_off: AtomicBool,
}

impl WorkerJob {
    /// Makes a job from a lease. A worker does this itself; a test of a handler may need it.
    pub fn new(lease: Lease) -> WorkerJob {
        WorkerJob { lease, gently: Latch::new(), at_once: Latch::new(), called_off: AtomicBool::new(false) }
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.lease.id
    }

    /// The queue it came from.
    pub fn queue(&self) -> &QueueName {
        &self.lease.queue
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// How long its lease lasts. The worker renews it while the handler runs.
    pub fn ttr(&self) -> Duration {
        self.lease.ttr
    }

    /// The body, as its submitter sent it.
    pub fn body(&self) -> &[u8] {
        &self.lease.body
    }

    /// The task name: the part of the body before its first `: ` if that has only `A-Z a-z 0-9 _ . -`.
    /// Otherwise there is none, and this is empty.
    pub fn task(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.split().0)
    }

    /// The part of the body after the task name and its `: `, or all of a body without a task name. Invalid
    /// UTF-8 is replaced by `U+FFFD`.
    pub fn args(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.split().1)
    }

    /// Reads the JSON in the body: see [`Lease::json`].
    ///
    /// # Errors
    /// [`BadJson`] if it is not JSON, or not a `T`.
    #[cfg(feature = "serde")]
    pub fn json<T: serde_core::de::DeserializeOwned>(&self) -> Result<T, BadJson> {
        self.lease.json()
    }

    /// Whether the run should end: somebody cancelled the job, its lease is lost, or the worker has to stop now.
    ///
    /// A long-running handler should check this now and then, and return early with any outcome. If the job
    /// was cancelled or the lease is lost, nothing is reported, since nobody waits for it or another worker has it. If the worker has to stop, the job is
    /// returned without charging an attempt, unless it is [`super::Outcome::Done`].
    pub fn cancelled(&self) -> bool {
        self.gently.is_set()
    }

    /// Waits until the job is cancelled, at most for `timeout`. Returns whether it is.
    ///
    /// Handlers should sleep with this: it returns early when the job is cancelled.
    pub fn wait_cancelled(&self, timeout: Duration) -> bool {
        matches!(self.gently.light().recv_timeout(timeout), Err(RecvTimeoutError::Disconnected))
    }

    /// The body, shared.
    pub(super) fn shared_body(&self) -> std::sync::Arc<[u8]> {
        self.lease.body.clone()
    }

    /// The task name and what follows its `: `. Without a task name, nothing and all of the body.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        self.lease.task_and_args()
    }

    /// Asks the run to end, because somebody cancelled the job. It has all the time that it needs.
    pub(super) fn end_called_off(&self) {
        self.called_off.store(true, Ordering::SeqCst);
        self.gently.set();
    }

    /// Whether somebody cancelled the job.
    pub(super) fn is_called_off(&self) -> bool {
        self.called_off.load(Ordering::SeqCst)
    }

    /// Asks the run to end, and gives it time.
    pub(super) fn end_gently(&self) {
        self.gently.set();
    }

    /// Tells the run to end at once.
    pub(super) fn end_at_once(&self) {
        self.gently.set();
        self.at_once.set();
    }

    /// Ready, with an error, from the moment the run is asked to end.
    pub(super) fn gently(&self) -> &Receiver<Infallible> {
        self.gently.light()
    }

    /// Ready, with an error, from the moment the run has to end at once.
    pub(super) fn at_once(&self) -> &Receiver<Infallible> {
        self.at_once.light()
    }
}

/// A flag that is set once, and that any number of threads can wait for: a channel through which nothing is
/// sent, and whose sender is dropped.
#[derive(Debug)]
struct Latch {
    switch: Mutex<Option<Sender<Infallible>>>,
    light: Receiver<Infallible>,
}

impl Latch {
    fn new() -> Latch {
        let (switch, light) = bounded(1);
        Latch { switch: Mutex::new(Some(switch)), light }
    }

    fn set(&self) {
        self.switch.lock().take();
    }

    fn is_set(&self) -> bool {
        matches!(self.light.try_recv(), Err(TryRecvError::Disconnected))
    }

    fn light(&self) -> &Receiver<Infallible> {
        &self.light
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(body: &[u8]) -> WorkerJob {
        WorkerJob::new(Lease::new(JobId(1), body))
    }

    #[test]
    fn task_name_stands_before_the_first_colon_and_space() {
        assert_eq!(job(b"SEND: a: b").split(), (&b"SEND"[..], &b"a: b"[..]));
        assert_eq!(job(b"v1.send_all-9: ").split(), (&b"v1.send_all-9"[..], &b""[..]));
        for body in ["", "SEND", "SEND:", "/etc/hostname", ": x", "a:b: c", "a b: c", "\u{e4}: c"] {
            assert_eq!(
                job(body.as_bytes()).split(),
                (&b""[..], body.as_bytes()),
                "{body:?} has no task name"
            );
        }
        let json = job(br#"{"id":0,"to":"a: b"}"#);
        assert_eq!((&*json.task(), &*json.args()), ("", r#"{"id":0,"to":"a: b"}"#));
    }

    #[test]
    fn cancelled_stays_set() {
        let job = job(b"x");
        assert!(!job.cancelled() && !job.wait_cancelled(Duration::ZERO));
        job.end_gently();
        job.end_gently();
        assert!(job.cancelled() && job.wait_cancelled(Duration::MAX) && job.cancelled());
        assert_eq!(job.at_once().try_recv(), Err(TryRecvError::Empty));
        job.end_at_once();
        assert_eq!(job.at_once().try_recv(), Err(TryRecvError::Disconnected));
    }
}
