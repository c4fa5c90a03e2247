//! `attach`: flags and their request. (cli)

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args_shared::{
    ArgsError, ConfigArgs, Descriptors, DnsArgs, ForwardArgs, InterfaceArgs, LogArgs, SandboxArgs,
    parse_descriptor, parse_duration, parse_pid,
};
use crate::config::publish::DnsAlias;
use crate::driver::logging::LogLevel;
use crate::driver::target::Target;
use crate::mode::request::{AttachRequest, AttachTarget, EngineNeeds, ReadyOptions};

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The user namespace to enter first (default: the owner of the network namespace)
    #[arg(long, value_name = "PATH")]
    userns: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    link: InterfaceArgs,
    /// Write `1` to this descriptor and close it when the interface is configured
    #[arg(long, value_name = "FD", value_parser = parse_descriptor)]
    ready_fd: Option<u32>,
    /// End when the other end of this descriptor is closed
    #[arg(long, value_name = "FD", value_parser = parse_descriptor)]
    exit_fd: Option<u32>,
    /// Write our process id to this file, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Return when ready; go on in the background
    #[arg(long, short)]
    background: bool,
    /// Be ready only when a peer has answered; fail if none has after SECS (default 10)
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true, default_missing_value = "10", value_parser = parse_duration)]
    wait_handshake: Option<Duration>,
    /// Make no routes for the allowed IPs
    #[arg(long)]
    no_routes: bool,
    /// Attach although the target has another link that is up: there is no kill switch then
    #[arg(long)]
    keep_other_links: bool,
    #[command(flatten)]
    forwards: ForwardArgs,
    /// Answer DNS on this address inside by asking the configuration's servers through the tunnel; may be repeated
    #[arg(long, value_name = "IP")]
    dns_forward: Vec<IpAddr>,
    #[command(flatten)]
    dns: DnsArgs,
    /// Write a resolv.conf for the target to this file
    #[arg(long, value_name = "FILE")]
    write_resolv_conf: Option<PathBuf>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Exactly one of these says where to.
#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "target")]
struct TargetArgs {
    /// The network namespace of this process
    #[arg(long, value_name = "PID", value_parser = parse_pid)]
    netns_pid: Option<u32>,
    /// This network namespace file
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// This TUN device; its addresses, routes and MTU are the caller's
    #[arg(long, value_name = "FD", value_parser = parse_descriptor)]
    tun_fd: Option<u32>,
}

impl AttachArgs {
    /// Typed, with the descriptors adopted.
    ///
    /// # Errors
    /// A descriptor that is not open or is named twice; flags that exclude each other.
    pub(super) fn into_request(self) -> Result<AttachRequest, ArgsError> {
        // clap does not enforce `requires` on a member of a group when another member is given.
        if self.userns.is_some() && self.target.netns.is_none() {
            return Err(ArgsError::Missing { flag: "--userns", needs: "--netns PATH" });
        }
        if self.dns.is_given() && self.write_resolv_conf.is_none() && self.dns_forward.is_empty() {
            return Err(ArgsError::Missing { flag: "--dns", needs: "--write-resolv-conf FILE" });
        }
        let mut forwards = self.forwards.plan();
        forwards.dns_alias = (!self.dns_forward.is_empty())
            .then(|| DnsAlias { listen: self.dns_forward, ..DnsAlias::default() });
        let mut descriptors = Descriptors::default();
        let tun = descriptors.adopt("--tun-fd", self.target.tun_fd)?;
        let target = match (tun, self.target.netns_pid, self.target.netns) {
            (Some(tun), _, _) => AttachTarget::Tun(tun),
            (None, Some(pid), _) => AttachTarget::Namespace(Target::Pid(pid)),
            (None, None, netns) => AttachTarget::Namespace(Target::Path {
                netns: netns.expect("clap requires one member of the group `target`"),
                userns: self.userns,
            }),
        };
        Ok(AttachRequest {
            target,
            config: self.config.source(),
            interface: self.link.interface,
            name: self.link.name,
            mtu: self.link.mtu,
            uapi_dir: self.link.uapi_dir,
            exit_fd: descriptors.adopt("--exit-fd", self.exit_fd)?,
            ready: ReadyOptions {
                ready_fd: descriptors.adopt("--ready-fd", self.ready_fd)?,
                pidfile: self.pidfile,
                background: self.background,
                wait_handshake: self.wait_handshake,
            },
            routes: !self.no_routes,
            keep_other_links: self.keep_other_links,
            bare: false,
            end_with_socket: false,
            engine: EngineNeeds::default(),
            forwards,
            dns: self.dns.options()?,
            write_resolv_conf: self.write_resolv_conf,
            sandbox: self.sandbox.policy(),
            log: self.log.options(LogLevel::Info),
        })
    }
}
