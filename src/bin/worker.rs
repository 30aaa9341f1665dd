//! The worker program: runs a command for each job, or the demonstration. Flags, signals, the log, then one
//! call into the library.

use std::ffi::{OsString, c_int};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use djqs::QueueName;
use djqs::client::Address;
use djqs::protocol::native::parse_duration;
use djqs::worker::{Control, Program, Stderr, Worker, WorkerError, demonstrate};
use env_logger::fmt::Formatter;
use log::kv;
use rules::Rules;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

#[path = "common/rules.rs"]
mod rules;

/// The exit code for a failure that is neither the user's nor the command's.
const EXIT_FAILURE: u8 = 1;

/// Takes jobs from a DJQS server and runs a program for each.
///
/// Without a command it is a demonstration: it prints each job and sleeps for as long as the job says
/// (`5s_delay`, `250ms_delay`).
#[derive(Parser, Debug)]
#[command(name = "worker", version, args_override_self = true, after_help = HELP, override_usage = "worker [OPTIONS] [-- CMD ARG...]")]
struct Flags {
    /// The server: HOST, HOST:PORT or unix:PATH
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:11300", env = "DJQS_SERVER")]
    server: Address,

    /// The queues to take jobs from; the most urgent job of all of them comes first
    #[arg(
        short,
        long,
        value_name = "QUEUE,...",
        default_value = "default",
        value_delimiter = ',',
        env = "DJQS_WORKER_QUEUES"
    )]
    queues: Vec<QueueName>,

    /// How many jobs to run at a time
    #[arg(short, long, value_name = "N", default_value_t = 1, env = "DJQS_WORKER_CONCURRENCY",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,

    /// Stop after this many jobs, however they end
    #[arg(short = 'n', long, value_name = "N", env = "DJQS_WORKER_JOBS",
          value_parser = clap::value_parser!(u64).range(1..))]
    jobs: Option<u64>,

    /// Stop after one job; wait for it if there is none. The same as -n 1
    #[arg(long, env = "DJQS_WORKER_ONCE", value_parser = BoolishValueParser::new())]
    once: bool,

    /// Stop when the queues have no ready job. Delayed jobs, such as those that wait for their next attempt,
    /// don't count
    #[arg(long, env = "DJQS_WORKER_DRAIN", value_parser = BoolishValueParser::new())]
    drain: bool,

    /// How long running jobs may take to finish after the first TERM or INT
    #[arg(long, value_name = "TIME", default_value = "25s", env = "DJQS_WORKER_GRACE", value_parser = parse_duration)]
    grace: Duration,

    /// How long a command may run; then it gets TERM, and its job fails
    #[arg(long, value_name = "TIME", env = "DJQS_WORKER_TIMEOUT", value_parser = positive_duration)]
    timeout: Option<Duration>,

    /// How long after TERM a command gets KILL
    #[arg(long, value_name = "TIME", default_value = "10s", env = "DJQS_WORKER_KILL_AFTER",
          value_parser = parse_duration)]
    kill_after: Duration,

    /// The format of the log, on stderr; RUST_LOG=warn or debug sets its level
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogForm::Text, env = "DJQS_WORKER_LOG")]
    log: LogForm,

    /// The command to run for each job, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const RULES: Rules =
    Rules { exclusive: &[["once", "jobs"]], needs: &[["timeout", "command"], ["kill_after", "command"]] };

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// Lines for people
    Text,
    /// One JSON object a line, also for each line that a command writes to stderr
    Json,
}

const HELP: &str = "\
How a command runs:
  The job's body is its stdin. These are replaced in its arguments, never by a
  shell:
    {id} {queue} {attempt}  the job's number, its queue, which attempt this is
    {task} {args}           the body's parts before and behind its first \": \";
                            without one, all of it and nothing
  CMD itself is never replaced: a job can't choose what runs. Don't put {args}
  into the text of `sh -c`, where the shell would run what it says; give it to
  the shell as an argument, as in  sh -c 'echo \"$1\"' sh {args}
  In its environment: DJQS_JOB_ID, DJQS_QUEUE, DJQS_ATTEMPT, DJQS_TASK (unless
  that has a NUL or over 4096 bytes), and with --timeout DJQS_DEADLINE, the
  second since 1970 when it will be ended.
  The lease is renewed while the command runs, however long that is. If it is
  lost nevertheless (the server was away, this machine slept), the command is
  killed at once, since somebody else may have the job.
  The command leads a process group of its own; TERM and KILL go to all of it.

What the command's exit means for its job:
  0          done
  65         failed for good: dead at once, whatever attempts are left
  75         failed for now: tried again after the job's backoff, until its
             attempts are spent
  any other  the same as 75; so are death by a signal and a timeout
  126, 127   the command can't be run, or is not there: the job is handed back
             and the worker stops with the same exit code, rather than spend
             the attempts of every job in the queue
  The last lines of its stderr are kept with a failed job as the reason.

Signals:
  TERM, INT, fetch nothing more, wait up to --grace for what runs, then end it
  HUP        (TERM, and KILL at most 3 s later) and hand those jobs back; no
             attempt is charged. HUP is what a terminal that is closed sends;
             under nohup it stays ignored
  TERM, INT  the same, but at once, and with KILL; so does QUIT, the first time
  again      too
  TSTP, USR1 pause: finish what runs, fetch nothing
  CONT, USR2 go on

Exit codes of the worker: 0 stopped as asked, 1 failed, 2 wrong usage, 126 or
127 the command can't be run. A server that is away is no failure: the worker
tries to reach it until it is back.

