//! The client library as programs use it: one behaviour a test, against the real server or, where a
//! connection has to break at a certain point, against a scripted peer.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::{Server, aside, until};
use djqs::client::{AfterFailure, Failure, Got};
use djqs::protocol::native::Answer;
use djqs::protocol::{Command as Request, Compat, Retry, Wait};
use djqs::{Client, Code, Error, JobId, JobState, Key, Priority, QueueName, Submission};

mod common;

const AT_ONCE: Wait = Wait::AtMost(Duration::ZERO);

fn client(server: &Server) -> Client {
    Client::connect(&server.address.to_string()).unwrap()
}

fn task(body: &str) -> Submission {
    Submission::new(body)
}

fn keyed(key: &str) -> Submission {
    task(key).key(key).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Code {
    match outcome {
        Err(Error::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn each_command_has_its_method() {
    let server = Server::start(&[]);
    let mut client = client(&server);
    let queue = QueueName::default();
    client.ping().unwrap();
    let ids = ["a", "b\nc", "d"].map(|body| client.submit(task(body)).unwrap().id);
    assert_eq!(ids, [JobId(1), JobId(2), JobId(3)]);
    client.delete(JobId(3)).unwrap();

    let lease = client.get(&[], AT_ONCE).unwrap().unwrap();
    assert_eq!((lease.id, lease.attempt, &*lease.body), (JobId(1), 1, b"a".as_slice()));
    client.touch(lease.id, Some(Duration::from_secs(5))).unwrap();
    client.return_job(lease.id, Duration::ZERO).unwrap();
    assert_eq!(client.peek(lease.id).unwrap().counts.returns, 1);
    let lease = client.get(std::slice::from_ref(&queue), Wait::Forever).unwrap().unwrap();
    client.ack(lease.id).unwrap();
    assert_eq!(refused(client.ack(lease.id)), Code::NotFound);

    let lease = client.get(&[], AT_ONCE).unwrap().unwrap();
    assert_eq!(&*lease.body, b"b\nc");
    let later = client.fail(lease.id, Failure::new("no disk").retry_in(Duration::ZERO)).unwrap();
    assert_eq!(later, AfterFailure::RetryIn(Duration::ZERO));
    let lease = client.get(&[], Wait::Forever).unwrap().unwrap();
    assert_eq!(client.fail(lease.id, Failure::new("").dead()).unwrap(), AfterFailure::Dead);
    let listed = client.list(&queue, Some(JobState::Dead), 10, None).unwrap();
    let [dead] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((dead.id, dead.state, dead.counts.failures), (lease.id, JobState::Dead, 2));
    assert_eq!((dead.reason.as_deref(), &dead.body[..]), (Some("no disk"), &b"b\nc"[..]));
    assert_eq!(client.retry(Retry::Job(lease.id)).unwrap(), 1);

    client.pause(&queue, None).unwrap();
    assert_eq!(client.get(&[], AT_ONCE).unwrap(), None);
    let drained = client.get_or_drained(&[], Wait::Forever).unwrap();
    assert_eq!(drained, Got::Drained(vec![queue.clone()]), "it is paused with a job");
    assert_eq!(client.queue_stats(&queue).unwrap().paused, Some(None));
    let stats = client.stats().unwrap();
    assert_eq!((stats.pid, stats.queues, stats.totals.acked), (server.child.id(), 1, 1));
    client.resume(&queue).unwrap();
    let queues = client.queues().unwrap();
    assert_eq!((queues.len(), &queues[0].name, queues[0].jobs.ready), (1, &queue, 1));
    assert_eq!(client.purge(&queue, Some(JobState::Ready)).unwrap(), 1);
    assert_eq!(client.get_or_drained(&[], Wait::Forever).unwrap(), Got::Drained(vec![]));
    client.submit(task("later").delay(Duration::from_secs(60))).unwrap();
    assert_eq!(client.get_or_drained(&[], AT_ONCE).unwrap(), Got::TimedOut);
    client.submit(task("now")).unwrap();
    assert!(
        matches!(client.get_or_drained(&[], Wait::Forever), Ok(Got::Job(lease)) if &*lease.body == b"now")
    );
    assert_eq!(refused(client.peek(lease.id)), Code::NotFound);
    assert!(matches!(client.call(&Request::Help), Ok(Answer::Lines(lines)) if lines.len() > 10));
    client.quit().unwrap();
}

#[test]
fn submission_says_all_that_may_be_asked_for() {
    let server = Server::start(&[]);
    let mut client = client(&server);
    let submission = Submission::new(vec![b'a', 0xff])
        .queue("mail")
        .unwrap()
        .key("order:9")
        .unwrap()
        .priority(7)
        .delay(Duration::from_secs(3600))
        .ttr(Duration::from_secs(5))
        .attempts(2)
        .backoff(Duration::from_millis(1500));
    let id = client.submit(submission).unwrap().id;
    let found = client.peek(id).unwrap();
    assert_eq!((found.queue.as_str(), &found.body[..]), ("mail", &b"a\xff"[..]));
    assert_eq!((found.state, found.priority, found.attempts), (JobState::Delayed, Priority(7), 2));
    assert_eq!((found.ttr, found.backoff), (Duration::from_secs(5), Duration::from_millis(1500)));
    assert_eq!(found.key.as_ref().map(Key::as_str), Some("order:9"));
    assert!(found.remaining.is_some_and(|left| left > Duration::from_secs(3000)));
}

#[test]
fn name_or_key_against_the_rules_is_an_error_before_anything_is_sent() {
    let build =
        |queue: &str, key: &str| -> Result<Submission, Error> { Ok(task("a").queue(queue)?.key(key)?) };
    assert!(matches!(build("two words", "k"), Err(Error::BadName(_))));
    assert!(matches!(build("mail", "two words"), Err(Error::BadKey(_))));
    let server = Server::start(&[]);
    assert_eq!(refused(client(&server).submit(task("a").ttr(Duration::MAX))), Code::Usage);
}

#[test]
fn refused_command_leaves_the_client_usable() {
    let server = Server::start(&["-z", "10"]);
    let mut client = client(&server);
    assert_eq!(refused(client.submit(task("longer than ten bytes"))), Code::TooBig);
    assert_eq!(client.submit(task("short")).unwrap().id, JobId(1));
}

#[test]
fn second_submission_with_a_key_gets_the_first_ones_id_and_state() {
    let server = Server::start(&[]);
    let mut client = client(&server);
    let first = client.submit(keyed("order:9")).unwrap();
    let second = client.submit(keyed("order:9")).unwrap();
    assert_eq!((first.id, first.duplicate), (JobId(1), None));
    assert_eq!((second.id, second.duplicate), (JobId(1), Some(JobState::Ready)));
}

#[test]
fn quit_hands_leased_jobs_back_without_blame() {
    let server = Server::start(&[]);
    let mut first = client(&server);
    let id = first.submit(task("a")).unwrap().id;
    first.get(&[], AT_ONCE).unwrap().unwrap();
    first.quit().unwrap();
    let lease = client(&server).get(&[], Wait::Forever).unwrap().unwrap();
    assert_eq!((lease.id, lease.attempt), (id, 1));
}

#[test]
fn batch_is_answered_in_order_with_refusals_in_place() {
    let server = Server::start(&["-z", "1000"]);
    let mut client = client(&server);
    let long = "x".repeat(1001);
    let body =
        |n: u64| if n % 1000 == 999 { task(&long) } else { task(&format!("SEND_NOTIFICATION: user_{n}\n")) };
    let results = client.submit_all((0..50_000).map(body)).unwrap();
    assert_eq!(results.len(), 50_000);
    let mut last = 0;
    for (n, result) in results.iter().enumerate() {
        match result {
            Ok(accepted) => {
                assert_eq!(accepted.id.0, last + 1, "submission {n}");
                last += 1;
            }
            Err(refusal) => assert_eq!((n % 1000, refusal.code), (999, Code::TooBig)),
        }
    }
    assert_eq!(last, 50_000 - 50);
    client.ping().unwrap();
    assert_eq!(client.submit_all([]).unwrap(), []);
}

#[test]
fn batch_of_large_bodies_goes_through_a_server_that_answers_meanwhile() {
    let server = Server::start(&[]);
    let mut client = client(&server);
    let body = "x".repeat(60_000);
    assert_eq!(client.submit_all((0..500).map(|_| task(&body))).unwrap().len(), 500);
}

#[test]
fn command_of_the_other_dialect_is_refused_before_it_is_sent() {
    let server = Server::start(&[]);
    let mut client = client(&server);
    let id = JobId(1);
    assert_eq!(refused(client.call(&Request::Compat(Compat::KickJob { id }))), Code::Usage);
    client.ping().unwrap();
}

#[test]
fn batch_whose_thread_cannot_be_started_sends_nothing() {
    const ADDRESS: &str = "DJQS_TEST_SERVER_FOR_A_BATCH_WITHOUT_THREADS";
    if let Ok(address) = std::env::var(ADDRESS) {
        let mut client = Client::connect(&address).unwrap();
        let error = client.submit_all([task("a")]).unwrap_err();
        assert!(matches!(error.source, Error::Thread(_)), "{error}");
        assert_eq!((error.results.len(), error.taken), (0, 0));
        assert_eq!(client.submit(task("b")).unwrap().id, JobId(1));
        return;
    }
    let server = Server::start(&[]);
    // The same test in a process where no thread can have its stack.
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "batch_whose_thread_cannot_be_started_sends_nothing", "--test-threads=1"]);
    process.env(ADDRESS, server.address.to_string()).env("RUST_MIN_STACK", (1_u64 << 60).to_string());
    let output = process.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(client(&server).peek(JobId(1)).unwrap().body[..], *b"b");
}

#[test]
fn panic_in_a_batch_ends_the_batch_and_not_the_thread_that_joins_it() {
    let server = Server::start(&[]);
    let panicked = aside({
        let mut client = client(&server);
        move || {
            let bodies = (0..5_000).map(|n| if n == 4_000 { panic!("as the test wants") } else { task("a") });
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.submit_all(bodies))).is_err()
                && matches!(client.ping(), Err(Error::Disconnected { .. }))
        }
    });
    assert!(panicked.recv().unwrap());
}

