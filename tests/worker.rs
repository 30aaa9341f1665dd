//! The worker against the real server: one behaviour a test. Programs and closures tell where they are
//! through files, pipes and the worker's log; nothing here sleeps in the hope that it was long enough.
#![allow(clippy::disallowed_methods, reason = "a test's patience is not the program's time")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime};

use common::worker::{Pipes, WAITS, Worker, counts, job, runs, submit};
use common::{PATIENCE, Server, aside, until};
use djqs::worker::{Outcome, Summary, Worker as Library, WorkerJob};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

mod common;

/// How many connections wait for a job of the queue `default`.
fn waiting(server: &Server) -> u64 {
    let queue = server.connect().ask_lines("QUEUES").into_iter().find(|line| line.starts_with("default "));
    let waiting =
        queue.iter().flat_map(|line| line.split(' ')).find_map(|word| word.strip_prefix("waiting="));
    waiting.map_or(0, |number| number.parse().unwrap())
}

/// Runs a worker until all its jobs are done, and returns what it and its commands wrote to stdout.
fn output(server: &Server, flags: &[&str], command: &[&str]) -> String {
    output_and_exit(server, flags, command, 0)
}

/// Runs a worker to its end, which leaves jobs that are not done.
fn leaves_jobs(server: &Server, flags: &[&str], command: &[&str]) -> String {
    output_and_exit(server, flags, command, 1)
}

fn output_and_exit(server: &Server, flags: &[&str], command: &[&str], code: i32) -> String {
    let output = Worker::command(&server.address.to_string(), flags, command).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into()
}

fn server() -> Server {
    Server::start(&[])
}

// What a command gets.

#[test]
fn exit_code_is_the_outcome() {
    let server = server();
    for exit in ["0", "65", "75", "3", "kill"] {
        submit(&server, &format!("TASK backoff=1h: EXIT: {exit}"));
    }
    let script = "echo \"this is $1\" >&2; case $1 in kill) kill -9 $$;; *) exit $1;; esac";
    leaves_jobs(&server, &["--drain=ready"], &["sh", "-c", script, "sh", "{args}"]);
    let outcomes: Vec<Value> = (1..=5).map(|id| job(&server, id)).collect();
    assert_eq!(outcomes[0], Value::Null, "0 is ACK");
    for (id, state, reason) in [
        (2, "dead", "exit 65: this is 65"),
        (3, "delayed", "exit 75: this is 75"),
        (4, "delayed", "exit 3: this is 3"),
        (5, "delayed", "killed by signal 9: this is kill"),
    ] {
        let job = &outcomes[id - 1];
        assert_eq!((&job["state"], &job["reason"]), (&state.into(), &reason.into()));
        assert_eq!(counts(job), [1, 0, 0], "{job}");
    }
}

#[test]
fn reason_is_the_last_lines_of_stderr_which_are_passed_on() {
    let server = server();
    submit(&server, "TASK: LONG");
    let mut worker = Worker::start(&server, &["--once"], &["sh", "-c", "seq 1 500 >&2; exit 1"]);
    worker.ended_with(1);
    let expected: Vec<String> = (481..=500).map(|n| n.to_string()).collect();
    assert_eq!(job(&server, 1)["reason"], format!("exit 1: {}", expected.join("\n")));
    let passed_on = worker.seen.iter().filter(|line| line.parse::<u32>().is_ok()).count();
    assert_eq!(passed_on, 500, "{:#?}", worker.seen);
}

#[test]
fn placeholders_never_pass_through_a_shell() {
    let server = server();
    submit(&server, r#"TASK queue=mail: SEND: $(touch pwned) `id` "a"  'b' ; {id} * -x"#);
    let out = output(
        &server,
        &["-q", "other,mail", "--once"],
        &["printf", "<%s>", "{id}", "{queue}-{attempt}", "{task}", "{args}"],
    );
    assert_eq!(out, r#"<1><mail-1><SEND><$(touch pwned) `id` "a"  'b' ; {id} * -x>"#);
}

#[test]
fn body_without_a_task_name_is_all_arguments() {
    let server = server();
    for body in ["/etc/hostname", r#"{"id":0,"to":"a: b"}"#] {
        submit(&server, &format!("TASK: {body}"));
        let script = "echo \"<$1><$2>${DJQS_TASK-unset}\"";
        let mut command = Worker::command(&server.address.to_string(), &["--once"], &["sh", "-c", script]);
        let output = command.args(["sh", "{task}", "{args}"]).env("DJQS_TASK", "outer").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("<><{body}>unset\n"));
    }
}

#[test]
fn body_is_stdin_and_environment_tells_the_rest() {
    let server = server();
    submit(&server, "TASK attempts=3 len=16:\nSEND: two\nlines ");
    let script = "cat; echo \"|$DJQS_JOB_ID|$DJQS_QUEUE|$DJQS_ATTEMPT|$DJQS_TASK|${DJQS_DEADLINE-unset}\"";
    let mut command = Worker::command(&server.address.to_string(), &["--once"], &["sh", "-c", script]);
    let output = command.env("DJQS_DEADLINE", "of an outer worker").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "SEND: two\nlines |1|default|1|SEND|unset\n");
}

#[test]
fn body_with_nuls_reaches_stdin_but_no_argument() {
    let server = server();
    server.connect().dialogue("> TASK len=5:\n> a: \0b\n< ACK 1\n> TASK len=5:\n> a: \0b\n< ACK 2");
    assert_eq!(output(&server, &["--once"], &["od", "-An", "-tx1"]).trim(), "61 3a 20 00 62");
    leaves_jobs(&server, &["--once"], &["echo", "{args}"]);
    let job = job(&server, 2);
    assert_eq!(job["state"], "dead", "{job}");
    assert!(job["reason"].as_str().unwrap().contains("NUL"), "{job}");
}

#[test]
fn deadline_is_in_the_environment_if_there_is_a_timeout() {
    let server = server();
    submit(&server, "TASK: A");
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let before = seconds();
    let told = output(&server, &["--once", "--timeout", "1h"], &["sh", "-c", "echo $DJQS_DEADLINE"]);
    let deadline: u64 = told.trim().parse().unwrap();
    assert!((before..=seconds()).contains(&(deadline - 3600)), "{before} {deadline}");
}

