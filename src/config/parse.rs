//! The text of a `wg-quick(8)` or `setconf` file becomes a [`Config`]. (vocabulary: no IO)
//!
//! # Theory of operation
//! As `wg(8)` does, a line ends at `#`, names of sections and keys ignore case, and blanks mean nothing around and
//! inside values. One pass collects the sections; what can only be judged in sight of the whole file (missing keys,
//! one prefix given to two peers) comes after it. The first mistake ends the parse: a file that is half understood
//! must not become a tunnel.

use std::collections::HashMap;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::error::{KeyHint, nearest};
use crate::config::literal::{Literal, holds_a_key};
use crate::config::value::{parse_fwmark, parse_keepalive, parse_number, parse_port, parse_prefix};
use crate::config::{Config, ConfigError, InterfaceConfig, PeerConfig, Problem, Table, Warning};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// IPv4 hosts must accept datagrams of this size (RFC 791 §3.1); below it nothing useful fits.
const MIN_MTU: u32 = 576;
/// An IPv4 packet's length field ends here.
const MAX_MTU: u32 = 65535;

const SECTIONS: &[&str] = &["Interface", "Peer"];
const INTERFACE_KEYS: &[&str] = &["PrivateKey", "ListenPort", "FwMark"];
const QUICK_KEYS: &[&str] = &[
    "Address",
    "DNS",
    "MTU",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
    "PrivateKeyFile",
];
const PEER_KEYS: &[&str] = &["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];
const QUICK_PEER_KEYS: &[&str] = &["PresharedKeyFile"];

impl Config {
    /// Parses a `wg-quick(8)` file; `name` is what errors call it.
    ///
    /// # Errors
    /// The first mistake, with its line and key; secrets are not quoted.
    pub fn parse(text: impl AsRef<[u8]>, name: &str) -> Result<Self, ConfigError> {
        Parser::new(Format::Quick)
            .parse(text.as_ref())
            .map(|config| config.named(name))
            .map_err(|place| place.named(name))
    }

    /// Parses what `wg setconf` takes: only the keys of the device, none of the link.
    ///
    /// # Errors
    /// The first mistake, with its line and key; secrets are not quoted.
    pub fn parse_setconf(text: impl AsRef<[u8]>, name: &str) -> Result<Self, ConfigError> {
        Parser::new(Format::Setconf)
            .parse(text.as_ref())
            .map(|config| config.named(name))
            .map_err(|place| place.named(name))
    }

    fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}

/// Which keys are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Quick,
    Setconf,
}

/// A mistake and its line, before the file's name is known.
struct Misplaced {
    line: Option<usize>,
    problem: Problem,
}

impl Misplaced {
    fn named(self, name: &str) -> ConfigError {
        ConfigError { file: name.to_owned(), line: self.line, problem: self.problem }
    }
}

enum Section {
    None,
    Interface,
    Peer,
}

/// A `[Peer]` being read.
struct PeerDraft {
    line: usize,
    public_key: Option<(PublicKey, usize)>,
    config: PeerConfig,
    /// With the line each was written on.
    allowed_ips: Vec<(IpNet, usize)>,
}

struct Parser {
    format: Format,
    section: Section,
    interface: InterfaceConfig,
    interface_line: Option<usize>,
    peers: Vec<PeerDraft>,
    warnings: Vec<Warning>,
    /// Keys that were warned of: each once.
    warned: Vec<&'static str>,
}

impl Parser {
    fn new(format: Format) -> Self {
        Self {
            format,
            section: Section::None,
            interface: InterfaceConfig::default(),
            interface_line: None,
            peers: Vec::new(),
            warnings: Vec::new(),
            warned: Vec::new(),
        }
    }

