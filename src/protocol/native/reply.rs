//! Replies as the server writes them: from a [`Reply`] to a line, and what follows it.

use std::sync::Arc;
use std::time::Duration;

use super::command::push_ids;
use super::duration::format_duration;
use super::job_json::{self, seconds_since_1970};
use super::text::{
    push_body, push_duration_option, push_name, push_number, push_number_option, push_queues_option,
    push_text_option,
};
use super::{verbs, worker_json};
use crate::error::{Code, Refusal};
use crate::job::{
    AHEAD_MAX, Finished, Job, JobId, JobState, Lease, Order, Pause, Progress, QueueName, Rate, Why,
};
use crate::protocol::Reply;
use crate::stats::{BatchStats, QueueStats, Stat, StateCounts};

/// Appends a reply: one line, and after it a body that can't be in the line, or the lines that it counts.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        Reply::Accepted { id, duplicate } => write_accepted(*id, *duplicate, out),
        Reply::Leased(lease) => write_lease(lease, out),
        Reply::Empty => out.extend_from_slice(b"EMPTY\n"),
        Reply::Drained { paused } => write_drained(paused, out),
        Reply::Done => out.extend_from_slice(b"OK\n"),
        Reply::RetryIn(wait) => write_ok(out, |out| push_duration_option(out, "retry", *wait)),
        Reply::Dead => out.extend_from_slice(b"OK dead=yes\n"),
        Reply::ResultDropped => out.extend_from_slice(b"OK result=dropped\n"),
        Reply::Finished { id, how } => write_finished(*id, how, out),
        Reply::Batch { stats, complete } => write_ok(out, |out| push_batch(stats, *complete, out)),
        Reply::Was(state) => write_ok(out, |out| push_text_option(out, "state", state.as_str())),
        Reply::Hello => write_hello(out),
        Reply::Held { count, lost } => write_ok(out, |out| {
            push_number_option(out, "count", *count);
            if !lost.is_empty() {
                push_name(out, "lost");
                push_ids(out, lost);
            }
        }),
        Reply::Order(order) => write_order(*order, out),
        Reply::Workers(workers) => write_objects(workers, worker_json::write, out),
        Reply::Count(count) => write_ok(out, |out| push_number_option(out, "count", *count)),
        Reply::Why(why) => write_why(why, out),
        Reply::Found(job) => write_found(job, out),
        Reply::Jobs(jobs) => write_objects(jobs, job_json::write, out),
        Reply::Searched { jobs, searched, before } => {
            write_ok(out, |out| {
                push_number_option(out, "lines", jobs.len() as u64);
                push_number_option(out, "searched", *searched);
                before.inspect(|before| push_number_option(out, "before", before.0));
            });
            push_objects(jobs, job_json::write, out);
        }
        Reply::Several { count, refused } => write_ok(out, |out| {
            push_number_option(out, "count", *count);
            if !refused.is_empty() {
                push_name(out, "refused");
                push_ids(out, refused);
            }
        }),
        Reply::ServerStats(stats) => write_lines(stats.list().iter().map(line), out),
        Reply::QueueStats(stats) => write_lines(stats.list(pause_text(stats.paused)).iter().map(line), out),
        Reply::Queues(queues) => write_lines(queues.iter().map(queue_line), out),
        Reply::Pong => out.extend_from_slice(b"PONG\n"),
        Reply::Help => write_lines(verbs::help(), out),
        Reply::Refused(refusal) => write_refusal(refusal, out),
        Reply::LapsesSoon | Reply::Using(_) | Reply::Watching(_) | Reply::Names(_) => wrong_dialect(out),
        Reply::JobStats(_) | Reply::QueueDetails(_) | Reply::ServerDetails(_) => wrong_dialect(out),
    }
}

/// No command of this dialect gets such a reply.
fn wrong_dialect(out: &mut Vec<u8>) {
    write_refusal(&Refusal::new(Code::Internal, "this reply is the other dialect's; please report it"), out);
}

fn write_ok(out: &mut Vec<u8>, option: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"OK");
    option(out);
    out.push(b'\n');
}

fn write_accepted(id: JobId, duplicate: Option<JobState>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ACK ");
    push_number(out, id.0);
    if let Some(state) = duplicate {
        push_text_option(out, "duplicate", "yes");
        push_text_option(out, "state", state.as_str());
    }
    out.push(b'\n');
}

fn write_drained(paused: &[QueueName], out: &mut Vec<u8>) {
    out.extend_from_slice(b"EMPTY");
    push_text_option(out, "drained", "yes");
    push_queues_option(out, "paused", paused);
    out.push(b'\n');
}

fn write_lease(lease: &Lease, out: &mut Vec<u8>) {
    out.extend_from_slice(b"JOB ");
    push_number(out, lease.id.0);
    push_text_option(out, "queue", lease.queue.as_str());
    push_number_option(out, "attempt", u64::from(lease.attempt));
    push_duration_option(out, "ttr", lease.ttr);
    push_body(out, &lease.body);
}

