//! The journal on a disk that fails: a workload of all kinds of changes ends at every operation of the disk,
//! and what is restored is checked against what was acknowledged.
#![allow(clippy::disallowed_methods)]

mod journal_common;

use std::sync::Arc;
use std::time::Duration;

use djqs::internal::journal::storage::{CrashPlan, Fault, OperationKind, SimulatedDisk};
use djqs::internal::journal::{Fsync, Options, Sabotage};
use journal_common::{History, Owner, exhaustive, in_line, run_workload};

const EIO: i32 = 5;
const CHANGES: usize = 250;
const BODY_MAX: u64 = 300;

/// A run that ended early: what was done and acknowledged, and the disk as it was left.
struct Cut {
    history: History,
    disk: SimulatedDisk,
}

/// Runs the workload of `seed` on a new disk with a fault.
fn run(seed: u64, options: Options, fault: Option<(u64, Fault)>) -> Cut {
    run_within(None, seed, options, fault)
}

/// The same on a disk of this size.
fn run_within(capacity: Option<u64>, seed: u64, options: Options, fault: Option<(u64, Fault)>) -> Cut {
    let disk = SimulatedDisk::new();
    disk.set_capacity(capacity);
    if let Some((operation, fault)) = fault {
        disk.fault_at(operation, fault);
    }
    let history = match Owner::open(Arc::new(disk.clone()), options) {
        Ok((owner, _)) => run_workload(&owner, seed, CHANGES, BODY_MAX),
        Err(_) => History::default(),
    };
    disk.set_capacity(None);
    Cut { history, disk }
}

/// Opens what a crash left, and checks it against `history`, from `least` on.
fn check(history: &History, disk: &SimulatedDisk, options: Options, least: usize) -> Result<usize, String> {
    let options = Options { sabotage: Sabotage::None, ..options };
    let (owner, _) =
        Owner::open(Arc::new(disk.clone()), options).map_err(|e| format!("it does not open: {e}"))?;
    let world = owner.world.lock().unwrap().clone();
    history.check(&world, least)
}

/// Ends a workload at every operation, and checks every kind of crash. Returns how many were checked.
fn cut_everywhere(seed: u64, options: &Options) -> Result<u64, String> {
    cut_everywhere_within(None, seed, options)
}

/// The same on a disk of this size.
fn cut_everywhere_within(capacity: Option<u64>, seed: u64, options: &Options) -> Result<u64, String> {
    let whole = run_within(capacity, seed, options.clone(), None);
    assert_eq!(whole.history.acknowledged, CHANGES);
    let operations = whole.disk.operation_count();
    let always = options.fsync == Fsync::Always;
    for operation in 0..operations {
        let partly = (operation * 97 % 700) as usize;
        let cut = run_within(capacity, seed, options.clone(), Some((operation, Fault::End(partly))));
        let acknowledged = cut.history.acknowledged;
        let explain =
            |plan: &str, why| format!("seed {seed}, {}, operation {operation}, {plan}: {why}", options.fsync);
        let killed = check(&cut.history, &cut.disk.kill(), options.clone(), acknowledged);
        killed.map_err(|why| explain("kill", why))?;
        let random = (0..3).map(|more| CrashPlan::Random(seed ^ operation << 8 ^ more));
        for plan in [CrashPlan::Nothing, CrashPlan::Everything].into_iter().chain(random) {
            // Without a sync for each reply a power cut may lose some changes, but it leaves a state that
            // existed.
            let least = if always { acknowledged } else { 0 };
            let crashed = cut.disk.crash(plan);
            let checked = check(&cut.history, &crashed, options.clone(), least);
            checked.map_err(|why| explain(&format!("{plan:?}"), why))?;
        }
    }
    Ok(operations)
}

#[test]
fn crash_at_any_operation_loses_nothing_acknowledged() {
    for seed in 1..=if exhaustive() { 20 } else { 1 } {
        let operations = cut_everywhere(seed, &in_line(Fsync::Always)).unwrap();
        assert!(operations > 250, "{operations}");
    }
}

#[test]
fn crash_without_a_sync_for_each_reply_leaves_a_state_that_existed() {
    for seed in 100..=if exhaustive() { 110 } else { 100 } {
        cut_everywhere(seed, &in_line(Fsync::Never)).unwrap();
        cut_everywhere(seed + 500, &in_line(Fsync::Interval(Duration::from_secs(1)))).unwrap();
    }
}

/// So small that new files find no room, and files of emptied segments are used again.
const SMALL_DISK: Option<u64> = Some(40 << 10);

#[test]
fn crash_while_files_are_used_again_loses_nothing_acknowledged() {
    let options = in_line(Fsync::Always);
    let whole = run_within(SMALL_DISK, 7, options.clone(), None);
    let emptied =
        whole.disk.operations().into_iter().filter(|operation| operation.name.ends_with(".old")).count();
    assert!(emptied >= 6, "at most three lie ready, so others must have been used again: {emptied}");
    for seed in 7..=if exhaustive() { 27 } else { 7 } {
        cut_everywhere_within(SMALL_DISK, seed, &options).unwrap();
    }
}

