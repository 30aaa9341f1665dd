//! The operator's verbs: RETRY, DELETE, PURGE, LIST, QUEUES.

use djqs::broker::Failed;
use djqs::job::{Counts, Failure};
use djqs::{Code, JobId, JobState};

use crate::common::engine::*;

#[test]
fn retry_gives_all_attempts_again() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, attempts(2));
    fail(&mut session, id, at_once());
    assert_eq!(get(&mut session), Some(id));
    assert_eq!(fail(&mut session, id, Failure::new("no")), Failed::Dead);
    bench.operator.retry(id).expect("it is dead");
    let job = bench.peek(id);
    assert_eq!((job.state, job.counts), (JobState::Ready, Counts::default()));
    assert_eq!(job.reason.as_deref(), Some("no"), "why it died is still of interest");
    assert_eq!(get(&mut session), Some(id));
    assert!(matches!(fail(&mut session, id, Failure::default()), Failed::RetryIn(_)));
}

#[test]
fn job_that_is_not_dead_cannot_be_retried() {
    let mut bench = Bench::new();
    for id in [bench.submit(options()), JobId(99)] {
        assert_eq!(code(bench.operator.retry(id)), Some(Code::NotFound));
    }
}

#[test]
fn dead_jobs_of_a_queue_are_retried_oldest_first() {
    let mut bench = Bench::new();
    let dead = [(); 3].map(|()| bench.dead(options()));
    assert_eq!(bench.operator.retry_all(name("default"), Some(2)), Ok(2));
    assert_eq!(dead.map(|id| bench.is(id)), [JobState::Ready, JobState::Ready, JobState::Dead]);
    assert_eq!(bench.operator.retry_all(name("default"), None), Ok(1));
    assert_eq!(dead.map(|id| bench.is(id)), [JobState::Ready; 3]);
}

#[test]
fn retried_job_goes_to_the_session_that_waits_for_it() {
    let mut bench = Bench::new();
    let id = bench.dead(options());
    let waiter = bench.wait(bench.session(), &["default"]);
    bench.operator.retry(id).expect("it is dead");
    assert_eq!(waiter.served().1.id, id);
}

#[test]
fn delete_works_in_any_state_except_for_another_s_lease() {
    let mut bench = Bench::new();
    let [mut holder, mut operator] = bench.sessions();
    let dead = bench.dead(options());
    let leased = bench.leased(&mut holder, options());
    let (ready, delayed) = (bench.submit(options()), bench.submit(delayed(SECOND)));
    for id in [dead, ready, delayed] {
        operator.delete(id).expect("nobody has it");
    }
    assert_eq!(code(operator.delete(leased)), Some(Code::NotLeased));
    holder.delete(leased).expect("it is its own");
    assert_eq!(code(holder.delete(leased)), Some(Code::NotFound));
    assert_eq!((bench.broker.stats().memory_bytes, bench.queues().len()), (0, 0));
}

#[test]
fn list_goes_on_from_an_id_oldest_first() {
    let mut bench = Bench::new();
    let dead = bench.dead(options());
    let [one, two, three] = [5, 0, 9].map(|priority| bench.submit(urgent(priority)));
    let mut ids = |state, limit, after| -> Vec<JobId> {
        let jobs = bench.operator.list(name("default"), state, limit, after).expect("it is a queue");
        jobs.into_iter().map(|job| job.id).collect()
    };
    assert_eq!(ids(None, 3, None), [dead, one, two]);
    assert_eq!(ids(None, 3, Some(two)), [three]);
    assert_eq!(ids(None, 3, Some(three)), []);
    assert_eq!(ids(Some(JobState::Ready), 9, Some(dead)), [one, two, three]);
    assert_eq!(ids(Some(JobState::Dead), 9, None), [dead]);
}

// ---- queues ----

#[test]
fn queue_goes_when_it_is_empty_and_unused() {
    let mut bench = Bench::new();
    let id = bench.submit_to("a", options());
    let waiter = bench.wait(bench.session(), &["b"]);
    bench.pause("c", None);
    assert_eq!(bench.queues(), ["a", "b", "c"]);
    bench.operator.delete(id).expect("it is there");
    waiter.cancel();
    bench.resume("c");
    assert_eq!(bench.queues(), [""; 0]);
    assert_eq!(code(bench.operator.queue_stats(&name("a"))), Some(Code::NotFound));
    assert_eq!(bench.broker.stats().memory_bytes, 0);
}

#[test]
fn asking_does_not_make_a_queue() {
    let mut bench = Bench::new();
    let operator = &mut bench.operator;
    assert_eq!(get_of(operator, &["a"]), None);
    assert_eq!(operator.list(name("a"), None, 9, None), Ok(vec![]));
    assert_eq!(operator.purge(name("a"), Some(JobState::Ready)), Ok(0));
    assert_eq!(operator.retry_all(name("a"), None), Ok(0));
    bench.resume("a");
    assert_eq!(bench.queues(), [""; 0]);
}
