//! A TUN that refuses joined packets, as Linux 6.6.44 did: every packet arrives all the same, and none is joined for a
//! minute.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::data_threads::spawn;
use super::far_end::{End, FLOW_LEN, FLOWS, PACKET_LEN, Tun, Way, batch, join, round};
use super::transmit::{JOIN_PAUSE, LinkWriter};
use crate::driver::clock;
use crate::packet::coalesce::CoalesceConfig;
use crate::sys::inside::inside_namespace_with_tun_under_injection;

/// The first write of each of the flows, joined.
const REFUSED: &str = "writev:error=EINVAL:when=1..4";

#[test]
fn joined_packets_that_the_tun_refuses_arrive_one_by_one_and_later_ones_are_not_joined() {
    if !inside("joined_packets_that_the_tun_refuses_arrive_one_by_one_and_later_ones_are_not_joined") {
        return;
    }
    let (tun, [ours, mut far]) = (Tun::new(), End::pair());
    let udp = Arc::new(ArcSwap::from_pointee(ours.port));
    let (ends, _) = mpsc::unbounded_channel();
    let shutdown = Arc::clone(&tun.shutdown);
    let (threads, _transmit, _handshakes) =
        spawn(ours.device.data_plane(), &tun.link, shutdown, &udp, &ends, false).unwrap();
    for number in 1..=5 {
        let sent = round(Way::In, number);
        far.send(&batch(&sent));
        assert!(
            tun.arrivals(sent.len()) == sent,
            "round {number}: bytes were lost, changed, moved or joined"
        );
    }
    threads.stop(&udp);
    assert_eq!(tun.arrival(), None, "nothing arrives twice");
}

#[test]
fn a_minute_after_the_tun_refused_joined_packets_they_are_joined_again() {
    if !inside("a_minute_after_the_tun_refused_joined_packets_they_are_joined_again") {
        return;
    }
    let tun = Tun::new();
    let mut writer = LinkWriter::new(Arc::clone(&tun.link));
    let all = CoalesceConfig { tcp: true, udp: true };
    let (before, sent) = (clock::now().boot, round(Way::In, 0));
    let joined = join(&sent, writer.coalesce(before));
    assert_eq!(joined.len(), FLOWS);
    writer.write(&joined).unwrap();
    assert!(tun.arrivals(sent.len()) == sent, "bytes were lost, changed, moved or joined");
    let none = CoalesceConfig { tcp: false, udp: false };
    assert_eq!(writer.coalesce(before + (JOIN_PAUSE - Duration::from_secs(1))), none);
    assert_eq!(writer.coalesce(clock::now().boot + JOIN_PAUSE), all);
    writer.write(&joined).unwrap();
    let lengths: Vec<usize> = tun.arrivals(FLOWS).iter().map(Vec::len).collect();
    assert!(lengths.iter().all(|len| *len > FLOW_LEN * PACKET_LEN / 2), "whole super-packets: {lengths:?}");
    assert_eq!(tun.arrival(), None, "nothing arrives twice");
}

fn inside(test: &str) -> bool {
    let test = format!("driver::tunnel::fault_tests::{test}");
    inside_namespace_with_tun_under_injection(&test, "ip link set lo up", REFUSED)
}
