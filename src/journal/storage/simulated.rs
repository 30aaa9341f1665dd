//! A disk in memory that fails as disks and systems do: for tests.
//!
//! It is no kinder than docs/journal.md assumes of disks:
//! - After a power cut, what was written and not synced is on the disk or not, each sector of 512 bytes on
//!   its own. A sector that was written more than once has any of the states that it had since the last sync.
//! - A file that was created, renamed or removed is so after a power cut or not, each on its own, unless the
//!   directory was synced since.
//! - A failed sync drops what it should have written, as on Linux: reads still show it, and the next sync
//!   succeeds, but it is not on the disk.
//! - If the process is killed and the machine continues, everything that was written is there, but not
//!   durable.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Storage, StorageFile};

mod state;

pub use state::{CrashPlan, Fault, Operation, OperationKind};
use state::{Inner, NameChange, Node, SECTOR_BYTES, ended, no_such_file};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// Makes the operation with this number go wrong. The first one on this disk has number 0.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.inner.lock().faults.insert(operation, fault);
    }

    /// The disk is full once its files have this many bytes. `None`: never.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner.lock().capacity = bytes;
    }

    /// From now on all syncs, of files and of the directory, succeed without doing anything.
    pub fn set_lying(&self, lying: bool) {
        self.inner.lock().lying = lying;
    }

    /// From now on all reads fail.
    pub fn set_reads_fail(&self, fail: bool) {
        self.inner.lock().reads_fail = fail;
    }

    /// The operations that were called, including those that failed.
    pub fn operations(&self) -> Vec<Operation> {
        self.inner.lock().operations.clone()
    }

    /// How many these are.
    pub fn operation_count(&self) -> u64 {
        self.inner.lock().operations.len() as u64
    }

    /// What a file holds, as the process sees it.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.inner.lock();
        inner.names.get(name).map(|&node| inner.nodes[node].seen.clone())
    }

    /// Puts a file on the disk, durably. It replaces one with its name.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner.lock();
        let node = match inner.names.get(name) {
            Some(&node) => node,
            None => {
                inner.nodes.push(Node::default());
                inner.nodes.len() - 1
            }
        };
        inner.nodes[node] = Node { durable: bytes.clone(), seen: bytes, dirty: Vec::new() };
        inner.names.insert(name.to_owned(), node);
        inner.durable_names.insert(name.to_owned(), node);
    }

    /// Flips one bit of a file, if the file is long enough.
    pub fn flip(&self, name: &str, byte: usize, bit: u32) {
        let mut inner = self.inner.lock();
        let Some(&node) = inner.names.get(name) else { return };
        let node = &mut inner.nodes[node];
        for bytes in [&mut node.seen, &mut node.durable] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Removes a file, durably.
    pub fn take(&self, name: &str) {
        let mut inner = self.inner.lock();
        inner.names.remove(name);
        inner.durable_names.remove(name);
    }

    /// A copy of the disk as it is, without faults.
    pub fn fork(&self) -> SimulatedDisk {
        let mut inner = self.inner.lock().clone();
        inner.forget_the_past();
        SimulatedDisk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The disk after the process was killed: what was written is there, but no more durable than it was.
    /// This disk ends.
    pub fn kill(&self) -> SimulatedDisk {
        self.inner.lock().ended = true;
        self.fork()
    }

    /// The disk after a power cut. This disk ends.
    pub fn crash(&self, plan: CrashPlan) -> SimulatedDisk {
        let mut inner = {
            let mut old = self.inner.lock();
            old.ended = true;
            old.clone()
        };
        inner.crash(plan);
        inner.forget_the_past();
        SimulatedDisk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// How many sectors were written and not synced.
    pub fn dirty_sectors(&self) -> usize {
        let inner = self.inner.lock();
        inner.names.values().map(|&node| inner.nodes[node].dirty_sectors().len()).sum()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock();
        let lengths = inner.names.iter().map(|(name, &node)| (name, inner.nodes[node].seen.len()));
        f.debug_map().entries(lengths).finish()
    }
}

impl Storage for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let inner = self.inner.lock();
        if inner.ended {
            return Err(ended());
        }
        Ok(inner.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let inner = self.inner.lock();
        if inner.ended {
            return Err(ended());
        }
        let node = *inner.names.get(name).ok_or_else(no_such_file)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), node, name: name.to_owned() }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut inner = self.inner.lock();
        inner.begin(OperationKind::Create, name)?;
        if inner.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = inner.nodes.len();
        inner.nodes.push(Node::default());
        inner.names.insert(name.to_owned(), node);
        inner.name_changes.push(NameChange::Create(name.to_owned(), node));
        Ok(Arc::new(SimulatedFile { disk: self.clone(), node, name: name.to_owned() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.begin(OperationKind::Rename, to)?;
        let node = inner.names.remove(from).ok_or_else(no_such_file)?;
        assert!(!inner.names.contains_key(to), "a rename must not take the place of {to}");
        inner.names.insert(to.to_owned(), node);
        inner.name_changes.push(NameChange::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.begin(OperationKind::Remove, name)?;
        let node = inner.names.remove(name).ok_or_else(no_such_file)?;
        inner.name_changes.push(NameChange::Remove(name.to_owned(), node));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let fault = inner.begin(OperationKind::SyncDirectory, "")?;
        if !inner.lying && fault != Some(Fault::Lie) {
            inner.sync_directory();
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    node: usize,
    name: String,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StorageFile for SimulatedFile {
    fn length(&self) -> io::Result<u64> {
        let inner = self.disk.inner.lock();
        if inner.ended {
            return Err(ended());
        }
        Ok(inner.nodes[self.node].seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.inner.lock();
        if inner.ended {
            return Err(ended());
        }
        if inner.reads_fail {
            return Err(io::Error::other("the simulated disk cannot be read"));
        }
        let seen = &inner.nodes[self.node].seen;
        let Some(rest) = seen.get(offset as usize..) else { return Ok(0) };
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.inner.lock();
        let offset = offset as usize;
        let fault = inner.begin(OperationKind::Write, &self.name)?;
        let mut length = bytes.len();
        match fault {
            Some(Fault::Short(limit)) => length = length.min(limit.max(1)),
            Some(Fault::End(limit)) => {
                let end = offset + length.min(limit);
                let end = if limit < length { end / SECTOR_BYTES * SECTOR_BYTES } else { end };
                inner.nodes[self.node].write(offset, &bytes[..end.saturating_sub(offset)]);
                inner.ended = true;
                return Err(ended());
            }
            _ => {}
        }
        let held = inner.nodes[self.node].seen.len();
        if let Some(capacity) = inner.capacity {
            let room = held + capacity.saturating_sub(inner.used()) as usize;
            length = length.min(room.saturating_sub(offset));
            if length == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        inner.nodes[self.node].write(offset, &bytes[..length]);
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let fault = inner.begin(OperationKind::Sync, &self.name)?;
        let lying = inner.lying || fault == Some(Fault::Lie);
        let node = &mut inner.nodes[self.node];
        match fault {
            Some(Fault::Error(code)) => {
                node.fail_sync();
                return Err(io::Error::from_raw_os_error(code));
            }
            _ if lying => {}
            _ => node.sync(),
        }
        Ok(())
    }
}
