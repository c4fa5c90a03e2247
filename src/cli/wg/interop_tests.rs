//! `wg` of wireguard-tools and our own commands against the same running server: same output, same effect. (tests)
//!
//! Where `wg` looks for sockets was chosen when it was built, so it runs in a mount namespace of its own with our
//! socket in that place.

use std::process::{Command, Output};

use clap::Parser;

use super::WgArgs;
use super::show::scope_name;
use crate::config::device::{DeviceStatus, PeerStatus};
use crate::config::emit::showconf;
use crate::driver::clock;
use crate::driver::fake_tunnel::FakeTunnel;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::time::WallTime;
use crate::uapi::json::show_json;
use crate::uapi::show::{FIELD_NAMES, Style, field, pretty};

const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

/// `sh` gets the socket, then the words of `wg`.
const IN_PLACE: &str = "mount -t tmpfs tmpfs /run && mkdir -p /var/run/wireguard && \
                        ln -s \"$1\" /var/run/wireguard/wg0.sock && shift && exec \"$@\"";

/// Whether `wg` can be run like that here. A skip is printed, and a failure where it is required.
fn wg_is_there() -> bool {
    let mut missing = Vec::new();
    if !Command::new("wg").arg("--version").output().is_ok_and(|output| output.status.success()) {
        missing.push("wg");
    }
    if !in_namespace().args(["true"]).output().is_ok_and(|output| output.status.success()) {
        missing.push("netns");
    }
    let required = std::env::var("WG4NETNS_REQUIRE").unwrap_or_default();
    for what in &missing {
        assert!(!required.split(',').any(|item| item == *what), "{what} is required and not there");
        println!("SKIPPED: {what} is not there");
    }
    missing.is_empty()
}

fn in_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(if nix::unistd::geteuid().is_root() { ["-m"] } else { ["-Urm"] });
    command
}

fn run(tunnel: &FakeTunnel, program: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = in_namespace();
    command.args(["sh", "-ec", IN_PLACE, "sh"]).arg(tunnel.client().path()).args(program);
    command.env_remove("WG_COLOR_MODE").env_remove("WG_HIDE_KEYS").envs(environment.iter().copied());
    command.output().expect("unshare was found before")
}

/// What `wg` prints; it must succeed.
fn wg(tunnel: &FakeTunnel, words: &str, environment: &[(&str, &str)]) -> String {
    let program: Vec<_> = ["wg"].into_iter().chain(words.split(' ')).collect();
    let output = run(tunnel, &program, environment);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "wg {words}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[derive(Parser)]
struct OurLine {
    #[command(subcommand)]
    command: WgArgs,
}

/// Runs our own command.
fn ours(tunnel: &FakeTunnel, words: &str) -> Result<u8, super::WgCommandError> {
    let directory = tunnel.directory().path().to_str().unwrap();
    let (command, rest) = words.split_once(' ').unwrap();
    let line = ["wg4netns", command, "--uapi-dir", directory].into_iter().chain(rest.split(' '));
    OurLine::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).command.run()
}

fn device() -> DeviceStatus {
    let now = clock::now().wall.secs;
    let peer = |byte| PeerStatus::new(PublicKey::from_bytes([byte; 32]));
    let heard = |age: u64| Some(WallTime { secs: now - age, nanos: 7 });
    let endpoint = |text: &str| Some(text.parse().unwrap());
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
    let peers = vec![
        PeerStatus {
            preshared_key: Some(PresharedKey::from_bytes([0x22; 32])),
            endpoint: endpoint("192.95.5.67:1234"),
            last_handshake: heard(92_561),
            tx_bytes: 1500,
            rx_bytes: 123_456_789,
            persistent_keepalive: 25,
            allowed_ips: nets(&["10.0.0.0/8", "fd00::/64"]),
            ..peer(0xa1)
        },
        peer(0xb1),
        PeerStatus {
            endpoint: endpoint("[fd00::1]:5"),
            last_handshake: heard(86400 * 366 + 7200),
            rx_bytes: 10,
            tx_bytes: u64::MAX,
            persistent_keepalive: 3661,
            allowed_ips: nets(&["0.0.0.0/0"]),
            ..peer(0xc1)
        },
        PeerStatus {
            // The loopback interface is the first in every namespace.
            endpoint: endpoint("[fe80::1%1]:5"),
            last_handshake: heard(1),
            rx_bytes: 5 << 30,
            ..peer(0xd1)
        },
    ];
    DeviceStatus {
        private_key: Some(PrivateKey::from_bytes([0x48; 32])),
        listen_port: 51820,
        fwmark: 255,
        peers,
    }
}

