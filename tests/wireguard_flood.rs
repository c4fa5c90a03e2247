//! Handshakes beside floods: the real device, with a queue in front of it that is served as fast as the work costs on
//! a slow machine. What is measured is simulated time, so the figures do not depend on who else uses the machine.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::crypto;
use wg4netns::key::PrivateKey;
use wg4netns::packet::batch::Path;
use wg4netns::wireguard::{DropReason, MAX_QUEUED_HANDSHAKES};

use crate::wireguard_node::{Node, Random, after, packet};

/// What a message costs that came as far as Diffie-Hellman, that was answered by a cookie, and that was just dropped.
const SHAKING: Duration = Duration::from_micros(200);
const CHALLENGING: Duration = Duration::from_micros(15);
const DROPPING: Duration = Duration::from_micros(5);

/// How finely time passes.
const STEP: Duration = Duration::from_micros(100);

/// A flood, and who pretends to send it.
struct Flood {
    per_second: u32,
    source: fn(&mut Random) -> IpAddr,
}

/// The attacked device behind its queue, and one honest peer.
struct Siege {
    target: Node,
    peer: Node,
    queue: VecDeque<(Vec<u8>, Path)>,
    junk: Vec<u8>,
    random: Random,
    now: Duration,
    /// When the device is done with what it works on.
    busy_until: Duration,
    next_junk: Duration,
    /// Work done in Diffie-Hellman for the flood.
    wasted: Duration,
    flood: Flood,
}

impl Siege {
    fn new(flood: Flood) -> Self {
        let (mut target, mut peer) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "203.0.113.2:2"));
        target.add_peer(&peer, &["10.0.0.2/32"], false, after(Duration::ZERO));
        peer.add_peer(&target, &["10.0.0.1/32"], true, after(Duration::ZERO));
        let mut junk = vec![0; 148];
        crypto::Entropy::fill(&mut Random::new(3), &mut junk);
        junk[..4].copy_from_slice(&[1, 0, 0, 0]);
        let key = crypto::hash(&[b"mac1----", target.public_key.as_bytes()]);
        let mac1 = crypto::mac(&key, &[&junk[..116]]);
        junk[116..132].copy_from_slice(&mac1);
        Self {
            target,
            peer,
            queue: VecDeque::new(),
            junk,
            random: Random::new(4),
            now: Duration::ZERO,
            busy_until: Duration::ZERO,
            next_junk: Duration::ZERO,
            wasted: Duration::ZERO,
            flood,
        }
    }

    /// Lets the flood run alone.
    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.step();
        }
    }

    /// How long the honest peer's handshake takes, from its first packet on.
    fn shake_hands(&mut self) -> Duration {
        let start = self.now;
        self.peer.send(&packet("10.0.0.2", "10.0.0.1", b"hello"), after(start));
        while self.now < start + Duration::from_secs(30) {
            let now = after(self.now);
            if self.peer.device.poll_timeout().is_some_and(|deadline| deadline <= now.boot) {
                self.peer.timeout(now);
            }
            for datagram in self.peer.take_sent() {
                if datagram.kind() == 4 {
                    self.target.receive(&[datagram], now);
                    assert_eq!(self.target.take_delivered().len(), 1);
                    return self.now - start;
                }
                self.push(datagram.bytes, Path::to(datagram.from));
            }
            self.step();
        }
        panic!("no handshake in 30 s")
    }

    fn step(&mut self) {
        self.now += STEP;
        while self.next_junk <= self.now {
            self.next_junk += Duration::from_secs(1) / self.flood.per_second;
            let source = (self.flood.source)(&mut self.random);
            let junk = self.junk.clone();
            self.push(junk, Path::to((source, 666).into()));
        }
        while self.busy_until < self.now + STEP
            && let Some((message, path)) = self.queue.pop_front()
        {
            let before =
                (self.target.drops(DropReason::Challenged), self.target.drops(DropReason::RateLimited));
            let now = after(self.now);
            self.target.device.handle_handshake(&message, path, self.queue.len(), now);
            self.target.settle(now);
            let after =
                (self.target.drops(DropReason::Challenged), self.target.drops(DropReason::RateLimited));
            let cost = match after {
                (challenged, _) if challenged > before.0 => CHALLENGING,
                (_, limited) if limited > before.1 => DROPPING,
                (_, _) => SHAKING,
            };
            self.busy_until = self.busy_until.max(self.now) + cost;
            if cost == SHAKING && path.remote.port() == 666 {
                self.wasted += cost;
            }
            let sent = self.target.take_sent();
            let to_peer: Vec<_> =
                sent.into_iter().filter(|datagram| datagram.to == self.peer.address).collect();
            self.peer.receive(&to_peer, now);
        }
    }

    fn push(&mut self, message: Vec<u8>, path: Path) {
        if self.queue.len() < MAX_QUEUED_HANDSHAKES {
            self.queue.push_back((message, path));
        }
    }
}

