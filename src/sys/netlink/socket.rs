//! One rtnetlink socket: datagrams of the kernel and of nobody else; requests and their answers. (operating system)
//!
//! # Theory of operation
//! Whoever has CAP_NET_ADMIN in the namespace may send any bytes to a group that we listen to, or to our own port. So
//! what does not come from port 0, the kernel's, is passed over, and every socket is connected to that port: the kernel
//! then refuses what others send to ours.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, send, socket,
};

use super::{NetlinkError, inner};
use crate::sys::clock::boot_nanos;
use crate::sys::os_error::{OsError, check};
use crate::sys::wait::readable;

/// The kernel answers while it handles the request; longer than this means that it never will. For the whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The kernel makes messages of at most 32 KiB.
const BUFFER_LEN: usize = 64 * 1024;

/// Why a list is not complete.
#[derive(Debug)]
pub(super) enum DumpError {
    /// It changed while it was read.
    Interrupted,
    /// A message could not be parsed.
    Malformed,
    /// The system said no.
    System(OsError),
}

#[derive(Debug)]
pub(super) struct Connection {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One datagram.
pub(super) struct Received {
    pub(super) len: usize,
    /// Not from another process.
    pub(super) from_kernel: bool,
    /// Sent to everyone who listens.
    pub(super) is_news: bool,
    /// The foreign namespace it speaks of.
    pub(super) nsid: Option<i32>,
}

/// Until when an answer is waited for.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    boot_nanos: u64,
}

