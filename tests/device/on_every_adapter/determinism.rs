//! The same device, shape and inputs give the same bits: run after run, recorded again or bound again, whatever else the
//! machine does, with checked shaders and with trusted ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::in_place::bits;
use crate::common::case::{Case, POISON, Padding, Results, Segments};
use crate::common::parts::run_devices_in_parts;
use crate::common::support::{self, Gpu};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::{ChannelsFirst, ChannelsLast};
use wgpu_batch_norm::{
    Activation, ActivationSource, BackwardBuffers, BatchNorm, ElementType, Gradient, Kernels, KernelsDescriptor,
    RunningStatistics, SegmentRunning, ShaderChecks, Strategies, TrainingBuffers, wgpu,
};

use super::strategies_of;

/// A case of every structure: what is fused, stored in 16 bits, cut into segments, padded, renormalised.
fn structures() -> Vec<(&'static str, Case)> {
    let plain = |shape: &[usize], seed| Case::random(shape, ChannelsFirst, seed);
    let mut masked = plain(&[5, 9, 33], 1).fused(Activation::Relu, true, ActivationSource::Mask);
    masked.returns_residual_gradient = true;
    masked.reports_health = true;
    let sixteen = plain(&[6, 12, 20], 2).stored_as(ElementType::F16);
    let sixteen = sixteen.fused(Activation::Gelu, false, ActivationSource::Recompute);
    let brain = plain(&[301, 40], 3).stored_as(ElementType::Bf16);
    let brain = brain.fused(Activation::LeakyRelu { slope: 0.1 }, false, ActivationSource::Output);
    let segmented = plain(&[8, 12, 18], 4).segmented(Segments::SubBatches(4), SegmentRunning::Averaged);
    let mut padded = plain(&[7, 10, 31], 5);
    padded.padding = Some(Padding::Flags((0..7 * 31).map(|position| position % 5 != 2).collect()));
    let mut renormalised = plain(&[9, 14, 11], 6);
    renormalised.renormalization = Some([1.5, 0.5]);
    let last = Case::random(&[6, 11, 13, 6], ChannelsLast, 7);
    vec![
        ("mask and residual", masked),
        ("f16 and GELU", sixteen),
        ("bf16 and the output's sign", brain),
        ("segments", segmented),
        ("padding", padded),
        ("renormalization", renormalised),
        ("channels last", last),
    ]
}

/// Pipelines take long on software drivers, so each plan of an adapter takes a part of the structures.
fn structures_of(target: &Target) -> impl Iterator<Item = (&'static str, Case)> {
    structures().into_iter().skip(target.plan).step_by(target.plans)
}

#[test]
fn every_structure_gives_the_same_bits_run_after_run() {
    on_every_target(|target| {
        for (name, case) in structures_of(target) {
            let first = bits(&case.run_device(target).unwrap());
            for _ in 0..8 {
                assert_eq!(first, bits(&case.run_device(target).unwrap()), "{target}: {name}");
            }
        }
    });
}

