//! The child of `run`, from its first instruction until it is the user's command. (wiring)
//!
//! # Theory of operation
//! It is this program with a hidden first argument, started by [`crate::driver::run_child`]; the number of its socket
//! and the command follow. Everything is made before the exec, and everything that the command would notice is put back
//! right before it. It has no secret and is the caller's own process throughout, so unlike the namespace child it need
//! not hide from anybody.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};

use crate::driver::child_channel::{receive, send};
use crate::driver::link_setup::{self, MadeLink};
use crate::driver::namespace_child::Made;
use crate::driver::private_etc::{self, PrivateEtcWarning};
use crate::driver::run_child::{FromChild, Make, RunSetupError, ToChild};
use crate::sys::fd_passing::adopt_fd;
use crate::sys::namespace::{self, NamespaceKind};
use crate::sys::os_error::OsError;
use crate::sys::{caller, sandbox, sysctl};

/// The whole life of the child: `arguments` are the socket's number, the program and its arguments.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let [number, program, rest @ ..] = arguments else { return ExitCode::FAILURE };
    let socket = number.to_str().and_then(|number| number.parse().ok()).and_then(|n| adopt_fd(n).ok());
    let Some(socket) = socket else { return ExitCode::FAILURE };
    let Ok((ToChild::Make(make), _)) = receive(&socket, None) else { return ExitCode::FAILURE };
    let said = match work(&socket, &make) {
        Ok((link, warnings)) => {
            let (made, fds) = Made::describe(&link);
            send(&socket, &FromChild::Made { made, warnings }, &fds)
        }
        Err(Stop::Failed(error)) => send(&socket, &FromChild::Failed(error), &[]),
        Err(Stop::Abandoned) => return ExitCode::FAILURE,
    };
    if said.is_err() {
        return ExitCode::FAILURE;
    }
    // For as long as it takes: a peer may have to answer first. If the parent goes, so do we.
    let Ok((ToChild::Go, _)) = receive(&socket, None) else { return ExitCode::FAILURE };
    let source = match make.caller.restore().and_then(|()| sandbox::die_with_parent(None)) {
        Ok(()) => caller::execute(program, rest),
        Err(error) => error,
    };
    let _parent_gone = send(&socket, &FromChild::NotExecuted(source), &[]);
    ExitCode::FAILURE
}

/// Why there is nothing to hand over.
enum Stop {
    /// To be told.
    Failed(RunSetupError),
    /// The parent is gone.
    Abandoned,
}

impl From<RunSetupError> for Stop {
    fn from(error: RunSetupError) -> Self {
        Self::Failed(error)
    }
}

fn work(socket: &OwnedFd, make: &Make) -> Result<(MadeLink, Vec<PrivateEtcWarning>), Stop> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let unshare = |kind| move |source: OsError| RunSetupError::Unshare { kind, source };
    // The user namespace first and by itself: it is what systems forbid, and it should be named then.
    for kind in [NamespaceKind::User, NamespaceKind::Network, NamespaceKind::Mount] {
        namespace::unshare(&[kind]).map_err(unshare(kind))?;
    }
    let _without = sandbox::die_with_parent(Some(Signal::SIGKILL));
    if make.parent_maps {
        send(socket, &FromChild::Unshared, &[]).map_err(|_gone| Stop::Abandoned)?;
        let Ok((ToChild::Mapped, _)) = receive(socket, None) else { return Err(Stop::Abandoned) };
    } else {
        let inside = if make.map_root { (0, 0) } else { (uid, gid) };
        namespace::map_one_user(inside, (uid, gid))
            .map_err(|(file, source)| RunSetupError::Map { file, source })?;
    }
    let warnings = private_etc::install(&make.resolv_conf).map_err(RunSetupError::Etc)?;
    let link = link_setup::make(&make.link)
        .map_err(|source| RunSetupError::Link { interface: make.link.interface.to_string(), source })?;
    // Only `ping` without a capability needs it.
    let _no_ping = sysctl::allow_ping(getegid().as_raw());
    Ok((link, warnings))
}
