//! What goes wrong, what is changed, what the attacker does, and how it ends.

use std::ops::Range;
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::key::{PresharedKey, PrivateKey, PublicKey};
use wg4netns::wireguard::{DeviceEvent, MAX_QUEUED_HANDSHAKES};

use super::wire::local;
use super::{Event, LOW_ORDER_ENDPOINT, MIRROR_ENDPOINT, Situation, World, describe};
use crate::wireguard_node::packet;

/// Points of the curve and its twist whose product with any secret is zero.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    point(1, 0, 0),
    point(0xec, 0xff, 0x7f),
    point(0xed, 0xff, 0x7f),
    point(0xee, 0xff, 0x7f),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
];

const fn point(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

impl World {
    /// Something goes wrong.
    pub(super) fn trouble(&mut self) {
        if self.healed {
            return;
        }
        let pause = Duration::from_millis(self.random.below(90_000));
        self.after(pause, Event::Trouble);
        let node = usize::try_from(self.random.below(self.machines.len() as u64)).unwrap();
        let spoke = 1 + usize::try_from(self.random.below(self.machines.len() as u64 - 1)).unwrap();
        match self.random.below(15) {
            0 => {
                // Now and then for longer than keys are kept.
                let longest = if self.random.below(8) == 0 { 900_000 } else { 150_000 };
                let length = Duration::from_millis(500 + self.random.below(longest));
                self.tell(|| format!("node {node} sleeps for {length:?}"));
                self.machines[node].asleep = true;
                self.after(length, Event::Resume { node });
            }
            1 | 2 => {
                let address = self.new_address();
                self.tell(|| format!("node {node} moves to {address}"));
                self.owners.insert(address, node);
                self.machines[node].node.address = address;
                // It may keep the one it had: who is not told reaches it there, and must be answered from there.
                let kept = usize::try_from(self.random.below(2)).unwrap();
                self.machines[node].addresses.insert(0, address);
                self.machines[node].addresses.truncate(1 + kept);
                // Whoever cannot be found must be told, as a resolver would.
                for peer in self.peers_of(node) {
                    if node == 0 || self.random.below(2) == 0 {
                        let mut update = PeerUpdate::new(self.machines[node].node.public_key);
                        update.endpoint = Some(address);
                        self.update(peer, node, update);
                    }
                }
            }
            3 => {
                let offset = self.random.below(4_000_000_000);
                self.tell(|| format!("the wall clock of node {node} jumps"));
                self.machines[node].wall_offset = offset;
            }
            4 => {
                self.tell(|| format!("node {node} is under load"));
                self.machines[node].node.queued = MAX_QUEUED_HANDSHAKES / 8;
                self.machines[node].spoofed = self.random.below(2) == 0;
                let length = Duration::from_millis(self.random.below(30_000));
                let until = self.now + length + Duration::from_secs(1);
                self.machines[node].loaded_until = self.machines[node].loaded_until.max(until);
                self.after(length, Event::Calm { node });
            }
            5 => self.change_preshared_key(spoke),
            6 => self.change_private_key(node),
            7 => {
                let interval = u16::try_from(self.random.below(40)).unwrap();
                let peer = if node == 0 { spoke } else { 0 };
                let mut update = PeerUpdate::new(self.machines[peer].node.public_key);
                update.persistent_keepalive = Some(interval);
                self.update(node, peer, update);
            }
            8 => {
                let longest = if self.random.below(8) == 0 { 900_000 } else { 100_000 };
                let length = Duration::from_millis(self.random.below(longest));
                self.tell(|| format!("the wire is cut for {length:?}"));
                self.cut_until = self.cut_until.max(self.now + length);
            }
            9 => {
                let length = Duration::from_millis(self.random.below(60_000));
                self.after(length, Event::GiveKey { node });
                self.take_key(node);
            }
            10 if self.random.below(2) == 0 => self.hurry(node, if node == 0 { spoke } else { 0 }),
            11 => self.reload(node),
            12 if self.random.below(4) == 0 => {
                let length = Duration::from_millis(self.random.below(8_000));
                self.tell(|| format!("the way from node {node} leads in a circle for {length:?}"));
                self.machines[node].looped = true;
                self.after(length, Event::Unloop { node });
            }
            _ => {
                self.loss = if self.random.below(8) == 0 { 70 } else { self.random.below(31) };
                let loss = self.loss;
                self.tell(|| format!("loss is {loss} % now"));
            }
        }
    }

    pub(super) fn wake(&mut self, node: usize) {
        if std::mem::take(&mut self.machines[node].asleep) {
            self.machines[node].awake_since = self.now;
        }
    }

    pub(super) fn peers_of(&self, node: usize) -> Range<usize> {
        if node == 0 { 1..self.machines.len() } else { 0..1 }
    }

    /// Both ends change it, one some time after the other.
    fn change_preshared_key(&mut self, spoke: usize) {
        let byte = u8::try_from(self.random.below(255)).unwrap();
        let key = (byte != 0).then(|| PresharedKey::from_bytes([byte; 32]));
        self.tell(|| format!("the preshared key of node {spoke} changes"));
        for (node, peer) in [(0, spoke), (spoke, 0)] {
            let delay = Duration::from_millis(self.random.below(20_000));
            self.after(delay, Event::PresharedKey { node, peer, key: key.clone() });
        }
    }

    /// The node gets another identity, and its peers are told.
    fn change_private_key(&mut self, node: usize) {
        self.tell(|| format!("the private key of node {node} changes"));
        let mut secret = [0; 32];
        wg4netns::crypto::Entropy::fill(&mut self.random, &mut secret);
        let private_key = PrivateKey::from_bytes(secret);
        let before = self.machines[node].node.public_key;
        let public_key = private_key.public_key();
        self.machines[node].node.public_key = public_key;
        for peer in self.peers_of(node) {
            let status = self.machines[peer].node.peer_status(before, self.clock(peer));
            self.update(peer, node, PeerUpdate { remove: true, ..PeerUpdate::new(before) });
            let mut update = PeerUpdate::new(public_key);
            update.preshared_key = Some(status.preshared_key);
            update.endpoint = status.endpoint;
            update.allowed_ips = status.allowed_ips.into_iter().map(AllowedIpChange::Add).collect();
            update.persistent_keepalive = Some(status.persistent_keepalive);
            self.machines[node].links[peer].owes_since = None;
            self.update(peer, node, update);
        }
        let mut mirror = PeerUpdate::new(public_key);
        mirror.endpoint = Some(MIRROR_ENDPOINT);
        mirror.persistent_keepalive = Some(25);
        let mirrored = self.random.below(4) == 0;
        if mirrored {
            self.machines[node].mirrored = true;
            let now = self.clock(node);
            self.machines[node].node.update_peer(mirror.clone(), now);
            self.carry(node);
        }
        self.machines[node].taken_key = None;
        self.set_private_key(node, private_key);
        if mirrored {
            let told =
                self.machines[node].node.events.contains(&DeviceEvent::PeerRemoved { peer: public_key });
            self.machines[node].mirrored = false;
            let now = self.clock(node);
            self.machines[node].node.update_peer(mirror, now);
            let peers = self.machines[node].node.status(now).peers;
            let gone = told && peers.iter().all(|peer| peer.public_key != public_key);
            self.require(gone, || format!("W11: node {node} has itself as a peer"));
            self.saw(Situation::Mirrored);
        }
        self.carry(node);
    }

    /// W11: whoever had a session, or has packets that wait, calls at once.
    fn set_private_key(&mut self, node: usize, private_key: PrivateKey) {
        let now = self.clock(node);
        let has_session = self.machines[node].node.device.has_session(now);
        for link in &mut self.machines[node].links {
            link.last_initiation = None;
            link.calls_since = None;
            link.changed = true;
        }
        let update = DeviceUpdate { private_key: Some(Some(private_key)), ..DeviceUpdate::default() };
        self.machines[node].node.update(update, now);
        let peers = self.peers_of(node);
        // Of several peers nobody tells which one has the session.
        let has_session = has_session && peers.len() == 1;
        for peer in peers {
            let machine = &self.machines[node];
            let public_key = self.machines[peer].node.public_key;
            let endpoint = machine.node.device.data_plane().endpoint(&public_key);
            let wanted = has_session || !machine.links[peer].waiting.is_empty();
            let calls = machine.node.sent.iter().any(|d| d.kind() == 1 && Some(d.to) == endpoint);
            self.require(calls || !wanted || endpoint.is_none(), || {
                format!("W11: node {node} has a new key and does not call node {peer}")
            });
            let situation = if has_session { Situation::KeyChanged } else { Situation::KeyGivenBack };
            self.seen[situation as usize] += u64::from(wanted);
        }
    }

    /// The node has no private key any more.
    pub(super) fn take_key(&mut self, node: usize) {
        if self.healed || self.machines[node].taken_key.is_some() {
            return;
        }
        self.tell(|| format!("node {node} has no private key"));
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        machine.taken_key = machine.node.status(now).private_key;
        let update = DeviceUpdate { private_key: Some(None), ..DeviceUpdate::default() };
        machine.node.update(update, now);
        // Nothing can be answered any more.
        machine.links.iter_mut().for_each(|link| link.owes_since = None);
        self.saw(Situation::KeyTaken);
        self.carry(node);
    }

    /// And has it again, unless it was given another meanwhile.
    pub(super) fn give_key(&mut self, node: usize) {
        let Some(private_key) = self.machines[node].taken_key.take() else { return };
        self.tell(|| format!("node {node} has its private key again"));
        self.machines[node].awake_since = self.now;
        self.set_private_key(node, private_key);
        self.carry(node);
    }

    /// Makes `node` call `peer` twice, about as fast as it may.
    fn hurry(&mut self, node: usize, peer: usize) {
        if self.machines[node].asleep || self.machines[node].taken_key.is_some() {
            return;
        }
        let pause = Duration::from_millis(2 + self.random.below(28));
        self.even_until = self.now + Duration::from_millis(2) + pause;
        self.take_key(node);
        self.give(node, peer, 1);
        self.after(Duration::from_millis(1), Event::GiveKey { node });
        self.after(Duration::from_millis(2), Event::TakeKey { node });
        self.after(Duration::from_millis(1) + pause, Event::GiveKey { node });
    }

    /// The whole configuration is given again, as from a file: with the same peers, who may have more addresses now.
    fn reload(&mut self, node: usize) {
        self.tell(|| format!("node {node} is configured anew"));
        let now = self.clock(node);
        let mut update = DeviceUpdate { replace_peers: true, ..DeviceUpdate::default() };
        let before = self.machines[node].node.status(now).peers;
        let third = self.random.below(256);
        for (index, status) in before.iter().enumerate() {
            let mut peer = PeerUpdate::new(status.public_key);
            peer.preshared_key = Some(status.preshared_key.clone());
            peer.endpoint = status.endpoint;
            peer.persistent_keepalive = Some(status.persistent_keepalive);
            peer.allowed_ips = status.allowed_ips.iter().copied().map(AllowedIpChange::Add).collect();
            let more = format!("10.{}.{third}.0/24", 100 + index).parse().unwrap();
            peer.allowed_ips.push(AllowedIpChange::Add(more));
            update.peers.push(peer);
        }
        self.machines[node].node.update(update, now);
        // A peer without a session is made anew.
        let after = self.machines[node].node.status(now).peers;
        for peer in self.peers_of(node) {
            let public_key = self.machines[peer].node.public_key;
            let status = after.iter().find(|status| status.public_key == public_key).unwrap();
            let sent = self.machines[node].node.sent.iter().filter(|d| Some(d.to) == status.endpoint);
            let sent: usize = sent.map(|datagram| datagram.bytes.len()).sum();
            let link = &mut self.machines[node].links[peer];
            if link.bytes_sent == 0 || status.tx_bytes != link.bytes_sent + sent as u64 {
                self.forget(node, peer);
            } else {
                (link.last_initiation, link.source, link.changed) = (None, None, true);
            }
        }
        let machine = &mut self.machines[node];
        if let Some(waiting) = &mut machine.low_order {
            machine.unsent += std::mem::take(waiting) as u64;
        }
        self.carry(node);
    }

    /// Gives the node a peer that no handshake is possible with.
    pub(super) fn introduce_low_order(&mut self, node: usize) {
        let point = usize::try_from(self.random.below(LOW_ORDER.len() as u64)).unwrap();
        let mut update = PeerUpdate::new(PublicKey::from_bytes(LOW_ORDER[point]));
        update.endpoint = Some(LOW_ORDER_ENDPOINT);
        update.allowed_ips = vec![AllowedIpChange::Add("10.12.0.0/16".parse().unwrap())];
        update.persistent_keepalive = Some(25 * u16::try_from(self.random.below(3)).unwrap());
        self.machines[node].low_order = Some(0);
        let now = self.clock(node);
        self.machines[node].node.update_peer(update, now);
        self.carry(node);
    }

    /// It waits for ever, for nothing may be sent.
    pub(super) fn send_to_low_order(&mut self, node: usize) {
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        machine.node.send(&packet("10.0.0.1", "10.12.0.1", b"nobody"), now);
        let Some(waiting) = &mut machine.low_order else { return };
        if *waiting == 128 {
            machine.unsent += 1;
        } else {
            *waiting += 1;
        }
        self.saw(Situation::LowOrder);
        self.carry(node);
    }

    /// Somebody on the way repeats or damages what has already arrived.
    pub(super) fn attack(&mut self) {
        if self.healed {
            return;
        }
        let pause = Duration::from_millis(self.random.below(20_000));
        self.after(pause, Event::Attack);
        // Now and then something that is long past.
        let old = self.random.below(4) == 0;
        let captured = if old { self.captured_calls.len() } else { self.captured.len() };
        if captured == 0 {
            return;
        }
        let choice = usize::try_from(self.random.below(captured as u64)).unwrap();
        let (node, mut datagram) =
            if old { self.captured_calls[choice].clone() } else { self.captured[choice].clone() };
        if self.machines[node].asleep {
            return;
        }
        let damaged = self.random.below(2) == 0;
        if old && !damaged {
            let (is_stale, changed) = self.is_stale(node, &datagram);
            if !is_stale {
                return;
            }
            self.seen[Situation::ReplayedAfterChange as usize] += u64::from(changed);
        }
        datagram.from = "198.51.100.66:666".parse().unwrap();
        if damaged {
            // Behind the indices: those of a handshake message are protected by MAC1 alone.
            let len = datagram.bytes.len().min(116) as u64 - 12;
            let position = 12 + usize::try_from(self.random.below(len)).unwrap();
            datagram.bytes[position] ^= 1 << self.random.below(8);
        }
        self.tell(|| format!("the attacker sends node {node} {}", describe(&datagram)));
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        let may_be_loaded = self.now < machine.loaded_until;
        machine.node.receive_at(&datagram, local(datagram.to), now);
        let (sent, delivered) = (machine.node.take_sent(), machine.node.take_delivered());
        self.require(delivered.is_empty(), || "W3: a replayed or damaged packet was delivered".to_owned());
        let silent = sent.is_empty() || !damaged && sent.iter().all(|reply| reply.kind() == 3);
        self.require(silent, || {
            let promise = if old && !damaged { "W4: an initiation of before is answered" } else { "W1" };
            format!("{promise}: an answer to the attacker: {sent:?}")
        });
        self.require(sent.is_empty() || may_be_loaded, || "W2: a cookie without load".to_owned());
        let authentic = self.check_peers(node);
        self.require(authentic.is_none(), || "W3: a replayed or damaged datagram was counted".to_owned());
    }

    pub(super) fn heal(&mut self) {
        self.tell(|| "the trouble is over".to_owned());
        self.healed = true;
        (self.loss, self.duplicates, self.damage) = (0, 0, 0);
        self.cut_until = Duration::ZERO;
        (self.delay, self.spread) = (Duration::from_millis(20), Duration::ZERO);
        for node in 0..self.machines.len() {
            self.wake(node);
            self.give_key(node);
            self.machines[node].looped = false;
            self.machines[node].node.queued = 0;
        }
        self.events.retain(|_, event| !matches!(event, Event::Send { .. } | Event::PresharedKey { .. }));
        for spoke in 1..self.machines.len() {
            self.after(Duration::from_millis(100), Event::Send { from: spoke, to: 0, count: 1 });
            self.after(Duration::from_millis(200), Event::Send { from: 0, to: spoke, count: 1 });
            // For half of them nobody comes to put things right: the tunnel must find its way back by itself.
            if self.random.below(2) == 0 && self.can_recover_alone(spoke) {
                self.tell(|| format!("nobody helps node {spoke}"));
                continue;
            }
            let key = Some(PresharedKey::from_bytes([7; 32]));
            for (node, peer) in [(0, spoke), (spoke, 0)] {
                self.after(Duration::ZERO, Event::PresharedKey { node, peer, key: key.clone() });
            }
            let mut update = PeerUpdate::new(self.machines[0].node.public_key);
            update.endpoint = Some(self.machines[0].node.address);
            self.update(spoke, 0, update);
        }
    }

    /// Both ends have the same preshared key, and the spoke knows where the hub is.
    fn can_recover_alone(&self, spoke: usize) -> bool {
        let status = |node: usize, peer: usize| {
            let key = self.machines[peer].node.public_key;
            self.machines[node].node.peer_status(key, self.clock(node))
        };
        let (ours, theirs) = (status(spoke, 0), status(0, spoke));
        let is_found = ours.endpoint.is_some_and(|endpoint| self.machines[0].addresses.contains(&endpoint));
        is_found && ours.preshared_key == theirs.preshared_key
    }
}
