//! What parent and child say to each other: JSON records with descriptors. (tasks)
//!
//! # Theory of operation
//! A record carries the version of the conversation, because the two ends are the same file on disk but not after an
//! upgrade in between. A record that is too long for the socket (many routes) travels in sealed memory, the last of
//! its descriptors, so that its sender cannot change it while it is read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::fd_passing::{self, ReceiveError};
use crate::sys::os_error::OsError;
use crate::sys::wait::readable;

/// A child that has not answered by then never will (a few milliseconds are usual).
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Of everything that is said over the socket.
const VERSION: u32 = 1;

/// Bytes of a record that travels in sealed memory: a million routes.
const MAX_LONG_RECORD: u64 = 64 * 1024 * 1024;

/// Why nothing usable came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelError {
    /// The other end has gone.
    Closed,
    /// Nothing came in time.
    Silent,
    /// Not JSON, or not of this version.
    Malformed,
    /// The kernel could not give us every descriptor.
    DescriptorsLost,
    /// The socket failed.
    System(OsError),
}

#[derive(Serialize, Deserialize)]
struct Frame<T> {
    version: u32,
    /// Absent if it is in sealed memory.
    record: Option<T>,
}

/// Sends a record and its descriptors.
pub(crate) fn send<T: Serialize>(
    socket: &OwnedFd,
    record: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ChannelError> {
    let whole = to_json(&Frame { version: VERSION, record: Some(record) })?;
    let sent = if whole.len() <= fd_passing::MAX_RECORD {
        fd_passing::send(socket.as_fd(), &whole, fds)
    } else {
        let memory = fd_passing::sealed_memory(&to_json(record)?).map_err(ChannelError::System)?;
        let mut fds = fds.to_vec();
        fds.push(memory.as_fd());
        let reference = to_json(&Frame::<()> { version: VERSION, record: None })?;
        fd_passing::send(socket.as_fd(), &reference, &fds)
    };
    sent.map_err(
        |error| if error.is(Errno::EPIPE) { ChannelError::Closed } else { ChannelError::System(error) },
    )
}

/// Waits for a record, for ever without a deadline.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: &OwnedFd,
    deadline: Option<Duration>,
) -> Result<(T, Vec<OwnedFd>), ChannelError> {
    if !readable(socket.as_fd(), deadline).map_err(ChannelError::System)? {
        return Err(ChannelError::Silent);
    }
    let (bytes, mut fds) = fd_passing::receive(socket.as_fd()).map_err(|error| match error {
        ReceiveError::Closed => ChannelError::Closed,
        // The other end died with something of ours unread.
        ReceiveError::Receive(source) if source.is(Errno::ECONNRESET) => ChannelError::Closed,
        ReceiveError::Receive(source) => ChannelError::System(source),
        ReceiveError::TooLong => ChannelError::Malformed,
        ReceiveError::DescriptorsLost => ChannelError::DescriptorsLost,
    })?;
    let frame: Frame<T> = serde_json::from_slice(&bytes).map_err(|_error| ChannelError::Malformed)?;
    if frame.version != VERSION {
        return Err(ChannelError::Malformed);
    }
    let record = match frame.record {
        Some(record) => record,
        None => {
            let memory = fds.pop().ok_or(ChannelError::Malformed)?;
            let bytes = fd_passing::read_sealed_memory(memory, MAX_LONG_RECORD)
                .map_err(|_unsealed| ChannelError::Malformed)?;
            serde_json::from_slice(&bytes).map_err(|_error| ChannelError::Malformed)?
        }
    };
    Ok((record, fds))
}

fn to_json(record: &impl Serialize) -> Result<Vec<u8>, ChannelError> {
    serde_json::to_vec(record).map_err(|_error| ChannelError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_any_length_arrives_with_its_descriptors() {
        for len in [1, 3_000, 300_000] {
            let (left, right) = fd_passing::pair().unwrap();
            let words = vec!["word".to_owned(); len];
            send(&left, &words, &[left.as_fd()]).unwrap();
            let (received, fds): (Vec<String>, _) = receive(&right, Some(DEADLINE)).unwrap();
            assert_eq!((received == words, fds.len()), (true, 1));
        }
    }

    #[test]
    fn another_version_is_not_understood() {
        let (left, right) = fd_passing::pair().unwrap();
        fd_passing::send(left.as_fd(), br#"{"version":2,"record":7}"#, &[]).unwrap();
        assert_eq!(receive::<u32>(&right, None).unwrap_err(), ChannelError::Malformed);
        fd_passing::send(left.as_fd(), b"nonsense", &[]).unwrap();
        assert_eq!(receive::<u32>(&right, None).unwrap_err(), ChannelError::Malformed);
    }

    #[test]
    fn memory_that_is_not_sealed_is_not_read() {
        let (left, right) = fd_passing::pair().unwrap();
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        fd_passing::send(left.as_fd(), br#"{"version":1,"record":null}"#, &[file.as_fd()]).unwrap();
        assert_eq!(receive::<u32>(&right, None).unwrap_err(), ChannelError::Malformed);
    }

    #[test]
    fn silence_and_the_end_are_told_apart() {
        let (left, right) = fd_passing::pair().unwrap();
        let wait = Some(Duration::from_millis(10));
        assert_eq!(receive::<u32>(&right, wait).unwrap_err(), ChannelError::Silent);
        drop(left);
        assert_eq!(receive::<u32>(&right, wait).unwrap_err(), ChannelError::Closed);
        assert_eq!(send(&right, &7, &[]).unwrap_err(), ChannelError::Closed);
    }
}
