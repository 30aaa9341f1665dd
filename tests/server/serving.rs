//! Serving clients: commands, replies, waits, and how connections end.

use std::io::Write;
use std::process::Command;

use crate::common::{Server, Talk, aside, until};

#[test]
fn sample_tasks_go_from_client_to_worker() {
    let server = Server::start(&[]);
    server.connect().dialogue(
        "> TASK: CALCULATE_FINANCE: 5s_delay
         < ACK 1
         > TASK: CLEANUP_LOGS: 2s_delay
         < ACK 2
         > TASK: SEND_NOTIFICATION: 1s_delay
         < ACK 3",
    );
    server.connect().dialogue(
        "> GET
         < JOB 1 queue=default attempt=1 ttr=1m: CALCULATE_FINANCE: 5s_delay
         > ACK 1
         < OK
         > GET
         < JOB 2 queue=default attempt=1 ttr=1m: CLEANUP_LOGS: 2s_delay
         > FAIL 2 dead=yes: no such log
         < OK dead=yes
         > GET wait=0
         < JOB 3 queue=default attempt=1 ttr=1m: SEND_NOTIFICATION: 1s_delay
         > RETURN 3
         < OK
         > GET wait=0
         < JOB 3 queue=default attempt=1 ttr=1m: SEND_NOTIFICATION: 1s_delay
         > ACK 3
         < OK
         > GET wait=0
         < EMPTY",
    );
}

#[test]
fn replies_come_in_the_order_of_pipelined_commands() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    let count = 20_000;
    let writer = talk.stream.try_clone().unwrap();
    let sent = aside(move || {
        let text: String = (0..count).map(|n| format!("TASK: N: {n}\nPING\n")).collect();
        (&writer).write_all(text.as_bytes()).unwrap();
    });
    for n in 1..=count {
        assert_eq!(talk.line().unwrap(), format!("ACK {n}"));
        assert_eq!(talk.line().unwrap(), "PONG");
    }
    sent.recv().unwrap();
}

#[test]
fn every_verb_does_the_same_pipelined_as_awaited() {
    let script = [
        "TASK: a",
        "TASK key=k: b",
        "TASK key=k: again",
        "TASK delay=1h: c",
        "TASK queue=other: d",
        "GET wait=0",
        "TOUCH 1",
        "RETURN 1",
        "GET wait=0",
        "FAIL 1 dead=yes: so it is",
        "STATS",
        "RETRY 1",
        "GET queue=other",
        "QUEUES",
        "ACK 5",
        "LIST",
        "GET wait=0",
        "GET wait=1ms queue=none",
        "FAIL 1 dead=yes",
        "RETRY queue=default",
        "PAUSE",
        "GET wait=0",
        "RESUME",
        "PEEK 2",
        "STATS queue=default",
        "DELETE 2",
        "DELETE 2",
        "PURGE",
        "nonsense",
        "HELP",
        "use tube",
        "put 1 0 60 1\r\nx\r",
        "watch tube\r",
        "reserve\r",
        "reserve-with-timeout 0\r",
        "release 6 1 0\r",
        "reserve-job 6\r",
        "bury 6 1\r",
        "kick 1\r",
        "peek-ready\r",
        "stats-job 6\r",
        "stats-tube tube\r",
        "stats\r",
        "list-tubes\r",
        "list-tube-used\r",
        "list-tubes-watched\r",
        "ignore tube\r",
        "pause-tube tube 1\r",
        "pause-tube tube 0\r",
        "kick-job 6\r",
        "delete 6\r",
        "TASK: the last",
        "STATS",
        "GET",
    ];
    // Numbers, times and the name of a server differ from one server or moment to the next.
    let masked = |line: String| match line.split_once(": ") {
        Some((name @ ("id" | "uptime" | "rusage-utime" | "rusage-stime"), _)) => name.to_owned(),
        _ => line
            .split(|c: char| c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("#"),
    };
    let dir = tempfile::tempdir().unwrap();
    for durable in [false, true] {
        let [one, other] = ["one", "other"].map(|name| {
            if !durable {
                return Server::start(&[]);
            }
            let mut server = Command::new(env!("CARGO_BIN_EXE_server"));
            Server::of(server.args(["-p", "0", "--data"]).arg(dir.path().join(name)))
        });
        let (mut awaiting, mut pipelining) = (one.connect(), other.connect());
        pipelining.send(script.map(|command| format!("{command}\nPING\n")).concat());
        for command in script {
            awaiting.send(format!("{command}\nPING\n"));
            let [expected, found] = [&mut awaiting, &mut pipelining].map(|talk| {
                let lines = std::iter::from_fn(|| talk.line()).take_while(|line| line != "PONG");
                lines.map(masked).collect::<Vec<_>>()
            });
            assert!(!expected.is_empty(), "{command}");
            assert_eq!(found, expected, "{command}");
        }
    }
}

#[test]
fn commands_split_at_every_byte_are_understood() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    for byte in b"TASK len=5:\nab\ncd\nPING\r\n" {
        talk.send([*byte]);
    }
    assert_eq!(talk.line().unwrap(), "ACK 1");
    assert_eq!(talk.line().unwrap(), "PONG");
    assert_eq!(talk.ask("GET"), "JOB 1 queue=default attempt=1 ttr=1m len=5:");
    assert_eq!(talk.line().unwrap(), "ab");
    assert_eq!(talk.line().unwrap(), "cd");
}

#[test]
fn replies_before_a_waiting_get_are_not_held_back() {
    let server = Server::start(&[]);
    let mut worker = server.connect();
    worker.send("PING\nGET\n");
    assert_eq!(worker.line().unwrap(), "PONG");
    assert_eq!(server.connect().ask("TASK: now"), "ACK 1");
    assert_eq!(worker.line().unwrap(), "JOB 1 queue=default attempt=1 ttr=1m: now");
}

