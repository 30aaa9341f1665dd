//! What a worker does for those who follow a job: results, cancelled jobs, orders, leases that outlive a
//! connection, and progress. Real server, real worker program.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use common::worker::{Pipes, WAITS, Worker, counts, job, runs, submit};
use common::{PATIENCE, Server, aside, until};
use djqs::worker::{Outcome, Worker as Library};
use djqs::{Client, job::Finished, protocol::Wait};
use serde_json::Value;

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
        submit(&server, "TASK ttr=1h: x");
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
    submit(&server, "TASK ttr=1h: x");
    let script =
        "trap 'echo cleaned up > \"$2\"; exit 3' TERM; echo ready > \"$1\"; while :; do sleep 0.1; done";
    let command = ["sh", "-c", script, "sh", &pipes.arg("ready"), &pipes.arg("out")];
    let mut worker = Worker::start(&server, &["--once", "--kill-after", "1h"], &command);
    pipes.read("ready");
    assert_eq!(server.connect().ask("CANCEL 1"), "OK state=leased");
    assert_eq!(pipes.read("out"), "cleaned up\n");
    worker.ended_well();
}

// Orders.

/// What WORKERS says of the only worker.
fn worker_shown(server: &Server) -> Value {
    let lines = server.connect().ask_lines("WORKERS");
    lines.first().map_or(Value::Null, |line| serde_json::from_str(line).unwrap())
}

#[test]
fn worker_introduces_itself_and_obeys() {
    let server = server();
    let pipes = Pipes::new(&["pid", "go"]);
    let mut worker = Worker::that_waits(&server, &["--name", "w1"], &pipes);
    submit(&server, "TASK attempts=1: x");
    pipes.read("pid");
    until("the job and orders have a connection", || worker_shown(&server)["connections"] == 2);
    let shown = worker_shown(&server);
    assert_eq!(
        (&shown["name"], &shown["slots"], &shown["held"]),
        (&"w1".into(), &1.into(), &1.into()),
        "{shown}"
    );
    assert_eq!(shown["pid"], worker.child.id());
    let mut operator = server.connect();
    assert_eq!(operator.ask("QUIET worker=w1"), "OK count=1");
    worker.says("paused: finishing what runs, fetching nothing");
    submit(&server, "TASK: y");
    pipes.write("go");
    worker.says("ended job 1");
    assert_eq!(job(&server, 2)["state"], "ready");
    assert_eq!(operator.ask("RESUME worker=w1"), "OK count=1");
    worker.says("resumed");
    worker.says("started job 2");
    pipes.read("pid");
    assert_eq!(operator.ask("STOP worker=w1"), "OK count=1");
    worker.says("stopping: finishing what runs");
    pipes.write("go");
    worker.ended_well();
    assert_eq!(server.stat("acked_total"), "2");
}

#[test]
fn worker_that_is_told_to_stop_exits_with_0_however_its_jobs_ended() {
    let server = server();
    submit(&server, "TASK backoff=1h: x");
    let mut worker = Worker::start(&server, &["--name", "w1"], &["false"]);
    worker.says("outcome=failed");
    until("its name is known", || worker_shown(&server)["name"] == "w1");
    assert_eq!(server.connect().ask("STOP worker=w1"), "OK count=1");
    worker.ended_well();
}

// Renewal, and leases that outlive their connection.

/// How many of these commands the server has received.
fn commands(server: &Server, verb: &str) -> u64 {
    let lines = server.connect().ask_lines("STATS");
    let found = lines.iter().find_map(|line| line.strip_prefix(&format!("{verb}: ")));
    found.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn one_connection_renews_the_leases_of_all_jobs() {
    let server = server();
    (0..20).for_each(|_| submit(&server, "TASK ttr=1s: x"));
    let (sender, started) = std::sync::mpsc::channel();
    let (go, gone) = crossbeam_channel::bounded::<()>(0);
    let worker =
        Library::new(server.address.to_string()).concurrency(20).stop_after(20).otherwise(move |_| {
            sender.send(()).unwrap();
            let _ = gone.recv();
        });
    let ended = aside(move || worker.run().unwrap());
    (0..20).for_each(|_| started.recv_timeout(PATIENCE).unwrap());
    // If a lease lapsed, this connection would get the job.
    assert_eq!(server.connect().ask("GET wait=3s"), "EMPTY");
    assert_eq!(worker_shown(&server)["connections"], 22, "one for each job, for renewals and for orders");
    drop(go);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap().done, 20);
}

