//! The configuration protocol: text to and from typed requests, and what `show` prints. (core: no IO)
//!
//! # The protocol
//! A client writes an operation, `key=value` lines and an empty line; the server answers with lines, `errno=N` and
//! an empty line. Several operations may follow each other on one connection. `get=1` and `set=1` are those that
//! every user-space WireGuard speaks, so that `wg(8)` works; two more are ours, for our own commands:
//!
//! | operation | lines | answer |
//! |---|---|---|
//! | `report=1` | none | `report=` and one line of JSON: what `status --json` prints |
//! | `network=1` | `address=`, `route=`, `mtu=` | on failure `message=` and what the kernel refused |
//!
//! A `set` is parsed whole before it is handed on: half a request, or one with a mistake in its last line, changes
//! nothing. Programs that speak the plain protocol are answered as wireguard-go answers them, down to the sign of
//! `errno`: `wg` expects it negative after `set` and positive after `get`.

pub mod json;
pub mod line;
pub mod request;
pub mod response;
pub mod show;
