//! Namespaces: open them without races, learn whose they are, join and make them. (operating system)
//!
//! # Theory of operation
//! A pid is only a number. [`Process::open`] takes a pidfd first, then one directory descriptor of `/proc/PID` (checked
//! to be procfs, so that a hostile mount cannot answer), and opens the namespace links through it; the pidfd is asked
//! once more afterwards. If the process still lives then, the number has meant that one process all along.
//!
//! Which user namespace must be joined to join a network namespace is not a question about the process but about the
//! network namespace: its owner, which the kernel tells by `NS_GET_USERNS`. That gives the right answer for a
//! container whose user namespace is nested below the owner's, and for a bare path. If we are in the owner already,
//! there is nothing to join.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use super::os_error::{OsError, check};
use super::pidfd::PidFd;

/// The kinds of namespace this program has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Users and capabilities.
    User,
    /// Interfaces, addresses, routes.
    Network,
    /// Mounts.
    Mount,
}

impl NamespaceKind {
    /// The name of the link in `/proc/PID/ns`.
    #[must_use]
    pub const fn link(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Network => "net",
            Self::Mount => "mnt",
        }
    }

    const fn clone_flag(self) -> CloneFlags {
        match self {
            Self::User => CloneFlags::CLONE_NEWUSER,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Mount => CloneFlags::CLONE_NEWNS,
        }
    }
}

impl fmt::Display for NamespaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Network => "network",
            Self::Mount => "mount",
        })
    }
}

/// Why a namespace could not be found, opened or understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// The number belongs to nobody.
    #[error("no process with pid {pid}")]
    NoProcess {
        /// What was asked for.
        pid: u32,
    },
    /// The number is a thread's.
    #[error("{pid} is a thread, not a process")]
    Thread {
        /// What was asked for.
        pid: u32,
    },
    /// The process has ended and waits for its parent.
    #[error("process {pid} has ended (it is a zombie)")]
    Zombie {
        /// What was asked for.
        pid: u32,
    },
    /// The process is a part of the kernel.
    #[error("process {pid} is a kernel thread")]
    KernelThread {
        /// What was asked for.
        pid: u32,
    },
    /// It ended while we looked, and the number may mean another process by now.
    #[error("pid {pid} is no longer the process it was")]
    Gone {
        /// What was asked for.
        pid: u32,
    },
    /// Something is mounted over `/proc`.
    #[error("`{path}` is not on a proc file system")]
    NotProc {
        /// What was looked at.
        path: PathBuf,
    },
    /// The link or file is missing or may not be opened.
    #[error("cannot open `{path}`")]
    Open {
        /// What was opened.
        path: PathBuf,
        /// What the system said.
        source: OsError,
    },
    /// The file is something else.
    #[error("`{path}` is not a {kind} namespace")]
    NotANamespace {
        /// What was opened.
        path: PathBuf,
        /// What it should have been.
        kind: NamespaceKind,
    },
    /// A question about an open namespace was refused.
    #[error("cannot ask the kernel about the {kind} namespace of {target}")]
    Ask {
        /// Whose.
        target: String,
        /// Which.
        kind: NamespaceKind,
        /// What the system said.
        source: OsError,
    },
}

/// A process that lived during all that was opened from it.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: PidFd,
    directory: OwnedFd,
}

