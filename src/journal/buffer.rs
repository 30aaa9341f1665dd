//! What was appended and is not written yet.

use std::collections::VecDeque;

use super::batch;

/// A batch takes no more records once it has this many bytes: enough to keep a disk busy, few enough that the
/// first waiting clients do not wait for the last.
pub(super) const BATCH_BYTES: usize = 256 << 10;

/// Buffers of written batches that are kept for the next ones. After a burst the rest are freed.
const BLANKS_MAX: usize = 16;

/// A place in the journal: all changes up to one of them. Counts from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub(super) u64);

/// How long a record is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// As long as what it is about exists.
    Long,
    /// Until its job is written again as a whole.
    UntilRewritten,
}

/// Records that will be one batch.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Room for the batch's header, then the records.
    pub(super) bytes: Vec<u8>,
    pub(super) records: u32,
    /// The position of the last of them.
    pub(super) last: u64,
}

/// The chunks that wait to be written, in order. The last one is being filled.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    chunks: VecDeque<Chunk>,
    /// Buffers of written chunks, for the next ones.
    blanks: Vec<Vec<u8>>,
}

impl Buffer {
    /// Appends the record that `encode` writes, at this position, to a chunk that is shorter than `limit`.
    /// Returns by how many bytes the chunk has grown.
    pub(super) fn append(&mut self, position: u64, limit: usize, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.chunks.back().is_none_or(|chunk| chunk.bytes.len() >= limit) {
            let mut bytes = self.blanks.pop().unwrap_or_default();
            bytes.clear();
            bytes.resize(batch::HEADER_BYTES, 0);
            self.chunks.push_back(Chunk { bytes, records: 0, last: 0 });
        }
        let chunk = self.chunks.back_mut().expect("one was just added");
        // The first record of a batch also counts for the header.
        let before = if chunk.records == 0 { 0 } else { chunk.bytes.len() };
        encode(&mut chunk.bytes);
        chunk.records += 1;
        chunk.last = position;
        (chunk.bytes.len() - before) as u64
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Takes the chunk that is to be written next.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        self.chunks.pop_front()
    }

    /// Keeps the buffer of a written chunk, unless there are enough or it is unusually large.
    pub(super) fn recycle(&mut self, bytes: Vec<u8>) {
        if self.blanks.len() < BLANKS_MAX && bytes.capacity() <= 2 * BATCH_BYTES {
            self.blanks.push(bytes);
        }
    }

    /// Drops everything. Returns how many bytes that was.
    pub(super) fn clear(&mut self) -> u64 {
        self.chunks.drain(..).map(|chunk| chunk.bytes.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_burst_are_not_kept() {
        let mut buffer = Buffer::default();
        for _ in 0..100 {
            buffer.recycle(Vec::with_capacity(BATCH_BYTES));
        }
        assert_eq!(buffer.blanks.len(), BLANKS_MAX);
        buffer.blanks.clear();
        buffer.recycle(Vec::with_capacity(16 << 20));
        assert!(buffer.blanks.is_empty());
    }
}
