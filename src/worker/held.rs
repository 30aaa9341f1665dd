//! One lease: renewed while the job's handler runs, and ended with a report.
//!
//! A lease is lost when the server says so, when the connection breaks, or when no renewal was confirmed in
//! time. From then on another worker may have the job: the run is cancelled at once, and nothing is reported.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, Sender, bounded, never, select};
use log::{debug, info, warn};

use super::Shared;
use super::connection::{Event, Incoming};
use super::control::Phase;
use super::job::WorkerJob;
use super::link::{Greeted, Greeting, Link, Unreachable};
use super::outcome::Outcome;
use super::run_log::{RunEnd, log_end, log_start};
use super::running::Tie;
use crate::client::retry::Backoff;
use crate::clock::Moment;
use crate::error::{Code, Refusal};
use crate::job::{Lease, MAX_DURATION, MAX_REASON_BYTES};
use crate::printable::{cut, printable};
use crate::protocol::Command;
use crate::protocol::native::{Answer, format_duration};

/// How long to wait for the reply to a report.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How long a handler may take to end after the grace period; a program gets KILL before, see
/// [`super::process::STOP_KILL_AFTER_MAX`].
const GENTLE_PATIENCE: Duration = Duration::from_secs(4);

/// How long anything may take once the worker has to stop at once.
const AT_ONCE_PATIENCE: Duration = Duration::from_secs(2);

/// A job for a runner, and where the runner sends its outcome.
pub(super) struct Run {
    pub(super) job: Arc<WorkerJob>,
    pub(super) done: Sender<Outcome>,
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
    link: &'a mut Option<Link>,
    /// A new link that is being made, after the first was lost.
    making: Option<Greeting>,
    /// When to begin to make it.
    make_at: Option<Moment>,
    backoff: Backoff,
    wake: &'a Receiver<()>,
    job: Arc<WorkerJob>,
    done: Receiver<Outcome>,
    tie: Arc<Tie>,
    news: Receiver<()>,
    /// Whether to ask at once whether the lease has ended.
    in_doubt: bool,
    /// When the last TOUCH was sent.
    last_touch: Moment,
    /// When the TOUCH was sent that has no reply yet.
    touched: Option<Moment>,
    /// Why the lease has ended without a report.
    lost: Option<LeaseEnd>,
    /// Why the link is closed, if it is and no other is made.
    closed: Option<String>,
    /// When to abandon a handler that does not end.
    abandon_at: Option<Moment>,
}

/// What a slot does when its link is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterLoss {
    MakeAnother,
    GiveUp,
}

impl<'a> HeldLease<'a> {
    /// Runs the leased job, renews the lease, and reports the outcome. The second value says why the
    /// link has closed meanwhile, if it has.
    pub(super) fn hold(
        shared: &'a Shared,
        link: &'a mut Option<Link>,
        wake: &'a Receiver<()>,
        runs: &Sender<Run>,
        lease: Lease,
    ) -> (RunEnd, Option<String>) {
        let started = shared.now();
        let job = Arc::new(WorkerJob::new(lease));
        let (tie, news) = shared.running.begins(job.id(), job.ttr(), started);
        log_start(&job);
        let (sender, done) = bounded(1);
        // There is a runner for each slot. If there were none, `done` would be disconnected.
        let _ = runs.send(Run { job: job.clone(), done: sender });
        let mut held = HeldLease {
            shared,
            link,
            making: None,
            make_at: None,
            backoff: Backoff::default(),
            wake,
            done,
            job,
            tie,
            news,
            in_doubt: false,
            last_touch: started,
            touched: None,
            lost: None,
            closed: None,
            abandon_at: None,
        };
        let end = held.until_it_ends();
        shared.running.ended(&held.tie);
        log_end(&held.job, shared.now().until(started), &end);
        (end, held.closed)
    }

    fn until_it_ends(&mut self) -> RunEnd {
        loop {
            self.follow_phase();
            self.make_link();
            self.renew();
            let now = self.shared.now();
            if self.abandon_at.is_some_and(|at| at <= now) {
                return self.abandon();
            }
            let incoming = self.incoming();
            select! {
                recv(self.done) -> outcome => return self.finish(outcome.unwrap_or_else(|_| no_runner())),
                recv(incoming) -> incoming => match self.receive(Some(incoming)) {
                    Some(Event::Closed(why)) => {
                        let after = self.link_lost(why.clone());
                        if after == AfterLoss::GiveUp {
                            self.lose(why);
                        }
                    }
                    Some(Event::Answer(answer)) => self.handle_touch_reply(&answer),
                    Some(Event::Connected) => self.in_doubt = true,
                    None => {}
                },
                recv(self.news) -> _ => self.in_doubt = true,
                recv(self.wake) -> _ => {}
                default(self.next_deadline().map_or(Duration::MAX, |at| at.until(now))) => {}
            }
        }
    }

