//! Telling others that the tunnel is ready: descriptor, service manager, waiting caller. (tasks)
//!
//! Everything is opened by [`Readiness::prepare`], before the sandbox closes; announcing writes to what is open.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use crate::driver::daemonize::{Caller, DaemonizeError};
use crate::driver::failure::{Failure, FailureClass};

/// Why readiness could not be prepared or announced.
#[derive(Debug, thiserror::Error)]
pub enum ReadyError {
    /// The pid file cannot be written.
    #[error("cannot write our process id to `{}`", path.display())]
    Pidfile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The descriptor of `--ready-fd` cannot be written to: nobody waits for us.
    #[error("cannot write to the descriptor of `--ready-fd`")]
    Descriptor(#[source] io::Error),
    /// The caller in the foreground could not be let go.
    #[error(transparent)]
    Caller(#[from] DaemonizeError),
}

impl Failure for ReadyError {
    fn class(&self) -> FailureClass {
        FailureClass::General
    }
}

/// Who waits for the tunnel to be ready.
#[derive(Debug, Default)]
pub struct Readiness {
    ready_fd: Option<OwnedFd>,
    caller: Option<Caller>,
    manager: Option<UnixDatagram>,
}

impl Readiness {
    /// Connects to the service manager if there is one; takes the other two as they are.
    #[must_use]
    pub fn prepare(ready_fd: Option<OwnedFd>, caller: Option<Caller>) -> Self {
        Self { ready_fd, caller, manager: service_manager() }
    }

    /// Tells everybody, once, and closes what they waited on. `status` is one line for the service manager.
    ///
    /// # Errors
    /// The one who asked is gone: the tunnel should end.
    pub fn announce(&mut self, status: &str) -> Result<(), ReadyError> {
        // A service manager that is gone takes its unit with it; nothing is gained by failing here.
        self.tell_manager(&format!("READY=1\nMAINPID={}\nSTATUS={status}\n", std::process::id()));
        if let Some(fd) = self.ready_fd.take() {
            // The byte that slirp4netns writes; every engine takes any byte.
            File::from(fd).write_all(b"1").map_err(ReadyError::Descriptor)?;
        }
        if let Some(caller) = self.caller.take() {
            caller.release()?;
        }
        Ok(())
    }

    /// One line about what happens now, shown by `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell_manager(&format!("STATUS={status}\n"));
    }

    /// Tells the service manager that we end.
    pub fn stopping(&self) {
        self.tell_manager("STOPPING=1\n");
    }

    fn tell_manager(&self, message: &str) {
        if let Some(manager) = &self.manager {
            // The manager may be gone or its queue full: neither is a reason to fail or to wait.
            manager.send(message.as_bytes()).ok();
        }
    }
}

/// The socket that `$NOTIFY_SOCKET` names, connected now because the sandbox allows no connecting later.
fn service_manager() -> Option<UnixDatagram> {
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path))),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_ready_descriptor_gets_one_byte_and_is_closed() {
        let (mut ours, theirs) = io::pipe().unwrap();
        let mut readiness = Readiness { ready_fd: Some(theirs.into()), ..Readiness::default() };
        readiness.announce("ready").unwrap();
        let mut seen = Vec::new();
        ours.read_to_end(&mut seen).unwrap();
        assert_eq!(seen, b"1");
    }

    #[test]
    fn a_ready_descriptor_that_nobody_reads_is_an_error() {
        let (ours, theirs) = io::pipe().unwrap();
        drop(ours);
        let mut readiness = Readiness { ready_fd: Some(theirs.into()), ..Readiness::default() };
        assert!(matches!(readiness.announce("ready"), Err(ReadyError::Descriptor(_))));
    }

    #[test]
    fn the_service_manager_hears_ready_status_and_stopping() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut readiness = Readiness { manager: Some(theirs), ..Readiness::default() };
        readiness.announce("up").unwrap();
        readiness.status("peer answered");
        readiness.stopping();
        let mut buffer = [0; 256];
        let mut next = || {
            let length = ours.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), format!("READY=1\nMAINPID={}\nSTATUS=up\n", std::process::id()));
        assert_eq!(next(), "STATUS=peer answered\n");
        assert_eq!(next(), "STOPPING=1\n");
    }
}
