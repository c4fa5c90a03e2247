//! What the server answers: typed state to text in the server, text to typed state in the client. (core: no IO)

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

use zeroize::Zeroizing;

use crate::config::device::{DeviceStatus, PeerStatus};
use crate::config::value::{parse_number, parse_port, parse_prefix};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::time::WallTime;
use crate::uapi::request::Operation;

/// Bytes of a [`StatusText`]'s part: the client reads the first while the next is written.
const PART: usize = 64 * 1024;

/// More than the device's lines, a peer's without its prefixes, or a prefix's can be.
const LONGEST: usize = 512;

/// The answer to `get`: the device, then each peer, then `errno=0`, in parts. Holds every secret of the device.
pub struct StatusText<'a> {
    status: &'a DeviceStatus,
    next: Next,
    /// Never grows, which would leave a copy of a key behind.
    part: Zeroizing<String>,
}

/// What of a status is emitted next.
enum Next {
    Device,
    Peer(usize),
    /// Of that peer, that one.
    Prefix(usize, usize),
    Nothing,
}

impl<'a> StatusText<'a> {
    /// Nothing of it is emitted yet.
    #[must_use]
    pub fn new(status: &'a DeviceStatus) -> Self {
        Self { status, next: Next::Device, part: Zeroizing::new(String::with_capacity(PART)) }
    }

    /// The next part, which takes the place of the one before; `None` after the last.
    pub fn next_part(&mut self) -> Option<&str> {
        self.part.clear();
        while !matches!(self.next, Next::Nothing) && self.part.len() + LONGEST <= PART {
            self.next = self.emit_next();
        }
        (!self.part.is_empty()).then_some(self.part.as_str())
    }

    fn emit_next(&mut self) -> Next {
        let text = &mut self.part;
        match self.next {
            Next::Device => {
                emit_device(self.status, text);
                Next::Peer(0)
            }
            Next::Peer(index) => match self.status.peers.get(index) {
                Some(peer) => {
                    emit_peer(peer, text);
                    Next::Prefix(index, 0)
                }
                None => {
                    text.push_str("errno=0\n\n");
                    Next::Nothing
                }
            },
            Next::Prefix(peer, index) => match self.status.peers[peer].allowed_ips.get(index) {
                Some(prefix) => {
                    push(text, "allowed_ip", prefix);
                    Next::Prefix(peer, index + 1)
                }
                None => Next::Peer(peer + 1),
            },
            Next::Nothing => Next::Nothing,
        }
    }
}

/// The whole answer to `get` as one text.
#[must_use]
pub fn emit_status(status: &DeviceStatus) -> Zeroizing<String> {
    let prefixes: usize = status.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let mut whole = Zeroizing::new(String::with_capacity(LONGEST * (2 + status.peers.len()) + prefixes * 64));
    let mut text = StatusText::new(status);
    while let Some(part) = text.next_part() {
        whole.push_str(part);
    }
    whole
}

fn emit_device(status: &DeviceStatus, text: &mut String) {
    if let Some(key) = &status.private_key {
        text.push_str("private_key=");
        key.push_hex(text);
        text.push('\n');
    }
    if status.listen_port != 0 {
        push_number(text, "listen_port=", status.listen_port);
    }
    if status.fwmark != 0 {
        push_number(text, "fwmark=", status.fwmark);
    }
}

/// A peer without its prefixes.
fn emit_peer(peer: &PeerStatus, text: &mut String) {
    /// What the protocol says for none.
    const NO_PRESHARED_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    text.push_str("public_key=");
    peer.public_key.push_hex(text);
    text.push_str("\npreshared_key=");
    match &peer.preshared_key {
        Some(key) => key.push_hex(text),
        None => text.push_str(NO_PRESHARED_KEY),
    }
    text.push_str("\nprotocol_version=1\n");
    if let Some(endpoint) = peer.endpoint {
        push(text, "endpoint", endpoint);
    }
    let handshake = peer.last_handshake.unwrap_or_default();
    push_number(text, "last_handshake_time_sec=", handshake.secs);
    push_number(text, "last_handshake_time_nsec=", handshake.nanos);
    push_number(text, "tx_bytes=", peer.tx_bytes);
    push_number(text, "rx_bytes=", peer.rx_bytes);
    push_number(text, "persistent_keepalive_interval=", peer.persistent_keepalive);
}

fn push(text: &mut String, key: &str, value: impl Display) {
    writeln!(text, "{key}={value}").expect("writing to a string cannot fail");
}

