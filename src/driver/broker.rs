//! Resolves endpoint names in a process of its own, so that a slow resolver never delays a packet. (tasks)
//!
//! # Theory of operation
//! The parent locks itself down before its first thread runs; after that it can open neither `/etc/resolv.conf` nor a
//! connection to the name service daemon. So a broker is started first: the same program, executed anew from
//! `/proc/self/exe` with the hidden first argument [`ARGUMENT`], which shares no memory with the parent and so holds no key. Its
//! standard input is one end of an unnamed sequenced-packet socket pair; each record is one JSON document. The first one is
//! the broker's: which layers of its own sandbox it could not have.
//!
//! The broker lives in the host's namespaces and asks the host's own resolver (`getaddrinfo`), one thread a lookup, at
//! most [`MAX_LOOKUPS`] at a time. It ends when the parent does: the socket is then at its end, and PDEATHSIG comes
//! first. *When* a name is asked is decided by [`super::endpoint_names`].

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use super::endpoint_names::{Lookup, MAX_LOOKUPS, ResolvedAddress};
use super::namespace_child::Helper;
use crate::sys::confine::{self, confine};
use crate::sys::fd_passing::adopt_fd;
use crate::sys::sandbox::{MissingLayer, Policy};
use crate::sys::{null_device, sandbox};

/// The hidden first argument that makes the program a broker.
pub const ARGUMENT: &str = "__broker";

/// Largest record: 32 addresses or one name fit many times over.
const MAX_RECORD: usize = 16 * 1024;

/// How long a broker may take to begin.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// Addresses of one answer that are looked at.
const MAX_ADDRESSES: usize = 32;

/// Why the broker could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No socket pair, no process, or no registration with the event loop.
    #[error("cannot start the process that resolves endpoint names")]
    Start(#[source] io::Error),
    /// The broker is gone; names stay as they were last resolved.
    #[error("the process that resolves endpoint names has ended")]
    Ended,
    /// The socket to the broker is broken or full.
    #[error("cannot talk to the process that resolves endpoint names")]
    Talk(#[source] io::Error),
}

/// What the broker says to one [`Lookup`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The lookup's.
    pub id: u64,
    /// Addresses in the resolver's order, or why there are none.
    pub result: Result<Vec<ResolvedAddress>, String>,
}

/// A running broker process; ended and reaped on drop.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    socket: UnixDatagram,
    /// Has said how confined it is.
    introduced: bool,
}

impl Broker {
    /// Starts the broker. Call from the main thread before lock-down: the broker dies with the thread that started it.
    ///
    /// # Errors
    /// [`BrokerError::Start`].
    pub fn spawn(helper: &Helper) -> Result<Self, BrokerError> {
        Self::start(helper).map_err(BrokerError::Start)
    }

