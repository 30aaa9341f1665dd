//! Replies: from a [`Reply`] to a line on the server's side, and from a line to an [`Answer`] on the
//! client's.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memchr::{memchr, memchr_iter};

use super::duration::{duration, format_duration};
use super::job_json::{self, seconds_since_1970};
use super::request::{Len, split};
use super::text::{
    name_and_value, number, push_body, push_duration_option, push_number, push_number_option,
    push_queues_option, push_text_option, quoted, words,
};
use super::verbs;
use crate::error::{Code, Refusal};
use crate::job::{Counts, Job, JobId, JobState, Key, Lease, Priority, QueueName};
use crate::protocol::Reply;
use crate::stats::{QueueStats, Stat, StateCounts};

/// A reply as the client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// `ACK 7`: the job is accepted, or there is an unfinished one with the same key.
    Accepted {
        /// Its id, or the other one's.
        id: JobId,
        /// The other one's state, if there is one.
        duplicate: Option<JobState>,
    },
    /// `JOB 7 queue=mail attempt=1 ttr=1m: body`: a job to work on.
    Leased(Lease),
    /// `JOB 7 queue=mail state=ready …: body`: the job that was asked for.
    Found(Box<Job>),
    /// `EMPTY`: no job came in time.
    Empty,
    /// `EMPTY drained=yes`: there was no job, and the queues are drained.
    Drained {
        /// Those of them that are paused with jobs that are ready or delayed.
        paused: Vec<QueueName>,
    },
    /// `OK`: done.
    Done,
    /// `OK retry=2s`: a failed job will be tried again after this long.
    RetryIn(Duration),
    /// `OK dead=yes`: a failed job is dead.
    Dead,
    /// `OK count=3`: how many jobs were changed.
    Count(u64),
    /// `OK lines=2` and the lines after it, each without its LF.
    Lines(Vec<Vec<u8>>),
    /// `PONG`: the server answers.
    Pong,
    /// `ERR code text`: the command was refused. A code that this version does not know becomes
    /// [`Code::Internal`], with the code before the text.
    Refused(Refusal),
}

/// Why bytes are no reply of this protocol. Its text says what was expected, and quotes the line, escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAnswer {
    expected: &'static str,
    line: String,
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got {}", self.expected, self.line)
    }
}

impl std::error::Error for BadAnswer {}

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
        Reply::Count(count) => write_ok(out, |out| push_number_option(out, "count", *count)),
        Reply::Found(job) => write_found(job, out),
        Reply::Jobs(jobs) => write_jobs(jobs, out),
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
    push_number_option(out, "created", seconds_since_1970(job.created));
    push_number_option(out, "attempt", u64::from(job.attempt()));
    push_number_option(out, "failures", u64::from(job.counts.failures));
    push_number_option(out, "crashes", u64::from(job.counts.crashes));
    push_number_option(out, "returns", u64::from(job.counts.returns));
    if let Some(remaining) = job.remaining {
        push_duration_option(out, "remaining", remaining);
    }
    push_body(out, &job.body);
}

