//! From padded packets to sealed data messages in runs: what the tx path and the control half have in common.
//! (core: no IO, no clock)

use std::sync::Arc;

use super::data_plane::{DataPlane, DropReason};
use super::keypair::TxSession;
use super::message::{DATA_HEADER_LEN, KEEPALIVE_LEN, emit_data_header};
use super::peer::{Notice, Peer};
use crate::crypto::{AeadJob, TAG_LEN, seal_batch};
use crate::packet::batch::{DatagramBatch, MAX_DATAGRAM_RUN, MAX_SEGMENTS, Path};
use crate::packet::split::Segments;
use crate::time::BootTime;

/// Messages sealed in one go: what the AEAD takes, and one full super-packet.
pub(super) const MAX_GROUP: usize = 64;

/// Messages to one peer under one session that lie, not yet sealed, in the spare room of a batch.
pub(super) struct SealGroup {
    /// Packet, padding and room for the tag; the header's room is in front. Counters are given when sealing.
    jobs: Vec<AeadJob>,
    /// Outer traffic class of each.
    classes: Vec<u8>,
    /// Bytes of spare room in use.
    bytes: usize,
}

impl SealGroup {
    pub(super) fn new() -> Self {
        Self { jobs: Vec::with_capacity(2 * MAX_GROUP), classes: Vec::with_capacity(2 * MAX_GROUP), bytes: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Where the next message goes.
    pub(super) fn spare<'a>(&self, out: &'a mut DatagramBatch) -> &'a mut [u8] {
        &mut out.spare()[self.bytes..]
    }

    /// Takes up the segments that were written at the start of [`spare`](Self::spare).
    pub(super) fn push_segments(&mut self, out: &DatagramBatch, segments: &Segments, traffic_class: u8) {
        for index in 0..segments.count {
            self.push(out, segments.range(index).len(), traffic_class);
        }
    }

    /// Takes up one message of `len` bytes, header and tag included.
    pub(super) fn push(&mut self, out: &DatagramBatch, len: usize, traffic_class: u8) {
        let start = out.slab().len() - out.remaining() + self.bytes;
        self.jobs.push(AeadJob { range: start + DATA_HEADER_LEN..start + len, counter: 0, authentic: false });
        self.classes.push(traffic_class);
        self.bytes += len;
    }

    /// Seals everything taken up and appends it to `out`; the group is empty then. Returns the bytes, or `None` if
    /// the session has no nonces left and the messages are lost.
    pub(super) fn seal_into(
        &mut self,
        out: &mut DatagramBatch,
        session: &TxSession,
        path: Path,
    ) -> Option<u64> {
        let bytes = self.bytes;
        let first = session.reserve(self.jobs.len() as u64);
        if let Some(first) = first {
            for (job, counter) in self.jobs.iter_mut().zip(first..) {
                job.counter = counter;
                let header = &mut out.slab_mut()[job.range.start - DATA_HEADER_LEN..job.range.start];
                emit_data_header(header, session.remote_index, counter);
            }
            seal_batch(&session.key, out.slab_mut(), &self.jobs);
            for (job, &traffic_class) in self.jobs.iter().zip(&self.classes) {
                append_datagram(out, job.range.len() + DATA_HEADER_LEN, path, traffic_class);
            }
        }
        self.jobs.clear();
        self.classes.clear();
        self.bytes = 0;
        first.map(|_| bytes as u64)
    }
}

/// Makes the first `len` bytes of `out`'s spare room a datagram: one more of the last run if the kernel can send them
/// together, else a run of its own.
pub(super) fn append_datagram(out: &mut DatagramBatch, len: usize, path: Path, traffic_class: u8) {
    let end = out.slab().len() - out.remaining();
    if let Some(run) = out.slots_mut().last_mut()
        && run.start + run.len == end
        && len <= run.segment_len
        && run.len % run.segment_len == 0
        && run.segments() < MAX_SEGMENTS
        && run.len + len <= MAX_DATAGRAM_RUN
        && run.traffic_class == traffic_class
        && run.path == path
    {
        run.len += len;
        out.skip(len);
    } else {
        out.commit(len, len, path, traffic_class);
    }
}

