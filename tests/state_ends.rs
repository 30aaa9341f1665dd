//! The state machine alone: many sessions that wait for one end, and batches from their first job until they are
//! forgotten.

use std::sync::Arc;
use std::time::Duration;

use djqs::internal::change::{BatchCounts, Change};
use djqs::internal::clock::{ManualClock, Moment, Now};
use djqs::internal::queue::state::{
    BATCH_KEPT, BATCH_OVERHEAD_BYTES, Returned, SessionEnd, SessionId, State,
};
use djqs::job::{BatchName, Finished};
use djqs::{Code, JobId, JobState, Options, QueueName, Submission};

/// How many sessions wait for the same end.
const MANY: usize = 200;

/// How many of them one call wakes.
const AT_ONCE: usize = 64;

fn at(millis: u64) -> Now {
    Now { mono: Moment::from_millis(millis), wall_ms: ManualClock::WALL_ORIGIN_MS + millis }
}

fn batch(name: &str) -> BatchName {
    BatchName::new(name).expect("it is good")
}

fn submit(state: &mut State, now: Now, options: &Options) -> JobId {
    state.submit(now, Submission::new("body").options(options)).expect("there is room").id
}

/// A state with a leased job of the batch `b`, and its worker.
fn leased(now: Now, attempts: u32) -> (State, JobId, SessionId) {
    let mut state = State::new(u64::MAX, 0);
    let id = submit(&mut state, now, &Options::default().batch(batch("b")).attempts(attempts));
    let worker = state.open_session();
    state.lease(now, worker, &[QueueName::default()]).expect("the job is ready");
    (state, id, worker)
}

fn woken(state: &mut State) -> Vec<SessionId> {
    std::mem::take(&mut state.effects().wakes)
}

fn result(text: &str) -> Returned {
    Returned::Result(text.as_bytes().into())
}

/// Ticks until nothing is due. Returns who was woken, and checks that no call wakes too many.
fn tick_all(state: &mut State, now: Now) -> Vec<SessionId> {
    let mut all = Vec::new();
    while state.next_deadline().is_some_and(|next| next <= now.mono) {
        state.tick(now, 256);
        let woken = woken(state);
        assert!(woken.len() <= AT_ONCE, "one call wakes {}", woken.len());
        all.extend(woken);
    }
    all
}

#[test]
fn all_who_wait_for_a_job_are_woken_in_turn_a_few_at_a_time() {
    let now = at(0);
    let (mut state, id, worker) = leased(now, 1);
    let waiters: Vec<_> = (0..MANY).map(|_| state.open_session()).collect();
    waiters.iter().for_each(|&waiter| state.wait_for_end(waiter, id));

    state.ack(now, worker, id, result("4")).expect("it is leased");
    let first = woken(&mut state);
    assert_eq!(first, waiters[..AT_ONCE]);
    assert_eq!(state.waiting(), (MANY - AT_ONCE) as u64);
    assert_eq!(state.next_deadline(), Some(now.mono), "the timekeeper continues at once");
    assert_eq!(tick_all(&mut state, now), waiters[AT_ONCE..]);

    let finished = Finished::Done { attempt: 1, ran: Duration::ZERO, result: Some(b"4".as_slice().into()) };
    for waiter in waiters {
        assert_eq!(state.take_finished(waiter), Some(finished.clone()));
    }
    assert_eq!(state.waiting(), 0);
}

#[test]
fn those_who_leave_before_their_turn_are_not_woken() {
    let now = at(0);
    let (mut state, id, worker) = leased(now, 1);
    let waiters: Vec<_> = (0..MANY).map(|_| state.open_session()).collect();
    waiters.iter().for_each(|&waiter| state.wait_for_end(waiter, id));
    state.fail(now, worker, id, None, false, Some("broken".into())).expect("it is leased");
    assert_eq!(woken(&mut state), waiters[..AT_ONCE]);

    // One stops waiting; the connection of another is lost, and its number is used again, by a session that
    // waits for another job; a third stops, and waits for the same job, which is ready again by then.
    let (left, lost, returned) = (waiters[100], waiters[110], waiters[120]);
    state.cancel_wait(left);
    assert!(state.end_session(now, lost, SessionEnd::Lost, 100));
    let other = submit(&mut state, now, &Options::default());
    let reused = state.open_session();
    assert_eq!(reused, lost);
    state.wait_for_end(reused, other);
    state.retry(now, id).expect("it is dead");
    state.cancel_wait(returned);
    state.wait_for_end(returned, id);

    let rest = tick_all(&mut state, now);
    let expected = waiters[AT_ONCE..].iter().filter(|waiter| ![left, lost, returned].contains(waiter));
    assert!(rest.iter().eq(expected.clone()), "{rest:?}");
    let dead = Finished::Dead { failures: 1, reason: Some("broken".into()) };
    for &waiter in waiters[..AT_ONCE].iter().chain(expected) {
        assert_eq!(state.take_finished(waiter), Some(dead.clone()), "although it is ready again");
    }
    assert_eq!(state.waiting(), 2);

    state.cancel(now, id, None).expect("it is there");
    assert_eq!(woken(&mut state), [returned]);
    assert_eq!(state.take_finished(returned), Some(Finished::Cancelled { reason: None }));
    state.cancel(now, other, None).expect("it is there");
    assert_eq!(woken(&mut state), [reused]);
}

