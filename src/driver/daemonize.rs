//! Going to the background without the caller noticing a failure late. (tasks)
//!
//! # Theory of operation
//! [`into_background`] forks once, before any thread and before anything is opened. The caller's process stays and
//! waits on a pipe: one byte means ready, and it exits 0; end of file means that the daemon is gone, and it exits as
//! the daemon did. Until ready the daemon keeps the caller's standard error, process group and terminal, so its one
//! error line appears where the user looks, and ^C ends both. Being ready is [`Caller::release`]: it leaves the
//! session, points the standard streams at `/dev/null`, and only then writes the byte.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use crate::driver::failure::{Failure, FailureClass};
use crate::sys::fork::{Fork, ForkError, fork};
use crate::sys::null_device;

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
            // A session of our own at once: the sandbox lets nobody make one later. EPERM: we lead a group already.
            setsid()
                .or_else(|errno| if errno == Errno::EPERM { Ok(Pid::this()) } else { Err(errno) })
                .map_err(leave)?;
            let null = null_device::open().map_err(DaemonizeError::Leave)?;
            Ok(Side::Daemon(Caller { pipe: writer, null }))
        }
        Fork::Parent(daemon) => {
            drop(writer);
            wait_until_ready(reader, daemon).map(Side::Caller)
        }
    }
}

fn wait_until_ready(mut reader: PipeReader, daemon: Pid) -> Result<u8, DaemonizeError> {
    let mut byte = [0];
    if let Ok(1) = reader.read(&mut byte) {
        return Ok(0);
    }
    // End of file, or a pipe that broke: the daemon's own end tells why.
    loop {
        match waitpid(daemon, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code & 0xff).unwrap_or(1)),
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

impl Caller {
    /// Lets the caller go: standard streams to `/dev/null`, then the byte.
    ///
    /// # Errors
    /// The streams cannot be replaced, or the caller is gone already.
    pub fn release(mut self) -> Result<(), DaemonizeError> {
        nix::unistd::dup2_stdin(&self.null).map_err(leave)?;
        nix::unistd::dup2_stdout(&self.null).map_err(leave)?;
        nix::unistd::dup2_stderr(&self.null).map_err(leave)?;
        self.pipe.write_all(b"1").map_err(DaemonizeError::CallerGone)
    }
}

fn leave(errno: Errno) -> DaemonizeError {
    DaemonizeError::Leave(errno.into())
}
