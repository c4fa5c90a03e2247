//! One UDP socket for both families, with segmentation offload both ways. (operating system)
//!
//! # Theory of operation
//! An IPv6 socket that also takes IPv4 is enough for one receiving thread to wait on: Linux gives IPv4 traffic on it
//! the IPv4 ancillary data and takes the same, so that IPv4-mapped addresses stay inside this file. Where the kernel
//! has no IPv6 the socket is an IPv4 one and everything else is the same.
//!
//! The ancillary data each way: the local address and interface (`IP_PKTINFO`, `IPV6_PKTINFO`), the traffic class
//! (`IP_TOS`, `IPV6_TCLASS`) and the segment size (`UDP_SEGMENT` out, `UDP_GRO` in).
//!
//! Outer packets may be fragmented, as the kernel's WireGuard has it: IPv4 never sets DF and does not believe path MTU
//! messages (`IP_PMTUDISC_OMIT`), so that a forged one cannot shrink anything; IPv6, where routers do not fragment,
//! follows them (`IPV6_PMTUDISC_DONT`). Of both, a message is reported in the place of a later send, as EMSGSIZE: that
//! says nothing of what was to be sent then.

use std::ffi::c_int;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind,
};

/// Socket buffers asked for: two dozen full bursts, what a reader that was descheduled for 3 ms at 10 Gbit/s needs.
const BUFFER_BYTES: c_int = 4 << 20;

/// Messages one [`UdpSocket::receive`] takes at most; their headers live on the stack.
pub const MAX_RECEIVE: usize = 16;

/// Messages one [`UdpSocket::send_many`] sends at most; the same.
pub const MAX_SEND: usize = 32;

/// Bytes of ancillary data for either direction: two addresses, two traffic classes and a segment size at the most.
const CONTROL_LEN: usize = 192;

/// A local address and interface index, as packet info carries them.
pub type Source = (IpAddr, u32);

/// A datagram, or a run of equal ones, that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in its buffer.
    pub len: usize,
    /// Bytes of each datagram but the last; equal to `len` for a single one.
    pub segment_len: usize,
    /// Who sent it; IPv4 is never mapped.
    pub remote: SocketAddr,
    /// Which of our addresses it came to, and by which interface.
    pub local: Option<Source>,
    /// DSCP and ECN bits.
    pub traffic_class: u8,
    /// The buffer was too short and the rest is lost.
    pub truncated: bool,
}

/// One thing to send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// A datagram, or several of `segment_len` bytes each, the last not longer.
    pub bytes: &'a [u8],
    /// Cut into datagrams of this size; `None` sends one datagram.
    pub segment_len: Option<u16>,
    /// Where to.
    pub remote: SocketAddr,
    /// From which address, by which interface (0: any); `None` lets the kernel choose.
    pub source: Option<Source>,
    /// DSCP and ECN bits.
    pub traffic_class: u8,
    /// Where the socket's buffer is full, because what is below takes no more, say EAGAIN instead of waiting.
    pub dont_wait: bool,
}

/// A UDP socket bound to every address of both families.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    has_ipv6: bool,
}

