//! What holds of the native protocol for every command, every reply and every string of bytes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use decoding::{Event, Outcome, decode, pieces};
use djqs::job::{
    AHEAD_MAX, BatchName, Counts, Finished, Group, Hello, MAX_DURATION, Order, Pause, Progress, Rate, Search,
    Secret, Why, Wish, WorkerName,
};
use djqs::protocol::native::{
    Answer, format_duration, parse_duration, read_answer, write_command, write_reply,
};
use djqs::protocol::{
    Cancel, Command, Dialect, Each, FrameLimits, LIST_LIMIT_MAX, OnDrained, Reply, Retry, Wait,
};
use djqs::stats::{BatchStats, QueueStats, ServerStats, StateCounts};
use djqs::{Code, Job, JobId, JobState, Key, Lease, Options, QueueName, Refusal, Submission};
use proptest::prelude::*;
use serde_json::{Value, json};

mod decoding;

fn job_id() -> impl Strategy<Value = JobId> {
    prop_oneof![0..100_u64, any::<u64>()].prop_map(JobId)
}

fn queue_name() -> impl Strategy<Value = QueueName> {
    let name = prop_oneof![
        Just("default".to_owned()),
        "[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]{0,20}",
        "[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]{199}",
    ];
    name.prop_map(|name| QueueName::new(&name).unwrap())
}

fn key() -> impl Strategy<Value = Key> {
    let text = prop_oneof!["[a-z0-9:=,]{1,12}", "[!-~]{1,200}", "\\PC{1,40}"];
    text.prop_filter_map("no key", |text| Key::new(&text).ok())
}

/// Whole milliseconds, often a whole number of a larger unit.
fn duration() -> impl Strategy<Value = Duration> {
    let most = MAX_DURATION.as_millis() as u64;
    let unit = prop_oneof![Just(1), Just(1_000), Just(60_000), Just(3_600_000), Just(86_400_000)];
    prop_oneof![
        (0..200_u64, unit).prop_map(|(number, unit)| Duration::from_millis(number * unit)),
        (0..=most).prop_map(Duration::from_millis),
        Just(MAX_DURATION),
    ]
}

fn lease_duration() -> impl Strategy<Value = Duration> {
    duration().prop_map(|duration| duration.max(Duration::from_millis(1)))
}

/// Any bytes, and often those that mean something to the protocol.
fn body() -> impl Strategy<Value = Arc<[u8]>> {
    let telling = prop::sample::select(&b"\n\r :=a\0\xff"[..]);
    prop_oneof![
        prop::collection::vec(telling, 0..12),
        prop::collection::vec(any::<u8>(), 0..200),
        "[ -~]{0,80}".prop_map(String::into_bytes),
        Just(b"TASK len=3: x HTTP/1.1".to_vec()),
        Just(vec![b'x'; 65_535]),
        Just(vec![b'\n'; 65_535]),
    ]
    .prop_map(Arc::from)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![any::<String>(), "[\n\r :a]{0,6}"].prop_map(Arc::from)
}

fn job_state() -> impl Strategy<Value = JobState> {
    prop::sample::select(&JobState::ALL[..])
}

fn submission() -> impl Strategy<Value = Submission> {
    let options = (
        any::<u32>(),
        duration(),
        lease_duration(),
        prop_oneof![Just(10), any::<u32>()],
        duration(),
        prop::option::of(key()),
        prop_oneof![Just(Duration::ZERO), duration()],
        prop::option::of(batch_name()),
    )
        .prop_map(|(priority, delay, ttr, attempts, backoff, key, keep, batch)| {
            Options::default()
                .priority(priority)
                .delay(delay)
                .ttr(ttr)
                .attempts(attempts)
                .backoff(backoff)
                .key(key)
                .keep(keep)
                .batch(batch)
        });
    (queue_name(), prop_oneof![Just(Options::default()), options], body())
        .prop_map(|(queue, options, body)| Submission::new(body).to(&queue).options(&options))
}

