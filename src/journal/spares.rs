//! Files of zeros, made ahead, that become segments when the one before is full.
//!
//! Overwriting zeros that are on the disk is nearly twice as fast as making a file grow, since the sync need not
//! wait for the file system's own bookkeeping. And a disk that fills up is noticed here, one or two
//! segments before a change has nowhere to go.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::recovery::{Spare, unfinished_name};
use super::segment;
use super::storage::{is_full, write_full};
use super::writer::Shared;
use super::{Failure, Unavailable};

/// How many are kept ready, beside what is set aside for the ends of jobs: one to go on with, and one for
/// compaction, so that a full disk can be cleared.
const READY: usize = 2;

/// What is set aside for the end of each job: a batch's header and a record, with something to spare. So a disk that
/// is full of jobs has room for every ACK, even if each is a batch of its own.
const END_BYTES: u64 = 64;

/// How long to wait before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(200);

const ZEROS_BYTES: usize = 1 << 18;

/// The files that are ready, and what is wanted of the thread that makes them.
#[derive(Debug)]
pub(super) struct Supply {
    state: Mutex<State>,
    /// The last attempt found the disk full.
    full: AtomicBool,
    /// Something changed: a file was made or taken, there may be room again, the end has come.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Spare>,
    next_id: u64,
    /// Segments that were removed since a file was last made, while the journal was larger than it may be.
    removed: u32,
    /// Segments that were removed since the journal was opened.
    removed_ever: u64,
    /// Somebody waits for a file.
    missed: bool,
    stopped: bool,
}

impl State {
    fn ready_bytes(&self) -> u64 {
        self.ready.iter().map(|spare| spare.file_bytes).sum()
    }
}

impl Supply {
    /// Begins with what recovery found; the next one to be made is the segment `next_id`.
    pub(super) fn new(ready: Vec<Spare>, next_id: u64) -> Supply {
        let state = State {
            ready: ready.into(),
            next_id,
            removed: 0,
            removed_ever: 0,
            missed: false,
            stopped: false,
        };
        Supply { state: Mutex::new(state), full: AtomicBool::new(false), changed: Condvar::new() }
    }

    /// Whether the disk was full when a file was last made.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Bytes in files that are ready.
    pub(super) fn ready_bytes(&self) -> u64 {
        self.state.lock().ready_bytes()
    }

