//! The server as clients, good and bad, meet it: one behaviour a test, over real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Server, Talk, aside, until};
use djqs::internal::journal::{self, storage::DiskStorage};
use djqs::{Broker, broker, server};
use rustix::process::Signal;

mod common;

#[test]
fn the_sample_tasks_go_from_client_to_worker() {
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
fn start_up_line_says_where_and_what_it_promises() {
    let server = Server::start(&[]);
    assert!(server.greeting.contains("memory"), "{}", server.greeting);
    assert!(server.greeting.contains("connections"), "{}", server.greeting);
    assert_eq!(server.greeting.lines().count(), 1);
}

#[test]
fn every_thread_is_scheduled_as_a_batch_unless_somebody_chose_otherwise() {
    let policies = |server: &Server| {
        let tasks = format!("/proc/{}/task", server.child.id());
        let stats = std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path().join("stat"));
        // The field "policy" is the 41st, and the second may hold spaces (proc(5)).
        let policy =
            |stat: String| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(38).unwrap().to_owned();
        stats.map(|stat| policy(std::fs::read_to_string(stat).unwrap())).collect::<Vec<_>>()
    };
    let (batch, idle) = ("3", "5");
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.dialogue("> PING\n< PONG");
    let found = policies(&server);
    assert!(found.len() > 2 && found.iter().all(|policy| policy == batch), "{found:?}");

    let server = Server::of(Command::new("chrt").args([
        "--idle",
        "0",
        env!("CARGO_BIN_EXE_server"),
        "--memory",
        "-p",
        "0",
    ]));
    let found = policies(&server);
    assert!(found.len() > 2 && found.iter().all(|policy| policy == idle), "{found:?}");
}

