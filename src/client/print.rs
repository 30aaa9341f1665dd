//! Prints replies: unchanged, escaped for a terminal, as JSON, or only the refusals.

use std::io::{self, Write};

use super::feed::{Sink, Tally};
use super::json;
use crate::printable::escape_for_terminal;
use crate::protocol::native::Answer;

/// How replies are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Unchanged.
    Wire,
    /// Unchanged, except that what a terminal may obey is escaped: control characters other than the line feed, and those
    /// that change the direction of text.
    Terminal,
    /// Each as a JSON object on one line. It always has `line` (the line on which the command begins), `ok`
    /// (whether the command was executed) and `reply` (the reply's first word). Then come the parts of the
    /// reply: `id`, `duplicate`, `state`, `queue`, `attempt`, `ttr_ms`, …, and `body`, or `body_base64` if
    /// the body is not UTF-8; `retry_ms`, `dead`, `count`, and `lines` (an array of strings, or of LIST's
    /// objects); for a refusal `code`, `retry_after_ms` and `text`.
    Json,
    /// Not at all.
    Nothing,
}

/// How refusals are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusals {
    /// As every other reply. For a terminal, which shows the command above it.
    Once,
    /// As every other reply, and on the second output with the number of the command's line: `line 17: ERR usage …`.
    WithLine,
    /// On the second output, without a number: there is only one command. As JSON on the first.
    OnlyCommand,
}

/// A [`Sink`] that prints replies on one output, and refusals on another, where they are always escaped as for a terminal.
#[derive(Debug)]
pub struct Printer<O, P> {
    format: Format,
    how_refusals: Refusals,
    output: O,
    problems: P,
    /// To be written at the next pause.
    replies: Vec<u8>,
    refusals: Vec<u8>,
}

impl<O: Write, P: Write> Printer<O, P> {
    /// Prints on `output`, and refusals on `problems` as `refusals` says.
    pub fn new(format: Format, refusals: Refusals, output: O, problems: P) -> Printer<O, P> {
        Printer {
            format,
            how_refusals: refusals,
            output,
            problems,
            replies: Vec::new(),
            refusals: Vec::new(),
        }
    }
}

impl<O: Write, P: Write> Sink for Printer<O, P> {
    fn reply(&mut self, line: u64, raw: &[u8], answer: &Answer) -> io::Result<()> {
        if matches!(answer, Answer::Refused(_)) {
            match self.how_refusals {
                Refusals::Once => {}
                Refusals::WithLine => {
                    write!(self.refusals, "line {line}: ")?;
                    escape_for_terminal(raw, &mut self.refusals);
                }
                Refusals::OnlyCommand if self.format == Format::Json => {}
                Refusals::OnlyCommand => {
                    escape_for_terminal(raw, &mut self.refusals);
                    return Ok(());
                }
            }
        }
        match self.format {
            Format::Wire => self.replies.extend_from_slice(raw),
            Format::Terminal => escape_for_terminal(raw, &mut self.replies),
            Format::Json => json::write(line, answer, &mut self.replies),
            Format::Nothing => {}
        }
        Ok(())
    }

    fn pause(&mut self, _tally: &Tally) -> io::Result<()> {
        if !self.replies.is_empty() {
            self.output.write_all(&self.replies)?;
            self.output.flush()?;
            self.replies.clear();
        }
        if !self.refusals.is_empty() {
            // If standard error is closed, nobody wants the refusals, but the replies may still be wanted.
            let _ = self.problems.write_all(&self.refusals);
            self.refusals.clear();
        }
        Ok(())
    }
}
