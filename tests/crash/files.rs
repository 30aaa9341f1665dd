//! The data directory as its owner finds it: who may have it, what is kept, and what is refused.

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::common::{Server, Talk};
use crate::rig::{Policy, Site, contents, kill, start};

const SEGMENT_BYTES: u64 = 8 << 10;

fn site() -> Site {
    Site::new(Policy::Always, SEGMENT_BYTES)
}

/// Fills some segments.
fn fill(server: &Server) -> Talk {
    let mut talk = server.connect();
    for number in 1..=100 {
        assert_eq!(talk.ask(&format!("TASK: {number} {:0>100}", "")), format!("ACK {number}"));
    }
    talk
}

/// What a server that does not start says; it has to end with 1.
fn refusal(site: &Site) -> String {
    let status =
        start(&mut site.command()).map(|server| server.greeting.clone()).expect_err("it must not start");
    assert_eq!(status.code(), Some(1), "{}", site.log());
    site.log()
}

#[test]
fn second_server_is_refused_and_told_who_has_the_directory() {
    let site = site();
    let server = site.start();
    let mut talk = server.connect();
    assert_eq!(talk.ask("TASK: mine"), "ACK 1");
    // The first server may be making further segments.
    let theirs = || {
        let mut files = contents(site.data());
        files.retain(|name, _| name == "LOCK" || name == "0000000001.journal");
        files
    };
    let before = theirs();
    let said = refusal(&site);
    let expected =
        format!("{} is in use by another server (process {})", site.data().display(), server.child.id());
    assert!(said.contains(&expected), "{said}");
    assert!(before.len() == 2 && theirs() == before, "the directory was touched");
    assert_eq!(talk.ask("GET"), "JOB 1 queue=default attempt=1 ttr=1m: mine");
}

#[test]
fn directory_of_a_killed_server_is_free_at_once() {
    let site = site();
    for number in 1..=3 {
        let server = site.start();
        assert_eq!(server.connect().ask("TASK: next"), format!("ACK {number}"));
        kill(server);
    }
}

#[test]
fn directory_and_files_are_their_owners_alone() {
    let site = site();
    let server = site.start();
    let talk = fill(&server);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(site.data()), 0o700);
    let files: Vec<_> = std::fs::read_dir(site.data()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 3, "{files:?}");
    // One may be gone by now.
    for file in files.into_iter().filter(|file| file.exists()) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(talk);
}

#[test]
fn graceful_stop_is_told_from_any_other_end() {
    let site = site();
    let mut server = site.start();
    assert_eq!(server.stat("journal_replayed_clean"), "yes", "nothing was there");
    assert_eq!(server.connect().ask("TASK: a"), "ACK 1");
    server.signal(Signal::TERM);
    assert!(server.ended().success(), "{}", site.log());
    let server = site.start();
    assert_eq!(server.stat("journal_replayed_clean"), "yes");
    assert!(!server.greeting.contains("did not stop gracefully"), "{}", server.greeting);
    kill(server);
    let server = site.start();
    assert_eq!(server.stat("journal_replayed_clean"), "no");
    assert!(server.greeting.contains("did not stop gracefully"), "{}", server.greeting);
    assert!(server.greeting.contains("recovered 1 jobs from"), "{}", server.greeting);
}

#[test]
fn torn_tail_is_set_aside_and_the_log_says_where() {
    // All in one segment, so that nothing is compacted and the last job's batch is the last.
    let site = Site::new(Policy::Always, 64 << 10);
    let server = site.start();
    let mut talk = fill(&server);
    assert_eq!(talk.ask(&format!("TASK: {}", "long ".repeat(280))), "ACK 101");
    kill(server);
    // A sector of the last batch is as it was before: as if the power had gone while it was written.
    let (tail, end) = site.tail();
    let mut bytes = std::fs::read(&tail).unwrap();
    let sector = (end - 1000) / 512 * 512;
    bytes[sector..sector + 512].fill(0);
    std::fs::write(&tail, &bytes).unwrap();

    let server = site.start();
    assert!(server.greeting.contains("recovered 100 jobs"), "{}", server.greeting);
    let log = site.log();
    let line =
        log.lines().find(|line| line.contains("incomplete last write")).unwrap_or_else(|| panic!("{log}"));
    assert_eq!(log.matches(".torn").count(), 1, "it is logged once: {log}");
    let word = |n: usize| line.split_whitespace().nth(n).unwrap();
    let at = line.split_whitespace().position(|word| word == "bytes").unwrap();
    let (torn_from, torn_to): (usize, usize) = (word(at + 1).parse().unwrap(), word(at + 3).parse().unwrap());
    assert!(torn_from < sector && torn_to == end, "{line}, and {sector} was put back");
    assert!(line.contains(&tail.display().to_string()), "{line}");

    let files = contents(site.data());
    let kept: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(".torn")).collect();
    assert_eq!(kept.len(), 1, "{:?}", files.keys());
    assert!(line.contains(kept[0].0), "{line}");
    assert_eq!(kept[0].1[..], bytes[torn_from..torn_to], "what was kept is what was there");
    // And goes on behind it.
    assert_eq!(server.connect().ask("TASK: after"), "ACK 101");
    kill(server);
    assert!(site.start().greeting.contains("recovered 101 jobs"));
}

#[test]
fn flipped_bit_in_an_older_segment_is_refused_with_file_and_offset() {
    let site = site();
    let server = site.start();
    drop(fill(&server));
    kill(server);
    let oldest = &site.segments()[0];
    let sound = std::fs::read(oldest).unwrap();
    // Behind the segment's header, in the first batches.
    let offset = 4096 + 700;
    let mut bytes = sound.clone();
    bytes[offset] ^= 0x10;
    std::fs::write(oldest, &bytes).unwrap();

    let before = contents(site.data());
    let said = refusal(&site);
    let line = said.lines().find(|line| line.contains("server: ")).unwrap();
    assert!(line.contains(&oldest.display().to_string()), "{line}");
    let named = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<usize>().ok());
    let near = |number: usize| (4096..=offset).contains(&number);
    assert!(named.clone().any(near), "no offset of the batch with byte {offset} in {line}");
    assert!(without_lock(contents(site.data())) == without_lock(before), "something was changed");

    std::fs::write(oldest, sound).unwrap();
    assert!(site.start().greeting.contains("recovered 100 jobs"));
}

/// The lock file holds the number of the process that had it last.
fn without_lock(
    mut files: std::collections::BTreeMap<String, Vec<u8>>,
) -> std::collections::BTreeMap<String, Vec<u8>> {
    files.remove("LOCK");
    files
}

#[test]
fn segment_size_out_of_bounds_is_a_wrong_flag() {
    for (size, expected) in [("4KiB", "8.0 KiB"), ("2GiB", "1.0 GiB"), ("many", "whole number of bytes")] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_server"));
        let output = command.args(["--segment-size", size]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{size}: {said}");
    }
}
