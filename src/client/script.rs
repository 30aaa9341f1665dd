//! Cuts a text of commands into what is sent: knows where each command begins and ends, and leaves out blank lines and
//! comments. What a command means is the server's business.
//!
//! The bytes of a command are passed on as they are, in parts if it is long, so that neither a line nor a body
//! of any length is held in memory whole.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};

use super::{WRITE_BYTES, WRITE_COMMANDS_MAX};
use crate::protocol::HEADER_BYTES_MAX;
use crate::protocol::native::body_behind;

/// How much is read at a time. More than the longest header, so that a header is always seen whole.
const ROOM_BYTES: usize = 128 * 1024;
const _: () = assert!(ROOM_BYTES > HEADER_BYTES_MAX);

/// A text of commands that is being read.
pub(super) struct Script<R> {
    input: R,
    /// Bytes from `start` to `end` are unread; the rest is room.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    input_ended: bool,
    /// The number of the line that `start` is on, counted from 1.
    line: u64,
    place: Place,
    /// The line that the last command begins on.
    begun: u64,
}

/// Where the unread bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a command.
    Outside,
    /// In a comment too long to be seen whole.
    Comment,
    /// In a command's line too long to be seen whole, with so many bytes of body behind it.
    Line { body: Option<u64> },
    /// In a body that comes behind its line: so many bytes of it are left, and then its LF.
    Body { left: u64 },
}

/// Commands to be sent in one write.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// What to send.
    pub(super) bytes: Vec<u8>,
    /// For each command that begins in it: the line that it is on.
    pub(super) begins: Vec<u64>,
    /// Where commands end in it.
    pub(super) ends: Vec<End>,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// How much of the batch has to be sent for the command to be whole.
    pub(super) offset: usize,
    /// The number of the line behind the command.
    pub(super) next_line: u64,
}

/// How a script ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Behind a command, or with the line `QUIT`.
    Whole,
    /// Inside the body of the command that begins on this line.
    InsideBody { line: u64 },
}

/// What came of looking at the unread bytes.
enum Step {
    /// Some of them are dealt with.
    Forward,
    /// More have to come first.
    Starved,
    /// There is nothing more.
    Ended(Ending),
}

impl<R: Read> Script<R> {
    /// A text of commands, from its first line.
    pub(super) fn new(input: R) -> Script<R> {
        let bytes = vec![0; ROOM_BYTES];
        let place = Place::Outside;
        Script { input, bytes, start: 0, end: 0, input_ended: false, line: 1, place, begun: 1 }
    }

    /// Whether a command that is sent now would be taken for one.
    pub(super) fn is_outside(&self) -> bool {
        self.place == Place::Outside
    }

