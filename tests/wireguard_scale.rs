//! A device with ten thousand peers.

use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::key::PublicKey;
use wg4netns::wireguard::MAX_PEERS;

use crate::wireguard_node::{Node, Random, at, packet};

fn ten_thousand() -> DeviceUpdate {
    let mut random = Random::new(5);
    let peers = (0..10_000_u32).map(|number| {
        let mut key = [0; 32];
        wg4netns::crypto::Entropy::fill(&mut random, &mut key);
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        peer.endpoint = Some((std::net::Ipv4Addr::from_bits(0xc000_0000 + number), 51820).into());
        let prefix = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        peer.allowed_ips = vec![AllowedIpChange::Add(ipnet::IpNet::from(std::net::IpAddr::V4(prefix)))];
        peer.replace_allowed_ips = true;
        peer
    });
    DeviceUpdate { replace_peers: true, peers: peers.collect(), ..DeviceUpdate::default() }
}

#[test]
fn ten_thousand_peers_are_configured_shown_and_idle_at_once() {
    let mut node = Node::new(1, "192.0.2.1:1");
    let before = resident();
    // An unoptimised build on a busy machine is ten times slower than what is promised: 300 ms and 50 ms.
    let patience = if cfg!(debug_assertions) { 20 } else { 1 };
    let (_, took) = timed(|| node.update(ten_thousand(), at(0)));
    assert!(took < patience * Duration::from_millis(300), "configured in {took:?}");
    let (_, again) = timed(|| node.update(ten_thousand(), at(1)));
    assert!(again < patience * Duration::from_millis(300), "configured again in {again:?}");
    let (status, shown) = timed(|| node.status(at(2)));
    assert!(shown < patience * Duration::from_millis(50), "shown in {shown:?}");
    assert_eq!(status.peers.len(), 10_000);
    assert_eq!(node.device.poll_timeout(), None, "nothing to do for any of them");
    let held = resident().saturating_sub(before);
    println!(
        "configured in {took:?}, again in {again:?}, shown in {shown:?}, {} KiB more resident",
        held / 1024
    );
    node.send(&packet("10.255.255.255", "10.0.39.15", b"x"), at(3));
    assert_eq!(node.take_sent().len(), 1, "an initiation");
}

#[test]
fn ten_thousand_peers_that_are_kept_alive_are_all_called() {
    let mut node = Node::new(1, "192.0.2.1:1");
    let mut update = ten_thousand();
    update.peers.iter_mut().for_each(|peer| peer.persistent_keepalive = Some(25));
    node.update(update, at(0));
    let called: std::collections::HashSet<_> =
        node.take_sent().into_iter().filter(|datagram| datagram.kind() == 1).map(|d| d.to).collect();
    assert_eq!(called.len(), 10_000);
}

#[test]
fn one_peer_too_many_changes_nothing() {
    let mut node = Node::new(1, "192.0.2.1:1");
    node.update(ten_thousand(), at(0));
    let mut random = Random::new(6);
    let mut update = DeviceUpdate { listen_port: Some(1), ..DeviceUpdate::default() };
    for _ in 0..=MAX_PEERS - 10_000 {
        let mut key = [0; 32];
        wg4netns::crypto::Entropy::fill(&mut random, &mut key);
        update.peers.push(PeerUpdate::new(PublicKey::from_bytes(key)));
    }
    let before = node.status(at(1));
    assert!(node.device.apply(update.clone(), at(1)).is_err());
    assert_eq!(node.status(at(1)), before);
    // With one of the old ones gone there is room.
    update.peers.insert(0, PeerUpdate { remove: true, ..PeerUpdate::new(before.peers[7].public_key) });
    assert!(node.device.apply(update, at(1)).is_ok());
    assert_eq!(node.status(at(1)).peers.len(), MAX_PEERS);
}

#[expect(clippy::disallowed_methods, reason = "a test of speed reads the clock")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = std::time::Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}
