//! Sessions: the keys of one completed handshake, and how long they may be used. (core: no IO, no clock)
//!
//! A session has two halves, because two threads use it: [`TxSession`] with the nonce counter, [`RxSession`] with the
//! replay window. Both are shared by `Arc` and checked against the clock at every use, never by a timer alone: a
//! machine that wakes from suspend must not send one packet under an expired key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::handshake::SessionKeys;
use super::nonce::NonceCounter;
use super::peer::Peer;
use super::replay::ReplayWindow;
use super::timers::{MAX_JITTER, REKEY_TIMEOUT};
use crate::crypto::AeadKey;
use crate::time::BootTime;

/// WireGuard paper §6.1.
pub(super) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// WireGuard paper §6.1: 2⁶⁴ − 2¹³ − 1.
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// WireGuard paper §6.1: age at which the initiator starts the next handshake when it sends.
pub(super) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// WireGuard paper §6.1.
pub(super) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Age from which nothing more is sent under a session. The receiver's half may be older than ours by the time a
/// datagram was on its way: what is sent in the last seconds would be lost, and waits for the next session instead.
const STOP_SENDING_AFTER: Duration = Duration::from_secs(175);
/// Age at which the initiator starts the next handshake when it only receives: REJECT_AFTER_TIME −
/// KEEPALIVE_TIMEOUT − REKEY_TIMEOUT (paper §6.2).
pub(super) const REKEY_ON_RECEIVE_AFTER: Duration = Duration::from_secs(165);
/// How long before ours a session of theirs may have been born and still be of a handshake that crossed ours.
const CROSSING_TIME: Duration = REKEY_TIMEOUT.saturating_add(MAX_JITTER);

/// The sending half of a session.
pub(super) struct TxSession {
    pub(super) key: AeadKey,
    pub(super) remote_index: u32,
    pub(super) born: BootTime,
    /// Whether the handshake was ours: only the initiator renews by age, or both ends would.
    pub(super) initiator: bool,
    counter: NonceCounter,
    /// The control half was told that this session wants a successor.
    pub(super) rekey_asked: AtomicBool,
}

impl TxSession {
    /// Neither too old nor out of nonces.
    pub(super) fn is_usable(&self, now: BootTime) -> bool {
        now.duration_since(self.born) < STOP_SENDING_AFTER && self.counter.taken() < REJECT_AFTER_MESSAGES
    }

    /// Takes `count` nonces that nobody else gets: the first of them, or `None` if the session has not so many left.
    pub(super) fn reserve(&self, count: u64) -> Option<u64> {
        self.counter.reserve(count)
    }

    /// Whether a packet sent now should be followed by a handshake (paper §6.2).
    pub(super) fn wants_rekey(&self, now: BootTime) -> bool {
        self.initiator && now.duration_since(self.born) >= REKEY_AFTER_TIME
            || self.counter.taken() > REKEY_AFTER_MESSAGES
    }

    #[cfg(test)]
    pub(super) fn set_counter(&self, counter: u64) {
        self.counter.set(counter);
    }
}

/// The receiving half of a session.
pub(super) struct RxSession {
    pub(super) key: AeadKey,
    pub(super) local_index: u32,
    pub(super) born: BootTime,
    pub(super) initiator: bool,
    pub(super) window: Mutex<ReplayWindow>,
    pub(super) peer: Arc<Peer>,
    /// The same handshake's sending half.
    pub(super) tx: Arc<TxSession>,
    /// The peer has proven that it holds the keys. True from the start for the initiator, whose proof was the
    /// response; the responder sends nothing under the session before.
    pub(super) confirmed: AtomicBool,
    /// The control half was told that this session is about to end while we only receive.
    pub(super) rekey_asked: AtomicBool,
}

