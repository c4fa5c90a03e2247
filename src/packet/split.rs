//! Cuts a super-packet from the TUN into packets, laid out so that they can be sealed where they are. (core: no IO)
//!
//! # Theory of operation
//! A TUN with offloads hands over up to 64 KiB at once: one header, and payload that stands for many packets. The
//! segments are written at a fixed stride, each with room in front for a message header and behind for a tag:
//!
//! ```text
//! [ headroom | packet 0 | pad | tailroom ][ headroom | packet 1 | pad | tailroom ] … [ … last, shorter ]
//! ```
//!
//! so that after sealing in place the whole run goes out in one segmented send. Payload is copied once, and its
//! checksum is taken on the way.
//!
//! Container root writes the offload header and the packet behind it. So every claim is checked against the bytes:
//! header lengths are parsed, never believed; at most [`MAX_SEGMENTS`] segments come out of one packet, the rest is
//! lost as on a full link; of TCP segments below [`MIN_TCP_SEGMENT`] at most [`MAX_SMALL_SEGMENTS`] come out, and none
//! below [`LEAST_TCP_SEGMENT`]: so one write of 64 KiB never makes more than 64 datagrams of the usual size or 16 small
//! ones.

use std::ops::Range;

use super::batch::{MAX_DATAGRAM_RUN, MAX_PACKET_LEN, MAX_SEGMENTS, VNET_HEADER_LEN};
use super::checksum::Sum;
use super::ip::{Fragment, IpError, IpVersion, IpView, protocol};
use super::tcp::{TCP_CHECKSUM_OFFSET, TcpView, flags};
use super::udp::{UDP_CHECKSUM_OFFSET, UDP_HEADER_LEN, UdpView};
use super::vnet::{GsoType, VnetHeader};

/// TCP header and payload of the smallest segment that a super-packet may be cut into [`MAX_SEGMENTS`] times.
///
/// 536 bytes is the MSS every host accepts (RFC 9293 §3.7.1); options take their room from it.
pub const MIN_TCP_SEGMENT: usize = 20 + 536;

/// TCP header and payload of the smallest segment at all.
///
/// Linux sends none that is smaller: `net.ipv4.tcp_min_snd_mss` is 48, options included, whatever the peer or the path
/// says. Between this and [`MIN_TCP_SEGMENT`] are the segments of honest connections over narrow paths: the kernel
/// believes an ICMP error down to an MTU of 552 (`net.ipv4.route.min_pmtu`), an MSS of 512.
pub const LEAST_TCP_SEGMENT: usize = 20 + 48;

/// Segments below [`MIN_TCP_SEGMENT`] that come out of one super-packet; the rest is lost.
///
/// Enough that a connection over a narrow path sees some loss and finds its pace, instead of losing every super-packet
/// whole until it sends single segments; few enough that nobody makes many datagrams out of one write.
pub const MAX_SMALL_SEGMENTS: usize = 16;

/// Packets are padded to a multiple of this (WireGuard paper §5.4.6).
const PADDING: usize = 16;

/// Room for headers that every segment repeats: IPv4 and TCP at their longest, or IPv6, TCP and a few extensions.
const MAX_REPEATED_HEADERS: usize = 120;

/// Where segments go in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    /// Bytes left alone in front of each packet.
    pub headroom: usize,
    /// Bytes left alone behind each packet and its padding.
    pub tailroom: usize,
    /// Padding never makes a packet longer than this; 0 means no padding at all.
    pub mtu: usize,
}

impl SegmentLayout {
    /// Output that is enough for any super-packet a kernel makes.
    #[must_use]
    pub const fn room(&self) -> usize {
        MAX_PACKET_LEN + MAX_SEGMENTS * (self.headroom + MAX_REPEATED_HEADERS + PADDING + self.tailroom)
    }

    const fn padded(&self, len: usize) -> usize {
        let padded = len.next_multiple_of(PADDING);
        if padded <= self.mtu {
            padded
        } else if len < self.mtu {
            self.mtu
        } else {
            len
        }
    }

