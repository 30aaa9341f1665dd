//! What survives the process: changes as the journal records them, and how they are restored.

use std::time::Duration;

use super::slot::ResultIs;
use super::{Extra, Packed, PauseEnd, Place, Queue, QueueIx, SharedOptions, Slot, State, Why};
use crate::change::{self, Change, JobSpec, JobStatus, PauseState};
use crate::clock::{Moment, Now};
use crate::job::{Counts, JobId, QueueName};

impl State {
    /// Applies a change from a journal. Call it on a new state, in the journal's order, before any session is
    /// opened.
    pub fn restore(&mut self, now: Now, change: Change) {
        match change {
            Change::Job(spec, status) => self.restore_job(now, spec, status),
            Change::Status(id, status) => self.restore_status(now, id, status),
            Change::Done(id, status, result) => {
                if self.jobs.get(id).is_some() {
                    self.set_body(id, result);
                    self.restore_status(now, id, status);
                }
            }
            Change::Gone(id) => self.restore_end(now, id),
            Change::GoneOf(id, counts) => {
                self.restore_end(now, id);
                self.restore_batch(now, counts);
            }
            Change::Batch(counts) => self.restore_batch(now, counts),
            Change::Attempt(id, attempt) => {
                if self.jobs.get(id).is_some() {
                    self.remember(id, attempt);
                }
            }
            Change::Pause(name, pause) => self.restore_pause(now, &name, pause),
            Change::IdsUsed(id) => self.last_id = self.last_id.max(id),
        }
    }

    fn restore_end(&mut self, now: Now, id: JobId) {
        self.last_id = self.last_id.max(id);
        if self.jobs.get(id).is_some() {
            self.remove(now, id, Why::Dropped);
        }
    }

    fn restore_job(&mut self, now: Now, spec: JobSpec, status: JobStatus) {
        let JobSpec { id, queue, ttr, attempts, backoff, key, created_s, keep, batch, body } = spec;
        if self.jobs.get(id).is_some() {
            // Compaction has written it again.
            return self.restore_status(now, id, status);
        }
        self.last_id = self.last_id.max(id);
        let JobStatus { priority, place, counts, reason } = status;
        let rare = key.is_some() || super::slot::counts_in_advance(attempts);
        let extra = rare.then(|| Box::new(Extra { key, ..Extra::default() }));
        let queue = self.queue_named(&queue);
        let batch = batch.map(|batch| self.batch_named(&batch));
        let options = self.shared_options.intern(SharedOptions::new(ttr, attempts, backoff, keep, batch));
        let place = self.restored_place(now, place);
        self.insert(
            now,
            id,
            Slot { body, place: Packed::new(place), extra, queue, options, priority, created_s },
        );
        // Most jobs never failed; a million look-ups less.
        if counts != Counts::default() {
            self.set_counts(id, counts);
        }
        if reason.is_some() {
            self.set_reason(id, reason);
        }
    }

    fn restore_status(&mut self, now: Now, id: JobId, status: JobStatus) {
        if self.jobs.get(id).is_none() {
            return;
        }
        let JobStatus { priority, place, counts, reason } = status;
        self.set_counts(id, counts);
        self.set_reason(id, reason);
        self.reprioritise(id, priority);
        if let (Place::Dead { .. }, change::Place::Dead { dead_seq: 0 }) = (self.slot(id).place(), place) {
            // It keeps its number among the dead.
            return;
        }
        let place = self.restored_place(now, place);
        self.relocate(now, id, place);
    }

    fn restored_place(&mut self, now: Now, place: change::Place) -> Place {
        match place {
            change::Place::Ready => Place::Ready,
            change::Place::Dead { dead_seq: 0 } => self.next_dead(),
            change::Place::Dead { dead_seq } => {
                self.last_dead_seq = self.last_dead_seq.max(dead_seq);
                Place::Dead { dead_seq }
            }
            // A job whose delay is over becomes ready at the first tick, in the order of the deadlines.
            change::Place::Delayed { until_wall_ms } => {
                Place::delayed(now, moment_of(now, until_wall_ms).until(now.mono))
            }
            change::Place::Done { until_wall_ms, ran_ms, result_dropped } => Place::Done {
                until: moment_of(now, until_wall_ms),
                ran_ms,
                result: if result_dropped { ResultIs::Dropped } else { ResultIs::Kept },
            },
            change::Place::Cancelled { until_wall_ms } => {
                Place::Cancelled { until: moment_of(now, until_wall_ms) }
            }
        }
    }