/// `push` without the formatting machinery, which costs more than all else for ten thousand peers.
#[inline(always)]
fn push_number(text: &mut String, key: &str, value: impl Into<u64>) {
    text.push_str(key);
    let mut rest: u64 = value.into();
    let mut unit = 1;
    while rest / unit >= 10 {
        unit *= 10;
    }
    while unit > 0 {
        text.push(char::from(b'0' + u8::try_from(rest / unit).unwrap_or_default()));
        rest %= unit;
        unit /= 10;
    }
    text.push('\n');
}

/// The answer that only tells how it went; `errno` is positive or 0.
#[must_use]
pub fn emit_errno(operation: Operation, errno: i32) -> String {
    // wg(8) negates what it reads after `set` and takes digits only after `get`.
    match operation {
        Operation::Get | Operation::Report => format!("errno={errno}\n\n"),
        Operation::Set | Operation::Network => format!("errno={}\n\n", -errno),
    }
}

/// The answer to `report`: one line of JSON.
#[must_use]
pub fn emit_report(json: &str) -> String {
    format!("report={json}\nerrno=0\n\n")
}

/// The answer to `network` that says in words what failed.
#[must_use]
pub fn emit_network_failure(message: &str, errno: i32) -> String {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("message={message}\n{}", emit_errno(Operation::Network, errno))
}

/// An answer without `errno=0`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The server refused.
    #[error("{}", .message.clone().unwrap_or_else(|| std::io::Error::from_raw_os_error(*errno).to_string()))]
    Refused {
        /// Positive.
        errno: i32,
        /// In words, if the server gave some.
        message: Option<String>,
    },
    /// The connection ended before `errno=`.
    #[error("the answer is incomplete")]
    Incomplete,
    /// Something in it is not of the protocol. Not quoted: it may be a key.
    #[error("line {line} of the answer is not of the protocol")]
    Malformed {
        /// Counted from 1.
        line: usize,
    },
}

/// The lines of a whole answer, its `errno` checked and taken off.
///
/// # Errors
/// What the server refused, or that the text is no answer.
pub fn parse_lines(text: &str) -> Result<Vec<(&str, &str)>, ResponseError> {
    let mut lines = Vec::new();
    let mut message = None;
    for (number, line) in (1..).zip(text.split('\n')) {
        if line.is_empty() {
            break;
        }
        let malformed = ResponseError::Malformed { line: number };
        let (key, value) = line.split_once('=').ok_or_else(|| malformed.clone())?;
        match key {
            "errno" => {
                let errno: i32 = value.parse().map_err(|_| malformed)?;
                return match errno.saturating_abs() {
                    0 => Ok(lines),
                    errno => Err(ResponseError::Refused { errno, message }),
                };
            }
            "message" => message = Some(value.to_owned()),
            _ => lines.push((key, value)),
        }
    }
    Err(ResponseError::Incomplete)
}

/// The device that a whole answer to `get` tells of. Unknown keys are ignored, as newer servers may have them.
///
/// # Errors
/// What the server refused, or that the text is no answer.
pub fn parse_status(text: &str) -> Result<DeviceStatus, ResponseError> {
    let mut status = DeviceStatus::default();
    for (number, (key, value)) in (1..).zip(parse_lines(text)?) {
        let malformed = ResponseError::Malformed { line: number };
        if key == "public_key" {
            let public_key = PublicKey::parse_hex(value).map_err(|_| malformed)?;
            status.peers.push(PeerStatus::new(public_key));
            continue;
        }
        let parsed = match status.peers.last_mut() {
            None => parse_device_line(&mut status, key, value),
            Some(peer) => parse_peer_line(peer, key, value),
        };
        parsed.ok_or(malformed)?;
    }
    for peer in &mut status.peers {
        peer.last_handshake = peer.last_handshake.filter(|time| *time != WallTime::default());
    }
    Ok(status)
}

fn parse_device_line(status: &mut DeviceStatus, key: &str, value: &str) -> Option<()> {
    match key {
        "private_key" => status.private_key = PrivateKey::parse_hex(value).ok()?,
        "listen_port" => status.listen_port = parse_port(value)?,
        "fwmark" => status.fwmark = parse_number(value)?,
        _ => {}
    }
    Some(())
}

