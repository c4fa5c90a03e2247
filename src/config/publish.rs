//! Ports that are reached from the other side of the wall: published ones and reached addresses. (vocabulary)
//!
//! [`PublishedPorts`] reads what `podman run -p` reads, `[[ip:][hostPort]:]containerPort[/protocol]`: a range gives one
//! [`PublishedPort`] a port, `tcp,udp` one a protocol. [`ReachedAddresses`] reads the value of `--reach`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::literal::Literal;
use super::value::parse_port;

/// What runs over a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of the host that leads to one port inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Of both ends.
    pub transport: Transport,
    /// Listen on this address of the host; absent: on all, IPv4 and IPv6.
    pub host: Option<IpAddr>,
    /// Listen on this port; absent: on one that is free.
    pub host_port: Option<NonZeroU16>,
    /// Connect to this address inside; absent: the tunnel's own. Who says 127.0.0.1 asks for outsiders to look local.
    pub inside: Option<IpAddr>,
    /// Connect to this port inside.
    pub inside_port: NonZeroU16,
}

/// As `podman port` shows it.
impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} -> ", self.inside_port, self.transport)?;
        let host = self.host.map_or_else(|| "*".to_owned(), in_brackets);
        match self.host_port {
            Some(port) => write!(f, "{host}:{port}"),
            None => write!(f, "{host}:*"),
        }
    }
}

/// What one `-p` asks for; at least one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPorts(pub Vec<PublishedPort>);

/// One address of the host's surroundings that is to be reached from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReachedAddress {
    /// What is forwarded.
    pub transport: Transport,
    /// Where it leads, as the host sees it; inside it has the same address and port.
    pub address: SocketAddr,
}

impl fmt::Display for ReachedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.transport)
    }
}

/// What one `--reach` asks for; at least one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedAddresses(pub Vec<ReachedAddress>);

/// Everything that crosses the wall beside the tunnel, as it is asked for; by default nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardPlan {
    /// Ports of the host that lead inside.
    pub published: Vec<PublishedPort>,
    /// Addresses of the host's surroundings that are there inside.
    pub reached: Vec<ReachedAddress>,
    /// A name server inside that asks others through the tunnel.
    pub dns_alias: Option<DnsAlias>,
    /// Ports may be published later, while the tunnel runs.
    pub later: bool,
}

impl ForwardPlan {
    /// Whether nothing is asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.published.is_empty() && self.reached.is_empty() && self.dns_alias.is_none() && !self.later
    }
}

/// The port of name servers.
pub const DNS_PORT: u16 = 53;

/// Addresses inside that answer on port 53 by asking servers through the tunnel, never a resolver of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAlias {
    /// Where programs inside ask.
    pub listen: Vec<IpAddr>,
    /// Where they may ask as well: these are name servers elsewhere, in whose place is answered.
    pub in_place_of: Vec<IpAddr>,
    /// Who is asked, in this order.
    pub servers: Vec<IpAddr>,
}

impl DnsAlias {
    /// Every address that is answered at, and whether it is one elsewhere.
    pub fn answers(&self) -> impl Iterator<Item = (IpAddr, bool)> {
        let listen = self.listen.iter().map(|address| (*address, false));
        listen.chain(self.in_place_of.iter().map(|address| (*address, true)))
    }
}

/// Why a text names no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// More or fewer parts than the form has.
    #[error("expected `[[IP:][HOSTPORT]:]PORT[/tcp|/udp]`")]
    Form,
    /// The form of `--reach`.
    #[error("expected `IP:PORT[/tcp|/udp]`")]
    ReachForm,
    /// `::1:80:80`.
    #[error("an IPv6 address is written in brackets: `[::1]:8080:80`")]
    Brackets,
    /// Not an address.
    #[error("{0} is not an IP address")]
    Address(Literal),
    /// Not a port, or port 0.
    #[error("{0} is not a port from 1 to 65535")]
    Port(Literal),
    /// `90-80`.
    #[error("the range {0} ends before it begins")]
    Backwards(Literal),
    /// `8000-8010:80-81`.
    #[error("{host} ports of the host for {inside} inside")]
    Lengths {
        /// Ports in the host's range.
        host: usize,
        /// Ports in the inside range.
        inside: usize,
    },
    /// Neither tcp nor udp.
    #[error("{0} is not a protocol that can be forwarded (tcp, udp)")]
    Protocol(Literal),
    /// An address that no host has.
    #[error("{0} cannot be the address of one host")]
    NotAHost(IpAddr),
}

