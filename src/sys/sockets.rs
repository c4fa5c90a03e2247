//! The sockets of forwarded ports: open, bind, listen; datagrams with both of their addresses. (operating system)

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "control messages that were not asked for do not come; the library's list of them is open"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    SockaddrStorage, bind, getsockname, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};

use super::os_error::OsError;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// A datagram that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its bytes in the buffer.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of our addresses it was sent to, if [`tell_destinations`] was called.
    pub to: Option<IpAddr>,
}

/// Seconds of silence on a connection before the kernel asks whether the other end is still there.
const KEEPALIVE_IDLE: u32 = 120;

/// A socket that does not block and carries one family only.
///
/// # Errors
/// EAFNOSUPPORT where the family is not there; EMFILE.
pub fn open(ipv6: bool, kind: SocketKind) -> Result<OwnedFd, OsError> {
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let kind = match kind {
        SocketKind::Stream => SockType::Stream,
        SocketKind::Datagram => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if ipv6 {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(socket)
}

/// A socket bound to `address`; one for connections listens.
///
/// # Errors
/// EADDRINUSE, EADDRNOTAVAIL, EACCES for a low port; as [`open`].
pub fn open_bound(address: SocketAddr, kind: SocketKind) -> Result<OwnedFd, OsError> {
    bound(open(address.is_ipv6(), kind)?, address, kind)
}

/// As [`open_bound`], for an address that is not the namespace's own, of which rules bring packets here.
///
/// # Errors
/// As [`open_bound`]; EPERM without CAP_NET_ADMIN or CAP_NET_RAW over the namespace.
pub fn open_beside(address: SocketAddr, kind: SocketKind) -> Result<OwnedFd, OsError> {
    let socket = open(address.is_ipv6(), kind)?;
    // Of both families: there is one such flag.
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    bound(socket, address, kind)
}

fn bound(socket: OwnedFd, address: SocketAddr, kind: SocketKind) -> Result<OwnedFd, OsError> {
    if kind == SocketKind::Stream {
        // Connections that ended a minute ago must not keep the port.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SocketKind::Stream {
        listen(&socket, Backlog::MAXALLOWABLE)?;
    }
    Ok(socket)
}

/// Where a socket is bound to.
///
/// # Errors
/// What `getsockname(2)` says.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, OsError> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    to_std(&address).ok_or_else(|| Errno::EAFNOSUPPORT.into())
}

/// Has the kernel tell with each datagram which of our addresses it was sent to.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn tell_destinations(socket: BorrowedFd<'_>, ipv6: bool) -> Result<(), OsError> {
    if ipv6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

/// Takes one datagram if there is one.
///
/// # Errors
/// `WouldBlock` if there is none, else what `recvmsg(2)` says.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let to = message.cmsgs().ok().into_iter().flatten().find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    });
    let from = message.address.as_ref().and_then(to_std);
    let from = from.ok_or_else(|| io::Error::from(Errno::EAFNOSUPPORT))?;
    Ok(Arrived { len: message.bytes, from, to })
}

/// Sends one datagram, from the given one of our addresses if it matters.
///
/// # Errors
/// `WouldBlock` if the socket is full, else what `sendmsg(2)` says.
pub fn send(socket: BorrowedFd<'_>, datagram: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
    let (info_v4, info_v6);
    let source = match from {
        Some(IpAddr::V4(address)) => {
            let address = libc::in_addr { s_addr: u32::from(address).to_be() };
            info_v4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: address,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            Some(ControlMessage::Ipv4PacketInfo(&info_v4))
        }
        Some(IpAddr::V6(address)) => {
            let scope = match to {
                SocketAddr::V6(to) => to.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            info_v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                ipi6_ifindex: scope,
            };
            Some(ControlMessage::Ipv6PacketInfo(&info_v6))
        }
        None => None,
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(datagram)],
        source.as_slice(),
        flags,
        Some(&SockaddrStorage::from(to)),
    )?;
    Ok(())
}

/// Has the kernel notice after a few minutes that the other end of a connection is no longer there.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn keep_alive(connection: BorrowedFd<'_>) -> Result<(), OsError> {
    setsockopt(&connection, sockopt::KeepAlive, &true)?;
    Ok(setsockopt(&connection, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?)
}

/// Tells the other end of a connection that nothing more will come.
///
/// # Errors
/// ENOTCONN if it has broken.
pub fn shutdown_writing(connection: impl AsFd) -> Result<(), OsError> {
    Ok(nix::sys::socket::shutdown(connection.as_fd().as_raw_fd(), Shutdown::Write)?)
}

/// What closing a connection, also by dying, tells the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is complete: what was written is still delivered.
    Complete,
    /// It broke. Nothing of it stays in the kernel, which would keep its network namespace.
    Broken,
}

/// Says what closing a connection is to mean from now on.
pub fn set_closing(connection: impl AsFd, closing: Closing) {
    let linger = libc::linger { l_onoff: i32::from(closing == Closing::Broken), l_linger: 0 };
    // Refused only for what is no socket.
    let _as_it_was = setsockopt(&connection, sockopt::Linger, &linger);
}

/// Lets this process have as many descriptors as it may; tells how many.
///
/// # Errors
/// What `setrlimit(2)` says.
pub fn raise_descriptor_limit() -> Result<u64, OsError> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_answered_from_the_address_it_was_sent_to() {
        for (any, ours) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1")] {
            let any: SocketAddr = any.parse().unwrap();
            let ours: IpAddr = ours.parse().unwrap();
            if ours.is_ipv6() && std::net::UdpSocket::bind("[::1]:0").is_err() {
                println!("skipped: no IPv6 here");
                continue;
            }
            let server = open_bound(any, SocketKind::Datagram).unwrap();
            tell_destinations(server.as_fd(), any.is_ipv6()).unwrap();
            let port = local_address(server.as_fd()).unwrap().port();
            let loopback = if ours.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
            let client = std::net::UdpSocket::bind(loopback).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            client.send_to(b"question", (ours, port)).unwrap();
            super::super::wait::readable(server.as_fd(), None).unwrap();
            let mut buffer = [0; 100];
            let arrived = receive(server.as_fd(), &mut buffer).unwrap();
            assert_eq!((&buffer[..arrived.len], arrived.to), (&b"question"[..], Some(ours)));
            assert_eq!(arrived.from, client.local_addr().unwrap());
            send(server.as_fd(), b"answer", arrived.from, arrived.to).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((len, from), (6, SocketAddr::new(ours, port)));
        }
    }

    #[test]
    fn a_port_that_listens_already_is_refused() {
        for kind in [SocketKind::Stream, SocketKind::Datagram] {
            let first = open_bound("127.0.0.1:0".parse().unwrap(), kind).unwrap();
            let address = local_address(first.as_fd()).unwrap();
            assert!(open_bound(address, kind).unwrap_err().is(Errno::EADDRINUSE));
        }
    }
}
