//! The native protocol, line by line: each verb's forms, each refusal's words, each limit's edge.
//!
//! A command that is understood is shown as it would be written (`= ACK 7`), a refusal as it goes out
//! (`ERR usage …`), with `[closes]` behind it where the connection does.

use std::time::Duration;

use decoding::{Event, decode};
use djqs::protocol::native::{Answer, read_answer, write_command, write_reply};
use djqs::protocol::{Command, FrameLimits, HEADER_BYTES_MAX, Reply};
use djqs::{Code, JobId, JobState, Lease, QueueName, Refusal, Submission};

mod decoding;

const BODY_MAX: usize = 100;

fn events(input: impl AsRef<[u8]>) -> Vec<String> {
    let outcome = decode(FrameLimits { body_max: BODY_MAX }, [input.as_ref()]);
    let mut shown: Vec<String> = outcome.events.iter().map(show).collect();
    if outcome.midway {
        shown.push("...".into());
    }
    shown
}

fn show(event: &Event) -> String {
    let mut out = Vec::new();
    match event {
        Event::Command(command, _) => {
            out.extend_from_slice(b"= ");
            write_command(command, &mut out);
        }
        Event::Refused(refusal, dialect) | Event::Lost(refusal, dialect) => {
            dialect.write_reply(&Reply::Refused(refusal.clone()), &mut out)
        }
        Event::Farewell => out.extend_from_slice(b"HTTP 400\n"),
    }
    assert_eq!(out.pop(), Some(b'\n'));
    let closes = if matches!(event, Event::Lost(..)) { " [closes]" } else { "" };
    format!("{}{closes}", String::from_utf8(out).unwrap().replace('\n', "|"))
}

/// Each line of `table` is a request, ` -> `, and what comes of it; a space at an end is written as `·`.
fn check(table: &str) {
    for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (request, expected) = row.split_once(" -> ").unwrap_or_else(|| panic!("no -> in {row}"));
        let (request, expected) = (request.trim_end().replace('·', " "), expected.replace('·', " "));
        assert_eq!(events(format!("{request}\n")), [&*expected], "{request}");
        let crlf = events(format!("{request}\r\n"));
        assert_eq!(crlf, [&*expected], "{request} with CR LF");
    }
}

#[test]
fn header_ends_at_the_colon_behind_the_verb_or_behind_a_word() {
    check(
        "TASK: CALCULATE_FINANCE: 5s_delay  -> = TASK: CALCULATE_FINANCE: 5s_delay
         TASK key=order:9 delay=5s: SEND: 9 -> = TASK delay=5s key=order:9: SEND: 9
         TASK delay=5s : x                  -> = TASK delay=5s: x
         TASK :x                            -> ERR usage TASK needs its body behind a colon and a space: TASK: body
         TASK:x                             -> = TASK: x
         TASK:                              -> = TASK:·
         TASK:··x·                          -> = TASK: ·x·
         TASK: :                            -> = TASK: :
         TASK: len=5:                       -> = TASK: len=5:
         TASK delay=5s:x                    -> ERR usage TASK needs its body behind a colon and a space: TASK: body",
    );
}

#[test]
fn task_takes_its_options_in_any_order() {
    check(
        "TASK queue=mail priority=0 delay=1m ttr=90 attempts=0 backoff=250ms key=a=b: x -> = TASK queue=mail priority=0 delay=1m ttr=90s attempts=0 backoff=250ms key=a=b: x
         TASK key=k backoff=0 attempts=3 ttr=1ms delay=0 priority=7 queue=q: x          -> = TASK queue=q priority=7 ttr=1ms attempts=3 backoff=0s key=k: x
         TASK  queue=q   ttr=60 : x                                                     -> = TASK queue=q: x
         TASK priority=4294967295 attempts=4294967295 delay=4294967295: x               -> = TASK priority=4294967295 delay=4294967295s attempts=4294967295: x",
    );
}

