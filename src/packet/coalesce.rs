//! Joins packets of one flow into super-packets for the TUN, so that one write delivers many. (core: no IO)
//!
//! # Theory of operation
//! One call takes what one receive brought. Every packet is either appended to the open group of its flow or begins a
//! group of its own; a packet of the same flow that cannot be appended closes the group, so nothing of a flow is ever
//! overtaken. Groups are written in the order in which they began, each as one packet behind a virtio-net header.
//!
//! A TCP group holds consecutive segments that differ in nothing but sequence number, IPv4 id and checksum, all equal
//! in size but the last; PSH ends it. A UDP group holds datagrams equal in the same way. So the kernel, which cuts a
//! super-packet again wherever it must, restores the packets as they came.
//!
//! A super-packet tells the kernel that its checksum need not be looked at. So each packet's own checksum is verified
//! while it is copied, and one that is wrong goes on alone, as it came, for the kernel to drop.
//!
//! Flows are found in a small direct-mapped table; when two meet in a bucket the older group is closed. That costs a
//! write, never order.

use std::ops::Range;

use super::batch::{MAX_PACKET_LEN, MAX_SEGMENTS, PacketBatch, VNET_HEADER_LEN};
use super::checksum::Sum;
use super::ip::{Fragment, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpVersion, IpView, protocol};
use super::tcp::{TCP_CHECKSUM_OFFSET, TcpView, flags};
use super::udp::{UDP_CHECKSUM_OFFSET, UDP_HEADER_LEN, UdpView};
use super::vnet::{GsoType, VnetHeader};

/// UDP ports of tunnels whose kernel ends have mishandled segmented packets: L2TP, GTP-U, IPsec, VXLAN and its
/// variants, Geneve.
const TUNNEL_PORTS: [u16; 7] = [1701, 2152, 4500, 4789, 4790, 6081, 8472];

/// Buckets of the flow table; a receive batch rarely holds more than a few flows.
const BUCKETS: usize = 256;

/// What may be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalesceConfig {
    /// TCP segments, if the TUN takes TSO.
    pub tcp: bool,
    /// UDP datagrams, if the TUN takes USO (Linux 6.2).
    pub udp: bool,
}

/// What became of the packets of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalesced {
    /// Packets written, alone or joined.
    pub packets: usize,
    /// Not IP, or lying about their length: left out.
    pub malformed: usize,
    /// Left out because `out` was full; never with [`Coalescer::room`] bytes.
    pub no_room: usize,
}

/// Joins packets; its tables are reused from call to call.
#[derive(Debug)]
pub struct Coalescer {
    config: CoalesceConfig,
    members: Vec<Member>,
    groups: Vec<Group>,
    buckets: Box<[Bucket; BUCKETS]>,
    /// Buckets of earlier calls are stale: no clearing between calls.
    generation: u64,
}

/// A packet, and the next of its group.
#[derive(Debug)]
struct Member {
    start: usize,
    len: usize,
    next: Option<usize>,
}

/// Packets that will be written as one.
#[derive(Debug)]
struct Group {
    first: usize,
    last: usize,
    count: usize,
    /// Bytes of the super-packet.
    total_len: usize,
    /// What the members are; `None` if the packet stays alone.
    shape: Option<Shape>,
    /// Whether another packet may follow.
    open: bool,
    next_sequence: u32,
    next_id: u16,
}

/// The lengths of a packet that may be joined.
#[derive(Clone, Copy, Debug)]
struct Shape {
    version: IpVersion,
    is_tcp: bool,
    transport_start: usize,
    headers_len: usize,
    payload_len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    generation: u64,
    group: usize,
}

impl Coalescer {
    /// A coalescer with empty tables.
    #[must_use]
    pub fn new(config: CoalesceConfig) -> Self {
        Self {
            config,
            members: Vec::new(),
            groups: Vec::new(),
            buckets: Box::new([Bucket::default(); BUCKETS]),
            generation: 0,
        }
    }

    /// Changes what may be joined: a TUN that refused a super-packet is sent no more of the kind.
    pub const fn set_config(&mut self, config: CoalesceConfig) {
        self.config = config;
    }

    /// What may be joined.
    #[must_use]
    pub const fn config(&self) -> CoalesceConfig {
        self.config
    }

    /// Room in a batch that is always enough for `packets` packets of `bytes` bytes together.
    #[must_use]
    pub const fn room(bytes: usize, packets: usize) -> usize {
        bytes + packets * VNET_HEADER_LEN
    }

