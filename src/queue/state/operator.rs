//! What is done to one job by its number, or to the next few of a queue: leasing it whatever its place, giving it
//! up or back with another priority, making it ready before its time.

use std::time::Duration;

use super::*;

impl State {
    /// Leases one job, be it ready, delayed or dead. A pause of its queue does not matter.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such job, or it is leased already.
    pub fn lease_job(&mut self, now: Now, session: SessionId, id: JobId) -> Result<Lease, Refusal> {
        let place = self.jobs.get(id).ok_or_else(|| not_found(id))?.place();
        if let Place::Leased { .. } = place {
            return Err(Refusal::new(Code::NotFound, format!("job {id} is leased already")));
        }
        if let Place::Dead { .. } = place {
            self.note_past(id, |past| past.deaths = past.deaths.saturating_add(1));
        }
        self.lease_to(now, id, session);
        if place != Place::Ready {
            // If the process ends now, it is ready, as every leased job is.
            self.note_status(now, id);
        }
        Ok(self.lease_of(id))
    }

    /// A leased job is given up, whatever attempts it has left, and has another priority from then on.
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

    /// What [`State::kick`] would take of a queue: its dead jobs, or where it has none, its delayed ones; and how
    /// many they are.
    pub fn kickable(&self, queue: &QueueName) -> (JobState, u64) {
        let counts = self.named(queue).map(|queue| self.queue(queue).counts).unwrap_or_default();
        if counts.dead > 0 { (JobState::Dead, counts.dead) } else { (JobState::Delayed, counts.delayed) }
    }

    /// At most `most` of a queue's dead or delayed jobs to ready: those that have been dead for longest, or those whose time
    /// would have come first. Returns how many.
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

    /// One dead or delayed job to ready.
    ///
    /// # Errors
    /// [`Code::NotFound`] where there is no such job, or it is ready or leased.
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

    /// The job of a queue that is next to leave this state: the next to be handed out, to become ready, to be kicked. There
    /// is none for leased jobs.
    pub fn peek_next(&self, now: Now, queue: &QueueName, state: JobState) -> Option<Job> {
        let id = self.next_jobs(queue, state).next()?;
        Some(self.job(now, id, self.slot(id)))
    }

    /// Hands out nothing of a queue for `time`, if it exists; not at all is the end of a pause. Returns whether it does.
    pub fn pause_existing(&mut self, now: Now, name: &QueueName, time: Duration) -> bool {
        // `default` is there for everybody, used or not.
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

    /// A queue's delayed or dead jobs in the order in which [`State::kick`] takes them; of its ready jobs, the next.
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
