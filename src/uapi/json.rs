//! `show --json`: the devices as one JSON document. (core: no IO)
//!
//! The names and the shape are those of `wg-json`, the script that comes with wireguard-tools; what is unset is left
//! out. Unlike it, secrets are left out too unless they are asked for.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::device::{DeviceStatus, PeerStatus};
use crate::config::endpoint::{ScopeName, endpoint_text};

/// Every interface with its device, as JSON over several lines.
#[must_use]
pub fn show_json(interfaces: &[(String, DeviceStatus)], show_secrets: bool, scope_name: ScopeName) -> String {
    let document: BTreeMap<&str, DeviceJson> = interfaces
        .iter()
        .map(|(interface, status)| (interface.as_str(), DeviceJson::new(status, show_secrets, scope_name)))
        .collect();
    serde_json::to_string_pretty(&document).expect("maps with string keys and plain values are always JSON")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listen_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fwmark: Option<u32>,
    peers: BTreeMap<String, PeerJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_handshake: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer_rx: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer_tx: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent_keepalive: Option<u16>,
    #[serde(rename = "allowedIps")]
    allowed_ips: Vec<String>,
}

impl DeviceJson {
    fn new(status: &DeviceStatus, show_secrets: bool, scope_name: ScopeName) -> Self {
        let key = status.private_key.as_ref();
        Self {
            private_key: key.filter(|_| show_secrets).map(|key| key.to_base64().to_string()),
            public_key: key.map(|key| key.public_key().to_base64()),
            listen_port: Some(status.listen_port).filter(|port| *port != 0),
            fwmark: Some(status.fwmark).filter(|mark| *mark != 0),
            peers: (status.peers.iter())
                .map(|peer| (peer.public_key.to_base64(), PeerJson::new(peer, show_secrets, scope_name)))
                .collect(),
        }
    }
}

impl PeerJson {
    fn new(peer: &PeerStatus, show_secrets: bool, scope_name: ScopeName) -> Self {
        Self {
            preshared_key: (peer.preshared_key.as_ref())
                .filter(|_| show_secrets)
                .map(|key| key.to_base64().to_string()),
            endpoint: peer.endpoint.map(|endpoint| endpoint_text(endpoint, scope_name)),
            latest_handshake: peer.last_handshake.map(|time| time.secs),
            transfer_rx: Some(peer.rx_bytes).filter(|bytes| *bytes != 0),
            transfer_tx: Some(peer.tx_bytes).filter(|bytes| *bytes != 0),
            persistent_keepalive: Some(peer.persistent_keepalive).filter(|secs| *secs != 0),
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PresharedKey, PrivateKey, PublicKey};
    use crate::time::WallTime;

    #[test]
    fn unset_values_are_left_out_and_secrets_only_shown_on_request() {
        let peer = PeerStatus {
            preshared_key: Some(PresharedKey::from_bytes([0x22; 32])),
            endpoint: Some("192.95.5.67:1234".parse().unwrap()),
            last_handshake: Some(WallTime { secs: 7, nanos: 0 }),
            tx_bytes: 0,
            rx_bytes: 9,
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
            ..PeerStatus::new(PublicKey::from_bytes([0xa1; 32]))
        };
        let status = DeviceStatus {
            private_key: Some(PrivateKey::from_bytes([0x48; 32])),
            listen_port: 0,
            fwmark: 255,
            peers: vec![peer],
        };
        let interfaces = [("wg0".to_owned(), status), ("wg1".to_owned(), DeviceStatus::default())];
        let expected = serde_json::json!({
            "wg0": {
                "publicKey": "kXeyMnjL8PPRfDbyrMm1XpyF+HsiClOG7DcNZj4g4zc=",
                "fwmark": 255,
                "peers": { "oaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaE=": {
                    "endpoint": "192.95.5.67:1234",
                    "latestHandshake": 7,
                    "transferRx": 9,
                    "persistentKeepalive": 25,
                    "allowedIps": ["10.0.0.0/8"],
                } },
            },
            "wg1": { "peers": {} },
        });
        let parsed: serde_json::Value =
            serde_json::from_str(&show_json(&interfaces, false, |_| None)).unwrap();
        assert_eq!(parsed, expected);
        let text = show_json(&interfaces, true, |_| None);
        assert!(text.contains(r#""privateKey": "SEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEg=""#));
        assert!(text.contains(r#""presharedKey": "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=""#));
    }
}
