//! A device with its data paths, driven by hand: what a driver does, without sockets, threads or a clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceStatus, DeviceUpdate, PeerStatus, PeerUpdate};
use wg4netns::crypto::{self, Entropy};
use wg4netns::key::{PrivateKey, PublicKey};
use wg4netns::packet::batch::{DatagramBatch, LocalAddress, PacketBatch, Path, VNET_HEADER_LEN};
use wg4netns::time::{BootTime, Now, WallTime};
use wg4netns::wireguard::{Device, DeviceEvent, DropReason, RxPath, TX_SLAB_LEN, TxPath};

/// Random numbers that a seed decides (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

impl Entropy for Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A datagram on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Our address that the datagram must leave by.
    pub(crate) source: Option<LocalAddress>,
    pub(crate) traffic_class: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Datagram {
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0]
    }
}

/// A device, the paths of its two data threads, and where it is.
pub(crate) struct Node {
    pub(crate) device: Device,
    tx: TxPath,
    rx: RxPath,
    pub(crate) address: SocketAddr,
    pub(crate) public_key: PublicKey,
    /// Times that the data path woke the control half.
    pub(crate) wakes: Arc<AtomicUsize>,
    /// Messages said to wait behind each handshake message.
    pub(crate) queued: usize,
    /// What goes out, from the last call of anything.
    pub(crate) sent: Vec<Datagram>,
    /// Packets that came out of the tunnel, each without its virtio-net header.
    pub(crate) delivered: Vec<Vec<u8>>,
    /// Answers to packets that could not be sent.
    pub(crate) replies: Vec<Vec<u8>>,
    pub(crate) events: Vec<DeviceEvent>,
    out: DatagramBatch,
    packets: PacketBatch,
}

impl Node {
    pub(crate) fn new(seed: u64, address: &str) -> Self {
        let mut random = Random::new(seed);
        let mut secret = [0; 32];
        random.fill(&mut secret);
        let private_key = PrivateKey::from_bytes(secret);
        let public_key = private_key.public_key();
        let mut device = Device::new(Box::new(random));
        let update = DeviceUpdate { private_key: Some(Some(private_key)), ..DeviceUpdate::default() };
        device.apply(update, at(0)).unwrap();
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        device.data_plane().set_waker(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let (tx, rx) =
            (TxPath::new(Arc::clone(device.data_plane())), RxPath::new(Arc::clone(device.data_plane())));
        Self {
            device,
            tx,
            rx,
            address: address.parse().unwrap(),
            public_key,
            wakes,
            queued: 0,
            sent: Vec::new(),
            delivered: Vec::new(),
            replies: Vec::new(),
            events: Vec::new(),
            out: DatagramBatch::with_capacity(TX_SLAB_LEN, 64),
            packets: PacketBatch::with_capacity(1 << 18, 64),
        }
    }

    /// Makes `other` a peer that has `allowed_ips`.
    pub(crate) fn add_peer(&mut self, other: &Self, allowed_ips: &[&str], endpoint: bool, now: Now) {
        let mut peer = PeerUpdate::new(other.public_key);
        peer.endpoint = endpoint.then_some(other.address);
        peer.allowed_ips = allowed_ips.iter().map(|net| AllowedIpChange::Add(net.parse().unwrap())).collect();
        self.update_peer(peer, now);
    }

    pub(crate) fn update_peer(&mut self, peer: PeerUpdate, now: Now) {
        self.update(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }, now);
    }

    pub(crate) fn update(&mut self, update: DeviceUpdate, now: Now) {
        self.device.apply(update, now).unwrap();
        self.settle(now);
    }

    /// A packet from the link.
    pub(crate) fn send(&mut self, packet: &[u8], now: Now) {
        self.send_framed(&[[0; VNET_HEADER_LEN].as_slice(), packet].concat(), now);
    }

    /// A virtio-net header and a packet from the link.
    pub(crate) fn send_framed(&mut self, framed: &[u8], now: Now) {
        self.send_batch(&[framed], now);
    }

    /// Several at once.
    pub(crate) fn send_batch(&mut self, framed: &[&[u8]], now: Now) {
        let mut batch = PacketBatch::with_capacity(framed.iter().map(|f| f.len()).sum(), framed.len());
        for framed in framed {
            batch.spare()[..framed.len()].copy_from_slice(framed);
            batch.commit(framed.len());
        }
        self.out.clear();
        self.packets.clear();
        self.tx.handle_packets(&batch, now, &mut self.out, &mut self.packets);
        self.replies.extend(self.packets.iter().map(|framed| framed[VNET_HEADER_LEN..].to_vec()));
        self.collect();
        self.settle(now);
    }

