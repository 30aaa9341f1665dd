//! Commands that touch any number of jobs, queues or workers. They run in slices, and take the queue's lock for
//! each.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::dispatch::{Client, no_queue};
use crate::broker::{LIST_BYTES_MAX, LIST_JOBS_MAX, SEARCH_BYTES_MAX, SEARCH_JOBS_MAX};
use crate::clock::Now;
use crate::error::Refusal;
use crate::job::{Group, Job, JobId, JobState, QueueName, Search};
use crate::protocol::{Each, Reply};
use crate::queue::SLICE_JOBS;
use crate::queue::state::{SearchBudget, Slice, State};
use crate::stats::{QueueStats, WorkerStats};

/// In how many bytes a text is looked for under one taking of the lock.
const SEARCH_SLICE_BYTES: u64 = 1 << 20;

/// How many workers are looked at under one taking of the lock. Each may hold many jobs.
const WORKERS_IN_SLICE: usize = 16;

impl Client {
    pub(super) fn list(
        &mut self,
        engine: &Engine,
        of: &Group,
        state: Option<JobState>,
        limit: u32,
        after: Option<JobId>,
    ) -> Result<Vec<Job>, Refusal> {
        let limit = limit.min(LIST_JOBS_MAX) as usize;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        self.in_slices(engine, |shared, now| {
            let after = jobs.last().map(|job: &Job| job.id).or(after);
            let most = (limit - jobs.len()).min(SLICE_JOBS as usize);
            let slice = shared.list(now, of, state, most, after);
            let finished = slice.len() < SLICE_JOBS as usize;
            for job in slice {
                bytes += shown_bytes(&job);
                jobs.push(job);
                if bytes >= LIST_BYTES_MAX {
                    return true;
                }
            }
            finished || jobs.len() == limit
        })?;
        Ok(jobs)
    }

    /// Looks for jobs, the newest first, until enough are found or enough were looked at.
    pub(super) fn search(
        &mut self,
        engine: &Engine,
        search: &Search,
        limit: u32,
        before: Option<JobId>,
    ) -> Result<Reply, Refusal> {
        let limit = limit.min(LIST_JOBS_MAX) as usize;
        let (mut jobs, mut bytes, mut before) = (Vec::new(), 0, before);
        let whole = SearchBudget { jobs: SEARCH_JOBS_MAX, bytes: SEARCH_BYTES_MAX };
        let mut budget = whole;
        self.in_slices(engine, |state, now| {
            let slice = SearchBudget { jobs: SLICE_JOBS, bytes: SEARCH_SLICE_BYTES };
            let most = (limit - jobs.len()).min(SLICE_JOBS as usize);
            let slice = state.search(now, search, before, most, &mut budget, slice);
            before = slice.before;
            for job in slice.found {
                bytes += shown_bytes(&job);
                jobs.push(job);
            }
            let enough = jobs.len() == limit || bytes >= LIST_BYTES_MAX;
            enough || before.is_none() || budget.jobs == 0 || budget.bytes == 0
        })?;
        Ok(Reply::Searched { jobs, searched: whole.jobs - budget.jobs, before })
    }

    /// Deletes, retries or cancels several jobs.
    pub(super) fn several(&mut self, engine: &Engine, ids: &[JobId], what: &Each) -> Result<Reply, Refusal> {
        let session = self.id;
        let (mut left, mut count, mut refused) = (ids, 0, Vec::new());
        self.in_slices(engine, |state, now| {
            let slice;
            (slice, left) = left.split_at(left.len().min(SLICE_JOBS as usize));
            for &id in slice {
                let changed = match what {
                    Each::Delete => state.delete(now, session, id).is_ok(),
                    Each::Retry => state.retry(now, id).is_ok(),
                    Each::Cancel(reason) => {
                        let reason = reason.clone().filter(|reason| engine.has_room_for_reason(reason.len()));
                        state.cancel(now, id, reason).is_ok_and(|was| !was.is_final())
                    }
                };
                if changed {
                    count += 1;
                } else {
                    refused.push(id);
                }
            }
            left.is_empty()
        })?;
        Ok(Reply::Several { count, refused })
    }

