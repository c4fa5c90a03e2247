//! How long a packet may be on the way to somebody, as far as the kernel knows. (operating system)

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::os_error::{OsError, check};

/// The MTU of the route to an address, or what was learned of the path since. Nothing is sent.
///
/// # Errors
/// ENETUNREACH and its like where there is no route; what `getsockopt(2)` says.
pub fn path_mtu(to: SocketAddr) -> Result<u32, OsError> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let (level, option) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&mtu)).unwrap_or_default();
    // SAFETY: both options fill in one `int`; `mtu` is one, `len` tells its size, and both outlive the call.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut len)
    })?;
    u32::try_from(mtu).map_err(|_negative| OsError::from_raw(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_ourselves_is_as_wide_as_the_loopback_interface() {
        let lo = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap().trim().parse::<u32>().unwrap();
        assert_eq!(
            path_mtu("127.0.0.1:9".parse().unwrap()),
            Ok(lo.min(65_535)),
            "no packet is longer than 65535"
        );
    }
}
