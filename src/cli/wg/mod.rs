//! The command family of `wg(8)`: same subcommands, same arguments, same output. (cli)
//!
//! Each command is a table of arguments and a function beside it; all of them talk to a running tunnel over its
//! configuration socket, so they work with any user-space WireGuard whose socket is theirs to open.

mod error;
mod files;
#[cfg(test)]
mod interop_tests;
mod keys;
mod set;
mod show;

use std::path::Path;

use clap::Subcommand;

pub use self::error::WgCommandError;
use self::files::{FileArgs, SwitchArgs};
use self::set::SetArgs;
use self::show::{ShowArgs, ShowconfArgs};
use crate::config::device::DeviceUpdate;
use crate::driver::uapi_client::UapiClient;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(super) enum WgArgs {
    /// Show interfaces and peers as `wg show` does
    Show(ShowArgs),
    /// Print the running configuration of a tunnel in the format of `setconf`
    Showconf(ShowconfArgs),
    /// Change a running tunnel: `set wg0 peer KEY allowed-ips 10.0.0.0/8`, as `wg set` does
    Set(SetArgs),
    /// Replace the device's configuration by that of a file
    Setconf(FileArgs),
    /// Add the configuration of a file to the device's
    Addconf(FileArgs),
    /// Make the device what a file says; peers that stay the same keep their sessions
    Syncconf(FileArgs),
    /// Make a running tunnel what another wg-quick(8) file says: peers, addresses, routes and MTU
    Switch(SwitchArgs),
    /// Print a new private key
    Genkey,
    /// Print a new preshared key
    Genpsk,
    /// Print the public key of the private key on standard input
    Pubkey,
}

impl WgArgs {
    /// Does it; the code to exit with.
    ///
    /// # Errors
    /// Why it could not be done.
    pub(super) fn run(self) -> Result<u8, WgCommandError> {
        match self {
            Self::Show(args) => show::show(&args),
            Self::Showconf(args) => show::showconf(&args),
            Self::Set(args) => set::set(&args),
            Self::Setconf(args) => files::setconf(&args),
            Self::Addconf(args) => files::addconf(&args),
            Self::Syncconf(args) => files::syncconf(&args),
            Self::Switch(args) => files::switch(&args),
            Self::Genkey => Ok(keys::genkey()),
            Self::Genpsk => Ok(keys::genpsk()),
            Self::Pubkey => keys::pubkey(),
        }
    }
}

/// Has a running tunnel make the change.
fn apply(interface: &str, uapi_dir: Option<&Path>, update: &DeviceUpdate) -> Result<u8, WgCommandError> {
    let talk = |source| WgCommandError::talk(source, interface);
    UapiClient::find(interface, uapi_dir).map_err(talk)?.apply(update).map_err(talk)?;
    Ok(0)
}
