//! What only the control half knows about a peer: keys, the handshake in progress, timers. (core: no IO, no clock)

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::cookie::CookieJar;
use super::handshake::{Identity, PendingInitiation, Secret};
use super::keypair::Keypairs;
use super::peer::Peer;
use super::tai64n::Tai64n;
use super::timers::Timers;
use crate::config::device::{PeerStatus, PeerTrouble};
use crate::key::{PresharedKey, PublicKey};
use crate::time::{BootTime, Now};

/// One peer, as the control half sees it.
pub(super) struct ControlPeer {
    pub(super) shared: Arc<Peer>,
    /// Peers are listed in the order they were added.
    pub(super) sequence: u64,
    pub(super) preshared_key: Option<PresharedKey>,
    static_static: StaticStatic,
    pub(super) allowed_ips: BTreeSet<IpNet>,
    pub(super) persistent_keepalive: u16,
    pub(super) keypairs: Keypairs,
    /// Our initiation that waits for its response. An initiation of the peer's does not end it: when both begin at
    /// once, both must be able to finish.
    pub(super) pending: Option<PendingInitiation>,
    /// The initiations since the last session, while we still try.
    pub(super) series: Option<Series>,
    /// When we last answered an initiation that was not yet confirmed.
    pub(super) answered: Option<BootTime>,
    pub(super) cookies: CookieJar,
    /// The latest timestamp seen in an initiation. It outlives sessions, keys and configuration, or an old
    /// initiation could be replayed after any of them changes.
    pub(super) greatest_timestamp: Option<Tai64n>,
    pub(super) last_initiation_accepted: Option<BootTime>,
    /// When we last sent an initiation or a response.
    pub(super) last_handshake_sent: Option<BootTime>,
    pub(super) last_handshake: Option<Now>,
    pub(super) first_handshake_took: Option<Duration>,
    pub(super) trouble: PeerTrouble,
    pub(super) timers: Timers,
    /// Where `timers` has this peer in the device's schedule.
    pub(super) scheduled: Option<BootTime>,
    /// The endpoint that was last told about.
    pub(super) known_remote: Option<SocketAddr>,
}

/// Initiations that follow each other until one is answered.
#[derive(Clone, Copy)]
pub(super) struct Series {
    pub(super) started: BootTime,
    pub(super) attempts: u32,
}

/// The Diffie-Hellman value of both static keys. Computed when first needed: ten thousand at once take a third of a
/// second.
enum StaticStatic {
    Unknown,
    Known(Secret),
    /// The peer's key is a low-order point: there never is a handshake with it.
    Impossible,
}

impl ControlPeer {
    pub(super) fn new(id: u32, sequence: u64, public_key: PublicKey) -> Self {
        Self {
            shared: Arc::new(Peer::new(id, public_key)),
            sequence,
            preshared_key: None,
            static_static: StaticStatic::Unknown,
            allowed_ips: BTreeSet::new(),
            persistent_keepalive: 0,
            keypairs: Keypairs::default(),
            pending: None,
            series: None,
            answered: None,
            cookies: CookieJar::new(),
            greatest_timestamp: None,
            last_initiation_accepted: None,
            last_handshake_sent: None,
            last_handshake: None,
            first_handshake_took: None,
            trouble: PeerTrouble::default(),
            timers: Timers::new(),
            scheduled: None,
            known_remote: None,
        }
    }

    /// The Diffie-Hellman value of both static keys; `None` if there is none.
    pub(super) fn static_static(&mut self, identity: &Identity) -> Option<&Secret> {
        if matches!(self.static_static, StaticStatic::Unknown) {
            self.static_static = match identity.static_static(&self.shared.public_key) {
                Some(secret) => StaticStatic::Known(secret),
                None => StaticStatic::Impossible,
            };
        }
        match &self.static_static {
            StaticStatic::Known(secret) => Some(secret),
            StaticStatic::Impossible | StaticStatic::Unknown => None,
        }
    }

    /// Our own static key has changed.
    pub(super) fn forget_static_static(&mut self) {
        self.static_static = StaticStatic::Unknown;
    }

    /// Whether something can be sent now.
    pub(super) fn has_session(&self, now: BootTime) -> bool {
        self.shared.tx.load().as_ref().is_some_and(|session| session.is_usable(now))
    }

    pub(super) fn status(&self, now: BootTime) -> PeerStatus {
        let waiting = self.series.map(|series| now.duration_since(series.started));
        let mut allowed_ips: Vec<_> = self.allowed_ips.iter().copied().collect();
        allowed_ips.sort_by_key(|prefix| std::cmp::Reverse(prefix.prefix_len()));
        PeerStatus {
            public_key: self.shared.public_key,
            preshared_key: self.preshared_key.clone(),
            endpoint: self.shared.path().map(|path| path.remote),
            last_handshake: self.last_handshake.map(|at| at.wall),
            last_handshake_age: self.last_handshake.map(|at| now.duration_since(at.boot)),
            tx_bytes: self.shared.tx_bytes(),
            rx_bytes: self.shared.rx_bytes(),
            persistent_keepalive: self.persistent_keepalive,
            allowed_ips,
            first_handshake_took: self.first_handshake_took,
            trouble: PeerTrouble { waiting, ..self.trouble },
        }
    }
}
