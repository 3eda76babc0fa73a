//! Backward from the output, x having been overwritten by it.

use super::with_means;
use crate::common::case::{Case, Padding, Segments, loaded, stored};
use crate::common::from_output::{device_from_output, reference_from_output};
use crate::common::tolerance::compare_from_output;
use crate::common::{on_every_target, on_every_target_and_in_windows};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::InTurn;
use wgpu_batch_norm::{
    Activation, ActivationSource, AdapterClass, BatchNorm, ChannelStatistics, ElementType, Error, Gradient, Operation,
    OutputBackwardBuffers, Plan, Strategies, TrainingBuffers, ValidBuffers, ValidSource,
};

#[derive(Clone, Copy)]
enum Structure {
    Plain,
    Segments,
    Padding,
}

const SHAPES: [(&[usize], Layout); 3] =
    [(&[6, 8, 16], ChannelsFirst), (&[9, 5, 7], ChannelsFirst), (&[40, 12], ChannelsLast)];

#[test]
fn an_in_place_forward_and_backward_give_the_gradients_of_those_that_keep_x() {
    on_every_target_and_in_windows(|target| {
        // Every strategy is compiled for every class of machine: two of the three will do.
        if target.plan == 1 {
            return;
        }
        let gpu = &target.gpu;
        for (seed, (shape, layout)) in (0..).zip(SHAPES) {
            for (element, activation, structure) in [
                (ElementType::F32, Activation::LeakyRelu { slope: 0.2 }, Structure::Plain),
                (ElementType::F16, Activation::Identity, Structure::Plain),
                (ElementType::F32, Activation::Identity, Structure::Segments),
                (ElementType::F32, Activation::LeakyRelu { slope: 0.3 }, Structure::Padding),
            ] {
                let mut case = Case::random(shape, layout, seed).stored_as(element);
                match structure {
                    Structure::Plain => {}
                    Structure::Segments => case = case.segmented(Segments::Along(0), InTurn),
                    Structure::Padding => {
                        let positions = case.input.len() / case.channels();
                        case.padding = Some(Padding::Flags((0..positions).map(|at| at % 5 != 3).collect()));
                    }
                }
                // Either sign, and one channel whose output knows nothing of its input.
                for (channel, gamma) in case.gamma.iter_mut().flatten().enumerate() {
                    *gamma = if channel == 2 { 0.0 } else { (0.5 + gamma.abs()) * [1.0, -1.0][channel % 2] };
                }
                let case = case.fused(activation, false, ActivationSource::Recompute);
                // One element an instance has no variance.
                if case.segmentation().count() < 2 {
                    continue;
                }
                let truth = case.run_reference().unwrap();
                let shape = case.shape();
                let descriptor = case.descriptor();
                let profile = target.kernels.profile();
                let backward = Operation::Backward;
                let mut served = 0;
                for strategy in Plan::strategies(&descriptor, &shape, profile, backward).unwrap() {
                    let bn = BatchNorm::with_kernels(&target.kernels, &descriptor).unwrap();
                    let pin = Strategies { backward: Some(strategy), ..Default::default() };
                    let plan = bn.plan_with(&shape, pin).unwrap();
                    let vector = |values: &Option<Vec<f32>>| gpu.upload("vector", values.as_deref().unwrap());
                    let (gamma, beta) = (vector(&case.gamma), vector(&case.beta));
                    let x = gpu.upload("x and y", &stored(element, &case.input));
                    let g = gpu.upload("dy and dx", &stored(element, &case.output_gradient));
                    let saved = gpu.zeroed("saved", plan.saved_size());
                    let workspace = gpu.zeroed("workspace", plan.workspace_size());
                    let [dgamma, dbeta] = ["dgamma", "dbeta"].map(|label| gpu.zeroed(label, plan.vector_size()));
                    let (whole, each) = (..plan.tensor_size(), ..plan.vector_size());
                    let flags: Vec<u32> = case.valid().iter().flatten().map(|&flag| u32::from(flag)).collect();
                    let flags = gpu.upload("flags", &flags);
                    let valid = gpu.zeroed("valid", plan.valid_size());
                    let valid = case.padding.as_ref().map(|_| valid.slice(..plan.valid_size()));
                    let marking = valid.map(|valid| {
                        let source = ValidSource::Flags(flags.slice(..plan.positions_size()));
                        bn.bind_valid(&plan, &ValidBuffers { source, valid }).unwrap()
                    });
                    let forward = TrainingBuffers {
                        valid,
                        gamma: Some(gamma.slice(each)),
                        beta: Some(beta.slice(each)),
                        saved: Some(saved.slice(..plan.saved_size())),
                        ..TrainingBuffers::new(x.slice(whole), x.slice(whole), workspace.slice(..))
                    };
                    let backward = OutputBackwardBuffers {
                        valid,
                        gamma: Some(gamma.slice(each)),
                        beta: Some(beta.slice(each)),
                        input_gradient: Some(Gradient::Overwrite(g.slice(whole))),
                        gamma_gradient: Some(Gradient::Overwrite(dgamma.slice(each))),
                        beta_gradient: Some(Gradient::Overwrite(dbeta.slice(each))),
                        ..OutputBackwardBuffers::new(
                            x.slice(whole),
                            g.slice(whole),
                            saved.slice(..plan.saved_size()),
                            workspace.slice(..),
                        )
                    };
                    let forward = bn.bind_training(&plan, &forward).unwrap();
                    let backward = match bn.bind_backward_from_output(&plan, &backward) {
                        Err(Error::StrategyNotServed { .. }) if valid.is_some() => continue,
                        backward => backward.unwrap(),
                    };
                    gpu.submit(|pass| {
                        if let Some(marking) = &marking {
                            marking.record(pass);
                        }
                        forward.record(pass);
                        backward.record(pass);
                    });
                    served += 1;
                    let words = gpu.read::<u32>(&g, plan.tensor_size() as usize / 4);
                    let dx = loaded(element, &words, case.input.len());
                    let (dgamma, dbeta): (Vec<f32>, Vec<f32>) =
                        (gpu.read(&dgamma, case.channels()), gpu.read(&dbeta, case.channels()));
                    // x̂ carries the rounding of y, at most 6 in magnitude, over a slope of 0.2 and a gamma of 0.5.
                    let unit = if element == ElementType::F16 { 2_f32.powi(-11) } else { 2_f32.powi(-22) };
                    let rounding = 6.0 * unit / (0.2 * 0.5);
                    let count = (case.input.len() / case.channels()) as f32;
                    let place = format!("{target}: {shape:?} {element} {strategy}");
                    let segmentation = case.segmentation();
                    let records: Vec<ChannelStatistics> = gpu.read(&saved, segmentation.instances() as usize);
                    for (index, (got, truth)) in dx.iter().zip(&truth.input_gradient).enumerate() {
                        let scale = truth.abs()
                            + 4.0 * records[segmentation.instance_of(index as u64) as usize].inverse_deviation;
                        assert!((got - truth).abs() <= rounding * scale, "{place}: dx[{index}] = {got}, truth {truth}");
                    }
                    for channel in 0..case.channels() {
                        let (got, known) = (dgamma[channel], case.gamma.as_ref().unwrap()[channel] != 0.0);
                        let truth_gamma = if known { truth.gamma_gradient[channel] } else { 0.0 };
                        let (got_beta, truth_beta) = (dbeta[channel], truth.beta_gradient[channel]);
                        assert!((got - truth_gamma).abs() <= rounding * count, "{place}: dgamma {got} {truth_gamma}");
                        assert!(
                            (got_beta - truth_beta).abs() <= 1e-6 * count,
                            "{place}: dbeta {got_beta} {truth_beta}"
                        );
                    }
                }
                assert!(served > 0, "{target}: {shape:?} {element}");
            }
        }
    });
}

