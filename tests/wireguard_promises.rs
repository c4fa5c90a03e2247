//! The promises of WireGuard, W1–W14, each a test or several under its number.

use std::net::SocketAddr;
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::crypto;
use wg4netns::key::{PresharedKey, PrivateKey, PublicKey};
use wg4netns::packet::batch::{LocalAddress, Path};
use wg4netns::wireguard::{DeviceEvent, DropReason, MAX_QUEUED_HANDSHAKES};

use crate::wireguard_node::{Datagram, Node, Random, after, at, packet, packet_of, write_mac1};
use crate::wireguard_pair::{Pair, back, framed, kinds, secs, there};

fn from(address: &str, to: &Node, bytes: &[u8]) -> Datagram {
    Datagram {
        from: address.parse().expect("an address"),
        to: to.address,
        source: None,
        traffic_class: 0,
        bytes: bytes.to_vec(),
    }
}

#[test]
fn w01_silence_to_everything_that_is_not_authentic() {
    let mut pair = Pair::connected();
    pair.a.send(&there(100), at(1));
    let data = pair.a.take_sent().remove(0);
    let mut fresh = Pair::new();
    fresh.a.send(&there(100), at(1));
    let initiation = fresh.a.take_sent().remove(0);
    let mut random = Random::new(7);
    let before = (pair.b.peer_status(pair.a.public_key, at(1)), pair.b.device.poll_timeout());
    for round in 0..20_000_u64 {
        let mut bytes: Vec<u8> = match round % 8 {
            0 => vec![0; usize::try_from(random.below(1600)).unwrap()],
            1 => data.bytes.clone(),
            2 => initiation.bytes.clone(),
            3 => vec![1; 148],
            4 => vec![2; 92],
            5 => vec![3; 64],
            6 => data.bytes[..usize::try_from(random.below(data.bytes.len() as u64)).unwrap()].to_vec(),
            _ => initiation.bytes[..usize::try_from(random.below(148)).unwrap()].to_vec(),
        };
        match round % 8 {
            0 | 3 | 4 | 5 => {
                let kind = bytes.first().copied().unwrap_or_default();
                crypto::Entropy::fill(&mut random, &mut bytes);
                if kind != 0 {
                    bytes[..4].copy_from_slice(&u32::from(kind).to_le_bytes());
                }
            }
            1 | 2 => {
                // Not the MACs: MAC2 counts only under load, and MAC1 may be mended below. Nor the sender's index,
                // which nothing but MAC1 protects.
                let mut at = usize::try_from(random.below(bytes.len().min(116) as u64)).unwrap();
                if (4..8).contains(&at) {
                    at += 4;
                }
                bytes[at] ^= 1 << random.below(8);
            }
            _ => {}
        }
        if round % 3 == 0 && bytes.len() >= 60 {
            write_mac1(&mut bytes, pair.b.public_key);
        }
        pair.b.receive(&[from("198.51.100.9:9", &pair.b, &bytes)], at(1));
        assert_eq!(pair.b.take_sent(), [], "round {round}: {bytes:02x?}");
        assert!(pair.b.delivered.is_empty());
    }
    assert_eq!((pair.b.peer_status(pair.a.public_key, at(1)), pair.b.device.poll_timeout()), before);
    // The intact messages still work.
    pair.b.receive(&[data], at(1));
    assert_eq!(pair.b.take_delivered(), [there(100)]);
}

#[test]
fn w01_an_empty_datagram_and_an_oversized_one_are_nothing() {
    let mut pair = Pair::connected();
    pair.b.receive(
        &[from("198.51.100.9:9", &pair.b, &[]), from("198.51.100.9:9", &pair.b, &[4; 65_507])],
        at(1),
    );
    assert_eq!(pair.b.take_sent(), []);
    pair.ping(at(2));
}

/// Junk with valid MAC1 from as many sources as the trickle under load and a bit more.
fn exhaust_the_trickle(node: &mut Node, now: wg4netns::time::Now) -> Vec<Datagram> {
    for host in 0..200 {
        let mut junk = [1; 148];
        junk[1..4].fill(0);
        write_mac1(&mut junk, node.public_key);
        node.receive(&[from(&format!("203.0.113.{host}:9"), node, &junk)], now);
    }
    node.take_sent()
}

