//! The two seams: inner packets with offload metadata, outer datagrams with offload metadata. (vocabulary: no IO)
//!
//! # Theory of operation
//! Both batches are a slab of bytes plus a list of slots. Whoever fills one (a TUN, a UDP socket, a test) appends
//! slots; whoever drains it walks them in order. A slot may stand for many packets: a [`PacketSlot`] with a GSO header
//! is one super-packet of up to 64 KiB, a [`DatagramSlot`] with a segment size is a run of equal datagrams that one
//! system call sends or has received. Slabs are allocated once and reused, so a batch costs no allocation in flight;
//! pages that were never touched cost no memory.
//!
//! These are the only two places where tests put something else than the kernel.

use std::net::{IpAddr, SocketAddr};

/// Bytes of `struct virtio_net_hdr` in front of every packet of an offloading TUN (linux/virtio_net.h).
pub const VNET_HEADER_LEN: usize = 10;

/// Largest IP packet, and so the largest super-packet.
pub const MAX_PACKET_LEN: usize = 65_535;

/// Largest UDP payload over IPv4; a GSO run may not exceed it either.
pub const MAX_DATAGRAM_RUN: usize = 65_507;

/// Most datagrams in one GSO run (UDP_MAX_SEGMENTS was 64 before Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;

/// Where a packet lies in its batch's slab: a virtio-net header of [`VNET_HEADER_LEN`] bytes, then the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSlot {
    /// Offset of the virtio-net header.
    pub start: usize,
    /// Bytes of header and packet together.
    pub len: usize,
}

/// A slab and the slots in it that are filled: allocated once, cleared and filled again.
#[derive(Debug)]
pub struct Batch<Slot> {
    slab: Box<[u8]>,
    used: usize,
    slots: Vec<Slot>,
}

/// Inner packets, each behind a virtio-net header, ready for one `read` or `write` of a TUN.
pub type PacketBatch = Batch<PacketSlot>;

/// Outer datagrams in runs, as one `sendmsg(UDP_SEGMENT)` or one `recvmmsg(UDP_GRO)` moves them.
pub type DatagramBatch = Batch<DatagramSlot>;

impl<Slot> Batch<Slot> {
    /// A batch over a slab of `capacity` bytes; slots are reserved for `max_slots`.
    #[must_use]
    pub fn with_capacity(capacity: usize, max_slots: usize) -> Self {
        Self { slab: vec![0; capacity].into_boxed_slice(), used: 0, slots: Vec::with_capacity(max_slots) }
    }

    /// Forgets what is in it; the slab stays.
    pub fn clear(&mut self) {
        self.used = 0;
        self.slots.clear();
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Slots in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of slab that are in use.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Bytes of slab not yet used.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.slab.len() - self.used
    }

    /// Room behind what is in use; give what was written to `commit`.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.slab[self.used..]
    }

    /// Takes `len` more bytes of slab into use without a slot: for receivers that fill fixed strides.
    ///
    /// # Panics
    /// If `len` is more than the room that was there.
    pub fn skip(&mut self, len: usize) {
        assert!(len <= self.remaining(), "what is taken into use lies within the spare room");
        self.used += len;
    }
}

impl Batch<PacketSlot> {
    /// Makes the first `len` bytes of [`spare`](Self::spare), virtio-net header and packet, a slot.
    ///
    /// # Panics
    /// If `len` is more than the room that was there.
    pub fn commit(&mut self, len: usize) {
        let start = self.used;
        self.skip(len);
        self.slots.push(PacketSlot { start, len });
    }

    /// Each slot's bytes: virtio-net header, then packet.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.slots.iter().map(|slot| &self.slab[slot.start..slot.start + slot.len])
    }

    /// The bytes of slot `index`: virtio-net header, then packet.
    #[must_use]
    pub fn slot(&self, index: usize) -> &[u8] {
        let PacketSlot { start, len } = self.slots[index];
        &self.slab[start..start + len]
    }
}

/// The two ends of an outer datagram's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our address the peer last reached us at (sticky source); `None` lets the kernel choose.
    pub local: Option<LocalAddress>,
}

impl Path {
    /// To `remote`, from whatever source the kernel chooses.
    #[must_use]
    pub const fn to(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// A local source: address and interface, as `IP_PKTINFO` and `IPV6_PKTINFO` carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddress {
    /// Address of ours.
    pub address: IpAddr,
    /// Index of the interface the datagram came in by; 0 if unknown.
    pub ifindex: u32,
}

/// A run of outer datagrams of equal size (the last may be shorter) between the same two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramSlot {
    /// Offset in the slab.
    pub start: usize,
    /// Bytes of the whole run.
    pub len: usize,
    /// Bytes of each datagram but the last; equal to `len` for a single one. Never 0 unless `len` is 0.
    pub segment_len: usize,
    /// From where to where.
    pub path: Path,
    /// The outer header's traffic class: DSCP and ECN bits.
    pub traffic_class: u8,
}

impl DatagramSlot {
    /// Datagrams in the run.
    #[must_use]
    pub const fn segments(&self) -> usize {
        if self.len == 0 { 1 } else { self.len.div_ceil(self.segment_len) }
    }
}

impl Batch<DatagramSlot> {
    /// Makes the first `len` bytes of [`spare`](Self::spare) a run of datagrams.
    ///
    /// # Panics
    /// If `len` is more than the room that was there.
    pub fn commit(&mut self, len: usize, segment_len: usize, path: Path, traffic_class: u8) {
        let start = self.used;
        self.skip(len);
        self.slots.push(DatagramSlot { start, len, segment_len, path, traffic_class });
    }

    /// The runs, in order.
    #[must_use]
    pub fn slots(&self) -> &[DatagramSlot] {
        &self.slots
    }

    /// The runs, to append to the last or to trim; the caller keeps them within the slab.
    pub fn slots_mut(&mut self) -> &mut Vec<DatagramSlot> {
        &mut self.slots
    }

    /// The bytes of a run.
    #[must_use]
    pub fn bytes(&self, slot: &DatagramSlot) -> &[u8] {
        &self.slab[slot.start..slot.start + slot.len]
    }

    /// The whole slab, for work in place.
    pub fn slab_mut(&mut self) -> &mut [u8] {
        &mut self.slab
    }

    /// The whole slab.
    #[must_use]
    pub fn slab(&self) -> &[u8] {
        &self.slab
    }
}
