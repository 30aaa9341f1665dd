//! `watch`: shows how far a queue, a batch or the whole server is, until a batch is complete or Ctrl-C.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use djqs::client::follow::terminal_text;
use djqs::client::{Address, Client};
use djqs::error::Error;
use djqs::job::{BatchName, Group};
use djqs::protocol::Wait;
use djqs::stats::StateCounts;
use djqs::{JobState, QueueName};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{EXIT_IO, EXIT_REFUSED, EXIT_UNAVAILABLE};

/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// How many reasons of dead jobs are shown.
const REASONS: u32 = 5;

/// The arguments of `watch`, if that is the command.
pub(super) fn arguments(command: &[OsString]) -> Option<&[OsString]> {
    let (verb, arguments) = command.split_first()?;
    verb.eq_ignore_ascii_case("watch").then_some(arguments)
}

/// What to watch: `queue=Q`, `batch=B`, or nothing for the whole server.
pub(super) fn parse(arguments: &[OsString]) -> Result<Option<Group>, String> {
    let word = match arguments {
        [] => return Ok(None),
        [word] => word.to_string_lossy(),
        _ => return Err("watch takes only one of queue=Q and batch=B".into()),
    };
    let group = match word.split_once('=') {
        Some(("queue", name)) => QueueName::new(name).map(Group::from),
        Some(("batch", name)) => BatchName::new(name).map(Group::from),
        _ => return Err(format!("watch takes queue=Q or batch=B, not {word:?}")),
    };
    group.map(Some).map_err(|bad| format!("{word}: {bad}"))
}

/// How far the jobs are at one moment.
#[derive(Clone, PartialEq)]
struct Look {
    jobs: StateCounts,
    /// Jobs that have ended since they are counted. Their number grows with each that ends.
    ended: u64,
    /// All that were ever submitted, if that is known.
    total: Option<u64>,
    complete: bool,
    /// Why jobs are dead.
    reasons: Vec<String>,
}

impl Look {
    fn at(client: &mut Client, of: Option<&Group>) -> Result<Look, Error> {
        let mut look = match of {
            Some(Group::Batch(name)) => {
                let (stats, complete) = client.batch(name, 1, Wait::AtMost(Duration::ZERO))?;
                let total = stats.total();
                let ended = total - stats.jobs.unfinished();
                Look { jobs: stats.jobs, ended, total: Some(total), complete, reasons: Vec::new() }
            }
            Some(Group::Queue(name)) => match client.queue_stats(name) {
                Ok(stats) => Look::of(stats.jobs, stats.totals.acked + stats.totals.died),
                // An empty queue is forgotten.
                Err(Error::Refused(_)) => Look::of(StateCounts::default(), 0),
                Err(error) => return Err(error),
            },
            _ => {
                let stats = client.stats()?;
                Look::of(stats.jobs, stats.totals.acked + stats.totals.died)
            }
        };
        if let (Some(group), true) = (of, look.jobs.dead > 0) {
            let dead = client.list(group.clone(), Some(JobState::Dead), REASONS, None)?;
            look.reasons = dead
                .iter()
                .map(|job| {
                    let reason = job.reason.as_deref().unwrap_or("no reason given");
                    let first = reason.lines().next().unwrap_or_default();
                    format!("{}: {}", job.id, String::from_utf8_lossy(&terminal_text(first.as_bytes())))
                })
                .collect();
        }
        Ok(look)
    }

    fn of(jobs: StateCounts, ended: u64) -> Look {
        Look { jobs, ended, total: None, complete: false, reasons: Vec::new() }
    }

    /// One line of counts, and the rate and the time left if they are known.
    fn line(&self, rate: Option<f64>) -> String {
        let StateCounts { ready, delayed, leased, dead, done, cancelled, .. } = self.jobs;
        let mut text = match self.total {
            Some(total) => format!("{done} of {total} done, "),
            None => format!("{} ended, ", self.ended),
        };
        text += &format!("{leased} running, {ready} ready, {delayed} delayed, {dead} dead");
        if cancelled > 0 {
            text += &format!(", {cancelled} cancelled");
        }
        if let Some(rate) = rate {
            text += &format!(", {rate:.1} a second");
            let left = self.jobs.unfinished();
            if rate > 0.0 && left > 0 {
                text += &format!(", {} left", HumanDuration(seconds(left as f64 / rate)));
            }
        }
        text
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Shows the counts until a batch is complete, or for ever.
pub(super) fn run(server: &Address, of: Option<&Group>) -> ExitCode {
    match follow(server, of) {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            super::follow::say(&format!("client: cannot write: {error}"));
            EXIT_IO.into()
        }
    }
}

fn follow(server: &Address, of: Option<&Group>) -> io::Result<ExitCode> {
    let mut screen = Screen::new();
    let mut client = match Client::connect_to(server) {
        Ok(client) => client,
        Err(error) => {
            super::follow::say(&format!("client: {error}"));
            return Ok(EXIT_UNAVAILABLE.into());
        }
    };
    // How many had ended at each of the last looks, which give the rate.
    let mut before: VecDeque<u64> = VecDeque::new();
    let mut last = None;
    loop {
        match Look::at(&mut client, of) {
            Ok(look) => {
                // The counts of a server that was restarted begin again.
                if before.back().is_some_and(|ended| *ended > look.ended) {
                    before.clear();
                }
                let time = PERIOD * before.len() as u32;
                let rate = before.front().map(|ended| (look.ended - ended) as f64 / time.as_secs_f64());
                before.push_back(look.ended);
                if before.len() > 10 {
                    before.pop_front();
                }
                if screen.0.is_some() || last.as_ref() != Some(&look) {
                    screen.show(&look.line(rate), &look.reasons)?;
                }
                if look.complete {
                    let ended_well = look.jobs.done == look.ended;
                    return Ok(if ended_well { ExitCode::SUCCESS } else { EXIT_REFUSED.into() });
                }
                last = Some(look);
            }
            Err(Error::Refused(refusal)) => {
                super::follow::say(&format!("client: {refusal}"));
                return Ok(EXIT_REFUSED.into());
            }
            Err(error) => {
                if last.take().is_some() || screen.0.is_some() {
                    screen.show(&format!("{error}; connecting again"), &[])?;
                }
                before.clear();
                // The next look tries again.
                let _ = client.reconnect();
            }
        }
        thread::sleep(PERIOD);
    }
}

/// Standard output. On a terminal each look replaces the one before.
struct Screen(Option<ProgressBar>);

impl Screen {
    fn new() -> Screen {
        Screen(io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg}").expect("the template is well formed");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_style(style)
        }))
    }

    fn show(&mut self, first: &str, reasons: &[String]) -> io::Result<()> {
        let reasons: String = reasons.iter().map(|reason| format!("\n  dead {reason}")).collect();
        let text = format!("{first}{reasons}");
        match &self.0 {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
                Ok(())
            }
            None => writeln!(io::stdout(), "{text}"),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.abandon();
        }
    }
}
