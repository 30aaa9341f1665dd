//! Named workers: connections of one process, leases that wait for it, orders, and WORKERS.

use std::time::Duration;

use djqs::broker::{Session, Waited};
use djqs::job::{Counts, Failure, Hello, Order, Secret, Wish, WorkerName};
use djqs::protocol::{Command, Reply, Wait};
use djqs::stats::WorkerStats;
use djqs::{Code, JobId, JobState};

use crate::common::engine::*;

fn worker_name(text: &str) -> WorkerName {
    WorkerName::new(text).expect("it is good")
}

/// A session of the process with this secret.
fn member(bench: &Bench, secret: u128, resume: Duration) -> Session {
    let mut session = bench.session();
    introduce(&mut session, secret, resume);
    session
}

fn introduce(session: &mut Session, secret: u128, resume: Duration) {
    let mut hello = Hello::new(worker_name("w1"), Secret(secret));
    hello.resume = resume;
    assert_eq!(tell(session, Command::Hello(Box::new(hello))), Reply::Hello);
}

fn beat(session: &mut Session, ids: &[JobId]) -> Reply {
    tell(session, Command::Beat { ids: ids.to_vec() })
}

fn hold(session: &mut Session, ids: &[JobId]) -> Reply {
    tell(session, Command::Hold { ids: ids.to_vec() })
}

fn held(count: u64, lost: &[JobId]) -> Reply {
    Reply::Held { count, lost: lost.to_vec() }
}

/// What the session's worker should do, if there is something that it was not told.
fn order(session: &mut Session) -> Option<Order> {
    match tell(session, Command::Orders { wait: AT_ONCE }) {
        Reply::Order(order) => Some(order),
        Reply::Empty => None,
        other => panic!("{other:?}"),
    }
}

/// Says what is wanted of all workers of a name; returns how many there are.
fn wish(bench: &mut Bench, worker: &str, wish: Wish) -> u64 {
    match tell(&mut bench.operator, Command::Wish { worker: worker_name(worker), wish }) {
        Reply::Count(count) => count,
        other => panic!("{other:?}"),
    }
}

fn workers(bench: &mut Bench) -> Vec<WorkerStats> {
    match tell(&mut bench.operator, Command::Workers) {
        Reply::Workers(workers) => workers,
        other => panic!("{other:?}"),
    }
}

// ---- connections of one process ----

#[test]
fn connections_of_one_process_report_about_each_other_s_jobs() {
    let mut bench = Bench::new();
    let [mut first, mut second] = [(); 2].map(|()| member(&bench, 1, Duration::ZERO));
    let [acked, failed, returned, touched] = [(); 4].map(|()| bench.leased(&mut first, options()));
    second.ack(acked).expect("its process has the lease");
    fail(&mut second, failed, Failure::default().dead());
    second.return_job(returned, HOUR).expect("its process has the lease");
    second.touch(touched, Some(HOUR)).expect("its process has the lease");
    assert_eq!(
        [failed, returned, touched].map(|id| bench.is(id)),
        [JobState::Dead, JobState::Delayed, JobState::Leased]
    );
    assert_eq!(bench.peek(touched).remaining, Some(HOUR));
}

#[test]
fn name_alone_gives_no_power_over_a_lease() {
    let mut bench = Bench::new();
    let mut holder = member(&bench, 1, Duration::ZERO);
    let id = bench.leased(&mut holder, options());
    let mut same_name = member(&bench, 2, Duration::ZERO);
    for stranger in [&mut same_name, &mut bench.session()] {
        assert_eq!(code(stranger.ack(id)), Some(Code::NotLeased));
        assert_eq!(code(stranger.touch(id, None)), Some(Code::NotLeased));
    }
    assert_eq!(beat(&mut same_name, &[id]), held(0, &[id]));
    assert_eq!(hold(&mut same_name, &[id]), held(0, &[id]));
    holder.ack(id).expect("it still has the lease");
}

