//! Which name servers of the host engines tell their containers of. (wiring)
//!
//! # Theory of operation
//! podman and buildah write the host's name servers into a container's resolv.conf after the one that their network helper
//! is: those of `/etc/resolv.conf`; where these are on the host's loopback, those that the resolver there asks in
//! turn; and public ones where none is left. This reads what they read, before the first container could know.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// What every program reads.
const RESOLV_CONF: &str = "etc/resolv.conf";
/// What resolvers on the loopback ask: systemd's, and NetworkManager's.
const BEHIND_LOOPBACK: [&str; 2] =
    ["run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf"];
/// Whom podman names if there is nobody else.
const PUBLIC: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844)),
];
/// Resolvers ask three; engines pass on all.
const MAX_SERVERS: usize = 32;
/// Bytes of a file.
const MAX_BYTES: u64 = 64 * 1024;

/// On this machine.
#[must_use]
pub fn of_this_machine() -> Vec<IpAddr> {
    below(Path::new("/"))
}

fn below(root: &Path) -> Vec<IpAddr> {
    let mut servers = servers_of(&root.join(RESOLV_CONF));
    if servers.is_empty() || servers.iter().any(IpAddr::is_loopback) {
        servers.extend(BEHIND_LOOPBACK.iter().flat_map(|file| servers_of(&root.join(file))));
    }
    servers.retain(|server| !server.is_loopback() && !server.is_unspecified());
    // Those of IPv6 are left out for networks that have none.
    if !servers.iter().any(IpAddr::is_ipv4) {
        servers.extend(PUBLIC);
    }
    let mut seen = Vec::new();
    servers.retain(|server| {
        !seen.contains(server) && {
            seen.push(*server);
            true
        }
    });
    servers.truncate(MAX_SERVERS);
    servers
}

/// The name servers that a file names, if there is one. An address of one link (`fe80::1%eth0`) is of no use inside.
fn servers_of(file: &Path) -> Vec<IpAddr> {
    let mut text = Vec::new();
    if File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text);
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        below(root.path()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn those_of_resolv_conf_are_named_once_and_others_not() {
        let text = "# nameserver 9.9.9.9\nsearch example\nnameserver 192.0.2.53\n nameserver\tfd00::53 # mine\n\
             nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameservers 9.9.9.10\nnameserver x\noptions edns0\n";
        let files = [(RESOLV_CONF, text), (BEHIND_LOOPBACK[0], "nameserver 198.51.100.1\n")];
        assert_eq!(servers(&files), ["192.0.2.53", "fd00::53"]);
    }

    #[test]
    fn behind_a_resolver_on_the_loopback_are_those_that_it_asks() {
        let stub = (RESOLV_CONF, "nameserver 127.0.0.53\n");
        assert_eq!(servers(&[stub, (BEHIND_LOOPBACK[0], "nameserver 198.51.100.1\n")]), ["198.51.100.1"]);
        let local = (RESOLV_CONF, "nameserver 127.0.0.1\nnameserver ::1\n");
        assert_eq!(servers(&[local, (BEHIND_LOOPBACK[1], "nameserver 198.51.100.2\n")]), ["198.51.100.2"]);
    }

    #[test]
    fn where_none_is_left_they_are_public_ones() {
        let public = PUBLIC.map(|server| server.to_string());
        assert_eq!(servers(&[]), public);
        assert_eq!(servers(&[(RESOLV_CONF, "nameserver 127.0.0.1\n")]), public);
        assert_eq!(servers(&[(RESOLV_CONF, "nameserver fd00::2\n")])[1..], public);
    }
}
