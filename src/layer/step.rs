//! Forward and backward of a layer, each in both modes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::{Step, TrainingStep};

/// Which statistics a layer normalises with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LayerMode {
    /// Those of the batch, which also update the running ones.
    #[default]
    Training,
    /// The running ones, as constants. A layer without any takes those of the batch, as PyTorch does.
    #[doc(alias = "eval")]
    Inference,
}

/// A mode that a layer and its steps share. Changing it is seen by whatever is recorded afterwards.
#[derive(Clone, Debug)]
pub(super) struct Switch(Arc<AtomicU8>);

impl Switch {
    const UNSET: u8 = 0;

    pub(super) fn new(mode: Option<LayerMode>) -> Self {
        let switch = Self(Arc::new(AtomicU8::new(Self::UNSET)));
        if let Some(mode) = mode {
            switch.set(mode);
        }
        switch
    }

    pub(super) fn set(&self, mode: LayerMode) {
        let code = match mode {
            LayerMode::Training => 1,
            LayerMode::Inference => 2,
        };
        self.0.store(code, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Option<LayerMode> {
        match self.0.load(Ordering::Relaxed) {
            Self::UNSET => None,
            1 => Some(LayerMode::Training),
            _ => Some(LayerMode::Inference),
        }
    }
}

/// A slice without a lifetime.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    buffer: wgpu::Buffer,
    range: Range<u64>,
}

impl Kept {
    pub(super) fn new(slice: wgpu::BufferSlice<'_>) -> Self {
        Self { buffer: slice.buffer().clone(), range: slice.offset()..slice.offset() + slice.size() }
    }

    pub(super) fn slice(&self) -> wgpu::BufferSlice<'_> {
        self.buffer.slice(self.range.clone())
    }
}

/// A layer's forward, bound to buffers in both modes, with the statistics that it saves for backward.
///
/// Recording allocates nothing and can be repeated. Every forward has statistics of its own, so that a layer may be used
/// several times in one network, each time with a backward of its own.
#[derive(Clone, Debug)]
pub struct LayerForward {
    pub(super) label: String,
    pub(super) training: TrainingStep,
    /// Absent without running statistics.
    pub(super) inference: Option<Step>,
    pub(super) saved: Kept,
    /// What batch renormalization saves.
    pub(super) renormalization: Option<Kept>,
    /// What it was bound to that backward needs as well; gamma and beta need not be the layer's own.
    pub(super) gamma: Option<Kept>,
    pub(super) beta: Option<Kept>,
    pub(super) valid: Option<Kept>,
    /// Likewise, where an activation may be recomputed.
    pub(super) residual: Option<Kept>,
    /// What inference reads, for a backward through the same.
    pub(super) recorded: Option<[Kept; 2]>,
    pub(super) plan: crate::Plan,
    pub(super) mode: Switch,
    /// How it was recorded last.
    pub(super) went: Switch,
}

impl LayerForward {
    /// Records the forward in the layer's mode.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_as(pass, self.mode.get().unwrap_or_default());
    }

    /// Records the forward in a mode of the caller's choice, whatever that of the layer is.
    pub fn record_as(&self, pass: &mut wgpu::ComputePass<'_>, mode: LayerMode) {
        self.went.set(mode);
        match (mode, &self.inference) {
            (LayerMode::Training, _) => self.training.record(pass),
            (LayerMode::Inference, Some(inference)) => inference.record(pass),
            (LayerMode::Inference, None) => self.training.record_without_running_update(pass),
        }
    }

    /// Records the forward in the layer's mode, but leaves running statistics and batch counter as they are.
    ///
    /// For the second forward of activation checkpointing, which must not count the batch twice.
    pub fn record_without_running_update(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self.mode.get().unwrap_or_default() {
            LayerMode::Training => {
                self.went.set(LayerMode::Training);
                self.training.record_without_running_update(pass);
            }
            LayerMode::Inference => self.record_as(pass, LayerMode::Inference),
        }
    }

    /// Records the forward in the layer's mode, into a pass of its own.
    pub fn record_into(&self, encoder: &mut wgpu::CommandEncoder) {
        self.record(&mut begin(encoder, &self.label));
    }

    /// What training writes and backward reads, one [`ChannelStatistics`](crate::ChannelStatistics) a channel (with
    /// segments: an instance).
    #[must_use]
    pub fn saved(&self) -> wgpu::BufferSlice<'_> {
        self.saved.slice()
    }

    /// What batch renormalization writes in training and backward reads, one
    /// [`ChannelRenormalization`](crate::ChannelRenormalization) a channel (with segments: an instance); `None` without it.
    #[must_use]
    pub fn renormalization(&self) -> Option<wgpu::BufferSlice<'_>> {
        self.renormalization.as_ref().map(Kept::slice)
    }

    /// The plan that it is bound by.
    #[must_use]
    pub const fn plan(&self) -> &crate::Plan {
        &self.plan
    }
}

/// A layer's backward, bound to buffers in both modes: through the statistics of the batch, and through frozen ones.
///
/// Recording allocates nothing and can be repeated.
///
/// It goes through what the last forward saved. Recording cannot tell whether one has run on the device: without any, in training
/// mode, gradients are NaN (with a `saved` of the caller's that holds zeros, dx is 0); after the forward of another batch they are
/// taken with the statistics of that batch.
#[derive(Clone, Debug)]
pub struct LayerBackward {
    pub(super) label: String,
    pub(super) training: Step,
    /// Absent without running statistics.
    pub(super) frozen: Option<Step>,
    pub(super) mode: Switch,
    /// How forward was recorded last.
    pub(super) went: Switch,
}

impl LayerBackward {
    /// Records the backward in the mode that its forward was recorded in last; in the layer's, if it was not recorded yet.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.record_as(pass, self.went.get().or_else(|| self.mode.get()).unwrap_or_default());
    }

    /// Records the backward in a mode of the caller's choice. It must be that of the forward before it.
    pub fn record_as(&self, pass: &mut wgpu::ComputePass<'_>, mode: LayerMode) {
        match (mode, &self.frozen) {
            (LayerMode::Inference, Some(frozen)) => frozen.record(pass),
            (LayerMode::Inference, None) | (LayerMode::Training, _) => self.training.record(pass),
        }
    }

    /// Records the backward as [`LayerBackward::record`], into a pass of its own.
    pub fn record_into(&self, encoder: &mut wgpu::CommandEncoder) {
        self.record(&mut begin(encoder, &self.label));
    }
}

fn begin<'e>(encoder: &'e mut wgpu::CommandEncoder, label: &str) -> wgpu::ComputePass<'e> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None })
}
