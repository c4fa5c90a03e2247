//! Faults of another implementation, A–T, that must never be ours: each test says what was seen there.
//!
//! Where boringtun 0.7.1 shows the fault through its interface, a test shows that too, so that these are known to be
//! able to fail: some below; the others, for which its clock must be moved, in tests/boringtun, a package of its own.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, PeerUpdate};
use wg4netns::key::PresharedKey;
use wg4netns::packet::batch::{DatagramBatch, PacketBatch, Path};
use wg4netns::time::{Now, WallTime};
use wg4netns::wireguard::{DeviceEvent, DropReason, MAX_QUEUED_HANDSHAKES, RxPath, TxPath};

use crate::wireguard_node::{Node, after, at, packet};
use crate::wireguard_pair::{Pair, back, framed, kinds, secs, there};

fn keepalive(pair: &mut Pair, interval: u16, now: Now) {
    let mut update = PeerUpdate::new(pair.b.public_key);
    update.persistent_keepalive = Some(interval);
    pair.a.update_peer(update, now);
}

/// A: a session died 250 ms after its handshake when timers had not been looked at for three minutes.
#[test]
fn a_session_lives_although_no_timer_was_looked_at_for_long() {
    let mut pair = Pair::new();
    for hour in [0, 1, 5] {
        let start = hour * 3600;
        pair.ping(at(start));
        pair.a.timeout(at(start + 1));
        pair.b.timeout(at(start + 1));
        pair.b.send(&back(10), at(start + 2));
        let wire = pair.exchange(at(start + 2));
        assert_eq!(kinds(&wire), [4], "no second handshake");
        assert_eq!(pair.a.take_delivered(), [back(10)]);
    }
}

/// B: a peer with a persistent keepalive gave up for ever after 90 s of outage; a container that only serves was gone.
#[test]
fn b_a_keepalive_peer_never_gives_up() {
    let mut pair = Pair::connected();
    keepalive(&mut pair, 25, at(1));
    pair.exchange(at(1));
    let log = pair.run_cut(secs(1), secs(7200));
    let gave_up = DeviceEvent::HandshakeGaveUp { peer: pair.b.public_key };
    assert!(pair.a.events.iter().filter(|event| **event == gave_up).count() > 50);
    let last_hour = log.iter().filter(|(at, datagram)| *at > secs(3600) && datagram.kind() == 1).count();
    assert!((400..720).contains(&last_hour), "{last_hour} initiations");
    // The outage ends, and nobody sends anything: within a keepalive's interval there is a session again.
    let log = pair.run(secs(7200), secs(7235));
    assert!(log.iter().any(|(_, datagram)| datagram.kind() == 4), "{log:?}");
    pair.b.send(&back(10), at(7235));
    pair.exchange(at(7235));
    assert_eq!(pair.a.take_delivered(), [back(10)]);
}

/// C: a handshake 0.25 s after the first packet that followed a pause; it is due after 15 s without an answer.
#[test]
fn c_an_unanswered_packet_means_a_handshake_after_15_seconds_and_not_before() {
    let mut pair = Pair::connected();
    pair.run(secs(0), secs(60));
    pair.a.send(&there(10), at(60));
    let log = pair.run_cut(secs(60), secs(80));
    let first = log.iter().find(|(_, datagram)| datagram.from == pair.a.address && datagram.kind() == 1);
    let (first, _) = first.expect("a handshake");
    assert!((secs(75)..Duration::from_millis(75_400)).contains(first), "{first:?}");
}

/// C: nor is there one while the other end answers, by data or by keepalive.
#[test]
fn c_an_answered_packet_means_no_handshake() {
    let mut pair = Pair::connected();
    let mut log = pair.run(secs(0), secs(30));
    pair.a.send(&there(10), at(30));
    log.extend(pair.run(secs(30), secs(100)));
    let late =
        log.iter().filter(|(at, _)| *at > secs(1)).map(|(at, d)| (at.as_secs(), d.kind(), d.bytes.len()));
    assert_eq!(late.collect::<Vec<_>>(), [(10, 4, 32), (30, 4, 64), (40, 4, 32)]);
}

/// D: keepalives went out 0.25 s after data; 10 s is right.
#[test]
fn d_a_passive_keepalive_comes_after_ten_seconds() {
    let mut pair = Pair::connected();
    pair.run(secs(0), secs(60));
    pair.b.send(&back(10), at(60));
    let log = pair.run(secs(60), secs(100));
    let seen: Vec<_> = log.iter().map(|(at, d)| (*at, d.from, d.bytes.len())).collect();
    assert_eq!(seen, [(secs(60), pair.b.address, 64), (secs(70), pair.a.address, 32)]);
}

