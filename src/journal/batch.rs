//! Batches: what one write puts into a segment, a header and then records end to end.
//!
//! ```text
//!  0  magic              4  "DJQb"
//!  4  payload length     4
//!  8  number             8  counts up by one over all segments
//! 16  durable            8  every batch with a lower number was durable before this one was written
//! 24  records            4
//! 28  kind               1  1 data, 2 opened, 3 closed
//! 29  flags              1  bit 0: the batch before it was durable by then (policy `always`)
//! 30  zero               2
//! 32  previous           4  header checksum of the batch before it
//! 36  payload checksum   4
//! 40  header checksum    4  of the 40 bytes before it
//! 44  payload
//! ```
//! Integers are little-endian. Both checksums are CRC-32 (ISO-HDLC, as in zip and Ethernet) of the segment's
//! salt followed by the bytes. The header's checksum covers the payload's checksum and the previous batch's,
//! so the newest one proves every byte before it.

/// The bytes of a batch's header.
pub(super) const HEADER_BYTES: usize = 44;

/// What a batch begins with.
pub(super) const MAGIC: [u8; 4] = *b"DJQb";

const FLAG_ALONE: u8 = 1;

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Holds records.
    Data,
    /// Written when recovery is complete and everything before it is durable. Holds no records.
    Opened,
    /// The clean mark: the last batch of a server that stopped gracefully. Holds no records.
    Closed,
}

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of records that follow.
    pub(super) payload_length: u32,
    /// Its number. The first batch has number 1.
    pub(super) number: u64,
    /// Every batch with a lower number was durable before this one was written.
    pub(super) durable: u64,
    /// How many records follow.
    pub(super) records: u32,
    /// What it is for.
    pub(super) kind: Kind,
    /// Whether the policy allowed one batch at a time to be written but not durable.
    pub(super) alone: bool,
    /// The header checksum of the batch before it.
    pub(super) previous: u32,
    /// The checksum of what follows.
    pub(super) payload_checksum: u32,
}

/// Why bytes are not a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotHeader {
    /// The magic or the checksum is wrong.
    Damaged,
    /// The checksum is right, but a field has a value that version 1 does not know.
    Unknown,
}

/// A segment's checksum: CRC-32, begun with the segment's salt.
///
/// Because of the salt, bytes of another segment, or a body that looks like a batch, never pass for a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checksum {
    initial: u32,
}

impl Checksum {
    /// The checksum of a segment with that salt.
    pub(super) fn salted(salt: u64) -> Checksum {
        Checksum { initial: crc32fast::hash(&salt.to_le_bytes()) }
    }

    /// The checksum of `bytes`.
    pub(super) fn of(self, bytes: &[u8]) -> u32 {
        let mut hasher = self.begin();
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Begins a checksum of bytes that come in pieces.
    pub(super) fn begin(self) -> crc32fast::Hasher {
        crc32fast::Hasher::new_with_initial(self.initial)
    }
}

impl Header {
    /// Writes the header into the first [`HEADER_BYTES`] of `out`, and returns its checksum.
    pub(super) fn write(&self, checksum: Checksum, out: &mut [u8]) -> u32 {
        let kind = match self.kind {
            Kind::Data => 1,
            Kind::Opened => 2,
            Kind::Closed => 3,
        };
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&self.payload_length.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.durable.to_le_bytes());
        out[24..28].copy_from_slice(&self.records.to_le_bytes());
        out[28] = kind;
        out[29] = if self.alone { FLAG_ALONE } else { 0 };
        out[30..32].fill(0);
        out[32..36].copy_from_slice(&self.previous.to_le_bytes());
        out[36..40].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let sum = checksum.of(&out[..40]);
        out[40..44].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// Reads the header at the front of `bytes`, of which there are at least [`HEADER_BYTES`], and its
    /// checksum.
    pub(super) fn read(checksum: Checksum, bytes: &[u8]) -> Result<(Header, u32), NotHeader> {
        let sum = u32_at(bytes, 40);
        if bytes[..4] != MAGIC || checksum.of(&bytes[..40]) != sum {
            return Err(NotHeader::Damaged);
        }
        let kind = match bytes[28] {
            1 => Kind::Data,
            2 => Kind::Opened,
            3 => Kind::Closed,
            _ => return Err(NotHeader::Unknown),
        };
        if bytes[29] & !FLAG_ALONE != 0 || bytes[30..32] != [0, 0] {
            return Err(NotHeader::Unknown);
        }
        let header = Header {
            payload_length: u32_at(bytes, 4),
            number: u64_at(bytes, 8),
            durable: u64_at(bytes, 16),
            records: u32_at(bytes, 24),
            kind,
            alone: bytes[29] & FLAG_ALONE != 0,
            previous: u32_at(bytes, 32),
            payload_checksum: u32_at(bytes, 36),
        };
        Ok((header, sum))
    }
}

/// The little-endian integer at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// The little-endian integer at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}
