//! The journal with its threads: many who wait, compaction while others write, a disk that fills up, a sync
//! that fails.
#![allow(clippy::disallowed_methods)]

mod journal_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use djqs::internal::change::{Change, JobStatus, Place};
use djqs::internal::journal::storage::{CrashPlan, Fault, Operation, OperationKind, SimulatedDisk};
use djqs::internal::journal::{Failure, Fsync, Options, Room};
use djqs::job::{Counts, JobId};
use journal_common::{History, Owner, Random, World, exhaustive, in_line, job, random_change, status};

const SEGMENT_BYTES: u64 = 32 << 10;

fn options(fsync: Fsync) -> Options {
    Options { fsync, segment_bytes: SEGMENT_BYTES, ..Options::default() }
}

fn open(disk: &SimulatedDisk, fsync: Fsync) -> Arc<Owner> {
    Owner::open(Arc::new(disk.clone()), options(fsync)).unwrap().0
}

/// Asks again and again, since there is no event to wait for; gives up after a time that only a fault
/// exceeds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn assert_bounded(owner: &Owner) {
    let stats = owner.journal.stats();
    let bound = 3 * stats.live_bytes + 4 * SEGMENT_BYTES;
    assert!(stats.total_bytes <= bound, "{} bytes, {} at most: {stats:?}", stats.total_bytes, bound);
}

