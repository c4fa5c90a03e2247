//! What the engines' faces share: whether a tunnel was chosen, and how they say that something cannot be done. (wiring)
//!
//! A face stands where the engine expects another program. So that putting it there breaks nothing, it becomes that
//! program unless a configuration was *chosen*: by a flag of ours among the engine's, or by [`CONFIG_VARIABLE`] in the
//! engine's environment (where `drop-ins install --config` puts an engine's default). There is no other default; above
//! all not the one of `run`. Once chosen, every failure is a failure: never again the other program.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::publish::{DnsAlias, PublishError};
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::interface_name::InterfaceNameError;
use crate::driver::logging::{LogFormat, LogLevel, LogOptions};
use crate::driver::mtu::{Mtu, MtuError};
use crate::driver::target::Target;
use crate::mode::request::ConfigSource;

/// The configuration, a name or a path, for every container of an engine that is started with it.
pub const CONFIG_VARIABLE: &str = "WG4NETNS_CONFIG";
/// `1` or a number of seconds: a container starts only when a peer has answered.
pub const WAIT_VARIABLE: &str = "WG4NETNS_WAIT_HANDSHAKE";
/// The service manager's socket is the engine's own: what we told there would be taken for the engine's word.
pub const NOTIFY_VARIABLE: &str = "NOTIFY_SOCKET";

/// What chooses the configuration among an engine's flags.
pub const CONFIG_FLAG: &str = "--wg-config";
/// How long to wait if nobody says.
const WAIT: Duration = Duration::from_secs(10);

/// Why an engine's call cannot be answered. The words are the engine's, so the error says what they were.
#[derive(Debug, thiserror::Error)]
pub enum EngineCallError {
    /// No such flag, or no value for it.
    #[error("cannot read the arguments")]
    Arguments(#[from] lexopt::Error),
    /// A value that is none.
    #[error("`{flag} {value}`: {wanted}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// As it was given.
        value: String,
        /// What would have been right.
        wanted: &'static str,
    },
    /// The MTU is out of range.
    #[error("`--mtu {value}`")]
    Mtu {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        source: MtuError,
    },
    /// What is to be reached cannot be.
    #[error("`--reach {value}`")]
    Reach {
        /// As it was given.
        value: String,
        /// What is wrong with it.
        source: PublishError,
    },
    /// The kernel would not accept the name.
    #[error("interface name `{name}`")]
    Interface {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        source: InterfaceNameError,
    },
    /// The flag exists, and with a tunnel there is no meaning for it that would not surprise.
    #[error("{flag} cannot be had with a tunnel: {why}")]
    Unsupported {
        /// The flag, with its value.
        flag: String,
        /// Why not.
        why: &'static str,
    },
    /// No namespace is named.
    #[error("no namespace given: {wanted}")]
    NoTarget {
        /// How to name one.
        wanted: &'static str,
    },
    /// The configuration's name is no text.
    #[error("the name of the configuration is not UTF-8")]
    ConfigName,
    /// A variable of ours has no sense.
    #[error("`{variable}={value}`: {wanted}")]
    Variable {
        /// Which.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What would have been right.
        wanted: &'static str,
    },
}

impl Failure for EngineCallError {
    fn class(&self) -> FailureClass {
        FailureClass::Usage
    }
}

