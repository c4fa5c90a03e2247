//! A namespace's own view of how names are resolved: files of `/etc`, and no way to the host's resolvers. (tasks)
//!
//! # Theory of operation
//! A network namespace alone does not keep names inside. The C library reads the host's `resolv.conf`, and asks the
//! host's caches and resolvers over Unix sockets, which no network namespace separates. So the directories of those
//! sockets are hidden under empty, read-only file systems, and `/etc` shows a `resolv.conf` and an `nsswitch.conf` of
//! our own.
//!
//! Those two lie in the upper layer of an overlay over `/etc`: a file that is merely mounted over another one is lost
//! as soon as the host renames a new file over it, which network managers do all day. The layer is written before the
//! overlay is mounted, because afterwards `/etc` belongs to somebody we may not write for. Where overlays are refused,
//! the files are mounted singly, with a warning.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::mount::{self, MountError};
use crate::sys::os_error::OsError;

/// Directories of sockets by which the C library asks somebody on the host for names.
const HOST_RESOLVERS: [&str; 5] =
    ["/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon", "/run/dbus"];

/// Why the namespace cannot have a view of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PrivateEtcError {
    /// A mount was refused.
    #[error(transparent)]
    Mount(MountError),
    /// A file for it could not be written.
    #[error("cannot write `{path}`")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: OsError,
    },
}

/// What is not as it should be, and yet works for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PrivateEtcWarning {
    /// No overlay.
    #[error("`/etc/resolv.conf` is mounted singly and is lost if the host replaces it: {0}: {source}", source = .0.source)]
    Single(MountError),
    /// A file of the host's that cannot be covered.
    #[error("the host's `{path}` remains: {error}")]
    Remains {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: OsError,
    },
}

/// Sets it up in the mount namespace of this process, which must be its own.
///
/// # Errors
/// See [`PrivateEtcError`]: without it names would be asked on the host.
pub fn install(resolv_conf: &str) -> Result<Vec<PrivateEtcWarning>, PrivateEtcError> {
    mount::detach_from_host().map_err(PrivateEtcError::Mount)?;
    for directory in HOST_RESOLVERS.map(Path::new) {
        if is_plain_directory(directory) {
            mount::tmpfs(directory, "mode=0755,size=0", true).map_err(PrivateEtcError::Mount)?;
        }
    }
    // Read while the host's is still what the path means.
    let nsswitch = nsswitch_conf(&fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default());
    let files = [("resolv.conf", resolv_conf.to_owned()), ("nsswitch.conf", nsswitch)];
    match overlay(&files)? {
        Ok(()) => Ok(Vec::new()),
        Err(refused) => mount_singly(&files, refused),
    }
}

/// Outer error: nothing works; inner error: overlays do not.
fn overlay(files: &[(&str, String)]) -> Result<Result<(), MountError>, PrivateEtcError> {
    let etc = Path::new("/etc");
    let write = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| PrivateEtcError::Write { path, source: error.into() }
    };
    // What the path means now, by a name that goes on meaning it when something is mounted over the path.
    let host = fs::File::open(etc).map_err(write(etc))?;
    let lower = PathBuf::from(format!("/proc/self/fd/{}", host.as_raw_fd()));
    mount::tmpfs(etc, "mode=0755,size=1m", false).map_err(PrivateEtcError::Mount)?;
    let (upper, work) = (etc.join("upper"), etc.join("work"));
    for directory in [&upper, &work] {
        fs::create_dir(directory).map_err(write(directory))?;
    }
    for (name, text) in files {
        let path = upper.join(name);
        fs::write(&path, text).map_err(write(&path))?;
        readable_by_all(&path, 0o644).map_err(write(&path))?;
    }
    readable_by_all(&upper, 0o755).map_err(write(&upper))?;
    let mounted = mount::overlay(&lower, &upper, &work, etc);
    if mounted.is_err() {
        mount::unmount(etc).map_err(|source| PrivateEtcError::Write { path: etc.to_owned(), source })?;
    }
    Ok(mounted)
}

fn mount_singly(
    files: &[(&str, String)],
    refused: MountError,
) -> Result<Vec<PrivateEtcWarning>, PrivateEtcError> {
    let etc = Path::new("/etc");
    let mut warnings = vec![PrivateEtcWarning::Single(refused)];
    // Written to a file system in memory that lies over /etc only until copies of the files are at hand.
    mount::tmpfs(etc, "mode=0755,size=1m", false).map_err(PrivateEtcError::Mount)?;
    let mut copies = Vec::new();
    for (name, text) in files {
        let path = etc.join(name);
        let written = fs::write(&path, text).and_then(|()| readable_by_all(&path, 0o644));
        written.map_err(|error| PrivateEtcError::Write { path: path.clone(), source: error.into() })?;
        copies.push((mount::clone_file(&path).map_err(PrivateEtcError::Mount)?, path));
    }
    mount::unmount(etc).map_err(|source| PrivateEtcError::Write { path: etc.to_owned(), source })?;
    for (copy, path) in copies {
        use std::os::fd::AsFd;
        match mount::attach(copy.as_fd(), &path) {
            Ok(()) => {}
            // Without an nsswitch.conf the C library asks files and DNS only.
            Err(_) if path.ends_with("nsswitch.conf") && !path.exists() => {}
            Err(error) if path.ends_with("nsswitch.conf") => {
                warnings.push(PrivateEtcWarning::Remains { path, error: error.source });
            }
            Err(error) => return Err(PrivateEtcError::Mount(error)),
        }
    }
    Ok(warnings)
}

/// The host's file, but that hosts are looked up in files and by DNS only.
fn nsswitch_conf(host: &str) -> String {
    let others = host.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
    let mut text: String = others.flat_map(|line| [line, "\n"]).collect();
    text.push_str("hosts: files dns\n");
    text
}

/// A directory itself, not a link to one that is in the list under its own name.
fn is_plain_directory(path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|real| real == path) && path.is_dir()
}

/// Whatever the caller's umask is.
fn readable_by_all(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_hosts_is_ours() {
        let host = "passwd: files systemd\nhosts: files mdns4_minimal [NOTFOUND=return] resolve dns\n";
        assert_eq!(nsswitch_conf(host), "passwd: files systemd\nhosts: files dns\n");
        assert_eq!(nsswitch_conf(""), "hosts: files dns\n");
    }
}
