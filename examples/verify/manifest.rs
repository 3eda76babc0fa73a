//! Reads the manifest: the list of cases, and what its fields say of each.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use wgpu_batch_norm::{
    Activation, Convention, ElementType, Layout, Momentum, NonFinitePolicy, OneSamplePolicy, RunningVariance,
    SegmentRunning, Segmentation, SequenceAxes, Shape,
};

use crate::case::{Operations, Rejection};

/// Every tensor that is read or compared, but for those with a prefix.
const KNOWN_TENSORS: [&str; 37] = [
    "x",
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "residual",
    "dy",
    "valid",
    "y",
    "save_mean",
    "save_invstd",
    "save_var",
    "save_scale",
    "save_shift",
    "new_running_mean",
    "new_running_var",
    "dx",
    "dresidual",
    "dweight",
    "dbias",
    "x_sample",
    "dy_sample",
    "y_sample",
    "dx_sample",
    "save_health",
    "layer_weight",
    "layer_bias",
    "folded_weight",
    "folded_bias",
    "moments_count",
    "moments_mean",
    "moments_m2",
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
    pub fields: Result<Map<String, Value>, String>,
}

/// Reads the manifest of a folder.
///
/// # Errors
/// A message when there is no manifest or it is no list. A case that cannot be read becomes an entry that says so.
pub fn read_manifest(folder: &Path) -> Result<Vec<Entry>, String> {
    let path = folder.join("manifest.json");
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse_manifest(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// The entries of a manifest.
///
/// # Errors
/// A message when it is no list.
pub fn parse_manifest(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let text = String::from_utf8_lossy(bytes);
    let text = quote_constants(&text);
    match serde_json::from_str(&text) {
        Ok(Value::Array(cases)) => Ok(cases.into_iter().enumerate().map(|(i, case)| entry(i + 1, Ok(case))).collect()),
        Ok(_) => Err("not a JSON array".into()),
        // One case per line, so that one broken case does not hide the others.
        Err(error) => {
            if !text.trim_start().starts_with('[') {
                return Err(error.to_string());
            }
            let line = |line: &str| line.trim().trim_start_matches('[').trim_end_matches([',', ']']).trim().to_owned();
            let lines = text.lines().map(line).enumerate().filter(|(_, line)| !line.is_empty());
            let entries: Vec<_> = lines.map(|(i, line)| entry(i + 1, serde_json::from_str(&line))).collect();
            if entries.is_empty() { Err(error.to_string()) } else { Ok(entries) }
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
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl Fields<'_> {
    /// The field; null when it is absent.
    pub fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    pub fn invalid(&self, name: &str) -> Rejection {
        Rejection::Malformed(match self.get(name) {
            Value::Null => format!("manifest: `{name}` is missing"),
            value => format!("manifest: `{name}` is {value}"),
        })
    }

    /// The field as text; another value as it is written.
    pub fn text(&self, name: &str) -> String {
        self.get(name).as_str().map_or_else(|| self.get(name).to_string(), str::to_owned)
    }

    pub fn number(&self, name: &str) -> Result<f64, Rejection> {
        self.get(name).as_f64().ok_or_else(|| self.invalid(name))
    }

    /// The texts of a list; empty when the field is absent.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>, Rejection> {
        match self.get(name) {
            Value::Null => Ok(Vec::new()),
            Value::Array(values) => {
                values.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(|| self.invalid(name))
            }
            _ => Err(self.invalid(name)),
        }
    }

    /// The numbers of a list.
    pub fn sizes(&self, name: &str) -> Result<Vec<usize>, Rejection> {
        let size = |value: &Value| value.as_u64().and_then(|value| usize::try_from(value).ok());
        let values = self.get(name).as_array().and_then(|values| values.iter().map(size).collect());
        values.ok_or_else(|| self.invalid(name))
    }

    /// The shapes of the batches that a population comes in: sizes along the first dimension, which add up to the whole.
    pub fn batches(&self) -> Result<Vec<Shape>, Rejection> {
        let (sizes, mut dimensions) = (self.sizes("batches")?, self.sizes("shape")?);
        // Sizes may be anything, their sum beyond any number among them.
        let whole = sizes.iter().try_fold(0_usize, |sum, &size| sum.checked_add(size));
        if whole.is_none() || whole.as_ref() != dimensions.first() {
            return Err(self.invalid("batches"));
        }
        let batch = |size| {
            dimensions[0] = size;
            self.cut(Shape::new(&dimensions).map_err(|error| error.to_string())?)
        };
        sizes.into_iter().map(batch).collect()
    }

    /// A member of a field that is an object.
    fn index(&self, name: &str, member: &str) -> Result<usize, Rejection> {
        let index = self.get(name)[member].as_u64().and_then(|index| usize::try_from(index).ok());
        index.ok_or_else(|| self.invalid(name))
    }

    /// The shape cut into the segments that the case states.
    pub fn cut(&self, shape: Shape) -> Result<Shape, Rejection> {
        let cut = match (self.get("segments"), self.get("segments")["kind"].as_str()) {
            (Value::Null, _) => return Ok(shape),
            (_, Some("sub_batches")) => shape.with_sub_batches(self.index("segments", "count")?),
            (_, Some("along")) => shape.with_segments_along(self.index("segments", "axis")?),
            _ => return Err(self.invalid("segments")),
        };
        cut.map_err(|error| error.to_string().into())
    }

    /// The lengths of padded sequences, and where sequences and steps stand.
    pub fn lengths(&self) -> Result<Option<(Vec<u32>, SequenceAxes)>, Rejection> {
        if self.get("lengths").is_null() {
            return Ok(None);
        }
        let length = |value: &Value| value.as_u64().and_then(|length| u32::try_from(length).ok());
        let lengths = self.get("lengths")["values"].as_array().and_then(|values| values.iter().map(length).collect());
        let axes = SequenceAxes { sequence: self.index("lengths", "sequence")?, step: self.index("lengths", "step")? };
        Ok(Some((lengths.ok_or_else(|| self.invalid("lengths"))?, axes)))
    }

    /// `r_max` and `d_max` of batch renormalization.
    pub fn renormalization(&self) -> Result<Option<[f32; 2]>, Rejection> {
        let field = self.get("renormalization");
        let limit = |name: &str| field[name].as_f64().map(|limit| limit as f32);
        match (field, limit("r_max"), limit("d_max")) {
            (Value::Null, ..) => Ok(None),
            (_, Some(r_max), Some(d_max)) => Ok(Some([r_max, d_max])),
            _ => Err(self.invalid("renormalization")),
        }
    }

    /// What becomes of the running statistics of segments.
    pub fn segment_running(&self) -> Result<SegmentRunning, Rejection> {
        match self.get("segment_running").as_str() {
            None if self.get("segment_running").is_null() => Ok(SegmentRunning::default()),
            Some("in_turn") => Ok(SegmentRunning::InTurn),
            Some("averaged") => Ok(SegmentRunning::Averaged),
            Some("separate") => Ok(SegmentRunning::Separate),
            _ => Err(self.invalid("segment_running")),
        }
    }

    /// What becomes of running statistics where a batch is not finite.
    fn non_finite(&self) -> Result<NonFinitePolicy, Rejection> {
        match self.get("non_finite").as_str() {
            None if self.get("non_finite").is_null() => Ok(NonFinitePolicy::default()),
            Some("update") => Ok(NonFinitePolicy::Update),
            Some("skip_running_update") => Ok(NonFinitePolicy::SkipRunningUpdate),
            _ => Err(self.invalid("non_finite")),
        }
    }

    /// The element type that a field names; `None` for one that is not built.
    pub fn element(&self, name: &str) -> Option<ElementType> {
        let text = self.text(name);
        ElementType::ALL.into_iter().find(|element| element.to_string() == text)
    }

    /// The activation, null for none; `None` for one that is not built.
    pub fn activation(&self) -> Result<Option<Activation>, Rejection> {
        Ok(Some(match self.text("activation").as_str() {
            "null" => Activation::Identity,
            "relu" => Activation::Relu,
            "leaky_relu" => Activation::LeakyRelu { slope: self.number("slope")? },
            "silu" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "gelu_tanh" => Activation::GeluTanh,
            _ => return Ok(None),
        }))
    }

    /// Everything the case needs that is not built, by name.
    pub fn unsupported(&self) -> Result<Vec<String>, Rejection> {
        if let Some(name) = ["dtype", "layout", "op"].into_iter().find(|name| self.get(name).is_null()) {
            return Err(self.invalid(name));
        }
        let mut names = Vec::new();
        if self.element("dtype").is_none() {
            names.push(format!("element type {}", self.text("dtype")));
        }
        // null: the case has no parameters.
        if !self.get("param_dtype").is_null() && self.element("param_dtype").is_none() {
            names.push(format!("{} parameters", self.text("param_dtype")));
        }
        if self.activation()?.is_none() {
            names.push(format!("activation {}", self.text("activation")));
        }
        let known = |tensor: &str| match tensor.split_once('.') {
            Some((prefix, _)) => ["atol", "tight", "native", "upstream"].contains(&prefix),
            None => KNOWN_TENSORS.contains(&tensor),
        };
        for tensor in self.texts("tensors")? {
            // An input that is not read, or a result that is not compared, would make a pass mean nothing.
            if !known(tensor) {
                names.push(format!("tensor `{tensor}`"));
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
    pub fn operations(&self) -> Result<Operations, Rejection> {
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
                "backward_from_output" => operations.backward_from_output = true,
                "fold" => operations.fold = true,
                "population" => operations.population = true,
                other => return Err(Rejection::Unsupported(format!("operation {other}"))),
            }
        }
        let Operations { fold, population, .. } = operations;
        let inference = operations.forward_inference || operations.backward_inference;
        if [operations.trains(), inference, fold, population].into_iter().filter(|&some| some).count() > 1 {
            return Err(Rejection::Malformed("operations of several kinds, but only one set of results".into()));
        }
        Ok(operations)
    }

    pub fn batches_tracked(&self) -> Result<Option<u32>, Rejection> {
        match self.get("num_batches_tracked") {
            Value::Null => Ok(None),
            value => {
                let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
                count.map(Some).ok_or_else(|| self.invalid("num_batches_tracked"))
            }
        }
    }

    /// The convention; the momentum matters only where running statistics are updated.
    pub fn convention(&self, segmentation: Segmentation, updates_running: bool) -> Result<Convention, Rejection> {
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
            if segmentation.count() == 1 { OneSamplePolicy::PopulationVariance } else { OneSamplePolicy::default() };
        let epsilon = self.number("eps")?;
        Ok(Convention {
            epsilon,
            momentum,
            running_variance,
            one_sample,
            segment_running: self.segment_running()?,
            non_finite: self.non_finite()?,
            ..Convention::pytorch()
        })
    }
}

/// The rank and the layout of a layout's name.
pub fn layout(name: &str) -> Option<(usize, Layout)> {
    match name {
        "NC" | "NCL" | "NCHW" | "NCDHW" => Some((name.len(), Layout::ChannelsFirst)),
        "NLC" | "NHWC" | "NDHWC" => Some((name.len(), Layout::ChannelsLast)),
        _ => None,
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
        let all = r#"{"op": "forward_training", "dtype": "f64", "param_dtype": "i8", "activation": "mish",
            "tensors": ["x", "residual", "atol.y", "y_histogram"], "layout": "CN", "running_var_correction": 7}"#;
        let expected = [
            "element type f64",
            "i8 parameters",
            "activation mish",
            "tensor `y_histogram`",
            "layout CN",
            "running variance correction 7",
        ];
        assert_eq!(names(all).unwrap(), expected);
        assert!(names(r#"{"op": "forward_training", "dtype": null, "layout": "NC"}"#).is_err());
        assert!(
            names(r#"{"op": "forward_training", "dtype": "bf16", "param_dtype": null, "layout": "NHWC"}"#)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn segments_lengths_and_limits_are_read_or_refused() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap().as_object().unwrap().clone();
        let shape = || Shape::new(&[4, 3, 6]).unwrap();
        let cut = |text: &str| Fields(&value(text)).cut(shape());
        assert_eq!(cut("{}").unwrap(), shape());
        let parts = cut(r#"{"segments": {"kind": "sub_batches", "count": 2}}"#);
        assert_eq!(parts.unwrap(), shape().with_sub_batches(2).unwrap());
        let along = cut(r#"{"segments": {"kind": "along", "axis": 2}}"#);
        assert_eq!(along.unwrap(), shape().with_segments_along(2).unwrap());
        for wrong in
            ["3", r#"{"kind": "sub_batches"}"#, r#"{"kind": "sub_batches", "count": 3}"#, r#"{"kind": "rows"}"#]
        {
            assert!(cut(&format!(r#"{{"segments": {wrong}}}"#)).is_err(), "{wrong}");
        }
        let lengths = value(r#"{"lengths": {"values": [3, 0], "sequence": 0, "step": 2}}"#);
        let axes = SequenceAxes { sequence: 0, step: 2 };
        assert_eq!(Fields(&lengths).lengths().unwrap(), Some((vec![3, 0], axes)));
        assert!(Fields(&value(r#"{"lengths": {"values": [-1], "sequence": 0, "step": 2}}"#)).lengths().is_err());
        let limits = value(r#"{"renormalization": {"r_max": 1.5, "d_max": 0.25}, "segment_running": "each"}"#);
        assert_eq!(Fields(&limits).renormalization().unwrap(), Some([1.5, 0.25]));
        assert!(Fields(&limits).segment_running().is_err());
        assert!(Fields(&value(r#"{"renormalization": {"r_max": 1.5}}"#)).renormalization().is_err());
    }

    #[test]
    fn batches_add_up_and_operations_of_one_kind_stand_together() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap().as_object().unwrap().clone();
        let batches = |sizes: &str| Fields(&value(&format!(r#"{{"shape": [4, 3], "batches": {sizes}}}"#))).batches();
        let shape = |size| Shape::new(&[size, 3]).unwrap();
        assert_eq!(batches("[1, 0, 3]").unwrap(), [shape(1), shape(0), shape(3)]);
        assert!(batches("[1, 2]").is_err() && batches("[-1, 5]").is_err() && batches("null").is_err());
        assert!(batches(&format!("[{}, 5]", usize::MAX)).is_err());
        let operations = |text: &str| Fields(&value(text)).operations();
        let both = operations(r#"{"op": "backward_from_output", "ops": ["forward_training"]}"#).unwrap();
        assert!(both.backward_from_output && both.forward_training && both.trains() && !both.fold);
        assert!(operations(r#"{"op": "population"}"#).unwrap().population);
        for others in ["forward_training", "forward_inference", "population", "unfold"] {
            assert!(operations(&format!(r#"{{"op": "fold", "ops": ["{others}"]}}"#)).is_err(), "{others}");
        }
        assert!(Fields(&value(r#"{"non_finite": "skip"}"#)).non_finite().is_err());
    }

    #[test]
    fn activations_are_read_by_name_and_a_leaky_one_needs_its_slope() {
        let activation =
            |text: &str| Fields(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap()).activation();
        assert_eq!(activation("{}").unwrap(), Some(Activation::Identity));
        assert_eq!(activation(r#"{"activation": "gelu_tanh"}"#).unwrap(), Some(Activation::GeluTanh));
        let leaky = activation(r#"{"activation": "leaky_relu", "slope": 0.25}"#).unwrap();
        assert_eq!(leaky, Some(Activation::LeakyRelu { slope: 0.25 }));
        assert!(activation(r#"{"activation": "leaky_relu"}"#).is_err());
    }
}
