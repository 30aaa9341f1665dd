//! WHY: why a job is where it is; the progress that workers report; the failed attempts that are remembered.

use std::time::{Duration, SystemTime};

use djqs::internal::clock::ManualClock;
use djqs::job::{
    ATTEMPT_REASON_BYTES_MAX, ATTEMPTS_REMEMBERED, AttemptEnd, Failure, Hello, Pause, Progress, Rate, Secret,
    Why, WorkerName,
};
use djqs::protocol::{Command, Reply};
use djqs::{Code, JobId};

use crate::common::engine::*;

fn w1() -> WorkerName {
    WorkerName::new("w1").expect("it is good")
}

/// The time that the manual clock shows this long after its beginning, to the second.
fn wall(after: Duration) -> SystemTime {
    let time = Duration::from_millis(ManualClock::WALL_ORIGIN_MS) + after;
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

impl Bench {
    fn why(&mut self, id: JobId) -> Why {
        self.operator.why(id).expect("it was given")
    }

    /// A session that has introduced itself as `w1`.
    fn worker(&self) -> djqs::broker::Session {
        let mut session = self.session();
        let hello = Hello::new(w1(), Secret(1));
        assert_eq!(tell(&mut session, Command::Hello(Box::new(hello))), Reply::Hello);
        session
    }
}

fn ready(ahead: u64, workers: u64) -> Why {
    Why::Ready { ahead, workers, rate: None, pause: None }
}

#[test]
fn ready_job_has_those_before_it_and_those_who_ask() {
    let mut bench = Bench::new();
    let [mut one, mut two] = bench.sessions();
    let ids = [(); 3].map(|()| bench.submit(options()));
    assert_eq!(ids.map(|id| bench.why(id)), [0, 1, 2].map(|ahead| ready(ahead, 0)));
    bench.submit(urgent(0));
    bench.submit(urgent(5000));
    bench.submit_to("other", urgent(0));
    assert_eq!(bench.why(ids[2]), ready(3, 0), "a more urgent one goes first");
    assert!(get(&mut one).is_some());
    assert!(get_of(&mut two, &["other", "default"]).is_some());
    assert_eq!(bench.why(ids[2]), ready(2, 2), "busy workers count too");
    assert_eq!(get_of(&mut two, &["nothing"]), None);
    assert_eq!(bench.why(ids[2]), ready(2, 1), "the second one asks for others by now");
    drop(one);
    assert!(matches!(bench.why(ids[2]), Why::Ready { workers: 0, .. }));
}

#[test]
fn ready_job_of_a_paused_queue_says_for_how_long() {
    let mut bench = Bench::new();
    let id = bench.submit(options());
    bench.pause("default", None);
    let paused = |pause| Why::Ready { ahead: 0, workers: 0, rate: None, pause };
    assert_eq!(bench.why(id), paused(Some(Pause::UntilResumed)));
    bench.pause("default", Some(5 * SECOND));
    bench.advance(2 * SECOND);
    assert_eq!(bench.operator.why(id).map(without_rate), Ok(paused(Some(Pause::For(3 * SECOND)))));
    bench.resume("default");
    assert_eq!(bench.operator.why(id).map(without_rate), Ok(paused(None)));
}

fn without_rate(why: Why) -> Why {
    match why {
        Why::Ready { ahead, workers, pause, .. } => Why::Ready { ahead, workers, rate: None, pause },
        other => other,
    }
}

#[test]
fn rate_is_known_once_somebody_has_asked_before() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.submit(urgent(5000));
    assert!(matches!(bench.why(id), Why::Ready { rate: None, .. }));
    for _ in 0..10 {
        bench.leased(&mut worker, options());
    }
    bench.pass(5 * SECOND);
    let Why::Ready { rate, .. } = bench.why(id) else { panic!("it is ready") };
    assert_eq!(rate, Some(Rate { leased: 10, time: 5 * SECOND }));
}