    /// Appends the packets at `packets` in `slab` to `out`, joined where they can be; bytes behind a packet's own
    /// length are cut off. `out` needs [`room`](Self::room) for them; what finds no room is left out and counted.
    ///
    /// # Panics
    /// If a range does not lie in `slab`.
    pub fn coalesce(&mut self, slab: &[u8], packets: &[Range<usize>], out: &mut PacketBatch) -> Coalesced {
        self.members.clear();
        self.groups.clear();
        self.generation += 1;
        let mut outcome = Coalesced::default();
        for range in packets {
            match IpView::parse(&slab[range.clone()]) {
                Ok(view) => self.take(slab, range.start, &view),
                Err(_) => outcome.malformed += 1,
            }
        }
        for group in &self.groups {
            if out.spare().len() < group.room() {
                outcome.no_room += group.count;
                continue;
            }
            self.write_group(slab, group, out);
            outcome.packets += group.count;
        }
        outcome
    }

    /// Puts one packet into its flow's open group, or into a group of its own.
    fn take(&mut self, slab: &[u8], start: usize, view: &IpView<'_>) {
        let index = self.members.len();
        self.members.push(Member { start, len: view.total_len(), next: None });
        let Some(flow) = flow_hash(view) else {
            self.groups.push(Group::of_one(index, view, None));
            return;
        };
        let shape = self.shape(view);
        let bucket = self.buckets[flow];
        if bucket.generation == self.generation {
            let group = &mut self.groups[bucket.group];
            let first = &self.members[group.first];
            let first_packet = &slab[first.start..first.start + first.len];
            if group.append(first_packet, view.packet(), shape) {
                let last = std::mem::replace(&mut group.last, index);
                self.members[last].next = Some(index);
                return;
            }
            // It may be another flow's; then nothing is lost but a chance to join.
            group.open = false;
        }
        self.buckets[flow] = Bucket { generation: self.generation, group: self.groups.len() };
        self.groups.push(Group::of_one(index, view, shape));
    }

    /// The packet's lengths, if it is of a kind that may be joined.
    fn shape(&self, view: &IpView<'_>) -> Option<Shape> {
        let transport_start = view.header_len();
        // As in the kernel's GRO: no IPv4 options, no extension headers, no fragments.
        let plain_header = match view.version() {
            IpVersion::V4 => transport_start == IPV4_HEADER_LEN,
            IpVersion::V6 => transport_start == IPV6_HEADER_LEN,
        };
        if !plain_header || view.fragment() != Fragment::Whole {
            return None;
        }
        let (is_tcp, transport_len, payload_len) = match view.protocol() {
            protocol::TCP if self.config.tcp => {
                let tcp = TcpView::parse(view.transport())?;
                let ordinary = tcp.flags() & !(flags::PSH | flags::ECE) == flags::ACK;
                ordinary.then_some((true, tcp.header_len(), tcp.payload().len()))?
            }
            protocol::UDP if self.config.udp => {
                let udp = UdpView::parse(view.transport())?;
                let ordinary = udp.total_len() == view.transport().len()
                    && udp.checksum() != 0
                    && !TUNNEL_PORTS.contains(&udp.destination_port());
                ordinary.then_some((false, UDP_HEADER_LEN, udp.payload().len()))?
            }
            _ => return None,
        };
        (payload_len > 0).then_some(Shape {
            version: view.version(),
            is_tcp,
            transport_start,
            headers_len: transport_start + transport_len,
            payload_len,
        })
    }

    /// Writes a group: joined as far as its checksums are right, the others alone.
    fn write_group(&self, slab: &[u8], group: &Group, out: &mut PacketBatch) {
        let mut next = Some(group.first);
        while let Some(index) = next {
            let joined = match group.shape {
                Some(shape) if group.count > 1 => self.write_run(slab, index, &shape, out),
                Some(_) | None => 0,
            };
            if joined < 2 {
                let member = &self.members[index];
                write_alone(&slab[member.start..member.start + member.len], out);
            }
            for _ in 0..joined.max(1) {
                next = next.and_then(|index| self.members[index].next);
            }
        }
    }

