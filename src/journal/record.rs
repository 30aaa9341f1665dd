//! Records: one change each, as bytes.
//!
//! A record is a tag byte and its fields. Integers are in LEB128 (seven bits a byte, the lowest first, as few
//! bytes as will do), texts and bodies have their length in front. A record has no length of its own: records lie
//! end to end in a batch, whose checksum has been proved before the first of them is looked at.
//!
//! | record | tag | fields |
//! |---|---|---|
//! | a job, whole | 1 | id, queue, ttr, attempts, backoff, key (empty: none), time of submission, status, body |
//! | its status | 2 | id, status |
//! | its end | 3 | id |
//! | a queue's pause | 4 | queue; 0 running, 1 paused, or 2 and until when |
//! | ids used | 5 | the highest |
//! | segments dropped | 6 | the highest |
//!
//! A status is: priority; 0 ready, 1 and until when: delayed, 2 dead, or 3 and the turn in which it died; failures, crashes,
//! returns; the length of the reason and one more (0: none), and the reason. A queue is one byte of length and its name. Durations
//! are in milliseconds, moments in milliseconds since 1970, the time of submission in four bytes of seconds since 1970, the lowest
//! first. 2 is what the dead had before turns were kept: they are put in line as they come.
//!
//! Each change has exactly one form, and the decoder takes no other: what it accepts, encoded again, gives the
//! same bytes. `version_1_bytes_are_pinned` holds it still.

use std::sync::Arc;
use std::time::Duration;

use crate::change::{Change, JobSpec, JobStatus, PauseState, Place, millis};
use crate::job::{Counts, JobId, Key, Priority, QueueName};

const TAG_JOB: u8 = 1;
const TAG_STATUS: u8 = 2;
const TAG_GONE: u8 = 3;
const TAG_PAUSE: u8 = 4;
const TAG_IDS_USED: u8 = 5;
const TAG_DROPPED: u8 = 6;

const PLACE_READY: u8 = 0;
const PLACE_DELAYED: u8 = 1;
const PLACE_DEAD: u8 = 2;
const PLACE_DEAD_IN_TURN: u8 = 3;

const PAUSE_RUNNING: u8 = 0;
const PAUSE_PAUSED: u8 = 1;
const PAUSE_UNTIL: u8 = 2;

/// What a record can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A change to a job or a queue.
    Change(Change),
    /// All segments up to and including this one are of no more use. Written, and made durable, before the first
    /// of them is removed: so a segment that is missing without it is known to be lost.
    Dropped(u64),
}

/// A record that breaks the format, though its checksum is right: what breaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRecord(pub(super) &'static str);

/// Appends `change` to `out`.
pub(super) fn encode(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Job(spec, status) => put_job(spec, status, out),
        Change::Status(id, status) => {
            out.push(TAG_STATUS);
            put_int(id.0, out);
            put_status(status, out);
        }
        Change::Gone(id) => {
            out.push(TAG_GONE);
            put_int(id.0, out);
        }
        Change::Pause(queue, state) => {
            out.push(TAG_PAUSE);
            put_queue(queue, out);
            put_pause(*state, out);
        }
        Change::IdsUsed(id) => {
            out.push(TAG_IDS_USED);
            put_int(id.0, out);
        }
    }
}

/// Appends the record that says that segments up to `segment` are of no more use.
pub(super) fn encode_dropped(segment: u64, out: &mut Vec<u8>) {
    out.push(TAG_DROPPED);
    put_int(segment, out);
}

/// Reads the records that lie end to end in `payload`, in order.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Begins at the front of `payload`.
    pub(super) fn new(payload: &'a [u8]) -> Records<'a> {
        Records { rest: payload }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = take_record(&mut self.rest);
        if record.is_err() {
            // What follows a bad record cannot be found.
            self.rest = &[];
        }
        Some(record)
    }
}

fn take_record(rest: &mut &[u8]) -> Result<Record, BadRecord> {
    let change = match take_byte(rest)? {
        TAG_JOB => take_job(rest)?,
        TAG_STATUS => Change::Status(take_id(rest)?, take_status(rest)?),
        TAG_GONE => Change::Gone(take_id(rest)?),
        TAG_PAUSE => Change::Pause(take_queue(rest)?, take_pause(rest)?),
        TAG_IDS_USED => Change::IdsUsed(take_id(rest)?),
        TAG_DROPPED => return Ok(Record::Dropped(take_int(rest)?)),
        _ => return Err(BadRecord("unknown kind of record")),
    };
    Ok(Record::Change(change))
}

