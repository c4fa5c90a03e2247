//! The other WireGuard: boringtun's protocol engine for a handful of clients, datagrams and packets in and out.
//!
//! Nothing here comes from `crate::wireguard`: that is the point of the demonstration.
//!
//! # Theory of operation
//! boringtun's `Tunn` is one peer's state; finding the peer, learning its endpoint and checking inner source addresses are
//! left to its user, and version 0.7.1 needs these precautions:
//!
//! * its clock stands still unless `update_timers` is called, and a session that is born on a stale clock is thrown away at
//!   once: every `Tunn` is ticked, also one without an endpoint;
//! * it does not pad: packets are padded to 16 bytes here, as the protocol asks, never beyond the MTU;
//! * it counts a handshake message against its rate limit each time it is shown one, and it must be shown twice: the limit
//!   inside is switched off, the one outside stays.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Handshake messages a second before clients must prove their address by a cookie.
const HANDSHAKE_RATE_LIMIT: u64 = 100;

/// What a datagram adds to a packet, and the least room boringtun wants for any answer.
const OVERHEAD: usize = 32 + 148;

/// The protocol pads plaintexts to a multiple of this.
const PADDING: usize = 16;

/// One who may connect.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Who.
    pub public_key: PublicKey,
    /// Shared with this client alone.
    pub preshared_key: Option<PresharedKey>,
    /// The inner addresses it may use.
    pub addresses: Vec<IpAddr>,
}

