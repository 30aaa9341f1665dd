//! One lease: renewed while the job's handler runs, and ended with a report.
//!
//! A lease is lost when the server says so, when the connection breaks, or when no renewal was confirmed in
//! time. From then on another worker may have the job: the run is cancelled at once, and nothing is reported.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{debug, info, warn};

use super::Shared;
use super::connection::{Connection, Event};
use super::control::Phase;
use super::job::WorkerJob;
use super::outcome::Outcome;
use crate::clock::Moment;
use crate::error::{Code, Refusal};
use crate::job::{Lease, MAX_DURATION, MAX_REASON_BYTES};
use crate::printable::{cut, printable, printable_up_to};
use crate::protocol::Command;
use crate::protocol::native::{Answer, format_duration};

/// How long to wait for the reply to a report.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How long a handler may take to end after the grace period; a program gets KILL before, see
/// [`super::process::STOP_KILL_AFTER_MAX`].
const GENTLE_PATIENCE: Duration = Duration::from_secs(4);

/// How long anything may take once the worker has to stop at once.
const AT_ONCE_PATIENCE: Duration = Duration::from_secs(2);

/// How many bytes of a job's body are logged.
const BODY_SHOWN_MAX: usize = 80;

/// A job for a runner, and where the runner sends its outcome.
pub(super) struct Run {
    pub(super) job: Arc<WorkerJob>,
    pub(super) done: Sender<Outcome>,
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunEnd {
    Done,
    Failed {
        retry_in: Duration,
        reason: String,
    },
    Dead {
        reason: String,
    },
    Returned {
        reason: String,
    },
    /// Somebody cancelled the job.
    Cancelled {
        why: String,
    },
    Lost {
        why: String,
    },
}

/// How a lease ended without a report, and why.
#[derive(Clone, Debug)]
enum LeaseEnd {
    Cancelled(String),
    Lost(String),
}

/// One lease.
pub(super) struct HeldLease<'a> {
    shared: &'a Shared,
    connection: &'a mut Connection,
    wake: &'a Receiver<()>,
    job: Arc<WorkerJob>,
    done: Receiver<Outcome>,
    /// Until when the server has confirmed the lease.
    valid_until: Moment,
    /// When the next TOUCH is due.
    touch_at: Moment,
    /// When the TOUCH was sent that has no reply yet.
    touched: Option<Moment>,
    /// Why the lease has ended without a report.
    lost: Option<LeaseEnd>,
    /// Why the connection is closed.
    closed: Option<String>,
    /// When to abandon a handler that does not end.
    abandon_at: Option<Moment>,
}

impl<'a> HeldLease<'a> {
    /// Runs the leased job, renews the lease, and reports the outcome. The second value says why the
    /// connection has closed meanwhile, if it has.
    pub(super) fn hold(
        shared: &'a Shared,
        connection: &'a mut Connection,
        wake: &'a Receiver<()>,
        runs: &Sender<Run>,
        lease: Lease,
    ) -> (RunEnd, Option<String>) {
        let started = shared.now();
        let job = Arc::new(WorkerJob::new(lease));
        log_start(&job);
        let (sender, done) = bounded(1);
        // There is a runner for each slot. If there were none, `done` would be disconnected.
        let _ = runs.send(Run { job: job.clone(), done: sender });
        let mut held = HeldLease {
            shared,
            connection,
            wake,
            done,
            valid_until: started.after(job.ttr()),
            touch_at: started.after(job.ttr() / 3),
            job,
            touched: None,
            lost: None,
            closed: None,
            abandon_at: None,
        };
        let end = held.until_it_ends();
        log_end(&held.job, shared.now().until(started), &end);
        (end, held.closed)
    }

