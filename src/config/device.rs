//! What can be asked of a running device, and what it answers. (vocabulary)
//!
//! These are the nouns of the configuration protocol without its text: `uapi` parses and emits them, `wireguard`
//! applies and fills them, `mode` makes them from a configuration file. Keeping them here lets those three not know
//! each other.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::time::WallTime;

/// A change to a device, applied whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUpdate {
    /// `Some(None)` removes the key; every session then ends.
    pub private_key: Option<Option<PrivateKey>>,
    /// UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// `SO_MARK` of outer datagrams; 0 is off.
    pub fwmark: Option<u32>,
    /// Peers that are not in `peers` are removed.
    pub replace_peers: bool,
    /// In the order they were asked for.
    pub peers: Vec<PeerUpdate>,
}

/// A change to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUpdate {
    /// Which peer; created if it is not there, unless `update_only`.
    pub public_key: PublicKey,
    /// Do nothing if the peer does not exist.
    pub update_only: bool,
    /// Remove the peer; the other fields are ignored.
    pub remove: bool,
    /// `Some(None)` removes the key.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Where to send until the peer roams.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// Forget the present allowed IPs first.
    pub replace_allowed_ips: bool,
    /// Applied in order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

impl PeerUpdate {
    /// An update that changes nothing yet.
    #[must_use]
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            update_only: false,
            remove: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One step of changing a peer's allowed IPs. Host bits are already masked off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedIpChange {
    /// Route the prefix to this peer, taking it from any other.
    Add(IpNet),
    /// Stop routing the prefix to this peer; nothing happens if another peer has it.
    Remove(IpNet),
}

/// Everything a device tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Absent until one is set.
    pub private_key: Option<PrivateKey>,
    /// Port in use, 0 if no socket is bound.
    pub listen_port: u16,
    /// 0 is off.
    pub fwmark: u32,
    /// In the order the peers were added.
    pub peers: Vec<PeerStatus>,
}

/// Everything a device tells about one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which peer.
    pub public_key: PublicKey,
    /// Absent if none is set.
    pub preshared_key: Option<PresharedKey>,
    /// Where outer datagrams to this peer go now.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake completed, as the wall clock said then.
    pub last_handshake: Option<WallTime>,
    /// How long ago that was, by the clock that no one sets: not part of the configuration protocol.
    pub last_handshake_age: Option<Duration>,
    /// Outer bytes sent, as the kernel counts them (headers, padding, handshakes included).
    pub tx_bytes: u64,
    /// Outer bytes of authenticated datagrams received.
    pub rx_bytes: u64,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// Shortest prefix last, as the table yields them.
    pub allowed_ips: Vec<IpNet>,
    /// How long the first handshake took, from the first initiation to the proof of both ends: not part of the
    /// configuration protocol.
    pub first_handshake_took: Option<Duration>,
    /// What stands in the way of a session: not part of the configuration protocol.
    pub trouble: PeerTrouble,
}

impl PeerStatus {
    /// A peer that was never heard of.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            last_handshake: None,
            last_handshake_age: None,
            tx_bytes: 0,
            rx_bytes: 0,
            persistent_keepalive: 0,
            allowed_ips: Vec::new(),
            first_handshake_took: None,
            trouble: PeerTrouble::default(),
        }
    }
}

/// What the handshakes of a peer have met since the last session: the raw material of "it says why".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTrouble {
    /// Initiations sent since the last completed handshake.
    pub initiations_sent: u32,
    /// Handshake messages from this peer's endpoint that did not authenticate.
    pub failed_authentications: u32,
    /// Initiations from the peer whose timestamp was not later than the recorded one.
    pub stale_timestamps: u32,
    /// Cookie replies received: the peer is there, and under load.
    pub cookie_replies: u32,
    /// How long ago the oldest unanswered initiation was sent.
    pub waiting: Option<Duration>,
}