    const fn slot(&self, len: usize) -> usize {
        self.headroom + self.padded(len) + self.tailroom
    }
}

/// What [`split`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Segments written; at least 1.
    pub count: usize,
    /// From the start of one segment's headroom to the next; of a single one, its whole length.
    pub stride: usize,
    /// The last segment: headroom, packet, padding and tailroom.
    pub last_len: usize,
    /// Everything written, first headroom to last tailroom.
    pub total_len: usize,
    /// The packets without padding.
    pub inner_bytes: usize,
    /// Segments beyond [`MAX_SEGMENTS`], or [`MAX_SMALL_SEGMENTS`], which were not written.
    pub dropped: usize,
}

impl Segments {
    /// Where segment `index` is in the output, headroom and tailroom included.
    #[must_use]
    pub const fn range(&self, index: usize) -> Range<usize> {
        let start = index * self.stride;
        start..if index + 1 == self.count { self.total_len } else { start + self.stride }
    }
}

/// Why a packet from the TUN was not split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SplitError {
    /// No whole virtio-net header.
    #[error("the offload header is not whole")]
    VnetHeader,
    /// What follows the header is not an IP packet.
    #[error("the packet is not IP")]
    NotIp(#[from] IpError),
    /// The place of the checksum lies outside the packet.
    #[error("the checksum to complete lies outside the packet")]
    ChecksumPlace,
    /// An offload that was never asked for.
    #[error("offload type {0} is unknown")]
    UnknownOffload(u8),
    /// The packet is not of the kind that the offload header says, or is a fragment.
    #[error("the packet does not fit its offload type")]
    WrongOffload,
    /// The transport header is not whole.
    #[error("the transport header is not whole")]
    TransportHeader,
    /// Segments of no bytes, or TCP segments below [`LEAST_TCP_SEGMENT`].
    #[error("the segment size {0} is too small")]
    SegmentSize(u16),
    /// A segment is longer than a datagram can carry, or all together are longer than the output.
    #[error("the segments do not fit the output")]
    NoRoom,
}

/// Splits `framed`, a virtio-net header and a packet, into `out`.
///
/// # Errors
/// If the bytes are not what a kernel would deliver, or do not fit; what `out` then holds is of no use.
pub fn split(framed: &[u8], layout: &SegmentLayout, out: &mut [u8]) -> Result<Segments, SplitError> {
    split_within(&BOUNDS, framed, layout, out)
}

/// The same for a super-packet that was joined here: its segments are as small as its peer sent them.
///
/// # Errors
/// Those of [`split`], but no segment of TCP is too small.
pub fn split_joined(framed: &[u8], layout: &SegmentLayout, out: &mut [u8]) -> Result<Segments, SplitError> {
    split_within(&TcpBounds { least: 0, small_below: 0 }, framed, layout, out)
}

/// Against a packet socket that makes many datagrams out of one write.
struct TcpBounds {
    /// Smaller segments are refused.
    least: usize,
    /// Of smaller segments few come out.
    small_below: usize,
}

const BOUNDS: TcpBounds = TcpBounds { least: LEAST_TCP_SEGMENT, small_below: MIN_TCP_SEGMENT };

fn split_within(
    bounds: &TcpBounds,
    framed: &[u8],
    layout: &SegmentLayout,
    out: &mut [u8],
) -> Result<Segments, SplitError> {
    let vnet = VnetHeader::parse(framed).ok_or(SplitError::VnetHeader)?;
    let view = IpView::parse(&framed[VNET_HEADER_LEN..])?;
    match vnet.gso_type {
        GsoType::None => copy_single(&vnet, &view, layout, out),
        GsoType::TcpV4 => SuperPacket::tcp(&vnet, &view, IpVersion::V4, bounds)?.cut(layout, out),
        GsoType::TcpV6 => SuperPacket::tcp(&vnet, &view, IpVersion::V6, bounds)?.cut(layout, out),
        GsoType::UdpL4 => SuperPacket::udp(&vnet, &view)?.cut(layout, out),
        GsoType::Unknown(raw) => Err(SplitError::UnknownOffload(raw)),
    }
}