/// A case that backward from the output serves, with anything else from the seed; and for each channel an element whose
/// t is within rounding of 0, or none at all.
fn arbitrary(rng: &mut StdRng, seed: u64) -> Option<(Case, Vec<usize>)> {
    let mut shape: Vec<usize> = vec![rng.random_range(1..17), rng.random_range(1..20)];
    shape.extend((0..rng.random_range(0..3)).map(|_| rng.random_range(1..12)));
    let layout = if rng.random() { ChannelsFirst } else { ChannelsLast };
    if shape.iter().product::<usize>() <= shape[layout.channel_axis(shape.len())] {
        return None;
    }
    let mut case = Case { residual: None, renormalization: None, ..Case::arbitrary(&shape, layout, seed) };
    let slopes = [0.01, 0.2, 3.0];
    case.activation = match rng.random_range(0..4) {
        3 => Activation::Identity,
        index => Activation::LeakyRelu { slope: slopes[index] },
    };
    let smallest = [0, 0, 8, 30][rng.random_range(0..4)];
    for gamma in case.gamma.iter_mut().flatten() {
        let sign = if rng.random() { 1.0 } else { -1.0 };
        *gamma = sign * (0.2 + gamma.abs()) * 10_f32.powi(-rng.random_range(0..=smallest));
    }
    let plants = case.beta.is_some() && rng.random_bool(0.7);
    if plants {
        case.beta.iter_mut().for_each(|beta| beta.fill(0.0));
    }
    let (valid, preactivations) = (case.valid_elements(), case.preactivations(false));
    let mut zeros = Vec::new();
    for channel in (0..case.channels()).filter(|_| plants) {
        let mut places = (0..valid.len()).filter(|&index| valid[index] && case.channel(index) == channel);
        zeros.extend(places.next());
    }
    for &index in &zeros {
        let channel = case.channel(index);
        case.beta.iter_mut().for_each(|beta| beta[channel] = -preactivations[index] as f32);
        case.output_gradient[index] = 1.0;
    }
    Some((case, zeros))
}

