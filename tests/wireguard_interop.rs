//! Our device against boringtun's protocol engine, in both roles: an implementation that nobody here wrote.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use wg4netns::config::device::{AllowedIpChange, PeerUpdate};
use wg4netns::key::{PresharedKey, PublicKey};

use crate::wireguard_node::{Datagram, Node, Random, at, packet};

const PSK: [u8; 32] = [0x5c; 32];

/// Our node and their tunnel, on a perfect wire.
struct Mixed {
    ours: Node,
    theirs: Tunn,
    their_address: std::net::SocketAddr,
    /// Packets that came out at their end.
    delivered: Vec<Vec<u8>>,
}

impl Mixed {
    fn new(psk: Option<[u8; 32]>) -> Self {
        let mut ours = Node::new(1, "127.0.0.1:1001");
        let mut secret = [0; 32];
        wg4netns::crypto::Entropy::fill(&mut Random::new(77), &mut secret);
        let secret = x25519::StaticSecret::from(secret);
        let their_key = PublicKey::from_bytes(x25519::PublicKey::from(&secret).to_bytes());
        let our_key = x25519::PublicKey::from(*ours.public_key.as_bytes());
        let theirs = Tunn::new(secret, our_key, psk, None, 5, None);
        let their_address = "127.0.0.1:1002".parse().unwrap();
        let mut peer = PeerUpdate::new(their_key);
        peer.endpoint = Some(their_address);
        peer.preshared_key = Some(psk.map(PresharedKey::from_bytes));
        peer.allowed_ips = vec![AllowedIpChange::Add("10.0.0.2/32".parse().unwrap())];
        ours.update_peer(peer, at(0));
        Self { ours, theirs, their_address, delivered: Vec::new() }
    }

    /// What they do with a datagram or a packet, until they have nothing more to say.
    fn they(&mut self, input: Input<'_>) {
        let mut buffer = vec![0; 2000];
        let mut result = match input {
            Input::Packet(packet) => self.theirs.encapsulate(packet, &mut buffer),
            Input::Datagram(bytes) => {
                self.theirs.decapsulate(Some(self.ours.address.ip()), bytes, &mut buffer)
            }
        };
        let mut to_us = Vec::new();
        loop {
            match result {
                TunnResult::WriteToNetwork(bytes) => {
                    to_us.push(bytes.to_vec());
                    if matches!(input, Input::Packet(_)) {
                        break;
                    }
                }
                TunnResult::WriteToTunnelV4(bytes, _) | TunnResult::WriteToTunnelV6(bytes, _) => {
                    self.delivered.push(bytes.to_vec());
                    break;
                }
                TunnResult::Done => break,
                TunnResult::Err(error) => panic!("boringtun refuses: {error:?}"),
            }
            result = self.theirs.decapsulate(None, &[], &mut buffer);
        }
        for bytes in to_us {
            let (from, to) = (self.their_address, self.ours.address);
            self.ours.receive(&[Datagram { from, to, source: None, traffic_class: 0, bytes }], at(0));
        }
    }

    fn exchange(&mut self) {
        loop {
            let sent = self.ours.take_sent();
            if sent.is_empty() {
                break;
            }
            for datagram in sent {
                self.they(Input::Datagram(&datagram.bytes));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Input<'a> {
    Packet(&'a [u8]),
    Datagram(&'a [u8]),
}

fn there(len: usize) -> Vec<u8> {
    packet("10.0.0.1", "10.0.0.2", &vec![1; len])
}

fn back(len: usize) -> Vec<u8> {
    packet("10.0.0.2", "10.0.0.1", &vec![2; len])
}

#[test]
fn our_initiation_is_answered_and_packets_pass_both_ways() {
    for psk in [None, Some(PSK)] {
        let mut mixed = Mixed::new(psk);
        for len in [0, 1, 15, 16, 100, 1380] {
            mixed.ours.send(&there(len), at(0));
            mixed.exchange();
            // boringtun cuts padding off by the length in the IP header.
            assert_eq!(mixed.delivered.split_off(0), [there(len)]);
            mixed.they(Input::Packet(&back(len)));
            mixed.exchange();
            assert_eq!(mixed.ours.take_delivered(), [back(len)]);
        }
    }
}

#[test]
fn their_initiation_is_answered_and_packets_pass_both_ways() {
    for psk in [None, Some(PSK)] {
        let mut mixed = Mixed::new(psk);
        for len in [0, 1, 15, 16, 100, 1380] {
            mixed.they(Input::Packet(&back(len)));
            mixed.exchange();
            assert_eq!(mixed.ours.take_delivered(), [back(len)]);
            mixed.ours.send(&there(len), at(0));
            mixed.exchange();
            assert_eq!(mixed.delivered.split_off(0), [there(len)]);
        }
    }
}
