//! The ICMP errors that packets for nobody are answered with. (core: no IO)
//!
//! A packet outside every peer's allowed IPs gets what the kernel's WireGuard sends: host unreachable (IPv4 type 3
//! code 1) or address unreachable (IPv6 type 1 code 3), so that programs fail at once instead of waiting. The answer
//! claims to come from the destination: it is an address that is certainly routed to this link.
//!
//! RFC 1122 §3.2.2 and RFC 4443 §2.4 name what must never be answered: ICMP errors, multicast and broadcast, later
//! fragments, packets whose source is not one host. How often to answer is the caller's business.

use std::net::IpAddr;

use super::checksum::Sum;
use super::ip::{Fragment, IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpVersion, IpView, protocol};

/// Bytes of an ICMP error's own header.
const ICMP_HEADER_LEN: usize = 8;

/// An ICMPv4 error is no longer than this (RFC 1812 §4.3.2.3).
const MAX_V4_ERROR: usize = 576;

/// An ICMPv6 error is no longer than this: the minimum MTU (RFC 4443 §2.4).
const MAX_V6_ERROR: usize = 1280;

/// Room that any answer fits in.
pub const MAX_ERROR_LEN: usize = MAX_V6_ERROR;

/// Writes "host unreachable" in answer to `packet` and returns its length; `None` if no answer may be given or `out`
/// is too short.
pub fn unreachable(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let view = IpView::parse(packet).ok()?;
    match view.version() {
        IpVersion::V4 => error(&view, 3, 1, 0, out),
        IpVersion::V6 => error(&view, 1, 3, 0, out),
    }
}

/// Writes "packet too big" (IPv4: "fragmentation needed") in answer to `packet` and returns its length; `None` if no
/// answer may be given or `out` is too short.
pub fn packet_too_big(packet: &[u8], mtu: u16, out: &mut [u8]) -> Option<usize> {
    let view = IpView::parse(packet).ok()?;
    match view.version() {
        IpVersion::V4 => error(&view, 3, 4, u32::from(mtu), out),
        IpVersion::V6 => error(&view, 2, 0, u32::from(mtu), out),
    }
}

