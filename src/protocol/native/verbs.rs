//! The verbs: one table, from which requests are read, errors say what there is, and HELP is written.

use std::time::Duration;

use super::duration::{BadDuration, duration};
use super::text::{number, quoted};
use crate::error::{Code, Refusal};
use crate::job::{JobId, JobState, Key, Options, Priority, QueueName, Submission};
use crate::protocol::{Command, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, Retry, Wait};

/// One verb of the dialect.
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) body: TakesBody,
    options: &'static [&'static str],
    /// How it is written, for HELP.
    form: &'static str,
    /// What it does, and what it answers, for HELP.
    what: &'static str,
    read: fn(&Header<'_>) -> Result<Command, Refusal>,
}

/// Whether a verb stands before a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TakesBody {
    Always,
    IfGiven,
    Never,
}

/// All verbs; the busy ones first, since they are looked for in this order.
static VERBS: [Verb; 18] = [
    Verb {
        name: "TASK",
        body: TakesBody::Always,
        options: &["queue", "priority", "delay", "ttr", "attempts", "backoff", "key", "len"],
        form: "TASK [queue=Q] [priority=N] [delay=D] [ttr=D] [attempts=N] [backoff=D] [key=K] [len=N]: body",
        what: "accept a job: ACK id",
        read: task,
    },
    Verb {
        name: "GET",
        body: TakesBody::Never,
        options: &["queue", "wait"],
        form: "GET [queue=Q[,Q...]] [wait=D]",
        what: "lease the next job: JOB id queue=Q attempt=N ttr=D: body, or EMPTY",
        read: get,
    },
    Verb {
        name: "ACK",
        body: TakesBody::Never,
        options: &[],
        form: "ACK id",
        what: "a leased job is done: OK",
        read: ack,
    },
    Verb {
        name: "FAIL",
        body: TakesBody::IfGiven,
        options: &["delay", "dead", "len"],
        form: "FAIL id [delay=D | dead=yes] [len=N][: reason]",
        what: "a leased job failed: OK retry=D, or OK dead=yes",
        read: fail,
    },
    Verb {
        name: "RETURN",
        body: TakesBody::Never,
        options: &["delay"],
        form: "RETURN id [delay=D]",
        what: "hand a leased job back, no attempt charged: OK",
        read: hand_back,
    },
    Verb {
        name: "TOUCH",
        body: TakesBody::Never,
        options: &["ttr"],
        form: "TOUCH id [ttr=D]",
        what: "let a lease start anew: OK",
        read: touch,
    },
    Verb {
        name: "PEEK",
        body: TakesBody::Never,
        options: &[],
        form: "PEEK id",
        what: "look at a job: JOB id queue=Q state=S ...: body",
        read: peek,
    },
    Verb {
        name: "LIST",
        body: TakesBody::Never,
        options: &["queue", "state", "limit", "after"],
        form: "LIST queue=Q [state=S] [limit=N] [after=id]",
        what: "look at a queue's jobs, oldest first: OK lines=N, one JSON object a line",
        read: list,
    },
    Verb {
        name: "RETRY",
        body: TakesBody::Never,
        options: &["queue", "limit"],
        form: "RETRY id | RETRY queue=Q [limit=N]",
        what: "dead jobs back to ready: OK count=N",
        read: retry,
    },
    Verb {
        name: "DELETE",
        body: TakesBody::Never,
        options: &[],
        form: "DELETE id",
        what: "remove a job: OK",
        read: delete,
    },
    Verb {
        name: "PURGE",
        body: TakesBody::Never,
        options: &["queue", "state"],
        form: "PURGE queue=Q [state=S]",
        what: "remove a queue's jobs, but for leased ones: OK count=N",
        read: purge,
    },
    Verb {
        name: "PAUSE",
        body: TakesBody::Never,
        options: &["queue", "for"],
        form: "PAUSE queue=Q [for=D]",
        what: "hand out nothing of a queue: OK",
        read: pause,
    },
    Verb {
        name: "RESUME",
        body: TakesBody::Never,
        options: &["queue"],
        form: "RESUME queue=Q",
        what: "hand out a paused queue's jobs again: OK",
        read: resume,
    },
    Verb {
        name: "STATS",
        body: TakesBody::Never,
        options: &["queue"],
        form: "STATS [queue=Q]",
        what: "the server's counters, or a queue's: OK lines=N, each name: value",
        read: stats,
    },
    Verb {
        name: "QUEUES",
        body: TakesBody::Never,
        options: &[],
        form: "QUEUES",
        what: "all queues with their counts: OK lines=N",
        read: |header| alone(header, Command::Queues),
    },
    Verb {
        name: "PING",
        body: TakesBody::Never,
        options: &[],
        form: "PING",
        what: "is anybody there: PONG",
        read: |header| alone(header, Command::Ping),
    },
    Verb {
        name: "HELP",
        body: TakesBody::Never,
        options: &[],
        form: "HELP",
        what: "this list: OK lines=N",
        read: |header| alone(header, Command::Help),
    },
    Verb {
        name: "QUIT",
        body: TakesBody::Never,
        options: &[],
        form: "QUIT",
        what: "hand back what is leased and close; no reply",
        read: |header| alone(header, Command::Quit),
    },
];

