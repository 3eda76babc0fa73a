//! The readers of manifests and tensor files in the hands of somebody who writes them badly: whatever they are given, they
//! return a case or say what is wrong with it, and never panic.
//!
//! `WGPU_BATCH_NORM_FUZZ_CASES` sets the number of cases of each property. `fuzz/` gives the same checks to libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::case::{Case, Rejection};
use crate::manifest::{Entry, parse_manifest};
use crate::run_reference;

/// Files above this take long to read and say nothing more.
const MOST_BYTES: u64 = 24 << 10;

fn runner() -> TestRunner {
    let cases = std::env::var("WGPU_BATCH_NORM_FUZZ_CASES");
    let cases = cases.map_or(1000, |cases| cases.parse().expect("WGPU_BATCH_NORM_FUZZ_CASES is a number of cases"));
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Of this package, or of the one that `fuzz/` stands in.
fn vectors() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("tests/vectors"));
    folders.into_iter().find(|folder| folder.is_dir()).expect("the golden cases are there")
}

/// Small cases of the repository: entry and tensor file.
pub(crate) fn seeds() -> Vec<(Map<String, Value>, Vec<u8>)> {
    let manifest = parse_manifest(&fs::read(vectors().join("manifest.json")).unwrap()).unwrap();
    let seeds = manifest.into_iter().filter_map(|entry| {
        let fields = entry.fields.unwrap();
        let path = vectors().join(fields["file"].as_str().unwrap());
        let small = fs::metadata(&path).unwrap().len() <= MOST_BYTES;
        // Inputs of generated cases are large, whatever their files are.
        (small && !fields.contains_key("generator")).then(|| (fields, fs::read(path).unwrap()))
    });
    seeds.collect()
}

pub(crate) fn load(fields: &Map<String, Value>, file: &[u8]) -> Result<Case, Rejection> {
    let entry =
        Entry { name: "case".into(), source: "fuzz".into(), operation: "fuzz".into(), fields: Ok(fields.clone()) };
    entry.load_from(|_| Ok(file.to_vec()))
}

/// What a reader made of it: whether there was a case, which is then run.
pub(crate) fn outcome(loaded: Result<Case, Rejection>) -> bool {
    match loaded {
        Ok(case) => {
            // Results or a typed error.
            let _ = run_reference::run(&case);
            true
        }
        Err(Rejection::Malformed(message) | Rejection::Unsupported(message)) => {
            assert!(!message.is_empty());
            false
        }
    }
}

/// Whether bytes are a manifest.
pub(crate) fn is_manifest(bytes: &[u8]) -> bool {
    match parse_manifest(bytes) {
        Ok(_) => true,
        Err(message) => {
            assert!(!message.is_empty());
            false
        }
    }
}

