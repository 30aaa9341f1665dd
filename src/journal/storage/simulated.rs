//! A disk in memory that does what disks and systems do when things go wrong: for tests.
//!
//! What it assumes is no kinder than what docs/journal.md says of disks:
//! - What was written and not synced is on the disk after a power cut, or not, sector by sector of 512 bytes and each on
//!   its own; a sector that was written more than once is in any of the states that it had since the last sync.
//! - A file that was created, renamed or removed is so after a power cut, or not, each on its own, unless the
//!   directory was synced since.
//! - A sync that fails forgets what it should have written: reading still shows it, and the next sync succeeds, but it
//!   is not on the disk. So Linux does.
//! - When the process is killed and the machine goes on, everything that was written is there, not yet durable.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Storage, StorageFile};

const SECTOR_BYTES: usize = 512;

/// What kinds of operations there are to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// A file is created.
    Create,
    /// Bytes are written.
    Write,
    /// A file is synced.
    Sync,
    /// A file gets another name.
    Rename,
    /// A file is removed.
    Remove,
    /// The directory is synced.
    SyncDirectory,
}

/// One operation that was called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was to be done.
    pub kind: OperationKind,
    /// To which file; the new name of one that is renamed.
    pub name: String,
}

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error of the system's, and has no effect.
    Error(i32),
    /// A write takes only so many bytes, and says so. Other operations are not affected.
    Short(usize),
    /// A sync says that it is done, and does nothing. Other operations are not affected.
    Lie,
    /// The process, or the machine, ends here: this operation and all later ones do nothing and fail. A write may have
    /// been done in part: the first so many bytes of it, down to the last sector that is whole (a killed process leaves
    /// whole pages, a power cut whole sectors).
    End(usize),
}

/// What is left after a power cut of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPlan {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Anything, by a seed.
    Random(u64),
    /// All names, and of the sectors that were written since they were last synced, in the order of their files'
    /// names and their offsets, those whose bit is set.
    Sectors(u64),
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Default)]
struct Inner {
    nodes: Vec<Node>,
    /// The directory as the process sees it.
    names: BTreeMap<String, usize>,
    /// The directory as it is on the disk.
    durable_names: BTreeMap<String, usize>,
    /// What leads from the one to the other.
    name_changes: Vec<NameChange>,
    operations: Vec<Operation>,
    faults: BTreeMap<u64, Fault>,
    capacity: Option<u64>,
    lying: bool,
    ended: bool,
    reads_fail: bool,
}

