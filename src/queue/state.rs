//! The state machine: every queue, job, lease and waiting session, and each rule of their lives.
//!
//! It takes no lock, reads no clock and touches no file: each call is told what time it is and leaves behind
//! its [`Effects`], what the journal has to be told and which sessions to wake. So it can be run a million
//! times a second against a model. Each call is O(log n) or better in jobs, queues and waiting sessions; those
//! that touch many jobs ([`State::tick`], [`State::purge`], …) do so in slices whose size the caller chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use super::budget::QUEUE_OVERHEAD_BYTES;
use super::budget::{Budget, Purpose};
use super::idset::IdSet;
use super::random::SplitMix;
use super::table::Table;
use crate::change::Change;
use crate::clock::{Moment, Now};
use crate::error::{Code, Refusal};
use crate::job::{
    Counts, Job, JobId, JobState, Key, Lease, MAX_BACKOFF, MAX_REASON_BYTES, Options, Priority, QueueName,
    Submission,
};
use crate::stats::{StateCounts, Totals};
pub use attach::{LAPSES_SOON, WATCHED_MAX, Warn};
use moves::{cut, job_cost};
use names::Names;
use shared_options::{SharedOptions, SharedOptionsTable};
pub use slot::COUNTED_IN_SLOT;
use slot::{Crash, Extra, Packed, Past, Place, Slot};

mod attach;
mod durable;
mod moves;
mod names;
mod operator;
mod queue_stats;
mod shared_options;
mod slot;

/// What a job is taken to cost in memory beside its body, key and reason: its slot, its share of the ordered
/// sets, and the allocator's rounding, measured with a million jobs (docs/performance.md).
pub const JOB_OVERHEAD_BYTES: u64 = 96;

/// What 64 neighbouring ids are taken to cost while there is a job among them: little where all are, more than the job
/// itself where only one is left.
pub const PAGE_OVERHEAD_BYTES: u64 = 144;

/// What a combination of ttr, attempts and backoff is taken to cost while a job has it.
pub const SHARED_OPTIONS_OVERHEAD_BYTES: u64 = 160;

/// What a key or a reason is taken to cost beside its text.
const EXTRA_OVERHEAD_BYTES: u64 = 128;

/// How many waiting sessions the end of a pause serves at once.
const SERVED_AT_ONCE_MAX: usize = 64;

/// When a submission refused for want of memory is worth trying again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A connection, as the state machine knows it. Numbers are used again once their session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(crate) u32);

/// What a call left to be done outside.
#[derive(Debug, Default)]
pub struct Effects {
    /// What the journal must be told, in order. Empty where there is no journal.
    pub changes: Vec<Change>,
    /// Sessions that were handed a job while they waited.
    pub wakes: Vec<SessionId>,
}

/// The result of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The job's id, or that of the unfinished job with the same key.
    pub id: JobId,
    /// That job's state, where there was one.
    pub duplicate: Option<JobState>,
}

/// The result of a reported failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It will be tried again after this long.
    RetryIn(Duration),
    /// It is dead.
    Dead,
}

/// How a session ends, and so what becomes of what it has leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its connection was lost: each lease counts as a crash.
    Lost,
    /// It said goodbye: its jobs are handed back, and no attempt is charged.
    Quit,
}

/// How a slice of a long operation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Jobs that it touched.
    pub count: u64,
    /// Whether nothing is left to do.
    pub finished: bool,
}

