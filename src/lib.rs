//! DJQS, the Distributed Job Queue System.
#![forbid(unsafe_code)]

pub mod broker;
pub mod change;
pub mod client;
pub mod clock;
pub mod error;
pub mod job;
pub mod journal;
pub mod protocol;
pub mod queue;
pub mod server;
pub mod stats;
pub mod worker;

pub use broker::Broker;
pub use client::Client;
pub use error::{Code, Error, Refusal};
pub use job::{Job, JobId, JobState, Key, Lease, Options, Priority, QueueName, Submission};
pub use worker::Worker;
