//! What `showconf` prints: the running device as a `setconf` file. (vocabulary: no IO)

use zeroize::Zeroizing;

use crate::config::device::{DeviceStatus, PeerStatus};
use crate::config::endpoint::{ScopeName, endpoint_text};

/// Bytes a section takes with every key set and a few allowed IPs: reserving it keeps keys from being left behind
/// by a growing buffer.
const SECTION_CAPACITY: usize = 512;

/// The file that `setconf` would turn into this device. Holds its secrets.
#[must_use]
pub fn showconf(status: &DeviceStatus, scope_name: ScopeName) -> Zeroizing<String> {
    let prefixes: usize = status.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let capacity = (status.peers.len() + 1) * SECTION_CAPACITY + prefixes * 48;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    text.push_str("[Interface]\n");
    if status.listen_port != 0 {
        push(&mut text, "ListenPort", &status.listen_port.to_string());
    }
    if status.fwmark != 0 {
        push(&mut text, "FwMark", &format!("0x{:x}", status.fwmark));
    }
    if let Some(key) = &status.private_key {
        push(&mut text, "PrivateKey", &key.to_base64());
    }
    text.push('\n');
    for (index, peer) in status.peers.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        push_peer(&mut text, peer, scope_name);
    }
    text
}

fn push_peer(text: &mut String, peer: &PeerStatus, scope_name: ScopeName) {
    text.push_str("[Peer]\n");
    push(text, "PublicKey", &peer.public_key.to_base64());
    if let Some(key) = &peer.preshared_key {
        push(text, "PresharedKey", &key.to_base64());
    }
    if !peer.allowed_ips.is_empty() {
        let prefixes: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        push(text, "AllowedIPs", &prefixes.join(", "));
    }
    if let Some(endpoint) = peer.endpoint {
        push(text, "Endpoint", &endpoint_text(endpoint, scope_name));
    }
    if peer.persistent_keepalive != 0 {
        push(text, "PersistentKeepalive", &peer.persistent_keepalive.to_string());
    }
}

fn push(text: &mut String, key: &str, value: &str) {
    for part in [key, " = ", value, "\n"] {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::key::{PresharedKey, PrivateKey, PublicKey};

    #[test]
    fn what_showconf_prints_setconf_takes_back() {
        let peer = PeerStatus {
            preshared_key: Some(PresharedKey::from_bytes([0x22; 32])),
            endpoint: Some("192.95.5.67:1234".parse().unwrap()),
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
            ..PeerStatus::new(PublicKey::from_bytes([0xa1; 32]))
        };
        let status = DeviceStatus {
            private_key: Some(PrivateKey::from_bytes([0x48; 32])),
            listen_port: 51820,
            fwmark: 255,
            peers: vec![peer],
        };
        let text = showconf(&status, |_| None);
        assert_eq!(
            *text,
            "[Interface]\nListenPort = 51820\nFwMark = 0xff\n\
             PrivateKey = SEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEg=\n\n\
             [Peer]\nPublicKey = oaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaE=\n\
             PresharedKey = IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=\n\
             AllowedIPs = 10.0.0.0/8, fd00::/64\nEndpoint = 192.95.5.67:1234\nPersistentKeepalive = 25\n"
        );
        let config = Config::parse_setconf(text.as_bytes(), "x").unwrap();
        assert_eq!(config.interface.private_key, status.private_key);
        assert_eq!((config.interface.listen_port, config.interface.fwmark), (Some(51820), Some(255)));
        assert_eq!(config.peers[0].allowed_ips, status.peers[0].allowed_ips);
        assert_eq!(config.peers[0].preshared_key, status.peers[0].preshared_key);
    }
}
