//! What may have become of one job, or of one queue's pause: from what it was and what was done to it, all
//! that a restarted server may show.
//!
//! No file, no socket and no clock: the times come in with the events.

use std::sync::Arc;
use std::time::Duration;

use djqs::Options;
use djqs::job::{Counts, MAX_BACKOFF};

use crate::history::Connection;

/// How far a deadline may seem to be off, in milliseconds: two processes read the wall clock, in whole
/// milliseconds, and it is adjusted a little while they run.
pub(crate) const SLACK_MS: u64 = 50;

/// A point in time: the order in which things were told, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When {
    pub(crate) stamp: u64,
    pub(crate) ms: u64,
}

/// Something that was done to a job, or may have been.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) sent: When,
    pub(crate) answered: Option<When>,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Handed to a worker, who was told so.
    Leased {
        attempt: u32,
        by: Connection,
    },
    Fail {
        delay: Option<Duration>,
        dead: bool,
        reason: Option<Arc<str>>,
    },
    Return {
        delay: Duration,
    },
    /// The lease lapsed or was lost, as the reason says.
    Crash {
        reason: &'static str,
    },
    /// Handed to a worker that was never told of it; then handed back, when the server stopped, or the lease
    /// lapsed.
    Unseen {
        lapsed: Option<&'static str>,
    },
    Retry,
    /// ACK or DELETE.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reply has not come, or never will: it may have been executed.
    Unknown,
    Done,
    RetryIn(Duration),
    Dead,
    /// It was not executed.
    Refused,
}

impl Outcome {
    /// Whether it is known to have been executed.
    pub(crate) fn is_done(self) -> bool {
        !matches!(self, Outcome::Unknown | Outcome::Refused)
    }
}

/// The part of a job that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) place: Place,
    /// With a worker. No restarted server knows of that.
    pub(crate) held: bool,
    pub(crate) counts: Counts,
    pub(crate) reason: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    /// Until a moment that lies between these two, in milliseconds on the wall clock.
    Delayed {
        earliest: u64,
        latest: u64,
    },
    Dead,
}

/// The moments of time at which something that waits for `wait` may be due, if it was asked for between these
/// two.
fn due(from: u64, to: u64, shortest: Duration, longest: Duration) -> Place {
    if longest.is_zero() {
        return Place::Ready;
    }
    Place::Delayed {
        earliest: from + shortest.as_millis() as u64,
        latest: to + longest.as_millis() as u64 + 1,
    }
}

impl Status {
    /// That of a job that was submitted between these two moments.
    pub(crate) fn submitted(options: &Options, from: u64, to: u64) -> Status {
        let place = due(from, to, options.delay, options.delay);
        Status { place, held: false, counts: Counts::default(), reason: None }
    }

    /// What becomes of it by what was done; `None` where that can't be done to it, or not with that outcome.
    /// `now` is by when it was done, if nobody knows better.
    fn after(&self, entry: &Entry, options: &Options, now: u64) -> Option<Status> {
        let mut next = self.clone();
        let (from, to) = (entry.sent.ms, entry.answered.map_or(now, |answered| answered.ms));
        next.held = false;
        match &entry.event {
            Event::Leased { attempt, .. } => {
                let early =
                    matches!(self.place, Place::Delayed { earliest, .. } if from + SLACK_MS < earliest);
                if self.held || self.place == Place::Dead || early || self.counts.spent() + 1 != *attempt {
                    return None;
                }
                next.place = Place::Ready;
                next.held = true;
            }
            Event::Retry => {
                if self.place != Place::Dead {
                    return None;
                }
                next.place = Place::Ready;
                next.counts = Counts { returns: self.counts.returns, ..Counts::default() };
            }
            Event::Unseen { lapsed } => {
                if self.held || self.place == Place::Dead {
                    return None;
                }
                next.place = Place::Ready;
                match lapsed {
                    None => next.counts.returns += 1,
                    Some(reason) => return Some(next.crashed(reason, options)),
                }
            }
            _ if !self.held => return None,
            Event::Return { delay } => {
                next.counts.returns += 1;
                next.place = due(from, to, *delay, *delay);
            }
            Event::Crash { reason } => next = next.crashed(reason, options),
            Event::Fail { delay, dead, reason } => {
                next.counts.failures += 1;
                next.reason = reason.clone().or(next.reason);
                let dies = *dead || next.is_spent(options);
                let (shortest, longest) = match delay {
                    Some(delay) => (*delay, *delay),
                    None => backoff(options.backoff, next.counts.failures),
                };
                next.place = match entry.outcome {
                    Outcome::Unknown if dies => Place::Dead,
                    Outcome::Unknown => due(from, to, shortest, longest),
                    Outcome::Dead if dies => Place::Dead,
                    Outcome::RetryIn(wait) if !dies && (shortest..=longest).contains(&wait) => {
                        due(from, to, wait, wait)
                    }
                    _ => return None,
                };
            }
            Event::End => {
                unreachable!("what ends a job is looked at apart, since it is the end in any order")
            }
        }
        Some(next)
    }

