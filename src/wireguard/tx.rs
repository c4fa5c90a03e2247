//! From packets to datagrams: route, split, seal. (core: no IO, no clock)
//!
//! # Theory of operation
//! A super-packet is routed once, by its destination, and split straight into the spare room of the output, in the
//! layout in which its segments will be sent. Consecutive packets to one peer gather in a group of up to 64 messages,
//! which get their nonces by one atomic addition and are sealed in one call; then they join the output's runs. Nothing
//! is ever sorted: the order of the packets is the order of the datagrams.

use std::sync::Arc;

use super::data_plane::{DataPlane, DropReason};
use super::keypair::TxSession;
use super::message::DATA_HEADER_LEN;
use super::peer::{Notice, Peer, lock};
use super::seal::{MAX_GROUP, SealGroup, flush_staged, seal_data};
use super::staged::{MAX_STAGED_BYTES, MAX_STAGED_PACKETS, StagedPacket};
use crate::crypto::TAG_LEN;
use crate::packet::batch::{DatagramBatch, MAX_PACKET_LEN, MAX_SEGMENTS, PacketBatch, Path, VNET_HEADER_LEN};
use crate::packet::icmp;
use crate::packet::ip::{IpView, outer_traffic_class};
use crate::packet::split::{SegmentLayout, SplitError, split};
use crate::time::{BootTime, Now};

/// Packets, or super-packets, in one batch from the link.
const MAX_BATCH_SLOTS: usize = 64;

/// Bytes of one batch from the link: it is read until 128 KiB are there, so one more packet may come on top.
const MAX_BATCH_BYTES: usize = 128 * 1024 + VNET_HEADER_LEN + MAX_PACKET_LEN;

/// Output that any batch fits in. What splitting adds to a packet is at most what [`SegmentLayout::room`] allows for.
const BATCH_ROOM: usize = MAX_BATCH_BYTES + MAX_BATCH_SLOTS * (layout(0).room() - MAX_PACKET_LEN);

/// Output that one peer's staged packets fit in.
const STAGED_ROOM: usize = MAX_STAGED_BYTES + MAX_STAGED_PACKETS * (DATA_HEADER_LEN + TAG_LEN);

/// A slab of datagrams that holds the result of any full batch of packets (128 KiB and one packet, 64 slots), and what
/// had been waiting for a session.
pub const TX_SLAB_LEN: usize = BATCH_ROOM + STAGED_ROOM;

const fn layout(mtu: usize) -> SegmentLayout {
    SegmentLayout { headroom: DATA_HEADER_LEN, tailroom: TAG_LEN, mtu }
}

/// The sending side of the data plane; one for each thread.
pub struct TxPath {
    data_plane: Arc<DataPlane>,
    group: SealGroup,
}

/// A peer that packets of this batch go to, and how.
struct Bound<'a> {
    peer: &'a Arc<Peer>,
    way: Way,
}

enum Way {
    /// Seal and send.
    Open(Arc<TxSession>, Path),
    /// Wait for a handshake.
    Closed,
    /// Nobody knows where the peer is.
    Nowhere,
}

impl TxPath {
    /// A sending side over the shared state.
    #[must_use]
    pub fn new(data_plane: Arc<DataPlane>) -> Self {
        Self { data_plane, group: SealGroup::new() }
    }

    /// Routes, splits and seals every packet of the batch into `out`, which has [`TX_SLAB_LEN`] bytes of room. Packets
    /// that no peer takes are answered by an ICMP unreachable in `replies`; packets to a peer without a session wait
    /// for its handshake.
    pub fn handle_packets(
        &mut self,
        packets: &PacketBatch,
        now: Now,
        out: &mut DatagramBatch,
        replies: &mut PacketBatch,
    ) {
        let now = now.boot;
        let routes = self.data_plane.routes.load();
        let mut bound: Option<Bound<'_>> = None;
        let mut last_destination = None;
        for framed in packets.iter() {
            let view = framed.get(VNET_HEADER_LEN..).and_then(|packet| IpView::parse(packet).ok());
            let Some(view) = view else {
                self.data_plane.count_drop(DropReason::MalformedPacket, 1);
                continue;
            };
            let destination = view.destination();
            if last_destination != Some(destination) || bound.is_none() {
                last_destination = Some(destination);
                let Some(peer) = routes.lookup(destination) else {
                    last_destination = None;
                    self.refuse(&view, replies);
                    continue;
                };
                if !bound.as_ref().is_some_and(|bound| Arc::ptr_eq(bound.peer, peer)) {
                    self.flush(bound.as_ref(), now, out);
                    bound = Some(self.bind(peer, now, out));
                }
            }
            let Some(bound) = &bound else { continue };
            match &bound.way {
                Way::Open(session, path) => {
                    self.take(framed, &view, bound.peer, session, *path, now, out);
                }
                Way::Closed => self.stage(framed, &view, bound.peer, out),
                Way::Nowhere => {
                    self.data_plane.count_drop(DropReason::NoEndpoint, 1);
                    reply_unreachable(&view, replies);
                }
            }
        }
        self.flush(bound.as_ref(), now, out);
    }