    /// What arrives on the link, or on the one that is being made.
    fn incoming(&self) -> Receiver<Incoming> {
        match (&self.making, &self.link) {
            (Some(greeting), _) => greeting.incoming().clone(),
            (None, Some(link)) => link.connection.incoming().clone(),
            (None, None) => never(),
        }
    }

    /// Handles what arrived, or that nothing did in time. [`Event::Connected`] means that another link is made.
    fn receive(&mut self, incoming: Option<Result<Incoming, RecvError>>) -> Option<Event> {
        if let Some(greeting) = self.making.take() {
            match greeting.proceed(self.shared, incoming) {
                Ok(Greeted::NotYet(same)) => self.making = Some(same),
                Ok(Greeted::Yes(link)) => {
                    *self.link = Some(link);
                    self.backoff.reset();
                    return Some(Event::Connected);
                }
                Err(unreachable) => self.make_later(&unreachable),
            }
            return None;
        }
        Some(self.link.as_mut()?.connection.take(incoming?))
    }

    /// The lease may outlive its connection, if the server can do that and the worker wants it.
    fn link_lost(&mut self, why: String) -> AfterLoss {
        self.touched = None;
        let resumes = |link: &mut Link| link.abilities.hold && !self.shared.resume.is_zero();
        match self.link.take_if(resumes) {
            Some(link) if self.lost.is_none() => {
                let now = self.shared.now();
                self.shared.presence.lost(link.epoch, &why);
                self.shared.running.cast_adrift(&self.tie, now);
                self.make_at = Some(now);
                AfterLoss::MakeAnother
            }
            link => {
                *self.link = link.or(self.link.take());
                self.closed = Some(why);
                AfterLoss::GiveUp
            }
        }
    }

    /// Begins to make another link, or sees that it takes too long.
    fn make_link(&mut self) {
        let now = self.shared.now();
        if self.making.as_ref().is_some_and(|greeting| greeting.deadline() <= now) {
            self.receive(None);
        }
        if self.make_at.is_some_and(|at| at <= now) {
            self.make_at = None;
            match Greeting::begin(self.shared) {
                Ok(greeting) => self.making = Some(greeting),
                Err(unreachable) => self.make_later(&unreachable),
            }
        }
    }

    fn make_later(&mut self, unreachable: &Unreachable) {
        self.shared.presence.not_reached(&unreachable.why);
        let wait = self.backoff.next_wait();
        let wait = unreachable.retry_after.map_or(wait, |asked| asked.max(wait));
        self.make_at = Some(self.shared.now().after(wait));
    }

