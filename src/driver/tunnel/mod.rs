//! The running tunnel: two data threads and one control task around a device, a link and a UDP port. (tasks)
//!
//! # Theory of operation
//! The tx thread reads packets from the link, has the core seal them, and sends; the rx thread receives datagrams, has
//! the core open them, and writes to the link. Both run to completion: no queue lies between a read and its write. On
//! a quiet tunnel the rx thread does both and the tx thread sleeps (see `turns`).
//! Everything else happens in the control task, one `select!` over what can occur: a handshake message the rx thread
//! put aside, a notice of the data plane, the device's deadline, a command, a change of the link, an answer of the
//! broker. After every input it drains the device's outputs and arms the timer for the next deadline.
//!
//! The UDP port sits in an `ArcSwap`: a new listen port is bound first, then swapped in, then the old one is shut
//! down, which wakes the rx thread so that it picks up the new one.

#[cfg(test)]
mod allocation_tests;
mod backlog;
mod control;
mod data_threads;
#[cfg(test)]
mod far_end;
#[cfg(test)]
mod fault_tests;
mod first_handshake;
mod packet_log;
mod reason;
mod report;
mod transmit;
mod turns;

pub use backlog::Backlog;
pub use control::{Control, Established, TunnelEnd};
pub use first_handshake::{NoHandshake, wait_for_handshake};
pub use reason::{Reason, ReasonInput};

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::config::{EndpointName, NetworkPlan};
use crate::driver::broker::Broker;
use crate::driver::command::TunnelHandle;
use crate::driver::link::{Link, Shutdown};
use crate::driver::link_watch::LinkWatch;
use crate::driver::udp::{ReturnPaths, UdpPort};
use crate::key::PublicKey;
use crate::sys::async_fd;
use crate::sys::netlink::{LinkState, NetlinkError, News, RtnetlinkSockets, Topics};
use crate::sys::sandbox::Sandbox;
use crate::sys::seccomp::{self, Role, SeccompError};
use crate::wireguard::Device;

/// Everything a tunnel is made of, already opened, bound and checked.
pub struct TunnelParts {
    /// The instance's name, for reports.
    pub name: String,
    /// The device, with its configuration applied.
    pub device: Device,
    /// The TUN.
    pub link: Link,
    /// Ends reads from it.
    pub link_shutdown: Arc<Shutdown>,
    /// The interface as it is now.
    pub state: LinkState,
    /// Tells its changes and configures it; absent for a TUN the caller configures.
    pub rtnetlink: Option<RtnetlinkSockets>,
    /// The bound socket.
    pub udp: UdpPort,
    /// Resolves endpoint names; absent if no endpoint is a name.
    pub broker: Option<Broker>,
    /// Peers whose endpoint is a host name.
    pub names: Vec<(PublicKey, EndpointName)>,
    /// Addresses and routes as configured: what a later `switch` is diffed against.
    pub plan: NetworkPlan,
    /// Call every peer at once instead of when there is a packet for it: somebody waits for an answer.
    pub eager: bool,
    /// The sandbox so far: if it is to filter system calls, each thread does so when it has everything it needs.
    pub sandbox: Sandbox,
}

/// Why a tunnel cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A thread or a timer cannot be had.
    #[error("cannot start the tunnel")]
    Machinery(#[from] io::Error),
    /// The interface cannot be followed.
    #[error("cannot follow changes of the interface")]
    Follow(#[from] NetlinkError),
    /// A thread cannot give up the system calls it does not need.
    #[error("cannot close the sandbox")]
    Sandbox(#[from] SeccompError),
}

/// A started tunnel: the control task's loop, its handle, the news of the first handshake, and what waits in the link.
pub struct Tunnel {
    /// The control task; its `run` is the tunnel's life.
    pub control: Control,
    /// For the UAPI server and everybody else who asks.
    pub handle: TunnelHandle,
    /// `Some` once a peer has answered.
    pub established: watch::Receiver<Option<Established>>,
    /// Whoever ends the tunnel because its target has ended waits for this first.
    pub backlog: Backlog,
}

impl Tunnel {
    /// Starts the data threads and prepares the control task. Must be called within a tokio runtime, whose thread is
    /// then left the system calls of a running tunnel, if the sandbox filters.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub fn start(parts: TunnelParts) -> Result<Self, TunnelError> {
        let (handle, commands) = TunnelHandle::channel();
        let (established_sender, established) = watch::channel(None);
        let (thread_ends, ends) = mpsc::unbounded_channel();
        let filtered = parts.sandbox.filters_calls();
        let link = Arc::new(parts.link);
        let (routes, return_paths) = host_routes();
        let udp = Arc::new(ArcSwap::from_pointee(parts.udp.with_return_paths(return_paths)));
        let data_plane = Arc::clone(parts.device.data_plane());
        data_plane.set_mtu(parts.state.mtu);
        let (threads, transmit, handshakes) =
            data_threads::spawn(&data_plane, &link, parts.link_shutdown, &udp, &thread_ends, filtered)?;
        let watch =
            parts.rtnetlink.map(|sockets| LinkWatch::new(sockets, parts.state.clone())).transpose()?;
        let kind = link.kind();
        let backlog = Backlog::new(&link, &transmit);
        let control = Control::new(control::ControlParts {
            name: parts.name,
            link: kind,
            state: parts.state,
            device: parts.device,
            watch,
            routes,
            udp,
            broker: parts.broker,
            names: parts.names,
            plan: parts.plan,
            eager: parts.eager,
            sandbox: parts.sandbox.on.iter().map(ToString::to_string).collect(),
            commands,
            established: established_sender,
            handshakes,
            ends,
            threads,
        })?;
        if filtered {
            seccomp::restrict(Role::Control)?;
        }
        Ok(Self { control, handle, established, backlog })
    }
}

/// What tells of changes of this machine's own routes, and what asks for them. Without either datagrams are sent all the
/// same.
fn host_routes() -> (Option<AsyncFd<News>>, Option<Arc<ReturnPaths>>) {
    let news = News::open(Topics::Routing).map_err(io::Error::other);
    let news = news.and_then(|news| async_fd::watch(news, Interest::READABLE));
    match (news, ReturnPaths::open()) {
        (Ok(news), Ok(paths)) => (Some(news), Some(Arc::new(paths))),
        (Err(error), _) => {
            warn!(%error, "changes of this machine's routes are not followed");
            (None, None)
        }
        (_, Err(error)) => {
            warn!(%error, "changes of this machine's routes are not followed");
            (None, None)
        }
    }
}
