//! The buffers that a layer owns.

use std::sync::OnceLock;

use crate::gpu::scoped;
use crate::{BatchNorm, Error, RunningStatistics, SegmentRunning};

#[derive(Debug)]
pub(super) struct Parameter {
    pub value: wgpu::Buffer,
    pub gradient: wgpu::Buffer,
}

impl Parameter {
    pub(super) fn new(batch_norm: &BatchNorm, [name, gradient]: [&str; 2], value: f32) -> Result<Self, Error> {
        let size = vector_size(batch_norm);
        Ok(Self { value: filled(batch_norm, name, size, value)?, gradient: zeroed(batch_norm, gradient, size)? })
    }
}

/// One set of running statistics or more.
#[derive(Debug)]
pub(super) struct Running {
    pub mean: wgpu::Buffer,
    pub variance: wgpu::Buffer,
    pub batches_tracked: wgpu::Buffer,
    sets: u64,
    /// Bytes of a set, and from one to the next.
    set_size: u64,
    stride: u64,
    /// Whether steps take all sets at once.
    joined: bool,
}

impl Running {
    pub(super) fn new(batch_norm: &BatchNorm, sets: u32) -> Result<Self, Error> {
        let set_size = vector_size(batch_norm);
        let joined = batch_norm.descriptor().convention.segment_running == SegmentRunning::Separate;
        let alignment = if joined { 1 } else { batch_norm.kernels().profile().slice_alignment() };
        let (sets, stride) = (u64::from(sets.max(1)), set_size.next_multiple_of(alignment));
        let size = stride.saturating_mul(sets - 1).saturating_add(set_size);
        Ok(Self {
            mean: zeroed(batch_norm, "running_mean", size)?,
            variance: filled(batch_norm, "running_variance", size, 1.0)?,
            batches_tracked: zeroed(batch_norm, "batches_tracked", 4)?,
            sets,
            set_size,
            stride,
            joined,
        })
    }

    /// What steps take unless told otherwise.
    pub(super) fn own(&self) -> RunningStatistics<'_> {
        let range = if self.joined { 0..self.mean.size() } else { 0..self.set_size };
        RunningStatistics {
            mean: self.mean.slice(range.clone()),
            variance: self.variance.slice(range),
            batches_tracked: Some(whole(&self.batches_tracked)),
        }
    }

    pub(super) fn set(&self, index: u32) -> Option<RunningStatistics<'_>> {
        let [mean, variance] = [&self.mean, &self.variance].map(|buffer| self.slices(buffer).nth(index as usize));
        let batches_tracked = (index == 0).then(|| whole(&self.batches_tracked));
        Some(RunningStatistics { mean: mean?, variance: variance?, batches_tracked })
    }

    /// The sets in the buffer of means or of variances.
    pub(super) fn slices<'a>(&self, buffer: &'a wgpu::Buffer) -> impl Iterator<Item = wgpu::BufferSlice<'a>> {
        let (stride, size) = (self.stride, self.set_size);
        (0..self.sets).map(move |set| buffer.slice(set * stride..set * stride + size))
    }
}

/// Scratch, and larger scratch for larger shapes.
///
/// Those that were outgrown stay, since steps may be about to be bound to them: a layer plans by shared reference. Each has at least
/// twice the size of the one before, so all that were outgrown are together smaller than the last.
#[derive(Debug)]
pub(super) struct Workspace {
    buffer: wgpu::Buffer,
    larger: OnceLock<Box<Self>>,
}

impl Workspace {
    pub(super) fn new(batch_norm: &BatchNorm, size: u64) -> Result<Self, Error> {
        Ok(Self { buffer: zeroed(batch_norm, "workspace", size)?, larger: OnceLock::new() })
    }

    fn last(&self) -> &Self {
        let mut last = self;
        while let Some(larger) = last.larger.get() {
            last = larger;
        }
        last
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        &self.last().buffer
    }

    /// Sees to it that there is one of at least `size` bytes.
    pub(super) fn reserve(&self, batch_norm: &BatchNorm, size: u64) -> Result<(), Error> {
        let last = self.last();
        if last.buffer.size() >= size {
            return Ok(());
        }
        let largest = batch_norm.kernels().device().limits().max_buffer_size;
        let larger = Self::new(batch_norm, (2 * last.buffer.size()).min(largest).max(size))?;
        match last.larger.set(Box::new(larger)) {
            Ok(()) => Ok(()),
            // Another thread was faster, with a size of its own.
            Err(_) => self.reserve(batch_norm, size),
        }
    }
}

fn vector_size(batch_norm: &BatchNorm) -> u64 {
    u64::from(batch_norm.descriptor().channels) * 4
}

pub(super) fn whole(buffer: &wgpu::Buffer) -> wgpu::BufferSlice<'_> {
    buffer.slice(..)
}

pub(super) fn label(batch_norm: &BatchNorm, name: &str) -> String {
    match &batch_norm.descriptor().label {
        Some(label) => format!("{label}: wgpu_batch_norm::{name}"),
        None => format!("wgpu_batch_norm::{name}"),
    }
}

fn describe<'a>(label: &'a str, size: u64, mapped_at_creation: bool) -> wgpu::BufferDescriptor<'a> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation }
}

/// A buffer of zeros, as wgpu makes them.
pub(super) fn zeroed(batch_norm: &BatchNorm, name: &str, size: u64) -> Result<wgpu::Buffer, Error> {
    let device = batch_norm.kernels().device();
    let label = label(batch_norm, name);
    scoped(device, "a buffer of a layer", || Ok(device.create_buffer(&describe(&label, size, false))))
}

/// A buffer of one value, written without a queue.
pub(super) fn filled(batch_norm: &BatchNorm, name: &str, size: u64, value: f32) -> Result<wgpu::Buffer, Error> {
    let device = batch_norm.kernels().device();
    let label = label(batch_norm, name);
    scoped(device, "a buffer of a layer", || {
        let buffer = device.create_buffer(&describe(&label, size, true));
        // Scopes catch whatever else could be wrong with the buffer.
        let mut view = buffer.get_mapped_range_mut(..).map_err(|_| Error::DeviceLost)?;
        view.copy_from_slice(&value.to_ne_bytes().repeat(size as usize / 4));
        drop(view);
        buffer.unmap();
        Ok(buffer)
    })
}