/// The lines that HELP answers, one a verb.
pub(super) fn help() -> impl ExactSizeIterator<Item = String> {
    VERBS.iter().map(|verb| format!("{}  {}", verb.form, verb.what))
}

/// The verb of that name.
///
/// # Errors
/// `unknown-verb`, with a hint where only the case is wrong.
pub(super) fn find(name: &[u8]) -> Result<&'static Verb, Refusal> {
    VERBS.iter().find(|verb| verb.name.as_bytes() == name).ok_or_else(|| unknown(name))
}

#[cold]
fn unknown(name: &[u8]) -> Refusal {
    if name.is_empty() {
        return Refusal::new(Code::UnknownVerb, "a line begins with its verb; HELP lists the verbs");
    }
    let text = match VERBS.iter().find(|verb| verb.name.as_bytes().eq_ignore_ascii_case(name)) {
        Some(verb) => format!("{} is no verb; verbs are upper case: write {}", quoted(name), verb.name),
        None => format!("{} is no verb; HELP lists the verbs", quoted(name)),
    };
    Refusal::new(Code::UnknownVerb, text)
}

/// A request's parts, cut but not understood.
pub(super) struct Header<'a> {
    pub(super) verb: &'static Verb,
    /// What stands between the verb and the header's end.
    pub(super) words: &'a [u8],
    /// The body, where there is a colon.
    pub(super) body: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Makes a command of the parts.
    ///
    /// # Errors
    /// `usage` or `bad-name`, with what to write instead.
    pub(super) fn read(&self) -> Result<Command, Refusal> {
        match (self.verb.body, self.body) {
            (TakesBody::Always, None) => {
                Err(self.usage("needs its body behind a colon and a space: TASK: body"))
            }
            (TakesBody::Never, Some(_)) => {
                Err(self.usage("takes no body: leave the colon and what follows away"))
            }
            _ => (self.verb.read)(self),
        }
    }

    fn words(&self) -> Words<'a> {
        Words { verb: self.verb, rest: self.words }
    }

    fn usage(&self, text: &str) -> Refusal {
        Refusal::usage(format!("{} {text}", self.verb.name))
    }
}

