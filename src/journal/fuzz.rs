//! The body of a fuzz target: recovery on any bytes.

use std::sync::Arc;

use super::batch::{self, Checksum, Kind};
use super::segment;
use super::storage::SimulatedDisk;
use super::{Fsync, Journal, Options, read, salvage, verify};
use crate::change::Change;
use crate::job::JobId;

const SALT: u64 = 7;

/// Recovers a journal from `data`. Its first byte says how the rest becomes a segment.
///
/// # Panics
/// If recovery, or the recovered journal, does something wrong.
pub fn recover(data: &[u8]) {
    let Some((&way, data)) = data.split_first() else { return };
    let bytes = match way % 4 {
        0 => data.to_vec(),
        1 => [header().block(), data.to_vec()].concat(),
        2 => one_batch(data),
        _ => many_batches(data),
    };
    let disk = SimulatedDisk::new();
    disk.put(&segment::file_name(1), bytes);

    let report = verify(&disk);
    let mut changes = Vec::new();
    let found = read(&disk, &mut |change| changes.push(change));
    assert_eq!(report.damage.is_some(), found.is_err());
    let options =
        Options { fsync: Fsync::Always, segment_bytes: 8 << 10, background: false, ..Options::default() };
    let Ok(found) = found else {
        assert!(Journal::open(Arc::new(disk.fork()), options.clone(), &mut |_| {}).is_err());
        salvage(&disk).map(|salvaged| assert!(salvaged.damaged)).unwrap_or(());
        return;
    };
    // What was read, and what is added now, is there after the next start.
    let (journal, recovered) =
        Journal::open(Arc::new(disk.clone()), options, &mut |_| {}).expect("it can be read");
    assert_eq!(recovered.records, found.records);
    let added = Change::IdsUsed(JobId(u64::MAX));
    journal.wait(journal.append(&added)).expect("the disk is sound");
    changes.push(added);
    let mut again = Vec::new();
    read(&disk, &mut |change| again.push(change)).expect("it was recovered");
    assert_eq!(changes, again);
}

fn header() -> segment::Header {
    segment::Header {
        version: segment::FORMAT_VERSION,
        id: 1,
        salt: SALT,
        first_batch: 1,
        capacity: 0,
        previous: 0,
    }
}

/// A segment with one batch that holds `payload`.
fn one_batch(payload: &[u8]) -> Vec<u8> {
    let mut bytes = header().block();
    let records = payload.first().map_or(0, |first| u32::from(first >> 4));
    append_batch(payload, records, 1, 0, &mut bytes);
    bytes
}

/// A segment with a batch for each piece of `data`. The first byte of a piece is its length.
fn many_batches(mut data: &[u8]) -> Vec<u8> {
    let mut bytes = header().block();
    let (mut number, mut previous) = (1, 0);
    while let Some((&length, rest)) = data.split_first() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(length)));
        data = rest;
        previous = append_batch(payload, u32::from(length) % 3, number, previous, &mut bytes);
        number += 1;
    }
    bytes
}

fn append_batch(payload: &[u8], records: u32, number: u64, previous: u32, bytes: &mut Vec<u8>) -> u32 {
    let checksum = Checksum::salted(SALT);
    let header = batch::Header {
        payload_length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        number,
        durable: number,
        records,
        kind: Kind::Data,
        alone: true,
        previous,
        payload_checksum: checksum.of(payload),
    };
    let start = bytes.len();
    bytes.extend_from_slice(&[0; batch::HEADER_BYTES]);
    bytes.extend_from_slice(payload);
    header.write(checksum, &mut bytes[start..start + batch::HEADER_BYTES])
}