fn fail() -> impl Strategy<Value = Command> {
    let manner = prop_oneof![
        Just((None, false)),
        Just((None, true)),
        duration().prop_map(|delay| (Some(delay), false)),
    ];
    (job_id(), manner, prop::option::of(text())).prop_map(|(id, (delay, dead), reason)| Command::Fail {
        id,
        delay,
        dead,
        reason,
    })
}

fn cancel() -> impl Strategy<Value = Command> {
    let what = prop_oneof![
        job_id().prop_map(Cancel::Job),
        (group(), prop::option::of(job_state())).prop_map(|(of, state)| Cancel::All { of, state }),
    ];
    (what, prop::option::of(text())).prop_map(|(what, reason)| Command::Cancel { what, reason })
}

fn batch_name() -> impl Strategy<Value = BatchName> {
    queue_name().prop_map(|name| BatchName::new(name.as_str()).unwrap())
}

fn worker_name() -> impl Strategy<Value = WorkerName> {
    queue_name().prop_map(|name| WorkerName::new(name.as_str()).unwrap())
}

fn hello() -> impl Strategy<Value = Hello> {
    let label = || prop::option::of("[!-~]{1,200}");
    let numbers = (prop::option::of(any::<u32>()), prop::option::of(any::<u32>()));
    (worker_name(), any::<u128>(), label(), numbers, label(), duration())
        .prop_filter("a word that ends in : ends the header", |(_, _, host, _, version, _)| {
            [host, version].into_iter().flatten().all(|label| !label.ends_with(':'))
        })
        .prop_map(|(name, secret, host, (pid, slots), version, resume)| {
            let mut hello = Hello::new(name, Secret(secret));
            (hello.host, hello.version) = (host.map(Into::into), version.map(Into::into));
            (hello.pid, hello.slots, hello.resume) = (pid, slots, resume);
            hello
        })
}

fn search() -> impl Strategy<Value = Search> {
    let parts = (prop::option::of(group()), prop::option::of(job_state()), prop::option::of(key()));
    (parts, prop::option::of(duration()), prop::option::of(body())).prop_map(
        |((of, state, key), age, text)| {
            let mut search = Search::default();
            (search.of, search.state, search.key) = (of, state, key);
            (search.age, search.text) = (age, text);
            search
        },
    )
}

fn each() -> impl Strategy<Value = Each> {
    prop_oneof![Just(Each::Delete), Just(Each::Retry), prop::option::of(text()).prop_map(Each::Cancel)]
}

fn progress() -> impl Strategy<Value = Progress> {
    (prop::option::of(0..=100_u8), prop::option::of(text()), any::<u32>()).prop_map(|(percent, note, at)| {
        Progress::new(percent, note, SystemTime::UNIX_EPOCH + Duration::from_secs(at.into()))
    })
}

fn why() -> impl Strategy<Value = Why> {
    let rate = (0..1_000_000_u64, 1..100_u64)
        .prop_map(|(leased, seconds)| Rate { leased, time: Duration::from_secs(seconds) });
    let pause = prop_oneof![Just(Pause::UntilResumed), duration().prop_map(Pause::For)];
    let reason = || prop::option::of(text());
    prop_oneof![
        (0..=AHEAD_MAX, 0..5_u64, prop::option::of(rate), prop::option::of(pause))
            .prop_map(|(ahead, workers, rate, pause)| Why::Ready { ahead, workers, rate, pause }),
        (duration(), any::<u32>(), reason()).prop_map(|(remaining, failures, reason)| Why::Delayed {
            remaining,
            failures,
            reason
        }),
        (prop::option::of(worker_name()), duration(), duration(), prop::option::of(progress())).prop_map(
            |(worker, held_for, remaining, progress)| Why::Leased { worker, held_for, remaining, progress }
        ),
        (any::<u32>(), reason()).prop_map(|(failures, reason)| Why::Dead { failures, reason }),
        duration().prop_map(|remaining| Why::Done { remaining }),
        reason().prop_map(|reason| Why::Cancelled { reason }),
        Just(Why::Gone),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        job_id().prop_map(Order::Cancel),
        job_id().prop_map(Order::Lost),
        prop::sample::select(vec![Order::Quiet, Order::Resume, Order::Stop]),
    ]
}

