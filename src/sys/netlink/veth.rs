//! A pair of interfaces, one here and one in another namespace, and whether the other is still there. (operating system)

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;

use super::{Netlink, NetlinkError, link_request};

/// Two interfaces: what enters one leaves the other.
#[derive(Debug)]
pub struct Veth<'p> {
    /// Name of the one here.
    pub name: &'p str,
    /// Its link-layer address.
    pub address: [u8; 6],
    /// Name of the other.
    pub far_name: &'p str,
    /// Its link-layer address.
    pub far_address: [u8; 6],
    /// Where the other is.
    pub far_namespace: BorrowedFd<'p>,
}

impl Netlink {
    /// Adds a pair of interfaces, one here and one in another namespace. Both are down.
    ///
    /// # Errors
    /// [`NetlinkError::AddVeth`]; EEXIST if there is an interface of that name.
    pub fn add_veth(&mut self, pair: &Veth<'_>) -> Result<(), NetlinkError> {
        let mut far = LinkMessage::default();
        far.attributes = vec![
            LinkAttribute::IfName(pair.far_name.to_owned()),
            LinkAttribute::Address(pair.far_address.to_vec()),
            LinkAttribute::NetNsFd(pair.far_namespace.as_raw_fd()),
        ];
        let mut near = LinkMessage::default();
        near.attributes = vec![
            LinkAttribute::IfName(pair.name.to_owned()),
            LinkAttribute::Address(pair.address.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
            ]),
        ];
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.connection
            .request(RouteNetlinkMessage::NewLink(near), flags)
            .map_err(|source| NetlinkError::AddVeth { source })
    }

    /// Whether the kernel is about to remove an interface by itself: it is one end of a pair, and nobody is left in the
    /// namespace of the other. That is known at once; the removal may come a good while later.
    ///
    /// # Errors
    /// As [`links`](Self::links).
    pub fn is_dying(&mut self, index: u32) -> Result<bool, NetlinkError> {
        let Some(link) = self.link_message(link_request(index))? else { return Ok(true) };
        let far_namespace = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkNetNsId(id) => Some(*id),
            _ => None,
        });
        let Some(far_namespace) = far_namespace else { return Ok(false) };
        // Its loopback interface is the first, and there as long as it is.
        let mut loopback = link_request(1);
        loopback.attributes.push(LinkAttribute::IfNetnsId(far_namespace));
        match self.link_message(loopback) {
            Ok(_) => Ok(false),
            // Also the answer to -1, the number of one that has lost its own.
            Err(NetlinkError::List { source, .. }) if source.is(Errno::EINVAL) => Ok(true),
            // That we may not look into it is an answer, too.
            Err(NetlinkError::List { source, .. }) if source.is(Errno::EACCES) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
