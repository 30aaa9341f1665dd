//! Searching: the newest jobs to which some conditions apply. It looks at jobs one by one, the newest first, so the
//! caller limits how many.

use memchr::memmem;

use super::*;
use crate::job::Search;

/// How much one search may look at, in all its slices.
#[derive(Clone, Copy, Debug)]
pub struct SearchBudget {
    /// Jobs.
    pub jobs: u64,
    /// Bytes of bodies, results and reasons in which a text is looked for.
    pub bytes: u64,
}

/// What a slice of a search has found.
#[derive(Debug)]
pub struct SearchSlice {
    /// The jobs that were found, the newest first.
    pub found: Vec<Job>,
    /// From where the search goes on: only jobs with lower ids are left. `None` if it has looked at all.
    pub before: Option<JobId>,
}

impl State {
    /// Looks for at most `limit` jobs with ids below `before`, and takes what it looked at from `budget`, of which it
    /// uses at most `slice` here.
    pub fn search(
        &self,
        now: Now,
        search: &Search,
        before: Option<JobId>,
        limit: usize,
        budget: &mut SearchBudget,
        slice: SearchBudget,
    ) -> SearchSlice {
        let mut before = before;
        let mut left =
            SearchBudget { jobs: slice.jobs.min(budget.jobs), bytes: slice.bytes.min(budget.bytes) };
        let taken = left;
        let mut found = Vec::new();
        let finder = search.text.as_ref().map(memmem::Finder::new);
        let mut is_over = false;
        while left.jobs > 0 && left.bytes > 0 && found.len() < limit {
            let Some(id) = self.newest_before(search, before) else {
                is_over = true;
                break;
            };
            before = Some(id);
            left.jobs -= 1;
            let slot = self.slot(id);
            if fits(now, slot, search)
                && finder.as_ref().is_none_or(|finder| has_text(slot, finder, &mut left))
            {
                found.push(self.job(now, id, slot));
            }
        }
        budget.jobs -= taken.jobs - left.jobs;
        budget.bytes -= taken.bytes - left.bytes;
        SearchSlice { found, before: if is_over { None } else { before } }
    }

    /// The newest job of those of the search's queue or batch and state whose id is lower.
    fn newest_before(&self, search: &Search, before: Option<JobId>) -> Option<JobId> {
        let Some(of) = &search.of else { return self.jobs.previous(before) };
        let listed = self.listed(of)?;
        match search.state {
            Some(state) => listed.previous(state, before),
            None => JobState::ALL.into_iter().filter_map(|state| listed.previous(state, before)).max(),
        }
    }
}

fn fits(now: Now, slot: &Slot, search: &Search) -> bool {
    let Search { of: _, state, key, age, text: _ } = search;
    let is_old = |age: Duration| (now.wall_ms / 1000).saturating_sub(slot.created_s.into()) >= age.as_secs();
    state.is_none_or(|state| slot.place().state() == state)
        && key.as_ref().is_none_or(|key| slot.key() == Some(key))
        && age.is_none_or(is_old)
}

fn has_text(slot: &Slot, finder: &memmem::Finder<'_>, left: &mut SearchBudget) -> bool {
    let reason = slot.reason().map_or(&b""[..], |reason| reason.as_bytes());
    left.bytes = left.bytes.saturating_sub((slot.body.len() + reason.len()) as u64);
    finder.find(&slot.body).is_some() || finder.find(reason).is_some()
}
