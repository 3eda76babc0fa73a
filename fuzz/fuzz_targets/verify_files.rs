//! Manifests and tensor files of `verify`: any bytes for a manifest, any values for the fields of a golden case, any bytes for its
//! tensors. The checks are those of `examples/verify/fuzz.rs`.

#![no_main]

mod bytes;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/case.rs"]
mod case;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/compare.rs"]
mod compare;
#[allow(dead_code, unused_imports, reason = "its tests are not built here")]
#[path = "../../examples/verify/fuzz.rs"]
mod fuzz;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/generator.rs"]
mod generator;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/manifest.rs"]
mod manifest;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/results.rs"]
mod results;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/run_reference.rs"]
mod run_reference;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/storage.rs"]
mod storage;
#[allow(dead_code, reason = "what readers do not need is not used here")]
#[path = "../../examples/verify/tensors.rs"]
mod tensors;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

static SEEDS: LazyLock<Vec<(Map<String, Value>, Vec<u8>)>> = LazyLock::new(fuzz::seeds);

fuzz_target!(|data: &[u8]| {
    let [kind, seed, data @ ..] = data else { return };
    let (fields, file) = &SEEDS[usize::from(*seed) % SEEDS.len()];
    match kind % 4 {
        0 => {
            fuzz::is_manifest(data);
        }
        1 => {
            let edits = bytes::Bytes(data).draw(&fuzz::edits(&SEEDS));
            fuzz::outcome(fuzz::load(&fuzz::edited(fields, edits), file));
        }
        2 => {
            fuzz::outcome(fuzz::load(fields, data));
        }
        _ => {
            // Most of a file is right: bytes in pairs of a place, from the front, where the header is, and what stands there.
            let mut file = file.clone();
            for edit in data.chunks_exact(3) {
                let place = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % file.len();
                file[place] = edit[2];
            }
            fuzz::outcome(fuzz::load(fields, &file));
        }
    }
});
