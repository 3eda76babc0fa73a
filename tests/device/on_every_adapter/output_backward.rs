//! Backward from the output, x having been overwritten by it.

use crate::common::case::{Case, Padding, Segments, loaded, stored};
use crate::common::on_every_target_and_in_windows;
use wgpu_batch_norm::Layout::{self, ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::SegmentRunning::InTurn;
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNorm, ChannelStatistics, ElementType, Error, Gradient, OutputBackwardBuffers,
    Plan, Strategies, TrainingBuffers, ValidBuffers, ValidSource,
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
                let backward = wgpu_batch_norm::Operation::Backward;
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
            }
        }
    });
}
