//! Requests: from a line to a [`Command`].

use std::time::Duration;

use super::Verb;
use crate::error::{Code, Refusal};
use crate::job::{JobId, JobState, Options, Priority, QueueName};
use crate::protocol::decoder::{Decoded, Oversize, Then, ends_in_http};
use crate::protocol::number::number;
use crate::protocol::{Command, Compat, Dialect, FrameLimits, Wait};

/// The longest line, in bytes, including its CR LF.
pub const LINE_BYTES_MAX: usize = 224;

/// The longest time that reserve-with-timeout waits, in seconds.
const TIMEOUT_SECONDS_MAX: u64 = i32::MAX as u64;

/// The shortest time to run; jobs that ask for less get this.
const TTR_SECONDS_MIN: u64 = 1;

/// Makes a command from a verb's arguments; `None` if they are malformed.
type Read = fn(&mut Words<'_>) -> Option<Command>;

/// All verbs except `put`, as a line begins with them: the busy ones first, and the longer of two with the
/// same beginning. One that ends in a space needs an argument.
static VERBS: [(&[u8], Verb, Read); 24] = [
    (b"reserve-with-timeout ", Verb::ReserveWithTimeout, reserve_with_timeout),
    (b"reserve-job ", Verb::ReserveJob, |words| words.last_id().map(|id| Compat::LeaseJob { id }.into())),
    (b"reserve", Verb::Reserve, |words| words.none(Compat::LeaseWatched { wait: Wait::Forever })),
    (b"delete ", Verb::Delete, |words| words.last_id().map(|id| Compat::Finish { id }.into())),
    (b"release ", Verb::Release, release),
    (b"bury ", Verb::Bury, bury),
    (b"touch ", Verb::Touch, |words| {
        words.last_id().map(|id| Command::Touch { id, ttr: None, progress: None, note: None })
    }),
    (b"kick ", Verb::Kick, |words| words.last_number(u64::MAX).map(|limit| Compat::Kick { limit }.into())),
    (b"kick-job ", Verb::KickJob, |words| words.last_id().map(|id| Compat::KickJob { id }.into())),
    (b"peek ", Verb::Peek, |words| words.last_id().map(|id| Command::Peek { id })),
    (b"peek-ready", Verb::PeekReady, |words| words.none(Compat::PeekNext { state: JobState::Ready })),
    (b"peek-delayed", Verb::PeekDelayed, |words| words.none(Compat::PeekNext { state: JobState::Delayed })),
    (b"peek-buried", Verb::PeekBuried, |words| words.none(Compat::PeekNext { state: JobState::Dead })),
    (b"use ", Verb::Use, |words| words.tube().map(|queue| Compat::Use { queue }.into())),
    (b"watch ", Verb::Watch, |words| words.tube().map(|queue| Compat::Watch { queue }.into())),
    (b"ignore ", Verb::Ignore, |words| words.tube().map(|queue| Compat::Ignore { queue }.into())),
    (b"stats-job ", Verb::StatsJob, |words| words.last_id().map(|id| Compat::JobStats { id }.into())),
    (b"stats-tube ", Verb::StatsTube, |words| {
        words.tube().map(|queue| Compat::QueueDetails { queue }.into())
    }),
    (b"stats", Verb::Stats, |words| words.none(Compat::ServerDetails)),
    (b"list-tubes-watched", Verb::ListTubesWatched, |words| words.none(Compat::Watched)),
    (b"list-tube-used", Verb::ListTubeUsed, |words| words.none(Compat::Used)),
    (b"list-tubes", Verb::ListTubes, |words| words.none(Compat::QueueNames)),
    (b"pause-tube ", Verb::PauseTube, pause_tube),
    (b"quit", Verb::Quit, |words| words.none(Command::Quit)),
];

/// Makes a command from a line, without its line end, and the bytes behind it.
pub(in crate::protocol) fn decode(line: &[u8], behind: &[u8], limits: &FrameLimits) -> (Verb, Decoded) {
    if line.len() + 2 > LINE_BYTES_MAX || memchr::memchr(0, line).is_some() || ends_in_http(line) {
        return (Verb::None, bad_format(Then::GoOn));
    }
    if let Some(arguments) = line.strip_prefix(b"put ") {
        return put(arguments, behind, limits);
    }
    let Some((prefix, verb, read)) = VERBS.iter().find(|(prefix, ..)| line.starts_with(prefix)) else {
        let unknown = Refusal::new(Code::UnknownVerb, "no command of beanstalkd's begins so");
        return (Verb::None, refused(unknown, Then::GoOn));
    };
    match read(&mut Words(&line[prefix.len()..])) {
        Some(command) => (*verb, Decoded::Command { command, behind: 0 }),
        None => (Verb::None, bad_format(Then::GoOn)),
    }
}

/// Whether no command of this dialect begins so, and a line of this length might be one. Such a line that
/// ends in LF alone was probably typed; the reply in the native dialect explains more.
pub(in crate::protocol) fn is_nothing(line: &[u8]) -> bool {
    line.len() + 2 <= LINE_BYTES_MAX
        && !line.starts_with(b"put ")
        && !VERBS.iter().any(|(prefix, ..)| line.starts_with(prefix))
}

/// Whether an unfinished line is longer than a line may be.
pub(in crate::protocol) fn outgrown(unfinished: &[u8]) -> Option<Oversize> {
    (unfinished.len() >= LINE_BYTES_MAX).then(|| Oversize {
        refusal: not_well_formed(),
        dialect: Dialect::Beanstalk(Verb::None),
        guarded: true,
        close: false,
        len_closes: false,
    })
}

fn put(arguments: &[u8], behind: &[u8], limits: &FrameLimits) -> (Verb, Decoded) {
    let mut words = Words(arguments);
    let Some((options, size)) = put_options(&mut words) else {
        return (Verb::None, bad_format(behind_bad_put(arguments)));
    };
    if size > limits.body_max as u64 {
        let text = format!("a body has at most {} bytes here; the server's -z sets it", limits.body_max);
        return (Verb::Put, refused(Refusal::new(Code::TooBig, text), Then::SkipBytes(size + 2)));
    }
    if !words.0.is_empty() {
        return (Verb::None, bad_format(Then::SkipBytes(size + 2)));
    }
    let size = size as usize;
    let decoded = match behind.get(size..size + 2) {
        None => Decoded::Incomplete { wanted: size + 2 },
        Some(b"\r\n") => {
            let command = Compat::SubmitHere(Box::new(options), behind[..size].into());
            Decoded::Command { command: command.into(), behind: size + 2 }
        }
        Some(_) => {
            let text = "no CR LF behind the body: is the size in the put line that of the body?";
            refused(Refusal::usage(text), Then::SkipBytes(size as u64 + 2))
        }
    };
    (Verb::Put, decoded)
}

/// The four numbers of a put line: the job's options and its body's size.
fn put_options(words: &mut Words<'_>) -> Option<(Options, u64)> {
    let priority = words.priority()?;
    let delay = words.seconds(0)?;
    let ttr = words.seconds(TTR_SECONDS_MIN)?;
    let size = words.number(u32::MAX.into())?;
    // In this dialect a job has no limit of attempts.
    Some((Options { priority, delay, ttr, attempts: 0, ..Options::default() }, size))
}

/// What follows a malformed put line. If its size can be read, a body follows, and must not be read as
/// commands.
fn behind_bad_put(arguments: &[u8]) -> Then {
    let mut words = arguments.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let size = words.nth(3).and_then(number).filter(|size| *size <= u32::MAX.into());
    size.map_or(Then::GoOn, |size| Then::SkipBytes(size + 2))
}

fn reserve_with_timeout(words: &mut Words<'_>) -> Option<Command> {
    let seconds = words.last_number(TIMEOUT_SECONDS_MAX)?;
    words.none(Compat::LeaseWatched { wait: Wait::AtMost(Duration::from_secs(seconds)) })
}

fn release(words: &mut Words<'_>) -> Option<Command> {
    let (id, priority, delay) = (words.id()?, words.priority()?, words.seconds(0)?);
    words.none(Compat::ReturnAs { id, priority, delay })
}

fn bury(words: &mut Words<'_>) -> Option<Command> {
    let (id, priority) = (words.id()?, words.priority()?);
    words.none(Compat::Bury { id, priority })
}

fn pause_tube(words: &mut Words<'_>) -> Option<Command> {
    let queue = QueueName::from_bytes(words.word()).ok()?;
    let time = words.seconds(0)?;
    words.none(Compat::PauseExisting { queue, time })
}

/// The words behind a verb and its one space, read from left to right.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The next word; any number of spaces may stand before it.
    fn word(&mut self) -> &'a [u8] {
        let start = self.0.iter().position(|byte| *byte != b' ').unwrap_or(self.0.len());
        let word = &self.0[start..];
        let end = word.iter().position(|byte| *byte == b' ').unwrap_or(word.len());
        self.0 = &word[end..];
        &word[..end]
    }

    fn number(&mut self, max: u64) -> Option<u64> {
        number(self.word()).filter(|number| *number <= max)
    }

    fn id(&mut self) -> Option<JobId> {
        self.number(u64::MAX).map(JobId)
    }

    fn priority(&mut self) -> Option<Priority> {
        self.number(u32::MAX.into()).map(|number| Priority(number as u32))
    }

    /// A time, raised to `min` seconds if it is shorter.
    fn seconds(&mut self, min: u64) -> Option<Duration> {
        self.number(u32::MAX.into()).map(|seconds| Duration::from_secs(seconds.max(min)))
    }

    /// The command, if nothing is left.
    fn none(&mut self, command: impl Into<Command>) -> Option<Command> {
        self.0.is_empty().then(|| command.into())
    }

    /// The last word, a number.
    fn last_number(&mut self, max: u64) -> Option<u64> {
        let number = self.number(max)?;
        self.0.is_empty().then_some(number)
    }

    fn last_id(&mut self) -> Option<JobId> {
        self.last_number(u64::MAX).map(JobId)
    }

    /// Everything that is left, as one name.
    fn tube(&mut self) -> Option<QueueName> {
        QueueName::from_bytes(self.0).ok()
    }
}

fn refused(refusal: Refusal, then: Then) -> Decoded {
    // The body of a refused command may end in anything.
    Decoded::Refused { refusal, guarded: then == Then::GoOn, then }
}

fn bad_format(then: Then) -> Decoded {
    Decoded::Refused { refusal: not_well_formed(), guarded: true, then }
}

fn not_well_formed() -> Refusal {
    Refusal::usage("the line is not in the form of its command")
}
