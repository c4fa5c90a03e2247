//! `attach`: a WireGuard interface in a namespace that somebody else made. (wiring)
//!
//! The story from top to bottom: configuration, name, socket, port; then the target is opened and a child makes the
//! interface in it; then the sandbox closes, the threads start, and whoever waits is told. The tunnel ends with what
//! it was tied to: the target, the exit descriptor, the interface, a signal.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::forward;
use super::request::{AttachRequest, AttachTarget, ConfigSource, EngineNeeds};
use super::start::{self, Assembly, Interface, StartError};
use crate::config::{Config, NetworkPlan, Table};
use crate::driver::daemonize::{self, Caller, Side};
use crate::driver::instance::{RecordedTarget, start_time};
use crate::driver::interface_name::InterfaceName;
use crate::driver::lifetime::{END_SIGNALS, LifeLine, Lifetime};
use crate::driver::logging::{self, LogDestination};
use crate::driver::namespace_child::{self, ChildRequest, Helper};
use crate::driver::pidfile::PidfileGuard;
use crate::driver::port_socket::PortSocket;
use crate::driver::ready::Readiness;
use crate::driver::target::{OpenTarget, Target};
use crate::driver::tunnel::{Tunnel, wait_for_handshake};
use crate::driver::uapi_server::{self, Access};
use crate::sys::namespace::NamespaceError;
use crate::sys::pidfd::PidFd;
use crate::sys::signals::SignalQueue;

/// Runs the tunnel to its end; with `--background`, returns in the caller's process when it is ready.
///
/// # Errors
/// See [`StartError`]; the inner value is the exit code of a caller that was let go.
pub fn run(request: AttachRequest) -> Result<u8, StartError> {
    let caller = if request.ready.background {
        match daemonize::into_background()? {
            Side::Caller(code) => return Ok(code),
            Side::Daemon(caller) => Some(caller),
        }
    } else {
        None
    };
    attach(request, caller).map(|()| 0)
}

fn attach(mut request: AttachRequest, caller: Option<Caller>) -> Result<(), StartError> {
    // What an engine shows of a helper's output, it shows as the reason of a failure.
    let detached = caller.is_some() || request.engine.is_engine;
    if !detached {
        logging::start(request.log, &LogDestination::Stderr)?;
    }
    let loaded = request.config.as_ref().map(ConfigSource::load).transpose()?;
    let config = loaded.as_ref().map(|loaded| &loaded.config);
    let stem = loaded.as_ref().and_then(|loaded| loaded.stem());
    let stem = request.engine.preferred_name.as_deref().or(stem);
    let choice = start::name_choice(request.name.as_ref(), stem, &request.interface);
    // From here on there is something to clear away.
    let signals = SignalQueue::take(&END_SIGNALS)?;
    let foundation = start::lay_foundation(request.uapi_dir.as_deref(), &choice, config)?;
    if detached {
        let destination = LogDestination::Detached(foundation.instance.name().clone());
        logging::start(request.log, &destination)?;
    }
    if let Some(loaded) = &loaded {
        start::say_warnings(loaded);
    }
    let mut forwards = std::mem::take(&mut request.forwards);
    forward::complete(&mut forwards, config, &request.dns);
    let host_resolvers = forward::keep_resolvers(&mut forwards, &request.engine, config, &request.dns);
    if !forwards.is_empty() && matches!(request.target, AttachTarget::Tun(_)) {
        return Err(StartError::PortsWithoutNamespace);
    }
    let helper = Helper::this_program().under(request.sandbox);
    let mut forwarder = forward::listen(&forwards, &helper, request.engine.is_engine)?;
    let port_socket =
        request.engine.port_socket.as_deref().map(|path| PortSocket::bind(path, &helper)).transpose()?;
    let device = start::make_device(config, &foundation.udp)?;
    let names = start::endpoint_names(config);
    let broker = start::start_broker(&names, &helper)?;
    let mut plan = start::network_plan(config, request.mtu, request.routes);
    fit_to_engine(&mut plan, &request.engine, config);
    plan.host_resolvers = host_resolvers;
    if let Some(path) = &request.write_resolv_conf {
        write_resolv_conf(path, &start::resolv_conf(config, &request.dns))?;
    }
    let config_name = loaded.as_ref().map(|loaded| loaded.config.name.clone());
    let bare = request.bare || config.is_none();
    start::forget(loaded);
    let mut lines = vec![LifeLine::Signals(signals)];
    lines.extend(request.exit_fd.take().map(LifeLine::ExitFd));
    if request.end_with_socket {
        lines.push(LifeLine::SocketFile(foundation.socket.path().to_owned()));
    }

    let mut missing = Vec::new();
    let (interface, recorded) = match request.target {
        AttachTarget::Tun(queue) => {
            (Interface::from_tun(queue, plan.mtu.unwrap_or_default())?, RecordedTarget::Tun)
        }
        AttachTarget::Namespace(target) => {
            let recorded = recorded(&target);
            let mut target = open(target, &request.interface)?;
            let child = ChildRequest {
                interface: request.interface.clone(),
                queues: 1,
                network: plan.clone(),
                bare,
                keep_other_links: request.keep_other_links,
                replace: request.engine.configures_interface,
            };
            let handover = namespace_child::spawn(&helper, &target, &child)?;
            still_there(&target, &request.interface)?;
            if let Some(forwarder) = &mut forwarder {
                // The addresses of a bare interface are somebody else's to know.
                let own = (!bare).then_some(&plan);
                missing = forward::begin(forwarder, &helper, &target, &forwards, own)?;
            }
            lines.extend(target.life_line());
            (Interface::from_handover(handover)?, recorded)
        }
    };
    let wait = request.ready.wait_handshake;
    start::record(&foundation.instance, "attach", &request.interface, recorded, config_name)?;
    let mut assembly = start::assemble(foundation, device, interface, plan, names, broker, wait.is_some());

    assembly.forwarder = forwarder;
    assembly.missing_layers = missing;
    assembly.missing_layers.extend(port_socket.iter().flat_map(PortSocket::missing_layers).cloned());
    assembly.port_socket = port_socket;
    let pidfile = request.ready.pidfile.as_deref();
    let mut pidfile = pidfile.map(|path| PidfileGuard::write(path, &helper)).transpose()?;
    assembly.missing_layers.extend(pidfile.iter().flat_map(PidfileGuard::missing_layers).cloned());
    let pidfile_end = pidfile.as_mut().and_then(PidfileGuard::take_end);
    let socket_end = assembly.port_socket.as_mut().and_then(PortSocket::take_end);
    assembly.helper_ends = pidfile_end.into_iter().chain(socket_end).collect();
    let readiness = Readiness::prepare(request.ready.ready_fd.take(), caller);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Machinery)?;
    let result = runtime.block_on(async {
        // Before the sandbox: what is watched must be opened.
        let lifetime = Lifetime::watch(lines).map_err(StartError::from)?;
        let access = Access::of_this_process();
        start::lock_down(&mut assembly, false, request.sandbox)?;
        serve(assembly, access, lifetime, readiness, wait).await
    });
    drop(pidfile);
    result
}

