//! The beanstalkd dialect as its clients meet it, byte for byte, over real sockets: one behaviour a test.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use common::{PATIENCE, Server, Talk, aside, until};
use rustix::process::Signal;

mod common;
mod decoding;

/// A dialogue in this dialect: what is sent and what must come back, both as they are.
trait Dialect {
    /// Sends bytes, and reads as many as are expected.
    fn say(&mut self, sent: &str, expected: &str);
    fn say_bytes(&mut self, sent: &[u8], expected: &[u8]);
    /// A document that comes back: `OK <size>`, the text, CR LF.
    fn yaml(&mut self, sent: &str) -> String;
}

impl Dialect for Talk {
    #[track_caller]
    fn say(&mut self, sent: &str, expected: &str) {
        self.say_bytes(sent.as_bytes(), expected.as_bytes());
    }

    #[track_caller]
    fn say_bytes(&mut self, sent: &[u8], expected: &[u8]) {
        self.send(sent);
        let got = self.exactly(expected.len());
        assert_eq!(
            got.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "the answer to {}",
            sent[..sent.len().min(300)].escape_ascii()
        );
    }

    #[track_caller]
    fn yaml(&mut self, sent: &str) -> String {
        self.send(sent);
        let head = self.line().unwrap();
        let size = head.strip_prefix("OK ").and_then(|rest| rest.strip_suffix('\r'));
        let size: usize = size.unwrap_or_else(|| panic!("{sent:?} was answered {head:?}")).parse().unwrap();
        let text = String::from_utf8(self.exactly(size)).unwrap();
        assert_eq!(self.exactly(2), b"\r\n");
        assert!(text.starts_with("---\n"), "{text}");
        text
    }
}

