//! The size of the journal with its threads: compaction while others write, and a disk that fills up.
#![allow(clippy::disallowed_methods)]

mod journal_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use djqs::internal::change::{Change, JobStatus, Place};
use djqs::internal::journal::storage::{CrashPlan, Operation, OperationKind, SimulatedDisk};
use djqs::internal::journal::{Fsync, Options, Room};
use djqs::job::{Counts, JobId};
use journal_common::{
    History, Owner, Random, SEGMENT_BYTES, World, eventually, exhaustive, in_line, job, open, options, status,
};

fn assert_bounded(owner: &Owner) {
    let stats = owner.journal.stats();
    let bound = 3 * stats.live_bytes + 4 * SEGMENT_BYTES;
    assert!(stats.total_bytes <= bound, "{} bytes, {} at most: {stats:?}", stats.total_bytes, bound);
}

/// Repeats a change in four threads, which check the journal's size after each.
fn stays_bounded(fsync: Fsync, mut prepare: impl FnMut(&Owner), step: impl Fn(&World, u64) -> Change + Sync) {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, fsync);
    prepare(&owner);
    let segments_written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (owner, step, segments_written) = (&owner, &step, &segments_written);
            scope.spawn(move || {
                for number in 0..1000 {
                    let position = owner.change_as(|world| Some(step(world, number * 4 + thread))).unwrap();
                    owner.wait(position).unwrap();
                    assert_bounded(owner);
                }
                segments_written.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_bounded(&owner);
    // With nothing more to do, the journal shrinks to what compaction aims at.
    eventually("compaction ends", || {
        let stats = owner.journal.stats();
        stats.live_bytes + stats.dead_bytes <= stats.live_bytes / 2 * 5 + SEGMENT_BYTES
    });
    assert_bounded(&owner);
    let world = owner.world.lock().unwrap().clone();
    let written = owner.journal.stats().records;
    assert!(written > 4000, "{written}");
    drop(owner);
    let reopened = open(&disk.crash(CrashPlan::Nothing), fsync);
    if fsync == Fsync::Always {
        assert_eq!(*reopened.world.lock().unwrap(), world);
    }
}

#[test]
fn journal_stays_bounded_if_jobs_are_delayed_again_and_again() {
    let prepare = |owner: &Owner| {
        for id in 1..=20 {
            owner.change(&job(id, &[1; 100]));
        }
    };
    stays_bounded(Fsync::Always, prepare, |_, number| {
        let place = Place::Delayed { until_wall_ms: 1_700_000_000_000 + number };
        Change::Status(JobId(number % 20 + 1), status(place))
    });
}

#[test]
fn journal_stays_bounded_if_jobs_fail_with_long_reasons() {
    let prepare = |owner: &Owner| {
        for id in 1..=50 {
            owner.change(&job(id, &[1; 30]));
        }
    };
    stays_bounded(Fsync::Never, prepare, |_, number| {
        let counts = Counts { failures: number as u32, ..Counts::default() };
        // Each job has a length of its own: live bytes must not change while others check the bound.
        let id = number % 50 + 1;
        let reason = Some(format!("it went wrong {number:05}").repeat((id * 37 % 40) as usize).into());
        Change::Status(JobId(id), JobStatus { counts, reason, ..status(Place::Ready) })
    });
}

#[test]
fn journal_stays_bounded_if_some_jobs_stay_long() {
    let step = |world: &World, number: u64| match number % 10 {
        // One in five stays.
        0..5 => job(world.highest_id + 1, &[2; 200]),
        _ => match world.jobs.keys().rev().find(|id| **id % 5 != 0) {
            Some(id) => Change::Gone(JobId(*id)),
            None => job(world.highest_id + 1, &[2; 200]),
        },
    };
    stays_bounded(Fsync::Interval(Duration::from_millis(3)), |_| {}, step);
}

/// A crash between a copy by compaction and the removal of the original leaves both.
#[test]
fn journal_with_many_copies_of_each_job_shrinks_to_one_of_each() {
    let disk = SimulatedDisk::new();
    let owner = Owner::open(Arc::new(disk.clone()), in_line(Fsync::Always)).unwrap().0;
    for _ in 0..8 {
        for id in 1..=200 {
            owner.change(&job(id, &[4; 300]));
        }
    }
    owner.wait(owner.journal.appended()).unwrap();
    drop(owner);
    let owner = open(&disk.crash(CrashPlan::Nothing), Fsync::Always);
    eventually("compaction ends", || {
        let stats = owner.journal.stats();
        stats.live_bytes + stats.dead_bytes <= stats.live_bytes / 2 * 5 + SEGMENT_BYTES
    });
    let world = owner.world.lock().unwrap().clone();
    assert_eq!(world.jobs.len(), 200);
    eventually("the reserve is as small as it should be", || {
        let stats = owner.journal.stats();
        stats.total_bytes <= 3 * stats.live_bytes + 4 * SEGMENT_BYTES
    });
    drop(owner);
    let reopened = open(&disk.crash(CrashPlan::Nothing), Fsync::Always);
    assert_eq!(reopened.world.lock().unwrap().jobs, world.jobs);
}

/// The newest segment has room when a round begins, so that the round's first copies are written into it.
/// They are the only ones when the round empties it at its end.
#[test]
fn copies_in_the_segment_that_ends_a_round_are_copied_again() {
    let disk = SimulatedDisk::new();
    let owner = Owner::open(Arc::new(disk.clone()), in_line(Fsync::Always)).unwrap().0;
    for id in 1..=240 {
        owner.change(&job(id, &[5; 300]));
    }
    for id in 41..=240 {
        owner.change(&Change::Gone(JobId(id)));
    }
    owner.wait(owner.journal.appended()).unwrap();
    drop(owner);
    let options = Options { background: true, ..in_line(Fsync::Always) };
    let disk = disk.crash(CrashPlan::Nothing);
    let owner = Owner::open(Arc::new(disk.clone()), options.clone()).unwrap().0;
    let newest = owner.journal.stats().newest_segment;
    let mut number = 0;
    // Until everything that was there has been emptied, the newest segment too.
    while owner.journal.stats().oldest_segment <= newest {
        assert!(number < 100_000, "{:?}", owner.journal.stats());
        number += 1;
        let place = Place::Delayed { until_wall_ms: 1_700_000_000_000 + number };
        let position = owner.change(&Change::Status(JobId(number % 40 + 1), status(place)));
        owner.wait(position).unwrap();
    }
    let world = owner.world.lock().unwrap().clone();
    assert_eq!(world.jobs.len(), 40);
    drop(owner);
    let reopened = Owner::open(Arc::new(disk.crash(CrashPlan::Nothing)), options).unwrap().0;
    assert_eq!(reopened.world.lock().unwrap().jobs, world.jobs);
}

#[test]
fn journal_of_finished_jobs_shrinks_without_traffic() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    for id in 1..=500 {
        owner.change(&job(id, &[3; 300]));
    }
    owner.wait(owner.journal.appended()).unwrap();
    assert!(owner.journal.stats().segments > 4);
    let mut last = owner.journal.appended();
    for id in 1..=500 {
        last = owner.change(&Change::Gone(JobId(id)));
    }
    owner.wait(last).unwrap();
    eventually("one segment is left", || owner.journal.stats().segments == 1);
    assert_bounded(&owner);
    // No segment names the id of the last job, but it must not be used again.
    drop(owner);
    let (owner, recovered) = Owner::open(Arc::new(disk), options(Fsync::Always)).unwrap();
    assert_eq!(recovered.highest_id, 500);
    assert!(owner.world.lock().unwrap().jobs.is_empty());
}

