//! `oci-hook`, `cdi` and `drop-ins`: flags. (cli)

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::args_shared::{ArgsError, DnsArgs, DnsServer, parse_duration};
use crate::compat::cdi::{CdiRequest, DeviceName};
use crate::compat::oci_hook::settings::Settings;
use crate::driver::mtu::Mtu;

/// What a hook may be told by flags; annotations say more.
#[derive(Debug, Args)]
pub(super) struct HookArgs {
    /// The container starts only when a peer has answered; fail if none has after SECS (default 10)
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true, default_missing_value = "10", value_parser = parse_duration)]
    wait_handshake: Option<Duration>,
    /// Largest packet on the interface, in bytes
    #[arg(long, value_name = "BYTES")]
    mtu: Option<Mtu>,
    #[command(flatten)]
    dns: DnsArgs,
}

/// Arguments of `oci-hook`.
#[derive(Debug, Args)]
pub(super) struct OciHookArgs {
    /// Configuration: a NAME, or an absolute path (the annotation `dev.wg4netns.config` overrides it)
    #[arg(long, short, value_name = "NAME|PATH")]
    config: Option<String>,
    #[command(flatten)]
    hook: HookArgs,
    /// Print the definition for a file in podman's `hooks.d`, and do nothing else
    #[arg(long)]
    pub(super) print_definition: bool,
}

impl OciHookArgs {
    /// Typed.
    pub(super) fn settings(self) -> Settings {
        let HookArgs { wait_handshake, mtu, dns } = self.hook;
        Settings::default()
            .with("config", self.config)
            .with("wait-handshake", wait_handshake.map(|limit| limit.as_secs().to_string()))
            .with("mtu", mtu.map(|mtu| mtu.bytes().to_string()))
            .with("dns", dns.dns.iter().map(server_name))
            .with("dns-search", dns.dns_search)
    }
}

fn server_name(server: &DnsServer) -> String {
    match server {
        DnsServer::Address(address) => address.to_string(),
        DnsServer::None => "none".into(),
    }
}

/// Arguments of `cdi`.
#[derive(Debug, Args)]
pub(super) struct CdiArgs {
    #[command(subcommand)]
    pub(super) command: CdiCommand,
}

/// What can be done with devices.
#[derive(Debug, Subcommand)]
pub(super) enum CdiCommand {
    /// Describe a tunnel as a device that `--device wg4netns.dev/tunnel=NAME` gives to a container
    Generate(CdiGenerateArgs),
}

/// Arguments of `cdi generate`.
#[derive(Debug, Args)]
pub(super) struct CdiGenerateArgs {
    /// Configuration: a path, or a NAME sought in ~/.config/wg4netns and /etc/wireguard
    #[arg(long, short, value_name = "NAME|PATH")]
    config: String,
    /// Name of the device
    #[arg(long, short, value_name = "NAME")]
    name: DeviceName,
    #[command(flatten)]
    hook: HookArgs,
    /// Write the description to this file (default: standard output)
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

impl CdiGenerateArgs {
    /// Typed; `program` is what the hook is to run.
    ///
    /// # Errors
    /// Flags that exclude each other.
    pub(super) fn request(self, program: PathBuf) -> Result<CdiRequest, ArgsError> {
        let HookArgs { wait_handshake, mtu, dns } = self.hook;
        let hook_flags = [
            wait_handshake.map(|limit| format!("--wait-handshake={}", limit.as_secs())),
            mtu.map(|mtu| format!("--mtu={}", mtu.bytes())),
        ];
        Ok(CdiRequest {
            name: self.name,
            config: self.config,
            dns: dns.options()?,
            hook_flags: hook_flags.into_iter().flatten().collect(),
            program,
        })
    }
}

/// Arguments of `drop-ins`.
#[derive(Debug, Args)]
pub(super) struct DropInsArgs {
    #[command(subcommand)]
    pub(super) command: DropInsCommand,
}

/// What can be done with the drop-ins.
#[derive(Debug, Subcommand)]
pub(super) enum DropInsCommand {
    /// Write one file into containers.conf.d and a copy of this program, and say what rootlesskit and Docker need
    Install(DropInsInstallArgs),
    /// Remove both
    Remove,
}

/// Arguments of `drop-ins install`.
#[derive(Debug, Args)]
pub(super) struct DropInsInstallArgs {
    /// Configuration of every container that chooses none: a path, or a NAME sought in ~/.config/wg4netns and /etc/wireguard
    #[arg(long, short, value_name = "NAME|PATH")]
    pub(super) config: Option<String>,
}
