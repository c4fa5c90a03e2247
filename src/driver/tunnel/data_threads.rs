//! The tx and rx threads: read, hand to the core, write; to completion, in order. (threads)

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::driver::clock;
use crate::driver::link::{Link, LinkError, ReadOutcome, Shutdown};
use crate::driver::udp::{Patience, RECEIVE_STRIDE, UdpPort};
use crate::packet::batch::{DatagramBatch, MAX_PACKET_LEN, MAX_SEGMENTS, PacketBatch, Path, VNET_HEADER_LEN};
use crate::packet::coalesce::{CoalesceConfig, Coalescer};
use crate::packet::split::{SegmentLayout, split_joined};
use crate::sys::seccomp::{self, Role};
use crate::sys::tun::Offloads;
use crate::time::BootTime;
use crate::wireguard::{DataPlane, MAX_QUEUED_HANDSHAKES, RxPath, TX_SLAB_LEN, TxPath};

/// Inner bytes read in one go: one full super-packet beside a queue of small ones.
const READ_SLAB_LEN: usize = 128 * 1024 + MAX_PACKET_LEN + VNET_HEADER_LEN;

/// Receive buffers of one `recvmmsg`; each takes a whole GRO run.
const RECEIVE_RUNS: usize = 8;

/// Their bytes.
const RECEIVE_SLAB_LEN: usize = RECEIVE_RUNS * RECEIVE_STRIDE;

/// Most packets that one `recvmmsg` can bring: the kernel joins no more than 64 datagrams to a run.
const RECEIVE_PACKETS: usize = RECEIVE_RUNS * MAX_SEGMENTS;

/// ICMP answers to one batch of refused packets: 64 of at most 1280 bytes.
const REPLY_SLAB_LEN: usize = 64 * 1_300;

/// Longest handshake message: an initiation.
const MAX_HANDSHAKE_LEN: usize = 148;

/// A handshake message on its way from the rx thread to the control task.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandshakeDatagram {
    bytes: [u8; MAX_HANDSHAKE_LEN],
    len: usize,
    /// Where it came from and arrived at.
    pub(super) path: Path,
}

impl HandshakeDatagram {
    fn new(datagram: &[u8], path: Path) -> Option<Self> {
        let mut bytes = [0; MAX_HANDSHAKE_LEN];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self { bytes, len: datagram.len(), path })
    }

    /// The message.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Why a data thread ended.
#[derive(Debug)]
pub(super) enum ThreadEnd {
    /// The interface is gone.
    LinkDeleted,
    /// The link or the socket failed for good.
    Failed(&'static str, io::Error),
}

/// The two threads; `stop` wakes and joins them.
pub(super) struct DataThreads {
    stopping: Arc<AtomicBool>,
    link_shutdown: Arc<Shutdown>,
    threads: Vec<JoinHandle<()>>,
}

impl DataThreads {
    /// Wakes both threads and waits for them to end.
    pub(super) fn stop(self, udp: &ArcSwap<UdpPort>) {
        self.stopping.store(true, Ordering::SeqCst);
        self.link_shutdown.request();
        udp.load().shutdown();
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a data thread had panicked");
            }
        }
    }
}

/// Starts both threads, each to filter its system calls if told so, and returns when they have; the receiver yields
/// what only the control task may handle.
pub(super) fn spawn(
    data_plane: &Arc<DataPlane>,
    link: &Arc<Link>,
    link_shutdown: Arc<Shutdown>,
    udp: &Arc<ArcSwap<UdpPort>>,
    ends: &mpsc::UnboundedSender<ThreadEnd>,
    filtered: bool,
) -> io::Result<(DataThreads, mpsc::Receiver<HandshakeDatagram>)> {
    let (handshakes, receiver) = mpsc::channel(MAX_QUEUED_HANDSHAKES);
    let stopping = Arc::new(AtomicBool::new(false));
    // Whoever is told that the tunnel is ready finds every thread confined.
    let confined = Arc::new(Barrier::new(3));
    let tx = {
        let (path, link, udp, ends, stopping) = (
            TxPath::new(Arc::clone(data_plane)),
            Arc::clone(link),
            Arc::clone(udp),
            ends.clone(),
            Arc::clone(&stopping),
        );
        let (data_plane, confined) = (Arc::clone(data_plane), Arc::clone(&confined));
        std::thread::Builder::new().name("tx".into()).spawn(move || {
            report_end(&ends, || {
                restrict(filtered, Role::Transmit, &confined)
                    .err()
                    .or_else(|| run_tx(path, &data_plane, &link, &udp, &stopping))
            });
        })?
    };
    let rx = {
        let (path, link, udp, ends, stopping) = (
            RxPath::new(Arc::clone(data_plane)),
            Arc::clone(link),
            Arc::clone(udp),
            ends.clone(),
            Arc::clone(&stopping),
        );
        let confined = Arc::clone(&confined);
        std::thread::Builder::new().name("rx".into()).spawn(move || {
            report_end(&ends, || {
                restrict(filtered, Role::Receive, &confined)
                    .err()
                    .or_else(|| run_rx(path, &link, &udp, &handshakes, &stopping))
            });
        })?
    };
    confined.wait();
    Ok((DataThreads { stopping, link_shutdown, threads: vec![tx, rx] }, receiver))
}

