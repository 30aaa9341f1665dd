//! Cuts a connection's bytes into commands: finds the lines, skips what is refused without keeping it, and
//! refuses HTTP. The dialects know what a line means. It uses no socket and keeps no bytes.

use memchr::{memchr, memmem};

use super::{Command, Dialect, beanstalk, native};
use crate::error::Refusal;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// The largest body, in bytes.
    pub body_max: usize,
}

impl FrameLimits {
    /// The most bytes that [`Decoder::next`] has to be given at once, whatever the client sends: a header,
    /// the space behind its colon, a body, and their line ends.
    pub fn frame_max(&self) -> usize {
        self.body_max.saturating_add(HEADER_BYTES_MAX + 4)
    }
}

impl Default for FrameLimits {
    /// Bodies of at most 65,535 bytes, as beanstalkd's `-z` has it.
    fn default() -> Self {
        FrameLimits { body_max: 65_535 }
    }
}

/// The longest header, in bytes without its LF: verb, arguments and options, up to and including the colon.
pub const HEADER_BYTES_MAX: usize = 4096;

/// What [`Decoder::next`] found at the start of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// No whole command yet: read more, and pass the same bytes again with the new ones behind them.
    Incomplete,
    /// These bytes belong to a refused command: drop them without a reply.
    Skip {
        /// How many bytes to drop.
        consumed: usize,
    },
    /// A whole command.
    Command {
        /// How many bytes to drop.
        consumed: usize,
        /// The command.
        command: Command,
        /// The dialect of the reply.
        dialect: Dialect,
    },
    /// A command that can't be executed.
    Refused {
        /// How many bytes to drop.
        consumed: usize,
        /// Why.
        refusal: Refusal,
        /// The dialect of the reply.
        dialect: Dialect,
        /// Whether the parser can't find the next command, so that the connection has to close after the
        /// reply.
        close: bool,
    },
    /// An HTTP request: send these bytes as they are, and close. Execute nothing more.
    Farewell {
        /// What to send.
        text: &'static [u8],
    },
}

/// What is sent to a client that speaks HTTP.
const HTTP_FAREWELL: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 114\r\n\
    Connection: close\r\n\
    \r\n\
    This port speaks the DJQS job queue protocol, one command a line, not HTTP.\n\
    Nothing of this request was executed.\n";

/// Cuts a connection's bytes into commands. It keeps no bytes, only its place within a skipped command.
///
/// After a [`Step::Farewell`], or a [`Step::Refused`] that closes, it skips everything.
#[derive(Debug)]
pub struct Decoder {
    limits: FrameLimits,
    skipping: Skipping,
    /// How far the unfinished line at the start of the buffer has been searched for its LF, so that a line
    /// that arrives byte by byte is not searched from its start each time.
    searched: usize,
    /// How many bytes the buffer must have before another look can succeed: the header has been read, and its
    /// body has not arrived.
    wanted: usize,
    /// Whether the line before was in the beanstalkd dialect. A line that could be of either gets its reply
    /// in that one.
    beanstalkd: bool,
}

#[derive(Debug)]
enum Skipping {
    Nothing,
    /// An overlong line, up to and including its LF; then it is refused.
    Line(Oversize),
    /// The body of a refused command: this many bytes of it are left.
    Body(u64),
    /// The line end behind such a body.
    BodyEnd,
    /// This many bytes that belong to a refused command.
    Bytes(u64),
    /// The LF behind the last of those, if that was a CR: the body was a byte longer than its size.
    StrayLf,
    /// Everything: the connection is about to close.
    Rest,
}

/// What a dialect finds in a line and the bytes behind it.
pub(super) enum Decoded {
    /// A command, and how many bytes behind the line belong to it.
    Command { command: Command, behind: usize },
    /// The body has not arrived: it needs at least this many bytes behind the line.
    Incomplete { wanted: usize },
    /// No command.
    Refused { refusal: Refusal, guarded: bool, then: Then },
}

/// What follows a refused command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next line is the next command.
    GoOn,
    /// This many bytes of body and a line end, then the next command.
    SkipBody(u64),
    /// This many bytes of any kind, then the next command.
    SkipBytes(u64),
    /// The start of the next command can't be found.
    Close,
}

/// A line that is refused for its size. Its reply is sent after its end, because only its end shows whether
/// it is an HTTP request.
#[derive(Debug)]
pub(super) struct Oversize {
    pub(super) refusal: Refusal,
    pub(super) dialect: Dialect,
    /// Whether the HTTP guard looks at its end.
    pub(super) guarded: bool,
    pub(super) close: bool,
    /// Whether a `len=` anywhere in it hides the start of the next command.
    pub(super) len_closes: bool,
}

