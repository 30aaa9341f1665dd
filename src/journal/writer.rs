//! The end of the journal: what is appended, who writes it, and who waits for it.
//!
//! Changes are appended to chunks in memory. One thread at a time has the *write token*: it takes the first chunk, writes
//! it as a batch, syncs as the policy asks, says how far all is safe, and wakes those who waited for it. Who has
//! the write token is either a thread that waits for its own change, while nobody else does, which saves it two changes of
//! threads; or the writer's thread, which goes on for as long as there is something to write.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::batch::{self, Checksum, Kind};
use super::compaction::Compaction;
use super::failure::OpenError;
use super::histogram::Histogram;
use super::record;
use super::recovery::{Scan, Segment};
use super::segment::{self, Chain};
use super::spares::Supply;
use super::storage::{Storage, StorageFile, is_full, write_full};
use super::waiters::{Call, Sleeper, Waiter, Waiters};
use super::{
    Failure, Fsync, JournalStats, Live, Options, Position, Recovered, Room, SEGMENT_BYTES_MIN, Sabotage,
    Unavailable,
};
use crate::change::Change;
use crate::clock::Stopwatch;

/// A batch takes no more records once it has so many bytes: enough to keep a disk busy, little enough that the
/// first who wait are not kept waiting for the last.
const BATCH_BYTES: usize = 256 << 10;

/// Buffers of written batches that are kept for the next ones. After a burst the rest are freed.
const BLANKS_MAX: usize = 16;

/// Nor once it has this part of a segment: so little is left at its end, where the next batch does not fit. Where room is
/// scarce it is even less.
pub(super) const BATCH_PARTS: u64 = 8;
const BATCH_PARTS_FULL: u64 = 32;

/// What all threads of a journal share.
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) options: Options,
    state: Mutex<State>,
    /// There is something for the writer's thread to do.
    work: Condvar,
    /// The write token was put down.
    idle: Condvar,
    /// There is something to sync, for the thread that keeps the interval.
    unsynced: Condvar,
    /// Up to where the policy's promise holds; a copy of what the state says, to be read without its lock.
    promised: AtomicU64,
    failed: AtomicBool,
    /// Every batch with a lower number is durable.
    durable_batch: AtomicU64,
    /// Taken by whoever has the write token.
    output: Mutex<Output>,
    /// Held during a sync: the system tells an error to one caller only, and nobody may go on without knowing.
    syncing: Mutex<()>,
    pub(super) supply: Supply,
    /// Whether the threads run: from then on others than the caller make files and write.
    pub(super) has_threads: AtomicBool,
    pub(super) compaction: Compaction,
    live_bytes: AtomicU64,
    live_jobs: AtomicU64,
    /// Bytes that were appended dead or have died since it was opened: ends and changes of jobs, and what they ended.
    pub(super) died: AtomicU64,
    /// Bytes that were appended and are not written yet.
    pending: AtomicU64,
    /// Room that is left in the segment at the end.
    tail_room: AtomicU64,
    /// The segments in use, the oldest first.
    pub(super) segments: Mutex<VecDeque<Segment>>,
    /// The bytes of their files, and of one that is about to be among them.
    pub(super) used_bytes: AtomicU64,
    /// How many there are, counted in the same way.
    pub(super) begun_segments: AtomicU64,
    sync_latency: Mutex<Histogram>,
}

#[derive(Default)]
struct State {
    /// What is to be written: each will be a batch. The last one is being filled.
    chunks: VecDeque<Chunk>,
    /// Chunks that were written, to be used again.
    blank: Vec<Vec<u8>>,
    appended: u64,
    written: u64,
    durable: u64,
    /// What has to be synced for `written` to be durable: the file, its segment, and the number of the batch that comes next.
    written_to: Option<(Arc<dyn StorageFile>, u64, u64)>,
    /// Somebody writes, or is about to.
    token_taken: bool,
    /// It is the writer's thread, which has yet to begin.
    token_offered: bool,
    waiters: Waiters,
    failure: Option<Arc<Failure>>,
    stopped: bool,
    batches: u64,
    records: u64,
}

/// Records that will be one batch.
struct Chunk {
    /// Room for the batch's header, then the records.
    bytes: Vec<u8>,
    records: u32,
    /// The place of the last of them.
    last: u64,
}