    fn parse(mut self, bytes: &[u8]) -> Result<Config, Misplaced> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut empty = true;
        for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let at = |problem| Misplaced { line: Some(line), problem };
            // What stands in a comment may be in any encoding.
            let bytes = bytes.split(|byte| *byte == b'#').next().unwrap_or_default();
            let text = str::from_utf8(bytes).map_err(|_| at(Problem::NotText))?.trim();
            if text.is_empty() {
                continue;
            }
            empty = false;
            self.handle_line(text, line).map_err(at)?;
        }
        if empty {
            return Err(Misplaced { line: None, problem: Problem::Empty });
        }
        self.finish()
    }

    fn handle_line(&mut self, text: &str, line: usize) -> Result<(), Problem> {
        if text.starts_with('[') {
            return self.open_section(text, line);
        }
        let (key, value) = text.split_once('=').ok_or(Problem::NotAnAssignment)?;
        let (key, value) = (key.trim(), value.trim());
        // The padding of a key on a line of its own is not an assignment.
        if key.is_empty() || (value.is_empty() && holds_a_key(key)) {
            return Err(Problem::NotAnAssignment);
        }
        match self.section {
            Section::None => Err(Problem::OutsideSection { key: Literal::new(key) }),
            Section::Interface => self.handle_interface_key(key, value, line),
            Section::Peer => self.handle_peer_key(key, value, line),
        }
    }

    fn open_section(&mut self, text: &str, line: usize) -> Result<(), Problem> {
        let name = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).map(str::trim);
        match name {
            Some(name) if name.eq_ignore_ascii_case("Interface") => {
                if let Some(first) = self.interface_line {
                    return Err(Problem::SecondInterface { first });
                }
                self.interface_line = Some(line);
                self.section = Section::Interface;
            }
            Some(name) if name.eq_ignore_ascii_case("Peer") => {
                self.peers.push(PeerDraft {
                    line,
                    public_key: None,
                    config: PeerConfig::new(PublicKey::from_bytes([0; 32])),
                    allowed_ips: Vec::new(),
                });
                self.section = Section::Peer;
            }
            name => {
                let nearest = nearest(name.unwrap_or(text).trim_matches(['[', ']']), SECTIONS);
                return Err(Problem::UnknownSection { found: Literal::new(text), nearest });
            }
        }
        Ok(())
    }

    fn handle_interface_key(&mut self, key: &str, value: &str, line: usize) -> Result<(), Problem> {
        let known = (INTERFACE_KEYS.iter())
            .chain(QUICK_KEYS.iter().filter(|_| self.format == Format::Quick))
            .copied()
            .find(|known| known.eq_ignore_ascii_case(key));
        let Some(key) = known else { return Err(self.unknown_key(key, "Interface")) };
        let invalid = |expected| Problem::Value { key, value: Literal::new(value), expected };
        match key {
            "PrivateKey" => {
                let secret =
                    PrivateKey::parse_base64(&compact(value)).map_err(|error| Problem::Key { key, error })?;
                if is_zero_base64(&compact(value)) {
                    return Err(Problem::ZeroKey { key });
                }
                self.interface.private_key = Some(secret);
            }
            "PrivateKeyFile" => self.interface.private_key_file = Some(path(key, value)?),
            "ListenPort" => {
                let port = parse_port(value).ok_or_else(|| invalid("a port from 0 to 65535"))?;
                self.interface.listen_port = Some(port);
            }
            "FwMark" => {
                let mark = parse_fwmark(value)
                    .ok_or_else(|| invalid("`off` or a 32-bit number, decimal or behind `0x`"))?;
                self.interface.fwmark = Some(mark);
                if mark != 0 && self.format == Format::Quick {
                    self.warn_once(key, line, "is not set: it takes privileges over the host's network");
                }
            }
            "Address" => {
                for item in items(value) {
                    let prefix = parse_prefix(item);
                    let prefix = prefix.ok_or_else(|| Problem::Prefix { key, value: Literal::new(item) })?;
                    if !self.interface.addresses.contains(&prefix) {
                        self.interface.addresses.push(prefix);
                    }
                }
            }
            "DNS" => {
                for item in items(value) {
                    self.add_dns(item).ok_or_else(|| Problem::Value {
                        key,
                        value: Literal::new(item),
                        expected: "an address or a search domain",
                    })?;
                }
            }
            "MTU" => {
                let mtu = parse_number(value).filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu));
                self.interface.mtu = Some(mtu.ok_or_else(|| invalid("a number of bytes from 576 to 65535"))?);
            }
            "Table" => {
                self.interface.table = parse_table(value)
                    .ok_or_else(|| invalid("`auto`, `off`, `main` or the number of a routing table"))?;
                if matches!(self.interface.table, Table::Number(_)) {
                    self.warn_once(key, line, "is not used: routes go to the target's own main table");
                }
            }
            "SaveConfig" => self.warn_once(key, line, "is ignored: the file is never written"),
            "PreUp" | "PostUp" | "PreDown" | "PostDown" => self.warn_once(key, line, "is never executed"),
            _ => unreachable!("every key of the two tables has its arm"),
        }
        Ok(())
    }

    fn add_dns(&mut self, item: &str) -> Option<()> {
        if let Ok(server) = item.parse() {
            if !self.interface.dns.contains(&server) {
                self.interface.dns.push(server);
            }
            return Some(());
        }
        let body = item.strip_suffix('.').unwrap_or(item);
        let label = |label: &str| {
            !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        };
        // A name whose last label is a number can only be an address with a slip in it.
        let numeric = body.rsplit('.').next()?.bytes().all(|byte| byte.is_ascii_digit());
        let domain = body.len() <= 253 && !numeric && body.split('.').all(label);
        domain.then(|| self.interface.dns_search.push(item.to_owned()))
    }

    fn handle_peer_key(&mut self, key: &str, value: &str, line: usize) -> Result<(), Problem> {
        let known = (PEER_KEYS.iter())
            .chain(QUICK_PEER_KEYS.iter().filter(|_| self.format == Format::Quick))
            .copied()
            .find(|known| known.eq_ignore_ascii_case(key));
        let Some(key) = known else { return Err(self.unknown_key(key, "Peer")) };
        let peer = self.peers.last_mut().expect("the section is Peer only after a peer was pushed");
        match key {
            "PublicKey" => {
                let public =
                    PublicKey::parse_base64(&compact(value)).map_err(|error| Problem::Key { key, error })?;
                if public.as_bytes() == &[0; 32] {
                    return Err(Problem::ZeroKey { key });
                }
                peer.public_key = Some((public, line));
            }
            "PresharedKey" => {
                let secret = PresharedKey::parse_base64(&compact(value))
                    .map_err(|error| Problem::Key { key, error })?;
                // Zeros mean "none" to `wg`, and `showconf` of some tools writes them.
                peer.config.no_preshared_key = secret.as_bytes() == &[0; 32];
                peer.config.preshared_key = Some(secret).filter(|_| !peer.config.no_preshared_key);
            }
            "PresharedKeyFile" => peer.config.preshared_key_file = Some(path(key, value)?),
            "AllowedIPs" => {
                for item in items(value) {
                    let prefix = parse_prefix(item);
                    let prefix = prefix.ok_or_else(|| Problem::Prefix { key, value: Literal::new(item) })?;
                    peer.allowed_ips.push((prefix.trunc(), line));
                }
            }
            "Endpoint" => {
                let value = compact(value);
                let endpoint = value.parse();
                peer.config.endpoint =
                    Some(endpoint.map_err(|error| Problem::Endpoint { value: Literal::new(&value), error })?);
            }
            "PersistentKeepalive" => {
                let seconds = parse_keepalive(value).ok_or_else(|| Problem::Value {
                    key,
                    value: Literal::new(value),
                    expected: "`off` or a number of seconds from 0 to 65535",
                })?;
                peer.config.persistent_keepalive = Some(seconds);
            }
            _ => unreachable!("every key of the two tables has its arm"),
        }
        Ok(())
    }

    fn unknown_key(&self, key: &str, section: &'static str) -> Problem {
        let quick_only =
            [QUICK_KEYS, QUICK_PEER_KEYS].concat().iter().any(|known| known.eq_ignore_ascii_case(key));
        let is = |keys: &[&str]| keys.iter().any(|known| known.eq_ignore_ascii_case(key));
        let here = match section {
            "Interface" => [INTERFACE_KEYS, QUICK_KEYS].concat(),
            _ => [PEER_KEYS, QUICK_PEER_KEYS].concat(),
        };
        let hint = if self.format == Format::Setconf && quick_only {
            KeyHint::QuickOnly
        } else if section == "Peer" && (is(INTERFACE_KEYS) || is(QUICK_KEYS)) {
            KeyHint::BelongsIn("Interface")
        } else if section == "Interface" && (is(PEER_KEYS) || is(QUICK_PEER_KEYS)) {
            KeyHint::BelongsIn("Peer")
        } else {
            nearest(key, &here).map_or(KeyHint::None, KeyHint::Nearest)
        };
        Problem::UnknownKey { key: Literal::new(key), section, hint }
    }

    fn warn_once(&mut self, key: &'static str, line: usize, text: &str) {
        if !self.warned.contains(&key) {
            self.warned.push(key);
            self.warnings.push(Warning {
                line: Some(line),
                text: format!("`{key}` {text}"),
                exposes_key: false,
            });
        }
    }

    fn finish(mut self) -> Result<Config, Misplaced> {
        let whole = |problem| Misplaced { line: None, problem };
        if self.format == Format::Quick {
            let line = self.interface_line.ok_or_else(|| whole(Problem::NoInterface))?;
            let at = |problem| Misplaced { line: Some(line), problem };
            match (&self.interface.private_key, &self.interface.private_key_file) {
                (None, None) => return Err(at(Problem::MissingKey { key: "PrivateKey" })),
                (Some(_), Some(_)) => return Err(at(Problem::KeyAndFile { key: "PrivateKey" })),
                (Some(_), None) | (None, Some(_)) => {}
            }
        }
        let own = self.interface.private_key.as_ref().map(PrivateKey::public_key);
        let drafts = std::mem::take(&mut self.peers);
        let mut peers: Vec<PeerConfig> = Vec::with_capacity(drafts.len());
        let mut index: HashMap<PublicKey, usize> = HashMap::new();
        let mut owners: HashMap<IpNet, usize> = HashMap::new();
        for draft in drafts {
            let at = |line, problem| Misplaced { line: Some(line), problem };
            let (public_key, line) =
                draft.public_key.ok_or_else(|| at(draft.line, Problem::MissingPublicKey))?;
            if own == Some(public_key) {
                return Err(at(line, Problem::OwnKey));
            }
            if draft.config.preshared_key.is_some() && draft.config.preshared_key_file.is_some() {
                return Err(at(draft.line, Problem::KeyAndFile { key: "PresharedKey" }));
            }
            let config = PeerConfig { public_key, ..draft.config };
            let slot = match index.get(&public_key) {
                Some(&slot) => {
                    let text =
                        "this peer was configured before; the later section replaces the earlier".to_owned();
                    self.warnings.push(Warning { line: Some(draft.line), text, exposes_key: false });
                    owners.retain(|_, owner| *owner != slot);
                    peers[slot] = config;
                    slot
                }
                None => {
                    index.insert(public_key, peers.len());
                    peers.push(config);
                    peers.len() - 1
                }
            };
            for (prefix, line) in draft.allowed_ips {
                match owners.insert(prefix, slot) {
                    None => peers[slot].allowed_ips.push(prefix),
                    Some(before) if before == slot => {}
                    Some(before) => {
                        peers[before].allowed_ips.retain(|other| *other != prefix);
                        peers[slot].allowed_ips.push(prefix);
                        let text = format!(
                            "`AllowedIPs`: `{prefix}` was another peer's before; the last one gets it"
                        );
                        self.warnings.push(Warning { line: Some(line), text, exposes_key: false });
                    }
                }
            }
        }
        Ok(Config { name: String::new(), interface: self.interface, peers, warnings: self.warnings })
    }
}