#[test]
fn w02_under_load_a_cookie_is_demanded_that_is_bound_to_address_and_port() {
    let mut pair = Pair::new();
    pair.b.queued = MAX_QUEUED_HANDSHAKES / 8;
    let challenges = exhaust_the_trickle(&mut pair.b, at(0));
    assert!(challenges.iter().all(|reply| reply.kind() == 3 && reply.bytes.len() == 64));
    pair.a.send(&there(10), at(0));
    let wire = pair.exchange(at(0));
    // The cookie is not answered at once: under a flood that would be a second flood.
    assert_eq!(kinds(&wire), [1, 3]);
    assert_eq!(pair.a.peer_status(pair.b.public_key, at(1)).trouble.cookie_replies, 1);

    let log = pair.run_cut(secs(0), Duration::from_millis(5400));
    let [(sent_at, initiation)] = log.as_slice() else { panic!("one retransmission, not {log:?}") };
    assert_ne!(initiation.bytes[132..], [0; 16], "MAC2 is there");
    exhaust_the_trickle(&mut pair.b, after(*sent_at));
    let moved = Datagram { from: "192.0.2.1:9999".parse().unwrap(), ..initiation.clone() };
    pair.b.receive(&[moved], after(*sent_at));
    assert_eq!(kinds(&pair.b.take_sent()), [3], "the cookie belongs to another port");
    pair.b.receive(std::slice::from_ref(initiation), after(*sent_at));
    let wire = pair.exchange(after(*sent_at));
    assert_eq!(kinds(&wire), [2, 4]);
    assert_eq!(pair.b.take_delivered(), [there(10)]);
}

#[test]
fn w02_without_load_there_is_no_cookie() {
    let mut pair = Pair::new();
    pair.b.queued = 0;
    assert_eq!(exhaust_the_trickle(&mut pair.b, at(0)), []);
    pair.ping(at(0));
}

#[test]
fn w03_each_datagram_is_taken_once_and_reordering_within_8128_is_no_loss() {
    let mut pair = Pair::connected();
    let packets: Vec<Vec<u8>> =
        (0..8200_u16).map(|n| packet("10.0.0.1", "10.0.0.2", &n.to_be_bytes())).collect();
    for chunk in packets.chunks(60) {
        let framed: Vec<_> = chunk.iter().map(|packet| framed(packet)).collect();
        pair.a.send_batch(&framed.iter().map(Vec::as_slice).collect::<Vec<_>>(), at(1));
    }
    let datagrams = pair.a.take_sent();
    assert_eq!(datagrams.len(), 8200);
    pair.b.receive(&datagrams[8199..], at(1));
    for (number, datagram) in datagrams.iter().enumerate().rev().skip(1) {
        pair.b.receive(std::slice::from_ref(datagram), at(1));
        let delivered = pair.b.take_delivered().len();
        assert!(delivered > 0 || number < 8199 - 8128, "datagram {number}");
    }
    assert_eq!(pair.b.drops(DropReason::Replayed), 8199 - 8128);
    pair.b.receive(&datagrams, at(1));
    assert_eq!(pair.b.take_delivered(), Vec::<Vec<u8>>::new());
}

