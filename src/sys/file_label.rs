//! The SELinux label of a file. (operating system)

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::os_error::{OsError, check};

/// Labels a file, as `chcon(1)` does.
///
/// # Errors
/// What `setxattr(2)` says: there is no SELinux, it does not know the label, or the label is not ours to give.
pub fn set(path: &Path, label: &str) -> Result<(), OsError> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_nul| OsError::from(Errno::EINVAL))?;
    // SAFETY: setxattr reads two NUL-terminated strings and `label.len()` bytes, all of which outlive the call.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), c"security.selinux".as_ptr(), label.as_ptr().cast(), label.len(), 0)
    };
    check(result).map(|_zero| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_cannot_be_labelled() {
        let error = set(Path::new("/proc/nonexistent"), "system_u:object_r:container_file_t:s0").unwrap_err();
        assert!(error.is(Errno::ENOENT), "{error}");
    }
}
