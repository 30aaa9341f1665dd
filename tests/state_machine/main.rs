//! Compares the state machine with a model of it after each of many random operations.
//!
//! Each test makes thousands of random runs with few queues, few jobs and short times, so that operations
//! interact. It compares all that a user can see with [`model::Model`]. A failure prints the seed and the
//! last operations. To repeat a run, or to run more:
//!
//! ```text
//! DJQS_SEED=1234 cargo test --test state_machine
//! DJQS_MODEL_OPS=100000000 cargo test --release --test state_machine
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use djqs::internal::change::Change;
use djqs::internal::clock::{ManualClock, Moment, Now};
use djqs::internal::queue::state::{
    Failed, JOB_OVERHEAD_BYTES, QUEUE_OVERHEAD_BYTES, SessionEnd, SessionId, State, Warn,
};
use djqs::job::{BatchName, Group, MAX_REASON_BYTES};
use djqs::protocol::OnDrained;
use djqs::{Code, JobId, JobState, Key, Options, Priority, QueueName, Refusal, Submission};
use model::{Due, Handed, Model, Of, QueueNo};

mod ends;
mod model;

/// The number of operations in all tests together, unless DJQS_MODEL_OPS is set.
const OPS_DEFAULT: u64 = 1_000_000;

/// How many of the last operations a failure prints.
const OPS_PRINTED: usize = 40;

/// How many operations, on average, lie between two comparisons of everything.
const OPS_BETWEEN_COMPARISONS: u64 = 300;

/// What has to happen often enough for the comparison to mean something.
const WORTH_COMPARING: [&str; 30] = [
    "jobs accepted",
    "submissions refused",
    "duplicates",
    "jobs leased",
    "waits",
    "handed jobs taken",
    "handed jobs lapsed",
    "jobs to be tried again",
    "sessions ended in slices",
    "delays over",
    "leases lapsed",
    "pauses over",
    "warnings",
    "drains over",
    "orders to be explained",
    "compactions",
    "restarts",
    "restarts tried",
    "results kept",
    "results dropped",
    "jobs cancelled",
    "jobs cancelled in slices",
    "reports of cancelled jobs",
    "retries refused for a key",
    "kept jobs forgotten",
    "waits for ends",
    "ends taken",
    "waits for batches",
    "complete batches taken",
    "batches forgotten",
];

/// What the operations of a run are like.
#[derive(Debug)]
struct Profile {
    name: &'static str,
    /// Its share of all operations, in percent.
    share_percent: u64,
    queues: usize,
    sessions: usize,
    /// About how many jobs there are.
    jobs: usize,
    /// The most queues that a GET names.
    named: u64,
    /// How many GETs that find nothing wait, in percent.
    wait_percent: u64,
    /// The longest ttr, delay and so on, except for a few.
    longest_ms: u64,
    /// How many runs have a journal, in percent.
    journal_percent: u64,
    /// How many operations a run has.
    ops: RangeInclusive<u64>,
}

const PROFILES: [Profile; 5] = [
    Profile {
        name: "few_of_everything",
        share_percent: 25,
        queues: 2,
        sessions: 3,
        jobs: 5,
        named: 2,
        wait_percent: 50,
        longest_ms: 4,
        journal_percent: 75,
        ops: 50..=1_000,
    },
    Profile {
        name: "many_waiting_sessions",
        share_percent: 25,
        queues: 4,
        sessions: 24,
        jobs: 10,
        named: 4,
        wait_percent: 95,
        longest_ms: 30,
        journal_percent: 75,
        ops: 500..=5_000,
    },
    Profile {
        name: "many_queues",
        share_percent: 15,
        queues: 40,
        sessions: 8,
        jobs: 30,
        named: 20,
        wait_percent: 50,
        longest_ms: 50,
        journal_percent: 75,
        ops: 1_000..=10_000,
    },
    Profile {
        name: "many_jobs",
        share_percent: 10,
        queues: 3,
        sessions: 8,
        jobs: 70,
        named: 3,
        wait_percent: 30,
        longest_ms: 200,
        journal_percent: 75,
        ops: 5_000..=20_000,
    },
    Profile {
        name: "one_long_run",
        share_percent: 25,
        queues: 4,
        sessions: 6,
        jobs: 20,
        named: 3,
        wait_percent: 50,
        longest_ms: 20,
        journal_percent: 100,
        ops: u64::MAX..=u64::MAX,
    },
];

#[test]
fn few_of_everything_agrees_with_the_model() {
    run_profile(0);
}

#[test]
fn many_waiting_sessions_agree_with_the_model() {
    run_profile(1);
}

#[test]
fn many_queues_agree_with_the_model() {
    run_profile(2);
}

#[test]
fn many_jobs_agree_with_the_model() {
    run_profile(3);
}

#[test]
fn one_long_run_agrees_with_the_model() {
    run_profile(4);
}

/// Makes runs of one profile until its share of the operations is used.
fn run_profile(profile: usize) {
    let seed = number_of("DJQS_SEED").unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let mut random = Random(seed.wrapping_add(profile as u64));
    let profile = &PROFILES[profile];
    let mut left = (number_of("DJQS_MODEL_OPS").unwrap_or(OPS_DEFAULT) * profile.share_percent).div_ceil(100);
    let mut counted = BTreeMap::new();
    let (all, mut number) = (left, 0);
    while left > 0 {
        number += 1;
        let ops = random.within(profile.ops.clone()).min(left);
        let mut run = Run::new(profile, Random(random.next()), (seed, number));
        for _ in 0..ops {
            run.step();
        }
        run.compare_everything();
        left -= ops;
        for (&what, count) in &run.counted {
            *counted.entry(what).or_default() += count;
        }
    }
    println!("{}: {counted:?}", profile.name);
    // If hardly anything happens, agreement proves nothing.
    let rare: Vec<_> =
        WORTH_COMPARING.iter().filter(|&what| counted.get(what).unwrap_or(&0) < &(all / 40_000)).collect();
    assert!(rare.is_empty(), "{rare:?} hardly ever happened: {counted:?}; DJQS_SEED={seed}");
}

/// A number from the environment.
fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number from 0 to 2^64-1")))
}