/// Passes connections on to a server, until they are cut.
struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<ProxyState>>,
}

#[derive(Default)]
struct ProxyState {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = proxy.state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = state.lock().unwrap();
                if state.is_cut {
                    continue;
                }
                let upstream = TcpStream::connect(server).unwrap();
                for (from, to) in [(&client, &upstream), (&upstream, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                state.open.extend([client, upstream]);
            }
        });
        proxy
    }

    /// Closes all connections, and new ones too until [`Proxy::mend`].
    fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

#[test]
fn jobs_run_on_while_their_connection_is_cut_for_less_than_resume() {
    let server = server();
    let proxy = Proxy::to(server.address);
    let directory = tempfile::TempDir::new().unwrap();
    let [ran, go] = ["ran", "go"].map(|name| directory.path().join(name));
    (0..3).for_each(|n| submit(&server, &format!("TASK ttr=10m: job {n}")));
    let script = "echo $DJQS_JOB_ID $$ >> \"$1\"; while ! [ -e \"$2\" ]; do sleep 0.05; done";
    let command = ["sh", "-c", script, "sh", ran.to_str().unwrap(), go.to_str().unwrap()];
    let flags = ["-c", "3", "-n", "3", "--resume", "5m"];
    let mut worker = Worker::of(&mut Worker::command(&proxy.address.to_string(), &flags, &command));
    let lines = || -> Vec<String> {
        std::fs::read_to_string(&ran).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    until("all run", || lines().len() == 3);
    for _ in 0..2 {
        proxy.cut();
        worker.says("no connection");
        until("the server sees it", || worker_shown(&server)["connections"] == 0);
        proxy.mend();
        worker.says("again");
        until("all connections are made again", || worker_shown(&server)["connections"] == 5);
    }
    // They end while the connection is cut: the reports wait for it.
    proxy.cut();
    std::fs::write(&go, "").unwrap();
    until("the end of the commands", || !lines().iter().any(|line| runs(line.split(' ').nth(1).unwrap())));
    proxy.mend();
    worker.ended_well();
    let mut ran: Vec<_> =
        lines().into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    ran.sort();
    assert_eq!(ran, ["1", "2", "3"], "each ran once");
    for (name, count) in
        [("acked_total", 3), ("crashed_total", 0), ("returned_total", 0), ("leased_total", 3)]
    {
        assert_eq!(commands(&server, name), count, "{name}");
    }
}

#[test]
fn jobs_of_a_connection_that_is_cut_for_longer_than_resume_go_to_another_worker() {
    let server = server();
    let proxy = Proxy::to(server.address);
    let pipes = Pipes::new(&["pid", "go"]);
    submit(&server, "TASK ttr=10m: x");
    let command = ["sh", "-c", WAITS, "sh", &pipes.arg("pid"), &pipes.arg("go")];
    let flags = ["--resume", "300ms"];
    let mut worker = Worker::of(&mut Worker::command(&proxy.address.to_string(), &flags, &command));
    let pid = pipes.read("pid");
    proxy.cut();
    let mut second = server.connect();
    assert!(second.ask("GET").starts_with("JOB 1 queue=default attempt=2 "));
    worker.says("lost the lease of job 1");
    until("the end of the command", || !runs(&pid));
    assert_eq!(counts(&job(&server, 1))[1], 1, "it counts as crashed");
}
