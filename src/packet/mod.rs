//! Checked views over untrusted bytes, and the two batches that link and socket fill and drain. (vocabulary: no IO)
//!
//! Nothing here panics on any input, reads beyond a slice or loops further than a stated bound: container root writes
//! every byte that a TUN delivers, the offload header included, and any stranger writes what a socket delivers.

pub mod batch;
pub mod checksum;
pub mod coalesce;
pub mod icmp;
pub mod ip;
pub mod split;
pub mod tcp;
pub mod udp;
pub mod vnet;
