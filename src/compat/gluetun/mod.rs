//! For whoever comes from gluetun: its variables become a configuration, its ports ours. (wiring)

mod compose;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::compose::Found;
use crate::config::{Config, ConfigError};
use crate::driver::config_file;
use crate::driver::failure::{Failure, FailureClass};

/// Cloudflare's resolvers, which gluetun asks unless it is told otherwise (it speaks TLS to them).
const DEFAULT_DNS: &str = "1.1.1.1, 1.0.0.1";

/// What gluetun itself listens on: HTTP proxy, Shadowsocks, control server.
const OWN_PORTS: [&str; 3] = ["8888", "8388", "8000"];

/// A file's largest size that is read.
const MAX_FILE: u64 = 1 << 20;

/// Why a file cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum GluetunError {
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No service's image is gluetun.
    #[error("no service of the compose file has gluetun as its image")]
    NoService,
    /// OpenVPN.
    #[error("`VPN_TYPE` is `{value}`: only WireGuard can be taken over")]
    NotWireguard {
        /// Its value.
        value: String,
    },
    /// gluetun knows the servers of its providers; we do not.
    #[error("`{variable}` is not there{}", provider.as_ref().map(|name| format!(": gluetun has its own list of the servers of `{name}`")).unwrap_or_default())]
    Missing {
        /// What is wanted.
        variable: &'static str,
        /// `VPN_SERVICE_PROVIDER`, if it is one.
        provider: Option<String>,
    },
    /// The configuration cannot be kept.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no place to keep it.
    #[error("cannot find your configurations: neither `XDG_CONFIG_HOME` nor `HOME` is set")]
    NoDirectory,
    /// The variables are there, and wrong.
    #[error("the variables make no configuration")]
    Config(#[source] ConfigError),
}

impl Failure for GluetunError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                FailureClass::InUse
            }
            Self::Read { .. } | Self::Write { .. } | Self::NoDirectory => FailureClass::General,
            Self::NoService | Self::NotWireguard { .. } | Self::Missing { .. } | Self::Config(_) => {
                FailureClass::Config
            }
        }
    }
}

/// What was taken over.
#[derive(Debug)]
pub struct Takeover {
    /// A `wg-quick(8)` file with the private key.
    pub config: Zeroizing<String>,
    /// As `-p` has them.
    pub ports: Vec<String>,
    /// Services that use gluetun's network, with their images.
    pub users: Vec<(String, String)>,
    /// What gluetun does and we do otherwise, or not at all.
    pub remarks: Vec<String>,
}

/// Reads a compose file, or a file of variables; `.env` beside it and the environment are where references lead.
///
/// # Errors
/// See [`GluetunError`].
pub fn take_over(path: &Path) -> Result<Takeover, GluetunError> {
    let text = read(path).map_err(|source| GluetunError::Read { path: path.to_owned(), source })?;
    let beside = read(&path.with_file_name(".env")).map(|text| compose::lines(&text)).unwrap_or_default();
    let known = |name: &str| std::env::var(name).ok().or_else(|| beside.get(name).cloned());
    map(compose::read(&text, &known)?)
}

/// Keeps a configuration under a name; one that is there already stays as it is, and is an error.
///
/// # Errors
/// It cannot be written.
pub fn keep(name: &str, config: &str) -> Result<PathBuf, GluetunError> {
    let directory = config_file::user_directory().ok_or(GluetunError::NoDirectory)?;
    let path = directory.join(format!("{name}.conf"));
    let written = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).and_then(|()| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(config.as_bytes())
    });
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(GluetunError::Write { path, source }),
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn map(found: Found) -> Result<Takeover, GluetunError> {
    let Found { variables, ports, users } = found;
    let variables = Variables(variables);
    if let Some(other) = variables.get("VPN_TYPE").filter(|kind| *kind != "wireguard") {
        return Err(GluetunError::NotWireguard { value: other.to_owned() });
    }
    let mut remarks = Vec::new();
    let config = configuration(&variables, &mut remarks)?;
    Config::parse(config.as_str(), "gluetun's variables").map_err(GluetunError::Config)?;
    let (own, ports): (Vec<_>, Vec<_>) = ports.into_iter().partition(|port| is_own(port));
    if !own.is_empty() {
        remarks.push(format!("left out, gluetun's own: {}", own.join(", ")));
    }
    remark(&variables, &mut remarks);
    Ok(Takeover { config, ports, users, remarks })
}

