//! One client: bytes from its socket to commands, outcomes back to bytes.
//!
//! All complete commands in the buffer are carried out before anything is written: one write for all their replies.
//! A peer that is slow in the middle of a command, or in taking replies, is dropped at an absolute deadline;
//! one that is idle between commands may be so for ever.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::Socket;

use super::Shared;
use super::outbox::{Left, Outbox, Replies};
use super::watcher::Watch;
use crate::broker::{Outcome, Session, Waited};
use crate::clock::{Moment, Stopwatch};
use crate::error::{Code, Refusal};
use crate::job::QueueName;
use crate::protocol::{Command, Decoder, Dialect, Reply, Step};
use crate::queue::state::Warn;

/// What a connection's buffers begin with, and shrink back to when it has nothing to do.
const BUFFER_BYTES: usize = 4096;

/// A buffer that reads fill is let grow to this, whatever the commands in it need.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Longer replies than this are not left for others to send: they have more to do, and the client reads them more slowly.
const LEAVE_BYTES_MAX: usize = 4096;

/// How long a client has nothing to say before what has grown for it is given back.
const IDLE_AFTER: Duration = Duration::from_secs(2);

/// How long a connection's thread looks for the next command before it sleeps. A client on the same machine that awaits each
/// reply is back within this.
const EAGER_TIME: Duration = Duration::from_micros(50);

/// How often in a row it counts that it did so in vain.
const EAGER_IN_VAIN_MAX: u32 = 6;

/// How many brief commands are carried out in a row, under one taking of the queue's lock: enough that taking it costs little
/// beside them, and some ten microseconds' worth.
const ROW_COMMANDS_MAX: usize = 64;

/// The room of a row as short as this is kept while the client has nothing to say: less than a kilobyte.
const SHORT_ROW: usize = 4;

/// How many bytes of commands: where one of them waits, those behind it are kept as values, beside the buffer that they were
/// read into, for as long as it does.
const ROW_BYTES_MAX: usize = 8 * 1024;

/// How much later than its deadline a slow command may be dropped.
const LIMIT_SLACK: Duration = Duration::from_secs(1);

/// Replies are sent when they have come to this much, even if more commands are there to be carried out: a
/// client that sends ahead can't make the server keep more.
const REPLIES_BYTES_MAX: usize = 256 * 1024;

/// When a long reply that was refused for want of memory is worth asking for again.
const LONG_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long, and how much, to read behind a last reply, so that the client gets it: closing a socket with unread bytes in
/// it makes the kernel throw away what was sent.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Serves one client until it goes, or has to.
pub(crate) fn serve(stream: Arc<Socket>, mut session: Session, shared: &Shared) {
    let mut connection = Connection {
        stream: &stream,
        session: &mut session,
        shared,
        decoder: Decoder::new(shared.config.frames),
        input: Input::new(),
        row: VecDeque::new(),
        outcomes: VecDeque::new(),
        replies: Replies::default(),
        outbox: Arc::default(),
        others_send: false,
        watch: OnceCell::new(),
    };
    let end = connection.run();
    let outbox = Arc::clone(&connection.outbox);
    drop(connection);
    // Before the client can see the end: what it had leased must be back by then. Whatever a stopping server ends, no
    // worker is to blame for.
    if matches!(end, Ok(End::Quit)) || shared.is_stopping() {
        session.quit();
    } else {
        drop(session);
    }
    // Others may hold the socket until they have sent for it: so long it counts as a connection.
    outbox.join();
    match end {
        Ok(End::Gone) => log::debug!("{}: closed", shared.name_of(&stream)),
        Ok(End::Quit | End::Sent) => linger(&stream, shared),
        Err(error) => {
            log::debug!("{}: dropped: {error}", shared.name_of(&stream));
            if error.kind() == UNWRITABLE {
                linger(&stream, shared);
            }
        }
    }
}

