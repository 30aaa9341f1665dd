//! The journal: what has to outlive the process, in files that only ever grow at their end.
//!
//! Changes are appended in the order in which they happen and get a [`Position`]; whoever must not go on before
//! a change is safe waits for its position. Batches of changes are written by one thread at a time, and synced as
//! the [`Fsync`] policy asks: all who wait meanwhile share the next write and the next sync.
//!
//! What the files hold is described in docs/journal.md, and byte by byte at the heads of `journal/segment.rs`,
//! `journal/batch.rs` and `journal/record.rs`. This room knows changes to jobs; it does not know what a queue does
//! with them, and no socket or worker.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::change::Change;
use crate::clock::Stopwatch;
use crate::job::{JobId, QueueName};
pub use crate::stats::JournalStats;

mod batch;
mod compaction;
mod failure;
#[doc(hidden)]
pub mod fuzz;
mod histogram;
mod options;
mod record;
mod recovery;
mod salvage;
mod segment;
mod spares;
pub mod storage;
mod verify;
mod waiters;
mod writer;

pub use compaction::Keeper;
pub use failure::{Failure, OnFailure, OpenError, Unavailable};
pub use options::{Fsync, Options, SEGMENT_BYTES_MIN, Sabotage};
pub use recovery::TornTail;
pub use salvage::{Salvaged, salvage};
pub use segment::{Damage, FORMAT_VERSION};
use storage::Storage;
pub use verify::{Report, verify};
use writer::{Shared, Threads};

/// A place in the journal: all changes up to one of them. Counts from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

/// What was found when a journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records read.
    pub records: u64,
    /// Bytes of them, with all that surrounds them.
    pub bytes: u64,
    /// Segments read.
    pub segments: usize,
    /// A last batch that had not been written in whole.
    pub torn: Option<TornTail>,
    /// Whether the server before had stopped in good order, or there was none.
    pub clean: bool,
    /// The highest id that was ever given; 0 where none was.
    pub highest_id: u64,
    /// How long it took.
    pub duration: Duration,
}

/// What has to be kept, as its owner counts it: all that is in the journal beyond it is dead weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Jobs that are there.
    pub jobs: u64,
    /// The [`job_bytes`] of all of them, and the [`pause_bytes`] of all paused queues.
    pub bytes: u64,
}

/// Whether a new job may be appended, as far as that is known without waiting: see [`Journal::room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Yes,
    /// The disk is full, and what is left is set aside for what ends the jobs that exist.
    No,
    /// More than a segment's worth is appended and not written yet: write first, with [`Journal::has_room`].
    MustWrite,
}

/// What a job adds to [`Live::bytes`]: the least that a record of it takes with the priority and the reason that it
/// has now, whatever its counts and its place are.
///
/// Counts and places change without a word to the journal; leaving them out makes this a few bytes less than
/// the record, and a sum that is easily kept.
pub fn job_bytes(job: &JobSize<'_>) -> u64 {
    record::job_bytes(job)
}

/// The least size of segments in which every record of so many bytes fits, whatever other records share its batch.
pub fn segment_bytes_for(record_bytes: u64) -> u64 {
    let batch = record_bytes + batch::HEADER_BYTES as u64;
    segment::HEADER_BYTES as u64 + (batch * writer::BATCH_PARTS).div_ceil(writer::BATCH_PARTS - 1) + 1
}

/// What a paused queue adds to [`Live::bytes`].
pub fn pause_bytes(queue: &QueueName) -> u64 {
    queue.as_str().len() as u64 + 3
}

pub use crate::change::JobSize;

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

