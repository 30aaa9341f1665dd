//! What the journal's parts know of each other: how large it is, what is live, how far it is written. The
//! writer, the reserve and compaction count here, and [`space`](super::space) decides from it.
//!
//! Most of it is counted under the queue's lock, so these are atomic numbers, and [`Account::facts`] takes no
//! lock. The numbers may be a moment apart from each other; no decision depends on their being exact.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::buffer::Needed;
use super::recovery::{Segment, Spare};
use super::space::{Facts, Live, Round};

/// The counters that the parts of a journal share.
#[derive(Debug, Default)]
pub(super) struct Account {
    segment_bytes: u64,
    live_jobs: AtomicU64,
    extra_end_bytes: AtomicU64,
    live_bytes: AtomicU64,
    died: AtomicU64,
    /// Bytes that were appended and are not written yet.
    unwritten: AtomicU64,
    /// Bytes that are left in the newest segment.
    tail_room: AtomicU64,
    used_bytes: AtomicU64,
    begun_segments: AtomicU64,
    /// The segments in use, the oldest first. One that is being begun is not among them yet.
    segments: Mutex<VecDeque<Segment>>,
    disk_full: AtomicBool,
    starved: AtomicBool,
    has_keeper: AtomicBool,
    futile_until: AtomicU64,
    dead_left: AtomicU64,
    /// The position up to which the sync policy's promise holds.
    promised: AtomicU64,
    /// The position that compaction waits for, or last waited for.
    compaction_wants: AtomicU64,
    compaction: Call,
}

/// Calls the thread that compacts.
#[derive(Debug, Default)]
struct Call {
    /// Whether it was called since it last looked: read without the lock.
    called: AtomicBool,
    state: Mutex<CallState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct CallState {
    called: bool,
    stopped: bool,
}

impl Account {
    /// An account of these segments.
    pub(super) fn new(segment_bytes: u64, segments: Vec<Segment>) -> Account {
        Account {
            segment_bytes,
            used_bytes: AtomicU64::new(segments.iter().map(|segment| segment.file_bytes).sum()),
            begun_segments: AtomicU64::new(segments.len() as u64),
            segments: Mutex::new(segments.into()),
            ..Account::default()
        }
    }

