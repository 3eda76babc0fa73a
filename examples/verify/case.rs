//! A case with its data: from the manifest's entry and the case's safetensors file or generated inputs.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;
use wgpu_batch_norm::{
    Activation, ActivationSource, BatchNormDescriptor, ChannelStatistics, ElementType, Problem, SegmentRunning,
    Segmentation, SequenceAxes, Shape,
};

use crate::compare::{Kind, Truth};
use crate::generator::Generator;
use crate::manifest::{Entry, Fields, layout};
use crate::storage;
use crate::tensors::Tensors;

/// Results in the layout of x.
const TENSORS: [&str; 4] = ["y", "dx", "dresidual", "folded_weight"];
/// Results with one value per channel, per instance (`save_…`), or per running value (`new_running_…`, `moments_…`).
const VECTORS: [&str; 14] = [
    "save_mean",
    "save_invstd",
    "save_var",
    "save_scale",
    "save_shift",
    "save_health",
    "new_running_mean",
    "new_running_var",
    "moments_count",
    "moments_mean",
    "moments_m2",
    "dweight",
    "dbias",
    "folded_bias",
];

/// More channels, or channels of segments, than any case needs.
const MAX_INSTANCES: u64 = 1 << 24;

/// Why a case is not run.
#[derive(Debug)]
pub enum Rejection {
    /// It needs something that is not built; the names of what is missing.
    Unsupported(String),
    /// It contradicts itself or the format, or the library refuses it.
    Malformed(String),
}

/// Malformed unless said otherwise.
impl From<String> for Rejection {
    fn from(message: String) -> Self {
        Self::Malformed(message)
    }
}

/// Which operations a case exercises.
#[derive(Clone, Copy, Debug, Default)]
pub struct Operations {
    pub forward_training: bool,
    pub backward_training: bool,
    pub forward_inference: bool,
    pub backward_inference: bool,
    /// Through training statistics, from y instead of x.
    pub backward_from_output: bool,
    /// Into the layer before; the tensor is its weights.
    pub fold: bool,
    /// The statistics of several batches.
    pub population: bool,
}

impl Operations {
    /// Whether one of them is of training.
    pub const fn trains(self) -> bool {
        self.forward_training || self.backward_training || self.backward_from_output
    }
}

/// A case with its data, widened to f32 from the types in which it is stored.
#[derive(Debug)]
pub struct Case {
    pub operations: Operations,
    pub descriptor: BatchNormDescriptor,
    /// In segments, if the case has any.
    pub shape: Shape,
    pub problem: Problem,
    pub segmentation: Segmentation,
    /// A flag for each position; false for padding.
    pub valid: Option<Vec<bool>>,
    /// The lengths that the flags follow from, if they do.
    pub lengths: Option<(Vec<u32>, SequenceAxes)>,
    /// `r_max` and `d_max` of batch renormalization.
    pub renormalization: Option<[f32; 2]>,
    /// The shapes of the batches that x comes in, for a population.
    pub batches: Vec<Shape>,
    /// The weights of the layer before, for folding.
    pub x: Vec<f32>,
    /// The bias of the layer before.
    pub layer_bias: Option<Vec<f32>>,
    pub residual: Option<Vec<f32>>,
    pub dy: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
    /// Running mean and variance.
    pub running: Option<(Vec<f32>, Vec<f32>)>,
    /// Batches seen before this one.
    pub batches_tracked: Option<u32>,
    /// Statistics that backward is given instead of those of x.
    pub given_statistics: Option<Vec<ChannelStatistics>>,
    pub truths: Vec<Truth>,
    /// The element of each sampled value.
    pub samples: Vec<usize>,
    /// Beyond what f32 can be asked for: reported, never failed.
    pub stretch: bool,
}

impl Case {
    /// Whether training forward runs: for its own results or for the statistics that backward needs.
    pub fn runs_forward_training(&self) -> bool {
        self.operations.trains() && (self.operations.forward_training || self.given_statistics.is_none())
    }

    /// Whether a truth tells of a result, so that it is worth asking for.
    pub fn expects(&self, tensor: &str) -> bool {
        self.truths.iter().any(|truth| truth.tensor == tensor)
    }

