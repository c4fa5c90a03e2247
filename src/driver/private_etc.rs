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
//! everything else that is in `/etc` is mounted beside the two, piece by piece, with a warning: it stays as it was then.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
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
    #[error("what the host changes in `/etc` from now on may not be seen: {0}: {source}", source = .0.source)]
    Pieces(MountError),
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
    let names = files.each_ref().map(|(name, _)| *name);
    let etc = Path::new("/etc");
    // What the path means now, by a name that goes on meaning it when something is mounted over the path.
    let host = fs::File::open(etc).map_err(write(etc))?;
    let lower = PathBuf::from(format!("/proc/self/fd/{}", host.as_raw_fd()));
    mount::tmpfs(etc, "mode=0755,size=1m", false).map_err(PrivateEtcError::Mount)?;
    let (upper, work) = (etc.join("upper"), etc.join("work"));
    for directory in [&upper, &work] {
        fs::create_dir(directory).map_err(write(directory))?;
    }
    for (name, text) in &files {
        let path = upper.join(name);
        fs::write(&path, text).map_err(write(&path))?;
        readable_by_all(&path, 0o644).map_err(write(&path))?;
    }
    readable_by_all(&upper, 0o755).map_err(write(&upper))?;
    match mount::overlay(&lower, &upper, &work, etc) {
        Ok(()) => Ok(Vec::new()),
        Err(refused) => {
            for name in names {
                fs::rename(upper.join(name), etc.join(name)).map_err(write(&etc.join(name)))?;
            }
            for directory in [&upper, &work] {
                fs::remove_dir_all(directory).map_err(write(directory))?;
            }
            mount_pieces(&lower, etc, &names)?;
            Ok(vec![PrivateEtcWarning::Pieces(refused)])
        }
    }
}

/// Everything of a directory at the same place in another, but for what has one of these names.
fn mount_pieces(host: &Path, at: &Path, but: &[&str]) -> Result<(), PrivateEtcError> {
    for entry in fs::read_dir(host).map_err(write(at))? {
        let entry = entry.map_err(write(at))?;
        if but.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match mount_piece(&entry, &at.join(entry.file_name())) {
            // Taken away meanwhile.
            Err(_) if entry.path().symlink_metadata().is_err() => {}
            mounted => mounted?,
        }
    }
    Ok(())
}

fn mount_piece(entry: &fs::DirEntry, at: &Path) -> Result<(), PrivateEtcError> {
    let kind = entry.file_type().map_err(write(at))?;
    if kind.is_symlink() {
        // Where it leads may depend on where it lies.
        return fs::read_link(entry.path()).and_then(|target| symlink(target, at)).map_err(write(at));
    }
    let made = if kind.is_dir() { fs::create_dir(at) } else { fs::File::create(at).map(drop) };
    made.map_err(write(at))?;
    mount::bind(&entry.path(), at).map_err(PrivateEtcError::Mount)
}

fn write(path: &Path) -> impl Fn(io::Error) -> PrivateEtcError + use<> {
    let path = path.to_owned();
    move |error| PrivateEtcError::Write { path: path.clone(), source: error.into() }
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
