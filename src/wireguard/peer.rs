//! What the threads share about one peer: endpoint, current session, stamps, counters, staged packets.
//! (core: no IO, no clock)
//!
//! # Theory of operation
//! The data threads only stamp. Two of the stamps are debts: `awaiting_since`, since when we have sent data without
//! hearing anything, and `owing_since`, since when we have received data without sending anything. Whoever makes a debt
//! makes sure, by a flag that stays up until the control half takes it down, that a timer watches it: so a timer is
//! armed once in its period and not once a packet, and when it goes off it looks at the debt and sleeps on if there
//! is a younger one.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use super::keypair::TxSession;
use super::staged::Staged;
use super::waiting::Waiting;
use crate::key::PublicKey;
use crate::packet::batch::Path;
use crate::time::BootTime;

/// What the data threads tell the control half about a peer; bits, so that a peer is queued once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Notice {
    /// Packets wait, or the session should be renewed.
    HandshakeWanted = 1,
    /// A debt was made and no timer watches it.
    DebtMade = 2,
    /// The first packet under a session that we answered.
    Confirmed = 4,
    /// The endpoint has changed.
    Roamed = 8,
}

impl Notice {
    pub(super) const fn is_in(self, bits: u8) -> bool {
        bits & self as u8 != 0
    }
}

/// One peer, as all threads see it.
pub(super) struct Peer {
    /// Its place in the control half's list.
    pub(super) id: u32,
    pub(super) public_key: PublicKey,
    /// What to seal under; absent while a handshake is needed.
    pub(super) tx: ArcSwapOption<TxSession>,
    path: Mutex<Option<Path>>,
    staged: Mutex<Staged>,
    /// Kept with `staged`.
    pub(super) waiting: Waiting,
    /// Notices that the control half has not yet seen.
    pub(super) notices: AtomicU8,
    awaiting: Debt,
    owing: Debt,
    last_sent: AtomicU64,
    last_received: AtomicU64,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
}

/// Since when something is owed, and whether a timer watches it.
#[derive(Default)]
pub(super) struct Debt {
    /// Boot time in nanoseconds; 0 is none.
    since: AtomicU64,
    watched: AtomicBool,
}

impl Debt {
    /// Makes the debt unless it is there; true if a timer must be armed.
    fn make(&self, now: BootTime) -> bool {
        if self.since.load(Ordering::Relaxed) == 0 {
            // Either we see that nobody watches, or who stops watching sees this debt: both sides store, then load.
            self.since.store(now.as_nanos().max(1), Ordering::SeqCst);
        }
        !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// It is paid, or nobody hopes for it any more.
    pub(super) fn settle(&self) {
        if self.since.load(Ordering::Relaxed) != 0 {
            self.since.store(0, Ordering::Release);
        }
    }

    /// Since when; `None` if nothing is owed.
    pub(super) fn since(&self) -> Option<BootTime> {
        let nanos = self.since.load(Ordering::SeqCst);
        (nanos != 0).then_some(BootTime::from_nanos(nanos))
    }

    /// The timer stops watching; the debt as it is after that.
    pub(super) fn unwatch(&self) -> Option<BootTime> {
        self.watched.store(false, Ordering::SeqCst);
        self.since()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    /// The timer watches again.
    pub(super) fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }
}

impl Peer {
    pub(super) fn new(id: u32, public_key: PublicKey) -> Self {
        Self {
            id,
            public_key,
            tx: ArcSwapOption::empty(),
            path: Mutex::new(None),
            staged: Mutex::default(),
            waiting: Waiting::new(),
            notices: AtomicU8::new(0),
            awaiting: Debt::default(),
            owing: Debt::default(),
            last_sent: AtomicU64::new(0),
            last_received: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
        }
    }

    /// Where datagrams to the peer go now.
    pub(super) fn path(&self) -> Option<Path> {
        *lock(&self.path)
    }

    pub(super) fn set_path(&self, path: Option<Path>) {
        *lock(&self.path) = path;
    }

    /// An authenticated datagram came by `path`: answers go back the same way. True if the peer's address is new.
    pub(super) fn follow(&self, path: Path) -> bool {
        let mut known = lock(&self.path);
        if *known == Some(path) {
            return false;
        }
        let before = known.replace(path);
        before.is_none_or(|before| before.remote != path.remote)
    }

    /// Lets the kernel choose our address again.
    pub(super) fn forget_source(&self) {
        if let Some(path) = lock(&self.path).as_mut() {
            path.local = None;
        }
    }

