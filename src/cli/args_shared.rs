//! Flags that several subcommands have, and the values they take. (cli)

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::publish::{ForwardPlan, PublishedPorts, ReachedAddresses};
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::instance::InstanceName;
use crate::driver::interface_name::InterfaceName;
use crate::driver::logging::{LogFormat, LogLevel, LogOptions};
use crate::driver::mtu::Mtu;
use crate::mode::request::{ConfigSource, DnsOptions};
use crate::sys::fd_passing::adopt_fd;
use crate::sys::os_error::OsError;
use crate::sys::sandbox::Policy;

/// What clap cannot see to be wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgsError {
    /// The descriptor that a flag names cannot be used.
    #[error("`{flag} {number}`")]
    Descriptor {
        /// The flag.
        flag: &'static str,
        /// The descriptor.
        number: u32,
        /// Why not.
        source: OsError,
    },
    /// One descriptor is given for two purposes.
    #[error("`{first}` and `{second}` are the same descriptor")]
    SameDescriptor {
        /// A flag.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// A flag has no effect without another.
    #[error("`{flag}` needs `{needs}`")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// `run` without a configuration; one is never guessed.
    #[error("no configuration given")]
    NoConfig,
    /// `run` without a configuration, while its command has one.
    #[error("no configuration given: `--config` behind the command is the command's own")]
    ConfigBehindCommand,
    /// Two flags exclude each other.
    #[error("`{first}` cannot be used with `{second}`: {why}")]
    Conflict {
        /// A flag.
        first: &'static str,
        /// Another one.
        second: &'static str,
        /// What would go wrong.
        why: &'static str,
    },
}

impl Failure for ArgsError {
    fn class(&self) -> FailureClass {
        FailureClass::Usage
    }
}

/// The interface inside and what the tunnel is called outside.
#[derive(Debug, Args)]
pub(super) struct InterfaceArgs {
    /// Name of the interface inside
    #[arg(long, short, value_name = "NAME", default_value = "wg0")]
    pub(super) interface: InterfaceName,
    /// Name of this tunnel for `ls`, `status` and `stop` (default: the configuration's name)
    #[arg(long, short, value_name = "NAME")]
    pub(super) name: Option<InstanceName>,
    /// Largest packet on the interface, in bytes (default: the configuration's, else what the way to the peer leaves: 1420 of 1500)
    #[arg(long, value_name = "BYTES")]
    pub(super) mtu: Option<Mtu>,
    /// Directory of the socket that `wg` talks to (default: $XDG_RUNTIME_DIR/wireguard)
    #[arg(long, value_name = "DIR", value_parser = parse_directory)]
    pub(super) uapi_dir: Option<PathBuf>,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Configuration: a path, `-` for standard input, or a NAME sought in ~/.config/wg4netns and /etc/wireguard
    #[arg(long, short, value_name = "NAME|PATH|-")]
    pub(super) config: Option<String>,
    /// Take the configuration from this environment variable, and remove it
    #[arg(long, value_name = "VAR", conflicts_with = "config")]
    pub(super) config_env: Option<String>,
    /// Refuse a configuration or key file that others may read, instead of warning
    #[arg(long)]
    pub(super) strict_perms: bool,
}

impl ConfigArgs {
    /// The source, if one was given.
    pub(super) fn source(self) -> Option<ConfigSource> {
        let source = self
            .config_env
            .map(ConfigSource::Variable)
            .or_else(|| self.config.map(|value| ConfigSource::from_flag(&value)))?;
        Some(source.strict(self.strict_perms))
    }
}

/// Name resolution inside.
#[derive(Debug, Args)]
pub(super) struct DnsArgs {
    /// Use this name server inside instead of the configuration's; may be repeated; `none` for none
    #[arg(long, value_name = "IP|none", value_parser = parse_dns_server)]
    pub(super) dns: Vec<DnsServer>,
    /// Search this domain instead of the configuration's; may be repeated; `.` for none
    #[arg(long, value_name = "DOMAIN", value_parser = parse_search_domain)]
    pub(super) dns_search: Vec<String>,
}

impl DnsArgs {
    /// Whether a flag was given.
    pub(super) fn is_given(&self) -> bool {
        !self.dns.is_empty() || !self.dns_search.is_empty()
    }

    /// Typed.
    pub(super) fn options(self) -> Result<DnsOptions, ArgsError> {
        let none_given = self.dns.contains(&DnsServer::None);
        if none_given && self.dns.len() > 1 {
            return Err(ArgsError::Conflict {
                first: "--dns none",
                second: "--dns",
                why: "`none` stands alone",
            });
        }
        let servers: Vec<IpAddr> = self.dns.iter().filter_map(DnsServer::address).collect();
        let mut search = self.dns_search;
        let search_given = !search.is_empty();
        search.retain(|domain| domain != ".");
        Ok(DnsOptions {
            servers: (none_given || !servers.is_empty()).then_some(servers),
            search: search_given.then_some(search),
        })
    }
}

/// A value of `--dns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DnsServer {
    /// This one.
    Address(IpAddr),
    /// No server at all.
    None,
}

impl DnsServer {
    const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::None => None,
        }
    }
}

fn parse_dns_server(text: &str) -> Result<DnsServer, &'static str> {
    if text == "none" {
        return Ok(DnsServer::None);
    }
    text.parse()
        .map(DnsServer::Address)
        .map_err(|_not_an_address| "a name server is an IP address, or `none`")
}

