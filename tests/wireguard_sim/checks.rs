//! What must hold: the promises, at everything that a node takes or sends, and what is left at the end.

use std::time::Duration;

use wg4netns::wireguard::{DeviceEvent, DropReason};

use super::{
    CALLED_WITHIN, Call, LOW_ORDER_ENDPOINT, MIRROR_ENDPOINT, NOBODY, RECOVERED_AFTER, RECOVERY,
    SESSION_LIFE, Situation, TROUBLE, World,
};
use crate::wireguard_node::Datagram;

/// Initiations of one peer that come faster are dropped.
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Packets that may wait for a session.
const MAX_STAGED: usize = 128;

/// After so long without a response, or without anything after data, a node may send by another address.
const NO_RESPONSE: Duration = Duration::from_secs(5);
const NO_REPLY: Duration = Duration::from_secs(15);

fn word(datagram: &Datagram, at: usize) -> u32 {
    u32::from_le_bytes(datagram.bytes[at..at + 4].try_into().unwrap())
}

fn counter(datagram: &Datagram) -> u64 {
    u64::from_le_bytes(datagram.bytes[8..16].try_into().unwrap())
}

/// By which the world knows an initiation: the start of its ephemeral key.
fn call_id(datagram: &Datagram) -> [u8; 8] {
    datagram.bytes[8..16].try_into().unwrap()
}

impl World {
    /// On everything that leaves a node.
    pub(super) fn check_sent(&mut self, node: usize, datagram: &Datagram) {
        let kind = datagram.kind();
        let machine = &self.machines[node];
        self.require(machine.taken_key.is_none(), || format!("W11: node {node} speaks without a key"));
        self.require(datagram.to != LOW_ORDER_ENDPOINT, || format!("W12: node {node}: {datagram:?}"));
        let Some(&peer) = self.owners.get(&datagram.to) else {
            return self.require(kind == 3, || format!("W5: sent to the attacker: {datagram:?}"));
        };
        if peer == NOBODY {
            let other = datagram.to != MIRROR_ENDPOINT || machine.mirrored;
            return self.require(other, || format!("W11: node {node} calls itself"));
        }
        if kind == 3 {
            let may_be_loaded = self.now < machine.loaded_until;
            self.require(may_be_loaded, || format!("W2: node {node} demands a cookie without load"));
            self.require(datagram.bytes.len() == 64, || "a cookie reply has 64 bytes".to_owned());
            return self.saw(Situation::Challenged);
        }
        self.check_source(node, peer, datagram);
        let now = self.now;
        let link = &mut self.machines[node].links[peer];
        link.bytes_sent += datagram.bytes.len() as u64;
        link.owes_since = None;
        link.last_sent = Some(now);
        match kind {
            1 => {
                link.initiations += 1;
                let number = link.initiations;
                link.calls_since.get_or_insert(now);
                let before = link.last_initiation.replace(now);
                let soon = before.is_some_and(|before| now < before + NO_RESPONSE);
                self.require(!soon, || format!("node {node}: two initiations within 5 s"));
                let keys = (self.machines[node].node.public_key, self.machines[peer].node.public_key);
                self.calls.insert(call_id(datagram), Call { from: node, to: peer, number, keys });
            }
            2 => {
                self.answered.insert((node, word(datagram, 4)), now);
                self.answered.insert((peer, word(datagram, 8)), now);
            }
            4 => self.check_data(node, peer, datagram),
            _ => self.require(false, || format!("message type {kind}")),
        }
    }

