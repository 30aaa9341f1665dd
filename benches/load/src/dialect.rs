//! What the servers under test speak: how to submit, take and finish a job, and what they answer.
//!
//! Commands are glued from phrases that are made once, so that writing one costs a copy; answers are looked
//! at just as far as it takes to know that they are the right ones.

use memchr::memchr;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// DJQS's own: TASK, GET, ACK.
    Native,
    /// put, reserve, delete.
    Beanstalk,
    /// A list and one more for each worker, the usual way to a queue that loses nothing: LPUSH, BLMOVE, LREM.
    Redis,
}

/// What a connection asks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Accept this job.
    Submit,
    /// Give me a job; I wait.
    Get,
    /// This job is done.
    Finish,
}

/// A right answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// To [`Ask::Submit`].
    Accepted,
    /// To [`Ask::Get`]. The token is what the job is to be finished with.
    Job { token: &'a [u8], body: &'a [u8] },
    /// To [`Ask::Finish`].
    Finished,
}

/// The commands of a dialect, in pieces.
pub(crate) struct Phrases {
    /// By queue: what comes before the body of a submission.
    submit: Vec<Vec<u8>>,
    /// By queue.
    get: Vec<Vec<u8>>,
    get_end: &'static [u8],
    finish: &'static [u8],
    /// Between the connection's own word and the token.
    finish_middle: Vec<u8>,
    line_end: &'static [u8],
}

impl Phrases {
    /// Commands for jobs of `body_bytes` in the named queues; an empty name is the dialect's own default.
    pub(crate) fn new(dialect: Dialect, queues: &[String], body_bytes: usize) -> Phrases {
        let by_queue = |text: &dyn Fn(&str) -> String| queues.iter().map(|q| text(q).into_bytes()).collect();
        match dialect {
            Dialect::Native => Phrases {
                submit: by_queue(&|q| format!("TASK{}: ", native_queue(q))),
                get: by_queue(&|q| format!("GET{}\n", native_queue(q))),
                get_end: b"",
                finish: b"ACK ",
                finish_middle: Vec::new(),
                line_end: b"\n",
            },
            Dialect::Beanstalk => Phrases {
                submit: by_queue(&|_| format!("put 1024 0 60 {body_bytes}\r\n")),
                get: by_queue(&|_| "reserve\r\n".into()),
                get_end: b"",
                finish: b"delete ",
                finish_middle: Vec::new(),
                line_end: b"\r\n",
            },
            Dialect::Redis => Phrases {
                submit: by_queue(&|q| {
                    format!("*3\r\n$5\r\nLPUSH\r\n{}${body_bytes}\r\n", bulk(redis_queue(q)))
                }),
                get: by_queue(&|q| format!("*6\r\n$6\r\nBLMOVE\r\n{}", bulk(redis_queue(q)))),
                get_end: b"$5\r\nRIGHT\r\n$4\r\nLEFT\r\n$1\r\n0\r\n",
                finish: b"*4\r\n$4\r\nLREM\r\n",
                // The oldest one is at the list's end, where the search begins.
                finish_middle: format!("$2\r\n-1\r\n${body_bytes}\r\n").into_bytes(),
                line_end: b"\r\n",
            },
        }
    }

    pub(crate) fn submit(&self, queue: usize, body: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.submit[queue]);
        out.extend_from_slice(body);
        out.extend_from_slice(self.line_end);
    }

    /// `own` is the connection's own word, see [`Dialect::own_word`].
    pub(crate) fn get(&self, queue: usize, own: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.get[queue]);
        out.extend_from_slice(own);
        out.extend_from_slice(self.get_end);
    }

    pub(crate) fn finish(&self, own: &[u8], token: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.finish);
        out.extend_from_slice(own);
        out.extend_from_slice(&self.finish_middle);
        out.extend_from_slice(token);
        out.extend_from_slice(self.line_end);
    }
}

fn native_queue(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" queue={name}") }
}

