//! Compaction: keeps the journal small by emptying its oldest segment and removing it.
//!
//! It reads the oldest segment. Jobs that have their whole record there and still exist are written again at
//! the end, as they are now. Once that is durable, the segment is removed. Nothing else in it is needed:
//! - A status in it belongs to a job whose whole record is earlier, so also in this segment, because none is
//!   older. That job is gone, or it is written again with its present status.
//! - The end of a job matters only while its whole record exists, which is earlier.
//! - Paused queues and the highest id are written again each time.
//!
//! Later segments may keep a status or the end of a job whose whole record was removed: replay skips these. A
//! whole record that comes later replaces everything before it. A crash between the copy and the removal
//! leaves both, which has the same result because the copies are later.
//!
//! A crash between the copy and the removal, again and again, leaves many copies of a job. So each job is
//! written again only once in a round, in which every segment that existed at its begin is emptied: once a
//! round has copied a job, its other copies in that round's segments are older. Only the last of these
//! segments, in which the round's first copies may be, is emptied without regard to that.
//!
//! Only the oldest segment is ever emptied: only there does nothing older depend on it. Compaction uses the
//! journal as its other users do: it appends, waits and syncs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::account::Account;
use super::batch::HEADER_BYTES;
use super::buffer::{Needed, Position};
use super::failure::{Failure, Unavailable};
use super::files::{Files, Unfinished};
use super::options::Sabotage;
use super::record::{self, Record};
use super::recovery::Segment;
use super::reserve::Reserve;
use super::segment::{self, Chain, Damage, FirstBlock, Found, Header, Reader};
use super::storage::{StorageFile, lacks_files};
use super::writer::Writer;
use crate::change::Change;
use crate::job::JobId;

/// How many jobs are written again at a time, under their owner's lock.
const SLICE_JOBS: usize = 256;

/// How many bytes of records are read before it waits for what is written again: about a batch, so that
/// others get a turn.
const STEP_BYTES: u64 = 256 << 10;

/// The owner of what the journal keeps, who can write it again.
pub trait Keeper: Send + Sync {
    /// Appends a [`Change::Job`] for each of these jobs that still exists, as it is now, under the lock under
    /// which all its changes are appended. There are few enough `ids` for that.
    fn rewrite(&self, ids: &[JobId]);

    /// Appends a [`Change::Pause`] for each paused queue, a [`Change::Batch`] for each batch, and a
    /// [`Change::IdsUsed`] for the highest id.
    fn rewrite_rest(&self);
}

/// Empties and removes segments.
pub(super) struct Compactor {
    files: Arc<Files>,
    account: Arc<Account>,
    reserve: Arc<Reserve>,
    writer: Arc<Writer>,
    sabotage: Sabotage,
    keeper: Mutex<Option<Weak<dyn Keeper>>>,
    /// Used by the thread that compacts only.
    round: Mutex<InRound>,
}

/// A round of compaction that has begun. It continues when compaction is called again.
#[derive(Default)]
struct InRound {
    /// The segment that was the newest at its begin. Zero before the first round.
    end: u64,
    /// How many bytes had died at its begin.
    died_before: u64,
    /// The jobs that it has written again, behind all of its segments but the last.
    copied: Ids,
}

/// A set of jobs, a bit each if their ids lie close together.
#[derive(Default)]
struct Ids(BTreeMap<u64, u64>);

