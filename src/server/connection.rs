//! One client's connection: bytes from its socket become commands, outcomes become replies.
//!
//! All complete commands in the buffer are executed before anything is written, so that their replies share
//! one write. A client that is slow in the middle of a command, or in taking its replies, is dropped at an
//! absolute deadline. One that is idle between commands may stay for ever.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::input::{Input, Received};
use super::output::{Dropped, Output, linger};
use super::peer::Peer;
use super::shared::Shared;
use crate::broker::{Outcome, Session, Waited, Wanted};
use crate::error::{Code, Refusal};
use crate::protocol::{Command, Decoder, Dialect, Reply, Step};

/// How long a client is idle before its buffers shrink.
const IDLE_AFTER: Duration = Duration::from_secs(2);

/// How many short commands share one taking of the queue's lock: enough to make its cost small, and some ten
/// microseconds of work.
const PIPELINED_MAX: usize = 64;

/// Room for this many pipelined commands, less than a kilobyte, stays while the client is idle.
const PIPELINED_KEPT: usize = 4;

/// How many bytes of commands share one taking of the lock. If one of them has to wait, those behind it stay
/// in memory as values, in addition to the buffer that they were read into.
const PIPELINED_BYTES_MAX: usize = 8 * 1024;

/// When a long reply that was refused for lack of memory is worth asking for again.
const LONG_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Serves one client until the connection ends.
pub(super) fn serve(peer: &Arc<Peer>, session: Session, shared: &Shared) {
    let mut connection = Connection {
        peer,
        session,
        shared,
        decoder: Decoder::new(shared.config.frames),
        input: Input::new(),
        pipelined: VecDeque::new(),
        outcomes: VecDeque::new(),
        output: Output::new(peer, shared),
        has_waited: false,
    };
    let end = connection.run();
    let Connection { session, output, .. } = connection;
    // The client's jobs must be back before it can see the end. If the server is stopping, no worker is to
    // blame.
    if matches!(end, End::Quit) || shared.is_stopping() {
        session.quit();
    } else {
        drop(session);
    }
    output.end();
    match &end {
        End::Closed => log::debug!("{}: closed", shared.name_of(&peer.stream)),
        End::Quit | End::LastReply => {}
        End::Dropped(why) => log::debug!("{}: dropped: {why}", shared.name_of(&peer.stream)),
    }
    if matches!(end, End::Quit | End::LastReply | End::Dropped(Dropped::JournalFailed)) {
        linger(&peer.stream, shared);
    }
}

/// How a connection ended.
enum End {
    /// The client closed it.
    Closed,
    /// The client said goodbye.
    Quit,
    /// The server has sent its last reply.
    LastReply,
    /// Something went wrong.
    Dropped(Dropped),
}

impl From<Dropped> for End {
    fn from(dropped: Dropped) -> End {
        End::Dropped(dropped)
    }
}

struct Connection<'a> {
    peer: &'a Peer,
    session: Session,
    shared: &'a Shared,
    decoder: Decoder,
    input: Input,
    /// Commands that will share one taking of the queue's lock, and their outcomes. Their room stays while
    /// the client pipelines.
    pipelined: VecDeque<(Command, Dialect)>,
    outcomes: VecDeque<(Outcome, Dialect)>,
    output: Output<'a>,
    /// Whether the client has waited for a job. From then on the watcher detects that it disconnects.
    has_waited: bool,
}

