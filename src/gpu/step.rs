//! Steps: plans bound to buffers, recorded any number of times.

use crate::trace;

/// One dispatch with everything that recording needs.
#[derive(Clone, Debug)]
pub(super) struct BoundDispatch {
    pub pipeline: wgpu::ComputePipeline,
    pub bind_group: wgpu::BindGroup,
    pub workgroups: [u32; 3],
}

fn record(dispatches: &[BoundDispatch], label: &str, pass: &mut wgpu::ComputePass<'_>) {
    let _span = trace::recording(label, dispatches.len());
    for dispatch in dispatches {
        let [x, y, z] = dispatch.workgroups;
        pass.set_pipeline(&dispatch.pipeline);
        pass.set_bind_group(0, &dispatch.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

fn record_into(dispatches: &[BoundDispatch], label: &str, encoder: &mut wgpu::CommandEncoder) {
    let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
    record(dispatches, label, &mut encoder.begin_compute_pass(&descriptor));
}

/// Inference or backward, bound to buffers.
///
/// Recording allocates nothing and can be repeated, in one pass or many, as long as the buffers live. It replaces the
/// pass's pipeline and its bind group 0.
#[derive(Clone, Debug)]
pub struct Step {
    pub(super) label: String,
    pub(super) dispatches: Vec<BoundDispatch>,
}

impl Step {
    /// Records the step into the caller's pass.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        record(&self.dispatches, &self.label, pass);
    }

    /// Records the step into a pass of its own.
    pub fn record_into(&self, encoder: &mut wgpu::CommandEncoder) {
        record_into(&self.dispatches, &self.label, encoder);
    }

    /// The number of dispatches that recording makes.
    #[must_use]
    pub const fn dispatch_count(&self) -> usize {
        self.dispatches.len()
    }
}

/// Training forward, bound to buffers, with the running-statistics update as a switch.
///
/// Recording allocates nothing and can be repeated, in one pass or many, as long as the buffers live. It replaces the
/// pass's pipeline and its bind group 0.
#[derive(Clone, Debug)]
pub struct TrainingStep {
    pub(super) label: String,
    pub(super) updating: Vec<BoundDispatch>,
    pub(super) without_update: Vec<BoundDispatch>,
}

impl TrainingStep {
    /// Records the step into the caller's pass, running statistics and batch counter included.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        record(&self.updating, &self.label, pass);
    }

    /// Records the step but leaves running statistics and batch counter as they are.
    ///
    /// For the second forward of activation checkpointing, which must not count the batch twice.
    pub fn record_without_running_update(&self, pass: &mut wgpu::ComputePass<'_>) {
        record(&self.without_update, &self.label, pass);
    }

    /// Records the step, running statistics included, into a pass of its own.
    pub fn record_into(&self, encoder: &mut wgpu::CommandEncoder) {
        record_into(&self.updating, &self.label, encoder);
    }

    /// The number of dispatches that [`TrainingStep::record`] makes.
    #[must_use]
    pub const fn dispatch_count(&self) -> usize {
        self.updating.len()
    }
}
