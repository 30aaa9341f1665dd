//! Fetches jobs, runs them, renews their leases, and stops gracefully.
//!
//! A [`Worker`] uses the protocol like any other program. It runs several jobs at a time, each in a *slot*
//! with its own connection. A crossbeam channel feeds the jobs to as many runners, the threads in which
//! handlers run. While a handler runs, its slot renews the lease at every third of the job's time to run, so
//! a handler may take any time. If the lease is lost nevertheless, the run is cancelled.
//!
//! A closure handles a job: one for each task name ([`Worker::on`]), and one for all others
//! ([`Worker::otherwise`]). [`Program`] runs a program for each job, [`demonstrate`] only pretends to work. A
//! handler that panics has failed; the worker continues.
//!
//! ```
//! use djqs::worker::{Outcome, Worker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = djqs::Broker::in_memory(djqs::broker::Config::default());
//! # let server = djqs::server::Server::bind("127.0.0.1:0".parse()?, broker, Default::default())?;
//! # let address = server.local_addr()?.to_string();
//! # std::thread::spawn(move || server.run());
//! # let mut client = djqs::Client::connect(&address)?;
//! # client.submit(djqs::Submission::new("SEND_NOTIFICATION: user 9: hello"))?;
//! # client.submit(djqs::Submission::new("PAINT: the fence"))?;
//! let worker = Worker::new(address) // Such as "127.0.0.1:11300".
//!     .concurrency(4)
//!     .on("SEND_NOTIFICATION", |job| println!("to be sent: {}", job.args()))
//!     .on("CLEANUP_LOGS", |_| std::fs::remove_file("/var/log/my.log"))
//!     .otherwise(|job| {
//!         Outcome::dead(format_args!("no handler for {}", String::from_utf8_lossy(job.body())))
//!     })
//!     .drain(); // Ends when the queue has nothing left to do.
//! let control = worker.control(); // Stops, pauses and resumes it from another thread.
//! let summary = worker.run()?;
//! assert_eq!((summary.done, summary.dead), (1, 1));
//! # Ok(())
//! # }
//! ```

mod connection;
mod control;
mod demo;
mod handlers;
mod held;
mod identity;
mod job;
mod link;
mod orders;
mod outcome;
mod output;
mod presence;
mod process;
mod program;
mod renewal;
mod run_log;
mod running;
mod slot;
mod summary;
mod turns;

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use log::{error, info, warn};
use parking_lot::Mutex;

use crate::client::Address;
use crate::clock::{Clock, Moment};
use crate::job::{Hello, JobId, MAX_DURATION, QueueName, WorkerName};

pub use control::Control;
pub use demo::demonstrate;
pub use job::WorkerJob;
pub use outcome::{JobResult, Outcome};
pub use program::{Program, Stderr, Stdout};
pub use summary::{Summary, WorkerError};

use handlers::Handlers;
use held::Run;
use presence::Presence;
use running::Running;
use slot::Slot;
use turns::{Drain, Turns};

/// A worker, to be set up and then [run](Worker::run).
#[derive(Debug)]
pub struct Worker {
    server: String,
    name: Option<WorkerName>,
    queues: Vec<QueueName>,
    concurrency: usize,
    resume: Duration,
    grace: Duration,
    jobs: Option<u64>,
    drain: Drain,
    drain_timeout: Option<Duration>,
    handlers: Handlers,
    control: Control,
    clock: Clock,
}

impl Worker {
    /// A worker for the queue `default` of the server at this [`Address`], which is `HOST`, `HOST:PORT` or
    /// `unix:PATH`; one job at a time, without end.
    pub fn new(server: impl Into<String>) -> Worker {
        let clock = Clock::system();
        Worker {
            server: server.into(),
            name: None,
            queues: Vec::new(),
            concurrency: 1,
            resume: Duration::ZERO,
            grace: Duration::from_secs(25),
            jobs: None,
            drain: Drain::No,
            drain_timeout: None,
            handlers: Handlers::default(),
            control: Control::new(clock.clone()),
            clock,
        }
    }

