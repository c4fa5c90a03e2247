//! The namespace child: an interface in somebody else's namespace, and each way to be refused.

use wg4netns::driver::command::NetworkPlan;
use wg4netns::driver::failure::FailureClass;
use wg4netns::driver::link::{Link, LinkError, ReadOutcome, Shutdown};
use wg4netns::driver::namespace_child::{ChildError, ChildHandover, ChildRequest, SetupWarning, spawn};
use wg4netns::driver::target::{Target, TargetError};
use wg4netns::packet::batch::PacketBatch;
use wg4netns::sys::netlink::{Event, Netlink, News};

use super::sandbox::{Namespace, helper, wait_for};

#[test]
fn an_interface_is_made_in_a_namespace_where_we_are_root() {
    attach_and_look(&Namespace::new());
}

#[test]
fn an_interface_is_made_in_a_namespace_where_we_are_ourselves() {
    attach_and_look(&Namespace::unshare(&["-U", "-c", "-n"]));
}

#[test]
fn an_interface_is_made_in_a_nested_namespace() {
    let outer = Namespace::new();
    attach_and_look(&outer.nested(&["-U", "-r", "-n"]));
}

fn attach_and_look(namespace: &Namespace) {
    let made = attach(namespace, &request("wg0", &["10.9.0.2/24", "fd09::2/64"], &["0.0.0.0/0", "::/0"]))
        .expect("attached");
    assert_eq!((made.interface.as_str(), made.mtu, made.up), ("wg0", 1420, true));
    assert_eq!(made.warnings, []);
    let addresses = namespace.run(&["ip", "-br", "addr"]);
    assert!(addresses.contains("10.9.0.2/24 fd09::2/64"), "{addresses}");
    assert!(!addresses.contains("fe80"), "{addresses}");
    assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
    let routes = namespace.run(&["ip", "route"]) + &namespace.run(&["ip", "-6", "route"]);
    for route in ["default dev wg0 proto static scope link", "default dev wg0 proto static metric 1024"] {
        assert!(routes.contains(route), "{routes}");
    }
    let link = namespace.run(&["ip", "-d", "link", "show", "wg0"]);
    for part in ["mtu 1420", "qlen 2000", "gso_max_segs 45", "multi_queue", "vnet_hdr", "alias wg4netns"] {
        assert!(link.contains(part), "no {part} in {link}");
    }
}

#[test]
fn the_interface_ends_with_its_descriptors_and_can_be_made_again() {
    let namespace = Namespace::new();
    for _ in 0..2 {
        let made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &["10.0.0.0/8"])).expect("attached");
        assert!(namespace.run(&["ip", "-br", "link"]).contains("wg0"));
        drop(made);
        wait_for("wg0 is gone", || !namespace.run(&["ip", "-br", "link"]).contains("wg0"));
    }
}

#[test]
fn two_tunnels_share_a_namespace_and_split_the_second_default_route() {
    let namespace = Namespace::new();
    let first = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &["0.0.0.0/0"])).expect("attached");
    let second = attach(&namespace, &request("wg1", &["10.8.0.2/24"], &["0.0.0.0/0"])).expect("attached");
    assert_eq!((first.warnings, second.warnings), (vec![], vec![]));
    let routes = namespace.run(&["ip", "route"]);
    for route in ["default dev wg0", "0.0.0.0/1 dev wg1", "128.0.0.0/1 dev wg1"] {
        assert!(routes.contains(route), "{routes}");
    }
}

#[test]
fn without_an_ipv6_address_ipv6_is_off() {
    let namespace = Namespace::new();
    let made =
        attach(&namespace, &request("wg0", &["10.9.0.2/24"], &["0.0.0.0/0", "::/0"])).expect("attached");
    assert_eq!(made.warnings, []);
    assert_eq!(namespace.run(&["cat", "/proc/sys/net/ipv6/conf/wg0/disable_ipv6"]), "1\n");
    assert_eq!(namespace.run(&["ip", "-6", "addr", "show", "dev", "wg0"]), "");
}

#[test]
fn a_bare_interface_is_left_down_and_without_addresses() {
    let namespace = Namespace::new();
    let mut bare = request("wg0", &["10.9.0.2/24"], &[]);
    bare.bare = true;
    let made = attach(&namespace, &bare).expect("attached");
    assert!(!made.up);
    assert_eq!(namespace.run(&["ip", "-4", "addr", "show", "dev", "wg0"]), "");
}

