//! The table of queues by name.
//!
//! An entry is a part of the name's hash and the queue's number, eight bytes; the name is in the queue. Why
//! it is kept beside the maps of std:
//! - `HashMap` with names takes 1.06 times as long for each job with 10,000 queues in turn. When it doubles
//!   under the lock it hashes all names again: 105 to 135 ms with a million queues, against 13 to 44.
//! - `BTreeMap` never doubles, but a look-up with 10,000 queues takes twice as long, about a third of a
//!   microsecond more, and two look-ups are a good part of what a job costs. A tree of hashes and numbers is
//!   little better.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::QueueIx;
use crate::job::QueueName;

#[derive(Debug, Default)]
pub(super) struct Names {
    table: HashTable<Entry>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry {
    hash: u32,
    queue: QueueIx,
}

impl Names {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The queue with this name; `name_of` tells a queue's name.
    pub(super) fn find<'a>(
        &self,
        name: &QueueName,
        name_of: impl Fn(QueueIx) -> &'a QueueName,
    ) -> Option<QueueIx> {
        let hash = self.hash(name);
        let is_it = |entry: &Entry| entry.hash == hash && name_of(entry.queue) == name;
        self.table.find(spread(hash), is_it).map(|entry| entry.queue)
    }

    /// Adds a queue. Its name must not be in the table yet.
    pub(super) fn insert(&mut self, name: &QueueName, queue: QueueIx) {
        let hash = self.hash(name);
        self.table.insert_unique(spread(hash), Entry { hash, queue }, |entry| spread(entry.hash));
    }

    /// Removes a queue, which has this name.
    pub(super) fn remove(&mut self, name: &QueueName, queue: QueueIx) {
        let found = self.table.find_entry(spread(self.hash(name)), |entry| entry.queue == queue);
        found.expect("each queue is in the table under its name").remove();
    }

    fn hash(&self, name: &QueueName) -> u32 {
        self.hasher.hash_one(name) as u32
    }
}

/// The hash for the table, which uses some of its highest bits and some of its lowest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
