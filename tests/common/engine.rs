//! A broker on a clock that the test moves, for tests of the verbs. They know an engine only by its contract
//! (src/broker.rs), so that another engine can run them: it takes the place of the one in [`broker`].

use std::time::Duration;

use djqs::broker::{Config, Session};
use djqs::internal::clock::{Clock, ManualClock};
use djqs::{Broker, Code, Job, JobId, JobState, Options, Refusal, Submission};

/// The one place that makes an engine.
fn broker(clock: &ManualClock) -> Broker {
    let mut config = Config::default();
    config.clock = Clock::Manual(clock.clone());
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
        let clock = ManualClock::default();
        let broker = broker(&clock);
        Bench { operator: broker.connect(), broker, clock }
    }

    pub(crate) fn session(&self) -> Session {
        self.broker.connect()
    }

    /// Lets time pass, and everything happen that is due.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.broker.tick();
    }

    /// Submits a job to the queue `default`.
    pub(crate) fn submit(&mut self, options: &Options) -> JobId {
        let accepted = self.operator.submit(Submission::new("work").options(options)).expect("there is room");
        assert_eq!(accepted.duplicate, None);
        accepted.id
    }

    /// Submits a job, which the session leases.
    pub(crate) fn leased(&mut self, session: &mut Session, options: &Options) -> JobId {
        let id = self.submit(options);
        assert_eq!(get(session), Some(id));
        id
    }

    pub(crate) fn peek(&mut self, id: JobId) -> Job {
        self.operator.peek(id).expect("it is there")
    }

    pub(crate) fn is(&mut self, id: JobId) -> JobState {
        self.peek(id).state
    }
}

/// Leases the next job of the queue `default`, without waiting.
pub(crate) fn get(session: &mut Session) -> Option<JobId> {
    session.lease(&[]).expect("a lease is not refused").map(|lease| lease.id)
}

/// With what code a verb was refused.
pub(crate) fn code<T>(result: Result<T, Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}
