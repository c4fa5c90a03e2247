//! `run`: a command in namespaces of its own, with nothing but the tunnel. (wiring)
//!
//! The story from top to bottom: what the caller has is noted; configuration, name, socket and port as everywhere; a
//! child makes the namespaces and waits; the sandbox closes, the threads start, a peer is called. When it has answered
//! the child becomes the command, and we stand by it until it ends. Its status is ours.

use std::cell::Cell;
use std::ffi::OsString;
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::forward;
use super::report::{Outcome, ReportSink};
use super::request::RunRequest;
use super::start::{self, Assembly, Interface, StartError};
use crate::config::{NetworkPlan, Table};
use crate::driver::instance::{RecordedTarget, start_time};
use crate::driver::logging::{self, LogDestination};
use crate::driver::namespace_child::{ChildRequest, Helper};
use crate::driver::ready::Readiness;
use crate::driver::run_child::{Interruption, RUN_SIGNALS, RunChild, RunHandover, RunOptions, spawn_run};
use crate::driver::target::Target;
use crate::driver::tunnel::{Tunnel, wait_for_handshake};
use crate::driver::uapi_server::{self, Access};
use crate::sys::caller::CallerState;
use crate::sys::signals::SignalQueue;

/// Runs the command to its end; what the caller's shell is to see.
///
/// # Errors
/// See [`StartError`]: everything of ours, and a command that cannot be executed.
pub fn run(request: RunRequest) -> Result<u8, StartError> {
    let caller = CallerState::capture();
    logging::start(request.log, &LogDestination::Stderr)?;
    let loaded = request.config.load()?;
    start::say_warnings(&loaded);
    let config = Some(&loaded.config);
    let choice = start::name_choice(request.name.as_ref(), loaded.stem(), &request.interface);
    let signals = SignalQueue::take(&RUN_SIGNALS)?;
    let foundation = start::lay_foundation_for_command(request.uapi_dir.as_deref(), &choice, config)?;
    let helper = Helper::this_program().under(request.sandbox);
    let mut forwarder = forward::listen(&request.forwards, &helper, false)?;
    let device = start::make_device(config, &foundation.udp)?;
    let names = start::endpoint_names(config);
    let broker = start::start_broker(&names, &helper)?;
    let mut plan = start::network_plan(config, request.mtu, true);
    plan.catch_all = loaded.config.interface.table != Table::Off;
    let resolv_conf = start::resolv_conf(config, &request.dns);
    warn_once(&plan, &resolv_conf);
    let may_wait = loaded.config.peers.iter().any(|peer| peer.endpoint.is_some());
    let wait = (!request.no_wait && may_wait).then_some(request.wait_handshake);

    let options = RunOptions {
        link: ChildRequest {
            interface: request.interface.clone(),
            queues: 1,
            network: plan.clone(),
            bare: false,
            keep_other_links: false,
            replace: false,
        },
        caller,
        map_root: request.map_root,
        resolv_conf,
        command: command_or_shell(request.command),
    };
    let report_to = request.report.map(ReportSink::open).transpose()?;
    let RunHandover { link, warnings, child } = spawn_run(&helper, &options, signals)?;
    for warning in &warnings {
        warn!("{warning}");
    }
    let pid = child.pid();
    let target = RecordedTarget::Pid { pid, starttime: start_time(pid).unwrap_or_default() };
    start::record(&foundation.instance, "run", &request.interface, target, Some(loaded.config.name.clone()))?;
    let mut missing = Vec::new();
    if let Some(forwarder) = &mut forwarder {
        let inside = Target::Pid(pid).open().map_err(|source| StartError::Target {
            interface: request.interface.clone(),
            target: "the command".into(),
            source,
        })?;
        missing = forward::begin(forwarder, &helper, &inside, &request.forwards, Some(&plan))?;
    }
    let interface = Interface::from_handover(link)?;
    let mut assembly = start::assemble(foundation, device, interface, plan, names, broker, wait.is_some());
    assembly.forwarder = forwarder;
    assembly.missing_layers = missing;
    start::forget(Some(loaded));

    let readiness = Readiness::prepare(None, None);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Machinery)?;
    runtime.block_on(async {
        let access = Access::of_this_process();
        start::lock_down(&mut assembly, false, request.sandbox)?;
        serve(assembly, access, child, readiness, wait, report_to).await
    })
}

