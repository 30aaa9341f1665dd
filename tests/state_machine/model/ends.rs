//! How jobs end in the model, and who waits for that.

use super::*;
use djqs::internal::queue::state::CANCELLED_KEPT_MIN;
use djqs::job::{Acked, Key};

impl ModelJob {
    /// Whether a submission to this queue with this key is a duplicate of the job.
    pub(super) fn has_key(&self, queue: QueueNo, key: Option<&Key>) -> bool {
        self.queue == queue && self.options.key.as_ref() == key && self.state() != JobState::Cancelled
    }

    /// Whether it is done or cancelled.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept_until().is_some()
    }

    /// Until when it is kept, if it is done or cancelled.
    pub(super) fn kept_until(&self) -> Option<Moment> {
        match self.place {
            Place::Done(until, _) | Place::Cancelled(until) => Some(until),
            _ => None,
        }
    }
}

impl Model {
    /// `result` is `None` if the disk has no room for it.
    pub(crate) fn ack(
        &mut self,
        now: Now,
        session: SessionId,
        id: JobId,
        result: Option<Arc<[u8]>>,
    ) -> Result<Acked, Code> {
        let job = self.leased_by(session, id)?;
        let (queue, keep, ran) = (job.queue, job.options.keep, now.mono.until(job.leased_at));
        let attempt = job.counts.failures + job.counts.crashes + 1;
        self.tally(queue, |totals| totals.acked += 1);
        if keep.is_zero() {
            if result.is_some() {
                self.tell(id, &Finished::Done { attempt, ran, result });
            }
            self.expect_mut(id).place = Place::Done(now.mono, ran);
            self.remove(now, id);
            return Ok(Acked::Whole);
        }
        if let Some(result) = result {
            self.if_there_is_room(id, |job| {
                job.body = Arc::default();
                job.result = Some(result);
            });
        }
        let job = self.expect_mut(id);
        job.body = Arc::default();
        job.place = Place::Done(now.mono.after(keep), ran);
        let acked = if job.result.is_some() { Acked::Whole } else { Acked::ResultDropped };
        self.has_ended(id);
        Ok(acked)
    }

    pub(crate) fn cancel(&mut self, now: Now, id: JobId, reason: Option<&str>) -> Result<JobState, Code> {
        let was = self.job(id).ok_or(Code::NotFound)?.state();
        if was.is_final() {
            return Ok(was);
        }
        self.tally(self.expect(id).queue, |totals| totals.cancelled += 1);
        self.expect_mut(id).reason = None;
        if let Some(reason) = reason {
            self.if_there_is_room(id, |job| job.reason = Some(beginning(reason).into()));
        }
        let job = self.expect_mut(id);
        job.place = Place::Cancelled(now.mono.after(job.options.keep.max(CANCELLED_KEPT_MIN)));
        self.has_ended(id);
        Ok(was)
    }

    pub(crate) fn cancel_all(
        &mut self,
        now: Now,
        of: &Of,
        from: JobState,
        reason: Option<&str>,
        last: JobId,
        most: u64,
    ) -> Slice {
        let (slice, ids) = self.slice(of, from, last, most);
        for id in ids {
            self.cancel(now, id, reason).expect("it is there");
        }
        slice
    }

    /// Makes a cancelled job ready, unless another job has its key.
    pub(super) fn restart(&mut self, now: Now, id: JobId) -> Result<(), Code> {
        let ModelJob { queue, ref options, .. } = *self.expect(id);
        let key = options.key.as_ref();
        if key.is_some() && self.jobs.iter().any(|job| job.has_key(queue, key)) {
            return Err(Code::NotFound);
        }
        self.if_there_is_room(id, |job| job.past.kicks += 1);
        self.expect_mut(id).reason = None;
        self.tally(queue, |totals| totals.retried += 1);
        self.requeue(now, id, Duration::ZERO);
        Ok(())
    }

    /// What WAIT says of a job.
    pub(crate) fn finished(&self, id: JobId) -> Result<Option<Finished>, Code> {
        let Some(job) = self.job(id) else {
            let given = id <= self.last_id && id != JobId(0);
            return if given { Ok(Some(Finished::Gone)) } else { Err(Code::NotFound) };
        };
        let failures = job.counts.failures + job.counts.crashes;
        let (reason, result) = (job.reason.clone(), job.result.clone());
        Ok(match job.place {
            Place::Ready | Place::Delayed(_) | Place::Leased(..) => None,
            Place::Dead => Some(Finished::Dead { failures, reason }),
            Place::Done(_, ran) => Some(Finished::Done { attempt: failures + 1, ran, result }),
            Place::Cancelled(_) => Some(Finished::Cancelled { reason }),
        })
    }

    pub(crate) fn wait_for_end(&mut self, session: SessionId, id: JobId) {
        self.waiters_for_ends.push((session, id));
    }

    /// A job is done, dead or cancelled by now.
    pub(super) fn has_ended(&mut self, id: JobId) {
        self.wake_complete(self.expect(id).options.batch.clone());
        if let Ok(Some(finished)) = self.finished(id) {
            self.tell(id, &finished);
        }
    }

    /// Removes a job. Those who wait for its end learn that it is gone.
    pub(super) fn remove(&mut self, now: Now, id: JobId) {
        let at = self.jobs.iter().position(|job| job.id == id).expect("the caller has seen it");
        let job = self.jobs.remove(at);
        self.count_gone(now, &job);
        self.wake_complete(job.options.batch);
        self.tell(id, &Finished::Gone);
        self.forget_unused_queues();
    }

    fn tell(&mut self, id: JobId, finished: &Finished) {
        let all = std::mem::take(&mut self.waiters_for_ends);
        let (told, others) = all.into_iter().partition(|&(_, awaited)| awaited == id);
        self.waiters_for_ends = others;
        let told: Vec<_> = told;
        told.into_iter().for_each(|(session, _)| self.hand(session, Handed::Finished(finished.clone())));
    }

    /// Ends a session's wait.
    pub(super) fn hand(&mut self, session: SessionId, handed: Handed) {
        self.handed.push((session, handed.clone()));
        self.woken.push((session, handed));
    }
}
