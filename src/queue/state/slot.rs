//! What the state keeps of one job, packed into few bytes: a million jobs make most of the server's memory.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::shared_options::SharedOptionsIx;
use super::{QueueIx, SessionId};
use crate::clock::{Moment, Now};
use crate::job::{Attempt, Counts, JobState, Key, Priority};

/// A job's part in the table.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) body: Arc<[u8]>,
    pub(super) place: Packed,
    /// What only few jobs have.
    pub(super) extra: Option<Box<Extra>>,
    pub(super) queue: QueueIx,
    pub(super) options: SharedOptionsIx,
    pub(super) priority: Priority,
    pub(super) created_s: u32,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Extra {
    /// What the slot's own counts can't hold.
    pub(super) more: Counts,
    pub(super) key: Option<Key>,
    pub(super) reason: Option<Arc<str>>,
    pub(super) past: Past,
    pub(super) said: Option<Box<Said>>,
    /// Its last failed attempts, the oldest first.
    pub(super) history: Vec<Attempt>,
}

/// What a worker has said of a job that it works on. It does not outlive the process.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) percent: Option<u8>,
    pub(super) note: Option<Arc<str>>,
    pub(super) said_s: u32,
}

/// The accounted memory of what a worker has said, without its note.
pub(super) const SAID_OVERHEAD_BYTES: u64 = 64;

/// A job's past, for its statistics. It does not outlive the process, and is lost if there is no memory for
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Past {
    /// Failures and crashes that no longer count since the job was retried after it had died.
    pub(super) failures: u32,
    pub(super) crashes: u32,
    /// How often it was dead and is no longer.
    pub(super) deaths: u32,
    /// How often an operator made it ready.
    pub(super) kicks: u32,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    /// `seconds` is the whole delay, rounded up.
    Delayed {
        until: Moment,
        seconds: u32,
    },
    Leased {
        until: Moment,
        holder: SessionId,
    },
    /// `dead_seq` numbers the dead jobs in the order in which they died.
    Dead {
        dead_seq: u64,
    },
    /// `until` is when it is forgotten. Its result stands in the body's place.
    Done {
        until: Moment,
        ran_ms: u32,
        result: ResultIs,
    },
    Cancelled {
        until: Moment,
    },
}

/// Whether the result of a job that is done was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResultIs {
    Kept,
    /// There was no room for it.
    Dropped,
}

/// Why a lease ended if its worker did not end it. Such a reason costs no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    Lapsed,
    Lost,
}

impl Crash {
    const ALL: [Crash; 2] = [Crash::Lapsed, Crash::Lost];

    /// The reason, for people. All jobs share it.
    fn reason(self) -> &'static Arc<str> {
        static REASONS: LazyLock<[Arc<str>; 2]> = LazyLock::new(|| {
            ["the lease lapsed".into(), "the connection that held the lease was lost".into()]
        });
        &REASONS[self as usize]
    }

    /// The crash with this reason.
    pub(super) fn of_reason(reason: &str) -> Option<Crash> {
        Crash::ALL.into_iter().find(|crash| **crash.reason() == *reason)
    }
}

/// A [`Place`], and in the bytes that it leaves free, the first [`COUNTED_IN_SLOT`] failures, crashes and
/// returns, and whether the last reason is a [`Crash`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    /// Microseconds of `until`, or `dead_seq`.
    at: u64,
    /// `seconds`, `holder` or `ran_ms`.
    with: u32,
    /// The three lowest bits: the state. The next two: the crash and one, or zero. The sixth: whether the result
    /// was dropped.
    tag: u8,
    failures: u8,
    crashes: u8,
    returns: u8,
}

const STATE_BITS: u8 = 0b111;
const CRASH_SHIFT: u8 = 3;
const CRASH_BITS: u8 = 0b11 << CRASH_SHIFT;
const DROPPED_BIT: u8 = 1 << 5;

/// How many failures, crashes and returns of a job cost no memory.
pub const COUNTED_IN_SLOT: u32 = u8::MAX as u32;

/// Whether a job's counts have their memory from the start: they decide when it dies, and the slot can't hold
/// them all.
pub(super) fn counts_in_advance(attempts: u32) -> bool {
    attempts > COUNTED_IN_SLOT
}

impl Place {
    pub(super) fn delayed(now: Now, delay: Duration) -> Place {
        let seconds = delay.as_nanos().div_ceil(1_000_000_000);
        Place::Delayed { until: now.mono.after(delay), seconds: u32::try_from(seconds).unwrap_or(u32::MAX) }
    }

