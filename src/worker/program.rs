//! Starts a program for a job, and turns its exit code into an outcome.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use log::warn;
use rustix::io::Errno;

use super::job::WorkerJob;
use super::outcome::Outcome;
use super::output::Form;
use super::process::{Cause, Limits, Process};
use crate::clock::Clock;
use crate::printable::printable;
use crate::protocol::native::format_duration;

pub use super::output::{Stderr, Stdout};

/// Exit code: another attempt would fail too. (`EX_DATAERR` of sysexits.h.)
const EXIT_DEAD: i32 = 65;

/// Exit code of shells and of `env`: the command can't be run.
const EXIT_CANNOT_RUN: u8 = 126;

/// Exit code of shells and of `env`: there is no such command.
const EXIT_NO_COMMAND: u8 = 127;

/// The delay of a job that could not be started for a temporary reason.
const NOT_NOW_DELAY: Duration = Duration::from_secs(1);

/// The longest task name that is put into the environment.
const TASK_BYTES_MAX: usize = 4096;

/// Runs a program for each job; its exit code is the outcome.
///
/// - The program reads the job's body from stdin. It shares this process's stdout, unless its output is
///   [tagged](Program::tag) or [grouped](Program::group), or is the job's [result](Program::stdout). If it fails, the last lines of its stderr are the
///   reason.
/// - `{id}`, `{queue}`, `{attempt}`, `{task}`, `{args}` and `{body}` are replaced in its arguments, wherever
///   they occur: by the job's id, queue and attempt, its [task name](WorkerJob::task), the
///   [rest](WorkerJob::args) of its body, and the whole body. Other text in braces stays;
///   [`Program::unknown_placeholder`] finds it. No shell is used. The program's name is never replaced: a job
///   can't choose what runs.
/// - Its environment has `DJQS_JOB_ID`, `DJQS_QUEUE`, `DJQS_ATTEMPT`, and `DJQS_TASK` if there is a task name
///   of at most 4096 bytes. With a timeout it has `DJQS_DEADLINE`: when the program will be ended, in seconds
///   since 1970.
/// - It leads a new process group. When it is ended, all processes in the group are ended. When it exits by
///   itself, they keep running.
///
/// | exit | outcome |
/// |---|---|
/// | 0 | [`Outcome::Done`], or [`Outcome::DoneWith`] its stdout: see [`Program::stdout`] |
/// | 65 | [`Outcome::Dead`] |
/// | 75, any other, death by a signal, timeout | [`Outcome::Retry`] after the job's backoff |
/// | 126, 127, no such program, not executable | [`Outcome::Unfit`] |
///
/// ```
/// use std::time::Duration;
/// use djqs::worker::{Outcome, Program, WorkerJob};
/// use djqs::{JobId, Lease};
///
/// let program = Program::new("test", ["{task}", "=", "SEND"]).timeout(Duration::from_secs(5));
/// let job = WorkerJob::new(Lease::new(JobId(7), "SEND: 9"));
/// assert_eq!(program.run(&job), Outcome::Done);
/// ```
#[derive(Debug)]
pub struct Program {
    program: OsString,
    arguments: Vec<Vec<Part>>,
    limits: Limits,
    output: Form,
    clock: Clock,
}

/// A piece of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Placeholder(Placeholder),
}

/// A part of the job that replaces a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Id,
    Queue,
    Attempt,
    Task,
    Args,
    Body,
}

const PLACEHOLDERS: [(&[u8], Placeholder); 6] = [
    (b"{id}", Placeholder::Id),
    (b"{queue}", Placeholder::Queue),
    (b"{attempt}", Placeholder::Attempt),
    (b"{task}", Placeholder::Task),
    (b"{args}", Placeholder::Args),
    (b"{body}", Placeholder::Body),
];

impl Program {
    /// Runs this program with these arguments. A name without a slash is searched for in `PATH`.
    pub fn new<A: AsRef<OsStr>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Program {
        Program {
            program: program.into(),
            arguments: arguments.into_iter().map(|argument| parts(argument.as_ref().as_bytes())).collect(),
            limits: Limits { timeout: None, kill_after: Duration::from_secs(10) },
            output: Form { stdout: Stdout::PassOn, stderr: Stderr::PassOn, tags: false, groups: false },
            clock: Clock::system(),
        }
    }

