//! Splitting and joining against the kernel: what its sockets send through a TUN with offloads comes back whole.
//!
//! # Theory of operation
//! In a namespace of its own, everything for the other address goes to a TUN. Its reader splits each super-packet,
//! swaps source and destination, joins what it has and writes it back: so a connection to the other address reaches a
//! listener on our own. Swapping changes no checksum, so the kernel accepts only what was cut and joined rightly.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wg4netns::driver::link::{Link, ReadOutcome, Shutdown};
use wg4netns::driver::udp::{RECEIVE_STRIDE, UdpPort};
use wg4netns::packet::batch::{DatagramBatch, PacketBatch, Path, VNET_HEADER_LEN};
use wg4netns::packet::coalesce::{CoalesceConfig, Coalescer};
use wg4netns::packet::split::{SegmentLayout, split};
use wg4netns::sys::tun;
use wg4netns::time::BootTime;

/// Our address, and the one behind the TUN.
const V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const V6: [&str; 2] = ["fd77::1", "fd77::2"];

const LAYOUT: SegmentLayout = SegmentLayout { headroom: 16, tailroom: 16, mtu: 1420 };

/// What the reader of the TUN has met.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Most segments of one packet that was read.
    most_split: usize,
    /// Most packets in one that was written.
    most_joined: usize,
    refused: usize,
}

#[test]
fn tcp_through_split_and_join_arrives_as_it_was_sent() {
    let Some(mirror) = Mirror::inside("tcp_through_split_and_join_arrives_as_it_was_sent") else { return };
    for [ours, theirs] in [V4, V6] {
        let listener = TcpListener::bind((ours, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = bytes(8 << 20);
        let copy = sent.clone();
        let sender = thread::spawn(move || {
            let mut stream = TcpStream::connect((theirs, port)).unwrap();
            stream.write_all(&copy).unwrap();
        });
        let (mut stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), theirs.parse::<IpAddr>().unwrap());
        let mut received = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == sent, "bytes were lost, changed or moved");
        sender.join().unwrap();
    }
    let seen = mirror.end();
    assert!(seen.most_split > 10, "the kernel sends TCP in super-packets: {seen:?}");
    assert!(seen.most_joined > 10 && seen.refused == 0, "the kernel takes joined TCP: {seen:?}");
}

#[test]
fn udp_through_split_and_join_arrives_as_it_was_sent() {
    let Some(mirror) = Mirror::inside("udp_through_split_and_join_arrives_as_it_was_sent") else { return };
    let (from, to) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for [_, theirs] in [V4, V6] {
        for (segment_len, count, last) in [(1200, 40, 1200), (1200, 40, 7), (100, 64, 100), (1300, 1, 1300)] {
            let len = segment_len * (count - 1) + last;
            let mut batch = DatagramBatch::with_capacity(len, 1);
            batch.spare().copy_from_slice(&bytes(len));
            let remote = SocketAddr::new(theirs.parse().unwrap(), to.local_port());
            batch.commit(len, segment_len, Path::to(remote), 0);
            let mut received = DatagramBatch::with_capacity(RECEIVE_STRIDE, 1);
            let arrived = AtomicBool::new(false);
            let watchdog = Watchdog::new();
            thread::scope(|scope| {
                // UDP may lose what comes before the interface has settled: said again until it is heard.
                scope.spawn(|| {
                    while !arrived.load(Ordering::Acquire) {
                        let outcome = from.send(&batch, BootTime::from_nanos(1));
                        assert_eq!(outcome.datagrams, count, "{outcome:?}");
                        thread::park_timeout(Duration::from_millis(200));
                    }
                });
                loop {
                    to.receive(&mut received).unwrap();
                    let slot = received.slots()[0];
                    // One run again; what was said twice of the round before is passed over.
                    if (slot.len, slot.segment_len) == (len, segment_len) {
                        break;
                    }
                }
                arrived.store(true, Ordering::Release);
            });
            drop(watchdog);
            let slot = received.slots()[0];
            assert!(received.bytes(&slot) == bytes(len), "bytes were lost, changed or moved");
        }
    }
    let seen = mirror.end();
    assert!(seen.most_split == 64 && seen.most_joined == 64 && seen.refused == 0, "{seen:?}");
}

