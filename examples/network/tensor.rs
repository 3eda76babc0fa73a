//! Values on the device: plain ones, those with a gradient, and parameters.

use wgpu_batch_norm::LayerParameter;

use super::context::Context;

/// 32-bit values in a buffer, or in a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub buffer: wgpu::Buffer,
    /// In bytes.
    pub offset: u64,
    /// In values.
    pub len: usize,
}

impl View {
    /// The first `len` values of a buffer.
    pub const fn whole(buffer: wgpu::Buffer, len: usize) -> Self {
        Self { buffer, offset: 0, len }
    }

    /// `len` of the values from `first` on. To be bound, it must start at a multiple of 64 values, the coarsest alignment that a
    /// WebGPU device asks for.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn part(&self, first: usize, len: usize) -> Self {
        assert!(first + len <= self.len, "{first} + {len} of {} values", self.len);
        Self { buffer: self.buffer.clone(), offset: self.offset + 4 * first as u64, len }
    }

    pub fn slice(&self) -> wgpu::BufferSlice<'_> {
        self.buffer.slice(self.offset..self.offset + 4 * self.len as u64)
    }
}

/// What flows through a network: values of some shape, and the gradient of the loss with respect to them.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: View,
    /// Absent where none is wanted: in data, and in a network that is only evaluated.
    pub gradient: Option<View>,
}

impl Tensor {
    /// Data, which has no gradient.
    ///
    /// # Panics
    /// If the shape has another number of values.
    pub fn data(values: View, shape: &[usize]) -> Self {
        assert_eq!(values.len, shape.iter().product::<usize>(), "{shape:?}");
        Self { shape: shape.to_vec(), values, gradient: None }
    }

    pub const fn len(&self) -> usize {
        self.values.len
    }

    /// The same values in another shape.
    ///
    /// # Panics
    /// If the shape has another number of values.
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{:?} as {shape:?}", self.shape);
        Self { shape: shape.to_vec(), ..self.clone() }
    }

    /// One index along the first dimension, which stays, with length 1 folded away.
    pub fn index(&self, index: usize) -> Self {
        let len = self.len() / self.shape[0];
        let part = |view: &View| view.part(index * len, len);
        Self { shape: self.shape[1..].to_vec(), values: part(&self.values), gradient: self.gradient.as_ref().map(part) }
    }
}

/// What an optimiser updates.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub values: View,
    pub gradient: View,
}

impl Parameter {
    /// Zeros.
    pub fn new(context: &Context, name: &str, len: usize) -> Self {
        let gradient = context.zeros(&format!("gradient of {name}"), len);
        Self { values: context.zeros(name, len), gradient }
    }
}

impl From<LayerParameter<'_>> for Parameter {
    fn from(parameter: LayerParameter<'_>) -> Self {
        let whole = |buffer: &wgpu::Buffer| View::whole(buffer.clone(), buffer.size() as usize / 4);
        Self { values: whole(parameter.value), gradient: whole(parameter.gradient) }
    }
}
