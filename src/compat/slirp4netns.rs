//! slirp4netns's calling convention, as podman, buildah and rootlesskit use it. (wiring)
//!
//! # Theory of operation
//! The engine starts `slirp4netns OPTION… PID|PATH tap0` and keeps it: same process, told to be ready by a descriptor,
//! told to end by another one or by a signal. What it prints goes to a file that is shown if it ends too early.
//!
//! Engines differ in who configures the interface. podman (`-c`) leaves it to us, and dials the address CIDR+100
//! inside for published ports, so that address must be there. rootlesskit (no `-c`) has made a TAP device of that name
//! beforehand and gives it CIDR+100, a default route by CIDR+2 and a large MTU once we are ready: the TAP makes room
//! for the tunnel, whose own address is there first and whose default route is in a table that is asked first and carries
//! the right MTU, so whatever it does then does no harm.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use lexopt::Arg::{Long, Short, Value};
use lexopt::Parser;

use super::engine::{self, EngineCallError};
use crate::config::publish::ForwardPlan;
use crate::driver::mtu::Mtu;
use crate::driver::target::Target;
use crate::mode::request::{AttachRequest, AttachTarget, DnsOptions, EngineNeeds, ReadyOptions};
use crate::sys::fd_passing::adopt_fd;
use crate::sys::sandbox::Policy;

/// How the program is called. Engines look for the flags in it.
pub const USAGE: &str = "\
usage: slirp4netns [OPTION]... PID|PATH [TAPNAME]

wg4netns in slirp4netns's place: a WireGuard tunnel is the namespace's network if one is chosen, else the next
`slirp4netns` on PATH is executed with the same arguments.

  --wg-config NAME|PATH    the tunnel's configuration (or WG4NETNS_CONFIG in the environment)
  --wait-handshake[=SECS]  be ready only when a peer has answered (default 10 s; or WG4NETNS_WAIT_HANDSHAKE)

Of slirp4netns's own options these mean the same:
  -c, --configure          configure the interface; without it the caller does, and has made one already
  -e, --exit-fd=FD         end when the other end of this descriptor is closed
  -r, --ready-fd=FD        write to this descriptor when the network is configured
  -m, --mtu=MTU            never above the configuration's
  --cidr=CIDR              the network whose address 100 is the namespace's own and whose address 3 answers DNS
                           (default 10.0.2.0/24)
  --disable-dns            no such answers
  -6, --enable-ipv6        fd00::3 answers DNS, too
  -a, --api-socket=PATH    take ports to publish from this socket: add_hostfwd, list_hostfwd, remove_hostfwd
  --netns-type=path|pid    what the first word is (default pid)
  --userns-path=PATH       the user namespace to enter first
  -h, --help  -v, --version
These are accepted and have no effect, because a tunnel has no such way out or always does so:
  --disable-host-loopback --enable-sandbox --enable-seccomp --outbound-addr=IPv4 --outbound-addr6=IPv6
  --macaddress=MAC --target-type=netns
";

/// The network if the caller names none.
const CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);
/// The name server's IPv6 address.
const DNS_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
/// The interface if the caller names none.
const INTERFACE: &str = "tap0";
/// What podman calls the file that takes our output, with the container's id between the two.
const LOG_NAME: (&str, &str) = ("slirp4netns-", ".log");
/// As many characters of a container's id as engines show.
const SHORT_ID: usize = 12;

/// What is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// A tunnel.
    Attach(Box<AttachRequest>),
    /// Our version.
    Version,
    /// [`USAGE`].
    Help,
}

/// The container that we are started for, by the name of the file that podman gave us for our output.
#[must_use]
pub fn container_of_output() -> Option<String> {
    container_of(&std::fs::read_link("/proc/self/fd/1").ok()?)
}

fn container_of(output: &Path) -> Option<String> {
    let name = output.file_name()?.to_str()?.trim_end_matches(" (deleted)");
    let id = name.strip_prefix(LOG_NAME.0)?.strip_suffix(LOG_NAME.1)?;
    let is_id = id.len() >= SHORT_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id[..SHORT_ID].to_owned())
}

