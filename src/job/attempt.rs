//! Attempts that have failed, as they are remembered.

use std::sync::Arc;

use super::names::WorkerName;

/// How many failed attempts of a job are remembered: the last ones.
pub const ATTEMPTS_REMEMBERED: usize = 10;

/// The longest reason that is kept with an attempt, in bytes; a longer one is cut. The job's last reason is kept
/// longer: see [`MAX_REASON_BYTES`](super::MAX_REASON_BYTES).
pub const ATTEMPT_REASON_BYTES_MAX: usize = 200;

/// An attempt of a job that has failed or crashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number among the failed attempts of the job: they count up, also when the job was retried after it had
    /// died.
    pub number: u32,
    /// The worker that had the job, if it had introduced itself.
    pub worker: Option<WorkerName>,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: u64,
    /// How it ended.
    pub end: AttemptEnd,
    /// Why it failed, as its worker said; at most [`ATTEMPT_REASON_BYTES_MAX`].
    pub reason: Option<Arc<str>>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its worker reported a failure.
    Failed,
    /// Its lease lapsed.
    Lapsed,
    /// The connection that held the lease was lost.
    Lost,
}

impl AttemptEnd {
    /// All three.
    pub const ALL: [AttemptEnd; 3] = [AttemptEnd::Failed, AttemptEnd::Lapsed, AttemptEnd::Lost];

    /// Its name in JSON: `failed`, `lapsed`, `lost`.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptEnd::Failed => "failed",
            AttemptEnd::Lapsed => "lapsed",
            AttemptEnd::Lost => "lost",
        }
    }
}
