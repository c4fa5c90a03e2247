//! One port of an address elsewhere, kept in the namespace. (operating system)
//!
//! # Theory of operation
//! Routes know addresses only; which port is asked for is known to rules. So one rule picks the packets to that port,
//! and either refuses them or has them looked up in a table of their own, where the address is this namespace's. The
//! address' other ports are where they were. Whoever listens there must be told that the address is not its own
//! ([`open_beside`](crate::sys::sockets::open_beside)); the kernel's own answers, that nobody listens, are not sent from an
//! IPv4 address that is none of ours, which is why a refusal is a rule and not the want of a listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use nix::errno::Errno;

use super::{MAIN_BUT_DEFAULT, Netlink, NetlinkError, OWN_TABLE, family_of, route_message};

/// The table where such addresses are this namespace's.
const KEPT_TABLE: u32 = OWN_TABLE + 1;
/// Before every rule for what goes elsewhere.
const KEPT: u32 = MAIN_BUT_DEFAULT - 1;

/// What happens to packets that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// They are this namespace's: its loopback interface has this index.
    Here(u32),
    /// "Network unreachable", at once.
    Refused,
}

impl Netlink {
    /// Keeps packets to one port of an address, of TCP and UDP alike, in the namespace. What was kept before stays so.
    ///
    /// # Errors
    /// [`NetlinkError::AddRoute`]; EOPNOTSUPP or EAFNOSUPPORT from kernels without such rules.
    pub fn keep_port(&mut self, to: SocketAddr, kept: Kept) -> Result<(), NetlinkError> {
        let destination = IpNet::from(to.ip());
        let failed = |source| NetlinkError::AddRoute { destination, source };
        if let Kept::Here(lo) = kept {
            // Answers go back to an address that stays with the namespace, whatever the interface's own become.
            let source = match to.ip() {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            let mut route = route_message(lo, destination);
            // Larger tables are named by the attribute.
            route.header.table = RouteHeader::RT_TABLE_UNSPEC;
            route.header.kind = RouteType::Local;
            route.header.scope = RouteScope::Host;
            route.attributes.push(RouteAttribute::Table(KEPT_TABLE));
            route.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
            let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            self.connection.request(RouteNetlinkMessage::NewRoute(route), flags).map_err(failed)?;
        }
        let mut rule = RuleMessage::default();
        rule.header.family = family_of(to.ip());
        rule.header.dst_len = destination.prefix_len();
        rule.attributes = vec![
            RuleAttribute::Priority(KEPT),
            RuleAttribute::Destination(to.ip()),
            RuleAttribute::DestinationPortRange(RulePortRange { start: to.port(), end: to.port() }),
        ];
        match kept {
            Kept::Here(_) => {
                rule.header.action = RuleAction::ToTable;
                rule.attributes.push(RuleAttribute::Table(KEPT_TABLE));
            }
            Kept::Refused => rule.header.action = RuleAction::Unreachable,
        }
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.connection.request(RouteNetlinkMessage::NewRule(rule), flags) {
            Err(error) if error.is(Errno::EEXIST) => Ok(()),
            other => other.map_err(failed),
        }
    }
}
