//! Descriptors, shapes, strategies, slices and offsets, for every operation on wgpu's noop device: the property of
//! `tests/careless/fuzz.rs`.

#![no_main]

mod bytes;
#[allow(dead_code, unused_imports, unused_macros, reason = "its tests are not built here")]
#[path = "../../tests/careless.rs"]
mod careless;

use bytes::Bytes;
use careless::fuzz::{Use, World, choices, cuts, descriptors, kernels, pins, slices, windows};
use libfuzzer_sys::fuzz_target;

thread_local! {
    // Never dropped: at the end of a thread wgpu's own thread locals may be gone first.
    static WORLD: &'static World = Box::leak(Box::new(World::new()));
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let case = Use {
        descriptor: bytes.draw(&descriptors()),
        cut: bytes.draw(&cuts()),
        kernels: bytes.draw(&kernels()),
        strategies: bytes.draw(&pins()),
        slices: bytes.draw(&slices()),
        max_window_size: bytes.draw(&windows()),
        choices: bytes.draw(&choices()),
    };
    WORLD.with(|world| world.check(case).unwrap());
});
