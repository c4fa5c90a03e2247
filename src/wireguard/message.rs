//! The four messages on the wire: lengths, offsets, parse and emit. (core: no IO, no clock)
//!
//! Everything is little endian (paper §5.4). The first word is the type; its three upper bytes are reserved and zero.

use crate::crypto::{MAC_LEN, TAG_LEN, XNONCE_LEN};

/// Bytes of a handshake initiation (paper §5.4.2).
pub(super) const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response (paper §5.4.3).
pub(super) const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply (paper §5.4.7).
pub(super) const COOKIE_REPLY_LEN: usize = 64;
/// Bytes in front of a data message's ciphertext (paper §5.4.6).
pub(super) const DATA_HEADER_LEN: usize = 16;
/// Bytes of a data message without content: a keepalive.
pub(super) const KEEPALIVE_LEN: usize = DATA_HEADER_LEN + TAG_LEN;
/// Bytes of MAC1 and MAC2 at the end of both handshake messages.
const MACS_LEN: usize = 2 * MAC_LEN;

const TYPE_INITIATION: u32 = 1;
const TYPE_RESPONSE: u32 = 2;
const TYPE_COOKIE_REPLY: u32 = 3;
const TYPE_DATA: u32 = 4;

/// A datagram whose type and length fit each other.
pub(super) enum Message<'a> {
    Initiation(&'a [u8; INITIATION_LEN]),
    Response(&'a [u8; RESPONSE_LEN]),
    CookieReply(&'a [u8; COOKIE_REPLY_LEN]),
    Data,
}

impl<'a> Message<'a> {
    /// `None` for everything that is not a WireGuard message.
    pub(super) fn classify(datagram: &'a [u8]) -> Option<Self> {
        let kind = u32::from_le_bytes(*datagram.first_chunk()?);
        match kind {
            TYPE_INITIATION => datagram.try_into().ok().map(Self::Initiation),
            TYPE_RESPONSE => datagram.try_into().ok().map(Self::Response),
            TYPE_COOKIE_REPLY => datagram.try_into().ok().map(Self::CookieReply),
            TYPE_DATA => (datagram.len() >= KEEPALIVE_LEN).then_some(Self::Data),
            _ => None,
        }
    }
}

/// Whether a datagram of ours is a cookie reply, the one message that goes to somebody who has proven nothing.
#[must_use]
pub fn is_cookie_reply(datagram: &[u8]) -> bool {
    matches!(Message::classify(datagram), Some(Message::CookieReply(_)))
}

/// A handshake initiation without its MACs.
pub(super) struct Initiation {
    pub(super) sender: u32,
    pub(super) ephemeral: [u8; 32],
    pub(super) sealed_static: [u8; 32 + TAG_LEN],
    pub(super) sealed_timestamp: [u8; 12 + TAG_LEN],
}

impl Initiation {
    pub(super) fn parse(bytes: &[u8; INITIATION_LEN]) -> Self {
        Self {
            sender: u32::from_le_bytes(field(bytes, 4)),
            ephemeral: field(bytes, 8),
            sealed_static: field(bytes, 40),
            sealed_timestamp: field(bytes, 88),
        }
    }

    /// The MACs stay zero.
    pub(super) fn emit(&self) -> [u8; INITIATION_LEN] {
        let mut bytes = [0; INITIATION_LEN];
        bytes[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sender.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.ephemeral);
        bytes[40..88].copy_from_slice(&self.sealed_static);
        bytes[88..116].copy_from_slice(&self.sealed_timestamp);
        bytes
    }
}

/// A handshake response without its MACs.
pub(super) struct Response {
    pub(super) sender: u32,
    pub(super) receiver: u32,
    pub(super) ephemeral: [u8; 32],
    pub(super) sealed_nothing: [u8; TAG_LEN],
}

impl Response {
    pub(super) fn parse(bytes: &[u8; RESPONSE_LEN]) -> Self {
        Self {
            sender: u32::from_le_bytes(field(bytes, 4)),
            receiver: u32::from_le_bytes(field(bytes, 8)),
            ephemeral: field(bytes, 12),
            sealed_nothing: field(bytes, 44),
        }
    }

    /// The MACs stay zero.
    pub(super) fn emit(&self) -> [u8; RESPONSE_LEN] {
        let mut bytes = [0; RESPONSE_LEN];
        bytes[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sender.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[12..44].copy_from_slice(&self.ephemeral);
        bytes[44..60].copy_from_slice(&self.sealed_nothing);
        bytes
    }
}

/// A cookie reply.
pub(super) struct CookieReply {
    pub(super) receiver: u32,
    pub(super) nonce: [u8; XNONCE_LEN],
    pub(super) sealed_cookie: [u8; MAC_LEN + TAG_LEN],
}

impl CookieReply {
    pub(super) fn parse(bytes: &[u8; COOKIE_REPLY_LEN]) -> Self {
        Self {
            receiver: u32::from_le_bytes(field(bytes, 4)),
            nonce: field(bytes, 8),
            sealed_cookie: field(bytes, 32),
        }
    }

    pub(super) fn emit(&self) -> [u8; COOKIE_REPLY_LEN] {
        let mut bytes = [0; COOKIE_REPLY_LEN];
        bytes[..4].copy_from_slice(&TYPE_COOKIE_REPLY.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..32].copy_from_slice(&self.nonce);
        bytes[32..].copy_from_slice(&self.sealed_cookie);
        bytes
    }
}

/// The sender's index, which both handshake messages have at the same place.
pub(super) fn sender_index(handshake_message: &[u8]) -> u32 {
    u32::from_le_bytes(field(handshake_message, 4))
}

/// The two MACs at a handshake message's end.
pub(super) struct Macs<'a> {
    /// What MAC1 covers.
    pub(super) before_mac1: &'a [u8],
    pub(super) mac1: &'a [u8; MAC_LEN],
    /// What MAC2 covers.
    pub(super) before_mac2: &'a [u8],
    pub(super) mac2: &'a [u8; MAC_LEN],
}

/// Splits off the MACs of an initiation or a response.
pub(super) fn macs(handshake_message: &[u8]) -> Macs<'_> {
    let (before_mac2, mac2) =
        handshake_message.split_last_chunk().expect("a handshake message is longer than its MACs");
    let (before_mac1, mac1) =
        before_mac2.split_last_chunk().expect("a handshake message is longer than its MACs");
    Macs { before_mac1, mac1, before_mac2, mac2 }
}

/// Where MAC1 and MAC2 lie in a message of `len` bytes.
pub(super) const fn mac_offsets(len: usize) -> (usize, usize) {
    (len - MACS_LEN, len - MAC_LEN)
}

/// Writes the header of a data message.
pub(super) fn emit_data_header(header: &mut [u8], receiver: u32, counter: u64) {
    header[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
    header[4..8].copy_from_slice(&receiver.to_le_bytes());
    header[8..DATA_HEADER_LEN].copy_from_slice(&counter.to_le_bytes());
}

/// Receiver index and counter of a data message.
pub(super) fn parse_data_header(message: &[u8]) -> (u32, u64) {
    (u32::from_le_bytes(field(message, 4)), u64::from_le_bytes(field(message, 8)))
}

fn field<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    bytes[start..start + N].try_into().expect("the range has N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_lengths_are_messages() {
        for kind in 0..=5u8 {
            for len in 0..200 {
                let mut datagram = vec![0; len];
                if let Some(first) = datagram.first_mut() {
                    *first = kind;
                }
                let wanted = match kind {
                    1 => len == 148,
                    2 => len == 92,
                    3 => len == 64,
                    4 => len >= 32,
                    _ => false,
                };
                assert_eq!(Message::classify(&datagram).is_some(), wanted, "type {kind}, {len} bytes");
            }
        }
    }

    #[test]
    fn a_reserved_byte_that_is_not_zero_is_no_message() {
        for reserved in 1..4 {
            let mut datagram = [0; 148];
            datagram[0] = 1;
            datagram[reserved] = 1;
            assert!(Message::classify(&datagram).is_none());
        }
    }

    #[test]
    fn what_is_emitted_parses_to_the_same_fields() {
        let initiation = Initiation {
            sender: 0x0102_0304,
            ephemeral: [5; 32],
            sealed_static: [6; 48],
            sealed_timestamp: [7; 28],
        };
        let bytes = initiation.emit();
        assert_eq!((bytes[4], sender_index(&bytes)), (4, 0x0102_0304));
        assert_eq!(Initiation::parse(&bytes).emit(), bytes);
        let response = Response { sender: 1, receiver: 2, ephemeral: [3; 32], sealed_nothing: [4; 16] };
        assert_eq!(Response::parse(&response.emit()).emit(), response.emit());
        let cookie = CookieReply { receiver: 1, nonce: [2; 24], sealed_cookie: [3; 32] };
        assert_eq!(CookieReply::parse(&cookie.emit()).emit(), cookie.emit());
    }
}
