//! The least change that makes a running device what a file says. (vocabulary: no IO)
//!
//! `syncconf` and `switch` must not disturb peers that stay as they are. So what is equal is not mentioned at all, and
//! a peer is neither removed nor made anew unless it has to be.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::config::device::{AllowedIpChange, DeviceStatus, DeviceUpdate, PeerStatus, PeerUpdate};
use crate::config::{Config, EndpointName, PeerConfig};
use crate::key::PublicKey;

/// What names resolved to: every address of every endpoint that is a name.
pub type ResolvedNames = std::collections::HashMap<PublicKey, Vec<SocketAddr>>;

impl Config {
    /// What to change in `current` so that it becomes what this file says. A `ListenPort` that the file does not have
    /// stays; the firewall mark is left alone, as in [`Config::to_update`].
    #[must_use]
    pub fn changes_from(&self, current: &DeviceStatus, names: &ResolvedNames) -> DeviceUpdate {
        let key = self.interface.private_key.as_ref();
        let port = self.interface.listen_port.filter(|port| *port != 0 && *port != current.listen_port);
        let wanted: BTreeSet<_> = self.peers.iter().map(|peer| peer.public_key).collect();
        let gone = current.peers.iter().filter(|peer| !wanted.contains(&peer.public_key));
        let mut peers: Vec<_> =
            gone.map(|peer| PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key) }).collect();
        for peer in &self.peers {
            let before = current.peers.iter().find(|status| status.public_key == peer.public_key);
            peers.extend(peer.changes_from(before, names));
        }
        DeviceUpdate {
            private_key: (key != current.private_key.as_ref()).then(|| key.cloned()),
            listen_port: port,
            fwmark: None,
            replace_peers: false,
            peers,
        }
    }

    /// As [`Config::changes_from`], for a file in the format of `setconf`, which tells the firewall mark too.
    #[must_use]
    pub fn to_syncconf_update(&self, current: &DeviceStatus, names: &ResolvedNames) -> DeviceUpdate {
        let mark = self.interface.fwmark.unwrap_or(0);
        DeviceUpdate {
            fwmark: Some(mark).filter(|mark| *mark != current.fwmark),
            ..self.changes_from(current, names)
        }
    }
}