/// One packet, its checksum completed if it was left to us.
fn copy_single(
    vnet: &VnetHeader,
    view: &IpView<'_>,
    layout: &SegmentLayout,
    out: &mut [u8],
) -> Result<Segments, SplitError> {
    let packet = view.packet();
    let total_len = layout.slot(packet.len());
    if total_len > MAX_DATAGRAM_RUN {
        return Err(SplitError::NoRoom);
    }
    let out = out.get_mut(..total_len).ok_or(SplitError::NoRoom)?;
    let out = &mut out[layout.headroom..total_len - layout.tailroom];
    let (copy, padding) = out.split_at_mut(packet.len());
    padding.fill(0);
    if vnet.needs_checksum {
        let start = usize::from(vnet.checksum_start);
        let field = start + usize::from(vnet.checksum_offset);
        // Before the IP header's end there is no checksum that a kernel would leave to us.
        if start < MIN_CHECKSUM_START || field + 2 > packet.len() {
            return Err(SplitError::ChecksumPlace);
        }
        copy[..start].copy_from_slice(&packet[..start]);
        // The field holds the pseudo header's sum, so that adding everything gives the whole.
        let sum = Sum::ZERO.copy(&packet[start..], &mut copy[start..]);
        copy[field..field + 2].copy_from_slice(&sum.nonzero_checksum().to_be_bytes());
    } else {
        copy.copy_from_slice(packet);
    }
    Ok(Segments {
        count: 1,
        stride: total_len,
        last_len: total_len,
        total_len,
        inner_bytes: packet.len(),
        dropped: 0,
    })
}

/// The shortest IP header.
const MIN_CHECKSUM_START: usize = 20;

/// Which transport header each segment repeats.
#[derive(Clone, Copy)]
enum Transport {
    Tcp { sequence: u32, flags: u8 },
    Udp,
}

/// A super-packet whose claims have been checked.
struct SuperPacket<'a> {
    version: IpVersion,
    transport: Transport,
    /// IP header with extensions, and the transport header: every segment repeats them.
    headers: &'a [u8],
    /// Where the transport header begins in `headers`.
    transport_start: usize,
    payload: &'a [u8],
    /// Payload bytes of each segment but the last; at least 1.
    segment_payload: usize,
    /// What is beyond them is lost.
    max_segments: usize,
    /// Addresses and protocol, without the length.
    pseudo_header: Sum,
}

impl<'a> SuperPacket<'a> {
    fn tcp(
        vnet: &VnetHeader,
        view: &IpView<'a>,
        version: IpVersion,
        bounds: &TcpBounds,
    ) -> Result<Self, SplitError> {
        if view.version() != version {
            return Err(SplitError::WrongOffload);
        }
        check_kind(view, protocol::TCP)?;
        let tcp = TcpView::parse(view.transport()).ok_or(SplitError::TransportHeader)?;
        let segment_payload = usize::from(vnet.gso_size);
        let segment = tcp.header_len() + segment_payload;
        let too_small = segment < bounds.least && tcp.payload().len() > segment_payload;
        if segment_payload == 0 || too_small {
            return Err(SplitError::SegmentSize(vnet.gso_size));
        }
        let max_segments = if segment < bounds.small_below { MAX_SMALL_SEGMENTS } else { MAX_SEGMENTS };
        let transport = Transport::Tcp { sequence: tcp.sequence(), flags: tcp.flags() };
        let whole = Self::new(view, transport, tcp.header_len(), tcp.payload(), segment_payload);
        Ok(Self { max_segments, ..whole })
    }

    fn udp(vnet: &VnetHeader, view: &IpView<'a>) -> Result<Self, SplitError> {
        check_kind(view, protocol::UDP)?;
        let udp = UdpView::parse(view.transport()).ok_or(SplitError::TransportHeader)?;
        let segment_payload = usize::from(vnet.gso_size);
        if segment_payload == 0 {
            return Err(SplitError::SegmentSize(vnet.gso_size));
        }
        Ok(Self::new(view, Transport::Udp, UDP_HEADER_LEN, udp.payload(), segment_payload))
    }

