//! Settings below `/proc/sys/net`, of the network namespace this thread is in. (operating system)

use std::path::PathBuf;

use nix::errno::Errno;

use super::namespace::write_proc;
use super::os_error::OsError;

/// A setting of IPv6 for one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Setting {
    /// No IPv6 at all: no addresses, nothing sent, nothing taken.
    Disable,
    /// IPv6 on this interface, whatever the others do.
    Enable,
    /// Router advertisements change nothing, and none is asked for.
    IgnoreRouters,
    /// Addresses are usable at once.
    NoDuplicateDetection,
}

impl Ipv6Setting {
    const fn values(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Disable => &[("disable_ipv6", "1")],
            Self::Enable => &[("disable_ipv6", "0")],
            Self::IgnoreRouters => &[("accept_ra", "0"), ("autoconf", "0"), ("router_solicitations", "0")],
            Self::NoDuplicateDetection => &[("accept_dad", "0")],
        }
    }
}

/// Applies a setting to an interface. Without IPv6 in the kernel there is nothing to do.
///
/// # Errors
/// The file that could not be written, and what the system said (EROFS where `/proc/sys` is read-only).
pub fn set_ipv6(interface: &str, setting: Ipv6Setting) -> Result<(), (PathBuf, OsError)> {
    for (name, value) in setting.values() {
        match write_proc(&format!("/proc/sys/net/ipv6/conf/{interface}/{name}"), value) {
            Err((_, error)) if error.is(Errno::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Lets one group open ICMP echo sockets: `ping` then works without a capability.
///
/// # Errors
/// The file that could not be written, and what the system said.
pub fn allow_ping(gid: u32) -> Result<(), (PathBuf, OsError)> {
    write_proc("/proc/sys/net/ipv4/ping_group_range", &format!("{gid} {gid}"))
}
