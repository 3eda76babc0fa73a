//! A roofline picture: the bandwidth of every operation over the size of the tensor, under the copy kernel's.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::operations::Operation;
use crate::table::Row;

/// (tensor bytes, GB/s), by size.
type Points = Vec<(f64, f64)>;

/// Draws `path`; missing folders are made.
pub fn write(path: &Path, adapter: &str, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let roof = roof(rows);
    let all: Points = rows.iter().filter_map(point).filter(|(_, gbps)| *gbps > 0.0).collect();
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), v| (low.min(v), high.max(v)));
        low / 1.5..high * 1.5
    };
    if all.is_empty() {
        return Err("nothing was measured, so there is nothing to draw".into());
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (1000, 640)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Bandwidth on the bytes moved, under a copy's", ("sans-serif", 24))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(
                range(&mut all.iter().map(|(bytes, _)| *bytes)).log_scale(),
                range(&mut all.iter().map(|(_, gbps)| *gbps)).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc(format!("bytes of the tensor ({adapter})"))
            .y_desc("GB/s")
            .x_label_formatter(&|bytes| size_name(*bytes))
            .y_label_formatter(&|gbps| format!("{gbps}"))
            .light_line_style(WHITE)
            .label_style(("sans-serif", 17))
            .draw()?;
        chart
            .draw_series(LineSeries::new(roof, BLACK.stroke_width(3)))?
            .label("copy")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 24, y)], BLACK.stroke_width(3)));
        let operations = Operation::ALL.into_iter().chain([Operation::Mark]);
        for (operation, color) in operations.zip([BLUE, GREEN, RED, MAGENTA, CYAN]) {
            for (layout, color) in [("first", color.mix(1.0)), ("last", color.mix(0.4))] {
                let points = points(rows, operation.name(), layout);
                if points.is_empty() {
                    continue;
                }
                chart
                    .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                    .label(format!("{}, {layout}", operation.name()))
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(2)));
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .label_font(("sans-serif", 15))
            .draw()?;
        root.present()?;
    }
    fs::write(path, svg)?;
    Ok(())
}

fn point(row: &Row) -> Option<(f64, f64)> {
    row.figures().map(|figures| (row.tensor_bytes as f64, figures.moved_gbps))
}

/// The points of an operation; the slowest of several shapes of one size, so that no weak shape hides behind another.
fn points(rows: &[Row], op: &str, layout: &str) -> Points {
    let rows = rows.iter().filter(|row| row.op == op && row.layout == layout);
    one_a_size(rows.filter_map(point).collect(), f64::min)
}

/// The copy, whatever the layout; the fastest of several measurements of one size.
fn roof(rows: &[Row]) -> Points {
    one_a_size(rows.iter().filter(|row| row.op == "copy").filter_map(point).collect(), f64::max)
}

fn one_a_size(mut points: Points, choose: fn(f64, f64) -> f64) -> Points {
    points.retain(|(_, gbps)| *gbps > 0.0);
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = choose(kept.1, next.1);
        }
        same
    });
    points
}

fn size_name(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e6 => format!("{:.0} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.0} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_come_by_size_and_one_of_each() {
        let points = vec![(8.0, 3.0), (4.0, 1.0), (8.0, 2.0), (2.0, 0.0)];
        assert_eq!(one_a_size(points.clone(), f64::min), [(4.0, 1.0), (8.0, 2.0)]);
        assert_eq!(one_a_size(points, f64::max), [(4.0, 1.0), (8.0, 3.0)]);
    }
}
