//! Writing: who writes what was appended, who syncs it, and who waits for it.
//!
//! One thread at a time has the *write token*. It takes the first chunk, writes it as a batch, syncs it if
//! the policy asks for that, publishes how far the journal is safe, and wakes those who waited for it. A
//! thread that waits for its own change takes the token if it is free, which saves two context switches. If
//! others wait too, it then passes the token to the writer's thread, which keeps it while there is something
//! to write.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::account::Account;
use super::batch::{self, Kind};
use super::buffer::{BATCH_BYTES, Buffer, Chunk, Needed, Position};
use super::failure::{Failure, Unavailable};
use super::histogram::Histogram;
use super::options::{Fsync, Options, Sabotage};
use super::reserve::Reserve;
use super::segment;
use super::sync::{Syncs, Written};
use super::tail::Tail;
use super::waiters::{Call, Sleeper, Waiter, Waiters};
use crate::clock::Stopwatch;

/// A batch also takes no more records once it has this part of a segment, so that little is left at a
/// segment's end where the next batch does not fit. On a full disk even less may be left.
pub(super) const BATCH_PARTS: u64 = 8;
const BATCH_PARTS_FULL: u64 = 32;

/// The writing half of a journal. All threads share it.
pub(super) struct Writer {
    options: Options,
    account: Arc<Account>,
    reserve: Arc<Reserve>,
    syncs: Arc<Syncs>,
    tail: Tail,
    state: Mutex<State>,
    /// The writer's thread has been given the token.
    work: Condvar,
    /// The token was released.
    idle: Condvar,
    /// There is something to sync, for the thread that keeps the interval.
    unsynced: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct State {
    buffer: Buffer,
    appended: u64,
    written: u64,
    durable: u64,
    /// What has to be synced for `written` to be durable, under a policy that does not sync each batch.
    written_to: Option<Written>,
    token: Token,
    waiters: Waiters,
    failure: Option<Unavailable>,
    stopped: bool,
    batches: u64,
    records: u64,
}

/// Who has the write token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Token {
    /// Nobody.
    #[default]
    Free,
    /// A thread that writes.
    Taken,
    /// The writer's thread, which has yet to begin.
    Offered,
}

/// What was written since the journal was opened.
pub(super) struct Counts {
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) latency: Histogram,
}

impl State {
    fn promised(&self, fsync: Fsync) -> u64 {
        match fsync {
            Fsync::Always => self.durable,
            Fsync::Interval(_) | Fsync::Never => self.written,
        }
    }
}

impl Writer {
    /// Writes behind the end at `tail`, beginning with a batch that says so.
    pub(super) fn start(
        options: Options,
        account: Arc<Account>,
        reserve: Arc<Reserve>,
        syncs: Arc<Syncs>,
        tail: Tail,
    ) -> Result<Writer, Unavailable> {
        let writer = Writer {
            options,
            account,
            reserve,
            syncs,
            tail,
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            unsynced: Condvar::new(),
            failed: AtomicBool::new(false),
        };
        writer.unless_panics(|| writer.mark(Kind::Opened))?;
        Ok(writer)
    }

    /// Appends the record that `encode` writes.
    pub(super) fn append(&self, needed: Needed, encode: impl FnOnce(&mut Vec<u8>)) -> Position {
        let limit = self.batch_bytes();
        let mut state = self.state.lock();
        state.appended += 1;
        let position = state.appended;
        // If the journal has failed, nobody will write it, and a thread that waits for it gets the failure.
        if state.failure.is_none() {
            let bytes = state.buffer.append(position, limit, encode);
            self.account.appended(bytes, needed);
        }
        Position(position)
    }

    /// How long a batch may become before it takes no more records.
    fn batch_bytes(&self) -> usize {
        let parts = if self.account.is_disk_full() { BATCH_PARTS_FULL } else { BATCH_PARTS };
        let part = (self.options.segment_bytes - segment::HEADER_BYTES as u64) / parts;
        BATCH_BYTES.min(usize::try_from(part).unwrap_or(usize::MAX))
    }

    /// The position of the last change.
    pub(super) fn appended(&self) -> Position {
        Position(self.state.lock().appended)
    }

    /// The position up to which the policy's promise holds.
    pub(super) fn promised(&self) -> Position {
        Position(self.account.promised())
    }

    /// Why nothing more is written, if so.
    pub(super) fn failure(&self) -> Option<Unavailable> {
        self.state.lock().failure.clone()
    }

