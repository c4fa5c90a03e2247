//! For tests of the data threads: both ends of a session, packets to send through it, and what the kernel gets to see of
//! them. Inside a namespace of their own.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use crate::crypto::SystemEntropy;
use crate::driver::clock;
use crate::driver::link::{Link, Shutdown};
use crate::driver::udp::{RECEIVE_STRIDE, UdpPort};
use crate::key::PrivateKey;
use crate::packet::batch::{DatagramBatch, DatagramSlot, PacketBatch, VNET_HEADER_LEN};
use crate::packet::checksum::Sum;
use crate::packet::coalesce::{CoalesceConfig, Coalescer};
use crate::packet::ip::protocol;
use crate::sys::inside::ip;
use crate::sys::netlink::Netlink;
use crate::sys::{packet_socket, tun, wait};
use crate::wireguard::{Device, RxPath, TX_SLAB_LEN, TxPath};

/// Bytes of every packet: with the message around it, all datagrams of a batch are one run.
pub(super) const PACKET_LEN: usize = 1200;

/// Packets of each flow in a round.
pub(super) const FLOW_LEN: usize = 10;

/// Flows of [`round`]: TCP and UDP, over IPv4 and IPv6.
pub(super) const FLOWS: usize = 4;

/// Inner addresses: ours, and the far end's.
const V4: [&str; 2] = ["10.7.0.1", "10.7.0.2"];
const V6: [&str; 2] = ["fd07::1", "fd07::2"];

/// One end of a session.
pub(super) struct End {
    pub(super) device: Device,
    pub(super) port: UdpPort,
    tx: TxPath,
}

impl End {
    /// Ours and the far one, with a session over loopback that both may use.
    pub(super) fn pair() -> [Self; 2] {
        let keys = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
        let mut ends = keys.clone().map(|key| {
            let mut device = Device::new(Box::new(SystemEntropy::new()));
            let update = DeviceUpdate { private_key: Some(Some(key)), ..DeviceUpdate::default() };
            device.apply(update, clock::now()).unwrap();
            let tx = TxPath::new(Arc::clone(device.data_plane()));
            Self { device, port: UdpPort::bind(0, 0).unwrap(), tx }
        });
        let remotes = ends.each_ref().map(|end| (Ipv4Addr::LOCALHOST, end.port.local_port()).into());
        for (index, end) in ends.iter_mut().enumerate() {
            let other = 1 - index;
            let mut peer = PeerUpdate::new(keys[other].public_key());
            peer.endpoint = Some(remotes[other]);
            peer.allowed_ips = [V4, V6].map(|of| AllowedIpChange::Add(prefix(of[other]))).to_vec();
            end.device
                .apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }, clock::now())
                .unwrap();
        }
        let [ours, far] = &mut ends;
        far.seal(&batch(&round(Way::In, 0)[..1]));
        // Initiation, response, and the message that confirms.
        far.settle_with(ours);
        ours.settle_with(far);
        far.settle_with(ours);
        assert!(ends.iter().all(|end| end.device.has_session(clock::now())));
        ends
    }

    /// Seals packets and sends them.
    pub(super) fn send(&mut self, packets: &PacketBatch) {
        let datagrams = self.seal(packets);
        let outcome = self.port.send(&datagrams, clock::now().boot);
        assert_eq!(outcome.failures, []);
    }

    /// Takes datagrams that arrive, until there were so many.
    pub(super) fn receive(&self, count: usize) {
        let mut datagrams = DatagramBatch::with_capacity(8 * RECEIVE_STRIDE, 8);
        let mut received = 0;
        while received < count {
            wait_for(self.port.as_fd());
            self.port.receive(&mut datagrams).unwrap();
            received += datagrams.slots().iter().map(DatagramSlot::segments).sum::<usize>();
        }
        assert_eq!(received, count);
    }

    fn seal(&mut self, packets: &PacketBatch) -> DatagramBatch {
        let mut out = DatagramBatch::with_capacity(TX_SLAB_LEN, 64);
        self.tx.handle_packets(packets, clock::now(), &mut out, &mut PacketBatch::with_capacity(0, 0));
        out
    }

    /// The control half's turn here, and over there with what it sends.
    fn settle_with(&mut self, other: &mut Self) {
        self.device.handle_notices(clock::now());
        let mut datagrams = DatagramBatch::with_capacity(RECEIVE_STRIDE.max(TX_SLAB_LEN), 64);
        self.device.poll_transmit(clock::now(), &mut datagrams);
        assert!(!datagrams.is_empty(), "there is something to say");
        self.port.send(&datagrams, clock::now().boot);
        wait_for(other.port.as_fd());
        other.port.receive(&mut datagrams).unwrap();
        let mut handshakes = Vec::new();
        RxPath::new(Arc::clone(other.device.data_plane())).handle_datagrams(
            &mut datagrams,
            clock::now(),
            &mut PacketBatch::with_capacity(1 << 16, 1),
            &mut |message, path| handshakes.push((message.to_vec(), path)),
        );
        for (message, path) in handshakes {
            other.device.handle_handshake(&message, path, 0, clock::now());
        }
    }
}

/// A TUN that is up, and what its namespace gets and sends by it.
pub(super) struct Tun {
    pub(super) link: Arc<Link>,
    pub(super) shutdown: Arc<Shutdown>,
    socket: OwnedFd,
}

