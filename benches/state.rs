//! The state machine alone, without lock, socket or journal: what a job costs by how many jobs wait and in
//! how many queues.
//!
//! `cargo bench --bench state`; with `DJQS_BENCH_HUGE=1` up to 10,000,000 jobs, which takes some 2 GB of
//! memory. `-- jobs` or `-- queues` runs one half. The number of waiting jobs is the same before and after
//! each batch: what one batch submits or takes is undone outside the measured time.
#![allow(clippy::disallowed_methods, reason = "the time is what is measured here")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use djqs::internal::clock::{Moment, Now};
use djqs::internal::queue::state::{Returned, SessionId, State};
use djqs::{QueueName, Submission};

const BODY_BYTES: usize = 100;

/// Jobs submitted or taken between two looks at the clock.
const BATCH: u64 = 1000;

/// How many jobs wait while the number of queues is varied.
const JOBS_IN_QUEUES: u64 = 100_000;

const NOW: Now = Now { mono: Moment::from_millis(0), wall_ms: 0 };

/// A state with jobs waiting, evenly in each queue.
struct Filled {
    state: State,
    session: SessionId,
    queues: Vec<[QueueName; 1]>,
    /// Queues take turns.
    submitted: usize,
    taken: usize,
}

impl Filled {
    fn new(jobs: u64, queues: usize) -> Filled {
        let mut state = State::new(u64::MAX, 1);
        let session = state.open_session();
        let name = |number| [QueueName::new(&format!("queue-{number}")).expect("this is a name")];
        let mut filled =
            Filled { state, session, queues: (0..queues).map(name).collect(), submitted: 0, taken: 0 };
        for _ in 0..jobs {
            let submission = filled.next_submission();
            filled.submit(submission);
        }
        filled
    }

    fn next_submission(&mut self) -> Submission {
        let [queue] = self.queues[self.submitted % self.queues.len()].clone();
        self.submitted += 1;
        Submission::new([b'x'; BODY_BYTES]).to(&queue)
    }

    fn submit(&mut self, submission: Submission) {
        black_box(self.state.submit(NOW, submission).expect("memory is not limited"));
    }

    fn take(&mut self) {
        let queue = &self.queues[self.taken % self.queues.len()];
        self.taken += 1;
        let lease = self.state.lease(NOW, self.session, queue).expect("jobs wait in each queue");
        let returned = Returned::Result(Arc::default());
        self.state.ack(NOW, self.session, black_box(&lease).id, returned).expect("it is leased");
    }

    /// How long so many submissions take; making them, their bodies too, does not count.
    fn time_submitting(&mut self, count: u64) -> Duration {
        let submissions: Vec<_> = (0..count).map(|_| self.next_submission()).collect();
        let begun = Instant::now();
        submissions.into_iter().for_each(|submission| self.submit(submission));
        let took = begun.elapsed();
        (0..count).for_each(|_| self.take());
        took
    }

    /// How long so many leases and acknowledgements take.
    fn time_taking(&mut self, count: u64) -> Duration {
        let begun = Instant::now();
        (0..count).for_each(|_| self.take());
        let took = begun.elapsed();
        for _ in 0..count {
            let submission = self.next_submission();
            self.submit(submission);
        }
        took
    }
}

/// Runs `time` over as many jobs as asked for, a batch at a time.
fn in_batches(jobs: u64, mut time: impl FnMut(u64) -> Duration) -> Duration {
    let whole: Duration = (0..jobs / BATCH).map(|_| time(BATCH)).sum();
    whole + time(jobs % BATCH)
}

fn measure(criterion: &mut Criterion, by: &str, number: u64, mut filled: Filled) {
    let mut group = criterion.benchmark_group(by);
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("submit", number), |bencher| {
        bencher.iter_custom(|jobs| in_batches(jobs, |count| filled.time_submitting(count)));
    });
    group.bench_function(BenchmarkId::new("lease+ack", number), |bencher| {
        bencher.iter_custom(|jobs| in_batches(jobs, |count| filled.time_taking(count)));
    });
    group.finish();
}

fn by_jobs(criterion: &mut Criterion) {
    let huge = std::env::var_os("DJQS_BENCH_HUGE").map(|_| 10_000_000);
    for jobs in [1000, 10_000, 100_000, 1_000_000].into_iter().chain(huge) {
        measure(criterion, "jobs", jobs, Filled::new(jobs, 1));
    }
}

fn by_queues(criterion: &mut Criterion) {
    for queues in [1, 100, 10_000] {
        measure(criterion, "queues", queues, Filled::new(JOBS_IN_QUEUES, queues as usize));
    }
}

criterion_group!(benches, by_jobs, by_queues);
criterion_main!(benches);