/// Windows and parts change the order of additions, and so last bits: they are no farther from the whole batch than either may be
/// from the truth (`docs/guide/determinism.md` has the bound). For themselves they repeat to the bit, whatever is checked.
#[test]
fn windows_and_parts_give_the_same_bits_run_after_run_and_are_near_the_whole() {
    on_every_target(|target| {
        let case = Case::random(&[9, 12, 40], ChannelsFirst, 12);
        let truth = case.run_reference().unwrap();
        let whole = case.run_device(target).unwrap();
        let in_windows = |target: &Target| case.run_device(&target.in_windows(3000)).unwrap();
        let in_parts = |target: &Target| run_devices_in_parts(&case, &[4, 0, 1, 4], &[target], &truth).unwrap();
        type Way<'a> = &'a dyn Fn(&Target) -> Results;
        for (name, run) in [("windows", &in_windows as Way<'_>), ("parts", &in_parts)] {
            let first = run(target);
            for (other, results) in [("truth", &truth), ("whole", &whole)] {
                let worst = compare(&case, &first, results);
                assert!(worst.ratio <= 1.0, "{target}: {name} beside the {other}: {worst:?}");
            }
            for _ in 0..4 {
                assert_eq!(bits(&first), bits(&run(target)), "{target}: {name}");
            }
            // Pipelines take long, so those of one class.
            if target.plan == 0 {
                let otherwise = match target.checks {
                    ShaderChecks::Trusted => ShaderChecks::Checked,
                    ShaderChecks::Checked => ShaderChecks::Trusted,
                };
                assert_eq!(bits(&first), bits(&run(&target.with_checks(otherwise))), "{target}: {name}, {otherwise:?}");
            }
        }
    });
}

#[test]
fn every_strategy_gives_the_same_bits_run_after_run() {
    on_every_target(|target| {
        // Columns with many positions, and rows that several workgroups share.
        let shape: &[usize] = [&[1027, 3][..], &[2, 9, 20, 13], &[6, 36, 7, 7]][target.plan];
        let case = Case::random(shape, ChannelsFirst, 8);
        for strategies in strategies_of(target, &case) {
            let first = bits(&case.run_device_with(target, strategies).unwrap());
            for _ in 0..4 {
                let again = bits(&case.run_device_with(target, strategies).unwrap());
                assert_eq!(first, again, "{target}: {shape:?} {strategies:?}");
            }
        }
    });
}

#[test]
fn every_structure_gives_the_same_bits_with_trusted_and_with_checked_shaders() {
    on_every_target(|target| {
        let [trusted, checked] =
            [ShaderChecks::Trusted, ShaderChecks::Checked].map(|checks| target.with_checks(checks));
        for (name, case) in structures_of(target) {
            let (trusted, checked) = (case.run_device(&trusted).unwrap(), case.run_device(&checked).unwrap());
            assert_eq!(bits(&trusted), bits(&checked), "{target}: {name}");
        }
    });
}

/// Training and backward on buffers of their own.
pub(super) struct Layer<'a> {
    gpu: &'a Gpu,
    case: &'a Case,
    bn: &'a BatchNorm,
    /// x, g, gamma, beta.
    inputs: [wgpu::Buffer; 4],
    /// Everything that is written, with its values before.
    written: Vec<(wgpu::Buffer, Vec<f32>)>,
    strategies: Strategies,
}

impl<'a> Layer<'a> {
    pub(super) fn new(target: &'a Target, bn: &'a BatchNorm, case: &'a Case, strategies: Strategies) -> Self {
        let gpu = &*target.gpu;
        let plan = bn.plan_with(&case.shape(), strategies).unwrap();
        let [gamma, beta] = [&case.gamma, &case.beta].map(|values| values.as_deref().unwrap());
        let inputs = [&case.input, &case.output_gradient, gamma, beta].map(|values| gpu.upload("read", values));
        let poison = |bytes: u64| vec![POISON; bytes as usize / 4];
        let (tensor, vector) = (poison(plan.tensor_size()), poison(plan.vector_size()));
        let written = [
            tensor.clone(),
            case.running_mean.clone(),
            case.running_variance.clone(),
            poison(plan.saved_size()),
            tensor,
            vector.clone(),
            vector,
            poison(plan.workspace_size()),
        ];
        let written = written.map(|values| (gpu.upload("written", &values), values)).into();
        Self { gpu, case, bn, inputs, written, strategies }
    }

    /// Binds both steps; recording does the rest.
    pub(super) fn bind(&self) -> impl Fn(&mut wgpu::ComputePass<'_>) + use<> {
        let plan = self.bn.plan_with(&self.case.shape(), self.strategies).unwrap();
        let [x, g, gamma, beta] = self.inputs.each_ref();
        let (tensor, vector) = (..plan.tensor_size(), ..plan.vector_size());
        let written = |index: usize| &self.written[index].0;
        let saved = Some(written(3).slice(..plan.saved_size()));
        let workspace = written(7).slice(..plan.workspace_size());
        let training = TrainingBuffers {
            gamma: Some(gamma.slice(vector)),
            beta: Some(beta.slice(vector)),
            running: Some(RunningStatistics {
                mean: written(1).slice(vector),
                variance: written(2).slice(vector),
                batches_tracked: None,
            }),
            saved,
            ..TrainingBuffers::new(x.slice(tensor), written(0).slice(tensor), workspace)
        };
        let backward = BackwardBuffers {
            gamma: Some(gamma.slice(vector)),
            saved,
            input_gradient: Some(Gradient::Overwrite(written(4).slice(tensor))),
            gamma_gradient: Some(Gradient::Overwrite(written(5).slice(vector))),
            beta_gradient: Some(Gradient::Overwrite(written(6).slice(vector))),
            ..BackwardBuffers::new(x.slice(tensor), g.slice(tensor), workspace)
        };
        let training = self.bn.bind_training(&plan, &training).unwrap();
        let backward = self.bn.bind_backward(&plan, &backward).unwrap();
        move |pass| {
            training.record(pass);
            backward.record(pass);
        }
    }

