//! Burn's tensors as slices of wgpu buffers.
//!
//! Allocations start where a binding may start, and so do views: where a slice of a tensor would not, Burn copies it.

use std::any::Any;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::cubecl::server::Handle;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::wgpu::{AutoCompiler, WgpuServer};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::Unserved;

/// The order in which a tensor `[N, C, ...]` lies in memory. Burn's convolutions return channels last under a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    ChannelsFirst,
    ChannelsLast,
}

impl Order {
    /// The order of a tensor without gaps; none for any other.
    fn of(tensor: &CubeTensor) -> Option<Self> {
        if tensor.meta.is_tiled() {
            return None;
        }
        let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
        let rank = shape.len();
        let dense = |axes: &mut dyn Iterator<Item = usize>| {
            let mut expected = 1;
            for axis in axes {
                // A dimension of one element is nowhere stepped along.
                if shape[axis] != 1 && strides[axis] != expected {
                    return false;
                }
                expected *= shape[axis];
            }
            true
        };
        if dense(&mut (0..rank).rev()) {
            Some(Self::ChannelsFirst)
        } else if dense(&mut std::iter::once(1).chain((2..rank).rev()).chain(std::iter::once(0))) {
            Some(Self::ChannelsLast)
        } else {
            None
        }
    }

    /// The tensor as it is, if it has no gaps, else a copy, channels first; and its order.
    pub(crate) fn settle(tensor: CubeTensor) -> (CubeTensor, Self) {
        match Self::of(&tensor) {
            Some(order) => (tensor, order),
            None => (into_contiguous(tensor), Self::ChannelsFirst),
        }
    }

    /// The tensor in this order: as it is, if it already is, else a copy.
    pub(crate) fn arrange(self, tensor: CubeTensor) -> CubeTensor {
        if Self::of(&tensor) == Some(self) {
            return tensor;
        }
        let rank = tensor.rank();
        match self {
            Self::ChannelsFirst => into_contiguous(tensor),
            Self::ChannelsLast => {
                let last: Vec<usize> = std::iter::once(0).chain(2..rank).chain(std::iter::once(1)).collect();
                let back: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
                let copy = into_contiguous(CubeBackend::float_permute(tensor, &last));
                CubeBackend::float_permute(copy, &back)
            }
        }
    }
}

/// A new tensor, not written yet, of the shape, order and type of another.
pub(crate) fn empty_like(tensor: &CubeTensor) -> CubeTensor {
    let size = tensor.meta.shape().num_elements() * tensor.dtype.size();
    let handle = tensor.client.empty(size);
    CubeTensor::new(tensor.client.clone(), handle, (*tensor.meta).clone(), tensor.device.clone(), tensor.dtype)
}

/// A new tensor, not written yet, of `f32`.
pub(crate) fn empty(like: &CubeTensor, shape: [usize; 2]) -> CubeTensor {
    let handle = like.client.empty(shape.iter().product::<usize>() * size_of::<f32>());
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape.into(), handle, DType::F32)
}

/// A slice of a buffer of Burn's. The allocation stays where it is and is not given to anyone else as long as this lives.
pub(crate) struct Held {
    buffer: wgpu_batch_norm::wgpu::Buffer,
    offset: u64,
    /// CubeCL's hold on the allocation, of a type that it does not export.
    _hold: Box<dyn Any>,
}

impl Held {
    /// Has everything that Burn recorded for the tensor submitted, and takes hold of its memory.
    pub(crate) fn new(tensor: &CubeTensor) -> Result<Self, Unserved> {
        let handle: Handle = tensor.handle.clone();
        match tensor.client.get_resource::<WgpuServer<AutoCompiler>>(handle) {
            Ok(managed) => {
                let resource = managed.resource();
                let (buffer, offset) = (resource.buffer.clone(), resource.offset);
                Ok(Self { buffer, offset, _hold: Box::new(managed) })
            }
            Err(error) => Err(Unserved::Runtime { reason: error.to_string() }),
        }
    }

    /// Has the first `size` bytes copied from a buffer.
    pub(crate) fn copy_from(
        &self,
        buffer: &wgpu_batch_norm::wgpu::Buffer,
        size: u64,
        encoder: &mut wgpu_batch_norm::wgpu::CommandEncoder,
    ) {
        encoder.copy_buffer_to_buffer(buffer, 0, &self.buffer, self.offset, size);
    }

    /// The first `size` bytes. Allocations are multiples of the alignment, so what a size is rounded up by is theirs.
    pub(crate) fn slice(&self, size: u64) -> wgpu_batch_norm::wgpu::BufferSlice<'_> {
        self.buffer.slice(self.offset..self.offset + size)
    }
}

/// The primitive of a tensor outside autodiff, computed if it was not yet.
pub(crate) fn primitive<const D: usize>(tensor: Tensor<D>) -> Option<CubeTensor> {
    let primitive = tensor.try_into_primitive::<burn::backend::wgpu::Wgpu>().ok()?;
    #[cfg(feature = "fusion")]
    let primitive = primitive.client.clone().resolve_tensor_float::<CubeBackend>(primitive);
    Some(primitive)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, DeviceKind, TensorData};

    use super::*;

    fn tensor(start: usize) -> Tensor<4> {
        let values: Vec<f32> = (start..start + 24).map(|value| value as f32).collect();
        Tensor::from_data(TensorData::new(values, [2, 3, 2, 2]), &Device::wgpu(DeviceKind::default()))
    }

    fn cube<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
        primitive(tensor).unwrap()
    }

    fn values(tensor: CubeTensor) -> Vec<f32> {
        burn::tensor::read_sync(CubeBackend::float_into_data(tensor)).unwrap().try_to_vec().unwrap()
    }

    #[test]
    fn tensors_lie_side_by_side_in_pooled_buffers() {
        let tensors = [0, 24, 48].map(|start| cube(tensor(start)));
        let held = tensors.each_ref().map(|tensor| Held::new(tensor).unwrap());
        // The tests of the module go through slices of one buffer because of this, and so do programs.
        assert!(held[1..].iter().any(|other| other.buffer == held[0].buffer && other.offset != held[0].offset));
    }

    #[test]
    fn the_order_of_a_view_is_that_of_its_memory() {
        assert_eq!(Order::of(&cube(tensor(0))), Some(Order::ChannelsFirst));
        assert_eq!(Order::of(&cube(tensor(0).permute([0, 3, 1, 2]))), Some(Order::ChannelsLast));
        assert_eq!(Order::of(&cube(tensor(0).swap_dims(2, 3))), None);
        // A single position lies in both orders, and so does a single channel.
        assert_eq!(Order::of(&cube(tensor(0).reshape([4, 1, 1, 6]).permute([0, 3, 1, 2]))), Some(Order::ChannelsFirst));
    }

    #[test]
    fn rearranging_keeps_values() {
        let view = tensor(0).swap_dims(2, 3);
        let want = view.clone().into_data().try_to_vec::<f32>().unwrap();
        for order in [Order::ChannelsFirst, Order::ChannelsLast] {
            let arranged = order.arrange(cube(view.clone()));
            assert_eq!(Order::of(&arranged), Some(order));
            assert_eq!(values(arranged), want, "{order:?}");
        }
    }
}