#[test]
fn verbs_of_workers_are_refused_before_hello() {
    let bench = Bench::new();
    let mut session = bench.session();
    let commands = [
        Command::Hold { ids: vec![JobId(1)] },
        Command::Beat { ids: vec![JobId(1)] },
        Command::Orders { wait: AT_ONCE },
    ];
    for command in commands {
        match tell(&mut session, command) {
            Reply::Refused(refusal) => assert_eq!(refusal.code, Code::Usage),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn beat_renews_each_lease_for_its_own_time_whichever_connection_has_it() {
    let mut bench = Bench::new();
    let [mut jobs, mut control] = [(); 2].map(|()| member(&bench, 1, Duration::ZERO));
    let short = bench.leased(&mut jobs, options().ttr(SECOND));
    let long = bench.leased(&mut jobs, options().ttr(5 * SECOND));
    let ready = bench.submit(options());
    bench.pass(SECOND - MS);
    assert_eq!(beat(&mut control, &[short, JobId(99), long, ready]), held(2, &[JobId(99), ready]));
    assert_eq!([short, long].map(|id| bench.peek(id).remaining), [SECOND, 5 * SECOND].map(Some));
    assert_eq!(beat(&mut control, &[]), held(0, &[]));
    bench.pass(SECOND);
    assert_eq!(beat(&mut control, &[short, long]), held(1, &[short]), "one has lapsed");
    bench.operator.cancel(long, None).expect("it is there");
    assert_eq!(beat(&mut control, &[long]), held(0, &[long]), "the other one is cancelled");
}

#[test]
fn second_hello_of_a_connection_forgets_nothing() {
    let mut bench = Bench::new();
    let mut session = member(&bench, 1, Duration::ZERO);
    let (acked, leased) = (bench.leased(&mut session, options()), bench.leased(&mut session, options()));
    session.ack(acked).expect("it is leased");
    assert_eq!(wish(&mut bench, "w1", Wish::Quiet), 1);
    introduce(&mut session, 1, HOUR);
    let [worker] = &workers(&mut bench)[..] else { panic!("there is one") };
    assert_eq!((worker.wish, worker.done, worker.held, worker.connections), (Wish::Quiet, 1, 1, 1));
    drop(session);
    assert_eq!(bench.is(leased), JobState::Leased, "what it said last is what counts");
}

// ---- leases that wait for their process ----

#[test]
fn leases_of_a_lost_connection_wait_for_the_process() {
    let mut bench = Bench::new();
    let mut session = member(&bench, 1, 5 * SECOND);
    let id = bench.leased(&mut session, options());
    drop(session);
    bench.pass(5 * SECOND - MS);
    assert_eq!((bench.is(id), bench.peek(id).counts), (JobState::Leased, Counts::default()));
    bench.pass(MS);
    assert_eq!((bench.is(id), bench.peek(id).counts), (JobState::Ready, counts(0, 1, 0)));
    assert_eq!(workers(&mut bench), [], "it is forgotten with its last connection");
}

#[test]
fn lease_that_waits_lapses_at_its_own_time() {
    let mut bench = Bench::new();
    let mut session = member(&bench, 1, HOUR);
    let id = bench.leased(&mut session, options().ttr(SECOND));
    drop(session);
    bench.pass(SECOND);
    assert_eq!((bench.is(id), bench.peek(id).counts), (JobState::Ready, counts(0, 1, 0)));
}

#[test]
fn hold_takes_over_what_it_names_and_returns_the_rest() {
    let mut bench = Bench::new();
    let mut first = member(&bench, 1, 5 * SECOND);
    let [one, two, unknown] = [(); 3].map(|()| bench.leased(&mut first, options()));
    drop(first);
    let mut second = member(&bench, 1, 5 * SECOND);
    assert_eq!(hold(&mut second, &[one, two, JobId(99)]), held(2, &[JobId(99)]));
    assert_eq!((bench.is(unknown), bench.peek(unknown).counts), (JobState::Ready, counts(0, 0, 1)));
    bench.pass(6 * SECOND);
    assert_eq!([one, two].map(|id| bench.is(id)), [JobState::Leased; 2], "nothing waits any more");
    second.ack(one).expect("it has taken it over");
    drop(second);
    bench.pass(5 * SECOND);
    assert_eq!((bench.is(two), bench.peek(two).counts), (JobState::Ready, counts(0, 1, 0)));
}

#[test]
fn hold_leaves_leases_of_connections_that_are_there() {
    let mut bench = Bench::new();
    let [mut first, mut second] = [(); 2].map(|()| member(&bench, 1, HOUR));
    let [named, other] = [(); 2].map(|()| bench.leased(&mut first, options()));
    assert_eq!(hold(&mut second, &[named]), held(1, &[]));
    assert_eq!([named, other].map(|id| bench.is(id)), [JobState::Leased; 2]);
    second.quit();
    assert_eq!(bench.is(named), JobState::Leased, "it is still the first one's");
    first.ack(named).expect("it has the lease");
}

#[test]
fn without_resume_and_after_quit_nothing_waits() {
    let mut bench = Bench::new();
    let mut session = member(&bench, 1, Duration::ZERO);
    let lost = bench.leased(&mut session, urgent(5));
    drop(session);
    assert_eq!((bench.is(lost), bench.peek(lost).counts), (JobState::Ready, counts(0, 1, 0)));
    let mut session = member(&bench, 1, HOUR);
    let returned = bench.leased(&mut session, urgent(1));
    session.quit();
    assert_eq!((bench.is(returned), bench.peek(returned).counts), (JobState::Ready, counts(0, 0, 1)));
}

// ---- orders ----

#[test]
fn each_ended_lease_and_each_wish_is_told_once() {
    let mut bench = Bench::new();
    let [mut jobs, mut control] = [(); 2].map(|()| member(&bench, 1, Duration::ZERO));
    assert_eq!(order(&mut control), None);
    let cancelled = bench.leased(&mut jobs, options());
    let lapsed = bench.leased(&mut jobs, options().ttr(SECOND));
    let acked = bench.leased(&mut jobs, options());
    jobs.ack(acked).expect("it is leased");
    bench.operator.cancel(cancelled, None).expect("it is there");
    assert_eq!((order(&mut control), order(&mut control)), (Some(Order::Cancel(cancelled)), None));
    bench.pass(SECOND);
    assert_eq!((order(&mut control), order(&mut control)), (Some(Order::Lost(lapsed)), None));
    for (wanted, expected) in
        [(Wish::Quiet, Order::Quiet), (Wish::Work, Order::Resume), (Wish::Stop, Order::Stop)]
    {
        assert_eq!(wish(&mut bench, "w1", wanted), 1);
        assert_eq!((order(&mut control), order(&mut control)), (Some(expected), None));
        assert_eq!(workers(&mut bench)[0].wish, wanted);
    }
}

#[test]
fn wait_for_orders_ends_with_one_or_at_its_deadline() {
    let mut bench = Bench::new();
    let [mut jobs, control] = [(); 2].map(|()| member(&bench, 1, Duration::ZERO));
    let wait = bench.begin(control, Command::Orders { wait: Wait::Forever });
    let id = bench.leased(&mut jobs, options());
    bench.operator.cancel(id, None).expect("it is there");
    let (control, waited) = wait.ended();
    assert_eq!(waited, Waited::Order(Order::Cancel(id)));
    let wait = bench.begin(control, Command::Orders { wait: Wait::Forever });
    wish(&mut bench, "w1", Wish::Stop);
    let (control, waited) = wait.ended();
    assert_eq!(waited, Waited::Order(Order::Stop));
    let wait = bench.begin(control, Command::Orders { wait: Wait::AtMost(SECOND) });
    bench.pass(SECOND);
    assert_eq!(wait.ended().1, Waited::TimedOut);
}

#[test]
fn wishes_are_for_all_processes_of_a_name() {
    let mut bench = Bench::new();
    let _other_connection = member(&bench, 1, Duration::ZERO);
    let mut both = [1, 2].map(|secret| member(&bench, secret, Duration::ZERO));
    assert_eq!(wish(&mut bench, "w1", Wish::Quiet), 2, "processes, not connections");
    assert_eq!(both.each_mut().map(order), [Some(Order::Quiet); 2]);
    assert_eq!(wish(&mut bench, "w2", Wish::Stop), 0);
}

// ---- WORKERS ----

#[test]
fn workers_are_shown_with_what_they_said_and_do() {
    let mut bench = Bench::new();
    let mut session = bench.session();
    let mut hello = Hello::new(worker_name("w2"), Secret(7));
    (hello.host, hello.pid, hello.slots, hello.version) =
        (Some("web3".into()), Some(4711), Some(4), Some("1.2".into()));
    assert_eq!(tell(&mut session, Command::Hello(Box::new(hello))), Reply::Hello);
    bench.pass(SECOND);
    let ids = [(); 3].map(|()| bench.submit_to("mail", options()));
    let leased = ids.map(|_| get_of(&mut session, &["mail", "news"]).map(|lease| lease.id));
    assert_eq!(leased, ids.map(Some));
    session.ack(ids[0]).expect("it is leased");
    fail(&mut session, ids[1], Failure::default());
    bench.pass(SECOND);
    let [worker] = &workers(&mut bench)[..] else { panic!("there is one") };
    assert_eq!((worker.name.as_str(), worker.host.as_deref()), ("w2", Some("web3")));
    assert_eq!((worker.pid, worker.slots, worker.version.as_deref()), (Some(4711), Some(4), Some("1.2")));
    assert_eq!((worker.wish, worker.connections, worker.known_for), (Wish::Work, 1, 2 * SECOND));
    assert_eq!(worker.queues, ["mail", "news"].map(name));
    assert_eq!((worker.held, worker.done, worker.failed), (1, 1, 1));
    let [job] = &worker.jobs[..] else { panic!("it has one") };
    assert_eq!((job.id, job.held_for), (ids[2], SECOND));
    drop(session);
    assert_eq!(workers(&mut bench), []);
}

#[test]
fn worker_without_a_connection_is_shown_while_its_leases_wait() {
    let mut bench = Bench::new();
    let mut session = member(&bench, 1, HOUR);
    bench.leased(&mut session, options().ttr(HOUR));
    drop(session);
    let [worker] = &workers(&mut bench)[..] else { panic!("there is one") };
    assert_eq!((worker.connections, worker.held), (0, 1));
}