/// `wg` ignores blanks inside a value.
fn compact(value: &str) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(value.chars().filter(|c| !c.is_whitespace()).collect())
}

/// The items of a list: commas and blanks separate, empty ones do not count.
fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty())
}

fn is_zero_base64(text: &str) -> bool {
    text.bytes().take(43).all(|byte| byte == b'A')
}

fn path(key: &'static str, value: &str) -> Result<PathBuf, Problem> {
    let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    // The key itself where its file belongs: it must not come back as the path that cannot be opened.
    let is_key = (40..=45).contains(&unquoted.len()) && !unquoted.starts_with('/') && holds_a_key(unquoted);
    if unquoted.is_empty() || unquoted.contains('\0') || is_key {
        return Err(Problem::Value { key, value: Literal::new(value), expected: "the path of a file" });
    }
    Ok(PathBuf::from(unquoted))
}

fn parse_table(value: &str) -> Option<Table> {
    match value.to_ascii_lowercase().as_str() {
        "auto" | "main" | "254" => Some(Table::Auto),
        "off" => Some(Table::Off),
        "default" => Some(Table::Number(253)),
        "local" => Some(Table::Number(255)),
        number => parse_fwmark(number).filter(|number| *number != 0).map(Table::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EndpointName;

    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
    const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn error(text: &str) -> String {
        Config::parse(text, "wg0.conf").unwrap_err().to_string()
    }

    fn hint(text: &str) -> Option<String> {
        Config::parse(text, "wg0.conf").unwrap_err().hint().map(Into::into)
    }

    /// A file whose third line is `line` within `[Interface]`.
    fn interface(line: &str) -> String {
        format!("[Interface]\nPrivateKey = {PRIVATE}\n{line}\n")
    }

    /// A file whose fifth line is `line` within `[Peer]`.
    fn peer(line: &str) -> String {
        format!("[Interface]\nPrivateKey = {PRIVATE}\n[Peer]\nPublicKey = {PEER}\n{line}\n")
    }

    #[test]
    fn a_comment_may_be_in_any_encoding() {
        let text = [interface("MTU = 1400 # ").as_bytes(), b"# B\xfcro\n"].concat();
        let config = Config::parse(&text, "wg0.conf").unwrap();
        assert_eq!(config.interface.mtu, Some(1400));
        let text = [interface("DNS = ").trim_end().as_bytes(), b" b\xfcro.example\n"].concat();
        assert!(Config::parse(&text, "wg0.conf").is_err(), "a value may not");
    }

    #[test]
    fn a_provider_file_works_unchanged() {
        let text = format!(
            "\u{feff}# my provider\r\n[interface]\r\n\tprivatekey={PRIVATE} # secret\r\nADDRESS = 10.2.0.2/32, fd00::2/128\r\n\
             Address=10.3.0.1/24\r\nDNS = 10.2.0.1, fd00::1 corp.example\r\nMTU = 1380\r\nListenPort=51821\r\n\r\n\
             [PEER]\r\nPublicKey = {PEER}\r\nPresharedKey={OTHER}\r\nAllowedIPs = 0.0.0.0/0, ::/0\r\nAllowedIPs=10.1.2.3/16\r\n\
             Endpoint = [2607:5300:60:6b0::c05f:543]:2468\r\nPersistentKeepalive = 25\r\n\
             [Peer]\r\nPublicKey = {OTHER}\r\nEndpoint = vpn.example.com : 51820\r\nPersistentKeepalive = off\r\nAllowedIPs =\r\n"
        );
        let config = Config::parse(text, "wg0.conf").unwrap();
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        assert_eq!(config.interface.private_key, Some(PrivateKey::parse_base64(PRIVATE).unwrap()));
        assert_eq!(config.interface.addresses, nets(&["10.2.0.2/32", "fd00::2/128", "10.3.0.1/24"]));
        assert_eq!(
            config.interface.dns,
            ["10.2.0.1", "fd00::1"].map(|dns| dns.parse::<std::net::IpAddr>().unwrap())
        );
        assert_eq!(config.interface.dns_search, ["corp.example"]);
        assert_eq!((config.interface.mtu, config.interface.listen_port), (Some(1380), Some(51821)));
        let [first, second] = config.peers.as_slice() else { panic!("{config:?}") };
        assert_eq!(first.allowed_ips, nets(&["0.0.0.0/0", "::/0", "10.1.0.0/16"]));
        assert_eq!(first.persistent_keepalive, Some(25));
        assert!(first.preshared_key.is_some());
        assert_eq!(second.endpoint, Some(EndpointName::Name { host: "vpn.example.com".into(), port: 51820 }));
        assert_eq!((second.persistent_keepalive, second.allowed_ips.len()), (Some(0), 0));
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn hooks_are_never_executed_and_each_is_warned_of_once() {
        let text = interface(
            "PostUp = iptables -A FORWARD -i %i\nPostUp = touch /tmp/x=y\nPreDown = true\nSaveConfig = true\nFwMark = 0xca6c\nTable = 1234",
        );
        let config = Config::parse(text, "wg0.conf").unwrap();
        assert_eq!(
            config.warning_lines().collect::<Vec<_>>(),
            [
                "`wg0.conf`:3: `PostUp` is never executed",
                "`wg0.conf`:5: `PreDown` is never executed",
                "`wg0.conf`:6: `SaveConfig` is ignored: the file is never written",
                "`wg0.conf`:7: `FwMark` is not set: it takes privileges over the host's network",
                "`wg0.conf`:8: `Table` is not used: routes go to the target's own main table",
            ]
        );
        assert_eq!((config.interface.fwmark, config.interface.table), (Some(0xca6c), Table::Number(1234)));
    }

    #[test]
    fn a_prefix_of_two_peers_goes_to_the_last_and_is_warned_of() {
        let text = format!(
            "{}[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 10.0.0.9/8, 10.1.0.0/16\n",
            peer("AllowedIPs = 10.0.0.0/8, 10.0.0.0/8, 192.168.0.0/16")
        );
        let config = Config::parse(text, "wg0.conf").unwrap();
        assert_eq!(config.peers[0].allowed_ips, ["192.168.0.0/16".parse().unwrap()]);
        assert_eq!(config.peers[1].allowed_ips.len(), 2);
        assert_eq!(
            config.warning_lines().collect::<Vec<_>>(),
            ["`wg0.conf`:8: `AllowedIPs`: `10.0.0.0/8` was another peer's before; the last one gets it"]
        );
    }

    #[test]
    fn a_peer_written_twice_is_the_later_one() {
        let text = format!(
            "{}[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.9.0.0/16\n",
            peer("AllowedIPs = 10.0.0.0/8")
        );
        let config = Config::parse(text, "wg0.conf").unwrap();
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.peers[0].allowed_ips, ["10.9.0.0/16".parse().unwrap()]);
        assert_eq!(
            config.warning_lines().collect::<Vec<_>>(),
            ["`wg0.conf`:6: this peer was configured before; the later section replaces the earlier"]
        );
    }

    #[test]
    fn a_key_file_stands_in_for_the_key() {
        let text = "[Interface]\nPrivateKeyFile = \"keys/my key\"\n";
        let config = Config::parse(text, "wg0.conf").unwrap();
        assert_eq!(config.interface.private_key_file, Some("keys/my key".into()));
        assert_eq!(
            error(&interface("PrivateKeyFile = x")),
            "`wg0.conf`:1: `PrivateKey` and `PrivateKeyFile` exclude each other"
        );
    }

    #[test]
    fn files_that_are_no_configuration_are_refused_as_a_whole() {
        assert_eq!(error(""), "`wg0.conf`: the file is empty");
        assert_eq!(error("\u{feff}\n  # only a comment\n"), "`wg0.conf`: the file is empty");
        assert_eq!(
            error(&format!("[Peer]\nPublicKey = {PEER}\n")),
            "`wg0.conf`: there is no `[Interface]` section"
        );
        let error = Config::parse(b"[Interface]\nPrivateKey = \xff\xfe\n", "wg0.conf").unwrap_err();
        assert_eq!(error.to_string(), "`wg0.conf`:2: is not UTF-8 text");
    }

    #[test]
    fn sections_are_checked() {
        assert_eq!(
            error(&interface("[Interface]")),
            "`wg0.conf`:3: a second `[Interface]` section; the first is on line 1"
        );
        assert_eq!(error("[Intreface]\n"), "`wg0.conf`:1: `[Intreface]` is not a section");
        assert_eq!(hint("[Intreface]\n").unwrap(), "did you mean `[Interface]`?");
        assert_eq!(error("[Interface\n"), "`wg0.conf`:1: `[Interface` is not a section");
        assert_eq!(error("MTU = 5\n"), "`wg0.conf`:1: `MTU` stands before any section");
        assert_eq!(error("[Interface]\nMTU = 1400\n"), "`wg0.conf`:1: `PrivateKey` is missing");
        assert_eq!(error(&interface("[Peer]")), "`wg0.conf`:3: this `[Peer]` has no `PublicKey`");
    }

    #[test]
    fn unknown_keys_come_with_what_may_have_been_meant() {
        let text = peer("AlowedIPs = 10.0.0.0/8");
        assert_eq!(error(&text), "`wg0.conf`:5: `AlowedIPs` is not a key of `[Peer]`");
        assert_eq!(hint(&text).unwrap(), "did you mean `AllowedIPs`?");
        assert_eq!(
            error(&interface("Endpoint = x:1")),
            "`wg0.conf`:3: `Endpoint` is not a key of `[Interface]`"
        );
        assert_eq!(hint(&interface("Endpoint = x:1")).unwrap(), "it belongs in `[Peer]`");
        assert_eq!(hint(&peer("Address = 10.0.0.1")).unwrap(), "it belongs in `[Interface]`");
        assert_eq!(hint(&interface("Colour = blue")), None);
        assert_eq!(error(&interface("just words")), "`wg0.conf`:3: expected `Key = value`");
    }

    #[test]
    fn setconf_takes_no_keys_of_wg_quick() {
        let error = Config::parse_setconf(interface("Address = 10.0.0.1/8"), "wg0.conf").unwrap_err();
        assert_eq!(error.to_string(), "`wg0.conf`:3: `Address` is not a key of `[Interface]`");
        assert_eq!(error.hint().unwrap(), "`wg-quick strip` removes what only wg-quick(8) knows");
    }

    #[test]
    fn wrong_keys_are_never_quoted() {
        let short = &PRIVATE[1..];
        let bad = PRIVATE.replace('+', "!");
        let long = format!("{PRIVATE}AAAA");
        for (text, expected) in [
            (
                format!("[Interface]\nPrivateKey = {short}\n"),
                "2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found 43 characters",
            ),
            (
                format!("[Interface]\nPrivateKey = {long}\n"),
                "2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found 48 characters",
            ),
            (
                format!("[Interface]\nPrivateKey = {bad}\n"),
                "2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found characters that are not base64",
            ),
            (
                "[Interface]\nPrivateKey =\n".to_owned(),
                "2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found 0 characters",
            ),
            (format!("[Interface]\nPrivateKey = {ZERO}\n"), "2: `PrivateKey`: a key of zeros is no key"),
            (
                peer("PresharedKey = c2hvcnQ="),
                "5: `PresharedKey`: expected 32 bytes in base64 (44 characters), found 8 characters",
            ),
            (interface(&format!("[Peer]\nPublicKey = {ZERO}")), "4: `PublicKey`: a key of zeros is no key"),
            (interface(PRIVATE), "3: expected `Key = value`"),
            (
                interface(&format!("Address = {PRIVATE}")),
                "3: `Address`: a text of 44 characters is not an address prefix",
            ),
            (
                peer(&format!("Endpoint = {PRIVATE}")),
                "5: `Endpoint`: a text of 44 characters has no port; expected `host:port`",
            ),
        ] {
            assert_eq!(error(&text), format!("`wg0.conf`:{expected}"));
        }
    }

    #[test]
    fn the_own_key_is_no_peer() {
        let own = PrivateKey::parse_base64(PRIVATE).unwrap().public_key().to_base64();
        assert_eq!(
            error(&interface(&format!("[Peer]\nPublicKey = {own}"))),
            "`wg0.conf`:4: `PublicKey`: this is the interface's own key, not a peer's"
        );
    }

    #[test]
    fn values_out_of_range_tell_what_is_allowed() {
        for (line, expected) in [
            ("ListenPort = 65536", "`ListenPort`: `65536` is not a port from 0 to 65535"),
            ("ListenPort = -1", "`ListenPort`: `-1` is not a port from 0 to 65535"),
            ("MTU = 0", "`MTU`: `0` is not a number of bytes from 576 to 65535"),
            ("MTU = 575", "`MTU`: `575` is not a number of bytes from 576 to 65535"),
            ("MTU = 65536", "`MTU`: `65536` is not a number of bytes from 576 to 65535"),
            (
                "FwMark = 0xfffffffff",
                "`FwMark`: `0xfffffffff` is not `off` or a 32-bit number, decimal or behind `0x`",
            ),
            ("Table = blue", "`Table`: `blue` is not `auto`, `off`, `main` or the number of a routing table"),
            ("Address = 10.0.0.300/8", "`Address`: `10.0.0.300/8` is not an address prefix"),
            (
                &format!("PrivateKeyFile = {PRIVATE}"),
                "`PrivateKeyFile`: a text of 44 characters is not the path of a file",
            ),
            ("DNS = 10.0.0.300", "`DNS`: `10.0.0.300` is not an address or a search domain"),
        ] {
            assert_eq!(error(&interface(line)), format!("`wg0.conf`:3: {expected}"));
        }
        for (line, expected) in [
            ("AllowedIPs = 10.0.0.0/8, 10.0.0.0/33", "`AllowedIPs`: `10.0.0.0/33` is not an address prefix"),
            (
                "PersistentKeepalive = 65536",
                "`PersistentKeepalive`: `65536` is not `off` or a number of seconds from 0 to 65535",
            ),
            (
                "Endpoint = 1.2.3.4:0",
                "`Endpoint`: `1.2.3.4:0` has a port that is not a number from 1 to 65535",
            ),
            (
                "Endpoint = 1.2.3.4:65536",
                "`Endpoint`: `1.2.3.4:65536` has a port that is not a number from 1 to 65535",
            ),
            ("Endpoint = 1.2.3.4", "`Endpoint`: `1.2.3.4` has no port; expected `host:port`"),
            (
                "Endpoint = fd00::1:51820",
                "`Endpoint`: `fd00::1:51820` is an IPv6 address without brackets; expected `[address]:port`",
            ),
        ] {
            assert_eq!(error(&peer(line)), format!("`wg0.conf`:5: {expected}"));
        }
    }

    #[test]
    fn an_endpoint_may_carry_a_scope() {
        let config = Config::parse(peer("Endpoint = [fe80::1%eth0]:51820"), "x").unwrap();
        let name = EndpointName::Name { host: "fe80::1%eth0".to_owned(), port: 51820 };
        assert_eq!(config.endpoint_names()[0].1, name);
    }

    /// Places where a key may end up by a slip: `{}` is the key.
    const SLIPS: &[&str] = &[
        "{}",
        "{} {}",
        "[{}]",
        "{} = x",
        "PrivateKey {}",
        "PrivateKey = {}{}",
        "PrivateKey = \"{}\"",
        "Address = {}",
        "Address = 10.0.0.1, {}",
        "DNS = {}",
        "DNS = x{}",
        "MTU = {}",
        "Table = {}",
        "FwMark = 0x{}",
        "ListenPort = {}",
        "PrivateKeyFile = {}",
        "PublicKey = {}x",
        "PresharedKey = -{}",
        "AllowedIPs = {}/8",
        "Endpoint = {}",
        "Endpoint = {}:5",
        "Endpoint = [{}]:5",
        "Endpoint = x:{}",
        "PersistentKeepalive = {}",
        "Jc = {}",
        "[Peer] {}",
    ];

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\[Interface\\]|\\[Peer\\]|[A-Z][A-Za-z]{2,12} ?= ?[^\n]{0,40}|[^\n]{0,30}|\n){0,12}") {
            drop(Config::parse(&text, "x").map_err(|error| (error.to_string(), error.hint())));
            drop(Config::parse_setconf(&text, "x").map_err(|error| (error.to_string(), error.hint())));
        }

        #[test]
        fn no_error_and_no_warning_quotes_a_key(
            bytes: [u8; 32], slip in 0..SLIPS.len(), cut in 0_usize..4, in_peer: bool,
        ) {
            let key = PublicKey::from_bytes(bytes).to_base64();
            let key = &key[..key.len() - cut];
            let line = SLIPS[slip].replace("{}", key);
            let text = if in_peer { peer(&line) } else { interface(&line) };
            let said = match Config::parse(text, "wg0.conf") {
                Ok(config) => config.warning_lines().collect::<String>(),
                Err(error) => format!("{error} {:?}", error.hint()),
            };
            for start in 0..=key.len() - 12 {
                proptest::prop_assert!(!said.contains(&key[start..start + 12]), "{}: {}", line, said);
            }
        }
    }
}