#[test]
fn w04_an_old_initiation_is_refused_whatever_was_reconfigured_since() {
    let mut pair = Pair::new();
    pair.a.send(&there(10), at(0));
    let old = pair.a.take_sent().remove(0);
    pair.b.receive(std::slice::from_ref(&old), at(0));
    assert_eq!(kinds(&pair.b.take_sent()), [2]);

    let mut change = PeerUpdate::new(pair.a.public_key);
    change.preshared_key = Some(Some(PresharedKey::from_bytes([9; 32])));
    change.endpoint = Some("192.0.2.77:7".parse().unwrap());
    change.replace_allowed_ips = true;
    change.allowed_ips = vec![AllowedIpChange::Add("10.9.9.9/32".parse().unwrap())];
    change.persistent_keepalive = Some(0);
    pair.b.update_peer(change, at(1));
    let new_key = Some(Some(PrivateKey::from_bytes([0x44; 32])));
    let old_key = pair.b.status(at(1)).private_key;
    pair.b.update(DeviceUpdate { private_key: new_key, ..DeviceUpdate::default() }, at(1));
    pair.b.update(DeviceUpdate { private_key: Some(old_key), ..DeviceUpdate::default() }, at(1));
    pair.b.take_sent();
    pair.b.receive(&[old], at(60));
    assert_eq!(pair.b.take_sent(), []);
    assert_eq!(pair.b.drops(DropReason::StaleTimestamp), 1);
}

#[test]
fn w04_initiations_less_than_20_ms_apart_are_dropped() {
    let mut pair = Pair::new();
    let key = pair.b.public_key;
    let send_initiation = |pair: &mut Pair, millis| {
        let now = after(Duration::from_millis(millis));
        let remove = PeerUpdate { remove: true, ..PeerUpdate::new(key) };
        pair.a.update_peer(remove, now);
        pair.a.add_peer(&pair.b, &["10.0.0.2/32"], true, now);
        pair.a.send(&there(1), now);
        let sent = pair.a.take_sent();
        pair.b.receive(&sent, now);
        pair.b.take_sent().len()
    };
    assert_eq!(send_initiation(&mut pair, 0), 1);
    assert_eq!(send_initiation(&mut pair, 19), 0);
    assert_eq!(send_initiation(&mut pair, 20), 1);
    assert_eq!(pair.b.drops(DropReason::TooFrequent), 1);
}

#[test]
fn w04_three_stale_initiations_are_told_about() {
    let mut pair = Pair::new();
    pair.a.send(&there(1), at(0));
    let initiation = pair.a.take_sent();
    for second in 0..5 {
        pair.b.receive(&initiation, at(second));
    }
    let stale = DeviceEvent::StaleTimestamp { peer: pair.a.public_key };
    assert_eq!(pair.b.events.iter().filter(|event| **event == stale).count(), 1);
    assert_eq!(pair.b.peer_status(pair.a.public_key, at(5)).trouble.stale_timestamps, 4);
}

#[test]
fn w05_the_endpoint_follows_authenticated_datagrams_and_nothing_else() {
    let mut pair = Pair::connected();
    let (alice, key) = (pair.a.address, pair.a.public_key);
    pair.a.send(&there(10), at(1));
    pair.a.send(&there(11), at(1));
    let datagrams = pair.a.take_sent();
    pair.b.receive(&datagrams[..1], at(1));
    let endpoint = |node: &Node| node.peer_status(key, at(1)).endpoint;

    let mut forged = datagrams[1].bytes.clone();
    forged[40] ^= 1;
    pair.b.receive(&[from("198.51.100.1:1", &pair.b, &forged)], at(1));
    assert_eq!(endpoint(&pair.b), Some(alice), "forged");
    pair.b.receive(&[from("198.51.100.1:1", &pair.b, &datagrams[0].bytes)], at(1));
    assert_eq!(endpoint(&pair.b), Some(alice), "replayed");
    pair.b.receive(&[from("198.51.100.1:1", &pair.b, &datagrams[1].bytes)], at(1));
    let moved: SocketAddr = "198.51.100.1:1".parse().unwrap();
    assert_eq!(endpoint(&pair.b), Some(moved), "authentic");
    let roamed = DeviceEvent::Roamed { peer: key, from: Some(alice), to: moved };
    assert!(pair.b.events.contains(&roamed), "{:?}", pair.b.events);
    pair.b.send(&back(10), at(2));
    assert_eq!(pair.b.take_sent()[0].to, moved);
}

