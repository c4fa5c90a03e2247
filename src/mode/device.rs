//! `device`: an interface in the current namespace that `wg` and `ip` configure, as wireguard-go makes one. (wiring)
//!
//! The story from top to bottom: name and socket, a port of the kernel's choice, the interface or the TUN that was passed;
//! then the sandbox closes, the threads start, and the caller is let go. Nothing is configured here: addresses, MTU, up
//! and down are followed as others change them, keys and peers come over the socket. It ends with the interface,
//! with the socket's file, or by a signal.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tracing::debug;

use super::attach::serve;
use super::request::DeviceRequest;
use super::start::{self, Foundation, Interface, StartError};
use crate::driver::daemonize::{self, Caller, Side};
use crate::driver::instance::{self, InstanceName, NameChoice, RecordedTarget};
use crate::driver::interface_name::InterfaceName;
use crate::driver::lifetime::{END_SIGNALS, LifeLine, Lifetime};
use crate::driver::link_setup;
use crate::driver::logging::{self, LogDestination, LogError};
use crate::driver::namespace_child::{ChildError, ChildRequest};
use crate::driver::ready::Readiness;
use crate::driver::target::Target;
use crate::driver::tunnel::TunnelError;
use crate::driver::uapi_server::Access;
use crate::driver::uapi_socket::SocketGuard;
use crate::driver::udp::UdpPort;
use crate::sys::netlink::{Netlink, News, RtnetlinkSockets, Topics};
use crate::sys::signals::SignalQueue;
use crate::sys::tun;

/// Where plain `wg` looks, whoever calls it.
const SYSTEM_DIRECTORY: &str = "/var/run/wireguard";

/// Runs the interface to its end; unless in the foreground, returns in the caller's process when it is ready.
///
/// # Errors
/// See [`StartError`]; the inner value is the exit code of a caller that was let go.
pub fn run(request: DeviceRequest) -> Result<u8, StartError> {
    let caller = if request.foreground {
        None
    } else {
        match daemonize::into_background()? {
            Side::Caller(code) => return Ok(code),
            Side::Daemon(caller) => Some(caller),
        }
    };
    device(request, caller).map(|()| 0)
}

fn device(request: DeviceRequest, caller: Option<Caller>) -> Result<(), StartError> {
    let directory = request.uapi_dir.unwrap_or_else(|| PathBuf::from(SYSTEM_DIRECTORY));
    // From here on there is something to clear away.
    let signals = SignalQueue::take(&END_SIGNALS)?;
    let foundation = lay_foundation(&directory, &request.interface, request.listener)?;
    let name = foundation.instance.name().clone();
    start_logging(request.log, caller.is_some().then_some(name))?;
    let device = start::make_device(None, &foundation.udp)?;
    let plan = start::network_plan(None, None, false);
    let interface = match request.tun {
        Some(queue) => passed_interface(queue)?,
        None => make_interface(&request.interface)?,
    };
    start::record(&foundation.instance, "device", &request.interface, RecordedTarget::Own, None)?;
    let socket = foundation.socket.path().to_owned();
    let mut assembly = start::assemble(foundation, device, interface, plan, Vec::new(), None, false);

    let readiness = Readiness::prepare(None, caller);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Machinery)?;
    runtime.block_on(async {
        // Before the sandbox: what is watched must be opened.
        let lifetime = Lifetime::watch(vec![LifeLine::Signals(signals), LifeLine::SocketFile(socket)])?;
        let access = Access::of_this_process();
        // `wg set … fwmark` is what keeps wg-quick's default route from swallowing our own datagrams.
        let keep_net_admin = true;
        start::lock_down(&mut assembly, keep_net_admin, request.sandbox)?;
        serve(assembly, access, lifetime, readiness, None).await
    })
}

/// The interface's own name or none: `wg` finds a device by its interface.
fn lay_foundation(
    directory: &Path,
    interface: &InterfaceName,
    listener: Option<OwnedFd>,
) -> Result<Foundation, StartError> {
    let fallback: InstanceName = "wg".parse().expect("`wg` is a name");
    let name = InstanceName::sanitized(interface.as_str(), &fallback);
    let Some(listener) = listener else {
        return start::lay_foundation(Some(directory), &NameChoice::Exactly(name), None);
    };
    let directory = instance::runtime_dir(Some(directory))?;
    let instance = instance::claim_served(&directory, &name)?;
    let socket = SocketGuard::adopt(&instance)?;
    let udp = UdpPort::bind(0, 0).map_err(|source| StartError::Port { port: 0, source })?;
    Ok(Foundation { instance, listener: UnixListener::from(listener), socket, udp })
}

/// A daemon logs where daemons log; if there is no such place it does not log, as wireguard-go does not either.
fn start_logging(options: logging::LogOptions, detached: Option<InstanceName>) -> Result<(), StartError> {
    match detached.map(LogDestination::Detached) {
        Some(destination) => match logging::start(options, &destination) {
            Err(LogError::NoDirectory | LogError::File { .. }) => {
                Ok(logging::start(options, &LogDestination::Stderr)?)
            }
            other => Ok(other?),
        },
        None => Ok(logging::start(options, &LogDestination::Stderr)?),
    }
}

/// Makes the interface here: down, without addresses, with the MTU that every implementation begins with.
fn make_interface(name: &InterfaceName) -> Result<Interface, StartError> {
    let request = ChildRequest {
        interface: name.clone(),
        queues: 1,
        network: start::network_plan(None, None, false),
        bare: true,
        keep_other_links: true,
        replace: false,
    };
    let made = link_setup::make(&request).map_err(|source| ChildError::Setup {
        interface: name.to_string(),
        target: Target::Current.to_string(),
        source,
    })?;
    for warning in &made.warnings {
        // That there are other links is the point of this mode.
        debug!("{warning}");
    }
    let queue = made.queues.into_iter().next().expect("an interface has at least one queue");
    Interface::over(queue, made.state, Some(made.rtnetlink))
}

/// Takes over a TUN that was passed, and follows its interface if that is in our namespace.
fn passed_interface(queue: OwnedFd) -> Result<Interface, StartError> {
    let name = tun::inspect(queue.as_fd())?.name;
    let news = News::open(Topics::Interfaces).map_err(TunnelError::from)?;
    let mut netlink = Netlink::open().map_err(TunnelError::from)?;
    match netlink.link_named(&name).map_err(TunnelError::from)? {
        Some(state) => {
            let sockets = RtnetlinkSockets { requests: netlink.into_fd(), news: news.into_fd() };
            Interface::over(queue, state, Some(sockets))
        }
        None => Interface::from_tun(queue, start::DEFAULT_MTU),
    }
}
