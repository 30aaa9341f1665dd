//! The worker program: runs a command for each job, or the demonstration. It reads the flags, handles signals
//! and writes the log. The library does the work.

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
use djqs::client::Address;
use djqs::job::{QueueName, WorkerName};
use djqs::protocol::native::parse_duration;
use djqs::worker::{Control, Program, Stderr, Stdout, Worker, WorkerError, demonstrate};
use env_logger::fmt::Formatter;
use log::kv;
use rules::Rules;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

#[path = "common/rules.rs"]
mod rules;

/// The exit code of a worker that ended by itself and had jobs that are not done.
const EXIT_UNFINISHED: u8 = 1;

/// The exit code for a failure that is neither the user's nor the command's. (`EX_SOFTWARE` of sysexits.h.)
const EXIT_FAILURE: u8 = 70;

/// Takes jobs from a DJQS server and runs a program for each.
///
/// Without a command it is a demonstration: it prints each job and sleeps for the time in the job's body
/// (`5s_delay`, `250ms_delay`).
#[derive(Parser, Debug)]
#[command(name = "worker", version, args_override_self = true, after_help = format!("{EXAMPLES}\n\n{MORE}"), after_long_help = format!("{HELP}\n\n{EXAMPLES}"), override_usage = "worker [OPTIONS] [-- CMD ARG...]")]
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

    /// Stop when no job of the queues is ready, delayed or leased; with --drain=ready, when none is ready
    #[arg(long, value_name = "all|ready", num_args = 0..=1, require_equals = true, default_missing_value = "all",
          env = "DJQS_WORKER_DRAIN", value_parser = parse_drain)]
    drain: Option<Drain>,

    /// Stop when draining has taken this long, as after a TERM
    #[arg(long, value_name = "TIME", env = "DJQS_WORKER_DRAIN_TIMEOUT", value_parser = positive_duration)]
    drain_timeout: Option<Duration>,

    /// How long running jobs may take to finish after the first TERM or INT
    #[arg(long, value_name = "TIME", default_value = "25s", env = "DJQS_WORKER_GRACE", value_parser = parse_duration)]
    grace: Duration,

    /// Its name, for WORKERS and STOP
    ///
    /// Several workers may have the same. Default: the name of the host
    #[arg(long, value_name = "NAME", env = "DJQS_WORKER_NAME", value_parser = |name: &str| WorkerName::new(name))]
    name: Option<WorkerName>,

    /// How long running jobs survive the loss of their connection
    ///
    /// The jobs of a worker that died wait for that time too
    #[arg(long, value_name = "TIME", default_value = "0s", env = "DJQS_WORKER_RESUME", value_parser = parse_duration)]
    resume: Duration,

    /// How long a command may run; then it gets TERM, and its job fails
    #[arg(long, value_name = "TIME", env = "DJQS_WORKER_TIMEOUT", value_parser = positive_duration)]
    timeout: Option<Duration>,

    /// How long after TERM a command gets KILL
    #[arg(long, value_name = "TIME", default_value = "10s", env = "DJQS_WORKER_KILL_AFTER",
          value_parser = parse_duration)]
    kill_after: Duration,

    /// What a job's result is
    ///
    /// stdout: what the command writes there, which is then not passed on; none: nothing
    #[arg(long, value_name = "none|stdout", value_enum, hide_possible_values = true, default_value_t = JobResult::None,
          env = "DJQS_WORKER_RESULT")]
    result: JobResult,

    /// Begin each line of a command's output with the job's id, its shortened body and a TAB
    #[arg(long, env = "DJQS_WORKER_TAG", value_parser = BoolishValueParser::new())]
    tag: bool,

    /// Write a command's output in one piece when it ends
    #[arg(long, env = "DJQS_WORKER_GROUP", value_parser = BoolishValueParser::new())]
    group: bool,

    /// The format of the log, on stderr
    ///
    /// RUST_LOG=warn, info or debug sets its level. The demonstration prints its jobs on stdout, and the text
    /// log leaves them out unless RUST_LOG is set
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogForm::Text, env = "DJQS_WORKER_LOG")]
    log: LogForm,

    /// The command to run for each job, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

const RULES: Rules = Rules {
    exclusive: &[["once", "jobs"]],
    needs: &[
        ["timeout", "command"],
        ["kill_after", "command"],
        ["result", "command"],
        ["tag", "command"],
        ["group", "command"],
        ["drain_timeout", "drain"],
    ],
};