    /// W7, W8, W9.
    fn check_data(&mut self, node: usize, peer: usize, datagram: &Datagram) {
        let now = self.now;
        let index = word(datagram, 4);
        let born = self.answered.get(&(peer, index)).copied();
        let young = born.is_some_and(|born| now < born + SESSION_LIFE);
        self.require(young, || format!("W7: node {node} sends under a session of {born:?}"));
        let len = datagram.bytes.len() - 32;
        let mut packet = None;
        if len != 0 {
            let link = &mut self.machines[node].links[peer];
            link.awaits_since.get_or_insert(now);
            packet = link.waiting.pop_front();
            let wanted = packet.map(|number| self.packets[number].len.next_multiple_of(16).min(1420));
            let waited = packet.is_some_and(|number| self.packets[number].sent < now);
            self.seen[Situation::LeftAfterHandshake as usize] += u64::from(waited);
            self.require(wanted == Some(len), || {
                format!("W8, W9: node {node} sends {len} bytes; next is packet {packet:?}, {wanted:?} bytes")
            });
        }
        let before = self.messages.insert((peer, index, counter(datagram)), packet);
        self.require(before.is_none(), || format!("node {node}: a nonce twice"));
    }

    /// W13: what goes to a peer leaves by the address that the peer was last heard at.
    fn check_source(&mut self, node: usize, peer: usize, datagram: &Datagram) {
        let now = self.now;
        let link = &self.machines[node].links[peer];
        let unanswered = link.calls_since.is_some_and(|since| now >= since + NO_RESPONSE);
        let unheard = link.awaits_since.is_some_and(|since| now >= since + NO_REPLY);
        let rechosen = datagram.source.is_none() && link.source.is_some();
        let (wanted, found) = (link.source, datagram.source);
        self.require(found == wanted || rechosen && (unanswered || unheard), || {
            format!("W13: node {node} sends by {found:?} what should leave by {wanted:?}")
        });
        let again = self.in_timer && datagram.kind() == 1 && unanswered;
        self.require(!again || found.is_none(), || {
            format!("W13: node {node} calls again by {found:?}, though nobody has answered")
        });
        if rechosen {
            self.saw(Situation::Rechosen);
            self.machines[node].links[peer].source = None;
        }
    }

    /// W4, after an initiation has arrived: whether a response left is the model's to say.
    pub(super) fn check_initiation(&mut self, at: usize, datagram: &Datagram, intact: bool) {
        let Some(&Call { from, to, number, keys }) = self.calls.get(&call_id(datagram)) else { return };
        let now = self.now;
        let machine = &self.machines[at];
        let answered = machine.node.sent.iter().any(|reply| reply.kind() == 2);
        let valid = to == at && keys == (self.machines[from].node.public_key, machine.node.public_key);
        let link = &machine.links[from];
        let fresh = valid && number > link.answered;
        let soon = link.answered_at.is_some_and(|before| now < before + INITIATION_INTERVAL);
        self.require(!answered || fresh && !soon, || {
            format!(
                "W4: node {at} answers initiation {number}, after {} at {:?}",
                link.answered, link.answered_at
            )
        });
        let able = machine.taken_key.is_none() && now >= machine.loaded_until;
        self.require(answered || !(intact && fresh && !soon && able), || {
            let drops = machine.node.device.data_plane().drops();
            format!("W4: node {at} does not answer initiation {number}, after {}: {drops:?}", link.answered)
        });
        self.seen[Situation::TooFrequent as usize] += u64::from(intact && fresh && soon && able);
        if answered {
            let link = &mut self.machines[at].links[from];
            (link.answered, link.answered_at, link.changed) = (number, Some(now), false);
        }
    }

    /// Whether an initiation that the attacker has may not be answered any more, and whether that is only because its
    /// time has passed.
    pub(super) fn is_stale(&self, at: usize, datagram: &Datagram) -> (bool, bool) {
        let Some(call) = self.calls.get(&call_id(datagram)) else { return (false, false) };
        let machine = &self.machines[at];
        let valid = call.keys == (self.machines[call.from].node.public_key, machine.node.public_key);
        let link = &machine.links[call.from];
        (!valid || call.number <= link.answered, valid && link.changed)
    }

