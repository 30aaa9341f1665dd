//! What the queue should do, as simple as possible: a list of jobs, a list of queues and a list of waiting
//! sessions, which are scanned for every question.
//!
//! It follows docs/protocol.md, not the code under test, and shares only plain values with that code. Two
//! things it cannot know, so the caller passes them: the jitter of a backoff, and the order of events that
//! are due together. The callers of [`Model::fail`] and [`Model::apply`] check that these are within their
//! limits.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use djqs::internal::change::{JobSize, batch_bytes, extra_end_bytes, job_bytes, pause_bytes};
use djqs::internal::clock::{Moment, Now};
use djqs::internal::queue::state::{
    Accepted, BATCH_OVERHEAD_BYTES, COUNTED_IN_SLOT, Failed, JOB_OVERHEAD_BYTES, LAPSES_SOON,
    PAGE_OVERHEAD_BYTES, QUEUE_OVERHEAD_BYTES, SHARED_OPTIONS_OVERHEAD_BYTES, SessionEnd, SessionId, Slice,
};
use djqs::job::{BatchName, Counts, Finished, MAX_BACKOFF, MAX_REASON_BYTES};
use djqs::stats::{BatchStats, JobStats, QueueDetails, QueueStats, StateCounts, Totals};
use djqs::{Code, Job, JobId, JobState, Lease, Options, Priority, QueueName};

mod batches;
mod ends;

/// The reason of a job whose lease lapsed.
const LAPSED: &str = "the lease lapsed";
/// The reason of a job whose connection was lost.
const LOST: &str = "the connection that held the lease was lost";

/// A queue's place in the list of names.
pub(crate) type QueueNo = usize;

/// The queue that every session uses and watches until it says otherwise.
pub(crate) const DEFAULT: QueueNo = 0;

/// What a session finds when its wait has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Handed {
    /// A warning, or its queues are drained.
    Nothing,
    Lease(JobId),
    Finished(Finished),
    Batch(BatchStats),
}

/// The jobs of a queue or a batch.
#[derive(Clone, Debug)]
pub(crate) enum Of {
    Queue(QueueNo),
    Batch(BatchName),
}

impl Of {
    fn has(&self, job: &ModelJob) -> bool {
        match self {
            Of::Queue(queue) => job.queue == *queue,
            Of::Batch(batch) => job.options.batch.as_ref() == Some(batch),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// The oldest first.
    pub(crate) jobs: Vec<ModelJob>,
    /// In the order in which they were created.
    pub(crate) queues: Vec<ModelQueue>,
    /// Sessions that wait and the queues that they named, the oldest wait first.
    pub(crate) waiters: Vec<(SessionId, Vec<QueueNo>)>,
    /// Sessions that wait for the end of a job, the oldest wait first.
    pub(crate) waiters_for_ends: Vec<(SessionId, JobId)>,
    /// Sessions that wait until a batch is complete with this many jobs, the oldest wait first.
    pub(crate) waiters_for_batches: Vec<(SessionId, BatchName, u64)>,
    /// What sessions were given while they waited, and have not taken.
    pub(crate) handed: Vec<(SessionId, Handed)>,
    pub(crate) batches: Vec<batches::ModelBatch>,
    /// Sessions that end in slices.
    pub(crate) leaving: BTreeMap<SessionId, Leaving>,
    /// Like `handed`, but only for the present operation. The caller empties it.
    pub(crate) woken: Vec<(SessionId, Handed)>,
    /// Waiting sessions that want a warning before one of their leases lapses.
    pub(crate) wary: Vec<SessionId>,
    /// Waiting sessions whose wait ends when their queues are drained.
    pub(crate) drainers: Vec<SessionId>,
    /// All sessions, and what they use and watch.
    pub(crate) attached: BTreeMap<SessionId, Attached>,
    /// How many jobs have become dead.
    pub(crate) deaths: u64,
    pub(crate) last_id: JobId,
    pub(crate) totals: Totals,
    /// The counters of `default` when it was last dropped.
    pub(crate) default_past: QueuePast,
    pub(crate) memory_max: u64,
    /// What a key or a reason is taken to cost beside its text.
    pub(crate) rare_bytes: u64,
    names: Arc<[QueueName]>,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelJob {
    pub(crate) id: JobId,
    pub(crate) queue: QueueNo,
    pub(crate) options: Options,
    /// Empty once the job is done.
    pub(crate) body: Arc<[u8]>,
    pub(crate) result: Option<Arc<[u8]>>,
    pub(crate) created_s: u64,
    pub(crate) place: Place,
    pub(crate) counts: Counts,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) past: Past,
    /// The length of its present or last delay.
    pub(crate) delay: Duration,
    /// When it was last leased.
    pub(crate) leased_at: Moment,
    /// Numbers the dead jobs in the order in which they died.
    pub(crate) dead_seq: u64,
}

/// A session that ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving {
    /// Jobs that will be returned most urgent first. Their leases do not lapse any more. Some may have been
    /// cancelled since.
    sorted: Vec<(Priority, JobId)>,
    /// A job that it was given and did not take.
    unseen: Option<JobId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) uses: QueueNo,
    pub(crate) watches: Vec<QueueNo>,
    /// Whether it has ever watched another queue. Only then does its list keep `default` from being dropped.
    pub(crate) said_so: bool,
}

/// A job's statistics beside its counts, which do not survive the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Past {
    forgiven_failures: u32,
    forgiven_crashes: u32,
    /// How often it was dead and is no longer.
    deaths: u32,
    kicks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    Delayed(Moment),
    Leased(Moment, SessionId),
    Dead,
    /// Done until it is forgotten at this moment, and how long its last attempt took.
    Done(Moment, Duration),
    /// Cancelled until it is forgotten at this moment.
    Cancelled(Moment),
}

