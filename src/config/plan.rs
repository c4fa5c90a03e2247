//! What the link of a tunnel should carry. (vocabulary)

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::EndpointName;
use crate::key::PublicKey;

/// What another configuration changes beside the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkChange {
    /// What the link shall carry.
    pub plan: NetworkPlan,
    /// All endpoints that are names, to be resolved by the tunnel from now on.
    pub endpoint_names: Vec<(PublicKey, EndpointName)>,
}

/// Name servers of the host that an engine tells the programs inside of. Others may have those addresses at the far end
/// of the tunnel, so what is asked of port 53 there, and nothing else, stays inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostResolvers {
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// Somebody answers in their place; else questions are refused at once.
    pub answered: bool,
}

/// What the link should carry: computed from a configuration, diffed against the kernel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Addresses of the interface with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Destinations routed to the interface.
    pub routes: Vec<IpNet>,
    /// Route everything else to the interface as well: what no allowed IP holds is then refused there, with an ICMP
    /// answer and a place in the report, and not by a kernel that tells nobody. For namespaces that have no other way
    /// out.
    #[serde(default)]
    pub catch_all: bool,
    /// Somebody else configures the interface after us, as for one of another kind: with an address, a default route and
    /// a large MTU. Default routes are made in a table of their own then, which wins, and every route carries the MTU.
    #[serde(default)]
    pub shared: bool,
    /// Addresses that must be the namespace's own besides, because somebody outside dials them or programs ask there;
    /// never the first choice for a source.
    #[serde(default)]
    pub local: Vec<IpAddr>,
    /// Addresses that are answered with "no route to host" inside, at once: names for the host, which is not behind the
    /// tunnel and must not be asked for there.
    #[serde(default)]
    pub refused: Vec<IpAddr>,
    /// Name servers of the host, of which programs inside know: questions to them stay inside.
    #[serde(default)]
    pub host_resolvers: HostResolvers,
    /// Bytes; absent leaves it alone.
    pub mtu: Option<u32>,
}
