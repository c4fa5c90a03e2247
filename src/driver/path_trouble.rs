//! What stands between us and a remote address, as the kernel tells it: refused ports, failed sends. (driver: no IO)
//!
//! Nothing is decided by this; it is for the sentence that says why there is no session. An entry lives until the
//! remote is heard from, or, for failed sends, until one succeeds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Remotes remembered; with more in trouble than this the new ones go untold.
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
    by_remote: Mutex<HashMap<SocketAddr, PathTrouble>>,
    /// Nobody takes the lock while there are none.
    count: AtomicUsize,
}

impl PathTroubles {
    /// Remembers the latest trouble of a remote.
    pub fn note(&self, remote: SocketAddr, trouble: PathTrouble) {
        let mut table = self.lock();
        if table.len() < MAX_TROUBLES || table.contains_key(&remote) {
            table.insert(remote, trouble);
        }
        self.count.store(table.len(), Ordering::Release);
    }

    /// A datagram to the remote was taken by the kernel: earlier failures to send are over.
    pub fn handle_sent(&self, remote: &SocketAddr) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut table = self.lock();
        if matches!(table.get(remote), Some(PathTrouble::Unsent(_))) {
            table.remove(remote);
        }
        self.count.store(table.len(), Ordering::Release);
    }

    /// The remote was heard from: nothing stands in the way.
    pub fn handle_heard(&self, remote: &SocketAddr) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut table = self.lock();
        table.remove(remote);
        self.count.store(table.len(), Ordering::Release);
    }

    /// What is known about a remote.
    #[must_use]
    pub fn of(&self, remote: &SocketAddr) -> Option<PathTrouble> {
        self.lock().get(remote).copied()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, PathTrouble>> {
        // Every change leaves the map whole.
        self.by_remote.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn the_table_is_bounded() {
        let troubles = PathTroubles::default();
        for port in 1..=2000 {
            troubles.note(SocketAddr::from(([192, 0, 2, 1], port)), PathTrouble::Unsent(libc::EPERM));
        }
        assert_eq!(troubles.lock().len(), MAX_TROUBLES);
    }
}
