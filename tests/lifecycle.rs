//! The life of a job, rule by rule: each test here is one sentence of docs/protocol.md, run against the state
//! machine. (tests/state_machine asks whether all of them hold at once.)

use std::sync::Arc;
use std::time::Duration;

use djqs::internal::change::{Change, Place};
use djqs::internal::clock::{ManualClock, Moment, Now};
use djqs::internal::queue::state::{Accepted, Failed, Returned, SessionEnd, SessionId, State, Warn};
use djqs::job::{Counts, MAX_BACKOFF, MAX_REASON_BYTES};
use djqs::protocol::OnDrained;
use djqs::stats::StateCounts;
use djqs::{Code, Job, JobId, JobState, Key, Lease, Options, Priority, QueueName, Refusal, Submission};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A state and the time that is passed to it.
struct Bench {
    state: State,
    now: Now,
}

impl Bench {
    fn new() -> Bench {
        let now = Now { mono: Moment::from_millis(0), wall_ms: ManualClock::WALL_ORIGIN_MS };
        Bench { state: State::new(u64::MAX, 1), now }
    }

    fn ack(&mut self, session: SessionId, id: JobId) -> Result<(), Refusal> {
        self.state.ack(self.now, session, id, Returned::Result(Arc::default())).map(|_| ())
    }

    /// Lets time pass, and all happen that falls due.
    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono.after(time);
        self.now.wall_ms += time.as_millis() as u64;
        while self.state.next_deadline().is_some_and(|next| next <= self.now.mono) {
            self.state.tick(self.now, 1);
        }
    }

    fn session(&mut self) -> SessionId {
        self.state.open_session()
    }

    fn submit_to(&mut self, queue: &str, options: Options) -> JobId {
        let accepted = self.accept(queue, options);
        assert_eq!(accepted.duplicate, None);
        accepted.id
    }

    fn accept(&mut self, queue: &str, options: Options) -> Accepted {
        let submission = Submission::new("work").to(&name(queue)).options(&options);
        self.state.submit(self.now, submission).expect("there is room")
    }

    fn submit(&mut self, options: Options) -> JobId {
        self.submit_to("default", options)
    }

    fn get_of(&mut self, session: SessionId, queues: &[&str]) -> Option<Lease> {
        let queues: Vec<_> = queues.iter().copied().map(name).collect();
        self.state.lease(self.now, session, &queues)
    }

    fn get(&mut self, session: SessionId) -> Option<JobId> {
        self.get_of(session, &["default"]).map(|lease| lease.id)
    }

    /// A job that a session has leased.
    fn leased(&mut self, session: SessionId, options: Options) -> JobId {
        let id = self.submit(options);
        assert_eq!(self.get(session), Some(id));
        id
    }

    fn dead(&mut self, session: SessionId, options: Options) -> JobId {
        let id = self.leased(session, options);
        assert_eq!(self.fail(session, id, None, true, None), Failed::Dead);
        id
    }

    fn wait(&mut self, session: SessionId, queues: &[&str]) {
        assert_eq!(self.get_of(session, queues), None);
        let queues: Vec<_> = queues.iter().copied().map(name).collect();
        self.state.wait(session, &queues, Warn::Never, OnDrained::Wait);
    }

    /// As [`Bench::wait`], until the queues are drained.
    fn drain(&mut self, session: SessionId, queues: &[&str]) {
        assert_eq!(self.get_of(session, queues), None);
        let queues: Vec<_> = queues.iter().copied().map(name).collect();
        self.state.wait(session, &queues, Warn::Never, OnDrained::End);
    }

    fn fail(
        &mut self,
        session: SessionId,
        id: JobId,
        delay: Option<Duration>,
        dead: bool,
        reason: Option<&str>,
    ) -> Failed {
        let reason = reason.map(Arc::from);
        self.state.fail(self.now, session, id, delay, dead, reason).expect("it is leased")
    }

    fn end(&mut self, session: SessionId, ending: SessionEnd) {
        assert!(self.state.end_session(self.now, session, ending, u64::MAX));
    }

    fn pause(&mut self, queue: &str, time: Option<Duration>) {
        self.state.pause(self.now, &name(queue), time);
    }

    fn resume(&mut self, queue: &str) {
        self.state.resume(self.now, &name(queue));
    }

    fn woken(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.state.effects().wakes)
    }

    fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.state.effects().changes)
    }

    fn peek(&self, id: JobId) -> Job {
        self.state.peek(self.now, id).expect("it is there")
    }

    fn is(&self, id: JobId) -> JobState {
        self.peek(id).state
    }

    fn queues(&self) -> Vec<String> {
        let queues = self.state.queues(self.now, 0, usize::MAX);
        queues.into_iter().map(|(_, stats)| stats.name.to_string()).collect()
    }

    /// A new process, that has read these changes, later.
    fn restarted(&self, changes: Vec<Change>, later: Duration) -> Bench {
        let now = Now { mono: Moment::from_millis(7), wall_ms: self.now.wall_ms + later.as_millis() as u64 };
        let mut next = Bench { state: State::new(u64::MAX, 2), now };
        for change in changes {
            next.state.restore(now, change);
        }
        next.pass(Duration::ZERO);
        next
    }
}

