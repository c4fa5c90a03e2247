//! Who refused something, and the one command that makes them allow it. (wiring)
//!
//! The kernel says no with one of a few numbers whoever is behind it; the settings of those who can be behind it are
//! read here, and the first that explains the refusal is blamed.

use std::path::Path;

use nix::errno::Errno;

use super::probe::{Refusal, Step};
use crate::sys::os_error::OsError;

/// What there is on this machine that refuses namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// `user.max_net_namespaces`.
    pub max_net_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone` of Debian's kernels; absent elsewhere.
    pub unprivileged_userns_clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` of Ubuntu's.
    pub apparmor_restricts: bool,
    /// A seccomp filter is on, as in a container of Docker or Kubernetes.
    pub seccomp: bool,
    /// Our root directory is not that of our mount namespace: the kernel refuses user namespaces then.
    pub chroot: bool,
    /// SELinux enforces.
    pub selinux: bool,
}

impl Guards {
    /// Those of this machine and process.
    #[must_use]
    pub fn here() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            max_net_namespaces: number("/proc/sys/user/max_net_namespaces"),
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            seccomp: mode.is_some_and(|mode| mode.trim() == "2"),
            chroot: is_chroot(),
            selinux: number("/sys/fs/selinux/enforce") == Some(1),
        }
    }
}

/// In a chroot the root directory is not the root of any mount that `/proc/self/mountinfo` shows at `/`.
fn is_chroot() -> bool {
    std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|mounts| !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")))
}

/// The command that allows user namespaces, for whoever was refused one with this error: `doctor` and the hints of
/// `run` give the same advice.
#[must_use]
pub fn for_user_namespace(error: Option<OsError>, guards: &Guards) -> String {
    let is = |errno| error.is_some_and(|error| error.is(errno));
    if is(Errno::ENOSPC) || is(Errno::EUSERS) {
        return match guards.max_user_namespaces {
            Some(0..=99) | None => "sudo sysctl -w user.max_user_namespaces=15000".into(),
            Some(_) => "there are too many user namespaces already, or more than 32 in each other".into(),
        };
    }
    if guards.max_user_namespaces == Some(0) {
        return "sudo sysctl -w user.max_user_namespaces=15000".into();
    }
    if guards.unprivileged_userns_clone == Some(0) {
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1".into();
    }
    if guards.apparmor_restricts {
        return APPARMOR.into();
    }
    if guards.seccomp {
        return DOCKER.into();
    }
    if guards.chroot {
        return "leave the chroot, or enter it with a mount namespace: `unshare --mount --root=DIR`".into();
    }
    if guards.selinux {
        return "`sudo ausearch -m avc -ts recent` shows what SELinux refused".into();
    }
    "ask whoever runs this machine to allow unprivileged user namespaces".into()
}

const APPARMOR: &str = "wg4netns doctor --apparmor-profile | sudo tee /etc/apparmor.d/wg4netns && \
                        sudo apparmor_parser -r /etc/apparmor.d/wg4netns";

const DOCKER: &str = "start the container with `--security-opt seccomp=unconfined --device /dev/net/tun` \
                      (Kubernetes: `seccompProfile: {type: Unconfined}`)";

/// The command that mends what a probe was refused.
pub(super) fn for_refusal(refusal: &Refusal, guards: &Guards) -> String {
    match refusal.step {
        Step::UnshareUser | Step::Map | Step::UnshareMount | Step::Configure => {
            for_user_namespace(refusal.error, guards)
        }
        Step::UnshareNetwork => match (refusal.error, guards.max_net_namespaces) {
            (Some(error), Some(0..=99) | None) if error.is(Errno::ENOSPC) => {
                "sudo sysctl -w user.max_net_namespaces=15000".into()
            }
            (error, _) => for_user_namespace(error, guards),
        },
        Step::OpenTun => for_tun_device(refusal.error),
        // Inside the namespace we have every capability over it, unless somebody takes them away from programs in
        // user namespaces.
        Step::MakeTun => for_user_namespace(refusal.error, guards),
        Step::Overlay => {
            "Linux 5.11 or later; until then `run` binds its resolv.conf, which a change on the host undoes"
                .into()
        }
        Step::Udp => "sudo ip link set lo up".into(),
        Step::Probe => "run `wg4netns doctor` again; if it stays, please report it".into(),
    }
}

/// The command that makes `/dev/net/tun` usable, after opening it was refused with this error.
#[must_use]
pub fn for_tun_device(error: Option<OsError>) -> String {
    let in_container = Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists();
    let is = |errno| error.is_some_and(|error| error.is(errno));
    if in_container && (is(Errno::ENOENT) || is(Errno::EPERM)) {
        return "start the container with `--device /dev/net/tun` (its host may need `sudo modprobe tun`)"
            .into();
    }
    if is(Errno::EACCES) || is(Errno::EPERM) {
        return "sudo chmod 666 /dev/net/tun".into();
    }
    if is(Errno::ENOENT) && Path::new("/sys/class/misc/tun").exists() {
        return "sudo sh -c 'modprobe tun; mkdir -p /dev/net; \
                test -e /dev/net/tun || mknod -m 666 /dev/net/tun c 10 200'"
            .into();
    }
    "sudo modprobe tun".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mend(errno: Errno, guards: &Guards) -> String {
        for_user_namespace(Some(errno.into()), guards)
    }

    #[test]
    fn whoever_refuses_user_namespaces_is_found() {
        let none = Guards { max_user_namespaces: Some(63_000), ..Guards::default() };
        let with = |change: fn(&mut Guards)| {
            let mut guards = none.clone();
            change(&mut guards);
            guards
        };
        for (errno, guards, word) in [
            (Errno::ENOSPC, with(|guards| guards.max_user_namespaces = Some(0)), "user.max_user_namespaces"),
            (Errno::ENOSPC, none.clone(), "too many"),
            (
                Errno::EPERM,
                with(|guards| guards.unprivileged_userns_clone = Some(0)),
                "unprivileged_userns_clone=1",
            ),
            (Errno::EACCES, with(|guards| guards.apparmor_restricts = true), "--apparmor-profile"),
            (Errno::EPERM, with(|guards| guards.seccomp = true), "seccomp=unconfined"),
            (Errno::EPERM, with(|guards| guards.chroot = true), "chroot"),
            (Errno::EACCES, with(|guards| guards.selinux = true), "ausearch"),
            (Errno::EPERM, none.clone(), "whoever runs this machine"),
        ] {
            let said = mend(errno, &guards);
            assert!(said.contains(word), "{errno}: {said}");
        }
    }

    #[test]
    fn debians_switch_is_blamed_before_dockers_filter() {
        let both = Guards { unprivileged_userns_clone: Some(0), seccomp: true, ..Guards::default() };
        assert_eq!(mend(Errno::EPERM, &both), "sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }

    #[test]
    fn a_tun_device_that_may_not_be_opened_needs_its_mode() {
        assert_eq!(for_tun_device(Some(Errno::EACCES.into())), "sudo chmod 666 /dev/net/tun");
    }
}