/// The whole of it. See the module's head.
#[derive(Debug)]
pub struct State {
    jobs: Table<Slot>,
    last_id: JobId,
    queues: Vec<Option<Queue>>,
    free_queues: Vec<u32>,
    names: Names,
    /// Queues in the order in which they came to be.
    by_age: BTreeMap<u64, QueueIx>,
    queues_made: u64,
    /// What `default` had counted when it last went: it is there for everybody, so its counters go on.
    default_past: QueuePast,
    sessions: Vec<Option<Session>>,
    free_sessions: Vec<u32>,
    /// Numbers handed out to waiting sessions: the lowest has waited longest.
    tickets: u64,
    waiting: u64,
    /// Sessions that use, and that watch, other queues than `default` alone.
    using_others: u64,
    watching_others: u64,
    keys: BTreeMap<(QueueIx, Key), JobId>,
    shared_options: SharedOptionsTable,
    /// When to look at whom again. An entry may be early, never late: whoever is looked at says when it is
    /// really due. So the many leases that are acknowledged in time never touch this set.
    timers: BTreeSet<(Moment, Owner)>,
    budget: Budget,
    /// What pages of jobs and combinations of options cost.
    shared_bytes: u64,
    counts: StateCounts,
    /// Ready jobs of a priority below [`Priority::URGENT_BELOW`].
    urgent: u64,
    /// Numbers for jobs that became dead: the lowest has been dead for longest.
    deaths: u64,
    totals: Totals,
    /// Whether `live_bytes` is kept.
    sums_live_bytes: bool,
    journaled: bool,
    /// How many bytes the journal has to keep: see [`State::live`].
    live_bytes: u64,
    random: SplitMix,
    effects: Effects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct QueueIx(u32);

#[derive(Debug)]
struct Queue {
    name: QueueName,
    counts: StateCounts,
    urgent: u64,
    paused: Option<PauseEnd>,
    /// Sessions that wait here, by ticket.
    line: BTreeMap<u64, SessionId>,
    /// Ready jobs, in the order in which they are handed out.
    ready: IdSet<Priority>,
    /// All jobs by state, oldest first.
    listed: IdSet<JobState>,
    past: QueuePast,
    /// Delayed jobs, the soonest first.
    delayed: BTreeSet<(Moment, JobId)>,
    /// Dead jobs, by the turn in which they died.
    dead: BTreeSet<(u64, JobId)>,
    age: u64,
    /// Sessions that use it, and that have it in a watch list of their own making.
    using: u64,
    watching: u64,
    /// For how long it was paused the last time (`None`: until it is resumed).
    pause_time: Option<Duration>,
    scheduled_at: Option<Moment>,
}

/// What has been counted of a queue since it came to be.
#[derive(Clone, Copy, Debug, Default)]
struct QueuePast {
    totals: Totals,
    /// How often it was paused.
    pauses: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PauseEnd {
    Resumed,
    At(Moment),
}

#[derive(Debug, Default)]
struct Session {
    /// What it has leased, the first to lapse first.
    leases: BTreeSet<(Moment, JobId)>,
    /// Once it ends: what it had leased, the most urgent first.
    returning: BTreeSet<(Priority, JobId)>,
    standing: Option<Standing>,
    /// A job that it was handed while it waited, and that it has not taken yet.
    handed: Option<JobId>,
    /// Its wait ended because a lease of its own was about to lapse, and it has not taken note of that yet.
    warned: bool,
    scheduled_at: Option<Moment>,
    /// The queue that it uses, if it is another than `default`.
    used: Option<QueueIx>,
    /// The queues that it watches, in the order in which it named them; empty for `default` alone.
    watched: Vec<QueueIx>,
}

/// A waiting session's place in the lines of the queues that it named.
#[derive(Debug)]
struct Standing {
    ticket: u64,
    queues: Vec<QueueIx>,
    warn: Warn,
}

/// What to look at when a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// A queue: its delayed jobs, its pause.
    Queue(QueueIx),
    /// A session: its leases.
    Session(SessionId),
}

impl State {
    /// An empty state. `memory_max` bytes is what all jobs may take; `seed` makes the jitter of backoffs.
    pub fn new(memory_max: u64, seed: u64) -> State {
        State {
            jobs: Table::new(),
            last_id: JobId(0),
            queues: Vec::new(),
            free_queues: Vec::new(),
            names: Names::default(),
            by_age: BTreeMap::new(),
            queues_made: 0,
            default_past: QueuePast::default(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            tickets: 0,
            waiting: 0,
            using_others: 0,
            watching_others: 0,
            keys: BTreeMap::new(),
            shared_options: SharedOptionsTable::default(),
            timers: BTreeSet::new(),
            budget: Budget::new(memory_max),
            shared_bytes: 0,
            counts: StateCounts::default(),
            urgent: 0,
            deaths: 0,
            totals: Totals::default(),
            sums_live_bytes: false,
            journaled: false,
            live_bytes: 0,
            random: SplitMix(seed),
            effects: Effects::default(),
        }
    }

    /// Keeps the sum behind [`State::live`] from now on. Call it on an empty state.
    pub fn sum_live_bytes(&mut self) {
        self.sums_live_bytes = true;
    }

    /// From now on, leaves what the journal must be told in [`Effects::changes`].
    pub fn set_journaled(&mut self) {
        self.journaled = true;
    }

    /// What the calls since the last look left to be done.
    pub fn effects(&mut self) -> &mut Effects {
        &mut self.effects
    }

    /// When [`State::tick`] has something to do again, at the earliest.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.first().map(|entry| entry.0)
    }