/// Reads the arguments, without the program's name, and the environment. `container` names the tunnel, if it is known.
///
/// # Errors
/// See [`EngineCallError`].
pub fn parse(
    arguments: &[OsString],
    variable: &impl Fn(&'static str) -> Option<OsString>,
    container: Option<&str>,
) -> Result<Wanted, EngineCallError> {
    let mut call = Call::default();
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Wanted::Help),
            Short('v') | Long("version") => return Ok(Wanted::Version),
            Long("wg-config") => call.config = Some(parser.value()?),
            Long("wait-handshake") => {
                call.wait_handshake = Some(engine::wait_from_flag(parser.optional_value())?);
            }
            Short('c') | Long("configure") => call.configure = true,
            Short('e') | Long("exit-fd") => call.exit_fd = Some(descriptor("--exit-fd", &parser.value()?)?),
            Short('r') | Long("ready-fd") => {
                call.ready_fd = Some(descriptor("--ready-fd", &parser.value()?)?)
            }
            Short('m') | Long("mtu") => call.mtu_ceiling = engine::mtu_ceiling(&parser.value()?)?,
            Short('6') | Long("enable-ipv6") => call.ipv6 = true,
            Long("disable-dns") => call.no_dns = true,
            Long("cidr") => call.cidr = cidr(&parser.value()?)?,
            Long("netns-type") => call.by_path = netns_type(&parser.value()?)?,
            Long("userns-path") => call.userns = Some(parser.value()?.into()),
            Short('a') | Long("api-socket") => call.api_socket = Some(parser.value()?.into()),
            Long("target-type") => {
                let value = parser.value()?;
                if value != "netns" {
                    return Err(EngineCallError::Value {
                        flag: "--target-type",
                        value: value.to_string_lossy().into_owned(),
                        wanted: "a tunnel needs a namespace, `netns`",
                    });
                }
            }
            Value(word) => call.words.push(word),
            Long("disable-host-loopback" | "enable-sandbox" | "enable-seccomp") => {}
            Long("outbound-addr" | "outbound-addr6" | "macaddress") => {
                parser.value()?;
            }
            Short(_) | Long(_) => return Err(argument.unexpected().into()),
        }
    }
    call.into_request(variable, container).map(|request| Wanted::Attach(Box::new(request)))
}

/// What the arguments said.
#[derive(Debug)]
struct Call {
    config: Option<OsString>,
    wait_handshake: Option<std::time::Duration>,
    configure: bool,
    exit_fd: Option<u32>,
    ready_fd: Option<u32>,
    mtu_ceiling: Option<Mtu>,
    cidr: Ipv4Net,
    by_path: bool,
    userns: Option<PathBuf>,
    api_socket: Option<PathBuf>,
    ipv6: bool,
    no_dns: bool,
    words: Vec<OsString>,
}

impl Default for Call {
    fn default() -> Self {
        Self {
            config: None,
            wait_handshake: None,
            configure: false,
            exit_fd: None,
            ready_fd: None,
            mtu_ceiling: None,
            cidr: CIDR,
            by_path: false,
            userns: None,
            api_socket: None,
            ipv6: false,
            no_dns: false,
            words: Vec::new(),
        }
    }
}

