//! Private, public and preshared keys as types: redacted, zeroized, compared in constant time. (vocabulary)
//!
//! A key is 32 bytes; files write it in base64 (44 characters), the configuration protocol in hex (64 digits).
//! Parse errors tell the length that was found, never the value.

use std::fmt;

use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::x25519_public;
use crate::sys::secret_memory::SecretBox;

/// Bytes in every WireGuard key.
pub const KEY_LEN: usize = 32;

/// Why a text is not a key. Never quotes the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Base64 of 32 bytes has 44 characters, hex has 64.
    #[error("expected 32 bytes in {encoding} ({expected} characters), found {found} characters")]
    Length {
        /// `base64` or `hex`.
        encoding: &'static str,
        /// Characters such a key has.
        expected: usize,
        /// Characters that were there.
        found: usize,
    },
    /// As many characters as a key has, and they are base64, but not of 32 bytes.
    #[error("expected 32 bytes in base64 (44 characters), found {found} bytes")]
    Bytes {
        /// What they stand for.
        found: usize,
    },
    /// The length is right, a character is not of the alphabet or the padding is wrong.
    #[error(
        "expected 32 bytes in {encoding} ({expected} characters), found characters that are not {encoding}"
    )]
    Alphabet {
        /// `base64` or `hex`.
        encoding: &'static str,
        /// Characters such a key has.
        expected: usize,
    },
}

/// 32 secret bytes at one place: what is moved about is their address, so no copy stays behind on a stack. The place is
/// never swapped out nor dumped, and is wiped when they are dropped.
#[derive(Clone)]
struct SecretBytes(SecretBox<[u8; KEY_LEN]>);

impl SecretBytes {
    fn zeroed() -> Self {
        Self(SecretBox::new([0; KEY_LEN]))
    }

    fn parse(
        text: &str,
        parse: fn(&str, &mut [u8; KEY_LEN]) -> Result<(), KeyError>,
    ) -> Result<Self, KeyError> {
        let mut bytes = Self::zeroed();
        parse(text, &mut bytes.0)?;
        Ok(bytes)
    }

    fn is_zero(&self) -> bool {
        self.0.ct_eq(&[0; KEY_LEN]).into()
    }
}

fn parse_base64(text: &str, bytes: &mut [u8; KEY_LEN]) -> Result<(), KeyError> {
    const EXPECTED: usize = 44;
    if text.len() != EXPECTED {
        let found = text.chars().count();
        return Err(KeyError::Length { encoding: "base64", expected: EXPECTED, found });
    }
    // 44 characters may also stand for 31 bytes or 33.
    let mut scratch = Zeroizing::new([0; KEY_LEN + 1]);
    match Base64::decode(text, scratch.as_mut_slice()) {
        Ok(decoded) if decoded.len() == KEY_LEN => bytes.copy_from_slice(decoded),
        Ok(decoded) => return Err(KeyError::Bytes { found: decoded.len() }),
        Err(_) => return Err(KeyError::Alphabet { encoding: "base64", expected: EXPECTED }),
    }
    Ok(())
}

fn parse_hex(text: &str, bytes: &mut [u8; KEY_LEN]) -> Result<(), KeyError> {
    const EXPECTED: usize = 64;
    if text.len() != EXPECTED {
        let found = text.chars().count();
        return Err(KeyError::Length { encoding: "hex", expected: EXPECTED, found });
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(KeyError::Alphabet { encoding: "hex", expected: EXPECTED }),
        }
    }
    Ok(())
}

fn emit_hex(bytes: &[u8; KEY_LEN]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    push_hex(bytes, &mut text);
    text
}

/// Appends the digits; a `text` that must not leave copies behind has the room.
fn push_hex(bytes: &[u8; KEY_LEN], text: &mut String) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// The device's long-term secret, clamped as Curve25519 wants it.
#[derive(Clone)]
pub struct PrivateKey(SecretBytes);

impl ZeroizeOnDrop for PrivateKey {}

impl PrivateKey {
    /// Takes 32 bytes and clamps them, as the kernel does on read-back.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        let mut secret = SecretBytes::zeroed();
        secret.0.copy_from_slice(&bytes);
        bytes.zeroize();
        Self::clamped(secret)
    }

    fn clamped(mut secret: SecretBytes) -> Self {
        secret.0[0] &= 248;
        secret.0[31] = secret.0[31] & 127 | 64;
        Self(secret)
    }

    /// Parses 44 characters of base64.
    ///
    /// # Errors
    /// Wrong length or alphabet; the text is not quoted.
    pub fn parse_base64(text: &str) -> Result<Self, KeyError> {
        SecretBytes::parse(text, parse_base64).map(Self::clamped)
    }

    /// Parses 64 hex digits; all zero means "no key" in the configuration protocol and gives `None`.
    ///
    /// # Errors
    /// Wrong length or alphabet; the text is not quoted.
    pub fn parse_hex(text: &str) -> Result<Option<Self>, KeyError> {
        let secret = SecretBytes::parse(text, parse_hex)?;
        Ok((!secret.is_zero()).then(|| Self::clamped(secret)))
    }

    /// The secret itself: for the handshake only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0.0
    }

    /// The matching public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_public(self.as_bytes()))
    }

    /// For `showconf`, `genkey` and configuration files.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(self.as_bytes()))
    }

    /// For the configuration protocol.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        emit_hex(self.as_bytes())
    }

    /// Appends the same digits to `text`, which should have room for them: growing would leave a copy behind.
    pub fn push_hex(&self, text: &mut String) {
        push_hex(self.as_bytes(), text);
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}
impl Eq for PrivateKey {}

