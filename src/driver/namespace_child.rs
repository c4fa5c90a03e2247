//! Starts the namespace child, asks it for an interface, and checks what it hands over. (tasks)
//!
//! # Theory of operation
//! The child is this same program, executed anew (so it has one thread and no key in its memory), with one end of an
//! unnamed socket pair as its standard input. One record goes there: what to make, and the namespaces to make it in.
//! One record comes back: what was made, with one descriptor for each queue and two rtnetlink sockets; or why not. Then
//! the child is gone. Nothing it sends is believed before it is checked, because it worked where others have a say.
//!
//! [`spawn`] blocks, for at most [`DEADLINE`]. Call it from the main thread: the child dies with the thread that
//! started it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::child_channel::{self, ChannelError, DEADLINE};
use super::command::NetworkPlan;
use super::failure::FailureClass;
use super::helper_end::HelperEnd;
use super::interface_name::InterfaceName;
use super::link_setup::{ALIAS, MadeLink};
use super::socket_factory::SocketsRequest;
use super::target::OpenTarget;
use crate::sys::fd_passing;
use crate::sys::namespace::NamespaceKind;
use crate::sys::netlink::{LinkState, Netlink, NetlinkError, News, RtnetlinkSockets};
use crate::sys::null_device;
use crate::sys::os_error::OsError;
use crate::sys::packet_socket;
use crate::sys::sandbox::{MissingLayer, Policy};
use crate::sys::tun::{self, TunError};

/// The hidden first argument that makes this program the namespace child.
pub const CHILD_ARGUMENT: &str = "__namespace-child";

/// The same for a child that stays and makes sockets; it begins alike.
pub const FACTORY_ARGUMENT: &str = "__socket-factory";

/// Which file to execute as the child.
#[derive(Clone, Debug)]
pub struct Helper {
    program: PathBuf,
    policy: Policy,
}

impl Helper {
    /// This very program, also if its file was replaced meanwhile.
    #[must_use]
    pub fn this_program() -> Self {
        Self::at(PathBuf::from("/proc/self/exe"))
    }

    /// The same, told what to do where a layer of its sandbox cannot be had.
    #[must_use]
    pub fn under(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// The program, as the helper that this hidden first argument makes of it.
    pub(crate) fn command(&self, argument: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("wg4netns").args([argument, self.policy.word()]);
        command
    }

    /// The file.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A wg4netns binary elsewhere: for programs that use this crate as a library.
    #[must_use]
    pub const fn at(program: PathBuf) -> Self {
        Self { program, policy: Policy::Auto }
    }
}

/// What the child is asked to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRequest {
    /// The new interface's name; it must not exist.
    pub interface: InterfaceName,
    /// Queues, at least 1. No queue can be added later.
    pub queues: u16,
    /// Addresses, routes and MTU.
    pub network: NetworkPlan,
    /// Leave the interface down and its IPv6 settings alone: somebody else configures it. Addresses and routes of
    /// the plan are not used then.
    pub bare: bool,
    /// Go on if another interface is up, with a warning.
    pub keep_other_links: bool,
    /// An interface of this name that somebody made for another kind of driver is removed first.
    pub replace: bool,
}

/// What the child made: checked.
#[derive(Debug)]
pub struct ChildHandover {
    /// One descriptor a queue, non-blocking.
    pub tun: Vec<OwnedFd>,
    /// One hears changes of links and addresses in the namespace, one makes some; they pin it, as `tun` does.
    pub rtnetlink: RtnetlinkSockets,
    /// The interface's name.
    pub interface: String,
    /// The interface's index in its namespace.
    pub ifindex: u32,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// For people, once.
    pub warnings: Vec<SetupWarning>,
}

impl ChildHandover {
    /// The interface as it was when the child reported: what [`LinkWatch`](super::link_watch::LinkWatch) starts from.
    #[must_use]
    pub fn link_state(&self) -> LinkState {
        LinkState {
            index: self.ifindex,
            name: self.interface.clone(),
            mtu: self.mtu,
            up: self.up,
            loopback: false,
            alias: Some(ALIAS.to_owned()),
        }
    }
}

