//! Writes replies as JSON: one object per reply. What LIST shows too has the same name here as there.

use std::borrow::Cow;

use serde_core::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::job::Finished;
use crate::protocol::native::Answer;
use crate::protocol::native::job_json::{body_member, members, millis, text_member};

/// Writes a reply to the command on this line as a JSON object and an LF. See
/// [`Format::Json`](super::print::Format::Json).
pub(super) fn write(line: u64, answer: &Answer, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, &Reply { line, answer }).expect("numbers and strings are always JSON");
    out.push(b'\n');
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
fn finished<M: SerializeMap>(map: &mut M, how: &Finished) -> Result<(), M::Error> {
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
        Answer::Finished { how: Finished::Done { .. }, .. } => "DONE",
        Answer::Finished { how: Finished::Dead { .. }, .. } => "DEAD",
        Answer::Finished { how: Finished::Cancelled { .. }, .. } => "CANCELLED",
        Answer::Finished { how: Finished::Gone, .. } => "GONE",
        Answer::Pong => "PONG",
        Answer::Refused(_) => "ERR",
    }
}

/// One of the lines of a reply. LIST's are objects already, all others are text.
enum Line<'a> {
    Object(&'a RawValue),
    Text(Cow<'a, str>),
}

impl Line<'_> {
    fn of(line: &[u8]) -> Line<'_> {
        let object = line.starts_with(b"{").then(|| serde_json::from_slice(line).ok()).flatten();
        object.map_or_else(|| Line::Text(String::from_utf8_lossy(line)), Line::Object)
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Line::Object(object) => object.serialize(serializer),
            Line::Text(text) => text.serialize(serializer),
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
