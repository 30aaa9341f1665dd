//! Sends a text of commands and passes on the replies in order. One thread sends while another receives. If
//! the connection breaks, the error says which lines were answered.
//!
//! In the text a command is a line. If the line's header has `len=N`, the next N bytes and an LF belong to
//! the command, as on the wire. Blank lines and lines that begin with `#` are not sent, but counted. A last
//! line without an LF is sent with one. A line `QUIT` ends the text. `QUIT` is sent at the end of every text:
//! it returns the jobs that were leased here, and no attempt is charged.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::address::Address;
use super::script::{Chunk, Script, ScriptEnd};
use super::wire::{Replies, Wire};
use super::{SILENCE_MAX, WRITES_AHEAD};
use crate::error::Error;
use crate::protocol::native::Answer;

/// The first size of the buffer for replies.
const BUFFER_BYTES: usize = 128 * 1024;

/// Takes the replies of [`feed`].
pub trait Sink {
    /// Takes one reply: the number of the line on which its command begins, the reply's bytes, and what they
    /// mean.
    ///
    /// # Errors
    /// [`feed`] ends with [`FeedError::Output`].
    fn reply(&mut self, line: u64, raw: &[u8], answer: &Answer) -> io::Result<()>;

    /// Is called before each wait for more replies. Flush here.
    ///
    /// # Errors
    /// As for [`Sink::reply`].
    fn pause(&mut self, tally: &Tally) -> io::Result<()>;
}

/// The progress of a text of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Commands that were answered.
    pub answered: u64,
    /// Commands that were refused. They count as answered, too.
    pub refused: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
}

/// Why [`feed`] ended before the end of the text.
#[derive(Debug)]
#[non_exhaustive]
pub enum FeedError {
    /// No connection could be made; nothing was sent.
    Unreachable(Error),
    /// The connection broke.
    Lost(Lost),
    /// The text could not be read. All commands before that are answered.
    Input {
        /// Why not.
        source: io::Error,
        /// The progress until then.
        tally: Tally,
    },
    /// The text ends inside a body: the server did not execute that command. All commands before it are
    /// answered.
    InsideBody {
        /// The line on which the command begins.
        line: u64,
        /// The progress until then.
        tally: Tally,
    },
    /// The sink failed. More commands may have been sent; the server may execute them.
    Output(io::Error),
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedError::Unreachable(error) => error.fmt(f),
            FeedError::Lost(lost) => lost.fmt(f),
            FeedError::Input { source, .. } => write!(f, "cannot read the commands: {source}"),
            FeedError::InsideBody { line, .. } => {
                write!(
                    f,
                    "line {line}: the input ends inside this command's body (len=): it was not executed"
                )
            }
            FeedError::Output(source) => write!(f, "cannot write the replies: {source}"),
        }
    }
}

impl std::error::Error for FeedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FeedError::Unreachable(error) => Some(error),
            FeedError::Lost(lost) => Some(&lost.why),
            FeedError::Input { source, .. } | FeedError::Output(source) => Some(source),
            FeedError::InsideBody { .. } => None,
        }
    }
}

/// Which commands were sent and answered when the connection broke.
#[derive(Debug)]
#[non_exhaustive]
pub struct Lost {
    /// Why it broke.
    pub why: Error,
    /// How many commands were sent completely. The server may not have received all of them.
    pub sent: u64,
    /// How many of those were answered: the first ones, since replies come in order.
    pub answered: u64,
    /// How many of the answers were refusals.
    pub refused: u64,
    /// The first line whose command was not answered. Continue from there.
    pub next_line: u64,
    /// The last line of the last command that was sent completely. The commands from `next_line` to this line
    /// were sent but not answered: they may or may not have taken effect.
    pub last_line_sent: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { why, sent, answered, refused, next_line, last_line_sent } = self;
        match why {
            Error::Disconnected { source: None } => {
                f.write_str("connection lost (the server closed it): ")?
            }
            Error::Disconnected { source: Some(source) } => write!(f, "connection lost ({source}): ")?,
            other => write!(f, "{other}: ")?,
        }
        if *sent == 0 && *answered == 0 {
            return write!(f, "nothing was sent; go on from line {next_line}");
        }
        write!(f, "{answered} of {sent} commands sent were answered")?;
        if *answered > 0 {
            write!(f, " (through line {}, {refused} of them refused)", next_line - 1)?;
        }
        if answered < sent {
            match next_line == last_line_sent {
                true => write!(f, "; line {next_line} was sent but not answered: it")?,
                false => {
                    write!(f, "; lines {next_line} to {last_line_sent} were sent but not answered: they")?
                }
            }
            f.write_str(" may or may not have taken effect")?;
        }
        write!(f, "; go on from line {next_line}")
    }
}

