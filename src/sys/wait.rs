//! Waiting for descriptors with a deadline; interruptions by signals never shorten or end a wait. (operating system)

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::clock::boot_nanos;
use super::os_error::OsError;

/// Waits until one of `fds` is ready for its flags (or is in error); whether any was before `timeout` passed.
///
/// # Errors
/// What `poll(2)` says, except EINTR.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<bool, OsError> {
    let deadline = timeout
        .map(|timeout| boot_nanos().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
    loop {
        let left = match deadline {
            None => PollTimeout::NONE,
            // Rounded up: a wait of less than a millisecond must not become a busy loop.
            Some(deadline) => PollTimeout::try_from(
                Duration::from_nanos(deadline.saturating_sub(boot_nanos())).as_micros().div_ceil(1000),
            )
            .unwrap_or(PollTimeout::MAX),
        };
        match nix::poll::poll(fds, left) {
            Ok(0) if deadline.is_none_or(|deadline| boot_nanos() < deadline) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until `fd` can be read, has hung up, or is in error; whether it was before `timeout` passed.
///
/// # Errors
/// What `poll(2)` says, except EINTR.
pub fn readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, OsError> {
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout)
}
