//! Carries out a text of commands: one thread sends while another receives, so that replies stream out in
//! order while more commands go in. It knows at every moment which lines were answered, so that nothing is
//! silently lost when the connection breaks.
//!
//! In the text a command is a line or, where the line's header has `len=N`, the line with the N bytes and the
//! LF behind it, as on the wire. Blank lines and lines that begin with `#` are left out, but counted. A last
//! line without an LF is sent with one. A line `QUIT` ends the text. At its end `QUIT` is sent in any case,
//! so that what was leased here is handed back without an attempt being charged.

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

/// How much one read of replies takes, in bytes.
const ROOM_BYTES: usize = 128 * 1024;

/// Where the replies go.
pub trait Sink {
    /// Takes one reply: the number of the line that its command begins on, its bytes as they came, and what
    /// they say.
    ///
    /// # Errors
    /// Where it can't be taken: [`feed`] ends with [`FeedError::Output`].
    fn reply(&mut self, line: u64, raw: &[u8], answer: &Answer) -> io::Result<()>;

    /// Hears that all replies that have come so far are handed over, and that more may be long in coming: the
    /// time to flush.
    ///
    /// # Errors
    /// As for [`Sink::reply`].
    fn pause(&mut self, tally: &Tally) -> io::Result<()>;
}

/// How far a text of commands has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands that were answered.
    pub answered: u64,
    /// Those of them that were answered with a refusal.
    pub refused: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
}

/// Why a text of commands was not carried out to its end.
#[derive(Debug)]
pub enum FeedError {
    /// No connection could be made; nothing was sent.
    Unreachable(Error),
    /// The connection broke.
    Lost(Lost),
    /// The text could not be read on. All that was sent before is answered.
    Input {
        /// Why not.
        source: io::Error,
        /// How far it came.
        tally: Tally,
    },
    /// The text ends inside a body: that command was not carried out. All that was sent before is answered.
    InsideBody {
        /// The line that the command begins on.
        line: u64,
        /// How far it came.
        tally: Tally,
    },
    /// The sink failed. Commands may be on their way whose replies nobody has seen.
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
                    "line {line}: the input ends inside this command's body (len=): it was not carried out"
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

/// The account of a broken connection.
#[derive(Debug)]
pub struct Lost {
    /// What happened to it.
    pub why: Error,
    /// How many commands were handed to the network whole. The server may not have received them all.
    pub sent: u64,
    /// How many commands were answered: the first ones.
    pub answered: u64,
    /// How many of those answers were refusals.
    pub refused: u64,
    /// The first line that is not answered, from which to go on.
    pub next_line: u64,
    /// The last line of what was sent whole. Where it is not below `next_line`, the commands on the lines
    /// between were sent but not answered: they may or may not have taken effect.
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

/// Sends the commands in `input` to `server` and hands each reply to `sink`, in order. Blocks
/// until the last one is answered, for as long as the input goes on and the server takes. At most 17 × 1,024
/// commands are on their way without being answered.
///
/// Where it ends early, its sending thread stays until its read of `input` returns.
///
/// # Errors
/// [`FeedError`]. A command that the server refuses is no error, but is counted in the [`Tally`].
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
    // Wakes the sender out of a write: from here on, what it has sent is what it had sent.
    wire.shut_down();
    let why = received.map_err(FeedError::Output)?;
    let mut sent = sent.lock();
    sent.closed = true;
    receiving.account(why, &mut sent)
}

/// What has been sent. Its lock is held while a chunk is being written, so that whoever takes it sees what is
/// so.
struct Sent {
    /// How many commands are sent whole.
    whole: u64,
    /// The line behind the last of them.
    next_line: u64,
    /// How the script ended, once it has.
    ended: Option<io::Result<ScriptEnd>>,
    /// Whether the connection is over, so that nothing more may be sent.
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
    /// Tells the receiver the lines that commands begin on, a chunk at a time. It holds so many chunks and
    /// no more, which is what limits how far the sender is ahead.
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
        // Whether this can be sent is seen by the receiver. Inside a command, QUIT would be taken for a part
        // of it.
        match script.is_outside() {
            true => drop(self.wire.send(b"QUIT\n")),
            false => self.wire.finish_writing(),
        }
    }

