//! Limits the memory of long replies. A reply to QUEUES or LIST can be a hundred times as large as everything
//! else that a connection may hold, and stays in memory while its client does not read.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// How many bytes of long replies may wait for their clients before no further long reply is made.
const WAITING_BYTES_MAX: u64 = 16 << 20;

/// The long replies of all connections.
#[derive(Default)]
pub(super) struct LongReplies {
    /// Held while a reply is made. Several at once, not counted yet, could exceed the limit.
    turn: Mutex<()>,
    waiting_bytes: AtomicU64,
}

/// The bytes of a long reply that waits for its client. Dropping this takes them off the count.
pub(super) struct Waiting<'a> {
    replies: &'a LongReplies,
    bytes: u64,
}

impl LongReplies {
    /// Blocks until no other connection makes a long reply. `None` if too many bytes wait for their clients.
    pub(super) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turn.lock();
        (self.waiting_bytes.load(Ordering::Relaxed) <= WAITING_BYTES_MAX).then_some(turn)
    }

    /// Counts a reply that was made. To be called before the turn ends.
    pub(super) fn count(&self, bytes: usize) -> Waiting<'_> {
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