#[test]
fn replies_come_in_the_order_of_commands_sent_ahead() {
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
fn every_verb_does_the_same_sent_ahead_as_awaited() {
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
    // What differs from one server or moment to the next: numbers, times, and the name of a server.
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
        let (mut awaiting, mut ahead) = (one.connect(), other.connect());
        ahead.send(script.map(|command| format!("{command}\nPING\n")).concat());
        for command in script {
            awaiting.send(format!("{command}\nPING\n"));
            let [expected, found] = [&mut awaiting, &mut ahead].map(|talk| {
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
fn closing_gives_jobs_back_at_once_and_charges_a_crash() {
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
fn quit_hands_jobs_back_and_charges_nothing() {
    let server = Server::start(&[]);
    let mut first = server.connect();
    first.ask("TASK: precious");
    first.ask("GET");
    first.send("QUIT\n");
    assert_eq!(first.rest(), "");
    assert_eq!(server.connect().ask("GET"), "JOB 1 queue=default attempt=1 ttr=1m: precious");
}

#[test]
fn lease_that_lapses_is_somebody_elses() {
    let server = Server::start(&[]);
    let mut slow = server.connect();
    slow.ask("TASK ttr=50ms: quick");
    slow.ask("GET");
    let mut other = server.connect();
    assert_eq!(other.ask("GET"), "JOB 1 queue=default attempt=2 ttr=50ms: quick");
    assert!(slow.ask("ACK 1").starts_with("ERR not-leased "));
}

#[test]
fn waiting_get_notices_that_its_client_has_gone() {
    let server = Server::start(&[]);
    let mut gone = server.connect();
    gone.send("GET\n");
    until("it waits", || server.stat("waiting") == "1");
    drop(gone);
    until("it is noticed", || server.stat("waiting") == "0");
    // So the next job is not handed to nobody.
    let mut client = server.connect();
    client.ask("TASK: for someone");
    assert_eq!(client.ask("GET wait=0"), "JOB 1 queue=default attempt=1 ttr=1m: for someone");
}

#[test]
fn half_close_ends_a_wait_with_empty_and_the_rest_is_carried_out() {
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
fn connections_over_the_cap_are_told_and_closed() {
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
    /// The next line, whatever becomes of the connection.
    fn rest_or_line(&mut self) -> String {
        let mut bytes = [0; 256];
        let read = self.stream.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).trim_end().into()
    }
}

#[test]
fn a_server_at_its_file_limit_goes_on_serving() {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("ulimit -n 64; exec {} --memory -p 0 --max-connections 1000", env!("CARGO_BIN_EXE_server")),
    ]);
    let mut server = Server::of(command.stderr(Stdio::null()));
    let mut good = server.connect();
    assert_eq!(good.ask("TASK: x"), "ACK 1");
    let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for _ in 0..50 {
        assert_eq!(good.ask("PING"), "PONG");
    }
    drop(crowd);
    assert_eq!(server.connect().ask("PING"), "PONG");
    assert!(server.child.try_wait().unwrap().is_none());
}

#[test]
fn a_journal_that_may_open_no_more_files_refuses_jobs_until_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let flags = "-p 0 -z 3000 --segment-size 64KiB --max-connections 1000";
    let script = format!("ulimit -n 64; exec {} {flags} --data \"$0\"", env!("CARGO_BIN_EXE_server"));
    let mut command = Command::new("sh");
    let mut server = Server::of(command.args(["-c", &script]).arg(directory.path()).stderr(Stdio::null()));
    let mut good = server.connect();
    let crowd: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let task = format!("TASK: {}", "x".repeat(2900));
    let (accepted, _, refused) = good.ask_until_refused(&task);
    assert!(accepted < 10_000, "it should be out of files");
    assert!(refused.starts_with("ERR full retry_after="), "after {accepted}: {refused}");
    drop(crowd);
    until("files for the journal", || good.ask(&task).starts_with("ACK "));
    assert!(server.child.try_wait().unwrap().is_none());
}

#[test]
fn segments_are_large_enough_for_twenty_of_the_longest_jobs_unless_told_otherwise() {
    let segment_bytes = |flags: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["-p", "0", "--data"]).arg(directory.path()).args(flags).stderr(Stdio::null());
        let _server = Server::of(&mut command);
        let files = std::fs::read_dir(directory.path()).unwrap();
        // Those to come get their names meanwhile.
        files.filter_map(|file| Some(file.unwrap().metadata().ok()?.len())).max().unwrap()
    };
    assert_eq!(segment_bytes(&[]), 16 << 20);
    let two_mib = 2 << 20;
    let found = segment_bytes(&["-z", "2097152"]);
    assert!((20 * two_mib..21 * two_mib).contains(&found), "{found}");
    let found = segment_bytes(&["-z", "2097152", "--segment-size", "64KiB"]);
    assert!((two_mib..2 * two_mib).contains(&found), "one such job must fit: {found}");
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
    assert_eq!(good.ask("TASK: still here"), "ACK 1", "and half a command was not carried out");
    until("their threads have ended", || server.stat("connections") == "2");
    until("nobody waits for them", || server.stat("waiting") == "0");
    assert!(server.child.try_wait().unwrap().is_none());
}

#[test]
fn a_crowd_that_leaves_takes_most_of_its_threads_along() {
    let server = Server::start(&[]);
    let threads = || server.process_figure("Threads");
    let before = threads();
    let crowd: Vec<_> = (0..200).map(|_| server.connect()).collect();
    until("each has a thread", || threads() >= before + 200);
    drop(crowd);
    // A few wait for the clients to come, and serve them.
    until("their threads have ended", || threads() <= before + 32);
    for n in 1..=100 {
        let mut talk = server.connect();
        assert_eq!(talk.ask("TASK: one after the other"), format!("ACK {n}"));
    }
    until("no more wait than before", || threads() <= before + 32);
}

#[test]
fn a_server_inside_another_program_leaves_nothing_behind_when_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut storage = None;
        until("the one before has let go of it", || {
            storage = DiskStorage::open(directory.path()).ok();
            storage.is_some()
        });
        let options = journal::Options::default();
        let (broker, _) =
            Broker::open(broker::Config::default(), Arc::new(storage.unwrap()), options).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = server::Server::bind(address, broker.clone(), server::Config::default()).unwrap();
        let (address, stop) = (server.local_addr().unwrap(), server.stop_handle().unwrap());
        let serving = std::thread::spawn(move || server.run());
        // One client that waits, so that it is watched, and one that has gone, so that its thread waits for the next.
        let mut waits = Talk::to(address);
        waits.send("GET queue=nothing\n");
        let mut talk = Talk::to(address);
        assert_eq!(talk.ask("TASK: kept"), format!("ACK {round}"));
        drop(talk);
        until("it waits", || broker.stats().waiting == 1);
        stop.stop();
        serving.join().unwrap();
        assert!(waits.line().unwrap().starts_with("ERR draining"));
        broker.close().unwrap();
    }
}