#[derive(Clone, Debug)]
pub(crate) struct ModelQueue {
    pub(crate) number: QueueNo,
    pub(crate) paused: Option<Pause>,
    pub(crate) pause_time: Option<Duration>,
    pub(crate) past: QueuePast,
}

/// A queue's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueuePast {
    pub(crate) totals: Totals,
    pub(crate) pauses: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    UntilResumed,
    Until(Moment),
}

/// Something that happens at a given time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    DelayOver(JobId),
    LeaseLapsed(JobId),
    PauseOver(QueueNo),
    Warning(SessionId),
    /// The queues that a waiting session named are drained.
    Drained(SessionId),
    /// A job that is done or cancelled has been kept long enough.
    KeptOver(JobId),
    BatchForgotten(BatchName),
}

impl ModelJob {
    pub(crate) fn state(&self) -> JobState {
        match self.place {
            Place::Ready => JobState::Ready,
            Place::Delayed(_) => JobState::Delayed,
            Place::Leased(..) => JobState::Leased,
            Place::Dead => JobState::Dead,
            Place::Done(..) => JobState::Done,
            Place::Cancelled(_) => JobState::Cancelled,
        }
    }

    fn holder(&self) -> Option<SessionId> {
        match self.place {
            Place::Leased(_, holder) => Some(holder),
            _ => None,
        }
    }

    fn content_bytes(&self) -> usize {
        self.body.len() + self.result.as_ref().map_or(0, |result| result.len())
    }

    fn memory(&self, rare_bytes: u64) -> u64 {
        let key = self.options.key.as_ref().map_or(0, |key| key.as_str().len() as u64);
        // Those of crashes are the same for all jobs.
        let reason = self.reason.as_deref().filter(|reason| ![LAPSED, LOST].contains(reason));
        let Counts { failures, crashes, returns } = self.counts;
        let often =
            [failures, crashes, returns, self.options.attempts].into_iter().any(|n| n > COUNTED_IN_SLOT);
        let rare = often || self.options.key.is_some() || reason.is_some() || self.past != Past::default();
        JOB_OVERHEAD_BYTES
            + self.content_bytes() as u64
            + if rare { rare_bytes + key + reason.map_or(0, str::len) as u64 } else { 0 }
    }
}

impl Model {
    pub(crate) fn new(names: Arc<[QueueName]>, memory_max: u64, rare_bytes: u64) -> Model {
        Model {
            jobs: Vec::new(),
            queues: Vec::new(),
            waiters: Vec::new(),
            waiters_for_ends: Vec::new(),
            waiters_for_batches: Vec::new(),
            handed: Vec::new(),
            batches: Vec::new(),
            leaving: BTreeMap::new(),
            woken: Vec::new(),
            wary: Vec::new(),
            drainers: Vec::new(),
            attached: BTreeMap::new(),
            deaths: 0,
            last_id: JobId(0),
            totals: Totals::default(),
            default_past: QueuePast::default(),
            memory_max,
            rare_bytes,
            names,
        }
    }

    // ---- verbs ----

    pub(crate) fn submit(
        &mut self,
        now: Now,
        queue: QueueNo,
        options: &Options,
        body: &Arc<[u8]>,
    ) -> Result<Accepted, Code> {
        let same_key = |job: &ModelJob| job.has_key(queue, options.key.as_ref());
        if options.key.is_some()
            && let Some(job) = self.jobs.iter().find(|job| same_key(job))
        {
            return Ok(Accepted { id: job.id, duplicate: Some(job.state()) });
        }
        let delayed = !options.delay.is_zero();
        let job = ModelJob {
            id: JobId(self.last_id.0 + 1),
            queue,
            options: options.clone(),
            body: body.clone(),
            result: None,
            created_s: now.wall_ms / 1000,
            place: if delayed { Place::Delayed(now.mono.after(options.delay)) } else { Place::Ready },
            counts: Counts::default(),
            reason: None,
            past: Past::default(),
            delay: options.delay,
            leased_at: now.mono,
            dead_seq: 0,
        };
        let queue_cost = if self.queue(queue).is_some() { 0 } else { QUEUE_OVERHEAD_BYTES };
        let shared_cost = PAGE_OVERHEAD_BYTES + SHARED_OPTIONS_OVERHEAD_BYTES;
        let batch_cost = match &options.batch {
            Some(batch) if self.batch(batch).is_none() => BATCH_OVERHEAD_BYTES,
            _ => 0,
        };
        let cost = job.memory(self.rare_bytes) + shared_cost + queue_cost + batch_cost;
        if self.memory() + cost > self.memory_max {
            return Err(Code::Full);
        }
        if let Some(batch) = &options.batch {
            self.make_batch(batch);
        }
        self.last_id = job.id;
        self.jobs.push(job);
        self.tally(queue, |totals| totals.submitted += 1);
        self.serve(now);
        Ok(Accepted { id: self.last_id, duplicate: None })
    }

    pub(crate) fn lease(&mut self, now: Now, session: SessionId, queues: &[QueueNo]) -> Option<JobId> {
        let id = self.next_ready(queues)?;
        self.lease_to(now, id, session);
        Some(id)
    }

    pub(crate) fn wait(&mut self, session: SessionId, queues: &[QueueNo], wary: bool, drains: bool) {
        if wary {
            self.wary.push(session);
        }
        if drains {
            self.drainers.push(session);
        }
        self.waiters.push((session, queues.to_vec()));
        queues.iter().for_each(|&queue| {
            self.queue_mut(queue);
        });
    }