fn put_job(spec: &JobSpec, status: &JobStatus, out: &mut Vec<u8>) {
    out.push(TAG_JOB);
    put_int(spec.id.0, out);
    put_queue(&spec.queue, out);
    put_int(millis(spec.ttr), out);
    put_int(u64::from(spec.attempts), out);
    put_int(millis(spec.backoff), out);
    let key = spec.key.as_ref().map_or("", Key::as_str);
    put_bytes(key.as_bytes(), out);
    out.extend_from_slice(&spec.created_s.to_le_bytes());
    put_status(status, out);
    put_bytes(&spec.body, out);
}

fn take_job(rest: &mut &[u8]) -> Result<Change, BadRecord> {
    let id = take_id(rest)?;
    let queue = take_queue(rest)?;
    let ttr = Duration::from_millis(take_int(rest)?);
    let attempts = take_u32(rest)?;
    let backoff = Duration::from_millis(take_int(rest)?);
    let key = match take_text(rest)? {
        "" => None,
        text => Some(Key::new(text).map_err(|_| BadRecord("not a key"))?),
    };
    let created_s = take(rest, 4)?;
    let created_s = u32::from_le_bytes([created_s[0], created_s[1], created_s[2], created_s[3]]);
    let status = take_status(rest)?;
    let body = Arc::from(take_bytes(rest)?);
    Ok(Change::Job(JobSpec { id, queue, ttr, attempts, backoff, key, created_s, body }, status))
}

fn put_status(status: &JobStatus, out: &mut Vec<u8>) {
    put_int(u64::from(status.priority.0), out);
    match status.place {
        Place::Ready => out.push(PLACE_READY),
        Place::Delayed { until_wall_ms } => {
            out.push(PLACE_DELAYED);
            put_int(until_wall_ms, out);
        }
        Place::Dead { turn: 0 } => out.push(PLACE_DEAD),
        Place::Dead { turn } => {
            out.push(PLACE_DEAD_IN_TURN);
            put_int(turn, out);
        }
    }
    put_int(u64::from(status.counts.failures), out);
    put_int(u64::from(status.counts.crashes), out);
    put_int(u64::from(status.counts.returns), out);
    // One more than its length, so that no reason and an empty one are two things.
    match &status.reason {
        None => out.push(0),
        Some(reason) => {
            put_int(reason.len() as u64 + 1, out);
            out.extend_from_slice(reason.as_bytes());
        }
    }
}

fn take_status(rest: &mut &[u8]) -> Result<JobStatus, BadRecord> {
    let priority = Priority(take_u32(rest)?);
    let place = match take_byte(rest)? {
        PLACE_READY => Place::Ready,
        PLACE_DELAYED => Place::Delayed { until_wall_ms: take_int(rest)? },
        PLACE_DEAD => Place::Dead { turn: 0 },
        PLACE_DEAD_IN_TURN => match take_int(rest)? {
            0 => return Err(BadRecord("a turn of 0")),
            turn => Place::Dead { turn },
        },
        _ => return Err(BadRecord("not a place")),
    };
    let (failures, crashes, returns) = (take_u32(rest)?, take_u32(rest)?, take_u32(rest)?);
    let reason = match take_int(rest)? {
        0 => None,
        n => Some(Arc::from(text(take_long(rest, n - 1)?)?)),
    };
    Ok(JobStatus { priority, place, counts: Counts { failures, crashes, returns }, reason })
}

fn put_pause(state: PauseState, out: &mut Vec<u8>) {
    match state {
        PauseState::Running => out.push(PAUSE_RUNNING),
        PauseState::Paused => out.push(PAUSE_PAUSED),
        PauseState::PausedUntil { wall_ms } => {
            out.push(PAUSE_UNTIL);
            put_int(wall_ms, out);
        }
    }
}

fn take_pause(rest: &mut &[u8]) -> Result<PauseState, BadRecord> {
    match take_byte(rest)? {
        PAUSE_RUNNING => Ok(PauseState::Running),
        PAUSE_PAUSED => Ok(PauseState::Paused),
        PAUSE_UNTIL => Ok(PauseState::PausedUntil { wall_ms: take_int(rest)? }),
        _ => Err(BadRecord("not a state of a queue")),
    }
}

fn put_queue(queue: &QueueName, out: &mut Vec<u8>) {
    // A name has at most 200 bytes.
    out.push(queue.as_str().len() as u8);
    out.extend_from_slice(queue.as_str().as_bytes());
}

