//! Workers by name: how they introduce themselves, and the orders that they get.

use std::fmt;
use std::time::Duration;

use super::names::{JobId, WorkerName};

/// How a worker introduces one of its connections. All connections of one process have the same secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hello {
    /// Its name, for people. Several processes may have the same.
    pub name: WorkerName,
    /// Identifies the process, and gives its connections power over each other's leases.
    pub secret: Secret,
    /// The machine it runs on, for people.
    pub host: Option<Box<str>>,
    /// Its process number, for people.
    pub pid: Option<u32>,
    /// How many jobs it runs at a time, for people.
    pub slots: Option<u32>,
    /// Its version, for people.
    pub version: Option<Box<str>>,
    /// How long the leases of a lost connection wait for the process to come back. Zero: not at all.
    pub resume: Duration,
}

impl Hello {
    /// What a process with this name and secret says, without anything else.
    pub fn new(name: WorkerName, secret: Secret) -> Hello {
        Hello { name, secret, host: None, pid: None, slots: None, version: None, resume: Duration::ZERO }
    }
}

/// 128 random bits that a worker's process has to itself. `Debug` does not show them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(pub u128);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a worker should do. Orders are hints: they may be lost, and the lease is what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Stop working on this job: it was cancelled.
    Cancel(JobId),
    /// The lease of this job has ended; another worker may have it.
    Lost(JobId),
    /// Take no more jobs.
    Quiet,
    /// Take jobs again.
    Resume,
    /// Finish what runs, and end.
    Stop,
}

impl Order {
    /// The order's word, and the job that it is about, if it is about one.
    pub(crate) fn parts(self) -> (&'static str, Option<JobId>) {
        match self {
            Order::Cancel(id) => ("cancel", Some(id)),
            Order::Lost(id) => ("lost", Some(id)),
            Order::Quiet => ("quiet", None),
            Order::Resume => ("resume", None),
            Order::Stop => ("stop", None),
        }
    }
}

/// What an operator wants of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// That it works.
    #[default]
    Work,
    /// That it takes no more jobs.
    Quiet,
    /// That it finishes what runs, and ends.
    Stop,
}
