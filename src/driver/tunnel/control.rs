//! The control task: the only owner of the device. (task)

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, watch as watched};
use tokio::time::Sleep;
use tracing::{debug, info, warn};

use super::data_threads::{DataThreads, HandshakeDatagram, ThreadEnd};
use super::transmit;
use crate::config::EndpointName;
use crate::config::device::{DeviceUpdate, PeerUpdate};
use crate::driver::broker::{Answer, Broker, BrokerError, Resolver};
use crate::driver::clock;
use crate::driver::command::{ApplyError, Command, NetworkPlan, TunnelReport};
use crate::driver::endpoint_names::{EndpointNames, Outcome, Resolution};
use crate::driver::link_setup;
use crate::driver::link_watch::{LinkChange, LinkWatch};
use crate::driver::log_limit::{Admitted, LineLimit};
use crate::driver::udp::{Patience, UdpPort};
use crate::key::PublicKey;
use crate::packet::batch::DatagramBatch;
use crate::sys::async_fd::watch;
use crate::sys::clock::BootTimer;
use crate::sys::netlink::{LinkSetting, LinkState, News};
use crate::sys::os_error::OsError;
use crate::time::{BootTime, Now};
use crate::wireguard::{DataPlane, Device, DeviceEvent, TX_SLAB_LEN};

/// Handshake messages taken before everything else is looked at again: a millisecond if each is a real one.
const HANDSHAKES_AT_ONCE: usize = 8;

/// The same while some are turned away, which costs a thirtieth of a real one.
const CROWDED_AT_ONCE: usize = 64;

/// How long they may gather while some are turned away: being woken for each costs more than turning it away.
const GATHERING: Duration = Duration::from_millis(2);

/// The news of the first handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// Who answered.
    pub peer: PublicKey,
    /// From the first initiation to the session.
    pub took: Duration,
}

/// Why a tunnel ended by itself.
#[derive(Debug)]
pub enum TunnelEnd {
    /// The interface was deleted, or its namespace ended.
    LinkDeleted,
    /// The link or the socket failed for good.
    Failed {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

pub(super) struct ControlParts {
    pub(super) name: String,
    /// What the link is made of.
    pub(super) link: &'static str,
    pub(super) state: LinkState,
    pub(super) device: Device,
    pub(super) watch: Option<LinkWatch>,
    /// Tells that this machine's own routes have changed.
    pub(super) routes: Option<AsyncFd<News>>,
    pub(super) udp: Arc<ArcSwap<UdpPort>>,
    pub(super) broker: Option<Broker>,
    pub(super) names: Vec<(PublicKey, EndpointName)>,
    pub(super) plan: NetworkPlan,
    pub(super) eager: bool,
    pub(super) sandbox: Vec<String>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) established: watched::Sender<Option<Established>>,
    pub(super) handshakes: mpsc::Receiver<HandshakeDatagram>,
    pub(super) ends: mpsc::UnboundedReceiver<ThreadEnd>,
    pub(super) threads: DataThreads,
}

/// Lines a minute about what root in the target does to its interfaces: enough to see what goes on.
const LINK_LINES: u32 = 10;

/// Datagrams of news about routes that are taken before anything else has a turn.
const MAX_NEWS: usize = 64;

/// Owns the device and everything that changes it.
pub struct Control {
    pub(super) parts: ControlParts,
    pub(super) data_plane: Arc<DataPlane>,
    fwmark: u32,
    notices: Arc<Notify>,
    timer: AsyncFd<BootTimer>,
    armed: Option<BootTime>,
    pub(super) names: EndpointNames,
    resolver: Option<Resolver>,
    out: DatagramBatch,
    /// Until when handshake messages gather.
    gathering: Option<Pin<Box<Sleep>>>,
    changes_said: LineLimit,
    other_links_said: LineLimit,
    pub(super) started: Now,
}

impl Control {
    pub(super) fn new(mut parts: ControlParts) -> std::io::Result<Self> {
        let notices = Arc::new(Notify::new());
        let data_plane = Arc::clone(parts.device.data_plane());
        data_plane.set_waker(Box::new({
            let notices = Arc::clone(&notices);
            move || notices.notify_one()
        }));
        let started = clock::now();
        let mut names = EndpointNames::new();
        for (peer, name) in parts.names.drain(..) {
            if let EndpointName::Name { host, port } = name {
                names.insert(peer, &host, port, started.boot);
            }
        }
        Ok(Self {
            data_plane,
            fwmark: 0,
            notices,
            timer: watch(BootTimer::new()?, Interest::READABLE)?,
            armed: None,
            names,
            resolver: None,
            out: DatagramBatch::with_capacity(TX_SLAB_LEN, 64),
            gathering: None,
            changes_said: LineLimit::of(LINK_LINES),
            other_links_said: LineLimit::of(LINK_LINES),
            started,
            parts,
        })
    }

