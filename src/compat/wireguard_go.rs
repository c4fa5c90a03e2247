//! wireguard-go's calling convention: `wireguard-go [-f] IFACE` and its four environment variables. (wiring)
//!
//! `wg-quick` starts whatever `WG_QUICK_USERSPACE_IMPLEMENTATION` names with the interface as its only argument, and goes on
//! as soon as that process has ended: the interface and its socket must be there by then. Programs that already have a
//! TUN or a listening socket pass them as descriptors, by number.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

use crate::driver::failure::{Failure, FailureClass};
use crate::driver::interface_name::{InterfaceName, InterfaceNameError};
use crate::driver::logging::{LogFormat, LogLevel, LogOptions};
use crate::mode::request::DeviceRequest;
use crate::sys::fd_passing::adopt_fd;
use crate::sys::os_error::OsError;
use crate::sys::sandbox::Policy;

/// A TUN device to use instead of making one.
const TUN_VARIABLE: &str = "WG_TUN_FD";
/// A listening socket to serve instead of making one.
const SOCKET_VARIABLE: &str = "WG_UAPI_FD";
/// `1`: do not go to the background.
const FOREGROUND_VARIABLE: &str = "WG_PROCESS_FOREGROUND";
/// `silent`, `error`, or `verbose` and `debug`.
const LEVEL_VARIABLE: &str = "LOG_LEVEL";

/// How the program is called.
pub const USAGE: &str = "usage: wireguard-go [-f|--foreground] INTERFACE-NAME\n";

/// Why the call makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum WireguardGoError {
    /// Not one interface, or an unknown flag.
    #[error("expected `wireguard-go [-f|--foreground] INTERFACE-NAME`")]
    Arguments,
    /// The kernel would not accept the name.
    #[error("interface name `{name}`")]
    Interface {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        source: InterfaceNameError,
    },
    /// The variable does not name an open descriptor.
    #[error("`{variable}`: `{value}` is not an open descriptor")]
    Descriptor {
        /// Which variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What the system said, if it was asked.
        source: Option<OsError>,
    },
}

impl Failure for WireguardGoError {
    fn class(&self) -> FailureClass {
        FailureClass::Usage
    }
}

/// What is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// An interface.
    Device(DeviceRequest),
    /// Our version.
    Version,
    /// [`USAGE`].
    Help,
}

/// Reads the arguments, without the program's name, and the environment.
///
/// # Errors
/// See [`WireguardGoError`].
pub fn parse(
    arguments: &[OsString],
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Result<Wanted, WireguardGoError> {
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| word.to_str().ok_or(WireguardGoError::Arguments))
        .collect::<Result<_, _>>()?;
    let (foreground, name) = match words[..] {
        ["--version"] => return Ok(Wanted::Version),
        ["--help" | "-h"] => return Ok(Wanted::Help),
        ["-f" | "--foreground", name] => (true, name),
        [name] if !name.starts_with('-') => (false, name),
        _ => return Err(WireguardGoError::Arguments),
    };
    let interface = name
        .parse::<InterfaceName>()
        .map_err(|source| WireguardGoError::Interface { name: name.to_owned(), source })?;
    let request = DeviceRequest {
        interface,
        foreground,
        uapi_dir: None,
        tun: None,
        listener: None,
        sandbox: Policy::Auto,
        log: LogOptions { format: LogFormat::Text, level: LogLevel::Error },
    };
    honour_environment(request, variable).map(Wanted::Device)
}

