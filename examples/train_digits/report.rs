//! The table in the terminal.

use crate::history::{History, Point};

/// Rows that the table has at most, the first and the last look included.
const ROWS: usize = 21;

/// Prints losses and accuracies of both runs over the steps.
pub fn print_table(with: &History, without: &History) {
    println!("           with batch norm              without batch norm");
    println!("    step   training loss    accuracy    training loss    accuracy");
    // More looks than rows: a regular choice that keeps the last one.
    let stride = (with.points.len() - 1).div_ceil(ROWS - 1).max(1);
    for (index, (a, b)) in with.points.iter().zip(&without.points).enumerate() {
        if index % stride == 0 || index + 1 == with.points.len() {
            println!("{:>8}   {}   {}", a.step, cells(a), cells(b));
        }
    }
}

fn cells(point: &Point) -> String {
    let loss = point.training.map_or_else(|| "-".to_owned(), |training| format!("{:.4}", training.loss));
    format!("{loss:>14}    {:>6.2} %", 100.0 * point.test.accuracy)
}

/// Prints final accuracies and how long each run took to get to some.
pub fn print_summary(with: &History, without: &History) {
    for (name, history) in [("with batch norm", with), ("without batch norm", without)] {
        let reached = |accuracy: f64| {
            let step =
                history.first_step_at(accuracy).map_or_else(|| "never".to_owned(), |step| format!("at step {step}"));
            format!("{:.0} % {step}", 100.0 * accuracy)
        };
        let (last, best) = (100.0 * history.final_accuracy(), 100.0 * history.best_accuracy());
        println!("{name:<19} {last:.2} % at the end, {best:.2} % at best; first {}, {}", reached(0.8), reached(0.9));
    }
}
