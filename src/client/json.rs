//! Writes replies as JSON: one object per reply. What LIST shows too has the same name here as there.

use std::borrow::Cow;

use serde_core::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::job::Finished;
use crate::printable::is_unsafe_on_terminal;
use crate::protocol::native::Answer;
use crate::protocol::native::job_json::{body_member, members, millis, text_member};

/// Writes a reply to the command on this line as a JSON object and an LF. See
/// [`Format::Json`](super::print::Format::Json).
pub(super) fn write(line: u64, answer: &Answer, out: &mut Vec<u8>) {
    let json = serde_json::to_string(&Reply { line, answer }).expect("numbers and strings are always JSON");
    push_escaped(&json, out);
    out.push(b'\n');
}

/// Appends JSON in which what a terminal may obey is escaped. serde_json escapes only the control characters that JSON
/// forbids. The others can only be in strings, where every character may be escaped.
pub(super) fn push_escaped(json: &str, out: &mut Vec<u8>) {
    let mut rest = json;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe_on_terminal(*c)) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
        rest = &rest[at + c.len_utf8()..];
    }
    out.extend_from_slice(rest.as_bytes());
}

struct Reply<'a> {
    line: u64,
    answer: &'a Answer,
}

impl Serialize for Reply<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("line", &self.line)?;
        map.serialize_entry("ok", &!matches!(self.answer, Answer::Refused(_)))?;
        map.serialize_entry("reply", first_word(self.answer))?;
        match self.answer {
            Answer::Accepted { id, duplicate } => {
                map.serialize_entry("id", &id.0)?;
                if let Some(state) = duplicate {
                    map.serialize_entry("duplicate", &true)?;
                    map.serialize_entry("state", state.as_str())?;
                }
            }
            Answer::Leased(lease) => {
                map.serialize_entry("id", &lease.id.0)?;
                map.serialize_entry("queue", lease.queue.as_str())?;
                map.serialize_entry("attempt", &lease.attempt)?;
                map.serialize_entry("ttr_ms", &millis(lease.ttr))?;
                body_member(&mut map, &lease.body)?;
            }
            Answer::Found(job) => members(&mut map, job)?,
            Answer::Drained { paused } => {
                map.serialize_entry("drained", &true)?;
                if !paused.is_empty() {
                    let names: Vec<&str> = paused.iter().map(|queue| queue.as_str()).collect();
                    map.serialize_entry("paused", &names)?;
                }
            }
            Answer::Empty | Answer::Done | Answer::Pong => {}
            Answer::RetryIn(wait) => map.serialize_entry("retry_ms", &millis(*wait))?,
            Answer::Dead => map.serialize_entry("dead", &true)?,
            Answer::ResultDropped => map.serialize_entry("result_dropped", &true)?,
            Answer::Finished { id, how } => {
                map.serialize_entry("id", &id.0)?;
                finished(&mut map, how)?;
            }
            Answer::Batch { stats, complete } => {
                for (name, count) in stats.list() {
                    map.serialize_entry(name, &count)?;
                }
                map.serialize_entry("complete", complete)?;
            }
            Answer::Was(state) => map.serialize_entry("state", state.as_str())?,
            Answer::Count(count) => map.serialize_entry("count", count)?,
            Answer::Why { words, sentence } => {
                for (name, value) in words {
                    map.serialize_entry(name, value)?;
                }
                map.serialize_entry("text", sentence)?;
            }
            Answer::Searched { lines, searched, before } => {
                map.serialize_entry("searched", searched)?;
                if let Some(before) = before {
                    map.serialize_entry("before", &before.0)?;
                }
                map.serialize_entry("lines", &lines.iter().map(|line| Line::of(line)).collect::<Vec<_>>())?;
            }
            Answer::Several { count, refused } => {
                map.serialize_entry("count", count)?;
                map.serialize_entry("refused", &refused.iter().map(|id| id.0).collect::<Vec<_>>())?;
            }
            Answer::Held { count, lost } => {
                map.serialize_entry("count", count)?;
                map.serialize_entry("lost", &lost.iter().map(|id| id.0).collect::<Vec<_>>())?;
            }
            Answer::Hello { version, verbs } => {
                map.serialize_entry("version", version)?;
                map.serialize_entry("verbs", verbs)?;
            }
            Answer::Order(order) => {
                let (word, id) = order.parts();
                map.serialize_entry("order", word)?;
                if let Some(id) = id {
                    map.serialize_entry("id", &id.0)?;
                }
            }
            Answer::Lines(lines) if is_stats(lines) => {
                for (name, value) in lines.iter().filter_map(|line| figure(line, ": ")) {
                    map.serialize_entry(name, &Value::of(name, value))?;
                }
            }
            Answer::Lines(lines) => {
                map.serialize_entry("lines", &lines.iter().map(|line| Line::of(line)).collect::<Vec<_>>())?;
            }
            Answer::Refused(refusal) => {
                map.serialize_entry("code", refusal.code.as_str())?;
                if let Some(wait) = refusal.retry_after {
                    map.serialize_entry("retry_after_ms", &millis(wait))?;
                }
                if refusal.cancelled {
                    map.serialize_entry("cancelled", &true)?;
                }
                map.serialize_entry("text", &refusal.text)?;
            }
        }
        map.end()
    }
}

