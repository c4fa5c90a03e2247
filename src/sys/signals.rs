//! Signal dispositions and masks, as far as a program that executes another must know them. (operating system)

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::{Deserialize, Serialize};

use super::os_error::{OsError, check};

/// Whether whoever started us wants a signal ignored (`nohup`, a shell's background job).
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: sigaction is a C structure of integers and pointers, for which all zeros is a valid value.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    let new: *const libc::sigaction = std::ptr::null();
    // SAFETY: a null new action only asks; the answer is written to our local variable.
    let asked = check(unsafe { libc::sigaction(signal as libc::c_int, new, &raw mut old) });
    asked.is_ok() && old.sa_sigaction == libc::SIG_IGN
}

/// Ignores a signal from now on.
///
/// # Errors
/// What `sigaction(2)` says.
pub fn ignore(signal: Signal) -> Result<(), OsError> {
    // SAFETY: SIG_IGN installs no function of ours, so nothing can run in a signal handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    Ok(())
}

/// Gives a signal its default action.
///
/// # Errors
/// What `sigaction(2)` says.
pub fn restore_default(signal: Signal) -> Result<(), OsError> {
    // SAFETY: SIG_DFL installs no function of ours, so nothing can run in a signal handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    Ok(())
}

/// What an executed program inherits of signals: which are ignored and which are blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalState {
    ignored: Vec<i32>,
    blocked: Vec<i32>,
}

impl SignalState {
    /// As it is now; but SIGPIPE, which Rust's runtime ignores before `main`, as it was before that.
    #[must_use]
    pub fn current(sigpipe_was_ignored: bool) -> Self {
        let mask = SigSet::thread_get_mask().unwrap_or_else(|_never| SigSet::empty());
        let ignored = |signal: &Signal| {
            if *signal == Signal::SIGPIPE { sigpipe_was_ignored } else { is_ignored(*signal) }
        };
        Self {
            ignored: Signal::iterator().filter(ignored).map(|signal| signal as i32).collect(),
            blocked: mask.iter().map(|signal| signal as i32).collect(),
        }
    }

    /// Makes it so again, right before an exec.
    ///
    /// # Errors
    /// What `sigaction(2)` or `sigprocmask(2)` say.
    pub fn restore(&self) -> Result<(), OsError> {
        for signal in Signal::iterator() {
            if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
                continue;
            }
            if self.ignored.contains(&(signal as i32)) {
                ignore(signal)?;
                continue;
            }
            if signal == Signal::SIGTSTP {
                // One that came while it was blocked was not meant for what is executed now: this forgets it.
                ignore(signal)?;
            }
            restore_default(signal)?;
        }
        let mask: SigSet = self.blocked.iter().filter_map(|number| Signal::try_from(*number).ok()).collect();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        Ok(())
    }
}

/// Signals that are taken in turn instead of interrupting anything.
///
/// They are blocked in the thread that makes this and in every thread that it starts later.
#[derive(Debug)]
pub struct SignalQueue {
    fd: SignalFd,
}

/// A signal and whether somebody sent it; the others come from the kernel, as those of a terminal do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which.
    pub signal: Signal,
    /// By `kill(2)` and its like. A terminal's signals go to its whole foreground group.
    pub was_sent: bool,
}

impl SignalQueue {
    /// Takes these signals from now on, except those that are ignored.
    ///
    /// # Errors
    /// What `signalfd(2)` says.
    pub fn take(signals: &[Signal]) -> Result<Self, OsError> {
        let mask: SigSet = signals.iter().copied().filter(|signal| !is_ignored(*signal)).collect();
        mask.thread_block()?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd })
    }

    /// The next one that has come, without waiting.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn take_next(&mut self) -> Result<Option<Taken>, OsError> {
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let number = i32::try_from(info.ssi_signo).map_err(|_range| OsError::from_raw(libc::EINVAL))?;
        let signal = Signal::try_from(number)?;
        // SI_USER is 0, SI_QUEUE and the like are negative, SI_KERNEL is positive.
        Ok(Some(Taken { signal, was_sent: info.ssi_code <= 0 }))
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SignalQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_seen_and_given_back() {
        // SIGTTOU, because nobody else in this process cares for it.
        assert!(!is_ignored(Signal::SIGTTOU));
        ignore(Signal::SIGTTOU).unwrap();
        assert!(is_ignored(Signal::SIGTTOU));
        assert!(SignalState::current(false).ignored.contains(&libc::SIGTTOU));
        restore_default(Signal::SIGTTOU).unwrap();
        assert!(!is_ignored(Signal::SIGTTOU));
    }
}
