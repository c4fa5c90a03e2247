//! Makes and configures the interface in the namespace this process is in, and keeps it as a plan says. (tasks)
//!
//! # Theory of operation
//! The listening socket forgets what it heard of our own work, then the state that is reported is read: no change can
//! fall between the report and what the parent hears, and none that we made ourselves is heard as news.
//!
//! An interface carries [`ALIAS`] so that a second tunnel in the same namespace is not taken for a way around the
//! first one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;

use super::command::NetworkPlan;
use super::namespace_child::{ChildRequest, SetupError, SetupWarning};
use super::veth;
use crate::config::HostResolvers;
use crate::config::publish::DNS_PORT;
use crate::sys::netlink::{
    Kept, LinkSetting, LinkState, Netlink, NetlinkError, News, Route, RtnetlinkSockets, Topics,
};
use crate::sys::os_error::OsError;
use crate::sys::sysctl::{self, Ipv6Setting};
use crate::sys::tun::{self, TunError};
use crate::sys::wait;

/// The alias of every interface we make.
pub const ALIAS: &str = "wg4netns";

/// Packets that may wait for us. A full queue drops without a word, and the kernel's own 500 fill up in a burst of
/// small packets.
const TX_QUEUE_LEN: u32 = 2000;

/// Most segments of one UDP send (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_RUN_SEGMENTS: u32 = 64;

/// Bytes of the largest UDP payload over IPv4.
const MAX_RUN_BYTES: u32 = 65_507;

/// Bytes that encryption adds to each packet.
const OVERHEAD: u32 = 32;

/// Datagrams about our own work: one for each setting, address and route is what the socket's queue can hold. Somebody
/// else's must not keep us here.
const MAX_FORGOTTEN: usize = 10_000;

/// How often and how soon to look again for the end of another tunnel's veth pair, two seconds in all.
const LOOKS: u32 = 200;
/// How many of these looks it may seem to be alive: a tunnel that was killed still has processes for a moment.
const LOOKS_AT_LIVING: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// An interface, made and configured.
#[derive(Debug)]
pub struct MadeLink {
    /// One descriptor a queue.
    pub queues: Vec<OwnedFd>,
    /// One hears what changes from here on.
    pub rtnetlink: RtnetlinkSockets,
    /// As it is now.
    pub state: LinkState,
    /// What could not be done, and need not.
    pub warnings: Vec<SetupWarning>,
}

/// Makes what the request describes, in the network namespace of this thread.
///
/// # Errors
/// See [`SetupError`]; the interface is gone then.
pub fn make(request: &ChildRequest) -> Result<MadeLink, SetupError> {
    let mut netlink = Netlink::open().map_err(SetupError::Netlink)?;
    let mut warnings = Vec::new();
    if request.replace {
        make_room(&mut netlink, request.interface.as_str()).map_err(SetupError::Netlink)?;
    }
    let others = other_links_up(&mut netlink).map_err(SetupError::Netlink)?;
    if !others.is_empty() {
        if !request.keep_other_links {
            return Err(SetupError::OtherLinks { names: others });
        }
        warnings.push(SetupWarning::OtherLinks(others));
    }
    let name = request.interface.as_str();
    let queues = match tun::create(name, request.queues) {
        Err(TunError::Open { source }) => {
            let socket = without_tun(&mut netlink, name, source)?;
            warnings.push(SetupWarning::NoTun(source));
            vec![socket]
        }
        other => other.map_err(SetupError::Tun)?,
    };
    let mut news = News::open(Topics::Interfaces).map_err(SetupError::Netlink)?;
    let find = |netlink: &mut Netlink| {
        netlink.link_named(name).map_err(SetupError::Netlink)?.ok_or(SetupError::Disappeared)
    };
    let link = find(&mut netlink)?;
    tune(&mut netlink, &link, request.network.mtu.unwrap_or(link.mtu));
    if let Some(mtu) = request.network.mtu {
        netlink.set_link(link.index, LinkSetting::Mtu(mtu)).map_err(SetupError::Netlink)?;
    }
    if !request.bare {
        warnings.extend(configure(&mut netlink, &link, &request.network).map_err(SetupError::Netlink)?);
    }
    for _ in 0..MAX_FORGOTTEN {
        if !news.hear(|_our_own_work| ()).is_ok_and(|heard| heard) {
            break;
        }
    }
    let state = find(&mut netlink)?;
    let rtnetlink = RtnetlinkSockets { requests: netlink.into_fd(), news: news.into_fd() };
    Ok(MadeLink { queues, rtnetlink, state, warnings })
}

