//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (paper §5.4). (core: no IO, no clock)
//!
//! # Theory of operation
//! Both ends walk the same sequence of hashes and key derivations, [`Transcript`]. The initiator keeps it between its
//! initiation and the response ([`PendingInitiation`]). The responder needs no state in between: it opens the
//! initiation in two steps, first far enough to learn who it is from ([`IdentifiedInitiation`]), then, with what it
//! knows of that peer, to the timestamp ([`OpenedInitiation`]), and answers at once.
//!
//! Ephemeral secrets and timestamps come in as arguments, so that every byte can be compared with other
//! implementations.

use std::sync::LazyLock;

use zeroize::Zeroizing;

use super::message::{Initiation, Response};
use super::tai64n::Tai64n;
use crate::crypto::{AeadKey, HASH_LEN, TAG_LEN, derive_keys, hash, x25519, x25519_public};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// A 32-byte secret that is wiped when dropped.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// The device's own static key pair.
pub(super) struct Identity {
    pub(super) private: PrivateKey,
    pub(super) public: PublicKey,
}

impl Identity {
    pub(super) fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        Self { private, public }
    }

    /// The Diffie-Hellman value of both static keys; `None` if the peer's key is a low-order point.
    pub(super) fn static_static(&self, peer: &PublicKey) -> Option<Secret> {
        x25519(self.private.as_bytes(), peer.as_bytes())
    }
}

/// What the initiator remembers until the response comes.
pub(super) struct PendingInitiation {
    transcript: Transcript,
    ephemeral: Secret,
    pub(super) local_index: u32,
}

/// What a completed handshake yields.
pub(super) struct SessionKeys {
    pub(super) send: Secret,
    pub(super) receive: Secret,
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
}

/// Makes an initiation. `None` only if the peer's key is a low-order point, which [`Identity::static_static`] has
/// refused before.
pub(super) fn initiate(
    identity: &Identity,
    peer: &PublicKey,
    static_static: &Secret,
    ephemeral: Secret,
    local_index: u32,
    timestamp: Tai64n,
) -> Option<(Initiation, PendingInitiation)> {
    let mut transcript = Transcript::towards(peer);
    let ephemeral_public = x25519_public(&ephemeral);
    transcript.mix_ephemeral(&ephemeral_public);
    let key = transcript.mix_key(&*x25519(&ephemeral, peer.as_bytes())?);
    let sealed_static = transcript.seal(&key, *identity.public.as_bytes());
    let key = transcript.mix_key(static_static.as_slice());
    let sealed_timestamp = transcript.seal(&key, timestamp.0);
    let message =
        Initiation { sender: local_index, ephemeral: ephemeral_public, sealed_static, sealed_timestamp };
    Some((message, PendingInitiation { transcript, ephemeral, local_index }))
}

/// An initiation opened far enough to know who sent it. Not yet authenticated: anyone may write any public key.
pub(super) struct IdentifiedInitiation {
    transcript: Transcript,
    pub(super) peer: PublicKey,
    ephemeral: [u8; 32],
    sender: u32,
    sealed_timestamp: [u8; 12 + TAG_LEN],
}

/// Opens an initiation's static key.
pub(super) fn identify(identity: &Identity, message: &Initiation) -> Option<IdentifiedInitiation> {
    let mut transcript = Transcript::towards(&identity.public);
    transcript.mix_ephemeral(&message.ephemeral);
    let key = transcript.mix_key(&*x25519(identity.private.as_bytes(), &message.ephemeral)?);
    let peer = transcript.open::<32, 48>(&key, &message.sealed_static)?;
    Some(IdentifiedInitiation {
        transcript,
        peer: PublicKey::from_bytes(peer),
        ephemeral: message.ephemeral,
        sender: message.sender,
        sealed_timestamp: message.sealed_timestamp,
    })
}

/// An authentic initiation. Whether it is fresh, its timestamp says.
pub(super) struct OpenedInitiation {
    transcript: Transcript,
    peer: PublicKey,
    ephemeral: [u8; 32],
    sender: u32,
    pub(super) timestamp: Tai64n,
}

impl IdentifiedInitiation {
    /// Authenticates the initiation against the peer's static key.
    pub(super) fn open(mut self, static_static: &Secret) -> Option<OpenedInitiation> {
        let key = self.transcript.mix_key(static_static.as_slice());
        let timestamp = self.transcript.open::<12, 28>(&key, &self.sealed_timestamp)?;
        Some(OpenedInitiation {
            transcript: self.transcript,
            peer: self.peer,
            ephemeral: self.ephemeral,
            sender: self.sender,
            timestamp: Tai64n(timestamp),
        })
    }
}

