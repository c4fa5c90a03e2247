//! `set`: the words of `wg set` become one change. (cli)
//!
//! The grammar is not one of flags but of words: `listen-port 5 peer KEY allowed-ips 10.0.0.0/8 peer OTHER remove`.
//! Reading it yields files and names still to be looked at; that is done after all of it was understood.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{WgCommandError, apply};
use crate::config::EndpointName;
use crate::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use crate::config::literal::Literal;
use crate::config::value::{parse_fwmark, parse_keepalive, parse_port, parse_prefix};
use crate::driver::config_file::read_key_text;
use crate::key::{KeyError, PresharedKey, PrivateKey, PublicKey};

/// Arguments of `set`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SetArgs {
    /// Look for the socket in this directory
    #[arg(long, value_name = "DIR")]
    uapi_dir: Option<PathBuf>,
    /// A running tunnel, or the path of its socket
    interface: String,
    /// [listen-port N] [fwmark N] [private-key FILE] [peer KEY [remove] [preshared-key FILE] [endpoint HOST:PORT]
    /// [persistent-keepalive SECS] [allowed-ips [+|-]NET,…]]…
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// `set`.
pub(super) fn set(args: &SetArgs) -> Result<u8, WgCommandError> {
    let update = parse(&args.words)?.resolve()?;
    apply(&args.interface, args.uapi_dir.as_deref(), &update)
}

/// What was typed: a change, and what it takes from elsewhere.
#[derive(Debug, Default, PartialEq, Eq)]
struct Draft {
    update: DeviceUpdate,
    private_key: Option<PathBuf>,
    /// One a peer of `update`, in its order.
    peers: Vec<PeerDraft>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct PeerDraft {
    preshared_key: Option<PathBuf>,
    endpoint: Option<EndpointName>,
}

/// Words that take a value, and `remove`, which takes none.
const WORDS: &[&str] = &[
    "listen-port",
    "fwmark",
    "private-key",
    "peer",
    "remove",
    "preshared-key",
    "endpoint",
    "persistent-keepalive",
    "allowed-ips",
];

fn parse(words: &[String]) -> Result<Draft, WgCommandError> {
    let mut draft = Draft::default();
    let mut rest = words.iter();
    while let Some(typed) = rest.next() {
        let word = WORDS.iter().copied().find(|word| *word == typed.as_str());
        let word = word.ok_or_else(|| WgCommandError::Word(Literal::new(typed)))?;
        let value = match word {
            "remove" => "",
            word => rest.next().ok_or(WgCommandError::NoValue(word))?,
        };
        draft.handle_word(word, value)?;
    }
    Ok(draft)
}

impl Draft {
    fn handle_word(&mut self, word: &'static str, value: &str) -> Result<(), WgCommandError> {
        let invalid = |expected| WgCommandError::Value { word, value: Literal::new(value), expected };
        match (word, self.update.peers.last_mut(), self.peers.last_mut()) {
            ("peer", _, _) => {
                let key = PublicKey::parse_base64(value)
                    .map_err(|error| WgCommandError::Key { place: "`peer`".to_owned(), error })?;
                self.update.peers.push(PeerUpdate::new(key));
                self.peers.push(PeerDraft::default());
            }
            ("listen-port", None, _) => {
                let port = parse_port(value).ok_or_else(|| invalid("a port from 0 to 65535"))?;
                self.update.listen_port = Some(port);
            }
            ("fwmark", None, _) => {
                let mark = parse_fwmark(value)
                    .ok_or_else(|| invalid("`off` or a 32-bit number, decimal or behind `0x`"))?;
                self.update.fwmark = Some(mark);
            }
            ("private-key", None, _) => self.private_key = Some(value.into()),
            ("listen-port" | "fwmark" | "private-key", Some(_), _) => {
                return Err(WgCommandError::Word(Literal::new(word)));
            }
            ("remove", Some(peer), _) => peer.remove = true,
            ("preshared-key", _, Some(draft)) => draft.preshared_key = Some(value.into()),
            ("endpoint", _, Some(draft)) => {
                let endpoint = value.parse();
                draft.endpoint = Some(
                    endpoint
                        .map_err(|error| WgCommandError::Endpoint { value: Literal::new(value), error })?,
                );
            }
            ("persistent-keepalive", Some(peer), _) => {
                let seconds = parse_keepalive(value)
                    .ok_or_else(|| invalid("`off` or a number of seconds from 0 to 65535"))?;
                peer.persistent_keepalive = Some(seconds);
            }
            ("allowed-ips", Some(peer), _) => handle_allowed_ips(peer, value)?,
            (word, _, _) => return Err(WgCommandError::NoPeer(word)),
        }
        Ok(())
    }

    /// Reads the files and asks the resolver.
    fn resolve(mut self) -> Result<DeviceUpdate, WgCommandError> {
        if let Some(path) = &self.private_key {
            self.update.private_key = Some(read_key(path, PrivateKey::parse_base64)?);
        }
        for (peer, draft) in self.update.peers.iter_mut().zip(&self.peers) {
            if let Some(path) = &draft.preshared_key {
                peer.preshared_key = Some(read_key(path, PresharedKey::parse_base64)?);
            }
            if let Some(endpoint) = &draft.endpoint {
                peer.endpoint = resolve(endpoint)?.first().copied();
            }
        }
        Ok(self.update)
    }
}

/// Prefixes with a sign change what is there; without one they replace it. An empty list removes all.
fn handle_allowed_ips(peer: &mut PeerUpdate, list: &str) -> Result<(), WgCommandError> {
    let word = "allowed-ips";
    let signed = list.split(',').any(|item| item.trim_start().starts_with(['+', '-']));
    if !signed {
        peer.replace_allowed_ips = true;
        peer.allowed_ips.clear();
    }
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let invalid = |expected| WgCommandError::Value { word, value: Literal::new(item), expected };
        let (prefix, change): (_, fn(_) -> _) = match (item.strip_prefix('+'), item.strip_prefix('-')) {
            (Some(prefix), _) => (prefix, AllowedIpChange::Add),
            (None, Some(prefix)) => (prefix, AllowedIpChange::Remove),
            (None, None) if signed => {
                return Err(invalid("behind a `+` or `-`, as the others of the list are"));
            }
            (None, None) => (item, AllowedIpChange::Add),
        };
        let prefix = parse_prefix(prefix).ok_or_else(|| invalid("an address prefix"))?;
        peer.allowed_ips.push(change(prefix.trunc()));
    }
    Ok(())
}