fn parse_search_domain(text: &str) -> Result<String, &'static str> {
    // resolv.conf(5): the line holds at most 256 characters, and a line break would start another statement.
    let fits = !text.is_empty() && text.len() <= 255;
    if fits && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        Ok(text.into())
    } else {
        Err("a search domain is made of letters, digits, `-`, `_` and dots")
    }
}

/// What crosses the wall beside the tunnel.
#[derive(Debug, Args)]
pub(super) struct ForwardArgs {
    /// Publish a port inside on the host, as `podman run -p` does; may be repeated
    #[arg(long, short, value_name = "[[IP:][HOSTPORT]:]PORT[/PROTO]")]
    publish: Vec<PublishedPorts>,
    /// Let programs inside reach this one address of the host's surroundings; may be repeated
    #[arg(long, value_name = "IP:PORT[/PROTO]")]
    reach: Vec<ReachedAddresses>,
}

impl ForwardArgs {
    /// Typed.
    pub(super) fn plan(self) -> ForwardPlan {
        ForwardPlan {
            published: self.publish.into_iter().flat_map(|PublishedPorts(ports)| ports).collect(),
            reached: self.reach.into_iter().flat_map(|ReachedAddresses(addresses)| addresses).collect(),
            dns_alias: None,
            later: false,
        }
    }
}

/// How and how much to log.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Say more; twice: every packet
    #[arg(long, short, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// Say less: no information, only warnings and errors; twice: only errors
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(super) quiet: u8,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormatArg::Text)]
    pub(super) log_format: LogFormatArg,
}

impl LogArgs {
    /// Typed; `normal` is the level without any flag.
    pub(super) fn options(&self, normal: LogLevel) -> LogOptions {
        let level = match (self.verbose, self.quiet) {
            (0, 0) => normal,
            (0, 1) => LogLevel::Warn,
            (0, _) => LogLevel::Error,
            (1, _) => LogLevel::Debug,
            (_, _) => LogLevel::Trace,
        };
        LogOptions { format: self.log_format.into(), level }
    }
}

/// A value of `--log-format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormatArg {
    /// For people
    Text,
    /// One JSON document a line
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(format: LogFormatArg) -> Self {
        match format {
            LogFormatArg::Text => Self::Text,
            LogFormatArg::Json => Self::Json,
        }
    }
}

/// How the tunnel confines itself.
#[derive(Debug, Args)]
pub(super) struct SandboxArgs {
    /// Give up what a running tunnel does not need: as far as the kernel can, or else fail, or keep files and calls
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = SandboxArg::Auto)]
    sandbox: SandboxArg,
}

impl SandboxArgs {
    /// Typed.
    pub(super) const fn policy(&self) -> Policy {
        match self.sandbox {
            SandboxArg::Auto => Policy::Auto,
            SandboxArg::Require => Policy::Require,
            SandboxArg::Off => Policy::Off,
        }
    }
}

/// A value of `--sandbox`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SandboxArg {
    /// Warn of each layer that this kernel cannot give
    Auto,
    /// Fail unless every layer is on
    Require,
    /// No landlock and no seccomp, in none of our processes
    Off,
}

/// `30`, `30s`, `3m` or `1h`, as a duration.
pub(super) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "a duration is a number of seconds, or a number with `s`, `m` or `h`";
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _other => return Err(WRONG),
    };
    let count: u32 = digits.parse().map_err(|_not_a_number| WRONG)?;
    Ok(Duration::from_secs(u64::from(count) * factor))
}

/// A process id.
pub(super) fn parse_pid(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(pid @ 1..=0x7fff_ffff) => Ok(pid),
        Ok(_) | Err(_) => Err("a process id is a number from 1 to 2147483647"),
    }
}

/// A descriptor that the caller passed; the standard streams are not for that.
pub(super) fn parse_descriptor(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(fd @ 3..) => Ok(fd),
        Ok(_) | Err(_) => Err("a descriptor is a number, 3 or above"),
    }
}

/// A directory; absolute, because the tunnel may leave the directory it was started in.
pub(super) fn parse_directory(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// The descriptors that flags name, each adopted at most once.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    taken: Vec<(u32, &'static str)>,
}

impl Descriptors {
    /// Takes over the descriptor that `flag` names.
    pub(super) fn adopt(
        &mut self,
        flag: &'static str,
        number: Option<u32>,
    ) -> Result<Option<OwnedFd>, ArgsError> {
        let Some(number) = number else { return Ok(None) };
        if let Some(&(_, first)) = self.taken.iter().find(|(taken, _)| *taken == number) {
            return Err(ArgsError::SameDescriptor { first, second: flag });
        }
        let fd = adopt_fd(number).map_err(|source| ArgsError::Descriptor { flag, number, source })?;
        self.taken.push((number, flag));
        Ok(Some(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("0", 0), ("7", 7), ("180s", 180), ("3m", 180), ("1h", 3600)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "s", "1ms", "-1", "1.5", "1 s", "ß"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dns_none_means_no_server_and_no_flag_means_the_configuration() {
        let options = |dns, dns_search: &[&str]| {
            DnsArgs { dns, dns_search: dns_search.iter().map(ToString::to_string).collect() }.options()
        };
        assert_eq!(options(vec![], &[]).unwrap(), DnsOptions::default());
        assert_eq!(options(vec![DnsServer::None], &["."]).unwrap().servers, Some(vec![]));
        assert_eq!(options(vec![DnsServer::None], &["."]).unwrap().search, Some(vec![]));
        let one = DnsServer::Address([10, 0, 0, 1].into());
        assert_eq!(options(vec![one.clone()], &[]).unwrap().servers.unwrap().len(), 1);
        assert!(options(vec![one, DnsServer::None], &[]).is_err());
    }
}
