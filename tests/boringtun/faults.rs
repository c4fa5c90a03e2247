//! Faults of boringtun 0.7.1: each test says what is seen there, and has the letter of the tests in
//! ../wireguard_faults.rs that keep it out of ours. boringtun's clock is moved by hand, its timers are looked at as its
//! own device looks at them: every 250 ms.
//!
//! Not here: E, G, H, L and P, which are shown beside ours; N, Q and R, which are faults of its device and not of what
//! a library can call; T, which is that there is nothing to call.
#![cfg(test)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use mock_instant::MockClock;

/// How often boringtun's device looks at its timers.
const TICK: Duration = Duration::from_millis(250);

/// How long a handshake initiation and a keepalive are, by which they are known on the wire.
const INITIATION: usize = 148;
const KEEPALIVE: usize = 32;

/// One datagram on the wire: when, from which end, and how long.
type Seen = (Duration, End, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Alice,
    Bob,
}

/// Two of them. Nothing but these tests moves their clock; it is each thread's own.
struct Pair {
    alice: Tunn,
    bob: Tunn,
    /// Whether what one sends reaches the other.
    cut: bool,
    wire: Vec<Seen>,
    /// What came out of each end's tunnel.
    delivered: Vec<(End, usize)>,
    errors: Vec<WireGuardError>,
}

impl Pair {
    fn new(keepalives: [Option<u16>; 2]) -> Self {
        MockClock::set_time(Duration::ZERO);
        let [alice, bob] = [1, 2].map(|end| tunn(end, 3 - end, keepalives[usize::from(end) - 1]));
        Self { alice, bob, cut: false, wire: Vec::new(), delivered: Vec::new(), errors: Vec::new() }
    }

    /// With a session that Alice began, and one packet through it.
    fn connected(keepalives: [Option<u16>; 2]) -> Self {
        let mut pair = Self::new(keepalives);
        pair.send(End::Alice, &packet(20));
        assert_eq!(pair.delivered, [(End::Bob, 20)]);
        pair
    }

    fn end(&mut self, end: End) -> &mut Tunn {
        match end {
            End::Alice => &mut self.alice,
            End::Bob => &mut self.bob,
        }
    }

    /// Whatever a packet into that end's tunnel leads to, at this instant.
    fn send(&mut self, from: End, packet: &[u8]) {
        if let Some(datagram) = sealed(self.end(from), packet) {
            self.carry(from, datagram);
        }
    }

    /// Puts a datagram on the wire, and what is said in answer, until nobody says more.
    fn carry(&mut self, from: End, datagram: Vec<u8>) {
        let mut pending = vec![(from, datagram)];
        while let Some((from, datagram)) = pending.pop() {
            assert!(self.wire.len() < 100_000, "they never stop");
            self.wire.push((MockClock::time(), from, datagram.len()));
            if self.cut {
                continue;
            }
            let to = if from == End::Alice { End::Bob } else { End::Alice };
            let mut buffer = [0; 2000];
            let mut input = datagram.as_slice();
            // It wants to be asked again as long as it has something to send.
            loop {
                match self.end(to).decapsulate(Some(source()), input, &mut buffer) {
                    TunnResult::WriteToNetwork(bytes) => pending.insert(0, (to, bytes.to_vec())),
                    TunnResult::WriteToTunnelV4(packet, _) => {
                        let length = packet.len();
                        self.delivered.push((to, length));
                        break;
                    }
                    TunnResult::Err(error) => {
                        self.errors.push(error);
                        break;
                    }
                    _ => break,
                }
                input = &[];
            }
        }
    }

    /// Lets time pass until then, with timers looked at at both ends. Returns what was on the wire meanwhile.
    fn run(&mut self, until: Duration) -> Vec<Seen> {
        self.wire.clear();
        while MockClock::time() < until {
            MockClock::advance(TICK);
            // Both look before either has heard of the other.
            let sent = [End::Alice, End::Bob].map(|end| (end, look_at_timers(self.end(end))));
            for (end, datagram) in sent {
                if let Some(datagram) = datagram {
                    self.carry(end, datagram);
                }
            }
        }
        std::mem::take(&mut self.wire)
    }
}