fn group() -> impl Strategy<Value = Group> {
    prop_oneof![queue_name().prop_map(Group::Queue), batch_name().prop_map(Group::Batch)]
}

fn finished() -> impl Strategy<Value = Finished> {
    let millis = (0..u64::from(u32::MAX)).prop_map(Duration::from_millis);
    prop_oneof![
        (any::<u32>(), millis, prop::option::of(body())).prop_map(|(attempt, ran, result)| Finished::Done {
            attempt,
            ran,
            result,
        }),
        (any::<u32>(), prop::option::of(text()))
            .prop_map(|(failures, reason)| Finished::Dead { failures, reason }),
        prop::option::of(text()).prop_map(|reason| Finished::Cancelled { reason }),
        Just(Finished::Gone),
    ]
}

fn batch_stats() -> impl Strategy<Value = BatchStats> {
    prop::array::uniform7(0..1_u64 << 40).prop_map(
        |[ready, delayed, leased, dead, done, cancelled, deleted]| {
            let jobs = StateCounts { ready, delayed, leased, dead, done, cancelled };
            BatchStats { jobs, deleted }
        },
    )
}

/// Every command that the dialect can say.
fn command() -> impl Strategy<Value = Command> {
    let wait = prop_oneof![Just(Wait::Forever), duration().prop_map(Wait::AtMost)];
    let on_drained = prop_oneof![Just(OnDrained::Wait), Just(OnDrained::End)];
    let limit = prop_oneof![Just(100), 1..=LIST_LIMIT_MAX];
    let state = || prop::option::of(job_state());
    prop_oneof![
        submission().prop_map(|submission| Command::Submit(Box::new(submission))),
        (prop::collection::vec(queue_name(), 0..6), wait.clone(), on_drained)
            .prop_map(|(queues, wait, on_drained)| Command::Lease { queues, wait, on_drained }),
        (job_id(), prop::option::of(body())).prop_map(|(id, result)| Command::Ack { id, result }),
        fail(),
        (job_id(), duration()).prop_map(|(id, delay)| Command::Return { id, delay }),
        (
            job_id(),
            prop::option::of(lease_duration()),
            prop::option::of(0..=100_u8),
            prop::option::of(text())
        )
            .prop_map(|(id, ttr, progress, note)| Command::Touch { id, ttr, progress, note }),
        job_id().prop_map(|id| Command::Why { id }),
        job_id().prop_map(|id| Command::Show { id }),
        job_id().prop_map(|id| Command::Peek { id }),
        (group(), state(), limit, prop::option::of(job_id()))
            .prop_map(|(of, state, limit, after)| Command::List { of, state, limit, after }),
        job_id().prop_map(|id| Command::Retry(Retry::Job(id))),
        (group(), prop::option::of(1..=u64::MAX))
            .prop_map(|(of, limit)| Command::Retry(Retry::All { of, limit })),
        job_id().prop_map(|id| Command::Delete { id }),
        (group(), state()).prop_map(|(of, state)| Command::Purge { of, state }),
        cancel(),
        (search(), 1..=LIST_LIMIT_MAX, job_id()).prop_map(|(search, limit, before)| Command::Search {
            search: Box::new(search),
            limit,
            before: Some(before),
        }),
        (prop::collection::vec(job_id(), 2..50), each())
            .prop_map(|(ids, what)| Command::Several { ids, what }),
        hello().prop_map(|hello| Command::Hello(Box::new(hello))),
        prop::collection::vec(job_id(), 0..50).prop_map(|ids| Command::Hold { ids }),
        prop::collection::vec(job_id(), 0..50).prop_map(|ids| Command::Beat { ids }),
        wait.clone().prop_map(|wait| Command::Orders { wait }),
        (worker_name(), prop::sample::select(vec![Wish::Work, Wish::Quiet, Wish::Stop]))
            .prop_map(|(worker, wish)| Command::Wish { worker, wish }),
        Just(Command::Workers),
        (job_id(), wait.clone()).prop_map(|(id, wait)| Command::Wait { id, wait }),
        (batch_name(), 1..=u64::MAX, duration()).prop_map(|(name, total, wait)| {
            let wait = Wait::AtMost(wait);
            Command::Batch { name, total, wait }
        }),
        (queue_name(), prop::option::of(duration())).prop_map(|(queue, time)| Command::Pause { queue, time }),
        queue_name().prop_map(|queue| Command::Resume { queue }),
        prop::option::of(queue_name()).prop_map(|queue| Command::Stats { queue }),
        Just(Command::Queues),
        Just(Command::Ping),
        Just(Command::Help),
        Just(Command::Quit),
    ]
}

