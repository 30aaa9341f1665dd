//! `client --wait`: jobs are followed to their end, through the real client and the real server.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Server, Talk, aside, until};
use djqs::client::Failure;
use djqs::protocol::Wait;
use djqs::{Client, Lease};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tempfile::TempDir;

mod common;

/// The client program with `--wait`, set to this server.
fn client(server: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.env_remove("DJQS_SERVER").arg("-s").arg(server.to_string()).arg("--wait").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(server: SocketAddr, arguments: &[&str]) -> Child {
    client(server, arguments).spawn().unwrap()
}

/// Runs it to its end with this input.
fn run(server: SocketAddr, arguments: &[&str], input: &str) -> Output {
    let mut child = start(server, arguments);
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    // A client that ends early does not read it all.
    aside(move || drop(stdin.write_all(input.as_bytes())));
    child.wait_with_output().unwrap()
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let seen = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(seen, (Some(code), stdout.into(), stderr.into()));
}

fn objects(stdout: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Works on the jobs of a server until the test ends: the body is the result; `FAIL: why` is dead.
fn work(server: SocketAddr) {
    aside(move || {
        let mut worker = Client::connect(&server.to_string()).unwrap();
        while let Ok(Some(lease)) = worker.get(&[], Wait::Forever) {
            if report(&mut worker, &lease).is_err() {
                break;
            }
        }
    });
}

fn report(worker: &mut Client, lease: &Lease) -> Result<(), djqs::Error> {
    match lease.body.strip_prefix(b"FAIL: ") {
        Some(why) => worker.fail(lease.id, Failure::new(String::from_utf8_lossy(why)).dead()).map(drop),
        None => worker.ack_with(lease.id, &lease.body).map(drop),
    }
}

fn durable(directory: &Path, port: u16) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    Server::of(command.args(["-p", &port.to_string(), "--data"]).arg(directory))
}

#[test]
fn result_of_one_job_is_standard_output_and_its_reason_standard_error() {
    let server = Server::start(&[]);
    work(server.address);
    check(&run(server.address, &["TASK: ADD: 4"], ""), 0, "ADD: 4", "");
    check(&run(server.address, &["task", "queue=default:", "a\nb\n"], ""), 0, "a\nb\n", "");
    let dead = run(server.address, &["TASK: FAIL: no\x1bsuch file"], "");
    check(&dead, 1, "", "job 3 is dead after 1 failed attempt: no\\u{1b}such file\n");
    let object = run(server.address, &["--results", "TASK: ADD: 5"], "");
    assert_eq!(objects(&object.stdout)[0]["result"], "ADD: 5");
    // It is kept, so that its result can be asked for later.
    assert!(server.connect().ask("WAIT 1").ends_with(": ADD: 4"));
}

#[test]
fn one_job_that_is_cancelled_or_is_none_is_exit_code_1() {
    let server = Server::start(&[]);
    let waiting = start(server.address, &["TASK: x"]);
    until("it waits", || server.stat("waiting") == "1");
    assert_eq!(server.connect().ask("CANCEL 1: not needed"), "OK state=ready");
    check(&waiting.wait_with_output().unwrap(), 1, "", "job 1 was cancelled: not needed\n");
    let wrong = run(server.address, &["PING"], "");
    check(&wrong, 1, "", "client: usage: --wait takes TASK commands only\n");
    let wrong = run(server.address, &["TASK", "queue=e-mail!:", "x"], "");
    assert_eq!(wrong.status.code(), Some(1));
}

#[test]
fn nobody_to_submit_to_is_69() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for arguments in [&["TASK: x"][..], &[]] {
        assert_eq!(run(free, arguments, "TASK: x\n").status.code(), Some(69));
    }
}

#[test]
fn one_job_is_waited_for_across_a_restart_of_the_server() {
    let directory = TempDir::new().unwrap();
    let server = durable(directory.path(), 0);
    let address = server.address;
    let waiting = start(address, &["TASK: x"]);
    until("it waits", || server.stat("waiting") == "1");
    drop(server);
    let _server = durable(directory.path(), address.port());
    work(address);
    check(&waiting.wait_with_output().unwrap(), 0, "x", "");
}

