//! Round trips, sizes, and the pinned bytes of version 1.

use super::*;
use crate::change::{JobSize, attempt_bytes, int_length, job_bytes};
use proptest::prelude::*;

fn status() -> impl Strategy<Value = JobStatus> {
    let place = prop_oneof![
        Just(Place::Ready),
        any::<u64>().prop_map(|dead_seq| Place::Dead { dead_seq }),
        any::<u64>().prop_map(|until_wall_ms| Place::Delayed { until_wall_ms }),
        any::<u64>().prop_map(|until_wall_ms| Place::Cancelled { until_wall_ms }),
        any::<(u64, u32, bool)>().prop_map(|(until_wall_ms, ran_ms, result_dropped)| Place::Done {
            until_wall_ms,
            ran_ms,
            result_dropped,
        }),
    ];
    let counts = (any::<u32>(), any::<u32>(), 0..200u32).prop_map(|(failures, crashes, returns)| Counts {
        failures,
        crashes,
        returns,
    });
    (any::<u32>(), place, counts, proptest::option::of(".{0,40}")).prop_map(
        |(priority, place, counts, reason)| JobStatus {
            priority: Priority(priority),
            place,
            counts,
            reason: reason.map(Arc::from),
        },
    )
}

fn queue() -> impl Strategy<Value = QueueName> {
    "[A-Za-z0-9][A-Za-z0-9+/;.$_()-]{0,199}".prop_map(|name| QueueName::new(&name).unwrap())
}

fn batch() -> impl Strategy<Value = BatchName> {
    queue().prop_map(|name| BatchName::new(name.as_str()).unwrap())
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let worker = proptest::option::of(queue().prop_map(|name| WorkerName::new(name.as_str()).unwrap()));
    let end = proptest::sample::select(&AttemptEnd::ALL[..]);
    (any::<(u32, u64, u64)>(), worker, end, proptest::option::of(".{0,200}")).prop_map(
        |((number, started_ms, ended_ms), worker, end, reason)| {
            let reason = reason.map(Into::into);
            Attempt { number, worker, started_ms, ended_ms, end, reason }
        },
    )
}

fn batch_counts() -> impl Strategy<Value = BatchCounts> {
    (batch(), any::<[u64; 4]>()).prop_map(|(name, [done, cancelled, deleted, changed_wall_ms])| BatchCounts {
        name,
        done,
        cancelled,
        deleted,
        changed_wall_ms,
    })
}