fn name(text: &str) -> QueueName {
    QueueName::new(text).expect("it is good")
}

fn key(text: &str) -> Option<Key> {
    Some(Key::new(text).expect("it is good"))
}

fn options() -> Options {
    Options::default()
}

fn urgent(priority: u32) -> Options {
    options().priority(priority)
}

fn delayed(delay: Duration) -> Options {
    options().delay(delay)
}

fn attempts(attempts: u32) -> Options {
    options().attempts(attempts)
}

fn counts(failures: u32, crashes: u32, returns: u32) -> Counts {
    Counts { failures, crashes, returns }
}

fn code<T>(result: Result<T, djqs::Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}

// ---- submitting and leasing ----

#[test]
fn ids_count_up_from_one() {
    let mut bench = Bench::new();
    let ids: Vec<_> = (0..3).map(|_| bench.submit(options())).collect();
    assert_eq!(ids, [JobId(1), JobId(2), JobId(3)]);
}

#[test]
fn lowest_priority_number_goes_first_then_the_oldest() {
    let mut bench = Bench::new();
    let session = bench.session();
    let [late, old, young, first] = [9, 5, 5, 0].map(|priority| bench.submit(urgent(priority)));
    let order: Vec<_> = (0..4).filter_map(|_| bench.get(session)).collect();
    assert_eq!(order, [first, old, young, late]);
}

#[test]
fn order_holds_over_all_queues_that_are_named() {
    let mut bench = Bench::new();
    let session = bench.session();
    let in_b = bench.submit_to("b", urgent(1));
    let in_a = bench.submit_to("a", urgent(1));
    bench.submit_to("c", urgent(0));
    let urgent_in_a = bench.submit_to("a", urgent(0));
    let order: Vec<_> =
        (0..4).filter_map(|_| bench.get_of(session, &["a", "b"])).map(|lease| lease.id).collect();
    assert_eq!(order, [urgent_in_a, in_b, in_a], "the one in c is not theirs");
}

#[test]
fn delayed_job_is_ready_when_its_time_is_up_and_not_before() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.submit(delayed(SECOND));
    bench.pass(SECOND - MS);
    assert_eq!((bench.is(id), bench.get(session)), (JobState::Delayed, None));
    bench.pass(MS);
    assert_eq!((bench.is(id), bench.get(session)), (JobState::Ready, Some(id)));
}

#[test]
fn lease_says_which_attempt_it_is() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.fail(session, id, Some(Duration::ZERO), false, None);
    let second = bench.get_of(session, &["default"]).expect("it is ready again");
    assert_eq!((second.id, second.attempt, second.ttr), (id, 2, options().ttr));
    bench.end(session, SessionEnd::Lost);
    let other = bench.session();
    assert_eq!(
        bench.get_of(other, &["default"]).expect("it is ready again").attempt,
        3,
        "a crash is one too"
    );
}

#[test]
fn memory_limit_refuses_submissions_and_nothing_else() {
    let mut bench = Bench::new();
    let id = bench.submit(options());
    let full = bench.state.memory().0;
    bench.state = State::new(full, 1);
    let session = bench.session();
    assert_eq!(bench.leased(session, options()), id);
    let refused = bench.state.submit(bench.now, Submission::new(*b"work")).expect_err("it is full");
    assert_eq!(refused.code, Code::Full);
    assert!(refused.retry_after.is_some());
    bench.fail(session, id, None, true, Some("a reason needs memory too"));
    bench.state.delete(bench.now, session, id).expect("it is there");
    assert_eq!(bench.state.memory().0, 0);
    bench.submit(options());
}

/// A state whose limit jobs have reached. The first job's options are these, all have no limit of attempts.
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

// ---- acknowledging, failing, handing back ----

#[test]
fn acknowledged_job_is_gone() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.ack(session, id).expect("it is leased");
    assert_eq!(bench.state.peek(bench.now, id), None);
    assert_eq!(code(bench.ack(session, id)), Some(Code::NotFound));
}

