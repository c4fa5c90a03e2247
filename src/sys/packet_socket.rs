//! A packet socket on one Ethernet interface, with offload metadata: a link where there is no TUN. (operating system)
//!
//! # Theory of operation
//! Each frame comes and goes behind a virtio-net header, as on a TUN, so that super-packets cross whole. The socket
//! belongs to the network namespace it was made in, and keeps that namespace alive: the namespace, the interface in it
//! and the other end of its pair live exactly as long as a descriptor of the socket, whatever happens to us.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recvmsg, setsockopt, sockopt};

use super::os_error::{OsError, check};

/// What the kernel is asked to keep for us; it gives as much as its limit allows.
const BUFFER: usize = 8 << 20;

/// Opens a socket on the interface `index` of this thread's network namespace. Non-blocking.
///
/// # Errors
/// EPERM without CAP_NET_RAW over the namespace; ENOPROTOOPT on kernels that lack an option.
pub fn open(index: u32) -> Result<OwnedFd, OsError> {
    // Without a protocol nothing is heard before the options are set.
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes integers.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, PACKET_VNET_HDR, 1)?;
    set(&socket, PACKET_IGNORE_OUTGOING, 1)?;
    set(&socket, PACKET_QDISC_BYPASS, 1)?;
    // A smaller buffer loses packets in bursts, as a small queue of a TUN does.
    let _as_far_as_allowed = setsockopt(&socket, sockopt::RcvBuf, &BUFFER);
    let _as_far_as_allowed = setsockopt(&socket, sockopt::SndBuf, &BUFFER);
    let address = link_address(index);
    let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: bind reads `len` bytes of the address, which is our local variable of exactly that size.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket)
}

/// Whether a descriptor is such a socket: raw frames, virtio-net headers, bound to an interface.
#[must_use]
pub fn is_one(fd: BorrowedFd<'_>) -> bool {
    let is = |level, name, wanted| option(fd, level, name).is_ok_and(|value| value == wanted);
    is(libc::SOL_SOCKET, libc::SO_DOMAIN, libc::AF_PACKET)
        && is(libc::SOL_SOCKET, libc::SO_TYPE, libc::SOCK_RAW)
        && is(libc::SOL_PACKET, PACKET_VNET_HDR, 1)
        && interface_of(fd).is_ok_and(|index| index > 0)
}

/// Receives one frame without waiting.
///
/// # Errors
/// EAGAIN if there is none; ENETDOWN once the interface is gone; EINVAL for a frame that has no virtio-net header (it
/// is lost).
pub fn receive(fd: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    Ok(recvmsg::<()>(fd.as_raw_fd(), buffers, None, MsgFlags::MSG_DONTWAIT)?.bytes)
}

/// Sends one frame.
///
/// # Errors
/// EINVAL for a header the kernel does not take, EMSGSIZE for a frame above the MTU, ENXIO once the interface is gone.
pub fn send(fd: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    nix::sys::uio::writev(fd, buffers).map_err(io::Error::from)
}

fn set(socket: &OwnedFd, name: libc::c_int, value: libc::c_int) -> Result<(), OsError> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: setsockopt reads `len` bytes of the value, which is our local variable of exactly that size.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, (&raw const value).cast(), len)
    })
    .map(|_zero| ())
}

fn option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> Result<libc::c_int, OsError> {
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: getsockopt writes at most `len` bytes to the value and the new length to `len`, both our local variables.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

fn interface_of(fd: BorrowedFd<'_>) -> Result<u32, OsError> {
    let mut address = link_address(0);
    let mut len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: getsockname writes at most `len` bytes to the address and the length to `len`, both our local variables.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
    Ok(u32::try_from(address.sll_ifindex).unwrap_or_default())
}

fn link_address(index: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        // Every protocol, in network byte order.
        sll_protocol: u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

// linux/if_packet.h
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn another_descriptor_is_not_taken_for_one() {
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        assert!(!is_one(pipe.as_fd()));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!is_one(udp.as_fd()));
    }
}
