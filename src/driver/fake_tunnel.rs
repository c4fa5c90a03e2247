//! A control task without a device, behind a real socket with the real server: for tests of everything that talks to
//! one. (tests)
//!
//! It stands at the `TunnelHandle` channel, so that requests go through the same text, socket and server as always.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

use crate::config::NetworkPlan;
use crate::config::device::{AllowedIpChange, DeviceStatus, DeviceUpdate, PeerStatus};
use crate::crypto::SystemEntropy;
use crate::driver::clock;
use crate::driver::command::{ApplyError, Command, TunnelHandle, TunnelReport};
use crate::driver::instance::{InstanceGuard, NameChoice, RuntimeDir, claim, runtime_dir};
use crate::driver::uapi_client::UapiClient;
use crate::driver::uapi_server::{Access, serve};
use crate::driver::uapi_socket::{SocketGuard, bind_socket};
use crate::wireguard::Device;

/// Serves until it is dropped.
pub(crate) struct FakeTunnel {
    network: Arc<Mutex<NetworkPlan>>,
    phase: watch::Sender<Phase>,
    thread: Option<JoinHandle<()>>,
    guard: SocketGuard,
    instance: InstanceGuard,
    _scratch: Option<tempfile::TempDir>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// All is well.
    Running,
    /// The control task has ended, the server does not know yet.
    TunnelEnded,
    /// Nothing runs any more.
    Stopped,
}

impl FakeTunnel {
    /// Named `wg0`, in a directory of its own.
    pub(crate) fn start(status: DeviceStatus) -> Self {
        Self::start_scratch(State::Plain(status))
    }

    /// The same with a real device, without peers, behind the socket.
    pub(crate) fn start_device() -> Self {
        Self::start_scratch(State::Real(Box::new(Device::new(Box::new(SystemEntropy::new())))))
    }

    fn start_scratch(state: State) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory can be made");
        let path = scratch.path().join("wireguard");
        let mut tunnel = Self::start_with(&path, "wg0", state);
        tunnel._scratch = Some(scratch);
        tunnel
    }

    fn start_with(directory: &Path, name: &str, state: State) -> Self {
        let directory = runtime_dir(Some(directory)).expect("the directory is ours");
        let name = NameChoice::Exactly(name.parse().expect("tests give valid names"));
        let instance = claim(&directory, &name).expect("the name is free");
        let (listener, guard) = bind_socket(&instance).expect("nothing is in the way");
        let network = Arc::default();
        let (phase, mut until) = watch::channel(Phase::Running);
        let mut while_running = phase.subscribe();
        let (handle, commands) = TunnelHandle::channel();
        let control = control(state, Arc::clone(&network), commands);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let tunnel = async {
                    tokio::select! {
                        () = control => {}
                        _ = while_running.wait_for(|phase| *phase >= Phase::TunnelEnded) => {}
                    }
                };
                let serving = async {
                    serve(listener, handle, Access::of_this_process())
                        .await
                        .expect("the listener is a socket");
                };
                tokio::select! {
                    _ = async { tokio::join!(tunnel, serving) } => {}
                    _ = until.wait_for(|phase| *phase == Phase::Stopped) => {}
                }
            });
        });
        Self { network, phase, thread: Some(thread), guard, instance, _scratch: None }
    }

    pub(crate) fn client(&self) -> UapiClient {
        UapiClient::at(self.guard.path())
    }

    /// For `--uapi-dir`.
    pub(crate) fn directory(&self) -> &RuntimeDir {
        self.instance.directory()
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.guard.path()).expect("the server listens")
    }

    /// What the last `network` asked for.
    pub(crate) fn network(&self) -> NetworkPlan {
        self.network.lock().expect("nobody panics with it").clone()
    }

    /// Ends the control task; the socket stays.
    pub(crate) fn end(&self) {
        self.phase.send_replace(Phase::TunnelEnded);
    }
}

impl Drop for FakeTunnel {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stopped);
        if let Some(thread) = self.thread.take() {
            // A panic in there has printed itself; the test fails by what it waits for.
            drop(thread.join());
        }
    }
}

/// What answers.
enum State {
    /// Whatever it is told.
    Plain(DeviceStatus),
    Real(Box<Device>),
}

impl State {
    fn status(&self) -> DeviceStatus {
        match self {
            Self::Plain(status) => status.clone(),
            Self::Real(device) => device.status(clock::now()),
        }
    }

    fn apply(&mut self, update: DeviceUpdate) -> Result<(), ApplyError> {
        match self {
            Self::Plain(status) => apply(status, update),
            Self::Real(device) => {
                device.apply(update, clock::now()).expect("tests give few peers");
                Ok(())
            }
        }
    }
}

async fn control(mut state: State, network: Arc<Mutex<NetworkPlan>>, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        // Who asked may have left meanwhile.
        match command {
            Command::Status(reply) => drop(reply.send(state.status())),
            Command::Report(reply) => {
                drop(reply.send(TunnelReport { name: "fake".into(), ..TunnelReport::default() }));
            }
            Command::Apply(update, reply) => drop(reply.send(state.apply(update))),
            Command::Network(change, reply) => {
                let plan = change.plan;
                let answer = match plan.mtu {
                    Some(..576) => Err("cannot set the MTU: Invalid argument (os error 22)".to_owned()),
                    Some(_) | None => Ok(()),
                };
                if answer.is_ok() {
                    *network.lock().expect("nobody panics with it") = plan;
                }
                drop(reply.send(answer));
            }
        }
    }
}

fn apply(status: &mut DeviceStatus, update: DeviceUpdate) -> Result<(), ApplyError> {
    if update.fwmark.is_some_and(|mark| mark != 0) {
        return Err(ApplyError::Fwmark { errno: libc::EPERM });
    }
    if let Some(key) = update.private_key {
        status.private_key = key;
    }
    if let Some(port) = update.listen_port {
        status.listen_port = port;
    }
    if update.replace_peers {
        status.peers.clear();
    }
    for change in update.peers {
        let known = status.peers.iter().position(|peer| peer.public_key == change.public_key);
        if change.remove {
            status.peers.retain(|peer| peer.public_key != change.public_key);
            continue;
        }
        let index = match known {
            Some(index) => index,
            None if change.update_only => continue,
            None => {
                status.peers.push(PeerStatus::new(change.public_key));
                status.peers.len() - 1
            }
        };
        if change.replace_allowed_ips {
            status.peers[index].allowed_ips.clear();
        }
        for step in change.allowed_ips {
            let (AllowedIpChange::Add(prefix) | AllowedIpChange::Remove(prefix)) = step;
            match step {
                AllowedIpChange::Add(_) => {
                    status
                        .peers
                        .iter_mut()
                        .for_each(|peer| peer.allowed_ips.retain(|other| *other != prefix));
                    status.peers[index].allowed_ips.push(prefix);
                }
                AllowedIpChange::Remove(_) => {
                    status.peers[index].allowed_ips.retain(|other| *other != prefix);
                }
            }
        }
        let peer = &mut status.peers[index];
        if let Some(key) = change.preshared_key {
            peer.preshared_key = key;
        }
        peer.endpoint = change.endpoint.or(peer.endpoint);
        peer.persistent_keepalive = change.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
    }
    Ok(())
}
