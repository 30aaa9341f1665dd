//! Segments: one file each, a header, batches end to end, and zeros after them.
//!
//! ```text
//!  0  magic              8  "DJQSjrnl"
//!  8  version            4  2; 1 in journals of older versions, which differ in their records only
//! 12  zero               4
//! 16  id                 8  the number in the file's name
//! 24  salt               8  random, begins every checksum of the batches
//! 32  first batch        8  the number of the segment's first batch
//! 40  capacity           8  the length of the file when the header was written; it never gets shorter
//! 48  previous           4  header checksum of the last batch of the segment before
//! 52  checksum           4  CRC-32 of the 52 bytes before it
//! 56  zero            1992
//! 2048  the first 56 bytes again, for salvage: without the salt no batch can be checked
//! 2104  zero          1992
//! ```
//! The header has a block of its own, is written once, and is durable before the first batch is written. A
//! segment whose header is all zeros has never held a batch.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::batch::{self, Checksum, NotHeader, u32_at, u64_at};
use super::record::{BadRecord, Record, Records};
use super::storage::{StorageFile, read_full};

/// The bytes of a segment's header, and the offset of its first batch.
pub(super) const HEADER_BYTES: usize = 4096;

/// The version of the format that is written.
pub const FORMAT_VERSION: u32 = 2;

/// The oldest version of the format that can be read.
const FORMAT_VERSION_MIN: u32 = 1;

const MAGIC: [u8; 8] = *b"DJQSjrnl";
const SUM_AT: usize = 52;
const USED_BYTES: usize = 56;
const COPY_AT: usize = 2048;

/// How much is read at a time: large enough for a disk to stream, small enough for a cache.
const READ_BYTES: usize = 1 << 20;

/// The name of a segment's file.
pub(super) fn file_name(id: u64) -> String {
    format!("{id:010}.journal")
}

/// The id of the segment whose file has this name. `None` if it is not a segment.
pub(super) fn id_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    let id = digits.parse().ok()?;
    (id > 0 && file_name(id) == name).then_some(id)
}

/// A damaged place in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The first byte of the damaged header or batch.
    pub offset: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.path.display(), self.offset, self.what)
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The version of the format of its records.
    pub(super) version: u32,
    /// The number in the file's name.
    pub(super) id: u64,
    /// Begins every checksum of the batches.
    pub(super) salt: u64,
    /// The number of the first batch.
    pub(super) first_batch: u64,
    /// The length of the file when this was written.
    pub(super) capacity: u64,
    /// Header checksum of the last batch of the segment before.
    pub(super) previous: u32,
}

/// What a segment's first block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstBlock {
    /// A header.
    Header(Header),
    /// Zeros: no batch has ever been written.
    Unused,
    /// Part of a header that was being written. No batch has ever been written either.
    Begun,
    /// Neither.
    Damaged(&'static str),
    /// The header of a later version of the format.
    Version(u32),
}

impl Header {
    /// The header as bytes.
    pub(super) fn block(&self) -> Vec<u8> {
        let mut block = vec![0; HEADER_BYTES];
        block[0..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&self.version.to_le_bytes());
        block[16..24].copy_from_slice(&self.id.to_le_bytes());
        block[24..32].copy_from_slice(&self.salt.to_le_bytes());
        block[32..40].copy_from_slice(&self.first_batch.to_le_bytes());
        block[40..48].copy_from_slice(&self.capacity.to_le_bytes());
        block[48..52].copy_from_slice(&self.previous.to_le_bytes());
        let sum = crc32fast::hash(&block[..SUM_AT]);
        block[SUM_AT..USED_BYTES].copy_from_slice(&sum.to_le_bytes());
        block.copy_within(..USED_BYTES, COPY_AT);
        block
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Header {
        Header {
            version: u32_at(bytes, 8),
            id: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            first_batch: u64_at(bytes, 32),
            capacity: u64_at(bytes, 40),
            previous: u32_at(bytes, 48),
        }
    }
}

/// Reads the first block of the segment `id`.
pub(super) fn read_first_block(file: &dyn StorageFile, id: u64) -> io::Result<FirstBlock> {
    let mut block = vec![0; HEADER_BYTES];
    if read_full(file, &mut block, 0)? < HEADER_BYTES {
        return Ok(FirstBlock::Damaged("the file is too short for a segment"));
    }
    if is_zero(&block) {
        return Ok(FirstBlock::Unused);
    }
    // The two copies are in two sectors. A power cut during the write may have left one of them only.
    let (first, second) = (&block[..COPY_AT], &block[COPY_AT..]);
    if is_zero(first) != is_zero(second) {
        let there = if is_zero(first) { second } else { first };
        return Ok(match is_header(there) && is_zero(&there[USED_BYTES..]) {
            true => FirstBlock::Begun,
            false => FirstBlock::Damaged("not a segment's header"),
        });
    }
    if !is_header(&block) {
        return Ok(FirstBlock::Damaged("not a segment's header"));
    }
    let version = u32_at(&block, 8);
    if !is_known(version) {
        return Ok(FirstBlock::Version(version));
    }
    let header = Header::read(&block);
    if header.block() != block {
        return Ok(FirstBlock::Damaged("the segment's header has been changed"));
    }
    if header.id != id {
        return Ok(FirstBlock::Damaged("the segment's number is not the one in the file's name"));
    }
    if file.length()? < header.capacity {
        return Ok(FirstBlock::Damaged("the file is shorter than it was"));
    }
    Ok(FirstBlock::Header(header))
}

/// The header in the first block of a file, from either copy: for salvage.
pub(super) fn salvage_header(block: &[u8]) -> Option<Header> {
    let copies = [block.get(..USED_BYTES), block.get(COPY_AT..COPY_AT + USED_BYTES)];
    let found = copies.into_iter().flatten().find(|copy| is_header(copy) && is_known(u32_at(copy, 8)));
    found.map(Header::read)
}

fn is_known(version: u32) -> bool {
    (FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version)
}

fn is_header(bytes: &[u8]) -> bool {
    bytes[..8] == MAGIC && crc32fast::hash(&bytes[..SUM_AT]) == u32_at(bytes, SUM_AT)
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Comparing memory is fast in any build.
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
}

/// A place in the chain of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The number of the next batch.
    pub(super) next: u64,
    /// The header checksum of the last one.
    pub(super) previous: u32,
}

