//! Cryptokey routing: the longest prefix that holds an address names the peer. (core: no IO, no clock)
//!
//! # Theory of operation
//! A binary trie with compressed paths, its nodes in one vector, so that a snapshot is one `memcpy`. IPv4 addresses lie
//! in the upper 32 bits of the same 128-bit keys; each family has its own root. A node without a peer always has two
//! children; removal keeps that so.

use std::net::IpAddr;

use ipnet::IpNet;

/// No node, no peer.
const NONE: u32 = u32::MAX;

#[derive(Clone)]
struct Node {
    /// The prefix's bits, the rest zero.
    bits: u128,
    /// By the next bit after the prefix.
    children: [u32; 2],
    peer: u32,
    len: u8,
}

/// Prefixes to peers, by longest match.
#[derive(Clone)]
pub(super) struct AllowedIps {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// IPv4, IPv6.
    roots: [u32; 2],
}

impl Default for AllowedIps {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), roots: [NONE; 2] }
    }
}

/// Where a node's number is written: a family's root, or a child of a node.
#[derive(Clone, Copy)]
enum Link {
    Root(usize),
    Child(u32, usize),
}

impl AllowedIps {
    /// The peer whose prefix holds `address` and is the longest.
    pub(super) fn lookup(&self, address: IpAddr) -> Option<u32> {
        let (family, bits) = key(address);
        let mut found = None;
        let mut at = self.roots[family];
        while let Some(node) = self.nodes.get(at as usize) {
            if !holds(node.bits, node.len, bits) {
                break;
            }
            if node.peer != NONE {
                found = Some(node.peer);
            }
            if node.len == 128 {
                break;
            }
            at = node.children[bit(bits, node.len)];
        }
        found
    }

    /// Gives `prefix` to `peer`; the peer that had it before loses it and is returned.
    pub(super) fn insert(&mut self, prefix: IpNet, peer: u32) -> Option<u32> {
        let (family, bits, len) = prefix_key(prefix);
        let mut link = Link::Root(family);
        loop {
            let at = self.follow(link);
            if at == NONE {
                let leaf = self.allocate(Node { bits, children: [NONE; 2], peer, len });
                self.set(link, leaf);
                return None;
            }
            let node = &mut self.nodes[at as usize];
            if node.len == len && node.bits == bits {
                let before = std::mem::replace(&mut node.peer, peer);
                return (before != NONE).then_some(before);
            }
            if node.len < len && holds(node.bits, node.len, bits) {
                link = Link::Child(at, bit(bits, node.len));
                continue;
            }
            // The node belongs below, or beside, the new prefix.
            let (node_bits, node_len) = (node.bits, node.len);
            let common = len.min(node_len).min(common_len(bits, node_bits));
            let fork = if common == len {
                let mut children = [NONE; 2];
                children[bit(node_bits, len)] = at;
                self.allocate(Node { bits, children, peer, len })
            } else {
                let leaf = self.allocate(Node { bits, children: [NONE; 2], peer, len });
                let mut children = [at; 2];
                children[bit(bits, common)] = leaf;
                self.allocate(Node { bits: mask(bits, common), children, peer: NONE, len: common })
            };
            self.set(link, fork);
            return None;
        }
    }

    /// Takes `prefix` from `peer`; false if it did not have it.
    pub(super) fn remove(&mut self, prefix: IpNet, peer: u32) -> bool {
        let (family, bits, len) = prefix_key(prefix);
        let mut parent = None;
        let mut link = Link::Root(family);
        loop {
            let at = self.follow(link);
            let Some(node) = self.nodes.get(at as usize) else { return false };
            if !holds(node.bits, node.len, bits) || node.len > len {
                return false;
            }
            if node.len < len {
                parent = Some(link);
                link = Link::Child(at, bit(bits, node.len));
                continue;
            }
            if node.peer != peer {
                return false;
            }
            self.nodes[at as usize].peer = NONE;
            self.collapse(link);
            // A fork that lost one of its two children is no fork any more.
            if let Some(parent) = parent
                && self.nodes[self.follow(parent) as usize].peer == NONE
            {
                self.collapse(parent);
            }
            return true;
        }
    }

    /// Replaces a node without a peer by its only child, or by nothing.
    fn collapse(&mut self, link: Link) {
        let at = self.follow(link);
        let replacement = match self.nodes[at as usize].children {
            [NONE, NONE] => NONE,
            [NONE, only] | [only, NONE] => only,
            [_, _] => return,
        };
        self.set(link, replacement);
        self.free.push(at);
    }

    fn follow(&self, link: Link) -> u32 {
        match link {
            Link::Root(family) => self.roots[family],
            Link::Child(node, side) => self.nodes[node as usize].children[side],
        }
    }

    fn set(&mut self, link: Link, to: u32) {
        match link {
            Link::Root(family) => self.roots[family] = to,
            Link::Child(node, side) => self.nodes[node as usize].children[side] = to,
        }
    }

