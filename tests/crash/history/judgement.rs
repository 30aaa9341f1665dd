//! The judgement: compares what a restarted server shows with what it may show.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use djqs::job::Key;
use djqs::{JobId, QueueName, Submission};

use super::{Fate, History, Known, Tag};
use crate::fate::{Event, Pause, PauseSpan, Pausing, Place, SLACK_MS, Status, possible_pauses};
use crate::look::{Listed, Look};

impl History {
    /// Compares what a restarted server shows with what it may show; from then on, what it shows is what is.
    /// Nobody else may be connected.
    pub(crate) fn judge(&mut self, look: &Look) {
        let mut shown: BTreeMap<Tag, &Listed> = BTreeMap::new();
        let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
        for job in &look.jobs {
            if !ids.insert(job.id) {
                self.complain(format!("id {} is there twice", job.id));
            }
            if let Some(key) = &job.key
                && !keys.insert((&job.queue, key))
            {
                self.complain(format!("two jobs of the queue {} have the key {key}", job.queue));
            }
            match Tag::of(&job.body.0) {
                Some(tag) if shown.insert(tag, job).is_none() => {}
                Some(tag) => self.complain(format!("{tag} is there twice")),
                None => self.complain(format!("a job is there that was never submitted: {job:?}")),
            }
        }
        for (tag, mut known) in std::mem::take(&mut self.jobs) {
            let fate = self.fate(&known, look.from_ms);
            match shown.remove(&tag) {
                None => self.judge_absent(tag, &known, &fate),
                Some(job) => {
                    if let Some(status) = self.judge_present(tag, &known, &fate, job, look) {
                        self.tally.compared += 1;
                        self.ids.insert(JobId(job.id), tag);
                        known.id = Some(JobId(job.id));
                        known.told = true;
                        known.base = Some(status);
                        known.entries.clear();
                        self.jobs.insert(tag, known);
                    }
                }
            }
        }
        for (tag, job) in shown {
            let was = self.finished.contains(&JobId(job.id));
            let what = if was { "had ended before, and is back" } else { "never was a job" };
            self.complain(format!("job {} is there, which {what} ({tag})", job.id));
        }
        self.purges.clear();
        self.judge_pauses(look);
        self.highest = look.jobs.iter().map(|job| job.id).fold(self.highest, u64::max);
        self.floor = self.highest;
    }

    fn judge_absent(&mut self, tag: Tag, known: &Known, fate: &Fate) {
        if known.told && !fate.may_have_ended {
            self.complain(format!("{tag} was acknowledged and is lost: {known:?}"));
        }
        if let Some(id) = known.id {
            self.ids.remove(&id);
            self.finished.insert(id);
        }
    }

    /// Returns as what the job is there.
    fn judge_present(
        &mut self,
        tag: Tag,
        known: &Known,
        fate: &Fate,
        job: &Listed,
        look: &Look,
    ) -> Option<Status> {
        if fate.has_ended {
            self.complain(format!("{tag} had ended and is back, as {job:?}: {known:?}"));
            return None;
        }
        if known.id.is_some_and(|id| id.0 != job.id) {
            self.complain(format!("{tag} was job {:?} and is job {}", known.id, job.id));
        }
        if !job.is_of(&known.submission) {
            self.complain(format!("{tag} is there as {job:?} and was submitted otherwise: {known:?}"));
        }
        let status = fate.statuses.iter().find(|status| {
            let as_told = status.reason.as_deref() == job.reason.as_deref();
            status.is_shown_by(job, look)
                && (as_told || self.was_full && known.had_reason(job.reason.as_deref()))
        });
        if status.is_none() {
            self.complain(format!(
                "{tag} is there as {job:?} at {} to {}, and may be one of {:?}: {known:?}",
                look.from_ms, look.to_ms, fate.statuses
            ));
        }
        let reason = job.reason.as_deref().map(Into::into);
        status.map(|status| Status { held: false, reason, ..status.clone() })
    }