#[test]
fn command_need_not_read_its_input() {
    let server = server();
    submit(&server, &format!("TASK: {}", "x".repeat(60_000)));
    submit(&server, "TASK: x");
    output(&server, &["--drain"], &["true"]);
    assert_eq!(server.stat("acked_total"), "2");
}

#[test]
fn command_reads_a_body_larger_than_a_pipe() {
    let server = Server::start(&["-z", "1000000"]);
    submit(&server, &format!("TASK: {}", "x".repeat(999_000)));
    assert_eq!(output(&server, &["--once"], &["wc", "-c"]).trim(), "999000");
}

// The lease.

#[test]
fn lease_is_renewed_for_as_long_as_the_command_runs() {
    let server = server();
    submit(&server, "TASK ttr=1s: LONG");
    let other = server.address;
    let mut worker = Worker::start(&server, &["--once"], &["sleep", "3"]);
    worker.says("started job 1");
    // If the lease lapsed, this connection would get the job.
    let theirs = aside(move || common::Talk::to(other).ask("GET wait=2s"));
    worker.ended_well();
    assert_eq!(theirs.recv().unwrap(), "EMPTY");
    assert_eq!(job(&server, 1), Value::Null);
    assert_eq!(worker.said("done"), 2, "{:#?}", worker.seen);
}

#[test]
fn command_is_killed_when_the_server_goes_away() {
    let mut server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK: A");
    let mut worker = Worker::that_waits(&server, &["-n", "2"], &pipes);
    let pid = pipes.read("pid");
    server.child.kill().unwrap();
    server.ended();
    worker.says("lost the lease of job 1");
    worker.says("ended job 1");
    until("the end of the command", || !runs(&pid));
    worker.says("no connection");
    worker.signal(Signal::TERM);
    worker.ended_well();
}

#[test]
fn command_is_killed_when_the_server_falls_silent() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK ttr=500ms: A");
    let mut worker = Worker::that_waits(&server, &[], &pipes);
    let pid = pipes.read("pid");
    server.signal(Signal::STOP);
    worker.says("lost the lease of job 1");
    until("the end of the command", || !runs(&pid));
    server.signal(Signal::CONT);
    // The job comes back, as the next attempt.
    worker.says("started job 1 queue=default attempt=2");
    assert_ne!(pipes.read("pid"), pid);
    pipes.write("go");
    worker.says("ended job 1 queue=default attempt=2");
}

#[test]
fn worker_that_slept_too_long_kills_its_command() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK ttr=500ms: A");
    let mut worker = Worker::that_waits(&server, &[], &pipes);
    let pid = pipes.read("pid");
    worker.signal(Signal::STOP);
    let mut other = server.connect();
    assert_eq!(other.ask("GET"), "JOB 1 queue=default attempt=2 ttr=500ms: A");
    assert!(runs(&pid));
    worker.signal(Signal::CONT);
    worker.says("lost the lease of job 1");
    worker.says("ended job 1 queue=default attempt=1");
    until("the end of the command", || !runs(&pid));
}

#[test]
fn job_of_a_killed_worker_goes_to_another() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go", "go, too"]);
    submit(&server, "TASK: A");
    let command = |go| ["sh".into(), "-c".into(), WAITS.into(), "sh".into(), pipes.arg("pid"), pipes.arg(go)];
    let mut first = Worker::start(&server, &[], &command("go").each_ref().map(String::as_str));
    let pid = pipes.read("pid");
    first.child.kill().unwrap();
    let mut second = Worker::start(&server, &["--once"], &command("go, too").each_ref().map(String::as_str));
    second.says("started job 1 queue=default attempt=2");
    pipes.read("pid");
    assert_eq!(counts(&job(&server, 1)), [0, 1, 0]);
    // Nothing ends a command whose worker was killed with KILL: both may run.
    assert!(runs(&pid));
    pipes.write("go");
    pipes.write("go, too");
    second.ended_well();
    assert_eq!(job(&server, 1), Value::Null);
}

// Timeouts.

#[test]
fn timeout_sends_term_and_then_kill() {
    let server = server();
    submit(&server, "TASK backoff=1h: A");
    let script = "trap 'echo not yet >&2' TERM; while :; do sleep 0.1; done";
    leaves_jobs(&server, &["--once", "--timeout", "1s", "--kill-after", "300ms"], &["sh", "-c", script]);
    let job = job(&server, 1);
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.starts_with("timed out after 1s: ") && reason.ends_with("not yet"), "{reason}");
    assert_eq!(counts(&job), [1, 0, 0]);
}

#[test]
fn command_may_end_well_after_term_but_has_failed() {
    let server = server();
    submit(&server, "TASK backoff=1h: A");
    let script = "trap 'echo cleaned up >&2; exit 0' TERM; while :; do sleep 0.1; done";
    leaves_jobs(&server, &["--once", "--timeout", "1s", "--kill-after", "1h"], &["sh", "-c", script]);
    let job = job(&server, 1);
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.starts_with("timed out after 1s: ") && reason.ends_with("cleaned up"), "{reason}");
}

#[test]
fn timeout_reaches_grandchildren() {
    let server = server();
    let pipes = Pipes::new(&[]);
    submit(&server, "TASK backoff=1h: A");
    // Neither takes notice of TERM, and the grandchild has nothing of the worker's open.
    let script = "trap '' TERM; sh -c 'while :; do sleep 0.1; done' </dev/null >/dev/null 2>&1 & echo $! > \"$1\"; wait";
    leaves_jobs(
        &server,
        &["--once", "--timeout", "1s", "--kill-after", "0"],
        &["sh", "-c", script, "sh", &pipes.arg("pid")],
    );
    let grandchild = fs::read_to_string(pipes.path("pid")).unwrap();
    until("the end of the grandchild", || !runs(&grandchild));
    assert_eq!(job(&server, 1)["reason"], "timed out after 1s");
}

// Stopping.

#[test]
fn first_term_waits_for_what_runs_and_fetches_no_more() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK: A");
    submit(&server, "TASK: B");
    let mut worker = Worker::that_waits(&server, &[], &pipes);
    pipes.read("pid");
    worker.signal(Signal::TERM);
    worker.says("stopping");
    pipes.write("go");
    worker.ended_well();
    assert_eq!(job(&server, 1), Value::Null);
    assert_eq!(counts(&job(&server, 2)), [0, 0, 0]);
    assert_eq!(job(&server, 2)["state"], "ready");
}