#[test]
fn w05_a_cookie_reply_from_elsewhere_moves_nothing() {
    let mut pair = Pair::new();
    pair.b.queued = MAX_QUEUED_HANDSHAKES / 8;
    exhaust_the_trickle(&mut pair.b, at(0));
    pair.a.send(&there(10), at(0));
    let initiation = pair.a.take_sent();
    pair.b.receive(&initiation, at(0));
    let cookie = pair.b.take_sent().remove(0);
    assert_eq!(cookie.kind(), 3);
    pair.a.receive(&[from("198.51.100.1:1", &pair.a, &cookie.bytes)], at(0));
    let status = pair.a.peer_status(pair.b.public_key, at(0));
    assert_eq!((status.endpoint, status.trouble.cookie_replies), (Some(pair.b.address), 1));
}

#[test]
fn w06_packets_go_to_the_longest_prefix_and_must_come_from_it() {
    let mut hub = Node::new(1, "192.0.2.1:1");
    let mut wide = Node::new(2, "192.0.2.2:2");
    let mut narrow = Node::new(3, "192.0.2.3:3");
    hub.add_peer(&wide, &["10.0.0.0/8"], true, at(0));
    hub.add_peer(&narrow, &["10.1.0.0/16"], true, at(0));
    for spoke in [&mut wide, &mut narrow] {
        spoke.add_peer(&hub, &["0.0.0.0/0"], true, at(0));
        spoke.send(&packet("10.9.9.9", "10.0.0.1", b"hello"), at(0));
        for _ in 0..4 {
            hub.receive(&spoke.take_sent(), at(0));
            spoke.receive(&hub.take_sent(), at(0));
        }
    }
    assert_eq!(hub.take_delivered(), [packet("10.9.9.9", "10.0.0.1", b"hello")], "from the wide peer only");
    assert_eq!(hub.drops(DropReason::WrongSource), 1);

    hub.send(&packet("10.0.0.1", "10.1.2.3", b"x"), at(1));
    assert_eq!(hub.take_sent()[0].to, narrow.address);
    hub.send(&packet("10.0.0.1", "10.2.2.3", b"x"), at(1));
    assert_eq!(hub.take_sent()[0].to, wide.address);

    // The peer of the wide prefix may not speak for the narrow one, though its own prefix holds the address.
    wide.send(&packet("10.1.2.3", "10.0.0.1", b"spoofed"), at(1));
    hub.receive(&wide.take_sent(), at(1));
    assert_eq!(hub.take_delivered(), Vec::<Vec<u8>>::new());
    assert_eq!(hub.drops(DropReason::WrongSource), 2);

    // A prefix that is given to another peer moves there.
    let mut thief = PeerUpdate::new(wide.public_key);
    thief.allowed_ips = vec![AllowedIpChange::Add("10.1.0.0/16".parse().unwrap())];
    hub.update_peer(thief, at(2));
    hub.send(&packet("10.0.0.1", "10.1.2.3", b"x"), at(2));
    assert_eq!(hub.take_sent()[0].to, wide.address);
    assert!(hub.peer_status(narrow.public_key, at(2)).allowed_ips.is_empty());
}