/// Random numbers that a seed reproduces (Steele, Lea and Flood's SplitMix).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        match (range.end() - range.start()).checked_add(1) {
            Some(count) => range.start() + self.below(count),
            None => self.next(),
        }
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
    }
}

/// An operation.
#[derive(Clone, Debug)]
enum Op {
    OpenSession,
    EndSession {
        session: SessionId,
        ending: SessionEnd,
        most: u64,
    },
    Submit {
        queue: QueueNo,
        options: Options,
        body: Arc<[u8]>,
    },
    Get {
        session: SessionId,
        /// Empty for those that the session watches.
        queues: Vec<QueueNo>,
        wait: bool,
        wary: bool,
        drains: bool,
    },
    Leave {
        session: SessionId,
    },
    TakeHanded {
        session: SessionId,
    },
    Ack {
        session: SessionId,
        id: JobId,
        /// `None` if the disk has no room for it.
        result: Option<Arc<[u8]>>,
    },
    Cancel {
        id: JobId,
        reason: Option<Arc<str>>,
    },
    CancelAll {
        of: Of,
        from: JobState,
        reason: Option<Arc<str>>,
        last: JobId,
        most: u64,
    },
    /// WAIT: it looks, and waits if the job has not ended.
    Wait {
        session: SessionId,
        id: JobId,
        wait: bool,
    },
    /// BATCH: it looks, and waits if the batch is not complete with this many jobs.
    Batch {
        session: SessionId,
        batch: BatchName,
        total: u64,
        wait: bool,
    },
    Fail {
        session: SessionId,
        id: JobId,
        delay: Option<Duration>,
        dead: bool,
        reason: Option<Arc<str>>,
    },
    Return {
        session: SessionId,
        id: JobId,
        delay: Duration,
    },
    Touch {
        session: SessionId,
        id: JobId,
        ttr: Option<Duration>,
    },
    Use {
        session: SessionId,
        queue: QueueNo,
    },
    Watch {
        session: SessionId,
        queue: QueueNo,
    },
    Ignore {
        session: SessionId,
        queue: QueueNo,
    },
    LeaseJob {
        session: SessionId,
        id: JobId,
    },
    ReturnAs {
        session: SessionId,
        id: JobId,
        priority: Priority,
        delay: Duration,
    },
    Bury {
        session: SessionId,
        id: JobId,
        priority: Priority,
    },
    Kick {
        queue: QueueNo,
        most: u64,
    },
    KickJob {
        id: JobId,
    },
    PauseExisting {
        queue: QueueNo,
        time: Duration,
    },
    Peek {
        id: JobId,
    },
    List {
        of: Of,
        state: Option<JobState>,
        limit: usize,
        after: Option<JobId>,
    },
    Retry {
        id: JobId,
    },
    RetryAll {
        of: Of,
        last: JobId,
        most: u64,
    },
    Delete {
        session: SessionId,
        id: JobId,
        /// Whether a job that is done or cancelled is not found.
        unless_kept: bool,
    },
    Purge {
        of: Of,
        state: JobState,
        last: JobId,
        most: u64,
    },
    Pause {
        queue: QueueNo,
        time: Option<Duration>,
    },
    Resume {
        queue: QueueNo,
    },
    QueueStats {
        queue: QueueNo,
    },
    Queues {
        most: usize,
    },
    /// Time passes without a tick.
    Pass {
        millis: u64,
    },
    /// A single call of [`State::tick`].
    Tick {
        most: u64,
    },
    /// Calls of [`State::tick`] until nothing is due, as the timekeeper makes them.
    TickAll {
        most: u64,
    },
    /// Replaces the journal's oldest part by what is still valid of it.
    Compact {
        changes: usize,
    },
    /// Continues with a state that was restored from the journal, after some time.
    Restart {
        millis: u64,
    },
    /// Compares a restored state, and continues with the present one.
    TryRestart {
        millis: u64,
        from_exports: bool,
    },
}

/// The real state and the model of it, side by side.
struct Run {
    profile: &'static Profile,
    /// The test's seed and the number of this run.
    origin: (u64, u64),
    step: u64,
    recent: VecDeque<(u64, Moment, Op)>,
    random: Random,
    names: Arc<[QueueName]>,
    keys: Vec<Key>,
    /// The batches. The later ones have fewer jobs, often none.
    batches: Vec<BatchName>,
    now: Now,
    state: State,
    model: Model,
    /// Sessions that are open, except those that are ending.
    sessions: Vec<SessionId>,
    /// Sessions that are ending in slices.
    ending: Vec<(SessionId, SessionEnd)>,
    /// All changes so far, if there is a journal.
    journal: Option<Vec<Change>>,
    /// How often each of [`WORTH_COMPARING`] has happened.
    counted: BTreeMap<&'static str, u64>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let (seed, number) = self.origin;
        eprintln!("\nthe last operations of run {number} ({:?}), oldest first:", self.profile);
        for (step, at, op) in &self.recent {
            eprintln!("  {step:>6} {:>8} ms  {op:?}", at.as_millis());
        }
        eprintln!(
            "it failed at step {} of run {number} of `{}`; to see it again: DJQS_SEED={seed}, \
             and DJQS_MODEL_OPS as it was",
            self.step, self.profile.name
        );
    }
}

