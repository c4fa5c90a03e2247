//! Why a peer has no session, in words a person can act on. (driver: no IO)
//!
//! The protocol is silent by design, so most faults look alike from one end. What can be told apart is told apart;
//! what cannot is described by what was seen, never guessed at.

use std::fmt;

use crate::config::device::PeerTrouble;

/// What is known about one peer's missing session.
#[derive(Clone, Debug, Default)]
pub struct ReasonInput {
    /// What its handshakes have met.
    pub trouble: PeerTrouble,
    /// It has an address to send to.
    pub has_endpoint: bool,
    /// Its endpoint's name does not resolve: the sentence that says so.
    pub unresolved: Option<String>,
    /// The endpoint answered our datagrams with "port unreachable".
    pub port_refused: bool,
    /// What the kernel said when a datagram to it could not be sent.
    pub send_error: Option<String>,
}

/// The reason seen, most telling first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The endpoint's name has no address yet; the sentence names it.
    Unresolved(String),
    /// Messages come back, but do not authenticate.
    FailedAuthentication,
    /// The peer's initiations carry timestamps from before the last accepted one.
    StaleTimestamp,
    /// The host at the endpoint has nothing on that port.
    PortRefused,
    /// The kernel would not send.
    CannotSend(String),
    /// The peer says it is under load and asks for a cookie.
    UnderLoad,
    /// Initiations went out, nothing came back.
    Silence(u32),
    /// Nobody has tried: no packets for this peer yet.
    Idle,
    /// It has no endpoint: it must call first.
    NoEndpoint,
}

impl Reason {
    /// Picks the most telling of what was seen.
    #[must_use]
    pub fn of(input: &ReasonInput) -> Self {
        let ReasonInput { trouble, has_endpoint, unresolved, port_refused, send_error } = input;
        if let Some(sentence) = unresolved {
            Self::Unresolved(sentence.clone())
        } else if trouble.failed_authentications > 0 {
            Self::FailedAuthentication
        } else if trouble.stale_timestamps > 0 {
            Self::StaleTimestamp
        } else if *port_refused {
            Self::PortRefused
        } else if let Some(error) = send_error {
            Self::CannotSend(error.clone())
        } else if trouble.cookie_replies > 0 {
            Self::UnderLoad
        } else if !has_endpoint {
            Self::NoEndpoint
        } else if trouble.initiations_sent > 0 {
            Self::Silence(trouble.initiations_sent)
        } else {
            Self::Idle
        }
    }

    /// What the reader can do about it, if there is something.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unresolved(_) => Some("check the host name in `Endpoint` and this machine's DNS"),
            Self::FailedAuthentication => Some("compare `PresharedKey` and the keys on both ends"),
            Self::StaleTimestamp => {
                Some("set the clock of the peer: it is behind the time of its last handshake")
            }
            Self::PortRefused => {
                Some("check the port in `Endpoint` and that the peer's WireGuard is running")
            }
            Self::Silence(_) => Some(
                "check `Endpoint`, `PublicKey`, the peer's own entry for this key, firewalls between, and this machine's clock",
            ),
            Self::CannotSend(_) => Some("check this machine's own network and firewall"),
            Self::UnderLoad | Self::Idle | Self::NoEndpoint => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(sentence) => f.write_str(sentence),
            Self::FailedAuthentication => f.write_str("answers fail authentication: wrong key?"),
            Self::StaleTimestamp => {
                f.write_str("the peer's handshakes carry an old timestamp: its clock is behind")
            }
            Self::PortRefused => f.write_str("port refused: nothing listens at the endpoint"),
            Self::CannotSend(error) => write!(f, "cannot send to the endpoint: {error}"),
            Self::UnderLoad => f.write_str("the peer answers that it is under load"),
            Self::Silence(1) => f.write_str("1 initiation sent, nothing came back"),
            Self::Silence(count) => write!(f, "{count} initiations sent, nothing came back"),
            Self::Idle => f.write_str("no handshake was needed yet"),
            Self::NoEndpoint => f.write_str("no endpoint: waiting for the peer to call"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> ReasonInput {
        ReasonInput { has_endpoint: true, ..ReasonInput::default() }
    }

    #[test]
    fn an_unresolved_name_explains_everything_else() {
        let mut input = input();
        input.unresolved = Some("cannot resolve `vpn.example`: no such host".into());
        input.trouble.initiations_sent = 3;
        assert_eq!(Reason::of(&input).to_string(), "cannot resolve `vpn.example`: no such host");
    }

    #[test]
    fn silence_is_counted_and_grammatical() {
        let mut input = input();
        input.trouble.initiations_sent = 1;
        assert_eq!(Reason::of(&input).to_string(), "1 initiation sent, nothing came back");
        input.trouble.initiations_sent = 3;
        assert_eq!(Reason::of(&input).to_string(), "3 initiations sent, nothing came back");
    }

    #[test]
    fn a_failed_answer_tells_more_than_silence() {
        let mut input = input();
        input.trouble.initiations_sent = 3;
        input.trouble.failed_authentications = 2;
        assert_eq!(Reason::of(&input), Reason::FailedAuthentication);
    }

    #[test]
    fn a_peer_without_endpoint_must_call_first() {
        assert_eq!(Reason::of(&ReasonInput::default()), Reason::NoEndpoint);
    }
}
