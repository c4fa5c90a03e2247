//! The control half's upkeep: timers that went off, and notices of the data threads. (core: no IO, no clock)

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::control_peer::Series;
use super::device::{Device, DeviceEvent};
use super::peer::Notice;
use super::seal::seal_keepalive;
use super::timers::{
    AWAIT_REPLY_TIMEOUT, KEEPALIVE_TIMEOUT, MAX_HANDSHAKE_ATTEMPTS, REKEY_TIMEOUT, Timer, ZERO_KEYS_AFTER,
};
use crate::packet::batch::Path;
use crate::time::{BootTime, Now};

/// Initiations without an answer between two events that say so.
const ATTEMPTS_BETWEEN_EVENTS: u32 = 3;

impl Device {
    /// The data plane has called the waker: it wants something.
    pub fn handle_notices(&mut self, now: Now) {
        for shared in self.data_plane.take_notices() {
            let notices = shared.notices.swap(0, Ordering::AcqRel);
            let id = shared.id;
            // The peer may have been removed, and another one sit in its place.
            if !self.peer(id).is_some_and(|peer| Arc::ptr_eq(&peer.shared, &shared)) {
                continue;
            }
            if Notice::Roamed.is_in(notices) {
                self.note_endpoint(id);
            }
            if Notice::Confirmed.is_in(notices) {
                self.handle_confirmed(id, now);
            }
            if Notice::DebtMade.is_in(notices) {
                self.arm_debt_timers(id, now.boot);
            }
            if Notice::HandshakeWanted.is_in(notices) {
                self.handle_handshake_wanted(id, now);
            }
            self.reschedule(id);
        }
    }

