//! What the kernel can refuse, made to happen: routes, MTU, vanished addresses, injected errno values.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::tests::{LOCALHOST, NOW, receive, run, to};
use super::{Patience, ReturnPaths, SendFailure, UdpPort};
use crate::packet::batch::{DatagramBatch, LocalAddress, Path};
use crate::sys::inside::{self, ip};
use crate::sys::netlink::Netlink;
use crate::sys::{packet_socket, wait};

/// An outer MTU below inner + 80 made other implementations collapse to a thousandth.
#[test]
fn a_run_over_the_mtu_is_resent_singly_and_remembered_for_a_minute() {
    if !inside_namespace(
        "a_run_over_the_mtu_is_resent_singly_and_remembered_for_a_minute",
        "ip link set lo mtu 1280 up",
    ) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for address in LOCALHOST {
        let batch = run(to(address, &b), 20 * 1452, 1452, 0);
        for _ in 0..2 {
            let outcome = a.send(&batch, NOW);
            assert_eq!((outcome.datagrams, outcome.failures.len()), (20, 0), "{outcome:?}");
            let (runs, bytes) = receive(&b, 20 * 1452);
            assert_eq!((runs.len(), bytes == batch.slab()), (20, true));
        }
        a.send(&run(to(address, &b), 12_000, 1200, 0), NOW);
        assert_eq!(receive(&b, 12_000).0, [(12_000, 1200)], "smaller segments still go in runs");
    }
    assert_eq!(a.refusal_count.load(Ordering::Acquire), 2);

    ip("link set lo mtu 65536");
    for address in LOCALHOST {
        let batch = run(to(address, &b), 20 * 1452, 1452, 0);
        a.send(&batch, NOW + Duration::from_secs(59));
        assert_eq!(receive(&b, 20 * 1452).0.len(), 20, "believed for a minute");
        a.send(&batch, NOW + Duration::from_secs(60));
        assert_eq!(receive(&b, 20 * 1452).0.len(), 1, "then tried again");
    }
    assert_eq!(a.refusal_count.load(Ordering::Acquire), 0);
}

#[test]
fn no_errno_of_the_network_is_fatal_and_each_is_counted() {
    let setup = "ip link set lo up
        ip route add unreachable 203.0.113.1
        ip route add prohibit 203.0.113.2
        ip route add blackhole 203.0.113.3";
    if !inside_namespace("no_errno_of_the_network_is_fatal_and_each_is_counted", setup) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for (last, errno) in
        [(1, libc::EHOSTUNREACH), (2, libc::EACCES), (3, libc::EINVAL), (4, libc::ENETUNREACH)]
    {
        let path = Path::to(SocketAddr::new([203, 0, 113, last].into(), 9));
        let outcome = a.send(&run(path, 5000, 1000, 0), NOW);
        let failure = SendFailure { slot: 0, errno, datagrams: 5, bytes: 5000 };
        assert_eq!((outcome.datagrams, outcome.failures), (0, vec![failure]));
    }
    assert_eq!(a.refusal_count.load(Ordering::Acquire), 0, "none of it was the segmentation's fault");
    a.send(&run(to(LOCALHOST[0], &b), 5000, 1000, 0), NOW);
    assert_eq!(receive(&b, 5000).0, [(5000, 1000)]);
}

