//! The only file that names the AEAD and hash crates. (vocabulary: no IO)
//!
//! The data path seals and opens in batches: up to 64 packets under one key, each with its nonce. Behind the batch
//! stands ring, one packet at a time; a multi-packet implementation can take its place without its callers noticing.
//!
//! The handshake's primitives are here too: BLAKE2s as hash, MAC and HKDF, X25519 and XChaCha20-Poly1305.
//!
//! Randomness is injected: who needs some takes an [`Entropy`].

use std::ops::Range;

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20::cipher::consts::U10;
use chacha20::hchacha;
use hmac::SimpleHmac;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use crate::sys::secret_memory::SecretBox;

/// Bytes of a Poly1305 tag.
pub const TAG_LEN: usize = 16;

/// A source of random bytes; the operating system's in the program, a seeded one in simulations.
pub trait Entropy: Send {
    /// Fills `bytes` with randomness.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The operating system's random numbers.
#[derive(Debug)]
pub struct SystemEntropy(ring::rand::SystemRandom);

impl SystemEntropy {
    /// A new handle; holds no state.
    #[must_use]
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        ring::rand::SecureRandom::fill(&self.0, bytes)
            .expect("getrandom(2) with no flags fails only on kernels without it");
    }
}

/// A key of the data path, expanded: in memory that is neither swapped out nor dumped, and wiped when it is dropped
/// (ring has no wiping of its own).
pub struct AeadKey(SecretBox<LessSafeKey>);

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AeadKey(redacted)")
    }
}

impl AeadKey {
    /// Expands 32 bytes.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a ChaCha20-Poly1305 key has 32 bytes");
        Self(SecretBox::new(LessSafeKey::new(unbound)))
    }

    /// Seals one message in place and returns its tag; the nonce is the counter in the last 8 bytes (paper §5.4.6).
    ///
    /// # Panics
    /// Never at WireGuard's sizes: ring refuses only plaintexts past 256 GiB.
    pub fn seal(&self, counter: u64, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text)
            .expect("a datagram is far below the AEAD's limit");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Opens `sealed` (ciphertext, then tag) in place; true if it is authentic. The plaintext is then in front.
    #[must_use]
    pub fn open(&self, counter: u64, aad: &[u8], sealed: &mut [u8]) -> bool {
        self.0.open_in_place(nonce(counter), Aad::from(aad), sealed).is_ok()
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// One message of a batch, lying in the slab that all of the batch share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AeadJob {
    /// Plaintext and room for the tag behind it; when opening, ciphertext and tag.
    pub range: Range<usize>,
    /// The nonce counter.
    pub counter: u64,
    /// Set by [`open_batch`]: the tag was right.
    pub authentic: bool,
}

/// Seals every job in place: the last 16 bytes of its range become the tag.
///
/// # Panics
/// If a range does not lie in `slab` or is shorter than a tag.
pub fn seal_batch(key: &AeadKey, slab: &mut [u8], jobs: &[AeadJob]) {
    for job in jobs {
        let message = &mut slab[job.range.clone()];
        let (text, tag) = message.split_at_mut(message.len() - TAG_LEN);
        tag.copy_from_slice(&key.seal(job.counter, &[], text));
    }
}

/// Opens every job in place and records which were authentic.
///
/// # Panics
/// If a range does not lie in `slab`.
pub fn open_batch(key: &AeadKey, slab: &mut [u8], jobs: &mut [AeadJob]) {
    for job in jobs {
        job.authentic = key.open(job.counter, &[], &mut slab[job.range.clone()]);
    }
}

/// Bytes of a BLAKE2s digest, of an X25519 value and of every symmetric key.
pub const HASH_LEN: usize = 32;

/// Bytes of a MAC over a handshake message, and of a cookie.
pub const MAC_LEN: usize = 16;

/// Bytes of an XChaCha20 nonce.
pub const XNONCE_LEN: usize = 24;

