//! The only place that reads the time. [`Clock`] is the system's or one that a test moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A point on the monotonic clock, in whole milliseconds since the clock was made. Deadlines are of this kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment that lies `millis` after the clock's beginning.
    pub const fn from_millis(millis: u64) -> Moment {
        Moment(millis)
    }

    /// Milliseconds since the clock's beginning.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `wait` later; a part of a millisecond counts as a whole one, so that no wait ends early.
    pub fn after(self, wait: Duration) -> Moment {
        let millis = wait.as_nanos().div_ceil(1_000_000);
        Moment(self.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// The moment `time` earlier, or the clock's beginning.
    pub fn before(self, time: Duration) -> Moment {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_sub(millis))
    }

    /// What is left from `now` until this moment; nothing if it has passed.
    pub fn until(self, now: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: what deadlines are compared with.
    pub mono: Moment,
    /// Wall clock, in milliseconds since 1970: what is written down to outlive the process.
    pub wall_ms: u64,
}

impl Now {
    /// The wall-clock time at which `moment` falls.
    pub fn wall_of(&self, moment: Moment) -> u64 {
        if moment >= self.mono {
            self.wall_ms.saturating_add(moment.0 - self.mono.0)
        } else {
            self.wall_ms.saturating_sub(self.mono.0 - moment.0)
        }
    }
}

/// Where the time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clocks.
    System(SystemClock),
    /// A clock that stands still until it is moved.
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clocks, counting from now.
    pub fn system() -> Clock {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Clock::System(SystemClock { origin: Instant::now() })
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        match self {
            Clock::System(clock) => clock.now(),
            Clock::Manual(clock) => clock.now(),
        }
    }

    /// The instant at which `moment` falls, for waiting on a condition variable. A manual clock has no such
    /// instant: whoever waits on it must be woken when it is moved.
    pub fn instant_of(&self, moment: Moment) -> Option<Instant> {
        match self {
            Clock::System(clock) => clock.origin.checked_add(Duration::from_millis(moment.0)),
            Clock::Manual(_) => None,
        }
    }
}

/// The machine's clocks.
#[derive(Clone, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Now {
        let mono = Moment(self.origin.elapsed().as_millis() as u64);
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono, wall_ms: wall.as_millis() as u64 }
    }
}

/// A clock that stands still until it is moved; clones share it.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    millis: Arc<AtomicU64>,
}

impl ManualClock {
    /// The wall-clock time at a manual clock's beginning: 2020-01-01T00:00:00Z, in milliseconds since 1970.
    pub const WALL_ORIGIN_MS: u64 = 1_577_836_800_000;

    /// Moves the clock forward. A [`crate::Broker`] on this clock acts upon it at its next
    /// [`crate::Broker::tick`].
    pub fn advance(&self, by: Duration) {
        self.millis.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    fn now(&self) -> Now {
        let millis = self.millis.load(Ordering::SeqCst);
        Now { mono: Moment(millis), wall_ms: Self::WALL_ORIGIN_MS + millis }
    }
}

/// Measures how long something takes, finer than [`Moment`] does.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Begins to measure.
    pub fn start() -> Stopwatch {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Stopwatch { started: Instant::now() }
    }

    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
