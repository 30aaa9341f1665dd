//! Files of zeros, made ahead, that become segments when the one before is full.
//!
//! Overwriting zeros that are on the disk is nearly twice as fast as making a file grow, since the sync need not
//! wait for the file system's own bookkeeping. And a disk that fills up is noticed here, one or two
//! segments before a change has nowhere to go.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::recovery::{Spare, unfinished_name};
use super::segment;
use super::storage::{StorageFile, is_full, write_full};
use super::writer::Shared;
use super::{Failure, Unavailable};
use crate::clock::Stopwatch;

/// How much more is kept ready where there is much to be kept, in segments: what is appended beside jobs, until compaction
/// has come round on a full disk.
const SET_ASIDE: u64 = 3;

/// What is set aside for the end of each job: a record of it, and its share of a batch's header. It need not be more: what
/// the ends of jobs take beyond it, compaction makes room for, since each makes more bytes dead than it takes.
const END_BYTES: u64 = 16;

/// How long to wait before a full disk is tried again, at first and at most: it doubles, since each attempt may write as
/// much as a segment for nothing.
const FULL_PAUSE: Duration = Duration::from_millis(200);
const FULL_PAUSE_MAX: Duration = Duration::from_secs(3);

/// How long somebody who waits for room goes without looking whether others made some without saying so: what is live
/// may become less at any time.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// After how long a wait for room is worth a line in the log.
const LONG_WAIT: Duration = Duration::from_secs(3);

const ZEROS_BYTES: usize = 1 << 18;

/// The files that are ready, and what is wanted of the thread that makes them.
#[derive(Debug)]
pub(super) struct Supply {
    state: Mutex<State>,
    /// The disk was found full, and not all that is wanted could be made since.
    full: AtomicBool,
    /// Somebody waits for a file that may not be made, and there is nothing that is known to be gained.
    starved: AtomicBool,
    /// Something changed: a file was made or taken, there may be room again, the end has come.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Spare>,
    next_id: u64,
    /// Files of segments that were removed while files were scarce, to be filled with zeros: what is freed on a full disk,
    /// others would take.
    recycled: Vec<Unfinished>,
    /// Segments that were removed since a file was last made, while the journal was larger than it may be.
    removed: u32,
    /// Segments that were removed since the journal was opened.
    removed_ever: u64,
    /// Somebody waits for a file.
    missed: bool,
    stopped: bool,
}

