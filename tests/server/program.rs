//! The program and the library around it: flags, signals, the start-up line, the log.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use djqs::internal::journal::{self, storage::DiskStorage};
use djqs::{Broker, broker, server};
use rustix::process::Signal;

use crate::common::{Server, Talk, until};

#[test]
fn start_up_lines_are_short_and_show_the_address_and_what_is_promised() {
    let directory = tempfile::TempDir::new().unwrap();
    let data = directory.path().to_str().unwrap();
    let kept = ["jobs are in ", "recovered 0 jobs from "];
    for (flags, lines) in [(&["--memory"][..], &["jobs are in memory only"][..]), (&["--data", data], &kept)]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        let server = Server::of(command.args(["-p", "0"]).args(flags));
        let expected = [&["djqs-server "], lines, &["room for "]].concat();
        let found: Vec<&str> = server.greeting.lines().collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (line, beginning) in found.into_iter().zip(expected) {
            assert!(line.starts_with(beginning) && line.len() <= 120 + data.len(), "{line}");
        }
        assert!(server.greeting.lines().next().unwrap().ends_with(&server.address.to_string()));
    }
}

#[test]
fn short_help_is_a_screen_and_names_the_long_one() {
    let help = |flag| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        String::from_utf8(command.arg(flag).env("COLUMNS", "80").output().unwrap().stdout).unwrap()
    };
    let [short, long] = ["-h", "--help"].map(help);
    assert!(short.lines().count() <= 24 && short.lines().all(|line| line.len() <= 80), "{short}");
    assert!(short.contains("--help explains more"), "{short}");
    for part in ["--fsync", "-F", "DJQS_FSYNC", "Signals:", "Exit codes:"] {
        assert!(long.contains(part), "no {part} in\n{long}");
    }
}

#[test]
fn help_and_version_have_the_name_that_the_program_was_called_by() {
    let directory = tempfile::TempDir::new().unwrap();
    let installed = directory.path().join("djqs-server");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_server"), &installed).unwrap();
    let page = |flag| String::from_utf8(Command::new(&installed).arg(flag).output().unwrap().stdout).unwrap();
    assert!(page("--version").starts_with("djqs-server "), "{}", page("--version"));
    for flag in ["-h", "--help"] {
        assert!(
            page(flag).contains("Usage: djqs-server ") && !page(flag).contains("{name}"),
            "{}",
            page(flag)
        );
    }
    assert!(page("--help").contains("$ djqs-server --memory"), "{}", page("--help"));
}

#[test]
fn every_thread_is_scheduled_as_batch_unless_another_policy_was_chosen() {
    let policies = |server: &Server| {
        let tasks = format!("/proc/{}/task", server.child.id());
        let stats = std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path().join("stat"));
        // "policy" is the 41st field, and the second may contain spaces (proc(5)).
        let policy =
            |stat: String| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(38).unwrap().to_owned();
        stats.map(|stat| policy(std::fs::read_to_string(stat).unwrap())).collect::<Vec<_>>()
    };
    let (batch, idle) = ("3", "5");
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.dialogue("> PING\n< PONG");
    let found = policies(&server);
    assert!(found.len() > 2 && found.iter().all(|policy| policy == batch), "{found:?}");

    let server = Server::of(Command::new("chrt").args([
        "--idle",
        "0",
        env!("CARGO_BIN_EXE_server"),
        "--memory",
        "-p",
        "0",
    ]));
    let found = policies(&server);
    assert!(found.len() > 2 && found.iter().all(|policy| policy == idle), "{found:?}");
}

#[test]
fn segments_have_room_for_twenty_of_the_longest_jobs_by_default() {
    let segment_bytes = |flags: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["-p", "0", "--data"]).arg(directory.path()).args(flags).stderr(Stdio::null());
        let _server = Server::of(&mut command);
        let files = std::fs::read_dir(directory.path()).unwrap();
        // Meanwhile the files created in advance are renamed.
        files.filter_map(|file| Some(file.unwrap().metadata().ok()?.len())).max().unwrap()
    };
    assert_eq!(segment_bytes(&[]), 16 << 20);
    let two_mib = 2 << 20;
    let found = segment_bytes(&["-z", "2097152"]);
    assert!((20 * two_mib..21 * two_mib).contains(&found), "{found}");
    let found = segment_bytes(&["-z", "2097152", "--segment-size", "64KiB"]);
    assert!((two_mib..2 * two_mib).contains(&found), "one such job must fit: {found}");
}

#[test]
fn embedded_server_leaves_nothing_behind_when_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut storage = None;
        until("the previous server has released the directory", || {
            storage = DiskStorage::open(directory.path()).ok();
            storage.is_some()
        });
        let options = journal::Options::default();
        let (broker, _) =
            Broker::open(broker::Config::default(), Arc::new(storage.unwrap()), options).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = server::Server::bind(address, broker.clone(), server::Config::default()).unwrap();
        let (address, stop) = (server.local_addr().unwrap(), server.stop_handle().unwrap());
        let serving = std::thread::spawn(move || server.run());
        // A waiting client, so that it is watched, and a disconnected one, so that its thread waits for the
        // next.
        let mut waits = Talk::to(address);
        waits.send("GET queue=nothing\n");
        let mut talk = Talk::to(address);
        assert_eq!(talk.ask("TASK: kept"), format!("ACK {round}"));
        drop(talk);
        until("it waits", || broker.stats().waiting == 1);
        stop.stop();
        serving.join().unwrap();
        assert!(waits.line().unwrap().starts_with("ERR draining"));
        broker.close().unwrap();
    }
}