/// The kind of the error with which a connection ends because its replies can't be made safe: it has said so to the client.
const UNWRITABLE: io::ErrorKind = io::ErrorKind::Other;

/// How a connection came to its end, where nothing went wrong.
enum End {
    /// The client closed.
    Gone,
    /// The client said goodbye.
    Quit,
    /// The server said its last word.
    Sent,
}

struct Connection<'a> {
    stream: &'a Arc<Socket>,
    session: &'a mut Session,
    shared: &'a Shared,
    decoder: Decoder,
    input: Input,
    /// Commands that have been read and share the queue's lock, and what came of them. Their room is kept while the client
    /// sends ahead.
    row: VecDeque<(Command, Dialect)>,
    outcomes: VecDeque<(Outcome, Dialect)>,
    /// Replies that are not sent yet.
    replies: Replies,
    /// Replies before these, which others send as soon as they are safe.
    outbox: Arc<Outbox>,
    /// Whether there may be such.
    others_send: bool,
    /// Hears of the client's going away, from its first wait for a job on; `None` in it where the system can't tell.
    watch: OnceCell<Option<Watch<'a>>>,
}

impl Connection<'_> {
    fn run(&mut self) -> io::Result<End> {
        loop {
            if let Some(end) = self.carry_out()? {
                self.flush()?;
                return Ok(end);
            }
            self.flush_or_leave()?;
            if self.shared.is_stopping() {
                self.join()?;
                return Ok(End::Sent);
            }
            if self.fill()? == 0 {
                self.join()?;
                return Ok(End::Gone);
            }
        }
    }

    /// Carries out all complete commands in the buffer.
    fn carry_out(&mut self) -> io::Result<Option<End>> {
        let mut row_bytes = 0;
        loop {
            let step = self.decoder.next(self.input.unread());
            if !matches!(step, Step::Command { .. })
                && let Some(end) = self.carry_out_row()?
            {
                return Ok(Some(end));
            }
            match step {
                Step::Incomplete => return Ok(None),
                Step::Skip { consumed } => self.consume(consumed),
                Step::Command { consumed, command, dialect } => {
                    self.consume(consumed);
                    row_bytes = if self.row.is_empty() { consumed } else { row_bytes + consumed };
                    let shares = command.is_brief() && row_bytes <= ROW_BYTES_MAX;
                    if !shares && let Some(end) = self.carry_out_row()? {
                        return Ok(Some(end));
                    }
                    let is_last =
                        !shares || self.row.len() + 1 == ROW_COMMANDS_MAX || self.input.unread().is_empty();
                    let end = if is_last && self.row.is_empty() {
                        self.shrink_row();
                        self.carry_out_one(command, dialect)?
                    } else {
                        self.row.push_back((command, dialect));
                        if is_last { self.carry_out_row()? } else { None }
                    };
                    if end.is_some() {
                        return Ok(end);
                    }
                }
                Step::Refused { consumed, refusal, dialect, close } => {
                    self.consume(consumed);
                    log::debug!("{}: {refusal}", self.shared.name_of(self.stream));
                    self.replies.push(&Reply::Refused(refusal), dialect);
                    if close {
                        return Ok(Some(End::Sent));
                    }
                }
                Step::Farewell { text } => {
                    self.replies.bytes.extend_from_slice(text);
                    return Ok(Some(End::Sent));
                }
            }
            self.flush_if_much()?;
        }
    }

    /// Carries out commands that have been read, in their order, which share the queue's lock.
    fn carry_out_row(&mut self) -> io::Result<Option<End>> {
        while !self.row.is_empty() {
            self.session.execute_all(&mut self.row, &mut self.outcomes);
            while let Some((outcome, dialect)) = self.outcomes.pop_front() {
                if let Some(end) = self.answer(outcome, dialect)? {
                    return Ok(Some(end));
                }
            }
        }
        Ok(None)
    }

    fn carry_out_one(&mut self, command: Command, dialect: Dialect) -> io::Result<Option<End>> {
        if command.has_long_reply() {
            return self.reply_at_length(command, dialect).map(|()| None);
        }
        let outcome = self.session.execute(command);
        self.answer(outcome, dialect)
    }

    fn answer(&mut self, outcome: Outcome, dialect: Dialect) -> io::Result<Option<End>> {
        match outcome {
            Outcome::Reply(reply) => self.replies.push(&reply, dialect),
            Outcome::Wait { queues, warn, deadline } => self.wait(&queues, warn, deadline, dialect)?,
            Outcome::Goodbye => return Ok(Some(End::Quit)),
        }
        self.flush_if_much()?;
        Ok(None)
    }

    /// Sends the replies so far where they have come to much.
    fn flush_if_much(&mut self) -> io::Result<()> {
        if self.replies.bytes.len() >= REPLIES_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    /// Drops bytes from the head of the buffer. Behind a command's last byte the next one's time begins; what is skipped of
    /// a refused one is no progress.
    fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        if !self.decoder.is_midway(&[]) {
            self.input.frame_deadline = None;
        }
    }

    /// Carries out a command whose reply may be long, in its turn, and sends that.
    fn reply_at_length(&mut self, command: Command, dialect: Dialect) -> io::Result<()> {
        let shared = self.shared;
        let Some(turn) = shared.long.turn() else {
            let text = "other clients have not taken their long replies yet: try again in a moment";
            self.replies.push(&Reply::Refused(Refusal::full(LONG_RETRY_AFTER, text)), dialect);
            return Ok(());
        };
        let before = self.replies.bytes.len();
        if let Outcome::Reply(reply) = self.session.execute(command) {
            self.replies.push(&reply, dialect);
        }
        let _waiting = shared.long.count(self.replies.bytes.len() - before);
        drop(turn);
        self.flush_if_much()
    }

    /// Waits for a job. What is answered already is sent before: the client may be waiting for that.
    fn wait(
        &mut self,
        queues: &[QueueName],
        warn: Warn,
        deadline: Option<Moment>,
        dialect: Dialect,
    ) -> io::Result<()> {
        self.flush()?;
        self.shrink_row();
        let shared = self.shared;
        self.watch.get_or_init(|| {
            let watch = shared.watcher.watch(self.stream, self.session.id());
            watch.inspect_err(|error| log::warn!("can't watch a waiting connection: {error}")).ok()
        });
        let reply = match self.session.wait(queues, warn, deadline) {
            Waited::Leased(lease) => Reply::Leased(lease),
            Waited::LapsesSoon => Reply::LapsesSoon,
            Waited::Refused(refusal) => Reply::Refused(refusal),
            Waited::CalledOff if shared.is_stopping() => Reply::Refused(Refusal::new(
                Code::Draining,
                "this server is shutting down: connect again in a moment, or to another one",
            )),
            // The client has closed, or half-closed: it sends nothing more, and may still read this.
            Waited::TimedOut | Waited::CalledOff => Reply::Empty,
        };
        self.replies.push(&reply, dialect);
        Ok(())
    }

    /// Gives back the room of a row, except what commands in it need.
    fn shrink_row(&mut self) {
        self.row.shrink_to_fit();
        self.outcomes.shrink_to_fit();
    }

    /// Sends the replies so far, once all that they say is safe.
    fn flush(&mut self) -> io::Result<()> {
        self.join()?;
        if self.replies.bytes.is_empty() {
            return Ok(());
        }
        let settled = self.session.settle();
        self.send(settled)
    }

    /// The same, but where others are at making it safe, leaves the rest to them.
    fn flush_or_leave(&mut self) -> io::Result<()> {
        self.join()?;
        let (outbox, stream, replies) = (&self.outbox, self.stream, &mut self.replies);
        if replies.bytes.is_empty() {
            return Ok(());
        }
        if replies.bytes.capacity() > LEAVE_BYTES_MAX {
            return self.flush();
        }
        let settled = self.session.settle_or_call(|| {
            let (outbox, stream) = (Arc::clone(outbox), Arc::clone(stream));
            outbox.keep(std::mem::take(replies));
            move |safe| outbox.send(&stream, safe)
        });
        if matches!(settled, Ok(false)) {
            self.others_send = true;
            return Ok(());
        }
        self.send(settled.map(drop))
    }

    /// Waits until others have sent what was left to them, and sends the rest.
    fn join(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.others_send) {
            return Ok(());
        }
        let Left { mut replies, sent, is_last } = self.outbox.join();
        send(self.stream, &replies.bytes[sent..], self.shared)?;
        if is_last {
            return Err(unwritable());
        }
        if self.replies.bytes.capacity() == 0 {
            replies.clear();
            self.replies = replies;
        }
        Ok(())
    }

    /// Sends the replies, or that they are not safe.
    fn send(&mut self, settled: Result<(), Refusal>) -> io::Result<()> {
        if let Err(refusal) = settled {
            self.replies.take_back(refusal);
            send(self.stream, &self.replies.bytes, self.shared)?;
            return Err(unwritable());
        }
        send(self.stream, &self.replies.bytes, self.shared)?;
        self.replies.clear();
        let capacity = self.replies.bytes.capacity();
        let idle = self.input.unread().is_empty() && capacity > 4 * BUFFER_BYTES;
        if idle || capacity > 2 * REPLIES_BYTES_MAX {
            self.replies.shrink_to(BUFFER_BYTES);
        }
        Ok(())
    }

    /// Reads what has come, or waits until something does. In the middle of a command only until the deadline.
    fn fill(&mut self) -> io::Result<usize> {
        let midway = self.decoder.is_midway(self.input.unread());
        let deadline = midway.then(|| {
            let latest = || self.shared.now().after(self.shared.config.frame_timeout);
            *self.input.frame_deadline.get_or_insert_with(latest)
        });
        loop {
            let left = deadline.map(|deadline| deadline.until(self.shared.now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the rest of a command did not come in time",
                ));
            }
            // In each case there is something to do once the client has nothing to say.
            let has_grown = self.input.has_grown() || self.row.capacity() > SHORT_ROW;
            let idle = (has_grown && !midway || self.others_send).then_some(IDLE_AFTER);
            let limit = left.into_iter().chain(idle).min();
            self.input.limit_reading(self.stream, limit)?;
            match self.input.read_from(self.stream, &self.shared.eager) {
                // A limit that was set for an earlier command, or is up: the next round tells which.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.input.stale_limit = true;
                    // Something may be left of what others have sent.
                    self.join()?;
                    if !midway {
                        self.input.shrink();
                        self.shrink_row();
                    }
                }
                other => return other,
            }
        }
    }
}

