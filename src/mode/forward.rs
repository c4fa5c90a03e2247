//! Forwarded ports in the story of `attach` and `run`: listen first, begin when the target is there. (wiring)

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::request::{DnsOptions, EngineNeeds};
use super::start::StartError;
use crate::config::publish::{DNS_PORT, ForwardPlan};
use crate::config::{Config, HostResolvers, NetworkPlan};
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

/// The host's name servers that `engine` tells programs inside of, as far as they are nobody whom programs inside may
/// ask; the alias, if there is one, answers in their place.
pub(super) fn keep_resolvers(
    plan: &mut ForwardPlan,
    engine: &EngineNeeds,
    config: Option<&Config>,
    options: &DnsOptions,
) -> HostResolvers {
    let configured = config.map(|config| &config.interface);
    let in_file = configured.map(|interface| &interface.dns);
    let servers = options.servers.as_ref().or(in_file);
    let own = configured.iter().flat_map(|interface| &interface.addresses).map(IpNet::addr);
    let reached = plan.reached.iter().map(|reached| reached.address);
    let known: Vec<IpAddr> = servers
        .into_iter()
        .flatten()
        .chain(plan.dns_alias.iter().flat_map(|alias| &alias.listen))
        .chain(&engine.local_addresses)
        .copied()
        .chain(own)
        .chain(reached.filter(|address| address.port() == DNS_PORT).map(|address| address.ip()))
        .collect();
    let others = engine.host_resolvers.iter().copied().filter(|server| !known.contains(server));
    let addresses: Vec<_> = others.collect();
    if let Some(alias) = &mut plan.dns_alias {
        alias.in_place_of.clone_from(&addresses);
    }
    HostResolvers { addresses, answered: plan.dns_alias.is_some() }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::publish::{DnsAlias, ReachedAddress, Transport};

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn config(dns: &str) -> Config {
        let key = "cAqyFQvIVaSMmLxVKpkKCwWT+TU/fIRUNjQh+2UCAGA=";
        let text = format!("[Interface]\nPrivateKey = {key}\nAddress = 10.6.0.1/32\n{dns}");
        Config::parse(text.as_bytes(), "wg0.conf").unwrap()
    }

    fn engine() -> EngineNeeds {
        let host_resolvers =
            addresses(&["192.0.2.53", "10.6.0.2", "10.6.0.1", "169.254.1.1", "192.0.2.1", "fd77::53"]);
        EngineNeeds { host_resolvers, ..EngineNeeds::default() }
    }

    #[test]
    fn the_alias_answers_for_the_hosts_name_servers_but_for_those_that_may_be_asked() {
        let listen = addresses(&["169.254.1.1"]);
        let reached = ReachedAddress { transport: Transport::Udp, address: "192.0.2.1:53".parse().unwrap() };
        let mut plan = ForwardPlan {
            reached: vec![reached],
            dns_alias: Some(DnsAlias { listen, ..DnsAlias::default() }),
            ..ForwardPlan::default()
        };
        let (config, options) = (config("DNS = 10.6.0.2\n"), DnsOptions::default());
        complete(&mut plan, Some(&config), &options);
        let kept = keep_resolvers(&mut plan, &engine(), Some(&config), &options);
        assert_eq!(kept.addresses, addresses(&["192.0.2.53", "fd77::53"]));
        assert!(kept.answered);
        assert_eq!(plan.dns_alias.unwrap().in_place_of, kept.addresses);
    }

    #[test]
    fn without_a_server_in_the_tunnel_nobody_answers() {
        let listen = addresses(&["169.254.1.1"]);
        let dns_alias = Some(DnsAlias { listen, ..DnsAlias::default() });
        let mut plan = ForwardPlan { dns_alias, ..ForwardPlan::default() };
        let (config, options) = (config(""), DnsOptions::default());
        complete(&mut plan, Some(&config), &options);
        let kept = keep_resolvers(&mut plan, &engine(), Some(&config), &options);
        assert!(!kept.answered && plan.is_empty());
        assert!(kept.addresses.contains(&addresses(&["10.6.0.2"])[0]), "no server of the tunnel");
    }
}