/// What the child could not do, and went on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SetupWarning {
    /// Packets have another way out.
    #[error("no kill switch: {} remains", .0.join(", "))]
    OtherLinks(Vec<String>),
    /// There is a veth pair instead: as fast, but it drops what is longer than the MTU.
    #[error("cannot open `{path}`: {0}; using a veth pair instead", path = tun::TUN_PATH)]
    NoTun(OsError),
    /// The kernel has no IPv6, or it is switched off for the namespace.
    #[error("no IPv6 in this namespace: {0} is not used")]
    NoIpv6(IpNet),
    /// IPv6 stays on although the configuration has no address for it.
    #[error("cannot switch IPv6 off: {file}: {error}")]
    Ipv6Remains {
        /// The file that could not be written.
        file: String,
        /// What the system said.
        error: OsError,
    },
    /// Another interface has that route.
    #[error("the route {0} goes by another interface already")]
    RouteTaken(IpNet),
}

/// What the child could not do, and gave up. (the source of [`ChildError::Setup`])
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SetupError {
    /// The kernel refused `setns(2)`.
    #[error("cannot join the {kind} namespace of {target}{}", Owner(*.owner))]
    Join {
        /// Which kind.
        kind: NamespaceKind,
        /// Whose, as the caller named it.
        target: String,
        /// The user that owns it, if it is another one.
        owner: Option<u32>,
        /// What the system said.
        source: OsError,
    },
    /// Packets would have another way out.
    #[error("another interface is up: `{}`", .names.join("`, `"))]
    OtherLinks {
        /// Their names.
        names: Vec<String>,
    },
    /// Making the interface failed.
    #[error(transparent)]
    Tun(TunError),
    /// Configuring it failed.
    #[error(transparent)]
    Netlink(NetlinkError),
    /// It went away while it was configured.
    #[error("the interface disappeared while it was configured")]
    Disappeared,
    /// A layer of the child's sandbox that is required.
    #[error(transparent)]
    Unconfined(MissingLayer),
    /// Protecting the child from the target failed.
    #[error("cannot protect the helper from the target")]
    Harden {
        /// What the system said.
        source: OsError,
    },
}

impl SetupError {
    /// Whom to blame.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::OtherLinks { .. } => FailureClass::Target,
            Self::Tun(TunError::Exists { .. }) => FailureClass::InUse,
            Self::Join { .. } | Self::Tun(_) | Self::Netlink(_) | Self::Unconfined(_) => FailureClass::Kernel,
            Self::Disappeared | Self::Harden { .. } => FailureClass::General,
        }
    }
}

struct Owner(Option<u32>);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |uid| write!(f, ", which uid {uid} owns"))
    }
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Nothing usable was heard of the child.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The child gave up, and said why.
    #[error("cannot create `{interface}` in the network namespace of {target}")]
    Setup {
        /// The interface asked for.
        interface: String,
        /// Where, as the caller named it.
        target: String,
        /// Why not.
        source: SetupError,
    },
}

impl ChildError {
    /// Whom to blame.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Setup { source, .. } => source.class(),
            Self::Helper(error) => error.class(),
        }
    }
}

/// Why nothing usable was heard of a child, whatever it was to do.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The program could not be executed.
    #[error("cannot start the helper `{program}`")]
    Start {
        /// What was executed.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket between parent and child, or the waiting for it, failed.
    #[error("cannot talk to the helper")]
    Talk {
        /// What the system said.
        source: OsError,
    },
    /// The child ended without a word.
    #[error("helper died before handover ({0})")]
    Died(Death),
    /// The child neither answered nor ended.
    #[error("helper did not answer within {} s", DEADLINE.as_secs())]
    Silent,
    /// What arrived is not what was asked for.
    #[error("cannot accept what the helper handed over: {0}")]
    Handover(HandoverFault),
}

impl HelperError {
    /// Whom to blame.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Died(_) | Self::Start { .. } => FailureClass::Kernel,
            Self::Talk { .. } | Self::Silent | Self::Handover(_) => FailureClass::General,
        }
    }

    /// What a failed conversation means; `end` waits for a child that has closed its end of it.
    pub(crate) fn of(error: ChannelError, end: impl FnOnce() -> Death) -> Self {
        match error {
            ChannelError::Closed => Self::Died(end()),
            ChannelError::Silent => Self::Silent,
            ChannelError::Malformed => Self::Handover(HandoverFault::Malformed),
            ChannelError::DescriptorsLost => Self::Handover(HandoverFault::DescriptorsLost),
            ChannelError::System(source) => Self::Talk { source },
        }
    }
}