#[test]
fn what_runs_when_the_grace_is_over_is_ended_and_returned() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK: A");
    let mut worker = Worker::that_waits(&server, &["--grace", "200ms"], &pipes);
    let pid = pipes.read("pid");
    worker.signal(Signal::INT);
    worker.ended_well();
    assert!(!runs(&pid));
    let job = job(&server, 1);
    assert_eq!((counts(&job), &job["state"]), ([0, 0, 1], &"ready".into()), "{:#?}", worker.seen);
}

#[test]
fn command_that_ignores_term_is_killed_after_the_grace() {
    let server = server();
    let pipes = Pipes::new(&["pid"]);
    submit(&server, "TASK: A");
    let script = "trap '' TERM; echo $$ > \"$1\"; while :; do sleep 0.1; done";
    let flags = ["--grace", "0", "--kill-after", "200ms"];
    let mut worker = Worker::start(&server, &flags, &["sh", "-c", script, "sh", &pipes.arg("pid")]);
    let pid = pipes.read("pid");
    worker.signal(Signal::TERM);
    worker.ended_well();
    assert!(!runs(&pid));
    assert_eq!(counts(&job(&server, 1)), [0, 0, 1], "{:#?}", worker.seen);
}

#[test]
fn second_signal_ends_at_once() {
    let server = server();
    let pipes = Pipes::new(&["pid"]);
    submit(&server, "TASK: A");
    let script = "trap '' TERM; echo $$ > \"$1\"; while :; do sleep 0.1; done";
    let flags = ["--grace", "1h", "--kill-after", "1h"];
    let mut worker = Worker::start(&server, &flags, &["sh", "-c", script, "sh", &pipes.arg("pid")]);
    let pid = pipes.read("pid");
    worker.signal(Signal::TERM);
    worker.says("stopping");
    worker.signal(Signal::INT);
    worker.ended_well();
    assert!(!runs(&pid));
    assert_eq!(counts(&job(&server, 1)), [0, 0, 1], "{:#?}", worker.seen);
}

#[test]
fn closed_terminal_and_quit_leave_no_command_behind() {
    let server = server();
    let pipes = Pipes::new(&["pid"]);
    let script = "echo $$ > \"$1\"; while :; do sleep 0.1; done";
    for (id, signal, grace) in [(1, Signal::HUP, "0"), (2, Signal::QUIT, "1h")] {
        submit(&server, "TASK: A");
        let command = ["sh", "-c", script, "sh", &pipes.arg("pid")];
        let mut worker = Worker::at_a_terminal(&server, &["--grace", grace], &command);
        let pid = pipes.read("pid");
        worker.signal(signal);
        worker.ended_well();
        assert!(!runs(&pid));
        assert_eq!(counts(&job(&server, id)), [0, 0, 1], "{:#?}", worker.seen);
        assert_eq!(server.connect().ask(&format!("DELETE {id}")), "OK");
    }
}

#[test]
fn terminal_that_says_twice_that_it_is_closed_leaves_its_worker_the_grace() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK: A");
    let command = ["sh", "-c", WAITS, "sh", &pipes.arg("pid"), &pipes.arg("go")];
    let mut worker = Worker::at_a_terminal(&server, &["--grace", "1h"], &command);
    pipes.read("pid");
    worker.signal(Signal::HUP);
    worker.says("stopping");
    worker.signal(Signal::HUP);
    pipes.write("go");
    worker.ended_well();
    assert_eq!(job(&server, 1), Value::Null, "it is done: {:#?}", worker.seen);
}

#[test]
fn worker_under_nohup_continues_when_its_terminal_is_closed() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK: A");
    submit(&server, "TASK: B");
    let worker = Worker::command(&server.address.to_string(), &["-n", "2"], &["sh", "-c", WAITS, "sh"]);
    let mut under_nohup = Command::new("sh");
    under_nohup
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(worker.get_program())
        .args(worker.get_args());
    under_nohup.args([pipes.arg("pid"), pipes.arg("go")]).stdout(Stdio::null());
    let mut worker = Worker::of(&mut under_nohup);
    pipes.read("pid");
    worker.signal(Signal::HUP);
    pipes.write("go");
    // A worker that is stopping would not take the second job.
    pipes.read("pid");
    pipes.write("go");
    worker.ended_well();
    assert_eq!(server.stat("acked_total"), "2", "{:#?}", worker.seen);
}

#[test]
fn command_line_overrides_a_variable() {
    let server = server();
    (0..3).for_each(|_| submit(&server, "TASK: A"));
    let mut once = Worker::command(&server.address.to_string(), &["--once"], &["true"]);
    Worker::of(once.env("DJQS_WORKER_JOBS", "2")).ended_well();
    assert_eq!(server.stat("jobs_ready"), "2", "--once it is");
    let mut two = Worker::command(&server.address.to_string(), &["-n", "2"], &[]);
    let variables = [("DJQS_WORKER_ONCE", "yes"), ("DJQS_WORKER_TIMEOUT", "1s")];
    Worker::of(two.envs(variables).stdout(Stdio::null())).ended_well();
    assert_eq!(server.stat("jobs_ready"), "0", "-n 2 it is, and the demonstration needs no timeout");
}

#[test]
fn worker_that_waits_stops_and_leaves_nothing() {
    let server = server();
    let mut worker = Worker::start(&server, &["-c", "4"], &["true"]);
    until("four waiting connections", || waiting(&server) == 4);
    worker.signal(Signal::TERM);
    worker.ended_well();
    assert_eq!(waiting(&server), 0);
    assert_eq!((worker.said("stopping"), worker.said("stopped")), (0, 1), "{:#?}", worker.seen);
}

#[test]
fn worker_stops_while_the_server_is_away() {
    let mut worker = Worker::of(&mut Worker::command("127.0.0.1:1", &[], &["true"]));
    worker.says("no connection to 127.0.0.1:1");
    worker.signal(Signal::TERM);
    worker.ended_well();
}

