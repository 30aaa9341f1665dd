//! The verbs: what a command means, once, whichever dialect it came in.
//!
//! A [`Broker`] is the queue and its clock, and (in durable operation) its journal; a [`Session`] is one client's
//! standing with it: what it has leased, what it waits for. The server gives each connection a session; a
//! program that embeds the broker makes its own. Dropping a session is losing a connection: its leases count as
//! crashed. [`Session::quit`] hands them back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::change::{Change, Measure};
use crate::clock::{Clock, Moment, Now};
use crate::error::{Code, Refusal};
use crate::job::{Job, JobId, JobState, Lease, Options, Priority, QueueName, Submission};
pub use crate::journal::storage::{DiskError, DiskStorage, Storage, StorageFile};
use crate::journal::{self, Journal, Keeper, Position, Room};
pub use crate::journal::{
    Damage, Failure, Fsync, JournalStats, OnFailure, OpenError, Options as JournalOptions, Recovered,
    TornTail, Unavailable,
};
use crate::protocol::{Command, Compat, FEW_QUEUES, Reply, Retry, Wait};
use crate::queue::state::{Accepted, Ending, Failed, SessionId, Slice, State, Warn};
use crate::queue::{self, Held, Queue, SLICE_JOBS};
use crate::stats::{JobStats, Machine, QueueDetails, QueueStats, ServerDetails, ServerStats};
use recording::Recording;
use tallies::{Tallies, Tally};

mod recording;
mod tallies;

/// The most jobs that one LIST gives.
pub const LIST_JOBS_MAX: u32 = 1000;

/// A LIST ends early when its jobs, with their keys and reasons, have reached this many bytes, so that no reply is larger
/// than memory likes.
pub const LIST_BYTES_MAX: usize = 1 << 20;

/// Commands in a row lease no more jobs once their bodies have come to this many bytes: a client that is slow to read must
/// not have any number of them kept for it, or leased to it.
const ROW_BODIES_MAX: usize = 64 << 10;

/// The most that a record of a job takes in the journal, beside its body: names, key, reason and numbers.
const RECORD_BYTES_MAX: u64 = 2048;

/// The least size of the journal's segments, in bytes, in which every job fits whose body is no longer than `body_max`. A
/// job that does not fit makes its segment longer, for which there may be no room: on a full disk all replies may
/// have to wait for it.
pub fn segment_bytes_for(body_max: u64) -> u64 {
    journal::segment_bytes_for(body_max + RECORD_BYTES_MAX)
}

/// A good size for the journal's segments, in bytes, where no body is longer than `body_max`: room for twenty such jobs, but
/// 16 to 64 MiB where one fits in that. Where few jobs fit in a segment, much is left over at the ends of segments, which
/// a full disk can't spare; where segments are large, so is what is kept ready (docs/journal.md).
pub fn segment_bytes_by_default(body_max: u64) -> u64 {
    let twenty = body_max.saturating_add(RECORD_BYTES_MAX).saturating_mul(20);
    twenty.clamp(16 << 20, 64 << 20).max(segment_bytes_for(body_max))
}

/// When a submission refused for want of disk is worth trying again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a broker is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// What all jobs together may take in memory, in bytes; beyond it, submissions are refused. Default 1 GiB.
    pub memory_max: u64,
    /// Where the time comes from. Default the system's clocks.
    pub clock: Clock,
    /// What the jitter of backoffs is made from. Default one of its own for each process.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let seed = RandomState::new().hash_one(std::process::id());
        Config { memory_max: 1 << 30, clock: Clock::system(), seed }
    }
}

/// The queue behind its verbs. Clones are handles to the same broker.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue<Recording>>,
    journal: Option<Journal>,
    draining: AtomicBool,
    started: Moment,
    gauges: Gauges,
    tallies: Tallies,
    /// Jobs that compaction has written anew.
    rewritten: AtomicU64,
    /// Holds the queue, not this: so the last handle's end is the timekeeper's end.
    timekeeper: Option<JoinHandle<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(thread) = self.timekeeper.take() {
            // It only ever panics with a mistake of our own, which it has reported already.
            let _ = thread.join();
        }
    }
}

/// What the server counts for STATS.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections open now.
    pub connections: AtomicU64,
    /// The most that will be served.
    pub connections_max: AtomicU64,
    /// Connections accepted so far.
    pub connections_total: AtomicU64,
    /// The largest body that is accepted, in bytes.
    pub body_max: AtomicU64,
    /// Where the server runs, set once.
    pub machine: OnceLock<Machine>,
    /// How to learn what processor time the process has taken, in user mode and in the kernel; set once.
    pub cpu: OnceLock<fn() -> (Duration, Duration)>,
}

impl Broker {
    /// Makes a broker that keeps its jobs in memory only: they are gone when the process ends.
    ///
    /// ```
    /// use djqs::{Broker, Submission, broker::Config};
    /// let broker = Broker::in_memory(Config::default());
    /// let mut session = broker.connect();
    /// session.submit(Submission::new(*b"CLEANUP_LOGS: 2s_delay")).unwrap();
    /// let lease = session.lease(&[]).unwrap();
    /// session.ack(lease.id).unwrap();
    /// ```
    ///
    /// # Panics
    /// If the system can't start the timekeeper's thread.
    pub fn in_memory(config: Config) -> Broker {
        let state = State::new(config.memory_max, config.seed);
        Broker::start(state, config.clock, None)
    }

