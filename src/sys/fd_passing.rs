//! Descriptors and records between two processes, over an unnamed socket pair that nothing else can reach.
//! (operating system)
//!
//! # Theory of operation
//! A record is one `SOCK_SEQPACKET` message with descriptors attached. Boundaries are kept, so a record is whole or it
//! is an error; an end of file means that the other process has gone. Descriptors arrive close-on-exec. What does not
//! fit a record travels in a memory file that is sealed, so that its sender cannot change it while it is read.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use super::os_error::OsError;

/// Largest record; the kernel passes 212 000 bytes, and nothing we say needs more than this.
pub const MAX_RECORD: usize = 64 * 1024;

/// Most descriptors of one record: `SCM_MAX_FD` of the kernel.
pub const MAX_FDS: usize = 253;

/// Why a record did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The other process closed its end, which it also does by dying.
    #[error("the other end of the socket was closed")]
    Closed,
    /// More bytes than [`MAX_RECORD`].
    #[error("a record is longer than {MAX_RECORD} bytes")]
    TooLong,
    /// The kernel could not give us every descriptor that was sent.
    #[error("descriptors of a record were lost (the limit of open files may be reached)")]
    DescriptorsLost,
    /// The system call failed.
    #[error("cannot receive a record")]
    Receive(#[source] OsError),
}

/// Two connected ends, both close-on-exec.
///
/// # Errors
/// What `socketpair(2)` says.
pub fn pair() -> Result<(OwnedFd, OwnedFd), OsError> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one record with descriptors; they stay ours too.
///
/// # Errors
/// EPIPE if the other process has gone, EMSGSIZE if the record is too long; no SIGPIPE is raised.
pub fn send(socket: BorrowedFd<'_>, record: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), OsError> {
    if record.len() > MAX_RECORD || fds.len() > MAX_FDS {
        return Err(Errno::EMSGSIZE.into());
    }
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(record)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_whole_record) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for one record with its descriptors.
///
/// # Errors
/// See [`ReceiveError`].
pub fn receive(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>), ReceiveError> {
    // One byte more than a record may have, so that a longer one is noticed.
    let mut record = vec![0; MAX_RECORD + 1];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(&mut record)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other,
        }
    };
    let message = message.map_err(|errno| ReceiveError::Receive(errno.into()))?;
    let mut fds = Vec::new();
    let lost = match message.cmsgs() {
        Err(_truncated) => true,
        Ok(messages) => {
            for message in messages {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    for number in numbers {
                        // SAFETY: the kernel installed this descriptor for us in the recvmsg above; nobody else in
                        // this process has seen its number.
                        fds.push(unsafe { OwnedFd::from_raw_fd(number) });
                    }
                }
            }
            false
        }
    };
    let (len, flags) = (message.bytes, message.flags);
    if lost {
        return Err(ReceiveError::DescriptorsLost);
    }
    if len > MAX_RECORD || flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(ReceiveError::TooLong);
    }
    if len == 0 && fds.is_empty() {
        return Err(ReceiveError::Closed);
    }
    record.truncate(len);
    Ok((record, fds))
}