impl Deadline {
    /// For one request and everything that is read for it.
    pub(super) fn begin() -> Self {
        let patience = u64::try_from(ANSWER_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
        Self { boot_nanos: boot_nanos().saturating_add(patience) }
    }

    fn left(self) -> Duration {
        Duration::from_nanos(self.boot_nanos.saturating_sub(boot_nanos()))
    }
}

impl Connection {
    /// In the network namespace of this thread, and told what is sent to these groups (0: none), if wanted also in every
    /// namespace that it has a number for.
    pub(super) fn open(groups: u32, everywhere: bool) -> Result<Self, NetlinkError> {
        let failed = |source: OsError| NetlinkError::Open { source };
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .map_err(|errno| failed(errno.into()))?;
        if everywhere {
            set_option(&fd, libc::NETLINK_LISTEN_ALL_NSID).map_err(failed)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(|errno| failed(errno.into()))?;
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(|errno| failed(errno.into()))?;
        Ok(Self::new(fd))
    }

    pub(super) fn adopt(fd: OwnedFd) -> Result<Self, NetlinkError> {
        if (option(&fd, libc::SO_DOMAIN), option(&fd, libc::SO_PROTOCOL))
            == (Ok(libc::AF_NETLINK), Ok(libc::NETLINK_ROUTE))
        {
            Ok(Self::new(fd))
        } else {
            Err(NetlinkError::NotRtnetlink)
        }
    }

    const fn new(fd: OwnedFd) -> Self {
        Self { fd, sequence: 0, buffer: Vec::new() }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Asks for a change and waits for the acknowledgement.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), OsError> {
        let deadline = Deadline::begin();
        self.send(message, flags)?;
        loop {
            for message in self.receive_answer(deadline)? {
                match message.map_err(|_unparsable| OsError::from(Errno::EBADMSG))?.payload {
                    NetlinkPayload::Error(error) => {
                        let errno = error.code.map_or(0, |code| -code.get());
                        return if errno == 0 { Ok(()) } else { Err(OsError::from_raw(errno)) };
                    }
                    NetlinkPayload::Done(_)
                    | NetlinkPayload::Noop
                    | NetlinkPayload::Overrun(_)
                    | NetlinkPayload::InnerMessage(_) => {}
                    _ => {}
                }
            }
        }
    }

    /// Asks for one thing, which is the whole answer.
    pub(super) fn look_up(&mut self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, DumpError> {
        let deadline = Deadline::begin();
        self.send(message, NLM_F_REQUEST).map_err(DumpError::System)?;
        loop {
            for message in self.receive_answer(deadline).map_err(DumpError::System)? {
                match message.map_err(|_unparsable| DumpError::Malformed)?.payload {
                    NetlinkPayload::Error(error) => {
                        let errno = error.code.map_or(libc::EPROTO, |code| -code.get());
                        return Err(DumpError::System(OsError::from_raw(errno)));
                    }
                    payload => {
                        if let Some(found) = inner(payload) {
                            return Ok(found);
                        }
                    }
                }
            }
        }
    }

    /// Asks for a list and collects it.
    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        deadline: Deadline,
    ) -> Result<Vec<RouteNetlinkMessage>, DumpError> {
        self.send(message, flags).map_err(DumpError::System)?;
        let (mut list, mut interrupted, mut malformed) = (Vec::new(), false, false);
        loop {
            for message in self.receive_answer(deadline).map_err(DumpError::System)? {
                let Ok(message) = message else {
                    malformed = true;
                    continue;
                };
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Error(error) => {
                        let errno = error.code.map_or(libc::EPROTO, |code| -code.get());
                        return Err(DumpError::System(OsError::from_raw(errno)));
                    }
                    // The whole list was read, so that the next answer is not mistaken for the rest of this one.
                    NetlinkPayload::Done(_) if malformed => return Err(DumpError::Malformed),
                    NetlinkPayload::Done(_) if interrupted => return Err(DumpError::Interrupted),
                    NetlinkPayload::Done(_) => return Ok(list),
                    payload => list.extend(inner(payload)),
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), OsError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Waits for a datagram with answers to the last request.
    fn receive_answer(
        &mut self,
        deadline: Deadline,
    ) -> Result<Vec<Result<NetlinkMessage<RouteNetlinkMessage>, Unparsable>>, OsError> {
        loop {
            if !readable(self.fd.as_fd(), Some(deadline.left()))? {
                return Err(Errno::ETIMEDOUT.into());
            }
            let received = match self.receive() {
                Err(error) if error.is(Errno::EAGAIN) => continue,
                // ENOBUFS, too: nothing but answers comes here, so one was lost.
                other => other?,
            };
            if !received.from_kernel || received.is_news {
                continue;
            }
            let messages = self.messages(received.len).into_iter();
            let answers: Vec<_> = messages.filter(|message| message.sequence == self.sequence).collect();
            if !answers.is_empty() {
                return Ok(answers.into_iter().map(|message| message.parsed).collect());
            }
        }
    }

    /// Takes one datagram without waiting for it.
    pub(super) fn receive(&mut self) -> Result<Received, OsError> {
        self.buffer.resize(BUFFER_LEN, 0);
        let mut control = [0_u64; 8];
        let mut slice = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // SAFETY: sockaddr_nl is a C structure of integers, for which all zeros is a valid value.
        let mut from: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        // SAFETY: msghdr is a C structure of integers and pointers, for which all zeros is a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = ADDRESS_LEN;
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let received = loop {
            // SAFETY: the header points to an address, to one iovec over our buffer and to our control buffer, each
            // with its true length; all of them outlive the call.
            let received =
                unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            match usize::try_from(received) {
                Ok(len) => break len,
                Err(_negative) if Errno::last() == Errno::EINTR => {}
                Err(_negative) => return Err(OsError::last()),
            }
        };
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(Errno::EMSGSIZE.into());
        }
        Ok(Received {
            len: received,
            from_kernel: from.nl_pid == 0,
            is_news: from.nl_groups != 0,
            nsid: namespace_id(&message),
        })
    }

    /// The messages of the datagram received last.
    pub(super) fn messages(&self, len: usize) -> Vec<Framed> {
        let mut messages = Vec::new();
        let mut rest = &self.buffer[..len];
        while let Ok(frame) = NetlinkBuffer::new_checked(rest) {
            // Messages are aligned to four bytes; `new_checked` made sure that the length lies within the rest.
            let Ok(length) = usize::try_from(frame.length()) else { break };
            let (sequence, own) = (frame.sequence_number(), &rest[..length]);
            messages.push(Framed {
                sequence,
                parsed: NetlinkMessage::deserialize(own).map_err(|_error| Unparsable),
            });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        messages
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One message of a datagram.
pub(super) struct Framed {
    sequence: u32,
    pub(super) parsed: Result<NetlinkMessage<RouteNetlinkMessage>, Unparsable>,
}

/// It is not what its header says.
pub(super) struct Unparsable;

/// The foreign namespace a message speaks of, by the number our namespace has for it.
fn namespace_id(message: &libc::msghdr) -> Option<i32> {
    // SAFETY: recvmsg has filled the header; its control pointer and length describe our control buffer.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole, aligned header within the control buffer.
        let header = unsafe { *next };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_NETLINK, libc::NETLINK_LISTEN_ALL_NSID) {
            // SAFETY: the header lies within the control buffer, and so does what follows it.
            let data = unsafe { libc::CMSG_DATA(next) };
            // SAFETY: for this level and type the kernel writes one int; read_unaligned needs no alignment.
            return Some(unsafe { data.cast::<libc::c_int>().read_unaligned() });
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}

fn set_option(fd: &OwnedFd, option: libc::c_int) -> Result<(), OsError> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is one int, our local variable, and its length is given.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), INT_LEN)
    })
    .map(|_zero| ())
}

fn option(fd: &OwnedFd, option: libc::c_int) -> Result<libc::c_int, OsError> {
    let (mut value, mut len): (libc::c_int, _) = (0, INT_LEN);
    // SAFETY: these options write one int to our local variable, whose length is given.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len)
    })
    .map(|_zero| value)
}

const INT_LEN: libc::socklen_t = 4;
const ADDRESS_LEN: libc::socklen_t = 12;