    pub(super) fn state(self) -> JobState {
        match self {
            Place::Ready => JobState::Ready,
            Place::Delayed { .. } => JobState::Delayed,
            Place::Leased { .. } => JobState::Leased,
            Place::Dead { .. } => JobState::Dead,
            Place::Done { .. } => JobState::Done,
            Place::Cancelled { .. } => JobState::Cancelled,
        }
    }
}

impl Packed {
    /// The place of a job that has no past.
    pub(super) fn new(place: Place) -> Packed {
        let (at, with) = match place {
            Place::Ready => (0, 0),
            Place::Delayed { until, seconds } => (until.as_micros(), seconds),
            Place::Leased { until, holder } => (until.as_micros(), holder.0),
            Place::Dead { dead_seq } => (dead_seq, 0),
            Place::Done { until, ran_ms, .. } => (until.as_micros(), ran_ms),
            Place::Cancelled { until } => (until.as_micros(), 0),
        };
        let dropped = matches!(place, Place::Done { result: ResultIs::Dropped, .. });
        let tag = place.state() as u8 | if dropped { DROPPED_BIT } else { 0 };
        Packed { at, with, tag, failures: 0, crashes: 0, returns: 0 }
    }

    fn place(self) -> Place {
        let until = Moment::from_micros(self.at);
        match JobState::ALL[usize::from(self.tag & STATE_BITS)] {
            JobState::Ready => Place::Ready,
            JobState::Delayed => Place::Delayed { until, seconds: self.with },
            JobState::Leased => Place::Leased { until, holder: SessionId(self.with) },
            JobState::Dead => Place::Dead { dead_seq: self.at },
            JobState::Done => {
                let result = if self.tag & DROPPED_BIT == 0 { ResultIs::Kept } else { ResultIs::Dropped };
                Place::Done { until, ran_ms: self.with, result }
            }
            JobState::Cancelled => Place::Cancelled { until },
        }
    }
}

impl Slot {
    pub(super) fn place(&self) -> Place {
        self.place.place()
    }

    /// Moves the job; returns where it was.
    pub(super) fn set_place(&mut self, to: Place) -> Place {
        let (from, Packed { at, with, tag, .. }) = (self.place(), Packed::new(to));
        self.place = Packed { at, with, tag: self.place.tag & CRASH_BITS | tag, ..self.place };
        from
    }

    pub(super) fn counts(&self) -> Counts {
        let Packed { failures, crashes, returns, .. } = self.place;
        let more = self.extra.as_ref().map(|extra| extra.more).unwrap_or_default();
        Counts {
            failures: more.failures.saturating_add(failures.into()),
            crashes: more.crashes.saturating_add(crashes.into()),
            returns: more.returns.saturating_add(returns.into()),
        }
    }

    /// Stores as much of the counts as fits here. Returns the rest, for [`Extra::more`].
    pub(super) fn set_counts(&mut self, counts: Counts) -> Counts {
        let split = |count: u32| {
            let here = u8::try_from(count).unwrap_or(u8::MAX);
            (here, count - u32::from(here))
        };
        let (failures, more_failures) = split(counts.failures);
        let (crashes, more_crashes) = split(counts.crashes);
        let (returns, more_returns) = split(counts.returns);
        self.place = Packed { failures, crashes, returns, ..self.place };
        Counts { failures: more_failures, crashes: more_crashes, returns: more_returns }
    }

    pub(super) fn history(&self) -> &[Attempt] {
        self.extra.as_ref().map_or(&[], |extra| &extra.history)
    }

    pub(super) fn key(&self) -> Option<&Key> {
        self.extra.as_ref()?.key.as_ref()
    }

    /// Why the last attempt failed.
    pub(super) fn reason(&self) -> Option<&Arc<str>> {
        match self.crash() {
            Some(crash) => Some(crash.reason()),
            None => self.extra.as_ref()?.reason.as_ref(),
        }
    }

    fn crash(&self) -> Option<Crash> {
        let tag = (self.place.tag & CRASH_BITS) >> CRASH_SHIFT;
        Crash::ALL.into_iter().find(|&crash| tag == crash as u8 + 1)
    }

    /// Sets the last reason to a crash, or to the one in [`Extra`].
    pub(super) fn set_crash(&mut self, crash: Option<Crash>) {
        let tag = crash.map_or(0, |crash| (crash as u8 + 1) << CRASH_SHIFT);
        self.place.tag = self.place.tag & !CRASH_BITS | tag;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_small() {
        assert_eq!(size_of::<Slot>(), 56, "a million jobs of 100 bytes must fit in 200 MB");
    }
}