    fn crashed(mut self, reason: &str, options: &Options) -> Status {
        self.counts.crashes += 1;
        self.reason = Some(reason.into());
        self.place = if self.is_spent(options) { Place::Dead } else { Place::Ready };
        self
    }

    fn is_spent(&self, options: &Options) -> bool {
        options.attempts != 0 && self.counts.spent() >= options.attempts
    }
}

/// The shortest and the longest wait after so many failures.
fn backoff(backoff: Duration, failures: u32) -> (Duration, Duration) {
    let plain = backoff.saturating_mul(1 << (failures - 1).min(30)).min(MAX_BACKOFF);
    (plain, (plain + plain / 4).min(MAX_BACKOFF))
}

/// All that may have become of a job that was `status` by `entries`, unless it has ended. Nothing at all
/// where the outcomes contradict each other.
pub(crate) fn possible(status: Status, entries: &[Entry], options: &Options, now: u64) -> Vec<Status> {
    let mut all = vec![status];
    for entry in entries.iter().filter(|entry| !matches!(entry.event, Event::End)) {
        if entry.outcome == Outcome::Refused {
            continue;
        }
        let mut next: Vec<Status> = Vec::new();
        let done = all.iter().filter_map(|status| status.after(entry, options, now));
        let not_done = all.iter().filter(|_| entry.outcome == Outcome::Unknown).cloned();
        for status in done.chain(not_done) {
            if !next.contains(&status) {
                next.push(status);
            }
        }
        all = next;
    }
    all
}

/// A PAUSE or RESUME, or what a restarted server showed.
#[derive(Debug)]
pub(crate) struct Pausing {
    pub(crate) pause: Pause,
    pub(crate) sent: When,
    pub(crate) answered: Option<When>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    Running,
    UntilResumed,
    /// For so long from when it was sent.
    For(Duration),
    /// As a restarted server showed it.
    Was(PauseSpan),
}

/// Until when a queue may be paused: a moment between these two, in milliseconds on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PauseSpan {
    pub(crate) earliest: u64,
    pub(crate) latest: u64,
}

impl PauseSpan {
    pub(crate) const RUNNING: PauseSpan = PauseSpan { earliest: 0, latest: 0 };
    pub(crate) const UNTIL_RESUMED: PauseSpan = PauseSpan { earliest: u64::MAX, latest: u64::MAX };
}

/// All that may have become of a queue's pause.
pub(crate) fn possible_pauses(pausings: &[Pausing], now: u64) -> Vec<PauseSpan> {
    let mut spans = vec![PauseSpan::RUNNING];
    for Pausing { pause, sent, answered } in pausings {
        let span = match pause {
            Pause::Running => PauseSpan::RUNNING,
            Pause::UntilResumed => PauseSpan::UNTIL_RESUMED,
            Pause::Was(span) => *span,
            Pause::For(time) => PauseSpan {
                earliest: sent.ms + time.as_millis() as u64,
                latest: answered.map_or(now, |answered| answered.ms) + time.as_millis() as u64 + 1,
            },
        };
        if answered.is_some() {
            spans.clear();
        }
        spans.push(span);
    }
    spans
}
