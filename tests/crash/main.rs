//! The real server process, ended in every way that a machine has, and what it shows when it is started
//! again.
//!
//! `cargo test --test crash` is the short run. `make crash` is the long one. A failure prints its seed and
//! keeps its files. In the environment:
//! - `DJQS_SEED=…` throws the same dice again, though not at the same moments.
//! - `DJQS_CRASH_CYCLES=…` is how often the server is killed under load, over all three policies.
//! - `DJQS_CRASH_FAULTS=all` has every system call meet every fault; `kill`, `eio` or `enospc` that fault
//!   alone.
//!
//! Where strace may not be used, or no small disk can be made, those tests say "skipped" and why
//! (`--nocapture`).
//!
//! - [`history`] hears what was said and judges what is shown; [`fate`] knows what may become of a job.
//! - [`load`] is the clients, [`rig`] the directory and the process, [`look`] all that a server shows.
//! - [`kill`] ends the server at random moments under load.
//! - [`full`] fills a small disk, [`files`] looks at the directory itself.
//! - [`faults`] has chosen system calls fail, with [`strace`].
//! - [`checked`] sees to it that the history would notice.
#![allow(clippy::disallowed_methods, reason = "a test's watch is not the server's time")]

mod checked;
#[path = "../common/mod.rs"]
mod common;
mod dice;
mod fate;
mod faults;
mod files;
mod full;
mod history;
mod kill;
mod load;
mod look;
mod rig;
mod strace;
