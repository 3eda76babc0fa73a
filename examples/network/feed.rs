//! Batches, gathered on the device.

use super::context::{Context, Dispatch, Kernel, kernel};
use super::tensor::View;

const GATHER_BATCH: Kernel = kernel!("gather_batch");

/// Steps in one submission: enough that the host's part is small, few enough that the progress bar moves.
const STEPS_PER_SUBMISSION: usize = 40;

/// Fetches the samples of each step's batch from data sets on the device.
pub struct Feed<'c> {
    context: &'c Context,
    batch_size: usize,
    /// Sample indices, a slot for each step of a submission.
    chosen: View,
    /// Values from one slot to the next: bindings must start at aligned offsets.
    slot: usize,
    gather: Vec<Vec<Dispatch>>,
}

impl<'c> Feed<'c> {
    pub fn new(context: &'c Context, batch_size: usize) -> Self {
        let alignment = context.gpu.device.limits().min_storage_buffer_offset_alignment as usize;
        let slot = batch_size.next_multiple_of(alignment / size_of::<u32>());
        let chosen = context.zeros("chosen samples", STEPS_PER_SUBMISSION * slot);
        Self { context, batch_size, chosen, slot, gather: vec![Vec::new(); STEPS_PER_SUBMISSION] }
    }

    /// Where each step finds its part of `all`, which has `width` words of 32 bits a sample.
    pub fn add(&mut self, all: &View, width: usize) -> View {
        self.add_steps(all, 1, width)
    }

    /// The same for samples of several steps of `width` words: the batch has the first steps of all samples before the second.
    pub fn add_steps(&mut self, all: &View, steps: usize, width: usize) -> View {
        let (context, len) = (self.context, self.batch_size * steps * width);
        let batch = context.zeros("batch", len);
        let shape = context.uniform("shape", &[self.batch_size as u32, steps as u32, width as u32]);
        for (index, gather) in self.gather.iter_mut().enumerate() {
            let chosen = self.chosen.part(index * self.slot, self.batch_size);
            let slices = [shape.slice(..), all.slice(), chosen.slice(), batch.slice()];
            gather.push(context.bind(GATHER_BATCH, &[], len, &slices));
        }
        batch
    }

    /// Steps that one call of [`Feed::run`] takes at most.
    pub const fn max_steps(&self) -> usize {
        STEPS_PER_SUBMISSION
    }

    /// Submits a step for each batch in `chosen`, which holds the sample indices of one batch after the other, and waits for
    /// them, so that progress bars tell the truth.
    ///
    /// # Panics
    /// If there are more than [`Feed::max_steps`].
    pub fn run(&self, chosen: &[u32], step: impl Fn(&mut wgpu::ComputePass<'_>)) {
        let batches = chosen.chunks_exact(self.batch_size);
        let mut slots = vec![0_u32; self.chosen.len];
        assert!(batches.len() <= STEPS_PER_SUBMISSION, "{} steps in one submission", batches.len());
        for (slot, batch) in slots.chunks_mut(self.slot).zip(batches.clone()) {
            slot[..batch.len()].copy_from_slice(batch);
        }
        self.context.write(&self.chosen, &slots);
        self.context.gpu.submit(|pass| {
            for gather in &self.gather[..batches.len()] {
                gather.iter().for_each(|dispatch| dispatch.record(pass));
                step(pass);
            }
        });
        self.context.gpu.wait();
    }
}
