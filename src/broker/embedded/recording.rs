//! Passes changes to the journal, and knows which jobs' last changes may not be durable yet.

use std::collections::{HashMap, VecDeque};

use crate::change::{Change, attempt_bytes};
use crate::job::JobId;
use crate::journal::{Journal, Live, Position};
use crate::queue::Recorder;
use crate::queue::state::State;

/// Where the queue's changes go.
pub(super) enum Recording {
    /// Nowhere: jobs are only in memory.
    Memory,
    /// To the journal.
    Journal { journal: Journal, unsettled: Unsettled },
}

/// Jobs whose last change may not be durable yet.
///
/// A worker must not get a job that a crash could still erase. Waiting for all changes would be correct too,
/// but in a busy server each lease would wait for everybody's writes, although most jobs have been durable
/// for long when they are leased.
#[derive(Default)]
pub(super) struct Unsettled {
    latest: HashMap<JobId, Position>,
    /// The same in the journal's order, including entries that a later change of the same job has replaced.
    order: VecDeque<(Position, JobId)>,
}

impl Recording {
    pub(super) fn new(journal: Option<Journal>, state: &State) -> Recording {
        match journal {
            None => Recording::Memory,
            Some(journal) => {
                journal.set_live(live(state));
                Recording::Journal { journal, unsettled: Unsettled::default() }
            }
        }
    }
}

impl Recorder for Recording {
    type Position = Position;

    fn record(&mut self, changes: &[Change], state: &State) {
        let Recording::Journal { journal, unsettled } = self else { return };
        unsettled.forget_up_to(journal.durable());
        for change in changes {
            // Remembered attempts are the first thing that a full disk has no room for.
            if let Change::Attempt(id, attempt) = change
                && !journal.has_room_for_reason(attempt_bytes(*id, attempt))
            {
                continue;
            }
            let position = journal.append(change);
            match change {
                Change::Job(spec, _) => unsettled.note(spec.id, position),
                Change::Status(id, _) | Change::Done(id, ..) => unsettled.note(*id, position),
                Change::Gone(_)
                | Change::GoneOf(..)
                | Change::Attempt(..)
                | Change::Batch(_)
                | Change::Pause(..)
                | Change::IdsUsed(_) => {}
            }
        }
        journal.set_live(live(state));
    }

    fn position(&self) -> Position {
        match self {
            Recording::Memory => Position::default(),
            Recording::Journal { journal, .. } => journal.appended(),
        }
    }

    fn position_of(&mut self, id: JobId) -> Position {
        match self {
            Recording::Memory => Position::default(),
            Recording::Journal { unsettled, .. } => unsettled.latest.get(&id).copied().unwrap_or_default(),
        }
    }
}

impl Unsettled {
    fn note(&mut self, id: JobId, position: Position) {
        self.latest.insert(id, position);
        self.order.push_back((position, id));
    }

    fn forget_up_to(&mut self, durable: Position) {
        while let Some(&(position, id)) = self.order.front()
            && position <= durable
        {
            self.order.pop_front();
            if self.latest.get(&id) == Some(&position) {
                self.latest.remove(&id);
            }
        }
    }
}

fn live(state: &State) -> Live {
    let (jobs, extra_end_bytes, bytes) = state.live();
    Live { jobs, extra_end_bytes, bytes }
}
