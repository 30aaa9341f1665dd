//! What a program writes: passed on line by line, tagged if that is wanted, or in one piece when it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{debug, info, warn};
use parking_lot::Mutex;
use rustix::io::ioctl_fionread;

use super::job::WorkerJob;
use crate::printable::{printable, printable_up_to};

/// How many bytes of stderr are kept for the reason of a failure.
const TAIL_BYTES_MAX: usize = 1000;

/// How many lines of stderr are kept.
const TAIL_LINES_MAX: usize = 20;

/// A line up to this length is passed on in one piece.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// How much of a stream is held in memory until the program ends. More goes to a temporary file.
const GROUP_BYTES_MAX: usize = 64 * 1024;

/// How many bytes of a job's body are in its tag.
const TAG_BODY_BYTES_MAX: usize = 40;

/// A longer result is cut. It is the server's limit for bodies, unless that was changed.
const RESULT_BYTES_MAX: usize = 65_535;

/// How long to wait for the rest of a line after the program has exited. A process that it started may keep
/// the pipe open for days.
const QUIET_TIME: Duration = Duration::from_millis(100);

/// Where a program's stderr goes. Its last lines are also the reason of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stderr {
    /// To this process's stderr, line by line.
    PassOn,
    /// Each line becomes a line of the log.
    Log,
}

/// Where a program's stdout goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdout {
    /// To this process's stdout.
    PassOn,
    /// It is the job's result, up to 65,535 bytes. What is longer is cut, with a warning in the log.
    Result,
}

/// How a program's output is passed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) stdout: Stdout,
    pub(super) stderr: Stderr,
    /// Whether each line begins with a tag.
    pub(super) tags: bool,
    /// Whether it is held until the program ends.
    pub(super) groups: bool,
}

/// Where a stream's lines go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Stdout,
    Stderr,
    /// The log, with the job's id.
    Log(u64),
    /// Kept as the result of the job with this id.
    Result(u64),
}

/// One of the streams that a program writes. A thread reads it until every writer has closed it.
pub(super) struct Stream {
    state: Arc<State>,
    pipe: OwnedFd,
    closed: Receiver<()>,
    progress: Receiver<()>,
}

struct State {
    target: Target,
    tag: Vec<u8>,
    /// The lines that are held until the program ends; `None` if lines are passed on at once.
    group: Mutex<Option<Group>>,
    tail: Mutex<Vec<u8>>,
    /// The job's result.
    result: Mutex<Vec<u8>>,
    /// How many bytes the thread has read, and how many of them it has passed on.
    read: AtomicU64,
    passed_on: AtomicU64,
    /// Odd while the thread is in a call that reads.
    calls: AtomicU64,
}

impl Form {
    /// Whether the program's stdout goes through this process.
    pub(super) fn reads_stdout(self) -> bool {
        self.tags || self.groups || self.stdout == Stdout::Result
    }
}

impl Stream {
    /// Reads a stream of the job's program in a thread.
    pub(super) fn read(
        from: impl Read + AsFd + Send + 'static,
        target: Target,
        form: Form,
        job: &WorkerJob,
    ) -> io::Result<Stream> {
        let is_text = matches!(target, Target::Stdout | Target::Stderr);
        let state = Arc::new(State {
            target,
            tag: if form.tags && is_text { tag(job) } else { Vec::new() },
            group: Mutex::new((form.groups && is_text).then(Group::default)),
            tail: Mutex::default(),
            result: Mutex::default(),
            read: AtomicU64::new(0),
            passed_on: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        });
        let pipe = from.as_fd().try_clone_to_owned()?;
        let (step, progress) = bounded(1);
        let closed = {
            let state = state.clone();
            spawn("output", move || match target {
                Target::Result(id) => state.keep_result(from, id, &step),
                _ => state.pass_on(from, &step),
            })?
        };
        Ok(Stream { state, pipe, closed, progress })
    }

    /// Disconnected once every writer has closed the stream, and all of it has been passed on.
    pub(super) fn closed(&self) -> &Receiver<()> {
        &self.closed
    }

