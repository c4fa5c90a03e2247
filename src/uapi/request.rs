//! What clients ask: text to typed requests in the server, typed requests to text in the client. (core: no IO)
//!
//! # Theory of operation
//! [`RequestParser::push`] takes bytes as they come and gives an [`Event`] for each request that is whole. The first
//! mistake in a request decides its answer, and the rest of it is read and dropped, so that the client is not cut off
//! while it writes and the connection stays in step. Only what no honest client sends hangs up, at once: an unknown
//! operation, a line that is too long, and a request past [`MAX_REQUEST`].

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::config::EndpointName;
use crate::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use crate::config::plan::NetworkChange;
use crate::config::value::{parse_number, parse_port, parse_prefix};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::uapi::line::{Line, LineBuffer};

/// Bytes of one request. A hundred thousand peers with one prefix each fit; a client cannot make us hold more.
pub const MAX_REQUEST: usize = 16 << 20;

/// One request, whole and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `get=1`.
    Get,
    /// `set=1` and what to change.
    Set(DeviceUpdate),
    /// `report=1`.
    Report,
    /// `network=1` and what the link shall carry.
    Network(NetworkChange),
}

/// What an answer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `get=1`: its errno is written positive.
    Get,
    /// `set=1`: its errno is written negative.
    Set,
    /// `report=1`, as `get`.
    Report,
    /// `network=1`, as `set`.
    Network,
}

/// What came out of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A request to carry out and answer.
    Request(Request),
    /// A request to answer with the error's errno.
    Rejected {
        /// What was asked.
        operation: Operation,
        /// The first mistake.
        error: RequestError,
    },
    /// The stream cannot be followed any further. If an operation was begun, its answer is the error's errno.
    Hangup {
        /// What was asked, if that much was understood.
        operation: Option<Operation>,
        /// Why.
        error: RequestError,
    },
}

/// Why a request was refused. Never quotes a value: it may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The first line is none of the operations.
    #[error("the first line is no operation")]
    Operation,
    /// `get` and `report` have no lines.
    #[error("line {line}: this operation has no keys")]
    UnexpectedLine {
        /// Counted from 1 within the request.
        line: usize,
    },
    /// No `=`.
    #[error("line {line}: expected `key=value`")]
    NoEquals {
        /// Counted from 1 within the request.
        line: usize,
    },
    /// Unknown here: device keys come before the first `public_key`, peer keys after.
    #[error("line {line}: unknown key")]
    UnknownKey {
        /// Counted from 1 within the request.
        line: usize,
    },
    /// The value is not what the key takes.
    #[error("line {line}: `{key}` has a value that it does not take")]
    Value {
        /// Counted from 1 within the request.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// Longer than a line may be.
    #[error("line {line} is too long")]
    LineTooLong {
        /// Counted from 1 within the request.
        line: usize,
    },
    /// Longer than a request may be.
    #[error("the request is longer than {MAX_REQUEST} bytes")]
    RequestTooLong,
}

impl RequestError {
    /// What the answer says (positive; the operation decides the sign).
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Operation | Self::UnexpectedLine { .. } | Self::UnknownKey { .. } | Self::Value { .. } => {
                libc::EINVAL
            }
            Self::NoEquals { .. } => libc::EPROTO,
            Self::LineTooLong { .. } | Self::RequestTooLong => libc::EMSGSIZE,
        }
    }
}

/// Turns the name of an interface into its index, for endpoints like `[fe80::1%eth0]:51820`.
pub type ScopeIndex = fn(&str) -> Option<u32>;

/// The server's end of one connection.
#[derive(Debug)]
pub struct RequestParser {
    lines: LineBuffer,
    scope_index: ScopeIndex,
    state: State,
    /// Bytes of the present request.
    taken: usize,
    /// Lines of the present request.
    line: usize,
}

#[derive(Debug)]
enum State {
    /// Between requests. An operation's first line starts one.
    Idle,
    /// In a request without a mistake so far; the empty line completes it.
    Reading(Draft),
    /// In a request with a mistake; the empty line ends it.
    Skipping(Operation, RequestError),
    /// The stream is out of step; nothing is read any more.
    Closed,
}

/// A request whose end has not come.
#[derive(Debug)]
enum Draft {
    Get,
    Set(DeviceUpdate),
    Report,
    Network(NetworkChange),
}