/// Writes the members that say how a job ended.
pub(super) fn finished<M: SerializeMap>(map: &mut M, how: &Finished) -> Result<(), M::Error> {
    match how {
        Finished::Done { attempt, ran, result } => {
            map.serialize_entry("attempt", attempt)?;
            map.serialize_entry("seconds", &ran.as_secs_f64())?;
            match result {
                Some(result) => text_member(map, "result", "result_base64", result),
                None => map.serialize_entry("result_dropped", &true),
            }
        }
        Finished::Dead { failures, reason } => {
            map.serialize_entry("failures", failures)?;
            map.serialize_entry("reason", reason.as_deref().unwrap_or_default())
        }
        Finished::Cancelled { reason } => {
            map.serialize_entry("reason", reason.as_deref().unwrap_or_default())
        }
        Finished::Gone => Ok(()),
    }
}

fn first_word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Accepted { .. } => "ACK",
        Answer::Leased(_) | Answer::Found(_) => "JOB",
        Answer::Empty | Answer::Drained { .. } => "EMPTY",
        Answer::Done | Answer::RetryIn(_) | Answer::Dead | Answer::Count(_) | Answer::Lines(_) => "OK",
        Answer::ResultDropped | Answer::Batch { .. } | Answer::Was(_) => "OK",
        Answer::Searched { .. } | Answer::Several { .. } => "OK",
        Answer::Held { .. } | Answer::Hello { .. } | Answer::Why { .. } => "OK",
        Answer::Order(_) => "ORDER",
        Answer::Finished { how: Finished::Done { .. }, .. } => "DONE",
        Answer::Finished { how: Finished::Dead { .. }, .. } => "DEAD",
        Answer::Finished { how: Finished::Cancelled { .. }, .. } => "CANCELLED",
        Answer::Finished { how: Finished::Gone, .. } => "GONE",
        Answer::Pong => "PONG",
        Answer::Refused(_) => "ERR",
    }
}

/// Whether these are the lines of STATS, which become members of the reply's object.
fn is_stats(lines: &[Vec<u8>]) -> bool {
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte));
    let first = lines.first().and_then(|line| figure(line, ": "));
    first.is_some_and(|(name, _)| ["version", "queue"].contains(&name))
        && lines.iter().all(|line| figure(line, ": ").is_some_and(|(name, _)| is_name(name)))
}

/// A name and its value.
fn figure<'a>(text: &'a [u8], between: &str) -> Option<(&'a str, &'a str)> {
    str::from_utf8(text).ok()?.split_once(between)
}

/// The value of a figure, with its type.
enum Value<'a> {
    Number(u64),
    Flag(bool),
    Text(&'a str),
}

impl Value<'_> {
    fn of<'a>(name: &str, value: &'a str) -> Value<'a> {
        match value {
            // The name of a queue may look like a number.
            _ if ["queue", "version"].contains(&name) => Value::Text(value),
            "yes" => Value::Flag(true),
            "no" => Value::Flag(false),
            _ => value.parse().map_or(Value::Text(value), Value::Number),
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Number(number) => number.serialize(serializer),
            Value::Flag(flag) => flag.serialize(serializer),
            Value::Text(text) => text.serialize(serializer),
        }
    }
}