#[test]
fn backoff_doubles_each_time_with_up_to_a_quarter_of_jitter() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.leased(session, options().attempts(0));
    let mut base = options().backoff;
    for _ in 0..20 {
        let Failed::RetryIn(wait) = bench.fail(session, JobId(1), None, false, None) else {
            panic!("attempts=0 has no end");
        };
        let most = (base + base / 4).min(MAX_BACKOFF);
        assert!((base..=most).contains(&wait), "{wait:?} is not from {base:?} to {most:?}");
        assert_eq!((bench.is(JobId(1)), bench.peek(JobId(1)).remaining), (JobState::Delayed, Some(wait)));
        bench.pass(wait - MS);
        assert_eq!(bench.get(session), None);
        bench.pass(MS);
        assert_eq!(bench.get(session), Some(JobId(1)));
        base = (base * 2).min(MAX_BACKOFF);
    }
    assert_eq!(base, MAX_BACKOFF);
}

#[test]
fn jobs_that_fail_together_do_not_come_back_together() {
    let mut bench = Bench::new();
    let session = bench.session();
    let mut waits: Vec<_> = (0..100)
        .map(|_| {
            let id = bench.leased(session, options());
            bench.fail(session, id, None, false, None)
        })
        .map(|failed| format!("{failed:?}"))
        .collect();
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 20, "{waits:?}");
}

#[test]
fn delay_of_a_failure_replaces_the_backoff_exactly() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    assert_eq!(bench.fail(session, id, Some(7 * SECOND), false, None), Failed::RetryIn(7 * SECOND));
    assert_eq!(bench.peek(id).remaining, Some(7 * SECOND));
}

#[test]
fn job_is_dead_when_its_attempts_are_spent() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, attempts(3));
    bench.fail(session, id, Some(Duration::ZERO), false, Some("first"));
    assert_eq!(bench.get(session), Some(id));
    bench.end(session, SessionEnd::Lost);
    let session = bench.session();
    assert_eq!(bench.get(session), Some(id));
    assert_eq!(bench.fail(session, id, Some(SECOND), false, Some("last")), Failed::Dead);
    let job = bench.peek(id);
    assert_eq!(
        (job.state, job.counts, job.reason.as_deref()),
        (JobState::Dead, counts(2, 1, 0), Some("last"))
    );
    bench.pass(2 * SECOND);
    assert_eq!(bench.get(session), None, "a dead job is not leased");
}

#[test]
fn job_without_a_limit_of_attempts_never_dies_of_them() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, attempts(0));
    for _ in 0..1_000 {
        bench.fail(session, id, Some(Duration::ZERO), false, None);
        assert_eq!(bench.get(session), Some(id));
    }
    assert_eq!(bench.fail(session, id, None, true, None), Failed::Dead, "a worker can still give it up");
}

#[test]
fn failure_without_a_reason_keeps_the_last_one() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.fail(session, id, Some(Duration::ZERO), false, Some("disk is full"));
    bench.get(session).expect("it is ready");
    bench.fail(session, id, Some(Duration::ZERO), false, None);
    assert_eq!(bench.peek(id).reason.as_deref(), Some("disk is full"));
}

#[test]
fn long_reason_is_cut_between_two_characters() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    let reason = format!("x{}", "é".repeat(MAX_REASON_BYTES));
    bench.fail(session, id, None, true, Some(&reason));
    let kept = bench.peek(id).reason.expect("it has one");
    assert_eq!(kept.len(), MAX_REASON_BYTES - 1);
    assert!(reason.starts_with(&*kept));
}

#[test]
fn handing_back_charges_no_attempt() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, attempts(1));
    for _ in 0..5 {
        bench.state.return_job(bench.now, session, id, None, Duration::ZERO).expect("it is leased");
        assert_eq!(bench.get_of(session, &["default"]).expect("it is ready").attempt, 1);
    }
    assert_eq!(bench.peek(id).counts, counts(0, 0, 5));
}

#[test]
fn job_handed_back_with_a_delay_waits_for_it() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.state.return_job(bench.now, session, id, None, SECOND).expect("it is leased");
    assert_eq!(bench.is(id), JobState::Delayed);
    bench.pass(SECOND);
    assert_eq!(bench.get(session), Some(id));
}

// ---- leases ----

#[test]
fn job_that_was_handed_to_a_lost_connection_but_never_seen_is_charged_nothing() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.wait(session, &["default"]);
    let id = bench.submit(attempts(1));
    bench.end(session, SessionEnd::Lost);
    assert_eq!((bench.is(id), bench.peek(id).counts), (JobState::Ready, counts(0, 0, 1)));
}