fn counts() -> impl Strategy<Value = Counts> {
    any::<(u32, u32, u32)>().prop_map(|(failures, crashes, returns)| Counts { failures, crashes, returns })
}

fn job() -> impl Strategy<Value = Job> {
    let standing = (job_state(), any::<u32>(), any::<u32>(), prop::option::of(duration()), counts());
    (job_id(), submission(), standing, prop::option::of(text())).prop_map(
        |(id, submission, standing, reason)| {
            let (state, attempts, created, remaining, counts) = standing;
            let mut job = Job::new(id, &submission.body);
            job.queue = submission.queue;
            job.priority = submission.options.priority;
            job.ttr = submission.options.ttr;
            job.backoff = submission.options.backoff;
            job.key = submission.options.key;
            job.created += Duration::from_secs(u64::from(created));
            (job.state, job.attempts, job.remaining) = (state, attempts, remaining);
            (job.counts, job.reason) = (counts, reason);
            (job.keep, job.batch) = (submission.options.keep, submission.options.batch);
            if state == JobState::Done {
                // One body in five was dropped.
                job.result = Some(std::mem::take(&mut job.body)).filter(|_| attempts % 5 > 0);
            }
            job
        },
    )
}

fn lease() -> impl Strategy<Value = Lease> {
    (job_id(), queue_name(), any::<u32>(), lease_duration(), body())
        .prop_map(|(id, queue, attempt, ttr, body)| lease_of(id, queue, attempt, ttr, &body))
}

fn lease_of(id: JobId, queue: QueueName, attempt: u32, ttr: Duration, body: &[u8]) -> Lease {
    let mut lease = Lease::new(id, body);
    (lease.queue, lease.attempt, lease.ttr) = (queue, attempt, ttr);
    lease
}

