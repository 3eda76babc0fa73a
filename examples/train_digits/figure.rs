//! Figure 1 of the paper: test accuracy over training, and where the inputs of a hidden sigmoid lie meanwhile.

use std::error::Error;
use std::path::Path;

use crate::history::History;
use crate::plot::{self, Legend, Lines, Panel, Point, Series};

/// Draws both runs into `path`, with their values in a CSV file beside it; missing folders are made.
pub fn write(path: &Path, adapter: &str, with: &History, without: &History) -> Result<(), Box<dyn Error>> {
    let accuracy = |name, history: &History| {
        Series::new(name, history.points.iter().map(|point| (point.step as f64, 100.0 * point.test.accuracy)))
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
    let all = || with.points.iter().chain(&without.points).flat_map(|point| point.percentiles);
    // One range for both, with some air.
    let (low, high) = (all().fold(0.0, f64::min), all().fold(0.0, f64::max));
    let air = 0.05 * (high - low).max(1.0);
    for (title, history, color) in [("(b) without batch norm", without, 1), ("(c) with batch norm", with, 0)] {
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
