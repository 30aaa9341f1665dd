//! The dialogues in docs/protocol.md, replayed against a real server: what the reference says is what
//! happens.

use std::fs;
use std::path::Path;

use common::Server;

mod common;

#[test]
fn dialogues_of_the_reference_happen_as_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let text = fs::read_to_string(path).unwrap();
    let mut replayed = 0;
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once("```dialogue\n") {
        let (dialogue, after) = after.split_once("```").expect("every block is closed");
        Server::start(&[]).connect().dialogue(dialogue);
        replayed += 1;
        rest = after;
    }
    assert!(replayed >= 10, "only {replayed} dialogues found");
}
