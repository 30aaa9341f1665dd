//! The ends of jobs in the state machine alone: batches, waits for one job or one batch, kept results, cancelled
//! jobs. Each line has the mean of all calls and the slowest call, for 10,000, 100,000 and 1,000,000 of them: a
//! call whose work grew with their number would show in both.
//!
//! `cargo bench --bench ends`; it takes some 2 GB of memory for a few seconds.
#![allow(clippy::disallowed_methods, reason = "the time is what is measured here")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use djqs::internal::clock::{Moment, Now};
use djqs::internal::queue::state::{Returned, SessionId, State};
use djqs::job::{BatchName, Group};
use djqs::{JobId, JobState, Options, QueueName, Submission};

const KEEP: Duration = Duration::from_secs(1);

/// How many jobs a slice of a long operation has, as in the server.
const SLICE: u64 = 256;

fn main() {
    println!("{:>9}  {:<34} {:>10} {:>12}", "number", "call", "mean", "slowest");
    for number in [10_000, 100_000, 1_000_000] {
        jobs_of_a_batch(number);
        waits_for_a_job(number);
        waits_for_a_batch(number);
        waits_that_are_left(number);
        kept_results(number);
        cancelled_jobs(number);
    }
}

/// What calls of one kind took.
#[derive(Default)]
struct Times {
    calls: u32,
    all: Duration,
    slowest: Duration,
}

impl Times {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let value = black_box(call());
        let took = begun.elapsed();
        self.calls += 1;
        self.all += took;
        self.slowest = self.slowest.max(took);
        value
    }

    fn print(&self, number: u64, call: &str) {
        let (mean, slowest) = (self.all.as_nanos() / u128::from(self.calls.max(1)), self.slowest.as_nanos());
        println!("{number:>9}  {call:<34} {mean:>7} ns {slowest:>9} ns");
    }
}

fn at(millis: u64) -> Now {
    Now { mono: Moment::from_millis(millis), wall_ms: millis }
}

fn batch() -> BatchName {
    BatchName::new("nightly").expect("this is a name")
}

fn new_state() -> (State, SessionId, [QueueName; 1]) {
    let mut state = State::new(u64::MAX, 1);
    let worker = state.open_session();
    (state, worker, [QueueName::default()])
}

fn result() -> Returned {
    Returned::Result(Arc::from(*b"a result of some twenty bytes"))
}

/// Submits so many jobs.
fn submit(state: &mut State, number: u64, options: &Options) -> Times {
    let mut times = Times::default();
    for _ in 0..number {
        let submission = Submission::new([b'x'; 100]).options(options);
        times.time(|| state.submit(at(0), submission).expect("memory is not limited"));
    }
    times
}

/// Leases and acknowledges all jobs that are ready.
fn work(state: &mut State, worker: SessionId, queues: &[QueueName]) -> Times {
    let mut times = Times::default();
    while let Some(lease) = state.lease(at(0), worker, queues) {
        times.time(|| state.ack(at(0), worker, lease.id, result()).expect("it is leased"));
    }
    times
}

fn open_sessions(state: &mut State, number: u64) -> Vec<SessionId> {
    (0..number).map(|_| state.open_session()).collect()
}

/// Ticks until nothing is due. Returns how many sessions were woken.
fn tick_all(state: &mut State, now: Now, times: &mut Times) -> u64 {
    let mut woken = 0;
    while state.next_deadline().is_some_and(|next| next <= now.mono) {
        times.time(|| state.tick(now, SLICE));
        woken += state.effects().wakes.drain(..).count() as u64;
    }
    woken
}

fn jobs_of_a_batch(number: u64) {
    let (mut state, worker, queues) = new_state();
    submit(&mut state, number, &Options::default().batch(batch())).print(number, "batch: TASK");
    let (mut look, mut list) = (Times::default(), Times::default());
    for page in 0..1000 {
        look.time(|| state.batch_stats(&batch()));
        let after = Some(JobId(page * (number / 1000)));
        list.time(|| state.list(at(0), &Group::from(batch()), None, 100, after));
    }
    look.print(number, "batch: BATCH");
    list.print(number, "batch: LIST of 100 jobs");
    work(&mut state, worker, &queues).print(number, "batch: ACK");
    assert!(state.batch_stats(&batch()).is_complete(number));
}

