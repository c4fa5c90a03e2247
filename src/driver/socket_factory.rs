//! Sockets that were made inside the target's network, used out here. (tasks)
//!
//! # Theory of operation
//! A socket belongs to the network namespace it was made in, whoever uses it later. So a namespace child stays after it
//! joined: it puts the addresses to listen on on `lo`, makes the listeners, gives up every capability, every file
//! and nearly every system call, hands them over, and from then on answers a request for a socket with the socket or an errno. It never
//! connects, reads or writes; who asked does. Its dying with its parent (PDEATHSIG, or the end of its socket) is what
//! lets go of the namespace.
//!
//! Addresses on `lo` have the scope `host`: they can be connected to inside, and are never chosen as the source of what
//! leaves by the tunnel.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};

use super::child_channel::{self, ChannelError};
use super::failure::{Failure, FailureClass};
use super::namespace_child::{
    self, ChildError, ChildGuard, Conversation, HandoverFault, Helper, HelperError, SetupError, Work,
};
use super::target::OpenTarget;
use crate::config::publish::Transport;
use crate::sys::async_fd::watch;
use crate::sys::confine::{self, confine};
use crate::sys::netlink::{LinkSetting, Netlink, NetlinkError};
use crate::sys::os_error::OsError;
use crate::sys::sandbox::{self, MissingLayer, Policy};
use crate::sys::sockets::{self, SocketKind};

/// Listeners inside at most: all of them travel with one record.
pub const MAX_LISTENERS: usize = 128;

/// Requests for sockets that may wait for their turn.
const MAX_QUEUED: usize = 64;

/// An address inside to listen on, from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsideListener {
    /// Connections or datagrams.
    pub transport: Transport,
    /// Put on `lo`, unless it is elsewhere.
    pub address: SocketAddr,
    /// Go on without it where its family is not there.
    pub optional: bool,
    /// The address is not to be the namespace's: rules bring what is sent to this port of it.
    pub elsewhere: bool,
}

/// Why there is no factory. (the source says what the child could not do)
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// There is no child, or it does not talk.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// More than a record can hold.
    #[error("{wanted} addresses to listen on inside; at most {MAX_LISTENERS} are possible")]
    TooMany {
        /// How many were asked for.
        wanted: usize,
    },
    /// The child gave up, and said why.
    #[error("cannot make sockets in the network namespace of {target}")]
    Setup {
        /// Where, as the caller named it.
        target: String,
        /// Why not.
        source: FactorySetupError,
    },
}

/// What the child could not do. (the source of [`FactoryError::Setup`])
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FactorySetupError {
    /// It could not join.
    #[error(transparent)]
    Join(SetupError),
    /// The address cannot be put on `lo`.
    #[error("cannot put an address on `lo` inside")]
    Address(NetlinkError),
    /// Something inside has that port, or the address cannot be had.
    #[error("cannot listen on `{address}` ({transport}) inside")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        transport: Transport,
        /// What the system said.
        source: OsError,
    },
}

impl Failure for FactoryError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Child(error) => error.class(),
            Self::TooMany { .. } => FailureClass::Usage,
            Self::Setup { source: FactorySetupError::Listen { source, .. }, .. }
                if source.is(Errno::EADDRINUSE) =>
            {
                FailureClass::InUse
            }
            Self::Setup { source: FactorySetupError::Join(error), .. } => error.class(),
            Self::Setup { .. } => FailureClass::Kernel,
        }
    }
}

/// What a child that stays is asked for first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SocketsRequest {
    listeners: Vec<InsideListener>,
}

/// The answer.
type Ready = Result<Begun, FactorySetupError>;

/// What was done before the first request.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    /// Why each listener was not made, or with one descriptor that it was.
    refused: Vec<Option<OsError>>,
    /// Layers of its sandbox that the child could not have.
    missing: Vec<MissingLayer>,
}

/// A request for one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRequest {
    /// For connections or datagrams.
    pub transport: Transport,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
}

/// The answer, with the socket.
type Given = Result<(), OsError>;

/// A child that makes sockets; it ends when this is dropped.
#[derive(Debug)]
pub struct SocketFactory {
    child: ChildGuard,
    /// To ask it by. Whoever has it may ask; one at a time.
    pub channel: OwnedFd,
    /// Listening already.
    pub listeners: Vec<(InsideListener, OwnedFd)>,
    /// Optional ones that cannot be had, and why.
    pub skipped: Vec<(InsideListener, OsError)>,
    /// Layers of its sandbox that it could not have.
    pub missing: Vec<MissingLayer>,
}