impl Oversize {
    /// Looks for `len=` in a part of the line. Parts must overlap by [`TAIL`] bytes.
    fn look_at(&mut self, part: &[u8]) {
        self.close |= self.len_closes && memmem::find(part, b" len=").is_some();
    }

    /// The refusal, once the whole line has been seen.
    pub(super) fn refused(mut self, line: &[u8]) -> Decoded {
        self.look_at(line);
        let then = if self.close { Then::Close } else { Then::GoOn };
        Decoded::Refused { refusal: self.refusal, guarded: self.guarded, then }
    }
}

/// How many bytes at the end of a skipped line are kept: enough for ` HTTP/1.1` and a CR before the LF.
const TAIL: usize = 10;

impl Decoder {
    /// A decoder at the beginning of a connection.
    pub fn new(limits: FrameLimits) -> Decoder {
        Decoder { limits, skipping: Skipping::Nothing, searched: 0, wanted: 0, beanstalkd: false }
    }

    /// Looks at the bytes that have arrived and have not been dropped.
    ///
    /// The caller drops as many bytes as the step says, and calls again until it gets [`Step::Incomplete`].
    /// Then it reads more, and passes the same bytes with the new ones behind them. It never has to keep more
    /// than [`FrameLimits::frame_max`] bytes. The commands and refusals don't depend on how the bytes are cut
    /// into reads.
    pub fn next(&mut self, buf: &[u8]) -> Step {
        if let Skipping::Nothing = self.skipping {
            return self.next_line(buf);
        }
        match std::mem::replace(&mut self.skipping, Skipping::Nothing) {
            Skipping::Nothing => self.next_line(buf),
            Skipping::Line(oversize) => self.skip_line(oversize, buf),
            Skipping::Body(left) => self.skip_body(left, buf),
            Skipping::BodyEnd => self.skip_body_end(buf),
            Skipping::Bytes(left) => self.skip_bytes(left, buf),
            Skipping::StrayLf => self.skip_stray_lf(buf),
            Skipping::Rest => self.skip_rest(buf),
        }
    }

    /// Whether a command has begun and not ended, given the bytes that [`Decoder::next`] called incomplete.
    /// The deadline for slow senders depends on it.
    pub fn is_midway(&self, buf: &[u8]) -> bool {
        !buf.is_empty()
            || matches!(
                self.skipping,
                Skipping::Line(_) | Skipping::Body(_) | Skipping::BodyEnd | Skipping::Bytes(_)
            )
    }

    fn next_line(&mut self, buf: &[u8]) -> Step {
        if buf.len() < self.wanted {
            return Step::Incomplete;
        }
        let Some(found) = memchr(b'\n', &buf[self.searched..]) else {
            return self.unfinished(buf);
        };
        let end = self.searched + found;
        self.beanstalkd = is_beanstalkd(&buf[..end], self.beanstalkd);
        let line = without_cr(&buf[..end]);
        let (dialect, decoded) = if self.beanstalkd {
            let (verb, decoded) = beanstalk::decode(line, &buf[end + 1..], &self.limits);
            (Dialect::Beanstalk(verb), decoded)
        } else {
            (Dialect::Native, native::decode(line, &buf[end + 1..], &self.limits))
        };
        if let Decoded::Incomplete { wanted } = decoded {
            self.wanted = end + 1 + wanted;
            return Step::Incomplete;
        }
        self.searched = 0;
        self.wanted = 0;
        match decoded {
            Decoded::Command { command, behind } => {
                Step::Command { consumed: end + 1 + behind, command, dialect }
            }
            Decoded::Refused { guarded: true, .. } if ends_in_http(line) => self.farewell(),
            Decoded::Refused { refusal, then, .. } => self.refused(end + 1, refusal, dialect, then),
            Decoded::Incomplete { .. } => Step::Incomplete,
        }
    }

    /// A line whose LF has not arrived: it is incomplete, or too long already.
    fn unfinished(&mut self, buf: &[u8]) -> Step {
        let oversize = if begins_beanstalkd(buf, self.beanstalkd) {
            beanstalk::outgrown(buf)
        } else {
            native::outgrown(buf, self.searched, &self.limits)
        };
        self.searched = buf.len();
        match oversize {
            None => Step::Incomplete,
            Some(oversize) => {
                self.searched = 0;
                self.skip_line(oversize, buf)
            }
        }
    }