/// An open journal. Clones share it; it stops when the last one is dropped, without a clean mark unless
/// [`Journal::close`] was called.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    threads: Threads,
    recovered: Recovered,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
        self.threads.join();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("recovered", &self.inner.recovered).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `storage`, creates it where there is none, and calls `replay` with every change that
    /// it holds, in order. Blocks until all is read and the tail is durable.
    ///
    /// A [`Change::Status`] or [`Change::Gone`] of a job that is not there is to be passed over: its job has been
    /// compacted away since. A [`Change::Job`] takes the place of an earlier one with its id.
    ///
    /// # Errors
    /// [`OpenError`]; nothing that was acknowledged has then been changed or removed.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        replay: &mut dyn FnMut(Change),
    ) -> Result<(Journal, Recovered), OpenError> {
        let started = Stopwatch::start();
        let (scan, highest_id) = replay_scan(&*storage, replay)?;
        let torn = scan.settle(&*storage)?;
        let mut recovered = recovered(&scan, torn, highest_id, Duration::ZERO);
        let shared = Shared::start(storage, options, scan)?;
        let threads = Threads::spawn(&shared)?;
        recovered.duration = started.elapsed();
        let inner = Inner { shared, threads, recovered: recovered.clone() };
        Ok((Journal { inner: Arc::new(inner) }, recovered))
    }

    /// Puts the journal in the failed state: nothing more is kept or acknowledged, and
    /// [`Options::on_failure`] is called. Does nothing if it has failed already.
    pub fn fail(&self, failure: Failure) {
        self.inner.shared.fail(failure);
    }

    /// Appends a change, and returns the place up to which to wait for it. Does no I/O and never blocks for long:
    /// it is called under the queue's lock, so that the journal's order is the order of what happened.
    ///
    /// What nobody waits for is written with what somebody does; see [`Journal::nudge`].
    pub fn append(&self, change: &Change) -> Position {
        self.inner.shared.append(change)
    }

    /// Tells how much of what was appended has to be kept. Cheap; to be called once after opening, and whenever
    /// changes were appended, before the queue's lock is let go.
    pub fn set_live(&self, live: Live) {
        self.inner.shared.set_live(live);
    }

    /// The place of the change that was appended last.
    pub fn appended(&self) -> Position {
        self.inner.shared.appended()
    }

    /// The place up to which the policy's promise holds.
    pub fn durable(&self) -> Position {
        self.inner.shared.promised()
    }

    /// Has what was appended written soon, for those who do not wait.
    pub fn nudge(&self) {
        self.inner.shared.nudge();
    }

    /// Blocks until the policy's promise holds for all changes up to `position`: synced under [`Fsync::Always`],
    /// written otherwise.
    ///
    /// # Errors
    /// [`Unavailable`] once a write or a sync has failed, and ever after.
    pub fn wait(&self, position: Position) -> Result<(), Unavailable> {
        self.inner.shared.wait(position)
    }

    /// As [`Journal::wait`], but where another thread is writing, does not wait for it and returns false. What `prepare`
    /// has made is called instead, once, by whoever comes to know; it must not block.
    ///
    /// # Errors
    /// [`Unavailable`] once a write or a sync has failed, and ever after; whoever is called gets the same.
    pub fn wait_or_call<C>(
        &self,
        position: Position,
        prepare: impl FnOnce() -> C,
    ) -> Result<bool, Unavailable>
    where
        C: FnOnce(Result<(), Unavailable>) + Send + 'static,
    {
        self.inner.shared.wait_or_call(position, || Box::new(prepare()))
    }

    /// Blocks until all changes up to `position` are synced, whatever the policy.
    ///
    /// # Errors
    /// [`Unavailable`] once a write or a sync has failed, and ever after.
    pub fn sync(&self, position: Position) -> Result<(), Unavailable> {
        self.inner.shared.wait(position)?;
        self.inner.shared.sync(position)
    }

    /// Begins to keep the journal small: from now on, whenever what is in it is too much beside what has to be kept, the
    /// oldest segment is emptied and removed, with traffic or without. The journal is then at most three times
    /// [`Live::bytes`] and four segments.
    pub fn start_compaction(&self, keeper: Weak<dyn Keeper>) {
        self.inner.shared.start_compaction(keeper);
    }

    /// Compacts inside this call, as long as there is something to gain: for tests without threads.
    ///
    /// # Errors
    /// [`Unavailable`] once a write or a sync has failed, and ever after.
    #[doc(hidden)]
    pub fn compact(&self) -> Result<(), Unavailable> {
        self.inner.shared.compact()
    }

    /// Whether a new job whose record takes so many bytes may be appended, without waiting: it counts everything that
    /// was appended before. Does no I/O and takes no lock that is held during any, so it may be called under the
    /// queue's lock.
    pub fn room(&self, bytes: u64) -> Room {
        self.inner.shared.room(bytes)
    }

    /// As [`Journal::room`], but waits where that says [`Room::MustWrite`]. False only while the disk is full, and
    /// while there is space yet for what ends the jobs that there are: their ACK, FAIL and DELETE go on. All else but reasons
    /// of failures is appended without asking.
    ///
    /// Blocks while more than a segment's worth is appended and not written yet, so that a disk that turns out to be full
    /// never has more to take than was set aside.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.inner.shared.has_room(bytes)
    }

    /// Whether a failure's reason of so many bytes may be kept. False only where the disk has been full for a while.
    /// Never blocks, like [`Journal::room`].
    pub fn has_room_for_reason(&self, bytes: u64) -> bool {
        self.inner.shared.has_room_for_reason(bytes)
    }

    /// Why it can no longer be written, if so.
    pub fn failure(&self) -> Option<Unavailable> {
        self.inner.shared.failure()
    }

    /// What it has done since it was opened.
    pub fn stats(&self) -> JournalStats {
        self.inner.shared.stats(&self.inner.recovered)
    }

    /// Writes and syncs what was appended, then a clean mark, and ends the journal's threads. Blocks until that is
    /// done. Waiting for what is appended later is answered with [`Unavailable`].
    ///
    /// # Errors
    /// [`Unavailable`] where a write or a sync failed, now or before.
    pub fn close(&self) -> Result<(), Unavailable> {
        let closed = self.inner.shared.close();
        self.inner.threads.join();
        closed
    }
}

/// The id that shows that it was given, for a change that names one.
fn id_of(change: &Change) -> Option<JobId> {
    match change {
        Change::Job(spec, _) => Some(spec.id),
        Change::Status(id, _) | Change::Gone(id) | Change::IdsUsed(id) => Some(*id),
        Change::Pause(..) => None,
    }
}
