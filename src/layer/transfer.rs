//! The way of a layer's state from and to the host.

use super::batch_norm_layer::BatchNormLayer;
use super::buffers::whole;
use super::state::{LayerState, RunningState};
use crate::Error;
use crate::gpu::{scoped, write};

/// A part of a state where a layer has it.
struct Part<'a> {
    name: &'static str,
    slice: wgpu::BufferSlice<'a>,
}

/// # State
///
/// A state goes to the layer through the caller's queue, and from it through a buffer of the caller's, which the caller maps:
/// nothing here waits.
///
/// ```no_run
/// # use wgpu_batch_norm::{BatchNormLayer, Error, LayerState, wgpu};
/// fn load(layer: &BatchNormLayer, queue: &wgpu::Queue, state: &LayerState) -> Result<(), Error> {
///     layer.load_state(queue, state) // takes effect before the next submission
/// }
///
/// fn save(layer: &BatchNormLayer, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<LayerState, Error> {
///     let staging = device.create_buffer(&wgpu::BufferDescriptor {
///         label: Some("state"),
///         size: layer.state_size(),
///         usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
///         mapped_at_creation: false,
///     });
///     let mut encoder = device.create_command_encoder(&Default::default());
///     layer.record_state_copy(&mut encoder, staging.slice(..))?;
///     queue.submit([encoder.finish()]);
///     staging.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("the staging buffer is mapped"));
///     device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there"); // or from the event loop
///     let bytes = staging.get_mapped_range(..).expect("the staging buffer is mapped");
///     layer.state_from_bytes(&bytes)
/// }
/// ```
impl BatchNormLayer {
    /// Writes a state to the layer's buffers. As with any [`wgpu::Queue::write_buffer`], whatever is submitted afterwards sees it,
    /// and steps that are bound stay bound.
    ///
    /// The queue must be that of the layer's device: wgpu reports another one's to the handler of that device.
    ///
    /// # Errors
    /// [`Error::MissingState`] and [`Error::UnexpectedState`] where layer and state do not have the same parts,
    /// [`Error::WrongLength`], [`Error::Device`], [`Error::OutOfMemory`], [`Error::DeviceLost`]. But for the last three, nothing is
    /// written then. A device that is lost later, before the next submission, takes the state with it and tells its callback alone.
    #[doc(alias = "load_state_dict")]
    pub fn load_state(&self, queue: &wgpu::Queue, state: &LayerState) -> Result<(), Error> {
        let LayerState { gamma, beta, running } = state;
        let mut writes: Vec<(wgpu::BufferSlice<'_>, &[u8])> = Vec::new();
        for (part, buffer, values) in [("gamma", self.gamma(), gamma), ("beta", self.beta(), beta)] {
            if let Some((buffer, values)) = both(part, buffer, values.as_ref())? {
                writes.push((whole(buffer), vector(part, buffer.size(), values)?));
            }
        }
        if let Some((own, state)) = both("running", self.running.as_ref(), running.as_ref())? {
            let parts =
                [("running.mean", &own.mean, &state.mean), ("running.variance", &own.variance, &state.variance)];
            for (part, buffer, values) in parts {
                let mut bytes = vector(part, own.slices(buffer).map(|set| set.size()).sum(), values)?;
                for set in own.slices(buffer) {
                    let values;
                    (values, bytes) = bytes.split_at(set.size() as usize);
                    writes.push((set, values));
                }
            }
            writes.push((whole(&own.batches_tracked), bytemuck::bytes_of(&state.batches_tracked)));
        }
        scoped(self.batch_norm.kernels().device(), "the state of a layer", || {
            for (slice, bytes) in writes {
                write(queue, slice.buffer(), slice.offset(), bytes)?;
            }
            Ok(())
        })
    }

    /// Bytes of the layer's state, a multiple of 4; 0 for a layer without parameters and running statistics.
    #[must_use]
    pub fn state_size(&self) -> u64 {
        self.parts().map(|part| part.slice.size()).sum()
    }

    /// Records copies of all that is the layer's state to a slice of [`BatchNormLayer::state_size`] bytes, for
    /// [`BatchNormLayer::state_from_bytes`]. Slices for several layers may lie in one buffer, one after the other.
    ///
    /// # Errors
    /// [`Error::WrongSize`], [`Error::MissingCopyUsage`], [`Error::MisalignedCopy`], and [`Error::OverlappingBuffers`] for a slice
    /// of the layer's own buffers. Nothing is recorded then.
    pub fn record_state_copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        staging: wgpu::BufferSlice<'_>,
    ) -> Result<(), Error> {
        let (expected, actual) = (self.state_size(), staging.size());
        if actual != expected {
            return Err(Error::WrongSize { binding: "staging", expected, actual });
        }
        if !staging.buffer().usage().contains(wgpu::BufferUsages::COPY_DST) {
            return Err(Error::MissingCopyUsage { binding: "staging" });
        }
        if !staging.offset().is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT) {
            return Err(Error::MisalignedCopy { binding: "staging", offset: staging.offset() });
        }
        if let Some(part) = self.parts().find(|part| part.slice.buffer() == staging.buffer()) {
            return Err(Error::OverlappingBuffers { first: part.name, second: "staging" });
        }
        let mut offset = staging.offset();
        for Part { slice, .. } in self.parts() {
            encoder.copy_buffer_to_buffer(slice.buffer(), slice.offset(), staging.buffer(), offset, slice.size());
            offset += slice.size();
        }
        Ok(())
    }

    /// The state in the bytes that [`BatchNormLayer::record_state_copy`] has filled, of this layer or of one described alike.
    ///
    /// # Errors
    /// [`Error::WrongSize`].
    pub fn state_from_bytes(&self, bytes: &[u8]) -> Result<LayerState, Error> {
        let (expected, actual) = (self.state_size(), bytes.len() as u64);
        if actual != expected {
            return Err(Error::WrongSize { binding: "bytes", expected, actual });
        }
        let mut words = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
        let mut vector =
            |size: u64| -> Vec<f32> { words.by_ref().take(size as usize / 4).map(f32::from_bits).collect() };
        let (gamma, beta) = (self.gamma().map(|own| vector(own.size())), self.beta().map(|own| vector(own.size())));
        let vectors = self.running.as_ref().map(|running| {
            let [mean, variance] = [&running.mean, &running.variance]
                .map(|buffer| vector(running.slices(buffer).map(|set| set.size()).sum()));
            (mean, variance)
        });
        let running = vectors.map(|(mean, variance)| RunningState {
            mean,
            variance,
            batches_tracked: words.next().unwrap_or_default(),
        });
        Ok(LayerState { gamma, beta, running })
    }

    /// What a state is made of, in the order that it is copied in.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let parameters = [("gamma", self.gamma()), ("beta", self.beta())];
        let parameters = parameters.into_iter().filter_map(|(name, buffer)| Some(Part { name, slice: whole(buffer?) }));
        let running = self.running.iter().flat_map(|running| {
            let sets = |name, buffer| running.slices(buffer).map(move |slice| Part { name, slice });
            let counter = Part { name: "running.batches_tracked", slice: whole(&running.batches_tracked) };
            let vectors = sets("running.mean", &running.mean).chain(sets("running.variance", &running.variance));
            vectors.chain([counter])
        });
        parameters.chain(running)
    }
}

/// What layer and state both have.
fn both<L, S>(part: &'static str, layer: Option<L>, state: Option<S>) -> Result<Option<(L, S)>, Error> {
    match (layer, state) {
        (Some(layer), Some(state)) => Ok(Some((layer, state))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::MissingState { part }),
        (None, Some(_)) => Err(Error::UnexpectedState { part }),
    }
}

/// The bytes of a vector, which should be so many.
fn vector<'a>(binding: &'static str, size: u64, values: &'a [f32]) -> Result<&'a [u8], Error> {
    let (expected, actual) = (size / 4, values.len() as u64);
    if actual == expected {
        Ok(bytemuck::cast_slice(values))
    } else {
        Err(Error::WrongLength { binding, expected, actual })
    }
}
