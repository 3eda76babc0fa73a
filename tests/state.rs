//! States of layers in safetensors files: files that PyTorch wrote, round trips, and files that are wrong.

use std::path::Path;

use half::{bf16, f16};
use proptest::prelude::*;
use wgpu_batch_norm::safetensors::tensor::TensorView;
use wgpu_batch_norm::safetensors::{Dtype, SafeTensors, serialize};
use wgpu_batch_norm::{Error, LayerState, RunningState};

/// The modules of the files in `vectors/layer`, by what they have.
const MODULES: [(&str, [bool; 3]); 5] = [
    ("stem.bn", [true, true, true]),
    ("plain", [false, false, true]),
    ("scaled", [true, false, true]),
    ("untracked", [true, true, false]),
    ("averaged", [true, true, true]),
];

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/layer").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The vectors of a state, gamma first; what it does not have is empty.
fn vectors(state: &LayerState) -> [&[f32]; 4] {
    let running = state.running.as_ref();
    [
        state.gamma.as_deref().unwrap_or_default(),
        state.beta.as_deref().unwrap_or_default(),
        running.map_or(&[], |running| &running.mean),
        running.map_or(&[], |running| &running.variance),
    ]
}

fn bits(state: &LayerState) -> ([Vec<u32>; 4], Option<u32>) {
    let bits = vectors(state).map(|values| values.iter().map(|value| value.to_bits()).collect());
    (bits, state.running.as_ref().map(|running| running.batches_tracked))
}

#[test]
fn a_file_of_pytorch_gives_each_module_what_it_has() {
    let file = golden("model.safetensors");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    for (prefix, [gamma, beta, running]) in MODULES {
        let state = LayerState::from_safetensors(&file, prefix).unwrap();
        let has = [state.gamma.is_some(), state.beta.is_some(), state.running.is_some()];
        assert_eq!(has, [gamma, beta, running], "{prefix}");
        for (part, values) in ["weight", "bias", "running_mean", "running_var"].into_iter().zip(vectors(&state)) {
            let expected = tensors.tensor(&format!("{prefix}.{part}")).map_or(&[][..], |view| view.data());
            assert_eq!(bytemuck::cast_slice::<f32, u8>(values), expected, "{prefix}.{part}");
        }
        assert_eq!(state.running.map(|running| running.batches_tracked), running.then_some(3), "{prefix}");
    }
}

#[test]
fn files_are_those_of_pytorch_to_the_byte() {
    let model = golden("model.safetensors");
    let state = |prefix| LayerState::from_safetensors(&model, prefix).unwrap();
    assert_eq!(state("stem.bn").to_safetensors("stem.bn").unwrap(), golden("bn.safetensors"));
    let tensors = MODULES.into_iter().flat_map(|(prefix, _)| state(prefix).tensors(prefix));
    assert_eq!(serialize(tensors, None).unwrap(), model);
}

#[test]
fn other_types_of_floats_are_read_as_f32() {
    let model = golden("model.safetensors");
    type Rounded = fn(f32) -> f32;
    let kinds: [(&str, Rounded); 3] = [
        ("float16", |value| f16::from_f32(value).to_f32()),
        ("bfloat16", |value| bf16::from_f32(value).to_f32()),
        ("float64", |value| value),
    ];
    for (kind, rounded) in kinds {
        let file = golden(&format!("model.{kind}.safetensors"));
        for (prefix, _) in MODULES {
            let (exact, read) = [&model, &file].map(|file| LayerState::from_safetensors(file, prefix).unwrap()).into();
            let expected = vectors(&exact).map(|values| values.iter().map(|&value| rounded(value)).collect::<Vec<_>>());
            assert_eq!(vectors(&read).map(<[f32]>::to_vec), expected, "{kind}: {prefix}");
            assert_eq!(bits(&read).1, bits(&exact).1, "{kind}: {prefix}");
        }
    }
}

