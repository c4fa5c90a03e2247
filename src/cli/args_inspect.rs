//! `ls`, `status`, `logs`, `stop`, `check` and `doctor`: flags. (cli)

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args_shared::{parse_directory, parse_duration};
use crate::driver::instance::InstanceName;

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Look in this directory (default: $XDG_RUNTIME_DIR/wireguard)
    #[arg(long, value_name = "DIR", value_parser = parse_directory)]
    pub(super) uapi_dir: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Name of the tunnel, as `ls` shows it
    pub(super) name: InstanceName,
    /// Unhealthy if no peer has answered for longer than this
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub(super) max_age: Duration,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Look in this directory (default: $XDG_RUNTIME_DIR/wireguard)
    #[arg(long, value_name = "DIR", value_parser = parse_directory)]
    pub(super) uapi_dir: Option<PathBuf>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Name of the tunnel
    pub(super) name: InstanceName,
    /// Go on as lines are added
    #[arg(long, short)]
    pub(super) follow: bool,
}

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Name of the tunnel, as `ls` shows it
    pub(super) name: InstanceName,
    /// Look in this directory (default: $XDG_RUNTIME_DIR/wireguard)
    #[arg(long, value_name = "DIR", value_parser = parse_directory)]
    pub(super) uapi_dir: Option<PathBuf>,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Configuration: a path, `-` for standard input, or a NAME sought in ~/.config/wg4netns and /etc/wireguard
    #[arg(value_name = "NAME|PATH|-")]
    pub(super) config: String,
    /// Refuse a configuration or key file that others may read, instead of warning
    #[arg(long)]
    pub(super) strict_perms: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Print the AppArmor profile that allows this program user namespaces
    #[arg(long, conflicts_with = "json")]
    pub(super) apparmor_profile: bool,
}