    /// How many batches training counts.
    pub fn counted_batches(&self) -> u32 {
        match self.descriptor.convention.segment_running {
            _ if self.segmentation.count() == 0 => 0,
            SegmentRunning::InTurn => self.segmentation.segments() as u32,
            SegmentRunning::Averaged | SegmentRunning::Separate => 1,
        }
    }

    /// What backward takes the activation's derivative from, one after the other: all that the activation has, where
    /// forward runs and so makes them. Without anything fused, none of them is read.
    pub fn sources(&self) -> &'static [ActivationSource] {
        let activation = self.descriptor.activation;
        let fused = activation != Activation::Identity || self.residual.is_some();
        let forward = self.runs_forward_training() || self.operations.forward_inference;
        if fused && forward && activation.is_piecewise_linear() {
            &[ActivationSource::Recompute, ActivationSource::Output, ActivationSource::Mask]
        } else {
            &[ActivationSource::Recompute]
        }
    }
}

impl Entry {
    /// Reads the case's data.
    ///
    /// # Errors
    /// [`Rejection`]: what is not built, or what is wrong with the case.
    pub fn load(&self, folder: &Path) -> Result<Case, Rejection> {
        self.load_from(|file| {
            let path = folder.join(file);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        })
    }

    /// As [`Entry::load`], from a file that `read` reads.
    pub fn load_from(&self, read: impl FnOnce(&str) -> Result<Vec<u8>, String>) -> Result<Case, Rejection> {
        let fields = Fields(self.fields.as_ref().map_err(Clone::clone)?);
        let unsupported = fields.unsupported()?;
        if !unsupported.is_empty() {
            return Err(Rejection::Unsupported(unsupported.join(" + ")));
        }
        let operations = fields.operations()?;
        let Some((rank, layout)) = layout(&fields.text("layout")) else { return Err(fields.invalid("layout")) };
        let element = fields.element("dtype").ok_or_else(|| fields.invalid("dtype"))?;
        let activation = fields.activation()?.ok_or_else(|| fields.invalid("activation"))?;
        let dims = fields.sizes("shape")?;
        if dims.len() != rank {
            return Err(fields.invalid("shape"));
        }
        let shape = fields.cut(Shape::new(&dims).map_err(|error| error.to_string())?)?;
        let problem = shape.problem(layout).map_err(|error| error.to_string())?;
        if problem.channels == 0 {
            return Err(Rejection::Unsupported("zero channels".into()));
        }
        // Memory goes by these even where there is no element, and so no file that would have to be as large.
        let instances = shape.segmentation(layout).map_err(|error| error.to_string())?.instances();
        if instances.max(u64::from(problem.channels)) > MAX_INSTANCES {
            return Err(format!("{instances} channels or channels of segments are too many").into());
        }
        // Stated twice in the manifest: a contradiction would mean that the case is read wrongly.
        let stated = [
            ("channel_axis", layout.channel_axis(rank) as u64),
            ("channels", u64::from(problem.channels)),
            ("reduction_count", problem.count()),
        ];
        for (name, value) in stated {
            if !fields.get(name).is_null() && fields.get(name).as_u64() != Some(value) {
                return Err(fields.invalid(name));
            }
        }
        let name = fields.get("file").as_str().ok_or_else(|| fields.invalid("file"))?;
        let bytes = read(name)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| format!("{name}: {error}"))?;
        let descriptor =
            BatchNormDescriptor { channels: problem.channels, layout, element, activation, ..Default::default() };
        read_case(&fields, operations, descriptor, (shape, problem), &Tensors(file))
    }
}

