//! The command line's table: every subcommand, its flags and its help. (cli)
//!
//! Low arguments: what clap can check by itself. The `args_*` files beside this one turn them into the typed requests
//! of `mode::request`; nothing here does anything.

use clap::{Args, Parser, Subcommand};

use super::args_attach::AttachArgs;
use super::args_engines::{CdiArgs, DropInsArgs, OciHookArgs};
use super::args_inspect::{CheckArgs, DoctorArgs, LogsArgs, LsArgs, StatusArgs, StopArgs};
#[cfg(feature = "demo")]
use super::args_run::DemoArgs;
use super::args_run::{DeviceArgs, ExecArgs, RunArgs};
use super::quadlet::QuadletArgs;
use super::wg::WgArgs;

/// WireGuard as the network of any rootless container, namespace or command.
#[derive(Debug, Parser)]
#[command(
    name = "wg4netns",
    bin_name = "wg4netns",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    override_usage = "wg4netns COMMAND …\n       wg4netns --netns-pid PID --config C   (the same as `wg4netns attach …`)\n       wg4netns IFACE                        (the same as `wg4netns device IFACE`)"
)]
pub(super) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: CommandArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(super) enum CommandArgs {
    /// Run a command in a network of its own that is the tunnel and nothing else
    Run(RunArgs),
    /// Put a WireGuard interface into an existing unprivileged namespace
    Attach(AttachArgs),
    /// Run a command in the namespace of a running tunnel
    Exec(ExecArgs),
    /// Show the whole thing on one machine: no configuration, no server, no root
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Say that this build is without the demonstration
    #[cfg(not(feature = "demo"))]
    #[command(hide = true)]
    Demo(NoDemoArgs),
    /// List the running tunnels
    Ls(LsArgs),
    /// Show one running tunnel; exit 0 if it is healthy, 1 if not
    Status(StatusArgs),
    /// Show the log of a tunnel that runs in the background
    Logs(LogsArgs),
    /// End a running tunnel and wait until it is gone
    Stop(StopArgs),
    /// Read a configuration and say what is wrong with it
    Check(CheckArgs),
    /// Try everything that wg4netns needs from this machine and say how to mend what is missing
    Doctor(DoctorArgs),
    /// The commands of wg(8).
    #[command(flatten)]
    Wg(WgArgs),
    /// Make an interface in the current namespace and serve `wg`, as wireguard-go does
    Device(DeviceArgs),
    /// Give a tunnel to the container that an engine starts: the engine calls this (podman's hooks.d, CDI)
    OciHook(OciHookArgs),
    /// Let podman, buildah and rootlesskit call us in place of pasta and slirp4netns, or no longer
    DropIns(DropInsArgs),
    /// Describe a tunnel as a device for podman, Docker and nerdctl
    Cdi(CdiArgs),
    /// Print a container with its tunnel as a unit for systemd (podman's quadlet)
    Quadlet(QuadletArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all manual pages into a directory
    Man(ManArgs),
}

/// Whatever follows `demo` in a build without it: otherwise the word alone would be an interface's name.
#[cfg(not(feature = "demo"))]
#[derive(Debug, Args)]
pub(super) struct NoDemoArgs {
    /// What the demonstration would be asked for
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<std::ffi::OsString>,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Which shell
    pub(super) shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write one page a subcommand into this directory instead
    pub(super) dir: Option<std::path::PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_says_what_it_does() {
        for command in CommandLine::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
