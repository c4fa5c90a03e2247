//! A slow, plain second opinion on splitting and joining, for tests and fuzzing. (test oracle: shares no code)
//!
//! Written from the protocols' side, one packet at a time and with a copy at every step, so that a mistake in the fast
//! code is unlikely to be here too. It uses nothing of the crate; the fuzz package includes this very file.

/// RFC 1071, two bytes at a time.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).expect("folded")
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value & 0xffff).expect("masked");
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Addresses, protocol and length as the transport checksum includes them.
fn pseudo_header(ip: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = if ip[0] >> 4 == 4 { ip[12..20].to_vec() } else { ip[8..40].to_vec() };
    pseudo.extend([0, protocol]);
    pseudo.extend(u16::try_from(len).expect("a packet").to_be_bytes());
    pseudo
}

/// Makes lengths and checksums of a packet right: IP header of `ip_len` bytes, then TCP (6) or UDP (17).
pub(crate) fn repair(packet: &mut [u8], ip_len: usize, protocol: u8) {
    let len = packet.len();
    if packet[0] >> 4 == 4 {
        put(packet, 2, len);
        put(packet, 10, 0);
        let sum = checksum(&[&packet[..ip_len]]);
        put(packet, 10, sum.into());
    } else {
        put(packet, 4, len - 40);
    }
    let at = ip_len + if protocol == 6 { 16 } else { 6 };
    if protocol == 17 {
        put(packet, ip_len + 4, len - ip_len);
    }
    put(packet, at, 0);
    let sum = checksum(&[&pseudo_header(packet, protocol, len - ip_len), &packet[ip_len..]]);
    put(packet, at, if protocol == 17 && sum == 0 { 0xffff } else { sum.into() });
}

/// What comes out of one super-packet at most.
pub(crate) struct Bounds {
    /// TCP segments, header included, that are smaller are refused if there is more than one.
    pub(crate) least_tcp_segment: usize,
    /// Of those that are smaller than this ...
    pub(crate) min_tcp_segment: usize,
    /// ... so many come out,
    pub(crate) max_small_segments: usize,
    /// and so many of the others.
    pub(crate) max_segments: usize,
}

impl Bounds {
    /// So many of any size.
    pub(crate) const fn only(max_segments: usize) -> Self {
        Self { least_tcp_segment: 0, min_tcp_segment: 0, max_small_segments: 0, max_segments }
    }
}

/// What becomes of one packet behind its virtio-net header; `None` if it is to be refused.
///
/// `bounds` are those against amplification. Returns the packets and how many more there would have been.
pub(crate) fn split(framed: &[u8], bounds: &Bounds) -> Option<(Vec<Vec<u8>>, usize)> {
    if framed.len() < 10 {
        return None;
    }
    let (vnet, bytes) = framed.split_at(10);
    let native = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let (gso_size, start, offset) = (native(4), native(6), native(8));
    let version = bytes.first()? >> 4;
    let (packet, ip_len, protocol, plain) = match version {
        4 => ipv4(bytes)?,
        6 => ipv6(bytes)?,
        _ => return None,
    };
    let kind = vnet[1] & 0x7f;
    if kind == 0 {
        let mut packet = packet.to_vec();
        if vnet[0] & 1 != 0 {
            if start < 20 || start + offset + 2 > packet.len() {
                return None;
            }
            let sum = checksum(&[&packet[start..]]);
            put(&mut packet, start + offset, if sum == 0 { 0xffff } else { sum.into() });
        }
        return Some((vec![packet], 0));
    }
    let wanted = match kind {
        1 if version == 4 => 6,
        4 if version == 6 => 6,
        5 => 17,
        _ => return None,
    };
    if !plain || protocol != wanted || gso_size == 0 {
        return None;
    }
    let transport = &packet[ip_len..];
    let (header_len, payload) = if wanted == 6 {
        let header_len = usize::from(*transport.get(12)? >> 4) * 4;
        if header_len < 20 || transport.len() < 20 {
            return None;
        }
        (header_len, transport.get(header_len..)?)
    } else {
        let len = if transport.len() >= 8 { u16_at(transport, 4) } else { 0 };
        (8, transport.get(8..len)?)
    };
    if wanted == 6 && payload.len() > gso_size && header_len + gso_size < bounds.least_tcp_segment {
        return None;
    }
    let small = wanted == 6 && header_len + gso_size < bounds.min_tcp_segment;
    let max_segments = if small { bounds.max_small_segments } else { bounds.max_segments };
    let headers = &packet[..ip_len + header_len];
    let mut segments = Vec::new();
    let mut rest = payload;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(gso_size));
        let mut segment = [headers, piece].concat();
        let index = segments.len();
        if version == 4 {
            let id = u16_at(packet, 4) + index;
            put(&mut segment, 4, id);
        }
        if wanted == 6 {
            let first = u32::from_be_bytes(packet[ip_len + 4..ip_len + 8].try_into().expect("4 bytes"));
            let before = u32::try_from(index * gso_size).expect("64 KiB");
            segment[ip_len + 4..ip_len + 8].copy_from_slice(&first.wrapping_add(before).to_be_bytes());
            if !after.is_empty() {
                segment[ip_len + 13] &= !(0x01 | 0x08);
            }
            if index > 0 {
                segment[ip_len + 13] &= !0x80;
            }
        }
        repair(&mut segment, ip_len, wanted);
        segments.push(segment);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let dropped = segments.len().saturating_sub(max_segments);
    segments.truncate(max_segments);
    Some((segments, dropped))
}

