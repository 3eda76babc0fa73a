//! Devices that are lost or mistaken for each other, buffers that are gone, mistakes in the same pass: what is not concerned goes
//! on, here or elsewhere, with the right results.

use std::sync::{Arc, Mutex};

use crate::common::case::Case;
use crate::common::support::{self, Gpu};
use crate::common::tolerance::compare;
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Error, Gradient,
    Kernels, KernelsDescriptor, LayerState, RunningState, RunningStatistics, ShaderChecks, TrainingBuffers,
    TrainingStep, wgpu,
};

/// A layer in training, with what a program would keep of it in a checkpoint.
struct Training {
    gpu: Arc<Gpu>,
    bn: BatchNorm,
    case: Case,
    /// x, y, g, dx, running mean and variance, dgamma, workspace.
    buffers: [wgpu::Buffer; 8],
    forward: TrainingStep,
    backward: wgpu_batch_norm::Step,
}

#[derive(Clone, Debug, PartialEq)]
struct Checkpoint {
    running: [Vec<u32>; 2],
    input_gradient: Vec<u32>,
}

impl Training {
    fn new(gpu: Gpu, target: &Target, case: &Case) -> Self {
        Self::of(&with_kernels(gpu, target), case)
    }

    /// With a target's own device and kernels.
    fn of(target: &Target, case: &Case) -> Self {
        let gpu = Arc::clone(&target.gpu);
        let bn = BatchNorm::with_kernels(&target.kernels, &case.descriptor()).unwrap();
        let plan = bn.plan(&case.shape()).unwrap();
        let (tensor, vector) = (plan.tensor_size(), plan.vector_size());
        let sizes = [tensor, tensor, tensor, tensor, vector, vector, vector, plan.workspace_size()];
        let buffers = sizes.map(|size| gpu.zeroed("training", size));
        let (forward, backward) = Self::bind(&bn, case, &buffers).unwrap();
        Self { gpu, bn, case: case.clone(), buffers, forward, backward }
    }

    fn bind(
        bn: &BatchNorm,
        case: &Case,
        buffers: &[wgpu::Buffer; 8],
    ) -> Result<(TrainingStep, wgpu_batch_norm::Step), Error> {
        let plan = bn.plan(&case.shape())?;
        let [x, y, g, dx, mean, variance, dgamma, workspace] = buffers;
        let (tensor, vector) = (..plan.tensor_size(), ..plan.vector_size());
        let workspace = workspace.slice(..plan.workspace_size());
        let running =
            RunningStatistics { mean: mean.slice(vector), variance: variance.slice(vector), batches_tracked: None };
        let forward = bn.bind_training(
            &plan,
            &TrainingBuffers {
                running: Some(running),
                ..TrainingBuffers::new(x.slice(tensor), y.slice(tensor), workspace)
            },
        )?;
        let backward = bn.bind_backward(
            &plan,
            &BackwardBuffers {
                input_gradient: Some(Gradient::Overwrite(dx.slice(tensor))),
                gamma_gradient: Some(Gradient::Overwrite(dgamma.slice(vector))),
                ..BackwardBuffers::new(x.slice(tensor), g.slice(tensor), workspace)
            },
        )?;
        Ok((forward, backward))
    }

    /// Holds that binding is an error that names what wgpu refused.
    fn assert_refuses(&self, buffers: &[wgpu::Buffer; 8], place: &str) {
        let refused = Self::bind(&self.bn, &self.case, buffers).map(drop);
        assert!(matches!(refused, Err(Error::Device { object: "a bind group", .. })), "{place}: {refused:?}");
    }

    /// One step on a batch of its own.
    fn step(&self, index: usize) {
        let batch: Vec<f32> = self.case.input.iter().map(|x| x * (1.0 + index as f32)).collect();
        self.gpu.queue.write_buffer(&self.buffers[0], 0, bytemuck::cast_slice(&batch));
        self.gpu.queue.write_buffer(&self.buffers[2], 0, bytemuck::cast_slice(&self.case.output_gradient));
        self.gpu.submit(|pass| {
            self.forward.record(pass);
            self.backward.record(pass);
        });
    }

    fn record(&self) -> wgpu::CommandBuffer {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.forward.record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        encoder.finish()
    }

    fn checkpoint(&self) -> Checkpoint {
        let (elements, channels) = (self.case.input.len(), self.case.channels());
        Checkpoint {
            running: [4, 5].map(|index| self.gpu.read(&self.buffers[index], channels)),
            input_gradient: self.gpu.read(&self.buffers[3], elements),
        }
    }

