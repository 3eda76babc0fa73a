//! Reads a folder of cases: the manifest, and for each case its safetensors file or its generated inputs.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use wgpu_batch_norm::{
    BatchNormDescriptor, ChannelStatistics, Convention, Layout, Momentum, OneSamplePolicy, Problem, RunningVariance,
    Shape,
};

use crate::compare::{Kind, Truth};
use crate::generator::Generator;

/// Results in the layout of x.
const TENSORS: [&str; 3] = ["y", "dx", "dresidual"];
/// Results with one value per channel.
const VECTORS: [&str; 7] =
    ["save_mean", "save_invstd", "save_var", "new_running_mean", "new_running_var", "dweight", "dbias"];

/// Every tensor that is read or compared, but for those with a prefix.
const KNOWN_TENSORS: [&str; 24] = [
    "x",
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "dy",
    "y",
    "save_mean",
    "save_invstd",
    "save_var",
    "new_running_mean",
    "new_running_var",
    "dx",
    "dweight",
    "dbias",
    "x_sample",
    "dy_sample",
    "y_sample",
    "dx_sample",
    "sample_index",
    "y_channel_sum",
    "y_channel_sumsq",
    "dx_channel_sum",
    "dx_channel_sumsq",
];

/// One case of the manifest, not loaded yet.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub source: String,
    pub operation: String,
    /// The manifest's fields, or why they could not be read.
    fields: Result<Map<String, Value>, String>,
}

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
}

/// A case with its data.
#[derive(Debug)]
pub struct Case {
    pub operations: Operations,
    pub descriptor: BatchNormDescriptor,
    pub shape: Shape,
    pub problem: Problem,
    pub x: Vec<f32>,
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
        let Operations { forward_training, backward_training, .. } = self.operations;
        forward_training || backward_training && self.given_statistics.is_none()
    }
}

/// Reads the manifest of a folder.
///
/// # Errors
/// A message when there is no manifest or it is no list. A case that cannot be read becomes an entry that says so.
pub fn read_manifest(folder: &Path) -> Result<Vec<Entry>, String> {
    let path = folder.join("manifest.json");
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let text = quote_constants(&text);
    match serde_json::from_str(&text) {
        Ok(Value::Array(cases)) => Ok(cases.into_iter().enumerate().map(|(i, case)| entry(i + 1, Ok(case))).collect()),
        Ok(_) => Err(format!("{}: not a JSON array", path.display())),
        // One case per line, so that one broken case does not hide the others.
        Err(error) => {
            if !text.trim_start().starts_with('[') {
                return Err(format!("{}: {error}", path.display()));
            }
            let line = |line: &str| line.trim().trim_start_matches('[').trim_end_matches([',', ']']).trim().to_owned();
            let lines = text.lines().map(line).enumerate().filter(|(_, line)| !line.is_empty());
            let entries: Vec<_> = lines.map(|(i, line)| entry(i + 1, serde_json::from_str(&line))).collect();
            if entries.is_empty() { Err(format!("{}: {error}", path.display())) } else { Ok(entries) }
        }
    }
}

/// Puts quotes around the bare NaN and Infinity that some writers emit, so that only the case that uses one fails.
fn quote_constants(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(character) = rest.chars().next() {
        let constant = ["NaN", "Infinity", "-Infinity"].into_iter().find(|constant| rest.starts_with(constant));
        let length = match constant {
            Some(constant) if !in_string => {
                quoted.extend(["\"", constant, "\""]);
                constant.len()
            }
            _ => {
                in_string ^= character == '"';
                let escaped = rest[character.len_utf8()..].chars().next().filter(|_| in_string && character == '\\');
                let length = character.len_utf8() + escaped.map_or(0, char::len_utf8);
                quoted.push_str(&rest[..length]);
                length
            }
        };
        rest = &rest[length..];
    }
    quoted
}

fn entry(position: usize, case: serde_json::Result<Value>) -> Entry {
    let fields = match case {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("the manifest's entry is no JSON object".to_owned()),
        Err(error) => Err(format!("the manifest's entry is not valid JSON: {error}")),
    };
    let text = |name: &str| fields.as_ref().ok().and_then(|fields| fields.get(name)?.as_str()).map(str::to_owned);
    Entry {
        name: text("name").unwrap_or_else(|| format!("entry {position} of the manifest")),
        source: text("source").unwrap_or_else(|| "unknown".into()),
        operation: text("op").unwrap_or_else(|| "unknown".into()),
        fields,
    }
}

