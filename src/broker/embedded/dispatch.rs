//! What each command does: from a [`Command`] to calls of the state machine, and from their results to a
//! [`Reply`].
//!
//! Most commands are one call under the queue's lock ([`Client::execute`]). Those that touch any number of
//! jobs or queues are in `lengthy` ([`Client::execute_at_length`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;
use super::recording::Recording;
use super::tallies::Tally;
use crate::broker::{Outcome, RECORD_BYTES_MAX, Wanted};
use crate::clock::{Moment, Now};
use crate::error::{Code, Refusal};
use crate::job::{Acked, BatchName, JobId, OnDrained, QueueName, Submission};
use crate::journal::{Position, Room};
use crate::protocol::{Cancel, Command, Compat, FEW_QUEUES, Reply, Retry, Wait};
use crate::queue::Locked;
use crate::queue::state::{Accepted, Failed, Returned, SessionId, State, Warn};

/// When a submission that was refused because the disk is full is worth trying again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the engine knows of a session's client, apart from what the state machine keeps.
pub(super) struct Client {
    pub(super) id: SessionId,
    /// The queue that it uses, in the second dialect.
    pub(super) using: QueueName,
    /// How many queues it watches, in the second dialect.
    watching: usize,
    /// Whether its last command was a lease that looked at many queues, and so kept the lock for long: others
    /// should get it now.
    pub(super) looked_at_many: bool,
    /// The counts of its commands.
    tally: Arc<Tally>,
    /// The place in the journal that has to be durable before the session's replies are sent.
    pub(super) unsettled: Position,
}

/// How a command under the lock went.
pub(super) enum Step {
    Done(Outcome),
    /// The command comes back: the journal must be written first, for this many bytes to fit.
    MustWrite(Command, u64),
}

impl Client {
    pub(super) fn new(id: SessionId, tally: Arc<Tally>) -> Client {
        Client {
            id,
            using: QueueName::default(),
            watching: 1,
            looked_at_many: false,
            tally,
            unsettled: Position::default(),
        }
    }

    /// Counts a command.
    pub(super) fn tally(&self, command: &Command) {
        if let Some(counted) = command.spec().counted {
            self.tally.count(counted);
        }
    }

    /// Notes a place that has to be durable before the next reply is sent.
    pub(super) fn note(&mut self, position: Position) {
        self.unsettled = self.unsettled.max(position);
    }

    /// Executes a command under the lock. `room` is what the journal has for it, if it was asked already.
    pub(super) fn execute(
        &mut self,
        engine: &Engine,
        locked: &mut Locked<Recording>,
        now: Now,
        command: Command,
        room: Option<Room>,
    ) -> Step {
        self.looked_at_many = false;
        let session = self.id;
        let mut call = Call { client: self, locked, now };
        let reply = match command {
            Command::Submit(submission) => return call.submit(engine, submission, room),
            Command::Lease { queues, wait, on_drained } => {
                return Step::Done(call.lease(queues, Warn::Never, wait, on_drained));
            }
            Command::Ack { id, result } => return call.ack(engine, id, result, room),
            Command::Fail { id, delay, dead, reason } => {
                let reason = reason.filter(|reason| engine.has_room_for_reason(reason.len()));
                call.with(|state, now| state.fail(now, session, id, delay, dead, reason)).map(failed)
            }
            Command::Return { id, delay } => {
                call.with(|state, now| state.return_job(now, session, id, None, delay)).map(done)
            }
            Command::Touch { id, ttr, progress, note } => {
                let touch = |state: &mut State, now| {
                    state.touch(now, session, id, ttr)?;
                    if progress.is_some() || note.is_some() {
                        state.note_progress(now, id, progress, note);
                    }
                    Ok(())
                };
                call.with(touch).map(done)
            }
            Command::Show { id } => {
                let found = call.with(|state, now| state.peek(now, id));
                found.map(|job| Reply::Jobs(vec![job])).ok_or_else(|| no_job(id))
            }
            Command::Why { id } => {
                call.with(|state, now| state.why(now, id)).map(|why| Reply::Why(Box::new(why)))
            }
            Command::Peek { id } => {
                let found = call.with(|state, now| state.peek(now, id));
                found.map(|job| Reply::Found(Box::new(job))).ok_or_else(|| no_job(id))
            }
            Command::Wait { id, wait } => return Step::Done(call.wait_for_end(id, wait)),
            Command::Batch { name, total, wait } => return Step::Done(call.batch(name, total, wait)),
            Command::Cancel { what: Cancel::Job(id), reason } => {
                let reason = reason.filter(|reason| engine.has_room_for_reason(reason.len()));
                call.with(|state, now| state.cancel(now, id, reason)).map(Reply::Was)
            }
            Command::Retry(Retry::Job(id)) => {
                call.with(|state, now| state.retry(now, id)).map(|()| Reply::Count(1))
            }
            Command::Delete { id } => call.with(|state, now| state.delete(now, session, id)).map(done),
            Command::Pause { queue, time } => call.pause(&queue, time).map(done),
            Command::Stats { queue: Some(queue) } => {
                let stats = call.with(|state, now| state.queue_stats(now, &queue));
                stats.map(|stats| Reply::QueueStats(Box::new(stats))).ok_or_else(|| no_queue(&queue))
            }
            Command::Hello(hello) => {
                call.look(|state, now| state.hello(now, session, *hello));
                Ok(Reply::Hello)
            }
            Command::Orders { wait } => return Step::Done(call.orders(wait)),
            Command::Wish { worker, wish } => {
                Ok(Reply::Count(call.look(|state, _| state.wish(&worker, wish))))
            }
            Command::Ping => Ok(Reply::Pong),
            Command::Compat(compat) => return call.compat(engine, compat, room),
            Command::List { .. }
            | Command::Search { .. }
            | Command::Several { .. }
            | Command::Retry(Retry::All { .. })
            | Command::Cancel { what: Cancel::All { .. }, .. }
            | Command::Purge { .. }
            | Command::Resume { .. }
            | Command::Stats { queue: None }
            | Command::Queues
            | Command::Hold { .. }
            | Command::Beat { .. }
            | Command::Workers
            | Command::Help
            | Command::Quit => unreachable!("it was executed at length"),
        };
        Step::Done(answer(reply))
    }

