//! The offload header in front of every packet of a TUN: `struct virtio_net_hdr`. (vocabulary: no IO)
//!
//! Its fields are in the machine's byte order (linux/virtio_net.h, "legacy" layout). Whoever has a packet socket in
//! the namespace can write them, so they are only claims until [`split`](super::split) has checked them.

use super::batch::VNET_HEADER_LEN;

/// What the segments of a super-packet are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GsoType {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, each segment a datagram of its own (USO).
    UdpL4,
    /// A value that no offload we asked for produces.
    Unknown(u8),
}

impl GsoType {
    /// The value without the ECN bit.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        match raw & !GSO_ECN {
            0 => Self::None,
            1 => Self::TcpV4,
            4 => Self::TcpV6,
            5 => Self::UdpL4,
            other => Self::Unknown(other),
        }
    }

    /// The value, without the ECN bit.
    #[must_use]
    pub const fn to_raw(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TcpV4 => 1,
            Self::TcpV6 => 4,
            Self::UdpL4 => 5,
            Self::Unknown(other) => other,
        }
    }
}

/// `VIRTIO_NET_HDR_GSO_ECN`: the first segment carries CWR.
const GSO_ECN: u8 = 0x80;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CSUM: u8 = 1;

/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;

/// One virtio-net header, parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum field holds only the pseudo header's sum; the rest is to be added.
    pub needs_checksum: bool,
    /// The checksum was verified by whoever delivered the packet.
    pub data_valid: bool,
    /// One packet or a super-packet.
    pub gso_type: GsoType,
    /// The super-packet's TCP header has CWR set.
    pub ecn: bool,
    /// Bytes of link, network and transport headers; the kernel also puts other things here.
    pub header_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksummed bytes begin.
    pub checksum_start: u16,
    /// Where the checksum field is, from `checksum_start`.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Parses the header in front of `framed`; `None` if there are not enough bytes.
    #[must_use]
    pub fn parse(framed: &[u8]) -> Option<Self> {
        let &[flags, gso, h0, h1, g0, g1, s0, s1, o0, o1] = framed.first_chunk::<VNET_HEADER_LEN>()?;
        Some(Self {
            needs_checksum: flags & NEEDS_CSUM != 0,
            data_valid: flags & DATA_VALID != 0,
            gso_type: GsoType::from_raw(gso),
            ecn: gso & GSO_ECN != 0,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            checksum_start: u16::from_ne_bytes([s0, s1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// The header as the kernel reads it.
    #[must_use]
    pub const fn emit(&self) -> [u8; VNET_HEADER_LEN] {
        let flags =
            if self.needs_checksum { NEEDS_CSUM } else { 0 } | if self.data_valid { DATA_VALID } else { 0 };
        let gso = self.gso_type.to_raw() | if self.ecn { GSO_ECN } else { 0 };
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_that_means_something_survives_emit_and_parse() {
        for flags in 0..4 {
            for gso in [0, 1, 4, 5, 3, 0x81, 0x84] {
                let mut bytes = [0; VNET_HEADER_LEN];
                bytes.copy_from_slice(&[flags, gso, 1, 2, 3, 4, 5, 6, 7, 8]);
                assert_eq!(VnetHeader::parse(&bytes).unwrap().emit(), bytes);
            }
        }
    }

    #[test]
    fn nine_bytes_are_no_header() {
        assert_eq!(VnetHeader::parse(&[0; 9]), None);
    }
}