/// The packet without what follows it, length of its headers, transport protocol, and whether it may be segmented.
type Parsed<'a> = (&'a [u8], usize, u8, bool);

fn ipv4(bytes: &[u8]) -> Option<Parsed<'_>> {
    let ip_len = usize::from(bytes[0] & 15) * 4;
    if bytes.len() < 20 || ip_len < 20 || u16_at(bytes, 2) < ip_len {
        return None;
    }
    let packet = bytes.get(..u16_at(bytes, 2))?;
    Some((packet, ip_len, packet[9], u16_at(packet, 6) & 0x3fff == 0))
}

fn ipv6(bytes: &[u8]) -> Option<Parsed<'_>> {
    if bytes.len() < 40 {
        return None;
    }
    let packet = bytes.get(..40 + u16_at(bytes, 4))?;
    let (mut at, mut next, mut plain) = (40, packet[6], true);
    for _ in 0..8 {
        if packet.len() < at + 4 {
            break;
        }
        let len = match next {
            0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * usize::from(packet[at + 1]),
            44 => 8,
            51 => 8 + 4 * usize::from(packet[at + 1]),
            _ => break,
        };
        let later_fragment = next == 44 && u16_at(packet, at + 2) >> 3 != 0;
        let fragment = later_fragment || next == 44 && packet[at + 3] & 1 != 0;
        plain &= !(next == 43 || fragment);
        if at + len > packet.len() {
            break;
        }
        next = packet[at];
        at += len;
        if later_fragment {
            break;
        }
    }
    Some((packet, at, next, plain))
}

/// What tells packets of one flow from others: `None` for packets without ports.
pub(crate) fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let (packet, ip_len, protocol, _) = if packet[0] >> 4 == 4 { ipv4(packet)? } else { ipv6(packet)? };
    if !matches!(protocol, 6 | 17) || packet.len() < ip_len + 4 {
        return None;
    }
    if packet[0] >> 4 == 4 && u16_at(packet, 6) & 0x1fff != 0 {
        return None;
    }
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    Some([addresses, &packet[ip_len..ip_len + 4], &[protocol, packet[0] >> 4]].concat())
}

/// The packet with an id of 0 where the id means nothing: IPv4 with DF (RFC 6864).
pub(crate) fn without_atomic_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        let old = u16_at(&packet, 4);
        put(&mut packet, 4, 0);
        // The checksum follows the id, whether it was right before or not.
        let sum = !u16::try_from(u16_at(&packet, 10)).expect("two bytes");
        let mut sum = u32::from(sum) + u32::from(!u16::try_from(old).expect("two bytes"));
        sum = (sum & 0xffff) + (sum >> 16);
        put(&mut packet, 10, usize::from(!u16::try_from(sum).expect("folded")));
    }
    packet
}

/// Packets that a receive might bring, made from arbitrary bytes: a handful of flows, mostly in order and mostly
/// alike, with everything that must keep them apart thrown in.
pub(crate) fn traffic(script: &[u8]) -> Vec<Vec<u8>> {
    let mut flows: Vec<Flow> = (0..8).map(Flow::new).collect();
    script.chunks_exact(3).map(|step| flows[usize::from(step[0] % 8)].next(step[1], step[2])).collect()
}

struct Flow {
    number: u8,
    sequence: u32,
    id: u16,
}

impl Flow {
    fn new(number: u8) -> Self {
        // Numbers that overflow soon.
        Self { number, sequence: 0xffff_f000, id: 0xfffc }
    }