/// A t within rounding of 0 may have another sign on the device than it has by the numbers; backward must then go by the
/// sign that forward stored, as the reference does when it is given the same output.
#[test]
fn gradients_are_those_of_the_reference_given_the_same_output() {
    on_every_target(|target| {
        let seeds = if target.kernels.profile().class == AdapterClass::Cpu { 0..40 } else { 40..50 };
        let (mut signs_lost, mut compared) = (0, 0);
        for seed in seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            let Some((case, zeros)) = arbitrary(&mut rng, seed) else { continue };
            let profile = target.kernels.profile();
            let Ok(strategies) = Plan::strategies(&case.descriptor(), &case.shape(), profile, Operation::Backward)
            else {
                continue;
            };
            let backward = Some(strategies[rng.random_range(0..strategies.len())]);
            let pin = Strategies { backward, ..Strategies::default() };
            let run = match device_from_output(&case, target, pin) {
                Err(Error::StrategyNotServed { .. }) => device_from_output(&case, target, Strategies::default()),
                run => run,
            };
            let (kept, got) = run.unwrap();
            let worst = compare_from_output(&case, &kept, &got, &reference_from_output(&case, &kept));
            assert!(worst.ratio <= 1.0, "{target}: seed {seed}, {backward:?}: {worst:?} in {case:?}");
            let exact = case.preactivations(false);
            signs_lost += zeros.iter().filter(|&&index| (kept.output[index] > 0.0) != (exact[index] > 0.0)).count();
            compared += 1;
        }
        println!("{target}: {compared} cases, {signs_lost} signs");
        assert!(signs_lost > 0 && compared > 5, "{target}: {signs_lost} signs in {compared} cases");
    });
}

#[test]
fn a_large_mean_costs_no_digits_backward_from_the_output() {
    on_every_target(|target| {
        for (seed, (shape, layout)) in (0..).zip(SHAPES) {
            for mean in [1e4_f32, 1e6, 1e7] {
                let clean =
                    Case { activation: Activation::LeakyRelu { slope: 0.2 }, ..Case::random(shape, layout, seed) };
                let case = Case { in_place: true, ..with_means(&clean, mean) };
                let (kept, got) = device_from_output(&case, target, Strategies::default()).unwrap();
                let worst = compare_from_output(&case, &kept, &got, &reference_from_output(&case, &kept));
                assert!(worst.ratio <= 1.0, "{target}: {shape:?} mean {mean}: {worst:?}");
            }
        }
    });
}

/// y is beta but for its last digit, so that (y − beta)/gamma is the rounding of y, times 1e30.
#[test]
fn a_vanishing_gamma_does_not_blow_up_the_input_gradient() {
    on_every_target(|target| {
        for (element, activation) in
            [(ElementType::F32, Activation::LeakyRelu { slope: 0.3 }), (ElementType::Bf16, Activation::Identity)]
        {
            let mut case = Case::random(&[40, 12], ChannelsLast, 8).stored_as(element);
            case.activation = activation;
            case.gamma = Some(vec![1e-30; 12]);
            case.beta = Some((0..12).map(|channel| 0.37 * channel as f32 - 2.1).collect());
            let (kept, got) = device_from_output(&case, target, Strategies::default()).unwrap();
            let worst = compare_from_output(&case, &kept, &got, &reference_from_output(&case, &kept));
            assert!(worst.ratio <= 1.0, "{target}: {element}: {worst:?}");
            let largest = case.output_gradient.iter().fold(0.0_f32, |largest, g| largest.max(g.abs()));
            for (index, dx) in got.input.iter().enumerate() {
                let bound = 1e-30 * kept.saved[index % 12].inverse_deviation * 42.5 * largest;
                assert!(dx.abs() <= bound, "{target}: {element}: dx[{index}] = {dx:e}, at most {bound:e}");
            }
            assert!(got.gamma.iter().all(|dgamma| dgamma.is_finite()), "{target}: {element}: {:?}", got.gamma);
        }
    });
}
