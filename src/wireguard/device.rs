//! The control half of the device: what is configured, what is told. (core: no IO, no clock)
//!
//! The rest of it is in `exchange` (handshakes), `upkeep` (timers and notices) and `configure` (changes).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::admission::Admission;
use super::control_peer::ControlPeer;
use super::cookie::CookieChecker;
use super::data_plane::DataPlane;
use super::handshake::Identity;
use super::index_table::IndexTable;
use super::keypair::RxSession;
use super::message::KEEPALIVE_LEN;
use super::outbox::Outbox;
use super::seal::{SealGroup, flush_staged};
use super::tai64n::TimestampSource;
use super::timers::{MAX_JITTER, Schedule};
use crate::config::device::DeviceStatus;
use crate::crypto::Entropy;
use crate::key::PublicKey;
use crate::packet::batch::DatagramBatch;
use crate::time::{BootTime, Now};

/// Most peers of one device (wireguard-go's limit).
pub const MAX_PEERS: usize = 1 << 16;

/// Handshake messages that may wait for the control thread; the driver drops what comes beyond.
pub const MAX_QUEUED_HANDSHAKES: usize = 4096;

/// Events kept for a driver that does not ask; the oldest go first.
const MAX_EVENTS: usize = 1024;

/// An update would make more than [`MAX_PEERS`] peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device holds at most {limit} peers")]
pub struct TooManyPeers {
    /// The limit.
    pub limit: usize,
}

/// What an operator would like to know, as it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// Both ends have proven that they hold the new keys.
    SessionEstablished {
        /// With whom.
        peer: PublicKey,
        /// From the first initiation to the proof.
        took: Duration,
        /// Whether the handshake was ours.
        initiator: bool,
    },
    /// An authenticated datagram came from a new address.
    Roamed {
        /// Who.
        peer: PublicKey,
        /// The endpoint before; absent if there was none.
        from: Option<SocketAddr>,
        /// The endpoint now.
        to: SocketAddr,
    },
    /// Several initiations in a row stayed without an answer: the endpoint's name should be resolved again.
    HandshakesFailing {
        /// Who does not answer.
        peer: PublicKey,
        /// Initiations so far.
        attempts: u32,
    },
    /// 90 s of initiations without an answer; packets that waited are gone. New traffic or a keepalive tries again.
    HandshakeGaveUp {
        /// Who does not answer.
        peer: PublicKey,
    },
    /// Three initiations of the peer's carried a time that is not later than one it sent before: its clock went back,
    /// or was ahead once.
    StaleTimestamp {
        /// Whose.
        peer: PublicKey,
    },
    /// The peer is gone from the device.
    PeerRemoved {
        /// Who.
        peer: PublicKey,
    },
}

/// The control half of a device; owned by one thread.
pub struct Device {
    pub(super) entropy: Box<dyn Entropy>,
    pub(super) data_plane: Arc<DataPlane>,
    pub(super) identity: Option<Identity>,
    /// There whenever `identity` is.
    pub(super) cookie_checker: Option<CookieChecker>,
    pub(super) admission: Admission,
    pub(super) timestamps: TimestampSource,
    pub(super) indices: IndexTable,
    pub(super) peers: Vec<Option<ControlPeer>>,
    /// Places in `peers` that are empty.
    pub(super) vacant: Vec<u32>,
    pub(super) by_key: HashMap<PublicKey, u32>,
    /// Whose endpoint an address is, for telling whom a message that does not authenticate may have come from.
    pub(super) by_endpoint: HashMap<SocketAddr, u32>,
    pub(super) next_sequence: u64,
    pub(super) schedule: Schedule,
    pub(super) outbox: Outbox,
    group: SealGroup,
    events: VecDeque<DeviceEvent>,
    pub(super) listen_port: u16,
    pub(super) fwmark: u32,
}

