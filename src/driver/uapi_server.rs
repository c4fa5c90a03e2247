//! Serves the configuration protocol on a Unix socket. (tasks)
//!
//! # Theory of operation
//! One task accepts, one task serves each client; none holds anything that the data path takes. A client may be
//! connected and idle for as long as it likes, but once it has begun a request it must finish it in time, and it must
//! read its answer in time. At most [`MAX_CLIENTS`] are served; one more makes the one leave that was silent longest,
//! so that a thousand stalled clients cannot keep out the one that wants something.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::config::device::DeviceStatus;
use crate::driver::command::{ApplyError, TunnelHandle};
use crate::uapi::request::{Event, Operation, Request, RequestParser};
use crate::uapi::response::{StatusText, emit_errno, emit_network_failure, emit_report};

/// Clients served at once: far more than anyone needs, few enough that their buffers do not matter.
pub const MAX_CLIENTS: usize = 64;

/// From the first byte of a request to its last, and from the first byte of an answer to its last.
pub const CLIENT_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes read at once.
const READ_SIZE: usize = 8192;

/// Pause after `accept` failed for want of descriptors or memory, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    own: u32,
    root: bool,
}

impl Access {
    /// Our own user, and root where uid 0 is the system's root: a server in a child user namespace sees every
    /// stranger as the overflow uid, and trusts its own uid only.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self { own: geteuid().as_raw(), root: is_initial_user_namespace() }
    }

    const fn admits(self, uid: u32) -> bool {
        uid == self.own || (self.root && uid == 0)
    }
}

