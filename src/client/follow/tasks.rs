//! Reads `TASK` commands from a text, and gives each a batch, a key and a time for which it is kept.

use std::io::{self, Read};
use std::time::Duration;

use memchr::{memchr, memchr_iter};

use super::random;
use crate::client::{WRITE_BYTES, WRITE_COMMANDS_MAX};
use crate::error::Refusal;
use crate::job::{BatchName, Key, Submission};
use crate::protocol::native::write_command;
use crate::protocol::{Command, Decoder, FrameLimits, HEADER_BYTES_MAX, Step};

/// How much is read at a time, at least.
const READ_BYTES: usize = 64 * 1024;

/// The largest body that a server can be configured to accept.
const BODY_BYTES_MAX: usize = 1 << 30;

/// The longest line that may be a command.
const LINE_BYTES_MAX: usize = BODY_BYTES_MAX + HEADER_BYTES_MAX + 4;

/// What each task is given so that it can be followed, unless it has it already.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its batch. A task that names one itself is then refused.
    pub batch: Option<BatchName>,
    /// How long it is kept once it is done.
    pub keep: Duration,
    /// The beginning of its key, before the number of its line.
    key: String,
}

impl Plan {
    /// Tasks are kept for `keep` unless they say otherwise, and get keys that nobody else uses.
    pub fn new(keep: Duration) -> Plan {
        Plan { batch: None, keep, key: format!("client-{:016x}-", random()) }
    }

    /// All tasks are of this batch.
    pub fn batch(self, name: BatchName) -> Plan {
        Plan { batch: Some(name), ..self }
    }

    /// A name for a batch that nobody else uses.
    pub fn new_batch_name() -> BatchName {
        BatchName::new(&format!("client-{:016x}", random())).expect("letters, digits and - are a name")
    }

    fn task(&self, line: u64, mut submission: Submission) -> Result<Task, Refusal> {
        let options = &mut submission.options;
        if self.batch.is_some() {
            if options.batch.is_some() {
                return Err(Refusal::usage(
                    "batch= can't be in a line here: all lines are one batch, which --batch names",
                ));
            }
            options.batch = self.batch.clone();
        }
        if options.keep.is_zero() {
            options.keep = self.keep;
        }
        let own_key = options.key.is_some();
        if !own_key {
            options.key =
                Some(Key::new(&format!("{}{line}", self.key)).expect("it is short and has no spaces"));
        }
        let mut encoded = Vec::new();
        write_command(&Command::Submit(Box::new(submission)), &mut encoded);
        Ok(Task { line, own_key, encoded })
    }
}

/// A job to be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The line on which its command begins.
    pub line: u64,
    /// Whether the text gives its key, so that another submitter may use the same.
    pub own_key: bool,
    /// The command as it is sent.
    pub(super) encoded: Vec<u8>,
}

/// What a text has at some line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskText {
    /// A task.
    Task(Task),
    /// Something that can't be submitted.
    Bad {
        /// Where it begins.
        line: u64,
        /// Why.
        why: Refusal,
    },
}

/// Reads a text of `TASK` commands. Blank lines and comments are skipped, and the line `QUIT` ends it.
#[derive(Debug)]
pub struct Tasks<R> {
    input: R,
    plan: Plan,
    /// What has been read; the bytes from `start` have not been dealt with.
    bytes: Vec<u8>,
    start: usize,
    line: u64,
    decoder: Decoder,
    ended: bool,
}

/// What the unread bytes begin with.
enum Found {
    Item(TaskText),
    Nothing,
    Starved,
    Quit,
}

impl<R: Read> Tasks<R> {
    /// Reads from `input`, whose first line is line 1.
    pub fn new(input: R, plan: Plan) -> Tasks<R> {
        let decoder = Decoder::new(FrameLimits { body_max: BODY_BYTES_MAX });
        Tasks { input, plan, bytes: Vec::new(), start: 0, line: 1, decoder, ended: false }
    }

    /// The next tasks, as many as fit well into one write. Blocks only if none has been read. Nothing at the
    /// end of the text.
    ///
    /// # Errors
    /// Reading the input failed.
    pub fn next_items(&mut self) -> io::Result<Vec<TaskText>> {
        let (mut items, mut size) = (Vec::new(), 0);
        while items.len() < WRITE_COMMANDS_MAX && size < WRITE_BYTES {
            match self.find() {
                Found::Item(item) => {
                    if let TaskText::Task(task) = &item {
                        size += task.encoded.len();
                    }
                    items.push(item);
                }
                Found::Nothing => {}
                Found::Quit => (self.ended, self.start) = (true, self.bytes.len()),
                Found::Starved if !items.is_empty() => break,
                Found::Starved if self.ended => {
                    if self.start < self.bytes.len() {
                        self.start = self.bytes.len();
                        let why = Refusal::usage("the input ends inside the body of this command");
                        items.push(TaskText::Bad { line: self.line, why });
                    }
                    break;
                }
                Found::Starved => self.read()?,
            }
        }
        Ok(items)
    }

