//! Ordered sets of job ids, grouped by a key: one bit a job where ids lie close together.
//!
//! Ids count up, and jobs of one queue and priority mostly come and go in that order, so 64 neighbouring ids
//! share one entry. A dense set costs under a byte a job, a sparse one some 45. Each operation is one descent
//! of a B-tree, and at either end of the set that descent stays in the cache.
//!
//! A set of up to three entries, as in each of many queues, stores them in itself, so that they come into the
//! cache together with their queue. Without that, a job costs the server a tenth more time with 10,000 queues
//! used in turn, and a queue with one job takes 1,046 bytes instead of 599.

use std::collections::BTreeMap;
use std::ops::Bound;

use arrayvec::ArrayVec;

use crate::job::JobId;

/// The most entries that a set stores in itself.
const FEW: usize = 3;

/// (group, id / 64) -> which of those 64 ids are in the set; never zero.
type Entry<G> = ((G, u64), u64);

/// A set of pairs (group, id), ordered by group, then by id.
#[derive(Debug)]
pub(crate) enum IdSet<G> {
    Few(ArrayVec<Entry<G>, FEW>),
    Many(BTreeMap<(G, u64), u64>),
}

impl<G: Ord + Copy> IdSet<G> {
    pub(crate) fn new() -> IdSet<G> {
        IdSet::Few(ArrayVec::new_const())
    }

    pub(crate) fn insert(&mut self, group: G, id: JobId) {
        let (key, bit) = ((group, id.0 / 64), 1 << (id.0 % 64));
        match self {
            IdSet::Few(few) => {
                let at = few.iter().position(|entry| entry.0 >= key).unwrap_or(few.len());
                if few.get(at).is_some_and(|entry| entry.0 == key) {
                    few[at].1 |= bit;
                } else if few.len() < FEW {
                    few.insert(at, (key, bit));
                } else {
                    *self = IdSet::Many(few.drain(..).chain([(key, bit)]).collect());
                }
            }
            IdSet::Many(many) => *many.entry(key).or_insert(0) |= bit,
        }
    }

    pub(crate) fn remove(&mut self, group: G, id: JobId) {
        let (key, bit) = ((group, id.0 / 64), 1 << (id.0 % 64));
        match self {
            IdSet::Few(few) => {
                let Some(at) = few.iter().position(|entry| entry.0 == key) else { return };
                few[at].1 &= !bit;
                if few[at].1 == 0 {
                    few.remove(at);
                }
            }
            IdSet::Many(many) => {
                let Some(word) = many.get_mut(&key) else { return };
                *word &= !bit;
                if *word == 0 {
                    many.remove(&key);
                    // Not as soon as they would fit, or a set of about that size would change all the time.
                    if many.len() <= 1 {
                        *self = IdSet::Few(std::mem::take(many).into_iter().collect());
                    }
                }
            }
        }
    }

    /// The lowest pair of the whole set.
    pub(crate) fn first(&self) -> Option<(G, JobId)> {
        let ((group, high), word) = match self {
            IdSet::Few(few) => *few.first()?,
            IdSet::Many(many) => many.first_key_value().map(|(&key, &word)| (key, word))?,
        };
        Some((group, JobId(high * 64 + u64::from(word.trailing_zeros()))))
    }

    /// How many pairs are lower than this one, counted up to `most`.
    pub(crate) fn count_before(&self, group: G, id: JobId, most: u64) -> u64 {
        let (key, low) = ((group, id.0 / 64), id.0 % 64);
        let mut count = 0;
        let mut add = |at: (G, u64), word: u64| {
            let word = if at == key { word & ((1 << low) - 1) } else { word };
            count += u64::from(word.count_ones());
            count < most
        };
        match self {
            IdSet::Few(few) => {
                few.iter().take_while(|entry| entry.0 <= key).all(|&(at, word)| add(at, word));
            }
            IdSet::Many(many) => {
                many.range(..=key).all(|(&at, &word)| add(at, word));
            }
        }
        count.min(most)
    }

    /// The highest id of `group` that is lower than `before`.
    pub(crate) fn previous(&self, group: G, before: Option<JobId>) -> Option<JobId> {
        let to = match before {
            None => u64::MAX,
            Some(JobId(0)) => return None,
            Some(JobId(id)) => id - 1,
        };
        let (high, low) = (to / 64, to % 64);
        let (least, most) = ((group, 0), (group, high));
        let highest = |((_, at), word): Entry<G>| {
            let word = if at == high { word & (u64::MAX >> (63 - low)) } else { word };
            (word != 0).then(|| JobId(at * 64 + 63 - u64::from(word.leading_zeros())))
        };
        match self {
            IdSet::Few(few) => {
                let entries = few.iter().rev().filter(|entry| entry.0 >= least && entry.0 <= most);
                entries.copied().find_map(highest)
            }
            IdSet::Many(many) => {
                let range = many.range((Bound::Included(least), Bound::Included(most))).rev();
                range.map(|(&key, &word)| (key, word)).find_map(highest)
            }
        }
    }

    /// The lowest id of `group` that is larger than `after`.
    pub(crate) fn next(&self, group: G, after: Option<JobId>) -> Option<JobId> {
        let from = after.map_or(0, |id| id.0.saturating_add(1));
        let (high, low) = (from / 64, from % 64);
        let (least, most) = ((group, high), (group, u64::MAX));
        let lowest = |((_, at), word): Entry<G>| {
            let word = if at == high { word >> low << low } else { word };
            (word != 0).then(|| JobId(at * 64 + u64::from(word.trailing_zeros())))
        };
        // The first entry may hold smaller ids only; then it is in the second.
        match self {
            IdSet::Few(few) => {
                few.iter().filter(|entry| entry.0 >= least && entry.0 <= most).copied().find_map(lowest)
            }
            IdSet::Many(many) => {
                let range = many.range((Bound::Included(least), Bound::Included(most)));
                range.map(|(&key, &word)| (key, word)).find_map(lowest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn behaves_as_an_ordered_set_of_pairs() {
        // Few entries, many, and back and forth between the two.
        for (seed, ids, stride, changes) in
            [(7, 500, 1, false), (8, 6, 64, true), (9, 150, 1, false), (10, 40, 64, true)]
        {
            let mut random = crate::queue::random::SplitMix(seed);
            let (mut set, mut model) = (IdSet::new(), BTreeSet::new());
            let (mut were_few, mut turns) = (true, 0);
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
                        let below = (pair.0, JobId(0))..pair;
                        let expected = model.range(below).next_back().map(|found| found.1);
                        assert_eq!(set.previous(pair.0, Some(pair.1)), expected, "seed {seed}, step {step}");
                        let last = (pair.0, JobId(0))..=(pair.0, JobId(u64::MAX));
                        let expected = model.range(last).next_back().map(|found| found.1);
                        assert_eq!(set.previous(pair.0, None), expected, "seed {seed}, step {step}");
                    }
                }
                assert_eq!(set.first(), model.first().copied(), "seed {seed}, step {step}");
                if step % 100 == 0 {
                    let (count, most) = (model.range(..pair).count() as u64, random.next() % 200);
                    assert_eq!(
                        set.count_before(pair.0, pair.1, most),
                        count.min(most),
                        "seed {seed}, step {step}"
                    );
                }
                let are_few = matches!(set, IdSet::Few(_));
                turns += u64::from(are_few != were_few);
                were_few = are_few;
            }
            assert!(if changes { turns > 100 } else { turns == 1 }, "seed {seed}: {turns}");
        }
    }
}
