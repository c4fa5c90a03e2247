//! wireguard4netns's calling convention: `wireguard4netns PID IFACE CONF`, which returns when configured. (wiring)
//!
//! As there, the interface appears in the process's namespaces configured but down and without addresses: whoever calls it
//! brings it up, and would stumble over addresses that are there already. As there, the configuration socket lies in
//! `--tmpdir` (the current directory), and removing it ends the tunnel. Unlike there, the end of the process ends it too.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::publish::ForwardPlan;
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::instance::InstanceName;
use crate::driver::interface_name::{InterfaceName, InterfaceNameError};
use crate::driver::logging::{LogFormat, LogLevel, LogOptions};
use crate::driver::target::Target;
use crate::mode::request::{
    AttachRequest, AttachTarget, ConfigSource, DnsOptions, EngineNeeds, ReadyOptions,
};
use crate::sys::sandbox::Policy;

/// How the program is called.
pub const USAGE: &str =
    "usage: wireguard4netns [-h] [--version] [--tmpdir TMPDIR] NS_PID INTERFACE WIREGUARD_CONF\n";

/// Why the call makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Wireguard4netnsError {
    /// Not three words, or an unknown flag.
    #[error("expected `wireguard4netns [--tmpdir TMPDIR] NS_PID INTERFACE WIREGUARD_CONF`")]
    Arguments,
    /// The first word is no process id.
    #[error("process id `{value}`")]
    Pid {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        source: std::num::ParseIntError,
    },
    /// The kernel would not accept the name.
    #[error("interface name `{name}`")]
    Interface {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        source: InterfaceNameError,
    },
}

impl Failure for Wireguard4netnsError {
    fn class(&self) -> FailureClass {
        FailureClass::Usage
    }
}

/// What is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// A tunnel in the background.
    Attach(Box<AttachRequest>),
    /// Our version.
    Version,
    /// [`USAGE`].
    Help,
}

/// Reads the arguments, without the program's name.
///
/// # Errors
/// See [`Wireguard4netnsError`].
pub fn parse(arguments: &[OsString]) -> Result<Wanted, Wireguard4netnsError> {
    let mut directory = PathBuf::from(".");
    let mut words = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Wanted::Help),
            Some("--version") => return Ok(Wanted::Version),
            Some("--tmpdir") => directory = rest.next().ok_or(Wireguard4netnsError::Arguments)?.into(),
            Some(flag) if flag.starts_with("--tmpdir=") => directory = flag["--tmpdir=".len()..].into(),
            Some(flag) if flag.starts_with('-') && flag.len() > 1 => {
                return Err(Wireguard4netnsError::Arguments);
            }
            Some(_) | None => words.push(word),
        }
    }
    let [pid, interface, config] = words[..] else { return Err(Wireguard4netnsError::Arguments) };
    let (pid, interface) = (pid.to_string_lossy(), interface.to_string_lossy());
    let pid = pid.parse().map_err(|source| Wireguard4netnsError::Pid { value: pid.into_owned(), source })?;
    let interface: InterfaceName = interface
        .parse()
        .map_err(|source| Wireguard4netnsError::Interface { name: interface.into_owned(), source })?;
    let fallback: InstanceName = "wg".parse().expect("`wg` is a name");
    Ok(Wanted::Attach(Box::new(AttachRequest {
        target: AttachTarget::Namespace(Target::Pid(pid)),
        config: Some(ConfigSource::Path(config.into())),
        // Whoever removes `IFACE.sock` expects the tunnel to end.
        name: Some(InstanceName::sanitized(interface.as_str(), &fallback)),
        interface,
        mtu: None,
        uapi_dir: Some(directory),
        exit_fd: None,
        ready: ReadyOptions { background: true, ..ReadyOptions::default() },
        routes: false,
        keep_other_links: true,
        bare: true,
        end_with_socket: true,
        engine: EngineNeeds::default(),
        forwards: ForwardPlan::default(),
        dns: DnsOptions::default(),
        write_resolv_conf: None,
        sandbox: Policy::Auto,
        log: LogOptions { format: LogFormat::Text, level: LogLevel::Warn },
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_words_are_a_bare_tunnel_in_the_background() {
        let request = attach("--tmpdir /tmp/x 4242 wg-app app.conf");
        assert_eq!(request.interface.as_str(), "wg-app");
        assert_eq!(request.uapi_dir, Some(PathBuf::from("/tmp/x")));
        assert_eq!(request.config, Some(ConfigSource::Path("app.conf".into())));
        assert!(matches!(request.target, AttachTarget::Namespace(Target::Pid(4242))));
        assert!(request.ready.background && request.bare && request.end_with_socket && !request.routes);
    }

    #[test]
    fn the_socket_lies_in_the_current_directory_by_default() {
        assert_eq!(attach("1 wg0 c").uapi_dir, Some(PathBuf::from(".")));
        assert_eq!(attach("--tmpdir=/y 1 wg0 c").uapi_dir, Some(PathBuf::from("/y")));
    }

    #[test]
    fn anything_else_is_a_usage_error() {
        for line in ["", "1 wg0", "1 wg0 c d", "--tmpdir", "-x 1 wg0 c"] {
            assert!(matches!(parse(&words(line)), Err(Wireguard4netnsError::Arguments)), "{line}");
        }
        assert!(matches!(parse(&words("x wg0 c")), Err(Wireguard4netnsError::Pid { .. })));
        assert!(matches!(parse(&words("1 wg/0 c")), Err(Wireguard4netnsError::Interface { .. })));
    }

    #[test]
    fn version_and_help_need_nothing_else() {
        assert!(matches!(parse(&words("--version")), Ok(Wanted::Version)));
        assert!(matches!(parse(&words("-h")), Ok(Wanted::Help)));
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn attach(line: &str) -> AttachRequest {
        match parse(&words(line)).unwrap() {
            Wanted::Attach(request) => *request,
            other @ (Wanted::Version | Wanted::Help) => panic!("{other:?}"),
        }
    }
}
