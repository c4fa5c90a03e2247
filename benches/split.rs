//! Cutting what the TUN delivers, beside a plain copy of as many bytes.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use wg4netns::packet::checksum::Sum;
use wg4netns::packet::split::{SegmentLayout, split};
use wg4netns::packet::vnet::{GsoType, VnetHeader};

const LAYOUT: SegmentLayout = SegmentLayout { headroom: 16, tailroom: 16, mtu: 1420 };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("split");
    let one = VnetHeader::default();
    let left_over = VnetHeader { needs_checksum: true, checksum_start: 20, checksum_offset: 16, ..one };
    let tso = VnetHeader { gso_type: GsoType::TcpV4, gso_size: 1368, ..left_over };
    let uso = |gso_size| VnetHeader { gso_type: GsoType::UdpL4, gso_size, checksum_offset: 6, ..left_over };
    for (name, framed) in [
        ("one packet of 1420 bytes", tcp(&one, 1368)),
        ("one packet of 1420 bytes, checksum left over", tcp(&left_over, 1368)),
        ("TCP super-packet, 45 of 1420 bytes", tcp(&tso, 45 * 1368)),
        ("UDP super-packet, 45 of 1420 bytes", udp(&uso(1392), 45 * 1392)),
        ("UDP super-packet, 64 of 64 bytes", udp(&uso(36), 64 * 36)),
    ] {
        let mut out = vec![0; LAYOUT.room()];
        group.throughput(Throughput::Bytes(framed.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| split(black_box(&framed), &LAYOUT, black_box(&mut out)).expect("well formed"));
        });
    }
    let from = vec![1; 64_000];
    let mut to = vec![0; 64_000];
    group.throughput(Throughput::Bytes(64_000));
    group.bench_function("plain copy of 64 000 bytes", |bencher| {
        bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    });
    group.finish();
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(1420));
    group.bench_function("1420 bytes", |bencher| bencher.iter(|| Sum::ZERO.bytes(black_box(&from[..1420]))));
    group.bench_function("1420 bytes and copy", |bencher| {
        bencher.iter(|| Sum::ZERO.copy(black_box(&from[..1420]), black_box(&mut to[..1420])));
    });
    group.finish();
    criterion.final_summary();
}

fn ipv4(protocol: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[2..4].copy_from_slice(&u16::try_from(len).expect("an IP packet").to_be_bytes());
    packet
}

fn tcp(vnet: &VnetHeader, payload_len: usize) -> Vec<u8> {
    let mut packet = ipv4(6, 20 + 32 + payload_len);
    packet.extend([0, 80, 0x90, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0x10, 0, 0xff, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.resize(52 + payload_len, 0x37);
    [&vnet.emit(), packet.as_slice()].concat()
}

fn udp(vnet: &VnetHeader, payload_len: usize) -> Vec<u8> {
    let mut packet = ipv4(17, 28 + payload_len);
    packet.extend([0, 53, 0x90, 1, 0, 0, 0, 0]);
    packet[24..26].copy_from_slice(&u16::try_from(8 + payload_len).expect("a datagram").to_be_bytes());
    packet.resize(28 + payload_len, 0x37);
    [&vnet.emit(), packet.as_slice()].concat()
}
