//! One slot of a batch to its remote: in segmented runs, or singly where those are refused. (threads)

use std::net::IpAddr;

use super::{Patience, SendFailure, SendOutcome, UdpPort, packet_info};
use crate::driver::path_trouble::PathTrouble;
use crate::packet::batch::{DatagramSlot, MAX_DATAGRAM_RUN, MAX_SEGMENTS};
use crate::sys::udp::Transmit;
use crate::time::BootTime;

/// Sends the runs of one slot.
pub(super) struct Sender<'a> {
    port: &'a UdpPort,
    slot: &'a DatagramSlot,
    index: usize,
    now: BootTime,
    patience: Patience,
    /// The source, until it turns out to be stale.
    source: Option<(IpAddr, u32)>,
    outcome: &'a mut SendOutcome,
}

impl<'a> Sender<'a> {
    /// Of the slot with that index; `outcome` is told what became of it.
    pub(super) fn new(
        port: &'a UdpPort,
        slot: &'a DatagramSlot,
        index: usize,
        now: BootTime,
        patience: Patience,
        stranger: bool,
        outcome: &'a mut SendOutcome,
    ) -> Self {
        let source = port.source(&slot.path, stranger).map(|local| packet_info(&slot.path, local));
        Self { port, slot, index, now, patience, source, outcome }
    }

    /// Sends the slot's bytes, in order; cut where they are more than one send takes.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let segment_len = self.slot.segment_len.max(1);
        let per_run = (MAX_DATAGRAM_RUN / segment_len).clamp(1, MAX_SEGMENTS);
        if bytes.is_empty() {
            self.send_single(bytes);
        }
        for run in bytes.chunks(segment_len * per_run) {
            self.send_run(run, segment_len);
        }
    }

    /// Sends a run that one call could take: segmented, or singly where that is known or found to fail.
    fn send_run(&mut self, run: &[u8], segment_len: usize) {
        let remote = self.slot.path.remote.ip();
        let Some(segment) = u16::try_from(segment_len).ok().filter(|_| run.len() > segment_len) else {
            return self.send_single(run);
        };
        if !self.port.may_segment(remote, segment_len, self.now) {
            run.chunks(segment_len).for_each(|datagram| self.send_single(datagram));
            return;
        }
        let refusal = match self.attempt(run, Some(segment)) {
            Ok(()) => return self.sent(run, run.len().div_ceil(segment_len)),
            Err(errno @ (libc::EMSGSIZE | libc::EINVAL | libc::EIO)) => errno,
            Err(errno) => return self.lost(run, run.len().div_ceil(segment_len), errno),
        };
        let mut datagrams = run.chunks(segment_len);
        let first = datagrams.next().unwrap_or_default();
        match self.attempt(first, None) {
            Ok(()) => {
                self.sent(first, 1);
                // Without checksum offload every size is refused, otherwise this one and larger.
                let smallest = if refusal == libc::EIO { 1 } else { segment_len };
                self.port.note_refusal(remote, smallest, self.now);
                datagrams.for_each(|datagram| self.send_single(datagram));
            }
            // It was not the segmentation: a blackhole route also says EINVAL. The rest would fare no better.
            Err(errno) => self.lost(run, run.len().div_ceil(segment_len), errno),
        }
    }

    fn send_single(&mut self, datagram: &[u8]) {
        match self.attempt(datagram, None) {
            Ok(()) => self.sent(datagram, 1),
            Err(errno) => self.lost(datagram, 1, errno),
        }
    }

    /// One send; a second without the source if that may have been the trouble.
    fn attempt(&mut self, bytes: &[u8], segment_len: Option<u16>) -> Result<(), i32> {
        let DatagramSlot { path, traffic_class, .. } = *self.slot;
        let send = |source| {
            let dont_wait = self.patience == Patience::None;
            let transmit =
                Transmit { bytes, segment_len, remote: path.remote, source, traffic_class, dont_wait };
            let once = || self.port.socket.send(&transmit);
            let sent = once().or_else(|error| {
                // An earlier datagram's ICMP error is reported in this one's place, and only once: what the second
                // attempt says is about this one.
                let is_about_another = is_returned(error.raw_os_error().unwrap_or(0));
                self.port.take_errors();
                if is_about_another { once() } else { Err(error) }
            });
            sent.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
        };
        let Err(errno) = send(self.source) else { return Ok(()) };
        if self.source.is_none() || !may_be_the_source(errno) {
            return Err(errno);
        }
        send(None)?;
        self.source = None;
        if !self.outcome.stale_sources.contains(&path.remote) {
            self.outcome.stale_sources.push(path.remote);
        }
        Ok(())
    }

    fn sent(&mut self, bytes: &[u8], datagrams: usize) {
        self.port.troubles.handle_sent(&self.slot.path.remote);
        self.outcome.datagrams += datagrams;
        self.outcome.bytes += bytes.len();
    }

    fn lost(&mut self, bytes: &[u8], datagrams: usize, errno: i32) {
        self.port.troubles.note(self.slot.path.remote, PathTrouble::Unsent(errno));
        match self.outcome.failures.last_mut() {
            Some(last) if last.slot == self.index && last.errno == errno => {
                last.datagrams += datagrams;
                last.bytes += bytes.len();
            }
            Some(_) | None => {
                let slot = self.index;
                self.outcome.failures.push(SendFailure { slot, errno, datagrams, bytes: bytes.len() });
            }
        }
    }
}

/// What an ICMP error about an earlier datagram can look like (`icmp_err_convert` of net/ipv4/icmp.c, the same of
/// net/ipv6/icmp.c, and "too big" of both). Anybody who knows our port can send one.
const fn is_returned(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EMSGSIZE
            | libc::ENONET
            | libc::EOPNOTSUPP
            | libc::EACCES
    )
}

/// What a source address that is gone, or an interface that is, can look like.
const fn may_be_the_source(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINVAL
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EADDRNOTAVAIL
            | libc::ENODEV
            | libc::ENXIO
            | libc::ENETDOWN
    )
}
