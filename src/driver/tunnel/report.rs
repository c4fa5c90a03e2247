//! What `status --json` and `run --report` are told. (driver)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::control::Control;
use super::reason::{Reason, ReasonInput};
use crate::config::device::{PeerStatus, PeerTrouble};
use crate::driver::clock;
use crate::driver::command::{PeerReport, RefusedDestination, TunnelReport};
use crate::driver::path_trouble::PathTrouble;
use crate::wireguard::Refused;

/// A session older than this without a newer handshake is no sign of health (REJECT_AFTER_TIME).
const HEALTHY_HANDSHAKE_AGE: Duration = Duration::from_secs(180);

/// The state of the whole tunnel.
pub(super) fn of(control: &Control) -> TunnelReport {
    let now = clock::now();
    let status = control.parts.device.status(now);
    let peers: Vec<PeerReport> = status.peers.iter().map(|peer| peer_report(control, peer)).collect();
    let reachable =
        status.peers.iter().filter(|peer| peer.endpoint.is_some() || peer.last_handshake.is_some());
    let healthy =
        control.parts.state.up && (reachable.clone().next().is_none() || reachable.clone().any(fresh));
    TunnelReport {
        name: control.parts.name.clone(),
        interface: control.parts.state.name.clone(),
        mtu: control.parts.state.mtu,
        up: control.parts.state.up,
        link: control.parts.link.into(),
        listen_port: status.listen_port,
        uptime_secs: now.boot.duration_since(control.started.boot).as_secs(),
        healthy,
        sandbox: control.parts.sandbox.clone(),
        peers,
        forwards: Vec::new(),
        refused: control.data_plane.refused().into_iter().map(refused).collect(),
        drops: drops(control),
    }
}

/// What was dropped: by the protocol, by reason; by the socket, by what the system said.
fn drops(control: &Control) -> BTreeMap<String, u64> {
    let udp = control.parts.udp.load();
    let by_errno = |step: &str, counts: BTreeMap<i32, u64>| {
        let name = |errno| format!("{step}: {}", std::io::Error::from_raw_os_error(errno));
        counts.into_iter().map(|(errno, count)| (name(errno), count)).collect::<Vec<_>>()
    };
    let by_reason = control.data_plane.drops().into_iter();
    by_reason
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .chain(by_errno("cannot send", udp.send_failures()))
        .chain(by_errno("cannot receive", udp.receive_errors()))
        .collect()
}

fn fresh(peer: &PeerStatus) -> bool {
    peer.last_handshake_age.is_some_and(|age| age <= HEALTHY_HANDSHAKE_AGE)
}

/// Why `peer` has no session, as far as can be seen.
pub(super) fn reason_of(control: &Control, peer: &PeerStatus) -> Reason {
    let udp = control.parts.udp.load();
    let on_path = peer.endpoint.and_then(|endpoint| udp.troubles().of(&endpoint));
    Reason::of(&ReasonInput {
        trouble: peer.trouble,
        has_endpoint: peer.endpoint.is_some(),
        unresolved: control.names.reason(&peer.public_key),
        port_refused: on_path == Some(PathTrouble::Returned(libc::ECONNREFUSED)),
        send_error: on_path.and_then(in_words),
    })
}

fn peer_report(control: &Control, peer: &PeerStatus) -> PeerReport {
    let name = control.names.name(&peer.public_key);
    // A session may still be fresh while the peer already cannot get a new one.
    let PeerTrouble { initiations_sent, failed_authentications, stale_timestamps, .. } = peer.trouble;
    let in_trouble =
        !fresh(peer) || initiations_sent >= 3 || failed_authentications > 0 || stale_timestamps > 0;
    let reason = in_trouble.then(|| reason_of(control, peer));
    PeerReport {
        public_key: peer.public_key.to_base64(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        endpoint_name: name,
        last_handshake_secs: peer.last_handshake_age.map(|age| age.as_secs()),
        handshake_ms: peer.first_handshake_took.map(|took| took.as_secs_f64() * 1e3),
        tx_bytes: peer.tx_bytes,
        rx_bytes: peer.rx_bytes,
        hint: reason.as_ref().and_then(Reason::hint).map(str::to_owned),
        reason: reason.map(|reason| reason.to_string()),
    }
}

fn in_words(trouble: PathTrouble) -> Option<String> {
    match trouble {
        PathTrouble::Returned(libc::ECONNREFUSED) => None,
        PathTrouble::Returned(errno) | PathTrouble::Unsent(errno) => {
            Some(std::io::Error::from_raw_os_error(errno).to_string())
        }
    }
}

fn refused(refused: Refused) -> RefusedDestination {
    let Refused { destination, port, protocol, packets } = refused;
    let destination = match port {
        Some(port) => SocketAddr::new(destination, port).to_string(),
        None => destination.to_string(),
    };
    let protocol = match protocol {
        1 | 58 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    };
    RefusedDestination { destination, protocol, packets }
}
