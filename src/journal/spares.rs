//! Files of zeros, made ahead, that become segments when the one before is full.
//!
//! Overwriting zeros that are on the disk is nearly twice as fast as making a file grow, since the sync need not
//! wait for the file system's own bookkeeping. And a disk that fills up is noticed here, one or two
//! segments before a change has nowhere to go.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
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

/// How long to wait before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(200);

const ZEROS_BYTES: usize = 1 << 18;

/// The files that are ready, and what is wanted of the thread that makes them.
#[derive(Debug)]
pub(super) struct Supply {
    state: Mutex<State>,
    /// Something changed: a file was made or taken, there may be room again, the end has come.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Spare>,
    next_id: u64,
    /// The last attempt found the disk full.
    full: bool,
    stopped: bool,
}

impl Supply {
    /// Begins with what recovery found; the next one to be made is the segment `next_id`.
    pub(super) fn new(ready: Vec<Spare>, next_id: u64) -> Supply {
        let state = State { ready: ready.into(), next_id, full: false, stopped: false };
        Supply { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether the disk was full when a file was last made.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().full
    }

    /// Bytes in files that are ready.
    pub(super) fn ready_bytes(&self) -> u64 {
        self.state.lock().ready.iter().map(|spare| spare.file_bytes).sum()
    }

    /// Has a disk that was full tried again at once.
    pub(super) fn try_again(&self) {
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
            if let Some(spare) = state.ready.pop_front() {
                drop(state);
                self.supply.changed.notify_all();
                return Ok(spare);
            }
            if self.has_threads.load(Ordering::Acquire) {
                self.supply.changed.wait(&mut state);
            } else {
                let id = state.next_id;
                let spare = self.make_spare(id).map_err(|failure| Unavailable(failure.into()))?;
                state.next_id += 1;
                state.ready.push_back(spare);
            }
        }
    }

    /// Makes files until it is told to stop: what the thread does.
    pub(super) fn keep_supplied(&self) {
        let mut state = self.supply.state.lock();
        while !state.stopped {
            if state.ready.len() >= READY {
                self.supply.changed.wait(&mut state);
                continue;
            }
            let id = state.next_id;
            drop(state);
            let made = self.make_spare(id);
            state = self.supply.state.lock();
            match made {
                Ok(spare) => {
                    if state.full {
                        log::info!("there is room on the disk again");
                    }
                    state.full = false;
                    state.next_id += 1;
                    state.ready.push_back(spare);
                    self.supply.changed.notify_all();
                }
                Err(Failure::Io { source, path, .. }) if is_full(&source) => {
                    if !state.full {
                        log::warn!("no room to make {}: new jobs are refused until there is", path.display());
                    }
                    state.full = true;
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
