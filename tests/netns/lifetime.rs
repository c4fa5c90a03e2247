//! What ends a tunnel, and what happens to its interface meanwhile, on real namespaces.

use std::future::Future;
use std::process::Command;
use std::time::Duration;

use wg4netns::driver::lifetime::{EndReason, Lifetime};
use wg4netns::driver::link_watch::{LinkChange, LinkWatch};
use wg4netns::driver::target::Target;
use wg4netns::sys::clock::boot_nanos;

use super::attach::{attach, request};
use super::sandbox::Namespace;

#[test]
fn every_change_to_the_interface_is_heard() {
    run(async {
        let namespace = Namespace::new();
        let elsewhere = namespace.nested(&["-n"]);
        let made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &[])).expect("attached");
        let state = made.link_state();
        let mut watch = LinkWatch::new(made.rtnetlink, state).expect("a watch");
        namespace.run(&["ip", "link", "set", "wg0", "mtu", "1300"]);
        assert_eq!(heard(&mut watch).await, LinkChange::Mtu(1300));
        namespace.run(&["ip", "addr", "add", "10.9.0.3/32", "dev", "wg0"]);
        assert_eq!(watch.next().await.expect("the socket works"), LinkChange::Addresses);
        namespace.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]);
        namespace.run(&["ip", "link", "set", "eth0", "up"]);
        assert_eq!(heard(&mut watch).await, LinkChange::OtherLinkUp("eth0".to_owned()));
        namespace.run(&["ip", "link", "set", "wg0", "down"]);
        assert_eq!(heard(&mut watch).await, LinkChange::Up(false));
        namespace.run(&["ip", "link", "set", "wg0", "name", "tun7"]);
        assert_eq!(heard(&mut watch).await, LinkChange::Renamed("tun7".to_owned()));
        namespace.run(&["ip", "link", "set", "tun7", "netns", &elsewhere.pid().to_string()]);
        assert_eq!(heard(&mut watch).await, LinkChange::Moved);
        elsewhere.run(&["ip", "link", "set", "tun7", "mtu", "1281"]);
        assert_eq!(heard(&mut watch).await, LinkChange::Mtu(1281));
        assert_eq!((watch.state().name.as_str(), watch.state().mtu), ("tun7", 1281));
        elsewhere.run(&["ip", "link", "delete", "tun7"]);
        assert_eq!(heard(&mut watch).await, LinkChange::Deleted);
    });
}

#[test]
fn a_flood_of_changes_is_survived_and_the_last_state_is_right() {
    run(async {
        let namespace = Namespace::new();
        let made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &[])).expect("attached");
        nix::sys::socket::setsockopt(&made.rtnetlink.news, nix::sys::socket::sockopt::RcvBuf, &2048)
            .expect("a small buffer");
        let state = made.link_state();
        let mut watch = LinkWatch::new(made.rtnetlink, state).expect("a watch");
        namespace.run(&[
            "sh",
            "-c",
            "for n in 1 2 3 4 5 6 7 8 9 10; do for m in 1290 1291 1292 1293 1294; do
             ip link set wg0 mtu $m; done; done; ip link set wg0 mtu 1355",
        ]);
        while watch.state().mtu != 1355 {
            heard(&mut watch).await;
        }
    });
}

#[test]
fn the_death_of_the_target_ends_it_within_100_ms_though_the_interface_is_held() {
    run(async {
        let mut namespace = Namespace::new();
        let made = attach(&namespace, &request("wg0", &["10.9.0.2/24"], &[])).expect("attached");
        let mut target = Target::Pid(namespace.pid()).open().expect("the holder lives");
        let mut lifetime = Lifetime::watch(target.life_line().into_iter().collect()).expect("watched");
        namespace.kill();
        let killed = boot_nanos();
        assert_eq!(lifetime.ended().await, EndReason::TargetEnded);
        assert!(boot_nanos() - killed < 100_000_000);
        drop(made);
    });
}

#[test]
fn unmounting_a_namespace_path_ends_it_within_a_second() {
    if !nix::unistd::geteuid().is_root() {
        assert!(!super::is_required("mount"), "mounting was to be tested and cannot be");
        println!("skipped: only root can mount in our own mount namespace");
        return;
    }
    run(async {
        let namespace = Namespace::new();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("netns");
        std::fs::write(&path, "").expect("a file");
        let mount = Mount::bind(&format!("/proc/{}/ns/net", namespace.pid()), &path);
        let mut target = Target::Path { netns: path, userns: None }.open().expect("bound");
        let mut lifetime = Lifetime::watch(target.life_line().into_iter().collect()).expect("watched");
        // What it holds was opened by way of the mount.
        drop(target);
        let quiet = tokio::time::timeout(Duration::from_millis(50), lifetime.ended()).await;
        assert!(quiet.is_err(), "ended too early: {quiet:?}");
        drop(mount);
        let unmounted = boot_nanos();
        assert_eq!(lifetime.ended().await, EndReason::TargetRemoved);
        // One second is promised, and shown by a scenario; a busy machine may take its time.
        assert!(boot_nanos() - unmounted < 5_000_000_000);
    });
}

/// The next change, but for addresses, which come and go with other changes.
async fn heard(watch: &mut LinkWatch) -> LinkChange {
    loop {
        let change = watch.next().await.expect("the socket works");
        if change != LinkChange::Addresses {
            return change;
        }
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("the test ends within 20 s");
    });
}

/// A bind mount, undone with its guard.
struct Mount {
    path: std::path::PathBuf,
}

impl Mount {
    fn bind(from: &str, to: &std::path::Path) -> Self {
        let status = Command::new("mount").args(["--bind", from]).arg(to).status().expect("mount(8)");
        assert!(status.success());
        Self { path: to.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.path).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