/// Datagrams of many sizes go by one call; the kernel stops at the first that it refuses, and does not say why.
#[test]
fn one_datagram_that_is_refused_among_many_is_the_only_one_lost_and_order_stays() {
    let setup = "ip link set lo up
        ip route add unreachable 203.0.113.1";
    if !inside_namespace(
        "one_datagram_that_is_refused_among_many_is_the_only_one_lost_and_order_stays",
        setup,
    ) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for remote in LOCALHOST {
        let good = to(remote, &b);
        let vanished = Some(LocalAddress { address: "203.0.113.200".parse().unwrap(), ifindex: 1 });
        let mut batch = DatagramBatch::with_capacity(100_000, 100);
        let mut expected = Vec::new();
        for index in 0..100_usize {
            let path = match index {
                0 | 40 | 99 => Path::to("203.0.113.1:9".parse().unwrap()),
                70 => Path { local: vanished, ..good },
                _ => good,
            };
            let (len, segment_len) = if index == 50 { (900, 300) } else { (index + 1, index + 1) };
            batch.spare()[..len].fill(u8::try_from(index).unwrap());
            batch.commit(len, segment_len, path, 0);
            if path.remote == good.remote {
                expected.extend(vec![u8::try_from(index).unwrap(); len]);
            }
        }
        let outcome = a.send(&batch, NOW);
        let lost: Vec<_> = outcome.failures.iter().map(|failure| (failure.slot, failure.errno)).collect();
        assert_eq!(lost, [0, 40, 99].map(|slot| (slot, libc::EHOSTUNREACH)));
        assert_eq!((outcome.datagrams, outcome.bytes), (99, expected.len()));
        assert_eq!(outcome.stale_sources.len(), usize::from(remote.is_ipv4()), "{outcome:?}");
        assert_eq!(receive(&b, expected.len()).1, expected);
    }
}

#[test]
fn datagrams_go_out_without_a_source_that_has_vanished_and_it_is_reported() {
    let setup = "ip link set lo up
        ip addr add 10.9.9.9/32 dev lo
        ip addr add fd00::9/128 dev lo nodad";
    if !inside_namespace("datagrams_go_out_without_a_source_that_has_vanished_and_it_is_reported", setup) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for (remote, address, removal) in [
        (LOCALHOST[0], "10.9.9.9", "addr del 10.9.9.9/32 dev lo"),
        (LOCALHOST[1], "fd00::9", "addr del fd00::9/128 dev lo"),
    ] {
        let local = Some(LocalAddress { address: address.parse().unwrap(), ifindex: 1 });
        let batch = run(Path { local, ..to(remote, &b) }, 5000, 1000, 0);
        assert_eq!(a.send(&batch, NOW).stale_sources, []);
        assert_eq!(receive(&b, 5000).0.len(), 1);
        ip(removal);
        let outcome = a.send(&batch, NOW);
        assert_eq!((outcome.datagrams, outcome.failures.len()), (5, 0));
        assert_eq!(outcome.stale_sources, [SocketAddr::new(remote, b.local_port())]);
        assert_eq!(receive(&b, 5000).0.len(), 1, "still in one run");
        let local = Some(LocalAddress { address: remote, ifindex: 4242 });
        let outcome = a.send(&run(Path { local, ..to(remote, &b) }, 50, 50, 0), NOW);
        assert_eq!((outcome.datagrams, outcome.stale_sources.len()), (1, 0), "the address is still there");
        receive(&b, 50);
    }
}

/// The source pinned the interface: with another way back, or a new one, answers went where nobody was.
#[test]
fn answers_leave_by_the_route_and_keep_their_source_only_where_that_leads_back() {
    let setup = "ip link set lo up
        ip link add a0 type veth peer name a1; ip link add b0 type veth peer name b1
        for link in a0 a1 b0 b1; do ip link set $link up; done
        ip addr add 10.1.0.1/24 dev a0; ip addr add 10.2.0.1/24 dev b0
        ip neigh add 10.1.0.2 lladdr 02:00:00:00:00:01 dev a0
        ip neigh add 10.2.0.2 lladdr 02:00:00:00:00:02 dev b0
        ip route add 192.0.2.0/24 via 10.1.0.2";
    if !inside_namespace("answers_leave_by_the_route_and_keep_their_source_only_where_that_leads_back", setup)
    {
        return;
    }
    let paths = Arc::new(ReturnPaths::open().unwrap());
    let port = UdpPort::bind(0, 0).unwrap().with_return_paths(Some(paths));
    let ifindex = |name| Netlink::open().unwrap().link_named(name).unwrap().unwrap().index;
    let by_a = LocalAddress { address: "10.1.0.1".parse().unwrap(), ifindex: ifindex("a0") };
    let by_b = LocalAddress { address: "10.2.0.1".parse().unwrap(), ifindex: ifindex("b0") };
    let sent_from = |local| {
        let path = Path { remote: "192.0.2.9:9".parse().unwrap(), local: Some(local) };
        let (on_a, on_b) = (Capture::on(ifindex("a1")), Capture::on(ifindex("b1")));
        assert_eq!(port.send(&run(path, 50, 50, 0), NOW).failures, []);
        Capture::sources([&on_a, &on_b])
    };
    assert_eq!(sent_from(by_a), [Some([10, 1, 0, 1]), None]);
    assert_eq!(sent_from(by_b), [Some([10, 1, 0, 1]), None], "the way back is the other one");
    ip("route replace 192.0.2.0/24 via 10.2.0.2");
    assert_eq!(sent_from(by_a), [None, Some([10, 1, 0, 1])], "the route has moved");
    port.handle_new_routes();
    assert_eq!(sent_from(by_a), [None, Some([10, 2, 0, 1])]);
    assert_eq!(sent_from(by_b), [None, Some([10, 2, 0, 1])]);
}

