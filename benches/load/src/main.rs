//! DJQS beside its neighbours: `make bench`.
//!
//! Starts each server with fresh data, runs the same work on each in turn, several rounds, and writes the
//! tables, and with `--out` docs/benchmarks.md and its curves. [`work`] is the list of what is measured;
//! [`load`] is the load generator.
//!
//! # Pinning
//!
//! Nothing is pinned to a core unless `--pin` asks for it: the load generator to the first core, the servers
//! to the others. On two cores that was looked at and left off. One connection at a time fell to between a
//! fifth and a third of its rate, for every server (measured beside other work on the machine): sender and
//! receiver take turns, so the scheduler does well to run both on one core, and pinned apart each command
//! waits for the other core. With many connections it would give each single-threaded server just what it has
//! anyway, a core of its own, and take from DJQS, a thread a connection, the second one that its users'
//! machines let it have.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the time is what is measured here")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::report::Head;
use crate::subject::{Places, Subject, Trouble};
use crate::table::{Outcome, show};
use crate::work::{Scale, Trial, Work};

mod dialect;
mod line;
mod load;
mod machine;
mod plot;
mod report;
mod subject;
mod table;
mod work;

/// Measures DJQS beside beanstalkd, Redis and a server that does nothing.
#[derive(Parser)]
#[command(name = "djqs-bench", version)]
struct Flags {
    /// A short run: shows that everything works; its figures mean little
    #[arg(long)]
    quick: bool,

    /// Only the work whose name begins so; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// How often all subjects take their turn [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Who takes part
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',',
          default_values_t = [Subject::Djqs, Subject::Beanstalkd, Subject::Redis, Subject::Floor])]
    subjects: Vec<Subject>,

    /// The server under test
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/server")]
    server: PathBuf,

    /// Another build of it, to compare with: takes part as the subject "rival"
    #[arg(long, value_name = "PROGRAM")]
    rival: Option<PathBuf>,

    /// The client program under test
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/client")]
    client: PathBuf,

    /// Keep the load generator to the first core and the servers to the others
    #[arg(long)]
    pin: bool,

    /// Where the servers may write; on the disk that the durable rows are about
    #[arg(long, value_name = "DIR", default_value = "target/bench-data")]
    data: PathBuf,

    /// Write benchmarks.md and its curves into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// List the names of the work and end
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.list {
        work::list().iter().for_each(|work| println!("{}\n    {}", work.name, work.about));
        return ExitCode::SUCCESS;
    }
    match run(flags) {
        Ok(all_there) if all_there => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("djqs-bench: something failed, see \"Not measured\" above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("djqs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what the flags select: whether nothing failed. What is skipped has not failed.
fn run(flags: Flags) -> Result<bool, Box<dyn Error>> {
    let chosen =
        |work: &Work| flags.only.is_empty() || flags.only.iter().any(|only| work.name.starts_with(only));
    let list: Vec<Work> = work::list().into_iter().filter(chosen).collect();
    if list.is_empty() {
        return Err(format!("no work is named {}: --list has the names", flags.only.join(" or ")).into());
    }
    machine::prepare();
    let facts = machine::facts(&flags.data);
    std::fs::create_dir_all(&flags.data)?;
    let mut subjects = flags.subjects;
    if flags.rival.is_some() && !subjects.contains(&Subject::Rival) {
        subjects.push(Subject::Rival);
    }
    subjects.sort();
    let places = Places {
        server: flags.server,
        client: flags.client,
        rival: flags.rival,
        floor: std::env::current_exe()?.with_file_name("floor"),
        data: flags.data,
        pin: flags.pin,
    };
    let scale = if flags.quick { Scale::QUICK } else { Scale::FULL };
    let rounds = flags.rounds.unwrap_or(if flags.quick { 1 } else { 5 });
    let outcomes: Vec<Outcome> =
        list.iter().map(|work| measure(work, &subjects, &places, scale, rounds)).collect();
    let head = Head { facts, rounds: rounds as usize, quick: flags.quick, subjects };
    print!("{}", head.tables(&outcomes));
    if let Some(out) = flags.out {
        write(&out, &head, &outcomes)?;
    }
    let failed =
        |outcome: &Outcome| outcome.troubles.values().any(|trouble| matches!(trouble, Trouble::Failed(_)));
    Ok(!outcomes.iter().any(failed))
}

/// All rounds of one kind of work, the subjects taking turns.
fn measure(work: &Work, subjects: &[Subject], places: &Places, scale: Scale, rounds: u32) -> Outcome {
    let mut outcome = Outcome::new(&work.name, work.about);
    for round in 1..=rounds {
        for &subject in work.subjects.iter().filter(|subject| subjects.contains(subject)) {
            // A subject that fails once is not measured again: its rounds would not match the others'.
            if !outcome.troubles.contains_key(&subject) {
                eprintln!("{}, round {round} of {rounds}: {subject}", work.name);
                outcome.add(subject, (work.run)(&Trial { subject, places: places.clone(), scale }));
            }
        }
    }
    for (index, line) in outcome.lines().iter().enumerate() {
        for &subject in subjects {
            if let Some(value) = outcome.value(subject, index) {
                eprintln!("  {}, {subject}: {} {}", line.title, show(value, line.unit), line.unit);
            }
        }
    }
    outcome
}

fn write(out: &Path, head: &Head, outcomes: &[Outcome]) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out)?;
    let plots = plot::draw(out, outcomes, &head.subjects)?;
    std::fs::write(out.join("benchmarks.md"), head.document(outcomes, &plots))?;
    eprintln!("wrote {}", out.join("benchmarks.md").display());
    Ok(())
}