/// The manifest's fields of one case.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    /// The field; null when it is absent.
    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    fn invalid(&self, name: &str) -> Rejection {
        Rejection::Malformed(match self.get(name) {
            Value::Null => format!("manifest: `{name}` is missing"),
            value => format!("manifest: `{name}` is {value}"),
        })
    }

    /// The field as text; another value as it is written.
    fn text(&self, name: &str) -> String {
        self.get(name).as_str().map_or_else(|| self.get(name).to_string(), str::to_owned)
    }

    fn number(&self, name: &str) -> Result<f64, Rejection> {
        self.get(name).as_f64().ok_or_else(|| self.invalid(name))
    }

    /// The texts of a list; empty when the field is absent.
    fn texts(&self, name: &str) -> Result<Vec<&str>, Rejection> {
        match self.get(name) {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => {
                values.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(|| self.invalid(name))
            }
            _ => Err(self.invalid(name)),
        }
    }

    fn shape(&self) -> Result<Vec<usize>, Rejection> {
        let dimension = |value: &Value| value.as_u64().and_then(|value| usize::try_from(value).ok());
        let values = self.get("shape").as_array().and_then(|values| values.iter().map(dimension).collect());
        values.ok_or_else(|| self.invalid("shape"))
    }

    /// Everything the case needs that is not built, by name.
    fn unsupported(&self) -> Result<Vec<String>, Rejection> {
        if let Some(name) = ["dtype", "layout", "op"].into_iter().find(|name| self.get(name).is_null()) {
            return Err(self.invalid(name));
        }
        let mut names = Vec::new();
        match self.text("dtype").as_str() {
            "f32" => {}
            dtype => names.push(format!("element type {dtype}")),
        }
        // null: the case has no parameters.
        match self.text("param_dtype").as_str() {
            "f32" | "null" => {}
            dtype => names.push(format!("{dtype} parameters")),
        }
        match self.text("activation").as_str() {
            "null" => {}
            activation => names.push(format!("activation fusion: {activation}")),
        }
        let known = |tensor: &str| match tensor.split_once('.') {
            Some((prefix, _)) => ["atol", "tight", "native", "upstream"].contains(&prefix),
            None => KNOWN_TENSORS.contains(&tensor),
        };
        for tensor in self.texts("tensors")? {
            match tensor {
                "residual" => names.push("residual fusion".into()),
                "dresidual" => {}
                // An input that is not read, or a result that is not compared, would make a pass mean nothing.
                tensor if !known(tensor) => names.push(format!("tensor `{tensor}`")),
                _ => {}
            }
        }
        if layout(&self.text("layout")).is_none() {
            names.push(format!("layout {}", self.text("layout")));
        }
        match self.text("running_var_correction").as_str() {
            "unbiased" | "biased" | "null" => {}
            correction => names.push(format!("running variance correction {correction}")),
        }
        Ok(names)
    }

    /// The operations to run, or the names of unknown ones.
    fn operations(&self) -> Result<Operations, Rejection> {
        let mut listed = self.texts("ops")?;
        let widest = self.text("op");
        if !listed.contains(&widest.as_str()) {
            listed.push(&widest);
        }
        let mut operations = Operations::default();
        for operation in listed {
            match operation {
                "forward_training" => operations.forward_training = true,
                "backward_training" => operations.backward_training = true,
                "forward_inference" => operations.forward_inference = true,
                "backward_inference" => operations.backward_inference = true,
                other => return Err(Rejection::Unsupported(format!("operation {other}"))),
            }
        }
        let training = operations.forward_training || operations.backward_training;
        let inference = operations.forward_inference || operations.backward_inference;
        if training && inference {
            return Err(Rejection::Malformed("both training and inference, but only one set of results".into()));
        }
        Ok(operations)
    }

    fn batches_tracked(&self) -> Result<Option<u32>, Rejection> {
        match self.get("num_batches_tracked") {
            Value::Null => Ok(None),
            value => {
                let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
                count.map(Some).ok_or_else(|| self.invalid("num_batches_tracked"))
            }
        }
    }

    /// The convention; the momentum matters only where running statistics are updated.
    fn convention(&self, problem: Problem, updates_running: bool) -> Result<Convention, Rejection> {
        let momentum = match (self.get("momentum"), self.get("num_batches_tracked")) {
            _ if !updates_running => Convention::pytorch().momentum,
            (Value::Null, Value::Number(_)) => Momentum::CumulativeAverage,
            (_, _) if !self.get("effective_momentum").is_null() => {
                Momentum::WeightOfNew(self.number("effective_momentum")?)
            }
            (_, _) => Momentum::WeightOfNew(self.number("momentum")?),
        };
        let running_variance = match self.text("running_var_correction").as_str() {
            "biased" => RunningVariance::Population,
            _ => RunningVariance::Unbiased,
        };
        let one_sample =
            if problem.count() == 1 { OneSamplePolicy::PopulationVariance } else { OneSamplePolicy::default() };
        let epsilon = self.number("eps")?;
        Ok(Convention { epsilon, momentum, running_variance, one_sample, ..Convention::pytorch() })
    }
}