#[test]
fn full_disk_refuses_new_jobs_and_finishes_old_ones() {
    for capacity in [20, 33] {
        let disk = SimulatedDisk::new();
        disk.set_capacity(Some(capacity * SEGMENT_BYTES + 777));
        let owner = open(&disk, Fsync::Always);
        let mut next = 1;
        for round in 0..3 {
            let first = next;
            // One job in each batch takes the most room.
            while owner.journal.has_room(400) {
                owner.wait(owner.change(&job(next, &[4; 300]))).unwrap();
                next += 1;
                assert!(next < 100_000, "the disk is never full");
            }
            assert!(next - first > 300, "{} jobs in round {round}", next - first);
            // Many failures, then the end of each job, the newest first: none is refused.
            for number in 0..3 * (next - first) {
                let id = first + number % (next - first);
                let counts = Counts { failures: number as u32, ..Counts::default() };
                let failed = JobStatus { counts, ..status(Place::Ready) };
                owner.wait(owner.change(&Change::Status(JobId(id), failed))).unwrap();
            }
            for id in (first..next).rev() {
                owner.wait(owner.change(&Change::Gone(JobId(id)))).unwrap();
            }
            eventually("there is room again", || owner.journal.has_room(400));
        }
        let world = owner.world.lock().unwrap().clone();
        assert!(world.jobs.is_empty());
        owner.journal.close().unwrap();
        drop(owner);
        assert_eq!(*open(&disk.crash(CrashPlan::Nothing), Fsync::Always).world.lock().unwrap(), world);
    }
}