/// What the engine wants done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output<'a> {
    /// Send to the outer world.
    Datagram(&'a [u8], SocketAddr),
    /// Hand to the inner one.
    Packet(&'a [u8]),
}

struct Session {
    tunn: Tunn,
    addresses: Vec<IpAddr>,
    /// Where the client last proved to be.
    endpoint: Option<SocketAddr>,
}

/// The engine.
pub(crate) struct Engine {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: RateLimiter,
    sessions: Vec<(PublicKey, Session)>,
    mtu: usize,
    /// Where boringtun puts what it makes.
    buffer: Vec<u8>,
    /// A packet with its padding.
    padded: Vec<u8>,
}

impl Engine {
    /// An engine with this key for these clients.
    pub(crate) fn new(key: &PrivateKey, clients: &[Client], mtu: usize) -> Self {
        let private = x25519::StaticSecret::from(*key.as_bytes());
        let public = x25519::PublicKey::from(&private);
        let sessions = (1_u32..).zip(clients).map(|(index, client)| {
            let unlimited = Arc::new(RateLimiter::new(&public, u64::MAX));
            let theirs = x25519::PublicKey::from(*client.public_key.as_bytes());
            let shared = client.preshared_key.as_ref().map(|key| *key.as_bytes());
            let tunn = Tunn::new(private.clone(), theirs, shared, None, index, Some(unlimited));
            (client.public_key, Session { tunn, addresses: client.addresses.clone(), endpoint: None })
        });
        Self {
            sessions: sessions.collect(),
            limiter: RateLimiter::new(&public, HANDSHAKE_RATE_LIMIT),
            private,
            public,
            mtu,
            buffer: vec![0; 65_535 + OVERHEAD],
            padded: Vec::with_capacity(65_535),
        }
    }

    /// Takes a packet from the inner world; dropped if it is for nobody.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], output: &mut dyn FnMut(Output<'_>)) {
        let Some(to) = Tunn::dst_address(packet) else { return };
        let Some((_, session)) =
            self.sessions.iter_mut().find(|(_, session)| session.addresses.contains(&to))
        else {
            return;
        };
        self.padded.clear();
        self.padded.extend_from_slice(packet);
        let len = packet.len().next_multiple_of(PADDING).min(self.mtu.max(packet.len()));
        self.padded.resize(len, 0);
        let result = session.tunn.encapsulate(&self.padded, &mut self.buffer);
        session.emit(result, output);
    }

    /// Takes a datagram from the outer world; silence if it is not authentic.
    pub(crate) fn handle_datagram(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        output: &mut dyn FnMut(Output<'_>),
    ) {
        let mut cookie = [0; 64];
        let message = match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(message) => message,
            Err(TunnResult::WriteToNetwork(reply)) => return output(Output::Datagram(reply, from)),
            Err(_) => return,
        };
        let is_cookie = matches!(message, Packet::PacketCookieReply(_));
        let Some(session) = self.session_of(&message) else { return };
        let session = &mut self.sessions[session].1;
        let mut result = session.tunn.decapsulate(Some(from.ip()), datagram, &mut self.buffer);
        if matches!(result, TunnResult::Err(_)) {
            return;
        }
        // A cookie reply can be replayed from anywhere, so it proves no address.
        if !is_cookie {
            session.endpoint = Some(from);
        }
        // Packets that waited for the handshake come out one call at a time.
        while session.emit(result, output) {
            result = session.tunn.decapsulate(None, &[], &mut self.buffer);
        }
    }

    /// Lets time pass; call every 100 ms or so.
    pub(crate) fn handle_tick(&mut self, output: &mut dyn FnMut(Output<'_>)) {
        self.limiter.reset_count();
        for (_, session) in &mut self.sessions {
            let result = session.tunn.update_timers(&mut self.buffer);
            session.emit(result, output);
        }
    }

    /// Whose message it is, by what the message says of itself; nothing is proven by that yet.
    fn session_of(&self, message: &Packet<'_>) -> Option<usize> {
        let receiver = match message {
            Packet::HandshakeInit(initiation) => {
                let half = parse_handshake_anon(&self.private, &self.public, initiation).ok()?;
                let theirs = PublicKey::from_bytes(half.peer_static_public);
                return self.sessions.iter().position(|(key, _)| *key == theirs);
            }
            Packet::HandshakeResponse(response) => response.receiver_idx,
            Packet::PacketCookieReply(reply) => reply.receiver_idx,
            Packet::PacketData(data) => data.receiver_idx,
        };
        // The low 8 bits count handshakes; ours begin at 1 above them.
        let index = usize::try_from(receiver >> 8).ok()?.checked_sub(1)?;
        (index < self.sessions.len()).then_some(index)
    }
}

impl Session {
    /// Passes on one result; true if boringtun may have more to say.
    fn emit(&self, result: TunnResult<'_>, output: &mut dyn FnMut(Output<'_>)) -> bool {
        let (packet, source) = match result {
            TunnResult::Done | TunnResult::Err(_) => return false,
            TunnResult::WriteToNetwork(datagram) => {
                if let Some(endpoint) = self.endpoint {
                    output(Output::Datagram(datagram, endpoint));
                }
                return true;
            }
            TunnResult::WriteToTunnelV4(packet, source) => (packet, IpAddr::V4(source)),
            TunnResult::WriteToTunnelV6(packet, source) => (packet, IpAddr::V6(source)),
        };
        if self.addresses.contains(&source) {
            output(Output::Packet(packet));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "127.0.0.1:1";
    const THEIRS: &str = "127.0.0.1:2";

    #[test]
    fn a_client_shakes_hands_and_its_packets_come_out_unchanged() {
        let (mut engine, mut client) = pair(None);
        connect(&mut engine, &mut client, THEIRS);
        let packet = packet("10.77.0.2", "10.77.0.1", 41);
        let datagram = seal(&mut client, &packet);
        assert_eq!(packets(&mut engine, &datagram, THEIRS), [packet]);
    }

    #[test]
    fn packets_to_the_client_are_padded_to_16_bytes_and_not_beyond_the_mtu() {
        let (mut engine, mut client) = pair(Some(PresharedKey::from_bytes([9; 32])));
        connect(&mut engine, &mut client, THEIRS);
        for (len, padded) in [(41, 48), (48, 48), (1409, 1420), (1420, 1420), (1500, 1500)] {
            let mut sent = Vec::new();
            engine.handle_packet(&packet("10.77.0.1", "10.77.0.2", len), &mut |output| {
                let Output::Datagram(datagram, to) = output else { panic!("{output:?}") };
                sent.push((datagram.len() - 32, to));
            });
            assert_eq!(sent, [(padded, THEIRS.parse().unwrap())]);
        }
    }

    #[test]
    fn a_source_address_that_is_not_the_clients_is_refused() {
        let (mut engine, mut client) = pair(None);
        connect(&mut engine, &mut client, THEIRS);
        let datagram = seal(&mut client, &packet("10.77.0.3", "10.77.0.1", 60));
        assert_eq!(packets(&mut engine, &datagram, THEIRS), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn the_endpoint_follows_authentic_datagrams_only() {
        let (mut engine, mut client) = pair(None);
        connect(&mut engine, &mut client, THEIRS);
        let mut forged = seal(&mut client, &packet("10.77.0.2", "10.77.0.1", 60));
        forged[40] ^= 1;
        assert!(packets(&mut engine, &forged, "127.0.0.1:3").is_empty());
        assert_eq!(engine.sessions[0].1.endpoint, Some(THEIRS.parse().unwrap()));
        let datagram = seal(&mut client, &packet("10.77.0.2", "10.77.0.1", 60));
        assert_eq!(packets(&mut engine, &datagram, "127.0.0.1:4").len(), 1);
        assert_eq!(engine.sessions[0].1.endpoint, Some("127.0.0.1:4".parse().unwrap()));
    }

    #[test]
    fn strangers_and_noise_get_no_answer() {
        let (mut engine, _) = pair(None);
        let (_, mut stranger) = pair(None);
        let initiation = initiation(&mut stranger);
        for datagram in [initiation.as_slice(), &[], &[4, 0, 0, 0], &[0xff; 148], &[1; 148]] {
            engine.handle_datagram(datagram, OURS.parse().unwrap(), &mut |output| panic!("{output:?}"));
        }
    }

    #[test]
    fn packets_that_waited_for_the_handshake_follow_it() {
        let (mut engine, mut client) = pair(None);
        engine.sessions[0].1.endpoint = Some(THEIRS.parse().unwrap());
        let mut datagrams = Vec::new();
        for len in [60, 61, 62] {
            engine.handle_packet(&packet("10.77.0.1", "10.77.0.2", len), &mut |output| {
                let Output::Datagram(datagram, _) = output else { panic!("{output:?}") };
                datagrams.push(datagram.to_vec());
            });
        }
        assert_eq!(datagrams.iter().map(Vec::len).collect::<Vec<_>>(), [148]);
        let mut buffer = vec![0; 2000];
        let TunnResult::WriteToNetwork(response) = client.decapsulate(None, &datagrams[0], &mut buffer)
        else {
            panic!("the client answers an initiation")
        };
        let mut lengths = Vec::new();
        engine.handle_datagram(response, THEIRS.parse().unwrap(), &mut |output| {
            let Output::Datagram(datagram, _) = output else { panic!("{output:?}") };
            lengths.push(datagram.len() - 32);
        });
        assert_eq!(lengths, [0, 64, 64, 64], "the confirming keepalive, then what waited");
    }

    /// An engine and a client of it.
    fn pair(preshared_key: Option<PresharedKey>) -> (Engine, Tunn) {
        use crate::crypto::{Entropy, SystemEntropy};
        let mut keys = [[0; 32]; 2];
        keys.iter_mut().for_each(|key| SystemEntropy::new().fill(key));
        let [server, client] = keys.map(PrivateKey::from_bytes);
        let tunn = Tunn::new(
            x25519::StaticSecret::from(*client.as_bytes()),
            x25519::PublicKey::from(*server.public_key().as_bytes()),
            preshared_key.as_ref().map(|key| *key.as_bytes()),
            None,
            1,
            None,
        );
        let client = Client {
            public_key: client.public_key(),
            preshared_key,
            addresses: vec!["10.77.0.2".parse().unwrap()],
        };
        (Engine::new(&server, &[client], 1420), tunn)
    }

    fn initiation(client: &mut Tunn) -> Vec<u8> {
        let mut buffer = vec![0; 200];
        let TunnResult::WriteToNetwork(initiation) = client.format_handshake_initiation(&mut buffer, false)
        else {
            panic!("the client begins")
        };
        initiation.to_vec()
    }

    fn connect(engine: &mut Engine, client: &mut Tunn, from: &str) {
        let mut response = Vec::new();
        engine.handle_datagram(&initiation(client), from.parse().unwrap(), &mut |output| {
            let Output::Datagram(datagram, to) = output else { panic!("{output:?}") };
            assert_eq!(to, from.parse().unwrap());
            response.extend_from_slice(datagram);
        });
        let mut buffer = vec![0; 200];
        let TunnResult::WriteToNetwork(keepalive) = client.decapsulate(None, &response, &mut buffer) else {
            panic!("the client confirms with a keepalive")
        };
        assert_eq!(packets(engine, keepalive, from), Vec::<Vec<u8>>::new());
    }

    fn seal(client: &mut Tunn, packet: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 2000];
        let TunnResult::WriteToNetwork(datagram) = client.encapsulate(packet, &mut buffer) else {
            panic!("the client has a session")
        };
        datagram.to_vec()
    }

    fn packets(engine: &mut Engine, datagram: &[u8], from: &str) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        engine.handle_datagram(datagram, from.parse().unwrap(), &mut |output| {
            if let Output::Packet(packet) = output {
                packets.push(packet.to_vec());
            }
        });
        packets
    }

    /// An IPv4 packet of `len` bytes.
    fn packet(from: &str, to: &str, len: u16) -> Vec<u8> {
        let address = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let mut packet = vec![0; len.into()];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[12..16].copy_from_slice(&address(from));
        packet[16..20].copy_from_slice(&address(to));
        packet
    }
}