#[test]
fn delayed_job_says_how_long_and_whether_it_has_failed() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let submitted = bench.submit(delayed(5 * SECOND));
    let failed = bench.leased(&mut worker, options());
    fail(&mut worker, failed, Failure::new("no").retry_in(3 * SECOND));
    bench.advance(SECOND);
    let delayed = |remaining, failures, reason: Option<&str>| Why::Delayed {
        remaining,
        failures,
        reason: reason.map(Into::into),
    };
    assert_eq!(bench.why(submitted), delayed(4 * SECOND, 0, None));
    assert_eq!(bench.why(failed), delayed(2 * SECOND, 1, Some("no")));
}

#[test]
fn leased_job_says_who_has_it_and_for_how_long() {
    let mut bench = Bench::new();
    let [mut named, mut nameless] = [bench.worker(), bench.session()];
    let (first, second) = (bench.leased(&mut named, options()), bench.leased(&mut nameless, options()));
    bench.pass(20 * SECOND);
    for (id, worker) in [(first, Some(w1())), (second, None)] {
        let why = Why::Leased { worker, held_for: 20 * SECOND, remaining: 40 * SECOND, progress: None };
        assert_eq!(bench.why(id), why);
    }
    named.touch(first, None).expect("it is leased");
    let renewed =
        Why::Leased { worker: Some(w1()), held_for: 20 * SECOND, remaining: 60 * SECOND, progress: None };
    assert_eq!(bench.why(first), renewed, "it has it for as long as before");
}

#[test]
fn ended_job_says_how_it_ended() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let [dead, done, gone] =
        [options(), options().keep(HOUR), options()].map(|options| bench.leased(&mut worker, options));
    fail(&mut worker, dead, Failure::new("no").dead());
    worker.ack(done).expect("it is leased");
    worker.ack(gone).expect("it is leased");
    let cancelled = bench.submit(options());
    bench.operator.cancel(cancelled, Some("not needed")).expect("it is there");
    bench.pass(SECOND);
    assert_eq!(bench.why(dead), Why::Dead { failures: 1, reason: Some("no".into()) });
    assert_eq!(bench.why(done), Why::Done { remaining: HOUR - SECOND });
    assert_eq!(bench.why(cancelled), Why::Cancelled { reason: Some("not needed".into()) });
    assert_eq!(bench.why(gone), Why::Gone);
    for never in [JobId(0), JobId(99)] {
        assert_eq!(code(bench.operator.why(never)), Some(Code::NotFound));
    }
}

// ---- progress ----

#[test]
fn progress_is_shown_while_the_lease_lasts() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.leased(&mut worker, options());
    assert_eq!(bench.peek(id).progress, None);
    bench.pass(30 * SECOND);
    worker.progress(id, Some(40), Some("page 2 of 5")).expect("it is leased");
    let said =
        |percent, note: Option<&str>, after| Some(Progress::new(percent, note.map(Into::into), wall(after)));
    let expected = said(Some(40), Some("page 2 of 5"), 30 * SECOND);
    let job = bench.peek(id);
    assert_eq!((job.progress, job.remaining), (expected.clone(), Some(60 * SECOND)), "it renews the lease");
    let listed = bench.operator.list(name("default"), None, 1, None).expect("nothing is broken");
    assert_eq!(listed[0].progress, expected);
    let Why::Leased { progress, .. } = bench.why(id) else { panic!("it is leased") };
    assert_eq!(progress, expected);
    worker.touch(id, None).expect("it is leased");
    assert_eq!(bench.peek(id).progress, expected, "a TOUCH without progress leaves it");
    worker.progress(id, Some(60), None).expect("it is leased");
    assert_eq!(bench.peek(id).progress, said(Some(60), None, 30 * SECOND));
    return_job(&mut worker, id);
    assert_eq!(bench.peek(id).progress, None);
    assert_eq!(get(&mut worker), Some(id));
    assert_eq!(bench.peek(id).progress, None, "the next one begins anew");
}