impl OpenedInitiation {
    /// Answers. `None` if the initiator's ephemeral key is a low-order point.
    pub(super) fn respond(
        self,
        preshared_key: Option<&PresharedKey>,
        ephemeral: Secret,
        local_index: u32,
    ) -> Option<(Response, SessionKeys)> {
        let mut transcript = self.transcript;
        let ephemeral_public = x25519_public(&ephemeral);
        transcript.mix_ephemeral(&ephemeral_public);
        transcript.mix_key_only(&*x25519(&ephemeral, &self.ephemeral)?);
        transcript.mix_key_only(&*x25519(&ephemeral, self.peer.as_bytes())?);
        let key = transcript.mix_preshared_key(preshared_key);
        let sealed_nothing = transcript.seal::<0, TAG_LEN>(&key, []);
        let message = Response {
            sender: local_index,
            receiver: self.sender,
            ephemeral: ephemeral_public,
            sealed_nothing,
        };
        let [receive, send] = transcript.split();
        Some((message, SessionKeys { send, receive, local_index, remote_index: self.sender }))
    }
}

/// Completes a handshake of ours; `None` if the response is not authentic.
///
/// The pending state is untouched, so that a forged response cannot end the handshake.
pub(super) fn complete(
    identity: &Identity,
    pending: &PendingInitiation,
    preshared_key: Option<&PresharedKey>,
    message: &Response,
) -> Option<SessionKeys> {
    let mut transcript = pending.transcript.clone();
    transcript.mix_ephemeral(&message.ephemeral);
    transcript.mix_key_only(&*x25519(&pending.ephemeral, &message.ephemeral)?);
    transcript.mix_key_only(&*x25519(identity.private.as_bytes(), &message.ephemeral)?);
    let key = transcript.mix_preshared_key(preshared_key);
    transcript.open::<0, TAG_LEN>(&key, &message.sealed_nothing)?;
    let [send, receive] = transcript.split();
    Some(SessionKeys { send, receive, local_index: pending.local_index, remote_index: message.sender })
}

/// Chaining key and hash of everything said so far.
#[derive(Clone)]
struct Transcript {
    chaining_key: Secret,
    hash: [u8; HASH_LEN],
}

impl Transcript {
    /// The start of a handshake whose responder has the static key `responder`.
    fn towards(responder: &PublicKey) -> Self {
        static START: LazyLock<([u8; 32], [u8; 32])> = LazyLock::new(|| {
            let chaining_key = hash(&[CONSTRUCTION]);
            (chaining_key, hash(&[&chaining_key, IDENTIFIER]))
        });
        let (chaining_key, start) = *START;
        let hash = hash(&[&start, responder.as_bytes()]);
        Self { chaining_key: Zeroizing::new(chaining_key), hash }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_key_only(public);
    }

    fn mix_key_only(&mut self, input: &[u8; 32]) {
        let [chaining_key] = derive_keys(&self.chaining_key, input);
        self.chaining_key = chaining_key;
    }