impl SocketFactory {
    /// Starts it in the namespaces of `target`. Call it from the main thread before lock-down: the child dies with the
    /// thread that started it.
    ///
    /// # Errors
    /// See [`FactoryError`]; nothing is left behind then.
    pub fn spawn(
        helper: &Helper,
        target: &OpenTarget,
        listeners: Vec<InsideListener>,
    ) -> Result<Self, FactoryError> {
        if listeners.len() > MAX_LISTENERS {
            return Err(FactoryError::TooMany { wanted: listeners.len() });
        }
        let work = Work::Sockets(SocketsRequest { listeners: listeners.clone() });
        let Conversation { child, socket, reply, fds } =
            namespace_child::converse::<Ready>(helper, target, work)?;
        let Begun { refused, missing } =
            reply.map_err(|source| FactoryError::Setup { target: target.target().to_string(), source })?;
        let wanted = refused.iter().filter(|refused| refused.is_none()).count();
        if refused.len() != listeners.len() || fds.len() != wanted {
            let fault = HandoverFault::Count { got: fds.len(), wanted };
            return Err(ChildError::from(HelperError::Handover(fault)).into());
        }
        let mut fds = fds.into_iter();
        let (mut made, mut skipped) = (Vec::new(), Vec::new());
        for (listener, refused) in listeners.into_iter().zip(refused) {
            match refused {
                Some(error) => skipped.push((listener, error)),
                None => made.extend(fds.next().map(|fd| (listener, fd))),
            }
        }
        Ok(Self { child, channel: socket, listeners: made, skipped, missing })
    }

    /// What keeps the child alive, the channel to it, and its listeners.
    pub(crate) fn into_parts(self) -> (ChildGuard, OwnedFd, Vec<(InsideListener, OwnedFd)>) {
        (self.child, self.channel, self.listeners)
    }
}

/// Why a socket could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSocket {
    /// The factory has ended.
    #[error("nobody makes sockets inside any more")]
    Ended,
    /// It was refused there.
    #[error("cannot make a socket inside")]
    Refused(#[source] OsError),
}

type Question = (SocketRequest, oneshot::Sender<Result<OwnedFd, NoSocket>>);

/// Asks a factory, for a whole process.
#[derive(Clone, Debug)]
pub(crate) struct FactoryClient {
    asks: mpsc::Sender<Question>,
}

impl FactoryClient {
    /// The client, and what must be polled for it to be answered. Must be called within a tokio runtime.
    pub(crate) fn new(
        channel: OwnedFd,
    ) -> std::io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let channel = watch(channel, Interest::READABLE)?;
        let (asks, mut questions) = mpsc::channel::<Question>(MAX_QUEUED);
        let run = async move {
            while let Some((request, answer)) = questions.recv().await {
                let given = ask(&channel, request).await;
                let ended = given.as_ref().is_err_and(|error| *error == NoSocket::Ended);
                let _asker_has_gone = answer.send(given);
                if ended {
                    return;
                }
            }
        };
        Ok((Self { asks }, run))
    }

    /// A socket of the namespace that does not block.
    pub(crate) async fn open(&self, transport: Transport, ipv6: bool) -> Result<OwnedFd, NoSocket> {
        let (answer, given) = oneshot::channel();
        let request = SocketRequest { transport, ipv6 };
        self.asks.send((request, answer)).await.map_err(|_ended| NoSocket::Ended)?;
        given.await.map_err(|_ended| NoSocket::Ended)?
    }
}

async fn ask(
    channel: &tokio::io::unix::AsyncFd<OwnedFd>,
    request: SocketRequest,
) -> Result<OwnedFd, NoSocket> {
    child_channel::send(channel.get_ref(), &request, &[]).map_err(|_gone| NoSocket::Ended)?;
    loop {
        let mut guard = channel.readable().await.map_err(|_closed| NoSocket::Ended)?;
        match child_channel::receive::<Given>(channel.get_ref(), Some(std::time::Duration::ZERO)) {
            Ok((Ok(()), fds)) => return fds.into_iter().next().ok_or(NoSocket::Ended),
            Ok((Err(error), _)) => return Err(NoSocket::Refused(error)),
            Err(ChannelError::Silent) => guard.clear_ready(),
            // We have no room for it, until somebody closes something.
            Err(ChannelError::DescriptorsLost) => return Err(NoSocket::Refused(Errno::EMFILE.into())),
            Err(_) => return Err(NoSocket::Ended),
        }
    }
}

