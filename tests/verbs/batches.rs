//! Batches: what BATCH counts, when one is complete and when it is forgotten, and the verbs by batch.

use std::time::Duration;

use djqs::broker::{Session, Waited};
use djqs::job::{BatchName, Failure};
use djqs::protocol::{Command, Reply, Wait};
use djqs::{JobId, JobState, Options};

use crate::common::engine::*;

fn night() -> BatchName {
    BatchName::new("night").expect("it is good")
}

fn in_batch() -> Options {
    options().batch(night())
}

fn batch(total: u64, wait: Wait) -> Command {
    Command::Batch { name: night(), total, wait }
}

/// Whether the batch is complete with so many jobs.
fn is_complete(session: &mut Session, total: u64) -> bool {
    match tell(session, batch(total, AT_ONCE)) {
        Reply::Batch { complete, .. } => complete,
        other => panic!("{other:?}"),
    }
}

impl Bench {
    /// What BATCH counts: the total, ready, delayed, leased, done, dead, cancelled and deleted jobs.
    fn counts(&mut self) -> [u64; 8] {
        let stats = self.operator.batch(&night()).expect("nothing is broken");
        stats.list().map(|(_, count)| count)
    }

    /// How many jobs of the batch there were and are.
    fn total(&mut self) -> u64 {
        self.counts()[0]
    }
}

#[test]
fn batch_that_nobody_knows_has_no_jobs_and_is_not_complete() {
    let mut bench = Bench::new();
    assert_eq!(bench.counts(), [0; 8]);
    assert!(!is_complete(&mut bench.operator, 0) && !is_complete(&mut bench.operator, 1));
    bench.submit(options());
    assert_eq!(bench.total(), 0, "a job without a batch is in none");
}

#[test]
fn jobs_are_counted_by_state_also_when_they_are_gone() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let kept = bench.leased(&mut worker, in_batch().keep(SECOND));
    let plain = bench.leased(&mut worker, in_batch());
    let deleted = bench.leased(&mut worker, in_batch());
    bench.leased(&mut worker, in_batch());
    bench.dead(in_batch());
    let cancelled = bench.submit(in_batch());
    bench.operator.cancel(cancelled, None).expect("it is there");
    bench.submit_to("other", in_batch());
    bench.submit(in_batch().delay(48 * HOUR));
    assert_eq!(bench.counts(), [8, 1, 1, 4, 0, 1, 1, 0]);
    worker.ack(kept).expect("it is leased");
    worker.ack(plain).expect("it is leased");
    worker.delete(deleted).expect("it has the lease");
    assert_eq!(bench.counts(), [8, 1, 1, 1, 2, 1, 1, 1]);
    bench.pass(2 * HOUR);
    assert_eq!(bench.counts(), [8, 2, 1, 0, 2, 1, 1, 1], "the lease has lapsed, and two jobs are removed");
}

#[test]
fn what_is_deleted_after_its_end_counts_as_it_ended() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let done = bench.leased(&mut worker, in_batch().keep(HOUR));
    worker.ack(done).expect("it is leased");
    let cancelled = bench.submit(in_batch());
    bench.operator.cancel(cancelled, None).expect("it is there");
    let dead = bench.dead(in_batch());
    for id in [done, cancelled, dead] {
        bench.operator.delete(id).expect("it is there");
    }
    assert_eq!(bench.counts(), [3, 0, 0, 0, 1, 0, 1, 1], "a dead job was not done");
}

#[test]
fn second_submission_with_a_key_is_not_counted() {
    let mut bench = Bench::new();
    let id = bench.submit(keyed("order:9"));
    let again = bench.accept("default", in_batch().key(bench_key()));
    assert_eq!((again.id, bench.total()), (id, 0));
}

fn bench_key() -> djqs::Key {
    djqs::Key::new("order:9").expect("it is good")
}

#[test]
fn batch_is_complete_when_it_has_enough_jobs_and_all_have_ended() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let first = bench.leased(&mut worker, in_batch());
    assert!(!is_complete(&mut bench.operator, 1));
    fail(&mut worker, first, Failure::default());
    assert!(!is_complete(&mut bench.operator, 1), "it will be tried again");
    bench.pass(HOUR);
    assert_eq!(get(&mut worker), Some(first));
    fail(&mut worker, first, Failure::default().dead());
    let mut complete = |total| is_complete(&mut bench.operator, total);
    assert_eq!([0, 1, 2].map(&mut complete), [true, true, false]);
    bench.operator.retry(first).expect("it is dead");
    assert!(!is_complete(&mut bench.operator, 1), "it is ready again");
}