#[test]
fn w06_a_packet_without_a_peer_is_answered_and_counted() {
    let mut pair = Pair::connected();
    let (source, resolver) = ("10.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap());
    let udp = packet_of(17, source, resolver, 0, &[0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    for _ in 0..12 {
        pair.a.send(&udp, at(1));
    }
    assert_eq!(pair.a.take_sent(), []);
    assert_eq!(pair.a.replies.len(), 12);
    assert_eq!((pair.a.replies[0][9], pair.a.replies[0][20]), (1, 3), "ICMP, unreachable");
    let refused = pair.a.device.data_plane().refused();
    assert_eq!(refused.len(), 1);
    let line = (refused[0].destination.to_string(), refused[0].port, refused[0].protocol, refused[0].packets);
    assert_eq!(line, ("8.8.8.8".to_owned(), Some(53), 17, 12));
}

#[test]
fn w07_no_session_is_used_after_180_seconds_not_even_across_a_suspend() {
    let mut pair = Pair::connected();
    pair.a.send(&there(10), at(100));
    let late = pair.a.take_sent();
    // The machine slept: no timer went off, and the first thing that happens is a packet.
    pair.a.send(&there(11), at(1000));
    assert_eq!(kinds(&pair.a.take_sent()), [1], "an initiation, and nothing under the old key");
    pair.b.receive(&late, at(180));
    assert_eq!(pair.b.take_delivered(), Vec::<Vec<u8>>::new());
    assert_eq!(pair.b.drops(DropReason::ExpiredSession), 1);
}

#[test]
fn w07_wiping_old_keys_does_not_end_the_handshake_that_replaces_them() {
    let mut pair = Pair::connected();
    // The way is broken for longer than keys are kept, and a program goes on sending.
    for second in 1..=600 {
        pair.a.send(&there(10), at(second));
        pair.run_cut(secs(second), secs(second + 1));
    }
    let mut delivered = Vec::new();
    pair.a.send(&there(11), at(601));
    for second in 601..613 {
        pair.run(secs(second), secs(second + 1));
        delivered.extend(pair.b.take_delivered());
    }
    assert!(delivered.contains(&there(11)), "nothing passes 12 s after the way is whole again");
}

#[test]
fn w07_the_response_counts_though_old_keys_are_wiped_while_it_is_on_its_way() {
    let mut pair = Pair::connected();
    // The machine slept: the packet is there before the timer goes off.
    pair.a.send(&there(10), at(600));
    pair.a.timeout(at(600));
    let wire = pair.exchange(at(600));
    assert_eq!(kinds(&wire), [1, 2, 4]);
    assert_eq!(pair.b.take_delivered(), [there(10)]);
}

#[test]
fn w07_a_keepalive_due_together_with_the_wiping_of_keys_still_calls() {
    let mut pair = Pair::connected();
    let mut keepalive = PeerUpdate::new(pair.b.public_key);
    keepalive.persistent_keepalive = Some(25);
    pair.a.update_peer(keepalive, at(1));
    pair.exchange(at(1));
    pair.a.timeout(at(600));
    let wire = pair.exchange(at(600));
    assert_eq!(kinds(&wire), [1, 2, 4]);
}

#[test]
fn w08_the_newest_128_packets_wait_for_the_handshake_and_leave_in_order() {
    let mut pair = Pair::new();
    for number in 0..200_u8 {
        pair.a.send(&packet("10.0.0.1", "10.0.0.2", &[number]), at(0));
    }
    assert_eq!(kinds(&pair.a.sent), [1], "one initiation for all");
    pair.exchange(at(0));
    let numbers: Vec<u8> = pair.b.take_delivered().iter().map(|packet| packet[20]).collect();
    assert_eq!(numbers, (72..200).collect::<Vec<u8>>());
    assert_eq!(pair.a.drops(DropReason::Unsent), 72);
}

#[test]
fn w08_packets_that_wait_are_dropped_when_the_handshake_is_given_up() {
    let mut pair = Pair::new();
    pair.a.send(&there(10), at(0));
    let log = pair.run_cut(secs(0), secs(1000));
    assert_eq!(log.len(), 18);
    let gave_up = DeviceEvent::HandshakeGaveUp { peer: pair.b.public_key };
    assert!(pair.a.events.contains(&gave_up));
    assert_eq!(pair.a.drops(DropReason::Unsent), 1);
    // New traffic tries again.
    pair.a.send(&there(11), at(1000));
    pair.exchange(at(1000));
    assert_eq!(pair.b.take_delivered(), [there(11)]);
}

#[test]
fn w08_a_session_confirmed_too_late_to_send_under_does_not_end_the_call_that_packets_wait_for() {
    let mut pair = Pair::new();
    pair.a.send(&there(10), at(0));
    pair.b.receive(&pair.a.take_sent(), at(0));
    pair.a.receive(&pair.b.take_sent(), at(0));
    let on_its_way_for_long = pair.a.take_sent();
    assert_eq!(kinds(&on_its_way_for_long), [4], "the initiator's proof that it has the keys");
    pair.b.send(&back(10), at(170));
    assert_eq!(kinds(&pair.b.take_sent()), [1], "an initiation, which is lost");
    pair.b.receive(&on_its_way_for_long, at(176));
    assert_eq!(pair.b.take_delivered(), [there(10)]);
    // The responder alone goes on: the initiator may be asleep again.
    pair.b.take_sent();
    pair.b.timeout(at(181));
    let call = pair.b.take_sent();
    assert_eq!(kinds(&call), [1], "the call goes on");
    pair.a.receive(&call, at(181));
    pair.exchange(at(181));
    assert_eq!(pair.a.take_delivered(), [back(10)]);
}

#[test]
fn w09_padding_goes_to_a_multiple_of_16_and_never_beyond_the_mtu() {
    let mut pair = Pair::connected();
    for mtu in [1280_u32, 1419, 1420, 1424] {
        pair.a.device.data_plane().set_mtu(mtu);
        for len in [20, 21, 32, 33, 100, 1279, 1280, 1281, 1410, 1417, 1419, 1420] {
            pair.a.send(&there(len - 20), at(1));
            let sent = pair.a.take_sent().remove(0).bytes.len() - 32;
            let padded = len.next_multiple_of(16);
            let limit = usize::try_from(mtu).unwrap();
            let wanted = if len > limit { len } else { padded.min(limit) };
            assert_eq!(sent, wanted, "{len} bytes at MTU {mtu}");
        }
    }
}

#[test]
fn w10_bytes_are_counted_as_the_kernel_counts_them() {
    let mut pair = Pair::new();
    for _ in 0..10 {
        pair.a.send(&there(64), at(0));
        pair.exchange(at(0));
        pair.b.send(&back(64), at(0));
        pair.exchange(at(0));
    }
    let (a, b) = (pair.a.peer_status(pair.b.public_key, at(0)), pair.b.peer_status(pair.a.public_key, at(0)));
    // Ten pings of 84 bytes: what netns.sh of the kernel expects.
    assert_eq!((a.tx_bytes, a.rx_bytes), (1428, 1372));
    assert_eq!((b.tx_bytes, b.rx_bytes), (1372, 1428));
}

#[test]
fn w11_a_new_private_key_shakes_hands_at_once() {
    let mut pair = Pair::connected();
    let new = PrivateKey::from_bytes([0x77; 32]);
    pair.b.add_peer(&pair.a, &[], false, at(1));
    let mut renamed = PeerUpdate::new(new.public_key());
    renamed.allowed_ips = vec![AllowedIpChange::Add("10.0.0.1/32".parse().unwrap())];
    pair.b.update_peer(renamed, at(1));
    pair.a.public_key = new.public_key();
    let update = DeviceUpdate { private_key: Some(Some(new)), ..DeviceUpdate::default() };
    pair.a.update(update, at(1));
    assert_eq!(kinds(&pair.a.sent), [1], "although the last handshake is only a second old");
    pair.exchange(at(1));
    pair.ping(at(1));
}

#[test]
fn w11_a_peer_with_our_own_key_is_removed_and_cannot_be_added() {
    let mut pair = Pair::connected();
    let bob = pair.b.status(at(0)).private_key;
    pair.a.update(DeviceUpdate { private_key: Some(bob), ..DeviceUpdate::default() }, at(1));
    assert_eq!(pair.a.status(at(1)).peers, []);
    let key = pair.b.public_key;
    pair.a.update_peer(PeerUpdate::new(key), at(1));
    assert_eq!(pair.a.status(at(1)).peers, []);
    assert!(pair.a.events.contains(&DeviceEvent::PeerRemoved { peer: key }));
}

#[test]
fn w11_without_a_private_key_nothing_is_said() {
    let mut pair = Pair::connected();
    pair.a.update(DeviceUpdate { private_key: Some(None), ..DeviceUpdate::default() }, at(1));
    pair.a.send(&there(10), at(1));
    pair.b.send(&back(10), at(1));
    pair.exchange(at(1));
    let log = pair.run(secs(1), secs(10));
    assert!(log.iter().all(|(_, datagram)| datagram.from != pair.a.address), "{log:?}");
    assert_eq!(pair.a.take_delivered(), Vec::<Vec<u8>>::new());
    // What waited goes when there is a key again.
    let key = Node::new(1, "192.0.2.1:1001").status(at(0)).private_key;
    pair.a.update(DeviceUpdate { private_key: Some(key), ..DeviceUpdate::default() }, at(20));
    pair.exchange(at(20));
    assert_eq!(pair.b.take_delivered(), [there(10)]);
}

#[test]
fn w12_a_low_order_peer_causes_no_traffic() {
    let mut node = Node::new(1, "192.0.2.1:1");
    for (number, bytes) in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }]
    .into_iter()
    .enumerate()
    {
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(bytes));
        peer.endpoint = Some("192.0.2.9:9".parse().unwrap());
        peer.persistent_keepalive = Some(1);
        peer.allowed_ips = vec![AllowedIpChange::Add(format!("10.0.{number}.0/24").parse().unwrap())];
        node.update_peer(peer, at(0));
        node.send(&packet("10.9.9.9", &format!("10.0.{number}.1"), b"x"), at(0));
    }
    for second in 0..300 {
        node.timeout(at(second));
    }
    assert_eq!(node.take_sent(), []);
}