    /// Makes a broker that keeps its jobs in a journal, with those that are there already. Blocks while it reads them.
    ///
    /// # Errors
    /// [`OpenError`], where the journal can't be read or written; nothing in it has then been changed.
    ///
    /// # Panics
    /// If the system can't start the timekeeper's thread.
    pub fn open(
        config: Config,
        storage: Arc<dyn Storage>,
        options: JournalOptions,
    ) -> Result<(Broker, Recovered), OpenError> {
        let mut state = State::new(config.memory_max, config.seed);
        state.set_measure(Measure { job: journal::job_bytes, pause: journal::pause_bytes });
        let now = config.clock.now();
        let (journal, recovered) = Journal::open(storage, options, &mut |change| state.restore(now, change))?;
        state.restore(now, Change::IdsUsed(JobId(recovered.highest_id)));
        state.set_journaled();
        let broker = Broker::start(state, config.clock, Some(journal.clone()));
        let keeper: Weak<dyn Keeper> = Arc::downgrade(&broker.shared) as _;
        journal.start_compaction(keeper);
        Ok((broker, recovered))
    }

    fn start(state: State, clock: Clock, journal: Option<Journal>) -> Broker {
        let started = clock.now().mono;
        let recording = Recording::new(journal.clone(), &state);
        let queue = Arc::new(Queue::new(state, clock, recording));
        let timekeeper = {
            let (queue, journal) = (Arc::clone(&queue), journal.clone());
            let nudge = move || journal.iter().for_each(Journal::nudge);
            let thread = std::thread::Builder::new().name("timekeeper".into());
            thread.spawn(move || queue.keep_time(nudge)).expect("the system starts one thread more")
        };
        let shared = Shared {
            queue,
            journal,
            draining: AtomicBool::new(false),
            started,
            gauges: Gauges::default(),
            tallies: Tallies::default(),
            rewritten: AtomicU64::new(0),
            timekeeper: Some(timekeeper),
        };
        Broker { shared: Arc::new(shared) }
    }

    /// Makes all that happened durable and ends the journal with a mark that says so; what happens after it is answered
    /// with [`Code::Unavailable`]. Blocks. Without a journal it does nothing.
    ///
    /// # Errors
    /// [`Unavailable`], where the journal could not be written.
    pub fn close(&self) -> Result<(), Unavailable> {
        self.shared.journal.as_ref().map_or(Ok(()), Journal::close)
    }

    /// Lets a client in.
    pub fn connect(&self) -> Session {
        let id = self.shared.queue.open_session();
        Session {
            shared: Arc::clone(&self.shared),
            id,
            using: QueueName::default(),
            watching: 1,
            tally: self.shared.tallies.open(id),
            ended: false,
            unsettled: Position::default(),
            now: None,
            in_a_row: false,
            held: None,
        }
    }

    /// From now on refuses new jobs; everything else goes on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Carries out all that is due by now: what a test on a manual clock calls after moving it.
    pub fn tick(&self) {
        self.shared.queue.tick();
    }

    /// The clock that the broker goes by.
    pub fn clock(&self) -> &Clock {
        self.shared.queue.clock()
    }

    /// What the server counts for STATS.
    pub fn gauges(&self) -> &Gauges {
        &self.shared.gauges
    }

    /// The server's counters, as they are now: they may tell of jobs that are not safe yet, so that a server whose disk is slow,
    /// or stuck, can be looked at.
    pub fn stats(&self) -> ServerStats {
        self.shared.stats()
    }
}

impl Shared {
    fn stats(&self) -> ServerStats {
        let uptime = self.queue.clock().now().mono.until(self.started);
        let gauges = &self.gauges;
        let journal = self.journal.as_ref().map(|journal| Box::new(journal.stats()));
        let (stats, _) = self.queue.with(self.queue.clock().now(), |state, _| {
            let (memory_bytes, memory_max_bytes) = state.memory();
            ServerStats {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                uptime,
                draining: self.draining.load(Ordering::Relaxed),
                jobs: state.counts(),
                queues: state.queue_count(),
                connections: gauges.connections.load(Ordering::Relaxed),
                connections_max: gauges.connections_max.load(Ordering::Relaxed),
                connections_total: gauges.connections_total.load(Ordering::Relaxed),
                waiting: state.waiting(),
                memory_bytes,
                memory_max_bytes,
                totals: state.totals(),
                journal,
            }
        });
        stats
    }