/// The rank and the layout of a layout's name.
fn layout(name: &str) -> Option<(usize, Layout)> {
    match name {
        "NC" | "NCL" | "NCHW" | "NCDHW" => Some((name.len(), Layout::ChannelsFirst)),
        "NLC" | "NHWC" | "NDHWC" => Some((name.len(), Layout::ChannelsLast)),
        _ => None,
    }
}

/// The tensors of one file.
struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    fn has(&self, name: &str) -> bool {
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

    fn f32(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, Rejection> {
        self.read(name, (Dtype::F32, f32::from_le_bytes), shape)
    }

    fn f64(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f64>>, Rejection> {
        self.read(name, (Dtype::F64, f64::from_le_bytes), shape)
    }

    /// The element indices of the sampled values; empty when the case has no samples.
    fn samples(&self, problem: Problem) -> Result<Vec<usize>, Rejection> {
        let Ok(tensor) = self.0.tensor("sample_index") else { return Ok(Vec::new()) };
        let &[count] = tensor.shape() else { return Err("`sample_index` is no list".to_owned().into()) };
        let indices = self.read("sample_index", (Dtype::I64, i64::from_le_bytes), &[count])?.unwrap_or_default();
        let index = |index: i64| {
            let inside = u64::try_from(index).ok().filter(|&index| index < problem.elements());
            inside.map(|index| index as usize).ok_or(format!("`sample_index` has {index}, out of range").into())
        };
        indices.into_iter().map(index).collect()
    }

    /// An expected tensor with its tolerances; `None` when the case does not have it.
    fn truth(
        &self,
        tensor: &'static str,
        (name, kind, shape): (String, Kind, &[usize]),
        problem: Problem,
        rtol: f64,
    ) -> Result<Option<Truth>, Rejection> {
        let Some(values) = self.f64(&name, shape)? else { return Ok(None) };
        let channels = problem.channels as usize;
        let atol = match self.f64(&format!("atol.{tensor}"), &[channels])? {
            Some(atol) => atol,
            // Without elements nothing is computed, so nothing may differ.
            None if problem.count() == 0 => vec![0.0; channels],
            None => return Err(format!("tensor `atol.{tensor}` is missing").into()),
        };
        let tight = self.f64(&format!("tight.{tensor}"), &[channels])?;
        Ok(Some(Truth { name, tensor, kind, values, atol, tight, rtol }))
    }
}

impl Entry {
    /// Reads the case's data.
    ///
    /// # Errors
    /// [`Rejection`]: what is not built, or what is wrong with the case.
    pub fn load(&self, folder: &Path) -> Result<Case, Rejection> {
        let fields = Fields(self.fields.as_ref().map_err(Clone::clone)?);
        let unsupported = fields.unsupported()?;
        if !unsupported.is_empty() {
            return Err(Rejection::Unsupported(unsupported.join(" + ")));
        }
        let operations = fields.operations()?;
        let Some((rank, layout)) = layout(&fields.text("layout")) else { return Err(fields.invalid("layout")) };
        let dims = fields.shape()?;
        if dims.len() != rank {
            return Err(fields.invalid("shape"));
        }
        let shape = Shape::new(&dims).map_err(|error| error.to_string())?;
        let problem = shape.problem(layout).map_err(|error| error.to_string())?;
        if problem.channels == 0 {
            return Err(Rejection::Unsupported("zero channels".into()));
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
        let path = folder.join(fields.get("file").as_str().ok_or_else(|| fields.invalid("file"))?);
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        read_case(&fields, operations, (shape, layout, problem), &Tensors(file))
    }
}

fn read_case(
    fields: &Fields<'_>,
    operations: Operations,
    (shape, layout, problem): (Shape, Layout, Problem),
    tensors: &Tensors<'_>,
) -> Result<Case, Rejection> {
    if tensors.has("residual") {
        return Err(Rejection::Unsupported("residual fusion".into()));
    }
    if let Some(missing) = fields.texts("tensors")?.into_iter().find(|name| !tensors.has(name)) {
        return Err(format!("tensor `{missing}` is missing").into());
    }
    let flags = fields.texts("flags")?;
    let missing = |name: &str| Rejection::Malformed(format!("tensor `{name}` is missing"));
    let vector = [problem.channels as usize];
    let samples = tensors.samples(problem)?;

    let input = |name: &str| -> Result<Option<Vec<f32>>, Rejection> {
        match fields.get("generator") {
            Value::Null => tensors.f32(name, shape.dimensions()),
            generator => generated_input(generator, name, problem, &samples, tensors),
        }
    };
    let x = input("x")?.ok_or_else(|| missing("x"))?;
    let dy = input("dy")?;
    if dy.is_none() && (operations.backward_training || operations.backward_inference) {
        return Err(missing("dy"));
    }

    let running = match (tensors.f32("running_mean", &vector)?, tensors.f32("running_var", &vector)?) {
        (Some(mean), Some(variance)) => Some((mean, variance)),
        (None, None) => None,
        (Some(_), None) => return Err(missing("running_var")),
        (None, Some(_)) => return Err(missing("running_mean")),
    };
    if running.is_none() && (operations.forward_inference || operations.backward_inference) {
        return Err(missing("running_mean"));
    }

    let mut statistics = None;
    if flags.contains(&"explicit_saved_stats") {
        let mean = tensors.f64("save_mean", &vector)?.ok_or_else(|| missing("save_mean"))?;
        let inverse = tensors.f64("save_invstd", &vector)?.ok_or_else(|| missing("save_invstd"))?;
        let epsilon = fields.number("eps")?;
        statistics = Some(mean.into_iter().zip(inverse).map(|given| given_statistics(given, epsilon)).collect());
    }

    let trains = operations.forward_training || operations.backward_training && statistics.is_none();
    let convention = fields.convention(problem, running.is_some() && trains)?;
    let case = Case {
        operations,
        descriptor: BatchNormDescriptor { label: None, channels: problem.channels, layout, convention },
        x,
        dy,
        weight: tensors.f32("weight", &vector)?,
        bias: tensors.f32("bias", &vector)?,
        running,
        batches_tracked: fields.batches_tracked()?,
        truths: read_truths(fields, tensors, &shape, problem, (samples.len(), statistics.is_some()))?,
        given_statistics: statistics,
        samples,
        stretch: flags.contains(&"stretch"),
        shape,
        problem,
    };
    // A case without expected results must not pass.
    let has = |names: &[&str]| case.truths.iter().any(|truth| names.contains(&truth.tensor));
    if (operations.forward_training || operations.forward_inference) && !has(&["y"]) {
        return Err(missing("y"));
    }
    if (operations.backward_training || operations.backward_inference) && !has(&["dx", "dweight", "dbias"]) {
        return Err(missing("dx"));
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
    problem: Problem,
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
    if let Some(stated) = tensors.f32(&format!("{name}_sample"), &[samples.len()])?
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
    shape: &Shape,
    problem: Problem,
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
            truths.extend(tensors.truth(tensor, form, problem, rtol)?);
        }
    }
    for tensor in VECTORS {
        // Given statistics are inputs, and an empty batch has none to save.
        if tensor.starts_with("save_") && (statistics_are_given || problem.count() == 0) {
            continue;
        }
        let rtol = relative_tolerance(fields, tensor)?;
        truths.extend(tensors.truth(tensor, (tensor.to_owned(), Kind::Channels, &vector), problem, rtol)?);
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
    fn bare_constants_are_quoted_outside_of_texts_only() {
        let text = r#"[{"a": NaN, "b": -Infinity, "c\"NaN": "Infinity é \\", "d": Infinity}]"#;
        let expected = r#"[{"a": "NaN", "b": "-Infinity", "c\"NaN": "Infinity é \\", "d": "Infinity"}]"#;
        assert_eq!(quote_constants(text), expected);
    }

    #[test]
    fn layouts_are_read_by_name() {
        assert_eq!(layout("NC"), Some((2, Layout::ChannelsFirst)));
        assert_eq!(layout("NDHWC"), Some((5, Layout::ChannelsLast)));
        assert_eq!(layout("CHWN"), None);
    }

    #[test]
    fn what_is_not_built_is_named() {
        let names =
            |text: &str| Fields(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap()).unsupported();
        let all = r#"{"op": "forward_training", "dtype": "f16", "param_dtype": "f16", "activation": "gelu", "tensors": ["residual"],
            "layout": "CN", "running_var_correction": 7}"#;
        let expected = [
            "element type f16",
            "f16 parameters",
            "activation fusion: gelu",
            "residual fusion",
            "layout CN",
            "running variance correction 7",
        ];
        assert_eq!(names(all).unwrap(), expected);
        assert!(names(r#"{"op": "forward_training", "dtype": null, "layout": "NC"}"#).is_err());
        assert!(
            names(r#"{"op": "forward_training", "dtype": "f32", "param_dtype": null, "layout": "NHWC"}"#)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn given_statistics_keep_the_mean_as_two_numbers() {
        let statistics = given_statistics((1.0 + 2_f64.powi(-30), 0.5), 1.0);
        assert_eq!((statistics.pivot, statistics.offset), (1.0, 2_f32.powi(-30)));
        assert_eq!((statistics.inverse_deviation, statistics.variance), (0.5, 3.0));
    }
}
