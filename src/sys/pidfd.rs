//! A process by descriptor: it cannot be confused with a later process of the same number. (operating system)

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::os_error::OsError;
use super::wait::readable;

/// One process. The descriptor becomes readable when the process has ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Refers to the process that has this number now.
    ///
    /// # Errors
    /// ESRCH if there is none; EINVAL or ENOENT if it is the number of a thread.
    pub fn open(pid: u32) -> Result<Self, OsError> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(result).map_err(|_out_of_range| OsError::from_raw(libc::EBADF))?;
        if fd < 0 {
            return Err(OsError::last());
        }
        // SAFETY: the kernel just made this descriptor for us (close-on-exec) and nobody else knows its number.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Whether the process has ended (it may not be reaped yet).
    ///
    /// # Errors
    /// What `poll(2)` says.
    pub fn has_ended(&self) -> Result<bool, OsError> {
        self.wait_for_end(Some(Duration::ZERO))
    }

    /// Waits for the end; whether it came before `timeout` passed.
    ///
    /// # Errors
    /// What `poll(2)` says.
    pub fn wait_for_end(&self, timeout: Option<Duration>) -> Result<bool, OsError> {
        readable(self.fd.as_fd(), timeout)
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// ESRCH if it has ended, EPERM if we may not.
    pub fn send_signal(&self, signal: Signal) -> Result<(), OsError> {
        let info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a null siginfo is documented to mean what kill(2) sends; the other arguments are integers.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal as libc::c_int, info, 0)
        };
        if result < 0 { Err(OsError::last()) } else { Ok(()) }
    }
}

impl From<OwnedFd> for PidFd {
    /// Of a descriptor that is a pidfd already.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.fd
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pidfd_sees_the_end_of_its_process_and_no_signal_reaches_it_then() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        assert!(!pidfd.has_ended().unwrap());
        pidfd.send_signal(Signal::SIGKILL).unwrap();
        assert!(pidfd.wait_for_end(Some(Duration::from_secs(5))).unwrap());
        child.wait().unwrap();
        assert!(pidfd.send_signal(Signal::SIGKILL).unwrap_err().is(nix::errno::Errno::ESRCH));
    }
}
