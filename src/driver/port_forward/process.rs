//! The forwarder process, from its first line to its end. (tasks)
//!
//! # Theory of operation
//! One thread, one runtime, no lock: what tasks share is behind an `Rc`. The task that talks to the parent owns the list
//! of forwards; each listener has a task, each connection and each UDP flow one more. Until it is told to start it may
//! still bind low ports if its user may; from then on it has no capability, no file, and the system calls of its role.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet, LocalSet};
use tokio::time::timeout;

use super::protocol::{
    Answer, Ask, Asked, Forward, ForwardError, ForwardKind, MAX_FORWARDS, MAX_LISTED, Reply, Start,
};
use super::udp::MAX_FLOWS;
use super::{DNS_PORT, dns, listen, tcp, udp};
use crate::config::publish::{PublishedPort, Transport};
use crate::driver::child_channel::{self, ChannelError};
use crate::driver::socket_factory::{FactoryClient, InsideListener};
use crate::sys::async_fd::watch;
use crate::sys::confine::{self, confine};
use crate::sys::fd_passing::adopt_fd;
use crate::sys::os_error::OsError;
use crate::sys::sandbox::{self, MissingLayer, Policy};
use crate::sys::sockets::{self, SocketKind};

/// TCP connections at a time, of all ports together; further clients wait in the backlog. Each costs two descriptors
/// and up to [`tcp::BUFFER`] bytes each way.
const MAX_CONNECTIONS: usize = 1024;

/// Descriptors that must be left for connections and flows.
const MIN_DESCRIPTORS: u64 = 256;

/// How long connecting may take; what is inside answers at once.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// The same where there is another one to try.
const DIAL_NEXT: Duration = Duration::from_secs(3);

