//! The layout's promises, as absences: who must not know whom. See docs/architecture.md.

use std::fs;
use std::path::{Path, PathBuf};

/// (the files, what must not stand in them, why)
const RULES: &[(&[&str], &[&str], &str)] = &[
    (
        &["src/queue/state.rs", "src/queue/state", "src/queue/table.rs", "src/queue/idset.rs"],
        &["Mutex", "Condvar", "Instant", "Clock", "std::fs", "std::net", "std::thread", "log::"],
        "the state machine takes no lock, reads no clock and does no I/O",
    ),
    (
        &["src/protocol.rs", "src/protocol"],
        &["std::net", "TcpStream", "std::fs", "crate::queue", "crate::broker", "crate::server"],
        "the protocol knows values and bytes only",
    ),
    (
        &[
            "src/client.rs",
            "src/client",
            "src/worker.rs",
            "src/worker",
            "src/bin/client.rs",
            "src/bin/worker.rs",
        ],
        &[
            "crate::broker",
            "crate::queue",
            "crate::server",
            "djqs::broker",
            "djqs::queue",
            "djqs::server",
            "Broker",
        ],
        "client and worker speak the wire like anybody else's program",
    ),
    (
        &["src/journal/space.rs"],
        &["Mutex", "Condvar", "Atomic", "Stopwatch", "std::fs", "std::thread", "log::"],
        "the policy for space takes facts and returns decisions",
    ),
    (
        &["src/journal/reserve.rs", "src/journal/account.rs", "src/journal/tail.rs", "src/journal/sync.rs"],
        &["super::writer", "super::compaction"],
        "what the writer and compaction use does not know them",
    ),
    (&["src/journal/writer.rs"], &["super::compaction"], "compaction uses the writer as any other user does"),
    (
        &["src/stats.rs", "src/stats"],
        &["crate::journal", "crate::queue", "crate::broker", "crate::server", "crate::protocol"],
        "counters are plain values, so that any engine can fill them in",
    ),
    (
        &["src/server.rs", "src/server"],
        &["crate::queue", "crate::journal", "crate::broker::embedded"],
        "the server knows the broker by its contract, so that it serves any engine",
    ),
    (
        &["src/queue.rs", "src/queue", "src/broker.rs", "src/broker"],
        &["std::net", "std::fs", "crate::server", "crate::protocol::native"],
        "queue and broker know neither sockets nor files nor text",
    ),
];

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        found.push(path.into());
    }
}

/// The code of a file, without comments and unit tests: those may speak of everything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn nobody_knows_whom_they_must_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (places, forbidden, why) in RULES {
        let mut files = Vec::new();
        places.iter().for_each(|place| {
            if root.join(place).exists() {
                rust_files(&root.join(place), &mut files);
            }
        });
        assert!(!files.is_empty(), "{places:?} are gone: mend the rule");
        for file in files {
            let code = code(&file);
            for word in *forbidden {
                assert!(!code.contains(word), "{} has {word}: {why}", file.display());
            }
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut before = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && line.contains('=') && !line.starts_with('#') {
            let explained =
                before.starts_with('#') || before.starts_with("env_logger") || before.starts_with("log ");
            assert!(explained, "{line} has no sentence that says why it is there");
        }
        before = line;
    }
}
