//! The counter that gives every message of a session its nonce, whichever thread seals it. (core: no IO, no clock)
//!
//! `tests/wireguard_loom.rs` compiles this file against atomics that try every order in which threads can run.

use super::keypair::REJECT_AFTER_MESSAGES;
use super::sync::{AtomicU64, Ordering};

/// How many nonces of a session are taken.
pub(super) struct NonceCounter(AtomicU64);

impl NonceCounter {
    /// With that many taken.
    pub(super) fn starting_at(taken: u64) -> Self {
        Self(AtomicU64::new(taken))
    }

    /// How many are taken; more than there are if somebody has asked for too many.
    pub(super) fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes `count` nonces that nobody else gets: the first of them, or `None` if the session has not so many left.
    pub(super) fn reserve(&self, count: u64) -> Option<u64> {
        // Looked at first, so that failing threads cannot wrap the counter by trying again and again.
        if self.taken() >= REJECT_AFTER_MESSAGES {
            return None;
        }
        let first = self.0.fetch_add(count, Ordering::Relaxed);
        (first.checked_add(count)? <= REJECT_AFTER_MESSAGES).then_some(first)
    }

    #[cfg(test)]
    pub(super) fn set(&self, taken: u64) {
        self.0.store(taken, Ordering::Relaxed);
    }
}
