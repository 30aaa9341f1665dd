//! Limits: clients that try to hold, stall or outgrow the server, and what other clients notice.

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Server, Talk, aside, until};

mod common;

#[test]
fn connection_over_the_limit_gets_an_error_and_is_closed() {
    let server = Server::start(&["--max-connections", "3"]);
    let mut held: Vec<Talk> = (0..3).map(|_| server.connect()).collect();
    held.iter_mut().for_each(|talk| assert_eq!(talk.ask("PING"), "PONG"));
    let refused = server.connect().rest();
    assert!(refused.starts_with("ERR full retry_after=1s "), "{refused:?}");
    held.pop();
    until("there is room again", || {
        let mut talk = server.connect();
        talk.stream.write_all(b"PING\n").is_ok() && talk.rest_or_line() == "PONG"
    });
}

impl Talk {
    /// The next line, or nothing if the connection is closed.
    fn rest_or_line(&mut self) -> String {
        let mut bytes = [0; 256];
        let read = self.stream.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).trim_end().into()
    }
}

#[test]
fn server_at_its_limit_on_files_continues_to_serve() {
    let mut server = Server::limited("-n 64", &["--memory", "--max-connections", "1000"]);
    let mut good = server.connect();
    assert_eq!(good.ask("TASK: x"), "ACK 1");
    let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for _ in 0..50 {
        assert_eq!(good.ask("PING"), "PONG");
    }
    drop(crowd);
    assert_eq!(server.connect().ask("PING"), "PONG");
    assert!(server.is_running());
}

#[test]
fn journal_at_the_limit_on_files_refuses_jobs_until_files_are_closed() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let flags = ["-z", "3000", "--segment-size", "64KiB", "--max-connections", "1000", "--data", data];
    let mut server = Server::limited("-n 64", &flags);
    let mut good = server.connect();
    let crowd: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let task = format!("TASK: {}", "x".repeat(2900));
    let (accepted, _, refused) = good.ask_until_refused(&task);
    assert!(accepted < 10_000, "it should be out of files");
    assert!(refused.starts_with("ERR full retry_after="), "after {accepted}: {refused}");
    drop(crowd);
    until("files for the journal", || good.ask(&task).starts_with("ACK "));
    assert!(server.is_running());
}

#[test]
fn two_thousand_clients_that_connect_and_leave_do_no_harm() {
    let mut server = Server::start(&[]);
    let mut good = server.connect();
    for n in 0..2000 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        match n % 4 {
            0 => {}
            1 => stream.write_all(b"GET\n").unwrap(),
            2 => stream.write_all(b"TASK: half").unwrap(),
            _ => stream.write_all(b"\0\xff\xfe garbage\n\n\n").unwrap(),
        }
    }
    assert_eq!(good.ask("TASK: still here"), "ACK 1", "and half a command was not executed");
    until("their threads have ended", || server.stat("connections") == "2");
    server.until_waiting(0);
    assert!(server.is_running());
}

#[test]
fn most_threads_of_clients_that_disconnect_end() {
    let server = Server::start(&[]);
    let threads = || server.process_figure("Threads");
    let before = threads();
    let crowd: Vec<_> = (0..200).map(|_| server.connect()).collect();
    until("each has a thread", || threads() >= before + 200);
    drop(crowd);
    // A few wait for the next clients.
    until("their threads have ended", || threads() <= before + 32);
    for n in 1..=100 {
        let mut talk = server.connect();
        assert_eq!(talk.ask("TASK: one after the other"), format!("ACK {n}"));
    }
    until("no more wait than before", || threads() <= before + 32);
}

#[test]
fn line_or_body_of_a_gibibyte_is_skipped_in_bounded_memory() {
    for (beginning, byte) in [("TASK: ", b'x'), ("TASK len=1073741824:\n", b'\n')] {
        let server = Server::start(&[]);
        let mut talk = server.connect();
        let before = server.process_figure("VmRSS");
        let piece = vec![byte; 1 << 20];
        talk.send(beginning);
        for _ in 0..1024 {
            talk.send(&piece);
        }
        talk.send("\nPING\n");
        assert!(talk.line().unwrap().starts_with("ERR too-big "), "{beginning}");
        assert_eq!(talk.line().unwrap(), "PONG", "{beginning}");
        let grown = server.process_figure("VmHWM") - before;
        assert!(grown < 8 * 1024, "grew by {grown} KiB with {beginning}");
    }
}

