//! Following jobs to their end: kept results, waits, batches and cancelling, over real connections.

use std::process::Command;
use std::time::Duration;

use common::{Server, aside, until};
use djqs::job::{Acked, AttemptEnd, Finished, Group, Search};
use djqs::protocol::Wait;
use djqs::stats::BatchStats;
use djqs::{Client, JobState, Key, Submission};
use tempfile::TempDir;

mod common;

const HOUR: Duration = Duration::from_secs(3600);
const AT_ONCE: Wait = Wait::AtMost(Duration::ZERO);

fn durable(directory: &TempDir) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    Server::of(command.args(["-p", "0", "--data"]).arg(directory.path()))
}

fn client(server: &Server) -> Client {
    Client::connect(&server.address.to_string()).unwrap()
}

#[test]
fn waiters_get_the_result_of_a_job_that_is_not_kept_and_later_ones_do_not() {
    let server = Server::start(&[]);
    let mut worker = client(&server);
    let accepted = worker.submit(Submission::new("ADD: 2 2")).unwrap();
    let waits: Vec<_> = (0..100)
        .map(|_| {
            let mut waiter = client(&server);
            aside(move || waiter.wait(accepted.id, Wait::Forever).unwrap())
        })
        .collect();
    until("all wait", || server.stat("waiting") == "100");
    let lease = worker.get(&[], AT_ONCE).unwrap().unwrap();
    assert_eq!(worker.ack_with(lease.id, "4").unwrap(), Acked::Whole);
    for wait in waits {
        match wait.recv().unwrap() {
            Some(Finished::Done { attempt: 1, result: Some(result), .. }) => assert_eq!(&*result, b"4"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(worker.wait(accepted.id, AT_ONCE).unwrap(), Some(Finished::Gone));
}

#[test]
fn results_keys_batches_and_cancelled_jobs_survive_a_kill() {
    let directory = TempDir::new().unwrap();
    let server = durable(&directory);
    let mut worker = client(&server);
    let task = |body: &str| Submission::new(body).keep(HOUR).batch("night").unwrap();
    let kept = worker.submit(task("a").key("k").unwrap()).unwrap().id;
    let cancelled = worker.submit(task("b")).unwrap().id;
    let deleted = worker.submit(task("c")).unwrap().id;
    let plain = worker.submit(Submission::new("d").batch("night").unwrap()).unwrap().id;
    for id in [kept, cancelled, deleted, plain] {
        assert_eq!(worker.get(&[], AT_ONCE).unwrap().unwrap().id, id);
    }
    worker.ack_with(kept, [0xff, b'\n', 0]).unwrap();
    worker.cancel(cancelled, Some("no longer\nwanted")).unwrap();
    worker.delete(deleted).unwrap();
    worker.ack(plain).unwrap();
    let (before, complete) = worker.batch(&"night".try_into().unwrap(), 4, AT_ONCE).unwrap();
    assert!(complete, "{before:?}");
    drop(server);

    let server = durable(&directory);
    let mut client = client(&server);
    let (stats, complete) = client.batch(&"night".try_into().unwrap(), 4, AT_ONCE).unwrap();
    assert_eq!((stats, complete), (before, true));
    let BatchStats { jobs, deleted: gone, .. } = stats;
    assert_eq!((jobs.done, jobs.cancelled, gone, stats.total()), (2, 1, 1, 4));
    match client.wait(kept, Wait::Forever).unwrap() {
        Some(Finished::Done { attempt: 1, result: Some(result), .. }) => {
            assert_eq!(&*result, [0xff, b'\n', 0]);
        }
        other => panic!("{other:?}"),
    }
    let reason = Some("no longer\nwanted".into());
    assert_eq!(client.wait(cancelled, AT_ONCE).unwrap(), Some(Finished::Cancelled { reason }));
    assert_eq!(client.wait(deleted, AT_ONCE).unwrap(), Some(Finished::Gone));
    let again = client.submit(Submission::new("a").key("k").unwrap()).unwrap();
    assert_eq!((again.id, again.duplicate), (kept, Some(JobState::Done)));
    let listed = client.list(Group::Batch("night".try_into().unwrap()), None, 10, None).unwrap();
    let states: Vec<_> = listed.iter().map(|job| (job.id, job.state)).collect();
    assert_eq!(states, [(kept, JobState::Done), (cancelled, JobState::Cancelled)]);
}

#[test]
fn batch_is_waited_for_until_all_its_jobs_were_counted_in_and_have_ended() {
    let server = Server::start(&[]);
    let (mut submitter, mut worker) = (client(&server), client(&server));
    let name = "night".try_into().unwrap();
    let waits = {
        let (mut waiter, name) = (client(&server), name);
        aside(move || waiter.batch(&name, 3, Wait::AtMost(HOUR)).unwrap())
    };
    until("it waits", || server.stat("waiting") == "1");
    for body in ["a", "b", "c"] {
        submitter.submit(Submission::new(body).batch("night").unwrap()).unwrap();
        let lease = worker.get(&[], AT_ONCE).unwrap().unwrap();
        if body == "b" {
            worker.fail(lease.id, djqs::job::Failure::new("broken").dead()).unwrap();
        } else {
            worker.ack(lease.id).unwrap();
        }
    }
    let (stats, complete) = waits.recv().unwrap();
    assert!(complete);
    assert_eq!((stats.total(), stats.jobs.done, stats.jobs.dead), (3, 2, 1));
    let (stats, complete) =
        submitter.batch(&"night".try_into().unwrap(), 4, Wait::AtMost(Duration::from_millis(1))).unwrap();
    assert_eq!((stats.total(), complete), (3, false));
}

#[test]
fn result_without_room_is_dropped_and_the_job_is_done() {
    let server = Server::start(&["--max-memory", "100KiB"]);
    let mut worker = client(&server);
    let id = worker.submit(Submission::new("small").keep(HOUR)).unwrap().id;
    worker.get(&[], AT_ONCE).unwrap().unwrap();
    assert_eq!(worker.ack_with(id, [b'x'; 60_000]).unwrap(), Acked::Whole);
    let id = worker.submit(Submission::new("small").keep(HOUR)).unwrap().id;
    worker.get(&[], AT_ONCE).unwrap().unwrap();
    assert_eq!(worker.ack_with(id, [b'x'; 60_000]).unwrap(), Acked::ResultDropped);
    match worker.wait(id, AT_ONCE).unwrap() {
        Some(Finished::Done { result: None, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(worker.peek(id).unwrap().result, None);
}

#[test]
fn beanstalkd_clients_do_not_see_jobs_that_have_ended() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.dialogue(
        "> TASK keep=1h: a
         < ACK 1
         > TASK: b
         < ACK 2
         > CANCEL 2
         < OK state=ready
         > GET
         < JOB 1 queue=default attempt=1 ttr=1m: a
         > ACK 1: r
         < OK",
    );
    for id in [1, 2] {
        for command in ["peek", "stats-job", "delete", "reserve-job", "kick-job"] {
            assert_eq!(talk.ask(&format!("{command} {id}\r")), "NOT_FOUND\r", "{command} {id}");
        }
    }
    assert!(talk.ask("PEEK 1").ends_with(": r"));
}

#[test]
fn waits_end_when_the_server_stops_or_the_client_closes_its_side() {
    let mut server = Server::start(&[]);
    let mut talk = server.connect();
    assert_eq!(talk.ask("TASK: x"), "ACK 1");
    let mut half = server.connect();
    half.send("WAIT 1\n");
    half.half_close();
    assert_eq!(half.line().as_deref(), Some("EMPTY"));
    let mut waiter = server.connect();
    let waits = aside(move || waiter.ask("WAIT 1"));
    until("it waits", || server.stat("waiting") == "1");
    server.signal(rustix::process::Signal::TERM);
    assert!(waits.recv().unwrap().starts_with("ERR draining "));
    assert!(server.ended().success());
}

#[test]
fn why_tells_who_has_a_job_and_what_is_before_it() {
    let server = Server::start(&[]);
    let (mut operator, mut worker) = (server.connect(), server.connect());
    assert!(worker.ask("HELLO worker=w1 secret=00112233445566778899aabbccddeeff").starts_with("OK "));
    for id in 1..=3 {
        assert_eq!(operator.ask("TASK ttr=1h: x"), format!("ACK {id}"));
    }
    assert!(worker.ask("GET").starts_with("JOB 1 "));
    let why = operator.ask("WHY 3");
    assert!(why.starts_with("OK state=ready ahead=1 workers=1"), "{why}");
    assert!(why.contains("1 job is ahead of it; 1 connection asks for jobs of its queue"), "{why}");

    assert_eq!(worker.ask("TOUCH 1 progress=40: page 2 of 5"), "OK");
    let why = operator.ask("WHY 1");
    assert!(
        why.starts_with("OK state=leased worker=w1 held=") && why.contains(" progress=40: worker w1 "),
        "{why}"
    );
    assert!(why.ends_with(" and says 40%: page 2 of 5"), "{why}");
    let listed = operator.ask_lines("LIST queue=default state=leased");
    assert!(
        listed[0].contains(r#""progress":40,"progress_note":"page 2 of 5","progress_at":"#),
        "{listed:?}"
    );
    assert_eq!(worker.ask("RETURN 1 delay=1h"), "OK");
    assert!(!operator.ask_lines("LIST queue=default")[0].contains("progress"), "the lease has ended");
    assert!(operator.ask("WHY 1").starts_with("OK state=delayed remaining="));

    assert_eq!(operator.ask("PAUSE queue=default"), "OK");
    assert!(operator.ask("WHY 3").contains(" paused=yes: its queue is paused until RESUME"));
    assert!(operator.ask("WHY 99").starts_with("ERR not-found "));
    drop(worker);
    until("its connection is gone", || operator.ask("WHY 3").contains(" workers=0 "));
}

#[test]
fn failed_attempts_are_remembered_and_survive_a_kill() {
    let directory = TempDir::new().unwrap();
    let server = durable(&directory);
    let (mut operator, mut worker) = (client(&server), server.connect());
    assert!(worker.ask("HELLO worker=w1 secret=00112233445566778899aabbccddeeff").starts_with("OK "));
    let id = operator.submit(Submission::new("x").attempts(20).backoff(Duration::ZERO)).unwrap().id;
    for n in 1..=12 {
        assert!(worker.ask("GET").starts_with(&format!("JOB {id} queue=default attempt={n} ")));
        if n == 11 {
            assert_eq!(worker.ask(&format!("TOUCH {id} ttr=1ms")), "OK");
        } else {
            let reason = if n == 12 { "é".repeat(300) } else { format!("failure {n}") };
            assert!(worker.ask(&format!("FAIL {id} delay=0: {reason}")).starts_with("OK "));
        }
    }
    let expected = |server: &Server| {
        let job = client(server).show(id).unwrap();
        assert_eq!(job.history.len(), 10);
        assert_eq!(job.reason.as_deref(), Some(&*"é".repeat(300)), "the last reason stays whole");
        let listed = client(server).list(Group::Queue("default".parse().unwrap()), None, 1, None).unwrap();
        assert_eq!(listed[0].history, job.history);
        let last = job.history.last().unwrap();
        assert_eq!(
            (last.number, last.end, last.reason.as_deref()),
            (12, AttemptEnd::Failed, Some(&*"é".repeat(100)))
        );
        let lapsed = &job.history[8];
        assert_eq!((lapsed.number, lapsed.end, lapsed.reason.as_deref()), (11, AttemptEnd::Lapsed, None));
        assert_eq!(job.history[0].reason.as_deref(), Some("failure 3"));
        assert!(
            job.history
                .iter()
                .all(|attempt| attempt.worker.as_ref().is_some_and(|name| name.as_str() == "w1"))
        );
        assert!(job.history.iter().all(|attempt| attempt.started_ms <= attempt.ended_ms));
        job.history
    };
    let before = expected(&server);
    drop(server);
    assert_eq!(expected(&durable(&directory)), before);
}

#[test]
fn jobs_are_found_by_what_is_known_of_them_the_newest_first() {
    let server = Server::start(&[]);
    let mut client = client(&server);
    for n in 0..600 {
        let submission =
            Submission::new(format!("RESIZE: {n}.png")).queue(if n % 2 == 0 { "even" } else { "odd" });
        let submission = submission.unwrap().batch("night").unwrap();
        let submission = if n == 321 { submission.key("k").unwrap() } else { submission };
        client.submit(submission).unwrap();
    }
    let mut broken = client.get(&["odd".parse().unwrap()], AT_ONCE).unwrap().unwrap();
    client.fail(broken.id, djqs::job::Failure::new("no space left").dead()).unwrap();
    broken = client.get(&["even".parse().unwrap()], AT_ONCE).unwrap().unwrap();
    client.fail(broken.id, djqs::job::Failure::new("no such file").dead()).unwrap();

    let mut ids = |fill: &dyn Fn(&mut Search), limit, before| {
        let mut search = Search::default();
        fill(&mut search);
        let (jobs, more) = client.search(search, limit, before).unwrap();
        (jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), more)
    };
    assert_eq!(ids(&|search| search.state = Some(JobState::Dead), 10, None), (vec![2, 1], None));
    assert_eq!(ids(&|search| search.text = Some(b"no space"[..].into()), 10, None), (vec![2], None));
    assert_eq!(ids(&|search| search.key = Some(Key::new("k").unwrap()), 10, None), (vec![322], None));
    assert_eq!(ids(&|search| search.age = Some(HOUR), 10, None), (vec![], None));
    let odd = |search: &mut Search| search.of = Some(Group::Queue("odd".parse().unwrap()));
    let (first, more) = ids(&odd, 2, None);
    assert_eq!((first, more), (vec![600, 598], Some(djqs::JobId(598))));
    assert_eq!(ids(&odd, 2, more).0, [596, 594]);
    let png = |search: &mut Search| {
        search.of = Some(Group::Batch("night".try_into().unwrap()));
        search.text = Some(b"59.png"[..].into());
    };
    assert_eq!(ids(&png, 10, None).0, [560, 460, 360, 260, 160, 60]);
}

#[test]
fn several_ids_are_worked_on_at_once() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    for id in 1..=5 {
        assert_eq!(talk.ask("TASK: x"), format!("ACK {id}"));
    }
    assert_eq!(talk.ask("CANCEL 1,2,99: not needed"), "OK count=2 refused=99");
    assert_eq!(talk.ask("WAIT 2"), "CANCELLED 2: not needed");
    assert_eq!(talk.ask("RETRY 1,2,3"), "OK count=2 refused=3");
    assert_eq!(talk.ask("DELETE 1,2,3,4"), "OK count=4");
    assert_eq!(talk.ask("DELETE 4,5"), "OK count=1 refused=4");
}