/// How a child died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Killed.
    Signal(i32),
    /// Ended by itself.
    Status(i32),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => write!(f, "signal {number}"),
            Self::Status(code) => write!(f, "exit status {code}"),
        }
    }
}

impl From<ExitStatus> for Death {
    fn from(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Self::Signal(signal),
            (None, code) => Self::Status(code.unwrap_or_default()),
        }
    }
}

/// What is wrong with a handover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverFault {
    /// Descriptors were lost on the way.
    #[error("descriptors were lost (the limit of open files may be reached)")]
    DescriptorsLost,
    /// Too few or too many.
    #[error("{got} descriptors instead of {wanted}")]
    Count {
        /// Arrived.
        got: usize,
        /// Asked for.
        wanted: usize,
    },
    /// Not JSON, or not of this version.
    #[error("an answer that is not understood")]
    Malformed,
    /// One of the queues is something else.
    #[error("{0}")]
    Tun(TunError),
    /// A queue of another interface, or of another kind.
    #[error("a queue of the wrong interface, `{0}`")]
    WrongInterface(String),
    /// One of the last two descriptors is something else.
    #[error("no rtnetlink socket")]
    Rtnetlink,
}

/// The record that goes to the child, with the namespaces to join.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// What the descriptors are, in the order in which they must be joined.
    pub(crate) namespaces: Vec<NamespaceKind>,
    /// For error messages.
    pub(crate) target: String,
    /// Of the namespaces, if it is another user than ours.
    pub(crate) owner: Option<u32>,
    /// What to do there.
    pub(crate) work: Work,
}

/// What a child is for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Make an interface, hand it over, end: see [`spawn`].
    Link(ChildRequest),
    /// Stay and make sockets: see [`super::socket_factory`].
    Sockets(SocketsRequest),
}

/// The record that comes back: what was made, with `queues` + 2 descriptors; or why not, with none.
pub(crate) type Reply = Result<Made, SetupError>;

/// What was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    ifindex: u32,
    mtu: u32,
    up: bool,
    warnings: Vec<SetupWarning>,
}

impl Made {
    /// What to send of an interface, and which descriptors with it.
    pub(crate) fn describe(link: &MadeLink) -> (Self, Vec<BorrowedFd<'_>>) {
        let MadeLink { queues, rtnetlink, state, warnings } = link;
        let mut fds: Vec<_> = queues.iter().map(AsFd::as_fd).collect();
        fds.extend([rtnetlink.requests.as_fd(), rtnetlink.news.as_fd()]);
        let made = Self { ifindex: state.index, mtu: state.mtu, up: state.up, warnings: warnings.clone() };
        (made, fds)
    }
}

/// Makes the interface that `request` describes in the namespace of `target`.
///
/// # Errors
/// See [`ChildError`]; nothing is left behind then.
pub fn spawn(
    helper: &Helper,
    target: &OpenTarget,
    request: &ChildRequest,
) -> Result<ChildHandover, ChildError> {
    let Conversation { reply, fds, .. } = converse::<Reply>(helper, target, Work::Link(request.clone()))?;
    let made = reply.map_err(|source| ChildError::Setup {
        interface: request.interface.to_string(),
        target: target.target().to_string(),
        source,
    })?;
    Ok(accept(made, fds, request).map_err(HelperError::Handover)?)
}

