//! The broker's contract beside its verbs: what time a command sees, which other threads can end a wait, and
//! that operations on many jobs end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::engine::{Bench, SECOND, delayed, get, options, tell};
use djqs::broker::{Config, DiskStorage, JournalOptions, Outcome, Session, Waited};
use djqs::job::Failure;
use djqs::protocol::{Command, OnDrained, Reply, Wait};
use djqs::{Broker, JobId, Options, QueueName, Submission};

mod common;

fn submission(options: &Options) -> Command {
    Command::Submit(Box::new(Submission::new("work").options(options)))
}

fn remaining(session: &mut Session, id: u64) -> Option<Duration> {
    let Reply::Found(job) = tell(session, Command::Peek { id: JobId(id) }) else { panic!("no job {id}") };
    job.remaining
}

#[test]
fn delay_counts_from_its_own_command_whatever_came_before_on_the_connection() {
    let bench = Bench::new();
    let mut session = bench.session();
    tell(&mut session, Command::Ping);
    bench.advance(100 * SECOND);
    tell(&mut session, submission(&delayed(5 * SECOND)));
    assert_eq!(remaining(&mut session, 1), Some(5 * SECOND));
    bench.advance(2 * SECOND);
    assert_eq!(remaining(&mut session, 1), Some(3 * SECOND));
}

#[test]
fn lease_counts_from_its_own_command_though_nothing_was_settled_before_it() {
    let bench = Bench::new();
    let mut session = bench.session();
    session.execute(submission(&options()));
    bench.advance(3600 * SECOND);
    let leased = session.execute(Command::Lease {
        queues: Vec::new(),
        wait: Wait::AtMost(Duration::ZERO),
        on_drained: OnDrained::Wait,
    });
    assert!(matches!(leased, Outcome::Reply(Reply::Leased(_))), "{leased:?}");
    bench.broker.tick();
    let done = session.execute(Command::Ack { id: JobId(1), result: None });
    assert_eq!(done, Outcome::Reply(Reply::Done), "the lease lasts a minute, and none has gone by");
}

#[test]
fn lease_counts_from_its_own_command_whatever_came_before_on_the_connection() {
    let bench = Bench::new();
    let mut session = bench.session();
    tell(&mut session, submission(&options()));
    bench.advance(59 * SECOND);
    assert!(get(&mut session).is_some());
    assert_eq!(remaining(&mut session, 1), Some(60 * SECOND));
    bench.advance(59 * SECOND);
    tell(&mut session, Command::Touch { id: JobId(1), ttr: None, progress: None, note: None });
    bench.pass(59 * SECOND);
    assert_eq!(tell(&mut session, Command::Ack { id: JobId(1), result: None }), Reply::Done);
}

#[test]
fn verb_that_is_called_by_itself_happens_now_even_if_nothing_is_ever_settled() {
    let mut bench = Bench::new();
    bench.submit(options());
    bench.advance(100 * SECOND);
    let id = bench.submit(delayed(5 * SECOND));
    assert_eq!(bench.peek(id).remaining, Some(5 * SECOND));
    bench.advance(2 * SECOND);
    assert_eq!(bench.peek(id).remaining, Some(3 * SECOND));
}

#[test]
fn purge_takes_what_comes_due_while_it_runs() {
    let broker = Broker::in_memory(Config::default());
    let (mut submitter, mut purger) = (broker.connect(), broker.connect());
    for round in 0..20 {
        for number in 0..3000 {
            // Some are ready when it begins, some come due a little later.
            let delay = Duration::from_millis(number % 16);
            let options = Options::default().delay(delay);
            submitter.submit(Submission::new(*b"work").options(&options)).unwrap();
        }
        purger.purge(djqs::QueueName::default(), None).unwrap();
        let jobs = broker.stats().jobs;
        assert_eq!(jobs.ready + jobs.delayed, 0, "round {round}: {jobs:?}");
    }
}

#[test]
fn retry_ends_though_its_jobs_die_again_as_fast_as_it_revives_them() {
    let bench = Bench::new();
    let [mut session, mut killer] = bench.sessions();
    let jobs = 20_000;
    for _ in 0..jobs {
        session.submit(Submission::new(*b"doomed")).unwrap();
    }
    let all_dead = |killer: &mut Session| {
        let mut killed = 0;
        while let Some(lease) = killer.lease(&[]).unwrap() {
            killer.fail(lease.id, Failure::default().dead()).unwrap();
            killed += 1;
        }
        killed
    };
    assert_eq!(all_dead(&mut killer), jobs);
    let (running, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (revived, killed) = std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            running.store(true, Ordering::Release);
            let mut killed = 0;
            while !done.load(Ordering::Acquire) {
                killed += all_dead(&mut killer);
            }
            killed + all_dead(&mut killer)
        });
        while !running.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let revived = session.retry_all(QueueName::default(), None).unwrap();
        done.store(true, Ordering::Release);
        (revived, killing.join().unwrap())
    });
    assert_eq!((revived, killed), (jobs, jobs));
}

#[test]
fn canceller_ends_a_wait_that_is_under_way_and_every_later_one() {
    let bench = Bench::new();
    let session = bench.session();
    let canceller = session.canceller();
    let waiting = bench.wait(session, &[]);
    canceller.clone().cancel();
    let (mut session, waited) = waiting.ended();
    assert_eq!(waited, Waited::Cancelled);
    let get = Command::Lease { queues: Vec::new(), wait: Wait::Forever, on_drained: OnDrained::Wait };
    let Outcome::Wait(wanted) = session.execute(get) else { panic!("there is a job") };
    assert_eq!(session.wait(&wanted), Waited::Cancelled);
}

#[test]
fn canceller_of_an_ended_session_does_nothing_to_the_next_one() {
    let mut bench = Bench::new();
    let canceller = bench.session().canceller();
    let next = bench.session();
    canceller.cancel();
    let waiting = bench.wait(next, &[]);
    canceller.cancel();
    bench.submit(options());
    waiting.served();
    drop(bench);
    // Nothing is left that it could cancel.
    canceller.cancel();
}

#[test]
fn broker_whose_timekeeper_cannot_be_started_is_an_error_of_open() {
    const DIRECTORY: &str = "DJQS_TEST_DIRECTORY_FOR_A_BROKER_WITHOUT_THREADS";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let storage = Arc::new(DiskStorage::open(directory.as_ref()).unwrap());
        let options = JournalOptions { background: false, ..JournalOptions::default() };
        let error = Broker::open(Config::default(), storage, options).unwrap_err();
        assert!(error.to_string().starts_with("cannot start a thread for "), "{error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The same test in a process where no thread can have its stack.
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    process.args([
        "--exact",
        "broker_whose_timekeeper_cannot_be_started_is_an_error_of_open",
        "--test-threads=1",
    ]);
    process.env(DIRECTORY, directory.path()).env("RUST_MIN_STACK", (1_u64 << 60).to_string());
    let output = process.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