    /// Finds out how packets get to `peer`. Packets that still wait for the session go first.
    fn bind<'a>(&mut self, peer: &'a Arc<Peer>, now: BootTime, out: &mut DatagramBatch) -> Bound<'a> {
        let session = peer.tx.load_full().filter(|session| session.is_usable(now));
        let way = match (session, peer.path()) {
            (Some(session), Some(path)) => {
                if peer.has_staged() && out.remaining() >= BATCH_ROOM + STAGED_ROOM {
                    flush_staged(&self.data_plane, peer, &session, &mut self.group, now, out);
                }
                Way::Open(session, path)
            }
            (None, Some(_)) => Way::Closed,
            (_, None) => Way::Nowhere,
        };
        Bound { peer, way }
    }

    /// Splits a packet into the group; seals what was there before if the group would become too large.
    #[expect(clippy::too_many_arguments, reason = "one packet and everything that is known about its way")]
    fn take(
        &mut self,
        framed: &[u8],
        view: &IpView<'_>,
        peer: &Arc<Peer>,
        session: &TxSession,
        path: Path,
        now: BootTime,
        out: &mut DatagramBatch,
    ) {
        let layout = layout(self.data_plane.mtu());
        let spare = self.group.spare(out);
        let segments = match split(framed, &layout, spare) {
            Ok(segments) => segments,
            Err(SplitError::NoRoom) => return self.data_plane.count_drop(DropReason::NoRoom, 1),
            Err(_) => return self.data_plane.count_drop(DropReason::MalformedPacket, 1),
        };
        self.data_plane.count_drop(DropReason::MalformedPacket, segments.dropped as u64);
        if self.group.len() + segments.count > MAX_GROUP {
            seal_data(&self.data_plane, peer, session, path, &mut self.group, now, out);
        }
        let traffic_class = outer_traffic_class(view.traffic_class());
        self.group.push_segments(out, &segments, traffic_class);
    }

    fn flush(&mut self, bound: Option<&Bound<'_>>, now: BootTime, out: &mut DatagramBatch) {
        if let Some(Bound { peer, way: Way::Open(session, path) }) = bound
            && self.group.len() != 0
        {
            seal_data(&self.data_plane, peer, session, *path, &mut self.group, now, out);
        }
    }

    /// Keeps a packet until there is a session, in the segments it will be sent in.
    fn stage(&self, framed: &[u8], view: &IpView<'_>, peer: &Arc<Peer>, out: &mut DatagramBatch) {
        // Nothing of this peer lies in the spare room, so it serves as scratch.
        let scratch = self.group.spare(out);
        let layout = SegmentLayout { headroom: 0, tailroom: 0, mtu: self.data_plane.mtu() };
        let Ok(segments) = split(framed, &layout, scratch) else {
            self.data_plane.count_drop(DropReason::MalformedPacket, 1);
            return;
        };
        self.data_plane.count_drop(DropReason::MalformedPacket, segments.dropped as u64);
        let traffic_class = outer_traffic_class(view.traffic_class());
        for index in 0..segments.count {
            let bytes = scratch[segments.range(index)].into();
            self.data_plane.stage(peer, StagedPacket { bytes, traffic_class });
        }
        if peer.waiting.ask() {
            self.data_plane.notify(peer, Notice::HandshakeWanted);
        }
    }

    fn refuse(&self, view: &IpView<'_>, replies: &mut PacketBatch) {
        self.data_plane.count_drop(DropReason::NoRoute, 1);
        let destination = view.destination();
        // Every interface greets its neighbours; nobody wants to read that in a report.
        if !destination.is_multicast() {
            let port = view.ports().map(|(_, destination)| destination);
            lock(&self.data_plane.refused).count(destination, port, view.protocol());
        }
        reply_unreachable(view, replies);
    }
}

/// Tells the sender at once, instead of letting it wait; as the kernel's WireGuard does.
fn reply_unreachable(view: &IpView<'_>, replies: &mut PacketBatch) {
    let Some((header, room)) = replies.spare().split_at_mut_checked(VNET_HEADER_LEN) else { return };
    header.fill(0);
    if let Some(len) = icmp::unreachable(view.packet(), room) {
        replies.commit(VNET_HEADER_LEN + len);
    }
}

const _: () = assert!(MAX_SEGMENTS <= MAX_GROUP, "a super-packet fits one group");
