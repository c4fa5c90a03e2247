//! The tx and rx threads: read, hand to the core, write; to completion, in order. (threads)

use std::io;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::packet_log;
use super::transmit::{LinkWriter, Step, Transmit};
use super::turns::{Load, Lookout, Turn, Turns};
use crate::driver::clock;
use crate::driver::link::{Link, LinkError, Shutdown, Watch};
use crate::driver::udp::{Patience, RECEIVE_STRIDE, UdpPort};
use crate::packet::batch::{DatagramBatch, MAX_SEGMENTS, PacketBatch, Path};
use crate::packet::coalesce::Coalescer;
use crate::sys::seccomp::{self, Role};
use crate::wireguard::{DataPlane, MAX_QUEUED_HANDSHAKES, RxPath};

/// Receive buffers of one `recvmmsg`; each takes a whole GRO run.
const RECEIVE_RUNS: usize = 8;

/// Their bytes.
const RECEIVE_SLAB_LEN: usize = RECEIVE_RUNS * RECEIVE_STRIDE;

/// Most packets that one `recvmmsg` can bring: the kernel joins no more than 64 datagrams to a run.
const RECEIVE_PACKETS: usize = RECEIVE_RUNS * MAX_SEGMENTS;

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

/// Starts both threads, each to filter its system calls if told so, and returns when they have; with them the way out
/// that they share, and a receiver that yields what only the control task may handle.
pub(super) fn spawn(
    data_plane: &Arc<DataPlane>,
    link: &Arc<Link>,
    link_shutdown: Arc<Shutdown>,
    udp: &Arc<ArcSwap<UdpPort>>,
    ends: &mpsc::UnboundedSender<ThreadEnd>,
    filtered: bool,
) -> io::Result<(DataThreads, Arc<Mutex<Transmit>>, mpsc::Receiver<HandshakeDatagram>)> {
    let (handshakes, receiver) = mpsc::channel(MAX_QUEUED_HANDSHAKES);
    let stopping = Arc::new(AtomicBool::new(false));
    // Whoever is told that the tunnel is ready finds every thread confined.
    let confined = Arc::new(Barrier::new(3));
    let transmit = Arc::new(Mutex::new(Transmit::new(data_plane, link, udp)));
    let turns = Arc::new(Turns::new()?);
    let tx = {
        let (link, ends, stopping) = (Arc::clone(link), ends.clone(), Arc::clone(&stopping));
        let (transmit, turns, confined) = (Arc::clone(&transmit), Arc::clone(&turns), Arc::clone(&confined));
        std::thread::Builder::new().name("tx".into()).spawn(move || {
            report_end(&ends, || {
                restrict(filtered, Role::Transmit, &confined)?;
                run_tx(&transmit, &link, &turns, &stopping)
            });
        })?
    };
    let rx = {
        let mut receive = Receive::new(data_plane, link, udp, handshakes, Arc::clone(&transmit), turns);
        let (ends, stopping, confined) = (ends.clone(), Arc::clone(&stopping), Arc::clone(&confined));
        std::thread::Builder::new().name("rx".into()).spawn(move || {
            report_end(&ends, || {
                restrict(filtered, Role::Receive, &confined)?;
                receive.run(&stopping)
            });
        })?
    };
    confined.wait();
    Ok((DataThreads { stopping, link_shutdown, threads: vec![tx, rx] }, transmit, receiver))
}

/// Leaves this thread the system calls of its role, and tells whoever waits at `confined`, however that went.
fn restrict(filtered: bool, role: Role, confined: &Barrier) -> Result<(), ThreadEnd> {
    let restricted = if filtered { seccomp::restrict(role) } else { Ok(()) };
    confined.wait();
    restricted.map_err(|error| ThreadEnd::Failed("close the sandbox", io::Error::other(error)))
}

/// Runs a thread's loop and tells the control task why it ended. A panic is told, too: a tunnel with one thread would be
/// up and dead.
fn report_end(ends: &mpsc::UnboundedSender<ThreadEnd>, run: impl FnOnce() -> Result<(), ThreadEnd>) {
    // Nothing that the loop owned is looked at again.
    let end = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_panic| {
        let source = io::Error::other("a thread has panicked; please report what it said");
        Err(ThreadEnd::Failed("carry packets", source))
    });
    if let Err(end) = end
        && ends.send(end).is_err()
    {
        debug!("a data thread ended after the control task");
    }
}

fn lock(transmit: &Mutex<Transmit>) -> MutexGuard<'_, Transmit> {
    // The thread that panicked has ended the tunnel.
    transmit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries packets from the link while it is this thread's turn.