#[test]
fn two_jobs_with_many_waiters_may_end_together() {
    let now = at(0);
    let (mut state, first, worker) = leased(now, 1);
    let second = submit(&mut state, now, &Options::default());
    let waiters: Vec<_> = (0..MANY).map(|_| state.open_session()).collect();
    for (number, &waiter) in waiters.iter().enumerate() {
        state.wait_for_end(waiter, if number % 2 == 0 { first } else { second });
    }
    state.ack(now, worker, first, result("1")).expect("it is leased");
    let later = at(5);
    state.cancel(later, second, None).expect("it is there");
    let mut all = woken(&mut state);
    all.extend(tick_all(&mut state, later));
    assert_eq!(all.len(), MANY);
    for (number, waiter) in waiters.into_iter().enumerate() {
        let finished = state.take_finished(waiter).expect("its job has ended");
        assert_eq!(matches!(finished, Finished::Done { .. }), number % 2 == 0, "{finished:?}");
    }
}

#[test]
fn all_who_wait_for_a_batch_are_woken_a_few_at_a_time() {
    let now = at(0);
    let (mut state, id, worker) = leased(now, 1);
    let waiters: Vec<_> = (0..MANY).map(|_| state.open_session()).collect();
    let wait = |state: &mut State, waiter, total| state.wait_for_batch(waiter, &batch("b"), total).unwrap();
    waiters.iter().for_each(|&waiter| wait(&mut state, waiter, 1));
    let patient = state.open_session();
    wait(&mut state, patient, 2);

    state.ack(now, worker, id, result("")).expect("it is leased");
    assert_eq!(woken(&mut state), waiters[..AT_ONCE]);
    let (left, lost) = (waiters[100], waiters[110]);
    state.cancel_wait(left);
    assert!(state.end_session(now, lost, SessionEnd::Lost, 100));
    let reused = state.open_session();
    assert_eq!(reused, lost);
    wait(&mut state, reused, 2);

    let rest = tick_all(&mut state, now);
    let expected = waiters[AT_ONCE..].iter().filter(|waiter| ![left, lost].contains(waiter));
    assert!(rest.iter().eq(expected.clone()), "{rest:?}");
    for &waiter in waiters[..AT_ONCE].iter().chain(expected) {
        assert_eq!(state.take_batch(waiter).expect("it is complete").total(), 1);
    }
    assert_eq!(state.waiting(), 2, "those who wait for a second job");

    let second = submit(&mut state, now, &Options::default().batch(batch("b")));
    state.cancel(now, second, None).expect("it is there");
    assert_eq!(woken(&mut state), [patient, reused]);
}

#[test]
fn jobs_with_a_few_waiters_each_that_end_in_one_call_wake_them_in_turn() {
    let now = at(0);
    let mut state = State::new(u64::MAX, 0);
    let options = Options::default().batch(batch("b"));
    let jobs: Vec<_> = (0..MANY / 20).map(|_| submit(&mut state, now, &options)).collect();
    let waiters: Vec<_> = (0..MANY).map(|_| state.open_session()).collect();
    for (number, &waiter) in waiters.iter().enumerate() {
        state.wait_for_end(waiter, jobs[number / 20]);
    }
    let last = *jobs.last().expect("there are some");
    let of = batch("b").into();
    let slice = state.cancel_all(now, &of, JobState::Ready, None, last, 256);
    assert!(slice.finished);
    assert_eq!(woken(&mut state), waiters[..AT_ONCE]);
    assert_eq!(tick_all(&mut state, now), waiters[AT_ONCE..]);
}

#[test]
fn batch_is_forgotten_once_nobody_waits_for_more_of_it() {
    let (mut state, id, worker) = leased(at(0), 1);
    state.ack(at(0), worker, id, result("")).expect("it is leased");
    let waiter = state.open_session();
    state.wait_for_batch(waiter, &batch("b"), 2).expect("there is room");
    let later = at(BATCH_KEPT.as_millis() as u64);
    tick_all(&mut state, later);
    assert_eq!(state.batch_stats(&batch("b")).total(), 1, "somebody waits for a second job");

    state.cancel_wait(waiter);
    tick_all(&mut state, later);
    assert_eq!(state.batch_stats(&batch("b")).total(), 0);
    assert_eq!(state.memory().0, 0);
}