#[test]
fn wait_for_a_batch_ends_with_the_last_of_its_jobs() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let [few, many] = bench.sessions();
    let few = bench.begin(few, batch(1, Wait::Forever));
    let many = bench.begin(many, batch(2, Wait::Forever));
    let first = bench.leased(&mut worker, in_batch());
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 2);
    worker.ack(first).expect("it is leased");
    let Waited::Batch { stats, complete: true } = few.ended().1 else { panic!("it is complete") };
    assert_eq!((stats.total(), stats.jobs.done), (1, 1));
    assert_eq!(bench.waiting(), 1, "the other waits for two jobs");
    let second = bench.submit(in_batch());
    bench.operator.delete(second).expect("it is there");
    let Waited::Batch { stats, complete: true } = many.ended().1 else { panic!("it is complete") };
    assert_eq!((stats.total(), stats.jobs.done, stats.deleted), (2, 1, 1));
    assert!(is_complete(&mut bench.operator, 2));
}

#[test]
fn wait_for_a_batch_shows_its_counts_at_the_deadline() {
    let mut bench = Bench::new();
    bench.submit(in_batch());
    let wait = bench.begin(bench.session(), batch(1, Wait::AtMost(5 * SECOND)));
    bench.pass(5 * SECOND - MS);
    assert_eq!(bench.waiting(), 1);
    bench.pass(MS);
    let Waited::Batch { stats, complete: false } = wait.ended().1 else { panic!("it is not complete") };
    assert_eq!((stats.total(), stats.jobs.ready), (1, 1));
}

#[test]
fn batch_is_forgotten_an_hour_after_its_last_change_once_it_has_no_jobs() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.leased(&mut worker, in_batch());
    worker.ack(id).expect("it is leased");
    bench.pass(HOUR - MS);
    assert_eq!(bench.total(), 1);
    let dead = bench.dead(in_batch());
    bench.pass(48 * HOUR);
    assert_eq!(bench.total(), 2, "it has a dead job");
    bench.operator.delete(dead).expect("it is there");
    bench.pass(HOUR - MS);
    assert_eq!(bench.counts(), [2, 0, 0, 0, 1, 0, 0, 1]);
    bench.pass(MS);
    assert_eq!((bench.total(), bench.broker.stats().memory_bytes), (0, 0));
    bench.submit(in_batch());
    assert_eq!(bench.total(), 1, "it begins anew");
}

#[test]
fn verbs_by_batch_take_its_jobs_in_all_queues_and_no_others() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let dead = [bench.dead(in_batch()), bench.dead(in_batch())];
    let ready = bench.submit_to("other", in_batch());
    let done = {
        let id = bench.submit_to("third", in_batch().keep(HOUR));
        assert_eq!(get_of(&mut worker, &["third"]).map(|lease| lease.id), Some(id));
        worker.ack(id).expect("it is leased");
        id
    };
    let strangers = [bench.dead(options()), bench.submit_to("other", options())];
    let listed = |bench: &mut Bench, state, limit, after| {
        let jobs = bench.operator.list(night(), state, limit, after).expect("nothing is broken");
        jobs.iter().map(|job| job.id).collect::<Vec<JobId>>()
    };
    assert_eq!(listed(&mut bench, None, 10, None), [dead[0], dead[1], ready, done]);
    assert_eq!(listed(&mut bench, Some(JobState::Dead), 1, Some(dead[0])), [dead[1]]);

    assert_eq!(bench.operator.retry_all(night(), Some(1)), Ok(1));
    assert_eq!(dead.map(|id| bench.is(id)), [JobState::Ready, JobState::Dead]);
    assert_eq!(bench.operator.cancel_all(night(), None, Some("not needed")), Ok(2));
    assert_eq!([dead[0], ready].map(|id| bench.is(id)), [JobState::Cancelled; 2]);
    assert_eq!(bench.operator.purge(night(), None), Ok(1), "the dead one");
    assert_eq!(listed(&mut bench, None, 10, None), [dead[0], ready, done]);
    assert_eq!(bench.operator.purge(night(), Some(JobState::Cancelled)), Ok(2));
    assert_eq!(bench.counts(), [4, 0, 0, 0, 1, 0, 2, 1]);
    assert_eq!(strangers.map(|id| bench.is(id)), [JobState::Dead, JobState::Ready]);
}
