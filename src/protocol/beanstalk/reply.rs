//! Replies: from a [`Reply`] to bytes.

use super::Verb;
use super::yaml;
use crate::error::{Code, Refusal};
use crate::job::{Job, JobId, JobState, QueueName};
use crate::protocol::Reply;
use crate::protocol::number::push_number;

/// Writes the reply to a command with this verb.
pub fn write_reply(verb: Verb, reply: &Reply, out: &mut Vec<u8>) {
    match (verb, reply) {
        // This dialect has no word for such jobs: to its clients they are gone.
        (_, Reply::Found(job)) if is_hidden(job) => out.extend_from_slice(b"NOT_FOUND\r\n"),
        (_, Reply::JobStats(stats)) if is_hidden(&stats.job) => out.extend_from_slice(b"NOT_FOUND\r\n"),
        (_, Reply::Accepted { id, .. }) => push_line(out, b"INSERTED ", id.0),
        (_, Reply::Leased(lease)) => push_job(out, b"RESERVED ", lease.id, &lease.body),
        (Verb::Delete, Reply::Done) => out.extend_from_slice(b"DELETED\r\n"),
        (Verb::Release, Reply::Done) => out.extend_from_slice(b"RELEASED\r\n"),
        (Verb::Touch, Reply::Done) => out.extend_from_slice(b"TOUCHED\r\n"),
        (Verb::KickJob, Reply::Done) => out.extend_from_slice(b"KICKED\r\n"),
        (Verb::PauseTube, Reply::Done) => out.extend_from_slice(b"PAUSED\r\n"),
        (_, Reply::Dead) => out.extend_from_slice(b"BURIED\r\n"),
        (_, Reply::Count(count)) => push_line(out, b"KICKED ", *count),
        (_, Reply::Empty | Reply::Drained { .. }) => out.extend_from_slice(b"TIMED_OUT\r\n"),
        (_, Reply::LapsesSoon) => out.extend_from_slice(b"DEADLINE_SOON\r\n"),
        (_, Reply::Found(job)) => push_job(out, b"FOUND ", job.id, &job.body),
        (_, Reply::Using(queue)) => push_using(out, queue),
        (_, Reply::Watching(count)) => push_line(out, b"WATCHING ", *count as u64),
        (_, Reply::Names(names)) => push_yaml(out, &yaml::names(names)),
        (_, Reply::JobStats(stats)) => push_yaml(out, &yaml::job(stats)),
        (_, Reply::QueueDetails(details)) => push_yaml(out, &yaml::queue(details)),
        (_, Reply::ServerDetails(details)) => push_yaml(out, &yaml::server(details)),
        (_, Reply::Refused(refusal)) => out.extend_from_slice(refusal_line(verb, refusal)),
        // No command of this dialect is answered with anything else.
        _ => out.extend_from_slice(b"INTERNAL_ERROR\r\n"),
    }
}

fn is_hidden(job: &Job) -> bool {
    matches!(job.state, JobState::Done | JobState::Cancelled)
}

fn refusal_line(verb: Verb, refusal: &Refusal) -> &'static [u8] {
    match (verb, refusal.code) {
        (Verb::Put, Code::Usage) => b"EXPECTED_CRLF\r\n",
        (Verb::Ignore, Code::Usage) => b"NOT_IGNORED\r\n",
        (_, Code::Usage | Code::BadName) => b"BAD_FORMAT\r\n",
        (_, Code::UnknownVerb) => b"UNKNOWN_COMMAND\r\n",
        (_, Code::TooBig) => b"JOB_TOO_BIG\r\n",
        (_, Code::NotFound | Code::NotLeased) => b"NOT_FOUND\r\n",
        (_, Code::Full) => b"OUT_OF_MEMORY\r\n",
        // A waiting worker of a server that stops gets no job; next it sees the connection close.
        (Verb::Reserve | Verb::ReserveWithTimeout, Code::Draining) => b"TIMED_OUT\r\n",
        (_, Code::Draining) => b"DRAINING\r\n",
        (_, Code::Unavailable | Code::Internal) => b"INTERNAL_ERROR\r\n",
    }
}

fn push_line(out: &mut Vec<u8>, word: &[u8], number: u64) {
    out.extend_from_slice(word);
    push_number(out, number);
    out.extend_from_slice(b"\r\n");
}

fn push_job(out: &mut Vec<u8>, word: &[u8], id: JobId, body: &[u8]) {
    out.extend_from_slice(word);
    push_number(out, id.0);
    out.push(b' ');
    push_line(out, b"", body.len() as u64);
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

fn push_using(out: &mut Vec<u8>, queue: &QueueName) {
    out.extend_from_slice(b"USING ");
    out.extend_from_slice(queue.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn push_yaml(out: &mut Vec<u8>, yaml: &str) {
    push_line(out, b"OK ", yaml.len() as u64);
    out.extend_from_slice(yaml.as_bytes());
    out.extend_from_slice(b"\r\n");
}