#[test]
fn oldest_waiting_worker_gets_the_job() {
    let server = Server::start(&[]);
    let mut workers: Vec<Talk> = (1..=3)
        .map(|count: u32| {
            let mut worker = server.connect();
            worker.send("GET\n");
            until("the worker waits", || server.stat("waiting") == count.to_string());
            worker
        })
        .collect();
    let mut client = server.connect();
    for (n, worker) in workers.iter_mut().enumerate() {
        client.ask(&format!("TASK: {n}"));
        assert!(worker.line().unwrap().ends_with(&format!(": {n}")));
    }
}

#[test]
fn closed_connection_returns_its_jobs_at_once_as_crashed() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.ask("TASK: precious");
    let mut first = server.connect();
    assert!(first.ask("GET").starts_with("JOB 1 "));
    let mut second = server.connect();
    second.send("GET\n");
    until("the second waits", || server.stat("waiting") == "1");
    drop(first);
    assert_eq!(second.line().unwrap(), "JOB 1 queue=default attempt=2 ttr=1m: precious");
}

#[test]
fn quit_returns_jobs_without_charging_an_attempt() {
    let server = Server::start(&[]);
    let mut first = server.connect();
    first.ask("TASK: precious");
    first.ask("GET");
    first.send("QUIT\n");
    assert_eq!(first.rest(), "");
    assert_eq!(server.connect().ask("GET"), "JOB 1 queue=default attempt=1 ttr=1m: precious");
}

#[test]
fn expired_lease_goes_to_another_worker() {
    let server = Server::start(&[]);
    let mut slow = server.connect();
    slow.ask("TASK ttr=50ms: quick");
    slow.ask("GET");
    let mut other = server.connect();
    assert_eq!(other.ask("GET"), "JOB 1 queue=default attempt=2 ttr=50ms: quick");
    assert!(slow.ask("ACK 1").starts_with("ERR not-leased "));
}

#[test]
fn waiting_get_ends_when_its_client_disconnects() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send("GET\n");
    until("it waits", || server.stat("waiting") == "1");
    drop(client);
    until("it is noticed", || server.stat("waiting") == "0");
    // The next job goes to a client that is there.
    let mut client = server.connect();
    client.ask("TASK: for someone");
    assert_eq!(client.ask("GET wait=0"), "JOB 1 queue=default attempt=1 ttr=1m: for someone");
}

#[test]
fn half_close_ends_a_wait_with_empty_and_the_rest_is_executed() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.send("GET\nTASK: after\n");
    talk.half_close();
    assert_eq!(talk.rest(), "EMPTY\nACK 1\n");
}

#[test]
fn wait_ends_at_its_time() {
    let server = Server::start(&[]);
    assert_eq!(server.connect().ask("GET wait=20ms"), "EMPTY");
}

#[test]
fn durable_replies_are_whole_and_in_order_whichever_thread_sends_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let server = Server::of(command.args(["-p", "0", "--data"]).arg(directory.path()));
    let (clients, rounds) = (24_u64, 40);
    let ids: Vec<_> = (0..clients).map(|client| (client, server.connect())).collect();
    let work = ids.into_iter().map(|(client, mut talk)| {
        std::thread::spawn(move || {
            let (queue, mut ids) = (format!("q{client}"), Vec::new());
            for round in 0..rounds {
                // From one awaited command to more than have their replies left to other threads.
                let ahead = [1, 1, 3, 700][(client + round) as usize % 4];
                talk.send(format!("TASK queue={queue}: x\n").repeat(ahead) + "PING\n");
                let last = round + 1 == rounds;
                if last {
                    talk.half_close();
                }
                for _ in 0..ahead {
                    let line = talk.line().unwrap();
                    ids.push(
                        line.strip_prefix("ACK ").unwrap_or_else(|| panic!("{line}")).parse::<u64>().unwrap(),
                    );
                }
                assert_eq!(talk.line().unwrap(), "PONG");
                if last {
                    assert_eq!(talk.line(), None);
                }
            }
            assert!(ids.is_sorted(), "client {client}: {ids:?}");
            ids
        })
    });
    let work: Vec<_> = work.collect();
    let mut ids: Vec<u64> = work.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    ids.sort_unstable();
    let expected = ids.len() as u64;
    assert!(ids.iter().copied().eq(1..=expected), "{expected} replies, and some ids twice or missing");
    assert_eq!(server.stat("jobs_ready"), expected.to_string());
}

#[test]
fn http_requests_never_touch_a_queue() {
    let server = Server::start(&[]);
    for request in [
        "GET / HTTP/1.1\r\nHost: localhost:11300\r\n\r\n",
        "GET /TASK HTTP/1.0\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nTASK: evil\r\nPURGE queue=default\r\n",
        "TASK HTTP/1.1\nTASK: evil\n",
        "OPTIONS * HTTP/1.1\r\n\r\nTASK: evil\r\n",
    ] {
        let mut talk = server.connect();
        talk.send(request);
        let answer = talk.rest();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?} got {answer:?}");
    }
    assert_eq!(server.stat("submitted_total"), "0");
    // Commands before it are executed, and a body may contain anything.
    let mut talk = server.connect();
    talk.dialogue("> TASK: GET / HTTP/1.1\n< ACK 1");
    talk.send("PING\nGET / HTTP/1.1\nTASK: evil\n");
    let answer = talk.rest();
    assert!(answer.starts_with("PONG\nHTTP/1.1 400 "), "{answer:?}");
    assert_eq!(server.stat("submitted_total"), "1");
}
