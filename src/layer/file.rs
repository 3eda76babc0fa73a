//! States in safetensors files, under PyTorch's names.

use std::borrow::Cow;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use super::state::{LayerState, RunningState};
use crate::Error;

const WEIGHT: &str = "weight";
const BIAS: &str = "bias";
const RUNNING_MEAN: &str = "running_mean";
const RUNNING_VARIANCE: &str = "running_var";
const BATCHES_TRACKED: &str = "num_batches_tracked";

/// A tensor of a state, ready for [`safetensors::serialize`] among the tensors of other layers.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for StateTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// # Safetensors
///
/// With the feature `safetensors`. The prefix is the path of the module in PyTorch, `layer1.0.bn2` for the tensors
/// `layer1.0.bn2.weight` and so on, and empty for a file that holds the state of one module alone.
///
/// | PyTorch | here | written as | read from |
/// |---|---|---|---|
/// | `weight` | `gamma` | F32 `[C]` | F16, BF16, F32 or F64 `[C]` |
/// | `bias` | `beta` | F32 `[C]` | the same |
/// | `running_mean` | `running.mean` | F32 `[C]` | the same |
/// | `running_var` | `running.variance` | F32 `[C]` | the same |
/// | `num_batches_tracked` | `running.batches_tracked` | I64 `[]` | I64, one value |
///
/// ```
/// use wgpu_batch_norm::{LayerState, RunningState};
/// let running = RunningState { mean: vec![0.0; 2], variance: vec![1.0; 2], batches_tracked: 7 };
/// let state = LayerState { gamma: Some(vec![0.5, 2.0]), beta: Some(vec![0.0; 2]), running: Some(running) };
/// let file = state.to_safetensors("stem.bn")?;
/// assert_eq!(LayerState::from_safetensors(&file, "stem.bn")?, state);
/// # Ok::<(), wgpu_batch_norm::Error>(())
/// ```
impl LayerState {
    /// Reads the state of one module from the bytes of a file, which may hold many more.
    ///
    /// What the module does not have (`affine=False`, `bias=False`, `track_running_stats=False`) is absent in the state; it
    /// must have something, or the prefix is taken for wrong. A counter that is missing counts as 0, as in PyTorch, whose old files have
    /// none. 16-bit values are exact in f32; F64 is rounded.
    ///
    /// # Errors
    /// [`Error::StateFile`], and as [`LayerState::from_tensors`].
    #[doc(alias = "load_state_dict")]
    pub fn from_safetensors(bytes: &[u8], prefix: &str) -> Result<Self, Error> {
        Self::from_tensors(&SafeTensors::deserialize(bytes).map_err(|error| unreadable(&error))?, prefix)
    }

    /// As [`LayerState::from_safetensors`], from a file whose header is read once for all of its layers.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] where a module has nothing, or one running statistic of two; [`Error::TensorType`],
    /// [`Error::TensorShape`]; [`Error::TensorValue`] for what is too large for an f32 or for the counter.
    pub fn from_tensors(tensors: &SafeTensors<'_>, prefix: &str) -> Result<Self, Error> {
        let vector = |part| {
            let name = name(prefix, part);
            find(tensors, &name).map(|view| read_vector(&name, &view)).transpose()
        };
        let (gamma, beta) = (vector(WEIGHT)?, vector(BIAS)?);
        let (mean, variance) = (vector(RUNNING_MEAN)?, vector(RUNNING_VARIANCE)?);
        let counter_name = name(prefix, BATCHES_TRACKED);
        let counter = find(tensors, &counter_name).map(|view| read_counter(&counter_name, &view)).transpose()?;
        let missing = |part| Error::MissingTensor { name: name(prefix, part) };
        let running = match (mean, variance) {
            (Some(mean), Some(variance)) => {
                Some(RunningState { mean, variance, batches_tracked: counter.unwrap_or(0) })
            }
            (None, None) if counter.is_none() => None,
            (None, _) => return Err(missing(RUNNING_MEAN)),
            (Some(_), None) => return Err(missing(RUNNING_VARIANCE)),
        };
        if gamma.is_none() && beta.is_none() && running.is_none() {
            return Err(missing(WEIGHT));
        }
        Ok(Self { gamma, beta, running })
    }