/// Words for programs, and a sentence for people.
fn write_why(why: &Why, out: &mut Vec<u8>) {
    out.extend_from_slice(b"OK");
    push_text_option(out, "state", why.state().map_or("gone", JobState::as_str));
    let reason =
        |reason: &Option<Arc<str>>| reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
    let sentence = match why {
        Why::Ready { ahead, workers, rate, pause } => write_why_ready((*ahead, *workers, *rate), *pause, out),
        Why::Delayed { remaining, failures, reason: why } => {
            push_duration_option(out, "remaining", *remaining);
            push_number_option(out, "failures", u64::from(*failures));
            let remaining = format_duration(*remaining);
            match failures {
                0 => format!("it is delayed, and ready in {remaining}"),
                n => format!(
                    "it waits {remaining} before its next attempt, after {}{}",
                    times(*n),
                    reason(why)
                ),
            }
        }
        Why::Leased { worker, held_for, remaining, progress } => {
            if let Some(worker) = worker {
                push_text_option(out, "worker", worker.as_str());
            }
            push_duration_option(out, "held", *held_for);
            push_duration_option(out, "remaining", *remaining);
            let percent = progress.as_ref().and_then(|progress| progress.percent);
            percent.inspect(|percent| push_number_option(out, "progress", u64::from(*percent)));
            let who = worker.as_ref().map_or("a worker".to_owned(), |worker| format!("worker {worker}"));
            let (held, left) = (format_duration(*held_for), format_duration(*remaining));
            let note = progress.as_ref().and_then(|progress| progress.note.as_deref());
            let said = match (percent, note) {
                (None, None) => String::new(),
                (Some(percent), None) => format!(" and says {percent}%"),
                (None, Some(note)) => format!(" and says: {note}"),
                (Some(percent), Some(note)) => format!(" and says {percent}%: {note}"),
            };
            format!("{who} has had it for {held}; its lease lapses in {left} unless it is renewed{said}")
        }
        Why::Dead { failures, reason: why } => {
            push_number_option(out, "failures", u64::from(*failures));
            format!("it is dead after {}; RETRY makes it ready{}", times(*failures), reason(why))
        }
        Why::Done { remaining } => {
            push_duration_option(out, "remaining", *remaining);
            format!("it is done, and kept for {}", format_duration(*remaining))
        }
        Why::Cancelled { reason: why } => format!("it was cancelled{}", reason(why)),
        Why::Gone => "it is done and was not kept, or it was deleted".to_owned(),
    };
    push_body(out, sentence.as_bytes());
}

fn write_why_ready(
    (ahead, workers, rate): (u64, u64, Option<Rate>),
    pause: Option<Pause>,
    out: &mut Vec<u8>,
) -> String {
    let ahead_text = if ahead >= AHEAD_MAX { format!("{AHEAD_MAX}+") } else { ahead.to_string() };
    push_text_option(out, "ahead", &ahead_text);
    push_number_option(out, "workers", workers);
    let rate = rate.map(Rate::per_second).filter(|rate| *rate > 0.0);
    let eta = rate.map(|rate| Duration::from_secs(((ahead + 1) as f64 / rate).ceil() as u64));
    if let (Some(rate), Some(eta)) = (rate, eta) {
        push_text_option(out, "rate", &format!("{rate:.1}"));
        push_duration_option(out, "eta", eta);
    }
    let before = match ahead {
        0 => "it is the next job".to_owned(),
        1 => "1 job is ahead of it".to_owned(),
        _ => format!("{ahead_text} jobs are ahead of it"),
    };
    let connections =
        |n| if n == 1 { "1 connection asks".to_owned() } else { format!("{n} connections ask") };
    match (pause, workers, rate) {
        (Some(Pause::UntilResumed), ..) => {
            push_text_option(out, "paused", "yes");
            format!("its queue is paused until RESUME; {before}")
        }
        (Some(Pause::For(time)), ..) => {
            push_duration_option(out, "paused", time);
            format!("its queue is paused for {}; {before}", format_duration(time))
        }
        (None, 0, _) => format!("nobody asks for jobs of its queue; {before}"),
        (None, n, None) => format!("{before}; {} for jobs of its queue", connections(n)),
        (None, n, Some(rate)) => {
            format!("{before}; {} for jobs of its queue and take {rate:.1} a second", connections(n))
        }
    }
}

fn times(failures: u32) -> String {
    if failures == 1 { "1 failure".to_owned() } else { format!("{failures} failures") }
}

fn write_finished(id: JobId, how: &Finished, out: &mut Vec<u8>) {
    let word: &[u8] = match how {
        Finished::Done { .. } => b"DONE ",
        Finished::Dead { .. } => b"DEAD ",
        Finished::Cancelled { .. } => b"CANCELLED ",
        Finished::Gone => b"GONE ",
    };
    out.extend_from_slice(word);
    push_number(out, id.0);
    let text = match how {
        Finished::Done { attempt, ran, result } => {
            push_number_option(out, "attempt", u64::from(*attempt));
            let seconds = format!("{}.{:03}", ran.as_secs(), ran.subsec_millis());
            push_text_option(out, "seconds", &seconds);
            if result.is_none() {
                push_text_option(out, "result", "dropped");
            }
            result.as_deref()
        }
        Finished::Dead { failures, reason } => {
            push_number_option(out, "failures", u64::from(*failures));
            reason.as_deref().map(str::as_bytes)
        }
        Finished::Cancelled { reason } => reason.as_deref().map(str::as_bytes),
        Finished::Gone => None,
    };
    match text {
        Some(text) => push_body(out, text),
        None => out.push(b'\n'),
    }
}

