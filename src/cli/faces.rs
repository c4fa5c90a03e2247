//! The other names we answer to: their requests served, their errors printed as ours. (cli)

use std::ffi::OsString;

use super::print_out;
use super::report::{Exits, speak_as};
use crate::compat::{
    engine, host_resolvers, next_program, pasta, slirp4netns, wireguard_go, wireguard4netns,
};
use crate::driver::failure::FailureClass;
use crate::mode::{attach, device};
use crate::sys::environment::take_variable;

/// What `--version` prints after a name.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `wireguard-go [-f] IFACE`.
pub(super) fn wireguard_go(arguments: &[OsString]) -> u8 {
    let exits = Exits::ByBlame;
    match wireguard_go::parse(arguments, std::env::var_os) {
        Ok(wireguard_go::Wanted::Device(request)) => {
            device::run(request).unwrap_or_else(|error| exits.fail(&error))
        }
        Ok(wireguard_go::Wanted::Version) => {
            print_out(format!("wg4netns v{VERSION} as wireguard-go\n").as_bytes())
        }
        Ok(wireguard_go::Wanted::Help) => print_out(wireguard_go::USAGE.as_bytes()),
        Err(error) => exits.fail(&error),
    }
}

/// `wireguard4netns PID IFACE CONF`.
pub(super) fn wireguard4netns(arguments: &[OsString]) -> u8 {
    let exits = Exits::ByBlame;
    match wireguard4netns::parse(arguments) {
        Ok(wireguard4netns::Wanted::Attach(request)) => {
            attach::run(*request).unwrap_or_else(|error| exits.fail(&error))
        }
        Ok(wireguard4netns::Wanted::Version) => {
            print_out(format!("wg4netns v{VERSION} as wireguard4netns\n").as_bytes())
        }
        Ok(wireguard4netns::Wanted::Help) => print_out(wireguard4netns::USAGE.as_bytes()),
        Err(error) => exits.fail(&error),
    }
}

/// `pasta …`: a tunnel if one was chosen, else the real one.
pub(super) fn pasta(arguments: &[OsString]) -> u8 {
    speak_as("pasta");
    let exits = Exits::ByBlame;
    if !engine::is_chosen(arguments, &std::env::var_os) {
        return not_chosen("pasta", arguments, pasta::USAGE);
    }
    leave_service_manager_alone();
    match pasta::parse(arguments, &std::env::var_os) {
        Ok(pasta::Wanted::Attach(mut request)) => {
            request.engine.host_resolvers = host_resolvers::of_this_machine();
            attach::run(*request).unwrap_or_else(|error| exits.fail(&error))
        }
        Ok(pasta::Wanted::Version) => print_out(version_as("pasta").as_bytes()),
        Ok(pasta::Wanted::Help) => print_out(pasta::USAGE.as_bytes()),
        Err(error) => exits.fail(&error),
    }
}

/// `slirp4netns …`: a tunnel if one was chosen, else the real one.
pub(super) fn slirp4netns(arguments: &[OsString]) -> u8 {
    speak_as("slirp4netns");
    let exits = Exits::ByBlame;
    if !engine::is_chosen(arguments, &std::env::var_os) {
        return not_chosen("slirp4netns", arguments, slirp4netns::USAGE);
    }
    leave_service_manager_alone();
    match slirp4netns::parse(arguments, &std::env::var_os, slirp4netns::container_of_output().as_deref()) {
        Ok(slirp4netns::Wanted::Attach(mut request)) => {
            request.engine.host_resolvers = host_resolvers::of_this_machine();
            attach::run(*request).unwrap_or_else(|error| exits.fail(&error))
        }
        Ok(slirp4netns::Wanted::Version) => print_out(version_as("slirp4netns").as_bytes()),
        Ok(slirp4netns::Wanted::Help) => print_out(slirp4netns::USAGE.as_bytes()),
        Err(error) => exits.fail(&error),
    }
}

/// Becomes the program whose place we took; tells who we are, too, if that is asked.
fn not_chosen(name: &'static str, arguments: &[OsString], usage: &str) -> u8 {
    let asks = |flags: &[&str]| arguments.iter().any(|argument| flags.iter().any(|flag| argument == flag));
    let is_version = asks(&["--version"]) || (name == "slirp4netns" && asks(&["-v"]));
    if is_version && print_out(version_as(name).as_bytes()) != 0 {
        return FailureClass::General.exit_code();
    }
    if !next_program::exists(name) {
        if is_version {
            return 0;
        }
        if asks(&["--help", "-h"]) {
            return print_out(usage.as_bytes());
        }
    }
    Exits::ByBlame.fail(&next_program::pass_on(name, arguments))
}

fn version_as(name: &str) -> String {
    format!("wg4netns v{VERSION} as {name}\n")
}

/// A service manager that waits for the engine must not hear from us.
fn leave_service_manager_alone() {
    drop(take_variable(engine::NOTIFY_VARIABLE));
}
