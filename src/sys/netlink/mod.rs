//! Interfaces, addresses and routes, in process and blocking, over rtnetlink sockets. (operating system)
//!
//! # Theory of operation
//! A socket belongs to the network namespace it was made in, whoever holds it: the namespace child opens two, and its
//! parent hears of every change over one ([`News`]) and may ask for changes over the other ([`Netlink`]), as far as its
//! user owns the namespace. Two, because whoever is root there can fill the queue of the first, and an answer would be
//! lost with the rest. Running `ip` instead would not work: an exec as a user other than root of the target's user
//! namespace loses the capabilities that joining gave.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's vocabulary grows; what is not named here is not asked about"
)]

mod event;
mod news;
mod port_rule;
mod socket;
mod veth;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use event::Event;
pub use news::{News, Topics};
pub use port_rule::Kept;
use socket::{Connection, Deadline, DumpError};
pub use veth::Veth;

use super::os_error::OsError;

/// What was asked of the kernel, in words that follow "cannot".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NetlinkError {
    /// No rtnetlink socket.
    #[error("cannot open an rtnetlink socket")]
    Open {
        /// What the system said.
        source: OsError,
    },
    /// The descriptor is something else.
    #[error("descriptor is not an rtnetlink socket")]
    NotRtnetlink,
    /// Reading what there is.
    #[error("cannot list the {what}")]
    List {
        /// Of what.
        what: Listed,
        /// What the system said.
        source: OsError,
    },
    /// An answer that this program does not understand; nothing may be concluded from it.
    #[error("cannot understand the kernel's list of {what}")]
    Malformed {
        /// Of what.
        what: Listed,
    },
    /// Changing an interface.
    #[error("cannot change {what} of interface {index}")]
    Link {
        /// Which setting.
        what: LinkSetting,
        /// Interface index.
        index: u32,
        /// What the system said.
        source: OsError,
    },
    /// Adding a pair of interfaces.
    #[error("cannot add a pair of veth interfaces")]
    AddVeth {
        /// What the system said.
        source: OsError,
    },
    /// Removing an interface.
    #[error("cannot remove interface {index}")]
    RemoveLink {
        /// Interface index.
        index: u32,
        /// What the system said.
        source: OsError,
    },
    /// Adding an address.
    #[error("cannot add the address {address}")]
    AddAddress {
        /// Which.
        address: IpNet,
        /// What the system said.
        source: OsError,
    },
    /// Removing an address.
    #[error("cannot remove the address {address}")]
    RemoveAddress {
        /// Which.
        address: IpNet,
        /// What the system said.
        source: OsError,
    },
    /// Adding a route.
    #[error("cannot add the route {destination}")]
    AddRoute {
        /// To where.
        destination: IpNet,
        /// What the system said.
        source: OsError,
    },
    /// Removing a route.
    #[error("cannot remove the route {destination}")]
    RemoveRoute {
        /// To where.
        destination: IpNet,
        /// What the system said.
        source: OsError,
    },
}

impl NetlinkError {
    /// What the system said, where it said something.
    #[must_use]
    pub const fn os_error(&self) -> Option<OsError> {
        match self {
            Self::Open { source }
            | Self::List { source, .. }
            | Self::Link { source, .. }
            | Self::AddVeth { source }
            | Self::RemoveLink { source, .. }
            | Self::AddAddress { source, .. }
            | Self::RemoveAddress { source, .. }
            | Self::AddRoute { source, .. }
            | Self::RemoveRoute { source, .. } => Some(*source),
            Self::NotRtnetlink | Self::Malformed { .. } => None,
        }
    }
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listed {
    /// Interfaces.
    Links,
    /// Addresses.
    Addresses,
    /// Routes.
    Routes,
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Links => "interfaces",
            Self::Addresses => "addresses",
            Self::Routes => "routes",
        })
    }
}

/// One setting of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkSetting {
    /// Up or down.
    Up(bool),
    /// Largest packet, in bytes.
    Mtu(u32),
    /// Packets that may wait to be read.
    TxQueueLen(u32),
    /// Segments of one super-packet.
    GsoMaxSegs(u32),
    /// A line of text for people (and for us: whose interface it is).
    Alias(String),
    /// No IPv6 address is made up by the kernel.
    NoGeneratedAddress,
    /// Nobody is asked for link-layer addresses.
    NoArp,
}