impl PeerConfig {
    /// `None` if nothing is to change.
    fn changes_from(&self, before: Option<&PeerStatus>, names: &ResolvedNames) -> Option<PeerUpdate> {
        let endpoints = match &self.endpoint {
            None => &[],
            Some(EndpointName::Address(address)) => std::slice::from_ref(address),
            Some(EndpointName::Name { .. }) => names.get(&self.public_key).map_or(&[][..], Vec::as_slice),
        };
        let Some(before) = before else {
            return Some(PeerUpdate { endpoint: endpoints.first().copied(), ..self.to_update() });
        };
        // Any of a name's addresses will do; another one would only move the peer about.
        let moved = before.endpoint.is_none_or(|endpoint| !endpoints.contains(&endpoint));
        let prefixes = |prefixes: &[ipnet::IpNet]| prefixes.iter().copied().collect::<BTreeSet<_>>();
        let rerouted = prefixes(&self.allowed_ips) != prefixes(&before.allowed_ips);
        let keepalive = self.persistent_keepalive.unwrap_or(0);
        let update = PeerUpdate {
            // If it vanished meanwhile, nobody wants half of it back.
            update_only: true,
            remove: false,
            public_key: self.public_key,
            preshared_key: (self.preshared_key != before.preshared_key).then(|| self.preshared_key.clone()),
            endpoint: endpoints.first().copied().filter(|_| moved),
            persistent_keepalive: Some(keepalive).filter(|secs| *secs != before.persistent_keepalive),
            replace_allowed_ips: rerouted,
            allowed_ips: self
                .allowed_ips
                .iter()
                .copied()
                .filter(|_| rerouted)
                .map(AllowedIpChange::Add)
                .collect(),
        };
        let nothing = PeerUpdate { update_only: true, ..PeerUpdate::new(self.public_key) };
        (update != nothing).then_some(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PresharedKey, PrivateKey};

    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const STAYS: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    const COMES: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

    fn key(text: &str) -> PublicKey {
        PublicKey::parse_base64(text).unwrap()
    }

    fn config(lines: &str) -> Config {
        let text = format!("[Interface]\nPrivateKey = {PRIVATE}\n[Peer]\nPublicKey = {STAYS}\n{lines}\n");
        Config::parse(text, "x").unwrap()
    }

    fn current() -> DeviceStatus {
        let stays = PeerStatus {
            endpoint: Some("192.0.2.1:5".parse().unwrap()),
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
            rx_bytes: 77,
            ..PeerStatus::new(key(STAYS))
        };
        DeviceStatus {
            private_key: Some(PrivateKey::parse_base64(PRIVATE).unwrap()),
            listen_port: 51820,
            fwmark: 0,
            peers: vec![stays],
        }
    }

    #[test]
    fn what_is_equal_is_not_mentioned() {
        let config = config("Endpoint = 192.0.2.1:5\nAllowedIPs = fd00::/64, 10.0.0.0/8");
        assert_eq!(config.changes_from(&current(), &ResolvedNames::new()), DeviceUpdate::default());
        assert_eq!(config.to_syncconf_update(&current(), &ResolvedNames::new()), DeviceUpdate::default());
    }

    #[test]
    fn only_what_differs_is_changed() {
        let config = config("AllowedIPs = 10.0.0.0/8\nPersistentKeepalive = 25");
        let update = config.changes_from(&current(), &ResolvedNames::new());
        let expected = PeerUpdate {
            update_only: true,
            persistent_keepalive: Some(25),
            replace_allowed_ips: true,
            allowed_ips: vec![AllowedIpChange::Add("10.0.0.0/8".parse().unwrap())],
            ..PeerUpdate::new(key(STAYS))
        };
        assert_eq!(update, DeviceUpdate { peers: vec![expected], ..DeviceUpdate::default() });
    }

    #[test]
    fn peers_come_and_go() {
        let text = format!(
            "[Interface]\nPrivateKey = {PRIVATE}\nListenPort = 7\n[Peer]\nPublicKey = {COMES}\n\
             PresharedKey = {STAYS}\nEndpoint = vpn.example:1\n"
        );
        let names = ResolvedNames::from([(key(COMES), vec!["192.0.2.9:1".parse().unwrap()])]);
        let update = Config::parse(text, "x").unwrap().changes_from(&current(), &names);
        assert_eq!((update.private_key, update.listen_port), (None, Some(7)));
        assert_eq!(update.peers[0], PeerUpdate { remove: true, ..PeerUpdate::new(key(STAYS)) });
        assert_eq!(update.peers[1].endpoint, Some("192.0.2.9:1".parse().unwrap()));
        assert_eq!(
            update.peers[1].preshared_key,
            Some(Some(PresharedKey::from_bytes(*key(STAYS).as_bytes())))
        );
        assert!(!update.peers[1].update_only);
    }

    #[test]
    fn a_peer_at_any_address_of_its_name_stays_there() {
        let config = config("Endpoint = vpn.example:5\nAllowedIPs = 10.0.0.0/8, fd00::/64");
        let names = |addresses: [&str; 2]| {
            ResolvedNames::from([(key(STAYS), addresses.map(|address| address.parse().unwrap()).to_vec())])
        };
        let stays = config.changes_from(&current(), &names(["192.0.2.9:5", "192.0.2.1:5"]));
        assert_eq!(stays, DeviceUpdate::default());
        let moves = config.changes_from(&current(), &names(["192.0.2.9:5", "192.0.2.8:5"]));
        assert_eq!(moves.peers[0].endpoint, Some("192.0.2.9:5".parse().unwrap()));
    }
}
