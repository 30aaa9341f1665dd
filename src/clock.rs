//! The only place that reads the time. A [`Clock`] is the system's, or one that a test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A point on the monotonic clock, in whole microseconds since the clock was made. Deadlines are moments.
///
/// With milliseconds, a wait could end up to a millisecond early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    micros: u64,
}

impl Moment {
    /// The moment that lies `millis` after the clock's beginning.
    pub const fn from_millis(millis: u64) -> Moment {
        Moment { micros: millis.saturating_mul(1000) }
    }

    pub(crate) const fn from_micros(micros: u64) -> Moment {
        Moment { micros }
    }

    pub(crate) const fn as_micros(self) -> u64 {
        self.micros
    }

    /// Whole milliseconds since the clock's beginning.
    pub const fn as_millis(self) -> u64 {
        self.micros / 1000
    }

    /// The moment `wait` later. A part of a microsecond is rounded up, so that no wait ends early.
    pub fn after(self, wait: Duration) -> Moment {
        let micros = u64::try_from(wait.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        Moment { micros: self.micros.saturating_add(micros) }
    }

    /// The moment `time` earlier, or the clock's beginning.
    pub fn before(self, time: Duration) -> Moment {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Moment { micros: self.micros.saturating_sub(micros) }
    }

    /// The time from `now` until this moment; zero if it has passed.
    pub fn until(self, now: Moment) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(now.micros))
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, for deadlines.
    pub mono: Moment,
    /// Wall clock, in milliseconds since 1970, for what outlives the process.
    pub wall_ms: u64,
}

impl Now {
    /// The wall-clock time of `moment`, in milliseconds since 1970, rounded up.
    pub fn wall_of(&self, moment: Moment) -> u64 {
        if moment >= self.mono {
            self.wall_ms.saturating_add((moment.micros - self.mono.micros).div_ceil(1000))
        } else {
            self.wall_ms.saturating_sub((self.mono.micros - moment.micros) / 1000)
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

    /// The instant of `moment`, for waiting on a condition variable. A manual clock has no instants: a thread
    /// that waits must be woken when the clock is moved.
    pub fn instant_of(&self, moment: Moment) -> Option<Instant> {
        match self {
            Clock::System(clock) => clock.origin.checked_add(Duration::from_micros(moment.micros)),
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
        let mono = Moment { micros: self.origin.elapsed().as_micros() as u64 };
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

    /// Moves the clock forward. A [`crate::Broker`] with this clock does what is due at its next
    /// [`crate::Broker::tick`].
    pub fn advance(&self, by: Duration) {
        self.millis.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    fn now(&self) -> Now {
        let millis = self.millis.load(Ordering::SeqCst);
        Now { mono: Moment::from_millis(millis), wall_ms: Self::WALL_ORIGIN_MS + millis }
    }
}

/// Measures how long something takes, finer than [`Moment`] does.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    /// Starts to measure.
    pub fn start() -> Stopwatch {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Stopwatch { started: Instant::now() }
    }

    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_ends_early() {
        let clock = Clock::system();
        let wait = Duration::from_millis(5);
        for _ in 0..100 {
            #[expect(clippy::disallowed_methods, reason = "the measure of the clock")]
            let begun = Instant::now();
            let end = clock.instant_of(clock.now().mono.after(wait)).expect("it is not far");
            let short = wait.saturating_sub(end - begun);
            assert!(short <= Duration::from_micros(1), "{short:?} too early");
        }
    }

    #[test]
    fn what_is_written_down_of_a_moment_is_never_before_it() {
        let now = Now { mono: Moment { micros: 1_500 }, wall_ms: 10 };
        let wall = [1_499, 1_500, 1_501, 2_500, 2_501].map(|micros| now.wall_of(Moment { micros }));
        assert_eq!(wall, [10, 10, 11, 11, 12]);
        assert_eq!(now.wall_of(Moment { micros: 0 }), 9);
    }
}
