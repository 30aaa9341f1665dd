//! The engine inside the process: the queue in memory, its clock, and the journal if there is one.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use super::{Config, Gauges, JournalOptions, OpenError, Recovered, Storage, Unavailable};
use crate::change::Change;
use crate::clock::{Clock, Moment};
use crate::job::{BatchName, JobId, QueueName};
use crate::journal::{Failure, Journal, Keeper};
use crate::queue::state::State;
use crate::queue::{Queue, SLICE_JOBS};
use crate::stats::{ServerDetails, ServerStats};
use recording::Recording;
pub(super) use session::{Canceller, Session};
use tallies::Tallies;

mod dispatch;
mod lengthy;
mod recording;
mod session;
mod tallies;

/// What all sessions share.
pub(super) struct Engine {
    queue: Arc<Queue<Recording>>,
    journal: Option<Journal>,
    draining: AtomicBool,
    started: Moment,
    gauges: Gauges,
    tallies: Tallies,
    /// Jobs that compaction has written anew.
    rewritten: AtomicU64,
    /// Has a handle to the queue only, so that dropping the last handle to the engine ends it.
    timekeeper: Option<JoinHandle<()>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("durable", &self.journal.is_some()).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(thread) = self.timekeeper.take() {
            // If it has panicked, it has reported that already.
            let _ = thread.join();
        }
    }
}

impl Engine {
    pub(super) fn in_memory(config: Config) -> Arc<Engine> {
        let mut state = State::new(config.memory_max, config.seed);
        state.remember_attempts();
        Engine::start(state, config, None).expect("the system starts one thread more")
    }

    pub(super) fn open(
        config: Config,
        storage: Arc<dyn Storage>,
        mut options: JournalOptions,
    ) -> Result<(Arc<Engine>, Recovered), OpenError> {
        let mut state = State::new(config.memory_max, config.seed);
        state.sum_live_bytes();
        state.remember_attempts();
        options.on_failure = options.on_failure.or_else(|| config.on_failure.clone());
        let now = config.clock.now();
        let path = storage.path("");
        let (journal, recovered) = Journal::open(storage, options, &mut |change| state.restore(now, change))?;
        state.restore(now, Change::IdsUsed(JobId(recovered.highest_id)));
        state.set_journaled();
        let engine = Engine::start(state, config, Some(journal.clone())).map_err(|source| OpenError::Io {
            action: "start a thread for",
            path,
            source,
        })?;
        let keeper: Weak<dyn Keeper> = Arc::downgrade(&engine) as _;
        journal.start_compaction(keeper);
        Ok((engine, recovered))
    }

    fn start(state: State, config: Config, journal: Option<Journal>) -> io::Result<Arc<Engine>> {
        let Config { clock, on_failure, .. } = config;
        let started = clock.now().mono;
        let recording = Recording::new(journal.clone(), &state);
        let on_broken = {
            let journal = journal.clone();
            move || {
                log::error!("a fault has left a change half made: every command is refused from now on");
                match (&journal, &on_failure) {
                    (Some(journal), _) => journal.fail(Failure::Broken),
                    (None, Some(on_failure)) => on_failure(&Failure::Broken),
                    (None, None) => {}
                }
            }
        };
        let queue = Arc::new(Queue::new(state, clock, recording, on_broken));
        let timekeeper = {
            let (queue, journal) = (Arc::clone(&queue), journal.clone());
            let nudge = move || journal.iter().for_each(Journal::nudge);
            let thread = std::thread::Builder::new().name("timekeeper".into());
            thread.spawn(move || queue.keep_time(nudge))?
        };
        Ok(Arc::new(Engine {
            queue,
            journal,
            draining: AtomicBool::new(false),
            started,
            gauges: Gauges::default(),
            tallies: Tallies::default(),
            rewritten: AtomicU64::new(0),
            timekeeper: Some(timekeeper),
        }))
    }

    pub(super) fn close(&self) -> Result<(), Unavailable> {
        self.journal.as_ref().map_or(Ok(()), Journal::close)
    }