    fn start(helper: &Helper) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let child = helper
            .command(ARGUMENT)
            .stdin(Stdio::from(theirs))
            .stdout(null_device::open()?)
            .stderr(null_device::open()?)
            .spawn()?;
        Ok(Self { child, socket: UnixDatagram::from(ours), introduced: false })
    }

    /// The layers of its sandbox that the broker could not have; waits until it has said so.
    ///
    /// # Errors
    /// It has ended, or says nothing for five seconds.
    pub fn missing_layers(&mut self) -> Result<Vec<MissingLayer>, BrokerError> {
        self.introduced = true;
        self.socket.set_read_timeout(Some(INTRODUCTION)).map_err(BrokerError::Talk)?;
        let mut record = vec![0; MAX_RECORD];
        let len = self.socket.recv(&mut record).map_err(BrokerError::Talk)?;
        if len == 0 {
            return Err(BrokerError::Ended);
        }
        serde_json::from_slice(&record[..len]).map_err(|error| BrokerError::Talk(error.into()))
    }

    /// Hands the broker to the control task; needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`BrokerError::Start`] if the socket cannot be registered with the event loop; or it has ended already.
    pub fn into_resolver(mut self) -> Result<Resolver, BrokerError> {
        if !self.introduced {
            self.missing_layers()?;
        }
        self.socket.set_nonblocking(true).map_err(BrokerError::Start)?;
        let socket = self.socket.try_clone().map_err(BrokerError::Start)?;
        let socket = tokio::net::UnixDatagram::from_std(socket).map_err(BrokerError::Start)?;
        Ok(Resolver { socket, broker: self })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may be deep in a resolver that does not answer; it holds nothing worth a farewell.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The control task's front of the broker.
#[derive(Debug)]
pub struct Resolver {
    socket: tokio::net::UnixDatagram,
    broker: Broker,
}

impl Resolver {
    /// Asks; never waits. The answer comes by [`answer`](Self::answer), in any order.
    ///
    /// # Errors
    /// If the broker is gone; the lookup is then to be counted as failed.
    pub fn ask(&self, lookup: &Lookup) -> Result<(), BrokerError> {
        let record = serde_json::to_vec(lookup).map_err(|error| BrokerError::Talk(error.into()))?;
        // Not through tokio: it refuses to try before its first look at the socket.
        match self.broker.socket.send(&record) {
            Ok(_) => Ok(()),
            Err(error) if is_hang_up(&error) => Err(BrokerError::Ended),
            Err(error) => Err(BrokerError::Talk(error)),
        }
    }

    /// The next answer. Safe to cancel: an answer that was not returned is returned by the next call.
    ///
    /// # Errors
    /// [`BrokerError::Ended`] once and for all when the broker is gone: do not call again.
    pub async fn answer(&self) -> Result<Answer, BrokerError> {
        let mut record = vec![0; MAX_RECORD];
        match self.socket.recv(&mut record).await {
            Ok(0) => Err(BrokerError::Ended),
            Ok(len) => {
                serde_json::from_slice(&record[..len]).map_err(|error| BrokerError::Talk(error.into()))
            }
            Err(error) if is_hang_up(&error) => Err(BrokerError::Ended),
            Err(error) => Err(BrokerError::Talk(error)),
        }
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || error.kind() == io::ErrorKind::ConnectionReset
}

/// The broker process itself, from its first line to its end.
#[must_use]
pub fn main() -> ExitCode {
    // All before the first name is read. An orphan has nobody to answer.
    let hardened = sandbox::harden_helper()
        .and_then(|()| sandbox::die_with_parent(Some(Signal::SIGKILL)))
        .and_then(|()| sandbox::drop_capabilities(false));
    let missing = confine(&confine::Helper::Broker, Policy::of_this_helper());
    match (hardened, adopt_fd(0)) {
        (Ok(()), Ok(socket)) => {
            let socket = UnixDatagram::from(socket);
            let told = serde_json::to_vec(&missing).is_ok_and(|record| socket.send(&record).is_ok());
            if told { serve(socket.into()) } else { ExitCode::FAILURE }
        }
        (Err(_), _) | (_, Err(_)) => ExitCode::FAILURE,
    }
}

/// Answers until the other end is closed.
fn serve(socket: OwnedFd) -> ExitCode {
    let socket = Arc::new(UnixDatagram::from(socket));
    let running = Arc::new(AtomicUsize::new(0));
    let mut record = vec![0; MAX_RECORD];
    loop {
        let len = match socket.recv(&mut record) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return ExitCode::FAILURE,
        };
        let Ok(lookup) = serde_json::from_slice::<Lookup>(&record[..len]) else {
            return ExitCode::FAILURE; // only our own parent writes here
        };
        if running.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKUPS {
            running.fetch_sub(1, Ordering::Relaxed);
            send(&socket, &Answer { id: lookup.id, result: Err("too many lookups at once".to_owned()) });
            continue;
        }
        let (theirs, counter, id) = (Arc::clone(&socket), Arc::clone(&running), lookup.id);
        let thread = std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            let answer = Answer { id: lookup.id, result: resolve(&lookup.host, lookup.port) };
            // Before the answer, so that whoever waited for it finds the place free.
            counter.fetch_sub(1, Ordering::Relaxed);
            send(&theirs, &answer);
        });
        if let Err(error) = thread {
            running.fetch_sub(1, Ordering::Relaxed);
            send(&socket, &Answer { id, result: Err(error.to_string()) });
        }
    }
}

