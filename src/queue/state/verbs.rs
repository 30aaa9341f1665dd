//! The verbs of clients that submit jobs and of workers that execute them.

use super::*;

impl State {
    /// Accepts a job.
    ///
    /// # Errors
    /// [`Code::Full`] where the job would take the memory over its limit.
    pub fn submit(&mut self, now: Now, submission: Submission) -> Result<Accepted, Refusal> {
        let Submission { queue: name, options, body } = submission;
        let Options { priority, delay, ttr, attempts, backoff, key } = options;
        let known = self.named(&name);
        if let (Some(key), Some(queue)) = (&key, known)
            && let Some(&id) = self.keys.get(&(queue, key.clone()))
        {
            return Ok(Accepted { id, duplicate: Some(self.slot(id).place().state()) });
        }
        let extra = (key.is_some() || counts_in_advance(attempts))
            .then(|| Box::new(Extra { key, ..Extra::default() }));
        // It may need a page and a combination of options of its own.
        let cost = job_cost(&body, extra.as_deref()) + PAGE_OVERHEAD_BYTES + SHARED_OPTIONS_OVERHEAD_BYTES;
        let cost = cost + if known.is_some() { 0 } else { QUEUE_OVERHEAD_BYTES };
        if !self.budget.has_room(Purpose::Job, cost) {
            let (taken, limit) = self.memory();
            return Err(Refusal::full(
                FULL_RETRY_AFTER,
                format!(
                    "the jobs take {taken} of {limit} bytes of memory (--max-memory): wait until some are done"
                ),
            ));
        }
        let queue = known.unwrap_or_else(|| self.make_queue(name));
        self.last_id = JobId(self.last_id.0 + 1);
        let id = self.last_id;
        let place = if delay.is_zero() { Place::Ready } else { Place::delayed(now, delay) };
        let options = self.shared_options.intern(SharedOptions { ttr, attempts, backoff });
        let created_s = u32::try_from(now.wall_ms / 1000).unwrap_or(u32::MAX);
        self.insert(id, Slot { body, place: Packed::new(place), extra, queue, options, priority, created_s });
        self.count(queue, |totals| totals.submitted += 1);
        if self.journaled {
            let change = self.full_change(now, id);
            self.effects.changes.push(change);
        }
        if place == Place::Ready {
            self.serve(now, queue);
        }
        Ok(Accepted { id, duplicate: None })
    }

    /// Leases the most urgent job of the named queues (none named: of those that the session watches), if there is one.
    /// Does not wait.
    pub fn lease(&mut self, now: Now, session: SessionId, queues: &[QueueName]) -> Option<Lease> {
        let (_, id) = if queues.is_empty() {
            self.first_ready(self.watched_by(session))
        } else {
            self.first_ready(queues.iter().filter_map(|name| self.named(name)))
        }?;
        self.lease_to(now, id, session);
        Some(self.lease_of(id))
    }

    /// The job that is to be handed out next, of queues that are not paused.
    fn first_ready(&self, queues: impl Iterator<Item = QueueIx>) -> Option<(Priority, JobId)> {
        let mut best: Option<(Priority, JobId)> = None;
        for queue in queues {
            let queue = self.queue(queue);
            if queue.paused.is_none()
                && let Some(first) = queue.ready.first()
                && best.is_none_or(|best| first < best)
            {
                best = Some(first);
            }
        }
        best
    }

    /// Whether there is room for those of the named queues that [`State::wait`] or [`State::pause`] would have to make.
    ///
    /// # Errors
    /// [`Code::Full`] where there is none.
    pub fn room_for(&self, queues: &[QueueName]) -> Result<(), Refusal> {
        let fit = |count: usize| self.budget.has_room(Purpose::Queue, count as u64 * QUEUE_OVERHEAD_BYTES);
        // Which of them there are matters only where that is little.
        if fit(queues.len()) {
            return Ok(());
        }
        let new = queues.iter().filter(|name| self.named(name).is_none()).count();
        if new == 0 || fit(new) {
            return Ok(());
        }
        let (taken, limit) = self.memory();
        Err(Refusal::full(
            FULL_RETRY_AFTER,
            format!("no memory for {new} more queues, with {taken} of {limit} bytes taken (--max-memory)"),
        ))
    }

