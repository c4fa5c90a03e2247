//! Instances: every running tunnel has a name, and a lock that says so. (tasks)
//!
//! # Theory of operation
//! `<name>.lock` lies beside the socket `<name>.sock`. Whoever holds `flock(2)` on it is that instance; the kernel
//! releases it at the last instruction of the process, so there are no stale instances, only stale files. The file
//! holds a JSON record of who it is. Stale files are removed by whoever meets them, under the lock; therefore whoever
//! has locked a file looks again whether the path still leads to it.

mod directory;
mod name;
mod registry;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

pub use self::directory::{DirectoryError, RuntimeDir, existing_runtime_dir, is_system_root, runtime_dir};
pub use self::name::{InstanceName, NameError};
pub use self::registry::{Instance, find, list};
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::interface_name::InterfaceName;
use crate::sys::inode;

/// Numbers tried behind a name that was not asked for.
const MAX_NUMBER: u32 = 999;

/// How often a busy lock is tried again, and how long is waited in between.
///
/// `ls` holds a lock for microseconds while it looks; together this is far below the 100 ms in which a name that is
/// taken must be refused.
const BUSY_RETRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// What `<name>.lock` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// The process to signal.
    pub pid: u32,
    /// Its start time as `/proc/PID/stat` has it: tells a reused pid.
    pub starttime: u64,
    /// `attach`, `run`, `device`…
    pub mode: String,
    /// The interface's name inside the target.
    pub interface: InterfaceName,
    /// Whose namespace it is.
    pub target: RecordedTarget,
    /// Where the configuration came from, in the user's words; absent without one.
    pub config: Option<String>,
    /// Of the program.
    pub version: String,
}

/// The namespace of an instance, as another process can find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedTarget {
    /// That of a process.
    Pid {
        /// Its id.
        pid: u32,
        /// Its start time.
        starttime: u64,
    },
    /// A namespace file.
    Path {
        /// The network namespace.
        netns: PathBuf,
        /// The user namespace, if it was given.
        userns: Option<PathBuf>,
    },
    /// Made by somebody else; it cannot be joined by name.
    Tun,
    /// The namespace of the instance itself.
    Own,
}

impl InstanceRecord {
    /// A record of this process.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn of_this_process(
        mode: &str,
        interface: InterfaceName,
        target: RecordedTarget,
        config: Option<String>,
    ) -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self {
            pid,
            starttime: start_time(pid)?,
            mode: mode.into(),
            interface,
            target,
            config,
            version: env!("CARGO_PKG_VERSION").into(),
        })
    }
}

/// When a process was started, in clock ticks since boot; together with the pid it names a process for ever.
///
/// # Errors
/// There is no such process, or its `stat` cannot be read.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command in parentheses and may hold anything, so count from the last one. (proc(5))
    let after_command = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_command
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "`stat` has no start time"))
}

/// Why a name could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The directory will not do.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// An instance of ours has it.
    #[error("the name `{name}` is in use{}", holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Taken {
        /// The name.
        name: InstanceName,
        /// Whose it is, if that could be read.
        holder: Option<u32>,
    },
    /// The socket's path is not a leftover of ours.
    #[error("cannot replace `{}`: {found}", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: Occupant,
    },
    /// Every number behind the name is taken.
    #[error("the names `{name}` to `{}` are all in use", name.numbered(MAX_NUMBER))]
    AllTaken {
        /// The first of them.
        name: InstanceName,
    },
    /// The lock file cannot be made or written.
    #[error("cannot lock `{}`", path.display())]
    Lock {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure for InstanceError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Directory(error) => error.class(),
            Self::Taken { .. } | Self::Occupied { .. } | Self::AllTaken { .. } => FailureClass::InUse,
            Self::Lock { .. } => FailureClass::General,
        }
    }
}

/// What is at a path where our socket should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// A file, link or directory.
    NotASocket,
    /// A socket of this user.
    OfUid(u32),
    /// Somebody answers on it.
    Alive,
}

impl std::fmt::Display for Occupant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotASocket => f.write_str("it is not a socket"),
            Self::OfUid(uid) => write!(f, "it belongs to uid {uid}"),
            Self::Alive => f.write_str("another program answers on it"),
        }
    }
}

/// Which name to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChoice {
    /// This one or none: the user gave it.
    Exactly(InstanceName),
    /// This one, or the first free of `name-2`, `name-3`…
    StartingWith(InstanceName),
}

/// A taken name. Dropping it removes the lock file.
#[derive(Debug)]
pub struct InstanceGuard {
    name: InstanceName,
    directory: RuntimeDir,
    lock: Flock<File>,
}