/// The optional symmetric secret two peers share.
#[derive(Clone)]
pub struct PresharedKey(SecretBytes);

impl ZeroizeOnDrop for PresharedKey {}

impl PresharedKey {
    /// Takes 32 bytes as they are.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        let mut secret = SecretBytes::zeroed();
        secret.0.copy_from_slice(&bytes);
        bytes.zeroize();
        Self(secret)
    }

    /// Parses 44 characters of base64.
    ///
    /// # Errors
    /// Wrong length or alphabet; the text is not quoted.
    pub fn parse_base64(text: &str) -> Result<Self, KeyError> {
        SecretBytes::parse(text, parse_base64).map(Self)
    }

    /// Parses 64 hex digits; all zero means "none" and gives `None`.
    ///
    /// # Errors
    /// Wrong length or alphabet; the text is not quoted.
    pub fn parse_hex(text: &str) -> Result<Option<Self>, KeyError> {
        let secret = SecretBytes::parse(text, parse_hex)?;
        Ok((!secret.is_zero()).then(|| Self(secret)))
    }

    /// The secret itself: for the handshake only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0.0
    }

    /// For `showconf`, `genpsk` and configuration files.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(self.as_bytes()))
    }

    /// For the configuration protocol.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        emit_hex(self.as_bytes())
    }

    /// Appends the same digits to `text`, which should have room for them: growing would leave a copy behind.
    pub fn push_hex(&self, text: &mut String) {
        push_hex(self.as_bytes(), text);
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}
impl Eq for PresharedKey {}

/// A peer's identity. Shown in full by `show`, shortened in logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// Takes 32 bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Parses 44 characters of base64.
    ///
    /// # Errors
    /// Wrong length or alphabet.
    pub fn parse_base64(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_LEN];
        parse_base64(text, &mut bytes)?;
        Ok(Self(bytes))
    }

    /// Parses 64 hex digits.
    ///
    /// # Errors
    /// Wrong length or alphabet.
    pub fn parse_hex(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_LEN];
        parse_hex(text, &mut bytes)?;
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// As files and `show` write it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        Base64::encode_string(&self.0)
    }

    /// For the configuration protocol.
    #[must_use]
    pub fn to_hex(&self) -> String {
        emit_hex(&self.0).to_string()
    }

    /// Appends the same digits to `text`, which should have room for them: growing would leave a copy behind.
    pub fn push_hex(&self, text: &mut String) {
        push_hex(self.as_bytes(), text);
    }
}

/// Shortened as WireGuard users know it from kernel logs: `ABCD…WXYZ`.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_base64();
        write!(f, "{}…{}", &text[..4], &text[39..43])
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 §6.1.
    #[test]
    fn the_public_key_of_rfc_7748_alice_is_derived() {
        let bytes: [u8; 32] = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ];
        let public = PrivateKey::from_bytes(bytes).public_key();
        assert_eq!(public.to_hex(), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    }

    #[test]
    fn a_key_survives_both_encodings() {
        let key = PrivateKey::from_bytes([7; 32]);
        assert_eq!(PrivateKey::parse_base64(&key.to_base64()).unwrap(), key);
        assert_eq!(PrivateKey::parse_hex(&key.to_hex()).unwrap().unwrap(), key);
    }

    #[test]
    fn a_key_is_clamped_on_read_back() {
        let mut bytes = [0xff; 32];
        bytes[0] = 0x07;
        let key = PrivateKey::from_bytes(bytes);
        assert_eq!((key.as_bytes()[0], key.as_bytes()[31]), (0, 0x7f));
    }

    #[test]
    fn errors_tell_the_length_and_never_the_value() {
        let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U";
        let error = PrivateKey::parse_base64(secret).unwrap_err().to_string();
        assert_eq!(error, "expected 32 bytes in base64 (44 characters), found 43 characters");
        assert!(!error.contains(secret));
    }

    #[test]
    fn all_zero_hex_means_no_key() {
        assert!(PrivateKey::parse_hex(&"0".repeat(64)).unwrap().is_none());
        assert!(PresharedKey::parse_hex(&"0".repeat(64)).unwrap().is_none());
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes([9; 32])), "PrivateKey(redacted)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([9; 32])), "PresharedKey(redacted)");
    }
}
