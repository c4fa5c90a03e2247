//! The two data paths whole, without IO: route, split, seal; find the session, open, window, source, coalesce.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::crypto::{Entropy, SystemEntropy};
use wg4netns::key::{PrivateKey, PublicKey};
use wg4netns::packet::batch::{DatagramBatch, PacketBatch, Path, VNET_HEADER_LEN};
use wg4netns::packet::vnet::{GsoType, VnetHeader};
use wg4netns::time::{BootTime, Now, WallTime};
use wg4netns::wireguard::{Device, RxPath, TX_SLAB_LEN, TxPath};

const NOW: Now =
    Now { boot: BootTime::from_nanos(1 << 40), wall: WallTime { secs: 1_700_000_000, nanos: 0 } };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("tunnel");
    for (name, packets) in [
        ("TCP super-packet, 45 of 1420 bytes", vec![tcp_super_packet(45 * 1368)]),
        ("one packet of 1420 bytes", vec![udp(1392)]),
        ("64 packets of 64 bytes", vec![udp(36); 64]),
    ] {
        for peers in [1, 10_000] {
            let mut pair = Pair::new(peers);
            let batch = batch(&packets);
            let bytes = packets.iter().map(Vec::len).sum::<usize>() as u64;
            group.throughput(Throughput::Bytes(bytes));
            let mut out = DatagramBatch::with_capacity(TX_SLAB_LEN, 64);
            let mut replies = PacketBatch::with_capacity(4096, 8);
            group.bench_function(format!("tx, {peers} peers, {name}"), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    pair.tx.handle_packets(black_box(&batch), NOW, &mut out, &mut replies);
                });
            });
            assert!(replies.is_empty() && !out.is_empty());
            let mut delivered = PacketBatch::with_capacity(1 << 18, 64);
            group.bench_function(format!("rx, {peers} peers, {name}"), |bencher| {
                bencher.iter_batched_ref(
                    || {
                        let mut out = DatagramBatch::with_capacity(1 << 17, 64);
                        seal(&mut pair.tx, &batch, &mut out);
                        out
                    },
                    |datagrams| {
                        delivered.clear();
                        pair.rx.handle_datagrams(black_box(datagrams), NOW, &mut delivered, &mut |_, _| {});
                    },
                    BatchSize::LargeInput,
                );
            });
            assert!(!delivered.is_empty());
        }
    }
    group.finish();
    criterion.final_summary();
}

/// The sending end of one device, which may have many peers, and the receiving end of one of those.
struct Pair {
    tx: TxPath,
    rx: RxPath,
    devices: [Device; 2],
}

fn seal(tx: &mut TxPath, packets: &PacketBatch, out: &mut DatagramBatch) {
    let mut replies = PacketBatch::with_capacity(0, 0);
    tx.handle_packets(packets, NOW, out, &mut replies);
}

impl Pair {
    fn new(peers: u32) -> Self {
        let keys = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
        let mut devices = keys.clone().map(|key| {
            let mut device = Device::new(Box::new(SystemEntropy::new()));
            let update = DeviceUpdate { private_key: Some(Some(key)), ..DeviceUpdate::default() };
            device.apply(update, NOW).expect("there is room");
            device
        });
        let mut update =
            DeviceUpdate { peers: vec![peer(&keys[1], "10.0.0.2/32")], ..DeviceUpdate::default() };
        for number in 1..peers {
            let mut key = [0; 32];
            SystemEntropy::new().fill(&mut key);
            let mut other = PeerUpdate::new(PublicKey::from_bytes(key));
            let prefix = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 2 + number));
            other.allowed_ips = vec![AllowedIpChange::Add(prefix.into())];
            update.peers.push(other);
        }
        devices[0].apply(update, NOW).expect("there is room");
        let update = DeviceUpdate { peers: vec![peer(&keys[0], "10.0.0.1/32")], ..DeviceUpdate::default() };
        devices[1].apply(update, NOW).expect("there is room");
        let tx = TxPath::new(Arc::clone(devices[0].data_plane()));
        let rx = RxPath::new(Arc::clone(devices[1].data_plane()));
        let mut pair = Self { tx, rx, devices };
        pair.shake_hands();
        pair
    }

    fn shake_hands(&mut self) {
        let mut out = DatagramBatch::with_capacity(TX_SLAB_LEN, 64);
        seal(&mut self.tx, &batch(&[udp(10)]), &mut out);
        for from in [0, 1, 0] {
            let [a, b] = &mut self.devices;
            let (from, to) = if from == 0 { (a, b) } else { (b, a) };
            from.handle_notices(NOW);
            out.clear();
            from.poll_transmit(NOW, &mut out);
            let mut handshakes = Vec::new();
            let mut packets = PacketBatch::with_capacity(1 << 16, 8);
            RxPath::new(Arc::clone(to.data_plane())).handle_datagrams(
                &mut out,
                NOW,
                &mut packets,
                &mut |message, path| handshakes.push((message.to_vec(), path)),
            );
            for (message, path) in handshakes {
                to.handle_handshake(&message, path, 0, NOW);
            }
        }
    }
}

fn peer(key: &PrivateKey, prefix: &str) -> PeerUpdate {
    let mut peer = PeerUpdate::new(key.public_key());
    peer.endpoint = Some(Path::to((Ipv4Addr::LOCALHOST, 9).into()).remote);
    peer.allowed_ips = vec![AllowedIpChange::Add(prefix.parse().expect("a prefix"))];
    peer
}

fn batch(packets: &[Vec<u8>]) -> PacketBatch {
    let mut batch = PacketBatch::with_capacity(packets.iter().map(Vec::len).sum(), packets.len());
    for packet in packets {
        batch.spare()[..packet.len()].copy_from_slice(packet);
        batch.commit(packet.len());
    }
    batch
}

fn ipv4(protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[2..4].copy_from_slice(&u16::try_from(len).expect("an IP packet").to_be_bytes());
    let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("one carry is enough here");
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Behind an empty virtio-net header; without a checksum, which UDP allows.
fn udp(payload_len: usize) -> Vec<u8> {
    let mut packet = ipv4(17, 28 + payload_len);
    let len = u16::try_from(8 + payload_len).expect("a datagram");
    packet.extend([0, 80, 0x90, 1]);
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0]);
    packet.resize(28 + payload_len, 0x37);
    [[0; VNET_HEADER_LEN].as_slice(), &packet].concat()
}

fn tcp_super_packet(payload_len: usize) -> Vec<u8> {
    let vnet = VnetHeader {
        needs_checksum: true,
        checksum_start: 20,
        checksum_offset: 16,
        gso_type: GsoType::TcpV4,
        gso_size: 1368,
        ..VnetHeader::default()
    };
    let mut packet = ipv4(6, 52 + payload_len);
    packet.extend([0, 80, 0x90, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0x10, 0, 0xff, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.resize(52 + payload_len, 0x37);
    [&vnet.emit(), packet.as_slice()].concat()
}
