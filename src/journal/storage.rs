//! The files of the journal, behind a trait: the only place that touches them.
//!
//! A [`Storage`] is one flat directory. [`DiskStorage`] is a real one; [`SimulatedDisk`] keeps everything in
//! memory and fails as real disks do, on command: it is what the tests run on.

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
/// A name stays with its file after a power cut only once [`Storage::sync_directory`] has returned, and a file's
/// bytes only once [`StorageFile::sync_data`] has.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The names of all regular files, in no order. Names that are not UTF-8 are none of ours and left out.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that exists, to read and, where the storage is writable, to write.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates a file that does not exist yet.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AlreadyExists`] where it exists.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Gives a file another name. The caller sees to it that the new name is free.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all that was created, renamed and removed before outlive a power cut. Blocks until the disk says so.
    ///
    /// # Errors
    /// What the system says.
    fn sync_directory(&self) -> io::Result<()>;

    /// Where that file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait StorageFile: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`; none at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes at `offset`, and makes the file longer where they reach past its end.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes all that was written before outlive a power cut (fdatasync, the length included). Blocks until the
    /// disk says so. Once it has failed, it may not be tried again: the system has forgotten what was not
    /// written, and a second call would succeed for nothing.
    ///
    /// # Errors
    /// What the system says.
    fn sync_data(&self) -> io::Result<()>;
}

/// Fills `buffer` with the bytes at `offset`, or as much of it as the file has; returns how much.
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
            Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk took no bytes")),
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

/// Whether an error says that there is no room: the disk is full, a quota is reached, or no more files may be open.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) || lacks_files(error)
}

/// Whether an error says that the process, or the system, has as many files open as it may.
pub(super) fn lacks_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
