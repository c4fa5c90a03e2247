//! What `show` prints, byte for byte what `wg show` prints. (core: no IO)
//!
//! There are two faces: the pretty one for people ([`pretty`]), with colours and with keys hidden, and one field or
//! all of them for scripts ([`field`]). In one place we differ on purpose: `show all endpoints` begins every line with
//! the interface, as `wg(8)` documents it for all fields; `wg` 1.0.20210914 prints it once only.

use std::fmt::Write as _;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::config::device::{DeviceStatus, PeerStatus};
use crate::config::endpoint::{ScopeName, endpoint_text};
use crate::time::WallTime;

/// One column of `show <interface> <field>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The device's public key.
    PublicKey,
    /// The device's private key.
    PrivateKey,
    /// UDP port.
    ListenPort,
    /// Hexadecimal, or `off`.
    Fwmark,
    /// Public keys of the peers, one per line.
    Peers,
    /// Per peer.
    PresharedKeys,
    /// Per peer.
    Endpoints,
    /// Per peer, separated by blanks.
    AllowedIps,
    /// Per peer, in seconds since the epoch.
    LatestHandshakes,
    /// Per peer, in seconds, or `off`.
    PersistentKeepalive,
    /// Per peer: received, then sent.
    Transfer,
    /// Everything, separated by tabs.
    Dump,
}

/// Names of the fields as they are typed, in the order of `wg`'s usage line.
pub const FIELD_NAMES: &[(&str, Field)] = &[
    ("public-key", Field::PublicKey),
    ("private-key", Field::PrivateKey),
    ("listen-port", Field::ListenPort),
    ("fwmark", Field::Fwmark),
    ("peers", Field::Peers),
    ("preshared-keys", Field::PresharedKeys),
    ("endpoints", Field::Endpoints),
    ("allowed-ips", Field::AllowedIps),
    ("latest-handshakes", Field::LatestHandshakes),
    ("transfer", Field::Transfer),
    ("persistent-keepalive", Field::PersistentKeepalive),
    ("dump", Field::Dump),
];

/// No field has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a field of `show`")]
pub struct UnknownField;

impl FromStr for Field {
    type Err = UnknownField;

    fn from_str(text: &str) -> Result<Self, UnknownField> {
        let found = FIELD_NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, field)| *field).ok_or(UnknownField)
    }
}

/// How the pretty face looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// `WG_COLOR_MODE`: escape sequences for a terminal.
    pub color: bool,
    /// `WG_HIDE_KEYS=never`: secrets in full instead of `(hidden)`.
    pub show_secrets: bool,
    /// Names the interfaces that link-local endpoints belong to.
    pub scope_name: ScopeName,
}

/// Without colours and secrets; interfaces stay numbers.
impl Default for Style {
    fn default() -> Self {
        Self { color: false, show_secrets: false, scope_name: |_| None }
    }
}

/// The pretty face of one interface. Holds secrets if `style` says so.
#[must_use]
pub fn pretty(interface: &str, status: &DeviceStatus, style: Style, now: WallTime) -> Zeroizing<String> {
    let mut out = Printer::new(style, status);
    out.paint(&[RESET, GREEN, BOLD]).text("interface").paint(&[RESET]).text(": ");
    out.paint(&[GREEN]).text(interface).paint(&[RESET]).text("\n");
    if let Some(key) = &status.private_key {
        out.label("public key").text(&key.public_key().to_base64()).text("\n");
        out.label("private key").secret(&key.to_base64()).text("\n");
    }
    if status.listen_port != 0 {
        out.label("listening port").text(&status.listen_port.to_string()).text("\n");
    }
    if status.fwmark != 0 {
        out.label("fwmark").text(&fwmark(status.fwmark)).text("\n");
    }
    let mut peers: Vec<_> = status.peers.iter().collect();
    // Who was heard last comes first; the sort is stable, so the never heard keep their order at the end.
    peers.sort_by_key(|peer| std::cmp::Reverse(peer.last_handshake));
    for peer in peers {
        out.text("\n");
        pretty_peer(&mut out, peer, now);
    }
    out.text
}

