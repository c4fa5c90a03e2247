//! What an rtnetlink socket hears: changes of interfaces, addresses and routes. (operating system)

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;

use super::{LinkState, link_state};

/// A change somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is new or has changed (name, MTU, state).
    Link {
        /// As it is now.
        link: LinkState,
        /// Our number for the namespace it is in; absent for the socket's own.
        nsid: Option<i32>,
    },
    /// An interface is gone from its namespace.
    Gone {
        /// Which.
        index: u32,
        /// Our number for the namespace it was in; absent for the socket's own.
        nsid: Option<i32>,
        /// It was not deleted but moved: our number for its new namespace, and its index there.
        moved: Option<(i32, u32)>,
    },
    /// Addresses of an interface have changed.
    Addresses {
        /// Which.
        index: u32,
    },
    /// Routes or routing rules have changed.
    Routes,
    /// Something was lost; list again.
    Overrun,
}

impl Event {
    /// Reads a notification; `None` for what nobody here asks about.
    pub(super) fn parse(message: &RouteNetlinkMessage, nsid: Option<i32>) -> Option<Self> {
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                Some(link_state(link).map_or(Self::Overrun, |link| Self::Link { link, nsid }))
            }
            RouteNetlinkMessage::DelLink(link) => {
                // Bridges and the like announce the end of a port with another family.
                if link.header.interface_family != netlink_packet_route::AddressFamily::Unspec {
                    return None;
                }
                let (mut namespace, mut index) = (None, None);
                for attribute in &link.attributes {
                    match attribute {
                        LinkAttribute::NewNetnsId(nsid) => namespace = Some(*nsid),
                        LinkAttribute::NewIfIndex(new) => index = u32::try_from(*new).ok(),
                        _ => {}
                    }
                }
                let moved = namespace.map(|nsid| (nsid, index.unwrap_or(link.header.index)));
                Some(Self::Gone { index: link.header.index, nsid, moved })
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                Some(Self::Addresses { index: address.header.index })
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => Some(Self::Routes),
            _ => None,
        }
    }
}