/// Seals the packets that wait for `peer` as far as `out` has room; true if none waits any more.
pub(super) fn flush_staged(
    data_plane: &DataPlane,
    peer: &Arc<Peer>,
    session: &TxSession,
    group: &mut SealGroup,
    now: BootTime,
    out: &mut DatagramBatch,
) -> bool {
    let Some(path) = peer.path() else { return true };
    loop {
        {
            let mut staged = peer.staged();
            while group.len() < MAX_GROUP
                && let Some(packet) = staged.front()
            {
                let len = DATA_HEADER_LEN + packet.bytes.len() + TAG_LEN;
                let spare = group.spare(out);
                if spare.len() < len {
                    break;
                }
                spare[DATA_HEADER_LEN..len - TAG_LEN].copy_from_slice(&packet.bytes);
                group.push(out, len, packet.traffic_class);
                let sent = staged.pop().map_or(0, |packet| packet.bytes.len());
                data_plane.unstage(sent);
            }
        }
        if group.len() == 0 {
            return !peer.has_staged();
        }
        seal_data(data_plane, peer, session, path, group, now, out);
    }
}

/// Seals a group of data messages, stamps the peer and tells the control half what follows from it.
pub(super) fn seal_data(
    data_plane: &DataPlane,
    peer: &Arc<Peer>,
    session: &TxSession,
    path: Path,
    group: &mut SealGroup,
    now: BootTime,
    out: &mut DatagramBatch,
) {
    let count = group.len() as u64;
    let sealed = group.seal_into(out, session, path);
    match sealed {
        Some(bytes) => {
            if peer.note_data_sent(bytes, now) {
                data_plane.notify(peer, Notice::DebtMade);
            }
        }
        None => data_plane.count_drop(DropReason::Unsent, count),
    }
    ask_for_rekey(data_plane, peer, session, now);
}

/// Leaves a notice, once a session, when it wants a successor.
fn ask_for_rekey(data_plane: &DataPlane, peer: &Arc<Peer>, session: &TxSession, now: BootTime) {
    use std::sync::atomic::Ordering;
    if session.wants_rekey(now)
        && !session.rekey_asked.load(Ordering::Relaxed)
        && !session.rekey_asked.swap(true, Ordering::AcqRel)
    {
        data_plane.notify(peer, Notice::HandshakeWanted);
    }
}

/// A data message without content; `None` if the session has no nonce left.
pub(super) fn seal_keepalive(
    data_plane: &DataPlane,
    peer: &Arc<Peer>,
    session: &TxSession,
    now: BootTime,
) -> Option<[u8; KEEPALIVE_LEN]> {
    let counter = session.reserve(1)?;
    let mut message = [0; KEEPALIVE_LEN];
    emit_data_header(&mut message, session.remote_index, counter);
    let tag = session.key.seal(counter, &[], &mut []);
    message[DATA_HEADER_LEN..].copy_from_slice(&tag);
    peer.note_sent(KEEPALIVE_LEN as u64, now);
    ask_for_rekey(data_plane, peer, session, now);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path::to((std::net::Ipv4Addr::LOCALHOST, port).into())
    }

    fn runs(lengths: &[usize], to: impl Fn(usize) -> (u16, u8)) -> Vec<(usize, usize)> {
        let mut out = DatagramBatch::with_capacity(4 << 20, 64);
        for (index, &len) in lengths.iter().enumerate() {
            let (port, class) = to(index);
            append_datagram(&mut out, len, path(port), class);
        }
        out.slots().iter().map(|run| (run.segment_len, run.len)).collect()
    }

    #[test]
    fn equal_datagrams_share_a_run_and_a_shorter_one_ends_it() {
        assert_eq!(runs(&[100, 100, 60, 60, 100], |_| (1, 0)), [(100, 260), (60, 60), (100, 100)]);
    }

    #[test]
    fn a_run_ends_at_64_datagrams_and_at_the_largest_udp_payload() {
        assert_eq!(runs(&[48; 65], |_| (1, 0)), [(48, 64 * 48), (48, 48)]);
        assert_eq!(runs(&[1452; 46], |_| (1, 0)), [(1452, 45 * 1452), (1452, 1452)]);
    }

    #[test]
    fn another_path_or_class_begins_a_run() {
        assert_eq!(runs(&[48, 48, 48], |i| (if i == 1 { 2 } else { 1 }, 0)).len(), 3);
        assert_eq!(runs(&[48, 48], |i| (1, u8::from(i == 1))).len(), 2);
    }
}
