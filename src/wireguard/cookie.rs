//! MAC1, MAC2 and cookies: proof that a sender knows our key, and that it owns its address (paper §5.3, §5.4.4, §5.4.7).
//! (core: no IO, no clock)

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroizing;

use super::message::{CookieReply, mac_offsets, macs};
use crate::crypto::{CookieSealer, Entropy, MAC_LEN, equal, hash, mac, mac_under_cookie, xopen};
use crate::key::PublicKey;
use crate::time::BootTime;

/// WireGuard paper §5.4.7: the responder's secret changes this often.
const COOKIE_SECRET_MAX_AGE: Duration = Duration::from_secs(120);

/// A cookie is given up this long before its secret can have changed.
const COOKIE_SECRET_LATENCY: Duration = Duration::from_secs(5);

/// The keys that belong to a public key: of MAC1 and of cookie encryption.
struct LabelledKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl LabelledKeys {
    fn new(public_key: &PublicKey) -> Self {
        Self {
            mac1: hash(&[b"mac1----", public_key.as_bytes()]),
            cookie: hash(&[b"cookie--", public_key.as_bytes()]),
        }
    }
}

/// Our side as a responder: checks MACs, hands out cookies.
pub(super) struct CookieChecker {
    mac1_key: [u8; 32],
    sealer: CookieSealer,
    secret: Zeroizing<[u8; 32]>,
    secret_born: Option<BootTime>,
}

impl CookieChecker {
    pub(super) fn new(own: &PublicKey, entropy: &mut dyn Entropy) -> Self {
        let keys = LabelledKeys::new(own);
        let mut prefix = [0; 16];
        entropy.fill(&mut prefix);
        Self {
            mac1_key: keys.mac1,
            sealer: CookieSealer::new(&keys.cookie, prefix),
            secret: Zeroizing::default(),
            secret_born: None,
        }
    }

    /// Whether the sender of a handshake message knows our public key.
    pub(super) fn has_valid_mac1(&self, message: &[u8]) -> bool {
        let macs = macs(message);
        equal(&mac(&self.mac1_key, &[macs.before_mac1]), macs.mac1)
    }

    /// The cookie that proves `source`.
    pub(super) fn cookie(
        &mut self,
        source: SocketAddr,
        entropy: &mut dyn Entropy,
        now: BootTime,
    ) -> [u8; MAC_LEN] {
        let is_fresh = self.secret_born.is_some_and(|born| now.duration_since(born) < COOKIE_SECRET_MAX_AGE);
        if !is_fresh {
            entropy.fill(self.secret.as_mut_slice());
            self.secret_born = Some(now);
        }
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(address) => mac(&self.secret, &[&address.octets(), &port]),
            IpAddr::V6(address) => mac(&self.secret, &[&address.octets(), &port]),
        }
    }

    /// Whether there is a MAC2 to look at: who has no cookie writes zeros (paper §5.4.4), and a flood has none.
    pub(super) fn has_mac2(message: &[u8]) -> bool {
        *macs(message).mac2 != [0; MAC_LEN]
    }

    /// Whether the sender of a handshake message has received its cookie not long ago.
    pub(super) fn has_valid_mac2(message: &[u8], cookie: &[u8; MAC_LEN]) -> bool {
        let macs = macs(message);
        equal(&mac_under_cookie(cookie, &[macs.before_mac2]), macs.mac2)
    }

    /// A cookie, sealed so that only who sent `message` can use it.
    pub(super) fn reply(&mut self, message: &[u8], sender_index: u32, cookie: &[u8; MAC_LEN]) -> CookieReply {
        let (nonce, sealed_cookie) = self.sealer.seal(macs(message).mac1, cookie);
        CookieReply { receiver: sender_index, nonce, sealed_cookie }
    }
}

/// Our side towards one peer: writes MACs, keeps the peer's cookie.
pub(super) struct CookieJar {
    cookie: Option<Cookie>,
    /// MAC1 of the last message sent; a reply that answers anything else is not for us.
    last_mac1: Option<[u8; MAC_LEN]>,
}

struct Cookie {
    bytes: [u8; MAC_LEN],
    received: BootTime,
}

impl CookieJar {
    pub(super) const fn new() -> Self {
        Self { cookie: None, last_mac1: None }
    }

    /// Writes MAC1, and MAC2 if there is a fresh cookie, into a handshake message to `peer`.
    pub(super) fn write_macs(&mut self, message: &mut [u8], peer: &PublicKey, now: BootTime) {
        let (mac1_at, mac2_at) = mac_offsets(message.len());
        let mac1 = mac(&LabelledKeys::new(peer).mac1, &[&message[..mac1_at]]);
        message[mac1_at..mac2_at].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        const USABLE: Duration = COOKIE_SECRET_MAX_AGE.saturating_sub(COOKIE_SECRET_LATENCY);
        if let Some(cookie) = &self.cookie
            && now.duration_since(cookie.received) < USABLE
        {
            let mac2 = mac_under_cookie(&cookie.bytes, &[&message[..mac2_at]]);
            message[mac2_at..].copy_from_slice(&mac2);
        }
    }