#[test]
fn without_checksum_offload_runs_are_resent_singly_whatever_their_size() {
    if !under_injection(
        "without_checksum_offload_runs_are_resent_singly_whatever_their_size",
        "sendmsg:error=EIO:when=1",
    ) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for len in [5000, 500] {
        let outcome = a.send(&run(to(LOCALHOST[0], &b), len, len / 5, 0), NOW);
        assert_eq!((outcome.datagrams, outcome.failures.len()), (5, 0));
        assert_eq!(receive(&b, len).0.len(), 5);
    }
}

/// What older kernels say of segments over the MTU.
#[test]
fn a_run_that_is_an_invalid_argument_is_resent_singly_and_shorter_segments_still_go_in_runs() {
    let test = "a_run_that_is_an_invalid_argument_is_resent_singly_and_shorter_segments_still_go_in_runs";
    if !under_injection(test, "sendmsg:error=EINVAL:when=1") {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    for _ in 0..2 {
        let outcome = a.send(&run(to(LOCALHOST[0], &b), 5000, 1000, 0), NOW);
        assert_eq!((outcome.datagrams, outcome.failures.len()), (5, 0));
        assert_eq!(receive(&b, 5000).0.len(), 5);
    }
    assert_eq!(a.refusal_count.load(Ordering::Acquire), 1);
    a.send(&run(to(LOCALHOST[0], &b), 500, 100, 0), NOW);
    assert_eq!(receive(&b, 500).0, [(500, 100)]);
}

#[test]
fn full_queues_and_filters_cost_the_run_and_nothing_else() {
    if !under_injection(
        "full_queues_and_filters_cost_the_run_and_nothing_else",
        "sendmsg:error=ENOBUFS:when=1..3",
    ) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    let batch = run(to(LOCALHOST[0], &b), 5000, 1000, 0);
    for _ in 0..3 {
        let failure = SendFailure { slot: 0, errno: libc::ENOBUFS, datagrams: 5, bytes: 5000 };
        assert_eq!(a.send(&batch, NOW).failures, [failure]);
    }
    assert_eq!(a.send(&batch, NOW).datagrams, 5);
    assert_eq!(receive(&b, 5000).0, [(5000, 1000)], "runs are still sent as runs");
}

/// An ICMP message that anybody can forge switched runs off for a minute, and another lost a datagram.
#[test]
fn an_error_that_an_earlier_datagram_brought_back_costs_nothing() {
    for errno in ["EMSGSIZE", "ENONET", "EOPNOTSUPP", "EACCES", "ECONNREFUSED"] {
        let test = "an_error_that_an_earlier_datagram_brought_back_costs_nothing";
        if !under_injection(test, &format!("sendmsg:error={errno}:when=1")) {
            continue;
        }
        let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
        assert_eq!(a.send(&run(to(LOCALHOST[0], &b), 5000, 1000, 0), NOW).failures, []);
        assert_eq!(receive(&b, 5000).0, [(5000, 1000)], "in one run");
        assert_eq!(a.refusal_count.load(Ordering::Acquire), 0);
        return;
    }
}

/// On a network that takes nothing the control task slept in the kernel, and did not hear SIGTERM.
#[test]
fn who_has_no_patience_is_not_kept_by_a_network_that_takes_no_more() {
    let setup = "ip link set lo up
        tc qdisc add dev lo root tbf rate 10mbit burst 70000 limit 1000000000";
    if !inside_namespace("who_has_no_patience_is_not_kept_by_a_network_that_takes_no_more", setup) {
        return;
    }
    let _emptied = FullQueue;
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    let batch = run(to(LOCALHOST[0], &b), 60_000, 60_000, 0);
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Many times what any socket's buffer holds, and what leaves meanwhile.
        for _ in 0..2000 {
            a.send_with(&batch, NOW, Patience::None);
        }
        done.send(a.send_failures()).unwrap();
    });
    let failures = finished.recv_timeout(Duration::from_secs(10)).expect("it does not wait");
    assert!(failures[&libc::EAGAIN] > 100, "{failures:?}");
    assert_eq!(failures.len(), 1, "{failures:?}");
}

