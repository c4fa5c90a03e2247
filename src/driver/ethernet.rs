//! Ethernet frames around the packets of a link that is no TUN. (tasks)
//!
//! A slot of a batch is a virtio-net header and a packet; on a packet socket the frame's own header lies between the
//! two. It is read to and written from the side, so that the packet is not moved; what the virtio-net header counts from
//! the start of the frame is counted from the start of the packet in the slot.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use super::veth::{FAR_MAC, MAC};
use crate::packet::batch::VNET_HEADER_LEN;
use crate::sys::packet_socket;

/// Destination, source, protocol.
const FRAME_HEADER_LEN: usize = 14;

const IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();

/// Frames without a packet that one call passes over before it says that there is none.
const MAX_SKIPPED: usize = 64;

/// Bit 0 of the virtio-net header's flags: the checksum is to be finished.
const NEEDS_CHECKSUM: u8 = 1;

/// Receives one packet into a slot; returns the slot's length.
///
/// # Errors
/// What [`packet_socket::receive`] says, but for frames that cannot be used: they are passed over.
pub(super) fn receive(fd: BorrowedFd<'_>, slot: &mut [u8]) -> io::Result<usize> {
    let (header, packet) = slot.split_at_mut(VNET_HEADER_LEN);
    for _ in 0..MAX_SKIPPED {
        let mut frame = [0; FRAME_HEADER_LEN];
        let buffers = &mut [IoSliceMut::new(header), IoSliceMut::new(&mut frame), IoSliceMut::new(packet)];
        let received = match packet_socket::receive(fd, buffers) {
            // A super-packet of a kind that this kernel has no virtio-net header for; it is gone.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => continue,
            other => other?,
        };
        let len = received.saturating_sub(VNET_HEADER_LEN + FRAME_HEADER_LEN);
        let protocol = [frame[12], frame[13]];
        if len > 0 && (protocol == IPV4 || protocol == IPV6) {
            shift(header, |offset| offset.saturating_sub(FRAME_OFFSET));
            return Ok(VNET_HEADER_LEN + len);
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Sends the packet of a slot.
///
/// # Errors
/// What [`packet_socket::send`] says; EINVAL for what is no packet.
pub(super) fn send(fd: BorrowedFd<'_>, slot: &[u8]) -> io::Result<usize> {
    let Some((vnet, packet)) = slot.split_first_chunk::<VNET_HEADER_LEN>() else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let protocol = match packet.first().map(|byte| byte >> 4) {
        Some(4) => IPV4,
        Some(6) => IPV6,
        Some(_) | None => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    let mut vnet = *vnet;
    shift(&mut vnet, |offset| offset.saturating_add(FRAME_OFFSET));
    let mut frame = [0; FRAME_HEADER_LEN];
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&FAR_MAC);
    frame[12..].copy_from_slice(&protocol);
    packet_socket::send(fd, &[IoSlice::new(&vnet), IoSlice::new(&frame), IoSlice::new(packet)])
}

/// [`FRAME_HEADER_LEN`] as the virtio-net header counts.
const FRAME_OFFSET: u16 = 14;

/// Changes where the virtio-net header says that things begin: its fields 1 (`hdr_len`) and 3 (`csum_start`).
fn shift(vnet: &mut [u8], change: impl Fn(u16) -> u16) {
    let [flags, gso_type, len_low, len_high, _, _, start_low, start_high, ..] = vnet else { return };
    if *gso_type != 0 {
        [*len_low, *len_high] = change(u16::from_ne_bytes([*len_low, *len_high])).to_ne_bytes();
    }
    if *flags & NEEDS_CHECKSUM != 0 {
        [*start_low, *start_high] = change(u16::from_ne_bytes([*start_low, *start_high])).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::vnet::{GsoType, VnetHeader};

    #[test]
    fn offsets_are_those_of_the_packet_in_a_slot_and_of_the_frame_on_the_wire() {
        let header = VnetHeader {
            needs_checksum: true,
            gso_type: GsoType::TcpV4,
            header_len: 54,
            gso_size: 1380,
            checksum_start: 34,
            checksum_offset: 16,
            ..VnetHeader::default()
        };
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes.copy_from_slice(&header.emit());
        shift(&mut bytes, |offset| offset.saturating_sub(FRAME_OFFSET));
        let in_slot = VnetHeader::parse(&bytes).unwrap();
        assert_eq!((in_slot.header_len, in_slot.checksum_start), (40, 20));
        assert_eq!((in_slot.gso_size, in_slot.checksum_offset), (1380, 16));
        shift(&mut bytes, |offset| offset.saturating_add(FRAME_OFFSET));
        assert_eq!(VnetHeader::parse(&bytes), Some(header));
    }

    #[test]
    fn a_header_that_asks_for_nothing_stays_all_zeros() {
        let mut bytes = [0; VNET_HEADER_LEN];
        shift(&mut bytes, |offset| offset.saturating_add(FRAME_OFFSET));
        assert_eq!(bytes, [0; VNET_HEADER_LEN]);
    }
}
