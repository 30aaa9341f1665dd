//! Random numbers from a seed, so that a run can be had again.

use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `from` up to, but not including, `to`.
    pub(crate) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.within(0, 100) < chance
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.within(0, all.len() as u64) as usize]
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.within(from, to))
    }
}

/// The seed of this run: DJQS_SEED, or a new one.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    match std::env::var("DJQS_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("DJQS_SEED={text} is not a number")),
        Err(_) => RandomState::new().hash_one(std::process::id()),
    }
}
