//! WireGuard as the network of any rootless container, namespace or command.
//!
//! A parent in the host's namespaces receives a TUN descriptor from a small child that joined an unprivileged
//! user and network namespace, and runs a user-space WireGuard device on it. The encrypted socket never leaves the
//! host's namespace; the plain packets never enter it.
//!
//! # Map
//!
//! | layer | module | what is there |
//! |---|---|---|
//! | vocabulary (plain data, no IO, no clock) | [`time`], [`key`], [`crypto`], [`config`], [`packet`] | the words everything else is said in |
//! | cores (sans-IO: bytes and `now` in, bytes and deadlines out) | [`wireguard`], [`uapi`] | the protocol; the configuration protocol |
//! | operating system (the only `unsafe`) | [`sys`] | namespaces, TUN, netlink, UDP offloads, sandbox |
//! | tasks, threads, sockets, the clock | [`driver`] | the running tunnel |
//! | wiring | [`mode`], [`compat`] | one file per mode; other programs' calling conventions |
//! | what was typed | [`cli`] | arguments to typed requests, errors to one line |
//!
//! Dependencies point one way: `main → cli → compat → mode → driver → {wireguard, uapi} → {packet, config, key → crypto}`;
//! `mode` and `driver` also use `sys`, which knows nothing else of the crate, and `key` and `crypto` have its memory for
//! secrets. `tests/layering.rs` keeps it so.
//!
//! # Glossary
//!
//! | word | means |
//! |---|---|
//! | packet | an inner, plaintext IP packet |
//! | datagram | an outer UDP payload |
//! | message | one of the four WireGuard messages |
//! | link | where inner packets come from and go to |
//! | device, peer, keypair | as in the WireGuard paper: the local end, one remote end, one session's keys |
//! | tunnel | the running whole: link + device + socket |
//! | endpoint | a peer's outer address |
//! | allowed IPs, persistent keepalive, listen port, fwmark, preshared key | exactly as in `wg(8)` |
//! | initiator, responder | of a handshake |
//! | host, namespace | our side, the target's side |
//! | parent, child | our two processes |
//! | target | the namespace to join: pid, path or descriptor |
//!
//! "WireGuard" is a registered trademark of Jason A. Donenfeld.
//!
//! Without what no fuzzer drives (`cfg(fuzzing)`), a build with its counters takes a third of the time.

#[cfg(not(fuzzing))]
pub mod cli;
#[cfg(not(fuzzing))]
pub mod compat;
pub mod config;
pub mod crypto;
#[cfg(not(fuzzing))]
pub mod driver;
pub mod key;
#[cfg(not(fuzzing))]
pub mod mode;
pub mod packet;
pub mod sys;
pub mod time;
pub mod uapi;
pub mod wireguard;