#[test]
fn prefixes_are_paths_of_modules() {
    let state = LayerState { gamma: Some(vec![1.0, 2.0]), ..Default::default() };
    for (prefix, name) in [("", "weight"), ("bn", "bn.weight"), ("a.0.bn", "a.0.bn.weight"), ("bn.", "bn.weight")] {
        let file = state.to_safetensors(prefix).unwrap();
        assert_eq!(SafeTensors::deserialize(&file).unwrap().names(), [name]);
        assert_eq!(LayerState::from_safetensors(&file, prefix), Ok(state.clone()), "{prefix}");
    }
    let file = state.to_safetensors("bn1").unwrap();
    for prefix in ["bn", "", "bn11", "bn1.weight", "BN1"] {
        let refused = LayerState::from_safetensors(&file, prefix);
        assert!(matches!(refused, Err(Error::MissingTensor { .. })), "{prefix}: {refused:?}");
    }
}

/// A file of tensors with the bytes 0.
fn file(tensors: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let zeros = vec![0; 256];
    let view = |&(name, dtype, shape): &(&str, Dtype, &[usize])| {
        let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name.to_owned(), TensorView::new(dtype, shape.to_vec(), &zeros[..size]).unwrap())
    };
    serialize(tensors.iter().map(view), None).unwrap()
}

const F32_5: (Dtype, &[usize]) = (Dtype::F32, &[5]);

#[test]
fn what_is_missing_is_told_by_name() {
    let (dtype, shape) = F32_5;
    let tensor = |name| (name, dtype, shape);
    let missing = |tensors: &[_]| LayerState::from_safetensors(&file(tensors), "");
    let error = |name: &str| Err(Error::MissingTensor { name: name.to_owned() });
    assert_eq!(missing(&[]), error("weight"));
    assert_eq!(missing(&[tensor("gamma")]), error("weight"));
    assert_eq!(missing(&[tensor("weight"), tensor("running_mean")]), error("running_var"));
    assert_eq!(missing(&[tensor("weight"), tensor("running_var")]), error("running_mean"));
    assert_eq!(missing(&[tensor("weight"), ("num_batches_tracked", Dtype::I64, &[])]), error("running_mean"));
    // Files from before PyTorch counted.
    let old = missing(&[tensor("running_mean"), tensor("running_var")]).unwrap();
    assert_eq!(old.running.map(|running| running.batches_tracked), Some(0));
}

#[test]
fn other_types_and_shapes_are_told_by_name() {
    let names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];
    let with = |index: usize, dtype, shape| {
        let mut tensors = names.map(|name| (name, F32_5.0, F32_5.1));
        tensors[4] = (names[4], Dtype::I64, &[]);
        tensors[index] = (names[index], dtype, shape);
        LayerState::from_safetensors(&file(&tensors), "")
    };
    for (index, name) in names.into_iter().enumerate().take(4) {
        for dtype in [Dtype::I64, Dtype::U8, Dtype::BOOL, Dtype::F8_E4M3, Dtype::U16, Dtype::C64] {
            let refused = with(index, dtype, &[5]);
            assert!(
                matches!(&refused, Err(Error::TensorType { name: told, actual, .. }) if told == name && *actual == format!("{dtype:?}")),
                "{refused:?}"
            );
        }
        for shape in [&[][..], &[1, 5], &[2, 2, 1, 1]] {
            let refused = with(index, Dtype::F32, shape);
            assert!(
                matches!(&refused, Err(Error::TensorShape { name: told, shape: other, .. }) if told == name && other == shape),
                "{refused:?}"
            );
        }
    }
    for dtype in [Dtype::F32, Dtype::I32, Dtype::U64] {
        assert!(matches!(with(4, dtype, &[]), Err(Error::TensorType { .. })), "{dtype:?}");
    }
    for shape in [&[0][..], &[2], &[5, 2]] {
        assert!(matches!(with(4, Dtype::I64, shape), Err(Error::TensorShape { .. })), "{shape:?}");
    }
    assert!(with(4, Dtype::I64, &[1]).is_ok(), "some writers know no scalars");
}