/// E: packets were not padded, so their exact lengths showed.
#[test]
fn e_lengths_are_padded() {
    let mut pair = Pair::connected();
    let mut lengths = HashSet::new();
    for len in 20..=36 {
        pair.a.send(&there(len - 20), at(1));
        lengths.insert(pair.a.take_sent()[0].bytes.len());
    }
    assert_eq!(lengths, HashSet::from([64, 80]));
}

/// F: no jitter, so ends that began together went on colliding.
#[test]
fn f_retransmissions_have_jitter() {
    let mut pair = Pair::new();
    pair.a.send(&there(10), at(0));
    let log = pair.run_cut(secs(0), secs(100));
    let times: Vec<_> = log.iter().map(|(at, _)| *at).collect();
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps.len(), 17);
    assert!(gaps.iter().all(|gap| (secs(5)..=Duration::from_millis(5334)).contains(gap)), "{gaps:?}");
    assert_eq!(gaps.iter().collect::<HashSet<_>>().len(), 17, "all different");
}

/// G: a replay window of 1024 lost packets that were only overtaken. See also W3.
#[test]
fn g_a_packet_overtaken_by_five_thousand_is_delivered() {
    let mut pair = Pair::connected();
    pair.a.send(&there(1), at(1));
    let early = pair.a.take_sent();
    for _ in 0..5000 {
        pair.a.send(&there(2), at(1));
    }
    let late = pair.a.take_sent();
    pair.b.receive(&late[4999..], at(1));
    pair.b.receive(&early, at(1));
    assert_eq!(pair.b.take_delivered(), [there(2), there(1)]);
}

/// H: counters left out headers and handshakes. See W10 for the exact figures.
#[test]
fn h_both_ends_count_every_byte_of_the_tunnel() {
    let mut pair = Pair::new();
    pair.a.send(&there(10), at(0));
    let mut bytes: usize = pair.exchange(at(0)).iter().map(|datagram| datagram.bytes.len()).sum();
    bytes += pair.run(secs(0), secs(60)).iter().map(|(_, datagram)| datagram.bytes.len()).sum::<usize>();
    let (a, b) =
        (pair.a.peer_status(pair.b.public_key, at(60)), pair.b.peer_status(pair.a.public_key, at(60)));
    assert_eq!((a.tx_bytes, a.rx_bytes), (b.rx_bytes, b.tx_bytes));
    assert_eq!(a.tx_bytes + b.tx_bytes, bytes as u64);
}

/// I: with keepalives at both ends each kept renewing the other's session.
#[test]
fn i_two_keepalive_ends_shake_hands_once_in_two_minutes() {
    let mut pair = Pair::connected();
    keepalive(&mut pair, 25, at(1));
    let mut update = PeerUpdate::new(pair.a.public_key);
    update.persistent_keepalive = Some(25);
    pair.b.update_peer(update, at(1));
    let log = pair.run(secs(1), secs(3600));
    let initiations = log.iter().filter(|(_, datagram)| datagram.kind() == 1).count();
    assert!((24..=30).contains(&initiations), "{initiations} in an hour");
    assert_eq!(log.iter().filter(|(_, datagram)| datagram.kind() == 2).count(), initiations);
}

/// I and K: when both begin at the same moment, both handshakes complete, one session wins, and nothing is repeated.
#[test]
fn k_two_handshakes_that_cross_leave_one_session_in_use() {
    let mut pair = Pair::connected();
    // Both sessions are gone, both ends know where the other is.
    let start = 1000;
    for round in 0..20 {
        let now = at(start + round * 1000);
        pair.a.send(&there(10), now);
        pair.b.send(&back(10), now);
        assert_eq!((kinds(&pair.a.sent), kinds(&pair.b.sent)), (vec![1], vec![1]));
        pair.exchange(now);
        assert_eq!(pair.a.take_delivered(), [back(10)]);
        assert_eq!(pair.b.take_delivered(), [there(10)]);
        let settled = start + round * 1000;
        let mut initiations = 0;
        for second in 1..=500 {
            pair.a.send(&there(10), at(settled + second));
            pair.b.send(&back(10), at(settled + second));
            let log = pair.run(secs(settled + second), secs(settled + second));
            initiations += log.iter().filter(|(_, datagram)| datagram.kind() == 1).count();
            assert_eq!((pair.a.take_delivered().len(), pair.b.take_delivered().len()), (1, 1));
        }
        assert_eq!(initiations, 4, "round {round}: one each two minutes, from one end");
    }
}

