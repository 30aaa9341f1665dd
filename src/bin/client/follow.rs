//! `--wait`: submits jobs and waits for their end.

use std::io::{self, Cursor, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use djqs::client::follow::{
    BatchEnd, Ended, Plan, Steady, Submitted, Task, TaskText, Tasks, follow_all, json_line, terminal_text,
};
use djqs::error::{Code, Error};
use djqs::job::{BatchName, Finished, JobId};
use djqs::stats::BatchStats;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{EXIT_IO, EXIT_REFUSED, EXIT_UNAVAILABLE, Flags, one_command};
use bar::Bar;

#[path = "bar.rs"]
mod bar;

/// The server went away. EX_TEMPFAIL of sysexits.h.
const EXIT_AWAY: u8 = 75;

/// How long results are kept.
const KEEP_RESULTS: Duration = Duration::from_secs(3600);

/// How much longer than the connection may be lost a job is kept, so that it is still there when it is submitted
/// again.
const KEEP_MORE: Duration = Duration::from_secs(4 * 60);

/// Why it ended early.
enum Stop {
    /// An error of the server.
    Server(Error),
    /// The commands can't be read.
    Input(io::Error),
    /// The results can't be written.
    Output(io::Error),
    /// It has been reported.
    Reported(u8),
}

/// Submits what the flags say and waits for it.
pub(super) fn run(flags: &Flags) -> ExitCode {
    let outcome = match flags.command.is_empty() {
        true => many(flags),
        false => one(flags),
    };
    let (code, text) = match outcome {
        Ok(code) => return code.into(),
        Err(Stop::Reported(code)) => return code.into(),
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(Stop::Output(error)) => (EXIT_IO, format!("cannot write the results: {error}")),
        Err(Stop::Input(error)) => (EXIT_IO, format!("cannot read the commands: {error}")),
        Err(Stop::Server(error @ Error::Connect { .. })) => (EXIT_UNAVAILABLE, error.to_string()),
        Err(Stop::Server(error)) => (EXIT_REFUSED, error.to_string()),
    };
    say(&format!("client: {text}"));
    code.into()
}

/// Tells the user something. If standard error is closed, the exit code still reports a failure.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn connect(flags: &Flags) -> Result<Steady, Stop> {
    Steady::connect(&flags.server, flags.connect_timeout).map_err(Stop::Server)
}

fn plan(flags: &Flags) -> Plan {
    Plan::new(if flags.results || !flags.command.is_empty() {
        KEEP_RESULTS
    } else {
        flags.connect_timeout + KEEP_MORE
    })
}

/// How to go on waiting, for the user to type.
fn come_back(flags: &Flags, command: &str) -> String {
    let called = std::env::args_os().next();
    let name = called.as_deref().and_then(|path| Path::new(path).file_name()?.to_str()).unwrap_or("client");
    format!("go on waiting with: {name} -s {} {command}", flags.server)
}

/// From now on, a signal that stops the client says this first.
fn say_when_stopped(text: String) -> Result<(), Stop> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Stop::Input)?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            say(&format!("\nthe jobs go on; {text}"));
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// One task of the arguments.
fn one(flags: &Flags) -> Result<u8, Stop> {
    let (_, encoded) = one_command(&flags.command);
    let mut plan = plan(flags);
    if let Some(name) = &flags.batch {
        plan = plan.batch(name.clone());
    }
    let items = Tasks::new(Cursor::new(encoded), plan).next_items().map_err(Stop::Input)?;
    let task = match items.into_iter().next() {
        Some(TaskText::Task(task)) => task,
        Some(TaskText::Bad { why, .. }) => return Err(refused(&why.to_string())),
        _ => return Err(refused("--wait takes a TASK command")),
    };
    let mut steady = connect(flags)?;
    let mut outcomes = Vec::new();
    steady.submit(&[task], &mut outcomes).map_err(|error| {
        say(&format!("client: {error}; the job may have been submitted or not"));
        Stop::Reported(EXIT_AWAY)
    })?;
    let id = match outcomes.into_iter().next() {
        Some(Submitted::New(id) | Submitted::Duplicate(id, _)) => id,
        Some(Submitted::Refused(why)) => return Err(refused(&why.to_string())),
        _ => return Err(refused("the server did not answer")),
    };
    let back = come_back(flags, &format!("WAIT {id}"));
    say_when_stopped(back.clone())?;
    let how = steady.wait(id).map_err(|error| away(&error, &back))?;
    print_one(flags, id, how).map_err(Stop::Output)
}