impl Run {
    fn new(profile: &'static Profile, mut random: Random, origin: (u64, u64)) -> Run {
        let names: Vec<QueueName> =
            (1..profile.queues).map(|n| QueueName::new(&format!("q{n}")).unwrap()).collect();
        let names: Arc<[QueueName]> = [QueueName::default()].into_iter().chain(names).collect();
        let keys = (0..3).map(|n| Key::new(&"key".repeat(n + 1)).unwrap()).collect();
        let batches = (0..4).map(|n| BatchName::new(&"b".repeat(n + 1)).unwrap()).collect();
        let memory_max = random_memory_max(profile, &mut random);
        let mut state = State::new(memory_max, random.next());
        let journal = random.percent(profile.journal_percent).then(Vec::new);
        if journal.is_some() {
            state.sum_live_bytes();
            state.set_journaled();
        }
        Run {
            profile,
            origin,
            step: 0,
            recent: VecDeque::new(),
            now: Now { mono: Moment::from_millis(random.below(1_000)), wall_ms: ManualClock::WALL_ORIGIN_MS },
            random,
            model: Model::new(names.clone(), memory_max, rare_bytes()),
            names,
            keys,
            batches,
            state,
            sessions: Vec::new(),
            ending: Vec::new(),
            journal,
            counted: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        self.step += 1;
        let op = self.random_op();
        if self.recent.len() == OPS_PRINTED {
            self.recent.pop_front();
        }
        self.recent.push_back((self.step, self.now.mono, op.clone()));
        self.apply(op);
        self.compare_effects();
        self.compare_counters();
        if self.random.below(OPS_BETWEEN_COMPARISONS) == 0 {
            self.compare_everything();
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counted.entry(what).or_default() += 1;
    }

    // ---- random operations ----

    fn random_op(&mut self) -> Op {
        let kept = self.model.jobs.iter().filter(|job| job.is_kept()).count();
        let crowded = self.model.jobs.len() >= self.profile.jobs + kept.min(2 * self.profile.jobs);
        let (free, waiting, handed) = self.sessions_by_what_they_do();
        if free.is_empty() || self.random.percent(2) && self.sessions.len() < self.profile.sessions {
            return self.random_op_without_session(&waiting, &handed);
        }
        let session = self.random.pick(&free).expect("it is not empty");
        let worker = self.random_worker(&free);
        match self.random.below(100) {
            0..18 if !crowded => self.random_submission(),
            0..32 => Op::Get {
                session,
                queues: if self.random.percent(30) { Vec::new() } else { self.random_queues() },
                wait: self.random.below(100) < self.profile.wait_percent,
                wary: self.random.percent(50),
                drains: self.random.percent(30),
            },
            32..42 => self.random_ack(worker),
            42..52 => Op::Fail {
                session: worker,
                id: self.random_id(Some(worker)),
                delay: if self.random.percent(30) { Some(self.random_time()) } else { None },
                dead: self.random.percent(10),
                reason: self.random_reason(),
            },
            52..56 => Op::Return {
                session: worker,
                id: self.random_id(Some(worker)),
                delay: if self.random.percent(50) { Duration::ZERO } else { self.random_time() },
            },
            56..59 => Op::Touch {
                session: worker,
                id: self.random_id(Some(worker)),
                ttr: if self.random.percent(50) { None } else { Some(self.random_time()) },
            },
            59..65 => self.random_operator_op(session),
            65..67 => Op::Delete { session, id: self.random_id(None), unless_kept: self.random.percent(30) },
            67..68 => Op::EndSession {
                session,
                ending: if self.random.percent(50) { SessionEnd::Lost } else { SessionEnd::Quit },
                most: self.random_most(),
            },
            68..74 => self.random_wait(session),
            _ => self.random_op_without_session(&waiting, &handed),
        }
    }

    fn random_op_without_session(&mut self, waiting: &[SessionId], handed: &[SessionId]) -> Op {
        let queue = self.random_queue();
        match self.random.below(100) {
            0..15 if self.sessions.len() < self.profile.sessions => Op::OpenSession,
            0..20 if !handed.is_empty() => {
                Op::TakeHanded { session: self.random.pick(handed).expect("it is not empty") }
            }
            20..24 if !waiting.is_empty() => {
                Op::Leave { session: self.random.pick(waiting).expect("it is not empty") }
            }
            24..27 if !self.ending.is_empty() => {
                let (session, ending) = self.random.pick(&self.ending).expect("it is not empty");
                Op::EndSession { session, ending, most: self.random_most() }
            }
            27..28 if !self.sessions.is_empty() => {
                let session = self.random.pick(&self.sessions).expect("it is not empty");
                Op::EndSession { session, ending: SessionEnd::Lost, most: self.random_most() }
            }
            28..29 => Op::Retry { id: self.random_id_in(JobState::Dead) },
            29..30 => Op::Retry { id: self.random_id_in(JobState::Cancelled) },
            30..32 => {
                Op::RetryAll { of: self.random_group(), last: self.random_last(), most: self.random_most() }
            }
            32..34 => Op::Purge {
                of: self.random_group(),
                state: loop {
                    match self.random.pick(&JobState::ALL).expect("there are six") {
                        // The workers have them.
                        JobState::Leased => {}
                        state => break state,
                    }
                },
                last: self.random_last(),
                most: self.random_most(),
            },
            34..37 => Op::Pause {
                queue,
                time: if self.random.percent(30) { None } else { Some(self.random_time()) },
            },
            37..41 => Op::Resume { queue },
            41..43 => Op::Peek { id: self.random_id(None) },
            43..46 => Op::List {
                of: self.random_group(),
                state: if self.random.percent(30) { None } else { self.random.pick(&JobState::ALL) },
                limit: self.random.within(0..=10) as usize,
                after: if self.random.percent(50) { None } else { Some(self.random_id(None)) },
            },
            46..48 => Op::QueueStats { queue },
            48..50 => Op::Queues { most: self.random.within(1..=10) as usize },
            50..53 => self.random_cancel(),
            53..75 => Op::Pass { millis: self.random_pass() },
            75..85 => Op::Tick { most: self.random_most() },
            85..97 => Op::TickAll { most: self.random_most() },
            97 if self.journal.is_some() => self.random_op_on_the_journal(),
            _ => self.random_submission(),
        }
    }

    fn random_operator_op(&mut self, session: SessionId) -> Op {
        let (queue, mine) = (self.random_queue(), self.random_id(Some(session)));
        let priority = Priority(self.random.pick(&[0, 1023, 1024, u32::MAX]).expect("there are some"));
        match self.random.below(12) {
            0 => Op::Use { session, queue },
            1 | 2 => Op::Watch { session, queue },
            3 | 4 => Op::Ignore { session, queue },
            5 => Op::LeaseJob { session, id: self.random_id(None) },
            6 => Op::LeaseJob { session, id: self.random_id_in(JobState::Dead) },
            7 => Op::ReturnAs { session, id: mine, priority, delay: self.random_time() },
            8 => Op::Bury { session, id: mine, priority },
            9 => Op::Kick { queue, most: self.random_most() },
            10 => Op::KickJob { id: self.random_id_in(JobState::Dead) },
            _ => Op::PauseExisting { queue, time: self.random_time() },
        }
    }

    fn random_op_on_the_journal(&mut self) -> Op {
        let length = self.journal.as_ref().map_or(0, Vec::len);
        let millis = if self.random.percent(50) { 0 } else { self.random_pass() };
        match self.random.below(10) {
            0 => Op::Restart { millis },
            1..4 => Op::TryRestart { millis, from_exports: self.random.percent(50) },
            _ => Op::Compact { changes: self.random.within(0..=length as u64) as usize },
        }
    }

    fn random_submission(&mut self) -> Op {
        let attempts = [0, 1, 2, 3, 10];
        let backoffs_ms = [0, 1, 3, 10, 700_000, 3_500_000, 5_000_000];
        let priorities = [0, 1, 1024, 1024, 1024, 1025, u32::MAX];
        let options = Options::default()
            .priority(self.random.pick(&priorities).expect("there are some"))
            .delay(if self.random.percent(60) { Duration::ZERO } else { self.random_time() })
            .ttr(self.random_time().max(Duration::from_millis(1)))
            .attempts(self.random.pick(&attempts).expect("there are some"))
            .backoff(Duration::from_millis(self.random.pick(&backoffs_ms).expect("there are some")))
            .key(if self.random.percent(30) {
                Some(self.keys[self.random.below(self.keys.len() as u64) as usize].clone())
            } else {
                None
            })
            .keep(if self.random.percent(50) { Duration::ZERO } else { self.random_time() })
            .batch(if self.random.percent(60) { None } else { Some(self.random_batch()) });
        let body = (0..self.random.below(5)).map(|_| self.random.next() as u8).collect();
        Op::Submit { queue: self.random_queue(), options, body }
    }

    fn random_queue(&mut self) -> QueueNo {
        self.random.below(self.profile.queues as u64) as QueueNo
    }

    /// Some queues, sometimes one of them twice.
    fn random_queues(&mut self) -> Vec<QueueNo> {
        let count = self.random.within(1..=self.profile.named);
        (0..count).map(|_| self.random_queue()).collect()
    }

    /// Mostly a session that has leased something.
    fn random_worker(&mut self, free: &[SessionId]) -> SessionId {
        let busy = free.iter().copied().filter(|&session| !self.model.leases_of(session).is_empty());
        let busy: Vec<_> = busy.collect();
        let among = if busy.is_empty() || self.random.percent(20) { free } else { &busy };
        self.random.pick(among).expect("it is not empty")
    }

    /// A job that the session has leased, or any job, or one that does not exist.
    fn random_id(&mut self, session: Option<SessionId>) -> JobId {
        let leases = session.map(|session| self.model.leases_of(session)).unwrap_or_default();
        if let Some((_, id)) = self.random.pick(&leases)
            && self.random.percent(80)
        {
            return id;
        }
        let any = self.random_last();
        let there = self.model.jobs.iter().map(|job| job.id).find(|&id| id >= any);
        if self.random.percent(80) { there.unwrap_or(any) } else { any }
    }

    /// Mostly a job in this state.
    fn random_id_in(&mut self, state: JobState) -> JobId {
        let those = self.model.jobs.iter().filter(|job| job.state() == state);
        let those: Vec<_> = those.map(|job| job.id).collect();
        match self.random.pick(&those) {
            Some(id) if self.random.percent(80) => id,
            _ => self.random_id(None),
        }
    }

    /// An id, mostly of a job that exists.
    fn random_last(&mut self) -> JobId {
        let first = self.model.jobs.first().map_or(self.model.last_id, |job| job.id);
        JobId(self.random.within(first.0.saturating_sub(2)..=self.model.last_id.0 + 2))
    }

    fn random_most(&mut self) -> u64 {
        self.random.pick(&[1, 1, 2, 3, 1_000]).expect("there are some")
    }

    fn random_time(&mut self) -> Duration {
        Duration::from_millis(match self.random.below(100) {
            0 => 3_600_000,
            1..5 => 0,
            _ => self.random.within(0..=self.profile.longest_ms),
        })
    }

    fn random_pass(&mut self) -> u64 {
        let now = self.now.mono;
        let next = self.model.deadlines().iter().map(|&(at, _)| at).filter(|&at| at > now).min();
        let forgotten = self.model.forgotten_batches().map(|(at, _)| at).filter(|&at| at > now).min();
        match (self.random.below(200), forgotten.or(next)) {
            (0, _) => self.random.below(2 * 3_600_000),
            (1..4, Some(next)) => next.as_millis() - now.as_millis(),
            _ => self.random_short_pass(next),
        }
    }

    fn random_short_pass(&mut self, next: Option<Moment>) -> u64 {
        let now = self.now.mono;
        match (self.random.below(200), next) {
            (0..40, Some(next)) => next.as_millis() - now.as_millis(),
            (0..60, _) => self.random.within(0..=self.profile.longest_ms),
            _ => self.random.within(1..=3),
        }
    }

    fn random_reason(&mut self) -> Option<Arc<str>> {
        match self.random.below(20) {
            0 => Some("é".repeat(MAX_REASON_BYTES / 2 + 1).into()),
            1 => Some(format!("{}é", "x".repeat(MAX_REASON_BYTES - 1)).into()),
            2..8 => Some("no such file".into()),
            _ => None,
        }
    }

    /// The sessions that may send a command, those that wait, and those that were given a job and have not
    /// taken it.
    fn sessions_by_what_they_do(&self) -> (Vec<SessionId>, Vec<SessionId>, Vec<SessionId>) {
        let waiting = self.model.waiters.iter().map(|waiter| waiter.0);
        let waiting = waiting.chain(self.model.waiters_for_ends.iter().map(|waiter| waiter.0));
        let waiting = waiting.chain(self.model.waiters_for_batches.iter().map(|waiter| waiter.0));
        let waiting: Vec<_> = waiting.collect();
        let handed: Vec<_> = self.model.handed.iter().map(|handed| handed.0).collect();
        let free = self.sessions.iter().copied();
        let free = free.filter(|session| !waiting.contains(session) && !handed.contains(session)).collect();
        (free, waiting, handed)
    }

    // ---- the operations, on the state and on the model ----

    fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::OpenSession => self.open_session(),
            Op::EndSession { session, ending, most } => self.end_session(session, ending, most),
            Op::Submit { queue, options, body } => self.submit(queue, options, body),
            Op::Get { session, queues, wait, wary, drains } => {
                self.get(session, &queues, wait.then_some((wary, drains)));
            }
            Op::Leave { session } => {
                self.state.cancel_wait(session);
                self.model.cancel_wait(session);
            }
            Op::TakeHanded { session } => self.take_handed(session),
            Op::Ack { session, id, result } => self.ack(session, id, result),
            Op::Cancel { id, reason } => self.cancel(id, reason),
            Op::CancelAll { of, from, reason, last, most } => self.cancel_all(&of, from, reason, last, most),
            Op::Wait { session, id, wait } => self.wait_for_end(session, id, wait),
            Op::Batch { session, batch, total, wait } => self.wait_for_batch(session, &batch, total, wait),
            Op::Fail { session, id, delay, dead, reason } => {
                let seen = self.state.fail(now, session, id, delay, dead, reason.clone());
                let how = (delay, dead, reason.as_deref());
                let expected = self.model.fail(now, session, id, how, seen.as_ref().ok().copied());
                if let Ok(Failed::RetryIn(wait)) = seen {
                    self.count("jobs to be tried again");
                    assert_eq!(wait.subsec_nanos() % 1_000_000, 0, "{wait:?} is whole milliseconds");
                }
                assert_same(seen, expected);
                assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
            }
            Op::Return { session, id, delay } => {
                let seen = self.state.return_job(now, session, id, None, delay);
                assert_same(seen, self.model.return_job(now, session, id, (None, delay)));
                assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
            }
            Op::Touch { session, id, ttr } => {
                let seen = self.state.touch(now, session, id, ttr);
                assert_same(seen, self.model.touch(now, session, id, ttr));
                assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
            }
            Op::Use { session, queue } => {
                let seen = self.state.use_queue(session, &self.names[queue]);
                assert_same(seen, self.model.use_queue(session, queue));
            }
            Op::Watch { session, queue } => {
                let seen = self.state.watch(session, &self.names[queue]);
                assert_same(seen, self.model.watch(session, queue));
                self.compare_watched(session);
            }
            Op::Ignore { session, queue } => {
                let seen = self.state.ignore(session, &self.names[queue]);
                assert_same(seen, self.model.ignore(session, queue));
                self.compare_watched(session);
            }
            Op::LeaseJob { session, id } => {
                let seen = self.state.lease_job(now, session, id);
                let expected = self.model.lease_job(now, session, id);
                assert_same(seen, expected.map(|()| self.model.lease_of(id)));
            }
            Op::ReturnAs { session, id, priority, delay } => {
                let seen = self.state.return_job(now, session, id, Some(priority), delay);
                assert_same(seen, self.model.return_job(now, session, id, (Some(priority), delay)));
                assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
            }
            Op::Bury { session, id, priority } => {
                let seen = self.state.bury(now, session, id, priority);
                assert_same(seen, self.model.bury(now, session, id, priority));
                assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
            }
            Op::Kick { queue, most } => {
                let (from, there) = self.model.kickable(queue);
                assert_eq!(self.state.kickable(&self.names[queue]), (from, there));
                let seen = self.state.kick(now, &self.names[queue], from, most);
                assert_eq!(seen, self.model.kick(now, queue, from, most));
            }
            Op::KickJob { id } => assert_same(self.state.kick_job(now, id), self.model.kick_job(now, id)),
            Op::PauseExisting { queue, time } => {
                let seen = self.state.pause_existing(now, &self.names[queue], time);
                assert_eq!(seen, self.model.pause_existing(now, queue, time));
            }
            Op::Peek { id } => {
                assert_eq!(self.state.job_stats(now, id), self.model.job_stats(now, id));
                assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
                assert_eq!(self.state.export(now, id).is_some(), self.model.job(id).is_some());
            }
            Op::List { of, state, limit, after } => self.list(&of, state, limit, after),
            Op::Retry { id } => self.retry(id),
            Op::RetryAll { of, last, most } => {
                let seen = self.state.retry_all(now, &self.group(&of), last, most);
                assert_eq!(seen, self.model.retry_all(now, &of, last, most));
            }
            Op::Delete { session, id, unless_kept } => self.delete(session, id, unless_kept),
            Op::Purge { of, state, last, most } => {
                let seen = self.state.purge(now, &self.group(&of), state, last, most);
                assert_eq!(seen, self.model.purge(now, &of, state, last, most));
            }
            Op::Pause { queue, time } => {
                self.state.pause(now, &self.names[queue], time);
                self.model.pause(now, queue, time);
            }
            Op::Resume { queue } => {
                self.state.resume(now, &self.names[queue]);
                self.model.resume(now, queue);
            }
            Op::QueueStats { queue } => {
                let seen = self.state.queue_stats(now, &self.names[queue]);
                assert_eq!(seen, self.model.queue_stats(now, queue));
            }
            Op::Queues { most } => self.compare_queues(most),
            Op::Pass { millis } => self.now = later(now, millis),
            Op::Tick { most } => self.tick(most),
            Op::TickAll { most } => self.tick_all(most),
            Op::Compact { changes } => self.compact(changes),
            Op::Restart { millis } => self.restart(millis),
            Op::TryRestart { millis, from_exports } => self.try_restart(millis, from_exports),
        }
    }