    fn judge_pauses(&mut self, look: &Look) {
        let mut queues: BTreeSet<QueueName> = self.pauses.keys().cloned().collect();
        queues.extend(look.paused.keys().cloned());
        let at = self.now();
        for queue in queues {
            let pausings = self.pauses.remove(&queue).unwrap_or_default();
            let shown = match look.paused.get(&queue) {
                None => PauseSpan::RUNNING,
                Some(None) => PauseSpan::UNTIL_RESUMED,
                Some(Some(left)) => PauseSpan {
                    earliest: look.from_ms + left.as_millis() as u64,
                    latest: look.to_ms + left.as_millis() as u64,
                },
            };
            let spans = possible_pauses(&pausings, look.from_ms);
            let Some(span) = spans.iter().find(|span| span.is_shown_as(shown, look)) else {
                self.complain(format!(
                    "the queue {queue} is paused {shown:?}, and may be {spans:?}: {pausings:?}"
                ));
                continue;
            };
            let base = Pausing { pause: Pause::Was(*span), sent: at, answered: Some(at) };
            self.pauses.insert(queue, vec![base]);
        }
    }
}

impl Known {
    /// Whether this may be its reason where the newest one was not kept: an earlier one, or none.
    fn had_reason(&self, reason: Option<&str>) -> bool {
        let base = self.base.as_ref().and_then(|base| base.reason.as_deref());
        let earlier = self.entries.iter().filter_map(|entry| match &entry.event {
            Event::Fail { reason, .. } => reason.as_deref(),
            Event::Crash { reason } | Event::Unseen { lapsed: Some(reason) } => Some(reason),
            _ => None,
        });
        // A reason is not lost, only not replaced.
        match reason {
            None => base.is_none(),
            Some(reason) => base.into_iter().chain(earlier).any(|one| one == reason),
        }
    }
}

impl Status {
    /// Whether a server that has just been started may show it so, whatever the reason.
    fn is_shown_by(&self, job: &Listed, look: &Look) -> bool {
        let counts = &self.counts;
        let as_counted = (counts.failures.into(), counts.crashes.into(), counts.returns.into());
        let place = match (self.place, job.state.as_str(), job.remaining_ms) {
            (Place::Ready, "ready", None) | (Place::Dead, "dead", None) => true,
            (Place::Delayed { earliest, .. }, "ready", None) => earliest <= look.to_ms + SLACK_MS,
            (Place::Delayed { earliest, latest }, "delayed", Some(left)) => {
                look.from_ms + left <= latest + SLACK_MS && earliest <= look.to_ms + left + SLACK_MS
            }
            _ => false,
        };
        place && as_counted == (job.failures, job.crashes, job.returns)
    }
}

impl Listed {
    /// Whether it is what was submitted.
    fn is_of(&self, submission: &Submission) -> bool {
        let Submission { queue, options, body, .. } = submission;
        self.queue == queue.as_str()
            && self.priority == u64::from(options.priority.0)
            && u128::from(self.ttr_ms) == options.ttr.as_millis()
            && self.attempts == u64::from(options.attempts)
            && u128::from(self.backoff_ms) == options.backoff.as_millis()
            && self.key.as_deref() == options.key.as_ref().map(Key::as_str)
            && self.body.0[..] == body[..]
    }
}

impl PauseSpan {
    /// Whether a server that has just been started may show it so.
    fn is_shown_as(self, shown: PauseSpan, look: &Look) -> bool {
        match shown {
            // It may have ended by itself.
            PauseSpan::RUNNING => self.earliest <= look.to_ms + SLACK_MS,
            PauseSpan::UNTIL_RESUMED => self == PauseSpan::UNTIL_RESUMED,
            _ => {
                self != PauseSpan::UNTIL_RESUMED
                    && shown.earliest <= self.latest + SLACK_MS
                    && self.earliest <= shown.latest + SLACK_MS
            }
        }
    }
}
