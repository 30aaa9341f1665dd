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
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::change::Change;
use crate::clock::Stopwatch;
use crate::job::{JobId, QueueName};
pub use crate::stats::JournalStats;

mod batch;
mod compaction;
#[doc(hidden)]
pub mod fuzz;
mod histogram;
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
pub use recovery::{OpenError, TornTail};
pub use salvage::{Salvaged, salvage};
pub use segment::{Damage, FORMAT_VERSION};
use storage::Storage;
pub use verify::{Report, verify};
pub use writer::SEGMENT_BYTES_MIN;
use writer::{Shared, Threads};

/// When what was written is synced, and so what a reply promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before every reply: what was acknowledged survives a power cut.
    Always,
    /// At most this long after it was written: what was acknowledged survives the end of the process, and a power
    /// cut takes at most the last interval.
    Interval(Duration),
    /// When the system sees fit: what was acknowledged survives the end of the process.
    Never,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fsync::Always => f.write_str("always"),
            Fsync::Interval(interval) => write!(f, "{}ms", interval.as_millis()),
            Fsync::Never => f.write_str("never"),
        }
    }
}

/// Called once, from the thread that found it, when the journal can no longer be written.
pub type OnFailure = Arc<dyn Fn(&Failure) + Send + Sync>;

/// How a journal is kept.
#[derive(Clone)]
pub struct Options {
    /// When it is synced. Default [`Fsync::Always`].
    pub fsync: Fsync,
    /// The size of a segment. Default 16 MiB, at least [`SEGMENT_BYTES_MIN`]; should be [`segment_bytes_for`] the longest
    /// record or more. A longer one gets a longer segment.
    pub segment_bytes: u64,
    /// Called when the journal can no longer be written. Must not block, nor call the journal.
    pub on_failure: Option<OnFailure>,
    /// Whether threads of the journal's own do the writing and preparing. Without them all is done inside the
    /// calls, one operation after another in a fixed order: for tests.
    #[doc(hidden)]
    pub background: bool,
    /// Begins every salt where it is given, for tests that compare bytes.
    #[doc(hidden)]
    pub salt: Option<u64>,
    /// A fault that is built in on purpose, to see whether the tests find it.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            fsync: Fsync::Always,
            segment_bytes: 16 << 20,
            on_failure: None,
            background: true,
            salt: None,
            sabotage: Sabotage::None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("fsync", &self.fsync)
            .field("segment_bytes", &self.segment_bytes)
            .field("background", &self.background)
            .field("sabotage", &self.sabotage)
            .finish_non_exhaustive()
    }
}

/// Faults that are built in on purpose: a test that can't tell them from the right thing is no test.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Those who wait are told that their changes are written when they are not.
    ReplyBeforeWrite,
    /// Those who wait are told that their changes are durable when they are written.
    ReplyBeforeSync,
    /// The directory is never synced.
    SkipDirectorySync,
    /// A sync that fails is taken for one that did not.
    IgnoreSyncError,
    /// The oldest segment is removed before what replaces it is durable.
    DropBeforeSync,
}

/// A place in the journal: all changes up to one of them. Counts from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

/// Why the journal can no longer be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The system said no.
    Io {
        /// What was attempted.
        action: &'static str,
        /// Upon which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something that had been made durable is damaged.
    Damaged(Damage),
    /// A fault in the code has left a change half made, so nothing after it may be kept.
    Broken,
    /// It was closed.
    Closed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Failure::Damaged(damage) => damage.fmt(f),
            Failure::Broken => f.write_str("a fault in the code has left a change half made"),
            Failure::Closed => f.write_str("it is closed"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Failure::Io { source, .. } => Some(source),
            Failure::Damaged(_) | Failure::Broken | Failure::Closed => None,
        }
    }
}

/// The journal can no longer be written: whether the change that was waited for will be there after a restart is
/// not known.
#[derive(Clone, Debug)]
pub struct Unavailable(pub Arc<Failure>);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal can no longer be written: {}", self.0)
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

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