    // ---- sessions ----

    /// Lets a connection in.
    pub fn open_session(&mut self) -> SessionId {
        if let Some(number) = self.free_sessions.pop() {
            self.sessions[number as usize] = Some(Session::default());
            return SessionId(number);
        }
        self.sessions.push(Some(Session::default()));
        SessionId(u32::try_from(self.sessions.len() - 1).expect("fewer than 2^32 connections"))
    }

    /// Ends a session in slices of `most` leases. Returns whether it has ended; until then, call it again.
    ///
    /// Its jobs are returned most urgent first. So the first slices return nothing: they sort the leases, as one
    /// session may have a million of them. A lease that has been sorted does not lapse any more.
    pub fn end_session(&mut self, now: Now, session: SessionId, ending: Ending, most: u64) -> bool {
        self.leave(session);
        for _ in 0..most {
            let Some((_, id)) = self.session_mut(session).leases.pop_first() else { break };
            let priority = self.slot(id).priority;
            self.session_mut(session).returning.insert((priority, id));
        }
        if !self.session(session).leases.is_empty() {
            return false;
        }
        for _ in 0..most {
            let Some((_, id)) = self.session_mut(session).returning.pop_first() else { break };
            // The session has not seen a job that it has not taken yet, so nothing can have gone wrong with it.
            let seen = self.session(session).handed != Some(id);
            match ending {
                Ending::Lost if seen => self.crash(now, id, Crash::Lost),
                Ending::Lost | Ending::Quit => self.return_to_queue(now, id, Duration::ZERO),
            }
        }
        let ended = self.session(session).returning.is_empty();
        if ended {
            self.forget_session(session);
        }
        ended
    }

    fn forget_session(&mut self, session: SessionId) {
        if let Some(at) = self.session(session).scheduled_at {
            self.timers.remove(&(at, Owner::Session(session)));
        }
        self.detach(session);
        self.sessions[session.0 as usize] = None;
        self.free_sessions.push(session.0);
    }

    // ---- the submitter's verbs ----

    /// Accepts a job.
    ///
    /// # Errors
    /// [`Code::Full`] where the job would take the memory over its limit.
    pub fn submit(&mut self, now: Now, submission: Submission) -> Result<Accepted, Refusal> {
        let Submission { queue: name, options, body } = submission;
        let Options { priority, delay, ttr, attempts, backoff, key } = options;
        let known = self.named(&name);
        if let (Some(key), Some(queue)) = (&key, known)
            && let Some(&id) = self.keys.get(&(queue, key.clone()))
        {
            return Ok(Accepted { id, duplicate: Some(self.slot(id).place().state()) });
        }
        let extra = (key.is_some() || counts_in_advance(attempts))
            .then(|| Box::new(Extra { key, ..Extra::default() }));
        // It may need a page and a combination of options of its own.
        let cost = job_cost(&body, extra.as_deref()) + PAGE_OVERHEAD_BYTES + SHARED_OPTIONS_OVERHEAD_BYTES;
        let cost = cost + if known.is_some() { 0 } else { QUEUE_OVERHEAD_BYTES };
        if !self.budget.has_room(Purpose::Job, cost) {
            let (taken, limit) = self.memory();
            return Err(Refusal::full(
                FULL_RETRY_AFTER,
                format!(
                    "the jobs take {taken} of {limit} bytes of memory (--max-memory): wait until some are done"
                ),
            ));
        }
        let queue = known.unwrap_or_else(|| self.make_queue(name));
        self.last_id = JobId(self.last_id.0 + 1);
        let id = self.last_id;
        let place = if delay.is_zero() { Place::Ready } else { Place::delayed(now, delay) };
        let options = self.shared_options.intern(SharedOptions { ttr, attempts, backoff });
        let created_s = u32::try_from(now.wall_ms / 1000).unwrap_or(u32::MAX);
        self.insert(id, Slot { body, place: Packed::new(place), extra, queue, options, priority, created_s });
        self.count(queue, |totals| totals.submitted += 1);
        if self.journaled {
            let change = self.full_change(now, id);
            self.effects.changes.push(change);
        }
        if place == Place::Ready {
            self.serve(now, queue);
        }
        Ok(Accepted { id, duplicate: None })
    }

