//! `run`, `exec`, `demo` and `device`: flags and their requests. (cli)

use std::ffi::OsString;
#[cfg(feature = "demo")]
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args_shared::{
    ArgsError, ConfigArgs, DnsArgs, ForwardArgs, InterfaceArgs, LogArgs, SandboxArgs, parse_directory,
    parse_duration,
};
use crate::driver::instance::InstanceName;
use crate::driver::interface_name::InterfaceName;
use crate::driver::logging::LogLevel;
#[cfg(feature = "demo")]
use crate::key::PublicKey;
#[cfg(feature = "demo")]
use crate::mode::request::{DemoPeerOptions, DemoRequest};
use crate::mode::request::{DeviceRequest, ExecRequest, ReportTarget, RunRequest};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    link: InterfaceArgs,
    /// Start the command at once, not when a peer has answered
    #[arg(long, conflicts_with = "wait_handshake")]
    no_wait: bool,
    /// How long a peer may take to answer, in seconds
    #[arg(long, value_name = "SECS", require_equals = true, default_value = "10", value_parser = parse_duration)]
    wait_handshake: Duration,
    /// Let the command see itself as root
    #[arg(long)]
    map_root: bool,
    /// Report traffic, handshake and refused packets afterwards; Markdown if FILE is $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    report: Option<PathBuf>,
    #[command(flatten)]
    forwards: ForwardArgs,
    #[command(flatten)]
    dns: DnsArgs,
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    log: LogArgs,
    /// The command and its arguments (default: your shell)
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,
}

impl RunArgs {
    /// Typed.
    ///
    /// # Errors
    /// No configuration; flags that exclude each other.
    pub(super) fn into_request(self) -> Result<RunRequest, ArgsError> {
        let report = self.report.map(|file| {
            if file.as_os_str() == "-" { ReportTarget::Stderr } else { ReportTarget::File(file) }
        });
        Ok(RunRequest {
            config: self.config.source().ok_or_else(|| no_config(&self.command))?,
            interface: self.link.interface,
            name: self.link.name,
            mtu: self.link.mtu,
            uapi_dir: self.link.uapi_dir,
            no_wait: self.no_wait,
            wait_handshake: self.wait_handshake,
            map_root: self.map_root,
            forwards: self.forwards.plan(),
            report,
            dns: self.dns.options()?,
            command: self.command,
            sandbox: self.sandbox.policy(),
            log: self.log.options(LogLevel::Warn),
        })
    }
}

/// Whatever is behind the command is the command's: so is a flag that was meant for us.
fn no_config(command: &[OsString]) -> ArgsError {
    let is_config = |word: &str| word == "--config" || word.starts_with("--config=");
    if command.iter().filter_map(|word| word.to_str()).any(is_config) {
        ArgsError::ConfigBehindCommand
    } else {
        ArgsError::NoConfig
    }
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Name of the tunnel, as `ls` shows it
    name: InstanceName,
    /// Directory of the socket (default: $XDG_RUNTIME_DIR/wireguard)
    #[arg(long, value_name = "DIR", value_parser = parse_directory)]
    uapi_dir: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    /// The command and its arguments (default: your shell)
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<OsString>,
}

impl ExecArgs {
    /// Typed.
    #[must_use]
    pub(super) fn into_request(self) -> ExecRequest {
        ExecRequest {
            name: self.name,
            uapi_dir: self.uapi_dir,
            command: self.command,
            log: self.log.options(LogLevel::Warn),
        }
    }
}

/// Arguments of `demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Stay up as a peer and print a configuration for it, instead of the show
    #[arg(long)]
    peer: bool,
    /// UDP address the peer listens on
    #[arg(long, value_name = "ADDR:PORT", requires = "peer", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the peer's configuration to this file instead of standard output
    #[arg(long, value_name = "FILE", requires = "peer")]
    config_out: Option<PathBuf>,
    /// Use a preshared key
    #[arg(long, requires = "peer")]
    psk: bool,
    /// Serve this many clients and print a configuration for each (default: 1, or none with --public-key)
    #[arg(long, value_name = "N", requires = "peer")]
    clients: Option<u8>,
    /// Serve a client that has this public key; may be repeated
    #[arg(long, value_name = "KEY", requires = "peer", value_parser = PublicKey::parse_base64)]
    public_key: Vec<PublicKey>,
    #[command(flatten)]
    log: LogArgs,
}

#[cfg(feature = "demo")]
impl DemoArgs {
    /// Typed.
    #[must_use]
    pub(super) fn into_request(self) -> DemoRequest {
        let options = DemoPeerOptions {
            listen: self.listen,
            config_out: self.config_out,
            preshared_key: self.psk,
            clients: self.clients.unwrap_or_else(|| u8::from(self.public_key.is_empty())),
            public_keys: self.public_key,
            exit_with_parent: false,
        };
        DemoRequest { peer: self.peer.then_some(options), log: self.log.options(LogLevel::Warn) }
    }
}

/// Arguments of `device`.
#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Name of the interface
    interface: InterfaceName,
    /// Stay in the foreground
    #[arg(long, short)]
    foreground: bool,
    /// Directory of the socket (default: /var/run/wireguard, where `wg` looks)
    #[arg(long, value_name = "DIR", value_parser = parse_directory)]
    uapi_dir: Option<PathBuf>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    log: LogArgs,
}

impl DeviceArgs {
    /// Typed.
    #[must_use]
    pub(super) fn into_request(self) -> DeviceRequest {
        DeviceRequest {
            interface: self.interface,
            foreground: self.foreground,
            uapi_dir: self.uapi_dir,
            tun: None,
            listener: None,
            sandbox: self.sandbox.policy(),
            log: self.log.options(LogLevel::Info),
        }
    }
}