Examples:
  worker                                    the demonstration
  worker -q mail -c 4 -- ./send-mail --to {args}
  worker -q files --timeout 5m -- gzip -k -- {args}
  worker --drain -- tr a-z A-Z              ends when the queue is empty

Every option can be set in the environment too, by the name beside it.";

fn main() -> ExitCode {
    let flags: Flags = rules::parse(&RULES);
    if flags.command.first().is_some_and(|program| Program::has_placeholder(program)) {
        let problem = "CMD has a placeholder in it, but only its arguments are replaced: a job can't choose what runs\n";
        Flags::command().error(ErrorKind::ValueValidation, problem).exit();
    }
    start_log(flags.log);
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        // The log has these already.
        Err(Failure::Worker(WorkerError::Unfit { exit_code, .. })) => ExitCode::from(exit_code),
        Err(Failure::Worker(_)) => ExitCode::from(EXIT_FAILURE),
        Err(Failure::Signals(error)) => {
            log::error!("can't handle signals: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

enum Failure {
    Worker(WorkerError),
    Signals(io::Error),
}

fn run(flags: Flags) -> Result<(), Failure> {
    let jobs = if flags.once { Some(1) } else { flags.jobs };
    let mut worker = Worker::new(flags.server.to_string())
        .queues(flags.queues)
        .concurrency(usize::from(flags.concurrency))
        .grace(flags.grace);
    if let Some(jobs) = jobs {
        worker = worker.stop_after(jobs);
    }
    if flags.drain {
        worker = worker.drain();
    }
    worker = match flags.command.split_first() {
        None => worker.otherwise(demonstrate),
        Some((program, arguments)) => {
            warn_of_shell(program, arguments);
            let stderr = if flags.log == LogForm::Json { Stderr::Log } else { Stderr::PassOn };
            let mut program = Program::new(program, arguments).kill_after(flags.kill_after).stderr(stderr);
            if let Some(timeout) = flags.timeout {
                program = program.timeout(timeout);
            }
            worker.otherwise(move |job| program.run(job))
        }
    };
    obey_signals(worker.control()).map_err(Failure::Signals)?;
    worker.run().map(|_| ()).map_err(Failure::Worker)
}

/// Starts the thread that handles signals.
fn obey_signals(control: Control) -> io::Result<()> {
    let from_terminals = [SIGHUP, SIGQUIT].into_iter().filter(|signal| !is_ignored(*signal));
    let others = [SIGTERM, SIGINT, SIGTSTP, SIGCONT, SIGUSR1, SIGUSR2];
    let mut signals = Signals::new(others.into_iter().chain(from_terminals))?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut told_to_stop = false;
        for signal in signals.forever() {
            match signal {
                SIGTSTP | SIGUSR1 => control.pause(),
                SIGCONT | SIGUSR2 => control.resume(),
                SIGQUIT => control.stop_at_once(),
                // When a terminal closes, shell and system both send HUP: the second is not a second request.
                SIGHUP if told_to_stop => {}
                _ if told_to_stop => control.stop_at_once(),
                _ => {
                    told_to_stop = true;
                    control.stop();
                }
            }
        }
    })?;
    Ok(())
}

/// Whether the process was started with the signal ignored, as nohup(1) does with HUP (proc(5)). Then it
/// stays ignored.
fn is_ignored(signal: c_int) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// A shell reads its `-c` argument as a program, so a job could run anything there.
fn warn_of_shell(program: &OsString, arguments: &[OsString]) {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_shell = ["sh", "ash", "bash", "dash", "ksh", "zsh", "fish"].contains(&name);
    let script = arguments.iter().skip_while(|argument| *argument != "-c").nth(1);
    if is_shell && script.is_some_and(|script| Program::has_placeholder(script)) {
        log::warn!(
            "the text of {name} -c has a placeholder in it: anyone who submits a job can run any command here; \
             pass it on as an argument instead, as in {name} -c 'echo \"$1\"' {name} {{args}}"
        );
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn start_log(form: LogForm) {
    let environment = env_logger::Env::default().default_filter_or("info");
    let mut builder = env_logger::Builder::from_env(environment);
    match form {
        LogForm::Text => builder.format_target(false),
        LogForm::Json => builder.format(write_json),
    };
    builder.init();
}

/// A line of the log as one JSON object: `time`, `level`, `message`, and the fields that the line has.
fn write_json(out: &mut Formatter, record: &log::Record<'_>) -> io::Result<()> {
    let mut fields = JsonFields(Vec::new());
    fields.push("time", out.timestamp_millis().to_string());
    fields.push("level", record.level().as_str().to_ascii_lowercase());
    fields.push("message", record.args().to_string());
    record.key_values().visit(&mut fields).map_err(io::Error::other)?;
    writeln!(out, "{{{}}}", fields.0.join(","))
}

struct JsonFields(Vec<String>);

impl JsonFields {
    fn push(&mut self, key: &str, value: impl Into<serde_json::Value>) {
        self.0.push(format!("{}:{}", serde_json::Value::from(key), value.into()));
    }
}

impl<'kvs> kv::VisitSource<'kvs> for JsonFields {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        match (value.to_u64(), value.to_f64(), value.to_string()) {
            // An empty text means that the field does not apply.
            (_, _, text) if text.is_empty() => {}
            (Some(number), _, _) => self.push(key.as_str(), number),
            (_, Some(number), _) => self.push(key.as_str(), number),
            (_, _, text) => self.push(key.as_str(), text),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Flags::command().debug_assert();
    }
}
