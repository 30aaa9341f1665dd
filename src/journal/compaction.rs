//! Compaction: keeps the journal small by emptying its oldest segment and removing it.
//!
//! The oldest segment is read; the jobs that have their whole record there and still exist are written anew, at the
//! end, as they are now; once that is durable, the segment is removed. Nothing else in it is needed:
//! - A status in it belongs to a job whose whole record lies before it, so in this segment too: there is none older.
//!   That job is gone, or written anew with its present status.
//! - That a job is gone need not be known any longer than its whole record is there, which lies before.
//! - A paused queue, and the ids that were used, are written anew each time.
//!
//! So what is left behind in later segments, a status or the end of a job whose whole record was removed, is passed over
//! when it is read; a whole record that comes later replaces it all. A crash in between leaves the old segment
//! and its copies side by side, which comes to the same: the copies are later.
//!
//! Only the oldest is ever taken, since only there it holds that nothing older depends on it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::batch::HEADER_BYTES;
use super::record::{self, Record};
use super::recovery::recycled_name;
use super::segment::{self, Chain, Damage, FirstBlock, Found, Reader};
use super::spares::Unfinished;
use super::storage::{StorageFile, lacks_files};
use super::writer::Shared;
use super::{Failure, Position, Sabotage, Unavailable};
use crate::change::Change;
use crate::job::JobId;

/// How many jobs are written anew at a time, under their owner's lock.
const SLICE_JOBS: usize = 256;

/// How many bytes of records are written anew before waiting for them: a batch or so, so that others come in between.
const STEP_BYTES: u64 = 256 << 10;

/// Who owns what the journal keeps, and can write it anew.
pub trait Keeper: Send + Sync {
    /// Appends a [`Change::Job`] for each of these jobs that still exists, as it is now. To be done under the lock
    /// under which all its changes are appended; `ids` are few enough for that.
    fn rewrite(&self, ids: &[JobId]);

    /// Appends a [`Change::Pause`] for each paused queue, and a [`Change::IdsUsed`] for the highest id given.
    fn rewrite_rest(&self);
}

/// What the thread that compacts shares with others.
#[derive(Default)]
pub(super) struct Compaction {
    keeper: Mutex<Option<Weak<dyn Keeper>>>,
    /// Whether there is one; to be asked without the lock.
    has_keeper: AtomicBool,
    /// Whether it was called for since it last looked.
    called: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
    /// How much was dead when all segments had been emptied once while the disk was full, but for what died meanwhile: less
    /// is not to be had.
    dead_least: AtomicU64,
    /// How much has to have died, as counted, for the journal to become smaller: all segments were emptied once, and it was
    /// as large as before.
    futile_until: AtomicU64,
    /// The place that it waits for, or last waited for.
    waits_for: AtomicU64,
}

#[derive(Default)]
struct State {
    called: bool,
    stopped: bool,
}

impl Compaction {
    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }
}

impl Shared {
    /// From now on compacts with the help of `keeper`.
    pub(super) fn start_compaction(&self, keeper: Weak<dyn Keeper>) {
        *self.compaction.keeper.lock() = Some(keeper);
        self.compaction.has_keeper.store(true, Ordering::Release);
        self.compact_if_needed();
    }

    /// Whether the oldest segment is to be emptied: where the segments are more than two and a half times what has to
    /// be kept, and one. That is seldom out of reach: written anew, jobs take no more than 1.4 times what they are
    /// counted as, unless nearly all of them are tiny and their counts enormous, or few of them fit in a segment. Where it is,
    /// nothing is emptied before some more has died.
    ///
    /// On a full disk it is worth more work to gain a segment: whenever there is nearly one more that is dead than after
    /// the last time that all were emptied; or somebody can't go on at all, and it has to be tried.
    pub(super) fn needs_compaction(&self) -> bool {
        (self.is_too_large() && !self.is_futile())
            || (self.supply.is_full() && self.can_compact() && self.gains_room())
    }

    /// Whether emptying all segments would make the journal no smaller. Where somebody waits for a file, it is tried all
    /// the same.
    fn is_futile(&self) -> bool {
        let until = self.compaction.futile_until.load(Ordering::Relaxed);
        self.died.load(Ordering::Relaxed) < until && !self.supply.is_starved()
    }

    /// Whether the journal is larger than it should be, whatever room the disk has.
    pub(super) fn is_too_large(&self) -> bool {
        let (used, live) = (self.used_bytes.load(Ordering::Relaxed), self.live().bytes);
        used > live / 2 * 5 + self.options.segment_bytes && self.can_compact()
    }

