//! The documents of stats and list commands: beanstalkd 1.13's keys in its order, with strings quoted as it
//! quotes them.

use std::fmt::Write;
use std::time::Duration;

use crate::job::{JobState, MAX_DURATION, QueueName};
use crate::stats::{Counted, JobStats, QueueDetails, ServerDetails, Value};

/// Shown for a pause without an end: the longest pause that a client can ask for.
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
        // A job moves between segments, so none is shown.
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

/// Where the value of a key comes from.
enum From {
    /// The figure of that name.
    Stat(&'static str),
    /// The same, a text without quotes.
    Bare(&'static str),
    /// How often a command was given.
    Command(Counted),
}

/// beanstalkd's keys, in its order.
const SERVER_KEYS: &[(&str, From)] = &[
    ("current-jobs-urgent", From::Stat("jobs_urgent")),
    ("current-jobs-ready", From::Stat("jobs_ready")),
    ("current-jobs-reserved", From::Stat("jobs_leased")),
    ("current-jobs-delayed", From::Stat("jobs_delayed")),
    ("current-jobs-buried", From::Stat("jobs_dead")),
    ("cmd-put", From::Command(Counted::Submit)),
    ("cmd-peek", From::Command(Counted::Peek)),
    ("cmd-peek-ready", From::Command(Counted::PeekReady)),
    ("cmd-peek-delayed", From::Command(Counted::PeekDelayed)),
    ("cmd-peek-buried", From::Command(Counted::PeekDead)),
    ("cmd-reserve", From::Command(Counted::LeaseForever)),
    ("cmd-reserve-with-timeout", From::Command(Counted::LeaseWithin)),
    ("cmd-delete", From::Command(Counted::Finish)),
    ("cmd-release", From::Command(Counted::Return)),
    ("cmd-use", From::Command(Counted::Use)),
    ("cmd-watch", From::Command(Counted::Watch)),
    ("cmd-ignore", From::Command(Counted::Ignore)),
    ("cmd-bury", From::Command(Counted::Bury)),
    ("cmd-kick", From::Command(Counted::Kick)),
    ("cmd-touch", From::Command(Counted::Touch)),
    ("cmd-stats", From::Command(Counted::ServerStats)),
    ("cmd-stats-job", From::Command(Counted::JobStats)),
    ("cmd-stats-tube", From::Command(Counted::QueueStats)),
    ("cmd-list-tubes", From::Command(Counted::QueueNames)),
    ("cmd-list-tube-used", From::Command(Counted::Used)),
    ("cmd-list-tubes-watched", From::Command(Counted::Watched)),
    ("cmd-pause-tube", From::Command(Counted::Pause)),
    ("job-timeouts", From::Stat("crashed_total")),
    ("total-jobs", From::Stat("submitted_total")),
    ("max-job-size", From::Stat("body_max_bytes")),
    ("current-tubes", From::Stat("queues")),
    ("current-connections", From::Stat("connections")),
    ("current-producers", From::Stat("submitters")),
    ("current-workers", From::Stat("workers")),
    ("current-waiting", From::Stat("waiting")),
    ("total-connections", From::Stat("connections_total")),
    ("pid", From::Stat("pid")),
    ("version", From::Stat("version")),
    ("rusage-utime", From::Stat("cpu_user_seconds_total")),
    ("rusage-stime", From::Stat("cpu_system_seconds_total")),
    ("uptime", From::Stat("uptime_seconds")),
    ("binlog-oldest-index", From::Stat("journal_oldest_segment")),
    ("binlog-current-index", From::Stat("journal_newest_segment")),
    ("binlog-records-migrated", From::Stat("journal_rewritten_jobs_total")),
    ("binlog-records-written", From::Stat("journal_records")),
    ("binlog-max-size", From::Stat("journal_segment_bytes")),
    ("draining", From::Stat("draining")),
    ("id", From::Bare("instance")),
    ("hostname", From::Stat("hostname")),
    ("os", From::Stat("os")),
    ("platform", From::Stat("platform")),
];

pub(super) fn server(details: &ServerDetails) -> String {
    let list = details.list();
    let value = |name: &str| list.iter().find(|stat| stat.name == name).map(|stat| &stat.value);
    let mut document = String::from("---\n");
    for (key, from) in SERVER_KEYS {
        let text = match from {
            From::Command(counted) => details.commands.of(*counted).to_string(),
            From::Bare(name) => value(name).map_or_else(String::new, Value::to_string),
            From::Stat(name) => match value(name) {
                Some(Value::Text(text)) => quoted(text),
                Some(Value::Flag(flag)) => flag.to_string(),
                Some(value) => value.to_string(),
                // Without a journal its figures are missing.
                None => "0".to_owned(),
            },
        };
        let _ = writeln!(document, "{key}: {text}");
    }
    document
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Ready => "ready",
        JobState::Delayed => "delayed",
        JobState::Leased => "reserved",
        JobState::Dead => "buried",
        // Replies in this dialect hide such jobs.
        state @ (JobState::Done | JobState::Cancelled) => state.as_str(),
    }
}

/// A string in double quotes, as YAML reads it. The system's names may contain anything.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{CommandCounts, Machine, ServerStats};

    #[test]
    fn every_figure_of_the_server_is_one_that_the_list_has() {
        let details = ServerDetails {
            stats: ServerStats::default(),
            urgent: 0,
            commands: CommandCounts::default(),
            submitters: 0,
            workers: 0,
            rewritten: 0,
            body_max: 0,
            machine: Machine::default(),
            cpu: Default::default(),
        };
        let list = details.list();
        for (key, from) in SERVER_KEYS {
            if let From::Stat(name) | From::Bare(name) = from {
                let of_journal = *name == "journal_records";
                assert!(of_journal || list.iter().any(|stat| stat.name == *name), "{key} wants {name}");
            }
        }
    }

    #[test]
    fn strings_are_quoted_as_yaml_reads_them() {
        assert_eq!(quoted("#1 SMP \"x\" \\ é\n"), r##""#1 SMP \"x\" \\ ??""##);
    }
}
