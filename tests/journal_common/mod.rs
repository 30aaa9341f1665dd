//! What the journal's tests share: an owner of jobs, as the queue is one, workloads from a seed, and a
//! checker of what a journal restores.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use djqs::internal::change::{BatchCounts, Change, JobSpec, JobStatus, PauseState, Place, attempt_bytes};
use djqs::internal::journal::storage::{SimulatedDisk, Storage};
use djqs::internal::journal::{
    Fsync, JobSize, Journal, Keeper, Live, OpenError, Options, Position, Recovered, Unavailable, batch_bytes,
    job_bytes, pause_bytes,
};
use djqs::job::{
    ATTEMPTS_REMEMBERED, Attempt, AttemptEnd, BatchName, Counts, JobId, Key, Priority, QueueName, WorkerName,
};

/// The state after the changes of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub jobs: BTreeMap<u64, (JobSpec, JobStatus)>,
    pub paused: BTreeMap<QueueName, PauseState>,
    pub batches: BTreeMap<BatchName, BatchCounts>,
    /// Of each job, by number.
    pub attempts: BTreeMap<u64, BTreeMap<u32, Attempt>>,
    pub highest_id: u64,
}

impl World {
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Job(spec, status) => {
                self.highest_id = self.highest_id.max(spec.id.0);
                self.jobs.insert(spec.id.0, (spec, status));
            }
            Change::Status(id, status) => {
                if let Some(job) = self.jobs.get_mut(&id.0) {
                    job.1 = status;
                }
            }
            Change::Done(id, status, result) => {
                if let Some(job) = self.jobs.get_mut(&id.0) {
                    job.0.body = result;
                    job.1 = status;
                }
            }
            Change::Attempt(id, attempt) => {
                if self.jobs.contains_key(&id.0) {
                    let attempts = self.attempts.entry(id.0).or_default();
                    attempts.insert(attempt.number, attempt);
                    if attempts.len() > ATTEMPTS_REMEMBERED {
                        attempts.pop_first();
                    }
                }
            }
            Change::Gone(id) => self.end(id),
            Change::GoneOf(id, counts) => {
                self.end(id);
                self.batches.insert(counts.name.clone(), counts);
            }
            Change::Batch(counts) => {
                self.batches.insert(counts.name.clone(), counts);
            }
            Change::Pause(queue, PauseState::Running) => {
                self.paused.remove(&queue);
            }
            Change::Pause(queue, state) => {
                self.paused.insert(queue, state);
            }
            Change::IdsUsed(id) => self.highest_id = self.highest_id.max(id.0),
        }
    }

    fn end(&mut self, id: JobId) {
        self.highest_id = self.highest_id.max(id.0);
        self.jobs.remove(&id.0);
        self.attempts.remove(&id.0);
    }

    pub fn live(&self) -> Live {
        let jobs: u64 = self.jobs.values().map(|(spec, status)| job_bytes(&JobSize::of(spec, status))).sum();
        let pauses: u64 = self.paused.keys().map(pause_bytes).sum();
        let batches: u64 = self.batches.keys().map(batch_bytes).sum();
        let attempts: u64 = self
            .attempts
            .iter()
            .flat_map(|(id, attempts)| attempts.values().map(|attempt| attempt_bytes(JobId(*id), attempt)))
            .sum();
        Live { jobs: self.jobs.len() as u64, extra_end_bytes: 0, bytes: jobs + pauses + batches + attempts }
    }
}

/// An owner of jobs with its journal.
pub struct Owner {
    pub journal: Journal,
    pub world: Mutex<World>,
    /// The changes since it was opened, in order. Locked after the world.
    pub log: Mutex<Vec<Change>>,
}

impl Owner {
    /// Opens a journal, and starts its compaction.
    pub fn open(storage: Arc<dyn Storage>, options: Options) -> Result<(Arc<Owner>, Recovered), OpenError> {
        let mut world = World::default();
        let (journal, recovered) = Journal::open(storage, options, &mut |change| world.apply(change))?;
        assert!(recovered.highest_id >= world.highest_id);
        world.highest_id = recovered.highest_id;
        journal.set_live(world.live());
        let owner = Arc::new(Owner { journal, world: Mutex::new(world), log: Mutex::default() });
        let keeper: Arc<dyn Keeper> = owner.clone();
        owner.journal.start_compaction(Arc::downgrade(&keeper));
        Ok((owner, recovered))
    }

    /// Makes a change. The live bytes are counted again each time, which is slow and surely right.
    pub fn change(&self, change: &Change) -> Position {
        self.change_as(|_| Some(change.clone())).unwrap()
    }

