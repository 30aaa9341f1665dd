//! Submitting jobs, getting them, and saying how they went; keys, and the limit on memory.

use std::collections::BTreeSet;
use std::time::Duration;

use djqs::broker::{Accepted, Failed};
use djqs::job::{Failure, MAX_BACKOFF, MAX_REASON_BYTES};
use djqs::{Code, JobId, JobState, Submission};

use crate::common::engine::*;

// ---- submitting and leasing ----

#[test]
fn ids_count_up_from_one() {
    let mut bench = Bench::new();
    let ids = [(); 3].map(|()| bench.submit(options()));
    assert_eq!(ids, [JobId(1), JobId(2), JobId(3)]);
}

#[test]
fn lowest_priority_number_goes_first_then_the_oldest() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let [late, old, young, first] = [9, 5, 5, 0].map(|priority| bench.submit(urgent(priority)));
    let order = [(); 4].map(|()| get(&mut session));
    assert_eq!(order, [first, old, young, late].map(Some));
}

#[test]
fn order_holds_over_all_queues_that_are_named() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let in_b = bench.submit_to("b", urgent(1));
    let in_a = bench.submit_to("a", urgent(1));
    bench.submit_to("c", urgent(0));
    let urgent_in_a = bench.submit_to("a", urgent(0));
    let order = [(); 4].map(|()| get_of(&mut session, &["a", "b"]).map(|lease| lease.id));
    assert_eq!(order, [Some(urgent_in_a), Some(in_b), Some(in_a), None], "the one in c is not asked for");
}

#[test]
fn delayed_job_is_ready_when_its_time_is_up_and_not_before() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.submit(delayed(SECOND));
    bench.pass(SECOND - MS);
    assert_eq!((bench.is(id), get(&mut session)), (JobState::Delayed, None));
    bench.pass(MS);
    assert_eq!((bench.is(id), get(&mut session)), (JobState::Ready, Some(id)));
}

#[test]
fn lease_says_which_attempt_it_is() {
    let mut bench = Bench::new();
    let [mut session, mut other] = bench.sessions();
    let id = bench.leased(&mut session, options());
    fail(&mut session, id, at_once());
    let second = get_of(&mut session, &["default"]).expect("it is ready again");
    assert_eq!((second.id, second.attempt, second.ttr), (id, 2, options().ttr));
    drop(session);
    let third = get_of(&mut other, &["default"]).expect("it is ready again");
    assert_eq!(third.attempt, 3, "a crash is one too");
}

#[test]
fn memory_limit_refuses_submissions_and_nothing_else() {
    let mut bench = Bench::new();
    bench.submit(options());
    let mut bench = Bench::with_memory(bench.broker.stats().memory_bytes);
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    let refused = session.submit(Submission::new("work")).expect_err("it is full");
    assert_eq!(refused.code, Code::Full);
    assert!(refused.retry_after.is_some());
    fail(&mut session, id, Failure::new("a reason needs memory too").dead());
    session.delete(id).expect("it is there");
    assert_eq!(bench.broker.stats().memory_bytes, 0);
    bench.submit(options());
}

// ---- acknowledging, failing, returning ----

#[test]
fn acknowledged_job_is_gone() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    session.ack(id).expect("it is leased");
    assert_eq!(code(session.peek(id)), Some(Code::NotFound));
    assert_eq!(code(session.ack(id)), Some(Code::NotFound));
}

#[test]
fn backoff_doubles_each_time_with_up_to_a_quarter_of_jitter() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, attempts(0));
    let mut base = options().backoff;
    for _ in 0..20 {
        let Failed::RetryIn(wait) = fail(&mut session, id, Failure::default()) else {
            panic!("attempts=0 has no end");
        };
        let most = (base + base / 4).min(MAX_BACKOFF);
        assert!((base..=most).contains(&wait), "{wait:?} is not from {base:?} to {most:?}");
        assert_eq!((bench.is(id), bench.peek(id).remaining), (JobState::Delayed, Some(wait)));
        bench.pass(wait - MS);
        assert_eq!(get(&mut session), None);
        bench.pass(MS);
        assert_eq!(get(&mut session), Some(id));
        base = (base * 2).min(MAX_BACKOFF);
    }
    assert_eq!(base, MAX_BACKOFF);
}

#[test]
fn jobs_that_fail_together_do_not_come_back_together() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let waits: BTreeSet<_> = (0..100)
        .map(|_| {
            let id = bench.leased(&mut session, options());
            format!("{:?}", fail(&mut session, id, Failure::default()))
        })
        .collect();
    assert!(waits.len() > 20, "{waits:?}");
}