    /// Waits until all that has been written up to now is passed on, except for an unfinished line of a
    /// process that keeps the stream open; or until the job has to end at once.
    pub(super) fn wait(&self, job: &WorkerJob) {
        let in_pipe = || ioctl_fionread(&self.pipe).unwrap_or(0);
        let (state, load) = (&self.state, |count: &AtomicU64| count.load(Ordering::SeqCst));
        let (unread, call) = (in_pipe(), load(&state.calls));
        let mut written = None;
        loop {
            let now = load(&state.calls);
            if now.is_multiple_of(2) || now != call {
                // What was being read at first is counted. What has been read since may count twice.
                written.get_or_insert_with(|| unread + load(&state.read));
            }
            if written.is_some_and(|written| load(&state.passed_on) >= written) {
                return;
            }
            select! {
                recv(self.closed) -> _ => return,
                recv(self.progress) -> _ => {}
                recv(job.at_once()) -> _ => return,
                default(QUIET_TIME) => {
                    let blocks = !now.is_multiple_of(2) && load(&state.calls) == now && in_pipe() == 0;
                    if blocks {
                        return debug!("a process keeps the program's output open");
                    }
                }
            }
        }
    }

    /// What was kept as the job's result.
    pub(super) fn take_result(&self) -> Vec<u8> {
        std::mem::take(&mut self.state.result.lock())
    }

    /// The last lines, as text.
    pub(super) fn last_lines(&self) -> String {
        last_lines(&self.state.tail.lock())
    }
}

/// Writes what is held of a program's streams. No other program's comes in between.
pub(super) fn write_held<'a>(streams: impl Iterator<Item = &'a Stream>) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    for stream in streams {
        let mut group = stream.state.group.lock();
        if let Some(group) = group.take() {
            stream.state.target.write(|out| group.write(out));
        }
    }
}

impl State {
    /// Keeps what is written, and reads on when there is enough, so that the program is not held up.
    fn keep_result(&self, from: impl Read, id: u64, step: &Sender<()>) {
        let (mut reader, mut bytes) = (Counted { from, state: self }, [0; LINE_BYTES_MAX]);
        let mut is_cut = false;
        loop {
            let read = match reader.read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let mut result = self.result.lock();
            let room = RESULT_BYTES_MAX - result.len();
            result.extend_from_slice(&bytes[..read.min(room)]);
            drop(result);
            if read > room && !is_cut {
                is_cut = true;
                warn!(event = "result_cut", id = id;
                    "job {id} writes more than {RESULT_BYTES_MAX} bytes: its result is cut");
            }
            self.passed_on.fetch_add(read as u64, Ordering::SeqCst);
            let _ = step.try_send(());
        }
    }

    fn pass_on(&self, from: impl Read, step: &Sender<()>) {
        let mut reader = BufReader::new(Counted { from, state: self });
        let (mut line, mut at_start) = (Vec::new(), true);
        loop {
            line.clear();
            match (&mut reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            keep_tail(&mut self.tail.lock(), &line);
            let bytes = line.len();
            if bytes < LINE_BYTES_MAX && !line.ends_with(b"\n") && !self.tag.is_empty() {
                // The stream ends here, but the next tag has to be at the beginning of a line.
                line.push(b'\n');
            }
            match self.target {
                Target::Log(id) => log_line(id, &line),
                _ if at_start && !self.tag.is_empty() => self.put(&[&self.tag, &line[..]].concat()),
                _ => self.put(&line),
            }
            at_start = line.ends_with(b"\n");
            self.passed_on.fetch_add(bytes as u64, Ordering::SeqCst);
            // Full: nobody has looked since the last step. Disconnected: nobody looks any more.
            let _ = step.try_send(());
        }
    }

    fn put(&self, bytes: &[u8]) {
        let mut group = self.group.lock();
        if let Some(held) = group.as_mut() {
            let Err(error) = held.push(bytes) else { return };
            warn!("cannot hold a program's output until it ends, passing it on: {error}");
            if let Some(held) = group.take() {
                self.target.write(|out| held.write(out));
            }
        }
        self.target.write(|out| out.write_all(bytes));
    }
}

impl Target {
    /// A worker continues if nobody reads its output.
    fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let _ = match self {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                write(&mut stdout).and_then(|()| stdout.flush())
            }
            Target::Stderr | Target::Log(_) | Target::Result(_) => write(&mut io::stderr().lock()),
        };
    }
}

