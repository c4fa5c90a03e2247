//! Handshake messages, sent and received. (core: no IO, no clock)
//!
//! # Theory of operation
//! A message is looked at in the order of what that costs: MAC1 (a hash), the sender's budget and the load (a table),
//! MAC2 (a hash), and only then Diffie-Hellman. Nothing is sent to anyone before that point but a cookie under load;
//! nothing is remembered of a message that is not authentic, except a count for the peer whose endpoint it came from.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zeroize::Zeroizing;

use super::admission::Verdict;
use super::control_peer::Series;
use super::cookie::CookieChecker;
use super::data_plane::DropReason;
use super::device::{Device, DeviceEvent};
use super::handshake::{self, IdentifiedInitiation, Secret, SessionKeys};
use super::keypair::RxSession;
use super::message::{
    COOKIE_REPLY_LEN, CookieReply, INITIATION_LEN, Initiation, Message, RESPONSE_LEN, Response, sender_index,
};
use super::outbox::HANDSHAKE_TRAFFIC_CLASS;
use super::timers::{REKEY_TIMEOUT, Timer, ZERO_KEYS_AFTER};
use crate::packet::batch::Path;
use crate::time::{BootTime, Now};

/// Initiations of one peer that come faster are dropped (the kernel module's INITIATIONS_PER_SECOND, 50).
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Stale timestamps of a peer before it is told about: one may be a duplicate.
const STALE_TIMESTAMPS_TOLD: u32 = 3;

impl Device {
    /// A message of type 1, 2 or 3 from the bounded queue; `queued` is how many wait behind it.
    pub fn handle_handshake(&mut self, datagram: &[u8], path: Path, queued: usize, now: Now) {
        match Message::classify(datagram) {
            Some(Message::Initiation(message)) => {
                if self.admit(message, path, queued, now.boot) {
                    self.handle_initiation(message, path, now);
                }
            }
            Some(Message::Response(message)) => {
                if self.admit(message, path, queued, now.boot) {
                    self.handle_response(message, path, now);
                }
            }
            Some(Message::CookieReply(message)) => self.handle_cookie_reply(message, now.boot),
            Some(Message::Data) | None => self.data_plane.count_drop(DropReason::MalformedDatagram, 1),
        }
    }

    /// Whether a handshake message may cost a Diffie-Hellman.
    fn admit(&mut self, message: &[u8], path: Path, queued: usize, now: BootTime) -> bool {
        let source = path.remote;
        // Without a private key nothing can be for us.
        let Some(checker) = &mut self.cookie_checker else { return false };
        if !checker.has_valid_mac1(message) {
            self.drop_unauthentic(path, DropReason::InvalidMac);
            return false;
        }
        let mut cookie = None;
        let mut cookie = || *cookie.get_or_insert_with(|| checker.cookie(source, &mut *self.entropy, now));
        let has_cookie =
            || CookieChecker::has_mac2(message) && CookieChecker::has_valid_mac2(message, &cookie());
        match self.admission.decide(source.ip(), queued, has_cookie, now) {
            Verdict::Admit => true,
            Verdict::Challenge => {
                let cookie = cookie();
                let reply = checker.reply(message, sender_index(message), &cookie);
                self.outbox.push(&reply.emit(), path, HANDSHAKE_TRAFFIC_CLASS);
                self.data_plane.count_drop(DropReason::Challenged, 1);
                false
            }
            Verdict::Drop => {
                self.data_plane.count_drop(DropReason::RateLimited, 1);
                false
            }
        }
    }

    fn handle_initiation(&mut self, message: &[u8; INITIATION_LEN], path: Path, now: Now) {
        let Some(identity) = &self.identity else { return };
        let Some(identified) = handshake::identify(identity, &Initiation::parse(message)) else {
            self.drop_unauthentic(path, DropReason::FailedHandshake);
            return;
        };
        let Some(&id) = self.by_key.get(&identified.peer) else {
            self.drop_unauthentic(path, DropReason::UnknownPeer);
            return;
        };
        match self.open_initiation(id, identified, now.boot) {
            Ok((response, keys)) => {
                let session = self.accept_initiation(id, keys, path, now.boot);
                self.answer(id, response, session, path, now.boot);
            }
            Err(DropReason::FailedHandshake) => self.drop_unauthentic(path, DropReason::FailedHandshake),
            Err(reason) => self.data_plane.count_drop(reason, 1),
        }
    }

