//! `show` and `showconf`. (cli)

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use zeroize::Zeroizing;

use super::super::{print_out, report};
use super::WgCommandError;
use crate::config::device::DeviceStatus;
use crate::config::emit;
use crate::driver::clock;
use crate::driver::uapi_client::UapiClient;
use crate::uapi::json::show_json;
use crate::uapi::show::{FIELD_NAMES, Field, Style, field, pretty};

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// A running tunnel, the path of its socket, `all` (the default), or `interfaces` for their names only
    #[arg(value_name = "INTERFACE|all|interfaces")]
    interface: Option<String>,
    /// Print only this, for scripts; `dump` is everything, separated by tabs
    #[arg(value_parser = parse_field, value_name = "FIELD", hide_possible_values = true)]
    field: Option<Field>,
    /// Print one JSON document; keys are left out unless WG_HIDE_KEYS=never
    #[arg(long, conflicts_with = "field")]
    json: bool,
    /// Look for sockets in this directory
    #[arg(long, value_name = "DIR")]
    uapi_dir: Option<PathBuf>,
}

/// Arguments of `showconf`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ShowconfArgs {
    /// A running tunnel, or the path of its socket
    interface: String,
    /// Look for the socket in this directory
    #[arg(long, value_name = "DIR")]
    uapi_dir: Option<PathBuf>,
}

fn parse_field(text: &str) -> Result<Field, String> {
    text.parse().map_err(|_unknown| {
        let names: Vec<_> = FIELD_NAMES.iter().map(|(name, _)| *name).collect();
        format!("the fields are {}", names.join(", "))
    })
}

/// `show`.
pub(super) fn show(args: &ShowArgs) -> Result<u8, WgCommandError> {
    let uapi_dir = args.uapi_dir.as_deref();
    match args.interface.as_deref() {
        Some("interfaces") => {
            let names: Vec<_> = list(args)?.iter().map(|client| client.name().to_owned()).collect();
            let text = if args.json {
                serde_json::json!(names).to_string() + "\n"
            } else if names.is_empty() {
                String::new()
            } else {
                names.join(" ") + "\n"
            };
            Ok(print_out(text.as_bytes()))
        }
        None | Some("all") => {
            let clients = list(args)?;
            let mut devices = Vec::with_capacity(clients.len());
            for client in &clients {
                match client.status() {
                    Ok(status) => devices.push((client.name().to_owned(), status)),
                    Err(source) => report::print(&WgCommandError::talk(source, client.name())),
                }
            }
            let code = print_out(render(args, &devices, true).as_bytes());
            match clients.len() - devices.len() {
                0 => Ok(code),
                failed => Err(WgCommandError::SomeSilent { failed, all: clients.len() }),
            }
        }
        Some(name) => {
            let talk = |source| WgCommandError::talk(source, name);
            let client = UapiClient::find(name, uapi_dir).map_err(talk)?;
            let status = client.status().map_err(talk)?;
            let devices = [(client.name().to_owned(), status)];
            Ok(print_out(render(args, &devices, false).as_bytes()))
        }
    }
}

fn list(args: &ShowArgs) -> Result<Vec<UapiClient>, WgCommandError> {
    UapiClient::list(args.uapi_dir.as_deref()).map_err(WgCommandError::List)
}

fn render(args: &ShowArgs, devices: &[(String, DeviceStatus)], all: bool) -> Zeroizing<String> {
    let style = style();
    if args.json {
        return Zeroizing::new(show_json(devices, style.show_secrets, scope_name) + "\n");
    }
    let now = clock::now().wall;
    let parts: Vec<_> = (devices.iter())
        .map(|(name, status)| match args.field {
            None => pretty(name, status, style, now),
            Some(column) => field(column, status, Some(name.as_str()).filter(|_| all), scope_name),
        })
        .collect();
    let separator = if args.field.is_none() { "\n" } else { "" };
    let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len() + 1).sum()));
    for (index, part) in parts.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { separator });
        text.push_str(part);
    }
    text
}

fn style() -> Style {
    let variable = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
    let color = match () {
        () if variable("WG_COLOR_MODE", "always") => true,
        () if variable("WG_COLOR_MODE", "never") => false,
        () => std::io::stdout().is_terminal(),
    };
    Style { color, show_secrets: variable("WG_HIDE_KEYS", "never"), scope_name }
}

/// Of this network namespace, as `wg` has it.
pub(super) fn scope_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

/// `showconf`.
pub(super) fn showconf(args: &ShowconfArgs) -> Result<u8, WgCommandError> {
    let talk = |source| WgCommandError::talk(source, &args.interface);
    let client = UapiClient::find(&args.interface, args.uapi_dir.as_deref()).map_err(talk)?;
    Ok(print_out(emit::showconf(&client.status().map_err(talk)?, scope_name).as_bytes()))
}
