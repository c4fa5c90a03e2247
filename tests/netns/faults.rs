//! What can go wrong while an interface is made: each fault is made for real, and named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use wg4netns::driver::failure::FailureClass;
use wg4netns::driver::namespace_child::{ChildError, Death, Helper, HelperError, spawn};
use wg4netns::driver::target::{Target, TargetError};
use wg4netns::sys::clock::boot_nanos;
use wg4netns::sys::namespace::NamespaceError;

use super::attach::{chain, request};
use super::sandbox::{Namespace, wait_for};

#[test]
fn a_helper_that_is_killed_at_any_system_call_leaves_nothing_behind() {
    if !is_installed("strace") {
        return super::skip("strace", "strace(1) is not installed");
    }
    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("trace");
    let traced = |options: &str| {
        let program = env!("CARGO_BIN_EXE_wg4netns");
        let text = format!("exec strace -qq -o {} {options} {program} \"$@\"", trace.display());
        let helper = script(directory.path(), &text);
        let target = Target::Pid(namespace.pid()).open().expect("the holder lives");
        spawn(&helper, &target, &request("wg0", &["10.9.0.2/24"], &["0.0.0.0/0"]))
    };
    drop(traced("").expect("an interface"));
    let calls: Vec<String> = fs::read_to_string(&trace)
        .expect("a trace")
        .lines()
        .filter_map(|line| Some(line.split_once('(')?.0.to_owned()))
        .collect();
    assert!(calls.len() > 100, "{calls:?}");
    let mut killed = 0;
    for (index, call) in calls.iter().enumerate().filter(|(_, call)| call.as_str() != "execve") {
        let count = calls[..=index].iter().filter(|other| *other == call).count();
        match traced(&format!("-e inject={call}:signal=KILL:when={count}")) {
            Err(ChildError::Helper(HelperError::Died(Death::Signal(9)))) => killed += 1,
            // It had handed over already, or another way led past this call.
            Ok(made) => drop(made),
            Err(other) => panic!("killed at {call} {count}: {}", chain(&other)),
        }
        wait_for("the interface is gone", || {
            namespace.run(&["ls", "/proc/sys/net/ipv4/conf"]) == "all\ndefault\nlo\n"
        });
    }
    assert!(killed > 100, "only {killed} of {} calls", calls.len());
}

#[test]
fn a_helper_that_hangs_is_ended_after_five_seconds() {
    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a directory");
    let helper = script(directory.path(), "echo $$ >\"$(dirname \"$0\")/pid\"; kill -STOP $$");
    let target = Target::Pid(namespace.pid()).open().expect("the holder lives");
    let asked = boot_nanos();
    let error = spawn(&helper, &target, &request("wg0", &[], &[])).expect_err("silence");
    assert_eq!(chain(&error), "helper did not answer within 5 s");
    assert_eq!(error.class(), FailureClass::General);
    assert!((5_000_000_000..6_000_000_000).contains(&(boot_nanos() - asked)));
    let pid = fs::read_to_string(directory.path().join("pid")).expect("written");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the helper is gone");
}

#[test]
fn a_target_that_dies_before_it_is_joined_gets_no_interface() {
    let mut namespace = Namespace::new();
    let target = Target::Pid(namespace.pid()).open().expect("the holder lives");
    namespace.kill();
    // Its namespace is held by us: what is made there is seen by nobody and ends with us. `attach` looks again then.
    let made = spawn(&super::sandbox::helper(), &target, &request("wg0", &[], &[])).expect("a namespace");
    assert_eq!(target.process().expect("named by pid").has_ended(), Ok(true));
    drop(made);
    let pid = namespace.pid();
    let error = Target::Pid(pid).open().expect_err("gone");
    assert_eq!(error, TargetError::Namespace(NamespaceError::NoProcess { pid }));
    assert_eq!(error.class().exit_code(), 4);
}

#[test]
fn a_process_of_another_user_is_refused_for_lack_of_permission() {
    // Root becomes nobody before a process of root's; anybody else is refused the machine's first process.
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("our directory");
    let runtime = directory.path().join("runtime");
    fs::create_dir(&runtime).expect("a directory");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("our directory");
    let (mut command, pid) = if nix::unistd::geteuid().is_root() {
        let program = directory.path().join("wg4netns");
        fs::copy(env!("CARGO_BIN_EXE_wg4netns"), &program).expect("a copy that everybody may run");
        std::os::unix::fs::chown(&runtime, Some(65534), None).expect("root may");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        (command, std::process::id())
    } else {
        (Command::new(env!("CARGO_BIN_EXE_wg4netns")), 1)
    };
    let output = command
        .args(["--netns-pid", &pid.to_string(), "--uapi-dir"])
        .arg(&runtime)
        .output()
        .expect("setpriv(1), wg4netns");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "wg4netns: cannot create `wg0` in the network namespace of pid {pid}: cannot open `/proc/{pid}/ns/net`: \
             Permission denied (os error 13)\nhint: run wg4netns as the user whose process it is\n"
        )
    );
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn a_thread_and_a_zombie_are_refused_as_what_they_are() {
    let (say, heard) = std::sync::mpsc::channel();
    let (end, until) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        say.send(nix::unistd::gettid().as_raw().unsigned_abs()).expect("the test listens");
        until.recv().ok();
    });
    let tid = heard.recv().expect("the thread says it");
    let error = Target::Pid(tid).open().expect_err("refused");
    drop(end);
    thread.join().expect("no panic");
    assert_eq!((chain(&error), error.class().exit_code()), (format!("{tid} is a thread, not a process"), 4));

    let mut child = Command::new("true").spawn().expect("true(1)");
    let pid = child.id();
    let stat = format!("/proc/{pid}/stat");
    wait_for("the zombie", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")));
    let error = Target::Pid(pid).open().expect_err("refused");
    child.wait().expect("our child");
    let wanted = format!("process {pid} has ended (it is a zombie)");
    assert_eq!((chain(&error), error.class().exit_code()), (wanted, 4));
}