fn queue_stats() -> impl Strategy<Value = QueueStats> {
    (queue_name(), any::<[u64; 8]>(), prop::option::of(prop::option::of(duration()))).prop_map(
        |(name, [ready, delayed, leased, dead, done, cancelled, waiting, failed], paused)| {
            let mut stats = QueueStats::new(name);
            stats.jobs = StateCounts { ready, delayed, leased, dead, done, cancelled };
            (stats.waiting, stats.paused, stats.totals.failed) = (waiting, paused, failed);
            stats
        },
    )
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let text = "([!-~][ -~]{0,80})?".prop_filter("means something", |text| {
        !text.starts_with("retry_after=") && !text.starts_with("cancelled=")
    });
    (prop::sample::select(&Code::ALL[..]), prop::option::of(duration()), text).prop_map(
        |(code, retry_after, text)| {
            let mut refusal = Refusal::new(code, text);
            refusal.retry_after = retry_after;
            refusal.cancelled = code == Code::NotLeased && refusal.text.len() % 2 == 1;
            refusal
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    let server_stats = any::<(u32, bool, u64)>().prop_map(|(pid, draining, connections)| {
        let mut stats = ServerStats::default();
        (stats.pid, stats.draining, stats.connections) = (pid, draining, connections);
        stats.version = "1.2.3".into();
        stats
    });
    prop_oneof![
        (job_id(), prop::option::of(job_state()))
            .prop_map(|(id, duplicate)| Reply::Accepted { id, duplicate }),
        lease().prop_map(Reply::Leased),
        Just(Reply::Empty),
        prop::collection::vec(queue_name(), 0..3).prop_map(|paused| Reply::Drained { paused }),
        Just(Reply::Done),
        duration().prop_map(Reply::RetryIn),
        Just(Reply::Dead),
        Just(Reply::ResultDropped),
        why().prop_map(|why| Reply::Why(Box::new(why))),
        Just(Reply::Hello),
        (prop::collection::vec(job(), 0..5), any::<u64>(), prop::option::of(job_id()))
            .prop_map(|(jobs, searched, before)| Reply::Searched { jobs, searched, before }),
        (any::<u64>(), prop::collection::vec(job_id(), 1..20))
            .prop_map(|(count, refused)| Reply::Several { count, refused }),
        (any::<u64>(), prop::collection::vec(job_id(), 1..20))
            .prop_map(|(count, lost)| Reply::Held { count, lost }),
        order().prop_map(Reply::Order),
        (job_id(), finished()).prop_map(|(id, how)| Reply::Finished { id, how }),
        (batch_stats(), any::<bool>()).prop_map(|(stats, complete)| Reply::Batch { stats, complete }),
        job_state().prop_map(Reply::Was),
        any::<u64>().prop_map(Reply::Count),
        job().prop_map(|job| Reply::Found(Box::new(job))),
        prop::collection::vec(job(), 0..5).prop_map(Reply::Jobs),
        server_stats.prop_map(|stats| Reply::ServerStats(Box::new(stats))),
        queue_stats().prop_map(|stats| Reply::QueueStats(Box::new(stats))),
        prop::collection::vec(queue_stats(), 0..5).prop_map(Reply::Queues),
        Just(Reply::Pong),
        Just(Reply::Help),
        refusal().prop_map(Reply::Refused),
    ]
}

/// What a client has to read of a reply; of lines, whatever they hold.
fn expected(reply: &Reply, read: &Answer) -> Answer {
    match reply {
        Reply::Accepted { id, duplicate } => Answer::Accepted { id: *id, duplicate: *duplicate },
        Reply::Leased(lease) => Answer::Leased(lease.clone()),
        Reply::Empty => Answer::Empty,
        Reply::Drained { paused } => Answer::Drained { paused: paused.clone() },
        Reply::Done => Answer::Done,
        Reply::RetryIn(wait) => Answer::RetryIn(*wait),
        Reply::Dead => Answer::Dead,
        Reply::ResultDropped => Answer::ResultDropped,
        Reply::Why(why) => {
            let Answer::Why { words, sentence } = read else { panic!("{read:?} is no why") };
            let state = why.state().map_or("gone", JobState::as_str);
            assert_eq!(words[0], ("state".to_owned(), state.to_owned()));
            assert!(!sentence.is_empty());
            read.clone()
        }
        Reply::Held { count, lost } => Answer::Held { count: *count, lost: lost.clone() },
        Reply::Order(order) => Answer::Order(*order),
        Reply::Several { count, refused } => Answer::Several { count: *count, refused: refused.clone() },
        Reply::Searched { jobs, searched, before } => {
            let Answer::Searched { lines, .. } = read else { panic!("{read:?} is no search") };
            assert_eq!(lines.len(), jobs.len());
            lines.iter().zip(jobs).for_each(|(line, job)| check_json(line, job));
            Answer::Searched { lines: lines.clone(), searched: *searched, before: *before }
        }
        Reply::Hello => {
            let Answer::Hello { version, verbs } = read else { panic!("{read:?} is no hello") };
            assert_eq!(version, env!("CARGO_PKG_VERSION"));
            assert!(verbs.iter().any(|verb| verb == "HOLD"));
            read.clone()
        }
        Reply::Finished { id, how } => Answer::Finished { id: *id, how: how.clone() },
        Reply::Batch { stats, complete } => Answer::Batch { stats: *stats, complete: *complete },
        Reply::Was(state) => Answer::Was(*state),
        Reply::Count(count) => Answer::Count(*count),
        Reply::Found(job) => Answer::Found(Box::new(found(job))),
        Reply::Pong => Answer::Pong,
        Reply::Refused(refusal) => Answer::Refused(refusal.clone()),
        Reply::Jobs(_) | Reply::ServerStats(_) | Reply::QueueStats(_) | Reply::Queues(_) | Reply::Help => {
            let Answer::Lines(lines) = read else { panic!("{read:?} where lines should be") };
            check_lines(reply, lines);
            read.clone()
        }
        other => panic!("{other:?} is no reply of this dialect"),
    }
}

/// A job as PEEK shows it: the reason of its last failure is only in LIST.
fn found(job: &Job) -> Job {
    let mut shown = job.clone();
    shown.reason = None;
    shown
}

fn check_lines(reply: &Reply, lines: &[Vec<u8>]) {
    let text = |line: &Vec<u8>| String::from_utf8(line.clone()).unwrap();
    let value = |name: &str| {
        let prefix = format!("{name}: ");
        let values: Vec<String> =
            lines.iter().filter_map(|line| text(line).strip_prefix(&prefix).map(Into::into)).collect();
        assert_eq!(values.len(), 1, "{name} in {lines:?}");
        values[0].clone()
    };
    match reply {
        Reply::Jobs(jobs) => {
            assert_eq!(lines.len(), jobs.len());
            lines.iter().zip(jobs).for_each(|(line, job)| check_json(line, job));
        }
        Reply::ServerStats(stats) => {
            assert_eq!(value("pid"), stats.pid.to_string());
            assert_eq!(value("draining"), if stats.draining { "yes" } else { "no" });
            assert_eq!(value("connections"), stats.connections.to_string());
        }
        Reply::QueueStats(stats) => {
            assert_eq!(value("queue"), stats.name.as_str());
            assert_eq!(value("jobs_dead"), stats.jobs.dead.to_string());
            assert_eq!(value("failed_total"), stats.totals.failed.to_string());
        }
        Reply::Queues(queues) => {
            assert_eq!(lines.len(), queues.len());
            for (line, queue) in lines.iter().zip(queues) {
                let beginning = format!("{} ready={} ", queue.name, queue.jobs.ready);
                assert!(text(line).starts_with(&beginning), "{}", text(line));
            }
        }
        other => assert!(*other == Reply::Help && lines.len() > 10),
    }
}

fn check_json(line: &[u8], job: &Job) {
    let mut read: Value = serde_json::from_slice(line).unwrap();
    let object = read.as_object_mut().unwrap();
    // The result of a job that is done stands in its body's place.
    let (body, result) = (object.remove("body"), object.remove("result"));
    let (body_base64, result_base64) = (object.remove("body_base64"), object.remove("result_base64"));
    let is_done = job.state == JobState::Done;
    assert_eq!(
        (body.is_some() || body_base64.is_some(), result.is_some() || result_base64.is_some()),
        (!is_done, job.result.is_some())
    );
    let shown = match (body.or(result), body_base64.or(result_base64)) {
        (Some(Value::String(body)), None) => body.into_bytes(),
        (None, Some(Value::String(body))) => {
            use base64::prelude::{BASE64_STANDARD, Engine};
            let body = BASE64_STANDARD.decode(body).unwrap();
            assert!(std::str::from_utf8(&body).is_err(), "text is shown as text");
            body
        }
        (None, None) if is_done => Vec::new(),
        other => panic!("one body, not {other:?}"),
    };
    assert_eq!(shown, if is_done { job.result.as_deref().unwrap_or_default() } else { &job.body[..] });
    let millis = |duration: Duration| duration.as_millis() as u64;
    let mut expected = json!({
        "id": job.id.0, "queue": job.queue.as_str(), "state": job.state.as_str(), "priority": job.priority.0,
        "ttr_ms": millis(job.ttr), "attempts": job.attempts, "backoff_ms": millis(job.backoff),
        "key": job.key.as_ref().map(Key::as_str),
        "keep_ms": Some(millis(job.keep)).filter(|keep| *keep > 0),
        "batch": job.batch.as_ref().map(BatchName::as_str),
        "result_dropped": (is_done && job.result.is_none()).then_some(true),
        "created": job.created.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        "remaining_ms": job.remaining.map(millis), "attempt": job.attempt(), "failures": job.counts.failures,
        "crashes": job.counts.crashes, "returns": job.counts.returns, "reason": job.reason.as_deref(),
    });
    expected.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    assert_eq!(read, expected);
}

proptest! {
    #[test]
    fn command_is_read_as_it_was_written(commands in prop::collection::vec(command(), 1..4)) {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| write_command(command, &mut bytes));
        let events = commands.into_iter().map(|command| Event::Command(command, Dialect::Native)).collect();
        prop_assert_eq!(decode(FrameLimits::default(), [&bytes[..]]), Outcome { events, midway: false });
    }

    #[test]
    fn reply_is_read_as_it_was_written(reply in reply()) {
        let mut bytes = Vec::new();
        write_reply(&reply, &mut bytes);
        let whole = bytes.len();
        bytes.extend_from_slice(b"PONG\n");
        let (used, answer) = read_answer(&bytes).unwrap().expect("it is whole");
        prop_assert_eq!(used, whole);
        prop_assert_eq!(&answer, &expected(&reply, &answer));
    }

    #[test]
    fn part_of_a_reply_is_not_a_reply(reply in reply(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        write_reply(&reply, &mut bytes);
        prop_assert_eq!(read_answer(&bytes[..cut.index(bytes.len())]), Ok(None));
    }

    #[test]
    fn bytes_in_pieces_mean_what_they_mean_whole(
        commands in prop::collection::vec(command(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"\n\r :=lenxX7\0"[..])), 0..3),
        sizes in prop::collection::vec(1..50_usize, 1..8),
    ) {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| write_command(command, &mut bytes));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let limits = FrameLimits { body_max: 150 };
        let whole = decode(limits, [&bytes[..]]);
        prop_assert_eq!(&decode(limits, pieces(&bytes, &sizes)), &whole);
        prop_assert_eq!(&decode(limits, pieces(&bytes, &[4096])), &whole);
    }

    #[test]
    fn duration_is_read_as_it_was_written(duration in duration()) {
        prop_assert_eq!(parse_duration(&format_duration(duration).to_string()), Ok(duration));
    }

    #[test]
    fn random_bytes_are_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some((used, _))) = read_answer(&bytes) {
            prop_assert!(used <= bytes.len());
        }
    }
}

