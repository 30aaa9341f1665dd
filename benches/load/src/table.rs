//! All rounds together: medians, spread, and ratios taken round by round.

use std::collections::BTreeMap;

use crate::line::{Asked, Line, Unit};
use crate::subject::{Subject, Trouble};

/// Everything that was measured of one kind of work.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) about: &'static str,
    /// By subject: the lines of each round.
    rounds: BTreeMap<Subject, Vec<Vec<Line>>>,
    /// Who could not.
    pub(crate) troubles: BTreeMap<Subject, Trouble>,
}

/// The middle of several figures, and the least and the most of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of no figures there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, least, most })
    }
}

/// Something asked, and what there is.
pub(crate) struct Verdict {
    pub(crate) asked: Asked,
    pub(crate) is: f64,
    pub(crate) met: bool,
}

impl Outcome {
    pub(crate) fn new(name: &str, about: &'static str) -> Outcome {
        Outcome { name: name.into(), about, ..Outcome::default() }
    }

    pub(crate) fn add(&mut self, subject: Subject, result: Result<Vec<Line>, Trouble>) {
        match result {
            Ok(lines) => self.rounds.entry(subject).or_default().push(lines),
            Err(trouble) => drop(self.troubles.insert(subject, trouble)),
        }
    }

    /// The lines, from the subject that has them all.
    pub(crate) fn lines(&self) -> &[Line] {
        self.rounds.values().next().map_or(&[], |rounds| &rounds[0])
    }

    pub(crate) fn value(&self, subject: Subject, line: usize) -> Option<Spread> {
        Spread::of(self.each(subject, line).filter_map(|line| line.value))
    }

    /// p50, p99 and p99.9, each the median of all rounds; `None` where one round has none.
    pub(crate) fn latency(&self, subject: Subject, line: usize) -> Option<[f64; 3]> {
        let rounds: Option<Vec<[f64; 3]>> = self.each(subject, line).map(|line| line.latency).collect();
        medians(&rounds?)
    }

    /// Processor time of the server and of the load generator for each job, medians.
    pub(crate) fn cpu(&self, subject: Subject, line: usize) -> Option<[f64; 2]> {
        let rounds: Vec<[f64; 2]> = self.each(subject, line).filter_map(|line| line.cpu).collect();
        medians(&rounds)
    }

    /// One subject's figure over another's, in each round for itself.
    pub(crate) fn ratio(&self, subject: Subject, other: Subject, line: usize) -> Option<Spread> {
        let pairs = self.each(subject, line).zip(self.each(other, line));
        let ratios = pairs.filter_map(|(one, other)| Some(one.value? / other.value?));
        // A subject that did nothing in the time is no measure.
        Spread::of(ratios.filter(|ratio| ratio.is_finite()))
    }

    /// What is asked of DJQS in this line and can be told.
    pub(crate) fn verdicts(&self, line: usize) -> Vec<Verdict> {
        let described = &self.lines()[line];
        let judge = |&asked: &Asked| {
            let (is, bound) = match asked {
                Asked::Against(other, bound) => (self.ratio(Subject::Djqs, other, line)?.median, bound),
                Asked::Bound(bound) => (self.value(Subject::Djqs, line)?.median, bound),
            };
            let met = if described.unit.more_is_better() { is >= bound } else { is <= bound };
            Some(Verdict { asked, is, met })
        };
        described.asked.iter().filter_map(judge).collect()
    }

    fn each(&self, subject: Subject, line: usize) -> impl Iterator<Item = &Line> {
        self.rounds.get(&subject).into_iter().flatten().filter_map(move |lines| lines.get(line))
    }
}

fn medians<const N: usize>(rounds: &[[f64; N]]) -> Option<[f64; N]> {
    if rounds.is_empty() {
        return None;
    }
    let median = |index: usize| {
        Spread::of(rounds.iter().map(|round| round[index])).map_or(0.0, |spread| spread.median)
    };
    Some(std::array::from_fn(median))
}

/// `12.3k (11.0k–13.1k)`; the middle alone where there is one round.
pub(crate) fn show(spread: Spread, unit: Unit) -> String {
    let Spread { median, least, most } = spread;
    if least == most {
        return unit.show(median);
    }
    format!("{} ({}–{})", unit.show(median), unit.show(least), unit.show(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut outcome = Outcome::new("n", "");
        for (ours, theirs) in [(10.0, 5.0), (30.0, 10.0), (4.0, 1.0)] {
            outcome.add(Subject::Djqs, Ok(vec![Line::new("l", Unit::PerSecond, ours)]));
            outcome.add(Subject::Redis, Ok(vec![Line::new("l", Unit::PerSecond, theirs)]));
        }
        let ratio = outcome.ratio(Subject::Djqs, Subject::Redis, 0);
        assert_eq!(ratio, Some(Spread { median: 3.0, least: 2.0, most: 4.0 }));
        assert_eq!(outcome.value(Subject::Djqs, 0).map(|spread| spread.median), Some(10.0));
    }
}