impl FromStr for PublishedPorts {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (rest, transports) = split_protocols(text)?;
        let (host, ports) = split_host(rest)?;
        let (host_ports, inside_ports) = match ports.split(':').collect::<Vec<_>>()[..] {
            [inside] if host.is_none() => ("", inside),
            [host, inside] => (host, inside),
            _ => return Err(PublishError::Form),
        };
        let inside_ports = parse_range(inside_ports)?;
        let host_ports: Vec<Option<NonZeroU16>> = match host_ports {
            "" | "0" => vec![None; inside_ports.len()],
            range => parse_range(range)?.into_iter().map(Some).collect(),
        };
        if host_ports.len() != inside_ports.len() {
            return Err(PublishError::Lengths { host: host_ports.len(), inside: inside_ports.len() });
        }
        let pairs = || host_ports.iter().copied().zip(inside_ports.iter().copied());
        let of_transport = |transport| {
            pairs().map(move |(host_port, inside_port)| PublishedPort {
                transport,
                host,
                host_port,
                inside: None,
                inside_port,
            })
        };
        Ok(Self(transports.into_iter().flat_map(of_transport).collect()))
    }
}

impl FromStr for ReachedAddresses {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (rest, transports) = split_protocols(text)?;
        let (host, port) = split_host(rest)?;
        let (host, port) = match host {
            Some(host) => (host, port),
            None => {
                let (host, port) = rest.split_once(':').ok_or(PublishError::ReachForm)?;
                (parse_address(host)?, port)
            }
        };
        if host.is_unspecified() || host.is_multicast() {
            return Err(PublishError::NotAHost(host));
        }
        let address = SocketAddr::new(host, parse_one(port)?.get());
        Ok(Self(transports.into_iter().map(|transport| ReachedAddress { transport, address }).collect()))
    }
}

/// The part before `/`, and the protocols behind it; without any it is TCP.
fn split_protocols(text: &str) -> Result<(&str, Vec<Transport>), PublishError> {
    let Some((rest, names)) = text.rsplit_once('/') else { return Ok((text, vec![Transport::Tcp])) };
    let mut transports = Vec::new();
    for name in names.split(',') {
        let transport = match name.to_ascii_lowercase().as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(PublishError::Protocol(Literal::new(name))),
        };
        if !transports.contains(&transport) {
            transports.push(transport);
        }
    }
    Ok((rest, transports))
}

