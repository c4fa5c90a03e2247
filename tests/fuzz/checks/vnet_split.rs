//! Splitting agrees with the plain model on any bytes, and writes where it may and nowhere else. (fuzz check)

use std::cell::RefCell;

use wg4netns::packet::batch::MAX_SEGMENTS;
use wg4netns::packet::icmp;
use wg4netns::packet::split::{
    LEAST_TCP_SEGMENT, MAX_SMALL_SEGMENTS, MIN_TCP_SEGMENT, SegmentLayout, Segments, SplitError, split,
};

use crate::packet_model as model;

pub(crate) const LAYOUT: SegmentLayout = SegmentLayout { headroom: 16, tailroom: 16, mtu: 1420 };

/// What is in front, between and behind, to see that nobody wrote there.
const UNTOUCHED: u8 = 0xa5;

/// The first byte chooses a layout, the others are what the TUN delivered.
pub(crate) fn check(data: &[u8]) {
    let Some((choice, framed)) = data.split_first() else { return };
    let mtu = [1420, 0, 576, 65_535][usize::from(choice % 4)];
    let room = usize::from(choice / 4 % 2) * 16;
    compare(framed, &SegmentLayout { headroom: room, tailroom: room, mtu });
    answer(framed.get(10..).unwrap_or_default());
}

/// The fast and the plain split must agree.
pub(crate) fn compare(framed: &[u8], layout: &SegmentLayout) {
    let fast = split_all(framed, layout);
    let bounds = model::Bounds {
        least_tcp_segment: LEAST_TCP_SEGMENT,
        min_tcp_segment: MIN_TCP_SEGMENT,
        max_small_segments: MAX_SMALL_SEGMENTS,
        max_segments: MAX_SEGMENTS,
    };
    let plain = model::split(framed, &bounds);
    match (fast, plain) {
        (Ok((packets, segments)), Some((expected, dropped))) => {
            assert_eq!(packets, expected);
            assert_eq!(segments.dropped, dropped);
        }
        // The plain one knows no longest datagram.
        (Err(SplitError::NoRoom), _) | (Err(_), None) => {}
        (fast, plain) => panic!("fast: {fast:?}\nplain: {plain:?}"),
    }
}

/// Splits, checks layout and padding, and returns the packets.
pub(crate) fn split_all(
    framed: &[u8],
    layout: &SegmentLayout,
) -> Result<(Vec<Vec<u8>>, Segments), SplitError> {
    OUT.with_borrow_mut(|out| {
        out.resize(out.len().max(layout.room() + 64), UNTOUCHED);
        let result = split_into(framed, layout, out);
        // Whatever was written, also by a split that was given up, is found by the next check if it is not undone here.
        let written = result.as_ref().map_or(out.len(), |(_, segments)| segments.total_len);
        out[..written].fill(UNTOUCHED);
        result
    })
}

thread_local! {
    /// Where segments are written: [`UNTOUCHED`] between two splits, because filling it takes longer than they do.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn split_into(
    framed: &[u8],
    layout: &SegmentLayout,
    out: &mut [u8],
) -> Result<(Vec<Vec<u8>>, Segments), SplitError> {
    let segments = split(framed, layout, &mut out[..layout.room() + 64])?;
    let behind = &out[segments.total_len..];
    // Of two neighbours each: a comparison of memory is many times faster than one of bytes.
    assert!(
        behind[0] == UNTOUCHED && behind[1..] == behind[..behind.len() - 1],
        "written behind the last segment"
    );
    assert_eq!(segments.last_len, segments.range(segments.count - 1).len());
    let mut packets = Vec::new();
    for index in 0..segments.count {
        let slot = &out[segments.range(index)];
        let (headroom, rest) = slot.split_at(layout.headroom);
        let (padded, tailroom) = rest.split_at(rest.len() - layout.tailroom);
        assert!(
            headroom.iter().chain(tailroom).all(|byte| *byte == UNTOUCHED),
            "headroom or tailroom written"
        );
        let whole = model::split(&[&[0; 10], padded].concat(), &model::Bounds::only(1));
        let len = whole.expect("each segment is a packet").0[0].len();
        assert!(padded[len..].iter().all(|byte| *byte == 0), "padding is zero");
        let expected = len.next_multiple_of(16).min(layout.mtu).max(len);
        assert_eq!(padded.len(), expected, "padded to 16, never beyond the MTU");
        packets.push(padded[..len].to_vec());
    }
    assert_eq!(segments.inner_bytes, packets.iter().map(Vec::len).sum::<usize>());
    Ok((packets, segments))
}

/// An ICMP error is itself a packet, and is never answered.
fn answer(packet: &[u8]) {
    let mut out = [0; icmp::MAX_ERROR_LEN];
    if let Some(len) = icmp::unreachable(packet, &mut out) {
        let whole = model::split(&[&[0; 10], &out[..len]].concat(), &model::Bounds::only(1))
            .expect("an error is a packet");
        assert_eq!(whole.0, [&out[..len]]);
        assert_eq!(icmp::unreachable(&out[..len], &mut [0; icmp::MAX_ERROR_LEN]), None);
    }
}
