//! A command in namespaces of its own: starts the child that becomes it, lets it go, and stands by it. (tasks)
//!
//! # Theory of operation
//! The child is this program, executed anew, and later becomes the command by exec: so the command is our child, in our
//! process group and on our terminal, with every descriptor, limit and variable that the caller gave. In between it
//! makes the namespaces, the interface and its own `/etc`, hands over as the namespace child does, and waits for the
//! word to go. Its socket closes at the exec, which tells that the command runs; a failure comes as a record.
//!
//! A terminal's signals go to its whole foreground group, so the command gets them by itself and we only must not die of
//! them; signals that somebody sent to us alone are passed on. A command that is stopped stops us too, so that the
//! caller's shell gets its terminal back; but only then: one that ignores ^Z keeps its network, and one that still reads
//! from the terminal must not do so when the shell believes it stopped.
//!
//! Who is root outside gets all of its users inside, and only their parent may map them; anybody else maps himself.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::child_channel::{self, ChannelError, DEADLINE};
use super::failure::{Failure, FailureClass};
use super::namespace_child::{
    self, ChildHandover, ChildRequest, Death, HandoverFault, Helper, HelperError, Made, SetupError,
};
use super::private_etc::{PrivateEtcError, PrivateEtcWarning};
use super::target::OpenTarget;
use crate::sys::async_fd::watch;
use crate::sys::caller::{self, CallerState};
use crate::sys::fd_passing;
use crate::sys::namespace::{self, NamespaceKind};
use crate::sys::os_error::OsError;
use crate::sys::pidfd::PidFd;
use crate::sys::sandbox;
use crate::sys::signals::{self, SignalQueue, Taken};

/// The hidden first argument that makes this program the child that becomes a command. The number of its socket and
/// the command follow.
pub const RUN_ARGUMENT: &str = "__run-child";

/// What the command is to find.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The interface. `keep_other_links` and `bare` make no sense here.
    pub link: ChildRequest,
    /// Taken before anything of it was changed.
    pub caller: CallerState,
    /// The command sees itself as root.
    pub map_root: bool,
    /// The text of its `/etc/resolv.conf`; never the host's.
    pub resolv_conf: String,
    /// Program and arguments; at least the program.
    pub command: Vec<OsString>,
}

/// A child that has everything ready and waits for the word.
#[derive(Debug)]
pub struct RunHandover {
    /// What it made.
    pub link: ChildHandover,
    /// What is not as it should be with name resolution.
    pub warnings: Vec<PrivateEtcWarning>,
    /// The child, to let go and to stand by.
    pub child: RunChild,
}

/// What the child could not do. (a source of [`RunError`])
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RunSetupError {
    /// The kernel refused a namespace.
    #[error("cannot create a {kind} namespace")]
    Unshare {
        /// Which kind.
        kind: NamespaceKind,
        /// What the system said.
        source: OsError,
    },
    /// Users could not be mapped.
    #[error("cannot write `{file}`")]
    Map {
        /// Which map.
        file: PathBuf,
        /// What the system said.
        source: OsError,
    },
    /// No name resolution of its own.
    #[error(transparent)]
    Etc(PrivateEtcError),
    /// No interface.
    #[error("cannot create `{interface}`")]
    Link {
        /// Its name.
        interface: String,
        /// Why not.
        source: SetupError,
    },
    /// The caller's state could not be put back.
    #[error("cannot restore the caller's signals")]
    Restore {
        /// What the system said.
        source: OsError,
    },
}

/// Why there is no command running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing usable was heard of the child.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The child gave up, and said why.
    #[error(transparent)]
    Setup(RunSetupError),
    /// The user's command could not be executed.
    #[error("cannot execute `{}`", .program.display())]
    Execute {
        /// The command's name.
        program: OsString,
        /// What the system said.
        source: OsError,
    },
    /// Joining a running tunnel's namespaces failed.
    #[error("cannot join the {kind} namespace of {target}")]
    Join {
        /// Which kind.
        kind: NamespaceKind,
        /// Whose.
        target: String,
        /// What the system said.
        source: OsError,
    },
}

impl RunError {
    /// What `run` and `exec` exit with: 127 not found, 126 not executable, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Execute { source, .. } if source.is(Errno::ENOENT) || source.is(Errno::ENOTDIR) => 127,
            Self::Execute { .. } => 126,
            Self::Helper(_) | Self::Setup(_) | Self::Join { .. } => 125,
        }
    }
}

impl Failure for RunError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Setup(RunSetupError::Link { source, .. }) => source.class(),
            Self::Helper(error) => error.class(),
            Self::Setup(_) | Self::Join { .. } => FailureClass::Kernel,
            Self::Execute { .. } => FailureClass::General,
        }
    }
}

