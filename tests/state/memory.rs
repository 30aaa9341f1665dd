//! The memory that is accounted, and what the state does without if it reaches the limit.

use super::*;

/// A state whose jobs take all the memory that they may. The first has these options, the others no limit of
/// attempts. Returns also how many there are.
fn full_of_jobs(limit: u64, first: Options) -> (Bench, u64) {
    let mut bench = Bench::new();
    bench.state = State::new(limit, 1);
    bench.submit(first);
    let tiny = || Submission::new("x").attempts(0);
    let count = 1 + std::iter::from_fn(|| bench.state.submit(bench.now, tiny()).ok()).count() as u64;
    (bench, count)
}

#[test]
fn memory_stays_within_a_twentieth_of_its_limit_whatever_happens_to_jobs() {
    const LIMIT: u64 = 256 << 10;
    type Event = (&'static str, fn(&mut Bench, SessionId, JobId));
    const EVENTS: [Event; 9] = [
        ("failed", |bench, session, id| {
            bench.fail(session, id, Some(SECOND), false, None);
        }),
        ("failed with a reason", |bench, session, id| {
            bench.fail(session, id, None, false, Some(&"r".repeat(MAX_REASON_BYTES)));
        }),
        ("dead", |bench, session, id| {
            bench.fail(session, id, None, true, None);
        }),
        ("returned", |bench, session, id| {
            bench.state.return_job(bench.now, session, id, None, SECOND).expect("it is leased");
        }),
        ("lapsed", |bench, _, _| bench.pass(3600 * SECOND)),
        ("lost", |bench, session, _| {
            bench.state.end_session(bench.now, session, SessionEnd::Lost, u64::MAX);
        }),
        ("buried and kicked", |bench, session, id| {
            bench.state.bury(bench.now, session, id, Priority(0)).expect("it is leased");
            bench.state.kick_job(bench.now, id).expect("it is dead");
        }),
        ("delayed and kicked", |bench, session, id| {
            bench.state.return_job(bench.now, session, id, None, SECOND).expect("it is leased");
            bench.state.kick_job(bench.now, id).expect("it is delayed");
        }),
        ("dead and leased by number", |bench, session, id| {
            bench.fail(session, id, None, true, None);
            bench.state.lease_job(bench.now, session, id).expect("it is dead");
        }),
    ];
    for (what, event) in EVENTS {
        let (mut bench, count) = full_of_jobs(LIMIT, attempts(0));
        let most = LIMIT + LIMIT / 20;
        for id in (1..=count).map(JobId) {
            let session = bench.session();
            bench.state.lease_job(bench.now, session, id).expect("nobody has it");
            event(&mut bench, session, id);
            let (taken, _) = bench.state.memory();
            assert!(taken <= most, "{taken} of {most} bytes when {id} of {count} jobs are {what}");
        }
    }
}

#[test]
fn memory_stays_within_a_twentieth_of_its_limit_whatever_is_named() {
    const LIMIT: u64 = 256 << 10;
    for how in ["wait", "pause", "watch", "use", "default"] {
        let mut bench = Bench::new();
        bench.state = State::new(LIMIT, 1);
        while bench.state.submit(bench.now, Submission::new("x").to(&name("a"))).is_ok() {}
        let most = LIMIT + LIMIT / 20;
        let mut refused = 0;
        for n in 0..2_000 {
            let queue = name(&format!("q{n}"));
            let session = bench.session();
            let ok = match how {
                "watch" => bench.state.watch(session, &queue).is_ok(),
                "use" => bench.state.use_queue(session, &queue).is_ok(),
                _ => {
                    let ok = bench.state.room_for(std::slice::from_ref(&queue)).is_ok();
                    match how {
                        "wait" if ok => bench.state.wait(session, &[queue], Warn::Never, OnDrained::Wait),
                        "pause" if ok => bench.state.pause(bench.now, &queue, None),
                        "default" => bench.state.wait(session, &[], Warn::Never, OnDrained::Wait),
                        _ => {}
                    }
                    ok
                }
            };
            refused += u64::from(!ok);
            let (taken, _) = bench.state.memory();
            assert!(taken <= most, "{taken} of {most} bytes with {n} queues: {how}");
        }
        assert!((1..2_000).contains(&refused) || how == "default", "{refused}: {how}");
    }
}

#[test]
fn counts_are_exact_however_large() {
    let mut bench = Bench::new();
    bench.state.set_journaled();
    let session = bench.session();
    let id = bench.leased(session, attempts(0));
    for n in 1..=600 {
        assert_eq!(
            bench.fail(session, id, Some(Duration::ZERO), false, None),
            Failed::RetryIn(Duration::ZERO)
        );
        assert_eq!(bench.get(session), Some(id));
        bench.state.return_job(bench.now, session, id, None, Duration::ZERO).expect("it is leased");
        assert_eq!(bench.peek(id).counts, counts(n, 0, n));
        assert_eq!(bench.get(session), Some(id));
    }
    let changes = bench.changes();
    assert_eq!(bench.restarted(changes, SECOND).peek(id).counts, counts(600, 0, 600));
    bench.fail(session, id, None, true, None);
    bench.state.retry(bench.now, id).expect("it is dead");
    assert_eq!(bench.peek(id).counts, counts(0, 0, 600));
}

#[test]
fn job_dies_of_its_many_attempts_when_memory_is_full() {
    for many in [300, 255, 256] {
        let (mut bench, count) = full_of_jobs(64 << 10, attempts(many));
        let session = bench.session();
        // The others' reasons take what notes may take.
        for id in (2..=count).map(JobId) {
            bench.state.lease_job(bench.now, session, id).expect("nobody has it");
            bench.fail(session, id, None, true, Some(&"r".repeat(10)));
        }
        for n in 1..=many {
            assert_eq!(bench.get(session), Some(JobId(1)));
            let failed = bench.fail(session, JobId(1), Some(Duration::ZERO), false, None);
            assert_eq!(failed == Failed::Dead, n == many, "attempt {n} of {many}");
        }
    }
}

#[test]
fn counts_that_decide_nothing_may_stop_when_memory_is_full() {
    let (mut bench, count) = full_of_jobs(64 << 10, attempts(0));
    let session = bench.session();
    for id in (2..=count).map(JobId) {
        bench.state.lease_job(bench.now, session, id).expect("nobody has it");
        bench.fail(session, id, None, true, Some(&"r".repeat(10)));
    }
    for n in 1..=300 {
        assert_eq!(bench.get(session), Some(JobId(1)));
        bench.state.return_job(bench.now, session, JobId(1), None, Duration::ZERO).expect("it is leased");
        assert_eq!(bench.peek(JobId(1)).counts, counts(0, 0, n.min(255)));
    }
}