fn read_case(
    fields: &Fields<'_>,
    operations: Operations,
    descriptor: BatchNormDescriptor,
    (shape, problem): (Shape, Problem),
    tensors: &Tensors<'_>,
) -> Result<Case, Rejection> {
    if let Some(missing) = fields.texts("tensors")?.into_iter().find(|name| !tensors.has(name)) {
        return Err(format!("tensor `{missing}` is missing").into());
    }
    let flags = fields.texts("flags")?;
    let segmentation = shape.segmentation(descriptor.layout).map_err(|error| error.to_string())?;
    let missing = |name: &str| Rejection::Malformed(format!("tensor `{name}` is missing"));
    let vector = [problem.channels as usize];
    let samples = tensors.samples(problem)?;

    let element = descriptor.element;
    let input = |name: &str| -> Result<Option<Vec<f32>>, Rejection> {
        match fields.get("generator") {
            Value::Null => tensors.elements(name, element, shape.dimensions()),
            generator => generated_input(generator, name, (problem, element), &samples, tensors),
        }
    };
    // Stored without parameters, a case may still have running statistics.
    let parameter_element = fields.element("param_dtype").unwrap_or_default();
    let parameter = |name: &str| tensors.elements(name, parameter_element, &vector);
    let recorded = match fields.segment_running()? {
        SegmentRunning::Separate => [segmentation.instances() as usize],
        SegmentRunning::InTurn | SegmentRunning::Averaged => vector,
    };
    let running_values = |name: &str| tensors.elements(name, parameter_element, &recorded);
    let name = if operations.fold { "layer_weight" } else { "x" };
    let x = input(name)?.ok_or_else(|| missing(name))?;
    let dy = input("dy")?;
    let Operations { backward_training, backward_inference, backward_from_output, .. } = operations;
    let gradients = backward_training || backward_inference || backward_from_output;
    if dy.is_none() && gradients {
        return Err(missing("dy"));
    }

    let running = match (running_values("running_mean")?, running_values("running_var")?) {
        (Some(mean), Some(variance)) => Some((mean, variance)),
        (None, None) => None,
        (Some(_), None) => return Err(missing("running_var")),
        (None, Some(_)) => return Err(missing("running_mean")),
    };
    let reads_running = operations.forward_inference || backward_inference || operations.fold || operations.population;
    if running.is_none() && reads_running {
        return Err(missing("running_mean"));
    }

    let valid = tensors.flags("valid", problem.count())?;
    let lengths = fields.lengths()?;
    if lengths.is_some() && valid.is_none() {
        return Err(missing("valid"));
    }
    let renormalization = fields.renormalization()?;
    if renormalization.is_some() && running.is_none() {
        return Err(missing("running_mean"));
    }

    let mut statistics = None;
    if flags.contains(&"explicit_saved_stats") {
        let mean = tensors.f64("save_mean", &vector)?.ok_or_else(|| missing("save_mean"))?;
        let inverse = tensors.f64("save_invstd", &vector)?.ok_or_else(|| missing("save_invstd"))?;
        let epsilon = fields.number("eps")?;
        statistics = Some(mean.into_iter().zip(inverse).map(|given| given_statistics(given, epsilon)).collect());
    }

    let trains = operations.trains() && (operations.forward_training || statistics.is_none());
    let convention = fields.convention(segmentation, running.is_some() && trains)?;
    let case = Case {
        operations,
        batches: if operations.population { fields.batches()? } else { Vec::new() },
        x,
        layer_bias: parameter("layer_bias")?,
        residual: input("residual")?,
        dy,
        weight: parameter("weight")?,
        bias: parameter("bias")?,
        running,
        batches_tracked: fields.batches_tracked()?,
        truths: read_truths(
            fields,
            tensors,
            (&shape, recorded[0]),
            (segmentation, problem, element),
            (samples.len(), statistics.is_some()),
        )?,
        segmentation,
        valid,
        lengths,
        renormalization,
        given_statistics: statistics,
        samples,
        stretch: flags.contains(&"stretch"),
        descriptor: BatchNormDescriptor { convention, ..descriptor },
        shape,
        problem,
    };
    // A case without expected results must not pass.
    let needs: [(bool, &[&str]); 4] = [
        (operations.forward_training || operations.forward_inference, &["y", "save_health"]),
        (gradients, &["dx", "dweight", "dbias"]),
        (operations.fold, &["folded_weight"]),
        (operations.population, &["new_running_mean"]),
    ];
    for (_, names) in needs.into_iter().filter(|(needed, _)| *needed) {
        if !names.iter().any(|name| case.expects(name)) {
            return Err(missing(names[0]));
        }
    }
    Ok(case)
}