fn refused(why: &str) -> Stop {
    say(&format!("client: {why}"));
    Stop::Reported(EXIT_REFUSED)
}

fn away(error: &Error, back: &str) -> Stop {
    say(&format!("client: {error}; {back}"));
    let is_away = match error {
        Error::Refused(refusal) => matches!(refusal.code, Code::Draining | Code::Unavailable),
        _ => true,
    };
    Stop::Reported(if is_away { EXIT_AWAY } else { EXIT_REFUSED })
}

/// Prints how the only job ended, and returns the exit code.
fn print_one(flags: &Flags, id: JobId, how: Finished) -> io::Result<u8> {
    let mut stdout = io::stdout();
    if flags.results {
        let is_done = matches!(how, Finished::Done { .. });
        let mut out = Vec::new();
        json_line(&Ended::new(1, id, how), &mut out);
        stdout.write_all(&out)?;
        return Ok(if is_done { 0 } else { EXIT_REFUSED });
    }
    let why = match how {
        Finished::Done { result: Some(result), .. } => {
            if !stdout.is_terminal() {
                stdout.write_all(&result)?;
            } else if !result.is_empty() {
                let mut shown = terminal_text(&result);
                if shown.last() != Some(&b'\n') {
                    shown.push(b'\n');
                }
                stdout.write_all(&shown)?;
            }
            stdout.flush()?;
            return Ok(0);
        }
        Finished::Done { .. } => {
            say(&format!("job {id} is done; the server had no room for its result"));
            return Ok(0);
        }
        Finished::Dead { failures, reason } => {
            let attempts = if failures == 1 { "attempt" } else { "attempts" };
            format!("job {id} is dead after {failures} failed {attempts}{}", because(reason.as_deref()))
        }
        Finished::Cancelled { reason } => format!("job {id} was cancelled{}", because(reason.as_deref())),
        _ => format!("job {id} is gone: it was deleted, or was not kept"),
    };
    say(&why);
    Ok(EXIT_REFUSED)
}

fn because(reason: Option<&str>) -> String {
    let shown = |reason: &str| format!(": {}", String::from_utf8_lossy(&terminal_text(reason.as_bytes())));
    reason.map(shown).unwrap_or_default()
}

/// What has been submitted.
#[derive(Default)]
struct Batch {
    accepted: u64,
    refused: u64,
    /// Jobs that another submitter's key may stand for, which are then not in the batch.
    duplicates: Vec<JobId>,
}

/// All tasks of standard input, as one batch.
fn many(flags: &Flags) -> Result<u8, Stop> {
    let name = flags.batch.clone().unwrap_or_else(Plan::new_batch_name);
    let mut steady = connect(flags)?;
    let back = come_back(flags, &format!("BATCH {name} wait=1h"));
    say_when_stopped(back.clone())?;
    let results = if flags.results { Some(Results::start(flags, back.clone())?) } else { None };
    let mut bar = Bar::start(flags, &name);
    let mut batch = Batch::default();
    submit(flags, &name, &mut steady, &mut batch, results.as_ref(), &bar, &back)?;
    let end = match batch.accepted {
        0 => BatchEnd::Complete(BatchStats::default()),
        _ => {
            bar.all_are_submitted();
            steady.wait_for_batch(&name).map_err(|error| away(&error, &back))?
        }
    };
    let mut bad = batch.refused > 0;
    for id in batch.duplicates {
        let how = steady.wait(id).map_err(|error| away(&error, &back))?;
        bad |= matches!(how, Finished::Dead { .. } | Finished::Cancelled { .. });
    }
    let gone = results.map_or(Ok(0), Results::end)?;
    bar.end();
    let (stats, forgotten) = match end {
        BatchEnd::Forgotten(stats) => (stats, true),
        BatchEnd::Complete(stats) => (stats, false),
        _ => return Err(refused("the batch ended in a way that this client does not know")),
    };
    if !flags.quiet {
        say(&format!(
            "{}{}",
            summary(&stats),
            if gone > 0 { format!(", {gone} without a result") } else { String::new() }
        ));
    }
    if forgotten {
        say("client: the server has forgotten some of these jobs: does it keep them in memory only?");
    }
    let jobs = stats.jobs;
    bad |= forgotten || gone > 0 || jobs.dead + jobs.cancelled + stats.deleted > 0;
    Ok(if bad { EXIT_REFUSED } else { 0 })
}

