//! A broker on a clock that the test moves, for tests of the verbs. They know an engine only by its contract
//! (src/broker.rs), so that another engine can run them: it takes the place of the one in [`broker`].

use std::sync::mpsc::Receiver;
use std::time::Duration;

use djqs::broker::{Accepted, Canceller, Config, Failed, Outcome, Session, Waited};
use djqs::internal::clock::{Clock, ManualClock};
use djqs::job::{Counts, Failure};
use djqs::protocol::{Command, OnDrained, Reply, Wait};
use djqs::{Broker, Code, Job, JobId, JobState, Key, Lease, Options, QueueName, Refusal, Submission};

use super::{PATIENCE, aside};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A wait that looks, and does not wait.
pub(crate) const AT_ONCE: Wait = Wait::AtMost(Duration::ZERO);

/// The one place that makes an engine.
fn broker(clock: &ManualClock, memory_max: u64) -> Broker {
    let mut config = Config::default();
    config.clock = Clock::Manual(clock.clone());
    config.memory_max = memory_max;
    config.seed = 1;
    Broker::in_memory(config)
}

/// A broker, its clock, and a session that looks at jobs and submits them.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    pub(crate) operator: Session,
    clock: ManualClock,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with_memory(u64::MAX)
    }

    /// A broker whose jobs may take this many bytes.
    pub(crate) fn with_memory(memory_max: u64) -> Bench {
        let clock = ManualClock::default();
        let broker = broker(&clock, memory_max);
        Bench { operator: broker.connect(), broker, clock }
    }

    pub(crate) fn session(&self) -> Session {
        self.broker.connect()
    }

    pub(crate) fn sessions<const N: usize>(&self) -> [Session; N] {
        [(); N].map(|()| self.session())
    }

    /// Moves the clock, and nothing else.
    pub(crate) fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Lets time pass, and does everything that is due by then.
    pub(crate) fn pass(&self, time: Duration) {
        self.advance(time);
        self.broker.tick();
    }

    pub(crate) fn accept(&mut self, queue: &str, options: Options) -> Accepted {
        let submission = Submission::new("work").to(&name(queue)).options(&options);
        self.operator.submit(submission).expect("there is room")
    }

    /// Submits a job that is new.
    pub(crate) fn submit_to(&mut self, queue: &str, options: Options) -> JobId {
        let accepted = self.accept(queue, options);
        assert_eq!(accepted.duplicate, None);
        accepted.id
    }

    /// As [`Bench::submit_to`], to the queue `default`.
    pub(crate) fn submit(&mut self, options: Options) -> JobId {
        self.submit_to("default", options)
    }

    /// Submits a job, which the session leases.
    pub(crate) fn leased(&mut self, session: &mut Session, options: Options) -> JobId {
        let id = self.submit(options);
        assert_eq!(get(session), Some(id));
        id
    }

    /// Submits a job, which then dies.
    pub(crate) fn dead(&mut self, options: Options) -> JobId {
        let mut session = self.session();
        let id = self.leased(&mut session, options);
        assert_eq!(fail(&mut session, id, Failure::default().dead()), Failed::Dead);
        id
    }

    pub(crate) fn peek(&mut self, id: JobId) -> Job {
        self.operator.peek(id).expect("it is there")
    }

    pub(crate) fn is(&mut self, id: JobId) -> JobState {
        self.peek(id).state
    }

    /// The names of the queues that exist, the oldest first.
    pub(crate) fn queues(&mut self) -> Vec<String> {
        let queues = self.operator.queues().expect("nothing is broken");
        queues.into_iter().map(|stats| stats.name.to_string()).collect()
    }

    pub(crate) fn pause(&mut self, queue: &str, time: Option<Duration>) {
        self.operator.pause(&name(queue), time).expect("there is room");
    }

    pub(crate) fn resume(&mut self, queue: &str) {
        self.operator.resume(&name(queue)).expect("nothing is broken");
    }

    /// Waits for a job, in a thread. Returns once the broker counts the session as waiting.
    pub(crate) fn wait(&self, session: Session, queues: &[&str]) -> Waiting {
        self.begin_wait(session, queues, OnDrained::Wait)
    }

    /// As [`Bench::wait`], but the wait also ends once the queues are drained.
    pub(crate) fn drain(&self, session: Session, queues: &[&str]) -> Waiting {
        self.begin_wait(session, queues, OnDrained::End)
    }

    fn begin_wait(&self, session: Session, queues: &[&str], on_drained: OnDrained) -> Waiting {
        let get = Command::Lease { queues: names(queues), wait: Wait::Forever, on_drained };
        self.begin(session, get)
    }

    /// Executes a command that has to wait, in a thread. Returns once the broker counts the session as waiting.
    pub(crate) fn begin(&self, mut session: Session, command: Command) -> Waiting {
        let Outcome::Wait(wanted) = session.execute(command) else { panic!("there is nothing to wait for") };
        let (before, canceller) = (self.waiting(), session.canceller());
        let ended = aside(move || {
            let waited = session.wait(&wanted);
            (session, waited)
        });
        while self.waiting() == before {
            if let Ok((_, waited)) = ended.try_recv() {
                panic!("it does not wait, but has {waited:?}");
            }
            std::thread::yield_now();
        }
        Waiting { ended, canceller }
    }

    /// How many sessions wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.broker.stats().waiting
    }
}