fn push_batch(stats: &BatchStats, complete: bool, out: &mut Vec<u8>) {
    for (name, count) in stats.list() {
        push_number_option(out, name, count);
    }
    push_text_option(out, "complete", if complete { "yes" } else { "no" });
}

fn write_found(job: &Job, out: &mut Vec<u8>) {
    out.extend_from_slice(b"JOB ");
    push_number(out, job.id.0);
    push_text_option(out, "queue", job.queue.as_str());
    push_text_option(out, "state", job.state.as_str());
    push_number_option(out, "priority", u64::from(job.priority.0));
    push_duration_option(out, "ttr", job.ttr);
    push_number_option(out, "attempts", u64::from(job.attempts));
    push_duration_option(out, "backoff", job.backoff);
    if let Some(key) = &job.key {
        push_text_option(out, "key", key.as_str());
    }
    if !job.keep.is_zero() {
        push_duration_option(out, "keep", job.keep);
    }
    if let Some(batch) = &job.batch {
        push_text_option(out, "batch", batch.as_str());
    }
    push_number_option(out, "created", seconds_since_1970(job.created));
    push_number_option(out, "attempt", u64::from(job.attempt()));
    push_number_option(out, "failures", u64::from(job.counts.failures));
    push_number_option(out, "crashes", u64::from(job.counts.crashes));
    push_number_option(out, "returns", u64::from(job.counts.returns));
    if let Some(remaining) = job.remaining {
        push_duration_option(out, "remaining", remaining);
    }
    if let Some(Progress { percent, at, .. }) = &job.progress {
        percent.inspect(|percent| push_number_option(out, "progress", u64::from(*percent)));
        push_number_option(out, "progress_at", seconds_since_1970(*at));
    }
    match (job.state, &job.result) {
        // The result stands where the body was.
        (JobState::Done, Some(result)) => push_body(out, result),
        (JobState::Done, None) => {
            push_text_option(out, "result", "dropped");
            push_body(out, b"");
        }
        _ => push_body(out, &job.body),
    }
}

fn write_objects<T>(objects: &[T], write: fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    write_ok(out, |out| push_number_option(out, "lines", objects.len() as u64));
    push_objects(objects, write, out);
}

fn push_objects<T>(objects: &[T], write: fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    for object in objects {
        write(object, out);
        out.push(b'\n');
    }
}

fn write_hello(out: &mut Vec<u8>) {
    write_ok(out, |out| {
        push_text_option(out, "version", env!("CARGO_PKG_VERSION"));
        push_text_option(out, "verbs", &verbs::names().collect::<Vec<_>>().join(","));
    });
}

fn write_order(order: Order, out: &mut Vec<u8>) {
    let (word, id) = order.parts();
    out.extend_from_slice(b"ORDER ");
    out.extend_from_slice(word.as_bytes());
    if let Some(id) = id {
        out.push(b' ');
        push_number(out, id.0);
    }
    out.push(b'\n');
}

fn write_lines(lines: impl ExactSizeIterator<Item = String>, out: &mut Vec<u8>) {
    write_ok(out, |out| push_number_option(out, "lines", lines.len() as u64));
    for line in lines {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

fn line(stat: &Stat) -> String {
    format!("{}: {}", stat.name, stat.value)
}

fn queue_line(stats: &QueueStats) -> String {
    let QueueStats { name, jobs, waiting, paused, totals: _ } = stats;
    let StateCounts { ready, delayed, leased, dead, done, cancelled } = jobs;
    let paused = pause_text(*paused);
    format!(
        "{name} ready={ready} delayed={delayed} leased={leased} dead={dead} done={done} cancelled={cancelled} \
         waiting={waiting} paused={paused}"
    )
}

fn pause_text(paused: Option<Option<Duration>>) -> String {
    match paused {
        None => "no".to_owned(),
        Some(None) => "yes".to_owned(),
        Some(Some(time)) => format_duration(time).to_string(),
    }
}

/// One line of printable characters, whatever the text contains.
fn write_refusal(refusal: &Refusal, out: &mut Vec<u8>) {
    out.extend_from_slice(b"ERR ");
    out.extend_from_slice(refusal.code.as_str().as_bytes());
    if let Some(wait) = refusal.retry_after {
        push_duration_option(out, "retry_after", wait);
    }
    if refusal.cancelled {
        push_text_option(out, "cancelled", "yes");
    }
    if !refusal.text.is_empty() {
        out.push(b' ');
    }
    for byte in refusal.text.bytes() {
        match byte {
            b' '..=b'~' => out.push(byte),
            _ => out.extend(byte.escape_ascii()),
        }
    }
    out.push(b'\n');
}