    pub(super) fn can_compact(&self) -> bool {
        self.begun_segments.load(Ordering::Relaxed) > 1 && self.compaction.has_keeper.load(Ordering::Acquire)
    }

    fn gains_room(&self) -> bool {
        let dead_least = self.compaction.dead_least.load(Ordering::Relaxed);
        self.supply.is_starved() || self.dead() > dead_least + self.options.segment_bytes / 4 * 3
    }

    /// Bytes of segments in use that are not live.
    fn dead(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed).saturating_sub(self.live().bytes)
    }

    /// How large the journal may become, in bytes, before those who write have to wait: what is promised, less the
    /// segment that compaction may need.
    pub(super) fn bytes_max(&self) -> u64 {
        self.live().bytes * 3 + self.options.segment_bytes * 3
    }

    /// Wakes the thread that compacts if there is something to do. Cheap: it is called under the queue's lock.
    pub(super) fn compact_if_needed(&self) {
        if self.needs_compaction() && !self.compaction.called.swap(true, Ordering::AcqRel) {
            self.compaction.state.lock().called = true;
            self.compaction.wake.notify_one();
        }
    }

    /// Compacts whenever it is called for: what the thread does.
    pub(super) fn keep_compact(&self) {
        loop {
            let mut state = self.compaction.state.lock();
            while !state.called && !state.stopped {
                self.compaction.wake.wait(&mut state);
            }
            if state.stopped {
                return;
            }
            state.called = false;
            drop(state);
            self.compaction.called.store(false, Ordering::Release);
            if self.compact().is_err() {
                return;
            }
        }
    }

    /// Empties and removes the oldest segments until there is nothing more to gain.
    pub(super) fn compact(&self) -> Result<(), Unavailable> {
        let (mut newest, mut died) = (0, 0);
        while self.needs_compaction() && !self.compaction.is_stopped() {
            let Some(keeper) = self.compaction.keeper.lock().as_ref().and_then(Weak::upgrade) else {
                // Nobody is left who could say what is needed, nor anybody to wait for it.
                self.compaction.has_keeper.store(false, Ordering::Release);
                break;
            };
            let (oldest, next) = {
                let segments = self.segments.lock();
                if segments.front().is_some_and(|oldest| oldest.id > newest) {
                    // From here on, once around.
                    if newest > 0 {
                        self.note_dead(died);
                    }
                    died = self.died.load(Ordering::Relaxed);
                    newest = segments.back().map_or(0, |newest| newest.id);
                }
                match (segments.front(), segments.get(1)) {
                    (Some(oldest), Some(next)) => (oldest.id, next.id),
                    // The segment at the end has to fill up first.
                    _ => break,
                }
            };
            self.empty_segment(&keeper, oldest, next)?;
            self.remove_segment(oldest)?;
        }
        self.supply.look_again();
        Ok(())
    }

    /// Takes note of what is left when all segments were emptied once, less what has died meanwhile: no less is to be
    /// had.
    fn note_dead(&self, died_before: u64) {
        let died = self.died.load(Ordering::Relaxed);
        let worth = self.options.segment_bytes / 4;
        // Had more died, the next round would gain that.
        let futile_until = if died - died_before < worth { died + worth } else { 0 };
        self.compaction.futile_until.store(futile_until, Ordering::Relaxed);
        let full = self.supply.is_full();
        let dead_least = if full { self.dead().saturating_sub(died - died_before) } else { 0 };
        self.compaction.dead_least.store(dead_least, Ordering::Relaxed);
        if self.supply.is_starved() {
            // Once more, but not at once: only others can make room now.
            self.supply.pause();
        }
    }

    /// Has all that is needed of the segment `id` written anew, durably.
    fn empty_segment(&self, keeper: &Arc<dyn Keeper>, id: u64, next: u64) -> Result<(), Unavailable> {
        let name = segment::file_name(id);
        let read = self.io("read", &name);
        let damaged = |offset, what| {
            let damage = Damage { path: self.storage.path(&name), offset, what };
            self.latched(Failure::Damaged(damage))
        };
        let file = self.open_file(&name).map_err(&read).map_err(|failure| self.latched(failure))?;
        let header = match segment::read_first_block(&*file, id) {
            Ok(FirstBlock::Header(header)) => header,
            Ok(_) => return Err(damaged(0, "not a segment's header")),
            Err(e) => return Err(self.latched(read(e))),
        };
        let mut reader =
            Reader::new(file, &header).map_err(&read).map_err(|failure| self.latched(failure))?;
        let mut ids = Vec::new();
        let mut step_bytes = 0;
        loop {
            match reader.next() {
                Ok(Found::End) => break,
                Ok(Found::Broken(broken)) => return Err(damaged(broken.offset, broken.what)),
                Ok(Found::Batch(batch)) => {
                    for record in batch.records() {
                        match record {
                            Ok(Record::Change(Change::Job(spec, _))) => ids.push(spec.id),
                            Ok(_) => {}
                            Err(bad) => return Err(damaged(batch.offset, bad.0)),
                        }
                    }
                    step_bytes += HEADER_BYTES as u64 + u64::from(batch.header.payload_length);
                }
                Err(e) => return Err(self.latched(read(e))),
            }
            if step_bytes >= STEP_BYTES {
                step_bytes = 0;
                self.rewrite(keeper, &mut ids)?;
            }
        }
        if reader.chain() != self.chain_before(next)? {
            return Err(damaged(reader.offset(), "a batch is not there"));
        }
        self.rewrite(keeper, &mut ids)?;
        keeper.rewrite_rest();
        let position = self.append_record(|out| record::encode_dropped(id, out));
        if self.options.sabotage == Sabotage::DropBeforeSync {
            return Ok(());
        }
        self.wait_with_priority(position)?;
        self.sync(position)
    }

    /// Has jobs written anew, and waits for it.
    fn rewrite(&self, keeper: &Arc<dyn Keeper>, ids: &mut Vec<JobId>) -> Result<(), Unavailable> {
        for slice in ids.chunks(SLICE_JOBS) {
            keeper.rewrite(slice);
        }
        ids.clear();
        self.wait_with_priority(self.appended())
    }

    /// Waits for `position`; whoever writes is to let everything through up to there.
    fn wait_with_priority(&self, position: Position) -> Result<(), Unavailable> {
        self.compaction.waits_for.store(position.0, Ordering::Release);
        self.supply.look_again();
        self.wait(position)
    }

    /// Whether compaction waits for something to be written: only then does it get on, and make room.
    pub(super) fn compaction_waits(&self) -> bool {
        self.compaction.waits_for.load(Ordering::Acquire) > self.promised().0
    }

    /// Opens a file, and waits for it while no more may be open.
    fn open_file(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        loop {
            match self.storage.open(name) {
                Err(e) if lacks_files(&e) && !self.compaction.is_stopped() => self.supply.pause(),
                opened => return opened,
            }
        }
    }

    /// Where the succession of batches was when the segment `id` was begun.
    fn chain_before(&self, id: u64) -> Result<Chain, Unavailable> {
        let name = segment::file_name(id);
        let read = || segment::read_first_block(&*self.open_file(&name)?, id);
        match read() {
            Ok(FirstBlock::Header(header)) => {
                Ok(Chain { next: header.first_batch, previous: header.previous })
            }
            Ok(_) => {
                let damage =
                    Damage { path: self.storage.path(&name), offset: 0, what: "not a segment's header" };
                Err(self.latched(Failure::Damaged(damage)))
            }
            Err(e) => Err(self.latched(self.io("read", &name)(e))),
        }
    }

    /// Removes the oldest segment. Where files are scarce it is kept under another name, to be used again.
    fn remove_segment(&self, id: u64) -> Result<(), Unavailable> {
        let name = segment::file_name(id);
        let recycled = self.forget_segment(id, &name).map_err(self.io("remove", &name));
        let recycled = recycled.map_err(|failure| self.latched(failure))?;
        // One at a time: of two names that go in one stroke, a power cut may take the later one only. And nothing may be
        // written into a file that a power cut could give its old name.
        let sync = self.sync_directory().map_err(self.io("sync the directory of", &name));
        sync.map_err(|failure| self.latched(failure))?;
        let removed = self.segments.lock().pop_front();
        if let Some(removed) = removed {
            self.used_bytes.fetch_sub(removed.file_bytes, Ordering::Relaxed);
            self.begun_segments.fetch_sub(1, Ordering::Relaxed);
        }
        self.segment_removed(recycled);
        Ok(())
    }

    fn forget_segment(&self, id: u64, name: &str) -> io::Result<Option<Unfinished>> {
        if self.recycles() {
            let file = self.open_file(name)?;
            if file.length()? == self.options.segment_bytes {
                let recycled = recycled_name(id, self.salt(id));
                self.storage.rename(name, &recycled)?;
                return Ok(Some(Unfinished { name: recycled, file }));
            }
        }
        self.storage.remove(name).map(|()| None)
    }

    /// Ends all success for ever, and says why.
    pub(super) fn latched(&self, failure: Failure) -> Unavailable {
        self.fail(failure);
        self.failure().unwrap_or_else(|| Unavailable(Failure::Closed.into()))
    }
}