    /// The bytes of a file with this state alone, byte for byte as PyTorch's `safetensors.torch.save_file` writes it.
    ///
    /// # Errors
    /// [`Error::StateFile`] for a prefix that is longer than a header may be.
    pub fn to_safetensors(&self, prefix: &str) -> Result<Vec<u8>, Error> {
        safetensors::serialize(self.tensors(prefix), None).map_err(|error| unreadable(&error))
    }

    /// The tensors of the state with their names, for a file that holds other layers too.
    ///
    /// ```
    /// use wgpu_batch_norm::{LayerState, safetensors};
    /// let [first, second] = [0.5, 2.0].map(|gamma| LayerState { gamma: Some(vec![gamma; 3]), ..Default::default() });
    /// let tensors = first.tensors("bn1").into_iter().chain(second.tensors("bn2"));
    /// let file = safetensors::serialize(tensors, None).unwrap();
    /// assert_eq!(LayerState::from_safetensors(&file, "bn2")?, second);
    /// # Ok::<(), wgpu_batch_norm::Error>(())
    /// ```
    #[must_use]
    pub fn tensors(&self, prefix: &str) -> Vec<(String, StateTensor)> {
        let vector = |part, values: &[f32]| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name(prefix, part), StateTensor { dtype: Dtype::F32, shape: vec![values.len()], bytes })
        };
        let mut tensors = Vec::new();
        tensors.extend(self.gamma.as_deref().map(|values| vector(WEIGHT, values)));
        tensors.extend(self.beta.as_deref().map(|values| vector(BIAS, values)));
        if let Some(RunningState { mean, variance, batches_tracked }) = &self.running {
            let bytes = i64::from(*batches_tracked).to_le_bytes().to_vec();
            tensors.extend([
                vector(RUNNING_MEAN, mean),
                vector(RUNNING_VARIANCE, variance),
                (name(prefix, BATCHES_TRACKED), StateTensor { dtype: Dtype::I64, shape: Vec::new(), bytes }),
            ]);
        }
        tensors
    }
}

fn name(prefix: &str, part: &str) -> String {
    match prefix.strip_suffix('.').unwrap_or(prefix) {
        "" => part.to_owned(),
        prefix => format!("{prefix}.{part}"),
    }
}

fn find<'t>(tensors: &SafeTensors<'t>, name: &str) -> Option<TensorView<'t>> {
    tensors.tensor(name).ok()
}

fn unreadable(error: &SafeTensorError) -> Error {
    Error::StateFile { message: error.to_string() }
}

fn read_vector(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, Error> {
    if view.shape().len() != 1 {
        let (name, shape) = (name.to_owned(), view.shape().to_vec());
        return Err(Error::TensorShape { name, shape, expected: "one dimension, the channels" });
    }
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Dtype::F16 => Ok(data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
        Dtype::BF16 => Ok(data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
        Dtype::F64 => {
            let narrow = |(index, bytes): (usize, &[u8; 8])| {
                let value = f64::from_le_bytes(*bytes);
                let narrowed = value as f32;
                if value.is_finite() && !narrowed.is_finite() {
                    return Err(Error::TensorValue { name: name.to_owned(), index, target: "f32" });
                }
                Ok(narrowed)
            };
            data.as_chunks().0.iter().enumerate().map(narrow).collect()
        }
        other => Err(wrong_type(name, other, "F16, BF16, F32 or F64")),
    }
}

fn read_counter(name: &str, view: &TensorView<'_>) -> Result<u32, Error> {
    if view.dtype() != Dtype::I64 {
        return Err(wrong_type(name, view.dtype(), "I64"));
    }
    match view.data().as_chunks().0 {
        [bytes] => u32::try_from(i64::from_le_bytes(*bytes)).map_err(|_| Error::TensorValue {
            name: name.to_owned(),
            index: 0,
            target: "u32",
        }),
        _ => Err(Error::TensorShape { name: name.to_owned(), shape: view.shape().to_vec(), expected: "one value" }),
    }
}

fn wrong_type(name: &str, actual: Dtype, expected: &'static str) -> Error {
    Error::TensorType { name: name.to_owned(), actual: format!("{actual:?}"), expected }
}