#[test]
fn a_line_of_a_gibibyte_is_skipped_in_bounded_memory() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    let before = server.process_figure("VmRSS");
    let piece = vec![b'x'; 1 << 20];
    talk.send("TASK: ");
    for _ in 0..1024 {
        talk.send(&piece);
    }
    talk.send("\nPING\n");
    assert!(talk.line().unwrap().starts_with("ERR too-big "));
    assert_eq!(talk.line().unwrap(), "PONG");
    let grown = server.process_figure("VmHWM") - before;
    assert!(grown < 8 * 1024, "grew by {grown} KiB");
}

#[test]
fn a_body_of_a_gibibyte_is_skipped_in_bounded_memory() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    let before = server.process_figure("VmRSS");
    let piece = vec![b'\n'; 1 << 20];
    talk.send("TASK len=1073741824:\n");
    for _ in 0..1024 {
        talk.send(&piece);
    }
    talk.send("\nPING\n");
    assert!(talk.line().unwrap().starts_with("ERR too-big "));
    assert_eq!(talk.line().unwrap(), "PONG");
    let grown = server.process_figure("VmHWM") - before;
    assert!(grown < 8 * 1024, "grew by {grown} KiB");
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
    // What comes before it is carried out; a body may say what it likes.
    let mut talk = server.connect();
    talk.dialogue("> TASK: GET / HTTP/1.1\n< ACK 1");
    talk.send("PING\nGET / HTTP/1.1\nTASK: evil\n");
    let answer = talk.rest();
    assert!(answer.starts_with("PONG\nHTTP/1.1 400 "), "{answer:?}");
    assert_eq!(server.stat("submitted_total"), "1");
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_command_is_dropped() {
    let server = Server::start(&["--frame-timeout", "200ms"]);
    let mut idle = server.connect();
    for beginning in ["TASK: no end", "TASK len=10:\nabc", "x"] {
        let mut talk = server.connect();
        talk.send(beginning);
        assert_eq!(talk.rest(), "");
    }
    // One byte now and then is no better, not even in a command that is refused already: the deadline is for the whole.
    for beginning in ["TASK: ", "TASK len=999999999:\n", &"x".repeat(80_000)] {
        let mut drip = server.connect();
        drip.send(beginning);
        until("the dripping client is dropped", || drip.stream.write_all(b"x").is_err());
    }
    assert_eq!(idle.ask("PING"), "PONG", "idle between commands is fine");
}

#[test]
fn a_client_that_reads_nothing_is_dropped() {
    let server = Server::start(&["--write-timeout", "200ms"]);
    let mut lazy = server.connect();
    lazy.ask(&format!("TASK: {}", "x".repeat(60_000)));
    let writer = lazy.stream.try_clone().unwrap();
    let sending = aside(move || while (&writer).write_all(b"PEEK 1\n").is_ok() {});
    sending.recv().unwrap();
    until("its thread has ended", || server.stat("connections") == "1");
}

#[test]
fn random_bytes_from_many_clients_disturb_nobody() {
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
    assert!(server.child.try_wait().unwrap().is_none(), "seed {seed}");
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
fn usr1_drains_new_jobs_are_refused_and_old_ones_go_on() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.ask("TASK: before");
    server.signal(Signal::USR1);
    until("it drains", || server.stat("draining") == "yes");
    assert!(talk.ask("TASK: after").starts_with("ERR draining "));
    assert!(talk.ask("GET").starts_with("JOB 1 "));
    assert_eq!(talk.ask("ACK 1"), "OK");
}

#[test]
fn term_tells_waiting_workers_answers_what_was_read_and_exits_0() {
    let mut server = Server::start(&[]);
    let mut waiting = server.connect();
    waiting.send("GET queue=other\n");
    let mut idle = server.connect();
    assert_eq!(idle.ask("TASK: x"), "ACK 1");
    until("it waits", || server.stat("waiting") == "1");
    server.signal(Signal::TERM);
    assert!(waiting.rest().starts_with("ERR draining "));
    assert_eq!(idle.rest(), "");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut server = Server::start(&[]);
    // A client that takes no replies keeps its thread, and so the server, for a while.
    let mut lazy = server.connect();
    lazy.ask(&format!("TASK: {}", "x".repeat(60_000)));
    lazy.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while lazy.stream.write_all(b"PEEK 1\n").is_ok() {}
    server.signal(Signal::INT);
    until("it accepts nothing more", || TcpStream::connect(server.address).is_err());
    server.signal(Signal::INT);
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let server = Server::start(&[]);
    let port = server.address.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_server")).args(["--memory", "-p", &port]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(&port) && text.contains("-p"), "{text}");
}

