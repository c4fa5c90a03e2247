//! See `../checks/handshake.rs`.
#![no_main]

#[path = "../checks/handshake.rs"]
mod check;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../wireguard_node.rs"]
mod wireguard_node;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