#[test]
fn progress_ends_with_the_lease_however_that_ends() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let [failed, dead, done, cancelled] = [(); 4].map(|()| {
        let id = bench.leased(&mut worker, options().keep(HOUR));
        worker.progress(id, None, Some("a note")).expect("it is leased");
        id
    });
    let [lapsed, lost] = [(); 2].map(|()| {
        let id = bench.leased(&mut worker, options().ttr(SECOND));
        worker.progress(id, None, Some("a note")).expect("it is leased");
        id
    });
    worker.touch(lost, Some(HOUR)).expect("it is leased");
    fail(&mut worker, failed, Failure::default());
    fail(&mut worker, dead, Failure::default().dead());
    worker.ack(done).expect("it is leased");
    bench.operator.cancel(cancelled, None).expect("it is there");
    bench.pass(SECOND);
    drop(worker);
    for id in [failed, dead, done, cancelled, lapsed, lost] {
        assert_eq!(bench.peek(id).progress, None, "job {id}");
    }
}

// ---- the last attempts ----

#[test]
fn failed_attempts_are_remembered_with_who_when_how_and_why() {
    let mut bench = Bench::new();
    let mut worker = bench.worker();
    let id = bench.leased(&mut worker, options());
    bench.pass(SECOND);
    fail(&mut worker, id, Failure::new("no").retry_in(Duration::ZERO));
    assert_eq!(get(&mut worker), Some(id));
    return_job(&mut worker, id);
    assert_eq!(get(&mut worker), Some(id));
    worker.touch(id, Some(SECOND)).expect("it is leased");
    bench.pass(SECOND);
    drop(worker);
    let mut nameless = bench.session();
    assert_eq!(get(&mut nameless), Some(id));
    drop(nameless);
    let origin = ManualClock::WALL_ORIGIN_MS;
    let found: Vec<_> = bench
        .peek(id)
        .history
        .into_iter()
        .map(|attempt| {
            let times = (attempt.started_ms - origin, attempt.ended_ms - origin);
            (attempt.number, attempt.worker, times, attempt.end, attempt.reason)
        })
        .collect();
    let expected = [
        (1, Some(w1()), (0, 1000), AttemptEnd::Failed, Some("no".into())),
        (2, Some(w1()), (1000, 2000), AttemptEnd::Lapsed, None),
        (3, None, (2000, 2000), AttemptEnd::Lost, None),
    ];
    assert_eq!(found, expected, "a return is no failure");
}

#[test]
fn last_attempts_are_remembered_and_their_reasons_cut() {
    let mut bench = Bench::new();
    let mut worker = bench.session();
    let id = bench.leased(&mut worker, attempts(0));
    let long = "é".repeat(ATTEMPT_REASON_BYTES_MAX);
    let all = ATTEMPTS_REMEMBERED as u32 + 2;
    for _ in 0..all {
        fail(&mut worker, id, Failure::new(&long).retry_in(Duration::ZERO));
        assert_eq!(get(&mut worker), Some(id));
    }
    let history = bench.peek(id).history;
    assert!(history.iter().map(|attempt| attempt.number).eq(3..=all), "{history:?}");
    let reason = history[0].reason.as_deref().expect("it has one");
    assert!(reason.len() <= ATTEMPT_REASON_BYTES_MAX && long.starts_with(reason));
    assert_eq!(reason.len(), ATTEMPT_REASON_BYTES_MAX / 2 * 2);
}

#[test]
fn numbers_of_attempts_go_on_after_a_retry() {
    let mut bench = Bench::new();
    let id = bench.dead(options());
    bench.operator.retry(id).expect("it is dead");
    let mut worker = bench.session();
    assert_eq!(get(&mut worker), Some(id));
    fail(&mut worker, id, Failure::default());
    let numbers: Vec<_> = bench.peek(id).history.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2]);
}
