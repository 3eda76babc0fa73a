//! Tells the outcome: a table for each target, what failed and why, what was skipped, and a JSON file.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::compare::Comparison;

/// Failures that are listed for each target; the rest is counted.
const LISTED_FAILURES: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Passed,
    Failed,
    Skipped,
}

/// The outcome of one case on one target.
#[derive(Debug, Serialize)]
pub struct Record {
    pub target: String,
    pub case: String,
    pub source: String,
    #[serde(rename = "op")]
    pub operation: String,
    pub status: Status,
    /// Why it failed or was skipped; empty if it passed.
    pub reason: String,
    pub results: Vec<Comparison>,
}

/// How many passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Totals {
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut totals = Self::default();
        for record in records {
            match record.status {
                Status::Passed => totals.passed += 1,
                Status::Failed => totals.failed += 1,
                Status::Skipped => totals.skipped += 1,
            }
        }
        totals
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Prints everything about one target.
pub fn print_target(target: &str, records: &[Record]) {
    println!("{target}");
    println!("  (NaN and infinity must be the same kind on the reference; any non-finite value counts on a device)");
    print_table(records);
    print_failures(records);
    print_skipped(records);
    println!("{}\n", Totals::of(records));
}

/// One row for each source and operation.
fn print_table(records: &[Record]) {
    let mut groups: BTreeMap<(&str, &str), Vec<&Record>> = BTreeMap::new();
    for record in records {
        groups.entry((&record.source, &record.operation)).or_default().push(record);
    }
    let heading =
        ["source", "operation", "cases", "passed", "failed", "skipped", "worst/atol", "worst/tight", "worst at"];
    let mut rows = vec![heading.map(str::to_owned)];
    for ((source, operation), group) in groups {
        let totals = Totals::of(group.iter().copied());
        let (atol, tight, place) = worst(&group);
        rows.push([
            source.to_owned(),
            operation.to_owned(),
            group.len().to_string(),
            totals.passed.to_string(),
            totals.failed.to_string(),
            totals.skipped.to_string(),
            atol.map_or("-".into(), ratio),
            tight.map_or("-".into(), ratio),
            place,
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    for row in &rows {
        let cell = |(column, text): (usize, &String)| match column {
            0 | 1 => format!("{text:<width$}", width = widths[column]),
            8 => text.clone(),
            _ => format!("{text:>width$}", width = widths[column]),
        };
        println!("  {}", row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// The worst ratios of the cases that passed or failed, and where the first was reached.
///
/// Skipped cases stay out: they are beyond what the numbers are about.
fn worst(group: &[&Record]) -> (Option<f64>, Option<f64>, String) {
    let (mut atol, mut tight, mut place) = (None, None, String::new());
    for record in group.iter().filter(|record| record.status != Status::Skipped) {
        for comparison in &record.results {
            if atol.is_none_or(|worst| comparison.ratio_atol.0 > worst) {
                atol = Some(comparison.ratio_atol.0);
                place = format!("{}: {}", record.case, comparison.tensor);
            }
            if let Some(ratio) = comparison.ratio_tight {
                tight = Some(tight.map_or(ratio.0, |worst: f64| worst.max(ratio.0)));
            }
        }
    }
    (atol, tight, place)
}

/// A ratio with three digits that tell something.
fn ratio(value: f64) -> String {
    if value == 0.0 || (0.001..1e6).contains(&value) { format!("{value:.3}") } else { format!("{value:.1e}") }
}

fn print_failures(records: &[Record]) {
    let failed: Vec<&Record> = records.iter().filter(|record| record.status == Status::Failed).collect();
    for record in failed.iter().take(LISTED_FAILURES) {
        println!("  FAILED {}: {}", record.case, record.reason);
        for comparison in record.results.iter().filter(|comparison| !comparison.within_tolerance()) {
            let Some(worst) = comparison.worst else { continue };
            println!(
                "    {}: {} × tolerance in channel {}, index {}: got {:e}, truth {:e}",
                comparison.tensor,
                ratio(comparison.ratio_atol.0),
                worst.channel,
                worst.index,
                worst.got.0,
                worst.truth.0
            );
        }
    }
    if failed.len() > LISTED_FAILURES {
        println!("  ... and {} more failed", failed.len() - LISTED_FAILURES);
    }
}

/// How many cases were skipped for what reason, and where.
fn print_skipped(records: &[Record]) {
    let mut reasons: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.status == Status::Skipped) {
        let place = format!("{} {}", record.source, record.operation);
        *reasons.entry(&record.reason).or_default().entry(place).or_default() += 1;
    }
    for (reason, places) in reasons {
        let listed: Vec<String> = places.iter().map(|(place, count)| format!("{place} {count}")).collect();
        println!("  skipped {}: {reason} ({})", places.values().sum::<usize>(), listed.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Number;

    fn record(status: Status, ratio_atol: f64) -> Record {
        Record {
            target: "target".into(),
            case: format!("case {ratio_atol}"),
            source: "source".into(),
            operation: "forward_training".into(),
            status,
            reason: String::new(),
            results: vec![Comparison {
                tensor: "y".into(),
                ratio_atol: Number(ratio_atol),
                ratio_tight: Some(Number(2.0 * ratio_atol)),
                worst: None,
            }],
        }
    }

    #[test]
    fn skipped_cases_do_not_count_as_worst() {
        let records =
            [record(Status::Passed, 0.5), record(Status::Skipped, f64::INFINITY), record(Status::Failed, 3.0)];
        let (atol, tight, place) = worst(&records.iter().collect::<Vec<_>>());
        assert_eq!((atol, tight, place.as_str()), (Some(3.0), Some(6.0), "case 3: y"));
        assert_eq!(Totals::of(&records).to_string(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn infinite_ratios_are_text_in_json() {
        let json = serde_json::to_value(record(Status::Failed, f64::INFINITY)).unwrap();
        assert_eq!(json["results"][0]["ratio_atol"], "inf");
        assert_eq!(json["status"], "failed");
    }
}
