//! A worker with a closure for each task name. Start a server, then this, then submit:
//!
//! ```text
//! cargo run --release --bin server -- --memory
//! cargo run --release --example worker
//! printf 'TASK: SEND_NOTIFICATION: user 9: hello\nTASK: CLEANUP_LOGS: 2s\n' | nc -N 127.0.0.1 11300
//! ```
//! Another server is given as an argument: `--example worker -- ADDRESS`. With `--drain` behind that it ends
//! when the queue has nothing left to do; otherwise with Ctrl-C, which hands back what it works on.

use std::process::ExitCode;
use std::thread;

use djqs::protocol::native::parse_duration;
use djqs::worker::{Outcome, Worker, WorkerJob};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    // A line as a job starts and one as it ends.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "127.0.0.1:11300".into());
    let mut worker = Worker::new(server)
        .concurrency(4)
        // What returns nothing is done when it returns.
        .on("SEND_NOTIFICATION", |job| println!("to be sent: {}", job.args()))
        // An error is a failure: the job is tried again after its backoff, with the error's text as the
        // reason.
        .on("CHECK_FILE", |job| std::fs::metadata(job.args().trim()).map(|_| ()))
        .on("CLEANUP_LOGS", clean_up_logs)
        // No attempt will do better: the job is dead at once, to be looked at.
        .otherwise(|job| {
            Outcome::dead(format_args!("nobody here can do {:?}", String::from_utf8_lossy(job.body())))
        });
    if arguments.next().as_deref() == Some("--drain") {
        worker = worker.drain();
    }
    let control = worker.control();
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("can't handle signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    thread::spawn(move || signals.forever().for_each(|_| control.stop()));
    match worker.run() {
        Ok(summary) => println!("{summary}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Takes as long as the job says. The lease is renewed meanwhile; if it is lost or the worker has to stop,
/// the wait ends early and the job is handed back.
fn clean_up_logs(job: &WorkerJob) -> Outcome {
    match parse_duration(job.args().trim()) {
        Err(problem) => Outcome::dead(problem),
        Ok(time) if job.wait_cancelled(time) => Outcome::returned(),
        Ok(_) => Outcome::Done,
    }
}