    fn allocate(&mut self, node: Node) -> u32 {
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        let at = u32::try_from(self.nodes.len()).expect("memory ends before four thousand million prefixes");
        self.nodes.push(node);
        at
    }
}

fn key(address: IpAddr) -> (usize, u128) {
    match address {
        IpAddr::V4(address) => (0, u128::from(address.to_bits()) << 96),
        IpAddr::V6(address) => (1, address.to_bits()),
    }
}

fn prefix_key(prefix: IpNet) -> (usize, u128, u8) {
    let (family, bits) = key(prefix.addr());
    (family, mask(bits, prefix.prefix_len()), prefix.prefix_len())
}

const fn mask(bits: u128, len: u8) -> u128 {
    match len {
        0 => 0,
        len => bits & (u128::MAX << (128 - len)),
    }
}

const fn holds(prefix: u128, len: u8, bits: u128) -> bool {
    mask(bits ^ prefix, len) == 0
}

/// The bit after a prefix of `len` bits.
fn bit(bits: u128, len: u8) -> usize {
    usize::from(bits << len >> 127 != 0)
}

fn common_len(left: u128, right: u128) -> u8 {
    u8::try_from((left ^ right).leading_zeros()).expect("at most 128")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = AllowedIps::default();
        for (prefix, peer) in
            [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("10.1.2.3/32", 4), ("::/0", 5)]
        {
            assert_eq!(table.insert(net(prefix), peer), None);
        }
        for (address, peer) in
            [("1.2.3.4", 1), ("10.9.9.9", 2), ("10.1.9.9", 3), ("10.1.2.3", 4), ("2001:db8::1", 5)]
        {
            assert_eq!(table.lookup(ip(address)), Some(peer), "{address}");
        }
    }

    #[test]
    fn the_families_do_not_mix() {
        let mut table = AllowedIps::default();
        table.insert(net("0.0.0.0/0"), 1);
        assert_eq!(table.lookup(ip("::1")), None);
        assert_eq!(table.lookup(ip("::ffff:1.2.3.4")), None);
    }

    #[test]
    fn a_prefix_moves_to_the_peer_that_asks_last() {
        let mut table = AllowedIps::default();
        table.insert(net("10.0.0.0/8"), 1);
        assert_eq!(table.insert(net("10.0.0.0/8"), 2), Some(1));
        assert!(!table.remove(net("10.0.0.0/8"), 1));
        assert_eq!(table.lookup(ip("10.0.0.1")), Some(2));
    }

    /// Against a sorted map of prefixes, with the table's shape checked after each step.
    #[test]
    fn it_agrees_with_a_list_of_prefixes() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut table = AllowedIps::default();
        let mut list: BTreeMap<IpNet, u32> = BTreeMap::new();
        for step in 0..20_000 {
            let prefix = if next(2) == 0 {
                let bits = u32::try_from(next(1 << 32)).unwrap() & 0xf0f0_00ff;
                IpNet::new(IpAddr::V4(bits.into()), u8::try_from(next(33)).unwrap()).unwrap().trunc()
            } else {
                let bits = u128::from(next(64)) << 122 | u128::from(next(64));
                IpNet::new(IpAddr::V6(bits.into()), u8::try_from(next(129)).unwrap()).unwrap().trunc()
            };
            let peer = u32::try_from(next(4)).unwrap();
            if next(3) == 0 {
                let had = list.get(&prefix) == Some(&peer);
                assert_eq!(table.remove(prefix, peer), had, "step {step}");
                if had {
                    list.remove(&prefix);
                }
            } else {
                assert_eq!(table.insert(prefix, peer), list.insert(prefix, peer), "step {step}");
            }
            if list.len() > 60 {
                let (prefix, peer) = list.pop_first().unwrap();
                assert!(table.remove(prefix, peer), "step {step}");
            }
            let probe = match prefix.addr() {
                IpAddr::V4(address) => {
                    IpAddr::V4((address.to_bits() ^ u32::try_from(next(256)).unwrap()).into())
                }
                IpAddr::V6(address) => IpAddr::V6((address.to_bits() ^ u128::from(next(256))).into()),
            };
            let wanted = list
                .iter()
                .filter(|(prefix, _)| prefix.contains(&probe))
                .max_by_key(|(prefix, _)| prefix.prefix_len())
                .map(|(_, peer)| *peer);
            assert_eq!(table.lookup(probe), wanted, "step {step}, {probe}");
            let nodes = table.nodes.len() - table.free.len();
            assert!(nodes <= 2 * list.len(), "step {step}: {nodes} nodes for {} prefixes", list.len());
        }
        for (prefix, peer) in list {
            assert!(table.remove(prefix, peer));
        }
        assert_eq!((table.roots, table.nodes.len()), ([NONE; 2], table.free.len()));
    }
}