    /// Gives the worker a name, by which the server shows it and people give it orders. Several workers may have
    /// the same. Default: the name of the host.
    pub fn name(mut self, name: WorkerName) -> Worker {
        self.name = Some(name);
        self
    }

    /// How long the leases of a lost connection wait for the worker to connect again, without a charged attempt.
    /// Meanwhile its jobs run on. If the worker dies, its jobs wait for that time too. Default: zero, so that
    /// they do not wait.
    pub fn resume(mut self, time: Duration) -> Worker {
        self.resume = time;
        self
    }

    /// Takes jobs from these queues, the most urgent job of all of them first. Default: `default`.
    pub fn queues(mut self, queues: impl IntoIterator<Item = QueueName>) -> Worker {
        self.queues = queues.into_iter().collect();
        self
    }

    /// Runs up to this many jobs at a time; 0 counts as 1. Default 1.
    pub fn concurrency(mut self, jobs: usize) -> Worker {
        self.concurrency = jobs.max(1);
        self
    }

    /// How long running jobs may take to finish after [`Control::stop`]. Default 25 s.
    pub fn grace(mut self, grace: Duration) -> Worker {
        self.grace = grace;
        self
    }

    /// Stops after this many jobs, however they end. Default: never.
    pub fn stop_after(mut self, jobs: u64) -> Worker {
        self.jobs = Some(jobs);
        self
    }

    /// Stops when the queues are drained: none of their jobs is ready, delayed or leased, by this worker or
    /// another. So it waits for the retries of failed jobs. Dead and cancelled jobs don't count. A paused
    /// queue is drained when none of its jobs is leased; if it has others, [`Summary::jobs_left`] is set.
    pub fn drain(mut self) -> Worker {
        self.drain = Drain::All;
        self
    }

    /// Stops when the queues have no job ready and none of this worker's jobs runs. It does not wait for
    /// delayed jobs, such as those that wait for their next attempt.
    pub fn drain_ready(mut self) -> Worker {
        self.drain = Drain::Ready;
        self
    }

    /// Stops, as after [`Control::stop`], when draining has taken this long. Default: no limit.
    pub fn drain_timeout(mut self, time: Duration) -> Worker {
        self.drain_timeout = Some(time);
        self
    }

    /// Lets a closure handle the jobs with this task name, and those whose body is this name and nothing
    /// else.
    ///
    /// A task name stands before the first `: ` of a body and has only `A-Z a-z 0-9 _ . -`.
    ///
    /// The closure returns an [`Outcome`], `()` or a `Result<T, E>` whose `T` is `()` or the job's result: see
    /// [`JobResult`]. As many threads may call it at once as
    /// jobs run at a time. A second closure for a name replaces the first.
    pub fn on<R: Into<Outcome>>(
        mut self,
        task: &str,
        handler: impl Fn(&WorkerJob) -> R + Send + Sync + 'static,
    ) -> Worker {
        self.handlers.add(task, handler);
        self
    }

    /// Lets a closure handle all other jobs. Without one, such jobs fail.
    pub fn otherwise<R: Into<Outcome>>(
        mut self,
        handler: impl Fn(&WorkerJob) -> R + Send + Sync + 'static,
    ) -> Worker {
        self.handlers.set_otherwise(handler);
        self
    }

