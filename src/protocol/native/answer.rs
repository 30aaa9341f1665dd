//! Replies as a client reads them: from a line, and what follows it, to an [`Answer`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memchr::{memchr, memchr_iter};

use super::duration::duration;
use super::request::{Len, Split, split};
use super::text::{name_and_value, number, quoted, words};
use crate::error::{Code, Refusal};
use crate::job::{
    BatchName, Counts, Finished, Job, JobId, JobState, Key, Lease, Order, Priority, Progress, QueueName,
};
use crate::stats::BatchStats;

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
    /// `OK result=dropped`: the job is done; there was no room for its result.
    ResultDropped,
    /// `DONE`, `DEAD`, `CANCELLED` or `GONE`: how a job ended.
    Finished {
        /// Which job.
        id: JobId,
        /// How it ended.
        how: Finished,
    },
    /// `OK total=3 … complete=no`: the counts of a batch.
    Batch {
        /// Its counts.
        stats: BatchStats,
        /// Whether it is complete, with as many jobs as were asked for.
        complete: bool,
    },
    /// `OK state=leased`: the state in which the job was that is to be cancelled.
    Was(JobState),
    /// `OK state=ready ahead=3 …: a sentence`: why a job is where it is.
    Why {
        /// The words: names and values, in the server's order. The first is `state`.
        words: Vec<(String, String)>,
        /// The sentence for people.
        sentence: String,
    },
    /// `OK count=3`: how many jobs were changed.
    Count(u64),
    /// `OK count=3 lost=8,9`: how many leases a worker has, and which it does not have.
    Held {
        /// How many it has.
        count: u64,
        /// Those that it does not have.
        lost: Vec<JobId>,
    },
    /// `OK version=1.2.3 verbs=TASK,…`: a worker's connection is introduced.
    Hello {
        /// The server's version.
        version: String,
        /// The verbs that it knows.
        verbs: Vec<String>,
    },
    /// `OK lines=2 searched=10000 before=71` and the lines after it: jobs that were found.
    Searched {
        /// The lines, each without its LF.
        lines: Vec<Vec<u8>>,
        /// How many jobs were looked at.
        searched: u64,
        /// If not all were looked at: only jobs with lower ids are left.
        before: Option<JobId>,
    },
    /// `OK count=3 refused=8,9`: how many of several jobs were changed, and which were not.
    Several {
        /// How many were changed.
        count: u64,
        /// Those that were not.
        refused: Vec<JobId>,
    },
    /// `ORDER cancel 7`: what a worker should do.
    Order(Order),
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
        b"DONE" | b"DEAD" | b"CANCELLED" | b"GONE" => {
            Ok(read_finished(line, behind)?.map(|(used, answer)| (end + 1 + used, answer)))
        }
        b"ORDER" => in_line(read_order(line, rest)?),
        b"OK" => Ok(read_ok(line, rest, behind)?.map(|(used, answer)| (end + 1 + used, answer))),
        _ => Err(bad("ACK, JOB, EMPTY, OK, DONE, DEAD, CANCELLED, GONE, ORDER, PONG or ERR", line)),
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
    let mut cancelled = false;
    if let Some(rest) = text.strip_prefix("cancelled=yes") {
        (cancelled, text) = (true, rest.trim_start());
    }
    let refusal = |code, text: String| Refusal { code, retry_after, cancelled, text: text.into() };
    match Code::from_name(code) {
        Some(code) => Ok(refusal(code, text.to_owned())),
        None if code.is_empty() => Err(expected()),
        None => Ok(refusal(Code::Internal, format!("{code}: {text}"))),
    }
}

type Behind = Option<(usize, Answer)>;

fn read_ok(line: &[u8], rest: &[u8], behind: &[u8]) -> Result<Behind, BadAnswer> {
    if line.contains(&b':')
        && let Some(why) = read_why(line, behind)?
    {
        return Ok(why);
    }
    for (name, value) in words(rest).filter_map(name_and_value) {
        let number = || number(value).ok_or_else(|| bad("a number behind =", line));
        match name {
            b"count" => {
                return Ok(Some((
                    0,
                    read_count(number()?, rest).ok_or_else(|| bad("ids that are lost", line))?,
                )));
            }
            b"version" => return Ok(Some((0, read_hello(rest)))),
            b"lines" => return Ok(read_searched(rest, read_lines(number()?, behind))),
            b"retry" => {
                let wait = duration(value).map_err(|_| bad("retry with a duration", line))?;
                return Ok(Some((0, Answer::RetryIn(wait))));
            }
            b"dead" if value == b"yes" => return Ok(Some((0, Answer::Dead))),
            b"result" if value == b"dropped" => return Ok(Some((0, Answer::ResultDropped))),
            b"total" => return Ok(Some((0, read_batch(rest).ok_or_else(|| bad("a batch's counts", line))?))),
            b"state" => {
                let state = job_state(value).ok_or_else(|| bad("a job's state", line))?;
                return Ok(Some((0, Answer::Was(state))));
            }
            _ => {}
        }
    }
    Ok(Some((0, Answer::Done)))
}

