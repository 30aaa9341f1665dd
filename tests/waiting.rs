//! The shared queue's waits, on a clock that stands still: what a thread that waits for a job gets to see.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use djqs::internal::change::Change;
use djqs::internal::clock::{Clock, ManualClock, Stopwatch};
use djqs::internal::queue::state::{Returned, State, Warn};
use djqs::internal::queue::{Awaited, Queue, Recorder, Wait, Waited};
use djqs::protocol::OnDrained;
use djqs::{JobId, Options, QueueName, Submission};

/// How long to wait for what must come at once, before it is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// Where changes go when nobody wants to know of them.
struct Nowhere;

impl Recorder for Nowhere {
    type Position = ();

    fn record(&mut self, _: &[Change], _: &State) {}

    fn position(&self) {}

    fn position_of(&mut self, _: JobId) {}
}

/// Until somebody waits for a job.
fn until_one_waits(queue: &Queue<Nowhere>) {
    let begun = Stopwatch::start();
    while queue.with(queue.clock().now(), |state, _| state.waiting()).unwrap().0 == 0 {
        assert!(begun.elapsed() < LOST_AFTER, "nobody stands in line");
        thread::yield_now();
    }
}

#[test]
fn lease_that_lapses_before_its_waiter_wakes_does_not_end_the_wait() {
    let clock = ManualClock::default();
    let queue = Arc::new(Queue::new(State::new(u64::MAX, 1), Clock::Manual(clock.clone()), Nowhere, || ()));
    let (done, told_done) = mpsc::channel();
    let waiter = {
        let queue = queue.clone();
        thread::spawn(move || {
            let (session, _) = queue.open_session();
            let waited = queue
                .wait(
                    session,
                    &Wait {
                        awaited: Awaited::Job {
                            queues: &[QueueName::default()],
                            warn: Warn::Never,
                            on_drained: OnDrained::Wait,
                        },
                        deadline: None,
                    },
                )
                .unwrap();
            done.send(waited).expect("the test listens");
        })
    };
    until_one_waits(&queue);

    // All under one lock, so before the waiter can look: the job is handed to it, and its lease is over.
    let options = Options::default().ttr(Duration::from_millis(1));
    let submission = Submission::new(*b"work").options(&options);
    let (id, ()) = queue
        .with(queue.clock().now(), |state, now| {
            let id = state.submit(now, submission).expect("there is room").id;
            assert_eq!((state.counts().leased, state.waiting()), (1, 0), "it is handed to the waiter");
            clock.advance(Duration::from_millis(1));
            state.tick(queue.clock().now(), 1);
            assert_eq!(state.counts().ready, 1, "its lease has lapsed");
            id
        })
        .unwrap();

    match told_done.recv_timeout(LOST_AFTER).expect("it gets the job nevertheless") {
        Waited::Leased(lease, ()) => assert_eq!((lease.id, lease.attempt), (id, 2)),
        other => panic!("{other:?}, though there is a job"),
    }
    waiter.join().expect("it has not panicked");
}

#[test]
fn wait_for_drained_queues_ends_with_the_last_job() {
    let queue = Arc::new(Queue::new(State::new(u64::MAX, 1), Clock::system(), Nowhere, || ()));
    let timekeeper = {
        let queue = queue.clone();
        thread::spawn(move || queue.keep_time(|| ()))
    };
    let now = || queue.clock().now();
    let (worker, _) = queue.open_session();
    queue
        .with(now(), |state, now| state.submit(now, Submission::new(*b"work")).map(drop))
        .unwrap()
        .0
        .unwrap();
    let (lease, ()) = queue.locked(|locked| locked.lease(now(), worker, &[])).unwrap().expect("a job");
    let (done, told_done) = mpsc::channel();
    let waiter = {
        let queue = queue.clone();
        thread::spawn(move || {
            let (session, _) = queue.open_session();
            let wait = Wait {
                awaited: Awaited::Job { queues: &[], warn: Warn::Never, on_drained: OnDrained::End },
                deadline: None,
            };
            done.send(queue.wait(session, &wait).unwrap()).expect("the test listens");
        })
    };
    until_one_waits(&queue);
    queue
        .with(now(), |state, now| state.ack(now, worker, lease.id, Returned::Result(Arc::default())))
        .unwrap()
        .0
        .expect("it is leased");
    let waited = told_done.recv_timeout(LOST_AFTER).expect("nothing is left to wait for");
    assert_eq!(waited, Waited::Drained(vec![], ()));
    waiter.join().expect("it has not panicked");
    queue.stop();
    timekeeper.join().expect("it has not panicked");
}

#[test]
fn warning_that_comes_together_with_a_job_does_not_end_the_next_wait() {
    let clock = ManualClock::default();
    let queue = Arc::new(Queue::new(State::new(u64::MAX, 1), Clock::Manual(clock.clone()), Nowhere, || ()));
    let now = || queue.clock().now();
    let (session, _) = queue.open_session();
    let submit = |state: &mut State, now, ttr| {
        let options = Options::default().ttr(Duration::from_secs(ttr));
        state.submit(now, Submission::new(*b"work").options(&options)).expect("there is room").id
    };
    let (first, ()) = queue.with(now(), |state, now| submit(state, now, 10)).unwrap();
    queue.locked(|locked| locked.lease(now(), session, &[])).unwrap().expect("there is a job");
    let waiter = {
        let queue = queue.clone();
        thread::spawn(move || {
            queue
                .wait(
                    session,
                    &Wait {
                        awaited: Awaited::Job {
                            queues: &[],
                            warn: Warn::BeforeLapse,
                            on_drained: OnDrained::Wait,
                        },
                        deadline: None,
                    },
                )
                .unwrap()
        })
    };
    until_one_waits(&queue);

    clock.advance(Duration::from_millis(9500));
    let (second, ()) = queue
        .with(now(), |state, now| {
            state.tick(now, 1);
            assert_eq!(state.waiting(), 0, "it is warned");
            submit(state, now, 60)
        })
        .unwrap();
    match waiter.join().expect("it has not panicked") {
        Waited::Leased(lease, ()) => assert_eq!(lease.id, second),
        other => panic!("{other:?}, though there is a job"),
    }

    queue
        .with(now(), |state, now| state.ack(now, session, first, Returned::Result(Arc::default())))
        .unwrap()
        .0
        .expect("it is leased");
    let over = Some(now().mono);
    let waited = queue
        .wait(
            session,
            &Wait {
                awaited: Awaited::Job { queues: &[], warn: Warn::BeforeLapse, on_drained: OnDrained::Wait },
                deadline: over,
            },
        )
        .unwrap();
    assert_eq!(waited, Waited::TimedOut, "nothing lapses any more");
}
