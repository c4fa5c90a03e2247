//! Floods a UDP port from forged sources, or drains one. For `910-floods.sh` and `911-handshakes-under-flood.sh`; needs
//! CAP_NET_RAW where it runs.
//!
//! ```text
//! flood junk|initiations RATE SECONDS ADDRESS:PORT PUBLIC-KEY [SOURCES]    datagrams a second; prints how many were sent
//! flood drain PORT                                                         reads and forgets, until it is killed
//! ```
//!
//! `junk` is 1400 random bytes. `initiations` are handshake initiations with a valid MAC1, which whoever knows the public
//! key can make; behind it they are random, so that the receiver must compute to find out. The datagrams come from
//! SOURCES addresses of 10.64.0.0/10 in turn, without it from all of them.
#![expect(clippy::disallowed_methods, reason = "it keeps a rate, so it reads the clock")]
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use wg4netns::crypto::{self, Entropy, SystemEntropy};
use wg4netns::key::PublicKey;

/// Different payloads; sources differ more often.
const PAYLOADS: usize = 4096;

/// The addresses of 10.64.0.0/10.
const ALL_SOURCES: u32 = 1 << 22;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["drain", port] => drain(port.parse()?),
        [kind @ ("junk" | "initiations"), rate, seconds, to, key, ref sources @ ..] if sources.len() < 2 => {
            let key = PublicKey::parse_base64(key)?;
            let seconds = Duration::from_secs(seconds.parse()?);
            let sources = sources.first().map_or(Ok(ALL_SOURCES), |sources| sources.parse())?;
            if !(1..=ALL_SOURCES).contains(&sources) {
                return Err(format!("from 1 to {ALL_SOURCES} sources").into());
            }
            println!("{}", flood(&payloads(kind, &key), rate.parse()?, seconds, to.parse()?, sources)?);
            Ok(())
        }
        _ => {
            Err("flood junk|initiations RATE SECONDS ADDRESS:PORT PUBLIC-KEY [SOURCES], or flood drain PORT"
                .into())
        }
    }
}

fn drain(port: u16) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let mut buffer = [0; 2048];
    loop {
        socket.recv_from(&mut buffer)?;
    }
}

fn payloads(kind: &str, key: &PublicKey) -> Vec<Vec<u8>> {
    let mut entropy = SystemEntropy::new();
    let mac1_key = crypto::hash(&[b"mac1----", key.as_bytes()]);
    let mut payload = || {
        let mut bytes = vec![0; if kind == "junk" { 1400 } else { 148 }];
        entropy.fill(&mut bytes);
        if kind == "initiations" {
            bytes[..4].copy_from_slice(&[1, 0, 0, 0]);
            let mac1 = crypto::mac(&mac1_key, &[&bytes[..116]]);
            bytes[116..132].copy_from_slice(&mac1);
        }
        bytes
    };
    (0..PAYLOADS).map(|_| payload()).collect()
}

fn flood(
    payloads: &[Vec<u8>],
    rate: u64,
    length: Duration,
    to: SocketAddrV4,
    sources: u32,
) -> Result<u64, Box<dyn Error>> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    let address = SockaddrIn::from(to);
    let begin = Instant::now();
    let (mut tried, mut sent, mut source) = (0_u64, 0_u64, 0_u32);
    while begin.elapsed() < length {
        let due = u64::try_from(begin.elapsed().as_micros())? * rate / 1_000_000;
        while tried < due {
            let payload = &payloads[usize::try_from(tried)? % payloads.len()];
            let from = Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() | source);
            // A stride that, of a power of two of addresses, meets each once before it meets one again.
            source = (source + 0x9e37) % sources;
            let packet = packet(from, to, payload)?;
            // A full queue loses what it cannot take, as a network does.
            match sendto(raw.as_raw_fd(), &packet, &address, MsgFlags::empty()) {
                Ok(_) => sent += 1,
                Err(_) => std::thread::yield_now(),
            }
            tried += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(sent)
}

/// An IPv4 header (the kernel fills in length, id and checksum), a UDP header without a checksum, the payload.
fn packet(from: Ipv4Addr, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut packet = Vec::with_capacity(28 + payload.len());
    packet.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.ip().octets());
    packet.extend_from_slice(&40_000_u16.to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&u16::try_from(8 + payload.len())?.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    Ok(packet)
}
