//! Pictures as SVG files, and what they show as CSV files beside them.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];
const FONT: (&str, i32) = ("sans-serif", 16);

/// A part of a picture; all parts stand in a row.
#[derive(Clone, Debug)]
pub enum Panel {
    Lines(Lines),
    Heat(Heat),
}

/// Curves over a number.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Absent: as far as the values go.
    pub y_range: Option<Range<f64>>,
    /// Whether the axes are logarithmic; values that are not above 0, as those that are not finite, are left out then.
    pub log_x: bool,
    pub log_y: bool,
    pub legend: Legend,
    pub series: Vec<Series>,
}

/// Where the names of the curves stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Legend {
    UpperLeft,
    UpperRight,
    LowerLeft,
    #[default]
    LowerRight,
}

/// A curve, and the band around it.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
    /// A number makes curves of one colour, such as percentiles of one thing; absent: the next one.
    pub color: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// The same as y where there is no spread.
    pub low: f64,
    pub high: f64,
}

impl Series {
    pub fn new(name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let point = |(x, y)| Point { x, y, low: y, high: y };
        Self { name: name.to_owned(), points: points.into_iter().map(point).collect(), color: None }
    }

    /// Medians, with a band from the lowest to the highest.
    pub fn of_spreads(name: &str, spreads: impl IntoIterator<Item = (f64, Spread)>) -> Self {
        let point = |(x, Spread { median, low, high })| Point { x, y: median, low, high };
        Self { name: name.to_owned(), points: spreads.into_iter().map(point).collect(), color: None }
    }

    /// The same of several runs; as far as the shortest one goes.
    pub fn over_runs(name: &str, x: &[f64], runs: &[Vec<f64>]) -> Self {
        let shortest = runs.iter().map(Vec::len).min().unwrap_or(0);
        let spread = |(index, &x): (usize, &f64)| (x, Spread::of(runs.iter().map(|run| run[index])));
        Self::of_spreads(name, x.iter().take(shortest).enumerate().map(spread))
    }

    pub fn colored(self, color: usize) -> Self {
        Self { color: Some(color), ..self }
    }
}

/// Values over two numbers, as colours.
#[derive(Clone, Debug, Default)]
pub struct Heat {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Names of columns and of rows, the lowest row first.
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// By row; not a number where nothing was measured. Colours are those of medians.
    pub values: Vec<Vec<Spread>>,
    /// What the darkest and the brightest colour stand for.
    pub range: Range<f64>,
    /// Decimals of the values written into the cells.
    pub decimals: usize,
}

/// The median, the lowest and the highest of some values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Not a number without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let Some((&low, &high)) = sorted.first().zip(sorted.last()) else {
            return Self { median: f64::NAN, low: f64::NAN, high: f64::NAN };
        };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Self { median, low, high }
    }
}

