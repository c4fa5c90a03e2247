//! What each mode is asked to do, checked and typed. (wiring)
//!
//! `cli` and `compat` make these from what was typed; the modes take them and never see a flag. A descriptor in here
//! is owned: it was adopted once, is close-on-exec, and closes with the request.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::publish::ForwardPlan;
use crate::driver::config_file::{self, ConfigFileError, LoadedConfig};
use crate::driver::instance::InstanceName;
use crate::driver::interface_name::InterfaceName;
use crate::driver::logging::LogOptions;
use crate::driver::mtu::Mtu;
use crate::driver::target::Target;
use crate::key::PublicKey;
use crate::sys::sandbox::Policy;

/// Where the interface is to be.
#[derive(Debug)]
pub enum AttachTarget {
    /// In this namespace; we make it.
    Namespace(Target),
    /// A TUN device that somebody else made; its addresses, routes and MTU are theirs too.
    Tun(OwnedFd),
}

/// Where the configuration comes from. Resolved by one function, never guessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Sought as `NAME.conf` in the user's and the system's configuration directory.
    Name(String),
    /// This file.
    Path(PathBuf),
    /// Standard input, to its end.
    Stdin,
    /// The value of this environment variable, which is then removed.
    Variable(String),
    /// One of the others, refused if somebody else may read its keys.
    Private(Box<Self>),
}

impl ConfigSource {
    /// What `--config` means: `-`, a path (it has a `/` or ends in `.conf`), else a name.
    #[must_use]
    pub fn from_flag(value: &str) -> Self {
        match value {
            "-" => Self::Stdin,
            path if path.contains('/') || path.ends_with(".conf") => Self::Path(path.into()),
            name => Self::Name(name.into()),
        }
    }

    /// Itself, or itself as [`Private`](Self::Private).
    #[must_use]
    pub fn strict(self, is_strict: bool) -> Self {
        if is_strict { Self::Private(Box::new(self)) } else { self }
    }

    /// Reads and checks what it names.
    ///
    /// # Errors
    /// It is not there, cannot be read, or has a mistake.
    pub fn load(&self) -> Result<LoadedConfig, ConfigFileError> {
        match self {
            Self::Name(name) => config_file::load(&config_file::find(name)?),
            Self::Path(path) => config_file::load(path),
            Self::Private(source) => source.load()?.unexposed(),
            Self::Stdin => config_file::load_stdin(),
            Self::Variable(name) => config_file::load_variable(name),
        }
    }
}

/// Name servers and search domains that replace those of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// Absent: as the configuration says. Empty: none (`--dns none`).
    pub servers: Option<Vec<IpAddr>>,
    /// Absent: as the configuration says. Empty: none (`--dns-search .`).
    pub search: Option<Vec<String>>,
}

/// Whom to tell that the tunnel is ready, and how to leave the caller.
#[derive(Debug, Default)]
pub struct ReadyOptions {
    /// Written to and closed when ready.
    pub ready_fd: Option<OwnedFd>,
    /// Holds our pid while we run.
    pub pidfile: Option<PathBuf>,
    /// Return to the caller when ready and go on in the background.
    pub background: bool,
    /// Ready only when a peer has answered; fail after this long.
    pub wait_handshake: Option<Duration>,
}

/// What a container engine expects of a namespace beside the interface; nothing, where none is involved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineNeeds {
    /// There is an engine, which shows what we print only as the reason of a failure.
    pub is_engine: bool,
    /// What the tunnel is called if nobody says; taken with a number if there is one of this name.
    pub preferred_name: Option<String>,
    /// The engine made an interface of this name for a driver of another kind, and configures it when we are ready.
    pub configures_interface: bool,
    /// Take ports to publish, while the tunnel runs, from a socket at this path: see
    /// [`port_socket`](crate::driver::port_socket).
    pub port_socket: Option<PathBuf>,
    /// Addresses that the engine dials from inside the namespace.
    pub local_addresses: Vec<IpAddr>,
    /// Addresses by which programs inside ask for the host, and are refused.
    pub refused_addresses: Vec<IpAddr>,
    /// Name servers that the engine tells programs inside of beside the one that we are; questions to them stay inside.
    pub host_resolvers: Vec<IpAddr>,
    /// No larger packets, whatever the configuration says. Engines ask for what suits their own forwarder, so this
    /// lowers the MTU but never raises it.
    pub mtu_ceiling: Option<Mtu>,
}

