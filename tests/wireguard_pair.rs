//! Two devices on a perfect wire, and a clock that jumps to the next deadline.

use std::net::Ipv6Addr;
use std::time::Duration;

use wg4netns::packet::batch::VNET_HEADER_LEN;
use wg4netns::time::Now;

use crate::wireguard_node::{Datagram, Node, after, at, packet, packet_of, since_start};

/// Alice is 10.0.0.1 and knows where Bob is; Bob is 10.0.0.2 and learns where Alice is.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let mut a = Node::new(1, "192.0.2.1:1001");
        let mut b = Node::new(2, "192.0.2.2:1002");
        a.add_peer(&b, &["10.0.0.2/32", "fd00::2/128"], true, at(0));
        b.add_peer(&a, &["10.0.0.1/32", "fd00::1/128"], false, at(0));
        Self { a, b }
    }

    /// With a session since second 0, and nothing on its way.
    pub(crate) fn connected() -> Self {
        let mut pair = Self::new();
        pair.ping(at(0));
        pair
    }

    /// Carries datagrams both ways until there are none; all that were on the wire.
    pub(crate) fn exchange(&mut self, now: Now) -> Vec<Datagram> {
        let mut all = Vec::new();
        loop {
            let (from_a, from_b) = (self.a.take_sent(), self.b.take_sent());
            if from_a.is_empty() && from_b.is_empty() {
                return all;
            }
            self.b.receive(&from_a, now);
            self.a.receive(&from_b, now);
            all.extend(from_a);
            all.extend(from_b);
            assert!(all.len() < 10_000, "an exchange comes to an end");
        }
    }

    /// A packet there and one back.
    pub(crate) fn ping(&mut self, now: Now) {
        self.a.send(&there(64), now);
        self.exchange(now);
        assert_eq!(self.b.take_delivered(), [there(64)]);
        self.b.send(&back(64), now);
        self.exchange(now);
        assert_eq!(self.a.take_delivered(), [back(64)]);
    }

    /// Lets time pass, from deadline to deadline; what was on the wire, and when.
    pub(crate) fn run(&mut self, from: Duration, to: Duration) -> Vec<(Duration, Datagram)> {
        self.run_over(from, to, true)
    }

    /// The same while the wire is cut: nothing arrives.
    pub(crate) fn run_cut(&mut self, from: Duration, to: Duration) -> Vec<(Duration, Datagram)> {
        self.run_over(from, to, false)
    }

    fn run_over(&mut self, from: Duration, to: Duration, wire: bool) -> Vec<(Duration, Datagram)> {
        let mut log = Vec::new();
        let mut now = from;
        loop {
            let sent = if wire {
                self.exchange(after(now))
            } else {
                [self.a.take_sent(), self.b.take_sent()].concat()
            };
            log.extend(sent.into_iter().map(|datagram| (now, datagram)));
            assert!(log.len() < 100_000, "time goes on");
            let deadlines = [self.a.device.poll_timeout(), self.b.device.poll_timeout()];
            let Some(next) = deadlines.into_iter().flatten().min().map(since_start) else { return log };
            if next > to {
                return log;
            }
            now = now.max(next);
            self.a.timeout(after(now));
            self.b.timeout(after(now));
        }
    }
}

/// A packet from Alice to Bob with so many bytes of payload.
pub(crate) fn there(len: usize) -> Vec<u8> {
    packet("10.0.0.1", "10.0.0.2", &vec![0xa; len])
}

/// A packet from Bob to Alice.
pub(crate) fn back(len: usize) -> Vec<u8> {
    packet("10.0.0.2", "10.0.0.1", &vec![0xb; len])
}

/// A packet of either family from Alice to Bob with a traffic class.
fn there_with(class: u8) -> [Vec<u8>; 2] {
    let v6 = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into();
    [
        packet_of(253, [10, 0, 0, 1].into(), [10, 0, 0, 2].into(), class, b"marked"),
        packet_of(253, v6(1), v6(2), class, b"marked"),
    ]
}

/// The same behind an empty virtio-net header.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    [&[0; VNET_HEADER_LEN], packet].concat()
}