impl RxSession {
    pub(super) fn new(keys: &SessionKeys, initiator: bool, peer: Arc<Peer>, born: BootTime) -> Self {
        let tx = Arc::new(TxSession {
            key: AeadKey::new(&keys.send),
            remote_index: keys.remote_index,
            born,
            initiator,
            counter: NonceCounter::starting_at(0),
            rekey_asked: AtomicBool::new(false),
        });
        Self {
            key: AeadKey::new(&keys.receive),
            local_index: keys.local_index,
            born,
            initiator,
            window: Mutex::new(ReplayWindow::new()),
            peer,
            tx,
            confirmed: AtomicBool::new(initiator),
            rekey_asked: AtomicBool::new(false),
        }
    }

    pub(super) fn is_usable(&self, now: BootTime) -> bool {
        now.duration_since(self.born) < REJECT_AFTER_TIME
    }

    /// Whether a packet received now should be followed by a handshake (paper §6.2).
    pub(super) fn wants_rekey(&self, now: BootTime) -> bool {
        self.initiator && now.duration_since(self.born) >= REKEY_ON_RECEIVE_AFTER
    }
}

/// A peer's sessions. The control half's own; the data threads reach them through `Peer::tx` and the index table.
#[derive(Default)]
pub(super) struct Keypairs {
    /// What we send under.
    pub(super) current: Option<Arc<RxSession>>,
    /// Still received under, for what was in flight when `current` came.
    pub(super) previous: Option<Arc<RxSession>>,
    /// We answered; becomes `current` with the first packet that comes under it.
    pub(super) next: Option<Arc<RxSession>>,
}

impl Keypairs {
    /// A handshake of ours is complete. Returns the sessions that nobody uses any more.
    ///
    /// When both ends began at the same time there are two sessions, and each end would send under its own and renew
    /// it for ever. `prefer_theirs` says, at exactly one end, that the other's is to win: ours then only serves until
    /// the first packet under theirs.
    ///
    /// Handshakes cross only within the time that an initiator waits. A session of theirs that is older and was never
    /// confirmed is left over from a response that got lost or was not taken up; it must not come back and displace
    /// newer ones.
    pub(super) fn install_initiated(
        &mut self,
        session: Arc<RxSession>,
        prefer_theirs: bool,
    ) -> [Option<Arc<RxSession>>; 2] {
        let crossing = self.next.as_ref().is_some_and(|next| next.born + CROSSING_TIME >= session.born);
        let before = self.current.replace(session);
        if !crossing {
            [std::mem::replace(&mut self.previous, before), self.next.take()]
        } else if prefer_theirs {
            [std::mem::replace(&mut self.previous, before), None]
        } else {
            // It lost: whatever comes under it is no reason to send under it.
            let next = self.next.take().inspect(|next| next.confirmed.store(true, Ordering::Release));
            [std::mem::replace(&mut self.previous, next), before]
        }
    }

    /// We answered a handshake. Returns the sessions that nobody uses any more.
    pub(super) fn install_responded(&mut self, session: Arc<RxSession>) -> [Option<Arc<RxSession>>; 2] {
        [self.next.replace(session), self.previous.take()]
    }

    /// A packet has come under `next`. Returns the session that nobody uses any more.
    pub(super) fn confirm_next(&mut self) -> Option<Arc<RxSession>> {
        let next = self.next.take()?;
        let before = self.current.replace(next);
        std::mem::replace(&mut self.previous, before)
    }