/// The value of a key.
#[track_caller]
fn value(yaml: &str, key: &str) -> String {
    let prefix = format!("{key}: ");
    let found = yaml.lines().find_map(|line| line.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no {key} in {yaml}")).to_owned()
}

/// The values of several keys.
#[track_caller]
fn values<const N: usize>(yaml: &str, keys: [&str; N]) -> [String; N] {
    keys.map(|key| value(yaml, key))
}

fn keys(yaml: &str) -> Vec<&str> {
    yaml.lines().skip(1).map(|line| line.split_once(": ").unwrap().0).collect()
}

fn start() -> (Server, Talk) {
    start_with(&[])
}

fn start_with(flags: &[&str]) -> (Server, Talk) {
    let server = Server::start(flags);
    let talk = server.connect();
    (server, talk)
}

// ---- put ----

#[test]
fn put_and_reserve_bring_a_body_across_as_it_is() {
    let (_server, mut talk) = start();
    talk.say("put 0 0 60 5\r\nhello\r\n", "INSERTED 1\r\n");
    talk.say("reserve\r\n", "RESERVED 1 5\r\nhello\r\n");
    talk.say("delete 1\r\n", "DELETED\r\n");
    let all: Vec<u8> = (0..=255).collect();
    talk.say_bytes(&[b"put 0 0 60 256\r\n", &all[..], b"\r\n"].concat(), b"INSERTED 2\r\n");
    talk.say_bytes(b"reserve\r\n", &[b"RESERVED 2 256\r\n", &all[..], b"\r\n"].concat());
    talk.say("delete 2\r\nput 0 0 60 0\r\n\r\nreserve\r\n", "DELETED\r\nINSERTED 3\r\nRESERVED 3 0\r\n\r\n");
}

#[test]
fn body_without_its_line_end_gets_expected_crlf_after_exactly_its_size_and_two() {
    let (_server, mut talk) = start();
    talk.say("put 0 0 60 3\r\nabcdeuse x\r\n", "EXPECTED_CRLF\r\nUSING x\r\n");
    talk.say("put 0 0 60 3\r\nabc\n\nuse y\r\n", "EXPECTED_CRLF\r\nUSING y\r\n");
    talk.say("put 0 0 60 3\r\nab\r\n\rlist-tube-used\r\n", "EXPECTED_CRLF\r\nUSING y\r\n");
    talk.say("peek-ready\r\n", "NOT_FOUND\r\n");
}

#[test]
fn body_one_byte_too_long_does_not_put_the_replies_out_of_step() {
    let (_server, mut talk) = start_with(&["-z", "10"]);
    talk.say("put 0 0 60 3\r\nabcd\r\nuse x\r\n", "EXPECTED_CRLF\r\nUSING x\r\n");
    talk.say("put 0 0 60 11\r\n012345678901\r\nuse y\r\n", "JOB_TOO_BIG\r\nUSING y\r\n");
    talk.say("put 0 x 60 3\r\nabcd\r\nuse z\r\n", "BAD_FORMAT\r\nUSING z\r\n");
    // The line end may come later, or never.
    talk.say("put 0 0 60 3\r\nabcd\r", "EXPECTED_CRLF\r\n");
    talk.say("\nuse a\r\n", "USING a\r\n");
    talk.say("put 0 0 60 3\r\nabcd\r", "EXPECTED_CRLF\r\n");
    talk.say("use b\r\n\r\n", "USING b\r\nUNKNOWN_COMMAND\r\n");
}

#[test]
fn what_could_be_of_either_dialect_is_answered_in_that_of_the_line_before() {
    let (_server, mut talk) = start();
    for line in ["", " use x", "\tuse x", "1", "{\"a\":1}", "-", "é"] {
        talk.say(&format!("list-tube-used\r\n{line}\r\n"), "USING default\r\nUNKNOWN_COMMAND\r\n");
        assert_eq!(talk.ask("PING"), "PONG");
        assert!(talk.ask(&format!("{line}\r")).starts_with("ERR unknown-verb "), "{line:?}");
    }
    let long = " ".repeat(300);
    talk.say(&format!("list-tube-used\r\n{long}\r\n"), "USING default\r\nBAD_FORMAT\r\n");
    talk.say("list-tube-used\r\n\0use x\r\n", "USING default\r\nBAD_FORMAT\r\n");
}

#[test]
fn body_of_the_limit_is_taken_and_one_byte_more_is_skipped() {
    let (_server, mut talk) = start_with(&["-z", "10"]);
    talk.say("put 0 0 60 10\r\n0123456789\r\n", "INSERTED 1\r\n");
    talk.say("put 0 0 60 11\r\n01234567890\r\nuse a\r\n", "JOB_TOO_BIG\r\nUSING a\r\n");
    // The bytes in place of its line end belong to it too.
    talk.say("put 0 0 60 11\r\nstats\r\nstats!use b\r\n", "JOB_TOO_BIG\r\nUSING b\r\n");
    assert_eq!(value(&talk.yaml("stats\r\n"), "max-job-size"), "10");
}

#[test]
fn body_of_a_gigabyte_is_skipped_in_little_memory() {
    let (server, mut talk) = start();
    let size: usize = 1 << 30;
    let writer = talk.stream.try_clone().unwrap();
    let sent = aside(move || {
        let mut writer = &writer;
        writer.write_all(format!("put 0 0 60 {size}\r\n").as_bytes()).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        (0..1024).for_each(|_| writer.write_all(&chunk).unwrap());
        writer.write_all(b"\r\nuse still-here\r\n").unwrap();
    });
    talk.say("", "JOB_TOO_BIG\r\nUSING still-here\r\n");
    sent.recv().unwrap();
    let peak = server.process_figure("VmHWM");
    assert!(peak < 100_000, "{peak} KiB");
}

#[test]
fn bad_put_line_whose_size_can_be_read_takes_its_body_with_it() {
    let (_server, mut talk) = start();
    for line in [
        "put x 0 60 7",
        "put 0 -1 60 7",
        "put 0 0 4294967296 7",
        "put 0 0 60 7 x",
        "put 0 0 60 7 ",
        "put 4294967296 0 60 7",
        "put 1a 0 60 7",
    ] {
        talk.say(&format!("{line}\r\nuse bad\r\nlist-tube-used\r\n"), "BAD_FORMAT\r\nUSING default\r\n");
    }
}

#[test]
fn bad_put_line_whose_size_can_not_be_read_is_one_line() {
    let (_server, mut talk) = start();
    for line in ["put 0 0 60", "put", "put ", "put 0 0 60 -1", "put 0 0 60 x", "put 0 0 60 4294967296"] {
        let expected = if line == "put" { "UNKNOWN_COMMAND\r\n" } else { "BAD_FORMAT\r\n" };
        talk.say(&format!("{line}\r\n"), expected);
        talk.say("list-tube-used\r\n", "USING default\r\n");
    }
}

#[test]
fn numbers_at_their_limits_are_taken() {
    let (_server, mut talk) = start();
    talk.say("put 4294967295 4294967295 4294967295 1\r\nx\r\n", "INSERTED 1\r\n");
    let stats = talk.yaml("stats-job 1\r\n");
    assert_eq!(values(&stats, ["pri", "ttr", "delay"]), ["4294967295"; 3]);
    assert_eq!(value(&stats, "state"), "delayed");
    talk.say("put   0   0   60   1\r\nx\r\n", "INSERTED 2\r\n");
    talk.say("peek 18446744073709551615\r\n", "NOT_FOUND\r\n");
    talk.say("peek 18446744073709551616\r\n", "BAD_FORMAT\r\n");
}

#[test]
fn ttr_of_nothing_is_a_second() {
    let (_server, mut talk) = start();
    talk.say("put 0 0 0 1\r\nx\r\n", "INSERTED 1\r\n");
    assert_eq!(value(&talk.yaml("stats-job 1\r\n"), "ttr"), "1");
}

#[test]
fn half_received_put_is_invisible() {
    let (server, mut talk) = start();
    let mut other = server.connect();
    talk.send("put 0 0 60 5\r\nhel");
    other.say("peek-ready\r\nput 0 0 60 1\r\nx\r\n", "NOT_FOUND\r\nINSERTED 1\r\n");
    talk.say("lo\r\n", "INSERTED 2\r\n");
    talk.send("put 0 0 60 5\r\nhel");
    drop(talk);
    until("it is gone", || server.stat("connections") == "2");
    assert_eq!(value(&other.yaml("stats\r\n"), "current-jobs-ready"), "2");
}

#[test]
fn drained_server_reads_the_body_first() {
    let (server, mut talk) = start();
    talk.say("put 0 0 60 1\r\nx\r\n", "INSERTED 1\r\n");
    server.signal(Signal::USR1);
    until("it drains", || server.stat("draining") == "yes");
    talk.say("put 0 0 60 5\r\nhello\r\n", "DRAINING\r\n");
    talk.say("put 0 0 60 5\r\nhello..", "EXPECTED_CRLF\r\n");
    talk.say("reserve\r\nrelease 1 0 0\r\n", "RESERVED 1 1\r\nx\r\nRELEASED\r\n");
    assert_eq!(value(&talk.yaml("stats\r\n"), "draining"), "true");
}

#[test]
fn out_of_memory_refuses_puts_alone() {
    // New tubes have a reserve beyond the limit, so that workers can watch when jobs have taken all the
    // memory.
    let (_server, mut talk) = start_with(&["--max-memory", "1800"]);
    let body = "x".repeat(1000);
    talk.say("use a\r\n", "USING a\r\n");
    talk.say(&format!("put 0 0 60 1000\r\n{body}\r\nlist-tube-used\r\n"), "OUT_OF_MEMORY\r\nUSING a\r\n");
    talk.say("put 0 0 60 1\r\nx\r\nwatch a\r\n", "INSERTED 1\r\nWATCHING 2\r\n");
    talk.say("reserve-job 1\r\ndelete 1\r\n", "RESERVED 1 1\r\nx\r\nDELETED\r\n");
}

// ---- lines ----

#[test]
fn line_of_224_bytes_is_read_and_one_of_225_is_not() {
    let (_server, mut talk) = start();
    for (length, expected) in [(224, "USING x\r\n"), (225, "BAD_FORMAT\r\n"), (10_000, "BAD_FORMAT\r\n")] {
        let spaces = " ".repeat(length - "touch 1\r\n".len());
        let expected = if length == 224 { "NOT_FOUND\r\n" } else { expected };
        talk.say(&format!("touch {spaces}1\r\n"), expected);
        // The same if it comes in two parts.
        let line = format!("touch {spaces}1\r\n");
        talk.send(&line[..200]);
        talk.say(&line[200..], expected);
    }
    let name = "n".repeat(200);
    talk.say(&format!("use {name}\r\n"), &format!("USING {name}\r\n"));
    talk.say(&format!("use {name}n\r\n"), "BAD_FORMAT\r\n");
}

#[test]
fn commands_split_at_every_byte_are_understood() {
    let (_server, mut talk) = start();
    let script = "use a\r\nput 1 0 60 5\r\na\r\nb\n\r\nwatch a\r\nreserve\r\nbury 1 7\r\nkick 9\r\nput 0 0 60 2\r\nabcdquit\r\n";
    let expected = "USING a\r\nINSERTED 1\r\nWATCHING 2\r\nRESERVED 1 5\r\na\r\nb\n\r\nBURIED\r\nKICKED 1\r\nEXPECTED_CRLF\r\n";
    for byte in script.as_bytes() {
        talk.send([*byte]);
    }
    assert_eq!(talk.rest(), expected);
}

#[test]
fn same_commands_come_out_however_the_bytes_are_cut() {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let seed = RandomState::new().build_hasher().finish();
    let mut state = seed;
    let mut below = |end: u64| {
        // Steele, Lea and Flood's SplitMix.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    };
    let limits = djqs::protocol::FrameLimits { body_max: 20 };
    let long = "x".repeat(221);
    let lines = [
        "put 0 0 60 5\r\nhello\r\n",
        "put 0 0 60 20\r\nexactly twenty bytes\r\n",
        "put 0 0 60 21\r\nreserve\r\nreserve\r\nxyz\r\n",
        "put 0 0 60 5\r\nhell",
        "put 0 x 60 5\r\nstats\r\n",
        "put 0 0 60 5 \r\nquit\r\n\r\n",
        "put 0 0 60\r\n",
        "reserve\r\n",
        "use a\n",
        "delete 7\r\n",
        "nonsense\r\n",
        "nonsense\n",
        "nonsense len=3:\nabc\n",
        "nonsense\r",
        "\r\n",
        "TASK len=3:\nabc\n",
        "PING\r\n",
        &long,
        "\r",
        "\n",
        "x",
    ];
    for round in 0..3_000 {
        let count = 1 + below(12);
        let bytes: String = (0..count).map(|_| lines[below(lines.len() as u64) as usize]).collect();
        let sizes: Vec<usize> = (0..5).map(|_| 1 + below(40) as usize).collect();
        let whole = decoding::decode(limits, [bytes.as_bytes()]);
        let cut = decoding::decode(limits, decoding::pieces(bytes.as_bytes(), &sizes));
        assert_eq!(whole, cut, "seed {seed}, round {round}: {bytes:?} in pieces of {sizes:?}");
    }
}

#[test]
fn commands_sent_ahead_are_answered_in_order() {
    let (_server, mut talk) = start();
    let writer = talk.stream.try_clone().unwrap();
    let sent = aside(move || {
        let text: String =
            (1..=5_000).map(|n| format!("put 0 0 60 4\r\n{n:04}\r\nreserve\r\ndelete {n}\r\n")).collect();
        (&writer).write_all(text.as_bytes()).unwrap();
    });
    for n in 1..=5_000 {
        talk.say("", &format!("INSERTED {n}\r\nRESERVED {n} 4\r\n{n:04}\r\nDELETED\r\n"));
    }
    sent.recv().unwrap();
}

#[test]
fn commands_behind_a_reserve_that_waits_come_after_it() {
    let (server, mut talk) = start();
    talk.send("reserve\r\nuse later\r\nreserve-with-timeout 0\r\n");
    server.until_waiting(1);
    server.connect().say("put 0 0 60 1\r\nx\r\n", "INSERTED 1\r\n");
    talk.say("", "RESERVED 1 1\r\nx\r\nUSING later\r\nTIMED_OUT\r\n");
}

#[test]
fn line_may_end_in_lf_alone() {
    let (_server, mut talk) = start();
    talk.say("use a\nput 0 0 60 1\nx\r\npeek-ready\n", "USING a\r\nINSERTED 1\r\nFOUND 1 1\r\nx\r\n");
}

#[test]
fn typed_line_that_is_no_command_is_answered_by_the_dialect_for_people() {
    let (_server, mut talk) = start();
    assert!(talk.ask("task: CLEANUP_LOGS").starts_with("ERR unknown-verb "));
    talk.send("nonsense len=8:\nuse evil\n");
    assert!(talk.line().unwrap().starts_with("ERR unknown-verb "));
    talk.say("use good\n", "USING good\r\n");
}

#[test]
fn what_is_no_command_is_told_so() {
    let (_server, mut talk) = start();
    for line in ["foo", "delete", "peek", "kick", "touch", "bury", "use", "putt 0 0 60 1", "reserv", "x y z"]
    {
        talk.say(&format!("{line}\r\n"), "UNKNOWN_COMMAND\r\n");
    }
}

#[test]
fn what_is_not_in_its_form_is_told_so() {
    let (_server, mut talk) = start();
    for line in [
        "delete ",
        "delete x",
        "delete 1 ",
        "delete 1 2",
        "delete -1",
        "delete +1",
        "peek 1x",
        "touch 0x1",
        "release 1",
        "release 1 2",
        "release 1 2 3 4",
        "release 1 4294967296 0",
        "release 1 0 4294967296",
        "release 1 -1 0",
        "bury 1",
        "bury 1 2 3",
        "bury 1 4294967296",
        "kick x",
        "kick 1abc",
        "kick -1",
        "kick-job ",
        "reserve ",
        "reserve 5",
        "reserved",
        "reserve-job x",
        "reserve-job",
        "reserve-with-timeout",
        "reserve-with-timeout ",
        "reserve-with-timeout -1",
        "reserve-with-timeout 1x",
        "reserve-with-timeout 2147483648",
        "peek-readyx",
        "peek-delayed 1",
        "peek-buried ",
        "use ",
        "use -a",
        "use a b",
        "use a,b",
        "watch  a",
        "ignore a\u{e9}",
        "stats-job x",
        "stats-tube -",
        "stats ",
        "statsx",
        "list-tubesx",
        "list-tube-usedx",
        "list-tubes-watched x",
        "pause-tube a",
        "pause-tube a x",
        "pause-tube -a 1",
        "pause-tube a 4294967296",
        "quit x",
        "foo\0bar",
        "use a\0",
    ] {
        talk.say(&format!("{line}\r\n"), "BAD_FORMAT\r\n");
    }
}

#[test]
fn http_requests_are_turned_away_whatever_their_case() {
    for request in [
        "get /put HTTP/1.1\r\nput 0 0 60 1\r\nx\r\n",
        "use HTTP/1.1\r\nput 0 0 60 1\r\nx\r\n",
        "put 0 0 60 1 HTTP/1.0\r\nx\r\n",
    ] {
        let (server, mut talk) = start();
        talk.send(request);
        assert!(talk.rest().starts_with("HTTP/1.1 400 "), "{request}");
        assert_eq!(server.stat("submitted_total"), "0");
    }
}

// ---- use, watch, ignore ----

#[test]
fn tube_exists_while_it_is_used_or_watched_or_has_jobs() {
    let (server, mut talk) = start();
    let mut other = server.connect();
    other.say("stats-tube a\r\n", "NOT_FOUND\r\n");
    talk.say("use a\r\n", "USING a\r\n");
    let stats = other.yaml("stats-tube a\r\n");
    assert_eq!(values(&stats, ["current-using", "current-watching"]), ["1", "0"]);
    talk.say("watch a\r\nuse default\r\n", "WATCHING 2\r\nUSING default\r\n");
    let stats = other.yaml("stats-tube a\r\n");
    assert_eq!(values(&stats, ["current-using", "current-watching"]), ["0", "1"]);
    talk.say("ignore a\r\n", "WATCHING 1\r\n");
    other.say("stats-tube a\r\n", "NOT_FOUND\r\n");
    talk.say("use a\r\nput 0 0 60 1\r\nx\r\nuse b\r\n", "USING a\r\nINSERTED 1\r\nUSING b\r\n");
    assert_eq!(value(&other.yaml("stats-tube a\r\n"), "current-jobs-ready"), "1");
    other.say("delete 1\r\nstats-tube a\r\n", "DELETED\r\nNOT_FOUND\r\n");
    drop(talk);
    until("b is gone with its user", || other.yaml("list-tubes\r\n") == "---\n- default\n");
}

#[test]
fn default_tube_is_always_there() {
    let (server, mut talk) = start();
    assert_eq!(talk.yaml("list-tubes\r\n"), "---\n- default\n");
    let stats = talk.yaml("stats-tube default\r\n");
    assert_eq!(value(&stats, "name"), "\"default\"");
    assert_eq!(values(&stats, ["current-using", "current-watching"]), ["1", "1"]);
    let mut other = server.connect();
    other.say("use a\r\nwatch a\r\nignore default\r\n", "USING a\r\nWATCHING 2\r\nWATCHING 1\r\n");
    let stats = talk.yaml("stats-tube default\r\n");
    assert_eq!(values(&stats, ["current-using", "current-watching"]), ["1", "1"]);
    assert_eq!(value(&talk.yaml("stats\r\n"), "current-tubes"), "2");
}

#[test]
fn default_tube_goes_on_counting_when_it_has_become_empty() {
    let (_server, mut talk) = start();
    talk.say("pause-tube default 0\r\n", "PAUSED\r\n");
    talk.say(
        "put 0 0 60 1\r\nx\r\ndelete 1\r\nput 0 0 60 1\r\nx\r\ndelete 2\r\n",
        "INSERTED 1\r\nDELETED\r\nINSERTED 2\r\nDELETED\r\n",
    );
    talk.say("pause-tube default 9\r\npause-tube default 0\r\n", "PAUSED\r\nPAUSED\r\n");
    let stats = talk.yaml("stats-tube default\r\n");
    let keys = ["total-jobs", "cmd-delete", "cmd-pause-tube", "current-using"];
    assert_eq!(values(&stats, keys), ["2", "2", "3", "1"]);
}

#[test]
fn tubes_are_listed_in_the_order_in_which_they_were_created() {
    let (_server, mut talk) = start();
    talk.say(
        "watch c\r\nwatch a\r\nwatch b\r\nwatch a\r\n",
        "WATCHING 2\r\nWATCHING 3\r\nWATCHING 4\r\nWATCHING 4\r\n",
    );
    assert_eq!(talk.yaml("list-tubes\r\n"), "---\n- default\n- c\n- a\n- b\n");
    talk.say("ignore c\r\nignore nothing\r\nwatch c\r\n", "WATCHING 3\r\nWATCHING 3\r\nWATCHING 4\r\n");
    assert_eq!(talk.yaml("list-tubes-watched\r\n"), "---\n- default\n- a\n- b\n- c\n");
    assert_eq!(talk.yaml("list-tubes\r\n"), "---\n- default\n- a\n- b\n- c\n");
}

#[test]
fn only_watched_tube_is_not_ignored() {
    let (_server, mut talk) = start();
    talk.say("ignore default\r\nwatch a\r\n", "NOT_IGNORED\r\nWATCHING 2\r\n");
    talk.say("ignore default\r\nignore a\r\n", "WATCHING 1\r\nNOT_IGNORED\r\n");
    assert_eq!(talk.yaml("list-tubes-watched\r\n"), "---\n- a\n");
    talk.say(
        "watch default\r\nignore a\r\nignore default\r\n",
        "WATCHING 2\r\nWATCHING 1\r\nNOT_IGNORED\r\n",
    );
}

#[test]
fn reserve_takes_the_most_urgent_of_all_watched_tubes() {
    let (_server, mut talk) = start();
    talk.say(
        "put 5 0 60 1\r\na\r\nuse b\r\nput 4 0 60 1\r\nb\r\n",
        "INSERTED 1\r\nUSING b\r\nINSERTED 2\r\n",
    );
    talk.say("use c\r\nput 4 0 60 1\r\nc\r\n", "USING c\r\nINSERTED 3\r\n");
    talk.say("watch b\r\nreserve\r\nreserve\r\n", "WATCHING 2\r\nRESERVED 2 1\r\nb\r\nRESERVED 1 1\r\na\r\n");
    talk.say("reserve-with-timeout 0\r\nwatch c\r\n", "TIMED_OUT\r\nWATCHING 3\r\n");
    talk.say("reserve-with-timeout 0\r\n", "RESERVED 3 1\r\nc\r\n");
}

#[test]
fn watch_lists_have_a_limit() {
    let (_server, mut talk) = start();
    for n in 2..=1024 {
        talk.say(&format!("watch {n}\r\n"), &format!("WATCHING {n}\r\n"));
    }
    talk.say("watch more\r\nwatch 7\r\n", "OUT_OF_MEMORY\r\nWATCHING 1024\r\n");
}

// ---- reserve ----

#[test]
fn reserve_with_timeout_ends_in_time() {
    let (_server, mut talk) = start();
    talk.say("reserve-with-timeout 0\r\nreserve-with-timeout 1\r\n", "TIMED_OUT\r\nTIMED_OUT\r\n");
}

#[test]
fn half_closed_connection_that_waits_gets_timed_out() {
    let (server, mut talk) = start();
    talk.send("reserve\r\n");
    server.until_waiting(1);
    talk.half_close();
    assert_eq!(talk.rest(), "TIMED_OUT\r\n");
}

#[test]
fn close_makes_reserved_jobs_ready_at_once() {
    let (server, mut talk) = start();
    talk.say("put 0 0 60 1\r\nx\r\nreserve\r\n", "INSERTED 1\r\nRESERVED 1 1\r\nx\r\n");
    let mut other = server.connect();
    other.send("reserve\r\n");
    server.until_waiting(1);
    drop(talk);
    other.say("", "RESERVED 1 1\r\nx\r\n");
    // A quit returns them too, and charges nothing.
    other.send("quit\r\n");
    assert_eq!(other.rest(), "");
    let mut third = server.connect();
    third.say("reserve\r\n", "RESERVED 1 1\r\nx\r\n");
    let stats = third.yaml("stats-job 1\r\n");
    assert_eq!(values(&stats, ["timeouts", "releases", "reserves"]), ["1", "1", "3"]);
}

#[test]
fn of_the_jobs_of_a_client_that_is_gone_the_most_urgent_comes_first() {
    let (server, mut holder) = start();
    holder.say(
        "put 900 0 9 1\r\nx\r\nput 1 0 100 1\r\nx\r\nput 5 0 10 1\r\nx\r\n",
        "INSERTED 1\r\nINSERTED 2\r\nINSERTED 3\r\n",
    );
    for id in [2, 3, 1] {
        holder.say("reserve\r\n", &format!("RESERVED {id} 1\r\nx\r\n"));
    }
    let mut waits = server.connect();
    waits.send("reserve\r\n");
    server.until_waiting(1);
    holder.say("quit\r\n", "");
    waits.say("", "RESERVED 2 1\r\nx\r\n");
}

#[test]
fn deadline_soon_answers_a_reserve_within_the_last_second() {
    let (_server, mut talk) = start();
    talk.say("put 0 0 1 1\r\nx\r\nreserve\r\n", "INSERTED 1\r\nRESERVED 1 1\r\nx\r\n");
    talk.say("reserve-with-timeout 0\r\n", "DEADLINE_SOON\r\n");
    talk.say("reserve\r\n", "DEADLINE_SOON\r\n");
    // Not if there is a job.
    talk.say("put 0 0 60 1\r\ny\r\nreserve\r\n", "INSERTED 2\r\nRESERVED 2 1\r\ny\r\n");
    // Nor for a job that is asked for by its number.
    talk.say("put 0 0 60 1\r\nz\r\nreserve-job 3\r\n", "INSERTED 3\r\nRESERVED 3 1\r\nz\r\n");
}

#[test]
fn deadline_soon_ends_a_wait() {
    let (_server, mut talk) = start();
    talk.say("put 0 0 2 1\r\nx\r\nreserve\r\n", "INSERTED 1\r\nRESERVED 1 1\r\nx\r\n");
    talk.say("reserve\r\n", "DEADLINE_SOON\r\n");
    talk.say("touch 1\r\n", "TOUCHED\r\n");
    talk.say("reserve-with-timeout 60\r\n", "DEADLINE_SOON\r\n");
}

#[test]
fn job_that_runs_out_of_time_is_ready_again_and_counts_a_timeout() {
    let (server, mut talk) = start();
    talk.say("put 0 0 1 1\r\nx\r\nreserve\r\n", "INSERTED 1\r\nRESERVED 1 1\r\nx\r\n");
    let mut other = server.connect();
    other.say("reserve\r\n", "RESERVED 1 1\r\nx\r\n");
    talk.say("delete 1\r\nrelease 1 0 0\r\nbury 1 0\r\ntouch 1\r\n", &"NOT_FOUND\r\n".repeat(4));
    let stats = other.yaml("stats-job 1\r\n");
    assert_eq!(values(&stats, ["reserves", "timeouts"]), ["2", "1"]);
    assert_eq!(value(&other.yaml("stats\r\n"), "job-timeouts"), "1");
}

#[test]
fn reserve_job_takes_a_ready_a_delayed_and_a_buried_job_and_no_reserved_one() {
    let (server, mut talk) = start();
    talk.say("put 0 0 60 1\r\na\r\nput 0 99 60 1\r\nb\r\n", "INSERTED 1\r\nINSERTED 2\r\n");
    talk.say("pause-tube default 99\r\n", "PAUSED\r\n");
    talk.say("reserve-job 1\r\nreserve-job 2\r\n", "RESERVED 1 1\r\na\r\nRESERVED 2 1\r\nb\r\n");
    talk.say("reserve-job 1\r\nreserve-job 3\r\n", "NOT_FOUND\r\nNOT_FOUND\r\n");
    talk.say("bury 1 9\r\n", "BURIED\r\n");
    server.connect().say("reserve-job 1\r\nreserve-job 2\r\n", "RESERVED 1 1\r\na\r\nNOT_FOUND\r\n");
}

// ---- release, bury, kick, touch ----

#[test]
fn release_sets_priority_and_delay() {
    let (_server, mut talk) = start();
    talk.say("put 5 0 60 1\r\na\r\nput 5 0 60 1\r\nb\r\n", "INSERTED 1\r\nINSERTED 2\r\n");
    talk.say(
        "reserve\r\nrelease 1 6 0\r\nreserve\r\n",
        "RESERVED 1 1\r\na\r\nRELEASED\r\nRESERVED 2 1\r\nb\r\n",
    );
    talk.say("release 2 3 77\r\n", "RELEASED\r\n");
    let stats = talk.yaml("stats-job 2\r\n");
    assert_eq!(values(&stats, ["state", "pri", "delay"]), ["delayed", "3", "77"]);
    assert_eq!(values(&stats, ["releases", "reserves"]), ["1", "1"]);
    talk.say("release 2 0 0\r\nrelease 9 0 0\r\n", "NOT_FOUND\r\nNOT_FOUND\r\n");
}

#[test]
fn buried_jobs_are_kicked_in_the_order_of_their_burial() {
    let (_server, mut talk) = start();
    for n in 1..=3 {
        talk.say("put 0 0 60 1\r\nx\r\n", &format!("INSERTED {n}\r\n"));
    }
    talk.say(
        "reserve-job 2\r\nreserve-job 3\r\nreserve-job 1\r\n",
        "RESERVED 2 1\r\nx\r\nRESERVED 3 1\r\nx\r\nRESERVED 1 1\r\nx\r\n",
    );
    talk.say(
        "bury 3 7\r\nbury 1 0\r\nbury 2 0\r\nbury 2 0\r\n",
        "BURIED\r\nBURIED\r\nBURIED\r\nNOT_FOUND\r\n",
    );
    talk.say("peek-buried\r\nkick 2\r\npeek-buried\r\n", "FOUND 3 1\r\nx\r\nKICKED 2\r\nFOUND 2 1\r\nx\r\n");
    talk.say("reserve\r\nreserve\r\n", "RESERVED 1 1\r\nx\r\nRESERVED 3 1\r\nx\r\n");
    let stats = talk.yaml("stats-job 3\r\n");
    assert_eq!(value(&stats, "pri"), "7");
    assert_eq!(values(&stats, ["buries", "kicks", "reserves"]), ["1", "1", "2"]);
}

#[test]
fn delayed_jobs_are_kicked_only_if_none_is_buried_the_soonest_first() {
    let (_server, mut talk) = start();
    talk.say(
        "put 0 90 60 1\r\na\r\nput 0 70 60 1\r\nb\r\nput 0 80 60 1\r\nc\r\n",
        "INSERTED 1\r\nINSERTED 2\r\nINSERTED 3\r\n",
    );
    talk.say("put 0 0 60 1\r\nd\r\nreserve\r\nbury 4 0\r\n", "INSERTED 4\r\nRESERVED 4 1\r\nd\r\nBURIED\r\n");
    talk.say("kick 10\r\npeek-delayed\r\n", "KICKED 1\r\nFOUND 2 1\r\nb\r\n");
    talk.say("kick 1\r\nkick 0\r\npeek-delayed\r\n", "KICKED 1\r\nKICKED 0\r\nFOUND 3 1\r\nc\r\n");
    talk.say("kick 18446744073709551615\r\nkick 1\r\n", "KICKED 2\r\nKICKED 0\r\n");
    assert_eq!(value(&talk.yaml("stats-job 1\r\n"), "kicks"), "1");
}

#[test]
fn kick_of_many_jobs_is_whole() {
    let (server, mut talk) = start();
    let count = 3_000;
    let text: String = (0..count).map(|_| "put 0 900 60 1\r\nx\r\n").collect();
    let writer = talk.stream.try_clone().unwrap();
    let sent = aside(move || (&writer).write_all(text.as_bytes()).unwrap());
    for n in 1..=count {
        talk.say("", &format!("INSERTED {n}\r\n"));
    }
    sent.recv().unwrap();
    talk.say("kick 2000\r\nkick 2000\r\n", "KICKED 2000\r\nKICKED 1000\r\n");
    assert_eq!(server.stat("jobs_ready"), count.to_string());
}

#[test]
fn kick_works_on_the_used_tube_alone() {
    let (_server, mut talk) = start();
    talk.say("put 0 90 60 1\r\na\r\nuse b\r\nkick 1\r\n", "INSERTED 1\r\nUSING b\r\nKICKED 0\r\n");
    talk.say("peek-delayed\r\nuse default\r\nkick 1\r\n", "NOT_FOUND\r\nUSING default\r\nKICKED 1\r\n");
}

#[test]
fn kick_job_takes_a_buried_or_a_delayed_job() {
    let (_server, mut talk) = start();
    talk.say("put 0 90 60 1\r\na\r\nkick-job 1\r\nkick-job 1\r\n", "INSERTED 1\r\nKICKED\r\nNOT_FOUND\r\n");
    talk.say("reserve\r\nkick-job 1\r\nbury 1 0\r\n", "RESERVED 1 1\r\na\r\nNOT_FOUND\r\nBURIED\r\n");
    talk.say("kick-job 1\r\nkick-job 2\r\nreserve\r\n", "KICKED\r\nNOT_FOUND\r\nRESERVED 1 1\r\na\r\n");
}

#[test]
fn touch_lets_the_time_to_run_begin_anew() {
    let (server, mut talk) = start();
    talk.say("put 0 0 100 1\r\na\r\ntouch 1\r\n", "INSERTED 1\r\nNOT_FOUND\r\n");
    talk.say("reserve\r\ntouch 1\r\n", "RESERVED 1 1\r\na\r\nTOUCHED\r\n");
    server.connect().say("touch 1\r\n", "NOT_FOUND\r\n");
    let left: u64 = value(&talk.yaml("stats-job 1\r\n"), "time-left").parse().unwrap();
    assert!((30..=100).contains(&left), "{left}");
}

#[test]
fn delete_takes_any_job_that_nobody_else_has_reserved() {
    let (server, mut talk) = start();
    for (n, delay) in [(1, 0), (2, 0), (3, 90), (4, 0), (5, 0)] {
        talk.say(&format!("put 0 {delay} 60 1\r\nx\r\n"), &format!("INSERTED {n}\r\n"));
    }
    talk.say("reserve\r\nreserve\r\nbury 2 0\r\n", "RESERVED 1 1\r\nx\r\nRESERVED 2 1\r\nx\r\nBURIED\r\n");
    let mut other = server.connect();
    other.say(
        "delete 1\r\ndelete 2\r\ndelete 3\r\ndelete 4\r\n",
        "NOT_FOUND\r\nDELETED\r\nDELETED\r\nDELETED\r\n",
    );
    talk.say("delete 1\r\ndelete 1\r\ndelete 9\r\n", "DELETED\r\nNOT_FOUND\r\nNOT_FOUND\r\n");
    // What was reserved counts as done, the rest as deleted; beanstalkd counts both as deletes.
    assert_eq!((server.stat("acked_total"), server.stat("deleted_total")), ("1".into(), "3".into()));
    assert_eq!(value(&talk.yaml("stats-tube default\r\n"), "cmd-delete"), "4");
}

// ---- peek, pause ----

#[test]
fn peeks_look_at_the_used_tube_and_peek_at_any_job() {
    let (_server, mut talk) = start();
    talk.say(
        "use a\r\nput 5 0 60 1\r\na\r\nput 4 0 60 1\r\nb\r\n",
        "USING a\r\nINSERTED 1\r\nINSERTED 2\r\n",
    );
    talk.say("peek-ready\r\npeek-delayed\r\npeek-buried\r\n", "FOUND 2 1\r\nb\r\nNOT_FOUND\r\nNOT_FOUND\r\n");
    talk.say(
        "use b\r\npeek-ready\r\npeek 1\r\npeek 3\r\n",
        "USING b\r\nNOT_FOUND\r\nFOUND 1 1\r\na\r\nNOT_FOUND\r\n",
    );
}

#[test]
fn paused_tube_hands_out_nothing_until_its_time_is_over() {
    let (_server, mut talk) = start();
    talk.say("pause-tube nothing 1\r\n", "NOT_FOUND\r\n");
    talk.say("put 0 0 60 1\r\na\r\npause-tube default 1\r\n", "INSERTED 1\r\nPAUSED\r\n");
    talk.say("reserve-with-timeout 0\r\nreserve\r\n", "TIMED_OUT\r\nRESERVED 1 1\r\na\r\n");
    talk.say("release 1 0 0\r\npause-tube default 999\r\n", "RELEASED\r\nPAUSED\r\n");
    let stats = talk.yaml("stats-tube default\r\n");
    assert_eq!(values(&stats, ["pause", "cmd-pause-tube"]), ["999", "2"]);
    let left: u64 = value(&stats, "pause-time-left").parse().unwrap();
    assert!((900..=999).contains(&left), "{left}");
    // No time is the end of a pause.
    talk.say("pause-tube default 0\r\nreserve-with-timeout 0\r\n", "PAUSED\r\nRESERVED 1 1\r\na\r\n");
}

// ---- stats ----

#[test]
fn stats_have_every_key_in_order() {
    let (server, mut talk) = start();
    let stats = talk.yaml("stats\r\n");
    assert_eq!(
        keys(&stats),
        [
            "current-jobs-urgent",
            "current-jobs-ready",
            "current-jobs-reserved",
            "current-jobs-delayed",
            "current-jobs-buried",
            "cmd-put",
            "cmd-peek",
            "cmd-peek-ready",
            "cmd-peek-delayed",
            "cmd-peek-buried",
            "cmd-reserve",
            "cmd-reserve-with-timeout",
            "cmd-delete",
            "cmd-release",
            "cmd-use",
            "cmd-watch",
            "cmd-ignore",
            "cmd-bury",
            "cmd-kick",
            "cmd-touch",
            "cmd-stats",
            "cmd-stats-job",
            "cmd-stats-tube",
            "cmd-list-tubes",
            "cmd-list-tube-used",
            "cmd-list-tubes-watched",
            "cmd-pause-tube",
            "job-timeouts",
            "total-jobs",
            "max-job-size",
            "current-tubes",
            "current-connections",
            "current-producers",
            "current-workers",
            "current-waiting",
            "total-connections",
            "pid",
            "version",
            "rusage-utime",
            "rusage-stime",
            "uptime",
            "binlog-oldest-index",
            "binlog-current-index",
            "binlog-records-migrated",
            "binlog-records-written",
            "binlog-max-size",
            "draining",
            "id",
            "hostname",
            "os",
            "platform",
        ]
    );
    assert_eq!(value(&stats, "pid"), server.child.id().to_string());
    assert_eq!(value(&stats, "version"), format!("\"{}\"", env!("CARGO_PKG_VERSION")));
    assert_eq!(value(&stats, "max-job-size"), "65535");
    assert_eq!(value(&stats, "draining"), "false");
    assert_eq!(value(&stats, "id").len(), 16);
    for key in ["hostname", "os", "platform"] {
        let text = value(&stats, key);
        assert!(text.len() > 2 && text.starts_with('"') && text.ends_with('"'), "{key}: {text}");
    }
    for key in ["rusage-utime", "rusage-stime"] {
        assert_eq!(value(&stats, key).split_once('.').unwrap().1.len(), 6);
    }
}

#[test]
fn stats_tube_and_stats_job_have_every_key_in_order() {
    let (_server, mut talk) = start();
    talk.say("put 7 0 60 1\r\nx\r\n", "INSERTED 1\r\n");
    assert_eq!(
        talk.yaml("stats-job 1\r\n"),
        "---\nid: 1\ntube: \"default\"\nstate: ready\npri: 7\nage: 0\ndelay: 0\nttr: 60\ntime-left: 0\nfile: 0\n\
         reserves: 0\ntimeouts: 0\nreleases: 0\nburies: 0\nkicks: 0\n"
    );
    assert_eq!(
        talk.yaml("stats-tube default\r\n"),
        "---\nname: \"default\"\ncurrent-jobs-urgent: 1\ncurrent-jobs-ready: 1\ncurrent-jobs-reserved: 0\n\
         current-jobs-delayed: 0\ncurrent-jobs-buried: 0\ntotal-jobs: 1\ncurrent-using: 1\ncurrent-watching: 1\n\
         current-waiting: 0\ncmd-delete: 0\ncmd-pause-tube: 0\npause: 0\npause-time-left: 0\n"
    );
    talk.say("stats-job 2\r\nstats-tube nothing\r\n", "NOT_FOUND\r\nNOT_FOUND\r\n");
}

#[test]
fn each_command_is_counted() {
    let (server, mut talk) = start();
    let mut producer = server.connect();
    producer.say("put 0 0 60 1\r\nx\r\nput 0 0 60 1\r\nx\r\n", "INSERTED 1\r\nINSERTED 2\r\n");
    talk.say("reserve\r\nreserve-with-timeout 0\r\n", "RESERVED 1 1\r\nx\r\nRESERVED 2 1\r\nx\r\n");
    talk.say("release 1 0 90\r\nbury 2 0\r\ntouch 1\r\n", "RELEASED\r\nBURIED\r\nNOT_FOUND\r\n");
    talk.say("kick 1\r\nkick 1\r\nkick x\r\n", "KICKED 1\r\nKICKED 1\r\nBAD_FORMAT\r\n");
    talk.say("peek 1\r\npeek-ready\r\n", "FOUND 1 1\r\nx\r\nFOUND 1 1\r\nx\r\n");
    talk.say("peek-delayed\r\npeek-buried\r\ndelete 9\r\n", "NOT_FOUND\r\nNOT_FOUND\r\nNOT_FOUND\r\n");
    talk.say(
        "use a\r\nwatch a\r\nignore a\r\nlist-tube-used\r\n",
        "USING a\r\nWATCHING 2\r\nWATCHING 1\r\nUSING a\r\n",
    );
    talk.say(
        "pause-tube nothing 1\r\nstats-tube nothing\r\nstats-job 9\r\n",
        "NOT_FOUND\r\nNOT_FOUND\r\nNOT_FOUND\r\n",
    );
    talk.yaml("list-tubes\r\n");
    talk.yaml("list-tubes-watched\r\n");
    let stats = talk.yaml("stats\r\n");
    let keys = ["cmd-put", "cmd-kick", "current-producers", "current-workers"];
    assert_eq!(values(&stats, keys), ["2", "2", "1", "1"]);
    for line in stats.lines().filter(|line| {
        line.starts_with("cmd-") && !line.starts_with("cmd-put: ") && !line.starts_with("cmd-kick: ")
    }) {
        assert!(line.ends_with(": 1"), "{line}");
    }
    drop(producer);
    until("the producer is no longer counted", || value(&talk.yaml("stats\r\n"), "current-producers") == "0");
}

// ---- with the native dialect ----

#[test]
fn both_dialects_work_on_the_same_jobs() {
    let (server, mut talk) = start();
    talk.say("use mail\r\nput 10 0 120 5\r\nhello\r\n", "USING mail\r\nINSERTED 1\r\n");
    let mut native = server.connect();
    assert_eq!(native.ask("GET queue=mail"), "JOB 1 queue=mail attempt=1 ttr=2m: hello");
    talk.say("delete 1\r\nreserve-job 1\r\n", "NOT_FOUND\r\nNOT_FOUND\r\n");
    assert_eq!(native.ask("FAIL 1 dead=yes: no such user"), "OK dead=yes");
    talk.say("peek-buried\r\nkick 1\r\nwatch mail\r\n", "FOUND 1 5\r\nhello\r\nKICKED 1\r\nWATCHING 2\r\n");
    assert_eq!(native.ask("TASK queue=mail priority=1 attempts=1: second"), "ACK 2");
    talk.say(
        "reserve\r\nrelease 2 1 0\r\nreserve\r\n",
        "RESERVED 2 6\r\nsecond\r\nRELEASED\r\nRESERVED 2 6\r\nsecond\r\n",
    );
    talk.say("bury 2 1\r\n", "BURIED\r\n");
    assert!(native.ask("PEEK 2").contains(" state=dead "));
    assert_eq!(native.ask("RETRY queue=mail"), "OK count=1");
    let stats = talk.yaml("stats-job 2\r\n");
    let keys = ["reserves", "releases", "buries", "kicks", "timeouts"];
    assert_eq!(values(&stats, keys), ["2", "1", "1", "1", "0"]);
}

#[test]
fn job_put_in_this_dialect_has_no_end_of_attempts() {
    let (server, mut talk) = start();
    talk.say("put 0 0 60 1\r\nx\r\n", "INSERTED 1\r\n");
    let mut native = server.connect();
    assert!(native.ask("PEEK 1").contains(" attempts=0 "));
    for _ in 0..30 {
        assert!(native.ask("GET").starts_with("JOB 1 "));
        assert_eq!(native.ask("FAIL 1 delay=0s"), "OK retry=0s");
    }
}

#[test]
fn dialects_can_change_from_command_to_command() {
    let (_server, mut talk) = start();
    talk.say(
        "PING\nput 0 0 60 1\r\nx\r\nGET wait=0\nstats-tube a\r\n",
        "PONG\nINSERTED 1\r\nJOB 1 queue=default attempt=1 ttr=1m: x\nNOT_FOUND\r\n",
    );
}

#[test]
fn get_that_names_no_queue_takes_from_the_watched_ones() {
    let (_server, mut talk) = start();
    talk.say(
        "watch a\r\nuse a\r\nput 0 0 60 1\r\nx\r\nGET\n",
        "WATCHING 2\r\nUSING a\r\nINSERTED 1\r\nJOB 1 queue=a attempt=1 ttr=1m: x\n",
    );
}

// ---- the process ----

#[test]
fn stopping_server_ends_waits_with_timed_out() {
    let (mut server, mut talk) = start();
    talk.send("reserve\r\n");
    server.until_waiting(1);
    server.signal(Signal::TERM);
    assert_eq!(talk.rest(), "TIMED_OUT\r\n");
    assert!(server.ended().success());
}

#[test]
fn what_was_set_by_release_bury_kick_and_pause_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let start = || Server::of(Command::new(env!("CARGO_BIN_EXE_server")).args(["-p", "0", "-b", data]));
    let mut server = start();
    let mut talk = server.connect();
    for n in 1..=5 {
        talk.say("put 9 0 60 1\r\nx\r\n", &format!("INSERTED {n}\r\n"));
    }
    for n in 1..=5 {
        talk.say("reserve\r\n", &format!("RESERVED {n} 1\r\nx\r\n"));
    }
    talk.say("release 1 5 0\r\nrelease 2 6 900\r\n", "RELEASED\r\nRELEASED\r\n");
    talk.say("bury 4 8\r\nbury 3 7\r\nbury 5 4\r\nkick 1\r\n", "BURIED\r\nBURIED\r\nBURIED\r\nKICKED 1\r\n");
    talk.say("pause-tube default 900\r\n", "PAUSED\r\n");
    server.child.kill().unwrap();
    server.ended();

    let server = start();
    let mut talk = server.connect();
    for (id, state, priority) in
        [(1, "ready", "5"), (2, "delayed", "6"), (3, "buried", "7"), (4, "ready", "8"), (5, "buried", "4")]
    {
        let stats = talk.yaml(&format!("stats-job {id}\r\n"));
        assert_eq!(values(&stats, ["state", "pri"]), [state, priority], "job {id}");
    }
    let stats = talk.yaml("stats\r\n");
    assert!(value(&stats, "binlog-current-index").parse::<u64>().unwrap() > 0, "{stats}");
    let pause: u64 = value(&talk.yaml("stats-tube default\r\n"), "pause-time-left").parse().unwrap();
    assert!((100..=900).contains(&pause), "{pause}");
    talk.say("reserve-with-timeout 0\r\npeek-buried\r\n", "TIMED_OUT\r\nFOUND 3 1\r\nx\r\n");
}

#[test]
fn unix_socket_serves_both_dialects_and_replaces_a_stale_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("djqs.sock");
    let listen = format!("unix:{}", path.display());
    let spawn = || {
        Command::new(env!("CARGO_BIN_EXE_server"))
            .args(["--memory", "-l", &listen])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let ask = |text: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for _ in 0..2 {
        // The first time there is no such file, the second time a stale one.
        let mut first = spawn();
        let mut greeting = [0; 4096];
        let read = first.stdout.as_mut().unwrap().read(&mut greeting).unwrap();
        assert!(String::from_utf8_lossy(&greeting[..read]).contains(&listen));
        assert_eq!(
            ask("put 0 0 60 1\r\nx\r\nPING\nreserve\r\n"),
            "INSERTED 1\r\nPONG\nRESERVED 1 1\r\nx\r\n"
        );
        // One that is in use stays.
        let second = spawn().wait_with_output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&second.stderr).contains("can't listen on unix:"), "{second:?}");
        assert_eq!(ask("PING\n"), "PONG\n");
        first.kill().unwrap();
        first.wait().unwrap();
    }
    // What is no socket is nobody's to remove.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(spawn().wait().unwrap().code(), Some(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn socket_that_systemd_passes_on_is_served() {
    // As systemd does it: the socket is descriptor 3, and LISTEN_PID is the process that is to take it. A
    // shell puts both right.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --memory -p 1"])
        .arg(env!("CARGO_BIN_EXE_server"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = [0; 4096];
    let read = server.stdout.as_mut().unwrap().read(&mut greeting).unwrap();
    assert!(String::from_utf8_lossy(&greeting[..read]).contains(&address.to_string()));
    Talk::to(address).say("put 0 0 60 1\r\nx\r\n", "INSERTED 1\r\n");
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn version_and_verbosity_have_beanstalkds_letters() {
    let output = Command::new(env!("CARGO_BIN_EXE_server")).arg("-v").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    let mut server = Server::of(command.args(["--memory", "-p", "0", "-VV"]).stderr(Stdio::piped()));
    drop(server.connect());
    let mut log = server.child.stderr.take().unwrap();
    let mut read = String::new();
    while !read.contains("connected") {
        let mut piece = [0; 1024];
        let size = log.read(&mut piece).unwrap();
        assert!(size > 0, "{read}");
        read.push_str(&String::from_utf8_lossy(&piece[..size]));
    }
}