/// A file, whatever its name.
#[derive(Clone, Default)]
struct Node {
    /// As the process sees it.
    seen: Vec<u8>,
    /// As it is on the disk.
    durable: Vec<u8>,
    /// What was written since the last sync, in order.
    dirty: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String, usize),
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// Has the operation of that number go wrong; the first one on this disk is 0.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.inner.lock().faults.insert(operation, fault);
    }

    /// Has the disk be full once its files have so many bytes; `None` for never.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner.lock().capacity = bytes;
    }

    /// Has all syncs, of files and of the directory, do nothing from now on and say that they are done.
    pub fn set_lying(&self, lying: bool) {
        self.inner.lock().lying = lying;
    }

    /// Has all reads fail from now on.
    pub fn set_reads_fail(&self, fail: bool) {
        self.inner.lock().reads_fail = fail;
    }

    /// The operations that were called for, those that failed included.
    pub fn operations(&self) -> Vec<Operation> {
        self.inner.lock().operations.clone()
    }

    /// How many there were.
    pub fn operation_count(&self) -> u64 {
        self.inner.lock().operations.len() as u64
    }

    /// What a file holds, as the process sees it.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.inner.lock();
        inner.names.get(name).map(|&node| inner.nodes[node].seen.clone())
    }

    /// Puts a file there, durably, in the place of one of that name.
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

    /// Turns one bit of a file around, where the file has it.
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

    /// Takes a file away, durably.
    pub fn take(&self, name: &str) {
        let mut inner = self.inner.lock();
        inner.names.remove(name);
        inner.durable_names.remove(name);
    }

    /// A copy of the disk as it is, with no faults to come.
    pub fn fork(&self) -> SimulatedDisk {
        let mut inner = self.inner.lock().clone();
        inner.forget_the_past();
        SimulatedDisk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The disk after the process was killed: what was written is there, but no more durable than it was. This disk
    /// ends.
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

impl Inner {
    fn forget_the_past(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            // Nobody has it open, and it has no name: it is gone.
            let named = self.names.values().chain(self.durable_names.values()).any(|&named| named == index);
            let pending = self.name_changes.iter().any(|change| change.node() == index);
            if !named && !pending {
                *node = Node::default();
            }
        }
        self.operations.clear();
        self.faults.clear();
        self.lying = false;
        self.ended = false;
        self.reads_fail = false;
    }

    /// Counts an operation, and says what goes wrong at it.
    fn begin(&mut self, kind: OperationKind, name: &str) -> io::Result<Option<Fault>> {
        if self.ended {
            return Err(ended());
        }
        let number = self.operations.len() as u64;
        self.operations.push(Operation { kind, name: name.to_owned() });
        match self.faults.get(&number).copied() {
            Some(Fault::Error(code)) if kind != OperationKind::Sync => {
                Err(io::Error::from_raw_os_error(code))
            }
            Some(Fault::End(_)) if kind != OperationKind::Write => {
                self.ended = true;
                Err(ended())
            }
            fault => Ok(fault),
        }
    }

    fn crash(&mut self, plan: CrashPlan) {
        let mut random = match plan {
            CrashPlan::Random(seed) => SplitMix(seed),
            _ => SplitMix(0),
        };
        let mut names = self.durable_names.clone();
        for change in std::mem::take(&mut self.name_changes) {
            let kept = match plan {
                CrashPlan::Nothing => false,
                CrashPlan::Everything | CrashPlan::Sectors(_) => true,
                CrashPlan::Random(_) => random.next() % 2 == 0,
            };
            if kept {
                change.apply(&mut names);
            }
        }
        self.names = names.clone();
        self.durable_names = names;
        let mut index = 0;
        for &node in self.names.values() {
            let node = &mut self.nodes[node];
            let mut kept: BTreeMap<usize, usize> = BTreeMap::new();
            for (sector, writes) in node.dirty_sectors() {
                let applied = match plan {
                    CrashPlan::Nothing => 0,
                    CrashPlan::Everything => writes,
                    CrashPlan::Random(_) => match random.next() % 4 {
                        0 => 0,
                        1 => random.next() as usize % (writes + 1),
                        _ => writes,
                    },
                    CrashPlan::Sectors(bits) => {
                        if bits >> (index % 64) & 1 == 1 {
                            writes
                        } else {
                            0
                        }
                    }
                };
                index += 1;
                kept.insert(sector, applied);
            }
            node.crash(&kept);
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&node| self.nodes[node].seen.len() as u64).sum()
    }

    fn sync_directory(&mut self) {
        for change in std::mem::take(&mut self.name_changes) {
            if let NameChange::Remove(_, node) = change {
                self.nodes[node] = Node::default();
            }
        }
        self.durable_names = self.names.clone();
    }
}

impl NameChange {
    fn node(&self) -> usize {
        match self {
            NameChange::Create(_, node) | NameChange::Rename(_, _, node) | NameChange::Remove(_, node) => {
                *node
            }
        }
    }

    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, node) => {
                names.insert(name, node);
            }
            NameChange::Rename(from, to, node) => {
                if names.get(&from) == Some(&node) {
                    names.remove(&from);
                }
                names.insert(to, node);
            }
            NameChange::Remove(name, node) => {
                if names.get(&name) == Some(&node) {
                    names.remove(&name);
                }
            }
        }
    }
}

impl Node {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        put(&mut self.seen, offset, bytes);
        self.dirty.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.dirty) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// A sync that failed: nothing is on the disk for it, and nothing is left to be written.
    fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// The sectors that were written since the last sync, and how often.
    fn dirty_sectors(&self) -> BTreeMap<usize, usize> {
        let mut sectors = BTreeMap::new();
        for (offset, bytes) in &self.dirty {
            for sector in offset / SECTOR_BYTES..=(offset + bytes.len() - 1) / SECTOR_BYTES {
                *sectors.entry(sector).or_insert(0) += 1;
            }
        }
        sectors
    }

    /// Leaves of each sector's writes only the first so many.
    fn crash(&mut self, kept: &BTreeMap<usize, usize>) {
        let mut left = kept.clone();
        for (offset, bytes) in std::mem::take(&mut self.dirty) {
            let mut at = offset;
            while at < offset + bytes.len() {
                let sector = at / SECTOR_BYTES;
                let end = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len());
                if let Some(left) = left.get_mut(&sector)
                    && *left > 0
                {
                    *left -= 1;
                    put(&mut self.durable, at, &bytes[at - offset..end - offset]);
                }
                at = end;
            }
        }
        self.seen = self.durable.clone();
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        // A vector of zeros is made much faster than one is filled, without optimisation.
        file.extend_from_slice(&vec![0; end - file.len()]);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn ended() -> io::Error {
    io::Error::other("the simulated machine has ended")
}

fn no_such_file() -> io::Error {
    io::ErrorKind::NotFound.into()
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

/// A small generator of random numbers: SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
