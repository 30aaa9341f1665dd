//! Salvage: copies what can be read of a damaged journal. It runs only if an operator asks for it.
//!
//! Every batch with the right checksums is copied, in order, into new segments. The originals are then
//! renamed to names that end in `.damaged`. Nothing is removed except files of zeros. The contents of a
//! damaged batch are lost: jobs, and also records that said that a job is finished, so some jobs may run
//! again.
//!
//! It may be interrupted at any point and started again. The copies get their names from the last to the
//! first, and only when all are complete. Until then all originals are there. Replaying copies after the
//! originals, all of them or the last ones, gives the same state, because each change says everything that it
//! changes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::{self, Checksum, Kind};
use super::failure::OpenError;
use super::record::{Record, Records, encode_dropped};
use super::recovery::{failed, scan};
use super::segment::{self, Damage, is_zero};
use super::storage::{Storage, StorageFile, read_full, write_full};

/// The result of a salvage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Whether anything was damaged. If not, nothing was changed.
    pub damaged: bool,
    /// Records that were copied.
    pub records: u64,
    /// What can't be read, in order.
    pub damage: Vec<Damage>,
    /// How many bytes these are.
    pub lost_bytes: u64,
    /// The original files, under their new names.
    pub originals: Vec<PathBuf>,
}

/// Copies what can be read of a damaged journal into new segments, and renames the originals. Blocks, and
/// needs as much room as what can be read. If the journal would open as it is, nothing is done.
///
/// # Errors
/// [`OpenError::Io`] for an error of the system; [`OpenError::Version`] if a later version wrote the journal.
/// The originals are then unchanged, except perhaps for their names.
pub fn salvage(storage: &dyn Storage) -> Result<Salvaged, OpenError> {
    match scan(storage, &mut |_| {}) {
        Ok(_) => return Ok(Salvaged::default()),
        Err(OpenError::Damaged(_) | OpenError::Missing { .. }) => {}
        Err(e) => return Err(e),
    }
    let names = storage.list().map_err(failed(storage, "list", ""))?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
        // A copy by a salvage that was interrupted. The originals are still there.
        storage.remove(name).map_err(failed(storage, "remove", name))?;
    }
    let mut ids: Vec<u64> = names.iter().filter_map(|name| segment::id_of_name(name)).collect();
    ids.sort_unstable();
    let mut salvaged = Salvaged { damaged: true, ..Salvaged::default() };
    let last_id = ids.last().copied().unwrap_or(0);
    let mut copier = Copier::new(storage, last_id + 1);
    let mut zeros = Vec::new();
    let mut expected = None;
    for &id in &ids {
        if let Some(missing) = expected.filter(|expected| *expected != id) {
            let path = storage.path(&segment::file_name(missing));
            salvaged.damage.push(Damage { path, offset: 0, what: "the segment is missing" });
        }
        expected = Some(id + 1);
        let name = segment::file_name(id);
        let bytes = read_file(storage, &name)?;
        if is_zero(&bytes) {
            zeros.push(name);
        } else {
            copy_segment(storage, &name, &bytes, &mut copier, &mut salvaged)?;
        }
    }
    copier.finish(last_id)?;
    for &id in &ids {
        let name = segment::file_name(id);
        if zeros.contains(&name) {
            storage.remove(&name).map_err(failed(storage, "remove", &name))?;
        } else {
            let aside = free_name(storage, &format!("{name}.damaged"))?;
            storage.rename(&name, &aside).map_err(failed(storage, "rename", &name))?;
            salvaged.originals.push(storage.path(&aside));
        }
    }
    storage.sync_directory().map_err(failed(storage, "sync", ""))?;
    Ok(salvaged)
}

/// The end of an incomplete copy's name.
const UNFINISHED: &str = ".salvaging";

/// A copied segment ends after the batch with which it exceeds this size.
const SEGMENT_BYTES: usize = 16 << 20;

