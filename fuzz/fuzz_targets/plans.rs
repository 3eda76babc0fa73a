//! Descriptors, shapes and strategies on machines with any limits: the property of `tests/careless/fuzz.rs`.

#![no_main]

mod bytes;
#[allow(dead_code, unused_imports, unused_macros, reason = "its tests are not built here")]
#[path = "../../tests/careless.rs"]
mod careless;

use bytes::Bytes;
use careless::fuzz::{Wish, cuts, descriptors, pins, profiles};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let wish = Wish {
        descriptor: bytes.draw(&descriptors()),
        cut: bytes.draw(&cuts()),
        profile: bytes.draw(&profiles()),
        strategies: bytes.draw(&pins()),
    };
    wish.check().unwrap();
});