#[test]
fn session_with_many_leases_ends_in_slices() {
    let mut bench = Bench::new();
    let session = bench.session();
    (0..5).for_each(|_| {
        bench.leased(session, options());
    });
    // The first slices only sort the leases.
    for ready in [0, 0, 2, 4] {
        assert!(!bench.state.end_session(bench.now, session, SessionEnd::Quit, 2));
        assert_eq!(bench.state.counts(), StateCounts { ready, leased: 5 - ready, ..StateCounts::default() });
    }
    assert!(bench.state.end_session(bench.now, session, SessionEnd::Quit, 2));
    assert_eq!(bench.state.counts().ready, 5);
}

#[test]
fn jobs_of_a_lost_session_are_returned_most_urgent_first_over_all_of_them() {
    for ending in [SessionEnd::Lost, SessionEnd::Quit] {
        let mut bench = Bench::new();
        let holder = bench.session();
        // Those that are leased last, and so lapse last, are the most urgent.
        let mut ids: Vec<_> = (0..1000).map(|n| bench.leased(holder, urgent(1000 - n))).collect();
        let waiting: Vec<_> = (0..1000).map(|_| bench.session()).collect();
        waiting.iter().for_each(|&session| bench.wait(session, &["default"]));
        let mut served = Vec::new();
        loop {
            let ended = bench.state.end_session(bench.now, holder, ending, 256);
            served.extend(bench.woken());
            if ended {
                break;
            }
        }
        assert_eq!(served, waiting, "all of them, in the order in which they wait");
        let handed = served.iter().map(|&session| bench.state.take_handed(session).unwrap().id);
        ids.reverse();
        assert_eq!(handed.collect::<Vec<_>>(), ids);
    }
}

// ---- waiting ----

#[test]
fn oldest_waiter_is_served_first() {
    let mut bench = Bench::new();
    let [first, second, third] = [(); 3].map(|()| bench.session());
    for session in [first, second, third] {
        bench.wait(session, &["default"]);
    }
    let (one, two) = (bench.submit(options()), bench.submit(options()));
    assert_eq!(bench.woken(), [first, second], "and the third sleeps on");
    assert_eq!(bench.state.take_handed(first).map(|lease| lease.id), Some(one));
    assert_eq!(bench.state.take_handed(second).map(|lease| lease.id), Some(two));
    assert_eq!(bench.state.take_handed(third), None);
}

#[test]
fn waiter_is_woken_by_any_of_its_queues_and_by_no_other() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.wait(session, &["a", "b", "a"]);
    bench.submit_to("c", options());
    assert!(bench.woken().is_empty());
    let id = bench.submit_to("b", options());
    assert_eq!(bench.woken(), [session]);
    assert_eq!(bench.state.take_handed(session).map(|lease| lease.id), Some(id));
    bench.submit_to("a", options());
    assert!(bench.woken().is_empty(), "it stands in no line any more");
}

#[test]
fn waiter_that_leaves_is_passed_over() {
    let mut bench = Bench::new();
    let (gone, patient) = (bench.session(), bench.session());
    bench.wait(gone, &["default"]);
    bench.wait(patient, &["default"]);
    bench.state.cancel_wait(gone);
    bench.submit(options());
    assert_eq!(bench.woken(), [patient]);
}

#[test]
fn waiter_gets_what_others_return_or_lose() {
    let mut bench = Bench::new();
    let (holder, waiter) = (bench.session(), bench.session());
    let lapsing = bench.leased(holder, options().ttr(SECOND));
    bench.wait(waiter, &["default"]);
    bench.pass(SECOND);
    assert_eq!(bench.woken(), [waiter], "as its lease lapses");
    assert_eq!(bench.state.take_handed(waiter).map(|lease| lease.attempt), Some(2));
    bench.ack(waiter, lapsing).expect("it is leased");

    let returned = bench.leased(holder, options());
    bench.wait(waiter, &["default"]);
    bench.state.return_job(bench.now, holder, returned, None, Duration::ZERO).expect("it is leased");
    assert_eq!(bench.woken(), [waiter], "as it is handed back");
    bench.ack(waiter, returned).expect("it is leased");
    bench.state.take_handed(waiter);

    bench.leased(holder, options());
    bench.wait(waiter, &["default"]);
    bench.end(holder, SessionEnd::Lost);
    assert_eq!(bench.woken(), [waiter], "as its holder is lost");
}

#[test]
fn waiter_gets_a_job_whose_delay_is_over() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.submit(delayed(SECOND));
    bench.wait(session, &["default"]);
    bench.pass(SECOND);
    assert_eq!(bench.woken(), [session]);
}

