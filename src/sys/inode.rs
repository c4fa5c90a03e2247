//! Which file a path or a descriptor leads to, and removing it, whatever C library is linked. (operating system)
//!
//! A tunnel asks this after it has locked itself down. The libraries make four different system calls of their `stat`
//! functions, by circumstance; with `AT_NO_AUTOMOUNT` it is always the one that the filter lets through.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::os_error::OsError;

/// A file's identity: its file system and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// The file system's.
    pub device: u64,
    /// The file's on it.
    pub number: u64,
}

impl Inode {
    /// Of what a path leads to.
    ///
    /// # Errors
    /// What `stat(2)` says.
    pub fn of_path(path: &Path) -> Result<Self, OsError> {
        Self::ask(AT_FDCWD, path, AtFlags::empty())
    }

    /// Of what is at a path below a directory, or at an absolute one; of a symbolic link, the link itself.
    ///
    /// # Errors
    /// What `stat(2)` says.
    pub fn of_entry(directory: impl AsFd, path: &Path) -> Result<Self, OsError> {
        Self::ask(directory, path, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Of an open file.
    ///
    /// # Errors
    /// What `stat(2)` says.
    pub fn of_file(file: impl AsFd) -> Result<Self, OsError> {
        Self::ask(file, Path::new(""), AtFlags::AT_EMPTY_PATH)
    }

    fn ask(directory: impl AsFd, path: &Path, flags: AtFlags) -> Result<Self, OsError> {
        let stat = fstatat(directory, path, flags | AtFlags::AT_NO_AUTOMOUNT)?;
        Ok(Self { device: stat.st_dev, number: stat.st_ino })
    }
}

/// Whether a path, not followed if it is a symbolic link, is this open file.
#[must_use]
pub fn is_at(path: &Path, file: impl AsFd) -> bool {
    matches!((Inode::of_entry(AT_FDCWD, path), Inode::of_file(file)), (Ok(there), Ok(ours)) if there == ours)
}

/// Removes a file.
///
/// # Errors
/// What `unlink(2)` says.
pub fn remove(path: &Path) -> Result<(), Errno> {
    remove_from(AT_FDCWD, path)
}

/// Removes a file by its path below a directory.
///
/// # Errors
/// What `unlink(2)` says.
pub fn remove_from(directory: impl AsFd, path: &Path) -> Result<(), Errno> {
    unlinkat(directory, path, UnlinkatFlags::NoRemoveDir)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_file_is_known_by_any_name_and_a_link_is_not_what_it_leads_to() {
        let scratch = tempfile::tempdir().unwrap();
        let [one, other, link] = ["one", "other", "link"].map(|name| scratch.path().join(name));
        let file = File::create(&one).unwrap();
        fs::hard_link(&one, &other).unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        assert!(is_at(&one, &file) && is_at(&other, &file) && !is_at(&link, &file));
        assert_eq!(Inode::of_path(&link).unwrap(), Inode::of_file(&file).unwrap());
        remove(&one).unwrap();
        assert!(!is_at(&one, &file) && is_at(&other, &file));
        assert_eq!(remove(&one), Err(Errno::ENOENT));
    }
}
