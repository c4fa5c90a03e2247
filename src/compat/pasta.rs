//! pasta's calling convention, as podman, buildah and rootlesskit use it. (wiring)
//!
//! # Theory of operation
//! podman starts `pasta OPTION… --netns PATH`, waits until it has ended and its output is closed, and takes a status
//! other than 0 for the failure of the container's start, showing what was printed. So everything is set up in the
//! foreground, and a process in the background stays; it ends when the namespace's file goes.
//!
//! Whatever follows `--network pasta:` reaches us unread, separated by commas: that is how a container chooses its
//! configuration, `--network pasta:--wg-config,work`.
//!
//! Options that tell pasta how to imitate the host's network (addresses, gateway, DHCP, …) mean nothing here and are
//! passed over; those that would open a way around the tunnel are refused. podman always names an address for the host,
//! `--map-guest-addr`, so that one is no error: packets to it are answered with "no route to host" inside. They must not
//! go through the tunnel either, to whoever has that address there. `--reach` opens one port of the host.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use lexopt::Arg::{Long, Short, Value};
use lexopt::Parser;

use super::engine::{self, EngineCallError};
use super::pasta_ports;
use crate::config::publish::{ForwardPlan, PublishedPort, ReachedAddress, ReachedAddresses, Transport};
use crate::driver::interface_name::InterfaceName;
use crate::driver::logging::LogLevel;
use crate::driver::target::Target;
use crate::mode::request::{AttachRequest, AttachTarget, DnsOptions, EngineNeeds, ReadyOptions};
use crate::sys::sandbox::Policy;

/// How the program is called.
pub const USAGE: &str = "\
usage: pasta [OPTION]... PID
       pasta [OPTION]... --netns PATH|NAME