fn read_count(count: u64, rest: &[u8]) -> Option<Answer> {
    let mut named = words(rest).filter_map(name_and_value);
    let Some((name, ids)) = named.find(|(name, _)| matches!(*name, b"lost" | b"refused")) else {
        return Some(Answer::Count(count));
    };
    let ids: Option<Vec<_>> = ids.split(|byte| *byte == b',').map(|id| number(id).map(JobId)).collect();
    Some(match name {
        b"lost" => Answer::Held { count, lost: ids? },
        _ => Answer::Several { count, refused: ids? },
    })
}

/// The lines of a search, if the reply says that they are.
fn read_searched(rest: &[u8], lines: Behind) -> Behind {
    let value = |wanted: &[u8]| {
        let found = words(rest).filter_map(name_and_value).find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| number(value))
    };
    match (value(b"searched"), lines) {
        (Some(searched), Some((used, Answer::Lines(lines)))) => {
            let before = value(b"before").map(JobId);
            Some((used, Answer::Searched { lines, searched, before }))
        }
        (_, lines) => lines,
    }
}

fn read_hello(rest: &[u8]) -> Answer {
    let text = |name: &[u8]| {
        let value = words(rest).filter_map(name_and_value).find(|(found, _)| *found == name);
        String::from_utf8_lossy(value.map(|(_, value)| value).unwrap_or_default()).into_owned()
    };
    Answer::Hello { version: text(b"version"), verbs: text(b"verbs").split(',').map(str::to_owned).collect() }
}

fn read_order(line: &[u8], rest: &[u8]) -> Result<Answer, BadAnswer> {
    let mut words = words(rest);
    let (word, id) = (words.next(), words.next().and_then(number).map(JobId));
    let order = match (word, id) {
        (Some(b"cancel"), Some(id)) => Order::Cancel(id),
        (Some(b"lost"), Some(id)) => Order::Lost(id),
        (Some(b"quiet"), _) => Order::Quiet,
        (Some(b"resume"), _) => Order::Resume,
        (Some(b"stop"), _) => Order::Stop,
        _ => return Err(bad("an order", line)),
    };
    Ok(Answer::Order(order))
}

