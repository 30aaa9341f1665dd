//! The verbs of operators: they inspect, move and remove jobs by id or a queue at a time, and pause queues.

use std::time::Duration;

use super::*;

impl State {
    /// One job.
    pub fn peek(&self, now: Now, id: JobId) -> Option<Job> {
        self.jobs.get(id).map(|slot| self.job(now, id, slot))
    }

    /// At most `limit` jobs of a queue or a batch, oldest first, with ids above `after`.
    pub fn list(
        &self,
        now: Now,
        of: &Group,
        state: Option<JobState>,
        limit: usize,
        after: Option<JobId>,
    ) -> Vec<Job> {
        let Some(listed) = self.listed(of) else {
            return Vec::new();
        };
        let states = state.as_ref().map_or(&JobState::ALL[..], std::slice::from_ref);
        // The next job of each state. The one with the lowest id is the next of all.
        let mut heads: Vec<_> = states.iter().map(|&state| (state, listed.next(state, after))).collect();
        let mut jobs = Vec::new();
        while jobs.len() < limit {
            let next = heads.iter_mut().filter(|head| head.1.is_some()).min_by_key(|head| head.1);
            let Some(head) = next else { break };
            let (state, Some(id)) = *head else { break };
            head.1 = listed.next(state, Some(id));
            let slot = self.slot(id);
            debug_assert_eq!(slot.place().state(), state);
            jobs.push(self.job(now, id, slot));
        }
        jobs
    }

    /// The jobs of a queue or a batch by state, if there is such a queue or batch.
    pub(super) fn listed(&self, of: &Group) -> Option<&IdSet<JobState>> {
        match of {
            Group::Queue(name) => self.named(name).map(|queue| &self.queue(queue).listed),
            Group::Batch(name) => self.known_batch(name).map(|batch| &self.batch(batch).listed),
        }
    }

    /// Makes a dead job ready, with all its attempts, or a cancelled one.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is no such job, or it is neither, or if another job has the key of a
    /// cancelled one by now.
    pub fn retry(&mut self, now: Now, id: JobId) -> Result<(), Refusal> {
        match self.jobs.get(id).map(|slot| slot.place()) {
            Some(Place::Dead { .. }) => {
                self.revive(now, id);
                Ok(())
            }
            Some(Place::Cancelled { .. }) => self.restart(now, id),
            Some(place) => Err(Refusal::new(
                Code::NotFound,
                format!(
                    "job {id} is {}, neither dead nor cancelled: there is nothing to retry",
                    place.state()
                ),
            )),
            None => Err(not_found(id)),
        }
    }

    /// How many dead jobs a queue or a batch has.
    pub fn dead_of(&self, of: &Group) -> u64 {
        match of {
            Group::Queue(name) => self.named(name).map_or(0, |queue| self.queue(queue).counts.dead),
            Group::Batch(name) => self.batch_stats(name).jobs.dead,
        }
    }

    /// Makes the dead jobs of a queue or a batch with ids up to `last` ready, oldest first; at most `most` in
    /// one call.
    pub fn retry_all(&mut self, now: Now, of: &Group, last: JobId, most: u64) -> Slice {
        self.in_slices(of, JobState::Dead, last, most, |state, id| state.revive(now, id))
    }

