//! IPv4 and IPv6 headers as checked views, and the traffic class with its ECN rules. (vocabulary: no IO)
//!
//! A view exists only over a packet whose length fields agree with the bytes that are there; what follows the packet
//! (WireGuard's padding) is cut off. IPv6 extension headers are walked up to a bound; where the walk ends early the
//! packet is still a packet with addresses, only without ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;

/// IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;

/// IPv6 header without extensions.
pub const IPV6_HEADER_LEN: usize = 40;

/// Protocol numbers that something here looks at (IANA).
pub mod protocol {
    /// ICMP of IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// IPv6 extension headers followed; no real packet has more.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IpError {
    /// Shorter than the fixed header.
    #[error("the packet is shorter than an IP header")]
    Truncated,
    /// The first nibble is neither 4 nor 6.
    #[error("the packet is neither IPv4 nor IPv6")]
    Version,
    /// The IPv4 header length is below 20 or beyond the packet.
    #[error("the IPv4 header length is wrong")]
    HeaderLength,
    /// The length field says more than there is, or less than the header.
    #[error("the IP length field is wrong")]
    TotalLength,
}

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where in a fragmented packet these bytes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The packet is whole.
    Whole,
    /// The first fragment: it has the transport header.
    First,
    /// A later one: no ports.
    Later,
}

/// A checked view over one IP packet.
#[derive(Clone, Copy, Debug)]
pub struct IpView<'a> {
    /// The packet, exactly as long as its length field says.
    packet: &'a [u8],
    version: IpVersion,
    /// Bytes before the transport header; at most `packet.len()`.
    header_len: usize,
    protocol: u8,
    fragment: Fragment,
    routing_header: bool,
}

impl<'a> IpView<'a> {
    /// Checks the lengths and finds the transport header.
    ///
    /// # Errors
    /// If the bytes are not a whole IP packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IpError> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(IpError::Version),
            None => Err(IpError::Truncated),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, IpError> {
        let fixed = bytes.first_chunk::<IPV4_HEADER_LEN>().ok_or(IpError::Truncated)?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header_len < IPV4_HEADER_LEN {
            return Err(IpError::HeaderLength);
        }
        if total_len < header_len {
            return Err(IpError::TotalLength);
        }
        let packet = bytes.get(..total_len).ok_or(IpError::TotalLength)?;
        let fragment_field = u16::from_be_bytes([fixed[6], fixed[7]]);
        let fragment = match (fragment_field & 0x1fff, fragment_field & 0x2000) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Self {
            packet,
            version: IpVersion::V4,
            header_len,
            protocol: fixed[9],
            fragment,
            routing_header: false,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, IpError> {
        let fixed = bytes.first_chunk::<IPV6_HEADER_LEN>().ok_or(IpError::Truncated)?;
        let total_len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let packet = bytes.get(..total_len).ok_or(IpError::TotalLength)?;
        let mut view = Self {
            packet,
            version: IpVersion::V6,
            header_len: IPV6_HEADER_LEN,
            protocol: fixed[6],
            fragment: Fragment::Whole,
            routing_header: false,
        };
        view.skip_extensions();
        Ok(view)
    }

    /// Moves `header_len` and `protocol` behind the extension headers, as far as they are whole.
    fn skip_extensions(&mut self) {
        for _ in 0..MAX_EXTENSION_HEADERS {
            let Some(&[next, len, high, low]) =
                self.packet.get(self.header_len..).and_then(|rest| rest.first_chunk::<4>())
            else {
                return;
            };
            let extension_len = match self.protocol {
                // Hop-by-hop, routing, destination options, mobility, HIP, shim6: RFC 6564's layout.
                0 | 43 | 60 | 135 | 139 | 140 => 8 + usize::from(len) * 8,
                44 => {
                    let field = u16::from_be_bytes([high, low]);
                    if field >> 3 != 0 {
                        self.fragment = Fragment::Later;
                    } else if field & 1 != 0 {
                        self.fragment = Fragment::First;
                    }
                    8
                }
                // Authentication header: its length counts 4-byte words, minus two.
                51 => 8 + usize::from(len) * 4,
                _ => return,
            };
            if self.header_len + extension_len > self.packet.len() {
                return;
            }
            self.routing_header |= self.protocol == 43;
            self.header_len += extension_len;
            self.protocol = next;
            if self.fragment == Fragment::Later {
                return;
            }
        }
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub const fn version(&self) -> IpVersion {
        self.version
    }

    /// The packet, exactly as long as its length field says.
    #[must_use]
    pub const fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Bytes of the whole packet.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.packet.len()
    }

    /// Bytes before the transport header, extension headers included.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// The transport header and what follows it.
    #[must_use]
    pub fn transport(&self) -> &'a [u8] {
        &self.packet[self.header_len..]
    }

    /// The transport protocol's number; an extension header's where the walk had to stop.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Where in a fragmented packet this belongs.
    #[must_use]
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Whether an IPv6 routing header hides the final destination.
    #[must_use]
    pub const fn has_routing_header(&self) -> bool {
        self.routing_header
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self.version {
            IpVersion::V4 => self.v4_address(12),
            IpVersion::V6 => self.v6_address(8),
        }
    }

    /// Who is to have it.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self.version {
            IpVersion::V4 => self.v4_address(16),
            IpVersion::V6 => self.v6_address(24),
        }
    }

    fn v4_address(&self, at: usize) -> IpAddr {
        let mut octets = [0; 4];
        octets.copy_from_slice(&self.packet[at..at + 4]);
        IpAddr::V4(Ipv4Addr::from(octets))
    }

    fn v6_address(&self, at: usize) -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.packet[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(octets))
    }

    /// DSCP and ECN bits.
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        match self.version {
            IpVersion::V4 => self.packet[1],
            IpVersion::V6 => self.packet[0] << 4 | self.packet[1] >> 4,
        }
    }

    /// Source and destination port, if the protocol has them and they are here.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = matches!(
            self.protocol,
            protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE
        );
        if !has_ports || self.fragment == Fragment::Later {
            return None;
        }
        let &[s0, s1, d0, d1] = self.transport().first_chunk::<4>()?;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }
}