/// Bytes that no shift leaves alike.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from((index * 31 + index / 251) % 256).unwrap()).collect()
}

/// Ends the process if what it guards takes too long: a blocking receive has no deadline of its own.
struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn new() -> Self {
        let (alive, gone) = std::sync::mpsc::channel();
        thread::spawn(move || {
            if gone.recv_timeout(Duration::from_secs(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("nothing arrived within 20 s");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// The TUN and the thread that mirrors what comes out of it.
struct Mirror {
    shutdown: Arc<Shutdown>,
    thread: thread::JoinHandle<Seen>,
}

impl Mirror {
    /// Inside a namespace: the mirror. Outside: runs this very test in one, and nothing here.
    fn inside(test: &str) -> Option<Self> {
        const INSIDE: &str = "WG4NETNS_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_none() {
            if std::fs::File::options().read(true).write(true).open(tun::TUN_PATH).is_err() {
                assert!(!crate::netns::is_required("tun"), "`{}` cannot be opened", tun::TUN_PATH);
                eprintln!("SKIPPED {test}: `{}` cannot be opened", tun::TUN_PATH);
                return None;
            }
            let output = Command::new("unshare")
                .args(["-Urn", "sh", "-ec", "ip link set lo up; exec \"$@\"", "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", &format!("packet_tun::{test}"), "--nocapture"])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "inside: {said}");
            return None;
        }
        let queue = tun::create("wg0", 1).unwrap().remove(0);
        for command in [
            "link set wg0 mtu 1420 up",
            "addr add 10.77.0.1/32 dev wg0",
            "route add 10.77.0.2/32 dev wg0 src 10.77.0.1",
            "addr add fd77::1/128 dev wg0 nodad",
            "route add fd77::2/128 dev wg0 src fd77::1",
        ] {
            assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success(), "ip {command}");
        }
        let shutdown = Shutdown::new().unwrap();
        let link = Link::from_tun(queue, Arc::clone(&shutdown)).unwrap();
        Some(Self { shutdown, thread: thread::spawn(move || mirror(&link)) })
    }

    fn end(self) -> Seen {
        self.shutdown.request();
        self.thread.join().unwrap()
    }
}

/// Splits, swaps and joins until shutdown.
fn mirror(link: &Link) -> Seen {
    let mut seen = Seen::default();
    let mut batch = PacketBatch::with_capacity(1 << 18, 64);
    let mut out = PacketBatch::with_capacity(1 << 20, 4096);
    let mut slab = vec![0; 64 * LAYOUT.room()];
    let mut coalescer = Coalescer::new(CoalesceConfig { tcp: true, udp: link.offloads().udp });
    let mut refused = Vec::new();
    while let ReadOutcome::Packets = link.read_batch(&mut batch).unwrap() {
        let (mut used, mut ranges) = (0, Vec::new());
        for framed in batch.iter() {
            // What is no super-packet and no packet of ours (neighbour discovery, say) is of no interest.
            let Ok(segments) = split(framed, &LAYOUT, &mut slab[used..]) else { continue };
            seen.most_split = seen.most_split.max(segments.count);
            for index in 0..segments.count {
                let range = segments.range(index);
                let packet = used + range.start + LAYOUT.headroom..used + range.end - LAYOUT.tailroom;
                swap_addresses(&mut slab[packet.clone()]);
                ranges.push(packet);
            }
            used += segments.total_len;
        }
        out.clear();
        coalescer.coalesce(&slab, &ranges, &mut out);
        for framed in out.iter().filter(|framed| framed[1] != 0) {
            let gso_size = usize::from(u16::from_ne_bytes([framed[4], framed[5]]));
            let headers = usize::from(u16::from_ne_bytes([framed[2], framed[3]]));
            let joined = (framed.len() - VNET_HEADER_LEN - headers).div_ceil(gso_size);
            seen.most_joined = seen.most_joined.max(joined);
        }
        link.write_batch(&out, &mut refused).unwrap();
        seen.refused += refused.len();
    }
    seen
}

fn swap_addresses(packet: &mut [u8]) {
    let (at, len) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    let (source, destination) = packet[at..at + 2 * len].split_at_mut(len);
    source.swap_with_slice(destination);
}