/// From the first thread to the last: the tunnel's life.
pub(super) async fn serve(
    assembly: Assembly,
    access: Access,
    mut lifetime: Lifetime,
    mut readiness: Readiness,
    wait: Option<Duration>,
) -> Result<(), StartError> {
    let Assembly {
        instance,
        listener,
        socket,
        parts,
        forwarder,
        port_socket,
        missing_layers: _,
        helper_ends,
    } = assembly;
    let Tunnel { mut control, handle, established, backlog } = Tunnel::start(parts)?;
    let mut tasks = JoinSet::new();
    let (handle, forwarder) = forward::hand_out(forwarder, handle, &mut tasks)?;
    if let (Some(socket), Some(forwards)) = (port_socket, handle.forwards().cloned()) {
        tasks.spawn(socket.serve(forwards));
    }
    for end in helper_ends {
        tasks.spawn(end.tell());
    }
    let served = handle.clone();
    tasks.spawn(async move {
        if let Err(error) = uapi_server::serve(listener, served, access).await {
            warn!(%error, "the configuration socket is no longer served");
        }
    });
    let announce = async {
        if let Some(limit) = wait {
            let answered = wait_for_handshake(&handle, established, limit, |line| readiness.status(line));
            start::log_established(&answered.await?);
        }
        readiness.announce(&format!("`{}` is ready", instance.name()))?;
        info!(name = %instance.name(), "ready");
        std::future::pending::<Result<(), StartError>>().await
    };
    let ended = async {
        let reason = lifetime.ended().await;
        info!(%reason, "ending");
        backlog.carried().await;
    };
    let result = tokio::select! {
        end = control.run() => start::end_of(end),
        () = ended => Ok(()),
        failure = announce => failure,
    };
    readiness.stopping();
    drop(forwarder);
    control.stop();
    drop(socket);
    drop(instance);
    result
}

fn open(target: Target, interface: &InterfaceName) -> Result<OpenTarget, StartError> {
    let named = target.to_string();
    let interface = interface.clone();
    target.open().map_err(|source| StartError::Target { interface, target: named, source })
}

/// A process that ended meanwhile has left an interface that nobody sees: its namespace was held by us.
fn still_there(target: &OpenTarget, interface: &InterfaceName) -> Result<(), StartError> {
    let ended = target.process().map(PidFd::has_ended).transpose()?.unwrap_or_default();
    match target.target() {
        Target::Pid(pid) if ended => Err(NamespaceError::Gone { pid: *pid }),
        Target::Pid(_) | Target::Path { .. } | Target::Current => Ok(()),
    }
    .map_err(|gone| StartError::Target {
        interface: interface.clone(),
        target: target.target().to_string(),
        source: gone.into(),
    })
}

fn recorded(target: &Target) -> RecordedTarget {
    match target {
        Target::Pid(pid) => {
            RecordedTarget::Pid { pid: *pid, starttime: start_time(*pid).unwrap_or_default() }
        }
        Target::Path { netns, userns } => {
            RecordedTarget::Path { netns: netns.clone(), userns: userns.clone() }
        }
        Target::Current => RecordedTarget::Own,
    }
}

/// An engine's wishes, where they do not go against the configuration.
fn fit_to_engine(plan: &mut NetworkPlan, engine: &EngineNeeds, config: Option<&Config>) {
    if !engine.is_engine {
        return;
    }
    // Containers have no other way out: what no allowed IP holds is refused where it can be reported.
    plan.catch_all = config.is_some_and(|config| config.interface.table != Table::Off);
    plan.shared = engine.configures_interface;
    plan.local.clone_from(&engine.local_addresses);
    // Not those that were asked for one by one.
    plan.refused =
        engine.refused_addresses.iter().copied().filter(|address| !plan.local.contains(address)).collect();
    if let Some(ceiling) = engine.mtu_ceiling {
        plan.mtu = plan.mtu.map(|mtu| mtu.min(ceiling.bytes()));
    }
}

fn write_resolv_conf(path: &Path, text: &str) -> Result<(), StartError> {
    std::fs::write(path, text).map_err(|source| StartError::ResolvConf { path: path.to_owned(), source })
}