    fn until_it_ends(&mut self) -> RunEnd {
        loop {
            self.follow_phase();
            self.renew();
            let now = self.shared.now();
            if self.abandon_at.is_some_and(|at| at <= now) {
                return self.abandon();
            }
            let incoming = self.connection.incoming().clone();
            select! {
                recv(self.done) -> outcome => return self.finish(outcome.unwrap_or_else(|_| no_runner())),
                recv(incoming) -> incoming => {
                    let event = self.connection.take(incoming);
                    self.handle(event);
                }
                recv(self.wake) -> _ => {}
                default(self.next_deadline().map_or(Duration::MAX, |at| at.until(now))) => {}
            }
        }
    }

    /// Cancels the run if the worker has to stop.
    fn follow_phase(&mut self) {
        self.shared.end_if_time_is_up();
        let now = self.shared.now();
        match self.shared.control.phase() {
            Phase::Fetch | Phase::Pause => {}
            Phase::Finish { since } if since.after(self.shared.grace) > now => {}
            Phase::Finish { .. } if self.job.is_called_off() => {
                // Its program has had its TERM.
                self.job.end_at_once();
                self.abandon_at.get_or_insert(now.after(GENTLE_PATIENCE));
            }
            Phase::Finish { .. } => {
                self.job.end_gently();
                self.abandon_at.get_or_insert(now.after(GENTLE_PATIENCE));
            }
            Phase::AtOnce => {
                self.job.end_at_once();
                let at = now.after(AT_ONCE_PATIENCE);
                self.abandon_at = Some(self.abandon_at.map_or(at, |earlier| earlier.min(at)));
            }
        }
    }

    /// Sends a TOUCH when it is due. The lease is lost if none was confirmed in time.
    fn renew(&mut self) {
        let now = self.shared.now();
        if self.lost.is_some() {
        } else if self.valid_until <= now {
            self.lose(format!("it was not renewed within {}", format_duration(self.job.ttr())));
            // The server must not see a late TOUCH and renew the lease.
            self.connection.fail("the server did not answer a TOUCH in time".into());
        } else if self.touch_at <= now && self.touched.is_none() {
            self.connection.send(&Command::Touch {
                id: self.job.id(),
                ttr: None,
                progress: None,
                note: None,
            });
            self.touched = Some(now);
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        let lease = match (&self.lost, self.touched) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(self.valid_until),
            (None, None) => Some(self.touch_at.min(self.valid_until)),
        };
        let phase = match self.shared.control.phase() {
            Phase::Fetch | Phase::Pause => self.shared.drain_until,
            Phase::Finish { since } if self.abandon_at.is_none() => Some(since.after(self.shared.grace)),
            Phase::Finish { .. } | Phase::AtOnce => None,
        };
        [lease, phase, self.abandon_at].into_iter().flatten().min()
    }

