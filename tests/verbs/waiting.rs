//! Sessions that wait for a job, or until queues are drained.

use std::time::Duration;

use djqs::broker::{Outcome, Session};
use djqs::job::Failure;
use djqs::protocol::{Command, OnDrained, Reply, Wait};
use djqs::{JobId, JobState};

use crate::common::engine::*;

#[test]
fn oldest_waiter_is_served_first() {
    let mut bench = Bench::new();
    let [first, second, third] = bench.sessions().map(|session| bench.wait(session, &["default"]));
    let (one, two) = (bench.submit(options()), bench.submit(options()));
    assert_eq!(bench.waiting(), 1, "and the third sleeps on");
    let (_first, lease) = first.served();
    assert_eq!(lease.id, one);
    let (_second, lease) = second.served();
    assert_eq!(lease.id, two);
    third.cancel();
}

#[test]
fn waiter_is_woken_by_any_of_its_queues_and_by_no_other() {
    let mut bench = Bench::new();
    let waiter = bench.wait(bench.session(), &["a", "b", "a"]);
    bench.submit_to("c", options());
    assert_eq!(bench.waiting(), 1);
    let id = bench.submit_to("b", options());
    assert_eq!(bench.waiting(), 0);
    let (_session, lease) = waiter.served();
    assert_eq!(lease.id, id);
    let in_a = bench.submit_to("a", options());
    assert_eq!(bench.is(in_a), JobState::Ready, "it waits for no queue any more");
}

#[test]
fn waiter_that_leaves_is_passed_over() {
    let mut bench = Bench::new();
    let [gone, patient] = bench.sessions().map(|session| bench.wait(session, &["default"]));
    gone.cancel();
    let id = bench.submit(options());
    assert_eq!(patient.served().1.id, id);
}

#[test]
fn waiter_gets_what_others_return_or_lose() {
    type Event = (&'static str, u32, fn(&Bench, Session, JobId));
    const EVENTS: [Event; 4] = [
        ("lapsed", 2, |bench, holder, _| {
            bench.pass(SECOND);
            holder.quit();
        }),
        ("returned", 1, |_, mut holder, id| return_job(&mut holder, id)),
        ("lost", 2, |_, holder, _| drop(holder)),
        ("returned by QUIT", 1, |_, holder, _| holder.quit()),
    ];
    for (what, attempt, event) in EVENTS {
        let mut bench = Bench::new();
        let mut holder = bench.session();
        let id = bench.leased(&mut holder, options().ttr(SECOND));
        let waiter = bench.wait(bench.session(), &["default"]);
        event(&bench, holder, id);
        let (mut session, lease) = waiter.served();
        assert_eq!((lease.id, lease.attempt), (id, attempt), "{what}");
        session.ack(id).expect("it is leased");
    }
}

#[test]
fn waiter_gets_a_job_whose_delay_is_over() {
    let mut bench = Bench::new();
    let id = bench.submit(delayed(SECOND));
    let waiter = bench.wait(bench.session(), &["default"]);
    bench.pass(SECOND);
    assert_eq!(waiter.served().1.id, id);
}

// ---- drained queues ----

#[test]
fn wait_ends_once_its_queues_are_drained() {
    let mut bench = Bench::new();
    let [mut worker, waiter] = bench.sessions();
    let (first, second) = (bench.leased(&mut worker, options()), bench.leased(&mut worker, options()));
    let last = bench.submit(delayed(SECOND));
    let waiter = bench.drain(waiter, &["default"]);
    worker.ack(first).expect("it is leased");
    fail(&mut worker, second, Failure::default().retry_in(5 * SECOND));
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 1, "two jobs are delayed");

    bench.pass(SECOND);
    let (mut waiter, lease) = waiter.served();
    assert_eq!(lease.id, last);
    waiter.ack(last).expect("it is leased");
    let waiter = bench.drain(waiter, &["default"]);
    bench.pass(5 * SECOND);
    let (mut waiter, lease) = waiter.served();
    assert_eq!(lease.id, second);
    let worker = bench.drain(worker, &["default"]);
    assert_eq!(bench.waiting(), 1);
    fail(&mut waiter, second, Failure::default().dead());
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 0, "a dead job does not count");
    assert_eq!(worker.drained().1, []);
}

#[test]
fn jobs_that_are_kept_when_they_are_done_or_cancelled_hold_no_drain() {
    let mut bench = Bench::new();
    let [mut worker, waiter] = bench.sessions();
    let kept = bench.leased(&mut worker, options().keep(SECOND));
    let cancelled = bench.leased(&mut worker, options());
    let waiter = bench.drain(waiter, &["default"]);
    worker.ack(kept).expect("it is leased");
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 1, "one is leased");
    bench.operator.cancel(cancelled, None).expect("it is there");
    bench.pass(Duration::ZERO);
    waiter.drained();
    assert_eq!((bench.is(kept), bench.is(cancelled)), (JobState::Done, JobState::Cancelled));
}

#[test]
fn wait_for_several_queues_ends_when_the_last_is_drained() {
    let mut bench = Bench::new();
    let [mut worker, waiter] = bench.sessions();
    let ids = ["a", "b", "c"].map(|queue| bench.submit_to(queue, options()));
    let leased = ids.map(|_| get_of(&mut worker, &["a", "b", "c"]).map(|lease| lease.id));
    assert_eq!(leased, ids.map(Some));
    let waiter = bench.drain(waiter, &["a", "b", "c", "nothing"]);
    for id in [ids[1], ids[0]] {
        worker.ack(id).expect("it is leased");
        bench.pass(Duration::ZERO);
        assert_eq!(bench.waiting(), 1);
    }
    let again = bench.submit_to("a", delayed(SECOND));
    worker.ack(ids[2]).expect("it is leased");
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 1, "there is a job in the first again");
    worker.delete(again).expect("it is there");
    bench.pass(Duration::ZERO);
    waiter.drained();
}

#[test]
fn paused_queue_is_drained_when_none_of_its_jobs_is_leased() {
    let mut bench = Bench::new();
    let [mut worker, waiter] = bench.sessions();
    let running = bench.leased(&mut worker, options());
    bench.pause("default", None);
    bench.submit(options());
    let waiter = bench.drain(waiter, &["other", "default"]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 1, "a job is leased");
    return_job(&mut worker, running);
    bench.pass(Duration::ZERO);
    let (mut waiter, paused) = waiter.drained();
    assert_eq!(paused, [name("default")]);

    bench.resume("default");
    let id = drained_or_job(&mut waiter).expect("it is not drained, and has a job");
    return_job(&mut waiter, id);
    assert_eq!(bench.operator.purge(name("default"), Some(JobState::Ready)), Ok(2));
    bench.submit(delayed(SECOND));
    let waiter = bench.drain(waiter, &["default"]);
    bench.pause("default", None);
    bench.pass(Duration::ZERO);
    assert_eq!(waiter.drained().1, [name("default")], "as the queue is paused");
}

/// Asks for a job of the queue `default`, and whether it is drained, without waiting.
fn drained_or_job(session: &mut Session) -> Result<JobId, Outcome> {
    let wait = Wait::AtMost(Duration::ZERO);
    let get = Command::Lease { queues: vec![name("default")], wait, on_drained: OnDrained::End };
    match session.execute(get) {
        Outcome::Reply(Reply::Leased(lease)) => Ok(lease.id),
        other => Err(other),
    }
}
