//! A socket that hears of changes, and nothing else. (operating system)
//!
//! Anybody may write bytes to it who is root where it listens, so it gives what it hears in pieces that its owner counts,
//! and no datagram, whatever is in it, makes it fail: one that cannot be read is as good as one that was lost.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::event::Event;
use super::socket::{Connection, Unparsable};
use super::{NetlinkError, inner};
use crate::sys::os_error::OsError;

/// What a socket is to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topics {
    /// Interfaces and their addresses, also of an interface that is moved to another namespace.
    Interfaces,
    /// Likewise, and routes and routing rules: everything that decides which way a packet goes.
    Routing,
}

/// An rtnetlink socket that listens.
#[derive(Debug)]
pub struct News {
    connection: Connection,
}

impl News {
    /// In the network namespace of this thread.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open(topics: Topics) -> Result<Self, NetlinkError> {
        let interfaces = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        let groups = match topics {
            Topics::Interfaces => interfaces,
            Topics::Routing => {
                interfaces | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_RULE
            }
        };
        Ok(Self { connection: Connection::open(groups, topics == Topics::Interfaces)? })
    }

    /// A socket that was made elsewhere; refused if it is something else.
    ///
    /// # Errors
    /// [`NetlinkError::NotRtnetlink`].
    pub fn adopt(fd: OwnedFd) -> Result<Self, NetlinkError> {
        Ok(Self { connection: Connection::adopt(fd)? })
    }

    /// Takes one datagram, without waiting, and tells its news; whether there was one.
    ///
    /// # Errors
    /// The socket is of no use any more. Everything else that the system says means that something was lost, which is
    /// told as [`Event::Overrun`].
    pub fn hear(&mut self, mut tell: impl FnMut(Event)) -> Result<bool, OsError> {
        let received = match self.connection.receive() {
            Ok(received) => received,
            Err(error) if error.is(Errno::EAGAIN) => return Ok(false),
            Err(error) if error.is(Errno::EBADF) || error.is(Errno::ENOTSOCK) => return Err(error),
            Err(_lost) => {
                tell(Event::Overrun);
                return Ok(true);
            }
        };
        if !received.from_kernel || !received.is_news {
            return Ok(true);
        }
        for message in self.connection.messages(received.len) {
            match message.parsed {
                Ok(parsed) => {
                    let event =
                        inner(parsed.payload).and_then(|message| Event::parse(&message, received.nsid));
                    if let Some(event) = event {
                        tell(event);
                    }
                }
                Err(Unparsable) => tell(Event::Overrun),
            }
        }
        Ok(true)
    }

    /// Gives the socket away.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.connection.into_fd()
    }
}

impl AsRawFd for News {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

// linux/rtnetlink.h
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV4_RULE: u32 = 0x80;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
// linux/rtnetlink.h has no name for the group of number 19 in this form.
const RTMGRP_IPV6_RULE: u32 = 1 << 18;