    /// Joins the members from `index` on, up to the first whose checksum is wrong; returns how many. Fewer than two
    /// are not committed.
    fn write_run(&self, slab: &[u8], index: usize, shape: &Shape, out: &mut PacketBatch) -> usize {
        let Shape { transport_start, headers_len, .. } = *shape;
        let first = &self.members[index];
        let first_packet = &slab[first.start..first.start + first.len];
        let spare = out.spare();
        let mut len = VNET_HEADER_LEN + headers_len;
        let mut joined = 0;
        let mut last_flags = 0;
        let mut next = Some(index);
        while let Some(index) = next {
            let member = &self.members[index];
            let packet = &slab[member.start..member.start + member.len];
            let payload = &packet[headers_len..];
            if !copy_if_intact(packet, shape, &mut spare[len..len + payload.len()]) {
                break;
            }
            len += payload.len();
            joined += 1;
            if shape.is_tcp {
                last_flags = packet[transport_start + FLAGS_OFFSET];
            }
            next = member.next;
        }
        if joined < 2 {
            return joined;
        }
        let (vnet, packet) = spare[..len].split_at_mut(VNET_HEADER_LEN);
        packet[..headers_len].copy_from_slice(&first_packet[..headers_len]);
        let segment_payload = first_packet.len() - headers_len;
        vnet.copy_from_slice(&finish(packet, shape, segment_payload, last_flags).emit());
        out.commit(len);
        joined
    }
}

impl Group {
    fn of_one(index: usize, view: &IpView<'_>, shape: Option<Shape>) -> Self {
        let packet = view.packet();
        let mut group = Self {
            first: index,
            last: index,
            count: 1,
            total_len: packet.len(),
            shape,
            open: shape.is_some(),
            next_sequence: 0,
            next_id: 0,
        };
        if let Some(shape) = shape {
            group.advance(packet, &shape);
        }
        group
    }

    /// Enough to write every member alone, which wrong checksums can lead to.
    fn room(&self) -> usize {
        let repeated = self.shape.map_or(0, |shape| (self.count - 1) * shape.headers_len);
        Coalescer::room(self.total_len + repeated, self.count)
    }

    /// Notes what must follow `packet`, the group's last.
    fn advance(&mut self, packet: &[u8], shape: &Shape) {
        if shape.version == IpVersion::V4 {
            self.next_id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        }
        if shape.is_tcp {
            let payload_len = u32::try_from(shape.payload_len).unwrap_or(0);
            self.next_sequence = sequence(packet, shape).wrapping_add(payload_len);
            self.open &= packet[shape.transport_start + FLAGS_OFFSET] & flags::PSH == 0;
        }
    }

    /// Takes `packet` in if it is what may follow; `first` is the group's first packet.
    fn append(&mut self, first: &[u8], packet: &[u8], shape: Option<Shape>) -> bool {
        let (Some(ours), Some(theirs), true) = (self.shape, shape, self.open) else { return false };
        let follows = self.count < MAX_SEGMENTS
            && self.total_len + theirs.payload_len <= MAX_PACKET_LEN
            && theirs.payload_len <= ours.payload_len
            && ours.headers_len == theirs.headers_len
            && is_same_but_for_place(first, packet, &ours)
            && (!ours.is_tcp || sequence(packet, &theirs) == self.next_sequence)
            && (ours.version == IpVersion::V6 || id_follows(packet, self.next_id));
        if follows {
            self.count += 1;
            self.total_len += theirs.payload_len;
            self.open = theirs.payload_len == ours.payload_len;
            self.advance(packet, &theirs);
        }
        follows
    }
}

/// Where the flags are in a TCP header.
const FLAGS_OFFSET: usize = 13;