    /// Authenticates an initiation, checks that it is new, and computes the answer.
    fn open_initiation(
        &mut self,
        id: u32,
        identified: IdentifiedInitiation,
        now: BootTime,
    ) -> Result<(Response, SessionKeys), DropReason> {
        let ephemeral = self.ephemeral();
        let Some(identity) = &self.identity else { return Err(DropReason::FailedHandshake) };
        let Some(Some(peer)) = self.peers.get_mut(id as usize) else { return Err(DropReason::UnknownPeer) };
        let static_static = peer.static_static(identity).ok_or(DropReason::FailedHandshake)?;
        let opened = identified.open(static_static).ok_or(DropReason::FailedHandshake)?;
        if peer.greatest_timestamp.is_some_and(|greatest| opened.timestamp <= greatest) {
            peer.trouble.stale_timestamps = peer.trouble.stale_timestamps.saturating_add(1);
            if peer.trouble.stale_timestamps == STALE_TIMESTAMPS_TOLD {
                let peer = peer.shared.public_key;
                self.tell(DeviceEvent::StaleTimestamp { peer });
            }
            return Err(DropReason::StaleTimestamp);
        }
        if peer.last_initiation_accepted.is_some_and(|last| now.duration_since(last) < INITIATION_INTERVAL) {
            return Err(DropReason::TooFrequent);
        }
        peer.greatest_timestamp = Some(opened.timestamp);
        peer.last_initiation_accepted = Some(now);
        let index = self.indices.allocate(id, &mut *self.entropy);
        let answer = opened.respond(peer.preshared_key.as_ref(), ephemeral, index);
        if answer.is_none() {
            self.indices.release(index);
        }
        answer.ok_or(DropReason::FailedHandshake)
    }

    /// Installs the session of an initiation that we answer; it is used when its first packet comes.
    fn accept_initiation(
        &mut self,
        id: u32,
        keys: SessionKeys,
        path: Path,
        now: BootTime,
    ) -> Option<Arc<RxSession>> {
        let peer = self.peer(id)?;
        let shared = Arc::clone(&peer.shared);
        shared.note_received(now);
        shared.count_received(INITIATION_LEN as u64);
        let session = Arc::new(RxSession::new(&keys, false, Arc::clone(&shared), now));
        peer.answered = Some(now);
        let unused = peer.keypairs.install_responded(Arc::clone(&session));
        peer.timers.set(Timer::ZeroKeys, now + ZERO_KEYS_AFTER);
        self.retire(unused);
        self.indices.publish(Arc::clone(&session));
        if shared.follow(path) {
            self.note_endpoint(id);
        }
        Some(session)
    }

    fn answer(
        &mut self,
        id: u32,
        response: Response,
        session: Option<Arc<RxSession>>,
        path: Path,
        now: BootTime,
    ) {
        let Some(peer) = self.peer(id) else { return };
        if session.is_none() {
            return;
        }
        let mut message = response.emit();
        let public_key = peer.shared.public_key;
        peer.cookies.write_macs(&mut message, &public_key, now);
        peer.last_handshake_sent = Some(now);
        peer.shared.note_sent(RESPONSE_LEN as u64, now);
        self.outbox.push(&message, path, HANDSHAKE_TRAFFIC_CLASS);
        self.reschedule(id);
    }

    fn handle_response(&mut self, message: &[u8; RESPONSE_LEN], path: Path, now: Now) {
        let response = Response::parse(message);
        let Some(identity) = &self.identity else { return };
        let owner = self.indices.owner(response.receiver);
        let peer = owner.and_then(|id| self.peers.get_mut(id as usize)?.as_mut());
        let Some((id, peer)) = owner.zip(peer) else {
            self.data_plane.count_drop(DropReason::UnknownSession, 1);
            return;
        };
        let pending = peer.pending.as_ref().filter(|pending| pending.local_index == response.receiver);
        let Some(pending) = pending else {
            self.data_plane.count_drop(DropReason::UnknownSession, 1);
            return;
        };
        let keys = handshake::complete(identity, pending, peer.preshared_key.as_ref(), &response);
        let Some(keys) = keys else {
            peer.trouble.failed_authentications = peer.trouble.failed_authentications.saturating_add(1);
            self.data_plane.count_drop(DropReason::FailedHandshake, 1);
            return;
        };
        // The index lives on as the session's.
        peer.pending = None;
        let shared = Arc::clone(&peer.shared);
        shared.note_received(now.boot);
        shared.count_received(RESPONSE_LEN as u64);
        let session = Arc::new(RxSession::new(&keys, true, Arc::clone(&shared), now.boot));
        // When both ends begin at once, the session of the greater key wins at both.
        let prefer_theirs = identity.public < shared.public_key;
        let unused = peer.keypairs.install_initiated(Arc::clone(&session), prefer_theirs);
        peer.timers.set(Timer::ZeroKeys, now.boot + ZERO_KEYS_AFTER);
        self.retire(unused);
        self.indices.publish(Arc::clone(&session));
        if shared.follow(path) {
            self.note_endpoint(id);
        }
        shared.tx.store(Some(Arc::clone(&session.tx)));
        self.establish(id, true, now);
        // The peer must not send under the session before it has heard from us: what waits, or a keepalive.
        self.send_keepalive(id, now);
        self.reschedule(id);
    }