/// What somebody might write for a value.
fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(&[0_i64, 1, 2, 3, 7, -1, 255, i64::MAX, i64::MIN][..]).prop_map(Value::from),
        prop::sample::select(&[(1_u64 << 32) - 1, 1 << 32, 1 << 63, u64::MAX][..]).prop_map(Value::from),
        prop::sample::select(&[0.5, -0.1, 1e-300, 1e300, -0.0][..]).prop_map(Value::from),
        prop::sample::select(
            &["", "NaN", "x", "f16", "f32", "bf16", "NC", "NHWC", "NCDHW", "relu", "leaky_relu", "silu", "separate"][..]
        )
        .prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    scalar.prop_recursive(2, 12, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(
                prop::sample::select(
                    &[
                        "kind", "count", "axis", "values", "sequence", "step", "r_max", "d_max", "x", "seed", "bits",
                        "y"
                    ][..]
                ),
                inner,
                0..4
            )
            .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

#[test]
fn any_bytes_are_a_manifest_or_an_error() {
    let text = fs::read(vectors().join("manifest.json")).unwrap();
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').take(10).collect();
    let some = lines.join(&b'\n');
    let length = some.len();
    let edits = prop::collection::vec((0..length, any::<u8>(), 0..3_u8), 0..20);
    let outcomes = std::cell::Cell::new([0_u32; 2]);
    runner()
        .run(&(edits, 0..=length, prop::collection::vec(any::<u8>(), 0..60), ".{0,80}"), |(edits, cut, bytes, text)| {
            let mut edited = some.clone();
            for (at, byte, kind) in edits {
                let at = at % edited.len();
                match kind {
                    0 => edited[at] = byte,
                    1 => edited.insert(at, byte),
                    _ => drop(edited.remove(at)),
                }
            }
            edited.truncate(cut.max(1));
            for bytes in [&edited[..], &bytes, text.as_bytes(), format!("[{text}").as_bytes()] {
                let mut counts = outcomes.get();
                counts[usize::from(is_manifest(bytes))] += 1;
                outcomes.set(counts);
            }
            Ok(())
        })
        .unwrap();
    println!("refused and read: {:?}", outcomes.get());
    assert!(outcomes.get().iter().all(|&count| count > 0));
}

/// Fields of an entry that are given another value or left out.
pub(crate) type Edits = Vec<(String, Option<Value>)>;

pub(crate) fn edits(seeds: &[(Map<String, Value>, Vec<u8>)]) -> impl Strategy<Value = Edits> + use<> {
    let mut names: Vec<String> = seeds.iter().flat_map(|(fields, _)| fields.keys().cloned()).collect();
    names.extend(["generator", "slope", "segments", "segment_running", "lengths", "renormalization"].map(String::from));
    names.sort();
    names.dedup();
    prop::collection::vec((prop::sample::select(names), prop::option::of(values())), 1..4)
}

pub(crate) fn edited(fields: &Map<String, Value>, edits: Edits) -> Map<String, Value> {
    let mut fields = fields.clone();
    for (name, value) in edits {
        match value {
            Some(value) => fields.insert(name, value),
            None => fields.remove(&name),
        };
    }
    fields
}

#[test]
fn any_field_may_hold_anything() {
    let seeds = seeds();
    assert!(seeds.len() > 100);
    let outcomes = std::cell::Cell::new([0_u32; 2]);
    runner()
        .run(&(0..seeds.len(), edits(&seeds)), |(seed, edits)| {
            let (fields, file) = &seeds[seed];
            let read = outcome(load(&edited(fields, edits), file));
            let mut counts = outcomes.get();
            counts[usize::from(read)] += 1;
            outcomes.set(counts);
            Ok(())
        })
        .unwrap();
    println!("refused and read: {:?}", outcomes.get());
    assert!(outcomes.get().iter().all(|&count| count > 0));
}

#[test]
fn any_bytes_are_a_tensor_file_or_an_error() {
    let seeds = seeds();
    // Most of the edits go to the header, which says where tensors lie.
    let place = prop_oneof![0..8_usize, 0..600_usize, any::<usize>()];
    let edits = prop::collection::vec((place, any::<u8>(), 0..4_u8), 0..6);
    let outcomes = std::cell::Cell::new([0_u32; 2]);
    runner()
        .run(&(0..seeds.len(), edits, prop::option::weighted(0.2, any::<usize>())), |(seed, edits, cut)| {
            let (fields, file) = &seeds[seed];
            let mut file = file.clone();
            for (at, byte, kind) in edits {
                let at = at % file.len();
                match kind {
                    0 => file[at] = byte,
                    1 => file[at] ^= 1 << (byte % 8),
                    2 => file.insert(at, byte),
                    _ => drop(file.remove(at)),
                }
            }
            if let Some(cut) = cut {
                file.truncate(cut % file.len());
            }
            let read = outcome(load(fields, &file));
            let mut counts = outcomes.get();
            counts[usize::from(read)] += 1;
            outcomes.set(counts);
            Ok(())
        })
        .unwrap();
    println!("refused and read: {:?}", outcomes.get());
    assert!(outcomes.get().iter().all(|&count| count > 0));
}

#[test]
fn a_file_that_agrees_with_a_wrong_manifest_is_refused_without_asking_for_memory() {
    // Empty tensors, with as many channels or segments as there can be.
    for (shape, segments) in [
        (json!([0, u32::MAX]), Value::Null),
        (json!([1_u32 << 31, 1, 0]), json!({"kind": "along", "axis": 0})),
        (json!([1_u32 << 31, 1, 0]), json!({"kind": "sub_batches", "count": 1_u32 << 31})),
    ] {
        let empty = |dtype| json!({"dtype": dtype, "shape": shape, "data_offsets": [0, 0]});
        let header = json!({"x": empty("F32"), "y": empty("F64")}).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        let layout = if shape.as_array().unwrap().len() == 2 { "NC" } else { "NCL" };
        for generator in [Value::Null, json!({"x": {"seed": 1, "bits": 8}, "x_integer_sum_per_channel": []})] {
            let fields = json!({"file": "x", "op": "forward_training", "layout": layout, "shape": shape, "dtype": "f32",
                "eps": 1e-5, "momentum": 0.1, "tensors": ["x", "y"], "segments": segments, "generator": generator});
            match load(fields.as_object().unwrap(), &file) {
                Err(Rejection::Malformed(message)) => assert!(message.contains("too many"), "{shape}: {message}"),
                other => panic!("{shape} {segments}: {other:?}"),
            }
        }
    }
}
