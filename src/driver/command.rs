//! What other tasks may ask of the control task, and the handle they ask it by. (tasks)
//!
//! The control task owns the device; nobody else touches it. Requests are whole: a change is parsed before it comes
//! here and is applied without waiting in between, so a half-applied change cannot be seen.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::port_forward::{Forward, PortForwards};
use crate::config::device::{DeviceStatus, DeviceUpdate};
pub use crate::config::plan::{NetworkChange, NetworkPlan};

/// Requests that may wait for the control task; more senders wait their turn.
const MAX_QUEUED_COMMANDS: usize = 64;

/// One request to the control task.
#[derive(Debug)]
pub enum Command {
    /// Everything the device tells.
    Status(oneshot::Sender<DeviceStatus>),
    /// Everything the tunnel tells beyond the configuration protocol.
    Report(oneshot::Sender<TunnelReport>),
    /// Change the device, whole or not at all.
    Apply(DeviceUpdate, oneshot::Sender<Result<(), ApplyError>>),
    /// Change addresses, routes and MTU of the link, and the names that are resolved, to these.
    Network(NetworkChange, oneshot::Sender<Result<(), String>>),
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The new listen port cannot be bound; the old socket stays.
    #[error("cannot listen on UDP port {port}: {}", std::io::Error::from_raw_os_error(*errno))]
    ListenPort {
        /// What was asked for.
        port: u16,
        /// What the kernel said.
        errno: i32,
    },
    /// `SO_MARK` needs CAP_NET_ADMIN over the host's network namespace.
    #[error("cannot set the firewall mark: {}", std::io::Error::from_raw_os_error(*errno))]
    Fwmark {
        /// What the kernel said.
        errno: i32,
    },
    /// More peers than a device holds.
    #[error("a device holds at most {limit} peers")]
    TooManyPeers {
        /// The limit.
        limit: usize,
    },
    /// The tunnel is ending.
    #[error("the tunnel is ending")]
    Closed,
}

impl ApplyError {
    /// The errno that the configuration protocol answers with (positive).
    #[must_use]
    pub const fn errno(&self) -> i32 {
        match self {
            Self::ListenPort { errno, .. } | Self::Fwmark { errno } => *errno,
            Self::TooManyPeers { .. } => libc::ENOSPC,
            Self::Closed => libc::EIO,
        }
    }
}

/// What `status --json` prints: the whole tunnel in one document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TunnelReport {
    /// The instance's name.
    pub name: String,
    /// The interface's name inside the target, as it is now.
    pub interface: String,
    /// Interface MTU as it is now, in bytes.
    pub mtu: u32,
    /// Whether the interface is up.
    pub up: bool,
    /// How the link is made: `tun`.
    pub link: String,
    /// UDP port in use.
    pub listen_port: u16,
    /// Seconds since the tunnel was ready.
    pub uptime_secs: u64,
    /// A peer answered recently, or none is expected to.
    pub healthy: bool,
    /// Layers of the sandbox that are on.
    pub sandbox: Vec<String>,
    /// One entry a peer.
    pub peers: Vec<PeerReport>,
    /// Packets that were refused because no peer's allowed IPs hold their destination; most refused first.
    pub refused: Vec<RefusedDestination>,
    /// What crosses the wall beside the tunnel.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Datagrams and packets dropped, by reason.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// One peer in a [`TunnelReport`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    /// Base64.
    pub public_key: String,
    /// `host:port` as it is used now.
    pub endpoint: Option<String>,
    /// The name the endpoint was given by, if it was one.
    pub endpoint_name: Option<String>,
    /// Seconds since the last handshake completed.
    pub last_handshake_secs: Option<u64>,
    /// How long the first handshake took, in milliseconds.
    pub handshake_ms: Option<f64>,
    /// Outer bytes sent.
    pub tx_bytes: u64,
    /// Outer bytes received.
    pub rx_bytes: u64,
    /// Why there is no session, in words; absent when there is one.
    pub reason: Option<String>,
    /// What to do about it, if there is something.
    pub hint: Option<String>,
}

/// One destination that packets were refused to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedDestination {
    /// `address:port`, or the address alone for protocols without ports.
    pub destination: String,
    /// `tcp`, `udp`, `icmp` or the protocol's number.
    pub protocol: String,
    /// How many.
    pub packets: u64,
}

/// A cloneable front of the control task.
#[derive(Clone, Debug)]
pub struct TunnelHandle {
    commands: mpsc::Sender<Command>,
    forwards: Option<PortForwards>,
}

impl TunnelHandle {
    /// The handle, and the end that the control task reads.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(MAX_QUEUED_COMMANDS);
        (Self { commands, forwards: None }, receiver)
    }

    /// The same, for a tunnel with forwarded ports.
    #[must_use]
    pub fn with_forwards(self, forwards: PortForwards) -> Self {
        Self { forwards: Some(forwards), ..self }
    }

    /// Ports can be published and taken back by this; absent for a tunnel that was started without any.
    #[must_use]
    pub const fn forwards(&self) -> Option<&PortForwards> {
        self.forwards.as_ref()
    }

    /// Everything the device tells.
    ///
    /// # Errors
    /// [`ApplyError::Closed`] when the tunnel is ending.
    pub async fn status(&self) -> Result<DeviceStatus, ApplyError> {
        self.ask(Command::Status).await
    }

    /// Everything the tunnel tells.
    ///
    /// # Errors
    /// [`ApplyError::Closed`] when the tunnel is ending.
    pub async fn report(&self) -> Result<TunnelReport, ApplyError> {
        let mut report = self.ask(Command::Report).await?;
        if let Some(forwards) = &self.forwards {
            // A forwarder that has ended forwards nothing.
            report.forwards = forwards.list().await.unwrap_or_default();
        }
        Ok(report)
    }

    /// Changes the device, whole or not at all.
    ///
    /// # Errors
    /// As [`ApplyError`] says; nothing is changed then.
    pub async fn apply(&self, update: DeviceUpdate) -> Result<(), ApplyError> {
        self.ask(|reply| Command::Apply(update, reply)).await?
    }

    /// Changes addresses, routes and MTU of the link, and the names that are resolved.
    ///
    /// # Errors
    /// One line that says what the kernel refused.
    pub async fn network(&self, change: NetworkChange) -> Result<(), String> {
        let addresses = change.plan.addresses.iter().map(ipnet::IpNet::addr).collect();
        self.ask(|reply| Command::Network(change, reply)).await.map_err(|error| error.to_string())??;
        match &self.forwards {
            Some(forwards) => forwards.set_inside(addresses).await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ApplyError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_closed| ApplyError::Closed)?;
        answer.await.map_err(|_closed| ApplyError::Closed)
    }
}
