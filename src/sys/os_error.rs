//! What the system said, as a value that can be compared, cloned and sent between processes. (operating system)

use std::{fmt, io};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// An `errno`: the innermost source of every error in this crate that a system call caused.
///
/// Unlike [`io::Error`] it can be sent from the namespace child to its parent and compared in tests; it prints the
/// same (`Operation not permitted (os error 1)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OsError(i32);

impl OsError {
    /// From the number.
    #[must_use]
    pub const fn from_raw(errno: i32) -> Self {
        Self(errno)
    }

    /// The number.
    #[must_use]
    pub const fn errno(self) -> i32 {
        self.0
    }

    /// Whether it is this errno.
    #[must_use]
    pub const fn is(self, errno: Errno) -> bool {
        self.0 == errno as i32
    }

    /// What the last system call of this thread said.
    #[must_use]
    pub fn last() -> Self {
        Self(Errno::last_raw())
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Errno::from_raw(self.0))
    }
}

impl std::error::Error for OsError {}

impl From<Errno> for OsError {
    fn from(errno: Errno) -> Self {
        Self(errno as i32)
    }
}

impl From<io::Error> for OsError {
    /// Errors that std made up itself (without an errno) become EIO.
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<OsError> for io::Error {
    fn from(error: OsError) -> Self {
        Self::from_raw_os_error(error.0)
    }
}

/// Turns the `-1` of a system call into the errno.
pub(in crate::sys) fn check(result: libc::c_int) -> Result<libc::c_int, OsError> {
    if result < 0 { Err(OsError::last()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_as_an_io_error_does() {
        let error = OsError::from(Errno::EPERM);
        assert_eq!(error.to_string(), "Operation not permitted (os error 1)");
        assert_eq!(error.to_string(), io::Error::from(error).to_string());
    }
}