    fn mix_key(&mut self, input: &[u8]) -> Secret {
        let [chaining_key, key] = derive_keys(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        key
    }

    fn mix_preshared_key(&mut self, preshared_key: Option<&PresharedKey>) -> Secret {
        const NONE: [u8; 32] = [0; 32];
        let input = preshared_key.map_or(&NONE, PresharedKey::as_bytes);
        let [chaining_key, to_hash, key] = derive_keys(&self.chaining_key, input);
        self.chaining_key = chaining_key;
        self.mix_hash(to_hash.as_slice());
        key
    }

    /// Seals `text`, whose length is `SEALED` less a tag's.
    fn seal<const TEXT: usize, const SEALED: usize>(
        &mut self,
        key: &Secret,
        text: [u8; TEXT],
    ) -> [u8; SEALED] {
        const { assert!(TEXT + TAG_LEN == SEALED) };
        let mut sealed = [0; SEALED];
        sealed[..TEXT].copy_from_slice(&text);
        let tag = AeadKey::new(key).seal(0, &self.hash, &mut sealed[..TEXT]);
        sealed[TEXT..].copy_from_slice(&tag);
        self.mix_hash(&sealed);
        sealed
    }

    fn open<const TEXT: usize, const SEALED: usize>(
        &mut self,
        key: &Secret,
        sealed: &[u8; SEALED],
    ) -> Option<[u8; TEXT]> {
        const { assert!(TEXT + TAG_LEN == SEALED) };
        let mut text = *sealed;
        if !AeadKey::new(key).open(0, &self.hash, &mut text) {
            return None;
        }
        self.mix_hash(sealed);
        text[..TEXT].try_into().ok()
    }

    /// The keys of the session: the initiator's sending key first.
    fn split(&self) -> [Secret; 2] {
        derive_keys(&self.chaining_key, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Identity, Identity) {
        (Identity::new(PrivateKey::from_bytes([1; 32])), Identity::new(PrivateKey::from_bytes([2; 32])))
    }

    fn secret(byte: u8) -> Secret {
        Zeroizing::new([byte; 32])
    }

    fn shake(
        initiator_psk: Option<PresharedKey>,
        responder_psk: Option<PresharedKey>,
    ) -> Option<(SessionKeys, SessionKeys)> {
        let (alice, bob) = ends();
        let shared = alice.static_static(&bob.public)?;
        let (message, pending) = initiate(&alice, &bob.public, &shared, secret(3), 7, Tai64n([9; 12]))?;
        let identified = identify(&bob, &message)?;
        assert_eq!(identified.peer, alice.public);
        let opened = identified.open(&bob.static_static(&alice.public)?)?;
        assert_eq!(opened.timestamp, Tai64n([9; 12]));
        let (response, responder) = opened.respond(responder_psk.as_ref(), secret(4), 8)?;
        let initiator = complete(&alice, &pending, initiator_psk.as_ref(), &response)?;
        Some((initiator, responder))
    }

    #[test]
    fn both_ends_reach_the_same_keys() {
        for psk in [None, Some(PresharedKey::from_bytes([5; 32]))] {
            let (initiator, responder) = shake(psk.clone(), psk).unwrap();
            assert_eq!(initiator.send, responder.receive);
            assert_eq!(initiator.receive, responder.send);
            assert_ne!(initiator.send, initiator.receive);
            assert_eq!((initiator.local_index, initiator.remote_index), (7, 8));
            assert_eq!((responder.local_index, responder.remote_index), (8, 7));
        }
    }

    #[test]
    fn a_different_preshared_key_makes_the_response_unauthentic() {
        assert!(shake(None, Some(PresharedKey::from_bytes([5; 32]))).is_none());
        assert!(
            shake(Some(PresharedKey::from_bytes([6; 32])), Some(PresharedKey::from_bytes([5; 32]))).is_none()
        );
    }

    #[test]
    fn an_initiation_to_another_key_is_not_opened() {
        let (alice, bob) = ends();
        let carol = Identity::new(PrivateKey::from_bytes([6; 32]));
        let shared = alice.static_static(&carol.public).unwrap();
        let (message, _) = initiate(&alice, &carol.public, &shared, secret(3), 7, Tai64n([9; 12])).unwrap();
        assert!(identify(&bob, &message).is_none());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_an_initiation_is_noticed() {
        let (alice, bob) = ends();
        let shared = alice.static_static(&bob.public).unwrap();
        let (message, _) = initiate(&alice, &bob.public, &shared, secret(3), 7, Tai64n([9; 12])).unwrap();
        let bytes = message.emit();
        for position in 8..116 {
            let mut forged = bytes;
            forged[position] ^= 4;
            let opened = identify(&bob, &Initiation::parse(&forged)).and_then(|i| i.open(&shared));
            assert!(opened.is_none(), "byte {position}");
        }
    }

    #[test]
    fn a_forged_response_leaves_the_handshake_pending() {
        let (alice, bob) = ends();
        let shared = alice.static_static(&bob.public).unwrap();
        let (message, pending) =
            initiate(&alice, &bob.public, &shared, secret(3), 7, Tai64n([9; 12])).unwrap();
        let opened = identify(&bob, &message).unwrap().open(&shared).unwrap();
        let (response, _) = opened.respond(None, secret(4), 8).unwrap();
        let mut forged = response.emit();
        forged[20] ^= 1;
        assert!(complete(&alice, &pending, None, &Response::parse(&forged)).is_none());
        assert!(complete(&alice, &pending, None, &response).is_some());
    }

    #[test]
    fn a_low_order_static_key_is_refused() {
        let (alice, _) = ends();
        assert!(alice.static_static(&PublicKey::from_bytes([0; 32])).is_none());
    }

    /// A committed handshake; `tests/vectors/handshake.txt` says how it was made.
    struct Committed {
        psk: [u8; 32],
        initiation: Vec<u8>,
        response: Vec<u8>,
        from_initiator: Vec<u8>,
        from_responder: Vec<u8>,
    }

    fn committed() -> Vec<Committed> {
        let text = include_str!("../../tests/vectors/handshake.txt");
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let values: Vec<Vec<u8>> = lines.map(|line| unhex(line.split_once(" = ").unwrap().1)).collect();
        let transcripts = values.chunks_exact(5).map(|values| Committed {
            psk: values[0].as_slice().try_into().unwrap(),
            initiation: values[1].clone(),
            response: values[2].clone(),
            from_initiator: values[3].clone(),
            from_responder: values[4].clone(),
        });
        transcripts.collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<_> =
            text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const TIMESTAMP: [u8; 12] = [9; 12];

    #[test]
    fn every_byte_of_a_handshake_is_as_committed() {
        let transcripts = committed();
        assert_eq!(transcripts.len(), 2);
        for wanted in transcripts {
            let (alice, bob) = ends();
            let psk = PresharedKey::from_bytes(wanted.psk);
            let shared = alice.static_static(&bob.public).unwrap();
            let (initiation, pending) =
                initiate(&alice, &bob.public, &shared, secret(3), 7, Tai64n(TIMESTAMP)).unwrap();
            assert_eq!(initiation.emit()[8..116], wanted.initiation);
            let opened = identify(&bob, &initiation).unwrap().open(&shared).unwrap();
            let (response, responder) = opened.respond(Some(&psk), secret(4), 8).unwrap();
            assert_eq!(response.emit()[12..60], wanted.response);
            let initiator = complete(&alice, &pending, Some(&psk), &response).unwrap();
            for (keys, sealed, text) in
                [(responder, wanted.from_initiator, b"to bob"), (initiator, wanted.from_responder, b"to al.")]
            {
                let mut bytes = sealed;
                assert!(AeadKey::new(&keys.receive).open(0, &[], &mut bytes));
                assert_eq!(&bytes[..6], text);
            }
        }
    }

    /// No preshared key is one of zeros.
    #[test]
    fn the_committed_handshakes_are_what_another_implementation_says() {
        let mut text = String::from(
            "# Handshakes of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as the crate `snow` makes them, without indices and MACs:\n\
             # prologue \"WireGuard v1 zx2c4 Jason@zx2c4.com\", static keys 01…01 (initiator) and 02…02 (responder), each\n\
             # clamped; ephemeral secrets 03…03 and 04…04; timestamp 09…09; then one transport message each way, `to bob`\n\
             # and `to al.`. A test of src/wireguard/handshake.rs makes them anew and compares.\n",
        );
        for psk in [[0; 32], [5; 32]] {
            let (alice, bob) = ends();
            let pattern = || "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
            let mut initiator = snow::Builder::new(pattern())
                .prologue(IDENTIFIER)
                .and_then(|builder| builder.psk(2, &psk))
                .and_then(|builder| builder.local_private_key(alice.private.as_bytes()))
                .and_then(|builder| builder.remote_public_key(bob.public.as_bytes()))
                .and_then(|builder| builder.fixed_ephemeral_key_for_testing_only(&[3; 32]).build_initiator())
                .unwrap();
            let mut responder = snow::Builder::new(pattern())
                .prologue(IDENTIFIER)
                .and_then(|builder| builder.psk(2, &psk))
                .and_then(|builder| builder.local_private_key(bob.private.as_bytes()))
                .and_then(|builder| builder.fixed_ephemeral_key_for_testing_only(&[4; 32]).build_responder())
                .unwrap();
            let (mut wire, mut payload) = ([0; 200], [0; 200]);
            let mut line = |name: &str, bytes: &[u8]| text.push_str(&format!("{name} = {}\n", hex(bytes)));
            line("\npsk", &psk);
            let len = initiator.write_message(&TIMESTAMP, &mut wire).unwrap();
            line("initiation", &wire[..len]);
            let read = responder.read_message(&wire[..len], &mut payload).unwrap();
            assert_eq!(payload[..read], TIMESTAMP);
            let len = responder.write_message(&[], &mut wire).unwrap();
            line("response", &wire[..len]);
            initiator.read_message(&wire[..len], &mut payload).unwrap();
            let mut initiator = initiator.into_transport_mode().unwrap();
            let mut responder = responder.into_transport_mode().unwrap();
            let len = initiator.write_message(b"to bob", &mut wire).unwrap();
            line("from_initiator", &wire[..len]);
            let len = responder.write_message(b"to al.", &mut wire).unwrap();
            line("from_responder", &wire[..len]);
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/handshake.txt");
        if std::env::var_os("WG4NETNS_WRITE_VECTORS").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    }
}