    /// Executes a command that touches any number of jobs or queues, or that needs no lock. Any other comes
    /// back.
    pub(super) fn execute_at_length(
        &mut self,
        engine: &Engine,
        command: Command,
    ) -> Result<Outcome, Command> {
        let reply = match command {
            Command::List { of, state, limit, after } => {
                self.list(engine, &of, state, limit, after).map(Reply::Jobs)
            }
            Command::Search { search, limit, before } => self.search(engine, &search, limit, before),
            Command::Several { ids, what } => self.several(engine, &ids, &what),
            Command::Retry(Retry::All { of, limit }) => self.retry_all(engine, &of, limit).map(Reply::Count),
            Command::Cancel { what: Cancel::All { of, state }, reason } => {
                self.cancel_all(engine, &of, state, reason).map(Reply::Count)
            }
            Command::Purge { of, state } => self.purge(engine, &of, state).map(Reply::Count),
            Command::Resume { queue } => self.resume(engine, &queue).map(done),
            Command::Stats { queue: None } => Ok(Reply::ServerStats(Box::new(engine.stats()))),
            Command::Queues => self.queues(engine).map(Reply::Queues),
            Command::Hold { ids } => self.hold(engine, &ids),
            Command::Beat { ids } => self.beat(engine, &ids),
            Command::Workers => self.workers(engine).map(Reply::Workers),
            Command::Ping => Ok(Reply::Pong),
            Command::Help => Ok(Reply::Help),
            Command::Quit => return Ok(Outcome::Goodbye),
            Command::Compat(Compat::Kick { limit }) => self.kick(engine, limit).map(Reply::Count),
            Command::Compat(Compat::PauseExisting { queue, time }) if time.is_zero() => {
                self.end_pause_of_existing(engine, &queue).map(done)
            }
            Command::Compat(Compat::ServerDetails) => Ok(Reply::ServerDetails(Box::new(engine.details()))),
            Command::Compat(Compat::QueueNames) => self.queue_names(engine).map(Reply::Names),
            other => return Err(other),
        };
        Ok(answer(reply))
    }
}

/// One command under the lock.
struct Call<'a> {
    client: &'a mut Client,
    locked: &'a mut Locked<Recording>,
    now: Now,
}

