//! What the program does with a journal: opens, verifies or salvages it, and reports on that.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use djqs::broker::{DiskStorage, Fsync, JournalOptions, OpenError, Recovered};
use djqs::internal::journal::{self, Salvaged};
use djqs::{Broker, broker};

use super::flags::Flags;

/// Opens the journal. Returns also what it promises and what was recovered from it, in lines for the start-up.
pub(super) fn open(flags: &Flags, config: broker::Config) -> Result<(Broker, String), String> {
    let fsync = flags.policy();
    let directory = flags.data.display();
    let body_max = u64::from(flags.max_body);
    let options = JournalOptions {
        fsync,
        segment_bytes: match flags.segment_size {
            Some(bytes) => bytes.max(broker::segment_bytes_for(body_max)),
            None => broker::segment_bytes_by_default(body_max),
        },
        #[cfg(feature = "sabotage")]
        sabotage: sabotage()?,
        ..JournalOptions::default()
    };
    let can_not_open = |error: OpenError| {
        let advice = match error {
            OpenError::Damaged(_) | OpenError::Missing { .. } => {
                "\n  nothing was changed; restore a backup, or start with --salvage to keep what can be read (see docs/journal.md)"
            }
            _ => "",
        };
        format!("can't open the journal in {directory}: {error}{advice}")
    };
    let storage = DiskStorage::open(&flags.data).map_err(|error| can_not_open(error.into()))?;
    if flags.salvage {
        report_salvage(&journal::salvage(&storage).map_err(can_not_open)?);
    }
    let (broker, recovered) = Broker::open(config, Arc::new(storage), options).map_err(can_not_open)?;
    let jobs = broker.stats().jobs;
    let count = jobs.ready + jobs.delayed + jobs.leased + jobs.dead;
    let promise = match fsync {
        Fsync::Always => "(fsync always): an acknowledged job survives a power cut".into(),
        Fsync::Interval(_) => format!("(fsync every {fsync}): a power cut loses at most the last {fsync}"),
        Fsync::Never => "(fsync never): an acknowledged job survives kill -9 but no power cut".to_string(),
    };
    let Recovered { bytes, duration, clean, .. } = recovered;
    let after = if clean { "" } else { "; the previous server did not stop gracefully" };
    let recovered =
        format!("recovered {count} jobs from {bytes} bytes in {} ms{after}", duration.as_millis());
    Ok((broker, format!("jobs are in {directory} {promise}\n{recovered}")))
}

/// Reads a journal that no server has open, and prints what is in it.
pub(super) fn verify(directory: &Path) -> Result<(), String> {
    let can_not_read = |error| format!("can't read the journal in {}: {error}", directory.display());
    let report = journal::verify(&DiskStorage::open_read_only(directory).map_err(can_not_read)?);
    let mut text = format!(
        "jobs: {}\npaused queues: {}\nhighest id: {}\nrecords: {}\nsegments: {}\nfile bytes: {}\nlive bytes: {}\n\
         dead bytes: {}\nclean end: {}\n",
        report.jobs,
        report.paused,
        report.highest_id,
        report.records,
        report.segments,
        report.file_bytes,
        report.live_bytes,
        report.dead_bytes,
        if report.clean { "yes" } else { "no" },
    );
    if let Some(torn) = &report.torn {
        text += &format!("torn last write: bytes {} to {} of {}\n", torn.from, torn.to, torn.path.display());
    }
    let _ = io::stdout().write_all(text.as_bytes());
    report.damage.map_or(Ok(()), |damage| {
        Err(format!("the journal is damaged: {damage}; the figures include only what is before the damage"))
    })
}

fn report_salvage(salvaged: &Salvaged) {
    if !salvaged.damaged {
        log::warn!("--salvage: nothing is damaged, nothing was changed");
        return;
    }
    for damage in &salvaged.damage {
        log::warn!("--salvage: lost: {damage}");
    }
    for original in &salvaged.originals {
        log::warn!("--salvage: kept the original as {}", original.display());
    }
    log::warn!(
        "--salvage: kept {} records; {} bytes could not be read",
        salvaged.records,
        salvaged.lost_bytes
    );
}

/// The fault that `make crash-check` asks for, to check that the crash tests find it.
#[cfg(feature = "sabotage")]
fn sabotage() -> Result<journal::Sabotage, String> {
    use journal::Sabotage;
    match std::env::var("DJQS_SABOTAGE").unwrap_or_default().as_str() {
        "" => Ok(Sabotage::None),
        "reply-before-write" => Ok(Sabotage::ReplyBeforeWrite),
        "reply-before-sync" => Ok(Sabotage::ReplyBeforeSync),
        "skip-directory-sync" => Ok(Sabotage::SkipDirectorySync),
        "ignore-sync-error" => Ok(Sabotage::IgnoreSyncError),
        "drop-before-sync" => Ok(Sabotage::DropBeforeSync),
        other => Err(format!("DJQS_SABOTAGE={other}: unknown fault")),
    }
}