/// The same interface by other means. If those are not there either, it is the TUN that is missing.
fn without_tun(netlink: &mut Netlink, name: &str, source: OsError) -> Result<OwnedFd, SetupError> {
    if !is_free(netlink, name).map_err(SetupError::Netlink)? {
        return Err(SetupError::Tun(TunError::Exists { name: name.to_owned() }));
    }
    veth::make(netlink, name)?.map_err(|_refused| SetupError::Tun(TunError::Open { source }))
}

/// Whether no interface has this name, or will not have it in a moment: a veth pair goes with the namespace of its far
/// end, which the kernel clears away some time after the tunnel's last process has ended.
fn is_free(netlink: &mut Netlink, name: &str) -> Result<bool, NetlinkError> {
    for look in 0..LOOKS {
        let Some(link) = netlink.link_named(name)? else { return Ok(true) };
        let is_a_tunnels = link.alias.as_deref() == Some(ALIAS);
        if !is_a_tunnels || look >= LOOKS_AT_LIVING && !netlink.is_dying(link.index)? {
            return Ok(false);
        }
        // By poll, which who makes an interface may call; sleeping is a system call of its own.
        let _nothing_comes = wait::poll(&mut [], Some(BETWEEN_LOOKS));
    }
    Ok(netlink.link_named(name)?.is_none())
}

/// Makes the addresses and routes of an interface those of the plan, touching nothing that is right already.
///
/// Static routes of the interface that the plan does not have are removed; what the kernel added itself stays.
///
/// # Errors
/// EPERM if our user does not own the namespace; the rest of the plan is then not applied.
pub fn sync(
    netlink: &mut Netlink,
    index: u32,
    plan: &NetworkPlan,
) -> Result<Vec<SetupWarning>, NetlinkError> {
    let mut warnings = Vec::new();
    sync_addresses(netlink, index, plan, &mut warnings)?;
    sync_routes(netlink, index, plan, &mut warnings)?;
    Ok(warnings)
}

/// Removes the interface that an engine made for a driver of another kind. One of ours stays, and stands in the way.
fn make_room(netlink: &mut Netlink, name: &str) -> Result<(), NetlinkError> {
    let Some(link) = netlink.link_named(name)? else { return Ok(()) };
    if link.alias.as_deref() == Some(ALIAS) { Ok(()) } else { netlink.remove_link(link.index) }
}

/// Interfaces by which packets could leave, other than those of tunnels of ours.
fn other_links_up(netlink: &mut Netlink) -> Result<Vec<String>, NetlinkError> {
    let links = netlink.links()?.into_iter();
    let others = links.filter(|link| link.up && !link.loopback && link.alias.as_deref() != Some(ALIAS));
    Ok(others.map(|link| link.name).collect())
}

/// Settings that make it faster or easier to recognise; none of them is needed.
fn tune(netlink: &mut Netlink, link: &LinkState, mtu: u32) {
    // So that one super-packet becomes one UDP send, not one and a short rest.
    let segments = (MAX_RUN_BYTES / (mtu + OVERHEAD)).min(MAX_RUN_SEGMENTS);
    for setting in [
        LinkSetting::Alias(ALIAS.to_owned()),
        LinkSetting::TxQueueLen(TX_QUEUE_LEN),
        LinkSetting::GsoMaxSegs(segments.max(1)),
    ] {
        let _slower_without = netlink.set_link(link.index, setting);
    }
}

fn configure(
    netlink: &mut Netlink,
    link: &LinkState,
    plan: &NetworkPlan,
) -> Result<Vec<SetupWarning>, NetlinkError> {
    let mut warnings = Vec::new();
    let has_ipv6 = plan.addresses.iter().any(|address| address.addr().is_ipv6());
    let settings: &[Ipv6Setting] = if has_ipv6 {
        &[Ipv6Setting::Enable, Ipv6Setting::IgnoreRouters, Ipv6Setting::NoDuplicateDetection]
    } else {
        &[Ipv6Setting::Disable]
    };
    for setting in settings {
        match sysctl::set_ipv6(&link.name, *setting) {
            Err((file, error)) if *setting == Ipv6Setting::Disable => {
                warnings.push(SetupWarning::Ipv6Remains { file: file.display().to_string(), error });
            }
            // Without the other settings IPv6 works, with a little noise.
            Ok(()) | Err(_) => {}
        }
    }
    // Refused by kernels without IPv6.
    let _no_link_local = netlink.set_link(link.index, LinkSetting::NoGeneratedAddress);
    sync_addresses(netlink, link.index, plan, &mut warnings)?;
    if let Some(lo) = netlink.links()?.into_iter().find(|link| link.loopback) {
        if !lo.up {
            netlink.set_link(lo.index, LinkSetting::Up(true))?;
        }
        for address in plan.local.iter().copied().filter(|address| address.is_ipv4() || has_ipv6) {
            if plan.shared {
                // The engine gives it to the interface itself, and must not find it there.
                netlink.add_host_address(lo.index, address)?;
            } else {
                // The engine lists what there is and takes the first for the tunnel's own. lo comes before every other
                // interface, and the scope `host` before every other scope: this one comes last.
                netlink.add_address(link.index, address.into())?;
            }
        }
    }
    netlink.set_link(link.index, LinkSetting::Up(true))?;
    sync_routes(netlink, link.index, plan, &mut warnings)?;
    for address in plan.refused.iter().copied().filter(|address| address.is_ipv4() || has_ipv6) {
        match netlink.refuse_address(address) {
            // Of an earlier tunnel here: the kernel keeps such routes, they are on no interface.
            Err(NetlinkError::AddRoute { source, .. }) if source.is(Errno::EEXIST) => {}
            other => other?,
        }
    }
    keep_questions(netlink, link.index, &plan.host_resolvers)?;
    Ok(warnings)
}