    /// Removes a job, unless another session has it leased.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn delete(&mut self, now: Now, session: SessionId, id: JobId) -> Result<(), Refusal> {
        let slot = self.jobs.get(id).ok_or_else(|| not_found(id))?;
        let queue = slot.queue;
        if matches!(slot.place(), Place::Leased { holder, .. } if holder != session) {
            return Err(Refusal::new(
                Code::NotLeased,
                format!("job {id} is leased by another connection: delete it when that is done with it"),
            ));
        }
        self.count(queue, |totals| totals.deleted += 1);
        self.remove(now, id, Why::Dropped);
        Ok(())
    }

    /// As [`State::delete`], but a job that is done or cancelled is not found.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn delete_unless_kept(&mut self, now: Now, session: SessionId, id: JobId) -> Result<(), Refusal> {
        match self.jobs.get(id).map(|slot| slot.place()) {
            Some(Place::Done { .. } | Place::Cancelled { .. }) => Err(not_found(id)),
            _ => self.delete(now, session, id),
        }
    }

    /// Removes the jobs of a queue or a batch in one state with ids up to `last`; at most `most` in one call.
    /// `state` is not `Leased`, since leased jobs belong to their workers.
    pub fn purge(&mut self, now: Now, of: &Group, state: JobState, last: JobId, most: u64) -> Slice {
        debug_assert!(state != JobState::Leased);
        self.in_slices(of, state, last, most, |state, id| {
            let queue = state.slot(id).queue;
            state.count(queue, |totals| totals.deleted += 1);
            state.remove(now, id, Why::Dropped);
        })
    }

    pub(super) fn in_slices(
        &mut self,
        of: &Group,
        state: JobState,
        last: JobId,
        most: u64,
        mut each: impl FnMut(&mut State, JobId),
    ) -> Slice {
        let mut count = 0;
        // The queue may be dropped with its last job, so it is looked up each time.
        while let Some(listed) = self.listed(of)
            && let Some(id) = listed.next(state, None)
            && id <= last
        {
            if count == most {
                return Slice { count, finished: false };
            }
            each(self, id);
            count += 1;
        }
        Slice { count, finished: true }
    }

    /// Pauses a queue for `time`, or until it is resumed. Call it after [`State::room_for`] has found room.
    pub fn pause(&mut self, now: Now, name: &QueueName, time: Option<Duration>) {
        let queue = self.queue_named(name);
        let end = time.map_or(PauseEnd::Resumed, |time| PauseEnd::At(now.mono.after(time)));
        self.set_pause(queue, Some(end));
        let found = self.queue_mut(queue);
        found.pause_time = time;
        found.past.pauses += 1;
        self.schedule_queue(queue);
        self.note_drained(queue);
        self.note_pause(now, queue);
    }

    /// Resumes a queue, if it is paused. Returns whether this is done: if many sessions wait, the queue stays
    /// paused, and the next call serves more of them.
    pub fn resume(&mut self, now: Now, name: &QueueName) -> bool {
        match self.named(name) {
            Some(queue) if self.queue(queue).paused.is_some() => self.end_pause(now, queue),
            _ => true,
        }
    }

    /// Serves the sessions that wait, then ends the pause, so that no session that comes later is served
    /// before them.
    pub(super) fn end_pause(&mut self, now: Now, queue: QueueIx) -> bool {
        if !self.serve_at_most(now, queue, SERVED_AT_ONCE_MAX) {
            return false;
        }
        self.set_pause(queue, None);
        self.note_pause(now, queue);
        self.drop_if_unused(queue);
        true
    }

    /// Leases a given job if it is ready, delayed or dead, even if its queue is paused.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is no such job, or it is leased already, done or cancelled.
    pub fn lease_job(&mut self, now: Now, session: SessionId, id: JobId) -> Result<Lease, Refusal> {
        let place = self.jobs.get(id).ok_or_else(|| not_found(id))?.place();
        if let Place::Done { .. } | Place::Cancelled { .. } = place {
            return Err(not_found(id));
        }
        if let Place::Leased { .. } = place {
            return Err(Refusal::new(Code::NotFound, format!("job {id} is leased already")));
        }
        if let Place::Dead { .. } = place {
            self.note_past(id, |past| past.deaths = past.deaths.saturating_add(1));
        }
        self.lease_to(now, id, session);
        if place != Place::Ready {
            // After a restart it is ready, like every leased job.
            self.note_status(now, id);
        }
        Ok(self.lease_of(id))
    }

    /// Makes a leased job dead, even if it has attempts left, and changes its priority.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn bury(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        priority: Priority,
    ) -> Result<(), Refusal> {
        self.leased_by(session, id)?;
        self.reprioritise(id, priority);
        self.fail(now, session, id, None, true, None).map(|_| ())
    }

    /// The state of the jobs that [`State::kick`] takes next from a queue, and how many there are: its dead
    /// jobs, or if it has none, its delayed ones.
    pub fn kickable(&self, queue: &QueueName) -> (JobState, u64) {
        let counts = self.named(queue).map(|queue| self.queue(queue).counts).unwrap_or_default();
        if counts.dead > 0 { (JobState::Dead, counts.dead) } else { (JobState::Delayed, counts.delayed) }
    }

    /// Makes at most `most` of a queue's dead or delayed jobs ready: those that have been dead longest, or
    /// those whose delay ends first. Returns how many.
    pub fn kick(&mut self, now: Now, queue: &QueueName, from: JobState, most: u64) -> u64 {
        let mut count = 0;
        while count < most {
            let next = self.next_jobs(queue, from).next();
            let Some(id) = next else { break };
            match from {
                JobState::Dead => self.revive(now, id),
                _ => self.hasten(now, id),
            }
            count += 1;
        }
        count
    }

    /// Makes a dead or delayed job ready.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is no such job, or it is ready or leased.
    pub fn kick_job(&mut self, now: Now, id: JobId) -> Result<(), Refusal> {
        match self.jobs.get(id).ok_or_else(|| not_found(id))?.place() {
            Place::Dead { .. } => self.revive(now, id),
            Place::Delayed { .. } => self.hasten(now, id),
            place => {
                return Err(Refusal::new(
                    Code::NotFound,
                    format!("job {id} is {}, neither dead nor delayed", place.state()),
                ));
            }
        }
        Ok(())
    }

    /// The job of a queue that leaves this state next: the next to be leased, to become ready or to be
    /// kicked. For leased jobs there is none.
    pub fn peek_next(&self, now: Now, queue: &QueueName, state: JobState) -> Option<Job> {
        let id = self.next_jobs(queue, state).next()?;
        Some(self.job(now, id, self.slot(id)))
    }

    /// Pauses a queue for `time` if it exists; zero ends a pause. Returns whether it exists.
    pub fn pause_existing(&mut self, now: Now, name: &QueueName, time: Duration) -> bool {
        // `default` exists for every client, even if it is not used.
        if self.named(name).is_none() && *name != QueueName::default() {
            return false;
        }
        if !time.is_zero() {
            self.pause(now, name, Some(time));
        } else if let Some(queue) = self.named(name) {
            self.queue_mut(queue).past.pauses += 1;
            self.resume(now, name);
        } else {
            self.default_past.pauses += 1;
        }
        true
    }

    /// A queue's delayed or dead jobs in the order in which [`State::kick`] takes them, or its next ready
    /// job.
    pub fn next_jobs(&self, queue: &QueueName, state: JobState) -> impl Iterator<Item = JobId> {
        let queue = self.named(queue).map(|queue| self.queue(queue));
        let of = |wanted| queue.filter(|_| state == wanted);
        let ready = of(JobState::Ready).and_then(|queue| queue.ready.first()).map(|entry| entry.1);
        let delayed = of(JobState::Delayed).into_iter().flat_map(|queue| &queue.delayed).map(|entry| entry.1);
        let dead = of(JobState::Dead).into_iter().flat_map(|queue| &queue.dead).map(|entry| entry.1);
        ready.into_iter().chain(delayed).chain(dead)
    }

    /// Ends a job's delay.
    fn hasten(&mut self, now: Now, id: JobId) {
        self.note_past(id, |past| past.kicks = past.kicks.saturating_add(1));
        self.requeue(now, id, Duration::ZERO);
    }
}
