//! How jobs end: kept jobs and their results, WAIT, and CANCEL.

use std::time::Duration;

use djqs::broker::{Session, Waited};
use djqs::job::{Acked, Counts, Failure, Finished};
use djqs::protocol::{Command, Wait};
use djqs::{Code, JobId, JobState, Options, Refusal};

use crate::common::engine::*;

fn kept(time: Duration) -> Options {
    options().keep(time)
}

fn done(attempt: u32, ran: Duration, result: &str) -> Finished {
    Finished::Done { attempt, ran, result: Some(result.as_bytes().into()) }
}

fn cancelled(reason: Option<&str>) -> Finished {
    Finished::Cancelled { reason: reason.map(Into::into) }
}

fn wait_for(id: JobId, wait: Wait) -> Command {
    Command::Wait { id, wait }
}

impl Bench {
    fn finished(&mut self, id: JobId) -> Option<Finished> {
        self.operator.finished(id).expect("it was given")
    }

    fn cancel(&mut self, id: JobId, reason: Option<&str>) -> JobState {
        self.operator.cancel(id, reason).expect("it is there")
    }

    /// A job that is done, with the result `r`.
    fn done(&mut self, options: Options) -> JobId {
        let mut session = self.session();
        let id = self.leased(&mut session, options);
        assert_eq!(session.ack_with(id, "r"), Ok(Acked::Whole));
        id
    }
}

// ---- jobs that are kept ----

#[test]
fn job_without_keep_is_gone_when_it_is_done() {
    let mut bench = Bench::new();
    let id = bench.done(options());
    assert_eq!(code(bench.operator.peek(id)), Some(Code::NotFound));
    assert_eq!(bench.finished(id), Some(Finished::Gone));
}

#[test]
fn kept_job_has_its_result_until_its_time_is_over() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, kept(5 * SECOND));
    bench.pass(2 * SECOND);
    assert_eq!(session.ack_with(id, "4"), Ok(Acked::Whole));
    let job = bench.peek(id);
    assert_eq!((job.state, job.remaining, job.keep), (JobState::Done, Some(5 * SECOND), 5 * SECOND));
    assert_eq!(job.result.as_deref(), Some(&b"4"[..]));
    assert_eq!(bench.finished(id), Some(done(1, 2 * SECOND, "4")));
    bench.pass(5 * SECOND - MS);
    assert_eq!(bench.finished(id), Some(done(1, 2 * SECOND, "4")));
    bench.pass(MS);
    assert_eq!(bench.finished(id), Some(Finished::Gone));
    assert_eq!(code(bench.operator.peek(id)), Some(Code::NotFound));
    assert_eq!(bench.broker.stats().memory_bytes, 0);
}

#[test]
fn end_of_a_job_names_the_attempt_that_succeeded_and_its_time() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let id = bench.leased(&mut session, kept(HOUR));
    bench.pass(5 * SECOND);
    fail(&mut session, id, at_once());
    assert_eq!(get(&mut session), Some(id));
    bench.pass(3 * SECOND);
    session.ack(id).expect("it is leased");
    assert_eq!(bench.finished(id), Some(done(2, 3 * SECOND, "")), "an ACK without a result has an empty one");
    assert_eq!(bench.peek(id).attempt(), 2);
}

#[test]
fn key_of_a_kept_job_is_held_until_its_time_is_over() {
    let mut bench = Bench::new();
    let id = bench.done(keyed("order:9").keep(SECOND));
    bench.pass(SECOND - MS);
    let again = bench.accept("default", keyed("order:9"));
    assert_eq!((again.id, again.duplicate), (id, Some(JobState::Done)));
    bench.pass(MS);
    assert_eq!(bench.submit(keyed("order:9")), JobId(id.0 + 1));
}

#[test]
fn dead_job_stays_beyond_its_keep() {
    let mut bench = Bench::new();
    let id = bench.dead(kept(SECOND));
    bench.pass(48 * HOUR);
    assert_eq!(bench.is(id), JobState::Dead);
}

#[test]
fn deleted_job_that_was_kept_is_gone_with_its_key() {
    let mut bench = Bench::new();
    let id = bench.done(keyed("order:9").keep(HOUR));
    bench.operator.delete(id).expect("it is there");
    assert_eq!(bench.finished(id), Some(Finished::Gone));
    bench.submit(keyed("order:9"));
}

