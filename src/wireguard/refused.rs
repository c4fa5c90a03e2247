//! What was refused: destinations outside every peer's allowed IPs, for `--report`. (core: no IO, no clock)

use std::collections::HashMap;
use std::net::IpAddr;

/// Destinations remembered; the container chooses them, so there must be an end.
const MAX_DESTINATIONS: usize = 1024;

/// Packets that no peer's allowed IPs take, by destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where they wanted to go.
    pub destination: IpAddr,
    /// Destination port, for protocols that have one.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: u8,
    /// How many.
    pub packets: u64,
}

/// Counts by destination; what comes after the table is full is only in the drop counters.
#[derive(Default)]
pub(super) struct RefusedTable {
    packets: HashMap<(IpAddr, Option<u16>, u8), u64>,
}

impl RefusedTable {
    pub(super) fn count(&mut self, destination: IpAddr, port: Option<u16>, protocol: u8) {
        let key = (destination, port, protocol);
        if let Some(packets) = self.packets.get_mut(&key) {
            *packets += 1;
        } else if self.packets.len() < MAX_DESTINATIONS {
            self.packets.insert(key, 1);
        }
    }

    /// Most refused first; among equals, by address.
    pub(super) fn list(&self) -> Vec<Refused> {
        let mut list: Vec<_> = self
            .packets
            .iter()
            .map(|(&(destination, port, protocol), &packets)| Refused {
                destination,
                port,
                protocol,
                packets,
            })
            .collect();
        list.sort_by_key(|r| (std::cmp::Reverse(r.packets), r.destination, r.port, r.protocol));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_refused_destination_comes_first_and_the_table_has_an_end() {
        let mut table = RefusedTable::default();
        let dns: IpAddr = "8.8.8.8".parse().unwrap();
        table.count(dns, Some(53), 17);
        table.count(dns, Some(53), 17);
        for host in 0..5000_u32 {
            table.count(IpAddr::V4(host.into()), None, 1);
        }
        let list = table.list();
        assert_eq!(list.len(), MAX_DESTINATIONS);
        assert_eq!(list[0], Refused { destination: dns, port: Some(53), protocol: 17, packets: 2 });
    }
}
