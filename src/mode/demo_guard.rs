//! Sees to it that nothing of the demonstration outlives it, whatever ends it. (wiring)
//!
//! # Theory of operation
//! The show is a process of its own, and we are its parent, which does nothing but wait: for the show's end, or for a
//! signal that means "stop". The show is killed then, wherever it is, and what it had started goes by itself: each part
//! gets a signal at its parent's end, and a program inside sees the end of its standard input, also one that has lost
//! the process that held its tunnel. Orphans become our children, so we know when the last of them is gone.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use crate::sys::clock::boot_nanos;
use crate::sys::fork::{Fork, fork};
use crate::sys::os_error::OsError;
use crate::sys::sandbox::die_with_parent;
use crate::sys::signals::{self, SignalQueue};
use crate::sys::wait;

/// How long what the show had started may take to end.
const LONGEST_END: Duration = Duration::from_millis(400);

/// Runs the show, and returns after everything that it started has ended: its exit code, or 128 and the signal.
///
/// Returns in both processes. The caller must have one thread.
///
/// # Errors
/// What the system says. In the show's own process, within, what the show says.
pub(super) fn guard<E>(show: impl FnOnce() -> Result<u8, E>) -> io::Result<Result<u8, E>> {
    // If the caller ignores this one, the show's end would be kept from us.
    signals::restore_default(Signal::SIGCHLD)?;
    prctl::set_child_subreaper(true)?;
    let mask = SigSet::thread_get_mask()?;
    let mut signals = SignalQueue::take(&SIGNALS)?;
    let guard = getpid();
    match fork().map_err(io::Error::other)? {
        Fork::Parent(pid) => Ok(Ok(stand_by(pid, &mut signals)?)),
        Fork::Child => {
            drop(signals);
            mask.thread_set_mask()?;
            die_with_parent(Some(Signal::SIGKILL))?;
            // It may have ended before we asked for that.
            if getppid() == guard { Ok(show()) } else { Err(Errno::ESRCH.into()) }
        }
    }
}

fn stand_by(show: Pid, signals: &mut SignalQueue) -> Result<u8, OsError> {
    let mut stopped = None;
    let code = loop {
        while let Some(taken) = signals.take_next()? {
            if taken.signal != Signal::SIGCHLD {
                stopped = Some(taken.signal);
                kill(show, Signal::SIGKILL)?;
            }
        }
        match waitpid(show, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => break u8::try_from(code).unwrap_or(u8::MAX),
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 | stopped.unwrap_or(signal) as u8,
            Ok(_) => drop(wait::readable(signals.as_fd(), None)?),
            Err(errno) => return Err(errno.into()),
        }
    };
    let end = boot_nanos() + u64::try_from(LONGEST_END.as_nanos()).unwrap_or(u64::MAX);
    loop {
        while signals.take_next()?.is_some() {}
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(code),
            Ok(WaitStatus::StillAlive) => {
                let left = Duration::from_nanos(end.saturating_sub(boot_nanos()));
                if !wait::readable(signals.as_fd(), Some(left))? {
                    return Ok(code);
                }
            }
            ended => drop(ended?),
        }
    }
}

/// What ends the show, and what tells that something has ended.
const SIGNALS: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD];