impl Device {
    /// A device without keys and peers.
    #[must_use]
    pub fn new(mut entropy: Box<dyn Entropy>) -> Self {
        let indices = IndexTable::new(&mut *entropy);
        let data_plane = Arc::new(DataPlane::new(Arc::clone(indices.shared())));
        Self {
            entropy,
            data_plane,
            identity: None,
            cookie_checker: None,
            admission: Admission::new(),
            timestamps: TimestampSource::default(),
            indices,
            peers: Vec::new(),
            vacant: Vec::new(),
            by_key: HashMap::new(),
            by_endpoint: HashMap::new(),
            next_sequence: 0,
            schedule: Schedule::default(),
            outbox: Outbox::default(),
            group: SealGroup::new(),
            events: VecDeque::new(),
            listen_port: 0,
            fwmark: 0,
        }
    }

    /// The half that the data threads share.
    #[must_use]
    pub const fn data_plane(&self) -> &Arc<DataPlane> {
        &self.data_plane
    }

    /// What the driver really bound, when it was asked for port 0.
    pub const fn set_listen_port(&mut self, port: u16) {
        self.listen_port = port;
    }

    /// Everything the device tells.
    #[must_use]
    pub fn status(&self, now: Now) -> DeviceStatus {
        let mut peers: Vec<_> = self.peers.iter().flatten().collect();
        peers.sort_by_key(|peer| peer.sequence);
        DeviceStatus {
            private_key: self.identity.as_ref().map(|identity| identity.private.clone()),
            listen_port: self.listen_port,
            fwmark: self.fwmark,
            peers: peers.into_iter().map(|peer| peer.status(now.boot)).collect(),
        }
    }

    /// Whether some peer has a session that both ends have proven and that is not too old.
    #[must_use]
    pub fn has_session(&self, now: Now) -> bool {
        self.peers.iter().flatten().any(|peer| peer.has_session(now.boot))
    }

    /// Whether so many handshake messages come that some are turned away: who waits a little before handing over the
    /// next ones saves waking for each.
    #[must_use]
    pub fn is_crowded(&self, now: Now) -> bool {
        self.admission.is_crowded(now.boot)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.schedule.next()
    }

    /// Appends what is to be sent while `out` has room; false if nothing was appended.
    pub fn poll_transmit(&mut self, now: Now, out: &mut DatagramBatch) -> bool {
        let mut appended = self.outbox.drain_into(out) != 0;
        while let Some(&id) = self.outbox.flushes.front() {
            let before = out.remaining();
            let peer = self.peers.get(id as usize).and_then(Option::as_ref).map(|peer| &peer.shared);
            let session = peer.and_then(|peer| peer.tx.load_full()).filter(|tx| tx.is_usable(now.boot));
            let done = match (peer, session) {
                (Some(peer), Some(session)) => {
                    flush_staged(&self.data_plane, peer, &session, &mut self.group, now.boot, out)
                }
                (None, _) | (_, None) => true,
            };
            appended |= out.remaining() != before;
            if !done {
                break;
            }
            self.outbox.flushes.pop_front();
        }
        appended
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<DeviceEvent> {
        self.events.pop_front()
    }

    pub(super) fn tell(&mut self, event: DeviceEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn peer(&mut self, id: u32) -> Option<&mut ControlPeer> {
        self.peers.get_mut(id as usize)?.as_mut()
    }

    /// Puts the peer where its timers say in the schedule; after every change of them.
    pub(super) fn reschedule(&mut self, id: u32) {
        let Some(Some(peer)) = self.peers.get_mut(id as usize) else { return };
        let next = peer.timers.next();
        self.schedule.reschedule(id, peer.scheduled, next);
        peer.scheduled = next;
    }

    pub(super) fn jitter(&mut self) -> Duration {
        let mut bytes = [0; 4];
        self.entropy.fill(&mut bytes);
        MAX_JITTER.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
    }

    /// Gives back the indices of sessions that nobody uses any more.
    pub(super) fn retire<const N: usize>(&mut self, sessions: [Option<Arc<RxSession>>; N]) {
        for session in sessions.into_iter().flatten() {
            self.indices.release(session.local_index);
        }
    }
}

/// Sessions and peers hold each other; a dropped device lets go of both.
impl Drop for Device {
    fn drop(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            peer.shared.tx.store(None);
            let sessions = peer.keypairs.take_all();
            for session in sessions.into_iter().flatten() {
                self.indices.release(session.local_index);
            }
        }
    }
}

const _: () = assert!(KEEPALIVE_LEN == 32, "as the byte counters of other implementations expect");
