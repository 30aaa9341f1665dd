//! Workers that introduce themselves: leases that outlive their connection, renewal by any connection, orders,
//! and what WORKERS shows.

use common::{Server, Talk, aside, until};

mod common;

const SECRET: &str = "secret=00112233445566778899aabbccddeeff";

fn worker(server: &Server, options: &str) -> Talk {
    let mut talk = server.connect();
    let answer = talk.ask(&format!("HELLO worker=w1 {SECRET} {options}"));
    assert!(answer.starts_with("OK version=") && answer.contains(",HOLD,"), "{answer}");
    talk
}

/// A job's state, crashes and returns, as PEEK shows them.
fn state(talk: &mut Talk, id: u64) -> String {
    let answer = talk.ask(&format!("PEEK {id}"));
    let value = |name: &str| {
        let value = answer.split(' ').find_map(|word| word.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {answer}")).trim_end_matches(':').to_owned()
    };
    format!("{} crashes={} returns={}", value("state="), value("crashes="), value("returns="))
}

#[test]
fn lease_waits_for_its_process_and_is_taken_over_without_a_charge() {
    let server = Server::start(&[]);
    let mut other = server.connect();
    let mut first = worker(&server, "resume=1h");
    for id in 1..=3 {
        assert_eq!(other.ask("TASK: x"), format!("ACK {id}"));
        assert!(first.ask("GET").starts_with(&format!("JOB {id} ")));
    }
    drop(first);
    until("the connection is lost", || other.ask_lines("WORKERS")[0].contains("\"connections\":0"));
    assert_eq!(state(&mut other, 1), "leased crashes=0 returns=0");

    // The reply with job 3 was lost with the connection: the process does not know of it.
    let mut second = worker(&server, "resume=1h");
    assert_eq!(second.ask("HOLD: 1,2,77"), "OK count=2 lost=77");
    assert_eq!(state(&mut other, 3), "ready crashes=0 returns=1");
    assert_eq!(second.ask("ACK 1: done"), "OK");
    assert_eq!(second.ask("FAIL 2 dead=yes: no"), "OK dead=yes");
}

#[test]
fn lease_of_a_process_that_does_not_come_back_counts_as_crashed() {
    let server = Server::start(&[]);
    let mut other = server.connect();
    let mut first = worker(&server, "resume=50ms");
    assert_eq!(other.ask("TASK: x"), "ACK 1");
    assert!(first.ask("GET").starts_with("JOB 1 "));
    drop(first);
    assert!(other.ask("GET").starts_with("JOB 1 queue=default attempt=2 "));
    assert_eq!(state(&mut other, 1), "leased crashes=1 returns=0");
    assert_eq!(other.ask_lines("WORKERS"), [""; 0]);
}

#[test]
fn without_resume_and_with_quit_leases_end_at_once() {
    let server = Server::start(&[]);
    let mut other = server.connect();
    for (end, expected) in
        [("", "JOB 1 queue=default attempt=2 "), ("QUIT\n", "JOB 2 queue=default attempt=1 ")]
    {
        let mut first = worker(&server, if end.is_empty() { "" } else { "resume=1h" });
        assert!(other.ask("TASK: x").starts_with("ACK "));
        assert!(first.ask("GET").starts_with("JOB "));
        first.send(end);
        drop(first);
        assert!(other.ask("GET").starts_with(expected), "{expected}");
    }
}

#[test]
fn any_connection_of_a_process_renews_and_reports() {
    let server = Server::start(&[]);
    let (mut first, mut second, mut stranger) = (worker(&server, ""), worker(&server, ""), server.connect());
    assert_eq!(stranger.ask("TASK ttr=1h: x"), "ACK 1");
    assert_eq!(stranger.ask("TASK ttr=1h: y"), "ACK 2");
    assert!(first.ask("GET").starts_with("JOB 1 "));
    assert_eq!(second.ask("BEAT: 1, 2,3"), "OK count=1 lost=2,3");
    assert_eq!(second.ask("BEAT: 1"), "OK count=1");
    assert_eq!(second.ask("BEAT:"), "OK count=0");
    assert!(stranger.ask("BEAT: 1").starts_with("ERR usage this connection has not introduced itself"));
    assert!(stranger.ask("ACK 1").starts_with("ERR not-leased "));
    assert_eq!(second.ask("TOUCH 1 ttr=5s"), "OK");
    assert_eq!(second.ask("ACK 1"), "OK");
    assert!(first.ask("ACK 1").starts_with("ERR not-found "));
    // The secret is what counts, not the name.
    let mut impostor = server.connect();
    assert!(impostor.ask("HELLO worker=w1 secret=ffffffffffffffffffffffffffffffff").starts_with("OK "));
    assert!(first.ask("GET").starts_with("JOB 2 "));
    assert_eq!(impostor.ask("BEAT: 2"), "OK count=0 lost=2");
    let refused = impostor.ask("HELLO worker=w1 secret=abc");
    assert_eq!(refused, "ERR usage secret is 32 hexadecimal digits: 128 random bits");
}

#[test]
fn orders_tell_a_worker_what_it_needs_to_know() {
    let server = Server::start(&[]);
    let (mut jobs, mut orders, mut operator) = (worker(&server, ""), worker(&server, ""), server.connect());
    assert_eq!(orders.ask("ORDERS wait=0"), "EMPTY");
    for id in 1..=2 {
        assert_eq!(operator.ask("TASK ttr=1h: x"), format!("ACK {id}"));
        assert!(jobs.ask("GET").starts_with(&format!("JOB {id} ")));
    }
    let waits = aside(move || (orders.ask("ORDERS"), orders));
    until("it waits", || server.stat("waiting") == "1");
    assert_eq!(operator.ask("CANCEL 1: not needed"), "OK state=leased");
    let (order, mut orders) = waits.recv().unwrap();
    assert_eq!(order, "ORDER cancel 1");
    assert!(jobs.ask("ACK 1").starts_with("ERR not-leased cancelled=yes "));

    assert_eq!(jobs.ask("TOUCH 2 ttr=1ms"), "OK");
    assert_eq!(orders.ask("ORDERS"), "ORDER lost 2");
    assert_eq!(operator.ask("QUIET worker=w1"), "OK count=1");
    assert_eq!(orders.ask("ORDERS"), "ORDER quiet");
    assert_eq!(orders.ask("ORDERS wait=0"), "EMPTY");
    assert_eq!(operator.ask("RESUME worker=w1"), "OK count=1");
    assert_eq!(operator.ask("STOP worker=w1"), "OK count=1");
    assert_eq!(orders.ask("ORDERS"), "ORDER stop");
    assert_eq!(operator.ask("STOP worker=w2"), "OK count=0");
    assert!(operator.ask("ORDERS").starts_with("ERR usage this connection has not introduced itself"));
}

#[test]
fn workers_are_listed_with_what_they_said_and_hold() {
    let server = Server::start(&[]);
    let mut jobs = worker(&server, "host=h1 pid=7 slots=4 version=1.2.3");
    assert_eq!(jobs.ask("TASK queue=mail: x"), "ACK 1");
    assert!(jobs.ask("GET queue=mail,other").starts_with("JOB 1 "));
    let lines = server.connect().ask_lines("WORKERS");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(!line.contains("00112233"), "the secret is never shown: {line}");
    let mut shown: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(shown["jobs"][0]["held_ms"].as_u64().is_some() && shown["known_ms"].as_u64().is_some());
    shown["jobs"][0]["held_ms"] = 5.into();
    shown["known_ms"] = 6.into();
    assert_eq!(
        shown,
        serde_json::json!({
            "name": "w1", "host": "h1", "pid": 7, "slots": 4, "version": "1.2.3", "wish": "work", "connections": 1,
            "known_ms": 6, "queues": ["mail", "other"], "held": 1, "jobs": [{"id": 1, "held_ms": 5}],
            "done": 0, "failed": 0,
        })
    );
    assert_eq!(jobs.ask("ACK 1"), "OK");
    assert!(server.connect().ask_lines("WORKERS")[0].contains("\"held\":0,\"jobs\":[],\"done\":1,"));
}
