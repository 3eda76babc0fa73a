//! The tensors of a case's safetensors file.

use safetensors::{Dtype, SafeTensors};
use wgpu_batch_norm::{ElementType, Problem};

use crate::case::Rejection;
use crate::compare::{Kind, Truth};
use crate::storage;

/// The tensors of one file.
pub struct Tensors<'a>(pub SafeTensors<'a>);

impl Tensors<'_> {
    pub fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_ok()
    }

    /// The values of a tensor of type `dtype`, which has `N` bytes a value; `None` when the file has no such tensor.
    fn read<const N: usize, T>(
        &self,
        name: &str,
        (dtype, from_bytes): (Dtype, fn([u8; N]) -> T),
        shape: &[usize],
    ) -> Result<Option<Vec<T>>, Rejection> {
        let Ok(tensor) = self.0.tensor(name) else { return Ok(None) };
        if tensor.dtype() != dtype || tensor.shape() != shape {
            let (actual, actual_shape) = (tensor.dtype(), tensor.shape());
            let message = format!("`{name}` is {actual:?} {actual_shape:?}, expected {dtype:?} {shape:?}");
            return Err(Rejection::Malformed(message));
        }
        let (values, _) = tensor.data().as_chunks::<N>();
        Ok(Some(values.iter().map(|&bytes| from_bytes(bytes)).collect()))
    }

    /// The values of a tensor stored as `element`, widened.
    pub fn elements(&self, name: &str, element: ElementType, shape: &[usize]) -> Result<Option<Vec<f32>>, Rejection> {
        let sixteen = |dtype| -> Result<Option<Vec<f32>>, Rejection> {
            let bits = self.read(name, (dtype, u16::from_le_bytes), shape)?;
            Ok(bits.map(|bits| bits.into_iter().map(|bits| storage::widen(element, bits)).collect()))
        };
        match element {
            ElementType::F16 => sixteen(Dtype::F16),
            ElementType::Bf16 => sixteen(Dtype::BF16),
            _ => self.read(name, (Dtype::F32, f32::from_le_bytes), shape),
        }
    }

    pub fn f64(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f64>>, Rejection> {
        self.read(name, (Dtype::F64, f64::from_le_bytes), shape)
    }

    /// The flags of a tensor of bytes.
    pub fn flags(&self, name: &str, count: u64) -> Result<Option<Vec<bool>>, Rejection> {
        let bytes = self.read(name, (Dtype::U8, u8::from_le_bytes), &[count as usize])?;
        Ok(bytes.map(|bytes| bytes.into_iter().map(|byte| byte != 0).collect()))
    }

    /// The element indices of the sampled values; empty when the case has no samples.
    pub fn samples(&self, problem: Problem) -> Result<Vec<usize>, Rejection> {
        let Ok(tensor) = self.0.tensor("sample_index") else { return Ok(Vec::new()) };
        let &[count] = tensor.shape() else { return Err("`sample_index` is no list".to_owned().into()) };
        let indices = self.read("sample_index", (Dtype::I64, i64::from_le_bytes), &[count])?.unwrap_or_default();
        let index = |index: i64| {
            let inside = u64::try_from(index).ok().filter(|&index| index < problem.elements());
            inside.map(|index| index as usize).ok_or(format!("`sample_index` has {index}, out of range").into())
        };
        indices.into_iter().map(index).collect()
    }

    /// An expected tensor with its tolerances, one a channel or for each value of a vector; `None` when the case does not
    /// have it.
    pub fn truth(
        &self,
        tensor: &'static str,
        (name, kind, shape): (String, Kind, &[usize]),
        problem: Problem,
        (element, rtol): (ElementType, f64),
    ) -> Result<Option<Truth>, Rejection> {
        let Some(values) = self.f64(&name, shape)? else { return Ok(None) };
        let channels = if kind == Kind::Channels { values.len() } else { problem.channels as usize };
        let atol = match self.f64(&format!("atol.{tensor}"), &[channels])? {
            Some(atol) => atol,
            // Without elements nothing is computed, so nothing may differ.
            None if problem.count() == 0 => vec![0.0; channels],
            None => return Err(format!("tensor `atol.{tensor}` is missing").into()),
        };
        let tight = self.f64(&format!("tight.{tensor}"), &[channels])?;
        Ok(Some(Truth { name, tensor, kind, element, values, atol, tight, rtol }))
    }
}
