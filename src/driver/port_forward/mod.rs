//! Published ports, reached addresses and the DNS alias: everything that crosses the wall beside the tunnel. (tasks)
//!
//! # Theory of operation
//! The parent of a tunnel can neither listen nor connect once it is locked down, has better things to do than to copy
//! bytes, and holds keys. So a *forwarder* does it: the same program, executed anew, with a socket to the parent as its
//! standard input. It is asked in two steps. First to listen on ports of the host, before the target is touched, so that
//! a port in use costs nothing; clients wait in the backlog. Then, with the channel to a
//! [socket factory](super::socket_factory) and the listeners that it made inside, to start: only now does it accept,
//! and just before that it gives up every privilege and file. Ports can be added and taken away while it runs.
//!
//! ```text
//! published   host listener ──accept──► forwarder ──dial──► socket made inside ──► the tunnel's own address inside
//! reached     listener on lo inside ──► forwarder ──dial──► socket of the host ──► that address, seen from the host
//! DNS alias   listener on lo inside ──► forwarder ──dial──► socket made inside ──► server, through the tunnel
//! ```
//!
//! Whoever connects to a published port is seen inside as the address that was dialled, the tunnel's own: as a
//! neighbour, never as 127.0.0.1, which so many programs trust.

mod dns;
mod listen;
mod process;
mod protocol;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

pub use process::main;
pub use protocol::{Forward, ForwardError, ForwardKind};

use self::protocol::{Answer, Ask, Asked, Reply, Start};
use super::child_channel::{self, ChannelError, DEADLINE};
use super::failure::{Failure, FailureClass};
use super::helper_end::HelperEnd;
use super::namespace_child::{ChildGuard, Helper};
use super::socket_factory::{InsideListener, SocketFactory};
use crate::config::publish::{DNS_PORT, DnsAlias, ForwardPlan, PublishedPort, ReachedAddress, Transport};
use crate::sys::async_fd::watch;
use crate::sys::os_error::OsError;
use crate::sys::sandbox::MissingLayer;
use crate::sys::{fd_passing, null_device};

/// The hidden first argument that makes the program a forwarder.
pub const ARGUMENT: &str = "__forwarder";

/// Questions that may wait for their turn.
const MAX_QUEUED: usize = 64;

/// How long a running forwarder may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is said when the factory has ended: what is open goes on.
const WITHOUT_FACTORY: &str =
    "nothing more is forwarded to the inside: the process that makes sockets there has ended";

/// Why ports are not forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwarderError {
    /// No socket pair or no process.
    #[error("cannot start the process that forwards ports")]
    Start(#[source] io::Error),
    /// It does not answer as it should.
    #[error("cannot talk to the process that forwards ports")]
    Talk(#[source] OsError),
    /// It has ended.
    #[error("the process that forwards ports has ended")]
    Ended,
    /// It said why it cannot.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl Failure for ForwarderError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Start(_) => FailureClass::Kernel,
            Self::Talk(_) | Self::Ended => FailureClass::General,
            Self::Forward(error) => error.class(),
        }
    }
}

/// The listeners that a plan needs inside.
#[must_use]
pub fn inside_listeners(plan: &ForwardPlan) -> Vec<InsideListener> {
    let reached = plan.reached.iter().map(|ReachedAddress { transport, address }| InsideListener {
        transport: *transport,
        address: *address,
        optional: false,
        elsewhere: false,
    });
    let names = plan.dns_alias.iter().flat_map(DnsAlias::answers).flat_map(|(address, elsewhere)| {
        [Transport::Udp, Transport::Tcp].map(|transport| InsideListener {
            transport,
            address: SocketAddr::new(address, DNS_PORT),
            // Engines name an IPv6 address whether there is IPv6 inside or not.
            optional: elsewhere || address.is_ipv6(),
            elsewhere,
        })
    });
    reached.chain(names).collect()
}

/// A forwarder, and the factory it uses; both end when this is dropped.
#[derive(Debug)]
pub struct Forwarder {
    socket: OwnedFd,
    asked: u64,
    // In this order: the sockets of the target go before their namespace is let go of.
    process: ForwarderGuard,
    factory: Option<ChildGuard>,
    factory_end: Option<HelperEnd>,
}

#[derive(Debug)]
struct ForwarderGuard(Child);