#[test]
fn w13_answers_leave_by_the_address_they_were_reached_at_until_it_vanishes() {
    let mut pair = Pair::connected();
    pair.a.send(&there(10), at(1));
    let datagram = pair.a.take_sent().remove(0);
    let local = Some(LocalAddress { address: "192.0.2.2".parse().unwrap(), ifindex: 3 });
    let path = Path { remote: pair.a.address, local };
    pair.b.receive_run(&datagram.bytes, datagram.bytes.len(), path, 0, at(1));
    pair.b.send(&back(10), at(1));
    assert_eq!(pair.b.take_sent()[0].source, local);
    pair.b.device.data_plane().forget_source("192.0.2.250:1".parse().unwrap());
    pair.b.send(&back(10), at(1));
    assert_eq!(pair.b.take_sent()[0].source, local, "another peer's trouble");
    pair.b.device.data_plane().forget_source(pair.a.address);
    pair.b.send(&back(10), at(1));
    assert_eq!(pair.b.take_sent()[0].source, None);
}

#[test]
fn w13_an_unanswered_initiation_lets_the_source_be_chosen_again() {
    let mut pair = Pair::connected();
    pair.b.send(&back(10), at(1));
    let datagram = pair.b.take_sent().remove(0);
    let local = Some(LocalAddress { address: "192.0.2.1".parse().unwrap(), ifindex: 3 });
    let path = Path { remote: pair.b.address, local };
    pair.a.receive_run(&datagram.bytes, datagram.bytes.len(), path, 0, at(1));
    pair.a.send(&there(10), at(2));
    let log = pair.run_cut(secs(2), secs(24));
    let alice = log.iter().map(|(_, datagram)| datagram).filter(|d| d.from == pair.a.address);
    let initiations: Vec<_> = alice.filter(|d| d.kind() == 1).map(|d| d.source).collect();
    assert_eq!(initiations, [None, None]);
    assert_eq!(log[0].1.source, local, "the data before");
}

/// The endpoint lies within the peer's own allowed IPs: each datagram comes back as a packet, 28 bytes longer, until
/// the link's MTU stops it.
#[test]
fn w14_a_routing_loop_limits_itself() {
    for connected in [false, true] {
        let mut pair = if connected { Pair::connected() } else { Pair::new() };
        pair.a.send(&there(10), at(1));
        let mut bytes = 0;
        for second in 1..=4 {
            pair.a.timeout(at(second));
            loop {
                let sent = pair.a.take_sent();
                if sent.is_empty() {
                    break;
                }
                for datagram in sent {
                    bytes += datagram.bytes.len();
                    if datagram.bytes.len() + 28 <= 1420 {
                        pair.a.send(&there(datagram.bytes.len() + 8), at(second));
                    }
                }
            }
        }
        assert!(bytes < 70_000, "{bytes} bytes");
    }
}