#[test]
fn task_refuses_what_it_does_not_know() {
    check(
        r#"TASK                       -> ERR usage TASK needs its body behind a colon and a space: TASK: body
           TASK x                     -> ERR usage TASK needs its body behind a colon and a space: TASK: body
           TASK prio=1: x             -> ERR usage TASK has no option "prio"; it has queue, priority, delay, ttr, attempts, backoff, key, keep, batch, len
           TASK Queue=q: x            -> ERR usage TASK has no option "Queue"; it has queue, priority, delay, ttr, attempts, backoff, key, keep, batch, len
           TASK =: x                  -> ERR usage TASK has no option ""; it has queue, priority, delay, ttr, attempts, backoff, key, keep, batch, len
           TASK priority=-1: x        -> ERR usage priority is a whole number from 0 to 4294967295, not "-1"
           TASK priority=4294967296: x -> ERR usage priority is a whole number from 0 to 4294967295, not "4294967296"
           TASK attempts=: x          -> ERR usage attempts is a whole number from 0 to 4294967295, not ""
           TASK ttr=0: x              -> ERR usage ttr is at least 1ms: a lease of no time can't be worked on
           TASK delay=4294967296: x   -> ERR usage delay="4294967296": a duration is a whole number with d, h, m, s or ms behind it, or several in this order, as in 250ms or 2h30m (a bare number is seconds), and at most 4294967295s
           TASK delay=1 delay=1: x    -> ERR usage delay is given twice; give it once
           TASK queue=-a: x           -> ERR bad-name "-a": a queue name is 1 to 200 bytes of A-Z a-z 0-9 + / ; . $ _ ( ) - and does not begin with -
           TASK queue=: x             -> ERR bad-name "": a queue name is 1 to 200 bytes of A-Z a-z 0-9 + / ; . $ _ ( ) - and does not begin with -
           TASK queue=a,b: x          -> ERR bad-name "a,b": a queue name is 1 to 200 bytes of A-Z a-z 0-9 + / ; . $ _ ( ) - and does not begin with -
           TASK key=: x               -> ERR usage key="": a key is 1 to 200 bytes of UTF-8 without spaces or control characters and does not end in :"#,
    );
    let long = "k".repeat(200);
    assert_eq!(events(format!("TASK key={long}: x\n")), [format!("= TASK key={long}: x")]);
    let refused = events(format!("TASK key={long}k: x\n"));
    assert_eq!(refused[0].split(' ').nth(1), Some("usage"));
    assert!(
        refused[0].contains(&format!("key=\"{}...\"", "k".repeat(64))),
        "what is quoted is cut: {refused:?}"
    );
}

#[test]
fn get_names_queues_and_a_wait() {
    check(
        r#"GET                       -> = GET
           GET queue=mail            -> = GET queue=mail
           GET queue=a,b,a wait=0    -> = GET queue=a,b,a wait=0s
           GET wait=90               -> = GET wait=90s
           GET drain=yes             -> = GET drain=yes
           GET drain=yes wait=5s     -> = GET wait=5s drain=yes
           GET drain=no              -> ERR usage drain is yes or not given, not "no"
           GET queue=a,,b            -> ERR bad-name "": a queue name is 1 to 200 bytes of A-Z a-z 0-9 + / ; . $ _ ( ) - and does not begin with -
           GET queue=a queue=b       -> ERR usage queue is given twice; give it once
           GET mail                  -> ERR usage GET does not take "mail"; options are written name=value, and it has queue, wait, drain
           GET timeout=5             -> ERR usage GET has no option "timeout"; it has queue, wait, drain
           GET:                      -> ERR usage GET takes no body: leave out the colon and what follows
           GET wait=0: x             -> ERR usage GET takes no body: leave out the colon and what follows"#,
    );
}

