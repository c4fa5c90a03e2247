//! What the parent of a tunnel and its forwarder say to each other. (vocabulary of tasks)

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::config::publish::{PublishedPort, Transport};
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::socket_factory::InsideListener;
use crate::sys::os_error::OsError;
use crate::sys::sandbox::MissingLayer;

/// Listeners of one forwarder at most. Each costs two descriptors or three.
pub(super) const MAX_FORWARDS: usize = 16 * 1024;

/// Entries in one record: 64 KiB hold twice as many.
pub(super) const MAX_LISTED: usize = 100;

/// Why a port is not forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ForwardError {
    /// Another program has it, or it is not for us.
    #[error("cannot listen on `{address}` ({transport}) to publish it")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        transport: Transport,
        /// What the system said.
        source: OsError,
    },
    /// There are too many.
    #[error("more than {MAX_FORWARDS} addresses and ports to forward")]
    TooMany,
    /// It was never there or is no longer.
    #[error("no forwarded port has the number {0}")]
    NotThere(u64),
    /// The forwarder cannot do without something.
    #[error("cannot {operation}")]
    Machinery {
        /// What was being done.
        operation: String,
        /// What the system said.
        source: OsError,
    },
}

impl Failure for ForwardError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Listen { source, .. } if source.is(Errno::EADDRINUSE) => FailureClass::InUse,
            Self::Listen { source, .. } if source.is(Errno::EACCES) || source.is(Errno::EPERM) => {
                FailureClass::Kernel
            }
            Self::Listen { .. } | Self::NotThere(_) | Self::Machinery { .. } => FailureClass::General,
            Self::TooMany => FailureClass::Usage,
        }
    }
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardKind {
    /// From the host to inside.
    Publish,
    /// From inside to the host's surroundings.
    Reach,
    /// From inside to name servers through the tunnel.
    Dns,
}

/// One listener, and where it leads: an entry of `status --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// What it is removed by; shared by the listeners of one published port.
    pub id: u64,
    /// Which way it goes.
    pub kind: ForwardKind,
    /// Connections or datagrams.
    pub transport: Transport,
    /// Where clients connect: on the host for a published port, else inside.
    pub listen: SocketAddr,
    /// Where they get to; for a published port without an address, the target's own addresses are tried.
    pub to: Vec<SocketAddr>,
    /// Port inside of a published one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside_port: Option<u16>,
    /// Connections, or UDP flows, that are open.
    pub active: u64,
    /// Those that there ever were.
    pub total: u64,
    /// Those that could not be forwarded: nobody listens there.
    pub failed: u64,
}

/// A question, with a number that the answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) id: u64,
    pub(super) what: Asked,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// Listen on a port of the host.
    Publish(PublishedPort),
    /// Begin to forward. With the channel to the factory and each listener.
    Start(Start),
    /// Dial these from now on.
    Inside(Vec<IpAddr>),
    /// Listen there no longer.
    Remove(u64),
    /// What there is.
    List {
        /// Without the first so many.
        skip: usize,
    },
}

/// What a forwarder needs to begin.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// The target's own addresses.
    pub(super) inside: Vec<IpAddr>,
    /// What the descriptors behind the first listen on.
    pub(super) listening: Vec<InsideListener>,
    /// How many of them, from the first, are reached addresses; the rest are the DNS alias.
    pub(super) reached: usize,
    /// Whom the alias asks.
    pub(super) servers: Vec<IpAddr>,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) answer: Result<Answer, ForwardError>,
}

/// What can be answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is so.
    Done,
    /// These are there.
    Forwards(Vec<Forward>),
    /// It has begun, without these layers of its sandbox.
    Begun(Vec<MissingLayer>),
}