/// The words of a header, read one after the other: as an iterator, those that are `name=value`.
struct Words<'a> {
    verb: &'static Verb,
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn next_word(&mut self) -> Option<&'a [u8]> {
        let start = self.rest.iter().position(|byte| *byte != b' ')?;
        let word = &self.rest[start..];
        let end = word.iter().position(|byte| *byte == b' ').unwrap_or(word.len());
        self.rest = &word[end..];
        Some(&word[..end])
    }

    /// The job's id, which stands before all options.
    fn id(&mut self) -> Result<JobId, Refusal> {
        let word = self.next_word();
        word.and_then(number).map(JobId).ok_or_else(|| self.no_id(word))
    }

    #[cold]
    fn no_id(&self, word: Option<&[u8]>) -> Refusal {
        let name = self.verb.name;
        match word {
            None => Refusal::usage(format!("{name} needs a job's id: {name} id")),
            Some(word) if word.contains(&b'=') => {
                Refusal::usage(format!("{name} needs the job's id before its options: {name} id"))
            }
            Some(word) => not_an_id(word),
        }
    }

    fn unknown_option(&self, name: &[u8]) -> Refusal {
        let verb = self.verb;
        let options = if verb.options.is_empty() { "none".to_owned() } else { verb.options.join(", ") };
        Refusal::usage(format!("{} has no option {}; it has {options}", verb.name, quoted(name)))
    }

    fn not_an_option(&self, word: &[u8]) -> Refusal {
        let verb = self.verb;
        let hint = match (verb.body, verb.options.is_empty()) {
            (TakesBody::Never, true) => "nothing else belongs in the line".to_owned(),
            (TakesBody::Never, false) => {
                format!("options are written name=value, and it has {}", verb.options.join(", "))
            }
            _ => format!("options are written name=value, and the body goes behind a colon: {}", verb.form),
        };
        Refusal::usage(format!("{} does not take {}; {hint}", verb.name, quoted(word)))
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let word = self.next_word()?;
        Some(super::text::name_and_value(word).ok_or_else(|| self.not_an_option(word)))
    }
}

fn task(header: &Header<'_>) -> Result<Command, Refusal> {
    let (mut queue, mut priority, mut delay, mut ttr) = (None, None, None, None);
    let (mut attempts, mut backoff, mut key) = (None, None, None);
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queue, "queue", value, queue_name)?,
            b"priority" => once(&mut priority, "priority", value, number_u32)?,
            b"delay" => once(&mut delay, "delay", value, any_duration)?,
            b"ttr" => once(&mut ttr, "ttr", value, lease_duration)?,
            b"attempts" => once(&mut attempts, "attempts", value, number_u32)?,
            b"backoff" => once(&mut backoff, "backoff", value, any_duration)?,
            b"key" => once(&mut key, "key", value, unique_key)?,
            b"len" => {} // has been read where the line was cut
            _ => return Err(words.unknown_option(name)),
        }
    }
    let default = Options::default();
    let options = Options {
        priority: priority.map_or(default.priority, Priority),
        delay: delay.unwrap_or(default.delay),
        ttr: ttr.unwrap_or(default.ttr),
        attempts: attempts.unwrap_or(default.attempts),
        backoff: backoff.unwrap_or(default.backoff),
        key,
    };
    let body = header.body.unwrap_or_default().into();
    Ok(Command::Submit(Submission { queue: queue.unwrap_or_default(), options, body }))
}

fn get(header: &Header<'_>) -> Result<Command, Refusal> {
    let (mut queues, mut wait) = (None, None);
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queues, "queue", value, queue_names)?,
            b"wait" => once(&mut wait, "wait", value, any_duration)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    Ok(Command::Lease { queues: queues.unwrap_or_default(), wait: wait.map_or(Wait::Forever, Wait::AtMost) })
}

fn ack(header: &Header<'_>) -> Result<Command, Refusal> {
    only_id(header).map(|id| Command::Ack { id })
}

fn fail(header: &Header<'_>) -> Result<Command, Refusal> {
    let (mut delay, mut dead) = (None, None);
    let mut words = header.words();
    let id = words.id()?;
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"delay" => once(&mut delay, "delay", value, any_duration)?,
            b"dead" => once(&mut dead, "dead", value, yes)?,
            b"len" => {} // has been read where the line was cut
            _ => return Err(words.unknown_option(name)),
        }
    }
    if delay.is_some() && dead.is_some() {
        return Err(header.usage("takes delay or dead=yes, not both: a dead job is not tried again"));
    }
    let reason = header.body.map(|body| String::from_utf8_lossy(body).into());
    Ok(Command::Fail { id, delay, dead: dead.is_some(), reason })
}

