//! Lines from a terminal, with line editing if the terminal also shows the output. The history lives as long as the
//! program: commands may hold secrets, so no file keeps them.

use std::borrow::Cow;
use std::io::{self, IsTerminal, StdinLock, Write};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

/// Where the lines come from.
pub(super) enum Lines {
    /// A terminal that edits lines.
    Editor(Box<Editor<Words, MemHistory>>),
    /// Standard input, as it is.
    Plain(io::Split<StdinLock<'static>>),
}

impl Lines {
    /// Lines of standard input, which is a terminal. `help` is what the server's HELP says; it completes words.
    pub(super) fn of_terminal(help: &[String]) -> io::Result<Lines> {
        if !io::stdout().is_terminal() {
            return Ok(Lines::plain());
        }
        let config = Config::builder().auto_add_history(true).history_ignore_space(true).build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history).map_err(into_io)?;
        editor.set_helper(Some(Words::of(help)));
        Ok(Lines::Editor(Box::new(editor)))
    }

    /// Lines of standard input without editing.
    pub(super) fn plain() -> Lines {
        Lines::Plain(io::BufRead::split(io::stdin().lock(), b'\n'))
    }

    /// The next line; `None` at the end, which Ctrl-D is. Ctrl-C starts the line anew.
    pub(super) fn next(&mut self, prompt: &str) -> io::Result<Option<Vec<u8>>> {
        match self {
            Lines::Plain(lines) => lines.next().transpose(),
            Lines::Editor(editor) => loop {
                match editor.readline(prompt) {
                    Ok(line) => return Ok(Some(line.into_bytes())),
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(into_io(error)),
                }
            },
        }
    }

    /// Asks a question. Only `y` and `yes` are a yes.
    pub(super) fn confirm(&mut self, question: &str) -> io::Result<bool> {
        let question = format!("{question} [y/N] ");
        let answer = match self {
            Lines::Plain(lines) => {
                eprint!("{question}");
                io::stderr().flush()?;
                lines.next().transpose()?
            }
            Lines::Editor(editor) => match editor.readline(&question) {
                Ok(line) => Some(line.into_bytes()),
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => None,
                Err(error) => return Err(into_io(error)),
            },
        };
        let answer = answer.unwrap_or_default().trim_ascii().to_ascii_lowercase();
        Ok(answer == b"y" || answer == b"yes")
    }
}

fn into_io(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Completes verbs, and the names of their options.
pub(super) struct Words {
    /// Each verb with its options, such as `queue=`.
    verbs: Vec<(String, Vec<String>)>,
}

impl Words {
    /// Reads the lines of HELP: `GET [queue=Q[,Q...]] [wait=D]  lease a job`.
    fn of(help: &[String]) -> Words {
        let verb = |line: &String| {
            let mut words = line.split("  ").next()?.split([' ', '[', ']', '|']);
            let verb = words.next()?.to_owned();
            let options: Vec<_> =
                words.filter_map(|word| Some(format!("{}=", word.split_once('=')?.0))).collect();
            Some((verb, options))
        };
        Words { verbs: help.iter().filter_map(verb).collect() }
    }

    /// Where the word before the cursor begins, and what it may become.
    fn completions(&self, before: &str) -> (usize, Vec<String>) {
        let start = before.rfind(' ').map_or(0, |space| space + 1);
        let word = &before[start..];
        let words: Vec<Cow<'_, str>> = match before[..start].split_whitespace().next() {
            None => self.verbs.iter().map(|(verb, _)| Cow::from(format!("{verb} "))).collect(),
            // A body follows its colon.
            Some(_) if before.contains(": ") => Vec::new(),
            Some(verb) => {
                let known = self.verbs.iter().find(|(name, _)| name.eq_ignore_ascii_case(verb));
                known.into_iter().flat_map(|(_, options)| options).map(Cow::from).collect()
            }
        };
        let begins = |full: &str| full.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        let mut found: Vec<_> = words.into_iter().filter(|full| begins(full)).map(Cow::into_owned).collect();
        found.dedup();
        (start, found)
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.completions(&line[..at]))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_their_options_are_completed() {
        let help =
            ["GET [queue=Q[,Q...]] [wait=D]  lease a job", "PURGE queue=Q|batch=B  delete", "PING  is x=y"];
        let words = Words::of(&help.map(str::to_owned));
        let found = |before: &str| {
            let (start, found) = words.completions(before);
            (start, found.join("|"))
        };
        assert_eq!(found("p"), (0, "PURGE |PING ".into()));
        assert_eq!(found("get "), (4, "queue=|wait=".into()));
        assert_eq!(found("GET queue=a w"), (12, "wait=".into()));
        assert_eq!(found("PURGE b"), (6, "batch=".into()));
        assert_eq!(found("PING "), (5, String::new()));
        assert_eq!(found("GET x: w"), (7, String::new()));
        assert_eq!(found("\u{df}"), (0, String::new()));
    }
}
