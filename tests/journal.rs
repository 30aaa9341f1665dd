//! The journal on a real disk: what was waited for is there when it is opened again.
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use djqs::internal::change::{Change, JobSpec, JobStatus, PauseState, Place};
use djqs::internal::journal::storage::DiskStorage;
use djqs::internal::journal::{Fsync, Journal, OpenError, Options, Recovered};
use djqs::job::{Counts, JobId, Key, Priority, QueueName};

fn job(id: u64, body: &[u8]) -> Change {
    let spec = JobSpec {
        id: JobId(id),
        queue: QueueName::default(),
        ttr: Duration::from_secs(60),
        attempts: 10,
        backoff: Duration::from_secs(1),
        key: None,
        created_s: 1_700_000_000,
        keep: Duration::ZERO,
        batch: None,
        body: body.into(),
    };
    Change::Job(spec, status(Place::Ready))
}

fn status(place: Place) -> JobStatus {
    JobStatus { priority: Priority(1024), place, counts: Counts::default(), reason: None }
}

fn open(path: &Path, options: Options) -> Result<(Journal, Recovered, Vec<Change>), OpenError> {
    let storage = Arc::new(DiskStorage::open(path)?);
    let mut changes = Vec::new();
    let (journal, recovered) = Journal::open(storage, options, &mut |change| changes.push(change))?;
    Ok((journal, recovered, changes))
}

fn options(fsync: Fsync) -> Options {
    Options { fsync, segment_bytes: 1 << 16, ..Options::default() }
}

fn all_kinds() -> Vec<Change> {
    let queue = QueueName::new("mail").unwrap();
    let Change::Job(spec, _) = job(2, b"\xff\0\n") else { unreachable!() };
    let spec = JobSpec { queue: queue.clone(), key: Some(Key::new("order:9").unwrap()), ..spec };
    let delayed = JobStatus {
        counts: Counts { failures: 1, crashes: 2, returns: 3 },
        reason: Some("timeout".into()),
        ..status(Place::Delayed { until_wall_ms: 1_800_000_000_000 })
    };
    vec![
        job(1, b"work"),
        Change::Job(spec, delayed.clone()),
        Change::Status(JobId(1), delayed),
        Change::Status(JobId(2), status(Place::Dead { dead_seq: 1 })),
        Change::Pause(queue.clone(), PauseState::Paused),
        Change::Pause(queue.clone(), PauseState::PausedUntil { wall_ms: 5 }),
        Change::Pause(queue, PauseState::Running),
        Change::Gone(JobId(1)),
        Change::IdsUsed(JobId(77)),
    ]
}

#[test]
fn changes_come_back_in_order_under_each_policy() {
    for fsync in [Fsync::Always, Fsync::Interval(Duration::from_millis(5)), Fsync::Never] {
        let directory = tempfile::tempdir().unwrap();
        let (journal, recovered, changes) = open(directory.path(), options(fsync)).unwrap();
        assert!(recovered.clean && changes.is_empty());
        for change in all_kinds() {
            journal.append(&change);
        }
        journal.wait(journal.appended()).unwrap();
        drop(journal);

        let (journal, recovered, changes) = open(directory.path(), options(fsync)).unwrap();
        assert_eq!(changes, all_kinds(), "{fsync}");
        assert!(!recovered.clean);
        assert_eq!((recovered.records, recovered.highest_id), (9, 77));
        journal.close().unwrap();
        let position = journal.append(&job(3, b"too late"));
        assert!(journal.wait(position).is_err());
        drop(journal);

        let (_, recovered, changes) = open(directory.path(), options(fsync)).unwrap();
        assert_eq!(changes, all_kinds(), "{fsync}");
        assert!(recovered.clean);
    }
}

#[test]
fn many_threads_fill_many_segments() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _, _) = open(directory.path(), options(Fsync::Always)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let journal = journal.clone();
            scope.spawn(move || {
                for number in 0..200 {
                    let position = journal.append(&job(thread * 1000 + number + 1, &[7; 500]));
                    journal.wait(position).unwrap();
                    assert!(journal.durable() >= position);
                }
            });
        }
    });
    let stats = journal.stats();
    assert_eq!(stats.records, 1600);
    assert!(stats.segments > 10, "{stats:?}");
    drop(journal);
    let (_, recovered, changes) = open(directory.path(), options(Fsync::Always)).unwrap();
    assert_eq!(recovered.segments as u64, stats.segments);
    for thread in 0..8_u64 {
        let ids: Vec<u64> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Job(spec, _) if spec.id.0 / 1000 == thread => Some(spec.id.0),
                _ => None,
            })
            .collect();
        assert_eq!(ids, (0..200).map(|number| thread * 1000 + number + 1).collect::<Vec<_>>());
    }
}

#[test]
fn second_server_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _, _) = open(directory.path(), options(Fsync::Never)).unwrap();
    let refused = open(directory.path(), options(Fsync::Never)).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("in use by another server (process {})", std::process::id())),
        "{refused}"
    );
    drop(journal);
    open(directory.path(), options(Fsync::Never)).unwrap();
}

#[test]
fn files_are_accessible_to_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/data");
    let (journal, _, _) = open(&directory, options(Fsync::Always)).unwrap();
    journal.wait(journal.append(&job(1, b""))).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn record_longer_than_a_segment_makes_its_segment_longer() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _, _) = open(directory.path(), options(Fsync::Always)).unwrap();
    let changes = [job(1, b"before"), job(2, &[9; 300_000]), job(3, b"after")];
    for change in &changes {
        let position = journal.append(change);
        journal.wait(position).unwrap();
    }
    drop(journal);
    let (_, _, found) = open(directory.path(), options(Fsync::Always)).unwrap();
    assert_eq!(found, changes);
}
