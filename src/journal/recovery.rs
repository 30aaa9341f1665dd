//! Recovery: reads the journal, distinguishes a torn tail from damage, and prepares the tail for new batches.
//!
//! - A batch that was being written at a power cut is broken, at the end of the last segment. It was never
//!   acknowledged. Its remains are kept in a `.torn` file and replaced by zeros.
//! - A broken batch that had been durable is damage, and the journal is not opened. It is recognized by a
//!   later batch, whose header says how far the journal was durable when it was written; by a later segment;
//!   or, if batches are written one at a time, because none of its sectors is missing.
//! - A missing segment is damage too: the numbers in the names have no gaps, and a record is written before
//!   the oldest one is removed.
//!
//! Recovery removes nothing except files that were to become segments.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::Kind;
use super::failure::OpenError;
use super::record::Record;
use super::segment::{self, Broken, Chain, Damage, FirstBlock, Found, Reader};
use super::storage::{Storage, StorageFile, write_full};

/// A last batch that was not written completely, so it was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TornTail {
    /// The segment.
    pub path: PathBuf,
    /// Its first byte in the segment.
    pub from: u64,
    /// The first byte after it.
    pub to: u64,
    /// The file that holds these bytes now. `None` if the journal was only read.
    pub kept: Option<PathBuf>,
}

/// A segment in use.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) file_bytes: u64,
}

/// A file of zeros that will be a segment.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    pub(super) id: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) file_bytes: u64,
}

/// The segment that batches are added to.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) header: segment::Header,
    /// The offset of the next batch.
    pub(super) offset: u64,
    /// The offset of the first batch that no later one proves to be durable.
    unproven_from: u64,
}

/// What reading all segments found.
#[derive(Default)]
pub(super) struct Scan {
    /// Segments in use, the oldest first.
    pub(super) segments: Vec<Segment>,
    /// Files of zeros that follow them.
    pub(super) spares: Vec<Spare>,
    /// The one of them that has part of a header.
    pub(super) begun: Option<u64>,
    /// The last segment in use.
    pub(super) tail: Option<Tail>,
    /// The end of the chain of batches.
    pub(super) chain: Chain,
    /// The remains of a last batch: the first byte, and the first after them.
    pub(super) torn: Option<(u64, u64)>,
    /// Whether the last batch is a clean mark.
    pub(super) closed: bool,
    /// Records read.
    pub(super) records: u64,
    /// Bytes read that are headers or batches.
    pub(super) bytes: u64,
}

/// Names what failed, for `map_err`.
pub(super) fn failed<'a>(
    storage: &'a dyn Storage,
    action: &'static str,
    name: &'a str,
) -> impl Fn(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { action, path: storage.path(name), source }
}

/// The ids of the segments' files, in order. There are no gaps.
pub(super) fn segment_ids(storage: &dyn Storage) -> Result<Vec<u64>, OpenError> {
    let names = storage.list().map_err(failed(storage, "list", ""))?;
    let mut ids: Vec<u64> = names.iter().filter_map(|name| segment::id_of_name(name)).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(pair) => Err(OpenError::Missing { path: storage.path(&segment::file_name(pair[0] + 1)) }),
        None => Ok(ids),
    }
}

/// Reads all segments in order and changes nothing. `replay` is called with every record, in the order in
/// which they were appended.
pub(super) fn scan(storage: &dyn Storage, replay: &mut dyn FnMut(Record)) -> Result<Scan, OpenError> {
    let mut scan = Scan::default();
    scan.read(storage, replay)?;
    Ok(scan)
}

/// Whether the segment `id` has never held a batch.
fn is_unused(storage: &dyn Storage, id: u64) -> Result<bool, OpenError> {
    let name = segment::file_name(id);
    let file = storage.open(&name).map_err(failed(storage, "open", &name))?;
    let first = segment::read_first_block(&*file, id).map_err(failed(storage, "read", &name))?;
    Ok(matches!(first, FirstBlock::Unused | FirstBlock::Begun))
}