fn redis_queue(name: &str) -> &str {
    if name.is_empty() { "jobs" } else { name }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

impl Dialect {
    /// A question that every server of this dialect answers at once with one line.
    pub(crate) fn hello(self) -> &'static [u8] {
        match self {
            Dialect::Native => b"PING\n",
            Dialect::Beanstalk => b"list-tube-used\r\n",
            Dialect::Redis => b"PING\r\n",
        }
    }

    /// How a line begins that says yes to [`Dialect::hello`].
    pub(crate) fn hello_answer(self) -> &'static [u8] {
        match self {
            Dialect::Native => b"PONG",
            Dialect::Beanstalk => b"USING",
            Dialect::Redis => b"+PONG",
        }
    }

    /// What a connection of that number adds to GET and ACK: Redis wants to know whose list of jobs in work
    /// it is.
    pub(crate) fn own_word(self, connection: usize) -> Vec<u8> {
        match self {
            Dialect::Native | Dialect::Beanstalk => Vec::new(),
            Dialect::Redis => bulk(&format!("working-{connection}")).into_bytes(),
        }
    }

    /// What a connection says before it uses a queue, and how many lines answer that. Only beanstalkd keeps
    /// such a state.
    pub(crate) fn choose(self, queue: &str) -> (Vec<u8>, usize) {
        match self {
            Dialect::Beanstalk if !queue.is_empty() => {
                (format!("use {queue}\r\nwatch {queue}\r\nignore default\r\n").into_bytes(), 3)
            }
            _ => (Vec::new(), 0),
        }
    }

    /// Reads the answer to `ask` at the head of `bytes`, and how long it is. `Ok(None)`: not all of it has
    /// come.
    ///
    /// # Errors
    /// What came instead of a right answer.
    pub(crate) fn read(self, ask: Ask, bytes: &[u8]) -> Result<Option<(usize, Answer<'_>)>, String> {
        let Some(end) = memchr(b'\n', bytes) else {
            return Ok(None);
        };
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        let wrong =
            || format!("{ask:?} was answered {:?}", line[..line.len().min(200)].escape_ascii().to_string());
        let used = end + 1;
        let answer = match (self, ask) {
            (Dialect::Native, Ask::Submit) => numbered(line, b"ACK ").map(|_| Answer::Accepted),
            (Dialect::Native, Ask::Get) => native_job(line),
            (Dialect::Native, Ask::Finish) => (line == b"OK").then_some(Answer::Finished),
            (Dialect::Beanstalk, Ask::Submit) => numbered(line, b"INSERTED ").map(|_| Answer::Accepted),
            (Dialect::Beanstalk, Ask::Finish) => (line == b"DELETED").then_some(Answer::Finished),
            (Dialect::Redis, Ask::Submit) => numbered(line, b":").map(|_| Answer::Accepted),
            (Dialect::Redis, Ask::Finish) => (line == b":1").then_some(Answer::Finished),
            (Dialect::Beanstalk, Ask::Get) => {
                let words = line.strip_prefix(b"RESERVED ").and_then(|rest| {
                    let space = memchr(b' ', rest)?;
                    Some((&rest[..space], &rest[space + 1..]))
                });
                let (token, bytes_long) = words.ok_or_else(wrong)?;
                let body = body_of(bytes, used, number(bytes_long).ok_or_else(wrong)?);
                return Ok(body.map(|body| (used + body.len() + 2, Answer::Job { token, body })));
            }
            (Dialect::Redis, Ask::Get) => {
                let bytes_long = line.strip_prefix(b"$").and_then(number).ok_or_else(wrong)?;
                let body = body_of(bytes, used, bytes_long);
                return Ok(body.map(|body| (used + body.len() + 2, Answer::Job { token: body, body })));
            }
        };
        Ok(Some((used, answer.ok_or_else(wrong)?)))
    }
}

fn native_job(line: &[u8]) -> Option<Answer<'_>> {
    let rest = line.strip_prefix(b"JOB ")?;
    let token = &rest[..memchr(b' ', rest)?];
    let body = rest[memchr(b':', rest)?..].strip_prefix(b": ")?;
    Some(Answer::Job { token, body })
}

/// The body that begins at `start`, once it has come with its CR LF.
fn body_of(bytes: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    (bytes.len() >= start + length + 2).then(|| &bytes[start..start + length])
}

/// The number that stands alone behind `prefix`.
fn numbered(line: &[u8], prefix: &[u8]) -> Option<usize> {
    line.strip_prefix(prefix).and_then(number)
}

fn number(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_reads_its_jobs_and_waits_for_the_rest() {
        let job = |token, body| Answer::Job { token, body };
        for (dialect, text, answer) in [
            (Dialect::Native, &b"JOB 7 queue=q attempt=1 ttr=60s: ab:c\n"[..], job(b"7", b"ab:c")),
            (Dialect::Beanstalk, b"RESERVED 7 4\r\nab\nc\r\n", job(b"7", b"ab\nc")),
            (Dialect::Redis, b"$4\r\nab\nc\r\n", job(b"ab\nc", b"ab\nc")),
        ] {
            let mut more = text.to_vec();
            more.extend_from_slice(b"next");
            assert_eq!(dialect.read(Ask::Get, &more), Ok(Some((text.len(), answer))));
            for cut in 0..text.len() {
                assert_eq!(dialect.read(Ask::Get, &text[..cut]), Ok(None), "{dialect:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        assert!(Dialect::Native.read(Ask::Submit, b"ERR full retry_after=1s wait\n").is_err());
        assert!(Dialect::Beanstalk.read(Ask::Finish, b"NOT_FOUND\r\n").is_err());
        assert!(Dialect::Redis.read(Ask::Finish, b":0\r\n").is_err());
    }
}
