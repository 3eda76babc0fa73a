//! Where tensors of a case lie on a device: each in a buffer of its own, or all in one.

use std::cell::RefCell;
use std::ops::{Bound, Range, RangeBounds};

use bytemuck::Pod;
use wgpu_batch_norm::wgpu;

use super::Target;
use super::support::Gpu;

/// What stands between the slices of a pooled buffer, which nothing may touch.
pub const GUARD: f32 = f32::from_bits(0x7FC0_600D);

/// Bytes of a pooled buffer: cases that are pooled are small.
const POOL_SIZE: u64 = 2 << 20;

pub struct Memory<'a> {
    gpu: &'a Gpu,
    alignment: u64,
    pool: Option<(wgpu::Buffer, RefCell<Vec<Range<u64>>>)>,
}

/// Bytes of a buffer.
pub struct Held {
    buffer: wgpu::Buffer,
    bytes: Range<u64>,
}

impl<'a> Memory<'a> {
    pub fn new(target: &'a Target) -> Self {
        let gpu = &*target.gpu;
        let guards = || gpu.upload("pool", &vec![GUARD; POOL_SIZE as usize / 4]);
        let pool = target.pooled.then(|| (guards(), RefCell::default()));
        Self { gpu, alignment: target.kernels.profile().slice_alignment(), pool }
    }

    /// As [`Gpu::upload`].
    pub fn upload<T: Pod>(&self, label: &str, values: &[T]) -> Held {
        let Some((buffer, taken)) = &self.pool else {
            let buffer = self.gpu.upload(label, values);
            return Held { bytes: 0..buffer.size(), buffer };
        };
        // As large as a buffer of its own would be, and a gap before the next.
        let size = (size_of_val(values) as u64).next_multiple_of(4).max(16);
        let mut taken = taken.borrow_mut();
        let start = taken.last().map_or(0, |last| last.end.next_multiple_of(self.alignment)) + self.alignment;
        assert!(start + size < POOL_SIZE, "{label}: the pool is full");
        self.gpu.queue.write_buffer(buffer, start, bytemuck::cast_slice(values));
        taken.push(start..start + size);
        Held { buffer: buffer.clone(), bytes: start..start + size }
    }

    /// As [`Gpu::zeroed`].
    pub fn zeroed(&self, label: &str, size: u64) -> Held {
        self.upload(label, &vec![0_u32; size.div_ceil(4) as usize])
    }

    /// The first `count` values, after everything submitted before.
    pub fn read<T: Pod>(&self, held: &Held, count: usize) -> Vec<T> {
        self.gpu.read_from(&held.buffer, held.bytes.start, count)
    }

    /// What lies between the slices of a pool is as it was.
    pub fn assert_gaps_are_untouched(&self) {
        let Some((buffer, taken)) = &self.pool else { return };
        let words: Vec<u32> = self.gpu.read(buffer, POOL_SIZE as usize / 4);
        let mut next = 0;
        for bytes in taken.borrow().iter().chain([&(POOL_SIZE..POOL_SIZE)]) {
            let gap = next / 4..bytes.start as usize / 4;
            let touched = words[gap.clone()].iter().position(|&word| word != GUARD.to_bits());
            assert_eq!(touched, None, "a word was written between slices, of those from {gap:?}");
            next = bytes.end as usize;
        }
    }
}

impl Held {
    /// As [`wgpu::Buffer::slice`].
    pub fn slice(&self, range: impl RangeBounds<u64>) -> wgpu::BufferSlice<'_> {
        let start = match range.start_bound() {
            Bound::Included(&start) => self.bytes.start + start,
            Bound::Excluded(_) | Bound::Unbounded => self.bytes.start,
        };
        let end = match range.end_bound() {
            Bound::Excluded(&end) => self.bytes.start + end,
            Bound::Included(_) | Bound::Unbounded => self.bytes.end,
        };
        assert!(start >= self.bytes.start && end <= self.bytes.end, "a slice past the end");
        self.buffer.slice(start..end)
    }
}