fn spec() -> impl Strategy<Value = JobSpec> {
    let times = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>());
    let extras = prop_oneof![Just((0, None)), (any::<u64>(), proptest::option::of(batch()))];
    let key = proptest::option::of("[a-z]{1,200}".prop_map(|text| Key::new(&text).unwrap()));
    (any::<u64>(), queue(), times, key, extras, proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
        |(id, queue, (attempts, ttr, backoff, created_s), key, (keep, batch), body)| JobSpec {
            id: JobId(id),
            queue,
            ttr: Duration::from_millis(ttr),
            attempts,
            backoff: Duration::from_millis(backoff),
            key,
            created_s,
            keep: Duration::from_millis(keep),
            batch,
            body: body.into(),
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let pause = prop_oneof![
        Just(PauseState::Running),
        Just(PauseState::Paused),
        any::<u64>().prop_map(|wall_ms| PauseState::PausedUntil { wall_ms }),
    ];
    prop_oneof![
        (spec(), status()).prop_map(|(spec, status)| Change::Job(spec, status)),
        (any::<u64>(), status()).prop_map(|(id, status)| Change::Status(JobId(id), status)),
        (any::<u64>(), status(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(id, status, result)| Change::Done(JobId(id), status, result.into())),
        any::<u64>().prop_map(|id| Change::Gone(JobId(id))),
        (any::<u64>(), batch_counts()).prop_map(|(id, counts)| Change::GoneOf(JobId(id), counts)),
        batch_counts().prop_map(Change::Batch),
        (any::<u64>(), attempt()).prop_map(|(id, attempt)| Change::Attempt(JobId(id), attempt)),
        (queue(), pause).prop_map(|(queue, state)| Change::Pause(queue, state)),
        any::<u64>().prop_map(|id| Change::IdsUsed(JobId(id))),
    ]
}

fn encoded(change: &Change) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(change, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn changes_survive_the_round_trip(changes in proptest::collection::vec(change(), 0..5)) {
        let mut bytes = Vec::new();
        for change in &changes {
            encode(change, &mut bytes);
        }
        let read: Result<Vec<Record>, BadRecord> = Records::new(&bytes).collect();
        let expected: Vec<Record> = changes.into_iter().map(Record::Change).collect();
        prop_assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn the_size_of_a_job_is_that_of_its_least_record(spec in spec(), status in status()) {
        let size = job_bytes(&JobSize::of(&spec, &status));
        let whole = encoded(&Change::Job(spec.clone(), status.clone())).len() as u64;
        // A time or a dead job's number takes up to 10 bytes, how long it ran and whether it has a result 6, two of
        // the counts up to 5, the third up to 2.
        prop_assert!(size <= whole && whole <= size + 25, "{} of {}", size, whole);
        let least = JobStatus { place: Place::Ready, counts: Counts::default(), ..status };
        prop_assert_eq!(size, encoded(&Change::Job(spec, least)).len() as u64);
    }

    #[test]
    fn the_size_of_an_attempt_is_that_of_its_record(id in any::<u64>(), attempt in attempt()) {
        let size = attempt_bytes(JobId(id), &attempt);
        prop_assert_eq!(size, encoded(&Change::Attempt(JobId(id), attempt)).len() as u64);
    }

    #[test]
    fn a_record_cut_short_is_refused(change in change(), cut in 0.0..1.0f64) {
        let bytes = encoded(&change);
        let cut = ((bytes.len() as f64 * cut) as usize).clamp(1, bytes.len());
        let read: Vec<_> = Records::new(&bytes[..cut]).collect();
        prop_assert!(cut == bytes.len() || read.last().unwrap().is_err());
    }

    #[test]
    fn what_is_accepted_has_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..60), tag in 1..7u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() { *first = tag; }
        let mut rest = &bytes[..];
        if let Ok(record) = take_record(&mut rest) {
            let mut again = Vec::new();
            match &record {
                Record::Change(change) => encode(change, &mut again),
                Record::Dropped(segment) => encode_dropped(*segment, &mut again),
            }
            prop_assert_eq!(&bytes[..bytes.len() - rest.len()], &again[..]);
        }
    }
}

#[test]
fn integers_at_the_edges_survive_and_long_forms_are_refused() {
    for value in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
        let mut bytes = Vec::new();
        put_int(value, &mut bytes);
        assert_eq!(bytes.len(), int_length(value));
        assert_eq!(take_int(&mut &bytes[..]), Ok(value));
    }
    for bad in [&[0x80, 0x00][..], &[0xff, 0x00], &[0xff; 10], &[0xff; 11], &[]] {
        assert!(take_int(&mut &bad[..]).is_err(), "{bad:?}");
    }
}

