//! The real server under load, killed with SIGKILL at random moments and started again on the same directory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::common::{Server, Talk, until};
use crate::dice::{Dice, seed};
use crate::history::{Allowed, History, Tally};
use crate::load::{Client, Load, Plan, Shared, drain};
use crate::look::Look;
use crate::rig::{Policy, Site, copy_directory, kill};

/// Cycles of one policy, unless DJQS_CRASH_CYCLES, the number of cycles of all policies together, says
/// otherwise.
const CYCLES: u64 = 10;

/// Small enough that segments are begun, emptied and removed in every cycle.
const SEGMENT_BYTES: u64 = 16 << 10;

const PLAN: Plan = Plan { submitters: 3, workers: 3, alone: false, rounds: None };

#[test]
fn killed_server_keeps_its_promises_when_it_always_syncs() {
    check(Policy::Always);
}

#[test]
fn killed_server_keeps_its_promises_when_it_syncs_by_the_clock() {
    check(Policy::Interval);
}

#[test]
fn killed_server_keeps_its_promises_when_it_never_syncs() {
    check(Policy::Never);
}

fn check(policy: Policy) {
    let cycles = match std::env::var("DJQS_CRASH_CYCLES") {
        Ok(text) => text.parse::<u64>().expect("DJQS_CRASH_CYCLES is a number").div_ceil(3),
        Err(_) => CYCLES,
    };
    let seed = seed();
    match run(Site::new(policy, SEGMENT_BYTES), cycles, seed) {
        Ok(report) => println!("kill -9, {policy:?}, seed {seed}: {report}"),
        Err(failure) => panic!("{policy:?}, DJQS_SEED={seed}: {failure}"),
    }
}

/// What was done, for the report.
#[derive(Debug, Default)]
pub(crate) struct Report {
    cycles: u64,
    kills_at_start: u64,
    stops: u64,
    tally: Tally,
    /// The most that the journal took at the end of a cycle, in percent of what it may.
    fullest_percent: u64,
    /// Segments begun.
    segments: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { cycles, kills_at_start, stops, tally, fullest_percent, segments } = self;
        write!(
            f,
            "{cycles} cycles ({stops} ended by SIGTERM, {kills_at_start} more kills during recovery): {tally}; "
        )?;
        write!(f, "{segments} segments begun, largest journal {fullest_percent} % of its limit")
    }
}

/// What went wrong, and where the files are.
pub(crate) struct Broken {
    cycle: u64,
    pub(crate) complaints: Vec<String>,
    kept: PathBuf,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Broken { cycle, complaints, kept } = self;
        writeln!(f, "cycle {cycle}, {} complaints; {} has", complaints.len(), kept.display())?;
        writeln!(f, "data, before (the same before the last recovery) and log (what the servers said)")?;
        complaints.iter().try_for_each(|complaint| writeln!(f, "- {complaint}"))
    }
}

/// Loads the server and kills it, so many times; then sees whether all that it kept can be worked off.
pub(crate) fn run(mut site: Site, cycles: u64, seed: u64) -> Result<Report, Broken> {
    let mut dice = Dice(seed);
    let history: Shared = Arc::new(Mutex::new(History::default()));
    let mut report = Report::default();
    let mut server = site.start();
    for cycle in 1..=cycles {
        let gracefully = dice.percent(10);
        let load = Load::start(server.address, &history, PLAN, dice.next(), None);
        std::thread::sleep(dice.millis(5, 250));
        if gracefully {
            stop(server, load, &history);
        } else {
            kill(server);
            load.end();
            history.lock().unwrap().server_was_killed();
        }
        copy_directory(site.data(), &site.home().join("before"));
        let killed_again = dice.percent(20);
        if killed_again {
            report.kills_at_start += 1;
            kill_while_it_starts(&site, &mut dice);
        }
        server = site.start();
        let look = judge(&server, &history);
        let clean = look.stats["journal_replayed_clean"] == "yes";
        if clean && !gracefully || !clean && gracefully && !killed_again {
            let complaint = format!("stopped gracefully: {gracefully}, and the next server says {clean}");
            history.lock().unwrap().complain(complaint);
        }
        report.cycles = cycle;
        report.stops += u64::from(gracefully);
        report.tally = history.lock().unwrap().tally;
        report.segments = site.last_segment();
        let complaints = history.lock().unwrap().complaints();
        if !complaints.is_empty() {
            drop(server);
            return Err(Broken { cycle, complaints, kept: site.keep().to_owned() });
        }
        report.fullest_percent = report.fullest_percent.max(wait_for_size(&site, &server));
    }
    drain(&mut Client::connect(server.address, &history).expect("it listens")).expect("it answers");
    kill(server);
    history.lock().unwrap().server_was_killed();
    let server = site.start();
    let left = judge(&server, &history).jobs;
    let mut complaints = history.lock().unwrap().complaints();
    if !left.is_empty() {
        complaints.push(format!("after all was worked off, these are there: {left:#?}"));
    }
    report.tally = history.lock().unwrap().tally;
    if complaints.is_empty() {
        Ok(report)
    } else {
        Err(Broken { cycle: cycles, complaints, kept: site.keep().to_owned() })
    }
}

/// Ends the server by SIGTERM, under load.
fn stop(mut server: Server, load: Load, history: &Shared) {
    history.lock().unwrap().allowed = Allowed { draining: true, ..Allowed::default() };
    server.signal(Signal::TERM);
    load.end();
    let status = server.ended();
    let mut history = history.lock().unwrap();
    history.server_has_stopped(status.success());
    history.allowed = Allowed::default();
    if !status.success() {
        history.complain(format!("after SIGTERM the server ended with {status}"));
    }
}

/// A server that is killed before it has got far, if it has got anywhere.
fn kill_while_it_starts(site: &Site, dice: &mut Dice) {
    let mut child = site.command().spawn().unwrap();
    std::thread::sleep(dice.millis(0, 30));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Has the history compare what the server shows.
pub(crate) fn judge(server: &Server, history: &Shared) -> Look {
    let look = Look::at(server.address);
    let mut history = history.lock().unwrap();
    history.judge(&look);
    let count = look.jobs.len() as u64;
    if !server.greeting.contains(&format!("recovered {count} jobs")) {
        history.complain(format!("{count} jobs are there, and the server said {:?}", server.greeting));
    }
    look
}

/// Waits until the journal is as small as is promised: three times what has to be kept, and four segments. It
/// has to become so without any traffic. Returns how much of that it takes, in percent.
fn wait_for_size(site: &Site, server: &Server) -> u64 {
    let mut talk = Talk::to(server.address);
    let mut percent = 0;
    until("a journal of three times its live bytes and four segments", || {
        let stats = Look::stats(&mut talk);
        let figure = |name: &str| stats[name].parse::<u64>().unwrap();
        let limit = figure("journal_live_bytes") * 3 + 4 * SEGMENT_BYTES;
        let total = figure("journal_total_bytes");
        percent = total * 100 / limit;
        total <= limit && total == site.journal_bytes()
    });
    percent
}
