//! The files of the journal, behind a trait: the only place that touches them.
//!
//! A [`Storage`] is one flat directory. [`DiskStorage`] is a real one. [`SimulatedDisk`] keeps everything in
//! memory and fails on command as real disks do: tests use it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

mod disk;
mod simulated;

pub use disk::{DiskError, DiskStorage};
pub use simulated::{CrashPlan, Fault, Operation, OperationKind, SimulatedDisk};

/// One flat directory of files.
///
/// A name survives a power cut only after [`Storage::sync_directory`] has returned, and a file's bytes only
/// after [`StorageFile::sync_data`] has.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The names of all regular files, in no order, except names that are not UTF-8.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading, and for writing if the storage is writable.
    ///
    /// # Errors
    /// The system's error.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates a new file.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::AlreadyExists`] if it exists.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames a file. The new name must be free.
    ///
    /// # Errors
    /// The system's error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable what was created, renamed and removed before. Blocks until the disk says so.
    ///
    /// # Errors
    /// The system's error.
    fn sync_directory(&self) -> io::Result<()>;

    /// The path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's error.
    fn length(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`, or none at the end of the file.
    ///
    /// # Errors
    /// The system's error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes at `offset`. The file grows if they reach past its end.
    ///
    /// # Errors
    /// The system's error.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes durable what was written before, and the length (fdatasync). Blocks until the disk says so. If
    /// it fails, do not call it again: the system may have dropped the bytes, and a second call would succeed
    /// without them.
    ///
    /// # Errors
    /// The system's error.
    fn sync_data(&self) -> io::Result<()>;
}

/// Fills `buffer` with the bytes at `offset`, or as many as the file has. Returns how many.
pub(super) fn read_full(file: &dyn StorageFile, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let wanted = buffer.len();
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(wanted - buffer.len())
}

/// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
pub(super) fn write_full(file: &dyn StorageFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk accepted no bytes")),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether an error says that there is no room: the disk is full, a quota is reached, or no more files may be
/// open.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) || lacks_files(error)
}

/// Whether an error says that the process or the system has too many files open.
pub(super) fn lacks_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