    fn group(&self, of: &Of) -> Group {
        match of {
            Of::Queue(queue) => Group::from(&self.names[*queue]),
            Of::Batch(batch) => Group::from(batch.clone()),
        }
    }

    fn open_session(&mut self) {
        let session = self.state.open_session();
        let open = self.sessions.iter().chain(self.ending.iter().map(|(session, _)| session));
        assert!(open.clone().all(|other| *other != session), "{session:?} is open already");
        self.model.open_session(session);
        self.sessions.push(session);
    }

    fn end_session(&mut self, session: SessionId, ending: SessionEnd, most: u64) {
        let seen = self.state.end_session(self.now, session, ending, most);
        let expected = self.model.end_session(self.now, session, ending, most);
        assert_eq!(seen, expected, "whether it has ended");
        self.sessions.retain(|other| *other != session);
        self.ending.retain(|other| other.0 != session);
        if !seen {
            self.count("sessions ended in slices");
            self.ending.push((session, ending));
        }
    }

    fn submit(&mut self, queue: QueueNo, options: Options, body: Arc<[u8]>) {
        let submission = Submission::new(&body).to(&self.names[queue]).options(&options);
        let seen = self.state.submit(self.now, submission);
        let expected = self.model.submit(self.now, queue, &options, &body);
        if let Err(refusal) = &seen {
            self.count("submissions refused");
            assert!(refusal.retry_after.is_some(), "{refusal:?} says when to try again");
        }
        if let Ok(accepted) = seen {
            self.count(if accepted.duplicate.is_some() { "duplicates" } else { "jobs accepted" });
            assert_eq!(self.state.peek(self.now, accepted.id), self.model.peek(self.now, accepted.id));
        }
        assert_same(seen, expected);
    }