/// Takes a name and removes a stale socket of that name.
///
/// # Errors
/// The name is taken, or the directory or what is in it stands in the way.
pub fn claim(directory: &RuntimeDir, choice: &NameChoice) -> Result<InstanceGuard, InstanceError> {
    match choice {
        NameChoice::Exactly(name) => claim_one(directory, name, remove_stale_socket),
        NameChoice::StartingWith(stem) => {
            for number in 1..=MAX_NUMBER {
                match claim_one(directory, &stem.numbered(number), remove_stale_socket) {
                    Err(InstanceError::Taken { .. } | InstanceError::Occupied { .. }) => {}
                    other => return other,
                }
            }
            Err(InstanceError::AllTaken { name: stem.clone() })
        }
    }
}

/// Takes a name whose socket somebody else has made and handed to us; it is left as it is.
///
/// # Errors
/// As [`claim`].
pub fn claim_served(directory: &RuntimeDir, name: &InstanceName) -> Result<InstanceGuard, InstanceError> {
    claim_one(directory, name, |_socket| Ok(()))
}

fn claim_one(
    directory: &RuntimeDir,
    name: &InstanceName,
    clear: impl Fn(&Path) -> Result<(), InstanceError>,
) -> Result<InstanceGuard, InstanceError> {
    let socket = directory.bindable_socket(name)?;
    let path = directory.lock(name);
    let failed = |source| InstanceError::Lock { path: path.clone(), source };
    for attempt in 0..=BUSY_RETRIES {
        let file = open_lock(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) if leads_to(&path, &lock) => {
                // Held from here on, so an error below removes the lock file again.
                let guard = InstanceGuard { name: name.clone(), directory: directory.clone(), lock };
                clear(&socket)?;
                return Ok(guard);
            }
            // Removed as stale between opening and locking: make a new one.
            Ok(_unlinked) => {}
            Err((file, Errno::EWOULDBLOCK)) => {
                let record = registry::read_record(&file);
                // A leftover record may name a process that has its number from another.
                let holder = record
                    .filter(|record| start_time(record.pid).ok() == Some(record.starttime))
                    .map(|record| record.pid);
                if attempt == BUSY_RETRIES || holder.is_some() {
                    return Err(InstanceError::Taken { name: name.clone(), holder });
                }
                // Its holder has not written a record: it starts up just now, or only looks.
                std::thread::sleep(BUSY_PAUSE);
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
    Err(InstanceError::Taken { name: name.clone(), holder: None })
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Whether `path` is still the locked file.
fn leads_to(path: &Path, file: &File) -> bool {
    inode::is_at(path, file)
}

/// Removes a socket that nobody serves. The lock of its name must be held.
fn remove_stale_socket(path: &Path) -> Result<(), InstanceError> {
    let occupied = |found| InstanceError::Occupied { path: path.into(), found };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(InstanceError::Lock { path: path.into(), source }),
    };
    if !metadata.file_type().is_socket() {
        return Err(occupied(Occupant::NotASocket));
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err(occupied(Occupant::OfUid(metadata.uid())));
    }
    match connect_now(path) {
        Err(Errno::ECONNREFUSED) => {
            std::fs::remove_file(path).map_err(|source| InstanceError::Lock { path: path.into(), source })
        }
        Ok(()) | Err(_) => Err(occupied(Occupant::Alive)),
    }
}

/// Connects without waiting: EAGAIN is a server that does not take connections fast enough.
fn connect_now(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

impl InstanceGuard {
    /// The name that was taken.
    #[must_use]
    pub const fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Where its files are.
    #[must_use]
    pub const fn directory(&self) -> &RuntimeDir {
        &self.directory
    }

    /// Where its configuration socket is to be.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.socket(&self.name)
    }

    /// Writes who we are; may be called again when the target is known better.
    ///
    /// # Errors
    /// The file system is full or read-only.
    pub fn record(&self, record: &InstanceRecord) -> Result<(), InstanceError> {
        let failed = |source| InstanceError::Lock { path: self.directory.lock(&self.name), source };
        let mut text = serde_json::to_string(record).map_err(|error| failed(error.into()))?;
        text.push('\n');
        // In place, because the lock is on this inode; readers try again if they meet half of it.
        self.lock.write_all_at(text.as_bytes(), 0).map_err(failed)?;
        self.lock.set_len(text.len() as u64).map_err(failed)
    }
}

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        // Before the lock goes: afterwards the path may be somebody else's.
        let path = self.directory.lock(&self.name);
        if leads_to(&path, &self.lock) {
            inode::remove(&path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn name(text: &str) -> InstanceName {
        text.parse().expect("the tests use valid names")
    }

    fn scratch() -> (tempfile::TempDir, RuntimeDir) {
        let scratch = tempfile::tempdir().expect("a scratch directory can be made");
        let directory = runtime_dir(Some(&scratch.path().join("run"))).expect("it is ours");
        (scratch, directory)
    }

    pub(super) fn record() -> InstanceRecord {
        InstanceRecord::of_this_process(
            "attach",
            "wg0".parse().expect("it is a name"),
            RecordedTarget::Own,
            None,
        )
        .expect("/proc is there")
    }

    #[test]
    fn an_explicit_name_that_is_taken_fails_and_names_the_holder() {
        let (_scratch, directory) = scratch();
        let first = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap();
        first.record(&record()).unwrap();
        let error = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap_err();
        assert_eq!(error.to_string(), format!("the name `wg0` is in use by process {}", std::process::id()));
        assert_eq!(error.class(), FailureClass::InUse);
        drop(first);
        claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap();
    }

    #[test]
    fn a_default_name_counts_up() {
        let (_scratch, directory) = scratch();
        let choice = NameChoice::StartingWith(name("wg0"));
        let guards: Vec<_> = (0..3).map(|_| claim(&directory, &choice).unwrap()).collect();
        let names: Vec<_> = guards.iter().map(|guard| guard.name().as_str()).collect();
        assert_eq!(names, ["wg0", "wg0-2", "wg0-3"]);
    }

    #[test]
    fn dropping_a_guard_leaves_nothing() {
        let (_scratch, directory) = scratch();
        drop(claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_lock_and_a_stale_socket_are_replaced() {
        let (_scratch, directory) = scratch();
        std::fs::write(directory.lock(&name("wg0")), "{\"pid\":1}").unwrap();
        drop(UnixListener::bind(directory.socket(&name("wg0"))).unwrap());
        assert!(directory.socket(&name("wg0")).exists());
        let guard = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap();
        assert!(!guard.socket().exists());
    }

    #[test]
    fn a_socket_that_answers_is_not_replaced() {
        let (_scratch, directory) = scratch();
        let _alive = UnixListener::bind(directory.socket(&name("wg0"))).unwrap();
        let error = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap_err();
        assert!(matches!(error, InstanceError::Occupied { found: Occupant::Alive, .. }), "{error}");
        let next = claim(&directory, &NameChoice::StartingWith(name("wg0"))).unwrap();
        assert_eq!(next.name().as_str(), "wg0-2");
        assert!(!directory.lock(&name("wg0")).exists(), "a failed claim leaves no lock file");
    }

    /// Everything that looks at instances waited for as long as it was so.
    #[test]
    fn a_socket_whose_queue_is_full_is_alive_and_nobody_waits_for_it() {
        let (_scratch, directory) = scratch();
        let path = directory.socket(&name("wg0"));
        let alive = UnixListener::bind(&path).unwrap();
        nix::sys::socket::listen(&alive, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect_now(&path).ok()).take(1000).collect();
        assert!(waiting.len() < 1000);
        assert_eq!(connect_now(&path), Err(Errno::EAGAIN));
        let error = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap_err();
        assert!(matches!(error, InstanceError::Occupied { found: Occupant::Alive, .. }), "{error}");
    }

    #[test]
    fn a_name_is_not_said_to_be_held_by_a_process_that_only_has_its_holders_number() {
        let (_scratch, directory) = scratch();
        let first = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap();
        let record = InstanceRecord { starttime: 1, ..record() };
        first.record(&record).unwrap();
        let error = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap_err();
        assert!(matches!(error, InstanceError::Taken { holder: None, .. }), "{error}");
    }

    #[test]
    fn whatever_is_not_a_socket_is_not_replaced() {
        let (scratch, directory) = scratch();
        let path = directory.socket(&name("wg0"));
        let claim = || claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap_err().to_string();
        let refused = format!("cannot replace `{}`: it is not a socket", path.display());

        std::fs::write(&path, "kept").unwrap();
        assert_eq!(claim(), refused);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
        std::fs::remove_file(&path).unwrap();

        std::os::unix::fs::symlink(scratch.path(), &path).unwrap();
        assert_eq!(claim(), refused);
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        assert_eq!(claim(), refused);
    }

    #[test]
    fn a_lock_that_is_not_a_file_is_refused() {
        let (scratch, directory) = scratch();
        let path = directory.lock(&name("wg0"));
        std::os::unix::fs::symlink(scratch.path().join("elsewhere"), &path).unwrap();
        let error = claim(&directory, &NameChoice::Exactly(name("wg0"))).unwrap_err();
        assert!(matches!(error, InstanceError::Lock { .. }), "{error}");
        assert!(!scratch.path().join("elsewhere").exists());
    }

    #[test]
    fn this_process_has_a_start_time_and_a_free_pid_has_none() {
        let ours = start_time(std::process::id()).unwrap();
        assert!(ours > 0);
        assert_eq!(ours, start_time(std::process::id()).unwrap());
        // Above the highest pid the kernel gives (PID_MAX_LIMIT).
        assert!(start_time(5_000_000).is_err());
    }
}