    /// What decides whether a file may be made or taken has changed.
    pub(super) fn look_again(&self) {
        // Under the lock: whoever is about to wait must not miss it.
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// Blocks while the disk is full, for a moment at most.
    pub(super) fn pause(&self) {
        let mut state = self.state.lock();
        if !state.stopped {
            self.changed.wait_for(&mut state, FULL_PAUSE);
        }
    }

    /// Ends the thread, and all waiting.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl Shared {
    /// Takes the next file. Blocks until there is one.
    pub(super) fn take_spare(&self) -> Result<Spare, Unavailable> {
        let mut state = self.supply.state.lock();
        loop {
            if state.stopped {
                return Err(self.failure().unwrap_or_else(|| Unavailable(Failure::Closed.into())));
            }
            if !self.is_kept_for_compaction(&state)
                && let Some(spare) = state.ready.pop_front()
            {
                // In one step, so that at no moment it counts as neither.
                self.used_bytes.fetch_add(spare.file_bytes, Ordering::Relaxed);
                self.begun_segments.fetch_add(1, Ordering::Relaxed);
                drop(state);
                self.supply.changed.notify_all();
                return Ok(spare);
            }
            if self.has_threads.load(Ordering::Acquire) {
                if state.ready.is_empty() {
                    state.missed = true;
                    self.supply.changed.notify_all();
                }
                self.supply.changed.wait(&mut state);
                state.missed = false;
            } else {
                let id = state.next_id;
                let spare = self.make_spare(id).map_err(|failure| Unavailable(failure.into()))?;
                state.next_id += 1;
                state.ready.push_back(spare);
            }
        }
    }

    /// How much room new jobs have to leave: for the ends of those that there are, for compaction, and for what is
    /// appended until compaction has made room.
    pub(super) fn set_aside(&self) -> u64 {
        self.live().jobs * END_BYTES + READY as u64 * self.options.segment_bytes
    }

    /// The bytes of all segments, in use and to come.
    pub(super) fn total_bytes(&self) -> u64 {
        let state = self.supply.state.lock();
        self.used_bytes.load(Ordering::Relaxed) + state.ready_bytes()
    }

    /// A segment was removed: there is more room.
    pub(super) fn segment_removed(&self) {
        let mut state = self.supply.state.lock();
        state.removed_ever += 1;
        let bytes = self.used_bytes.load(Ordering::Relaxed) + state.ready_bytes();
        state.removed = if bytes > self.bytes_max() { state.removed + 1 } else { 0 };
        drop(state);
        self.supply.changed.notify_all();
    }

    /// Whether one more file is to be made: two, and what is to be set aside, but not if the journal would become
    /// larger than it may be. This is what keeps those who write from outrunning compaction: where no file is made,
    /// they wait for one.
    fn wants_spare(&self, state: &State) -> bool {
        let ready = state.ready.len();
        if self.needs_compaction() {
            // Compaction itself has to get on in any case; and where the journal has become too large at one blow
            // (a purge), one file for two that were removed lets both get on.
            let bytes =
                self.used_bytes.load(Ordering::Relaxed) + state.ready_bytes() + self.options.segment_bytes;
            let compacting = ready == 0 && state.missed && self.compaction_waits();
            return ready < READY && (bytes <= self.bytes_max() || state.removed >= 2 || compacting);
        }
        let bytes = state.ready_bytes();
        let total = self.used_bytes.load(Ordering::Relaxed) + bytes + self.options.segment_bytes;
        ready < READY || (bytes < self.set_aside() && total <= self.bytes_max())
    }

    /// Whether the last file is not to be taken: without it, compaction might not be able to make room.
    fn is_kept_for_compaction(&self, state: &State) -> bool {
        state.ready.len() == 1
            && self.needs_compaction()
            && !self.compaction_waits()
            && (self.supply.is_full() || !self.wants_spare(state))
    }

    /// Slows down whoever writes while the journal is larger than it may be, as it is when much was finished or deleted at
    /// one blow, or the disk is full and little is left of what is set aside: one batch goes for each segment that
    /// compaction removes. So there is more room all the time, and nobody waits until there is plenty.
    pub(super) fn give_way(&self) {
        let mut state = self.supply.state.lock();
        let removed = state.removed_ever;
        while self.has_threads.load(Ordering::Acquire)
            && !state.stopped
            && state.removed_ever == removed
            && self.needs_compaction()
            && !self.compaction_waits()
            && (self.used_bytes.load(Ordering::Relaxed) + state.ready_bytes() > self.bytes_max()
                || (self.supply.is_full() && state.ready.len() < READY))
        {
            self.supply.changed.wait(&mut state);
        }
    }

    /// Makes files until it is told to stop: what the thread does.
    pub(super) fn keep_supplied(&self) {
        let mut state = self.supply.state.lock();
        while !state.stopped {
            if !self.wants_spare(&state) {
                self.supply.changed.wait(&mut state);
                continue;
            }
            let id = state.next_id;
            drop(state);
            let made = self.make_spare(id);
            state = self.supply.state.lock();
            match made {
                Ok(spare) => {
                    if self.supply.full.swap(false, Ordering::AcqRel) {
                        log::info!("there is room on the disk again");
                    }
                    state.removed = 0;
                    state.missed = false;
                    state.next_id += 1;
                    state.ready.push_back(spare);
                    self.supply.changed.notify_all();
                }
                Err(Failure::Io { source, path, .. }) if is_full(&source) => {
                    if !self.supply.full.swap(true, Ordering::AcqRel) {
                        log::warn!("no room to make {}: new jobs are refused until there is", path.display());
                    }
                    self.compact_if_needed();
                    self.supply.changed.wait_for(&mut state, FULL_PAUSE);
                }
                Err(failure) => {
                    drop(state);
                    self.fail(failure);
                    return;
                }
            }
        }
    }

    /// Makes a file of zeros that is durable under its name.
    pub(super) fn make_spare(&self, id: u64) -> Result<Spare, Failure> {
        let unfinished = unfinished_name(id, self.salt(id));
        let made = self.fill_and_name(id, &unfinished);
        if made.is_err() {
            // Its zeros are of no use to anybody; where it can't be removed, the next start does it.
            let _ = self.storage.remove(&unfinished);
        }
        made
    }

    fn fill_and_name(&self, id: u64, unfinished: &str) -> Result<Spare, Failure> {
        let name = segment::file_name(id);
        let file = self.storage.create(unfinished).map_err(self.io("create", unfinished))?;
        let zeros = vec![0; ZEROS_BYTES];
        let file_bytes = self.options.segment_bytes;
        let mut at = 0;
        while at < file_bytes {
            let piece = &zeros[..ZEROS_BYTES.min((file_bytes - at) as usize)];
            write_full(&*file, piece, at).map_err(self.io("write", unfinished))?;
            at += piece.len() as u64;
        }
        self.sync_file(&*file).map_err(self.io("sync", unfinished))?;
        self.storage.rename(unfinished, &name).map_err(self.io("rename", unfinished))?;
        self.sync_directory().map_err(self.io("sync the directory of", &name))?;
        Ok(Spare { id, file, file_bytes })
    }

    /// What failed, for `map_err`.
    pub(super) fn io<'a>(
        &'a self,
        action: &'static str,
        name: &'a str,
    ) -> impl Fn(io::Error) -> Failure + 'a {
        move |source| Failure::Io { action, path: self.storage.path(name), source }
    }
}