#[test]
fn pause_finishes_what_runs_and_fetches_nothing_until_resumed() {
    for (pause, resume) in [(Signal::TSTP, Signal::CONT), (Signal::USR1, Signal::USR2)] {
        let server = server();
        let pipes = Pipes::new(&["pid", "go"]);
        submit(&server, "TASK: A");
        let mut worker = Worker::that_waits(&server, &["-c", "2"], &pipes);
        pipes.read("pid");
        until("the other slot waits", || waiting(&server) == 1);
        worker.signal(pause);
        worker.says("paused");
        until("the other slot waits no more", || waiting(&server) == 0);
        submit(&server, "TASK: B");
        pipes.write("go");
        worker.says("ended job 1");
        assert_eq!(job(&server, 2)["state"], "ready");
        worker.signal(resume);
        worker.says("resumed");
        worker.says("started job 2 queue=default attempt=1");
        pipes.read("pid");
        pipes.write("go");
        worker.says("ended job 2");
        assert_eq!(worker.said("connected"), 1, "a pause is no absence: {:#?}", worker.seen);
    }
}

#[test]
fn paused_worker_can_be_stopped() {
    let server = server();
    let mut worker = Worker::start(&server, &["-c", "2"], &["true"]);
    worker.says("connected");
    worker.signal(Signal::TSTP);
    worker.says("paused");
    worker.signal(Signal::TERM);
    worker.ended_well();
}

#[test]
fn command_that_is_not_there_stops_the_worker() {
    let server = server();
    let pipes = Pipes::new(&[]);
    fs::write(pipes.path("text"), "not a program").unwrap();
    let text = pipes.arg("text");
    let commands: [(&[&str], i32); 4] = [
        (&["/no/such/program"], 127),
        (&[&text], 126),
        (&["sh", "-c", "exit 127"], 127),
        (&["sh", "-c", "exit 126"], 126),
    ];
    submit(&server, "TASK: A");
    for (n, (command, code)) in commands.into_iter().enumerate() {
        let mut worker = Worker::start(&server, &[], command);
        assert_eq!(worker.ended().code(), Some(code), "{command:?} {:#?}", worker.seen);
        assert_eq!(worker.said("ERROR"), 1, "{:#?}", worker.seen);
        let job = job(&server, 1);
        assert_eq!((counts(&job), &job["state"]), ([0, 0, n as u64 + 1], &"ready".into()));
    }
}

// How much to do.

#[test]
fn once_waits_for_a_job_and_does_one() {
    let server = server();
    let mut worker = Worker::start(&server, &["--once", "-c", "4"], &["true"]);
    until("one waiting connection", || waiting(&server) == 1);
    submit(&server, "TASK: A");
    submit(&server, "TASK: B");
    worker.ended_well();
    assert_eq!((worker.said("started"), &job(&server, 2)["state"]), (1, &"ready".into()));
}

#[test]
fn worker_stops_after_n_jobs_however_they_end() {
    let server = server();
    (0..5).for_each(|_| submit(&server, "TASK backoff=1h: A"));
    leaves_jobs(&server, &["-n", "3", "-c", "2"], &["false"]);
    let states: Vec<Value> = (1..=5).map(|id| job(&server, id)["state"].clone()).collect();
    assert_eq!(states, ["delayed", "delayed", "delayed", "ready", "ready"]);
}

#[test]
fn exit_code_is_of_the_last_outcome_of_each_job() {
    let server = server();
    submit(&server, "TASK backoff=0: A");
    let mut worker = Worker::start(&server, &["-n", "2"], &["test", "{attempt}", "=", "2"]);
    worker.ended_with(0);
    let last = worker.seen.last().unwrap();
    assert!(last.ends_with("stopped: 1 done, 1 failed, 0 dead, 0 returned, 0 lost"), "{last}");
    for (task, command, counts) in [
        ("TASK backoff=1h: B", "exit 3", "0 done, 1 failed, 0 dead, 0 returned, 0 lost; 1 job is not done"),
        ("TASK: C", "exit 65", "0 done, 0 failed, 1 dead, 0 returned, 0 lost; 1 job is not done"),
    ] {
        submit(&server, task);
        let mut worker = Worker::start(&server, &["--drain=ready"], &["sh", "-c", command]);
        worker.ended_with(1);
        assert!(worker.seen.last().unwrap().ends_with(counts), "{:#?}", worker.seen);
    }
}

#[test]
fn signal_ends_a_worker_with_0_however_its_jobs_ended() {
    let server = server();
    submit(&server, "TASK backoff=1h: A");
    let mut worker = Worker::start(&server, &["-n", "2"], &["false"]);
    worker.says("ended job 1");
    worker.signal(Signal::TERM);
    worker.ended_well();
}

#[test]
fn drain_of_ready_jobs_leaves_delayed_ones() {
    let server = server();
    for n in 0..50 {
        submit(&server, &format!("TASK queue={}: A", ["a", "b"][n % 2]));
    }
    submit(&server, "TASK queue=a delay=1h: LATER");
    submit(&server, "TASK queue=c: A");
    output(&server, &["--drain=ready", "-q", "a,b", "-c", "4"], &["true"]);
    assert_eq!(
        (server.stat("acked_total"), server.stat("jobs_ready"), server.stat("jobs_delayed")),
        ("50".into(), "1".into(), "1".into())
    );
}

#[test]
fn drain_waits_for_the_retries_of_failed_jobs() {
    let server = server();
    submit(&server, "TASK attempts=3 backoff=10ms: A");
    submit(&server, "TASK delay=50ms: B");
    let script = "echo \"$1 $2\"; test \"$1\" = 2";
    let out = leaves_jobs(&server, &["--drain"], &["sh", "-c", script, "sh", "{id}", "{attempt}"]);
    let mut runs: Vec<&str> = out.lines().collect();
    runs.sort_unstable();
    assert_eq!(runs, ["1 1", "1 2", "1 3", "2 1"]);
    assert_eq!((&job(&server, 1)["state"], job(&server, 2)), (&"dead".into(), Value::Null));
}

#[test]
fn drain_waits_for_the_jobs_of_other_workers() {
    let server = server();
    submit(&server, "TASK: A");
    let mut other = server.connect();
    assert_eq!(other.ask("GET"), "JOB 1 queue=default attempt=1 ttr=1m: A");
    let mut worker = Worker::start(&server, &["--drain", "-c", "4"], &["true"]);
    until("four waiting connections", || waiting(&server) == 4);
    assert_eq!(other.ask("RETURN 1"), "OK");
    worker.says("ended job 1");
    worker.ended_well();
    assert_eq!(worker.said("nothing left to do"), 1, "{:#?}", worker.seen);
}

