//! Queues: when they are made, paused and dropped.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::change::pause_bytes;

impl State {
    /// Pauses a queue or ends its pause, and updates the bytes that the journal has to keep.
    pub(super) fn set_pause(&mut self, queue: QueueIx, pause: Option<PauseEnd>) {
        let sums = self.sums_live_bytes;
        let found = self.queue_mut(queue);
        let bytes = if sums { pause_bytes(&found.name) } else { 0 };
        let was = std::mem::replace(&mut found.paused, pause);
        self.live_bytes += if pause.is_some() { bytes } else { 0 };
        self.live_bytes -= if was.is_some() { bytes } else { 0 };
    }

    pub(super) fn make_queue(&mut self, name: QueueName) -> QueueIx {
        self.queues_made += 1;
        let age = self.queues_made;
        let queue = Queue {
            name: name.clone(),
            age,
            ready: IdSet::new(),
            delayed: BTreeSet::new(),
            dead: BTreeSet::new(),
            kept: BTreeSet::new(),
            listed: IdSet::new(),
            waiters: BTreeMap::new(),
            using: 0,
            watching: 0,
            paused: None,
            pause_time: None,
            snapshots: None,
            scheduled_at: None,
            counts: StateCounts::default(),
            urgent: 0,
            past: if name == QueueName::default() { self.default_past } else { QueuePast::default() },
        };
        let ix = match self.free_queues.pop() {
            Some(number) => {
                self.queues[number as usize] = Some(queue);
                QueueIx(number)
            }
            None => {
                self.queues.push(Some(queue));
                QueueIx(u32::try_from(self.queues.len() - 1).expect("fewer than 2^32 queues fit in memory"))
            }
        };
        self.budget.take(QUEUE_OVERHEAD_BYTES);
        self.names.insert(&name, ix);
        self.by_age.insert(age, ix);
        ix
    }

    pub(super) fn queue_named(&mut self, name: &QueueName) -> QueueIx {
        match self.named(name) {
            Some(queue) => queue,
            None => self.make_queue(name.clone()),
        }
    }

    /// Drops a queue if it is empty and unused.
    pub(super) fn drop_if_unused(&mut self, queue: QueueIx) {
        let found = self.queue(queue);
        if found.counts != StateCounts::default() || found.paused.is_some() {
            return;
        }
        if !found.waiters.is_empty() || found.using > 0 || found.watching > 0 {
            return;
        }
        let found = self.queues[queue.0 as usize].take().expect("it exists, as the look-up above shows");
        if let Some(at) = found.scheduled_at {
            self.timers.remove(&(at, Owner::Queue(queue)));
        }
        if found.name == QueueName::default() {
            self.default_past = found.past;
        }
        self.names.remove(&found.name, queue);
        self.by_age.remove(&found.age);
        self.free_queues.push(queue.0);
        self.budget.release(QUEUE_OVERHEAD_BYTES);
    }
}