    /// Takes the cookie out of a reply; false if it does not answer our last message to `peer`.
    ///
    /// The next handshake message carries it. Nothing is sent now: a flooded peer would get a second flood from us.
    pub(super) fn accept(&mut self, reply: &CookieReply, peer: &PublicKey, now: BootTime) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let key = LabelledKeys::new(peer).cookie;
        let Some(bytes) = xopen(&key, &reply.nonce, &mac1, &reply.sealed_cookie) else { return false };
        self.cookie = Some(Cookie { bytes, received: now });
        // One message, one cookie: a replayed reply is not looked at again.
        self.last_mac1 = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemEntropy;
    use crate::wireguard::message::RESPONSE_LEN;

    const PEER: PublicKey = PublicKey::from_bytes([8; 32]);

    fn at(secs: u64) -> BootTime {
        BootTime::from_nanos(secs * 1_000_000_000)
    }

    /// A responder, and an initiator that has its cookie for `source` since second 1.
    fn introduced(source: SocketAddr) -> (CookieChecker, CookieJar) {
        let (mut checker, mut jar) = (CookieChecker::new(&PEER, &mut SystemEntropy::new()), CookieJar::new());
        let mut message = [0; RESPONSE_LEN];
        jar.write_macs(&mut message, &PEER, at(1));
        assert!(checker.has_valid_mac1(&message));
        let cookie = checker.cookie(source, &mut SystemEntropy::new(), at(1));
        assert!(!CookieChecker::has_valid_mac2(&message, &cookie));
        let reply = checker.reply(&message, 5, &cookie);
        assert!(jar.accept(&reply, &PEER, at(1)));
        assert!(!jar.accept(&reply, &PEER, at(1)), "a replayed reply");
        (checker, jar)
    }

    fn message(jar: &mut CookieJar, now: BootTime) -> [u8; RESPONSE_LEN] {
        let mut message = [7; RESPONSE_LEN];
        message[RESPONSE_LEN - 32..].fill(0);
        jar.write_macs(&mut message, &PEER, now);
        message
    }

    fn proves(checker: &mut CookieChecker, message: &[u8], source: SocketAddr, now: BootTime) -> bool {
        CookieChecker::has_valid_mac2(message, &checker.cookie(source, &mut SystemEntropy::new(), now))
    }

    #[test]
    fn every_reply_has_a_nonce_of_its_own() {
        let mut checker = CookieChecker::new(&PEER, &mut SystemEntropy::new());
        let mut nonces = std::collections::HashSet::new();
        for secs in 0..1000 {
            let cookie =
                checker.cookie("192.0.2.1:5000".parse().unwrap(), &mut SystemEntropy::new(), at(secs));
            assert!(nonces.insert(checker.reply(&[7; RESPONSE_LEN], 5, &cookie).nonce), "second {secs}");
        }
    }

    #[test]
    fn a_cookie_is_bound_to_address_and_port() {
        let source = "192.0.2.1:5000".parse().unwrap();
        let (mut checker, mut jar) = introduced(source);
        let message = message(&mut jar, at(2));
        assert!(proves(&mut checker, &message, source, at(2)));
        for other in ["192.0.2.1:5001", "192.0.2.2:5000", "[2001:db8::1]:5000"] {
            assert!(!proves(&mut checker, &message, other.parse().unwrap(), at(2)), "{other}");
        }
    }

    #[test]
    fn a_cookie_ends_with_the_secret_and_is_given_up_before() {
        let source = "[2001:db8::1]:5000".parse().unwrap();
        let (mut checker, mut jar) = introduced(source);
        let last = message(&mut jar, at(115));
        assert!(proves(&mut checker, &last, source, at(120)));
        assert!(!proves(&mut checker, &last, source, at(121)));
        assert_eq!(message(&mut jar, at(116))[RESPONSE_LEN - 16..], [0; 16]);
    }

    #[test]
    fn a_reply_to_another_message_is_refused() {
        let source = "192.0.2.1:5000".parse().unwrap();
        let (mut checker, mut jar) = (CookieChecker::new(&PEER, &mut SystemEntropy::new()), CookieJar::new());
        let first = message(&mut jar, at(1));
        let cookie = checker.cookie(source, &mut SystemEntropy::new(), at(1));
        let reply = checker.reply(&first, 5, &cookie);
        let mut second = [9; RESPONSE_LEN];
        jar.write_macs(&mut second, &PEER, at(2));
        assert!(!jar.accept(&reply, &PEER, at(2)));
    }

    #[test]
    fn a_changed_byte_breaks_mac1() {
        let (checker, mut jar) = (CookieChecker::new(&PEER, &mut SystemEntropy::new()), CookieJar::new());
        let good = message(&mut jar, at(1));
        for position in 0..RESPONSE_LEN - 16 {
            let mut forged = good;
            forged[position] ^= 1;
            assert!(!checker.has_valid_mac1(&forged), "byte {position}");
        }
    }
}