/// When the worker has drained its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// Never. Only a variable says so.
    No,
    Ready,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum JobResult {
    None,
    Stdout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogForm {
    /// Lines for people
    Text,
    /// One JSON object a line, also for each line that a command writes to stderr
    Json,
}

const HELP: &str = "\
How a command runs:
  The command reads the job's body from stdin. These placeholders are replaced
  in its arguments, without a shell:
    {id} {queue} {attempt}  the job's id, queue and number of the attempt
    {task} {args}           the body's task name, and what follows its \": \".
                            Without a task name {args} is all of the body
    {body}                  all of the body
  A task name stands before the first \": \" of a body and has only
  A-Z a-z 0-9 _ . -
  Any other {word} of letters is refused at the start; {}, {a b} and ${word}
  stay. To pass one literally, put it into a variable that a shell reads:
  P='{print}' worker -- sh -c 'awk \"$P\"'
  CMD itself is never replaced: a job can't choose what runs. Don't put {args}
  into the text of `sh -c`: the shell would run it. Pass it to the shell as an
  argument, as in  sh -c 'echo \"$1\"' sh {args}
  The environment has DJQS_JOB_ID, DJQS_QUEUE, DJQS_ATTEMPT, and DJQS_TASK
  if there is a task name of at most 4096 bytes. With --timeout it has
  DJQS_DEADLINE: when the command will be ended, in seconds since 1970.
  The lease is renewed while the command runs, for any length of time. If it is
  lost nevertheless (the server could not be reached, this machine was asleep),
  the command is killed at once, because another worker may have the job.
  The command leads a new process group. TERM and KILL go to the whole group.

What the command writes:
  By default it writes to the worker's stdout itself, and the worker passes on
  its stderr line by line. So the lines of several commands may be mixed.
  --tag    each line begins with the job's id, up to 40 bytes of its body, and
           a TAB. Lines of up to 8 KiB are never mixed
  --group  all of it is written when the command ends: its stdout, then its
           stderr. More than 64 KiB of either are held in a file in TMPDIR
  Both work as in GNU parallel, and together. With --log json they are for
  stdout alone, since stderr goes to the log.

  --result stdout  stdout is not written, but is the result of a job that is
           done, for those who wait for it (WAIT, TASK keep=). Of more than 65535
           bytes the rest is cut, and the log says so

When somebody cancels a job (CANCEL):
  The command's process group gets TERM at once, and KILL after --kill-after.
  Nothing is reported. It is not a failure, and no reason to exit with 1.

What the command's exit code means for the job:
  0          done
  65         failed, and another attempt would fail too: dead at once
  75         failed: tried again after the job's backoff, until its attempts are
             used up
  any other  the same as 75; so are death by a signal and a timeout
  126, 127   the command can't be run, or does not exist: the job is returned
             and the worker stops with this exit code, so that it does not use
             up the attempts of every job in the queue
  The last lines of its stderr are kept with a failed job as the reason.

What --drain waits for:
  --drain ends when the queues have no job that is ready, delayed or leased, by
  this worker or another. So it runs the retries of failed jobs too, and waits
  for jobs that were submitted with a delay. Dead and cancelled jobs don't
  count. The jobs of a paused queue are left there; the log names the queue, and
  the worker exits with 1. --drain=ready ends when no job is ready and none runs
  in this worker. When --drain-timeout is over, the worker stops as after a TERM.

Signals:
  TERM, INT, fetch nothing more, wait up to --grace for what runs, then end it
  HUP        (TERM, and KILL at most 3 s later) and return those jobs without
             charging an attempt. A terminal sends HUP when it is closed; under
             nohup it is ignored
  TERM, INT  the same, but at once and with KILL; QUIT does this the first time
  again
  TSTP, USR1 pause: finish what runs, fetch nothing
  CONT, USR2 resume

The server's orders:
  The worker introduces itself to the server: WORKERS shows its name, its host
  and its jobs. QUIET, RESUME and STOP worker=NAME do what TSTP, CONT and the
  first TERM do. A server of an older version is used without all of this.

When a connection is lost:
  By default its job goes to another worker at once, as the jobs of a worker
  that died must, and its command is killed. With --resume 30s, say, the command
  runs on, and the job stays with this worker if the server is reached again in
  that time and before the job's ttr is over. The jobs of a worker that died wait
  for that time too.

Exit codes of the worker:
  0          stopped by a signal or an order; or it ended by itself (--drain, -n, --once) and
             all its jobs are done, also those that failed first
  1          it ended by itself, and some jobs are not done: their last run in
             this worker failed, or they are dead, returned or lost. With --drain
             it asks the server whether others have done them. Also if the time
             of --drain was up, or it left the jobs of a paused queue
  2          wrong usage
  70         the worker itself failed
  126, 127   the command can't be run, or does not exist
If the server can't be reached, the worker tries again until it can.
Every option can also be set by the environment variable shown with it.";

const EXAMPLES: &str = "\
Examples:
  worker                                    the demonstration
  worker -q mail -c 4 --tag -- ./send-mail --to={args}
  worker -q files --timeout 5m -- gzip -k -- {args}
  worker --drain -- tr a-z A-Z              ends when nothing is left to do";

const MORE: &str = "\
--help explains more: how a command runs, what its exit code means, signals, and
the worker's exit codes.";

fn main() -> ExitCode {
    let flags: Flags = rules::parse(&RULES);
    if flags.command.first().is_some_and(|program| Program::has_placeholder(program)) {
        let problem =
            "CMD has a placeholder, but only arguments are replaced: a job can't choose what runs\n";
        Flags::command().error(ErrorKind::ValueValidation, problem).exit();
    }
    if let Some(word) = flags.command.iter().skip(1).find_map(|text| Program::unknown_placeholder(text)) {
        let problem = format!(
            "{word} is not a placeholder; these are: {{id}} {{queue}} {{attempt}} {{task}} {{args}} {{body}}. \
             --help says how to pass it literally\n"
        );
        Flags::command().error(ErrorKind::ValueValidation, problem).exit();
    }
    start_log(flags.log, flags.command.is_empty());
    match run(flags) {
        Ok(exit) => exit,
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

fn run(flags: Flags) -> Result<ExitCode, Failure> {
    let jobs = if flags.once { Some(1) } else { flags.jobs };
    let mut worker = Worker::new(flags.server.to_string())
        .queues(flags.queues)
        .concurrency(usize::from(flags.concurrency))
        .grace(flags.grace)
        .resume(flags.resume);
    if let Some(name) = flags.name {
        worker = worker.name(name);
    }
    if let Some(jobs) = jobs {
        worker = worker.stop_after(jobs);
    }
    worker = match flags.drain {
        None | Some(Drain::No) => worker,
        Some(Drain::Ready) => worker.drain_ready(),
        Some(Drain::All) => worker.drain(),
    };
    if let Some(time) = flags.drain_timeout {
        worker = worker.drain_timeout(time);
    }
    worker = match flags.command.split_first() {
        None => worker.otherwise(demonstrate),
        Some((program, arguments)) => {
            warn_of_shell(program, arguments);
            let stderr = if flags.log == LogForm::Json { Stderr::Log } else { Stderr::PassOn };
            let stdout = match flags.result {
                JobResult::None => Stdout::PassOn,
                JobResult::Stdout => Stdout::Result,
            };
            let mut program = Program::new(program, arguments).kill_after(flags.kill_after);
            program = program.stdout(stdout).stderr(stderr);
            if let Some(timeout) = flags.timeout {
                program = program.timeout(timeout);
            }
            if flags.tag {
                program = program.tag();
            }
            if flags.group {
                program = program.group();
            }
            worker.otherwise(move |job| program.run(job))
        }
    };
    obey_signals(worker.control()).map_err(Failure::Signals)?;
    let summary = worker.run().map_err(Failure::Worker)?;
    Ok(ExitCode::from(if !summary.told_to_stop && (summary.unfinished > 0 || summary.jobs_left) {
        EXIT_UNFINISHED
    } else {
        0
    }))
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
                _ => {
                    let again = std::mem::replace(&mut told_to_stop, true);
                    match signal {
                        SIGQUIT => control.stop_at_once(),
                        // When a terminal closes, shell and system both send HUP: the second is not a second
                        // request.
                        SIGHUP if again => {}
                        _ if again => control.stop_at_once(),
                        _ => control.stop(),
                    }
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
            "the text of {name} -c has a placeholder: anyone who submits a job can run any command here; \
             pass it as an argument instead, as in {name} -c 'echo \"$1\"' {name} {{args}}"
        );
    }
}

/// As a variable it may also say yes or no.
fn parse_drain(text: &str) -> Result<Drain, String> {
    match text.to_ascii_lowercase().as_str() {
        "all" | "1" | "yes" | "y" | "true" | "t" | "on" => Ok(Drain::All),
        "ready" => Ok(Drain::Ready),
        "0" | "no" | "n" | "false" | "f" | "off" => Ok(Drain::No),
        _ => Err("must be all or ready".into()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than 0".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn start_log(form: LogForm, is_demonstration: bool) {
    // The demonstration itself prints when a job begins and ends.
    let jobs_are_printed = is_demonstration && form == LogForm::Text;
    let level = if jobs_are_printed { "info,djqs::worker::run_log=warn" } else { "info" };
    let environment = env_logger::Env::default().default_filter_or(level);
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
