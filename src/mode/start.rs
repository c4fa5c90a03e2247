//! The steps that `attach`, `run` and the device face share, in the order that fails earliest. (wiring)
//!
//! Configuration, name, socket and port come before the target is touched: whatever is wrong with them costs nothing
//! and changes nothing. The sandbox closes last, just before the first thread.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::request::DnsOptions;
use crate::config::{Config, EndpointName, NetworkPlan};
use crate::crypto::{SystemEntropy, wipe_stack};
use crate::driver::broker::{Broker, BrokerError};
use crate::driver::clock;
use crate::driver::config_file::{ConfigFileError, LoadedConfig};
use crate::driver::daemonize::DaemonizeError;
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::helper_end::HelperEnd;
use crate::driver::instance::{
    self, DirectoryError, Instance, InstanceError, InstanceGuard, InstanceName, InstanceRecord, NameChoice,
    RecordedTarget,
};
use crate::driver::interface_name::InterfaceName;
use crate::driver::lifetime::LifetimeError;
use crate::driver::link::{Link, Shutdown};
use crate::driver::logging::LogError;
use crate::driver::mtu::Mtu;
use crate::driver::namespace_child::{ChildError, ChildHandover, Helper};
use crate::driver::port_forward::{Forwarder, ForwarderError};
use crate::driver::port_socket::{PortSocket, PortSocketError};
use crate::driver::ready::ReadyError;
use crate::driver::run_child::RunError;
use crate::driver::socket_factory::FactoryError;
use crate::driver::target::TargetError;
use crate::driver::tunnel::{Established, NoHandshake, TunnelEnd, TunnelError, TunnelParts};
use crate::driver::uapi_socket::{SocketGuard, UapiSocketError, bind_socket};
use crate::driver::udp::UdpPort;
use crate::key::PublicKey;
use crate::sys::netlink::{LinkState, RtnetlinkSockets};
use crate::sys::os_error::OsError;
use crate::sys::path_mtu::path_mtu;
use crate::sys::sandbox::{self, MissingLayer, Policy, Role, Sandbox};
use crate::sys::secret_memory;
use crate::sys::tun::{self, TunError};
use crate::wireguard::{Device, TooManyPeers};

/// The interface's MTU when nobody says and no way to a peer is known: what is left of 1500 (wg-quick(8)).
pub(super) const DEFAULT_MTU: u32 = 1420;

/// What IPv6, UDP and WireGuard headers take of an outer packet (wg-quick(8)).
const OUTER_HEADERS: u32 = 80;

/// Below this the kernel switches IPv6 off on the interface; longer outer packets are then sent in fragments.
const MIN_MTU: u32 = 1280;