/// One of the lines of a reply. LIST's are objects already, QUEUES' become objects, all others are text.
enum Line<'a> {
    Object(&'a RawValue),
    Queue(&'a str, Vec<(&'a str, &'a str)>),
    Text(Cow<'a, str>),
}

impl Line<'_> {
    fn of(line: &[u8]) -> Line<'_> {
        let object = line.starts_with(b"{").then(|| serde_json::from_slice(line).ok()).flatten();
        object
            .map(Line::Object)
            .or_else(|| Line::queue(line))
            .unwrap_or_else(|| Line::Text(String::from_utf8_lossy(line)))
    }

    /// A line of QUEUES.
    fn queue(line: &[u8]) -> Option<Line<'_>> {
        let (name, figures) = figure(line, " ")?;
        let figures: Vec<_> = figures.split(' ').map(|word| word.split_once('=')).collect::<Option<_>>()?;
        (figures.first()?.0 == "ready").then_some(Line::Queue(name, figures))
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Line::Object(object) => object.serialize(serializer),
            Line::Text(text) => text.serialize(serializer),
            Line::Queue(name, figures) => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("queue", name)?;
                for (name, value) in figures {
                    map.serialize_entry(name, &Value::of(name, value))?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::native::read_answer;

    fn json(reply: &[u8]) -> String {
        let (_, answer) = read_answer(reply).unwrap().unwrap();
        let mut out = Vec::new();
        write(7, &answer, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_of_reply_is_one_object_on_one_line() {
        let pairs: [(&[u8], &str); 14] = [
            (b"ACK 3\n", r#""ok":true,"reply":"ACK","id":3"#),
            (
                b"ACK 3 duplicate=yes state=dead\n",
                r#""ok":true,"reply":"ACK","id":3,"duplicate":true,"state":"dead""#,
            ),
            (b"EMPTY\n", r#""ok":true,"reply":"EMPTY""#),
            (b"EMPTY drained=yes\n", r#""ok":true,"reply":"EMPTY","drained":true"#),
            (
                b"EMPTY drained=yes paused=a,b\n",
                r#""ok":true,"reply":"EMPTY","drained":true,"paused":["a","b"]"#,
            ),
            (b"OK\n", r#""ok":true,"reply":"OK""#),
            (b"OK retry=2s\n", r#""ok":true,"reply":"OK","retry_ms":2000"#),
            (b"OK dead=yes\n", r#""ok":true,"reply":"OK","dead":true"#),
            (b"OK count=3\n", r#""ok":true,"reply":"OK","count":3"#),
            (b"PONG\n", r#""ok":true,"reply":"PONG""#),
            (b"OK lines=2\na: 1\n{b\n", r#""ok":true,"reply":"OK","lines":["a: 1","{b"]"#),
            (
                b"OK lines=1\n{\"z\":1,\"a\":\"\\n\"}\n",
                r#""ok":true,"reply":"OK","lines":[{"z":1,"a":"\n"}]"#,
            ),
            (b"ERR usage what \"?\"\n", r#""ok":false,"reply":"ERR","code":"usage","text":"what \"?\"""#),
            (
                b"ERR full retry_after=1s no room\n",
                r#""ok":false,"reply":"ERR","code":"full","retry_after_ms":1000,"text":"no room""#,
            ),
        ];
        for (reply, expected) in pairs {
            assert_eq!(json(reply), format!("{{\"line\":7,{expected}}}\n"));
        }
    }

    #[test]
    fn body_that_is_no_text_is_in_base64() {
        let job = r#""ok":true,"reply":"JOB","id":1,"queue":"mail","attempt":2,"ttr_ms":60000"#;
        let text = json(b"JOB 1 queue=mail attempt=2 ttr=1m len=3:\na\nb\n");
        assert_eq!(text, format!("{{\"line\":7,{job},\"body\":\"a\\nb\"}}\n"));
        let bytes = json(b"JOB 1 queue=mail attempt=2 ttr=1m: \xff\n");
        assert_eq!(bytes, format!("{{\"line\":7,{job},\"body_base64\":\"/w==\"}}\n"));
    }

    #[test]
    fn stats_are_members_and_queues_are_objects() {
        let stats = json(b"OK lines=4\nversion: 1\njobs_ready: 7\ndraining: no\njournal: fsync 50ms\n");
        let expected = r#"{"line":7,"ok":true,"reply":"OK","version":"1","jobs_ready":7,"draining":false,"journal":"fsync 50ms"}"#;
        assert_eq!(stats, format!("{expected}\n"));
        let stats = json(b"OK lines=2\nqueue: 12\npaused: 3s\n");
        assert_eq!(stats, "{\"line\":7,\"ok\":true,\"reply\":\"OK\",\"queue\":\"12\",\"paused\":\"3s\"}\n");
        let queues = json(b"OK lines=1\n12 ready=3 paused=yes\n");
        let expected =
            r#"{"line":7,"ok":true,"reply":"OK","lines":[{"queue":"12","ready":3,"paused":true}]}"#;
        assert_eq!(queues, format!("{expected}\n"));
    }

    #[test]
    fn what_a_terminal_may_obey_is_escaped_and_read_back() {
        let text = json("JOB 1 queue=mail attempt=2 ttr=1m: \u{1b}\u{7f}\u{9b}\u{202e}ß\n".as_bytes());
        assert!(text.ends_with("\"body\":\"\\u001b\\u007f\\u009b\\u202eß\"}\n"), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["body"], "\u{1b}\u{7f}\u{9b}\u{202e}ß");
    }

    #[test]
    fn job_looked_at_has_the_names_of_list() {
        let reply = b"JOB 1 queue=q state=delayed priority=5 ttr=1s attempts=3 backoff=2s key=k created=9 \
            attempt=2 failures=1 crashes=0 returns=4 remaining=250ms: x\n";
        let expected = [
            r#"{"line":7,"ok":true,"reply":"JOB","id":1,"queue":"q","state":"delayed","priority":5"#,
            r#""ttr_ms":1000,"attempts":3,"backoff_ms":2000,"key":"k","created":9,"remaining_ms":250"#,
            r#""attempt":2,"failures":1,"crashes":0,"returns":4,"body":"x"}"#,
        ];
        assert_eq!(json(reply), expected.join(",") + "\n");
    }
}
