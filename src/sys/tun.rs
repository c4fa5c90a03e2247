//! The TUN device: made inside a namespace, or taken over as a descriptor; read and written. (operating system)
//!
//! # Theory of operation
//! All queues a link will ever have are opened when it is made: a new queue from outside the namespace is refused by
//! the kernel. `IFF_TUN_EXCL` makes the first `TUNSETIFF` fail if an interface of that name exists; without it a second
//! tunnel would silently become one more queue of the first. A TUN is never made persistent, so the interface lives
//! exactly as long as a descriptor of it, whatever happens to us.

use std::ffi::CStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use serde::{Deserialize, Serialize};

use super::os_error::{OsError, check};

/// Where TUN devices are made.
pub const TUN_PATH: &str = "/dev/net/tun";

/// Bytes of an interface name without its final zero.
pub const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// Which step of making or checking a TUN failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TunError {
    /// The device node is missing or may not be opened.
    #[error("cannot open `{TUN_PATH}`")]
    Open {
        /// What the system said.
        source: OsError,
    },
    /// There is an interface of that name.
    #[error("an interface `{name}` exists already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The kernel refused to make the interface.
    #[error("cannot create the interface `{name}`")]
    Create {
        /// The name.
        name: String,
        /// What the system said.
        source: OsError,
    },
    /// The descriptor is not a character device 10:200.
    #[error("descriptor is not a TUN device")]
    NotATun,
    /// It is a TUN device to which no interface is attached (or whose interface was deleted).
    #[error("TUN device has no interface")]
    Detached,
    /// It is a TAP device: Ethernet frames, not packets.
    #[error("interface `{name}` is a TAP device, not a TUN device")]
    Tap {
        /// The interface.
        name: String,
    },
    /// It puts a protocol number before each packet.
    #[error("interface `{name}` was made without IFF_NO_PI")]
    PacketInformation {
        /// The interface.
        name: String,
    },
    /// Another question or setting was refused.
    #[error("cannot set up the TUN device ({call})")]
    Ioctl {
        /// The call's name.
        call: TunCall,
        /// What the system said.
        source: OsError,
    },
}

/// The calls that set up a TUN besides making it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunCall {
    /// `TUNGETIFF`.
    GetInterface,
    /// `TUNSETVNETHDRSZ` or `TUNSETVNETLE`.
    SetHeader,
    /// `fstat`.
    Stat,
}

impl std::fmt::Display for TunCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GetInterface => "TUNGETIFF",
            Self::SetHeader => "TUNSETVNETHDRSZ",
            Self::Stat => "fstat",
        })
    }
}

/// What the kernel may hand us, and takes from us, without finishing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// Packets whose checksum is not computed yet.
    pub checksum: bool,
    /// TCP super-packets (v4, v6, ECN).
    pub tcp: bool,
    /// UDP super-packets (v4, v6).
    pub udp: bool,
}

/// Offloads that every kernel has, and this one refused: packets pass one by one, at a fraction of the speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadRefusal {
    /// Super-packets; checksums were taken.
    #[error("segmentation offload off: TUNSETOFFLOAD: {0}")]
    Segmentation(OsError),
    /// Checksums too.
    #[error("offload off: TUNSETOFFLOAD: {0}")]
    All(OsError),
}

/// What a TUN descriptor is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunInterface {
    /// The interface's name as it is now.
    pub name: String,
    /// Each packet has a virtio-net header.
    pub vnet_header: bool,
    /// Further queues may exist.
    pub multi_queue: bool,
}

/// Makes the interface `name` in the network namespace of this thread, with this many queues.
///
/// # Errors
/// See [`TunError`].
pub fn create(name: &str, queues: u16) -> Result<Vec<OwnedFd>, TunError> {
    create_at(Path::new(TUN_PATH), name, queues)
}