#[test]
fn client_that_stops_in_the_middle_of_a_command_is_dropped() {
    let server = Server::start(&["--frame-timeout", "200ms"]);
    let mut idle = server.connect();
    for beginning in ["TASK: no end", "TASK len=10:\nabc", "x"] {
        let mut talk = server.connect();
        talk.send(beginning);
        assert_eq!(talk.rest(), "");
    }
    assert_eq!(idle.ask("PING"), "PONG", "idle between commands is fine");
}

#[test]
fn bytes_now_and_then_do_not_extend_the_deadline_of_a_command() {
    let server = Server::start(&["--frame-timeout", "300ms"]);
    for beginning in [
        "TASK: ",
        // Refused already: over the limit for a line, and for a header.
        &format!("TASK: {}", "x".repeat(80_000)),
        &format!("TASK key={}", "k".repeat(5_000)),
        &"x".repeat(80_000),
        // Bodies that are skipped.
        "TASK len=999999999:\n",
        "TASK len=18446744073709551615:\n",
        "NONSENSE len=1000000000:\n",
    ] {
        let mut talk = server.connect();
        talk.send(beginning);
        until(&format!("{beginning:.30} is dropped"), || talk.stream.write_all(b"x").is_err());
    }
}

#[test]
fn client_that_reads_nothing_is_dropped() {
    let server = Server::start(&["--write-timeout", "200ms"]);
    let mut lazy = server.connect();
    lazy.ask(&format!("TASK: {}", "x".repeat(60_000)));
    let writer = lazy.stream.try_clone().unwrap();
    let sending = aside(move || while (&writer).write_all(b"PEEK 1\n").is_ok() {});
    sending.recv().unwrap();
    until("its thread has ended", || server.stat("connections") == "1");
}

