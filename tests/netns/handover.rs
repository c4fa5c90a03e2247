//! A helper that hands over the wrong thing: whatever it is, it is refused, named, and nothing of it is used.
//!
//! The helper is this test binary, started by [`spawn`] as the real one would be, with [`as_a_helper`] as its only test.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use wg4netns::driver::namespace_child::{ChildError, Helper, spawn};
use wg4netns::driver::target::Target;
use wg4netns::sys::fd_passing;
use wg4netns::sys::netlink::Netlink;
use wg4netns::sys::tun;

use super::attach::{chain, request};
use super::sandbox::Namespace;

/// What a helper says that has made `wg0`.
const MADE: &str = r#"{"version":1,"record":{"Ok":{"ifindex":2,"mtu":1420,"up":true,"warnings":[]}}}"#;

/// More descriptors than a receiver with [`FEW`] can take, which has a dozen open already.
const MANY: usize = 60;
const FEW: &str = "48";

#[test]
fn a_handover_that_is_short_is_refused() {
    refused("short", "an answer that is not understood");
}

#[test]
fn a_handover_of_another_version_is_refused() {
    refused("version", "an answer that is not understood");
}

#[test]
fn a_handover_without_a_descriptor_is_refused() {
    refused("none", "0 descriptors instead of 3");
}

#[test]
fn a_handover_with_one_descriptor_too_few_or_too_many_is_refused() {
    refused("rtnetlink rtnetlink", "2 descriptors instead of 3");
    refused("tun pipe rtnetlink rtnetlink", "4 descriptors instead of 3");
}

#[test]
fn a_handover_of_something_that_is_no_tun_is_refused() {
    refused("pipe rtnetlink rtnetlink", "descriptor is not a TUN device");
    refused("null rtnetlink rtnetlink", "descriptor is not a TUN device");
    refused("detached rtnetlink rtnetlink", "TUN device has no interface");
}

#[test]
fn a_handover_of_another_interface_is_refused() {
    refused("other rtnetlink rtnetlink", "a queue of the wrong interface, `wg9`");
}

#[test]
fn a_handover_without_an_rtnetlink_socket_is_refused() {
    refused("tun pipe rtnetlink", "no rtnetlink socket");
    refused("tun rtnetlink null", "no rtnetlink socket");
}

#[test]
fn a_handover_of_the_right_things_is_taken() {
    // The same words and descriptors as above: what refuses them is not that a stranger sent them.
    let namespace = Namespace::new();
    let made = hand_over(&namespace, "tun rtnetlink rtnetlink").expect("an interface");
    assert_eq!((made.interface.as_str(), made.tun.len()), ("wg0", 1));
}

/// `MSG_CTRUNC`: the kernel has no number to give a descriptor.
#[test]
fn a_handover_that_meets_the_limit_of_open_files_is_refused() {
    let namespace = Namespace::new();
    // The limit is the whole process's, so it is set for another one: see `as_a_receiver`.
    let output = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -n {FEW}; exec \"$0\" --exact netns::handover::as_a_receiver --nocapture"),
        ])
        .arg(std::env::current_exe().expect("a running program has a file"))
        .env("HANDOVER_TARGET", namespace.pid().to_string())
        .stdin(Stdio::null())
        .output()
        .expect("sh(1)");
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = "cannot accept what the helper handed over: descriptors were lost (the limit of open files may be reached), exit 1";
    assert!(said.contains(wanted), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// The receiving process, under its limit; nothing unless told.
#[test]
fn as_a_receiver() {
    let Ok(pid) = std::env::var("HANDOVER_TARGET") else { return };
    let target = Target::Pid(pid.parse().expect("a number")).open().expect("the holder lives");
    let directory = tempfile::tempdir().expect("a directory");
    let error =
        spawn(&helper(directory.path(), "many"), &target, &request("wg0", &[], &[])).expect_err("refused");
    println!("{}, exit {}", chain(&error), error.class().exit_code());
}

/// The helper: says that it has made `wg0` and sends what `HANDOVER` names; nothing unless told.
#[test]
fn as_a_helper() {
    let Ok(what) = std::env::var("HANDOVER") else { return };
    let socket = std::io::stdin();
    // What is left unread would be an error at the other end, before it reads our answer.
    fd_passing::receive(socket.as_fd()).expect("a request");
    let send = |record: &str, fds: &[BorrowedFd<'_>]| {
        fd_passing::send(socket.as_fd(), record.as_bytes(), fds).expect("the other end is there");
    };
    match what.as_str() {
        "short" => send(&MADE[..MADE.len() / 2], &[]),
        "version" => send(&MADE.replace("\"version\":1", "\"version\":2"), &[]),
        "none" => send(MADE, &[]),
        "many" => send(MADE, &vec![socket.as_fd(); MANY]),
        words => {
            let fds: Vec<OwnedFd> = words.split(' ').map(descriptor).collect();
            send(MADE, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>());
        }
    }
}

fn descriptor(what: &str) -> OwnedFd {
    let file =
        |path: &str| fs::File::options().read(true).write(true).open(path).expect("it can be opened").into();
    match what {
        "tun" => tun::create("wg0", 1).expect("a namespace of our own").remove(0),
        "other" => tun::create("wg9", 1).expect("a namespace of our own").remove(0),
        "detached" => file(tun::TUN_PATH),
        "null" => file("/dev/null"),
        "pipe" => std::io::pipe().expect("a pipe").1.into(),
        "rtnetlink" => Netlink::open().expect("a socket").into_fd(),
        other => panic!("no such descriptor: {other}"),
    }
}

fn refused(what: &str, fault: &str) {
    let namespace = Namespace::new();
    let error = hand_over(&namespace, what).expect_err("refused");
    assert_eq!(chain(&error), format!("cannot accept what the helper handed over: {fault}"), "{what}");
    assert_eq!(error.class().exit_code(), 1, "{what}");
}

fn hand_over(
    namespace: &Namespace,
    what: &str,
) -> Result<wg4netns::driver::namespace_child::ChildHandover, ChildError> {
    let directory = tempfile::tempdir().expect("a directory");
    let target = Target::Pid(namespace.pid()).open().expect("the holder lives");
    spawn(&helper(directory.path(), what), &target, &request("wg0", &[], &[]))
}

/// A script that becomes [`as_a_helper`], in namespaces in which it may make a TUN.
fn helper(directory: &Path, what: &str) -> Helper {
    let tests = std::env::current_exe().expect("a running program has a file");
    let text = format!(
        "#!/bin/sh\nHANDOVER='{what}' exec unshare -Urn '{}' --exact netns::handover::as_a_helper --nocapture\n",
        tests.display()
    );
    let path = directory.join("helper");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our file");
    Helper::at(path)
}