    // ---- the worker's verbs ----

    /// Leases the most urgent job of the named queues (none named: of those that the session watches), if there is one.
    /// Does not wait.
    pub fn lease(&mut self, now: Now, session: SessionId, queues: &[QueueName]) -> Option<Lease> {
        let (_, id) = if queues.is_empty() {
            self.first_ready(self.watched_by(session))
        } else {
            self.first_ready(queues.iter().filter_map(|name| self.named(name)))
        }?;
        self.lease_to(now, id, session);
        Some(self.lease_of(id))
    }

    /// The job that is to be handed out next, of queues that are not paused.
    fn first_ready(&self, queues: impl Iterator<Item = QueueIx>) -> Option<(Priority, JobId)> {
        let mut best: Option<(Priority, JobId)> = None;
        for queue in queues {
            let queue = self.queue(queue);
            if queue.paused.is_none()
                && let Some(first) = queue.ready.first()
                && best.is_none_or(|best| first < best)
            {
                best = Some(first);
            }
        }
        best
    }

    /// Whether there is room for those of the named queues that [`State::wait`] or [`State::pause`] would have to make.
    ///
    /// # Errors
    /// [`Code::Full`] where there is none.
    pub fn room_for(&self, queues: &[QueueName]) -> Result<(), Refusal> {
        let fit = |count: usize| self.budget.has_room(Purpose::Queue, count as u64 * QUEUE_OVERHEAD_BYTES);
        // Which of them there are matters only where that is little.
        if fit(queues.len()) {
            return Ok(());
        }
        let new = queues.iter().filter(|name| self.named(name).is_none()).count();
        if new == 0 || fit(new) {
            return Ok(());
        }
        let (taken, limit) = self.memory();
        Err(Refusal::full(
            FULL_RETRY_AFTER,
            format!("no memory for {new} more queues, with {taken} of {limit} bytes taken (--max-memory)"),
        ))
    }

    /// Puts a session in the line of each of the named queues (none named: of those that it watches). [`Effects::wakes`]
    /// will name it once it was handed a job, or warned.
    ///
    /// Call it right after [`State::lease`] found nothing and [`State::room_for`] room, under the same lock.
    pub fn wait(&mut self, session: SessionId, queues: &[QueueName], warn: Warn) {
        debug_assert!(self.session(session).standing.is_none(), "a session waits once at a time");
        self.tickets += 1;
        let ticket = self.tickets;
        let queues: Vec<QueueIx> = if !queues.is_empty() {
            queues.iter().map(|name| self.queue_named(name)).collect()
        } else if !self.session(session).watched.is_empty() {
            self.session(session).watched.clone()
        } else {
            vec![self.queue_named(&QueueName::default())]
        };
        for &queue in &queues {
            self.queue_mut(queue).line.insert(ticket, session);
        }
        self.waiting += 1;
        self.session_mut(session).standing = Some(Standing { ticket, queues, warn });
        if warn == Warn::BeforeLapse {
            self.schedule_session(session);
        }
    }

    /// Whether a session stands in a line: until it leaves or is handed a job.
    pub fn is_waiting(&self, session: SessionId) -> bool {
        self.session(session).standing.is_some()
    }

    /// Takes a waiting session out of its lines.
    pub fn leave(&mut self, session: SessionId) {
        let Some(standing) = self.session_mut(session).standing.take() else {
            return;
        };
        self.waiting -= 1;
        for queue in standing.queues {
            // A queue named twice has it once, and may be gone after the first.
            if let Some(found) = self.queues[queue.0 as usize].as_mut() {
                found.line.remove(&standing.ticket);
                self.drop_if_unused(queue);
            }
        }
    }

    /// What a session was handed while it waited, if it was.
    pub fn take_handed(&mut self, session: SessionId) -> Option<Lease> {
        let id = self.session_mut(session).handed.take()?;
        // Its lease may have lapsed before the session came to look.
        let slot = self.jobs.get(id)?;
        matches!(slot.place(), Place::Leased { holder, .. } if holder == session).then(|| self.lease_of(id))
    }