/// Leaves this thread the system calls of its role, and tells whoever waits at `confined`, however that went.
fn restrict(filtered: bool, role: Role, confined: &Barrier) -> Result<(), ThreadEnd> {
    let restricted = if filtered { seccomp::restrict(role) } else { Ok(()) };
    confined.wait();
    restricted.map_err(|error| ThreadEnd::Failed("close the sandbox", io::Error::other(error)))
}

/// Runs a thread's loop and tells the control task why it ended. A panic is told, too: a tunnel with one thread would be
/// up and dead.
fn report_end(ends: &mpsc::UnboundedSender<ThreadEnd>, run: impl FnOnce() -> Option<ThreadEnd>) {
    // Nothing that the loop owned is looked at again.
    let end = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_panic| {
        let source = io::Error::other("a thread has panicked; please report what it said");
        Some(ThreadEnd::Failed("carry packets", source))
    });
    if let Some(end) = end
        && ends.send(end).is_err()
    {
        debug!("a data thread ended after the control task");
    }
}

fn run_tx(
    mut path: TxPath,
    data_plane: &DataPlane,
    link: &Link,
    udp: &ArcSwap<UdpPort>,
    stopping: &AtomicBool,
) -> Option<ThreadEnd> {
    let mut packets = PacketBatch::with_capacity(READ_SLAB_LEN, 64);
    let mut replies = PacketBatch::with_capacity(REPLY_SLAB_LEN, 64);
    let mut datagrams = DatagramBatch::with_capacity(TX_SLAB_LEN, 64);
    let mut writer = LinkWriter::new(link);
    while !stopping.load(Ordering::Relaxed) {
        match link.read_batch(&mut packets) {
            Ok(ReadOutcome::Packets) => {}
            Ok(ReadOutcome::Shutdown) => return None,
            Err(error) => return Some(error.into()),
        }
        let now = clock::now();
        datagrams.clear();
        replies.clear();
        path.handle_packets(&packets, now, &mut datagrams, &mut replies);
        if !datagrams.is_empty() {
            send(data_plane, &udp.load(), &datagrams, Patience::Full);
        }
        if let Err(end) = writer.write(&replies) {
            return Some(end);
        }
    }
    None
}

/// Writes packets to the link; pieces together again what the kernel will not take joined.
struct LinkWriter<'a> {
    link: &'a Link,
    /// What the link takes joined, as it says.
    offered: CoalesceConfig,
    /// Nothing is joined before this: the link has refused some.
    resumes: Option<BootTime>,
    said: bool,
    refused: Vec<usize>,
    pieces: Vec<u8>,
    singles: PacketBatch,
}

impl<'a> LinkWriter<'a> {
    fn new(link: &'a Link) -> Self {
        let Offloads { tcp, udp, .. } = link.offloads();
        let offered = CoalesceConfig { tcp, udp };
        Self {
            link,
            offered,
            resumes: None,
            said: false,
            refused: Vec::new(),
            pieces: Vec::new(),
            singles: PacketBatch::with_capacity(0, 0),
        }
    }

    /// What may be joined before it comes here.
    fn coalesce(&mut self, now: BootTime) -> CoalesceConfig {
        if self.resumes.is_some_and(|resumes| now >= resumes) {
            self.resumes = None;
        }
        if self.resumes.is_some() { CoalesceConfig { tcp: false, udp: false } } else { self.offered }
    }

