//! From datagrams to packets: find the session, open, check, coalesce. (core: no IO, no clock)
//!
//! # Theory of operation
//! The kernel hands over runs of equal datagrams from one sender. Consecutive messages with the same receiver index are
//! opened together, in place: one look-up of the session, one batch for the AEAD, then the replay window for all that
//! were authentic, under one lock; it must come after the tags, or anybody could move it. Endpoint, stamps and counters
//! are touched once for them all. What is left are packets whose source must lie in the peer's allowed IPs; they are
//! coalesced and written out at the end of the batch.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::data_plane::{DataPlane, DropReason, Routes};
use super::keypair::RxSession;
use super::message::{DATA_HEADER_LEN, Message, parse_data_header};
use super::peer::{Notice, lock};
use super::seal::MAX_GROUP;
use crate::crypto::{AeadJob, TAG_LEN, open_batch};
use crate::packet::batch::{DatagramBatch, DatagramSlot, PacketBatch, Path};
use crate::packet::coalesce::{CoalesceConfig, Coalescer};
use crate::packet::ip::{IpView, is_congestion_experienced, set_congestion_experienced};
use crate::time::{BootTime, Now};

/// The receiving side of the data plane; one for each thread.
pub struct RxPath {
    data_plane: Arc<DataPlane>,
    coalescer: Coalescer,
    /// Messages to be opened together.
    jobs: Vec<AeadJob>,
    /// Packets of this batch that passed every check.
    packets: Vec<Range<usize>>,
}

impl RxPath {
    /// A receiving side over the shared state, which joins what can be joined.
    #[must_use]
    pub fn new(data_plane: Arc<DataPlane>) -> Self {
        Self {
            data_plane,
            coalescer: Coalescer::new(CoalesceConfig { tcp: true, udp: true }),
            jobs: Vec::with_capacity(MAX_GROUP),
            packets: Vec::new(),
        }
    }

    /// Changes what is joined into super-packets, when the link turns out not to take them.
    pub const fn set_coalescing(&mut self, config: CoalesceConfig) {
        self.coalescer.set_config(config);
    }

    /// Opens every data message of the batch in place and appends the packets, coalesced, to `packets`, which has
    /// [`Coalescer::room`] for them. Handshake messages of the right length go to `handshakes`, to be queued for the
    /// control half.
    pub fn handle_datagrams(
        &mut self,
        datagrams: &mut DatagramBatch,
        now: Now,
        packets: &mut PacketBatch,
        handshakes: &mut dyn FnMut(&[u8], Path),
    ) {
        let routes = self.data_plane.routes.load();
        self.packets.clear();
        for index in 0..datagrams.slots().len() {
            let slot = datagrams.slots()[index];
            self.handle_run(datagrams.slab_mut(), &slot, &routes, now.boot, handshakes);
        }
        let coalesced = self.coalescer.coalesce(datagrams.slab(), &self.packets, packets);
        self.data_plane.count_drop(DropReason::NoRoom, coalesced.no_room as u64);
    }

    fn handle_run(
        &mut self,
        slab: &mut [u8],
        slot: &DatagramSlot,
        routes: &Routes,
        now: BootTime,
        handshakes: &mut dyn FnMut(&[u8], Path),
    ) {
        if slot.len == 0 {
            self.data_plane.count_drop(DropReason::MalformedDatagram, 1);
            return;
        }
        let end = slot.start + slot.len;
        let step = if slot.segment_len == 0 { slot.len } else { slot.segment_len };
        let mut group_index = 0;
        for start in (slot.start..end).step_by(step) {
            let range = start..end.min(start + step);
            let datagram = &slab[range.clone()];
            match Message::classify(datagram) {
                Some(Message::Data) => {
                    let (index, counter) = parse_data_header(datagram);
                    if index != group_index || self.jobs.len() == MAX_GROUP {
                        self.open_group(slab, group_index, slot, routes, now);
                        group_index = index;
                    }
                    let range = start + DATA_HEADER_LEN..range.end;
                    self.jobs.push(AeadJob { range, counter, authentic: false });
                }
                Some(Message::Initiation(_) | Message::Response(_) | Message::CookieReply(_)) => {
                    handshakes(datagram, slot.path);
                }
                None => self.data_plane.count_drop(DropReason::MalformedDatagram, 1),
            }
        }
        self.open_group(slab, group_index, slot, routes, now);
    }