    pub(crate) fn cancel_wait(&mut self, session: SessionId) {
        self.waiters.retain(|waiter| waiter.0 != session);
        self.wary.retain(|waiter| *waiter != session);
        self.drainers.retain(|waiter| *waiter != session);
        self.waiters_for_ends.retain(|waiter| waiter.0 != session);
        self.waiters_for_batches.retain(|waiter| waiter.0 != session);
        self.forget_unused_queues();
        self.forget_unused_batches();
    }

    /// How many sessions wait for anything.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len() + self.waiters_for_ends.len() + self.waiters_for_batches.len()
    }

    /// A lease that has ended by now is nothing.
    pub(crate) fn take_handed(&mut self, session: SessionId) -> Option<Handed> {
        let at = self.handed.iter().position(|handed| handed.0 == session)?;
        let (_, handed) = self.handed.remove(at);
        match handed {
            Handed::Lease(id) if self.job(id)?.holder() != Some(session) => None,
            handed => Some(handed),
        }
    }

    /// `seen` is the state's result. The model takes over its wait, which the caller checks.
    pub(crate) fn fail(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        (delay, dead, reason): (Option<Duration>, bool, Option<&str>),
        seen: Option<Failed>,
    ) -> Result<Failed, Code> {
        self.leased_by(session, id)?;
        self.if_there_is_room(id, |job| job.counts.failures += 1);
        if let Some(reason) = reason {
            self.if_there_is_room(id, |job| job.reason = Some(beginning(reason).into()));
        }
        let job = self.leased_by(session, id)?;
        let (queue, longest) = (job.queue, backoff(job.options.backoff, job.counts.failures));
        self.tally(queue, |totals| totals.failed += 1);
        if dead || self.attempts_spent(id) {
            self.die(id);
            return Ok(Failed::Dead);
        }
        let wait = match (delay, seen) {
            (Some(delay), _) => delay,
            (None, Some(Failed::RetryIn(wait))) if longest.contains(&wait) => wait,
            (None, _) => *longest.start(),
        };
        self.requeue(now, id, wait);
        Ok(Failed::RetryIn(wait))
    }

    pub(crate) fn return_job(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        (priority, delay): (Option<Priority>, Duration),
    ) -> Result<(), Code> {
        let job = self.leased_by(session, id)?;
        job.options.priority = priority.unwrap_or(job.options.priority);
        self.return_to_queue(now, id, delay);
        Ok(())
    }

    pub(crate) fn touch(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        ttr: Option<Duration>,
    ) -> Result<(), Code> {
        let job = self.leased_by(session, id)?;
        job.place = Place::Leased(now.mono.after(ttr.unwrap_or(job.options.ttr)), session);
        Ok(())
    }

    pub(crate) fn list(
        &self,
        of: &Of,
        state: Option<JobState>,
        limit: usize,
        after: Option<JobId>,
    ) -> Vec<JobId> {
        let wanted = |job: &&ModelJob| {
            of.has(job)
                && state.is_none_or(|state| job.state() == state)
                && after.is_none_or(|after| job.id > after)
        };
        self.jobs.iter().filter(wanted).map(|job| job.id).take(limit).collect()
    }

    pub(crate) fn retry(&mut self, now: Now, id: JobId) -> Result<(), Code> {
        match self.job(id).ok_or(Code::NotFound)?.place {
            Place::Dead => {}
            Place::Cancelled(_) => return self.restart(now, id),
            _ => return Err(Code::NotFound),
        }
        self.if_there_is_room(id, |job| {
            job.past.forgiven_failures += job.counts.failures;
            job.past.forgiven_crashes += job.counts.crashes;
            job.past.deaths += 1;
            job.past.kicks += 1;
        });
        let job = self.expect_mut(id);
        job.counts.failures = 0;
        job.counts.crashes = 0;
        let queue = job.queue;
        self.tally(queue, |totals| totals.retried += 1);
        self.requeue(now, id, Duration::ZERO);
        Ok(())
    }

    pub(crate) fn retry_all(&mut self, now: Now, of: &Of, last: JobId, most: u64) -> Slice {
        let (slice, ids) = self.slice(of, JobState::Dead, last, most);
        ids.into_iter().for_each(|id| self.retry(now, id).expect("it is dead"));
        slice
    }

    pub(crate) fn delete(&mut self, now: Now, session: SessionId, id: JobId) -> Result<(), Code> {
        let job = self.job(id).ok_or(Code::NotFound)?;
        if job.holder().is_some_and(|holder| holder != session) {
            return Err(Code::NotLeased);
        }
        self.tally(job.queue, |totals| totals.deleted += 1);
        self.remove(now, id);
        Ok(())
    }

    pub(crate) fn purge(&mut self, now: Now, of: &Of, state: JobState, last: JobId, most: u64) -> Slice {
        let (slice, ids) = self.slice(of, state, last, most);
        for id in ids {
            self.tally(self.expect(id).queue, |totals| totals.deleted += 1);
            self.remove(now, id);
        }
        slice
    }

    pub(crate) fn pause(&mut self, now: Now, queue: QueueNo, time: Option<Duration>) {
        let pause = time.map_or(Pause::UntilResumed, |time| Pause::Until(now.mono.after(time)));
        let queue = self.queue_mut(queue);
        queue.paused = Some(pause);
        queue.pause_time = time;
        queue.past.pauses += 1;
    }

    pub(crate) fn resume(&mut self, now: Now, queue: QueueNo) {
        if self.is_paused(queue) {
            self.queue_mut(queue).paused = None;
            self.serve(now);
            self.forget_unused_queues();
        }
    }

    /// Sorts at most `most` leases, or returns at most `most` sorted jobs. Returns whether the session has
    /// ended.
    pub(crate) fn end_session(
        &mut self,
        now: Now,
        session: SessionId,
        ending: SessionEnd,
        most: u64,
    ) -> bool {
        self.cancel_wait(session);
        let unseen = match self.take_handed(session) {
            Some(Handed::Lease(id)) => Some(id),
            _ => None,
        };
        let leases = self.leases_of(session);
        let next = leases.iter().take(most as usize).map(|&(_, id)| (self.expect(id).options.priority, id));
        let next: Vec<_> = next.collect();
        let leaving = self.leaving.entry(session).or_default();
        leaving.unseen = leaving.unseen.or(unseen);
        leaving.sorted.extend(next);
        if leases.len() as u64 > most {
            return false;
        }
        let Leaving { mut sorted, unseen } = leaving.clone();
        sorted.sort();
        for &(_, id) in sorted.iter().take(most as usize) {
            self.leaving.get_mut(&session).expect("it is leaving").sorted.retain(|other| other.1 != id);
            if self.job(id).and_then(ModelJob::holder) != Some(session) {
                continue;
            }
            match ending {
                // The session has never seen this job, so it did not fail.
                SessionEnd::Lost if Some(id) != unseen => self.crash(now, id, LOST),
                SessionEnd::Lost | SessionEnd::Quit => self.return_to_queue(now, id, Duration::ZERO),
            }
        }
        let ended = sorted.len() as u64 <= most;
        if ended {
            self.leaving.remove(&session);
            self.attached.remove(&session);
            self.forget_unused_queues();
        }
        ended
    }

    // ---- sessions, and the operator's verbs ----

    pub(crate) fn open_session(&mut self, session: SessionId) {
        let attached = Attached { uses: DEFAULT, watches: vec![DEFAULT], said_so: false };
        self.attached.insert(session, attached);
    }

    /// The queues of a GET that names none.
    pub(crate) fn watched(&self, session: SessionId) -> Vec<QueueNo> {
        self.attached[&session].watches.clone()
    }

    pub(crate) fn use_queue(&mut self, session: SessionId, queue: QueueNo) -> Result<(), Code> {
        if queue != DEFAULT {
            self.make_queue(queue)?;
        }
        self.attached.get_mut(&session).expect("it is open").uses = queue;
        self.forget_unused_queues();
        Ok(())
    }

    pub(crate) fn watch(&mut self, session: SessionId, queue: QueueNo) -> Result<usize, Code> {
        if !self.watched(session).contains(&queue) {
            self.make_queue(queue)?;
            let attached = self.attached.get_mut(&session).expect("it is open");
            attached.watches.push(queue);
            attached.said_so = true;
            for queue in self.watched(session) {
                self.queue_mut(queue);
            }
        }
        Ok(self.watched(session).len())
    }

    pub(crate) fn ignore(&mut self, session: SessionId, queue: QueueNo) -> Result<usize, Code> {
        let watches = &mut self.attached.get_mut(&session).expect("it is open").watches;
        if watches[..] == [queue] {
            return Err(Code::Usage);
        }
        watches.retain(|watched| *watched != queue);
        let count = watches.len();
        self.forget_unused_queues();
        Ok(count)
    }

    pub(crate) fn lapses_soon(&self, now: Now, session: SessionId) -> bool {
        self.leases_of(session).first().is_some_and(|&(until, _)| until.before(LAPSES_SOON) <= now.mono)
    }

    pub(crate) fn lease_job(&mut self, now: Now, session: SessionId, id: JobId) -> Result<(), Code> {
        match self.job(id).ok_or(Code::NotFound)?.place {
            Place::Leased(..) | Place::Done(..) | Place::Cancelled(_) => return Err(Code::NotFound),
            Place::Ready | Place::Delayed(_) => {}
            Place::Dead => self.if_there_is_room(id, |job| job.past.deaths += 1),
        }
        self.lease_to(now, id, session);
        Ok(())
    }

    pub(crate) fn bury(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        priority: Priority,
    ) -> Result<(), Code> {
        self.leased_by(session, id)?.options.priority = priority;
        self.fail(now, session, id, (None, true, None), None).map(|_| ())
    }

    pub(crate) fn kickable(&self, queue: QueueNo) -> (JobState, u64) {
        let counts = self.counts(Some(queue));
        if counts.dead > 0 { (JobState::Dead, counts.dead) } else { (JobState::Delayed, counts.delayed) }
    }

    pub(crate) fn kick(&mut self, now: Now, queue: QueueNo, from: JobState, most: u64) -> u64 {
        let mut count = 0;
        while count < most
            && let Some(&id) = self.in_order(queue, from).first()
        {
            self.kick_job(now, id).expect("it is dead or delayed");
            count += 1;
        }
        count
    }

    pub(crate) fn kick_job(&mut self, now: Now, id: JobId) -> Result<(), Code> {
        let job = self.job_mut(id).ok_or(Code::NotFound)?;
        match job.place {
            Place::Dead => self.retry(now, id),
            Place::Delayed(_) => {
                self.if_there_is_room(id, |job| job.past.kicks += 1);
                self.requeue(now, id, Duration::ZERO);
                Ok(())
            }
            Place::Ready | Place::Leased(..) | Place::Done(..) | Place::Cancelled(_) => Err(Code::NotFound),
        }
    }

    /// Jobs in the order in which they leave this state; of ready jobs, only the next. Of others that an
    /// operator can't make ready in turn, none.
    pub(crate) fn in_order(&self, queue: QueueNo, state: JobState) -> Vec<JobId> {
        let jobs = self.jobs.iter().filter(|job| job.queue == queue && job.state() == state);
        let mut jobs: Vec<_> = jobs
            .map(|job| match job.place {
                Place::Ready => (u64::from(job.options.priority.0), job.id),
                Place::Delayed(until) => (until.as_millis(), job.id),
                Place::Dead => (job.dead_seq, job.id),
                Place::Leased(..) | Place::Done(..) | Place::Cancelled(_) => (0, job.id),
            })
            .collect();
        jobs.sort();
        jobs.truncate(match state {
            JobState::Ready => 1,
            JobState::Leased | JobState::Done | JobState::Cancelled => 0,
            _ => usize::MAX,
        });
        jobs.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn pause_existing(&mut self, now: Now, queue: QueueNo, time: Duration) -> bool {
        if self.queue(queue).is_none() && queue != DEFAULT {
            return false;
        }
        if !time.is_zero() {
            self.pause(now, queue, Some(time));
        } else if self.queue(queue).is_some() {
            self.queue_mut(queue).past.pauses += 1;
            self.resume(now, queue);
        } else {
            self.default_past.pauses += 1;
        }
        true
    }

    fn make_queue(&mut self, queue: QueueNo) -> Result<(), Code> {
        let bound =
            self.memory_max.saturating_add((self.memory_max / 20).saturating_sub(QUEUE_OVERHEAD_BYTES));
        if self.queue(queue).is_none() && self.memory() + QUEUE_OVERHEAD_BYTES > bound {
            return Err(Code::Full);
        }
        self.queue_mut(queue);
        Ok(())
    }

    // ---- time ----

    /// All that is due, in the order of its time.
    pub(crate) fn due(&self, now: Now) -> Vec<Due> {
        let mut due = self.deadlines();
        due.retain(|&(at, _)| at <= now.mono);
        due.sort_by_key(|&(at, _)| at);
        due.into_iter().map(|(_, due)| due).collect()
    }

    /// All that will happen, with its time. Jobs are in the order of their ids.
    pub(crate) fn deadlines(&self) -> Vec<(Moment, Due)> {
        let jobs = self.jobs.iter().filter_map(|job| match job.place {
            Place::Delayed(until) => Some((until, Due::DelayOver(job.id))),
            Place::Leased(until, _) if !self.is_sorted(job) => Some((until, Due::LeaseLapsed(job.id))),
            Place::Done(until, _) | Place::Cancelled(until) => Some((until, Due::KeptOver(job.id))),
            Place::Ready | Place::Leased(..) | Place::Dead => None,
        });
        let pauses = self.queues.iter().filter_map(|queue| match queue.paused {
            Some(Pause::Until(end)) => Some((end, Due::PauseOver(queue.number))),
            Some(Pause::UntilResumed) | None => None,
        });
        let warnings = self.wary.iter().filter_map(|&session| {
            let &(until, _) = self.leases_of(session).first()?;
            Some((until.before(LAPSES_SOON), Due::Warning(session)))
        });
        let drained = self.drainers.iter().filter(|&&session| self.wait_is_drained(session));
        let drained = drained.map(|&session| (Moment::from_millis(0), Due::Drained(session)));
        let batches = self.forgotten_batches();
        jobs.chain(pauses).chain(warnings).chain(drained).chain(batches).collect()
    }

    /// Whether the queues that a waiting session named are all drained.
    fn wait_is_drained(&self, session: SessionId) -> bool {
        let waiter = self.waiters.iter().find(|waiter| waiter.0 == session);
        waiter.is_some_and(|(_, queues)| self.drained(queues).is_some())
    }

    /// If none of the queues has jobs that have not ended, apart from paused queues without leased jobs: those of
    /// them that are paused and have such jobs.
    pub(crate) fn drained(&self, queues: &[QueueNo]) -> Option<Vec<QueueNo>> {
        let jobs = |queue| self.jobs.iter().filter(move |job| job.queue == queue && !job.state().is_final());
        let leased = |job: &ModelJob| job.holder().is_some();
        let is_drained = |&queue: &QueueNo| match self.is_paused(queue) {
            true => !jobs(queue).any(leased),
            false => jobs(queue).next().is_none(),
        };
        let held = queues.iter().copied().filter(|&queue| jobs(queue).next().is_some());
        queues.iter().all(is_drained).then(|| held.collect())
    }

    /// Whether something else has to happen before this: the delays of a queue end in the order of their
    /// deadlines, and so do the leases of a session; a wait for drained queues does not end while they are not.
    /// Jobs that are done or cancelled are forgotten in the order of theirs.
    pub(crate) fn has_sooner_sibling(&self, due: &Due) -> bool {
        match *due {
            Due::DelayOver(id) => {
                let (queue, until) = match self.expect(id) {
                    ModelJob { queue, place: Place::Delayed(until), .. } => (*queue, *until),
                    other => panic!("{other:?} is not delayed"),
                };
                self.jobs.iter().any(|job| match job.place {
                    Place::Delayed(at) => job.queue == queue && (at, job.id) < (until, id),
                    _ => false,
                })
            }
            Due::LeaseLapsed(id) => {
                let holder = self.expect(id).holder().expect("it is leased");
                self.leases_of(holder)[0].1 != id || self.wary.contains(&holder)
            }
            Due::Drained(session) => !self.wait_is_drained(session),
            Due::KeptOver(id) => {
                let (queue, until) = (self.expect(id).queue, self.expect(id).kept_until());
                self.jobs.iter().any(|job| {
                    job.queue == queue
                        && job.kept_until().is_some()
                        && (job.kept_until(), job.id) < (until, id)
                })
            }
            Due::PauseOver(_) | Due::Warning(_) | Due::BatchForgotten(_) => false,
        }
    }

    pub(crate) fn apply(&mut self, now: Now, due: &Due) {
        match *due {
            Due::DelayOver(id) => self.requeue(now, id, Duration::ZERO),
            Due::LeaseLapsed(id) => self.crash(now, id, LAPSED),
            Due::PauseOver(queue) => self.resume(now, queue),
            Due::Warning(session) | Due::Drained(session) => {
                self.cancel_wait(session);
                self.woken.push((session, Handed::Nothing));
            }
            Due::KeptOver(id) => self.remove(now, id),
            Due::BatchForgotten(ref name) => self.batches.retain(|batch| batch.name != *name),
        }
    }

    /// The model after a restart and after what is due by `after` has happened. Jobs and pauses survive;
    /// sessions, leases and counters do not.
    pub(crate) fn after_restart(&self, before: Now, after: Now) -> Model {
        let passed = Duration::from_millis(after.wall_ms - before.wall_ms);
        let moved = |until: Moment| {
            let left = until.until(before.mono).saturating_sub(passed);
            (!left.is_zero()).then(|| after.mono.after(left))
        };
        let mut model = self.clone();
        for job in &mut model.jobs {
            job.past = Past::default();
            if let Place::Delayed(until) = job.place {
                job.delay = until.until(before.mono).saturating_sub(passed);
            }
            job.place = match job.place {
                Place::Ready | Place::Leased(..) => Place::Ready,
                Place::Delayed(until) => moved(until).map_or(Place::Ready, Place::Delayed),
                Place::Dead => Place::Dead,
                Place::Done(until, ran) => Place::Done(moved(until).unwrap_or(after.mono), ran),
                Place::Cancelled(until) => Place::Cancelled(moved(until).unwrap_or(after.mono)),
            };
        }
        model.move_batches(moved);
        for queue in &mut model.queues {
            queue.past = QueuePast::default();
            queue.paused = match queue.paused {
                Some(Pause::Until(end)) => moved(end).map(Pause::Until),
                other => other,
            };
            queue.pause_time = match queue.paused {
                Some(Pause::Until(end)) => Some(end.until(after.mono)),
                _ => None,
            };
        }
        model.wary.clear();
        model.drainers.clear();
        model.attached.clear();
        model.totals = Totals::default();
        model.default_past = QueuePast::default();
        model.waiters.clear();
        model.waiters_for_ends.clear();
        model.waiters_for_batches.clear();
        model.handed.clear();
        model.leaving.clear();
        model.forget_unused_queues();
        model.forget_unused_batches();
        for due in model.due(after) {
            if let Due::KeptOver(_) | Due::BatchForgotten(_) = due {
                model.apply(after, &due);
            }
        }
        model
    }

    // ---- what a user can see ----

    pub(crate) fn peek(&self, now: Now, id: JobId) -> Option<Job> {
        let job = self.job(id)?;
        let Options { priority, ttr, attempts, backoff, ref key, keep, ref batch, delay: _, .. } =
            job.options;
        let mut shown = Job::new(id, "");
        shown.queue = self.names[job.queue].clone();
        shown.state = job.state();
        (shown.priority, shown.ttr, shown.attempts, shown.backoff) = (priority, ttr, attempts, backoff);
        (shown.key, shown.keep, shown.batch) = (key.clone(), keep, batch.clone());
        shown.created = SystemTime::UNIX_EPOCH + Duration::from_secs(job.created_s);
        shown.remaining = match job.place {
            Place::Delayed(until)
            | Place::Leased(until, _)
            | Place::Done(until, _)
            | Place::Cancelled(until) => Some(until.until(now.mono)),
            Place::Ready | Place::Dead => None,
        };
        shown.counts = job.counts;
        shown.reason = job.reason.clone();
        shown.body = job.body.clone();
        shown.result = job.result.clone();
        Some(shown)
    }

    pub(crate) fn lease_of(&self, id: JobId) -> Lease {
        let job = self.expect(id);
        let mut lease = Lease::new(id, "");
        lease.queue = self.names[job.queue].clone();
        lease.attempt = job.counts.failures + job.counts.crashes + 1;
        lease.ttr = job.options.ttr;
        lease.body = job.body.clone();
        lease
    }

    pub(crate) fn counts(&self, queue: Option<QueueNo>) -> StateCounts {
        self.counts_of(|job| queue.is_none_or(|queue| queue == job.queue))
    }

    fn counts_of(&self, wanted: impl Fn(&ModelJob) -> bool) -> StateCounts {
        let mut counts = StateCounts::default();
        for job in self.jobs.iter().filter(|job| wanted(job)) {
            match job.place {
                Place::Ready => counts.ready += 1,
                Place::Delayed(_) => counts.delayed += 1,
                Place::Leased(..) => counts.leased += 1,
                Place::Dead => counts.dead += 1,
                Place::Done(..) => counts.done += 1,
                Place::Cancelled(_) => counts.cancelled += 1,
            }
        }
        counts
    }

    pub(crate) fn queue_stats(&self, now: Now, number: QueueNo) -> Option<QueueStats> {
        let queue = self.queue(number)?;
        let mut stats = QueueStats::new(self.names[number].clone());
        stats.jobs = self.counts(Some(number));
        stats.waiting = self.waiters.iter().filter(|(_, queues)| queues.contains(&number)).count() as u64;
        stats.paused = queue.paused.map(|pause| match pause {
            Pause::UntilResumed => None,
            Pause::Until(end) => Some(end.until(now.mono)),
        });
        stats.totals = queue.past.totals;
        Some(stats)
    }

    pub(crate) fn queue_details(&self, now: Now, number: QueueNo) -> Option<QueueDetails> {
        let queue = self.queue(number);
        if queue.is_none() && number != DEFAULT {
            return None;
        }
        let mut details = QueueDetails::of(self.names[number].clone());
        details.stats.totals = self.default_past.totals;
        if let Some(stats) = self.queue_stats(now, number) {
            details.stats = stats;
        }
        details.urgent = self.urgent(Some(number));
        details.using = self.attached.values().filter(|attached| attached.uses == number).count() as u64;
        details.watching =
            self.attached.values().filter(|attached| attached.watches.contains(&number)).count() as u64;
        details.pauses = queue.map_or(self.default_past, |queue| queue.past).pauses;
        details.pause_time = queue.and_then(|queue| queue.paused.and(queue.pause_time));
        Some(details)
    }

    pub(crate) fn urgent(&self, queue: Option<QueueNo>) -> u64 {
        let mine = self.jobs.iter().filter(|job| queue.is_none_or(|queue| queue == job.queue));
        mine.filter(|job| job.place == Place::Ready && job.options.priority.0 < 1024).count() as u64
    }

    pub(crate) fn job_stats(&self, now: Now, id: JobId) -> Option<JobStats> {
        let ModelJob { past, counts, place, created_s, delay, .. } = self.job(id)?;
        let lapses = past.forgiven_crashes + counts.crashes;
        let leased = u32::from(matches!(place, Place::Leased(..)));
        let leases = lapses + past.forgiven_failures + counts.failures + counts.returns + leased;
        let mut stats = JobStats::new(self.peek(now, id)?);
        stats.age = Duration::from_secs(now.wall_ms / 1000 - created_s);
        stats.delay = match place {
            Place::Delayed(_) => Duration::from_secs(delay.as_millis().div_ceil(1000) as u64),
            _ => Duration::ZERO,
        };
        stats.leases = leases.into();
        stats.lapses = lapses.into();
        stats.returns = counts.returns.into();
        stats.deaths = u64::from(past.deaths) + u64::from(*place == Place::Dead);
        stats.kicks = past.kicks.into();
        Some(stats)
    }

    pub(crate) fn memory(&self) -> u64 {
        let jobs: u64 = self.jobs.iter().map(|job| job.memory(self.rare_bytes)).sum();
        let pages = self.jobs.chunk_by(|a, b| a.id.0 / 64 == b.id.0 / 64).count();
        let shared = |Options { ttr, attempts, backoff, keep, batch, .. }: &Options| {
            (ttr.as_nanos(), *attempts, backoff.as_nanos(), keep.as_nanos(), batch.clone())
        };
        let terms: HashSet<_> = self.jobs.iter().map(|job| shared(&job.options)).collect();
        jobs + self.queues.len() as u64 * QUEUE_OVERHEAD_BYTES
            + pages as u64 * PAGE_OVERHEAD_BYTES
            + terms.len() as u64 * SHARED_OPTIONS_OVERHEAD_BYTES
            + self.batches.len() as u64 * BATCH_OVERHEAD_BYTES
    }

    /// What the ends of jobs may take in the journal beyond those of plain jobs.
    pub(crate) fn extra_end_bytes(&self) -> u64 {
        self.jobs.iter().map(|job| extra_end_bytes(job.options.keep, job.options.batch.as_ref())).sum()
    }

    /// How many bytes the journal has to keep.
    pub(crate) fn live_bytes(&self) -> u64 {
        let jobs = self.jobs.iter().map(|job| {
            let Options { priority, ttr, attempts, backoff, ref key, keep, ref batch, delay: _, .. } =
                job.options;
            job_bytes(&JobSize {
                id: job.id,
                queue: &self.names[job.queue],
                ttr,
                attempts,
                backoff,
                key: key.as_ref(),
                keep,
                batch: batch.as_ref(),
                priority,
                reason: job.reason.as_deref(),
                body_bytes: job.content_bytes(),
            })
        });
        let paused = self.queues.iter().filter(|queue| queue.paused.is_some());
        jobs.sum::<u64>()
            + paused.map(|queue| pause_bytes(&self.names[queue.number])).sum::<u64>()
            + self.batches.iter().map(|batch| batch_bytes(&batch.name)).sum::<u64>()
    }

    pub(crate) fn is_paused(&self, queue: QueueNo) -> bool {
        self.queue(queue).is_some_and(|queue| queue.paused.is_some())
    }

    fn is_sorted(&self, job: &ModelJob) -> bool {
        let leaving = job.holder().and_then(|holder| self.leaving.get(&holder));
        leaving.is_some_and(|leaving| leaving.sorted.iter().any(|sorted| sorted.1 == job.id))
    }

    /// A session's leases, the first to lapse first, without jobs that it is about to return.
    pub(crate) fn leases_of(&self, session: SessionId) -> Vec<(Moment, JobId)> {
        let mut leases: Vec<_> = self
            .jobs
            .iter()
            .filter_map(|job| match job.place {
                Place::Leased(until, holder) if holder == session && !self.is_sorted(job) => {
                    Some((until, job.id))
                }
                _ => None,
            })
            .collect();
        leases.sort();
        leases
    }

    pub(crate) fn job(&self, id: JobId) -> Option<&ModelJob> {
        self.jobs.iter().find(|job| job.id == id)
    }

    // ---- the rules behind the verbs ----

    /// The job with the lowest priority, then the lowest id, of those of the queues that are not paused.
    fn next_ready(&self, queues: &[QueueNo]) -> Option<JobId> {
        let ready = self.jobs.iter().filter(|job| {
            job.place == Place::Ready && queues.contains(&job.queue) && !self.is_paused(job.queue)
        });
        ready.min_by_key(|job| (job.options.priority, job.id)).map(|job| job.id)
    }

    /// Gives jobs to waiting sessions. While there is a job for any of them, the one that has waited longest
    /// gets it.
    fn serve(&mut self, now: Now) {
        while let Some((at, id)) =
            self.waiters.iter().enumerate().find_map(|(at, (_, queues))| Some((at, self.next_ready(queues)?)))
        {
            let (session, _) = self.waiters.remove(at);
            self.wary.retain(|waiter| *waiter != session);
            self.drainers.retain(|waiter| *waiter != session);
            self.lease_to(now, id, session);
            self.hand(session, Handed::Lease(id));
        }
        self.forget_unused_queues();
    }

    fn lease_to(&mut self, now: Now, id: JobId, session: SessionId) {
        let job = self.expect_mut(id);
        job.place = Place::Leased(now.mono.after(job.options.ttr), session);
        job.leased_at = now.mono;
        let queue = job.queue;
        self.tally(queue, |totals| totals.leased += 1);
    }

    fn return_to_queue(&mut self, now: Now, id: JobId, delay: Duration) {
        self.if_there_is_room(id, |job| job.counts.returns += 1);
        let queue = self.expect(id).queue;
        self.tally(queue, |totals| totals.returned += 1);
        self.requeue(now, id, delay);
    }

    fn crash(&mut self, now: Now, id: JobId, reason: &str) {
        self.if_there_is_room(id, |job| job.counts.crashes += 1);
        self.expect_mut(id).reason = Some(reason.into());
        let queue = self.expect(id).queue;
        self.tally(queue, |totals| totals.crashed += 1);
        if self.attempts_spent(id) {
            self.die(id);
        } else {
            self.requeue(now, id, Duration::ZERO);
        }
    }

    /// Changes a job's statistics, unless there is no memory for them.
    fn if_there_is_room(&mut self, id: JobId, change: impl FnOnce(&mut ModelJob)) {
        let (memory, before) = (self.memory(), self.expect(id).clone());
        change(self.expect_mut(id));
        let bound = self.memory_max.saturating_add(self.memory_max / 32);
        if self.memory() > memory.max(bound) {
            *self.expect_mut(id) = before;
        }
    }

    fn attempts_spent(&self, id: JobId) -> bool {
        let job = self.expect(id);
        job.options.attempts != 0 && job.counts.failures + job.counts.crashes >= job.options.attempts
    }

    fn die(&mut self, id: JobId) {
        self.deaths += 1;
        let dead_seq = self.deaths;
        let job = self.expect_mut(id);
        job.place = Place::Dead;
        job.dead_seq = dead_seq;
        let queue = job.queue;
        self.tally(queue, |totals| totals.died += 1);
        self.has_ended(id);
    }

    fn requeue(&mut self, now: Now, id: JobId, wait: Duration) {
        let job = self.expect_mut(id);
        job.delay = wait;
        job.place = if wait.is_zero() { Place::Ready } else { Place::Delayed(now.mono.after(wait)) };
        self.serve(now);
    }

    fn leased_by(&mut self, session: SessionId, id: JobId) -> Result<&mut ModelJob, Code> {
        let job = self.job_mut(id).ok_or(Code::NotFound)?;
        if job.holder() == Some(session) { Ok(job) } else { Err(Code::NotLeased) }
    }

    fn job_mut(&mut self, id: JobId) -> Option<&mut ModelJob> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    fn expect(&self, id: JobId) -> &ModelJob {
        self.job(id).expect("the caller has seen it")
    }

    fn expect_mut(&mut self, id: JobId) -> &mut ModelJob {
        self.job_mut(id).expect("the caller has seen it")
    }

    /// The oldest `most` jobs of a queue or a batch in a state, up to an id, and whether these are all of them.
    fn slice(&self, of: &Of, state: JobState, last: JobId, most: u64) -> (Slice, Vec<JobId>) {
        let mut ids = self.list(of, Some(state), usize::MAX, None);
        ids.retain(|&id| id <= last);
        let finished = ids.len() as u64 <= most;
        ids.truncate(most as usize);
        (Slice { count: ids.len() as u64, finished }, ids)
    }

    fn queue(&self, number: QueueNo) -> Option<&ModelQueue> {
        self.queues.iter().find(|queue| queue.number == number)
    }

    /// Creates a queue when it is first named.
    fn queue_mut(&mut self, number: QueueNo) -> &mut ModelQueue {
        if self.queue(number).is_none() {
            self.queues.push(ModelQueue {
                number,
                paused: None,
                pause_time: None,
                // Every session uses it, so its counters must not restart.
                past: if number == DEFAULT { self.default_past } else { QueuePast::default() },
            });
        }
        self.queues.iter_mut().find(|queue| queue.number == number).expect("it is there by now")
    }

    /// Drops queues that are empty and unused.
    fn forget_unused_queues(&mut self) {
        let named = self.waiters.iter().flat_map(|(_, queues)| queues);
        let attached = self.attached.values().flat_map(|attached| {
            let watches = attached.watches.iter().filter(|_| attached.said_so);
            watches.chain(Some(&attached.uses).filter(|queue| **queue != DEFAULT))
        });
        let used = self.jobs.iter().map(|job| &job.queue).chain(named).chain(attached);
        let used: Vec<_> = used.copied().collect();
        if let Some(default) = self.queue(DEFAULT) {
            self.default_past = default.past;
        }
        self.queues.retain(|queue| queue.paused.is_some() || used.contains(&queue.number));
    }

    fn tally(&mut self, queue: QueueNo, add: impl Fn(&mut Totals)) {
        add(&mut self.totals);
        add(&mut self.queue_mut(queue).past.totals);
    }
}

/// The limits of the wait after this number of failures: the backoff doubles each time, with up to a quarter
/// more, up to an hour.
fn backoff(backoff: Duration, failures: u32) -> std::ops::RangeInclusive<Duration> {
    let mut wait = backoff.min(MAX_BACKOFF);
    for _ in 1..failures {
        wait = (wait * 2).min(MAX_BACKOFF);
    }
    wait..=(wait + wait / 4).min(MAX_BACKOFF)
}

/// The part of a reason that is kept: whole characters only.
fn beginning(reason: &str) -> String {
    let mut kept = String::new();
    for c in reason.chars() {
        if kept.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        kept.push(c);
    }
    kept
}