/// What the parent says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToChild {
    /// First: what to make.
    Make(Box<Make>),
    /// The users are mapped.
    Mapped,
    /// Become the command.
    Go,
}

/// What to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Make {
    pub(crate) link: ChildRequest,
    pub(crate) caller: CallerState,
    pub(crate) map_root: bool,
    /// The parent maps the users, after [`FromChild::Unshared`].
    pub(crate) parent_maps: bool,
    pub(crate) resolv_conf: String,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromChild {
    /// It is in its namespaces and waits for its users to be mapped.
    Unshared,
    /// Everything is ready; with the queues and the rtnetlink sockets.
    Made { made: Made, warnings: Vec<PrivateEtcWarning> },
    /// It cannot.
    Failed(RunSetupError),
    /// It cannot become the command.
    NotExecuted(OsError),
}

/// Starts the child and has it make everything; it then waits for [`RunChild::go`].
///
/// `signals` are [`RUN_SIGNALS`], taken after the caller's state was captured and before anything was made that a signal
/// could leave behind. Blocks, for a few milliseconds. Call it from the main thread: the child dies with the thread that
/// started it.
///
/// # Errors
/// See [`RunError`]; nothing is left behind then.
///
/// # Panics
/// If the command is empty.
pub fn spawn_run(
    helper: &Helper,
    options: &RunOptions,
    signals: SignalQueue,
) -> Result<RunHandover, RunError> {
    let talk = |source| HelperError::Talk { source };
    assert!(!options.command.is_empty(), "a command has at least a program");
    // If the caller ignores this one, our child's end would be kept from us.
    signals::restore_default(Signal::SIGCHLD).map_err(talk)?;
    let (ours, theirs) = fd_passing::pair().map_err(talk)?;
    let mut command = Command::new(helper.program());
    command.arg0("wg4netns").arg(RUN_ARGUMENT).arg(theirs.as_raw_fd().to_string()).args(&options.command);
    caller::inherit(&mut command, theirs);
    let child = command
        .spawn()
        .map_err(|source| HelperError::Start { program: helper.program().to_owned(), source })?;
    // Its end of the socket must be its own, so that ours sees the end of it.
    drop(command);
    let mut child = RunChild::new(child.id(), ours, options.command[0].clone(), signals).map_err(talk)?;
    let parent_maps = maps_everybody();
    let make = Make {
        link: options.link.clone(),
        caller: options.caller.clone(),
        map_root: options.map_root,
        parent_maps,
        resolv_conf: options.resolv_conf.clone(),
    };
    child.say(&ToChild::Make(Box::new(make)))?;
    if parent_maps {
        let (FromChild::Unshared, _) = child.hear()? else {
            return Err(HelperError::Handover(HandoverFault::Malformed).into());
        };
        map_everybody(child.pid).map_err(RunError::Setup)?;
        child.say(&ToChild::Mapped)?;
    }
    let (FromChild::Made { made, warnings }, fds) = child.hear()? else {
        return Err(HelperError::Handover(HandoverFault::Malformed).into());
    };
    let link = namespace_child::accept(made, fds, &options.link).map_err(HelperError::Handover)?;
    Ok(RunHandover { link, warnings, child })
}

/// The child: first ours, then the command.
#[derive(Debug)]
pub struct RunChild {
    pid: Pid,
    pidfd: PidFd,
    socket: OwnedFd,
    program: OsString,
    signals: SignalQueue,
    /// Made when a runtime is there.
    waiter: Option<Waiter>,
    /// It is the command by now: ours to stand by, not ours to kill.
    gone: bool,
    /// Reaped: its number may be another process's.
    ended: bool,
}

/// What `pidfd` and `signals` refer to, once more, for the runtime to watch.
#[derive(Debug)]
struct Waiter {
    pidfd: AsyncFd<OwnedFd>,
    signals: AsyncFd<OwnedFd>,
}

/// What came before the command ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// A signal that means "stop".
    Signal(Signal),
    /// The child is gone.
    ChildEnded,
}

enum Event {
    Taken(Taken),
    Ended,
}

impl RunChild {
    fn new(pid: u32, socket: OwnedFd, program: OsString, signals: SignalQueue) -> Result<Self, OsError> {
        let pidfd = PidFd::open(pid)?;
        let number = i32::try_from(pid).map_err(|_range| OsError::from(Errno::ESRCH))?;
        let pid = Pid::from_raw(number);
        Ok(Self { pid, pidfd, socket, program, signals, waiter: None, gone: false, ended: false })
    }