/// The segment at the end.
struct Output {
    segment: u64,
    file: Arc<dyn StorageFile>,
    checksum: Checksum,
    offset: u64,
    capacity: u64,
    chain: Chain,
}

impl State {
    fn promised(&self, fsync: Fsync) -> u64 {
        match fsync {
            Fsync::Always => self.durable,
            Fsync::Interval(_) | Fsync::Never => self.written,
        }
    }

    /// The chunk that takes the next record.
    fn chunk(&mut self, limit: usize) -> &mut Chunk {
        if self.chunks.back().is_none_or(|chunk| chunk.bytes.len() >= limit) {
            let mut bytes = self.blank.pop().unwrap_or_default();
            bytes.clear();
            bytes.resize(batch::HEADER_BYTES, 0);
            self.chunks.push_back(Chunk { bytes, records: 0, last: 0 });
        }
        self.chunks.back_mut().expect("one was just added")
    }

    /// Keeps the buffer of a written batch for a next one, unless there are enough or it is unusually large.
    fn keep_blank(&mut self, bytes: Vec<u8>) {
        if self.blank.len() < BLANKS_MAX && bytes.capacity() <= 2 * BATCH_BYTES {
            self.blank.push(bytes);
        }
    }
}

impl Shared {
    /// Goes on behind what `scan` found, with a batch that says so.
    pub(super) fn start(
        storage: Arc<dyn Storage>,
        mut options: Options,
        scan: Scan,
    ) -> Result<Arc<Shared>, OpenError> {
        options.segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let last_id = scan.segments.last().map_or(0, |segment| segment.id);
        let next_id = scan.spares.last().map_or(last_id, |spare| spare.id) + 1;
        let nothing: Arc<dyn StorageFile> = Arc::new(Nowhere);
        let output = match &scan.tail {
            Some(tail) => Output {
                segment: tail.header.id,
                file: Arc::clone(&tail.file),
                checksum: Checksum::salted(tail.header.salt),
                offset: tail.offset,
                capacity: scan.segments.last().map_or(0, |segment| segment.file_bytes),
                chain: scan.chain,
            },
            // Full from the beginning: the first batch begins the first segment.
            None => Output {
                segment: 0,
                file: nothing,
                checksum: Checksum::salted(0),
                offset: u64::MAX,
                capacity: 0,
                chain: scan.chain,
            },
        };
        let shared = Shared {
            storage,
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            unsynced: Condvar::new(),
            promised: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            durable_batch: AtomicU64::new(scan.chain.next),
            output: Mutex::new(output),
            syncing: Mutex::new(()),
            supply: Supply::new(scan.spares, next_id),
            has_threads: AtomicBool::new(false),
            compaction: Compaction::default(),
            live_bytes: AtomicU64::new(0),
            live_jobs: AtomicU64::new(0),
            died: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            tail_room: AtomicU64::new(0),
            used_bytes: AtomicU64::new(scan.segments.iter().map(|segment| segment.file_bytes).sum()),
            begun_segments: AtomicU64::new(scan.segments.len() as u64),
            segments: Mutex::new(scan.segments.into()),
            sync_latency: Mutex::new(Histogram::default()),
            options,
        };
        shared.unless_panics(|| shared.mark(Kind::Opened)).map_err(OpenError::Unavailable)?;
        Ok(Arc::new(shared))
    }

    /// Appends a change and returns its place.
    pub(super) fn append(&self, change: &Change) -> Position {
        // What is not a job's whole record is of no more use once that is written anew.
        let is_dead = matches!(change, Change::Status(..) | Change::Gone(_));
        self.append_as(is_dead, |out| record::encode(change, out))
    }

    /// Takes note of what has to be kept.
    pub(super) fn set_live(&self, live: Live) {
        self.live_jobs.store(live.jobs, Ordering::Relaxed);
        let before = self.live_bytes.swap(live.bytes, Ordering::Relaxed);
        if live.bytes < before {
            self.died.fetch_add(before - live.bytes, Ordering::Relaxed);
        }
        self.compact_if_needed();
    }

