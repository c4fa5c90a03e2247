//! The WireGuard protocol, one file per concept. (core: no IO, no clock)
//!
//! # Theory of operation
//! The device has two halves. [`Device`] is the control half: one thread owns it and it alone handles handshakes,
//! timers and configuration. [`DataPlane`] is the shared half: routes, sessions and the peers' stamps, read by any
//! number of [`TxPath`]s and [`RxPath`]s, one a thread, without a lock and without an allocation per packet.
//!
//! The data path never decides about the protocol. It stamps atomics (when was something sent, received, owed), and
//! where a timer must start or a handshake is wanted it leaves one *notice* for the control half and wakes it. Every
//! notice has a flag that keeps it from being left twice, so the control half sleeps while packets flow.
//!
//! A driver does, in each thread:
//! * control: `handle_*` on each input, then `poll_transmit` until it says false, `poll_event`, `poll_timeout`;
//! * tx: [`TxPath::handle_packets`], send, write the replies back;
//! * rx: [`RxPath::handle_datagrams`], write the packets, queue the handshake messages for control.

mod admission;
mod allowed_ips;
mod configure;
mod control_peer;
mod cookie;
mod data_plane;
mod device;
mod exchange;
mod handshake;
mod index_table;
mod keypair;
mod message;
mod nonce;
mod outbox;
mod peer;
mod refused;
mod replay;
mod rx;
mod seal;
mod staged;
mod tai64n;
mod timers;
mod tx;
mod upkeep;
mod waiting;

/// Where `nonce` and `waiting` have their atomics from: elsewhere in `tests/wireguard_loom.rs`.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
}

pub use data_plane::{DataPlane, DropReason, Refused};
pub use device::{Device, DeviceEvent, MAX_PEERS, MAX_QUEUED_HANDSHAKES, TooManyPeers};
pub use message::is_cookie_reply;
pub use rx::RxPath;
pub use tx::{TX_SLAB_LEN, TxPath};
