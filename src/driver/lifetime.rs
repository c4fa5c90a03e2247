//! When a tunnel ends: everything the caller tied it to, watched at once. (tasks)
//!
//! # Theory of operation
//! A held TUN keeps a dead container's namespace alive and never says so; waiting for the TUN to end would be waiting
//! for oneself. So the tunnel's life hangs on what the caller named: a process (pidfd), a path (is the same namespace
//! still bound there?), a descriptor (hang-up), the configuration socket's file, a signal.
//!
//! For files no single notification is enough: inotify tells of deletion, renaming and mounting over, but is silent
//! when a bind mount is taken away; the mount table tells of that; and a look each second is for what neither saw.
//! Each of the three only causes a look, and the look alone decides.

use std::fmt;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::helper_end;
use crate::sys::async_fd::{Changes, watch};
use crate::sys::clock::{BootTimer, boot_nanos};
use crate::sys::inode::Inode;
use crate::sys::pidfd::PidFd;
use crate::sys::signals::SignalQueue;

/// How long a change that no notification told of may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The signals that end a tunnel; those among them that were ignored when we were started stay ignored.
pub const END_SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// One thing a tunnel's life hangs on.
#[derive(Debug)]
pub enum LifeLine {
    /// The target's process.
    Process(PidFd),
    /// The path that the target was named by: it must go on leading to this namespace.
    TargetPath {
        /// The path.
        path: PathBuf,
        /// What it led to when the target was opened: see [`namespace::identity`](crate::sys::namespace::identity).
        identity: (u64, u64),
    },
    /// The other end of this pipe or socket must stay open (`--exit-fd`). What is written to it does not matter.
    ExitFd(OwnedFd),
    /// The configuration socket: who removes it wants the tunnel to end.
    SocketFile(PathBuf),
    /// [`END_SIGNALS`], taken before anything was made that a signal could leave behind.
    Signals(SignalQueue),
}

/// Why a tunnel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The target's process has ended.
    TargetEnded,
    /// The target's namespace is no longer bound to its path.
    TargetRemoved,
    /// The exit descriptor hung up.
    ExitFdClosed,
    /// The configuration socket was removed.
    SocketRemoved,
    /// A signal came.
    Signal(Signal),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TargetEnded => f.write_str("the target has ended"),
            Self::TargetRemoved => f.write_str("the target's namespace was removed"),
            Self::ExitFdClosed => f.write_str("the exit descriptor was closed"),
            Self::SocketRemoved => f.write_str("the configuration socket was removed"),
            Self::Signal(signal) => f.write_str(signal.as_str()),
        }
    }
}

/// A life line that cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum LifetimeError {
    /// The file is not there, or its directory cannot be watched.
    #[error("cannot watch `{path}`")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a pipe or socket.
    #[error("cannot watch the exit descriptor")]
    ExitFd(#[source] std::io::Error),
    /// The process's descriptor cannot be watched.
    #[error("cannot watch the target's process")]
    Process(#[source] std::io::Error),
    /// Signal handling is not available.
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
}

type Line = Pin<Box<dyn Future<Output = EndReason> + Send>>;

/// Everything a tunnel's life hangs on; see [`ended`](Self::ended).
pub struct Lifetime {
    lines: Vec<Line>,
}

impl fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifetime").field("lines", &self.lines.len()).finish()
    }
}

impl Lifetime {
    /// Watches from now on: nothing that happens after this is missed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`LifetimeError`]; a file that is missing already is one.
    pub fn watch(lines: Vec<LifeLine>) -> Result<Self, LifetimeError> {
        let mut watched: Vec<Line> = Vec::new();
        for line in lines {
            match line {
                LifeLine::Process(pidfd) => watched.push(process(pidfd)?),
                LifeLine::TargetPath { path, identity } => {
                    watched.push(file(path, Some(identity), EndReason::TargetRemoved)?);
                }
                LifeLine::ExitFd(fd) => watched.push(exit_fd(fd)?),
                LifeLine::SocketFile(path) => watched.push(file(path, None, EndReason::SocketRemoved)?),
                LifeLine::Signals(queue) => watched.push(signals(queue)?),
            }
        }
        Ok(Self { lines: watched })
    }