/// Lets wireguard-go's environment variables have their say in a request that was made from flags.
///
/// # Errors
/// [`WireguardGoError::Descriptor`].
pub fn honour_environment(
    mut request: DeviceRequest,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Result<DeviceRequest, WireguardGoError> {
    request.foreground |= variable(FOREGROUND_VARIABLE).is_some_and(|value| value == "1");
    match variable(LEVEL_VARIABLE).as_deref().and_then(OsStr::to_str) {
        Some("verbose" | "debug") => request.log.level = LogLevel::Debug,
        Some("error") => request.log.level = LogLevel::Error,
        Some("silent") => request.log.level = LogLevel::Silent,
        // wireguard-go takes anything else for its default too.
        Some(_) | None => {}
    }
    request.tun = descriptor(TUN_VARIABLE, variable(TUN_VARIABLE))?;
    request.listener = descriptor(SOCKET_VARIABLE, variable(SOCKET_VARIABLE))?;
    Ok(request)
}

/// Takes over the descriptor that a variable names; an empty variable names none.
fn descriptor(variable: &'static str, value: Option<OsString>) -> Result<Option<OwnedFd>, WireguardGoError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.to_string_lossy().into_owned();
    let wrong = |source| WireguardGoError::Descriptor { variable, value: text.clone(), source };
    // The standard streams are not somebody's TUN.
    let number = text.parse().ok().filter(|number| *number > 2).ok_or_else(|| wrong(None))?;
    adopt_fd(number).map(Some).map_err(|error| wrong(Some(error)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn one_interface_goes_to_the_background_unless_told_otherwise() {
        for (line, environment, foreground) in [
            ("wg0", &[][..], false),
            ("-f wg0", &[], true),
            ("--foreground wg0", &[], true),
            ("wg0", &[(FOREGROUND_VARIABLE, "1")], true),
            ("wg0", &[(FOREGROUND_VARIABLE, "0")], false),
        ] {
            let request = device(line, environment);
            assert_eq!((request.interface.as_str(), request.foreground), ("wg0", foreground), "{line}");
        }
    }

    #[test]
    fn the_log_level_is_wireguard_gos() {
        for (value, level) in [
            ("verbose", LogLevel::Debug),
            ("debug", LogLevel::Debug),
            ("error", LogLevel::Error),
            ("silent", LogLevel::Silent),
            ("nonsense", LogLevel::Error),
        ] {
            assert_eq!(device("wg0", &[(LEVEL_VARIABLE, value)]).log.level, level, "{value}");
        }
    }

    #[test]
    fn anything_else_is_a_usage_error() {
        for line in ["", "-f", "-x wg0", "wg0 wg1", "-f wg0 wg1", "--foreground"] {
            let error = parse(&words(line), |_| None).unwrap_err();
            assert!(matches!(error, WireguardGoError::Arguments), "{line}: {error}");
        }
        let error = parse(&words("a-name-that-is-too-long"), |_| None).unwrap_err();
        assert!(matches!(error, WireguardGoError::Interface { .. }), "{error}");
    }

    #[test]
    fn version_and_help_are_no_interfaces() {
        assert!(matches!(parse(&words("--version"), |_| None), Ok(Wanted::Version)));
        assert!(matches!(parse(&words("--help"), |_| None), Ok(Wanted::Help)));
    }

    #[test]
    fn descriptors_are_taken_over_by_number() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let number = writer.into_raw_fd().to_string();
        let request = device("wg0", &[(TUN_VARIABLE, number.as_str())]);
        nix::unistd::write(request.tun.as_ref().unwrap(), b"x").unwrap();
        drop(request);
        let mut bytes = [0; 2];
        assert_eq!(nix::unistd::read(&reader, &mut bytes), Ok(1));
        assert_eq!(nix::unistd::read(&reader, &mut bytes), Ok(0), "it was closed with the request");
    }

    #[test]
    fn what_is_no_descriptor_is_named_with_its_variable() {
        for value in ["x", "-1", "1", "1000000"] {
            let variable = |name| (name == SOCKET_VARIABLE).then(|| OsString::from(value));
            let error = parse(&words("wg0"), variable).unwrap_err().to_string();
            assert_eq!(error, format!("`WG_UAPI_FD`: `{value}` is not an open descriptor"));
        }
        assert!(device("wg0", &[(SOCKET_VARIABLE, "")]).listener.is_none());
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn device(line: &str, environment: &[(&'static str, &str)]) -> DeviceRequest {
        let variable =
            |name| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        match parse(&words(line), variable).unwrap() {
            Wanted::Device(request) => request,
            other @ (Wanted::Version | Wanted::Help) => panic!("{other:?}"),
        }
    }
}