/// Whether the call wants a tunnel; if not, it is for the program whose place we took.
#[must_use]
pub fn is_chosen(arguments: &[OsString], variable: &impl Fn(&'static str) -> Option<OsString>) -> bool {
    let is_flag = |argument: &OsString| {
        let rest = argument.as_encoded_bytes().strip_prefix(CONFIG_FLAG.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    };
    arguments.iter().any(is_flag) || from_environment(variable).is_some()
}

/// The configuration that the engine's environment names.
pub(super) fn from_environment(variable: &impl Fn(&'static str) -> Option<OsString>) -> Option<OsString> {
    variable(CONFIG_VARIABLE).filter(|value| !value.is_empty())
}

/// The configuration that was chosen.
pub(super) fn config_source(value: &OsStr) -> Result<ConfigSource, EngineCallError> {
    let value = value.to_str().ok_or(EngineCallError::ConfigName)?;
    match ConfigSource::from_flag(value) {
        // The engine's standard input is not the user's.
        ConfigSource::Stdin => {
            Err(EngineCallError::Value { flag: CONFIG_FLAG, value: value.into(), wanted: "a name or a path" })
        }
        source @ (ConfigSource::Name(_)
        | ConfigSource::Path(_)
        | ConfigSource::Variable(_)
        | ConfigSource::Private(_)) => Ok(source),
    }
}

/// How long to wait for a peer, if the environment asks for it.
pub(super) fn wait_from_environment(
    variable: &impl Fn(&'static str) -> Option<OsString>,
) -> Result<Option<Duration>, EngineCallError> {
    let Some(value) = variable(WAIT_VARIABLE).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    match wait(&value) {
        Some(wait) => Ok(Some(wait)),
        None if value == "0" => Ok(None),
        None => Err(EngineCallError::Variable { variable: WAIT_VARIABLE, value, wanted: WAIT_WANTED }),
    }
}

/// How long to wait for a peer, by a flag that need not have a value.
pub(super) fn wait_from_flag(value: Option<OsString>) -> Result<Duration, EngineCallError> {
    let Some(value) = value else { return Ok(WAIT) };
    let value = value.to_string_lossy().into_owned();
    let seconds = wait(&value);
    seconds.ok_or(EngineCallError::Value { flag: "--wait-handshake", value, wanted: WAIT_WANTED })
}

const WAIT_WANTED: &str = "a number of seconds";

fn wait(value: &str) -> Option<Duration> {
    let seconds: u32 = value.strip_suffix('s').unwrap_or(value).parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Whether podman has its bridges in that namespace: when our predecessor there has died, it calls for the next one beside
/// them. They join containers; the only way out of there is still the tunnel.
pub(super) fn has_bridges(target: &Target) -> bool {
    matches!(target, Target::Path { netns, .. } if netns.ends_with("rootless-netns/rootless-netns"))
}

/// An MTU that the engine asks for; 0 means that it does not care.
pub(super) fn mtu_ceiling(value: &OsStr) -> Result<Option<Mtu>, EngineCallError> {
    let value = value.to_string_lossy();
    if value == "0" {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|source| EngineCallError::Mtu { value: value.into_owned(), source })
}

/// An address that a flag names.
pub(super) fn address(flag: &'static str, value: &OsStr) -> Result<IpAddr, EngineCallError> {
    let value = value.to_string_lossy();
    value.parse().map_err(|_not_an_address| EngineCallError::Value {
        flag,
        value: value.into_owned(),
        wanted: "an IP address",
    })
}

/// A name server at these addresses inside, which asks the configuration's own through the tunnel.
pub(super) fn dns_alias(listen: Vec<IpAddr>) -> Option<DnsAlias> {
    (!listen.is_empty()).then(|| DnsAlias { listen, ..DnsAlias::default() })
}

/// How to log where nobody looks unless something is wrong.
pub(super) const fn log() -> LogOptions {
    LogOptions { format: LogFormat::Text, level: LogLevel::Info }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn nothing_is_chosen_unless_a_flag_or_the_variable_says_so() {
        let unset = |_: &'static str| None;
        assert!(!is_chosen(&words("--config-net --netns /x --wg-configure"), &unset));
        assert!(is_chosen(&words("--config-net --wg-config work --netns /x"), &unset));
        assert!(is_chosen(&words("--wg-config=work"), &unset));
        let set = |value: &'static str| {
            move |name: &'static str| (name == CONFIG_VARIABLE).then(|| OsString::from(value))
        };
        assert!(is_chosen(&[], &set("work")));
        assert!(!is_chosen(&[], &set("")));
    }

    #[test]
    fn waiting_needs_a_number_of_seconds() {
        let set = |value: &'static str| {
            move |name: &'static str| (name == WAIT_VARIABLE).then(|| OsString::from(value))
        };
        assert_eq!(wait_from_environment(&set("5")).unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(wait_from_environment(&set("7s")).unwrap(), Some(Duration::from_secs(7)));
        assert_eq!(wait_from_environment(&set("0")).unwrap(), None);
        assert_eq!(wait_from_environment(&set("")).unwrap(), None);
        assert_eq!(
            wait_from_environment(&set("soon")).unwrap_err().to_string(),
            "`WG4NETNS_WAIT_HANDSHAKE=soon`: a number of seconds"
        );
        assert_eq!(wait_from_flag(None).unwrap(), Duration::from_secs(10));
        assert!(wait_from_flag(Some("0".into())).is_err());
    }

    #[test]
    fn the_engines_standard_input_is_no_configuration() {
        assert_eq!(config_source(OsStr::new("work")).unwrap(), ConfigSource::Name("work".into()));
        assert_eq!(config_source(OsStr::new("/h/w.conf")).unwrap(), ConfigSource::Path("/h/w.conf".into()));
        assert!(config_source(OsStr::new("-")).is_err());
    }
}
