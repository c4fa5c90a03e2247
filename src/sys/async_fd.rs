//! Descriptors that tokio watches. (operating system)

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::inotify::Inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clock::BootTimer;
use super::netlink::News;
use super::pidfd::PidFd;
use super::signals::SignalQueue;

/// What owns one descriptor.
///
/// # Safety
/// `as_raw_fd` gives the same descriptor, open and unchanged, for the whole life of the object.
pub unsafe trait OwnsDescriptor: AsRawFd {}

// SAFETY: an `OwnedFd` is one descriptor until it is dropped.
unsafe impl OwnsDescriptor for OwnedFd {}
// SAFETY: a `File` owns one `OwnedFd`.
unsafe impl OwnsDescriptor for File {}
// SAFETY: a `PidFd` owns one `OwnedFd` and never changes it.
unsafe impl OwnsDescriptor for PidFd {}
// SAFETY: a `BootTimer` owns one timer descriptor and never changes it.
unsafe impl OwnsDescriptor for BootTimer {}
// SAFETY: a `News` owns one `OwnedFd` and never changes it.
unsafe impl OwnsDescriptor for News {}
// SAFETY: a `SignalQueue` owns one `SignalFd`, which owns one `OwnedFd`.
unsafe impl OwnsDescriptor for SignalQueue {}
// SAFETY: an `Inotify` owns one `OwnedFd` and never changes it.
unsafe impl OwnsDescriptor for Changes {}

/// Has the runtime of this thread watch a descriptor.
///
/// # Errors
/// EPERM for a regular file, which is always ready.
///
/// # Panics
/// Outside a tokio runtime.
pub fn watch<T: OwnsDescriptor>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the trait promises one descriptor, open and the same until the object is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    watched.map_err(io::Error::from)
}

/// An inotify instance, in a form that can be watched.
#[derive(Debug)]
pub struct Changes(pub Inotify);

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