impl UdpSocket {
    /// Binds `port` on every address; 0 lets the kernel choose one that is free in both families.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EACCES` for low ports, or no room for a descriptor.
    pub fn bind(port: u16) -> io::Result<Self> {
        match Self::bind_dual_stack(port) {
            // No IPv6 in this kernel, or switched off for this namespace.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                Self::bind_ipv4(port)
            }
            result => result,
        }
    }

    fn bind_dual_stack(port: u16) -> io::Result<Self> {
        let socket = Self::open(AddressFamily::Inet6, true)?;
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
        socket.finish(&SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))
    }

    /// Binds `port` on every IPv4 address only: what [`bind`](Self::bind) does where there is no IPv6.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_ipv4(port: u16) -> io::Result<Self> {
        let socket = Self::open(AddressFamily::Inet, false)?;
        socket.finish(&SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))
    }

    fn open(family: AddressFamily, has_ipv6: bool) -> io::Result<Self> {
        let fd = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { fd, has_ipv6 })
    }

    fn finish(self, address: &dyn SockaddrLike) -> io::Result<Self> {
        // On a dual-stack socket these hold for its IPv4 traffic.
        self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        self.set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        self.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)?;
        // With CAP_NET_ADMIN beyond the system's limit; without it up to the limit.
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if self.set(libc::SOL_SOCKET, force, BUFFER_BYTES).is_err() {
                self.set(libc::SOL_SOCKET, plain, BUFFER_BYTES)?;
            }
        }
        // ICMP errors are worth knowing, not worth failing for.
        let _best_effort = self.set(libc::IPPROTO_IP, libc::IP_RECVERR, 1);
        if self.has_ipv6 {
            let _best_effort = self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1);
        }
        bind(self.fd.as_raw_fd(), address)?;
        Ok(self)
    }

    /// Whether IPv6 addresses can be sent to.
    #[must_use]
    pub const fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// The port in use.
    ///
    /// # Errors
    /// None that a bound socket meets.
    pub fn local_port(&self) -> io::Result<u16> {
        let address: SockaddrStorage = socket::getsockname(self.fd.as_raw_fd())?;
        let v6 = address.as_sockaddr_in6().map(SockaddrIn6::port);
        Ok(v6.or_else(|| address.as_sockaddr_in().map(SockaddrIn::port)).unwrap_or(0))
    }

    /// Bytes of receive buffer that the kernel granted, its bookkeeping included.
    ///
    /// # Errors
    /// None that an open socket meets.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        Ok(socket::getsockopt(&self.fd, socket::sockopt::RcvBuf)?)
    }

    /// Marks every datagram sent (`SO_MARK`); 0 is off.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN over this network namespace.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        Ok(socket::setsockopt(&self.fd, socket::sockopt::Mark, &mark)?)
    }

    /// Lets the kernel deliver runs of equal datagrams in one piece.
    ///
    /// # Errors
    /// `ENOPROTOOPT` before Linux 5.0.
    pub fn enable_gro(&self) -> io::Result<()> {
        self.set(libc::SOL_UDP, libc::UDP_GRO, 1)
    }

    /// Whether the kernel knows [`Transmit::segment_len`] (Linux 4.18); older ones would ignore it and send one huge
    /// datagram.
    #[must_use]
    pub fn can_segment(&self) -> bool {
        self.set(libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
    }

    /// Wakes every thread that waits in [`receive`](Self::receive) or [`send`](Self::send), now and later.
    pub fn shutdown(&self) {
        // ENOTCONN, and the waiters are woken nevertheless: the kernel does so on purpose for unconnected sockets.
        let _not_connected = socket::shutdown(self.fd.as_raw_fd(), socket::Shutdown::Both);
    }

    fn set(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        let len = size_of_val(&value);
        let len = libc::socklen_t::try_from(len).expect("an int has 4 bytes");
        // SAFETY: setsockopt reads `len` bytes at the pointer, which is to an int that lives until it returns.
        let rc =
            unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for a datagram, then takes what else is there without waiting: message `i` goes to the `i`-th `stride`
    /// bytes of `slab` and is reported to `each`. Returns how many; after [`shutdown`](Self::shutdown) messages of no
    /// bytes come without end.
    ///
    /// # Errors
    /// What the socket reports: mostly about datagrams sent earlier, so that receiving may go on.
    ///
    /// # Panics
    /// If `stride` is 0 or longer than `slab`.
    pub fn receive(
        &self,
        slab: &mut [u8],
        stride: usize,
        dont_wait: bool,
        mut each: impl FnMut(usize, Received),
    ) -> io::Result<usize> {
        let mut names = [SockaddrBytes::EMPTY; MAX_RECEIVE];
        let mut controls = [const { Control::EMPTY }; MAX_RECEIVE];
        let mut pieces = [EMPTY_PIECE; MAX_RECEIVE];
        let mut messages = [empty_mmsghdr(); MAX_RECEIVE];
        let mut count: libc::c_uint = 0;
        let parts = messages.iter_mut().zip(&mut pieces).zip(names.iter_mut().zip(&mut controls));
        for (buffer, ((message, piece), (name, control))) in slab.chunks_exact_mut(stride).zip(parts) {
            *piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = name.bytes.as_mut_ptr().cast();
            header.msg_namelen = SOCKADDR_LEN;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_control = control.bytes.as_mut_ptr().cast();
            header.msg_controllen = control_len(CONTROL_LEN);
            count += 1;
        }
        assert!(count > 0, "there is room for a message");
        // SAFETY: `count` headers were filled above; their names, controls and buffers are exclusively borrowed, as
        // long as the lengths beside them say, and outlive the call.
        let rc = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                if dont_wait { RECEIVE_NOW_FLAGS } else { RECEIVE_FLAGS },
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(rc).map_err(|_negative| io::Error::last_os_error())?;
        for index in 0..received {
            let header = &messages[index].msg_hdr;
            let len = usize::try_from(messages[index].msg_len).unwrap_or(usize::MAX).min(stride);
            let control_len = control_used(header).min(CONTROL_LEN);
            let metadata = Metadata::parse(&controls[index].bytes[..control_len]);
            // A shut-down socket delivers messages from nowhere.
            let remote =
                names[index].parse().unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
            let segment_len =
                metadata.segment_len.filter(|segment| (1..=len).contains(segment)).unwrap_or(len);
            let truncated = header.msg_flags & libc::MSG_TRUNC != 0;
            let Metadata { local, traffic_class, .. } = metadata;
            each(index, Received { len, segment_len, remote, local, traffic_class, truncated });
        }
        Ok(received)
    }

    /// Takes one error off the socket's queue: where the datagram it is about was sent, and its errno. Never waits.
    #[must_use]
    pub fn take_error(&self) -> Option<(SocketAddr, c_int)> {
        let mut name = SockaddrBytes::EMPTY;
        let mut control = Control::EMPTY;
        let mut message = empty_mmsghdr().msg_hdr;
        message.msg_name = name.bytes.as_mut_ptr().cast();
        message.msg_namelen = SOCKADDR_LEN;
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = control_len(CONTROL_LEN);
        // SAFETY: name and control are exclusively borrowed, as long as the lengths beside them say, and outlive the
        // call; there is no buffer for the datagram's own bytes, which are cut off.
        let rc = unsafe {
            libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if rc < 0 {
            return None;
        }
        let mut rest = &control.bytes[..control_used(&message).min(CONTROL_LEN)];
        let mut errno = 0;
        while let Some((level, kind, data)) = next_cmsg(&mut rest) {
            let is_error = matches!(
                (level, kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            );
            // struct sock_extended_err begins with the errno.
            if let (true, Some(first)) = (is_error, data.first_chunk()) {
                errno = c_int::from_ne_bytes(*first);
            }
        }
        // What is not about an address of ours is reported from nowhere and taken all the same.
        let remote = name.parse().unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        Some((remote, errno))
    }

    /// Sends one datagram or one run of them.
    ///
    /// # Errors
    /// Any errno; none of them means that the socket is of no more use.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut name = SockaddrBytes::EMPTY;
        let mut control = Control::EMPTY;
        let mut piece = EMPTY_PIECE;
        let mut message = empty_mmsghdr();
        self.fill(&mut message.msg_hdr, transmit, &mut piece, &mut name, &mut control);
        let flags = libc::MSG_NOSIGNAL | if transmit.dont_wait { libc::MSG_DONTWAIT } else { 0 };
        // SAFETY: name, control and buffer are as long as the lengths beside them say and outlive the call; sendmsg only
        // reads them.
        repeat(|| unsafe {
            libc::syscall(libc::SYS_sendmsg, self.fd.as_raw_fd(), &raw const message.msg_hdr, flags)
        })?;
        Ok(())
    }

    /// Sends up to [`MAX_SEND`] of them by one call, in order; returns how many were sent before one could not be. Why
    /// that one could not, the next call about it tells.
    ///
    /// # Errors
    /// What kept the first from being sent, as of [`send`](Self::send).
    pub fn send_many<'a>(&self, transmits: impl Iterator<Item = Transmit<'a>>) -> io::Result<usize> {
        let mut names = [SockaddrBytes::EMPTY; MAX_SEND];
        let mut controls = [const { Control::EMPTY }; MAX_SEND];
        let mut pieces = [EMPTY_PIECE; MAX_SEND];
        let mut messages = [empty_mmsghdr(); MAX_SEND];
        let (mut count, mut flags) = (0_usize, libc::MSG_NOSIGNAL);
        let parts = messages.iter_mut().zip(&mut pieces).zip(names.iter_mut().zip(&mut controls));
        for (((message, piece), (name, control)), transmit) in parts.zip(transmits) {
            self.fill(&mut message.msg_hdr, &transmit, piece, name, control);
            flags |= if transmit.dont_wait { libc::MSG_DONTWAIT } else { 0 };
            count += 1;
        }
        // SAFETY: `count` headers were filled above; names, controls and buffers are as long as the lengths beside them
        // say and outlive the call, which reads them, and writes lengths into the headers.
        repeat(|| unsafe {
            libc::syscall(libc::SYS_sendmmsg, self.fd.as_raw_fd(), messages.as_mut_ptr(), count, flags)
        })
    }

    /// Points a header to what is to be sent.
    fn fill(
        &self,
        header: &mut libc::msghdr,
        transmit: &Transmit<'_>,
        piece: &mut libc::iovec,
        name: &mut SockaddrBytes,
        control: &mut Control,
    ) {
        let used = control.emit(transmit);
        *piece = libc::iovec {
            iov_base: transmit.bytes.as_ptr().cast_mut().cast(),
            iov_len: transmit.bytes.len(),
        };
        header.msg_namelen = name.emit(transmit.remote, self.has_ipv6);
        header.msg_name = name.bytes.as_mut_ptr().cast();
        header.msg_iov = piece;
        header.msg_iovlen = 1;
        if used > 0 {
            header.msg_control = control.bytes.as_mut_ptr().cast();
            header.msg_controllen = control_len(used);
        }
    }
}

/// A system call until no signal interrupts it. By number, because musl copies each header anew, and sends many one by
/// one; its layout is the kernel's, with zeros where the kernel's fields are wider.
fn repeat(mut call: impl FnMut() -> libc::c_long) -> io::Result<usize> {
    loop {
        if let Ok(result) = usize::try_from(call()) {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Wait for the first message only; the C libraries disagree on the sign.
#[cfg(target_env = "musl")]
const RECEIVE_FLAGS: libc::c_uint = libc::MSG_WAITFORONE.unsigned_abs();
#[cfg(not(target_env = "musl"))]
const RECEIVE_FLAGS: c_int = libc::MSG_WAITFORONE;

/// Do not wait at all.
#[cfg(target_env = "musl")]
const RECEIVE_NOW_FLAGS: libc::c_uint = libc::MSG_DONTWAIT.unsigned_abs();
#[cfg(not(target_env = "musl"))]
const RECEIVE_NOW_FLAGS: c_int = libc::MSG_DONTWAIT;

const EMPTY_PIECE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn empty_mmsghdr() -> libc::mmsghdr {
    // SAFETY: a structure of integers and pointers, for all of which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// The C libraries disagree on the type of `msg_controllen`.
#[cfg(target_env = "musl")]
fn control_len(len: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(len).expect("control buffers have CONTROL_LEN bytes")
}
#[cfg(not(target_env = "musl"))]
const fn control_len(len: usize) -> usize {
    len
}

#[cfg(target_env = "musl")]
fn control_used(header: &libc::msghdr) -> usize {
    usize::try_from(header.msg_controllen).unwrap_or(0)
}
#[cfg(not(target_env = "musl"))]
const fn control_used(header: &libc::msghdr) -> usize {
    header.msg_controllen
}

/// Bytes of `struct sockaddr_in6`, the longer of the two.
const SOCKADDR_LEN: libc::socklen_t = 28;

/// `struct sockaddr_in` or `struct sockaddr_in6` as bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct SockaddrBytes {
    bytes: [u8; 28],
}

impl SockaddrBytes {
    const EMPTY: Self = Self { bytes: [0; 28] };

    /// Writes `address` as the socket's family wants it; returns the length.
    fn emit(&mut self, address: SocketAddr, as_ipv6: bool) -> libc::socklen_t {
        self.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (ip, flow, scope) = match address {
            SocketAddr::V4(v4) if !as_ipv6 => {
                self.bytes[..2].copy_from_slice(&family(libc::AF_INET));
                self.bytes[4..8].copy_from_slice(&v4.ip().octets());
                return 16;
            }
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
        };
        self.bytes[..2].copy_from_slice(&family(libc::AF_INET6));
        self.bytes[4..8].copy_from_slice(&flow.to_be_bytes());
        self.bytes[8..24].copy_from_slice(&ip.octets());
        self.bytes[24..28].copy_from_slice(&scope.to_ne_bytes());
        SOCKADDR_LEN
    }

    fn parse(&self) -> Option<SocketAddr> {
        let (family_bytes, rest) = self.bytes.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        if *family_bytes == family(libc::AF_INET) {
            return Some(SocketAddr::new(Ipv4Addr::from(*rest.first_chunk::<4>()?).into(), port));
        }
        if *family_bytes != family(libc::AF_INET6) {
            return None;
        }
        let (_flow, rest) = rest.split_first_chunk::<4>()?;
        let (ip, scope) = rest.split_first_chunk::<16>()?;
        let ip = Ipv6Addr::from(*ip);
        Some(match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), port),
            None => SocketAddrV6::new(ip, port, 0, u32::from_ne_bytes(*scope.first_chunk()?)).into(),
        })
    }
}

fn family(family: c_int) -> [u8; 2] {
    libc::sa_family_t::try_from(family).expect("address families are small numbers").to_ne_bytes()
}

/// A buffer for ancillary data, aligned as `struct cmsghdr` wants it.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; CONTROL_LEN],
}