impl Draft {
    fn open(line: &[u8]) -> Option<Self> {
        match line {
            b"get=1" => Some(Self::Get),
            b"set=1" => Some(Self::Set(DeviceUpdate::default())),
            b"report=1" => Some(Self::Report),
            b"network=1" => Some(Self::Network(NetworkChange::default())),
            _ => None,
        }
    }

    const fn operation(&self) -> Operation {
        match self {
            Self::Get => Operation::Get,
            Self::Set(_) => Operation::Set,
            Self::Report => Operation::Report,
            Self::Network(_) => Operation::Network,
        }
    }

    fn finish(self) -> Request {
        match self {
            Self::Get => Request::Get,
            Self::Set(update) => Request::Set(update),
            Self::Report => Request::Report,
            Self::Network(change) => Request::Network(change),
        }
    }

    fn handle_line(&mut self, bytes: &[u8], line: usize, scope: ScopeIndex) -> Result<(), RequestError> {
        if matches!(self, Self::Get | Self::Report) {
            return Err(RequestError::UnexpectedLine { line });
        }
        let equals = bytes.iter().position(|byte| *byte == b'=').ok_or(RequestError::NoEquals { line })?;
        let unknown = RequestError::UnknownKey { line };
        let key = str::from_utf8(&bytes[..equals]).map_err(|_| unknown)?;
        // What is not text is no value of any key; an empty text is none either.
        let value = str::from_utf8(&bytes[equals + 1..]).unwrap_or_default();
        let (key, valid) = match self {
            Self::Set(update) => handle_set_key(update, key, value, scope).ok_or(unknown)?,
            Self::Network(change) => handle_network_key(change, key, value).ok_or(unknown)?,
            Self::Get | Self::Report => return Err(unknown),
        };
        valid.ok_or(RequestError::Value { line, key })
    }
}

impl RequestParser {
    /// For a new connection.
    #[must_use]
    pub fn new(scope_index: ScopeIndex) -> Self {
        Self { lines: LineBuffer::new(), scope_index, state: State::Idle, taken: 0, line: 0 }
    }

    /// Takes bytes from the front of `input` until a request is complete; `None` when `input` is used up.
    pub fn push(&mut self, input: &mut &[u8]) -> Option<Event> {
        loop {
            if matches!(self.state, State::Closed) {
                *input = &[];
                return None;
            }
            let before = input.len();
            let line = self.lines.next_line(input);
            self.taken += before - input.len();
            if self.taken > MAX_REQUEST {
                let operation = self.operation();
                self.state = State::Closed;
                return Some(Event::Hangup { operation, error: RequestError::RequestTooLong });
            }
            let line = line?;
            self.line += 1;
            let (number, scope) = (self.line, self.scope_index);
            match (std::mem::replace(&mut self.state, State::Idle), line) {
                (State::Idle, Line::Bytes(bytes)) => match Draft::open(bytes) {
                    Some(draft) => self.state = State::Reading(draft),
                    None => {
                        self.state = State::Closed;
                        return Some(Event::Hangup { operation: None, error: RequestError::Operation });
                    }
                },
                (State::Idle, Line::TooLong) => {
                    self.state = State::Closed;
                    return Some(Event::Hangup { operation: None, error: RequestError::Operation });
                }
                (State::Reading(draft), Line::TooLong) => {
                    self.state = State::Closed;
                    let error = RequestError::LineTooLong { line: number };
                    return Some(Event::Hangup { operation: Some(draft.operation()), error });
                }
                (State::Skipping(operation, error), Line::TooLong) => {
                    self.state = State::Closed;
                    return Some(Event::Hangup { operation: Some(operation), error });
                }
                (State::Reading(draft), Line::Bytes([])) => {
                    (self.taken, self.line) = (0, 0);
                    return Some(Event::Request(draft.finish()));
                }
                (State::Reading(mut draft), Line::Bytes(bytes)) => {
                    self.state = match draft.handle_line(bytes, number, scope) {
                        Ok(()) => State::Reading(draft),
                        Err(error) => State::Skipping(draft.operation(), error),
                    };
                }
                (State::Skipping(operation, error), Line::Bytes([])) => {
                    (self.taken, self.line) = (0, 0);
                    return Some(Event::Rejected { operation, error });
                }
                (State::Skipping(operation, error), Line::Bytes(_)) => {
                    self.state = State::Skipping(operation, error);
                }
                (State::Closed, _) => unreachable!("checked before the line was taken"),
            }
        }
    }

