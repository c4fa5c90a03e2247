//! A handshake message that differs from an authentic one is answered by nothing, or under load by a cookie, and
//! leaves no trace. (fuzz check)

use std::cell::RefCell;

use wg4netns::crypto;
use wg4netns::wireguard::MAX_QUEUED_HANDSHAKES;

use crate::wireguard_node::{Datagram, Node, at, packet};

/// Where MAC1 begins in an initiation and in a response.
const MAC1_AT: [usize; 2] = [116, 60];

thread_local! {
    /// A device that waits for a response, and the messages that its peer would send: an initiation and a response.
    static WAITING: RefCell<(Node, [Datagram; 2])> = RefCell::new(waiting());
}

/// The first byte says which message, whether MAC1 is mended, and whether there is load; the others are laid over the
/// message by exclusive or.
pub(crate) fn check(data: &[u8]) {
    let Some((choice, mask)) = data.split_first() else { return };
    WAITING.with_borrow_mut(|(node, messages)| {
        let kind = usize::from(choice & 1);
        let mut datagram = messages[kind].clone();
        let original = datagram.bytes.clone();
        for (byte, mask) in datagram.bytes.iter_mut().zip(mask) {
            *byte ^= mask;
        }
        let mac1_at = MAC1_AT[kind];
        if choice & 2 != 0 {
            let key = crypto::hash(&[b"mac1----", node.public_key.as_bytes()]);
            let mac1 = crypto::mac(&key, &[&datagram.bytes[..mac1_at]]);
            datagram.bytes[mac1_at..mac1_at + 16].copy_from_slice(&mac1);
        }
        // The sender's index is protected by MAC1 alone: with that mended the message is authentic.
        let differs = |bytes: &[u8]| bytes[..4] != original[..4] || bytes[8..mac1_at] != original[8..mac1_at];
        if !differs(&datagram.bytes) {
            return;
        }
        node.queued = if choice & 4 != 0 { MAX_QUEUED_HANDSHAKES } else { 0 };
        let before = node.status(at(1));
        node.receive(&[datagram], at(1));
        let sent = node.take_sent();
        let cookies_only = sent.iter().all(|reply| reply.kind() == 3 && reply.bytes.len() == 64);
        assert!(cookies_only && sent.len() <= 1, "{sent:?}");
        let mut after = node.status(at(1));
        for (after, before) in after.peers.iter_mut().zip(&before.peers) {
            after.trouble = before.trouble;
        }
        assert_eq!(after, before);
    });
}

fn waiting() -> (Node, [Datagram; 2]) {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:2"));
    a.add_peer(&b, &["10.0.0.2/32"], true, at(0));
    b.add_peer(&a, &["10.0.0.1/32"], true, at(0));
    a.send(&packet("10.0.0.1", "10.0.0.2", b"hello"), at(0));
    b.send(&packet("10.0.0.2", "10.0.0.1", b"hello"), at(0));
    let initiation = b.take_sent().remove(0);
    b.receive(&a.take_sent(), at(0));
    let response = b.take_sent().remove(0);
    (a, [initiation, response])
}
