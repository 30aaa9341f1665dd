//! Commands as a client writes them: from a [`Command`] to a line, and what follows it.

use std::time::Duration;

use super::text::{
    push_body, push_duration_option, push_number, push_number_option, push_queues_option, push_text_option,
};
use crate::job::{Group, Hello, JobId, MAX_DURATION, Options, QueueName, Search, Submission, Wish};
use crate::protocol::{Cancel, Command, Each, LIST_LIMIT_DEFAULT, OnDrained, Retry, Wait};

/// Writes a command as a line, with its body behind it where it can't be in it.
///
/// What is not asked for is not written: options at their defaults, and the default queue of a TASK.
///
/// # Panics
/// On a command that only the beanstalkd dialect has words for.
pub fn write_command(command: &Command, out: &mut Vec<u8>) {
    match command {
        Command::Submit(submission) => return write_task(submission, out),
        Command::Lease { queues, wait, on_drained } => write_get(queues, *wait, *on_drained, out),
        Command::Ack { id, result } => {
            push_verb_id(out, "ACK", *id);
            if let Some(result) = result {
                return push_body(out, result);
            }
        }
        Command::Fail { id, delay, dead, reason } => {
            push_verb_id(out, "FAIL", *id);
            delay.inspect(|delay| push_duration_option(out, "delay", *delay));
            if *dead {
                push_text_option(out, "dead", "yes");
            }
            if let Some(reason) = reason {
                return push_body(out, reason.as_bytes());
            }
        }
        Command::Return { id, delay } => {
            push_verb_id(out, "RETURN", *id);
            if !delay.is_zero() {
                push_duration_option(out, "delay", *delay);
            }
        }
        Command::Touch { id, ttr, progress, note } => {
            push_verb_id(out, "TOUCH", *id);
            ttr.inspect(|ttr| push_duration_option(out, "ttr", *ttr));
            progress.inspect(|progress| push_number_option(out, "progress", u64::from(*progress)));
            if let Some(note) = note {
                return push_body(out, note.as_bytes());
            }
        }
        Command::Show { id } => {
            push_verb_id(out, "PEEK", *id);
            push_text_option(out, "form", "json");
        }
        Command::Why { id } => push_verb_id(out, "WHY", *id),
        Command::Peek { id } => push_verb_id(out, "PEEK", *id),
        Command::Wait { id, wait } => {
            push_verb_id(out, "WAIT", *id);
            push_wait(out, *wait, Wait::Forever);
        }
        Command::Batch { name, total, wait } => {
            out.extend_from_slice(b"BATCH ");
            out.extend_from_slice(name.as_str().as_bytes());
            if *total != 1 {
                push_number_option(out, "total", *total);
            }
            push_wait(out, *wait, Wait::AtMost(Duration::ZERO));
        }
        Command::Cancel { what, reason } => {
            match what {
                Cancel::Job(id) => push_verb_id(out, "CANCEL", *id),
                Cancel::All { of, state } => {
                    push_verb_group(out, "CANCEL", of);
                    state.inspect(|state| push_text_option(out, "state", state.as_str()));
                }
            }
            if let Some(reason) = reason {
                return push_body(out, reason.as_bytes());
            }
        }
        Command::List { of, state, limit, after } => {
            push_verb_group(out, "LIST", of);
            state.inspect(|state| push_text_option(out, "state", state.as_str()));
            if *limit != LIST_LIMIT_DEFAULT {
                push_number_option(out, "limit", u64::from(*limit));
            }
            after.inspect(|after| push_number_option(out, "after", after.0));
        }
        Command::Search { search, limit, before } => return write_search(search, *limit, *before, out),
        Command::Several { ids, what } => {
            let (verb, reason) = match what {
                Each::Delete => ("DELETE ", None),
                Each::Retry => ("RETRY ", None),
                Each::Cancel(reason) => ("CANCEL ", reason.as_deref()),
            };
            out.extend_from_slice(verb.as_bytes());
            push_ids(out, ids);
            if let Some(reason) = reason {
                return push_body(out, reason.as_bytes());
            }
        }
        Command::Retry(Retry::Job(id)) => push_verb_id(out, "RETRY", *id),
        Command::Retry(Retry::All { of, limit }) => {
            push_verb_group(out, "RETRY", of);
            limit.inspect(|limit| push_number_option(out, "limit", *limit));
        }
        Command::Delete { id } => push_verb_id(out, "DELETE", *id),
        Command::Purge { of, state } => {
            push_verb_group(out, "PURGE", of);
            state.inspect(|state| push_text_option(out, "state", state.as_str()));
        }
        Command::Pause { queue, time } => {
            push_verb_queue(out, "PAUSE", queue);
            time.inspect(|time| push_duration_option(out, "for", *time));
        }
        Command::Resume { queue } => push_verb_queue(out, "RESUME", queue),
        Command::Hello(hello) => write_hello(hello, out),
        Command::Hold { ids } => return write_ids(out, "HOLD", ids),
        Command::Beat { ids } => return write_ids(out, "BEAT", ids),
        Command::Orders { wait } => {
            out.extend_from_slice(b"ORDERS");
            push_wait(out, *wait, Wait::Forever);
        }
        Command::Wish { worker, wish } => {
            out.extend_from_slice(match wish {
                Wish::Work => b"RESUME",
                Wish::Quiet => b"QUIET",
                Wish::Stop => b"STOP",
            });
            push_text_option(out, "worker", worker.as_str());
        }
        Command::Workers => out.extend_from_slice(b"WORKERS"),
        Command::Stats { queue: Some(queue) } => push_verb_queue(out, "STATS", queue),
        Command::Stats { queue: None } => out.extend_from_slice(b"STATS"),
        Command::Queues => out.extend_from_slice(b"QUEUES"),
        Command::Ping => out.extend_from_slice(b"PING"),
        Command::Help => out.extend_from_slice(b"HELP"),
        Command::Quit => out.extend_from_slice(b"QUIT"),
        Command::Compat(_) => panic!("{command:?} can't be said in the native dialect"),
    }
    out.push(b'\n');
}