    pub(super) fn retry_all(
        &mut self,
        engine: &Engine,
        of: &Group,
        limit: Option<u64>,
    ) -> Result<u64, Refusal> {
        let mut left = None;
        self.slices_up_to_now(engine, |state, now, last| {
            // At most as many as are dead now: some may be dead again before this ends, and it has to end.
            let left = left.get_or_insert_with(|| state.dead_of(of).min(limit.unwrap_or(u64::MAX)));
            let slice = state.retry_all(now, of, last, SLICE_JOBS.min(*left));
            *left -= slice.count;
            Slice { finished: slice.finished || *left == 0, ..slice }
        })
    }

    pub(super) fn cancel_all(
        &mut self,
        engine: &Engine,
        of: &Group,
        state: Option<JobState>,
        reason: Option<Arc<str>>,
    ) -> Result<u64, Refusal> {
        let states = match state {
            // Ready jobs are leased meanwhile, and delayed ones become ready: leased ones last.
            None => &[JobState::Delayed, JobState::Ready, JobState::Leased][..],
            Some(state) if state.is_final() => {
                return Err(Refusal::usage(
                    "CANCEL takes ready, delayed or leased jobs: the others have ended",
                ));
            }
            Some(ref state) => std::slice::from_ref(state),
        };
        let mut count = 0;
        for &state in states {
            count += self.slices_up_to_now(engine, |shared, now, last| {
                let reason = reason.as_ref().filter(|reason| engine.has_room_for_reason(reason.len()));
                shared.cancel_all(now, of, state, reason, last, SLICE_JOBS)
            })?;
        }
        Ok(count)
    }

    pub(super) fn purge(
        &mut self,
        engine: &Engine,
        of: &Group,
        state: Option<JobState>,
    ) -> Result<u64, Refusal> {
        let states = match state {
            // Ready jobs last: others become ready meanwhile, delayed ones as they come due.
            None => &[JobState::Delayed, JobState::Dead, JobState::Ready][..],
            Some(JobState::Leased) => {
                return Err(Refusal::usage(
                    "leased jobs belong to their workers: CANCEL takes them, PURGE takes jobs in other states",
                ));
            }
            Some(ref state) => std::slice::from_ref(state),
        };
        let mut count = 0;
        for &state in states {
            count += self.slices_up_to_now(engine, |shared, now, last| {
                shared.purge(now, of, state, last, SLICE_JOBS)
            })?;
        }
        Ok(count)
    }

    pub(super) fn resume(&mut self, engine: &Engine, queue: &QueueName) -> Result<(), Refusal> {
        self.in_slices(engine, |state, now| state.resume(now, queue))
    }

    pub(super) fn queues(&mut self, engine: &Engine) -> Result<Vec<QueueStats>, Refusal> {
        let (mut all, mut after) = (Vec::new(), 0);
        self.in_slices(engine, |state, now| {
            let slice = state.queues(now, after, SLICE_JOBS as usize);
            let finished = slice.len() < SLICE_JOBS as usize;
            for (age, stats) in slice {
                after = age;
                all.push(stats);
            }
            finished
        })?;
        Ok(all)
    }

    /// Takes over leases, and then returns what else parked sessions of the worker have.
    pub(super) fn hold(&mut self, engine: &Engine, ids: &[JobId]) -> Result<Reply, Refusal> {
        let session = self.id;
        let held = self.of_ids(engine, ids, |state, _, ids| state.hold(session, ids))?;
        self.in_slices(engine, |state, now| state.end_parked(now, session, SLICE_JOBS))?;
        Ok(held)
    }

    pub(super) fn beat(&mut self, engine: &Engine, ids: &[JobId]) -> Result<Reply, Refusal> {
        let session = self.id;
        self.of_ids(engine, ids, |state, now, ids| state.beat(now, session, ids))
    }

