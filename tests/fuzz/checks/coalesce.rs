//! Joining keeps every packet, its bytes and the order of each flow. (fuzz check)

use wg4netns::packet::batch::PacketBatch;
use wg4netns::packet::coalesce::{CoalesceConfig, Coalesced, Coalescer};

use crate::packet_model as model;

/// The first byte chooses what is joined; the others are a script of traffic, or packets as they are.
pub(crate) fn check(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let config = CoalesceConfig { tcp: choice & 1 != 0, udp: choice & 2 != 0 };
    let packets = if choice & 4 == 0 { model::traffic(rest) } else { pieces(rest) };
    let (framed, _) = join(&packets, config);
    model::check_coalesced(&packets, &framed);
}

/// Bytes as packets: each piece is as long as its first byte says.
fn pieces(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some((len, rest)) = bytes.split_first() {
        let (packet, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        packets.push(packet.to_vec());
        bytes = behind;
    }
    packets
}

/// Joins twice, because the tables of one call must not be seen by the next; returns what would be written.
pub(crate) fn join(packets: &[Vec<u8>], config: CoalesceConfig) -> (Vec<Vec<u8>>, Coalesced) {
    let mut slab = Vec::new();
    let ranges: Vec<_> = packets
        .iter()
        .map(|packet| {
            let start = slab.len();
            slab.extend(packet);
            start..slab.len()
        })
        .collect();
    let mut out = PacketBatch::with_capacity(Coalescer::room(slab.len(), packets.len()), packets.len());
    let mut coalescer = Coalescer::new(config);
    let first = coalescer.coalesce(&slab, &ranges, &mut out);
    let once: Vec<Vec<u8>> = out.iter().map(<[u8]>::to_vec).collect();
    out.clear();
    assert_eq!(coalescer.coalesce(&slab, &ranges, &mut out), first);
    assert!(out.iter().eq(once.iter().map(Vec::as_slice)));
    assert_eq!(first.packets + first.malformed, packets.len());
    assert_eq!(first.no_room, 0);
    (once, first)
}