    fn read(&mut self) -> io::Result<()> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let have = self.bytes.len();
        self.bytes.resize(have + READ_BYTES.max(have), 0);
        let read = loop {
            match self.input.read(&mut self.bytes[have..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.bytes.truncate(have + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        if self.ended && self.bytes.last().is_some_and(|last| *last != b'\n') {
            self.bytes.push(b'\n');
        }
        Ok(())
    }

    fn find(&mut self) -> Found {
        let unread = &self.bytes[self.start..];
        if !self.decoder.is_midway(&[]) {
            match memchr(b'\n', unread) {
                Some(length) => match unread[..length].trim_ascii() {
                    b"QUIT" => return Found::Quit,
                    text if text.is_empty() || unread[0] == b'#' => {
                        self.pass(length + 1);
                        return Found::Nothing;
                    }
                    _ => {}
                },
                // The decoder must not see a line that is skipped.
                None if unread.len() <= LINE_BYTES_MAX => return Found::Starved,
                None => {}
            }
        }
        let line = self.line;
        match self.decoder.next(&self.bytes[self.start..]) {
            Step::Incomplete => Found::Starved,
            Step::Skip { consumed } => {
                self.pass(consumed);
                Found::Nothing
            }
            Step::Command { consumed, command: Command::Submit(submission), .. } => {
                self.pass(consumed);
                let task = self.plan.task(line, *submission);
                Found::Item(task.map_or_else(|why| TaskText::Bad { line, why }, TaskText::Task))
            }
            Step::Command { consumed, .. } => {
                self.pass(consumed);
                let why = Refusal::usage("--wait takes TASK commands only");
                Found::Item(TaskText::Bad { line, why })
            }
            Step::Refused { consumed, refusal, close, .. } => {
                self.pass(consumed);
                if close {
                    // The start of the next command is not known.
                    (self.ended, self.start) = (true, self.bytes.len());
                }
                Found::Item(TaskText::Bad { line, why: refusal })
            }
            Step::Farewell { .. } => {
                (self.ended, self.start) = (true, self.bytes.len());
                let why = Refusal::usage("this is an HTTP request");
                Found::Item(TaskText::Bad { line, why })
            }
        }
    }

    fn pass(&mut self, count: usize) {
        let passed = &self.bytes[self.start..self.start + count];
        self.line += memchr_iter(b'\n', passed).count() as u64;
        self.start += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte a read.
    struct Slowly<'a>(&'a [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buf[..1])
        }
    }

    /// Each task as it is sent, and each refusal, with its line.
    fn all(input: impl Read) -> Vec<(u64, String)> {
        let plan = Plan { key: "k-".into(), ..Plan::new(Duration::from_secs(3600)) };
        let mut tasks = Tasks::new(input, plan.batch(BatchName::new("b").unwrap()));
        let mut found = Vec::new();
        loop {
            let items = tasks.next_items().unwrap();
            if items.is_empty() {
                return found;
            }
            found.extend(items.into_iter().map(|item| match item {
                TaskText::Task(task) => (task.line, String::from_utf8(task.encoded).unwrap()),
                TaskText::Bad { line, why } => (line, format!("{}", why.code)),
            }));
        }
    }

    #[test]
    fn tasks_get_a_batch_a_key_and_a_time_however_they_are_read() {
        let text =
            b"# nightly\n\nTASK: a\nTASK key=x keep=2h: b\nTASK len=9:\n#\n\nTASK: \nTASK batch=c: c\n\
            GET\nTASK prio=1 len=3:\n#\n\n\nTASK: last";
        let expected = [
            (3, "TASK key=k-3 keep=1h batch=b: a\n"),
            (4, "TASK key=x keep=2h batch=b: b\n"),
            (5, "TASK key=k-5 keep=1h batch=b len=9:\n#\n\nTASK: \n"),
            (9, "usage"),
            (10, "usage"),
            (11, "usage"),
            (15, "TASK key=k-15 keep=1h batch=b: last\n"),
        ];
        let expected: Vec<_> = expected.map(|(line, text)| (line, text.to_owned())).into();
        assert_eq!(all(&text[..]), expected);
        assert_eq!(all(Slowly(text)), expected);
    }

    #[test]
    fn quit_ends_the_text_and_a_body_that_is_cut_off_is_refused() {
        assert_eq!(all(&b"TASK: a\nQUIT\nTASK: b\n"[..]).len(), 1);
        assert_eq!(all(&b"\nTASK len=9:\nab"[..]), [(2, "usage".to_owned())]);
        assert_eq!(all(&b""[..]), []);
    }
}