    pub(super) fn connect(self: &Arc<Self>) -> Session {
        Session::open(Arc::clone(self))
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn tick(&self) {
        // A broken queue has nothing that is due.
        let _ = self.queue.tick();
    }

    pub(super) fn clock(&self) -> &Clock {
        self.queue.clock()
    }

    pub(super) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// The server's counters. Those of a broken queue are zero.
    pub(super) fn stats(&self) -> ServerStats {
        let now = self.queue.clock().now();
        let gauges = &self.gauges;
        let mut stats = ServerStats {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: now.mono.until(self.started),
            draining: self.draining.load(Ordering::Relaxed),
            connections: gauges.connections.load(Ordering::Relaxed),
            connections_max: gauges.connections_max.load(Ordering::Relaxed),
            connections_total: gauges.connections_total.load(Ordering::Relaxed),
            journal: self.journal.as_ref().map(|journal| Box::new(journal.stats())),
            ..ServerStats::default()
        };
        let _ = self.queue.with(now, |state, _| {
            stats.jobs = state.counts();
            stats.queues = state.queue_count();
            stats.waiting = state.waiting();
            (stats.memory_bytes, stats.memory_max_bytes) = state.memory();
            stats.totals = state.totals();
        });
        stats
    }

    /// The server's counters, in full.
    fn details(&self) -> ServerDetails {
        let mut stats = self.stats();
        let gauges = &self.gauges;
        let looked = self.queue.with(self.queue.clock().now(), |state, now| {
            (state.urgent(), state.queue_stats(now, &QueueName::default()).is_some())
        });
        let (urgent, has_default) = looked.map_or((0, true), |(looked, _)| looked);
        // `default` exists for everybody, used or not.
        stats.queues += u64::from(!has_default);
        let (commands, submitters, workers) = self.tallies.sums();
        ServerDetails {
            stats,
            urgent,
            commands,
            submitters,
            workers,
            rewritten: self.rewritten.load(Ordering::Relaxed),
            body_max: gauges.body_max.load(Ordering::Relaxed),
            machine: gauges.machine.get().cloned().unwrap_or_default(),
            cpu: gauges.cpu.get().map(|cpu| cpu()).unwrap_or_default(),
        }
    }
}

/// What compaction writes anew. A broken queue gives it nothing; its journal has failed.
impl Keeper for Engine {
    fn rewrite(&self, ids: &[JobId]) {
        let _ = self.queue.with(self.queue.clock().now(), |state, now| {
            let mut changes = Vec::new();
            for &id in ids {
                if let Some(job) = state.export(now, id) {
                    self.rewritten.fetch_add(1, Ordering::Relaxed);
                    changes.push(job);
                    changes.extend(state.export_history(id));
                }
            }
            state.effects().changes.extend(changes);
        });
    }

