//! Supervises a program that runs for a job: writes the body to its stdin, has its output read, and ends it
//! with everything that it started.
//!
//! The program leads a process group, and signals go to the whole group. They don't reach a process that
//! leaves the group, such as a daemon that calls `setsid`. The leader is reaped after the last signal to the
//! group, so that no other process can have its id.

use std::io::{self, Write};
use std::process::{Child, ChildStdin, ExitStatus};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};
use log::debug;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::job::WorkerJob;
use super::output::{Form, Stderr, Stdout, Stream, Target, spawn, write_held};

/// After the worker's grace period, KILL follows TERM within this time, because the worker itself should end
/// soon after its grace period. (Kubernetes gives 30 s; the default grace period is 25 s.)
pub(super) const STOP_KILL_AFTER_MAX: Duration = Duration::from_secs(3);

/// A pipe accepts this much without blocking, even with the smallest buffer that the system uses.
const PIPE_BYTES_MIN: usize = 4096;

/// How long a program may run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) timeout: Option<Duration>,
    pub(super) kill_after: Duration,
}

/// Why a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It exited.
    Exited,
    /// It ran for too long.
    TimedOut,
    /// Its job was cancelled.
    Cancelled,
}

/// A program that runs for a job.
pub(super) struct Process {
    child: Child,
    group: Pid,
    exited: Receiver<()>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

impl Process {
    /// Supervises a child that leads its own process group and has pipes to stdin and from stderr, and
    /// perhaps from stdout. Kills it if the threads for it can't be started.
    pub(super) fn watch(child: Child, job: &WorkerJob, output: Form) -> io::Result<Process> {
        let group = Pid::from_child(&child);
        let mut process = Process { child, group, exited: never(), stdout: None, stderr: None };
        if let Err(error) = process.start_threads(job, output) {
            signal(group, Signal::KILL);
            process.child.wait()?;
            return Err(error);
        }
        Ok(process)
    }

    fn start_threads(&mut self, job: &WorkerJob, output: Form) -> io::Result<()> {
        if let Some(stdout) = self.child.stdout.take() {
            let target = match output.stdout {
                Stdout::PassOn => Target::Stdout,
                Stdout::Result => Target::Result(job.id().0),
            };
            self.stdout = Some(Stream::read(stdout, target, output, job)?);
        }
        if let Some(stderr) = self.child.stderr.take() {
            let target = match output.stderr {
                Stderr::PassOn => Target::Stderr,
                Stderr::Log => Target::Log(job.id().0),
            };
            self.stderr = Some(Stream::read(stderr, target, output, job)?);
        }
        let leader = self.group;
        self.exited = spawn("exit", move || wait_for_exit(leader))?;
        match self.child.stdin.take() {
            Some(stdin) => feed(stdin, job),
            None => Ok(()),
        }
    }

    /// Waits until the program has ended. Ends it if it runs for too long or the job is cancelled.
    pub(super) fn supervise(&mut self, job: &WorkerJob, limits: Limits) -> io::Result<(Cause, ExitStatus)> {
        let timeout = limits.timeout.map_or_else(never, after);
        let cause = select! {
            recv(self.exited) -> _ => Cause::Exited,
            recv(job.at_once()) -> _ => Cause::Cancelled,
            recv(job.gently()) -> _ => {
                let kill_after = match job.is_called_off() {
                    true => limits.kill_after,
                    false => limits.kill_after.min(STOP_KILL_AFTER_MAX),
                };
                self.end(job, kill_after);
                Cause::Cancelled
            }
            recv(timeout) -> _ => {
                self.end(job, limits.kill_after);
                Cause::TimedOut
            }
        };
        if cause != Cause::Exited {
            signal(self.group, Signal::KILL);
        }
        self.streams().for_each(|stream| stream.wait(job));
        write_held(self.streams());
        Ok((cause, self.child.wait()?))
    }

    /// Sends TERM. Waits, for at most `kill_after`, until the program has ended and no process has its stderr
    /// open.
    fn end(&self, job: &WorkerJob, kill_after: Duration) {
        signal(self.group, Signal::TERM);
        // A stopped group would not get the TERM.
        signal(self.group, Signal::CONT);
        let patience = after(kill_after);
        let stderr_closed = self.stderr.as_ref().map(Stream::closed);
        for ended in [Some(&self.exited), stderr_closed].into_iter().flatten() {
            select! {
                recv(ended) -> _ => {}
                recv(job.at_once()) -> _ => return,
                recv(patience) -> _ => return,
            }
        }
    }

    /// What it wrote to stdout, if that is the job's result.
    pub(super) fn take_result(&self) -> Vec<u8> {
        self.stdout.as_ref().map(Stream::take_result).unwrap_or_default()
    }

    /// The last lines that it wrote to stderr, as text.
    pub(super) fn last_lines(&self) -> String {
        self.stderr.as_ref().map(Stream::last_lines).unwrap_or_default()
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.stdout.iter().chain(&self.stderr)
    }
}

/// Waits until the group's leader has exited. Does not reap it.
fn wait_for_exit(leader: Pid) {
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {}
}

/// Writes the body and closes the pipe. Starts a thread if writing might block.
fn feed(mut stdin: ChildStdin, job: &WorkerJob) -> io::Result<()> {
    let body = job.shared_body();
    // A program need not read its input. (std has SIGPIPE ignored.)
    if body.len() <= PIPE_BYTES_MIN {
        let _ = stdin.write_all(&body);
        return Ok(());
    }
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let _ = stdin.write_all(&body);
    })?;
    Ok(())
}

fn signal(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        // EPERM: it runs as another user now (sudo, a setuid program), and keeps running.
        debug!("signal {} to process group {group:?}: {error}", signal.as_raw());
    }
}