/// An empty file, `/dev/null` for one, means: no key.
fn read_key<K>(path: &Path, parse: fn(&str) -> Result<K, KeyError>) -> Result<Option<K>, WgCommandError> {
    let text = read_key_text(path).map_err(WgCommandError::File)?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |error| WgCommandError::Key { place: format!("`{}`", path.display()), error };
    parse(&text).map(Some).map_err(wrong)
}

/// All addresses of an endpoint, in the resolver's order; at least one.
pub(super) fn resolve(endpoint: &EndpointName) -> Result<Vec<SocketAddr>, WgCommandError> {
    match endpoint {
        EndpointName::Address(address) => Ok(vec![*address]),
        EndpointName::Name { host, port } => {
            let failed = |source| WgCommandError::Resolve { host: host.clone(), source };
            let addresses: Vec<_> = (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect();
            if addresses.is_empty() {
                return Err(failed(std::io::ErrorKind::NotFound.into()));
            }
            Ok(addresses)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn error(line: &str) -> String {
        parse(&words(line)).unwrap_err().to_string()
    }

    #[test]
    fn the_grammar_of_wg_is_understood() {
        let line = format!(
            "listen-port 5 fwmark 0x7 peer {PEER} endpoint 192.0.2.1:9 persistent-keepalive off allowed-ips 10.1.2.3/8,::/0 \
             peer {OTHER} remove"
        );
        let update = parse(&words(&line)).unwrap().resolve().unwrap();
        assert_eq!((update.listen_port, update.fwmark), (Some(5), Some(7)));
        let [first, second] = update.peers.as_slice() else { panic!("{update:?}") };
        assert_eq!(first.endpoint, Some("192.0.2.1:9".parse().unwrap()));
        assert_eq!(first.persistent_keepalive, Some(0));
        assert!(first.replace_allowed_ips && second.remove);
        let add = |net: &str| AllowedIpChange::Add(net.parse().unwrap());
        assert_eq!(first.allowed_ips, [add("10.0.0.0/8"), add("::/0")]);
    }

    #[test]
    fn signed_prefixes_change_and_an_empty_list_clears() {
        let draft = parse(&words(&format!("peer {PEER} allowed-ips +10.0.0.0/8,-fd00::/64"))).unwrap();
        let peer = &draft.update.peers[0];
        assert!(!peer.replace_allowed_ips);
        assert_eq!(
            peer.allowed_ips,
            [
                AllowedIpChange::Add("10.0.0.0/8".parse().unwrap()),
                AllowedIpChange::Remove("fd00::/64".parse().unwrap())
            ]
        );
        let draft = parse(&words(&format!("peer {PEER} allowed-ips "))).unwrap();
        assert!(draft.update.peers[0].replace_allowed_ips && draft.update.peers[0].allowed_ips.is_empty());
        assert_eq!(
            error(&format!("peer {PEER} allowed-ips +10.0.0.0/8,fd00::/64")),
            "`allowed-ips`: `fd00::/64` is not behind a `+` or `-`, as the others of the list are"
        );
    }

    #[test]
    fn mistakes_name_the_word_and_never_the_key() {
        assert_eq!(error("colour blue"), "`colour` is not understood here");
        assert_eq!(error("listen-port"), "`listen-port` needs a value");
        assert_eq!(error("listen-port 65536"), "`listen-port`: `65536` is not a port from 0 to 65535");
        assert_eq!(
            error("endpoint 1.2.3.4:5"),
            "`endpoint` belongs to a peer; name one with `peer KEY` first"
        );
        assert_eq!(error("remove"), "`remove` belongs to a peer; name one with `peer KEY` first");
        assert_eq!(error(&format!("peer {PEER} listen-port 5")), "`listen-port` is not understood here");
        assert_eq!(
            error(&format!("peer {}", &PEER[1..])),
            "`peer`: expected 32 bytes in base64 (44 characters), found 43 characters"
        );
        assert_eq!(
            error(&format!("peer {PEER} endpoint example.com")),
            "`endpoint`: `example.com` has no port; expected `host:port`"
        );
    }

    #[test]
    fn keys_come_from_files_and_an_empty_one_removes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("key");
        std::fs::write(&path, format!("{PEER}\n")).unwrap();
        let line = format!("private-key {0} peer {OTHER} preshared-key {0}", path.display());
        let update = parse(&words(&line)).unwrap().resolve().unwrap();
        assert_eq!(update.private_key, Some(Some(PrivateKey::parse_base64(PEER).unwrap())));
        assert_eq!(update.peers[0].preshared_key, Some(Some(PresharedKey::parse_base64(PEER).unwrap())));
        let update = parse(&words("private-key /dev/null")).unwrap().resolve().unwrap();
        assert_eq!(update.private_key, Some(None));
        std::fs::write(&path, "secret").unwrap();
        let error = parse(&words(&line)).unwrap().resolve().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("`{}`: expected 32 bytes in base64 (44 characters), found 6 characters", path.display())
        );
    }
}