#[test]
fn verbs_of_one_job_take_its_id_first() {
    check(
        r#"ACK 7                     -> = ACK 7
           ACK 007                   -> = ACK 7
           ACK  7·                   -> = ACK 7
           ACK 18446744073709551615  -> = ACK 18446744073709551615
           ACK 18446744073709551616  -> ERR usage "18446744073709551616" is no job's id; an id is a whole number up to 18446744073709551615
           ACK                       -> ERR usage ACK needs a job's id: ACK id
           ACK -7                    -> ERR usage "-7" is no job's id; an id is a whole number up to 18446744073709551615
           ACK +7                    -> ERR usage "+7" is no job's id; an id is a whole number up to 18446744073709551615
           ACK 7 8                   -> ERR usage ACK takes one job's id and nothing else
           ACK id=7                  -> ERR usage ACK needs the job's id before its options: ACK id
           ACK 7: done               -> = ACK 7: done
           ACK 7:                    -> = ACK 7:·
           PEEK 7: x                 -> ERR usage PEEK takes no body: leave out the colon and what follows
           WAIT 7                    -> = WAIT 7
           WAIT 7 wait=0             -> = WAIT 7 wait=0s
           WAIT                      -> ERR usage WAIT needs a job's id: WAIT id
           PEEK 7                    -> = PEEK 7
           PEEK 7 form=json          -> = PEEK 7 form=json
           PEEK 7 form=xml           -> ERR usage form is json or not given, not "xml"
           DELETE 7                  -> = DELETE 7
           RETURN 7                  -> = RETURN 7
           RETURN 7 delay=5m         -> = RETURN 7 delay=5m
           RETURN delay=5m 7         -> ERR usage RETURN needs the job's id before its options: RETURN id
           RETURN 7 5m               -> ERR usage RETURN does not take "5m"; options are written name=value, and it has delay
           TOUCH 7                   -> = TOUCH 7
           TOUCH 7 ttr=10            -> = TOUCH 7 ttr=10s
           TOUCH 7 progress=50: half -> = TOUCH 7 progress=50: half
           TOUCH 7 progress=101      -> ERR usage progress is a whole number from 0 to 100, not "101"
           WHY 7                     -> = WHY 7
           TOUCH 7 ttr=0ms           -> ERR usage ttr is at least 1ms: a lease of no time can't be worked on"#,
    );
}

#[test]
fn fail_takes_a_delay_or_death_and_a_reason() {
    check(
        r#"FAIL 7                    -> = FAIL 7
           FAIL 7: disk full         -> = FAIL 7: disk full
           FAIL 7 delay=1h: a: b     -> = FAIL 7 delay=1h: a: b
           FAIL 7 dead=yes           -> = FAIL 7 dead=yes
           FAIL 7 dead=no            -> ERR usage dead is yes or not given, not "no"
           FAIL 7 dead=yes delay=1   -> ERR usage FAIL takes delay or dead=yes, not both: a dead job is not tried again
           FAIL: 7                   -> ERR usage FAIL needs a job's id: FAIL id
           FAIL 7 disk full          -> ERR usage FAIL does not take "disk"; options are written name=value, and the body goes behind a colon: FAIL id [delay=D | dead=yes] [len=N][: reason]"#,
    );
    assert_eq!(events("FAIL 7 len=3:\na\nb\n"), ["= FAIL 7 len=3:|a|b"]);
    assert_eq!(events(b"FAIL 7: caf\xe9\n"), ["= FAIL 7: caf\u{fffd}"], "a reason is text");
}