    /// Makes a change that depends on the state.
    pub fn change_as(&self, choose: impl FnOnce(&World) -> Option<Change>) -> Option<Position> {
        let mut world = self.world.lock().unwrap();
        let change = choose(&world)?;
        world.apply(change.clone());
        let position = self.journal.append(&change);
        self.journal.set_live(world.live());
        self.log.lock().unwrap().push(change);
        Some(position)
    }

    pub fn wait(&self, position: Position) -> Result<(), Unavailable> {
        self.journal.wait(position)
    }
}

impl Keeper for Owner {
    fn rewrite(&self, ids: &[JobId]) {
        assert!(ids.len() <= 256);
        let world = self.world.lock().unwrap();
        for id in ids {
            if let Some((spec, status)) = world.jobs.get(&id.0) {
                self.journal.append(&Change::Job(spec.clone(), status.clone()));
                for attempt in world.attempts.get(&id.0).into_iter().flat_map(BTreeMap::values) {
                    self.journal.append(&Change::Attempt(*id, attempt.clone()));
                }
            }
        }
    }

    fn rewrite_rest(&self) {
        let world = self.world.lock().unwrap();
        for (queue, state) in &world.paused {
            self.journal.append(&Change::Pause(queue.clone(), *state));
        }
        for counts in world.batches.values() {
            self.journal.append(&Change::Batch(counts.clone()));
        }
        self.journal.append(&Change::IdsUsed(JobId(world.highest_id)));
    }
}

/// A small generator of random numbers: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

pub fn status(place: Place) -> JobStatus {
    JobStatus { priority: Priority(1024), place, counts: Counts::default(), reason: None }
}

pub fn spec(id: u64, body: &[u8]) -> JobSpec {
    JobSpec {
        id: JobId(id),
        queue: QueueName::default(),
        ttr: Duration::from_secs(60),
        attempts: 10,
        backoff: Duration::from_secs(1),
        key: None,
        created_s: 1_700_000_000,
        keep: Duration::ZERO,
        batch: None,
        body: body.into(),
    }
}

pub fn job(id: u64, body: &[u8]) -> Change {
    Change::Job(spec(id, body), status(Place::Ready))
}

fn batch(random: &mut Random) -> BatchName {
    BatchName::new(["night", "a.long.name/of-a-batch"][random.below(2) as usize]).unwrap()
}

/// A change that may come next in `world`, of any kind.
pub fn random_change(random: &mut Random, world: &World, body_max: u64) -> Change {
    let queue =
        || QueueName::new(["default", "mail", "a.very.long.name/for-a-queue"][world.jobs.len() % 3]).unwrap();
    let some_id = {
        let nth = random.below(world.jobs.len().max(1) as u64) as usize;
        world.jobs.keys().nth(nth).copied()
    };
    let some_status = |random: &mut Random| JobStatus {
        priority: Priority(random.below(3000) as u32),
        place: match random.below(4) {
            0 => Place::Ready,
            1 => Place::Delayed { until_wall_ms: 1_700_000_000_000 + random.below(1_000_000) },
            2 => Place::Cancelled { until_wall_ms: 1_700_000_000_000 + random.below(1_000_000) },
            // With a number, and without one, as in records of older versions.
            _ => Place::Dead { dead_seq: world.highest_id % 300 },
        },
        counts: Counts { failures: random.below(300) as u32, crashes: 0, returns: random.below(3) as u32 },
        reason: (random.below(2) == 0).then(|| "x".repeat(random.below(60) as usize).into()),
    };
    match (random.below(20), some_id) {
        (0..8, _) | (_, None) => {
            let id = world.highest_id + 1;
            let body: Vec<u8> = (0..random.below(body_max)).map(|_| random.next() as u8).collect();
            let key = (random.below(4) == 0).then(|| Key::new(&format!("key-{id}")).unwrap());
            let keep = Duration::from_secs(random.below(3));
            let batch = (random.below(3) == 0).then(|| batch(random));
            let spec = JobSpec { queue: queue(), key, keep, batch, ..spec(id, &body) };
            Change::Job(spec, if random.below(3) == 0 { some_status(random) } else { status(Place::Ready) })
        }
        (8..11, Some(id)) => Change::Status(JobId(id), some_status(random)),
        (11, Some(id)) => {
            let last = world.attempts.get(&id).and_then(|attempts| attempts.last_key_value());
            Change::Attempt(
                JobId(id),
                Attempt {
                    number: last.map_or(1, |(number, _)| number + 1),
                    worker: (random.below(2) == 0).then(|| WorkerName::new("w1").unwrap()),
                    started_ms: 1_700_000_000_000 + random.below(1_000_000),
                    ended_ms: 1_700_001_000_000,
                    end: AttemptEnd::ALL[random.below(3) as usize],
                    reason: (random.below(2) == 0).then(|| "x".repeat(random.below(60) as usize).into()),
                },
            )
        }
        (12, Some(id)) => {
            let place = Place::Done {
                until_wall_ms: 1_700_000_000_000 + random.below(1_000_000),
                ran_ms: random.below(100_000) as u32,
                result_dropped: random.below(4) == 0,
            };
            let result: Vec<u8> = (0..random.below(body_max)).map(|_| random.next() as u8).collect();
            Change::Done(JobId(id), status(place), result.into())
        }
        (13..19, Some(id)) => match &world.jobs[&id].0.batch {
            None => Change::Gone(JobId(id)),
            Some(name) => {
                let counts = world.batches.get(name).cloned();
                let counts = counts.unwrap_or_else(|| BatchCounts {
                    name: name.clone(),
                    done: 0,
                    cancelled: 0,
                    deleted: 0,
                    changed_wall_ms: 1_700_000_000_000,
                });
                Change::GoneOf(JobId(id), BatchCounts { done: counts.done + 1, ..counts })
            }
        },
        (_, Some(_)) => {
            let state = match random.below(3) {
                0 => PauseState::Running,
                1 => PauseState::Paused,
                _ => PauseState::PausedUntil { wall_ms: random.next() >> 20 },
            };
            Change::Pause(queue(), state)
        }
    }
}