    fn restore_pause(&mut self, now: Now, name: &QueueName, pause: PauseState) {
        let queue = self.queue_named(name);
        let pause = match pause {
            PauseState::Running => None,
            PauseState::Paused => Some(PauseEnd::Resumed),
            PauseState::PausedUntil { wall_ms } => Some(PauseEnd::At(moment_of(now, wall_ms))),
        };
        self.set_pause(queue, pause);
        self.queue_mut(queue).pause_time = match pause {
            Some(PauseEnd::At(end)) => Some(end.until(now.mono)),
            Some(PauseEnd::Resumed) | None => None,
        };
        self.schedule_queue(queue);
        self.drop_if_unused(queue);
    }

    /// A job as a change that restores it, if it still exists.
    pub fn export(&self, now: Now, id: JobId) -> Option<Change> {
        self.jobs.get(id).map(|_| self.full_change(now, id))
    }

    /// The paused queues, as changes that restore them.
    pub fn export_pauses(&self, now: Now) -> Vec<Change> {
        let queues = self.by_age.values().map(|&queue| self.queue(queue));
        queues.filter(|queue| queue.paused.is_some()).map(|queue| pause_change(now, queue)).collect()
    }

    pub(super) fn full_change(&self, now: Now, id: JobId) -> Change {
        let slot = self.slot(id);
        let options = self.shared_options.get(slot.options);
        let spec = JobSpec {
            id,
            queue: self.queue(slot.queue).name.clone(),
            ttr: options.ttr(),
            attempts: options.attempts,
            backoff: options.backoff(),
            key: slot.key().cloned(),
            created_s: slot.created_s,
            keep: options.keep(),
            batch: options.batch.map(|batch| self.batch_name(batch).clone()),
            body: slot.body.clone(),
        };
        Change::Job(spec, slot.status(now))
    }

    pub(super) fn note_status(&mut self, now: Now, id: JobId) {
        if self.journaled {
            let status = self.slot(id).status(now);
            self.effects.changes.push(Change::Status(id, status));
        }
    }

    pub(super) fn note_done(&mut self, now: Now, id: JobId) {
        if self.journaled {
            let slot = self.slot(id);
            let (status, result) = (slot.status(now), slot.body.clone());
            self.effects.changes.push(Change::Done(id, status, result));
        }
    }

    pub(super) fn note_pause(&mut self, now: Now, queue: QueueIx) {
        if self.journaled {
            let change = pause_change(now, self.queue(queue));
            self.effects.changes.push(change);
        }
    }
}

impl Slot {
    fn status(&self, now: Now) -> JobStatus {
        JobStatus {
            priority: self.priority,
            place: match self.place() {
                Place::Ready | Place::Leased { .. } => change::Place::Ready,
                Place::Delayed { until, .. } => change::Place::Delayed { until_wall_ms: now.wall_of(until) },
                Place::Dead { dead_seq } => change::Place::Dead { dead_seq },
                Place::Done { until, ran_ms, result } => change::Place::Done {
                    until_wall_ms: now.wall_of(until),
                    ran_ms,
                    result_dropped: result == ResultIs::Dropped,
                },
                Place::Cancelled { until } => change::Place::Cancelled { until_wall_ms: now.wall_of(until) },
            },
            counts: self.counts(),
            reason: self.reason().cloned(),
        }
    }
}

fn moment_of(now: Now, wall_ms: u64) -> Moment {
    now.mono.after(Duration::from_millis(wall_ms.saturating_sub(now.wall_ms)))
}

fn pause_change(now: Now, queue: &Queue) -> Change {
    let pause = match queue.paused {
        None => PauseState::Running,
        Some(PauseEnd::Resumed) => PauseState::Paused,
        Some(PauseEnd::At(end)) => PauseState::PausedUntil { wall_ms: now.wall_of(end) },
    };
    Change::Pause(queue.name.clone(), pause)
}