#[test]
fn bytes_are_pinned() {
    let spec = JobSpec {
        id: JobId(300),
        queue: QueueName::new("mail").unwrap(),
        ttr: Duration::from_secs(60),
        attempts: 10,
        backoff: Duration::from_secs(1),
        key: Some(Key::new("k1").unwrap()),
        created_s: 0x0102_0304,
        keep: Duration::ZERO,
        batch: None,
        body: b"work"[..].into(),
    };
    let kept = JobSpec {
        keep: Duration::from_secs(1),
        batch: Some(BatchName::new("b1").unwrap()),
        key: None,
        body: Arc::default(),
        ..spec.clone()
    };
    let counts = || {
        let name = BatchName::new("b1").unwrap();
        BatchCounts { name, done: 1, cancelled: 2, deleted: 3, changed_wall_ms: 128 }
    };
    let done = |result_dropped| JobStatus {
        priority: Priority(7),
        place: Place::Done { until_wall_ms: 128, ran_ms: 5, result_dropped },
        counts: Counts::default(),
        reason: None,
    };
    let cancelled = JobStatus { place: Place::Cancelled { until_wall_ms: 128 }, ..done(false) };
    let ready =
        JobStatus { priority: Priority(1024), place: Place::Ready, counts: Counts::default(), reason: None };
    let delayed = JobStatus {
        priority: Priority(7),
        place: Place::Delayed { until_wall_ms: 1000 },
        counts: Counts { failures: 1, crashes: 2, returns: 3 },
        reason: Some("no".into()),
    };
    let job = b"\x01\xac\x02\x04mail\xe0\xd4\x03\x0a\xe8\x07\x02k1\x04\x03\x02\x01\x80\x08\x00\x00\x00\x00\x00\x04work";
    let queue = || QueueName::new("mail").unwrap();
    let job_with_extras =
        b"\x07\xac\x02\x04mail\xe0\xd4\x03\x0a\xe8\x07\0\x04\x03\x02\x01\xe8\x07\x02b1\x80\x08\0\0\0\0\0\0";
    let attempt = Attempt {
        number: 3,
        worker: Some(WorkerName::new("w1").unwrap()),
        started_ms: 128,
        ended_ms: 129,
        end: AttemptEnd::Lapsed,
        reason: Some("no".into()),
    };
    let bare = Attempt { worker: None, end: AttemptEnd::Lost, reason: None, ..attempt.clone() };
    let pinned: [(Change, &[u8]); 17] = [
        (Change::Attempt(JobId(5), attempt), b"\x0b\x05\x03\x02w1\x80\x01\x81\x01\x01\x03no"),
        (Change::Attempt(JobId(5), bare), b"\x0b\x05\x03\0\x80\x01\x81\x01\x02\0"),
        (Change::Job(kept, ready.clone()), job_with_extras),
        (
            Change::Done(JobId(5), done(false), b"4"[..].into()),
            b"\x08\x05\x07\x04\x80\x01\x05\0\0\0\0\0\x014",
        ),
        (Change::Done(JobId(5), done(true), Arc::default()), b"\x08\x05\x07\x04\x80\x01\x05\x01\0\0\0\0\0"),
        (Change::Status(JobId(5), cancelled), b"\x02\x05\x07\x05\x80\x01\0\0\0\0"),
        (Change::GoneOf(JobId(5), counts()), b"\x09\x05\x02b1\x01\x02\x03\x80\x01"),
        (Change::Batch(counts()), b"\x0a\x02b1\x01\x02\x03\x80\x01"),
        (Change::Job(spec, ready.clone()), job),
        (Change::Status(JobId(5), delayed), b"\x02\x05\x07\x01\xe8\x07\x01\x02\x03\x03no"),
        (
            Change::Status(JobId(5), JobStatus { place: Place::Dead { dead_seq: 0 }, ..ready.clone() }),
            b"\x02\x05\x80\x08\x02\0\0\0\0",
        ),
        (
            Change::Status(JobId(5), JobStatus { place: Place::Dead { dead_seq: 128 }, ..ready }),
            b"\x02\x05\x80\x08\x03\x80\x01\0\0\0\0",
        ),
        (Change::Gone(JobId(127)), b"\x03\x7f"),
        (Change::Pause(queue(), PauseState::Running), b"\x04\x04mail\x00"),
        (Change::Pause(queue(), PauseState::Paused), b"\x04\x04mail\x01"),
        (Change::Pause(queue(), PauseState::PausedUntil { wall_ms: 128 }), b"\x04\x04mail\x02\x80\x01"),
        (Change::IdsUsed(JobId(1)), b"\x05\x01"),
    ];
    for (change, bytes) in pinned {
        assert_eq!(encoded(&change), bytes, "{change:?}");
    }
    let mut dropped = Vec::new();
    encode_dropped(9, &mut dropped);
    assert_eq!(dropped, b"\x06\x09");
}
