//! Syncs of segments, one at a time. The first failure ends them all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::failure::{Failure, Unavailable};
use super::files::Files;
use super::histogram::Histogram;
use super::segment;
use super::storage::StorageFile;
use crate::clock::Stopwatch;

/// How far the journal is written, and what has to be synced for that to be durable.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// The newest segment, and its file.
    pub(super) segment: u64,
    pub(super) file: Arc<dyn StorageFile>,
    /// The number of the batch that comes next.
    pub(super) next: u64,
}

/// Syncs segments.
pub(super) struct Syncs {
    files: Arc<Files>,
    /// Held during a sync. The system reports an error to one caller only, so no other thread may sync before
    /// it knows.
    failed: Mutex<Option<Unavailable>>,
    /// Every batch with a lower number is durable.
    durable_batch: AtomicU64,
    latency: Mutex<Histogram>,
}

impl Syncs {
    /// Begins when every batch with a number below `durable_batch` is durable.
    pub(super) fn new(files: Arc<Files>, durable_batch: u64) -> Syncs {
        Syncs {
            files,
            failed: Mutex::default(),
            durable_batch: AtomicU64::new(durable_batch),
            latency: Mutex::default(),
        }
    }

    /// Every batch with a lower number is durable.
    pub(super) fn durable_batch(&self) -> u64 {
        self.durable_batch.load(Ordering::Acquire)
    }

    /// Makes durable what was written. A failed sync is never repeated: the system may have dropped the
    /// bytes.
    pub(super) fn sync(&self, written: &Written) -> Result<(), Unavailable> {
        let mut failed = self.failed.lock();
        if let Some(unavailable) = &*failed {
            return Err(unavailable.clone());
        }
        let stopwatch = Stopwatch::start();
        let failed_io = |e| self.files.failed("sync", &segment::file_name(written.segment))(e);
        let sync = || self.files.sync(&*written.file).map_err(failed_io);
        if let Err(failure) = catch_unwind(AssertUnwindSafe(sync)).unwrap_or(Err(Failure::Broken)) {
            return Err(failed.insert(failure.into()).clone());
        }
        self.latency.lock().add(stopwatch.elapsed());
        self.durable_batch.fetch_max(written.next, Ordering::AcqRel);
        Ok(())
    }

    /// How long the syncs took.
    pub(super) fn latency(&self) -> Histogram {
        self.latency.lock().clone()
    }
}
