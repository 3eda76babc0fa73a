//! The loss of both runs over the steps, as an SVG file and a CSV beside it.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

pub fn write(path: &Path, ranks: usize, together: &[f64], alone: &[f64]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut table = String::from("step,loss_of_all_ranks,loss_of_one_process,difference\n");
    for (step, (a, b)) in together.iter().zip(alone).enumerate() {
        writeln!(table, "{step},{a:.9},{b:.9},{:.3e}", (a - b).abs())?;
    }
    fs::write(path.with_extension("csv"), table)?;
    let highest = together.iter().chain(alone).copied().fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 560)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Handwritten digits: training loss", ("sans-serif", 24))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(0..together.len().max(1), 0.0..highest * 1.05)?;
        chart.configure_mesh().x_desc("training steps").y_desc("loss of the batch").light_line_style(WHITE).draw()?;
        let runs = [
            ("one process, the whole batch".to_owned(), alone, BLUE.stroke_width(5)),
            (format!("{ranks} ranks, synchronised"), together, RED.stroke_width(1)),
        ];
        for (name, losses, style) in runs {
            chart
                .draw_series(LineSeries::new(losses.iter().copied().enumerate(), style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        root.present()?;
    }
    fs::write(path, svg)?;
    Ok(())
}
