//! Joining what a receive brought into super-packets, beside the same packets passed through.

use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, Throughput};
use wg4netns::packet::batch::PacketBatch;
use wg4netns::packet::checksum::Sum;
use wg4netns::packet::coalesce::{CoalesceConfig, Coalescer};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("coalesce");
    for (name, joins, writes, packets) in [
        ("45 TCP segments of 1420 bytes, one flow", true, 1, tcp(45, 1, 1368)),
        ("45 TCP segments of 1420 bytes, nine flows", true, 9, tcp(45, 9, 1368)),
        ("45 TCP segments of 1420 bytes, 45 flows", true, 45, tcp(45, 45, 1368)),
        ("64 UDP datagrams of 92 bytes, one flow", true, 1, udp(64, 64)),
        ("64 acknowledgements, one flow", true, 64, tcp(64, 1, 0)),
        ("45 TCP segments of 1420 bytes, joining off", false, 45, tcp(45, 1, 1368)),
    ] {
        let (slab, ranges) = slab(&packets);
        let mut out = PacketBatch::with_capacity(Coalescer::room(slab.len(), ranges.len()), 64);
        let mut coalescer = Coalescer::new(CoalesceConfig { tcp: joins, udp: joins });
        group.throughput(Throughput::Elements(ranges.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                coalescer.coalesce(black_box(&slab), black_box(&ranges), &mut out)
            });
        });
        assert_eq!(out.len(), writes, "{name}");
    }
    group.finish();
    criterion.final_summary();
}

/// The packets as they lie after decryption: one to a stride, padded to 16.
fn slab(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut slab = Vec::new();
    let mut ranges = Vec::new();
    for packet in packets {
        slab.extend([0; 16]);
        let start = slab.len();
        slab.extend(packet);
        slab.resize(start + packet.len().next_multiple_of(16), 0);
        ranges.push(start..slab.len());
        slab.extend([0; 16]);
    }
    (slab, ranges)
}

/// Packet `index` of IPv4 with right checksums.
fn packet(index: usize, protocol: u8, transport: &[u8], checksum_at: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[4..6].copy_from_slice(&u16::try_from(index).expect("few packets").to_be_bytes());
    let len = u16::try_from(20 + transport.len()).expect("an IP packet");
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = Sum::ZERO.bytes(&packet).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(transport);
    let addresses = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let sum = Sum::pseudo_header(addresses.0, addresses.1, protocol, u32::from(len) - 20).bytes(transport);
    packet[20 + checksum_at..22 + checksum_at].copy_from_slice(&sum.checksum().to_be_bytes());
    packet
}

fn tcp(count: usize, flows: usize, payload_len: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| {
            let flow = u8::try_from(index % flows).expect("few flows");
            let sequence = u32::try_from(index / flows * payload_len).expect("few bytes");
            let mut segment = vec![0, 80, 0x90, flow];
            segment.extend(sequence.to_be_bytes());
            segment
                .extend([0, 0, 0, 1, 0x80, 0x10, 0, 0xff, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
            segment.resize(32 + payload_len, 0x37);
            packet(index, 6, &segment, 16)
        })
        .collect()
}

fn udp(count: usize, payload_len: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| {
            let mut datagram = vec![0x90, 1, 1, 187, 0, 0, 0, 0];
            let len = u16::try_from(8 + payload_len).expect("a datagram");
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
            datagram.resize(8 + payload_len, 0x37);
            packet(index, 17, &datagram, 6)
        })
        .collect()
}
