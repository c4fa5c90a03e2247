//! The peer of the demonstration: an independent WireGuard in a namespace of its own, with something to talk to. (wiring)
//!
//! # Theory of operation
//! One process. It binds its UDP socket in the host's namespaces, moves itself into a new user and network namespace, makes a
//! TUN there, and becomes the only inhabitant: page, DNS, echo, sink and source are threads of it, so the far
//! side of the tunnel is reachable through the tunnel and by nothing else. The socket stays behind, as it does for the
//! product itself. boringtun runs between the two (`engine`); the configuration for the other side is printed once
//! everything answers, and from then on nothing more is written to standard output, which is closed.

mod dns;
mod engine;
mod services;

use std::fs::OpenOptions;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt;
use nix::unistd::{Pid, getegid, geteuid, getppid};
use tracing::info;

use crate::crypto::{Entropy, SystemEntropy};
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::logging::{self, LogDestination, LogError, LogOptions};
use crate::key::{KEY_LEN, PresharedKey, PrivateKey, PublicKey};
use crate::mode::request::DemoPeerOptions;
use crate::packet::batch::VNET_HEADER_LEN;
use crate::sys::namespace::{self, NamespaceKind};
use crate::sys::netlink::{LinkSetting, Netlink, NetlinkError};
use crate::sys::os_error::OsError;
use crate::sys::tun::{self, TunError};
use crate::sys::wait;

use dns::Zone;
use engine::{Client, Engine, Output};
pub use services::{
    DNS_PORT, ECHO_PORT, PAGE_PORT, SINK_PORT, SOURCE_PORT, ServiceError, spawn_bulk as serve_bulk,
};

/// The hidden first argument that makes the program the demonstration's own peer, ending with its parent.
pub const ARGUMENT: &str = "__demo-peer";

/// The name that the peer's DNS knows.
pub const NAME: &str = dns::NAME;

/// The peer's own addresses inside the tunnel.
pub const ADDRESSES: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

/// Who serves the page.
const SPEAKER: &str = "boringtun 0.7.1, an independent implementation of WireGuard";

/// Prefix lengths of the tunnel's two networks.
const PREFIXES: (u8, u8) = (24, 64);

/// 1500 less what WireGuard adds over IPv6, as every implementation assumes.
const MTU: u16 = 1420;

/// Between two ticks of boringtun's timers.
const TICK: Duration = Duration::from_millis(100);

/// Packets and datagrams moved before the other direction gets its turn.
const BURST: usize = 64;

/// Room for datagrams that arrive while packets are written: a burst of a fast sender.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Why the peer could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The address is taken or not ours.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The tunnel's network has no more addresses.
    #[error("the peer serves at most {limit} clients")]
    TooManyClients {
        /// The limit.
        limit: usize,
    },
    /// Forbidden by the kernel or by the sandbox we run in.
    #[error("cannot create a user and a network namespace")]
    Namespace(#[source] OsError),
    /// The new namespace has no users.
    #[error("cannot write `{path}`")]
    Map {
        /// Which map.
        path: PathBuf,
        /// What the system said.
        source: OsError,
    },
    /// No TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// It could not be given its addresses.
    #[error("cannot configure the peer's interface")]
    Link(#[from] NetlinkError),
    /// The interface that was just made is not there.
    #[error("the peer's interface has vanished")]
    LinkGone,
    /// Nothing to talk to.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The configuration could not be handed out.
    #[error("cannot write the configuration to `{path}`")]
    Config {
        /// A file, or standard output.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Logging was started before.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The tunnel's descriptors cannot be waited for any more.
    #[error("the peer's tunnel has broken down")]
    Broken(#[source] io::Error),
}

impl Failure for PeerError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => FailureClass::InUse,
            Self::TooManyClients { .. } => FailureClass::Usage,
            Self::Namespace(_) | Self::Map { .. } | Self::Tun(_) | Self::Link(_) => FailureClass::Kernel,
            Self::Listen { .. }
            | Self::LinkGone
            | Self::Service(_)
            | Self::Signals(_)
            | Self::Log(_)
            | Self::Config { .. }
            | Self::Broken(_) => FailureClass::General,
        }
    }
}

/// A client and what its configuration needs besides.
struct Invited {
    client: Client,
    /// Absent if the client has made its own.
    private_key: Option<PrivateKey>,
}

