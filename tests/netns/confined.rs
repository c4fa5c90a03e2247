//! What a confined process can still reach: tried in processes of our own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::errno::Errno;
use wg4netns::driver::broker::{Broker, Resolver};
use wg4netns::driver::endpoint_names::Lookup;
use wg4netns::driver::namespace_child::Helper;
use wg4netns::driver::pidfile::PidfileGuard;
use wg4netns::sys::confine;
use wg4netns::sys::inode;
use wg4netns::sys::sandbox::{self, Policy};
use wg4netns::sys::seccomp::{self, Role};

use super::locked_tunnel::said;

#[test]
fn a_name_that_leads_to_a_file_elsewhere_is_not_followed_by_the_broker() {
    // The one process that opens files after it was confined. What /etc/hosts leads to is exchanged under it.
    for (policy, follows) in [(Policy::Require, false), (Policy::Off, true)] {
        let scratch = tempfile::tempdir().expect("a directory");
        let [etc, open, shut] = ["etc", "open", "shut"].map(|name| scratch.path().join(name));
        for (directory, name) in [(&open, "first.test"), (&shut, "second.test")] {
            fs::create_dir(directory).expect("a directory");
            fs::write(directory.join("hosts"), format!("192.0.2.7 {name}\n")).expect("a file");
        }
        fs::create_dir(&etc).expect("a directory");
        fs::write(etc.join("nsswitch.conf"), "hosts: files\n").expect("a file");
        symlink(open.join("hosts"), etc.join("hosts")).expect("a link");
        let program = scratch.path().join("broker");
        let own = env!("CARGO_BIN_EXE_wg4netns");
        let inside = format!("mount --bind {} /etc && exec {own} \"$@\"", etc.display());
        fs::write(&program, format!("#!/bin/sh\nexec unshare -Urm sh -c '{inside}' sh \"$@\"\n"))
            .expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("our file");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut broker = Broker::spawn(&Helper::at(program).under(policy)).expect("a broker");
            assert_eq!(broker.missing_layers().expect("it says"), []);
            let resolver = broker.into_resolver().expect("a runtime");
            assert!(resolves(&resolver, "first.test").await, "{policy:?}");
            fs::remove_file(etc.join("hosts")).expect("a link");
            symlink(shut.join("hosts"), etc.join("hosts")).expect("a link");
            assert_eq!(resolves(&resolver, "second.test").await, follows, "{policy:?}");
        });
    }
}

async fn resolves(resolver: &Resolver, host: &str) -> bool {
    resolver.ask(&Lookup { id: 1, host: host.to_owned(), port: 1 }).expect("it lives");
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), resolver.answer());
    answer.await.expect("no network is asked").expect("it lives").result.is_ok()
}

#[test]
fn a_tunnel_can_remove_nothing_from_the_directory_of_its_pid_file() {
    // As a program that took over a tunnel would try it: in a process locked down as `--pidfile ~/x` asks for.
    let scratch = tempfile::tempdir().expect("a directory");
    fs::create_dir(scratch.path().join("run")).expect("a directory");
    fs::write(scratch.path().join("precious"), "").expect("a file");
    let output = locked_process("files beside the pid file", scratch.path());
    assert!(said(&output).contains("beside: ok"), "{}", said(&output));
    assert!(scratch.path().join("precious").exists());
}

#[test]
fn files_addresses_and_forbidden_calls_are_out_of_reach_of_a_locked_process() {
    let scratch = tempfile::tempdir().expect("a directory");
    fs::write(scratch.path().join("own.sock"), "").expect("a file");
    fs::create_dir(scratch.path().join("run")).expect("a directory");
    fs::write(scratch.path().join("run/own.sock"), "").expect("a file");
    for (step, ending) in [("files", "files: ok"), ("unshare", "signal: 31")] {
        let output = locked_process(step, scratch.path());
        let told = format!("{}{}", said(&output), output.status);
        assert!(told.contains(ending), "{step}: {told}");
    }
}

#[test]
fn helpers_open_what_they_need_and_nothing_else() {
    let scratch = tempfile::tempdir().expect("a directory");
    fs::write(scratch.path().join("secret"), "").expect("a file");
    for step in ["broker", "factory", "forwarder", "remover", "link maker"] {
        let output = locked_process(step, scratch.path());
        assert!(said(&output).contains(&format!("{step}: ok")), "{}", said(&output));
    }
}