#[test]
fn stream_means_the_same_wherever_it_is_cut() {
    let long = "x".repeat(4200);
    let limits = FrameLimits { body_max: 60 };
    let edge = |bytes: usize, end: &str| format!("PING\nTASK{}:{end}PING\n", " ".repeat(bytes - 5));
    let streams = [
        "TASK len=20:\n12345678901234567890\nPING\n".to_owned(),
        "TASK len=20:\r\n12345678901234567890\r\nPING\r\n\n".into(),
        "TASK x len=20:\n12345678901234567890\nPING\nTASK len=0:\n\nPING\n".into(),
        "TASK x len=2:\r\nab\r\nPING\nTASK len=2:\nabc\nPING\n".into(),
        "TASK x len=2:\nab\rPING\n".into(),
        format!("TASK len=70:\n{}\nPING\n", "b".repeat(70)),
        format!("TASK: {}\r\nPING\n", "b".repeat(60)),
        format!("TASK: {}\r\nPING\n", "b".repeat(61)),
        "PING\nGET / HTTP/1.1\r\nTASK: evil\r\n".into(),
        format!("GET /{long} HTTP/1.1\r\nPING\n"),
        format!("GET /{long}HTTP/1.1\r\nPING\n"),
        format!("GET /{long} HTTP/1.1\rx\nPING\n"),
        format!("TASK: {long} HTTP/1.1\r\nPING\n"),
        format!("TASK prio=1: {long} HTTP/1.0\nPING\n"),
        format!("TASK key={long} len=4:\nPING\nPING\n"),
        format!("TASK len=4: {long}\nPING\nPING\n"),
        edge(4095, "\r\n"),
        edge(4096, "\n"),
        edge(4096, "\r\n"),
        edge(4096, "\rx\n"),
        edge(4096, "x\n"),
        edge(4096, " x\n"),
        edge(4097, "\n"),
        edge(4097, " x\n"),
    ];
    for stream in &streams {
        let bytes = stream.as_bytes();
        let whole = decode(limits, [bytes]);
        assert!(!whole.events.is_empty());
        let shown = &stream[stream.len().saturating_sub(40)..];
        assert_eq!(decode(limits, bytes.chunks(1)), whole, "byte by byte, ...{shown:?}");
        // In a flood of one byte only its ends matter.
        let telling = |cut: &usize| *cut < 30 || (4080..4120).contains(cut) || *cut + 40 > bytes.len();
        for cut in (0..bytes.len()).filter(telling) {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(decode(limits, [one, two]), whole, "cut at {cut}, ...{shown:?}");
            let (two, three) = two.split_at(1);
            assert_eq!(decode(limits, [one, two, three]), whole, "cut at {cut} and behind it, ...{shown:?}");
        }
    }
}