    fn details(&self) -> ServerDetails {
        let mut stats = self.stats();
        let gauges = &self.gauges;
        let ((urgent, has_default), _) = self.queue.with(self.queue.clock().now(), |state, now| {
            (state.urgent(), state.queue_stats(now, &QueueName::default()).is_some())
        });
        // It is there for everybody, used or not.
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

impl Keeper for Shared {
    fn rewrite(&self, ids: &[JobId]) {
        self.queue.with(self.queue.clock().now(), |state, now| {
            let jobs = ids.iter().filter_map(|&id| state.export(now, id)).collect::<Vec<_>>();
            self.rewritten.fetch_add(jobs.len() as u64, Ordering::Relaxed);
            state.effects().changes.extend(jobs);
        });
    }

    fn rewrite_rest(&self) {
        self.queue.with(self.queue.clock().now(), |state, now| {
            let pauses = state.export_pauses(now);
            let ids_used = Change::IdsUsed(state.last_id());
            state.effects().changes.extend(pauses.into_iter().chain([ids_used]));
        });
    }
}

/// One client's standing with the broker.
///
/// Its methods don't block, but for [`Session::wait`] and [`Session::settle`], and [`Session::submit`] while the
/// journal is far behind. What they return is not to be shown to anybody, nor acted upon, before [`Session::settle`]
/// has returned: only then will a crash not take it back. Any number of calls may come before one settling: that is
/// what makes sending ahead fast.
pub struct Session {
    shared: Arc<Shared>,
    id: SessionId,
    /// The queue of submissions that name none, in the dialect that can say so.
    using: QueueName,
    /// How many queues it watches, in the dialect that can say so.
    watching: usize,
    /// Its commands, counted.
    tally: Arc<Tally>,
    ended: bool,
    /// The place in the journal that has to be safe before any reply of this session's may leave.
    unsettled: Position,
    /// The moment of the command, or of the batch of commands, that is being executed.
    now: Option<Now>,
    /// Whether several commands are being carried out in a row, under one taking of the queue's lock so far as that goes.
    in_a_row: bool,
    /// The queue's lock, meanwhile.
    held: Option<Held<Recording>>,
}

/// Ends one session's waits for a job, from any thread. Clones are handles to the same session.
#[derive(Clone, Debug)]
pub struct Canceller {
    queue: Weak<Queue<Recording>>,
    bell: Arc<queue::Bell>,
}

impl Canceller {
    /// Ends the session's wait now, and each later one as it begins. Does nothing once the session has ended. Does not
    /// block.
    pub fn cancel(&self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.cancel(&self.bell);
        }
    }
}

/// How a wait for a job ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// With a job.
    Leased(Lease),
    /// Time is up.
    TimedOut,
    /// A lease of the session's own is about to lapse.
    LapsesSoon,
    /// [`Canceller::cancel`] ended it.
    Cancelled,
    /// There is no memory for so many queues that nobody has named yet ([`Code::Full`]).
    Refused(Refusal),
}

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out or refused.
    Reply(Reply),
    /// There is no job yet: call [`Session::wait`].
    Wait {
        /// For a job of these queues; none for those that the session watches.
        queues: Vec<QueueName>,
        /// Whether a lease of its own that is about to lapse ends the wait.
        warn: Warn,
        /// Until then; `None` for ever.
        deadline: Option<Moment>,
    },
    /// The client says goodbye: call [`Session::quit`].
    Goodbye,
}

impl Session {
    /// Executes a command. One that has to wait says so in its [`Outcome`]; it blocks only to submit a job while the
    /// journal is far behind.
    pub fn execute(&mut self, command: Command) -> Outcome {
        let outcome = self.execute_next(command);
        self.now = None;
        outcome
    }

    /// Executes a command at the moment of the batch that it is part of.
    fn execute_next(&mut self, command: Command) -> Outcome {
        self.now.get_or_insert_with(|| self.shared.queue.clock().now());
        if let Some(counted) = command.counted() {
            self.tally.count(counted);
        }
        let reply = match command {
            Command::Lease { queues, wait } => return self.lease_or_wait(queues, Warn::Never, wait),
            Command::Quit => return Outcome::Goodbye,
            Command::Submit(submission) => self.submit(submission).map(accepted),
            Command::Ack { id } => self.ack(id).map(done),
            Command::Fail { id, delay, dead, reason } => self.fail(id, delay, dead, reason).map(failed),
            Command::Return { id, delay } => self.give_back(id, delay).map(done),
            Command::Touch { id, ttr } => self.touch(id, ttr).map(done),
            Command::Peek { id } => self.peek(id).map(|job| Reply::Found(Box::new(job))),
            Command::List { queue, state, limit, after } => {
                Ok(Reply::Jobs(self.list(&queue, state, limit, after)))
            }
            Command::Retry(Retry::Job(id)) => self.retry(id).map(|()| Reply::Count(1)),
            Command::Retry(Retry::Queue { queue, limit }) => {
                Ok(Reply::Count(self.retry_queue(&queue, limit)))
            }
            Command::Delete { id } => self.delete(id).map(done),
            Command::Purge { queue, state } => self.purge(&queue, state).map(Reply::Count),
            Command::Pause { queue, time } => self.pause(&queue, time).map(done),
            Command::Resume { queue } => {
                self.resume(&queue);
                Ok(Reply::Done)
            }
            Command::Stats { queue: None } => Ok(Reply::ServerStats(Box::new(self.shared().stats()))),
            Command::Stats { queue: Some(queue) } => {
                self.queue_stats(&queue).map(|stats| Reply::QueueStats(Box::new(stats)))
            }
            Command::Queues => Ok(Reply::Queues(self.queues())),
            Command::Ping => Ok(Reply::Pong),
            Command::Help => Ok(Reply::Help),
            Command::Compat(compat) => return self.execute_compat(compat),
        };
        Outcome::Reply(reply.unwrap_or_else(Reply::Refused))
    }