#[test]
fn room_is_known_without_waiting_and_counts_what_was_appended_since() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    // A pipeline of submissions: nothing is written meanwhile, so each answer must count those before.
    let before = disk.operation_count();
    let mut appended = 0;
    for id in 1.. {
        match owner.journal.room(1000) {
            Room::Yes => owner.change(&job(id, &[7; 300])),
            Room::No => panic!("the disk is not full"),
            Room::MustWrite => break,
        };
        appended += 1;
    }
    assert!(appended * 300 < 2 * SEGMENT_BYTES && appended >= 64, "{appended}");
    assert!(!disk.operations()[before as usize..].iter().any(|done| done.name.starts_with("0000000001.j")));
    assert!(owner.journal.has_room(1000), "it writes what is buffered");
    assert_eq!(owner.journal.room(1000), Room::Yes);

    disk.set_capacity(Some(0));
    for id in appended + 1.. {
        if !owner.journal.has_room(1000) {
            break;
        }
        owner.wait(owner.change(&job(id, &[7; 500]))).unwrap();
    }
    assert_eq!(owner.journal.room(1000), Room::No);
}

#[test]
fn disk_that_others_fill_and_clear_never_blocks_the_ends_of_jobs() {
    for seed in 0..if exhaustive() { 500 } else { 6 } {
        let mut random = Random(seed);
        let disk = SimulatedDisk::new();
        let fsync = [Fsync::Always, Fsync::Never][seed as usize % 2];
        let room = 14 + random.below(40);
        disk.set_capacity(Some(room * SEGMENT_BYTES + random.below(SEGMENT_BYTES)));
        let owner = open(&disk, fsync);
        let next = AtomicUsize::new(1);
        let (acknowledged, running) = (AtomicUsize::new(0), AtomicUsize::new(4));
        let (refused, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (owner, next, refused, ended, running) = (&owner, &next, &refused, &ended, &running);
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    let perform = |change: Change| {
                        let mut place = 0;
                        let position = owner.change_as(|_| {
                            place = owner.log.lock().unwrap().len() + 1;
                            Some(change)
                        });
                        owner.wait(position.unwrap()).unwrap();
                        acknowledged.fetch_max(place, Ordering::SeqCst);
                    };
                    let mut random = Random(seed << 8 ^ thread);
                    let mut own = Vec::new();
                    // At first more jobs are added than ended, later the opposite.
                    for step in 0..1500 {
                        let change = if random.below(1500) > step / 2 + 300 || own.is_empty() {
                            if !owner.journal.has_room(1000) {
                                refused.fetch_add(1, Ordering::Relaxed);
                                continue;
                            }
                            let id = next.fetch_add(1, Ordering::Relaxed) as u64;
                            own.push(id);
                            job(id, &vec![6; random.below(900) as usize])
                        } else if random.below(3) == 0 {
                            ended.fetch_add(1, Ordering::Relaxed);
                            Change::Gone(JobId(own.swap_remove(random.below(own.len() as u64) as usize)))
                        } else {
                            let id = own[random.below(own.len() as u64) as usize];
                            Change::Status(JobId(id), status(Place::Ready))
                        };
                        perform(change);
                    }
                    own.into_iter().for_each(|id| perform(Change::Gone(JobId(id))));
                    running.fetch_sub(1, Ordering::Relaxed);
                });
            }
            // Other files take what is left, and are removed again. All threads must go on while the disk is
            // full.
            let mut looked = (usize::MAX, Instant::now());
            while running.load(Ordering::Relaxed) > 0 {
                let capacity = 10 + random.below(room);
                disk.set_capacity(Some(capacity * SEGMENT_BYTES));
                // A power cut now must lose nothing acknowledged.
                let least = acknowledged.load(Ordering::SeqCst);
                let cut = disk.fork().crash(CrashPlan::Random(random.next()));
                cut.set_capacity(None);
                let changes = {
                    // Under this lock everything in the journal is in the log too.
                    let _world = owner.world.lock().unwrap();
                    owner.log.lock().unwrap().clone()
                };
                let history = History { before: World::default(), changes, acknowledged: least };
                let world = open(&cut, fsync).world.lock().unwrap().clone();
                history
                    .check(&world, if fsync == Fsync::Always { least } else { 0 })
                    .unwrap_or_else(|why| panic!("seed {seed}, cut: {why}"));
                let records = owner.journal.stats().records as usize;
                if records != looked.0 {
                    looked = (records, Instant::now());
                }
                let stuck = looked.1.elapsed() > Duration::from_secs(20);
                if stuck {
                    let stats = owner.journal.stats();
                    // This ends the waits.
                    disk.set_capacity(None);
                    panic!("seed {seed}: nothing is written any more: {stats:?}");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert!(ended.into_inner() > 100, "seed {seed}");
        assert!(owner.world.lock().unwrap().jobs.is_empty());
        disk.set_capacity(None);
        eventually("there is room again", || owner.journal.has_room(400));
        let world = owner.world.lock().unwrap().clone();
        drop(owner);
        assert_eq!(*open(&disk.kill(), fsync).world.lock().unwrap(), world, "seed {seed}");
        println!("seed {seed}: refused {}", refused.into_inner());
    }
}