    /// Everything written but the workspace, from the same start.
    pub(super) fn run(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Vec<Vec<u32>> {
        for (buffer, before) in &self.written {
            self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(before));
        }
        self.gpu.submit(record);
        let results = &self.written[..self.written.len() - 1];
        results.iter().map(|(buffer, before)| self.gpu.read(buffer, before.len())).collect()
    }
}

#[test]
fn steps_recorded_again_and_steps_bound_again_give_the_same_bits() {
    on_every_target(|target| {
        let case = Case::random(&[5, 12, 6, 7], ChannelsFirst, 9);
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        for strategies in strategies_of(target, &case) {
            let layer = Layer::new(target, &bn, &case, strategies);
            let record = layer.bind();
            let once = layer.run(&record);
            assert!(once.iter().flatten().all(|&bits| bits != POISON.to_bits()), "{target}: something was not written");
            for _ in 0..3 {
                assert_eq!(once, layer.run(&record), "{target}: {strategies:?}: recorded again");
                assert_eq!(once, layer.run(layer.bind()), "{target}: {strategies:?}: bound again");
            }
            // Several times in one pass: all but the running statistics, which saw the batch more than once.
            let thrice = layer.run(|pass| (0..3).for_each(|_| record(pass)));
            for (index, (once, thrice)) in once.iter().zip(&thrice).enumerate() {
                assert_eq!(
                    once == thrice,
                    ![1, 2].contains(&index),
                    "{target}: {strategies:?}: thrice in a pass: {index}"
                );
            }
        }
    });
}

#[test]
fn a_busy_machine_changes_no_bit() {
    on_every_target(|target| {
        let case = Case::random(&[517, 5], ChannelsFirst, 10);
        let other = Case::random(&[4, 16, 14, 14], ChannelsFirst, 11);
        // Another device of the adapter, and another thread on the same device.
        let mut gpus = support::open_all(None).into_iter();
        let apart = gpus.find(|gpu| gpu.info == target.gpu.info).expect("the adapter is still there");
        let descriptor = KernelsDescriptor { class: Some(target.kernels.profile().class), ..Default::default() };
        let kernels = Kernels::with_descriptor(&apart.device, &descriptor);
        let apart = Target { kernels, checks: ShaderChecks::Trusted, gpu: Arc::new(apart), ..*target };
        let loads = [target, &apart];
        let truth = bits(&other.run_device(target).unwrap());
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let layer = Layer::new(target, &bn, &case, Strategies::default());
        let record = layer.bind();
        let quiet = layer.run(&record);
        let (done, rounds) = (AtomicBool::new(false), [const { AtomicU32::new(0) }; 2]);
        std::thread::scope(|scope| {
            for (load, rounds) in loads.into_iter().zip(&rounds) {
                let (done, other, truth) = (&done, &other, &truth);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let got = bits(&other.run_device(load).unwrap());
                        assert!(got == *truth, "{load}: the load itself");
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut runs = 0;
            // Until both have run beside it.
            while runs < 20 || rounds.iter().any(|rounds| rounds.load(Ordering::Relaxed) < 2) {
                let busy = layer.run(&record);
                let same = busy == quiet;
                runs += 1;
                if !same || runs == 10_000 {
                    done.store(true, Ordering::Relaxed);
                }
                assert!(same, "{target}: run {runs} beside a load");
                assert!(runs < 10_000, "{target}: the load does not run");
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}