#[test]
fn verbs_of_a_queue_name_it() {
    check(
        r#"LIST queue=q                            -> = LIST queue=q
           LIST queue=q state=dead limit=1000 after=7 -> = LIST queue=q state=dead limit=1000 after=7
           LIST queue=q limit=100                  -> = LIST queue=q
           LIST queue=q limit=0                    -> ERR usage limit is a whole number from 1 to 1000, not "0"
           LIST queue=q limit=1001                 -> ERR usage limit is a whole number from 1 to 1000, not "1001"
           LIST queue=q state=buried               -> ERR usage state is ready, delayed, leased, dead, done or cancelled, not "buried"
           LIST                                    -> = LIST
           LIST state=dead age=1h: no space        -> = LIST state=dead age=1h: no space
           LIST queue=q key=k before=9             -> = LIST queue=q key=k before=9
           LIST key=k after=9                      -> ERR usage LIST of a queue or a batch has after; a search, newest first, has before
           DELETE 7,8                              -> = DELETE 7,8
           DELETE 7,x                              -> ERR usage "x" is no job's id; an id is a whole number up to 18446744073709551615
           RETRY 7,8                               -> = RETRY 7,8
           CANCEL 7,8: why                         -> = CANCEL 7,8: why
           LIST q                                  -> ERR usage LIST does not take "q"; options are written name=value, and the body goes behind a colon: LIST queue=Q|batch=B [state=S] [limit=N] [after=id] | LIST [queue=Q|batch=B] [state=S] [key=K] [age=D] [limit=N] [before=id] [len=N][: text]
           RETRY 7                                 -> = RETRY 7
           RETRY queue=q                           -> = RETRY queue=q
           RETRY queue=q limit=18446744073709551615 -> = RETRY queue=q limit=18446744073709551615
           RETRY queue=q limit=0                   -> ERR usage limit is a whole number from 1 to 18446744073709551615, not "0"
           RETRY limit=1                           -> ERR usage RETRY needs a queue or a batch: queue=Q or batch=B
           RETRY 7 queue=q                         -> ERR usage RETRY takes one job's id and nothing else
           RETRY                                   -> ERR usage RETRY needs a job's id, a queue or a batch: RETRY id, RETRY queue=Q or RETRY batch=B
           PURGE queue=q                           -> = PURGE queue=q
           PURGE queue=q state=delayed             -> = PURGE queue=q state=delayed
           PURGE                                   -> ERR usage PURGE needs a queue or a batch: queue=Q or batch=B
           PURGE batch=b                           -> = PURGE batch=b
           PURGE batch=b queue=q                   -> ERR usage PURGE takes a queue or a batch, not both
           CANCEL 7                                -> = CANCEL 7
           CANCEL 7: no longer wanted              -> = CANCEL 7: no longer wanted
           CANCEL queue=q state=ready: why         -> = CANCEL queue=q state=ready: why
           CANCEL batch=b                          -> = CANCEL batch=b
           CANCEL                                  -> ERR usage CANCEL needs a job's id, a queue or a batch: CANCEL id, CANCEL queue=Q or CANCEL batch=B
           CANCEL 7 state=ready                    -> ERR usage CANCEL takes one job's id and nothing else
           BATCH night                             -> = BATCH night
           BATCH night total=3 wait=5              -> = BATCH night total=3 wait=5s
           BATCH                                   -> ERR usage BATCH needs the batch's name: BATCH B
           BATCH night total=0                     -> ERR usage total is a whole number from 1 to 18446744073709551615, not "0"
           PAUSE queue=q                           -> = PAUSE queue=q
           PAUSE queue=q for=5                     -> = PAUSE queue=q for=5s
           PAUSE                                   -> ERR usage PAUSE needs a queue: queue=Q
           RESUME queue=q                          -> = RESUME queue=q
           RESUME queue=q for=5                    -> ERR usage RESUME has no option "for"; it has queue, worker
           RESUME                                  -> ERR usage RESUME needs a queue or a worker: queue=Q or worker=W
           STATS                                   -> = STATS
           STATS queue=q                           -> = STATS queue=q
           STATS q                                 -> ERR usage STATS does not take "q"; options are written name=value, and it has queue"#,
    );
}

#[test]
fn verbs_that_stand_alone_take_nothing() {
    for verb in ["QUEUES", "PING", "HELP", "QUIT"] {
        assert_eq!(events(format!("{verb}\n")), [format!("= {verb}")]);
        let refused = format!("ERR usage {verb} does not take \"x\"; nothing else belongs in the line");
        assert_eq!(events(format!("{verb} x\n")), [refused]);
        assert_eq!(
            events(format!("{verb} x=y\n")),
            [format!("ERR usage {verb} has no option \"x\"; it has none")]
        );
        let body = "takes no body: leave out the colon and what follows";
        assert_eq!(events(format!("{verb}: x\n")), [format!("ERR usage {verb} {body}")]);
    }
}