    /// What has to be kept.
    pub(super) fn live(&self) -> Live {
        Live { jobs: self.live_jobs.load(Ordering::Relaxed), bytes: self.live_bytes.load(Ordering::Relaxed) }
    }

    /// Appends a record that `encode` writes.
    pub(super) fn append_record(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Position {
        self.append_as(false, encode)
    }

    fn append_as(&self, is_dead: bool, encode: impl FnOnce(&mut Vec<u8>)) -> Position {
        let limit = self.batch_bytes();
        let mut state = self.state.lock();
        state.appended += 1;
        let place = state.appended;
        if state.failure.is_some() {
            // Nobody will write it, and a thread that waits for it gets the failure.
            return Position(place);
        }
        let chunk = state.chunk(limit);
        // The first one of a batch has to answer for its header.
        let before = if chunk.records == 0 { 0 } else { chunk.bytes.len() };
        encode(&mut chunk.bytes);
        chunk.records += 1;
        chunk.last = place;
        let bytes = (chunk.bytes.len() - before) as u64;
        self.pending.fetch_add(bytes, Ordering::Relaxed);
        if is_dead {
            self.died.fetch_add(bytes, Ordering::Relaxed);
        }
        Position(place)
    }

    /// How long a batch may become before it takes no more records.
    fn batch_bytes(&self) -> usize {
        let parts = if self.supply.is_full() { BATCH_PARTS_FULL } else { BATCH_PARTS };
        let part = (self.options.segment_bytes - segment::HEADER_BYTES as u64) / parts;
        BATCH_BYTES.min(usize::try_from(part).unwrap_or(usize::MAX))
    }

    /// The place of the last change.
    pub(super) fn appended(&self) -> Position {
        Position(self.state.lock().appended)
    }

    /// Up to where the policy's promise holds.
    pub(super) fn promised(&self) -> Position {
        Position(self.promised.load(Ordering::Acquire))
    }

    /// Why nothing more is written, if so.
    pub(super) fn failure(&self) -> Option<Unavailable> {
        self.state.lock().failure.clone().map(Unavailable)
    }

    /// Blocks until the policy's promise holds for `position`.
    pub(super) fn wait(&self, position: Position) -> Result<(), Unavailable> {
        let Some(mut state) = self.wait_unless_others_write(position)? else { return Ok(()) };
        let sleeper = Sleeper::own();
        state.waiters.push(position.0, Waiter::Thread(Arc::clone(&sleeper)));
        drop(state);
        // Woken too early, it looks again: only to be told why.
        if sleeper.park() { Ok(()) } else { self.wait(position) }
    }

    /// As [`Shared::wait`], if it needs no other thread; otherwise has the call made that `prepare` gives, and returns
    /// false.
    pub(super) fn wait_or_call(
        &self,
        position: Position,
        prepare: impl FnOnce() -> Call,
    ) -> Result<bool, Unavailable> {
        let Some(mut state) = self.wait_unless_others_write(position)? else { return Ok(true) };
        state.waiters.push(position.0, Waiter::Call(prepare()));
        Ok(false)
    }

    /// Blocks until the policy's promise holds for `position`, and writes what that takes; if another thread is writing,
    /// returns at once, with the lock that it takes to wait for it.
    fn wait_unless_others_write(
        &self,
        position: Position,
    ) -> Result<Option<MutexGuard<'_, State>>, Unavailable> {
        if self.options.sabotage == Sabotage::ReplyBeforeWrite {
            self.nudge();
            return Ok(None);
        }
        if self.promised() >= position && !self.failed.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = self.state.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(Unavailable(Arc::clone(failure)));
            }
            if state.promised(self.options.fsync) >= position.0 {
                return Ok(None);
            }
            if state.stopped {
                return Err(Failure::Closed.into());
            }
            if state.token_taken {
                return Ok(Some(state));
            }
            state.token_taken = true;
            state = self.write_until(state, Some(position.0));
        }
    }

    /// Has the writer's thread write what is there, if nobody does.
    pub(super) fn nudge(&self) {
        let mut state = self.state.lock();
        if !state.token_taken && !state.chunks.is_empty() {
            self.offer_token(&mut state);
        }
    }

    /// Writes one chunk after another, with the write token taken, until the promise holds for `wanted`; then gives the
    /// write token to the writer's thread if there is more to write, or puts it down.
    fn write_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        wanted: Option<u64>,
    ) -> MutexGuard<'a, State> {
        loop {
            let done = wanted.is_some_and(|wanted| state.promised(self.options.fsync) >= wanted);
            if state.chunks.is_empty() || state.failure.is_some() || state.stopped {
                state.token_taken = false;
                self.idle.notify_all();
                return state;
            }
            if done && self.options.background {
                self.offer_token(&mut state);
                return state;
            }
            let Some(mut chunk) = state.chunks.pop_front() else { return state };
            drop(state);
            let written = self.unless_panics(|| self.write_chunk(&mut chunk));
            self.pending.fetch_sub(chunk.bytes.len() as u64, Ordering::Relaxed);
            state = self.state.lock();
            if let Err(unavailable) = written {
                drop(state);
                self.latch(unavailable.0);
                state = self.state.lock();
                continue;
            }
            state.keep_blank(chunk.bytes);
        }
    }

    /// Tells the writer's thread to take the write token.
    fn offer_token(&self, state: &mut State) {
        state.token_taken = true;
        state.token_offered = true;
        self.work.notify_one();
    }

    /// What the writer's thread does.
    fn keep_writing(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.token_offered {
                state.token_offered = false;
                state = self.write_until(state, None);
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// Writes a chunk, syncs as the policy asks, and wakes those who waited for it.
    fn write_chunk(&self, chunk: &mut Chunk) -> Result<(), Unavailable> {
        self.give_way();
        let mut output = self.output.lock();
        let number = self.write_batch(&mut output, Kind::Data, &mut chunk.bytes, chunk.records)?;
        let (batches, records) = (1, u64::from(chunk.records));
        if self.options.fsync != Fsync::Always {
            let (file, segment) = (Arc::clone(&output.file), output.segment);
            drop(output);
            self.publish(|state| {
                state.written = chunk.last;
                state.written_to = Some((file, segment, number + 1));
                state.batches += batches;
                state.records += records;
            });
            self.unsynced.notify_one();
            return Ok(());
        }
        if self.options.sabotage != Sabotage::ReplyBeforeSync {
            self.sync_batches(&*output.file, output.segment, number + 1)?;
        }
        drop(output);
        self.publish(|state| {
            state.written = chunk.last;
            state.durable = chunk.last;
            state.batches += batches;
            state.records += records;
        });
        Ok(())
    }

    /// Writes a batch without records, durably.
    fn mark(&self, kind: Kind) -> Result<(), Unavailable> {
        let mut output = self.output.lock();
        let mut bytes = vec![0; batch::HEADER_BYTES];
        let number = self.write_batch(&mut output, kind, &mut bytes, 0)?;
        self.sync_batches(&*output.file, output.segment, number + 1)
    }

    /// Writes a batch at the end; `bytes` has room for its header in front. Returns its number.
    fn write_batch(
        &self,
        output: &mut Output,
        kind: Kind,
        bytes: &mut [u8],
        records: u32,
    ) -> Result<u64, Unavailable> {
        let end = output.offset.saturating_add(bytes.len() as u64);
        // What is longer than a whole segment makes its segment longer.
        if end > output.capacity && output.offset > segment::HEADER_BYTES as u64 {
            self.begin_segment(output)?;
        }
        let payload = &bytes[batch::HEADER_BYTES..];
        let alone = self.options.fsync == Fsync::Always || kind != Kind::Data;
        let header = batch::Header {
            payload_length: u32::try_from(payload.len()).expect("a batch is shorter than 4 GiB"),
            number: output.chain.next,
            durable: if alone { output.chain.next } else { self.durable_batch.load(Ordering::Acquire) },
            records,
            kind,
            alone,
            previous: output.chain.previous,
            payload_checksum: output.checksum.of(payload),
        };
        let sum = header.write(output.checksum, &mut bytes[..batch::HEADER_BYTES]);
        self.write(&*output.file, output.segment, bytes, output.offset)?;
        output.offset += bytes.len() as u64;
        output.chain = Chain { next: header.number + 1, previous: sum };
        if output.offset > output.capacity {
            self.used_bytes.fetch_add(output.offset - output.capacity, Ordering::Relaxed);
            output.capacity = output.offset;
            if let Some(last) = self.segments.lock().back_mut() {
                last.file_bytes = output.offset;
            }
        }
        self.tail_room.store(output.capacity - output.offset, Ordering::Relaxed);
        Ok(header.number)
    }

    /// Goes on to the next segment. All of the one before is made durable first, so that its end is known to be
    /// its end.
    fn begin_segment(&self, output: &mut Output) -> Result<(), Unavailable> {
        if self.options.fsync != Fsync::Always && output.segment > 0 {
            self.sync_batches(&*output.file, output.segment, output.chain.next)?;
        }
        let spare = self.take_spare()?;
        let header = segment::Header {
            id: spare.id,
            salt: self.salt(spare.id),
            first_batch: output.chain.next,
            capacity: spare.file_bytes,
            previous: output.chain.previous,
        };
        self.write(&*spare.file, spare.id, &header.block(), 0)?;
        let name = segment::file_name(spare.id);
        self.sync_file(&*spare.file).map_err(self.io("sync", &name)).map_err(Unavailable::from)?;
        self.segments.lock().push_back(Segment { id: spare.id, file_bytes: spare.file_bytes });
        self.compact_if_needed();
        output.segment = spare.id;
        output.file = spare.file;
        output.checksum = Checksum::salted(header.salt);
        output.offset = segment::HEADER_BYTES as u64;
        output.capacity = spare.file_bytes;
        Ok(())
    }

    /// Writes `bytes`. While the disk is full it tries again: a write that found no room has lost nothing, unlike
    /// a sync.
    fn write(&self, file: &dyn StorageFile, id: u64, bytes: &[u8], offset: u64) -> Result<(), Unavailable> {
        loop {
            match write_full(file, bytes, offset) {
                Ok(()) => return Ok(()),
                Err(e)
                    if is_full(&e)
                        && self.has_threads.load(Ordering::Acquire)
                        && !self.state.lock().stopped =>
                {
                    self.supply.pause();
                }
                Err(e) => return Err(self.io("write", &segment::file_name(id))(e).into()),
            }
        }
    }

    /// Syncs the segment at the end: every batch with a number below `next` is then durable.
    fn sync_batches(&self, file: &dyn StorageFile, id: u64, next: u64) -> Result<(), Unavailable> {
        let _syncing = self.syncing.lock();
        if let Some(unavailable) = self.failure() {
            return Err(unavailable);
        }
        let stopwatch = Stopwatch::start();
        // A failure, or a panic, is latched before any other thread may sync.
        self.unless_panics(|| {
            let synced = self.sync_file(file).map_err(self.io("sync", &segment::file_name(id)));
            synced.map_err(|failure| self.latched(failure))
        })?;
        self.sync_latency.lock().add(stopwatch.elapsed());
        self.durable_batch.fetch_max(next, Ordering::AcqRel);
        Ok(())
    }

    /// Blocks until all that was written, up to `position` at least, is synced.
    pub(super) fn sync(&self, position: Position) -> Result<(), Unavailable> {
        let state = self.state.lock();
        if let Some(failure) = &state.failure {
            return Err(Unavailable(Arc::clone(failure)));
        }
        if state.durable >= position.0 {
            return Ok(());
        }
        let (written, written_to) = (state.written, state.written_to.clone());
        drop(state);
        if let Some((file, segment, next)) = written_to {
            self.sync_batches(&*file, segment, next)?;
        }
        self.publish(|state| state.durable = state.durable.max(written));
        Ok(())
    }

    /// Syncs what was written, each time an interval after it was: what the thread does.
    fn keep_syncing(&self, interval: Duration) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.durable >= state.written {
                self.unsynced.wait(&mut state);
                continue;
            }
            let wanted = Position(state.written);
            self.unsynced_pause(&mut state, interval);
            drop(state);
            if self.sync(wanted).is_err() {
                return;
            }
            state = self.state.lock();
        }
    }

    /// Waits for `interval`, or for the end.
    fn unsynced_pause(&self, state: &mut MutexGuard<'_, State>, interval: Duration) {
        let stopwatch = Stopwatch::start();
        while let Some(left) = interval.checked_sub(stopwatch.elapsed())
            && !state.stopped
        {
            self.unsynced.wait_for(state, left);
        }
    }

    /// Changes how far all is safe, and wakes those who waited for it.
    fn publish(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let promised = state.promised(self.options.fsync);
        if state.failure.is_some() {
            return;
        }
        self.promised.store(promised, Ordering::Release);
        let woken = if state.waiters.is_empty() { None } else { Some(state.waiters.take_reached(promised)) };
        drop(state);
        if let Some(woken) = woken {
            woken.wake();
        }
    }

    /// A sync of a file.
    pub(super) fn sync_file(&self, file: &dyn StorageFile) -> io::Result<()> {
        match file.sync_data() {
            Err(_) if self.options.sabotage == Sabotage::IgnoreSyncError => Ok(()),
            result => result,
        }
    }

    /// A sync of the directory.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        match self.options.sabotage {
            Sabotage::SkipDirectorySync => Ok(()),
            _ => self.storage.sync_directory(),
        }
    }

    /// What begins the checksums of the segment `id`.
    pub(super) fn salt(&self, id: u64) -> u64 {
        self.options.salt.map_or_else(random_salt, |salt| salt.wrapping_add(id))
    }

    /// Does `work`; a panic in it leaves the journal failed, since a write or a change of its state may be half done. The
    /// panic hook has reported the panic.
    fn unless_panics<T>(&self, work: impl FnOnce() -> Result<T, Unavailable>) -> Result<T, Unavailable> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(self.latched(Failure::Broken)))
    }

    /// Ends all success for ever.
    pub(super) fn fail(&self, failure: Failure) {
        self.latch(Arc::new(failure));
    }

    fn latch(&self, failure: Arc<Failure>) {
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return;
        }
        self.failed.store(true, Ordering::Release);
        state.failure = Some(Arc::clone(&failure));
        let dropped = state.chunks.drain(..).map(|chunk| chunk.bytes.len() as u64).sum();
        self.pending.fetch_sub(dropped, Ordering::Relaxed);
        let woken = state.waiters.take_all(Unavailable(Arc::clone(&failure)));
        drop(state);
        self.supply.stop();
        self.compaction.stop();
        woken.wake();
        if matches!(*failure, Failure::Closed) {
            return;
        }
        log::error!("the journal can no longer be written: {failure}");
        if let Some(on_failure) = &self.options.on_failure {
            on_failure(&failure);
        }
    }

    /// Writes all that was appended, and a clean mark.
    pub(super) fn close(&self) -> Result<(), Unavailable> {
        let mut state = self.state.lock();
        while state.token_taken && state.failure.is_none() {
            self.idle.wait_for(&mut state, Duration::from_millis(100));
        }
        if let Some(failure) = &state.failure {
            let unavailable = Unavailable(Arc::clone(failure));
            drop(state);
            self.stop();
            return match *unavailable.0 {
                Failure::Closed => Ok(()),
                _ => Err(unavailable),
            };
        }
        state.token_taken = true;
        let last = Position(state.appended);
        state = self.write_until_empty(state);
        drop(state);
        let closed = self.unless_panics(|| self.sync(last).and_then(|()| self.mark(Kind::Closed)));
        if let Err(unavailable) = &closed {
            self.latch(Arc::clone(&unavailable.0));
        }
        self.fail(Failure::Closed);
        self.stop();
        closed
    }

    fn write_until_empty<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state = self.write_until(state, None);
        // Nobody else may begin: the mark is the last batch.
        state.token_taken = true;
        state
    }

    /// Does the work of one of the journal's threads.
    fn run_thread(&self, body: impl FnOnce(&Shared)) {
        let _ = self.unless_panics(|| {
            body(self);
            Ok(())
        });
    }

    /// Ends the threads. What was not written yet is not written any more.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let woken = state.waiters.take_all(Failure::Closed.into());
        drop(state);
        woken.wake();
        self.work.notify_all();
        self.idle.notify_all();
        self.unsynced.notify_all();
        self.supply.stop();
        self.compaction.stop();
    }

    /// Whether there is room for a new job, without waiting.
    pub(super) fn room(&self, bytes: u64) -> Room {
        if self.supply.is_full() {
            return if self.free_bytes() >= bytes + self.set_aside() { Room::Yes } else { Room::No };
        }
        match self.pending.load(Ordering::Relaxed) > self.options.segment_bytes {
            true => Room::MustWrite,
            false => Room::Yes,
        }
    }

    /// Whether there is room for a new job. Blocks while too much is waiting to be written.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
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

    /// Whether there is room for a reason.
    pub(super) fn has_room_for_reason(&self, bytes: u64) -> bool {
        !self.supply.is_full() || self.free_bytes() >= bytes + self.set_aside_from_reasons()
    }

    /// Room that nothing that was appended is meant for yet.
    fn free_bytes(&self) -> u64 {
        let made = self.tail_room.load(Ordering::Relaxed) + self.supply.ready_bytes();
        made.saturating_sub(self.pending.load(Ordering::Relaxed))
    }

    /// What it has done.
    pub(super) fn stats(&self, recovered: &Recovered) -> JournalStats {
        let (segments, [oldest_segment, newest_segment]) = {
            let segments = self.segments.lock();
            let ends = [segments.front(), segments.back()].map(|end| end.map_or(0, |segment| segment.id));
            (segments.len() as u64, ends)
        };
        let total_bytes = self.total_bytes();
        let used = self.used_bytes.load(Ordering::Relaxed);
        let live_bytes = self.live_bytes.load(Ordering::Relaxed);
        let latency = self.sync_latency.lock().clone();
        let state = self.state.lock();
        JournalStats {
            fsync: self.options.fsync.to_string(),
            segments,
            oldest_segment,
            newest_segment,
            segment_bytes: self.options.segment_bytes,
            total_bytes,
            live_bytes,
            dead_bytes: used.saturating_sub(live_bytes),
            batches: state.batches,
            records: state.records,
            syncs: latency.count(),
            sync_p50: latency.percentile(50),
            sync_p99: latency.percentile(99),
            sync_max: latency.max(),
            replayed_records: recovered.records,
            replayed_bytes: recovered.bytes,
            replayed_clean: recovered.clean,
        }
    }
}

