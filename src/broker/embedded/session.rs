//! A session of the engine: it executes commands under the queue's lock, alone or in batches, and knows what
//! has to be durable before their results are shown.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use super::Engine;
use super::dispatch::{Client, Step};
use super::recording::Recording;
use crate::broker::{Outcome, Unavailable, Waited, Wanted};
use crate::clock::Now;
use crate::error::{Code, Refusal};
use crate::journal::{Journal, Room};
use crate::protocol::{Command, Dialect, Reply};
use crate::queue::state::SessionEnd;
use crate::queue::{self, Awaited, Broken, Queue, Waiter};

/// A batch leases no more jobs once their bodies have reached this many bytes: a client that is slow to read
/// must not have any number of them kept for it, or leased to it.
const BATCH_BODIES_MAX: usize = 64 << 10;

pub(in crate::broker) struct Session {
    engine: Arc<Engine>,
    client: Client,
    waiter: Arc<Waiter>,
    ended: bool,
}

#[derive(Clone, Debug)]
pub(in crate::broker) struct Canceller {
    queue: Weak<Queue<Recording>>,
    waiter: Arc<Waiter>,
}

impl Canceller {
    pub(in crate::broker) fn cancel(&self) {
        if let Some(queue) = self.queue.upgrade() {
            queue.cancel(&self.waiter);
        }
    }
}