impl Default for Chain {
    /// Before the first batch.
    fn default() -> Chain {
        Chain { next: 1, previous: 0 }
    }
}

/// What is found at an offset where a batch may begin.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A batch with the right checksums, at its place in the chain.
    Batch(Batch<'a>),
    /// Zeros as long as a header, or the end of the file. No batches follow, unless the segment is damaged.
    End,
    /// Part of a batch that was not written completely, or damage.
    Broken(Broken),
}

/// A batch that was read.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    /// Its offset.
    pub(super) offset: u64,
    /// Its header.
    pub(super) header: batch::Header,
    payload: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Its records.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<Record, BadRecord>> + use<'a> {
        Records::new(self.payload)
    }
}

/// A place where there should be a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Its offset.
    pub(super) offset: u64,
    /// What is wrong.
    pub(super) what: &'static str,
    /// Whether a write that a power cut interrupted can have left it.
    pub(super) may_be_torn: bool,
    /// The end of the batch, or of its header if no more is known.
    pub(super) end: u64,
    /// [`batch::Header::alone`], if the header can be read.
    pub(super) alone: Option<bool>,
}

/// Reads a segment's batches one after another.
pub(super) struct Reader {
    file: Arc<dyn StorageFile>,
    length: u64,
    checksum: Checksum,
    /// The offset of the next batch.
    offset: u64,
    chain: Chain,
    buffer: Vec<u8>,
    /// The offset of the buffer's first byte.
    buffer_offset: u64,
    filled: usize,
}

impl Reader {
    /// Begins after the header.
    pub(super) fn new(file: Arc<dyn StorageFile>, header: &Header) -> io::Result<Reader> {
        Ok(Reader {
            length: file.length()?,
            file,
            checksum: Checksum::salted(header.salt),
            offset: HEADER_BYTES as u64,
            chain: Chain { next: header.first_batch, previous: header.previous },
            buffer: Vec::new(),
            buffer_offset: 0,
            filled: 0,
        })
    }

    /// The offset of the next batch, or of the end.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The place in the chain of batches.
    pub(super) fn chain(&self) -> Chain {
        self.chain
    }