/// Runs the peer until SIGTERM or SIGINT. Must be called before any thread was started.
///
/// # Errors
/// See [`PeerError`].
pub fn run(options: &DemoPeerOptions, log: LogOptions) -> Result<(), PeerError> {
    let parent = getppid();
    logging::start(log, &LogDestination::Stderr)?;
    let signals = block_signals().map_err(PeerError::Signals)?;
    let listening = |source| PeerError::Listen { address: options.listen, source };
    let socket = UdpSocket::bind(options.listen).map_err(listening)?;
    socket.set_nonblocking(true).map_err(listening)?;
    // More where the system's limit allows; less is only slower.
    let _limited = nix::sys::socket::setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    let endpoint = reachable_as(socket.local_addr().map_err(listening)?);

    let key = PrivateKey::from_bytes(fresh_bytes());
    let invited = invite(options)?;
    let clients: Vec<Client> = invited.iter().map(|one| one.client.clone()).collect();

    enter_namespace()?;
    if options.exit_with_parent {
        end_with(parent).map_err(PeerError::Signals)?;
    }
    let tun = make_interface()?;
    services::spawn(Zone { v4: ADDRESSES.0, v6: ADDRESSES.1 }, SPEAKER)?;

    let text = configurations(&key.public_key(), &invited, endpoint);
    drop(invited); // the private keys of the clients are theirs alone from here on
    hand_out(&text, options)?;
    info!(%endpoint, clients = clients.len(), "listening");
    pump(&mut Engine::new(&key, &clients, MTU.into()), &tun, &socket, &signals).map_err(PeerError::Broken)
}

/// From here on SIGTERM and SIGINT are read, not suffered; threads inherit that.
fn block_signals() -> io::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn invite(options: &DemoPeerOptions) -> Result<Vec<Invited>, PeerError> {
    // .0 is the network, .1 the peer, .255 the broadcast address.
    const LIMIT: usize = 253;
    let made_up = (0..options.clients).map(|_| {
        let key = PrivateKey::from_bytes(fresh_bytes());
        (key.public_key(), Some(key))
    });
    let known = options.public_keys.iter().map(|key| (*key, None));
    let keys: Vec<_> = made_up.chain(known).collect();
    if keys.len() > LIMIT {
        return Err(PeerError::TooManyClients { limit: LIMIT });
    }
    let invited = (2_u8..).zip(keys).map(|(host, (public_key, private_key))| {
        let preshared_key = options.preshared_key.then(|| PresharedKey::from_bytes(fresh_bytes()));
        let addresses = client_addresses(host).map(|net| net.addr()).to_vec();
        Invited { client: Client { public_key, preshared_key, addresses }, private_key }
    });
    Ok(invited.collect())
}

fn fresh_bytes() -> [u8; KEY_LEN] {
    let mut bytes = [0; KEY_LEN];
    SystemEntropy::new().fill(&mut bytes);
    bytes
}

/// The tunnel's networks with `host` as the host part.
fn client_addresses(host: u8) -> [IpNet; 2] {
    let mut v4 = ADDRESSES.0.octets();
    v4[3] = host;
    let mut v6 = ADDRESSES.1.octets();
    v6[15] = host;
    [IpNet::new_assert(IpAddr::from(v4), PREFIXES.0), IpNet::new_assert(IpAddr::from(v6), PREFIXES.1)]
}

/// A wildcard is not an address that a client can be told.
fn reachable_as(bound: SocketAddr) -> SocketAddr {
    let address = match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    };
    SocketAddr::new(address, bound.port())
}

fn enter_namespace() -> Result<(), PeerError> {
    let outside = (geteuid().as_raw(), getegid().as_raw());
    namespace::unshare(&[NamespaceKind::User, NamespaceKind::Network]).map_err(PeerError::Namespace)?;
    namespace::map_one_user((0, 0), outside).map_err(|(path, source)| PeerError::Map { path, source })
}

/// Must follow the change of credentials, which would undo it.
fn end_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(io::Error::other("the parent has ended already"));
    }
    Ok(())
}

/// The TUN, up and with its addresses; loopback up as well.
fn make_interface() -> Result<OwnedFd, PeerError> {
    const INTERFACE: &str = "wg0";
    let tun = tun::create(INTERFACE, 1)?.pop().ok_or(PeerError::LinkGone)?;
    let mut netlink = Netlink::open()?;
    for name in ["lo", INTERFACE] {
        let index = netlink.link_named(name)?.ok_or(PeerError::LinkGone)?.index;
        if name == INTERFACE {
            netlink.set_link(index, LinkSetting::Mtu(MTU.into()))?;
            let [v4, v6] = client_addresses(1);
            netlink.add_address(index, v4)?;
            // A kernel without IPv6 still makes a demonstration.
            let v6 = netlink.add_address(index, v6);
            v6.or_else(|error| if is_unsupported(&error) { Ok(()) } else { Err(error) })?;
        }
        netlink.set_link(index, LinkSetting::Up(true))?;
    }
    Ok(tun)
}

fn is_unsupported(error: &NetlinkError) -> bool {
    use nix::errno::Errno;
    error.os_error().is_some_and(|error| error.is(Errno::EOPNOTSUPP) || error.is(Errno::EACCES))
}