#[test]
fn receive_errors_are_counted_and_receiving_goes_on() {
    if !under_injection(
        "receive_errors_are_counted_and_receiving_goes_on",
        "recvmmsg:error=ECONNREFUSED:when=1..200",
    ) {
        return;
    }
    let (a, b) = (UdpPort::bind(0, 0).unwrap(), UdpPort::bind(0, 0).unwrap());
    a.send(&run(to(LOCALHOST[0], &b), 5000, 1000, 0), NOW);
    assert_eq!(receive(&b, 5000).0, [(5000, 1000)]);
    assert_eq!(b.receive_errors(), BTreeMap::from([(libc::ECONNREFUSED, 200)]));
}

/// Empties the queue of `lo`: what waits there keeps the namespace when nobody is in it any more, and the kernel's
/// answers to it take the room that ICMP has in every namespace of the machine.
struct FullQueue;

impl Drop for FullQueue {
    fn drop(&mut self) {
        let deleted = std::process::Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]).status();
        assert!(deleted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// What comes out of an interface's other end.
struct Capture {
    socket: OwnedFd,
}

impl Capture {
    fn on(index: u32) -> Self {
        Self { socket: packet_socket::open(index).unwrap() }
    }

    /// The source of the first of our datagrams that each has seen; waits until one of them has.
    fn sources<const N: usize>(captures: [&Self; N]) -> [Option<[u8; 4]>; N] {
        for _ in 0..100 {
            let found = captures.map(Self::source);
            if found.iter().any(Option::is_some) {
                return found;
            }
            let mut fds = captures.map(|capture| PollFd::new(capture.socket.as_fd(), PollFlags::POLLIN));
            assert!(wait::poll(&mut fds, Some(Duration::from_secs(10))).unwrap(), "nothing came out");
        }
        panic!("only other packets came out");
    }

    fn source(&self) -> Option<[u8; 4]> {
        let mut frame = [0; 2048];
        while packet_socket::receive(self.socket.as_fd(), &mut [IoSliceMut::new(&mut frame)]).is_ok() {
            // Behind the virtio-net and the Ethernet header: IPv4 with UDP to port 9.
            let packet = &frame[10 + 14..];
            if packet[0] == 0x45 && packet[9] == 17 && packet[22..24] == [0, 9] {
                return packet[12..16].try_into().ok();
            }
        }
        None
    }
}

fn inside_namespace(test: &str, setup: &str) -> bool {
    inside::inside_namespace(&format!("driver::udp::fault_tests::{test}"), setup)
}

fn under_injection(test: &str, fault: &str) -> bool {
    inside::under_injection(&format!("driver::udp::fault_tests::{test}"), fault)
}
