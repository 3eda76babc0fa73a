//! A device lost in the middle of training, and memory that runs out: what was there before goes on elsewhere.

use std::sync::{Arc, Mutex};

use crate::common::case::Case;
use crate::common::support::{self, Gpu};
use crate::common::{Target, on_every_target};
use wgpu_batch_norm::Layout::ChannelsFirst;
use wgpu_batch_norm::{
    BackwardBuffers, BatchNorm, BatchNormDescriptor, BatchNormLayer, BatchNormLayerDescriptor, Error, Gradient,
    Kernels, KernelsDescriptor, LayerState, RunningState, RunningStatistics, TrainingBuffers, TrainingStep, wgpu,
};

/// A layer in training, with what a program would keep of it in a checkpoint.
struct Training {
    gpu: Gpu,
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
        let descriptor = KernelsDescriptor { class: Some(target.kernels.profile().class), ..Default::default() };
        let kernels = Kernels::with_descriptor(&gpu.device, &descriptor);
        let bn = BatchNorm::with_kernels(&kernels, &case.descriptor()).unwrap();
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