    /// Carries out commands in a row, all of them [brief](Command::is_brief), under one taking of the queue's lock where that goes:
    /// up to and including the first that has to wait, or as many as have given [`ROW_BODIES_MAX`] bytes. They are
    /// taken from `commands`, and what came of them is added to `outcomes`, each with the `T` that came with it.
    ///
    /// They happen at one moment: reading the clock for each would be a tenth of their cost.
    pub(crate) fn execute_all<T>(
        &mut self,
        commands: &mut VecDeque<(Command, T)>,
        outcomes: &mut VecDeque<(Outcome, T)>,
    ) {
        self.in_a_row = true;
        let mut bodies = 0;
        while let Some((command, with)) = commands.pop_front() {
            let outcome = self.execute_next(command);
            let goes_on = matches!(outcome, Outcome::Reply(_));
            if let Outcome::Reply(Reply::Leased(lease)) = &outcome {
                bodies += lease.body.len();
            }
            outcomes.push_back((outcome, with));
            if !goes_on || bodies >= ROW_BODIES_MAX {
                break;
            }
        }
        self.in_a_row = false;
        self.held = None;
        self.now = None;
    }

    /// Apart from the rest, so that its large values don't take stack of connections that never say such a thing.
    #[inline(never)]
    fn execute_compat(&mut self, command: Compat) -> Outcome {
        let reply = match command {
            Compat::LeaseWatched { wait } => return self.lease_or_wait(Vec::new(), Warn::BeforeLapse, wait),
            Compat::SubmitHere(options, body) => self.submit_here(options, body).map(accepted),
            Compat::LeaseJob { id } => self.lease_job(id).map(Reply::Leased),
            Compat::Finish { id } => self.finish(id).map(done),
            Compat::ReturnAs { id, priority, delay } => self.give_back_as(id, priority, delay).map(done),
            Compat::Bury { id, priority } => self.bury(id, priority).map(|()| Reply::Dead),
            Compat::Kick { limit } => Ok(Reply::Count(self.kick(limit))),
            Compat::KickJob { id } => self.kick_job(id).map(done),
            Compat::PeekNext { state } => self.peek_next(state).map(|job| Reply::Found(Box::new(job))),
            Compat::Use { queue } => self.use_queue(queue).map(|()| self.using()),
            Compat::Used => Ok(self.using()),
            Compat::Watch { queue } => self.watch(&queue).map(Reply::Watching),
            Compat::Ignore { queue } => self.ignore(&queue).map(Reply::Watching),
            Compat::Watched => Ok(Reply::Names(self.watched())),
            Compat::PauseExisting { queue, time } => self.pause_existing(&queue, time).map(done),
            Compat::JobStats { id } => self.job_stats(id).map(|stats| Reply::JobStats(Box::new(stats))),
            Compat::QueueDetails { queue } => {
                self.queue_details(&queue).map(|details| Reply::QueueDetails(Box::new(details)))
            }
            Compat::ServerDetails => Ok(Reply::ServerDetails(Box::new(self.shared().details()))),
            Compat::QueueNames => Ok(Reply::Names(self.queue_names())),
        };
        Outcome::Reply(reply.unwrap_or_else(Reply::Refused))
    }

    /// Blocks until all that this session was told is safe, as the journal's policy promises.
    ///
    /// # Errors
    /// [`Code::Unavailable`] where the journal can no longer be written: what became of the commands since the last settling
    /// is not known.
    pub fn settle(&mut self) -> Result<(), Refusal> {
        let Some(journal) = &self.shared.journal else { return Ok(()) };
        journal.wait(self.unsettled).map_err(unavailable)
    }

    /// As [`Session::settle`], but where another thread is at it already, does not wait for that and returns false. What
    /// `prepare` has made is called instead, once, by whoever comes to know; it must not block.
    ///
    /// # Errors
    /// [`Code::Unavailable`], as above; whoever is called gets the same.
    pub fn settle_or_call<C>(&mut self, prepare: impl FnOnce() -> C) -> Result<bool, Refusal>
    where
        C: FnOnce(Result<(), Refusal>) + Send + 'static,
    {
        let Some(journal) = &self.shared.journal else { return Ok(true) };
        let prepare = || {
            let call = prepare();
            |result: Result<(), _>| call(result.map_err(unavailable))
        };
        journal.wait_or_call(self.unsettled, prepare).map_err(unavailable)
    }

    /// The moment of the commands that are being executed; for a verb that is called by itself, now.
    fn now(&self) -> Now {
        self.now.unwrap_or_else(|| self.shared.queue.clock().now())
    }

