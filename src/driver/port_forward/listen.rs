//! Listening on ports of the host. (tasks)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::protocol::ForwardError;
use crate::config::publish::{PublishedPort, Transport};
use crate::driver::socket_factory::kind;
use crate::sys::os_error::OsError;
use crate::sys::sockets;

/// Ports that are free for IPv4 but not for IPv6, in a row, before one is given up.
const ATTEMPTS: usize = 16;

/// A bound socket and its address.
pub(super) type Bound = (OwnedFd, SocketAddr);

/// Binds what `port` asks for: one socket, or one a family where it is to be every address.
pub(super) fn bind(port: &PublishedPort) -> Result<Vec<Bound>, ForwardError> {
    let wanted = port.host_port.map_or(0, std::num::NonZeroU16::get);
    let transport = port.transport;
    match port.host {
        Some(host) => {
            let address = SocketAddr::new(host, wanted);
            bind_one(address, transport)
                .map(|bound| vec![bound])
                .map_err(|error| refused(address, transport, error))
        }
        None => bind_every_address(wanted, transport),
    }
}

fn bind_every_address(wanted: u16, transport: Transport) -> Result<Vec<Bound>, ForwardError> {
    let v4 = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let v6 = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let first = bind_one(v4(wanted), transport).map_err(|error| refused(v4(wanted), transport, error))?;
        // The same for both families, also when the kernel chose it.
        let second = v6(first.1.port());
        match bind_one(second, transport) {
            Ok(bound) => return Ok(vec![first, bound]),
            Err(error) if error.is(Errno::EAFNOSUPPORT) || error.is(Errno::EADDRNOTAVAIL) => {
                return Ok(vec![first]);
            }
            Err(error) if error.is(Errno::EADDRINUSE) && wanted == 0 && attempts > 0 => {}
            Err(error) => return Err(refused(second, transport, error)),
        }
    }
}

fn bind_one(address: SocketAddr, transport: Transport) -> Result<Bound, OsError> {
    let socket = sockets::open_bound(address, kind(transport))?;
    if transport == Transport::Udp && address.ip().is_unspecified() {
        // An answer must come from the address that was asked.
        sockets::tell_destinations(socket.as_fd(), address.is_ipv6())?;
    }
    let address = sockets::local_address(socket.as_fd())?;
    Ok((socket, address))
}

const fn refused(address: SocketAddr, transport: Transport, source: OsError) -> ForwardError {
    ForwardError::Listen { address, transport, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::failure::{Failure, FailureClass};

    fn port(host: Option<&str>, host_port: u16) -> PublishedPort {
        PublishedPort {
            transport: Transport::Tcp,
            host: host.map(|host| host.parse().unwrap()),
            host_port: std::num::NonZeroU16::new(host_port),
            inside: None,
            inside_port: std::num::NonZeroU16::new(80).unwrap(),
        }
    }

    #[test]
    fn a_port_that_the_kernel_chooses_is_the_same_for_both_families() {
        let bound = bind(&port(None, 0)).unwrap();
        assert!(bound.iter().all(|(_, address)| address.port() == bound[0].1.port()));
        assert_ne!(bound[0].1.port(), 0);
    }

    #[test]
    fn a_port_in_use_is_named_and_has_its_own_exit_code() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        for host in [Some("127.0.0.1"), None] {
            let error = bind(&port(host, address.port())).unwrap_err();
            assert_eq!(error.class(), FailureClass::InUse);
            let shown = SocketAddr::new(host.unwrap_or("0.0.0.0").parse().unwrap(), address.port());
            assert_eq!(error.to_string(), format!("cannot listen on `{shown}` (tcp) to publish it"));
        }
    }
}