    /// Blocks until the policy's promise holds for `position`.
    pub(super) fn wait(&self, position: Position) -> Result<(), Unavailable> {
        let Some(mut state) = self.wait_unless_others_write(position)? else { return Ok(()) };
        let sleeper = Sleeper::own();
        state.waiters.push(position.0, Waiter::Thread(Arc::clone(&sleeper)));
        drop(state);
        // If its position was not reached, it gets the reason from the state.
        if sleeper.park() { Ok(()) } else { self.wait(position) }
    }

    /// As [`Writer::wait`], if that needs no other thread. Otherwise it returns false, and the call that
    /// `prepare` gives is made later.
    pub(super) fn wait_or_call(
        &self,
        position: Position,
        prepare: impl FnOnce() -> Call,
    ) -> Result<bool, Unavailable> {
        let Some(mut state) = self.wait_unless_others_write(position)? else { return Ok(true) };
        state.waiters.push(position.0, Waiter::Call(prepare()));
        Ok(false)
    }

    /// Writes until the policy's promise holds for `position`. If another thread is writing, it returns at
    /// once, with the lock under which the caller registers as a waiter.
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
            if let Some(unavailable) = &state.failure {
                return Err(unavailable.clone());
            }
            if state.promised(self.options.fsync) >= position.0 {
                return Ok(None);
            }
            if state.stopped {
                return Err(Failure::Closed.into());
            }
            if state.token != Token::Free {
                return Ok(Some(state));
            }
            state.token = Token::Taken;
            state = self.write_until(state, Some(position.0));
        }
    }

    /// Lets the writer's thread write what was appended, if no thread is writing.
    pub(super) fn nudge(&self) {
        let mut state = self.state.lock();
        if state.token == Token::Free && !state.buffer.is_empty() {
            self.offer_token(&mut state);
        }
    }

    /// Writes one chunk after another, with the token taken, until the promise holds for `wanted`. Then it
    /// passes the token to the writer's thread if there is more to write, and otherwise releases it.
    fn write_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        wanted: Option<u64>,
    ) -> MutexGuard<'a, State> {
        loop {
            if state.buffer.is_empty() || state.failure.is_some() || state.stopped {
                state.token = Token::Free;
                self.idle.notify_all();
                return state;
            }
            let done = wanted.is_some_and(|wanted| state.promised(self.options.fsync) >= wanted);
            if done && self.options.background {
                self.offer_token(&mut state);
                return state;
            }
            let Some(mut chunk) = state.buffer.pop() else { return state };
            drop(state);
            let written = self.unless_panics(|| self.write_chunk(&mut chunk));
            self.account.written(chunk.bytes.len() as u64);
            if let Err(unavailable) = written {
                self.latch(unavailable);
            }
            state = self.state.lock();
            state.buffer.recycle(chunk.bytes);
        }
    }

    /// Tells the writer's thread to take the token.
    fn offer_token(&self, state: &mut State) {
        state.token = Token::Offered;
        self.work.notify_one();
    }

    /// Writes whenever it is given the token: what the writer's thread does.
    pub(super) fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.token == Token::Offered {
                state.token = Token::Taken;
                state = self.write_until(state, None);
            } else {
                self.work.wait(&mut state);
            }
        }
    }

    /// Writes a chunk, syncs it if the policy asks for that, and wakes those who waited for it.
    fn write_chunk(&self, chunk: &mut Chunk) -> Result<(), Unavailable> {
        self.reserve.throttle();
        let written = self.tail.write(Kind::Data, &mut chunk.bytes, chunk.records)?;
        let always = self.options.fsync == Fsync::Always;
        if always && self.options.sabotage != Sabotage::ReplyBeforeSync {
            self.syncs.sync(&written)?;
        }
        self.publish(|state| {
            state.written = chunk.last;
            state.batches += 1;
            state.records += u64::from(chunk.records);
            if always {
                state.durable = chunk.last;
            } else {
                state.written_to = Some(written);
            }
        });
        if !always {
            self.unsynced.notify_one();
        }
        Ok(())
    }

    /// Writes a batch without records, durably.
    fn mark(&self, kind: Kind) -> Result<(), Unavailable> {
        let mut bytes = vec![0; batch::HEADER_BYTES];
        self.syncs.sync(&self.tail.write(kind, &mut bytes, 0)?)
    }

    /// Blocks until everything that was written, up to `position` at least, is synced.
    pub(super) fn sync(&self, position: Position) -> Result<(), Unavailable> {
        let state = self.state.lock();
        if let Some(unavailable) = &state.failure {
            return Err(unavailable.clone());
        }
        if state.durable >= position.0 {
            return Ok(());
        }
        let (written, written_to) = (state.written, state.written_to.clone());
        drop(state);
        if let Some(written_to) = written_to {
            self.syncs.sync(&written_to).map_err(|unavailable| self.latch(unavailable))?;
        }
        self.publish(|state| state.durable = state.durable.max(written));
        Ok(())
    }

    /// Syncs what was written, an interval after the write: what the thread for [`Fsync::Interval`] does.
    pub(super) fn run_syncs(&self, interval: Duration) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.durable >= state.written {
                self.unsynced.wait(&mut state);
                continue;
            }
            let wanted = Position(state.written);
            let since = Stopwatch::start();
            while let Some(left) = interval.checked_sub(since.elapsed())
                && !state.stopped
            {
                self.unsynced.wait_for(&mut state, left);
            }
            drop(state);
            if self.sync(wanted).is_err() {
                return;
            }
            state = self.state.lock();
        }
    }

    /// Changes how far the journal is safe, and wakes those who waited for it.
    fn publish(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if state.failure.is_some() {
            return;
        }
        let promised = state.promised(self.options.fsync);
        self.account.set_promised(promised);
        let woken = if state.waiters.is_empty() { None } else { Some(state.waiters.take_reached(promised)) };
        drop(state);
        if let Some(woken) = woken {
            woken.wake();
        }
    }

    /// Does `work`. A panic in it fails the journal, because a write or a change of its state may be half
    /// done. The panic hook has reported the panic.
    pub(super) fn unless_panics<T>(
        &self,
        work: impl FnOnce() -> Result<T, Unavailable>,
    ) -> Result<T, Unavailable> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(self.fail(Failure::Broken)))
    }

    /// Fails the journal for ever. Returns the failure, or the one before if it had failed already.
    pub(super) fn fail(&self, failure: Failure) -> Unavailable {
        self.latch(failure.into())
    }

    fn latch(&self, unavailable: Unavailable) -> Unavailable {
        let mut state = self.state.lock();
        if let Some(earlier) = &state.failure {
            return earlier.clone();
        }
        self.failed.store(true, Ordering::Release);
        state.failure = Some(unavailable.clone());
        self.account.written(state.buffer.clear());
        let woken = state.waiters.take_all(unavailable.clone());
        drop(state);
        self.idle.notify_all();
        self.reserve.stop();
        self.account.stop_compaction();
        woken.wake();
        if !matches!(*unavailable.0, Failure::Closed) {
            log::error!("{unavailable}");
            if let Some(on_failure) = &self.options.on_failure {
                on_failure(&unavailable.0);
            }
        }
        unavailable
    }

    /// Writes everything that was appended, and a clean mark.
    pub(super) fn close(&self) -> Result<(), Unavailable> {
        let mut state = self.state.lock();
        while state.token != Token::Free && state.failure.is_none() {
            self.idle.wait(&mut state);
        }
        if let Some(unavailable) = state.failure.clone() {
            drop(state);
            self.stop();
            return match *unavailable.0 {
                Failure::Closed => Ok(()),
                _ => Err(unavailable),
            };
        }
        state.token = Token::Taken;
        let last = Position(state.appended);
        state = self.write_until(state, None);
        // No other thread may begin: the mark is the last batch.
        state.token = Token::Taken;
        drop(state);
        let closed = self.unless_panics(|| self.sync(last).and_then(|()| self.mark(Kind::Closed)));
        if let Err(unavailable) = &closed {
            self.latch(unavailable.clone());
        }
        self.fail(Failure::Closed);
        self.stop();
        closed
    }

    /// Ends the threads and all waits. What is not written yet will not be written.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let woken = state.waiters.take_all(Failure::Closed.into());
        drop(state);
        woken.wake();
        self.work.notify_all();
        self.idle.notify_all();
        self.unsynced.notify_all();
        self.reserve.stop();
        self.account.stop_compaction();
    }

    /// What was written since the journal was opened.
    pub(super) fn counts(&self) -> Counts {
        let latency = self.syncs.latency();
        let state = self.state.lock();
        Counts { batches: state.batches, records: state.records, latency }
    }
}
