//! The end of the journal: writes batches to the newest segment, and begins the next one when it is full.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::account::Account;
use super::batch::{self, Checksum, Kind};
use super::failure::Unavailable;
use super::files::Files;
use super::options::Fsync;
use super::recovery::{Scan, Segment};
use super::reserve::Reserve;
use super::segment::{self, Chain};
use super::storage::{StorageFile, is_full, write_full};
use super::sync::{Syncs, Written};

/// The end of the journal.
pub(super) struct Tail {
    files: Arc<Files>,
    account: Arc<Account>,
    reserve: Arc<Reserve>,
    syncs: Arc<Syncs>,
    fsync: Fsync,
    /// Used by the thread with the write token only.
    newest: Mutex<Newest>,
}

/// The newest segment.
struct Newest {
    segment: u64,
    file: Arc<dyn StorageFile>,
    checksum: Checksum,
    offset: u64,
    capacity: u64,
    chain: Chain,
}

impl Tail {
    /// Continues behind what `scan` found.
    pub(super) fn new(
        files: Arc<Files>,
        account: Arc<Account>,
        reserve: Arc<Reserve>,
        syncs: Arc<Syncs>,
        fsync: Fsync,
        scan: &Scan,
    ) -> Tail {
        let newest = match &scan.tail {
            Some(tail) => Newest {
                segment: tail.header.id,
                file: Arc::clone(&tail.file),
                checksum: Checksum::salted(tail.header.salt),
                offset: tail.offset,
                // One of an older version is full too: its records must remain readable for that version.
                capacity: match scan.segments.last() {
                    Some(segment) if tail.header.version == segment::FORMAT_VERSION => segment.file_bytes,
                    _ => 0,
                },
                chain: scan.chain,
            },
            // Full from the beginning: the first batch begins the first segment.
            None => Newest {
                segment: 0,
                file: Arc::new(Nowhere),
                checksum: Checksum::salted(0),
                offset: u64::MAX,
                capacity: 0,
                chain: scan.chain,
            },
        };
        Tail { files, account, reserve, syncs, fsync, newest: Mutex::new(newest) }
    }

    /// Writes a batch. `bytes` has room for its header in front.
    pub(super) fn write(&self, kind: Kind, bytes: &mut [u8], records: u32) -> Result<Written, Unavailable> {
        let mut newest = self.newest.lock();
        let end = newest.offset.saturating_add(bytes.len() as u64);
        // A batch that is longer than a whole segment makes its segment longer.
        if end > newest.capacity && newest.offset > segment::HEADER_BYTES as u64 {
            self.begin_segment(&mut newest)?;
        }
        let payload = &bytes[batch::HEADER_BYTES..];
        let alone = self.fsync == Fsync::Always || kind != Kind::Data;
        let header = batch::Header {
            payload_length: u32::try_from(payload.len()).expect("a batch is shorter than 4 GiB"),
            number: newest.chain.next,
            durable: if alone { newest.chain.next } else { self.syncs.durable_batch() },
            records,
            kind,
            alone,
            previous: newest.chain.previous,
            payload_checksum: newest.checksum.of(payload),
        };
        let sum = header.write(newest.checksum, &mut bytes[..batch::HEADER_BYTES]);
        self.write_bytes(&*newest.file, newest.segment, bytes, newest.offset)?;
        newest.offset += bytes.len() as u64;
        newest.chain = Chain { next: header.number + 1, previous: sum };
        if newest.offset > newest.capacity {
            self.account.lengthen_newest(newest.offset - newest.capacity);
            newest.capacity = newest.offset;
        }
        self.account.set_tail_room(newest.capacity - newest.offset);
        Ok(newest.written())
    }

    /// Begins the next segment. The one before is made durable first, so that its end is known to be its end.
    fn begin_segment(&self, newest: &mut Newest) -> Result<(), Unavailable> {
        if self.fsync != Fsync::Always && newest.segment > 0 {
            self.syncs.sync(&newest.written())?;
        }
        let spare = self.reserve.take()?;
        let header = segment::Header {
            version: segment::FORMAT_VERSION,
            id: spare.id,
            salt: self.files.salt(spare.id),
            first_batch: newest.chain.next,
            capacity: spare.file_bytes,
            previous: newest.chain.previous,
        };
        self.write_bytes(&*spare.file, spare.id, &header.block(), 0)?;
        let name = segment::file_name(spare.id);
        self.files.sync(&*spare.file).map_err(self.files.failed("sync", &name))?;
        self.account.push_segment(Segment { id: spare.id, file_bytes: spare.file_bytes });
        *newest = Newest {
            segment: spare.id,
            file: spare.file,
            checksum: Checksum::salted(header.salt),
            offset: segment::HEADER_BYTES as u64,
            capacity: spare.file_bytes,
            chain: newest.chain,
        };
        Ok(())
    }

    /// Writes `bytes`. On a full disk it tries again until there is room, or the journal stops: unlike a
    /// failed sync, a write that found no room has lost nothing.
    fn write_bytes(
        &self,
        file: &dyn StorageFile,
        id: u64,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), Unavailable> {
        loop {
            match write_full(file, bytes, offset) {
                Err(e) if is_full(&e) && self.reserve.has_thread() && self.reserve.pause() => {}
                Ok(()) => return Ok(()),
                Err(e) => return Err(self.files.failed("write", &segment::file_name(id))(e).into()),
            }
        }
    }
}

impl Newest {
    fn written(&self) -> Written {
        Written { segment: self.segment, file: Arc::clone(&self.file), next: self.chain.next }
    }
}

/// The file of a segment before the first: full, and never used.
#[derive(Debug)]
struct Nowhere;

impl StorageFile for Nowhere {
    fn length(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
