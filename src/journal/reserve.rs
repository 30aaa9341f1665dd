//! Segments that are created in advance, filled with zeros, and used when the newest one is full.
//!
//! Overwriting zeros that are on the disk is nearly twice as fast as appending to a file, because a sync need
//! not wait for the file system's own bookkeeping. And a full disk is noticed here, one or two segments
//! before a change has nowhere to go. When to create one and who may use it is decided in
//! [`space`](super::space).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::account::Account;
use super::failure::Failure;
use super::files::{Files, Unfinished};
use super::recovery::Spare;
use super::segment;
use super::space::{Demand, Ready};
use super::storage::is_full;
use crate::clock::Stopwatch;

/// How long to wait before a full disk is tried again, at first and at most. It doubles, because each attempt
/// may write a segment for nothing.
const FULL_PAUSE: Duration = Duration::from_millis(200);
const FULL_PAUSE_MAX: Duration = Duration::from_secs(3);

/// A longer wait for room is logged.
const LONG_WAIT: Duration = Duration::from_secs(3);

/// The segments that are ready, and the thread that creates them.
#[derive(Debug)]
pub(super) struct Reserve {
    files: Arc<Files>,
    account: Arc<Account>,
    state: Mutex<State>,
    /// Something that a wait here depends on has changed.
    changed: Condvar,
    /// How many threads wait here for a change of what is live. Read without the lock.
    waiting: AtomicU32,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Spare>,
    next_id: u64,
    /// Files of removed segments. On a full disk other programs would take the space if they were given back.
    recycled: Vec<Unfinished>,
    demand: Demand,
    /// Segments removed since the journal was opened.
    removed_ever: u64,
    /// Whether a thread creates the segments. Without one, the caller does.
    has_thread: bool,
    stopped: bool,
}

impl State {
    fn ready(&self) -> Ready {
        Ready { count: self.ready.len(), bytes: self.ready.iter().map(|spare| spare.file_bytes).sum() }
    }
}

impl Reserve {
    /// Begins with what recovery found. The next one that is created is the segment `next_id`.
    pub(super) fn new(files: Arc<Files>, account: Arc<Account>, ready: Vec<Spare>, next_id: u64) -> Reserve {
        let state = State {
            ready: ready.into(),
            next_id,
            recycled: Vec::new(),
            demand: Demand::default(),
            removed_ever: 0,
            has_thread: false,
            stopped: false,
        };
        Reserve {
            files,
            account,
            state: Mutex::new(state),
            changed: Condvar::new(),
            waiting: AtomicU32::new(0),
        }
    }

    /// From now on a thread creates the segments.
    pub(super) fn set_has_thread(&self) {
        self.state.lock().has_thread = true;
    }

    /// Bytes of segments that are ready.
    pub(super) fn ready_bytes(&self) -> u64 {
        self.state.lock().ready().bytes
    }

    /// The bytes of all segments, in use and ready.
    pub(super) fn total_bytes(&self) -> u64 {
        let state = self.state.lock();
        self.account.facts().used_bytes + state.ready().bytes
    }

    /// Whether the file of a segment that is removed now is to be kept: on a full disk always, and also if so
    /// few segments are ready that one must be created, which may find the disk full.
    pub(super) fn recycles(&self) -> bool {
        let state = self.state.lock();
        let facts = self.account.facts();
        facts.disk_full || state.ready.len() + state.recycled.len() < facts.ready_min()
    }

    /// A segment was removed; its file is kept, or not.
    pub(super) fn segment_removed(&self, recycled: Option<Unfinished>) {
        let mut state = self.state.lock();
        state.recycled.extend(recycled);
        state.removed_ever += 1;
        state.demand.removed = self.account.facts().removed(state.ready(), state.demand.removed);
        self.changed.notify_all();
    }

    /// Wakes all waits here: something that they depend on has changed.
    pub(super) fn notify(&self) {
        // Under the lock, so that no thread misses it between looking and waiting.
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// As [`Reserve::notify`], after a change of what is live. Costs nothing if no thread waits, since it
    /// runs under the queue's lock.
    pub(super) fn notify_if_waiting(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.notify();
        }
    }

    /// Waits for a change. The time limit is no more than a safeguard, except on a full disk, where other
    /// programs may make room at any time.
    fn wait(&self, state: &mut MutexGuard<'_, State>) {
        let limit = if self.account.is_disk_full() { FULL_PAUSE } else { LONG_WAIT };
        self.changed.wait_for(state, limit);
    }

    /// Whether a thread creates segments, and not the caller.
    pub(super) fn has_thread(&self) -> bool {
        self.state.lock().has_thread
    }

