//! What a simulated disk holds: files and names, as the process sees them and as a power cut would leave
//! them.

use std::collections::BTreeMap;
use std::io;

pub(super) const SECTOR_BYTES: usize = 512;

/// The operations that can go wrong.
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

/// One operation that was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which one.
    pub kind: OperationKind,
    /// On which file. For a rename, the new name.
    pub name: String,
}

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error of the system and has no effect.
    Error(i32),
    /// A write accepts at most this many bytes, and says so. Other operations are not affected.
    Short(usize),
    /// A sync succeeds without doing anything. Other operations are not affected.
    Lie,
    /// The process or the machine ends: this operation and all later ones fail without effect. Of a write,
    /// this many bytes may have been written, rounded down to whole sectors.
    End(usize),
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPlan {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// Anything, by a seed.
    Random(u64),
    /// All names, and of the sectors that were written since they were last synced, in the order of their
    /// files' names and their offsets, those whose bit is set.
    Sectors(u64),
}

#[derive(Clone, Default)]
pub(super) struct Inner {
    pub(super) nodes: Vec<Node>,
    /// The directory as the process sees it.
    pub(super) names: BTreeMap<String, usize>,
    /// The directory as it is on the disk.
    pub(super) durable_names: BTreeMap<String, usize>,
    /// How the one became the other.
    pub(super) name_changes: Vec<NameChange>,
    pub(super) operations: Vec<Operation>,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) capacity: Option<u64>,
    pub(super) lying: bool,
    pub(super) ended: bool,
    pub(super) reads_fail: bool,
}

/// A file, whatever its name.
#[derive(Clone, Default)]
pub(super) struct Node {
    /// As the process sees it.
    pub(super) seen: Vec<u8>,
    /// As it is on the disk.
    pub(super) durable: Vec<u8>,
    /// What was written since the last sync, in order.
    pub(super) dirty: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
pub(super) enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String, usize),
}

impl Inner {
    pub(super) fn forget_the_past(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            // It has no name, and nobody has it open.
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

    /// Counts an operation, and returns what goes wrong at it.
    pub(super) fn begin(&mut self, kind: OperationKind, name: &str) -> io::Result<Option<Fault>> {
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

    pub(super) fn crash(&mut self, plan: CrashPlan) {
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

    pub(super) fn used(&self) -> u64 {
        self.names.values().map(|&node| self.nodes[node].seen.len() as u64).sum()
    }

    pub(super) fn sync_directory(&mut self) {
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
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        put(&mut self.seen, offset, bytes);
        self.dirty.push((offset, bytes.to_vec()));
    }

    pub(super) fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.dirty) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// A failed sync: nothing reaches the disk, and nothing is left to be written.
    pub(super) fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// The sectors that were written since the last sync, and how often each.
    pub(super) fn dirty_sectors(&self) -> BTreeMap<usize, usize> {
        let mut sectors = BTreeMap::new();
        for (offset, bytes) in &self.dirty {
            for sector in offset / SECTOR_BYTES..=(offset + bytes.len() - 1) / SECTOR_BYTES {
                *sectors.entry(sector).or_insert(0) += 1;
            }
        }
        sectors
    }

    /// Keeps only this many of each sector's writes, the first ones.
    pub(super) fn crash(&mut self, kept: &BTreeMap<usize, usize>) {
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
        // Without optimization a vector of zeros is created much faster than one is filled.
        file.extend_from_slice(&vec![0; end - file.len()]);
    }
    file[offset..end].copy_from_slice(bytes);
}

pub(super) fn ended() -> io::Error {
    io::Error::other("the simulated machine has ended")
}

pub(super) fn no_such_file() -> io::Error {
    io::ErrorKind::NotFound.into()
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
