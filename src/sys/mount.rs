//! Mounts inside a mount namespace of our own. (operating system)

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use super::os_error::OsError;

/// What is put where, in words that follow "cannot".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// Changes made here stay here.
    Slave,
    /// An empty file system in memory.
    Tmpfs,
    /// Some files laid over those that are there.
    Overlay,
    /// A file or a directory at a second place.
    Bind,
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slave => "detach the mounts from the host's, at",
            Self::Tmpfs => "mount a tmpfs at",
            Self::Overlay => "mount an overlay at",
            Self::Bind => "mount the host's own at",
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

/// A file, or a directory with all that is mounted in it, at a second place as well, where something of its kind must be.
///
/// # Errors
/// What `mount(2)` says.
pub fn bind(from: &Path, at: &Path) -> Result<(), MountError> {
    wrap(MountKind::Bind, at, mount(Some(from), at, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING))
}

fn wrap(kind: MountKind, path: &Path, result: nix::Result<()>) -> Result<(), MountError> {
    result.map_err(|errno| MountError { kind, path: path.to_owned(), source: errno.into() })
}

const NOTHING: Option<&str> = None;