/// One configuration for each client, the first one first.
fn configurations(ours: &PublicKey, invited: &[Invited], endpoint: SocketAddr) -> String {
    let mut text = String::new();
    for (number, Invited { client, private_key }) in (1..).zip(invited) {
        let host = match client.addresses[0] {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let [v4, v6] = client_addresses(host);
        let private_key = private_key.as_ref().map_or_else(
            || format!("# PrivateKey = the one of {}", client.public_key.to_base64()),
            |key| format!("PrivateKey = {}", *key.to_base64()),
        );
        let preshared_key = client.preshared_key.as_ref();
        let preshared_key =
            preshared_key.map_or_else(String::new, |key| format!("PresharedKey = {}\n", *key.to_base64()));
        text += &format!(
            "# wg4netns demo peer, client {number}: http://{NAME}/ is a page inside the tunnel\n\
             [Interface]\n{private_key}\nAddress = {v4}, {v6}\nDNS = {}\n\n\
             [Peer]\nPublicKey = {}\n{preshared_key}AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {endpoint}\n",
            ADDRESSES.0,
            ours.to_base64(),
        );
    }
    text
}

/// Writes the configurations and then closes standard output, so that a reader sees their end.
fn hand_out(text: &str, options: &DemoPeerOptions) -> Result<(), PeerError> {
    let failed = |path: &str, source| PeerError::Config { path: path.to_owned(), source };
    if let Some(path) = &options.config_out {
        let mut file = OpenOptions::new();
        file.write(true).create(true).truncate(true).mode(0o600);
        let written = file.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| failed(&path.to_string_lossy(), source))?;
    } else {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|source| failed("standard output", source))?;
    }
    let nowhere = OpenOptions::new().write(true).open("/dev/null");
    nowhere
        .and_then(|file| Ok(nix::unistd::dup2_stdout(&file)?))
        .map_err(|source| failed("/dev/null", source))
}

/// Moves packets and datagrams until a signal asks for the end.
fn pump(engine: &mut Engine, tun: &OwnedFd, socket: &UdpSocket, signals: &SignalFd) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    let mut next_tick = crate::sys::clock::boot_nanos();
    let mut output = |output: Output<'_>| send(tun, socket, &output);
    loop {
        let now = crate::sys::clock::boot_nanos();
        if now >= next_tick {
            engine.handle_tick(&mut output);
            next_tick = now + u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
        }
        let mut fds =
            [tun.as_fd(), socket.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        wait::poll(&mut fds, Some(Duration::from_nanos(next_tick - now)))?;
        if signals.read_signal().is_ok_and(|signal| signal.is_some()) {
            return Ok(());
        }
        for _ in 0..BURST {
            let Some(packet) = read_packet(tun, &mut buffer) else { break };
            engine.handle_packet(packet, &mut output);
        }
        for _ in 0..BURST {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { break };
            engine.handle_datagram(&buffer[..len], from, &mut output);
        }
    }
}

/// The next packet of the TUN without its virtio-net header, which is empty: no offload was asked for.
fn read_packet<'a>(tun: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let len = tun::read(tun.as_fd(), &mut [IoSliceMut::new(buffer)]).ok()?;
    buffer.get(VNET_HEADER_LEN..len)
}

/// One by one and without waiting: what the kernel has no room for is lost, as on any network.
fn send(tun: &OwnedFd, socket: &UdpSocket, output: &Output<'_>) {
    match *output {
        Output::Datagram(datagram, to) => drop(socket.send_to(datagram, to)),
        Output::Packet(packet) => {
            let header = [0; VNET_HEADER_LEN];
            drop(tun::write(tun.as_fd(), &[IoSlice::new(&header), IoSlice::new(packet)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_gets_its_own_addresses_and_preshared_key() {
        let options = DemoPeerOptions { clients: 2, preshared_key: true, ..DemoPeerOptions::default() };
        let invited = invite(&options).unwrap();
        let text = configurations(&PublicKey::from_bytes([1; 32]), &invited, options.listen);
        assert!(text.contains("\nAddress = 10.77.0.2/24, fd77::2/64\n"), "{text}");
        assert!(text.contains("\nAddress = 10.77.0.3/24, fd77::3/64\n"), "{text}");
        assert_ne!(invited[0].client.preshared_key, invited[1].client.preshared_key);
        assert_eq!(text.matches("\nPresharedKey = ").count(), 2);
    }

    #[test]
    fn a_client_with_a_key_of_its_own_is_told_no_private_key() {
        let theirs = PrivateKey::from_bytes([3; 32]).public_key();
        let options = DemoPeerOptions { clients: 0, public_keys: vec![theirs], ..DemoPeerOptions::default() };
        let invited = invite(&options).unwrap();
        let text = configurations(&PublicKey::from_bytes([1; 32]), &invited, options.listen);
        assert!(!text.contains("\nPrivateKey") && text.contains(&theirs.to_base64()), "{text}");
    }

    #[test]
    fn clients_beyond_the_network_are_refused() {
        let mut options = DemoPeerOptions { clients: 253, ..DemoPeerOptions::default() };
        assert_eq!(invite(&options).unwrap().last().unwrap().client.addresses[0].to_string(), "10.77.0.254");
        options.public_keys = vec![PublicKey::from_bytes([1; 32])];
        assert!(matches!(invite(&options), Err(PeerError::TooManyClients { limit: 253 })));
    }

    #[test]
    fn a_wildcard_is_told_as_loopback() {
        for (bound, told) in
            [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("127.0.0.1:7", "127.0.0.1:7")]
        {
            assert_eq!(reachable_as(bound.parse().unwrap()), told.parse().unwrap());
        }
    }
}
