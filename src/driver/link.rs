//! The link: inner packets in and out of one TUN queue, with offload metadata. (tasks)
//!
//! # Theory of operation
//! One thread reads at a time, and any may write. Reading takes what is there without waiting, and only when
//! nothing is there sleeps on the queue and on an eventfd: closing a TUN while another thread sleeps in `read` would
//! leave the interface alive, so the sleeper is woken instead and lets go by itself.
//!
//! An interface that is down refuses packets with EIO; that is the state of the interface, not an error. One that is
//! deleted answers EFAULT, EBADFD or POLLERR; that is the link's end. A kernel that refuses a coalesced packet (EINVAL)
//! tells nothing more than that; the caller gets the slot back to write it in pieces.
//!
//! Where there is no TUN, the queue is a packet socket on the far end of a veth pair (see `veth`): the same packets,
//! in Ethernet frames, which `ethernet` puts on and takes off.
//!
//! A TUN that somebody else made may lack the virtio-net header. Batches have it all the same: it is added as zeros
//! when reading and left off when writing.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::ethernet;
use crate::packet::batch::{MAX_PACKET_LEN, PacketBatch, VNET_HEADER_LEN};
use crate::sys::os_error::OsError;
use crate::sys::packet_socket;
use crate::sys::tun::{self, OffloadRefusal, Offloads, TunError};
use crate::sys::wait;

/// Most packets that one call reads: enough to share the cost of a send, few enough to keep latency low.
const MAX_READ_PACKETS: usize = 64;

/// Reading stops once this many bytes are there: one super-packet is a batch by itself.
const MAX_READ_BYTES: usize = 64 * 1024;

/// How long to leave an interface alone that answered a read with EIO.
const DOWN_PAUSE: Duration = Duration::from_millis(100);

/// One queue of a TUN.
#[derive(Debug)]
pub struct Link {
    queue: OwnedFd,
    medium: Medium,
    offloads: Offloads,
    offload_refusal: Option<OffloadRefusal>,
    shutdown: Arc<Shutdown>,
    /// `preadv2(RWF_NOWAIT)` works here; found out by trying.
    reads_without_waiting: AtomicBool,
}

/// What a queue is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    /// A TUN, with virtio-net headers.
    Tun,
    /// A TUN that somebody made without them.
    BareTun,
    /// A packet socket on the far end of a veth pair: Ethernet frames behind virtio-net headers.
    Veth,
}

/// Ends the reading of every queue it was made for.
#[derive(Debug)]
pub struct Shutdown {
    requested: AtomicBool,
    event: EventFd,
}

impl Shutdown {
    /// Not requested yet.
    ///
    /// # Errors
    /// What `eventfd(2)` says.
    pub fn new() -> Result<Arc<Self>, OsError> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { requested: AtomicBool::new(false), event }))
    }

    /// Makes every present and later read of a link end at once. Never undone.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // The counter would have to be written 2⁶⁴ times to be full, and then the event is there anyway.
        let _full = self.event.write(1);
    }

    /// Whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

impl AsFd for Shutdown {
    /// Readable once it was requested.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// There is at least one packet in the batch.
    Packets,
    /// Shutdown was requested; the batch is empty.
    Shutdown,
    /// Nothing is there.
    Nothing,
    /// The interface is down, or the kernel has no memory: see [`Link::pause`].
    Down,
}

/// What a wait is for, beside shutdown and the other descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Packets, and the link's end.
    Packets,
    /// Nothing of the link: somebody else reads it.
    Nothing,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A packet waits.
    pub packets: bool,
    /// The other descriptor is readable, or has something to say.
    pub other: bool,
}

/// What became of the packets of a batch that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// Slots the kernel took.
    pub written: usize,
    /// Slots dropped because the interface is down.
    pub down: usize,
    /// Slots dropped because the kernel had no memory or no room.
    pub dropped: usize,
    /// Slots that were no packets to the kernel (too short, unknown version): dropped.
    pub invalid: usize,
}

/// Why a link can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The interface was deleted.
    #[error("the interface was deleted")]
    Deleted,
    /// Something that should not happen.
    #[error("cannot use the TUN device")]
    Io(#[source] io::Error),
}