#[test]
fn server_that_does_not_come_back_is_75_and_the_user_learns_how_to_go_on() {
    let server = Server::start(&[]);
    let address = server.address;
    let one = start(address, &["--connect-timeout", "1ms", "TASK: x"]);
    until("it waits", || server.stat("waiting") == "1");
    let mut many = start(address, &["--connect-timeout", "1ms", "--batch", "night"]);
    many.stdin.take().unwrap().write_all(b"TASK: a\n").unwrap();
    until("both wait", || server.stat("waiting") == "2");
    drop(server);
    for (waiting, back) in [(one, "WAIT 1"), (many, "BATCH night wait=1h")] {
        let output = waiting.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{stderr}");
        let expected = format!("go on waiting with: client -s {address} {back}\n");
        assert!(stderr.ends_with(&expected), "{stderr}");
    }
}

#[test]
fn interrupted_client_leaves_its_jobs_and_says_how_to_go_on() {
    let server = Server::start(&[]);
    let one = start(server.address, &["TASK: x"]);
    until("it waits", || server.stat("waiting") == "1");
    let mut many = start(server.address, &["--batch", "night"]);
    many.stdin.take().unwrap().write_all(b"TASK: a\n").unwrap();
    until("both wait", || server.stat("waiting") == "2");
    for (waiting, back) in [(one, "WAIT 1"), (many, "BATCH night wait=1h")] {
        kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
        let output = waiting.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let address = server.address;
        let expected = format!("\nthe jobs go on; go on waiting with: client -s {address} {back}\n");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    }
    assert_eq!(server.stat("jobs_ready"), "2");
}

#[test]
fn lines_are_one_batch_that_is_waited_for() {
    let server = Server::start(&[]);
    work(server.address);
    check(&run(server.address, &[], "TASK: a\n# b\nTASK: c\n"), 0, "", "2 of 2 done\n");
    check(&run(server.address, &["-q"], "TASK: a\n"), 0, "", "");
    check(&run(server.address, &[], ""), 0, "", "0 of 0 done\n");
    let some = "TASK: a\nTASK: FAIL: x\nTASK: FAIL: y\n";
    check(&run(server.address, &["--batch", "night"], some), 1, "", "1 of 3 done, 2 dead\n");
    let counts = server.connect().ask("BATCH night");
    assert_eq!(
        counts,
        "OK total=3 ready=0 delayed=0 leased=0 done=1 dead=2 cancelled=0 deleted=0 complete=yes"
    );
}

#[test]
fn lines_that_can_not_be_followed_are_named_and_the_others_submitted() {
    let server = Server::start(&["-z", "10"]);
    work(server.address);
    let output = run(server.address, &[], "TASK: a\nPING\nTASK batch=b: c\nTASK: 12345678901\nTASK: d\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(lines[0], "line 2: ERR usage --wait takes TASK commands only");
    assert!(lines[1].starts_with("line 3: ERR usage batch= can't be in a line here"), "{stderr}");
    assert!(lines[2].starts_with("line 4: ERR too-big "), "{stderr}");
    assert_eq!(lines[3..], ["2 of 2 done"]);
}

#[test]
fn jobs_whose_keys_are_taken_are_waited_for_too() {
    let server = Server::start(&[]);
    assert_eq!(server.connect().ask("TASK key=k: FAIL: a"), "ACK 1");
    let mut waiting = start(server.address, &["--results"]);
    waiting.stdin.take().unwrap().write_all(b"TASK key=k: b\nTASK: c\n").unwrap();
    until("both wait", || server.stat("waiting") == "2");
    work(server.address);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = json!({"line": 1, "id": 1, "state": "dead", "failures": 1, "reason": "a"});
    assert_eq!(objects(&output.stdout)[0], expected);
}

#[test]
fn results_are_printed_in_order_of_the_lines_as_soon_as_they_are_there() {
    let server = Server::start(&[]);
    let mut worker = Client::connect(&server.address.to_string()).unwrap();
    let mut waiting = start(server.address, &["--results"]);
    let mut stdin = waiting.stdin.take().unwrap();
    let mut stdout = BufReader::new(waiting.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let mut object: Value = serde_json::from_str(&line).unwrap();
        object.as_object_mut().unwrap().remove("seconds");
        object
    };
    stdin.write_all(b"TASK: a\n\nTASK: b\n").unwrap();
    let leases = [(); 2].map(|()| worker.get(&[], Wait::Forever).unwrap().unwrap());
    worker.ack_with(leases[1].id, "\u{e9}\n").unwrap();
    worker.ack_with(leases[0].id, [0xff]).unwrap();
    let done = |line, id| json!({"line": line, "id": id, "state": "done", "attempt": 1});
    let mut expected = [done(1, 1), done(3, 2)];
    expected[0]["result_base64"] = json!("/w==");
    expected[1]["result"] = json!("\u{e9}\n");
    assert_eq!([next(), next()], expected);
    // More may come: the input has not ended.
    stdin.write_all(b"TASK: c\nTASK: d\n").unwrap();
    until("they are there", || server.stat("jobs_ready") == "2");
    worker.cancel(djqs::JobId(3), Some("why not")).unwrap();
    worker.delete(djqs::JobId(4)).unwrap();
    assert_eq!(next(), json!({"line": 4, "id": 3, "state": "cancelled", "reason": "why not"}));
    assert_eq!(next(), json!({"line": 5, "id": 4, "state": "gone"}));
    drop(stdin);
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
    let mut stderr = String::new();
    waiting.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "2 of 4 done, 1 cancelled, 1 deleted, 1 without a result\n");
}