fn unwritable() -> io::Error {
    io::Error::new(UNWRITABLE, "the journal can no longer be written")
}

/// Sends all bytes, or fails at the deadline for replies. `SO_SNDTIMEO` is set to the same time: a write that takes longer
/// returns with what it has sent by then.
pub(crate) fn send(mut stream: &Socket, mut bytes: &[u8], shared: &Shared) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let deadline = shared.now().after(shared.config.write_timeout);
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the client did not take its replies in time");
    loop {
        match stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        if deadline <= shared.now() {
            return Err(late());
        }
    }
}

/// Says that nothing more comes, and reads on for a moment, so that the last reply is not lost.
fn linger(mut stream: &Socket, shared: &Shared) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = shared.now().after(LINGER);
    let mut scrap = [0; 4096];
    let mut read = 0;
    while read < LINGER_BYTES_MAX {
        let left = deadline.until(shared.now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut scrap) {
            Ok(0) | Err(_) => return,
            Ok(more) => read += more,
        }
    }
}

/// Bytes that have come and are not carried out yet.
struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// When the command at the head has to be complete.
    frame_deadline: Option<Moment>,
    /// The socket's read timeout as it is set now.
    limited_to: Option<Duration>,
    /// Whether a read has run into it.
    stale_limit: bool,
    eagerness: Eagerness,
}

