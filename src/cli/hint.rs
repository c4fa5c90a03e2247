//! What to do about an error: advice for people, from typed errors. (cli)
//!
//! Libraries tell facts; this is the only place that gives advice. Advice is an action that the reader can take now.

use std::borrow::Cow;
use std::error::Error;
use std::io;

use nix::errno::Errno;

use super::args_shared::ArgsError;
use super::wg::WgCommandError;
use crate::compat::cdi::CdiError;
use crate::config::ConfigError;
use crate::driver::config_file::ConfigFileError;
use crate::driver::instance::{DirectoryError, InstanceError, Occupant};
use crate::driver::namespace_child::{ChildError, SetupError};
use crate::driver::port_forward::{ForwardError, ForwarderError};
use crate::driver::run_child::{RunError, RunSetupError};
use crate::driver::target::TargetError;
use crate::driver::tunnel::NoHandshake;
use crate::driver::uapi_client::UapiClientError;
use crate::mode::StartError;
use crate::mode::doctor::remedy::{self, Guards};
use crate::mode::inspect::InspectError;
use crate::sys::namespace::NamespaceError;
use crate::sys::os_error::OsError;
use crate::sys::tun::TunError;

type Advice = Option<Cow<'static, str>>;

/// What the reader can do about it now, if there is such a thing.
#[must_use]
pub(super) fn hint(error: &(dyn Error + 'static)) -> Advice {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(hint) = hint_of_one(error) {
            return Some(hint);
        }
        link = error.source();
    }
    None
}