fn sequence(packet: &[u8], shape: &Shape) -> u32 {
    let at = shape.transport_start + 4;
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// The ids of a super-packet's segments count up. Where fragmentation is forbidden the id means nothing (RFC 6864).
const fn id_follows(packet: &[u8], next_id: u16) -> bool {
    let dont_fragment = packet[6] & 0x40 != 0;
    dont_fragment || u16::from_be_bytes([packet[4], packet[5]]) == next_id
}

/// Whether two packets' headers, equally long, differ only in length, id, sequence number, PSH and checksums.
fn is_same_but_for_place(a: &[u8], b: &[u8], shape: &Shape) -> bool {
    let same = |range: Range<usize>| a[range.clone()] == b[range];
    let same_ip = match shape.version {
        IpVersion::V4 => same(0..2) && same(6..10) && same(12..20),
        IpVersion::V6 => same(0..4) && same(6..40),
    };
    let at = shape.transport_start;
    let same_transport = if shape.is_tcp {
        same(at..at + 4)
            && same(at + 8..at + FLAGS_OFFSET)
            && (a[at + FLAGS_OFFSET] ^ b[at + FLAGS_OFFSET]) & !flags::PSH == 0
            && same(at + 14..at + 16)
            && same(at + 18..shape.headers_len)
    } else {
        same(at..at + 4)
    };
    same_ip && same_transport
}

/// Copies a packet's payload to `to`; false if the packet's checksums are wrong.
fn copy_if_intact(packet: &[u8], shape: &Shape, to: &mut [u8]) -> bool {
    if shape.version == IpVersion::V4 && !Sum::ZERO.bytes(&packet[..shape.transport_start]).is_intact() {
        return false;
    }
    let transport_len = packet.len() - shape.transport_start;
    pseudo_header(packet, shape, transport_len)
        .bytes(&packet[shape.transport_start..shape.headers_len])
        .copy(&packet[shape.headers_len..], to)
        .is_intact()
}

/// The pseudo header, straight from the bytes.
fn pseudo_header(packet: &[u8], shape: &Shape, transport_len: usize) -> Sum {
    let addresses = match shape.version {
        IpVersion::V4 => &packet[12..20],
        IpVersion::V6 => &packet[8..40],
    };
    let protocol = if shape.is_tcp { protocol::TCP } else { protocol::UDP };
    Sum::ZERO.bytes(addresses).word(u16::from(protocol)).word(length_field(transport_len))
}

/// Makes the headers of the first packet those of the super-packet, and says how it is to be cut.
fn finish(packet: &mut [u8], shape: &Shape, segment_payload: usize, last_flags: u8) -> VnetHeader {
    let at = shape.transport_start;
    let total_len = length_field(packet.len());
    let transport_len = packet.len() - at;
    match shape.version {
        IpVersion::V4 => {
            packet[2..4].copy_from_slice(&total_len.to_be_bytes());
            packet[10..12].fill(0);
            let checksum = Sum::ZERO.bytes(&packet[..at]).checksum();
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        IpVersion::V6 => packet[4..6].copy_from_slice(&length_field(transport_len).to_be_bytes()),
    }
    let (gso_type, checksum_offset) = if shape.is_tcp {
        packet[at + FLAGS_OFFSET] |= last_flags & flags::PSH;
        let gso_type = match shape.version {
            IpVersion::V4 => GsoType::TcpV4,
            IpVersion::V6 => GsoType::TcpV6,
        };
        (gso_type, TCP_CHECKSUM_OFFSET)
    } else {
        packet[at + 4..at + 6].copy_from_slice(&length_field(transport_len).to_be_bytes());
        (GsoType::UdpL4, UDP_CHECKSUM_OFFSET)
    };
    let partial = pseudo_header(packet, shape, transport_len).fold();
    let field = at + checksum_offset;
    packet[field..field + 2].copy_from_slice(&partial.to_be_bytes());
    VnetHeader {
        needs_checksum: true,
        data_valid: false,
        gso_type,
        ecn: false,
        header_len: length_field(shape.headers_len),
        gso_size: length_field(segment_payload),
        checksum_start: length_field(at),
        checksum_offset: length_field(checksum_offset),
    }
}

fn write_alone(packet: &[u8], out: &mut PacketBatch) {
    let (vnet, room) = out.spare().split_at_mut(VNET_HEADER_LEN);
    vnet.fill(0);
    room[..packet.len()].copy_from_slice(packet);
    out.commit(VNET_HEADER_LEN + packet.len());
}

/// The bucket of a packet's flow; `None` for packets that have no ports.
fn flow_hash(view: &IpView<'_>) -> Option<usize> {
    if !matches!(view.protocol(), protocol::TCP | protocol::UDP) {
        return None;
    }
    let ports = view.ports()?;
    let addresses = match view.version() {
        IpVersion::V4 => &view.packet()[12..20],
        IpVersion::V6 => &view.packet()[8..40],
    };
    let seed = u64::from(ports.0) << 32 | u64::from(ports.1) << 8 | u64::from(view.protocol());
    let (words, _) = addresses.as_chunks::<8>();
    let hash = words.iter().fold(seed.wrapping_mul(MIX), |hash, word| {
        (hash ^ u64::from_ne_bytes(*word)).wrapping_mul(MIX).rotate_left(23)
    });
    // The product's high bits depend on every bit of the input.
    usize::try_from(hash.wrapping_mul(MIX) >> 56).ok()
}

/// 2⁶⁴ divided by the golden ratio, odd.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

fn length_field(len: usize) -> u16 {
    u16::try_from(len).expect("a super-packet is no longer than MAX_PACKET_LEN")
}