    /// What decides about space now.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            segment_bytes: self.segment_bytes,
            live: Live {
                jobs: self.live_jobs.load(Ordering::Relaxed),
                extra_end_bytes: self.extra_end_bytes.load(Ordering::Relaxed),
                bytes: self.live_bytes.load(Ordering::SeqCst),
            },
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
            segments: self.begun_segments.load(Ordering::Relaxed),
            died: self.died.load(Ordering::Relaxed),
            disk_full: self.is_disk_full(),
            starved: self.starved.load(Ordering::Acquire),
            has_keeper: self.has_keeper.load(Ordering::Acquire),
            compaction_waits: self.compaction_wants.load(Ordering::Acquire) > self.promised(),
            last_round: Round {
                futile_until: self.futile_until.load(Ordering::Relaxed),
                dead_left: self.dead_left.load(Ordering::Relaxed),
            },
        }
    }

    /// Counts a record that was appended. It counts as dead unless it is needed long.
    pub(super) fn appended(&self, bytes: u64, needed: Needed) {
        self.unwritten.fetch_add(bytes, Ordering::Relaxed);
        if needed == Needed::UntilRewritten {
            self.died.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts what was written, or will never be.
    pub(super) fn written(&self, bytes: u64) {
        self.unwritten.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that were appended and are not written yet.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Notes what must be kept. Called under the queue's lock, for each change.
    pub(super) fn set_live(&self, live: Live) {
        self.live_jobs.store(live.jobs, Ordering::Relaxed);
        self.extra_end_bytes.store(live.extra_end_bytes, Ordering::Relaxed);
        let before = self.live_bytes.swap(live.bytes, Ordering::SeqCst);
        if live.bytes < before {
            self.died.fetch_add(before - live.bytes, Ordering::Relaxed);
        }
        self.compact_if_needed();
    }

    /// Notes how many bytes are left in the newest segment.
    pub(super) fn set_tail_room(&self, bytes: u64) {
        self.tail_room.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that are left in the newest segment.
    pub(super) fn tail_room(&self) -> u64 {
        self.tail_room.load(Ordering::Relaxed)
    }

    /// Counts a segment that is about to be used.
    pub(super) fn count_begun(&self, spare: &Spare) {
        self.used_bytes.fetch_add(spare.file_bytes, Ordering::Relaxed);
        self.begun_segments.fetch_add(1, Ordering::Relaxed);
        self.starved.store(false, Ordering::Release);
    }

    /// Adds a segment whose header is durable.
    pub(super) fn push_segment(&self, segment: Segment) {
        self.segments.lock().push_back(segment);
        self.compact_if_needed();
    }

    /// Counts by how much the newest segment has become longer than it was made.
    pub(super) fn lengthen_newest(&self, more: u64) {
        self.used_bytes.fetch_add(more, Ordering::Relaxed);
        if let Some(newest) = self.segments.lock().back_mut() {
            newest.file_bytes += more;
        }
    }

    /// Takes the oldest segment out, which has been removed.
    pub(super) fn pop_segment(&self) {
        if let Some(removed) = self.segments.lock().pop_front() {
            self.used_bytes.fetch_sub(removed.file_bytes, Ordering::Relaxed);
            self.begun_segments.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Calls `look` with the segments in use, the oldest first.
    pub(super) fn with_segments<T>(&self, look: impl FnOnce(&VecDeque<Segment>) -> T) -> T {
        look(&self.segments.lock())
    }

    /// Notes whether the disk is full. Returns what was known before.
    pub(super) fn set_disk_full(&self, full: bool) -> bool {
        self.disk_full.swap(full, Ordering::AcqRel)
    }

    /// Whether the last attempt to create a segment found the disk full.
    pub(super) fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// Notes that a write waits for a segment although compaction expects no gain.
    pub(super) fn set_starved(&self) {
        self.starved.store(true, Ordering::Release);
        self.compact_if_needed();
    }

    /// Notes what a round of compaction has left.
    pub(super) fn set_last_round(&self, round: Round) {
        self.futile_until.store(round.futile_until, Ordering::Relaxed);
        self.dead_left.store(round.dead_left, Ordering::Relaxed);
    }

    /// Notes whether there is an owner who can write live jobs again.
    pub(super) fn set_keeper(&self, has_keeper: bool) {
        self.has_keeper.store(has_keeper, Ordering::Release);
        self.compact_if_needed();
    }

    /// The position up to which the sync policy's promise holds.
    pub(super) fn promised(&self) -> u64 {
        self.promised.load(Ordering::Acquire)
    }

    /// Notes up to which position the sync policy's promise holds.
    pub(super) fn set_promised(&self, position: u64) {
        self.promised.store(position, Ordering::Release);
    }

    /// Notes which position compaction waits for.
    pub(super) fn set_compaction_wants(&self, position: u64) {
        self.compaction_wants.store(position, Ordering::Release);
    }

    /// Calls the thread that compacts, if there is something to do. Cheap, because it runs under the queue's
    /// lock.
    pub(super) fn compact_if_needed(&self) {
        let call = &self.compaction;
        if self.facts().needs_compaction() && !call.called.swap(true, Ordering::AcqRel) {
            call.state.lock().called = true;
            call.changed.notify_one();
        }
    }

    /// Blocks the thread that compacts until it is called. Returns false when it has to stop.
    pub(super) fn wait_for_call(&self) -> bool {
        let call = &self.compaction;
        let mut state = call.state.lock();
        while !state.called && !state.stopped {
            call.changed.wait(&mut state);
        }
        state.called = false;
        call.called.store(false, Ordering::Release);
        !state.stopped
    }

    /// Stops the thread that compacts.
    pub(super) fn stop_compaction(&self) {
        self.compaction.state.lock().stopped = true;
        self.compaction.changed.notify_all();
    }

    /// Whether the thread that compacts has to stop.
    pub(super) fn is_compaction_stopped(&self) -> bool {
        self.compaction.state.lock().stopped
    }
}
