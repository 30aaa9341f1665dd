//! The server under attack: clients that try to hold, stall or outgrow it, and what the others notice.

use std::io::Write;

use common::{Server, Talk, until};

mod common;

/// Sends a byte now and then until the server has dropped the connection. Never pauses for longer than it may.
fn drip_until_dropped(mut talk: Talk, what: &str) {
    until(what, || talk.stream.write_all(b"x").is_err());
}

#[test]
fn bytes_of_a_refused_command_are_no_progress() {
    let server = Server::start(&["--frame-timeout", "300ms"]);
    for beginning in [
        // Over the limit for a line, and for a header.
        format!("TASK: {}", "x".repeat(80_000)),
        format!("TASK key={}", "k".repeat(5_000)),
        // Bodies that are skipped.
        "TASK len=18446744073709551615:\n".into(),
        "NONSENSE len=1000000000:\n".into(),
    ] {
        let mut talk = server.connect();
        talk.send(&beginning);
        drip_until_dropped(talk, &format!("the end of {:.30}", beginning));
    }
}
