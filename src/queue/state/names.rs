//! Queues by their names.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::QueueIx;
use crate::job::QueueName;

/// A hash table whose entries don't hold the names: those are in the queues, which whoever looks for one needs anyway. So
/// it is small enough for the processor's cache, and grows without a look at any name.
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

    /// The queue whose name, as `name_of` tells it, is this one.
    pub(super) fn find<'a>(
        &self,
        name: &QueueName,
        name_of: impl Fn(QueueIx) -> &'a QueueName,
    ) -> Option<QueueIx> {
        let hash = self.hash(name);
        let is_it = |entry: &Entry| entry.hash == hash && name_of(entry.queue) == name;
        self.table.find(spread(hash), is_it).map(|entry| entry.queue)
    }

    /// Adds a queue whose name is not there yet.
    pub(super) fn insert(&mut self, name: &QueueName, queue: QueueIx) {
        let hash = self.hash(name);
        self.table.insert_unique(spread(hash), Entry { hash, queue }, |entry| spread(entry.hash));
    }

    /// Removes a queue, which has this name.
    pub(super) fn remove(&mut self, name: &QueueName, queue: QueueIx) {
        let found = self.table.find_entry(spread(self.hash(name)), |entry| entry.queue == queue);
        found.expect("each queue is there under its name").remove();
    }

    fn hash(&self, name: &QueueName) -> u32 {
        self.hasher.hash_one(name) as u32
    }
}

/// A hash as the table wants it, which takes some of its highest bits and some of its lowest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