#[test]
fn unknown_verb_is_named_and_a_near_one_is_hinted_at() {
    check(
        r#"Get          -> ERR unknown-verb "Get" is no verb; verbs are upper case: write GET
           NOPE 1 2     -> ERR unknown-verb "NOPE" is no verb; HELP lists the verbs
           TASKS: x     -> ERR unknown-verb "TASKS" is no verb; HELP lists the verbs
           ACK7         -> ERR unknown-verb "ACK7" is no verb; HELP lists the verbs"#,
    );
    // Behind CR LF, a word in lower case is a program's that speaks the other dialect.
    assert_eq!(
        events("task: x\n"),
        [r#"ERR unknown-verb "task" is no verb; verbs are upper case: write TASK"#]
    );
    assert_eq!(events("task: x\r\n"), ["UNKNOWN_COMMAND\r"]);
    let empty = "ERR unknown-verb a line begins with its verb; HELP lists the verbs";
    for line in ["\n", "\r\n", " \n", " PING\n", ": x\n"] {
        assert_eq!(events(line), [empty], "{line:?}");
    }
    assert_eq!(
        events(b"\0\xff\x1b[31m\n"),
        [r#"ERR unknown-verb "\x00\xff\x1b[31m" is no verb; HELP lists the verbs"#],
        "what is quoted is printable"
    );
    assert_eq!(events("PING\r\r\n"), [r#"ERR unknown-verb "PING\r" is no verb; HELP lists the verbs"#]);
}

#[test]
fn body_behind_the_line_has_exactly_its_bytes() {
    assert_eq!(events("TASK len=5:\nab\ncd\nPING\n"), ["= TASK len=5:|ab|cd", "= PING"]);
    assert_eq!(events("TASK len=5:\r\nab\ncd\r\nPING\r\n"), ["= TASK len=5:|ab|cd", "= PING"]);
    assert_eq!(events("TASK len=0:\n\nPING\n"), ["= TASK: ", "= PING"]);
    assert_eq!(events("TASK len=3 : \nab\r\nPING\n"), ["= TASK len=3:|ab\r", "= PING"]);
    assert_eq!(events("TASK len=3:\nabc"), ["..."]);
    assert_eq!(events("TASK len=3:\nabc\r"), ["..."]);
    assert_eq!(events("TASK len=003 queue=q:\nabc\n"), ["= TASK queue=q: abc"]);
}

#[test]
fn body_of_any_bytes_without_lf_may_stand_in_the_line() {
    let outcome = decode(FrameLimits::default(), [&b"TASK: a\0b\xff\r\n"[..]]);
    let submission = Command::Submit(Box::new(Submission::new(&b"a\0b\xff"[..])));
    assert_eq!(outcome.events, [Event::Command(submission, djqs::protocol::Dialect::Native)]);
}

#[test]
fn refused_command_has_its_body_skipped() {
    let prio = r#"ERR usage TASK has no option "prio"; it has queue, priority, delay, ttr, attempts, backoff, key, keep, batch, len"#;
    assert_eq!(events("TASK prio=1 len=7:\nPING\nX\n\nPING\n"), [prio, "= PING"]);
    assert_eq!(events("TASK prio=1 len=4:\nPING\r\nPING\n"), [prio, "= PING"]);
    assert_eq!(events("TASK prio=1 len=0:\n\nPING\n"), [prio, "= PING"]);
    assert_eq!(
        events("NOPE len=4:\nPING\nPING\n"),
        [r#"ERR unknown-verb "NOPE" is no verb; HELP lists the verbs"#, "= PING"]
    );
    assert_eq!(
        events("TASK len=4\nPING\nPING\n"),
        ["ERR usage a header with len= ends in a colon, as in TASK len=5:", "= PING"]
    );
    assert_eq!(
        events("ACK 7 len=4\nPING\nPING\n"),
        ["ERR usage a header with len= ends in a colon, as in TASK len=5:", "= PING"]
    );
    let last = events("TASK prio=1 len=99999999999:\nPING\nPING\n");
    assert_eq!(last, [prio, "..."], "nothing in a body is ever a command");
}

#[test]
fn size_that_lies_or_cannot_be_read_closes() {
    let lie = "ERR usage no LF behind a body: is len its size in bytes, without the LF? closing [closes]";
    assert_eq!(events("TASK len=3:\nabcd\nPING\n"), [lie]);
    assert_eq!(events("TASK len=5:\nabc\nPING\n"), [lie]);
    assert_eq!(events("TASK len=3:\nabc\rPING\n"), [lie]);
    let prio = r#"ERR usage TASK has no option "prio"; it has queue, priority, delay, ttr, attempts, backoff, key, keep, batch, len"#;
    assert_eq!(events("TASK prio=1 len=3:\nabcd\nPING\n"), [prio, lie]);
    let unreadable = "ERR usage len is the body's size in bytes, a whole number given once; closing [closes]";
    for header in
        ["len=x:", "len=:", "len=-1:", "len=+1:", "len=1.5:", "len=18446744073709551616:", "len=1 len=1:"]
    {
        assert_eq!(events(format!("TASK {header}\nPING\nPING\n")), [unreadable], "{header}");
    }
    assert_eq!(events("PING len=x\nPING\n"), [unreadable]);
    assert_eq!(
        events("TASK len=4: PING\nPING\nPING\n"),
        [
            "ERR usage a body is in the line or behind it: with len= nothing follows the colon; closing [closes]"
        ]
    );
}

const HEADER_TOO_BIG: &str =
    "ERR too-big a header has at most 4096 bytes, up to its colon; a body goes behind the colon";
const BODY_TOO_BIG: &str = "ERR too-big a body has at most 100 bytes here; the server's -z sets it";

#[test]
fn header_may_have_4096_bytes_and_no_more() {
    let get = |bytes: usize| format!("GET queue={}", "q,".repeat(bytes))[..bytes - 1].to_owned() + "q";
    assert_eq!(get(HEADER_BYTES_MAX).len(), HEADER_BYTES_MAX);
    for end in ["\n", "\r\n"] {
        let fits = get(HEADER_BYTES_MAX);
        assert_eq!(events(format!("{fits}{end}")), [format!("= {fits}")]);
        assert_eq!(events(format!("{}{end}PING\n", get(HEADER_BYTES_MAX + 1))), [HEADER_TOO_BIG, "= PING"]);
    }
    // Spaces between words count as well; the colon is the last byte of a header.
    let task = |bytes: usize| format!("TASK{}:", " ".repeat(bytes - 5));
    let body = "b".repeat(BODY_MAX);
    for end in ["\n", "\r\n"] {
        assert_eq!(events(format!("{} {body}{end}", task(HEADER_BYTES_MAX))), [format!("= TASK: {body}")]);
        assert_eq!(
            events(format!("{} {body}{end}PING\n", task(HEADER_BYTES_MAX + 1))),
            [HEADER_TOO_BIG, "= PING"]
        );
    }
    let with_len = format!("TASK{}len=4:\nPING\n", " ".repeat(HEADER_BYTES_MAX - 10));
    assert_eq!(events(with_len), ["= TASK: PING"]);
}

#[test]
fn overlong_header_with_a_size_in_it_closes_rather_than_take_a_body_for_commands() {
    let closes = format!("{HEADER_TOO_BIG} [closes]");
    let spaces = " ".repeat(HEADER_BYTES_MAX);
    assert_eq!(events(format!("TASK{spaces}len=5:\nPING\n\nPING\n")), [&*closes]);
    assert_eq!(events(format!("TASK len=5{spaces}:\nPING\n\nPING\n")), [&*closes]);
}

#[test]
fn body_may_have_the_limit_and_no_more() {
    let fits = "b".repeat(BODY_MAX);
    for end in ["\n", "\r\n"] {
        assert_eq!(events(format!("TASK: {fits}{end}")), [format!("= TASK: {fits}")]);
        assert_eq!(events(format!("TASK: {fits}b{end}PING\n")), [BODY_TOO_BIG, "= PING"]);
        assert_eq!(events(format!("TASK:{fits}b{end}PING\n")), [BODY_TOO_BIG, "= PING"]);
        assert_eq!(events(format!("TASK len=100:{end}{fits}{end}")), [format!("= TASK: {fits}")]);
        assert_eq!(events(format!("TASK len=101:{end}{fits}b{end}PING\n")), [BODY_TOO_BIG, "= PING"]);
    }
    assert_eq!(events("TASK len=18446744073709551615:\nPING\nPING\n"), [BODY_TOO_BIG, "..."]);
    assert_eq!(events(format!("NOPE: {fits}b\nPING\n")), [BODY_TOO_BIG, "= PING"]);
}

#[test]
fn http_request_is_turned_away_and_nothing_behind_it_is_carried_out() {
    for line in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "POST /TASK:x HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "PING HTTP/1.1",
        "HTTP/1.1",
        "nonsense in lower case HTTP/1.0",
        // A colon at a path's end looks like the end of a header.
        "GET /: HTTP/1.1",
        "TASK /: HTTP/1.1",
        "FAIL /: HTTP/1.1",
        "TASK prio=1: HTTP/1.1",
        // Neither does a size behind which the next lines would be skipped, or the connection closed, matter.
        "TASK /len len=9999 HTTP/1.1",
        "GET / len=x HTTP/1.1",
    ] {
        for end in ["\n", "\r\n"] {
            assert_eq!(
                events(format!("PING\n{line}{end}TASK: evil\nPING\n")),
                ["= PING", "HTTP 400"],
                "{line}"
            );
        }
    }
    let long = "x".repeat(HEADER_BYTES_MAX * 3);
    assert_eq!(events(format!("GET /{long} HTTP/1.1\r\nTASK: evil\n")), ["HTTP 400"]);
    assert_eq!(events(format!("GET /: {long} HTTP/1.1\r\nTASK: evil\n")), ["HTTP 400"]);
}

#[test]
fn body_may_end_like_an_http_request() {
    assert_eq!(events("TASK: GET / HTTP/1.1\n"), ["= TASK: GET / HTTP/1.1"]);
    assert_eq!(events("FAIL 7: HTTP/1.1\n"), ["= FAIL 7: HTTP/1.1"]);
    assert_eq!(events("TASK len=14:\nGET / HTTP/1.1\nPING\n"), ["= TASK: GET / HTTP/1.1", "= PING"]);
    assert_eq!(events(format!("TASK: {} HTTP/1.1\nPING\n", "x".repeat(BODY_MAX))), [BODY_TOO_BIG, "= PING"]);
    assert_eq!(events("GET queue=HTTP/1.1\n"), ["= GET queue=HTTP/1.1"], "it is no word of its own");
}

#[test]
fn farewell_is_a_whole_http_response() {
    let mut decoder = djqs::protocol::Decoder::new(FrameLimits::default());
    let djqs::protocol::Step::Farewell { text } = decoder.next(b"GET / HTTP/1.1\n") else {
        panic!("no farewell");
    };
    let text = std::str::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
    assert!(head.lines().all(|line| line.starts_with("HTTP/1.1 400 ") || line.contains(": ")), "{text}");
}

#[test]
fn half_a_command_is_midway_and_nothing_is_not() {
    for midway in [
        "P",
        "PING",
        "TASK len=5:\n",
        "TASK len=5:\nabcde",
        "PING\nP",
        "TASK x len=5:\n",
        "TASK x len=5:\nabcde",
    ] {
        assert!(decode(FrameLimits::default(), [midway.as_bytes()]).midway, "{midway:?}");
    }
    for whole in ["", "PING\n", "TASK len=5:\nabcde\n", "TASK x len=5:\nabcde\n"] {
        assert!(!decode(FrameLimits::default(), [whole.as_bytes()]).midway, "{whole:?}");
    }
    // All of it has been dropped, and still a line is on its way.
    let skipped = vec![b'x'; 200_000];
    assert!(decode(FrameLimits::default(), [&skipped[..]]).midway);
}

/// A reply as it goes out, and as it is read.
fn reply(reply: &Reply, wire: &str, answer: &Answer) {
    let mut out = Vec::new();
    write_reply(reply, &mut out);
    assert_eq!(out.escape_ascii().to_string(), wire.as_bytes().escape_ascii().to_string());
    assert_eq!(read_answer(&out).as_ref(), Ok(&Some((out.len(), answer.clone()))));
}

#[test]
fn replies_are_written_as_the_reference_has_them() {
    let id = JobId(7);
    let second = Duration::from_secs(1);
    reply(&Reply::Accepted { id, duplicate: None }, "ACK 7\n", &Answer::Accepted { id, duplicate: None });
    let duplicate = Some(JobState::Dead);
    reply(
        &Reply::Accepted { id, duplicate },
        "ACK 7 duplicate=yes state=dead\n",
        &Answer::Accepted { id, duplicate },
    );
    reply(&Reply::Empty, "EMPTY\n", &Answer::Empty);
    let paused = vec![QueueName::new("a").unwrap(), QueueName::new("b").unwrap()];
    let (drained, answer) = (Reply::Drained { paused: vec![] }, Answer::Drained { paused: vec![] });
    reply(&drained, "EMPTY drained=yes\n", &answer);
    let (drained, answer) = (Reply::Drained { paused: paused.clone() }, Answer::Drained { paused });
    reply(&drained, "EMPTY drained=yes paused=a,b\n", &answer);
    reply(&Reply::Done, "OK\n", &Answer::Done);
    reply(&Reply::RetryIn(second), "OK retry=1s\n", &Answer::RetryIn(second));
    reply(&Reply::Dead, "OK dead=yes\n", &Answer::Dead);
    reply(&Reply::Count(0), "OK count=0\n", &Answer::Count(0));
    reply(&Reply::Jobs(Vec::new()), "OK lines=0\n", &Answer::Lines(Vec::new()));
    reply(&Reply::Pong, "PONG\n", &Answer::Pong);
    let refusal = Refusal::full(second, "no room");
    reply(&Reply::Refused(refusal.clone()), "ERR full retry_after=1s no room\n", &Answer::Refused(refusal));
    let bare = Refusal::new(Code::Internal, "");
    reply(&Reply::Refused(bare.clone()), "ERR internal\n", &Answer::Refused(bare));
}

#[test]
fn job_is_written_in_one_line_where_its_body_survives_that() {
    let lease = |body: &[u8]| Lease::new(JobId(7), body);
    for (body, wire) in [
        (&b"x"[..], "JOB 7 queue=default attempt=1 ttr=1m: x\n"),
        (b"", "JOB 7 queue=default attempt=1 ttr=1m: \n"),
        (b" x ", "JOB 7 queue=default attempt=1 ttr=1m:  x \n"),
        (b"a\rb", "JOB 7 queue=default attempt=1 ttr=1m: a\rb\n"),
        (b"a\nb", "JOB 7 queue=default attempt=1 ttr=1m len=3:\na\nb\n"),
        (b"\n", "JOB 7 queue=default attempt=1 ttr=1m len=1:\n\n\n"),
        (b"a\r", "JOB 7 queue=default attempt=1 ttr=1m len=2:\na\r\n"),
        (b"\0: len=5:", "JOB 7 queue=default attempt=1 ttr=1m: \0: len=5:\n"),
    ] {
        reply(&Reply::Leased(lease(body)), wire, &Answer::Leased(lease(body)));
    }
}

#[test]
fn refusal_is_one_printable_line_whatever_is_in_its_text() {
    let mut out = Vec::new();
    write_reply(&Reply::Refused(Refusal::usage("a\nERR b\r\x1b[1m\u{e9}")), &mut out);
    assert_eq!(out, b"ERR usage a\\nERR b\\r\\x1b[1m\\xc3\\xa9\n");
}

#[test]
fn answer_that_is_not_whole_is_waited_for() {
    for part in [
        "",
        "ACK 7",
        "JOB 7 queue=q attempt=1 ttr=1m len=3:\nabc",
        "OK lines=2\na\nb",
        "OK lines=99999999999999\n",
    ] {
        assert_eq!(read_answer(part.as_bytes()), Ok(None), "{part:?}");
    }
}

#[test]
fn answer_may_have_words_that_are_not_known_yet() {
    let read = |text: &str| read_answer(text.as_bytes()).unwrap().unwrap().1;
    assert_eq!(read("ACK 7 shard=3\n"), Answer::Accepted { id: JobId(7), duplicate: None });
    assert_eq!(read("OK took=3ms\n"), Answer::Done);
    assert_eq!(read("OK took=3ms count=4\n"), Answer::Count(4));
    assert_eq!(read("EMPTY why=paused\n"), Answer::Empty);
    let Answer::Leased(lease) = read("JOB 7 queue=q attempt=2 ttr=1s color=red: x\n") else {
        panic!("no lease")
    };
    assert_eq!((lease.attempt, &lease.body[..]), (2, &b"x"[..]));
    assert_eq!(
        read("ERR over-quota slow down\n"),
        Answer::Refused(Refusal::new(Code::Internal, "over-quota: slow down"))
    );
}

#[test]
fn bytes_that_are_no_answer_are_refused() {
    for line in [
        "",
        "HTTP/1.1 400 Bad Request\r",
        "INSERTED 7\r",
        "ACK",
        "ACK x",
        "ACK 7 duplicate=yes",
        "JOB 7",
        "JOB 7: x",
        "JOB queue=q attempt=1 ttr=1m: x",
        "JOB 7 queue=q attempt=x ttr=1m: x",
        "JOB 7 queue=q attempt=1 ttr=1m len=x:",
        "JOB 7 queue=q attempt=1 ttr=1m len=1:\nabc",
        "JOB 7 queue=q attempt=1 ttr=1m state=ready: x",
        "OK count=x",
        "OK lines=-1",
        "OK retry=soon",
        "ERR",
        "ERR ",
        "ERR full retry_after=x no",
        "ERR \u{e9}\0 x\nOK",
        "PONGO",
    ] {
        match read_answer(format!("{line}\n").as_bytes()) {
            Err(bad) => assert!(bad.to_string().is_ascii(), "{bad}"),
            Ok(Some((_, Answer::Refused(refusal)))) if line.contains('\u{e9}') => {
                assert_eq!(refusal.code, Code::Internal)
            }
            other => panic!("{line:?} was read as {other:?}"),
        }
    }
}