    /// `wait` says whether it wants warnings, and whether it ends when its queues are drained.
    fn get(&mut self, session: SessionId, queues: &[QueueNo], wait: Option<(bool, bool)>) {
        let names: Vec<_> = queues.iter().map(|&queue| self.names[queue].clone()).collect();
        let watched = self.model.watched(session);
        let queues = if queues.is_empty() { &watched } else { queues };
        let seen = self.state.lease(self.now, session, &names);
        let expected = self.model.lease(self.now, session, queues);
        assert_eq!(seen, expected.map(|id| self.model.lease_of(id)));
        assert_eq!(self.state.lapses_soon(self.now, session), self.model.lapses_soon(self.now, session));
        let drained = self.model.drained(queues);
        let drained = drained.map(|held| held.iter().map(|&queue| self.names[queue].clone()).collect());
        assert_eq!(self.state.drained(session, &names), drained);
        if expected.is_some() {
            self.count("jobs leased");
        } else if let Some((wary, drains)) = wait {
            self.count("waits");
            let warn = if wary { Warn::BeforeLapse } else { Warn::Never };
            let on_drained = if drains { OnDrained::End } else { OnDrained::Wait };
            self.state.wait(session, &names, warn, on_drained);
            self.model.wait(session, queues, wary, drains);
        }
    }