    fn write(&mut self, packets: &PacketBatch) -> Result<(), ThreadEnd> {
        if packets.is_empty() {
            return Ok(());
        }
        self.link.write_batch(packets, &mut self.refused)?;
        if !self.refused.is_empty() {
            self.write_singly(packets)?;
        }
        Ok(())
    }

    /// Some kernels refuse super-packets that their own offload flags promise to take (Linux 6.6.44 did): split what
    /// was refused, and join no more for a while. It may have been a single packet that was odd, so not for ever.
    fn write_singly(&mut self, packets: &PacketBatch) -> Result<(), ThreadEnd> {
        if !std::mem::replace(&mut self.said, true) {
            warn!("the TUN refuses joined packets; going on without, and trying again every minute");
        }
        self.resumes = Some(clock::now().boot + JOIN_PAUSE);
        if self.pieces.is_empty() {
            self.pieces = vec![0; SINGLES.room()];
            self.singles = PacketBatch::with_capacity(SINGLES.room(), MAX_SEGMENTS);
        }
        for index in std::mem::take(&mut self.refused) {
            let Ok(segments) = split_joined(packets.slot(index), &SINGLES, &mut self.pieces) else {
                continue;
            };
            self.singles.clear();
            for piece in self.pieces[..segments.total_len].chunks(segments.stride) {
                self.singles.spare()[..piece.len()].copy_from_slice(piece);
                self.singles.commit(piece.len());
            }
            self.link.write_batch(&self.singles, &mut self.refused)?;
        }
        Ok(())
    }
}

/// How long nothing is joined after the TUN has refused something joined.
const JOIN_PAUSE: Duration = Duration::from_secs(60);

/// Each piece behind an empty virtio-net header, without padding.
const SINGLES: SegmentLayout = SegmentLayout { headroom: VNET_HEADER_LEN, tailroom: 0, mtu: 0 };

impl From<LinkError> for ThreadEnd {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Deleted => Self::LinkDeleted,
            LinkError::Io(source) => Self::Failed("use the TUN", source),
        }
    }
}

/// Sends a batch; what the socket refuses is counted, never fatal: protocol timers retry.
pub(super) fn send(data_plane: &DataPlane, udp: &UdpPort, datagrams: &DatagramBatch, patience: Patience) {
    let outcome = udp.send_with(datagrams, clock::now().boot, patience);
    for remote in outcome.stale_sources {
        data_plane.forget_source(remote);
    }
}

fn run_rx(
    mut path: RxPath,
    link: &Link,
    udp: &ArcSwap<UdpPort>,
    handshakes: &mpsc::Sender<HandshakeDatagram>,
    stopping: &AtomicBool,
) -> Option<ThreadEnd> {
    let mut datagrams = DatagramBatch::with_capacity(RECEIVE_SLAB_LEN, 64);
    let mut packets =
        PacketBatch::with_capacity(Coalescer::room(RECEIVE_SLAB_LEN, RECEIVE_PACKETS), RECEIVE_PACKETS);
    let mut writer = LinkWriter::new(link);
    path.set_coalescing(writer.coalesce(clock::now().boot));
    while !stopping.load(Ordering::Relaxed) {
        datagrams.clear();
        let port = udp.load();
        match port.receive(&mut datagrams) {
            Ok(0) => continue, // shut down: either we stop, or a new port is in place
            Ok(_) => {}
            Err(error) => return Some(ThreadEnd::Failed("receive from the UDP socket", error)),
        }
        packets.clear();
        let now = clock::now();
        path.set_coalescing(writer.coalesce(now.boot));
        path.handle_datagrams(&mut datagrams, now, &mut packets, &mut |datagram, from| {
            // A full queue sheds load: the sender retries, and a cookie is asked of it once there is room.
            if let Some(message) = HandshakeDatagram::new(datagram, from)
                && handshakes.try_send(message).is_err()
            {
                debug!("the handshake queue is full");
            }
        });
        if let Err(end) = writer.write(&packets) {
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It went on with one thread: no error, no end, and no packet any more.
    #[test]
    fn a_thread_that_panics_is_the_end_of_the_tunnel() {
        let (sender, mut ends) = mpsc::unbounded_channel();
        let thread = std::thread::spawn(move || report_end(&sender, || panic!("a broken invariant")));
        thread.join().unwrap();
        let Some(ThreadEnd::Failed(operation, source)) = ends.blocking_recv() else { panic!("no end") };
        assert_eq!(operation, "carry packets");
        assert_eq!(source.to_string(), "a thread has panicked; please report what it said");
    }
}