/// A peer that answers each connection by a script of its own, in order.
fn peer(scripts: Vec<fn(TcpStream)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    aside(move || scripts.into_iter().for_each(|script| script(listener.accept().unwrap().0)));
    address
}

fn read_lines(stream: &TcpStream, count: usize) {
    assert_eq!(BufReader::new(stream).lines().take(count).filter(Result::is_ok).count(), count);
}

#[test]
fn broken_batch_gives_back_what_was_answered() {
    let address = peer(vec![|mut stream| {
        read_lines(&stream, 5);
        stream.write_all(b"ACK 1\nERR full retry_after=2s no room\nACK 2\nACK 3").unwrap();
    }]);
    let mut client = Client::connect(&address.to_string()).unwrap();
    let error = client.submit_all((0..5).map(|n| task(&n.to_string()))).unwrap_err();
    let answers: Vec<_> =
        error.results.iter().map(|result| result.as_ref().map(|accepted| accepted.id.0)).collect();
    let [Ok(1), Err(refusal), Ok(2)] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(2)));
    assert_eq!(error.taken, 5);
    assert!(matches!(error.source, Error::Disconnected { source: None }));
    assert_eq!(
        error.to_string(),
        "the server closed the connection: 3 of 5 submissions were answered, \
         the others may or may not be accepted"
    );
}

