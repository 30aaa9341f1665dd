//! Why a job is where it is, and what workers say of it.

use std::time::{Duration, SystemTime};

use super::slot::Said;
use super::*;
use crate::job::{AHEAD_MAX, Pause, Progress, Rate, Why};

/// The longest note of a worker that is kept, in bytes; a longer one is cut.
pub const MAX_NOTE_BYTES: usize = 1024;

/// A rate is measured over at least this time.
const RATE_OVER_MIN: Duration = Duration::from_secs(1);

/// When a snapshot is this old, the next look takes a new one.
const SNAPSHOT_RENEWED_AFTER: Duration = Duration::from_secs(10);

/// How many jobs of a queue had been leased, when somebody asked. Two of them make a rate, so that no queue needs a
/// timer for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshots {
    older: (Moment, u64),
    newer: (Moment, u64),
}

impl State {
    /// Why a job is where it is.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an id that was never given.
    pub fn why(&mut self, now: Now, id: JobId) -> Result<Why, Refusal> {
        let Some(slot) = self.jobs.get(id) else {
            return self.finished(id).map(|_| Why::Gone);
        };
        let (failures, reason) = (slot.counts().spent(), slot.reason().cloned());
        Ok(match slot.place() {
            Place::Ready => self.why_ready(now, id),
            Place::Delayed { until, .. } => {
                Why::Delayed { remaining: until.until(now.mono), failures, reason }
            }
            Place::Leased { until, holder } => Why::Leased {
                worker: self.worker_name(holder).cloned(),
                held_for: self.leased_since(id).map_or(Duration::ZERO, |since| now.mono.until(since)),
                remaining: until.until(now.mono),
                progress: progress_of(slot),
            },
            Place::Dead { .. } => Why::Dead { failures, reason },
            Place::Done { until, .. } => Why::Done { remaining: until.until(now.mono) },
            Place::Cancelled { .. } => Why::Cancelled { reason },
        })
    }

    fn why_ready(&mut self, now: Now, id: JobId) -> Why {
        let (queue, priority) = (self.slot(id).queue, self.slot(id).priority);
        let rate = self.rate(now, queue);
        let found = self.queue(queue);
        Why::Ready {
            ahead: found.ready.count_before(priority, id, AHEAD_MAX),
            workers: self.asking.get(&found.name).copied().unwrap_or_default(),
            rate,
            pause: found.paused.map(|end| match end {
                PauseEnd::Resumed => Pause::UntilResumed,
                PauseEnd::At(end) => Pause::For(end.until(now.mono)),
            }),
        }
    }

    /// How many jobs of a queue were leased in a second, since somebody asked some seconds ago.
    fn rate(&mut self, now: Now, queue: QueueIx) -> Option<Rate> {
        let found = self.queue_mut(queue);
        let here = (now.mono, found.past.totals.leased);
        let snapshots =
            found.snapshots.get_or_insert_with(|| Box::new(Snapshots { older: here, newer: here }));
        if now.mono.until(snapshots.newer.0) >= SNAPSHOT_RENEWED_AFTER {
            **snapshots = Snapshots { older: snapshots.newer, newer: here };
        }
        let (since, leased) = snapshots.older;
        let time = now.mono.until(since);
        (time >= RATE_OVER_MIN).then(|| Rate { leased: here.1 - leased, time })
    }

    /// Notes what a worker says of a leased job, if there is room for it.
    pub fn note_progress(&mut self, now: Now, id: JobId, percent: Option<u8>, note: Option<Arc<str>>) {
        let note = note.map(cut);
        let said_s = u32::try_from(now.wall_ms / 1000).unwrap_or(u32::MAX);
        let bytes = EXTRA_OVERHEAD_BYTES + slot::SAID_OVERHEAD_BYTES;
        let bytes = bytes + note.as_ref().map_or(0, |note| note.len() as u64);
        if self.budget.has_room(Purpose::Note, bytes) {
            self.amend(id, |extra| extra.said = Some(Box::new(Said { percent, note, said_s })));
        }
    }

    /// Forgets what a worker has said of a job that it has no longer.
    pub(super) fn forget_progress(&mut self, id: JobId) {
        if self.slot(id).extra.as_ref().is_some_and(|extra| extra.said.is_some()) {
            self.amend(id, |extra| extra.said = None);
        }
    }
}

/// What a worker has said of a job.
pub(super) fn progress_of(slot: &Slot) -> Option<Progress> {
    let Said { percent, note, said_s } = &**slot.extra.as_ref()?.said.as_ref()?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs((*said_s).into());
    Some(Progress::new(*percent, note.clone(), at))
}