/// Does the same thing over and over, under the eyes of one who looks at the journal's size.
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
    // In the end, with nothing more to do, no more is in use than compaction aims at.
    eventually("compaction comes to an end", || {
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
fn releasing_with_a_delay_over_and_over_stays_bounded() {
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
fn failing_over_and_over_with_long_reasons_stays_bounded() {
    let prepare = |owner: &Owner| {
        for id in 1..=50 {
            owner.change(&job(id, &[1; 30]));
        }
    };
    stays_bounded(Fsync::Never, prepare, |_, number| {
        let counts = Counts { failures: number as u32, ..Counts::default() };
        // Each job has its own length: what has to be kept must not change while others look at the bound.
        let id = number % 50 + 1;
        let reason = Some(format!("it went wrong {number:05}").repeat((id * 37 % 40) as usize).into());
        Change::Status(JobId(id), JobStatus { counts, reason, ..status(Place::Ready) })
    });
}

#[test]
fn long_lived_jobs_among_short_ones_stay_bounded() {
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

#[test]
fn a_journal_of_nothing_but_finished_jobs_shrinks_without_traffic() {
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
    // The id of the last job is in none of them any more, and still not to be given again.
    drop(owner);
    let (owner, recovered) = Owner::open(Arc::new(disk), options(Fsync::Always)).unwrap();
    assert_eq!(recovered.highest_id, 500);
    assert!(owner.world.lock().unwrap().jobs.is_empty());
}

#[test]
fn a_crash_under_many_threads_loses_nothing_that_was_acknowledged() {
    for seed in 0..if exhaustive() { 2000 } else { 40 } {
        let fsync =
            [Fsync::Always, Fsync::Never, Fsync::Interval(Duration::from_millis(1))][seed as usize % 3];
        let mut random = Random(seed);
        let disk = SimulatedDisk::new();
        let owner = open(&disk, fsync);
        disk.fault_at(
            disk.operation_count() + 1 + random.below(400),
            Fault::End(random.below(3000) as usize),
        );
        let acknowledged = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (owner, acknowledged) = (&owner, &acknowledged);
                scope.spawn(move || {
                    let mut random = Random(seed << 8 ^ thread);
                    for _ in 0..2000 {
                        // The place of a change in the log is known under the lock.
                        let mut place = 0;
                        let position = owner.change_as(|world| {
                            place = owner.log.lock().unwrap().len() + 1;
                            Some(random_change(&mut random, world, 500))
                        });
                        if random.below(4) == 0 {
                            if owner.wait(position.unwrap()).is_err() {
                                return;
                            }
                            acknowledged.fetch_max(place, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        let history = History {
            before: World::default(),
            changes: owner.log.lock().unwrap().clone(),
            acknowledged: acknowledged.load(Ordering::SeqCst),
        };
        let killed = open(&disk.kill(), fsync).world.lock().unwrap().clone();
        history
            .check(&killed, history.acknowledged)
            .unwrap_or_else(|why| panic!("seed {seed}, killed: {why}"));
        let least = if fsync == Fsync::Always { history.acknowledged } else { 0 };
        let crashed = open(&disk.crash(CrashPlan::Random(seed)), fsync).world.lock().unwrap().clone();
        history.check(&crashed, least).unwrap_or_else(|why| panic!("seed {seed}, {fsync}, crashed: {why}"));
    }
}

#[test]
fn the_interval_is_kept_without_another_write() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Interval(Duration::from_millis(20)));
    for id in 1..4 {
        owner.wait(owner.change(&job(id, b"work"))).unwrap();
        eventually("what was written is synced", || disk.dirty_sectors() == 0);
    }
    let crashed = open(&disk.crash(CrashPlan::Nothing), Fsync::Never);
    assert_eq!(crashed.world.lock().unwrap().jobs.len(), 3);
}

#[test]
fn without_an_interval_nothing_is_synced_for_a_reply() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Never);
    let before = disk.operation_count();
    for id in 1..10 {
        owner.wait(owner.change(&job(id, b"work"))).unwrap();
    }
    let operations = disk.operations().split_off(before as usize);
    assert!(operations.iter().filter(|operation| operation.kind == OperationKind::Write).count() >= 9);
    assert!(disk.dirty_sectors() > 0);
    owner.journal.sync(owner.journal.appended()).unwrap();
    assert_eq!(open(&disk.crash(CrashPlan::Nothing), Fsync::Never).world.lock().unwrap().jobs.len(), 9);
}

#[test]
fn what_nobody_waits_for_is_written_after_a_nudge() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    let position = owner.change(&job(1, b"work"));
    owner.journal.nudge();
    eventually("it is durable", || owner.journal.durable() >= position);
}

#[test]
fn a_failed_sync_is_told_to_all_who_wait_and_to_the_server() {
    for fault_after in 1..12 {
        let disk = SimulatedDisk::new();
        let failures = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&failures);
        let on_failure = move |failure: &Failure| {
            assert!(matches!(failure, Failure::Io { .. }), "{failure}");
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let options = Options { on_failure: Some(Arc::new(on_failure)), ..options(Fsync::Always) };
        let (owner, _) = Owner::open(Arc::new(disk.clone()), options).unwrap();
        disk.fault_at(disk.operation_count() + fault_after, Fault::Error(5));
        let refused = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..16_u64 {
                let (owner, refused) = (&owner, &refused);
                scope.spawn(move || {
                    for number in 0.. {
                        let position = owner.change(&job(number * 16 + thread + 1, b"work"));
                        if owner.wait(position).is_err() {
                            refused.fetch_add(1, Ordering::SeqCst);
                            assert!(owner.wait(position).is_err());
                            return;
                        }
                    }
                });
            }
        });
        assert_eq!(refused.into_inner(), 16);
        // The server is told after those who wait.
        eventually("the server is told", || failures.load(Ordering::SeqCst) > 0);
        assert_eq!(failures.load(Ordering::SeqCst), 1);
        let failure = owner.journal.failure().unwrap().to_string();
        assert!(failure.contains("the journal can no longer be written: cannot "), "{failure}");
    }
}

#[test]
fn a_full_disk_refuses_new_jobs_and_finishes_the_old_ones() {
    for capacity in [20, 33] {
        let disk = SimulatedDisk::new();
        disk.set_capacity(Some(capacity * SEGMENT_BYTES + 777));
        let owner = open(&disk, Fsync::Always);
        let mut next = 1;
        for round in 0..3 {
            let first = next;
            // Each job on its own, which takes the most room.
            while owner.journal.has_room(400) {
                owner.wait(owner.change(&job(next, &[4; 300]))).unwrap();
                next += 1;
                assert!(next < 100_000, "the disk is never full");
            }
            assert!(next - first > 300, "{} jobs in round {round}", next - first);
            // Failures without end, then the end of each, the newest first: all are taken.
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
fn sync_error_names_its_segment_whatever_the_policy() {
    for fsync in [Fsync::Interval(Duration::from_secs(3600)), Fsync::Never] {
        let disk = SimulatedDisk::new();
        let (owner, _) = Owner::open(Arc::new(disk.clone()), in_line(fsync)).unwrap();
        let position = owner.change(&job(1, b"work"));
        owner.wait(position).unwrap();
        disk.fault_at(disk.operation_count(), Fault::Error(5));
        let error = owner.journal.sync(position).unwrap_err().to_string();
        assert!(error.contains("0000000001"), "{fsync}: {error}");
    }
}

#[test]
fn failed_journal_keeps_nothing_of_what_is_appended_to_it() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    disk.fault_at(disk.operation_count() + 1, Fault::Error(5));
    let position = owner.change(&job(1, b"work"));
    owner.wait(position).unwrap_err();
    for id in 2..1000 {
        owner.change(&job(id, &[7; 300]));
    }
    assert_eq!(owner.journal.room(1000), Room::Yes, "nothing waits to be written");
    owner.wait(owner.journal.appended()).unwrap_err();
}

#[test]
fn panic_of_a_call_that_waited_ends_no_other_wait() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    let id = AtomicUsize::new(1);
    let append = || owner.change(&job(id.fetch_add(1, Ordering::SeqCst) as u64, b"work"));
    let left = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while left.load(Ordering::SeqCst) > 0 {
                    owner.wait(append()).unwrap();
                }
            });
        }
        // Only while another thread writes is the call left to that one.
        while left.load(Ordering::SeqCst) > 0 {
            let made =
                owner.journal.wait_or_call(append(), || |_| panic!("on purpose, to see who else is hurt"));
            if !made.unwrap() {
                left.fetch_sub(1, Ordering::SeqCst);
            }
        }
    });
    owner.wait(append()).unwrap();
    owner.journal.close().unwrap();
}

