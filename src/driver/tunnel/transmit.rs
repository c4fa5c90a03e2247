//! Packets from the link to the socket, a batch at a time, and packets to the link. (threads)

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::warn;

use super::data_threads::ThreadEnd;
use super::packet_log;
use super::turns::Load;
use crate::driver::clock;
use crate::driver::link::{Link, ReadOutcome};
use crate::driver::udp::{Patience, UdpPort};
use crate::packet::batch::{DatagramBatch, MAX_PACKET_LEN, MAX_SEGMENTS, PacketBatch, VNET_HEADER_LEN};
use crate::packet::coalesce::CoalesceConfig;
use crate::packet::split::{SegmentLayout, split_joined};
use crate::sys::tun::Offloads;
use crate::time::{BootTime, Now};
use crate::wireguard::{DataPlane, TX_SLAB_LEN, TxPath};

/// Inner bytes read in one go: one full super-packet beside a queue of small ones.
const READ_SLAB_LEN: usize = 128 * 1024 + MAX_PACKET_LEN + VNET_HEADER_LEN;

/// ICMP answers to one batch of refused packets: 64 of at most 1280 bytes.
const REPLY_SLAB_LEN: usize = 64 * 1_300;

/// What one step of [`Transmit`] came to.
pub(super) enum Step {
    /// A batch was carried.
    Carried(Load, Now),
    /// No packet is there.
    Nothing,
    /// The interface is down.
    Down,
    /// The link is to be read no more.
    Shutdown,
}

/// The way out: read, seal, send. Whoever holds it does all three, so packets leave in the order in which they came.
pub(super) struct Transmit {
    path: TxPath,
    data_plane: Arc<DataPlane>,
    link: Arc<Link>,
    udp: Arc<ArcSwap<UdpPort>>,
    packets: PacketBatch,
    replies: PacketBatch,
    datagrams: DatagramBatch,
    writer: LinkWriter,
}

impl Transmit {
    pub(super) fn new(data_plane: &Arc<DataPlane>, link: &Arc<Link>, udp: &Arc<ArcSwap<UdpPort>>) -> Self {
        Self {
            path: TxPath::new(Arc::clone(data_plane)),
            data_plane: Arc::clone(data_plane),
            link: Arc::clone(link),
            udp: Arc::clone(udp),
            packets: PacketBatch::with_capacity(READ_SLAB_LEN, 64),
            replies: PacketBatch::with_capacity(REPLY_SLAB_LEN, 64),
            datagrams: DatagramBatch::with_capacity(TX_SLAB_LEN, 64),
            writer: LinkWriter::new(Arc::clone(link)),
        }
    }

    /// Carries the batch that is there, if there is one.
    pub(super) fn step(&mut self, patience: Patience) -> Result<Step, ThreadEnd> {
        match self.link.read_ready(&mut self.packets)? {
            ReadOutcome::Packets => {}
            ReadOutcome::Nothing => return Ok(Step::Nothing),
            ReadOutcome::Down => return Ok(Step::Down),
            ReadOutcome::Shutdown => return Ok(Step::Shutdown),
        }
        let now = clock::now();
        packet_log::packets("from", &self.packets);
        self.datagrams.clear();
        self.replies.clear();
        self.path.handle_packets(&self.packets, now, &mut self.datagrams, &mut self.replies);
        if !self.datagrams.is_empty() {
            send(&self.data_plane, &self.udp.load(), &self.datagrams, patience);
        }
        self.writer.write(&self.replies)?;
        Ok(Step::Carried(Load::of(&self.packets), now))
    }
}

/// Writes packets to the link; pieces together again what the kernel will not take joined.
pub(super) struct LinkWriter {
    link: Arc<Link>,
    /// What the link takes joined, as it says.
    offered: CoalesceConfig,
    /// Nothing is joined before this: the link has refused some.
    resumes: Option<BootTime>,
    said: bool,
    refused: Vec<usize>,
    pieces: Vec<u8>,
    singles: PacketBatch,
}

impl LinkWriter {
    pub(super) fn new(link: Arc<Link>) -> Self {
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
    pub(super) fn coalesce(&mut self, now: BootTime) -> CoalesceConfig {
        if self.resumes.is_some_and(|resumes| now >= resumes) {
            self.resumes = None;
        }
        if self.resumes.is_some() { CoalesceConfig { tcp: false, udp: false } } else { self.offered }
    }

    pub(super) fn write(&mut self, packets: &PacketBatch) -> Result<(), ThreadEnd> {
        if packets.is_empty() {
            return Ok(());
        }
        packet_log::packets("to", packets);
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
pub(super) const JOIN_PAUSE: Duration = Duration::from_secs(60);

/// Each piece behind an empty virtio-net header, without padding.
const SINGLES: SegmentLayout = SegmentLayout { headroom: VNET_HEADER_LEN, tailroom: 0, mtu: 0 };

/// Sends a batch; what the socket refuses is counted, never fatal: protocol timers retry.
pub(super) fn send(data_plane: &DataPlane, udp: &UdpPort, datagrams: &DatagramBatch, patience: Patience) {
    packet_log::datagrams("to", datagrams);
    let outcome = udp.send_with(datagrams, clock::now().boot, patience);
    for remote in outcome.stale_sources {
        data_plane.forget_source(remote);
    }
}