    /// Calls a verb, and notes what has to be safe before its result is shown.
    fn with<T>(&mut self, verb: impl FnOnce(&mut State, Now) -> T) -> T {
        let (result, position) = self.locked(verb);
        self.unsettled = self.unsettled.max(position);
        result
    }

    /// Calls a verb under the queue's lock, and holds that on in a row, unless somebody is to be woken.
    fn locked<T>(&mut self, verb: impl FnOnce(&mut State, Now) -> T) -> (T, Position) {
        let now = self.now();
        let Some(held) = self.hold() else { return self.shared.queue.with(now, verb) };
        let done = held.with(now, verb);
        if held.has_errands() {
            self.held = None;
        }
        done
    }

    /// The queue's lock, where it is to be held for the next command too.
    fn hold(&mut self) -> Option<&mut Held<Recording>> {
        self.in_a_row.then(|| self.held.get_or_insert_with(|| self.shared.queue.hold()))
    }

    /// What the session shares with others, for what may block or takes the queue's lock itself: lets go of it.
    fn shared(&mut self) -> &Shared {
        self.held = None;
        &self.shared
    }

    /// Calls a verb that neither shows nor changes anything that a crash could take back.
    fn look<T>(&mut self, verb: impl FnOnce(&mut State, Now) -> T) -> T {
        self.locked(verb).0
    }

