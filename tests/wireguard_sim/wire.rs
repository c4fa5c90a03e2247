//! What is given to the tunnels, what they put on the wire, and what becomes of it there.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use wg4netns::packet::batch::LocalAddress;

use super::{CALLED_WITHIN, Event, NOBODY, Packet, Situation, World, describe};
use crate::wireguard_node::{Datagram, packet_of, write_mac1};

/// The link's MTU.
const MTU: usize = 1420;

/// Datagrams that the attacker remembers, beside all initiations.
const CAPTURED: usize = 40;

/// What one datagram may grow to in a circle (WireGuard's own test allows as much).
const LOOP_BYTES: usize = 70_000;

/// Our side of a path, as the kernel tells it.
pub(super) fn local(address: SocketAddr) -> LocalAddress {
    LocalAddress { address: address.ip(), ifindex: u32::from(address.port()) }
}

impl World {
    pub(super) fn arrive(&mut self, at: usize, datagram: Datagram, intact: bool) {
        // The address was the node's when the datagram was sent; it may have moved since.
        if self.machines[at].asleep || !self.machines[at].addresses.contains(&datagram.to) {
            return;
        }
        self.tell(|| format!("node {at} receives {}", describe(&datagram)));
        if matches!(datagram.kind(), 1 | 2) && self.machines[at].spoofed && self.machines[at].node.queued != 0
        {
            self.spend_budget(at, &datagram);
        }
        let now = self.clock(at);
        let reached_at = local(datagram.to);
        self.machines[at].node.receive_at(&datagram, reached_at, now);
        if let Some(peer) = self.check_peers(at) {
            let link = &mut self.machines[at].links[peer];
            link.source = Some(reached_at);
            link.awaits_since = None;
        }
        self.collect(at, &datagram);
        if datagram.kind() == 1 {
            self.check_initiation(at, &datagram, intact);
        }
        let cookies = || self.machines[at].node.sent.iter().filter(|reply| reply.kind() == 3);
        let strayed = cookies().any(|cookie| cookie.source != Some(reached_at));
        let challenged = cookies().next().is_some();
        self.require(!strayed, || format!("W13: node {at} sends a cookie by another address"));
        // What was damaged on its way could be mended by the attacker, and would then be no replay; nor is one what was
        // not taken because of load.
        if intact && datagram.kind() == 1 {
            self.captured_calls.push((at, datagram));
        } else if intact && !challenged {
            if self.captured.len() == CAPTURED {
                self.captured.pop_front();
            }
            self.captured.push_back((at, datagram));
        }
        self.carry(at);
    }

    /// Somebody sends junk from the address that `datagram` comes from, as much as one address may under load.
    fn spend_budget(&mut self, at: usize, datagram: &Datagram) {
        let mut junk = datagram.clone();
        junk.bytes = vec![0; 148];
        junk.bytes[0] = 1;
        write_mac1(&mut junk.bytes, self.machines[at].node.public_key);
        let now = self.clock(at);
        for _ in 0..5 {
            self.machines[at].node.receive_at(&junk, local(junk.to), now);
        }
        let sent = self.machines[at].node.take_sent();
        self.require(sent.iter().all(|reply| reply.kind() == 3), || {
            format!("W1: an answer to junk: {sent:?}")
        });
    }

    pub(super) fn send(&mut self, from: usize, to: usize, count: u64) {
        // The next burst: sometimes soon, sometimes after a session's life.
        let pause = match self.random.below(8) {
            0 => self.random.below(250_000),
            1..=3 => self.random.below(20_000),
            _ => self.random.below(2_000),
        };
        let pause = if self.healed { 5_000 } else { pause };
        let count_then = 1 + self.random.below(4) * self.random.below(6);
        self.after(Duration::from_millis(pause), Event::Send { from, to, count: count_then });
        if self.machines[from].asleep {
            return;
        }
        if self.machines[from].low_order.is_some() && self.random.below(4) == 0 {
            self.send_to_low_order(from);
        }
        let has_session = self.machines[from].node.device.has_session(self.clock(from));
        // More than may wait.
        if !self.healed && !has_session && self.random.below(96) == 0 {
            for _ in 0..100 + self.random.below(100) {
                let len = self.random.below(64);
                self.give(from, to, len);
            }
        }
        for _ in 0..count {
            let len = self.random.below(1300);
            self.give(from, to, len);
        }
        if !self.machines[from].links[to].waiting.is_empty() {
            self.after(CALLED_WITHIN, Event::Called { node: from, peer: to, since: self.now });
        }
    }

