//! Whether an answer would leave by the interface that the question came in by. (threads)
//!
//! # Theory of operation
//! Answers come from the address that was asked (a sticky source), unless the route back leaves by another interface:
//! with that source they might be dropped on the way, so then the kernel chooses, as it does in its own WireGuard. The
//! kernel is asked once for each path, and again after any change of its routes; never about a stranger, who may be
//! twenty thousand a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::packet::batch::LocalAddress;
use crate::sys::netlink::{Netlink, NetlinkError};

/// Paths remembered; beyond it all are forgotten, which costs each a question.
const MAX_PATHS: usize = 4096;

/// What the kernel has said of paths.
#[derive(Debug)]
pub struct ReturnPaths {
    netlink: Mutex<Netlink>,
    known: Mutex<HashMap<PathKey, bool>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PathKey {
    remote: IpAddr,
    local: IpAddr,
    ifindex: u32,
    mark: u32,
}

impl ReturnPaths {
    /// Of the network namespace of this thread.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Mutex::new(Netlink::open()?), known: Mutex::default() })
    }

    /// Whether what is sent to `remote` from `local` leaves by its interface. Nothing that cannot be found out, or is not
    /// known of a stranger, speaks against it.
    pub(super) fn leads_back(&self, remote: IpAddr, local: LocalAddress, mark: u32, stranger: bool) -> bool {
        let key = PathKey { remote, local: local.address, ifindex: local.ifindex, mark };
        if let Some(known) = lock(&self.known).get(&key) {
            return *known;
        }
        if stranger {
            return true;
        }
        let route = lock(&self.netlink).interface_towards(remote, local.address, mark);
        let leads_back = !matches!(route, Ok(Some(interface)) if interface != local.ifindex);
        let mut known = lock(&self.known);
        if known.len() >= MAX_PATHS {
            known.clear();
        }
        known.insert(key, leads_back);
        leads_back
    }

    /// Routes have changed.
    pub(super) fn forget(&self) {
        lock(&self.known).clear();
    }
}

/// No holder of these locks can leave a half-made change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Twenty thousand forged sources a second were twenty thousand questions to the kernel, and washed away what was
    /// known of peers.
    #[test]
    fn a_stranger_is_not_worth_a_question() {
        let paths = ReturnPaths::open().unwrap();
        let local = LocalAddress { address: Ipv4Addr::LOCALHOST.into(), ifindex: 4_000 };
        let remote = IpAddr::from([127, 0, 0, 9]);
        assert!(paths.leads_back(remote, local, 0, true), "nothing speaks against it");
        assert_eq!(lock(&paths.known).len(), 0);
        assert!(!paths.leads_back(remote, local, 0, false), "a peer's way back is by lo");
        assert!(!paths.leads_back(remote, local, 0, true), "what is known goes for strangers, too");
    }
}
