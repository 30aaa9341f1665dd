//! The client program as its users meet it: one behaviour a test, through the real binary, against the real
//! server or, where a connection has to break at a certain point, against a scripted peer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use common::{Server, aside, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

mod common;

/// The client program, set to this server.
fn client(server: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.env_remove("DJQS_SERVER").arg("-s").arg(server.to_string());
    command
}

/// Starts it with all three streams piped.
fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts")
}

/// Runs it to its end with this input.
fn run(command: &mut Command, input: impl AsRef<[u8]>) -> Output {
    let mut child = start(command);
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.as_ref().to_vec());
    // A client that ends early does not read it all.
    aside(move || drop(stdin.write_all(&input)));
    child.wait_with_output().unwrap()
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let seen = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(seen, (Some(code), stdout.into(), stderr.into()));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The JSON objects on these lines.
fn objects(stdout: &[u8]) -> Vec<Value> {
    text(stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn sample_tasks_piped_are_acknowledged_in_order() {
    let server = Server::start(&[]);
    let tasks = "TASK: CALCULATE_FINANCE: 5s_delay\nTASK: CLEANUP_LOGS: 2s_delay\n\
        TASK: SEND_NOTIFICATION: 1s_delay\n";
    check(&run(&mut client(server.address), tasks), 0, "ACK 1\nACK 2\nACK 3\n", "");
    assert_eq!(
        server.connect().ask("GET"),
        "JOB 1 queue=default attempt=1 ttr=1m: CALCULATE_FINANCE: 5s_delay"
    );
}

#[test]
fn replies_keep_the_order_of_20000_lines() {
    let server = Server::start(&[]);
    let tasks: String = (1..=20_000).map(|n| format!("TASK: SEND_NOTIFICATION: user_{n}\n")).collect();
    let replies: String = (1..=20_000).map(|n| format!("ACK {n}\n")).collect();
    check(&run(&mut client(server.address), tasks), 0, &replies, "");
    assert_eq!(server.stat("jobs_ready"), "20000");
}

#[test]
fn refused_lines_are_named_and_the_others_carried_out() {
    let server = Server::start(&[]);
    let output = run(&mut client(server.address), "# nightly\n\nTASK: a\nNO\n  \nTASK ttr=x: b\nTASK: c\n");
    assert_eq!(output.status.code(), Some(1));
    let replies = text(&output.stdout);
    let refusals: Vec<&str> = replies.lines().filter(|line| line.starts_with("ERR ")).collect();
    assert_eq!(refusals.len(), 2);
    assert!(
        refusals[0].starts_with("ERR unknown-verb ") && refusals[1].starts_with("ERR usage "),
        "{refusals:?}"
    );
    assert_eq!(replies, format!("ACK 1\n{}\n{}\nACK 2\n", refusals[0], refusals[1]));
    assert_eq!(text(&output.stderr), format!("line 4: {}\nline 6: {}\n", refusals[0], refusals[1]));
}

#[test]
fn quiet_client_prints_refusals_only() {
    let server = Server::start(&[]);
    let output = run(client(server.address).arg("-q"), "TASK: a\nPING\n");
    check(&output, 0, "", "");
    let output = run(client(server.address).arg("--quiet"), "TASK: a\nACK 7\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(text(&output.stderr).starts_with("line 2: ERR not-found "), "{}", text(&output.stderr));
}

#[test]
fn unreachable_server_is_69_and_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&mut client(free), "TASK: a\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(69), String::new()));
    let expected = format!("client: cannot reach {free}: Connection refused");
    assert!(text(&output.stderr).starts_with(&expected), "{}", text(&output.stderr));
}

#[test]
fn wrong_usage_is_2_and_says_what_is_right() {
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["--no-such-flag"], "--no-such-flag"),
        (&["-s", "unix:"], "the path is missing"),
        (&["-s", "tls://host"], "TLS is not supported"),
        (&["-s", "no where"], "HOST:PORT"),
        (&["-s", "host:99999"], "HOST:PORT"),
        (&["-q", "--json"], "cannot be used with"),
        (&[""], "no command"),
        (&["# a comment"], "no command"),
        (&["PING\nPING"], "line feed"),
        (&["TASK", "len=3:", "abc"], "leave out len="),
    ];
    for (arguments, expected) in cases {
        let output = run(client(nobody).args(arguments), "");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), String::new()), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn help_shows_the_samples_the_verbs_and_the_exit_codes() {
    let output = Command::new(env!("CARGO_BIN_EXE_client")).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let page = text(&output.stdout);
    for part in [
        "client TASK: CALCULATE_FINANCE: 5s_delay",
        "client TASK: CLEANUP_LOGS: 2s_delay",
        "client TASK: SEND_NOTIFICATION: 1s_delay",
        "DJQS_SERVER",
        "0 all accepted   1 some refused   2 wrong usage",
        "69 server unreachable, or connection lost",
    ] {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }
    let server = Server::start(&[]);
    for line in server.connect().ask_lines("HELP") {
        let verb = line.split_whitespace().next().unwrap();
        assert!(page.contains(verb), "no {verb} in\n{page}");
    }
}

