//! The operations that end jobs and follow them to their ends: ACK with a result, CANCEL, WAIT and BATCH.

use djqs::internal::queue::state::Returned;
use djqs::job::Acked;

use super::*;

impl Run {
    pub(super) fn random_ack(&mut self, session: SessionId) -> Op {
        let result =
            (0..self.random.below(80).saturating_sub(20)).map(|_| self.random.next() as u8).collect();
        let result = if self.random.percent(10) { None } else { Some(result) };
        Op::Ack { session, id: self.random_id(Some(session)), result }
    }

    pub(super) fn random_cancel(&mut self) -> Op {
        let reason = self.random_reason();
        if self.random.percent(70) {
            return Op::Cancel { id: self.random_id(None), reason };
        }
        let states = [JobState::Ready, JobState::Delayed, JobState::Leased];
        Op::CancelAll {
            of: self.random_group(),
            from: self.random.pick(&states).expect("there are three"),
            reason,
            last: self.random_last(),
            most: self.random_most(),
        }
    }

    pub(super) fn random_wait(&mut self, session: SessionId) -> Op {
        let wait = self.random.percent(80);
        if self.random.percent(50) {
            return Op::Wait { session, id: self.random_id(None), wait };
        }
        let batch = self.batches[self.random.below(self.batches.len() as u64) as usize].clone();
        let total = match self.random.below(3) {
            0 => 0,
            _ => self.model.batch_stats(&batch).total().saturating_sub(1) + self.random.below(5),
        };
        Op::Batch { session, batch, total, wait }
    }

    pub(super) fn random_batch(&mut self) -> BatchName {
        let number = match self.random.below(100) {
            0..60 => 0,
            60..85 => 1,
            85..95 => 2,
            _ => 3,
        };
        self.batches[number].clone()
    }

    pub(super) fn random_group(&mut self) -> Of {
        if self.random.percent(70) { Of::Queue(self.random_queue()) } else { Of::Batch(self.random_batch()) }
    }

    pub(super) fn ack(&mut self, session: SessionId, id: JobId, result: Option<Arc<[u8]>>) {
        let now = self.now;
        let keeps = self.model.job(id).is_some_and(|job| !job.options.keep.is_zero());
        assert_eq!(self.state.keeps_result(id), keeps);
        let returned = result.clone().map_or(Returned::NoRoom, Returned::Result);
        let seen = self.state.ack(now, session, id, returned);
        let expected = self.model.ack(now, session, id, result);
        match seen {
            Ok(Acked::Whole) if keeps => self.count("results kept"),
            Ok(Acked::ResultDropped) => self.count("results dropped"),
            Err(ref refusal) if refusal.cancelled => self.count("reports of cancelled jobs"),
            _ => {}
        }
        assert_same(seen, expected);
        assert_eq!(self.state.peek(now, id), self.model.peek(now, id));
        assert_same(self.state.finished(id), self.model.finished(id));
    }

    pub(super) fn cancel(&mut self, id: JobId, reason: Option<Arc<str>>) {
        let seen = self.state.cancel(self.now, id, reason.clone());
        if seen.as_ref().is_ok_and(|was| !was.is_final()) {
            self.count("jobs cancelled");
        }
        assert_same(seen, self.model.cancel(self.now, id, reason.as_deref()));
        assert_eq!(self.state.peek(self.now, id), self.model.peek(self.now, id));
    }

    pub(super) fn cancel_all(
        &mut self,
        of: &Of,
        from: JobState,
        reason: Option<Arc<str>>,
        last: JobId,
        most: u64,
    ) {
        let seen = self.state.cancel_all(self.now, &self.group(of), from, reason.as_ref(), last, most);
        if !seen.finished {
            self.count("jobs cancelled in slices");
        }
        assert_eq!(seen, self.model.cancel_all(self.now, of, from, reason.as_deref(), last, most));
    }

    pub(super) fn retry(&mut self, id: JobId) {
        let was = self.model.job(id).map(|job| job.state());
        let seen = self.state.retry(self.now, id);
        if seen.is_err() && was == Some(JobState::Cancelled) {
            self.count("retries refused for a key");
        }
        assert_same(seen, self.model.retry(self.now, id));
    }

