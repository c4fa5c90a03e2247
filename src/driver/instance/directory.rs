//! The directory of sockets and locks: which one, and whether it may be trusted. (tasks)
//!
//! Who can write this directory can take our name or serve a false socket, so it must be ours alone.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

use super::InstanceName;
use crate::driver::failure::{Failure, FailureClass};

/// `sun_path` without its final zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// Where `wg` of wireguard-tools looks.
const SYSTEM_DIRECTORY: &str = "/var/run/wireguard";

/// Why a directory cannot hold our sockets.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there and cannot be made.
    #[error("cannot make the socket directory `{}`", path.display())]
    Create {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there but cannot be looked at.
    #[error("cannot use the socket directory `{}`", path.display())]
    Inspect {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else has the name; a symbolic link is not followed.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// What it is.
        path: PathBuf,
    },
    /// Another user could serve a false socket.
    #[error("the socket directory `{}` belongs to uid {owner}, not to uid {uid}", path.display())]
    Owner {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        uid: u32,
    },
    /// Others can write it.
    #[error("the socket directory `{}` can be written by others (mode {mode:04o})", path.display())]
    Mode {
        /// Which directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The kernel limits the path of a socket.
    #[error("the socket path `{}` has {length} bytes, the kernel allows {MAX_SOCKET_PATH}", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

impl Failure for DirectoryError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Create { .. } | Self::Inspect { .. } => FailureClass::General,
            Self::NotADirectory { .. } | Self::Owner { .. } | Self::Mode { .. } | Self::TooLong { .. } => {
                FailureClass::Config
            }
        }
    }
}

/// A directory that is there and that only we can write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// Absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the configuration socket of this instance is.
    #[must_use]
    pub fn socket(&self, name: &InstanceName) -> PathBuf {
        self.path.join(format!("{name}.sock"))
    }

    /// Where its lock is.
    #[must_use]
    pub fn lock(&self, name: &InstanceName) -> PathBuf {
        self.path.join(format!("{name}.lock"))
    }

    /// The socket's path, if the kernel can bind it.
    pub(super) fn bindable_socket(&self, name: &InstanceName) -> Result<PathBuf, DirectoryError> {
        let path = self.socket(name);
        // The server binds a temporary name beside it first: room for `.` and a pid of ten digits.
        let length = path.as_os_str().len() + 11;
        if length > MAX_SOCKET_PATH {
            return Err(DirectoryError::TooLong { path, length });
        }
        Ok(path)
    }
}

/// The directory for sockets and locks, made if it is not there, and checked.
///
/// `uapi_dir` if given; `/var/run/wireguard` for root of the initial user namespace, so that plain `wg` works;
/// `$XDG_RUNTIME_DIR/wireguard`; `$TMPDIR/wg4netns-<uid>`.
///
/// # Errors
/// It cannot be made, is not ours, or others can write it.
pub fn runtime_dir(uapi_dir: Option<&Path>) -> Result<RuntimeDir, DirectoryError> {
    let path = choose(uapi_dir, is_system_root(), |variable| std::env::var_os(variable).map(PathBuf::from));
    prepare(&path)
}

/// Like [`runtime_dir`] for those who only look: a directory that is not there is `None`.
///
/// # Errors
/// It is not ours, or others can write it.
pub fn existing_runtime_dir(uapi_dir: Option<&Path>) -> Result<Option<RuntimeDir>, DirectoryError> {
    let path = choose(uapi_dir, is_system_root(), |variable| std::env::var_os(variable).map(PathBuf::from));
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(_) | Err(_) => verify(&path).map(Some),
    }
}

/// Root of a child user namespace shares uid 0 with nobody who matters: only the initial one means the system.
pub fn is_system_root() -> bool {
    geteuid().is_root()
        && std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

fn choose(given: Option<&Path>, root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(given) = given {
        return given.to_path_buf();
    }
    if root {
        return SYSTEM_DIRECTORY.into();
    }
    // The XDG specification: relative values are to be ignored. `su` keeps the value of a user who has logged out.
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    match absolute("XDG_RUNTIME_DIR").filter(|path| path.is_dir()) {
        Some(runtime) => runtime.join("wireguard"),
        None => absolute("TMPDIR").unwrap_or_else(|| "/tmp".into()).join(format!("wg4netns-{}", geteuid())),
    }
}

fn prepare(path: &Path) -> Result<RuntimeDir, DirectoryError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(DirectoryError::Create { path: path.into(), source }),
    }
    verify(path)
}

fn verify(path: &Path) -> Result<RuntimeDir, DirectoryError> {
    let inspect = |source| DirectoryError::Inspect { path: path.into(), source };
    let metadata = std::fs::symlink_metadata(path).map_err(inspect)?;
    if !metadata.is_dir() {
        return Err(DirectoryError::NotADirectory { path: path.into() });
    }
    let uid = geteuid();
    if Uid::from_raw(metadata.uid()) != uid {
        return Err(DirectoryError::Owner { path: path.into(), owner: metadata.uid(), uid: uid.as_raw() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(DirectoryError::Mode { path: path.into(), mode });
    }
    // The tunnel outlives its caller's directory; and no later step follows a link that is changed meanwhile.
    let path = std::fs::canonicalize(path).map_err(inspect)?;
    Ok(RuntimeDir { path })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_choice_is_flag_then_system_then_runtime_then_temporary_directory() {
        let none = |_: &str| None;
        let set = |name: &str| Some(PathBuf::from(if name == "TMPDIR" { "/var/tmp" } else { "/dev" }));
        let uid = geteuid();
        assert_eq!(choose(Some(Path::new("/x")), true, set), Path::new("/x"));
        assert_eq!(choose(None, true, set), Path::new("/var/run/wireguard"));
        assert_eq!(choose(None, false, set), Path::new("/dev/wireguard"));
        assert_eq!(choose(None, false, none), PathBuf::from(format!("/tmp/wg4netns-{uid}")));
        let relative = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "run".into());
        assert_eq!(choose(None, false, relative), PathBuf::from(format!("/tmp/wg4netns-{uid}")));
    }

    #[test]
    fn a_directory_is_made_for_us_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("wireguard");
        let made = runtime_dir(Some(&path)).unwrap();
        assert_eq!(std::fs::metadata(made.path()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(runtime_dir(Some(&path)).unwrap(), made);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("open");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let error = runtime_dir(Some(&path)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the socket directory `{}` can be written by others (mode 1777)", path.display())
        );
        assert_eq!(error.class(), FailureClass::Config);
    }

    #[test]
    fn a_symbolic_link_is_not_a_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path(), &path).unwrap();
        assert!(matches!(runtime_dir(Some(&path)), Err(DirectoryError::NotADirectory { .. })));
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(runtime_dir(Some(&file)), Err(DirectoryError::NotADirectory { .. })));
    }

    #[test]
    fn looking_does_not_make_a_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("absent");
        assert_eq!(existing_runtime_dir(Some(&path)).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_path_beyond_the_kernels_limit_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x".repeat(100));
        let directory = runtime_dir(Some(&path)).unwrap();
        let name = "wg0".parse().unwrap();
        assert!(matches!(directory.bindable_socket(&name), Err(DirectoryError::TooLong { .. })));
    }
}
