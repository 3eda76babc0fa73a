//! Figure 1 of the paper: test accuracy over training, and where the inputs of a hidden sigmoid lie meanwhile.

use std::error::Error;
use std::path::Path;

use crate::history::History;
use crate::network::plot::{self, Legend, Lines, Panel, Point, Series};

/// Draws the runs of both networks into `path`, with their values in a CSV file beside it; missing folders are made. Accuracies
/// are medians over the runs; the inputs of a sigmoid are those of the first one.
pub fn write(path: &Path, adapter: &str, with: &[History], without: &[History]) -> Result<(), Box<dyn Error>> {
    let accuracy = |name, runs: &[History]| {
        let accuracies = |run: &History| run.points.iter().map(|point| 100.0 * point.test.accuracy).collect();
        let steps =
            runs.first().map_or_else(Vec::new, |run| run.points.iter().map(|point| point.step as f64).collect());
        Series::over_runs(name, &steps, &runs.iter().map(accuracies).collect::<Vec<_>>())
    };
    let steps = format!("training steps ({adapter})");
    let mut panels = vec![Panel::Lines(Lines {
        title: "(a) test accuracy".into(),
        x: steps.clone(),
        y: "test accuracy in %".into(),
        y_range: Some(0.0..100.0),
        series: vec![accuracy("with batch norm", with), accuracy("without", without)],
        ..Lines::default()
    })];
    let firsts = || without.first().into_iter().chain(with.first());
    let all = || firsts().flat_map(|run| &run.points).flat_map(|point| point.percentiles);
    // One range for both, with some air.
    let (low, high) = (all().fold(0.0, f64::min), all().fold(0.0, f64::max));
    let air = 0.05 * (high - low).max(1.0);
    let titles = [("(b) without batch norm", 1), ("(c) with batch norm", 0)];
    for ((title, color), history) in titles.into_iter().zip(firsts()) {
        let point = |point: &crate::history::Point| {
            let [low, y, high] = point.percentiles;
            Point { x: point.step as f64, y, low, high }
        };
        panels.push(Panel::Lines(Lines {
            title: title.into(),
            x: steps.clone(),
            y: "inputs of a sigmoid of the last hidden layer".into(),
            y_range: Some(low - air..high + air),
            legend: Legend::UpperLeft,
            series: vec![Series {
                name: "median, 15th to 85th percentile".into(),
                points: history.points.iter().map(point).collect(),
                color: Some(color),
            }],
            ..Lines::default()
        }));
    }
    plot::write(path, &panels)
}
