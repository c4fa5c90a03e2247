//! The shared half of the device: routes, sessions, notices and counters. (core: no IO, no clock)

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::allowed_ips::AllowedIps;
use super::index_table::SessionTable;
use super::peer::{Notice, Peer, lock};
pub use super::refused::Refused;
use super::refused::RefusedTable;
use super::staged::{MAX_STAGED_BYTES_OF_DEVICE, StagedPacket};
use crate::key::PublicKey;

/// The usual MTU of a WireGuard link, until the driver says otherwise.
const DEFAULT_MTU: u32 = 1420;

/// State shared by the control half and the data threads.
pub struct DataPlane {
    pub(super) routes: ArcSwap<Routes>,
    pub(super) sessions: Arc<SessionTable>,
    mtu: AtomicU32,
    notices: Mutex<Vec<Arc<Peer>>>,
    waker: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// Bytes of all peers' staged packets.
    staged_bytes: AtomicUsize,
    pub(super) refused: Mutex<RefusedTable>,
    drops: [AtomicU64; DropReason::ALL.len()],
}

/// A snapshot of cryptokey routing; the table's values are places in `peers`.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) table: AllowedIps,
    pub(super) peers: Vec<Option<Arc<Peer>>>,
}

impl Routes {
    /// The peer that packets to or from `address` belong to.
    pub(super) fn lookup(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.peers.get(self.table.lookup(address)? as usize)?.as_ref()
    }
}

impl DataPlane {
    pub(super) fn new(sessions: Arc<SessionTable>) -> Self {
        Self {
            routes: ArcSwap::default(),
            sessions,
            mtu: AtomicU32::new(DEFAULT_MTU),
            notices: Mutex::default(),
            waker: Mutex::default(),
            staged_bytes: AtomicUsize::new(0),
            refused: Mutex::default(),
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
        }
    }

    /// Sets what is called when the control half has something to do; it is called by any data thread, and at once if
    /// there is something already: a peer that is in the queue wakes nobody again.
    pub fn set_waker(&self, waker: Box<dyn Fn() + Send + Sync>) {
        let waker: Arc<dyn Fn() + Send + Sync> = waker.into();
        *lock(&self.waker) = Some(Arc::clone(&waker));
        if !lock(&self.notices).is_empty() {
            waker();
        }
    }

