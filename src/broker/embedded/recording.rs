//! Passes changes on to the journal, and knows which of them may not be safe yet.

use std::collections::{HashMap, VecDeque};

use crate::change::Change;
use crate::job::JobId;
use crate::journal::{Journal, Live, Position};
use crate::queue::Recorder;
use crate::queue::state::State;

/// Where the queue's changes go.
pub(super) enum Recording {
    /// Nowhere: jobs are in memory only.
    Memory,
    /// To the journal.
    Journal { journal: Journal, unsettled: Unsettled },
}

/// Jobs whose last change was not safe when it was last looked.
///
/// A worker must not be shown a job that a crash could still erase. Waiting for all that has happened would be
/// right too, but then a worker in a busy server would wait for everybody's writes with each job; most jobs
/// have been safe for long when they are leased.
#[derive(Default)]
pub(super) struct Unsettled {
    latest: HashMap<JobId, Position>,
    /// The same in the journal's order, with entries that a later change of the same job has outdated.
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
            let position = journal.append(change);
            match change {
                Change::Job(spec, _) => unsettled.note(spec.id, position),
                Change::Status(id, _) => unsettled.note(*id, position),
                Change::Gone(_) | Change::Pause(..) | Change::IdsUsed(_) => {}
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
    let (jobs, bytes) = state.live();
    Live { jobs, bytes }
}