    fn compare_watched(&self, session: SessionId) {
        let expected = self.model.watched(session).into_iter().map(|queue| self.names[queue].clone());
        assert!(self.state.watched(session).into_iter().eq(expected));
    }

    fn list(&mut self, of: &Of, state: Option<JobState>, limit: usize, after: Option<JobId>) {
        let seen = self.state.list(self.now, &self.group(of), state, limit, after);
        let expected = self.model.list(of, state, limit, after);
        let expected: Vec<_> = expected.into_iter().filter_map(|id| self.model.peek(self.now, id)).collect();
        assert_eq!(seen, expected);
    }

    // ---- time ----

    /// The state may choose which due events happen, and in which order. But it may do nothing else, and no
    /// more than was asked for, and some order of these events must explain the result.
    fn tick(&mut self, most: u64) {
        // Fewer events, so that there are not too many orders to try.
        let most = if self.model.waiting() == 0 { most } else { most.min(3) };
        let (due, deaths) = (self.model.due(self.now), self.model.deaths);
        self.state.tick(self.now, most);
        let woken = std::mem::take(&mut self.state.effects().wakes);
        let warned: Vec<_> =
            woken.iter().copied().filter(|&session| self.state.take_warned(session)).collect();
        // If several sessions were given a job, taking it shows which one. A single one may take it later, unless
        // its wait may have ended because its queues are drained.
        let (mut taken, mut drained) = (Vec::new(), Vec::new());
        for &session in woken.iter().filter(|session| !warned.contains(session)) {
            if let Some(end) = self.take_end(session) {
                taken.push((session, end));
                continue;
            }
            let drains = self.model.drainers.contains(&session);
            if woken.len() == 1 && !drains {
                continue;
            }
            match self.state.take_handed(session) {
                Some(lease) => taken.push((session, Handed::Lease(lease.id))),
                None if drains => drained.push(Due::Drained(session)),
                None => panic!("{session:?} was woken for a job"),
            }
        }
        let mut done: Vec<Due> = due.iter().filter(|due| self.is_done(due, &warned)).cloned().collect();
        // What happens in a tick may drain a queue.
        done.extend(drained);
        let free = done.iter().filter(|due| matches!(due, Due::PauseOver(_) | Due::Warning(_))).count();
        assert!((done.len() - free) as u64 <= most, "{done:?} is more than {most}");

        if done.is_empty() {
            return assert_eq!(woken, [], "nothing has happened");
        }
        let Some(explanation) = self.explain(&self.model, &done, &woken, &taken) else {
            panic!(
                "of {due:?}, {done:?} was done, which woke {woken:?} with {taken:?}: no order explains it"
            );
        };
        for due in &done {
            self.count(match due {
                Due::DelayOver(_) => "delays over",
                Due::LeaseLapsed(_) => "leases lapsed",
                Due::PauseOver(_) => "pauses over",
                Due::Warning(_) => "warnings",
                Due::Drained(_) => "drains over",
                Due::KeptOver(_) => "kept jobs forgotten",
                Due::BatchForgotten(_) => "batches forgotten",
            });
        }
        if done.len() > 1 && !woken.is_empty() {
            self.count("orders to be explained");
        }
        self.model = explanation;
        self.model.woken.clear();
        for (session, handed) in taken {
            self.count_taken(&handed);
            assert_eq!(self.model.take_handed(session), Some(handed));
        }
        self.adopt_order_of_deaths(deaths);
    }

    fn is_done(&self, due: &Due, warned: &[SessionId]) -> bool {
        let peek = |id| self.state.peek(self.now, id).expect("jobs that have not ended outlive a tick");
        match *due {
            Due::DelayOver(id) => peek(id).state != JobState::Delayed,
            Due::LeaseLapsed(id) => peek(id).counts != self.model.job(id).expect("it is due").counts,
            Due::PauseOver(queue) => {
                let stats = self.state.queue_stats(self.now, &self.names[queue]);
                stats.is_none_or(|stats| stats.paused.is_none())
            }
            Due::Warning(session) => warned.contains(&session),
            Due::KeptOver(id) => self.state.peek(self.now, id).is_none(),
            Due::BatchForgotten(ref name) => self.state.batch_stats(name).total() == 0,
            // The caller knows it better.
            Due::Drained(_) => false,
        }
    }

