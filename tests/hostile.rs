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

/// Sends commands ahead and reads their answers, one line each; returns how many begin with `prefix`.
fn answers(talk: &mut Talk, commands: impl Iterator<Item = String>, prefix: &str) -> usize {
    let commands: Vec<String> = commands.collect();
    let mut found = 0;
    for some in commands.chunks(1000) {
        talk.send(some.concat());
        found += some.iter().filter(|_| talk.line().unwrap().starts_with(prefix)).count();
    }
    found
}

#[test]
fn queues_without_jobs_are_bounded_by_the_memory_for_jobs() {
    let server = Server::start(&["--max-memory", "64KiB"]);
    let mut talk = server.connect();
    // 64 KiB, and 1 MiB behind it for those that come when jobs have taken all.
    let count = answers(&mut talk, (0..2000).map(|n| format!("PAUSE queue=q{n}\n")), "ERR full retry_after=");
    assert_eq!(count, 2000 - (64 + 1024));
    assert!(talk.ask("TASK: x").starts_with("ERR full "));
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("q{n}")).collect::<Vec<_>>().join(",");
    assert!(talk.ask(&format!("GET queue={}", names(5000..5100))).starts_with("ERR full "));
    // Those that are there cost nothing more; and what goes makes room.
    assert_eq!(talk.ask("PAUSE queue=q7"), "OK");
    assert_eq!(talk.ask(&format!("GET queue={} wait=1ms", names(0..100))), "EMPTY");
    let count = answers(&mut talk, (0..1088).map(|n| format!("RESUME queue=q{n}\n")), "OK");
    assert_eq!(count, 1088);
    assert_eq!(talk.ask("TASK: x"), "ACK 1");
}

#[test]
fn waiting_workers_find_room_where_jobs_have_taken_all() {
    let server = Server::start(&["--max-memory", "64KiB"]);
    let mut talk = server.connect();
    while talk.ask("TASK: x").starts_with("ACK ") {}
    assert_eq!(talk.ask("GET queue=another wait=1ms"), "EMPTY");
    assert_eq!(talk.ask("PAUSE queue=default"), "OK");
}

#[test]
fn memory_limit_holds_however_little_jobs_have_in_common() {
    let limit = 4 * 1024;
    let server = Server::start(&["--max-memory", &format!("{limit}KiB")]);
    let mut talk = server.connect();
    let before = server.process_figure("VmRSS");
    // Unlike options first; then one left of each 64.
    let tasks = (0..40_000).map(|n| format!("TASK ttr={}ms priority={n}: x\n", n + 1));
    assert!(answers(&mut talk, tasks, "ERR full ") > 10_000);
    let grown = server.process_figure("VmRSS") - before;
    assert!(grown < limit * 2, "{grown} KiB with a limit of {limit} KiB");
    assert!(talk.ask("PURGE queue=default").starts_with("OK count="));
    let mut next: u64 = talk.ask("TASK: x")["ACK ".len()..].parse().unwrap();
    for _ in 0..40 {
        let count = answers(&mut talk, (0..6400).map(|_| "TASK: x\n".into()), "ACK ");
        assert_eq!(count, 6400, "there is room for the few that are left");
        let all = next + 1..next + 6401;
        answers(&mut talk, all.filter(|id| id % 64 != 5).map(|id| format!("DELETE {id}\n")), "OK");
        next += 6400;
    }
    let grown = server.process_figure("VmRSS") - before;
    assert!(grown < limit * 2, "{grown} KiB with a limit of {limit} KiB");
}