    /// Flows 0 to 3 are TCP, the others UDP; every other one is IPv6; 7 goes to VXLAN's port.
    fn next(&mut self, action: u8, size: u8) -> Vec<u8> {
        let (is_tcp, is_v6) = (self.number < 4, self.number % 2 == 1);
        let protocol = if is_tcp { 6 } else { 17 };
        let ip_len = if is_v6 { 40 } else { 20 };
        let mut packet = if is_v6 {
            let mut header = vec![0x60, 0, 0, 7, 0, 0, protocol, 64];
            header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            header
        } else {
            // Flow 0 may not be fragmented, the other IPv4 ones may.
            let fragmentation = if self.number == 0 { 0x40 } else { 0 };
            vec![0x45, 0, 0, 0, 0, 0, fragmentation, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        };
        if !is_v6 {
            put(&mut packet, 4, self.id.into());
            self.id = self.id.wrapping_add(1);
        }
        let mut payload_len = 600 + 100 * usize::from(self.number / 2);
        match action % 32 {
            16..=18 => payload_len = usize::from(size) + 1,
            19 => payload_len = 0,
            20 => payload_len += 40,
            _ => {}
        }
        if action % 32 == 21 {
            self.sequence = self.sequence.wrapping_add(u32::from(size));
            self.id = self.id.wrapping_add(u16::from(size));
        }
        if is_tcp {
            let mut header = [0_u8; 32];
            header[..4].copy_from_slice(&[0, 80, 0x90, self.number]);
            header[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            header[11] = 9;
            header[12] = 0x80;
            header[13] = 0x10;
            header[15] = 0xff;
            header[20..24].copy_from_slice(&[1, 1, 8, 10]);
            match action % 32 {
                22..=24 => header[13] |= 0x08,
                25 => header[11] ^= size,
                26 => header[13] ^= size,
                27 => header[14 + usize::from(size % 2)] ^= size,
                28 => header[24 + usize::from(size % 8)] ^= size,
                _ => {}
            }
            packet.extend(header);
            self.sequence = self.sequence.wrapping_add(u32::try_from(payload_len).expect("small"));
        } else {
            let port = if self.number == 7 { 4789_u16 } else { 443 };
            packet.extend([0x90, self.number]);
            packet.extend(port.to_be_bytes());
            packet.extend([0; 4]);
        }
        let start = packet.len();
        packet.resize(start + payload_len, 0);
        for (index, byte) in packet[start..].iter_mut().enumerate() {
            *byte = u8::try_from((index * 7 + usize::from(size)) % 256).expect("a byte");
        }
        if action % 32 == 29 {
            // Something in the IP header: traffic class, fragmentation, hop limit, protocol.
            let at = [1, 6, 7, 8, 9][usize::from(size) % 5];
            packet[at] ^= size;
        }
        repair(&mut packet, ip_len, protocol);
        match action % 32 {
            30 => {
                let at = packet.len() - 1 - usize::from(size) % (packet.len() - ip_len);
                packet[at] ^= 0x41;
            }
            // Padding, as every decrypted packet has it.
            31 => packet.extend(vec![0; usize::from(size % 16)]),
            _ => {}
        }
        packet
    }
}

/// Checks that what coalescing made of `packets` carries the same packets: all of them, unchanged, those of a flow in
/// their order.
///
/// # Panics
/// If it does not.
pub(crate) fn check_coalesced(packets: &[Vec<u8>], framed: &[Vec<u8>]) {
    let mut expected: Vec<Vec<u8>> = packets
        .iter()
        .filter_map(|packet| split(&[&[0; 10], packet.as_slice()].concat(), &Bounds::only(usize::MAX)))
        .flat_map(|(packets, _)| packets)
        .map(|packet| without_atomic_id(&packet))
        .collect();
    let mut found = Vec::new();
    for one in framed {
        let (packets, _) =
            split(one, &Bounds::only(usize::MAX)).expect("what is written to the TUN is well formed");
        if one[1] != 0 {
            check_super_packet(one, packets.len());
        }
        found.extend(packets.iter().map(|packet| without_atomic_id(packet)));
    }
    // A stable sort by flow keeps each flow's order and forgets the rest.
    let key =
        |packet: &Vec<u8>| (flow(packet), if flow(packet).is_none() { packet.clone() } else { Vec::new() });
    expected.sort_by_key(key);
    found.sort_by_key(key);
    assert_eq!(expected.len(), found.len(), "packets were lost or made up");
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found, "a packet changed or was overtaken");
    }
}

/// The offload header must let any reader complete the checksum and find the payload.
fn check_super_packet(framed: &[u8], segments: usize) {
    assert!((2..=64).contains(&segments), "{segments} segments");
    assert!(framed.len() <= 10 + 65_535);
    let (vnet, packet) = framed.split_at(10);
    let (whole, ip_len, protocol, plain) =
        if packet[0] >> 4 == 4 { ipv4(packet) } else { ipv6(packet) }.expect("IP");
    assert!(whole.len() == packet.len() && plain && vnet[0] == 1);
    let native = |at: usize| usize::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let header_len = if protocol == 6 { usize::from(packet[ip_len + 12] >> 4) * 4 } else { 8 };
    assert_eq!(native(2), ip_len + header_len);
    assert_eq!(native(6), ip_len);
    assert_eq!(native(8), if protocol == 6 { 16 } else { 6 });
    let mut completed = packet.to_vec();
    let sum = checksum(&[&packet[ip_len..]]);
    put(&mut completed, ip_len + native(8), if protocol == 17 && sum == 0 { 0xffff } else { sum.into() });
    let mut right = packet.to_vec();
    repair(&mut right, ip_len, protocol);
    assert_eq!(completed[..ip_len], right[..ip_len], "the IP header");
    assert_eq!(
        u16_at(&completed, ip_len + native(8)),
        u16_at(&right, ip_len + native(8)),
        "the completed checksum"
    );
}