/// Sends the commands in `input` to `server` and passes each reply to `sink`, in order. Blocks until the
/// input has ended and every command is answered. At most 17 × 1,024 commands are sent ahead of their
/// replies.
///
/// After an error, the sending thread stays until its read of `input` returns.
///
/// # Errors
/// [`FeedError`]. A refused command is no error; the [`Tally`] counts it.
pub fn feed(
    server: &Address,
    input: impl Read + Send + 'static,
    sink: &mut impl Sink,
) -> Result<Tally, FeedError> {
    let wire = Arc::new(Wire::connect(server, SILENCE_MAX).map_err(FeedError::Unreachable)?);
    let sent = Arc::new(Mutex::new(Sent::default()));
    let bytes_sent = Arc::new(AtomicU64::new(0));
    let (begins, chunks) = bounded(WRITES_AHEAD);
    let sending = Sending {
        wire: Arc::clone(&wire),
        begins,
        sent: Arc::clone(&sent),
        bytes_sent: Arc::clone(&bytes_sent),
    };
    let started = thread::Builder::new().name("sender".into()).spawn(move || sending.run(Script::new(input)));
    started
        .map_err(|source| FeedError::Unreachable(Error::Connect { server: server.to_string(), source }))?;
    let lines = Lines { chunks, current: Vec::new().into_iter() };
    let mut receiving = Receiving { lines, last_line: 0, tally: Tally::default(), bytes_sent };
    let received = receiving.run(&wire, sink);
    // Ends a write that blocks: the sender sends nothing more.
    wire.shut_down();
    let why = received.map_err(FeedError::Output)?;
    let mut sent = sent.lock();
    sent.closed = true;
    receiving.result(why, &mut sent)
}

/// What has been sent. The sender holds its lock during a write, so that the numbers are always right.
struct Sent {
    /// How many commands were sent completely.
    whole: u64,
    /// The line after the last of them.
    next_line: u64,
    /// How the script ended; `None` until it has.
    ended: Option<io::Result<ScriptEnd>>,
    /// Whether the connection has ended, so that nothing more may be sent.
    closed: bool,
}

impl Default for Sent {
    fn default() -> Self {
        Sent { whole: 0, next_line: 1, ended: None, closed: false }
    }
}

/// The sending thread's side.
struct Sending {
    wire: Arc<Wire>,
    /// Tells the receiver the lines on which commands begin, a chunk at a time. Its capacity limits how far
    /// the sender is ahead.
    begins: Sender<Vec<u64>>,
    sent: Arc<Mutex<Sent>>,
    bytes_sent: Arc<AtomicU64>,
}

impl Sending {
    fn run(self, mut script: Script<impl Read>) {
        let mut chunk = Chunk::default();
        let ended = loop {
            match script.next_chunk(&mut chunk) {
                Ok(None) if self.send(&mut chunk) => {}
                Ok(None) => return,
                Ok(Some(end)) => break Ok(end),
                Err(error) => break Err(error),
            }
        };
        self.sent.lock().ended = Some(ended);
        // If sending fails, the receiver notices. Inside a command, QUIT would be read as a part of it.
        match script.is_outside() {
            true => drop(self.wire.send(b"QUIT\n")),
            false => self.wire.finish_writing(),
        }
    }

    /// Sends a chunk; returns whether to go on.
    fn send(&self, chunk: &mut Chunk) -> bool {
        // Tell the receiver first, so that it knows the line of every reply.
        if !chunk.begins.is_empty() && self.begins.send(std::mem::take(&mut chunk.begins)).is_err() {
            return false;
        }
        let mut sent = self.sent.lock();
        if sent.closed {
            return false;
        }
        let bytes = write_until_broken(&self.wire, &chunk.bytes);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        let whole = chunk.ends.partition_point(|end| end.offset <= bytes);
        sent.whole += whole as u64;
        if let Some(last) = chunk.ends[..whole].last() {
            sent.next_line = last.next_line;
        }
        bytes == chunk.bytes.len()
    }
}

/// Writes until everything is written or the connection breaks, and returns how many bytes were written. The
/// receiver reports the break.
fn write_until_broken(mut wire: &Wire, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match wire.write(&bytes[written..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) | Ok(0) => break,
            Ok(more) => written += more,
        }
    }
    written
}

/// The lines of the commands that are not answered yet, in order.
struct Lines {
    chunks: Receiver<Vec<u64>>,
    current: vec::IntoIter<u64>,
}

impl Iterator for Lines {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.current.as_slice().is_empty() {
            self.current = self.chunks.try_recv().ok()?.into_iter();
        }
        self.current.next()
    }
}

