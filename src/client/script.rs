//! Splits a text of commands into chunks to send. It finds where each command begins and ends, and drops
//! blank lines and comments. It does not know what a command means: the server decides that.
//!
//! A command's bytes are sent unchanged. A long one is sent in parts, so that memory use does not depend on
//! the length of a line or a body.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};

use super::{WRITE_BYTES, WRITE_COMMANDS_MAX};
use crate::protocol::native::body_behind;
use crate::protocol::{HEADER_BYTES_MAX, is_beanstalkd};

/// The size of the read buffer. It is larger than the longest header, so that a header always fits.
const BUFFER_BYTES: usize = 128 * 1024;
const _: () = assert!(BUFFER_BYTES > HEADER_BYTES_MAX + HELD_BODY_BYTES_MAX + 4);

/// A body of up to this size is sent only once all of it has been read. Input may be slow, and a server
/// disconnects a client that takes too long to complete a command.
const HELD_BODY_BYTES_MAX: usize = 64 * 1024;

/// Reads a text of commands.
pub(super) struct Script<R> {
    input: R,
    /// The read buffer. The bytes from `start` to `end` have not been dealt with.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    input_ended: bool,
    /// The number of the line that `start` is on, counted from 1.
    line: u64,
    position: Position,
    /// The line on which the last command begins.
    begun: u64,
    /// Whether the server reads that line in the beanstalkd dialect, in which `len=` means nothing.
    beanstalkd: bool,
}

/// What the unread bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// A new line.
    Outside,
    /// The rest of a comment that does not fit into the buffer.
    Comment,
    /// The rest of a command's line that does not fit into the buffer. A body of this size may follow the
    /// line.
    Line { body: Option<u64> },
    /// The rest of a body that follows its line: this many bytes, and then an LF.
    Body { left: u64 },
}

/// Commands to send in one write.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// What to send.
    pub(super) bytes: Vec<u8>,
    /// The line number of each command that begins in this chunk.
    pub(super) begins: Vec<u64>,
    /// The end of each command that ends in this chunk.
    pub(super) ends: Vec<End>,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// How many bytes of the chunk must be sent to complete the command.
    pub(super) offset: usize,
    /// The number of the line after the command.
    pub(super) next_line: u64,
}

/// How a script ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScriptEnd {
    /// After a complete command, or with the line `QUIT`.
    Whole,
    /// Inside the body of the command that begins on this line.
    InsideBody { line: u64 },
}

/// The result of looking at the unread bytes.
enum Step {
    /// Some of them have been dealt with.
    Forward,
    /// More bytes must be read first.
    Starved,
    /// The text has ended.
    Ended(ScriptEnd),
}

impl<R: Read> Script<R> {
    /// Reads commands from `input`, whose first line is line 1.
    pub(super) fn new(input: R) -> Script<R> {
        let bytes = vec![0; BUFFER_BYTES];
        let position = Position::Outside;
        Script {
            input,
            bytes,
            start: 0,
            end: 0,
            input_ended: false,
            line: 1,
            position,
            begun: 1,
            beanstalkd: false,
        }
    }

    /// Whether the last command that was sent is complete, so that another one can follow.
    pub(super) fn is_outside(&self) -> bool {
        self.position == Position::Outside
    }

