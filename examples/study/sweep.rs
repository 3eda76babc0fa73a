//! Learning rate × scale of the initial weights: batch norm is said to bear larger learning rates and to make training less
//! dependent on initial weights, with ReLU and with sigmoids (Ioffe and Szegedy, sections 3.3 and 4).

use std::error::Error;

use wgpu_batch_norm::Convention;

use crate::Study;
use crate::model::{Description, Model};
use crate::network::activation::Activation;
use crate::network::digits::Batches;
use crate::network::norm::NormOptions;
use crate::network::plot::{Heat, Panel, Spread};

const RATES: [f32; 6] = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// Factors on the customary deviation of weights.
const SCALES: [f32; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
const ACTIVATIONS: [(&str, Activation); 2] = [("relu", Activation::Relu), ("sigmoid", Activation::Sigmoid)];
const HIDDEN_LAYERS: usize = 5;
const WIDTH: usize = 48;
const BATCH_SIZE: usize = 60;
/// In percent, what counts as trained.
const TRAINED: f64 = 80.0;
/// Runs of each seed.
pub const RUNS: usize = 2 * ACTIVATIONS.len() * SCALES.len() * RATES.len();

/// Results by scale, learning rate and seed.
#[derive(Clone, Debug, Default)]
struct Grid {
    cells: [[Vec<f64>; RATES.len()]; SCALES.len()],
}

impl Grid {
    fn spreads(&self) -> Vec<Vec<Spread>> {
        let row = |row: &[Vec<f64>; RATES.len()]| row.iter().map(|cell| Spread::of(cell.iter().copied())).collect();
        self.cells.iter().map(row).collect()
    }

    /// Cells whose median is at least `least`, and those whose every seed is.
    fn reaching(&self, least: f64) -> [usize; 2] {
        let spreads = self.spreads();
        let count =
            |value: fn(&Spread) -> f64| spreads.iter().flatten().filter(|spread| value(spread) >= least).count();
        [count(|spread| spread.median), count(|spread| spread.low)]
    }

    /// The best median, with its learning rate and scale.
    fn best(&self) -> Option<(Spread, f32, f32)> {
        let spreads = self.spreads();
        let cells = spreads.iter().zip(SCALES).flat_map(|(row, scale)| {
            row.iter().zip(RATES).map(move |(spread, rate)| (*spread, rate, scale)).collect::<Vec<_>>()
        });
        cells.filter(|cell| !cell.0.median.is_nan()).max_by(|a, b| a.0.median.total_cmp(&b.0.median))
    }

    fn heat(&self, title: String) -> Heat {
        Heat {
            title,
            x: "learning rate".to_owned(),
            y: "factor on initial weights".to_owned(),
            columns: RATES.map(|rate| rate.to_string()).to_vec(),
            rows: SCALES.map(|scale| scale.to_string()).to_vec(),
            values: self.spreads(),
            range: 10.0..100.0,
            decimals: 0,
        }
    }
}

pub fn run(study: &Study<'_>) -> Result<(), Box<dyn Error>> {
    let Study { context, digits, progress, steps, .. } = study;
    println!(
        "sweep: test accuracy after {steps} steps in batches of {BATCH_SIZE}; {HIDDEN_LAYERS} hidden layers of {WIDTH}\n\
         activation, batch norm        cells with {TRAINED} % (every seed) of {}   best median, learning rate, factor",
        SCALES.len() * RATES.len(),
    );
    for (name, activation) in ACTIVATIONS {
        if progress.stopped() {
            break;
        }
        let mut grids = [Grid::default(), Grid::default()];
        let conventions = [None, Some(Convention::pytorch())];
        let model = |convention| {
            let description = Description { hidden_layers: HIDDEN_LAYERS, width: WIDTH, activation, convention };
            let data = [&digits.training, &digits.test];
            Model::new(context, &description, data, BATCH_SIZE, &NormOptions::default())
        };
        let models = [model(conventions[0])?, model(conventions[1])?];
        // Seeds outermost: a stop leaves whole maps of fewer seeds.
        'runs: for seed in study.seeds() {
            for (model, grid) in models.iter().zip(&mut grids) {
                progress.say(format!("sweep, {name}, seed {seed}"));
                for (scale, row) in SCALES.into_iter().zip(&mut grid.cells) {
                    for (rate, cell) in RATES.into_iter().zip(row) {
                        model.start(seed, scale, rate)?;
                        let mut batches = Batches::new(digits.training.len(), BATCH_SIZE, seed);
                        let looks = model.trainer.run(&mut batches, *steps, *steps, progress);
                        match looks.last() {
                            Some(look) if look.step == *steps => cell.push(100.0 * look.test.accuracy),
                            // Cut short.
                            _ => break 'runs,
                        }
                    }
                }
            }
        }
        let titles = ["without batch norm", "with batch norm"];
        for (title, grid) in titles.into_iter().zip(&grids) {
            let [median, all] = grid.reaching(TRAINED);
            let best = grid.best().map_or_else(String::new, |(best, rate, scale)| {
                format!("{:.2} % ({:.2} to {:.2}) at {rate}, {scale}", best.median, best.low, best.high)
            });
            progress.print(&format!("{:<29} {median:>3} ({all})   {best}", format!("{name}, {title}")));
        }
        let panels: Vec<Panel> = titles
            .into_iter()
            .zip(&grids)
            .map(|(title, grid)| Panel::Heat(grid.heat(format!("{name}, {title}: test accuracy in %"))))
            .collect();
        study.draw(&format!("sweep_{name}"), &panels)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_counts_what_was_reached_and_finds_the_best() {
        let mut grid = Grid::default();
        assert_eq!(grid.reaching(0.0), [0, 0], "what was not measured reaches nothing");
        assert!(grid.best().is_none());
        grid.cells[2][1] = vec![70.0, 90.0, 85.0];
        grid.cells[3][4] = vec![81.0, 80.0, 82.0];
        assert_eq!(grid.reaching(80.0), [2, 1]);
        let (best, rate, scale) = grid.best().unwrap();
        assert_eq!((best.median, best.low, rate, scale), (85.0, 70.0, RATES[1], SCALES[2]));
        let heat = grid.heat(String::new());
        assert_eq!((heat.values.len(), heat.values[0].len()), (heat.rows.len(), heat.columns.len()));
        assert!(heat.values[0][0].median.is_nan());
    }
}