/// Bytes of `struct cmsghdr`: a length as the kernel's `size_t`, level, type.
const CMSG_HEADER: usize = size_of::<usize>() + 8;

const fn cmsg_align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

impl Control {
    const EMPTY: Self = Self { bytes: [0; CONTROL_LEN] };

    /// Writes what `transmit` needs; returns how much that is.
    fn emit(&mut self, transmit: &Transmit<'_>) -> usize {
        let mut used = 0;
        if let Some(segment_len) = transmit.segment_len {
            self.push(&mut used, libc::SOL_UDP, libc::UDP_SEGMENT, &segment_len.to_ne_bytes());
        }
        match transmit.source {
            Some((IpAddr::V4(address), ifindex)) => {
                // struct in_pktinfo { ifindex, source, (unused when sending) }
                let mut info = [0; 12];
                info[..4].copy_from_slice(&ifindex.to_ne_bytes());
                info[4..8].copy_from_slice(&address.octets());
                self.push(&mut used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some((IpAddr::V6(address), ifindex)) => {
                // struct in6_pktinfo { source, ifindex }
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                info[16..].copy_from_slice(&ifindex.to_ne_bytes());
                self.push(&mut used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if transmit.traffic_class != 0 {
            let value = c_int::from(transmit.traffic_class).to_ne_bytes();
            match transmit.remote {
                SocketAddr::V4(_) => self.push(&mut used, libc::IPPROTO_IP, libc::IP_TOS, &value),
                SocketAddr::V6(_) => self.push(&mut used, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value),
            }
        }
        used
    }

    fn push(&mut self, used: &mut usize, level: c_int, kind: c_int, data: &[u8]) {
        let (header, body) = self.bytes[*used..].split_at_mut(CMSG_HEADER);
        header[..size_of::<usize>()].copy_from_slice(&(CMSG_HEADER + data.len()).to_ne_bytes());
        header[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
        header[size_of::<usize>() + 4..].copy_from_slice(&kind.to_ne_bytes());
        body[..data.len()].copy_from_slice(data);
        *used += cmsg_align(CMSG_HEADER + data.len());
    }
}

/// What the ancillary data of a received message says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Metadata {
    segment_len: Option<usize>,
    local: Option<Source>,
    traffic_class: u8,
}

impl Metadata {
    fn parse(mut control: &[u8]) -> Self {
        let mut metadata = Self::default();
        while let Some((level, kind, data)) = next_cmsg(&mut control) {
            metadata.take(level, kind, data);
        }
        metadata
    }

    fn take(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        match (level, kind, data) {
            (libc::SOL_UDP, libc::UDP_GRO, &[a, b, c, d, ..]) => {
                self.segment_len = usize::try_from(c_int::from_ne_bytes([a, b, c, d])).ok();
            }
            // For IPv4 on a dual-stack socket both kinds of packet info come; they say the same.
            (libc::IPPROTO_IP, libc::IP_PKTINFO, data) => {
                if let (Some((ifindex, rest)), true) = (data.split_first_chunk::<4>(), data.len() >= 12) {
                    // The routing decision's address (ipi_spec_dst) is the one to answer from.
                    let address = rest.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
                    self.local = address.map(|address| (address.into(), u32::from_ne_bytes(*ifindex)));
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, data) => {
                if let Some((address, [a, b, c, d, ..])) = data.split_first_chunk::<16>() {
                    let address = Ipv6Addr::from(*address).to_canonical();
                    if address.is_ipv6() {
                        self.local = Some((address, u32::from_ne_bytes([*a, *b, *c, *d])));
                    }
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS, &[tos, ..]) => self.traffic_class = tos,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[a, b, c, d, ..]) => {
                self.traffic_class = u8::try_from(c_int::from_ne_bytes([a, b, c, d])).unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// Takes the next control message off the front: level, type, data.
fn next_cmsg<'a>(control: &mut &'a [u8]) -> Option<(c_int, c_int, &'a [u8])> {
    const WORD: usize = size_of::<usize>();
    let whole = *control;
    let len = usize::from_ne_bytes(*whole.first_chunk::<WORD>()?);
    let level = c_int::from_ne_bytes(*whole.get(WORD..)?.first_chunk()?);
    let kind = c_int::from_ne_bytes(*whole.get(WORD + 4..)?.first_chunk()?);
    let data = whole.get(CMSG_HEADER..len)?;
    *control = whole.get(cmsg_align(len)..).unwrap_or_default();
    Some((level, kind, data))
}
