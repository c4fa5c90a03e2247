//! What splitting and joining promise together, checked against the plain model. (tests)

use proptest::prelude::*;

use wg4netns::packet::batch::PacketBatch;
use wg4netns::packet::coalesce::{CoalesceConfig, Coalesced, Coalescer};

use crate::fuzz_corpus::coalesce::join;
use crate::fuzz_corpus::vnet_split::{LAYOUT, compare, split_all};
use crate::packet_model as model;

const BOTH: CoalesceConfig = CoalesceConfig { tcp: true, udp: true };

proptest! {
    #[test]
    fn joining_keeps_every_packet_and_every_flows_order(
        script in proptest::collection::vec(0_u8.., 0..400), tcp: bool, udp: bool,
    ) {
        let packets = model::traffic(&script);
        let (framed, _) = join(&packets, CoalesceConfig { tcp, udp });
        model::check_coalesced(&packets, &framed);
    }

    #[test]
    fn splitting_what_was_joined_gives_the_packets_back(flow in 0_u8..7, count in 1_usize..80) {
        let packets = model::traffic(&[flow, 0, 0].repeat(count));
        let (framed, _) = join(&packets, BOTH);
        let mut found = Vec::new();
        for one in &framed {
            found.extend(split_all(one, &LAYOUT).unwrap().0);
        }
        let plain = |packets: &[Vec<u8>]| packets.iter().map(|packet| model::without_atomic_id(packet)).collect::<Vec<_>>();
        assert_eq!(plain(&found), plain(&packets));
    }

    #[test]
    fn splitting_agrees_with_the_model_on_altered_super_packets(
        flow in 0_u8..7,
        count in 1_usize..80,
        size in 0_u16..2000,
        changes in proptest::collection::vec((0_usize..120, 0_u8..), 0..4),
        cut in 0_usize..200,
    ) {
        let packets = model::traffic(&[flow, 0, 0].repeat(count));
        let (mut framed, _) = join(&packets, BOTH);
        for one in &mut framed {
            if size > 400 {
                one[4..6].copy_from_slice(&size.to_ne_bytes());
            }
            for (at, value) in &changes {
                let at = *at % one.len();
                one[at] ^= value;
            }
            if cut < 20 {
                one.truncate(one.len().saturating_sub(cut));
            }
            compare(one, &LAYOUT);
        }
    }

    #[test]
    fn splitting_agrees_with_the_model_on_any_bytes(
        vnet in (0_u8..4, prop_oneof![Just(0_u8), Just(1), Just(4), Just(5), Just(0x81), 0_u8..], 0_u16..100, 0_u16..600, 0_u16..80, 0_u16..20),
        version in prop_oneof![Just(4_u8), Just(6), 0_u8..16],
        bytes in proptest::collection::vec(0_u8.., 0..600),
        protocol in prop_oneof![Just(6_u8), Just(17), Just(0), Just(43), Just(44), Just(51), Just(60)],
    ) {
        let mut framed = vec![vnet.0, vnet.1];
        for field in [vnet.2, vnet.3, vnet.4, vnet.5] {
            framed.extend(field.to_ne_bytes());
        }
        framed.extend(bytes);
        let len = framed.len() - 10;
        if len >= 40 {
            // Random lengths would all be refused; make them right, and the header short.
            let packet = &mut framed[10..];
            packet[0] = version << 4 | 5;
            let (length_at, length, protocol_at) = if version == 4 { (2, len, 9) } else { (4, len - 40, 6) };
            packet[length_at..length_at + 2].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            packet[protocol_at] = protocol;
            if version == 4 {
                packet[6] &= 0x40;
                packet[7] = 0;
            }
        }
        compare(&framed, &LAYOUT);
    }
}

#[test]
fn a_full_window_of_one_flow_becomes_one_write() {
    for flow in 0..7 {
        let packets = model::traffic(&[flow, 0, 0].repeat(40));
        let (framed, outcome) = join(&packets, BOTH);
        // Flow 6's ids may not be skipped, and they are not: 40 times 900 bytes are one packet.
        assert_eq!((framed.len(), outcome.packets), (1, 40), "flow {flow}");
    }
}

#[test]
fn interleaved_flows_are_each_joined() {
    let packets = model::traffic(&[0, 0, 0, 4, 0, 0, 1, 0, 0, 5, 0, 0, 2, 0, 0].repeat(20));
    assert_eq!(join(&packets, BOTH).0.len(), 5);
}

#[test]
fn sixty_four_packets_are_joined_at_most() {
    let packets = model::traffic(&[0, 0, 0].repeat(130));
    assert_eq!(join(&packets, BOTH).0.len(), 3);
}

#[test]
fn datagrams_to_tunnel_ports_stay_apart() {
    let packets = model::traffic(&[7, 0, 0].repeat(5));
    assert_eq!(join(&packets, BOTH).0.len(), 5);
}

#[test]
fn what_is_switched_off_stays_apart() {
    let packets = model::traffic(&[0, 0, 0, 4, 0, 0].repeat(5));
    assert_eq!(join(&packets, CoalesceConfig { tcp: false, udp: true }).0.len(), 6);
    assert_eq!(join(&packets, CoalesceConfig { tcp: true, udp: false }).0.len(), 6);
    assert_eq!(join(&packets, CoalesceConfig { tcp: false, udp: false }).0.len(), 10);
}

#[test]
fn a_corrupted_packet_goes_on_alone_and_is_not_blessed() {
    let mut packets = model::traffic(&[0, 0, 0].repeat(9));
    packets[4][60] ^= 1;
    let (framed, _) = join(&packets, BOTH);
    assert_eq!(framed.iter().map(|one| one[1]).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(framed[1], [&[0; 10], packets[4].as_slice()].concat());
    model::check_coalesced(&packets, &framed);
}

#[test]
fn a_full_output_leaves_packets_out_and_says_how_many() {
    let packets = model::traffic(&[0, 0, 0, 1, 0, 0].repeat(4));
    let slab = packets.concat();
    let mut at = 0;
    let ranges: Vec<_> = packets
        .iter()
        .map(|packet| {
            at += packet.len();
            at - packet.len()..at
        })
        .collect();
    let room: usize = packets.iter().step_by(2).map(|packet| packet.len() + 10).sum();
    let mut out = PacketBatch::with_capacity(room, 8);
    let outcome = Coalescer::new(BOTH).coalesce(&slab, &ranges, &mut out);
    assert_eq!(outcome, Coalesced { packets: 4, malformed: 0, no_room: 4 });
}
