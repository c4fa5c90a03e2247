//! Going to the background without the caller noticing a failure late. (tasks)
//!
//! # Theory of operation
//! [`into_background`] forks once, before any thread and before anything is opened. The caller's process stays and
//! waits on a pipe: one byte means ready, and it exits 0; end of file means that the daemon is gone, and it exits as
//! the daemon did. Until ready the daemon keeps the caller's standard error, so its one error line appears where the user
//! looks. Its session it leaves at once, because the sandbox lets nobody do so later; therefore the caller's process
//! passes on what is meant to end it, such as ^C. Being ready is [`Caller::release`]: it points the standard streams at
//! `/dev/null`, closes whatever else the caller had left open (a lock, perhaps, or a pipe that somebody reads to its end),
//! and only then writes the byte.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use crate::driver::failure::{Failure, FailureClass};
use crate::sys::fd_passing::take_unnamed;
use crate::sys::fork::{Fork, ForkError, fork};
use crate::sys::null_device;
use crate::sys::os_error::OsError;
use crate::sys::signals::SignalQueue;
use crate::sys::wait;

/// Why we could not leave the caller.
#[derive(Debug, thiserror::Error)]
pub enum DaemonizeError {
    /// No second process.
    #[error("cannot go to the background")]
    Fork(#[source] ForkError),
    /// No pipe between the two.
    #[error("cannot go to the background: cannot make a pipe")]
    Pipe(#[source] io::Error),
    /// The caller's process cannot learn how the daemon ended.
    #[error("cannot wait for the process in the background")]
    Wait(#[source] Errno),
    /// The standard streams or the session cannot be left.
    #[error("cannot leave the terminal")]
    Leave(#[source] io::Error),
    /// The caller's process cannot take signals in turn.
    #[error("cannot wait for signals")]
    Signals(#[source] OsError),
    /// The caller was killed while it waited: nobody wants this tunnel any more.
    #[error("the process that asked for the tunnel is gone")]
    CallerGone(#[source] io::Error),
}

impl Failure for DaemonizeError {
    fn class(&self) -> FailureClass {
        FailureClass::General
    }
}

/// Which of the two processes goes on, and what it has to do.
#[derive(Debug)]
pub enum Side {
    /// The one the user started: exit with this code.
    Caller(u8),
    /// The one that becomes the tunnel.
    Daemon(Caller),
}

/// The daemon's end: the caller waits until it is released or dropped.
#[derive(Debug)]
pub struct Caller {
    pipe: PipeWriter,
    /// Opened early: behind the sandbox nothing can be opened.
    null: File,
    /// Of the caller's, without a name in our arguments. Our helpers do not get them; until ready they are kept, for the
    /// configuration may be one (`--config /dev/fd/63`).
    unnamed: Vec<OwnedFd>,
}

/// Forks; returns in the caller's process only when the daemon is ready or gone.
///
/// # Errors
/// There is more than one thread, or the system refuses a process or a pipe.
pub fn into_background() -> Result<Side, DaemonizeError> {
    let (reader, writer) = io::pipe().map_err(DaemonizeError::Pipe)?;
    match fork().map_err(DaemonizeError::Fork)? {
        Fork::Child => {
            drop(reader);
            let unnamed = take_unnamed().map_err(|error| DaemonizeError::Leave(error.into()))?;
            // A session of our own at once: the sandbox lets nobody make one later. EPERM: we lead a group already.
            setsid()
                .or_else(|errno| if errno == Errno::EPERM { Ok(Pid::this()) } else { Err(errno) })
                .map_err(leave)?;
            let null = null_device::open().map_err(DaemonizeError::Leave)?;
            Ok(Side::Daemon(Caller { pipe: writer, null, unnamed }))
        }
        Fork::Parent(daemon) => {
            drop(writer);
            wait_until_ready(reader, daemon).map(Side::Caller)
        }
    }
}

fn wait_until_ready(mut reader: PipeReader, daemon: Pid) -> Result<u8, DaemonizeError> {
    let stopped_by = pass_on_signals(&reader, daemon).map_err(DaemonizeError::Signals)?;
    let mut byte = [0];
    if let Ok(1) = reader.read(&mut byte) {
        return Ok(0);
    }
    // End of file, or a pipe that broke: the daemon's own end tells why.
    loop {
        match waitpid(daemon, None) {
            // It was told to end, and did: but there is no tunnel, which is not success.
            Ok(WaitStatus::Exited(_, code)) => {
                let code = match stopped_by {
                    Some(signal) if code == 0 => 128 + signal as i32,
                    Some(_) | None => code & 0xff,
                };
                return Ok(u8::try_from(code).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(u8::try_from(128 + signal as i32).unwrap_or(1));
            }
            // Not asked for: without flags only an end is reported.
            Ok(
                WaitStatus::Stopped(..)
                | WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_)
                | WaitStatus::Continued(_)
                | WaitStatus::StillAlive,
            )
            | Err(Errno::EINTR) => {}
            Err(errno) => return Err(DaemonizeError::Wait(errno)),
        }
    }
}

/// Waits until there is something in the pipe, or its end; a signal that means "stop" ends the daemon, and is told.
fn pass_on_signals(reader: &PipeReader, daemon: Pid) -> Result<Option<Signal>, OsError> {
    let mut signals = SignalQueue::take(&[Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP])?;
    let mut stopped_by = None;
    loop {
        let ready = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut both = [ready(reader.as_fd()), ready(signals.as_fd())];
        wait::poll(&mut both, None)?;
        if both[0].any().unwrap_or(true) {
            return Ok(stopped_by);
        }
        while let Some(taken) = signals.take_next()? {
            stopped_by = Some(taken.signal);
            // It has ended already, or it is about to become ready: either way the pipe tells.
            let _ended_meanwhile = kill(daemon, Signal::SIGTERM);
        }
    }
}

impl Caller {
    /// Lets the caller go: standard streams to `/dev/null`, its descriptors closed, then the byte.
    ///
    /// # Errors
    /// The streams cannot be replaced, or the caller is gone already.
    pub fn release(mut self) -> Result<(), DaemonizeError> {
        nix::unistd::dup2_stdin(&self.null).map_err(leave)?;
        nix::unistd::dup2_stdout(&self.null).map_err(leave)?;
        nix::unistd::dup2_stderr(&self.null).map_err(leave)?;
        self.unnamed.clear();
        self.pipe.write_all(b"1").map_err(DaemonizeError::CallerGone)
    }
}

fn leave(errno: Errno) -> DaemonizeError {
    DaemonizeError::Leave(errno.into())
}