/// Serves `listener` until the future is dropped or the tunnel ends.
///
/// # Errors
/// Only that the listener cannot be watched at all; trouble with a client ends that client.
pub async fn serve(listener: StdUnixListener, tunnel: TunnelHandle, access: Access) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let mut clients = ClientTable::default();
    loop {
        tokio::select! {
            Some(ended) = clients.tasks.join_next() => {
                clients.forget_ended();
                if matches!(ended, Ok(ClientEnd::TunnelEnded)) {
                    return Ok(());
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if admits(access, &stream) {
                        clients.admit(stream, tunnel.clone());
                        // Lets the new client be served before the next one is let in.
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "cannot accept a configuration client");
                    clients.evict_longest_silent();
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

fn admits(access: Access, stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(credentials) if access.admits(credentials.uid()) => true,
        Ok(credentials) => {
            warn!(uid = credentials.uid(), "refused a configuration client of another user");
            false
        }
        Err(error) => {
            debug!(%error, "refused a configuration client without credentials");
            false
        }
    }
}

/// Counts every sign of life of any client: who has the lowest count was silent longest. No clock is needed.
#[derive(Clone, Debug, Default)]
struct Activity {
    counter: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
}

impl Activity {
    fn mark(&self) {
        self.last.store(self.counter.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// The clients being served.
#[derive(Default)]
struct ClientTable {
    tasks: JoinSet<ClientEnd>,
    slots: Vec<(Arc<AtomicU64>, AbortHandle)>,
    counter: Arc<AtomicU64>,
}

impl ClientTable {
    fn admit(&mut self, stream: UnixStream, tunnel: TunnelHandle) {
        if self.slots.len() >= MAX_CLIENTS {
            self.evict_longest_silent();
        }
        let activity = Activity { counter: Arc::clone(&self.counter), last: Arc::default() };
        activity.mark();
        let last = Arc::clone(&activity.last);
        let client = Client { stream, tunnel, activity };
        self.slots.push((last, self.tasks.spawn(client.run())));
    }

    fn evict_longest_silent(&mut self) {
        self.forget_ended();
        let silent = (self.slots.iter().enumerate())
            .min_by_key(|(_, (last, _))| last.load(Ordering::Relaxed))
            .map(|(index, _)| index);
        if let Some(index) = silent {
            debug!("the configuration client that was silent longest makes room");
            self.slots.swap_remove(index).1.abort();
        }
    }

    fn forget_ended(&mut self) {
        self.slots.retain(|(_, task)| !task.is_finished());
    }
}

/// Why a client is served no longer.
#[derive(Debug)]
enum ClientEnd {
    /// It left, was too slow, or said what cannot be understood.
    Gone,
    /// There is nothing left to serve.
    TunnelEnded,
}

/// One connection.
struct Client {
    stream: UnixStream,
    tunnel: TunnelHandle,
    activity: Activity,
}

impl Client {
    async fn run(mut self) -> ClientEnd {
        let mut parser = RequestParser::new(scope_index);
        let mut buffer = Zeroizing::new(vec![0; READ_SIZE]);
        // The part of `buffer` that was read and not yet parsed.
        let mut unread = 0..0;
        loop {
            if unread.is_empty() && !parser.is_amid_request() {
                // Between requests there is no hurry.
                match self.stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return ClientEnd::Gone,
                    Ok(length) => unread = 0..length,
                }
                self.activity.mark();
            }
            let next = self.next_event(&mut parser, &mut buffer, &mut unread);
            let Ok(Ok(Some(event))) = timeout(CLIENT_DEADLINE, next).await else {
                // Left or too slow. Half a request changes nothing.
                return ClientEnd::Gone;
            };
            let (answer, goes_on) = match self.answer(event).await {
                Ok(answer) => answer,
                Err(TunnelEnded) => return ClientEnd::TunnelEnded,
            };
            if !matches!(timeout(CLIENT_DEADLINE, self.write(&answer)).await, Ok(Ok(()))) || !goes_on {
                return ClientEnd::Gone;
            }
        }
    }

    /// The next event; `None` when the client has closed its end.
    async fn next_event(
        &mut self,
        parser: &mut RequestParser,
        buffer: &mut [u8],
        unread: &mut std::ops::Range<usize>,
    ) -> io::Result<Option<Event>> {
        loop {
            let mut input = &buffer[unread.clone()];
            let event = parser.push(&mut input);
            unread.start = unread.end - input.len();
            if event.is_some() {
                return Ok(event);
            }
            match self.stream.read(buffer).await? {
                0 => return Ok(None),
                length => *unread = 0..length,
            }
            self.activity.mark();
        }
    }

    async fn write(&mut self, answer: &Answer) -> io::Result<()> {
        match answer {
            Answer::Text(text) => self.write_text(text).await,
            Answer::Status(status) => {
                let mut text = StatusText::new(status);
                while let Some(part) = text.next_part() {
                    self.write_text(part).await?;
                }
                Ok(())
            }
        }
    }

    async fn write_text(&mut self, text: &str) -> io::Result<()> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let written = self.stream.write(rest).await?;
            rest = &rest[written..];
            self.activity.mark();
        }
        Ok(())
    }

    /// The answer, and whether the connection can go on after it.
    async fn answer(&self, event: Event) -> Result<(Answer, bool), TunnelEnded> {
        let text = |text| Answer::Text(Zeroizing::new(text));
        let request = match event {
            Event::Request(request) => request,
            Event::Rejected { operation, error } => {
                debug!(%error, ?operation, "refused a configuration request");
                return Ok((text(emit_errno(operation, error.errno())), true));
            }
            Event::Hangup { operation, error } => {
                debug!(%error, ?operation, "cannot follow a configuration client");
                let answer = operation.map(|operation| emit_errno(operation, error.errno()));
                return Ok((text(answer.unwrap_or_default()), false));
            }
        };
        let answer = match request {
            Request::Get => Answer::Status(self.tunnel.status().await.map_err(|_| TunnelEnded)?),
            Request::Set(update) => {
                let errno = match self.tunnel.apply(update).await {
                    Ok(()) => 0,
                    Err(ApplyError::Closed) => return Err(TunnelEnded),
                    Err(error) => {
                        warn!(%error, "cannot apply a configuration change");
                        error.errno()
                    }
                };
                text(emit_errno(Operation::Set, errno))
            }
            Request::Report => {
                let report = self.tunnel.report().await.map_err(|_| TunnelEnded)?;
                let json = serde_json::to_string(&report)
                    .expect("a report has string keys and plain values, which are always JSON");
                text(emit_report(&json))
            }
            Request::Network(change) => text(match self.tunnel.network(change).await {
                Ok(()) => emit_errno(Operation::Network, 0),
                Err(message) => emit_network_failure(&message, libc::EIO),
            }),
        };
        Ok((answer, true))
    }
}

/// What a request is answered with; wiped when dropped.
enum Answer {
    Text(Zeroizing<String>),
    /// Text is made of it while it is written.
    Status(DeviceStatus),
}

/// The control task is gone.
struct TunnelEnded;

/// Elsewhere than in the user namespace the system booted with, uid 0 is not the system's root.
fn is_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

fn scope_index(interface: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(interface).ok()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests measure how long the server takes")]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as StdUnixStream;
    use std::time::Instant;

    use super::*;
    use crate::config::device::{DeviceStatus, DeviceUpdate, PeerStatus};
    use crate::driver::fake_tunnel::FakeTunnel;
    use crate::driver::uapi_client::UapiClientError;
    use crate::key::PublicKey;

    const HEX: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a73";

    /// Sends `request` and returns all that comes back until the answer ends or the server hangs up.
    fn exchange(stream: &mut StdUnixStream, request: &[u8]) -> String {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // A server that has hung up need not be told the rest.
        stream.write_all(request).ok();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\n\n") && matches!(stream.read(&mut byte), Ok(1)) {
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn several_operations_share_a_connection() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let mut stream = tunnel.connect();
        assert_eq!(exchange(&mut stream, b"get=1\n\n"), "errno=0\n\n");
        assert_eq!(exchange(&mut stream, b"set=1\nlisten_port=5\n\n"), "errno=0\n\n");
        assert_eq!(exchange(&mut stream, b"get=1\n\n"), "listen_port=5\nerrno=0\n\n");
        assert_eq!(exchange(&mut stream, b"get=1\nx=1\n\n"), "errno=22\n\n");
        assert_eq!(exchange(&mut stream, b"set=1\nlisten_port=99999\n\n"), "errno=-22\n\n");
        assert_eq!(exchange(&mut stream, b"set=1\nlisten_port\n\n"), "errno=-71\n\n");
        assert_eq!(exchange(&mut stream, b"hello\n\n"), "");
    }

    #[test]
    fn a_mistake_in_the_last_line_changes_nothing() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let request = format!("set=1\nlisten_port=5\npublic_key={HEX}\nallowed_ip=10.0.0.0/33\n\n");
        assert_eq!(exchange(&mut tunnel.connect(), request.as_bytes()), "errno=-22\n\n");
        assert_eq!(tunnel.client().status().unwrap(), DeviceStatus::default());
    }

    #[test]
    fn half_a_set_changes_nothing() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let mut stream = tunnel.connect();
        stream.write_all(b"set=1\nlisten_port=5\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(exchange(&mut stream, b""), "");
        assert_eq!(tunnel.client().status().unwrap(), DeviceStatus::default());
    }

    #[test]
    fn what_the_tunnel_refuses_is_an_errno() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let error = tunnel.client().apply(&DeviceUpdate { fwmark: Some(1), ..DeviceUpdate::default() });
        let error = error.unwrap_err();
        let UapiClientError::Answer { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.to_string(), "Operation not permitted (os error 1)");
    }

    #[test]
    fn the_report_and_the_network_go_over_the_same_socket() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        assert_eq!(tunnel.client().report().unwrap().name, "fake");
        let mut change = crate::config::NetworkChange::default();
        change.plan.mtu = Some(1400);
        change.plan.routes =
            (0..2000_u16).map(|i| format!("10.{}.{}.0/24", i >> 8, i & 255).parse().unwrap()).collect();
        tunnel.client().network(&change).unwrap();
        assert_eq!(tunnel.network(), change.plan);
        change.plan.mtu = Some(1);
        let error = tunnel.client().network(&change).unwrap_err();
        let UapiClientError::Answer { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.to_string(), "cannot set the MTU: Invalid argument (os error 22)");
    }

    #[test]
    fn a_slow_request_is_cut_off_and_an_idle_connection_is_not() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let mut idle = tunnel.connect();
        let mut slow = tunnel.connect();
        let start = Instant::now();
        let mut sent = 0;
        // A byte now and then, until the server hangs up.
        while start.elapsed() < Duration::from_secs(15) && slow.write_all(b"g").is_ok() {
            sent += 1;
            std::thread::sleep(Duration::from_millis(200));
        }
        let took = start.elapsed();
        assert!((4..14).contains(&took.as_secs()), "cut off after {took:?}, {sent} bytes");
        assert_eq!(exchange(&mut idle, b"get=1\n\n"), "errno=0\n\n");
    }

    #[test]
    fn a_client_that_never_reads_is_cut_off() {
        let peers = (0..30_000_u32).map(|i| {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&i.to_le_bytes());
            PeerStatus::new(PublicKey::from_bytes(bytes))
        });
        let status = DeviceStatus { peers: peers.collect(), ..DeviceStatus::default() };
        let tunnel = FakeTunnel::start(status);
        let mut deaf = tunnel.connect();
        let start = Instant::now();
        deaf.write_all(b"get=1\n\n").unwrap();
        // Meanwhile others are served, and get all of it.
        assert_eq!(tunnel.client().status().unwrap().peers.len(), 30_000);
        // Writing fails as soon as the server has hung up.
        while start.elapsed() < Duration::from_secs(15) && deaf.write_all(b"g").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!((4..14).contains(&start.elapsed().as_secs()), "cut off after {:?}", start.elapsed());
        let answer = exchange(&mut deaf, b"");
        assert!(!answer.is_empty() && !answer.ends_with("errno=0\n\n"), "{} bytes", answer.len());
    }

    #[test]
    fn a_thousand_stalled_clients_keep_nobody_out() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let mut stalled = Vec::new();
        for index in 0..400 {
            let mut stream = tunnel.connect();
            if index % 2 == 0 {
                // The server may have to evict it before this arrives.
                stream.write_all(b"set=1\nlisten_").ok();
            }
            stalled.push(stream);
        }
        // A busy machine may stretch some.
        let took = (0..20).map(|_| {
            let start = Instant::now();
            tunnel.client().status().unwrap();
            start.elapsed()
        });
        let quickest = took.min();
        assert!(quickest < Some(Duration::from_millis(100)), "{quickest:?}");
        // All but the newest were made to leave.
        stalled[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(stalled[0].read(&mut [0]).unwrap_or(0), 0);
    }

    #[test]
    fn a_line_of_many_megabytes_is_cut_off_after_four_kibibytes() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let mut stream = tunnel.connect();
        stream.write_all(b"set=1\nlisten_port=5\n").unwrap();
        let chunk = vec![b'x'; 1 << 20];
        let sent = (0..200).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        // The socket itself holds some hundred KiB.
        assert!(sent <= 1, "{sent} MiB were taken");
        assert_eq!(exchange(&mut stream, b""), "errno=-90\n\n");
        assert_eq!(tunnel.client().status().unwrap(), DeviceStatus::default());
    }

    #[test]
    fn only_our_own_user_and_the_systems_root_are_admitted() {
        let here = Access { own: 1000, root: true };
        assert!(here.admits(1000) && here.admits(0) && !here.admits(1001) && !here.admits(65534));
        let child_namespace = Access { own: 1000, root: false };
        assert!(child_namespace.admits(1000) && !child_namespace.admits(0));
    }

    #[test]
    fn serving_ends_with_the_tunnel() {
        let tunnel = FakeTunnel::start(DeviceStatus::default());
        let mut stream = tunnel.connect();
        tunnel.end();
        assert_eq!(exchange(&mut stream, b"get=1\n\n"), "");
    }
}