impl Tun {
    pub(super) fn new() -> Self {
        let queue = tun::create("wg0", 1).unwrap().remove(0);
        let shutdown = Shutdown::new().unwrap();
        let link = Arc::new(Link::from_queue(queue, Arc::clone(&shutdown)).unwrap());
        ip("link set wg0 up");
        let index = Netlink::open().unwrap().link_named("wg0").unwrap().unwrap().index;
        Self { link, shutdown, socket: packet_socket::open(index).unwrap() }
    }

    /// What the kernel got from the TUN, as it got it, until there are so many; each behind its offload header.
    pub(super) fn arrivals(&self, count: usize) -> Vec<Vec<u8>> {
        let mut arrivals = Vec::new();
        while arrivals.len() < count {
            wait_for(self.socket.as_fd());
            arrivals.extend(self.arrival());
        }
        arrivals
    }

    /// What has arrived, if there is something.
    pub(super) fn arrival(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1 << 17];
        let len = packet_socket::receive(self.socket.as_fd(), &mut [IoSliceMut::new(&mut frame)]).ok()?;
        frame.truncate(len);
        Some(frame)
    }

    /// Sends a packet, or a super-packet, behind its offload header from the namespace.
    pub(super) fn depart(&self, framed: &[u8]) {
        packet_socket::send(self.socket.as_fd(), &[IoSlice::new(framed)]).unwrap();
    }
}

/// Where a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the far end.
    In,
    /// From the TUN.
    Out,
}

/// Packets of all flows of one way, flow after flow, each behind an offload header that asks for nothing. Those of the
/// next round continue the flows.
pub(super) fn round(way: Way, number: usize) -> Vec<Vec<u8>> {
    let flows = [(V4, protocol::TCP), (V6, protocol::TCP), (V4, protocol::UDP), (V6, protocol::UDP)];
    assert_eq!(flows.len(), FLOWS);
    let of_flow = |([ours, far], transport): ([&'static str; 2], _)| {
        let ends = if way == Way::In { [far, ours] } else { [ours, far] };
        (number * FLOW_LEN..(number + 1) * FLOW_LEN).map(move |index| packet(ends, transport, index))
    };
    flows.into_iter().flat_map(of_flow).collect()
}

pub(super) fn batch(framed: &[Vec<u8>]) -> PacketBatch {
    let mut batch = PacketBatch::with_capacity(framed.iter().map(Vec::len).sum(), framed.len());
    for framed in framed {
        batch.spare()[..framed.len()].copy_from_slice(framed);
        batch.commit(framed.len());
    }
    batch
}

/// Joins packets of [`PACKET_LEN`] as the rx thread does, and as the kernel does.
pub(super) fn join(framed: &[Vec<u8>], config: CoalesceConfig) -> PacketBatch {
    let (slab, mut ranges) = (framed.concat(), Vec::new());
    for start in (0..slab.len()).step_by(VNET_HEADER_LEN + PACKET_LEN) {
        ranges.push(start + VNET_HEADER_LEN..start + VNET_HEADER_LEN + PACKET_LEN);
    }
    let mut out = PacketBatch::with_capacity(Coalescer::room(slab.len(), ranges.len()), ranges.len());
    Coalescer::new(config).coalesce(&slab, &ranges, &mut out);
    out
}

/// Packet `index` of a flow.
fn packet([source, destination]: [&str; 2], transport: u8, index: usize) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let mut packet = vec![0; VNET_HEADER_LEN];
    let header_len = if source.is_ipv4() { 20 } else { 40 };
    let transport_len = u16::try_from(PACKET_LEN - header_len).unwrap();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend(u16::try_from(PACKET_LEN).unwrap().to_be_bytes());
            header.extend(u16::try_from(index).unwrap().to_be_bytes());
            header.extend([0x40, 0, 64, transport, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = Sum::ZERO.bytes(&header).checksum();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(transport_len.to_be_bytes());
            packet.extend([transport, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("one family"),
    }
    let mut segment = vec![0, 80, 0x90, 1];
    let checksum_at = if transport == protocol::TCP {
        let sequence = u32::try_from(index * (usize::from(transport_len) - 20)).unwrap();
        segment.extend(sequence.to_be_bytes());
        segment.extend([0, 0, 0, 1, 0x50, 0x10, 0, 0xff, 0, 0, 0, 0]);
        16
    } else {
        segment.extend(transport_len.to_be_bytes());
        segment.extend([0, 0]);
        6
    };
    // No two packets have the same content.
    let fill = (segment.len()..transport_len.into()).map(|at| u8::try_from((at + index * 7) % 251).unwrap());
    segment.extend(fill);
    let sum = Sum::pseudo_header(source, destination, transport, transport_len.into()).bytes(&segment);
    segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    packet.extend(segment);
    packet
}

fn prefix(address: &str) -> ipnet::IpNet {
    address.parse::<IpAddr>().unwrap().into()
}

/// Waits until there is something to read; long enough for any machine.
#[track_caller]
pub(super) fn wait_for(fd: BorrowedFd<'_>) {
    assert!(wait::readable(fd, Some(Duration::from_secs(20))).unwrap(), "nothing arrived within 20 s");
}