fn one(_: &mut Random) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 1).into()
}

fn sixteen(random: &mut Random) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, u8::try_from(random.below(16)).unwrap()).into()
}

fn any(random: &mut Random) -> IpAddr {
    Ipv4Addr::from_bits(u32::try_from(random.next() >> 32).unwrap()).into()
}

#[test]
fn beside_two_hundred_messages_a_second_a_handshake_takes_no_time() {
    let mut siege = Siege::new(Flood { per_second: 200, source: one });
    siege.run(Duration::from_secs(1));
    let took = siege.shake_hands();
    assert!(took <= Duration::from_millis(100), "{took:?}");
}

#[test]
fn beside_twenty_thousand_from_sixteen_sources_a_handshake_takes_less_than_a_second() {
    for start in [100, 1040] {
        let mut siege = Siege::new(Flood { per_second: 20_000, source: sixteen });
        siege.run(Duration::from_millis(start));
        let took = siege.shake_hands();
        assert!(took <= Duration::from_secs(1), "begun at {start} ms: {took:?}");
    }
}

#[test]
fn sources_over_their_budget_cost_no_diffie_hellman() {
    let mut siege = Siege::new(Flood { per_second: 20_000, source: sixteen });
    siege.run(Duration::from_millis(1500));
    // What 16 sources may have at 20 a second, and the first moments of each crowd.
    assert!(siege.wasted < Duration::from_millis(150), "{:?} in 1.5 s", siege.wasted);
}

#[test]
fn beside_twenty_thousand_forged_sources_a_handshake_takes_one_retransmission() {
    let mut siege = Siege::new(Flood { per_second: 20_000, source: any });
    siege.run(Duration::from_millis(500));
    let took = siege.shake_hands();
    assert!(took <= Duration::from_millis(5600), "{took:?}");
    let status = siege.peer.peer_status(siege.target.public_key, after(siege.now));
    assert_eq!((status.last_handshake.is_some(), status.tx_bytes), (true, 148 + 148 + 64));
}

#[test]
fn beside_twenty_thousand_forged_sources_a_renewal_with_a_fresh_cookie_takes_no_time() {
    let mut siege = Siege::new(Flood { per_second: 20_000, source: any });
    siege.run(Duration::from_millis(500));
    siege.shake_hands();
    // A new key at the peer's end shakes hands at once, with the cookie of some seconds ago.
    let private_key = PrivateKey::from_bytes([0x55; 32]);
    let public_key = private_key.public_key();
    let now = after(siege.now);
    let mut update = PeerUpdate::new(public_key);
    update.allowed_ips = vec![AllowedIpChange::Add("10.0.0.2/32".parse().unwrap())];
    siege.target.update_peer(update, now);
    siege.peer.public_key = public_key;
    siege
        .peer
        .device
        .apply(DeviceUpdate { private_key: Some(Some(private_key)), ..DeviceUpdate::default() }, now)
        .unwrap();
    let took = siege.shake_hands();
    assert!(took <= Duration::from_millis(100), "{took:?}");
}
