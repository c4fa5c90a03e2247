//! Whether packets wait for a session, and whether the control half was told: one handshake is asked for, not one a
//! packet, and none is forgotten. (core: no IO, no clock)
//!
//! # Theory of operation
//! Who stages a packet counts it and then raises the flag; whoever raises it from down tells. Who flushes takes the
//! flag down and then looks at the count. Both changes of the flag are exchanges, which happen one after the other:
//! either the flush comes second, and with the flag it sees the count that was written before it; or the packet comes
//! second, finds the flag down, and tells. With a plain store of the flag both could see the state before the other,
//! and the packet would lie there until the next one. `tests/wireguard_loom.rs` goes through every order.

use super::sync::{AtomicBool, AtomicUsize, Ordering};

/// The packets of one peer that wait.
pub(super) struct Waiting {
    /// A copy of their number, so that nobody locks to find that there are none.
    packets: AtomicUsize,
    asked: AtomicBool,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { packets: AtomicUsize::new(0), asked: AtomicBool::new(false) }
    }

    /// So many wait now.
    pub(super) fn set(&self, packets: usize) {
        self.packets.store(packets, Ordering::Release);
    }

    /// Whether any waits.
    pub(super) fn any(&self) -> bool {
        self.packets.load(Ordering::Acquire) != 0
    }

    /// After a packet was counted: true if the control half must be told.
    pub(super) fn ask(&self) -> bool {
        !self.asked.swap(true, Ordering::AcqRel)
    }

    /// The control half sees to it: true if there is something to see to. What comes later asks again.
    pub(super) fn answer(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel);
        self.any()
    }
}