fn write_jobs(jobs: &[Job], out: &mut Vec<u8>) {
    write_ok(out, |out| push_number_option(out, "lines", jobs.len() as u64));
    for job in jobs {
        job_json::write(job, out);
        out.push(b'\n');
    }
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
    let StateCounts { ready, delayed, leased, dead } = jobs;
    let paused = pause_text(*paused);
    format!(
        "{name} ready={ready} delayed={delayed} leased={leased} dead={dead} waiting={waiting} paused={paused}"
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

/// Reads the reply at the head of `bytes`: how many of them it takes, and what it says. `None` where it is
/// not whole yet.
///
/// Ignores unknown words of the form `name=value`: they are how the protocol grows.
///
/// # Errors
/// [`BadAnswer`] if the bytes are no reply of this protocol. The start of the next reply is unknown then.
pub fn read_answer(bytes: &[u8]) -> Result<Option<(usize, Answer)>, BadAnswer> {
    let Some(end) = memchr(b'\n', bytes) else {
        return Ok(None);
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let behind = &bytes[end + 1..];
    let (word, rest) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(line.len()));
    let in_line = |answer| Ok(Some((end + 1, answer)));
    match word {
        b"ACK" => in_line(read_accepted(line, rest)?),
        b"EMPTY" => in_line(read_empty(line, rest)?),
        b"PONG" => in_line(Answer::Pong),
        b"ERR" => in_line(Answer::Refused(read_refusal(line, rest)?)),
        b"JOB" => Ok(read_job(line, behind)?.map(|(used, answer)| (end + 1 + used, answer))),
        b"OK" => Ok(read_ok(line, rest, behind)?.map(|(used, answer)| (end + 1 + used, answer))),
        _ => Err(bad("ACK, JOB, EMPTY, OK, PONG or ERR", line)),
    }
}

fn bad(expected: &'static str, line: &[u8]) -> BadAnswer {
    BadAnswer { expected, line: quoted(line) }
}

fn read_accepted(line: &[u8], rest: &[u8]) -> Result<Answer, BadAnswer> {
    let mut words = words(rest);
    let id = words.next().and_then(number).map(JobId).ok_or_else(|| bad("ACK with a job's id", line))?;
    let (mut duplicate, mut state) = (false, None);
    for (name, value) in words.filter_map(name_and_value) {
        match name {
            b"duplicate" => duplicate = value == b"yes",
            b"state" => state = job_state(value),
            _ => {}
        }
    }
    if duplicate && state.is_none() {
        return Err(bad("a duplicate's state", line));
    }
    Ok(Answer::Accepted { id, duplicate: state.filter(|_| duplicate) })
}

fn read_empty(line: &[u8], rest: &[u8]) -> Result<Answer, BadAnswer> {
    let (mut drained, mut paused) = (false, Vec::new());
    for (name, value) in words(rest).filter_map(name_and_value) {
        match name {
            b"drained" => drained = value == b"yes",
            b"paused" => {
                let names = value.split(|byte| *byte == b',').map(QueueName::from_bytes);
                paused = names
                    .collect::<Result<_, _>>()
                    .map_err(|_| bad("names of queues behind paused=", line))?;
            }
            _ => {}
        }
    }
    Ok(if drained { Answer::Drained { paused } } else { Answer::Empty })
}

fn read_refusal(line: &[u8], rest: &[u8]) -> Result<Refusal, BadAnswer> {
    let expected = || bad("ERR with a code", line);
    let rest = std::str::from_utf8(rest).map_err(|_| expected())?;
    let rest = rest.strip_prefix(' ').ok_or_else(expected)?;
    let (code, mut text) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut retry_after = None;
    if let Some(after) = text.strip_prefix("retry_after=") {
        let (value, rest) = after.split_once(' ').unwrap_or((after, ""));
        retry_after = Some(duration(value.as_bytes()).map_err(|_| bad("retry_after with a duration", line))?);
        text = rest;
    }
    match Code::from_name(code) {
        Some(code) => Ok(Refusal { code, retry_after, text: text.to_owned().into() }),
        None if code.is_empty() => Err(expected()),
        None => Ok(Refusal { code: Code::Internal, retry_after, text: format!("{code}: {text}").into() }),
    }
}

type Behind = Option<(usize, Answer)>;

fn read_ok(line: &[u8], rest: &[u8], behind: &[u8]) -> Result<Behind, BadAnswer> {
    for (name, value) in words(rest).filter_map(name_and_value) {
        let number = || number(value).ok_or_else(|| bad("a number behind =", line));
        match name {
            b"count" => return Ok(Some((0, Answer::Count(number()?)))),
            b"lines" => return Ok(read_lines(number()?, behind)),
            b"retry" => {
                let wait = duration(value).map_err(|_| bad("retry with a duration", line))?;
                return Ok(Some((0, Answer::RetryIn(wait))));
            }
            b"dead" if value == b"yes" => return Ok(Some((0, Answer::Dead))),
            _ => {}
        }
    }
    Ok(Some((0, Answer::Done)))
}

fn read_lines(count: u64, behind: &[u8]) -> Behind {
    // Counted before they are copied, since many may not have arrived.
    let last = match count {
        0 => return Some((0, Answer::Lines(Vec::new()))),
        _ => memchr_iter(b'\n', behind).nth(usize::try_from(count - 1).ok()?)?,
    };
    let lines = behind[..last].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    Some((last + 1, Answer::Lines(lines)))
}

fn read_job(line: &[u8], behind: &[u8]) -> Result<Behind, BadAnswer> {
    let split = split(line);
    let expected = |what| move || bad(what, line);
    let inline = split.inline.ok_or_else(expected("JOB with a colon before the body"))?;
    let (used, body) = match split.len {
        Len::Absent => (0, inline),
        Len::Unreadable => return Err(bad("len with the body's size", line)),
        Len::Bytes(len) => {
            let len = usize::try_from(len).map_err(|_| bad("len with a size that can be", line))?;
            match behind.get(len) {
                None => return Ok(None),
                Some(b'\n') => (len + 1, &behind[..len]),
                Some(_) => return Err(bad("LF behind a body of the size that is said here", line)),
            }
        }
    };
    let mut words = words(split.words);
    let id = words.next().and_then(number).map(JobId).ok_or_else(expected("JOB with an id"))?;
    let fields = JobFields::read(words);
    let answer = fields.answer(id, body).ok_or_else(expected("JOB with all of its fields"))?;
    Ok(Some((used, answer)))
}

/// The fields of a JOB line: those that are present and valid.
#[derive(Default)]
struct JobFields {
    queue: Option<QueueName>,
    state: Option<JobState>,
    priority: Option<u32>,
    ttr: Option<Duration>,
    attempts: Option<u32>,
    backoff: Option<Duration>,
    key: Option<Key>,
    created: Option<u64>,
    attempt: Option<u32>,
    failures: Option<u32>,
    crashes: Option<u32>,
    returns: Option<u32>,
    remaining: Option<Duration>,
}

impl JobFields {
    fn read<'a>(words: impl Iterator<Item = &'a [u8]>) -> JobFields {
        let mut fields = JobFields::default();
        for (name, value) in words.filter_map(name_and_value) {
            match name {
                b"queue" => fields.queue = QueueName::from_bytes(value).ok(),
                b"state" => fields.state = job_state(value),
                b"priority" => fields.priority = number_u32(value),
                b"ttr" => fields.ttr = duration(value).ok(),
                b"attempts" => fields.attempts = number_u32(value),
                b"backoff" => fields.backoff = duration(value).ok(),
                b"key" => fields.key = std::str::from_utf8(value).ok().and_then(|text| Key::new(text).ok()),
                b"created" => fields.created = number(value),
                b"attempt" => fields.attempt = number_u32(value),
                b"failures" => fields.failures = number_u32(value),
                b"crashes" => fields.crashes = number_u32(value),
                b"returns" => fields.returns = number_u32(value),
                b"remaining" => fields.remaining = duration(value).ok(),
                _ => {}
            }
        }
        fields
    }

    /// PEEK shows the state; a lease does not, since it is always leased.
    fn answer(self, id: JobId, body: &[u8]) -> Option<Answer> {
        let (queue, ttr, attempt, body) = (self.queue?, self.ttr?, self.attempt?, Arc::from(body));
        let Some(state) = self.state else {
            return Some(Answer::Leased(Lease { id, queue, attempt, ttr, body }));
        };
        let counts = Counts { failures: self.failures?, crashes: self.crashes?, returns: self.returns? };
        Some(Answer::Found(Box::new(Job {
            id,
            queue,
            state,
            priority: Priority(self.priority?),
            ttr,
            attempts: self.attempts?,
            backoff: self.backoff?,
            key: self.key,
            created: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.created?))?,
            remaining: self.remaining,
            counts,
            reason: None,
            body,
        })))
    }
}

fn job_state(name: &[u8]) -> Option<JobState> {
    std::str::from_utf8(name).ok().and_then(JobState::from_name)
}

fn number_u32(text: &[u8]) -> Option<u32> {
    number(text).and_then(|number| number.try_into().ok())
}