/// Statistics given as mean and `1/√(v + ε)`.
fn given_statistics((mean, inverse_deviation): (f64, f64), epsilon: f64) -> ChannelStatistics {
    let pivot = mean as f32;
    ChannelStatistics {
        pivot,
        offset: (mean - f64::from(pivot)) as f32,
        inverse_deviation: inverse_deviation as f32,
        variance: (inverse_deviation.powi(-2) - epsilon).max(0.0) as f32,
    }
}

/// A generated input, checked against the sums and samples that the case states; `None` when the case has none.
fn generated_input(
    generator: &Value,
    name: &str,
    (problem, element): (Problem, ElementType),
    samples: &[usize],
    tensors: &Tensors<'_>,
) -> Result<Option<Vec<f32>>, Rejection> {
    if generator[name].is_null() {
        return Ok(None);
    }
    let (values, sums) = Generator::parse(&generator[name])?.values(problem)?;
    let stated = &generator[format!("{name}_integer_sum_per_channel")];
    if !stated.is_null() {
        let stated: Option<Vec<i64>> = stated.as_array().and_then(|sums| sums.iter().map(Value::as_i64).collect());
        if stated.as_ref() != Some(&sums) {
            return Err(format!("generated {name}: the sums per channel differ from the stated ones").into());
        }
    } else if name == "x" {
        return Err("generator: `x_integer_sum_per_channel` is missing".to_owned().into());
    }
    if values.iter().any(|&value| storage::round(element, f64::from(value)) != f64::from(value)) {
        return Err(format!("generated {name}: not all values are exact in {element}").into());
    }
    if let Some(stated) = tensors.elements(&format!("{name}_sample"), element, &[samples.len()])?
        && samples.iter().zip(stated).any(|(&index, stated)| values[index] != stated)
    {
        return Err(format!("generated {name}: values differ from `{name}_sample`").into());
    }
    Ok(Some(values))
}

/// Every expected tensor of the case.
fn read_truths(
    fields: &Fields<'_>,
    tensors: &Tensors<'_>,
    (shape, recorded): (&Shape, usize),
    (segmentation, problem, element): (Segmentation, Problem, ElementType),
    (samples, statistics_are_given): (usize, bool),
) -> Result<Vec<Truth>, Rejection> {
    let vector = [problem.channels as usize];
    let mut truths = Vec::new();
    for tensor in TENSORS {
        let rtol = relative_tolerance(fields, tensor)?;
        let forms = [
            (tensor.to_owned(), Kind::Elements, shape.dimensions()),
            (format!("{tensor}_sample"), Kind::Samples, &[samples]),
            (format!("{tensor}_channel_sum"), Kind::ChannelSums, &vector),
            (format!("{tensor}_channel_sumsq"), Kind::ChannelSquares, &vector),
        ];
        for form in forms {
            truths.extend(tensors.truth(tensor, form, problem, (element, rtol))?);
        }
    }
    for tensor in VECTORS {
        // Given statistics are inputs, and an empty batch has none to save.
        if tensor.starts_with("save_") && (statistics_are_given || problem.count() == 0) {
            continue;
        }
        // The relative part is for results rounded to 16 bits; these are f32, also where the case stores its parameters
        // in 16 bits.
        let shape = match tensor {
            _ if tensor.starts_with("save_") => [segmentation.instances() as usize],
            _ if tensor.starts_with("new_running_") || tensor.starts_with("moments_") => [recorded],
            _ => vector,
        };
        let form = (tensor.to_owned(), Kind::Channels, shape.as_slice());
        truths.extend(tensors.truth(tensor, form, problem, (ElementType::F32, 0.0))?);
    }
    Ok(truths)
}

fn relative_tolerance(fields: &Fields<'_>, tensor: &str) -> Result<f64, Rejection> {
    match &fields.get("rtol")[tensor] {
        Value::Null => Ok(0.0),
        value => value.as_f64().filter(|rtol| (0.0..1.0).contains(rtol)).ok_or_else(|| fields.invalid("rtol")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_statistics_keep_the_mean_as_two_numbers() {
        let statistics = given_statistics((1.0 + 2_f64.powi(-30), 0.5), 1.0);
        assert_eq!((statistics.pivot, statistics.offset), (1.0, 2_f32.powi(-30)));
        assert_eq!((statistics.inverse_deviation, statistics.variance), (0.5, 3.0));
    }
}