impl Input {
    fn new() -> Input {
        Input {
            bytes: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            frame_deadline: None,
            limited_to: None,
            stale_limit: false,
            eagerness: Eagerness::default(),
        }
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn has_grown(&self) -> bool {
        self.bytes.len() > BUFFER_BYTES
    }

    /// Gives back what the buffer has grown by, if nothing is in it.
    fn shrink(&mut self) {
        if self.has_grown() && self.unread().is_empty() {
            // All of it first: the part that an allocator cuts off is of no use to the next one that grows.
            self.bytes = Vec::new();
            self.bytes = vec![0; BUFFER_BYTES];
        }
    }

    /// Lets reads block at most for about `limit`. A limit that is near enough, or not needed any more, is left as it is:
    /// a client that sends ahead has half a command at the end of most reads, and each change is a system call.
    fn limit_reading(&mut self, stream: &Socket, limit: Option<Duration>) -> io::Result<()> {
        let good = match (self.limited_to, limit) {
            (None, None) => true,
            (Some(_), None) => !self.stale_limit,
            (None, Some(_)) => false,
            (Some(set), Some(limit)) => set <= limit + LIMIT_SLACK,
        };
        if !good {
            stream.set_read_timeout(limit)?;
            self.limited_to = limit;
            self.stale_limit = false;
        }
        Ok(())
    }

    /// Reads once. The buffer grows while reads fill it, so that a client that sends ahead needs few of them, and shrinks
    /// when a read comes to little.
    fn read_from(&mut self, stream: &Socket, eager: &AtomicBool) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            let room = self.bytes.len() * 2;
            self.bytes.resize(room, 0);
        }
        let read = self.eagerness.read(stream, &mut self.bytes[self.end..], eager)?;
        let was_empty = self.end == 0;
        self.end += read;
        if self.end == self.bytes.len() && self.bytes.len() < READ_AHEAD_BYTES {
            self.bytes.resize(self.bytes.len() * 4, 0);
        } else if was_empty && read < self.bytes.len() / 64 && self.has_grown() {
            self.bytes.truncate(BUFFER_BYTES.max(read));
            self.bytes.shrink_to_fit();
        }
        Ok(read)
    }
}