#[test]
fn a_kernel_thread_is_refused_as_what_it_is() {
    // The first one has the number 2, where the machine's own process table is visible.
    if fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        return super::skip("kernel-threads", "they are not seen from this process namespace");
    }
    let error = Target::Pid(2).open().expect_err("refused");
    assert_eq!((chain(&error).as_str(), error.class().exit_code()), ("process 2 is a kernel thread", 4));
}

#[test]
fn an_interface_name_that_another_kind_of_interface_has_is_taken() {
    let namespace = Namespace::new();
    namespace.run(&["ip", "link", "add", "wg0", "type", "veth", "peer", "name", "eth1"]);
    let target = Target::Pid(namespace.pid()).open().expect("the holder lives");
    let error = spawn(&super::sandbox::helper(), &target, &request("wg0", &[], &[])).expect_err("refused");
    assert_eq!(error.class(), FailureClass::InUse, "{}", chain(&error));
}

#[test]
fn a_missing_device_node_is_done_without() {
    let inside = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let (code, said) = inside_namespaces(&["-U", "-r", "-m"], inside);
    assert_eq!(code, 0, "{said}");
    let wanted =
        "cannot open `/dev/net/tun`: No such file or directory (os error 2); using a veth pair instead";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn a_missing_device_node_is_named_where_it_cannot_be_done_without() {
    // The one network namespace is that of the command; none is left for the far end of a veth pair.
    let inside = "mount -t tmpfs none /dev/net && echo 1 >/proc/sys/user/max_net_namespaces && exec \"$@\"";
    let (code, said) = inside_namespaces(&["-U", "-r", "-m"], inside);
    assert_eq!(
        (code, said.as_str()),
        (
            125,
            "wg4netns: cannot create `wg0`: cannot open `/dev/net/tun`: No such file or directory (os error 2)"
        )
    );
}

#[test]
fn user_namespaces_that_are_switched_off_are_named() {
    let inside = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let (code, said) = inside_namespaces(&["-U", "-r"], inside);
    assert_eq!(
        (code, said.as_str()),
        (125, "wg4netns: cannot create a user namespace: No space left on device (os error 28)")
    );
}

#[test]
fn where_overlays_are_refused_etc_is_mounted_piece_by_piece_and_a_warning_says_so() {
    let (code, said) = without_overlays(":");
    assert!(
        said.contains("what the host changes in `/etc` from now on may not be seen: cannot mount an overlay"),
        "{said}"
    );
    assert!(said.contains("nameserver 10.9.0.1\nhosts: files dns\nroot:"), "{said}");
    assert_eq!(code, 0, "{said}");
}

/// There was nothing to mount ours over: `cannot mount a file at `/etc/resolv.conf`: No such file or directory`. So it is
/// with a minimal root, and where the link leads to one of the directories that are hidden (systemd-resolved's).
#[test]
fn a_host_without_a_resolv_conf_needs_no_overlay_either() {
    for host in ["rm -f /etc/resolv.conf", "ln -sf ../run/nowhere/stub-resolv.conf /etc/resolv.conf"] {
        let (code, said) = without_overlays(host);
        assert!(said.contains("nameserver 10.9.0.1\nhosts: files dns\nroot:"), "{host}: {said}");
        assert_eq!(code, 0, "{host}: {said}");
    }
}

/// `run` where overlays are refused, after `host` has changed a copy of `/etc`.
fn without_overlays(host: &str) -> (i32, String) {
    // Overlays can be stacked twice.
    let layer = "mkdir -p /mnt/$n/u /mnt/$n/w &&
        mount -t overlay -o lowerdir=/etc,upperdir=/mnt/$n/u,workdir=/mnt/$n/w,userxattr o /etc";
    let inside =
        format!("mount -t tmpfs none /mnt && n=1 && {layer} && {host} && n=2 && {layer} && exec \"$@\"");
    inside_namespaces(&["-U", "-r", "-m"], &inside)
}

/// `run` inside other namespaces, set up by a script that ends in `exec "$@"`: status, and what was printed.
fn inside_namespaces(options: &[&str], script: &str) -> (i32, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("far.conf");
    fs::write(&config, CONFIG).expect("a file");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("our file");
    let output = Command::new("unshare")
        .args(options)
        .args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_wg4netns"), "run", "--no-wait", "--config"])
        .arg(&config)
        .arg("--uapi-dir")
        .arg(directory.path())
        .args([
            "--",
            "sh",
            "-c",
            "cat /etc/resolv.conf; grep ^hosts /etc/nsswitch.conf; grep ^root: /etc/passwd",
        ])
        .output()
        .expect("unshare(1)");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("hint: ")).collect();
    (output.status.code().unwrap_or(-1), said.join("\n"))
}

/// A peer that never answers, on the machine itself.
pub(super) const CONFIG: &str = "[Interface]
PrivateKey = cAqyFQvIVaSMmLxVKpkKCwWT+TU/fIRUNjQh+2UCAGA=
Address = 10.9.0.2/24
DNS = 10.9.0.1
[Peer]
PublicKey = HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=
AllowedIPs = 0.0.0.0/0
Endpoint = 127.0.0.1:9
";

/// A helper that is a shell script.
fn script(directory: &Path, text: &str) -> Helper {
    let path: PathBuf = directory.join("helper");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("our file");
    Helper::at(path)
}

fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|o| o.status.success())
}