impl std::fmt::Display for LinkSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Up(true) => f.write_str("the state (to up)"),
            Self::Up(false) => f.write_str("the state (to down)"),
            Self::Mtu(mtu) => write!(f, "the MTU (to {mtu})"),
            Self::TxQueueLen(len) => write!(f, "the queue length (to {len})"),
            Self::GsoMaxSegs(segments) => write!(f, "the segment limit (to {segments})"),
            Self::Alias(_) => f.write_str("the alias"),
            Self::NoGeneratedAddress => f.write_str("the address generation"),
            Self::NoArp => f.write_str("the address resolution"),
        }
    }
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It is `lo`.
    pub loopback: bool,
    /// The line of text somebody gave it.
    pub alias: Option<String>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// To where.
    pub destination: IpNet,
    /// By which interface; absent for routes that name none or several.
    pub interface: Option<u32>,
    /// Added by this program (or by another as "static").
    pub is_static: bool,
}

/// A namespace's two sockets, on their way from the child to its parent.
#[derive(Debug)]
pub struct RtnetlinkSockets {
    /// See [`Netlink`].
    pub requests: OwnedFd,
    /// See [`News`].
    pub news: OwnedFd,
}

/// An rtnetlink socket to ask and to change things with.
#[derive(Debug)]
pub struct Netlink {
    connection: Connection,
}