    /// A model to which all of `left` has happened, in an order that agrees with what the state shows.
    fn explain(
        &self,
        model: &Model,
        left: &[Due],
        woken: &[SessionId],
        taken: &[(SessionId, Handed)],
    ) -> Option<Model> {
        if left.is_empty() {
            let fits = model.woken.len() == woken.len()
                && taken.iter().all(|handed| model.woken.contains(handed))
                && model
                    .jobs
                    .iter()
                    .map(|job| job.id)
                    .all(|id| self.state.peek(self.now, id) == model.peek(self.now, id));
            return fits.then(|| model.clone());
        }
        for (at, due) in left.iter().enumerate() {
            if model.has_sooner_sibling(due) {
                continue;
            }
            let mut next = model.clone();
            next.apply(self.now, due);
            let mut left = left.to_vec();
            left.remove(at);
            let sessions = next.woken.iter().map(|handed| handed.0);
            let explanation = if sessions.eq(woken.iter().copied().take(next.woken.len())) {
                self.explain(&next, &left, woken, taken)
            } else {
                None
            };
            // If no session waits, the order makes no difference.
            if explanation.is_some() || model.waiting() == 0 {
                return explanation;
            }
        }
        None
    }

    fn tick_all(&mut self, most: u64) {
        let mut calls = 0;
        while self.state.next_deadline().is_some_and(|next| next <= self.now.mono) {
            self.tick(most);
            calls += 1;
            assert!(calls < 10_000, "it never gets done");
        }
        assert_eq!(self.model.due(self.now), [], "this was due, and has not been done");
    }

    // ---- the journal ----

    fn compact(&mut self, changes: usize) {
        self.count("compactions");
        let journal = self.journal.as_mut().expect("there is one");
        let old: Vec<Change> = journal.drain(..changes).collect();
        for change in old {
            match change {
                Change::Job(spec, _) => journal.extend(self.state.export(self.now, spec.id)),
                Change::Pause(name, _) => {
                    let same = |change: &Change| matches!(change, Change::Pause(other, _) if *other == name);
                    journal.extend(self.state.export_pauses(self.now).into_iter().filter(same));
                }
                Change::GoneOf(_, counts) | Change::Batch(counts) => {
                    let same =
                        |change: &Change| matches!(change, Change::Batch(other) if other.name == counts.name);
                    journal.extend(self.state.export_batches(None, usize::MAX).into_iter().filter(same));
                }
                _ => {}
            }
        }
        let last = self.state.last_id();
        let names_last = |change: &Change| match change {
            Change::Job(spec, _) => spec.id == last,
            Change::Gone(id) | Change::GoneOf(id, _) | Change::IdsUsed(id) => *id == last,
            _ => false,
        };
        if !journal.iter().any(names_last) {
            journal.push(Change::IdsUsed(last));
        }
    }

    /// A state that was restored from these changes by a process whose clock began at another time.
    fn restored(&mut self, millis: u64, memory_max: u64, changes: &[Change]) -> (State, Now) {
        let now =
            Now { mono: Moment::from_millis(self.random.below(1_000)), wall_ms: self.now.wall_ms + millis };
        let mut state = State::new(memory_max, self.random.next());
        state.sum_live_bytes();
        for change in changes {
            state.restore(now, change.clone());
            if self.random.percent(1) {
                // A change may be read twice.
                state.restore(now, change.clone());
            }
        }
        assert!(state.effects().changes.is_empty() && state.effects().wakes.is_empty());
        (state, now)
    }

    fn restart(&mut self, millis: u64) {
        let journal = self.journal.take().expect("there is one");
        let memory_max = random_memory_max(self.profile, &mut self.random);
        let (state, now) = self.restored(millis, memory_max, &journal);
        self.model = self.model.after_restart(self.now, now);
        self.model.memory_max = memory_max;
        (self.state, self.now, self.journal) = (state, now, Some(journal));
        self.state.set_journaled();
        self.sessions.clear();
        self.ending.clear();
        self.count("restarts");
        while self.state.next_deadline().is_some_and(|next| next <= now.mono) {
            self.state.tick(now, 1_000);
        }
        self.adopt_order_of_queues();
        self.compare_effects();
        self.compare_everything();
    }

    fn try_restart(&mut self, millis: u64, from_exports: bool) {
        self.count("restarts tried");
        let journal = self.journal.clone().expect("there is one");
        let changes = if from_exports { self.exported() } else { journal };
        let (mut state, now) = self.restored(millis, self.model.memory_max, &changes);
        while state.next_deadline().is_some_and(|next| next <= now.mono) {
            state.tick(now, 1_000);
        }
        // The restored state replaces this one while it is compared.
        let model = self.model.after_restart(self.now, now);
        let here = (
            std::mem::replace(&mut self.state, state),
            std::mem::replace(&mut self.model, model),
            std::mem::replace(&mut self.now, now),
        );
        self.adopt_order_of_queues();
        self.compare_everything();
        (self.state, self.model, self.now) = here;
    }

    /// The whole state as compaction writes it, in any order.
    fn exported(&mut self) -> Vec<Change> {
        let mut changes = vec![Change::IdsUsed(self.state.last_id())];
        let ids: Vec<_> = self.model.jobs.iter().map(|job| job.id).collect();
        changes.extend(ids.into_iter().map(|id| self.state.export(self.now, id).expect("it is there")));
        changes.extend(self.state.export_pauses(self.now));
        changes.extend(self.export_batches());
        for at in 1..changes.len() {
            let other = self.random.within(0..=at as u64) as usize;
            changes.swap(at, other);
        }
        changes
    }

    /// The order of the queues after a restart is not specified.
    fn adopt_order_of_queues(&mut self) {
        let seen = self.state.queues(self.now, 0, usize::MAX);
        let names = &self.names;
        self.model.queues.sort_by_key(|queue| seen.iter().position(|s| s.1.name == names[queue.number]));
    }

