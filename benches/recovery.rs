//! How long a start takes beside what it can't do without: reading and checksumming the journal's bytes, and
//! building the queue.
//!
//! `cargo bench --bench recovery`. All three are done in turn, several times; the bound is for their medians.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the time is what is measured here")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use djqs::broker::Config;
use djqs::internal::change::Change;
use djqs::internal::clock::{Moment, Now};
use djqs::internal::journal::storage::DiskStorage;
use djqs::internal::journal::{self, Fsync, Options};
use djqs::internal::queue::state::State;
use djqs::{Broker, Submission};

const JOBS: u64 = 1_000_000;
const BODY_BYTES: usize = 100;
const ROUNDS: usize = 7;

/// Recovery takes at most so many times as long as both parts that it can't do without.
const ASKED: f64 = 1.5;

const NOW: Now = Now { mono: Moment::from_millis(0), wall_ms: 0 };

fn open(directory: &Path) -> Broker {
    let storage = DiskStorage::open(directory).expect("the directory is ours");
    let options = Options { fsync: Fsync::Never, ..Options::default() };
    Broker::open(Config::default(), Arc::new(storage), options).expect("the journal is sound").0
}

/// Writes a journal of waiting jobs, and leaves it as a crash would.
fn fill(directory: &Path) {
    let broker = open(directory);
    let mut session = broker.connect();
    for _ in 0..JOBS {
        session.submit(Submission::new([b'x'; BODY_BYTES])).expect("there is room");
    }
    session.settle().expect("the disk works");
}

/// Reads and checksums all files; returns how many bytes they have.
fn read_and_checksum(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory)
        .expect("it is there")
        .map(|entry| entry.expect("it can be listed").path());
    let bytes = files.filter(|file| file.extension().is_some_and(|ending| ending == "journal")).map(|file| {
        let bytes = std::fs::read(file).expect("it can be read");
        black_box(crc32fast::hash(&bytes));
        bytes.len() as u64
    });
    bytes.sum()
}

/// Builds a queue of the journal's jobs, their bodies' memory included.
fn build(jobs: &[Change]) -> State {
    let mut state = State::new(u64::MAX, 1);
    for change in jobs {
        let mut change = change.clone();
        if let Change::Job(spec, _) = &mut change {
            spec.body = Arc::from(&spec.body[..]);
        }
        state.restore(NOW, change);
    }
    state
}

/// How many milliseconds `work` takes; what it returns is dropped behind that.
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed().as_secs_f64() * 1e3;
    drop(black_box(result));
    took
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room");
    fill(directory.path());
    let mut jobs = Vec::new();
    let storage = DiskStorage::open_read_only(directory.path()).expect("it is there");
    let found = journal::read(&storage, &mut |change| jobs.push(change)).expect("the journal is sound");
    drop(storage);
    let (mut reading, mut building, mut recovering) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        reading.push(timed(|| read_and_checksum(directory.path())));
        building.push(timed(|| build(&jobs)));
        recovering.push(timed(|| open(directory.path())));
    }
    let (reading, building, recovering) = (median(reading), median(building), median(recovering));
    println!(
        "{JOBS} jobs of {BODY_BYTES} bytes, {} bytes of journal; medians of {ROUNDS} rounds",
        found.bytes
    );
    println!("reading and checksumming: {reading:.0} ms");
    println!("building the queue: {building:.0} ms");
    println!(
        "recovery: {recovering:.0} ms, {:.2} times both; asked: {ASKED}",
        recovering / (reading + building)
    );
}
