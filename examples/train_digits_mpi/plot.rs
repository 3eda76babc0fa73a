//! The loss of both runs over the steps, as an SVG file and a CSV beside it. The second run may have fewer steps, or none.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

pub fn write(path: &Path, ranks: usize, together: &[f64], alone: &[f64]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut table = String::from("step,loss_of_all_ranks,loss_of_one_process,difference\n");
    for (step, a) in together.iter().enumerate() {
        match alone.get(step) {
            Some(b) => writeln!(table, "{step},{a:.9},{b:.9},{:.3e}", (a - b).abs())?,
            None => writeln!(table, "{step},{a:.9},,")?,
        }
    }
    fs::write(path.with_extension("csv"), table)?;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (900, 700)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(500);
        let differences: Vec<f64> = together.iter().zip(alone).map(|(a, b)| (a - b).abs()).collect();
        let one = ("one process, the whole batch".to_owned(), alone, BLUE.stroke_width(5));
        let all = (format!("{ranks} ranks, synchronised"), together, RED.stroke_width(1));
        let caption = "Handwritten digits: training loss";
        if alone.is_empty() {
            draw(&root, caption, "loss of the batch", &[all])?;
        } else {
            draw(&above, caption, "loss of the batch", &[one, all])?;
            draw(&below, "", "difference", &[("their difference".to_owned(), &differences, BLACK.stroke_width(1))])?;
        }
        root.present()?;
    }
    fs::write(path, svg)?;
    Ok(())
}

/// Lines over the steps.
fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    caption: &str,
    values: &str,
    lines: &[(String, &[f64], ShapeStyle)],
) -> Result<(), Box<dyn Error>>
where
    B::ErrorType: 'static,
{
    let highest = lines.iter().flat_map(|(_, line, _)| line.iter().copied()).fold(f64::MIN_POSITIVE, f64::max);
    let steps = lines.iter().map(|(_, line, _)| line.len()).max().unwrap_or(0).max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", if caption.is_empty() { 1 } else { 24 }))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(80)
        .build_cartesian_2d(0..steps, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .x_desc("training steps")
        .y_desc(values)
        .y_labels(5)
        .y_label_formatter(&|value| if highest < 0.01 { format!("{value:.0e}") } else { format!("{value:.1}") })
        .light_line_style(WHITE)
        .draw()?;
    for &(ref name, line, style) in lines {
        chart
            .draw_series(LineSeries::new(line.iter().copied().enumerate(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
