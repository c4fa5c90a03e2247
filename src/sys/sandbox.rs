//! What a process gives up before it meets untrusted input. (operating system)
//!
//! Capabilities, landlock and seccomp are properties of a thread and do not reach threads that run already: call
//! [`lock_down`] before the first one is started.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::os_error::{OsError, check};
use super::seccomp;

/// What the process is: decides what it keeps.
#[derive(Clone, Debug)]
pub enum Role {
    /// The parent of a tunnel.
    Tunnel {
        /// The only directory it may remove files from: where its socket and lock are, and those of its user's other
        /// tunnels.
        socket_directory: PathBuf,
        /// Keeps CAP_NET_ADMIN if it has it, for firewall marks (the device face).
        keep_net_admin: bool,
    },
}

/// What to do where a layer cannot be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Go on without it, and say so.
    #[default]
    Auto,
    /// Do not run.
    Require,
    /// Leave out the layers that keep us from files and system calls, for whoever looks for a fault in them.
    Off,
}

impl Policy {
    /// As a helper is told it, behind the hidden argument that makes it one.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Require => "require",
            Self::Off => "off",
        }
    }

    /// What this process was told, as a helper.
    #[must_use]
    pub fn of_this_helper() -> Self {
        let word = std::env::args().nth(2).unwrap_or_default();
        word.parse().unwrap_or_default()
    }
}

impl FromStr for Policy {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Auto, Self::Require, Self::Off].into_iter().find(|policy| policy.word() == word).ok_or(())
    }
}

/// One layer of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// No core file, no ptrace by others of the same user.
    Undumpable,
    /// No privileges by executing something.
    NoNewPrivileges,
    /// No capabilities.
    Capabilities,
    /// No files but the socket's directory.
    Landlock,
    /// Only the system calls of the role.
    Seccomp,
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Undumpable => "undumpable",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Capabilities => "capabilities",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        })
    }
}

/// A layer that is not on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("no {layer} layer: {reason}")]
pub struct MissingLayer {
    /// Which.
    pub layer: Layer,
    /// Why not.
    pub reason: String,
}

/// What [`lock_down`] reached.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// Layers that are on.
    pub on: Vec<Layer>,
    /// Layers the kernel does not have or refused.
    pub missing: Vec<MissingLayer>,
}

/// Gives up everything the role does not need.
///
/// Must be called while the process has one thread. The seccomp layer is only made sure of here: each thread installs
/// its own ([`seccomp::restrict`]) when everything else is prepared.
///
/// # Errors
/// The first layer that is missing, if all are required.
pub fn lock_down(role: &Role, policy: Policy) -> Result<Sandbox, MissingLayer> {
    let Role::Tunnel { socket_directory, keep_net_admin } = role;
    let mut sandbox = Sandbox::default();
    let mut note = |layer, result: Result<(), String>| match result {
        Ok(()) => sandbox.on.push(layer),
        Err(reason) => sandbox.missing.push(MissingLayer { layer, reason }),
    };
    let words = |error: OsError| error.to_string();
    note(Layer::Undumpable, no_core_files().and_then(|()| undumpable()).map_err(words));
    note(Layer::NoNewPrivileges, no_new_privileges().map_err(words));
    note(Layer::Capabilities, drop_capabilities(*keep_net_admin).map_err(words));
    if policy != Policy::Off {
        note(Layer::Landlock, restrict_files(socket_directory));
        note(Layer::Seccomp, seccomp::is_available().map_err(|error| error.to_string()));
    }
    match policy {
        Policy::Require if !sandbox.missing.is_empty() => Err(sandbox.missing.remove(0)),
        Policy::Require | Policy::Auto | Policy::Off => Ok(sandbox),
    }
}

impl Sandbox {
    /// Whether threads are to install their filters.
    #[must_use]
    pub fn filters_calls(&self) -> bool {
        self.on.contains(&Layer::Seccomp)
    }
}

/// No core file of this process or its children.
///
/// # Errors
/// What `setrlimit(2)` says.
pub fn no_core_files() -> Result<(), OsError> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Nobody of the same user, nor root of a user namespace that we join, can read our memory or our descriptors.
///
/// From then on the files below `/proc/self` belong to root.
///
/// # Errors
/// What `prctl(2)` says.
pub fn undumpable() -> Result<(), OsError> {
    Ok(prctl::set_dumpable(false)?)
}

/// Undoes [`undumpable`], before something else is executed that must not notice.
///
/// # Errors
/// What `prctl(2)` says.
pub fn dumpable() -> Result<(), OsError> {
    Ok(prctl::set_dumpable(true)?)
}