    /// Sends a chunk; says whether to go on.
    fn send(&self, chunk: &mut Chunk) -> bool {
        // The receiver is told first, so that it knows of every command that is answered.
        if !chunk.begins.is_empty() && self.begins.send(std::mem::take(&mut chunk.begins)).is_err() {
            return false;
        }
        let mut sent = self.sent.lock();
        if sent.closed {
            return false;
        }
        let bytes = write_what_goes(&self.wire, &chunk.bytes);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        let whole = chunk.ends.partition_point(|end| end.offset <= bytes);
        sent.whole += whole as u64;
        if let Some(last) = chunk.ends[..whole].last() {
            sent.next_line = last.next_line;
        }
        bytes == chunk.bytes.len()
    }
}

/// Writes until all is written or the connection breaks, which the receiver then sees as well; says how much
/// was.
fn write_what_goes(mut wire: &Wire, bytes: &[u8]) -> usize {
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

/// The lines that the commands begin on whose replies are still to come, in order.
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

/// The receiving side.
struct Receiving {
    lines: Lines,
    /// The line that the last answered command begins on.
    last_line: u64,
    tally: Tally,
    bytes_sent: Arc<AtomicU64>,
}

impl Receiving {
    /// Hands over replies until the connection ends, as it always does; says how.
    fn run(&mut self, wire: &Wire, sink: &mut impl Sink) -> io::Result<Error> {
        let mut replies = Replies::new(ROOM_BYTES);
        loop {
            let end = self.hand_over(&mut replies, sink)?;
            self.tally.bytes_sent = self.bytes_sent.load(Ordering::Relaxed);
            sink.pause(&self.tally)?;
            match end.map_or_else(|| replies.receive(wire), Err) {
                Ok(0) => return Ok(Error::Disconnected { source: None }),
                Ok(_) => {}
                Err(end) => return Ok(end),
            }
        }
    }

    /// Hands over the replies that have come. `Some` where the server has left the protocol.
    fn hand_over(&mut self, replies: &mut Replies, sink: &mut impl Sink) -> io::Result<Option<Error>> {
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

    /// What to say at the end of the connection.
    fn account(mut self, why: Error, sent: &mut Sent) -> Result<Tally, FeedError> {
        let tally = self.tally;
        let all_answered = tally.answered >= sent.whole;
        // An answer too many may mean that those before it were to other commands than it seemed.
        let in_step = all_answered && matches!(why, Error::Disconnected { .. });
        match sent.ended.take() {
            Some(Ok(ScriptEnd::Whole)) if in_step => Ok(tally),
            Some(Ok(ScriptEnd::InsideBody { line })) if in_step => Err(FeedError::InsideBody { line, tally }),
            Some(Err(source)) if in_step => Err(FeedError::Input { source, tally }),
            _ => {
                // A command can be refused before its body is sent whole; where that ends, nobody knows then.
                let cut_off = tally.answered > sent.whole;
                let behind_the_last = if cut_off { self.last_line } else { sent.next_line };
                let unanswered = if all_answered { None } else { self.lines.next() };
                Err(FeedError::Lost(Lost {
                    why,
                    sent: sent.whole.max(tally.answered),
                    answered: tally.answered,
                    refused: tally.refused,
                    next_line: unanswered.unwrap_or(behind_the_last),
                    last_line_sent: sent.next_line - 1,
                }))
            }
        }
    }
}

/// An answer that no command asked for. A server that has no room for one more connection sends a refusal.
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
    fn account_of_a_lost_connection_reads_well() {
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