#[test]
fn drain_that_another_worker_has_finished_is_a_success() {
    let server = server();
    submit(&server, "TASK backoff=1h: A");
    let mut worker = Worker::start(&server, &["--drain"], &["false"]);
    worker.says("ended job 1");
    until("a waiting connection", || waiting(&server) == 1);
    let mut other = server.connect();
    // In beanstalkd's dialect, a job can be leased before its delay is over.
    assert_eq!(other.ask("reserve-job 1\r"), "RESERVED 1 1\r");
    assert_eq!((other.line().as_deref(), &*other.ask("delete 1\r")), (Some("A\r"), "DELETED\r"));
    worker.ended_well();
}

#[test]
fn drain_leaves_a_paused_queue_and_says_so() {
    let server = server();
    submit(&server, "TASK queue=a: A");
    submit(&server, "TASK queue=b: B");
    assert_eq!(server.connect().ask("PAUSE queue=b"), "OK");
    let mut worker = Worker::start(&server, &["--drain", "-q", "a,b,c"], &["true"]);
    worker.ended_with(1);
    assert_eq!(worker.said("nothing left to do, except in paused queues: b"), 1, "{:#?}", worker.seen);
    assert_eq!((server.stat("acked_total"), server.stat("jobs_ready")), ("1".into(), "1".into()));
}

#[test]
fn drain_ends_when_its_time_is_up() {
    let server = server();
    submit(&server, "TASK delay=1h: A");
    let mut worker = Worker::start(&server, &["--drain", "--drain-timeout", "50ms", "-c", "2"], &["true"]);
    worker.ended_with(1);
    assert_eq!(worker.said("the time for draining is up"), 1, "{:#?}", worker.seen);

    // The same while its only job runs: as after a TERM.
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK: B");
    let flags = ["--drain", "--drain-timeout", "200ms", "--grace", "0"];
    let mut worker = Worker::that_waits(&server, &flags, &pipes);
    let pid = pipes.read("pid");
    worker.ended_with(1);
    assert!(!runs(&pid));
    assert_eq!(counts(&job(&server, 2)), [0, 0, 1], "{:#?}", worker.seen);

    // The same without a server.
    let flags = ["--drain", "--drain-timeout", "50ms"];
    let mut worker = Worker::of(&mut Worker::command("127.0.0.1:1", &flags, &["true"]));
    worker.ended_with(1);
}

#[test]
fn server_that_cannot_drain_is_named_as_too_old() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = aside(move || {
        let (stream, _) = listener.accept().unwrap();
        let (mut lines, mut stream) = (BufReader::new(stream.try_clone().unwrap()).lines(), stream);
        assert!(lines.next().unwrap().unwrap().starts_with("HELLO worker="));
        stream.write_all(b"ERR unknown-verb HELLO\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "GET queue=default drain=yes");
        stream.write_all(b"ERR usage GET has no option \"drain\"; it has queue, wait\n").unwrap();
    });
    let mut worker = Worker::of(&mut Worker::command(&address, &["--drain"], &["true"]));
    worker.ended_with(70);
    let said = worker.seen.iter().find(|line| line.contains("too old for --drain")).unwrap();
    assert!(said.contains("--drain=ready"), "{said}");
    peer.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn drain_of_ready_jobs_waits_for_what_a_running_job_may_submit() {
    let server = server();
    submit(&server, "TASK: FIRST");
    let address = server.address;
    let summary = Library::new(address.to_string())
        .concurrency(4)
        .drain_ready()
        .on("FIRST", move |_| {
            // All others have found nothing by now, or soon will.
            (0..10).for_each(|_| assert!(common::Talk::to(address).ask("TASK: NEXT").starts_with("ACK")));
        })
        .on("NEXT", |_| ())
        .run()
        .unwrap();
    assert_eq!(summary.done, 11, "{summary}");
}

#[test]
fn four_jobs_run_at_a_time() {
    let server = server();
    let pipes = Pipes::new(&[]);
    submit_many(&server, 8, "TASK: A");
    // Each waits until its whole group of four is there.
    let script = "n=$((($2 - 1) / 4)); touch \"$1/$n-$2\"
        until [ \"$(ls \"$1\" | grep -c \"^$n-\")\" = 4 ]; do sleep 0.02; done";
    output(&server, &["-c", "4", "--drain"], &["sh", "-c", script, "sh", &pipes.arg(""), "{id}"]);
    assert_eq!(server.stat("acked_total"), "8");
}

/// Sends so many tasks ahead.
fn submit_many(server: &Server, count: u64, task: &str) {
    let mut client = server.connect();
    client.send(format!("{task}\n").repeat(count.try_into().unwrap()));
    (0..count).for_each(|_| assert!(client.line().unwrap().starts_with("ACK ")));
}

// The server comes and goes.

#[test]
fn absence_of_the_server_is_said_once_and_so_is_its_return() {
    let mut server = server();
    let address = server.address;
    let mut worker = Worker::start(&server, &["-c", "4", "-n", "4"], &["true"]);
    until("four waiting connections", || waiting(&server) == 4);
    for signal in [Signal::KILL, Signal::TERM] {
        server.signal(signal);
        server.ended();
        worker.says("no connection to");
        server = Server::of(Command::new(env!("CARGO_BIN_EXE_server")).args([
            "--memory",
            "-p",
            &address.port().to_string(),
        ]));
        worker.says("again");
        until("four waiting connections", || waiting(&server) == 4);
    }
    (0..4).for_each(|_| submit(&server, "TASK: A"));
    worker.ended_well();
    assert_eq!((worker.said("no connection"), worker.said("again")), (2, 2 + 2), "{:#?}", worker.seen);
}

#[test]
fn server_that_is_full_is_waited_for() {
    let server = Server::start(&["--max-connections", "1"]);
    let mut first = server.connect();
    assert_eq!(first.ask("PING"), "PONG");
    let mut worker = Worker::start(&server, &["--once"], &["true"]);
    worker.says("no connection");
    assert_eq!(first.ask("TASK: A"), "ACK 1");
    drop(first);
    worker.says("connected");
    worker.ended_well();
}

#[test]
fn peer_that_is_no_djqs_server_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = aside(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"UNKNOWN_COMMAND\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        hello
    });
    let mut worker = Worker::of(&mut Worker::command(&address, &[], &["true"]));
    let said = worker.says("no connection");
    assert!(said.contains("not a reply of a DJQS server"), "{said}");
    assert_eq!(&peer.recv_timeout(PATIENCE).unwrap(), b"HELLO ");
}