/// A small generator of random numbers (SplitMix64), so that a seed gives the same bytes for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

const TOKENS: [&[u8]; 64] = [
    b"TASK",
    b"GET",
    b"ACK",
    b"FAIL",
    b"RETURN",
    b"TOUCH",
    b"PEEK",
    b"LIST",
    b"RETRY",
    b"PURGE",
    b"PAUSE",
    b"STATS",
    b"PING",
    b"QUIT",
    b"task",
    b"put 0 0 60 3",
    b" ",
    b" ",
    b" ",
    b"=",
    b":",
    b":",
    b": ",
    b"\n",
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b" queue=q",
    b" queue=a,b",
    b" delay=5s",
    b" key=k:",
    b" len=3:\n",
    b" len=0:\n",
    b" len=41:\n",
    b" len=",
    b" len=18446744073709551615:",
    b" wait=0",
    b" dead=yes",
    b" state=dead",
    b" 7",
    b"abc",
    b"\0",
    b"\xff\xfe",
    b" HTTP/1.1",
    b" HTTP/1.0\r\n",
    b"GET / HTTP/1.1\r\n",
    b"x: y",
    // Whole commands, good and bad, so that what comes behind them is seen to be cut in the right place.
    b"PING\n",
    b"PING\r\n",
    b"ACK 7\n",
    b"TASK: x\n",
    b"GET wait=0\n",
    b"TASK len=3:\nabc\n",
    b"TASK len=3:\r\na\nb\r\n",
    b"FAIL 7 len=5:\n\n\n\n\n\n\n",
    b"TASK x len=3:\nabc\n",
    b"NOPE len=5:\nPING\n\n",
    b"TASK len=41:\n",
    b"TASK len=2:\n",
    b"TASK key=k len=7: \n",
    b"TASK len=x:\n",
    b"ACK\n",
    b"\n",
];