fn run_tx(
    transmit: &Mutex<Transmit>,
    link: &Link,
    turns: &Turns,
    stopping: &AtomicBool,
) -> Result<(), ThreadEnd> {
    while !stopping.load(Ordering::Relaxed) {
        let watch = if turns.has_link(Turn::Tx) { Watch::Packets } else { Watch::Nothing };
        let ready = link.wait(watch, Some(turns.as_fd()), None)?;
        if ready.other {
            turns.hear();
        }
        while ready.packets && turns.has_link(Turn::Tx) {
            // The lock is let go between batches.
            let step = lock(transmit).step(Patience::Full)?;
            match step {
                Step::Carried(load, now) => turns.note(load, now.boot),
                Step::Nothing => break,
                Step::Down => link.pause()?,
                Step::Shutdown => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Carries datagrams to the link and, on a quiet tunnel, packets from it.
pub(super) struct Receive {
    path: RxPath,
    link: Arc<Link>,
    udp: Arc<ArcSwap<UdpPort>>,
    handshakes: mpsc::Sender<HandshakeDatagram>,
    transmit: Arc<Mutex<Transmit>>,
    turns: Arc<Turns>,
    lookout: Lookout,
    datagrams: DatagramBatch,
    packets: PacketBatch,
    writer: LinkWriter,
}

impl Receive {
    pub(super) fn new(
        data_plane: &Arc<DataPlane>,
        link: &Arc<Link>,
        udp: &Arc<ArcSwap<UdpPort>>,
        handshakes: mpsc::Sender<HandshakeDatagram>,
        transmit: Arc<Mutex<Transmit>>,
        turns: Arc<Turns>,
    ) -> Self {
        Self {
            path: RxPath::new(Arc::clone(data_plane)),
            link: Arc::clone(link),
            udp: Arc::clone(udp),
            handshakes,
            transmit,
            turns,
            lookout: Lookout::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
            datagrams: DatagramBatch::with_capacity(RECEIVE_SLAB_LEN, 64),
            packets: PacketBatch::with_capacity(
                Coalescer::room(RECEIVE_SLAB_LEN, RECEIVE_PACKETS),
                RECEIVE_PACKETS,
            ),
            writer: LinkWriter::new(Arc::clone(link)),
        }
    }

    fn run(&mut self, stopping: &AtomicBool) -> Result<(), ThreadEnd> {
        while !stopping.load(Ordering::Relaxed) {
            if self.turns.has_link(Turn::Rx) {
                self.both_directions()?;
            } else {
                self.inwards(Patience::Full)?;
                if self.turns.is_quiet(clock::now().boot) {
                    self.turns.give_link(Turn::Rx);
                }
            }
        }
        Ok(())
    }

    /// Waits for whatever comes from either side, and carries it.
    pub(super) fn both_directions(&mut self) -> Result<(), ThreadEnd> {
        let port = self.udp.load_full();
        let ready = self.lookout.wait(&self.link, port.as_fd())?;
        if ready.other {
            self.inwards(Patience::None)?;
        }
        // The kernel's own answers, to an echo request or a segment, are there as soon as it has the packet.
        let outwards = (ready.packets || ready.other) && self.outwards()?;
        self.lookout.note(outwards);
        Ok(())
    }

    /// One batch from the link, if there is one; whether there was.
    fn outwards(&mut self) -> Result<bool, ThreadEnd> {
        // A full socket means load, and then this is the other thread's work; it waits, and we must not.
        let step = match self.transmit.try_lock() {
            Ok(mut transmit) => transmit.step(Patience::None)?,
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {
                self.turns.give_link(Turn::Tx);
                return Ok(false);
            }
        };
        match step {
            Step::Carried(load, now) => {
                self.turns.note(load, now.boot);
                if !self.turns.is_quiet(now.boot) {
                    self.turns.give_link(Turn::Tx);
                }
                Ok(true)
            }
            Step::Nothing | Step::Shutdown => Ok(false),
            Step::Down => {
                // The other thread can pause without keeping datagrams waiting.
                self.turns.note(Load::HEAVY, clock::now().boot);
                self.turns.give_link(Turn::Tx);
                Ok(false)
            }
        }
    }

    /// One batch from the socket.
    fn inwards(&mut self, patience: Patience) -> Result<(), ThreadEnd> {
        self.datagrams.clear();
        let received = self.udp.load().receive_with(&mut self.datagrams, patience);
        match received {
            // Shut down, and either we stop, or a new port is in place; or there was nothing.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(ThreadEnd::Failed("receive from the UDP socket", error)),
        }
        let now = clock::now();
        packet_log::datagrams("from", &self.datagrams);
        self.packets.clear();
        self.path.set_coalescing(self.writer.coalesce(now.boot));
        let handshakes = &self.handshakes;
        self.path.handle_datagrams(&mut self.datagrams, now, &mut self.packets, &mut |datagram, from| {
            // A full queue sheds load: the sender retries, and a cookie is asked of it once there is room.
            if let Some(message) = HandshakeDatagram::new(datagram, from)
                && handshakes.try_send(message).is_err()
            {
                debug!("the handshake queue is full");
            }
        });
        self.turns.note(Load::of(&self.packets), now.boot);
        if self.turns.has_link(Turn::Rx) && !self.turns.is_quiet(now.boot) {
            self.turns.give_link(Turn::Tx);
        }
        self.writer.write(&self.packets)
    }
}

impl From<LinkError> for ThreadEnd {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Deleted => Self::LinkDeleted,
            LinkError::Io(source) => Self::Failed("use the TUN", source),
        }
    }
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
