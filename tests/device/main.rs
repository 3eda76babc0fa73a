//! Devices against the reference. Without an adapter these tests fail; `cargo test -- --skip on_every_adapter::` leaves
//! them out where that is meant.

#[path = "../common/mod.rs"]
mod common;
mod on_every_adapter;