    /// Waits for the first end; for ever if nothing is watched. Loses nothing when it is dropped and called again.
    pub async fn ended(&mut self) -> EndReason {
        poll_fn(|context| {
            let ended = self.lines.iter_mut().find_map(|line| match line.as_mut().poll(context) {
                Poll::Ready(reason) => Some(reason),
                Poll::Pending => None,
            });
            ended.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

fn process(pidfd: PidFd) -> Result<Line, LifetimeError> {
    let pidfd = watch(pidfd, Interest::READABLE).map_err(LifetimeError::Process)?;
    Ok(Box::pin(async move {
        helper_end::ended(&pidfd).await;
        EndReason::TargetEnded
    }))
}

fn exit_fd(fd: OwnedFd) -> Result<Line, LifetimeError> {
    let fd = watch(fd, Interest::READABLE).map_err(LifetimeError::ExitFd)?;
    Ok(Box::pin(async move {
        loop {
            let Ok(mut guard) = fd.readable().await else { return EndReason::ExitFdClosed };
            if guard.ready().is_read_closed() {
                return EndReason::ExitFdClosed;
            }
            // Something was written; nobody reads it.
            guard.clear_ready();
        }
    }))
}

fn signals(queue: SignalQueue) -> Result<Line, LifetimeError> {
    let mut queue = watch(queue, Interest::READABLE).map_err(LifetimeError::Signals)?;
    Ok(Box::pin(async move {
        loop {
            let Ok(mut guard) = queue.readable_mut().await else { return std::future::pending().await };
            if let Ok(Some(taken)) = guard.get_inner_mut().take_next() {
                return EndReason::Signal(taken.signal);
            }
            guard.clear_ready();
        }
    }))
}

fn file(path: PathBuf, known: Option<(u64, u64)>, reason: EndReason) -> Result<Line, LifetimeError> {
    let failed = |source: std::io::Error| LifetimeError::File { path: path.clone(), source };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .map_err(|errno| failed(errno.into()))?;
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let changes = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_UNMOUNT;
    inotify.add_watch(directory, changes).map_err(|errno| failed(errno.into()))?;
    let inotify = watch(Changes(inotify), Interest::READABLE).map_err(&failed)?;
    let mounts = std::fs::File::open("/proc/self/mountinfo").map_err(&failed)?;
    let mounts = watch(mounts, Interest::PRIORITY).map_err(&failed)?;
    let timer = BootTimer::new().map_err(|error| failed(error.into()))?;
    let timer = watch(timer, Interest::READABLE).map_err(&failed)?;
    // Last, so that whatever happens after this look was announced to one of the above.
    let wanted = match known {
        Some(identity) => identity,
        None => identity(&path).map_err(&failed)?,
    };
    Ok(Box::pin(async move {
        loop {
            if identity(&path).ok() != Some(wanted) {
                return reason;
            }
            tokio::select! {
                Ok(mut guard) = inotify.readable() => {
                    while guard.get_inner().0.read_events().is_ok() {}
                    guard.clear_ready();
                }
                Ok(mut guard) = mounts.ready(Interest::PRIORITY) => guard.clear_ready(),
                () = next_look(&timer) => {}
            }
        }
    }))
}

/// Waits for a second from now.
async fn next_look(timer: &AsyncFd<BootTimer>) {
    let pause = u64::try_from(LOOK_AGAIN.as_nanos()).unwrap_or(u64::MAX);
    // A timer that cannot be set fires never; the notifications remain.
    let _refused = timer.get_ref().set(Some(boot_nanos().saturating_add(pause)));
    loop {
        let Ok(mut guard) = timer.readable().await else { return std::future::pending().await };
        // An expiration of the last round may still be noted; setting the timer has taken it back.
        if matches!(crate::sys::wait::readable(timer.get_ref().as_fd(), Some(Duration::ZERO)), Ok(true)) {
            guard.clear_ready();
            return;
        }
        guard.clear_ready();
    }
}

/// What a path leads to.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let Inode { device, number } = Inode::of_path(path)?;
    Ok((device, number))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(10), future).await.expect("it ends within 10 s")
        })
    }

    async fn is_quiet(lifetime: &mut Lifetime) -> bool {
        tokio::time::timeout(Duration::from_millis(50), lifetime.ended()).await.is_err()
    }

    #[test]
    fn the_end_of_a_process_ends_it() {
        run(async {
            let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let line = LifeLine::Process(PidFd::open(child.id()).unwrap());
            let mut lifetime = Lifetime::watch(vec![line]).unwrap();
            assert!(is_quiet(&mut lifetime).await);
            child.kill().unwrap();
            assert_eq!(lifetime.ended().await, EndReason::TargetEnded);
            child.wait().unwrap();
        });
    }

    #[test]
    fn hang_up_of_the_exit_descriptor_ends_it_and_data_does_not() {
        run(async {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let mut lifetime = Lifetime::watch(vec![LifeLine::ExitFd(reader)]).unwrap();
            nix::unistd::write(&writer, b"data").unwrap();
            assert!(is_quiet(&mut lifetime).await);
            drop(writer);
            assert_eq!(lifetime.ended().await, EndReason::ExitFdClosed);
        });
    }

    #[test]
    fn a_regular_file_is_no_exit_descriptor() {
        run(async {
            let file = tempfile::tempfile().unwrap();
            let error = Lifetime::watch(vec![LifeLine::ExitFd(file.into())]).unwrap_err();
            assert_eq!(error.to_string(), "cannot watch the exit descriptor");
        });
    }

    #[test]
    fn deleting_the_socket_ends_it_and_a_neighbour_does_not() {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("wg0.sock");
            let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let mut lifetime = Lifetime::watch(vec![LifeLine::SocketFile(path.clone())]).unwrap();
            std::fs::write(directory.path().join("other"), "").unwrap();
            std::fs::remove_file(directory.path().join("other")).unwrap();
            assert!(is_quiet(&mut lifetime).await);
            std::fs::remove_file(path).unwrap();
            assert_eq!(lifetime.ended().await, EndReason::SocketRemoved);
        });
    }

    #[test]
    fn another_file_in_its_place_is_not_the_same_target() {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("netns");
            std::fs::write(&path, "").unwrap();
            std::fs::write(directory.path().join("new"), "").unwrap();
            let line = LifeLine::TargetPath { path: path.clone(), identity: identity(&path).unwrap() };
            let mut lifetime = Lifetime::watch(vec![line]).unwrap();
            std::fs::rename(directory.path().join("new"), path).unwrap();
            assert_eq!(lifetime.ended().await, EndReason::TargetRemoved);
        });
    }

    #[test]
    fn a_target_that_was_replaced_before_it_was_watched_has_ended() {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("netns");
            std::fs::write(&path, "").unwrap();
            let line = LifeLine::TargetPath { path, identity: (1, 1) };
            assert_eq!(Lifetime::watch(vec![line]).unwrap().ended().await, EndReason::TargetRemoved);
        });
    }

    #[test]
    fn a_file_that_is_missing_already_is_named() {
        run(async {
            let line = LifeLine::SocketFile(PathBuf::from("/proc/nonexistent/socket"));
            let error = Lifetime::watch(vec![line]).unwrap_err();
            assert_eq!(error.to_string(), "cannot watch `/proc/nonexistent/socket`");
        });
    }

    #[test]
    fn a_signal_ends_it_also_if_it_came_before_it_was_watched() {
        run(async {
            let queue = SignalQueue::take(&END_SIGNALS).unwrap();
            nix::sys::signal::raise(Signal::SIGHUP).unwrap();
            let mut lifetime = Lifetime::watch(vec![LifeLine::Signals(queue)]).unwrap();
            assert_eq!(lifetime.ended().await, EndReason::Signal(Signal::SIGHUP));
        });
    }

    #[test]
    fn a_second_look_is_taken_after_a_second() {
        run(async {
            let timer = watch(BootTimer::new().unwrap(), Interest::READABLE).unwrap();
            let asked = boot_nanos();
            next_look(&timer).await;
            next_look(&timer).await;
            assert!(boot_nanos() - asked >= 1_990_000_000);
        });
    }
}