    /// Sends TERM to the process group after this time. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Program {
        self.limits.timeout = Some(timeout);
        self
    }

    /// Sends KILL to the process group this long after TERM. Default 10 s; at most 3 s when the worker stops.
    pub fn kill_after(mut self, kill_after: Duration) -> Program {
        self.limits.kill_after = kill_after;
        self
    }

    /// Where its stdout goes. Default [`Stdout::PassOn`].
    pub fn stdout(mut self, stdout: Stdout) -> Program {
        self.output.stdout = stdout;
        self
    }

    /// Where its stderr goes. Default [`Stderr::PassOn`].
    pub fn stderr(mut self, stderr: Stderr) -> Program {
        self.output.stderr = stderr;
        self
    }

    /// Begins each line of its output with the job's id, its shortened body, and a TAB. Lines of up to 8 KiB
    /// stay whole. A line of the log has the id anyway.
    pub fn tag(mut self) -> Program {
        self.output.tags = true;
        self
    }

    /// Holds its output until it ends, and then writes it in one piece, first its stdout and then its stderr.
    /// What does not fit into 64 KiB for each is held in a file in `TMPDIR`. Lines of the log are not held.
    pub fn group(mut self) -> Program {
        self.output.groups = true;
        self
    }

    /// Whether the text has a placeholder.
    pub fn has_placeholder(text: &OsStr) -> bool {
        parts(text.as_bytes()).iter().any(|part| matches!(part, Part::Placeholder(_)))
    }

    /// The first `{word}` of letters that is not a placeholder: probably a mistake, such as `{arg}`.
    /// `${word}` is none, because shells have that.
    ///
    /// ```
    /// use djqs::worker::Program;
    ///
    /// assert_eq!(Program::unknown_placeholder("--to={arg}".as_ref()).as_deref(), Some("{arg}"));
    /// assert_eq!(Program::unknown_placeholder("--to={args} {} {a b} ${HOME}".as_ref()), None);
    /// ```
    pub fn unknown_placeholder(text: &OsStr) -> Option<String> {
        let text = text.as_bytes();
        let starts = text.iter().enumerate().filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
        starts.filter(|at| !text[..*at].ends_with(b"$")).find_map(|at| {
            let letters = text[at + 1..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let word = &text[at..at + 1 + letters];
            let is_word = letters > 0 && text.get(at + 1 + letters) == Some(&b'}');
            let is_known = PLACEHOLDERS.iter().any(|(name, _)| text[at..].starts_with(name));
            (is_word && !is_known).then(|| format!("{}}}", String::from_utf8_lossy(word)))
        })
    }

    /// Runs the program for a job and waits until it ends. If the job is cancelled, ends the program.
    pub fn run(&self, job: &WorkerJob) -> Outcome {
        let arguments = match self.arguments(job) {
            Ok(arguments) => arguments,
            Err(why) => return Outcome::dead(why),
        };
        let mut process = match self.spawn(job, arguments) {
            Ok(child) => match Process::watch(child, job, self.output) {
                Ok(process) => process,
                Err(error) => return self.not_started(&error),
            },
            Err(error) => return self.not_started(&error),
        };
        match process.supervise(job, self.limits) {
            Ok((cause, status)) => match self.outcome(cause, status, &process.last_lines()) {
                Outcome::Done if self.output.stdout == Stdout::Result => {
                    Outcome::done_with(process.take_result())
                }
                outcome => outcome,
            },
            Err(error) => Outcome::retry(format_args!("cannot wait for the program: {error}")),
        }
    }

    fn spawn(&self, job: &WorkerJob, arguments: Vec<OsString>) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(arguments).process_group(0).stdin(Stdio::piped()).stderr(Stdio::piped());
        if self.output.reads_stdout() {
            command.stdout(Stdio::piped());
        }
        command.env("DJQS_JOB_ID", job.id().to_string());
        command.env("DJQS_QUEUE", job.queue().as_str());
        command.env("DJQS_ATTEMPT", job.attempt().to_string());
        let task = job.split().0;
        match (1..=TASK_BYTES_MAX).contains(&task.len()) {
            true => command.env("DJQS_TASK", OsStr::from_bytes(task)),
            false => command.env_remove("DJQS_TASK"),
        };
        match self.limits.timeout {
            Some(timeout) => command.env("DJQS_DEADLINE", self.deadline(timeout).to_string()),
            None => command.env_remove("DJQS_DEADLINE"),
        };
        command.spawn()
    }

    fn deadline(&self, timeout: Duration) -> u64 {
        Duration::from_millis(self.clock.now().wall_ms).saturating_add(timeout).as_secs()
    }

    fn arguments(&self, job: &WorkerJob) -> Result<Vec<OsString>, String> {
        self.arguments.iter().map(|argument| filled_in(argument, job)).collect()
    }

    fn not_started(&self, error: &io::Error) -> Outcome {
        let unfit =
            |exit_code| Outcome::Unfit { reason: format!("cannot run {}: {error}", self.name()), exit_code };
        match Errno::from_io_error(error) {
            Some(Errno::NOENT | Errno::NOTDIR) => unfit(EXIT_NO_COMMAND),
            Some(Errno::TOOBIG) => {
                Outcome::dead(format_args!("too long for the arguments of {}: {error}", self.name()))
            }
            // The system has no room for another process or file, or the program is being replaced.
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::TXTBSY) => {
                warn!("cannot run {} at the moment: {error}", self.name());
                Outcome::Return { delay: NOT_NOW_DELAY }
            }
            _ => unfit(EXIT_CANNOT_RUN),
        }
    }

    fn outcome(&self, cause: Cause, status: ExitStatus, said: &str) -> Outcome {
        let colon = if said.is_empty() { "" } else { ": " };
        let unfit = |exit_code| Outcome::Unfit {
            reason: format!("{} cannot be run: it exited with {exit_code}{colon}{said}", self.name()),
            exit_code,
        };
        match (cause, status.code()) {
            (Cause::Cancelled, _) => Outcome::returned(),
            (Cause::TimedOut, _) => {
                Outcome::retry(format_args!("timed out after {}{colon}{said}", self.patience()))
            }
            (Cause::Exited, Some(0)) => Outcome::Done,
            (Cause::Exited, Some(EXIT_DEAD)) => Outcome::dead(format_args!("exit {EXIT_DEAD}{colon}{said}")),
            (Cause::Exited, Some(126)) => unfit(EXIT_CANNOT_RUN),
            (Cause::Exited, Some(127)) => unfit(EXIT_NO_COMMAND),
            // 75 (`EX_TEMPFAIL`) among others.
            (Cause::Exited, Some(code)) => Outcome::retry(format_args!("exit {code}{colon}{said}")),
            (Cause::Exited, None) => Outcome::retry(format_args!("{}{colon}{said}", death(status))),
        }
    }

    fn patience(&self) -> String {
        self.limits.timeout.map(|timeout| format_duration(timeout).to_string()).unwrap_or_default()
    }

    fn name(&self) -> String {
        printable(self.program.as_bytes())
    }
}