/// A WireGuard interface in an existing namespace.
#[derive(Debug)]
pub struct AttachRequest {
    /// Where.
    pub target: AttachTarget,
    /// Absent: a bare interface, to be configured over its socket.
    pub config: Option<ConfigSource>,
    /// The interface's name inside.
    pub interface: InterfaceName,
    /// Absent: chosen from the configuration's name; only a given one may fail as taken.
    pub name: Option<InstanceName>,
    /// Absent: as the configuration says, else what the way to the peer leaves.
    pub mtu: Option<Mtu>,
    /// Directory of the configuration socket; absent: the user's.
    pub uapi_dir: Option<PathBuf>,
    /// End when the other end of this descriptor is closed.
    pub exit_fd: Option<OwnedFd>,
    /// Whom to tell that the tunnel is ready.
    pub ready: ReadyOptions,
    /// Make routes for the allowed IPs.
    pub routes: bool,
    /// Allow other links that are up in the target (there is no kill switch then).
    pub keep_other_links: bool,
    /// Leave addresses, routes and bringing it up to the caller, whatever the configuration says.
    pub bare: bool,
    /// End when somebody removes the configuration socket.
    pub end_with_socket: bool,
    /// What a container engine expects beside the interface.
    pub engine: EngineNeeds,
    /// What crosses the wall beside the tunnel. A DNS alias without servers asks the configuration's.
    pub forwards: ForwardPlan,
    /// Replaces the configuration's DNS.
    pub dns: DnsOptions,
    /// Write a resolv.conf for the target to this file.
    pub write_resolv_conf: Option<PathBuf>,
    /// What to do where a layer of the sandbox cannot be had.
    pub sandbox: Policy,
    /// How and how much to log.
    pub log: LogOptions,
}

/// Where `run` reports to afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportTarget {
    /// Plain text, to standard error.
    Stderr,
    /// Appended to this file; Markdown when it is the one that `$GITHUB_STEP_SUMMARY` names.
    File(PathBuf),
}

/// A command in a namespace of its own.
#[derive(Debug)]
pub struct RunRequest {
    /// Where the configuration comes from.
    pub config: ConfigSource,
    /// The interface's name inside.
    pub interface: InterfaceName,
    /// Absent: chosen from the configuration's name.
    pub name: Option<InstanceName>,
    /// Absent: as the configuration says, else what the way to the peer leaves.
    pub mtu: Option<Mtu>,
    /// Directory of the configuration socket; absent: the user's.
    pub uapi_dir: Option<PathBuf>,
    /// Start the command at once instead of when a peer has answered.
    pub no_wait: bool,
    /// How long a peer may take to answer.
    pub wait_handshake: Duration,
    /// The command sees itself as root.
    pub map_root: bool,
    /// What crosses the wall beside the tunnel.
    pub forwards: ForwardPlan,
    /// Report bytes, handshake and refusals afterwards.
    pub report: Option<ReportTarget>,
    /// Replaces the configuration's DNS.
    pub dns: DnsOptions,
    /// Program and arguments; empty: the user's shell.
    pub command: Vec<OsString>,
    /// What to do where a layer of the sandbox cannot be had.
    pub sandbox: Policy,
    /// How and how much to log.
    pub log: LogOptions,
}

/// A command in the namespace of a running tunnel.
#[derive(Debug)]
pub struct ExecRequest {
    /// Whose namespace.
    pub name: InstanceName,
    /// Directory of the configuration socket; absent: the user's.
    pub uapi_dir: Option<PathBuf>,
    /// Program and arguments; empty: the user's shell.
    pub command: Vec<OsString>,
    /// How and how much to log.
    pub log: LogOptions,
}

/// The demonstration, or a peer that stays.
#[derive(Debug)]
pub struct DemoRequest {
    /// Stay up as a peer and print a configuration for it, instead of the show.
    pub peer: Option<DemoPeerOptions>,
    /// How and how much to log.
    pub log: LogOptions,
}

/// What `demo --peer` is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoPeerOptions {
    /// Where to listen in the host's namespaces; port 0 lets the kernel choose.
    pub listen: std::net::SocketAddr,
    /// Write the configuration to this file instead of standard output.
    pub config_out: Option<PathBuf>,
    /// Each client gets a preshared key.
    pub preshared_key: bool,
    /// Clients that have a key of their own already.
    pub public_keys: Vec<PublicKey>,
    /// Clients whose private key is made up here and printed.
    pub clients: u8,
    /// End when the parent ends.
    pub exit_with_parent: bool,
}

impl Default for DemoPeerOptions {
    fn default() -> Self {
        Self {
            listen: std::net::SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 0),
            config_out: None,
            preshared_key: false,
            public_keys: Vec::new(),
            clients: 1,
            exit_with_parent: false,
        }
    }
}

/// An interface in the current namespace, as wireguard-go makes one.
#[derive(Debug)]
pub struct DeviceRequest {
    /// The interface's name.
    pub interface: InterfaceName,
    /// Do not go to the background.
    pub foreground: bool,
    /// Directory of the configuration socket; absent: `/var/run/wireguard` as `wg` expects it.
    pub uapi_dir: Option<PathBuf>,
    /// Use this TUN device instead of making one.
    pub tun: Option<OwnedFd>,
    /// Serve this listening socket instead of making one.
    pub listener: Option<OwnedFd>,
    /// What to do where a layer of the sandbox cannot be had.
    pub sandbox: Policy,
    /// How and how much to log.
    pub log: LogOptions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_flag_is_a_path_only_when_it_looks_like_one() {
        assert_eq!(ConfigSource::from_flag("-"), ConfigSource::Stdin);
        assert_eq!(ConfigSource::from_flag("office"), ConfigSource::Name("office".into()));
        assert_eq!(ConfigSource::from_flag("wg0.conf"), ConfigSource::Path("wg0.conf".into()));
        assert_eq!(ConfigSource::from_flag("./office"), ConfigSource::Path("./office".into()));
    }
}
