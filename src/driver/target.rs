//! The namespace to work in: named by the caller, opened once, and from then on held by descriptor. (tasks)

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;

use super::failure::FailureClass;
use super::lifetime::LifeLine;
use crate::sys::namespace::{self, NamespaceError, NamespaceKind, Process};
use crate::sys::os_error::OsError;
use crate::sys::pidfd::PidFd;

/// How the caller named the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The network namespace of a process.
    Pid(u32),
    /// A network namespace that is bound to a path (or a `/proc/PID/ns/net` link).
    Path {
        /// The network namespace.
        netns: PathBuf,
        /// The user namespace to join first; absent asks the kernel for the owner.
        userns: Option<PathBuf>,
    },
    /// The one we are in: only for programs whose caller has put them there.
    Current,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::Path { netns, .. } => write!(f, "`{}`", netns.display()),
            Self::Current => f.write_str("this process"),
        }
    }
}

/// Why a target cannot be worked in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It could not be found or opened.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A tunnel there would be the host's own.
    #[error("target shares the host's network namespace")]
    HostNamespace,
}

impl TargetError {
    /// Whom to blame.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            // Another user's process: neither it nor its number is wrong.
            Self::Namespace(NamespaceError::Open { source, .. } | NamespaceError::Ask { source, .. })
                if source.is(Errno::EACCES) || source.is(Errno::EPERM) =>
            {
                FailureClass::Kernel
            }
            Self::Namespace(_) | Self::HostNamespace => FailureClass::Target,
        }
    }
}

/// A target that is held open. As long as it is, a path that it was opened by cannot be unmounted: drop it when the
/// child has its work done.
#[derive(Debug)]
pub struct OpenTarget {
    target: Target,
    /// The process whose end is the target's end, if it was named by one.
    process: Option<PidFd>,
    /// What must be joined first; absent if we are in it already.
    user: Option<OwnedFd>,
    /// Absent for [`Target::Current`].
    network: Option<OwnedFd>,
    mount: Option<OwnedFd>,
    /// The user that made the owning user namespace.
    owner: Option<u32>,
}

impl Target {
    /// Opens the namespaces; the host's own network namespace is refused.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn open(self) -> Result<OpenTarget, TargetError> {
        let (process, network, named_user) = match &self {
            Self::Current => {
                return Ok(OpenTarget {
                    target: self,
                    process: None,
                    user: None,
                    network: None,
                    mount: None,
                    owner: None,
                });
            }
            Self::Pid(pid) => {
                let process = Process::open(*pid)?;
                let network = process.open_namespace(NamespaceKind::Network)?;
                (Some(process), network, None)
            }
            Self::Path { netns, userns } => {
                let named = namespace::pid_of_path(netns).map(Process::open).transpose()?;
                // Behind the sandbox nobody can look through another process's root; it ends with the process.
                let holder = namespace::pid_of_root(netns).map(Process::open).transpose()?;
                let network = match &named {
                    Some(process) => process.open_namespace(NamespaceKind::Network)?,
                    None => namespace::open_path(netns, NamespaceKind::Network)?,
                };
                let process = named.or(holder);
                let user = userns
                    .as_ref()
                    .map(|path| namespace::open_path(path, NamespaceKind::User))
                    .transpose()?;
                (process, network, user)
            }
        };
        let ask = |kind| {
            let target = self.to_string();
            move |source: OsError| NamespaceError::Ask { target, kind, source }
        };
        let own_network = namespace::own(NamespaceKind::Network)?;
        if namespace::same(network.as_fd(), own_network.as_fd()).map_err(ask(NamespaceKind::Network))? {
            return Err(TargetError::HostNamespace);
        }
        let user = match (named_user, namespace::owner_of(network.as_fd())) {
            (Some(user), _) | (None, Ok(user)) => user,
            // The owner is not below our own user namespace, so joining will be refused; the process's own one
            // is the last thing worth trying.
            (None, Err(source)) => match &process {
                Some(process) => process.open_namespace(NamespaceKind::User)?,
                None => return Err(ask(NamespaceKind::Network)(source).into()),
            },
        };
        let owner = namespace::owner_uid(user.as_fd()).ok();
        let own_user = namespace::own(NamespaceKind::User)?;
        let joined = namespace::same(user.as_fd(), own_user.as_fd()).map_err(ask(NamespaceKind::User))?;
        Ok(OpenTarget {
            target: self,
            process: process.map(Process::into_pidfd),
            user: (!joined).then_some(user),
            network: Some(network),
            mount: None,
            owner,
        })
    }
}

impl OpenTarget {
    /// How the caller named it.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// The process whose end is the target's end.
    #[must_use]
    pub const fn process(&self) -> Option<&PidFd> {
        self.process.as_ref()
    }

    /// The user that made the owning user namespace, as a number in our own one.
    #[must_use]
    pub const fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// What a tunnel's life hangs on if it is to end with this target. There is none for [`Target::Current`], and none
    /// a second time for a process.
    #[must_use]
    pub fn life_line(&mut self) -> Option<LifeLine> {
        if let Some(process) = self.process.take() {
            return Some(LifeLine::Process(process));
        }
        let identity = namespace::identity(self.network.as_ref()?.as_fd()).ok()?;
        match &self.target {
            Target::Path { netns, .. } => Some(LifeLine::TargetPath { path: netns.clone(), identity }),
            Target::Pid(_) | Target::Current => None,
        }
    }

    /// Also joins the mounts of the target's process.
    ///
    /// # Errors
    /// See [`NamespaceError`]; nothing is changed for a target that is not a process.
    pub fn include_mounts(&mut self) -> Result<(), NamespaceError> {
        let pid = match &self.target {
            Target::Pid(pid) => Some(*pid),
            Target::Path { netns, .. } => namespace::pid_of_path(netns),
            Target::Current => None,
        };
        let Some(pid) = pid else { return Ok(()) };
        let mount = Process::open(pid)?.open_namespace(NamespaceKind::Mount)?;
        let own = namespace::own(NamespaceKind::Mount)?;
        let joined = namespace::same(mount.as_fd(), own.as_fd()).map_err(|source| NamespaceError::Ask {
            target: self.target.to_string(),
            kind: NamespaceKind::Mount,
            source,
        })?;
        self.mount = (!joined).then_some(mount);
        Ok(())
    }

    /// The namespaces to join, in the order in which they must be joined.
    #[must_use]
    pub fn namespaces(&self) -> Vec<(NamespaceKind, &OwnedFd)> {
        [
            (NamespaceKind::User, &self.user),
            (NamespaceKind::Network, &self.network),
            (NamespaceKind::Mount, &self.mount),
        ]
        .into_iter()
        .filter_map(|(kind, fd)| fd.as_ref().map(|fd| (kind, fd)))
        .collect()
    }
}
