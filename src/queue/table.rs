//! All jobs by id, in pages of 64 neighbouring ids. A page stores only the ids that exist.
//!
//! A hash table would block all connections for tens of milliseconds each time it doubles. This table grows
//! by one page at a time and keeps neighbouring jobs together.

use std::collections::BTreeMap;

use crate::job::JobId;

/// How many ids share a page: the bits of a word.
const PAGE_IDS: u64 = 64;

/// Values by job id.
#[derive(Debug)]
pub(crate) struct Table<T> {
    pages: BTreeMap<u64, Page<T>>,
}

#[derive(Debug)]
struct Page<T> {
    /// Which of the page's ids exist.
    present: u64,
    /// Their values, in the order of the ids.
    values: Vec<T>,
}

impl<T> Page<T> {
    /// Where the value of the id with this bit is, or would be.
    fn index(&self, bit: u64) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }
}

fn split(id: JobId) -> (u64, u64) {
    (id.0 / PAGE_IDS, 1 << (id.0 % PAGE_IDS))
}

impl<T> Table<T> {
    pub(crate) fn new() -> Table<T> {
        Table { pages: BTreeMap::new() }
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(crate) fn get(&self, id: JobId) -> Option<&T> {
        let (page, bit) = split(id);
        let page = self.pages.get(&page)?;
        (page.present & bit != 0).then(|| &page.values[page.index(bit)])
    }

    pub(crate) fn get_mut(&mut self, id: JobId) -> Option<&mut T> {
        let (page, bit) = split(id);
        let page = self.pages.get_mut(&page)?;
        let index = page.index(bit);
        (page.present & bit != 0).then(|| &mut page.values[index])
    }

    /// The highest id that exists and is lower than `before`.
    pub(crate) fn previous(&self, before: Option<JobId>) -> Option<JobId> {
        let to = match before {
            None => u64::MAX,
            Some(JobId(0)) => return None,
            Some(JobId(id)) => id - 1,
        };
        let (high, low) = (to / PAGE_IDS, to % PAGE_IDS);
        self.pages.range(..=high).rev().find_map(|(&number, page)| {
            let present = if number == high { page.present & (u64::MAX >> (63 - low)) } else { page.present };
            (present != 0).then(|| JobId(number * PAGE_IDS + 63 - u64::from(present.leading_zeros())))
        })
    }

    /// Puts a value where there is none yet.
    pub(crate) fn insert(&mut self, id: JobId, value: T) {
        let (number, bit) = split(id);
        let page = self.pages.entry(number).or_insert_with(|| {
            // Ids increase, so a page whose first id comes first will most likely be filled.
            let capacity = if bit == 1 { PAGE_IDS as usize } else { 4 };
            Page { present: 0, values: Vec::with_capacity(capacity) }
        });
        assert!(page.present & bit == 0, "job {id} is there already");
        let index = page.index(bit);
        page.present |= bit;
        page.values.insert(index, value);
    }

    pub(crate) fn remove(&mut self, id: JobId) -> Option<T> {
        let (number, bit) = split(id);
        let page = self.pages.get_mut(&number)?;
        if page.present & bit == 0 {
            return None;
        }
        let index = page.index(bit);
        page.present &= !bit;
        let value = page.values.remove(index);
        if page.present == 0 {
            self.pages.remove(&number);
        } else if page.values.len() * 4 <= page.values.capacity() {
            // A few long-lived jobs must not keep the memory of a full page. They move to a new allocation:
            // the remainder of the old one, if it were shrunk in place, would be too small for another page.
            let mut smaller = Vec::with_capacity(page.values.len() * 2);
            smaller.append(&mut page.values);
            page.values = smaller;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn behaves_as_a_map() {
        let mut random = crate::queue::random::SplitMix(11);
        let (mut table, mut model) = (Table::new(), BTreeMap::new());
        for step in 0..200_000u64 {
            let id = JobId(random.next() % 400);
            if random.next().is_multiple_of(2) {
                if model.insert(id, step).is_some() {
                    table.remove(id);
                }
                table.insert(id, step);
            } else {
                assert_eq!(table.remove(id), model.remove(&id), "seed 11, step {step}");
            }
            let other = JobId(random.next() % 400);
            assert_eq!(table.get(other), model.get(&other), "seed 11, step {step}");
            assert_eq!(table.get_mut(other).copied(), model.get(&other).copied());
            let previous = model.range(..other).next_back().map(|(&id, _)| id);
            assert_eq!(table.previous(Some(other)), previous, "seed 11, step {step}");
            assert_eq!(table.previous(None), model.keys().next_back().copied());
        }
    }
}