/// Writes the traffic class of a packet and mends the IPv4 header checksum.
///
/// Does nothing to bytes that are not an IP packet.
pub fn set_traffic_class(packet: &mut [u8], traffic_class: u8) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= IPV4_HEADER_LEN => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            let new = u16::from_be_bytes([packet[0], traffic_class]);
            let sum = checksum::adjust(u16::from_be_bytes([packet[10], packet[11]]), old, new);
            packet[1] = traffic_class;
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some(6) if packet.len() >= IPV6_HEADER_LEN => {
            packet[0] = 0x60 | traffic_class >> 4;
            packet[1] = traffic_class << 4 | packet[1] & 0x0f;
        }
        Some(_) | None => {}
    }
}

/// The ECN bits of a traffic class.
const ECN_MASK: u8 = 3;

/// Congestion experienced.
const ECN_CE: u8 = 3;

/// ECN-capable, first codepoint.
const ECN_ECT0: u8 = 2;

/// The outer traffic class for an inner one, as the kernel's WireGuard chooses it: ECN only, no DSCP, and a mark that
/// the packet already bears is not put on the outside (RFC 6040's compatibility mode).
#[must_use]
pub const fn outer_traffic_class(inner: u8) -> u8 {
    match inner & ECN_MASK {
        ECN_CE => ECN_ECT0,
        ecn => ecn,
    }
}

/// Whether an outer traffic class says that a router met congestion.
#[must_use]
pub const fn is_congestion_experienced(traffic_class: u8) -> bool {
    traffic_class & ECN_MASK == ECN_CE
}

