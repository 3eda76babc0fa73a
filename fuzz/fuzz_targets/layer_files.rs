//! Any bytes for a file with the state of a layer: the check of `tests/state.rs`. What is read comes back as it was.

#![no_main]

#[allow(dead_code, unused_imports, reason = "its tests are not built here")]
#[path = "../../tests/state.rs"]
mod state;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, data @ ..] = data else { return };
    state::is_read(data, if kind.is_multiple_of(2) { "" } else { "stem.bn" });
});