    /// Runs until the link is gone or the future is dropped; then call [`stop`](Self::stop).
    ///
    /// Must run inside a tokio runtime with IO and time.
    pub async fn run(&mut self) -> TunnelEnd {
        self.resolver = self.parts.broker.take().and_then(|broker| {
            broker
                .into_resolver()
                .inspect_err(|error| warn!(%error, "endpoint names will not be resolved"))
                .ok()
        });
        self.ask_for_names(clock::now());
        self.call_peers();
        loop {
            self.drain();
            tokio::select! {
                // Everything the target has no say in comes before what it can cause without end.
                biased;
                Some(end) = self.parts.ends.recv() => return end.into(),
                Some(command) = self.parts.commands.recv() => self.handle_command(command).await,
                () = self.notices.notified() => self.parts.device.handle_notices(clock::now()),
                answer = next_answer(self.resolver.as_ref()) => self.handle_answer(answer),
                () = expired(&self.timer) => {
                    self.armed = None;
                    let now = clock::now();
                    self.parts.device.handle_timeout(now);
                    self.names.handle_timeout(now.boot);
                    self.ask_for_names(now);
                }
                changed = routes_changed(&mut self.parts.routes) => match changed {
                    Ok(()) => self.parts.udp.load().handle_new_routes(),
                    Err(error) => {
                        warn!(%error, "changes of this machine's routes are no longer followed");
                        self.parts.routes = None;
                    }
                },
                change = next_link_change(&mut self.parts.watch) => {
                    if let Some(end) = self.handle_link_change(change) {
                        return end;
                    }
                    // Neither may keep the other waiting, nor whoever shares our task: signals come there.
                    if let Ok(message) = self.parts.handshakes.try_recv() {
                        self.handle_handshake(&message);
                    }
                    tokio::task::yield_now().await;
                }
                // A flood of them must not keep sessions that exist from being looked after; but looking after them
                // costs as much as refusing one.
                Some(message) = next_handshake(&mut self.parts.handshakes, &mut self.gathering) => {
                    self.handle_handshake(&message);
                    let is_crowded = self.parts.device.is_crowded(clock::now());
                    for _ in 1..if is_crowded { CROWDED_AT_ONCE } else { HANDSHAKES_AT_ONCE } {
                        let Ok(message) = self.parts.handshakes.try_recv() else { break };
                        self.handle_handshake(&message);
                    }
                    if is_crowded && self.parts.handshakes.is_empty() {
                        self.gathering = Some(Box::pin(tokio::time::sleep(GATHERING)));
                    }
                }
            }
        }
    }

    /// Ends the data threads; the interface goes when the last descriptor is dropped with `self`.
    pub fn stop(self) {
        self.parts.threads.stop(&self.parts.udp);
    }

    /// Sends what the device wants sent, tells what it wants told, arms the timer.
    fn drain(&mut self) {
        loop {
            self.out.clear();
            let more = self.parts.device.poll_transmit(clock::now(), &mut self.out);
            if !self.out.is_empty() {
                // SIGTERM and every command wait behind this: it must not wait for a slow network.
                transmit::send(&self.data_plane, &self.parts.udp.load(), &self.out, Patience::None);
            }
            if !more {
                break;
            }
        }
        while let Some(event) = self.parts.device.poll_event() {
            self.handle_event(&event);
        }
        let deadline = [self.parts.device.poll_timeout(), self.next_lookup()].into_iter().flatten().min();
        if deadline != self.armed {
            if let Err(error) = self.timer.get_ref().set(deadline.map(BootTime::as_nanos)) {
                warn!(%error, "cannot arm the protocol timer");
            }
            self.armed = deadline;
        }
    }