    /// Accepts a job.
    ///
    /// # Errors
    /// [`Code::Draining`]; [`Code::Full`] where the jobs take all the memory that they may.
    pub fn submit(&mut self, submission: Submission) -> Result<Accepted, Refusal> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(Refusal::new(Code::Draining, "this server takes no new jobs: submit to another one"));
        }
        if !self.has_room(submission.body.len() as u64 + RECORD_BYTES_MAX) {
            return Err(Refusal::full(
                FULL_RETRY_AFTER,
                "the disk is full, or no more files may be opened (the server's log says which): wait until some jobs are done, or make room",
            ));
        }
        self.with(|state, now| state.submit(now, submission))
    }

    /// Whether the journal has room for a job's record. The queue's lock is kept, unless the journal must be written
    /// first: then the session lets it go, and blocks.
    fn has_room(&mut self, bytes: u64) -> bool {
        let Some(journal) = &self.shared.journal else { return true };
        match journal.room(bytes) {
            Room::Yes => true,
            Room::No => false,
            Room::MustWrite => {
                self.held = None;
                journal.has_room(bytes)
            }
        }
    }

    fn lease_or_wait(&mut self, queues: Vec<QueueName>, warn: Warn, wait: Wait) -> Outcome {
        if let Some(lease) = self.lease(&queues) {
            return Outcome::Reply(Reply::Leased(lease));
        }
        let session = self.id;
        if warn == Warn::BeforeLapse && self.look(|state, now| state.lapses_soon(now, session)) {
            return Outcome::Reply(Reply::LapsesSoon);
        }
        let deadline = match wait {
            Wait::AtMost(Duration::ZERO) => return Outcome::Reply(Reply::Empty),
            Wait::AtMost(time) => Some(self.shared.queue.clock().now().mono.after(time)),
            Wait::Forever => None,
        };
        Outcome::Wait { queues, warn, deadline }
    }

    /// Leases the next job of the named queues (none named: of those that it watches, which is `default` alone unless it
    /// said otherwise), if there is one now.
    pub fn lease(&mut self, queues: &[QueueName]) -> Option<Lease> {
        let (now, session) = (self.now(), self.id);
        let leased = match self.hold() {
            Some(held) => held.lease(now, session, queues),
            None => self.shared.queue.lease(now, session, queues),
        };
        if self.watching > FEW_QUEUES {
            // It has looked at all of them, whether there was a job or not: others have their turn.
            self.held = None;
        }
        let (lease, position) = leased?;
        self.unsettled = self.unsettled.max(position);
        Some(lease)
    }

    /// Waits for a job of the named queues (none named: of those that it watches) until `deadline` (`None`: for ever), or
    /// until a lease of its own is about to lapse, if it wants to be warned. Blocks: arrange before that
    /// [`Canceller::cancel`] is called when the client disconnects.
    pub fn wait(&mut self, queues: &[QueueName], warn: Warn, deadline: Option<Moment>) -> Waited {
        let session = self.id;
        match self.shared().queue.wait(session, queues, warn, deadline) {
            queue::Waited::Leased(lease, position) => {
                self.unsettled = self.unsettled.max(position);
                Waited::Leased(lease)
            }
            queue::Waited::TimedOut => Waited::TimedOut,
            queue::Waited::LapsesSoon => Waited::LapsesSoon,
            queue::Waited::Cancelled => Waited::Cancelled,
            queue::Waited::Refused(refusal) => Waited::Refused(refusal),
        }
    }

    /// A leased job is done: it is gone.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack(&mut self, id: JobId) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, _| state.ack(session, id))
    }

    /// A leased job failed: it is tried again after `delay` or its backoff, or is dead.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn fail(
        &mut self,
        id: JobId,
        delay: Option<Duration>,
        dead: bool,
        reason: Option<Arc<str>>,
    ) -> Result<Failed, Refusal> {
        let session = self.id;
        let reason = reason.filter(|reason| {
            let journal = self.shared.journal.as_ref();
            journal.is_none_or(|journal| journal.has_room_for_reason(reason.len() as u64))
        });
        self.with(|state, now| state.fail(now, session, id, delay, dead, reason))
    }

    /// A leased job is handed back undone, ready again after `delay`; no attempt is charged.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn give_back(&mut self, id: JobId, delay: Duration) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, now| state.give_back(now, session, id, delay))
    }

    /// A lease starts anew, for `ttr` or the job's own time to run.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn touch(&mut self, id: JobId, ttr: Option<Duration>) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, now| state.touch(now, session, id, ttr))
    }

    /// Looks at a job.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn peek(&mut self, id: JobId) -> Result<Job, Refusal> {
        let found = self.with(|state, now| state.peek(now, id));
        found.ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no job {id}")))
    }

    /// Looks at a queue's jobs, oldest first: at most `limit` (and [`LIST_JOBS_MAX`]), or [`LIST_BYTES_MAX`] of them.
    pub fn list(
        &mut self,
        queue: &QueueName,
        state: Option<JobState>,
        limit: u32,
        after: Option<JobId>,
    ) -> Vec<Job> {
        let limit = limit.min(LIST_JOBS_MAX) as usize;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        let position = self.shared().queue.in_slices(|shared, now| {
            let after = jobs.last().map(|job: &Job| job.id).or(after);
            let most = (limit - jobs.len()).min(SLICE_JOBS as usize);
            let slice = shared.list(now, queue, state, most, after);
            let finished = slice.len() < SLICE_JOBS as usize;
            for job in slice {
                let key = job.key.as_ref().map_or(0, |key| key.as_str().len());
                bytes += job.body.len() + key + job.reason.as_ref().map_or(0, |reason| reason.len());
                jobs.push(job);
                if bytes >= LIST_BYTES_MAX {
                    return true;
                }
            }
            finished || jobs.len() == limit
        });
        self.waited_through(position);
        jobs
    }

    /// A dead job back to ready, with all its attempts.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such dead job.
    pub fn retry(&mut self, id: JobId) -> Result<(), Refusal> {
        self.with(|state, now| state.retry(now, id))
    }

    /// A queue's dead jobs back to ready, oldest first, at most `limit` of them; returns how many.
    pub fn retry_queue(&mut self, queue: &QueueName, limit: Option<u64>) -> u64 {
        let mut left = None;
        self.slices_up_to_now(|state, now, last| {
            // No more than are dead now: some of them may be dead again while it goes on, and it has to end.
            let dead = || state.queue_stats(now, queue).map_or(0, |stats| stats.jobs.dead);
            let left = left.get_or_insert_with(|| dead().min(limit.unwrap_or(u64::MAX)));
            let slice = state.retry_queue(now, queue, last, SLICE_JOBS.min(*left));
            *left -= slice.count;
            Slice { finished: slice.finished || *left == 0, ..slice }
        })
    }

    /// Removes a job, unless another session has it leased.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn delete(&mut self, id: JobId) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, _| state.delete(session, id))
    }

    /// Removes a queue's ready, delayed and dead jobs, or those in one of these states; returns how many.
    ///
    /// # Errors
    /// [`Code::Usage`] for leased jobs: they belong to their workers.
    pub fn purge(&mut self, queue: &QueueName, state: Option<JobState>) -> Result<u64, Refusal> {
        let states = match state {
            // Ready jobs last: others become ready while it goes on, delayed ones as they come due.
            None => &[JobState::Delayed, JobState::Dead, JobState::Ready][..],
            Some(JobState::Leased) => {
                return Err(Refusal::usage(
                    "leased jobs belong to their workers: PURGE takes ready, delayed or dead",
                ));
            }
            Some(ref state) => std::slice::from_ref(state),
        };
        let mut count = 0;
        for &state in states {
            count += self.slices_up_to_now(|shared, _, last| shared.purge(queue, state, last, SLICE_JOBS));
        }
        Ok(count)
    }

    /// Hands out nothing of a queue, for `time` or until it is resumed.
    ///
    /// # Errors
    /// [`Code::Full`] where the queue would have to be made, and there is no memory for it.
    pub fn pause(&mut self, queue: &QueueName, time: Option<Duration>) -> Result<(), Refusal> {
        self.with(|state, now| {
            state.room_for(std::slice::from_ref(queue))?;
            state.pause(now, queue, time);
            Ok(())
        })
    }

    /// Hands out a queue's jobs again.
    pub fn resume(&mut self, queue: &QueueName) {
        let position = self.shared().queue.in_slices(|state, now| state.resume(now, queue));
        self.waited_through(position);
    }

    /// One queue's counters.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn queue_stats(&mut self, queue: &QueueName) -> Result<QueueStats, Refusal> {
        let stats = self.with(|state, now| state.queue_stats(now, queue));
        stats.ok_or_else(|| no_queue(queue))
    }

    /// All queues' counters, in the order in which they came to be.
    pub fn queues(&mut self) -> Vec<QueueStats> {
        let (mut all, mut after) = (Vec::new(), 0);
        let position = self.shared().queue.in_slices(|state, now| {
            let slice = state.queues(now, after, SLICE_JOBS as usize);
            let finished = slice.len() < SLICE_JOBS as usize;
            for (age, stats) in slice {
                after = age;
                all.push(stats);
            }
            finished
        });
        self.waited_through(position);
        all
    }

    // ---- what only the second dialect can say ----

    /// Accepts a job in the queue that the session uses.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub fn submit_here(&mut self, options: Options, body: Arc<[u8]>) -> Result<Accepted, Refusal> {
        self.submit(Submission { queue: self.using.clone(), options, body })
    }

    /// Leases one job, be it ready, delayed or dead; a pause of its queue does not matter.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such job, or it is leased already.
    pub fn lease_job(&mut self, id: JobId) -> Result<Lease, Refusal> {
        let session = self.id;
        self.with(|state, now| state.lease_job(now, session, id))
    }

    /// A job is done, if the session has it leased; it is removed, if nobody has.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn finish(&mut self, id: JobId) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, _| match state.is_leased_by(session, id) {
            true => state.ack(session, id),
            false => state.delete(session, id),
        })
    }

    /// A leased job is handed back undone, with another priority; no attempt is charged.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn give_back_as(&mut self, id: JobId, priority: Priority, delay: Duration) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, now| state.give_back_as(now, session, id, priority, delay))
    }

    /// A leased job is given up, whatever attempts it has left.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn bury(&mut self, id: JobId, priority: Priority) -> Result<(), Refusal> {
        let session = self.id;
        self.with(|state, now| state.bury(now, session, id, priority))
    }

    /// At most `limit` dead jobs of the queue that the session uses back to ready, or where it has none, delayed ones;
    /// returns how many.
    pub fn kick(&mut self, limit: u64) -> u64 {
        let (queue, mut plan, mut count) = (self.using.clone(), None, 0);
        let position = self.shared().queue.in_slices(|state, now| {
            // Those that there are now, and not those that come while it goes on, so that it ends.
            let (from, there) = *plan.get_or_insert_with(|| state.kickable(&queue));
            let most = (there.min(limit) - count).min(SLICE_JOBS);
            let kicked = state.kick(now, &queue, from, most);
            count += kicked;
            kicked < most || count == there.min(limit)
        });
        self.waited_through(position);
        count
    }

    /// One dead or delayed job to ready.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such job, or it is ready or leased.
    pub fn kick_job(&mut self, id: JobId) -> Result<(), Refusal> {
        self.with(|state, now| state.kick_job(now, id))
    }

    /// Looks at the job of the queue that the session uses that is next to leave this state.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is none.
    pub fn peek_next(&mut self, wanted: JobState) -> Result<Job, Refusal> {
        let queue = self.using.clone();
        let found = self.with(|state, now| state.peek_next(now, &queue, wanted));
        found.ok_or_else(|| Refusal::new(Code::NotFound, format!("no job of {queue} is {wanted}")))
    }

    /// Uses this queue from now on for what names none.
    ///
    /// # Errors
    /// [`Code::Full`] where there is no memory for one more queue.
    pub fn use_queue(&mut self, queue: QueueName) -> Result<(), Refusal> {
        let session = self.id;
        self.look(|state, _| state.use_queue(session, &queue))?;
        self.using = queue;
        Ok(())
    }

    fn using(&self) -> Reply {
        Reply::Using(self.using.clone())
    }

    /// Watches this queue too from now on; returns how many it watches.
    ///
    /// # Errors
    /// [`Code::Full`] where there is no memory for one more queue, or the session watches too many.
    pub fn watch(&mut self, queue: &QueueName) -> Result<usize, Refusal> {
        let session = self.id;
        self.watching = self.look(|state, _| state.watch(session, queue))?;
        Ok(self.watching)
    }

    /// Watches this queue no more; returns how many it watches.
    ///
    /// # Errors
    /// [`Code::Usage`] where it is the only one.
    pub fn ignore(&mut self, queue: &QueueName) -> Result<usize, Refusal> {
        let session = self.id;
        self.watching = self.look(|state, _| state.ignore(session, queue))?;
        Ok(self.watching)
    }

    /// The queues that it watches.
    pub fn watched(&mut self) -> Vec<QueueName> {
        let session = self.id;
        self.look(|state, _| state.watched(session))
    }

    /// Hands out nothing of a queue that exists, for `time`; no time ends a pause.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such queue.
    pub fn pause_existing(&mut self, queue: &QueueName, time: Duration) -> Result<(), Refusal> {
        let exists = self.with(|state, now| state.pause_existing(now, queue, time));
        if exists && time.is_zero() {
            // Where very many wait, not all of them have been served yet.
            self.resume(queue);
        }
        exists.then_some(()).ok_or_else(|| no_queue(queue))
    }

    /// One job, and what it has been through.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn job_stats(&mut self, id: JobId) -> Result<JobStats, Refusal> {
        let found = self.with(|state, now| state.job_stats(now, id));
        found.ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no job {id}")))
    }

    /// One queue's counters, and who is attached to it.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn queue_details(&mut self, queue: &QueueName) -> Result<QueueDetails, Refusal> {
        self.with(|state, now| state.queue_details(now, queue)).ok_or_else(|| no_queue(queue))
    }

    /// All queues' names in the order in which they came to be; first `default`, which is there for everybody.
    pub fn queue_names(&mut self) -> Vec<QueueName> {
        let (mut all, mut after) = (vec![QueueName::default()], 0);
        let position = self.shared().queue.in_slices(|state, _| {
            let slice = state.queue_names(after, SLICE_JOBS as usize);
            let finished = slice.len() < SLICE_JOBS as usize;
            after = slice.last().map_or(after, |(age, _)| *age);
            all.extend(slice.into_iter().map(|(_, name)| name).filter(|name| *name != QueueName::default()));
            finished
        });
        self.waited_through(position);
        all
    }

    /// Ends the session in good order: what it has leased is handed back, and no attempt is charged.
    pub fn quit(mut self) {
        self.end(Ending::Quit);
    }

    /// A handle that ends this session's waits from another thread.
    ///
    /// ```
    /// use djqs::{Broker, broker::{Config, Outcome, Waited}, protocol::{Command, Wait}};
    /// let broker = Broker::in_memory(Config::default());
    /// let mut session = broker.connect();
    /// let canceller = session.canceller();
    /// std::thread::spawn(move || canceller.cancel());
    /// let get = Command::Lease { queues: Vec::new(), wait: Wait::Forever };
    /// let Outcome::Wait { queues, warn, deadline } = session.execute(get) else { unreachable!() };
    /// assert_eq!(session.wait(&queues, warn, deadline), Waited::Cancelled);
    /// ```
    pub fn canceller(&self) -> Canceller {
        Canceller { queue: Arc::downgrade(&self.shared.queue), bell: self.shared.queue.bell(self.id) }
    }

    /// Works on the jobs that exist now, and not on those that come while it goes on, so that it ends.
    fn slices_up_to_now(&mut self, mut slice: impl FnMut(&mut State, Now, JobId) -> Slice) -> u64 {
        let (mut last, mut count) = (None, 0);
        let position = self.shared().queue.in_slices(|state, now| {
            let last = *last.get_or_insert(state.last_id());
            let done = slice(state, now, last);
            count += done.count;
            done.finished
        });
        self.waited_through(position);
        count
    }

    /// Notes what has to be safe, after something that took its time.
    fn waited_through(&mut self, position: Position) {
        self.unsettled = self.unsettled.max(position);
        self.now = None;
    }

    fn end(&mut self, ending: Ending) {
        self.ended = true;
        self.held = None;
        self.shared.tallies.close(self.id);
        self.shared.queue.end_session(self.id, ending);
        // Nobody waits for this to be safe.
        self.shared.journal.iter().for_each(Journal::nudge);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Ending::Lost);
        }
    }
}