/// Nothing that this process executes gains privileges.
///
/// # Errors
/// What `prctl(2)` says.
pub fn no_new_privileges() -> Result<(), OsError> {
    Ok(prctl::set_no_new_privs()?)
}

/// The kernel kills this process when the thread that started it ends; `None` undoes that.
///
/// Joining a user namespace of another owner clears it: set it again afterwards.
///
/// # Errors
/// What `prctl(2)` says.
pub fn die_with_parent(signal: Option<Signal>) -> Result<(), OsError> {
    Ok(prctl::set_pdeathsig(signal)?)
}

/// What every helper gives up before it reads anything: descriptors that were inherited, which belong to somebody else;
/// being traced or dumped; privileges by executing something.
///
/// # Errors
/// What the system says to the first of them that cannot be given up.
pub fn harden_helper() -> Result<(), OsError> {
    close_inherited()?;
    undumpable()?;
    no_core_files()?;
    no_new_privileges()
}

/// Closes every descriptor but the three standard ones: for a helper, as its very first step.
///
/// # Errors
/// What `close_range(2)` says.
pub fn close_inherited() -> Result<(), OsError> {
    // SAFETY: close_range takes integers. A helper calls this before it opens anything, so what it closes was
    // inherited and no object of this process owns it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    if result < 0 { Err(OsError::last()) } else { Ok(()) }
}

/// Empties every capability set of this thread, but for CAP_NET_ADMIN if it is to be kept and is there.
///
/// The bounding set as well, where that is allowed; whoever may not has no more than no-new-privileges leaves it.
///
/// # Errors
/// What `capset(2)` or `prctl(2)` say.
pub fn drop_capabilities(keep_net_admin: bool) -> Result<(), OsError> {
    let have = effective_capabilities()?;
    let keep = if keep_net_admin { have & (1 << CAP_NET_ADMIN) } else { 0 };
    clear_ambient()?;
    if have & (1 << CAP_SETPCAP) != 0 {
        clear_bounding(keep)?;
    }
    set_capabilities(keep)
}

/// Whether this thread has CAP_NET_ADMIN over its own user namespace.
#[must_use]
pub fn has_net_admin() -> bool {
    effective_capabilities().is_ok_and(|set| set & (1 << CAP_NET_ADMIN) != 0)
}

/// Whether this thread may map users and groups that are not its own.
#[must_use]
pub fn may_map_users() -> bool {
    let both = (1 << CAP_SETUID) | (1 << CAP_SETGID);
    effective_capabilities().is_ok_and(|set| set & both == both)
}

fn clear_ambient() -> Result<(), OsError> {
    // SAFETY: this prctl takes integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })
        .map(|_zero| ())
}

fn clear_bounding(keep: u32) -> Result<(), OsError> {
    for capability in
        (0..u64::BITS).filter(|capability| *capability >= u32::BITS || keep & (1 << capability) == 0)
    {
        // SAFETY: this prctl takes integers only.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }) {
            Ok(_zero) => {}
            // The kernel has no capability of that number, nor of any above.
            Err(error) if error.is(Errno::EINVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn effective_capabilities() -> Result<u32, OsError> {
    let mut header = CapabilityHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: version 3 of capget reads the header and writes two words of three u32 each; both are ours.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    if result < 0 { Err(OsError::last()) } else { Ok(words[0].effective) }
}

fn set_capabilities(low: u32) -> Result<(), OsError> {
    let mut header = CapabilityHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let words =
        [CapabilityWord { effective: low, permitted: low, inheritable: 0 }, CapabilityWord::default()];
    // SAFETY: version 3 of capset reads the header and two words of three u32 each; both are ours.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    if result < 0 { Err(OsError::last()) } else { Ok(()) }
}

/// Files below the socket's directory may be removed; no other file, no TCP, no foreign abstract sockets.
///
/// Signals are not scoped: with that scope PDEATHSIG was seen not to be delivered. What cannot be opened for a rule makes
/// the layer fail: without the rule, the tunnel could not remove its files in the end.
fn restrict_files(socket_directory: &Path) -> Result<(), String> {
    let directory = PathFd::new(socket_directory).map_err(|error| error.to_string())?;
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V5))?
            .scope(Scope::AbstractUnixSocket)?
            .create()?
            .add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?
            .restrict_self()
    };
    enforced(restrict())
}

/// Whether a ruleset is in force.
pub(super) fn enforced(
    result: Result<landlock::RestrictionStatus, landlock::RulesetError>,
) -> Result<(), String> {
    match result {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Err(OsError::from(Errno::ENOSYS).to_string())
        }
        Ok(_enforced) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

// linux/capability.h
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;
const CAP_NET_ADMIN: u32 = 12;
