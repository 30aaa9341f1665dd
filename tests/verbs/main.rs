//! The verbs, rule by rule: each test is one sentence of docs/protocol.md, run against the engine's contract
//! (src/broker.rs). Tests of the state machine itself are in tests/state.rs; tests/state_machine asks whether
//! all rules hold at once.

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod fleet;
mod jobs;
mod leases;
mod operators;
mod pauses;
mod waiting;
mod why;