#[test]
fn the_workload_goes_through_every_kind_of_operation_and_compaction() {
    let cut = run(1, in_line(Fsync::Always), None);
    let count = |kind| cut.disk.operations().iter().filter(|operation| operation.kind == kind).count();
    for kind in
        [OperationKind::Create, OperationKind::Rename, OperationKind::SyncDirectory, OperationKind::Remove]
    {
        assert!(count(kind) >= 3, "{kind:?}: {}", count(kind));
    }
    assert!(count(OperationKind::Write) > 50 && count(OperationKind::Sync) > 50);
}

#[test]
fn crash_in_recovery_loses_nothing() {
    let options = in_line(Fsync::Always);
    for operation in
        (0..run(5, options.clone(), None).disk.operation_count()).step_by(if exhaustive() { 1 } else { 17 })
    {
        let cut = run(5, options.clone(), Some((operation, Fault::End(300))));
        let left = cut.disk.crash(CrashPlan::Random(operation));
        let whole = left.fork();
        if Owner::open(Arc::new(whole.clone()), options.clone()).is_err() {
            continue;
        }
        for second in 0..whole.operation_count() {
            let again = left.fork();
            again.fault_at(second, Fault::End(100));
            let _ = Owner::open(Arc::new(again.clone()), options.clone());
            for plan in [CrashPlan::Nothing, CrashPlan::Everything, CrashPlan::Random(second)] {
                let checked =
                    check(&cut.history, &again.crash(plan), options.clone(), cut.history.acknowledged);
                assert!(checked.is_ok(), "operation {operation}, then {second}, {plan:?}: {checked:?}");
            }
        }
    }
}

/// Makes a workload fail at every operation, and checks every kind of crash after it.
fn fail_everywhere(seed: u64, options: &Options) -> Result<(), String> {
    let operations = run(seed, options.clone(), None).disk.operation_count();
    for operation in 0..operations {
        let cut = run(seed, options.clone(), Some((operation, Fault::Error(EIO))));
        let acknowledged = cut.history.acknowledged;
        let plans = [CrashPlan::Nothing, CrashPlan::Everything, CrashPlan::Random(seed ^ operation)];
        for plan in plans.into_iter().map(Some).chain([None]) {
            let disk = plan.map_or_else(|| cut.disk.kill(), |plan| cut.disk.crash(plan));
            let checked = check(&cut.history, &disk, options.clone(), acknowledged);
            checked.map_err(|why| format!("seed {seed}, EIO at {operation}, {plan:?}: {why}"))?;
            // What recovery has read must then be on the disk, although a sync had failed.
            let checked = check(&cut.history, &disk.crash(CrashPlan::Nothing), options.clone(), acknowledged);
            checked.map_err(|why| format!("seed {seed}, EIO at {operation}, {plan:?}, once more: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn error_at_any_operation_loses_nothing_acknowledged() {
    fail_everywhere(6, &in_line(Fsync::Always)).unwrap();
}

#[test]
fn after_an_error_nothing_is_acknowledged_again() {
    let options = in_line(Fsync::Always);
    let operations = run(8, options.clone(), None).disk.operations();
    for (operation, done) in operations.iter().enumerate().skip(20).step_by(5) {
        let disk = SimulatedDisk::new();
        let Ok((owner, _)) = Owner::open(Arc::new(disk.clone()), options.clone()) else { unreachable!() };
        disk.fault_at(operation as u64, Fault::Error(EIO));
        run_workload(&owner, 8, CHANGES, BODY_MAX);
        let failure = owner.journal.failure();
        assert!(failure.is_some(), "{done:?}");
        let count = disk.operation_count();
        let position = owner.change(&journal_common::job(100_000, b"late"));
        assert!(owner.wait(position).is_err() && owner.journal.sync(position).is_err());
        assert!(owner.wait(Default::default()).is_err(), "even what was durable is not confirmed again");
        assert!(owner.journal.close().is_err());
        assert_eq!(disk.operation_count(), count, "after {done:?} failed, nothing more is done");
    }
}

#[test]
fn short_writes_are_completed() {
    let options = in_line(Fsync::Always);
    let operations = run(9, options.clone(), None).disk.operation_count();
    for operation in 0..operations {
        let cut = run(9, options.clone(), Some((operation, Fault::Short(5))));
        assert_eq!(cut.history.acknowledged, CHANGES, "operation {operation}");
        if operation % 10 == 0 {
            check(&cut.history, &cut.disk.crash(CrashPlan::Nothing), options.clone(), CHANGES).unwrap();
        }
    }
}

#[test]
fn the_checker_finds_replies_before_the_sync() {
    let options = Options { sabotage: Sabotage::ReplyBeforeSync, ..in_line(Fsync::Always) };
    let found = cut_everywhere(1, &options).unwrap_err();
    assert!(found.contains("jobs not there") || found.contains("does not open"), "{found}");
}

#[test]
fn the_checker_finds_a_directory_that_is_not_synced() {
    let options = Options { sabotage: Sabotage::SkipDirectorySync, ..in_line(Fsync::Always) };
    cut_everywhere(1, &options).unwrap_err();
}

#[test]
fn the_checker_finds_a_segment_that_is_removed_too_early() {
    let options = Options { sabotage: Sabotage::DropBeforeSync, ..in_line(Fsync::Always) };
    cut_everywhere(1, &options).unwrap_err();
}

#[test]
fn the_checker_finds_sync_errors_that_are_ignored() {
    let options = Options { sabotage: Sabotage::IgnoreSyncError, ..in_line(Fsync::Always) };
    fail_everywhere(6, &options).unwrap_err();
}