/// J: what was sent in the last second of a session arrived after its end.
#[test]
fn j_nothing_is_sent_so_late_that_it_would_arrive_too_late() {
    for millis in (174_000..=180_000).step_by(250) {
        let mut pair = Pair::connected();
        let now = after(Duration::from_millis(millis));
        pair.a.send(&there(10), now);
        for _ in 0..5 {
            // Half a second each way.
            let (from_a, from_b) = (pair.a.take_sent(), pair.b.take_sent());
            let later = after(Duration::from_millis(millis + 500));
            pair.b.receive(&from_a, later);
            pair.a.receive(&from_b, later);
        }
        assert_eq!(pair.b.take_delivered(), [there(10)], "sent at {millis} ms");
    }
}

/// L: too small an output was a panic.
#[test]
fn l_too_little_room_is_a_counted_drop() {
    let mut pair = Pair::connected();
    let plane = pair.a.device.data_plane();
    let (mut tx, mut rx) = (TxPath::new(plane.clone()), RxPath::new(plane.clone()));
    let mut packets = PacketBatch::with_capacity(4000, 2);
    let framed = framed(&there(1000));
    packets.spare()[..framed.len()].copy_from_slice(&framed);
    packets.commit(framed.len());
    for room in [0, 15, 16, 32, 1000, 1051] {
        let mut out = DatagramBatch::with_capacity(room, 1);
        let mut replies = PacketBatch::with_capacity(0, 0);
        tx.handle_packets(&packets, at(1), &mut out, &mut replies);
        assert!(out.is_empty(), "{room} bytes");
    }
    pair.b.send(&back(1000), at(1));
    let datagram = pair.b.take_sent().remove(0);
    let mut batch = DatagramBatch::with_capacity(2000, 1);
    batch.spare()[..datagram.bytes.len()].copy_from_slice(&datagram.bytes);
    batch.commit(datagram.bytes.len(), datagram.bytes.len(), Path::to(datagram.from), 0);
    let mut none = PacketBatch::with_capacity(500, 1);
    rx.handle_datagrams(&mut batch, at(1), &mut none, &mut |_, _| {});
    assert!(none.is_empty());
    assert_eq!(pair.a.drops(DropReason::NoRoom), 7);
    pair.ping(at(2));
}

/// M: timestamps went back when a peer was made anew, and the other end refused them.
#[test]
fn m_a_peer_that_is_removed_and_added_is_still_answered() {
    let mut pair = Pair::connected();
    for second in 1..10 {
        let remove = PeerUpdate { remove: true, ..PeerUpdate::new(pair.b.public_key) };
        // The clock stands still, then goes back by a day.
        let wall = WallTime { secs: 1_700_000_000 - second * 86_400, nanos: 0 };
        let now = Now { wall, ..at(second) };
        pair.a.update_peer(remove, now);
        pair.a.add_peer(&pair.b, &["10.0.0.2/32"], true, now);
        pair.a.send(&there(10), now);
        pair.exchange(now);
        assert_eq!(pair.b.take_delivered(), [there(10)], "second {second}");
    }
}

/// M: a clock before 1970 was a panic.
#[test]
fn m_a_clock_at_the_epoch_is_no_trouble() {
    let mut pair = Pair::new();
    let now = Now { wall: WallTime::default(), ..at(0) };
    pair.a.send(&there(10), now);
    pair.exchange(now);
    assert_eq!(pair.b.take_delivered(), [there(10)]);
}

/// O: one flooder forced cookies on everybody.
#[test]
fn o_a_flood_from_one_source_costs_others_nothing() {
    let mut pair = Pair::new();
    let mut flooder = Node::new(9, "203.0.113.1:9");
    flooder.add_peer(&pair.b, &["10.0.0.2/32"], true, at(0));
    flooder.send(&there(1), at(0));
    let junk = flooder.take_sent();
    pair.b.queued = MAX_QUEUED_HANDSHAKES / 64;
    for _ in 0..1000 {
        pair.b.receive(&junk, at(0));
    }
    // Five were looked into, the rest cost a cookie each.
    assert_eq!(pair.b.drops(DropReason::UnknownPeer), 5);
    assert_eq!(kinds(&pair.b.take_sent()), vec![3; 995]);
    pair.a.send(&there(10), at(0));
    assert_eq!(kinds(&pair.exchange(at(0))), [1, 2, 4]);
}