/// Writes one error; `rest` is the second word of its header.
fn error(view: &IpView<'_>, kind: u8, code: u8, rest: u32, out: &mut [u8]) -> Option<usize> {
    if !may_be_answered(view) {
        return None;
    }
    let (header_len, limit) = match view.version() {
        IpVersion::V4 => (IPV4_HEADER_LEN, MAX_V4_ERROR),
        IpVersion::V6 => (IPV6_HEADER_LEN, MAX_V6_ERROR),
    };
    let quote = &view.packet()[..view.total_len().min(limit - header_len - ICMP_HEADER_LEN)];
    let len = header_len + ICMP_HEADER_LEN + quote.len();
    let out = out.get_mut(..len)?;
    let (ip, message) = out.split_at_mut(header_len);
    message[..ICMP_HEADER_LEN].fill(0);
    message[0] = kind;
    message[1] = code;
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    message[ICMP_HEADER_LEN..].copy_from_slice(quote);
    let message_len = u16::try_from(message.len()).ok()?;
    let sum = match (view.source(), view.destination()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ip.copy_from_slice(&[
                0x45,
                0xc0,
                0,
                0,
                0,
                0,
                0,
                0,
                64,
                protocol::ICMP,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            ip[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
            ip[12..16].copy_from_slice(&destination.octets());
            ip[16..20].copy_from_slice(&source.octets());
            let header = Sum::ZERO.bytes(ip).checksum();
            ip[10..12].copy_from_slice(&header.to_be_bytes());
            Sum::ZERO
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            ip[4..6].copy_from_slice(&message_len.to_be_bytes());
            ip[6..8].copy_from_slice(&[protocol::ICMPV6, 64]);
            ip[8..24].copy_from_slice(&destination.octets());
            ip[24..40].copy_from_slice(&source.octets());
            Sum::pseudo_header(view.destination(), view.source(), protocol::ICMPV6, u32::from(message_len))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let checksum = sum.bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

fn may_be_answered(view: &IpView<'_>) -> bool {
    is_one_host(view.source())
        && !is_group(view.destination())
        && view.fragment() != Fragment::Later
        && !is_icmp_error(view)
}

/// Whether an answer to this source would reach exactly one host.
fn is_one_host(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && v4.octets()[0] < 240,
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

fn is_group(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// ICMP that reports an error, or whose kind cannot be seen.
fn is_icmp_error(view: &IpView<'_>) -> bool {
    match (view.version(), view.protocol()) {
        // Only the queries of RFC 1122 §3.2.2 and RFC 950: all else is an error or unknown.
        (IpVersion::V4, protocol::ICMP) => {
            !matches!(view.transport().first(), Some(0 | 8 | 9 | 10 | 13..=18))
        }
        (IpVersion::V6, protocol::ICMPV6) => view.transport().first().is_none_or(|kind| *kind < 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let len = u8::try_from(20 + transport.len()).unwrap();
        let mut packet = vec![0x45, 0, 0, len, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7];
        packet.extend(transport);
        packet
    }

    fn v6(next: u8, transport: &[u8]) -> Vec<u8> {
        let len = u8::try_from(transport.len()).unwrap();
        let mut packet = vec![0x60, 0, 0, 0, 0, len, next, 64];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet.extend(transport);
        packet
    }

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0xee; MAX_ERROR_LEN];
        unreachable(packet, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn an_ipv4_packet_for_nobody_is_told_host_unreachable() {
        let packet = v4(protocol::UDP, &[0, 53, 0, 53, 0, 9, 0, 0, 7]);
        let reply = answer(&packet).unwrap();
        let view = IpView::parse(&reply).unwrap();
        assert_eq!(view.total_len(), reply.len());
        assert_eq!(
            (view.source().to_string(), view.destination().to_string()),
            ("192.0.2.7".into(), "10.0.0.1".into())
        );
        assert_eq!((view.protocol(), &view.transport()[..2]), (protocol::ICMP, &[3, 1][..]));
        assert!(Sum::ZERO.bytes(&reply[..20]).is_intact());
        assert!(Sum::ZERO.bytes(view.transport()).is_intact());
        assert_eq!(view.transport()[8..], packet);
    }

    #[test]
    fn an_ipv6_packet_for_nobody_is_told_address_unreachable() {
        let packet = v6(protocol::TCP, &[0; 20]);
        let reply = answer(&packet).unwrap();
        let view = IpView::parse(&reply).unwrap();
        assert_eq!((view.protocol(), &view.transport()[..2]), (protocol::ICMPV6, &[1, 3][..]));
        assert_eq!(
            (view.source().to_string(), view.destination().to_string()),
            ("2001:db8::7".into(), "fd00::1".into())
        );
        let len = u32::try_from(view.transport().len()).unwrap();
        let sum = Sum::pseudo_header(view.source(), view.destination(), protocol::ICMPV6, len);
        assert!(sum.bytes(view.transport()).is_intact());
        assert_eq!(view.transport()[8..], packet);
    }

    #[test]
    fn errors_groups_fragments_and_nameless_sources_are_not_answered() {
        assert!(answer(&v4(protocol::ICMP, &[8, 0, 0, 0])).is_some(), "an echo request is answered");
        assert!(answer(&v6(protocol::ICMPV6, &[128, 0, 0, 0])).is_some(), "an echo request is answered");
        assert!(answer(&v4(protocol::ICMP, &[3, 1, 0, 0])).is_none());
        assert!(answer(&v6(protocol::ICMPV6, &[1, 3, 0, 0])).is_none());
        assert!(answer(&v4(protocol::ICMP, &[])).is_none());
        for (at, bytes) in
            [(16, [224, 0, 0, 1]), (16, [255; 4]), (12, [0; 4]), (12, [224, 1, 1, 1]), (12, [255; 4])]
        {
            let mut packet = v4(protocol::UDP, &[0; 8]);
            packet[at..at + 4].copy_from_slice(&bytes);
            assert!(answer(&packet).is_none(), "{bytes:?} at {at}");
        }
        let mut fragment = v4(protocol::UDP, &[0; 8]);
        fragment[6..8].copy_from_slice(&[0x20, 0]);
        assert!(answer(&fragment).is_some(), "the first fragment is answered");
        fragment[6..8].copy_from_slice(&[0x20, 5]);
        assert!(answer(&fragment).is_none());
        let mut group = v6(protocol::UDP, &[0; 8]);
        group[24] = 0xff;
        assert!(answer(&group).is_none());
    }

    #[test]
    fn a_long_packet_is_quoted_up_to_the_limit() {
        let mut packet = v4(protocol::UDP, &[0; 100]);
        packet.resize(1400, 9);
        packet[2..4].copy_from_slice(&1400_u16.to_be_bytes());
        assert_eq!(answer(&packet).unwrap().len(), MAX_V4_ERROR);
        let mut packet = v6(protocol::UDP, &[0; 100]);
        packet.resize(1400, 9);
        packet[4..6].copy_from_slice(&1360_u16.to_be_bytes());
        assert_eq!(answer(&packet).unwrap().len(), MAX_V6_ERROR);
        assert_eq!(unreachable(&packet, &mut [0; 1279]), None);
    }

    #[test]
    fn packet_too_big_carries_the_mtu() {
        let mut out = [0; MAX_ERROR_LEN];
        let len = packet_too_big(&v4(protocol::UDP, &[0; 8]), 1280, &mut out).unwrap();
        assert_eq!((out[20..22].to_vec(), out[24..28].to_vec(), len), (vec![3, 4], vec![0, 0, 5, 0], 56));
        packet_too_big(&v6(protocol::UDP, &[0; 8]), 1280, &mut out).unwrap();
        assert_eq!((out[40..42].to_vec(), out[44..48].to_vec()), (vec![2, 0], vec![0, 0, 5, 0]));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0_u8.., 0..200), room in 0_usize..1300) {
            let mut out = vec![0; room];
            let _answered = unreachable(&bytes, &mut out).is_some();
            let _answered = packet_too_big(&bytes, 1280, &mut out).is_some();
        }
    }
}
