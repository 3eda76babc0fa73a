//! Back to what a layer was at first.

use super::batch_norm_layer::BatchNormLayer;
use super::buffers::whole;
use crate::Error;
use crate::gpu::{scoped, write};

/// # Starting again
///
/// Both write through the caller's queue, as [`BatchNormLayer::load_state`] does: nothing is read back, whatever is submitted
/// afterwards sees it, and steps that are bound stay bound. PyTorch's `reset_parameters` does both at once.
impl BatchNormLayer {
    /// Sets gamma and beta to what the descriptor says. Gradients stay; the next backward overwrites them.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    #[doc(alias = "reset")]
    pub fn reset_parameters(&self, queue: &wgpu::Queue) -> Result<(), Error> {
        let parameters = [self.gamma(), self.beta()].into_iter().zip(self.initial);
        self.fill(queue, parameters.filter_map(|(buffer, value)| Some((whole(buffer?), value?.to_bits()))))
    }

    /// Sets running means to 0, running variances to 1 and the counter of batches to 0, in all sets.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    #[doc(alias = "reset_running_stats")]
    pub fn reset_running_statistics(&self, queue: &wgpu::Queue) -> Result<(), Error> {
        let running = self.running.iter();
        self.fill(
            queue,
            running.flat_map(|running| {
                [
                    (whole(&running.mean), 0),
                    (whole(&running.variance), 1.0_f32.to_bits()),
                    (whole(&running.batches_tracked), 0),
                ]
            }),
        )
    }

    fn fill<'a>(
        &self,
        queue: &wgpu::Queue,
        words: impl Iterator<Item = (wgpu::BufferSlice<'a>, u32)>,
    ) -> Result<(), Error> {
        scoped(self.batch_norm.kernels().device(), "the state of a layer", || {
            for (slice, word) in words {
                write(queue, slice.buffer(), slice.offset(), &word.to_ne_bytes().repeat(slice.size() as usize / 4))?;
            }
            Ok(())
        })
    }
}