fn pretty_peer(out: &mut Printer, peer: &PeerStatus, now: WallTime) {
    out.paint(&[YELLOW, BOLD]).text("peer").paint(&[RESET]).text(": ");
    out.paint(&[YELLOW]).text(&peer.public_key.to_base64()).paint(&[RESET]).text("\n");
    if let Some(key) = &peer.preshared_key {
        out.label("preshared key").secret(&key.to_base64()).text("\n");
    }
    if let Some(endpoint) = peer.endpoint {
        let endpoint = endpoint_text(endpoint, out.style.scope_name);
        out.label("endpoint").text(&endpoint).text("\n");
    }
    out.label("allowed ips");
    if peer.allowed_ips.is_empty() {
        out.text("(none)");
    }
    for (index, prefix) in peer.allowed_ips.iter().enumerate() {
        out.text(if index == 0 { "" } else { ", " }).text(&prefix.addr().to_string());
        out.unit("/").text(&prefix.prefix_len().to_string());
    }
    out.text("\n");
    if let Some(time) = peer.last_handshake {
        out.label("latest handshake");
        match now.secs.checked_sub(time.secs) {
            Some(0) => {
                out.text("Now");
            }
            Some(seconds) => {
                out.span(seconds).text(" ago");
            }
            None => {
                let warning = "System clock wound backward; connection problems may ensue.";
                out.text("(").paint(&[RED]).text(warning).paint(&[RESET]).text(")");
            }
        }
        out.text("\n");
    }
    if (peer.rx_bytes, peer.tx_bytes) != (0, 0) {
        out.label("transfer").bytes(peer.rx_bytes).text(" received, ").bytes(peer.tx_bytes).text(" sent\n");
    }
    if peer.persistent_keepalive != 0 {
        out.label("persistent keepalive").text("every ").span(peer.persistent_keepalive.into()).text("\n");
    }
}

/// One field of one interface for scripts; every line begins with `prefix` and a tab if there is one (`show all`).
#[must_use]
pub fn field(
    field: Field,
    status: &DeviceStatus,
    prefix: Option<&str>,
    scope_name: ScopeName,
) -> Zeroizing<String> {
    let mut out = Printer::new(Style { scope_name, ..Style::default() }, status);
    let device = |out: &mut Printer, value: &str| {
        out.prefix(prefix).text(value).text("\n");
    };
    let private = status.private_key.as_ref();
    match field {
        Field::PublicKey => {
            device(&mut out, &or_none(private.map(|key| key.public_key().to_base64())));
        }
        Field::PrivateKey => match private {
            Some(key) => device(&mut out, &key.to_base64()),
            None => device(&mut out, NONE),
        },
        Field::ListenPort => device(&mut out, &status.listen_port.to_string()),
        Field::Fwmark => device(&mut out, &fwmark(status.fwmark)),
        Field::Dump => dump(&mut out, status, prefix),
        Field::Peers
        | Field::PresharedKeys
        | Field::Endpoints
        | Field::AllowedIps
        | Field::LatestHandshakes
        | Field::PersistentKeepalive
        | Field::Transfer => {
            for peer in &status.peers {
                out.prefix(prefix).text(&peer.public_key.to_base64());
                peer_column(&mut out, field, peer, " ");
                out.text("\n");
            }
        }
    }
    out.text
}