/// A reader that counts its calls and what it has read.
struct Counted<'a, R> {
    from: R,
    state: &'a State,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.state.calls.fetch_add(1, Ordering::SeqCst);
        let result = self.from.read(into);
        self.state.read.fetch_add(*result.as_ref().unwrap_or(&0) as u64, Ordering::SeqCst);
        self.state.calls.fetch_add(1, Ordering::SeqCst);
        result
    }
}

/// What is held of a stream: its beginning in memory, and the rest, if there is more, in a file without a
/// name.
#[derive(Default)]
struct Group {
    held: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
}

impl Group {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.held.len() + bytes.len() <= GROUP_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(unnamed_file()?);
        }
        self.file.iter_mut().try_for_each(|file| file.write_all(bytes))?;
        self.file_bytes += bytes.len() as u64;
        Ok(())
    }

    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.held)?;
        let Some(mut file) = self.file else { return Ok(()) };
        file.rewind()?;
        io::copy(&mut file.take(self.file_bytes), out).map(drop)
    }
}

/// A file in the directory for temporary files (`TMPDIR`), that is gone when it is closed.
fn unnamed_file() -> io::Result<File> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("djqs-worker-{}-{number}", std::process::id()));
        // A file of that name may be left over from another process.
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
}

/// The beginning of each line of a job's output: its id, its shortened body, and a TAB.
fn tag(job: &WorkerJob) -> Vec<u8> {
    format!("{} {}\t", job.id(), printable_up_to(job.body(), TAG_BODY_BYTES_MAX)).into_bytes()
}

/// Starts a thread. The channel is closed when the thread has ended.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Receiver<()>> {
    let (running, ended) = bounded(1);
    thread::Builder::new().name(name.into()).spawn(move || {
        run();
        drop::<crossbeam_channel::Sender<()>>(running);
    })?;
    Ok(ended)
}

fn log_line(id: u64, line: &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    info!(event = "stderr", id = id, line:% = String::from_utf8_lossy(line);
        "job {id} says: {}", printable(line));
}

fn keep_tail(tail: &mut Vec<u8>, line: &[u8]) {
    tail.extend_from_slice(line);
    let excess = tail.len().saturating_sub(TAIL_BYTES_MAX);
    tail.drain(..excess);
}

/// The last lines of a tail: whole ones, if there is more than one.
fn last_lines(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let text = text.trim_end();
    let text = match text.split_once('\n') {
        Some((_, whole)) if tail.len() >= TAIL_BYTES_MAX => whole,
        _ => text,
    };
    let lines = text.rmatch_indices('\n').nth(TAIL_LINES_MAX - 1).map_or(0, |(at, _)| at + 1);
    // U+FFFD is longer than the byte that it replaces.
    let bytes = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES_MAX));
    text[lines.max(bytes)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_last_whole_lines() {
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(b"one\ntwo\n\n"), "one\ntwo");
        assert_eq!(last_lines(b"bad \xff\n"), "bad \u{fffd}");
        let mut tail = Vec::new();
        (1..=300).for_each(|n| keep_tail(&mut tail, format!("line {n}\n").as_bytes()));
        assert_eq!(tail.len(), TAIL_BYTES_MAX);
        let lines = last_lines(&tail);
        assert_eq!(lines.lines().count(), TAIL_LINES_MAX);
        assert!(lines.starts_with("line 281\n") && lines.ends_with("line 300"), "{lines}");
    }

    #[test]
    fn end_of_one_long_line_is_kept() {
        let mut tail = Vec::new();
        keep_tail(&mut tail, &[b'a'; 3000]);
        assert_eq!(last_lines(&tail), "a".repeat(TAIL_BYTES_MAX));
        keep_tail(&mut tail, &[0xff; 999]);
        keep_tail(&mut tail, b"!");
        let text = last_lines(&tail);
        assert!(text.len() <= TAIL_BYTES_MAX && text.ends_with("\u{fffd}!"), "{text}");
    }

    #[test]
    fn half_a_line_is_dropped() {
        let mut tail = Vec::new();
        keep_tail(&mut tail, &[b'a'; 3000]);
        keep_tail(&mut tail, b"\nlast\n");
        assert_eq!(last_lines(&tail), "last");
    }
}
