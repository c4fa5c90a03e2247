//! The data plane under real threads: several senders and receivers share a peer with the control half, while sessions
//! are renewed as fast as the clock, which runs two thousand times too fast, will have it.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::key::PrivateKey;
use wg4netns::packet::batch::{DatagramBatch, PacketBatch, Path, VNET_HEADER_LEN};
use wg4netns::time::Now;
use wg4netns::wireguard::{DataPlane, Device, DeviceEvent, RxPath, TX_SLAB_LEN, TxPath};

use crate::wireguard_node::{Random, after, packet};

/// Threads of each kind at each end.
const THREADS: u64 = 2;

/// Renewals to live through.
const SESSIONS: u64 = 30;

/// Far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct World {
    /// Nanoseconds since the start.
    clock: AtomicU64,
    stop: AtomicBool,
    /// Receiver index and counter of every data message.
    nonces: Mutex<HashSet<(u32, u64)>>,
    delivered: Mutex<HashSet<u64>>,
    sessions: AtomicU64,
    next_packet: AtomicU64,
}

impl World {
    fn now(&self) -> Now {
        after(Duration::from_nanos(self.clock.load(Ordering::Relaxed)))
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// What the control thread is woken by.
enum Input {
    Notice,
    Handshake(Vec<u8>, Path),
}

/// Runs of datagrams: bytes and segment length.
type Wire = Sender<(Vec<u8>, usize)>;

#[test]
fn threads_share_a_peer_through_many_renewals() {
    let world = &World::default();
    let keys = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
    let addresses: [SocketAddr; 2] = ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()];
    let (wires, ends): (Vec<_>, Vec<_>) = (0..2).map(|_| channel::<(Vec<u8>, usize)>()).unzip();
    std::thread::scope(|scope| {
        for (me, end) in ends.into_iter().enumerate() {
            let other = 1 - me;
            let device = device(&keys[me], &keys[other], addresses[other], other);
            let (inputs, input) = channel();
            let notices = inputs.clone();
            device.data_plane().set_waker(Box::new(move || drop(notices.send(Input::Notice))));
            let end = Arc::new(Mutex::new(end));
            for _ in 0..THREADS {
                let plane = Arc::clone(device.data_plane());
                let wire = wires[other].clone();
                scope.spawn(move || send(world, plane, me, &wire));
                let plane = Arc::clone(device.data_plane());
                let (end, inputs) = (Arc::clone(&end), inputs.clone());
                scope.spawn(move || receive(world, plane, &end, addresses[other], &inputs));
            }
            let wire = wires[other].clone();
            scope.spawn(move || control(world, device, &input, &wire));
        }
        drop(wires);
        run_clock(world);
    });
    let (sessions, delivered) =
        (world.sessions.load(Ordering::Relaxed), world.delivered.lock().unwrap().len());
    assert!(sessions >= SESSIONS, "{sessions} sessions in {PATIENCE:?}");
    assert!(delivered > 1000, "{delivered} packets");
}

fn device(own: &PrivateKey, other: &PrivateKey, endpoint: SocketAddr, number: usize) -> Device {
    let mut device = Device::new(Box::new(Random::new(number as u64)));
    let mut peer = PeerUpdate::new(other.public_key());
    peer.endpoint = Some(endpoint);
    peer.allowed_ips = vec![AllowedIpChange::Add(format!("10.0.0.{number}/32").parse().unwrap())];
    let private_key = Some(Some(own.clone()));
    let update = DeviceUpdate { private_key, peers: vec![peer], ..DeviceUpdate::default() };
    device.apply(update, after(Duration::ZERO)).unwrap();
    device
}

/// Two seconds every millisecond, until there were enough sessions.
fn run_clock(world: &World) {
    let mut patience = PATIENCE;
    while world.sessions.load(Ordering::Relaxed) < SESSIONS && !patience.is_zero() {
        let tick = Duration::from_millis(1);
        std::thread::sleep(tick);
        patience = patience.saturating_sub(tick);
        world.clock.fetch_add(2_000_000_000, Ordering::Relaxed);
    }
    world.stop.store(true, Ordering::Relaxed);
}

fn put(world: &World, out: &DatagramBatch, wire: &Wire) {
    for slot in out.slots() {
        let bytes = out.bytes(slot);
        for message in bytes.chunks(slot.segment_len).filter(|message| message[0] == 4) {
            let index = u32::from_le_bytes(message[4..8].try_into().unwrap());
            let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
            assert!(world.nonces.lock().unwrap().insert((index, counter)), "a nonce twice");
        }
        drop(wire.send((bytes.to_vec(), slot.segment_len)));
    }
}

fn send(world: &World, plane: Arc<DataPlane>, me: usize, wire: &Wire) {
    let mut tx = TxPath::new(plane);
    let (mut packets, mut replies) =
        (PacketBatch::with_capacity(1 << 16, 64), PacketBatch::with_capacity(0, 0));
    let mut out = DatagramBatch::with_capacity(TX_SLAB_LEN, 64);
    while world.goes_on() {
        packets.clear();
        for _ in 0..20 {
            let number = world.next_packet.fetch_add(1, Ordering::Relaxed);
            let (source, destination) = (format!("10.0.0.{me}"), format!("10.0.0.{}", 1 - me));
            let packet = packet(&source, &destination, &number.to_be_bytes());
            let len = VNET_HEADER_LEN + packet.len();
            packets.spare()[..VNET_HEADER_LEN].fill(0);
            packets.spare()[VNET_HEADER_LEN..len].copy_from_slice(&packet);
            packets.commit(len);
        }
        out.clear();
        tx.handle_packets(&packets, world.now(), &mut out, &mut replies);
        put(world, &out, wire);
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn receive(
    world: &World,
    plane: Arc<DataPlane>,
    end: &Mutex<Receiver<(Vec<u8>, usize)>>,
    from: SocketAddr,
    inputs: &Sender<Input>,
) {
    let mut rx = RxPath::new(plane);
    let mut datagrams = DatagramBatch::with_capacity(1 << 16, 1);
    let mut packets = PacketBatch::with_capacity(1 << 17, 64);
    loop {
        let received = end.lock().unwrap().recv_timeout(Duration::from_millis(5));
        let (bytes, segment_len) = match received {
            Ok(run) => run,
            Err(RecvTimeoutError::Timeout) if world.goes_on() => continue,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        datagrams.clear();
        datagrams.spare()[..bytes.len()].copy_from_slice(&bytes);
        datagrams.commit(bytes.len(), segment_len, Path::to(from), 0);
        packets.clear();
        rx.handle_datagrams(&mut datagrams, world.now(), &mut packets, &mut |message, path| {
            drop(inputs.send(Input::Handshake(message.to_vec(), path)));
        });
        for framed in packets.iter() {
            let number = framed[VNET_HEADER_LEN + 20..].try_into().map(u64::from_be_bytes).unwrap();
            assert!(world.delivered.lock().unwrap().insert(number), "packet {number} twice");
        }
    }
}

fn control(world: &World, mut device: Device, input: &Receiver<Input>, wire: &Wire) {
    let mut out = DatagramBatch::with_capacity(1 << 19, 64);
    while world.goes_on() {
        let next = input.recv_timeout(Duration::from_millis(1));
        let now = world.now();
        if let Ok(Input::Handshake(message, path)) = &next {
            device.handle_handshake(message, *path, 0, now);
        }
        device.handle_notices(now);
        device.handle_timeout(now);
        loop {
            out.clear();
            if !device.poll_transmit(now, &mut out) {
                break;
            }
            put(world, &out, wire);
        }
        while let Some(event) = device.poll_event() {
            if matches!(event, DeviceEvent::SessionEstablished { initiator: true, .. }) {
                world.sessions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