#[test]
fn job_whose_lease_lapsed_before_its_waiter_came_is_not_taken() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.wait(session, &["default"]);
    let id = bench.submit(options().ttr(MS));
    bench.pass(MS);
    assert_eq!(bench.state.take_handed(session), None);
    assert_eq!(bench.is(id), JobState::Ready);
}

// ---- drained queues ----

#[test]
fn wait_ends_once_its_queues_are_drained() {
    let mut bench = Bench::new();
    let (worker, waiter) = (bench.session(), bench.session());
    let (first, second) = (bench.leased(worker, options()), bench.leased(worker, options()));
    bench.submit(delayed(SECOND));
    bench.drain(waiter, &["default"]);
    bench.ack(worker, first).unwrap();
    bench.fail(worker, second, Some(5 * SECOND), false, None);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [], "two jobs are delayed");

    bench.pass(SECOND);
    assert_eq!(bench.woken(), [waiter]);
    let delayed = bench.state.take_handed(waiter).expect("it is a job").id;
    bench.ack(waiter, delayed).unwrap();
    bench.drain(waiter, &["default"]);
    bench.pass(5 * SECOND);
    assert_eq!(bench.state.take_handed(waiter).map(|lease| lease.id), Some(second));
    bench.drain(worker, &["default"]);
    bench.woken();
    bench.fail(waiter, second, None, true, None);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [worker], "a dead job does not count");
    assert_eq!(bench.state.take_handed(worker), None);
    assert_eq!(bench.state.drained(worker, &[]), Some(vec![]));
}

#[test]
fn jobs_that_are_kept_when_they_are_done_or_cancelled_hold_no_drain() {
    let mut bench = Bench::new();
    let (worker, waiter) = (bench.session(), bench.session());
    let kept = bench.leased(worker, options().keep(SECOND));
    let cancelled = bench.leased(worker, options());
    bench.drain(waiter, &["default"]);
    bench.ack(worker, kept).unwrap();
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [], "one is leased");
    bench.state.cancel(bench.now, cancelled, None).unwrap();
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [waiter]);
    assert_eq!((bench.is(kept), bench.is(cancelled)), (JobState::Done, JobState::Cancelled));
}

#[test]
fn wait_for_several_queues_ends_when_the_last_is_drained() {
    let mut bench = Bench::new();
    let (worker, waiter) = (bench.session(), bench.session());
    let ids = ["a", "b", "c"].map(|queue| bench.submit_to(queue, options()));
    ids.iter().for_each(|_| _ = bench.get_of(worker, &["a", "b", "c"]));
    bench.drain(waiter, &["a", "b", "c", "nothing"]);
    for id in [ids[1], ids[0]] {
        bench.ack(worker, id).unwrap();
        bench.pass(Duration::ZERO);
        assert_eq!(bench.woken(), []);
    }
    let again = bench.submit_to("a", delayed(SECOND));
    bench.ack(worker, ids[2]).unwrap();
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [], "there is a job in the first again");
    bench.state.delete(bench.now, worker, again).unwrap();
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [waiter]);
}

#[test]
fn paused_queue_is_drained_when_none_of_its_jobs_is_leased() {
    let mut bench = Bench::new();
    let (worker, waiter) = (bench.session(), bench.session());
    let running = bench.leased(worker, options());
    bench.pause("default", None);
    bench.submit(options());
    bench.drain(waiter, &["default", "other"]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [], "a job is leased");
    bench.state.return_job(bench.now, worker, running, None, Duration::ZERO).unwrap();
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [waiter]);
    assert_eq!(bench.state.drained(waiter, &[name("other"), name("default")]), Some(vec![name("default")]));

    bench.resume("default");
    assert_eq!(bench.state.drained(waiter, &[name("default")]), None);
    bench.state.purge(bench.now, &name("default").into(), JobState::Ready, JobId(9), 9);
    bench.submit(delayed(SECOND));
    bench.drain(waiter, &["default"]);
    bench.pause("default", None);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.woken(), [waiter], "as the queue is paused");
}

#[test]
fn many_waits_for_a_drained_queue_end_in_slices() {
    let mut bench = Bench::new();
    let worker = bench.session();
    let id = bench.leased(worker, options());
    let waiters: Vec<_> = (0..600).map(|_| bench.session()).collect();
    waiters.iter().for_each(|&session| bench.drain(session, &["default"]));
    bench.ack(worker, id).unwrap();
    let mut ended = Vec::new();
    while bench.state.next_deadline().is_some_and(|next| next <= bench.now.mono) {
        bench.state.tick(bench.now, 256);
        let woken = bench.woken();
        assert!(woken.len() <= 256, "{} at once", woken.len());
        ended.extend(woken);
    }
    assert_eq!(ended, waiters, "the oldest first");
    assert_eq!((bench.state.waiting(), bench.state.queue_count()), (0, 0));
}

