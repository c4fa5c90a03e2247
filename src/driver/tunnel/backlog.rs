//! What the target has sent and nobody has carried yet. (task)

use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::time::Duration;

use super::transmit::Transmit;
use crate::driver::clock;
use crate::driver::link::{Link, Ready, Watch};

/// How long the last packets of a target may take: they are read within microseconds, unless the machine is busy.
const LONGEST_BACKLOG: Duration = Duration::from_millis(100);

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(1);

/// The packets in the link's queue, and those that a data thread has in hand. Does not keep the link: a tunnel that has
/// failed takes its interface with it, whoever still waits for the target's end.
pub struct Backlog {
    link: Weak<Link>,
    transmit: Weak<Mutex<Transmit>>,
}

impl Backlog {
    pub(super) fn new(link: &Arc<Link>, transmit: &Arc<Mutex<Transmit>>) -> Self {
        Self { link: Arc::downgrade(link), transmit: Arc::downgrade(transmit) }
    }

    /// Waits until everything the target has sent so far is carried, or refused and counted; for a tenth of a second at
    /// most. A program that sends a datagram and ends means it to arrive.
    ///
    /// Must run inside a tokio runtime with time, while the tunnel runs.
    pub async fn carried(&self) {
        let end = clock::now().boot + LONGEST_BACKLOG;
        while self.is_there() && clock::now().boot < end {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Looks into the queue first: what was read by then is in hand until the lock is let go.
    fn is_there(&self) -> bool {
        let (Some(link), Some(transmit)) = (self.link.upgrade(), self.transmit.upgrade()) else {
            return false;
        };
        let waits = match link.wait(Watch::Packets, None, Some(Duration::ZERO)) {
            Ok(Ready { packets, .. }) => packets,
            // Nothing comes out of it any more.
            Err(_) => false,
        };
        waits || matches!(transmit.try_lock(), Err(TryLockError::WouldBlock))
    }
}