    fn handle_handshake(&mut self, message: &HandshakeDatagram) {
        let queued = self.parts.handshakes.len();
        self.parts.device.handle_handshake(message.bytes(), message.path, queued, clock::now());
    }

    fn handle_event(&mut self, event: &DeviceEvent) {
        match event {
            DeviceEvent::SessionEstablished { peer, took, initiator } => {
                info!(%peer, ?took, initiator, "session established");
                let udp = self.parts.udp.load();
                if udp.troubles().are_some()
                    && let Some(endpoint) = self.data_plane.endpoint(peer)
                {
                    udp.troubles().handle_heard(&endpoint);
                }
                self.names.handle_handshakes(peer, 0, clock::now().boot);
                self.parts.established.send_if_modified(|state| {
                    state.is_none() && state.replace(Established { peer: *peer, took: *took }).is_none()
                });
            }
            DeviceEvent::Roamed { peer, from, to } => {
                info!(%peer, "peer roamed");
                self.parts.udp.load().troubles().handle_heard(to);
                debug!(%peer, ?from, ?to, "endpoint changed");
            }
            DeviceEvent::HandshakesFailing { peer, attempts } => {
                debug!(%peer, attempts, "handshakes go unanswered");
                let now = clock::now();
                if self.names.handle_handshakes(peer, *attempts, now.boot) {
                    self.ask_for_names(now);
                }
            }
            DeviceEvent::HandshakeGaveUp { peer } => {
                warn!(%peer, "handshake gave up; waiting for new packets")
            }
            DeviceEvent::StaleTimestamp { peer } => {
                warn!(%peer, "handshake refused: its timestamp is not later than the last; is the peer's clock behind?");
            }
            DeviceEvent::PeerRemoved { peer } => {
                info!(%peer, "peer removed");
                self.names.remove(peer);
            }
        }
    }

    fn handle_link_change(&mut self, change: Result<LinkChange, OsError>) -> Option<TunnelEnd> {
        let change = match change {
            Ok(change) => change,
            Err(error) => {
                warn!(%error, "changes of the interface are no longer followed");
                self.parts.watch = None;
                return None;
            }
        };
        let now = clock::now().boot;
        // What matters most must not be hidden behind a flood of what does not.
        let is_warning = matches!(change, LinkChange::OtherLinkUp(_));
        let limit = if is_warning { &mut self.other_links_said } else { &mut self.changes_said };
        let said = limit.admit(now);
        if let Some(Admitted { left_out: left_out @ 1.. }) = said {
            info!(left_out, "the interface changed more often than was logged");
        }
        match change {
            LinkChange::Mtu(mtu) => {
                if said.is_some() {
                    info!(mtu, "interface MTU changed");
                }
                self.data_plane.set_mtu(mtu);
            }
            LinkChange::Deleted => return Some(TunnelEnd::LinkDeleted),
            LinkChange::Up(_)
            | LinkChange::Renamed(_)
            | LinkChange::Moved
            | LinkChange::Addresses
            | LinkChange::OtherLinkUp(_)
                if said.is_none() => {}
            LinkChange::Up(up) => info!(up, "interface state changed"),
            LinkChange::Renamed(name) => info!(name, "interface renamed"),
            LinkChange::Moved => info!("interface moved to another namespace"),
            LinkChange::Addresses => debug!("addresses changed"),
            LinkChange::OtherLinkUp(name) => warn!("no kill switch: {name} came up in the target"),
        }
        if let Some(watch) = &self.parts.watch {
            self.parts.state = watch.state().clone();
        }
        None
    }

