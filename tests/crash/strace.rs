//! Faults put into single system calls of one thread, by strace's fault injection; see strace(1),
//! "Tampering".
//!
//! strace counts calls by thread. So one thread at a time is traced, and its n-th call hit: that reaches
//! every call of every thread, where tracing all of them would only ever reach the first of each number.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Server, until};

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed as it enters it.
    Kill,
    /// It does nothing, and fails with EIO.
    Eio,
    /// It does nothing, and fails with ENOSPC.
    Enospc,
}

impl Fault {
    pub(crate) const ALL: [Fault; 3] = [Fault::Kill, Fault::Eio, Fault::Enospc];

    fn expression(self) -> &'static str {
        match self {
            Fault::Kill => "signal=SIGKILL",
            Fault::Eio => "error=EIO",
            Fault::Enospc => "error=ENOSPC",
        }
    }
}

/// Which calls are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    /// As strace names it: a name, or `/` and a part of it.
    pub(crate) syscall: &'static str,
    pub(crate) fault: Fault,
    /// The first that is hit.
    pub(crate) number: u64,
    /// Whether all that follow are hit as well.
    pub(crate) for_good: bool,
}

impl Injection {
    fn strace(self, log: &Path) -> Process {
        let Injection { syscall, fault, number, for_good } = self;
        let mut strace = strace(&[syscall], log);
        let when = format!("{number}{}", if for_good { "+" } else { "" });
        strace.args(["-e", &format!("inject={syscall}:{}:when={when}", fault.expression())]);
        strace
    }

    /// A program that runs the server behind it, its main thread traced. The process is the server itself.
    pub(crate) fn around(self, log: &Path) -> Process {
        let mut strace = self.strace(log);
        strace.arg("-D");
        strace
    }
}

/// strace, ready to be told whom to trace. What is sent to clients is always traced.
fn strace(syscalls: &[&str], log: &Path) -> Process {
    let mut strace = Process::new("strace");
    strace.args(["-ttt", "-s", "40", "-e", "signal=none"]);
    strace.args(["-e", &format!("trace={},sendto", syscalls.join(","))]).arg("-o").arg(log);
    strace
}

/// A running strace, with what it has written. It detaches from the thread when it is dropped.
#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
    thread: u32,
    log: PathBuf,
}

impl Strace {
    /// Attaches to a thread that runs already; returns once it has.
    pub(crate) fn attach(thread: u32, injection: Injection, log: &Path) -> Strace {
        Strace::run(thread, injection.strace(log), log)
    }

    /// The same, to look only.
    pub(crate) fn watch(thread: u32, syscalls: &[&str], log: &Path) -> Strace {
        Strace::run(thread, strace(syscalls, log), log)
    }

    fn run(thread: u32, mut strace: Process, log: &Path) -> Strace {
        strace.args(["-p", &thread.to_string()]);
        let child = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("strace is there");
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = said.next().expect("strace says that it has attached");
        assert!(line.ends_with("attached"), "strace: {line}");
        // What else it says goes nowhere, and must not make it wait.
        std::thread::spawn(move || said.count());
        Strace { child, thread, log: log.to_owned() }
    }

    pub(crate) fn log(&self) -> Log {
        Log::read(&self.log)
    }

    /// Detaches while the thread sleeps: within a call that is hit, the thread would see it fail in a way
    /// that no system has.
    pub(crate) fn let_go(self) {
        until("it sleeps", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.thread)).unwrap();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
        });
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What strace has written.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Vec<String>,
}

impl Log {
    pub(crate) fn read(path: &Path) -> Log {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Log { lines: text.lines().map(str::to_owned).collect() }
    }

    /// When the first call was hit, in milliseconds on the wall clock; `None` where none was. A call that was
    /// hit by a signal is not marked.
    pub(crate) fn hit_at(&self) -> Option<u64> {
        self.lines.iter().find(|line| line.contains("(INJECTED)")).map(|line| Log::millis(line))
    }

    /// Whether the process was killed.
    pub(crate) fn was_killed(&self) -> bool {
        self.lines.iter().any(|line| line.contains("+++ killed by SIGKILL +++"))
    }

    fn millis(line: &str) -> u64 {
        // A thread's number stands in front where there are several.
        let stamp = line.split_whitespace().find(|word| word.contains('.')).unwrap();
        let (seconds, micros) = stamp.split_once('.').unwrap();
        seconds.parse::<u64>().unwrap() * 1000 + micros.parse::<u64>().unwrap() / 1000
    }

    /// What the thread sent after the first call that was hit.
    pub(crate) fn sent_after_hit(&self) -> impl Iterator<Item = &str> {
        let after = self.lines.iter().skip_while(|line| !line.contains("(INJECTED)"));
        after.filter(|line| line.contains("sendto(")).map(String::as_str)
    }

    /// The names of the calls, in order.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| {
            let head = line.split('(').next()?;
            head.split_whitespace().last()
        })
    }
}

/// The server's one thread of this name; waits until it has it.
pub(crate) fn thread(server: &Server, name: &str) -> u32 {
    let mut found = Vec::new();
    until(name, || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
        let tasks = tasks.map(|task| task.unwrap().path());
        let named = |task: &PathBuf| {
            // It may have ended meanwhile.
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        found = tasks.filter(named).collect();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "threads named {name}");
    found[0].file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Why strace can't be used here, if it can't: it is not installed, or may not attach.
pub(crate) fn unusable() -> Option<String> {
    let victim = Process::new("sleep").arg("60").spawn();
    let mut victim = match victim {
        Ok(victim) => victim,
        Err(e) => return Some(format!("sleep: {e}")),
    };
    let strace = Process::new("strace")
        .args(["-o", "/dev/null", "-p", &victim.id().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let why = match strace {
        Err(e) => Some(format!("strace: {e}")),
        Ok(mut strace) => {
            let mut line = String::new();
            let _ = BufReader::new(strace.stderr.take().unwrap()).read_line(&mut line);
            let _ = kill_process(Pid::from_child(&strace), Signal::TERM);
            let _ = strace.wait();
            (!line.trim_end().ends_with("attached")).then_some(line)
        }
    };
    let _ = victim.kill();
    let _ = victim.wait();
    why
}