    /// The handle that stops, pauses and resumes this worker.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Works until it is stopped, or until its limits are reached. Blocks.
    ///
    /// While the server can't be reached, it tries to connect again, with growing waits of up to 5 s. It logs
    /// this once, and once when the server is back. Each job has a log line when it starts and one when it
    /// ends.
    ///
    /// A handler that does not return when its job is [cancelled](WorkerJob::cancelled) is abandoned in its
    /// thread a few seconds after the grace period. Its job is returned, so the program should exit then.
    ///
    /// # Errors
    /// [`WorkerError`]; running jobs have been reported or returned before.
    pub fn run(self) -> Result<Summary, WorkerError> {
        let slots =
            usize::try_from(self.jobs.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(self.concurrency);
        let server: Address = match self.server.parse() {
            Ok(server) => server,
            Err(source) => return Err(WorkerError::Address { server: self.server, source }),
        };
        let resume =
            if slots > renewal::HOLD_IDS_MAX { Duration::ZERO } else { self.resume.min(MAX_DURATION) };
        let hello = identity::introduction(self.name, slots).inspect_err(|error| {
            warn!("the worker does not introduce itself to the server: no random bits: {error}");
        });
        let drain_until = self.drain_timeout.filter(|_| self.drain != Drain::No);
        let drain_until = drain_until.map(|time| self.clock.now().mono.after(time));
        let shared = Arc::new(Shared {
            presence: Presence::new(server.as_str()),
            server,
            hello: hello.ok().map(|hello| Hello { resume, ..hello }),
            resume,
            running: Running::new(),
            queues: self.queues,
            grace: self.grace,
            drain: self.drain,
            drain_until,
            handlers: self.handlers,
            control: self.control,
            clock: self.clock,
            turns: Turns::new(self.jobs),
            summary: Mutex::default(),
            unfinished: (self.drain != Drain::No || self.jobs.is_some()).then(Mutex::default),
            failure: Mutex::new(None),
            has_abandoned: AtomicBool::new(false),
        });
        shared.log_begin(slots);
        let (runs, to_run) = unbounded();
        let (ends, ended) = bounded(0);
        let threads = start(&shared, slots, &runs, &to_run, &ended);
        // The runners end when the last slot has.
        drop(runs);
        shared.wait_for(threads, ends);
        let mut summary = *shared.summary.lock();
        summary.unfinished = shared.unfinished.as_ref().map_or(0, |ids| ids.lock().len() as u64);
        summary.told_to_stop = shared.control.told_to_stop();
        let not_done = match summary.unfinished {
            0 => String::new(),
            1 => "; 1 job is not done".into(),
            jobs => format!("; {jobs} jobs are not done"),
        };
        info!(event = "stopped", done = summary.done, failed = summary.failed, dead = summary.dead,
            returned = summary.returned, cancelled = summary.cancelled, lost = summary.lost, unfinished = summary.unfinished;
            "stopped: {summary}{not_done}");
        match shared.failure.lock().take() {
            Some(failure) => Err(failure),
            None => Ok(summary),
        }
    }
}

/// The threads of a worker.
#[derive(Default)]
struct Threads {
    slots: Vec<thread::JoinHandle<()>>,
    runners: Vec<thread::JoinHandle<()>>,
    /// Those that act for all slots.
    others: Vec<thread::JoinHandle<()>>,
}

/// Starts the runners and the slots; if one can't be started, stops the others.
fn start(
    shared: &Arc<Shared>,
    slots: usize,
    runs: &Sender<Run>,
    to_run: &Receiver<Run>,
    ended: &Receiver<Infallible>,
) -> Threads {
    let mut threads = Threads::default();
    let (unlinked, all_linked) = bounded(0);
    let start_all = || -> io::Result<()> {
        for n in 1..=slots {
            let (shared, to_run) = (shared.clone(), to_run.clone());
            let runner = thread::Builder::new().name(format!("runner-{n}"));
            threads.runners.push(runner.spawn(move || shared.run_all(&to_run))?);
        }
        for n in 1..=slots {
            let (shared, slot) = (shared.clone(), Slot::new(shared.clone(), runs.clone(), unlinked.clone()));
            let thread = thread::Builder::new().name(format!("slot-{n}"));
            threads.slots.push(thread.spawn(move || shared.serve(slot))?);
        }
        if shared.hello.is_some() {
            let (of_renewal, of_orders) = (shared.clone(), shared.clone());
            let (ended_too, ended) = (ended.clone(), ended.clone());
            let thread = thread::Builder::new().name("renewal".into());
            threads.others.push(thread.spawn(move || renewal::renew_all(&of_renewal, &ended))?);
            let thread = thread::Builder::new().name("orders".into());
            let obey = move || orders::obey(&of_orders, &all_linked, &ended_too);
            threads.others.push(thread.spawn(obey)?);
        }
        Ok(())
    };
    if let Err(error) = start_all() {
        shared.fail(WorkerError::Thread(error));
    }
    threads
}

/// What a worker's threads share.
struct Shared {
    server: Address,
    /// How each connection introduces itself.
    hello: Option<Hello>,
    /// How long leases outlive their connection.
    resume: Duration,
    running: Running,
    queues: Vec<QueueName>,
    grace: Duration,
    drain: Drain,
    /// When the time for draining is up.
    drain_until: Option<Moment>,
    handlers: Handlers,
    control: Control,
    clock: Clock,
    presence: Presence,
    turns: Turns,
    summary: Mutex<Summary>,
    /// The jobs whose last run here did not end as done. `None` for a worker without an end, for which they
    /// would only grow.
    unfinished: Option<Mutex<HashSet<JobId>>>,
    /// The first error that ended the worker.
    failure: Mutex<Option<WorkerError>>,
    /// Whether a handler does not end.
    has_abandoned: AtomicBool,
}

impl Shared {
    fn now(&self) -> Moment {
        self.clock.now().mono
    }