impl Process {
    /// Finds the process that has this number now.
    ///
    /// # Errors
    /// See [`NamespaceError`]: each way a number can be wrong has its own variant.
    pub fn open(pid: u32) -> Result<Self, NamespaceError> {
        let path = proc_path(pid, "");
        let pidfd = PidFd::open(pid).map_err(|source| {
            if source.is(Errno::ESRCH) {
                NamespaceError::NoProcess { pid }
            } else if path.exists() {
                // EINVAL; ENOENT since Linux 6.9.
                NamespaceError::Thread { pid }
            } else if source.is(Errno::EINVAL) {
                NamespaceError::NoProcess { pid }
            } else {
                NamespaceError::Open { path: path.clone(), source }
            }
        })?;
        let open = |source: Errno| {
            if source == Errno::ENOENT {
                NamespaceError::Gone { pid }
            } else {
                NamespaceError::Open { path: path.clone(), source: source.into() }
            }
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(&path, flags, Mode::empty()).map_err(open)?;
        if !is_proc(directory.as_fd()).map_err(open)? {
            return Err(NamespaceError::NotProc { path });
        }
        let process = Self { pid, pidfd, directory };
        process.refuse_what_has_no_namespaces()?;
        Ok(process)
    }

    /// The pidfd, to watch.
    #[must_use]
    pub const fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Gives the pidfd away.
    #[must_use]
    pub fn into_pidfd(self) -> PidFd {
        self.pidfd
    }

    /// Opens one of its namespaces; the process was alive after that.
    ///
    /// # Errors
    /// [`NamespaceError::Open`] (EACCES: another user's process), [`NamespaceError::Gone`].
    pub fn open_namespace(&self, kind: NamespaceKind) -> Result<OwnedFd, NamespaceError> {
        let link = Path::new("ns").join(kind.link());
        let opened = openat(&self.directory, &link, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        self.check_alive()?;
        opened.map_err(|errno| NamespaceError::Open {
            path: proc_path(self.pid, "ns").join(kind.link()),
            source: errno.into(),
        })
    }

    /// Whether the process still lives.
    ///
    /// # Errors
    /// [`NamespaceError::Gone`] if not.
    pub fn check_alive(&self) -> Result<(), NamespaceError> {
        match self.pidfd.has_ended() {
            Ok(false) => Ok(()),
            _ => Err(NamespaceError::Gone { pid: self.pid }),
        }
    }

    fn refuse_what_has_no_namespaces(&self) -> Result<(), NamespaceError> {
        let pid = self.pid;
        let mut text = String::new();
        let opened = openat(&self.directory, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let read = opened.map(File::from).map(|mut file| file.read_to_string(&mut text));
        if !matches!(read, Ok(Ok(_))) {
            return Err(NamespaceError::Gone { pid });
        }
        match parse_stat(&text) {
            Some(Stat { state: 'Z' | 'X', .. }) => Err(NamespaceError::Zombie { pid }),
            Some(Stat { flags, .. }) if flags & PF_KTHREAD != 0 => Err(NamespaceError::KernelThread { pid }),
            _ => Ok(()),
        }
    }
}

/// When a process began, in clock ticks since boot: with the pid it names a process for as long as the machine runs.
///
/// # Errors
/// [`NamespaceError::NoProcess`] if there is none.
pub fn start_time(pid: u32) -> Result<u64, NamespaceError> {
    std::fs::read_to_string(proc_path(pid, "stat"))
        .ok()
        .and_then(|text| parse_stat(&text))
        .map(|stat| stat.start_time)
        .ok_or(NamespaceError::NoProcess { pid })
}

/// Opens a namespace that is bound to a path, or a `/proc/PID/ns/…` link.
///
/// # Errors
/// [`NamespaceError::Open`], [`NamespaceError::NotANamespace`].
pub fn open_path(path: &Path, kind: NamespaceKind) -> Result<OwnedFd, NamespaceError> {
    let file = OpenOptions::new()
        .read(true)
        // A fifo or a terminal at this path must not make us wait.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| NamespaceError::Open { path: path.to_owned(), source: error.into() })?;
    match kind_of(file.as_fd()) {
        Ok(found) if found == kind.clone_flag().bits() => Ok(file.into()),
        _ => Err(NamespaceError::NotANamespace { path: path.to_owned(), kind }),
    }
}

/// The pid in a path of the form `/proc/PID/ns/…`: such a target can be watched by pidfd.
#[must_use]
pub fn pid_of_path(path: &Path) -> Option<u32> {
    let mut parts = path.strip_prefix("/proc").ok()?.iter();
    let pid = parts.next()?.to_str()?.parse().ok()?;
    (parts.next()? == "ns").then_some(pid)
}

/// The pid in a path of the form `/proc/PID/root/…`, which leads into that process's mounts and ends with it.
#[must_use]
pub fn pid_of_root(path: &Path) -> Option<u32> {
    let mut parts = path.strip_prefix("/proc").ok()?.iter();
    let pid = parts.next()?.to_str()?.parse().ok()?;
    (parts.next()? == "root").then_some(pid)
}

/// The user namespace that owns a namespace.
///
/// # Errors
/// EPERM if it is above our own.
pub fn owner_of(namespace: BorrowedFd<'_>) -> Result<OwnedFd, OsError> {
    // SAFETY: NS_GET_USERNS takes no argument; the kernel answers with a new descriptor or an error.
    let fd = check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) })?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user that made a user namespace, as a number in our own one.
///
/// # Errors
/// EINVAL if it is not a user namespace.
pub fn owner_uid(user_namespace: BorrowedFd<'_>) -> Result<u32, OsError> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: NS_GET_OWNER_UID writes one uid_t to the address, which is our local variable.
    check(unsafe { libc::ioctl(user_namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) })?;
    Ok(uid)
}

/// Whether two descriptors are the same namespace.
///
/// # Errors
/// What `fstat(2)` says.
pub fn same(left: BorrowedFd<'_>, right: BorrowedFd<'_>) -> Result<bool, OsError> {
    let (left, right) = (fstat(left)?, fstat(right)?);
    Ok((left.st_dev, left.st_ino) == (right.st_dev, right.st_ino))
}

/// Our own namespace of a kind.
///
/// # Errors
/// [`NamespaceError::Open`] if `/proc` is not there.
pub fn own(kind: NamespaceKind) -> Result<OwnedFd, NamespaceError> {
    open_path(&Path::new("/proc/self/ns").join(kind.link()), kind)
}

/// A number that names a namespace as long as somebody holds it: device and inode.
///
/// # Errors
/// What `fstat(2)` says.
pub fn identity(namespace: BorrowedFd<'_>) -> Result<(u64, u64), OsError> {
    let stat = fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Moves this thread into a namespace; for a user or mount namespace it must be the only thread.
///
/// # Errors
/// EINVAL for the user namespace we are in already; EPERM without the capability over its owner.
pub fn join(namespace: BorrowedFd<'_>, kind: NamespaceKind) -> Result<(), OsError> {
    Ok(nix::sched::setns(namespace, kind.clone_flag())?)
}

/// Makes new namespaces of these kinds and moves this process, which must have one thread, into them.
///
/// # Errors
/// EPERM, EACCES: forbidden (seccomp, AppArmor); ENOSPC, EUSERS: too many or too deep; EINVAL: threads.
pub fn unshare(kinds: &[NamespaceKind]) -> Result<(), OsError> {
    let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.clone_flag());
    Ok(nix::sched::unshare(flags)?)
}

/// Maps one user and one group of the parent namespace into the user namespace this process has just made.
///
/// Must come before the process is made undumpable: then its own `/proc` files belong to root.
///
/// # Errors
/// The file that could not be written, and what the system said.
pub fn map_one_user(inside: (u32, u32), outside: (u32, u32)) -> Result<(), (PathBuf, OsError)> {
    write_proc("/proc/self/setgroups", "deny")?;
    write_proc("/proc/self/uid_map", &format!("{} {} 1", inside.0, outside.0))?;
    write_proc("/proc/self/gid_map", &format!("{} {} 1", inside.1, outside.1))
}

/// Writes a file of `/proc` (a map, a sysctl) in one piece.
///
/// # Errors
/// The path, and what the system said.
pub fn write_proc(path: &str, text: &str) -> Result<(), (PathBuf, OsError)> {
    let written =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| (PathBuf::from(path), error.into()))
}

