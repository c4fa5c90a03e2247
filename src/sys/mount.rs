//! Mounts inside a mount namespace of our own. (operating system)

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::os_error::{OsError, check};

/// What is put where, in words that follow "cannot".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// Changes made here stay here.
    Slave,
    /// An empty file system in memory.
    Tmpfs,
    /// Some files laid over those that are there.
    Overlay,
    /// One file in place of another.
    Bind,
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slave => "detach the mounts from the host's, at",
            Self::Tmpfs => "mount a tmpfs at",
            Self::Overlay => "mount an overlay at",
            Self::Bind => "mount a file at",
        })
    }
}

/// A mount that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("cannot {kind} `{path}`")]
pub struct MountError {
    /// What was to be mounted.
    pub kind: MountKind,
    /// Where.
    pub path: PathBuf,
    /// What the system said.
    pub source: OsError,
}

/// Mounts made from here on are not seen outside; those made outside still appear here.
///
/// # Errors
/// What `mount(2)` says.
pub fn detach_from_host() -> Result<(), MountError> {
    let root = Path::new("/");
    wrap(MountKind::Slave, root, mount(NOTHING, root, NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING))
}

/// An empty file system in memory.
///
/// # Errors
/// What `mount(2)` says.
pub fn tmpfs(at: &Path, options: &str, read_only: bool) -> Result<(), MountError> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, read_only);
    wrap(MountKind::Tmpfs, at, mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)))
}

/// The files of `upper` over those of `lower`; `work` is an empty directory beside `upper`.
///
/// # Errors
/// EINVAL where a path holds a colon or a comma, or the kernel has no unprivileged overlays (before 5.11).
pub fn overlay(lower: &Path, upper: &Path, work: &Path, at: &Path) -> Result<(), MountError> {
    let mut options = Vec::new();
    for (name, path) in [("lowerdir=", lower), ("upperdir=", upper), ("workdir=", work)] {
        options.extend_from_slice(name.as_bytes());
        options.extend_from_slice(path.as_os_str().as_bytes());
        options.push(b',');
    }
    options.extend_from_slice(b"userxattr");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let mounted = mount(Some("overlay"), at, Some("overlay"), flags, Some(options.as_slice()));
    wrap(MountKind::Overlay, at, mounted)
}

/// A copy of the mount that a file is on, with that file as its root, mounted nowhere yet.
///
/// # Errors
/// ENOSYS before Linux 5.2.
pub fn clone_file(path: &Path) -> Result<OwnedFd, MountError> {
    let cloned = |source| MountError { kind: MountKind::Bind, path: path.to_owned(), source };
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_nul| cloned(OsError::from_raw(libc::EINVAL)))?;
    // SAFETY: open_tree reads a path that ends in a zero byte; `name` outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
    };
    let fd = i32::try_from(result).map_err(|_range| cloned(OsError::from_raw(libc::EBADF)))?;
    let fd = check(fd).map_err(cloned)?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Mounts what [`clone_file`] gave over the file `at`, which must exist; symbolic links are followed.
///
/// # Errors
/// What `move_mount(2)` says.
pub fn attach(file: BorrowedFd<'_>, at: &Path) -> Result<(), MountError> {
    let attached = |source| MountError { kind: MountKind::Bind, path: at.to_owned(), source };
    let name = std::ffi::CString::new(at.as_os_str().as_bytes())
        .map_err(|_nul| attached(OsError::from_raw(libc::EINVAL)))?;
    // SAFETY: move_mount reads two paths that end in a zero byte (the first is empty, as the flag says); both
    // outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            name.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
        )
    };
    if result < 0 { Err(attached(OsError::last())) } else { Ok(()) }
}

/// Takes the topmost mount of a path away.
///
/// # Errors
/// What `umount2(2)` says.
pub fn unmount(at: &Path) -> Result<(), OsError> {
    Ok(umount2(at, MntFlags::MNT_DETACH)?)
}

fn wrap(kind: MountKind, path: &Path, result: nix::Result<()>) -> Result<(), MountError> {
    result.map_err(|errno| MountError { kind, path: path.to_owned(), source: errno.into() })
}

const NOTHING: Option<&str> = None;

// linux/mount.h
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC.cast_unsigned();
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_SYMLINKS: libc::c_uint = 0x10;