#[test]
fn a_thousand_routes_arrive() {
    let namespace = Namespace::new();
    let routes: Vec<String> = (0..4000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let made = attach(&namespace, &request("wg0", &["192.168.7.2/32"], &routes)).expect("attached");
    assert_eq!(made.tun.len(), 1);
    assert_eq!(
        namespace.run(&["ip", "route", "show", "dev", "wg0", "proto", "static"]).lines().count(),
        4000
    );
}

#[test]
fn another_interface_that_is_up_is_refused_unless_it_is_to_stay() {
    let namespace = Namespace::new();
    namespace.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]);
    namespace.run(&["ip", "link", "set", "eth0", "up"]);
    let mut request = request("wg0", &["10.9.0.2/24"], &[]);
    let error = attach(&namespace, &request).expect_err("refused");
    assert_eq!(error.class(), FailureClass::Target);
    assert_eq!(
        chain(&error),
        format!(
            "cannot create `wg0` in the network namespace of pid {}: another interface is up: `eth0`",
            namespace.pid()
        )
    );
    request.keep_other_links = true;
    let made = attach(&namespace, &request).expect("attached");
    assert_eq!(made.warnings, [SetupWarning::OtherLinks(vec!["eth0".to_owned()])]);
    assert_eq!(made.warnings[0].to_string(), "no kill switch: eth0 remains");
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_owner_is_left_alone() {
    let namespace = Namespace::new();
    let first = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &[])).expect("attached");
    let error = attach(&namespace, &request("wg0", &["10.7.0.2/24"], &[])).expect_err("refused");
    assert_eq!(error.class(), FailureClass::InUse);
    assert_eq!(
        chain(&error),
        format!(
            "cannot create `wg0` in the network namespace of pid {}: an interface `wg0` exists already",
            namespace.pid()
        )
    );
    let addresses = namespace.run(&["ip", "-br", "addr", "show", "wg0"]);
    assert!(addresses.contains("10.9.0.2/24") && !addresses.contains("10.7"), "{addresses}");
    drop(first);
}

#[test]
fn our_own_namespace_and_processes_that_are_not_there_are_refused() {
    let error = Target::Pid(std::process::id()).open().expect_err("refused");
    assert_eq!((&error, error.class()), (&TargetError::HostNamespace, FailureClass::Target));
    assert_eq!(error.to_string(), "target shares the host's network namespace");
    let error = Target::Pid(4_194_305).open().expect_err("refused");
    assert_eq!((error.to_string().as_str(), error.class().exit_code()), ("no process with pid 4194305", 4));
}

#[test]
fn a_path_is_a_target_as_a_pid_is() {
    let namespace = Namespace::new();
    let netns = format!("/proc/{}/ns/net", namespace.pid()).into();
    let target = Target::Path { netns, userns: None }.open().expect("opened");
    assert!(target.process().is_some(), "a path below /proc can be watched by pidfd");
    spawn(&helper(), &target, &request("wg0", &[], &[])).expect("attached");
}

#[test]
fn a_program_that_is_no_helper_is_not_waited_for() {
    let namespace = Namespace::new();
    let target = Target::Pid(namespace.pid()).open().expect("opened");
    let helper = wg4netns::driver::namespace_child::Helper::at("/bin/false".into());
    let error = spawn(&helper, &target, &request("wg0", &[], &[])).expect_err("refused");
    assert_eq!(chain(&error), "helper died before handover (exit status 1)");
    assert_eq!(error.class().exit_code(), 5);
    let helper = wg4netns::driver::namespace_child::Helper::at("/proc/nonexistent".into());
    let error = spawn(&helper, &target, &request("wg0", &[], &[])).expect_err("refused");
    assert_eq!(
        chain(&error),
        "cannot start the helper `/proc/nonexistent`: No such file or directory (os error 2)"
    );
}