    /// Empties all three.
    pub(super) fn take_all(&mut self) -> [Option<Arc<RxSession>>; 3] {
        [self.current.take(), self.previous.take(), self.next.take()]
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::key::PublicKey;

    fn session(local_index: u32, initiator: bool) -> Arc<RxSession> {
        session_born(local_index, initiator, 0)
    }

    fn session_born(local_index: u32, initiator: bool, secs: u64) -> Arc<RxSession> {
        let keys = SessionKeys {
            send: Zeroizing::new([1; 32]),
            receive: Zeroizing::new([2; 32]),
            local_index,
            remote_index: 0,
        };
        let peer = Arc::new(Peer::new(0, PublicKey::from_bytes([3; 32])));
        Arc::new(RxSession::new(&keys, initiator, peer, at(secs)))
    }

    fn at(secs: u64) -> BootTime {
        BootTime::from_nanos(secs * 1_000_000_000)
    }

    fn indices(keypairs: &Keypairs) -> [Option<u32>; 3] {
        [&keypairs.current, &keypairs.previous, &keypairs.next].map(|s| s.as_ref().map(|s| s.local_index))
    }

    #[test]
    fn nothing_is_used_after_180_seconds() {
        let session = session(1, true);
        assert!(session.is_usable(at(179)) && session.tx.is_usable(at(174)));
        assert!(!session.is_usable(at(180)) && !session.tx.is_usable(at(175)));
    }

    #[test]
    fn the_last_nonce_is_never_passed() {
        let tx = Arc::clone(&session(1, true).tx);
        tx.set_counter(REJECT_AFTER_MESSAGES - 64);
        assert_eq!(tx.reserve(65), None);
        tx.set_counter(REJECT_AFTER_MESSAGES - 64);
        assert_eq!(tx.reserve(64), Some(REJECT_AFTER_MESSAGES - 64));
        assert!(!tx.is_usable(at(1)));
        for _ in 0..10_000 {
            assert_eq!(tx.reserve(64), None);
        }
    }

    #[test]
    fn only_the_initiator_renews_by_age_and_both_by_count() {
        let (ours, theirs) = (session(1, true), session(2, false));
        assert!(!ours.tx.wants_rekey(at(119)));
        assert!(ours.tx.wants_rekey(at(120)) && ours.wants_rekey(at(165)) && !ours.wants_rekey(at(164)));
        assert!(!theirs.tx.wants_rekey(at(179)) && !theirs.wants_rekey(at(179)));
        theirs.tx.set_counter(REKEY_AFTER_MESSAGES + 1);
        assert!(theirs.tx.wants_rekey(at(1)));
    }

    #[test]
    fn an_answered_session_waits_for_its_first_packet() {
        let mut keypairs = Keypairs::default();
        keypairs.install_initiated(session(1, true), false);
        keypairs.install_responded(session(2, false));
        assert_eq!(indices(&keypairs), [Some(1), None, Some(2)]);
        keypairs.confirm_next();
        assert_eq!(indices(&keypairs), [Some(2), Some(1), None]);
    }

    #[test]
    fn of_two_crossing_handshakes_one_wins_at_both_ends() {
        let mut winner = Keypairs::default();
        winner.install_responded(session(2, false));
        winner.install_initiated(session(1, true), false);
        assert_eq!(indices(&winner), [Some(1), Some(2), None]);
        let mut loser = Keypairs::default();
        loser.install_responded(session(1, false));
        loser.install_initiated(session(2, true), true);
        assert_eq!(indices(&loser), [Some(2), None, Some(1)]);
        loser.confirm_next();
        assert_eq!(indices(&loser), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_session_that_nobody_took_up_does_not_displace_a_newer_one() {
        let mut keypairs = Keypairs::default();
        keypairs.install_responded(session_born(1, false, 0));
        let unused = keypairs.install_initiated(session_born(2, true, 6), true);
        assert_eq!(unused.map(|s| s.map(|s| s.local_index)), [None, Some(1)]);
        assert_eq!(indices(&keypairs), [Some(2), None, None]);
    }

    #[test]
    fn the_first_packet_under_the_loser_of_a_crossing_changes_nothing() {
        let mut keypairs = Keypairs::default();
        let loser = session_born(1, false, 0);
        keypairs.install_responded(Arc::clone(&loser));
        keypairs.install_initiated(session_born(2, true, 5), false);
        assert_eq!(indices(&keypairs), [Some(2), Some(1), None]);
        assert!(loser.confirmed.load(Ordering::Acquire), "nobody waits for its first packet");
    }
}