    fn skip_line(&mut self, mut oversize: Oversize, buf: &[u8]) -> Step {
        let Some(end) = memchr(b'\n', buf) else {
            let consumed = buf.len().saturating_sub(TAIL);
            if consumed > 0 {
                oversize.look_at(buf);
            }
            self.skipping = Skipping::Line(oversize);
            return if consumed > 0 { Step::Skip { consumed } } else { Step::Incomplete };
        };
        let line = without_cr(&buf[..end]);
        oversize.look_at(line);
        if oversize.guarded && ends_in_http(line) {
            return self.farewell();
        }
        let then = if oversize.close { Then::Close } else { Then::GoOn };
        self.refused(end + 1, oversize.refusal, oversize.dialect, then)
    }

    fn skip_body(&mut self, left: u64, buf: &[u8]) -> Step {
        let (consumed, left) = passed_over(left, buf);
        self.skipping = if left > 0 { Skipping::Body(left) } else { Skipping::BodyEnd };
        match consumed {
            0 if left > 0 => Step::Incomplete,
            0 => self.next(buf),
            _ => Step::Skip { consumed },
        }
    }

    fn skip_bytes(&mut self, left: u64, buf: &[u8]) -> Step {
        let (consumed, left) = passed_over(left, buf);
        self.skipping = match buf[..consumed].last() {
            _ if left > 0 => Skipping::Bytes(left),
            Some(b'\r') => Skipping::StrayLf,
            _ => Skipping::Nothing,
        };
        if consumed > 0 { Step::Skip { consumed } } else { Step::Incomplete }
    }

    fn skip_stray_lf(&mut self, buf: &[u8]) -> Step {
        match buf {
            [] => {
                self.skipping = Skipping::StrayLf;
                Step::Incomplete
            }
            [b'\n', ..] => Step::Skip { consumed: 1 },
            _ => self.next_line(buf),
        }
    }

    fn skip_body_end(&mut self, buf: &[u8]) -> Step {
        match buf {
            [] | [b'\r'] => {
                self.skipping = Skipping::BodyEnd;
                Step::Incomplete
            }
            [b'\n', ..] => Step::Skip { consumed: 1 },
            [b'\r', b'\n', ..] => Step::Skip { consumed: 2 },
            _ => self.refused(1, native::no_line_end(), Dialect::Native, Then::Close),
        }
    }

    fn skip_rest(&mut self, buf: &[u8]) -> Step {
        self.skipping = Skipping::Rest;
        if buf.is_empty() { Step::Incomplete } else { Step::Skip { consumed: buf.len() } }
    }

    fn refused(&mut self, consumed: usize, refusal: Refusal, dialect: Dialect, then: Then) -> Step {
        self.beanstalkd = dialect != Dialect::Native;
        self.skipping = match then {
            Then::GoOn => Skipping::Nothing,
            Then::SkipBody(bytes) => Skipping::Body(bytes),
            Then::SkipBytes(bytes) => Skipping::Bytes(bytes),
            Then::Close => Skipping::Rest,
        };
        Step::Refused { consumed, refusal, dialect, close: then == Then::Close }
    }

    fn farewell(&mut self) -> Step {
        self.skipping = Skipping::Rest;
        Step::Farewell { text: HTTP_FAREWELL }
    }
}

/// Whether a line, given without its LF, is read in the beanstalkd dialect; `before` says it of the line
/// before. A program that forwards lines needs this to know what follows each of them.
pub(crate) fn is_beanstalkd(line: &[u8], before: bool) -> bool {
    // A lower-case word that is no verb and ends in LF alone was probably typed, so explain more.
    let is_word = line.first().is_some_and(u8::is_ascii_lowercase);
    let typed = is_word && line.last() != Some(&b'\r');
    begins_beanstalkd(line, before) && !(typed && beanstalk::is_nothing(line))
}

/// Whether a line that begins with these bytes can be in the beanstalkd dialect, whose verbs are in lower
/// case. A line that begins with no letter is in the dialect of the line before.
fn begins_beanstalkd(line: &[u8], before: bool) -> bool {
    match line.first() {
        Some(b'a'..=b'z') => true,
        Some(b'A'..=b'Z') => false,
        _ => before,
    }
}

/// How many of these bytes belong to the `left` bytes to skip, and how many of those have not arrived.
fn passed_over(left: u64, buf: &[u8]) -> (usize, u64) {
    let consumed = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    (consumed, left - consumed as u64)
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether the last word is that of an HTTP request's first line. A hostile page can make a browser send such
/// a request here, with lines of its choice in the path and the body.
pub(super) fn ends_in_http(line: &[u8]) -> bool {
    let Some(before) = line.strip_suffix(b"HTTP/1.1").or_else(|| line.strip_suffix(b"HTTP/1.0")) else {
        return false;
    };
    before.last().is_none_or(|byte| *byte == b' ')
}