#[test]
fn packets_pass_through_the_link_with_their_offload_headers() {
    let namespace = Namespace::new();
    let mut made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &["0.0.0.0/0"])).expect("attached");
    let shutdown = Shutdown::new().expect("an eventfd");
    let link = Link::from_tun(made.tun.remove(0), shutdown.clone()).expect("a link");
    assert!(link.offloads().checksum && link.offloads().tcp);
    let mut ping = namespace.enter().args(["ping", "-c1", "-W5", "10.9.0.1"]).spawn().expect("ping(8)");
    let mut batch = PacketBatch::with_capacity(256 * 1024, 64);
    let mut reply = PacketBatch::with_capacity(256 * 1024, 64);
    assert_eq!(link.read_batch(&mut batch).expect("a packet"), ReadOutcome::Packets);
    let echo = batch.slot(0);
    assert_eq!((echo[10] >> 4, echo[10 + 9]), (4, 1), "an ICMP packet behind ten bytes of header");
    let answer = reply.spare();
    answer[..echo.len()].copy_from_slice(echo);
    // Source and destination change places (the checksum does not mind), and the request becomes a reply.
    answer[10 + 12..10 + 16].copy_from_slice(&echo[10 + 16..10 + 20]);
    answer[10 + 16..10 + 20].copy_from_slice(&echo[10 + 12..10 + 16]);
    answer[10 + 20] = 0;
    let checksum = u16::from_be_bytes([echo[10 + 22], echo[10 + 23]]);
    let (sum, carry) = checksum.overflowing_add(0x0800);
    answer[10 + 22..10 + 24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    let len = echo.len();
    reply.commit(len);
    let mut refused = Vec::new();
    assert_eq!(link.write_batch(&reply, &mut refused).expect("written").written, 1);
    assert!(ping.wait().expect("ping").success());

    // A header that asks for segments of no size is refused, and comes back to be written in pieces.
    let mut bad = PacketBatch::with_capacity(256 * 1024, 64);
    bad.spare()[..len].copy_from_slice(reply.slot(0));
    bad.spare()[1] = 0x7f;
    bad.commit(len);
    let report = link.write_batch(&bad, &mut refused).expect("written");
    assert_eq!((report.written, refused.as_slice()), (0, [0].as_slice()));

    namespace.run(&["ip", "link", "set", "wg0", "down"]);
    let report = link.write_batch(&reply, &mut refused).expect("a link that is down is no error");
    assert_eq!((report.down, refused.len()), (1, 0));

    shutdown.request();
    assert_eq!(link.read_batch(&mut batch).expect("shutdown"), ReadOutcome::Shutdown);
}

#[test]
fn a_deleted_interface_ends_a_reader_that_waits() {
    let namespace = Namespace::new();
    let mut made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &[])).expect("attached");
    let link = Link::from_tun(made.tun.remove(0), Shutdown::new().expect("an eventfd")).expect("a link");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            loop {
                match link.read_batch(&mut PacketBatch::with_capacity(128 * 1024, 64)) {
                    Ok(ReadOutcome::Packets) => {}
                    other => return other,
                }
            }
        });
        namespace.run(&["ip", "link", "delete", "wg0"]);
        let ended = reader.join().expect("no panic");
        assert!(matches!(ended, Err(LinkError::Deleted)), "{ended:?}");
    });
}

#[test]
fn a_reader_that_waits_is_woken_by_shutdown_and_the_interface_goes_with_it() {
    let namespace = Namespace::new();
    let mut made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &[])).expect("attached");
    let shutdown = Shutdown::new().expect("an eventfd");
    let link = Link::from_tun(made.tun.remove(0), shutdown.clone()).expect("a link");
    let reader = std::thread::spawn(move || {
        loop {
            match link.read_batch(&mut PacketBatch::with_capacity(128 * 1024, 64)) {
                Ok(ReadOutcome::Packets) => {}
                other => return other,
            }
        }
    });
    shutdown.request();
    assert!(matches!(reader.join().expect("no panic"), Ok(ReadOutcome::Shutdown)));
    wait_for("wg0 is gone", || !namespace.run(&["ip", "-br", "link"]).contains("wg0"));
}