#[test]
fn every_field_reads_as_wg_prints_it() {
    if !wg_is_there() {
        return;
    }
    for status in [device(), DeviceStatus::default()] {
        let tunnel = FakeTunnel::start(status.clone());
        for (name, column) in FIELD_NAMES {
            assert_eq!(
                *field(*column, &status, None, scope_name),
                wg(&tunnel, &format!("show wg0 {name}"), &[]),
                "{name}"
            );
            // `wg` 1.0.20210914 leaves out the interface on all lines of `endpoints` but the first.
            if *name != "endpoints" {
                let all = wg(&tunnel, &format!("show all {name}"), &[]);
                assert_eq!(*field(*column, &status, Some("wg0"), scope_name), all, "all {name}");
            }
        }
        assert_eq!(*showconf(&status, scope_name), wg(&tunnel, "showconf wg0", &[]));
        assert_eq!(wg(&tunnel, "show interfaces", &[]), "wg0\n");
    }
}

#[test]
fn the_pretty_face_is_that_of_wg_with_and_without_colours() {
    if !wg_is_there() {
        return;
    }
    let tunnel = FakeTunnel::start(device());
    let status = tunnel.client().status().unwrap();
    for (environment, style) in [
        (vec![], Style { scope_name, ..Style::default() }),
        (vec![("WG_COLOR_MODE", "always")], Style { color: true, show_secrets: false, scope_name }),
        (vec![("WG_HIDE_KEYS", "never")], Style { color: false, show_secrets: true, scope_name }),
    ] {
        // Both must have looked at the clock in the same second.
        let compared = (0..20).any(|_| {
            let before = clock::now().wall;
            let theirs = wg(&tunnel, "show wg0", &environment);
            let same_second = before.secs == clock::now().wall.secs;
            if same_second {
                assert_eq!(*pretty("wg0", &status, style, before), theirs, "{environment:?}");
            }
            same_second
        });
        assert!(compared, "twenty runs of wg all crossed a second");
    }
}

#[test]
fn wg_changes_the_device_and_so_do_our_own_words() {
    if !wg_is_there() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    std::fs::write(&key, format!("{PEER}\n")).unwrap();
    let key = key.display();
    let lines = [
        format!("set wg0 listen-port 7 private-key {key}"),
        format!(
            "set wg0 peer {PEER} endpoint 192.0.2.1:9 allowed-ips 10.1.2.3/8,fd00::/64 persistent-keepalive 25"
        ),
        format!("set wg0 peer {PEER} preshared-key {key} allowed-ips 10.0.0.0/16"),
        format!("set wg0 peer {PEER} persistent-keepalive off endpoint [::1]:5"),
        format!("set wg0 peer {PEER} preshared-key /dev/null"),
        "set wg0 private-key /dev/null listen-port 0".to_owned(),
        format!("set wg0 peer {PEER} remove"),
    ];
    // Made once: it holds the time of its making.
    let before = device();
    let (theirs, mine) = (FakeTunnel::start(before.clone()), FakeTunnel::start(before));
    for line in &lines {
        wg(&theirs, line, &[]);
        ours(&mine, line).unwrap();
        let changed = theirs.client().status().unwrap();
        assert_eq!(mine.client().status().unwrap(), changed, "{line}");
    }
    assert_eq!(
        theirs.client().status().unwrap().peers.len(),
        device().peers.len(),
        "the new peer is gone again"
    );
}

#[test]
fn files_have_the_effect_they_have_with_wg() {
    if !wg_is_there() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("wg0.conf");
    let peer = PublicKey::from_bytes([0xa1; 32]).to_base64();
    let text = format!(
        "[Interface]\nListenPort = 9\nPrivateKey = {PEER}\n[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.0.0.0/8\n\
         [Peer]\nPublicKey = {peer}\nEndpoint = 192.0.2.1:5\nPersistentKeepalive = 25\n"
    );
    std::fs::write(&path, text).unwrap();
    let off = scratch.path().join("off.conf");
    std::fs::write(
        &off,
        format!(
            "[Peer]\nPublicKey = {peer}\nPresharedKey = {}=\nPersistentKeepalive = off\n",
            "A".repeat(43)
        ),
    )
    .unwrap();
    for (command, path) in [("addconf", &path), ("addconf", &off), ("setconf", &path), ("syncconf", &path)] {
        let line = format!("{command} wg0 {}", path.display());
        // The mark cannot be set by a server without privileges; neither file has one.
        let start = DeviceStatus { fwmark: 0, ..device() };
        let (theirs, mine) = (FakeTunnel::start(start.clone()), FakeTunnel::start(start));
        wg(&theirs, &line, &[]);
        ours(&mine, &line).unwrap();
        let sorted = |tunnel: &FakeTunnel| {
            let mut status = tunnel.client().status().unwrap();
            status.peers.sort_by_key(|peer| peer.public_key);
            status
        };
        let (mut theirs, mine) = (sorted(&theirs), sorted(&mine));
        if command == "syncconf" {
            // `wg` 1.0.20210914 leaves a preshared key that the file no longer has; we make the device what it says.
            let kept =
                theirs.peers.iter_mut().find(|peer| peer.public_key.to_base64() == peer_key()).unwrap();
            assert!(kept.preshared_key.take().is_some());
        }
        assert_eq!(mine, theirs, "{command}");
    }
}

fn peer_key() -> String {
    PublicKey::from_bytes([0xa1; 32]).to_base64()
}