/// A file that is to become a segment, and has nothing in it that is needed.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) name: String,
    pub(super) file: Arc<dyn StorageFile>,
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
            recycled: Vec::new(),
            removed: 0,
            removed_ever: 0,
            missed: false,
            stopped: false,
        };
        Supply {
            state: Mutex::new(state),
            full: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            changed: Condvar::new(),
        }
    }

    /// Whether the disk is full: not all the files could be made that are wanted.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Whether somebody waits for a file although nothing is known to be gained: then it has to be tried.
    pub(super) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Acquire)
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
    /// Takes the next file. Blocks until there is one to be taken.
    pub(super) fn take_spare(&self) -> Result<Spare, Unavailable> {
        let mut state = self.supply.state.lock();
        let (since, mut warned) = (Stopwatch::start(), false);
        loop {
            if state.stopped {
                return Err(self.failure().unwrap_or_else(|| Unavailable(Failure::Closed.into())));
            }
            if self.may_take(&state)
                && let Some(spare) = state.ready.pop_front()
            {
                self.supply.starved.store(false, Ordering::Release);
                // In one step, so that at no moment it counts as neither.
                self.used_bytes.fetch_add(spare.file_bytes, Ordering::Relaxed);
                self.begun_segments.fetch_add(1, Ordering::Relaxed);
                drop(state);
                self.supply.changed.notify_all();
                return Ok(spare);
            }
            if self.has_threads.load(Ordering::Acquire) {
                if !warned && since.elapsed() > LONG_WAIT {
                    warned = true;
                    let (used, ready) = (self.begun_segments.load(Ordering::Relaxed), state.ready.len());
                    log::warn!(
                        "a write has to wait for room: {used} segments are in use, {ready} more are there"
                    );
                }
                state.missed = state.ready.is_empty();
                // More may be wanted than when the thread that makes them last looked.
                self.supply.changed.notify_all();
                if !self.needs_compaction() && (self.supply.is_full() || self.is_too_large()) {
                    self.supply.starved.store(true, Ordering::Release);
                    self.compact_if_needed();
                }
                self.supply.changed.wait_for(&mut state, LOOK_AGAIN);
                state.missed = false;
            } else {
                let id = state.next_id;
                let mut made = self.make_spare(id, None);
                if matches!(&made, Err(Failure::Io { source, .. }) if is_full(source))
                    && let Some(recycled) = state.recycled.pop()
                {
                    made = self.make_spare(id, Some(recycled));
                }
                let spare = made.map_err(|failure| Unavailable(failure.into()))?;
                state.next_id += 1;
                state.ready.push_back(spare);
            }
        }
    }

    /// Whether a file may be taken now, if there is one.
    ///
    /// Compaction always may: it makes room. All others leave it what it needs for one segment; and they take
    /// none before all those are made that are wanted, so that whenever the disk turns out to be full, what is set aside is
    /// there.
    fn may_take(&self, state: &State) -> bool {
        if !self.has_threads.load(Ordering::Acquire) || self.compaction_waits() {
            return true;
        }
        if self.supply.is_full() || self.needs_compaction() {
            // Where there is but one segment, there is nothing to be emptied.
            !self.can_compact() || state.ready.len() > self.kept_for_compaction()
        } else {
            !self.wants_spare(state)
        }
    }

    /// How many files compaction may need to empty one segment: one, if all that is live leaves room in it.
    fn kept_for_compaction(&self) -> usize {
        if self.live().bytes / 3 * 4 <= self.options.segment_bytes { 1 } else { 2 }
    }

    /// How many are kept ready whatever the journal's size: one to go on with, and what compaction needs.
    fn ready_least(&self) -> usize {
        self.kept_for_compaction() + 1
    }

    /// How much room new jobs have to leave: for the ends of those that there are, for compaction, and for what is
    /// appended until compaction has made room.
    pub(super) fn set_aside(&self) -> u64 {
        let segments = self.kept_for_compaction() as u64 + SET_ASIDE;
        self.live().jobs * END_BYTES + segments * self.options.segment_bytes
    }

    /// How much room reasons of failures have to leave: two segments less. They are kept as long as their jobs, and
    /// compaction can't get back what they take.
    pub(super) fn set_aside_from_reasons(&self) -> u64 {
        self.set_aside() - (SET_ASIDE - 1) * self.options.segment_bytes
    }

    /// The bytes of all segments, in use and to come.
    pub(super) fn total_bytes(&self) -> u64 {
        self.bytes_with(&self.supply.state.lock())
    }

    /// A segment was removed: there is more room, or its file to be used again.
    pub(super) fn segment_removed(&self, recycled: Option<Unfinished>) {
        let mut state = self.supply.state.lock();
        state.recycled.extend(recycled);
        state.removed_ever += 1;
        let bytes = self.bytes_with(&state);
        state.removed = if bytes > self.bytes_max() { state.removed + 1 } else { 0 };
        drop(state);
        self.supply.changed.notify_all();
    }

    /// Whether one more file is to be made: a few in any case, and what is to be set aside, but not if the journal would
    /// become larger than it may be. This is what keeps those who write from outrunning compaction: where no file is
    /// made, they wait for one.
    fn wants_spare(&self, state: &State) -> bool {
        let (ready, least) = (state.ready.len(), self.ready_least());
        let fits = self.bytes_with(state) + self.options.segment_bytes <= self.bytes_max();
        if self.is_too_large() {
            // Compaction itself has to get on in any case; and where the journal has become too large at one blow
            // (a purge), one file for two that were removed lets both get on.
            let compacting = ready == 0 && state.missed && self.compaction_waits();
            return ready < least && (fits || state.removed >= 2 || compacting);
        }
        ready < least || (fits && state.ready_bytes() < self.set_aside())
    }

    /// Whether there are more than is useful, and than there may be: much of what was live has gone.
    fn has_too_many(&self, state: &State) -> bool {
        state.ready.len() > self.ready_least() && self.bytes_with(state) > self.bytes_max()
    }

    fn bytes_with(&self, state: &State) -> u64 {
        self.used_bytes.load(Ordering::Relaxed) + state.ready_bytes()
    }

    /// Slows down whoever writes while the journal is larger than it may be, as it is when much was finished or deleted at
    /// one blow, or the disk is full and nothing is left but what compaction needs: one batch goes for each segment that
    /// compaction removes. So there is more room all the time, and nobody waits until there is plenty.
    pub(super) fn give_way(&self) {
        let mut state = self.supply.state.lock();
        let removed = state.removed_ever;
        while self.has_threads.load(Ordering::Acquire)
            && !state.stopped
            && state.removed_ever == removed
            && self.needs_compaction()
            && !self.compaction_waits()
            && (self.bytes_with(&state) > self.bytes_max()
                || (self.supply.is_full() && state.ready.len() <= self.kept_for_compaction()))
        {
            self.supply.changed.wait_for(&mut state, LOOK_AGAIN);
        }
    }

    /// Makes files until it is told to stop: what the thread does.
    pub(super) fn keep_supplied(&self) {
        let mut state = self.supply.state.lock();
        // Since when the disk is known to be full, and how long to leave it alone.
        let mut full: Option<(Stopwatch, Duration)> = None;
        while !state.stopped {
            let wants = self.wants_spare(&state);
            if let Some(name) = self.useless(&mut state, wants) {
                drop(state);
                // One at a time: of two names that go in one stroke, a power cut may take the earlier one only, and leave a gap.
                if let Err(e) = self.storage.remove(&name).and_then(|()| self.sync_directory()) {
                    return self.fail(self.io("remove", &name)(e));
                }
                state = self.supply.state.lock();
                continue;
            }
            if !wants {
                if !self.needs_compaction() && self.supply.full.swap(false, Ordering::AcqRel) {
                    log::info!("there is room on the disk again");
                }
                full = None;
                // On a full disk it may want one as soon as something else has changed.
                match self.supply.is_full() {
                    true => drop(self.supply.changed.wait_for(&mut state, FULL_PAUSE)),
                    false => self.supply.changed.wait(&mut state),
                }
                continue;
            }
            let recycled = state.recycled.pop();
            let is_new = recycled.is_none();
            if let Some((since, pause)) = &full
                && let Some(left) = pause.checked_sub(since.elapsed())
                && is_new
            {
                self.supply.changed.wait_for(&mut state, left);
                continue;
            }
            let id = state.next_id;
            drop(state);
            let made = self.make_spare(id, recycled);
            state = self.supply.state.lock();
            match made {
                Ok(spare) => {
                    state.removed = 0;
                    state.missed = false;
                    state.next_id += 1;
                    state.ready.push_back(spare);
                    if is_new {
                        full = None;
                    }
                    self.supply.changed.notify_all();
                }
                Err(Failure::Io { source, path, .. }) if is_full(&source) => {
                    if !self.supply.full.swap(true, Ordering::AcqRel) {
                        log::warn!(
                            "no room for {}: {source}; new jobs are refused until there is",
                            path.display()
                        );
                    }
                    let pause = full.map_or(FULL_PAUSE, |(_, pause)| FULL_PAUSE_MAX.min(pause * 2));
                    full = Some((Stopwatch::start(), pause));
                    self.compact_if_needed();
                    self.supply.changed.notify_all();
                }
                Err(failure) => {
                    drop(state);
                    self.fail(failure);
                    return;
                }
            }
        }
    }

    /// A file that is not wanted any more, if there is one: its name. It is counted no longer.
    fn useless(&self, state: &mut State, wants: bool) -> Option<String> {
        if self.has_too_many(state) {
            let spare = state.ready.pop_back()?;
            state.next_id = spare.id;
            return Some(segment::file_name(spare.id));
        }
        if wants || state.ready.len() < self.ready_least() {
            return None;
        }
        state.recycled.pop().map(|recycled| recycled.name)
    }

    /// Whether the file of a segment that is removed now may be needed: on a full disk always, and where so few are ready
    /// that one has to be made and the disk may turn out to be full.
    pub(super) fn recycles(&self) -> bool {
        let state = self.supply.state.lock();
        self.supply.is_full() || state.ready.len() + state.recycled.len() < self.ready_least()
    }

    /// Makes a file of zeros that is durable under its name, of a file that there is or a new one.
    pub(super) fn make_spare(&self, id: u64, recycled: Option<Unfinished>) -> Result<Spare, Failure> {
        let unfinished = match recycled {
            Some(recycled) => recycled,
            None => {
                let name = unfinished_name(id, self.salt(id));
                let file = self.storage.create(&name).map_err(self.io("create", &name))?;
                Unfinished { name, file }
            }
        };
        let made = self.fill_and_name(id, &unfinished);
        if made.is_err() {
            // Its zeros are of no use to anybody; where it can't be removed, the next start does it.
            let _ = self.storage.remove(&unfinished.name);
        }
        made
    }

    fn fill_and_name(
        &self,
        id: u64,
        Unfinished { name: unfinished, file }: &Unfinished,
    ) -> Result<Spare, Failure> {
        let name = segment::file_name(id);
        let zeros = vec![0; ZEROS_BYTES];
        let file_bytes = self.options.segment_bytes;
        let mut at = 0;
        while at < file_bytes {
            let piece = &zeros[..ZEROS_BYTES.min((file_bytes - at) as usize)];
            write_full(&**file, piece, at).map_err(self.io("write", unfinished))?;
            at += piece.len() as u64;
        }
        self.sync_file(&**file).map_err(self.io("sync", unfinished))?;
        self.storage.rename(unfinished, &name).map_err(self.io("rename", unfinished))?;
        self.sync_directory().map_err(self.io("sync the directory of", &name))?;
        Ok(Spare { id, file: Arc::clone(file), file_bytes })
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