    async fn handle_command(&mut self, command: Command) {
        let unheard = match command {
            Command::Status(reply) => reply.send(self.parts.device.status(clock::now())).is_err(),
            Command::Report(reply) => reply.send(self.report()).is_err(),
            Command::Apply(update, reply) => {
                let given = update.peers.iter().filter(|peer| peer.endpoint.is_some());
                let given: Vec<PublicKey> = given.map(|peer| peer.public_key).collect();
                let result = self.apply(update);
                if result.is_ok() {
                    // Whoever gives an address no longer wants the name.
                    given.iter().for_each(|peer| self.names.remove(peer));
                }
                reply.send(result).is_err()
            }
            Command::Network(change, reply) => {
                let result = self.apply_network(change.plan);
                if result.is_ok() {
                    self.take_names(&change.endpoint_names);
                }
                reply.send(result).is_err()
            }
        };
        if unheard {
            debug!("the asker went away before the answer");
        }
    }

    /// The current state as `status` prints it.
    fn report(&self) -> TunnelReport {
        super::report::of(self)
    }

    /// Binds and marks first, then changes the device: what is refused leaves everything as it was.
    fn apply(&mut self, update: DeviceUpdate) -> Result<(), ApplyError> {
        let fwmark = update.fwmark.unwrap_or(self.fwmark);
        let current = self.parts.udp.load_full();
        let new_port = update.listen_port.filter(|&port| port != current.local_port());
        let bound = match new_port {
            Some(port) => {
                let bound = UdpPort::bind(port, fwmark).map_err(|error| ApplyError::ListenPort {
                    port,
                    errno: error.raw_os_error().unwrap_or(libc::EIO),
                })?;
                Some(bound.with_return_paths(current.return_paths()))
            }
            None => {
                if fwmark != self.fwmark {
                    current.set_fwmark(fwmark).map_err(|error| ApplyError::Fwmark {
                        errno: error.raw_os_error().unwrap_or(libc::EPERM),
                    })?;
                }
                None
            }
        };
        if let Err(error) = self.parts.device.apply(update, clock::now()) {
            if bound.is_none()
                && fwmark != self.fwmark
                && let Err(error) = current.set_fwmark(self.fwmark)
            {
                warn!(%error, "cannot set the firewall mark back");
            }
            return Err(ApplyError::TooManyPeers { limit: error.limit });
        }
        self.fwmark = fwmark;
        if let Some(udp) = bound {
            self.parts.device.set_listen_port(udp.local_port());
            let old = self.parts.udp.swap(Arc::new(udp));
            old.shutdown();
        }
        Ok(())
    }

    fn apply_network(&mut self, plan: NetworkPlan) -> Result<(), String> {
        // Those are the mode's choice, of which no configuration knows.
        let NetworkPlan { catch_all, shared, ref local, ref refused, ref host_resolvers, .. } =
            self.parts.plan;
        let (local, refused, host_resolvers) = (local.clone(), refused.clone(), host_resolvers.clone());
        let plan = NetworkPlan { catch_all, shared, local, refused, host_resolvers, ..plan };
        let index = self.parts.state.index;
        let Some(watch) = &mut self.parts.watch else {
            return Err("the interface is configured by its caller".into());
        };
        if let Some(mtu) = plan.mtu {
            watch.requests().set_link(index, LinkSetting::Mtu(mtu)).map_err(|error| in_one_line(&error))?;
        }
        let warnings =
            link_setup::sync(watch.requests(), index, &plan).map_err(|error| in_one_line(&error))?;
        for warning in warnings {
            warn!("{warning}");
        }
        self.parts.plan = plan;
        Ok(())
    }

    /// These are the names from now on. Whoever changed to them has resolved them once.
    fn take_names(&mut self, names: &[(PublicKey, EndpointName)]) {
        self.names.retain(|peer| names.iter().any(|(named, _)| named == peer));
        if self.resolver.is_none() {
            if !names.is_empty() {
                warn!("endpoint names stay as they are resolved now: this tunnel was started without any");
            }
            return;
        }
        let now = clock::now();
        for (peer, name) in names {
            if let EndpointName::Name { host, port } = name {
                self.names.insert(*peer, host, *port, now.boot);
            }
        }
        self.ask_for_names(now);
    }

    /// When a name is due; never without a broker, because nothing would come of it but the next deadline.
    fn next_lookup(&self) -> Option<BootTime> {
        self.resolver.as_ref().and_then(|_broker| self.names.poll_timeout())
    }