impl Call {
    fn into_request(
        mut self,
        variable: &impl Fn(&'static str) -> Option<OsString>,
        container: Option<&str>,
    ) -> Result<AttachRequest, EngineCallError> {
        const WANTED: &str = "expected `PID tap0` or `--netns-type=path PATH tap0`";
        let mut words = std::mem::take(&mut self.words).into_iter();
        let (Some(target), name, None) = (words.next(), words.next(), words.next()) else {
            return Err(EngineCallError::NoTarget { wanted: WANTED });
        };
        let target = self.target(&target).ok_or(EngineCallError::NoTarget { wanted: WANTED })?;
        let keep_other_links = engine::has_bridges(&target);
        let name = name.map_or_else(|| INTERFACE.into(), |name| name.to_string_lossy().into_owned());
        let interface = name.parse().map_err(|source| EngineCallError::Interface { name, source })?;
        let dns_alias = engine::dns_alias(self.name_servers());
        let later = self.api_socket.is_some();
        let config = self.config.or_else(|| engine::from_environment(variable));
        let wait_handshake = match self.wait_handshake {
            Some(wait) => Some(wait),
            None => engine::wait_from_environment(variable)?,
        };
        Ok(AttachRequest {
            target: AttachTarget::Namespace(target),
            config: config.as_deref().map(engine::config_source).transpose()?,
            interface,
            name: None,
            mtu: None,
            uapi_dir: None,
            exit_fd: adopt("--exit-fd", self.exit_fd)?,
            ready: ReadyOptions {
                ready_fd: adopt("--ready-fd", self.ready_fd)?,
                pidfile: None,
                background: false,
                wait_handshake,
            },
            routes: true,
            keep_other_links,
            bare: false,
            end_with_socket: false,
            engine: EngineNeeds {
                is_engine: true,
                preferred_name: container.map(ToOwned::to_owned),
                configures_interface: !self.configure,
                local_addresses: host_number(self.cidr, 100).into_iter().collect(),
                // Whoever configures the interface itself wants a default route by this address.
                refused_addresses: host_number(self.cidr, 2).filter(|_| self.configure).into_iter().collect(),
                mtu_ceiling: self.mtu_ceiling,
                port_socket: self.api_socket,
                ..EngineNeeds::default()
            },
            forwards: ForwardPlan { published: Vec::new(), reached: Vec::new(), dns_alias, later },
            dns: DnsOptions::default(),
            write_resolv_conf: None,
            sandbox: Policy::Auto,
            log: engine::log(),
        })
    }

    /// Where programs inside are told to ask.
    fn name_servers(&self) -> Vec<IpAddr> {
        if self.no_dns {
            return Vec::new();
        }
        // podman 4.3.1 was seen to write the default network's into resolv.conf whatever `--cidr` it gave to us.
        let mut servers: Vec<_> = [self.cidr, CIDR].iter().filter_map(|cidr| host_number(*cidr, 3)).collect();
        servers.dedup();
        servers.extend(self.ipv6.then_some(IpAddr::V6(DNS_IPV6)));
        servers
    }

    fn target(&self, word: &OsStr) -> Option<Target> {
        if self.by_path {
            return Some(Target::Path { netns: word.into(), userns: self.userns.clone() });
        }
        let pid: u32 = word.to_str()?.parse().ok().filter(|pid| *pid > 0)?;
        Some(match &self.userns {
            None => Target::Pid(pid),
            Some(userns) => {
                Target::Path { netns: format!("/proc/{pid}/ns/net").into(), userns: Some(userns.clone()) }
            }
        })
    }
}

/// The `number`th address of a network, as slirp4netns counts: 2 is the gateway, 3 the name server, 100 the namespace.
fn host_number(network: Ipv4Net, number: u32) -> Option<IpAddr> {
    let address = u32::from(network.network()).checked_add(number)?;
    let address = Ipv4Addr::from(address);
    network.contains(&address).then_some(IpAddr::V4(address))
}

fn cidr(value: &OsStr) -> Result<Ipv4Net, EngineCallError> {
    let value = value.to_string_lossy();
    let network = value.parse::<Ipv4Net>().ok().filter(|network| host_number(*network, 100).is_some());
    network.ok_or_else(|| EngineCallError::Value {
        flag: "--cidr",
        value: value.into_owned(),
        wanted: "an IPv4 network with more than 100 addresses, as 10.0.2.0/24",
    })
}

fn netns_type(value: &OsStr) -> Result<bool, EngineCallError> {
    match value.to_str() {
        Some("path") => Ok(true),
        Some("pid") => Ok(false),
        Some(_) | None => Err(EngineCallError::Value {
            flag: "--netns-type",
            value: value.to_string_lossy().into_owned(),
            wanted: "`path` or `pid`",
        }),
    }
}

fn descriptor(flag: &'static str, value: &OsStr) -> Result<u32, EngineCallError> {
    let number = value.to_str().and_then(|value| value.parse().ok()).filter(|number| *number > 2);
    number.ok_or_else(|| EngineCallError::Value {
        flag,
        value: value.to_string_lossy().into_owned(),
        wanted: "a descriptor is a number, 3 or above",
    })
}

fn adopt(flag: &'static str, number: Option<u32>) -> Result<Option<OwnedFd>, EngineCallError> {
    let Some(number) = number else { return Ok(None) };
    adopt_fd(number).map(Some).map_err(|_not_open| EngineCallError::Value {
        flag,
        value: number.to_string(),
        wanted: "not an open descriptor",
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;
    use crate::mode::request::ConfigSource;

    const CHOSEN: &[(&str, &str)] = &[(engine::CONFIG_VARIABLE, "work")];

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn parsed(line: &str) -> Result<AttachRequest, EngineCallError> {
        let variable = |name: &'static str| {
            CHOSEN.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        match parse(&words(line), &variable, Some("0123456789ab"))? {
            Wanted::Attach(request) => Ok(*request),
            other @ (Wanted::Version | Wanted::Help) => panic!("{other:?}"),
        }
    }

    fn own(address: &str) -> Vec<IpAddr> {
        vec![address.parse().unwrap()]
    }

    #[test]
    fn podmans_call_is_a_tunnel_that_is_told_when_to_end() {
        let (exit, _writer) = nix::unistd::pipe().unwrap();
        let (_reader, ready) = nix::unistd::pipe().unwrap();
        let line = format!(
            "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e {} -r {} \
             --netns-type=path /run/user/1001/netns/netns-1 tap0",
            exit.into_raw_fd(),
            ready.into_raw_fd()
        );
        let request = parsed(&line).unwrap();
        assert_eq!(request.config, Some(ConfigSource::Name("work".into())));
        assert_eq!(request.interface.as_str(), "tap0");
        assert!(request.exit_fd.is_some() && request.ready.ready_fd.is_some() && !request.ready.background);
        assert!(!request.engine.configures_interface);
        assert_eq!(request.engine.local_addresses, own("10.0.2.100"));
        let names = request.forwards.dns_alias.unwrap().listen;
        assert_eq!(names, [own("10.0.2.3"), own("fd00::3")].concat());
        assert_eq!(request.engine.preferred_name.as_deref(), Some("0123456789ab"));
        let AttachTarget::Namespace(Target::Path { netns, userns: None }) = request.target else {
            panic!("{:?}", request.target)
        };
        assert_eq!(netns, PathBuf::from("/run/user/1001/netns/netns-1"));
    }

    #[test]
    fn rootlesskit_configures_the_interface_itself() {
        let line =
            "--mtu 65520 --disable-host-loopback --cidr 10.7.0.0/16 --api-socket /x/.s4nn.sock 4242 tap0";
        let request = parsed(line).unwrap();
        assert_eq!(request.engine.port_socket, Some(PathBuf::from("/x/.s4nn.sock")));
        assert!(request.forwards.later);
        assert!(request.engine.configures_interface);
        assert_eq!(request.engine.local_addresses, own("10.7.0.100"));
        let names = request.forwards.dns_alias.unwrap().listen;
        assert_eq!(names, [own("10.7.0.3"), own("10.0.2.3")].concat());
        assert!(matches!(request.target, AttachTarget::Namespace(Target::Pid(4242))));
        let detached =
            "--userns-path=/proc/7/ns/user --netns-type=path /proc/7/root/run/user/1000/netns tap0";
        let AttachTarget::Namespace(Target::Path { netns, userns }) = parsed(detached).unwrap().target else {
            panic!("no path")
        };
        assert_eq!(netns, PathBuf::from("/proc/7/root/run/user/1000/netns"));
        assert_eq!(userns, Some(PathBuf::from("/proc/7/ns/user")));
    }

    #[test]
    fn the_help_names_every_flag_that_engines_look_for() {
        // podman: networking_slirp4netns.go; rootlesskit: pkg/network/slirp4netns.
        for flag in [
            "--disable-host-loopback",
            "--mtu",
            "--enable-sandbox",
            "--enable-seccomp",
            "--cidr",
            "--outbound-addr",
            "--enable-ipv6",
            "--api-socket",
            "--netns-type",
            "--userns-path",
        ] {
            assert!(USAGE.contains(flag), "{flag}");
        }
    }

    #[test]
    fn the_container_is_known_by_the_file_for_our_output() {
        let id = "4a2e42dcc6fd0123456789abcdef0123456789abcdef0123456789abcdef0123";
        let path = format!("/run/user/1001/libpod/tmp/slirp4netns-{id}.log (deleted)");
        assert_eq!(container_of(Path::new(&path)).as_deref(), Some("4a2e42dcc6fd"));
        for other in ["/dev/null", "pipe:[1234]", "/x/slirp4netns-rootless-netns.log", "/x/slirp4netns-.log"]
        {
            assert_eq!(container_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_one_line() {
        for (line, message) in [
            ("", "no namespace given: expected `PID tap0` or `--netns-type=path PATH tap0`"),
            ("x tap0", "no namespace given: expected `PID tap0` or `--netns-type=path PATH tap0`"),
            ("1 tap0 more", "no namespace given: expected `PID tap0` or `--netns-type=path PATH tap0`"),
            ("--netns-type=tapfd 5", "`--netns-type tapfd`: `path` or `pid`"),
            (
                "--cidr=10.0.2.0/30 1 tap0",
                "`--cidr 10.0.2.0/30`: an IPv4 network with more than 100 addresses, as 10.0.2.0/24",
            ),
            ("--ready-fd=1 1 tap0", "`--ready-fd 1`: a descriptor is a number, 3 or above"),
            ("--ready-fd=1000000 1 tap0", "`--ready-fd 1000000`: not an open descriptor"),
            ("1 a/b", "interface name `a/b`"),
        ] {
            assert_eq!(parsed(line).unwrap_err().to_string(), message, "{line}");
        }
    }
}