    /// W8: of what waits, the newest 128 stay.
    pub(super) fn check_waiting(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        for link in &mut machine.links {
            while link.waiting.len() > MAX_STAGED {
                link.waiting.pop_front();
                machine.unsent += 1;
                self.seen[Situation::Overflowed as usize] += 1;
            }
        }
    }

    /// W8: as many were dropped as the model has dropped.
    fn check_unsent(&self, node: usize) {
        let machine = &self.machines[node];
        let (found, wanted) = (machine.node.drops(DropReason::Unsent), machine.unsent);
        self.require(found == wanted, || {
            format!("W8: node {node} has dropped {found} packets, not {wanted}")
        });
    }

    /// Calls that were given up, and what waited for them; to be counted before what was sent then, which can be the next
    /// call, and can come back as a packet.
    pub(super) fn end_calls(&mut self, node: usize) {
        for peer in self.peers_of(node) {
            let gave_up = DeviceEvent::HandshakeGaveUp { peer: self.machines[peer].node.public_key };
            let machine = &mut self.machines[node];
            if machine.node.events.contains(&gave_up) {
                let link = &mut machine.links[peer];
                link.calls_since = None;
                let dropped = std::mem::take(&mut link.waiting).len() as u64;
                machine.unsent += dropped;
                self.seen[Situation::GivenUp as usize] += dropped;
            }
        }
    }

    pub(super) fn check_events(&mut self, node: usize) {
        for event in std::mem::take(&mut self.machines[node].node.events) {
            self.tell(|| format!("node {node}: {event:?}"));
            match event {
                DeviceEvent::HandshakesFailing { attempts, .. } => {
                    self.require(attempts < 18, || "more than 18 attempts".to_owned());
                }
                DeviceEvent::SessionEstablished { peer, .. } => {
                    let Some(peer) = self.peers_of(node).find(|p| self.machines[*p].node.public_key == peer)
                    else {
                        continue;
                    };
                    let link = &mut self.machines[node].links[peer];
                    link.calls_since = None;
                    let left = link.waiting.len();
                    self.require(left == 0, || {
                        format!("W8: {left} packets wait for node {peer} though there is a session")
                    });
                }
                DeviceEvent::HandshakeGaveUp { .. } => self.check_unsent(node),
                DeviceEvent::Roamed { .. }
                | DeviceEvent::StaleTimestamp { .. }
                | DeviceEvent::PeerRemoved { .. } => {}
            }
        }
    }

    /// W3, W6, W7, W8, on everything that comes out of a tunnel.
    pub(super) fn collect(&mut self, node: usize, datagram: &Datagram) {
        for bytes in self.machines[node].node.take_delivered() {
            let number = usize::try_from(u64::from_be_bytes(bytes[20..28].try_into().unwrap())).unwrap();
            let index = word(datagram, 4);
            let known = self.messages.get(&(node, index, counter(datagram))).copied().flatten();
            self.require(known == Some(number), || {
                format!("W8: packet {number} came to node {node} where {known:?} was due")
            });
            let packet = &self.packets[number];
            let (from, len, again) = (packet.from, packet.len, packet.delivered);
            self.require(!again, || format!("W3: packet {number} was delivered twice"));
            self.require(packet.to == node, || format!("W6: packet {number} came to node {node}"));
            self.require(bytes.len() == len && bytes[15] == u8::try_from(from + 1).unwrap(), || {
                format!("packet {number} has changed on its way")
            });
            let born = self.answered.get(&(node, index)).copied();
            self.require(born.is_some_and(|born| self.now < born + SESSION_LIFE), || {
                format!("W7: packet {number} was taken under a session of {born:?}")
            });
            self.packets[number].delivered = true;
            self.machines[node].links[from].owes_since.get_or_insert(self.now);
            self.tell(|| format!("node {node} delivers packet {number}"));
        }
    }

