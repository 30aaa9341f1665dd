//! One line of the table: a figure with its unit, what is asked of it, and what else was seen on the way.

use std::fmt;

use crate::load::Measured;
use crate::subject::Subject;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    MegabytesPerSecond,
    Micros,
    BytesPerJob,
    Seconds,
    /// One rate over another: the more, the better.
    RateRatio,
    /// One latency over another: the less, the better.
    LatencyRatio,
}

impl Unit {
    pub(crate) fn more_is_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::MegabytesPerSecond | Unit::RateRatio)
    }

    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond if value >= 1e6 => format!("{:.2}M", value / 1e6),
            Unit::PerSecond if value >= 1e5 => format!("{:.0}k", value / 1e3),
            Unit::PerSecond if value >= 1e3 => format!("{:.1}k", value / 1e3),
            Unit::PerSecond | Unit::BytesPerJob | Unit::MegabytesPerSecond => format!("{value:.0}"),
            Unit::Micros if value >= 100.0 => format!("{value:.0}"),
            Unit::Micros => format!("{value:.1}"),
            Unit::Seconds | Unit::RateRatio | Unit::LatencyRatio => format!("{value:.2}"),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::PerSecond => "jobs/s",
            Unit::MegabytesPerSecond => "MB/s",
            Unit::Micros => "µs",
            Unit::BytesPerJob => "bytes a job",
            Unit::Seconds => "s",
            Unit::RateRatio | Unit::LatencyRatio => "ratio",
        })
    }
}

/// What is asked of DJQS's figure: at least this where more is better, at most this where less is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// So many times the other's, in the same round.
    Against(Subject, f64),
    /// So much.
    Bound(f64),
}

/// A curve that a line is a point of, and the point's place along it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Point {
    Submit { connections: f64 },
    Work { connections: f64 },
    Load { jobs_per_second: f64 },
}

/// One line, as one subject did it in one round.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// `None` for a line that is about latency only, or that the subject could not do.
    pub(crate) value: Option<f64>,
    /// p50, p99 and p99.9, in microseconds.
    pub(crate) latency: Option<[f64; 3]>,
    /// Processor time for each job, in microseconds: the server's, the load generator's.
    pub(crate) cpu: Option<[f64; 2]>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) point: Option<Point>,
}

impl Line {
    pub(crate) fn new(title: impl Into<String>, unit: Unit, value: f64) -> Line {
        let (latency, cpu, asked, point) = (None, None, Vec::new(), None);
        Line { title: title.into(), unit, value: Some(value), latency, cpu, asked, point }
    }

    /// A rate, with the latency and the processor time that it had.
    pub(crate) fn rate(title: impl Into<String>, measured: &Measured) -> Line {
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / measured.rounds.max(1) as f64;
        Line {
            latency: Some(percentiles(measured)),
            cpu: Some([each(measured.server_cpu), each(measured.own_cpu)]),
            ..Line::new(title, Unit::PerSecond, measured.per_second())
        }
    }

    /// A line about latency only.
    pub(crate) fn latency(title: impl Into<String>, latency: Option<[f64; 3]>) -> Line {
        Line { value: None, latency, ..Line::new(title, Unit::Micros, 0.0) }
    }

    pub(crate) fn asked(mut self, asked: &[Asked]) -> Line {
        self.asked = asked.to_vec();
        self
    }

    pub(crate) fn point(mut self, point: Point) -> Line {
        self.point = Some(point);
        self
    }
}

/// p50, p99 and p99.9, in microseconds.
pub(crate) fn percentiles(measured: &Measured) -> [f64; 3] {
    [0.5, 0.99, 0.999].map(|quantile| measured.latency.value_at_quantile(quantile) as f64 / 1e3)
}
