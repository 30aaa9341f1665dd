//! The journal: appended changes survive the end of the process.
//!
//! Changes are appended in the order in which they happen. Each gets a [`Position`]; a thread that must not
//! go on before a change is safe waits for its position. One thread at a time writes batches of changes and
//! syncs them as the [`Fsync`] policy asks. Threads that wait meanwhile share the next write and the next
//! sync.
//!
//! The files are described in docs/journal.md, and byte by byte at the heads of `journal/segment.rs`,
//! `journal/batch.rs` and `journal/record.rs`. This module knows changes to jobs. It does not know what a
//! queue does with them, or sockets, or workers.
//!
//! Its files import each other in one direction: formats and storage, then recovery, then
//! [`space`](mod@space) (when to compact and who may use which segment, as a pure policy) and the account
//! that it decides from, then the reserve of segments, the tail that writes batches, the writer, and
//! compaction, which uses the writer as any other user does.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::change::Change;
pub use crate::change::{JobSize, batch_bytes, job_bytes, pause_bytes};
use crate::clock::Stopwatch;
use crate::job::JobId;
pub use crate::stats::JournalStats;

mod account;
mod batch;
mod buffer;
mod compaction;
mod failure;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod histogram;
mod options;
mod record;
mod recovery;
mod reserve;
mod salvage;
mod segment;
mod space;
pub mod storage;
mod sync;
mod tail;
mod threads;
mod verify;
mod waiters;
mod writer;

use account::Account;
use buffer::Needed;
pub use buffer::Position;
use compaction::Compactor;
pub use compaction::Keeper;
pub use failure::{Failure, OnFailure, OpenError, Unavailable};
use files::Files;
pub use options::{Fsync, Options, SEGMENT_BYTES_MIN, Sabotage};
pub use recovery::TornTail;
use reserve::Reserve;
pub use salvage::{Salvaged, salvage};
pub use segment::{Damage, FORMAT_VERSION};
pub use space::{Live, Room};
use storage::Storage;
use sync::Syncs;
use tail::Tail;
use threads::Threads;
pub use verify::{Report, verify};
use writer::Writer;

/// What was found when a journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Records read.
    pub records: u64,
    /// Bytes read that are headers, batches or records.
    pub bytes: u64,
    /// Segments read.
    pub segments: usize,
    /// A last batch that was not written completely.
    pub torn: Option<TornTail>,
    /// Whether the server before ended gracefully, or there was none.
    pub clean: bool,
    /// The highest id that was ever given; 0 if none was.
    pub highest_id: u64,
    /// How long it took.
    pub duration: Duration,
}

/// The smallest size of segments in which every record of this size fits, whatever other records share its
/// batch.
pub fn segment_bytes_for(record_bytes: u64) -> u64 {
    let batch = record_bytes + batch::HEADER_BYTES as u64;
    segment::HEADER_BYTES as u64 + (batch * writer::BATCH_PARTS).div_ceil(writer::BATCH_PARTS - 1) + 1
}

/// Reads a journal as [`Journal::open`] does, calls `replay` with every change in order, and changes nothing.
///
/// # Errors
/// [`OpenError`], as for [`Journal::open`].
pub fn read(storage: &dyn Storage, replay: &mut dyn FnMut(Change)) -> Result<Recovered, OpenError> {
    let started = Stopwatch::start();
    let (scan, highest_id) = replay_scan(storage, replay)?;
    let torn = scan.torn_tail(storage, None);
    Ok(recovered(&scan, torn, highest_id, started.elapsed()))
}

fn replay_scan(
    storage: &dyn Storage,
    replay: &mut dyn FnMut(Change),
) -> Result<(recovery::Scan, u64), OpenError> {
    let mut highest_id = 0;
    let scan = recovery::scan(storage, &mut |record| {
        if let record::Record::Change(change) = record {
            highest_id = highest_id.max(id_of(&change).map_or(0, |id| id.0));
            replay(change);
        }
    })?;
    Ok((scan, highest_id))
}

fn recovered(
    scan: &recovery::Scan,
    torn: Option<TornTail>,
    highest_id: u64,
    duration: Duration,
) -> Recovered {
    Recovered {
        records: scan.records,
        bytes: scan.bytes,
        segments: scan.segments.len(),
        torn,
        clean: scan.closed || scan.segments.is_empty(),
        highest_id,
        duration,
    }
}