    /// W5 and W10, after something has arrived; and whose it was, if it was authentic.
    pub(super) fn check_peers(&mut self, node: usize) -> Option<usize> {
        let mut authentic = None;
        for status in self.machines[node].node.status(self.clock(node)).peers {
            let known = status.endpoint.is_none_or(|endpoint| self.owners.contains_key(&endpoint));
            self.require(known, || format!("W5: node {node} follows the attacker to {:?}", status.endpoint));
            let peer = self.peers_of(node).find(|p| self.machines[*p].node.public_key == status.public_key);
            let Some(peer) = peer else { continue };
            let (tx_bytes, counted) = (status.tx_bytes, self.machines[node].links[peer].bytes_sent);
            self.require(tx_bytes >= counted, || {
                format!("W10: node {node} counts {tx_bytes} of {counted} bytes")
            });
            let before = &mut self.machines[node].links[peer].rx_bytes;
            if std::mem::replace(before, status.rx_bytes) != status.rx_bytes {
                authentic = Some(peer);
            }
        }
        authentic
    }

    /// Data is answered within ten seconds, by a keepalive if by nothing else.
    pub(super) fn check_debts(&self, node: usize) {
        for peer in self.peers_of(node) {
            let Some(since) = self.machines[node].links[peer].owes_since else { continue };
            let late = self.now > since + Duration::from_millis(10_001);
            self.require(!late || self.may_owe(node, peer), || {
                format!("node {node} owes node {peer} an answer since {since:?}")
            });
        }
    }

    /// Whoever has packets to send and no session goes on calling.
    pub(super) fn check_called(&self, node: usize, peer: usize, since: Duration) {
        let machine = &self.machines[node];
        let link = &machine.links[peer];
        let excused = machine.asleep || machine.taken_key.is_some();
        if excused || machine.awake_since > since || link.remade > since {
            return;
        }
        let called = link.last_sent.is_some_and(|sent| sent + CALLED_WITHIN >= since);
        self.require(called, || {
            format!("node {node} has a packet for node {peer} since {since:?} and does not call")
        });
    }

    /// A node without a session can answer by no more than an initiation, which may have to wait.
    fn may_owe(&self, node: usize, peer: usize) -> bool {
        let public_key = self.machines[peer].node.public_key;
        let status = self.machines[node].node.peer_status(public_key, self.clock(node));
        // With this peer: a hub has others. It is as old as the handshake, and as that took; the last 5 s are for receiving.
        let ended = status.last_handshake_age.is_none_or(|age| age + Duration::from_secs(11) >= SESSION_LIFE);
        let has_session = self.machines[node].node.device.has_session(self.clock(node));
        status.trouble.waiting.is_some() || ended || !has_session
    }

    pub(super) fn check_recovered(&self) {
        let recovered = TROUBLE + RECOVERED_AFTER;
        let arrived = TROUBLE + RECOVERY - Duration::from_secs(1);
        let late = self.packets.iter().filter(|packet| packet.sent > recovered && packet.sent < arrived);
        let (mut sent, mut lost) = (0, 0);
        for packet in late {
            sent += 1;
            lost += u64::from(!packet.delivered);
        }
        self.require(sent > 20 && lost == 0, || format!("{lost} of {sent} packets lost after the trouble"));
        for (node, machine) in self.machines.iter().enumerate() {
            let now = self.clock(node);
            // When two handshakes cross, each end can come to send under the one that it answered, and then nobody renews
            // it by its age: it ends, and the next packet calls. (The kernel module's does the same.)
            let has_session = machine.node.device.has_session(now);
            let waits = machine.links.iter().any(|link| !link.waiting.is_empty());
            self.require(has_session || !waits, || format!("node {node} has packets and no session"));
            self.check_unsent(node);
            for peer in self.peers_of(node) {
                let status = machine.node.peer_status(self.machines[peer].node.public_key, now);
                let sent = machine.links[peer].bytes_sent;
                self.require(status.tx_bytes == sent, || {
                    format!("W10: node {node} counts {} bytes to node {peer}, not {sent}", status.tx_bytes)
                });
            }
        }
    }
}
