//! A panic in the journal's code, or in the storage below it, fails the journal. It must not leave others
//! waiting, and nothing may be acknowledged after it.
#![allow(clippy::disallowed_methods)]

mod journal_common;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use djqs::internal::change::Change;
use djqs::internal::journal::storage::{OperationKind, SimulatedDisk, Storage, StorageFile};
use djqs::internal::journal::{Failure, Fsync, OpenError, Options};
use djqs::job::JobId;
use journal_common::{Owner, job};

/// A disk on which one kind of operation panics once it is armed.
#[derive(Clone, Debug)]
struct PanickingDisk {
    disk: SimulatedDisk,
    panics_at: OperationKind,
    armed: Arc<AtomicBool>,
}

impl PanickingDisk {
    fn meet(&self, kind: OperationKind) {
        assert!(!self.armed.load(Ordering::SeqCst) || kind != self.panics_at, "on purpose, at {kind:?}");
    }

    fn file(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(PanickingFile { disk: self.clone(), file })
    }
}

impl Storage for PanickingDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.open(name).map(|file| self.file(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.meet(OperationKind::Create);
        self.disk.create(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.meet(OperationKind::Remove);
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

#[derive(Debug)]
struct PanickingFile {
    disk: PanickingDisk,
    file: Arc<dyn StorageFile>,
}

impl StorageFile for PanickingFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.meet(OperationKind::Write);
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.meet(OperationKind::Sync);
        self.file.sync_data()
    }
}

/// Opens a journal on such a disk, arms the disk, and has four threads add and end jobs until they are
/// refused. Then everything must have failed with the panic, and the server must have been called once.
fn panic_fails_the_journal(panics_at: OperationKind, fsync: Fsync) {
    let disk = PanickingDisk { disk: SimulatedDisk::new(), panics_at, armed: Arc::default() };
    let (failed, failures) = mpsc::channel();
    let on_failure = move |failure: &Failure| failed.send(failure.to_string()).unwrap();
    let options = Options {
        fsync,
        segment_bytes: 8 << 10,
        on_failure: Some(Arc::new(on_failure)),
        ..Options::default()
    };
    let (owner, _) = Owner::open(Arc::new(disk.clone()), options).unwrap();
    owner.wait(owner.change(&job(1, b"work"))).unwrap();
    disk.armed.store(true, Ordering::SeqCst);
    let next = AtomicUsize::new(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let id = next.fetch_add(1, Ordering::SeqCst) as u64;
                    owner.change(&job(id, &[7; 300]));
                    let position = owner.change(&Change::Gone(JobId(id)));
                    if owner.wait(position).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let failure = owner.journal.failure().expect("it failed");
    assert!(matches!(*failure.0, Failure::Broken), "{panics_at:?}, {fsync}: {failure}");
    assert_eq!(failures.recv().unwrap(), Failure::Broken.to_string());
    let durable = owner.journal.durable();
    disk.armed.store(false, Ordering::SeqCst);
    owner.wait(owner.change(&job(1_000_000, b"work"))).unwrap_err();
    owner.journal.sync(owner.journal.appended()).unwrap_err();
    owner.journal.close().unwrap_err();
    assert_eq!(owner.journal.durable(), durable, "nothing more is acknowledged");
    assert!(failures.try_recv().is_err(), "the server is called once");
}

#[test]
fn panic_while_a_batch_is_written_fails_the_journal() {
    panic_fails_the_journal(OperationKind::Write, Fsync::Always);
    panic_fails_the_journal(OperationKind::Write, Fsync::Never);
}

#[test]
fn panic_in_a_sync_fails_the_journal() {
    panic_fails_the_journal(OperationKind::Sync, Fsync::Always);
}

#[test]
fn panic_in_the_thread_that_syncs_fails_the_journal() {
    panic_fails_the_journal(OperationKind::Sync, Fsync::Interval(Duration::from_millis(1)));
}

#[test]
fn panic_in_the_thread_that_makes_segments_fails_the_journal() {
    panic_fails_the_journal(OperationKind::Create, Fsync::Never);
}

#[test]
fn panic_in_the_thread_that_compacts_fails_the_journal() {
    panic_fails_the_journal(OperationKind::Remove, Fsync::Never);
}

#[test]
fn panic_while_the_journal_is_closed_fails_it() {
    let disk =
        PanickingDisk { disk: SimulatedDisk::new(), panics_at: OperationKind::Write, armed: Arc::default() };
    let (owner, _) = Owner::open(Arc::new(disk.clone()), Options::default()).unwrap();
    owner.wait(owner.change(&job(1, b"work"))).unwrap();
    disk.armed.store(true, Ordering::SeqCst);
    let unavailable = owner.journal.close().unwrap_err();
    assert!(matches!(*unavailable.0, Failure::Broken), "{unavailable}");
    owner.wait(owner.change(&job(2, b"work"))).unwrap_err();
}

#[test]
fn panic_while_the_journal_is_opened_is_an_error() {
    for panics_at in [OperationKind::Create, OperationKind::Write, OperationKind::Sync] {
        let armed = Arc::new(AtomicBool::new(true));
        let disk = PanickingDisk { disk: SimulatedDisk::new(), panics_at, armed };
        let Err(OpenError::Unavailable(unavailable)) = Owner::open(Arc::new(disk), Options::default()) else {
            panic!("it opened although every {panics_at:?} panics");
        };
        assert!(matches!(*unavailable.0, Failure::Broken), "{unavailable}");
    }
}
