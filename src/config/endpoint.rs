//! Where a peer is reached: an address, or a name that someone must resolve. (vocabulary)

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Finds the name of an interface by its index: link-local addresses are shown with it.
pub type ScopeName = fn(u32) -> Option<String>;

/// An endpoint as `getnameinfo(3)` gives it to `wg(8)`: the scope of a link-local address is an interface, any other
/// scope, or one that nobody has, a number.
#[must_use]
pub fn endpoint_text(endpoint: SocketAddr, scope_name: ScopeName) -> String {
    if let SocketAddr::V6(v6) = endpoint
        && v6.scope_id() != 0
        && (v6.ip().is_unicast_link_local() || is_link_local_multicast(*v6.ip()))
        && let Some(name) = scope_name(v6.scope_id())
    {
        return format!("[{}%{name}]:{}", v6.ip(), v6.port());
    }
    endpoint.to_string()
}

const fn is_link_local_multicast(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, flags_and_scope, ..] if flags_and_scope & 0xf == 2)
}

/// An `Endpoint` as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointName {
    /// Needs no resolver.
    Address(SocketAddr),
    /// A host name, or an IPv6 address whose scope is an interface's name (`fe80::1%eth0`): for `getaddrinfo(3)`.
    Name {
        /// Without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
}

/// Why a text is not an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no colon with digits behind it.
    #[error("has no port; expected `host:port`")]
    NoPort,
    /// What stands behind the last colon is not 1 to 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// Several colons, no brackets.
    #[error("is an IPv6 address without brackets; expected `[address]:port`")]
    Brackets,
    /// Neither an address nor a host name.
    #[error("is neither an address nor a host name with a port")]
    Host,
}

impl EndpointName {
    /// The address, if no resolver is needed.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name { .. } => None,
        }
    }
}

impl FromStr for EndpointName {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
            let port = parse_port(port.strip_prefix(':').ok_or(EndpointError::NoPort)?)?;
            return parse_v6(inner, port).ok_or(EndpointError::Host);
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        if host.contains(':') {
            // Other letters: something else altogether, a URL perhaps.
            let address = host.split('%').next().unwrap_or(host);
            let is_address = address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
            return Err(if is_address { EndpointError::Brackets } else { EndpointError::Host });
        }
        let port = parse_port(port)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(address, port)));
        }
        if !is_host_name(host) {
            return Err(EndpointError::Host);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

/// As it would be written in a file.
impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, EndpointError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(if text.is_empty() { EndpointError::NoPort } else { EndpointError::Port });
    }
    text.parse().ok().filter(|port| *port != 0).ok_or(EndpointError::Port)
}

fn parse_v6(inner: &str, port: u16) -> Option<EndpointName> {
    let (address, scope) = match inner.split_once('%') {
        Some((address, scope)) => (address, Some(scope)),
        None => (inner, None),
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let at = |scope| EndpointName::Address(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)));
    match scope {
        None => Some(at(0)),
        Some(scope) if scope.bytes().all(|byte| byte.is_ascii_digit()) => scope.parse().ok().map(at),
        Some(scope) => {
            is_interface_name(scope).then(|| EndpointName::Name { host: format!("{address}%{scope}"), port })
        }
    }
}

/// What a resolver may be asked for: no control characters, no spaces, at most 253 bytes, no empty label inside.
fn is_host_name(host: &str) -> bool {
    let body = host.strip_suffix('.').unwrap_or(host);
    // An all-numeric last label is a broken IPv4 address, not a name: `getaddrinfo` would read `10.1` as 10.0.0.1.
    let last = body.rsplit('.').next().unwrap_or_default();
    !body.is_empty()
        && host.len() <= 253
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && body.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        })
}

fn is_interface_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 15 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_resolver() {
        for text in ["192.95.5.67:1234", "[2607:5300:60:6b0::c05f:543]:2468", "[fe80::1%2]:51820"] {
            let endpoint: EndpointName = text.parse().unwrap();
            assert!(endpoint.address().is_some(), "{text}");
            assert_eq!(endpoint.to_string(), text);
        }
    }

    #[test]
    fn names_and_named_scopes_are_left_to_a_resolver() {
        for (text, host) in
            [("vpn.example.com:51820", "vpn.example.com"), ("[fe80::1%eth0]:51820", "fe80::1%eth0")]
        {
            let endpoint: EndpointName = text.parse().unwrap();
            assert_eq!(endpoint, EndpointName::Name { host: host.to_owned(), port: 51820 });
            assert_eq!(endpoint.to_string(), text);
        }
    }

    #[test]
    fn only_a_link_local_address_is_shown_with_an_interface() {
        let name: ScopeName = |index| (index == 2).then(|| "eth0".to_owned());
        for (endpoint, text) in [
            ("[fe80::1%2]:5", "[fe80::1%eth0]:5"),
            ("[ff02::1%2]:5", "[ff02::1%eth0]:5"),
            ("[fe80::1%3]:5", "[fe80::1%3]:5"),
            ("[fd00::1%2]:5", "[fd00::1%2]:5"),
            ("[fe80::1]:5", "[fe80::1]:5"),
            ("192.0.2.1:5", "192.0.2.1:5"),
        ] {
            assert_eq!(endpoint_text(endpoint.parse().unwrap(), name), text);
        }
    }

    #[test]
    fn each_mistake_has_its_reason() {
        for (text, error) in [
            ("vpn.example.com", EndpointError::NoPort),
            ("vpn.example.com:", EndpointError::NoPort),
            ("[::1]", EndpointError::NoPort),
            ("1.2.3.4:0", EndpointError::Port),
            ("1.2.3.4:65536", EndpointError::Port),
            ("1.2.3.4:+5", EndpointError::Port),
            ("fe80::1:51820", EndpointError::Brackets),
            ("fe80::1%eth0:51820", EndpointError::Brackets),
            // Was called an IPv6 address.
            ("https://vpn.example.com:51820", EndpointError::Host),
            ("1.2.3:51820", EndpointError::Host),
            ("a b:51820", EndpointError::Host),
            ("[fe80::1%a/b]:1", EndpointError::Host),
            (":1", EndpointError::Host),
        ] {
            assert_eq!(text.parse::<EndpointName>(), Err(error), "{text}");
        }
    }
}