/// The address, if there is one before a port or two; and the ports.
fn split_host(text: &str) -> Result<(Option<IpAddr>, &str), PublishError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, ports) = rest.split_once("]:").ok_or(PublishError::Form)?;
        let address: Ipv6Addr =
            address.parse().map_err(|_not_one| PublishError::Address(Literal::new(address)))?;
        return Ok((Some(address.into()), ports));
    }
    match text.split(':').count() {
        0..=2 => Ok((None, text)),
        3 => {
            let (host, ports) = text.split_once(':').ok_or(PublishError::Form)?;
            // As podman takes it: nothing before the first colon is no address.
            if host.is_empty() { Ok((None, ports)) } else { Ok((Some(parse_address(host)?), ports)) }
        }
        _ => Err(PublishError::Brackets),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, PublishError> {
    text.parse().map_err(|_not_one| PublishError::Address(Literal::new(text)))
}

fn parse_range(text: &str) -> Result<Vec<NonZeroU16>, PublishError> {
    let Some((first, last)) = text.split_once('-') else { return Ok(vec![parse_one(text)?]) };
    let (first, last) = (parse_one(first)?, parse_one(last)?);
    if last < first {
        return Err(PublishError::Backwards(Literal::new(text)));
    }
    Ok((first.get()..=last.get()).filter_map(NonZeroU16::new).collect())
}

fn parse_one(text: &str) -> Result<NonZeroU16, PublishError> {
    parse_port(text).and_then(NonZeroU16::new).ok_or_else(|| PublishError::Port(Literal::new(text)))
}

fn in_brackets(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> Vec<String> {
        let PublishedPorts(ports) = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(ports.iter().all(|port| port.inside.is_none()));
        ports.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_form_of_podman_is_read() {
        for (text, wanted) in [
            ("80", "80/tcp -> *:*"),
            ("8080:80", "80/tcp -> *:8080"),
            (":80", "80/tcp -> *:*"),
            ("0:80", "80/tcp -> *:*"),
            ("127.0.0.1:8080:80", "80/tcp -> 127.0.0.1:8080"),
            ("127.0.0.1::80", "80/tcp -> 127.0.0.1:*"),
            ("::80", "80/tcp -> *:*"),
            (":8080:80", "80/tcp -> *:8080"),
            ("[::1]:8080:80", "80/tcp -> [::1]:8080"),
            ("[fd00::1]::80/udp", "80/udp -> [fd00::1]:*"),
            ("53:5353/UDP", "5353/udp -> *:53"),
        ] {
            assert_eq!(published(text), [wanted], "{text}");
        }
    }

    #[test]
    fn a_range_is_one_port_after_the_other_and_two_protocols_are_two() {
        assert_eq!(published("8000-8001:80-81"), ["80/tcp -> *:8000", "81/tcp -> *:8001"]);
        assert_eq!(published("80-81"), ["80/tcp -> *:*", "81/tcp -> *:*"]);
        assert_eq!(published("[::1]:53:53/tcp,udp"), ["53/tcp -> [::1]:53", "53/udp -> [::1]:53"]);
        assert_eq!(published("1-65535").len(), 65535);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wanted) in [
            ("", "`` is not a port from 1 to 65535"),
            ("80/sctp", "`sctp` is not a protocol that can be forwarded (tcp, udp)"),
            ("99999:80", "`99999` is not a port from 1 to 65535"),
            ("8080:0", "`0` is not a port from 1 to 65535"),
            ("8080:http", "`http` is not a port from 1 to 65535"),
            ("8000-8010:80-81", "11 ports of the host for 2 inside"),
            ("81-80", "the range `81-80` ends before it begins"),
            ("::1:8080:80", "an IPv6 address is written in brackets: `[::1]:8080:80`"),
            ("[::1]:80", "expected `[[IP:][HOSTPORT]:]PORT[/tcp|/udp]`"),
            ("[10.0.0.1]:80:80", "`10.0.0.1` is not an IP address"),
            ("host:80:80", "`host` is not an IP address"),
        ] {
            let error = text.parse::<PublishedPorts>().unwrap_err().to_string();
            assert_eq!(error, wanted, "{text}");
        }
    }

    #[test]
    fn a_reached_address_is_one_host_and_one_port() {
        let reached = |text: &str| {
            text.parse::<ReachedAddresses>()
                .map(|ReachedAddresses(all)| {
                    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                })
                .map_err(|error| error.to_string())
        };
        for (text, wanted) in [
            ("192.168.1.10:445", Ok("192.168.1.10:445/tcp")),
            ("192.168.1.10:53/udp", Ok("192.168.1.10:53/udp")),
            ("[fd00::5]:631/tcp,udp", Ok("[fd00::5]:631/tcp [fd00::5]:631/udp")),
            ("192.168.1.10", Err("expected `IP:PORT[/tcp|/udp]`")),
            ("nas:445", Err("`nas` is not an IP address")),
            ("fd00::5:631", Err("an IPv6 address is written in brackets: `[::1]:8080:80`")),
            ("192.168.1.10:0", Err("`0` is not a port from 1 to 65535")),
            // The host's own loopback: a service that only the host was to reach, now also from inside.
            ("127.0.0.1:5432", Ok("127.0.0.1:5432/tcp")),
            ("0.0.0.0:80", Err("0.0.0.0 cannot be the address of one host")),
        ] {
            assert_eq!(reached(text), wanted.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }
}
