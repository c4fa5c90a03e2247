//! `setconf`, `addconf`, `syncconf` and `switch`: a file becomes a change of a running tunnel. (cli)

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::report;
use super::set::resolve;
use super::{WgCommandError, apply};
use crate::config::device::DeviceUpdate;
use crate::config::sync::ResolvedNames;
use crate::config::{Config, NetworkChange};
use crate::driver::config_file::{self, SyncConfig};
use crate::driver::uapi_client::{UapiClient, UapiClientError};
use crate::mode::request::ConfigSource;

/// Arguments of `setconf`, `addconf` and `syncconf`.
#[derive(Debug, Args)]
pub(in crate::cli) struct FileArgs {
    /// A running tunnel, or the path of its socket
    interface: String,
    /// A file in the format of `wg setconf` (`syncconf`: or of wg-quick), or `-` for standard input
    file: PathBuf,
    /// Look for the socket in this directory
    #[arg(long, value_name = "DIR")]
    uapi_dir: Option<PathBuf>,
}

/// Arguments of `switch`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SwitchArgs {
    /// A running tunnel, as `wg4netns ls` shows it
    name: String,
    /// Configuration: a path, `-` for standard input, or a NAME sought in ~/.config/wg4netns and /etc/wireguard
    #[arg(value_name = "NAME|PATH|-")]
    config: String,
    /// Look for the socket in this directory
    #[arg(long, value_name = "DIR")]
    uapi_dir: Option<PathBuf>,
}

/// `setconf`: what the file does not say is reset.
pub(super) fn setconf(args: &FileArgs) -> Result<u8, WgCommandError> {
    let config = config_file::load_setconf(&args.file).map_err(WgCommandError::File)?;
    let update = with_names(config.to_setconf_update(), &resolve_names(&config)?);
    apply(&args.interface, args.uapi_dir.as_deref(), &update)
}

/// `addconf`: what the file does not say stays.
pub(super) fn addconf(args: &FileArgs) -> Result<u8, WgCommandError> {
    let config = config_file::load_setconf(&args.file).map_err(WgCommandError::File)?;
    let update = with_names(config.to_addconf_update(), &resolve_names(&config)?);
    apply(&args.interface, args.uapi_dir.as_deref(), &update)
}

/// `syncconf`: the least change. A `wg-quick(8)` file changes addresses and routes too; what `wg-quick strip` left
/// of one says nothing of them, so they stay.
pub(super) fn syncconf(args: &FileArgs) -> Result<u8, WgCommandError> {
    let talk = |source| WgCommandError::talk(source, &args.interface);
    match config_file::load_syncconf(&args.file).map_err(WgCommandError::File)? {
        SyncConfig::Whole(config) => become_what(&config, &args.interface, args.uapi_dir.as_deref()),
        SyncConfig::Device(config) => {
            let names = resolve_names(&config)?;
            let client = UapiClient::find(&args.interface, args.uapi_dir.as_deref()).map_err(talk)?;
            let update = config.to_syncconf_update(&client.status().map_err(talk)?, &names);
            apply_changes(&client, &update).map_err(talk)?;
            Ok(0)
        }
    }
}

/// `switch`: the least change of the device, then of addresses, routes and MTU.
pub(super) fn switch(args: &SwitchArgs) -> Result<u8, WgCommandError> {
    let loaded = ConfigSource::from_flag(&args.config).load().map_err(WgCommandError::File)?;
    become_what(&loaded.config, &args.name, args.uapi_dir.as_deref())
}

fn become_what(config: &Config, name: &str, uapi_dir: Option<&Path>) -> Result<u8, WgCommandError> {
    for warning in config.warning_lines() {
        report::print_lines(&format!("warning: {warning}"), None);
    }
    let names = resolve_names(config)?;
    let talk = |source| WgCommandError::talk(source, name);
    let client = UapiClient::find(name, uapi_dir).map_err(talk)?;
    let update = config.changes_from(&client.status().map_err(talk)?, &names);
    apply_changes(&client, &update).map_err(talk)?;
    let change = NetworkChange { plan: config.network_plan(), endpoint_names: config.endpoint_names() };
    client.network(&change).map_err(talk)?;
    Ok(0)
}

fn apply_changes(client: &UapiClient, update: &DeviceUpdate) -> Result<(), UapiClientError> {
    if *update == DeviceUpdate::default() { Ok(()) } else { client.apply(update) }
}

fn resolve_names(config: &Config) -> Result<ResolvedNames, WgCommandError> {
    let named = config.peers.iter().filter_map(|peer| match &peer.endpoint {
        Some(endpoint) if endpoint.address().is_none() => Some((peer.public_key, endpoint)),
        Some(_) | None => None,
    });
    named.map(|(key, endpoint)| Ok((key, resolve(endpoint)?))).collect()
}

/// Puts the first address of each name where the file could only give the name.
fn with_names(mut update: DeviceUpdate, names: &ResolvedNames) -> DeviceUpdate {
    for peer in &mut update.peers {
        let resolved = names.get(&peer.public_key).and_then(|addresses| addresses.first().copied());
        peer.endpoint = peer.endpoint.or(resolved);
    }
    update
}
