//! Verification: reads a journal that no server has open, and changes nothing.

use std::collections::HashMap;

use super::failure::OpenError;
use super::record::Record;
use super::recovery::{Scan, TornTail};
use super::storage::Storage;
use crate::change::{self, JobSize};
use crate::change::{Change, JobStatus, PauseState};
use crate::job::{ATTEMPTS_REMEMBERED, BatchName, JobId, QueueName};

/// What a journal holds.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Jobs that a server would restore.
    pub jobs: u64,
    /// Paused queues.
    pub paused: u64,
    /// The highest id that was given.
    pub highest_id: u64,
    /// Records read.
    pub records: u64,
    /// Segments read.
    pub segments: u64,
    /// Bytes of the files of segments in use, including zeros that are not overwritten yet.
    pub file_bytes: u64,
    /// Bytes of the newest whole record of each job, and of what else must be kept.
    pub live_bytes: u64,
    /// Bytes of headers, batches and records that are not live.
    pub dead_bytes: u64,
    /// Whether the last server stopped gracefully.
    pub clean: bool,
    /// A last batch that was not written completely. The next start sets it aside.
    pub torn: Option<TornTail>,
    /// The first damage, if there is any: a server would not start. The counts are of what is before it.
    pub damage: Option<OpenError>,
}

/// Reads the whole journal and reports what it holds. Blocks, and takes about 40 bytes of memory for each
/// job.
pub fn verify(storage: &dyn Storage) -> Report {
    let mut tally = Tally::default();
    let mut scan = Scan::default();
    let scanned = scan.read(storage, &mut |record| tally.add(&record));
    let mut report = Report {
        jobs: tally.jobs.len() as u64,
        paused: tally.paused.len() as u64,
        highest_id: tally.highest_id,
        records: tally.records,
        segments: scan.segments.len() as u64,
        file_bytes: scan.segments.iter().map(|segment| segment.file_bytes).sum(),
        live_bytes: tally.live_bytes(),
        ..Report::default()
    };
    report.dead_bytes = scan.bytes.saturating_sub(report.live_bytes);
    match scanned {
        Ok(()) => {
            report.clean = scan.closed || scan.segments.is_empty();
            report.torn = scan.torn_tail(storage, None);
        }
        Err(e) => report.damage = Some(e),
    }
    report
}

#[derive(Default)]
struct Tally {
    jobs: HashMap<JobId, Sizes>,
    paused: HashMap<QueueName, u64>,
    /// Batches that were counted. Those that only jobs name are not worth the room.
    batches: HashMap<BatchName, u64>,
    highest_id: u64,
    records: u64,
}

/// The length of a job's record, and of the parts of it that change.
struct Sizes {
    job: u64,
    status: u64,
    body: u64,
    /// The numbers and lengths of its remembered attempts.
    attempts: Vec<(u32, u64)>,
}

impl Sizes {
    fn set_status(&mut self, status: &JobStatus) {
        let status = status_bytes(status);
        self.job = self.job - self.status + status;
        self.status = status;
    }

    fn set_body(&mut self, body: &[u8]) {
        let body = body_bytes(body);
        self.job = self.job - self.body + body;
        self.body = body;
    }
}

impl Tally {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        let Record::Change(change) = record else { return };
        match change {
            Change::Job(spec, status) => {
                let job = change::job_bytes(&JobSize::of(spec, status));
                let (status, body) = (status_bytes(status), body_bytes(&spec.body));
                let attempts = self.jobs.remove(&spec.id).map(|sizes| sizes.attempts).unwrap_or_default();
                self.jobs.insert(spec.id, Sizes { job, status, body, attempts });
                self.highest_id = self.highest_id.max(spec.id.0);
            }
            Change::Status(id, status) => {
                if let Some(sizes) = self.jobs.get_mut(id) {
                    sizes.set_status(status);
                }
            }
            Change::Done(id, status, result) => {
                if let Some(sizes) = self.jobs.get_mut(id) {
                    sizes.set_status(status);
                    sizes.set_body(result);
                }
            }
            Change::Attempt(id, attempt) => {
                if let Some(sizes) = self.jobs.get_mut(id) {
                    sizes.attempts.retain(|(number, _)| *number != attempt.number);
                    sizes.attempts.push((attempt.number, change::attempt_bytes(*id, attempt)));
                    if sizes.attempts.len() > ATTEMPTS_REMEMBERED {
                        sizes.attempts.remove(0);
                    }
                }
            }
            Change::Gone(id) => self.end(*id),
            Change::GoneOf(id, counts) => {
                self.end(*id);
                self.batches.insert(counts.name.clone(), change::batch_bytes(&counts.name));
            }
            Change::Batch(counts) => {
                self.batches.insert(counts.name.clone(), change::batch_bytes(&counts.name));
            }
            Change::Pause(queue, PauseState::Running) => {
                self.paused.remove(queue);
            }
            Change::Pause(queue, _) => {
                self.paused.insert(queue.clone(), change::pause_bytes(queue));
            }
            Change::IdsUsed(id) => self.highest_id = self.highest_id.max(id.0),
        }
    }

    fn end(&mut self, id: JobId) {
        self.jobs.remove(&id);
        self.highest_id = self.highest_id.max(id.0);
    }

    fn live_bytes(&self) -> u64 {
        let attempts = self.jobs.values().flat_map(|sizes| &sizes.attempts).map(|(_, bytes)| bytes);
        self.jobs.values().map(|sizes| sizes.job).sum::<u64>()
            + attempts.sum::<u64>()
            + self.paused.values().sum::<u64>()
            + self.batches.values().sum::<u64>()
    }
}

fn status_bytes(status: &JobStatus) -> u64 {
    change::status_bytes(status.priority, status.reason.as_deref())
}

fn body_bytes(body: &[u8]) -> u64 {
    (change::int_length(body.len() as u64) + body.len()) as u64
}
