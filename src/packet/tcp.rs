//! The TCP header as a checked view. (vocabulary: no IO)

/// TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;

/// Where the checksum field is.
pub const TCP_CHECKSUM_OFFSET: usize = 16;

/// Flag bits (RFC 9293 §3.1, RFC 3168).
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Open.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// A checked view over a TCP header and its payload.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    segment: &'a [u8],
    header_len: usize,
}

impl<'a> TcpView<'a> {
    /// `None` if the header is not whole or its data offset lies.
    #[must_use]
    pub fn parse(segment: &'a [u8]) -> Option<Self> {
        let fixed = segment.first_chunk::<TCP_HEADER_LEN>()?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        (TCP_HEADER_LEN..=segment.len()).contains(&header_len).then_some(Self { segment, header_len })
    }

    /// Header and options, in bytes.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// The header and its options.
    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        &self.segment[..self.header_len]
    }

    /// What the segment carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.segment[self.header_len..]
    }

    /// Number of the first payload byte.
    #[must_use]
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.segment[4], self.segment[5], self.segment[6], self.segment[7]])
    }

    /// Flag bits, as [`flags`] names them.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.segment[13]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_offset_beyond_the_segment_is_refused() {
        let mut segment = [0_u8; 24];
        segment[12] = 0x60;
        assert_eq!(TcpView::parse(&segment).unwrap().header_len(), 24);
        segment[12] = 0x70;
        assert!(TcpView::parse(&segment).is_none());
        segment[12] = 0x40;
        assert!(TcpView::parse(&segment).is_none());
    }
}