pub(crate) fn kinds(datagrams: &[Datagram]) -> Vec<u8> {
    datagrams.iter().map(Datagram::kind).collect()
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn the_first_packet_is_answered() {
    let mut pair = Pair::new();
    pair.a.send(&there(64), at(0));
    let wire = pair.exchange(at(0));
    assert_eq!(kinds(&wire), [1, 2, 4], "initiation, response, and the packet itself instead of a keepalive");
    assert_eq!(pair.b.take_delivered(), [there(64)]);
}

#[test]
fn ipv6_passes_too() {
    let mut pair = Pair::connected();
    let there = packet("fd00::1", "fd00::2", b"six");
    pair.a.send(&there, at(1));
    pair.exchange(at(1));
    assert_eq!(pair.b.take_delivered(), [there]);
}

#[test]
fn the_outside_shows_whether_a_packet_takes_part_in_ecn_and_nothing_else_of_its_class() {
    // The first of them waits for the handshake, and is sealed elsewhere than those after it.
    for first in 0..4 {
        let mut pair = Pair::new();
        for (inner, outer) in
            [(0xb9, 1), (1, 1), (2, 2), (3, 2), (0xb8, 0)].into_iter().cycle().skip(first).take(5)
        {
            for packet in there_with(inner) {
                pair.a.send(&packet, at(0));
                let wire = pair.exchange(at(0));
                let (data, handshakes): (Vec<_>, Vec<_>) = wire.iter().partition(|d| d.kind() == 4);
                assert_eq!(data.iter().map(|d| d.traffic_class).collect::<Vec<_>>(), [outer], "{inner:#x}");
                assert!(handshakes.iter().all(|d| d.traffic_class == 0x88), "{handshakes:?}");
                assert_eq!(pair.b.take_delivered(), [packet], "inside it stays as it was");
            }
        }
    }
}

#[test]
fn congestion_met_outside_is_told_inside_to_those_who_take_part() {
    let mut pair = Pair::connected();
    for (sent, delivered) in [(0xb9, 0xbb), (1, 3), (2, 3), (3, 3), (0xb8, 0xb8), (0, 0)] {
        for (packet, expected) in there_with(sent).into_iter().zip(there_with(delivered)) {
            pair.a.send(&packet, at(1));
            let mut wire = pair.a.take_sent();
            assert_eq!(kinds(&wire), [4]);
            wire[0].traffic_class |= 3;
            pair.b.receive(&wire, at(1));
            assert_eq!(pair.b.take_delivered(), [expected], "{sent:#x}");
        }
    }
}

#[test]
fn an_idle_device_has_no_deadline_but_that_for_wiping_keys() {
    let mut pair = Pair::connected();
    let log = pair.run(secs(0), secs(3600));
    // Bob's packet is answered after 10 s, and that is all there is to say in an hour.
    assert_eq!(
        log.iter().map(|(at, d)| (*at, d.kind(), d.bytes.len())).collect::<Vec<_>>(),
        [(secs(10), 4, 32)]
    );
    assert_eq!((pair.a.device.poll_timeout(), pair.b.device.poll_timeout()), (None, None));
}

#[test]
fn a_session_in_use_is_renewed_every_two_minutes_by_its_initiator() {
    let mut pair = Pair::connected();
    let mut initiations = Vec::new();
    for second in 1..=600 {
        pair.a.send(&there(10), at(second));
        pair.b.send(&back(10), at(second));
        let log = pair.run(secs(second), secs(second));
        initiations
            .extend(log.into_iter().filter(|(_, d)| d.kind() == 1).map(|(at, d)| (at.as_secs(), d.from)));
        assert_eq!((pair.a.take_delivered().len(), pair.b.take_delivered().len()), (1, 1), "second {second}");
    }
    let alice = pair.a.address;
    assert_eq!(initiations, [(120, alice), (240, alice), (360, alice), (480, alice), (600, alice)]);
}

#[test]
fn a_receiver_that_only_receives_renews_its_session_in_time() {
    let mut pair = Pair::connected();
    let mut initiations = Vec::new();
    for second in 1..=400 {
        pair.b.send(&back(10), at(second));
        let log = pair.run(secs(second), secs(second));
        initiations.extend(log.into_iter().filter(|(_, d)| d.kind() == 1).map(|(at, _)| at.as_secs()));
        assert_eq!(pair.a.take_delivered().len(), 1, "second {second}");
    }
    // Alice answers by keepalives, and those renew the session as any packet does.
    assert!(initiations.iter().all(|second| second % 120 <= 15), "{initiations:?}");
    assert_eq!(initiations.len(), 3);
}