// ---- keys ----

#[test]
fn second_submission_with_a_key_gets_the_first_one_s_id_and_state() {
    let mut bench = Bench::new();
    let session = bench.session();
    let with_key = || options().key(key("order:9"));
    let id = bench.submit(with_key());
    assert_eq!(bench.accept("default", with_key()), Accepted { id, duplicate: Some(JobState::Ready) });
    bench.get(session).expect("it is ready");
    assert_eq!(bench.accept("default", with_key()).duplicate, Some(JobState::Leased));
    bench.fail(session, id, None, false, None);
    assert_eq!(bench.accept("default", with_key()).duplicate, Some(JobState::Delayed));
    assert_eq!(bench.state.last_id(), id);
}

#[test]
fn dead_job_keeps_its_key() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.dead(session, options().key(key("order:9")));
    let again = bench.accept("default", options().key(key("order:9")));
    assert_eq!(again, Accepted { id, duplicate: Some(JobState::Dead) });
}

#[test]
fn key_is_free_again_after_ack() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options().key(key("order:9")));
    bench.ack(session, id).expect("it is leased");
    assert_ne!(bench.submit(options().key(key("order:9"))), id);
}

#[test]
fn key_is_free_again_after_delete_and_purge() {
    let mut bench = Bench::new();
    let session = bench.session();
    let with_key = || options().key(key("order:9"));
    let id = bench.submit(with_key());
    bench.state.delete(bench.now, session, id).expect("it is there");
    bench.submit(with_key());
    bench.state.purge(bench.now, &name("default").into(), JobState::Ready, JobId(u64::MAX), 1);
    bench.submit(with_key());
}

#[test]
fn keys_of_two_queues_do_not_meet() {
    let mut bench = Bench::new();
    bench.submit_to("a", options().key(key("order:9")));
    bench.submit_to("b", options().key(key("order:9")));
}

// ---- the operator's verbs ----

#[test]
fn retry_gives_all_attempts_again() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, attempts(2));
    bench.fail(session, id, Some(Duration::ZERO), false, None);
    bench.get(session).expect("it is ready");
    bench.fail(session, id, None, false, Some("no"));
    bench.state.retry(bench.now, id).expect("it is dead");
    let job = bench.peek(id);
    assert_eq!((job.state, job.counts), (JobState::Ready, Counts::default()));
    assert_eq!(job.reason.as_deref(), Some("no"), "why it died is still of interest");
    assert_eq!(bench.get(session), Some(id));
    assert!(matches!(bench.fail(session, id, None, false, None), Failed::RetryIn(_)));
}

#[test]
fn job_that_is_not_dead_cannot_be_retried() {
    let mut bench = Bench::new();
    let id = bench.submit(options());
    assert_eq!(code(bench.state.retry(bench.now, id)), Some(Code::NotFound));
    assert_eq!(code(bench.state.retry(bench.now, JobId(99))), Some(Code::NotFound));
}

#[test]
fn queue_is_retried_oldest_first_and_in_slices() {
    let mut bench = Bench::new();
    let session = bench.session();
    let [one, two, three] = [(); 3].map(|()| bench.dead(session, options()));
    let (queue, last) = (name("default"), bench.state.last_id());
    let slice = bench.state.retry_all(bench.now, &queue.clone().into(), last, 2);
    assert_eq!((slice.count, slice.finished), (2, false));
    assert_eq!([one, two, three].map(|id| bench.is(id)), [JobState::Ready, JobState::Ready, JobState::Dead]);
    let slice = bench.state.retry_all(bench.now, &queue.clone().into(), last, 2);
    assert_eq!((slice.count, slice.finished), (1, true));
}

#[test]
fn retried_job_goes_to_who_waits_for_it() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.dead(session, options());
    bench.wait(session, &["default"]);
    bench.state.retry(bench.now, id).expect("it is dead");
    assert_eq!(bench.woken(), [session]);
}