/// A failed send means that the parent is gone, which `serve` sees at its next `recv`.
fn send(socket: &UnixDatagram, answer: &Answer) {
    if let Ok(record) = serde_json::to_vec(answer) {
        drop(socket.send(&record));
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<ResolvedAddress>, String> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| reason(&error))?;
    let mut resolved: Vec<ResolvedAddress> = Vec::new();
    for address in addresses.take(MAX_ADDRESSES) {
        if resolved.iter().all(|known| known.address != address) {
            resolved.push(ResolvedAddress { address, routable: is_routable(address) });
        }
    }
    Ok(resolved)
}

/// The standard library wraps what `gai_strerror` says; the wrapping repeats what our own message says already.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// Asks the kernel's routing table: connecting a UDP socket sends nothing.
fn is_routable(address: SocketAddr) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any).and_then(|socket| socket.connect(address)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_literal_address_and_localhost_are_resolved_with_the_port() {
        let socket = served();
        let answer = ask(&socket, 7, "127.0.0.1");
        let address = "127.0.0.1:51820".parse().unwrap();
        assert_eq!(answer, Answer { id: 7, result: Ok(vec![ResolvedAddress { address, routable: true }]) });
        let answer = ask(&socket, 8, "localhost");
        let addresses = answer.result.unwrap();
        assert!(addresses.iter().all(|one| one.address.ip().is_loopback() && one.address.port() == 51820));
        assert!(!addresses.is_empty());
    }

    #[test]
    fn a_name_that_cannot_exist_is_refused_with_the_resolvers_words() {
        let socket = served();
        let error = ask(&socket, 1, "no such name").result.unwrap_err();
        assert!(!error.is_empty() && !error.contains("failed to lookup"), "{error}");
    }

    #[test]
    fn a_scope_id_survives_the_way() {
        let answer = Answer {
            id: 1,
            result: Ok(vec![ResolvedAddress {
                address: "[fe80::1%1]:51820".parse().unwrap(),
                routable: true,
            }]),
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer, "{text}");
    }

    #[test]
    fn the_broker_ends_when_its_parent_closes_the_socket() {
        let (ours, theirs) = pair();
        let broker = std::thread::spawn(move || serve(theirs));
        drop(ours);
        assert_eq!(format!("{:?}", broker.join().unwrap()), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn the_resolver_awaits_answers_and_sees_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = pair();
            std::thread::spawn(move || serve(theirs));
            // Any process stands in for the broker's: what matters here is the socket.
            let child = Command::new("/bin/sh").arg("-c").arg("exec sleep 60").spawn().unwrap();
            let broker = Broker { child, socket: ours, introduced: true };
            let resolver = broker.into_resolver().unwrap();
            for id in 0..50 {
                resolver.ask(&Lookup { id, host: "127.0.0.1".to_owned(), port: 1 }).unwrap();
                let answer = tokio::time::timeout(Duration::from_secs(10), resolver.answer());
                assert_eq!(answer.await.unwrap().unwrap().id, id);
            }
            resolver.socket.shutdown(std::net::Shutdown::Both).unwrap();
            assert!(matches!(resolver.answer().await, Err(BrokerError::Ended)));
        });
    }

    fn ask(socket: &UnixDatagram, id: u64, host: &str) -> Answer {
        let lookup = Lookup { id, host: host.to_owned(), port: 51820 };
        socket.send(&serde_json::to_vec(&lookup).unwrap()).unwrap();
        let mut record = vec![0; MAX_RECORD];
        let len = socket.recv(&mut record).unwrap();
        serde_json::from_slice(&record[..len]).unwrap()
    }

    /// Our end of a broker that runs in a thread.
    fn served() -> UnixDatagram {
        let (ours, theirs) = pair();
        std::thread::spawn(move || serve(theirs));
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ours
    }

    fn pair() -> (UnixDatagram, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (UnixDatagram::from(ours), theirs)
    }
}