/// What an owner did, and what was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Before the first change.
    pub before: World,
    /// In order.
    pub changes: Vec<Change>,
    /// How many of them were acknowledged.
    pub acknowledged: usize,
}

impl History {
    /// An error unless `world` is the state after some change, at the earliest after the change `least`.
    /// Returns the number of changes.
    pub fn check(&self, world: &World, least: usize) -> Result<usize, String> {
        let mut expected = self.before.clone();
        for (count, change) in self.changes.iter().enumerate() {
            if count >= least && expected == *world {
                return Ok(count);
            }
            expected.apply(change.clone());
        }
        if expected == *world {
            return Ok(self.changes.len());
        }
        let mut expected = self.before.clone();
        for change in &self.changes[..least] {
            expected.apply(change.clone());
        }
        let lost: Vec<_> = expected.jobs.keys().filter(|id| !world.jobs.contains_key(id)).collect();
        let back: Vec<_> = world.jobs.keys().filter(|id| !expected.jobs.contains_key(id)).collect();
        Err(format!(
            "{least} of {} changes were acknowledged, and what came back is not a state after them: \
             jobs not there {lost:?}, jobs there {back:?} (ids used {} of {})",
            self.changes.len(),
            world.highest_id,
            expected.highest_id
        ))
    }
}

/// Runs a workload until it is finished or the journal fails. Everything happens in this thread.
pub fn run_workload(owner: &Owner, seed: u64, count: usize, body_max: u64) -> History {
    let mut random = Random(seed);
    let before = owner.world.lock().unwrap().clone();
    let mut history = History { before, ..History::default() };
    let sync = owner.journal.stats().fsync != Fsync::Always.to_string();
    for _ in 0..count {
        let change = {
            let world = owner.world.lock().unwrap();
            random_change(&mut random, &world, body_max)
        };
        let position = owner.change(&change);
        history.changes.push(change);
        if random.below(3) == 0 {
            if owner.wait(position).is_err() {
                return history;
            }
            history.acknowledged = history.changes.len();
        }
        if sync && random.below(10) == 0 && owner.journal.sync(position).is_err() {
            return history;
        }
        if random.below(8) == 0 && owner.journal.compact().is_err() {
            return history;
        }
    }
    if owner.journal.close().is_ok() {
        history.acknowledged = history.changes.len();
    }
    history
}

/// Options for a journal without threads: the same operations in the same order each time.
pub fn in_line(fsync: Fsync) -> Options {
    Options { fsync, segment_bytes: 8 << 10, background: false, salt: Some(7), ..Options::default() }
}

/// Whether to run everything, and not just what `make test` has time for.
pub fn exhaustive() -> bool {
    std::env::var_os("DJQS_EXHAUSTIVE").is_some()
}

/// Waits for a condition by polling, because there is no event to wait for. Gives up after a time that only a
/// fault exceeds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The size of the segments of [`options`].
pub const SEGMENT_BYTES: u64 = 32 << 10;

/// A journal with threads of its own and small segments.
pub fn options(fsync: Fsync) -> Options {
    Options { fsync, segment_bytes: SEGMENT_BYTES, ..Options::default() }
}

/// Opens such a journal.
pub fn open(disk: &SimulatedDisk, fsync: Fsync) -> Arc<Owner> {
    Owner::open(Arc::new(disk.clone()), options(fsync)).unwrap().0
}
