//! Whatever comes from the wire, in whatever runs: nothing that nobody sealed is delivered, answered or followed.
//! (fuzz check)

use std::cell::RefCell;

use wg4netns::packet::batch::Path;

use crate::wireguard_node::{Node, at, packet};

thread_local! {
    /// A device with a session, and that session's receiver index.
    static CONNECTED: RefCell<(Node, [u8; 4])> = RefCell::new(connected());
}

/// The first byte says how long the datagrams of the run are, the second whether each names the session; the others
/// are the run.
pub(crate) fn check(data: &[u8]) {
    let &[segment_len, named, ref bytes @ ..] = data else { return };
    let segment_len = (usize::from(segment_len) * 8).clamp(1, bytes.len().max(1));
    CONNECTED.with_borrow_mut(|(node, index)| {
        let mut run = bytes.to_vec();
        for message in run.chunks_mut(segment_len) {
            if named & 1 != 0
                && let Some(header) = message.first_chunk_mut::<8>()
            {
                *header = [4, 0, 0, 0, index[0], index[1], index[2], index[3]];
            }
        }
        let before = node.status(at(1));
        let stranger = Path::to(([198, 51, 100, 66], 666).into());
        node.receive_run(&run, segment_len.min(run.len()), stranger, named & 3, at(1));
        assert!(node.delivered.is_empty() && node.replies.is_empty(), "a packet that nobody sealed");
        assert!(node.take_sent().is_empty(), "an answer to a stranger");
        let mut after = node.status(at(1));
        for (after, before) in after.peers.iter_mut().zip(&before.peers) {
            after.trouble = before.trouble;
        }
        assert_eq!(after, before);
    });
}

fn connected() -> (Node, [u8; 4]) {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:2"));
    a.add_peer(&b, &["10.0.0.2/32"], true, at(0));
    b.add_peer(&a, &["10.0.0.1/32"], true, at(0));
    a.send(&packet("10.0.0.1", "10.0.0.2", b"hello"), at(0));
    b.receive(&a.take_sent(), at(0));
    a.receive(&b.take_sent(), at(0));
    let data = a.take_sent();
    b.receive(&data, at(0));
    assert_eq!(b.take_delivered().len(), 1);
    let index = *data[0].bytes[4..].first_chunk().expect("a data message has an index");
    b.events.clear();
    (b, index)
}