wg4netns in pasta's place: a WireGuard tunnel is the namespace's network if one is chosen, else the next `pasta` on PATH
is executed with the same arguments.

  --wg-config NAME|PATH    the tunnel's configuration (or WG4NETNS_CONFIG in the environment)
  --wait-handshake[=SECS]  succeed only when a peer has answered (default 10 s; or WG4NETNS_WAIT_HANDSHAKE)
  --wg-name NAME           what `wg4netns ls` calls the tunnel (default: the configuration's name)
  --reach IP:PORT[/udp]    that one address of the host or its surroundings is reached, beside the tunnel; may be repeated

Of pasta's own options these mean the same:
  --config-net --netns --userns -I|--ns-ifname -P|--pid -f|--foreground -d|--debug --trace -h|--help --version
  -m|--mtu                 never above the configuration's
  -t|--tcp-ports -u|--udp-ports [ADDRESS/]PORTS[:PORTS]
                           clients are seen as the tunnel's own address; not `auto` or `all`: which ports programs inside
                           listen on is not watched, and every port of the host would be taken
  --host-lo-to-ns-lo       clients of ports published on the host's loopback are seen as 127.0.0.1 or ::1
  --dns-forward            answered by the configuration's servers, through the tunnel; so are the host's own
                           name servers, which podman tells containers of, on their port 53
These lead to the host, which is not behind the tunnel; `--reach` opens what is needed of it:
  --map-guest-addr         refused inside, at once: \"no route to host\" (podman's host.containers.internal)
  --map-host-loopback -T|--tcp-ns -U|--udp-ns
                           only `none`
Not to be had: -c|--conf-path (pesto) -F|--fd --no-tcp --no-udp --no-icmp --no-netns-quit
These are accepted and have no effect, because a tunnel has no such thing or always does so:
  -q|--quiet -e|--stderr -l|--log-file --log-size (nothing is printed but errors; `wg4netns logs` has the rest)
  --netns-only (the user namespace is entered where that is needed)   --runas (the caller's user, without capabilities)
  -4|--ipv4-only -6|--ipv6-only -a|--address -n|--netmask -g|--gateway --no-copy-routes --no-copy-addrs (as the
  configuration says)   -o|--outbound --outbound-if4 --outbound-if6 -i|--interface -D|--dns --dns-host -S|--search
  -M|--mac-addr --ns-mac-addr -H|--hostname --fqdn -p|--pcap --no-dhcp --no-dhcpv6 --no-ndp --no-ra --dhcp-dns
  --no-dhcp-dns --dhcp-search --no-dhcp-search --no-map-gw --no-splice --freebind
";

/// Where a namespace that is given by name is bound.
const NAMED_NAMESPACES: &str = "/run/netns";

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

/// Reads the arguments, without the program's name, and the environment.
///
/// # Errors
/// See [`EngineCallError`].
pub fn parse(
    arguments: &[OsString],
    variable: &impl Fn(&'static str) -> Option<OsString>,
) -> Result<Wanted, EngineCallError> {
    let mut call = Call::default();
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("version") => return Ok(Wanted::Version),
            Short('h') | Long("help") => return Ok(Wanted::Help),
            Long("wg-config") => call.config = Some(parser.value()?),
            Long("wg-name") => call.name = Some(parser.value()?.to_string_lossy().into_owned()),
            Long("wait-handshake") => {
                call.wait_handshake = Some(engine::wait_from_flag(parser.optional_value())?);
            }
            Long("netns") => call.netns = Some(parser.value()?),
            Long("userns") => call.userns = Some(parser.value()?.into()),
            Short('I') | Long("ns-ifname") => {
                call.interface = Some(parser.value()?.to_string_lossy().into_owned());
            }
            Short('P') | Long("pid") => call.pidfile = Some(parser.value()?.into()),
            Short('m') | Long("mtu") => call.mtu_ceiling = engine::mtu_ceiling(&parser.value()?)?,
            Long("config-net") => call.config_net = true,
            Short('f') | Long("foreground") => call.foreground = true,
            Short('d') | Long("debug" | "trace") => call.log_level = Some(LogLevel::Debug),
            Short('t') | Long("tcp-ports") => {
                call.published.extend(pasta_ports::parse("-t", &parser.value()?, Transport::Tcp)?);
            }
            Short('u') | Long("udp-ports") => {
                call.published.extend(pasta_ports::parse("-u", &parser.value()?, Transport::Udp)?);
            }
            Long("dns-forward") => call.dns.push(engine::address("--dns-forward", &parser.value()?)?),
            Short('T') | Long("tcp-ns") => no_way_to_the_host("-T", &parser.value()?)?,
            Short('U') | Long("udp-ns") => no_way_to_the_host("-U", &parser.value()?)?,
            // What follows a word belongs to it: pasta could run it as a command.
            Value(word) => {
                call.words.push(word);
                call.words.extend(parser.raw_args()?);
            }
            Long("reach") => call.reached.extend(reached(&parser.value()?)?),
            Long("map-guest-addr") => {
                call.names_of_host.extend(name_of_host("--map-guest-addr", &parser.value()?)?);
            }
            Long("map-host-loopback") => {
                let value = parser.value()?;
                if name_of_host("--map-host-loopback", &value)?.is_some() {
                    return Err(EngineCallError::Unsupported {
                        flag: format!("`--map-host-loopback {}`", value.to_string_lossy()),
                        why: "the host's loopback would be a way around it; `--reach 127.0.0.1:PORT` opens one port",
                    });
                }
            }
            Long("host-lo-to-ns-lo") => call.loopback_to_loopback = true,
            Long(flag @ ("no-tcp" | "no-udp" | "no-icmp")) => {
                return Err(EngineCallError::Unsupported {
                    flag: format!("`--{flag}`"),
                    why: "it carries every protocol",
                });
            }
            Long("no-netns-quit") => {
                return Err(EngineCallError::Unsupported {
                    flag: "`--no-netns-quit`".into(),
                    why: "it ends with its namespace, which it would keep alive",
                });
            }
            // How pasta imitates the host's network, confines itself and logs: nothing that a tunnel has. All of
            // them are in the usage text, which says so.
            Long(
                "quiet" | "stderr" | "no-dhcp" | "no-ndp" | "no-dhcpv6" | "no-ra" | "freebind" | "no-map-gw"
                | "ipv4-only" | "ipv6-only" | "dhcp-dns" | "no-dhcp-dns" | "dhcp-search" | "no-dhcp-search"
                | "no-copy-routes" | "no-copy-addrs" | "netns-only" | "no-splice",
            )
            | Short('q' | 'e' | '4' | '6') => {}
            Long(
                "log-file" | "log-size" | "runas" | "pcap" | "address" | "netmask" | "mac-addr" | "gateway"
                | "interface" | "outbound" | "outbound-if4" | "outbound-if6" | "dns" | "search" | "hostname"
                | "fqdn" | "dns-host" | "ns-mac-addr",
            )
            | Short('l' | 'p' | 'a' | 'n' | 'M' | 'g' | 'i' | 'o' | 'D' | 'S' | 'H') => {
                parser.value()?;
            }
            Short('F') | Long("fd") => {
                return Err(EngineCallError::Unsupported {
                    flag: "`--fd`".into(),
                    why: "a tunnel needs a namespace, not a socket",
                });
            }
            Short('c') | Long("conf-path") => {
                return Err(EngineCallError::Unsupported {
                    flag: "`-c`".into(),
                    why: "ports cannot be changed by `pesto` yet; set rootless_port_forwarder = \"rootlessport\"",
                });
            }
            Short(_) | Long(_) => return Err(argument.unexpected().into()),
        }
    }
    call.into_request(variable).map(|request| Wanted::Attach(Box::new(request)))
}

/// What the arguments said.
#[derive(Debug, Default)]
struct Call {
    config: Option<OsString>,
    name: Option<String>,
    wait_handshake: Option<std::time::Duration>,
    netns: Option<OsString>,
    userns: Option<PathBuf>,
    interface: Option<String>,
    pidfile: Option<PathBuf>,
    mtu_ceiling: Option<crate::driver::mtu::Mtu>,
    config_net: bool,
    foreground: bool,
    log_level: Option<LogLevel>,
    published: Vec<PublishedPort>,
    /// Connections to published ports of the host's loopback are to come from loopback inside.
    loopback_to_loopback: bool,
    reached: Vec<ReachedAddress>,
    dns: Vec<IpAddr>,
    names_of_host: Vec<IpAddr>,
    words: Vec<OsString>,
}

impl Call {
    fn into_request(
        mut self,
        variable: &impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<AttachRequest, EngineCallError> {
        let target = self.target()?;
        let keep_other_links = engine::has_bridges(&target);
        if !self.config_net {
            return Err(EngineCallError::Unsupported {
                flag: "an interface without `--config-net`".into(),
                why: "its caller would configure it while it is made; rootlesskit before 2.1 can with slirp4netns",
            });
        }
        if self.loopback_to_loopback {
            self.published.iter_mut().for_each(keep_loopback);
        }
        let config = self.config.or_else(|| engine::from_environment(variable));
        let interface: InterfaceName = {
            let name = self.interface.unwrap_or_else(|| "wg0".into());
            name.parse().map_err(|source| EngineCallError::Interface { name, source })?
        };
        let wait_handshake = match self.wait_handshake {
            Some(wait) => Some(wait),
            None => engine::wait_from_environment(variable)?,
        };
        let mut log = engine::log();
        log.level = self.log_level.unwrap_or(log.level);
        Ok(AttachRequest {
            target: AttachTarget::Namespace(target),
            config: config.as_deref().map(engine::config_source).transpose()?,
            interface,
            name: None,
            mtu: None,
            uapi_dir: None,
            exit_fd: None,
            ready: ReadyOptions {
                ready_fd: None,
                pidfile: self.pidfile,
                background: !self.foreground,
                wait_handshake,
            },
            routes: true,
            keep_other_links,
            bare: false,
            end_with_socket: false,
            engine: EngineNeeds {
                is_engine: true,
                preferred_name: self.name,
                // Of several IPv6 addresses any may be chosen as a source: those stay on lo.
                local_addresses: self.dns.iter().copied().filter(IpAddr::is_ipv4).collect(),
                refused_addresses: self.names_of_host,
                mtu_ceiling: self.mtu_ceiling,
                ..EngineNeeds::default()
            },
            forwards: ForwardPlan {
                published: self.published,
                reached: self.reached,
                dns_alias: engine::dns_alias(self.dns),
                later: false,
            },
            dns: DnsOptions::default(),
            write_resolv_conf: None,
            sandbox: Policy::Auto,
            log,
        })
    }

    /// The namespace: by path or name, or a process's.
    fn target(&self) -> Result<Target, EngineCallError> {
        const WANTED: &str = "expected `--netns PATH` or a process id";
        match (&self.netns, &self.words[..]) {
            (Some(netns), []) => {
                let netns = PathBuf::from(netns);
                let named = netns.components().count() == 1 && netns.is_relative();
                let netns = if named { PathBuf::from(NAMED_NAMESPACES).join(netns) } else { netns };
                Ok(Target::Path { netns, userns: self.userns.clone() })
            }
            (None, [word]) => {
                let pid = word.to_str().and_then(|word| word.parse().ok());
                let pid = pid.filter(|pid| *pid > 0).ok_or(EngineCallError::NoTarget { wanted: WANTED })?;
                match &self.userns {
                    None => Ok(Target::Pid(pid)),
                    Some(userns) => Ok(Target::Path {
                        netns: format!("/proc/{pid}/ns/net").into(),
                        userns: Some(userns.clone()),
                    }),
                }
            }
            (None | Some(_), _) => Err(EngineCallError::NoTarget { wanted: WANTED }),
        }
    }
}

/// A port of the host's loopback: nobody but the host itself can connect to it, and may be seen as local inside.
fn keep_loopback(port: &mut PublishedPort) {
    if port.host.is_some_and(|host| host.is_loopback()) {
        port.inside = port.host.map(|host| match host {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
}

fn reached(value: &std::ffi::OsStr) -> Result<Vec<ReachedAddress>, EngineCallError> {
    let value = value.to_string_lossy();
    let ReachedAddresses(all) = value
        .parse()
        .map_err(|source| EngineCallError::Reach { value: value.clone().into_owned(), source })?;
    Ok(all)
}

/// An address that stands for the host, or `none`.
fn name_of_host(flag: &'static str, value: &std::ffi::OsStr) -> Result<Option<IpAddr>, EngineCallError> {
    if value == "none" { Ok(None) } else { engine::address(flag, value).map(Some) }
}

/// pasta can let programs inside connect to the host's loopback; a tunnel is the only way out.
fn no_way_to_the_host(flag: &'static str, value: &std::ffi::OsStr) -> Result<(), EngineCallError> {
    if value == "none" {
        return Ok(());
    }
    Err(EngineCallError::Unsupported {
        flag: format!("`{flag} {}`", value.to_string_lossy()),
        why: "the host's loopback would be a way around it",
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mode::request::ConfigSource;

    /// What podman 5.4.2 was seen to execute for `--network pasta:--wg-config,work`.
    const PODMAN: &str = "--config-net --wg-config work --dns-forward 169.254.1.1 -t none -u none -T none -U none \
         --no-map-gw --quiet --netns /run/user/1000/netns/netns-1 --map-guest-addr 169.254.1.2";

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn parsed(line: &str, environment: &[(&'static str, &str)]) -> Result<AttachRequest, EngineCallError> {
        let variable = |name: &'static str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        match parse(&words(line), &variable)? {
            Wanted::Attach(request) => Ok(*request),
            other @ (Wanted::Version | Wanted::Help) => panic!("{other:?}"),
        }
    }

    #[test]
    fn beside_podmans_own_bridges_there_is_room_for_the_tunnel() {
        for (netns, room) in [
            ("/run/user/1000/containers/networks/rootless-netns/rootless-netns", true),
            ("/run/user/1000/netns/netns-1", false),
            ("/run/user/1000/rootless-netns", false),
        ] {
            let line = format!("--config-net --wg-config work --netns {netns}");
            assert_eq!(parsed(&line, &[]).unwrap().keep_other_links, room, "{netns}");
        }
    }

    #[test]
    fn podmans_call_is_a_tunnel_in_the_background() {
        let request = parsed(PODMAN, &[]).unwrap();
        assert_eq!(request.config, Some(ConfigSource::Name("work".into())));
        assert_eq!(request.interface.as_str(), "wg0");
        assert!(request.ready.background && request.routes && !request.keep_other_links);
        assert_eq!(request.forwards.published, []);
        let alias = request.forwards.dns_alias.unwrap();
        assert_eq!(alias.listen, ["169.254.1.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(alias.servers, [] as [IpAddr; 0], "the configuration's");
        assert_eq!(request.engine.refused_addresses, ["169.254.1.2".parse::<IpAddr>().unwrap()]);
        let AttachTarget::Namespace(Target::Path { netns, userns: None }) = request.target else {
            panic!("{:?}", request.target)
        };
        assert_eq!(netns, PathBuf::from("/run/user/1000/netns/netns-1"));
    }

    #[test]
    fn published_ports_are_those_of_every_flag() {
        let line =
            "--config-net --wg-config w -t 18080-18081:80-81 -u 127.0.0.1/53-53:53-53 -T none --netns /x/y";
        let ports = parsed(line, &[]).unwrap().forwards.published;
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["80/tcp -> *:18080", "81/tcp -> *:18081", "53/udp -> 127.0.0.1:53"]);
    }

    #[test]
    fn the_containers_choice_comes_after_the_engines_and_wins() {
        let line = "--config-net --wg-config home --wg-config /h/work.conf --netns /x/y";
        let request = parsed(line, &[(engine::CONFIG_VARIABLE, "other")]).unwrap();
        assert_eq!(request.config, Some(ConfigSource::Path("/h/work.conf".into())));
        let request = parsed("--config-net --netns /x/y", &[(engine::CONFIG_VARIABLE, "other")]).unwrap();
        assert_eq!(request.config, Some(ConfigSource::Name("other".into())));
    }

    #[test]
    fn rootlesskits_call_names_a_process() {
        let line = "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 \
             --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=none --udp-ports=none 4242";
        let request = parsed(line, &[(engine::CONFIG_VARIABLE, "work")]).unwrap();
        assert_eq!(request.interface.as_str(), "tap0");
        assert!(matches!(request.target, AttachTarget::Namespace(Target::Pid(4242))));
        assert_eq!(request.engine.mtu_ceiling.map(crate::driver::mtu::Mtu::bytes), Some(65520));
        assert_eq!(request.mtu, None);
    }

    #[test]
    fn a_namespace_may_be_given_by_name() {
        let request = parsed("--config-net --wg-config w --netns blue", &[]).unwrap();
        let AttachTarget::Namespace(Target::Path { netns, .. }) = request.target else {
            panic!("{:?}", request.target)
        };
        assert_eq!(netns, PathBuf::from("/run/netns/blue"));
    }

    #[test]
    fn options_of_ours_have_their_say() {
        let line = "--config-net --wg-config w --wait-handshake=5 --wg-name web -P /x/pid -I eth0 -m 1280 -f --netns /x/y";
        let request = parsed(line, &[]).unwrap();
        assert_eq!(request.ready.wait_handshake, Some(Duration::from_secs(5)));
        assert_eq!(request.ready.pidfile, Some(PathBuf::from("/x/pid")));
        assert_eq!(request.engine.preferred_name.as_deref(), Some("web"));
        assert_eq!(request.interface.as_str(), "eth0");
        assert!(!request.ready.background);
        let request =
            parsed("--config-net --wg-config w --netns /x/y", &[(engine::WAIT_VARIABLE, "3")]).unwrap();
        assert_eq!(request.ready.wait_handshake, Some(Duration::from_secs(3)));
    }

    #[test]
    fn the_host_is_reached_only_where_that_is_said() {
        let line = "--config-net --wg-config w --map-guest-addr none --map-host-loopback none \
             --reach 192.168.1.10:445 --reach 127.0.0.1:5432/udp --netns /x/y";
        let request = parsed(line, &[]).unwrap();
        assert_eq!(request.engine.refused_addresses, [] as [IpAddr; 0]);
        let reached: Vec<String> = request.forwards.reached.iter().map(ToString::to_string).collect();
        assert_eq!(reached, ["192.168.1.10:445/tcp", "127.0.0.1:5432/udp"]);
    }

    #[test]
    fn outsiders_look_local_only_if_they_are_and_somebody_asks() {
        let dialled = |line: &str| -> Vec<Option<IpAddr>> {
            let line =
                format!("--config-net --wg-config w -t 8080 -t 127.0.0.5/81 -t ::1/82 {line} --netns /x/y");
            parsed(&line, &[]).unwrap().forwards.published.iter().map(|port| port.inside).collect()
        };
        assert_eq!(dialled(""), [None; 3]);
        let loopback = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(dialled("--host-lo-to-ns-lo"), [None, loopback("127.0.0.1"), loopback("::1")]);
    }

    #[test]
    fn the_help_names_every_option_that_is_accepted() {
        let source = include_str!("pasta.rs");
        let parser = source.split("while let Some(argument)").nth(1).unwrap();
        let parser = parser.split("Short(_) | Long(_)").next().unwrap();
        let long = parser.split('"').skip(1).step_by(2);
        let long: Vec<&str> = long
            .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b.is_ascii_digit()))
            .collect();
        assert!(long.len() > 50, "{long:?}");
        for flag in long.into_iter().filter(|word| !word.starts_with('-') && *word != "none") {
            assert!(USAGE.contains(&format!("--{flag}")), "{flag}");
        }
    }

    #[test]
    fn what_would_surprise_is_refused_in_one_line() {
        for (line, message) in [
            (
                "--wg-config w -T 8080 --netns /x/y",
                "`-T 8080` cannot be had with a tunnel: the host's loopback would be a way around it",
            ),
            (
                "--wg-config w --netns /x/y",
                "an interface without `--config-net` cannot be had with a tunnel: its caller would configure it \
                 while it is made; rootlesskit before 2.1 can with slirp4netns",
            ),
            ("--wg-config w sh -c true", "no namespace given: expected `--netns PATH` or a process id"),
            ("--wg-config w", "no namespace given: expected `--netns PATH` or a process id"),
            ("--config-net --wg-config w -I a/b --netns /x/y", "interface name `a/b`"),
            ("--config-net --wg-config - --netns /x/y", "`--wg-config -`: a name or a path"),
            (
                "--wg-config w --map-host-loopback 10.0.0.1 --netns /x/y",
                "`--map-host-loopback 10.0.0.1` cannot be had with a tunnel: the host's loopback would be a way \
                 around it; `--reach 127.0.0.1:PORT` opens one port",
            ),
            ("--wg-config w --map-guest-addr host --netns /x/y", "`--map-guest-addr host`: an IP address"),
            (
                "--wg-config w --no-udp --netns /x/y",
                "`--no-udp` cannot be had with a tunnel: it carries every protocol",
            ),
            ("--wg-config w --reach nas:445 --netns /x/y", "`--reach nas:445`"),
        ] {
            assert_eq!(parsed(line, &[]).unwrap_err().to_string(), message, "{line}");
        }
        for line in ["--wg-config w --never-heard-of --netns /x/y", "--wg-config", "--wg-config w --netns"] {
            assert!(matches!(parsed(line, &[]), Err(EngineCallError::Arguments(_))), "{line}");
        }
    }

    #[test]
    fn version_and_help_need_no_namespace() {
        let unset = |_: &'static str| None;
        assert!(matches!(parse(&words("--host-lo-to-ns-lo --version"), &unset), Ok(Wanted::Version)));
        assert!(matches!(parse(&words("-h"), &unset), Ok(Wanted::Help)));
    }
}
