//! `quadlet`: its flags, and the unit that it prints. (cli)

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args_shared::parse_duration;
use super::report::{Exits, print_lines, print_raw};
use super::{cannot, print_out};
use crate::compat::gluetun::{self, Takeover};
use crate::compat::quadlet::{self, Publication, QuadletRequest, UnitName};
use crate::driver::failure::FailureClass;

/// Arguments of `quadlet`.
#[derive(Debug, Args)]
pub(super) struct QuadletArgs {
    /// Name of the container; the unit belongs in ~/.config/containers/systemd/NAME.container
    name: UnitName,
    /// What it runs (with `--from-gluetun`: default the service that uses gluetun's network)
    #[arg(long, value_name = "IMAGE", required_unless_present = "from_gluetun")]
    image: Option<String>,
    /// Configuration: a path, or a NAME sought in ~/.config/wg4netns and /etc/wireguard (default: the container's name)
    #[arg(long, short, value_name = "NAME|PATH", conflicts_with = "from_gluetun")]
    config: Option<String>,
    /// Publish a port of the container; may be repeated
    #[arg(long, short, value_name = "[[IP:]HOSTPORT:]PORT[/udp]")]
    publish: Vec<Publication>,
    /// How long a peer may take to answer before the service fails; 0: do not wait
    #[arg(long, value_name = "SECS", require_equals = true, default_value = "10", value_parser = parse_duration)]
    wait_handshake: Duration,
    /// Take ports and WIREGUARD_* variables from gluetun's compose file or variables; the configuration becomes
    /// ~/.config/wg4netns/NAME.conf
    #[arg(long, value_name = "FILE")]
    from_gluetun: Option<PathBuf>,
    /// The command to run, instead of the image's own
    #[arg(value_name = "CMD", last = true)]
    command: Vec<String>,
}

/// Prints the unit; what gluetun was told becomes a configuration first.
pub(super) fn quadlet(args: QuadletArgs) -> u8 {
    let exits = Exits::ByBlame;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return cannot("find this program's own path", &error),
    };
    let name = args.name.to_string();
    let mut request = QuadletRequest {
        name: args.name,
        image: args.image.unwrap_or_default(),
        command: args.command,
        config: args.config.unwrap_or_else(|| name.clone()),
        publish: args.publish,
        wait_handshake: args.wait_handshake.as_secs(),
        program,
        remarks: Vec::new(),
    };
    let mut taken = None;
    if let Some(file) = args.from_gluetun {
        match gluetun::take_over(&file) {
            Ok(found) => {
                if let Err(code) = adopt(&mut request, &found) {
                    return code;
                }
                taken = Some(found);
            }
            Err(error) => return exits.fail(&error),
        }
    }
    let unit = match quadlet::print(&request) {
        Ok(unit) => unit,
        Err(error) => return exits.fail(&error),
    };
    // Last, so that whatever is wrong leaves nothing behind.
    if let Some(found) = taken {
        match gluetun::keep(&name, &found.config) {
            Ok(path) => print_raw(&format!("wg4netns: wrote `{}`\n", path.display())),
            Err(error) => return exits.fail(&error),
        }
    }
    print_out(unit.as_bytes())
}

/// What gluetun had goes into the unit, as far as the flags do not say otherwise.
fn adopt(request: &mut QuadletRequest, found: &Takeover) -> Result<(), u8> {
    let usage = FailureClass::Usage.exit_code();
    for port in &found.ports {
        match port.parse() {
            Ok(publication) if !request.publish.contains(&publication) => request.publish.push(publication),
            Ok(_) => {}
            Err(error) => {
                print_lines(&format!("gluetun's port `{port}`: {error}"), None);
                return Err(usage);
            }
        }
    }
    request.remarks.extend(found.remarks.iter().cloned());
    if !request.image.is_empty() {
        return Ok(());
    }
    match &found.users[..] {
        [(_, image)] if !image.is_empty() => {
            request.image.clone_from(image);
            Ok(())
        }
        users => {
            let names: Vec<_> = users.iter().map(|(name, _)| format!("`{name}`")).collect();
            let who =
                if names.is_empty() { "no service uses".into() } else { format!("{} use", names.join(", ")) };
            print_lines(
                &format!("{who} gluetun's network: which image is to have the tunnel?"),
                Some(
                    "say `--image IMAGE`; several containers share one tunnel in a pod, or by `--network container:NAME`",
                ),
            );
            Err(usage)
        }
    }
}