/// P: indices were a peer's number and a counter.
#[test]
fn p_indices_are_random() {
    let mut indices = HashSet::new();
    let mut prefixes = HashSet::new();
    let mut pair = Pair::connected();
    for round in 1..50 {
        let now = at(round * 1000);
        pair.a.send(&there(10), now);
        for datagram in pair.exchange(now).iter().filter(|datagram| datagram.kind() < 3) {
            let index = u32::from_le_bytes(datagram.bytes[4..8].try_into().unwrap());
            assert!(indices.insert(index), "an index twice");
            prefixes.insert(index >> 8);
        }
    }
    assert_eq!(prefixes.len(), indices.len(), "no two share their upper bits");
}

/// R: "54 years ago", peers that could not be modified, and a `replace_allowed_ips` that was not heeded.
#[test]
fn r_a_status_tells_the_truth() {
    let mut pair = Pair::new();
    assert_eq!(pair.a.peer_status(pair.b.public_key, at(0)).last_handshake, None);
    pair.ping(at(7));
    let status = pair.a.peer_status(pair.b.public_key, at(1000));
    assert_eq!(status.last_handshake, Some(at(7).wall));
    assert_eq!(status.last_handshake_age, Some(secs(993)));
    // Whatever becomes of the wall clock: that says nothing about how old a session is.
    for wall in [at(0).wall, at(90_000).wall] {
        let now = Now { wall, ..at(1000) };
        let age = pair.a.peer_status(pair.b.public_key, now).last_handshake_age;
        assert_eq!(age, Some(secs(993)));
    }
    assert_eq!(status.first_handshake_took, Some(Duration::ZERO));
    let mut update = PeerUpdate::new(pair.b.public_key);
    update.replace_allowed_ips = true;
    update.allowed_ips =
        ["10.0.0.2/24", "10.0.0.3/32"].map(|net| AllowedIpChange::Add(net.parse().unwrap())).to_vec();
    pair.a.update_peer(update, at(8));
    let allowed = pair.a.peer_status(pair.b.public_key, at(8)).allowed_ips;
    assert_eq!(allowed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.3/32", "10.0.0.0/24"]);
    let mut update = PeerUpdate::new(pair.b.public_key);
    update.allowed_ips = vec![
        AllowedIpChange::Remove("10.0.0.3/32".parse().unwrap()),
        AllowedIpChange::Remove("10.7.0.0/16".parse().unwrap()),
    ];
    pair.a.update_peer(update, at(8));
    assert_eq!(pair.a.peer_status(pair.b.public_key, at(8)).allowed_ips.len(), 1);
    pair.ping(at(8));
}

/// S: what many silent peers hold was unbounded.
#[test]
fn s_what_silent_peers_hold_is_bounded() {
    let mut hub = Node::new(1, "192.0.2.1:1");
    let spokes: Vec<_> =
        (0..300_u16).map(|n| Node::new(u64::from(n) + 1000, &format!("192.0.2.2:{}", n + 1))).collect();
    for (number, spoke) in spokes.iter().enumerate() {
        hub.add_peer(spoke, &[&format!("10.1.{}.{}/32", number / 250, number % 250)], true, at(0));
    }
    let payload = vec![0; 1380];
    let mut sent = 0_u64;
    for number in 0..spokes.len() {
        let destination = format!("10.1.{}.{}", number / 250, number % 250);
        let packet = framed(&packet("10.0.0.1", &destination, &payload));
        for _ in 0..3 {
            let batch = vec![packet.as_slice(); 50];
            hub.send_batch(&batch, at(0));
            sent += 50;
        }
    }
    let held = (sent - hub.drops(DropReason::Unsent)) * 1408;
    assert!(held <= 32 << 20, "{held} bytes");
    assert!(held > 30 << 20, "{held} bytes");
}

/// T: a changed preshared key or keepalive took the session down and forgot which initiations were seen.
#[test]
fn t_a_new_preshared_key_or_keepalive_keeps_the_session() {
    let mut pair = Pair::connected();
    for node in [&mut pair.a, &mut pair.b] {
        let peer = node.status(at(1)).peers[0].public_key;
        let mut update = PeerUpdate::new(peer);
        update.preshared_key = Some(Some(PresharedKey::from_bytes([3; 32])));
        update.persistent_keepalive = Some(20);
        node.update_peer(update, at(1));
    }
    pair.a.send(&there(10), at(2));
    let wire = pair.exchange(at(2));
    assert!(kinds(&wire).iter().all(|kind| *kind == 4), "{wire:?}");
    assert_eq!(pair.b.take_delivered(), [there(10)]);
    // The next handshake uses the new key at both ends.
    pair.ping(at(500));
}

/// A peer whose packets wait wakes the control half once, not once a packet.
#[test]
fn the_control_half_is_woken_once_and_not_by_every_packet() {
    let mut pair = Pair::new();
    pair.a.wakes.store(0, Ordering::Relaxed);
    for _ in 0..100 {
        pair.a.send(&there(10), at(0));
    }
    assert_eq!(pair.a.wakes.load(Ordering::Relaxed), 1, "for the handshake");
    pair.exchange(at(0));
    pair.b.send(&back(10), at(0));
    pair.exchange(at(0));
    let before = [&pair.a, &pair.b].map(|node| node.wakes.load(Ordering::Relaxed));
    for millis in 1..9000 {
        let now = after(Duration::from_millis(millis));
        pair.a.send(&there(10), now);
        pair.b.send(&back(10), now);
        pair.exchange(now);
    }
    let after = [&pair.a, &pair.b].map(|node| node.wakes.load(Ordering::Relaxed));
    assert_eq!(after, before, "18 000 packets");
}

/// The faults themselves, where boringtun 0.7.1 shows them with the clock that it has; tests/boringtun/faults.rs has the
/// others. When one of these fails, boringtun has mended the fault.
#[cfg(feature = "demo")]
mod boringtun_has_them {
    use boringtun::noise::{Tunn, TunnResult};
    use boringtun::x25519::{PublicKey, StaticSecret};

    use crate::wireguard_pair::there;

    /// Two of them, with a session.
    struct Theirs {
        alice: Tunn,
        bob: Tunn,
        /// What the handshake put on the wire.
        wire: Vec<Vec<u8>>,
    }

    fn connected() -> Theirs {
        let secrets = [StaticSecret::from([1; 32]), StaticSecret::from([2; 32])];
        let keys = secrets.each_ref().map(PublicKey::from);
        let [alice, bob] = secrets;
        let mut alice = Tunn::new(alice, keys[1], None, None, 0x00ab_cdef, None);
        let mut bob = Tunn::new(bob, keys[0], None, None, 2, None);
        let mut wire = Vec::new();
        let mut datagram = sealed(alice.encapsulate(&there(1), &mut [0; 2000]));
        for round in 0..3 {
            wire.push(datagram.clone());
            let to = if round % 2 == 0 { &mut bob } else { &mut alice };
            let mut buffer = [0; 2000];
            let TunnResult::WriteToNetwork(bytes) = to.decapsulate(None, &datagram, &mut buffer) else {
                break;
            };
            datagram = bytes.to_vec();
        }
        Theirs { alice, bob, wire }
    }

    fn sealed(result: TunnResult<'_>) -> Vec<u8> {
        let TunnResult::WriteToNetwork(bytes) = result else { panic!("{result:?}") };
        bytes.to_vec()
    }

    #[test]
    fn e_lengths_are_not_padded() {
        let mut theirs = connected();
        assert_eq!(sealed(theirs.alice.encapsulate(&there(1), &mut [0; 2000])).len(), 32 + 21);
    }

    #[test]
    fn g_a_packet_overtaken_by_two_thousand_is_lost() {
        let mut theirs = connected();
        let early = sealed(theirs.alice.encapsulate(&there(1), &mut [0; 2000]));
        let mut buffer = [0; 2000];
        for _ in 0..2000 {
            let late = sealed(theirs.alice.encapsulate(&there(2), &mut [0; 2000]));
            assert!(matches!(
                theirs.bob.decapsulate(None, &late, &mut buffer),
                TunnResult::WriteToTunnelV4(..)
            ));
        }
        assert!(matches!(theirs.bob.decapsulate(None, &early, &mut buffer), TunnResult::Err(_)));
    }

    #[test]
    fn h_counters_leave_out_headers_and_handshakes() {
        let mut theirs = connected();
        let (_, before, ..) = theirs.alice.stats();
        let sent = sealed(theirs.alice.encapsulate(&there(80), &mut [0; 2000])).len();
        let (_, after, ..) = theirs.alice.stats();
        assert_eq!((sent, after - before), (132, 100));
    }

    #[test]
    fn l_too_small_an_output_is_a_panic() {
        let mut theirs = connected();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _the_panic_comes_first = theirs.alice.encapsulate(&there(80), &mut [0; 100]);
        }));
        assert!(result.is_err());
    }

    #[test]
    fn p_indices_are_the_callers_number_and_a_counter() {
        let theirs = connected();
        assert_eq!(theirs.wire[0][5..8], [0xef, 0xcd, 0xab]);
    }
}