    /// Waits a moment for room on a full disk. Returns false at once if the journal stops.
    pub(super) fn pause(&self) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            self.changed.wait_for(&mut state, FULL_PAUSE);
        }
        !state.stopped
    }

    /// Stops the thread, and all waits.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Takes the next segment. Blocks until one may be taken.
    ///
    /// # Errors
    /// [`Failure::Closed`] if the journal stops; otherwise what failed, if there is no thread that creates
    /// segments.
    pub(super) fn take(&self) -> Result<Spare, Failure> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let taken = self.take_counted();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        taken
    }

    fn take_counted(&self) -> Result<Spare, Failure> {
        let mut state = self.state.lock();
        let (since, mut logged) = (Stopwatch::start(), false);
        loop {
            if state.stopped {
                return Err(Failure::Closed);
            }
            let facts = self.account.facts();
            if (!state.has_thread || facts.may_take(state.ready(), state.demand))
                && let Some(spare) = state.ready.pop_front()
            {
                // Still under the lock, so that it always counts as either ready or used.
                self.account.count_begun(&spare);
                self.changed.notify_all();
                return Ok(spare);
            }
            if !state.has_thread {
                self.make_one(&mut state)?;
                continue;
            }
            if !logged && since.elapsed() > LONG_WAIT {
                logged = true;
                let (used, ready) = (facts.segments, state.ready.len());
                log::warn!("a write waits for room: {used} segments are in use, {ready} more are ready");
            }
            state.demand.missed = state.ready.is_empty();
            // The thread may want to create more than when it last looked.
            self.changed.notify_all();
            if !facts.needs_compaction() && (facts.disk_full || facts.is_too_large()) {
                self.account.set_starved();
            }
            self.wait(&mut state);
            state.demand.missed = false;
        }
    }

    /// Creates a segment in this thread. It reuses a file only if the disk is full.
    fn make_one(&self, state: &mut State) -> Result<(), Failure> {
        let mut made = self.files.make_segment(state.next_id, None);
        if matches!(&made, Err(Failure::Io { source, .. }) if is_full(source))
            && let Some(recycled) = state.recycled.pop()
        {
            made = self.files.make_segment(state.next_id, Some(recycled));
        }
        state.ready.push_back(made?);
        state.next_id += 1;
        Ok(())
    }

    /// Slows writers down while
    /// [`Facts::must_wait_for_compaction`](super::space::Facts::must_wait_for_compaction) says so: one batch
    /// for each segment that compaction removes.
    pub(super) fn throttle(&self) {
        let mut state = self.state.lock();
        let removed = state.removed_ever;
        if !state.has_thread || !self.account.facts().must_wait_for_compaction(state.ready()) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !state.stopped
            && state.removed_ever == removed
            && self.account.facts().must_wait_for_compaction(state.ready())
        {
            self.wait(&mut state);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Creates segments, and removes those that are no longer useful, until it is stopped: what the thread
    /// does.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut state = self.state.lock();
        // Since when the disk is known to be full, and how long to wait before it is tried again.
        let mut full: Option<(Stopwatch, Duration)> = None;
        while !state.stopped {
            let facts = self.account.facts();
            let wants = facts.wants_segment(state.ready(), state.demand);
            if let Some(name) = self.useless(&mut state, wants) {
                // One at a time: of two removals a power cut may undo the later one only, which would leave a
                // gap.
                MutexGuard::unlocked(&mut state, || self.files.remove(&name))?;
                continue;
            }
            if !wants {
                if !facts.needs_compaction() && self.account.set_disk_full(false) {
                    log::info!("there is room on the disk again");
                    self.changed.notify_all();
                }
                full = None;
                // On a full disk it may want one as soon as anything has changed.
                match self.account.is_disk_full() {
                    true => drop(self.changed.wait_for(&mut state, FULL_PAUSE)),
                    false => self.changed.wait(&mut state),
                }
                continue;
            }
            let recycled = state.recycled.pop();
            let is_new = recycled.is_none();
            if let Some((since, pause)) = &full
                && let Some(left) = pause.checked_sub(since.elapsed())
                && is_new
            {
                self.changed.wait_for(&mut state, left);
                continue;
            }
            let id = state.next_id;
            match MutexGuard::unlocked(&mut state, || self.files.make_segment(id, recycled)) {
                Ok(spare) => {
                    state.demand = Demand::default();
                    state.next_id += 1;
                    state.ready.push_back(spare);
                    if is_new {
                        full = None;
                    }
                    self.changed.notify_all();
                }
                Err(Failure::Io { source, path, .. }) if is_full(&source) => {
                    if !self.account.set_disk_full(true) {
                        let path = path.display();
                        log::warn!("no room for {path}: {source}; new jobs are refused until there is");
                    }
                    let pause = full.map_or(FULL_PAUSE, |(_, pause)| FULL_PAUSE_MAX.min(pause * 2));
                    full = Some((Stopwatch::start(), pause));
                    self.account.compact_if_needed();
                    self.changed.notify_all();
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Takes a file out that is no longer useful, if there is one, and returns its name.
    fn useless(&self, state: &mut State, wants: bool) -> Option<String> {
        let facts = self.account.facts();
        if facts.has_too_many(state.ready()) {
            let spare = state.ready.pop_back()?;
            state.next_id = spare.id;
            return Some(segment::file_name(spare.id));
        }
        if wants || state.ready.len() < facts.ready_min() {
            return None;
        }
        state.recycled.pop().map(|recycled| recycled.name)
    }
}