#[test]
fn bar_on_a_terminal_shows_how_far_the_batch_is() {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    tcsetwinsize(&controller, Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let server = Server::start(&[]);
    let mut command = client(server.address, &[]);
    let mut waiting = command.env("TERM", "xterm").stderr(terminal).spawn().unwrap();
    drop(command);
    waiting.stdin.take().unwrap().write_all(b"TASK: a\nTASK: b\n").unwrap();
    let (mut screen, mut shown) = (File::from(controller), Vec::new());
    let mut sees = |text: &str| {
        while !String::from_utf8_lossy(&shown).contains(text) {
            let mut bytes = [0; 1024];
            let count = screen.read(&mut bytes).unwrap();
            shown.extend_from_slice(&bytes[..count]);
        }
        shown.clear();
    };
    sees("0/2  0 done, 0 running");
    let mut worker = Client::connect(&server.address.to_string()).unwrap();
    let first = worker.get(&[], Wait::Forever).unwrap().unwrap();
    sees("0 done, 1 running");
    report(&mut worker, &first).unwrap();
    sees("1 done, 0 running");
    work(server.address);
    sees("2 of 2 done");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

/// `client watch`, with its standard output as lines.
fn watch(server: SocketAddr, what: &str) -> (Child, impl FnMut() -> String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.env_remove("DJQS_SERVER").arg("-s").arg(server.to_string()).args(["watch", what]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let next = move || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    };
    (child, next)
}

#[test]
fn batch_is_watched_until_it_is_complete() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.ask("TASK batch=night: a");
    talk.ask("TASK batch=night: FAIL: no such file");
    let (mut child, mut next) = watch(server.address, "batch=night");
    assert_eq!(next(), "0 of 2 done, 0 running, 2 ready, 0 delayed, 0 dead\n");
    work(server.address);
    let end = loop {
        let line = next();
        if line.starts_with("1 of 2 done, 0 running, 0 ready, 0 delayed, 1 dead, ") {
            break next();
        }
        assert!(line.contains(" of 2 done, ") || line.starts_with("  dead "), "{line:?}");
    };
    assert_eq!(end, "  dead 2: no such file\n");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn queue_is_watched_across_a_restart_of_the_server() {
    let directory = TempDir::new().unwrap();
    let server = durable(directory.path(), 0);
    let address = server.address;
    server.connect().ask("TASK queue=mail: a");
    let (mut child, mut next) = watch(address, "queue=mail");
    assert_eq!(next(), "0 ended, 0 running, 1 ready, 0 delayed, 0 dead\n");
    drop(server);
    let lost = next();
    assert!(lost.ends_with("; connecting again\n"), "{lost:?}");
    let server = durable(directory.path(), address.port());
    assert!(next().starts_with("0 ended, 0 running, 1 ready, 0 delayed, 0 dead"));
    server.connect().ask("PAUSE queue=mail");
    server.connect().ask("TASK queue=mail delay=1h: b");
    assert!(next().starts_with("0 ended, 0 running, 1 ready, 1 delayed, 0 dead"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
}

#[test]
fn tasks_whose_replies_were_lost_are_submitted_again_and_run_once() {
    let server = Server::start(&[]);
    let address = server.address;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = listener.local_addr().unwrap();
    aside(move || {
        let mut first = BufReader::new(listener.accept().unwrap().0);
        let mut talk = Talk::to(address);
        let mut worker = Client::connect(&address.to_string()).unwrap();
        for _ in 0..2 {
            let mut line = String::new();
            first.read_line(&mut line).unwrap();
            assert!(talk.ask(line.trim_end()).starts_with("ACK "));
            let lease = worker.get(&[], Wait::Forever).unwrap().unwrap();
            worker.ack(lease.id).unwrap();
        }
        // The jobs are done, and the submitter has seen nothing of that.
        drop(first);
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(address).unwrap());
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            aside(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (server, client);
            aside(move || std::io::copy(&mut from, &mut to));
        }
    });
    check(&run(between, &[], "TASK: a\nTASK: b\n"), 0, "", "2 of 2 done\n");
    assert_eq!((server.stat("jobs_done"), server.stat("jobs_ready")), ("2".into(), "0".into()));
}

#[test]
fn batch_that_the_server_has_forgotten_is_not_waited_for() {
    let server = Server::start(&[]);
    let address = server.address;
    let mut waiting = start(address, &[]);
    waiting.stdin.take().unwrap().write_all(b"TASK: a\n").unwrap();
    until("it waits", || server.stat("waiting") == "1");
    drop(server);
    let mut again = Command::new(env!("CARGO_BIN_EXE_server"));
    let _server = Server::of(again.args(["--memory", "-p", &address.port().to_string()]));
    let forgotten = "0 of 0 done\n\
        client: the server has forgotten some of these jobs: does it keep them in memory only?\n";
    check(&waiting.wait_with_output().unwrap(), 1, "", forgotten);
}

/// Workers that connect again when the server is back. Two of them lose their connections now and then, with a job.
struct Crew {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Crew {
    fn start(server: SocketAddr) -> Crew {
        let crew = Crew { done: Arc::default(), over: Arc::default() };
        for number in 0..8 {
            let (done, over) = (Arc::clone(&crew.done), Arc::clone(&crew.over));
            aside(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(worker) = Client::connect_within(&server.to_string(), common::PATIENCE) {
                        shift(worker, number, &done);
                    }
                }
            });
        }
        crew
    }
}

/// Works until the connection is lost.
fn shift(mut worker: Client, number: u64, done: &AtomicU64) {
    for count in 1.. {
        let Ok(Some(lease)) = worker.get(&[], Wait::Forever) else { return };
        let drops_it = number < 2 && count % 100 == 0;
        let text = String::from_utf8_lossy(&lease.body).into_owned();
        let result = format!("result of {}", text.strip_prefix("N: ").unwrap());
        if drops_it || worker.ack_with(lease.id, result).is_err() {
            return;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// `seq COUNT | sed 's/^/TASK: N: /' | client --wait --results`, while workers are lost and the server is restarted
/// several times.
fn all_results_come_across_restarts(count: u64) {
    let directory = TempDir::new().unwrap();
    let mut server = durable(directory.path(), 0);
    let address = server.address;
    let crew = Crew::start(address);
    let mut child = start(address, &["--results"]);
    let mut stdin = child.stdin.take().unwrap();
    aside(move || (1..=count).for_each(|n| writeln!(stdin, "TASK: N: {n}").unwrap()));
    let output = aside(move || child.wait_with_output().unwrap());
    for part in 1..4 {
        until("some are done", || crew.done.load(Ordering::Relaxed) >= count * part / 4);
        drop(server);
        server = durable(directory.path(), address.port());
    }
    let output = output.recv().unwrap();
    crew.over.store(true, Ordering::Relaxed);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), &*stderr), (Some(0), &*format!("{count} of {count} done\n")));
    let objects = objects(&output.stdout);
    assert_eq!(objects.len() as u64, count);
    for (object, n) in objects.iter().zip(1..) {
        assert_eq!(object["line"], n);
        assert_eq!(object["state"], "done", "{object}");
        assert_eq!(object["result"], format!("result of {n}"), "{object}");
    }
    // Each line is one job.
    assert_eq!(server.stat("jobs_done"), count.to_string());
}

/// `DJQS_FOLLOW_JOBS` sets the number of jobs.
#[test]
fn results_come_across_lost_workers_and_restarts() {
    let jobs = std::env::var("DJQS_FOLLOW_JOBS").map_or(3000, |jobs| jobs.parse().unwrap());
    all_results_come_across_restarts(jobs);
}
