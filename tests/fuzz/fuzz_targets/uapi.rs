//! See `../checks/uapi.rs`.
#![no_main]

#[path = "../checks/uapi.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
