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
use moves::{cut, job_cost};
use names::Names;
pub use sessions::{LAPSES_SOON, WATCHED_MAX, Warn};
use shared_options::{SharedOptions, SharedOptionsTable};
pub use slot::COUNTED_IN_SLOT;
use slot::{Crash, Extra, Packed, Past, Place, Slot, counts_in_advance};

mod durable;
mod moves;
mod names;
mod operator;
mod queue_stats;
mod sessions;
mod shared_options;
mod slot;
mod timers;
mod verbs;

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

    /// A leased job, as its worker gets it.
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

    /// A job, as an operator sees it.
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

fn not_found(id: JobId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no job {id}: it is done, was deleted, or never was"))
}