#[test]
fn values_that_no_layer_holds_are_refused_and_all_others_read() {
    let counted = |count: i64| {
        let count = count.to_le_bytes();
        let vector = 1_f32.to_le_bytes();
        let f32s = |name: &str| (name.to_owned(), TensorView::new(Dtype::F32, vec![1], &vector).unwrap());
        let counter = ("num_batches_tracked".to_owned(), TensorView::new(Dtype::I64, vec![], &count).unwrap());
        let file = serialize([f32s("running_mean"), f32s("running_var"), counter], None).unwrap();
        LayerState::from_safetensors(&file, "").map(|state| state.running.unwrap().batches_tracked)
    };
    assert_eq!(counted(0), Ok(0));
    assert_eq!(counted(i64::from(u32::MAX)), Ok(u32::MAX));
    let refused = Error::TensorValue { name: "num_batches_tracked".into(), index: 0, target: "u32" };
    for count in [-1, i64::from(u32::MAX) + 1, i64::MIN, i64::MAX] {
        assert_eq!(counted(count), Err(refused.clone()), "{count}");
    }
    let double = |value: f64| {
        let values: Vec<u8> = [0.0, value].into_iter().flat_map(f64::to_le_bytes).collect();
        let file = serialize([("weight", TensorView::new(Dtype::F64, vec![2], &values).unwrap())], None).unwrap();
        LayerState::from_safetensors(&file, "").map(|state| state.gamma.unwrap()[1])
    };
    assert_eq!(double(0.1), Ok(0.1));
    assert_eq!(double(f64::NEG_INFINITY), Ok(f32::NEG_INFINITY));
    assert!(double(f64::NAN).unwrap().is_nan());
    for value in [1e39, -1e300, f64::MAX] {
        assert_eq!(double(value), Err(Error::TensorValue { name: "weight".into(), index: 1, target: "f32" }));
    }
}

#[test]
fn what_is_cut_off_or_is_no_such_file_is_refused() {
    let whole = golden("bn.safetensors");
    for length in 0..whole.len() {
        let refused = LayerState::from_safetensors(&whole[..length], "stem.bn");
        assert!(matches!(refused, Err(Error::StateFile { .. })), "{length} bytes: {refused:?}");
    }
    for other in [&b"PK\x03\x04 not a safetensors file"[..], &[0xff; 64], &[0; 8], b"\x02\0\0\0\0\0\0\0[]"] {
        let refused = LayerState::from_safetensors(other, "");
        assert!(matches!(refused, Err(Error::StateFile { .. })), "{refused:?}");
    }
    let long = LayerState { gamma: Some(vec![1.0]), ..Default::default() }.to_safetensors(&"x".repeat(101_000_000));
    assert!(matches!(long, Err(Error::StateFile { .. })));
}