    /// The deadline of [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(id) = self.schedule.first_due(now.boot) {
            while let Some(timer) = self.peer(id).and_then(|peer| peer.timers.take_due(now.boot)) {
                match timer {
                    Timer::Retransmit => self.handle_no_response(id, now),
                    Timer::Initiate => self.want_handshake(id, now),
                    Timer::AwaitReply => self.handle_no_reply(id, now),
                    Timer::Keepalive => self.handle_reply_due(id, now),
                    Timer::PersistentKeepalive => self.handle_persistent_keepalive(id, now),
                    Timer::ZeroKeys => self.zero_keys(id),
                }
            }
            self.reschedule(id);
        }
    }

    /// The endpoint may have changed: keeps the look-up by address right and tells.
    pub(super) fn note_endpoint(&mut self, id: u32) {
        let Some(peer) = self.peer(id) else { return };
        let Some(Path { remote: to, .. }) = peer.shared.path() else { return };
        let from = peer.known_remote.replace(to);
        let public_key = peer.shared.public_key;
        if from == Some(to) {
            return;
        }
        self.move_endpoint(id, from, to);
        self.tell(DeviceEvent::Roamed { peer: public_key, from, to });
    }

    pub(super) fn move_endpoint(
        &mut self,
        id: u32,
        from: Option<std::net::SocketAddr>,
        to: std::net::SocketAddr,
    ) {
        if let Some(from) = from
            && self.by_endpoint.get(&from) == Some(&id)
        {
            self.by_endpoint.remove(&from);
        }
        self.by_endpoint.insert(to, id);
    }

    fn handle_handshake_wanted(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        let session = peer.shared.tx.load_full().filter(|session| session.is_usable(now.boot));
        let is_fresh = session.as_ref().is_some_and(|session| {
            let receiving = peer.keypairs.current.as_ref();
            !session.wants_rekey(now.boot) && !receiving.is_some_and(|current| current.wants_rekey(now.boot))
        });
        if session.is_some() {
            self.flush(id);
        }
        if !is_fresh {
            self.want_handshake(id, now);
        }
    }

    /// Calls every peer that has an endpoint and no session: for those who want to know now whether it answers.
    /// Otherwise the first packet or keepalive calls.
    pub fn initiate_handshakes(&mut self, now: Now) {
        for id in 0..self.peers.len() {
            let Ok(id) = u32::try_from(id) else { return };
            let Some(peer) = self.peer(id) else { continue };
            if peer.keypairs.current.is_none() && peer.shared.path().is_some() {
                self.want_handshake(id, now);
            }
        }
    }

    /// Lets what waits for a session be sent with the next [`poll_transmit`](Self::poll_transmit).
    pub(super) fn flush(&mut self, id: u32) {
        let Some(peer) = self.peer(id) else { return };
        if peer.shared.waiting.answer() && !self.outbox.flushes.contains(&id) {
            self.outbox.flushes.push_back(id);
        }
    }

    /// Starts a handshake, unless one is going on, cannot be, or was begun less than 5 s ago.
    pub(super) fn want_handshake(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        if peer.timers.is_set(Timer::Retransmit) {
            return;
        }
        let earliest = peer.last_handshake_sent.map(|sent| sent + REKEY_TIMEOUT);
        match earliest {
            Some(earliest) if earliest > now.boot => peer.timers.set(Timer::Initiate, earliest),
            Some(_) | None => {
                // A new endpoint goes on with the series that the old one began.
                peer.series.get_or_insert(Series { started: now.boot, attempts: 0 });
                self.initiate(id, now);
            }
        }
        self.reschedule(id);
    }

    fn handle_no_response(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        let Some(Series { attempts, .. }) = peer.series else { return };
        let public_key = peer.shared.public_key;
        if attempts >= MAX_HANDSHAKE_ATTEMPTS {
            self.give_up(id, now.boot);
            return;
        }
        peer.shared.forget_source();
        if attempts.is_multiple_of(ATTEMPTS_BETWEEN_EVENTS) {
            self.tell(DeviceEvent::HandshakesFailing { peer: public_key, attempts });
        }
        self.initiate(id, now);
    }

    fn give_up(&mut self, id: u32, now: BootTime) {
        self.forget_pending(id);
        let Some(peer) = self.peer(id) else { return };
        peer.series = None;
        // While an old session lasts, what is owed under it is still paid.
        if !peer.has_session(now) {
            peer.timers.clear(Timer::Keepalive);
            peer.shared.owing().unwatch();
        }
        if !peer.timers.is_set(Timer::ZeroKeys) {
            peer.timers.set(Timer::ZeroKeys, now + ZERO_KEYS_AFTER);
        }
        // The next packet may ask again: for a session if there is none, for a new one if there is an old one.
        for session in [&peer.keypairs.current, &peer.keypairs.previous].into_iter().flatten() {
            session.rekey_asked.store(false, Ordering::Release);
            session.tx.rekey_asked.store(false, Ordering::Release);
        }
        let shared = Arc::clone(&peer.shared);
        let _whatever_waits_is_dropped = shared.waiting.answer();
        self.data_plane.drop_staged(&shared);
        self.tell(DeviceEvent::HandshakeGaveUp { peer: shared.public_key });
    }

    /// Ends our handshake in progress.
    pub(super) fn forget_pending(&mut self, id: u32) {
        let Some(peer) = self.peer(id) else { return };
        peer.timers.clear(Timer::Retransmit);
        peer.timers.clear(Timer::Initiate);
        if let Some(pending) = peer.pending.take() {
            self.indices.release(pending.local_index);
        }
    }

    /// Arms the timers of debts that the data threads made.
    pub(super) fn arm_debt_timers(&mut self, id: u32, now: BootTime) {
        let jitter = self.jitter();
        let Some(peer) = self.peer(id) else { return };
        let (awaiting, owing) = (peer.shared.awaiting(), peer.shared.owing());
        // A debt that was paid meanwhile is watched all the same: its flag must come down some time.
        if awaiting.is_watched() && !peer.timers.is_set(Timer::AwaitReply) {
            let since = awaiting.since().unwrap_or(now);
            peer.timers.set(Timer::AwaitReply, since + AWAIT_REPLY_TIMEOUT + jitter);
        }
        if owing.is_watched() && !peer.timers.is_set(Timer::Keepalive) {
            let since = owing.since().unwrap_or(now);
            peer.timers.set(Timer::Keepalive, since + KEEPALIVE_TIMEOUT);
        }
        self.reschedule(id);
    }

    /// 15 s may have passed since data was sent and nothing came back.
    fn handle_no_reply(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        let Some(since) = peer.shared.awaiting().unwatch() else { return };
        if now.boot < since + AWAIT_REPLY_TIMEOUT {
            peer.shared.awaiting().watch();
            self.arm_debt_timers(id, now.boot);
            return;
        }
        peer.shared.awaiting().settle();
        // The kernel may know a better way now.
        peer.shared.forget_source();
        self.want_handshake(id, now);
    }

    /// 10 s may have passed since data was received and nothing went back.
    fn handle_reply_due(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        let Some(since) = peer.shared.owing().unwatch() else { return };
        if now.boot < since + KEEPALIVE_TIMEOUT {
            peer.shared.owing().watch();
            self.arm_debt_timers(id, now.boot);
            return;
        }
        peer.shared.owing().settle();
        self.send_keepalive(id, now);
    }

    fn handle_persistent_keepalive(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        if peer.persistent_keepalive == 0 {
            return;
        }
        let interval = Duration::from_secs(u64::from(peer.persistent_keepalive));
        let due = peer.shared.last_traversal() + interval;
        if due > now.boot {
            peer.timers.set(Timer::PersistentKeepalive, due);
            return;
        }
        peer.timers.set(Timer::PersistentKeepalive, now.boot + interval);
        self.send_keepalive(id, now);
    }

    /// Sends a keepalive, or what waits instead of it, or an initiation if there is no session.
    pub(super) fn send_keepalive(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        let session = peer.shared.tx.load_full().filter(|session| session.is_usable(now.boot));
        let Some(session) = session else {
            self.want_handshake(id, now);
            return;
        };
        let shared = Arc::clone(&peer.shared);
        if shared.has_staged() {
            self.flush(id);
        } else if let Some(path) = shared.path()
            && let Some(message) = seal_keepalive(&self.data_plane, &shared, &session, now.boot)
        {
            self.outbox.push(&message, path, 0);
        }
    }

    /// Wipes every secret of a session with this peer. A handshake in progress goes on: it makes new ones.
    pub(super) fn zero_keys(&mut self, id: u32) {
        let Some(peer) = self.peer(id) else { return };
        peer.shared.tx.store(None);
        peer.answered = None;
        let sessions = peer.keypairs.take_all();
        self.retire(sessions);
    }
}