/// A memory file with these bytes that nobody can change any more.
///
/// # Errors
/// What `memfd_create(2)`, `write(2)` or `fcntl(2)` say.
pub fn sealed_memory(bytes: &[u8]) -> Result<OwnedFd, OsError> {
    let mut file = File::from(memfd_create("wg4netns", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(every_seal()))?;
    Ok(file.into())
}

/// The bytes of a memory file, refused unless it is sealed and has at most `limit` of them.
///
/// # Errors
/// EPERM if it is not sealed, EFBIG if it is too long, else what the system says.
pub fn read_sealed_memory(fd: OwnedFd, limit: u64) -> Result<Vec<u8>, OsError> {
    let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)?;
    if !SealFlag::from_bits_truncate(seals).contains(every_seal()) {
        return Err(Errno::EPERM.into());
    }
    let file = File::from(fd);
    let len = file.metadata()?.len();
    if len > limit {
        return Err(Errno::EFBIG.into());
    }
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Takes over a descriptor that the caller named by number (`--ready-fd 7`) and makes it close-on-exec.
///
/// Call it once for each number: afterwards the descriptor is ours to close.
///
/// # Errors
/// EBADF if no such descriptor is open.
pub fn adopt_fd(number: u32) -> Result<OwnedFd, OsError> {
    let number = RawFd::try_from(number).map_err(|_out_of_range| OsError::from(Errno::EBADF))?;
    // SAFETY: fcntl(F_GETFD) takes two integers and touches no memory; a closed number gives EBADF.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(OsError::last());
    }
    // SAFETY: the number is open (checked above); whoever started us handed it over by naming it, and no Rust
    // object of ours owns it because it was open before `main`.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// Takes over every descriptor that whoever started us left open and that nobody has adopted: above the standard streams
/// and not close-on-exec, which everything is that this program opens or adopts. From now on these are, too.
///
/// Call it while there is one thread.
///
/// # Errors
/// `/proc` is not there.
pub fn take_unnamed() -> Result<Vec<OwnedFd>, OsError> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    // All of them first: the directory's own descriptor is one of them.
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    let mut taken = Vec::new();
    for number in numbers {
        // SAFETY: fcntl(F_GETFD) takes two integers and touches no memory; a closed number gives EBADF.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
            continue;
        }
        // SAFETY: the number is open (checked above), and no Rust object owns it: what std opens and what `adopt_fd`
        // took over is close-on-exec, so it was open before `main`.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        taken.push(fd);
    }
    Ok(taken)
}

const fn every_seal() -> SealFlag {
    SealFlag::F_SEAL_SEAL
        .union(SealFlag::F_SEAL_SHRINK)
        .union(SealFlag::F_SEAL_GROW)
        .union(SealFlag::F_SEAL_WRITE)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, IntoRawFd};

    use super::*;

    #[test]
    fn a_record_arrives_with_its_descriptors_close_on_exec() {
        let (left, right) = pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send(left.as_fd(), b"two", &[reader.as_fd(), writer.as_fd()]).unwrap();
        let (record, fds) = receive(right.as_fd()).unwrap();
        assert_eq!((record.as_slice(), fds.len()), (b"two".as_slice(), 2));
        for fd in &fds {
            assert_eq!(fcntl(fd, FcntlArg::F_GETFD).unwrap(), FdFlag::FD_CLOEXEC.bits());
        }
        nix::unistd::write(&fds[1], b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&reader, &mut byte), Ok(1));
    }

    #[test]
    fn a_closed_end_is_not_an_empty_record() {
        let (left, right) = pair().unwrap();
        drop(left);
        assert!(matches!(receive(right.as_fd()), Err(ReceiveError::Closed)));
        assert!(send(right.as_fd(), b"x", &[]).unwrap_err().is(Errno::EPIPE));
    }

    #[test]
    fn a_record_beyond_the_limit_is_refused_at_both_ends() {
        let (left, right) = pair().unwrap();
        assert!(send(left.as_fd(), &vec![0; MAX_RECORD + 1], &[]).unwrap_err().is(Errno::EMSGSIZE));
        nix::sys::socket::send(left.as_raw_fd(), &vec![0; MAX_RECORD + 1], MsgFlags::empty()).unwrap();
        assert!(matches!(receive(right.as_fd()), Err(ReceiveError::TooLong)));
    }

    #[test]
    fn sealed_memory_cannot_be_changed_and_unsealed_memory_is_refused() {
        let fd = sealed_memory(b"routes").unwrap();
        assert_eq!(nix::unistd::write(&fd, b"x"), Err(Errno::EPERM));
        assert!(read_sealed_memory(fd.try_clone().unwrap(), 3).unwrap_err().is(Errno::EFBIG));
        assert_eq!(read_sealed_memory(fd, 100).unwrap(), b"routes");
        let unsealed = memfd_create("x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(read_sealed_memory(unsealed, 100).unwrap_err().is(Errno::EPERM));
    }

    #[test]
    fn only_an_open_number_is_adopted() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let number = u32::try_from(writer.into_raw_fd()).unwrap();
        drop(adopt_fd(number).unwrap());
        assert_eq!(nix::unistd::read(&reader, &mut [0]), Ok(0), "the adopted end was closed");
        assert!(adopt_fd(1_000_000).unwrap_err().is(Errno::EBADF));
        assert!(adopt_fd(u32::MAX).unwrap_err().is(Errno::EBADF));
    }
}