    fn new(
        view: &IpView<'a>,
        transport: Transport,
        transport_header_len: usize,
        payload: &'a [u8],
        segment_payload: usize,
    ) -> Self {
        let transport_start = view.header_len();
        Self {
            version: view.version(),
            transport,
            headers: &view.packet()[..transport_start + transport_header_len],
            transport_start,
            payload,
            segment_payload,
            max_segments: MAX_SEGMENTS,
            pseudo_header: Sum::pseudo_header(view.source(), view.destination(), view.protocol(), 0),
        }
    }

    fn cut(&self, layout: &SegmentLayout, out: &mut [u8]) -> Result<Segments, SplitError> {
        let headers_len = self.headers.len();
        let wanted = self.payload.len().div_ceil(self.segment_payload).max(1);
        let count = wanted.min(self.max_segments);
        let payload = &self.payload[..self.payload.len().min(count * self.segment_payload)];
        let last_payload = payload.len() - (count - 1) * self.segment_payload;
        let last_len = layout.slot(headers_len + last_payload);
        let stride = if count == 1 { last_len } else { layout.slot(headers_len + self.segment_payload) };
        let total_len = (count - 1) * stride + last_len;
        if stride > MAX_DATAGRAM_RUN {
            return Err(SplitError::NoRoom);
        }
        let out = out.get_mut(..total_len).ok_or(SplitError::NoRoom)?;
        let ip_sum = self.ip_header_sum();
        // At least one (empty) piece, so that a super-packet without payload is still a packet.
        let mut pieces = payload.chunks(self.segment_payload);
        for (index, slot) in out.chunks_mut(stride).enumerate() {
            let piece = pieces.next().unwrap_or_default();
            let (segment, rest) = slot[layout.headroom..].split_at_mut(headers_len + piece.len());
            self.write(segment, index, index + 1 == wanted, piece, ip_sum);
            let padding_len = rest.len() - layout.tailroom;
            rest[..padding_len].fill(0);
        }
        let inner_bytes = count * headers_len + payload.len();
        Ok(Segments { count, stride, last_len, total_len, inner_bytes, dropped: wanted - count })
    }

    /// The IPv4 header's sum without the fields that differ between segments.
    fn ip_header_sum(&self) -> Sum {
        match self.version {
            IpVersion::V4 => {
                let header = &self.headers[..self.transport_start];
                Sum::ZERO.bytes(&header[..2]).bytes(&header[6..10]).bytes(&header[12..])
            }
            IpVersion::V6 => Sum::ZERO,
        }
    }

    /// Writes one segment: headers, then `piece` of the payload; `segment` has exactly their length.
    fn write(&self, segment: &mut [u8], index: usize, is_last: bool, piece: &[u8], ip_sum: Sum) {
        let len = length_field(segment.len());
        let index = u16::try_from(index).expect("there are at most 64 segments");
        let (headers, body) = segment.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        let (ip, transport) = headers.split_at_mut(self.transport_start);
        match self.version {
            IpVersion::V4 => {
                let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index);
                ip[2..4].copy_from_slice(&len.to_be_bytes());
                ip[4..6].copy_from_slice(&id.to_be_bytes());
                ip[10..12].copy_from_slice(&ip_sum.word(len).word(id).checksum().to_be_bytes());
            }
            IpVersion::V6 => {
                let payload_len = len - 40;
                ip[4..6].copy_from_slice(&payload_len.to_be_bytes());
            }
        }
        let transport_len = length_field(transport.len() + piece.len());
        let sum = self.pseudo_header.word(transport_len);
        match self.transport {
            Transport::Tcp { sequence, flags: all } => {
                let offset = u32::from(index) * u32::try_from(self.segment_payload).unwrap_or(0);
                let mut kept = all;
                if !is_last {
                    kept &= !(flags::FIN | flags::PSH);
                }
                if index != 0 {
                    kept &= !flags::CWR;
                }
                transport[4..8].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
                transport[13] = kept;
                transport[TCP_CHECKSUM_OFFSET..TCP_CHECKSUM_OFFSET + 2].fill(0);
                let checksum = sum.bytes(transport).copy(piece, body).checksum();
                transport[TCP_CHECKSUM_OFFSET..TCP_CHECKSUM_OFFSET + 2]
                    .copy_from_slice(&checksum.to_be_bytes());
            }
            Transport::Udp => {
                transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
                transport[UDP_CHECKSUM_OFFSET..UDP_CHECKSUM_OFFSET + 2].fill(0);
                let checksum = sum.bytes(transport).copy(piece, body).nonzero_checksum();
                transport[UDP_CHECKSUM_OFFSET..UDP_CHECKSUM_OFFSET + 2]
                    .copy_from_slice(&checksum.to_be_bytes());
            }
        }
    }
}