#[test]
fn a_foreign_address_is_warned_about() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let mut server =
        Server::of(command.args(["--memory", "-l", "0.0.0.0", "-p", "0"]).stderr(Stdio::piped()));
    let mut stderr = server.child.stderr.take().unwrap();
    server.signal(Signal::TERM);
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert!(text.contains("no authentication"), "{text}");
}

#[test]
fn wrong_flags_are_explained_with_exit_code_2() {
    for flags in [
        &["--port", "99999"][..],
        &["-z", "0"],
        &["--max-memory", "lots"],
        &["--frame-timeout", "0"],
        &["--nonsense"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_server")).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn every_flag_has_a_name_in_the_environment() {
    let help = Command::new(env!("CARGO_BIN_EXE_server")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, options) = help.split_once("Options:\n").unwrap();
    // Each flag's text begins with a line such as "  -p, --port <PORT>".
    let flags: Vec<&str> = options.split("\n  -").flat_map(|part| part.split("\n      --")).collect();
    assert!(flags.len() > 15, "{flags:#?}");
    for flag in flags {
        let named =
            flag.contains("[env: DJQS_") || flag.contains("Print help") || flag.contains("Print the version");
        assert!(named, "{flag}");
    }
}

#[test]
fn a_server_whose_address_space_is_limited_refuses_jobs_before_it_runs_out() {
    let script = format!("ulimit -v 2097152; exec {} --memory -p 0", env!("CARGO_BIN_EXE_server"));
    let server = Server::of(Command::new("sh").args(["-c", &script]));
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

#[test]
fn flags_can_be_set_in_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let server = Server::of(
        command.env("DJQS_PORT", "0").env("DJQS_MEMORY", "1").env("DJQS_MAX_BODY", "10").arg0("server"),
    );
    let mut talk = server.connect();
    assert_eq!(talk.ask("TASK: 0123456789"), "ACK 1");
    assert!(talk.ask("TASK: 01234567890").starts_with("ERR too-big "));
}

#[test]
fn a_variable_gives_way_to_the_command_line_and_one_that_says_no_excludes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["-p", "0", "-b"]).arg(directory.path().join("jobs")).args(flags);
        command.envs(variables.iter().copied());
        command
    };
    for (flags, variables, promise) in [
        (&["--memory"][..], &[("DJQS_FSYNC", "50ms")][..], "memory"),
        (&["--fsync", "50ms"], &[("DJQS_MEMORY", "1")], "every 50ms"),
        (&["-F"], &[("DJQS_FSYNC", "50ms"), ("DJQS_FSYNC_MS", "20")], "never"),
        (&["-f", "20", "-f", "30"], &[], "every 30ms"),
        (&[], &[("DJQS_MEMORY", "0"), ("DJQS_FSYNC_NEVER", "no"), ("DJQS_FSYNC", "50ms")], "every 50ms"),
    ] {
        let found = Server::of(&mut server(flags, variables)).greeting.clone();
        assert!(found.contains(promise), "{flags:?} {variables:?}: {found}");
    }
    for (flags, variables, problem) in [
        (&["--memory", "-F"][..], &[][..], "--memory cannot be used with -F"),
        (&[], &[("DJQS_MEMORY", "1"), ("DJQS_FSYNC", "50ms")], "DJQS_MEMORY cannot be used with DJQS_FSYNC"),
    ] {
        let refused = server(flags, variables).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains(problem), "{text}");
    }
}

#[test]
fn outside_text_is_escaped_in_the_log() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let mut server =
        Server::of(command.args(["--memory", "-p", "0"]).env("RUST_LOG", "debug").stderr(Stdio::piped()));
    let mut stderr = server.child.stderr.take().unwrap();
    let mut talk = server.connect();
    talk.send("TASK queue=\x1b[31mred\x07: x\nEVIL\x1b]0;title\x07\n");
    talk.line();
    talk.line();
    server.signal(Signal::TERM);
    let mut text = Vec::new();
    stderr.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).expect("the log is text");
    assert!(text.contains("bad-name"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn durable_replies_are_whole_and_in_order_whoever_sends_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let server = Server::of(command.args(["-p", "0", "--data"]).arg(directory.path()));
    let (clients, rounds) = (24_u64, 40);
    let ids: Vec<_> = (0..clients).map(|client| (client, server.connect())).collect();
    let work = ids.into_iter().map(|(client, mut talk)| {
        std::thread::spawn(move || {
            let (queue, mut ids) = (format!("q{client}"), Vec::new());
            for round in 0..rounds {
                // From one awaited command to so many that their replies are not left to others.
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
