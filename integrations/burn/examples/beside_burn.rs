//! Times this package's batch norm beside Burn's own, one after the other in turn, on Burn's default wgpu device.
//!
//! `cargo run --release --example beside_burn`
//!
//! Times are of the host's clock from the call to a device that has finished. A training step is forward and backward through
//! the norm (and what is fused into it) alone. The ratio is Burn's time over this package's, the median over the rounds.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Tensor};
use burn_wgpu_batch_norm::{Activation, BatchNorm, BatchNormConfig, connect};

/// Turns that are not counted, for compilation and pools.
const WARM_UP: usize = 3;
/// Turns that are. `cargo run --release --example beside_burn -- 31` takes more.
const ROUNDS: usize = 11;

#[derive(Clone, Copy)]
enum Case {
    Training,
    FusedTraining,
    Inference,
}

fn run(
    case: Case,
    ours: Option<&BatchNorm>,
    burns: &burn::nn::BatchNorm,
    input: &Tensor<4>,
    device: &Device,
) -> Duration {
    let start = Instant::now();
    let input = input.clone();
    // Burn with fusion computes nothing whose result is gone, so the result stays until the device has finished.
    let result = match case {
        Case::Inference => Some(match ours {
            Some(norm) => norm.forward(input),
            None => burns.forward(input),
        }),
        Case::Training | Case::FusedTraining => {
            let input = input.detach().require_grad();
            let output = match (case, ours) {
                (Case::FusedTraining, Some(norm)) => norm.forward_residual(input.clone(), input.clone()),
                (Case::FusedTraining, None) => relu(burns.forward(input.clone()) + input.clone()),
                (_, Some(norm)) => norm.forward(input.clone()),
                (_, None) => burns.forward(input.clone()),
            };
            input.grad(&output.backward())
        }
    };
    device.sync().expect("the device works");
    let time = start.elapsed();
    drop(result);
    time
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |rounds| rounds.parse())?.max(1);
    let (device, setup) = Device::wgpu_options().init_with_setup()?;
    connect(&device, &setup)?;
    let training = device.clone().autodiff();
    let info = setup.adapter.get_info();
    println!("{} ({}, {} {})", info.name, info.backend, info.driver, info.driver_info);
    println!("Burn with fusion: {}; {rounds} rounds", cfg!(feature = "fusion"));
    println!("{:<22} {:<26} {:>10} {:>10} {:>7}", "shape", "", "ours ms", "Burn ms", "ratio");
    for shape in [[64, 64, 1, 1], [32, 32, 8, 8], [16, 64, 14, 14], [16, 32, 28, 28], [8, 64, 56, 56]] {
        let burns = burn::nn::BatchNormConfig::new(shape[1]).init(&training);
        let plain = BatchNormConfig::new(shape[1]).init(&training);
        let fused = BatchNormConfig::new(shape[1]).with_activation(Activation::Relu).init(&training);
        for (name, case) in [
            ("training step", Case::Training),
            ("the same, + x, ReLU", Case::FusedTraining),
            ("inference", Case::Inference),
        ] {
            let norm = if matches!(case, Case::FusedTraining) { &fused } else { &plain };
            let (norm, burns) = match case {
                Case::Inference => (norm.valid(), burns.valid()),
                _ => (norm.clone(), burns.clone()),
            };
            let device = if matches!(case, Case::Inference) { &device } else { &training };
            let input = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
            norm.served(&input)?;
            let mut times = (Vec::new(), Vec::new());
            for round in 0..WARM_UP + rounds {
                let ours = run(case, Some(&norm), &burns, &input, device);
                let theirs = run(case, None, &burns, &input, device);
                if round >= WARM_UP {
                    times.0.push(ours.as_secs_f64() * 1e3);
                    times.1.push(theirs.as_secs_f64() * 1e3);
                }
            }
            let ratio = median(times.0.iter().zip(&times.1).map(|(ours, theirs)| theirs / ours).collect());
            let (ours, theirs) = (median(times.0), median(times.1));
            println!("{:<22} {name:<26} {ours:>10.2} {theirs:>10.2} {ratio:>7.2}", format!("{shape:?}"));
        }
    }
    Ok(())
}