impl Call<'_> {
    /// Calls a verb of the state machine, and notes what has to be durable before its result is shown.
    fn with<T>(&mut self, verb: impl FnOnce(&mut State, Now) -> T) -> T {
        let (result, position) = self.locked.with(self.now, verb);
        self.client.note(position);
        result
    }

    /// Calls a verb whose result does not depend on what is not durable yet.
    fn look<T>(&mut self, verb: impl FnOnce(&mut State, Now) -> T) -> T {
        self.locked.with(self.now, verb).0
    }

    fn submit(&mut self, engine: &Engine, submission: Box<Submission>, room: Option<Room>) -> Step {
        let bytes = submission.body.len() as u64 + RECORD_BYTES_MAX;
        let reply = match engine.room_for_submission(bytes, room) {
            Ok(Room::Yes) => self.with(|state, now| state.submit(now, *submission)).map(accepted),
            Ok(Room::MustWrite) => return Step::MustWrite(Command::Submit(submission), bytes),
            Ok(Room::No) => Err(disk_full()),
            Err(refusal) => Err(refusal),
        };
        Step::Done(answer(reply))
    }

    fn ack(&mut self, engine: &Engine, id: JobId, result: Option<Arc<[u8]>>, room: Option<Room>) -> Step {
        let returned = match result {
            None => Returned::Nothing,
            Some(result) if result.is_empty() || !self.look(|state, _| state.keeps_result(id)) => {
                Returned::Result(result)
            }
            Some(result) => match engine.room_for_result(result.len() as u64, room) {
                Room::Yes => Returned::Result(result),
                Room::No => Returned::NoRoom,
                Room::MustWrite => {
                    let bytes = result.len() as u64;
                    return Step::MustWrite(Command::Ack { id, result: Some(result) }, bytes);
                }
            },
        };
        let session = self.client.id;
        let acked = self.with(|state, now| state.ack(now, session, id, returned));
        Step::Done(answer(acked.map(|acked| match acked {
            Acked::Whole => Reply::Done,
            Acked::ResultDropped => Reply::ResultDropped,
        })))
    }

    fn wait_for_end(&mut self, id: JobId, wait: Wait) -> Outcome {
        match self.with(|state, _| state.finished(id)) {
            Ok(Some(how)) => Outcome::Reply(Reply::Finished { id, how }),
            Err(refusal) => Outcome::Reply(Reply::Refused(refusal)),
            Ok(None) => match self.deadline(wait) {
                Some(deadline) => Outcome::Wait(Wanted::End { id, deadline }),
                None => Outcome::Reply(Reply::Empty),
            },
        }
    }

    fn batch(&mut self, name: BatchName, total: u64, wait: Wait) -> Outcome {
        let stats = self.with(|state, _| state.batch_stats(&name));
        match self.deadline(wait) {
            Some(deadline) if !stats.is_complete(total) => {
                Outcome::Wait(Wanted::Batch { name, total, deadline })
            }
            _ => Outcome::Reply(Reply::Batch { stats, complete: stats.is_complete(total) }),
        }
    }

    fn orders(&mut self, wait: Wait) -> Outcome {
        let session = self.client.id;
        match self.look(|state, _| state.take_order(session)) {
            Ok(Some(order)) => Outcome::Reply(Reply::Order(order)),
            Err(refusal) => Outcome::Reply(Reply::Refused(refusal)),
            Ok(None) => match self.deadline(wait) {
                Some(deadline) => Outcome::Wait(Wanted::Order { deadline }),
                None => Outcome::Reply(Reply::Empty),
            },
        }
    }

    /// When a wait ends; `None` if there is to be no wait.
    fn deadline(&self, wait: Wait) -> Option<Option<Moment>> {
        match wait {
            Wait::AtMost(Duration::ZERO) => None,
            Wait::AtMost(time) => Some(Some(self.now.mono.after(time))),
            Wait::Forever => Some(None),
        }
    }

    fn lease(&mut self, queues: Vec<QueueName>, warn: Warn, wait: Wait, on_drained: OnDrained) -> Outcome {
        let session = self.client.id;
        let leased = self.locked.lease(self.now, session, &queues);
        self.client.looked_at_many = queues.is_empty() && self.client.watching > FEW_QUEUES;
        if let Some((lease, position)) = leased {
            self.client.note(position);
            return Outcome::Reply(Reply::Leased(lease));
        }
        if warn == Warn::BeforeLapse && self.look(|state, now| state.lapses_soon(now, session)) {
            return Outcome::Reply(Reply::LapsesSoon);
        }
        if on_drained == OnDrained::End
            && let Some(paused) = self.with(|state, _| state.drained(session, &queues))
        {
            return Outcome::Reply(Reply::Drained { paused });
        }
        match self.deadline(wait) {
            None => Outcome::Reply(Reply::Empty),
            Some(deadline) => Outcome::Wait(Wanted::Job { queues, warn, on_drained, deadline }),
        }
    }

    fn pause(&mut self, queue: &QueueName, time: Option<Duration>) -> Result<(), Refusal> {
        self.with(|state, now| {
            state.room_for(std::slice::from_ref(queue))?;
            state.pause(now, queue, time);
            Ok(())
        })
    }

    /// Not inlined, so that its large values take no stack of connections that don't use this dialect.
    #[inline(never)]
    fn compat(&mut self, engine: &Engine, command: Compat, room: Option<Room>) -> Step {
        let session = self.client.id;
        let using = self.client.using.clone();
        let reply = match command {
            Compat::LeaseWatched { wait } => {
                return Step::Done(self.lease(Vec::new(), Warn::BeforeLapse, wait, OnDrained::Wait));
            }
            Compat::SubmitHere(options, body) => {
                return self.submit(
                    engine,
                    Box::new(Submission { queue: using, options: *options, body }),
                    room,
                );
            }
            Compat::LeaseJob { id } => {
                self.with(|state, now| state.lease_job(now, session, id)).map(Reply::Leased)
            }
            Compat::Finish { id } => {
                if self.look(|state, _| state.is_leased_by(session, id)) {
                    return self.ack(engine, id, None, room);
                }
                self.with(|state, now| state.delete_unless_kept(now, session, id)).map(done)
            }
            Compat::ReturnAs { id, priority, delay } => {
                self.with(|state, now| state.return_job(now, session, id, Some(priority), delay)).map(done)
            }
            Compat::Bury { id, priority } => {
                self.with(|state, now| state.bury(now, session, id, priority)).map(|()| Reply::Dead)
            }
            Compat::KickJob { id } => self.with(|state, now| state.kick_job(now, id)).map(done),
            Compat::PeekNext { state: wanted } => {
                let found = self.with(|state, now| state.peek_next(now, &using, wanted));
                let none = || Refusal::new(Code::NotFound, format!("no job of {using} is {wanted}"));
                found.map(|job| Reply::Found(Box::new(job))).ok_or_else(none)
            }
            Compat::Use { queue } => {
                let used = self.look(|state, _| state.use_queue(session, &queue));
                used.map(|()| {
                    self.client.using = queue.clone();
                    Reply::Using(queue)
                })
            }
            Compat::Used => Ok(Reply::Using(using)),
            Compat::Watch { queue } => {
                let watched = self.look(|state, _| state.watch(session, &queue));
                watched.map(|count| self.watching(count))
            }
            Compat::Ignore { queue } => {
                let watched = self.look(|state, _| state.ignore(session, &queue));
                watched.map(|count| self.watching(count))
            }
            Compat::Watched => Ok(Reply::Names(self.look(|state, _| state.watched(session)))),
            Compat::PauseExisting { queue, time } => {
                let exists = self.with(|state, now| state.pause_existing(now, &queue, time));
                if exists { Ok(Reply::Done) } else { Err(no_queue(&queue)) }
            }
            Compat::JobStats { id } => {
                let found = self.with(|state, now| state.job_stats(now, id));
                found.map(|stats| Reply::JobStats(Box::new(stats))).ok_or_else(|| no_job(id))
            }
            Compat::QueueDetails { queue } => {
                let found = self.with(|state, now| state.queue_details(now, &queue));
                found.map(|details| Reply::QueueDetails(Box::new(details))).ok_or_else(|| no_queue(&queue))
            }
            Compat::Kick { .. } | Compat::ServerDetails | Compat::QueueNames => {
                unreachable!("it was executed at length")
            }
        };
        Step::Done(answer(reply))
    }

    fn watching(&mut self, count: usize) -> Reply {
        self.client.watching = count;
        Reply::Watching(count)
    }
}

