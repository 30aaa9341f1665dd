//! Ordered sets of job ids, grouped by a key: one bit a job where ids lie close together.
//!
//! Ids count up, and jobs of one queue and priority mostly come and go in that order, so 64 neighbouring ids
//! share one entry. A dense set costs under a byte a job, a sparse one some 45. Each operation is one descent
//! of a B-tree, and at either end of the set that descent stays in the cache.

use std::collections::BTreeMap;

use crate::job::JobId;

/// A set of pairs (group, id), ordered by group, then by id.
#[derive(Debug)]
pub(crate) struct IdSet<G> {
    /// (group, id / 64) -> which of those 64 ids are in the set; never zero.
    words: BTreeMap<(G, u64), u64>,
}

impl<G: Ord + Copy> IdSet<G> {
    pub(crate) fn new() -> IdSet<G> {
        IdSet { words: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, group: G, id: JobId) {
        *self.words.entry((group, id.0 / 64)).or_insert(0) |= 1 << (id.0 % 64);
    }

    pub(crate) fn remove(&mut self, group: G, id: JobId) {
        let key = (group, id.0 / 64);
        let Some(word) = self.words.get_mut(&key) else { return };
        *word &= !(1 << (id.0 % 64));
        if *word == 0 {
            self.words.remove(&key);
        }
    }

    /// The lowest pair of the whole set.
    pub(crate) fn first(&self) -> Option<(G, JobId)> {
        let (&(group, high), word) = self.words.first_key_value()?;
        Some((group, JobId(high * 64 + u64::from(word.trailing_zeros()))))
    }

    /// The lowest id of `group` that is larger than `after`.
    pub(crate) fn next(&self, group: G, after: Option<JobId>) -> Option<JobId> {
        let from = after.map_or(0, |id| id.0.saturating_add(1));
        let (first, low) = (from / 64, from % 64);
        // The first entry may hold smaller ids only; then it is in the second.
        self.words.range((group, first)..=(group, u64::MAX)).find_map(|(&(_, high), &word)| {
            let word = if high == first { word >> low << low } else { word };
            (word != 0).then(|| JobId(high * 64 + u64::from(word.trailing_zeros())))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use super::*;

    #[test]
    fn behaves_as_an_ordered_set_of_pairs() {
        // Ids that share entries, and ids of which each has its own.
        for (seed, ids, stride) in [(7, 500, 1), (8, 6, 64), (9, 150, 1), (10, 40, 64)] {
            let mut random = crate::queue::random::SplitMix(seed);
            let (mut set, mut model) = (IdSet::new(), BTreeSet::new());
            for step in 0..100_000 {
                let pair = (random.next() % 3, JobId(random.next() % ids * stride));
                // It grows for a while, then shrinks for a while.
                let grows = step / 500 % 2 == 0;
                match random.next() % 10 {
                    0..6 if grows => {
                        set.insert(pair.0, pair.1);
                        model.insert(pair);
                    }
                    0..8 => {
                        set.remove(pair.0, pair.1);
                        model.remove(&pair);
                    }
                    8 if !grows && !model.is_empty() => {
                        let first = model.pop_first().unwrap();
                        set.remove(first.0, first.1);
                    }
                    _ => {
                        let above = (Bound::Excluded(pair), Bound::Included((pair.0, JobId(u64::MAX))));
                        let expected = model.range(above).next().map(|found| found.1);
                        assert_eq!(set.next(pair.0, Some(pair.1)), expected, "seed {seed}, step {step}");
                    }
                }
                assert_eq!(set.first(), model.first().copied(), "seed {seed}, step {step}");
            }
        }
    }
}