#[test]
fn setconf_makes_a_real_device_what_the_file_says_and_nothing_more() {
    if !wg_is_there() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("wg0.conf");
    let tunnel = FakeTunnel::start_device();
    let private = PrivateKey::from_bytes([0x48; 32]).to_base64();
    let with = |lines: &str| {
        let text = format!("[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {PEER}\n{lines}", *private);
        std::fs::write(&path, text).unwrap();
        wg(&tunnel, &format!("setconf wg0 {}", path.display()), &[]);
        tunnel.client().status().unwrap().peers.remove(0)
    };
    let first = with(&format!(
        "PresharedKey = {PEER}\nAllowedIPs = 10.0.0.0/8\nEndpoint = 192.0.2.1:5\nPersistentKeepalive = 25\n"
    ));
    assert!(first.preshared_key.is_some() && first.endpoint.is_some());
    assert_eq!((first.persistent_keepalive, first.allowed_ips.len()), (25, 1));
    let second = with("");
    assert_eq!((second.preshared_key, second.endpoint), (None, None));
    assert_eq!((second.persistent_keepalive, second.allowed_ips), (0, vec![]));
}

#[test]
fn wg_says_what_was_refused() {
    if !wg_is_there() {
        return;
    }
    let tunnel = FakeTunnel::start(DeviceStatus::default());
    let output = run(&tunnel, &["wg", "set", "wg0", "fwmark", "5"], &[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "Unable to modify interface: Operation not permitted\n"
    );
    let error = ours(&tunnel, "set wg0 fwmark 5").unwrap_err();
    assert_eq!(
        crate::cli::report::chain(&error),
        format!(
            "cannot talk to `wg0`: `{}` answered: Operation not permitted (os error 1)",
            tunnel.client().path().display()
        )
    );
}

#[test]
fn a_socket_that_nobody_serves_is_explained() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().canonicalize().unwrap().join("wg0.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let line = ["wg4netns", "show", "--uapi-dir", scratch.path().to_str().unwrap(), "wg0"];
    let error = OurLine::try_parse_from(line).unwrap().command.run().unwrap_err();
    assert_eq!(
        crate::cli::report::chain(&error),
        format!(
            "cannot talk to `wg0`: cannot connect to `{}`: Connection refused (os error 111)",
            path.display()
        )
    );
    assert_eq!(
        crate::cli::hint::hint(&error).unwrap(),
        "no wg4netns is running for `wg0`; the socket is a leftover and can be removed"
    );
}

#[test]
fn switching_changes_device_and_network_and_leaves_the_rest_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("other.conf");
    let stays = PeerStatus {
        endpoint: Some("192.0.2.1:5".parse().unwrap()),
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        rx_bytes: 99,
        ..PeerStatus::new(PublicKey::from_bytes([0xa1; 32]))
    };
    let goes = PeerStatus::new(PublicKey::from_bytes([0xb1; 32]));
    let key = PrivateKey::from_bytes([0x48; 32]);
    let tunnel = FakeTunnel::start(DeviceStatus {
        private_key: Some(key.clone()),
        listen_port: 51820,
        fwmark: 0,
        peers: vec![goes, stays.clone()],
    });
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24\nMTU = 1400\n\
         [Peer]\nPublicKey = {}\nEndpoint = 192.0.2.1:5\nAllowedIPs = 10.0.0.0/8\n",
        *key.to_base64(),
        peer_key()
    );
    std::fs::write(&path, text).unwrap();
    ours(&tunnel, &format!("switch wg0 {}", path.display())).unwrap();
    let status = tunnel.client().status().unwrap();
    assert_eq!((status.peers, status.listen_port), (vec![stays], 51820));
    let plan = tunnel.network();
    assert_eq!(plan.addresses, ["10.9.0.1/24".parse().unwrap()]);
    assert_eq!((plan.routes, plan.mtu), (vec!["10.0.0.0/8".parse().unwrap()], Some(1400)));
}

#[test]
fn our_json_has_the_shape_of_wg_json() {
    let status = device();
    let json: serde_json::Value =
        serde_json::from_str(&show_json(&[("wg0".to_owned(), status)], true, scope_name)).unwrap();
    let script = std::path::Path::new("/usr/share/doc/wireguard-tools/examples/json/wg-json");
    if !wg_is_there() || !script.exists() {
        return;
    }
    let tunnel = FakeTunnel::start(device());
    let output = run(&tunnel, &["bash", script.to_str().unwrap()], &[]);
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // The handshakes are a moment apart.
    let without_times = |json: &serde_json::Value| {
        let mut json = json.clone();
        let peers = json["wg0"]["peers"].as_object_mut().unwrap();
        peers.values_mut().for_each(|peer| drop(peer.as_object_mut().unwrap().remove("latestHandshake")));
        // bash reads numbers as signed.
        peers.values_mut().for_each(|peer| drop(peer.as_object_mut().unwrap().remove("transferTx")));
        json
    };
    assert_eq!(without_times(&json), without_times(&theirs));
}
