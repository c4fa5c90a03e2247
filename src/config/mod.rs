//! Configuration as plain data: the file a user wrote, and what can be asked of a running device. (vocabulary)
//!
//! [`Config::parse`] takes the bytes of a `wg-quick(8)` file unchanged, [`Config::parse_setconf`] those of the
//! stricter `wg setconf` format. Reading files is not done here: `driver::config_file` finds and reads them.

pub mod device;
pub mod emit;
pub mod endpoint;
pub mod error;
pub mod literal;
pub mod parse;
pub mod plan;
pub mod publish;
pub mod sync;
pub mod value;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

pub use endpoint::EndpointName;
pub use error::{ConfigError, Problem};
pub use plan::{HostResolvers, NetworkChange, NetworkPlan};

use crate::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// One configuration file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What errors and warnings call the file.
    pub name: String,
    /// The `[Interface]` section.
    pub interface: InterfaceConfig,
    /// The `[Peer]` sections in the file's order; public keys are distinct, and so are all allowed IPs.
    pub peers: Vec<PeerConfig>,
    /// What was accepted but will not do what the file seems to ask for.
    pub warnings: Vec<Warning>,
}

/// The `[Interface]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The device's secret. In a parsed `wg-quick(8)` file either this or `private_key_file` is there;
    /// `driver::config_file` reads the file, so that whoever loads a configuration from it finds the key here.
    pub private_key: Option<PrivateKey>,
    /// `PrivateKeyFile`: where the secret lies, relative to the configuration file.
    pub private_key_file: Option<PathBuf>,
    /// UDP port; absent or 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// Mark of outer datagrams; 0 when the file says `off`.
    pub fwmark: Option<u32>,
    /// `Address`: addresses of the interface, host bits kept.
    pub addresses: Vec<IpNet>,
    /// `DNS`: servers.
    pub dns: Vec<IpAddr>,
    /// `DNS`: whatever is not an address is a search domain.
    pub dns_search: Vec<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Whether allowed IPs become routes.
    pub table: Table,
}

/// `Table`: where routes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table of the target.
    #[default]
    Auto,
    /// No routes are made.
    Off,
    /// The file names a table. The target's tables are its own, so routes go to its main table; a warning says so.
    Number(u32),
}

/// One `[Peer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Who the peer is.
    pub public_key: PublicKey,
    /// The optional symmetric secret.
    pub preshared_key: Option<PresharedKey>,
    /// The file says zeros: there is to be none, even where what it does not say stays.
    pub no_preshared_key: bool,
    /// `PresharedKeyFile`: where that secret lies, relative to the configuration file.
    pub preshared_key_file: Option<PathBuf>,
    /// Where the peer is reached first.
    pub endpoint: Option<EndpointName>,
    /// Prefixes routed to the peer, host bits masked.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds; 0 when the file says `off`.
    pub persistent_keepalive: Option<u16>,
}

impl PeerConfig {
    /// A peer of which only the key is known.
    #[must_use]
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            no_preshared_key: false,
            preshared_key_file: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
        }
    }

    fn to_update(&self) -> PeerUpdate {
        PeerUpdate {
            preshared_key: Some(self.preshared_key.clone()),
            endpoint: self.endpoint.as_ref().and_then(EndpointName::address),
            persistent_keepalive: Some(self.persistent_keepalive.unwrap_or(0)),
            replace_allowed_ips: true,
            allowed_ips: self.allowed_ips.iter().copied().map(AllowedIpChange::Add).collect(),
            ..PeerUpdate::new(self.public_key)
        }
    }
}

/// Something accepted that the user should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Counted from 1; absent when the whole file is meant.
    pub line: Option<usize>,
    /// One clause, without the file's name.
    pub text: String,
    /// Others than the owner may read a key.
    pub exposes_key: bool,
}

impl Config {
    fn warning_line(&self, warning: &Warning) -> String {
        match warning.line {
            Some(line) => format!("`{}`:{line}: {}", self.name, warning.text),
            None => format!("`{}`: {}", self.name, warning.text),
        }
    }

    /// The first warning that others may read a key, as it is printed.
    #[must_use]
    pub fn exposure(&self) -> Option<String> {
        self.warnings.iter().find(|warning| warning.exposes_key).map(|warning| self.warning_line(warning))
    }