#[test]
fn beneath_the_filter_of_every_helper_and_thread_there_is_landlock() {
    // Each filter lets a datagram go to whatever address, and those of two roles let files be removed: landlock stops both.
    let scratch = tempfile::tempdir().expect("a directory");
    fs::create_dir(scratch.path().join("run")).expect("a directory");
    let scopes = has_scopes();
    if !scopes {
        println!("skipped the datagrams: before Linux 6.12 landlock knows nothing of abstract sockets");
    }
    let steps =
        ["broker", "factory begin", "factory", "forwarder", "remover", "link maker", "control", "tx", "rx"];
    for step in steps {
        fs::write(scratch.path().join("precious"), "").expect("a file");
        let name = format!("wg4netns-test-{}-{step}", std::process::id());
        let abroad = UnixDatagram::bind_addr(&abstract_address(&name)).expect("a socket");
        abroad.set_nonblocking(true).expect("a socket");
        let output = command_of_locked_process(&format!("whole {step}"), scratch.path())
            .env("LOCKED_ABROAD", &name)
            .output()
            .expect("this program");
        let told = said(&output);
        assert!(told.contains(&format!("whole {step}: ok")), "{told}");
        let heard: Vec<String> = std::iter::from_fn(|| {
            let mut buffer = [0; 16];
            let length = abroad.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .collect();
        assert_eq!(heard, if scopes { vec!["before"] } else { vec!["before", "after"] }, "{step}");
        assert!(scratch.path().join("precious").exists(), "{step}");
    }
}

/// Locks this process or thread down as the real one is, filter and all, and tries what landlock alone forbids.
fn try_whole(step: &str, directory: &Path) {
    let abroad = abstract_address(&std::env::var("LOCKED_ABROAD").expect("told whom to tell"));
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to_addr(b"before", &abroad).expect("nothing is locked yet");
    let run = || fs::File::open(directory.join("run")).expect("a directory").into();
    let helper = match step {
        "broker" => Some(confine::Helper::Broker),
        "factory begin" => Some(confine::Helper::FactoryBegin),
        "factory" => Some(confine::Helper::Factory),
        "forwarder" => Some(confine::Helper::Forwarder),
        "remover" => Some(confine::Helper::Remover(run())),
        "link maker" => Some(confine::Helper::LinkMaker),
        _thread_of_the_tunnel => None,
    };
    if let Some(helper) = helper {
        sandbox::no_new_privileges().expect("a layer");
        assert_eq!(confine::confine(&helper, Policy::Require), []);
    } else {
        let role = sandbox::Role::Tunnel { socket_directory: directory.join("run"), keep_net_admin: false };
        sandbox::lock_down(&role, Policy::Require).expect("every layer");
        let role = match step {
            "control" => Role::Control,
            "tx" => Role::Transmit,
            "rx" => Role::Receive,
            other => panic!("{other}"),
        };
        seccomp::restrict(role).expect("a filter");
    }
    match socket.send_to_addr(b"after", &abroad) {
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{step}"),
        // The other end knows whether it was to arrive.
        Ok(_sent) => {}
    }
    let removed = inode::remove(&directory.join("precious")).expect_err("refused");
    let refused = if ["control", "remover"].contains(&step) { Errno::EACCES } else { Errno::ENOSYS };
    assert_eq!(removed, refused, "{step}");
}

fn abstract_address(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(name).expect("short enough")
}

/// Whether landlock keeps a process from abstract sockets of others (Linux 6.12).
fn has_scopes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let mut numbers = release.split('.').map(|number| number.trim().parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

/// Runs [`as_a_locked_process`] in a process of its own.
fn locked_process(step: &str, directory: &Path) -> Output {
    command_of_locked_process(step, directory).output().expect("this program")
}

fn command_of_locked_process(step: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a file"));
    command
        .args(["--exact", "netns::confined::as_a_locked_process", "--nocapture"])
        .env("LOCKED_STEP", step)
        .env("LOCKED_DIRECTORY", directory);
    command
}

/// What a confined helper can reach, but for its system calls: those would refuse before the files do.
fn try_as_helper(step: &str, directory: &Path) {
    let opened = fs::File::open(directory).expect("a directory");
    let helper = match step {
        "broker" => confine::Helper::Broker,
        "factory" => confine::Helper::Factory,
        "forwarder" => confine::Helper::Forwarder,
        "remover" => confine::Helper::Remover(opened.into()),
        "link maker" => confine::Helper::LinkMaker,
        other => panic!("{other}"),
    };
    sandbox::no_new_privileges().expect("a layer");
    confine::restrict_files(&helper).expect("a layer");
    let secret = directory.join("secret");
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.expect_err("denied").kind(), std::io::ErrorKind::PermissionDenied, "{step}");
    };
    denied(fs::read(&secret).map(drop));
    denied(fs::read("/proc/self/status").map(drop));
    denied(fs::read_dir(directory).map(drop));
    denied(fs::write(&secret, "x"));
    denied(fs::write(directory.join("new"), ""));
    denied(fs::create_dir(directory.join("new")));
    assert_eq!(fs::read("/etc/passwd").is_ok(), step == "broker", "{step}");
    assert_eq!(fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok(), step == "link maker");
    let settings = "/proc/sys/net/ipv4/ip_default_ttl";
    assert_eq!(fs::read(settings).is_ok(), step == "link maker", "{step}");
    match step {
        "forwarder" => drop(TcpListener::bind("127.0.0.1:0").expect("it listens")),
        _ => denied(TcpListener::bind("127.0.0.1:0").map(drop)),
    }
    let connects = TcpStream::connect("127.0.0.1:9").expect_err("nobody is there").kind();
    let may_connect = ["forwarder", "broker"].contains(&step);
    assert_eq!(connects == std::io::ErrorKind::ConnectionRefused, may_connect, "{step}: {connects:?}");
    match step {
        "remover" => fs::remove_file(&secret).expect("what it is for"),
        _ => denied(fs::remove_file(&secret)),
    }
}

/// A process of its own, which locks itself down and then tries what it must not; nothing unless told where.
#[test]
fn as_a_locked_process() {
    let Some(directory) = std::env::var_os("LOCKED_DIRECTORY").map(PathBuf::from) else { return };
    let step = std::env::var("LOCKED_STEP").expect("told what to do");
    if let Some(who) = step.strip_prefix("whole ") {
        try_whole(who, &directory);
        println!("{step}: ok");
        return;
    }
    if !["files", "unshare", "files beside the pid file"].contains(&step.as_str()) {
        // Removed last by one of them.
        fs::write(directory.join("secret"), "").expect("a file");
        try_as_helper(&step, &directory);
        println!("{step}: ok");
        return;
    }
    let own = directory.join("run");
    let role = sandbox::Role::Tunnel { socket_directory: own, keep_net_admin: false };
    let helper = Helper::at(env!("CARGO_BIN_EXE_wg4netns").into());
    let guard = PidfileGuard::write(&directory.join("pid"), &helper).expect("a pid file");
    let reached = sandbox::lock_down(&role, Policy::Require).expect("every layer");
    assert_eq!(reached.on.len(), 5);
    if step == "files beside the pid file" {
        for file in ["precious", "pid"] {
            let refused = fs::remove_file(directory.join(file)).expect_err("denied").kind();
            assert_eq!(refused, std::io::ErrorKind::PermissionDenied, "{file}");
        }
        drop(guard);
        println!("beside: ok");
        return;
    }
    if step == "unshare" {
        seccomp::restrict(Role::Control).expect("a filter");
        let lived = nix::sched::unshare(nix::sched::CloneFlags::empty());
        println!("lived: {lived:?}");
        return;
    }
    let denied = |result: std::io::Result<()>| {
        let kind = result.expect_err("denied").kind();
        assert_eq!(kind, std::io::ErrorKind::PermissionDenied);
    };
    denied(fs::read("/etc/passwd").map(drop));
    denied(fs::read_dir(&directory).map(drop));
    denied(fs::write(directory.join("new"), ""));
    denied(fs::remove_file(directory.join("own.sock")));
    denied(fs::read(directory.join("run/own.sock")).map(drop));
    denied(TcpStream::connect("127.0.0.1:9").map(drop));
    denied(TcpListener::bind("127.0.0.1:0").map(drop));
    fs::remove_file(directory.join("run/own.sock")).expect("its own files it may remove");
    println!("files: ok");
}
