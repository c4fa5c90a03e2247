//! Packets that wait for a handshake. (core: no IO, no clock)

use std::collections::VecDeque;

/// Packets kept per peer while there is no session; the oldest is dropped first.
///
/// The kernel module uses the same number. At our MTU it caps what a silent peer can hold at 178 KiB.
pub(super) const MAX_STAGED_PACKETS: usize = 128;

/// Bytes kept per peer: 128 packets of any usual MTU.
pub(super) const MAX_STAGED_BYTES: usize = 256 * 1024;

/// Bytes kept in the whole device: a scan over ten thousand silent peers must not take gigabytes.
pub(super) const MAX_STAGED_BYTES_OF_DEVICE: usize = 32 * 1024 * 1024;

/// One inner packet, padded already.
pub(super) struct StagedPacket {
    pub(super) bytes: Box<[u8]>,
    /// Of the outer datagram.
    pub(super) traffic_class: u8,
}

/// A peer's waiting packets, oldest first.
#[derive(Default)]
pub(super) struct Staged {
    packets: VecDeque<StagedPacket>,
    bytes: usize,
    /// The peer is gone: a thread that still has routes to it must leave nothing here, for nobody would take it.
    closed: bool,
}

impl Staged {
    /// Adds a packet, and drops old ones that it leaves no room for. Returns how many were dropped.
    pub(super) fn push(&mut self, packet: StagedPacket) -> usize {
        let mut dropped = 0;
        while self.packets.len() >= MAX_STAGED_PACKETS
            || !self.packets.is_empty() && self.bytes + packet.bytes.len() > MAX_STAGED_BYTES
        {
            self.pop();
            dropped += 1;
        }
        self.bytes += packet.bytes.len();
        self.packets.push_back(packet);
        dropped
    }

    pub(super) fn front(&self) -> Option<&StagedPacket> {
        self.packets.front()
    }

    pub(super) fn pop(&mut self) -> Option<StagedPacket> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.bytes.len();
        if self.packets.is_empty() {
            // An idle peer costs nothing.
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops everything; how many packets that was.
    pub(super) fn clear(&mut self) -> usize {
        let dropped = self.packets.len();
        *self = Self { closed: self.closed, ..Self::default() };
        dropped
    }

    /// From now on nothing is added.
    pub(super) const fn close(&mut self) {
        self.closed = true;
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: usize, mark: u8) -> StagedPacket {
        StagedPacket { bytes: vec![mark; len].into_boxed_slice(), traffic_class: 0 }
    }

    #[test]
    fn the_newest_128_packets_win() {
        let mut staged = Staged::default();
        let dropped: usize = (0..200).map(|mark| staged.push(packet(100, mark))).sum();
        assert_eq!((dropped, staged.len()), (72, 128));
        assert_eq!(staged.front().unwrap().bytes[0], 72);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut staged = Staged::default();
        for mark in 0..100 {
            staged.push(packet(60_000, mark));
        }
        assert_eq!((staged.len(), staged.bytes()), (4, 240_000));
        assert_eq!(staged.clear(), 4);
        assert_eq!(staged.bytes(), 0);
    }
}
