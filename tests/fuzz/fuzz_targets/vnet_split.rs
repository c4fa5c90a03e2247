//! See `../checks/vnet_split.rs`.
#![no_main]

#[expect(dead_code, reason = "the property tests use the rest")]
#[path = "../checks/vnet_split.rs"]
mod check;
#[expect(dead_code, reason = "the other target uses the rest")]
#[path = "../../packet_model.rs"]
mod packet_model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
