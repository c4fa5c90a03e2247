//! Which remotes refuse segmented sends, of what size, and until when. (core)

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::time::BootTime;

/// Remotes that segmented sends of some size fail to.
#[derive(Debug, Default)]
pub(super) struct RefusalTable {
    by_remote: HashMap<IpAddr, Refusal>,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    /// Segments of this size or more are refused.
    smallest: usize,
    until: BootTime,
}

/// How long a refusal is believed.
const REFUSAL_AGE: Duration = Duration::from_secs(60);

/// Remotes remembered; beyond it one is forgotten, which costs it a failed send.
const MAX_REFUSALS: usize = 1024;

impl RefusalTable {
    /// How many remotes are remembered.
    pub(super) fn len(&self) -> usize {
        self.by_remote.len()
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        self.by_remote.clear();
    }

    /// Whether segments of this size are known to be refused; what is too old is forgotten on the way.
    pub(super) fn refuses(&mut self, remote: IpAddr, segment_len: usize, now: BootTime) -> bool {
        let Some(refusal) = self.by_remote.get(&remote) else { return false };
        if now >= refusal.until {
            self.by_remote.remove(&remote);
            return false;
        }
        segment_len >= refusal.smallest
    }

    /// Remembers that segments of `smallest` bytes or more are refused.
    pub(super) fn note(&mut self, remote: IpAddr, smallest: usize, now: BootTime) {
        if self.by_remote.len() >= MAX_REFUSALS && !self.by_remote.contains_key(&remote) {
            self.by_remote.retain(|_, refusal| now < refusal.until);
            if let (MAX_REFUSALS.., Some(&any)) = (self.by_remote.len(), self.by_remote.keys().next()) {
                self.by_remote.remove(&any);
            }
        }
        let until = now + REFUSAL_AGE;
        let refusal = self.by_remote.entry(remote).or_insert(Refusal { smallest, until });
        refusal.smallest = refusal.smallest.min(smallest);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const NOW: BootTime = BootTime::from_nanos(1_000_000_000);

    #[test]
    fn a_refusal_holds_for_its_size_and_remote_and_for_a_minute() {
        let mut table = RefusalTable::default();
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        table.note(v4, 1452, NOW);
        table.note(v4, 1300, NOW);
        assert!(table.refuses(v4, 1452, NOW) && table.refuses(v4, 1300, NOW));
        assert!(!table.refuses(v4, 1299, NOW) && !table.refuses(v6, 1452, NOW));
        assert!(table.refuses(v4, 1452, NOW + Duration::from_secs(59)));
        assert!(!table.refuses(v4, 1452, NOW + REFUSAL_AGE));
        assert!(table.by_remote.is_empty());
    }

    #[test]
    fn refusals_are_bounded() {
        let mut table = RefusalTable::default();
        for number in 0..3000_u32 {
            table.note(Ipv4Addr::from(number).into(), 1000, NOW);
            assert!(table.by_remote.len() <= MAX_REFUSALS);
        }
        assert!(table.refuses(Ipv4Addr::from(2999).into(), 1000, NOW), "the newest is kept");
    }
}