fn read_file(storage: &dyn Storage, name: &str) -> Result<Vec<u8>, OpenError> {
    let read = || {
        let file = storage.open(name)?;
        let length =
            usize::try_from(file.length()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut bytes = vec![0; length];
        let filled = read_full(&*file, &mut bytes, 0)?;
        bytes.truncate(filled);
        Ok(bytes)
    };
    read().map_err(failed(storage, "read", name))
}

fn free_name(storage: &dyn Storage, wanted: &str) -> Result<String, OpenError> {
    let names = storage.list().map_err(failed(storage, "list", ""))?;
    let mut name = wanted.to_owned();
    let mut number = 0_u64;
    while names.contains(&name) {
        number += 1;
        name = format!("{wanted}.{number}");
    }
    Ok(name)
}

/// Copies the undamaged batches of one segment, and notes what else is there.
fn copy_segment(
    storage: &dyn Storage,
    name: &str,
    bytes: &[u8],
    copier: &mut Copier<'_>,
    salvaged: &mut Salvaged,
) -> Result<(), OpenError> {
    let damage = |offset: usize, what| Damage { path: storage.path(name), offset: offset as u64, what };
    let Some(header) = segment::salvage_header(bytes) else {
        salvaged.damage.push(damage(0, "neither copy of the segment's header can be read"));
        salvaged.lost_bytes += bytes.len() as u64;
        return Ok(());
    };
    let checksum = Checksum::salted(header.salt);
    if bytes.get(..segment::HEADER_BYTES) != Some(&header.block()[..]) {
        salvaged.damage.push(damage(0, "the segment's header is damaged; its copy was used"));
    }
    let mut at = segment::HEADER_BYTES;
    let mut lost_from = None;
    while at < bytes.len() {
        match whole_batch(checksum, &bytes[at..]) {
            Some((header, payload)) => {
                if let Some(from) = lost_from.take() {
                    salvaged.damage.push(damage(from, "no batch can be read here"));
                    salvaged.lost_bytes += (at - from) as u64;
                }
                if header.kind == Kind::Data {
                    copier.add(payload, header.records)?;
                    salvaged.records += u64::from(header.records);
                }
                at += batch::HEADER_BYTES + payload.len();
            }
            None if is_zero(&bytes[at..]) => break,
            None => {
                lost_from.get_or_insert(at);
                at = next_magic(bytes, at + 1);
            }
        }
    }
    if let Some(from) = lost_from {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(from, |last| last + 1);
        salvaged.damage.push(damage(from, "no batch can be read here"));
        salvaged.lost_bytes += end.saturating_sub(from) as u64;
    }
    Ok(())
}

/// The offset at which the next batch may begin, or the end.
fn next_magic(bytes: &[u8], from: usize) -> usize {
    let found = bytes[from..].windows(batch::MAGIC.len()).position(|window| window == batch::MAGIC);
    found.map_or(bytes.len(), |index| from + index)
}

/// The batch at the front of `bytes`, if both its checksums and all its records are right.
fn whole_batch(checksum: Checksum, bytes: &[u8]) -> Option<(batch::Header, &[u8])> {
    if bytes.len() < batch::HEADER_BYTES {
        return None;
    }
    let (header, _) = batch::Header::read(checksum, bytes).ok()?;
    let end = batch::HEADER_BYTES.checked_add(usize::try_from(header.payload_length).ok()?)?;
    let payload = bytes.get(batch::HEADER_BYTES..end)?;
    let records: Result<Vec<Record>, _> = Records::new(payload).collect();
    let right = checksum.of(payload) == header.payload_checksum
        && records.is_ok_and(|records| records.len() as u64 == u64::from(header.records));
    right.then_some((header, payload))
}

/// Writes the new segments.
struct Copier<'a> {
    storage: &'a dyn Storage,
    first_id: u64,
    next_id: u64,
    segment: segment::Header,
    checksum: Checksum,
    bytes: Vec<u8>,
    number: u64,
    previous: u32,
    finished: Vec<u64>,
}

impl<'a> Copier<'a> {
    fn new(storage: &'a dyn Storage, first_id: u64) -> Copier<'a> {
        let version = segment::FORMAT_VERSION;
        let segment =
            segment::Header { version, id: first_id, salt: 0, first_batch: 1, capacity: 0, previous: 0 };
        let mut copier = Copier {
            storage,
            first_id,
            next_id: first_id,
            segment,
            checksum: Checksum::salted(0),
            bytes: Vec::new(),
            number: 1,
            previous: 0,
            finished: Vec::new(),
        };
        copier.begin();
        copier
    }

    fn begin(&mut self) {
        let salt = super::files::random_salt();
        self.segment = segment::Header {
            version: segment::FORMAT_VERSION,
            id: self.next_id,
            salt,
            first_batch: self.number,
            capacity: 0,
            previous: self.previous,
        };
        self.checksum = Checksum::salted(salt);
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; segment::HEADER_BYTES]);
        self.next_id += 1;
    }

    fn add(&mut self, payload: &[u8], records: u32) -> Result<(), OpenError> {
        if self.bytes.len() > SEGMENT_BYTES {
            self.write()?;
            self.begin();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; batch::HEADER_BYTES]);
        self.bytes.extend_from_slice(payload);
        let header = batch::Header {
            payload_length: payload.len() as u32,
            number: self.number,
            durable: self.number,
            records,
            kind: Kind::Data,
            alone: true,
            previous: self.previous,
            payload_checksum: self.checksum.of(payload),
        };
        self.previous = header.write(self.checksum, &mut self.bytes[start..start + batch::HEADER_BYTES]);
        self.number += 1;
        Ok(())
    }

    /// Writes the segment under a name that is not a segment's yet.
    fn write(&mut self) -> Result<(), OpenError> {
        self.segment.capacity = self.bytes.len() as u64;
        self.bytes[..segment::HEADER_BYTES].copy_from_slice(&self.segment.block());
        let name = segment::file_name(self.segment.id) + UNFINISHED;
        let write = || {
            let file: Arc<dyn StorageFile> = self.storage.create(&name)?;
            write_full(&*file, &self.bytes, 0)?;
            file.sync_data()
        };
        write().map_err(failed(self.storage, "write", &name))?;
        self.finished.push(self.segment.id);
        Ok(())
    }

    /// Records that the originals are not needed, and gives the copies their names, the last one first.
    fn finish(mut self, last_original: u64) -> Result<(), OpenError> {
        let mut record = Vec::new();
        encode_dropped(last_original.max(self.first_id - 1), &mut record);
        self.add(&record, 1)?;
        self.write()?;
        for id in self.finished.iter().rev() {
            let name = segment::file_name(*id);
            let rename = self.storage.rename(&(name.clone() + UNFINISHED), &name);
            rename.and_then(|()| self.storage.sync_directory()).map_err(failed(
                self.storage,
                "rename and sync",
                &name,
            ))?;
        }
        Ok(())
    }
}