/// Only a whole packet of the right protocol can be segmented; a routing header would hide the address that the
/// pseudo header needs.
fn check_kind(view: &IpView<'_>, expected: u8) -> Result<(), SplitError> {
    let fits =
        view.protocol() == expected && view.fragment() == Fragment::Whole && !view.has_routing_header();
    if fits { Ok(()) } else { Err(SplitError::WrongOffload) }
}

fn length_field(len: usize) -> u16 {
    u16::try_from(len).expect("a segment is shorter than MAX_DATAGRAM_RUN")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: SegmentLayout = SegmentLayout { headroom: 16, tailroom: 16, mtu: 1420 };

    /// A TCP super-packet over IPv4: flags, then what the offload header claims of it.
    fn super_packet(tcp_flags: u8, payload_len: usize, vnet: &VnetHeader) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0, 80, 0, 81, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, tcp_flags, 1, 1, 0, 0, 0, 0]);
        packet.resize(40 + payload_len, 7);
        let len = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let sum = Sum::pseudo_header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, u32::from(len) - 20);
        let checksum = sum.bytes(&packet[20..]).checksum();
        packet[36..38].copy_from_slice(&checksum.to_be_bytes());
        [&vnet.emit(), packet.as_slice()].concat()
    }

    fn tso(gso_size: u16) -> VnetHeader {
        VnetHeader {
            gso_type: GsoType::TcpV4,
            gso_size,
            needs_checksum: true,
            ecn: true,
            ..VnetHeader::default()
        }
    }

    fn split_all(framed: &[u8]) -> Result<Vec<Vec<u8>>, SplitError> {
        let mut out = vec![0; LAYOUT.room()];
        let segments = split(framed, &LAYOUT, &mut out)?;
        let packet = |index| IpView::parse(&out[segments.range(index)][16..]).unwrap().packet().to_vec();
        Ok((0..segments.count).map(packet).collect())
    }

    #[test]
    fn cwr_stays_on_the_first_segment_and_fin_and_psh_on_the_last() {
        let all = flags::ACK | flags::CWR | flags::ECE | flags::PSH | flags::FIN;
        let packets = split_all(&super_packet(all, 3000, &tso(1000))).unwrap();
        let found: Vec<u8> = packets.iter().map(|packet| packet[33]).collect();
        let middle = flags::ACK | flags::ECE;
        assert_eq!(found, [middle | flags::CWR, middle, middle | flags::PSH | flags::FIN]);
    }

    #[test]
    fn ids_and_sequence_numbers_count_on_and_wrap() {
        let packets = split_all(&super_packet(flags::ACK, 2500, &tso(1000))).unwrap();
        let ids: Vec<_> = packets.iter().map(|packet| u16::from_be_bytes([packet[4], packet[5]])).collect();
        assert_eq!(ids, [0xffff, 0, 1]);
        let sequence = |packet: &Vec<u8>| TcpView::parse(&packet[20..]).unwrap().sequence();
        assert_eq!(packets.iter().map(sequence).collect::<Vec<_>>(), [0xffff_ff00, 0x2e8, 0x6d0]);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [1040, 1040, 540]);
    }

    #[test]
    fn of_tcp_segments_below_536_bytes_sixteen_come_out_but_options_may_take_their_share() {
        let cut = |gso_size| {
            let mut out = vec![0; LAYOUT.room()];
            let segments =
                split(&super_packet(flags::ACK, 60_000, &tso(gso_size)), &LAYOUT, &mut out).unwrap();
            (segments.count, segments.dropped)
        };
        assert_eq!((cut(535), cut(536)), ((16, 97), (64, 48)));
        assert_eq!(cut(48), (16, 1234));
        assert_eq!(split_all(&super_packet(flags::ACK, 3000, &tso(47))), Err(SplitError::SegmentSize(47)));
        assert_eq!(split_all(&super_packet(flags::ACK, 3000, &tso(0))), Err(SplitError::SegmentSize(0)));
        assert!(
            split_all(&super_packet(flags::ACK, 300, &tso(300))).is_ok(),
            "one segment amplifies nothing"
        );
    }

    #[test]
    fn a_connection_over_a_path_of_552_bytes_is_not_lost_whole() {
        // An MSS of 512, of which timestamps take 12.
        let mut framed = super_packet(flags::ACK, 12 + 8000, &tso(500));
        framed[10 + 32] = 0x80;
        framed[10 + 40..10 + 52].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        let packets = split_all(&framed).unwrap();
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [552; 16]);
        assert!(packets.iter().all(|packet| packet[40..52] == framed[50..62]), "timestamps on all");
        framed[10 + 32] = 0x50;
        let mut out = vec![0; LAYOUT.room()];
        let segments = split(&framed, &LAYOUT, &mut out).unwrap();
        assert_eq!((segments.count, segments.dropped), (16, 1));
    }

    #[test]
    fn small_segments_that_were_joined_here_come_apart_again() {
        let mut out = vec![0; LAYOUT.room()];
        let segments = split_joined(&super_packet(flags::ACK, 300, &tso(100)), &LAYOUT, &mut out).unwrap();
        assert_eq!((segments.count, segments.inner_bytes), (3, 3 * 140));
        let empty = super_packet(flags::ACK, 300, &tso(0));
        assert_eq!(split_joined(&empty, &LAYOUT, &mut out), Err(SplitError::SegmentSize(0)));
    }

    #[test]
    fn an_output_that_lacks_the_last_tailroom_is_too_short() {
        for framed in
            [super_packet(flags::ACK, 3000, &tso(1000)), super_packet(0, 100, &VnetHeader::default())]
        {
            let mut out = vec![0; LAYOUT.room()];
            let len = split(&framed, &LAYOUT, &mut out).unwrap().total_len;
            assert_eq!(split(&framed, &LAYOUT, &mut out[..len - 1]), Err(SplitError::NoRoom));
            assert!(split(&framed, &LAYOUT, &mut out[..len]).is_ok());
        }
    }

    #[test]
    fn sixty_four_segments_come_out_and_the_rest_is_counted() {
        let framed = super_packet(flags::ACK | flags::PSH, 60_000, &tso(600));
        let mut out = vec![0; LAYOUT.room()];
        let segments = split(&framed, &LAYOUT, &mut out).unwrap();
        assert_eq!((segments.count, segments.dropped), (64, 36));
        let last = &out[segments.range(63)][16..];
        assert_eq!(last[33], flags::ACK, "the end of the super-packet was not reached");
    }

    #[test]
    fn a_left_over_checksum_is_completed_and_one_outside_the_packet_is_refused() {
        let mut framed = super_packet(flags::ACK, 101, &VnetHeader::default());
        let right = framed[10..].to_vec();
        let pseudo = Sum::pseudo_header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, 121).fold();
        framed[10 + 36..10 + 38].copy_from_slice(&pseudo.to_be_bytes());
        for (start, offset, good) in [
            (20, 16, true),
            (140, 0, false),
            (139, 0, true),
            (20, 0xffff, false),
            (0xffff, 16, false),
            (0, 16, false),
        ] {
            let header = VnetHeader {
                needs_checksum: true,
                checksum_start: start,
                checksum_offset: offset,
                ..VnetHeader::default()
            };
            framed[..10].copy_from_slice(&header.emit());
            let packets = split_all(&framed);
            if (start, offset) == (20, 16) {
                assert_eq!(packets.as_deref(), Ok(&[right.clone()][..]));
            }
            assert_eq!(packets.is_ok(), good, "start {start}, offset {offset}: {packets:?}");
        }
    }

    /// What a packet socket in the namespace was seen to get through to the TUN's reader.
    #[test]
    fn what_container_root_can_send_is_refused_with_a_reason() {
        assert_eq!(split_all(&[0; 9]), Err(SplitError::VnetHeader));
        assert_eq!(split_all(&[0; 10]), Err(SplitError::NotIp(IpError::Truncated)));
        assert_eq!(
            split_all(&[&[0; 10], &[0x45, 0, 0][..]].concat()),
            Err(SplitError::NotIp(IpError::Truncated))
        );
        assert_eq!(
            split_all(&[&[0; 10], &[0xf5; 40][..]].concat()),
            Err(SplitError::NotIp(IpError::Version))
        );
        let mut lying = super_packet(flags::ACK, 0, &VnetHeader::default());
        lying[12..14].fill(0xff);
        assert_eq!(split_all(&lying), Err(SplitError::NotIp(IpError::TotalLength)));
        let mut offset = super_packet(flags::ACK, 3000, &tso(1000));
        offset[10 + 32] = 0x40;
        assert_eq!(split_all(&offset), Err(SplitError::TransportHeader));
        let amplify = super_packet(flags::ACK, 60_000, &tso(8));
        assert_eq!(split_all(&amplify), Err(SplitError::SegmentSize(8)));
        for gso_type in [GsoType::TcpV6, GsoType::UdpL4] {
            let wrong = super_packet(flags::ACK, 3000, &VnetHeader { gso_type, ..tso(1000) });
            assert_eq!(split_all(&wrong), Err(SplitError::WrongOffload));
        }
        let unknown =
            super_packet(flags::ACK, 3000, &VnetHeader { gso_type: GsoType::Unknown(3), ..tso(1000) });
        assert_eq!(split_all(&unknown), Err(SplitError::UnknownOffload(3)));
        let mut fragment = super_packet(flags::ACK, 3000, &tso(1000));
        fragment[10 + 6] = 0x20;
        assert_eq!(split_all(&fragment), Err(SplitError::WrongOffload));
        let huge = super_packet(flags::ACK, 65_495, &VnetHeader { gso_type: GsoType::None, ..tso(0) });
        assert_eq!(split_all(&huge), Err(SplitError::NoRoom), "no datagram is that long");
    }

    #[test]
    fn an_output_that_is_too_short_is_left_without_a_panic() {
        let framed = super_packet(flags::ACK, 3000, &tso(1000));
        let needed = split(&framed, &LAYOUT, &mut vec![0; LAYOUT.room()]).unwrap().total_len;
        for room in [0, 1, 15, 16, 1000, needed - 1] {
            assert_eq!(split(&framed, &LAYOUT, &mut vec![0; room]), Err(SplitError::NoRoom), "{room}");
        }
        assert!(split(&framed, &LAYOUT, &mut vec![0; needed]).is_ok());
    }

    #[test]
    fn padding_reaches_sixteen_but_never_passes_the_mtu() {
        let padded = |len, mtu| SegmentLayout { mtu, ..LAYOUT }.padded(len);
        assert_eq!(
            [
                padded(1, 1420),
                padded(16, 1420),
                padded(1409, 1420),
                padded(1420, 1420),
                padded(1500, 1420),
                padded(21, 0)
            ],
            [16, 16, 1420, 1420, 1500, 21]
        );
    }
}