    /// Datagrams from the wire, each for itself.
    pub(crate) fn receive(&mut self, datagrams: &[Datagram], now: Now) {
        for datagram in datagrams {
            self.receive_run(
                &datagram.bytes,
                datagram.bytes.len(),
                Path::to(datagram.from),
                datagram.traffic_class,
                now,
            );
        }
    }

    /// A datagram that arrived at our address `local`.
    pub(crate) fn receive_at(&mut self, datagram: &Datagram, local: LocalAddress, now: Now) {
        let path = Path { remote: datagram.from, local: Some(local) };
        self.receive_run(&datagram.bytes, datagram.bytes.len(), path, datagram.traffic_class, now);
    }

    /// A run of datagrams, as generic receive offload makes them.
    pub(crate) fn receive_run(&mut self, bytes: &[u8], segment_len: usize, path: Path, class: u8, now: Now) {
        let mut batch = DatagramBatch::with_capacity(bytes.len(), 1);
        batch.spare()[..bytes.len()].copy_from_slice(bytes);
        batch.commit(bytes.len(), segment_len, path, class);
        let mut handshakes: Vec<(Vec<u8>, Path)> = Vec::new();
        self.packets.clear();
        self.rx.handle_datagrams(&mut batch, now, &mut self.packets, &mut |message, path| {
            handshakes.push((message.to_vec(), path));
        });
        self.delivered.extend(self.packets.iter().map(|framed| framed[VNET_HEADER_LEN..].to_vec()));
        for (message, path) in handshakes {
            self.device.handle_handshake(&message, path, self.queued, now);
        }
        self.settle(now);
    }

    /// Lets timers go off.
    pub(crate) fn timeout(&mut self, now: Now) {
        self.device.handle_timeout(now);
        self.settle(now);
    }

    /// The control half's turn: notices, transmits, events.
    pub(crate) fn settle(&mut self, now: Now) {
        loop {
            self.device.handle_notices(now);
            self.out.clear();
            let appended = self.device.poll_transmit(now, &mut self.out);
            self.collect();
            if !appended {
                break;
            }
        }
        while let Some(event) = self.device.poll_event() {
            self.events.push(event);
        }
    }

    fn collect(&mut self) {
        for slot in self.out.slots() {
            for bytes in self.out.bytes(slot).chunks(slot.segment_len) {
                self.sent.push(Datagram {
                    from: self.address,
                    to: slot.path.remote,
                    source: slot.path.local,
                    traffic_class: slot.traffic_class,
                    bytes: bytes.to_vec(),
                });
            }
        }
    }

    pub(crate) fn take_sent(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn take_delivered(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.delivered)
    }

    pub(crate) fn status(&self, now: Now) -> DeviceStatus {
        self.device.status(now)
    }

    pub(crate) fn peer_status(&self, other: PublicKey, now: Now) -> PeerStatus {
        self.status(now).peers.into_iter().find(|peer| peer.public_key == other).unwrap()
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        let drops = self.device.data_plane().drops();
        drops.into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| count)
    }
}

/// Writes a valid MAC1 for `responder` into a message: all it takes is a public key.
pub(crate) fn write_mac1(message: &mut [u8], responder: PublicKey) {
    let key = crypto::hash(&[b"mac1----", responder.as_bytes()]);
    let end = message.len() - 32;
    let mac1 = crypto::mac(&key, &[&message[..end]]);
    message[end..end + 16].copy_from_slice(&mac1);
}

/// So many seconds after a start that is long after boot.
pub(crate) fn at(secs: u64) -> Now {
    after(Duration::from_secs(secs))
}

/// So long after that start.
pub(crate) fn after(duration: Duration) -> Now {
    let wall = Duration::from_secs(1_700_000_000) + duration;
    Now {
        boot: BootTime::from_nanos(3600 * 1_000_000_000) + duration,
        wall: WallTime { secs: wall.as_secs(), nanos: wall.subsec_nanos() },
    }
}

/// How long after that start a deadline is.
pub(crate) fn since_start(deadline: BootTime) -> Duration {
    deadline.duration_since(at(0).boot)
}

/// A packet of an experimental protocol.
pub(crate) fn packet(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    packet_of(253, source.parse().unwrap(), destination.parse().unwrap(), 0, payload)
}

/// The same of any protocol and with a traffic class.
pub(crate) fn packet_of(
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    class: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + payload.len()).unwrap();
            packet.extend_from_slice(&[0x45, class]);
            packet.extend_from_slice(&total.to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
            let sum = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
            let folded = (sum & 0xffff) + (sum >> 16);
            let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = u16::try_from(payload.len()).unwrap();
            packet.extend_from_slice(&[0x60 | class >> 4, class << 4, 0, 0]);
            packet.extend_from_slice(&len.to_be_bytes());
            packet.extend_from_slice(&[protocol, 64]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("one family"),
    }
    packet.extend_from_slice(payload);
    packet
}