/// Questions to the host's name servers stay inside, whatever routes there are and will be.
fn keep_questions(
    netlink: &mut Netlink,
    index: u32,
    HostResolvers { addresses, answered }: &HostResolvers,
) -> Result<(), NetlinkError> {
    if addresses.is_empty() {
        return Ok(());
    }
    let lo = netlink.links()?.into_iter().find(|link| link.loopback).filter(|_| *answered);
    let kept = lo.map_or(Kept::Refused, |lo| Kept::Here(lo.index));
    let has_ipv6 = netlink.addresses(index)?.iter().any(|address| address.addr().is_ipv6());
    for address in addresses.iter().copied() {
        let done = match netlink.keep_port(SocketAddr::new(address, DNS_PORT), kept) {
            // Without such rules nothing of them can be had.
            Err(NetlinkError::AddRoute { source, .. })
                if source.is(Errno::EOPNOTSUPP) || source.is(Errno::EAFNOSUPPORT) =>
            {
                match netlink.refuse_address(address) {
                    Err(NetlinkError::AddRoute { source, .. }) if source.is(Errno::EEXIST) => Ok(()),
                    other => other,
                }
            }
            other => other,
        };
        // Where there is no IPv6 there is nothing to keep.
        if address.is_ipv4() || has_ipv6 {
            done?;
        }
    }
    Ok(())
}

fn sync_addresses(
    netlink: &mut Netlink,
    index: u32,
    plan: &NetworkPlan,
    warnings: &mut Vec<SetupWarning>,
) -> Result<(), NetlinkError> {
    let wanted: BTreeSet<IpNet> = plan.addresses.iter().copied().collect();
    let present: BTreeSet<IpNet> = netlink.addresses(index)?.into_iter().collect();
    // New ones first: removing the last address would also remove every route.
    for address in wanted.difference(&present) {
        match netlink.add_address(index, *address) {
            Err(NetlinkError::AddAddress { source, .. })
                if address.addr().is_ipv6()
                    && [Errno::EACCES, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT]
                        .into_iter()
                        .any(|errno| source.is(errno)) =>
            {
                warnings.push(SetupWarning::NoIpv6(*address));
            }
            other => other?,
        }
    }
    for address in present.difference(&wanted) {
        if !is_link_local(address.addr()) && !plan.local.contains(&address.addr()) {
            netlink.remove_address(index, *address)?;
        }
    }
    Ok(())
}