    /// Whether the client owes us the rest of a request. Its end here means: nothing of it is carried out.
    #[must_use]
    pub fn is_amid_request(&self) -> bool {
        !matches!(self.state, State::Idle) || self.lines.is_amid_line()
    }

    const fn operation(&self) -> Option<Operation> {
        match &self.state {
            State::Idle | State::Closed => None,
            State::Reading(draft) => Some(draft.operation()),
            State::Skipping(operation, _) => Some(*operation),
        }
    }
}

/// `None`: unknown key. `Some((key, None))`: the key is known, the value is not one of its values.
type Handled = Option<(&'static str, Option<()>)>;

fn handle_set_key(update: &mut DeviceUpdate, key: &str, value: &str, scope: ScopeIndex) -> Handled {
    if key == "public_key" {
        let parsed = PublicKey::parse_hex(value).ok();
        return Some(("public_key", parsed.map(|key| update.peers.push(PeerUpdate::new(key)))));
    }
    match update.peers.last_mut() {
        None => handle_device_key(update, key, value),
        Some(peer) => handle_peer_key(peer, key, value, scope),
    }
}

fn handle_device_key(update: &mut DeviceUpdate, key: &str, value: &str) -> Handled {
    Some(match key {
        "private_key" => {
            let parsed = PrivateKey::parse_hex(value).ok();
            ("private_key", parsed.map(|key| update.private_key = Some(key)))
        }
        "listen_port" => ("listen_port", parse_port(value).map(|port| update.listen_port = Some(port))),
        "fwmark" => ("fwmark", parse_number(value).map(|mark| update.fwmark = Some(mark))),
        "replace_peers" => ("replace_peers", parse_true(value).map(|()| update.replace_peers = true)),
        _ => return None,
    })
}

fn handle_peer_key(peer: &mut PeerUpdate, key: &str, value: &str, scope: ScopeIndex) -> Handled {
    Some(match key {
        "update_only" => ("update_only", parse_true(value).map(|()| peer.update_only = true)),
        "remove" => ("remove", parse_true(value).map(|()| peer.remove = true)),
        "preshared_key" => {
            let parsed = PresharedKey::parse_hex(value).ok();
            ("preshared_key", parsed.map(|key| peer.preshared_key = Some(key)))
        }
        "endpoint" => ("endpoint", parse_endpoint(value, scope).map(|address| peer.endpoint = Some(address))),
        "persistent_keepalive_interval" => {
            let parsed = parse_port(value);
            ("persistent_keepalive_interval", parsed.map(|secs| peer.persistent_keepalive = Some(secs)))
        }
        "replace_allowed_ips" => {
            let parsed = parse_true(value);
            // What was added before it in this peer goes too, as it would if the lines were applied one by one.
            let clear = |()| {
                peer.allowed_ips.clear();
                peer.replace_allowed_ips = true;
            };
            ("replace_allowed_ips", parsed.map(clear))
        }
        "allowed_ip" => ("allowed_ip", parse_allowed_ip(value).map(|change| peer.allowed_ips.push(change))),
        "protocol_version" => ("protocol_version", (value == "1").then_some(())),
        _ => return None,
    })
}

fn handle_network_key(change: &mut NetworkChange, key: &str, value: &str) -> Handled {
    let plan = &mut change.plan;
    Some(match key {
        "address" => ("address", parse_prefix(value).map(|net| plan.addresses.push(net))),
        "route" => ("route", parse_prefix(value).map(|net| plan.routes.push(net.trunc()))),
        "mtu" => ("mtu", parse_number(value).map(|mtu| plan.mtu = Some(mtu))),
        "endpoint_name" => {
            ("endpoint_name", parse_endpoint_name(value).map(|name| change.endpoint_names.push(name)))
        }
        _ => return None,
    })
}

fn parse_true(value: &str) -> Option<()> {
    (value == "true").then_some(())
}

fn parse_allowed_ip(value: &str) -> Option<AllowedIpChange> {
    let prefix =
        |text: &str| text.contains('/').then(|| parse_prefix(text)).flatten().map(|net: IpNet| net.trunc());
    match value.strip_prefix('-') {
        Some(value) => prefix(value).map(AllowedIpChange::Remove),
        None => prefix(value).map(AllowedIpChange::Add),
    }
}

/// A peer's key, a space, `host:port`.
fn parse_endpoint_name(value: &str) -> Option<(PublicKey, EndpointName)> {
    let (key, name) = value.split_once(' ')?;
    Some((PublicKey::parse_hex(key).ok()?, name.parse().ok()?))
}

/// An address with a port, the scope of a link-local one by number or by the interface's name. No resolver here.
fn parse_endpoint(value: &str, scope_index: ScopeIndex) -> Option<SocketAddr> {
    if let Ok(address) = value.parse() {
        return Some(address);
    }
    let (address, port) = value.strip_prefix('[')?.split_once("]:")?;
    let (address, scope) = address.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    Some(SocketAddr::V6(SocketAddrV6::new(address, parse_port(port)?, 0, scope_index(scope)?)))
}

impl Request {
    /// The text that asks for this. Holds secrets if the request does.
    #[must_use]
    pub fn emit(&self) -> Zeroizing<String> {
        match self {
            Self::Get => Zeroizing::new("get=1\n\n".to_owned()),
            Self::Report => Zeroizing::new("report=1\n\n".to_owned()),
            Self::Set(update) => emit_set(update),
            Self::Network(change) => emit_network(change),
        }
    }
}

fn emit_set(update: &DeviceUpdate) -> Zeroizing<String> {
    const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    let prefixes: usize = update.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    // Enough that the buffer never grows and leaves a copy of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(256 + update.peers.len() * 384 + prefixes * 64));
    let mut push = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a string cannot fail");
    };
    push("set", &1);
    if let Some(key) = &update.private_key {
        match key {
            Some(key) => push("private_key", &key.to_hex().as_str()),
            None => push("private_key", &ZERO),
        }
    }
    if let Some(port) = update.listen_port {
        push("listen_port", &port);
    }
    if let Some(mark) = update.fwmark {
        push("fwmark", &mark);
    }
    if update.replace_peers {
        push("replace_peers", &true);
    }
    for peer in &update.peers {
        push("public_key", &peer.public_key.to_hex());
        if peer.remove {
            push("remove", &true);
            continue;
        }
        if peer.update_only {
            push("update_only", &true);
        }
        if let Some(key) = &peer.preshared_key {
            match key {
                Some(key) => push("preshared_key", &key.to_hex().as_str()),
                None => push("preshared_key", &ZERO),
            }
        }
        if let Some(endpoint) = peer.endpoint {
            push("endpoint", &endpoint);
        }
        if let Some(seconds) = peer.persistent_keepalive {
            push("persistent_keepalive_interval", &seconds);
        }
        if peer.replace_allowed_ips {
            push("replace_allowed_ips", &true);
        }
        for change in &peer.allowed_ips {
            match change {
                AllowedIpChange::Add(net) => push("allowed_ip", net),
                AllowedIpChange::Remove(net) => push("allowed_ip", &format_args!("-{net}")),
            }
        }
    }
    text.push('\n');
    text
}

