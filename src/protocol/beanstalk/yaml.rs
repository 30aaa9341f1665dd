//! The documents of stats and list commands: beanstalkd 1.13's keys in its order, its strings quoted as it does.

use std::fmt::Write;
use std::time::Duration;

use crate::job::{JobState, MAX_DURATION, QueueName};
use crate::stats::{Counted, JobStats, QueueDetails, ServerDetails};

/// What is shown of a pause that has no end: the longest that can be asked for.
const ENDLESS: Duration = MAX_DURATION;

/// Writes a document of `key: value` lines.
macro_rules! document {
    ($($key:literal: $value:expr,)*) => {{
        let mut text = String::from("---\n");
        // Writing to a String can't fail.
        $(let _ = writeln!(text, concat!($key, ": {}"), $value);)*
        text
    }};
}

pub(super) fn names(names: &[QueueName]) -> String {
    let mut text = String::from("---\n");
    for name in names {
        let _ = writeln!(text, "- {name}");
    }
    text
}

pub(super) fn job(stats: &JobStats) -> String {
    let JobStats { job, age, delay, leases, lapses, returns, deaths, kicks } = stats;
    document! {
        "id": job.id,
        "tube": quoted(job.queue.as_str()),
        "state": state(job.state),
        "pri": job.priority,
        "age": age.as_secs(),
        "delay": delay.as_secs(),
        "ttr": rounded_up(job.ttr),
        "time-left": job.remaining.unwrap_or_default().as_secs(),
        // Which segment a job is in is the journal's affair, and changes.
        "file": 0,
        "reserves": leases,
        "timeouts": lapses,
        "releases": returns,
        "buries": deaths,
        "kicks": kicks,
    }
}

pub(super) fn queue(details: &QueueDetails) -> String {
    let QueueDetails { stats, urgent, using, watching, pauses, pause_time } = details;
    let (pause, left) = match stats.paused {
        None => (Duration::ZERO, Duration::ZERO),
        Some(None) => (ENDLESS, ENDLESS),
        Some(Some(left)) => (pause_time.unwrap_or(left), left),
    };
    document! {
        "name": quoted(stats.name.as_str()),
        "current-jobs-urgent": urgent,
        "current-jobs-ready": stats.jobs.ready,
        "current-jobs-reserved": stats.jobs.leased,
        "current-jobs-delayed": stats.jobs.delayed,
        "current-jobs-buried": stats.jobs.dead,
        "total-jobs": stats.totals.submitted,
        "current-using": using,
        "current-watching": watching,
        "current-waiting": stats.waiting,
        "cmd-delete": stats.totals.acked + stats.totals.deleted,
        "cmd-pause-tube": pauses,
        "pause": pause.as_secs(),
        "pause-time-left": left.as_secs(),
    }
}

pub(super) fn server(details: &ServerDetails) -> String {
    let ServerDetails { stats, urgent, commands, submitters, workers, .. } = details;
    let ServerDetails { rewritten, body_max, machine, cpu, .. } = details;
    let journal = stats.journal.as_deref();
    document! {
        "current-jobs-urgent": urgent,
        "current-jobs-ready": stats.jobs.ready,
        "current-jobs-reserved": stats.jobs.leased,
        "current-jobs-delayed": stats.jobs.delayed,
        "current-jobs-buried": stats.jobs.dead,
        "cmd-put": commands.of(Counted::Submit),
        "cmd-peek": commands.of(Counted::Peek),
        "cmd-peek-ready": commands.of(Counted::PeekReady),
        "cmd-peek-delayed": commands.of(Counted::PeekDelayed),
        "cmd-peek-buried": commands.of(Counted::PeekDead),
        "cmd-reserve": commands.of(Counted::LeaseForever),
        "cmd-reserve-with-timeout": commands.of(Counted::LeaseWithin),
        "cmd-delete": commands.of(Counted::Finish),
        "cmd-release": commands.of(Counted::Return),
        "cmd-use": commands.of(Counted::Use),
        "cmd-watch": commands.of(Counted::Watch),
        "cmd-ignore": commands.of(Counted::Ignore),
        "cmd-bury": commands.of(Counted::Bury),
        "cmd-kick": commands.of(Counted::Kick),
        "cmd-touch": commands.of(Counted::Touch),
        "cmd-stats": commands.of(Counted::ServerStats),
        "cmd-stats-job": commands.of(Counted::JobStats),
        "cmd-stats-tube": commands.of(Counted::QueueStats),
        "cmd-list-tubes": commands.of(Counted::QueueNames),
        "cmd-list-tube-used": commands.of(Counted::Used),
        "cmd-list-tubes-watched": commands.of(Counted::Watched),
        "cmd-pause-tube": commands.of(Counted::Pause),
        "job-timeouts": stats.totals.crashed,
        "total-jobs": stats.totals.submitted,
        "max-job-size": body_max,
        "current-tubes": stats.queues,
        "current-connections": stats.connections,
        "current-producers": submitters,
        "current-workers": workers,
        "current-waiting": stats.waiting,
        "total-connections": stats.connections_total,
        "pid": stats.pid,
        "version": quoted(&stats.version),
        "rusage-utime": seconds_and_micros(cpu.0),
        "rusage-stime": seconds_and_micros(cpu.1),
        "uptime": stats.uptime.as_secs(),
        "binlog-oldest-index": journal.map_or(0, |journal| journal.oldest_segment),
        "binlog-current-index": journal.map_or(0, |journal| journal.newest_segment),
        "binlog-records-migrated": rewritten,
        "binlog-records-written": journal.map_or(0, |journal| journal.records),
        "binlog-max-size": journal.map_or(0, |journal| journal.segment_bytes),
        "draining": stats.draining,
        "id": machine.instance,
        "hostname": quoted(&machine.hostname),
        "os": quoted(&machine.os),
        "platform": quoted(&machine.platform),
    }
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Ready => "ready",
        JobState::Delayed => "delayed",
        JobState::Leased => "reserved",
        JobState::Dead => "buried",
    }
}

/// A string in double quotes, as YAML reads it: what the system says of itself may hold anything.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn seconds_and_micros(time: Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_yaml_reads_them() {
        assert_eq!(quoted("#1 SMP \"x\" \\ é\n"), r##""#1 SMP \"x\" \\ ??""##);
    }
}