/// The receiving thread's side.
struct Receiving {
    lines: Lines,
    /// The line on which the last answered command begins.
    last_line: u64,
    tally: Tally,
    bytes_sent: Arc<AtomicU64>,
}

impl Receiving {
    /// Passes on replies until the connection ends; returns how it ended.
    fn run(&mut self, wire: &Wire, sink: &mut impl Sink) -> io::Result<Error> {
        let mut replies = Replies::new(BUFFER_BYTES);
        loop {
            let end = self.pass_on(&mut replies, sink)?;
            self.tally.bytes_sent = self.bytes_sent.load(Ordering::Relaxed);
            sink.pause(&self.tally)?;
            match end.map_or_else(|| replies.receive(wire), Err) {
                Ok(0) => return Ok(Error::Disconnected { source: None }),
                Ok(_) => {}
                Err(end) => return Ok(end),
            }
        }
    }

    /// Passes on the replies that have been read. `Some` if the server broke the protocol.
    fn pass_on(&mut self, replies: &mut Replies, sink: &mut impl Sink) -> io::Result<Option<Error>> {
        loop {
            let (raw, answer) = match replies.next() {
                Ok(Some(reply)) => reply,
                Ok(None) => return Ok(None),
                Err(bad) => return Ok(Some(bad)),
            };
            let Some(line) = self.lines.next() else { return Ok(Some(unasked(answer))) };
            self.last_line = line;
            self.tally.answered += 1;
            self.tally.refused += u64::from(matches!(answer, Answer::Refused(_)));
            sink.reply(line, raw, &answer)?;
        }
    }

    /// The result, once the connection has ended.
    fn result(mut self, why: Error, sent: &mut Sent) -> Result<Tally, FeedError> {
        let tally = self.tally;
        let all_answered = tally.answered >= sent.whole;
        // If there is one answer too many, those before it may belong to other commands.
        let in_sync = all_answered && matches!(why, Error::Disconnected { .. });
        match sent.ended.take() {
            Some(Ok(ScriptEnd::Whole)) if in_sync => Ok(tally),
            Some(Ok(ScriptEnd::InsideBody { line })) if in_sync => Err(FeedError::InsideBody { line, tally }),
            Some(Err(source)) if in_sync => Err(FeedError::Input { source, tally }),
            _ => {
                // A command can be refused before all of its body is sent. Then its last line is not known.
                let cut_off = tally.answered > sent.whole;
                let after_the_last = if cut_off { self.last_line } else { sent.next_line };
                let unanswered = if all_answered { None } else { self.lines.next() };
                Err(FeedError::Lost(Lost {
                    why,
                    sent: sent.whole.max(tally.answered),
                    answered: tally.answered,
                    refused: tally.refused,
                    next_line: unanswered.unwrap_or(after_the_last),
                    last_line_sent: sent.next_line - 1,
                }))
            }
        }
    }
}

/// An answer without a command. A server that has no room for another connection sends a refusal.
fn unasked(answer: Answer) -> Error {
    match answer {
        Answer::Refused(refusal) => Error::Refused(refusal),
        _ => Error::BadReply("it answers more than was asked".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(sent: u64, answered: u64, refused: u64, next_line: u64, last_line_sent: u64) -> String {
        let why = Error::Disconnected { source: None };
        Lost { why, sent, answered, refused, next_line, last_line_sent }.to_string()
    }

    #[test]
    fn text_of_a_lost_connection() {
        assert_eq!(
            lost(1294, 1234, 0, 1241, 1300),
            "connection lost (the server closed it): 1234 of 1294 commands sent were answered \
             (through line 1240, 0 of them refused); \
             lines 1241 to 1300 were sent but not answered: they may or may not have taken effect; \
             go on from line 1241"
        );
        assert_eq!(
            lost(5, 4, 2, 5, 5),
            "connection lost (the server closed it): 4 of 5 commands sent were answered \
             (through line 4, 2 of them refused); \
             line 5 was sent but not answered: it may or may not have taken effect; go on from line 5"
        );
        assert_eq!(
            lost(2, 0, 0, 1, 2),
            "connection lost (the server closed it): 0 of 2 commands sent were answered; \
             lines 1 to 2 were sent but not answered: they may or may not have taken effect; \
             go on from line 1"
        );
        assert_eq!(
            lost(3, 3, 0, 4, 3),
            "connection lost (the server closed it): 3 of 3 commands sent were answered \
             (through line 3, 0 of them refused); \
             go on from line 4"
        );
        assert_eq!(
            lost(0, 0, 0, 1, 0),
            "connection lost (the server closed it): nothing was sent; go on from line 1"
        );
    }
}