/// Draws `panels` into `path`, which ends in `.svg`, and writes their values beside it; missing folders are made.
///
/// # Errors
/// Where nothing is there to be drawn, or a file cannot be written.
pub fn write(path: &Path, panels: &[Panel]) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut svg = String::new();
    // A run that was stopped early may have left a part without values.
    let drawn: Vec<&Panel> = panels.iter().filter(|panel| panel.has_values()).collect();
    if drawn.is_empty() {
        return Err("nothing was measured, so there is nothing to draw".into());
    }
    {
        let root = SVGBackend::with_string(&mut svg, (640 * drawn.len() as u32, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((1, drawn.len())).iter().zip(drawn) {
            match panel {
                Panel::Lines(lines) => lines.draw(area)?,
                Panel::Heat(heat) => heat.draw(area)?,
            }
        }
        root.present()?;
    }
    fs::write(path, svg)?;
    fs::write(path.with_extension("csv"), csv(panels))?;
    Ok(())
}

fn csv(panels: &[Panel]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = String::from("panel,series,x,y,low,high\n");
    let mut row = |panel: &str, series: &str, x: &str, [y, low, high]: [f64; 3]| {
        let _ = writeln!(text, "{},{},{x},{y},{low},{high}", quoted(panel), quoted(series));
    };
    for panel in panels {
        match panel {
            Panel::Lines(lines) => {
                for series in &lines.series {
                    for point in &series.points {
                        let values = [point.y, point.low, point.high];
                        row(&lines.title, &series.name, &point.x.to_string(), values);
                    }
                }
            }
            Panel::Heat(heat) => {
                for (name, values) in heat.rows.iter().zip(&heat.values) {
                    for (column, &Spread { median, low, high }) in heat.columns.iter().zip(values) {
                        row(&heat.title, name, &quoted(column), [median, low, high]);
                    }
                }
            }
        }
    }
    text
}

impl Panel {
    /// Whether there is anything to draw.
    pub fn has_values(&self) -> bool {
        match self {
            Self::Lines(lines) => lines.series.iter().any(|series| !series.points.is_empty()),
            Self::Heat(heat) => heat.values.iter().flatten().any(|value| !value.median.is_nan()),
        }
    }
}

impl Lines {
    fn draw(&self, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = span(points().map(|point| point.x), self.log_x)?;
        let y = match &self.y_range {
            Some(range) => range.clone(),
            None => padded(span(points().flat_map(|point| [point.low, point.high]), self.log_y)?, self.log_y),
        };
        let mut builder = ChartBuilder::on(area);
        builder.caption(&self.title, ("sans-serif", 20)).margin(14).x_label_area_size(46).y_label_area_size(62);
        // The type of a chart tells its axes.
        macro_rules! draw {
            ($x:expr, $y:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, $y)?;
                chart
                    .configure_mesh()
                    .x_desc(&self.x)
                    .y_desc(&self.y)
                    // Within a decade, labels would meet.
                    .x_labels(if self.log_x { 5 } else { 10 })
                    .x_label_formatter(&|value| short(*value, self.log_x))
                    .y_label_formatter(&|value| short(*value, self.log_y))
                    .light_line_style(WHITE)
                    .bold_line_style(BLACK.mix(0.12))
                    .label_style(FONT)
                    .axis_desc_style(FONT)
                    .draw()?;
                for (index, series) in self.series.iter().enumerate() {
                    let color = COLORS[series.color.unwrap_or(index) % COLORS.len()];
                    let points: Vec<&Point> = series.points.iter().filter(|point| self.can_draw(point)).collect();
                    if points.iter().any(|point| point.low != point.high) {
                        let upper = points.iter().map(|point| (point.x, point.high));
                        let lower = points.iter().rev().map(|point| (point.x, point.low));
                        let band: Vec<_> = upper.chain(lower).collect();
                        chart.draw_series(std::iter::once(Polygon::new(band, color.mix(0.18))))?;
                    }
                    let line = points.iter().map(|point| (point.x, point.y));
                    let drawn = chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
                    if !series.name.is_empty() {
                        drawn
                            .label(&series.name)
                            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(2)));
                    }
                }
                if self.series.iter().any(|series| !series.name.is_empty()) {
                    chart
                        .configure_series_labels()
                        .position(match self.legend {
                            Legend::UpperLeft => SeriesLabelPosition::UpperLeft,
                            Legend::UpperRight => SeriesLabelPosition::UpperRight,
                            Legend::LowerLeft => SeriesLabelPosition::LowerLeft,
                            Legend::LowerRight => SeriesLabelPosition::LowerRight,
                        })
                        .background_style(WHITE.mix(0.85))
                        .border_style(BLACK.mix(0.4))
                        .label_font(FONT)
                        .draw()?;
                }
            }};
        }
        match (self.log_x, self.log_y) {
            (false, false) => draw!(x, y),
            (true, false) => draw!(x.log_scale(), y),
            (false, true) => draw!(x, y.log_scale()),
            (true, true) => draw!(x.log_scale(), y.log_scale()),
        }
        Ok(())
    }

    fn can_draw(&self, point: &Point) -> bool {
        let usable = |value: f64, log: bool| value.is_finite() && (!log || value > 0.0);
        usable(point.x, self.log_x) && [point.low, point.y, point.high].into_iter().all(|y| usable(y, self.log_y))
    }
}