    /// Puts a session in the line of each of the named queues (none named: of those that it watches). [`Effects::wakes`]
    /// will name it once it was handed a job, or warned.
    ///
    /// Call it right after [`State::lease`] found nothing and [`State::room_for`] room, under the same lock.
    pub fn wait(&mut self, session: SessionId, queues: &[QueueName], warn: Warn) {
        debug_assert!(self.session(session).standing.is_none(), "a session waits once at a time");
        self.tickets += 1;
        let ticket = self.tickets;
        let queues: Vec<QueueIx> = if !queues.is_empty() {
            queues.iter().map(|name| self.queue_named(name)).collect()
        } else if !self.session(session).watched.is_empty() {
            self.session(session).watched.clone()
        } else {
            vec![self.queue_named(&QueueName::default())]
        };
        for &queue in &queues {
            self.queue_mut(queue).line.insert(ticket, session);
        }
        self.waiting += 1;
        self.session_mut(session).standing = Some(Standing { ticket, queues, warn });
        if warn == Warn::BeforeLapse {
            self.schedule_session(session);
        }
    }

    /// Whether a session stands in a line: until it leaves or is handed a job.
    pub fn is_waiting(&self, session: SessionId) -> bool {
        self.session(session).standing.is_some()
    }

    /// Takes a waiting session out of its lines.
    pub fn leave(&mut self, session: SessionId) {
        let Some(standing) = self.session_mut(session).standing.take() else {
            return;
        };
        self.waiting -= 1;
        for queue in standing.queues {
            // A queue named twice has it once, and may be gone after the first.
            if let Some(found) = self.queues[queue.0 as usize].as_mut() {
                found.line.remove(&standing.ticket);
                self.drop_if_unused(queue);
            }
        }
    }

    /// What a session was handed while it waited, if it was.
    pub fn take_handed(&mut self, session: SessionId) -> Option<Lease> {
        let id = self.session_mut(session).handed.take()?;
        // Its lease may have lapsed before the session came to look.
        let slot = self.jobs.get(id)?;
        matches!(slot.place(), Place::Leased { holder, .. } if holder == session).then(|| self.lease_of(id))
    }

    /// A leased job is done: it is gone.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn ack(&mut self, session: SessionId, id: JobId) -> Result<(), Refusal> {
        let queue = self.leased_by(session, id)?.queue;
        self.count(queue, |totals| totals.acked += 1);
        self.remove(id);
        Ok(())
    }

    /// A leased job failed.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn fail(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        delay: Option<Duration>,
        dead: bool,
        reason: Option<Arc<str>>,
    ) -> Result<Failed, Refusal> {
        let slot = self.leased_by(session, id)?;
        let (queue, options) = (slot.queue, self.shared_options.get(slot.options));
        let mut counts = slot.counts();
        counts.failures = counts.failures.saturating_add(1);
        self.count(queue, |totals| totals.failed += 1);
        self.record_counts(id, counts);
        if let Some(reason) = reason {
            self.note_reason(id, cut(reason));
        }
        if dead || options.attempts_spent(counts) {
            self.die(id);
            self.note_status(now, id);
            return Ok(Failed::Dead);
        }
        let wait = delay.unwrap_or_else(|| self.backoff(options.backoff, counts.failures));
        self.requeue(now, id, wait);
        Ok(Failed::RetryIn(wait))
    }

    /// Returns a leased job undone, with another priority if one is given. No attempt is charged.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn return_job(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        priority: Option<Priority>,
        delay: Duration,
    ) -> Result<(), Refusal> {
        let priority = priority.unwrap_or(self.leased_by(session, id)?.priority);
        self.reprioritise(id, priority);
        self.return_to_queue(now, id, delay);
        Ok(())
    }

    /// A lease starts anew, for `ttr` or the job's own time to run.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::NotLeased`].
    pub fn touch(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        ttr: Option<Duration>,
    ) -> Result<(), Refusal> {
        let slot = self.leased_by(session, id)?;
        let ttr = ttr.unwrap_or_else(|| self.shared_options.get(slot.options).ttr);
        self.relocate(id, Place::Leased { until: now.mono.after(ttr), holder: session });
        Ok(())
    }

    /// Whether the session has this job leased.
    pub fn is_leased_by(&self, session: SessionId, id: JobId) -> bool {
        let place = self.jobs.get(id).map(|slot| slot.place());
        matches!(place, Some(Place::Leased { holder, .. }) if holder == session)
    }

    pub(super) fn leased_by(&self, session: SessionId, id: JobId) -> Result<&Slot, Refusal> {
        let slot = self.jobs.get(id).ok_or_else(|| not_found(id))?;
        match slot.place() {
            Place::Leased { holder, .. } if holder == session => Ok(slot),
            Place::Leased { .. } => Err(Refusal::new(
                Code::NotLeased,
                format!("job {id} is leased by another connection: only that one can say how it went"),
            )),
            place => Err(Refusal::new(
                Code::NotLeased,
                format!(
                    "job {id} is {}: the lease has lapsed, or there was none; GET it first",
                    place.state()
                ),
            )),
        }
    }
}