    /// Reads replies while the handler runs.
    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected => {}
            Event::Closed(why) => self.connection_closed(why),
            Event::Answer(answer) => self.handle_touch_reply(&answer),
        }
    }

    fn connection_closed(&mut self, why: String) {
        self.lose(why.clone());
        self.closed = Some(why);
    }

    fn handle_touch_reply(&mut self, answer: &Answer) {
        let sent = self.touched.take();
        match (answer, sent) {
            (Answer::Done, Some(sent)) => {
                self.valid_until = sent.after(self.job.ttr());
                self.touch_at = sent.after(self.job.ttr() / 3);
            }
            (Answer::Refused(refusal), Some(_)) if lease_is_gone(refusal) => self.end_of_lease(refusal),
            (Answer::Refused(refusal), Some(sent)) => {
                debug!("TOUCH of job {} refused: {refusal}", self.job.id());
                self.touch_at = sent.after(self.job.ttr() / 3);
            }
            (other, _) => self.connection.fail(format!("the server answered TOUCH with {other:?}")),
        }
    }

    /// The server says that the lease has ended.
    fn end_of_lease(&mut self, refusal: &Refusal) {
        match refusal.cancelled {
            true => self.call_off(refusal.text.to_string()),
            false => self.lose(refusal.to_string()),
        }
    }

    /// Somebody cancelled the job: its run has the time to end well, since no other worker will get it.
    fn call_off(&mut self, why: String) {
        if self.lost.is_none() {
            let id = self.job.id();
            info!(event = "cancelled", id = id.0; "job {id} was cancelled, ending its run");
            self.job.end_called_off();
            self.lost = Some(LeaseEnd::Cancelled(why));
        }
    }

    fn lose(&mut self, why: String) {
        if self.lost.is_none() {
            let id = self.job.id();
            warn!(event = "lease_lost", id = id.0, reason = why.as_str();
                "lost the lease of job {id}, ending its run: {}", printable(why.as_bytes()));
            self.job.end_at_once();
            self.lost = Some(LeaseEnd::Lost(why));
        }
    }

    /// Abandons a handler that does not end, because the worker must stop.
    fn abandon(&mut self) -> RunEnd {
        let id = self.job.id();
        warn!(event = "left_behind", id = id.0; "job {id} does not end although it was cancelled: abandoned and returned");
        self.shared.abandon_runner();
        self.finish(Outcome::returned())
    }

    /// Reports the handler's outcome.
    fn finish(&mut self, outcome: Outcome) -> RunEnd {
        match self.lost.take() {
            Some(LeaseEnd::Cancelled(why)) => return RunEnd::Cancelled { why },
            Some(LeaseEnd::Lost(why)) => return RunEnd::Lost { why },
            None => {}
        }
        let id = self.job.id();
        let returned = |delay: Duration| Command::Return { id, delay: delay.min(MAX_DURATION) };
        let failed = |delay: Option<Duration>, dead, reason: &str| {
            let delay = delay.map(|delay| delay.min(MAX_DURATION));
            let reason = Some(cut(reason, MAX_REASON_BYTES)).filter(|reason| !reason.is_empty());
            Command::Fail { id, delay, dead, reason: reason.map(Arc::from) }
        };
        let (command, reason) = match outcome {
            Outcome::Done => (Command::Ack { id, result: None }, String::new()),
            Outcome::DoneWith { result } => (Command::Ack { id, result: Some(result.into()) }, String::new()),
            // It was asked to end, so it did not fail.
            Outcome::Retry { reason, .. } if self.job.cancelled() => (returned(Duration::ZERO), reason),
            Outcome::Retry { delay, reason } => (failed(delay, false, &reason), reason),
            Outcome::Dead { reason } => (failed(None, true, &reason), reason),
            Outcome::Return { delay } => (returned(delay), String::new()),
            Outcome::Unfit { reason, exit_code } => {
                self.shared.stop_as_unfit(&reason, exit_code);
                (returned(Duration::ZERO), reason)
            }
        };
        let answer = match self.ask(&command) {
            Ok(Answer::Refused(refusal)) if refusal.code == Code::TooBig => {
                warn!(event = "result_dropped", id = id.0, reason = &*refusal.text;
                    "job {id} is done without its result, which is too long for the server: {}", refusal.text);
                self.ask(&Command::Ack { id, result: None })
            }
            answer => answer,
        };
        match answer {
            Ok(Answer::ResultDropped) => {
                warn!(event = "result_dropped", id = id.0;
                    "job {id} is done without its result, for which the server has no room");
                RunEnd::Done
            }
            Ok(Answer::Done) if matches!(command, Command::Ack { .. }) => RunEnd::Done,
            Ok(Answer::Done) if matches!(command, Command::Return { .. }) => RunEnd::Returned { reason },
            Ok(Answer::RetryIn(retry_in)) => RunEnd::Failed { retry_in, reason },
            Ok(Answer::Dead) => RunEnd::Dead { reason },
            Ok(Answer::Refused(refusal)) if refusal.cancelled => {
                RunEnd::Cancelled { why: refusal.text.to_string() }
            }
            Ok(Answer::Refused(refusal)) => RunEnd::Lost { why: refusal.to_string() },
            Ok(other) => {
                self.connection.fail(format!("the server answered a report with {other:?}"));
                RunEnd::Lost { why: "the server's answer made no sense, so the job may run again".into() }
            }
            Err(why) => {
                RunEnd::Lost { why: format!("no answer to the report, so the job may run again: {why}") }
            }
        }
    }

    /// Sends a report and waits for its reply.
    fn ask(&mut self, command: &Command) -> Result<Answer, String> {
        self.connection.send(command);
        let sent = self.shared.now();
        loop {
            let hurry = self.shared.control.phase() == Phase::AtOnce;
            let patience = if hurry { AT_ONCE_PATIENCE } else { ANSWER_PATIENCE };
            let left = sent.after(patience).until(self.shared.now());
            if left.is_zero() {
                let why = format!("the server was silent for {}", format_duration(patience));
                self.connection.fail(why.clone());
                return Err(why);
            }
            let incoming = self.connection.incoming().clone();
            select! {
                recv(incoming) -> incoming => match self.connection.take(incoming) {
                    Event::Connected => {}
                    Event::Closed(why) => {
                        self.closed = Some(why.clone());
                        return Err(why);
                    }
                    // Replies come in order: the first may be that of a TOUCH.
                    Event::Answer(_) if self.touched.take().is_some() => {}
                    Event::Answer(answer) => return Ok(answer),
                },
                recv(self.wake) -> _ => {}
                default(left) => {}
            }
        }
    }
}