fn dump(out: &mut Printer, status: &DeviceStatus, prefix: Option<&str>) {
    out.prefix(prefix);
    match &status.private_key {
        Some(key) => out.text(&key.to_base64()).text("\t").text(&key.public_key().to_base64()),
        None => out.text(NONE).text("\t").text(NONE),
    };
    out.text(&format!("\t{}\t{}\n", status.listen_port, fwmark(status.fwmark)));
    for peer in &status.peers {
        out.prefix(prefix).text(&peer.public_key.to_base64());
        for column in [
            Field::PresharedKeys,
            Field::Endpoints,
            Field::AllowedIps,
            Field::LatestHandshakes,
            Field::Transfer,
            Field::PersistentKeepalive,
        ] {
            peer_column(out, column, peer, ",");
        }
        out.text("\n");
    }
}

/// A tab and the value of a peer's column.
fn peer_column(out: &mut Printer, field: Field, peer: &PeerStatus, separator: &str) {
    match field {
        Field::PresharedKeys => match &peer.preshared_key {
            Some(key) => {
                out.text("\t").text(&key.to_base64());
            }
            None => {
                out.text("\t").text(NONE);
            }
        },
        Field::Endpoints => {
            let endpoint = peer.endpoint.map(|endpoint| endpoint_text(endpoint, out.style.scope_name));
            out.text("\t").text(&or_none(endpoint));
        }
        Field::AllowedIps => {
            let prefixes: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
            let joined = Some(prefixes.join(separator)).filter(|_| !prefixes.is_empty());
            out.text("\t").text(&or_none(joined));
        }
        Field::LatestHandshakes => {
            out.text("\t").text(&peer.last_handshake.unwrap_or_default().secs.to_string());
        }
        Field::Transfer => {
            out.text(&format!("\t{}\t{}", peer.rx_bytes, peer.tx_bytes));
        }
        Field::PersistentKeepalive => {
            let seconds = Some(peer.persistent_keepalive).filter(|seconds| *seconds != 0);
            out.text("\t").text(&seconds.map_or_else(|| "off".to_owned(), |seconds| seconds.to_string()));
        }
        Field::PublicKey
        | Field::PrivateKey
        | Field::ListenPort
        | Field::Fwmark
        | Field::Peers
        | Field::Dump => {}
    }
}

const NONE: &str = "(none)";

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| NONE.to_owned())
}

fn fwmark(mark: u32) -> String {
    if mark == 0 { "off".to_owned() } else { format!("0x{mark:x}") }
}

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

/// Text that grows, with colours or without.
struct Printer {
    style: Style,
    text: Zeroizing<String>,
}