// ---- WAIT ----

#[test]
fn id_that_was_never_given_is_not_found() {
    let mut bench = Bench::new();
    let id = bench.submit(options());
    for never in [JobId(0), JobId(id.0 + 1), JobId(u64::MAX)] {
        assert_eq!(code(bench.operator.finished(never)), Some(Code::NotFound));
    }
    assert_eq!(bench.finished(id), None, "it is ready");
}

#[test]
fn all_who_wait_get_the_result_of_a_job_that_is_not_kept() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.leased(&mut worker, options());
    let waits = bench.sessions::<3>().map(|session| bench.begin(session, wait_for(id, Wait::Forever)));
    assert_eq!(bench.waiting(), 3);
    bench.pass(SECOND);
    assert_eq!(worker.ack_with(id, "4"), Ok(Acked::Whole));
    for wait in waits {
        assert_eq!(wait.ended().1, Waited::Finished { id, how: done(1, SECOND, "4") });
    }
    assert_eq!(bench.finished(id), Some(Finished::Gone), "who comes later");
}

#[test]
fn wait_ends_however_the_job_ends() {
    type End = (Finished, fn(&mut Bench, &mut Session, JobId));
    let ends: [End; 5] = [
        (Finished::Dead { failures: 1, reason: Some("no".into()) }, |_, worker, id| {
            fail(worker, id, Failure::new("no").dead());
        }),
        (Finished::Dead { failures: 1, reason: Some("spent".into()) }, |_, worker, id| {
            fail(worker, id, Failure::new("spent"));
        }),
        (cancelled(Some("not needed")), |bench, _, id| {
            bench.cancel(id, Some("not needed"));
        }),
        (Finished::Gone, |_, worker, id| worker.delete(id).expect("it has the lease")),
        (Finished::Gone, |bench, worker, id| {
            return_job(worker, id);
            assert_eq!(bench.operator.purge(name("default"), None), Ok(1));
        }),
    ];
    for (expected, end) in ends {
        let mut bench = Bench::new();
        let mut worker = bench.session();
        let id = bench.leased(&mut worker, attempts(1));
        let wait = bench.begin(bench.session(), wait_for(id, Wait::Forever));
        end(&mut bench, &mut worker, id);
        assert_eq!(wait.ended().1, Waited::Finished { id, how: expected.clone() });
        assert_eq!(bench.finished(id), Some(expected));
    }
}

#[test]
fn wait_goes_on_while_the_job_is_tried_again() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.leased(&mut worker, options());
    let wait = bench.begin(bench.session(), wait_for(id, Wait::Forever));
    fail(&mut worker, id, at_once());
    assert_eq!(get(&mut worker), Some(id));
    return_job(&mut worker, id);
    assert_eq!(get(&mut worker), Some(id));
    drop(worker);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.waiting(), 1);
    let mut worker = bench.session();
    assert_eq!(get(&mut worker), Some(id));
    worker.ack(id).expect("it is leased");
    assert_eq!(wait.ended().1, Waited::Finished { id, how: done(3, Duration::ZERO, "") });
}

#[test]
fn wait_ends_at_its_deadline() {
    let mut bench = Bench::new();
    let id = bench.submit(options());
    let wait = bench.begin(bench.session(), wait_for(id, Wait::AtMost(5 * SECOND)));
    bench.pass(5 * SECOND - MS);
    assert_eq!(bench.waiting(), 1);
    bench.pass(MS);
    let (session, waited) = wait.ended();
    assert_eq!((waited, bench.waiting()), (Waited::TimedOut, 0));
    let wait = bench.begin(session, wait_for(id, Wait::AtMost(5 * SECOND)));
    bench.cancel(id, None);
    assert_eq!(wait.ended().1, Waited::Finished { id, how: cancelled(None) });
}

// ---- CANCEL ----