fn hand_back(header: &Header<'_>) -> Result<Command, Refusal> {
    let mut delay = None;
    let mut words = header.words();
    let id = words.id()?;
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"delay" => once(&mut delay, "delay", value, any_duration)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    Ok(Command::Return { id, delay: delay.unwrap_or_default() })
}

fn touch(header: &Header<'_>) -> Result<Command, Refusal> {
    let mut ttr = None;
    let mut words = header.words();
    let id = words.id()?;
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"ttr" => once(&mut ttr, "ttr", value, lease_duration)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    Ok(Command::Touch { id, ttr })
}

fn peek(header: &Header<'_>) -> Result<Command, Refusal> {
    only_id(header).map(|id| Command::Peek { id })
}

fn list(header: &Header<'_>) -> Result<Command, Refusal> {
    let (mut queue, mut state, mut limit, mut after) = (None, None, None, None);
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queue, "queue", value, queue_name)?,
            b"state" => once(&mut state, "state", value, job_state)?,
            b"limit" => once(&mut limit, "limit", value, list_limit)?,
            b"after" => once(&mut after, "after", value, job_id)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    let queue = queue.ok_or_else(|| needs_queue(header))?;
    Ok(Command::List { queue, state, limit: limit.unwrap_or(LIST_LIMIT_DEFAULT), after })
}

fn retry(header: &Header<'_>) -> Result<Command, Refusal> {
    let mut words = header.words();
    let first = words
        .next_word()
        .ok_or_else(|| header.usage("needs a job's id or a queue: RETRY id, or RETRY queue=Q"))?;
    if !first.contains(&b'=') {
        return only_id(header).map(|id| Command::Retry(Retry::Job(id)));
    }
    let (mut queue, mut limit) = (None, None);
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queue, "queue", value, queue_name)?,
            b"limit" => once(&mut limit, "limit", value, retry_limit)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    let queue = queue.ok_or_else(|| needs_queue(header))?;
    Ok(Command::Retry(Retry::Queue { queue, limit }))
}

fn delete(header: &Header<'_>) -> Result<Command, Refusal> {
    only_id(header).map(|id| Command::Delete { id })
}

fn purge(header: &Header<'_>) -> Result<Command, Refusal> {
    let (mut queue, mut state) = (None, None);
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queue, "queue", value, queue_name)?,
            b"state" => once(&mut state, "state", value, job_state)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    let queue = queue.ok_or_else(|| needs_queue(header))?;
    Ok(Command::Purge { queue, state })
}

fn pause(header: &Header<'_>) -> Result<Command, Refusal> {
    let (mut queue, mut time) = (None, None);
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queue, "queue", value, queue_name)?,
            b"for" => once(&mut time, "for", value, any_duration)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    let queue = queue.ok_or_else(|| needs_queue(header))?;
    Ok(Command::Pause { queue, time })
}

fn resume(header: &Header<'_>) -> Result<Command, Refusal> {
    let queue = only_queue(header)?.ok_or_else(|| needs_queue(header))?;
    Ok(Command::Resume { queue })
}

fn stats(header: &Header<'_>) -> Result<Command, Refusal> {
    only_queue(header).map(|queue| Command::Stats { queue })
}

fn alone(header: &Header<'_>, command: Command) -> Result<Command, Refusal> {
    let mut words = header.words();
    match words.next() {
        None => Ok(command),
        Some(Ok((name, _))) => Err(words.unknown_option(name)),
        Some(Err(refusal)) => Err(refusal),
    }
}

fn only_id(header: &Header<'_>) -> Result<JobId, Refusal> {
    let mut words = header.words();
    let id = words.id()?;
    match words.next_word() {
        None => Ok(id),
        Some(_) => Err(header.usage("takes one job's id and nothing else")),
    }
}

fn only_queue(header: &Header<'_>) -> Result<Option<QueueName>, Refusal> {
    let mut queue = None;
    let mut words = header.words();
    while let Some(option) = words.next() {
        let (name, value) = option?;
        match name {
            b"queue" => once(&mut queue, "queue", value, queue_name)?,
            _ => return Err(words.unknown_option(name)),
        }
    }
    Ok(queue)
}