    fn rewrite_rest(&self) {
        let _ = self.queue.with(self.queue.clock().now(), |state, now| {
            let pauses = state.export_pauses(now);
            let ids_used = Change::IdsUsed(state.last_id());
            state.effects().changes.extend(pauses.into_iter().chain([ids_used]));
        });
        let mut after: Option<BatchName> = None;
        let _ = self.queue.in_slices(|state, _| {
            let batches = state.export_batches(after.as_ref(), SLICE_JOBS as usize);
            if let Some(Change::Batch(last)) = batches.last() {
                after = Some(last.name.clone());
            }
            let finished = batches.len() < SLICE_JOBS as usize;
            state.effects().changes.extend(batches);
            finished
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::broker::{Broker, Fsync, Outcome};
    use crate::error::Code;
    use crate::job::Submission;
    use crate::protocol::{Command, Dialect, OnDrained, Reply, Wait};
    use crate::stats::Counted;

    /// Executes `count` submissions as a connection does: in batches of 64, settled after each. Returns how
    /// often that took the queue's lock.
    fn locks_taken_by_submissions(broker: &Broker, count: usize) -> u64 {
        let mut session = broker.connect();
        let before = broker.engine.queue.times_locked();
        let (mut commands, mut outcomes) = (VecDeque::new(), VecDeque::new());
        for _ in 0..count / 64 {
            let submit = || (Command::Submit(Box::new(Submission::new(*b"TASK: 1"))), Dialect::Native);
            commands.extend((0..64).map(|_| submit()));
            while !commands.is_empty() {
                session.execute_all(&mut commands, &mut outcomes);
            }
            for (outcome, _) in outcomes.drain(..) {
                assert!(matches!(outcome, Outcome::Reply(Reply::Accepted { .. })), "{outcome:?}");
            }
            session.settle().unwrap();
        }
        broker.engine.queue.times_locked() - before
    }

    #[test]
    fn submissions_share_the_lock_with_a_journal_as_they_do_in_memory() {
        let config = Config::default();
        let in_memory = Broker::in_memory(config.clone());
        assert_eq!(locks_taken_by_submissions(&in_memory, 64_000), 1_000);

        let disk = Arc::new(crate::journal::storage::SimulatedDisk::new());
        let options = JournalOptions { fsync: Fsync::Never, ..JournalOptions::default() };
        let (durable, _) = Broker::open(config, disk, options).unwrap();
        let taken = locks_taken_by_submissions(&durable, 64_000);
        // Compaction takes the lock too, and so does a batch again that had to write the journal first.
        assert!((1_000..1_100).contains(&taken), "64,000 submissions took the lock {taken} times");
    }

    #[test]
    fn commands_behind_one_that_waits_are_counted_once() {
        let broker = Broker::in_memory(Config::default());
        let mut session = broker.connect();
        let lease = Command::Lease { queues: Vec::new(), wait: Wait::Forever, on_drained: OnDrained::Wait };
        let touch = Command::Touch { id: JobId(1), ttr: None, progress: None, note: None };
        let mut commands: VecDeque<_> =
            [lease, touch.clone(), touch].into_iter().map(|command| (command, Dialect::Native)).collect();
        let mut outcomes = VecDeque::new();
        while !commands.is_empty() {
            session.execute_all(&mut commands, &mut outcomes);
        }
        assert_eq!(outcomes.len(), 3);
        let (counts, ..) = broker.engine.tallies.sums();
        assert_eq!((counts.of(Counted::LeaseForever), counts.of(Counted::Touch)), (1, 2));
    }

    /// Breaks a broker as a fault in the state machine would, while a session waits for a job. `failures`
    /// counts those that are reported.
    fn break_while_a_session_waits(broker: &Broker, failures: &AtomicU64) {
        let mut waiting = broker.connect();
        std::thread::scope(|scope| {
            let waits = scope.spawn(move || {
                let queues = vec![QueueName::new("empty").unwrap()];
                let lease = Command::Lease { queues, wait: Wait::Forever, on_drained: OnDrained::Wait };
                let Outcome::Wait(wanted) = waiting.execute(lease) else { panic!("there is no job") };
                waiting.wait(&wanted)
            });
            while broker.stats().waiting == 0 {
                assert!(!waits.is_finished(), "it waits until the broker breaks");
                std::thread::yield_now();
            }
            let now = broker.clock().now();
            let queue = Arc::clone(&broker.engine.queue);
            let fault = scope.spawn(move || {
                let _ = queue.with(now, |_, _| -> () { panic!("a fault, for the test") });
            });
            assert!(fault.join().is_err());
            match waits.join().unwrap() {
                crate::broker::Waited::Refused(refusal) => assert_eq!(refusal.code, Code::Internal),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(failures.load(Ordering::Relaxed), 1, "reported once");
        let mut session = broker.connect();
        let refusal = session.submit(Submission::new(*b"TASK: 1")).unwrap_err();
        assert_eq!(refusal.code, Code::Internal, "{refusal:?}");
        let mut commands =
            VecDeque::from([(Command::Ping, Dialect::Native), (Command::Queues, Dialect::Native)]);
        let mut outcomes = VecDeque::new();
        commands.truncate(1);
        commands.push_back((Command::Ack { id: JobId(1), result: None }, Dialect::Native));
        session.execute_all(&mut commands, &mut outcomes);
        assert!(commands.is_empty());
        let internal = |outcome: &Outcome| matches!(outcome, Outcome::Reply(Reply::Refused(refusal)) if refusal.code == Code::Internal);
        assert_eq!(outcomes.len(), 2);
        assert!(outcomes.iter().all(|(outcome, _)| internal(outcome)), "{outcomes:?}");
        assert!(internal(&session.execute(Command::Queues)));
        assert_eq!(session.execute(Command::Quit), Outcome::Goodbye);
        drop(session);
        assert_eq!(failures.load(Ordering::Relaxed), 1, "reported once");
    }

    fn counting_failures() -> (Config, Arc<AtomicU64>) {
        let failures = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&failures);
        let on_failure = move |_: &Failure| {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (Config { on_failure: Some(Arc::new(on_failure)), ..Config::default() }, failures)
    }

    #[test]
    fn after_a_panic_under_the_lock_every_command_is_refused() {
        let (config, failures) = counting_failures();
        break_while_a_session_waits(&Broker::in_memory(config), &failures);
    }

    #[test]
    fn after_a_panic_under_the_lock_nothing_is_acknowledged_and_what_was_comes_back() {
        let (config, failures) = counting_failures();
        let disk = Arc::new(crate::journal::storage::SimulatedDisk::new());
        let (broker, _) = Broker::open(config, disk.clone(), JournalOptions::default()).unwrap();
        let mut session = broker.connect();
        let before = session.submit(Submission::new(*b"TASK: 1")).unwrap();
        session.settle().unwrap();
        let after = session.submit(Submission::new(*b"TASK: 2"));
        break_while_a_session_waits(&broker, &failures);
        if after.is_ok() {
            assert_eq!(session.settle().unwrap_err().code, Code::Unavailable);
        }
        assert!(broker.close().is_err());
        drop((session, broker));
        let (broker, _) = Broker::open(Config::default(), disk, JournalOptions::default()).unwrap();
        let found = broker.connect().peek(before.id).unwrap();
        assert_eq!(&*found.body, b"TASK: 1");
    }
}