    /// Calls a verb that returns which ids the worker does not hold, for some of them at a time.
    fn of_ids(
        &mut self,
        engine: &Engine,
        ids: &[JobId],
        mut verb: impl FnMut(&mut State, Now, &[JobId]) -> Result<Vec<JobId>, Refusal>,
    ) -> Result<Reply, Refusal> {
        let (mut left, mut lost, mut refused) = (ids, Vec::new(), None);
        self.in_slices(engine, |state, now| {
            let slice;
            (slice, left) = left.split_at(left.len().min(SLICE_JOBS as usize));
            match verb(state, now, slice) {
                Ok(more) => lost.extend(more),
                Err(refusal) => refused = Some(refusal),
            }
            left.is_empty() || refused.is_some()
        })?;
        match refused {
            Some(refusal) => Err(refusal),
            None => Ok(Reply::Held { count: (ids.len() - lost.len()) as u64, lost }),
        }
    }

    pub(super) fn workers(&mut self, engine: &Engine) -> Result<Vec<WorkerStats>, Refusal> {
        let (mut all, mut from) = (Vec::new(), 0);
        self.in_slices(engine, |state, now| {
            let slice = state.workers(now, from, WORKERS_IN_SLICE);
            let finished = slice.len() < WORKERS_IN_SLICE;
            for (next, stats) in slice {
                from = next;
                all.push(stats);
            }
            finished
        })?;
        Ok(all)
    }

    // ---- only the second dialect says these ----

    pub(super) fn kick(&mut self, engine: &Engine, limit: u64) -> Result<u64, Refusal> {
        let (queue, mut plan, mut count) = (self.using.clone(), None, 0);
        self.in_slices(engine, |state, now| {
            // The jobs that exist now, and not later ones, so that it ends.
            let (from, there) = *plan.get_or_insert_with(|| state.kickable(&queue));
            let most = (there.min(limit) - count).min(SLICE_JOBS);
            let kicked = state.kick(now, &queue, from, most);
            count += kicked;
            kicked < most || count == there.min(limit)
        })?;
        Ok(count)
    }

    pub(super) fn end_pause_of_existing(
        &mut self,
        engine: &Engine,
        queue: &QueueName,
    ) -> Result<(), Refusal> {
        let mut exists = None;
        // If very many sessions wait, not all of them are served at once.
        self.in_slices(engine, |state, now| {
            let exists = *exists.get_or_insert_with(|| state.pause_existing(now, queue, Duration::ZERO));
            !exists || state.resume(now, queue)
        })?;
        if exists == Some(true) { Ok(()) } else { Err(no_queue(queue)) }
    }

    /// `default` comes first: it exists for everybody.
    pub(super) fn queue_names(&mut self, engine: &Engine) -> Result<Vec<QueueName>, Refusal> {
        let (mut all, mut after) = (vec![QueueName::default()], 0);
        self.in_slices(engine, |state, _| {
            let slice = state.queue_names(after, SLICE_JOBS as usize);
            let finished = slice.len() < SLICE_JOBS as usize;
            after = slice.last().map_or(after, |(age, _)| *age);
            all.extend(slice.into_iter().map(|(_, name)| name).filter(|name| *name != QueueName::default()));
            finished
        })?;
        Ok(all)
    }

    /// Works on the jobs that exist now, and not on later ones, so that it ends. Returns how many it changed.
    fn slices_up_to_now(
        &mut self,
        engine: &Engine,
        mut slice: impl FnMut(&mut State, Now, JobId) -> Slice,
    ) -> Result<u64, Refusal> {
        let (mut last, mut count) = (None, 0);
        self.in_slices(engine, |state, now| {
            let last = *last.get_or_insert(state.last_id());
            let done = slice(state, now, last);
            count += done.count;
            done.finished
        })?;
        Ok(count)
    }

    fn in_slices(
        &mut self,
        engine: &Engine,
        slice: impl FnMut(&mut State, Now) -> bool,
    ) -> Result<(), Refusal> {
        let position = engine.queue.in_slices(slice)?;
        self.note(position);
        Ok(())
    }
}

/// About how many bytes LIST shows of a job.
fn shown_bytes(job: &Job) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    let history = job.history.iter().map(|attempt| ATTEMPT_SHOWN_BYTES + text(&attempt.reason));
    job.body.len()
        + job.result.as_ref().map_or(0, |result| result.len())
        + job.key.as_ref().map_or(0, |key| key.as_str().len())
        + text(&job.reason)
        + history.sum::<usize>()
}

/// About how many bytes LIST shows of an attempt, beside its reason.
const ATTEMPT_SHOWN_BYTES: usize = 100;