fn waits_for_a_job(number: u64) {
    let (mut state, worker, queues) = new_state();
    submit(&mut state, 1, &Options::default());
    let sessions = open_sessions(&mut state, number);
    let mut times = Times::default();
    for &session in &sessions {
        times.time(|| state.wait_for_end(session, JobId(1)));
    }
    times.print(number, "wait for a job: WAIT");
    work(&mut state, worker, &queues).print(number, "wait for a job: its ACK");
    let (mut times, first) = (Times::default(), state.effects().wakes.drain(..).count() as u64);
    assert_eq!(first + tick_all(&mut state, at(0), &mut times), number);
    times.print(number, "wait for a job: tick that wakes");
    let mut times = Times::default();
    for session in sessions {
        times.time(|| state.take_finished(session).expect("the job has ended"));
    }
    times.print(number, "wait for a job: DONE");
}

fn waits_for_a_batch(number: u64) {
    let (mut state, worker, queues) = new_state();
    submit(&mut state, 1000, &Options::default().batch(batch()));
    let sessions = open_sessions(&mut state, number);
    let mut times = Times::default();
    for (total, &session) in sessions.iter().enumerate() {
        times.time(|| state.wait_for_batch(session, &batch(), total as u64 % 1000)).expect("there is room");
    }
    times.print(number, "wait for a batch: BATCH");
    work(&mut state, worker, &queues).print(number, "wait for a batch: ACK of its jobs");
    let (mut times, first) = (Times::default(), state.effects().wakes.drain(..).count() as u64);
    assert_eq!(first + tick_all(&mut state, at(0), &mut times), number);
    times.print(number, "wait for a batch: tick that wakes");
}

fn waits_that_are_left(number: u64) {
    let (mut state, _, _) = new_state();
    submit(&mut state, 1, &Options::default().batch(batch()));
    let sessions = open_sessions(&mut state, number);
    for (place, &session) in sessions.iter().enumerate() {
        if place % 2 == 0 {
            state.wait_for_end(session, JobId(1));
        } else {
            state.wait_for_batch(session, &batch(), 1).expect("there is room");
        }
    }
    // In another order than they came.
    let mut times = Times::default();
    let mut place = 0;
    for _ in 0..number {
        place = (place + 7_919) % sessions.len();
        times.time(|| state.cancel_wait(sessions[place]));
    }
    assert_eq!(state.waiting(), 0);
    times.print(number, "wait: given up");
}

fn kept_results(number: u64) {
    let (mut state, worker, queues) = new_state();
    submit(&mut state, number, &Options::default().keep(KEEP));
    work(&mut state, worker, &queues).print(number, "kept results: ACK");
    let mut look = Times::default();
    for id in (1..=number).step_by((number / 1000) as usize) {
        look.time(|| state.finished(JobId(id)).expect("it was given"));
    }
    look.print(number, "kept results: WAIT wait=0");
    let mut times = Times::default();
    tick_all(&mut state, at(KEEP.as_millis() as u64), &mut times);
    assert_eq!(state.counts().total(), 0);
    times.print(number, "kept results: tick that forgets 256");
}

fn cancelled_jobs(number: u64) {
    let (mut state, _, _) = new_state();
    submit(&mut state, number, &Options::default().batch(batch()));
    let (of, mut times) = (Group::from(batch()), Times::default());
    let slice = |state: &mut State| {
        state.cancel_all(at(0), &of, JobState::Ready, None, JobId(u64::MAX), SLICE).finished
    };
    while !times.time(|| slice(&mut state)) {}
    assert_eq!(state.batch_stats(&batch()).jobs.cancelled, number);
    times.print(number, "CANCEL of 256 jobs of a batch");
}
