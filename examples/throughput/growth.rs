//! Nanoseconds per element over growing sizes: flat or falling if the cost grows linearly.

use std::time::{Duration, Instant};

use wgpu_batch_norm::Layout;

use crate::measure::Bench;
use crate::shapes;
use crate::table::{Row, shape_name};

/// A rise that may be noise.
const NOISE: f64 = 0.1;

/// Measures size after size until they are done, refused or out of time, and prints every row as it comes.
pub fn run(bench: &Bench<'_>, layouts: &[Layout], budget: Duration) -> Vec<Row> {
    let mut columns = vec!["copy", "sum"];
    columns.extend(bench.operations.iter().map(|operation| operation.name()));
    println!("Nanoseconds per element over growing sizes\n");
    print!("{:>8} {:19} {:5}", "elements", "shape (N,C,H,W)", "lay.");
    columns.iter().for_each(|column| print!(" {column:>15}"));
    println!();
    let (started, mut last) = (Instant::now(), Duration::ZERO);
    let mut rows = Vec::new();
    'sizes: for dims in shapes::growing() {
        let elements = dims.iter().product::<usize>();
        for layout in layouts {
            // The next size is four times as large.
            if started.elapsed() + 4 * last > budget {
                println!("stopped before 2^{}: the budget of {} s is spent", elements.ilog2(), budget.as_secs());
                break 'sizes;
            }
            let case = Instant::now();
            let measured = bench.measure(dims, *layout);
            last = case.elapsed();
            let Some(first) = measured.first() else { continue };
            print!("{:>8} {:19} {:5}", format!("2^{}", elements.ilog2()), shape_name(dims), first.layout);
            for column in &columns {
                let row = measured.iter().find(|row| row.op == *column);
                match row.and_then(Row::figures) {
                    Some(figures) => print!(" {:>15.4}", figures.ns_per_element),
                    None => print!(" {:>15}", "-"),
                }
            }
            println!();
            let mut messages: Vec<&str> = measured.iter().filter_map(Row::error).collect();
            messages.dedup();
            messages.iter().for_each(|message| println!("{:>8} {message}", ""));
            rows.extend(measured);
        }
    }
    print_verdicts(&rows, &columns, layouts.len());
    rows
}

fn print_verdicts(rows: &[Row], columns: &[&str], layouts: usize) {
    println!();
    for layout in ["first", "last"].into_iter().filter(|layout| rows.iter().any(|row| row.layout == *layout)) {
        let line = |op: &str| -> Vec<(u32, f64)> {
            let rows = rows.iter().filter(|row| row.op == op && row.layout == layout);
            let elements = |row: &Row| row.shape.iter().product::<usize>();
            rows.filter_map(|row| Some((elements(row).ilog2(), row.figures()?.ns_per_element))).collect()
        };
        let copy = line("copy");
        for op in columns {
            let line = line(op);
            let verdict = match worst_rise(&line) {
                _ if line.len() < 2 => "too few sizes to tell".into(),
                Some((from, to, rise)) if rise > NOISE => {
                    let at = |size| copy.iter().find(|(copied, _)| *copied == size).map(|(_, ns)| *ns);
                    let beside = match (at(from), at(to)) {
                        // A copy that gets dearer as well has left a cache.
                        (Some(from), Some(to)) if rise <= to / from - 1.0 + NOISE => "no more than the copy, ",
                        _ => "MORE THAN THE COPY, ",
                    };
                    let copy_rise = at(from).zip(at(to)).map_or(f64::NAN, |(from, to)| to / from - 1.0);
                    let (rise, copy_rise) = (rise * 100.0, copy_rise * 100.0);
                    format!("rises by {rise:.0} % from 2^{from} to 2^{to}, {beside}which changes by {copy_rise:+.0} %")
                }
                _ => "flat or falling".into(),
            };
            let name = if layouts > 1 { format!("{op}, {layout}") } else { (*op).to_string() };
            println!("{name:24} {verdict}");
        }
    }
}

/// Between which sizes the figure rises most, and by what part.
fn worst_rise(line: &[(u32, f64)]) -> Option<(u32, u32, f64)> {
    let (mut lowest, mut worst) = (*line.first()?, None);
    for point in line {
        if point.1 < lowest.1 {
            lowest = *point;
        }
        let rise = point.1 / lowest.1 - 1.0;
        if worst.is_none_or(|(_, _, most)| rise > most) {
            worst = Some((lowest.0, point.0, rise));
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_rise_is_against_the_lowest_before() {
        assert_eq!(worst_rise(&[(10, 9.0), (12, 4.0), (14, 5.0), (16, 6.0), (18, 4.0)]), Some((12, 16, 0.5)));
        assert_eq!(worst_rise(&[(10, 9.0), (12, 4.0), (14, 4.0)]).map(|(_, _, rise)| rise), Some(0.0));
        assert_eq!(worst_rise(&[]), None);
    }
}