#[test]
fn delay_of_a_failure_replaces_the_backoff_exactly() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    let failed = fail(&mut session, id, Failure::default().retry_in(7 * SECOND));
    assert_eq!(failed, Failed::RetryIn(7 * SECOND));
    assert_eq!(bench.peek(id).remaining, Some(7 * SECOND));
}

#[test]
fn job_is_dead_when_its_attempts_are_spent() {
    let mut bench = Bench::new();
    let [mut lost, mut session] = bench.sessions();
    let id = bench.leased(&mut lost, attempts(3));
    fail(&mut lost, id, Failure::new("first").retry_in(Duration::ZERO));
    assert_eq!(get(&mut lost), Some(id));
    drop(lost);
    assert_eq!(get(&mut session), Some(id));
    assert_eq!(fail(&mut session, id, Failure::new("last").retry_in(SECOND)), Failed::Dead);
    let job = bench.peek(id);
    assert_eq!(
        (job.state, job.counts, job.reason.as_deref()),
        (JobState::Dead, counts(2, 1, 0), Some("last"))
    );
    bench.pass(2 * SECOND);
    assert_eq!(get(&mut session), None, "a dead job is not leased");
}

#[test]
fn job_without_a_limit_of_attempts_never_dies_of_them() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, attempts(0));
    for _ in 0..1_000 {
        fail(&mut session, id, at_once());
        assert_eq!(get(&mut session), Some(id));
    }
    let failed = fail(&mut session, id, Failure::default().dead());
    assert_eq!(failed, Failed::Dead, "a worker can still give it up");
}

#[test]
fn failure_without_a_reason_keeps_the_last_one() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    fail(&mut session, id, Failure::new("disk is full").retry_in(Duration::ZERO));
    assert_eq!(get(&mut session), Some(id));
    fail(&mut session, id, at_once());
    assert_eq!(bench.peek(id).reason.as_deref(), Some("disk is full"));
}

#[test]
fn long_reason_is_cut_between_two_characters() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    let reason = format!("x{}", "é".repeat(MAX_REASON_BYTES));
    fail(&mut session, id, Failure::new(&reason).dead());
    let kept = bench.peek(id).reason.expect("it has one");
    assert_eq!(kept.len(), MAX_REASON_BYTES - 1);
    assert!(reason.starts_with(&*kept));
}

#[test]
fn returning_a_job_charges_no_attempt() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, attempts(1));
    for _ in 0..5 {
        return_job(&mut session, id);
        assert_eq!(get_of(&mut session, &["default"]).expect("it is ready").attempt, 1);
    }
    assert_eq!(bench.peek(id).counts, counts(0, 0, 5));
}

#[test]
fn job_returned_with_a_delay_waits_for_it() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, options());
    session.return_job(id, SECOND).expect("it is leased");
    assert_eq!(bench.is(id), JobState::Delayed);
    bench.pass(SECOND);
    assert_eq!(get(&mut session), Some(id));
}

// ---- keys ----

#[test]
fn second_submission_with_a_key_gets_the_first_one_s_id_and_state() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.submit(keyed("order:9"));
    let mut again = |state| {
        let accepted = bench.accept("default", keyed("order:9"));
        assert_eq!(accepted, Accepted { id, duplicate: Some(state) });
    };
    again(JobState::Ready);
    assert_eq!(get(&mut session), Some(id));
    again(JobState::Leased);
    fail(&mut session, id, Failure::default());
    again(JobState::Delayed);
    let dead = bench.dead(keyed("order:10"));
    assert_eq!(dead, JobId(id.0 + 1), "duplicates take no ids");
    let again = bench.accept("default", keyed("order:10"));
    assert_eq!(again, Accepted { id: dead, duplicate: Some(JobState::Dead) });
}

#[test]
fn key_is_free_again_when_its_job_is_gone() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let acked = bench.leased(&mut session, keyed("order:9"));
    session.ack(acked).expect("it is leased");
    let deleted = bench.submit(keyed("order:9"));
    session.delete(deleted).expect("it is there");
    let purged = bench.submit(keyed("order:9"));
    assert_eq!(session.purge(name("default"), Some(JobState::Ready)).expect("it is a queue"), 1);
    let last = bench.submit(keyed("order:9"));
    assert_eq!([acked, deleted, purged, last], [1, 2, 3, 4].map(JobId));
}

#[test]
fn keys_of_two_queues_do_not_meet() {
    let mut bench = Bench::new();
    bench.submit_to("a", keyed("order:9"));
    bench.submit_to("b", keyed("order:9"));
}