impl Ids {
    /// Adds a job. Returns whether it was not there yet.
    fn insert(&mut self, id: JobId) -> bool {
        let bit = 1 << (id.0 % 64);
        let word = self.0.entry(id.0 / 64).or_insert(0);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl Compactor {
    /// Compacts what `writer` writes.
    pub(super) fn new(
        files: Arc<Files>,
        account: Arc<Account>,
        reserve: Arc<Reserve>,
        writer: Arc<Writer>,
        sabotage: Sabotage,
    ) -> Compactor {
        let (keeper, round) = (Mutex::default(), Mutex::default());
        Compactor { files, account, reserve, writer, sabotage, keeper, round }
    }

    /// Compacts from now on, with the help of `keeper`.
    pub(super) fn start(&self, keeper: Weak<dyn Keeper>) {
        *self.keeper.lock() = Some(keeper);
        self.account.set_keeper(true);
        self.reserve.notify();
    }

    /// Compacts whenever it is called: what the thread does.
    pub(super) fn run(&self) {
        while self.account.wait_for_call() && self.compact().is_ok() {}
    }

    /// Empties and removes the oldest segments until nothing more is to be gained.
    pub(super) fn compact(&self) -> Result<(), Unavailable> {
        let mut round = self.round.lock();
        while self.account.facts().needs_compaction() && !self.account.is_compaction_stopped() {
            let Some(keeper) = self.keeper.lock().as_ref().and_then(Weak::upgrade) else {
                // Its owner is gone, and so is everybody who could wait for it.
                self.account.set_keeper(false);
                break;
            };
            let ids = |segments: &VecDeque<Segment>| {
                let id = |index: usize| segments.get(index).map(|segment| segment.id);
                // The newest segment has to fill up first.
                Some((id(0)?, id(1)?, segments.back()?.id))
            };
            let Some((oldest, next, newest)) = self.account.with_segments(ids) else { break };
            if oldest > round.end {
                if round.end > 0 {
                    self.end_round(round.died_before);
                }
                *round =
                    InRound { end: newest, died_before: self.account.facts().died, copied: Ids::default() };
            }
            if oldest == round.end {
                // The round's first copies may be in it, if it had room when the round began.
                round.copied = Ids::default();
            }
            self.empty_segment(&*keeper, oldest, next, &mut round.copied)?;
            self.remove_segment(oldest)?;
        }
        self.reserve.notify();
        Ok(())
    }

    /// Remembers what a round could not remove, without what has died meanwhile.
    fn end_round(&self, died_before: u64) {
        let facts = self.account.facts();
        self.account.set_last_round(facts.round_ended(died_before));
        self.reserve.notify();
        if facts.starved {
            // It is tried again, but not at once: only other programs can make room now.
            self.reserve.pause();
        }
    }

    /// Writes again what is needed of the segment `id`, durably.
    fn empty_segment(
        &self,
        keeper: &dyn Keeper,
        id: u64,
        next: u64,
        copied: &mut Ids,
    ) -> Result<(), Unavailable> {
        let name = segment::file_name(id);
        let read_failed = |e| self.writer.fail(self.files.failed("read", &name)(e));
        let damaged = |offset, what| self.damaged(&name, offset, what);
        let file = self.open(&name).map_err(read_failed)?;
        let header = self.header(&*file, id)?;
        let mut reader = Reader::new(file, &header).map_err(read_failed)?;
        let mut ids = Vec::new();
        let mut step_bytes = 0;
        loop {
            match reader.next().map_err(read_failed)? {
                Found::End => break,
                Found::Broken(broken) => return Err(damaged(broken.offset, broken.what)),
                Found::Batch(batch) => {
                    for record in batch.records() {
                        match record {
                            Ok(Record::Change(Change::Job(spec, _))) if copied.insert(spec.id) => {
                                ids.push(spec.id);
                            }
                            Ok(_) => {}
                            Err(bad) => return Err(damaged(batch.offset, bad.0)),
                        }
                    }
                    step_bytes += HEADER_BYTES as u64 + u64::from(batch.header.payload_length);
                }
            }
            if step_bytes >= STEP_BYTES {
                step_bytes = 0;
                self.rewrite(keeper, &mut ids)?;
            }
        }
        if reader.chain() != self.chain_before(next)? {
            return Err(damaged(reader.offset(), "a batch is missing"));
        }
        self.rewrite(keeper, &mut ids)?;
        keeper.rewrite_rest();
        let position = self.writer.append(Needed::Long, |out| record::encode_dropped(id, out));
        if self.sabotage == Sabotage::DropBeforeSync {
            return Ok(());
        }
        self.wait_first(position)?;
        self.writer.sync(position)
    }

    /// Writes jobs again, and waits until they are written.
    fn rewrite(&self, keeper: &dyn Keeper, ids: &mut Vec<JobId>) -> Result<(), Unavailable> {
        for slice in ids.chunks(SLICE_JOBS) {
            keeper.rewrite(slice);
        }
        ids.clear();
        self.wait_first(self.writer.appended())
    }

    /// Waits for `position`. The writer may use any segment for everything up to there.
    fn wait_first(&self, position: Position) -> Result<(), Unavailable> {
        self.account.set_compaction_wants(position.0);
        self.reserve.notify();
        self.writer.wait(position)
    }

    /// Opens a file. While too many files are open, it tries again.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        loop {
            match self.files.storage().open(name) {
                Err(e) if lacks_files(&e) && self.reserve.pause() => {}
                opened => return opened,
            }
        }
    }

    /// Reads the header of the segment `id`.
    fn header(&self, file: &dyn StorageFile, id: u64) -> Result<Header, Unavailable> {
        let name = segment::file_name(id);
        match segment::read_first_block(file, id) {
            Ok(FirstBlock::Header(header)) => Ok(header),
            Ok(_) => Err(self.damaged(&name, 0, "not a segment's header")),
            Err(e) => Err(self.writer.fail(self.files.failed("read", &name)(e))),
        }
    }

    /// The chain of batches before the segment `id`.
    fn chain_before(&self, id: u64) -> Result<Chain, Unavailable> {
        let name = segment::file_name(id);
        let file = self.open(&name).map_err(|e| self.writer.fail(self.files.failed("read", &name)(e)))?;
        let header = self.header(&*file, id)?;
        Ok(Chain { next: header.first_batch, previous: header.previous })
    }

    fn damaged(&self, name: &str, offset: u64, what: &'static str) -> Unavailable {
        self.writer.fail(Failure::Damaged(Damage { path: self.files.storage().path(name), offset, what }))
    }

    /// Removes the oldest segment. If segments are scarce, its file is kept under another name, to be used
    /// again.
    fn remove_segment(&self, id: u64) -> Result<(), Unavailable> {
        let name = segment::file_name(id);
        let fail = |action| move |e| self.writer.fail(self.files.failed(action, &segment::file_name(id))(e));
        let recycled = self.unname(id, &name).map_err(fail("remove"))?;
        // One at a time: of two removals a power cut may undo the earlier one only. And nothing may be
        // written into a file to which a power cut could give its old name back.
        self.files.sync_directory().map_err(fail("sync the directory of"))?;
        self.account.pop_segment();
        self.reserve.segment_removed(recycled);
        Ok(())
    }

    fn unname(&self, id: u64, name: &str) -> io::Result<Option<Unfinished>> {
        if self.reserve.recycles()
            && let Some(recycled) = self.files.recycle(id, self.open(name)?)?
        {
            return Ok(Some(recycled));
        }
        self.files.storage().remove(name).map(|()| None)
    }
}