fn write_task(submission: &Submission, out: &mut Vec<u8>) {
    let Submission { queue, options, body } = submission;
    let default = Options::default();
    out.extend_from_slice(b"TASK");
    if *queue != QueueName::default() {
        push_text_option(out, "queue", queue.as_str());
    }
    if options.priority != default.priority {
        push_number_option(out, "priority", u64::from(options.priority.0));
    }
    if options.delay != default.delay {
        push_duration_option(out, "delay", options.delay);
    }
    if options.ttr != default.ttr {
        push_duration_option(out, "ttr", options.ttr);
    }
    if options.attempts != default.attempts {
        push_number_option(out, "attempts", u64::from(options.attempts));
    }
    if options.backoff != default.backoff {
        push_duration_option(out, "backoff", options.backoff);
    }
    if let Some(key) = &options.key {
        push_text_option(out, "key", key.as_str());
    }
    if options.keep != default.keep {
        push_duration_option(out, "keep", options.keep);
    }
    if let Some(batch) = &options.batch {
        push_text_option(out, "batch", batch.as_str());
    }
    push_body(out, body);
}

fn write_get(queues: &[QueueName], wait: Wait, on_drained: OnDrained, out: &mut Vec<u8>) {
    out.extend_from_slice(b"GET");
    push_queues_option(out, "queue", queues);
    push_wait(out, wait, Wait::Forever);
    if on_drained == OnDrained::End {
        push_text_option(out, "drain", "yes");
    }
}

fn write_search(search: &Search, limit: u32, before: Option<JobId>, out: &mut Vec<u8>) {
    let Search { of, state, key, age, text } = search;
    match of {
        Some(of) => push_verb_group(out, "LIST", of),
        None => out.extend_from_slice(b"LIST"),
    }
    state.inspect(|state| push_text_option(out, "state", state.as_str()));
    key.as_ref().inspect(|key| push_text_option(out, "key", key.as_str()));
    age.inspect(|age| push_duration_option(out, "age", *age));
    if limit != LIST_LIMIT_DEFAULT {
        push_number_option(out, "limit", u64::from(limit));
    }
    // With a queue or a batch alone, the line would ask for their jobs in order.
    let asks = key.is_some() || age.is_some() || text.is_some() || of.is_none();
    let before = before.or((!asks).then_some(JobId(u64::MAX)));
    before.inspect(|before| push_number_option(out, "before", before.0));
    match text {
        Some(text) => push_body(out, text),
        None => out.push(b'\n'),
    }
}

fn write_hello(hello: &Hello, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HELLO");
    push_text_option(out, "worker", hello.name.as_str());
    push_text_option(out, "secret", &format!("{:032x}", hello.secret.0));
    hello.host.as_deref().inspect(|host| push_text_option(out, "host", host));
    hello.pid.inspect(|pid| push_number_option(out, "pid", u64::from(*pid)));
    hello.slots.inspect(|slots| push_number_option(out, "slots", u64::from(*slots)));
    hello.version.as_deref().inspect(|version| push_text_option(out, "version", version));
    if !hello.resume.is_zero() {
        push_duration_option(out, "resume", hello.resume);
    }
}

fn write_ids(out: &mut Vec<u8>, verb: &str, ids: &[JobId]) {
    out.extend_from_slice(verb.as_bytes());
    let mut body = Vec::new();
    push_ids(&mut body, ids);
    push_body(out, &body);
}

/// Writes ids with commas between them.
pub(super) fn push_ids(out: &mut Vec<u8>, ids: &[JobId]) {
    for (at, id) in ids.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_number(out, id.0);
    }
}

/// Writes how long to wait, unless that is the verb's default.
fn push_wait(out: &mut Vec<u8>, wait: Wait, default: Wait) {
    match wait {
        Wait::AtMost(time) if wait != default => push_duration_option(out, "wait", time),
        Wait::AtMost(_) => {}
        // No verb that looks at once by default has a word for waiting for ever.
        Wait::Forever if default != Wait::Forever => push_duration_option(out, "wait", MAX_DURATION),
        Wait::Forever => {}
    }
}

fn push_verb_group(out: &mut Vec<u8>, verb: &str, of: &Group) {
    out.extend_from_slice(verb.as_bytes());
    match of {
        Group::Queue(queue) => push_text_option(out, "queue", queue.as_str()),
        Group::Batch(batch) => push_text_option(out, "batch", batch.as_str()),
    }
}

fn push_verb_id(out: &mut Vec<u8>, verb: &str, id: JobId) {
    out.extend_from_slice(verb.as_bytes());
    out.push(b' ');
    push_number(out, id.0);
}

fn push_verb_queue(out: &mut Vec<u8>, verb: &str, queue: &QueueName) {
    out.extend_from_slice(verb.as_bytes());
    push_text_option(out, "queue", queue.as_str());
}