fn no_runner() -> Outcome {
    Outcome::retry("the worker's own thread for it has ended")
}

fn lease_is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::NotLeased | Code::NotFound)
}

/// The body for a log line: escaped and shortened.
fn shown(job: &WorkerJob) -> String {
    printable_up_to(job.body(), BODY_SHOWN_MAX)
}

fn log_start(job: &WorkerJob) {
    let (id, queue, attempt) = (job.id().0, job.queue().as_str(), job.attempt());
    let (task, body) = (job.task(), shown(job));
    let task = cut(&task, BODY_SHOWN_MAX);
    info!(event = "started", id = id, queue = queue, attempt = attempt, task = task, body = body.as_str();
        "started job {id} queue={queue} attempt={attempt}: {body}");
}

fn log_end(job: &WorkerJob, took: Duration, end: &RunEnd) {
    let (id, queue, attempt) = (job.id().0, job.queue().as_str(), job.attempt());
    let (level, outcome, retry_in, reason) = match end {
        RunEnd::Done => (log::Level::Info, "done", None, ""),
        RunEnd::Failed { retry_in, reason } => (log::Level::Warn, "failed", Some(*retry_in), reason.as_str()),
        RunEnd::Dead { reason } => (log::Level::Warn, "dead", None, reason.as_str()),
        RunEnd::Returned { reason } => (log::Level::Info, "returned", None, reason.as_str()),
        RunEnd::Cancelled { why } => (log::Level::Info, "cancelled", None, why.as_str()),
        RunEnd::Lost { why } => (log::Level::Warn, "lost", None, why.as_str()),
    };
    let retry_in = retry_in.map(|wait| format_duration(wait).to_string()).unwrap_or_default();
    let seconds = took.as_millis() as f64 / 1000.0;
    let next = if retry_in.is_empty() { String::new() } else { format!(" retry_in={retry_in}") };
    let colon = if reason.is_empty() { "" } else { ": " };
    let body = shown(job);
    log::log!(level, event = "ended", id = id, queue = queue, attempt = attempt, seconds = seconds,
        outcome = outcome, retry_in = retry_in.as_str(), reason = reason, body = body.as_str();
        "ended job {id} queue={queue} attempt={attempt} seconds={seconds:.3} outcome={outcome}{next} ({body}){colon}{}",
        printable(reason.as_bytes()));
}
