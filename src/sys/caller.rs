//! What whoever started us would have passed on to a program, had it started that itself. (operating system)
//!
//! # Theory of operation
//! Most of it survives by not being touched: directory, limits, terminal, groups, environment. The rest is noted here
//! and put back right before the exec. Two things are gone before `main`: Rust's runtime ignores SIGPIPE and opens
//! `/dev/null` in place of a closed standard stream. They are noted by a constructor, which runs before that.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getpid, getppid};
use serde::{Deserialize, Serialize};

use super::os_error::OsError;
use super::signals::{SignalState, is_ignored};

/// What a program inherits and we might have changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerState {
    umask: u32,
    signals: SignalState,
    /// Bit n: standard stream n was closed.
    closed: u8,
    directory: Option<PathBuf>,
}

impl CallerState {
    /// As it is now: to be called before the first of these is changed.
    #[must_use]
    pub fn capture() -> Self {
        // There is no other way to ask for it; whatever is created in between has no permissions for others.
        let mask = umask(Mode::from_bits_truncate(0o077));
        umask(mask);
        Self {
            umask: mask.bits(),
            signals: SignalState::current(SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed)),
            closed: CLOSED_STREAMS.load(Ordering::Relaxed),
            directory: std::env::current_dir().ok(),
        }
    }

    /// Puts everything back, so that what is executed next notices nothing.
    ///
    /// # Errors
    /// What the system says; a directory that is not there (any more) is none.
    pub fn restore(&self) -> Result<(), OsError> {
        umask(Mode::from_bits_truncate(self.umask));
        if let Some(directory) = &self.directory {
            // A mount made meanwhile may lie over the directory; the path means the new one.
            let _not_there = std::env::set_current_dir(directory);
        }
        for stream in 0..3 {
            if self.closed & (1 << stream) != 0 {
                // SAFETY: close takes an integer; the descriptor is the /dev/null that Rust's runtime put there,
                // which no object owns.
                unsafe { libc::close(stream) };
            }
        }
        self.signals.restore()
    }
}

/// Replaces this program by another, found as a shell finds it; returns only if that failed.
#[must_use]
pub fn execute(program: &OsStr, arguments: &[OsString]) -> OsError {
    let c_string = |text: &OsStr| CString::new(text.as_bytes());
    let (Ok(name), Ok(rest)) =
        (c_string(program), arguments.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>())
    else {
        return Errno::EINVAL.into();
    };
    let all: Vec<CString> = std::iter::once(name.clone()).chain(rest).collect();
    match nix::unistd::execvp(&name, &all) {
        Ok(never) => match never {},
        // A directory of PATH that we may not look into says nothing about the program.
        Err(Errno::EACCES) if !is_anywhere(program) => Errno::ENOENT.into(),
        Err(errno) => errno.into(),
    }
}

/// Whether there is a file of this name where programs are sought.
fn is_anywhere(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return true;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Has a command inherit a descriptor that is otherwise close-on-exec, under the same number.
pub fn inherit(command: &mut Command, fd: std::os::fd::OwnedFd) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let clear = move || {
        // SAFETY: fcntl(F_SETFD) takes integers; `fd` is owned by this closure and so open.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes one system call; it neither allocates nor locks.
    unsafe { command.pre_exec(clear) };
}

/// Has a command get a signal when the thread that starts it ends; until it joins or makes a user namespace.
pub fn end_with_us(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;
    let us = getpid();
    let bind = move || {
        prctl::set_pdeathsig(signal)?;
        // We may have ended before that.
        if getppid() == us { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure runs between fork and exec and makes two system calls; it neither allocates nor locks.
    unsafe { command.pre_exec(bind) };
}

static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED_STREAMS: AtomicU8 = AtomicU8::new(0);

/// Called by the C library before `main`, because its address is in this section.
// SAFETY: `.init_array` holds addresses of functions with the C calling convention that need no argument.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Asks the kernel and notes the answers: nothing of Rust's runtime is needed, which is not set up yet.
extern "C" fn before_main() {
    SIGPIPE_WAS_IGNORED.store(is_ignored(Signal::SIGPIPE), Ordering::Relaxed);
    for stream in 0..3 {
        // SAFETY: fcntl(F_GETFD) takes integers; a closed number gives EBADF.
        if unsafe { libc::fcntl(stream, libc::F_GETFD) } < 0 {
            CLOSED_STREAMS.fetch_or(1 << stream, Ordering::Relaxed);
        }
    }
}