fn configuration(
    variables: &Variables,
    remarks: &mut Vec<String>,
) -> Result<Zeroizing<String>, GluetunError> {
    let endpoint = variables.need("WIREGUARD_ENDPOINT_IP", &["VPN_ENDPOINT_IP"])?;
    let port = variables.need("WIREGUARD_ENDPOINT_PORT", &["VPN_ENDPOINT_PORT"])?;
    let endpoint = match endpoint.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{endpoint}:{port}"),
    };
    let dns = match variables.any(&["DNS_ADDRESS", "DNS_UPSTREAM_PLAIN_ADDRESSES"]) {
        // `1.1.1.1:53` in one of them; a loopback address is gluetun's own server.
        Some(given) if !given.starts_with("127.") => given.replace(":53", ""),
        Some(_) | None => {
            remarks.push(format!(
                "gluetun asks its name servers over TLS; here {DEFAULT_DNS}, through the tunnel"
            ));
            DEFAULT_DNS.to_owned()
        }
    };
    let mut text = Zeroizing::new(String::with_capacity(1024));
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a string takes all");
    line(format_args!("[Interface]"));
    line(format_args!("PrivateKey = {}", variables.need("WIREGUARD_PRIVATE_KEY", &[])?));
    line(format_args!("Address = {}", variables.need("WIREGUARD_ADDRESSES", &["WIREGUARD_ADDRESS"])?));
    line(format_args!("DNS = {dns}"));
    if let Some(mtu) = variables.get("WIREGUARD_MTU").filter(|mtu| *mtu != "0") {
        line(format_args!("MTU = {mtu}"));
    }
    line(format_args!("\n[Peer]"));
    line(format_args!("PublicKey = {}", variables.need("WIREGUARD_PUBLIC_KEY", &[])?));
    if let Some(key) = variables.get("WIREGUARD_PRESHARED_KEY") {
        line(format_args!("PresharedKey = {key}"));
    }
    line(format_args!(
        "AllowedIPs = {}",
        variables.get("WIREGUARD_ALLOWED_IPS").unwrap_or("0.0.0.0/0, ::/0")
    ));
    line(format_args!("Endpoint = {endpoint}"));
    if let Some(seconds) = variables.get("WIREGUARD_PERSISTENT_KEEPALIVE_INTERVAL").and_then(seconds) {
        line(format_args!("PersistentKeepalive = {seconds}"));
    }
    Ok(text)
}

fn remark(variables: &Variables, remarks: &mut Vec<String>) {
    if let Some(subnets) = variables.get("FIREWALL_OUTBOUND_SUBNETS") {
        remarks.push(format!(
            "gluetun let it reach {subnets} beside the tunnel; here name each address and port: Annotation=dev.wg4netns.reach=IP:PORT"
        ));
    }
    for (variable, what) in [
        ("HTTPPROXY", "HTTP proxy"),
        ("SHADOWSOCKS", "Shadowsocks server"),
        ("VPN_PORT_FORWARDING", "port forwarding of the provider"),
    ] {
        if variables.get(variable).is_some_and(|value| matches!(value, "on" | "true" | "yes" | "1")) {
            remarks.push(format!("not taken over: gluetun's {what} (`{variable}`)"));
        }
    }
}

/// `25s`, `1m30s`: a Go duration, in whole seconds; absent for none.
fn seconds(text: &str) -> Option<u32> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds).filter(|seconds| *seconds > 0);
    }
    let mut total: u32 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (factor, after) = match after.strip_prefix('m') {
            Some(after) => (60, after),
            None => (1, after.strip_prefix('s')?),
        };
        total = number.parse::<u32>().ok()?.checked_mul(factor)?.checked_add(total)?;
        rest = after;
    }
    Some(total).filter(|total| *total > 0)
}

fn is_own(port: &str) -> bool {
    let inside = port.split('/').next().and_then(|port| port.rsplit(':').next());
    inside.is_some_and(|inside| OWN_PORTS.contains(&inside))
}