fn take_queue(rest: &mut &[u8]) -> Result<QueueName, BadRecord> {
    let length = take_byte(rest)?;
    QueueName::from_bytes(take(rest, usize::from(length))?).map_err(|_| BadRecord("not a queue's name"))
}

fn take_id(rest: &mut &[u8]) -> Result<JobId, BadRecord> {
    take_int(rest).map(JobId)
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_int(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadRecord> {
    let length = take_int(rest)?;
    take_long(rest, length)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, BadRecord> {
    text(take_bytes(rest)?)
}

fn text(bytes: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(bytes).map_err(|_| BadRecord("not UTF-8"))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], BadRecord> {
    let (taken, left) = rest.split_at_checked(length).ok_or(BadRecord("a field reaches past the batch"))?;
    *rest = left;
    Ok(taken)
}

fn take_long<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], BadRecord> {
    take(rest, usize::try_from(length).unwrap_or(usize::MAX))
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, BadRecord> {
    take(rest, 1).map(|bytes| bytes[0])
}

fn put_int(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_int(rest: &mut &[u8]) -> Result<u64, BadRecord> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest)?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
            return Err(BadRecord("not an integer"));
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BadRecord("not an integer"))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, BadRecord> {
    u32::try_from(take_int(rest)?).map_err(|_| BadRecord("an integer is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{JobSize, int_length, job_bytes};
    use proptest::prelude::*;

    fn status() -> impl Strategy<Value = JobStatus> {
        let place = prop_oneof![
            Just(Place::Ready),
            any::<u64>().prop_map(|turn| Place::Dead { turn }),
            any::<u64>().prop_map(|until_wall_ms| Place::Delayed { until_wall_ms }),
        ];
        let counts = (any::<u32>(), any::<u32>(), 0..200u32)
            .prop_map(|(failures, crashes, returns)| Counts { failures, crashes, returns });
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

    fn spec() -> impl Strategy<Value = JobSpec> {
        let times = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>());
        let key = proptest::option::of("[a-z]{1,200}".prop_map(|text| Key::new(&text).unwrap()));
        (any::<u64>(), queue(), times, key, proptest::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(id, queue, (attempts, ttr, backoff, created_s), key, body)| JobSpec {
                id: JobId(id),
                queue,
                ttr: Duration::from_millis(ttr),
                attempts,
                backoff: Duration::from_millis(backoff),
                key,
                created_s,
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
            any::<u64>().prop_map(|id| Change::Gone(JobId(id))),
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
            // A time or a turn takes up to 10 bytes, two of the counts up to 5, the third up to 2.
            prop_assert!(size <= whole && whole <= size + 19, "{} of {}", size, whole);
            let least = JobStatus { place: Place::Ready, counts: Counts::default(), ..status };
            prop_assert_eq!(size, encoded(&Change::Job(spec, least)).len() as u64);
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
    fn version_1_bytes_are_pinned() {
        let spec = JobSpec {
            id: JobId(300),
            queue: QueueName::new("mail").unwrap(),
            ttr: Duration::from_secs(60),
            attempts: 10,
            backoff: Duration::from_secs(1),
            key: Some(Key::new("k1").unwrap()),
            created_s: 0x0102_0304,
            body: b"work"[..].into(),
        };
        let ready = JobStatus {
            priority: Priority(1024),
            place: Place::Ready,
            counts: Counts::default(),
            reason: None,
        };
        let delayed = JobStatus {
            priority: Priority(7),
            place: Place::Delayed { until_wall_ms: 1000 },
            counts: Counts { failures: 1, crashes: 2, returns: 3 },
            reason: Some("no".into()),
        };
        let job = b"\x01\xac\x02\x04mail\xe0\xd4\x03\x0a\xe8\x07\x02k1\x04\x03\x02\x01\x80\x08\x00\x00\x00\x00\x00\x04work";
        let queue = || QueueName::new("mail").unwrap();
        let pinned: [(Change, &[u8]); 9] = [
            (Change::Job(spec, ready.clone()), job),
            (Change::Status(JobId(5), delayed), b"\x02\x05\x07\x01\xe8\x07\x01\x02\x03\x03no"),
            (
                Change::Status(JobId(5), JobStatus { place: Place::Dead { turn: 0 }, ..ready.clone() }),
                b"\x02\x05\x80\x08\x02\0\0\0\0",
            ),
            (
                Change::Status(JobId(5), JobStatus { place: Place::Dead { turn: 128 }, ..ready }),
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
}
