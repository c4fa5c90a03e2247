//! Every integration test, in one binary: it links once. Unprivileged, loopback only, no Internet.

mod broker;
mod cli;
mod fuzz_corpus;
mod layering;
mod netns;
mod packet_model;
mod packet_properties;
mod packet_tun;
mod pidfile;
mod security_claims;
mod wireguard_configure;
mod wireguard_faults;
mod wireguard_flood;
#[cfg(feature = "demo")]
mod wireguard_interop;
mod wireguard_loom;
mod wireguard_node;
mod wireguard_pair;
mod wireguard_promises;
mod wireguard_scale;
mod wireguard_sim;
mod wireguard_threads;