/// A session that waits in a thread of its own.
pub(crate) struct Waiting {
    ended: Receiver<(Session, Waited)>,
    canceller: Canceller,
}

impl Waiting {
    /// The session, and how its wait ended.
    pub(crate) fn ended(self) -> (Session, Waited) {
        self.ended.recv_timeout(PATIENCE).expect("the wait ends")
    }

    /// The session, and the lease with which its wait ended.
    pub(crate) fn served(self) -> (Session, Lease) {
        match self.ended() {
            (session, Waited::Leased(lease)) => (session, lease),
            (_, other) => panic!("no lease, but {other:?}"),
        }
    }

    /// The session, whose wait ended because its queues are drained, and those of them that are paused.
    pub(crate) fn drained(self) -> (Session, Vec<QueueName>) {
        match self.ended() {
            (session, Waited::Drained(paused)) => (session, paused),
            (_, other) => panic!("not drained, but {other:?}"),
        }
    }

    /// Ends the wait before it is served.
    pub(crate) fn cancel(self) {
        self.canceller.cancel();
        assert_eq!(self.ended().1, Waited::Cancelled);
    }
}

/// Executes a command and settles, as a connection does.
pub(crate) fn tell(session: &mut Session, command: Command) -> Reply {
    let Outcome::Reply(reply) = session.execute(command) else { panic!("it waits") };
    session.settle().expect("the journal can be written");
    reply
}

/// Leases the next job of these queues, without waiting.
pub(crate) fn get_of(session: &mut Session, queues: &[&str]) -> Option<Lease> {
    session.lease(&names(queues)).expect("a lease is not refused")
}

/// As [`get_of`], of the queue `default`.
pub(crate) fn get(session: &mut Session) -> Option<JobId> {
    get_of(session, &["default"]).map(|lease| lease.id)
}

pub(crate) fn fail(session: &mut Session, id: JobId, failure: Failure) -> Failed {
    session.fail(id, failure).expect("it is leased")
}

/// A failure whose job is ready again at once.
pub(crate) fn at_once() -> Failure {
    Failure::default().retry_in(Duration::ZERO)
}

/// Returns a job, which is ready again at once.
pub(crate) fn return_job(session: &mut Session, id: JobId) {
    session.return_job(id, Duration::ZERO).expect("it is leased");
}

/// The code with which a verb was refused, if it was.
pub(crate) fn code<T>(result: Result<T, Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}

pub(crate) fn name(text: &str) -> QueueName {
    QueueName::new(text).expect("it is good")
}

fn names(queues: &[&str]) -> Vec<QueueName> {
    queues.iter().copied().map(name).collect()
}

pub(crate) fn options() -> Options {
    Options::default()
}

pub(crate) fn urgent(priority: u32) -> Options {
    options().priority(priority)
}

pub(crate) fn delayed(delay: Duration) -> Options {
    options().delay(delay)
}

pub(crate) fn attempts(attempts: u32) -> Options {
    options().attempts(attempts)
}

pub(crate) fn keyed(key: &str) -> Options {
    options().key(Key::new(key).expect("it is good"))
}

pub(crate) fn counts(failures: u32, crashes: u32, returns: u32) -> Counts {
    Counts { failures, crashes, returns }
}