async fn serve(
    assembly: Assembly,
    access: Access,
    mut child: RunChild,
    mut readiness: Readiness,
    wait: Option<Duration>,
    report_to: Option<ReportSink>,
) -> Result<u8, StartError> {
    // The name and the socket's file are ours until the end.
    let Assembly { instance, listener, socket: _socket, parts, forwarder, .. } = assembly;
    let Tunnel { mut control, handle, established, backlog } = Tunnel::start(parts)?;
    let mut tasks = JoinSet::new();
    let (handle, _forwarder) = forward::hand_out(forwarder, handle, &mut tasks)?;
    let served = handle.clone();
    tasks.spawn(async move {
        if let Err(error) = uapi_server::serve(listener, served, access).await {
            warn!(%error, "the configuration socket is no longer served");
        }
    });
    let running = Cell::new(false);
    let command = async {
        if let Some(limit) = wait {
            let answered = wait_for_handshake(&handle, established.clone(), limit, |line| warn!("{line}"));
            tokio::select! {
                answered = answered => start::log_established(&answered?),
                interruption = child.interrupted() => return interrupted(interruption?),
            }
        }
        readiness.announce("running")?;
        info!(name = %instance.name(), "running the command");
        running.set(true);
        child.go().await?;
        let code = child.supervise().await?;
        backlog.carried().await;
        if let Some(sink) = report_to {
            let outcome = Outcome { code, handshake: *established.borrow() };
            sink.write(&handle.report().await.unwrap_or_default(), outcome);
        }
        Ok(code)
    };
    let mut command = std::pin::pin!(command);
    let ended = tokio::select! {
        result = &mut command => Some(result),
        end = control.run() => match start::end_of(end) {
            // Nobody knows the command yet: it goes, too.
            Err(error) if !running.get() => return Err(error),
            Err(error) => {
                error!("{}", in_one_line(&error));
                None
            }
            Ok(()) => None,
        }
    };
    control.stop();
    match ended {
        Some(result) => result,
        None => {
            // Whoever is root inside may delete the interface, and what fails here is no fault of the command's.
            warn!("the command goes on without a network");
            command.await
        }
    }
}

fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Before the command ran, somebody wanted us to stop, or the child was killed.
fn interrupted(interruption: Interruption) -> Result<u8, StartError> {
    match interruption {
        Interruption::Signal(signal) => Ok(128_u8.saturating_add(signal_number(signal))),
        Interruption::ChildEnded => Err(StartError::CommandKilled),
    }
}

fn signal_number(signal: Signal) -> u8 {
    u8::try_from(signal as i32).unwrap_or_default()
}

/// What people wonder about inside, said once.
fn warn_once(plan: &NetworkPlan, resolv_conf: &str) {
    let default = plan.routes.iter().any(|route| route.prefix_len() == 0);
    if !default {
        warn!("{} is reachable inside, by design", reachable(&plan.routes));
    }
    if !resolv_conf.contains("nameserver") {
        warn!("no DNS=: names will not resolve; use --dns");
    }
}

/// A long list says no more than a short one.
fn reachable(routes: &[IpNet]) -> String {
    const NAMED: usize = 8;
    let named: Vec<String> = routes.iter().take(NAMED).map(ToString::to_string).collect();
    match (named.join(", "), routes.len().saturating_sub(NAMED)) {
        (_, 0) if routes.is_empty() => "nothing".to_owned(),
        (named, 0) => format!("only {named}"),
        (named, more) => format!("only {named} and {more} more"),
    }
}

/// The command, or the user's shell.
pub(super) fn command_or_shell(command: Vec<OsString>) -> Vec<OsString> {
    if command.is_empty() {
        vec![std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())]
    } else {
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reachable_is_named_as_long_as_that_helps() {
        let routes: Vec<IpNet> = (0..10).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect();
        assert_eq!(reachable(&[]), "nothing");
        assert_eq!(reachable(&routes[..2]), "only 10.0.0.0/16, 10.1.0.0/16");
        assert!(reachable(&routes).ends_with(", 10.7.0.0/16 and 2 more"), "{}", reachable(&routes));
    }
}