impl Connection<'_> {
    /// Serves the client until the connection ends, and sends what is left to send.
    fn run(&mut self) -> End {
        let Err(end) = self.serve();
        let sent = match end {
            End::Quit | End::LastReply => self.output.flush(&mut self.session),
            End::Closed => self.output.join(),
            End::Dropped(_) => Ok(()),
        };
        sent.map_or_else(End::Dropped, |()| end)
    }

    fn serve(&mut self) -> Result<Infallible, End> {
        loop {
            self.execute_received()?;
            self.output.flush_or_leave(&mut self.session)?;
            if self.shared.is_stopping() {
                return Err(End::LastReply);
            }
            self.receive()?;
        }
    }

    /// Executes all complete commands in the buffer.
    fn execute_received(&mut self) -> Result<(), End> {
        let mut bytes = 0;
        loop {
            let step = self.decoder.next(self.input.unread());
            if !matches!(step, Step::Command { .. }) {
                self.execute_pipelined()?;
            }
            match step {
                Step::Incomplete => return Ok(()),
                Step::Skip { consumed } => self.consume(consumed),
                Step::Command { consumed, command, dialect } => {
                    self.consume(consumed);
                    bytes = if self.pipelined.is_empty() { consumed } else { bytes + consumed };
                    let shares = command.spec().brief && bytes <= PIPELINED_BYTES_MAX;
                    if !shares {
                        self.execute_pipelined()?;
                    }
                    let more_follow = shares && !self.input.unread().is_empty();
                    if self.pipelined.is_empty() && !more_follow {
                        self.shrink_pipelined();
                        self.execute(command, dialect)?;
                    } else {
                        self.pipelined.push_back((command, dialect));
                        if !more_follow || self.pipelined.len() == PIPELINED_MAX {
                            self.execute_pipelined()?;
                        }
                    }
                }
                Step::Refused { consumed, refusal, dialect, close } => {
                    self.consume(consumed);
                    log::debug!("{}: {refusal}", self.shared.name_of(&self.peer.stream));
                    self.output.push(&Reply::Refused(refusal), dialect);
                    if close {
                        return Err(End::LastReply);
                    }
                }
                Step::Farewell { text } => {
                    self.output.push_text(text);
                    return Err(End::LastReply);
                }
            }
            self.output.flush_if_large(&mut self.session)?;
        }
    }

    /// Executes the pipelined commands in their order. They share the queue's lock.
    fn execute_pipelined(&mut self) -> Result<(), End> {
        while !self.pipelined.is_empty() {
            self.session.execute_all(&mut self.pipelined, &mut self.outcomes);
            while let Some((outcome, dialect)) = self.outcomes.pop_front() {
                self.answer(outcome, dialect)?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, command: Command, dialect: Dialect) -> Result<(), End> {
        if command.spec().long_reply {
            return Ok(self.execute_long(command, dialect)?);
        }
        let outcome = self.session.execute(command);
        self.answer(outcome, dialect)
    }

    /// Executes a command whose reply may be long. One connection at a time does so.
    fn execute_long(&mut self, command: Command, dialect: Dialect) -> Result<(), Dropped> {
        let shared = self.shared;
        let Some(turn) = shared.long_replies.turn() else {
            let text = "other clients have not taken their long replies yet: try again in a moment";
            self.output.push(&Reply::Refused(Refusal::full(LONG_RETRY_AFTER, text)), dialect);
            return Ok(());
        };
        let before = self.output.bytes();
        if let Outcome::Reply(reply) = self.session.execute(command) {
            self.output.push(&reply, dialect);
        }
        let _waiting = shared.long_replies.count(self.output.bytes() - before);
        drop(turn);
        self.output.flush_if_large(&mut self.session)
    }

    fn answer(&mut self, outcome: Outcome, dialect: Dialect) -> Result<(), End> {
        match outcome {
            Outcome::Reply(reply) => self.output.push(&reply, dialect),
            Outcome::Wait(wanted) => self.wait(&wanted, dialect)?,
            Outcome::Goodbye => return Err(End::Quit),
        }
        Ok(self.output.flush_if_large(&mut self.session)?)
    }

    /// Waits for what a command asked for. Earlier replies are sent first, because the client may be waiting for them.
    fn wait(&mut self, wanted: &Wanted, dialect: Dialect) -> Result<(), Dropped> {
        self.output.flush(&mut self.session)?;
        self.output.shrink();
        self.shrink_pipelined();
        if !std::mem::replace(&mut self.has_waited, true)
            && let Err(error) = self.peer.watch_disconnected()
        {
            log::warn!("can't watch a waiting connection: {error}");
        }
        let reply = match self.session.wait(wanted) {
            Waited::Leased(lease) => Reply::Leased(lease),
            Waited::Drained(paused) => Reply::Drained { paused },
            Waited::Order(order) => Reply::Order(order),
            Waited::Finished { id, how } => Reply::Finished { id, how },
            Waited::Batch { stats, complete } => Reply::Batch { stats, complete },
            Waited::LapsesSoon => Reply::LapsesSoon,
            Waited::Refused(refusal) => Reply::Refused(refusal),
            Waited::Cancelled if self.shared.is_stopping() => Reply::Refused(Refusal::new(
                Code::Draining,
                "this server is shutting down: connect again in a moment, or to another one",
            )),
            // The client has closed its side. If only for sending, it may still read this.
            Waited::TimedOut | Waited::Cancelled => Reply::Empty,
        };
        self.output.push(&reply, dialect);
        Ok(())
    }

    /// Removes bytes from the head of the buffer. The next command's time starts behind a command's last
    /// byte. Skipping the rest of a refused command is no progress.
    fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        if !self.decoder.is_midway(&[]) {
            self.input.end_frame();
        }
    }

    /// Receives more bytes.
    fn receive(&mut self) -> Result<(), End> {
        if self.input.unread().is_empty() {
            self.output.shrink();
        }
        let midway = self.decoder.is_midway(self.input.unread());
        let deadline = midway.then(|| self.input.frame_deadline(self.shared));
        loop {
            let has_grown = self.input.has_grown() || self.pipelined.capacity() > PIPELINED_KEPT;
            let idle_after = (has_grown && !midway || self.output.others_send()).then_some(IDLE_AFTER);
            let received = self.input.receive(&self.peer.stream, deadline, idle_after, self.shared);
            match received.map_err(Dropped::Socket)? {
                Received::Bytes => return Ok(()),
                Received::End => return Err(End::Closed),
                Received::Nothing => {
                    // Other threads may have left a rest to send.
                    self.output.join()?;
                    if !midway {
                        self.input.shrink();
                        self.shrink_pipelined();
                    }
                }
            }
        }
    }

    /// Frees the room of pipelined commands, except what is in use.
    fn shrink_pipelined(&mut self) {
        self.pipelined.shrink_to_fit();
        self.outcomes.shrink_to_fit();
    }
}