#[test]
fn short_help_is_a_screen_and_names_the_long_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_client")).arg("-h").env("COLUMNS", "80").output().unwrap();
    let page = text(&output.stdout);
    assert!(page.lines().count() <= 24 && page.lines().all(|line| line.len() <= 80), "{page}");
    assert!(page.contains("client STATS") && page.contains("--help explains more"), "{page}");
}

#[test]
fn help_and_version_have_the_name_that_the_program_was_called_by() {
    let directory = tempfile::TempDir::new().unwrap();
    let installed = directory.path().join("djqs-client");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_client"), &installed).unwrap();
    let page = |flag| text(&Command::new(&installed).arg(flag).output().unwrap().stdout);
    assert!(page("--version").starts_with("djqs-client "), "{}", page("--version"));
    for flag in ["-h", "--help"] {
        assert!(page(flag).contains("Usage: djqs-client "), "{}", page(flag));
        assert!(
            page(flag).contains(" djqs-client TASK: CALCULATE_FINANCE") && !page(flag).contains("{name}")
        );
    }
}

#[test]
fn one_command_stands_as_the_arguments() {
    let server = Server::start(&[]);
    let words = |words: &[&str]| run(client(server.address).args(words), "PING\n");
    check(&words(&["TASK:", "CLEANUP_LOGS:", "2s_delay"]), 0, "ACK 1\n", "");
    check(&words(&["TASK: -q --json -x"]), 0, "ACK 2\n", "");
    check(&words(&["TASK:", "--json", "a"]), 0, "ACK 3\n", "");
    check(&words(&["TASK:", "two\nlines\n"]), 0, "ACK 4\n", "");
    check(&words(&["QUIT"]), 0, "", "");
    let bodies = ["CLEANUP_LOGS: 2s_delay", "-q --json -x", "--json a", "two\nlines\n"];
    let listed = objects(server.connect().ask_lines("LIST queue=default").join("\n").as_bytes());
    assert_eq!(listed.iter().map(|job| job["body"].as_str().unwrap()).collect::<Vec<_>>(), bodies);
}

#[test]
fn refused_argument_is_printed_once_without_a_line() {
    let server = Server::start(&[]);
    for flags in [&[][..], &["-q"]] {
        let refused = run(client(server.address).args(flags).args(["ACK", "1"]), "");
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(1), String::new()));
        assert!(text(&refused.stderr).starts_with("ERR not-found "), "{}", text(&refused.stderr));
        assert_eq!(text(&refused.stderr).lines().count(), 1);
    }
    let refused = run(client(server.address).args(["--json", "ACK", "1"]), "");
    assert_eq!((refused.status.code(), text(&refused.stderr)), (Some(1), String::new()));
    assert_eq!(objects(&refused.stdout)[0]["code"], "not-found");
}