#[test]
fn reasons_of_failures_stay_within_the_memory_limit() {
    let server = Server::start(&["--max-memory", "4MiB"]);
    let mut talk = server.connect();
    let accepted = answers(&mut talk, (0..60_000).map(|_| "TASK: x\n".into()), "ACK ");
    assert!((10_000..60_000).contains(&accepted), "{accepted}");
    let limit: u64 = server.stat("memory_max_bytes").parse().unwrap();
    let pad = "r".repeat(1000);
    assert_eq!(answers(&mut talk, (0..5_000).map(|_| "GET wait=0\n".into()), "JOB "), 5_000);
    // Each failure counts, whether or not its reason is kept.
    let fails = (1..=5_000).map(|id| format!("FAIL {id} delay=1h: {pad}\n"));
    assert_eq!(answers(&mut talk, fails, "OK retry="), 5_000);
    let taken: u64 = server.stat("memory_bytes").parse().unwrap();
    // A job that failed costs 128 bytes more than one that did not, for its counts.
    let most = limit + limit / 32 + 5_000 * 128;
    assert!(taken <= most, "{taken} bytes are taken of {limit}");
    let first = talk.ask_lines("LIST queue=default limit=1").concat();
    assert!(first.contains(&pad), "a reason that fits is kept: {first}");
    let last = talk.ask_lines("LIST queue=default limit=1 after=4999").concat();
    assert!(!last.contains("rrr") && last.contains(r#""failures":1"#), "only the count is kept: {last}");
}

#[test]
fn long_replies_that_nobody_reads_are_bounded_together() {
    let server = Server::start(&["--write-timeout", "60s"]);
    let mut talk = server.connect();
    let pad = "n".repeat(190);
    let pauses = (0..60_000).map(|n| format!("PAUSE queue={n:05}.{pad}\n"));
    assert_eq!(answers(&mut talk, pauses, "OK"), 60_000);
    let before = server.process_figure("VmRSS");
    // Each asks for some 16 MB.
    let mut greedy: Vec<Talk> = (0..16).map(|_| server.connect()).collect();
    greedy.iter_mut().for_each(|client| client.send("QUEUES\nGET queue=nothing\n"));
    let first: Vec<String> = greedy.iter_mut().map(|client| client.line().unwrap()).collect();
    assert!(first.iter().all(|line| line == "OK lines=60000" || line.starts_with("ERR full retry_after=")));
    assert_eq!(talk.ask("PING"), "PONG");
    let grown = server.process_figure("VmHWM") - before;
    assert!(grown < 140 * 1024, "grew by {grown} KiB");
    drop(greedy);
    until("the replies are forgotten", || server.stat("connections") == "2");
    assert_eq!(talk.ask_lines("QUEUES").len(), 60_000);
}

#[test]
fn jobs_are_not_leased_ahead_of_a_client_that_does_not_read() {
    let server = Server::start(&["-z", "1048576"]);
    let (count, body) = (64, "x".repeat(1 << 20));
    let tasks = (0..count).map(|_| format!("TASK: {body}\n"));
    assert_eq!(answers(&mut server.connect(), tasks, "ACK"), count);
    let mut slow = server.connect();
    slow.send("GET\n".repeat(count));
    let mut leased = 0;
    until("a job to be leased", || {
        leased = server.stat("jobs_leased").parse().unwrap();
        leased > 0
    });
    assert!(leased < count / 2, "{leased} jobs are leased, and none has been read");
}

#[test]
fn commands_behind_a_waiting_one_take_little_memory() {
    let server = Server::start(&[]);
    let before = server.process_figure("VmRSS");
    let many_queues = format!("GET queue={}\n", vec!["a"; 2000].join(","));
    let text = format!("GET queue=none\n{}", many_queues.repeat(15));
    let connections = 50;
    let _talks: Vec<Talk> = (0..connections)
        .map(|_| {
            let mut talk = server.connect();
            // The buffer grows first, so that all of it is read at once.
            talk.send("PING\n".repeat(13_000));
            (0..13_000).for_each(|_| assert_eq!(talk.line().unwrap(), "PONG"));
            talk.send(&text);
            talk
        })
        .collect();
    until("all of them to wait", || server.stat("waiting") == connections.to_string());
    let each = (server.process_figure("VmRSS") - before) / connections;
    assert!(each < 300, "{each} KiB each, for 64 KiB of commands");
}