impl Link {
    /// A link over whatever the child has made: a TUN queue or, where there is no TUN, a packet socket.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn from_queue(queue: OwnedFd, shutdown: Arc<Shutdown>) -> Result<Self, TunError> {
        if packet_socket::is_one(queue.as_fd()) {
            // What a packet socket takes is not asked for; what it does not take is refused packet by packet.
            let offloads = Offloads { checksum: true, tcp: true, udp: true };
            Ok(Self {
                queue,
                medium: Medium::Veth,
                offloads,
                offload_refusal: None,
                shutdown,
                reads_without_waiting: AtomicBool::new(true),
            })
        } else {
            Self::from_tun(queue, shutdown)
        }
    }

    /// A link over a TUN queue: one that the namespace child made, or one that was passed by `--tun-fd`.
    ///
    /// # Errors
    /// See [`TunError`]; TAP devices and devices with packet information are refused.
    pub fn from_tun(queue: OwnedFd, shutdown: Arc<Shutdown>) -> Result<Self, TunError> {
        let interface = tun::inspect(queue.as_fd())?;
        let (offloads, offload_refusal) = if interface.vnet_header {
            tun::set_header(queue.as_fd())?;
            tun::enable_offloads(queue.as_fd())
        } else {
            (Offloads::default(), None)
        };
        Ok(Self {
            queue,
            medium: if interface.vnet_header { Medium::Tun } else { Medium::BareTun },
            offloads,
            offload_refusal,
            shutdown,
            reads_without_waiting: AtomicBool::new(true),
        })
    }

    /// What it is made of, in a word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.medium {
            Medium::Tun | Medium::BareTun => "tun",
            Medium::Veth => "veth",
        }
    }

    /// What may be written unfinished.
    #[must_use]
    pub const fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Why that is less than every kernel has, for people, once.
    #[must_use]
    pub const fn offload_refusal(&self) -> Option<OffloadRefusal> {
        self.offload_refusal
    }

    /// The interface's name as it is now; MTU and state are told by an rtnetlink socket only.
    ///
    /// # Errors
    /// [`TunError::Detached`] once the interface is deleted.
    pub fn interface_name(&self) -> Result<String, TunError> {
        Ok(tun::inspect(self.queue.as_fd())?.name)
    }

    /// Waits for a packet, then takes what else is there: at most 64 packets, and none after 64 KiB.
    ///
    /// The batch is cleared first.
    ///
    /// # Errors
    /// [`LinkError::Deleted`] ends the link.
    ///
    /// # Panics
    /// If the batch's slab cannot hold one packet of the largest size with its header.
    pub fn read_batch(&self, batch: &mut PacketBatch) -> Result<ReadOutcome, LinkError> {
        loop {
            match self.read_ready(batch)? {
                ReadOutcome::Nothing => drop(self.wait(Watch::Packets, None, None)?),
                ReadOutcome::Down => self.pause()?,
                outcome @ (ReadOutcome::Packets | ReadOutcome::Shutdown) => return Ok(outcome),
            }
        }
    }

    /// As [`read_batch`](Self::read_batch), without waiting.
    ///
    /// # Errors
    /// [`LinkError::Deleted`] ends the link.
    ///
    /// # Panics
    /// If the batch's slab cannot hold one packet of the largest size with its header.
    pub fn read_ready(&self, batch: &mut PacketBatch) -> Result<ReadOutcome, LinkError> {
        batch.clear();
        assert!(batch.spare().len() >= LARGEST_READ, "a link's batch holds at least one whole super-packet");
        if self.shutdown.is_requested() {
            return Ok(ReadOutcome::Shutdown);
        }
        let drained = self.drain(batch);
        if !batch.is_empty() {
            // What was read before any trouble is delivered; the trouble comes again.
            return Ok(ReadOutcome::Packets);
        }
        match drained {
            Ok(()) => Ok(ReadOutcome::Nothing),
            Err(error) => match classify(&error) {
                Trouble::Deleted => Err(LinkError::Deleted),
                Trouble::Down | Trouble::NoRoom => Ok(ReadOutcome::Down),
                Trouble::Refused | Trouble::Other => Err(LinkError::Io(error)),
            },
        }
    }

    /// Sleeps until there is a packet, if `watch` says so, `other` is readable, or shutdown is requested; at most
    /// for `timeout`.
    ///
    /// # Errors
    /// [`LinkError::Deleted`] ends the link; seen only by who is interested in packets.
    pub fn wait(
        &self,
        watch: Watch,
        other: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> Result<Ready, LinkError> {
        let for_packets = watch == Watch::Packets;
        let mut fds = [
            PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN),
            PollFd::new(other.unwrap_or_else(|| self.shutdown.as_fd()), PollFlags::POLLIN),
            PollFd::new(self.queue.as_fd(), PollFlags::POLLIN),
        ];
        // Errors of the queue would be told even to those who do not ask.
        let asked = if for_packets { fds.len() } else { fds.len() - 1 };
        wait::poll(&mut fds[..asked], timeout).map_err(|error| LinkError::Io(error.into()))?;
        let told = |index: usize| fds[index].revents().unwrap_or(PollFlags::empty());
        let packets = if for_packets { told(2) } else { PollFlags::empty() };
        if packets.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return Err(LinkError::Deleted);
        }
        Ok(Ready { packets: !packets.is_empty(), other: !told(1).is_empty() })
    }

    /// Writes each slot of a batch. The numbers of coalesced slots that the kernel refused are put into `refused`
    /// (cleared first): split them, write the pieces, and coalesce no more.
    ///
    /// # Errors
    /// [`LinkError::Deleted`] ends the link.
    pub fn write_batch(
        &self,
        batch: &PacketBatch,
        refused: &mut Vec<usize>,
    ) -> Result<WriteReport, LinkError> {
        refused.clear();
        let mut report = WriteReport::default();
        for (index, slot) in batch.iter().enumerate() {
            match self.write_slot(slot) {
                Ok(()) => report.written += 1,
                Err(error) => match classify(&error) {
                    Trouble::Deleted => return Err(LinkError::Deleted),
                    Trouble::Down => report.down += 1,
                    Trouble::NoRoom => report.dropped += 1,
                    Trouble::Refused if is_unfinished(slot) => refused.push(index),
                    Trouble::Refused => report.invalid += 1,
                    Trouble::Other => return Err(LinkError::Io(error)),
                },
            }
        }
        Ok(report)
    }

    fn drain(&self, batch: &mut PacketBatch) -> io::Result<()> {
        while batch.len() < MAX_READ_PACKETS && batch.used() < MAX_READ_BYTES {
            let spare = batch.spare();
            if spare.len() < LARGEST_READ {
                break;
            }
            let read = match self.medium {
                Medium::Tun => self.read_now(spare),
                Medium::BareTun => {
                    let (header, packet) = spare.split_at_mut(VNET_HEADER_LEN);
                    header.fill(0);
                    self.read_now(packet).map(|len| len + VNET_HEADER_LEN)
                }
                Medium::Veth => ethernet::receive(self.queue.as_fd(), spare),
            };
            match read {
                Ok(len) => batch.commit(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.reads_without_waiting.load(Ordering::Relaxed) {
            match tun::read_now(self.queue.as_fd(), &mut [IoSliceMut::new(buffer)]) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    self.reads_without_waiting.store(false, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        // Nobody else reads this queue, so what poll has seen is still there.
        if wait::readable(self.queue.as_fd(), Some(Duration::ZERO))? {
            tun::read(self.queue.as_fd(), &mut [IoSliceMut::new(buffer)])
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// Leaves an interface that is down alone for a moment.
    ///
    /// # Errors
    /// Only if waiting itself fails.
    pub fn pause(&self) -> Result<(), LinkError> {
        wait::readable(self.shutdown.as_fd(), Some(DOWN_PAUSE))
            .map(|_requested| ())
            .map_err(|error| LinkError::Io(error.into()))
    }

    fn write_slot(&self, slot: &[u8]) -> io::Result<()> {
        let bytes = match self.medium {
            Medium::Tun | Medium::Veth => slot,
            // Without a header there is no way to say what is left to do.
            Medium::BareTun if is_unfinished(slot) => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Medium::BareTun => slot.get(VNET_HEADER_LEN..).unwrap_or_default(),
        };
        loop {
            let written = match self.medium {
                Medium::Tun | Medium::BareTun => tun::write(self.queue.as_fd(), &[IoSlice::new(bytes)]),
                Medium::Veth => ethernet::send(self.queue.as_fd(), bytes),
            };
            match written {
                Ok(_whole_packet) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Whether a slot's header asks the kernel to split it or to finish its checksum.
fn is_unfinished(slot: &[u8]) -> bool {
    // struct virtio_net_hdr begins with `flags` and `gso_type`; bit 0 of the flags is NEEDS_CSUM.
    matches!(slot, [flags, gso_type, ..] if flags & 1 != 0 || *gso_type != 0)
}

enum Trouble {
    Deleted,
    Down,
    NoRoom,
    Refused,
    Other,
}

fn classify(error: &io::Error) -> Trouble {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBADFD | Errno::EFAULT | Errno::ENODEV | Errno::ENXIO) => Trouble::Deleted,
        Some(Errno::EIO | Errno::ENETDOWN) => Trouble::Down,
        Some(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => Trouble::NoRoom,
        Some(Errno::EINVAL | Errno::EMSGSIZE) => Trouble::Refused,
        _ => Trouble::Other,
    }
}

const LARGEST_READ: usize = VNET_HEADER_LEN + MAX_PACKET_LEN;