#[test]
fn delete_works_in_any_state_but_for_another_s_lease() {
    let mut bench = Bench::new();
    let (holder, operator) = (bench.session(), bench.session());
    let dead = bench.dead(holder, options());
    let leased = bench.leased(holder, options());
    let (ready, delayed) = (bench.submit(options()), bench.submit(delayed(SECOND)));
    for id in [dead, ready, delayed] {
        bench.state.delete(bench.now, operator, id).expect("nobody has it");
    }
    assert_eq!(code(bench.state.delete(bench.now, operator, leased)), Some(Code::NotLeased));
    bench.state.delete(bench.now, holder, leased).expect("it is its own");
    assert_eq!(code(bench.state.delete(bench.now, holder, leased)), Some(Code::NotFound));
    assert_eq!((bench.state.memory().0, bench.queues().len()), (0, 0));
}

#[test]
fn purge_removes_what_was_there_when_it_began() {
    let mut bench = Bench::new();
    (0..3).for_each(|_| {
        bench.submit(options());
    });
    let (queue, last) = (name("default"), bench.state.last_id());
    assert!(!bench.state.purge(bench.now, &queue.clone().into(), JobState::Ready, last, 2).finished);
    let later = bench.submit(options());
    let slice = bench.state.purge(bench.now, &queue.clone().into(), JobState::Ready, last, 2);
    assert_eq!((slice.count, slice.finished), (1, true));
    assert_eq!(bench.is(later), JobState::Ready);
}

#[test]
fn list_goes_on_from_an_id_oldest_first() {
    let mut bench = Bench::new();
    let session = bench.session();
    let dead = bench.dead(session, options());
    let [one, two, three] = [5, 0, 9].map(|priority| bench.submit(urgent(priority)));
    let ids = |state, limit, after| -> Vec<JobId> {
        let jobs = bench.state.list(bench.now, &name("default").into(), state, limit, after);
        jobs.into_iter().map(|job| job.id).collect()
    };
    assert_eq!(ids(None, 3, None), [dead, one, two]);
    assert_eq!(ids(None, 3, Some(two)), [three]);
    assert_eq!(ids(None, 3, Some(three)), []);
    assert_eq!(ids(Some(JobState::Ready), 9, Some(dead)), [one, two, three]);
    assert_eq!(ids(Some(JobState::Dead), 9, None), [dead]);
}

// ---- pauses ----

#[test]
fn paused_queue_hands_out_nothing() {
    let mut bench = Bench::new();
    let (session, waiter) = (bench.session(), bench.session());
    bench.pause("default", None);
    let id = bench.submit(options());
    let elsewhere = bench.submit_to("other", urgent(u32::MAX));
    assert_eq!(bench.get_of(session, &["default", "other"]).map(|lease| lease.id), Some(elsewhere));
    bench.wait(waiter, &["default"]);
    bench.pass(3600 * SECOND);
    assert!(bench.woken().is_empty());
    bench.resume("default");
    assert_eq!(bench.woken(), [waiter]);
    assert_eq!(bench.state.take_handed(waiter).map(|lease| lease.id), Some(id));
}

/// A paused queue with 600 jobs, for which 600 sessions wait, each in turn.
fn crowd(bench: &mut Bench, pause: Option<Duration>) -> Vec<SessionId> {
    bench.pause("default", pause);
    let sessions: Vec<_> = (0..600).map(|_| bench.session()).collect();
    sessions.iter().for_each(|&session| bench.wait(session, &["default"]));
    (0..600).for_each(|_| _ = bench.submit(options()));
    sessions
}

#[test]
fn resumed_queue_serves_a_crowd_a_part_at_a_time() {
    let mut bench = Bench::new();
    let sessions = crowd(&mut bench, None);
    let late = bench.session();
    let mut woken = Vec::new();
    while !bench.state.resume(bench.now, &name("default")) {
        woken.extend(bench.woken());
        assert!(woken.len() < 600 && woken == sessions[..woken.len()], "the oldest first");
        assert_eq!(bench.get(late), None, "others wait until those that did are served");
    }
    woken.extend(bench.woken());
    assert_eq!(woken, sessions);
    let id = bench.submit(options());
    assert_eq!(bench.get(late), Some(id));
}

#[test]
fn pause_that_ends_by_itself_serves_a_crowd_a_part_at_a_time() {
    let mut bench = Bench::new();
    let sessions = crowd(&mut bench, Some(SECOND));
    bench.now.mono = bench.now.mono.after(SECOND);
    bench.state.tick(bench.now, u64::MAX);
    let mut woken = bench.woken();
    assert!(!woken.is_empty() && woken.len() < 600, "{}", woken.len());
    bench.pass(Duration::ZERO);
    woken.extend(bench.woken());
    assert_eq!(woken, sessions);
}

#[test]
fn pause_with_an_end_ends_then() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.submit(options());
    bench.pause("default", Some(SECOND));
    bench.pass(SECOND - MS);
    assert_eq!(bench.get(session), None);
    bench.pass(MS);
    assert_eq!(bench.get(session), Some(id));
}