fn hint_of_one(error: &(dyn Error + 'static)) -> Advice {
    if let Some(error) = error.downcast_ref::<InstanceError>() {
        return hint_of_instance(error);
    }
    if let Some(error) = error.downcast_ref::<DirectoryError>() {
        return hint_of_directory(error);
    }
    if let Some(error) = error.downcast_ref::<InspectError>() {
        return hint_of_inspecting(error);
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<WgCommandError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<UapiClientError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<ConfigFileError>() {
        return error.hint();
    }
    if let Some(CdiError::Config(error)) = error.downcast_ref::<CdiError>() {
        return error.hint();
    }
    if let Some(error) = error.downcast_ref::<ArgsError>() {
        return hint_of_arguments(error);
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        return hint_of_start(error);
    }
    if let Some(error) = error.downcast_ref::<SetupError>() {
        return hint_of_setup(error);
    }
    if let Some(error) = error.downcast_ref::<TunError>() {
        return hint_of_tun(error);
    }
    if let Some(error) = error.downcast_ref::<TargetError>() {
        return hint_of_target(error);
    }
    if let Some(error) = error.downcast_ref::<NoHandshake>() {
        return error.hint.clone().map(Cow::Owned);
    }
    #[cfg(feature = "demo")]
    if let Some(error) = error.downcast_ref::<crate::mode::demo_peer::PeerError>()
        && crate::driver::failure::Failure::class(error) == crate::driver::failure::FailureClass::Kernel
    {
        return Some("`wg4netns doctor` tells what this machine lacks and how to mend it".into());
    }
    None
}

fn hint_of_arguments(error: &ArgsError) -> Advice {
    match error {
        ArgsError::NoConfig => {
            if cfg!(feature = "demo") {
                Some("give `--config wg0.conf`; without any server, try `wg4netns demo`".into())
            } else {
                Some("give `--config wg0.conf`".into())
            }
        }
        ArgsError::ConfigBehindCommand => Some("give `--config` before the command".into()),
        ArgsError::Descriptor { .. }
        | ArgsError::SameDescriptor { .. }
        | ArgsError::Missing { .. }
        | ArgsError::Conflict { .. } => None,
    }
}

/// A transparent variant prints as what is in it, and hides it from the chain: looked for here.
fn hint_of_start(error: &StartError) -> Advice {
    match error {
        StartError::Config(error) => error.hint(),
        StartError::Directory(error) => hint_of_directory(error),
        StartError::Name(error) => hint_of_instance(error),
        StartError::NoHandshake(error) => hint_of_one(error),
        StartError::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            Some("choose another `ListenPort`, or leave it out: the kernel then finds a free one".into())
        }
        StartError::Port { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("ports below 1024 are root's; choose another `ListenPort`".into())
        }
        StartError::Forwarder(ForwarderError::Forward(ForwardError::Listen { source, .. })) => {
            hint_of_publishing(*source)
        }
        StartError::PortsWithoutNamespace => Some("name the target by `--netns-pid` or `--netns`".into()),
        StartError::Sandbox(_) => Some(WITHOUT_LAYERS.into()),
        StartError::NotRunning { .. } => Some("`wg4netns ls` lists those that run".into()),
        StartError::Run(error) => hint_of_run(error),
        // The cause is in the chain, and has the advice.
        StartError::Target { .. }
        | StartError::Child(ChildError::Setup { .. })
        | StartError::Tun(_)
        | StartError::Enter { .. }
        | StartError::Port { .. } => None,
        StartError::Child(_)
        | StartError::Forwarder(_)
        | StartError::Factory(_)
        | StartError::Socket(_)
        | StartError::PortSocket(_)
        | StartError::Broker(_)
        | StartError::Peers(_)
        | StartError::ResolvConf { .. }
        | StartError::Report { .. }
        | StartError::CommandKilled
        | StartError::NoNamespace { .. }
        | StartError::Lifetime(_)
        | StartError::Machinery(_)
        | StartError::Ready(_)
        | StartError::Daemonize(_)
        | StartError::Log(_)
        | StartError::Tunnel(_)
        | StartError::Failed { .. } => None,
    }
}

fn hint_of_publishing(source: OsError) -> Advice {
    if source.is(Errno::EADDRINUSE) {
        return Some("publish it on another port of the host, or on a free one: `-p PORT`".into());
    }
    source.is(Errno::EACCES).then(|| {
        "ports below 1024 are root's; take a higher one, or lower `net.ipv4.ip_unprivileged_port_start`"
            .into()
    })
}

/// `run` made no namespaces, or no command. The advice is `doctor`'s.
fn hint_of_run(error: &RunError) -> Advice {
    match error {
        RunError::Setup(RunSetupError::Unshare { source, .. } | RunSetupError::Map { source, .. }) => {
            let mend = remedy::for_user_namespace(Some(*source), &Guards::here());
            let is_command = mend.starts_with("sudo ") || mend.starts_with("wg4netns ");
            Some(if is_command { format!("`{mend}`") } else { mend }.into())
        }
        RunError::Setup(RunSetupError::Link { source, .. }) => hint_of_setup(source),
        RunError::Setup(_) | RunError::Helper(_) | RunError::Execute { .. } | RunError::Join { .. } => None,
    }
}

/// For whoever requires a layer that is not to be had.
const WITHOUT_LAYERS: &str = "`--sandbox=auto` goes on without what this kernel lacks";

fn hint_of_setup(error: &SetupError) -> Advice {
    match error {
        SetupError::Join { source, .. } if source.is(Errno::EPERM) && Guards::here().seccomp => Some(
            "a seccomp filter is on here and may refuse `setns`; run wg4netns outside this container".into(),
        ),
        SetupError::Join { source, .. } if source.is(Errno::EPERM) => Some(
            "run wg4netns as the user that started the container, outside any other user namespace".into(),
        ),
        SetupError::OtherLinks { .. } => {
            Some("`--keep-other-links` allows it, but there is no kill switch then".into())
        }
        SetupError::Unconfined(_) => Some(WITHOUT_LAYERS.into()),
        SetupError::Tun(error) => hint_of_tun(error),
        SetupError::Join { .. }
        | SetupError::Netlink(_)
        | SetupError::Disappeared
        | SetupError::Harden { .. } => None,
    }
}

fn hint_of_tun(error: &TunError) -> Advice {
    match error {
        TunError::Open { source } if source.is(Errno::ENOENT) => {
            Some("load the driver once as root: `modprobe tun`".into())
        }
        TunError::Open { source } if source.is(Errno::EACCES) || source.is(Errno::EPERM) => {
            Some("let everybody open it, as most systems do: `sudo chmod 666 /dev/net/tun`".into())
        }
        TunError::Exists { .. } => Some("choose another name with `--interface`".into()),
        TunError::Create { source, .. } if source.is(Errno::EPERM) => {
            Some("`wg4netns doctor` finds out who forbids it".into())
        }
        TunError::Open { .. }
        | TunError::Create { .. }
        | TunError::NotATun
        | TunError::Detached
        | TunError::Tap { .. }
        | TunError::PacketInformation { .. }
        | TunError::Ioctl { .. } => None,
    }
}

fn hint_of_target(error: &TargetError) -> Advice {
    match error {
        TargetError::HostNamespace => Some(
            "give a process inside the container: `podman inspect -f '{{.State.Pid}}' NAME` prints one"
                .into(),
        ),
        TargetError::Namespace(NamespaceError::Open { source, .. })
            if source.is(Errno::EACCES) || source.is(Errno::EPERM) =>
        {
            Some("run wg4netns as the user whose process it is".into())
        }
        TargetError::Namespace(_) => None,
    }
}

fn hint_of_inspecting(error: &InspectError) -> Advice {
    match error {
        InspectError::NotRunning { .. } => Some("`wg4netns ls` lists those that run".into()),
        InspectError::StillRunning { pid } => {
            Some(format!("`kill -KILL {pid}` ends it; its interface goes with it").into())
        }
        InspectError::Log { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some("only a tunnel in the background has a log; others write to standard error".into())
        }
        InspectError::Directory(error) => hint_of_directory(error),
        InspectError::Locks { .. }
        | InspectError::Starting { .. }
        | InspectError::Talk { .. }
        | InspectError::Signal { .. }
        | InspectError::Log { .. }
        | InspectError::LogPath(_)
        | InspectError::Journal(_)
        | InspectError::Output(_) => None,
    }
}

fn hint_of_instance(error: &InstanceError) -> Advice {
    match error {
        InstanceError::Taken { name, .. } => {
            Some(format!("end it with `wg4netns stop {name}`, or choose another `--name`").into())
        }
        InstanceError::Occupied { found: Occupant::NotASocket, .. } => {
            Some("remove it, or choose another `--name`".into())
        }
        InstanceError::Occupied { .. } | InstanceError::AllTaken { .. } => {
            Some("choose another `--name`".into())
        }
        InstanceError::Directory(error) => hint_of_directory(error),
        InstanceError::Lock { .. } => None,
    }
}

fn hint_of_directory(error: &DirectoryError) -> Advice {
    match error {
        DirectoryError::Mode { path, .. } => Some(
            format!("`chmod go-w {}`, or choose another directory with `--uapi-dir`", path.display()).into(),
        ),
        DirectoryError::Create { .. }
        | DirectoryError::NotADirectory { .. }
        | DirectoryError::Owner { .. }
        | DirectoryError::TooLong { .. } => Some("choose another directory with `--uapi-dir`".into()),
        DirectoryError::Inspect { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_found_behind_an_outer_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot attach")]
        struct Attach(#[source] InstanceError);
        let taken = || InstanceError::Taken { name: "wg0".parse().unwrap(), holder: None };
        let wanted = "end it with `wg4netns stop wg0`, or choose another `--name`";
        assert_eq!(hint(&Attach(taken())).unwrap(), wanted);
        assert_eq!(hint(&StartError::from(taken())).unwrap(), wanted, "behind a transparent one");
        assert_eq!(hint(&io::Error::from(Errno::EPERM)), None);
    }

    #[test]
    fn what_the_child_met_has_its_advice() {
        let child = |source| {
            StartError::from(ChildError::Setup { interface: "wg0".into(), target: "pid 4242".into(), source })
        };
        let missing = child(SetupError::Tun(TunError::Open { source: Errno::ENOENT.into() }));
        assert_eq!(hint(&missing).unwrap(), "load the driver once as root: `modprobe tun`");
        let taken = child(SetupError::Tun(TunError::Exists { name: "wg0".into() }));
        assert_eq!(hint(&taken).unwrap(), "choose another name with `--interface`");
        let links = child(SetupError::OtherLinks { names: vec!["eth0".into()] });
        assert!(hint(&links).unwrap().contains("--keep-other-links"));
    }
}