    /// A program sends a packet with so many bytes behind its number.
    pub(super) fn give(&mut self, from: usize, to: usize, len: u64) {
        let len = usize::try_from(len).unwrap();
        self.stage(from, to, &vec![0; len]);
        let public_key = self.machines[to].node.public_key;
        let machine = &mut self.machines[from];
        // Without an endpoint the packet is refused, and nobody calls once there is one.
        if machine.node.device.data_plane().endpoint(&public_key).is_none() {
            machine.links[to].waiting.pop_back();
        }
        self.carry(from);
    }

    /// Gives a packet to a tunnel, which sends it or lets it wait.
    fn stage(&mut self, from: usize, to: usize, content: &[u8]) {
        let number = self.packets.len();
        let payload = [&(number as u64).to_be_bytes(), content].concat();
        let address = |node: usize| Ipv4Addr::new(10, 0, 0, u8::try_from(node + 1).unwrap()).into();
        let bytes = packet_of(253, address(from), address(to), 0, &payload);
        self.packets.push(Packet { from, to, sent: self.now, len: bytes.len(), delivered: false });
        self.machines[from].links[to].waiting.push_back(number);
        let now = self.clock(from);
        self.machines[from].node.send(&bytes, now);
    }

    /// Takes what a node wants sent and puts it on the wire.
    pub(super) fn carry(&mut self, node: usize) {
        let mut sent = self.machines[node].node.take_sent();
        if sent.is_empty() && self.machines[node].node.events.is_empty() {
            return self.check_waiting(node);
        }
        self.end_calls(node);
        let (causes, mut looped) = (sent.len(), 0);
        while !sent.is_empty() {
            // All of them were made before the kernel refuses the first.
            for datagram in &sent {
                self.check_sent(node, datagram);
            }
            for datagram in sent {
                if self.machines[node].looped {
                    looped += datagram.bytes.len();
                    self.send_in_circle(node, &datagram);
                } else {
                    self.transmit(node, datagram);
                }
            }
            self.require(looped <= causes * LOOP_BYTES, || {
                format!("W14: node {node} made {looped} bytes of {causes} datagrams that came back to it")
            });
            sent = self.machines[node].node.take_sent();
        }
        self.check_waiting(node);
        self.check_events(node);
    }

    /// The way to the peer leads into the tunnel to it: a datagram comes back as a packet, with its own headers, unless
    /// it is too long by now.
    fn send_in_circle(&mut self, node: usize, datagram: &Datagram) {
        let peer = self.owners.get(&datagram.to).copied().unwrap_or(NOBODY);
        if peer == NOBODY || datagram.kind() == 3 {
            return;
        }
        // An IPv4 header, and a number in the place of a UDP header.
        if 28 + datagram.bytes.len() <= MTU {
            self.stage(node, peer, &datagram.bytes);
        } else {
            self.saw(Situation::Looped);
        }
    }

    fn transmit(&mut self, node: usize, mut datagram: Datagram) {
        if let Some(source) = datagram.source {
            let own = self.machines[node].addresses.iter().find(|address| local(**address) == source);
            if let Some(address) = own {
                datagram.from = *address;
                self.seen[Situation::Sticky as usize] +=
                    u64::from(*address != self.machines[node].addresses[0]);
            } else {
                // The kernel refuses it. A driver tells the device, and sends by whatever address there is.
                self.machines[node].node.device.data_plane().forget_source(datagram.to);
                if let Some(peer) = self.owners.get(&datagram.to)
                    && let Some(link) = self.machines[node].links.get_mut(*peer)
                {
                    link.source = None;
                }
                self.saw(Situation::Vanished);
            }
        }
        let to = self.owners.get(&datagram.to).copied().unwrap_or(NOBODY);
        if to == NOBODY {
            return;
        }
        let copies = if self.now < self.cut_until || self.random.below(100) < self.loss {
            0
        } else {
            1 + u64::from(self.random.below(100) < self.duplicates)
        };
        self.tell(|| format!("node {node} sends {}, {copies} arrive", describe(&datagram)));
        for _ in 0..copies {
            let mut datagram = datagram.clone();
            let intact = self.random.below(100) >= self.damage;
            if !intact {
                let position = usize::try_from(self.random.below(datagram.bytes.len() as u64)).unwrap();
                datagram.bytes[position] ^= 1 << self.random.below(8);
            }
            let even = self.now < self.even_until;
            let spread = if even { Duration::ZERO } else { self.spread };
            let spread = self.random.below(1 + u64::try_from(spread.as_micros()).unwrap());
            let delay = self.delay + Duration::from_micros(spread);
            self.after(delay, Event::Arrive { at: to, datagram, intact });
        }
    }
}