#[test]
fn cancel_ends_a_job_that_has_not_ended() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let leased = bench.leased(&mut worker, options());
    let waiting = bench.submit(delayed(SECOND));
    let ready = bench.submit(options());
    for (id, was) in [(leased, JobState::Leased), (waiting, JobState::Delayed), (ready, JobState::Ready)] {
        assert_eq!(bench.cancel(id, Some("not needed")), was);
        let job = bench.peek(id);
        assert_eq!(
            (job.state, job.counts),
            (JobState::Cancelled, Counts::default()),
            "no attempt is charged"
        );
        assert_eq!((job.reason.as_deref(), job.remaining), (Some("not needed"), Some(HOUR)));
        assert_eq!(bench.finished(id), Some(cancelled(Some("not needed"))));
    }
    bench.pass(2 * SECOND);
    assert_eq!(get(&mut worker), None);
    assert_eq!(bench.broker.stats().totals.cancelled, 3);
}

#[test]
fn cancel_leaves_jobs_that_have_ended_as_they_are() {
    let mut bench = Bench::new();
    let ended = [
        (bench.dead(options()), JobState::Dead),
        (bench.done(kept(HOUR)), JobState::Done),
        (bench.submit(options()), JobState::Cancelled),
    ];
    bench.cancel(ended[2].0, Some("first"));
    for (id, state) in ended {
        let before = bench.peek(id);
        assert_eq!(bench.cancel(id, Some("second")), state);
        assert_eq!(bench.peek(id), before);
    }
    assert_eq!(code(bench.operator.cancel(JobId(99), None)), Some(Code::NotFound));
}

#[test]
fn reports_about_a_cancelled_job_are_refused_and_say_that_it_is_cancelled() {
    fn is_cancelled<T>(result: Result<T, Refusal>) -> bool {
        result.err().is_some_and(|refusal| refusal.code == Code::NotLeased && refusal.cancelled)
    }
    let mut bench = Bench::new();
    let [mut worker, mut stranger] = bench.sessions();
    let id = bench.leased(&mut worker, options());
    let lapsed = bench.leased(&mut worker, options().ttr(SECOND));
    bench.cancel(id, None);
    assert!(is_cancelled(worker.ack_with(id, "r")));
    assert!(is_cancelled(worker.fail(id, Failure::default().dead())));
    assert!(is_cancelled(worker.return_job(id, Duration::ZERO)));
    assert!(is_cancelled(worker.touch(id, None)));
    assert!(is_cancelled(stranger.ack(id)));
    assert_eq!(bench.is(id), JobState::Cancelled);
    bench.pass(SECOND);
    let refusal = worker.ack(lapsed).expect_err("its lease has lapsed");
    assert_eq!((refusal.code, refusal.cancelled), (Code::NotLeased, false));
}

#[test]
fn cancelled_job_frees_its_key_and_takes_it_back_if_it_can() {
    let mut bench = Bench::new();
    let id = bench.submit(keyed("order:9"));
    bench.cancel(id, None);
    bench.operator.retry(id).expect("nobody else has its key");
    let again = bench.accept("default", keyed("order:9"));
    assert_eq!((again.id, again.duplicate), (id, Some(JobState::Ready)));

    bench.cancel(id, None);
    let other = bench.submit(keyed("order:9"));
    assert_eq!(code(bench.operator.retry(id)), Some(Code::NotFound), "the other one has its key");
    assert_eq!((bench.is(id), bench.is(other)), (JobState::Cancelled, JobState::Ready));
    bench.operator.delete(other).expect("it is there");
    bench.operator.retry(id).expect("its key is free");
    assert_eq!(bench.accept("default", keyed("order:9")).duplicate, Some(JobState::Ready));
}

#[test]
fn cancelled_job_that_expires_leaves_the_key_to_the_one_that_has_it() {
    let mut bench = Bench::new();
    let first = bench.submit(keyed("order:9"));
    bench.cancel(first, None);
    let second = bench.submit(keyed("order:9"));
    bench.pass(HOUR);
    assert_eq!(bench.finished(first), Some(Finished::Gone));
    let again = bench.accept("default", keyed("order:9"));
    assert_eq!((again.id, again.duplicate), (second, Some(JobState::Ready)));
}

