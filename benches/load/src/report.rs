//! The report: Markdown tables, for the terminal and for docs/benchmarks.md.

use std::fmt::Write;

use crate::line::{Asked, Unit};
use crate::subject::Subject;
use crate::table::{Outcome, show};

/// What stands above the tables.
pub(crate) struct Head {
    pub(crate) facts: Vec<(&'static str, String)>,
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    /// The subjects that were asked for.
    pub(crate) subjects: Vec<Subject>,
}

impl Head {
    /// The whole document, with the plots' file names.
    pub(crate) fn document(&self, outcomes: &[Outcome], plots: &[(&str, &str)]) -> String {
        let mut text = String::from(include_str!("head.md"));
        text.push_str("\n## The machine\n\n| | |\n|---|---|\n");
        for (name, fact) in &self.facts {
            let _ = writeln!(text, "| {name} | {fact} |");
        }
        let _ = writeln!(
            text,
            "| rounds | {}, interleaved{} |",
            self.rounds,
            if self.quick { "; `--quick`: too short for figures that mean something" } else { "" }
        );
        if !plots.is_empty() {
            text.push_str("\n## Curves\n");
            for (file, title) in plots {
                let _ = writeln!(text, "\n![{title}]({file})");
            }
        }
        text.push_str(&self.tables(outcomes));
        text.push_str("\n## What each row does\n\n");
        for outcome in outcomes {
            let _ = writeln!(text, "- `{}`: {}", outcome.name, outcome.about);
        }
        text
    }

    /// The tables alone.
    pub(crate) fn tables(&self, outcomes: &[Outcome]) -> String {
        let figures = self.figures(outcomes);
        let latencies = self.latencies(outcomes);
        let processor = self.processor(outcomes);
        let troubles = troubles(outcomes);
        let mut text = format!("\n## Figures\n\n{figures}");
        for (title, table) in [
            ("Latency in µs: p50 / p99 / p99.9", latencies),
            ("Processor time for each job in µs: server + load generator", processor),
            ("Not measured", troubles),
        ] {
            if !table.is_empty() {
                let _ = write!(text, "\n## {title}\n\n{table}");
            }
        }
        text
    }

    /// Medians, spread, ratios, and what was asked.
    fn figures(&self, outcomes: &[Outcome]) -> String {
        let others = self.subjects.iter().filter(|&&subject| subject != Subject::Djqs);
        let others: Vec<Subject> = others.copied().collect();
        let mut heads = vec!["work".to_owned(), "unit".to_owned()];
        heads.extend(self.subjects.iter().map(ToString::to_string));
        heads.extend(others.iter().map(|other| format!("DJQS / {other}")));
        heads.push("asked: is".into());
        let mut table = Table::new(heads);
        for (outcome, index) in all_lines(outcomes) {
            let line = &outcome.lines()[index];
            let values: Vec<_> = self.subjects.iter().map(|&subject| outcome.value(subject, index)).collect();
            if values.iter().all(Option::is_none) {
                continue;
            }
            let mut cells = vec![line.title.clone(), line.unit.to_string()];
            cells.extend(values.iter().map(|value| value.map_or_else(none, |value| show(value, line.unit))));
            cells.extend(others.iter().map(|&other| {
                let ratio = outcome.ratio(Subject::Djqs, other, index);
                ratio.map_or_else(none, |ratio| show(ratio, Unit::RateRatio))
            }));
            cells.push(asked(outcome, index));
            table.add(cells);
        }
        table.text
    }

    fn latencies(&self, outcomes: &[Outcome]) -> String {
        let three = |p: [f64; 3]| p.map(|micros| Unit::Micros.show(micros)).join(" / ");
        self.by_subject(outcomes, |outcome, subject, line| outcome.latency(subject, line).map(three))
    }

    fn processor(&self, outcomes: &[Outcome]) -> String {
        let two = |cpu: [f64; 2]| cpu.map(|micros| format!("{micros:.2}")).join(" + ");
        self.by_subject(outcomes, |outcome, subject, line| outcome.cpu(subject, line).map(two))
    }

    /// A table of one cell a subject; lines where nobody has one are left out.
    fn by_subject(
        &self,
        outcomes: &[Outcome],
        cell: impl Fn(&Outcome, Subject, usize) -> Option<String>,
    ) -> String {
        let mut heads = vec!["work".to_owned()];
        heads.extend(self.subjects.iter().map(ToString::to_string));
        let mut table = Table::new(heads);
        for (outcome, index) in all_lines(outcomes) {
            let found: Vec<_> = self.subjects.iter().map(|&subject| cell(outcome, subject, index)).collect();
            if found.iter().any(Option::is_some) {
                let mut cells = vec![outcome.lines()[index].title.clone()];
                cells.extend(found.into_iter().map(|cell| cell.unwrap_or_else(none)));
                table.add(cells);
            }
        }
        if table.rows == 0 { String::new() } else { table.text }
    }
}

fn all_lines(outcomes: &[Outcome]) -> impl Iterator<Item = (&Outcome, usize)> {
    outcomes.iter().flat_map(|outcome| (0..outcome.lines().len()).map(move |index| (outcome, index)))
}

/// What is asked of DJQS, and whether it is so.
fn asked(outcome: &Outcome, line: usize) -> String {
    let sign = if outcome.lines()[line].unit.more_is_better() { "≥" } else { "≤" };
    let verdicts = outcome.verdicts(line);
    let words = verdicts.iter().map(|verdict| {
        let mark = if verdict.met { "✓" } else { "✗" };
        match verdict.asked {
            Asked::Against(other, bound) => format!("{sign} {bound} × {other}: {:.2} {mark}", verdict.is),
            Asked::Bound(bound) => format!("{sign} {bound}: {:.2} {mark}", verdict.is),
        }
    });
    words.collect::<Vec<_>>().join("<br>")
}

fn troubles(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        for (subject, trouble) in &outcome.troubles {
            let _ = writeln!(text, "- `{}`, {subject}: {trouble}", outcome.name);
        }
    }
    text
}

fn none() -> String {
    "–".into()
}

/// A Markdown table that is being written.
struct Table {
    text: String,
    rows: usize,
}

impl Table {
    fn new(heads: Vec<String>) -> Table {
        let rule = vec!["---"; heads.len()];
        Table { text: format!("| {} |\n|{}|\n", heads.join(" | "), rule.join("|")), rows: 0 }
    }

    fn add(&mut self, cells: Vec<String>) {
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
        self.rows += 1;
    }
}
