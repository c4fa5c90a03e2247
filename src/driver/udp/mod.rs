//! The tunnel's UDP socket: runs of datagrams in and out, and what to do when the kernel refuses. (threads)
//!
//! # Theory of operation
//! A run of equal datagrams goes out in one segmented send. The kernel refuses that where a segment would have to be
//! fragmented (EMSGSIZE, or EINVAL on older kernels) and where nobody can compute checksums (EIO); the datagrams one
//! by one are then still fine. So they are resent singly, and when that works the size is remembered for the remote
//! address: for a minute nothing of that size or more is sent to it in runs. A minute later the route may be another.
//!
//! A datagram goes out from the address that the peer has spoken to, by whichever interface the routes say; if that is
//! another than the peer's came in by, from the address that the kernel chooses. Such a source can vanish. A send that
//! fails in a way this explains is tried again without the source; when that works the caller is told to forget it, and
//! the next datagram from the peer brings a new one.
//!
//! No errno ends anything here. What could not be sent is counted by errno, and the protocol's timers repeat it.

mod failures;
mod refusals;
mod routes;
mod sender;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::failures::Failures;
use self::refusals::RefusalTable;
pub use self::routes::ReturnPaths;
use self::sender::Sender;
use crate::driver::path_trouble::{PathTrouble, PathTroubles};
use crate::packet::batch::{DatagramBatch, LocalAddress, Path};
use crate::sys::udp::{MAX_RECEIVE, MAX_SEND, Received, Transmit, UdpSocket};
use crate::sys::wait;
use crate::time::BootTime;
use crate::wireguard::is_cookie_reply;

/// Room that one received run needs: the largest datagram, or what GRO joins.
pub const RECEIVE_STRIDE: usize = 65_536;

/// Which offloads to use; those the kernel lacks are off in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Send runs in one call (`UDP_SEGMENT`).
    pub gso: bool,
    /// Receive runs in one piece (`UDP_GRO`).
    pub gro: bool,
}

impl Default for Offloads {
    fn default() -> Self {
        Self { gso: true, gro: true }
    }
}

/// A bound socket; every method takes `&self`, so that threads share it.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    offloads: Offloads,
    port: u16,
    refusals: Mutex<RefusalTable>,
    /// How many entries `refusals` has: nobody takes the lock while there are none.
    refusal_count: AtomicUsize,
    is_shut_down: AtomicBool,
    receive_errors: Mutex<BTreeMap<i32, u64>>,
    failures: Failures,
    troubles: PathTroubles,
    mark: AtomicU32,
    /// Absent until somebody tells of changes of routes.
    return_paths: Option<Arc<ReturnPaths>>,
}

/// What to do where the socket's buffer is full, or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Wait: whoever produces packets is to be slowed down.
    Full,
    /// Lose the datagram, or go without: the caller has other things to look after.
    None,
}

/// What became of a batch that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Datagrams handed to the kernel.
    pub datagrams: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Datagrams that were not sent, by slot and errno.
    pub failures: Vec<SendFailure>,
    /// Remotes whose pinned source address is no more: datagrams go out without it, the source should be forgotten.
    pub stale_sources: Vec<SocketAddr>,
}

