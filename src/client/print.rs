//! Prints replies: unchanged, as JSON, or only the refusals.

use std::io::{self, Write};

use super::feed::{Sink, Tally};
use super::json;
use crate::protocol::native::Answer;

/// How replies are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Unchanged.
    Wire,
    /// Each as a JSON object on one line. It always has `line` (the line on which the command begins), `ok`
    /// (whether the command was executed) and `reply` (the reply's first word). Then come the parts of the
    /// reply: `id`, `duplicate`, `state`, `queue`, `attempt`, `ttr_ms`, …, and `body`, or `body_base64` if
    /// the body is not UTF-8; `retry_ms`, `dead`, `count`, and `lines` (an array of strings, or of LIST's
    /// objects); for a refusal `code`, `retry_after_ms` and `text`.
    Json,
    /// Not at all.
    Nothing,
}

/// A [`Sink`] that prints replies on one output, and refusals also on another, with their line numbers.
#[derive(Debug)]
pub struct Printer<O, P> {
    format: Format,
    output: O,
    problems: Option<P>,
    /// To be written at the next pause.
    replies: Vec<u8>,
    refusals: Vec<u8>,
}

impl<O: Write, P: Write> Printer<O, P> {
    /// Prints on `output`. Refusals are also printed on `problems` if there is one, as `line 17: ERR usage
    /// …`.
    pub fn new(format: Format, output: O, problems: Option<P>) -> Printer<O, P> {
        Printer { format, output, problems, replies: Vec::new(), refusals: Vec::new() }
    }
}

impl<O: Write, P: Write> Sink for Printer<O, P> {
    fn reply(&mut self, line: u64, raw: &[u8], answer: &Answer) -> io::Result<()> {
        match self.format {
            Format::Wire => self.replies.extend_from_slice(raw),
            Format::Json => json::write(line, answer, &mut self.replies),
            Format::Nothing => {}
        }
        if self.problems.is_some() && matches!(answer, Answer::Refused(_)) {
            write!(self.refusals, "line {line}: ")?;
            self.refusals.extend_from_slice(raw);
        }
        Ok(())
    }

    fn pause(&mut self, _tally: &Tally) -> io::Result<()> {
        if !self.replies.is_empty() {
            self.output.write_all(&self.replies)?;
            self.output.flush()?;
            self.replies.clear();
        }
        if let Some(problems) = &mut self.problems
            && !self.refusals.is_empty()
        {
            // If standard error is closed, nobody wants the refusals, but the replies may still be wanted.
            let _ = problems.write_all(&self.refusals);
            self.refusals.clear();
        }
        Ok(())
    }
}
