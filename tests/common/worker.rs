//! A running worker program, and how tests and its commands wait for each other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, Server, aside};

/// A running worker process; killed when dropped.
pub(crate) struct Worker {
    pub(crate) child: Child,
    log: Receiver<String>,
    /// The lines of the log so far.
    pub(crate) seen: Vec<String>,
}

impl Worker {
    /// Starts a worker with these flags and, behind `--`, this command.
    pub(crate) fn start(server: &Server, flags: &[&str], command: &[&str]) -> Worker {
        Worker::of(Worker::command(&server.address.to_string(), flags, command).stdout(Stdio::null()))
    }

    /// Starts a worker whose command says through the pipe `pid` which process it is, and then waits for
    /// `go`.
    pub(crate) fn that_waits(server: &Server, flags: &[&str], pipes: &Pipes) -> Worker {
        Worker::start(server, flags, &["sh", "-c", WAITS, "sh", &pipes.arg("pid"), &pipes.arg("go")])
    }

    /// Starts a worker as a shell at a terminal does: it gets HUP and QUIT even if this test was started with
    /// them ignored, as under nohup.
    pub(crate) fn at_a_terminal(server: &Server, flags: &[&str], command: &[&str]) -> Worker {
        let worker = Worker::command(&server.address.to_string(), flags, command);
        let mut at_a_terminal = Command::new("env");
        at_a_terminal.arg("--default-signal=HUP,QUIT").arg(worker.get_program()).args(worker.get_args());
        Worker::of(at_a_terminal.env_remove("RUST_LOG").stdout(Stdio::null()))
    }

    pub(crate) fn command(server: &str, flags: &[&str], command: &[&str]) -> Command {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_worker"));
        worker.env_remove("RUST_LOG").args(["-s", server]).args(flags);
        if !command.is_empty() {
            worker.arg("--").args(command);
        }
        worker
    }

    pub(crate) fn of(command: &mut Command) -> Worker {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the worker starts");
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Worker { child, log, seen: Vec::new() }
    }

    /// Waits for the next line of the log that has this in it.
    pub(crate) fn says(&mut self, what: &str) -> String {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no {what:?}: {error} after {:#?}", self.seen),
            }
            if let Some(line) = self.seen.last().filter(|line| line.contains(what)) {
                return line.clone();
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of the log and of the process.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", self.seen),
            }
        }
    }

    /// Waits for the end, which must be a good one.
    pub(crate) fn ended_well(&mut self) {
        self.ended_with(0);
    }

    pub(crate) fn ended_with(&mut self, code: i32) {
        let status = self.ended();
        assert_eq!(status.code(), Some(code), "{:#?}", self.seen);
    }

    pub(crate) fn said(&self, what: &str) -> usize {
        self.seen.iter().filter(|line| line.contains(what)).count()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with named pipes in it, by which programs and the test wait for each other.
pub(crate) struct Pipes(TempDir);

impl Pipes {
    pub(crate) fn new(names: &[&str]) -> Pipes {
        let pipes = Pipes(TempDir::new().unwrap());
        for name in names {
            assert!(Command::new("mkfifo").arg(pipes.path(name)).status().unwrap().success());
        }
        pipes
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().into()
    }

    /// Waits for a program to write to the pipe and close it; returns what it wrote.
    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        let text = aside(move || fs::read_to_string(path).unwrap());
        text.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nobody writes to {name}"))
    }

    /// Waits for a program to read from the pipe.
    pub(crate) fn write(&self, name: &str) {
        let path = self.path(name);
        let done = aside(move || fs::write(path, "go\n").unwrap());
        done.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nobody reads from {name}"));
    }
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(crate) fn runs(process: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(process.trim()).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A script that says, through the pipe `$1`, which process it is, and then waits for the pipe `$2`.
pub(crate) const WAITS: &str = "echo $$ > \"$1\"; read line < \"$2\"";

pub(crate) fn submit(server: &Server, task: &str) {
    let answer = server.connect().ask(task);
    assert!(answer.starts_with("ACK "), "{task:?} was answered {answer:?}");
}

/// What LIST has to say of a job; null if there is no such job.
pub(crate) fn job(server: &Server, id: u64) -> Value {
    let after = if id > 1 { format!(" after={}", id - 1) } else { String::new() };
    let lines = server.connect().ask_lines(&format!("LIST queue=default limit=1{after}"));
    let found = lines.first().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    if found["id"] == id { found } else { Value::Null }
}

/// A job's failures, crashes and returns.
pub(crate) fn counts(job: &Value) -> [u64; 3] {
    ["failures", "crashes", "returns"].map(|name| job[name].as_u64().unwrap_or_else(|| panic!("{job}")))
}
