//! Other programs' calling conventions: the names this binary also answers to. (wiring)

pub mod cdi;
pub mod drop_ins;
pub mod engine;
pub mod gluetun;
pub mod host_resolvers;
pub mod next_program;
pub mod oci_hook;
pub mod pasta;
mod pasta_ports;
pub mod quadlet;
pub mod slirp4netns;
pub mod wireguard4netns;
pub mod wireguard_go;