/// gluetun's variables; an empty one counts as not there, as to gluetun.
struct Variables(BTreeMap<String, String>);

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn any(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    fn need(&self, variable: &'static str, older: &[&str]) -> Result<&str, GluetunError> {
        self.get(variable).or_else(|| self.any(older)).ok_or_else(|| GluetunError::Missing {
            variable,
            provider: self
                .get("VPN_SERVICE_PROVIDER")
                .filter(|name| *name != "custom" && variable.contains("ENDPOINT"))
                .map(str::to_owned),
        })
    }
}

impl Drop for Variables {
    fn drop(&mut self) {
        self.0.values_mut().for_each(zeroize::Zeroize::zeroize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=";

    fn custom(more: &[(&str, &str)]) -> Found {
        let mut variables: BTreeMap<String, String> = [
            ("VPN_SERVICE_PROVIDER", "custom"),
            ("VPN_TYPE", "wireguard"),
            ("VPN_ENDPOINT_IP", "192.0.2.1"),
            ("VPN_ENDPOINT_PORT", "51820"),
            ("WIREGUARD_PUBLIC_KEY", KEY),
            ("WIREGUARD_PRIVATE_KEY", KEY),
            ("WIREGUARD_ADDRESSES", "10.64.222.21/32,fd00::2/128"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        variables.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Found { variables, ports: Vec::new(), users: Vec::new() }
    }

    #[test]
    fn the_variables_become_a_configuration() {
        let more = [
            ("WIREGUARD_MTU", "1320"),
            ("WIREGUARD_PRESHARED_KEY", KEY),
            ("WIREGUARD_PERSISTENT_KEEPALIVE_INTERVAL", "1m5s"),
            ("DNS_ADDRESS", "10.64.0.1"),
        ];
        let taken = map(custom(&more)).unwrap();
        let wanted = format!(
            "[Interface]\nPrivateKey = {KEY}\nAddress = 10.64.222.21/32,fd00::2/128\nDNS = 10.64.0.1\nMTU = 1320\n\n\
             [Peer]\nPublicKey = {KEY}\nPresharedKey = {KEY}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.1:51820\n\
             PersistentKeepalive = 65\n"
        );
        assert_eq!(taken.config.as_str(), wanted);
        assert!(taken.remarks.is_empty(), "{:?}", taken.remarks);
    }

    #[test]
    fn an_ipv6_endpoint_is_bracketed_and_the_newer_names_come_first() {
        let more = [("WIREGUARD_ENDPOINT_IP", "2001:db8::1"), ("WIREGUARD_ENDPOINT_PORT", "7")];
        assert!(map(custom(&more)).unwrap().config.contains("Endpoint = [2001:db8::1]:7\n"));
    }

    #[test]
    fn what_we_do_otherwise_is_said() {
        let mut found = custom(&[("HTTPPROXY", "on"), ("FIREWALL_OUTBOUND_SUBNETS", "192.168.1.0/24")]);
        found.ports = vec!["8888:8888/tcp".into(), "8080:8080".into()];
        let taken = map(found).unwrap();
        assert_eq!(taken.ports, ["8080:8080"]);
        let remarks = taken.remarks.join("\n");
        for part in ["over TLS", "8888:8888/tcp", "192.168.1.0/24", "HTTP proxy"] {
            assert!(remarks.contains(part), "{part} is not in {remarks}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_no_key_is_ever_quoted() {
        let mut found = custom(&[("VPN_SERVICE_PROVIDER", "mullvad")]);
        found.variables.remove("VPN_ENDPOINT_IP");
        let error = map(found).unwrap_err().to_string();
        assert_eq!(
            error,
            "`WIREGUARD_ENDPOINT_IP` is not there: gluetun has its own list of the servers of `mullvad`"
        );
        let error = map(custom(&[("VPN_TYPE", "openvpn")])).unwrap_err();
        assert!(matches!(error, GluetunError::NotWireguard { .. }));
        let error = map(custom(&[("WIREGUARD_PRIVATE_KEY", "tooshortasecret")])).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(!source.contains("tooshort"), "{source}");
    }

    #[test]
    fn durations_are_gos() {
        for (text, wanted) in
            [("25s", Some(25)), ("2m", Some(120)), ("30", Some(30)), ("0s", None), ("x", None)]
        {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}