impl Scan {
    /// As [`scan`], but keeps what was found before an error.
    pub(super) fn read(
        &mut self,
        storage: &dyn Storage,
        replay: &mut dyn FnMut(Record),
    ) -> Result<(), OpenError> {
        let ids = segment_ids(storage)?;
        let mut dropped = 0;
        for (index, &id) in ids.iter().enumerate() {
            let name = segment::file_name(id);
            let file = storage.open(&name).map_err(failed(storage, "open", &name))?;
            let damaged =
                |offset, what| Err(OpenError::Damaged(Damage { path: storage.path(&name), offset, what }));
            let first = segment::read_first_block(&*file, id).map_err(failed(storage, "read", &name))?;
            let header = match first {
                FirstBlock::Header(header) => header,
                FirstBlock::Unused | FirstBlock::Begun => {
                    let from = segment::HEADER_BYTES as u64;
                    if segment::last_nonzero(&*file, from).map_err(failed(storage, "read", &name))?.is_some()
                    {
                        return damaged(0, "the segment's header is not there");
                    }
                    if first == FirstBlock::Begun {
                        self.begun = Some(id);
                    }
                    let file_bytes = file.length().map_err(failed(storage, "read", &name))?;
                    self.spares.push(Spare { id, file, file_bytes });
                    continue;
                }
                FirstBlock::Damaged(what) => return damaged(0, what),
                FirstBlock::Version(version) => {
                    return Err(OpenError::Version { path: storage.path(&name), version });
                }
            };
            if !self.spares.is_empty() {
                return damaged(0, "the segment before it holds nothing");
            }
            let follows = header.first_batch == self.chain.next && header.previous == self.chain.previous;
            if index > 0 && !follows {
                return damaged(0, "the segment does not follow the one before it");
            }
            let last = match ids.get(index + 1) {
                None => true,
                Some(&next) => is_unused(storage, next)?,
            };
            self.segment(storage, file, header, last, &mut dropped, replay)?;
        }
        match ids.first() {
            Some(&oldest) if oldest > dropped + 1 => {
                Err(OpenError::Missing { path: storage.path(&segment::file_name(dropped + 1)) })
            }
            _ => Ok(()),
        }
    }

    /// Reads the batches of one segment.
    fn segment(
        &mut self,
        storage: &dyn Storage,
        file: Arc<dyn StorageFile>,
        header: segment::Header,
        last: bool,
        dropped: &mut u64,
        replay: &mut dyn FnMut(Record),
    ) -> Result<(), OpenError> {
        let name = segment::file_name(header.id);
        let read_failed = failed(storage, "read", &name);
        let damaged =
            |offset, what| Err(OpenError::Damaged(Damage { path: storage.path(&name), offset, what }));
        let mut reader = Reader::new(Arc::clone(&file), &header).map_err(&read_failed)?;
        // Number and offset of the batches that no later one proves to be durable.
        let mut unproven: VecDeque<(u64, u64)> = VecDeque::new();
        let mut alone = false;
        let broken: Option<Broken> = loop {
            match reader.next().map_err(&read_failed)? {
                Found::End => break None,
                Found::Broken(broken) => break Some(broken),
                Found::Batch(batch) => {
                    while unproven.front().is_some_and(|(number, _)| *number < batch.header.durable) {
                        unproven.pop_front();
                    }
                    unproven.push_back((batch.header.number, batch.offset));
                    alone = batch.header.alone;
                    self.closed = batch.header.kind == Kind::Closed;
                    let before = self.records;
                    for record in batch.records() {
                        match record {
                            Ok(Record::Dropped(segment)) => *dropped = segment.max(*dropped),
                            Ok(record) => replay(record),
                            Err(bad) => return damaged(batch.offset, bad.0),
                        }
                        self.records += 1;
                    }
                    if self.records - before != u64::from(batch.header.records) {
                        return damaged(batch.offset, "a batch does not hold as many records as it says");
                    }
                }
            }
        };
        let offset = reader.offset();
        let length = reader.length();
        self.chain = reader.chain();
        self.bytes += offset;
        self.segments.push(Segment { id: header.id, file_bytes: length });
        let unproven_from = unproven.front().map_or(offset, |(_, offset)| *offset);
        self.tail = Some(Tail { file: Arc::clone(&file), header, offset, unproven_from });

        let Some(last_nonzero) = segment::last_nonzero(&*file, offset).map_err(&read_failed)? else {
            return Ok(());
        };
        let broken = broken.unwrap_or(Broken {
            offset,
            what: "there are bytes after the last batch",
            may_be_torn: true,
            end: offset,
            alone: None,
        });
        if !last || !broken.may_be_torn {
            return damaged(offset, broken.what);
        }
        let proof = segment::find_proof_of_damage(&*file, &header, self.chain.next, offset + 1);
        if proof.map_err(&read_failed)?.is_some() {
            return damaged(offset, broken.what);
        }
        let torn =
            broken.end == offset || segment::lacks_a_sector(&*file, &broken, length).map_err(&read_failed)?;
        if broken.alone.unwrap_or(alone) && !torn {
            return damaged(offset, broken.what);
        }
        self.torn = Some((offset, last_nonzero + 1));
        Ok(())
    }

    /// The torn tail, if there is one.
    pub(super) fn torn_tail(&self, storage: &dyn Storage, kept: Option<PathBuf>) -> Option<TornTail> {
        let ((from, to), tail) = self.torn.zip(self.tail.as_ref())?;
        Some(TornTail { path: storage.path(&segment::file_name(tail.header.id)), from, to, kept })
    }