#[test]
fn the_passed_sockets_hear_of_changes_and_may_make_some() {
    use wg4netns::driver::link_setup::sync;
    let namespace = Namespace::new();
    let made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &["10.1.0.0/16"])).expect("attached");
    let mut news = News::adopt(made.rtnetlink.news).expect("rtnetlink");
    let mut requests = Netlink::adopt(made.rtnetlink.requests).expect("rtnetlink");
    namespace.run(&["ip", "link", "set", "wg0", "mtu", "1300"]);
    let mut mtu = 0;
    wait_for("the change of MTU is heard", || {
        let mut tell = |event| {
            if let Event::Link { link, nsid: None } = event {
                mtu = link.mtu;
            }
        };
        while news.hear(&mut tell).expect("a socket") {}
        mtu == 1300
    });
    let plan = plan(&["10.9.0.2/24", "10.9.1.2/32"], &["10.2.0.0/16"]);
    sync(&mut requests, made.ifindex, &plan).expect("our user owns the namespace");
    let routes = namespace.run(&["ip", "route", "show", "dev", "wg0"]);
    assert!(routes.contains("10.2.0.0/16") && !routes.contains("10.1.0.0/16"), "{routes}");
    assert!(namespace.run(&["ip", "-br", "addr", "show", "wg0"]).contains("10.9.1.2/32"));
}

#[test]
fn questions_to_the_hosts_name_servers_stay_inside_whatever_the_routes_become() {
    use wg4netns::config::HostResolvers;
    use wg4netns::driver::link_setup::sync;
    let resolvers = |answered| HostResolvers {
        addresses: ["192.0.2.53", "fd77::53"].map(|text| text.parse().expect("an address")).to_vec(),
        answered,
    };
    let namespace = Namespace::new();
    let mut wanted = request("wg0", &["10.9.0.2/24", "fd09::2/64"], &["0.0.0.0/0", "::/0"]);
    wanted.network.host_resolvers = resolvers(true);
    let made = attach(&namespace, &wanted).expect("attached");
    let way = |address: &str, transport: &str, port: &str| {
        namespace.run(&["ip", "route", "get", address, "ipproto", transport, "dport", port])
    };
    let stays = || {
        for address in ["192.0.2.53", "fd77::53"] {
            for transport in ["udp", "tcp"] {
                let way = way(address, transport, "53");
                assert!(way.starts_with("local ") && way.contains(" dev lo "), "{way}");
            }
            let other = way(address, "tcp", "443");
            assert!(other.contains(" dev wg0 "), "{other}");
        }
    };
    stays();
    let mut requests = Netlink::adopt(made.rtnetlink.requests).expect("rtnetlink");
    let plan = plan(&["10.9.1.2/32", "fd09::3/64"], &["0.0.0.0/0", "::/0", "192.0.2.0/24", "fd77::/64"]);
    sync(&mut requests, made.ifindex, &plan).expect("our user owns the namespace");
    stays();

    let namespace = Namespace::new();
    wanted.network.host_resolvers = resolvers(false);
    let _made = attach(&namespace, &wanted).expect("attached");
    for (family, address) in [("-4", "192.0.2.53"), ("-6", "fd77::53")] {
        let rules = namespace.run(&["ip", family, "rule"]);
        let refused = |line: &str| line.contains(&format!("to {address} dport 53 unreachable"));
        assert!(rules.lines().any(refused), "{rules}");
    }
}

pub(super) fn attach(namespace: &Namespace, request: &ChildRequest) -> Result<ChildHandover, ChildError> {
    let target = Target::Pid(namespace.pid()).open().expect("the holder lives");
    let handover = spawn(&helper(), &target, request);
    if let Ok(made) = &handover {
        assert_eq!(made.tun.len(), usize::from(request.queues));
        let requests = made.rtnetlink.requests.try_clone().expect("a duplicate");
        Netlink::adopt(requests).expect("rtnetlink").links().expect("the namespace's interfaces");
    }
    handover
}

pub(super) fn request(interface: &str, addresses: &[&str], routes: &[&str]) -> ChildRequest {
    ChildRequest {
        interface: interface.parse().expect("a valid name"),
        queues: 1,
        network: plan(addresses, routes),
        bare: false,
        keep_other_links: false,
        replace: false,
    }
}

fn plan(addresses: &[&str], routes: &[&str]) -> NetworkPlan {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
    NetworkPlan {
        addresses: parse(addresses),
        routes: parse(routes),
        mtu: Some(1420),
        ..NetworkPlan::default()
    }
}

/// An error with its sources, as the user sees it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
