//! Somewhere for standard streams to point at that keeps nothing.

use std::fs::File;
use std::io;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// `/dev/null`, or where a root has no such file an empty file in memory: it, too, reads as ended and takes what is
/// written.
///
/// # Errors
/// What the kernel says if there is neither.
pub fn open() -> io::Result<File> {
    open_or_memory("/dev/null")
}

fn open_or_memory(path: &str) -> io::Result<File> {
    match File::options().read(true).write(true).open(path) {
        Ok(null) => Ok(null),
        Err(_) => Ok(File::from(memfd_create("null", MFdFlags::MFD_CLOEXEC)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A root file system with nothing but the binary has no `/dev/null`, and helpers could not be started in it.
    #[test]
    fn without_dev_null_streams_still_point_somewhere() {
        for path in ["/dev/null", "/proc/nonexistent/null"] {
            let mut null = open_or_memory(path).unwrap();
            let mut text = String::new();
            assert_eq!(null.read_to_string(&mut text).unwrap(), 0, "{path}");
            null.write_all(b"lost").unwrap();
        }
    }
}