#[test]
fn later_pause_replaces_the_earlier_one() {
    let mut bench = Bench::new();
    let session = bench.session();
    bench.submit(options());
    bench.pause("default", Some(SECOND));
    bench.pause("default", None);
    bench.pass(2 * SECOND);
    assert_eq!(bench.get(session), None);
}

#[test]
fn pause_does_not_touch_what_is_leased() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.leased(session, options());
    bench.pause("default", None);
    bench.ack(session, id).expect("it is leased");
}

#[test]
fn end_of_a_pause_serves_all_who_wait_in_the_order_of_urgency() {
    let mut bench = Bench::new();
    let [first, second] = [(); 2].map(|()| bench.session());
    bench.pause("default", Some(SECOND));
    let (late, soon) = (bench.submit(urgent(9)), bench.submit(urgent(1)));
    bench.wait(first, &["default"]);
    bench.wait(second, &["default"]);
    bench.pass(SECOND);
    assert_eq!(bench.woken(), [first, second]);
    assert_eq!(bench.state.take_handed(first).map(|lease| lease.id), Some(soon));
    assert_eq!(bench.state.take_handed(second).map(|lease| lease.id), Some(late));
}

// ---- queues ----

#[test]
fn queue_goes_when_it_is_empty_and_unused() {
    let mut bench = Bench::new();
    let session = bench.session();
    let id = bench.submit_to("a", options());
    bench.wait(session, &["b"]);
    bench.pause("c", None);
    assert_eq!(bench.queues(), ["a", "b", "c"]);
    bench.state.delete(bench.now, session, id).expect("it is there");
    bench.state.cancel_wait(session);
    bench.resume("c");
    assert!(bench.queues().is_empty());
    assert_eq!(bench.state.queue_stats(bench.now, &name("a")), None);
    assert_eq!(bench.state.memory().0, 0);
}

#[test]
fn paused_queue_stays_until_it_is_resumed() {
    let mut bench = Bench::new();
    bench.pause("a", Some(SECOND));
    assert_eq!(bench.queues(), ["a"]);
    bench.pass(SECOND);
    assert!(bench.queues().is_empty());
}

#[test]
fn asking_does_not_make_a_queue() {
    let mut bench = Bench::new();
    let session = bench.session();
    let queue = name("a");
    assert_eq!(bench.get_of(session, &["a"]), None);
    assert_eq!(bench.state.list(bench.now, &queue.clone().into(), None, 9, None), []);
    assert_eq!(bench.state.purge(bench.now, &queue.clone().into(), JobState::Ready, JobId(9), 9).count, 0);
    assert_eq!(bench.state.retry_all(bench.now, &queue.clone().into(), JobId(9), 9).count, 0);
    bench.resume("a");
    assert!(bench.queues().is_empty());
}

// ---- what outlives the process ----

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
fn pause_outlives_the_process() {
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
fn dead_job_outlives_the_process_with_counts_and_reason() {
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
    let again = next.accept("default", options().key(key("order:9")));
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

// ---- time ----

#[test]
fn tick_carries_out_no_more_than_it_is_asked_to() {
    let mut bench = Bench::new();
    (0..5).for_each(|_| {
        bench.submit(delayed(SECOND));
    });
    bench.now.mono = bench.now.mono.after(SECOND);
    bench.state.tick(bench.now, 3);
    assert_eq!(bench.state.counts(), StateCounts { ready: 3, delayed: 2, ..StateCounts::default() });
    assert!(bench.state.next_deadline().is_some_and(|next| next <= bench.now.mono), "there is more to do");
    bench.state.tick(bench.now, 3);
    assert_eq!(bench.state.counts().ready, 5);
}

#[test]
fn nothing_is_due_where_nothing_has_a_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.state.next_deadline(), None);
    let session = bench.session();
    bench.submit(options());
    bench.pause("default", None);
    bench.wait(session, &["default"]);
    assert_eq!(bench.state.next_deadline(), None);
}

#[test]
fn next_deadline_is_the_earliest_of_delays_leases_and_pauses() {
    let mut bench = Bench::new();
    let session = bench.session();
    let at = |millis| Some(Moment::from_millis(millis));
    bench.leased(session, options().ttr(300 * MS));
    assert_eq!(bench.state.next_deadline(), at(300));
    bench.submit(delayed(200 * MS));
    assert_eq!(bench.state.next_deadline(), at(200));
    bench.pause("default", Some(100 * MS));
    assert_eq!(bench.state.next_deadline(), at(100));
}