impl Netlink {
    /// In the network namespace of this thread.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { connection: Connection::open(0, false)? })
    }

    /// A socket that was made elsewhere; refused if it is something else.
    ///
    /// # Errors
    /// [`NetlinkError::NotRtnetlink`].
    pub fn adopt(fd: OwnedFd) -> Result<Self, NetlinkError> {
        Ok(Self { connection: Connection::adopt(fd)? })
    }

    /// Every interface of the namespace.
    ///
    /// # Errors
    /// [`NetlinkError::List`], [`NetlinkError::Malformed`].
    pub fn links(&mut self) -> Result<Vec<LinkState>, NetlinkError> {
        let what = Listed::Links;
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), what)?
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => {
                    Some(link_state(&link).ok_or(NetlinkError::Malformed { what }))
                }
                _ => None,
            })
            .collect()
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// As [`links`](Self::links).
    pub fn link_named(&mut self, name: &str) -> Result<Option<LinkState>, NetlinkError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The interface of this index; asks for that one only.
    ///
    /// # Errors
    /// As [`links`](Self::links).
    pub fn link(&mut self, index: u32) -> Result<Option<LinkState>, NetlinkError> {
        let Some(link) = self.link_message(link_request(index))? else { return Ok(None) };
        link_state(&link).map(Some).ok_or(NetlinkError::Malformed { what: Listed::Links })
    }

    /// What the kernel says of one interface; nothing if there is none.
    fn link_message(&mut self, request: LinkMessage) -> Result<Option<LinkMessage>, NetlinkError> {
        let what = Listed::Links;
        match self.connection.look_up(RouteNetlinkMessage::GetLink(request)) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            Ok(_) | Err(DumpError::Interrupted | DumpError::Malformed) => {
                Err(NetlinkError::Malformed { what })
            }
            Err(DumpError::System(source)) if source.is(Errno::ENODEV) => Ok(None),
            Err(DumpError::System(source)) => Err(NetlinkError::List { what, source }),
        }
    }

    /// Changes one setting of an interface.
    ///
    /// # Errors
    /// [`NetlinkError::Link`].
    pub fn set_link(&mut self, index: u32, setting: LinkSetting) -> Result<(), NetlinkError> {
        let mut message = link_request(index);
        match setting.clone() {
            LinkSetting::Up(up) => {
                message.header.change_mask = LinkFlags::Up;
                message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            }
            LinkSetting::Mtu(mtu) => message.attributes.push(LinkAttribute::Mtu(mtu)),
            LinkSetting::TxQueueLen(len) => message.attributes.push(LinkAttribute::TxQueueLen(len)),
            LinkSetting::GsoMaxSegs(segments) => message.attributes.push(LinkAttribute::GsoMaxSegs(segments)),
            LinkSetting::Alias(alias) => message.attributes.push(LinkAttribute::IfAlias(alias)),
            LinkSetting::NoGeneratedAddress => {
                let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                let family = AfSpecUnspec::Inet6(vec![mode]);
                message.attributes.push(LinkAttribute::AfSpecUnspec(vec![family]));
            }
            LinkSetting::NoArp => {
                message.header.change_mask = LinkFlags::Noarp;
                message.header.flags = LinkFlags::Noarp;
            }
        }
        self.connection
            .request(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK)
            .map_err(|source| NetlinkError::Link { what: setting, index, source })
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// [`NetlinkError::RemoveLink`].
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let message = link_request(index);
        self.connection
            .request(RouteNetlinkMessage::DelLink(message), NLM_F_REQUEST | NLM_F_ACK)
            .map_err(|source| NetlinkError::RemoveLink { index, source })
    }

    /// The addresses of an interface.
    ///
    /// # Errors
    /// [`NetlinkError::List`], [`NetlinkError::Malformed`].
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let what = Listed::Addresses;
        let messages = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), what)?;
        let of_interface = messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == index => Some(address),
            _ => None,
        });
        of_interface
            .map(|message| address_of(&message).ok_or(NetlinkError::Malformed { what }))
            .collect::<Result<_, _>>()
    }

    /// Adds an address, usable at once (no duplicate detection). One that is there already is left alone.
    ///
    /// # Errors
    /// [`NetlinkError::AddAddress`].
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.connection.request(RouteNetlinkMessage::NewAddress(address_message(index, address)), flags)
        {
            Err(source) if !source.is(Errno::EEXIST) => Err(NetlinkError::AddAddress { address, source }),
            _ => Ok(()),
        }
    }

    /// Adds an address that leads to this namespace itself and is never chosen as the source of what leaves it. One
    /// that is there already is left alone.
    ///
    /// # Errors
    /// [`NetlinkError::AddAddress`].
    pub fn add_host_address(&mut self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let address = IpNet::from(address);
        let mut message = address_message(index, address);
        message.header.scope = AddressScope::Host;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.connection.request(RouteNetlinkMessage::NewAddress(message), flags) {
            Err(source) if !source.is(Errno::EEXIST) => Err(NetlinkError::AddAddress { address, source }),
            _ => Ok(()),
        }
    }

    /// Removes an address.
    ///
    /// # Errors
    /// [`NetlinkError::RemoveAddress`].
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.connection
            .request(message, NLM_F_REQUEST | NLM_F_ACK)
            .map_err(|source| NetlinkError::RemoveAddress { address, source })
    }

    /// The routes of the main table.
    ///
    /// # Errors
    /// [`NetlinkError::List`], [`NetlinkError::Malformed`].
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        // Asked for both at once, the kernel also lists multicast routing.
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for message in self.dump(RouteNetlinkMessage::GetRoute(message), Listed::Routes)? {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    routes.extend(main_route(&route));
                }
            }
        }
        Ok(routes)
    }

    /// By which interface a packet to `remote` from `source` would leave; `None` if the answer names none.
    ///
    /// # Errors
    /// [`NetlinkError::List`]: there is no route, or `source` is no address of ours.
    pub fn interface_towards(
        &mut self,
        remote: IpAddr,
        source: IpAddr,
        mark: u32,
    ) -> Result<Option<u32>, NetlinkError> {
        let what = Listed::Routes;
        let length = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(remote);
        message.header.destination_prefix_length = length(remote);
        message.header.source_prefix_length = length(source);
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(remote)));
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(source)));
        message.attributes.push(RouteAttribute::Mark(mark));
        match self.connection.look_up(RouteNetlinkMessage::GetRoute(message)) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => {
                Ok(route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }))
            }
            Ok(_) | Err(DumpError::Interrupted | DumpError::Malformed) => {
                Err(NetlinkError::Malformed { what })
            }
            Err(DumpError::System(source)) => Err(NetlinkError::List { what, source }),
        }
    }

    /// Adds a route by an interface to the main table.
    ///
    /// # Errors
    /// [`NetlinkError::AddRoute`]; EEXIST if there is one to the same destination.
    pub fn add_route(
        &mut self,
        index: u32,
        destination: IpNet,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut message = route_message(index, destination);
        message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        self.connection
            .request(RouteNetlinkMessage::NewRoute(message), flags)
            .map_err(|source| NetlinkError::AddRoute { destination, source })
    }

    /// Adds a default route that wins over the main table's, which somebody else makes later, and that does not stand in
    /// the main table, where programs would take it for a network in use: as wg-quick does, in a table of its own that is
    /// asked after every route of the main one but the default. What is there already stays.
    ///
    /// # Errors
    /// [`NetlinkError::AddRoute`]; EOPNOTSUPP from kernels without such tables.
    pub fn add_overriding_default(
        &mut self,
        index: u32,
        destination: IpNet,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::AddRoute { destination, source };
        let mut route = route_message(index, destination);
        // Larger tables are named by the attribute.
        route.header.table = RouteHeader::RT_TABLE_UNSPEC;
        route.attributes.push(RouteAttribute::Table(OWN_TABLE));
        route.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        self.connection
            .request(
                RouteNetlinkMessage::NewRoute(route),
                NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map_err(failed)?;
        let main = [
            RuleAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()),
            RuleAttribute::SuppressPrefixLen(0),
            RuleAttribute::Priority(MAIN_BUT_DEFAULT),
        ];
        let own = [RuleAttribute::Table(OWN_TABLE), RuleAttribute::Priority(OWN_DEFAULT)];
        for attributes in [&main[..], &own[..]] {
            let mut rule = RuleMessage::default();
            rule.header.family = family_of(destination.addr());
            rule.header.action = RuleAction::ToTable;
            rule.attributes = attributes.to_vec();
            let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
            match self.connection.request(RouteNetlinkMessage::NewRule(rule), flags) {
                Err(error) if error.is(Errno::EEXIST) => {}
                other => other.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Has packets to one address refused, whatever other routes there are.
    ///
    /// # Errors
    /// [`NetlinkError::AddRoute`]; EEXIST if there is a route to that address.
    pub fn refuse_address(&mut self, address: IpAddr) -> Result<(), NetlinkError> {
        let destination = IpNet::from(address);
        let mut message = route_message(0, destination);
        message.header.kind = RouteType::Unreachable;
        message.header.scope = RouteScope::Universe;
        message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
        self.connection
            .request(
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            )
            .map_err(|source| NetlinkError::AddRoute { destination, source })
    }

    /// Removes a route that [`add_route`](Self::add_route) added.
    ///
    /// # Errors
    /// [`NetlinkError::RemoveRoute`].
    pub fn remove_route(&mut self, index: u32, destination: IpNet) -> Result<(), NetlinkError> {
        self.connection
            .request(
                RouteNetlinkMessage::DelRoute(route_message(index, destination)),
                NLM_F_REQUEST | NLM_F_ACK,
            )
            .map_err(|source| NetlinkError::RemoveRoute { destination, source })
    }

    /// Gives the socket away.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.connection.into_fd()
    }

    fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        what: Listed,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // A list that changed while it was read is inconsistent; a namespace that never rests for so many attempts
        // is not one that we can conclude anything about.
        const ATTEMPTS: usize = 10;
        let deadline = Deadline::begin();
        for _ in 0..ATTEMPTS {
            match self.connection.dump(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, deadline) {
                Err(DumpError::Interrupted) => {}
                Err(DumpError::Malformed) => return Err(NetlinkError::Malformed { what }),
                Err(DumpError::System(source)) => return Err(NetlinkError::List { what, source }),
                Ok(messages) => return Ok(messages),
            }
        }
        Err(NetlinkError::List { what, source: Errno::EINTR.into() })
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// The name, MTU and state out of a link message; `None` if it lacks the name.
fn link_request(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn link_state(message: &LinkMessage) -> Option<LinkState> {
    let (mut name, mut mtu, mut alias) = (None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::IfAlias(text) => alias = Some(text.clone()),
            _ => {}
        }
    }
    Some(LinkState {
        index: message.header.index,
        name: name?,
        mtu,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        alias,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            _ => {}
        }
    }
    // On a point-to-point link ADDRESS is the other end.
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    if address.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

/// The table of [`Netlink::add_overriding_default`], as wg-quick numbers it.
const OWN_TABLE: u32 = 51820;
/// Rules directly before the kernel's own for the main table (32766).
const MAIN_BUT_DEFAULT: u32 = 32764;
const OWN_DEFAULT: u32 = 32765;

fn route_message(index: u32, destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if destination.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination.network())));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn main_route(message: &RouteMessage) -> Option<Route> {
    let (mut destination, mut interface) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            // The header's field has eight bits; larger tables are named here.
            RouteAttribute::Table(table) if *table != u32::from(RouteHeader::RT_TABLE_MAIN) => return None,
            _ => {}
        }
    }
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let destination =
        IpNet::new(destination.unwrap_or(unspecified), message.header.destination_prefix_length).ok()?;
    Some(Route { destination, interface, is_static: message.header.protocol == RouteProtocol::Static })
}

const fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The message inside a payload, if it is one.
fn inner(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<RouteNetlinkMessage> {
    match payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_has_a_loopback_interface() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link_named("lo").unwrap().unwrap();
        assert!(lo.loopback);
        assert_eq!(netlink.link(lo.index).unwrap(), Some(lo));
        assert_eq!(netlink.link(0x7fff_fff0).unwrap(), None);
        let local = IpAddr::from([127, 0, 0, 1]);
        let lo = netlink.link_named("lo").unwrap().unwrap();
        assert_eq!(netlink.interface_towards([127, 1, 2, 3].into(), local, 0).unwrap(), Some(lo.index));
    }

    #[test]
    fn something_else_is_not_taken_for_an_rtnetlink_socket() {
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        assert_eq!(Netlink::adopt(null).unwrap_err(), NetlinkError::NotRtnetlink);
        let netlink = Netlink::open().unwrap().into_fd();
        assert!(Netlink::adopt(netlink).is_ok());
    }

    #[test]
    fn a_change_to_an_interface_that_is_not_there_names_it() {
        let error = Netlink::open().unwrap().set_link(0x7fff_fff0, LinkSetting::Mtu(1420)).unwrap_err();
        assert_eq!(error.to_string(), "cannot change the MTU (to 1420) of interface 2147483632");
    }
}