/// Bytes that are nearly the protocol: its words in no order, with noise between them, seldom a flood.
fn nearly(random: &mut Random, bytes: &mut Vec<u8>) {
    bytes.clear();
    for _ in 0..1 + random.below(14) {
        match random.below(400) {
            0 => bytes.extend(std::iter::repeat_n(b"x ="[random.below(3)], 4000 + random.below(200))),
            1..16 => bytes.push(random.below(256) as u8),
            16..24 => bytes.extend(std::iter::repeat_n(b'b', 30 + random.below(20))),
            _ => bytes.extend_from_slice(TOKENS[random.below(TOKENS.len())]),
        }
    }
}

/// 200,000 cases from a fixed seed; `DJQS_SEED` sets another, `DJQS_CASES` another number.
#[test]
fn random_input_never_breaks_a_promise() {
    let number =
        |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (first, cases): (u64, u64) = (number("DJQS_SEED", 1), number("DJQS_CASES", 200_000));
    let limits = FrameLimits { body_max: 40 };
    let mut bytes = Vec::new();
    for seed in (0..cases).map(|case| first.wrapping_add(case)) {
        let mut random = Random(seed);
        nearly(&mut random, &mut bytes);
        let sizes = [1 + random.below(12), 1 + random.below(30), 1 + random.below(2)];
        let run = std::panic::catch_unwind(|| {
            let whole = decode(limits, [&bytes[..]]);
            assert_eq!(decode(limits, pieces(&bytes, &sizes)), whole);
            let _ = read_answer(&bytes);
        });
        assert!(run.is_ok(), "DJQS_SEED={seed} DJQS_CASES=1 shows it: {}", bytes.escape_ascii());
    }
}
