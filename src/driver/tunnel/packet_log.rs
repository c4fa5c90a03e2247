//! What `-vv` says: a line for every packet and every datagram, one for a run that the kernel takes in one. (driver)
//!
//! Who to whom, what and how long; of what is inside, nothing.

use tracing::{Level, enabled, trace};

use crate::packet::batch::{DatagramBatch, PacketBatch, VNET_HEADER_LEN};
use crate::packet::ip::IpView;

/// Packets that were read from the link (`from`) or are written `to` it.
pub(super) fn packets(link: &'static str, packets: &PacketBatch) {
    if !enabled!(Level::TRACE) {
        return;
    }
    for framed in packets.iter() {
        match framed.get(VNET_HEADER_LEN..).map(IpView::parse) {
            Some(Ok(packet)) => trace!(
                link,
                source = %packet.source(),
                destination = %packet.destination(),
                ports = ?packet.ports(),
                protocol = packet.protocol(),
                len = framed.len() - VNET_HEADER_LEN,
                "packet"
            ),
            Some(Err(_)) | None => trace!(link, len = framed.len(), "not an IP packet"),
        }
    }
}

/// Datagrams that were received `from` peers or are sent `to` them.
pub(super) fn datagrams(peer: &'static str, datagrams: &DatagramBatch) {
    if !enabled!(Level::TRACE) {
        return;
    }
    for slot in datagrams.slots() {
        trace!(
            peer,
            endpoint = %slot.path.remote,
            message = message(datagrams.bytes(slot).first().copied()),
            datagrams = slot.segments(),
            len = slot.len,
            "datagram"
        );
    }
}

/// WireGuard paper §5.4: the first byte of a message.
const fn message(first: Option<u8>) -> &'static str {
    match first {
        Some(1) => "initiation",
        Some(2) => "response",
        Some(3) => "cookie reply",
        Some(4) => "data",
        Some(_) | None => "none of WireGuard",
    }
}