    /// The child's, and later the command's, number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// The child, and later the command.
    #[must_use]
    pub const fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Before the command runs: waits for a signal that means "stop", or for the child's end. Other signals are
    /// forgotten. Needs a tokio runtime; loses nothing when it is dropped and called again.
    ///
    /// # Errors
    /// What the system says.
    pub async fn interrupted(&mut self) -> Result<Interruption, OsError> {
        loop {
            match self.event().await? {
                Event::Ended => return Ok(Interruption::ChildEnded),
                Event::Taken(Taken { signal, .. }) => {
                    if signal == Signal::SIGTSTP {
                        nix::sys::signal::raise(Signal::SIGSTOP)?;
                    }
                    if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP) {
                        return Ok(Interruption::Signal(signal));
                    }
                }
            }
        }
    }

    /// Lets the child become the command, and waits until it has, however slow the storage is where that lies. Signals
    /// are passed on meanwhile.
    ///
    /// Needs a tokio runtime; must not be dropped before it is done, nor called twice.
    ///
    /// # Errors
    /// [`RunError::Execute`] if there is no such command; the child is gone then.
    pub async fn go(&mut self) -> Result<(), RunError> {
        let talk = |source: std::io::Error| HelperError::Talk { source: source.into() };
        let socket = watch(self.socket.try_clone().map_err(talk)?, Interest::READABLE).map_err(talk)?;
        self.say(&ToChild::Go)?;
        self.gone = true;
        loop {
            match child_channel::receive::<FromChild>(&self.socket, Some(Duration::ZERO)) {
                Err(ChannelError::Silent) => {}
                // Close-on-exec has closed its end; or it died, which is then the command's status.
                Err(ChannelError::Closed) => return Ok(()),
                Ok((FromChild::NotExecuted(source), _)) => {
                    return Err(RunError::Execute { program: self.program.clone(), source });
                }
                Ok((FromChild::Failed(error), _)) => return Err(RunError::Setup(error)),
                Ok(_) => return Err(HelperError::Handover(HandoverFault::Malformed).into()),
                Err(error) => return Err(self.failure(error).into()),
            }
            tokio::select! {
                ready = socket.readable() => ready.map_err(talk)?.clear_ready(),
                event = self.event() => {
                    if let Event::Taken(taken) = event.map_err(|source| HelperError::Talk { source })? {
                        self.pass_on(taken).map_err(|source| HelperError::Talk { source })?;
                    }
                }
            }
        }
    }

    /// Stands by the command until it ends; then what the caller's shell is to see: its status, or 128 and the signal.
    ///
    /// Needs a tokio runtime; loses nothing when it is dropped and called again.
    ///
    /// # Errors
    /// What the system says.
    pub async fn supervise(&mut self) -> Result<u8, OsError> {
        loop {
            if let Some(code) = self.look()? {
                return Ok(code);
            }
            if let Event::Taken(taken) = self.event().await? {
                self.pass_on(taken)?;
            }
        }
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    /// ESRCH if it has ended.
    pub fn send_signal(&self, signal: Signal) -> Result<(), OsError> {
        self.pidfd.send_signal(signal)
    }

    async fn event(&mut self) -> Result<Event, OsError> {
        loop {
            if let Some(taken) = self.signals.take_next()? {
                return Ok(Event::Taken(taken));
            }
            if self.pidfd.has_ended()? {
                return Ok(Event::Ended);
            }
            let waiter = match &mut self.waiter {
                Some(waiter) => waiter,
                none => none.insert(Waiter {
                    pidfd: watch(self.pidfd.as_fd().try_clone_to_owned()?, Interest::READABLE)?,
                    signals: watch(self.signals.as_fd().try_clone_to_owned()?, Interest::READABLE)?,
                }),
            };
            // What became ready is looked at above, after the note of it was cleared: nothing falls in between.
            tokio::select! {
                ready = waiter.signals.readable() => ready.map_err(OsError::from)?.clear_ready(),
                ready = waiter.pidfd.readable() => ready.map_err(OsError::from)?.clear_ready(),
            }
        }
    }

    /// Ends the child, if it has not ended, and tells how it did.
    fn end(&mut self) -> Death {
        if !matches!(self.pidfd.wait_for_end(Some(Duration::from_secs(1))), Ok(true)) {
            let _ended_meanwhile = self.pidfd.send_signal(Signal::SIGKILL);
        }
        let status = waitpid(self.pid, None);
        self.ended = true;
        match status {
            Ok(WaitStatus::Signaled(_, signal, _)) => Death::Signal(signal as i32),
            Ok(WaitStatus::Exited(_, code)) => Death::Status(code),
            _ => Death::Status(0),
        }
    }

    /// The command's end, if it has ended; when it was stopped we stop too.
    fn look(&mut self) -> Result<Option<u8>, OsError> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    self.ended = true;
                    return Ok(Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.ended = true;
                    return Ok(Some(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)));
                }
                // By the terminal or its driver. A plain SIGSTOP is somebody's wish for the command alone.
                Ok(WaitStatus::Stopped(_, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)) => {
                    self.stop_with_command()?;
                }
                Ok(_) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Stops us as the command was stopped, unless whoever stopped us both has continued us already: the news of the
    /// command's stop is then older than that, and nobody would continue us a second time.
    fn stop_with_command(&mut self) -> Result<(), OsError> {
        let mut continued = false;
        while let Some(taken) = self.signals.take_next()? {
            continued |= taken.signal == Signal::SIGCONT;
            self.pass_on(taken)?;
        }
        if !continued {
            nix::sys::signal::raise(Signal::SIGSTOP)?;
        }
        Ok(())
    }

    fn pass_on(&self, taken: Taken) -> Result<(), OsError> {
        // From the terminal the command has these already. SIGCONT is passed on too: whoever continues us wants
        // the command to go on.
        let keys = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP];
        let from_terminal = keys.contains(&taken.signal) && !taken.was_sent;
        let to_command = taken.signal != Signal::SIGCHLD && !from_terminal;
        match to_command.then(|| self.pidfd.send_signal(taken.signal)) {
            Some(Err(error)) if !error.is(Errno::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    fn say(&mut self, record: &ToChild) -> Result<(), RunError> {
        Ok(child_channel::send(&self.socket, record, &[]).map_err(|error| self.failure(error))?)
    }

    fn hear(&mut self) -> Result<(FromChild, Vec<OwnedFd>), RunError> {
        match child_channel::receive(&self.socket, Some(DEADLINE)) {
            Ok((FromChild::Failed(error), _)) => Err(RunError::Setup(error)),
            Ok(said) => Ok(said),
            Err(error) => Err(self.failure(error).into()),
        }
    }

    fn failure(&mut self, error: ChannelError) -> HelperError {
        if error == ChannelError::Silent {
            let _ended_meanwhile = self.pidfd.send_signal(Signal::SIGKILL);
        }
        HelperError::of(error, || self.end())
    }
}

impl Drop for RunChild {
    fn drop(&mut self) {
        if !self.gone && !self.ended {
            let _ended_meanwhile = self.pidfd.send_signal(Signal::SIGKILL);
            self.end();
        }
    }
}

/// Whether we may give the child every user of ours.
fn maps_everybody() -> bool {
    nix::unistd::geteuid().is_root() && sandbox::may_map_users()
}

/// The users and groups that there are here are the same ones inside.
fn map_everybody(pid: Pid) -> Result<(), RunSetupError> {
    for name in ["uid_map", "gid_map"] {
        let failed = |file: PathBuf, source| RunSetupError::Map { file, source };
        let own = std::fs::read_to_string(format!("/proc/self/{name}"))
            .map_err(|error| failed(format!("/proc/self/{name}").into(), error.into()))?;
        let same: String = own
            .lines()
            .filter_map(|line| {
                let mut numbers = line.split_ascii_whitespace();
                let (inside, _outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
                Some(format!("{inside} {inside} {count}\n"))
            })
            .collect();
        namespace::write_proc(&format!("/proc/{pid}/{name}"), &same)
            .map_err(|(file, source)| failed(file, source))?;
    }
    Ok(())
}

/// What the parent takes in turn while the child, and then the command, runs.
pub const RUN_SIGNALS: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGCHLD,
];

/// Joins the namespaces of a target, its mounts included if it is a process, and becomes the command there: `exec`.
///
/// The process must have one thread. Returns only if it failed.
#[must_use]
pub fn exec_into(target: &mut OpenTarget, caller: &CallerState, command: &[OsString]) -> RunError {
    let Some((program, arguments)) = command.split_first() else {
        return RunError::Execute { program: OsString::new(), source: Errno::ENOENT.into() };
    };
    // A target without mounts of its own, or of somebody else's, keeps ours.
    let _ours_then = target.include_mounts();
    for (kind, fd) in target.namespaces() {
        match namespace::join(fd.as_fd(), kind) {
            Ok(()) => {}
            // The user namespace that we are in already.
            Err(source) if kind == NamespaceKind::User && source.is(Errno::EINVAL) => {}
            Err(source) => return RunError::Join { kind, target: target.target().to_string(), source },
        }
    }
    if let Err(source) = caller.restore() {
        return RunError::Setup(RunSetupError::Restore { source });
    }
    RunError::Execute { program: program.clone(), source: caller::execute(program, arguments) }
}