#[test]
fn usr1_refuses_new_jobs_and_serves_old_ones() {
    let server = Server::start(&[]);
    let mut talk = server.connect();
    talk.ask("TASK: before");
    server.signal(Signal::USR1);
    until("it drains", || server.stat("draining") == "yes");
    assert!(talk.ask("TASK: after").starts_with("ERR draining "));
    assert!(talk.ask("GET").starts_with("JOB 1 "));
    assert_eq!(talk.ask("ACK 1"), "OK");
}

#[test]
fn term_tells_waiting_workers_answers_what_was_read_and_exits_0() {
    let mut server = Server::start(&[]);
    let mut waiting = server.connect();
    waiting.send("GET queue=other\n");
    let mut idle = server.connect();
    assert_eq!(idle.ask("TASK: x"), "ACK 1");
    until("it waits", || server.stat("waiting") == "1");
    server.signal(Signal::TERM);
    assert!(waiting.rest().starts_with("ERR draining "));
    assert_eq!(idle.rest(), "");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn second_signal_ends_the_server_at_once() {
    let mut server = Server::start(&[]);
    // A client that takes no replies keeps its thread, and so the server, busy for a while.
    let mut lazy = server.connect();
    lazy.ask(&format!("TASK: {}", "x".repeat(60_000)));
    lazy.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while lazy.stream.write_all(b"PEEK 1\n").is_ok() {}
    server.signal(Signal::INT);
    until("it accepts nothing more", || TcpStream::connect(server.address).is_err());
    server.signal(Signal::INT);
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
fn port_in_use_is_reported_with_the_flag_that_changes_it() {
    let server = Server::start(&[]);
    let port = server.address.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_server")).args(["--memory", "-p", &port]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(&port) && text.contains("-p"), "{text}");
}

#[test]
fn address_other_than_loopback_causes_a_warning() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let mut server =
        Server::of(command.args(["--memory", "-l", "0.0.0.0", "-p", "0"]).stderr(Stdio::piped()));
    let mut stderr = server.child.stderr.take().unwrap();
    server.signal(Signal::TERM);
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert!(text.contains("no authentication"), "{text}");
}

#[test]
fn wrong_flags_are_explained_with_exit_code_2() {
    for flags in [
        &["--port", "99999"][..],
        &["-z", "0"],
        &["--max-memory", "lots"],
        &["--frame-timeout", "0"],
        &["--nonsense"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_server")).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn every_flag_has_an_environment_variable() {
    let help = Command::new(env!("CARGO_BIN_EXE_server")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, options) = help.split_once("Options:\n").unwrap();
    // Each flag's text begins with a line such as "  -p, --port <PORT>".
    let flags: Vec<&str> = options.split("\n  -").flat_map(|part| part.split("\n      --")).collect();
    assert!(flags.len() > 15, "{flags:#?}");
    for flag in flags {
        let named =
            flag.contains("[env: DJQS_") || flag.contains("Print help") || flag.contains("Print the version");
        assert!(named, "{flag}");
    }
}

#[test]
fn flags_can_be_set_in_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let server = Server::of(
        command.env("DJQS_PORT", "0").env("DJQS_MEMORY", "1").env("DJQS_MAX_BODY", "10").arg0("server"),
    );
    let mut talk = server.connect();
    assert_eq!(talk.ask("TASK: 0123456789"), "ACK 1");
    assert!(talk.ask("TASK: 01234567890").starts_with("ERR too-big "));
}

#[test]
fn command_line_overrides_variables_and_a_variable_set_to_no_excludes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["-p", "0", "-b"]).arg(directory.path().join("jobs")).args(flags);
        command.envs(variables.iter().copied());
        command
    };
    for (flags, variables, promise) in [
        (&["--memory"][..], &[("DJQS_FSYNC", "50ms")][..], "memory"),
        (&["--fsync", "50ms"], &[("DJQS_MEMORY", "1")], "every 50ms"),
        (&["-F"], &[("DJQS_FSYNC", "50ms"), ("DJQS_FSYNC_MS", "20")], "never"),
        (&["-f", "20", "-f", "30"], &[], "every 30ms"),
        (&[], &[("DJQS_MEMORY", "0"), ("DJQS_FSYNC_NEVER", "no"), ("DJQS_FSYNC", "50ms")], "every 50ms"),
    ] {
        let found = Server::of(&mut server(flags, variables)).greeting.clone();
        assert!(found.contains(promise), "{flags:?} {variables:?}: {found}");
    }
    for (flags, variables, problem) in [
        (&["--memory", "-F"][..], &[][..], "--memory cannot be used with -F"),
        (&[], &[("DJQS_MEMORY", "1"), ("DJQS_FSYNC", "50ms")], "DJQS_MEMORY cannot be used with DJQS_FSYNC"),
    ] {
        let refused = server(flags, variables).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains(problem), "{text}");
    }
}

#[test]
fn outside_text_is_escaped_in_the_log() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let mut server =
        Server::of(command.args(["--memory", "-p", "0"]).env("RUST_LOG", "debug").stderr(Stdio::piped()));
    let mut stderr = server.child.stderr.take().unwrap();
    let mut talk = server.connect();
    talk.send("TASK queue=\x1b[31mred\x07: x\nEVIL\x1b]0;title\x07\n");
    talk.line();
    talk.line();
    server.signal(Signal::TERM);
    let mut text = Vec::new();
    stderr.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).expect("the log is text");
    assert!(text.contains("bad-name"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}