impl Printer {
    fn new(style: Style, status: &DeviceStatus) -> Self {
        let prefixes: usize = status.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        // Enough that the text never grows and leaves a copy of a key behind.
        let capacity = 512 + status.peers.len() * 768 + prefixes * 64;
        Self { style, text: Zeroizing::new(String::with_capacity(capacity)) }
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    fn paint(&mut self, sequences: &[&str]) -> &mut Self {
        if self.style.color {
            sequences.iter().for_each(|sequence| self.text.push_str(sequence));
        }
        self
    }

    fn label(&mut self, label: &str) -> &mut Self {
        self.text("  ").paint(&[BOLD]).text(label).paint(&[RESET]).text(": ")
    }

    fn unit(&mut self, unit: &str) -> &mut Self {
        self.paint(&[CYAN]).text(unit).paint(&[RESET])
    }

    fn secret(&mut self, secret: &str) -> &mut Self {
        let shown = if self.style.show_secrets { secret } else { "(hidden)" };
        self.text(shown)
    }

    fn prefix(&mut self, prefix: Option<&str>) -> &mut Self {
        match prefix {
            Some(prefix) => self.text(prefix).text("\t"),
            None => self,
        }
    }

    /// `1 day, 1 hour, 42 minutes, 42 seconds`; years have 365 days.
    fn span(&mut self, seconds: u64) -> &mut Self {
        let parts = [
            (seconds / (365 * 86400), "year"),
            (seconds / 86400 % 365, "day"),
            (seconds / 3600 % 24, "hour"),
            (seconds / 60 % 60, "minute"),
            (seconds % 60, "second"),
        ];
        for (index, (count, unit)) in parts.iter().filter(|(count, _)| *count != 0).enumerate() {
            let plural = if *count == 1 { "" } else { "s" };
            self.text(if index == 0 { "" } else { ", " }).text(&count.to_string()).text(" ");
            self.unit(&format!("{unit}{plural}"));
        }
        self
    }

    /// `117.74 MiB`; bytes have no decimals, and nothing is above TiB.
    fn bytes(&mut self, bytes: u64) -> &mut Self {
        const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.iter().find(|(shift, _)| bytes >> shift != 0) {
            None => self.text(&bytes.to_string()).text(" ").unit("B"),
            Some((shift, unit)) => {
                #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
                let value = bytes as f64 / (1_u64 << shift) as f64;
                write!(self.text, "{value:.2} ").expect("writing to a string cannot fail");
                self.unit(unit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PresharedKey, PrivateKey, PublicKey};

    const NOW: WallTime = WallTime { secs: 1_800_000_000, nanos: 0 };

    fn peer(byte: u8, age: Option<u64>) -> PeerStatus {
        PeerStatus {
            last_handshake: age.map(|age| WallTime { secs: NOW.secs - age, nanos: 5 }),
            ..PeerStatus::new(PublicKey::from_bytes([byte; 32]))
        }
    }

    /// The device whose `wg show` output these tests quote.
    fn device() -> DeviceStatus {
        let old = PeerStatus {
            preshared_key: Some(PresharedKey::from_bytes([0x22; 32])),
            endpoint: Some("192.95.5.67:1234".parse().unwrap()),
            tx_bytes: 1500,
            rx_bytes: 123_456_789,
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
            ..peer(0xa1, Some(92_562))
        };
        let recent = PeerStatus {
            endpoint: Some("[fd00::1]:5".parse().unwrap()),
            rx_bytes: 10,
            allowed_ips: vec!["0.0.0.0/0".parse().unwrap()],
            ..peer(0xc1, Some(6))
        };
        DeviceStatus {
            private_key: Some(PrivateKey::from_bytes([0x48; 32])),
            listen_port: 51820,
            fwmark: 255,
            peers: vec![old, peer(0xb1, None), recent],
        }
    }

    #[test]
    fn the_pretty_face_sorts_by_handshake_and_hides_keys() {
        let expected = "\
interface: obs0
  public key: kXeyMnjL8PPRfDbyrMm1XpyF+HsiClOG7DcNZj4g4zc=
  private key: (hidden)
  listening port: 51820
  fwmark: 0xff

peer: wcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcE=
  endpoint: [fd00::1]:5
  allowed ips: 0.0.0.0/0
  latest handshake: 6 seconds ago
  transfer: 10 B received, 0 B sent

peer: oaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaE=
  preshared key: (hidden)
  endpoint: 192.95.5.67:1234
  allowed ips: 10.0.0.0/8, fd00::/64
  latest handshake: 1 day, 1 hour, 42 minutes, 42 seconds ago
  transfer: 117.74 MiB received, 1.46 KiB sent
  persistent keepalive: every 25 seconds

peer: sbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbE=
  allowed ips: (none)
";
        assert_eq!(*pretty("obs0", &device(), Style::default(), NOW), expected);
    }

    #[test]
    fn colours_and_secrets_come_when_asked_for() {
        let text =
            pretty("obs0", &device(), Style { color: true, show_secrets: true, ..Style::default() }, NOW);
        for expected in [
            "\x1b[0m\x1b[32m\x1b[1minterface\x1b[0m: \x1b[32mobs0\x1b[0m\n",
            "  \x1b[1mprivate key\x1b[0m: SEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEg=\n",
            "\x1b[33m\x1b[1mpeer\x1b[0m: \x1b[33mwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcE=\x1b[0m\n",
            "  \x1b[1mpreshared key\x1b[0m: IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=\n",
            "  \x1b[1mallowed ips\x1b[0m: 10.0.0.0\x1b[36m/\x1b[0m8, fd00::\x1b[36m/\x1b[0m64\n",
            "  \x1b[1mtransfer\x1b[0m: 10 \x1b[36mB\x1b[0m received, 0 \x1b[36mB\x1b[0m sent\n",
            "  \x1b[1mpersistent keepalive\x1b[0m: every 25 \x1b[36mseconds\x1b[0m\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{}", *text);
        }
    }

    #[test]
    fn times_read_as_wg_writes_them() {
        for (seconds, expected) in [
            (1, "1 second"),
            (60, "1 minute"),
            (3601, "1 hour, 1 second"),
            (86400 * 365, "1 year"),
            (86400 * 366 + 7206, "1 year, 1 day, 2 hours, 6 seconds"),
            (65535, "18 hours, 12 minutes, 15 seconds"),
        ] {
            let mut out = Printer::new(Style::default(), &DeviceStatus::default());
            assert_eq!(*out.span(seconds).text, expected);
        }
        let now = |peer| {
            pretty("x", &DeviceStatus { peers: vec![peer], ..DeviceStatus::default() }, Style::default(), NOW)
        };
        assert!(now(peer(1, Some(0))).contains("  latest handshake: Now\n"));
        let future =
            PeerStatus { last_handshake: Some(WallTime { secs: NOW.secs + 9, nanos: 0 }), ..peer(1, None) };
        let warning = "  latest handshake: (System clock wound backward; connection problems may ensue.)\n";
        assert!(now(future).contains(warning));
    }

    #[test]
    fn bytes_read_as_wg_writes_them() {
        for (bytes, expected) in [
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            ((1 << 20) - 1, "1024.00 KiB"),
            (1 << 30, "1.00 GiB"),
            (5 << 50, "5120.00 TiB"),
            (u64::MAX, "16777216.00 TiB"),
        ] {
            let mut out = Printer::new(Style::default(), &DeviceStatus::default());
            assert_eq!(*out.bytes(bytes).text, expected);
        }
    }

    #[test]
    fn a_dump_is_separated_by_tabs() {
        let t = NOW.secs;
        let expected = format!(
            "SEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEg=\tkXeyMnjL8PPRfDbyrMm1XpyF+HsiClOG7DcNZj4g4zc=\t51820\t0xff\n\
             oaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaE=\tIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=\t192.95.5.67:1234\t\
             10.0.0.0/8,fd00::/64\t{}\t123456789\t1500\t25\n\
             sbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbE=\t(none)\t(none)\t(none)\t0\t0\t0\toff\n\
             wcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcE=\t(none)\t[fd00::1]:5\t0.0.0.0/0\t{}\t10\t0\toff\n",
            t - 92_562,
            t - 6,
        );
        assert_eq!(*field(Field::Dump, &device(), None, |_| None), expected);
        let bare = DeviceStatus::default();
        assert_eq!(*field(Field::Dump, &bare, Some("wg1"), |_| None), "wg1\t(none)\t(none)\t0\toff\n");
        assert_eq!(*pretty("wg1", &bare, Style::default(), NOW), "interface: wg1\n");
    }

    #[test]
    fn single_fields_are_one_line_a_peer() {
        let all = |name| field(name, &device(), Some("obs0"), |_| None);
        assert_eq!(*all(Field::Fwmark), "obs0\t0xff\n");
        assert_eq!(*field(Field::ListenPort, &device(), None, |_| None), "51820\n");
        assert!(all(Field::AllowedIps).starts_with(
            "obs0\toaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaE=\t10.0.0.0/8 fd00::/64\nobs0\tsbGx"
        ));
        assert!(all(Field::Transfer).ends_with("wcE=\t10\t0\n"));
        assert_eq!(all(Field::Endpoints).lines().filter(|line| line.starts_with("obs0\t")).count(), 3);
    }
}
