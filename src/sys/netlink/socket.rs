//! One rtnetlink socket: requests and their answers, and what else is heard meanwhile. (operating system)

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send, socket,
};

use super::event::Event;
use super::{NetlinkError, inner};
use crate::sys::os_error::{OsError, check};
use crate::sys::wait::readable;

/// The kernel answers while it handles the request; longer than this means that it never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel makes messages of at most 32 KiB.
const BUFFER_LEN: usize = 64 * 1024;

/// Changes that are kept while an answer is awaited; beyond that, "list again" says it all.
const MAX_PENDING_EVENTS: usize = 256;

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
    /// Heard while an answer was awaited, oldest first.
    pending: VecDeque<Event>,
}

/// One datagram from the kernel.
struct Received {
    len: usize,
    /// Sent to everyone who listens. What our own requests change is told with our own sequence number, so nothing
    /// else tells an answer from news.
    is_news: bool,
    /// The foreign namespace it speaks of.
    nsid: Option<i32>,
}

impl Connection {
    pub(super) fn open(listening: bool) -> Result<Self, NetlinkError> {
        let failed = |source: OsError| NetlinkError::Open { source };
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .map_err(|errno| failed(errno.into()))?;
        if listening {
            set_option(&fd, libc::NETLINK_LISTEN_ALL_NSID).map_err(failed)?;
        }
        let groups = if listening { RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR } else { 0 };
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(|errno| failed(errno.into()))?;
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
        Self { fd, sequence: 0, buffer: Vec::new(), pending: VecDeque::new() }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Asks for a change and waits for the acknowledgement.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), OsError> {
        self.send(message, flags)?;
        loop {
            for message in self.receive_answer()? {
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

    /// Asks for a list and collects it.
    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, DumpError> {
        self.send(message, flags).map_err(DumpError::System)?;
        let (mut list, mut interrupted, mut malformed) = (Vec::new(), false, false);
        loop {
            for message in self.receive_answer().map_err(DumpError::System)? {
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

    pub(super) fn next_event(&mut self) -> Result<Option<Event>, OsError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(received) if received.is_news => self.hear(&received),
                // A leftover answer to an earlier, abandoned request.
                Ok(_answer) => {}
                Err(error) if error.is(Errno::EAGAIN) => return Ok(None),
                Err(error) if error.is(Errno::ENOBUFS) => return Ok(Some(Event::Overrun)),
                Err(error) => return Err(error),
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

    /// Waits for a datagram with answers to the last request; everything else becomes an event.
    fn receive_answer(
        &mut self,
    ) -> Result<Vec<Result<NetlinkMessage<RouteNetlinkMessage>, Unparsable>>, OsError> {
        loop {
            if !readable(self.fd.as_fd(), Some(ANSWER_TIMEOUT))? {
                return Err(Errno::ETIMEDOUT.into());
            }
            let received = match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(error) if error.is(Errno::EAGAIN) => continue,
                // Notifications were lost; an answer never is.
                Err(error) if error.is(Errno::ENOBUFS) => {
                    self.keep(Event::Overrun);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if received.is_news {
                self.hear(&received);
                continue;
            }
            let messages = self.messages(received.len).into_iter();
            let answers: Vec<_> = messages.filter(|message| message.sequence == self.sequence).collect();
            if !answers.is_empty() {
                return Ok(answers.into_iter().map(|message| message.parsed).collect());
            }
        }
    }

    fn hear(&mut self, received: &Received) {
        for message in self.messages(received.len) {
            match message.parsed {
                Ok(parsed) => {
                    let message = inner(parsed.payload);
                    if let Some(event) = message.and_then(|message| Event::parse(&message, received.nsid)) {
                        self.keep(event);
                    }
                }
                Err(Unparsable) => self.keep(Event::Overrun),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.pending.len() >= MAX_PENDING_EVENTS {
            self.pending.clear();
            self.pending.push_back(Event::Overrun);
        }
        self.pending.push_back(event);
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<Received, OsError> {
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
            let received = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags.bits()) };
            match usize::try_from(received) {
                Ok(len) => break len,
                Err(_negative) if Errno::last() == Errno::EINTR => {}
                Err(_negative) => return Err(OsError::last()),
            }
        };
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(Errno::EMSGSIZE.into());
        }
        Ok(Received { len: received, is_news: from.nl_groups != 0, nsid: namespace_id(&message) })
    }

    fn messages(&self, len: usize) -> Vec<Framed> {
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

struct Framed {
    sequence: u32,
    parsed: Result<NetlinkMessage<RouteNetlinkMessage>, Unparsable>,
}

struct Unparsable;

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

// linux/rtnetlink.h
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
