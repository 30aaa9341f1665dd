//! Failed attempts of jobs, remembered for people: the last few of each job.
//!
//! They are the first thing that is dropped when memory is short, and decide nothing.

use super::*;
use crate::change::attempt_bytes;
use crate::job::{ATTEMPT_REASON_BYTES_MAX, ATTEMPTS_REMEMBERED, Attempt, AttemptEnd};

/// The accounted memory of an attempt without its texts.
const ATTEMPT_OVERHEAD_BYTES: u64 = 96;

impl State {
    /// Remembers failed attempts from now on.
    pub fn remember_attempts(&mut self) {
        self.remembers_attempts = true;
    }

    /// The last failed attempts of a job, the oldest first.
    pub fn history(&self, id: JobId) -> &[Attempt] {
        self.jobs.get(id).map_or(&[], |slot| slot.history())
    }

    /// The failed attempts of a job, as changes that restore them.
    pub fn export_history(&self, id: JobId) -> impl Iterator<Item = Change> {
        self.history(id).iter().map(move |attempt| Change::Attempt(id, attempt.clone()))
    }

    /// Remembers that the attempt of a leased job fails now, if there is room for it.
    pub(super) fn note_attempt(&mut self, now: Now, id: JobId, end: AttemptEnd, reason: Option<&Arc<str>>) {
        if !self.remembers_attempts {
            return;
        }
        let Place::Leased { holder, .. } = self.slot(id).place() else { return };
        let started = self.leased_since(id).unwrap_or(now.mono);
        let attempt = Attempt {
            number: self.history(id).last().map_or(0, |last| last.number).saturating_add(1),
            worker: self.worker_name(holder).cloned(),
            started_ms: now.wall_of(started),
            ended_ms: now.wall_ms,
            end,
            reason: reason.map(|reason| cut_to(reason, ATTEMPT_REASON_BYTES_MAX)),
        };
        if !self.budget.has_room(Purpose::Note, EXTRA_OVERHEAD_BYTES + cost(&attempt)) {
            return;
        }
        if self.journaled {
            self.effects.changes.push(Change::Attempt(id, attempt.clone()));
        }
        self.remember(id, attempt);
    }

    /// Adds an attempt to a job's history, unless it is there already.
    pub(super) fn remember(&mut self, id: JobId, attempt: Attempt) {
        self.amend(id, |extra| {
            let history = &mut extra.history;
            match history.binary_search_by_key(&attempt.number, |known| known.number) {
                Ok(at) => history[at] = attempt,
                Err(at) => history.insert(at, attempt),
            }
            if history.len() > ATTEMPTS_REMEMBERED {
                history.remove(0);
            }
        });
    }
}

/// The accounted memory of a history.
pub(super) fn history_cost(history: &[Attempt]) -> u64 {
    history.iter().map(cost).sum()
}

/// What a history adds to the bytes that the journal has to keep.
pub(super) fn history_bytes(id: JobId, history: &[Attempt]) -> u64 {
    history.iter().map(|attempt| attempt_bytes(id, attempt)).sum()
}

fn cost(attempt: &Attempt) -> u64 {
    let Attempt { worker, reason, .. } = attempt;
    let texts = worker.as_ref().map_or(0, |worker| worker.as_str().len())
        + reason.as_ref().map_or(0, |reason| reason.len());
    ATTEMPT_OVERHEAD_BYTES + texts as u64
}
