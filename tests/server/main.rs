//! The server as its clients see it: one behaviour a test, over real sockets.

#[path = "../common/mod.rs"]
mod common;
mod program;
mod serving;
