//! What the helpers of a tunnel give up of files and system calls; [`sandbox`](super::sandbox) is the tunnel's own.
//! (operating system)
//!
//! Each helper is a process of its own, told by its parent what the user wants of the sandbox, and tells which layers it
//! could not have: only the parent can say so, or not start at all. What costs nothing to be without (capabilities, new
//! privileges, core files) the helpers have given up already.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::sandbox::{Layer, MissingLayer, Policy, enforced};
use super::seccomp;

/// Which helper.
#[derive(Debug)]
pub enum Helper {
    /// Resolves names with whatever the C library uses for that, which reads files of the system.
    Broker,
    /// Makes sockets inside for others; while it makes the first, which listen.
    FactoryBegin,
    /// The same from then on.
    Factory,
    /// Carries what comes to forwarded ports.
    Forwarder,
    /// Removes a file from this directory when the tunnel ends.
    Remover(OwnedFd),
    /// Makes an interface inside, where it has joined, and ends.
    LinkMaker,
}

/// Leaves this process the files and the system calls that its role needs; returns the layers that it could not have.
///
/// Must be called while the process has one thread.
#[must_use]
pub fn confine(helper: &Helper, policy: Policy) -> Vec<MissingLayer> {
    if policy == Policy::Off {
        return Vec::new();
    }
    let mut missing = Vec::new();
    let mut note = |layer, result: Result<(), String>| {
        if let Err(reason) = result {
            missing.push(MissingLayer { layer, reason: format!("{reason} (in {})", name(helper)) });
        }
    };
    note(Layer::Landlock, restrict_files(helper));
    note(Layer::Seccomp, filter_calls(helper));
    missing
}

const fn name(helper: &Helper) -> &'static str {
    match helper {
        Helper::Broker => "the process that resolves names",
        Helper::FactoryBegin | Helper::Factory => "the process that makes sockets inside",
        Helper::Forwarder => "the process that forwards ports",
        Helper::Remover(_) => "the process that removes a file of ours",
        Helper::LinkMaker => "the process that makes the interface",
    }
}

fn filter_calls(helper: &Helper) -> Result<(), String> {
    seccomp::is_available()
        .and_then(|()| match helper {
            Helper::Broker => seccomp::restrict(seccomp::Role::Broker),
            Helper::FactoryBegin => seccomp::restrict(seccomp::Role::FactoryBegin),
            Helper::Factory => seccomp::restrict(seccomp::Role::Factory),
            Helper::Forwarder => seccomp::restrict(seccomp::Role::Forwarder),
            Helper::Remover(_) => seccomp::restrict(seccomp::Role::Remover),
            Helper::LinkMaker => seccomp::restrict(seccomp::Role::LinkMaker),
        })
        .map_err(|error| error.to_string())
}

/// The landlock layer of a helper alone.
///
/// Signals are not scoped, for the reason that [`sandbox`](super::sandbox) gives.
///
/// # Errors
/// The kernel has no landlock, or refuses it.
pub fn restrict_files(helper: &Helper) -> Result<(), String> {
    let all = AccessFs::from_all(ABI::V5);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let (places, access): (Vec<PathBuf>, BitFlags<AccessFs>) = match helper {
        Helper::Broker => (resolver_places().into_iter().collect(), read),
        Helper::FactoryBegin | Helper::Factory | Helper::Forwarder | Helper::Remover(_) => (Vec::new(), read),
        // The device may be any kind of node, and settings of the network are files.
        Helper::LinkMaker => (
            ["/dev/net/tun", "/proc/sys/net"].map(PathBuf::from).into(),
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
        ),
    };
    let restrict = || {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .scope(Scope::AbstractUnixSocket)?;
        rules = match helper {
            // It connects and listens: that is what it is for.
            Helper::Forwarder => rules,
            Helper::FactoryBegin => rules.handle_access(AccessNet::ConnectTcp)?,
            // Long answers of a name server come by TCP.
            Helper::Broker => rules.handle_access(AccessNet::BindTcp)?,
            Helper::Factory | Helper::Remover(_) | Helper::LinkMaker => {
                rules.handle_access(AccessNet::from_all(ABI::V5))?
            }
        };
        let mut rules = rules.create()?;
        for place in &places {
            // What is not there cannot be read. Of a file's rights a rule must not hold those of directories.
            let Ok(opened) = PathFd::new(place) else { continue };
            let access = if place.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
        if let Helper::Remover(directory) = helper {
            rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
        }
        rules.restrict_self()
    };
    enforced(restrict())
}

/// Where resolvers look: settings and libraries, and wherever the settings really are. Files that are replaced stay
/// readable, because it is their directories that are listed.
fn resolver_places() -> BTreeSet<PathBuf> {
    const PLACES: [&str; 8] = [
        "/etc",
        "/usr",
        "/lib",
        "/lib64",
        "/run/systemd/resolve",
        "/nix/store",
        "/gnu/store",
        "/proc/sys/net/ipv6/conf",
    ];
    const SETTINGS: [&str; 5] =
        ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];
    let real = |path: &&str| std::fs::canonicalize(path).ok()?.parent().map(Path::to_owned);
    let beside = SETTINGS.iter().filter_map(real).filter(|directory| directory != Path::new("/"));
    PLACES.iter().map(PathBuf::from).chain(beside).collect()
}
