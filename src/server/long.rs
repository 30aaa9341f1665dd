//! Keeps long replies from taking all memory: what QUEUES or LIST answers can be a hundred times what else a connection
//! may hold, and a client that does not read leaves it there for as long as it may take its replies.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// How many bytes of long replies may wait for their clients to take them, before no further one is made.
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// The long replies of all connections.
#[derive(Default)]
pub(crate) struct LongReplies {
    /// Held by the one that makes a reply: many at once, none of them counted yet, would be more than the limit says.
    turn: Mutex<()>,
    waiting_bytes: AtomicU64,
}

/// A long reply's bytes, until it is dropped.
pub(crate) struct Waiting<'a> {
    replies: &'a LongReplies,
    bytes: u64,
}

impl LongReplies {
    /// Waits for the turn to make one. `None` where too many wait to be taken.
    pub(crate) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turn.lock();
        (self.waiting_bytes.load(Ordering::Relaxed) <= WAITING_BYTES_MAX).then_some(turn)
    }

    /// Counts a reply that has been made; to be called while it is one's turn.
    pub(crate) fn count(&self, bytes: usize) -> Waiting<'_> {
        let bytes = bytes as u64;
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        Waiting { replies: self, bytes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.replies.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