    pub(super) fn delete(&mut self, session: SessionId, id: JobId, unless_kept: bool) {
        let now = self.now;
        if !unless_kept {
            assert_same(self.state.delete(now, session, id), self.model.delete(now, session, id));
            return;
        }
        let seen = self.state.delete_unless_kept(now, session, id);
        let kept = self.model.job(id).is_some_and(|job| job.is_kept());
        assert_same(seen, if kept { Err(Code::NotFound) } else { self.model.delete(now, session, id) });
    }

    pub(super) fn wait_for_end(&mut self, session: SessionId, id: JobId, wait: bool) {
        let seen = self.state.finished(id);
        let expected = self.model.finished(id);
        if wait && matches!(seen, Ok(None)) {
            self.count("waits for ends");
            self.state.wait_for_end(session, id);
            self.model.wait_for_end(session, id);
        }
        assert_same(seen, expected);
    }

    pub(super) fn wait_for_batch(&mut self, session: SessionId, name: &BatchName, total: u64, wait: bool) {
        let seen = self.state.batch_stats(name);
        assert_eq!(seen, self.model.batch_stats(name));
        assert_eq!(seen.is_complete(total), self.model.is_complete(name, total));
        if wait && !seen.is_complete(total) {
            self.count("waits for batches");
            let seen = self.state.wait_for_batch(session, name, total);
            assert_same(seen, self.model.wait_for_batch(session, name, total));
        }
    }

    pub(super) fn take_handed(&mut self, session: SessionId) {
        if let Some(end) = self.take_end(session) {
            self.count_taken(&end);
            return assert_eq!(self.model.take_handed(session), Some(end));
        }
        let seen = self.state.take_handed(session);
        let handed = self.model.take_handed(session);
        self.count(if handed.is_some() { "handed jobs taken" } else { "handed jobs lapsed" });
        let expected = handed.map(|handed| match handed {
            Handed::Lease(id) => self.model.lease_of(id),
            other => panic!("it was given {other:?}"),
        });
        assert_eq!(seen, expected);
    }

    /// Takes what a session was given that waited for the end of a job or for a batch. Others keep what they
    /// were given.
    pub(super) fn take_end(&mut self, session: SessionId) -> Option<Handed> {
        let given = self.model.handed.iter().find(|handed| handed.0 == session).map(|handed| &handed.1);
        let waits_for_end = self.model.waiters_for_ends.iter().any(|waiter| waiter.0 == session);
        let waits_for_batch = self.model.waiters_for_batches.iter().any(|waiter| waiter.0 == session);
        if waits_for_end || matches!(given, Some(Handed::Finished(_))) {
            return Some(Handed::Finished(self.state.take_finished(session).expect("the job has ended")));
        }
        if waits_for_batch || matches!(given, Some(Handed::Batch(_))) {
            return Some(Handed::Batch(self.state.take_batch(session).expect("the batch is complete")));
        }
        None
    }

    pub(super) fn count_taken(&mut self, handed: &Handed) {
        match handed {
            Handed::Finished(_) => self.count("ends taken"),
            Handed::Batch(_) => self.count("complete batches taken"),
            Handed::Lease(_) | Handed::Nothing => {}
        }
    }

    /// All batches as compaction writes them, page by page.
    pub(super) fn export_batches(&mut self) -> Vec<Change> {
        let most = self.random.within(1..=3) as usize;
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|change| match change {
                Change::Batch(counts) => &counts.name,
                other => panic!("{other:?} is no batch"),
            });
            let page = self.state.export_batches(after, most);
            assert!(page.len() <= most);
            if page.is_empty() {
                assert_eq!(all.len(), self.model.batches.len());
                return all;
            }
            all.extend(page);
        }
    }

    pub(super) fn compare_batches(&self) {
        for name in &self.batches {
            assert_eq!(self.state.batch_stats(name), self.model.batch_stats(name));
            for wanted in [None].into_iter().chain(JobState::ALL.map(Some)) {
                let seen = self.state.list(self.now, &name.clone().into(), wanted, usize::MAX, None);
                let expected = self.model.list(&Of::Batch(name.clone()), wanted, usize::MAX, None);
                assert!(seen.iter().map(|job| job.id).eq(expected), "{wanted:?} in {name}: {seen:?}");
            }
            let dead = self.model.list(&Of::Batch(name.clone()), Some(JobState::Dead), usize::MAX, None);
            assert_eq!(self.state.dead_of(&name.clone().into()), dead.len() as u64);
        }
    }
}
