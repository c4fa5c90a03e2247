//! A file that holds our process id while we live, and the process that removes it, or another file of ours. (tasks)
//!
//! # Theory of operation
//! Removing a file is a right over its directory with everything below, which is not ours: a tunnel that is locked down
//! must not have that. So a *remover* is started first: the same program, executed anew, with one end of a socket, the
//! file and its directory as its standard streams. It waits for the end of the socket, however that comes about, removes
//! the file if the name still leads to it there, and ends. Signals that a terminal or a service manager sends to all of us
//! alike are not meant for it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::child_channel;
use super::clock;
use super::helper_end::HelperEnd;
use super::lifetime::END_SIGNALS;
use super::namespace_child::Helper;
use super::ready::ReadyError;
use crate::sys::confine::{self, confine};
use crate::sys::fd_passing::{self, adopt_fd};
use crate::sys::inode::{self, Inode};
use crate::sys::sandbox::{self, MissingLayer, Policy};
use crate::sys::signals;
use crate::sys::wait::poll;

/// The hidden first argument that makes the program a remover; the third is the file's name in its directory.
pub const ARGUMENT: &str = "__remover";

/// How long the end of a tunnel waits for its pid file's.
const PATIENCE: Duration = Duration::from_secs(1);

/// A file that holds our process id, or another of ours; removed when this is dropped, or we are killed.
#[derive(Debug)]
pub struct PidfileGuard {
    remover: Child,
    path: PathBuf,
    socket: UnixStream,
    missing: Vec<MissingLayer>,
    end: Option<HelperEnd>,
}

impl PidfileGuard {
    /// Writes the file, whole: a reader sees the old content or the new one. To be called before lock-down.
    ///
    /// # Errors
    /// The directory cannot be written, or there is no remover.
    pub fn write(path: &Path, helper: &Helper) -> Result<Self, ReadyError> {
        let failed = |source| ReadyError::Pidfile { path: path.into(), source };
        // The directory of `pid` is `.`, which `parent` calls nothing.
        let whole = std::path::absolute(path).map_err(failed)?;
        let (Some(directory), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(failed(Errno::EISDIR.into()));
        };
        let file = write_whole(&whole).map_err(failed)?;
        Self::spawn(helper, directory, name, file).map_err(|source| {
            std::fs::remove_file(&whole).ok();
            failed(source)
        })
    }

    /// The same for a file of any kind that is there.
    ///
    /// # Errors
    /// It is not there, or there is no remover.
    pub fn over(path: &Path, helper: &Helper) -> io::Result<Self> {
        let whole = std::path::absolute(path)?;
        let (Some(directory), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(Errno::EISDIR.into());
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Self::spawn(helper, directory, name, open(&whole, flags, Mode::empty())?)
    }

    fn spawn(helper: &Helper, path: &Path, name: &OsStr, file: impl Into<Stdio>) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        let (ours, theirs) = fd_passing::pair()?;
        let remover = helper
            .command(ARGUMENT)
            .arg(name)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(file)
            .stderr(Stdio::from(directory))
            .process_group(0)
            .spawn()?;
        let path = path.join(name);
        let meaning =
            format!("`{}` will be left behind: the process that removes it has ended", path.display());
        let end = HelperEnd::of(&remover, meaning);
        let mut guard = Self { remover, path, socket: ours.try_clone()?.into(), missing: Vec::new(), end };
        let said = child_channel::receive(&ours, Some(child_channel::DEADLINE));
        (guard.missing, _) = said.map_err(|_silent| io::Error::from(Errno::ECHILD))?;
        guard.socket.set_read_timeout(Some(PATIENCE))?;
        Ok(guard)
    }

    /// Layers of its sandbox that the remover could not have.
    #[must_use]
    pub fn missing_layers(&self) -> &[MissingLayer] {
        &self.missing
    }

    /// The remover's end, to be told while the tunnel runs.
    pub fn take_end(&mut self) -> Option<HelperEnd> {
        self.end.take()
    }
}

impl PidfileGuard {
    /// How a remover ended that has closed its socket, and so is about to.
    fn outcome(&mut self) -> Option<ExitStatus> {
        let deadline = clock::now().boot + PATIENCE;
        loop {
            match self.remover.try_wait() {
                Ok(None) if clock::now().boot < deadline => {
                    let _slept = poll(&mut [], Some(Duration::from_millis(1)));
                }
                ended => return ended.ok().flatten(),
            }
        }
    }
}

impl Drop for PidfileGuard {
    fn drop(&mut self) {
        // What its end means was said then.
        if !matches!(self.remover.try_wait(), Ok(None)) {
            return;
        }
        // Its end closes the other end.
        match self.socket.shutdown(Shutdown::Write).and_then(|()| self.socket.read(&mut [0])) {
            Ok(_end) => {
                if self.outcome().is_some_and(|status| status.signal().is_some()) {
                    let path = self.path.display();
                    tracing::warn!("`{path}` is left behind: the process that removes it was killed");
                }
            }
            Err(error) => tracing::debug!(%error, "a file of ours may remain"),
        }
    }
}

fn write_whole(path: &Path) -> io::Result<File> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(format!(".{}", std::process::id()));
    let mut file = File::options().create_new(true).write(true).mode(0o644).open(&temporary)?;
    let written = writeln!(file, "{}", std::process::id()).and_then(|()| std::fs::rename(&temporary, path));
    written.inspect_err(|_error| drop(std::fs::remove_file(&temporary)))?;
    Ok(file)
}

/// The remover process itself.
#[must_use]
pub fn main(name: &OsString) -> ExitCode {
    let hardened = sandbox::harden_helper()
        .and_then(|()| sandbox::drop_capabilities(false))
        .and_then(|()| END_SIGNALS.into_iter().try_for_each(signals::ignore));
    match (hardened, adopt_fd(0), adopt_fd(1), adopt_fd(2)) {
        (Ok(()), Ok(socket), Ok(file), Ok(directory)) => serve(&socket, &file, directory, Path::new(name)),
        (Err(_), _, _, _) | (_, Err(_), _, _) | (_, _, Err(_), _) | (_, _, _, Err(_)) => ExitCode::FAILURE,
    }
}

fn serve(socket: &OwnedFd, file: &OwnedFd, directory: OwnedFd, name: &Path) -> ExitCode {
    let Ok(there) = directory.try_clone() else { return ExitCode::FAILURE };
    let missing = confine(&confine::Helper::Remover(there), Policy::of_this_helper());
    if child_channel::send(socket, &missing, &[]).is_err() {
        return ExitCode::FAILURE;
    }
    // Nothing is ever said: this returns at the end.
    let _end = child_channel::receive::<()>(socket, None);
    // Somebody who took the name over keeps it.
    let ours = Inode::of_file(file)
        .is_ok_and(|ours| Inode::of_entry(directory.as_fd(), name).is_ok_and(|there| there == ours));
    if ours && inode::remove_from(directory.as_fd(), name).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
