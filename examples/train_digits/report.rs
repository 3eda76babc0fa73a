//! The table in the terminal.

use crate::checks::{self, InferenceDifference};
use crate::history::{History, Point};
use crate::network::plot::Spread;

/// Rows that the table has at most, the first and the last look included.
const ROWS: usize = 21;
/// The share of the training after which movements of percentiles are counted: at first everything moves.
const SETTLED: f64 = 0.05;

/// Prints losses and accuracies of both networks over the steps, medians over the runs.
pub fn print_table(with: &[History], without: &[History]) {
    println!("           with batch norm              without batch norm");
    println!("    step   training loss    accuracy    training loss    accuracy");
    let shortest = |runs: &[History]| runs.iter().map(|run| run.points.len()).min().unwrap_or(0);
    let looks = shortest(with).min(shortest(without));
    // More looks than rows: a regular choice that keeps the last one.
    let stride = looks.saturating_sub(1).div_ceil(ROWS - 1).max(1);
    for index in (0..looks).filter(|index| index % stride == 0 || index + 1 == looks) {
        let cells = |runs: &[History]| cells(&runs.iter().map(|run| run.points[index]).collect::<Vec<_>>());
        println!("{:>8}   {}   {}", with[0].points[index].step, cells(with), cells(without));
    }
}

fn cells(points: &[Point]) -> String {
    let loss = Spread::of(points.iter().filter_map(|point| Some(point.training?.loss))).median;
    let loss = if loss.is_nan() { "-".to_owned() } else { format!("{loss:.4}") };
    let accuracy = Spread::of(points.iter().map(|point| 100.0 * point.test.accuracy)).median;
    format!("{loss:>14}    {accuracy:>6.2} %")
}

/// Prints final accuracies, how long the runs took to get to some, and how far percentiles moved: medians and extremes.
pub fn print_summary(with: &[History], without: &[History]) {
    for (name, runs) in [("with batch norm", with), ("without batch norm", without)] {
        let reached = |accuracy: f64| {
            let first = |run: &History| run.first_step_at(accuracy).map_or(f64::INFINITY, |step| step as f64);
            format!("{:.0} % at step {}", 100.0 * accuracy, text(runs.iter().map(first), 0))
        };
        let accuracies = runs.iter().map(|run| 100.0 * run.final_accuracy());
        println!("{name:<19} {} % at the end; first {}, {}", text(accuracies, 2), reached(0.8), reached(0.9));
        let last = runs.iter().filter_map(|run| run.points.last()).map(|point| point.step).max().unwrap_or(0);
        let from = (SETTLED * last as f64) as usize;
        let movement = |index: usize| text(runs.iter().map(|run| run.movement(from)[index]), 1);
        println!(
            "{:<19} percentiles of a sigmoid's inputs move by {}, {} and {} from step {from} on",
            "",
            movement(0),
            movement(1),
            movement(2)
        );
    }
}

/// Prints how inference compared with the reference.
pub fn print_inference(inference: &InferenceDifference) {
    let verdict = if inference.passes() { "ok" } else { "FAILED" };
    println!(
        "inference mode against the CPU reference: {verdict}; {} values differ by at most {:.2e}, {:.2} of {} allowed ulps",
        inference.values,
        inference.largest,
        inference.largest_ulps,
        checks::ALLOWED_ULPS
    );
}

/// Median, and lowest and highest where there are several.
fn text(values: impl Iterator<Item = f64>, decimals: usize) -> String {
    let values: Vec<f64> = values.collect();
    let Spread { median, low, high } = Spread::of(values.iter().copied());
    let number = |value: f64| if value == f64::INFINITY { "never".to_owned() } else { format!("{value:.decimals$}") };
    if values.len() < 2 { number(median) } else { format!("{} ({} to {})", number(median), number(low), number(high)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_told_where_there_are_several_runs() {
        assert_eq!(text([1.25].into_iter(), 1), "1.2");
        assert_eq!(text([3.0, 1.0, f64::INFINITY].into_iter(), 0), "3 (1 to never)");
    }
}