/// Why a tunnel did not start, or did not last.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// The directory for socket and lock will not do.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The name is taken.
    #[error(transparent)]
    Name(#[from] InstanceError),
    /// The engine's socket for ports cannot be made.
    #[error(transparent)]
    PortSocket(#[from] PortSocketError),
    /// The configuration socket cannot be made.
    #[error(transparent)]
    Socket(#[from] UapiSocketError),
    /// The UDP port cannot be had.
    #[error("cannot listen on UDP port {port}")]
    Port {
        /// Which.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The process that resolves endpoint names cannot be started.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The target cannot be used.
    #[error("cannot create `{interface}` in the network namespace of {target}")]
    Target {
        /// The interface asked for.
        interface: InterfaceName,
        /// Where, as the user named it.
        target: String,
        /// Why not.
        source: TargetError,
    },
    /// The child made no interface.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The descriptor is not a TUN we can use.
    #[error("cannot use the TUN device")]
    Tun(#[from] TunError),
    /// Ports of the host are not forwarded.
    #[error(transparent)]
    Forwarder(#[from] ForwarderError),
    /// Sockets inside cannot be had.
    #[error(transparent)]
    Factory(#[from] FactoryError),
    /// The target is a TUN device: where its other end is, nobody has said.
    #[error("ports cannot be forwarded into a TUN device: its namespace is not known")]
    PortsWithoutNamespace,
    /// A device cannot hold the configuration.
    #[error(transparent)]
    Peers(#[from] TooManyPeers),
    /// The resolv.conf cannot be written.
    #[error("cannot write `{}`", path.display())]
    ResolvConf {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The report's file cannot be opened.
    #[error("cannot write the report to `{}`", path.display())]
    Report {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no command running in namespaces of its own, or no way to run one.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The process that was to become the command is gone.
    #[error("the command's process was killed before it ran")]
    CommandKilled,
    /// No tunnel has this name.
    #[error("no tunnel named `{name}` is running")]
    NotRunning {
        /// The name.
        name: InstanceName,
    },
    /// The tunnel works on a TUN that somebody else made.
    #[error("`{name}` does not know its namespace: it was started with `--tun-fd`")]
    NoNamespace {
        /// The name.
        name: InstanceName,
    },
    /// The tunnel's namespace cannot be entered.
    #[error("cannot enter the namespace of `{name}` ({target})")]
    Enter {
        /// The tunnel.
        name: InstanceName,
        /// Its target.
        target: String,
        /// Why not.
        source: TargetError,
    },
    /// What the tunnel's life hangs on cannot be watched.
    #[error(transparent)]
    Lifetime(#[from] LifetimeError),
    /// Threads, timers, runtime.
    #[error("cannot start the tunnel")]
    Machinery(#[source] io::Error),
    /// Somebody waits for us and cannot be told.
    #[error(transparent)]
    Ready(#[from] ReadyError),
    /// A layer of the sandbox cannot be had, and all are required.
    #[error("cannot close the sandbox")]
    Sandbox(#[from] MissingLayer),
    /// No peer answered in time.
    #[error(transparent)]
    NoHandshake(#[from] NoHandshake),
    /// The caller could not be left.
    #[error(transparent)]
    Daemonize(#[from] DaemonizeError),
    /// There is no log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The threads did not start.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// A running tunnel failed.
    #[error("cannot {operation}")]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure for StartError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Config(_) => FailureClass::Config,
            Self::Directory(error) => error.class(),
            Self::Name(error) => error.class(),
            Self::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse => FailureClass::InUse,
            Self::Port { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                FailureClass::Kernel
            }
            Self::Target { source, .. } | Self::Enter { source, .. } => source.class(),
            Self::Run(error) => error.class(),
            Self::NotRunning { .. } | Self::NoNamespace { .. } => FailureClass::Target,
            Self::Child(error) => error.class(),
            Self::Forwarder(error) => error.class(),
            Self::Factory(error) => error.class(),
            Self::PortsWithoutNamespace => FailureClass::Usage,
            Self::Tun(_) | Self::Sandbox(_) => FailureClass::Kernel,
            Self::Socket(_)
            | Self::PortSocket(_)
            | Self::Port { .. }
            | Self::Broker(_)
            | Self::Peers(_)
            | Self::ResolvConf { .. }
            | Self::Report { .. }
            | Self::CommandKilled
            | Self::Lifetime(_)
            | Self::Machinery(_)
            | Self::Ready(_)
            | Self::NoHandshake(_)
            | Self::Daemonize(_)
            | Self::Log(_)
            | Self::Tunnel(_)
            | Self::Failed { .. } => FailureClass::General,
        }
    }
}

impl StartError {
    /// What `run` and `exec` exit with: 126 and 127 are the command's fault, 125 everything of ours.
    #[must_use]
    pub fn command_exit_code(&self) -> u8 {
        if let Self::Run(error) = self { error.exit_code() } else { 125 }
    }
}

impl From<OsError> for StartError {
    fn from(error: OsError) -> Self {
        Self::Machinery(error.into())
    }
}

/// Says once what the configuration asks for in vain. To be called when there is a log.
pub(super) fn say_warnings(loaded: &LoadedConfig) {
    for line in loaded.config.warning_lines() {
        warn!("{line}");
    }
}

/// Drops the configuration, which the device and the plans were made from, and with it every copy of its keys but the
/// device's own. To be called from a frame as shallow as possible: it wipes what lies below.
pub(super) fn forget(loaded: Option<LoadedConfig>) {
    // Reading, parsing and applying a configuration was seen to use half of this in a build without optimisation.
    const STACK_OF_START: usize = 128 * 1024 / size_of::<u64>();
    drop(loaded);
    wipe_stack::<STACK_OF_START>();
}

/// A name, a socket and a port, all ours.
pub(super) struct Foundation {
    /// Holds the name's lock.
    pub(super) instance: InstanceGuard,
    /// Where `wg` and our own commands connect.
    pub(super) listener: UnixListener,
    /// Removes the socket's file.
    pub(super) socket: SocketGuard,
    /// Bound to the configuration's port.
    pub(super) udp: UdpPort,
}

/// Takes name, socket and port.
pub(super) fn lay_foundation(
    uapi_dir: Option<&Path>,
    choice: &NameChoice,
    config: Option<&Config>,
) -> Result<Foundation, StartError> {
    lay(uapi_dir, choice, bind(config))
}

/// As [`lay_foundation`], but a port that is taken is replaced by any other: two commands from one configuration just
/// work, and nobody calls a command.
pub(super) fn lay_foundation_for_command(
    uapi_dir: Option<&Path>,
    choice: &NameChoice,
    config: Option<&Config>,
) -> Result<Foundation, StartError> {
    let udp = match bind(config) {
        Err(StartError::Port { port, source }) if source.kind() == io::ErrorKind::AddrInUse => {
            warn!("UDP port {port} is in use; listening on another");
            UdpPort::bind(0, 0).map_err(|source| StartError::Port { port: 0, source })
        }
        bound => bound,
    };
    lay(uapi_dir, choice, udp)
}

fn bind(config: Option<&Config>) -> Result<UdpPort, StartError> {
    let port = config.and_then(|config| config.interface.listen_port).unwrap_or(0);
    UdpPort::bind(port, 0).map_err(|source| StartError::Port { port, source })
}

fn lay(
    uapi_dir: Option<&Path>,
    choice: &NameChoice,
    udp: Result<UdpPort, StartError>,
) -> Result<Foundation, StartError> {
    let directory = instance::runtime_dir(uapi_dir)?;
    let instance = instance::claim(&directory, choice)?;
    let (listener, socket) = bind_socket(&instance)?;
    Ok(Foundation { instance, listener, socket, udp: udp? })
}

/// The name to take: the one given, or the first free one made of the configuration's.
pub(super) fn name_choice(
    given: Option<&InstanceName>,
    stem: Option<&str>,
    interface: &InterfaceName,
) -> NameChoice {
    match given {
        Some(name) => NameChoice::Exactly(name.clone()),
        None => NameChoice::StartingWith(default_name(stem, interface)),
    }
}

fn default_name(stem: Option<&str>, interface: &InterfaceName) -> InstanceName {
    let fallback: InstanceName = "wg".parse().expect("`wg` is a name");
    let fallback = InstanceName::sanitized(interface.as_str(), &fallback);
    stem.map_or_else(|| fallback.clone(), |stem| InstanceName::sanitized(stem, &fallback))
}

/// A device with the configuration applied; host-name endpoints come later, from the broker.
pub(super) fn make_device(config: Option<&Config>, udp: &UdpPort) -> Result<Device, StartError> {
    let now = clock::now();
    let mut device = Device::new(Box::new(SystemEntropy::new()));
    if let Some(config) = config {
        let mut update = config.to_update();
        // A rootless process cannot mark its datagrams; the configuration's warning has said so.
        update.fwmark = None;
        device.apply(update, now)?;
    }
    device.set_listen_port(udp.local_port());
    Ok(device)
}

/// What the interface shall carry.
pub(super) fn network_plan(config: Option<&Config>, mtu: Option<Mtu>, routes: bool) -> NetworkPlan {
    let mut plan = config.map(Config::network_plan).unwrap_or_default();
    plan.mtu = mtu.map(Mtu::bytes).or(plan.mtu).or_else(|| Some(mtu_to_peers(config, path_mtu)));
    if !routes {
        plan.routes.clear();
    }
    plan
}

/// What the narrowest way to a peer leaves, as far as the routes tell now. A name's way is not known yet, and one over
/// loopback says nothing: there stands a relay, and the way begins behind it.
fn mtu_to_peers(config: Option<&Config>, path_mtu: impl Fn(SocketAddr) -> Result<u32, OsError>) -> u32 {
    let endpoints = config.into_iter().flat_map(|config| &config.peers).filter_map(|peer| {
        let address = peer.endpoint.as_ref()?.address()?;
        (!address.ip().is_loopback()).then_some(address)
    });
    let ways = endpoints.filter_map(|endpoint| path_mtu(endpoint).ok());
    ways.min().map_or(DEFAULT_MTU, |way| way.saturating_sub(OUTER_HEADERS).max(MIN_MTU))
}

/// The resolv.conf of a target: the configuration's servers and domains, or those given instead; never the host's.
#[must_use]
pub fn resolv_conf(config: Option<&Config>, options: &DnsOptions) -> String {
    let interface = config.map(|config| &config.interface);
    let servers = options.servers.as_ref().or_else(|| interface.map(|interface| &interface.dns));
    let search = options.search.as_ref().or_else(|| interface.map(|interface| &interface.dns_search));
    let mut text = String::from("# written by wg4netns\n");
    if let Some(domains) = search.filter(|domains| !domains.is_empty()) {
        text.push_str(&format!("search {}\n", domains.join(" ")));
    }
    for server in servers.into_iter().flatten() {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

/// Endpoints that are host names, by peer.
pub(super) fn endpoint_names(config: Option<&Config>) -> Vec<(PublicKey, EndpointName)> {
    config.map(Config::endpoint_names).unwrap_or_default()
}

/// Starts the broker if there is a name to resolve. Must come before the sandbox.
pub(super) fn start_broker(
    names: &[(PublicKey, EndpointName)],
    helper: &Helper,
) -> Result<Option<Broker>, StartError> {
    if names.is_empty() { Ok(None) } else { Ok(Some(Broker::spawn(helper)?)) }
}

/// Writes down who we are, for `ls`, `status`, `stop` and `exec`; says who else has our configuration, and so our key.
pub(super) fn record(
    instance: &InstanceGuard,
    mode: &str,
    interface: &InterfaceName,
    target: RecordedTarget,
    config: Option<String>,
) -> Result<(), StartError> {
    if let Some(other) = config.as_deref().and_then(|config| sharer(instance, config)) {
        warn!("`{other}` runs with this configuration too: a peer answers whichever of both called last");
    }
    let record = InstanceRecord::of_this_process(mode, interface.clone(), target, config)
        .map_err(StartError::Machinery)?;
    Ok(instance.record(&record)?)
}

/// An instance with the same configuration, if there is one. Who cannot be asked does not keep us from starting.
fn sharer(instance: &InstanceGuard, config: &str) -> Option<InstanceName> {
    let others = instance::list(instance.directory()).unwrap_or_default();
    let shares = |other: &Instance| {
        other.record.as_ref().is_some_and(|record| record.config.as_deref() == Some(config))
    };
    // What stands in our own lock is of somebody who was killed.
    others.into_iter().filter(|other| other.name != *instance.name()).find(shares).map(|other| other.name)
}

/// Everything of a tunnel but its lifetime, from what was made one by one.
pub(super) struct Assembly {
    /// As [`lay_foundation`] made it, without the port.
    pub(super) instance: InstanceGuard,
    /// The configuration socket.
    pub(super) listener: UnixListener,
    /// Removes the socket's file.
    pub(super) socket: SocketGuard,
    /// What the tunnel is made of.
    pub(super) parts: TunnelParts,
    /// Forwards ports already; absent if there are none.
    pub(super) forwarder: Option<Forwarder>,
    /// Where an engine asks for ports to be published.
    pub(super) port_socket: Option<PortSocket>,
    /// Layers of their sandboxes that helpers could not have.
    pub(super) missing_layers: Vec<MissingLayer>,
    /// Helpers whose end nobody else sees.
    pub(super) helper_ends: Vec<HelperEnd>,
}

/// The interface a tunnel works on.
pub(super) struct Interface {
    link: Link,
    link_shutdown: Arc<Shutdown>,
    state: LinkState,
    rtnetlink: Option<RtnetlinkSockets>,
}

impl Interface {
    /// The one that a child handed over; says once what the child could not do.
    pub(super) fn from_handover(handover: ChildHandover) -> Result<Self, StartError> {
        for warning in &handover.warnings {
            warn!("{warning}");
        }
        let ChildHandover { tun, rtnetlink, interface, ifindex, mtu, up, .. } = handover;
        let queue = tun.into_iter().next().expect("a handover has at least one queue");
        let state = LinkState { index: ifindex, name: interface, mtu, up, loopback: false, alias: None };
        Self::over(queue, state, Some(rtnetlink))
    }

    /// One that somebody else made and configures.
    pub(super) fn from_tun(queue: OwnedFd, mtu: u32) -> Result<Self, StartError> {
        let name = tun::inspect(queue.as_fd())?.name;
        let state = LinkState { index: 0, name, mtu, up: true, loopback: false, alias: None };
        Self::over(queue, state, None)
    }

    /// A queue, what is known of its interface, and the sockets that tell and make its changes.
    pub(super) fn over(
        queue: OwnedFd,
        state: LinkState,
        rtnetlink: Option<RtnetlinkSockets>,
    ) -> Result<Self, StartError> {
        let link_shutdown = Shutdown::new()?;
        let link = Link::from_queue(queue, Arc::clone(&link_shutdown))?;
        if let Some(refusal) = link.offload_refusal() {
            warn!("{refusal}");
        }
        Ok(Self { link, link_shutdown, state, rtnetlink })
    }
}

/// Puts a tunnel together.
pub(super) fn assemble(
    foundation: Foundation,
    device: Device,
    interface: Interface,
    plan: NetworkPlan,
    names: Vec<(PublicKey, EndpointName)>,
    broker: Option<Broker>,
    eager: bool,
) -> Assembly {
    let Foundation { instance, listener, socket, udp } = foundation;
    let Interface { link, link_shutdown, state, rtnetlink } = interface;
    debug!(port = udp.local_port(), interface = state.name, mtu = state.mtu, "set up");
    let parts = TunnelParts {
        name: instance.name().to_string(),
        device,
        link,
        link_shutdown,
        state,
        rtnetlink,
        udp,
        broker,
        names,
        plan,
        eager,
        sandbox: Sandbox::default(),
    };
    Assembly {
        instance,
        listener,
        socket,
        parts,
        forwarder: None,
        port_socket: None,
        missing_layers: Vec::new(),
        helper_ends: Vec::new(),
    }
}

/// Gives up everything a running tunnel does not need; says once which layers this kernel could not give, and of those it
/// could, which one of the helpers is without.
pub(super) fn lock_down(
    assembly: &mut Assembly,
    keep_net_admin: bool,
    policy: Policy,
) -> Result<(), StartError> {
    let socket_directory = assembly.instance.directory().path().to_owned();
    let sandbox = sandbox::lock_down(&Role::Tunnel { socket_directory, keep_net_admin }, policy)?;
    let mut helpers = std::mem::take(&mut assembly.missing_layers);
    if let Some(broker) = &mut assembly.parts.broker {
        helpers.extend(broker.missing_layers()?);
    }
    helpers.retain(|missing| sandbox.on.contains(&missing.layer));
    if policy == Policy::Require && !helpers.is_empty() {
        return Err(helpers.remove(0).into());
    }
    for missing in sandbox.missing.iter().chain(&helpers) {
        warn!("{missing}");
    }
    if let Some(error) = secret_memory::lock_failure() {
        warn!("keys are not locked into memory and may be swapped out: {error}");
    }
    assembly.parts.sandbox = sandbox;
    Ok(())
}

/// What a tunnel's end means for whoever started it.
pub(super) fn end_of(end: TunnelEnd) -> Result<(), StartError> {
    match end {
        TunnelEnd::LinkDeleted => {
            info!("the interface was deleted");
            Ok(())
        }
        TunnelEnd::Failed { operation, source } => Err(StartError::Failed { operation, source }),
    }
}

/// One line about the first handshake.
pub(super) fn log_established(established: &Established) {
    let Established { peer, took } = established;
    info!(%peer, ?took, "a peer has answered");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mtu_is_what_the_narrowest_way_to_a_peer_leaves() {
        let config = |endpoints: &[&str]| {
            let key = "cAqyFQvIVaSMmLxVKpkKCwWT+TU/fIRUNjQh+2UCAGA=";
            let mut text = format!("[Interface]\nPrivateKey = {key}\n");
            for (index, endpoint) in endpoints.iter().enumerate() {
                let public = PublicKey::from_bytes([u8::try_from(index).unwrap() + 1; 32]).to_base64();
                text.push_str(&format!("[Peer]\nPublicKey = {public}\nEndpoint = {endpoint}\n"));
            }
            Config::parse(&text, "wg0.conf").unwrap()
        };
        let way = |to: SocketAddr| match to.port() {
            0..1000 => Err(nix::errno::Errno::ENETUNREACH.into()),
            port => Ok(u32::from(port)),
        };
        for (endpoints, wanted) in [
            (&[][..], 1420),
            (&["192.0.2.1:1500"], 1420),
            (&["192.0.2.1:9000"], 8920),
            (&["[2001:db8::1]:1492", "192.0.2.1:9000", "192.0.2.2:1"], 1412),
            (&["192.0.2.1:1300"], 1280),
            (&["192.0.2.1:1"], 1420),
            (&["127.0.0.1:65000", "a.example:9000"], 1420),
        ] {
            assert_eq!(mtu_to_peers(Some(&config(endpoints)), way), wanted, "{endpoints:?}");
        }
    }
}
