//! What stands between us and a remote address, as the kernel tells it: refused ports, failed sends. (driver: no IO)
//!
//! Nothing is decided by this; it is for the sentence that says why there is no session. An entry lives until the
//! remote is heard from, or, for failed sends, until one succeeds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Remotes remembered; with more in trouble than this the one whose trouble is oldest is forgotten.
const MAX_TROUBLES: usize = 1024;

/// What the kernel said about a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathTrouble {
    /// An ICMP error came back for a datagram that was sent; the errno that it means.
    Returned(i32),
    /// A datagram could not be sent; the errno.
    Unsent(i32),
}

/// The troubles of all remotes; shared by the threads that send and receive.
#[derive(Debug, Default)]
pub struct PathTroubles {
    table: Mutex<Table>,
    /// Nobody takes the lock while there are none.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    /// The trouble, and when it was noted, in notes so far.
    by_remote: HashMap<SocketAddr, (PathTrouble, u64)>,
    notes: u64,
}

impl PathTroubles {
    /// Remembers the latest trouble of a remote.
    pub fn note(&self, remote: SocketAddr, trouble: PathTrouble) {
        let mut table = self.lock();
        table.notes += 1;
        let Table { by_remote, notes } = &mut *table;
        if by_remote.len() >= MAX_TROUBLES && !by_remote.contains_key(&remote) {
            let oldest = by_remote.iter().min_by_key(|(_, (_, noted))| *noted).map(|(remote, _)| *remote);
            oldest.map(|oldest| by_remote.remove(&oldest));
        }
        by_remote.insert(remote, (trouble, *notes));
        self.count.store(by_remote.len(), Ordering::Release);
    }

    /// Whether any remote is in trouble.
    #[must_use]
    pub fn are_some(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// A datagram to the remote was taken by the kernel: earlier failures to send are over.
    pub fn handle_sent(&self, remote: &SocketAddr) {
        if !self.are_some() {
            return;
        }
        let mut table = self.lock();
        if matches!(table.by_remote.get(remote), Some((PathTrouble::Unsent(_), _))) {
            table.by_remote.remove(remote);
        }
        self.count.store(table.by_remote.len(), Ordering::Release);
    }

    /// The remote was heard from: nothing stands in the way.
    pub fn handle_heard(&self, remote: &SocketAddr) {
        if !self.are_some() {
            return;
        }
        let mut table = self.lock();
        table.by_remote.remove(remote);
        self.count.store(table.by_remote.len(), Ordering::Release);
    }

    /// What is known about a remote.
    #[must_use]
    pub fn of(&self, remote: &SocketAddr) -> Option<PathTrouble> {
        self.lock().by_remote.get(remote).map(|(trouble, _)| *trouble)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_port_stays_until_the_remote_is_heard_and_a_failed_send_until_one_succeeds() {
        let troubles = PathTroubles::default();
        let remote = "192.0.2.1:51820".parse().unwrap();
        troubles.note(remote, PathTrouble::Unsent(libc::ENETUNREACH));
        troubles.handle_sent(&remote);
        assert_eq!(troubles.of(&remote), None);
        troubles.note(remote, PathTrouble::Returned(libc::ECONNREFUSED));
        troubles.handle_sent(&remote);
        assert_eq!(troubles.of(&remote), Some(PathTrouble::Returned(libc::ECONNREFUSED)));
        troubles.handle_heard(&remote);
        assert_eq!(troubles.of(&remote), None);
    }

    /// With the table full, no reason was ever told again.
    #[test]
    fn the_table_is_bounded_and_the_latest_is_in_it() {
        let troubles = PathTroubles::default();
        let remote = |port| SocketAddr::from(([192, 0, 2, 1], port));
        for port in 1..=2000 {
            troubles.note(remote(port), PathTrouble::Unsent(libc::EPERM));
        }
        assert_eq!(troubles.lock().by_remote.len(), MAX_TROUBLES);
        assert_eq!(troubles.of(&remote(2000)), Some(PathTrouble::Unsent(libc::EPERM)));
        assert_eq!(troubles.of(&remote(1)), None);
    }
}
