//! A damaged journal: every truncation, every flipped bit, missing and unknown files. What is restored is an
//! exact prefix of what was written, or opening fails and says where.
#![allow(clippy::disallowed_methods)]

mod journal_common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use djqs::internal::change::{BatchCounts, Change, JobSpec, PauseState, Place};
use djqs::internal::journal::storage::{CrashPlan, SimulatedDisk, Storage};
use djqs::internal::journal::{Fsync, Journal, OpenError, Options, Recovered, read, salvage, verify};
use djqs::job::{Attempt, AttemptEnd, BatchName, JobId, QueueName, WorkerName};
use journal_common::{History, Owner, Random, World, exhaustive, in_line, job, random_change, spec, status};

const HEADER_BYTES: usize = 4096;
const BATCH_HEADER_BYTES: usize = 44;

/// A journal that holds every kind of record, and was not closed.
struct Corpus {
    disk: SimulatedDisk,
    history: History,
    /// How many changes there were before the last batch.
    before_last: usize,
    world: World,
}

impl Corpus {
    fn last_id(&self) -> u64 {
        segments(&self.disk).last().unwrap()[..10].parse().unwrap()
    }
}

fn options() -> Options {
    Options { segment_bytes: 32 << 10, ..in_line(Fsync::Always) }
}

fn corpus() -> Corpus {
    let disk = SimulatedDisk::new();
    let (owner, _) = Owner::open(Arc::new(disk.clone()), options()).unwrap();
    let mut random = Random(43);
    let mut history = History::default();
    let mut before_last = 0;
    let change = |history: &mut History, owner: &Owner, change: Change| {
        let position = owner.change(&change);
        history.changes.push(change);
        position
    };
    while history.changes.len() < 330 || used_bytes(&disk) < 80 << 10 {
        let next = {
            let world = owner.world.lock().unwrap();
            random_change(&mut random, &world, 2000)
        };
        let position = change(&mut history, &owner, next);
        if random.below(3) == 0 {
            owner.wait(position).unwrap();
        }
        if random.below(20) == 0 {
            owner.journal.compact().unwrap();
        }
    }
    owner.journal.close().unwrap();
    drop(owner);
    let (owner, _) = Owner::open(Arc::new(disk.clone()), options()).unwrap();
    for _ in 0..3 {
        before_last = history.changes.len();
        // More than a sector, so that it can be torn.
        let world = owner.world.lock().unwrap().clone();
        let position = change(&mut history, &owner, job(world.highest_id + 1, &[b'w'; 1500]));
        owner.wait(position).unwrap();
    }
    history.acknowledged = history.changes.len();
    let world = owner.world.lock().unwrap().clone();
    Corpus { disk, history, before_last, world }
}

/// The segments that hold batches.
fn segments(disk: &SimulatedDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| disk.contents(name).unwrap()[..8] == *b"DJQSjrnl");
    names.sort();
    names
}

/// The offsets of a segment's batches, and of the end of the last one.
fn batches(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEADER_BYTES];
    loop {
        let at = *starts.last().unwrap();
        if bytes.get(at..at + 4) != Some(b"DJQb") {
            return starts;
        }
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        starts.push(at + BATCH_HEADER_BYTES + length);
    }
}

fn used_bytes(disk: &SimulatedDisk) -> usize {
    segments(disk).iter().map(|name| *batches(&disk.contents(name).unwrap()).last().unwrap()).sum()
}

fn recover(disk: &SimulatedDisk) -> (Result<Recovered, OpenError>, World) {
    let mut world = World::default();
    let recovered = read(disk, &mut |change| world.apply(change));
    (recovered, world)
}