fn unavailable(error: Unavailable) -> Refusal {
    Refusal::new(Code::Unavailable, format!("{error}; the server stops"))
}

fn no_queue(queue: &QueueName) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no queue {queue}: it is empty and unused"))
}

fn accepted(Accepted { id, duplicate }: Accepted) -> Reply {
    Reply::Accepted { id, duplicate }
}

fn done((): ()) -> Reply {
    Reply::Done
}

fn failed(outcome: Failed) -> Reply {
    match outcome {
        Failed::RetryIn(wait) => Reply::RetryIn(wait),
        Failed::Dead => Reply::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes `count` submissions as a connection does: in batches of 64, settled after each. Returns how often that took
    /// the queue's lock.
    fn locks_taken_by_submissions(broker: &Broker, count: usize) -> u64 {
        let mut session = broker.connect();
        let before = broker.shared.queue.times_locked();
        let (mut commands, mut outcomes) = (VecDeque::new(), VecDeque::new());
        for _ in 0..count / 64 {
            commands.extend((0..64).map(|_| (Command::Submit(Submission::new(*b"TASK: 1")), ())));
            while !commands.is_empty() {
                session.execute_all(&mut commands, &mut outcomes);
            }
            for (outcome, ()) in outcomes.drain(..) {
                assert!(matches!(outcome, Outcome::Reply(Reply::Accepted { .. })), "{outcome:?}");
            }
            session.settle().unwrap();
        }
        broker.shared.queue.times_locked() - before
    }

    #[test]
    fn submissions_share_the_lock_with_a_journal_as_they_do_in_memory() {
        let config = Config::default();
        let in_memory = Broker::in_memory(config.clone());
        assert_eq!(locks_taken_by_submissions(&in_memory, 64_000), 1_000);

        let disk = Arc::new(journal::storage::SimulatedDisk::new());
        let options = JournalOptions { fsync: Fsync::Never, ..JournalOptions::default() };
        let (durable, _) = Broker::open(config, disk, options).unwrap();
        let taken = locks_taken_by_submissions(&durable, 64_000);
        // Compaction takes the lock too, and so does a batch again that had to write the journal first.
        assert!((1_000..1_100).contains(&taken), "64,000 submissions took the lock {taken} times");
    }
}
