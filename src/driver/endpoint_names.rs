//! Decides when each endpoint name is resolved and what its answer does to the peer. (core: no IO, no clock)
//!
//! # Theory of operation
//! WireGuard itself knows addresses only. A peer whose endpoint was written as a name has an entry here, which is in
//! one of three states: *due* (ask at a given time), *asked* (waiting for the broker) or *known*. A failed lookup is
//! asked again after 1, 2, 4 … 60 s, for ever: the resolver may come up long after we did.
//!
//! A known name is not asked again while handshakes succeed, so a peer that roamed keeps its new endpoint. When
//! [`HANDSHAKES_BEFORE_RESOLVING`] initiations in a row stay unanswered the name is asked anew; if its answer still
//! holds the address that does not answer, the next address of the answer is tried. So a dynamic DNS name, a moved server and
//! a dead address family all mend themselves, and none of it can touch a working session.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::key::PublicKey;
use crate::time::BootTime;

/// Unanswered initiations after which the name is asked again: 15 s of silence at one initiation in 5 s.
pub const HANDSHAKES_BEFORE_RESOLVING: u32 = 3;

/// First pause after a failed lookup; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two lookups of a name that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Least pause between two lookups of a name that resolves to something that does not answer.
///
/// Longer than the 5 s between initiations, so that each address gets a fair try.
const PAUSE_AFTER_AN_ANSWER: Duration = Duration::from_secs(15);

/// A lookup the broker did not answer by then counts as failed: glibc's resolver gives up after 30 s a server.
const LOST_LOOKUP: Duration = Duration::from_secs(120);

/// Lookups under way at once: the broker runs each in a thread.
pub const MAX_LOOKUPS: usize = 16;

/// One address of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedAddress {
    /// With the port that was asked for.
    pub address: SocketAddr,
    /// The host has a route to it now.
    pub routable: bool,
}

/// A question for the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Comes back with the answer.
    pub id: u64,
    /// The name, never an address literal.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// What an answer does to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Which peer.
    pub peer: PublicKey,
    /// The name it was asked by.
    pub name: String,
    /// What to do.
    pub outcome: Outcome,
}

/// See [`Resolution`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send to this address from now on.
    Endpoint {
        /// Where to send.
        endpoint: SocketAddr,
        /// The address is this machine's own, which is rarely meant.
        loopback: bool,
    },
    /// The answer brings nothing new.
    Unchanged,
    /// There is no address; asked again after `pause`.
    Failed {
        /// In words, as `status` shows it.
        reason: String,
        /// Until the next try.
        pause: Duration,
    },
}

/// Where one name is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked from `at` on. [`EndpointNames::poll_lookup`] → `Asked`.
    Due { at: BootTime },
    /// The broker has the question. An answer, or [`LOST_LOOKUP`], → `Known` or `Due`.
    Asked { id: u64, since: BootTime },
    /// Resolved; asked again, not before `again`, when handshakes fail → `Due`.
    Known { again: BootTime },
}

#[derive(Clone, Debug)]
struct Entry {
    host: String,
    port: u16,
    state: State,
    /// Doubles with each failure, back to [`FIRST_PAUSE`] with each answer.
    pause: Duration,
    /// The address last given out; `None` until the first answer.
    given: Option<SocketAddr>,
    /// Handshakes to the present endpoint are failing: an answer moves on from it.
    failing: bool,
    /// Why there is no address.
    reason: Option<String>,
}

/// The names of a device's endpoints.
#[derive(Debug, Default)]
pub struct EndpointNames {
    entries: BTreeMap<PublicKey, Entry>,
    last_id: u64,
}

impl EndpointNames {
    /// No names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `peer` an endpoint by name, to be asked at once; the same name again changes nothing.
    pub fn insert(&mut self, peer: PublicKey, host: &str, port: u16, now: BootTime) {
        if self.entries.get(&peer).is_some_and(|entry| entry.host == host && entry.port == port) {
            return;
        }
        let entry = Entry {
            host: host.to_owned(),
            port,
            state: State::Due { at: now },
            pause: FIRST_PAUSE,
            given: None,
            failing: false,
            reason: None,
        };
        self.entries.insert(peer, entry);
    }

    /// Forgets the name of `peer`: it is gone, or was given an address. An answer under way is then ignored.
    pub fn remove(&mut self, peer: &PublicKey) {
        self.entries.remove(peer);
    }

    /// Forgets the names of all peers that `keep` does not name.
    pub fn retain(&mut self, mut keep: impl FnMut(&PublicKey) -> bool) {
        self.entries.retain(|peer, _| keep(peer));
    }