    /// Stamps authenticated datagrams that carry no data: keepalives and handshake messages.
    pub(super) fn note_sent(&self, bytes: u64, now: BootTime) {
        self.last_sent.store(now.as_nanos(), Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.owing.settle();
    }

    /// Stamps data messages; true if the answer that is now awaited has no timer.
    pub(super) fn note_data_sent(&self, bytes: u64, now: BootTime) -> bool {
        self.note_sent(bytes, now);
        self.awaiting.make(now)
    }

    /// Stamps authenticated datagrams.
    pub(super) fn note_received(&self, now: BootTime) {
        self.last_received.store(now.as_nanos(), Ordering::Relaxed);
        self.awaiting.settle();
    }

    /// Stamps data that was received; true if the answer that is now owed has no timer.
    pub(super) fn note_data_received(&self, now: BootTime) -> bool {
        self.owing.make(now)
    }

    pub(super) fn count_received(&self, bytes: u64) {
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The answer to our data.
    pub(super) const fn awaiting(&self) -> &Debt {
        &self.awaiting
    }

    /// Our answer to the peer's data.
    pub(super) const fn owing(&self) -> &Debt {
        &self.owing
    }

    /// When an authenticated datagram last went either way; 0 if never.
    pub(super) fn last_traversal(&self) -> BootTime {
        let (sent, received) =
            (self.last_sent.load(Ordering::Relaxed), self.last_received.load(Ordering::Relaxed));
        BootTime::from_nanos(sent.max(received))
    }

    pub(super) fn tx_bytes(&self) -> u64 {
        self.tx_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn rx_bytes(&self) -> u64 {
        self.rx_bytes.load(Ordering::Relaxed)
    }

    /// The waiting packets; keeps the count right when it is dropped.
    pub(super) fn staged(&self) -> StagedGuard<'_> {
        StagedGuard { staged: lock(&self.staged), waiting: &self.waiting }
    }

    pub(super) fn has_staged(&self) -> bool {
        self.waiting.any()
    }
}

/// The waiting packets of one peer, locked.
pub(super) struct StagedGuard<'a> {
    staged: MutexGuard<'a, Staged>,
    waiting: &'a Waiting,
}

impl std::ops::Deref for StagedGuard<'_> {
    type Target = Staged;
    fn deref(&self) -> &Staged {
        &self.staged
    }
}

impl std::ops::DerefMut for StagedGuard<'_> {
    fn deref_mut(&mut self) -> &mut Staged {
        &mut self.staged
    }
}

impl Drop for StagedGuard<'_> {
    fn drop(&mut self) {
        self.waiting.set(self.staged.len());
    }
}

/// Locks, and goes on with what is there if another thread has panicked meanwhile: every value behind these locks is
/// whole between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> BootTime {
        BootTime::from_nanos(secs * 1_000_000_000)
    }

    fn peer() -> Peer {
        Peer::new(0, PublicKey::from_bytes([1; 32]))
    }

    #[test]
    fn a_debt_asks_for_its_timer_once() {
        let peer = peer();
        assert!(peer.note_data_sent(100, at(1)));
        assert!(!peer.note_data_sent(100, at(2)));
        assert_eq!(peer.awaiting().since(), Some(at(1)));
        peer.note_received(at(3));
        assert!(!peer.note_data_sent(100, at(4)), "the timer still watches");
        assert_eq!(peer.awaiting().unwatch(), Some(at(4)));
        assert!(peer.note_data_sent(100, at(5)));
    }

    #[test]
    fn anything_sent_pays_what_is_owed() {
        let peer = peer();
        assert!(peer.note_data_received(at(1)));
        peer.note_sent(32, at(2));
        assert_eq!(peer.owing().since(), None);
        assert_eq!(peer.last_traversal(), at(2));
    }

    #[test]
    fn only_a_new_remote_address_is_roaming() {
        let peer = peer();
        let path = Path::to("192.0.2.1:1".parse().unwrap());
        assert!(peer.follow(path));
        assert!(!peer.follow(path));
        let local = crate::packet::batch::LocalAddress { address: "192.0.2.9".parse().unwrap(), ifindex: 2 };
        assert!(!peer.follow(Path { local: Some(local), ..path }));
        assert_eq!(peer.path().unwrap().local, Some(local));
        peer.forget_source();
        assert_eq!(peer.path(), Some(path));
        assert!(peer.follow(Path::to("192.0.2.1:2".parse().unwrap())));
    }
}