impl Drop for ForwarderGuard {
    fn drop(&mut self) {
        // It holds nothing but other people's connections, which are over.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Forwarder {
    /// Starts it. Call from the main thread before lock-down: it dies with the thread that started it.
    ///
    /// # Errors
    /// [`ForwarderError::Start`].
    pub fn spawn(helper: &Helper) -> Result<Self, ForwarderError> {
        let spawn = || {
            let (ours, theirs) = fd_passing::pair()?;
            let process = helper
                .command(ARGUMENT)
                .env_clear()
                .stdin(Stdio::from(theirs))
                // Whoever waits for our output to be closed must not wait for it.
                .stdout(null_device::open()?)
                .stderr(null_device::open()?)
                // What a terminal sends to its foreground group is meant for the command there.
                .process_group(0)
                .spawn()?;
            Ok((ours, ForwarderGuard(process)))
        };
        let (socket, process) = spawn().map_err(ForwarderError::Start)?;
        Ok(Self { socket, asked: 0, process, factory: None, factory_end: None })
    }

    /// Listens on a port of the host; who connects waits until [`start`](Self::start).
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub fn publish(&mut self, port: PublishedPort) -> Result<Vec<Forward>, ForwarderError> {
        match self.ask(Asked::Publish(port), &[])? {
            Answer::Forwards(forwards) => Ok(forwards),
            Answer::Done | Answer::Begun(_) => Ok(Vec::new()),
        }
    }

    /// Begins to forward. `inside` are the target's own addresses, the ones to dial. Tells which layers of their
    /// sandboxes the forwarder and the factory could not have.
    ///
    /// # Errors
    /// See [`ForwarderError`].
    pub fn start(
        &mut self,
        factory: SocketFactory,
        plan: &ForwardPlan,
        inside: Vec<IpAddr>,
    ) -> Result<Vec<MissingLayer>, ForwarderError> {
        let mut missing = factory.missing.clone();
        let (child, channel, listeners) = factory.into_parts();
        self.factory_end = child.watch(WITHOUT_FACTORY.to_owned());
        self.factory = Some(child);
        let servers = plan.dns_alias.as_ref().map(|alias| alias.servers.clone()).unwrap_or_default();
        let listening = listeners.iter().map(|(listener, _fd)| *listener).collect();
        let start = Start { inside, listening, reached: plan.reached.len(), servers };
        let mut fds: Vec<BorrowedFd<'_>> = vec![channel.as_fd()];
        fds.extend(listeners.iter().map(|(_listener, fd)| fd.as_fd()));
        if let Answer::Begun(more) = self.ask(Asked::Start(start), &fds)? {
            missing.extend(more);
        }
        Ok(missing)
    }

    fn ask(&mut self, what: Asked, fds: &[BorrowedFd<'_>]) -> Result<Answer, ForwarderError> {
        self.asked += 1;
        let answer = child_channel::send(&self.socket, &Ask { id: self.asked, what }, fds)
            .and_then(|()| child_channel::receive::<Reply>(&self.socket, Some(DEADLINE)));
        match answer {
            Ok((reply, _)) => Ok(reply.answer?),
            Err(ChannelError::System(error)) => Err(ForwarderError::Talk(error)),
            Err(ChannelError::Silent) => Err(ForwarderError::Talk(Errno::ETIMEDOUT.into())),
            Err(ChannelError::Closed) => Err(ForwarderError::Ended),
            Err(ChannelError::Malformed | ChannelError::DescriptorsLost) => {
                Err(ForwarderError::Talk(Errno::EPROTO.into()))
            }
        }
    }

    /// A handle for everybody, what must be polled for it to be answered, and what must be kept for as long as ports
    /// are to be forwarded. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ForwarderError::Start`] if the socket cannot be watched.
    pub fn into_handle(
        self,
    ) -> Result<(PortForwards, impl Future<Output = ()> + Send + 'static, RunningForwarder), ForwarderError>
    {
        let Self { socket, asked, process, factory, factory_end } = self;
        let socket = watch(socket, Interest::READABLE).map_err(ForwarderError::Start)?;
        let (asks, questions) = mpsc::channel(MAX_QUEUED);
        let run = async move {
            let factory_ends = async {
                if let Some(end) = factory_end {
                    end.tell().await;
                }
                pending::<Infallible>().await
            };
            tokio::select! {
                // A factory ends with its forwarder, which is said then.
                biased;
                () = converse(socket, questions, asked) => {}
                never = factory_ends => match never {},
            }
        };
        Ok((PortForwards { asks }, run, RunningForwarder { _process: process, _factory: factory }))
    }
}

/// The processes behind a [`PortForwards`]; they end when this is dropped.
#[derive(Debug)]
pub struct RunningForwarder {
    _process: ForwarderGuard,
    _factory: Option<ChildGuard>,
}

type Question = (Asked, oneshot::Sender<Result<Answer, ForwardError>>);

/// A cloneable front of a running forwarder.
#[derive(Clone, Debug)]
pub struct PortForwards {
    asks: mpsc::Sender<Question>,
}

impl PortForwards {
    /// Publishes one more port; tells where it listens, one entry an address family.
    ///
    /// # Errors
    /// See [`ForwarderError`].
    pub async fn add(&self, port: PublishedPort) -> Result<Vec<Forward>, ForwarderError> {
        match self.ask(Asked::Publish(port)).await? {
            Answer::Forwards(forwards) => Ok(forwards),
            Answer::Done | Answer::Begun(_) => Ok(Vec::new()),
        }
    }

    /// Takes a published port back. Connections that exist go on.
    ///
    /// # Errors
    /// [`ForwardError::NotThere`].
    pub async fn remove(&self, id: u64) -> Result<(), ForwarderError> {
        self.ask(Asked::Remove(id)).await.map(|_done| ())
    }

    /// Everything that is forwarded, in the order of its making. What [`add`](Self::add) made has one id for all its
    /// entries.
    ///
    /// # Errors
    /// [`ForwarderError::Ended`].
    pub async fn list(&self) -> Result<Vec<Forward>, ForwarderError> {
        let mut all: Vec<Forward> = Vec::new();
        loop {
            match self.ask(Asked::List { skip: all.len() }).await? {
                Answer::Forwards(page) if !page.is_empty() => all.extend(page),
                Answer::Forwards(_) | Answer::Done | Answer::Begun(_) => return Ok(all),
            }
        }
    }

    /// The target has other addresses now.
    ///
    /// # Errors
    /// [`ForwarderError::Ended`].
    pub async fn set_inside(&self, addresses: Vec<IpAddr>) -> Result<(), ForwarderError> {
        self.ask(Asked::Inside(addresses)).await.map(|_done| ())
    }

    async fn ask(&self, what: Asked) -> Result<Answer, ForwarderError> {
        let (answer, said) = oneshot::channel();
        let conversation = async {
            self.asks.send((what, answer)).await.map_err(|_ended| ForwarderError::Ended)?;
            Ok(said.await.map_err(|_ended| ForwarderError::Ended)??)
        };
        // One that was stopped must not keep `status` waiting.
        let answer = timeout(PATIENCE, conversation).await;
        answer.unwrap_or_else(|_late| Err(ForwarderError::Talk(Errno::ETIMEDOUT.into())))
    }
}

/// Carries questions to the forwarder and answers back, until it ends.
async fn converse(socket: AsyncFd<OwnedFd>, mut questions: mpsc::Receiver<Question>, mut asked: u64) {
    let mut waiting: BTreeMap<u64, oneshot::Sender<Result<Answer, ForwardError>>> = BTreeMap::new();
    loop {
        tokio::select! {
            question = questions.recv(), if waiting.len() < MAX_QUEUED => {
                // Who keeps the processes may have no handle; then only the end is waited for.
                let Some((what, answer)) = question else { return next_end(&socket).await };
                asked += 1;
                if child_channel::send(socket.get_ref(), &Ask { id: asked, what }, &[]).is_err() {
                    return warn_of_end();
                }
                waiting.insert(asked, answer);
            }
            ready = socket.readable() => {
                let Ok(mut guard) = ready else { return warn_of_end() };
                match child_channel::receive::<Reply>(socket.get_ref(), Some(Duration::ZERO)) {
                    Ok((reply, _)) => {
                        if waiting.remove(&reply.id).is_none_or(|asker| asker.send(reply.answer).is_err()) {
                            debug!("nobody waits for what the forwarder said");
                        }
                    }
                    Err(ChannelError::Silent) => guard.clear_ready(),
                    Err(_) => return warn_of_end(),
                }
            }
        }
    }
}

async fn next_end(socket: &AsyncFd<OwnedFd>) {
    while let Ok(mut guard) = socket.readable().await {
        match child_channel::receive::<Reply>(socket.get_ref(), Some(Duration::ZERO)) {
            Ok(_unasked) => {}
            Err(ChannelError::Silent) => guard.clear_ready(),
            Err(_) => break,
        }
    }
    warn_of_end();
}

fn warn_of_end() {
    warn!("ports are no longer forwarded: the process that did so has ended");
}