#[test]
fn verb_of_an_argument_may_be_in_lower_case() {
    let server = Server::start(&[]);
    let words = |words: &[&str]| run(client(server.address).args(words), "");
    check(&words(&["task", "queue=x:", "get queue"]), 0, "ACK 1\n", "");
    check(&words(&["Get queue=x"]), 0, "JOB 1 queue=x attempt=1 ttr=1m: get queue\n", "");
    check(&words(&["quit"]), 0, "", "");
    assert!(text(&words(&["stats"]).stdout).contains("\nsubmitted_total: 1\n"));
    // Unlike beanstalkd's, this reply is one that the client can read.
    let refused = words(&["list-tubes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).starts_with("ERR unknown-verb "), "{}", text(&refused.stderr));
}

#[test]
fn stats_as_json_are_one_object_with_typed_members() {
    let server = Server::start(&[]);
    let one =
        |words: &[&str]| objects(&run(client(server.address).arg("--json").args(words), "").stdout).remove(0);
    one(&["TASK", "queue=7:", "a"]);
    let stats = one(&["STATS"]);
    assert_eq!((&stats["jobs_ready"], &stats["draining"]), (&json!(1), &json!(false)));
    assert!(stats["version"].is_string() && stats["lines"].is_null(), "{stats}");
    let stats = one(&["STATS", "queue=7"]);
    assert_eq!(
        (&stats["queue"], &stats["submitted_total"], &stats["paused"]),
        (&json!("7"), &json!(1), &json!(false))
    );
    assert_eq!(one(&["QUEUES"])["lines"][0]["ready"], 1);
}

#[test]
fn server_is_taken_from_the_environment() {
    let server = Server::start(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.env("DJQS_SERVER", server.address.to_string()).arg("PING");
    check(&command.output().unwrap(), 0, "PONG\n", "");
}

#[test]
fn body_with_len_is_sent_raw_and_printed_as_it_comes() {
    let server = Server::start(&[]);
    let input = b"TASK len=9:\n\n# a\n\xff\nQ\n\nPING\nGET wait=0".as_slice();
    let output = run(&mut client(server.address), input);
    assert_eq!(output.status.code(), Some(0));
    let expected = b"ACK 1\nPONG\nJOB 1 queue=default attempt=1 ttr=1m len=9:\n\n# a\n\xff\nQ\n\n".as_slice();
    assert_eq!(output.stdout.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn body_of_many_megabytes_is_sent_and_refused_without_losing_the_place() {
    let server = Server::start(&[]);
    let body = "x".repeat(20 << 20);
    let input = format!("TASK len={}:\n{body}\nPING\nTASK: {body}\nPING\n", body.len());
    let output = run(&mut client(server.address), input);
    let replies = text(&output.stdout);
    let words: Vec<&str> = replies.lines().map(|line| line.split(" a ").next().unwrap()).collect();
    assert_eq!((output.status.code(), words), (Some(1), vec!["ERR too-big", "PONG", "ERR too-big", "PONG"]));
}

#[test]
fn input_that_ends_inside_a_body_is_told_and_nothing_of_it_carried_out() {
    let server = Server::start(&[]);
    let output = run(&mut client(server.address), "PING\nTASK len=50:\nab\n");
    let problem = "client: line 2: the input ends inside this command's body (len=): it was not executed\n";
    check(&output, 1, "PONG\n", problem);
    assert_eq!(server.stat("submitted_total"), "0");
}

#[test]
fn quit_ends_the_input() {
    let server = Server::start(&[]);
    check(&run(&mut client(server.address), "PING\nQUIT\nTASK: a\n"), 0, "PONG\n", "");
    assert_eq!(server.stat("submitted_total"), "0");
}

#[test]
fn typed_commands_are_answered_one_by_one() {
    let server = Server::start(&[]);
    let mut child = start(&mut client(server.address));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for (command, reply) in [("TASK: a\n", "ACK 1\n"), ("PING\n", "PONG\n"), ("DELETE 1\n", "OK\n")] {
        stdin.write_all(command.as_bytes()).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, reply);
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn piped_get_waits_for_a_job_and_hands_it_back_at_the_end() {
    let server = Server::start(&[]);
    let waiting = aside({
        let mut command = client(server.address);
        move || run(&mut command, "GET queue=mail\nPING\n")
    });
    until("a wait for a job", || server.stat("waiting") == "1");
    assert_eq!(server.connect().ask("TASK queue=mail: a"), "ACK 1");
    let output = waiting.recv().unwrap();
    check(&output, 0, "JOB 1 queue=mail attempt=1 ttr=1m: a\nPONG\n", "");
    until("the job's return", || server.connect().ask("PEEK 1").contains(" state=ready "));
    let job = server.connect().ask("PEEK 1");
    assert!(job.contains(" attempt=1 failures=0 crashes=0 returns=1"), "{job}");
}

#[test]
fn interrupt_ends_a_client_that_waits() {
    let server = Server::start(&[]);
    // The process that started the tests may have ignored the signal, and that is inherited.
    let mut command = Command::new("env");
    command.args([
        "--default-signal=INT",
        env!("CARGO_BIN_EXE_client"),
        "-s",
        &server.address.to_string(),
        "GET",
    ]);
    let mut child = start(&mut command);
    until("a wait for a job", || server.stat("waiting") == "1");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    until("the wait's end", || server.stat("waiting") == "0");
}

#[test]
fn json_has_an_object_a_reply() {
    let server = Server::start(&[]);
    let input = "\nTASK key=k: a\nTASK key=k: a\nGET wait=0\nFAIL 1 delay=5s: no disk\n\
                 LIST queue=default\nQUEUES\nNO\n\
                 TASK len=1:\n\u{1}\nGET wait=0";
    let output = run(client(server.address).arg("--json"), input);
    assert_eq!(output.status.code(), Some(1));
    let seen = objects(&output.stdout);
    let job = json!({"line": 4, "ok": true, "reply": "JOB", "id": 1, "queue": "default",
        "attempt": 1, "ttr_ms": 60_000,
        "body": "a"});
    assert_eq!(seen[0], json!({"line": 2, "ok": true, "reply": "ACK", "id": 1}));
    let duplicate =
        json!({"line": 3, "ok": true, "reply": "ACK", "id": 1, "duplicate": true, "state": "ready"});
    assert_eq!(seen[1], duplicate);
    assert_eq!(seen[2], job);
    assert_eq!(seen[3], json!({"line": 5, "ok": true, "reply": "OK", "retry_ms": 5_000}));
    let listed = &seen[4]["lines"][0];
    assert_eq!(
        (&listed["id"], &listed["state"], &listed["reason"]),
        (&json!(1), &json!("delayed"), &json!("no disk"))
    );
    let queue = json!({"queue": "default", "ready": 0, "delayed": 1, "leased": 0, "dead": 0, "done": 0,
        "cancelled": 0, "waiting": 0, "paused": false});
    assert_eq!(seen[5], json!({"line": 7, "ok": true, "reply": "OK", "lines": [queue]}));
    assert_eq!((&seen[6]["ok"], &seen[6]["code"]), (&json!(false), &json!("unknown-verb")));
    assert_eq!(seen[7], json!({"line": 9, "ok": true, "reply": "ACK", "id": 2}));
    assert_eq!((&seen[8]["line"], &seen[8]["body"]), (&json!(11), &json!("\u{1}")));
    assert_eq!(seen.len(), 9);
    assert!(text(&output.stderr).starts_with("line 8: ERR unknown-verb "), "{}", text(&output.stderr));
}

#[test]
fn closed_output_ends_the_client_without_a_word() {
    let server = Server::start(&[]);
    let mut child = start(&mut client(server.address));
    let mut stdin = child.stdin.take().unwrap();
    // Without end: the client has to stop because nobody reads on.
    aside(move || while stdin.write_all(b"PING\n").is_ok() {});
    let mut first = [0; 5];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(first, *b"PONG\n");
    check(&output, 0, "", "");
}

/// A peer that answers the first connection by a script of its own.
fn peer<T: Send + 'static>(
    script: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, std::sync::mpsc::Receiver<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, aside(move || script(listener.accept().unwrap().0)))
}

/// Reads up to and including this line.
fn read_to(stream: &TcpStream, last: &str) {
    let mut lines = BufReader::new(stream).lines();
    while lines.next().unwrap().unwrap() != last {}
}

#[test]
fn broken_connection_is_accounted_for_to_the_line() {
    let input = "# head\nTASK: 1\nTASK: 2\n\nTASK len=3:\n\n3\n\nTASK: 4\n# tail\nTASK: 5\nPING\n";
    let (address, _) = peer(|mut stream| {
        read_to(&stream, "QUIT");
        stream.write_all(b"ACK 1\nERR full no room\nACK 2\n").unwrap();
    });
    let output = run(&mut client(address), input);
    check(
        &output,
        69,
        "ACK 1\nERR full no room\nACK 2\n",
        "line 3: ERR full no room\n\
         client: connection lost (the server closed it): 3 of 6 commands sent were answered \
         (through line 8, 1 of them refused); \
         lines 9 to 12 were sent but not answered: they may or may not have taken effect; \
         go on from line 9\n",
    );
}

#[test]
fn refused_command_that_was_not_sent_whole_is_where_to_go_on() {
    let body = "x\n".repeat(20 << 20);
    let input = format!("PING\nTASK len={}:\n{body}\nPING\n", body.len());
    let (address, _) = peer(|mut stream| {
        read_to(&stream, &format!("TASK len={}:", 40 << 20));
        stream.write_all(b"PONG\nERR too-big\n").unwrap();
    });
    let output = run(client(address).arg("-q"), input);
    assert_eq!(output.status.code(), Some(69));
    let problem = text(&output.stderr);
    let expected =
        ": 2 of 2 commands sent were answered (through line 1, 1 of them refused); go on from line 2\n";
    assert!(problem.starts_with("line 2: ERR too-big\nclient: connection lost ("), "{problem}");
    assert!(problem.ends_with(expected), "{problem}");
}

#[test]
fn reply_that_is_cut_off_is_no_answer() {
    let (address, _) = peer(|mut stream| {
        read_to(&stream, "QUIT");
        stream.write_all(b"ACK 1\nACK 2").unwrap();
    });
    check(
        &run(&mut client(address), "TASK: 1\nTASK: 2\n"),
        69,
        "ACK 1\n",
        "client: connection lost (the server closed it): 1 of 2 commands sent were answered \
         (through line 1, 0 of them refused); \
         line 2 was sent but not answered: it may or may not have taken effect; go on from line 2\n",
    );
}

#[test]
fn account_names_no_more_lines_than_the_server_received() {
    let (address, received) = peer(|mut stream| {
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        for id in 1..=2_000 {
            lines.read_until(b'\n', &mut Vec::new()).unwrap();
            stream.write_all(format!("ACK {id}\n").as_bytes()).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        lines.read_to_end(&mut rest).unwrap();
        2_000 + rest.iter().filter(|byte| **byte == b'\n').count()
    });
    let mut child = start(client(address).arg("-q"));
    let mut stdin = child.stdin.take().unwrap();
    aside(move || while stdin.write_all(b"TASK: SEND_NOTIFICATION: 1s_delay\n").is_ok() {});
    let output = child.wait_with_output().unwrap();
    let received = received.recv().unwrap();
    let unanswered = match received {
        2_000 => String::new(),
        2_001 => "; line 2001 was sent but not answered: it may or may not have taken effect".into(),
        _ => format!(
            "; lines 2001 to {received} were sent but not answered: they may or may not have taken effect"
        ),
    };
    check(
        &output,
        69,
        "",
        &format!(
            "client: connection lost (the server closed it): 2000 of {received} commands sent were answered \
             (through line 2000, 0 of them refused){unanswered}; go on from line 2001\n"
        ),
    );
}

#[test]
fn killed_server_leaves_an_account_that_adds_up() {
    let mut server = Server::start(&[]);
    let mut child = start(&mut client(server.address));
    let mut stdin = child.stdin.take().unwrap();
    aside(move || while stdin.write_all(b"TASK: SEND_NOTIFICATION: 1s_delay\n").is_ok() {});
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut replies = Vec::new();
    for _ in 0..5_000 {
        stdout.read_until(b'\n', &mut replies).unwrap();
    }
    server.child.kill().unwrap();
    server.ended();
    stdout.read_to_end(&mut replies).unwrap();
    let output = child.wait_with_output().unwrap();
    let answered = replies.iter().filter(|byte| **byte == b'\n').count();
    let account = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{account}");
    assert!(account.starts_with("client: connection lost ("), "{account}");
    assert!(account.contains(&format!(": {answered} of ")), "{answered} printed: {account}");
    assert!(
        account.contains(&format!(" (through line {answered}, 0 of them refused)")),
        "{answered} printed: {account}"
    );
    assert!(
        account.ends_with(&format!("; go on from line {}\n", answered + 1)),
        "{answered} printed: {account}"
    );
}

#[test]
fn server_that_closes_before_anything_was_sent_is_told_at_once() {
    let (address, _) =
        peer(|mut stream| stream.write_all(b"ERR full retry_after=1s all are taken\n").unwrap());
    let mut child = start(&mut client(address));
    let stdin = child.stdin.take().unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    check(&output, 69, "", "client: refused: full: all are taken: nothing was sent; go on from line 1\n");
}

#[test]
fn what_is_no_djqs_server_is_named_so() {
    let cases: [(&'static str, &str); 4] = [
        (
            "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
            "it sent \"HTTP/1.1 400 Bad Request\", as a web server does",
        ),
        ("SSH-2.0-OpenSSH_9.6\r\n", "\"SSH-2.0-OpenSSH_9.6\""),
        ("\u{1b}[2Jno line end", "\"\\x1b[2Jno line end\""),
        ("PONG\nPONG\n", "it answers more than was asked"),
    ];
    for (greeting, expected) in cases {
        let (address, _) = peer(move |mut stream| {
            read_to(&stream, "QUIT");
            stream.write_all(greeting.as_bytes()).unwrap();
        });
        let output = run(client(address).arg("-q"), "PING\n");
        assert_eq!(output.status.code(), Some(69), "{greeting:?}");
        let problem = text(&output.stderr);
        assert!(problem.starts_with("client: not a reply of a DJQS server: "), "{problem}");
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn line_that_looks_like_http_is_pointed_out() {
    let server = Server::start(&[]);
    let output = run(&mut client(server.address), "PING\nGET / HTTP/1.1\nPING\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(69), "PONG\n".into()));
    let problem = text(&output.stderr);
    assert!(problem.contains("that got a line ending in HTTP/1.0 or HTTP/1.1"), "{problem}");
    assert!(problem.ends_with("go on from line 2\n"), "{problem}");
}

#[test]
fn unreadable_input_is_74_after_the_rest_is_answered() {
    let server = Server::start(&[]);
    let directory = std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let output = client(server.address).stdin(directory).output().unwrap();
    let problem = "client: cannot read the commands: Is a directory (os error 21)\n";
    check(&output, 74, "", problem);
}

#[test]
fn full_disk_under_the_output_is_74() {
    let server = Server::start(&[]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = client(server.address).arg("PING").stdout(full).stderr(Stdio::piped()).output().unwrap();
    let problem = "client: cannot write the replies: No space left on device (os error 28)\n";
    check(&output, 74, "", problem);
}