/// Whether a connection's thread looks for the next command for a moment before it sleeps, and lets others run in between:
/// to be woken costs more than that, on both sides.
///
/// Only one thread does so at a time, or they would take the processor from those that have something to do. And only
/// where it pays: after each look in vain, a connection does without for twice as many reads as before.
#[derive(Default)]
struct Eagerness {
    in_vain: u32,
    without: u32,
}

impl Eagerness {
    /// Reads, and blocks where nothing has come.
    fn read(&mut self, mut stream: &Socket, bytes: &mut [u8], others: &AtomicBool) -> io::Result<usize> {
        if self.without > 0 {
            self.without -= 1;
        } else if !others.swap(true, Ordering::Acquire) {
            let read = look(stream, bytes);
            others.store(false, Ordering::Release);
            if let Some(read) = read {
                self.in_vain = 0;
                return Ok(read);
            }
            self.in_vain = (self.in_vain + 1).min(EAGER_IN_VAIN_MAX);
            self.without = (1 << self.in_vain) - 1;
        }
        loop {
            match stream.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

/// Looks for [`EAGER_TIME`] whether something comes.
fn look(stream: &Socket, bytes: &mut [u8]) -> Option<usize> {
    let stopwatch = Stopwatch::start();
    loop {
        match rustix::net::recv(stream, &mut *bytes, RecvFlags::DONTWAIT) {
            Ok((read, _)) => return Some(read),
            Err(Errno::AGAIN) if stopwatch.elapsed() < EAGER_TIME => std::thread::yield_now(),
            // Whatever else it is, the read that blocks will say it.
            Err(_) => return None,
        }
    }
}