    /// Copies the torn tail to a file of its own, replaces it with zeros, and makes the last segment and the
    /// directory durable: the next power cut must not undo what recovery has seen.
    ///
    /// Batches that nothing proves to be durable are written again first. After a failed sync the system may
    /// show bytes that are not on the disk and that it will not write.
    pub(super) fn settle(&self, storage: &dyn Storage) -> Result<Option<TornTail>, OpenError> {
        remove_unfinished(storage, self.segments.first().map_or(0, |segment| segment.id))?;
        for spare in self.spares.iter().filter(|spare| Some(spare.id) == self.begun) {
            // The next header must not be mixed with this part of one.
            write_full(&*spare.file, &[0; segment::HEADER_BYTES], 0)
                .and_then(|()| spare.file.sync_data())
                .map_err(failed(storage, "write and sync", &segment::file_name(spare.id)))?;
        }
        let Some(tail) = &self.tail else {
            return storage.sync_directory().map_err(failed(storage, "sync", "")).map(|()| None);
        };
        let name = segment::file_name(tail.header.id);
        let mut kept = None;
        if let Some((from, to)) = self.torn {
            let path = storage.path(&keep_aside(storage, tail, from, to)?);
            log::warn!(
                "{}: incomplete last write: bytes {from} to {to} were never acknowledged and are kept in {}",
                storage.path(&name).display(),
                path.display()
            );
            kept = Some(path);
            let zeros = vec![0; COPY_BYTES];
            let mut at = from;
            while at < to {
                let piece = &zeros[..COPY_BYTES.min((to - at) as usize)];
                write_full(&*tail.file, piece, at).map_err(failed(storage, "write", &name))?;
                at += piece.len() as u64;
            }
        }
        // What proves the first batch also proves the header before it.
        let from = if tail.unproven_from == segment::HEADER_BYTES as u64 { 0 } else { tail.unproven_from };
        copy(&*tail.file, from, tail.offset, &*tail.file, from)
            .and_then(|()| tail.file.sync_data())
            .map_err(failed(storage, "write and sync", &name))?;
        storage.sync_directory().map_err(failed(storage, "sync", ""))?;
        Ok(self.torn_tail(storage, kept))
    }
}

const COPY_BYTES: usize = 1 << 16;

/// Copies the bytes `from..to` of one file to another place.
pub(super) fn copy(
    source: &dyn StorageFile,
    from: u64,
    to: u64,
    target: &dyn StorageFile,
    mut at: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut from = from;
    while from < to {
        let wanted = COPY_BYTES.min((to - from) as usize);
        let piece = &mut buffer[..wanted];
        if super::storage::read_full(source, piece, from)? < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_full(target, piece, at)?;
        from += wanted as u64;
        at += wanted as u64;
    }
    Ok(())
}

/// Copies the torn tail to a new file, durably, and returns its name.
fn keep_aside(storage: &dyn Storage, tail: &Tail, from: u64, to: u64) -> Result<String, OpenError> {
    let (name, file) = create_numbered(storage, &format!("{:010}.{from}", tail.header.id), "torn")?;
    copy(&*tail.file, from, to, &*file, 0)
        .and_then(|()| file.sync_data())
        .map_err(failed(storage, "write", &name))?;
    storage.sync_directory().map_err(failed(storage, "sync", ""))?;
    Ok(name)
}

/// Creates `stem.suffix`, or if that exists `stem.1.suffix` and so on.
pub(super) fn create_numbered(
    storage: &dyn Storage,
    stem: &str,
    suffix: &str,
) -> Result<(String, Arc<dyn StorageFile>), OpenError> {
    let mut name = format!("{stem}.{suffix}");
    for number in 1_u64.. {
        match storage.create(&name) {
            Ok(file) => return Ok((name, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => name = format!("{stem}.{number}.{suffix}"),
            Err(e) => return Err(failed(storage, "create", &name)(e)),
        }
    }
    unreachable!("no directory holds that many files")
}

/// The name of a file that is being filled with zeros to become the segment `id`.
pub(super) fn unfinished_name(id: u64, salt: u64) -> String {
    format!("{id:010}.{salt:016x}.new")
}

/// The name of a file that was the segment `id`, is no longer needed, and will be used again.
pub(super) fn recycled_name(id: u64, salt: u64) -> String {
    format!("{id:010}.{salt:016x}.old")
}

/// Removes files that were to become segments when the process ended, if they hold zeros as they should, or
/// were segments before `oldest`, the first one in use.
fn remove_unfinished(storage: &dyn Storage, oldest: u64) -> Result<(), OpenError> {
    for name in storage.list().map_err(failed(storage, "list", ""))? {
        let mut parts = name.split('.');
        let (id, salt) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (id, salt) = (id.parse().unwrap_or(0), u64::from_str_radix(salt, 16).unwrap_or(0));
        let useless = if name == recycled_name(id, salt) {
            id < oldest
        } else if name == unfinished_name(id, salt) {
            let file = storage.open(&name).map_err(failed(storage, "open", &name))?;
            segment::last_nonzero(&*file, 0).map_err(failed(storage, "read", &name))?.is_none()
        } else {
            continue;
        };
        if useless {
            storage.remove(&name).map_err(failed(storage, "remove", &name))?;
        } else {
            log::warn!("{} was not left by this program; it is ignored", storage.path(&name).display());
        }
    }
    Ok(())
}