#[test]
fn cancelled_job_is_kept_for_its_keep_and_at_least_for_an_hour() {
    let mut bench = Bench::new();
    let jobs = [(options(), HOUR), (kept(SECOND), HOUR), (kept(2 * HOUR), 2 * HOUR)];
    let jobs = jobs.map(|(options, time)| (bench.submit(options), time));
    for (id, _) in jobs {
        bench.cancel(id, None);
    }
    for time in [HOUR, 2 * HOUR] {
        bench.pass(HOUR - MS);
        assert!(jobs.iter().all(|&(id, kept)| kept < time || bench.is(id) == JobState::Cancelled));
        bench.pass(MS);
        for (id, kept) in jobs {
            let is_gone = bench.finished(id) == Some(Finished::Gone);
            assert_eq!(is_gone, kept <= time, "job {id} after {time:?}");
        }
    }
    assert_eq!(bench.broker.stats().memory_bytes, 0);
}

#[test]
fn retried_job_that_was_cancelled_has_the_attempts_that_it_had() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.leased(&mut worker, options());
    fail(&mut worker, id, at_once());
    bench.cancel(id, Some("not needed"));
    bench.operator.retry(id).expect("it is cancelled");
    let job = bench.peek(id);
    assert_eq!((job.state, job.counts, job.reason), (JobState::Ready, counts(1, 0, 0), None));
    assert_eq!(get(&mut worker), Some(id));
    worker.ack(id).expect("it is leased again");
}

#[test]
fn queue_is_cancelled_as_a_whole_or_by_state() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let (dead, leased) = (bench.dead(options()), bench.leased(&mut worker, options()));
    let (ready, waiting) = (bench.submit(options()), bench.submit(delayed(HOUR)));
    let other = bench.submit_to("other", options());
    for state in [JobState::Dead, JobState::Done, JobState::Cancelled] {
        let refused = bench.operator.cancel_all(name("default"), Some(state), None);
        assert_eq!(code(refused), Some(Code::Usage));
    }
    assert_eq!(bench.operator.cancel_all(name("default"), Some(JobState::Delayed), Some("late")), Ok(1));
    assert_eq!(
        [waiting, ready, leased].map(|id| bench.is(id)),
        [JobState::Cancelled, JobState::Ready, JobState::Leased]
    );
    assert_eq!(bench.operator.cancel_all(name("default"), None, None), Ok(2));
    assert_eq!(
        [ready, leased, dead].map(|id| bench.is(id)),
        [JobState::Cancelled, JobState::Cancelled, JobState::Dead]
    );
    assert_eq!(bench.peek(waiting).reason.as_deref(), Some("late"));
    assert_eq!(bench.is(other), JobState::Ready);
    assert_eq!(bench.operator.cancel_all(name("nothing"), None, None), Ok(0));
}

// ---- what the operator's verbs pass over ----

#[test]
fn retry_and_purge_pass_over_what_is_done_or_cancelled_unless_it_is_named() {
    let mut bench = Bench::new();
    let (done, dead) = (bench.done(kept(HOUR)), bench.dead(options()));
    let cancelled = bench.submit(options());
    bench.cancel(cancelled, None);
    let queue = || name("default");
    assert_eq!(bench.operator.retry_all(queue(), None), Ok(1));
    assert_eq!(
        [done, dead, cancelled].map(|id| bench.is(id)),
        [JobState::Done, JobState::Ready, JobState::Cancelled]
    );
    assert_eq!(code(bench.operator.retry(done)), Some(Code::NotFound));
    assert_eq!(bench.operator.purge(queue(), None), Ok(1));
    let listed = |bench: &mut Bench, state| {
        let jobs = bench.operator.list(queue(), state, 10, None).expect("nothing is broken");
        jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&mut bench, None), [done, cancelled]);
    assert_eq!(listed(&mut bench, Some(JobState::Done)), [done]);
    assert_eq!(listed(&mut bench, Some(JobState::Cancelled)), [cancelled]);
    assert_eq!(code(bench.operator.purge(queue(), Some(JobState::Leased))), Some(Code::Usage));
    assert_eq!(bench.operator.purge(queue(), Some(JobState::Done)), Ok(1));
    assert_eq!(bench.operator.purge(queue(), Some(JobState::Cancelled)), Ok(1));
    assert_eq!(listed(&mut bench, None), []);
    assert_eq!(bench.queues(), [""; 0]);
}