/// Reads the reply to WHY: the only OK with a text behind it. `None` if it is another.
fn read_why(line: &[u8], behind: &[u8]) -> Result<Option<Behind>, BadAnswer> {
    let split = split(line);
    if split.inline.is_none() {
        return Ok(None);
    }
    let Some((used, sentence)) = read_body(&split, line, behind)? else { return Ok(Some(None)) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let facts = words(split.words).filter_map(name_and_value).filter(|(name, _)| *name != b"len");
    let words = facts.map(|(name, value)| (text(name), text(value))).collect();
    Ok(Some(Some((used, Answer::Why { words, sentence: text(sentence.unwrap_or_default()) }))))
}

fn read_batch(rest: &[u8]) -> Option<Answer> {
    let (mut stats, mut complete) = (BatchStats::default(), None);
    for (name, value) in words(rest).filter_map(name_and_value) {
        let count = match name {
            b"ready" => &mut stats.jobs.ready,
            b"delayed" => &mut stats.jobs.delayed,
            b"leased" => &mut stats.jobs.leased,
            b"done" => &mut stats.jobs.done,
            b"dead" => &mut stats.jobs.dead,
            b"cancelled" => &mut stats.jobs.cancelled,
            b"deleted" => &mut stats.deleted,
            b"complete" => {
                complete = Some(value == b"yes");
                continue;
            }
            _ => continue,
        };
        *count = number(value)?;
    }
    Some(Answer::Batch { stats, complete: complete? })
}

fn read_finished(line: &[u8], behind: &[u8]) -> Result<Behind, BadAnswer> {
    let split = split(line);
    let expected = |what| move || bad(what, line);
    let Some((used, text)) = read_body(&split, line, behind)? else { return Ok(None) };
    let mut words = words(split.words);
    let id = words.next().and_then(number).map(JobId).ok_or_else(expected("the id of a job"))?;
    let (mut attempt, mut ran, mut failures, mut dropped) = (None, None, None, false);
    for (name, value) in words.filter_map(name_and_value) {
        match name {
            b"attempt" => attempt = number_u32(value),
            b"seconds" => ran = seconds(value),
            b"failures" => failures = number_u32(value),
            b"result" => dropped = value == b"dropped",
            _ => {}
        }
    }
    let reason = || text.map(|text| Arc::from(String::from_utf8_lossy(text)));
    let how = match split.verb {
        b"DONE" => Finished::Done {
            attempt: attempt.ok_or_else(expected("DONE with its attempt"))?,
            ran: ran.ok_or_else(expected("DONE with its seconds"))?,
            result: if dropped { None } else { Some(text.unwrap_or_default().into()) },
        },
        b"DEAD" => Finished::Dead {
            failures: failures.ok_or_else(expected("DEAD with its failures"))?,
            reason: reason(),
        },
        b"CANCELLED" => Finished::Cancelled { reason: reason() },
        _ => Finished::Gone,
    };
    Ok(Some((used, Answer::Finished { id, how })))
}

/// A number of seconds with three places, as in `2.500`.
fn seconds(text: &[u8]) -> Option<Duration> {
    let (whole, places) = text.split_at(text.iter().position(|byte| *byte == b'.')?);
    let millis = number(&places[1..]).filter(|millis| *millis < 1000 && places.len() == 4)?;
    Some(Duration::from_secs(number(whole)?) + Duration::from_millis(millis))
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
    let Some((used, body)) = read_body(&split, line, behind)? else { return Ok(None) };
    let body = body.ok_or_else(expected("JOB with a colon before the body"))?;
    let mut words = words(split.words);
    let id = words.next().and_then(number).map(JobId).ok_or_else(expected("JOB with an id"))?;
    let fields = JobFields::read(words);
    let answer = fields.answer(id, body).ok_or_else(expected("JOB with all of its fields"))?;
    Ok(Some((used, answer)))
}

/// How many bytes behind the line belong to its body, and the body, if there is one. `None` if it is not whole
/// yet.
#[expect(clippy::type_complexity, reason = "a size and a text")]
fn read_body<'a>(
    split: &Split<'a>,
    line: &[u8],
    behind: &'a [u8],
) -> Result<Option<(usize, Option<&'a [u8]>)>, BadAnswer> {
    match split.len {
        Len::Absent => Ok(Some((0, split.inline))),
        Len::Unreadable => Err(bad("len with the body's size", line)),
        Len::Bytes(len) => {
            let len = usize::try_from(len).map_err(|_| bad("len with a size that can be", line))?;
            match behind.get(len) {
                None => Ok(None),
                Some(b'\n') => Ok(Some((len + 1, Some(&behind[..len])))),
                Some(_) => Err(bad("LF behind a body of the size that is said here", line)),
            }
        }
    }
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
    keep: Option<Duration>,
    batch: Option<BatchName>,
    result_dropped: bool,
    progress: Option<u8>,
    progress_at: Option<u64>,
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
                b"keep" => fields.keep = duration(value).ok(),
                b"batch" => fields.batch = BatchName::from_bytes(value).ok(),
                b"result" => fields.result_dropped = value == b"dropped",
                b"progress" => fields.progress = number(value).and_then(|number| number.try_into().ok()),
                b"progress_at" => fields.progress_at = number(value),
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
        let (body, result) = match state {
            JobState::Done => (Arc::default(), Some(body).filter(|_| !self.result_dropped)),
            _ => (body, None),
        };
        Some(Answer::Found(Box::new(Job {
            id,
            queue,
            state,
            priority: Priority(self.priority?),
            ttr,
            attempts: self.attempts?,
            backoff: self.backoff?,
            key: self.key,
            keep: self.keep.unwrap_or_default(),
            batch: self.batch,
            created: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.created?))?,
            remaining: self.remaining,
            counts,
            reason: None,
            body,
            history: Vec::new(),
            progress: match self.progress_at {
                Some(at) => {
                    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))?;
                    Some(Progress::new(self.progress, None, at))
                }
                None => None,
            },
            result,
        })))
    }
}

fn job_state(name: &[u8]) -> Option<JobState> {
    std::str::from_utf8(name).ok().and_then(JobState::from_name)
}

fn number_u32(text: &[u8]) -> Option<u32> {
    number(text).and_then(|number| number.try_into().ok())
}