    /// A leased job is done: it is gone.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack(&mut self, session: SessionId, id: JobId) -> Result<(), Refusal> {
        let queue = self.leased_by(session, id)?.queue;
        self.count(queue, |totals| totals.acked += 1);
        self.remove(id);
        Ok(())
    }

    /// A leased job failed.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn fail(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        delay: Option<Duration>,
        dead: bool,
        reason: Option<Arc<str>>,
    ) -> Result<Failed, Refusal> {
        let slot = self.leased_by(session, id)?;
        let (queue, options) = (slot.queue, self.shared_options.get(slot.options));
        let mut counts = slot.counts();
        counts.failures = counts.failures.saturating_add(1);
        self.count(queue, |totals| totals.failed += 1);
        self.record_counts(id, counts);
        if let Some(reason) = reason {
            self.note_reason(id, cut(reason));
        }
        if dead || spent(counts, options) {
            self.die(id);
            self.note_status(now, id);
            return Ok(Failed::Dead);
        }
        let wait = delay.unwrap_or_else(|| self.backoff(options.backoff, counts.failures));
        self.requeue(now, id, wait);
        Ok(Failed::RetryIn(wait))
    }

    /// Returns a leased job undone, with another priority if one is given. No attempt is charged.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn return_job(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        priority: Option<Priority>,
        delay: Duration,
    ) -> Result<(), Refusal> {
        let priority = priority.unwrap_or(self.leased_by(session, id)?.priority);
        self.reprioritise(id, priority);
        self.return_to_queue(now, id, delay);
        Ok(())
    }

    /// A lease starts anew, for `ttr` or the job's own time to run.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn touch(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        ttr: Option<Duration>,
    ) -> Result<(), Refusal> {
        let slot = self.leased_by(session, id)?;
        let ttr = ttr.unwrap_or_else(|| self.shared_options.get(slot.options).ttr);
        self.relocate(id, Place::Leased { until: now.mono.after(ttr), holder: session });
        Ok(())
    }

    // ---- the operator's verbs ----

    /// One job, whole.
    pub fn peek(&self, now: Now, id: JobId) -> Option<Job> {
        self.jobs.get(id).map(|slot| self.job(now, id, slot))
    }

    /// Jobs of a queue, oldest first, with ids above `after`; at most `limit`.
    pub fn list(
        &self,
        now: Now,
        queue: &QueueName,
        state: Option<JobState>,
        limit: usize,
        after: Option<JobId>,
    ) -> Vec<Job> {
        let Some(queue) = self.named(queue) else {
            return Vec::new();
        };
        let listed = &self.queue(queue).listed;
        let states = state.as_ref().map_or(&JobState::ALL[..], std::slice::from_ref);
        // The next of each state; the smallest of these is the next of all.
        let mut heads: Vec<_> = states.iter().map(|&state| (state, listed.next(state, after))).collect();
        let mut jobs = Vec::new();
        while jobs.len() < limit {
            let next = heads.iter_mut().filter(|head| head.1.is_some()).min_by_key(|head| head.1);
            let Some(head) = next else { break };
            let (state, Some(id)) = *head else { break };
            head.1 = listed.next(state, Some(id));
            let slot = self.slot(id);
            debug_assert_eq!(slot.place().state(), state);
            jobs.push(self.job(now, id, slot));
        }
        jobs
    }

    /// A dead job back to ready, with all its attempts.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such job, or it is not dead.
    pub fn retry(&mut self, now: Now, id: JobId) -> Result<(), Refusal> {
        match self.jobs.get(id).map(|slot| slot.place()) {
            Some(Place::Dead { .. }) => {
                self.revive(now, id);
                Ok(())
            }
            Some(place) => Err(Refusal::new(
                Code::NotFound,
                format!("job {id} is {}, not dead: there is nothing to retry", place.state()),
            )),
            None => Err(not_found(id)),
        }
    }

    /// A queue's dead jobs with ids up to `last` back to ready, oldest first; at most `most` of them now.
    pub fn retry_queue(&mut self, now: Now, queue: &QueueName, last: JobId, most: u64) -> Slice {
        self.in_slices(queue, JobState::Dead, last, most, |state, id| state.revive(now, id))
    }

    /// Removes a job, unless another session has it leased.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn delete(&mut self, session: SessionId, id: JobId) -> Result<(), Refusal> {
        let slot = self.jobs.get(id).ok_or_else(|| not_found(id))?;
        let queue = slot.queue;
        if matches!(slot.place(), Place::Leased { holder, .. } if holder != session) {
            return Err(Refusal::new(
                Code::NotLeased,
                format!("job {id} is leased by another connection: delete it when that is done with it"),
            ));
        }
        self.count(queue, |totals| totals.deleted += 1);
        self.remove(id);
        Ok(())
    }

    /// Removes a queue's jobs in one state with ids up to `last`, at most `most` of them now. Leased jobs belong to
    /// their workers: `state` is another.
    pub fn purge(&mut self, queue: &QueueName, state: JobState, last: JobId, most: u64) -> Slice {
        debug_assert!(state != JobState::Leased);
        self.in_slices(queue, state, last, most, |state, id| {
            let queue = state.slot(id).queue;
            state.count(queue, |totals| totals.deleted += 1);
            state.remove(id);
        })
    }

    fn in_slices(
        &mut self,
        queue: &QueueName,
        state: JobState,
        last: JobId,
        most: u64,
        mut each: impl FnMut(&mut State, JobId),
    ) -> Slice {
        let mut count = 0;
        // The queue may be gone with its last job, so it is looked up each time.
        while let Some(queue) = self.named(queue)
            && let Some(id) = self.queue(queue).listed.next(state, None)
            && id <= last
        {
            if count == most {
                return Slice { count, finished: false };
            }
            each(self, id);
            count += 1;
        }
        Slice { count, finished: true }
    }

    /// Hands out nothing of a queue, for `time` or until it is resumed. Call it where [`State::room_for`] found room for it.
    pub fn pause(&mut self, now: Now, name: &QueueName, time: Option<Duration>) {
        let queue = self.queue_named(name);
        let end = time.map_or(PauseEnd::Resumed, |time| PauseEnd::At(now.mono.after(time)));
        self.set_pause(queue, Some(end));
        let found = self.queue_mut(queue);
        found.pause_time = time;
        found.past.pauses += 1;
        self.schedule_queue(queue);
        self.note_pause(now, queue);
    }

    /// Hands out a queue's jobs again; not paused, nothing happens. Returns whether that is done: where very many sessions
    /// wait, it is still paused, and the rest of them is for the next call.
    pub fn resume(&mut self, now: Now, name: &QueueName) -> bool {
        match self.named(name) {
            Some(queue) if self.queue(queue).paused.is_some() => self.end_pause(now, queue),
            _ => true,
        }
    }

    /// Those who wait are served first: until they are, others that come are not.
    fn end_pause(&mut self, now: Now, queue: QueueIx) -> bool {
        if !self.hand_out(now, queue, SERVED_AT_ONCE_MAX) {
            return false;
        }
        self.set_pause(queue, None);
        self.note_pause(now, queue);
        self.drop_if_unused(queue);
        true
    }

    // ---- time ----

    /// Carries out what is due: delays that are over, leases that lapse, pauses that end; at most `most` of them.
    /// Call it again at once while [`State::next_deadline`] is not after `now`.
    pub fn tick(&mut self, now: Now, most: u64) {
        let mut budget = most;
        while budget > 0
            && let Some(&(at, owner)) = self.timers.first()
            && at <= now.mono
        {
            self.timers.pop_first();
            match owner {
                Owner::Queue(queue) => self.tick_queue(now, queue, &mut budget),
                Owner::Session(session) => self.tick_session(now, session, &mut budget),
            }
            budget = budget.saturating_sub(1);
        }
    }

    fn tick_queue(&mut self, now: Now, queue: QueueIx, budget: &mut u64) {
        self.queue_mut(queue).scheduled_at = None;
        while *budget > 0
            && let Some(&(until, id)) = self.queue(queue).delayed.first()
            && until <= now.mono
        {
            self.relocate(id, Place::Ready);
            self.serve(now, queue);
            *budget -= 1;
        }
        self.schedule_queue(queue);
        if matches!(self.queue(queue).paused, Some(PauseEnd::At(end)) if end <= now.mono)
            && !self.end_pause(now, queue)
        {
            // Its timer is still there, for the next call.
            *budget = 0;
        }
    }

    fn tick_session(&mut self, now: Now, session: SessionId, budget: &mut u64) {
        self.session_mut(session).scheduled_at = None;
        self.warn_if_due(now, session);
        while *budget > 0
            && let Some(&(until, id)) = self.session(session).leases.first()
            && until <= now.mono
        {
            self.crash(now, id, Crash::Lapsed);
            *budget -= 1;
        }
        self.schedule_session(session);
    }

    // ---- looking things up ----

    /// Whether the session has this job leased.
    pub fn is_leased_by(&self, session: SessionId, id: JobId) -> bool {
        let place = self.jobs.get(id).map(|slot| slot.place());
        matches!(place, Some(Place::Leased { holder, .. }) if holder == session)
    }

    fn leased_by(&self, session: SessionId, id: JobId) -> Result<&Slot, Refusal> {
        let slot = self.jobs.get(id).ok_or_else(|| not_found(id))?;
        match slot.place() {
            Place::Leased { holder, .. } if holder == session => Ok(slot),
            Place::Leased { .. } => Err(Refusal::new(
                Code::NotLeased,
                format!("job {id} is leased by another connection: only that one can say how it went"),
            )),
            place => Err(Refusal::new(
                Code::NotLeased,
                format!(
                    "job {id} is {}: the lease has lapsed, or there was none; GET it first",
                    place.state()
                ),
            )),
        }
    }

    fn lease_of(&self, id: JobId) -> Lease {
        let slot = self.slot(id);
        Lease {
            id,
            queue: self.queue(slot.queue).name.clone(),
            attempt: slot.counts().spent().saturating_add(1),
            ttr: self.shared_options.get(slot.options).ttr,
            body: slot.body.clone(),
        }
    }

    fn job(&self, now: Now, id: JobId, slot: &Slot) -> Job {
        let SharedOptions { ttr, attempts, backoff } = self.shared_options.get(slot.options);
        Job {
            id,
            queue: self.queue(slot.queue).name.clone(),
            state: slot.place().state(),
            priority: slot.priority,
            ttr,
            attempts,
            backoff,
            key: slot.key().cloned(),
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(slot.created_s.into()),
            remaining: match slot.place() {
                Place::Ready | Place::Dead { .. } => None,
                Place::Delayed { until, .. } | Place::Leased { until, .. } => Some(until.until(now.mono)),
            },
            counts: slot.counts(),
            reason: slot.reason().cloned(),
            body: slot.body.clone(),
        }
    }

    fn slot(&self, id: JobId) -> &Slot {
        self.jobs.get(id).expect("the caller has looked")
    }

    /// The queue of this name, if there is one.
    fn named(&self, name: &QueueName) -> Option<QueueIx> {
        self.names.find(name, |queue| &self.queue(queue).name)
    }

    fn queue(&self, queue: QueueIx) -> &Queue {
        self.queues[queue.0 as usize]
            .as_ref()
            .expect("jobs, lines and the timers name only queues that exist")
    }

    fn queue_mut(&mut self, queue: QueueIx) -> &mut Queue {
        self.queues[queue.0 as usize]
            .as_mut()
            .expect("jobs, lines and the timers name only queues that exist")
    }

    fn session(&self, session: SessionId) -> &Session {
        self.sessions[session.0 as usize].as_ref().expect("the session is open")
    }

    fn session_mut(&mut self, session: SessionId) -> &mut Session {
        self.sessions[session.0 as usize].as_mut().expect("the session is open")
    }

    fn count(&mut self, queue: QueueIx, add: impl Fn(&mut Totals)) {
        add(&mut self.totals);
        add(&mut self.queue_mut(queue).past.totals);
    }
}

/// Whether a job's counts have their memory from the start: they decide about its death, and the slot can't hold them all.
fn counts_in_advance(attempts: u32) -> bool {
    attempts > COUNTED_IN_SLOT
}

fn spent(counts: Counts, options: SharedOptions) -> bool {
    options.attempts != 0 && counts.spent() >= options.attempts
}

fn not_found(id: JobId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no job {id}: it is done, was deleted, or never was"))
}
