//! The journal with its threads: many waiters, crashes, intervals, failed syncs, closing.
#![allow(clippy::disallowed_methods)]

mod journal_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use djqs::internal::journal::storage::{CrashPlan, Fault, OperationKind, SimulatedDisk};
use djqs::internal::journal::{Failure, Fsync, Options, Room};
use journal_common::{
    History, Owner, Random, World, eventually, exhaustive, in_line, job, open, options, random_change,
};

#[test]
fn crash_under_many_threads_loses_nothing_acknowledged() {
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
                        // The position of a change in the log is known under the lock.
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
fn interval_is_kept_without_another_write() {
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
fn change_that_nobody_waits_for_is_written_after_a_nudge() {
    let disk = SimulatedDisk::new();
    let owner = open(&disk, Fsync::Always);
    let position = owner.change(&job(1, b"work"));
    owner.journal.nudge();
    eventually("it is durable", || owner.journal.durable() >= position);
}

#[test]
fn failed_sync_fails_all_waits_and_calls_the_server() {
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
        // The server is called after the waits end.
        eventually("the server is called", || failures.load(Ordering::SeqCst) > 0);
        assert_eq!(failures.load(Ordering::SeqCst), 1);
        let failure = owner.journal.failure().unwrap().to_string();
        assert!(failure.contains("the journal can no longer be written: cannot "), "{failure}");
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
fn panic_in_a_callback_ends_no_other_wait() {
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
        // The callback is left to another thread only while that one writes.
        while left.load(Ordering::SeqCst) > 0 {
            let made = owner.journal.wait_or_call(append(), || |_| panic!("on purpose"));
            if !made.unwrap() {
                left.fetch_sub(1, Ordering::SeqCst);
            }
        }
    });
    owner.wait(append()).unwrap();
    owner.journal.close().unwrap();
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