    /// Neither is the order in which jobs die in one tick. But they come after the `before` jobs that had
    /// died earlier.
    fn adopt_order_of_deaths(&mut self, before: u64) {
        for (number, name) in self.names.iter().enumerate() {
            let expected = self.model.in_order(number, JobState::Dead);
            let old = expected
                .iter()
                .filter(|id| self.model.job(**id).expect("it is dead").dead_seq <= before)
                .count();
            let seen: Vec<_> = self.state.next_jobs(name, JobState::Dead).collect();
            assert_eq!(seen[..old], expected[..old], "those that were dead");
            let turns: Vec<_> =
                expected[old..].iter().map(|id| self.model.job(*id).expect("it is dead").dead_seq).collect();
            assert_eq!(seen.len(), expected.len());
            for (id, turn) in seen[old..].iter().zip(turns) {
                let job = self.model.jobs.iter_mut().find(|job| job.id == *id).expect("it is dead");
                assert_eq!(job.state(), JobState::Dead);
                job.dead_seq = turn;
            }
        }
    }

    // ---- comparisons ----

    /// Compares the effects, after each operation.
    fn compare_effects(&mut self) {
        let effects = self.state.effects();
        let changes = std::mem::take(&mut effects.changes);
        let wakes = std::mem::take(&mut effects.wakes);
        let expected = std::mem::take(&mut self.model.woken);
        assert!(wakes.iter().eq(expected.iter().map(|handed| &handed.0)), "woke {wakes:?}, not {expected:?}");
        match &mut self.journal {
            Some(journal) => journal.extend(changes),
            None => assert_eq!(changes, [], "there is no journal to be told"),
        }
    }

    /// Compares what is quick to compare, after each operation.
    fn compare_counters(&self) {
        let (state, model) = (&self.state, &self.model);
        assert_eq!(state.counts(), model.counts(None));
        assert_eq!(state.totals(), model.totals);
        assert_eq!(state.urgent(), model.urgent(None));
        assert_eq!(state.last_id(), model.last_id);
        assert_eq!(state.waiting(), model.waiting() as u64);
        assert_eq!(state.queue_count(), model.queues.len() as u64);
        assert_eq!(state.memory(), (model.memory(), model.memory_max));
        let live_bytes = if self.journal.is_some() { model.live_bytes() } else { 0 };
        assert_eq!(state.live(), (model.jobs.len() as u64, model.extra_end_bytes(), live_bytes));
        if let Some(first) = model.deadlines().iter().map(|&(at, _)| at).min() {
            let next = state.next_deadline();
            assert!(next.is_some_and(|next| next <= first), "{next:?} is too late for {first:?}");
        }
    }

    fn compare_everything(&self) {
        self.compare_counters();
        let (state, model, now) = (&self.state, &self.model, self.now);
        let first = model.jobs.first().map_or(model.last_id.0, |job| job.id.0).saturating_sub(3);
        for id in (first..=model.last_id.0 + 2).chain([0, u64::MAX]).map(JobId) {
            assert_eq!(state.job_stats(now, id), model.job_stats(now, id));
            assert_eq!(state.peek(now, id), model.peek(now, id));
            assert_same(state.finished(id), model.finished(id));
        }
        self.compare_batches();
        for (number, name) in self.names.iter().enumerate() {
            assert_eq!(state.queue_stats(now, name), model.queue_stats(now, number));
            assert_eq!(state.queue_details(now, name), model.queue_details(now, number));
            for wanted in JobState::ALL {
                assert!(
                    state.next_jobs(name, wanted).eq(model.in_order(number, wanted)),
                    "{wanted} in {name}"
                );
                let next = model.in_order(number, wanted).first().and_then(|&id| model.peek(now, id));
                assert_eq!(state.peek_next(now, name, wanted), next);
            }
            for wanted in [None].into_iter().chain(JobState::ALL.map(Some)) {
                let seen = state.list(now, &name.into(), wanted, usize::MAX, None);
                let expected = model.list(&Of::Queue(number), wanted, usize::MAX, None);
                assert!(seen.iter().map(|job| job.id).eq(expected), "{wanted:?} in {name}: {seen:?}");
            }
        }
        self.compare_queues(7);
    }

    /// Compares all queues, page by page.
    fn compare_queues(&self, most: usize) {
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let page = self.state.queues(self.now, after, most);
            assert!(page.len() <= most);
            let Some(&(last, _)) = page.last() else { break };
            assert!(page.is_sorted_by(|one, next| one.0 < next.0) && page[0].0 > after);
            after = last;
            seen.extend(page.into_iter().map(|(_, stats)| stats));
        }
        let expected = self.model.queues.iter();
        let expected: Vec<_> =
            expected.filter_map(|queue| self.model.queue_stats(self.now, queue.number)).collect();
        assert_eq!(seen, expected);
        let names: Vec<_> = seen.into_iter().map(|stats| stats.name).collect();
        assert!(self.state.queue_names(0, usize::MAX).into_iter().map(|(_, name)| name).eq(names));
    }
}

/// No limit, or one that is often reached.
fn random_memory_max(profile: &Profile, random: &mut Random) -> u64 {
    if random.percent(70) {
        return u64::MAX;
    }
    let jobs = random.within(1..=profile.jobs as u64);
    jobs * (JOB_OVERHEAD_BYTES + 50) + profile.queues as u64 * QUEUE_OVERHEAD_BYTES
}

#[track_caller]
fn assert_same<T: Debug + PartialEq>(seen: Result<T, Refusal>, expected: Result<T, Code>) {
    assert_eq!(seen.map_err(|refusal| refusal.code), expected);
}

fn later(now: Now, millis: u64) -> Now {
    Now { mono: now.mono.after(Duration::from_millis(millis)), wall_ms: now.wall_ms + millis }
}

/// What the state adds for a key beside its text. It is measured here, so that the state may change it.
fn rare_bytes() -> u64 {
    let memory = |key: Option<Key>| {
        let mut state = State::new(u64::MAX, 0);
        let options = Options::default().key(key);
        let submission = Submission::new(*b"").options(&options);
        let now = Now { mono: Moment::from_millis(0), wall_ms: 0 };
        state.submit(now, submission).expect("there is room");
        state.memory().0
    };
    memory(Some(Key::new("k").expect("it is good"))) - memory(None) - 1
}