#[test]
fn random_bytes_from_many_clients_do_not_disturb_others() {
    let mut server = Server::start(&[]);
    let seed = std::env::var("DJQS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    let mut good = server.connect();
    let address = server.address;
    let noise: Vec<_> = (0..8)
        .map(|thread| {
            aside(move || {
                let mut state = seed.wrapping_mul(8) + thread + 1;
                let words: [&[u8]; 14] = [
                    b"TASK",
                    b"GET wait=0",
                    b" ",
                    b"len=",
                    b"9999999999999999999",
                    b":",
                    b"\n",
                    b"\r\n",
                    b"ACK 1",
                    b"\0",
                    b"\xff\xfe",
                    b"queue=",
                    b"PURGE queue=default",
                    b"=",
                ];
                for _ in 0..50 {
                    let mut bytes = Vec::new();
                    for _ in 0..400 {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        bytes.extend_from_slice(words[(state >> 33) as usize % words.len()]);
                    }
                    let mut stream = TcpStream::connect(address).unwrap();
                    let _ = stream.write_all(&bytes);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            })
        })
        .collect();
    for _ in 0..500 {
        assert_eq!(good.ask("PING"), "PONG", "seed {seed}");
    }
    noise.into_iter().for_each(|thread| thread.recv().unwrap());
    assert_eq!(good.ask("PING"), "PONG", "seed {seed}");
    assert!(server.is_running(), "seed {seed}");
}

#[test]
fn memory_limit_refuses_tasks_and_nothing_else() {
    let server = Server::start(&["--max-memory", "64KiB"]);
    let mut talk = server.connect();
    let task = format!("TASK: {}", "x".repeat(1000));
    let (accepted, _, refusal) = talk.ask_until_refused(&task);
    assert!(refusal.starts_with("ERR full retry_after=1s "), "{refusal}");
    assert!((40..64).contains(&accepted), "{accepted} jobs of 1,000 bytes in 64 KiB");
    assert!(talk.ask("GET").starts_with("JOB 1 "));
    assert_eq!(talk.ask("ACK 1"), "OK");
    assert!(talk.ask(&task).starts_with("ACK "), "there is room again");
}

#[test]
fn server_with_limited_address_space_refuses_jobs_before_it_runs_out() {
    let server = Server::limited("-v 2097152", &["--memory"]);
    assert!(server.greeting.contains("by address space"), "{}", server.greeting);
    let task = format!("TASK: {}", "x".repeat(60_000));
    let refused = (0..8).map(|_| {
        let (mut talk, task) = (server.connect(), task.clone());
        std::thread::spawn(move || talk.ask_until_refused(&task))
    });
    for refused in refused.collect::<Vec<_>>() {
        let (_, _, answer) = refused.join().unwrap();
        assert!(answer.starts_with("ERR full retry_after="), "{answer}");
    }
    server.connect().dialogue("> PING\n< PONG");
}

/// Pipelines commands and reads their answers, one line each; returns how many begin with `prefix`.
fn answers(talk: &mut Talk, commands: impl Iterator<Item = String>, prefix: &str) -> usize {
    let commands: Vec<String> = commands.collect();
    let mut found = 0;
    for some in commands.chunks(1000) {
        talk.send(some.concat());
        found += some.iter().filter(|_| talk.line().unwrap().starts_with(prefix)).count();
    }
    found
}

#[test]
fn queues_without_jobs_are_limited_by_the_memory_for_jobs() {
    let server = Server::start(&["--max-memory", "64KiB"]);
    let mut talk = server.connect();
    // 64 KiB, and a twentieth more that jobs may not take; in the latter, `default` has its place.
    let count = answers(&mut talk, (0..2000).map(|n| format!("PAUSE queue=q{n}\n")), "ERR full retry_after=");
    assert_eq!(count, 2000 - (64 + 2));
    assert!(talk.ask("TASK: x").starts_with("ERR full "));
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("q{n}")).collect::<Vec<_>>().join(",");
    assert!(talk.ask(&format!("GET queue={}", names(5000..5100))).starts_with("ERR full "));
    // Queues that exist cost nothing more, and one that is removed makes room.
    assert_eq!(talk.ask("PAUSE queue=q7"), "OK");
    assert_eq!(talk.ask(&format!("GET queue={} wait=1ms", names(0..50))), "EMPTY");
    let count = answers(&mut talk, (0..66).map(|n| format!("RESUME queue=q{n}\n")), "OK");
    assert_eq!(count, 66);
    assert_eq!(talk.ask("TASK: x"), "ACK 1");
}

#[test]
fn worker_can_wait_when_jobs_have_taken_all_memory() {
    let server = Server::start(&["--max-memory", "64KiB"]);
    let mut talk = server.connect();
    while talk.ask("TASK: x").starts_with("ACK ") {}
    assert_eq!(talk.ask("GET queue=another wait=1ms"), "EMPTY");
    assert_eq!(talk.ask("PAUSE queue=default"), "OK");
}

#[test]
fn memory_limit_holds_for_jobs_without_anything_in_common() {
    let limit = 4 * 1024;
    let server = Server::start(&["--max-memory", &format!("{limit}KiB")]);
    let mut talk = server.connect();
    let before = server.process_figure("VmRSS");
    // First different options for each job; then one job left of each 64.
    let tasks = (0..40_000).map(|n| format!("TASK ttr={}ms priority={n}: x\n", n + 1));
    assert!(answers(&mut talk, tasks, "ERR full ") > 10_000);
    let grown = server.process_figure("VmRSS") - before;
    assert!(grown < limit * 2, "{grown} KiB with a limit of {limit} KiB");
    assert!(talk.ask("PURGE queue=default").starts_with("OK count="));
    let mut next: u64 = talk.ask("TASK: x")["ACK ".len()..].parse().unwrap();
    for _ in 0..40 {
        let count = answers(&mut talk, (0..6400).map(|_| "TASK: x\n".into()), "ACK ");
        assert_eq!(count, 6400, "there is room for the few that are left");
        let all = next + 1..next + 6401;
        answers(&mut talk, all.filter(|id| id % 64 != 5).map(|id| format!("DELETE {id}\n")), "OK");
        next += 6400;
    }
    let grown = server.process_figure("VmRSS") - before;
    assert!(grown < limit * 2, "{grown} KiB with a limit of {limit} KiB");
}

#[test]
fn reasons_of_failures_stay_within_the_memory_limit() {
    let server = Server::start(&["--max-memory", "4MiB"]);
    let mut talk = server.connect();
    let accepted = answers(&mut talk, (0..60_000).map(|_| "TASK: x\n".into()), "ACK ");
    assert!((10_000..60_000).contains(&accepted), "{accepted}");
    let limit = server.number("memory_max_bytes");
    let pad = "r".repeat(1000);
    assert_eq!(answers(&mut talk, (0..5_000).map(|_| "GET wait=0\n".into()), "JOB "), 5_000);
    // Each failure counts, even if its reason is not kept.
    let fails = (1..=5_000).map(|id| format!("FAIL {id} delay=1h: {pad}\n"));
    assert_eq!(answers(&mut talk, fails, "OK retry="), 5_000);
    let taken = server.number("memory_bytes");
    let most = limit + limit / 32;
    assert!(taken <= most, "{taken} bytes are taken of {limit}");
    let first = talk.ask_lines("LIST queue=default limit=1").concat();
    assert!(first.contains(&pad), "a reason that fits is kept: {first}");
    let last = talk.ask_lines("LIST queue=default limit=1 after=4999").concat();
    assert!(!last.contains("rrr") && last.contains(r#""failures":1"#), "only the count is kept: {last}");
}

#[test]
fn long_replies_that_nobody_reads_are_limited_together() {
    let server = Server::start(&["--write-timeout", "60s"]);
    let mut talk = server.connect();
    let pad = "n".repeat(190);
    let pauses = (0..60_000).map(|n| format!("PAUSE queue={n:05}.{pad}\n"));
    assert_eq!(answers(&mut talk, pauses, "OK"), 60_000);
    let before = server.process_figure("VmRSS");
    // Each reply would take some 16 MB.
    let mut greedy: Vec<Talk> = (0..16).map(|_| server.connect()).collect();
    greedy.iter_mut().for_each(|client| client.send("QUEUES\nGET queue=nothing\n"));
    let first: Vec<String> = greedy.iter_mut().map(|client| client.line().unwrap()).collect();
    assert!(first.iter().all(|line| line == "OK lines=60000" || line.starts_with("ERR full retry_after=")));
    assert_eq!(talk.ask("PING"), "PONG");
    let grown = server.process_figure("VmHWM") - before;
    assert!(grown < 100 * 1024, "grew by {grown} KiB");
    drop(greedy);
    until("the replies are forgotten", || server.stat("connections") == "2");
    assert_eq!(talk.ask_lines("QUEUES").len(), 60_000);
}

#[test]
fn client_that_does_not_read_leases_only_some_jobs_in_advance() {
    let server = Server::start(&["-z", "1048576"]);
    let (count, body) = (64, "x".repeat(1 << 20));
    let tasks = (0..count).map(|_| format!("TASK: {body}\n"));
    assert_eq!(answers(&mut server.connect(), tasks, "ACK"), count);
    let mut slow = server.connect();
    slow.send("GET\n".repeat(count));
    let mut leased = 0;
    until("a job to be leased", || {
        leased = server.number("jobs_leased");
        leased > 0
    });
    assert!(leased < count as u64 / 2, "{leased} jobs are leased, and none has been read");
}

#[test]
fn commands_behind_a_waiting_one_take_little_memory() {
    let server = Server::start(&[]);
    let before = server.process_figure("VmRSS");
    let many_queues = format!("GET queue={}\n", vec!["a"; 2000].join(","));
    let text = format!("GET queue=none\n{}", many_queues.repeat(15));
    let connections = 50;
    let _talks: Vec<Talk> = (0..connections)
        .map(|_| {
            let mut talk = server.connect();
            // The buffer grows first, so that all of it is read at once.
            talk.send("PING\n".repeat(13_000));
            (0..13_000).for_each(|_| assert_eq!(talk.line().unwrap(), "PONG"));
            talk.send(&text);
            talk
        })
        .collect();
    server.until_waiting(connections);
    let each = (server.process_figure("VmRSS") - before) / connections;
    assert!(each < 300, "{each} KiB each, for 64 KiB of commands");
}
