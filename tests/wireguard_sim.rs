//! A seeded simulation: a hub and its spokes (mostly one) over a wire that loses, duplicates, delays, reorders and
//! damages, with an attacker who replays, clocks that disagree and jump, machines that sleep, addresses that move, and
//! keys that change. The promises W1–W10 are checked at every step, and at the end the tunnels must work again.
//!
//! `cargo test` runs a few dozen seeds; continuous integration, in a release build, ten thousand:
//!
//! ```text
//! WG4NETNS_SEEDS=10000 cargo test --release --test main wireguard_sim
//! ```
//!
//! By hand, a million (about two hours on two cores), and one that failed, with its story:
//!
//! ```text
//! WG4NETNS_SEEDS=1000000 cargo test --release --test main wireguard_sim
//! WG4NETNS_SEED=4711 cargo test --test main wireguard_sim
//! ```
#![expect(clippy::unwrap_used, reason = "a simulation that cannot be set up has failed")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wg4netns::config::device::{AllowedIpChange, DeviceUpdate, PeerUpdate};
use wg4netns::key::{PresharedKey, PrivateKey};
use wg4netns::time::{BootTime, Now, WallTime};
use wg4netns::wireguard::{DeviceEvent, MAX_QUEUED_HANDSHAKES};

use crate::wireguard_node::{Datagram, Node, Random, packet};

/// Seeds of a plain `cargo test`.
const DEFAULT_SEEDS: u64 = 60;

/// Simulated time of trouble. With the time after it 21 minutes: ten renewals of a session.
const TROUBLE: Duration = Duration::from_secs(1110);

/// Simulated time after it, on a perfect wire.
const RECOVERY: Duration = Duration::from_secs(150);

/// When, after the trouble, packets must pass again.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Nothing is sent or taken under a session for longer; counted from the response, plus the longest time an initiator
/// may wait for one.
const SESSION_LIFE: Duration = Duration::from_millis(180_000 + 5_400);

/// A packet for which there is no session makes its node call within this: 5 s after the message before, and jitter.
const CALLED_WITHIN: Duration = Duration::from_millis(5_400);

/// Steps of one seed; far above any honest run's.
const MAX_STEPS: u64 = 200_000;

/// Lines of story kept for the report of a failure.
const STORY_LINES: usize = 80;