#[test]
fn the_corpus_holds_every_kind_of_record_in_64_kib() {
    let corpus = corpus();
    assert!(used_bytes(&corpus.disk) >= 64 << 10);
    assert!(segments(&corpus.disk).len() >= 3);
    let mut kinds = BTreeSet::new();
    let mut statuses = Vec::new();
    let recovered = read(&corpus.disk, &mut |change| {
        kinds.insert(match &change {
            Change::Job(..) => "job",
            Change::Status(..) => "status",
            Change::Done(..) => "done",
            Change::Gone(_) => "gone",
            Change::GoneOf(..) => "gone of a batch",
            Change::Batch(_) => "batch",
            Change::Attempt(..) => "attempt",
            Change::Pause(..) => "pause",
            Change::IdsUsed(_) => "ids used",
        });
        if let Change::Job(_, status) | Change::Status(_, status) = change {
            statuses.push(status);
        }
    });
    assert_eq!(kinds.len(), 9);
    assert!(
        statuses.iter().any(|status| matches!(status.place, Place::Dead { .. }) && status.reason.is_some())
    );
    // Compaction adds one that says which segments were dropped.
    assert!(segments(&corpus.disk)[0] != "0000000001.journal");
    assert_eq!(recovered.unwrap().torn, None);
    assert_eq!(recover(&corpus.disk).1, corpus.world);
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let corpus = corpus();
    let names = segments(&corpus.disk);
    let mut cut = 0;
    for name in &names {
        let bytes = corpus.disk.contents(name).unwrap();
        let starts = batches(&bytes);
        let end = *starts.last().unwrap();
        let last_batch = if name == names.last().unwrap() { starts[starts.len() - 2] } else { usize::MAX };
        for byte in 0..bytes.len() {
            let start = starts.iter().rev().find(|start| **start <= byte).copied().unwrap_or(0);
            // One bit of each byte of headers and of the last batch, and of some other bytes; all bits if
            // there is time.
            let in_header = byte < 64 || (start > 0 && byte < start + BATCH_HEADER_BYTES);
            let last = byte >= last_batch && byte < end;
            if !exhaustive() && !in_header && !last && byte % 23 != 0 {
                continue;
            }
            let some = (byte as u32).wrapping_mul(5) % 8;
            for bit in if exhaustive() { 0..8 } else { some..some + 1 } {
                corpus.disk.flip(name, byte, bit);
                let (recovered, world) = recover(&corpus.disk);
                corpus.disk.flip(name, byte, bit);
                let place = format!("{name}, byte {byte}, bit {bit}");
                match recovered {
                    Err(OpenError::Damaged(damage)) => {
                        assert!(damage.path.ends_with(name), "{place}: {damage}");
                        assert_eq!(damage.offset, start as u64, "{place}: {damage}");
                    }
                    Err(OpenError::Version { path, .. }) => panic!("{place}: {}", path.display()),
                    Err(e) => panic!("{place}: {e}"),
                    Ok(recovered) if byte >= end => {
                        // After the last batch there is nothing of value.
                        assert!(name == names.last().unwrap() && recovered.torn.is_some(), "{place}");
                        assert_eq!(world, corpus.world, "{place}");
                    }
                    Ok(recovered) => {
                        // The last batch may look torn, but only if it lacks a sector.
                        assert!(last && recovered.torn.is_some(), "{place}");
                        let count = corpus.history.check(&world, corpus.before_last).expect(&place);
                        assert_eq!(count, corpus.before_last, "{place}");
                        cut += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cut, 0, "a batch that has all its sectors was not torn");
}

#[test]
fn every_truncation_is_found() {
    let corpus = corpus();
    for name in segments(&corpus.disk) {
        let bytes = corpus.disk.contents(&name).unwrap();
        let step = if exhaustive() { 1 } else { 29 };
        for length in (0..bytes.len()).step_by(step) {
            corpus.disk.put(&name, bytes[..length].to_vec());
            match recover(&corpus.disk).0 {
                Err(OpenError::Damaged(damage)) => {
                    assert!(damage.path.ends_with(&name), "{length}: {damage}")
                }
                other => panic!("{name} cut to {length}: {other:?}"),
            }
        }
        corpus.disk.put(&name, bytes);
    }
    assert_eq!(recover(&corpus.disk).1, corpus.world);
}

#[test]
fn missing_segment_is_named() {
    let corpus = corpus();
    let names = segments(&corpus.disk);
    // A server always has a file of zeros after the last segment. Without it a missing segment would not be
    // noticed.
    corpus.disk.put(&format!("{:010}.journal", corpus.last_id() + 1), vec![0; 32 << 10]);
    for name in &names {
        let bytes = corpus.disk.contents(name).unwrap();
        corpus.disk.take(name);
        let (recovered, _) = recover(&corpus.disk);
        match recovered {
            Err(OpenError::Missing { path }) => assert!(path.ends_with(name)),
            other => panic!("{name}: {other:?}"),
        }
        corpus.disk.put(name, bytes);
    }
}

#[test]
fn torn_batch_is_cut_off_and_kept_whichever_sectors_are_missing() {
    let disk = SimulatedDisk::new();
    let (owner, _) = Owner::open(Arc::new(disk.clone()), in_line(Fsync::Never)).unwrap();
    let mut history = History::default();
    let before = job(1, b"before");
    owner.journal.sync(owner.change(&before)).unwrap();
    history.changes.push(before);
    // Eight sectors or nine.
    let torn = job(2, &(0..4100_u32).map(|n| (n % 251) as u8 + 1).collect::<Vec<_>>());
    owner.wait(owner.change(&torn)).unwrap();
    history.changes.push(torn);
    let sectors = disk.dirty_sectors();
    assert!((8..=10).contains(&sectors), "{sectors}");
    let whole = (1 << sectors) - 1;
    for bits in 0..=whole {
        let crashed = disk.crash(CrashPlan::Sectors(bits));
        let mut world = World::default();
        let (journal, recovered) =
            Journal::open(Arc::new(crashed.clone()), in_line(Fsync::Always), &mut |change| {
                world.apply(change)
            })
            .unwrap();
        let expected = if bits == whole { 2 } else { 1 };
        assert_eq!(history.check(&world, 1), Ok(expected), "sectors {bits:b}");
        assert_eq!(recovered.torn.is_some(), bits != 0 && bits != whole, "sectors {bits:b}");
        if let Some(torn) = &recovered.torn {
            let kept = torn.kept.as_ref().unwrap().file_name().unwrap().to_str().unwrap();
            assert_eq!(crashed.contents(kept).unwrap().len() as u64, torn.to - torn.from);
        }
        // It continues from there.
        let after = job(3, b"after");
        journal.wait(journal.append(&after)).unwrap();
        world.apply(after);
        let (recovered, again) = recover(&crashed.crash(CrashPlan::Nothing));
        assert_eq!((recovered.unwrap().torn, again), (None, world), "sectors {bits:b}");
    }
}

#[test]
fn unknown_files_are_left_alone() {
    let corpus = corpus();
    let foreign =
        ["notes.txt", "0000000001.journal.bak", "0000000009.00000000000000aa.new", "1.journal", "lock"];
    for name in foreign {
        corpus.disk.put(name, b"not ours".to_vec());
    }
    // Zeros that were to become a segment, from a server that was killed.
    corpus.disk.put("0000000009.00000000000000ab.new", vec![0; 5000]);
    let (owner, _) = Owner::open(Arc::new(corpus.disk.clone()), options()).unwrap();
    owner.journal.close().unwrap();
    for name in foreign {
        assert_eq!(corpus.disk.contents(name).as_deref(), Some(&b"not ours"[..]), "{name}");
    }
    assert_eq!(corpus.disk.contents("0000000009.00000000000000ab.new"), None);
}

#[test]
fn later_version_is_refused_by_its_number() {
    let corpus = corpus();
    let name = segments(&corpus.disk)[1].clone();
    let mut bytes = corpus.disk.contents(&name).unwrap();
    bytes[8] = 3;
    let sum = crc32fast::hash(&bytes[..52]);
    bytes[52..56].copy_from_slice(&sum.to_le_bytes());
    corpus.disk.put(&name, bytes);
    let refused = recover(&corpus.disk).0.unwrap_err().to_string();
    assert!(
        refused.contains(&name) && refused.contains("version 3") && refused.contains("newer"),
        "{refused}"
    );
}

#[test]
fn salvage_keeps_all_that_can_be_read_and_the_originals() {
    let corpus = corpus();
    let names = segments(&corpus.disk);
    let name = &names[names.len() / 2];
    let bytes = corpus.disk.contents(name).unwrap();
    let starts = batches(&bytes);
    let damaged = (starts.len() / 2..).find(|&batch| starts[batch + 1] - starts[batch] > 100).unwrap();
    let mut changes = Vec::new();
    read(&corpus.disk, &mut |change| changes.push(change)).unwrap();
    // A bit of a payload, a bit of a header, the first copy of a segment's header.
    for (byte, lost_batch) in [(starts[damaged] + 60, true), (starts[damaged] + 5, true), (17, false)] {
        let disk = corpus.disk.fork();
        disk.flip(name, byte, 3);
        let before = disk.contents(name).unwrap();
        assert!(matches!(recover(&disk).0, Err(OpenError::Damaged(_))));
        let salvaged = salvage(&disk).unwrap();
        assert!(salvaged.damaged);
        assert_eq!(salvaged.damage.len(), 1, "{:?}", salvaged.damage);
        assert!(salvaged.damage[0].path.ends_with(name));
        let lost = (starts[damaged + 1] - starts[damaged]) as u64;
        assert_eq!(salvaged.lost_bytes, if lost_batch { lost } else { 0 });
        assert_eq!(salvaged.originals.len(), names.len());
        assert_eq!(disk.contents(&format!("{name}.damaged")), Some(before));

        let mut kept = Vec::new();
        let recovered = read(&disk, &mut |change| kept.push(change)).unwrap();
        assert_eq!(recovered.torn, None);
        // All changes are left except a few consecutive ones.
        let same = kept.iter().zip(&changes).take_while(|(kept, change)| kept == change).count();
        assert!(kept[same..] == changes[changes.len() - (kept.len() - same)..]);
        assert_eq!(kept.len() < changes.len(), lost_batch);
        // It opens and continues.
        let (owner, _) = Owner::open(Arc::new(disk.clone()), options()).unwrap();
        owner.wait(owner.change(&job(9999, b"after"))).unwrap();
        assert!(!salvage(&disk).unwrap().damaged, "a sound journal is not touched");
    }
}

#[test]
fn salvage_can_be_interrupted_and_started_again() {
    use djqs::internal::journal::storage::Fault;
    let corpus = corpus();
    let names = segments(&corpus.disk);
    let start = batches(&corpus.disk.contents(&names[1]).unwrap())[3];
    corpus.disk.flip(&names[1], start + 50, 1);
    let whole = corpus.disk.fork();
    salvage(&whole).unwrap();
    let expected = recover(&whole).1;
    for operation in 0..whole.operation_count() {
        let disk = corpus.disk.fork();
        disk.fault_at(operation, Fault::End(1000));
        salvage(&disk).unwrap_err();
        for plan in [CrashPlan::Nothing, CrashPlan::Everything, CrashPlan::Random(operation)] {
            let crashed = disk.crash(plan);
            let (recovered, world) = recover(&crashed);
            if recovered.is_ok() {
                assert_eq!(world, expected, "operation {operation}, {plan:?}");
            }
            salvage(&crashed).unwrap();
            assert_eq!(recover(&crashed).1, expected, "operation {operation}, {plan:?}");
        }
    }
}

#[test]
fn verify_reports_jobs_bytes_and_the_first_damage() {
    let corpus = corpus();
    let report = verify(&corpus.disk);
    assert!(report.damage.is_none() && report.torn.is_none() && !report.clean);
    assert_eq!(report.jobs, corpus.world.jobs.len() as u64);
    assert_eq!(report.highest_id, corpus.world.highest_id);
    assert_eq!(report.live_bytes, corpus.world.live().bytes);
    assert_eq!(report.live_bytes + report.dead_bytes, used_bytes(&corpus.disk) as u64);
    let operations = corpus.disk.operation_count();

    let name = &segments(&corpus.disk)[1];
    let start = batches(&corpus.disk.contents(name).unwrap())[2];
    corpus.disk.flip(name, start + 50, 0);
    let report = verify(&corpus.disk);
    // The damaged segment is one of those that were read.
    assert_eq!(report.segments, 2);
    match report.damage {
        Some(OpenError::Damaged(damage)) => {
            assert!(damage.path.ends_with(name) && damage.offset == start as u64);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(corpus.disk.operation_count(), operations, "nothing was changed");
}

#[test]
fn recovery_accepts_any_bytes() {
    let mut random = Random(11);
    let corpus = corpus();
    let real = corpus.disk.contents(&segments(&corpus.disk)[0]).unwrap();
    let real_batch = batches(&real)[0];
    for round in 0..if exhaustive() { 100_000 } else { 2_000 } {
        let length = random.below(600) as usize;
        let mut data: Vec<u8> = match random.below(3) {
            0 => (0..length).map(|_| random.next() as u8).collect(),
            1 => (0..length).map(|_| (random.next() % 8) as u8).collect(),
            _ => {
                let from = real_batch + random.below(3000) as usize;
                real[from..from + length].to_vec()
            }
        };
        data.insert(0, round as u8);
        djqs::internal::journal::fuzz::recover(&data);
    }
}

#[test]
fn a_directory_of_version_2_is_pinned_byte_by_byte() {
    let disk = SimulatedDisk::new();
    let pinned_options = Options { salt: Some(0x0102_0304_0506_0708), ..in_line(Fsync::Always) };
    let (journal, _) = Journal::open(Arc::new(disk.clone()), pinned_options, &mut |_| {}).unwrap();
    let queue = QueueName::new("mail").unwrap();
    let name = BatchName::new("night").unwrap();
    let spec = JobSpec { keep: Duration::from_secs(60), batch: Some(name.clone()), ..spec(2, b"work") };
    let done = Place::Done { until_wall_ms: 1_700_000_000_000, ran_ms: 1500, result_dropped: false };
    let counts = BatchCounts { name, done: 1, cancelled: 0, deleted: 0, changed_wall_ms: 1_700_000_000_000 };
    let attempt = Attempt {
        number: 1,
        worker: Some(WorkerName::new("w1").unwrap()),
        started_ms: 1_700_000_000_000,
        ended_ms: 1_700_000_001_000,
        end: AttemptEnd::Failed,
        reason: Some("no".into()),
    };
    for change in [
        job(1, b"work"),
        Change::Status(JobId(1), status(Place::Dead { dead_seq: 1 })),
        Change::Job(spec, status(Place::Ready)),
        Change::Attempt(JobId(2), attempt),
        Change::Done(JobId(2), status(done), b"result"[..].into()),
        Change::GoneOf(JobId(2), counts.clone()),
        Change::Status(JobId(1), status(Place::Cancelled { until_wall_ms: 1_700_000_000_000 })),
        Change::Pause(queue, PauseState::Paused),
        Change::Gone(JobId(1)),
        Change::Batch(counts),
        Change::IdsUsed(JobId(2)),
    ] {
        journal.wait(journal.append(&change)).unwrap();
    }
    journal.close().unwrap();
    let bytes = disk.contents("0000000001.journal").unwrap();
    assert_eq!(bytes.len(), 8192);
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let header = hex(&bytes[..56]);
    assert_eq!(header, hex(&bytes[2048..2104]));
    let written = format!("{header}\n{}", hex(&bytes[HEADER_BYTES..end]));
    if std::env::var_os("DJQS_PIN").is_some() {
        std::fs::write(pinned_path(2), &written).unwrap();
    }
    assert_eq!(
        written,
        std::fs::read_to_string(pinned_path(2)).unwrap().trim_end(),
        "the format has changed: it needs a new version, and this one must be read"
    );
    let (recovered, world) = recover(&pinned(2));
    let recovered = recovered.unwrap();
    assert!(recovered.clean && recovered.records == 11 && recovered.highest_id == 2);
    assert!(world.jobs.is_empty() && world.paused.len() == 1 && world.batches.len() == 1);
}

#[test]
fn a_directory_of_version_1_is_read_and_continued_in_a_segment_of_version_2() {
    let disk = pinned(1);
    let (recovered, world) = recover(&disk);
    let recovered = recovered.unwrap();
    assert!(recovered.clean && recovered.records == 5 && recovered.highest_id == 1);
    assert!(world.jobs.is_empty() && world.paused.len() == 1);

    let before = disk.contents("0000000001.journal").unwrap();
    let (journal, _) = Journal::open(Arc::new(disk.clone()), in_line(Fsync::Always), &mut |_| {}).unwrap();
    journal.wait(journal.append(&job(2, b"more"))).unwrap();
    journal.close().unwrap();
    assert_eq!(disk.contents("0000000001.journal").unwrap(), before, "an older program can still read it");
    assert_eq!(disk.contents("0000000002.journal").unwrap()[8], 2, "its version");
    let (recovered, world) = recover(&disk);
    assert!(recovered.unwrap().clean && world.jobs.len() == 1);
}

fn pinned_path(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/journal_version_{version}.hex"))
}

/// A disk with a journal as a program of that version wrote it.
fn pinned(version: u32) -> SimulatedDisk {
    let pinned = std::fs::read_to_string(pinned_path(version)).unwrap();
    let mut lines = pinned.lines().map(unhex);
    let mut bytes = vec![0; 8192];
    let header = lines.next().unwrap();
    bytes[..56].copy_from_slice(&header);
    bytes[2048..2104].copy_from_slice(&header);
    let batches = lines.next().unwrap();
    bytes[HEADER_BYTES..HEADER_BYTES + batches.len()].copy_from_slice(&batches);
    let disk = SimulatedDisk::new();
    disk.put("0000000001.journal", bytes);
    disk
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