impl Heat {
    fn draw(&self, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
        let (columns, rows) = (self.columns.len() as i32, self.rows.len() as i32);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d((0..columns - 1).into_segmented(), (0..rows - 1).into_segmented())?;
        let name = |names: &[String], value: &SegmentValue<i32>| match value {
            SegmentValue::CenterOf(index) => names.get(*index as usize).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_labels(self.columns.len())
            .y_labels(self.rows.len())
            .x_label_formatter(&|value| name(&self.columns, value))
            .y_label_formatter(&|value| name(&self.rows, value))
            .label_style(FONT)
            .axis_desc_style(FONT)
            .draw()?;
        for (row, values) in (0..).zip(&self.values) {
            for (column, &Spread { median, low, high }) in (0..).zip(values) {
                let share = ((median - self.range.start) / (self.range.end - self.range.start)).clamp(0.0, 1.0);
                let color = if median.is_nan() { RGBColor(225, 225, 225) } else { shade(share) };
                let corners = [
                    (SegmentValue::Exact(column), SegmentValue::Exact(row)),
                    (SegmentValue::Exact(column + 1), SegmentValue::Exact(row + 1)),
                ];
                chart.draw_series(std::iter::once(Rectangle::new(corners, color.filled())))?;
                let ink = if median.is_nan() || share > 0.55 { BLACK } else { WHITE };
                let number = |value: f64| format!("{value:.*}", self.decimals);
                let mut write = |text: String, size: i32, down: i32| {
                    let anchor = Pos::new(HPos::Center, VPos::Center);
                    let style = ("sans-serif", size).into_font().color(&ink).pos(anchor);
                    let center = (SegmentValue::CenterOf(column), SegmentValue::CenterOf(row));
                    let text = EmptyElement::at(center) + Text::new(text, (0, down), style);
                    chart.draw_series(std::iter::once(text)).map(|_| ())
                };
                if median.is_nan() {
                    write("-".to_owned(), 14, 0)?;
                } else if number(low) == number(high) {
                    write(number(median), 15, 0)?;
                } else {
                    write(number(median), 15, -8)?;
                    write(format!("{}–{}", number(low), number(high)), 11, 9)?;
                }
            }
        }
        Ok(())
    }
}

/// From dark blue over green to yellow, of even steps in brightness: stations of viridis, by S. van der Walt and N. Smith (CC0).
fn shade(share: f64) -> RGBColor {
    const STATIONS: [[f64; 3]; 5] =
        [[68.0, 1.0, 84.0], [59.0, 82.0, 139.0], [33.0, 145.0, 140.0], [94.0, 201.0, 98.0], [253.0, 231.0, 37.0]];
    let at = share * (STATIONS.len() - 1) as f64;
    let first = (at as usize).min(STATIONS.len() - 2);
    let mix = |i: usize| {
        let [a, b] = [STATIONS[first][i], STATIONS[first + 1][i]];
        (a + (b - a) * (at - first as f64)).round() as u8
    };
    RGBColor(mix(0), mix(1), mix(2))
}

/// From the lowest to the highest finite value.
fn span(values: impl Iterator<Item = f64>, log: bool) -> Result<Range<f64>, Box<dyn Error>> {
    let usable = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
    let (low, high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return Err("nothing was measured, so there is nothing to draw".into());
    }
    Ok(if low < high {
        low..high
    } else if log {
        low / 2.0..high * 2.0
    } else {
        low - 0.5..high + 0.5
    })
}

/// A little more to either side.
fn padded(range: Range<f64>, log: bool) -> Range<f64> {
    let margin = 0.04 * (range.end - range.start);
    if log { range.start / 1.3..range.end * 1.3 } else { range.start - margin..range.end + margin }
}

/// A number for an axis, in few letters. What is next to nothing is 0, but on a logarithmic axis.
fn short(value: f64, log: bool) -> String {
    let size = value.abs();
    if size < 1e-12 && !log {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.0e}")
    } else {
        format!("{}", (value * 1e4).round() / 1e4)
    }
}
