//! Leases: who has one, how long it lasts, and how it ends.

use djqs::job::{Counts, Failure};
use djqs::{Code, JobState};

use crate::common::engine::*;

#[test]
fn only_the_holder_can_say_how_it_went() {
    let mut bench = Bench::new();
    let mut holder = bench.session();
    let id = bench.leased(&mut holder, options());
    for mut session in bench.sessions::<2>() {
        assert_eq!(code(session.ack(id)), Some(Code::NotLeased));
        assert_eq!(code(session.fail(id, Failure::default().dead())), Some(Code::NotLeased));
        assert_eq!(code(session.return_job(id, SECOND)), Some(Code::NotLeased));
        assert_eq!(code(session.touch(id, None)), Some(Code::NotLeased));
        assert_eq!(code(session.delete(id)), Some(Code::NotLeased));
    }
    assert_eq!(bench.peek(id).counts, Counts::default());
    holder.ack(id).expect("it is still leased");
}

#[test]
fn expired_lease_returns_job_to_ready() {
    let mut bench = Bench::new();
    let [mut slow, mut other] = bench.sessions();
    let id = bench.leased(&mut slow, options().ttr(SECOND));
    bench.pass(SECOND - MS);
    assert_eq!(bench.is(id), JobState::Leased);
    bench.pass(MS);
    let job = bench.peek(id);
    assert_eq!((job.state, job.counts), (JobState::Ready, counts(0, 1, 0)));
    assert!(job.reason.is_some(), "it says why");
    assert_eq!(code(slow.ack(id)), Some(Code::NotLeased));
    assert_eq!(get(&mut other), Some(id));
    assert_eq!(code(slow.ack(id)), Some(Code::NotLeased), "it is another's now");
}

#[test]
fn touch_starts_the_lease_anew() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options().ttr(SECOND));
    for _ in 0..5 {
        bench.pass(SECOND - MS);
        session.touch(id, None).expect("it is leased");
    }
    session.touch(id, Some(3 * SECOND)).expect("it is leased");
    bench.pass(3 * SECOND - MS);
    assert_eq!(bench.is(id), JobState::Leased);
    bench.pass(MS);
    assert_eq!(bench.is(id), JobState::Ready);
}

#[test]
fn touch_may_shorten_a_lease() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    session.touch(id, Some(MS)).expect("it is leased");
    bench.pass(MS);
    assert_eq!(bench.is(id), JobState::Ready);
}

#[test]
fn lost_connection_charges_a_crash() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let one = bench.leased(&mut session, options());
    let last = bench.leased(&mut session, attempts(1));
    drop(session);
    assert_eq!((bench.is(one), bench.peek(one).counts), (JobState::Ready, counts(0, 1, 0)));
    assert_eq!((bench.is(last), bench.peek(last).counts), (JobState::Dead, counts(0, 1, 0)));
}

#[test]
fn quit_charges_nothing() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, attempts(1));
    session.quit();
    assert_eq!((bench.is(id), bench.peek(id).counts), (JobState::Ready, counts(0, 0, 1)));
}
