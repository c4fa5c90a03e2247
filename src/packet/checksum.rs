//! The Internet checksum (RFC 1071), alone or fused with a copy. (vocabulary: no IO)
//!
//! # Theory of operation
//! The ones-complement sum does not care about byte order as long as it is the same everywhere, so words are added as
//! the machine reads them and swapped once at the end. Bytes are added as 32-bit words into eight 64-bit lanes: the
//! compiler makes vector instructions of that, and no lane can overflow before 16 GiB.

use std::net::IpAddr;

/// A running ones-complement sum, not yet folded.
///
/// Invariant: every piece but the last one added had an even length, or the words of the next would be skewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds one 16-bit field.
    #[must_use]
    pub const fn word(self, value: u16) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Adds a 32-bit field.
    #[must_use]
    pub const fn long(self, value: u32) -> Self {
        Self(self.0 + value.to_be() as u64)
    }

    /// Adds bytes that begin at an even offset.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut lanes = [0_u64; LANES];
        let (chunks, rest) = bytes.as_chunks::<CHUNK>();
        for chunk in chunks {
            accumulate(&mut lanes, chunk);
        }
        self.lanes(lanes).tail(rest)
    }

    /// Copies `from` to `to` and adds it on the way.
    ///
    /// # Panics
    /// If the two differ in length.
    #[must_use]
    pub fn copy(self, from: &[u8], to: &mut [u8]) -> Self {
        assert_eq!(from.len(), to.len(), "a copy needs as much room as there are bytes");
        let mut lanes = [0_u64; LANES];
        let (chunks, rest) = from.as_chunks::<CHUNK>();
        let (room, rest_room) = to.as_chunks_mut::<CHUNK>();
        for (chunk, place) in chunks.iter().zip(room) {
            *place = *chunk;
            accumulate(&mut lanes, chunk);
        }
        rest_room.copy_from_slice(rest);
        self.lanes(lanes).tail(rest)
    }

    /// The pseudo header that TCP, UDP and ICMPv6 include: addresses, protocol, length of header and payload.
    #[must_use]
    pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: u32) -> Self {
        let address = |sum: Self, address: IpAddr| match address {
            IpAddr::V4(v4) => sum.long(u32::from(v4)),
            IpAddr::V6(v6) => sum.bytes(&v6.octets()),
        };
        address(address(Self::ZERO, source), destination).word(u16::from(protocol)).long(len)
    }

    /// The 16-bit sum, not complemented: what a `NEEDS_CSUM` packet carries of its pseudo header.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "folded until it fits in 16 bits")]
    pub const fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The checksum field: the complement of the sum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum field of UDP and of completed offloads, where 0 would mean "none".
    #[must_use]
    pub const fn nonzero_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether the bytes summed, checksum field included, are intact.
    #[must_use]
    pub const fn is_intact(self) -> bool {
        self.fold() == 0xffff
    }

    fn lanes(self, lanes: [u64; LANES]) -> Self {
        Self(self.0 + lanes.iter().sum::<u64>())
    }

    fn tail(self, rest: &[u8]) -> Self {
        let (words, last) = rest.as_chunks::<2>();
        let mut sum = self.0;
        for word in words {
            sum += u64::from(u16::from_ne_bytes(*word));
        }
        if let [byte] = last {
            sum += u64::from(u16::from_ne_bytes([*byte, 0]));
        }
        Self(sum)
    }
}

/// Bytes taken in one round.
const CHUNK: usize = 32;

/// 32-bit words in a chunk.
const LANES: usize = 8;

#[inline(always)]
fn accumulate(lanes: &mut [u64; LANES], chunk: &[u8; CHUNK]) {
    let (words, _) = chunk.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

/// The checksum field after a 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[must_use]
pub const fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.word(!checksum).word(!old).word(new).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Word by word, as RFC 1071 writes it.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    /// RFC 1071 §3.
    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn fields_add_as_the_bytes_they_are_written_as() {
        let fields = Sum::ZERO.word(0x1234).long(0xfedc_ba98);
        assert_eq!(fields.fold(), plain(&[0x12, 0x34, 0xfe, 0xdc, 0xba, 0x98]));
    }

    #[test]
    fn a_changed_word_adjusts_the_checksum() {
        let mut header = [0x45, 0, 0, 60, 0x1c, 0x46, 0x40, 0, 64, 6, 0, 0, 172, 16, 10, 99, 172, 16, 10, 12];
        let before = Sum::ZERO.bytes(&header).checksum();
        header[1] = 0xb8;
        assert_eq!(adjust(before, 0x4500, 0x45b8), Sum::ZERO.bytes(&header).checksum());
    }

    proptest::proptest! {
        #[test]
        fn the_fast_sum_equals_the_plain_one(bytes in proptest::collection::vec(0_u8.., 0..3000)) {
            let expected = plain(&bytes);
            assert_eq!(Sum::ZERO.bytes(&bytes).fold(), expected);
            let mut copy = vec![0; bytes.len()];
            assert_eq!(Sum::ZERO.copy(&bytes, &mut copy).fold(), expected);
            assert_eq!(copy, bytes);
        }
    }

    #[test]
    fn sixty_four_kilobytes_of_ones_do_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Sum::ZERO.bytes(&bytes).fold(), plain(&bytes));
    }
}
