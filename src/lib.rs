//! DJQS, the Distributed Job Queue System: a job queue that keeps what it acknowledged, as a server, a worker
//! and a client that speak lines of text over TCP, and as the library that these three programs are made of.
//!
//! # The map
//!
//! | to | look at |
//! |---|---|
//! | submit jobs, or look after a queue | [`Client`] |
//! | work on jobs, with a closure for each task name | [`Worker`] |
//! | have the queue inside your own program | [`Broker`], whose clients are [`broker::Session`]s |
//! | serve it to others | [`server::Server`] |
//! | keep jobs on disk | [`Broker::open`] |
//! | speak the protocol yourself | [`protocol`], and docs/protocol.md |
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `programs` | yes | the programs `server`, `worker` and `client`, and the crates that only they need |
//! | `serde` | yes | bodies as JSON: [`Submission::json`], [`Lease::json`], [`worker::WorkerJob::json`]; needs no more crates |
//!
//! A program that uses the library needs none of it: `djqs = { version = "0.1", default-features = false }`.
//!
//! # A job's life
//!
//! ```text
//!             TASK delay=…            TASK
//!                  |                    |
//!                  v      time is up    v        GET             ACK
//!              [delayed] ----------> [ready] ----------> [leased] ----> gone
//!                  ^                  ^  ^                 |  |
//!                  |  FAIL: backoff   |  |  RETURN, lease  |  |
//!                  +------------------|--|--lapsed or lost-+  | FAIL, attempts spent
//!                                     |  +-----------------+  v
//!                                     +----- RETRY ------ [dead]
//! ```
//!
//! # All of it in one program
//!
//! A broker in memory, served on a port that the system chooses, and a client that submits a job and does it:
//!
//! ```
//! use djqs::protocol::Wait;
//! use djqs::server::{Config, Server};
//! use djqs::{Broker, Client, Submission, broker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::in_memory(broker::Config::default());
//! let server = Server::bind("127.0.0.1:0".parse()?, broker, Config::default())?;
//! let (address, stop) = (server.local_addr()?, server.stop_handle()?);
//! let serving = std::thread::spawn(move || server.run());
//!
//! let mut client = Client::connect(&address.to_string())?;
//! let accepted = client.submit(Submission::new("SEND_NOTIFICATION: 1s_delay"))?;
//! let lease = client.get(&[], Wait::AtMost(std::time::Duration::ZERO))?.expect("there is a job");
//! assert_eq!((lease.id, &lease.body[..]), (accepted.id, &b"SEND_NOTIFICATION: 1s_delay"[..]));
//! client.ack(lease.id)?;
//!
//! stop.stop();
//! serving.join().expect("the server does not panic");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(missing_debug_implementations)]

pub mod broker;
mod change;
pub mod client;
mod clock;
pub mod error;
pub mod job;
mod journal;
mod printable;
pub mod protocol;
mod queue;
pub mod server;
pub mod stats;
pub mod worker;

/// What the project's own programs, tests, benchmarks and fuzz targets need beyond the public names. It is no
/// part of the interface: anything here may change in any release.
#[doc(hidden)]
pub mod internal {
    /// Changes to jobs, as values.
    pub mod change {
        pub use crate::change::*;
    }
    /// The clocks, among them the one that a test moves.
    pub mod clock {
        pub use crate::clock::*;
    }
    /// The journal and its storage, simulated disks included.
    pub mod journal {
        pub use crate::journal::*;
    }
    /// The shared queue and the state machine.
    pub mod queue {
        pub use crate::queue::*;
    }
}

pub use broker::Broker;
pub use client::Client;
pub use error::{Code, Error, Refusal};
#[cfg(feature = "serde")]
pub use job::BadJson;
pub use job::{Job, JobId, JobState, Key, Lease, Options, Priority, QueueName, Submission};
pub use worker::Worker;