fn needs_queue(header: &Header<'_>) -> Refusal {
    header.usage("needs a queue: queue=Q")
}

/// Reads an option's value, unless the option has been given before.
fn once<T>(
    slot: &mut Option<T>,
    name: &'static str,
    value: &[u8],
    read: fn(&'static str, &[u8]) -> Result<T, Refusal>,
) -> Result<(), Refusal> {
    if slot.is_some() {
        return Err(Refusal::usage(format!("{name} is given twice; give it once")));
    }
    *slot = Some(read(name, value)?);
    Ok(())
}

fn queue_name(_: &'static str, value: &[u8]) -> Result<QueueName, Refusal> {
    QueueName::from_bytes(value)
        .map_err(|rule| Refusal::new(Code::BadName, format!("{}: {rule}", quoted(value))))
}

fn queue_names(name: &'static str, value: &[u8]) -> Result<Vec<QueueName>, Refusal> {
    value.split(|byte| *byte == b',').map(|one| queue_name(name, one)).collect()
}

fn number_u32(name: &'static str, value: &[u8]) -> Result<u32, Refusal> {
    within(name, value, 0, u64::from(u32::MAX)).map(|number| number as u32)
}

fn list_limit(name: &'static str, value: &[u8]) -> Result<u32, Refusal> {
    within(name, value, 1, u64::from(LIST_LIMIT_MAX)).map(|number| number as u32)
}

fn retry_limit(name: &'static str, value: &[u8]) -> Result<u64, Refusal> {
    within(name, value, 1, u64::MAX)
}

fn within(name: &'static str, value: &[u8], min: u64, max: u64) -> Result<u64, Refusal> {
    number(value).filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        Refusal::usage(format!("{name} is a whole number from {min} to {max}, not {}", quoted(value)))
    })
}

fn job_id(_: &'static str, value: &[u8]) -> Result<JobId, Refusal> {
    number(value).map(JobId).ok_or_else(|| not_an_id(value))
}

#[cold]
fn not_an_id(word: &[u8]) -> Refusal {
    Refusal::usage(format!("{} is no job's id; an id is a whole number up to {}", quoted(word), u64::MAX))
}

fn any_duration(name: &'static str, value: &[u8]) -> Result<Duration, Refusal> {
    duration(value).map_err(|BadDuration| Refusal::usage(format!("{name}={}: {BadDuration}", quoted(value))))
}

fn lease_duration(name: &'static str, value: &[u8]) -> Result<Duration, Refusal> {
    match any_duration(name, value)? {
        Duration::ZERO => {
            Err(Refusal::usage(format!("{name} is at least 1ms: a lease of no time can't be worked on")))
        }
        ttr => Ok(ttr),
    }
}

fn unique_key(name: &'static str, value: &[u8]) -> Result<Key, Refusal> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| Key::new(text).ok())
        .ok_or_else(|| Refusal::usage(format!("{name}={}: {}", quoted(value), crate::job::BadKey)))
}

fn job_state(name: &'static str, value: &[u8]) -> Result<JobState, Refusal> {
    let state = std::str::from_utf8(value).ok().and_then(JobState::from_name);
    state.ok_or_else(|| {
        Refusal::usage(format!("{name} is ready, delayed, leased or dead, not {}", quoted(value)))
    })
}

fn yes(name: &'static str, value: &[u8]) -> Result<(), Refusal> {
    match value {
        b"yes" => Ok(()),
        _ => Err(Refusal::usage(format!("{name} is yes or not given, not {}", quoted(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_one_line_a_verb_that_begins_with_it() {
        let lines: Vec<String> = help().collect();
        assert_eq!(lines.len(), VERBS.len());
        for (line, verb) in lines.iter().zip(&VERBS) {
            assert!(line.starts_with(verb.name), "{line}");
            for option in verb.options {
                assert!(line.contains(&format!("{option}=")), "{line} does not show {option}");
            }
        }
    }
}
