//! The state machine: all queues, jobs, leases and waiting sessions.
//!
//! It takes no lock, reads no clock and opens no file. Each call is given the time, changes the state and
//! adds to [`Effects`] what to record in the journal and which sessions to wake. Tests can therefore run it a
//! million times a second against a model. Each call is O(log n) or better in jobs, queues and waiting
//! sessions. Calls that change many jobs, such as [`State::tick`] and [`State::purge`], work in slices; the
//! caller chooses their size.
//!
//! This file has the types and look-ups. The verbs are in `verbs` and `operator`, the transitions that they
//! are composed of in `moves`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    Acked, AttemptEnd, BatchName, Counts, Finished, Group, Job, JobId, JobState, Key, Lease, MAX_BACKOFF,
    MAX_REASON_BYTES, OnDrained, Options, Priority, QueueName, Submission,
};
use crate::stats::{BatchStats, StateCounts, Totals};
pub use batches::{BATCH_KEPT, BATCH_OVERHEAD_BYTES, BATCHES_MAX};
use batches::{BatchIx, Batches, Why};
use finish::Ending;
pub use finish::{CANCELLED_KEPT_MIN, Returned};
pub use fleet::HELD_JOBS_MAX;
use fleet::{Fleet, LeaseEnd, WorkerIx};
use history::{history_bytes, history_cost};
use moves::{cut, cut_to, job_cost};
use names::Names;
pub use search::{SearchBudget, SearchSlice};
pub use sessions::{LAPSES_SOON, WATCHED_MAX, Warn};
use shared_options::{SharedOptions, SharedOptionsTable};
pub use slot::COUNTED_IN_SLOT;
use slot::{Crash, Extra, Packed, Past, Place, ResultIs, Slot, counts_in_advance};
pub use why::MAX_NOTE_BYTES;
use why::{Snapshots, progress_of};

mod batches;
mod drain;
mod durable;
mod finish;
mod fleet;
mod history;
mod moves;
mod names;
mod operator;
mod queue_stats;
mod queues;
mod search;
mod sessions;
mod shared_options;
mod slot;
mod timers;
mod verbs;
mod why;

/// The accounted memory of a job without its body, key and reason: its slot, its share of the ordered
/// sets, and the allocator's rounding, measured with a million jobs (docs/performance.md).
pub const JOB_OVERHEAD_BYTES: u64 = 96;

/// The accounted memory of a page of 64 neighbouring ids. It matters little if all of them exist, but is more
/// than the job itself if only one is left.
pub const PAGE_OVERHEAD_BYTES: u64 = 144;

/// The accounted memory of a combination of ttr, attempts, backoff, keep and batch, while a job has it.
pub const SHARED_OPTIONS_OVERHEAD_BYTES: u64 = 160;

/// The accounted memory of a key or a reason without its text.
const EXTRA_OVERHEAD_BYTES: u64 = 128;

/// How many waiting sessions one call serves at the end of a pause.
const SERVED_AT_ONCE_MAX: usize = 64;

/// When to try again what was refused because memory is full.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A connection. A number is used again once its session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(crate) u32);

/// What the caller of the state machine has to do after a call.
#[derive(Debug, Default)]
pub struct Effects {
    /// Changes to record in the journal, in order. Empty without a journal.
    pub changes: Vec<Change>,
    /// Waiting sessions that were given a job or a warning, or whose queues are drained.
    pub wakes: Vec<SessionId>,
}

/// The result of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The job's id, or that of the unfinished job with the same key.
    pub id: JobId,
    /// The state of the job with the same key, if there is one.
    pub duplicate: Option<JobState>,
}

/// The result of a reported failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It will be retried after this time.
    RetryIn(Duration),
    /// It is dead.
    Dead,
}

/// How a session ends, which decides what happens to its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// Its connection was lost: each lease counts as a crash.
    Lost,
    /// The client sent QUIT: its jobs are returned, and no attempt is charged.
    Quit,
}

/// The result of one slice of a long operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// How many jobs it changed.
    pub count: u64,
    /// Whether this was the last slice.
    pub finished: bool,
}

