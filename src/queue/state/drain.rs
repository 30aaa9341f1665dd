//! Drained queues, and the waits that end when all of their queues are.
//!
//! Such a wait stands in [`State::drainers`] under one of its queues that is not drained. When that queue is,
//! its timer is set to fire at once. The tick then moves the wait to another of its queues that is not
//! drained, or ends it. So no change costs more for waits, and the end of many is done in slices.

use super::*;
use crate::stats::StateCounts;

impl State {
    /// Whether the given queues, or if none is given, those that the session watches, are all drained. If
    /// they are, returns those of them that are paused with jobs that are ready or delayed.
    pub fn drained(&self, session: SessionId, queues: &[QueueName]) -> Option<Vec<QueueName>> {
        let queues: Vec<QueueIx> = if queues.is_empty() {
            self.watched_by(session).collect()
        } else {
            queues.iter().filter_map(|name| self.named(name)).collect()
        };
        if !queues.iter().all(|&queue| self.is_drained(queue)) {
            return None;
        }
        let held =
            queues.into_iter().map(|queue| self.queue(queue)).filter(|queue| holds_jobs(&queue.counts));
        Some(held.map(|queue| queue.name.clone()).collect())
    }

    /// The first of the queues that is not drained; if all are, the first of all.
    pub(super) fn first_undrained(&self, queues: &[QueueIx]) -> Option<QueueIx> {
        self.undrained(queues).or_else(|| queues.first().copied())
    }

    /// Sets the queue's timer if the queue is drained and a wait may end for that.
    pub(super) fn note_drained(&mut self, queue: QueueIx) {
        if !self.drainers.is_empty() && self.first_drainer(queue).is_some() && self.is_drained(queue) {
            self.schedule_at_once(queue);
        }
    }

    /// Ends the waits that stand under a drained queue, or moves them to a queue that is not drained.
    pub(super) fn end_drains(&mut self, queue: QueueIx, budget: &mut u64) {
        while *budget > 0
            && let Some((ticket, session)) = self.first_drainer(queue)
            && self.is_drained(queue)
        {
            *budget -= 1;
            let Some(PendingWait::Lease { queues, .. }) = &self.session(session).pending_wait else {
                unreachable!("a drainer waits for a job");
            };
            match self.undrained(queues) {
                Some(other) => {
                    self.drainers.remove(&(queue, ticket, session));
                    self.drainers.insert((other, ticket, session));
                    if let Some(PendingWait::Lease { drains, .. }) =
                        &mut self.session_mut(session).pending_wait
                    {
                        *drains = Some(other);
                    }
                }
                None => {
                    self.cancel_wait(session);
                    self.effects.wakes.push(session);
                }
            }
        }
        self.note_drained(queue);
    }

    fn undrained(&self, queues: &[QueueIx]) -> Option<QueueIx> {
        queues.iter().copied().find(|&queue| !self.is_drained(queue))
    }

    fn first_drainer(&self, queue: QueueIx) -> Option<(u64, SessionId)> {
        let first = self.drainers.range((queue, 0, SessionId(0))..).next();
        first.filter(|(under, ..)| *under == queue).map(|&(_, ticket, session)| (ticket, session))
    }

    fn is_drained(&self, queue: QueueIx) -> bool {
        let queue = self.queue(queue);
        queue.counts.leased == 0 && (queue.paused.is_some() || !holds_jobs(&queue.counts))
    }
}

fn holds_jobs(counts: &StateCounts) -> bool {
    counts.ready + counts.delayed > 0
}