#[test]
fn queue_list_that_the_server_refuses_ends_the_worker() {
    let server = server();
    let queues: Vec<String> = (0..400).map(|n| format!("a-queue-with-a-long-name-{n}")).collect();
    let mut worker = Worker::start(&server, &["-q", &queues.join(",")], &["true"]);
    worker.ended_with(70);
    assert_eq!(worker.said("the server refused GET"), 1, "{:#?}", worker.seen);
}

// What commands write.

#[test]
fn tag_begins_each_line_with_the_job() {
    let server = server();
    submit(&server, "TASK: SEND: 9");
    submit(&server, &format!("TASK: \u{1b}[2J {}", "x".repeat(100)));
    let script = "echo one; printf 'two\nthree'; echo four >&2";
    let mut command =
        Worker::command(&server.address.to_string(), &["--drain", "--tag"], &["sh", "-c", script]);
    let output = command.env("RUST_LOG", "off").output().unwrap();
    let (nine, other) = ("1 SEND: 9\t", format!("2 \\u{{1b}}[2J {}...\t", "x".repeat(35)));
    let lines = |tag: &str| format!("{tag}one\n{tag}two\n{tag}three\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines(nine) + &lines(&other));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{nine}four\n{other}four\n"));
}

#[test]
fn group_keeps_the_output_of_jobs_apart() {
    let server = server();
    let pipes = Pipes::new(&["1", "2"]);
    submit(&server, "TASK: 1: 2");
    submit(&server, "TASK: 2: 1");
    // Each writes a half, waits until the other has done so too, and writes the other half.
    let script = "echo first $2; case $2 in 1) echo > \"$1/1\"; read x < \"$1/2\";;
        *) read x < \"$1/1\"; echo > \"$1/2\";; esac; echo second $2; printf last";
    let flags = ["--drain", "-c", "2", "--group"];
    let out = output(&server, &flags, &["sh", "-c", script, "sh", &pipes.arg(""), "{task}"]);
    let of = |task| format!("first {task}\nsecond {task}\nlast");
    assert!(out == of(1) + &of(2) || out == of(2) + &of(1), "{out:?}");
}

#[test]
fn group_of_any_size_is_written_whole() {
    let server = server();
    (0..3).for_each(|_| submit(&server, "TASK: A"));
    let directory = TempDir::new().unwrap();
    let mut command = Worker::command(
        &server.address.to_string(),
        &["--drain", "-c", "3", "--group", "--tag"],
        &["seq", "1", "50000"],
    );
    let output = command.env("TMPDIR", directory.path()).output().unwrap();
    assert!(output.status.success());
    let out = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 150_000);
    for job in lines.chunks(50_000) {
        let tag = job[0].strip_suffix('1').unwrap();
        assert!(job.iter().zip(1..).all(|(line, n)| *line == format!("{tag}{n}")), "{tag} is whole");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "its files have no names");
}

#[test]
fn group_is_passed_on_if_no_file_can_be_made() {
    let server = server();
    submit(&server, "TASK: A");
    let mut command =
        Worker::command(&server.address.to_string(), &["--drain", "--group"], &["seq", "1", "50000"]);
    let output = command.env("TMPDIR", "/no/such/directory").output().unwrap();
    let expected: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("/no/such/directory/djqs-worker-").count(), 1, "{said}");
}

#[test]
fn group_of_a_command_that_is_ended_is_written_too() {
    let server = server();
    let pipes = Pipes::new(&["pid"]);
    submit(&server, "TASK: A");
    let script = "echo before; echo $$ > \"$1\"; while :; do sleep 0.1; done";
    let mut command = Worker::command(
        &server.address.to_string(),
        &["--group", "--grace", "0"],
        &["sh", "-c", script, "sh", &pipes.arg("pid")],
    );
    let mut worker = Worker::of(command.stdout(Stdio::piped()));
    pipes.read("pid");
    worker.signal(Signal::TERM);
    worker.ended_well();
    let mut out = String::new();
    worker.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "before\n");
}

