//! Shows replies: as they come, as JSON, or only those that are refusals.

use std::io::{self, Write};

use super::feed::{Sink, Tally};
use super::json;
use crate::protocol::native::Answer;

/// How replies are shown on the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they come.
    Wire,
    /// Each as a JSON object on a line of its own. `line` (the line that the command begins on), `ok`
    /// (whether it was carried out) and `reply` (the reply's first word) are always there; then what the
    /// reply says: `id`, `duplicate`, `state`, `queue`, `attempt`, `ttr_ms`, …, `body` or, where it is no
    /// UTF-8, `body_base64`; `retry_ms`, `dead`, `count`, `lines` (an array of strings, or of LIST's
    /// objects); of a refusal `code`, `retry_after_ms` and `text`.
    Json,
    /// Not at all.
    Nothing,
}

/// A [`Sink`] that prints: replies on one output, refusals with the number of their command's line on another
/// as well.
#[derive(Debug)]
pub struct Printer<O, P> {
    format: Format,
    output: O,
    problems: Option<P>,
    /// What is to be written at the next pause.
    replies: Vec<u8>,
    refusals: Vec<u8>,
}

impl<O: Write, P: Write> Printer<O, P> {
    /// Prints on `output`, and refusals on `problems` too if there is one, where they look like `line 17: ERR
    /// usage …`.
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
            // Whoever closed it does not want to know; that is no reason to stop.
            let _ = problems.write_all(&self.refusals);
            self.refusals.clear();
        }
        Ok(())
    }
}
