//! Forwarded ports in the story of `attach` and `run`: listen first, begin when the target is there. (wiring)

use std::time::Duration;

use ipnet::IpNet;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::request::DnsOptions;
use super::start::StartError;
use crate::config::publish::ForwardPlan;
use crate::config::{Config, NetworkPlan};
use crate::driver::command::TunnelHandle;
use crate::driver::failure::{Failure as _, FailureClass};
use crate::driver::namespace_child::Helper;
use crate::driver::port_forward::{Forward, ForwardKind, Forwarder, RunningForwarder, inside_listeners};
use crate::driver::socket_factory::SocketFactory;
use crate::driver::target::OpenTarget;
use crate::sys::sandbox::MissingLayer;

/// Fills in what the plan leaves to the configuration: whom the DNS alias asks.
pub(super) fn complete(plan: &mut ForwardPlan, config: Option<&Config>, options: &DnsOptions) {
    let Some(alias) = &mut plan.dns_alias else { return };
    if alias.servers.is_empty() {
        let configured = config.map(|config| &config.interface.dns);
        alias.servers = options.servers.as_ref().or(configured).cloned().unwrap_or_default();
    }
    if alias.servers.is_empty() {
        warn!("no DNS=: names will not resolve");
        plan.dns_alias = None;
    }
}

/// How often and how soon a port that is taken is tried again for an engine, a second in all: `podman restart` does not wait
/// until the helper of the run before has let it go.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Takes the host's ports, before the target is touched. Nothing is started if nothing is asked for.
pub(super) fn listen(
    plan: &ForwardPlan,
    helper: &Helper,
    for_engine: bool,
) -> Result<Option<Forwarder>, StartError> {
    if plan.is_empty() {
        return Ok(None);
    }
    let mut forwarder = Forwarder::spawn(helper)?;
    let mut tries = if for_engine { TRIES } else { 0 };
    for port in &plan.published {
        let forwards = loop {
            match forwarder.publish(*port) {
                Err(error) if tries > 0 && matches!(error.class(), FailureClass::InUse) => tries -= 1,
                other => break other?,
            }
            std::thread::sleep(BETWEEN_TRIES);
        };
        for forward in forwards {
            say(&forward, port.host_port.is_none());
        }
    }
    Ok(Some(forwarder))
}

/// A port that the kernel chose is an answer; one that was asked for is not.
fn say(forward: &Forward, chosen: bool) {
    let Forward { transport, listen, .. } = forward;
    let port = forward.inside_port.unwrap_or_default();
    if chosen {
        warn!("port {port}/{transport} inside is {listen} here");
    } else {
        info!("port {port}/{transport} inside is {listen} here");
    }
}

/// Begins to forward into `target`, whose own addresses are in `network` if they are known. Tells which layers of their
/// sandboxes the helpers could not have.
pub(super) fn begin(
    forwarder: &mut Forwarder,
    helper: &Helper,
    target: &OpenTarget,
    plan: &ForwardPlan,
    network: Option<&NetworkPlan>,
) -> Result<Vec<MissingLayer>, StartError> {
    let factory = SocketFactory::spawn(helper, target, inside_listeners(plan))?;
    let own = network.map(|network| network.addresses.iter().map(IpNet::addr).collect());
    for (listener, error) in &factory.skipped {
        warn!("nothing listens on {} inside: {error}", listener.address);
    }
    Ok(forwarder.start(factory, plan, own.unwrap_or_default())?)
}

/// Lets everybody who has the tunnel's handle ask for forwards; what is returned keeps them up.
pub(super) fn hand_out(
    forwarder: Option<Forwarder>,
    handle: TunnelHandle,
    tasks: &mut JoinSet<()>,
) -> Result<(TunnelHandle, Option<RunningForwarder>), StartError> {
    let Some(forwarder) = forwarder else { return Ok((handle, None)) };
    let (forwards, run, running) = forwarder.into_handle()?;
    tasks.spawn(run);
    Ok((handle.with_forwards(forwards), Some(running)))
}

/// In words, for `status`.
#[must_use]
pub fn in_words(forward: &Forward) -> String {
    let Forward { kind, transport, listen, .. } = forward;
    let to: Vec<String> = forward.to.iter().map(ToString::to_string).collect();
    let to = to.join(" or ");
    let leads = match kind {
        ForwardKind::Publish => format!("{listen} to {to} inside"),
        ForwardKind::Reach => format!("{listen} inside to the same address outside"),
        ForwardKind::Dns => format!("{listen} inside to {to} through the tunnel"),
    };
    format!("{transport} {leads}; {} open, {} so far", forward.active, forward.total)
}