/// A number that no other segment has. It has to be unlike others, and not to be guessed by those who submit jobs;
/// that is all, so the standard library's hash keys will do: they come from the system's random numbers.
pub(super) fn random_salt() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The file of a segment before the first: full, and never touched.
#[derive(Debug)]
struct Nowhere;

impl StorageFile for Nowhere {
    fn length(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The threads of a journal.
pub(super) struct Threads {
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts them.
    pub(super) fn spawn(shared: &Arc<Shared>) -> Result<Threads, OpenError> {
        let threads = Threads { handles: Mutex::new(Vec::new()) };
        if shared.options.background {
            threads.start(shared, "journal-writer", |shared| shared.keep_writing())?;
            threads.start(shared, "journal-spares", |shared| shared.keep_supplied())?;
            threads.start(shared, "journal-compact", |shared| shared.keep_compact())?;
            if let Fsync::Interval(interval) = shared.options.fsync {
                threads.start(shared, "journal-sync", move |shared| shared.keep_syncing(interval))?;
            }
            shared.has_threads.store(true, Ordering::Release);
        }
        Ok(threads)
    }

    fn start(
        &self,
        shared: &Arc<Shared>,
        name: &str,
        body: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), OpenError> {
        let own = Arc::clone(shared);
        match std::thread::Builder::new().name(name.to_owned()).spawn(move || own.run_thread(body)) {
            Ok(handle) => {
                self.handles.lock().push(handle);
                Ok(())
            }
            Err(source) => {
                shared.stop();
                self.join();
                Err(OpenError::Io { action: "start a thread for", path: shared.storage.path(""), source })
            }
        }
    }

    /// Waits until they have ended; they have been told to.
    pub(super) fn join(&self) {
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            // The last handle may be dropped by one of them, in a callback.
            if handle.thread().id() != std::thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_burst_are_not_kept() {
        let mut state = State::default();
        for _ in 0..100 {
            state.keep_blank(Vec::with_capacity(BATCH_BYTES));
        }
        assert_eq!(state.blank.len(), BLANKS_MAX);
        state.blank.clear();
        state.keep_blank(Vec::with_capacity(16 << 20));
        assert!(state.blank.is_empty());
    }
}
