//! What root in the target can do to whoever listens there, done for real.

use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, setsockopt, socket,
    sockopt,
};

use super::{LinkChange, LinkWatch};
use crate::driver::clock;
use crate::sys::inside::{inside_namespace, ip};
use crate::sys::netlink::{LinkSetting, Netlink, News, RtnetlinkSockets, Topics};

/// An MTU of four billion was believed.
#[test]
fn what_another_process_says_of_the_interface_is_not_believed() {
    if !inside("what_another_process_says_of_the_interface_is_not_believed") {
        return;
    }
    run(async {
        let mut watch = watch();
        Forger::new().send(&forged_link(watch.state().index));
        let heard = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(heard.is_err(), "{heard:?}");
        ip("link set wg0 mtu 1300");
        assert_eq!(watch.next().await, Ok(LinkChange::Mtu(1300)));
        assert_eq!(watch.state().name, "wg0");
    });
}

/// Nothing else had a turn for as long as it went on.
#[test]
fn a_flood_of_foreign_datagrams_leaves_the_task_its_other_work() {
    if !inside("a_flood_of_foreign_datagrams_leaves_the_task_its_other_work") {
        return;
    }
    run(async {
        let mut watch = watch();
        let begun = clock::now().boot;
        for _ in 0..2 {
            let (forger, bytes) = (Forger::new(), forged_link(watch.state().index));
            std::thread::spawn(move || {
                while clock::now().boot.duration_since(begun) < Duration::from_secs(10) {
                    forger.send(&bytes);
                }
            });
        }
        let other_work = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            change = watch.next() => panic!("{change:?}"),
            () = other_work => {}
        }
        let took = clock::now().boot.duration_since(begun);
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

/// One of them, and the interface was not followed any more.
#[test]
fn a_datagram_of_odd_size_or_content_does_not_end_the_following() {
    if !inside("a_datagram_of_odd_size_or_content_does_not_end_the_following") {
        return;
    }
    run(async {
        let mut watch = watch();
        let forger = Forger::new();
        for (len, mtu) in [1, 15, 16, 17, 64 * 1024, 64 * 1024 + 1, 80_000].into_iter().zip(1300..) {
            forger.send(&vec![0x5a; len]);
            forger.send(&[0]);
            ip(&format!("link set wg0 mtu {mtu}"));
            assert_eq!(watch.next().await, Ok(LinkChange::Mtu(mtu)));
        }
    });
}

/// The change was made, five seconds later it was said to have failed, and the tunnel had stood still meanwhile.
#[test]
fn a_full_queue_of_news_costs_no_answer_and_hides_no_other_interface() {
    if !inside("a_full_queue_of_news_costs_no_answer_and_hides_no_other_interface") {
        return;
    }
    run(async {
        let mut watch = watch();
        let forger = Forger::new();
        // More than a queue holds.
        for _ in 0..20 {
            forger.send(&vec![0; 60_000]);
        }
        ip("link add eth0 type veth peer name eth1");
        ip("link set eth0 up");
        let begun = clock::now().boot;
        let index = watch.state().index;
        watch.requests().set_link(index, LinkSetting::Mtu(1300)).unwrap();
        assert_eq!(watch.requests().link(index).unwrap().unwrap().mtu, 1300);
        assert!(clock::now().boot.duration_since(begun) < Duration::from_secs(1));
        assert_eq!(watch.next().await, Ok(LinkChange::Mtu(1300)));
        assert_eq!(watch.next().await, Ok(LinkChange::OtherLinkUp("eth0".to_owned())));
    });
}

/// Whoever knows a socket's number could fill its queue, and answers had no room.
#[test]
fn nobody_but_the_kernel_can_send_to_the_sockets_themselves() {
    if !inside("nobody_but_the_kernel_can_send_to_the_sockets_themselves") {
        return;
    }
    let requests = Netlink::open().unwrap();
    let port = nix::sys::socket::getsockname::<NetlinkAddr>(requests.as_raw_fd()).unwrap().pid();
    let to = NetlinkAddr::new(port, 0);
    let sent = sendto(Forger::new().fd.as_raw_fd(), &[0; 16], &to, MsgFlags::empty());
    assert_eq!(sent, Err(nix::errno::Errno::ECONNREFUSED));
}

/// A socket of somebody who is root here.
struct Forger {
    fd: OwnedFd,
}

impl Forger {
    fn new() -> Self {
        let (family, kind, protocol) = (AddressFamily::Netlink, SockType::Raw, SockProtocol::NetlinkRoute);
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        setsockopt(&fd, sockopt::SndBuf, &200_000).unwrap();
        Self { fd }
    }

    /// To everyone who listens for changes of interfaces. That one of them has no room is reported here, too.
    fn send(&self, bytes: &[u8]) {
        let _no_room = sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 1), MsgFlags::empty());
    }
}

fn forged_link(index: u32) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::IfName("forged".into()), LinkAttribute::Mtu(u32::MAX)];
    let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link));
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn watch() -> LinkWatch {
    let (news, mut requests) = (News::open(Topics::Interfaces).unwrap(), Netlink::open().unwrap());
    let state = requests.link_named("wg0").unwrap().unwrap();
    let sockets = RtnetlinkSockets { requests: requests.into_fd(), news: news.into_fd() };
    LinkWatch::new(sockets, state).unwrap()
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("the test ends within 20 s");
    });
}

fn inside(test: &str) -> bool {
    let setup = "ip link set lo up; ip link add wg0 type veth peer name far";
    inside_namespace(&format!("driver::link_watch::abuse_tests::{test}"), setup)
}
