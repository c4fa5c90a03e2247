//! See `../checks/coalesce.rs`.
#![no_main]

#[path = "../checks/coalesce.rs"]
mod check;
#[path = "../../packet_model.rs"]
mod packet_model;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
