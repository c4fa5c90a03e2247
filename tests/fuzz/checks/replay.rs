//! Whatever a stranger sends: silence, nothing delivered, and the session goes on as if nothing had come. (fuzz check)
//!
//! Bob has a session with Alice and has seen everything that he is sent again here, so that even a faithful copy is
//! nothing new.

use std::cell::RefCell;

use wg4netns::packet::batch::Path;

use crate::wireguard_node::{Datagram, Node, at, packet};

/// Scripts that one session is used for: making one takes a hundred times longer than a script does.
const SCRIPTS: u32 = 64;

thread_local! {
    /// A session, what went over the wire, and for how many scripts it is good.
    static SESSION: RefCell<(Node, Node, Vec<Datagram>, u32)> = RefCell::new(session());
}

/// A script: what to send, how many bytes follow, those bytes.
pub(crate) fn check(data: &[u8]) {
    SESSION.with_borrow_mut(|session_now| {
        if session_now.3 == 0 {
            *session_now = session();
        }
        let (alice, bob, wire, left) = session_now;
        *left -= 1;
        play(data, alice, bob, wire);
    });
}

fn play(mut data: &[u8], alice: &mut Node, bob: &mut Node, wire: &[Datagram]) {
    while let [op, len, rest @ ..] = data {
        let (bytes, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        let index = usize::from(op / 4) % wire.len();
        let mut message = wire[index].bytes.clone();
        let mut segment_len = message.len();
        match op % 4 {
            // As it is.
            0 => (message, segment_len) = (bytes.to_vec(), bytes.len()),
            // A message that was seen, with bytes changed: pairs of place and difference.
            1 => change(&mut message, bytes),
            // The beginning of one, and anything.
            2 => {
                message.truncate(usize::from(bytes.first().copied().unwrap_or(0)));
                message.extend(bytes);
                segment_len = message.len();
            }
            // A run of copies, cut as no kernel would cut it.
            _ => {
                message = message.repeat(usize::from(*len % 8) + 1);
                segment_len = usize::from(bytes.first().copied().unwrap_or(32)).max(1);
            }
        }
        let stranger = "198.51.100.7:7".parse().expect("an address");
        bob.receive_run(&message, segment_len.max(1), Path::to(stranger), 3, at(0));
        assert_eq!(bob.sent, [], "an answer to a stranger");
        assert!(bob.delivered.is_empty(), "a packet from a stranger");
        data = behind;
    }
    let genuine = packet("10.0.0.1", "10.0.0.2", b"still here");
    alice.send(&genuine, at(0));
    let sent = alice.take_sent();
    bob.receive(&sent, at(0));
    assert_eq!(bob.take_delivered(), [genuine]);
    let endpoint = bob.device.status(at(0)).peers[0].endpoint;
    assert_eq!(endpoint, Some(alice.address), "a stranger moved the endpoint");
}

/// Alice and Bob with a session, and all that went over the wire.
fn session() -> (Node, Node, Vec<Datagram>, u32) {
    let (mut alice, mut bob) = (Node::new(1, "192.0.2.1:1001"), Node::new(2, "192.0.2.2:1002"));
    alice.add_peer(&bob, &["10.0.0.2/32"], true, at(0));
    bob.add_peer(&alice, &["10.0.0.1/32"], false, at(0));
    let mut wire = Vec::new();
    alice.send(&packet("10.0.0.1", "10.0.0.2", b"hello"), at(0));
    for _ in 0..4 {
        let (from_alice, from_bob) = (alice.take_sent(), bob.take_sent());
        bob.receive(&from_alice, at(0));
        alice.receive(&from_bob, at(0));
        wire.extend(from_alice);
        wire.extend(from_bob);
    }
    assert_eq!(bob.take_delivered().len(), 1);
    assert!(wire.len() >= 3 && bob.sent.is_empty());
    (alice, bob, wire, SCRIPTS)
}

/// Changes bytes: pairs of place and difference.
fn change(message: &mut [u8], pairs: &[u8]) {
    for pair in pairs.chunks_exact(2) {
        let at = usize::from(pair[0]) % message.len();
        message[at] ^= pair[1];
    }
}
