//! The test accuracy over the steps, as an SVG file.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::history::History;

/// Draws both runs into `path`; missing folders are made.
pub fn write(path: &Path, adapter: &str, with: &History, without: &History) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let last_step = with.points.last().map_or(1, |point| point.step.max(1));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 560)).into_drawing_area();
        root.fill(&WHITE)?;
        let title = "Handwritten digits, three hidden layers of 100 sigmoids: test accuracy";
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 24))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(0..last_step, 0.0..100.0)?;
        chart
            .configure_mesh()
            .x_desc(format!("training steps ({adapter})"))
            .y_desc("test accuracy in %")
            .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
            .light_line_style(WHITE)
            .label_style(("sans-serif", 17))
            .draw()?;
        for (name, history, color) in [("with batch norm", with, &BLUE), ("without batch norm", without, &RED)] {
            let points = history.points.iter().map(|point| (point.step, 100.0 * point.test.accuracy));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .label_font(("sans-serif", 17))
            .draw()?;
        root.present()?;
    }
    fs::write(path, svg)?;
    Ok(())
}