    /// Fills the chunk with the next commands, up to a limit. Blocks only if no part of a command has been
    /// read. `Some` if the text has ended; the chunk is then empty.
    ///
    /// # Errors
    /// Reading the input failed.
    pub(super) fn next_chunk(&mut self, chunk: &mut Chunk) -> io::Result<Option<ScriptEnd>> {
        chunk.bytes.clear();
        chunk.begins.clear();
        chunk.ends.clear();
        while !chunk.is_full() {
            match self.step(chunk) {
                Step::Forward => {}
                _ if !chunk.bytes.is_empty() => break,
                Step::Starved => self.read()?,
                Step::Ended(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> io::Result<()> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = loop {
            match self.input.read(&mut self.bytes[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.end += read;
        self.input_ended = read == 0;
        Ok(())
    }

    fn step(&mut self, chunk: &mut Chunk) -> Step {
        match self.position {
            Position::Outside => self.next_line(chunk),
            Position::Comment => self.skip_comment(),
            Position::Line { body } => self.pass_line(chunk, body),
            Position::Body { left: 0 } => self.leave_body(chunk),
            Position::Body { left } => self.pass_body(chunk, left),
        }
    }

    fn next_line(&mut self, chunk: &mut Chunk) -> Step {
        let unread = &self.bytes[self.start..self.end];
        let (length, lf) = match memchr(b'\n', unread) {
            Some(length) => (length, 1),
            None if self.input_ended && unread.is_empty() => return Step::Ended(ScriptEnd::Whole),
            None if self.input_ended => (unread.len(), 0),
            None if unread.len() < BUFFER_BYTES => return Step::Starved,
            None => return self.begin_long_line(chunk),
        };
        let line = &unread[..length];
        match line.trim_ascii() {
            b"" => {}
            b"QUIT" => {
                self.input_ended = true;
                self.start = self.end;
                return Step::Ended(ScriptEnd::Whole);
            }
            _ if line[0] == b'#' => {}
            _ => {
                let beanstalkd = is_beanstalkd(line, self.beanstalkd);
                let body = if beanstalkd { None } else { body_behind(line) };
                if body.is_some_and(|size| is_held(size, unread.len() - length - lf)) {
                    let end = ScriptEnd::InsideBody { line: self.line };
                    return self.starved_or_ended(end);
                }
                self.begun = self.line;
                self.beanstalkd = beanstalkd;
                chunk.begins.push(self.line);
                chunk.bytes.extend_from_slice(line);
                chunk.bytes.push(b'\n');
                match body {
                    Some(left) => self.position = Position::Body { left },
                    None => chunk.end(self.line + 1),
                }
            }
        }
        self.start += length + lf;
        self.line += 1;
        Step::Forward
    }

    /// A line that does not fit into the buffer.
    fn begin_long_line(&mut self, chunk: &mut Chunk) -> Step {
        let sight = &self.bytes[self.start..self.end];
        if sight[0] == b'#' {
            self.position = Position::Comment;
        } else {
            self.begun = self.line;
            chunk.begins.push(self.line);
            self.beanstalkd = is_beanstalkd(sight, self.beanstalkd);
            let body = if self.beanstalkd { None } else { body_behind(sight) };
            self.position = Position::Line { body };
        }
        Step::Forward
    }

    fn skip_comment(&mut self) -> Step {
        let Some(length) = memchr(b'\n', &self.bytes[self.start..self.end]) else {
            self.start = self.end;
            return self.starved_or_ended(ScriptEnd::Whole);
        };
        self.start += length + 1;
        self.line += 1;
        self.position = Position::Outside;
        Step::Forward
    }

    fn pass_line(&mut self, chunk: &mut Chunk, body: Option<u64>) -> Step {
        let unread = &self.bytes[self.start..self.end];
        let length = match memchr(b'\n', unread) {
            Some(length) => length + 1,
            None if unread.is_empty() && !self.input_ended => return Step::Starved,
            None if !self.input_ended => {
                chunk.bytes.extend_from_slice(unread);
                self.start = self.end;
                return Step::Forward;
            }
            None => unread.len(),
        };
        let line = &unread[..length];
        chunk.bytes.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        chunk.bytes.push(b'\n');
        self.start += length;
        self.line += 1;
        match body {
            Some(left) => self.position = Position::Body { left },
            None => self.leave_command(chunk),
        }
        Step::Forward
    }

    fn pass_body(&mut self, chunk: &mut Chunk, left: u64) -> Step {
        let unread = &self.bytes[self.start..self.end];
        if unread.is_empty() {
            return self.starved_or_ended(ScriptEnd::InsideBody { line: self.begun });
        }
        let part = &unread[..unread.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        chunk.bytes.extend_from_slice(part);
        self.start += part.len();
        self.line += memchr_iter(b'\n', part).count() as u64;
        self.position = Position::Body { left: left - part.len() as u64 };
        Step::Forward
    }

    /// The LF after a body. If something else follows, `len` was wrong. It is sent too: the server refuses it
    /// and closes.
    fn leave_body(&mut self, chunk: &mut Chunk) -> Step {
        let length = match &self.bytes[self.start..self.end] {
            [] | [b'\r'] if !self.input_ended => return Step::Starved,
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => self.end - self.start,
            _ => {
                self.leave_command(chunk);
                return Step::Forward;
            }
        };
        chunk.bytes.push(b'\n');
        self.start += length;
        self.line += 1;
        self.leave_command(chunk);
        Step::Forward
    }

    fn leave_command(&mut self, chunk: &mut Chunk) {
        chunk.end(self.line);
        self.position = Position::Outside;
    }

    fn starved_or_ended(&self, end: ScriptEnd) -> Step {
        if self.input_ended { Step::Ended(end) } else { Step::Starved }
    }
}

/// Whether a command waits until the rest of its body has been read.
fn is_held(size: u64, read: usize) -> bool {
    size <= HELD_BODY_BYTES_MAX as u64 && (read as u64) < size
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.begins.len() >= WRITE_COMMANDS_MAX || self.bytes.len() >= WRITE_BYTES
    }

    fn end(&mut self, next_line: u64) {
        self.ends.push(End { offset: self.bytes.len(), next_line });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{Decoder, FrameLimits, Step as Decoded};

    /// Gives at most this many bytes per read.
    struct Bites<'a>(&'a [u8], usize);

    impl Read for Bites<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let most = buf.len().min(self.1);
            self.0.read(&mut buf[..most])
        }
    }

    /// Everything that a script sends: the bytes, the line of each command, the line after each, and the end.
    fn all(input: impl Read) -> (Vec<u8>, Vec<u64>, Vec<u64>, ScriptEnd) {
        let mut script = Script::new(input);
        let (mut bytes, mut begins, mut next_lines) = (Vec::new(), Vec::new(), Vec::new());
        let mut chunk = Chunk::default();
        loop {
            if let Some(end) = script.next_chunk(&mut chunk).unwrap() {
                return (bytes, begins, next_lines, end);
            }
            assert!(chunk.ends.iter().all(|end| end.offset <= chunk.bytes.len()));
            bytes.extend_from_slice(&chunk.bytes);
            begins.extend_from_slice(&chunk.begins);
            next_lines.extend(chunk.ends.iter().map(|end| end.next_line));
        }
    }

    #[track_caller]
    fn check(input: &[u8], sent: &[u8], begins: &[u64], next_lines: &[u64], end: ScriptEnd) {
        for bite in [1, 7, usize::MAX] {
            let outcome = all(Bites(input, bite));
            let expected = (sent.to_vec(), begins.to_vec(), next_lines.to_vec(), end);
            assert!(outcome == expected, "{bite} bytes a read: {} {:?}", outcome.0.escape_ascii(), &outcome);
        }
    }

    #[test]
    fn blank_lines_and_comments_are_dropped_but_counted() {
        let input = b"# tasks\n\nPING\n \t\r\n#\n PING\n";
        check(input, b"PING\n PING\n", &[3, 6], &[4, 7], ScriptEnd::Whole);
    }

    #[test]
    fn last_line_without_lf_is_sent_with_one() {
        check(b"PING\nSTATS", b"PING\nSTATS\n", &[1, 2], &[2, 3], ScriptEnd::Whole);
        check(b"TASK len=2:\nab", b"TASK len=2:\nab\n", &[1], &[3], ScriptEnd::Whole);
        check(b"TASK len=2:\nab\r", b"TASK len=2:\nab\n", &[1], &[3], ScriptEnd::Whole);
        check(b"# nothing", b"", &[], &[], ScriptEnd::Whole);
    }

    #[test]
    fn body_after_its_line_is_sent_unchanged() {
        let input = b"PING\nTASK len=11:\r\n\n# a\n\nQUIT\n\nPING len=1\n#\nPING\n";
        let sent = b"PING\nTASK len=11:\r\n\n# a\n\nQUIT\n\nPING len=1\n#\nPING\n";
        check(input, sent, &[1, 2, 8, 10], &[2, 8, 10, 11], ScriptEnd::Whole);
    }

    #[test]
    fn len_in_a_body_is_no_option() {
        check(
            b"TASK: len=9\nTASK key=k: len=9:\n",
            b"TASK: len=9\nTASK key=k: len=9:\n",
            &[1, 2],
            &[2, 3],
            ScriptEnd::Whole,
        );
    }

    #[test]
    fn no_body_follows_a_line_that_the_server_reads_as_beanstalkds() {
        check(b"len= len=0\r", b"len= len=0\r\n", &[1], &[2], ScriptEnd::Whole);
        // A line that begins with no letter is in the dialect of the line before.
        let input = b"x len=4:\r\n7 len=4:\r\nPING\n7 len=4:\r\nbody\n";
        check(input, input, &[1, 2, 3, 4], &[2, 3, 4, 6], ScriptEnd::Whole);
        // A lower-case word that ends in an LF alone is a mistake in the native dialect.
        let input = b"x len=4:\r\ntask len=4:\nbody\n7 len=4:\nbody\n";
        check(input, input, &[1, 2, 4], &[2, 4, 6], ScriptEnd::Whole);
    }

    #[test]
    fn quit_ends_the_script() {
        check(b"PING\n QUIT \r\nPING\n", b"PING\n", &[1], &[2], ScriptEnd::Whole);
    }

    #[test]
    fn script_that_ends_inside_a_body_names_the_line_of_the_command() {
        let end = ScriptEnd::InsideBody { line: 2 };
        check(b"PING\nTASK len=5:\nab\n", b"PING\n", &[1], &[2], end);
        check(b"PING\nTASK len=5:\n", b"PING\n", &[1], &[2], end);
        check(
            b"PING\nTASK len=18446744073709551615:",
            b"PING\nTASK len=18446744073709551615:\n",
            &[1, 2],
            &[2],
            end,
        );
    }

    #[test]
    fn body_longer_than_its_len_is_left_to_the_server() {
        check(
            b"TASK len=2:\nabc\nPING\n",
            b"TASK len=2:\nabc\nPING\n",
            &[1, 2, 3],
            &[2, 3, 4],
            ScriptEnd::Whole,
        );
    }

    #[test]
    fn lines_and_bodies_larger_than_the_buffer_are_sent_in_parts() {
        let long = "x".repeat(3 * BUFFER_BYTES + 17);
        let input = format!("TASK: {long}\n#{long}\nTASK len={}:\n{long}\n\n{long}", long.len());
        let sent = format!("TASK: {long}\nTASK len={}:\n{long}\n{long}\n", long.len());
        for bite in [1 << 16, usize::MAX] {
            let outcome = all(Bites(input.as_bytes(), bite));
            assert!(outcome.0 == sent.as_bytes());
            assert_eq!((outcome.1, outcome.2, outcome.3), (vec![1, 3, 6], vec![2, 5, 7], ScriptEnd::Whole));
        }
    }

    #[test]
    fn chunk_is_limited_in_commands() {
        let mut script = Script::new(Cursor::new("PING\n".repeat(WRITE_COMMANDS_MAX + 1)));
        let mut chunk = Chunk::default();
        assert_eq!(script.next_chunk(&mut chunk).unwrap(), None);
        assert_eq!(chunk.begins.len(), WRITE_COMMANDS_MAX);
        assert_eq!(script.next_chunk(&mut chunk).unwrap(), None);
        assert_eq!(chunk.begins, [WRITE_COMMANDS_MAX as u64 + 1]);
    }

    proptest! {
        /// Each command gets one reply, and the client matches replies to commands by counting: client and
        /// server must agree on what a command is.
        #[test]
        fn server_sees_as_many_commands_as_were_sent(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "PING", "TASK", ":", " ", "len=", "2", "0", "\n", "\r", "ab", "#", "x", "key=",
                    "GET / HTTP/1.1", "QUIT",
                ]),
                0..40,
            ),
            bite in 1usize..9,
        ) {
            let text = parts.concat();
            let (bytes, begins, next_lines, _) = all(Bites(text.as_bytes(), bite));
            prop_assert!(begins.is_sorted() && next_lines.is_sorted());
            let mut decoder = Decoder::new(FrameLimits::default());
            let (mut rest, mut replies) = (&bytes[..], 0);
            let closed = loop {
                let consumed = match decoder.next(rest) {
                    Decoded::Incomplete => break false,
                    Decoded::Farewell { .. } | Decoded::Refused { close: true, .. } => break true,
                    Decoded::Skip { consumed } => consumed,
                    Decoded::Command { consumed, .. } | Decoded::Refused { consumed, .. } => {
                        replies += 1;
                        consumed
                    }
                };
                rest = &rest[consumed..];
            };
            if closed {
                prop_assert!(replies < begins.len(), "{replies} of {begins:?} in {text:?}");
            } else {
                // A command that the input cut off is answered only if its header is refused already.
                let cut_off = begins.len() - next_lines.len();
                let whole = next_lines.len();
                prop_assert!((whole..=whole + cut_off).contains(&replies), "{replies} in {text:?}");
            }
        }
    }
}