/// The child's side, when it has joined or could not: until its socket ends.
pub(crate) fn work(socket: &OwnedFd, entered: Result<(), SetupError>, request: &SocketsRequest) -> ExitCode {
    let entered = entered.and_then(|()| confine_first());
    let made = entered.map_err(FactorySetupError::Join).and_then(|()| make(&request.listeners));
    // What is needed for low ports and for addresses is not needed any more.
    let begun = made.and_then(|made| Ok((give_up().map_err(FactorySetupError::Join)?, made)));
    let sent = match begun {
        Err(error) => child_channel::send::<Ready>(socket, &Err(error), &[]).map(|()| false),
        Ok((missing, made)) => {
            let fds: Vec<_> = made.iter().flatten().map(AsFd::as_fd).collect();
            let refused = made.iter().map(|made| made.as_ref().err().copied()).collect();
            child_channel::send::<Ready>(socket, &Ok(Begun { refused, missing }), &fds).map(|()| true)
        }
    };
    match sent {
        Ok(true) => serve(socket),
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Before the first look at what others have made there. What cannot be had is told of when it is wanted again.
fn confine_first() -> Result<(), SetupError> {
    sandbox::no_new_privileges().map_err(|source| SetupError::Harden { source })?;
    let _told_later = confine(&confine::Helper::FactoryBegin, Policy::of_this_helper());
    Ok(())
}

fn give_up() -> Result<Vec<MissingLayer>, SetupError> {
    sandbox::drop_capabilities(false).map_err(|source| SetupError::Harden { source })?;
    Ok(confine(&confine::Helper::Factory, Policy::of_this_helper()))
}

fn serve(socket: &OwnedFd) -> ExitCode {
    loop {
        let sent = match child_channel::receive::<SocketRequest>(socket, None) {
            Ok((SocketRequest { transport, ipv6 }, _)) => match sockets::open(ipv6, kind(transport)) {
                Ok(made) => child_channel::send::<Given>(socket, &Ok(()), &[made.as_fd()]),
                Err(error) => child_channel::send::<Given>(socket, &Err(error), &[]),
            },
            Err(ChannelError::Closed) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        };
        if sent.is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// What the kernel calls it.
pub(crate) const fn kind(transport: Transport) -> SocketKind {
    match transport {
        Transport::Tcp => SocketKind::Stream,
        Transport::Udp => SocketKind::Datagram,
    }
}

fn make(listeners: &[InsideListener]) -> Result<Vec<Result<OwnedFd, OsError>>, FactorySetupError> {
    let mut netlink = Netlink::open().map_err(FactorySetupError::Address)?;
    let links = netlink.links().map_err(FactorySetupError::Address)?;
    let lo = links.iter().find(|link| link.loopback);
    if let Some(lo) = lo.filter(|lo| !lo.up && !listeners.is_empty()) {
        netlink.set_link(lo.index, LinkSetting::Up(true)).map_err(FactorySetupError::Address)?;
    }
    let lo = lo.map_or(LOOPBACK_INDEX, |lo| lo.index);
    let mut known: Vec<IpAddr> = Vec::new();
    for link in &links {
        let addresses = netlink.addresses(link.index).map_err(FactorySetupError::Address)?;
        known.extend(addresses.iter().map(IpNet::addr));
    }
    let mut made = Vec::new();
    for InsideListener { transport, address, optional, elsewhere } in listeners {
        if !elsewhere && !known.contains(&address.ip()) {
            match netlink.add_host_address(lo, address.ip()) {
                Ok(()) => known.push(address.ip()),
                Err(NetlinkError::AddAddress { source, .. }) if *optional => {
                    made.push(Err(source));
                    continue;
                }
                Err(error) => return Err(FactorySetupError::Address(error)),
            }
        }
        let open = if *elsewhere { sockets::open_beside } else { sockets::open_bound };
        let bound = open(*address, kind(*transport));
        match bound {
            Err(source) if !optional => {
                return Err(FactorySetupError::Listen { address: *address, transport: *transport, source });
            }
            bound => made.push(bound),
        }
    }
    Ok(made)
}

/// Of `lo`, in every namespace.
const LOOPBACK_INDEX: u32 = 1;