/// The state machine. See the module's documentation.
#[derive(Debug)]
pub struct State {
    jobs: Table<Slot>,
    last_id: JobId,
    queues: Vec<Option<Queue>>,
    free_queues: Vec<u32>,
    names: Names,
    /// Queues in the order in which they were created.
    by_age: BTreeMap<u64, QueueIx>,
    queues_made: u64,
    /// The counters of `default` when it was last dropped. Every session uses it, so its counters must not
    /// restart.
    default_past: QueuePast,
    sessions: Vec<Option<Session>>,
    free_sessions: Vec<u32>,
    /// The last number given to a waiting session. The session with the lowest number has waited longest.
    tickets: u64,
    waiting: u64,
    /// Sessions whose wait ends when their queues are drained, with their tickets: see `drain`.
    drainers: BTreeSet<(QueueIx, u64, SessionId)>,
    /// How many sessions use a queue other than `default`, and how many have a watch list of their own.
    using_others: u64,
    watching_others: u64,
    /// The jobs that hold their keys: those that are not cancelled.
    keys: BTreeMap<(QueueIx, Key), JobId>,
    batches: Batches,
    fleet: Fleet,
    /// How many sessions last asked for jobs of a queue, by its name.
    asking: BTreeMap<QueueName, u64>,
    /// Sessions that wait for the end of a job, by ticket.
    job_waiters: BTreeMap<JobId, BTreeMap<u64, SessionId>>,
    /// Jobs that have ended and whose waiters are being woken.
    endings: VecDeque<Ending>,
    shared_options: SharedOptionsTable,
    /// When to check which queue or session: see `timers`.
    timers: BTreeSet<(Moment, Owner)>,
    budget: Budget,
    /// The part of the budget that pages of jobs and combinations of options take.
    shared_bytes: u64,
    counts: StateCounts,
    /// Ready jobs of a priority below [`Priority::URGENT_BELOW`].
    urgent: u64,
    /// The last number given to a job that became dead. The job with the lowest number has been dead longest.
    last_dead_seq: u64,
    totals: Totals,
    /// Whether `live_bytes` is kept.
    sums_live_bytes: bool,
    journaled: bool,
    remembers_attempts: bool,
    /// How many bytes the journal has to keep, and what the ends of jobs take beyond those of plain ones: see
    /// [`State::live`].
    live_bytes: u64,
    extra_end_bytes: u64,
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
    /// Sessions that wait for a job of this queue, by ticket.
    waiters: BTreeMap<u64, SessionId>,
    /// Ready jobs, in the order in which they are leased.
    ready: IdSet<Priority>,
    /// All jobs by state, oldest first.
    listed: IdSet<JobState>,
    past: QueuePast,
    /// Delayed jobs, the soonest first.
    delayed: BTreeSet<(Moment, JobId)>,
    /// Dead jobs, in the order in which they died.
    dead: BTreeSet<(u64, JobId)>,
    /// Jobs that are done or cancelled, the first to be forgotten first.
    kept: BTreeSet<(Moment, JobId)>,
    age: u64,
    /// How many sessions use it, and how many have it in their own watch list.
    using: u64,
    watching: u64,
    /// How long the last pause was to last; `None` for a pause without end.
    pause_time: Option<Duration>,
    /// How many of its jobs had been leased when somebody asked.
    snapshots: Option<Box<Snapshots>>,
    scheduled_at: Option<Moment>,
}

/// The counters of a queue since it was created.
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
    /// Its leases, and since when it has each; the first to lapse comes first.
    leases: BTreeMap<(Moment, JobId), Moment>,
    /// While it ends: the jobs that it had leased, most urgent first, and since when.
    returning: BTreeMap<(Priority, JobId), Moment>,
    pending_wait: Option<PendingWait>,
    /// What it was given while it waited, and has not taken yet.
    handed: Option<Handed>,
    /// Whether its wait was ended by a warning that it has not taken yet.
    warned: bool,
    scheduled_at: Option<Moment>,
    /// The worker that it has introduced itself as.
    worker: Option<WorkerIx>,
    /// Its connection is lost, and its leases wait until then for its process to come back.
    parked_until: Option<Moment>,
    /// The queues of which it last asked for jobs, and whether these are those that it watched.
    asked: Vec<QueueName>,
    asked_watched: bool,
    /// The queue that it uses, unless that is `default`.
    used: Option<QueueIx>,
    /// The queues that it watches, in the order in which it named them. Empty while it has only ever watched
    /// `default`.
    watched: Vec<QueueIx>,
}

/// What a session waits for.
#[derive(Debug)]
enum PendingWait {
    /// A job of some queues. `drains` is the queue under which [`State::drainers`] has it.
    Lease { ticket: u64, queues: Vec<QueueIx>, warn: Warn, drains: Option<QueueIx> },
    /// The end of a job.
    Job { ticket: u64, id: JobId },
    /// That a batch is complete with this many jobs.
    Batch { ticket: u64, batch: BatchIx, total: u64 },
    /// An order for its worker.
    Order { ticket: u64 },
}

/// What ended a session's wait.
#[derive(Debug)]
enum Handed {
    /// A lease of this job.
    Lease(JobId),
    /// The end of the job.
    Finished(Finished),
    /// The batch's counts.
    Batch(Box<BatchStats>),
}