    /// Puts the next commands into the batch: those that have come already, up to a limit. Blocks only where there is
    /// none. `Some` where the script has ended; the batch is then empty.
    ///
    /// # Errors
    /// The input's.
    pub(super) fn next_batch(&mut self, batch: &mut Batch) -> io::Result<Option<Ending>> {
        batch.bytes.clear();
        batch.begins.clear();
        batch.ends.clear();
        while !batch.is_full() {
            match self.step(batch) {
                Step::Forward => {}
                _ if !batch.bytes.is_empty() => break,
                Step::Starved => self.read()?,
                Step::Ended(ending) => return Ok(Some(ending)),
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

    fn step(&mut self, batch: &mut Batch) -> Step {
        match self.place {
            Place::Outside => self.next_line(batch),
            Place::Comment => self.skip_comment(),
            Place::Line { body } => self.pass_line(batch, body),
            Place::Body { left: 0 } => self.leave_body(batch),
            Place::Body { left } => self.pass_body(batch, left),
        }
    }

    fn next_line(&mut self, batch: &mut Batch) -> Step {
        let unread = &self.bytes[self.start..self.end];
        let (length, lf) = match memchr(b'\n', unread) {
            Some(length) => (length, 1),
            None if self.input_ended && unread.is_empty() => return Step::Ended(Ending::Whole),
            None if self.input_ended => (unread.len(), 0),
            None if unread.len() < ROOM_BYTES => return Step::Starved,
            None => return self.begin_long_line(batch),
        };
        let line = &unread[..length];
        match line.trim_ascii() {
            b"" => {}
            b"QUIT" => {
                self.input_ended = true;
                self.start = self.end;
                return Step::Ended(Ending::Whole);
            }
            _ if line[0] == b'#' => {}
            _ => {
                self.begun = self.line;
                batch.begins.push(self.line);
                batch.bytes.extend_from_slice(line);
                batch.bytes.push(b'\n');
                match body_behind(line) {
                    Some(left) => self.place = Place::Body { left },
                    None => batch.end(self.line + 1),
                }
            }
        }
        self.start += length + lf;
        self.line += 1;
        Step::Forward
    }

    /// A line that fills the whole room, and goes on.
    fn begin_long_line(&mut self, batch: &mut Batch) -> Step {
        let sight = &self.bytes[self.start..self.end];
        if sight[0] == b'#' {
            self.place = Place::Comment;
        } else {
            self.begun = self.line;
            batch.begins.push(self.line);
            self.place = Place::Line { body: body_behind(sight) };
        }
        Step::Forward
    }

    fn skip_comment(&mut self) -> Step {
        let Some(length) = memchr(b'\n', &self.bytes[self.start..self.end]) else {
            self.start = self.end;
            return self.starved_or_ended(Ending::Whole);
        };
        self.start += length + 1;
        self.line += 1;
        self.place = Place::Outside;
        Step::Forward
    }

    fn pass_line(&mut self, batch: &mut Batch, body: Option<u64>) -> Step {
        let unread = &self.bytes[self.start..self.end];
        let length = match memchr(b'\n', unread) {
            Some(length) => length + 1,
            None if unread.is_empty() && !self.input_ended => return Step::Starved,
            None if !self.input_ended => {
                batch.bytes.extend_from_slice(unread);
                self.start = self.end;
                return Step::Forward;
            }
            None => unread.len(),
        };
        let line = &unread[..length];
        batch.bytes.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        batch.bytes.push(b'\n');
        self.start += length;
        self.line += 1;
        match body {
            Some(left) => self.place = Place::Body { left },
            None => self.leave_command(batch),
        }
        Step::Forward
    }

    fn pass_body(&mut self, batch: &mut Batch, left: u64) -> Step {
        let unread = &self.bytes[self.start..self.end];
        if unread.is_empty() {
            return self.starved_or_ended(Ending::InsideBody { line: self.begun });
        }
        let part = &unread[..unread.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        batch.bytes.extend_from_slice(part);
        self.start += part.len();
        self.line += memchr_iter(b'\n', part).count() as u64;
        self.place = Place::Body { left: left - part.len() as u64 };
        Step::Forward
    }

    /// The LF behind a body. Where something else stands there, `len` was wrong: it is passed on all the same, for the server
    /// to refuse and close.
    fn leave_body(&mut self, batch: &mut Batch) -> Step {
        let length = match &self.bytes[self.start..self.end] {
            [] | [b'\r'] if !self.input_ended => return Step::Starved,
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => self.end - self.start,
            _ => {
                self.leave_command(batch);
                return Step::Forward;
            }
        };
        batch.bytes.push(b'\n');
        self.start += length;
        self.line += 1;
        self.leave_command(batch);
        Step::Forward
    }

    fn leave_command(&mut self, batch: &mut Batch) {
        batch.end(self.line);
        self.place = Place::Outside;
    }

    fn starved_or_ended(&self, ending: Ending) -> Step {
        if self.input_ended { Step::Ended(ending) } else { Step::Starved }
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.begins.len() >= WRITE_COMMANDS_MAX || self.bytes.len() >= WRITE_BYTES
    }

    fn end(&mut self, next_line: u64) {
        self.ends.push(End { offset: self.bytes.len(), next_line });
    }
}
