//! Supervises a program that runs for a job: writes the body to its stdin, reads its stderr, and ends it with
//! everything that it started.
//!
//! The program leads a process group, and signals go to the whole group. They don't reach a process that leaves
//! the group, such as a daemon that calls `setsid`. The leader is reaped after the last signal to the group, so
//! that no other process can have its id.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, bounded, never, select};
use log::{debug, info};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::job::WorkerJob;
use super::printable::printable;

/// After the worker's grace period, KILL follows TERM within this time, because the worker itself should end
/// soon after its grace period. (Kubernetes gives 30 s; the default grace period is 25 s.)
pub(super) const STOP_KILL_AFTER_MAX: Duration = Duration::from_secs(3);

/// How long to wait for the end of stderr after the program has exited. A process that it started may keep the
/// pipe open for days.
const STDERR_PATIENCE: Duration = Duration::from_millis(100);

/// How many bytes of stderr are kept for the reason of a failure.
const TAIL_BYTES_MAX: usize = 1000;

/// How many lines of stderr are kept.
const TAIL_LINES_MAX: usize = 20;

/// The most of stderr that is passed on at once.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// A pipe accepts this much without blocking, even with the smallest buffer that the system uses.
const PIPE_BYTES_MIN: usize = 4096;

/// Where a program's stderr goes. Its last lines are also the reason of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stderr {
    /// To this process's stderr, line by line.
    PassOn,
    /// Each line becomes a line of the log.
    Log,
}

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
    stderr_closed: Receiver<()>,
    tail: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Supervises a child that leads its own process group and has pipes to stdin and from stderr. Kills it if the
    /// threads for it can't be started.
    pub(super) fn watch(child: Child, job: &WorkerJob, stderr: Stderr) -> io::Result<Process> {
        let group = Pid::from_child(&child);
        let tail = Arc::default();
        let mut process = Process { child, group, exited: never(), stderr_closed: never(), tail };
        if let Err(error) = process.start_threads(job, stderr) {
            signal(group, Signal::KILL);
            process.child.wait()?;
            return Err(error);
        }
        Ok(process)
    }

    fn start_threads(&mut self, job: &WorkerJob, to: Stderr) -> io::Result<()> {
        if let Some(stderr) = self.child.stderr.take() {
            let (tail, id) = (self.tail.clone(), job.id().0);
            self.stderr_closed = spawn("stderr", move || pass_on(stderr, &tail, to, id))?;
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
                self.end(job, limits.kill_after.min(STOP_KILL_AFTER_MAX));
                Cause::Cancelled
            }
            recv(timeout) -> _ => {
                self.end(job, limits.kill_after);
                Cause::TimedOut
            }
        };
        if cause == Cause::Exited {
            self.wait_for_stderr();
        } else {
            signal(self.group, Signal::KILL);
        }
        Ok((cause, self.child.wait()?))
    }

    /// Sends TERM. Waits, for at most `kill_after`, until the program has ended and no process has its stderr open.
    fn end(&self, job: &WorkerJob, kill_after: Duration) {
        signal(self.group, Signal::TERM);
        // A stopped group would not get the TERM.
        signal(self.group, Signal::CONT);
        let patience = after(kill_after);
        for ended in [&self.exited, &self.stderr_closed] {
            select! {
                recv(ended) -> _ => {}
                recv(job.at_once()) -> _ => return,
                recv(patience) -> _ => return,
            }
        }
    }

    fn wait_for_stderr(&self) {
        select! {
            recv(self.stderr_closed) -> _ => {}
            default(STDERR_PATIENCE) => debug!("stderr stays open after the program has exited"),
        }
    }

    /// The last lines that it wrote to stderr, as text.
    pub(super) fn last_lines(&self) -> String {
        last_lines(&self.tail.lock())
    }
}

/// Starts a thread. The channel is closed when the thread has ended.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Receiver<()>> {
    let (running, ended) = bounded(1);
    thread::Builder::new().name(name.into()).spawn(move || {
        run();
        drop::<crossbeam_channel::Sender<()>>(running);
    })?;
    Ok(ended)
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

/// Passes on stderr line by line until every writer has closed it, and keeps its tail.
fn pass_on(stderr: ChildStderr, tail: &Mutex<Vec<u8>>, to: Stderr, id: u64) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        keep_tail(&mut tail.lock(), &line);
        match to {
            // A worker continues if nobody reads its stderr.
            Stderr::PassOn => drop(io::stderr().lock().write_all(&line)),
            Stderr::Log => log_line(id, &line),
        }
    }
}

fn log_line(id: u64, line: &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    info!(event = "stderr", id = id, line:% = String::from_utf8_lossy(line);
        "job {id} says: {}", printable(line));
}

fn keep_tail(tail: &mut Vec<u8>, line: &[u8]) {
    tail.extend_from_slice(line);
    let excess = tail.len().saturating_sub(TAIL_BYTES_MAX);
    tail.drain(..excess);
}

/// The last lines of a tail: whole ones, if there is more than one.
fn last_lines(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let text = text.trim_end();
    let text = match text.split_once('\n') {
        Some((_, whole)) if tail.len() >= TAIL_BYTES_MAX => whole,
        _ => text,
    };
    let lines = text.rmatch_indices('\n').nth(TAIL_LINES_MAX - 1).map_or(0, |(at, _)| at + 1);
    // U+FFFD is longer than the byte that it replaces.
    let bytes = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES_MAX));
    text[lines.max(bytes)..].to_owned()
}

fn signal(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        // EPERM: it runs as another user now (sudo, a setuid program), and keeps running.
        debug!("signal {} to process group {group:?}: {error}", signal.as_raw());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_last_whole_lines() {
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(b"one\ntwo\n\n"), "one\ntwo");
        assert_eq!(last_lines(b"bad \xff\n"), "bad \u{fffd}");
        let mut tail = Vec::new();
        (1..=300).for_each(|n| keep_tail(&mut tail, format!("line {n}\n").as_bytes()));
        assert_eq!(tail.len(), TAIL_BYTES_MAX);
        let lines = last_lines(&tail);
        assert_eq!(lines.lines().count(), TAIL_LINES_MAX);
        assert!(lines.starts_with("line 281\n") && lines.ends_with("line 300"), "{lines}");
    }

    #[test]
    fn end_of_one_long_line_is_kept() {
        let mut tail = Vec::new();
        keep_tail(&mut tail, &[b'a'; 3000]);
        assert_eq!(last_lines(&tail), "a".repeat(TAIL_BYTES_MAX));
        keep_tail(&mut tail, &[0xff; 999]);
        keep_tail(&mut tail, b"!");
        let text = last_lines(&tail);
        assert!(text.len() <= TAIL_BYTES_MAX && text.ends_with("\u{fffd}!"), "{text}");
    }

    #[test]
    fn half_a_line_is_dropped() {
        let mut tail = Vec::new();
        keep_tail(&mut tail, &[b'a'; 3000]);
        keep_tail(&mut tail, b"\nlast\n");
        assert_eq!(last_lines(&tail), "last");
    }
}