#[test]
fn room_is_known_without_waiting_and_counts_what_was_appended_since() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    // A pipeline of submissions: nothing is written meanwhile, so each answer has to count those before it.
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
    assert!(owner.journal.has_room(1000), "it writes what waits");
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
fn a_disk_that_others_fill_and_clear_never_holds_up_the_ends_of_jobs() {
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
                    let carry_out = |change: Change| {
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
                    // At first more jobs come than go, later more go.
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
                        carry_out(change);
                    }
                    own.into_iter().for_each(|id| carry_out(Change::Gone(JobId(id))));
                    running.fetch_sub(1, Ordering::Relaxed);
                });
            }
            // Somebody else's files take what is left, and go again. All must get on while the disk is full.
            let mut looked = (usize::MAX, Instant::now());
            while running.load(Ordering::Relaxed) > 0 {
                let capacity = 10 + random.below(room);
                disk.set_capacity(Some(capacity * SEGMENT_BYTES));
                // A power cut now would find everything.
                let least = acknowledged.load(Ordering::SeqCst);
                let cut = disk.fork().crash(CrashPlan::Random(random.next()));
                cut.set_capacity(None);
                let changes = {
                    // Under this lock what is in the journal is in the log, too.
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
                    // So that those who wait come to an end.
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
fn files_that_are_too_many_are_removed_one_at_a_time() {
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
    // Two or three files are left ready, as compaction happened to find them.
    eventually("all that is too much is removed", || owner.journal.stats().segments == 1 && ready() <= 3);
    assert_bounded(&owner);
    let removed = disk.operations().iter().filter(|operation| is_removal(operation)).count();
    assert!(removed >= 2, "{removed}");
    owner.journal.close().unwrap();
    // Of two names that go in one stroke a power cut may take either, and leave a gap.
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
fn closing_waits_for_what_was_appended() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Never);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (owner, stop) = (&owner, &stop);
            scope.spawn(move || {
                for number in 0.. {
                    let position = owner.change(&job(number * 3 + thread + 1, &[5; 100]));
                    if stop.load(Ordering::SeqCst) || owner.wait(position).is_err() {
                        return;
                    }
                }
            });
        }
        eventually("some are written", || owner.journal.stats().records > 100);
        let last = owner.change(&job(1_000_000, b"last"));
        owner.journal.close().unwrap();
        stop.store(true, Ordering::SeqCst);
        assert!(owner.journal.durable() >= last);
    });
    let (reopened, recovered) =
        Owner::open(Arc::new(disk.crash(CrashPlan::Nothing)), options(Fsync::Never)).unwrap();
    assert!(recovered.clean);
    assert!(reopened.world.lock().unwrap().jobs.contains_key(&1_000_000));
}

#[test]
fn compaction_ends_where_the_journal_cannot_become_smaller() {
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
    // What dies is taken out all the same.
    for id in 1..=100 {
        let position = owner.change(&Change::Gone(JobId(id)));
        owner.wait(position).unwrap();
        owner.journal.compact().unwrap();
    }
    let stats = owner.journal.stats();
    assert!(stats.total_bytes <= 3 * stats.live_bytes + (4 * (8 << 10)), "{stats:?}");
}