/// Why a batch has released the lock.
enum Released {
    /// It has ended: nothing is left, a command has to wait, or it has leased enough.
    Ended,
    /// Somebody has to be woken, or the lock was held for long.
    ForOthers,
    /// The journal has to be written before this many bytes more fit; the command is back in the batch.
    ToWrite(u64),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.client.id).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn open(engine: Arc<Engine>) -> Session {
        let (id, waiter) = engine.queue.open_session();
        let tally = engine.tallies.open(id);
        Session { engine, client: Client::new(id, tally), waiter, ended: false }
    }

    pub(in crate::broker) fn canceller(&self) -> Canceller {
        Canceller { queue: Arc::downgrade(&self.engine.queue), waiter: Arc::clone(&self.waiter) }
    }

    pub(in crate::broker) fn execute(&mut self, mut command: Command) -> Outcome {
        self.client.tally(&command);
        command = match self.client.execute_at_length(&self.engine, command) {
            Ok(outcome) => return outcome,
            Err(command) => command,
        };
        let mut room = None;
        loop {
            let now = self.now();
            let (engine, client) = (&*self.engine, &mut self.client);
            let step = engine.queue.locked(|locked| client.execute(engine, locked, now, command, room));
            match step {
                Ok(Step::Done(outcome)) => return outcome,
                Ok(Step::MustWrite(again, bytes)) => {
                    (command, room) = (again, Some(self.make_room(bytes)));
                }
                Err(broken) => return refused(broken),
            }
        }
    }

    pub(in crate::broker) fn execute_all(
        &mut self,
        commands: &mut VecDeque<(Command, Dialect)>,
        outcomes: &mut VecDeque<(Outcome, Dialect)>,
    ) {
        let (mut bodies, mut room) = (0, None);
        loop {
            // One moment for all of them: reading the clock for each would be a tenth of their cost.
            let now = self.now();
            let (engine, client) = (&*self.engine, &mut self.client);
            let released = engine.queue.locked(|locked| {
                while let Some((command, dialect)) = commands.pop_front() {
                    // One that comes again, after the journal was written, has been counted.
                    if room.is_none() {
                        client.tally(&command);
                    }
                    match client.execute(engine, locked, now, command, room.take()) {
                        Step::MustWrite(command, bytes) => {
                            commands.push_front((command, dialect));
                            return Released::ToWrite(bytes);
                        }
                        Step::Done(outcome) => {
                            let goes_on = matches!(outcome, Outcome::Reply(_));
                            if let Outcome::Reply(Reply::Leased(lease)) = &outcome {
                                bodies += lease.body.len();
                            }
                            outcomes.push_back((outcome, dialect));
                            if !goes_on || bodies >= BATCH_BODIES_MAX {
                                return Released::Ended;
                            }
                        }
                    }
                    if locked.has_wakeups() || client.looked_at_many {
                        return Released::ForOthers;
                    }
                }
                Released::Ended
            });
            match released {
                Ok(Released::Ended) => break,
                Ok(Released::ForOthers) if commands.is_empty() => break,
                Ok(Released::ForOthers) => {}
                Ok(Released::ToWrite(bytes)) => room = Some(self.make_room(bytes)),
                Err(broken) => {
                    outcomes.extend(commands.drain(..).map(|(_, dialect)| (refused(broken), dialect)));
                    break;
                }
            }
        }
    }

    pub(in crate::broker) fn wait(&mut self, wanted: &Wanted) -> Waited {
        let (awaited, deadline) = match wanted {
            Wanted::Job { queues, warn, on_drained, deadline } => {
                (Awaited::Job { queues, warn: *warn, on_drained: *on_drained }, deadline)
            }
            Wanted::End { id, deadline } => (Awaited::End(*id), deadline),
            Wanted::Order { deadline } => (Awaited::Order, deadline),
            Wanted::Batch { name, total, deadline } => (Awaited::Batch { name, total: *total }, deadline),
        };
        match self.engine.queue.wait(self.client.id, &queue::Wait { awaited, deadline: *deadline }) {
            Ok(queue::Waited::Leased(lease, position)) => {
                self.client.note(position);
                Waited::Leased(lease)
            }
            Ok(queue::Waited::Drained(paused, position)) => {
                self.client.note(position);
                Waited::Drained(paused)
            }
            Ok(queue::Waited::Finished(id, how, position)) => {
                self.client.note(position);
                Waited::Finished { id, how }
            }
            Ok(queue::Waited::Batch { stats, complete, position }) => {
                self.client.note(position);
                Waited::Batch { stats, complete }
            }
            Ok(queue::Waited::Order(order)) => Waited::Order(order),
            Ok(queue::Waited::TimedOut) => Waited::TimedOut,
            Ok(queue::Waited::LapsesSoon) => Waited::LapsesSoon,
            Ok(queue::Waited::Cancelled) => Waited::Cancelled,
            Ok(queue::Waited::Refused(refusal)) => Waited::Refused(refusal),
            Err(broken) => Waited::Refused(broken.into()),
        }
    }

    pub(in crate::broker) fn settle(&mut self) -> Result<(), Refusal> {
        let Some(journal) = &self.engine.journal else { return Ok(()) };
        journal.wait(self.client.unsettled).map_err(unavailable)
    }

    pub(in crate::broker) fn settle_or_call<C>(
        &mut self,
        prepare: impl FnOnce() -> C,
    ) -> Result<bool, Refusal>
    where
        C: FnOnce(Result<(), Refusal>) + Send + 'static,
    {
        let Some(journal) = &self.engine.journal else { return Ok(true) };
        let prepare = || {
            let call = prepare();
            |result: Result<(), _>| call(result.map_err(unavailable))
        };
        journal.wait_or_call(self.client.unsettled, prepare).map_err(unavailable)
    }

    pub(in crate::broker) fn quit(mut self) {
        self.end(SessionEnd::Quit);
    }

    fn now(&self) -> Now {
        self.engine.queue.clock().now()
    }

    /// Writes the journal, so that this many bytes more fit, if the disk has room for them. Blocks.
    fn make_room(&self, bytes: u64) -> Room {
        match &self.engine.journal {
            Some(journal) if !journal.has_room(bytes) => Room::No,
            _ => Room::Yes,
        }
    }

    fn end(&mut self, ending: SessionEnd) {
        self.ended = true;
        self.engine.tallies.close(self.client.id);
        // A broken queue keeps the session; nothing is leased from it any more.
        let _ = self.engine.queue.end_session(self.client.id, ending);
        // Nobody waits for this to be durable.
        self.engine.journal.iter().for_each(Journal::nudge);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            self.end(SessionEnd::Lost);
        }
    }
}

fn refused(broken: Broken) -> Outcome {
    Outcome::Reply(Reply::Refused(broken.into()))
}

fn unavailable(error: Unavailable) -> Refusal {
    Refusal::new(Code::Unavailable, format!("{error}; the server stops"))
}