/// BLAKE2s of the parts, one after the other.
#[must_use]
pub fn hash(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output.
///
/// # Panics
/// Never: keys up to 32 bytes are taken, and the type admits no longer one.
#[must_use]
pub fn mac(key: &[u8; HASH_LEN], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    keyed(key, parts)
}

/// [`mac`] under a cookie, which has only 16 bytes.
///
/// # Panics
/// Never: as [`mac`].
#[must_use]
pub fn mac_under_cookie(cookie: &[u8; MAC_LEN], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    keyed(cookie, parts)
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut state =
        <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("BLAKE2s takes keys up to 32 bytes");
    for part in parts {
        Mac::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// The handshake's HKDF (paper §5.4): `N` keys from a chaining key and an input.
#[must_use]
pub fn derive_keys<const N: usize>(
    chaining_key: &[u8; HASH_LEN],
    input: &[u8],
) -> [Zeroizing<[u8; HASH_LEN]>; N] {
    let secret = Zeroizing::new(hmac(chaining_key, &[input]));
    let mut last: Zeroizing<[u8; HASH_LEN]> = Zeroizing::default();
    let mut counter = 0;
    std::array::from_fn(|_| {
        let previous: &[u8] = if counter == 0 { &[] } else { last.as_slice() };
        counter += 1;
        last = Zeroizing::new(hmac(&secret, &[previous, &[counter]]));
        last.clone()
    })
}

fn hmac(key: &[u8; HASH_LEN], parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut state =
        <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        Mac::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// The public value that belongs to a secret one.
#[must_use]
pub fn x25519_public(secret: &[u8; HASH_LEN]) -> [u8; HASH_LEN] {
    let public = multiply_base(secret);
    wipe_stack::<DH_STACK>();
    public
}

#[inline(never)]
fn multiply_base(secret: &[u8; HASH_LEN]) -> [u8; HASH_LEN] {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).to_bytes()
}

/// The shared secret; `None` if `public` is one of the few points that lead everybody to the same one.
#[must_use]
pub fn x25519(secret: &[u8; HASH_LEN], public: &[u8; HASH_LEN]) -> Option<Zeroizing<[u8; HASH_LEN]>> {
    let mut shared = Zeroizing::new([0; HASH_LEN]);
    let contributory = multiply(secret, public, &mut shared);
    wipe_stack::<DH_STACK>();
    contributory.then_some(shared)
}

/// Whether the result is one that nobody else can know.
#[inline(never)]
fn multiply(secret: &[u8; HASH_LEN], public: &[u8; HASH_LEN], result: &mut [u8; HASH_LEN]) -> bool {
    let secret = x25519_dalek::StaticSecret::from(*secret);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    result.copy_from_slice(shared.as_bytes());
    shared.was_contributory()
}

/// The primitive takes its scalar by value and leaves copies below its callers' frames; this is more than it uses.
const DH_STACK: usize = 16 * 1024 / size_of::<u64>();

/// Overwrites what calls that have returned left on the stack, so many words of eight bytes deep. (By bytes it costs as
/// much as a tenth of a Diffie-Hellman.)
#[inline(never)]
pub fn wipe_stack<const WORDS: usize>() {
    let mut stack = [0_u64; WORDS];
    stack.zeroize();
    std::hint::black_box(&stack);
}

/// Seals cookies with XChaCha20-Poly1305 under one key, each with a nonce of its own: 16 random bytes that stay, and a
/// counter. Drawing each anew would be a system call, and another key to compute, for each message of a flood.
pub struct CookieSealer {
    /// Not as ring has it: that has room for the longest key of any cipher, and whatever lay on the stack in the rest of it.
    key: [u8; HASH_LEN],
    prefix: [u8; 16],
    counter: u64,
}

impl CookieSealer {
    /// The `prefix` must never have been used with `key` before: draw it.
    #[must_use]
    pub fn new(key: &[u8; HASH_LEN], prefix: [u8; 16]) -> Self {
        Self { key: subkey(key, &prefix), prefix, counter: 0 }
    }

    /// The nonce, and the cookie sealed.
    ///
    /// # Panics
    /// Never: 16 bytes are far below the cipher's limit.
    pub fn seal(
        &mut self,
        aad: &[u8],
        cookie: &[u8; MAC_LEN],
    ) -> ([u8; XNONCE_LEN], [u8; MAC_LEN + TAG_LEN]) {
        self.counter += 1;
        let mut nonce = [0; XNONCE_LEN];
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&self.counter.to_le_bytes());
        let mut sealed = [0; MAC_LEN + TAG_LEN];
        let (text, tag) = sealed.split_at_mut(MAC_LEN);
        text.copy_from_slice(cookie);
        let sealed_tag = chacha20_poly1305(&self.key)
            .seal_in_place_separate_tag(short_nonce(&nonce), Aad::from(aad), text)
            .expect("16 bytes are far below the cipher's limit");
        tag.copy_from_slice(sealed_tag.as_ref());
        (nonce, sealed)
    }
}

/// Opens a cookie; `None` if it is not authentic.
#[must_use]
pub fn xopen(
    key: &[u8; HASH_LEN],
    nonce: &[u8; XNONCE_LEN],
    aad: &[u8],
    sealed: &[u8; MAC_LEN + TAG_LEN],
) -> Option<[u8; MAC_LEN]> {
    let prefix = nonce.first_chunk().expect("24 bytes begin with 16");
    let mut bytes = *sealed;
    let key = chacha20_poly1305(&subkey(key, prefix));
    let cookie = key.open_in_place(short_nonce(nonce), Aad::from(aad), &mut bytes).ok()?;
    cookie.try_into().ok()
}

/// The key that ChaCha20-Poly1305 takes in XChaCha20-Poly1305's place (draft-irtf-cfrg-xchacha-03, §2.3): HChaCha20 of
/// the key and the first 16 bytes of the nonce.
fn subkey(key: &[u8; HASH_LEN], prefix: &[u8; 16]) -> [u8; HASH_LEN] {
    hchacha::<U10>(key.into(), prefix.into()).into()
}

fn chacha20_poly1305(key: &[u8; HASH_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("a ChaCha20-Poly1305 key has 32 bytes"))
}

/// And the nonce: the other eight bytes behind four zeros.
fn short_nonce(nonce: &[u8; XNONCE_LEN]) -> Nonce {
    let mut short = [0; 12];
    short[4..].copy_from_slice(&nonce[16..]);
    Nonce::assume_unique_for_key(short)
}

/// Whether two secrets of equal length are equal, in constant time.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(left, right).into()
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::XChaCha20Poly1305;
    use chacha20poly1305::aead::{Aead, Payload};

    use super::*;

    #[test]
    fn what_a_batch_seals_a_batch_opens() {
        let key = AeadKey::new(&[3; 32]);
        let mut slab = vec![0x5a; 200];
        let mut jobs: Vec<_> = [(0..50, 7), (50..66, 8), (100..200, u64::MAX)]
            .map(|(range, counter)| AeadJob { range, counter, authentic: false })
            .to_vec();
        seal_batch(&key, &mut slab, &jobs);
        assert_ne!(slab[..34], [0x5a; 34]);
        slab[120] ^= 1;
        open_batch(&key, &mut slab, &mut jobs);
        assert_eq!(jobs.iter().map(|job| job.authentic).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(slab[..34], [0x5a; 34]);
    }
    /// RFC 7693 appendix B, and the keyed form's difference from it.
    #[test]
    fn blake2s_hashes_as_rfc_7693_says() {
        assert_eq!(hash(&[b"a", b"bc"])[..8], [0x50, 0x8c, 0x5e, 0x8c, 0x32, 0x7c, 0x14, 0xe2]);
        assert_ne!(mac(&[0; 32], &[b"abc"])[..], hash(&[b"abc"])[..16]);
    }

    #[test]
    fn a_low_order_point_gives_no_shared_secret() {
        let mut one = [0; 32];
        one[0] = 1;
        assert!(x25519(&[7; 32], &[0; 32]).is_none());
        assert!(x25519(&[7; 32], &one).is_none());
        assert!(x25519(&[7; 32], &x25519_public(&[8; 32])).is_some());
    }

    #[test]
    fn a_cookie_opens_only_under_its_key_nonce_and_message() {
        let mut sealer = CookieSealer::new(&[1; 32], [2; 16]);
        let (nonce, sealed) = sealer.seal(b"mac1", &[3; 16]);
        let other = XChaCha20Poly1305::new(&[1; 32].into());
        let payload = Payload { msg: &[3; 16], aad: b"mac1" };
        assert_eq!(other.encrypt(&nonce.into(), payload).unwrap(), sealed, "another implementation's");
        assert_eq!(xopen(&[1; 32], &nonce, b"mac1", &sealed), Some([3; 16]));
        assert_eq!(xopen(&[1; 32], &nonce, b"mac2", &sealed), None);
        assert_eq!(xopen(&[1; 32], &[9; 24], b"mac1", &sealed), None);
        assert_eq!(xopen(&[9; 32], &nonce, b"mac1", &sealed), None);
        assert_ne!(sealer.seal(b"mac1", &[3; 16]).0, nonce);
    }
}
