//! How the configuration socket of a tunnel comes and goes. (tasks)
//!
//! # Theory of operation
//! The protocol hands out private keys, so nobody may connect before the socket is restricted, or to a socket that
//! someone else put in its place. It is bound under a temporary name, restricted before it listens, and linked into
//! place: nobody can meet it half made. That the directory is ours alone, that the name is ours and that no leftover
//! is in the way is what the [`InstanceGuard`] stands for; a socket that appears there all the same is not replaced.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, getpid, linkat, unlinkat};

use super::instance::InstanceGuard;
use crate::sys::inode::Inode;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} `{}`", path.display())]
pub struct UapiSocketError {
    /// `bind`, `listen on`, …
    pub step: &'static str,
    /// The socket.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: Errno,
}

/// Makes the socket of a name that was claimed; it does not block.
///
/// # Errors
/// The kernel refused a step, or another program took the place meanwhile.
pub fn bind_socket(instance: &InstanceGuard) -> Result<(UnixListener, SocketGuard), UapiSocketError> {
    let path = instance.socket();
    let failed = |step| {
        let path = path.clone();
        move |source| UapiSocketError { step, path, source }
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory =
        open(instance.directory().path(), flags, Mode::empty()).map_err(failed("open the directory of"))?;
    let file = OsString::from(format!("{}.sock", instance.name()));
    let temporary = OsString::from(format!(".{}.{}", instance.name(), getpid()));

    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener =
        socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed("make a socket for"))?;
    // Of an earlier process with our pid that was killed right here.
    match unlinkat(&directory, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed("clear the way for")(errno)),
    }
    // By way of /proc the path is short, and means the directory that was opened.
    let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(&temporary);
    let address = UnixAddr::new(&through).map_err(failed("bind"))?;
    bind(listener.as_raw_fd(), &address).map_err(failed("bind"))?;
    let mut guard = SocketGuard { directory, file: temporary.clone(), path: path.clone(), inode: None };
    let owner_only = Mode::S_IRUSR | Mode::S_IWUSR;
    fchmodat(&guard.directory, temporary.as_os_str(), owner_only, FchmodatFlags::FollowSymlink)
        .map_err(failed("restrict"))?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let inode =
        openat(&guard.directory, temporary.as_os_str(), flags, Mode::empty()).map_err(failed("look at"))?;
    let backlog = Backlog::new(BACKLOG).map_err(failed("listen on"))?;
    listen(&listener, backlog).map_err(failed("listen on"))?;
    // Not a rename, which would replace what is there.
    linkat(&guard.directory, temporary.as_os_str(), &guard.directory, file.as_os_str(), LinkatFlags::empty())
        .map_err(failed("put in place"))?;
    unlinkat(&guard.directory, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir)
        .map_err(failed("put in place"))?;
    guard.file = file;
    guard.inode = Some(inode);
    Ok((UnixListener::from(listener), guard))
}

/// Removes the socket when dropped, if it is still the one that was made.
#[derive(Debug)]
pub struct SocketGuard {
    directory: OwnedFd,
    file: OsString,
    path: PathBuf,
    /// What was made: another one's socket of the same name is left alone. Held open, so that its number is not given
    /// to another file. Absent while it has its temporary name, which is nobody else's.
    inode: Option<OwnedFd>,
}

impl SocketGuard {
    /// Answers for a socket that somebody else made under the instance's name and handed to us listening.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn adopt(instance: &InstanceGuard) -> Result<Self, UapiSocketError> {
        let path = instance.socket();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = open(instance.directory().path(), flags, Mode::empty()).map_err(|source| {
            UapiSocketError { step: "open the directory of", path: path.clone(), source }
        })?;
        let file = OsString::from(format!("{}.sock", instance.name()));
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inode = openat(&directory, file.as_os_str(), flags, Mode::empty());
        let inode =
            inode.map_err(|source| UapiSocketError { step: "look at", path: path.clone(), source })?;
        Ok(Self { directory, file, path, inode: Some(inode) })
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the socket is still there: its deletion ends a tunnel that nothing else ends.
    #[must_use]
    pub fn is_present(&self) -> bool {
        let Some(ours) = &self.inode else { return false };
        match (Inode::of_entry(&self.directory, Path::new(&self.file)), Inode::of_file(ours)) {
            (Ok(there), Ok(ours)) => there == ours,
            (_, _) => false,
        }
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        let ours = self.inode.is_none() || self.is_present();
        if ours
            && let Err(errno) = unlinkat(&self.directory, self.file.as_os_str(), UnlinkatFlags::NoRemoveDir)
        {
            // The next start replaces a stale socket.
            tracing::debug!(%errno, "cannot remove the configuration socket");
        }
    }
}

/// Whether this process is in the user namespace the system booted with: elsewhere uid 0 is not the system's root,
/// and strangers all look like the overflow uid.
#[must_use]
pub fn is_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::driver::instance::{NameChoice, claim, runtime_dir};

    fn scratch() -> (tempfile::TempDir, InstanceGuard) {
        let scratch = tempfile::tempdir().unwrap();
        let instance = claim_in(scratch.path());
        (scratch, instance)
    }

    fn claim_in(directory: &Path) -> InstanceGuard {
        let directory = runtime_dir(Some(&directory.join("wireguard"))).unwrap();
        claim(&directory, &NameChoice::Exactly("wg0".parse().unwrap())).unwrap()
    }

    fn sockets(instance: &InstanceGuard) -> Vec<PathBuf> {
        let entries = fs::read_dir(instance.directory().path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| *path != instance.directory().lock(instance.name())).collect()
    }

    #[test]
    fn the_socket_is_ours_alone_and_goes_with_its_guard() {
        let (_scratch, instance) = scratch();
        let (_listener, guard) = bind_socket(&instance).unwrap();
        assert_eq!(sockets(&instance), [instance.socket()]);
        assert_eq!(fs::metadata(guard.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        UnixStream::connect(guard.path()).unwrap();
        assert!(guard.is_present());
        drop(guard);
        assert_eq!(sockets(&instance), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_took_the_place_meanwhile_is_left_alone() {
        let (_scratch, instance) = scratch();
        fs::write(instance.socket(), "precious").unwrap();
        let error = bind_socket(&instance).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot put in place `{}`", instance.socket().display()));
        assert_eq!(error.source, Errno::EEXIST);
        assert_eq!(sockets(&instance), [instance.socket()]);
    }

    #[test]
    fn a_guard_does_not_remove_the_socket_of_a_successor() {
        let (scratch, instance) = scratch();
        let (listener, guard) = bind_socket(&instance).unwrap();
        drop((listener, instance));
        let instance = claim_in(scratch.path());
        let (_listener, second) = bind_socket(&instance).unwrap();
        assert!(!guard.is_present());
        drop(guard);
        UnixStream::connect(second.path()).unwrap();
    }
}