/// The counts of a batch, those that are zero left out.
fn summary(stats: &BatchStats) -> String {
    let mut text = format!("{} of {} done", stats.jobs.done, stats.total());
    for (count, what) in
        [(stats.jobs.dead, "dead"), (stats.jobs.cancelled, "cancelled"), (stats.deleted, "deleted")]
    {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

/// Submits all tasks of standard input.
fn submit(
    flags: &Flags,
    name: &BatchName,
    steady: &mut Steady,
    batch: &mut Batch,
    results: Option<&Results>,
    bar: &Bar,
    back: &str,
) -> Result<(), Stop> {
    let mut tasks = Tasks::new(io::stdin(), plan(flags).batch(name.clone()));
    let mut last_line = 0;
    loop {
        let items = tasks.next_items().map_err(Stop::Input)?;
        if items.is_empty() {
            return Ok(());
        }
        let mut chunk: Vec<Task> = Vec::new();
        for item in items {
            match item {
                TaskText::Task(task) => chunk.push(task),
                TaskText::Bad { line, why } => {
                    batch.refused += 1;
                    bar.say(&format!("line {line}: ERR {} {}", why.code, why.text));
                }
                _ => {}
            }
        }
        let mut outcomes = Vec::new();
        let submitted = steady.submit(&chunk, &mut outcomes);
        for (task, outcome) in chunk.iter().zip(outcomes) {
            last_line = task.line;
            let id = match outcome {
                Submitted::New(id) => id,
                Submitted::Duplicate(id, _) => {
                    batch.duplicates.push(id);
                    id
                }
                Submitted::Refused(why) => {
                    batch.refused += 1;
                    bar.say(&format!("line {}: ERR {} {}", task.line, why.code, why.text));
                    continue;
                }
                _ => continue,
            };
            batch.accepted += 1;
            if let Some(results) = results {
                results.expect(task.line, id);
            }
        }
        if let Err(error) = submitted {
            let to = chunk.last().map_or(last_line, |task| task.line);
            bar.say(&format!(
                "client: {error}: the tasks through line {last_line} were submitted; those from there through line {to} \
                 may have been submitted or not, and later ones were not; {back}"
            ));
            return Err(Stop::Reported(EXIT_AWAY));
        }
    }
}

/// The thread that prints the results.
struct Results {
    jobs: Sender<(u64, JobId)>,
    /// It sends how many jobs were gone.
    ended: Receiver<Result<u64, Stop>>,
}

impl Results {
    fn start(flags: &Flags, back: String) -> Result<Results, Stop> {
        let mut steady = connect(flags)?;
        let (jobs, coming) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        thread::spawn(move || {
            let mut gone = 0;
            let mut out = Vec::new();
            let outcome = follow_all(&mut steady, &coming, |job| match job {
                Some(job) => {
                    gone += u64::from(job.how == Finished::Gone);
                    json_line(&job, &mut out);
                    if out.len() < 64 * 1024 { Ok(()) } else { flush(&mut out) }
                }
                None => flush(&mut out),
            });
            let outcome = match outcome {
                Ok(Ok(())) => Ok(gone),
                Ok(Err(error)) => Err(away(&error, &back)),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // Nobody reads the results any more, as after head.
                    std::process::exit(0);
                }
                Err(error) => Err(Stop::Output(error)),
            };
            // If nobody waits for it, the client ends for another reason.
            let _ = end.send(outcome);
        });
        Ok(Results { jobs, ended })
    }

    fn expect(&self, line: u64, id: JobId) {
        // If the thread has ended, `end` says why.
        let _ = self.jobs.send((line, id));
    }

    fn end(self) -> Result<u64, Stop> {
        drop(self.jobs);
        self.ended.recv().unwrap_or(Err(Stop::Reported(EXIT_IO)))
    }
}

fn flush(out: &mut Vec<u8>) -> io::Result<()> {
    let written = io::stdout().write_all(out).and_then(|()| io::stdout().flush());
    out.clear();
    written
}
