//! The threads of a journal: one writes for many, one creates segments, one compacts, and with an interval
//! one syncs.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::compaction::Compactor;
use super::failure::OpenError;
use super::files::Files;
use super::options::Fsync;
use super::reserve::Reserve;
use super::writer::Writer;

/// What a thread does.
type Work = Box<dyn FnOnce(&Writer) + Send>;

/// The threads of a journal that run.
#[derive(Default)]
pub(super) struct Threads {
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts them.
    pub(super) fn start(
        files: &Files,
        writer: &Arc<Writer>,
        reserve: &Arc<Reserve>,
        compactor: &Arc<Compactor>,
        fsync: Fsync,
    ) -> Result<Threads, OpenError> {
        let threads = Threads::default();
        let spawn = |name: &str, work: Work| {
            let writer = Arc::clone(writer);
            let body = move || {
                // A panic fails the journal; there is nobody else to tell.
                let _ = writer.unless_panics(|| {
                    work(&writer);
                    Ok(())
                });
            };
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
            spawned.map(|handle| threads.handles.lock().push(handle))
        };
        let all = || {
            spawn("journal-writer", Box::new(Writer::run))?;
            let reserve = Arc::clone(reserve);
            let fill = move |writer: &Writer| {
                if let Err(failure) = reserve.run() {
                    writer.fail(failure);
                }
            };
            spawn("journal-reserve", Box::new(fill))?;
            let compactor = Arc::clone(compactor);
            spawn("journal-compact", Box::new(move |_| compactor.run()))?;
            if let Fsync::Interval(interval) = fsync {
                spawn("journal-sync", Box::new(move |writer| writer.run_syncs(interval)))?;
            }
            Ok(())
        };
        if let Err(source) = all() {
            writer.stop();
            threads.join();
            let path = files.storage().path("");
            return Err(OpenError::Io { action: "start a thread for", path, source });
        }
        reserve.set_has_thread();
        Ok(threads)
    }

    /// Waits until they have ended, after [`Writer::stop`].
    pub(super) fn join(&self) {
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            // One of them may drop the last handle to the journal, in a callback.
            if handle.thread().id() != std::thread::current().id() {
                let _ = handle.join();
            }
        }
    }
}
