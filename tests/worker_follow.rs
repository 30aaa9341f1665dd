//! What a worker does for those who follow a job: results, cancelled jobs, orders, leases that outlive a
//! connection, and progress. Real server, real worker program.

use common::worker::{Pipes, Worker, counts, job, runs, submit};
use common::{Server, until};
use djqs::worker::{Outcome, Worker as Library};
use djqs::{Client, job::Finished, protocol::Wait};

mod common;

fn server() -> Server {
    Server::start(&[])
}

/// The result of a kept job; nothing if it has none.
fn result(server: &Server, id: u64) -> Vec<u8> {
    let mut client = Client::connect(&server.address.to_string()).unwrap();
    match client.wait(djqs::JobId(id), Wait::Forever).unwrap() {
        Some(Finished::Done { result, .. }) => result.map(|result| result.to_vec()).unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

// Results.

#[test]
fn stdout_is_the_result_if_that_is_wanted() {
    let server = server();
    (1..=2).for_each(|_| submit(&server, "TASK keep=1h len=5:\na\0b\nc"));
    let by_default = Worker::command(&server.address.to_string(), &["--once"], &["cat"]).output().unwrap();
    assert_eq!(by_default.stdout, b"a\0b\nc");
    let flags = ["--once", "--result", "stdout", "--tag", "--group"];
    let captured = Worker::command(&server.address.to_string(), &flags, &["cat"]).output().unwrap();
    assert_eq!(captured.stdout, b"");
    assert_eq!((result(&server, 1), result(&server, 2)), (Vec::new(), b"a\0b\nc".to_vec()));
}

#[test]
fn long_result_is_cut_and_the_command_not_held_up() {
    let server = server();
    submit(&server, "TASK keep=1h: x");
    let script = "head -c 1000000 /dev/zero; echo >&2 all written";
    let mut worker = Worker::start(&server, &["--once", "--result", "stdout"], &["sh", "-c", script]);
    worker.says("job 1 writes more than 65535 bytes: its result is cut");
    worker.ended_well();
    assert_eq!(result(&server, 1), vec![0; 65535]);
}

#[test]
fn job_whose_result_the_server_does_not_take_is_done_without_it() {
    let server = Server::start(&["-z", "10"]);
    submit(&server, "TASK keep=1h: x");
    let mut worker = Worker::start(&server, &["--once", "--result", "stdout"], &["echo", "more than ten"]);
    worker.says("job 1 is done without its result, which is too long for the server");
    worker.ended_well();
    assert_eq!(result(&server, 1), b"");
}

#[test]
fn failed_command_has_a_reason_and_no_result() {
    let server = server();
    submit(&server, "TASK keep=1h attempts=1: x");
    let script = "echo out; echo err >&2; exit 1";
    let mut worker = Worker::start(&server, &["--once", "--result", "stdout"], &["sh", "-c", script]);
    worker.ended_with(1);
    assert_eq!(job(&server, 1)["reason"], "exit 1: err");
}

#[test]
fn closures_return_results() {
    let server = server();
    for task in ["TEXT: a", "BYTES: b", "NONE: c", "OUTCOME: d"] {
        submit(&server, &format!("TASK keep=1h: {task}"));
    }
    let worker = Library::new(server.address.to_string())
        .drain_ready()
        .on("TEXT", |job| Ok::<_, String>(job.args().to_uppercase()))
        .on("BYTES", |job| Ok::<_, String>(job.body().to_vec()))
        .on("NONE", |_| Ok::<(), String>(()))
        .on("OUTCOME", |job| Outcome::done_with(job.task().into_owned()));
    assert_eq!(worker.run().unwrap().done, 4);
    let results: Vec<_> = (1..=4).map(|id| result(&server, id)).collect();
    assert_eq!(results, ["A", "BYTES: b", "", "OUTCOME"].map(str::as_bytes));
}

// Jobs that are cancelled.

/// A shell that starts a second process, says through `$1` which they are, and then ignores TERM or not.
const TWO: &str = "sleep 1000 & echo $$ $! > \"$1\"; wait";
const TWO_THAT_IGNORE_TERM: &str = "trap '' TERM; sleep 1000 & echo $$ $! > \"$1\"; while :; do wait; done";

#[test]
fn cancelled_job_ends_its_whole_process_group() {
    let server = server();
    for script in [TWO, TWO_THAT_IGNORE_TERM] {
        let pipes = Pipes::new(&["pids"]);
        submit(&server, "TASK ttr=600ms: x");
        let flags = ["--once", "--kill-after", "200ms"];
        let mut worker = Worker::start(&server, &flags, &["sh", "-c", script, "sh", &pipes.arg("pids")]);
        let pids = pipes.read("pids");
        assert!(pids.split_whitespace().all(runs), "{pids}");
        let id = job_id(&worker.says("started job"));
        assert_eq!(server.connect().ask(&format!("CANCEL {id}: no use")), "OK state=leased");
        until("the end of the group", || !pids.split_whitespace().any(runs));
        worker.says(&format!("job {id} was cancelled, ending its run"));
        worker.says("outcome=cancelled");
        // Neither a failure nor a reason to exit with 1.
        worker.ended_well();
        assert_eq!(worker.said("1 cancelled, 0 lost"), 1, "{:#?}", worker.seen);
        let cancelled = job(&server, id);
        assert_eq!((cancelled["state"].as_str(), counts(&cancelled)), (Some("cancelled"), [0, 0, 0]));
    }
}

/// The id in a line of the log.
fn job_id(line: &str) -> u64 {
    line.split("job ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
}

#[test]
fn cancelled_job_gets_term_first() {
    let server = server();
    let pipes = Pipes::new(&["ready", "out"]);
    submit(&server, "TASK ttr=600ms: x");
    let script =
        "trap 'echo cleaned up > \"$2\"; exit 3' TERM; echo ready > \"$1\"; while :; do sleep 0.1; done";
    let command = ["sh", "-c", script, "sh", &pipes.arg("ready"), &pipes.arg("out")];
    let mut worker = Worker::start(&server, &["--once", "--kill-after", "1h"], &command);
    pipes.read("ready");
    assert_eq!(server.connect().ask("CANCEL 1"), "OK state=leased");
    assert_eq!(pipes.read("out"), "cleaned up\n");
    worker.ended_well();
}