#[test]
fn batch_is_forgotten_in_time_by_a_new_process() {
    let (mut state, id, worker) = leased(at(0), 1);
    state.set_journaled();
    state.ack(at(0), worker, id, result("")).expect("it is leased");
    let changes = std::mem::take(&mut state.effects().changes);

    // The new process begins ten minutes later; its clock begins at zero.
    let ten_minutes = 600_000;
    let begin = Now { mono: Moment::from_millis(0), ..at(ten_minutes) };
    let mut restored = State::new(u64::MAX, 0);
    changes.into_iter().for_each(|change| restored.restore(begin, change));
    let end = BATCH_KEPT.as_millis() as u64 - ten_minutes;
    let after = |millis| Now { mono: Moment::from_millis(millis), ..at(ten_minutes + millis) };
    tick_all(&mut restored, after(end - 1));
    assert_eq!(restored.batch_stats(&batch("b")).total(), 1);
    tick_all(&mut restored, after(end));
    assert_eq!(restored.batch_stats(&batch("b")).total(), 0);
}

#[test]
fn counts_of_a_forgotten_batch_do_not_return_with_a_restart() {
    let mut state = State::new(u64::MAX, 0);
    state.set_journaled();
    let options = Options::default().batch(batch("nightly"));
    let (worker, tomorrow) = (state.open_session(), at(24 * 3_600_000));
    submit(&mut state, at(0), &options);
    let lease = state.lease(at(0), worker, &[QueueName::default()]).expect("the job is ready");
    state.ack(at(0), worker, lease.id, result("")).expect("it is leased");
    tick_all(&mut state, tomorrow);
    submit(&mut state, tomorrow, &options);
    let stats = state.batch_stats(&batch("nightly"));
    assert_eq!(stats.total(), 1, "yesterday's is forgotten");

    let mut restored = State::new(u64::MAX, 0);
    let changes: Vec<Change> = std::mem::take(&mut state.effects().changes);
    changes.into_iter().for_each(|change| restored.restore(tomorrow, change));
    assert_eq!(restored.batch_stats(&batch("nightly")), stats);
}

#[test]
fn first_job_of_a_batch_needs_memory_for_both() {
    let cost = |options: &Options| {
        let mut state = State::new(u64::MAX, 0);
        submit(&mut state, at(0), options);
        state.memory().0
    };
    let options = Options::default().batch(batch("b"));
    let both = cost(&options);
    assert_eq!(both, cost(&Options::default()) + BATCH_OVERHEAD_BYTES);

    let submission = Submission::new("body").options(&options);
    let mut state = State::new(both, 0);
    state.submit(at(0), submission.clone()).expect("there is just room");
    let mut state = State::new(both - 1, 0);
    let refusal = state.submit(at(0), submission).expect_err("a byte is missing");
    assert_eq!((refusal.code, state.memory().0), (Code::Full, 0));
}

#[test]
fn result_that_does_not_fit_is_dropped_and_its_job_is_done() {
    let options = Options::default().keep(Duration::from_secs(1));
    let mut state = State::new(8_192, 0);
    let id = submit(&mut state, at(0), &options);
    let worker = state.open_session();
    state.lease(at(0), worker, &[QueueName::default()]).expect("the job is ready");
    let long: Arc<[u8]> = vec![b'x'; 10_000].into();
    state.ack(at(0), worker, id, Returned::Result(long)).expect("it is never refused");
    let dropped = Finished::Done { attempt: 1, ran: Duration::ZERO, result: None };
    assert_eq!(state.finished(id), Ok(Some(dropped)));
    tick_all(&mut state, at(1_000));
    assert_eq!(state.finished(id), Ok(Some(Finished::Gone)));
    assert_eq!(state.memory().0, 0);
}

#[test]
fn counts_of_a_forged_journal_do_not_overflow() {
    let (name, all) = (batch("b"), u64::MAX);
    let counts = BatchCounts { name, done: all, cancelled: all, deleted: all, changed_wall_ms: all };
    let mut state = State::new(u64::MAX, 0);
    state.restore(at(0), Change::Batch(counts));
    let id = submit(&mut state, at(0), &Options::default().batch(batch("b")));
    let session = state.open_session();
    state.delete(at(0), session, id).expect("it is there");
    assert!(state.batch_stats(&batch("b")).is_complete(1));
}
