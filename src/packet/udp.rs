//! The UDP header as a checked view. (vocabulary: no IO)

/// UDP header.
pub const UDP_HEADER_LEN: usize = 8;

/// Where the checksum field is.
pub const UDP_CHECKSUM_OFFSET: usize = 6;

/// A checked view over a UDP header and its payload.
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a> {
    /// Header and payload, as long as the length field says.
    datagram: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// `None` if the header is not whole or the length field lies.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<UDP_HEADER_LEN>()?;
        let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        (len >= UDP_HEADER_LEN).then_some(())?;
        bytes.get(..len).map(|datagram| Self { datagram })
    }

    /// Header and payload, in bytes.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.datagram.len()
    }

    /// What the datagram carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.datagram[UDP_HEADER_LEN..]
    }

    /// Where it goes.
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.datagram[2], self.datagram[3]])
    }

    /// The checksum field; 0 is "none".
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.datagram[6], self.datagram[7]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_bytes_or_below_the_header_is_refused() {
        let mut bytes = [0_u8; 12];
        for (len, good) in [(7, false), (8, true), (12, true), (13, false)] {
            bytes[5] = len;
            assert_eq!(UdpView::parse(&bytes).is_some(), good, "length {len}");
        }
    }
}