fn parse_peer_line(peer: &mut PeerStatus, key: &str, value: &str) -> Option<()> {
    match key {
        "preshared_key" => peer.preshared_key = PresharedKey::parse_hex(value).ok()?,
        "endpoint" => peer.endpoint = Some(value.parse::<SocketAddr>().ok()?),
        "last_handshake_time_sec" => {
            peer.last_handshake.get_or_insert_default().secs = value.parse().ok()?;
        }
        "last_handshake_time_nsec" => {
            peer.last_handshake.get_or_insert_default().nanos = value.parse().ok()?;
        }
        "tx_bytes" => peer.tx_bytes = value.parse().ok()?,
        "rx_bytes" => peer.rx_bytes = value.parse().ok()?,
        "persistent_keepalive_interval" => peer.persistent_keepalive = parse_port(value)?,
        "allowed_ip" => peer.allowed_ips.push(parse_prefix(value)?),
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> DeviceStatus {
        let peer = PeerStatus {
            preshared_key: Some(PresharedKey::from_bytes([0x22; 32])),
            endpoint: Some("[fd00::1]:5".parse().unwrap()),
            last_handshake: Some(WallTime { secs: 1_700_000_000, nanos: 5 }),
            tx_bytes: 1500,
            rx_bytes: u64::MAX,
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()],
            ..PeerStatus::new(PublicKey::from_bytes([0xa1; 32]))
        };
        let quiet = PeerStatus::new(PublicKey::from_bytes([0xb1; 32]));
        DeviceStatus {
            private_key: Some(PrivateKey::from_bytes([0x48; 32])),
            listen_port: 51820,
            fwmark: 255,
            peers: vec![peer, quiet],
        }
    }

    #[test]
    fn get_is_answered_in_the_order_of_the_protocol() {
        let hex = |byte: &str| byte.repeat(32);
        let expected = format!(
            "private_key={}\nlisten_port=51820\nfwmark=255\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=[fd00::1]:5\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=1500\nrx_bytes=18446744073709551615\n\
             persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n\
             public_key={}\npreshared_key={}\nprotocol_version=1\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n\
             persistent_keepalive_interval=0\nerrno=0\n\n",
            hex("48"),
            hex("a1"),
            hex("22"),
            hex("b1"),
            hex("00"),
        );
        assert_eq!(*emit_status(&status()), expected);
    }

    #[test]
    fn a_long_answer_comes_in_parts_none_of_which_grows() {
        let mut long = status();
        long.peers[0].allowed_ips =
            vec!["fd00:1111:2222:3333:4444:5555:6666:7777/128".parse().unwrap(); 5000];
        long.peers = vec![long.peers[0].clone(); 3];
        let mut text = StatusText::new(&long);
        let (mut whole, mut parts) = (String::new(), 0);
        while let Some(part) = text.next_part() {
            whole.push_str(part);
            parts += 1;
            assert_eq!(text.part.capacity(), PART);
        }
        assert!(parts > 10, "{parts} parts");
        assert_eq!(parse_status(&whole), Ok(long));
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 1, 9, 10, 99, 100, 1_000_000_007, u64::MAX / 10, u64::MAX - 1, u64::MAX] {
            let mut text = String::new();
            push_number(&mut text, "n=", number);
            assert_eq!(text, format!("n={number}\n"));
        }
    }

    #[test]
    fn a_bare_device_tells_nothing_but_success() {
        assert_eq!(*emit_status(&DeviceStatus::default()), "errno=0\n\n");
    }

    #[test]
    fn what_the_server_emits_the_client_reads() {
        assert_eq!(parse_status(&emit_status(&status())), Ok(status()));
    }

    #[test]
    fn the_sign_of_errno_follows_the_operation_and_the_client_takes_either() {
        assert_eq!(emit_errno(Operation::Set, 22), "errno=-22\n\n");
        assert_eq!(emit_errno(Operation::Get, 22), "errno=22\n\n");
        assert_eq!(emit_errno(Operation::Set, 0), "errno=0\n\n");
        for text in ["errno=22\n\n", "errno=-22\n\n"] {
            let error = parse_lines(text).unwrap_err();
            assert_eq!(error, ResponseError::Refused { errno: 22, message: None });
            assert_eq!(error.to_string(), "Invalid argument (os error 22)");
        }
    }

    #[test]
    fn a_failure_in_words_is_told_in_words() {
        let text = emit_network_failure("cannot add route\n`::/0`", 1);
        assert_eq!(text, "message=cannot add route `::/0`\nerrno=-1\n\n");
        assert_eq!(parse_lines(&text).unwrap_err().to_string(), "cannot add route `::/0`");
    }

    #[test]
    fn unknown_keys_are_ignored_and_cut_off_answers_are_not_believed() {
        assert_eq!(parse_status("from_the_future=1\nlisten_port=5\nerrno=0\n\n").unwrap().listen_port, 5);
        assert_eq!(parse_status("listen_port=5\n"), Err(ResponseError::Incomplete));
        assert_eq!(parse_status(""), Err(ResponseError::Incomplete));
        assert_eq!(parse_status("listen_port\nerrno=0\n\n"), Err(ResponseError::Malformed { line: 1 }));
        assert_eq!(parse_status("listen_port=x\nerrno=0\n\n"), Err(ResponseError::Malformed { line: 1 }));
    }
}