/// A child that has answered.
pub(crate) struct Conversation<T> {
    /// Ends it when dropped.
    pub(crate) child: ChildGuard,
    /// What is said to it.
    pub(crate) socket: OwnedFd,
    /// What it said.
    pub(crate) reply: T,
    /// What it sent along.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Starts a child, tells it what to do in the namespaces of `target`, and waits for its answer.
pub(crate) fn converse<T: DeserializeOwned>(
    helper: &Helper,
    target: &OpenTarget,
    work: Work,
) -> Result<Conversation<T>, ChildError> {
    let (ours, theirs) = fd_passing::pair().map_err(|source| HelperError::Talk { source })?;
    let cannot_start = |source| HelperError::Start { program: helper.program.clone(), source };
    let stays = matches!(work, Work::Sockets(_));
    let mut command = helper.command(if stays { FACTORY_ARGUMENT } else { CHILD_ARGUMENT });
    command.env_clear().stdin(theirs).stdout(null_device::open().map_err(cannot_start)?);
    if stays {
        // It stays: out of reach of what a terminal sends to its foreground group, and of whoever waits for our output
        // to be closed.
        command.process_group(0).stderr(null_device::open().map_err(cannot_start)?);
    }
    let child = command.spawn().map_err(cannot_start)?;
    // Its end of the socket must be its own, so that ours sees the end of it.
    drop(command);
    let mut child = ChildGuard { child };
    let namespaces = target.namespaces();
    let record = Request {
        namespaces: namespaces.iter().map(|(kind, _)| *kind).collect(),
        target: target.target().to_string(),
        owner: target.owner().filter(|owner| *owner != nix::unistd::geteuid().as_raw()),
        work,
    };
    let fds: Vec<_> = namespaces.iter().map(|(_, fd)| fd.as_fd()).collect();
    let answer = child_channel::send(&ours, &record, &fds)
        .and_then(|()| child_channel::receive::<T>(&ours, Some(DEADLINE)));
    let (reply, fds) = answer.map_err(|error| {
        if error == ChannelError::Silent {
            child.kill();
        }
        HelperError::of(error, || child.end().into())
    })?;
    Ok(Conversation { child, socket: ours, reply, fds })
}

/// What a child sends when it has done its work, or failed.
pub(crate) fn send_reply(
    socket: &OwnedFd,
    result: Result<&MadeLink, SetupError>,
) -> Result<(), ChannelError> {
    match result {
        Err(error) => child_channel::send::<Reply>(socket, &Err(error), &[]),
        Ok(link) => {
            let (made, fds) = Made::describe(link);
            child_channel::send::<Reply>(socket, &Ok(made), &fds)
        }
    }
}

/// Checks what a child handed over.
pub(crate) fn accept(
    made: Made,
    fds: Vec<OwnedFd>,
    request: &ChildRequest,
) -> Result<ChildHandover, HandoverFault> {
    let (tun, rtnetlink) = verify(fds, request)?;
    let interface = request.interface.to_string();
    let Made { ifindex, mtu, up, warnings } = made;
    Ok(ChildHandover { tun, rtnetlink, interface, ifindex, mtu, up, warnings })
}

/// Exactly the queues of exactly the interface that was asked for, and two rtnetlink sockets.
fn verify(
    mut fds: Vec<OwnedFd>,
    request: &ChildRequest,
) -> Result<(Vec<OwnedFd>, RtnetlinkSockets), HandoverFault> {
    let queues = usize::from(request.queues.max(1));
    let (wanted, got) = (queues + 2, fds.len());
    let (true, Some(news), Some(requests)) = (got == wanted, fds.pop(), fds.pop()) else {
        return Err(HandoverFault::Count { got, wanted });
    };
    for fd in &fds {
        if packet_socket::is_one(fd.as_fd()) {
            continue;
        }
        let interface = tun::inspect(fd.as_fd()).map_err(HandoverFault::Tun)?;
        // The name may have been changed inside meanwhile, but nobody can have done so before it was up.
        if interface.name != request.interface.as_str() || !interface.vnet_header || !interface.multi_queue {
            return Err(HandoverFault::WrongInterface(interface.name));
        }
    }
    let news = News::adopt(news).map_err(|_other| HandoverFault::Rtnetlink)?.into_fd();
    let requests = Netlink::adopt(requests).map_err(|_other| HandoverFault::Rtnetlink)?.into_fd();
    Ok((fds, RtnetlinkSockets { requests, news }))
}

/// No child outlives its use, and none stays a zombie.
#[derive(Debug)]
pub(crate) struct ChildGuard {
    child: Child,
}

impl ChildGuard {
    /// Ends it at once; what it said to us is still there.
    pub(crate) fn kill(&mut self) {
        let _ended_meanwhile = self.child.kill();
    }

    /// To tell what its end means.
    pub(crate) fn watch(&self, meaning: String) -> Option<HelperEnd> {
        HelperEnd::of(&self.child, meaning)
    }

    /// Ends the child if it has not ended, and tells how it did.
    fn end(&mut self) -> ExitStatus {
        // After it closed its socket it ends by itself, and that status is the one worth telling.
        let patience = crate::sys::pidfd::PidFd::open(self.child.id())
            .and_then(|pidfd| pidfd.wait_for_end(Some(Duration::from_secs(1))));
        if !matches!(patience, Ok(true)) {
            self.kill();
        }
        self.child.wait().unwrap_or_default()
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        self.end();
    }
}
