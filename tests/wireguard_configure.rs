//! Changes of a running device: what a request means for peers that are already there.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::key::{PresharedKey, PublicKey};
use wg4netns::wireguard::DropReason;

use crate::wireguard_node::{Node, after, at, packet};
use crate::wireguard_pair::{Pair, back, kinds, there};

/// A request that replaces all peers by these.
fn all(peers: Vec<PeerUpdate>) -> DeviceUpdate {
    DeviceUpdate { replace_peers: true, peers, ..DeviceUpdate::default() }
}

/// A peer with everything set, at a node with a key.
fn complete() -> (Node, PeerUpdate) {
    let mut node = Node::new(1, "192.0.2.1:1");
    let mut peer = PeerUpdate::new(Node::new(2, "192.0.2.2:2").public_key);
    peer.preshared_key = Some(Some(PresharedKey::from_bytes([9; 32])));
    peer.persistent_keepalive = Some(25);
    peer.endpoint = Some("192.0.2.2:2".parse().unwrap());
    peer.allowed_ips = vec![AllowedIpChange::Add("10.0.0.2/32".parse().unwrap())];
    node.update(all(vec![peer.clone()]), at(0));
    node.take_sent();
    (node, peer)
}

#[test]
fn replacing_all_peers_turns_off_what_is_not_said() {
    let (mut node, peer) = complete();
    node.update(all(vec![PeerUpdate::new(peer.public_key)]), at(1));
    let status = node.peer_status(peer.public_key, at(1));
    assert_eq!((status.preshared_key, status.persistent_keepalive), (None, 0));
    assert_eq!((status.endpoint, status.allowed_ips), (None, vec![]));
    assert_eq!(node.device.poll_timeout(), None, "nothing is kept alive any more");
}

#[test]
fn only_the_first_mention_of_a_replaced_peer_resets_it() {
    let (mut node, peer) = complete();
    let more = PeerUpdate {
        allowed_ips: vec![AllowedIpChange::Add("10.0.0.3/32".parse().unwrap())],
        ..PeerUpdate::new(peer.public_key)
    };
    node.update(all(vec![peer.clone(), more]), at(1));
    let status = node.peer_status(peer.public_key, at(1));
    assert_eq!((status.persistent_keepalive, status.allowed_ips.len()), (25, 2));
    assert!(status.preshared_key.is_some());
}

#[test]
fn there_is_nothing_to_update_only_once_all_peers_are_replaced() {
    let (mut node, peer) = complete();
    node.update(all(vec![PeerUpdate { update_only: true, ..peer }]), at(1));
    assert_eq!(node.status(at(1)).peers, []);
}

/// Bob, who learned where Alice is, gets his file again.
fn bob_again(pair: &Pair, preshared_key: Option<Option<PresharedKey>>) -> DeviceUpdate {
    let mut alice = PeerUpdate::new(pair.a.public_key);
    alice.preshared_key = preshared_key;
    alice.allowed_ips = vec![AllowedIpChange::Add("10.0.0.1/32".parse().unwrap())];
    all(vec![alice])
}

#[test]
fn the_same_file_again_interrupts_no_session_and_loses_no_client() {
    let mut pair = Pair::connected();
    let again = bob_again(&pair, None);
    pair.b.update(again, at(1));
    pair.b.send(&back(9), at(1));
    assert_eq!(kinds(&pair.exchange(at(1))), [4], "under the session there was");
    assert_eq!(pair.a.take_delivered(), [back(9)]);
}

#[test]
fn a_session_ends_with_the_preshared_key_it_was_made_under() {
    let mut pair = Pair::new();
    let key = PresharedKey::from_bytes([9; 32]);
    let (alice, bob) = (pair.a.public_key, pair.b.public_key);
    for (node, other) in [(&mut pair.a, bob), (&mut pair.b, alice)] {
        let mut update = PeerUpdate::new(other);
        update.preshared_key = Some(Some(key.clone()));
        node.update_peer(update, at(0));
    }
    pair.a.send(&there(64), at(0));
    let initiation = pair.a.sent[0].clone();
    pair.exchange(at(0));
    pair.b.send(&back(64), at(0));
    pair.exchange(at(0));
    let again = bob_again(&pair, None);
    pair.b.update(again, at(1));
    pair.a.send(&there(9), at(1));
    pair.exchange(at(1));
    assert_eq!(pair.b.drops(DropReason::UnknownSession), 1, "the keys are wiped");
    assert_eq!(pair.b.peer_status(pair.a.public_key, at(1)).endpoint, None);
    // W4: what was seen once stays seen.
    pair.b.receive(&[initiation], at(60));
    assert_eq!(pair.b.drops(DropReason::StaleTimestamp), 1);
    assert_eq!(pair.b.take_sent(), []);
}

#[test]
fn a_tunnel_that_is_kept_alive_calls_as_soon_as_its_endpoint_is_known() {
    let mut node = Node::new(1, "192.0.2.1:1");
    let key: PublicKey = Node::new(2, "192.0.2.2:2").public_key;
    let mut peer = PeerUpdate::new(key);
    peer.persistent_keepalive = Some(25);
    node.update_peer(peer, at(0));
    node.timeout(at(0));
    assert_eq!(node.take_sent(), []);
    // The name is resolved.
    let mut endpoint = PeerUpdate::new(key);
    endpoint.endpoint = Some("192.0.2.2:2".parse().unwrap());
    node.update_peer(endpoint, at(1));
    node.timeout(at(1));
    assert_eq!(kinds(&node.take_sent()), [1]);
}

#[test]
fn a_response_that_got_lost_does_not_bring_its_old_session_back() {
    let mut pair = Pair::new();
    // The end that gives way when handshakes cross: the one with the lesser key.
    let swap = pair.a.public_key > pair.b.public_key;
    let (x, y) = if swap { (&mut pair.b, &mut pair.a) } else { (&mut pair.a, &mut pair.b) };
    let (x_net, y_net) = if swap { ("10.0.0.2", "10.0.0.1") } else { ("10.0.0.1", "10.0.0.2") };
    let mut known = PeerUpdate::new(x.public_key);
    known.endpoint = Some(x.address);
    y.update_peer(known, at(0));
    // The other calls; what comes under that session stays on the wire for two minutes.
    y.send(&packet(y_net, x_net, b"late"), at(0));
    x.receive(&y.take_sent(), at(0));
    y.receive(&x.take_sent(), at(0));
    let late = y.take_sent();
    assert_eq!(kinds(&late), [4]);
    let mut newest = None;
    for second in [6, 126] {
        x.send(&packet(x_net, y_net, b"x"), at(second));
        let mut under = Vec::new();
        for _ in 0..4 {
            let sent = x.take_sent();
            under.extend(sent.iter().filter(|d| d.kind() == 4).map(|d| d.bytes[4..8].to_vec()));
            y.receive(&sent, at(second));
            x.receive(&y.take_sent(), at(second));
        }
        assert_ne!(under.last(), newest.as_ref(), "a session of its own at {second} s");
        newest = under.pop();
    }
    let now = after(Duration::from_millis(126_500));
    x.receive(&late, now);
    x.take_sent();
    x.send(&packet(x_net, y_net, b"y"), now);
    let sent = x.take_sent();
    assert_eq!(kinds(&sent), [4]);
    assert_eq!(Some(sent[0].bytes[4..8].to_vec()), newest, "not under the session of second 0");
}