/// What to check when a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// A queue: its delayed jobs, its pause.
    Queue(QueueIx),
    /// A session: its leases.
    Session(SessionId),
    /// A batch: whether it is to be forgotten, and who still has to be woken.
    Batch(BatchIx),
    /// Jobs that have ended: who still has to be woken.
    Endings,
}

impl State {
    /// Makes an empty state. Jobs may take `memory_max` bytes. `seed` determines the jitter of backoffs.
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
            drainers: BTreeSet::new(),
            using_others: 0,
            watching_others: 0,
            keys: BTreeMap::new(),
            batches: Batches::default(),
            fleet: Fleet::default(),
            asking: BTreeMap::new(),
            job_waiters: BTreeMap::new(),
            endings: VecDeque::new(),
            shared_options: SharedOptionsTable::default(),
            timers: BTreeSet::new(),
            budget: Budget::new(memory_max),
            shared_bytes: 0,
            counts: StateCounts::default(),
            urgent: 0,
            last_dead_seq: 0,
            totals: Totals::default(),
            sums_live_bytes: false,
            journaled: false,
            remembers_attempts: false,
            live_bytes: 0,
            extra_end_bytes: 0,
            random: SplitMix(seed),
            effects: Effects::default(),
        }
    }

    /// Keeps the sum behind [`State::live`] from now on. Call it on an empty state.
    pub fn sum_live_bytes(&mut self) {
        self.sums_live_bytes = true;
    }

    /// Adds to [`Effects::changes`] from now on.
    pub fn set_journaled(&mut self) {
        self.journaled = true;
    }

    /// What is left to do after the calls since this was last emptied.
    pub fn effects(&mut self) -> &mut Effects {
        &mut self.effects
    }

    /// A leased job, as its worker gets it.
    fn lease_of(&self, id: JobId) -> Lease {
        let slot = self.slot(id);
        Lease {
            id,
            queue: self.queue(slot.queue).name.clone(),
            attempt: slot.counts().spent().saturating_add(1),
            ttr: self.shared_options.get(slot.options).ttr(),
            body: slot.body.clone(),
        }
    }

    /// A job, as an operator sees it.
    fn job(&self, now: Now, id: JobId, slot: &Slot) -> Job {
        let options = self.shared_options.get(slot.options);
        let (body, result) = match slot.place() {
            Place::Done { result: ResultIs::Kept, .. } => (Arc::default(), Some(slot.body.clone())),
            Place::Done { result: ResultIs::Dropped, .. } => (Arc::default(), None),
            _ => (slot.body.clone(), None),
        };
        Job {
            id,
            queue: self.queue(slot.queue).name.clone(),
            state: slot.place().state(),
            priority: slot.priority,
            ttr: options.ttr(),
            attempts: options.attempts,
            backoff: options.backoff(),
            keep: options.keep(),
            batch: options.batch.map(|batch| self.batch_name(batch).clone()),
            key: slot.key().cloned(),
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(slot.created_s.into()),
            remaining: match slot.place() {
                Place::Ready | Place::Dead { .. } => None,
                Place::Delayed { until, .. }
                | Place::Leased { until, .. }
                | Place::Done { until, .. }
                | Place::Cancelled { until } => Some(until.until(now.mono)),
            },
            counts: slot.counts(),
            reason: slot.reason().cloned(),
            body,
            history: slot.history().to_vec(),
            progress: progress_of(slot),
            result,
        }
    }

    fn slot(&self, id: JobId) -> &Slot {
        self.jobs.get(id).expect("the caller knows that the job exists")
    }

    /// The queue of this name, if there is one.
    fn named(&self, name: &QueueName) -> Option<QueueIx> {
        self.names.find(name, |queue| &self.queue(queue).name)
    }

    fn queue(&self, queue: QueueIx) -> &Queue {
        self.queues[queue.0 as usize].as_ref().expect("jobs, waits and timers name only queues that exist")
    }

    fn queue_mut(&mut self, queue: QueueIx) -> &mut Queue {
        self.queues[queue.0 as usize].as_mut().expect("jobs, waits and timers name only queues that exist")
    }

    fn session(&self, session: SessionId) -> &Session {
        self.sessions[session.0 as usize].as_ref().expect("the session is open")
    }

    fn session_mut(&mut self, session: SessionId) -> &mut Session {
        self.sessions[session.0 as usize].as_mut().expect("the session is open")
    }

    fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.waiting += 1;
        self.tickets
    }

    fn count(&mut self, queue: QueueIx, add: impl Fn(&mut Totals)) {
        add(&mut self.totals);
        add(&mut self.queue_mut(queue).past.totals);
    }
}

fn not_found(id: JobId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no job {id}: it is done, was deleted or never existed"))
}