    /// The warnings as they are printed: `` `wg0.conf`:7: `PostUp` is never executed ``.
    pub fn warning_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.warnings.iter().map(|warning| self.warning_line(warning))
    }

    /// What the device becomes by this file: its peers replace all others.
    ///
    /// Endpoints that are names are left out; the broker resolves them. So is the firewall mark, which takes
    /// privileges over the host's network that a rootless tunnel lacks; parsing has warned of it.
    #[must_use]
    pub fn to_update(&self) -> DeviceUpdate {
        DeviceUpdate {
            private_key: self.interface.private_key.clone().map(Some),
            listen_port: self.interface.listen_port,
            fwmark: None,
            replace_peers: true,
            peers: self.peers.iter().map(PeerConfig::to_update).collect(),
        }
    }

    /// What the device becomes by `setconf`: what the file does not say is reset.
    #[must_use]
    pub fn to_setconf_update(&self) -> DeviceUpdate {
        DeviceUpdate {
            private_key: Some(self.interface.private_key.clone()),
            listen_port: Some(self.interface.listen_port.unwrap_or(0)),
            fwmark: Some(self.interface.fwmark.unwrap_or(0)),
            ..self.to_update()
        }
    }

    /// What the device becomes by `addconf`: what the file does not say stays.
    #[must_use]
    pub fn to_addconf_update(&self) -> DeviceUpdate {
        DeviceUpdate {
            fwmark: self.interface.fwmark,
            replace_peers: false,
            peers: (self.peers.iter())
                .map(|peer| PeerUpdate {
                    preshared_key: (peer.preshared_key.is_some() || peer.no_preshared_key)
                        .then(|| peer.preshared_key.clone()),
                    persistent_keepalive: peer.persistent_keepalive,
                    ..peer.to_update()
                })
                .collect(),
            ..self.to_update()
        }
    }

    /// Addresses, routes and MTU of the link. Routes follow the allowed IPs unless `Table = off`; a `/0` stays one.
    #[must_use]
    pub fn network_plan(&self) -> NetworkPlan {
        let routes = match self.interface.table {
            Table::Off => Vec::new(),
            Table::Auto | Table::Number(_) => {
                let mut routes: Vec<_> =
                    self.peers.iter().flat_map(|peer| peer.allowed_ips.clone()).collect();
                routes.sort_unstable();
                routes
            }
        };
        NetworkPlan {
            addresses: self.interface.addresses.clone(),
            routes,
            catch_all: false,
            shared: false,
            local: Vec::new(),
            refused: Vec::new(),
            host_resolvers: HostResolvers::default(),
            mtu: self.interface.mtu,
        }
    }

    /// Endpoints that are names, for the broker.
    #[must_use]
    pub fn endpoint_names(&self) -> Vec<(PublicKey, EndpointName)> {
        let named = |endpoint: &EndpointName| endpoint.address().is_none();
        let name = |peer: &PeerConfig| Some((peer.public_key, peer.endpoint.clone().filter(named)?));
        self.peers.iter().filter_map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn config(interface: &str, peer: &str) -> Config {
        let text =
            format!("[Interface]\nPrivateKey = {PRIVATE}\n{interface}\n[Peer]\nPublicKey = {PEER}\n{peer}\n");
        Config::parse(text, "wg0.conf").unwrap()
    }

    #[test]
    fn routes_follow_allowed_ips_and_a_default_route_stays_one() {
        let config = config("Address = 10.2.0.2/32\nMTU = 1400", "AllowedIPs = ::/0, 0.0.0.0/0, 10.1.2.3/8");
        let plan = config.network_plan();
        assert_eq!(plan.addresses, ["10.2.0.2/32".parse().unwrap()]);
        assert_eq!(plan.routes, ["0.0.0.0/0", "10.0.0.0/8", "::/0"].map(|net| net.parse().unwrap()));
        assert_eq!(plan.mtu, Some(1400));
    }

    #[test]
    fn table_off_makes_no_routes() {
        assert!(config("Table = off", "AllowedIPs = 0.0.0.0/0").network_plan().routes.is_empty());
    }

    #[test]
    fn the_update_leaves_names_and_the_mark_to_others() {
        let config = config("FwMark = 7", "Endpoint = vpn.example:51820");
        let update = config.to_update();
        assert_eq!((update.fwmark, update.peers[0].endpoint), (None, None));
        assert!(update.replace_peers && update.peers[0].replace_allowed_ips);
        let names: Vec<_> = config.endpoint_names().into_iter().map(|(_, name)| name.to_string()).collect();
        assert_eq!(names, ["vpn.example:51820"]);
    }

    #[test]
    fn addconf_turns_off_what_the_file_turns_off_and_nothing_else() {
        let parse = |text: &str| Config::parse_setconf(text, "x").unwrap().to_addconf_update();
        let zero = format!("{}=", "A".repeat(43));
        for off in ["off", "0"] {
            let update = parse(&format!(
                "[Interface]\nFwMark = {off}\n[Peer]\nPublicKey = {PEER}\nPresharedKey = {zero}\n\
                 PersistentKeepalive = {off}\n"
            ));
            assert_eq!((update.fwmark, update.peers[0].persistent_keepalive), (Some(0), Some(0)));
            assert_eq!(update.peers[0].preshared_key, Some(None));
        }
        let update = parse(&format!("[Peer]\nPublicKey = {PEER}\n"));
        assert_eq!((update.fwmark, update.peers[0].persistent_keepalive), (None, None));
        assert_eq!(update.peers[0].preshared_key, None);
    }

    #[test]
    fn setconf_resets_what_the_file_does_not_say() {
        let text = format!("[Peer]\nPublicKey = {PEER}\n");
        let config = Config::parse_setconf(text, "x").unwrap();
        let update = config.to_setconf_update();
        assert_eq!((update.private_key, update.listen_port, update.fwmark), (Some(None), Some(0), Some(0)));
        let update = config.to_addconf_update();
        assert_eq!((update.private_key, update.listen_port, update.fwmark), (None, None, None));
        assert!(!update.replace_peers);
    }
}