fn death(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => status.to_string(),
    }
}

/// Splits an argument into text and placeholders.
fn parts(argument: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut rest = argument;
    while let Some(first) = rest.first() {
        match PLACEHOLDERS.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, placeholder)) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Placeholder(*placeholder));
                rest = &rest[name.len()..];
            }
            None => {
                text.push(*first);
                rest = &rest[1..];
            }
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

fn filled_in(argument: &[Part], job: &WorkerJob) -> Result<OsString, String> {
    let (task, args) = job.split();
    let mut out = Vec::new();
    for part in argument {
        match part {
            Part::Text(text) => out.extend_from_slice(text),
            Part::Placeholder(Placeholder::Id) => out.extend_from_slice(job.id().to_string().as_bytes()),
            Part::Placeholder(Placeholder::Queue) => out.extend_from_slice(job.queue().as_str().as_bytes()),
            Part::Placeholder(Placeholder::Attempt) => {
                out.extend_from_slice(job.attempt().to_string().as_bytes())
            }
            Part::Placeholder(Placeholder::Task) => out.extend_from_slice(task),
            Part::Placeholder(Placeholder::Args) => out.extend_from_slice(args),
            Part::Placeholder(Placeholder::Body) => out.extend_from_slice(job.body()),
        }
    }
    if out.contains(&0) {
        return Err("the body has a NUL, and an argument can't contain one".into());
    }
    Ok(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobId, Lease, QueueName};

    fn job(body: &[u8]) -> WorkerJob {
        WorkerJob::new(Lease {
            id: JobId(7),
            queue: QueueName::new("mail").unwrap(),
            attempt: 3,
            ttr: Duration::from_secs(60),
            body: body.into(),
        })
    }

    fn fill(argument: &[u8], body: &[u8]) -> Result<Vec<u8>, String> {
        filled_in(&parts(argument), &job(body)).map(OsString::into_vec)
    }

    #[test]
    fn placeholders_are_replaced_wherever_they_stand() {
        assert_eq!(fill(b"{id}-{queue}-{attempt}", b"").unwrap(), b"7-mail-3");
        assert_eq!(fill(b"--to={args};{task}{task}", b"SEND: a b").unwrap(), b"--to=a b;SENDSEND");
        assert_eq!(fill(b"{print} {i{id} {id", b"").unwrap(), b"{print} {i7 {id");
        assert_eq!(fill(b"{body}|{args}", b"SEND: a").unwrap(), b"SEND: a|a");
        assert_eq!(fill(b"", b"").unwrap(), b"");
    }

    #[test]
    fn replaced_text_is_not_replaced_again() {
        assert_eq!(fill(b"{args}", b"SEND: {id} $(rm) \"").unwrap(), b"{id} $(rm) \"");
        assert_eq!(fill(b"{args}", b"SEND: \xff\n").unwrap(), b"\xff\n");
    }

    #[test]
    fn word_in_braces_that_is_no_placeholder_is_found() {
        let unknown = |text: &str| Program::unknown_placeholder(text.as_ref());
        for (text, word) in
            [("{arg}", "{arg}"), ("{id}{ID}", "{ID}"), ("{{x}", "{x}"), ("$ {print}", "{print}")]
        {
            assert_eq!(unknown(text).as_deref(), Some(word), "{text}");
        }
        for text in [
            "",
            "{",
            "{}",
            "{body",
            "{1,2}",
            "{a b}",
            "{ print }",
            "{a,b}",
            "{\"a\":{id}}",
            "${HOME}",
            "{\u{e4}}",
        ] {
            assert_eq!(unknown(text), None, "{text}");
        }
    }

    #[test]
    fn nul_in_an_argument_makes_the_job_dead() {
        let outcome = Program::new("true", ["{args}"]).run(&job(b"SEND: a\0b"));
        assert!(matches!(outcome, Outcome::Dead { .. }), "{outcome:?}");
        assert_eq!(Program::new("true", ["{task}"]).run(&job(b"SEND: a\0b")), Outcome::Done);
        assert_eq!(Program::new("true", [""; 0]).run(&job(b"a\0b")), Outcome::Done);
    }

    #[test]
    fn missing_program_makes_the_worker_unfit() {
        for (program, code) in [("/no/such/program", 127), ("/dev/null/x", 127), ("/", 126)] {
            let outcome = Program::new(program, [""; 0]).run(&job(b""));
            assert!(
                matches!(outcome, Outcome::Unfit { exit_code, .. } if exit_code == code),
                "{program} {outcome:?}"
            );
        }
    }

    #[test]
    fn argument_that_is_too_long_makes_the_job_dead() {
        let mut body = b"SEND: ".to_vec();
        body.resize(200_000, b'a');
        let outcome = Program::new("true", ["{args}"]).run(&job(&body));
        assert!(matches!(&outcome, Outcome::Dead { reason } if reason.contains("too long")), "{outcome:?}");
    }

    #[test]
    fn grandchild_that_keeps_stderr_open_does_not_hold_up_the_job() {
        // The sleep keeps running; the test ends it by its process id.
        let outcome = Program::new("sh", ["-c", "sleep 1000 & echo $! >&2; exit 3"]).run(&job(b""));
        let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
        let number = reason.strip_prefix("exit 3: ").expect(&reason).parse().expect(&reason);
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(number).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }
}