    /// What a runner does.
    fn run_all(&self, to_run: &Receiver<Run>) {
        for run in to_run {
            let outcome = self.handlers.run(&run.job);
            // If the run was abandoned, nobody receives it.
            let _ = run.done.send(outcome);
        }
    }

    fn stop_as_unfit(&self, reason: &str, exit_code: u8) {
        self.fail(WorkerError::Unfit { reason: reason.to_owned(), exit_code });
    }

    /// Ends the worker; keeps the first error.
    fn fail(&self, failure: WorkerError) {
        {
            let mut first = self.failure.lock();
            if first.is_none() {
                error!(event = "failed", reason:% = failure; "stopping: {failure}");
                *first = Some(failure);
            }
        }
        self.control.end();
    }

    /// The server says that the queues are drained. Returns whether this is the first slot to learn it.
    fn drained(&self, paused: &[QueueName]) -> bool {
        if !self.control.end() {
            return false;
        }
        if paused.is_empty() {
            info!(event = "drained"; "the queues have nothing left to do");
            return true;
        }
        self.summary.lock().jobs_left = true;
        let names = paused.iter().map(QueueName::as_str).collect::<Vec<_>>().join(", ");
        warn!(event = "drained", paused = names.as_str(); "nothing left to do, except in paused queues: {names}");
        true
    }

    /// How much of the time for draining is left; `None` for no limit.
    fn time_left(&self) -> Option<Duration> {
        self.drain_until.map(|at| at.until(self.now()))
    }

    fn end_if_time_is_up(&self) {
        if self.time_left().is_some_and(|left| left.is_zero()) {
            self.time_is_up();
        }
    }

    /// The time for draining is up.
    fn time_is_up(&self) {
        if self.control.end() {
            self.summary.lock().jobs_left = true;
            warn!(event = "drain_timed_out"; "stopping: the time for draining is up; there may be jobs left");
        }
    }

    fn abandon_runner(&self) {
        self.has_abandoned.store(true, Ordering::SeqCst);
    }

    /// What a slot's thread does. If it panics, the worker ends, so that the other slots don't wait for ever.
    fn serve(&self, slot: Slot) {
        if catch_unwind(AssertUnwindSafe(|| slot.serve())).is_err() {
            self.fail(WorkerError::Internal);
        }
    }

    /// Waits for the slots, and for the runners whose handlers end. None of them panics.
    fn wait_for(&self, threads: Threads, ends: Sender<Infallible>) {
        threads.slots.into_iter().for_each(|slot| drop(slot.join()));
        drop(ends);
        threads.others.into_iter().for_each(|thread| drop(thread.join()));
        if !self.has_abandoned.load(Ordering::SeqCst) {
            threads.runners.into_iter().for_each(|runner| drop(runner.join()));
        }
    }

    fn log_begin(&self, slots: usize) {
        let names: Vec<&str> = self.queues.iter().map(QueueName::as_str).collect();
        let queues = if names.is_empty() { "default".to_owned() } else { names.join(",") };
        let server = self.server.as_str();
        info!(event = "begins", server = server, queues = queues.as_str(), jobs_at_a_time = slots;
            "works for {queues} at {server}, {slots} at a time");
    }
}
