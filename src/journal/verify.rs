//! Verification: reads a journal that no server has open, and changes nothing.

use std::collections::HashMap;

use super::failure::OpenError;
use super::record::Record;
use super::recovery::{Scan, TornTail};
use super::storage::Storage;
use crate::change::{self, JobSize};
use crate::change::{Change, JobStatus, PauseState};
use crate::job::{JobId, QueueName};

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
    /// The length of each job's record, and of the part that a status may change.
    jobs: HashMap<JobId, (u64, u64)>,
    paused: HashMap<QueueName, u64>,
    highest_id: u64,
    records: u64,
}

impl Tally {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        let Record::Change(change) = record else { return };
        match change {
            Change::Job(spec, status) => {
                self.jobs
                    .insert(spec.id, (change::job_bytes(&JobSize::of(spec, status)), status_bytes(status)));
                self.highest_id = self.highest_id.max(spec.id.0);
            }
            Change::Status(id, status) => {
                if let Some((bytes, part)) = self.jobs.get_mut(id) {
                    let new = status_bytes(status);
                    *bytes = *bytes - *part + new;
                    *part = new;
                }
            }
            Change::Gone(id) => {
                self.jobs.remove(id);
                self.highest_id = self.highest_id.max(id.0);
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

    fn live_bytes(&self) -> u64 {
        self.jobs.values().map(|(bytes, _)| bytes).sum::<u64>() + self.paused.values().sum::<u64>()
    }
}

fn status_bytes(status: &JobStatus) -> u64 {
    change::status_bytes(status.priority, status.reason.as_deref())
}