struct Stat {
    state: char,
    flags: u64,
    start_time: u64,
}

/// Reads proc_pid_stat(5); the name in parentheses may itself hold parentheses and spaces.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    // The first field here is the third of the manual page.
    Some(Stat {
        state: fields.first()?.chars().next()?,
        flags: fields.get(6)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

fn kind_of(namespace: BorrowedFd<'_>) -> Result<libc::c_int, OsError> {
    // SAFETY: NS_GET_NSTYPE takes no argument; the answer is a CLONE_NEW… flag or an error.
    check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) })
}

fn is_proc(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC)
}

fn proc_path(pid: u32, below: &str) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/{pid}"));
    if !below.is_empty() {
        path.push(below);
    }
    path
}

/// `PF_KTHREAD` of linux/sched.h.
const PF_KTHREAD: u64 = 0x0020_0000;

// ioctl_ns(2): _IO(0xb7, 1), _IO(0xb7, 3), _IO(0xb7, 4).
const NS_GET_USERNS: libc::Ioctl = nix::request_code_none!(0xb7, 1) as libc::Ioctl;
const NS_GET_NSTYPE: libc::Ioctl = nix::request_code_none!(0xb7, 3) as libc::Ioctl;
const NS_GET_OWNER_UID: libc::Ioctl = nix::request_code_none!(0xb7, 4) as libc::Ioctl;

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pid_that_nobody_has_is_named() {
        // Beyond the largest number the kernel gives out (PID_MAX_LIMIT).
        let error = Process::open(4_194_305).unwrap_err();
        assert_eq!(error.to_string(), "no process with pid 4194305");
        assert_eq!(Process::open(0).unwrap_err(), NamespaceError::NoProcess { pid: 0 });
    }

    #[test]
    fn the_namespace_of_a_process_of_ours_is_our_own() {
        let process = Process::open(std::process::id()).unwrap();
        let net = process.open_namespace(NamespaceKind::Network).unwrap();
        assert!(same(net.as_fd(), own(NamespaceKind::Network).unwrap().as_fd()).unwrap());
        assert!(!same(net.as_fd(), own(NamespaceKind::User).unwrap().as_fd()).unwrap());
    }

    #[test]
    fn a_thread_is_told_from_a_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(nix::unistd::gettid()).unwrap();
            wait.recv().unwrap_err();
        });
        let tid = u32::try_from(receive.recv().unwrap().as_raw()).unwrap();
        assert_eq!(Process::open(tid).unwrap_err(), NamespaceError::Thread { pid: tid });
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_zombie_and_a_death_in_between_are_told_apart() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let process = Process::open(pid).unwrap();
        child.kill().unwrap();
        assert!(process.pidfd().wait_for_end(Some(Duration::from_secs(5))).unwrap());
        assert_eq!(process.open_namespace(NamespaceKind::Network).unwrap_err(), NamespaceError::Gone { pid });
        assert_eq!(Process::open(pid).unwrap_err(), NamespaceError::Zombie { pid });
        child.wait().unwrap();
        assert_eq!(Process::open(pid).unwrap_err(), NamespaceError::NoProcess { pid });
    }

    #[test]
    fn a_kernel_thread_is_told_from_a_process() {
        let text = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 7 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.flags & PF_KTHREAD != 0, stat.start_time), ('S', true, 7));
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_state() {
        let text = "7 (a) Z (b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 9 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.start_time), ('S', 9));
    }

    #[test]
    fn a_path_that_is_no_network_namespace_is_refused() {
        let error = open_path(Path::new("/dev/null"), NamespaceKind::Network).unwrap_err();
        assert_eq!(error.to_string(), "`/dev/null` is not a network namespace");
        let error = open_path(Path::new("/proc/self/ns/user"), NamespaceKind::Network).unwrap_err();
        assert_eq!(error.to_string(), "`/proc/self/ns/user` is not a network namespace");
        let error = open_path(Path::new("/proc/nonexistent/ns"), NamespaceKind::Network).unwrap_err();
        assert_eq!(error.to_string(), "cannot open `/proc/nonexistent/ns`");
    }

    #[test]
    fn a_path_below_proc_yields_its_pid() {
        assert_eq!(pid_of_path(Path::new("/proc/42/ns/net")), Some(42));
        assert_eq!(pid_of_path(Path::new("/run/netns/42")), None);
        assert_eq!(pid_of_path(Path::new("/proc/self/ns/net")), None);
        assert_eq!(pid_of_path(Path::new("/proc/42/task/43/ns/net")), None);
    }
}
