//! The peer of the demonstration as the process it is, talked to by boringtun's engine over loopback: no TUN of ours.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wg4netns::key::{PresharedKey, PrivateKey, PublicKey};

#[test]
fn a_client_shakes_hands_and_its_echo_request_is_answered() {
    let Some(mut peer) = Peer::start(&["--psk"]) else { return };
    let reply = peer.client(0).echo();
    assert_eq!((reply[9], reply[20]), (1, 0), "an echo reply: {reply:?}");
    assert_eq!((&reply[12..16], &reply[16..20]), (&[10, 77, 0, 1][..], &[10, 77, 0, 2][..]));
    assert_eq!(peer.stop(), Some(0));
}

#[test]
fn several_clients_over_ipv6_each_have_their_own_address() {
    let Some(mut peer) = Peer::start(&["--listen", "[::1]:0", "--clients", "3"]) else { return };
    for number in 0..3 {
        let reply = peer.client(number).echo();
        assert_eq!(usize::from(reply[19]), number + 2);
    }
    assert_eq!(peer.stop(), Some(0));
}

#[test]
fn a_wrong_preshared_key_gets_no_session() {
    let Some(peer) = Peer::start(&["--psk"]) else { return };
    let mut client = peer.client(0);
    client.tunn = tunn(&client.private, &client.theirs, Some(PresharedKey::from_bytes([1; 32])));
    assert!(client.try_echo().is_none());
}

/// A running `demo --peer` and what it printed.
struct Peer {
    child: Child,
    configs: Vec<String>,
}

impl Peer {
    /// `None`, aloud, where user namespaces or the TUN device are missing.
    fn start(flags: &[&str]) -> Option<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wg4netns"))
            .args(["demo", "--peer"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let mut text = String::new();
        let mut stdout = child.stdout.take().expect("a pipe was asked for");
        stdout.read_to_string(&mut text).expect("it prints text and closes its output");
        if text.is_empty() {
            let status = child.wait().expect("it has ended");
            assert_eq!(status.code(), Some(5), "it says what the kernel lacks");
            assert!(!super::is_required("netns"), "namespaces are required");
            std::io::stderr().write_all(b"skipped: no user namespaces or no TUN device here\n").ok();
            return None;
        }
        let configs = text.split("# wg4netns demo peer").skip(1).map(str::to_owned).collect();
        Some(Self { child, configs })
    }

    fn client(&self, number: usize) -> Client {
        let value = |key: &str| {
            let line = self.configs[number].lines().find_map(|line| line.strip_prefix(key));
            line.map(|rest| rest.trim_start_matches(" = ").to_owned())
        };
        let private = PrivateKey::parse_base64(&value("PrivateKey").expect("a private key")).expect("base64");
        let theirs = PublicKey::parse_base64(&value("PublicKey").expect("a public key")).expect("base64");
        let shared = value("PresharedKey").map(|key| PresharedKey::parse_base64(&key).expect("base64"));
        let endpoint = value("Endpoint").expect("an endpoint");
        let socket = UdpSocket::bind(if endpoint.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" });
        let socket = socket.expect("loopback has ports");
        socket.connect(&endpoint).expect("loopback is reachable");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("two seconds are a timeout");
        let tunn = tunn(&private, &theirs, shared);
        Client { socket, tunn, private, theirs, host: u8::try_from(number + 2).expect("a few clients") }
    }

    fn stop(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("it is our child");
        self.child.wait().expect("it is our child").code()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

struct Client {
    socket: UdpSocket,
    tunn: Tunn,
    private: PrivateKey,
    theirs: PublicKey,
    host: u8,
}

impl Client {
    fn echo(&mut self) -> Vec<u8> {
        self.try_echo().expect("the peer answers")
    }

    /// Sends an echo request through a new session; gives the packet that comes back.
    fn try_echo(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let request = echo_request(self.host);
        let TunnResult::WriteToNetwork(initiation) = self.tunn.encapsulate(&request, &mut buffer) else {
            panic!("a packet without a session begins a handshake")
        };
        self.socket.send(initiation).expect("loopback takes datagrams");
        for _ in 0..8 {
            let mut datagram = [0; 2048];
            let len = self.socket.recv(&mut datagram).ok()?;
            let mut result = self.tunn.decapsulate(None, &datagram[..len], &mut buffer);
            while let TunnResult::WriteToNetwork(reply) = result {
                self.socket.send(reply).expect("loopback takes datagrams");
                result = self.tunn.decapsulate(None, &[], &mut buffer);
            }
            if let TunnResult::WriteToTunnelV4(packet, _) = result {
                return Some(packet.to_vec());
            }
        }
        None
    }
}

fn tunn(private: &PrivateKey, theirs: &PublicKey, shared: Option<PresharedKey>) -> Tunn {
    let shared = shared.map(|key| *key.as_bytes());
    let private = x25519::StaticSecret::from(*private.as_bytes());
    Tunn::new(private, x25519::PublicKey::from(*theirs.as_bytes()), shared, None, 1, None)
}

/// An IPv4 echo request from a client to the peer.
fn echo_request(host: u8) -> Vec<u8> {
    let mut packet = vec![0; 48];
    packet[..10].copy_from_slice(&[0x45, 0, 0, 48, 0, 0, 0, 0, 64, 1]);
    packet[12..20].copy_from_slice(&[10, 77, 0, host, 10, 77, 0, 1]);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20] = 8;
    let sum = checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}
