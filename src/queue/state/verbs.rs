//! The verbs of clients that submit jobs and of workers that execute them.

use super::*;

impl State {
    /// Submits a job. If its key is that of an unfinished job of the queue, that job is returned instead.
    ///
    /// # Errors
    /// [`Code::Full`] if the job would take the memory over its limit.
    pub fn submit(&mut self, now: Now, submission: Submission) -> Result<Accepted, Refusal> {
        let Submission { queue: name, options, body } = submission;
        let Options { priority, delay, ttr, attempts, backoff, key, keep, batch } = options;
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
        let mut cost = cost + if known.is_some() { 0 } else { QUEUE_OVERHEAD_BYTES };
        if let Some(batch) = &batch {
            self.room_for_batch(batch, Purpose::Job)?;
            cost += if self.known_batch(batch).is_some() { 0 } else { BATCH_OVERHEAD_BYTES };
        }
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
        let batch = batch.map(|batch| self.batch_named(&batch));
        if let Some(batch) = batch {
            self.note_batch(batch);
        }
        let options = self.shared_options.intern(SharedOptions::new(ttr, attempts, backoff, keep, batch));
        let created_s = u32::try_from(now.wall_ms / 1000).unwrap_or(u32::MAX);
        self.insert(
            now,
            id,
            Slot { body, place: Packed::new(place), extra, queue, options, priority, created_s },
        );
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

    /// Leases the most urgent job of the given queues, if there is one. If none is given, they are those that
    /// the session watches. Does not wait.
    pub fn lease(&mut self, now: Now, session: SessionId, queues: &[QueueName]) -> Option<Lease> {
        self.note_asked(session, queues);
        let (_, id) = if queues.is_empty() {
            self.first_ready(self.watched_by(session))
        } else {
            self.first_ready(queues.iter().filter_map(|name| self.named(name)))
        }?;
        self.lease_to(now, id, session);
        Some(self.lease_of(id))
    }

    /// The next job to lease of those queues that are not paused.
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

    /// Checks that there is memory for those of the given queues that [`State::wait`] or [`State::pause`]
    /// would create.
    ///
    /// # Errors
    /// [`Code::Full`] if there is none.
    pub fn room_for(&self, queues: &[QueueName]) -> Result<(), Refusal> {
        let fit = |count: usize| self.budget.has_room(Purpose::Queue, count as u64 * QUEUE_OVERHEAD_BYTES);
        // Look the queues up only if there may not be room for all of them.
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

    /// Makes a session wait for a job of the given queues, or if none is given, of those that it watches.
    /// [`Effects::wakes`] names it once it is given a job or a warning. With [`OnDrained::End`], also once all
    /// of the queues are drained: [`State::tick`] notices that.
    ///
    /// Call it under the same lock as [`State::lease`], which found nothing, and [`State::room_for`], which
    /// found room.
    pub fn wait(&mut self, session: SessionId, queues: &[QueueName], warn: Warn, on_drained: OnDrained) {
        debug_assert!(self.session(session).pending_wait.is_none(), "a session waits once at a time");
        let ticket = self.next_ticket();
        let queues: Vec<QueueIx> = if !queues.is_empty() {
            queues.iter().map(|name| self.queue_named(name)).collect()
        } else if !self.session(session).watched.is_empty() {
            self.session(session).watched.clone()
        } else {
            vec![self.queue_named(&QueueName::default())]
        };
        for &queue in &queues {
            self.queue_mut(queue).waiters.insert(ticket, session);
        }
        let drains = (on_drained == OnDrained::End).then(|| self.first_undrained(&queues)).flatten();
        self.session_mut(session).pending_wait = Some(PendingWait::Lease { ticket, queues, warn, drains });
        if let Some(queue) = drains {
            self.drainers.insert((queue, ticket, session));
            self.note_drained(queue);
        }
        if warn == Warn::BeforeLapse {
            self.schedule_session(session);
        }
    }

    /// Whether a session waits.
    pub fn is_waiting(&self, session: SessionId) -> bool {
        self.session(session).pending_wait.is_some()
    }

    /// Ends a session's wait, if it waits.
    pub fn cancel_wait(&mut self, session: SessionId) {
        let Some(pending_wait) = self.session_mut(session).pending_wait.take() else {
            return;
        };
        self.waiting -= 1;
        let (ticket, queues, drains) = match pending_wait {
            PendingWait::Lease { ticket, queues, drains, .. } => (ticket, queues, drains),
            PendingWait::Job { ticket, id } => return self.forget_waiter(id, ticket),
            PendingWait::Order { ticket } => return self.forget_listener(session, ticket),
            PendingWait::Batch { ticket, batch, total } => {
                return self.forget_batch_waiter(batch, total, ticket);
            }
        };
        if let Some(queue) = drains {
            self.drainers.remove(&(queue, ticket, session));
        }
        for queue in queues {
            // A queue may be named twice, and be dropped the first time.
            if let Some(found) = self.queues[queue.0 as usize].as_mut() {
                found.waiters.remove(&ticket);
                self.drop_if_unused(queue);
            }
        }
    }

    /// Takes the job that a session was given while it waited.
    pub fn take_handed(&mut self, session: SessionId) -> Option<Lease> {
        let Handed::Lease(id) = self.session_mut(session).handed.take()? else { return None };
        // The lease may have lapsed before the session woke.
        let slot = self.jobs.get(id)?;
        matches!(slot.place(), Place::Leased { holder, .. } if holder == session).then(|| self.lease_of(id))
    }

    /// Reports the failure of a leased job. Without attempts left, or if `dead` is set, it becomes dead.
    /// Otherwise it is retried after `delay`, or after its backoff.
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
        self.count_report(session, false);
        self.note_attempt(now, id, AttemptEnd::Failed, reason.as_ref());
        self.record_counts(id, counts);
        if let Some(reason) = reason {
            self.note_reason(id, cut(reason));
        }
        if dead || options.attempts_spent(counts) {
            self.die(now, id);
            return Ok(Failed::Dead);
        }
        let wait = delay.unwrap_or_else(|| self.backoff(options.backoff(), counts.failures));
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

    /// Renews a lease, for `ttr` or for the job's own ttr.
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
        let ttr = ttr.unwrap_or_else(|| self.shared_options.get(slot.options).ttr());
        self.renew(id, now.mono.after(ttr));
        Ok(())
    }

    /// Whether the session itself has this job leased.
    pub fn is_leased_by(&self, session: SessionId, id: JobId) -> bool {
        let place = self.jobs.get(id).map(|slot| slot.place());
        matches!(place, Some(Place::Leased { holder, .. }) if holder == session)
    }

    pub(super) fn leased_by(&self, session: SessionId, id: JobId) -> Result<&Slot, Refusal> {
        let slot = self.jobs.get(id).ok_or_else(|| not_found(id))?;
        match slot.place() {
            Place::Leased { holder, .. } if self.are_kin(holder, session) => Ok(slot),
            Place::Leased { .. } => Err(Refusal::new(
                Code::NotLeased,
                format!(
                    "job {id} is leased by another connection: only that connection can report its result"
                ),
            )),
            Place::Cancelled { .. } => Err(Refusal::cancelled(format!(
                "job {id} is cancelled: stop working on it; there is nothing to report"
            ))),
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
