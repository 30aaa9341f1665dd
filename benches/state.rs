//! Micro-benchmarks of the state machine: to come.
fn main() {}