    /// Whether no peer has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name of `peer` as it was written: `host:port`.
    #[must_use]
    pub fn name(&self, peer: &PublicKey) -> Option<String> {
        self.entries.get(peer).map(|entry| format!("{}:{}", entry.host, entry.port))
    }

    /// Why `peer` has no address yet, in words; `None` if it has one or never had a name.
    #[must_use]
    pub fn reason(&self, peer: &PublicKey) -> Option<String> {
        let entry = self.entries.get(peer)?;
        if entry.given.is_some() {
            return None;
        }
        let reason = entry.reason.as_deref().unwrap_or("no answer yet");
        Some(format!("cannot resolve `{}`: {reason}", entry.host))
    }

    /// The next name to ask the broker for; call until `None`.
    pub fn poll_lookup(&mut self, now: BootTime) -> Option<Lookup> {
        if self.asked() >= MAX_LOOKUPS {
            return None;
        }
        let entry = self.entries.values_mut().find(|entry| entry.is_due(now))?;
        self.last_id += 1;
        entry.state = State::Asked { id: self.last_id, since: now };
        Some(Lookup { id: self.last_id, host: entry.host.clone(), port: entry.port })
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and [`poll_lookup`](Self::poll_lookup) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let full = self.asked() >= MAX_LOOKUPS;
        let deadline = |entry: &Entry| match entry.state {
            State::Due { at } => (!full).then_some(at),
            State::Asked { since, .. } => Some(since + LOST_LOOKUP),
            State::Known { .. } => None,
        };
        self.entries.values().filter_map(deadline).min()
    }

    /// Gives up lookups that were never answered.
    pub fn handle_timeout(&mut self, now: BootTime) {
        for entry in self.entries.values_mut() {
            if let State::Asked { since, .. } = entry.state
                && now.duration_since(since) >= LOST_LOOKUP
            {
                entry.fail("the resolver does not answer".to_owned(), now);
            }
        }
    }

    /// Takes the broker's answer to lookup `id`; `None` if nobody waits for it any more.
    pub fn handle_answer(
        &mut self,
        id: u64,
        answer: Result<Vec<ResolvedAddress>, String>,
        now: BootTime,
    ) -> Option<Resolution> {
        let asked = |entry: &Entry| matches!(entry.state, State::Asked { id: waiting, .. } if waiting == id);
        let (peer, entry) = self.entries.iter_mut().find(|(_, entry)| asked(entry))?;
        let outcome = match answer {
            Ok(addresses) => entry.take_addresses(&addresses, now),
            Err(reason) => entry.fail(reason, now),
        };
        Some(Resolution { peer: *peer, name: entry.host.clone(), outcome })
    }

    /// Tells how the handshakes of `peer` go: `unanswered` initiations in a row, 0 after a completed one.
    ///
    /// True if the name became due by it, so that the caller looks at [`poll_lookup`](Self::poll_lookup) at once.
    pub fn handle_handshakes(&mut self, peer: &PublicKey, unanswered: u32, now: BootTime) -> bool {
        let Some(entry) = self.entries.get_mut(peer) else { return false };
        entry.failing = unanswered >= HANDSHAKES_BEFORE_RESOLVING;
        let State::Known { again } = entry.state else { return false };
        if !entry.failing || now < again {
            return false;
        }
        entry.state = State::Due { at: now };
        true
    }

    fn asked(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.state, State::Asked { .. })).count()
    }
}

impl Entry {
    fn is_due(&self, now: BootTime) -> bool {
        matches!(self.state, State::Due { at } if at <= now)
    }

    fn fail(&mut self, reason: String, now: BootTime) -> Outcome {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.state = State::Due { at: now + pause };
        self.reason = Some(reason.clone());
        Outcome::Failed { reason, pause }
    }

