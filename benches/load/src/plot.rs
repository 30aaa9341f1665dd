//! The curves, as SVG files.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::line::{Point, Unit};
use crate::subject::Subject;
use crate::table::Outcome;

const SIZE: (u32, u32) = (820, 460);

/// One subject's points.
struct Curve {
    subject: Subject,
    points: Vec<(f64, f64)>,
}

/// Draws whatever there are at least two points for: the files' names and titles.
///
/// # Errors
/// Where a file can't be written.
pub(crate) fn draw(
    directory: &Path,
    outcomes: &[Outcome],
    subjects: &[Subject],
) -> Result<Vec<(&'static str, &'static str)>, Box<dyn Error>> {
    let mut drawn = Vec::new();
    for (file, title, place) in
        [
            (
                "benchmarks-submit.svg",
                "Submit, every reply awaited: jobs/s by connections",
                (|point| match point {
                    Point::Submit { connections } => Some(connections),
                    _ => None,
                }) as fn(Point) -> Option<f64>,
            ),
            ("benchmarks-work.svg", "Get + ack, every reply awaited: jobs/s by connections", |point| {
                match point {
                    Point::Work { connections } => Some(connections),
                    _ => None,
                }
            }),
        ]
    {
        let curves = curves(outcomes, subjects, place, |outcome, subject, line| {
            outcome.value(subject, line).map(|value| value.median)
        });
        let Some((x, y)) = ranges(&curves) else {
            continue;
        };
        let (x, y) = ((x.start..x.end).log_scale(), 0.0..y.end * 1.1);
        // Rates are drawn from zero: below the curves there is room.
        let legend = SeriesLabelPosition::LowerMiddle;
        draw_one(&directory.join(file), title, ["connections", "jobs/s"], &curves, legend, x, y)?;
        drawn.push((file, title));
    }
    for (file, title, percentile) in [
        ("benchmarks-latency-p50.svg", "Submit to receipt, p50: µs by jobs/s", 0),
        ("benchmarks-latency-p99.svg", "Submit to receipt, p99: µs by jobs/s", 1),
    ] {
        let place = |point| match point {
            Point::Load { jobs_per_second } => Some(jobs_per_second),
            _ => None,
        };
        let curves = curves(outcomes, subjects, place, |outcome, subject, line| {
            outcome.latency(subject, line).map(|percentiles| percentiles[percentile])
        });
        let Some((x, y)) = ranges(&curves) else {
            continue;
        };
        let (x, y) = (0.0..x.end * 1.02, (y.start * 0.8..y.end * 1.3).log_scale());
        // Latency rises to the right.
        let legend = SeriesLabelPosition::UpperLeft;
        draw_one(&directory.join(file), title, ["jobs/s", "µs"], &curves, legend, x, y)?;
        drawn.push((file, title));
    }
    Ok(drawn)
}

/// The curves of the subjects that have at least two points.
fn curves(
    outcomes: &[Outcome],
    subjects: &[Subject],
    place: impl Fn(Point) -> Option<f64>,
    value: impl Fn(&Outcome, Subject, usize) -> Option<f64>,
) -> Vec<Curve> {
    let lines =
        || outcomes.iter().flat_map(|outcome| (0..outcome.lines().len()).map(move |line| (outcome, line)));
    let point = |outcome: &Outcome, subject, line: usize| {
        let x = outcome.lines()[line].point.and_then(&place)?;
        Some((x, value(outcome, subject, line)?))
    };
    let curves = subjects.iter().map(|&subject| {
        let points = lines().filter_map(|(outcome, line)| point(outcome, subject, line)).collect();
        Curve { subject, points }
    });
    curves.filter(|curve| curve.points.len() > 1).collect()
}

fn ranges(curves: &[Curve]) -> Option<(Range<f64>, Range<f64>)> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let range = |value: fn(&(f64, f64)) -> f64| {
        let least = all().map(value).min_by(f64::total_cmp)?;
        Some(least..all().map(value).max_by(f64::total_cmp)?)
    };
    Some((range(|point| point.0)?, range(|point| point.1)?))
}

fn draw_one<X, Y>(
    path: &Path,
    title: &str,
    [x_name, y_name]: [&str; 2],
    curves: &[Curve],
    legend: SeriesLabelPosition,
    x: X,
    y: Y,
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)?;
    let short = |value: &f64| Unit::PerSecond.show(*value).replace(".0k", "k");
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .light_line_style(WHITE)
        .draw()?;
    for curve in curves {
        let color = color(curve.subject);
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), style).point_size(4))?
            .label(curve.subject.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Told apart by people who don't see all colours, too (Okabe and Ito's palette).
fn color(subject: Subject) -> RGBColor {
    match subject {
        Subject::Djqs => RGBColor(0, 114, 178),
        Subject::DjqsBeanstalk => RGBColor(86, 180, 233),
        Subject::Rival => RGBColor(204, 121, 167),
        Subject::Beanstalkd => RGBColor(213, 94, 0),
        Subject::Redis => RGBColor(0, 158, 115),
        Subject::Floor => RGBColor(120, 120, 120),
    }
}