    /// Asks the broker for every name that is due.
    fn ask_for_names(&mut self, now: Now) {
        let Some(resolver) = &self.resolver else { return };
        while let Some(lookup) = self.names.poll_lookup(now.boot) {
            if let Err(error) = resolver.ask(&lookup) {
                warn!(%error, "cannot resolve an endpoint");
                self.names.handle_answer(lookup.id, Err(error.to_string()), now.boot);
            }
        }
    }

    fn handle_answer(&mut self, answer: Result<Answer, BrokerError>) {
        let now = clock::now();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                warn!(%error, "endpoint names are no longer resolved");
                self.resolver = None;
                return;
            }
        };
        let Some(Resolution { peer, name, outcome }) =
            self.names.handle_answer(answer.id, answer.result, now.boot)
        else {
            return;
        };
        match outcome {
            Outcome::Endpoint { endpoint, loopback } => {
                if loopback {
                    warn!(%peer, name, "the endpoint's name resolves to this machine itself");
                }
                debug!(%peer, name, %endpoint, "endpoint resolved");
                self.set_endpoint(peer, endpoint, now);
            }
            Outcome::Unchanged => debug!(%peer, name, "endpoint resolved, unchanged"),
            Outcome::Failed { reason, pause } => {
                warn!(%peer, name, reason, ?pause, "cannot resolve the endpoint")
            }
        }
        self.ask_for_names(now);
    }

    fn set_endpoint(&mut self, peer: PublicKey, endpoint: SocketAddr, now: Now) {
        let mut change = PeerUpdate::new(peer);
        change.update_only = true;
        change.endpoint = Some(endpoint);
        let update = DeviceUpdate { peers: vec![change], ..DeviceUpdate::default() };
        if let Err(error) = self.parts.device.apply(update, now) {
            warn!(%peer, %error, "cannot set the resolved endpoint");
        }
        self.call_peers();
    }

    /// While somebody waits for an answer, peers are called as soon as they have an endpoint.
    fn call_peers(&mut self) {
        if self.parts.eager && self.parts.established.borrow().is_none() {
            self.parts.device.initiate_handshakes(clock::now());
        }
    }
}

impl From<ThreadEnd> for TunnelEnd {
    fn from(end: ThreadEnd) -> Self {
        match end {
            ThreadEnd::LinkDeleted => Self::LinkDeleted,
            ThreadEnd::Failed(operation, source) => Self::Failed { operation, source },
        }
    }
}

async fn next_link_change(watch: &mut Option<LinkWatch>) -> Result<LinkChange, OsError> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until there is news of routes, and takes what there is; not all at once, if there is much.
async fn routes_changed(routes: &mut Option<AsyncFd<News>>) -> Result<(), OsError> {
    let Some(routes) = routes else { return std::future::pending().await };
    loop {
        let mut ready = routes.readable_mut().await?;
        let mut changed = false;
        for _ in 0..MAX_NEWS {
            if !ready.get_inner_mut().hear(|_event| changed = true)? {
                ready.clear_ready();
                break;
            }
        }
        if changed {
            return Ok(());
        }
    }
}

/// An error and its causes, for the one who asked over the configuration socket.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The next handshake message, once they have gathered.
async fn next_handshake(
    handshakes: &mut mpsc::Receiver<HandshakeDatagram>,
    gathering: &mut Option<Pin<Box<Sleep>>>,
) -> Option<HandshakeDatagram> {
    if let Some(gathered) = gathering {
        gathered.as_mut().await;
        *gathering = None;
    }
    handshakes.recv().await
}

async fn next_answer(resolver: Option<&Resolver>) -> Result<Answer, BrokerError> {
    match resolver {
        Some(resolver) => resolver.answer().await,
        None => std::future::pending().await,
    }
}

/// Waits until the timer has gone off, and takes that.
async fn expired(timer: &AsyncFd<BootTimer>) {
    match timer.readable().await {
        // Setting the timer anew clears it; until then the next look finds it ready again, and sets it.
        Ok(mut ready) => ready.clear_ready(),
        Err(error) => {
            warn!(%error, "cannot wait for the protocol timer");
            std::future::pending().await
        }
    }
}
