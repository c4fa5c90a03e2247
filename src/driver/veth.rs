//! The interface where there is no `/dev/net/tun`: one end of a veth pair, and a packet socket on the other. (tasks)
//!
//! # Theory of operation
//! The target's end has the interface's name, addresses and routes, as a TUN would. The far end is in a network
//! namespace of its own that holds nothing else and that only our packet socket keeps alive: when the last descriptor
//! of that socket closes, the namespace goes, and with it the pair. So the interface lives and dies as a TUN does.
//!
//! Frames have Ethernet headers here. Neither end asks for the other's address (NOARP): the target's kernel puts its
//! own address into what it sends, and takes what bears [`MAC`].
//!
//! Two things differ. The far end drops packets from our peers that are longer than the interface's MTU, which a TUN
//! lets pass. And a super-packet of a kind that has no virtio-net header (UDP, before Linux 6.2) is lost.

use std::os::fd::{AsFd, OwnedFd};

use super::namespace_child::SetupError;
use crate::sys::namespace::{self, NamespaceKind};
use crate::sys::netlink::{LinkSetting, Netlink, NetlinkError, Veth};
use crate::sys::os_error::OsError;
use crate::sys::packet_socket;
use crate::sys::sysctl::{self, Ipv6Setting};

/// The address of the interface.
pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// The address of the far end.
pub const FAR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

/// The far end's name, in its own namespace.
const FAR_NAME: &str = "far0";

/// So that only the interface's own MTU limits what it sends.
const FAR_MTU: u32 = 65535;

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    /// No second namespace, or no way back from it.
    #[error("cannot make a namespace for the far end of a veth pair")]
    Namespace(#[source] OsError),
    /// The kernel refuses the pair, or a setting of it.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It is not where it was put.
    #[error("the far end of the veth pair disappeared")]
    Disappeared,
    /// No packet socket.
    #[error("cannot open a packet socket")]
    Socket(#[source] OsError),
}

/// Makes the interface `name` in the network namespace of `netlink`, which must be this thread's own; the socket that
/// is returned yields and takes its packets.
///
/// # Errors
/// See [`VethError`]; nothing is left then. Not to come back from the second namespace is [`SetupError::Disappeared`].
pub fn make(netlink: &mut Netlink, name: &str) -> Result<Result<OwnedFd, VethError>, SetupError> {
    let target = match namespace::own(NamespaceKind::Network) {
        Ok(target) => target,
        Err(_no_proc) => return Ok(Err(VethError::Disappeared)),
    };
    if let Err(source) = namespace::unshare(&[NamespaceKind::Network]) {
        return Ok(Err(VethError::Namespace(source)));
    }
    let made = from_far_end(netlink, name);
    // Whatever comes next is for the target; doing it elsewhere would be worse than doing nothing.
    namespace::join(target.as_fd(), NamespaceKind::Network).map_err(|_lost| SetupError::Disappeared)?;
    Ok(made)
}

/// Called in the far end's namespace.
fn from_far_end(netlink: &mut Netlink, name: &str) -> Result<OwnedFd, VethError> {
    let here = namespace::own(NamespaceKind::Network).map_err(|_no_proc| VethError::Disappeared)?;
    let pair =
        Veth { name, address: MAC, far_name: FAR_NAME, far_address: FAR_MAC, far_namespace: here.as_fd() };
    netlink.add_veth(&pair)?;
    let mut far = Netlink::open()?;
    let index = far.link_named(FAR_NAME)?.ok_or(VethError::Disappeared)?.index;
    // So that this end says nothing of its own. Where the file cannot be written it says a little.
    let _a_little_noise = sysctl::set_ipv6(FAR_NAME, Ipv6Setting::Disable);
    let _no_link_local = far.set_link(index, LinkSetting::NoGeneratedAddress);
    far.set_link(index, LinkSetting::Mtu(FAR_MTU))?;
    far.set_link(index, LinkSetting::NoArp)?;
    far.set_link(index, LinkSetting::Up(true))?;
    let socket = packet_socket::open(index).map_err(VethError::Socket)?;
    let near = netlink.link_named(name)?.ok_or(VethError::Disappeared)?.index;
    netlink.set_link(near, LinkSetting::NoArp)?;
    Ok(socket)
}