    /// The link's MTU: padding never goes beyond it.
    pub fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }

    /// Destinations that packets were refused to, most refused first.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        lock(&self.refused).list()
    }

    /// How many packets and datagrams were dropped, by reason; reasons that never happened are left out.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let counts = DropReason::ALL.into_iter().zip(&self.drops);
        counts
            .map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    /// The kernel no longer has the source address that datagrams to `remote` are sent from: lets it choose again.
    pub fn forget_source(&self, remote: SocketAddr) {
        for peer in self.routes.load().peers.iter().flatten() {
            if peer.path().is_some_and(|path| path.remote == remote) {
                peer.forget_source();
            }
        }
    }

    /// Where datagrams to a peer are sent.
    #[must_use]
    pub fn endpoint(&self, peer: &PublicKey) -> Option<SocketAddr> {
        let routes = self.routes.load();
        let peer = routes.peers.iter().flatten().find(|known| known.public_key == *peer)?;
        Some(peer.path()?.remote)
    }

    pub(super) fn count_drop(&self, reason: DropReason, count: u64) {
        if count != 0 {
            self.drops[reason as usize].fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Tells the control half something about `peer`, and wakes it if the peer is not already in its queue.
    pub(super) fn notify(&self, peer: &Arc<Peer>, notice: Notice) {
        if peer.notices.fetch_or(notice as u8, Ordering::AcqRel) != 0 {
            return;
        }
        lock(&self.notices).push(Arc::clone(peer));
        let waker = lock(&self.waker).clone();
        if let Some(wake) = waker {
            wake();
        }
    }

    /// Keeps a packet until `peer` has a session; the oldest ones make room.
    pub(super) fn stage(&self, peer: &Peer, packet: StagedPacket) {
        let mut staged = peer.staged();
        if staged.is_closed() {
            return self.count_drop(DropReason::Unsent, 1);
        }
        let (len, before) = (packet.bytes.len(), staged.bytes());
        let mut dropped = 0;
        let others = self.staged_bytes.load(Ordering::Relaxed).saturating_sub(before);
        while staged.bytes() != 0 && others + staged.bytes() + len > MAX_STAGED_BYTES_OF_DEVICE {
            staged.pop();
            dropped += 1;
        }
        if others + staged.bytes() + len > MAX_STAGED_BYTES_OF_DEVICE {
            dropped += 1;
        } else {
            dropped += staged.push(packet) as u64;
        }
        let after = staged.bytes();
        if after >= before {
            self.staged_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.unstage(before - after);
        }
        self.count_drop(DropReason::Unsent, dropped);
    }

    /// Drops what waits for `peer`.
    pub(super) fn drop_staged(&self, peer: &Peer) {
        let mut staged = peer.staged();
        self.unstage(staged.bytes());
        self.count_drop(DropReason::Unsent, staged.clear() as u64);
    }

    /// Drops what waits for a peer that is being removed, and whatever comes for it later.
    pub(super) fn close_staged(&self, peer: &Peer) {
        peer.staged().close();
        self.drop_staged(peer);
    }

    /// Bytes of all peers' staged packets.
    #[cfg(test)]
    pub(super) fn staged_bytes(&self) -> usize {
        self.staged_bytes.load(Ordering::SeqCst)
    }

    /// So many staged bytes are gone.
    pub(super) fn unstage(&self, bytes: usize) {
        self.staged_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The peers that something was told about since the last call.
    pub(super) fn take_notices(&self) -> Vec<Arc<Peer>> {
        std::mem::take(&mut lock(&self.notices))
    }
}

/// Why a packet or a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// From the link: not an IP packet, or a super-packet that cannot be split.
    MalformedPacket,
    /// From the link: no peer's allowed IPs hold the destination.
    NoRoute,
    /// From the link: the peer has no endpoint yet.
    NoEndpoint,
    /// From the link: too many packets wait for the handshake, or it did not come.
    Unsent,
    /// No room in the batch that the driver gave.
    NoRoom,
    /// From the socket: not a WireGuard message.
    MalformedDatagram,
    /// From the socket: no session has this index.
    UnknownSession,
    /// From the socket: the session is too old.
    ExpiredSession,
    /// From the socket: forged or damaged.
    Unauthentic,
    /// From the socket: seen before, or older than the replay window.
    Replayed,
    /// From the socket: the content is not an IP packet.
    MalformedContent,
    /// From the socket: the inner source is not within the peer's allowed IPs.
    WrongSource,
    /// A handshake message that is not for our key, or is damaged.
    InvalidMac,
    /// A handshake message from a source over its budget.
    RateLimited,
    /// A handshake message under load, answered by a cookie.
    Challenged,
    /// A handshake message that does not authenticate.
    FailedHandshake,
    /// An initiation from a key that no peer has.
    UnknownPeer,
    /// An initiation whose timestamp is not later than the last one.
    StaleTimestamp,
    /// An initiation less than 20 ms after the one before.
    TooFrequent,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 19] = [
        Self::MalformedPacket,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::Unsent,
        Self::NoRoom,
        Self::MalformedDatagram,
        Self::UnknownSession,
        Self::ExpiredSession,
        Self::Unauthentic,
        Self::Replayed,
        Self::MalformedContent,
        Self::WrongSource,
        Self::InvalidMac,
        Self::RateLimited,
        Self::Challenged,
        Self::FailedHandshake,
        Self::UnknownPeer,
        Self::StaleTimestamp,
        Self::TooFrequent,
    ];

    /// As reports name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MalformedPacket => "malformed-packet",
            Self::NoRoute => "no-route",
            Self::NoEndpoint => "no-endpoint",
            Self::Unsent => "unsent",
            Self::NoRoom => "no-room",
            Self::MalformedDatagram => "malformed-datagram",
            Self::UnknownSession => "unknown-session",
            Self::ExpiredSession => "expired-session",
            Self::Unauthentic => "unauthentic",
            Self::Replayed => "replayed",
            Self::MalformedContent => "malformed-content",
            Self::WrongSource => "wrong-source",
            Self::InvalidMac => "invalid-mac",
            Self::RateLimited => "rate-limited",
            Self::Challenged => "challenged",
            Self::FailedHandshake => "failed-handshake",
            Self::UnknownPeer => "unknown-peer",
            Self::StaleTimestamp => "stale-timestamp",
            Self::TooFrequent => "too-frequent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemEntropy;
    use crate::key::PublicKey;
    use crate::wireguard::index_table::IndexTable;

    #[test]
    fn packets_before_the_control_task_listens_do_not_leave_the_tunnel_dead() {
        let data_plane = DataPlane::new(Arc::clone(IndexTable::new(&mut SystemEntropy::new()).shared()));
        let peer = Arc::new(Peer::new(0, PublicKey::from_bytes([1; 32])));
        data_plane.notify(&peer, Notice::HandshakeWanted);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        data_plane.set_waker(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(woken.load(Ordering::Relaxed), 1, "nobody will ever look at the notice");
    }

    #[test]
    fn packets_for_a_peer_that_is_gone_take_nothing_from_the_others_budget() {
        let data_plane = DataPlane::new(Arc::clone(IndexTable::new(&mut SystemEntropy::new()).shared()));
        let peer = Arc::new(Peer::new(0, PublicKey::from_bytes([1; 32])));
        let packet = || StagedPacket { bytes: vec![0; 1000].into_boxed_slice(), traffic_class: 0 };
        data_plane.stage(&peer, packet());
        assert_eq!(data_plane.staged_bytes(), 1000);
        data_plane.close_staged(&peer);
        // A data thread that still has the routes of before.
        data_plane.stage(&peer, packet());
        assert_eq!((data_plane.staged_bytes(), peer.has_staged()), (0, false));
        assert_eq!(data_plane.drops(), [(DropReason::Unsent, 2)]);
    }

    #[test]
    fn every_drop_reason_has_its_place_and_its_own_name() {
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