/// An end with the first number as its key, whose peer has the second.
fn tunn(own: u8, peer: u8, keepalive: Option<u16>) -> Tunn {
    let [own, peer] = [own, peer].map(|key| StaticSecret::from([key; 32]));
    Tunn::new(own, PublicKey::from(&peer), None, keepalive, 1, None)
}

fn look_at_timers(tunn: &mut Tunn) -> Option<Vec<u8>> {
    match tunn.update_timers(&mut [0; 2000]) {
        TunnResult::WriteToNetwork(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

fn sealed(tunn: &mut Tunn, packet: &[u8]) -> Option<Vec<u8>> {
    match tunn.encapsulate(packet, &mut [0; 2000]) {
        TunnResult::WriteToNetwork(bytes) => Some(bytes.to_vec()),
        _ => None,
    }
}

/// What one datagram is answered with.
fn answer(tunn: &mut Tunn, from: IpAddr, datagram: &[u8]) -> Result<Vec<u8>, WireGuardError> {
    match tunn.decapsulate(Some(from), datagram, &mut [0; 2000]) {
        TunnResult::WriteToNetwork(bytes) => Ok(bytes.to_vec()),
        TunnResult::Err(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// An IPv4 packet of that many bytes.
fn packet(length: u16) -> Vec<u8> {
    let mut packet = vec![0; usize::from(length)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn source() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1).into()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn initiations(wire: &[Seen]) -> Vec<Duration> {
    wire.iter().filter(|(_, _, length)| *length == INITIATION).map(|(at, ..)| *at).collect()
}

#[test]
fn a_session_dies_at_the_next_look_when_timers_were_not_looked_at_for_long() {
    let mut pair = Pair::new([None; 2]);
    MockClock::advance(secs(200));
    // Alice is looked at, Bob not: his device does not look at a peer whose endpoint it does not know.
    look_at_timers(&mut pair.alice);
    pair.send(End::Alice, &packet(20));
    pair.send(End::Bob, &packet(20));
    assert_eq!(pair.delivered, [(End::Bob, 20), (End::Alice, 20)]);
    MockClock::advance(TICK);
    look_at_timers(&mut pair.bob);
    pair.send(End::Alice, &packet(20));
    assert_eq!(pair.delivered.len(), 2);
    assert!(matches!(pair.errors[..], [WireGuardError::NoCurrentSession]), "{:?}", pair.errors);
}

#[test]
fn b_a_keepalive_peer_gives_up_for_ever() {
    let mut pair = Pair::connected([Some(25), None]);
    pair.cut = true;
    let outage = pair.run(secs(3600));
    assert_eq!(initiations(&outage).len(), 18);
    assert!(outage.iter().all(|(at, ..)| *at < secs(300)), "{outage:?}");
    // The outage is over, and an hour later still nothing was tried.
    pair.cut = false;
    assert_eq!(pair.run(secs(7200)), []);
}

#[test]
fn c_the_first_packet_after_a_pause_means_a_handshake_at_once() {
    let mut pair = Pair::connected([None; 2]);
    pair.run(secs(60));
    pair.cut = true;
    pair.send(End::Alice, &packet(20));
    assert_eq!(initiations(&pair.run(secs(61))), [secs(60) + TICK], "due after 15 s without an answer");
}

#[test]
fn d_the_first_packet_after_a_pause_means_a_keepalive_at_once() {
    let mut pair = Pair::connected([None; 2]);
    pair.run(secs(60));
    pair.send(End::Bob, &packet(20));
    let answered = pair.run(secs(61));
    assert_eq!(answered[0], (secs(60) + TICK, End::Alice, KEEPALIVE), "due after 10 s: {answered:?}");
}

#[test]
fn f_retransmissions_have_no_jitter() {
    let mut pair = Pair::new([None; 2]);
    pair.cut = true;
    pair.send(End::Alice, &packet(20));
    let times = initiations(&pair.run(secs(120)));
    assert_eq!(times, (1..18).map(|number| secs(5 * number)).collect::<Vec<_>>());
}

#[test]
fn f_two_that_begin_together_collide_again_and_again() {
    let mut pair = Pair::new([None; 2]);
    pair.cut = true;
    pair.send(End::Alice, &packet(20));
    pair.send(End::Bob, &packet(20));
    let wire = pair.run(secs(85));
    let times = |from| wire.iter().filter(|(_, end, _)| *end == from).map(|(at, ..)| *at).collect::<Vec<_>>();
    assert_eq!(times(End::Alice).len(), 17);
    assert_eq!(times(End::Alice), times(End::Bob));
}

#[test]
fn i_two_keepalive_ends_both_begin_a_handshake_whenever_one_is_due() {
    let mut pair = Pair::connected([Some(25); 2]);
    let wire = pair.run(secs(3600));
    let due: Vec<_> = (1..=18).map(|number| secs(200 * number)).collect();
    for end in [End::Alice, End::Bob] {
        let own: Vec<_> = wire.iter().filter(|(_, from, _)| *from == end).copied().collect();
        let mut began = initiations(&own);
        began.dedup();
        assert_eq!(began, due, "{end:?}");
    }
    // And one of them at once again, as it finds no session in use.
    assert_eq!(initiations(&wire).len(), 3 * due.len());
}

#[test]
fn j_what_is_sent_in_the_last_second_of_a_session_is_lost() {
    let mut pair = Pair::connected([None; 2]);
    pair.run(secs(180) - TICK);
    let late = sealed(&mut pair.alice, &packet(20)).unwrap();
    assert_eq!(late.len(), 52, "data, not a handshake");
    // Half a second later it is there.
    pair.run(secs(180) + TICK);
    pair.carry(End::Alice, late);
    assert_eq!(pair.delivered.len(), 1, "the first");
    assert!(matches!(pair.errors[..], [WireGuardError::NoCurrentSession]), "{:?}", pair.errors);
}

#[test]
fn k_a_handshake_under_way_is_forgotten_when_two_initiations_arrive() {
    let mut pair = Pair::new([None; 2]);
    let own = sealed(&mut pair.alice, &packet(20)).unwrap();
    let response = answer(&mut pair.bob, source(), &own).unwrap();
    for _ in 0..2 {
        // Bob's, and his again when the answer was lost.
        let mut buffer = [0; 2000];
        let TunnResult::WriteToNetwork(theirs) = pair.bob.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("no initiation")
        };
        answer(&mut pair.alice, source(), theirs).unwrap();
        MockClock::advance(secs(5));
    }
    let result = answer(&mut pair.alice, source(), &response);
    assert!(matches!(result, Err(WireGuardError::UnexpectedPacket)), "{result:?}");
}

#[test]
fn m_a_peer_made_anew_is_refused_when_the_wall_clock_lags() {
    let mut pair = Pair::new([None; 2]);
    // Boot time passes and wall time does not, as when the wall clock is put back.
    MockClock::advance(secs(60));
    pair.send(End::Alice, &packet(20));
    pair.alice = tunn(1, 2, None);
    let again = sealed(&mut pair.alice, &packet(20)).unwrap();
    let result = answer(&mut pair.bob, source(), &again);
    assert!(matches!(result, Err(WireGuardError::WrongTai64nTimestamp)), "{result:?}");
}

#[test]
fn o_a_few_messages_from_one_source_force_cookies_on_others() {
    let mut pair = Pair::new([None; 2]);
    // A stranger: what makes it count is a MAC1, for which Bob's public key is enough.
    let mut stranger = tunn(9, 2, None);
    let junk = sealed(&mut stranger, &packet(20)).unwrap();
    for _ in 0..10 {
        assert!(answer(&mut pair.bob, Ipv4Addr::new(203, 0, 113, 9).into(), &junk).is_err());
    }
    let initiation = sealed(&mut pair.alice, &packet(20)).unwrap();
    let reply = answer(&mut pair.bob, source(), &initiation).unwrap();
    assert_eq!((reply[0], reply.len()), (3, 64), "a cookie");
}

#[test]
fn s_what_silent_peers_hold_is_unbounded() {
    let mut held = 0;
    for _ in 0..100 {
        let mut pair = Pair::new([None; 2]);
        let initiation = sealed(&mut pair.alice, &packet(1400)).unwrap();
        for _ in 0..300 {
            assert_eq!(sealed(&mut pair.alice, &packet(1400)), None);
        }
        // The peer is there at last, and everything that was held comes out.
        pair.carry(End::Alice, initiation);
        held += pair.delivered.iter().map(|(_, length)| length).sum::<usize>();
    }
    assert_eq!(held, 100 * 256 * 1400, "and so on with each peer");
}