    /// The length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Reads what is at the current offset, and moves past it if it is a batch.
    pub(super) fn next(&mut self) -> io::Result<Found<'_>> {
        let offset = self.offset;
        let broken = |what, may_be_torn, end, alone| {
            Ok(Found::Broken(Broken { offset, what, may_be_torn, end, alone }))
        };
        let available = self.fill(batch::HEADER_BYTES)?;
        let window = self.window(available.min(batch::HEADER_BYTES));
        if is_zero(window) {
            return Ok(Found::End);
        }
        let end = offset + window.len() as u64;
        if available < batch::HEADER_BYTES {
            return broken("the file ends inside a batch's header", true, end, None);
        }
        let (header, sum) = match batch::Header::read(self.checksum, window) {
            Ok(read) => read,
            Err(NotHeader::Damaged) => return broken("not a batch's header", true, end, None),
            Err(NotHeader::Unknown) => return broken("an unknown kind of batch", false, end, None),
        };
        if header.number != self.chain.next || header.previous != self.chain.previous {
            return broken("a batch that does not follow the one before it", false, end, None);
        }
        let whole = batch::HEADER_BYTES as u64 + u64::from(header.payload_length);
        let end = offset + whole;
        // Checked before anything is allocated: the length may be wrong.
        if end > self.length {
            return broken("a batch reaches past the end of the file", true, end, Some(header.alone));
        }
        let whole = whole as usize;
        if self.fill(whole)? < whole {
            return broken("a batch reaches past the end of the file", true, end, Some(header.alone));
        }
        if self.checksum.of(&self.window(whole)[batch::HEADER_BYTES..]) != header.payload_checksum {
            return broken("a batch's checksum is wrong", true, end, Some(header.alone));
        }
        self.offset = end;
        self.chain = Chain { next: header.number + 1, previous: sum };
        let start = (offset - self.buffer_offset) as usize;
        let payload = &self.buffer[start + batch::HEADER_BYTES..start + whole];
        Ok(Found::Batch(Batch { offset, header, payload }))
    }

    /// Fills the buffer with `wanted` bytes from the current offset, or as many as the file has. Returns how
    /// many it holds.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        let start = (self.offset - self.buffer_offset) as usize;
        let held = self.filled.saturating_sub(start);
        if held >= wanted {
            return Ok(held);
        }
        let size = wanted.max(READ_BYTES).min(usize::try_from(self.length).unwrap_or(usize::MAX));
        if self.buffer.len() < size {
            let mut larger = vec![0; size];
            larger[..held].copy_from_slice(&self.buffer[self.filled - held..self.filled]);
            self.buffer = larger;
        } else {
            self.buffer.copy_within(self.filled - held..self.filled, 0);
        }
        self.buffer_offset = self.offset;
        let read = read_full(&*self.file, &mut self.buffer[held..], self.offset + held as u64)?;
        self.filled = held + read;
        Ok(self.filled)
    }

    fn window(&self, length: usize) -> &[u8] {
        let start = (self.offset - self.buffer_offset) as usize;
        &self.buffer[start..start + length]
    }
}

/// A buffer for reading a file from `from` to its end.
fn buffer_for(file: &dyn StorageFile, from: u64) -> io::Result<Vec<u8>> {
    let rest = file.length()?.saturating_sub(from);
    Ok(vec![0; READ_BYTES.min(usize::try_from(rest).unwrap_or(READ_BYTES)).max(batch::HEADER_BYTES)])
}

/// The offset of the last byte from `from` on that is not zero.
pub(super) fn last_nonzero(file: &dyn StorageFile, from: u64) -> io::Result<Option<u64>> {
    let mut buffer = buffer_for(file, from)?;
    let mut at = from;
    let mut last = None;
    loop {
        let read = read_full(file, &mut buffer, at)?;
        if read == 0 {
            return Ok(last);
        }
        if !is_zero(&buffer[..read]) {
            last = buffer[..read].iter().rposition(|byte| *byte != 0).map(|index| at + index as u64);
        }
        at += read as u64;
    }
}

/// Looks after a broken batch for the header of a later one that says that the broken one had been durable
/// before. Returns the offset of that header.
///
/// A header alone is proof: at one of 2⁶⁴ offsets its magic and its checksum, which begins with the segment's
/// salt, are both right by chance.
pub(super) fn find_proof_of_damage(
    file: &dyn StorageFile,
    header: &Header,
    broken_number: u64,
    from: u64,
) -> io::Result<Option<u64>> {
    let checksum = Checksum::salted(header.salt);
    let mut buffer = buffer_for(file, from)?;
    let mut at = from;
    loop {
        let read = read_full(file, &mut buffer, at)?;
        if read < batch::HEADER_BYTES {
            return Ok(None);
        }
        for index in 0..=read - batch::HEADER_BYTES {
            let window = &buffer[index..index + batch::HEADER_BYTES];
            if window[..4] == batch::MAGIC
                && let Ok((found, _)) = batch::Header::read(checksum, window)
                && found.durable > broken_number
            {
                return Ok(Some(at + index as u64));
            }
        }
        // The last bytes may begin a header.
        at += (read - batch::HEADER_BYTES + 1) as u64;
    }
}

/// Whether a sector of a broken batch is missing, as a torn write leaves it: a disk writes a sector of 512
/// bytes completely or not at all, and an unwritten sector is zero. A batch without a missing sector was
/// written completely and damaged later.
pub(super) fn lacks_a_sector(file: &dyn StorageFile, broken: &Broken, length: u64) -> io::Result<bool> {
    const SECTOR_BYTES: u64 = 512;
    if broken.end > length {
        return Ok(true);
    }
    let mut at = broken.offset;
    let mut buffer = [0; SECTOR_BYTES as usize];
    while at < broken.end {
        let sector_end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let piece = &mut buffer[..(sector_end.min(broken.end) - at) as usize];
        read_full(file, piece, at)?;
        if is_zero(piece) {
            return Ok(true);
        }
        at = sector_end;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_would_be_written_are_segments() {
        assert_eq!(id_of_name("0000000001.journal"), Some(1));
        assert_eq!(id_of_name("12345678901.journal"), Some(12_345_678_901));
        for name in
            ["0000000000.journal", "1.journal", "00000000001.journal", "0000000001.journal.bak", "LOCK"]
        {
            assert_eq!(id_of_name(name), None, "{name}");
        }
        assert_eq!(id_of_name("+000000001.journal"), None);
    }
}