/// An open journal. Clones share it. It stops when the last one is dropped, without a clean mark unless
/// [`Journal::close`] was called.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    account: Arc<Account>,
    reserve: Arc<Reserve>,
    writer: Arc<Writer>,
    compactor: Arc<Compactor>,
    threads: Threads,
    options: Options,
    recovered: Recovered,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writer.stop();
        self.threads.join();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("recovered", &self.inner.recovered).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `storage`, creates it if there is none, and calls `replay` with every change in
    /// it, in order. Blocks until everything is read and the tail is durable.
    ///
    /// Skip a [`Change::Status`] or [`Change::Gone`] of a job that does not exist: compaction has removed its
    /// job. A [`Change::Job`] replaces an earlier one with its id.
    ///
    /// # Errors
    /// [`OpenError`]; nothing that was acknowledged has then been changed or removed.
    pub fn open(
        storage: Arc<dyn Storage>,
        mut options: Options,
        replay: &mut dyn FnMut(Change),
    ) -> Result<(Journal, Recovered), OpenError> {
        let started = Stopwatch::start();
        options.segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let (mut scan, highest_id) = replay_scan(&*storage, replay)?;
        let torn = scan.settle(&*storage)?;
        let mut recovered = recovered(&scan, torn, highest_id, Duration::ZERO);

        let files = Arc::new(Files::new(storage, &options));
        let account = Arc::new(Account::new(options.segment_bytes, scan.segments.clone()));
        let spares = std::mem::take(&mut scan.spares);
        let last_id = scan.segments.last().map_or(0, |segment| segment.id);
        let next_id = spares.last().map_or(last_id, |spare| spare.id) + 1;
        let reserve = Arc::new(Reserve::new(Arc::clone(&files), Arc::clone(&account), spares, next_id));
        let syncs = Arc::new(Syncs::new(Arc::clone(&files), scan.chain.next));
        let parts = (Arc::clone(&files), Arc::clone(&account), Arc::clone(&reserve), Arc::clone(&syncs));
        let tail = Tail::new(parts.0, parts.1, parts.2, parts.3, options.fsync, &scan);
        let writer = Writer::start(options.clone(), Arc::clone(&account), Arc::clone(&reserve), syncs, tail);
        let writer = Arc::new(writer.map_err(OpenError::Unavailable)?);
        let parts = (Arc::clone(&files), Arc::clone(&account), Arc::clone(&reserve), Arc::clone(&writer));
        let compactor = Arc::new(Compactor::new(parts.0, parts.1, parts.2, parts.3, options.sabotage));
        let threads = match options.background {
            true => Threads::start(&files, &writer, &reserve, &compactor, options.fsync)?,
            false => Threads::default(),
        };
        recovered.duration = started.elapsed();
        let inner =
            Inner { account, reserve, writer, compactor, threads, options, recovered: recovered.clone() };
        Ok((Journal { inner: Arc::new(inner) }, recovered))
    }

    /// Puts the journal in the failed state: nothing more is kept or acknowledged, and
    /// [`Options::on_failure`] is called. Does nothing if it has failed already.
    pub fn fail(&self, failure: Failure) {
        self.inner.writer.fail(failure);
    }

    /// Appends a change, and returns the position to wait for. It does no I/O and never blocks for long: it
    /// is called under the queue's lock, so that the journal has the order in which changes happened.
    ///
    /// A change that nobody waits for is written with the next one that somebody waits for; see
    /// [`Journal::nudge`].
    pub fn append(&self, change: &Change) -> Position {
        let needed = match change {
            Change::Status(..) | Change::Gone(_) | Change::GoneOf(..) => Needed::UntilRewritten,
            Change::Job(..)
            | Change::Done(..)
            | Change::Pause(..)
            | Change::Batch(_)
            | Change::Attempt(..)
            | Change::IdsUsed(_) => Needed::Long,
        };
        self.inner.writer.append(needed, |out| record::encode(change, out))
    }

    /// Tells the journal how much must be kept. Cheap. Call it once after opening, and whenever changes were
    /// appended, before the queue's lock is released.
    pub fn set_live(&self, live: Live) {
        self.inner.account.set_live(live);
        self.inner.reserve.notify_if_waiting();
    }

    /// The position of the change that was appended last.
    pub fn appended(&self) -> Position {
        self.inner.writer.appended()
    }

    /// The position up to which the policy's promise holds.
    pub fn durable(&self) -> Position {
        self.inner.writer.promised()
    }

    /// Has what was appended written soon, although nobody waits for it.
    pub fn nudge(&self) {
        self.inner.writer.nudge();
    }

    /// Blocks until the policy's promise holds for all changes up to `position`: they are synced under
    /// [`Fsync::Always`], otherwise written.
    ///
    /// # Errors
    /// [`Unavailable`] once the journal has failed.
    pub fn wait(&self, position: Position) -> Result<(), Unavailable> {
        self.inner.writer.wait(position)
    }

    /// As [`Journal::wait`], but if another thread is writing, it does not wait and returns false. Then what
    /// `prepare` returns is called once, by the thread that writes up to `position` or fails to. It must not
    /// block.
    ///
    /// # Errors
    /// [`Unavailable`] once the journal has failed. The call gets the same.
    pub fn wait_or_call<C>(
        &self,
        position: Position,
        prepare: impl FnOnce() -> C,
    ) -> Result<bool, Unavailable>
    where
        C: FnOnce(Result<(), Unavailable>) + Send + 'static,
    {
        self.inner.writer.wait_or_call(position, || Box::new(prepare()))
    }

    /// Blocks until all changes up to `position` are synced, whatever the policy.
    ///
    /// # Errors
    /// [`Unavailable`] once the journal has failed.
    pub fn sync(&self, position: Position) -> Result<(), Unavailable> {
        self.inner.writer.wait(position)?;
        self.inner.writer.sync(position)
    }

    /// Keeps the journal small from now on: whenever too much of it is dead, the oldest segment is emptied
    /// and removed, with traffic or without. The journal then takes at most three times [`Live::bytes`] and
    /// four segments.
    pub fn start_compaction(&self, keeper: Weak<dyn Keeper>) {
        self.inner.compactor.start(keeper);
    }

    /// Compacts inside this call until nothing more is to be gained: for tests without threads.
    ///
    /// # Errors
    /// [`Unavailable`] once the journal has failed.
    #[doc(hidden)]
    pub fn compact(&self) -> Result<(), Unavailable> {
        self.inner.compactor.compact()
    }

    /// Whether a new job whose record takes this many bytes may be appended, judged without waiting. It
    /// counts everything that was appended before. It does no I/O and takes no lock that is held during any,
    /// so it may be called under the queue's lock.
    pub fn room(&self, bytes: u64) -> Room {
        self.inner.account.facts().room(bytes, || self.free_bytes(), self.inner.account.unwritten())
    }

    /// As [`Journal::room`], but on [`Room::MustWrite`] it writes and asks again. It is false only while the
    /// disk is full. There is still room for what ends existing jobs then: ACK, FAIL and DELETE work.
    /// Everything except new jobs and reasons of failures is appended without asking.
    ///
    /// It blocks while more than a segment's worth is not written yet, so that a disk that turns out to be
    /// full never has to take more than the reserve.
    pub fn has_room(&self, bytes: u64) -> bool {
        loop {
            match self.room(bytes) {
                Room::Yes => return true,
                Room::No => return false,
                Room::MustWrite => {}
            }
            if self.wait(self.appended()).is_err() {
                // The caller gets this error when it waits for its job.
                return true;
            }
        }
    }

    /// Whether the reason of a failure may be kept, with this many bytes. It is false only if the disk has
    /// been full for a while. It never blocks, like [`Journal::room`].
    pub fn has_room_for_reason(&self, bytes: u64) -> bool {
        self.inner.account.facts().has_room_for_reason(bytes, || self.free_bytes())
    }

    /// Room on the disk that nothing appended so far will take.
    fn free_bytes(&self) -> u64 {
        let Inner { account, reserve, .. } = &*self.inner;
        (account.tail_room() + reserve.ready_bytes()).saturating_sub(account.unwritten())
    }

    /// Why it can no longer be written, if so.
    pub fn failure(&self) -> Option<Unavailable> {
        self.inner.writer.failure()
    }

    /// What it has done since it was opened.
    pub fn stats(&self) -> JournalStats {
        let Inner { account, reserve, writer, options, recovered, .. } = &*self.inner;
        let counts = writer.counts();
        let facts = account.facts();
        let (segments, oldest_segment, newest_segment) = account.with_segments(|segments| {
            let id = |segment: Option<&recovery::Segment>| segment.map_or(0, |segment| segment.id);
            (segments.len() as u64, id(segments.front()), id(segments.back()))
        });
        JournalStats {
            fsync: options.fsync.to_string(),
            segments,
            oldest_segment,
            newest_segment,
            segment_bytes: options.segment_bytes,
            total_bytes: reserve.total_bytes(),
            live_bytes: facts.live.bytes,
            dead_bytes: facts.dead(),
            batches: counts.batches,
            records: counts.records,
            syncs: counts.latency.count(),
            sync_p50: counts.latency.percentile(50),
            sync_p99: counts.latency.percentile(99),
            sync_max: counts.latency.max(),
            replayed_records: recovered.records,
            replayed_bytes: recovered.bytes,
            replayed_clean: recovered.clean,
        }
    }

    /// Writes and syncs what was appended, then a clean mark, and ends the journal's threads. Blocks until
    /// that is done. A wait for what is appended later returns [`Unavailable`].
    ///
    /// # Errors
    /// [`Unavailable`] if a write or a sync failed, now or before.
    pub fn close(&self) -> Result<(), Unavailable> {
        let closed = self.inner.writer.close();
        self.inner.threads.join();
        closed
    }
}

/// The id that a change shows to be used, if it names one.
fn id_of(change: &Change) -> Option<JobId> {
    match change {
        Change::Job(spec, _) => Some(spec.id),
        Change::Status(id, _)
        | Change::Done(id, ..)
        | Change::Gone(id)
        | Change::GoneOf(id, _)
        | Change::Attempt(id, _)
        | Change::IdsUsed(id) => Some(*id),
        Change::Pause(..) | Change::Batch(_) => None,
    }
}