/// Whether bytes are a file with such a module. What is read is something.
pub(crate) fn is_read(bytes: &[u8], prefix: &str) -> bool {
    match LayerState::from_safetensors(bytes, prefix) {
        Ok(state) => {
            assert!(state != LayerState::default());
            let again = LayerState::from_safetensors(&state.to_safetensors(prefix).unwrap(), prefix).unwrap();
            assert_eq!(bits(&again), bits(&state));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

fn any_state() -> impl Strategy<Value = LayerState> {
    let vector = || prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..9);
    let running = (vector(), vector(), any::<u32>());
    let running =
        running.prop_map(|(mean, variance, batches_tracked)| RunningState { mean, variance, batches_tracked });
    let parts = (prop::option::of(vector()), prop::option::of(vector()), prop::option::of(running));
    let state = parts.prop_map(|(gamma, beta, running)| LayerState { gamma, beta, running });
    state.prop_filter("something to write", |state| *state != LayerState::default())
}

/// `WGPU_BATCH_NORM_FUZZ_CASES` sets the number of cases of each property. `fuzz/` gives the same check to libFuzzer.
mod fuzz {
    use std::cell::Cell;

    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    fn config() -> Config {
        let cases = std::env::var("WGPU_BATCH_NORM_FUZZ_CASES");
        let cases = cases.map_or(500, |cases| cases.parse().expect("WGPU_BATCH_NORM_FUZZ_CASES is a number of cases"));
        Config { cases, failure_persistence: None, ..Config::default() }
    }

    /// Reads every file, and tells how many were refused and read.
    fn read_all(files: impl Strategy<Value = Vec<u8>>, prefix: &str) -> [u32; 2] {
        let outcomes = Cell::new([0; 2]);
        let read = |file: Vec<u8>| {
            let mut counts = outcomes.get();
            counts[usize::from(is_read(&file, prefix))] += 1;
            outcomes.set(counts);
            Ok(())
        };
        TestRunner::new(config()).run(&files, read).unwrap();
        println!("refused and read: {:?}", outcomes.get());
        outcomes.get()
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn any_state_comes_back_as_it_was(
            [first, second] in [any_state(), any_state()],
            prefix in "[a-z0-9._/é\"\\\\]{0,12}",
        ) {
            let file = first.to_safetensors(&prefix).unwrap();
            prop_assert_eq!(bits(&LayerState::from_safetensors(&file, &prefix).unwrap()), bits(&first));
            // And beside another layer's.
            let other = format!("other{prefix}");
            let file = serialize(first.tensors(&prefix).into_iter().chain(second.tensors(&other)), None).unwrap();
            let tensors = SafeTensors::deserialize(&file).unwrap();
            for (prefix, state) in [(&prefix, &first), (&other, &second)] {
                prop_assert_eq!(bits(&LayerState::from_tensors(&tensors, prefix).unwrap()), bits(state));
            }
        }
    }

    #[test]
    fn damaged_files_are_read_or_refused() {
        let whole = golden("bn.safetensors");
        // Most of the damage goes to the header, which says where tensors lie.
        let place = prop_oneof![0..8_usize, 0..whole.len()];
        let edits = prop::collection::vec((place, any::<u8>(), 0..4_u8), 1..4);
        let files = (edits, prop::option::weighted(0.1, 0..whole.len())).prop_map(move |(edits, cut)| {
            let mut file = whole.clone();
            for (at, byte, kind) in edits {
                let at = at % file.len();
                match kind {
                    0 => file[at] = byte,
                    1 => file[at] ^= 1 << (byte % 8),
                    2 => file.insert(at, byte),
                    _ => drop(file.remove(at)),
                }
            }
            file.truncate(cut.unwrap_or(usize::MAX));
            file
        });
        assert!(read_all(files, "stem.bn").iter().all(|&count| count > 0));
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        read_all(prop::collection::vec(any::<u8>(), 0..64), "");
    }

    /// A header with its right length before it, of tensors that lie one after the other but for some.
    #[test]
    fn any_header_is_read_or_refused() {
        let names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked", "x"];
        let types = [("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I64", 8), ("U8", 1), ("f32", 4), ("", 1)];
        let number = || prop_oneof![8 => 0..4_u64, 1 => prop::sample::select(&[1 << 32, 1 << 63, u64::MAX][..])];
        let wrong = prop::option::weighted(0.1, (number(), number()));
        let dtype = prop_oneof![3 => Just(("F32", 4)), 1 => prop::sample::select(types.to_vec())];
        let tensor = (dtype, prop::collection::vec(number(), 0..3), wrong);
        let names = prop::sample::subsequence(names.to_vec(), 0..5);
        let files = (names, prop::collection::vec(tensor, 5)).prop_map(|(names, tensors)| {
            let (mut fields, mut data) = (Vec::new(), 0);
            for (name, ((dtype, size), shape, wrong)) in names.into_iter().zip(tensors) {
                let bytes = shape.iter().fold(size, |bytes: u64, &length| bytes.wrapping_mul(length));
                let (start, end) = wrong.unwrap_or((data, data.wrapping_add(bytes)));
                data = end;
                let (name, dtype) = (format!("\"{name}\""), format!("\"dtype\":\"{dtype}\""));
                fields.push(format!("{name}:{{{dtype},\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}"));
            }
            let header = format!("{{{}}}", fields.join(","));
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend(header.as_bytes());
            file.resize(file.len() + data.min(1000) as usize, 0);
            file
        });
        assert!(read_all(files, "").iter().all(|&count| count > 0));
    }
}