impl Engine {
    /// Whether the journal has room for a submission whose record has at most this many bytes.
    fn room_for_submission(&self, bytes: u64, room: Option<Room>) -> Result<Room, Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::new(Code::Draining, "this server takes no new jobs: submit to another one"));
        }
        Ok(room.unwrap_or_else(|| self.journal.as_ref().map_or(Room::Yes, |journal| journal.room(bytes))))
    }

    /// Whether the journal has room for a result of this many bytes: as for a reason if the disk is full, and as
    /// for a job otherwise, since it may be as long as one.
    fn room_for_result(&self, bytes: u64, room: Option<Room>) -> Room {
        match (&self.journal, room) {
            (Some(journal), _) if !journal.has_room_for_reason(bytes) => Room::No,
            (Some(journal), None) if journal.room(bytes) == Room::MustWrite => Room::MustWrite,
            _ => Room::Yes,
        }
    }

    /// Whether the disk has room for a reason. A failure is recorded without it if not.
    pub(super) fn has_room_for_reason(&self, bytes: usize) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.has_room_for_reason(bytes as u64))
    }
}

fn disk_full() -> Refusal {
    Refusal::full(
        FULL_RETRY_AFTER,
        "the disk is full, or no more files may be opened (the server's log says which): wait until some jobs are done, or make room",
    )
}

fn no_job(id: JobId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no job {id}"))
}

pub(super) fn no_queue(queue: &QueueName) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no queue {queue}: it is empty and unused"))
}

fn answer(reply: Result<Reply, Refusal>) -> Outcome {
    Outcome::Reply(reply.unwrap_or_else(Reply::Refused))
}

fn accepted(Accepted { id, duplicate }: Accepted) -> Reply {
    Reply::Accepted { id, duplicate }
}

fn done((): ()) -> Reply {
    Reply::Done
}

fn failed(outcome: Failed) -> Reply {
    match outcome {
        Failed::RetryIn(wait) => Reply::RetryIn(wait),
        Failed::Dead => Reply::Dead,
    }
}