    /// Opens the messages gathered so far, which all name the session `index`.
    fn open_group(
        &mut self,
        slab: &mut [u8],
        index: u32,
        slot: &DatagramSlot,
        routes: &Routes,
        now: BootTime,
    ) {
        if self.jobs.is_empty() {
            return;
        }
        let count = self.jobs.len() as u64;
        let session = self.data_plane.sessions.get(index);
        match session.as_ref().and_then(|session| session.as_ref()) {
            Some(session) if session.is_usable(now) => {
                open_batch(&session.key, slab, &mut self.jobs);
                self.drop_replayed(session);
                if !self.jobs.is_empty() {
                    self.deliver(slab, session, slot, routes, now);
                }
            }
            Some(_) => self.data_plane.count_drop(DropReason::ExpiredSession, count),
            None => self.data_plane.count_drop(DropReason::UnknownSession, count),
        }
        self.jobs.clear();
    }

    /// Leaves only messages that are authentic and new.
    fn drop_replayed(&mut self, session: &RxSession) {
        let (mut unauthentic, mut replayed) = (0, 0);
        let mut window = lock(&session.window);
        self.jobs.retain(|job| {
            if !job.authentic {
                unauthentic += 1;
                return false;
            }
            let fresh = window.accept(job.counter);
            replayed += u64::from(!fresh);
            fresh
        });
        drop(window);
        self.data_plane.count_drop(DropReason::Unauthentic, unauthentic);
        self.data_plane.count_drop(DropReason::Replayed, replayed);
    }

    /// Stamps the peer for the messages that are left, and takes the packets out of them.
    fn deliver(
        &mut self,
        slab: &mut [u8],
        session: &Arc<RxSession>,
        slot: &DatagramSlot,
        routes: &Routes,
        now: BootTime,
    ) {
        let peer = &session.peer;
        if peer.follow(slot.path) {
            self.data_plane.notify(peer, Notice::Roamed);
        }
        if !session.confirmed.load(Ordering::Acquire) && !session.confirmed.swap(true, Ordering::AcqRel) {
            // Answers must not wait for the control half, which puts everything else in order.
            peer.tx.store(Some(Arc::clone(&session.tx)));
            self.data_plane.notify(peer, Notice::Confirmed);
        }
        if session.wants_rekey(now)
            && !session.rekey_asked.load(Ordering::Relaxed)
            && !session.rekey_asked.swap(true, Ordering::AcqRel)
        {
            self.data_plane.notify(peer, Notice::HandshakeWanted);
        }
        peer.note_received(now);
        let (mut bytes, mut has_data) = (0, false);
        let (mut malformed, mut wrong_source) = (0, 0);
        let mut last_source = None;
        for job in &self.jobs {
            let message_bytes = (job.range.len() + DATA_HEADER_LEN) as u64;
            let content = job.range.start..job.range.end - TAG_LEN;
            if content.is_empty() {
                bytes += message_bytes;
                continue;
            }
            has_data = true;
            let Ok(view) = IpView::parse(&slab[content.clone()]) else {
                malformed += 1;
                continue;
            };
            let source = view.source();
            if last_source != Some(source) {
                if !routes.lookup(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    wrong_source += 1;
                    continue;
                }
                last_source = Some(source);
            }
            bytes += message_bytes;
            let packet = content.start..content.start + view.total_len();
            if is_congestion_experienced(slot.traffic_class) {
                set_congestion_experienced(&mut slab[packet.clone()]);
            }
            self.packets.push(packet);
        }
        peer.count_received(bytes);
        self.data_plane.count_drop(DropReason::MalformedContent, malformed);
        self.data_plane.count_drop(DropReason::WrongSource, wrong_source);
        if has_data && peer.note_data_received(now) {
            self.data_plane.notify(peer, Notice::DebtMade);
        }
    }
}