fn sync_routes(
    netlink: &mut Netlink,
    index: u32,
    plan: &NetworkPlan,
    warnings: &mut Vec<SetupWarning>,
) -> Result<(), NetlinkError> {
    let present = netlink.routes()?;
    let addresses = netlink.addresses(index)?;
    let has_ipv6 = addresses.iter().any(|address| address.addr().is_ipv6());
    let has_ipv4 = addresses.iter().any(|address| address.addr().is_ipv4());
    let everything = [("0.0.0.0/0", has_ipv4), ("::/0", has_ipv6)];
    let catch_all = everything.into_iter().filter(|(_, has)| plan.catch_all && *has);
    let mut wanted: BTreeSet<IpNet> = plan
        .routes
        .iter()
        .copied()
        // Without an IPv6 address IPv6 is off, and a route for it could not be added.
        .filter(|route| route.addr().is_ipv4() || has_ipv6)
        .chain(catch_all.filter_map(|(route, _)| route.parse().ok()))
        .map(|route| route.trunc())
        .collect();
    if plan.shared {
        // Programs that look for a free network take halves for what they say: everything is in use. So does Docker.
        for default in wanted.clone().into_iter().filter(|route| route.prefix_len() == 0) {
            match netlink.add_overriding_default(index, default, plan.mtu) {
                Ok(()) => {
                    wanted.remove(&default);
                }
                // Without such tables it is halves.
                Err(NetlinkError::AddRoute { source, .. })
                    if source.is(Errno::EOPNOTSUPP) || source.is(Errno::EAFNOSUPPORT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let wanted: BTreeSet<IpNet> = wanted
        .into_iter()
        .flat_map(|route| beside_other_defaults(route, &present, index, plan.shared))
        .collect();
    let ours = |route: &&Route| route.interface == Some(index);
    for route in present.iter().filter(ours) {
        if route.is_static && !wanted.contains(&route.destination) {
            netlink.remove_route(index, route.destination)?;
        }
    }
    for destination in wanted {
        let mut taken = present.iter().filter(|route| route.destination == destination).peekable();
        if taken.peek().is_none() {
            match netlink.add_route(index, destination, plan.mtu.filter(|_| plan.shared)) {
                Err(NetlinkError::AddRoute { source, .. }) if source.is(Errno::EEXIST) => {
                    warnings.push(SetupWarning::RouteTaken(destination));
                }
                other => other?,
            }
        } else if !taken.any(|route| ours(&route)) {
            warnings.push(SetupWarning::RouteTaken(destination));
        }
    }
    Ok(())
}

/// A default route as two halves if there is another, or will be: the more specific halves win, whatever its metric.
fn beside_other_defaults(route: IpNet, present: &[Route], index: u32, shared: bool) -> Vec<IpNet> {
    let foreign = |other: &Route| other.destination == route && other.interface != Some(index);
    if route.prefix_len() == 0 && (shared || present.iter().any(foreign)) {
        halves(route).map(Vec::from).unwrap_or_default()
    } else {
        vec![route]
    }
}

fn halves(route: IpNet) -> Option<[IpNet; 2]> {
    let (low, high): (IpAddr, IpAddr) = match route {
        IpNet::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(128, 0, 0, 0).into()),
        IpNet::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0).into()),
    };
    Some([IpNet::new(low, 1).ok()?, IpNet::new(high, 1).ok()?])
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::clock::boot_nanos;
    use crate::sys::inside::inside_namespace;
    use crate::sys::namespace::{self, NamespaceKind};
    use crate::sys::netlink::Veth;

    /// It was refused after two seconds, in which the pair of a dead tunnel would have gone; or at once, although the
    /// tunnel had been killed and only its last process was not gone yet.
    #[test]
    fn the_name_of_a_living_veth_pair_is_refused_and_that_of_a_killed_one_waited_for() {
        let test = "driver::link_setup::tests::the_name_of_a_living_veth_pair_is_refused_and_that_of_a_killed_one_waited_for";
        if !inside_namespace(test, "") {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        // Whoever holds the file keeps the namespace, as a tunnel's packet socket does.
        let far = std::thread::spawn(|| {
            namespace::unshare(&[NamespaceKind::Network]).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let far = far.join().unwrap();
        let pair = Veth {
            name: "wg0",
            address: veth::MAC,
            far_name: "far0",
            far_address: veth::FAR_MAC,
            far_namespace: far.as_fd(),
        };
        netlink.add_veth(&pair).unwrap();
        let link = netlink.link_named("wg0").unwrap().unwrap();
        tune(&mut netlink, &link, link.mtu);
        let begun = boot_nanos();
        assert!(!is_free(&mut netlink, "wg0").unwrap());
        let took = boot_nanos() - begun;
        assert!(took < 1_500_000_000, "{took} ns");
        let end = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            drop(far);
        });
        assert!(is_free(&mut netlink, "wg0").unwrap());
        end.join().unwrap();
    }

    fn route(destination: &str, interface: u32) -> Route {
        Route { destination: destination.parse().unwrap(), interface: Some(interface), is_static: false }
    }

    #[test]
    fn a_default_route_becomes_two_halves_only_where_another_interface_has_one() {
        let default: IpNet = "0.0.0.0/0".parse().unwrap();
        assert_eq!(beside_other_defaults(default, &[], 2, false), [default]);
        assert_eq!(beside_other_defaults(default, &[route("0.0.0.0/0", 2)], 2, false), [default]);
        assert_eq!(beside_other_defaults(default, &[route("::/0", 7)], 2, false), [default]);
        let split: Vec<String> = beside_other_defaults(default, &[route("0.0.0.0/0", 7)], 2, false)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(split, ["0.0.0.0/1", "128.0.0.0/1"]);
        let split: Vec<String> = beside_other_defaults("::/0".parse().unwrap(), &[], 2, true)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(split, ["::/1", "8000::/1"]);
    }
}