/// Passes a congestion mark on to an inner packet, if its sender takes part in ECN.
pub fn set_congestion_experienced(packet: &mut [u8]) {
    let Ok(view) = IpView::parse(packet) else { return };
    let traffic_class = view.traffic_class();
    if traffic_class & ECN_MASK != 0 {
        set_traffic_class(packet, traffic_class | ECN_CE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Sum;
    use super::*;

    fn v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = Sum::ZERO.bytes(&packet).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0, 53, 1, 0, 0, 8, 0, 0]);
        packet
    }

    /// An IPv6 packet of a chain of headers: each its own number, and bytes whose first becomes the next one's.
    fn v6(chain: &[(u8, &[u8])], last: u8, transport: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for (index, (_, bytes)) in chain.iter().enumerate() {
            let at = body.len();
            body.extend(*bytes);
            body[at] = chain.get(index + 1).map_or(last, |next| next.0);
        }
        body.extend(transport);
        let first = chain.first().map_or(last, |first| first.0);
        let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(body.len()).unwrap(), first, 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        packet.extend(body);
        packet
    }

    #[test]
    fn addresses_ports_and_length_are_found_and_padding_is_cut_off() {
        let mut packet = v4();
        packet.extend([0; 4]);
        let view = IpView::parse(&packet).unwrap();
        assert_eq!(
            (view.source().to_string(), view.destination().to_string()),
            ("10.0.0.1".into(), "10.0.0.2".into())
        );
        assert_eq!((view.total_len(), view.ports()), (28, Some((53, 256))));
    }

    #[test]
    fn extension_headers_are_stepped_over() {
        let options: &[u8] = &[0; 16];
        let mut long = options.to_vec();
        long[1] = 1;
        let packet =
            v6(&[(0, &long), (60, &[0; 8]), (51, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])], 17, &[0, 1, 0, 2]);
        let view = IpView::parse(&packet).unwrap();
        assert_eq!((view.protocol(), view.header_len(), view.ports()), (17, 40 + 16 + 8 + 12, Some((1, 2))));
        assert!(!view.has_routing_header());
    }

    #[test]
    fn later_fragments_have_no_ports_and_first_ones_do() {
        for (field, fragment, ports) in [
            ([0, 0], Fragment::Whole, true),
            ([0, 1], Fragment::First, true),
            ([0, 8], Fragment::Later, false),
        ] {
            let packet = v6(&[(44, &[0, 0, field[0], field[1], 0, 0, 0, 9])], 17, &[0, 1, 0, 2]);
            let view = IpView::parse(&packet).unwrap();
            assert_eq!((view.fragment(), view.ports().is_some()), (fragment, ports));
        }
        let mut packet = v4();
        packet[7] = 1;
        assert_eq!(IpView::parse(&packet).unwrap().ports(), None);
    }

    #[test]
    fn a_chain_of_extensions_that_is_cut_off_or_endless_has_addresses_but_no_ports() {
        let packet = v6(&[(60, &[0, 200, 0, 0, 0, 0, 0, 0])], 17, &[0, 1, 0, 2]);
        assert_eq!(IpView::parse(&packet).unwrap().ports(), None);
        let chain = [(60, &[0_u8; 8][..]); 20];
        let packet = v6(&chain, 17, &[0, 1, 0, 2]);
        let view = IpView::parse(&packet).unwrap();
        assert_eq!((view.protocol(), view.ports()), (60, None));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let packet = v4();
        assert_eq!(IpView::parse(&[]).unwrap_err(), IpError::Truncated);
        assert_eq!(IpView::parse(&packet[..19]).unwrap_err(), IpError::Truncated);
        assert_eq!(IpView::parse(&packet[..27]).unwrap_err(), IpError::TotalLength);
        for (at, value, error) in [
            (0, 0x44, IpError::HeaderLength),
            (0, 0x4f, IpError::TotalLength),
            (3, 19, IpError::TotalLength),
            (0, 0x55, IpError::Version),
        ] {
            let mut packet = packet.clone();
            packet[at] = value;
            assert_eq!(IpView::parse(&packet).unwrap_err(), error);
        }
        let packet = v6(&[], 17, &[0; 8]);
        assert_eq!(IpView::parse(&packet[..47]).unwrap_err(), IpError::TotalLength);
        assert_eq!(IpView::parse(&packet[..39]).unwrap_err(), IpError::Truncated);
    }

    #[test]
    fn a_new_traffic_class_keeps_the_ipv4_checksum_right_and_the_flow_label() {
        let mut packet = v4();
        set_traffic_class(&mut packet, 0xb9);
        assert_eq!(IpView::parse(&packet).unwrap().traffic_class(), 0xb9);
        assert!(Sum::ZERO.bytes(&packet[..20]).is_intact());
        let mut packet = v6(&[], 17, &[0; 8]);
        packet[1..4].copy_from_slice(&[0x0a, 0xbc, 0xde]);
        set_traffic_class(&mut packet, 0xb9);
        assert_eq!(IpView::parse(&packet).unwrap().traffic_class(), 0xb9);
        assert_eq!(packet[..4], [0x6b, 0x9a, 0xbc, 0xde]);
    }

    /// RFC 6040 §4, as the kernel's WireGuard applies it.
    #[test]
    fn congestion_marks_cross_the_tunnel_only_to_those_who_take_part() {
        assert_eq!([0xb8, 1, 2, 3].map(outer_traffic_class), [0, 1, 2, 2]);
        for (before, after) in [(0, 0), (1, 3), (2, 3), (3, 3)] {
            let mut packet = v4();
            set_traffic_class(&mut packet, before);
            set_congestion_experienced(&mut packet);
            assert_eq!(IpView::parse(&packet).unwrap().traffic_class(), after);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(0_u8.., 0..300), version in 4_u8..7) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 15;
            }
            if let Ok(view) = IpView::parse(&bytes) {
                let _seen = (view.source(), view.destination(), view.ports(), view.transport().len());
            }
            set_traffic_class(&mut bytes, 3);
            set_congestion_experienced(&mut bytes);
        }
    }
}