#[test]
fn process_that_keeps_the_output_open_does_not_hold_up_the_job() {
    let server = server();
    let pipes = Pipes::new(&["go"]);
    submit(&server, "TASK: A");
    let script = "echo early; (read x < \"$1\"; echo late) &";
    let command = ["sh", "-c", script, "sh", &pipes.arg("go")];
    let mut command = Worker::command(&server.address.to_string(), &["--group", "--tag"], &command);
    let mut worker = Worker::of(command.stdout(Stdio::piped()));
    worker.says("ended job 1");
    let mut out = BufReader::new(worker.child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(out.next().as_deref(), Some("1 A\tearly"));
    pipes.write("go");
    assert_eq!(out.next().as_deref(), Some("1 A\tlate"), "it is passed on when it comes");
    worker.signal(Signal::TERM);
    worker.ended_well();
}

#[test]
fn process_that_keeps_writing_does_not_hold_up_the_job() {
    let server = server();
    submit(&server, "TASK: A");
    // It ends when nobody reads any more.
    let script = "(while echo still here >&2; do sleep 0.01; done) & echo early >&2; exit 1";
    let mut worker = Worker::start(&server, &["--once"], &["sh", "-c", script]);
    worker.ended_with(1);
    let reason = job(&server, 1)["reason"].to_string();
    assert!(reason.contains("early"), "{reason}");
}

// What it shows.

#[test]
fn demonstration_prints_what_it_works_on_and_takes_its_time() {
    let server = server();
    submit(&server, "TASK: CALCULATE_FINANCE: 300ms_delay");
    submit(&server, "TASK: NO_\u{1b}[2J_DELAY");
    let begun = std::time::Instant::now();
    let out = output(&server, &["--drain"], &[]);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let expected =
        "working on 1 CALCULATE_FINANCE: 300ms_delay\ndone 1\nworking on 2 NO_\\u{1b}[2J_DELAY\ndone 2\n";
    assert_eq!(out, expected);
}

#[test]
fn each_event_has_one_line() {
    let server = server();
    submit(&server, "TASK: CALCULATE_FINANCE: 10ms_delay");
    let mut worker = Worker::start(&server, &["--drain"], &[]);
    worker.ended_well();
    let lines = ["works for", "connected", "the queues have nothing left to do", "stopped: 1 done"];
    assert_eq!(worker.seen.len(), lines.len(), "stdout has the job's lines: {:#?}", worker.seen);
    for (said, line) in worker.seen.iter().zip(lines) {
        assert!(said.contains(line), "{line}: {:#?}", worker.seen);
    }
}

#[test]
fn demonstration_returns_a_long_job_when_it_is_stopped() {
    let server = server();
    submit(&server, "TASK: CALCULATE_FINANCE: 1h_delay");
    let mut command = Worker::command(&server.address.to_string(), &["--grace", "0"], &[]);
    let mut worker = Worker::of(command.env("RUST_LOG", "info").stdout(Stdio::null()));
    worker.says("started job 1");
    worker.signal(Signal::TERM);
    worker.ended_well();
    assert_eq!(counts(&job(&server, 1)), [0, 0, 1]);
}

#[test]
fn log_has_a_line_as_a_job_starts_and_one_as_it_ends() {
    let server = server();
    submit(&server, "TASK: SEND_\u{1b}[2J: x");
    let script = "printf 'bad\\033[2J\\n' >&2; exit 65";
    let mut worker = Worker::start(&server, &["--once"], &["sh", "-c", script]);
    worker.ended_with(1);
    let lines: Vec<&String> = worker.seen.iter().filter(|line| line.contains("job 1")).collect();
    let [start, end] = lines[..] else { panic!("{lines:#?}") };
    assert!(start.ends_with(r"started job 1 queue=default attempt=1: SEND_\u{1b}[2J: x"), "{start}");
    assert!(end.contains("ended job 1 queue=default attempt=1 seconds="), "{end}");
    assert!(end.ends_with(r" outcome=dead (SEND_\u{1b}[2J: x): exit 65: bad\u{1b}[2J"), "{end}");
}

#[test]
fn log_shortens_a_long_body() {
    let server = server();
    submit(&server, &format!("TASK: SEND: {}", "x".repeat(100)));
    let mut worker = Worker::start(&server, &["--once"], &["true"]);
    worker.ended_well();
    let shown = format!("SEND: {}...", "x".repeat(74));
    for line in worker.seen.iter().filter(|line| line.contains("job 1")) {
        assert!(line.contains(&shown), "{line}");
    }
    assert_eq!(worker.said(&shown), 2, "{:#?}", worker.seen);
}

#[test]
fn json_log_is_an_object_a_line_with_the_commands_stderr_in_it() {
    let server = server();
    submit(&server, "TASK backoff=1h: SEND: \"x\"");
    let script = "printf 'a \\033 b\\nc' >&2; exit 1";
    let mut worker = Worker::start(&server, &["--once", "--log", "json"], &["sh", "-c", script]);
    worker.ended_with(1);
    let lines: Vec<Value> = worker.seen.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let [start] = of("started")[..] else { panic!("{lines:#?}") };
    assert_eq!(
        (&start["id"], &start["queue"], &start["attempt"], &start["task"]),
        (&1.into(), &"default".into(), &1.into(), &"SEND".into())
    );
    assert_eq!(start["body"], "SEND: \"x\"");
    let [end] = of("ended")[..] else { panic!("{lines:#?}") };
    assert_eq!(end["body"], "SEND: \"x\"");
    assert_eq!((&end["outcome"], &end["reason"]), (&"failed".into(), &"exit 1: a \u{1b} b\nc".into()));
    assert!(end["seconds"].is_f64() && end["retry_in"].is_string(), "{end}");
    let said: Vec<&Value> = of("stderr").into_iter().map(|line| &line["line"]).collect();
    assert_eq!(said, ["a \u{1b} b", "c"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    let wrong: [&[&str]; 15] = [
        &["--once", "-n", "2"],
        &["-c", "0"],
        &["--drain=later"],
        &["--drain-timeout", "5s"],
        &["-n", "0"],
        &["--timeout", "5s"],
        &["--result", "stdout"],
        &["--tag"],
        &["--group"],
        &["--timeout", "0", "--", "true"],
        &["-q", "-mail"],
        &["-s", "no where"],
        &["-s", "tls://host"],
        &["--", "{task}"],
        &["--", "echo", "{arg}"],
    ];
    for flags in wrong {
        let status = Command::new(env!("CARGO_BIN_EXE_worker")).args(flags).stderr(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(2), "{flags:?}");
    }
}

#[test]
fn examples_survive_hostile_bodies_and_keep_each_jobs_file() {
    let help = Command::new(env!("CARGO_BIN_EXE_worker")).arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let commands: Vec<Vec<&str>> = [&readme, &help]
        .into_iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split_once("worker -").and_then(|(_, flags)| flags.split_once(" -- ")))
        .map(|(_, command)| command.split('`').next().unwrap().split_whitespace().collect())
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        for (at, word) in command.iter().enumerate() {
            // A word of its own may be an option.
            if ["{args}", "{body}"].contains(word) {
                assert!(command[..at].iter().any(|word| ["--", "sh"].contains(word)), "{command:?}");
            }
            if *word == "-o" {
                assert!(command[at + 1].contains("{id}"), "{command:?}");
            }
        }
    }
}

#[test]
fn short_help_is_a_screen_and_names_the_long_one() {
    let help = |flag| Command::new(env!("CARGO_BIN_EXE_worker")).arg(flag).output().unwrap().stdout;
    let [short, long] = ["-h", "--help"].map(|flag| String::from_utf8(help(flag)).unwrap());
    assert!(short.lines().count() <= 48 && short.contains("--help explains"), "{short}");
    for heading in ["How a command runs:", "Signals:", "Exit codes of the worker:", "Examples:"] {
        assert!(long.contains(heading), "{heading}");
    }
}

#[test]
fn unknown_placeholder_is_refused_with_the_list_of_them() {
    let output = Worker::command("127.0.0.1:1", &[], &["echo", "{id}", "--to={arg}"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("{arg} is not a placeholder"), "{said}");
    assert!(said.contains("{id} {queue} {attempt} {task} {args} {body}"), "{said}");
}

#[test]
fn body_is_a_placeholder_and_braces_of_shells_stay() {
    let server = server();
    submit(&server, "TASK: SEND: {arg}");
    let out =
        output(&server, &["--once"], &["printf", "<%s>", "{body}", "{args}", "{}", "${HOME}", "{ print }"]);
    assert_eq!(out, "<SEND: {arg}><{arg}><{}><${HOME}><{ print }>");
}

#[test]
fn every_flag_can_be_set_in_the_environment() {
    let server = server();
    (0..3).for_each(|_| submit(&server, "TASK queue=mail backoff=1h: A"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    let environment = [
        ("DJQS_SERVER", server.address.to_string()),
        ("DJQS_WORKER_QUEUES", "other,mail".into()),
        ("DJQS_WORKER_CONCURRENCY", "2".into()),
        ("DJQS_WORKER_JOBS", "3".into()),
        ("DJQS_WORKER_DRAIN", "1".into()),
        ("DJQS_WORKER_DRAIN_TIMEOUT", "1h".into()),
        ("DJQS_WORKER_NAME", "w1".into()),
        ("DJQS_WORKER_RESUME", "10s".into()),
        ("DJQS_WORKER_GRACE", "1s".into()),
        ("DJQS_WORKER_TIMEOUT", "1h".into()),
        ("DJQS_WORKER_KILL_AFTER", "1s".into()),
        ("DJQS_WORKER_RESULT", "none".into()),
        ("DJQS_WORKER_TAG", "1".into()),
        ("DJQS_WORKER_GROUP", "1".into()),
        ("DJQS_WORKER_LOG", "json".into()),
    ];
    command.env_remove("RUST_LOG").envs(environment).args(["--", "true"]);
    let mut worker = Worker::of(&mut command);
    worker.ended_well();
    assert!(worker.seen[0].contains("\"jobs_at_a_time\":2"), "{:#?}", worker.seen);
    assert_eq!(server.stat("acked_total"), "3");
}

// The library.

/// Runs a library's worker in a thread; the receiver gets its summary.
fn run(worker: Library) -> Receiver<Summary> {
    aside(move || worker.run().unwrap())
}

#[test]
fn closures_do_jobs_by_task_name() {
    let server = server();
    for task in ["SEND: 9", "FAIL: no such user", "PANIC: oh", "DEAD: for good", "LATER: x", "OTHER"] {
        submit(&server, &format!("TASK backoff=1h: {task}"));
    }
    let (sender, sent) = mpsc::channel();
    let worker = Library::new(server.address.to_string())
        .drain_ready()
        .on("SEND", move |job| sender.send((job.id().0, job.args().into_owned())).unwrap())
        .on("FAIL", |job| -> Result<(), String> { Err(job.args().into()) })
        .on("PANIC", |job| -> () { panic!("{}", job.args()) })
        .on("DEAD", |job| Outcome::dead(job.args()))
        .on("LATER", |_| Outcome::Return { delay: Duration::from_secs(3600) });
    let summary = worker.run().unwrap();
    assert_eq!(summary.to_string(), "1 done, 3 failed, 1 dead, 1 returned, 0 lost");
    assert_eq!(sent.recv().unwrap(), (1, "9".into()));
    let reasons: Vec<Value> = (2..=6).map(|id| job(&server, id)["reason"].clone()).collect();
    let expected: [Value; 5] = [
        "no such user".into(),
        "panicked: oh".into(),
        "for good".into(),
        Value::Null,
        "this worker has no handler for OTHER".into(),
    ];
    assert_eq!(reasons, expected);
    assert_eq!((counts(&job(&server, 5)), &job(&server, 5)["state"]), ([0, 0, 1], &"delayed".into()));
}

#[test]
fn closure_sees_that_its_job_is_cancelled() {
    let server = server();
    submit(&server, "TASK: A");
    let (sender, started) = mpsc::channel();
    let worker = Library::new(server.address.to_string()).on("A", move |job: &WorkerJob| {
        sender.send(()).unwrap();
        assert!(job.wait_cancelled(PATIENCE) && job.cancelled());
        Err::<(), _>("interrupted")
    });
    let control = worker.control();
    let ended = run(worker);
    started.recv_timeout(PATIENCE).unwrap();
    assert!(!control.is_stopping());
    control.stop_at_once();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap().returned, 1);
    assert_eq!(counts(&job(&server, 1)), [0, 0, 1]);
}

#[test]
fn closure_that_does_not_end_is_abandoned() {
    let server = server();
    submit(&server, "TASK: A");
    let (sender, started) = mpsc::channel();
    let (_never, waits) = crossbeam_channel::bounded::<()>(1);
    let worker = Library::new(server.address.to_string()).on("A", move |_| {
        sender.send(()).unwrap();
        let _ = waits.recv();
    });
    let control = worker.control();
    let ended = run(worker);
    started.recv_timeout(PATIENCE).unwrap();
    control.stop_at_once();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap().returned, 1);
    assert_eq!(counts(&job(&server, 1)), [0, 0, 1]);
}

#[test]
fn stopping_as_a_job_arrives_charges_no_attempt() {
    let server = server();
    let mut client = server.connect();
    let mut done = 0;
    for round in 0..40 {
        let worker = Library::new(server.address.to_string()).concurrency(2).on("A", |_| ());
        let control = worker.control();
        let ended = run(worker);
        until("a waiting connection", || waiting(&server) != 0);
        client.send("TASK: A\n");
        match round % 3 {
            0 => {}
            1 => thread::yield_now(),
            _ => drop(client.line()),
        }
        control.stop();
        if round % 3 != 2 {
            client.line().unwrap();
        }
        let summary = ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!((summary.failed, summary.dead, summary.lost), (0, 0, 0), "round {round}: {summary}");
        done += summary.done;
    }
    assert_eq!(server.stat("acked_total"), done.to_string());
    let left = server.connect().ask_lines("LIST queue=default limit=1000");
    assert_eq!(done + left.len() as u64, 40);
    for line in left {
        let job: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(counts(&job)[..2], [0, 0], "{job}");
    }
}
