//! The namespace child, from its first instruction to its last: join, make, configure, hand over, end; or stay, and
//! make sockets. (wiring)
//!
//! # Theory of operation
//! It is this program with a hidden first argument, started by [`crate::driver::namespace_child`] with a socket as its
//! standard input. It works where somebody else is root, so it first makes itself unreadable and closes what it
//! inherited; it holds no key, runs no other program, and has one thread. The interface lives as long as a descriptor
//! of it, so whatever kills the child or its parent, at any instruction, removes the interface.
//!
//! Once it has joined, and before it asks anything there, it keeps the TUN device, the settings of the network and no other
//! file, and the system calls of [`Role::LinkMaker`](crate::sys::seccomp::Role). Not earlier: until then it reads one
//! record, its parent's; it joins namespaces of three kinds, which the list is there to forbid; and the files are named
//! in the mount namespace that it joins. The child that stays has one list for making its listeners, and then a shorter one.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::driver::child_channel;
use crate::driver::link_setup;
use crate::driver::namespace_child::{Request, SetupError, Work, send_reply};
use crate::driver::socket_factory;
use crate::sys::confine;
use crate::sys::fd_passing::adopt_fd;
use crate::sys::namespace::{self, NamespaceKind};
use crate::sys::os_error::OsError;
use crate::sys::sandbox::{self, Policy};

/// The whole life of the child. Must be called before anything else in the process has opened a descriptor.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(socket) = harden().and_then(|()| adopt_fd(0)) else { return ExitCode::FAILURE };
    let Ok((request, fds)) = child_channel::receive::<Request>(&socket, None) else {
        return ExitCode::FAILURE;
    };
    if fds.len() != request.namespaces.len() {
        return ExitCode::FAILURE;
    }
    let entered = enter(&request, fds);
    match &request.work {
        Work::Link(link) => {
            let made = entered.and_then(|()| confine()).and_then(|()| link_setup::make(link));
            let sent = send_reply(&socket, made.as_ref().map_err(Clone::clone));
            // If nobody listens any more there is nobody to tell, and what was made ends with this process.
            if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Work::Sockets(sockets) => socket_factory::work(&socket, entered, sockets),
    }
}

fn enter(request: &Request, fds: Vec<OwnedFd>) -> Result<(), SetupError> {
    join(request, fds)?;
    // Joining a user namespace of another owner has made us readable again, and orphans that nobody kills.
    protect().map_err(|source| SetupError::Harden { source })
}

/// For the rest of a short life. Kernels without these layers are the tunnel's to complain of.
fn confine() -> Result<(), SetupError> {
    let policy = Policy::of_this_helper();
    sandbox::no_new_privileges().map_err(|source| SetupError::Harden { source })?;
    match confine::confine(&confine::Helper::LinkMaker, policy).pop() {
        Some(missing) if policy == Policy::Require => Err(SetupError::Unconfined(missing)),
        Some(_) | None => Ok(()),
    }
}

fn harden() -> Result<(), OsError> {
    sandbox::close_inherited()?;
    protect()
}

/// What a joined namespace's root must not find: our memory, our descriptors, a process without its parent.
fn protect() -> Result<(), OsError> {
    sandbox::no_core_files()?;
    sandbox::undumpable()?;
    sandbox::die_with_parent(Some(Signal::SIGKILL))
}

/// Joins the namespaces in the order they came: user, network, mount.
fn join(request: &Request, fds: Vec<OwnedFd>) -> Result<(), SetupError> {
    let mut refused_user = None;
    for (kind, fd) in request.namespaces.iter().zip(fds) {
        let Err(source) = namespace::join(fd.as_fd(), *kind) else { continue };
        // The user namespace that we are in already.
        if *kind == NamespaceKind::User && source.is(Errno::EINVAL) {
            continue;
        }
        // An engine that keeps us in its own user namespace may own the network all the same; the next join tells.
        if *kind == NamespaceKind::User && source.is(Errno::EPERM) {
            refused_user = Some(source);
            continue;
        }
        let (kind, source) = refused_user.map_or((*kind, source), |first| (NamespaceKind::User, first));
        return Err(SetupError::Join { kind, target: request.target.clone(), owner: request.owner, source });
    }
    Ok(())
}
