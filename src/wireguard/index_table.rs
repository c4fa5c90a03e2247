//! Receiver indices: random 32-bit numbers, each naming a session or a handshake in progress. (core: no IO, no clock)
//!
//! # Theory of operation
//! The data threads look an index up in a vector of slots. Which slot an index lies in is decided by a multiplication
//! with a secret odd number, and the control half draws indices until it finds one whose slot is free: so a look-up
//! needs no probing, and growing cannot make two indices collide, since a slot's number in the larger vector begins
//! with its number in the smaller one. To an observer the indices are random.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::keypair::RxSession;
use crate::crypto::Entropy;

/// Slots at the start, as a power of two.
const START_BITS: u32 = 6;

/// The half that the data threads read.
pub(super) struct SessionTable {
    slots: ArcSwap<Slots>,
    secret: u32,
}

struct Slots {
    bits: u32,
    sessions: Box<[ArcSwapOption<RxSession>]>,
}

impl Slots {
    fn new(bits: u32) -> Self {
        Self { bits, sessions: (0..1_usize << bits).map(|_| ArcSwapOption::empty()).collect() }
    }
}

const fn slot(index: u32, secret: u32, bits: u32) -> usize {
    (index.wrapping_mul(secret) >> (u32::BITS - bits)) as usize
}

impl SessionTable {
    /// The session that `index` names, for one batch.
    pub(super) fn get(&self, index: u32) -> Option<Guard<Option<Arc<RxSession>>>> {
        let slots = self.slots.load();
        let session = slots.sessions[slot(index, self.secret, slots.bits)].load();
        session.as_ref().is_some_and(|session| session.local_index == index).then_some(session)
    }
}

/// The control half's side: which indices are taken.
pub(super) struct IndexTable {
    shared: Arc<SessionTable>,
    /// The peer whose session or handshake an index names.
    owners: HashMap<u32, u32>,
    /// Whether a slot's index is taken; a handshake takes one before there is a session to put there.
    taken: Vec<bool>,
    bits: u32,
}

impl IndexTable {
    pub(super) fn new(entropy: &mut dyn Entropy) -> Self {
        let secret = random_u32(entropy) | 1;
        Self {
            shared: Arc::new(SessionTable { slots: ArcSwap::from_pointee(Slots::new(START_BITS)), secret }),
            owners: HashMap::new(),
            taken: vec![false; 1 << START_BITS],
            bits: START_BITS,
        }
    }

    pub(super) const fn shared(&self) -> &Arc<SessionTable> {
        &self.shared
    }

    /// A new index for a handshake with `peer`.
    pub(super) fn allocate(&mut self, peer: u32, entropy: &mut dyn Entropy) -> u32 {
        if self.owners.len() * 2 >= self.taken.len() {
            self.grow();
        }
        loop {
            // At most half the slots are taken, so two draws are enough on average.
            let index = random_u32(entropy);
            let slot = slot(index, self.shared.secret, self.bits);
            if !self.taken[slot] {
                self.taken[slot] = true;
                self.owners.insert(index, peer);
                return index;
            }
        }
    }

    /// The peer that `index` was allocated for.
    pub(super) fn owner(&self, index: u32) -> Option<u32> {
        self.owners.get(&index).copied()
    }

    /// Makes `session` found by its index, which was allocated before.
    pub(super) fn publish(&self, session: Arc<RxSession>) {
        let index = session.local_index;
        self.shared.slots.load().sessions[slot(index, self.shared.secret, self.bits)].store(Some(session));
    }

    /// Gives an index back; a session under it is no longer found.
    pub(super) fn release(&mut self, index: u32) {
        if self.owners.remove(&index).is_some() {
            let slot = slot(index, self.shared.secret, self.bits);
            self.taken[slot] = false;
            self.shared.slots.load().sessions[slot].store(None);
        }
    }

    fn grow(&mut self) {
        let secret = self.shared.secret;
        self.bits += 1;
        let larger = Slots::new(self.bits);
        self.taken = vec![false; 1 << self.bits];
        for &index in self.owners.keys() {
            self.taken[slot(index, secret, self.bits)] = true;
        }
        for session in &self.shared.slots.load().sessions {
            if let Some(session) = session.load_full() {
                larger.sessions[slot(session.local_index, secret, self.bits)].store(Some(session));
            }
        }
        self.shared.slots.store(Arc::new(larger));
    }
}

fn random_u32(entropy: &mut dyn Entropy) -> u32 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::crypto::SystemEntropy;
    use crate::key::PublicKey;
    use crate::time::BootTime;
    use crate::wireguard::handshake::SessionKeys;
    use crate::wireguard::peer::Peer;

    fn session(local_index: u32) -> Arc<RxSession> {
        let keys = SessionKeys {
            send: Zeroizing::new([1; 32]),
            receive: Zeroizing::new([2; 32]),
            local_index,
            remote_index: 0,
        };
        let peer = Arc::new(Peer::new(0, PublicKey::from_bytes([3; 32])));
        Arc::new(RxSession::new(&keys, true, peer, BootTime::from_nanos(0)))
    }

    #[test]
    fn sessions_are_found_while_the_table_grows_and_shrinks() {
        let mut entropy = SystemEntropy::new();
        let mut table = IndexTable::new(&mut entropy);
        let indices: Vec<u32> = (0..1000).map(|peer| table.allocate(peer, &mut entropy)).collect();
        for &index in &indices {
            assert!(table.shared().get(index).is_none());
            table.publish(session(index));
        }
        for peer in 1000..3000 {
            table.allocate(peer, &mut entropy);
        }
        for (peer, &index) in indices.iter().enumerate() {
            assert_eq!(table.owner(index), u32::try_from(peer).ok());
            assert_eq!(table.shared().get(index).unwrap().as_ref().unwrap().local_index, index);
            assert!(table.shared().get(index ^ 1).is_none_or(|s| s.as_ref().unwrap().local_index != index));
            table.release(index);
            assert!(table.shared().get(index).is_none());
            assert_eq!(table.owner(index), None);
        }
    }
}