    /// The data path has seen the first packet under a session that we answered.
    pub(super) fn handle_confirmed(&mut self, id: u32, now: Now) {
        let Some(peer) = self.peer(id) else { return };
        let is_next = peer.keypairs.next.as_ref().is_some_and(|next| next.confirmed.load(Ordering::Acquire));
        let unused = if is_next { peer.keypairs.confirm_next() } else { None };
        // The data path has stored the confirmed session; ours to say which it is to be.
        let current = peer.keypairs.current.as_ref().map(|current| Arc::clone(&current.tx));
        // Its first packet may have been on its way for so long that nothing can be sent under it any more. Then the call
        // in progress goes on: packets may wait for it.
        let can_send = current.as_ref().is_some_and(|current| current.is_usable(now.boot));
        peer.shared.tx.store(current);
        self.retire([unused]);
        if is_next && can_send {
            self.establish(id, false, now);
        }
    }

    /// Both ends have proven that they hold the keys.
    fn establish(&mut self, id: u32, initiator: bool, now: Now) {
        self.forget_pending(id);
        let Some(peer) = self.peer(id) else { return };
        let started = if initiator { peer.series.map(|series| series.started) } else { peer.answered };
        let took = started.map_or(Duration::ZERO, |started| now.boot.duration_since(started));
        peer.series = None;
        peer.answered = None;
        peer.last_handshake = Some(now);
        peer.first_handshake_took.get_or_insert(took);
        peer.trouble = Default::default();
        let public_key = peer.shared.public_key;
        self.flush(id);
        self.tell(DeviceEvent::SessionEstablished { peer: public_key, took, initiator });
    }

    fn handle_cookie_reply(&mut self, message: &[u8; COOKIE_REPLY_LEN], now: BootTime) {
        let reply = CookieReply::parse(message);
        let owner = self.indices.owner(reply.receiver);
        let Some(peer) = owner.and_then(|id| self.peer(id)) else {
            self.data_plane.count_drop(DropReason::UnknownSession, 1);
            return;
        };
        let public_key = peer.shared.public_key;
        if peer.cookies.accept(&reply, &public_key, now) {
            peer.trouble.cookie_replies = peer.trouble.cookie_replies.saturating_add(1);
        } else {
            self.data_plane.count_drop(DropReason::FailedHandshake, 1);
        }
    }

    /// Sends an initiation, replacing the one before. Nothing happens while there is no private key, no endpoint, or
    /// a peer key that no handshake is possible with.
    pub(super) fn initiate(&mut self, id: u32, now: Now) {
        let ephemeral = self.ephemeral();
        let jitter = self.jitter();
        self.forget_pending(id);
        let Some(Some(peer)) = self.peers.get_mut(id as usize) else { return };
        let way = self.identity.as_ref().and_then(|identity| {
            Some((identity, peer.shared.path()?, peer.static_static(identity)?.clone()))
        });
        let Some((identity, path, static_static)) = way else {
            peer.series = None;
            return;
        };
        let public_key = peer.shared.public_key;
        let index = self.indices.allocate(id, &mut *self.entropy);
        let timestamp = self.timestamps.next(now.wall);
        let initiation =
            handshake::initiate(identity, &public_key, &static_static, ephemeral, index, timestamp);
        let Some((initiation, pending)) = initiation else {
            self.indices.release(index);
            return;
        };
        let mut message = initiation.emit();
        peer.cookies.write_macs(&mut message, &public_key, now.boot);
        peer.pending = Some(pending);
        peer.last_handshake_sent = Some(now.boot);
        let attempts = peer.series.map_or(0, |series| series.attempts);
        let started = peer.series.map_or(now.boot, |series| series.started);
        peer.series = Some(Series { started, attempts: attempts + 1 });
        peer.trouble.initiations_sent = peer.trouble.initiations_sent.saturating_add(1);
        peer.timers.set(Timer::Retransmit, now.boot + REKEY_TIMEOUT + jitter);
        peer.shared.note_sent(INITIATION_LEN as u64, now.boot);
        self.outbox.push(&message, path, HANDSHAKE_TRAFFIC_CLASS);
        self.reschedule(id);
    }

    fn ephemeral(&mut self) -> Secret {
        let mut ephemeral = Zeroizing::new([0; 32]);
        self.entropy.fill(ephemeral.as_mut_slice());
        ephemeral
    }

    /// Counts a message that does not authenticate for the peer whose endpoint it came from.
    fn drop_unauthentic(&mut self, path: Path, reason: DropReason) {
        self.data_plane.count_drop(reason, 1);
        let id = self.by_endpoint.get(&path.remote).copied();
        if let Some(peer) = id.and_then(|id| self.peer(id)) {
            peer.trouble.failed_authentications = peer.trouble.failed_authentications.saturating_add(1);
        }
    }
}
