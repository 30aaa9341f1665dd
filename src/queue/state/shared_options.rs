//! Options that many jobs share, kept once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::batches::BatchIx;
use crate::job::Counts;

/// Times are in microseconds, which takes half of a [`Duration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SharedOptions {
    ttr: u64,
    backoff: u64,
    keep: u64,
    pub(super) attempts: u32,
    pub(super) batch: Option<BatchIx>,
}

impl SharedOptions {
    pub(super) fn new(
        ttr: Duration,
        attempts: u32,
        backoff: Duration,
        keep: Duration,
        batch: Option<BatchIx>,
    ) -> SharedOptions {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        SharedOptions { ttr: micros(ttr), backoff: micros(backoff), keep: micros(keep), attempts, batch }
    }

    pub(super) fn ttr(self) -> Duration {
        Duration::from_micros(self.ttr)
    }

    pub(super) fn backoff(self) -> Duration {
        Duration::from_micros(self.backoff)
    }

    pub(super) fn keep(self) -> Duration {
        Duration::from_micros(self.keep)
    }

    /// Whether a job with these counts has no attempt left.
    pub(super) fn attempts_spent(self, counts: Counts) -> bool {
        self.attempts != 0 && counts.spent() >= self.attempts
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SharedOptionsIx(u32);

/// Each distinct combination once, with the number of jobs that have it: four
/// bytes a job instead of forty.
#[derive(Debug, Default)]
pub(super) struct SharedOptionsTable {
    entries: Vec<(SharedOptions, u64)>,
    /// A tree, because a hash table blocks all clients while it doubles, and any client can submit millions
    /// of combinations.
    numbers: BTreeMap<SharedOptions, u32>,
    free: Vec<u32>,
    /// The last combination interned. Most jobs have the same as the job before.
    recent: Option<(SharedOptions, u32)>,
}

impl SharedOptionsTable {
    /// How many distinct combinations there are.
    pub(super) fn len(&self) -> u64 {
        self.numbers.len() as u64
    }

    pub(super) fn intern(&mut self, options: SharedOptions) -> SharedOptionsIx {
        let number = match self.recent {
            Some((recent, number)) if recent == options => number,
            _ => match self.numbers.get(&options) {
                Some(&number) => number,
                None => self.add(options),
            },
        };
        self.recent = Some((options, number));
        self.entries[number as usize].1 += 1;
        SharedOptionsIx(number)
    }

    fn add(&mut self, options: SharedOptions) -> u32 {
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = (options, 0);
                number
            }
            None => {
                self.entries.push((options, 0));
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 jobs fit in memory")
            }
        };
        self.numbers.insert(options, number);
        number
    }

    pub(super) fn get(&self, options: SharedOptionsIx) -> SharedOptions {
        self.entries[options.0 as usize].0
    }

    /// The batch alone, which each move of a job needs.
    pub(super) fn batch_of(&self, options: SharedOptionsIx) -> Option<BatchIx> {
        self.entries[options.0 as usize].0.batch
    }

    /// The time to keep alone, which each end of a job needs.
    pub(super) fn keep_of(&self, options: SharedOptionsIx) -> Duration {
        self.entries[options.0 as usize].0.keep()
    }

    pub(super) fn release(&mut self, SharedOptionsIx(number): SharedOptionsIx) {
        let (options, users) = &mut self.entries[number as usize];
        *users -= 1;
        if *users == 0 {
            self.numbers.remove(options);
            self.free.push(number);
            if matches!(self.recent, Some((_, recent)) if recent == number) {
                self.recent = None;
            }
        }
    }
}