    fn take_addresses(&mut self, answer: &[ResolvedAddress], now: BootTime) -> Outcome {
        // Blocking resolvers answer 0.0.0.0 or ::, and Linux takes that for the machine itself.
        let mut usable: Vec<_> = answer.iter().filter(|one| !one.address.ip().is_unspecified()).collect();
        if usable.is_empty() {
            let reason = if answer.is_empty() {
                "the name has no address"
            } else {
                "the resolver answers only 0.0.0.0 or ::, as blocking resolvers do"
            };
            return self.fail(reason.to_owned(), now);
        }
        usable.sort_by_key(|one| !one.routable); // stable: the resolver's order within each half
        self.pause = FIRST_PAUSE;
        self.reason = None;
        self.state = State::Known { again: now + PAUSE_AFTER_AN_ANSWER };

        let present = usable.iter().position(|one| Some(one.address) == self.given);
        let endpoint = match present {
            // It does not answer there: on to the next, and round again.
            Some(index) if self.failing => usable[(index + 1) % usable.len()].address,
            Some(index) => usable[index].address,
            None => usable[0].address,
        };
        // Given out again even if it was the last one: the peer may have roamed to an address that went dead.
        if self.given == Some(endpoint) && !self.failing {
            return Outcome::Unchanged;
        }
        self.given = Some(endpoint);
        Outcome::Endpoint { endpoint, loopback: is_loopback(endpoint.ip()) }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PublicKey = PublicKey::from_bytes([1; 32]);

    #[test]
    fn a_name_is_asked_at_once_and_its_address_is_given_to_the_peer() {
        let mut names = one_name();
        let lookup = names.poll_lookup(at(0)).unwrap();
        assert_eq!((lookup.host.as_str(), lookup.port), ("vpn.example", 51820));
        assert_eq!(names.poll_lookup(at(0)), None);
        assert_eq!(answer(&mut names, lookup.id, &["192.0.2.1"], 0), endpoint("192.0.2.1"));
        assert_eq!(names.poll_timeout(), None);
        assert_eq!(names.reason(&PEER), None);
    }

    #[test]
    fn a_failing_name_is_asked_again_after_1_2_4_and_at_most_60_seconds() {
        let mut names = one_name();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let id = names.poll_lookup(at(now)).unwrap().id;
            let resolution = names.handle_answer(id, Err("no such name".to_owned()), at(now)).unwrap();
            let Outcome::Failed { pause, .. } = resolution.outcome else { panic!("{resolution:?}") };
            pauses.push(pause.as_secs());
            assert_eq!(names.poll_lookup(at(now + pause.as_secs() - 1)), None);
            now += pause.as_secs();
            assert_eq!(names.poll_timeout(), Some(at(now)));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(names.reason(&PEER).unwrap(), "cannot resolve `vpn.example`: no such name");
    }

    #[test]
    fn a_success_resets_the_pause() {
        let mut names = one_name();
        for now in [0, 1, 3] {
            let id = names.poll_lookup(at(now)).unwrap().id;
            names.handle_answer(id, Err(String::new()), at(now));
        }
        let id = names.poll_lookup(at(7)).unwrap().id;
        answer(&mut names, id, &["192.0.2.1"], 7);
        assert!(names.handle_handshakes(&PEER, 3, at(60)));
        let id = names.poll_lookup(at(60)).unwrap().id;
        let resolution = names.handle_answer(id, Err(String::new()), at(60)).unwrap();
        assert_eq!(resolution.outcome, Outcome::Failed { reason: String::new(), pause: FIRST_PAUSE });
    }

    #[test]
    fn a_known_name_is_left_alone_while_handshakes_succeed() {
        let mut names = known(&["192.0.2.1"]);
        for secs in 1..1000_u32 {
            let now = at(secs.into());
            assert!(!names.handle_handshakes(&PEER, secs % 3, now));
            assert_eq!(names.poll_lookup(now), None);
        }
    }

    #[test]
    fn three_unanswered_initiations_ask_again_and_a_new_answer_moves_the_endpoint() {
        let mut names = known(&["192.0.2.1"]);
        assert!(!names.handle_handshakes(&PEER, 2, at(100)));
        assert!(names.handle_handshakes(&PEER, 3, at(105)));
        let id = names.poll_lookup(at(105)).unwrap().id;
        assert_eq!(answer(&mut names, id, &["198.51.100.7"], 105), endpoint("198.51.100.7"));
    }

    #[test]
    fn a_silent_peer_is_not_asked_for_more_often_than_every_15_seconds() {
        let mut names = known(&["192.0.2.1"]);
        let mut lookups = 0;
        for now in 1..=150 {
            names.handle_handshakes(&PEER, 9, at(now));
            if let Some(lookup) = names.poll_lookup(at(now)) {
                answer(&mut names, lookup.id, &["192.0.2.1"], now);
                lookups += 1;
            }
        }
        assert_eq!(lookups, 10);
    }

    #[test]
    fn the_next_address_of_an_answer_is_tried_when_the_present_one_does_not_answer() {
        let both = ["2001:db8::1", "192.0.2.1"];
        let mut names = known(&both);
        for (now, expected) in [(20, "192.0.2.1"), (40, "2001:db8::1"), (60, "192.0.2.1")] {
            assert!(names.handle_handshakes(&PEER, 3, at(now)));
            let id = names.poll_lookup(at(now)).unwrap().id;
            assert_eq!(answer(&mut names, id, &both, now), endpoint(expected));
        }
    }

    #[test]
    fn an_answer_that_comes_when_handshakes_have_recovered_changes_nothing() {
        let mut names = known(&["192.0.2.1", "192.0.2.2"]);
        assert!(names.handle_handshakes(&PEER, 3, at(20)));
        let id = names.poll_lookup(at(20)).unwrap().id;
        names.handle_handshakes(&PEER, 0, at(21));
        assert_eq!(answer(&mut names, id, &["192.0.2.1", "192.0.2.2"], 22), Outcome::Unchanged);
    }

    #[test]
    fn an_address_without_a_route_comes_last() {
        let mut names = one_name();
        let id = names.poll_lookup(at(0)).unwrap().id;
        let answer = vec![
            ResolvedAddress { address: address("2001:db8::1"), routable: false },
            ResolvedAddress { address: address("192.0.2.1"), routable: true },
        ];
        let resolution = names.handle_answer(id, Ok(answer), at(0)).unwrap();
        assert_eq!(resolution.outcome, endpoint("192.0.2.1"));
    }

    #[test]
    fn an_unspecified_answer_is_a_failure_and_a_loopback_one_is_marked() {
        let mut names = one_name();
        let id = names.poll_lookup(at(0)).unwrap().id;
        let outcome = answer(&mut names, id, &["0.0.0.0", "::"], 0);
        assert!(
            matches!(&outcome, Outcome::Failed { reason, .. } if reason.contains("0.0.0.0")),
            "{outcome:?}"
        );
        let id = names.poll_lookup(at(1)).unwrap().id;
        let outcome = answer(&mut names, id, &["127.0.0.1"], 1);
        assert_eq!(outcome, Outcome::Endpoint { endpoint: address("127.0.0.1"), loopback: true });
    }

    #[test]
    fn an_answer_for_a_removed_or_renamed_peer_is_ignored() {
        let mut names = one_name();
        let id = names.poll_lookup(at(0)).unwrap().id;
        names.insert(PEER, "other.example", 51820, at(1));
        assert_eq!(names.handle_answer(id, Ok(Vec::new()), at(2)), None);
        assert_eq!(names.poll_lookup(at(2)).unwrap().host, "other.example");
        names.remove(&PEER);
        assert!(names.is_empty());
    }

    #[test]
    fn giving_the_same_name_again_keeps_what_is_known() {
        let mut names = known(&["192.0.2.1"]);
        names.insert(PEER, "vpn.example", 51820, at(5));
        assert_eq!(names.poll_lookup(at(5)), None);
    }

    #[test]
    fn a_lookup_that_is_never_answered_is_given_up_and_asked_again() {
        let mut names = one_name();
        let id = names.poll_lookup(at(0)).unwrap().id;
        let deadline = names.poll_timeout().unwrap();
        assert_eq!(deadline, at(120));
        names.handle_timeout(deadline);
        assert_eq!(names.poll_timeout(), Some(at(121)));
        assert_ne!(names.poll_lookup(at(121)).unwrap().id, id);
        assert_eq!(names.handle_answer(id, Ok(Vec::new()), at(122)), None);
    }

    #[test]
    fn lookups_under_way_are_bounded_and_the_rest_follow() {
        let mut names = EndpointNames::new();
        for n in 0..40 {
            names.insert(PublicKey::from_bytes([n; 32]), &format!("host{n}.example"), 1, at(0));
        }
        let mut waiting: Vec<_> = std::iter::from_fn(|| names.poll_lookup(at(0))).collect();
        assert_eq!(waiting.len(), MAX_LOOKUPS);
        assert_eq!(names.poll_timeout(), Some(at(120)));
        let mut answered = 0;
        while let Some(lookup) = waiting.pop() {
            answer(&mut names, lookup.id, &["192.0.2.1"], 1);
            answered += 1;
            waiting.extend(names.poll_lookup(at(1)));
        }
        assert_eq!(answered, 40);
    }

    fn one_name() -> EndpointNames {
        let mut names = EndpointNames::new();
        names.insert(PEER, "vpn.example", 51820, at(0));
        names
    }

    fn known(addresses: &[&str]) -> EndpointNames {
        let mut names = one_name();
        let id = names.poll_lookup(at(0)).unwrap().id;
        assert_eq!(answer(&mut names, id, addresses, 0), endpoint(addresses[0]));
        names
    }

    fn answer(names: &mut EndpointNames, id: u64, addresses: &[&str], secs: u64) -> Outcome {
        let resolved = |text: &&str| ResolvedAddress { address: address(text), routable: true };
        let answer = addresses.iter().map(resolved).collect();
        names.handle_answer(id, Ok(answer), at(secs)).unwrap().outcome
    }

    fn endpoint(text: &str) -> Outcome {
        Outcome::Endpoint { endpoint: address(text), loopback: false }
    }

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 51820)
    }

    fn at(secs: u64) -> BootTime {
        BootTime::from_nanos(secs * 1_000_000_000)
    }
}
