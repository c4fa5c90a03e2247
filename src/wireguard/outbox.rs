//! What the control half wants sent: single messages, and peers whose staged packets may go. (core: no IO, no clock)

use std::collections::VecDeque;

use super::device::{MAX_PEERS, MAX_QUEUED_HANDSHAKES};
use super::seal::append_datagram;
use crate::packet::batch::{DatagramBatch, Path};

/// Traffic class of handshake messages, as the kernel module sends them: AF41, for they must get through.
pub(super) const HANDSHAKE_TRAFFIC_CLASS: u8 = 0x88;

/// Messages that may wait for the driver. It empties the outbox after each input, and one input (a configuration, a
/// wake-up after a long sleep) may make every peer call and owe an answer; beside them go the answers to handshakes.
const MAX_MESSAGES: usize = 2 * MAX_PEERS + MAX_QUEUED_HANDSHAKES;

struct Outgoing {
    bytes: Box<[u8]>,
    path: Path,
    traffic_class: u8,
}

/// Messages in the order they were made.
#[derive(Default)]
pub(super) struct Outbox {
    messages: VecDeque<Outgoing>,
    /// Peers whose staged packets wait to be sealed.
    pub(super) flushes: VecDeque<u32>,
}

impl Outbox {
    /// Adds a message; drops it if the driver does not take any.
    pub(super) fn push(&mut self, bytes: &[u8], path: Path, traffic_class: u8) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push_back(Outgoing { bytes: bytes.into(), path, traffic_class });
        }
    }

    /// Appends messages while there is room; how many.
    pub(super) fn drain_into(&mut self, out: &mut DatagramBatch) -> usize {
        let mut appended = 0;
        while let Some(message) = self.messages.front() {
            let len = message.bytes.len();
            let Some(room) = out.spare().get_mut(..len) else { break };
            room.copy_from_slice(&message.bytes);
            append_datagram(out, len, message.path, message.traffic_class);
            self.messages.pop_front();
            appended += 1;
        }
        appended
    }
}