/// The whole life of the forwarder.
#[must_use]
pub fn main() -> ExitCode {
    // All before anything is read. An orphan has nobody to work for.
    let hardened = sandbox::harden_helper().and_then(|()| sandbox::die_with_parent(Some(Signal::SIGKILL)));
    let descriptors = sockets::raise_descriptor_limit().unwrap_or(MIN_DESCRIPTORS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match (hardened, adopt_fd(0), runtime) {
        (Ok(()), Ok(socket), Ok(runtime)) => {
            LocalSet::new().block_on(&runtime, async { serve(socket, descriptors).await })
        }
        (Err(_), _, _) | (_, Err(_), _) | (_, _, Err(_)) => ExitCode::FAILURE,
    }
}

async fn serve(socket: OwnedFd, descriptors: u64) -> ExitCode {
    let Ok(socket) = watch(socket, Interest::READABLE) else { return ExitCode::FAILURE };
    let mut forwards = Forwards::new(descriptors);
    loop {
        tokio::select! {
            Some(_ended) = forwards.tasks.join_next() => {}
            asked = next_question(&socket) => {
                let Some((Ask { id, what }, fds)) = asked else { return ExitCode::SUCCESS };
                let reply = Reply { id, answer: forwards.answer(what, fds).await };
                if child_channel::send(socket.get_ref(), &reply, &[]).is_err() {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
}

/// The next question; `None` when the parent has gone.
async fn next_question(socket: &AsyncFd<OwnedFd>) -> Option<(Ask, Vec<OwnedFd>)> {
    loop {
        let mut guard = socket.readable().await.ok()?;
        match child_channel::receive(socket.get_ref(), Some(Duration::ZERO)) {
            Ok(asked) => return Some(asked),
            Err(ChannelError::Silent) => guard.clear_ready(),
            Err(_) => return None,
        }
    }
}

/// What every task uses.
pub(super) struct Shared {
    factory: RefCell<Option<FactoryClient>>,
    inside: RefCell<Vec<IpAddr>>,
    /// One for each connection that may still be opened.
    pub(super) slots: Arc<Semaphore>,
    /// One for each DNS question that may still be asked.
    pub(super) questions: Arc<Semaphore>,
    /// Connections that are open; each ends by itself.
    pub(super) connections: RefCell<JoinSet<()>>,
    /// UDP flows and DNS questions that are open.
    pub(super) flows: Cell<usize>,
    /// No more than that: each costs a descriptor, and connections need theirs.
    pub(super) max_flows: usize,
    /// For one datagram at a time, never across an await.
    pub(super) buffer: RefCell<Box<[u8]>>,
}

/// The largest datagram.
const MAX_DATAGRAM: usize = 64 * 1024;

/// What has happened at one listener.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) active: Cell<u64>,
    pub(super) total: Cell<u64>,
    pub(super) failed: Cell<u64>,
}

impl Counters {
    /// Counts one that is open until the result is dropped.
    pub(super) fn open(self: &Rc<Self>) -> Opened {
        self.total.set(self.total.get() + 1);
        self.active.set(self.active.get() + 1);
        Opened(Rc::clone(self))
    }

    pub(super) fn fail(&self) {
        self.failed.set(self.failed.get() + 1);
    }
}

/// One connection or flow, as long as it is open.
pub(super) struct Opened(Rc<Counters>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

/// Where a listener leads.
#[derive(Clone, Debug)]
pub(super) enum Dial {
    /// A port of the target's own addresses.
    Own {
        /// Which port.
        port: u16,
        /// Addresses of this family first.
        ipv6_first: bool,
    },
    /// This address inside.
    Inside(SocketAddr),
    /// This address, seen from the host.
    Host(SocketAddr),
    /// The first of these that answers, seen from inside.
    Servers(Rc<[SocketAddr]>),
}

impl Shared {
    /// What can be dialled, best first, and whether that is inside.
    pub(super) fn candidates(&self, dial: &Dial) -> (Vec<SocketAddr>, bool) {
        match dial {
            Dial::Own { port, ipv6_first } => {
                let mut own = self.inside.borrow().clone();
                own.sort_by_key(|address| address.is_ipv6() != *ipv6_first);
                (own.into_iter().map(|address| SocketAddr::new(address, *port)).collect(), true)
            }
            Dial::Inside(address) => (vec![*address], true),
            Dial::Host(address) => (vec![*address], false),
            Dial::Servers(servers) => (servers.to_vec(), true),
        }
    }

    /// A socket of the right side.
    pub(super) async fn open(
        &self,
        address: SocketAddr,
        inside: bool,
        transport: Transport,
    ) -> io::Result<OwnedFd> {
        if !inside {
            let kind = match transport {
                Transport::Tcp => SocketKind::Stream,
                Transport::Udp => SocketKind::Datagram,
            };
            return Ok(sockets::open(address.is_ipv6(), kind)?);
        }
        let factory = self.factory.borrow().clone().ok_or(Errno::ENOTCONN)?;
        factory.open(transport, address.is_ipv6()).await.map_err(io::Error::other)
    }

    /// Connects to the first address that lets us.
    pub(super) async fn connect(&self, dial: &Dial) -> io::Result<TcpStream> {
        let (addresses, inside) = self.candidates(dial);
        let patience = if addresses.len() > 1 { DIAL_NEXT } else { DIAL_DEADLINE };
        let mut last = io::Error::from(Errno::EADDRNOTAVAIL);
        for address in addresses {
            let attempt = async {
                let socket = self.open(address, inside, Transport::Tcp).await?;
                TcpSocket::from_std_stream(std::net::TcpStream::from(socket)).connect(address).await
            };
            match timeout(patience, attempt).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_late) => last = Errno::ETIMEDOUT.into(),
            }
        }
        Err(last)
    }

    /// A UDP socket that hears only from the first address that can be routed to; those up to it are taken out.
    pub(super) async fn associate(&self, candidates: &mut Candidates) -> io::Result<Association> {
        let mut last = io::Error::from(Errno::EADDRNOTAVAIL);
        while let Some(address) = candidates.addresses.pop_front() {
            let opened = self.open(address, candidates.inside, Transport::Udp).await;
            match opened.and_then(|socket| connected(socket, address)) {
                Ok(socket) => return Ok(Association { socket, to: address }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Where datagrams could go, best first.
pub(super) struct Candidates {
    pub(super) addresses: VecDeque<SocketAddr>,
    /// Whether they are dialled inside.
    pub(super) inside: bool,
}

/// A UDP socket and whom it talks to.
pub(super) struct Association {
    pub(super) socket: AsyncFd<OwnedFd>,
    pub(super) to: SocketAddr,
}

fn connected(socket: OwnedFd, address: SocketAddr) -> io::Result<AsyncFd<OwnedFd>> {
    let socket = std::net::UdpSocket::from(socket);
    socket.connect(address)?;
    // That nobody listens there is told as an error, not as something to read.
    watch(OwnedFd::from(socket), HEARS)
}

/// What is to be waited for on a UDP socket that talks to one server.
pub(super) const HEARS: Interest = Interest::READABLE.add(Interest::ERROR);

/// One listener.
struct Entry {
    forward: Forward,
    dial: Dial,
    counters: Rc<Counters>,
    /// Until it is started.
    socket: Option<OwnedFd>,
    /// Since then.
    task: Option<AbortHandle>,
    /// A socket that flows have too.
    shared_socket: Weak<AsyncFd<OwnedFd>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Everything that is forwarded.
struct Forwards {
    entries: Vec<Entry>,
    next_id: u64,
    started: bool,
    limit: usize,
    tasks: JoinSet<()>,
    shared: Rc<Shared>,
}

impl Forwards {
    fn new(descriptors: u64) -> Self {
        let half = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        let shared = Shared {
            factory: RefCell::default(),
            inside: RefCell::default(),
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS.min(half / 4))),
            questions: Arc::new(Semaphore::new(dns::MAX_QUESTIONS.min(half / 4))),
            connections: RefCell::default(),
            flows: Cell::default(),
            max_flows: MAX_FLOWS.min(half / 2),
            buffer: RefCell::new(vec![0; MAX_DATAGRAM].into_boxed_slice()),
        };
        Self {
            entries: Vec::new(),
            next_id: 1,
            started: false,
            limit: MAX_FORWARDS.min(half),
            tasks: JoinSet::new(),
            shared: Rc::new(shared),
        }
    }

    async fn answer(&mut self, what: Asked, fds: Vec<OwnedFd>) -> Result<Answer, ForwardError> {
        match what {
            Asked::Publish(port) => self.publish(&port).map(Answer::Forwards),
            Asked::Start(start) => self.start(start, fds).map(Answer::Begun),
            Asked::Inside(addresses) => {
                *self.shared.inside.borrow_mut() = addresses;
                Ok(Answer::Done)
            }
            Asked::Remove(id) => {
                let (removed, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
                    .into_iter()
                    .partition(|entry| entry.forward.id == id && entry.forward.kind == ForwardKind::Publish);
                self.entries = left;
                if removed.is_empty() {
                    return Err(ForwardError::NotThere(id));
                }
                let closing: Vec<_> = removed
                    .iter()
                    .map(|entry| (entry.task.clone(), Weak::clone(&entry.shared_socket)))
                    .collect();
                drop(removed);
                // A task ends when it next has a turn; then its port is free, and that is what was asked for.
                let open = |(task, socket): &(Option<AbortHandle>, Weak<_>)| {
                    task.as_ref().is_some_and(|task| !task.is_finished()) || socket.strong_count() > 0
                };
                while closing.iter().any(open) {
                    tokio::task::yield_now().await;
                }
                Ok(Answer::Done)
            }
            Asked::List { skip } => {
                let page = self.entries.iter().skip(skip).take(MAX_LISTED);
                Ok(Answer::Forwards(page.map(|entry| self.describe(entry)).collect()))
            }
        }
    }

    fn publish(&mut self, port: &PublishedPort) -> Result<Vec<Forward>, ForwardError> {
        let bound = listen::bind(port)?;
        if self.entries.len() + bound.len() > self.limit {
            return Err(ForwardError::TooMany);
        }
        let id = self.take_id();
        let first = self.entries.len();
        let inside_port = port.inside_port.get();
        for (socket, listen) in bound {
            let dial = match port.inside {
                Some(address) => Dial::Inside(SocketAddr::new(address, inside_port)),
                None => Dial::Own { port: inside_port, ipv6_first: listen.is_ipv6() },
            };
            self.add(id, ForwardKind::Publish, (port.transport, listen), dial, socket);
        }
        if self.started {
            self.start_entries()?;
        }
        Ok(self.entries[first..].iter().map(|entry| self.describe(entry)).collect())
    }

    fn start(&mut self, start: Start, fds: Vec<OwnedFd>) -> Result<Vec<MissingLayer>, ForwardError> {
        let Start { inside, listening, reached, servers } = start;
        let mut fds = fds.into_iter();
        let channel = fds.next().ok_or_else(|| machinery("find the factory", Errno::EPROTO.into()))?;
        let (factory, run) =
            FactoryClient::new(channel).map_err(|error| machinery("watch the factory", error.into()))?;
        self.tasks.spawn_local(run);
        *self.shared.factory.borrow_mut() = Some(factory);
        *self.shared.inside.borrow_mut() = inside;
        let servers: Rc<[SocketAddr]> =
            servers.into_iter().map(|server| SocketAddr::new(server, DNS_PORT)).collect();
        for (index, (listener, socket)) in listening.into_iter().zip(fds).enumerate() {
            let InsideListener { transport, address, .. } = listener;
            let id = self.take_id();
            let (kind, dial) = if index < reached {
                (ForwardKind::Reach, Dial::Host(address))
            } else {
                (ForwardKind::Dns, Dial::Servers(Rc::clone(&servers)))
            };
            self.add(id, kind, (transport, address), dial, socket);
        }
        // Before the first byte of a stranger.
        sandbox::drop_capabilities(false).map_err(|source| machinery("give up capabilities", source))?;
        let missing = confine(&confine::Helper::Forwarder, Policy::of_this_helper());
        self.started = true;
        self.start_entries()?;
        Ok(missing)
    }

    fn start_entries(&mut self) -> Result<(), ForwardError> {
        for entry in &mut self.entries {
            let Some(socket) = entry.socket.take() else { continue };
            let (shared, dial, counters) =
                (Rc::clone(&self.shared), entry.dial.clone(), Rc::clone(&entry.counters));
            let failed = |error: io::Error| machinery("watch a listener", error.into());
            let task = match (entry.forward.transport, &dial) {
                (Transport::Tcp, _) => {
                    let listener =
                        TcpListener::from_std(std::net::TcpListener::from(socket)).map_err(failed)?;
                    self.tasks.spawn_local(tcp::serve(shared, listener, dial, counters))
                }
                (Transport::Udp, Dial::Servers(servers)) => {
                    let socket = watch(socket, Interest::READABLE).map_err(failed)?;
                    self.tasks.spawn_local(dns::serve(shared, socket, Rc::clone(servers), counters))
                }
                (Transport::Udp, Dial::Own { .. } | Dial::Inside(_) | Dial::Host(_)) => {
                    let socket = Rc::new(watch(socket, Interest::READABLE).map_err(failed)?);
                    entry.shared_socket = Rc::downgrade(&socket);
                    self.tasks.spawn_local(udp::serve(shared, socket, dial, counters))
                }
            };
            entry.task = Some(task);
        }
        Ok(())
    }

    fn add(
        &mut self,
        id: u64,
        kind: ForwardKind,
        (transport, listen): (Transport, SocketAddr),
        dial: Dial,
        socket: OwnedFd,
    ) {
        let inside_port = match &dial {
            Dial::Own { port, .. } => Some(*port),
            Dial::Inside(address) if kind == ForwardKind::Publish => Some(address.port()),
            Dial::Inside(_) | Dial::Host(_) | Dial::Servers(_) => None,
        };
        let to = Vec::new();
        let forward =
            Forward { id, kind, transport, listen, to, inside_port, active: 0, total: 0, failed: 0 };
        let counters = Rc::default();
        self.entries.push(Entry {
            forward,
            dial,
            counters,
            socket: Some(socket),
            task: None,
            shared_socket: Weak::new(),
        });
    }

    fn describe(&self, entry: &Entry) -> Forward {
        let (to, _inside) = self.shared.candidates(&entry.dial);
        let Counters { active, total, failed } = &*entry.counters;
        Forward {
            to,
            active: active.get(),
            total: total.get(),
            failed: failed.get(),
            ..entry.forward.clone()
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

fn machinery(operation: &str, source: OsError) -> ForwardError {
    ForwardError::Machinery { operation: operation.to_owned(), source }
}