    fn restore(&self, checkpoint: &Checkpoint) {
        for (buffer, values) in self.buffers[4..6].iter().zip(&checkpoint.running) {
            self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(values));
        }
    }
}

/// A device planned for as a target is, with kernels of its own.
fn with_kernels(gpu: Gpu, target: &Target) -> Target {
    let descriptor = KernelsDescriptor { class: Some(target.kernels.profile().class), ..Default::default() };
    let kernels = Kernels::with_descriptor(&gpu.device, &descriptor);
    Target { gpu: Arc::new(gpu), kernels, checks: ShaderChecks::Trusted, ..*target }
}

/// A device of its own on a target's adapter.
pub(super) fn another(target: &Target) -> Gpu {
    let mut gpus = support::open_all(None).into_iter();
    gpus.find(|gpu| gpu.info == target.gpu.info).expect("the adapter is still there")
}

#[test]
fn training_goes_on_from_a_checkpoint_after_the_device_is_lost() {
    on_every_target(|target| {
        let case = Case::random(&[6, 10, 5, 7], ChannelsFirst, 1);
        let undisturbed = Training::new(another(target), target, &case);
        (0..6).for_each(|index| undisturbed.step(index));
        let expected = undisturbed.checkpoint();

        let doomed = Training::new(another(target), target, &case);
        let (lost, uncaptured) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let log = Arc::clone(&lost);
        doomed.gpu.device.set_device_lost_callback(move |reason, _| log.lock().unwrap().push(reason));
        let log = Arc::clone(&uncaptured);
        doomed.gpu.device.on_uncaptured_error(Arc::new(move |error| log.lock().unwrap().push(error.to_string())));
        (0..3).for_each(|index| doomed.step(index));
        let checkpoint = doomed.checkpoint();
        // With a step on its way, and more to come that nobody told.
        doomed.step(3);
        doomed.gpu.device.destroy();
        doomed.gpu.submit(|pass| doomed.forward.record(pass));
        doomed.gpu.wait();
        assert_eq!(*lost.lock().unwrap(), [wgpu::DeviceLostReason::Destroyed], "{target}");
        let refused = Training::bind(&doomed.bn, &case, &doomed.buffers).map(drop);
        assert_eq!(refused, Err(Error::DeviceLost), "{target}");
        assert!(uncaptured.lock().unwrap().is_empty(), "{target}: {uncaptured:?}");

        let resumed = Training::new(another(target), target, &case);
        resumed.restore(&checkpoint);
        (3..6).for_each(|index| resumed.step(index));
        assert_eq!(resumed.checkpoint(), expected, "{target}");
        // The devices beside it noticed nothing.
        assert_eq!(undisturbed.checkpoint(), expected, "{target}");
    });
}

#[test]
fn writing_to_a_layer_of_a_lost_device_is_an_error() {
    on_every_target(|target| {
        let gpu = another(target);
        let batch_norm = BatchNormDescriptor { channels: 5, ..Default::default() };
        let descriptor = BatchNormLayerDescriptor { batch_norm, ..Default::default() };
        let layer = BatchNormLayer::new(&gpu.device, &descriptor).unwrap();
        let running = RunningState { mean: vec![0.0; 5], variance: vec![1.0; 5], batches_tracked: 1 };
        let state = LayerState { gamma: Some(vec![1.0; 5]), beta: Some(vec![0.0; 5]), running: Some(running) };
        let all = || {
            [
                layer.load_state(&gpu.queue, &state),
                layer.reset_parameters(&gpu.queue),
                layer.reset_running_statistics(&gpu.queue),
            ]
        };
        assert_eq!(all(), [Ok(()), Ok(()), Ok(())], "{target}");
        gpu.device.destroy();
        assert_eq!(all(), [(); 3].map(|()| Err(Error::DeviceLost)), "{target}");
    });
}

#[test]
fn a_mistake_of_the_caller_in_a_pass_leaves_results_of_other_passes_right() {
    on_every_target(|target| {
        let case = Case::random(&[6, 10, 5, 7], ChannelsFirst, 1);
        let training = Training::new(another(target), target, &case);
        let uncaptured = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&uncaptured);
        training.gpu.device.on_uncaptured_error(Arc::new(move |error| log.lock().unwrap().push(error.to_string())));
        training.step(0);
        let once = training.checkpoint();
        training.gpu.submit(|pass| {
            training.forward.record(pass);
            pass.dispatch_workgroups(u32::MAX, 1, 1);
        });
        let reported = std::mem::take(&mut *uncaptured.lock().unwrap());
        assert!(!reported.is_empty(), "{target}");
        assert_eq!(training.checkpoint(), once, "{target}: a pass that is refused runs no part of it");
        training.step(1);
        let undisturbed = Training::new(another(target), target, &case);
        (0..2).for_each(|index| undisturbed.step(index));
        assert_eq!(training.checkpoint(), undisturbed.checkpoint(), "{target}");
        assert!(uncaptured.lock().unwrap().is_empty(), "{target}: {uncaptured:?}");
    });
}