#[test]
fn surplus_segments_are_removed_one_at_a_time() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    for id in 1..=900 {
        owner.change(&job(id, &[7; 300]));
    }
    owner.wait(owner.journal.appended()).unwrap();
    let ready = || {
        let stats = owner.journal.stats();
        (stats.total_bytes - stats.live_bytes - stats.dead_bytes) / SEGMENT_BYTES
    };
    eventually("what is set aside is made", || ready() >= 5);
    let newest = owner.journal.stats().newest_segment;
    for id in 1..=900 {
        owner.change(&Change::Gone(JobId(id)));
    }
    owner.wait(owner.journal.appended()).unwrap();
    let id_of = |operation: &Operation| operation.name.strip_suffix(".journal")?.parse::<u64>().ok();
    let is_removal = |operation: &Operation| {
        operation.kind == OperationKind::Remove && id_of(operation).is_some_and(|id| id > newest)
    };
    // Two or three segments stay ready, depending on what compaction found.
    eventually("all that is too much is removed", || owner.journal.stats().segments == 1 && ready() <= 3);
    assert_bounded(&owner);
    let removed = disk.operations().iter().filter(|operation| is_removal(operation)).count();
    assert!(removed >= 2, "{removed}");
    owner.journal.close().unwrap();
    // If two names were removed together, a power cut could undo one of them and leave a gap.
    let mut unsynced = None;
    for operation in disk.operations() {
        if is_removal(&operation) {
            assert_eq!(unsynced, None, "and {} at the same time", operation.name);
            unsynced = Some(operation.name);
        } else if operation.kind == OperationKind::SyncDirectory {
            unsynced = None;
        }
    }
}

#[test]
fn compaction_ends_if_the_journal_cannot_shrink() {
    // Two of these fit in a segment of 8 KiB, half of which is its header: more than two and a half times
    // what is live.
    let disk = SimulatedDisk::new();
    let options = Options { segment_bytes: 8 << 10, ..in_line(Fsync::Always) };
    let (owner, _) = Owner::open(Arc::new(disk.clone()), options).unwrap();
    for id in 1..=100 {
        let position = owner.change(&job(id, &[b'x'; 1400]));
        owner.wait(position).unwrap();
    }
    let (done, ended) = std::sync::mpsc::channel();
    let compacting = Arc::clone(&owner);
    let thread = std::thread::spawn(move || done.send(compacting.journal.compact()).unwrap());
    let before = owner.journal.stats().newest_segment;
    assert!(
        ended.recv_timeout(Duration::from_secs(30)).is_ok(),
        "it goes round and round: segment {before} to {}",
        owner.journal.stats().newest_segment
    );
    thread.join().unwrap();
    // What dies is still removed.
    for id in 1..=100 {
        let position = owner.change(&Change::Gone(JobId(id)));
        owner.wait(position).unwrap();
        owner.journal.compact().unwrap();
    }
    let stats = owner.journal.stats();
    assert!(stats.total_bytes <= 3 * stats.live_bytes + (4 * (8 << 10)), "{stats:?}");
}