#[test]
fn the_promises_hold_on_every_seed() {
    if let Some(seed) = from_environment("WG4NETNS_SEED") {
        World::new(seed, true).run();
        return;
    }
    let seeds = from_environment("WG4NETNS_SEEDS").unwrap_or(DEFAULT_SEEDS);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().unwrap().len() >= 5 {
                        break;
                    }
                    if catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds {failed:?} fail; `WG4NETNS_SEED=N` tells the story of one");
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What happens next.
enum Event {
    Arrive {
        at: usize,
        datagram: Datagram,
        intact: bool,
    },
    Send {
        from: usize,
        to: usize,
        count: u64,
    },
    /// A packet that found no session was sent so long ago that its node must have called.
    Called {
        node: usize,
        peer: usize,
        since: Duration,
    },
    Trouble,
    Attack,
    Resume {
        node: usize,
    },
    Calm {
        node: usize,
    },
    PresharedKey {
        node: usize,
        peer: usize,
        key: Option<PresharedKey>,
    },
    Heal,
}

/// A node and what the world knows about it.
struct Machine {
    node: Node,
    /// What the node's clocks show at the start.
    boot_offset: u64,
    wall_offset: u64,
    asleep: bool,
    awake_since: Duration,
    /// When anything but a cookie was last sent to each peer.
    last_sent: HashMap<usize, Duration>,
    /// When a peer got another key, and what waited for it was lost.
    remade: HashMap<usize, Duration>,
    /// Load is felt for a second after it ended.
    loaded_until: Duration,
    /// When it last sent an initiation to each peer; cleared when a change may hurry the next.
    last_initiation: HashMap<usize, Duration>,
    /// Bytes of type 1, 2 and 4 it has sent to each peer.
    bytes_sent: HashMap<usize, u64>,
    /// Since when each peer's data waits for any answer.
    owes_since: HashMap<usize, Duration>,
}

/// A packet that was given to a tunnel.
struct Packet {
    from: usize,
    to: usize,
    sent: Duration,
    len: usize,
    delivered: bool,
}

struct World {
    random: Random,
    now: Duration,
    machines: Vec<Machine>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: HashMap<u64, Event>,
    next_event: u64,
    /// Who has, or had, an address. None is given twice.
    owners: HashMap<SocketAddr, usize>,
    next_port: u16,
    packets: Vec<Packet>,
    /// When the response of the session was sent that a node knows by an index.
    answered: HashMap<(usize, u32), Duration>,
    nonces: HashSet<(usize, u32, u64)>,
    /// Datagrams that have arrived once, for the attacker.
    captured: VecDeque<(usize, Datagram)>,
    loss: u64,
    /// Until then nothing arrives.
    cut_until: Duration,
    duplicates: u64,
    damage: u64,
    delay: Duration,
    spread: Duration,
    healed: bool,
    story: Option<VecDeque<String>>,
}

impl World {
    fn new(seed: u64, tell: bool) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_0000_0000);
        let spokes = if random.below(20) < 19 { 1 } else { 2 + random.below(3) };
        let (loss, delay, spread) = (random.below(31), random.below(300), random.below(500));
        let mut world = Self {
            loss,
            cut_until: Duration::ZERO,
            duplicates: random.below(11),
            damage: random.below(3),
            delay: Duration::from_millis(delay),
            spread: Duration::from_millis(spread),
            random,
            now: Duration::ZERO,
            machines: Vec::new(),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next_event: 0,
            owners: HashMap::new(),
            next_port: 1000,
            packets: Vec::new(),
            answered: HashMap::new(),
            nonces: HashSet::new(),
            captured: VecDeque::new(),
            healed: false,
            story: tell.then(VecDeque::new),
        };
        world.populate(usize::try_from(spokes).unwrap());
        world
    }

    fn populate(&mut self, spokes: usize) {
        for index in 0..=spokes {
            let address = self.new_address();
            let node = Node::new(self.random.next(), &address.to_string());
            self.owners.insert(address, index);
            self.machines.push(Machine {
                node,
                boot_offset: 1 + self.random.below(1 << 50),
                wall_offset: self.random.below(2_000_000_000),
                asleep: false,
                awake_since: Duration::ZERO,
                last_sent: HashMap::new(),
                remade: HashMap::new(),
                loaded_until: Duration::ZERO,
                last_initiation: HashMap::new(),
                bytes_sent: HashMap::new(),
                owes_since: HashMap::new(),
            });
        }
        for spoke in 1..=spokes {
            let hub_knows = self.random.below(2) == 0;
            self.introduce(0, spoke, hub_knows);
            self.introduce(spoke, 0, true);
            self.after(Duration::ZERO, Event::Send { from: spoke, to: 0, count: 1 });
            self.after(Duration::from_secs(1), Event::Send { from: 0, to: spoke, count: 1 });
        }
        self.after(Duration::from_secs(5), Event::Trouble);
        self.after(Duration::from_secs(7), Event::Attack);
        self.after(TROUBLE, Event::Heal);
    }

    /// Makes `peer` a peer of `node`.
    fn introduce(&mut self, node: usize, peer: usize, endpoint: bool) {
        let mut update = PeerUpdate::new(self.machines[peer].node.public_key);
        update.endpoint = endpoint.then_some(self.machines[peer].node.address);
        update.allowed_ips = vec![AllowedIpChange::Add(format!("10.0.0.{}/32", peer + 1).parse().unwrap())];
        update.persistent_keepalive = Some(match self.random.below(3) {
            0 => u16::try_from(1 + self.random.below(60)).unwrap(),
            _ => 0,
        });
        self.update(node, update);
    }

    fn update(&mut self, node: usize, update: PeerUpdate) {
        let now = self.clock(node);
        self.machines[node].last_initiation.clear();
        self.machines[node].node.update_peer(update, now);
        self.carry(node);
    }

    fn clock(&self, node: usize) -> Now {
        let machine = &self.machines[node];
        let wall = Duration::from_secs(machine.wall_offset) + self.now;
        Now {
            boot: BootTime::from_nanos(machine.boot_offset) + self.now,
            wall: WallTime { secs: wall.as_secs(), nanos: wall.subsec_nanos() },
        }
    }

    fn new_address(&mut self) -> SocketAddr {
        self.next_port += 1;
        (std::net::Ipv4Addr::new(192, 0, 2, 1), self.next_port).into()
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.next_event += 1;
        self.queue.push(Reverse((self.now + delay, self.next_event)));
        self.events.insert(self.next_event, event);
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            if story.len() == STORY_LINES {
                story.pop_front();
            }
            story.push_back(format!("{:>10.3} {}", now.as_secs_f64(), line()));
        }
    }

    fn require(&self, holds: bool, promise: impl FnOnce() -> String) {
        if !holds {
            let story: Vec<_> = self.story.iter().flatten().cloned().collect();
            panic!("at {:?}: {}\n{}", self.now, promise(), story.join("\n"));
        }
    }

    fn run(mut self) {
        for _ in 0..MAX_STEPS {
            let deadline = self.next_deadline();
            let event = self.queue.peek().map(|Reverse((at, _))| *at);
            let Some(next) = deadline.into_iter().chain(event).min() else { break };
            if next > TROUBLE + RECOVERY {
                return self.check_recovered();
            }
            self.now = self.now.max(next);
            if event == Some(next)
                && let Some(Reverse((_, number))) = self.queue.pop()
                && let Some(event) = self.events.remove(&number)
            {
                self.handle(event);
            }
            self.let_timers_go_off();
        }
        self.require(false, || "the simulation does not come to its end".to_owned());
    }

    fn next_deadline(&self) -> Option<Duration> {
        let awake = self.machines.iter().filter(|machine| !machine.asleep);
        let deadlines = awake.filter_map(|machine| {
            let deadline = machine.node.device.poll_timeout()?;
            Some(deadline.duration_since(BootTime::from_nanos(machine.boot_offset)))
        });
        deadlines.min()
    }

    fn let_timers_go_off(&mut self) {
        for node in 0..self.machines.len() {
            let now = self.clock(node);
            let machine = &mut self.machines[node];
            if machine.asleep || machine.node.device.poll_timeout().is_none_or(|deadline| deadline > now.boot)
            {
                continue;
            }
            machine.node.timeout(now);
            let next = machine.node.device.poll_timeout();
            self.require(next.is_none_or(|next| next > now.boot), || {
                format!("node {node} is due again at once")
            });
            self.carry(node);
            self.check_debts(node);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { at, datagram, intact } => self.arrive(at, datagram, intact),
            Event::Send { from, to, count } => self.send(from, to, count),
            Event::Trouble => self.trouble(),
            Event::Attack => self.attack(),
            Event::Resume { node } => {
                self.tell(|| format!("node {node} wakes"));
                self.wake(node);
            }
            Event::Called { node, peer, since } => self.check_called(node, peer, since),
            Event::Calm { node } => self.machines[node].node.queued = 0,
            Event::PresharedKey { node, peer, key } => {
                // What did not authenticate under the old key may do so under the new one.
                self.captured.clear();
                let mut update = PeerUpdate::new(self.machines[peer].node.public_key);
                update.preshared_key = Some(key);
                self.update(node, update);
            }
            Event::Heal => self.heal(),
        }
    }

    fn arrive(&mut self, at: usize, datagram: Datagram, intact: bool) {
        // The address was the node's when the datagram was sent; it may have moved since.
        if self.machines[at].asleep || self.machines[at].node.address != datagram.to {
            return;
        }
        self.tell(|| format!("node {at} receives {}", describe(&datagram)));
        let now = self.clock(at);
        self.machines[at].node.receive(std::slice::from_ref(&datagram), now);
        self.collect(at, &datagram);
        // What was damaged on its way could be mended by the attacker, and would then be no replay.
        if intact {
            if self.captured.len() == 40 {
                self.captured.pop_front();
            }
            self.captured.push_back((at, datagram));
        }
        self.carry(at);
    }

    fn send(&mut self, from: usize, to: usize, count: u64) {
        // The next burst: sometimes soon, sometimes after a session's life.
        let pause = match self.random.below(8) {
            0 => self.random.below(250_000),
            1..=3 => self.random.below(20_000),
            _ => self.random.below(2_000),
        };
        let pause = if self.healed { 5_000 } else { pause };
        let count_then = 1 + self.random.below(4) * self.random.below(6);
        self.after(Duration::from_millis(pause), Event::Send { from, to, count: count_then });
        if self.machines[from].asleep {
            return;
        }
        for _ in 0..count {
            let number = self.packets.len() as u64;
            let extra = usize::try_from(self.random.below(1300)).unwrap();
            let payload = [number.to_be_bytes().as_slice(), &vec![0; extra]].concat();
            let (source, destination) = (format!("10.0.0.{}", from + 1), format!("10.0.0.{}", to + 1));
            let bytes = packet(&source, &destination, &payload);
            self.packets.push(Packet { from, to, sent: self.now, len: bytes.len(), delivered: false });
            let now = self.clock(from);
            self.machines[from].node.send(&bytes, now);
            // Without an endpoint the packet is refused, and nobody calls once there is one.
            if self.machines[from].node.sent.is_empty() && self.knows_endpoint(from, to) {
                self.after(CALLED_WITHIN, Event::Called { node: from, peer: to, since: self.now });
            }
            self.carry(from);
        }
    }

    /// Something goes wrong.
    fn trouble(&mut self) {
        if self.healed {
            return;
        }
        let pause = Duration::from_millis(self.random.below(90_000));
        self.after(pause, Event::Trouble);
        let node = usize::try_from(self.random.below(self.machines.len() as u64)).unwrap();
        let spoke = 1 + usize::try_from(self.random.below(self.machines.len() as u64 - 1)).unwrap();
        match self.random.below(11) {
            0 => {
                // Now and then for longer than keys are kept.
                let longest = if self.random.below(8) == 0 { 900_000 } else { 150_000 };
                let length = Duration::from_millis(500 + self.random.below(longest));
                self.tell(|| format!("node {node} sleeps for {length:?}"));
                self.machines[node].asleep = true;
                self.after(length, Event::Resume { node });
            }
            1 | 2 => {
                let address = self.new_address();
                self.tell(|| format!("node {node} moves to {address}"));
                self.owners.insert(address, node);
                self.machines[node].node.address = address;
                // Whoever cannot be found must be told, as a resolver would.
                for peer in self.peers_of(node) {
                    if node == 0 || self.random.below(2) == 0 {
                        let mut update = PeerUpdate::new(self.machines[node].node.public_key);
                        update.endpoint = Some(address);
                        self.update(peer, update);
                    }
                }
            }
            3 => {
                let offset = self.random.below(4_000_000_000);
                self.tell(|| format!("the wall clock of node {node} jumps"));
                self.machines[node].wall_offset = offset;
            }
            4 => {
                self.tell(|| format!("node {node} is under load"));
                self.machines[node].node.queued = MAX_QUEUED_HANDSHAKES / 8;
                let length = Duration::from_millis(self.random.below(30_000));
                let until = self.now + length + Duration::from_secs(1);
                self.machines[node].loaded_until = self.machines[node].loaded_until.max(until);
                self.after(length, Event::Calm { node });
            }
            5 => self.change_preshared_key(spoke),
            6 => self.change_private_key(node),
            7 => {
                let interval = u16::try_from(self.random.below(40)).unwrap();
                let peer = self.peers_of(node)[0];
                let mut update = PeerUpdate::new(self.machines[peer].node.public_key);
                update.persistent_keepalive = Some(interval);
                self.update(node, update);
            }
            8 => {
                let longest = if self.random.below(8) == 0 { 900_000 } else { 100_000 };
                let length = Duration::from_millis(self.random.below(longest));
                self.tell(|| format!("the wire is cut for {length:?}"));
                self.cut_until = self.cut_until.max(self.now + length);
            }
            _ => {
                self.loss = if self.random.below(8) == 0 { 70 } else { self.random.below(31) };
                let loss = self.loss;
                self.tell(|| format!("loss is {loss} % now"));
            }
        }
    }

    fn wake(&mut self, node: usize) {
        if std::mem::take(&mut self.machines[node].asleep) {
            self.machines[node].awake_since = self.now;
        }
    }

    fn peers_of(&self, node: usize) -> Vec<usize> {
        if node == 0 { (1..self.machines.len()).collect() } else { vec![0] }
    }

    /// Both ends change it, one some time after the other.
    fn change_preshared_key(&mut self, spoke: usize) {
        let byte = u8::try_from(self.random.below(255)).unwrap();
        let key = (byte != 0).then(|| PresharedKey::from_bytes([byte; 32]));
        self.tell(|| format!("the preshared key of node {spoke} changes"));
        for (node, peer) in [(0, spoke), (spoke, 0)] {
            let delay = Duration::from_millis(self.random.below(20_000));
            self.after(delay, Event::PresharedKey { node, peer, key: key.clone() });
        }
    }

    /// The node gets another identity, and its peers are told.
    fn change_private_key(&mut self, node: usize) {
        self.tell(|| format!("the private key of node {node} changes"));
        let mut secret = [0; 32];
        wg4netns::crypto::Entropy::fill(&mut self.random, &mut secret);
        let private_key = PrivateKey::from_bytes(secret);
        let before = self.machines[node].node.public_key;
        let public_key = private_key.public_key();
        for peer in self.peers_of(node) {
            let status = self.machines[peer].node.peer_status(before, self.clock(peer));
            self.update(peer, PeerUpdate { remove: true, ..PeerUpdate::new(before) });
            let mut update = PeerUpdate::new(public_key);
            update.preshared_key = Some(status.preshared_key);
            update.endpoint = status.endpoint;
            update.allowed_ips = status.allowed_ips.into_iter().map(AllowedIpChange::Add).collect();
            update.persistent_keepalive = Some(status.persistent_keepalive);
            self.machines[peer].bytes_sent.remove(&node);
            self.machines[peer].owes_since.remove(&node);
            self.machines[peer].remade.insert(node, self.now);
            self.machines[node].owes_since.remove(&peer);
            self.machines[node].node.public_key = public_key;
            self.update(peer, update);
            self.machines[node].node.public_key = before;
        }
        self.machines[node].node.public_key = public_key;
        let now = self.clock(node);
        self.machines[node].last_initiation.clear();
        let update = DeviceUpdate { private_key: Some(Some(private_key)), ..DeviceUpdate::default() };
        self.machines[node].node.update(update, now);
        // A peer made anew has forgotten which initiations it has seen.
        self.captured.clear();
        self.carry(node);
    }

    /// Somebody on the way repeats or damages what has already arrived.
    fn attack(&mut self) {
        if self.healed {
            return;
        }
        let pause = Duration::from_millis(self.random.below(20_000));
        self.after(pause, Event::Attack);
        if self.captured.is_empty() {
            return;
        }
        let choice = usize::try_from(self.random.below(self.captured.len() as u64)).unwrap();
        let (node, mut datagram) = self.captured[choice].clone();
        if self.machines[node].asleep {
            return;
        }
        datagram.from = "198.51.100.66:666".parse().unwrap();
        let damaged = self.random.below(2) == 0;
        if damaged {
            // Behind the indices: those of a handshake message are protected by MAC1 alone.
            let len = datagram.bytes.len().min(116) as u64 - 12;
            let position = 12 + usize::try_from(self.random.below(len)).unwrap();
            datagram.bytes[position] ^= 1 << self.random.below(8);
        }
        self.tell(|| format!("the attacker sends node {node} {}", describe(&datagram)));
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        let may_be_loaded = self.now < machine.loaded_until;
        machine.node.receive(std::slice::from_ref(&datagram), now);
        let (sent, delivered) = (machine.node.take_sent(), machine.node.take_delivered());
        self.require(delivered.is_empty(), || "W3: a replayed or damaged packet was delivered".to_owned());
        let silent = sent.is_empty() || !damaged && sent.iter().all(|reply| reply.kind() == 3);
        self.require(silent, || format!("W1: an answer to the attacker: {sent:?}"));
        self.require(sent.is_empty() || may_be_loaded, || "W2: a cookie without load".to_owned());
        self.check_endpoints(node);
    }

    fn heal(&mut self) {
        self.tell(|| "the trouble is over".to_owned());
        self.healed = true;
        (self.loss, self.duplicates, self.damage) = (0, 0, 0);
        self.cut_until = Duration::ZERO;
        (self.delay, self.spread) = (Duration::from_millis(20), Duration::ZERO);
        for node in 0..self.machines.len() {
            self.wake(node);
            self.machines[node].node.queued = 0;
        }
        self.events.retain(|_, event| !matches!(event, Event::Send { .. } | Event::PresharedKey { .. }));
        for spoke in 1..self.machines.len() {
            self.after(Duration::from_millis(100), Event::Send { from: spoke, to: 0, count: 1 });
            self.after(Duration::from_millis(200), Event::Send { from: 0, to: spoke, count: 1 });
            // For half of them nobody comes to put things right: the tunnel must find its way back by itself.
            if self.random.below(2) == 0 && self.can_recover_alone(spoke) {
                self.tell(|| format!("nobody helps node {spoke}"));
                continue;
            }
            let key = Some(PresharedKey::from_bytes([7; 32]));
            for (node, peer) in [(0, spoke), (spoke, 0)] {
                self.after(Duration::ZERO, Event::PresharedKey { node, peer, key: key.clone() });
            }
            let mut update = PeerUpdate::new(self.machines[0].node.public_key);
            update.endpoint = Some(self.machines[0].node.address);
            self.update(spoke, update);
        }
    }

    /// Both ends have the same preshared key, and the spoke knows where the hub is.
    fn can_recover_alone(&self, spoke: usize) -> bool {
        let status = |node: usize, peer: usize| {
            let key = self.machines[peer].node.public_key;
            self.machines[node].node.peer_status(key, self.clock(node))
        };
        let (ours, theirs) = (status(spoke, 0), status(0, spoke));
        ours.preshared_key == theirs.preshared_key && ours.endpoint == Some(self.machines[0].node.address)
    }

    /// Takes what a node wants sent and puts it on the wire.
    fn carry(&mut self, node: usize) {
        let sent = self.machines[node].node.take_sent();
        if sent.is_empty() && self.machines[node].node.events.is_empty() {
            return;
        }
        for datagram in sent {
            self.check_sent(node, &datagram);
            let Some(&to) = self.owners.get(&datagram.to) else { continue };
            let copies = if self.now < self.cut_until || self.random.below(100) < self.loss {
                0
            } else {
                1 + u64::from(self.random.below(100) < self.duplicates)
            };
            self.tell(|| format!("node {node} sends {}, {copies} arrive", describe(&datagram)));
            for _ in 0..copies {
                let mut datagram = datagram.clone();
                let intact = self.random.below(100) >= self.damage;
                if !intact {
                    let position = usize::try_from(self.random.below(datagram.bytes.len() as u64)).unwrap();
                    datagram.bytes[position] ^= 1 << self.random.below(8);
                }
                let spread = self.random.below(1 + u64::try_from(self.spread.as_micros()).unwrap());
                let delay = self.delay + Duration::from_micros(spread);
                self.after(delay, Event::Arrive { at: to, datagram, intact });
            }
        }
        self.check_counters(node);
        let events = std::mem::take(&mut self.machines[node].node.events);
        for event in events {
            self.tell(|| format!("node {node}: {event:?}"));
            self.require(!matches!(event, DeviceEvent::HandshakesFailing { attempts: 18.., .. }), || {
                "more than 18 attempts".to_owned()
            });
        }
    }

    /// W2, W4, W7, W9, W10, on everything that leaves a node.
    fn check_sent(&mut self, node: usize, datagram: &Datagram) {
        let Some(&peer) = self.owners.get(&datagram.to) else {
            self.require(datagram.kind() == 3, || format!("W5: sent to the attacker: {datagram:?}"));
            return;
        };
        let word = |at: usize| u32::from_le_bytes(datagram.bytes[at..at + 4].try_into().unwrap());
        if datagram.kind() != 3 {
            *self.machines[node].bytes_sent.entry(peer).or_default() += datagram.bytes.len() as u64;
            self.machines[node].owes_since.remove(&peer);
            self.machines[node].last_sent.insert(peer, self.now);
        }
        match datagram.kind() {
            1 => {
                let before = self.machines[node].last_initiation.insert(peer, self.now);
                let soon = before.is_some_and(|before| self.now < before + Duration::from_secs(5));
                self.require(!soon, || format!("node {node}: two initiations within 5 s"));
            }
            2 => {
                self.answered.insert((node, word(4)), self.now);
                self.answered.insert((peer, word(8)), self.now);
            }
            3 => self.require(datagram.bytes.len() == 64, || "a cookie reply has 64 bytes".to_owned()),
            4 => {
                let counter = u64::from_le_bytes(datagram.bytes[8..16].try_into().unwrap());
                let fresh = self.nonces.insert((peer, word(4), counter));
                self.require(fresh, || format!("node {node}: a nonce twice"));
                let born = self.answered.get(&(peer, word(4))).copied();
                let young = born.is_some_and(|born| self.now < born + SESSION_LIFE);
                self.require(young, || format!("W7: node {node} sends under a session of {born:?}"));
                let len = datagram.bytes.len() - 32;
                self.require(len.is_multiple_of(16) && len <= 1424 || len == 1420, || {
                    format!("W9: {len} bytes are not padded")
                });
            }
            kind => self.require(false, || format!("message type {kind}")),
        }
    }

    /// W10, after everything that has left a node.
    fn check_counters(&self, node: usize) {
        let status = self.machines[node].node.status(self.clock(node));
        for (peer, counted) in &self.machines[node].bytes_sent {
            let public_key = self.machines[*peer].node.public_key;
            let known = status.peers.iter().find(|peer| peer.public_key == public_key);
            // It may just have been removed, to come back with another key.
            let Some(tx_bytes) = known.map(|peer| peer.tx_bytes) else { continue };
            self.require(tx_bytes >= *counted, || {
                format!("W10: node {node} counts {tx_bytes} of {counted} bytes")
            });
        }
    }

    /// W3, W5, W6, W7, on everything that comes out of a tunnel.
    fn collect(&mut self, node: usize, datagram: &Datagram) {
        for bytes in self.machines[node].node.take_delivered() {
            let number = usize::try_from(u64::from_be_bytes(bytes[20..28].try_into().unwrap())).unwrap();
            let packet = &self.packets[number];
            let (from, len, again) = (packet.from, packet.len, packet.delivered);
            self.require(!again, || format!("W3: packet {number} was delivered twice"));
            self.require(packet.to == node, || format!("W6: packet {number} came to node {node}"));
            self.require(bytes.len() == len && bytes[15] == u8::try_from(from + 1).unwrap(), || {
                format!("packet {number} has changed on its way")
            });
            let index = u32::from_le_bytes(datagram.bytes[4..8].try_into().unwrap());
            let born = self.answered.get(&(node, index)).copied();
            self.require(born.is_some_and(|born| self.now < born + SESSION_LIFE), || {
                format!("W7: packet {number} was taken under a session of {born:?}")
            });
            self.packets[number].delivered = true;
            self.machines[node].owes_since.entry(from).or_insert(self.now);
            self.tell(|| format!("node {node} delivers packet {number}"));
        }
        self.check_endpoints(node);
    }

    fn check_endpoints(&self, node: usize) {
        for peer in self.machines[node].node.status(self.clock(node)).peers {
            let known = peer.endpoint.is_none_or(|endpoint| self.owners.contains_key(&endpoint));
            self.require(known, || format!("W5: node {node} follows the attacker to {:?}", peer.endpoint));
        }
    }

    /// Data is answered within ten seconds, by a keepalive if by nothing else.
    fn check_debts(&self, node: usize) {
        let machine = &self.machines[node];
        for (peer, since) in &machine.owes_since {
            let late = self.now > *since + Duration::from_millis(10_001);
            self.require(!late || self.may_owe(node, *peer), || {
                format!("node {node} owes node {peer} an answer since {since:?}")
            });
        }
    }

    /// Whoever has packets to send and no session goes on calling.
    fn check_called(&self, node: usize, peer: usize, since: Duration) {
        let machine = &self.machines[node];
        let remade = machine.remade.get(&peer).copied().unwrap_or_default();
        if machine.asleep || machine.awake_since > since || remade > since {
            return;
        }
        let called = machine.last_sent.get(&peer).is_some_and(|sent| *sent + CALLED_WITHIN >= since);
        self.require(called, || {
            format!("node {node} has a packet for node {peer} since {since:?} and does not call")
        });
    }

    fn knows_endpoint(&self, node: usize, peer: usize) -> bool {
        let public_key = self.machines[peer].node.public_key;
        self.machines[node].node.peer_status(public_key, self.clock(node)).endpoint.is_some()
    }

    /// A node without a session can answer by no more than an initiation, which may have to wait.
    fn may_owe(&self, node: usize, peer: usize) -> bool {
        let public_key = self.machines[peer].node.public_key;
        let status = self.machines[node].node.peer_status(public_key, self.clock(node));
        status.trouble.waiting.is_some() || !self.machines[node].node.device.has_session(self.clock(node))
    }

    fn check_recovered(&self) {
        let recovered = TROUBLE + RECOVERED_AFTER;
        let arrived = TROUBLE + RECOVERY - Duration::from_secs(1);
        let late = self.packets.iter().filter(|packet| packet.sent > recovered && packet.sent < arrived);
        let (mut sent, mut lost) = (0, 0);
        for packet in late {
            sent += 1;
            lost += u64::from(!packet.delivered);
        }
        self.require(sent > 20 && lost == 0, || format!("{lost} of {sent} packets lost after the trouble"));
        for (node, machine) in self.machines.iter().enumerate() {
            let now = self.clock(node);
            self.require(machine.node.device.has_session(now), || format!("node {node} has no session"));
            for peer in self.peers_of(node) {
                let status = machine.node.peer_status(self.machines[peer].node.public_key, now);
                let sent = machine.bytes_sent.get(&peer).copied().unwrap_or_default();
                self.require(status.tx_bytes == sent, || {
                    format!("W10: node {node} counts {} bytes to node {peer}, not {sent}", status.tx_bytes)
                });
            }
        }
    }
}

fn describe(datagram: &Datagram) -> String {
    let kind = match datagram.kind() {
        1 => "an initiation",
        2 => "a response",
        3 => "a cookie reply",
        4 if datagram.bytes.len() == 32 => "a keepalive",
        4 => "data",
        _ => "junk",
    };
    format!(
        "{kind} from {} to {}, {:02x?}",
        datagram.from,
        datagram.to,
        &datagram.bytes[4..12.min(datagram.bytes.len())]
    )
}