/// Datagrams of one slot that one errno kept from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// Index of the slot in the batch.
    pub slot: usize,
    /// What the kernel said.
    pub errno: i32,
    /// How many.
    pub datagrams: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl UdpPort {
    /// Binds `port` in both families (0: any that is free), with offloads where the kernel has them.
    ///
    /// # Errors
    /// The port is taken or not allowed, or the mark is not allowed.
    pub fn bind(port: u16, fwmark: u32) -> io::Result<Self> {
        Self::over(UdpSocket::bind(port)?, fwmark, Offloads::default())
    }

    /// As [`bind`](Self::bind), with a choice of offloads.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with(port: u16, fwmark: u32, offloads: Offloads) -> io::Result<Self> {
        Self::over(UdpSocket::bind(port)?, fwmark, offloads)
    }

    fn over(socket: UdpSocket, fwmark: u32, wanted: Offloads) -> io::Result<Self> {
        if fwmark != 0 {
            socket.set_mark(fwmark)?;
        }
        let offloads = Offloads {
            gso: wanted.gso && socket.can_segment(),
            gro: wanted.gro && socket.enable_gro().is_ok(),
        };
        let port = socket.local_port()?;
        Ok(Self {
            socket,
            offloads,
            port,
            refusals: Mutex::default(),
            refusal_count: AtomicUsize::new(0),
            is_shut_down: AtomicBool::new(false),
            receive_errors: Mutex::default(),
            failures: Failures::default(),
            mark: AtomicU32::new(fwmark),
            return_paths: None,
            troubles: PathTroubles::default(),
        })
    }

    /// The port in use.
    #[must_use]
    pub const fn local_port(&self) -> u16 {
        self.port
    }

    /// The offloads in use.
    #[must_use]
    pub const fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Whether IPv6 endpoints can be sent to.
    #[must_use]
    pub const fn has_ipv6(&self) -> bool {
        self.socket.has_ipv6()
    }

    /// Bytes of receive buffer that the kernel granted; with less than 2 MiB bursts are lost.
    #[must_use]
    pub fn receive_buffer(&self) -> usize {
        self.socket.receive_buffer().unwrap_or(0)
    }

    /// Changes the firewall mark of what is sent; 0 is off.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_ADMIN over the host's network namespace.
    pub fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        self.socket.set_mark(fwmark)?;
        self.mark.store(fwmark, Ordering::Relaxed);
        Ok(())
    }

    /// Has sources compared with routes from now on. Whoever calls this also calls
    /// [`handle_new_routes`](Self::handle_new_routes).
    #[must_use]
    pub fn with_return_paths(self, paths: Option<Arc<ReturnPaths>>) -> Self {
        Self { return_paths: paths, ..self }
    }

    /// What sources are compared with.
    #[must_use]
    pub fn return_paths(&self) -> Option<Arc<ReturnPaths>> {
        self.return_paths.clone()
    }

    /// The source to send from on a path, if any is better than the kernel's own choice. `stranger`: nothing proves that
    /// somebody is there.
    fn source(&self, path: &Path, stranger: bool) -> Option<LocalAddress> {
        let leads_back = |local: &LocalAddress| {
            local.ifindex == 0
                || is_link_local(path.remote.ip())
                || self.return_paths.as_ref().is_none_or(|paths| {
                    let mark = self.mark.load(Ordering::Relaxed);
                    paths.leads_back(path.remote.ip(), *local, mark, stranger)
                })
        };
        path.local.filter(leads_back)
    }

    /// Ends every [`receive`](Self::receive), now and later.
    pub fn shutdown(&self) {
        self.is_shut_down.store(true, Ordering::Release);
        self.socket.shutdown();
    }

    /// What stands between us and each remote.
    #[must_use]
    pub const fn troubles(&self) -> &PathTroubles {
        &self.troubles
    }

    /// Notes what the kernel has queued about datagrams sent earlier: an ICMP error each.
    fn take_errors(&self) {
        for _ in 0..MAX_QUEUED_ERRORS {
            let Some((remote, errno)) = self.socket.take_error() else { return };
            if errno != 0 && errno != libc::EMSGSIZE {
                self.troubles.note(remote, PathTrouble::Returned(errno));
            }
        }
    }

    /// Errors that receiving has met so far, by errno.
    #[must_use]
    pub fn receive_errors(&self) -> BTreeMap<i32, u64> {
        lock(&self.receive_errors).clone()
    }

    /// Routes, addresses or interfaces have changed: every remote may be sent runs of any size again, and every path is
    /// looked at anew.
    pub fn handle_new_routes(&self) {
        if let Some(paths) = &self.return_paths {
            paths.forget();
        }
        let mut refusals = lock(&self.refusals);
        refusals.clear();
        self.refusal_count.store(0, Ordering::Release);
    }

    /// Replaces what is in `batch` by what has arrived, waiting if nothing has; returns the number of runs, 0 only
    /// after [`shutdown`](Self::shutdown). Each run takes [`RECEIVE_STRIDE`] bytes of slab.
    ///
    /// # Errors
    /// Only when the descriptor itself is unusable.
    ///
    /// # Panics
    /// If the slab is shorter than [`RECEIVE_STRIDE`].
    pub fn receive(&self, batch: &mut DatagramBatch) -> io::Result<usize> {
        self.receive_with(batch, Patience::Full)
    }

    /// As [`receive`](Self::receive), with a choice of what to do where nothing has arrived: 0 if that is not to wait.
    ///
    /// # Errors
    /// Only when the descriptor itself is unusable.
    ///
    /// # Panics
    /// If the slab is shorter than [`RECEIVE_STRIDE`].
    pub fn receive_with(&self, batch: &mut DatagramBatch, patience: Patience) -> io::Result<usize> {
        let dont_wait = patience == Patience::None;
        let mut failures = 0;
        loop {
            batch.clear();
            if self.is_shut_down.load(Ordering::Acquire) {
                return Ok(0);
            }
            let mut received: [Option<Received>; MAX_RECEIVE] = [None; MAX_RECEIVE];
            match self
                .socket
                .receive(batch.spare(), RECEIVE_STRIDE, dont_wait, |index, what| received[index] = Some(what))
            {
                Ok(_) => {
                    for what in received.iter().map_while(Option::as_ref) {
                        take(batch, what);
                    }
                    // Empty and cut-off datagrams are nobody's; wait on.
                    if !batch.is_empty() {
                        return Ok(batch.slots().len());
                    }
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    if dont_wait && errno == libc::EAGAIN {
                        // Whoever polls is told of queued errors until they are taken.
                        self.take_errors();
                        return Ok(0);
                    }
                    if matches!(errno, libc::EBADF | libc::ENOTSOCK | libc::EFAULT) {
                        return Err(error);
                    }
                    if errno != libc::EINTR {
                        *lock(&self.receive_errors).entry(errno).or_default() += 1;
                    }
                    self.take_errors();
                    // An error that does not go away must not take the whole processor.
                    failures += 1;
                    if failures % ERRORS_BEFORE_PAUSE == 0 {
                        // By poll, which a locked-down thread may call; sleeping is a system call of its own.
                        wait::poll(&mut [], Some(ERROR_PAUSE))?;
                    }
                }
            }
        }
    }

    /// Sends every run of `batch`, in order. A slot may be longer than one send takes; it is cut.
    pub fn send(&self, batch: &DatagramBatch, now: BootTime) -> SendOutcome {
        self.send_with(batch, now, Patience::Full)
    }

    /// As [`send`](Self::send), with a choice of what to do where the socket takes no more for now.
    pub fn send_with(&self, batch: &DatagramBatch, now: BootTime, patience: Patience) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let slots = batch.slots();
        let mut next = 0;
        while next < slots.len() {
            next += self.send_singles(batch, next, patience, &mut outcome);
            // What is a run, and what was refused.
            if let Some(slot) = slots.get(next) {
                let bytes = batch.bytes(slot);
                Sender::new(self, slot, next, now, patience, is_stranger(bytes), &mut outcome).send(bytes);
                next += 1;
            }
        }
        self.failures.note(&outcome, now);
        outcome
    }

    /// Sends the slots from `first` on that are a datagram each, by as few calls as it takes; returns how many went out
    /// before the first run, or the first that was refused.
    fn send_singles(
        &self,
        batch: &DatagramBatch,
        first: usize,
        patience: Patience,
        outcome: &mut SendOutcome,
    ) -> usize {
        let singles = batch.slots()[first..].iter().take_while(|slot| slot.len <= slot.segment_len);
        let count = singles.count();
        let mut sent = 0;
        // One alone gains nothing.
        while count - sent > 1 {
            let rest = &batch.slots()[first + sent..first + count];
            let taken = rest.len().min(MAX_SEND);
            let transmits = rest.iter().map(|slot| {
                let bytes = batch.bytes(slot);
                Transmit {
                    bytes,
                    segment_len: None,
                    remote: slot.path.remote,
                    source: self
                        .source(&slot.path, is_stranger(bytes))
                        .map(|local| packet_info(&slot.path, local)),
                    traffic_class: slot.traffic_class,
                    dont_wait: patience == Patience::None,
                }
            });
            let gone = self.socket.send_many(transmits).unwrap_or(0);
            for slot in &rest[..gone] {
                self.troubles.handle_sent(&slot.path.remote);
                outcome.datagrams += 1;
                outcome.bytes += slot.len;
            }
            sent += gone;
            if gone < taken {
                // What the kernel said is lost with the call, and may have been about an earlier datagram.
                self.take_errors();
                break;
            }
        }
        sent
    }

    /// Datagrams that could not be sent so far, by errno.
    #[must_use]
    pub fn send_failures(&self) -> BTreeMap<i32, u64> {
        self.failures.by_errno()
    }

    fn may_segment(&self, remote: IpAddr, segment_len: usize, now: BootTime) -> bool {
        if !self.offloads.gso {
            return false;
        }
        if self.refusal_count.load(Ordering::Acquire) == 0 {
            return true;
        }
        let mut refusals = lock(&self.refusals);
        let refused = refusals.refuses(remote, segment_len, now);
        self.refusal_count.store(refusals.len(), Ordering::Release);
        !refused
    }

    fn note_refusal(&self, remote: IpAddr, segment_len: usize, now: BootTime) {
        let mut refusals = lock(&self.refusals);
        refusals.note(remote, segment_len, now);
        self.refusal_count.store(refusals.len(), Ordering::Release);
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Queued errors taken at a time; a flood of them must not hold up what it is taken between.
const MAX_QUEUED_ERRORS: usize = 64;

/// Receive errors in a row before a pause.
const ERRORS_BEFORE_PAUSE: u32 = 64;

/// The pause: at most 64 000 fruitless calls a second.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// Whether nothing proves that somebody is where this goes: such messages are for whoever sends a hash of our public
/// key; all others are for peers.
fn is_stranger(message: &[u8]) -> bool {
    is_cookie_reply(message)
}

/// A source as the system takes it: the interface is the routes' to say; only where addresses mean nothing without one it
/// is given.
fn packet_info(path: &Path, local: LocalAddress) -> (IpAddr, u32) {
    (local.address, if is_link_local(path.remote.ip()) { local.ifindex } else { 0 })
}

/// Whether an address means something only together with an interface.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Moves one received run from its stride into the batch.
fn take(batch: &mut DatagramBatch, what: &Received) {
    if what.len == 0 || what.truncated {
        batch.skip(RECEIVE_STRIDE);
        return;
    }
    let local = what.local.map(|(address, ifindex)| LocalAddress { address, ifindex });
    let path = Path { remote: what.remote, local };
    batch.commit(what.len, what.segment_len, path, what.traffic_class);
    batch.skip(RECEIVE_STRIDE - what.len);
}

/// No holder of these locks can leave a half-made change, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod fault_tests;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::mpsc;

    use super::*;

    pub(super) const NOW: BootTime = BootTime::from_nanos(1_000_000_000);

    pub(super) const LOCALHOST: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    /// A run of `len` bytes in datagrams of `segment_len`.
    pub(super) fn run(path: Path, len: usize, segment_len: usize, traffic_class: u8) -> DatagramBatch {
        let mut batch = DatagramBatch::with_capacity(len, 1);
        for (index, byte) in batch.spare().iter_mut().enumerate() {
            *byte = u8::try_from(index / segment_len % 251).unwrap();
        }
        batch.commit(len, segment_len, path, traffic_class);
        batch
    }

    pub(super) fn to(address: IpAddr, port: &UdpPort) -> Path {
        Path::to(SocketAddr::new(address, port.local_port()))
    }

    /// Everything that arrives until `bytes` bytes are there: the runs' lengths and segment sizes, and the bytes.
    pub(super) fn receive(port: &UdpPort, bytes: usize) -> (Vec<(usize, usize)>, Vec<u8>) {
        let mut batch = DatagramBatch::with_capacity(8 * RECEIVE_STRIDE, 8);
        let (mut runs, mut all) = (Vec::new(), Vec::new());
        while all.len() < bytes {
            wait_until_readable(port);
            port.receive(&mut batch).unwrap();
            for slot in batch.slots() {
                runs.push((slot.len, slot.segment_len));
                all.extend(batch.bytes(slot));
            }
        }
        (runs, all)
    }

    fn wait_until_readable(port: &UdpPort) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)), Ok(1), "nothing arrived within 10 s");
    }

    #[test]
    fn a_run_is_sent_and_received_in_one_piece_with_source_and_traffic_class() {
        let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
        assert_eq!(b.offloads(), Offloads::default());
        for address in LOCALHOST {
            let outcome = a.send(&run(to(address, &b), 10_300, 1000, 0xb9), NOW);
            let expected = SendOutcome { datagrams: 11, bytes: 10_300, ..SendOutcome::default() };
            assert_eq!(outcome, expected);
            let mut batch = DatagramBatch::with_capacity(RECEIVE_STRIDE, 1);
            wait_until_readable(&b);
            assert_eq!(b.receive(&mut batch).unwrap(), 1);
            let slot = batch.slots()[0];
            assert_eq!((slot.len, slot.segment_len, slot.traffic_class), (10_300, 1000, 0xb9));
            assert_eq!(slot.path.remote, SocketAddr::new(address, a.local_port()));
            assert_eq!(slot.path.local.map(|local| local.address), Some(address));
            assert_eq!(batch.bytes(&slot), run(slot.path, 10_300, 1000, 0).slab());
        }
    }

    #[test]
    fn a_reply_comes_from_the_address_that_was_spoken_to() {
        let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
        a.send(&run(to(Ipv4Addr::new(127, 3, 2, 1).into(), &b), 100, 100, 0), NOW);
        let mut batch = DatagramBatch::with_capacity(RECEIVE_STRIDE, 1);
        wait_until_readable(&b);
        b.receive(&mut batch).unwrap();
        b.send(&run(batch.slots()[0].path, 100, 100, 0), NOW);
        wait_until_readable(&a);
        a.receive(&mut batch).unwrap();
        assert_eq!(batch.slots()[0].path.remote, SocketAddr::new([127, 3, 2, 1].into(), b.local_port()));
    }

    #[test]
    fn without_offloads_every_datagram_goes_and_comes_alone() {
        let plain = Offloads { gso: false, gro: false };
        let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
        let (plain_a, plain_b) =
            (UdpPort::bind_with(0, 0, plain).unwrap(), UdpPort::bind_with(0, 0, plain).unwrap());
        for (from, into, runs) in [(&a, &plain_b, 4), (&plain_a, &b, 4), (&plain_a, &plain_b, 4), (&a, &b, 1)]
        {
            for address in LOCALHOST {
                assert_eq!(from.send(&run(to(address, into), 3500, 1000, 0), NOW).datagrams, 4);
                let (found, bytes) = receive(into, 3500);
                assert_eq!(found.len(), runs, "{found:?}");
                assert_eq!(bytes, run(to(address, into), 3500, 1000, 0).slab());
            }
        }
    }

    #[test]
    fn a_slot_longer_than_one_send_takes_is_cut_and_stays_in_order() {
        let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
        for (len, segment_len) in [(150 * 100 + 1, 100), (100 * 1452, 1452)] {
            let batch = run(to(LOCALHOST[0], &b), len, segment_len, 0);
            assert_eq!(a.send(&batch, NOW).datagrams, len.div_ceil(segment_len));
            let (found, bytes) = receive(&b, len);
            assert_eq!(found.len(), 3);
            assert!(bytes == batch.slab(), "bytes were lost or moved");
        }
    }

    #[test]
    fn a_socket_without_ipv6_does_the_same_for_ipv4() {
        let a = UdpPort::over(UdpSocket::bind_ipv4(0).unwrap(), 0, Offloads::default()).unwrap();
        let b = UdpPort::over(UdpSocket::bind_ipv4(0).unwrap(), 0, Offloads::default()).unwrap();
        assert!(!a.has_ipv6());
        let outcome = a.send(&run(to(LOCALHOST[0], &b), 2500, 1000, 2), NOW);
        assert_eq!(outcome.datagrams, 3);
        let mut batch = DatagramBatch::with_capacity(RECEIVE_STRIDE, 1);
        wait_until_readable(&b);
        b.receive(&mut batch).unwrap();
        let slot = batch.slots()[0];
        assert_eq!((slot.len, slot.segment_len, slot.traffic_class), (2500, 1000, 2));
        assert_eq!(slot.path.local.map(|local| local.address), Some(LOCALHOST[0]));
        let refused = a.send(&run(to(LOCALHOST[1], &b), 10, 10, 0), NOW);
        assert_eq!(refused.failures.len(), 1, "an IPv6 endpoint is a failure with an errno, nothing worse");
    }

    #[test]
    fn a_port_that_is_taken_in_either_family_is_refused() {
        let taken = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let error = UdpPort::bind(taken.local_addr().unwrap().port(), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn shutdown_wakes_a_waiting_receiver_for_good() {
        let port = UdpPort::bind(0, 0).unwrap();
        let (done, finished) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = DatagramBatch::with_capacity(RECEIVE_STRIDE, 1);
                done.send(port.receive(&mut batch).unwrap()).unwrap();
                done.send(port.receive(&mut batch).unwrap()).unwrap();
            });
            // Whether it waits already or comes later, it must end.
            std::thread::yield_now();
            port.shutdown();
            for _ in 0..2 {
                assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(0));
            }
        });
    }

    #[test]
    fn empty_datagrams_are_passed_over() {
        let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
        a.send(&run(to(LOCALHOST[0], &b), 0, 1, 0), NOW);
        a.send(&run(to(LOCALHOST[0], &b), 7, 7, 0), NOW);
        assert_eq!(receive(&b, 7).0, [(7, 7)]);
    }
}