fn create_at(node: &Path, name: &str, queues: u16) -> Result<Vec<OwnedFd>, TunError> {
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let mut fds = Vec::with_capacity(queues.into());
    for queue in 0..queues.max(1) {
        let fd = open(node, OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())
            .map_err(|errno| TunError::Open { source: errno.into() })?;
        let mut request = interface_request(name)?;
        let flags = if queue == 0 { flags | libc::IFF_TUN_EXCL } else { flags };
        request.ifr_ifru.ifru_flags = short_flags(flags);
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`; `request` is libc's own definition of it and
        // outlives the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) }).map_err(|source| {
            if queue == 0 && (source.is(Errno::EBUSY) || source.is(Errno::EEXIST)) {
                TunError::Exists { name: name.to_owned() }
            } else {
                TunError::Create { name: name.to_owned(), source }
            }
        })?;
        set_header(fd.as_fd())?;
        fds.push(fd);
    }
    Ok(fds)
}

/// What a descriptor is attached to; refused unless it is a TUN device that yields bare packets.
///
/// # Errors
/// See [`TunError`].
pub fn inspect(fd: BorrowedFd<'_>) -> Result<TunInterface, TunError> {
    let stat = fstat(fd).map_err(|errno| TunError::Ioctl { call: TunCall::Stat, source: errno.into() })?;
    let is_character = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR;
    if !is_character || (major(stat.st_rdev), minor(stat.st_rdev)) != TUN_DEVICE {
        return Err(TunError::NotATun);
    }
    let mut request = interface_request("")?;
    // SAFETY: TUNGETIFF writes one `struct ifreq`; `request` is libc's own definition of it and outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) }).map_err(|source| {
        if source.is(Errno::EBADFD) {
            TunError::Detached
        } else {
            TunError::Ioctl { call: TunCall::GetInterface, source }
        }
    })?;
    // SAFETY: the kernel has filled the whole request, and every bit pattern is a valid flags value.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags }.cast_unsigned());
    let name = name_of(&request);
    if flags & libc::IFF_TUN == 0 {
        return Err(TunError::Tap { name });
    }
    if flags & libc::IFF_NO_PI == 0 {
        return Err(TunError::PacketInformation { name });
    }
    Ok(TunInterface {
        name,
        vnet_header: flags & libc::IFF_VNET_HDR != 0,
        multi_queue: flags & libc::IFF_MULTI_QUEUE != 0,
    })
}

/// Makes the virtio-net header of a taken-over TUN the plain one of 10 bytes, in the machine's byte order.
///
/// # Errors
/// [`TunError::Ioctl`].
pub fn set_header(fd: BorrowedFd<'_>) -> Result<(), TunError> {
    let set = |request: libc::Ioctl, value: libc::c_int| {
        // SAFETY: these requests read one int from the address, which is our local variable.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) })
            .map(|_zero| ())
            .map_err(|source| TunError::Ioctl { call: TunCall::SetHeader, source })
    };
    set(TUNSETVNETHDRSZ, VNET_HEADER_LEN)?;
    // Whoever had the TUN before may have asked for little endian, which only here is something else.
    if cfg!(target_endian = "big") { set(TUNSETVNETLE, 0) } else { Ok(()) }
}

/// Turns on as many offloads as the kernel has: all, then without UDP, then checksums alone, then none; and why there
/// are fewer than checksums and TCP, which every kernel has.
///
/// It is a setting of the interface: once for all queues.
#[must_use]
pub fn enable_offloads(fd: BorrowedFd<'_>) -> (Offloads, Option<OffloadRefusal>) {
    descend(|offloads| set_offloads(fd, offloads))
}

fn descend(mut set: impl FnMut(Offloads) -> Result<(), OsError>) -> (Offloads, Option<OffloadRefusal>) {
    let all = Offloads { checksum: true, tcp: true, udp: true };
    // UDP is new (Linux 6.2): that it is missing is nothing to speak of.
    let without_udp = Offloads { udp: false, ..all };
    if set(all).is_ok() {
        return (all, None);
    }
    let Err(source) = set(without_udp) else { return (without_udp, None) };
    let checksums = Offloads { checksum: true, ..Offloads::default() };
    if set(checksums).is_ok() {
        return (checksums, Some(OffloadRefusal::Segmentation(source)));
    }
    // An interface that was taken over may have some on from before.
    let _refused_too = set(Offloads::default());
    (Offloads::default(), Some(OffloadRefusal::All(source)))
}

/// Sets exactly these offloads.
///
/// # Errors
/// EINVAL if the kernel lacks one.
pub fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> Result<(), OsError> {
    let mut flags = 0;
    if offloads.checksum {
        flags |= TUN_F_CSUM;
    }
    if offloads.tcp {
        flags |= TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    }
    if offloads.udp {
        // One without the other is EINVAL.
        flags |= TUN_F_USO4 | TUN_F_USO6;
    }
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself and touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, flags) }).map(|_zero| ())
}

/// Reads one packet without waiting, whatever the descriptor's own mode is.
///
/// # Errors
/// EAGAIN if there is none; EOPNOTSUPP on older kernels (6.1 was seen): then poll and use [`read`].
pub fn read_now(fd: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
    let buffers = buffers.as_mut_ptr().cast::<libc::iovec>();
    // SAFETY: IoSliceMut is guaranteed to have the layout of iovec, `count` is at most their number, and the bytes
    // they point to are ours to write while this borrow lasts. Offset -1 means the current one.
    let read = unsafe { libc::preadv2(fd.as_raw_fd(), buffers, count, -1, libc::RWF_NOWAIT) };
    usize::try_from(read).map_err(|_negative| io::Error::last_os_error())
}

/// Reads one packet; waits for one unless the descriptor is non-blocking.
///
/// # Errors
/// What `readv(2)` says.
pub fn read(fd: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    nix::sys::uio::readv(fd, buffers).map_err(io::Error::from)
}

/// Writes one packet.
///
/// # Errors
/// EIO while the interface is down, EBADFD once it is deleted, EINVAL for a header the kernel does not take.
pub fn write(fd: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    nix::sys::uio::writev(fd, buffers).map_err(io::Error::from)
}

fn interface_request(name: &str) -> Result<libc::ifreq, TunError> {
    // SAFETY: ifreq is a C structure of integers, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() > MAX_NAME_LEN {
        return Err(TunError::Create { name: name.to_owned(), source: Errno::EINVAL.into() });
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.map(|byte| byte.to_ne_bytes()[0]);
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned()
}

/// The flags as `struct ifreq` holds them: sixteen bits, the highest of which is IFF_TUN_EXCL.
fn short_flags(flags: libc::c_int) -> libc::c_short {
    u16::try_from(flags).expect("every IFF_ flag of a TUN lies within sixteen bits").cast_signed()
}

/// Major and minor number of `/dev/net/tun`.
const TUN_DEVICE: (u64, u64) = (10, 200);

/// Bytes of `struct virtio_net_hdr`.
const VNET_HEADER_LEN: libc::c_int = 10;

// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;
const TUNSETIFF: libc::Ioctl = nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()) as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl =
    nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()) as libc::Ioctl;
const TUNGETIFF: libc::Ioctl = nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()) as libc::Ioctl;
const TUNSETVNETHDRSZ: libc::Ioctl =
    nix::request_code_write!(b'T', 216, size_of::<libc::c_int>()) as libc::Ioctl;
const TUNSETVNETLE: libc::Ioctl =
    nix::request_code_write!(b'T', 220, size_of::<libc::c_int>()) as libc::Ioctl;

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of it where the kernel takes no more than `taken`, and what it was asked for.
    fn descend_to(taken: Option<Offloads>) -> (Offloads, Option<String>, usize) {
        let mut asked = 0;
        let (offloads, refusal) = descend(|offloads| {
            asked += 1;
            if taken == Some(offloads) { Ok(()) } else { Err(Errno::EINVAL.into()) }
        });
        (offloads, refusal.map(|refusal| refusal.to_string()), asked)
    }

    #[test]
    fn refused_offloads_are_spoken_of_unless_they_are_new() {
        let none = Offloads::default();
        let checksums = Offloads { checksum: true, ..none };
        let without_udp = Offloads { tcp: true, ..checksums };
        let all = Offloads { udp: true, ..without_udp };
        assert_eq!(descend_to(Some(all)), (all, None, 1));
        assert_eq!(descend_to(Some(without_udp)), (without_udp, None, 2), "before Linux 6.2");
        let segmentation =
            "segmentation offload off: TUNSETOFFLOAD: Invalid argument (os error 22)".to_owned();
        assert_eq!(descend_to(Some(checksums)), (checksums, Some(segmentation), 3));
        let said = "offload off: TUNSETOFFLOAD: Invalid argument (os error 22)".to_owned();
        assert_eq!(descend_to(Some(none)), (none, Some(said.clone()), 4), "what was on before is off");
        assert_eq!(descend_to(None), (none, Some(said), 4));
    }
}
