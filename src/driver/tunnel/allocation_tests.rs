//! No packet costs an allocation: counted on this thread while packets pass from the TUN to the socket and back, by what
//! the data threads do.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use allocation_counter::measure;
use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::data_threads::{HandshakeDatagram, Receive};
use super::far_end::{End, FLOWS, Tun, Way, batch, join, round, wait_for};
use super::transmit::Transmit;
use super::turns::Turns;
use crate::driver::udp::{ReturnPaths, UdpPort};
use crate::packet::coalesce::CoalesceConfig;
use crate::sys::inside::inside_namespace_with_tun;
use crate::wireguard::Device;

/// Turns of each kind, after which every table has the size it needs.
const WARM_UP: usize = 5;

/// Packets that are counted, of both ways together.
const COUNTED: usize = 10_000;

#[test]
fn no_packet_costs_an_allocation() {
    assert_eq!(measure(|| drop(black_box(Box::new(1)))).count_total, 1, "allocations are counted");
    let test = "driver::tunnel::allocation_tests::no_packet_costs_an_allocation";
    if !inside_namespace_with_tun(test, "ip link set lo up") {
        return;
    }
    let mut rig = Rig::new();
    let (mut number, mut counted) = (0, 0);
    while counted < COUNTED {
        let (inward, outward) = (round(Way::In, number), round(Way::Out, number));
        let joined = join(&outward, CoalesceConfig { tcp: true, udp: true });
        let joined: Vec<Vec<u8>> = joined.iter().map(<[u8]>::to_vec).collect();
        assert_eq!(joined.len(), FLOWS);
        let alone = number % inward.len();
        for (what, inward, outward) in [
            ("a batch of packets", &inward[..], &outward[..]),
            ("super-packets", &inward[..], &joined[..]),
            ("one packet", &inward[alone..=alone], &outward[alone..=alone]),
        ] {
            let (allocations, packets) = rig.turn(inward, outward);
            if number >= WARM_UP {
                assert_eq!(allocations, 0, "{what} each way, turn {number}, after {counted} packets");
                counted += packets;
            }
        }
        number += 1;
    }
}

/// What one of the two threads of a quiet tunnel has, which does the work of both.
struct Rig {
    tun: Tun,
    far: End,
    udp: Arc<ArcSwap<UdpPort>>,
    receive: Receive,
    /// Its end is that of its sessions.
    _device: Device,
    _handshakes: mpsc::Receiver<HandshakeDatagram>,
}

impl Rig {
    fn new() -> Self {
        let (tun, [End { device, port, .. }, far]) = (Tun::new(), End::pair());
        let data_plane = Arc::clone(device.data_plane());
        let paths = Arc::new(ReturnPaths::open().unwrap());
        let udp = Arc::new(ArcSwap::from_pointee(port.with_return_paths(Some(paths))));
        let transmit = Arc::new(Mutex::new(Transmit::new(&data_plane, &tun.link, &udp)));
        let (sender, receiver) = mpsc::channel(1);
        let turns = Arc::new(Turns::new().unwrap());
        let receive = Receive::new(&data_plane, &tun.link, &udp, sender, transmit, turns);
        Self { tun, far, udp, receive, _device: device, _handshakes: receiver }
    }

    /// Carries what comes from either side; how many allocations that took, and how many packets it were.
    fn turn(&mut self, inward: &[Vec<u8>], outward: &[Vec<u8>]) -> (u64, usize) {
        self.far.send(&batch(inward));
        outward.iter().for_each(|framed| self.tun.depart(framed));
        wait_for(self.udp.load().as_fd());
        wait_for(self.tun.link.as_fd());
        let allocations = measure(|| self.receive.both_directions().unwrap()).count_total;
        self.tun.arrivals(inward.len().min(FLOWS));
        assert_eq!(self.tun.arrival(), None, "each flow arrives in one piece");
        // What departs joined is as many packets as what arrives.
        self.far.receive(inward.len());
        (allocations, 2 * inward.len())
    }
}