fn emit_network(NetworkChange { plan, endpoint_names }: &NetworkChange) -> Zeroizing<String> {
    let mut text = String::from("network=1\n");
    let mut push = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a string cannot fail");
    };
    plan.addresses.iter().for_each(|net| push("address", net));
    plan.routes.iter().for_each(|net| push("route", net));
    if let Some(mtu) = plan.mtu {
        push("mtu", &mtu);
    }
    for (peer, name) in endpoint_names {
        push("endpoint_name", &format_args!("{} {name}", &*peer.to_hex()));
    }
    text.push('\n');
    Zeroizing::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkPlan;
    use crate::uapi::line::MAX_LINE;

    /// Clamped, so that it comes back as it went in.
    const HEX: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a73";

    fn scope_index(name: &str) -> Option<u32> {
        (name == "eth0").then_some(7)
    }

    fn events(text: impl AsRef<[u8]>) -> Vec<Event> {
        let mut parser = RequestParser::new(scope_index);
        let mut input = text.as_ref();
        std::iter::from_fn(|| parser.push(&mut input)).collect()
    }

    fn update(lines: &str) -> DeviceUpdate {
        match events(format!("set=1\n{lines}\n")).as_slice() {
            [Event::Request(Request::Set(update))] => update.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(lines: &str) -> RequestError {
        match events(format!("set=1\n{lines}\n")).as_slice() {
            [Event::Rejected { operation: Operation::Set, error }] => *error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn several_requests_follow_each_other_on_one_connection() {
        let text = "get=1\n\nset=1\nlisten_port=5\n\nreport=1\n\nnetwork=1\naddress=10.0.0.2/24\nroute=10.0.0.2/24\nmtu=1400\n\n";
        let seen = events(text);
        assert_eq!(seen[0], Event::Request(Request::Get));
        assert_eq!(
            seen[1],
            Event::Request(Request::Set(DeviceUpdate { listen_port: Some(5), ..DeviceUpdate::default() }))
        );
        assert_eq!(seen[2], Event::Request(Request::Report));
        let plan = NetworkPlan {
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            routes: vec!["10.0.0.0/24".parse().unwrap()],
            mtu: Some(1400),
            ..NetworkPlan::default()
        };
        assert_eq!(
            seen[3],
            Event::Request(Request::Network(NetworkChange { plan, ..NetworkChange::default() }))
        );
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let mut parser = RequestParser::new(scope_index);
        let text = format!("set=1\npublic_key={HEX}\nallowed_ip=10.0.0.0/8\n\n");
        let mut seen = Vec::new();
        for byte in text.as_bytes() {
            assert!(seen.is_empty());
            seen.extend(parser.push(&mut [*byte].as_slice()));
        }
        assert_eq!(seen.len(), 1);
        assert!(!parser.is_amid_request());
    }

    #[test]
    fn every_key_of_set_is_understood() {
        let update = update(&format!(
            "private_key={HEX}\nlisten_port=51820\nfwmark=4294967295\nreplace_peers=true\npublic_key={HEX}\nupdate_only=true\n\
             preshared_key={HEX}\nendpoint=[fe80::1%eth0]:9\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.1.2.3/8\nallowed_ip=-fd00::1/64\nprotocol_version=1\npublic_key={HEX}\nremove=true\nendpoint=1.2.3.4:5\n"
        ));
        assert_eq!(update.private_key, Some(PrivateKey::parse_hex(HEX).unwrap()));
        assert_eq!(
            (update.listen_port, update.fwmark, update.replace_peers),
            (Some(51820), Some(u32::MAX), true)
        );
        let [first, second] = update.peers.as_slice() else { panic!("{update:?}") };
        assert!(first.update_only && first.replace_allowed_ips && !first.remove);
        assert_eq!(first.preshared_key, Some(PresharedKey::parse_hex(HEX).unwrap()));
        assert_eq!(first.endpoint, Some("[fe80::1%7]:9".parse().unwrap()));
        assert_eq!(first.persistent_keepalive, Some(25));
        assert_eq!(
            first.allowed_ips,
            [
                AllowedIpChange::Add("10.0.0.0/8".parse().unwrap()),
                AllowedIpChange::Remove("fd00::/64".parse().unwrap())
            ]
        );
        assert!(second.remove);
    }

    #[test]
    fn zeros_remove_keys() {
        let zero = "0".repeat(64);
        let update = update(&format!("private_key={zero}\npublic_key={HEX}\npreshared_key={zero}\n"));
        assert_eq!((update.private_key, update.peers[0].preshared_key.clone()), (Some(None), Some(None)));
    }

    #[test]
    fn wrong_values_are_einval_and_lines_without_equals_eproto() {
        for lines in [
            "listen_port=99999\n",
            "listen_port=-1\n",
            "listen_port=+1\n",
            "listen_port=\n",
            "fwmark=0x10\n",
            "fwmark=4294967296\n",
            "replace_peers=false\n",
            "colour=blue\n",
            "endpoint=1.2.3.4:5\n",
            "=\n",
            "listen_port=5\r\n",
            "listen_port=5\0\n",
            &format!("private_key={}\n", &HEX[1..]),
            &format!("private_key={HEX}0\n"),
            &format!("private_key={}\n", HEX.replace('b', "g")),
            &format!("public_key={HEX}\nendpoint=vpn.example:5\n"),
            &format!("public_key={HEX}\nendpoint=[fe80::1%nosuch]:5\n"),
            &format!("public_key={HEX}\nendpoint=1.2.3.4\n"),
            &format!("public_key={HEX}\nallowed_ip=10.0.0.0/33\n"),
            &format!("public_key={HEX}\nallowed_ip=10.0.0.0\n"),
            &format!("public_key={HEX}\nprotocol_version=2\n"),
            &format!("public_key={HEX}\npersistent_keepalive_interval=65536\n"),
            &format!("public_key={HEX}\nlisten_port=5\n"),
        ] {
            assert_eq!(refused(lines).errno(), libc::EINVAL, "{lines}");
        }
        assert_eq!(refused("listen_port\n").errno(), libc::EPROTO);
    }

    #[test]
    fn the_first_mistake_decides_and_the_connection_stays_in_step() {
        let seen = events("set=1\nlisten_port=x\nno equals\n\nget=1\n\n");
        let error = RequestError::Value { line: 2, key: "listen_port" };
        assert_eq!(seen[0], Event::Rejected { operation: Operation::Set, error });
        assert_eq!(seen[1], Event::Request(Request::Get));
    }

    #[test]
    fn get_takes_no_lines() {
        let error = RequestError::UnexpectedLine { line: 2 };
        assert_eq!(events("get=1\nx=y\n\n"), [Event::Rejected { operation: Operation::Get, error }]);
    }

    #[test]
    fn an_unknown_operation_hangs_up() {
        for text in ["hello\n\n", "get=2\n\n", "\n", "GET / HTTP/1.1\r\n\r\n"] {
            assert_eq!(
                events(text),
                [Event::Hangup { operation: None, error: RequestError::Operation }],
                "{text}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let seen = events(b"set=1\nlisten_port=\xff\n\xff=1\n\n");
        assert_eq!(
            seen,
            [Event::Rejected {
                operation: Operation::Set,
                error: RequestError::Value { line: 2, key: "listen_port" }
            }]
        );
    }

    #[test]
    fn a_line_past_its_limit_hangs_up_without_waiting_for_its_end() {
        let long = "x".repeat(MAX_LINE + 1);
        let hangup = |operation, error| Event::Hangup { operation, error };
        let too_long = RequestError::LineTooLong { line: 2 };
        assert_eq!(events(format!("set=1\n{long}")), [hangup(Some(Operation::Set), too_long)]);
        assert_eq!(events(&long), [hangup(None, RequestError::Operation)]);
        let first = RequestError::NoEquals { line: 2 };
        assert_eq!(events(format!("set=1\nno\n{long}\n\nget=1\n\n")), [hangup(Some(Operation::Set), first)]);
    }

    #[test]
    fn a_request_past_the_limit_hangs_up_and_reads_no_further() {
        let mut parser = RequestParser::new(scope_index);
        assert_eq!(parser.push(&mut b"set=1\n".as_slice()), None);
        let chunk = "fwmark=1\n".repeat(1 << 17);
        let seen: Vec<_> = (0..20).filter_map(|_| parser.push(&mut chunk.as_bytes())).collect();
        let error = RequestError::RequestTooLong;
        assert_eq!(seen, [Event::Hangup { operation: Some(Operation::Set), error }]);
        assert_eq!(parser.push(&mut b"\n\nget=1\n\n".as_slice()), None);
    }

    #[test]
    fn half_a_request_is_no_request() {
        let mut parser = RequestParser::new(scope_index);
        assert_eq!(parser.push(&mut b"set=1\nlisten_port=5\n".as_slice()), None);
        assert!(parser.is_amid_request());
    }

    #[test]
    fn what_the_client_emits_the_server_reads() {
        let text = format!(
            "private_key={HEX}\nlisten_port=51820\nfwmark=1\nreplace_peers=true\npublic_key={HEX}\nupdate_only=true\n\
             preshared_key={HEX}\nendpoint=[::1]:9\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/64\n"
        );
        let request = Request::Set(update(&text));
        assert_eq!(*request.emit(), format!("set=1\n{text}\n"));
        let plan = NetworkPlan {
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            routes: vec!["::/0".parse().unwrap()],
            ..NetworkPlan::default()
        };
        let key = PublicKey::from_bytes([7; 32]);
        let endpoint_names =
            ["vpn.example:51820", "[fe80::1%eth0]:9"].map(|name| (key, name.parse().unwrap())).to_vec();
        let request = Request::Network(NetworkChange { plan, endpoint_names });
        assert_eq!(events(request.emit().as_bytes()), [Event::Request(request)]);
    }

    proptest::proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(
            text in "(get=1\n|set=1\n|network=1\n|[a-z_]{0,20}=[^\n]{0,20}\n|[^\n]{0,9}\n|\n){0,12}",
            cut in 1_usize..40,
        ) {
            let mut parser = RequestParser::new(scope_index);
            let mut seen = Vec::new();
            for mut chunk in text.as_bytes().chunks(cut) {
                while let Some(event) = parser.push(&mut chunk) {
                    seen.push(event);
                }
            }
            proptest::prop_assert_eq!(seen, events(&text));
        }
    }
}
