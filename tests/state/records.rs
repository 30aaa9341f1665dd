//! What is recorded of each change, and what a new process restores from it.

use super::*;

#[test]
fn leases_are_not_written() {
    let mut bench = Bench::new();
    bench.state.set_journaled();
    let session = bench.session();
    let id = bench.leased(session, options());
    let changes = bench.changes();
    assert_eq!(changes.len(), 1, "the submission, and nothing for the lease: {changes:?}");
    let next = bench.restarted(changes, SECOND);
    assert_eq!((next.is(id), next.peek(id).counts), (JobState::Ready, Counts::default()));
}

#[test]
fn finished_job_does_not_come_back_and_its_id_is_not_given_again() {
    let mut bench = Bench::new();
    bench.state.set_journaled();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.ack(session, id).expect("it is leased");
    let changes = bench.changes();
    assert_eq!(changes.last(), Some(&Change::Gone(id)));
    let mut next = bench.restarted(changes, SECOND);
    assert_eq!(next.state.peek(next.now, id), None);
    assert_eq!(next.submit(options()), JobId(id.0 + 1));
}

#[test]
fn used_ids_are_not_given_again() {
    let bench = Bench::new();
    let mut next = bench.restarted(vec![Change::IdsUsed(JobId(41))], SECOND);
    assert_eq!(next.submit(options()), JobId(42));
}

#[test]
fn delay_goes_on_by_the_wall_clock_while_nothing_runs() {
    let mut bench = Bench::new();
    bench.state.set_journaled();
    let id = bench.submit(delayed(10 * SECOND));
    bench.pass(SECOND);
    let changes = bench.changes();
    let next = bench.restarted(changes.clone(), 4 * SECOND);
    assert_eq!(next.peek(id).remaining, Some(5 * SECOND));
    let next = bench.restarted(changes, 9 * SECOND);
    assert_eq!(next.is(id), JobState::Ready);
}

#[test]
fn pause_survives_the_process() {
    let mut bench = Bench::new();
    bench.state.set_journaled();
    bench.pause("for_ever", None);
    bench.pause("for_a_while", Some(10 * SECOND));
    bench.pause("resumed", None);
    bench.resume("resumed");
    let changes = bench.changes();
    let mut next = bench.restarted(changes, 9 * SECOND);
    assert_eq!(next.queues(), ["for_ever", "for_a_while"]);
    next.pass(SECOND);
    assert_eq!(next.queues(), ["for_ever"]);
}

#[test]
fn dead_job_survives_the_process_with_counts_and_reason() {
    let mut bench = Bench::new();
    bench.state.set_journaled();
    let session = bench.session();
    let id = bench.leased(session, options().key(key("order:9")));
    bench.state.return_job(bench.now, session, id, None, Duration::ZERO).expect("it is leased");
    bench.get(session).expect("it is ready");
    bench.fail(session, id, None, true, Some("no such order"));
    let before = bench.peek(id);
    let changes = bench.changes();
    let mut next = bench.restarted(changes, SECOND);
    assert_eq!(next.peek(id), before);
    let again = next.accept(options().key(key("order:9")));
    assert_eq!(again, Accepted { id, duplicate: Some(JobState::Dead) });
}

#[test]
fn export_is_the_whole_job_as_it_is_now() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.fail(session, id, Some(SECOND), false, Some("no"));
    let Some(Change::Job(spec, status)) = bench.state.export(bench.now, id) else {
        panic!("it is a job");
    };
    assert_eq!((spec.id, &*spec.body), (id, b"work".as_slice()));
    assert_eq!(status.place, Place::Delayed { until_wall_ms: bench.now.wall_ms + 1_000 });
    assert_eq!((status.counts, status.reason.as_deref()), (counts(1, 0, 0), Some("no")));
    assert_eq!(bench.state.export(bench.now, JobId(99)), None);
}