    /// When to give up because the server was not reached for too long after the link was lost.
    fn resume_until(&self) -> Option<Moment> {
        self.tie.state().adrift.map(|since| since.after(self.shared.resume))
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

    /// Sends a TOUCH when it is due, which it is not while BEAT renews the lease. The lease is lost if none was
    /// confirmed in time.
    fn renew(&mut self) {
        let now = self.shared.now();
        if self.lost.is_some() {
        } else if self.valid_until() <= now {
            self.lose(format!("it was not renewed within {}", format_duration(self.job.ttr())));
            // The server must not see a late TOUCH and renew the lease.
            if let Some(link) = self.link {
                link.connection.fail("the server did not answer a TOUCH in time".into());
            }
        } else if self.resume_until().is_some_and(|at| at <= now) {
            let time = format_duration(self.shared.resume);
            self.lose(format!("the connection was lost, and the server not reached within {time}"));
        } else if self.link.is_none() && self.tie.state().is_lost {
            self.lose("the server says that it has ended".into());
        } else if self.touch_at() <= now && self.touched.is_none() {
            let Some(link) = self.link else { return };
            link.connection.send(&Command::Touch {
                id: self.job.id(),
                ttr: None,
                progress: None,
                note: None,
            });
            self.touched = Some(now);
            self.last_touch = now;
            self.in_doubt = false;
        }
    }

    fn valid_until(&self) -> Moment {
        self.tie.state().confirmed.after(self.job.ttr())
    }

    fn touch_at(&self) -> Moment {
        let last = self.tie.state().confirmed.max(self.last_touch);
        match &*self.link {
            _ if self.in_doubt => last,
            // By then a BEAT should have renewed it.
            Some(link) if link.abilities.beat => last.after(self.job.ttr() / 2),
            _ => last.after(self.job.ttr() / 3),
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        let is_up = self.link.is_some() && self.making.is_none();
        let touch = (is_up && self.touched.is_none()).then(|| self.touch_at());
        let lease =
            self.lost.is_none().then(|| touch.map_or(self.valid_until(), |at| at.min(self.valid_until())));
        let phase = match self.shared.control.phase() {
            Phase::Fetch | Phase::Pause => self.shared.drain_until,
            Phase::Finish { since } if self.abandon_at.is_none() => Some(since.after(self.shared.grace)),
            Phase::Finish { .. } | Phase::AtOnce => None,
        };
        [lease, phase, self.abandon_at, self.link_deadline()].into_iter().flatten().min()
    }

    /// When something is to be done about a lost link.
    fn link_deadline(&self) -> Option<Moment> {
        let adrift = self.resume_until().filter(|_| self.lost.is_none());
        [adrift, self.make_at, self.making.as_ref().map(Greeting::deadline)].into_iter().flatten().min()
    }

    fn handle_touch_reply(&mut self, answer: &Answer) {
        let sent = self.touched.take();
        match (answer, sent) {
            (Answer::Done, Some(sent)) => self.tie.confirm(sent),
            (Answer::Refused(refusal), Some(_)) if lease_is_gone(refusal) => self.end_of_lease(refusal),
            (Answer::Refused(refusal), Some(_)) => {
                debug!("TOUCH of job {} refused: {refusal}", self.job.id());
            }
            (other, _) => self.fail_link(format!("the server answered TOUCH with {other:?}")),
        }
    }

    fn fail_link(&mut self, why: String) {
        if let Some(link) = self.link {
            link.connection.fail(why);
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
            (self.making, self.make_at) = (None, None);
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
            Ok((Answer::Refused(refusal), _)) if refusal.code == Code::TooBig => {
                warn!(event = "result_dropped", id = id.0, reason = &*refusal.text;
                    "job {id} is done without its result, which is too long for the server: {}", refusal.text);
                self.ask(&Command::Ack { id, result: None })
            }
            answer => answer,
        };
        let (answer, is_second) = match answer {
            Ok((answer, is_second)) => (Ok(answer), is_second),
            Err(why) => (Err(why), false),
        };
        match answer {
            // The first ACK arrived, and only its answer was lost with the link.
            Ok(Answer::Refused(refusal))
                if is_second && refusal.code == Code::NotFound && matches!(command, Command::Ack { .. }) =>
            {
                RunEnd::Done
            }
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
                self.fail_link(format!("the server answered a report with {other:?}"));
                RunEnd::Lost { why: "the server's answer made no sense, so the job may run again".into() }
            }
            Err(why) => {
                RunEnd::Lost { why: format!("no answer to the report, so the job may run again: {why}") }
            }
        }
    }

    /// Sends a report and waits for its reply. If the link is lost meanwhile, sends it again on another one: the
    /// server has either seen it, or it waits for it. Also returns whether it was sent again.
    fn ask(&mut self, command: &Command) -> Result<(Answer, bool), String> {
        let (begun, mut sends) = (self.shared.now(), 0);
        if let Some(link) = self.link.as_mut().filter(|_| self.making.is_none()) {
            link.connection.send(command);
            sends += 1;
        }
        loop {
            self.make_link();
            let now = self.shared.now();
            let hurry = self.shared.control.phase() == Phase::AtOnce;
            let patience = if hurry { AT_ONCE_PATIENCE } else { ANSWER_PATIENCE };
            let left = begun.after(patience).until(now);
            if left.is_zero() || self.link.is_none() && self.resume_until().is_some_and(|at| at <= now) {
                let why = format!("the server was silent for {}", format_duration(now.until(begun)));
                self.fail_link(why.clone());
                return Err(why);
            }
            let incoming = self.incoming();
            let left = self
                .link_deadline()
                .filter(|_| self.link.is_none())
                .map_or(left, |at| left.min(at.until(now)));
            select! {
                recv(incoming) -> incoming => match self.receive(Some(incoming)) {
                    Some(Event::Connected) => {
                        if let Some(link) = self.link {
                            link.connection.send(command);
                            sends += 1;
                        }
                    }
                    Some(Event::Closed(why)) => {
                        let after = self.link_lost(why.clone());
                        if after == AfterLoss::GiveUp {
                            return Err(why);
                        }
                    }
                    // Replies come in order: the first may be that of a TOUCH.
                    Some(Event::Answer(_)) if self.touched.take().is_some() => {}
                    Some(Event::Answer(answer)) => return Ok((answer, sends > 1)),
                    None => {}
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
