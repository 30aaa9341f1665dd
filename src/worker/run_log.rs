//! How a job's run ended, and the lines of the log as it starts and ends.

use std::time::Duration;

use log::info;

use super::job::WorkerJob;
use crate::printable::{cut, printable, printable_up_to};
use crate::protocol::native::format_duration;

/// How many bytes of a job's body are logged.
const BODY_SHOWN_MAX: usize = 80;

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunEnd {
    Done,
    Failed {
        retry_in: Duration,
        reason: String,
    },
    Dead {
        reason: String,
    },
    Returned {
        reason: String,
    },
    /// Somebody cancelled the job.
    Cancelled {
        why: String,
    },
    Lost {
        why: String,
    },
}

/// The body for a log line: escaped and shortened.
fn shown(job: &WorkerJob) -> String {
    printable_up_to(job.body(), BODY_SHOWN_MAX)
}

pub(super) fn log_start(job: &WorkerJob) {
    let (id, queue, attempt) = (job.id().0, job.queue().as_str(), job.attempt());
    let (task, body) = (job.task(), shown(job));
    let task = cut(&task, BODY_SHOWN_MAX);
    info!(event = "started", id = id, queue = queue, attempt = attempt, task = task, body = body.as_str();
        "started job {id} queue={queue} attempt={attempt}: {body}");
}

pub(super) fn log_end(job: &WorkerJob, took: Duration, end: &RunEnd) {
    let (id, queue, attempt) = (job.id().0, job.queue().as_str(), job.attempt());
    let (level, outcome, retry_in, reason) = match end {
        RunEnd::Done => (log::Level::Info, "done", None, ""),
        RunEnd::Failed { retry_in, reason } => (log::Level::Warn, "failed", Some(*retry_in), reason.as_str()),
        RunEnd::Dead { reason } => (log::Level::Warn, "dead", None, reason.as_str()),
        RunEnd::Returned { reason } => (log::Level::Info, "returned", None, reason.as_str()),
        RunEnd::Cancelled { why } => (log::Level::Info, "cancelled", None, why.as_str()),
        RunEnd::Lost { why } => (log::Level::Warn, "lost", None, why.as_str()),
    };
    let retry_in = retry_in.map(|wait| format_duration(wait).to_string()).unwrap_or_default();
    let seconds = took.as_millis() as f64 / 1000.0;
    let next = if retry_in.is_empty() { String::new() } else { format!(" retry_in={retry_in}") };
    let colon = if reason.is_empty() { "" } else { ": " };
    let body = shown(job);
    log::log!(level, event = "ended", id = id, queue = queue, attempt = attempt, seconds = seconds,
        outcome = outcome, retry_in = retry_in.as_str(), reason = reason, body = body.as_str();
        "ended job {id} queue={queue} attempt={attempt} seconds={seconds:.3} outcome={outcome}{next} ({body}){colon}{}",
        printable(reason.as_bytes()));
}