/// What wgpu reports to the caller of what is done on a device, the first of it. The rest of the process hears nothing: by default
/// wgpu panics where an error is nobody's.
fn reported(gpu: &Gpu, act: impl FnOnce()) -> String {
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    act();
    pollster::block_on(scope.pop()).map_or_else(String::new, |error| error.to_string())
}

fn assert_meets_reference(target: &Target, case: &Case) {
    let worst = compare(case, &case.run_device(target).unwrap(), &case.run_reference().unwrap());
    assert!(worst.ratio <= 1.0, "{target}: {worst:?}");
}

#[test]
fn buffers_and_steps_of_another_device_are_refused_and_both_devices_go_on() {
    on_every_target(|target| {
        // Plans make no difference.
        if target.plan > 0 {
            return;
        }
        let case = Case::random(&[6, 10, 5, 7], ChannelsFirst, 1);
        // Of one instance, for which wgpu holds that they are two.
        let twin = with_kernels(target.gpu.twin().expect("a second device"), target);
        let [own, other] = [target, &twin].map(|target| Training::of(target, &case));
        own.step(0);
        let (once, never) = (own.checkpoint(), other.checkpoint());
        assert_ne!(once, never, "{target}");

        // All but the workspace, which not every strategy binds.
        for index in 0..own.buffers.len() - 1 {
            let mut mixed = own.buffers.clone();
            mixed[index].clone_from(&other.buffers[index]);
            own.assert_refuses(&mixed, &format!("{target}: buffer {index}"));
        }
        own.assert_refuses(&other.buffers, &format!("{target}: all buffers"));

        type Record<'a> = &'a dyn Fn(&mut wgpu::ComputePass<'_>);
        let steps: [Record<'_>; 2] = [&|pass| own.forward.record(pass), &|pass| own.backward.record(pass)];
        for step in steps {
            let message = reported(&other.gpu, || {
                other.gpu.submit(|pass| {
                    other.forward.record(pass);
                    step(pass);
                });
            });
            assert!(message.contains("doesn't match"), "{target}: {message}");
        }
        assert_eq!([own.checkpoint(), other.checkpoint()], [once, never], "{target}: no part of such a pass is run");

        own.step(1);
        (0..2).for_each(|index| other.step(index));
        assert_eq!(own.checkpoint(), other.checkpoint(), "{target}");
        assert_meets_reference(target, &case);
    });
}

#[test]
fn a_buffer_destroyed_before_submission_costs_that_submission_and_a_new_one_takes_its_place() {
    on_every_target(|target| {
        if target.plan > 0 {
            return;
        }
        let case = Case::random(&[6, 10, 5, 7], ChannelsFirst, 1);
        let undisturbed = Training::of(target, &case);
        (0..2).for_each(|index| undisturbed.step(index));
        // x and y: what is lost with them is written again.
        for destroyed in [0, 1] {
            let mut training = Training::of(target, &case);
            training.step(0);
            let once = training.checkpoint();

            // What was recorded before, and what is recorded from a step that was bound before.
            let recorded = training.record();
            training.buffers[destroyed].destroy();
            for commands in [recorded, training.record()] {
                let message = reported(&target.gpu, || {
                    target.gpu.queue.submit([commands]);
                });
                assert!(message.contains("has been destroyed"), "{target}: {destroyed}: {message}");
            }
            assert_eq!(training.checkpoint(), once, "{target}: {destroyed}: no part of such a submission is run");
            training.assert_refuses(&training.buffers, &format!("{target}: {destroyed}"));

            let size = training.buffers[destroyed].size();
            training.buffers[destroyed] = target.gpu.zeroed("in its place", size);
            (training.forward, training.backward) = Training::bind(&training.bn, &case, &training.buffers).unwrap();
            training.step(1);
            assert_eq!(training.checkpoint(), undisturbed.checkpoint(), "{target}: {destroyed}");
        }
        assert_meets_reference(target, &case);
    });
}