#[test]
fn batch_stops_taking_submissions_when_nobody_answers_any_more() {
    let address = peer(vec![|mut stream| {
        read_lines(&stream, 1);
        stream.write_all(b"ACK 1\n").unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }]);
    let mut client = Client::connect(&address.to_string()).unwrap();
    let error = client.submit_all(std::iter::repeat_with(|| task("a"))).unwrap_err();
    assert_eq!(error.results.len(), 1);
    assert!(error.taken >= 1);
}

#[test]
fn client_refuses_calls_after_the_connection_broke_until_it_connects_again() {
    let mut server = Server::start(&[]);
    let mut client = client(&server);
    server.child.kill().unwrap();
    server.ended();
    assert!(matches!(client.ping(), Err(Error::Disconnected { .. })));
    let Err(Error::Disconnected { source: Some(source) }) = client.ping() else { panic!("not refused") };
    assert_eq!(source.to_string(), "an earlier error ended this connection: connect again");
    assert!(matches!(client.reconnect(), Err(Error::Connect { .. })));
    assert!(matches!(client.ping(), Err(Error::Disconnected { .. })));
}

#[test]
fn answer_to_something_else_puts_the_client_out_of_step() {
    let address = peer(vec![|mut stream| {
        read_lines(&stream, 1);
        stream.write_all(b"ACK 1\n").unwrap();
        read_lines(&stream, 1);
    }]);
    let mut client = Client::connect(&address.to_string()).unwrap();
    assert!(matches!(client.ping(), Err(Error::BadReply(_))));
    assert!(matches!(client.submit(task("a")), Err(Error::Disconnected { .. })));
}

#[test]
fn command_that_may_be_repeated_is_sent_again_on_a_new_connection() {
    let address = peer(vec![|stream| read_lines(&stream, 1), drop, |mut stream| {
        read_lines(&stream, 1);
        stream.write_all(b"ACK 4\n").unwrap();
    }]);
    let mut client = Client::connect(&address.to_string()).unwrap();
    let answer =
        client.call_again(&Request::Submit(Box::new(keyed("order:9"))), Duration::from_secs(60)).unwrap();
    assert_eq!(answer, Answer::Accepted { id: JobId(4), duplicate: None });
}

#[test]
fn command_that_may_not_be_repeated_is_sent_once() {
    let address = peer(vec![|stream| read_lines(&stream, 1)]);
    let mut client = Client::connect(&address.to_string()).unwrap();
    let outcome = client.call_again(&Request::Submit(Box::new(task("a"))), Duration::from_secs(60));
    assert!(matches!(outcome, Err(Error::Disconnected { .. })), "{outcome:?}");
}

#[test]
fn name_with_several_addresses_is_tried_to_the_last() {
    // On most systems `localhost` is ::1 and then 127.0.0.1; the server listens on the second only.
    let server = Server::start(&[]);
    let mut client = Client::connect(&format!("localhost:{}", server.address.port())).unwrap();
    client.ping().unwrap();
}

#[test]
fn waiting_get_ends_when_the_server_stops() {
    let server = Server::start(&[]);
    let waiting = aside({
        let mut client = client(&server);
        move || client.get(&[], Wait::Forever)
    });
    until("a wait for a job", || server.stat("waiting") == "1");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(refused(waiting.recv().unwrap()), Code::Draining);
}
