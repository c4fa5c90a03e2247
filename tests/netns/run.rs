//! A command in namespaces of its own: what it finds there, what it notices of us, and how it ends.
//!
//! `spawn_run` changes what is the whole process's (signals, umask), so each test has a process of its own: this test
//! binary, started by a shell that prepares what a caller might have, with [`as_a_caller`] as its only test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use wg4netns::driver::run_child::{Interruption, RUN_SIGNALS, RunHandover, RunOptions, spawn_run};
use wg4netns::sys::caller::CallerState;
use wg4netns::sys::clock::boot_nanos;
use wg4netns::sys::pidfd::PidFd;
use wg4netns::sys::signals::SignalQueue;

use super::attach::request;
use super::sandbox::{helper, wait_for};

#[test]
fn the_command_finds_the_tunnel_and_nothing_else() {
    let run = Run::new("ip -br addr; ip route; ip -6 route; cat /proc/sys/net/ipv6/conf/wg0/disable_ipv6");
    let said = run.said();
    for part in ["10.9.0.2/24", "lo               UNKNOWN", "default dev wg0", "\n1\n"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert_eq!(said.lines().filter(|line| line.contains("UNKNOWN")).count(), 2, "{said}");
    assert_eq!(run.status(), "0");
}

#[test]
fn the_command_is_the_caller_and_has_no_capability_unless_it_is_root() {
    let me = nix::unistd::geteuid();
    let run = Run::new("id -u; id -g; grep CapEff /proc/self/status; cat /proc/self/setgroups");
    let said = run.said();
    assert!(said.starts_with(&format!("{me}\n{}\n", nix::unistd::getegid())), "{said}");
    assert_eq!(said.contains("CapEff:\t0000000000000000"), !me.is_root(), "{said}");
    assert_eq!(said.contains("allow"), me.is_root(), "{said}");
    let run =
        Run::with(&["MAP_ROOT=1"], "id -u; ip link set wg0 mtu 1300 && cat /sys/class/net/x 2>&1; ip link");
    assert!(run.said().starts_with("0\n"), "{}", run.said());
    assert!(run.said().contains("mtu 1300"), "{}", run.said());
}

#[test]
fn the_command_notices_nothing_of_us() {
    for prepare in [
        "true",
        "umask 027; cd /usr/share; ulimit -n 333; ulimit -c 77; OF_THE_CALLER=yes; export OF_THE_CALLER",
        "trap '' PIPE USR1 CHLD INT; exec 7</etc/hostname",
        "exec <&-",
        "cd /etc",
    ] {
        // Standard output is a pipe of its own here; signals 32 and 33 are the C library's.
        let state = "umask; pwd; ls -l /proc/self/fd | sed 's/.* \\([0-9]* -> \\)/\\1/' | grep -Ev '^(total|1 )|proc|said|before';
            grep -E 'Sig(Ign|Blk)|NoNewPrivs|Groups' /proc/self/status | sed 's/\\(Ign:.\\)........./\\1/'; ulimit -a; env | sort;
            ps -o pgid=,sid=,tty=,nice= -p $$";
        let before = format!("{prepare}; sh -c \"$RUN_STATE\" >\"$RUN_DIRECTORY/before\"");
        let state_variable = format!("RUN_STATE={state}");
        let run = Run::prepared(&before, &[&state_variable], "eval \"$RUN_STATE\"");
        assert!(run.file("before").contains("NoNewPrivs"), "{}", run.file("before"));
        for (before, after) in run.file("before").lines().zip(run.said().lines()) {
            assert_eq!(before, after, "after {prepare:?}");
        }
        assert_eq!(run.file("before").lines().count(), run.said().lines().count());
    }
}

#[test]
fn names_are_resolved_by_our_files_and_the_hosts_resolvers_are_hidden() {
    let script = "cat /etc/resolv.conf; grep hosts /etc/nsswitch.conf; grep root: /etc/passwd;
        for d in /run/nscd /run/systemd/resolve /run/dbus; do [ ! -d $d ] || ls -A $d; done";
    let run = Run::with(&["RESOLV_CONF=nameserver 10.9.0.1\n"], script);
    let expected = "nameserver 10.9.0.1\nhosts: files dns\nroot:x:0:0";
    assert!(run.said().starts_with(expected), "{}", run.said());
    assert!(run.said().trim_end().ends_with("sh"), "something is in a hidden directory: {}", run.said());
    assert_eq!(run.warnings(), "");
    assert_eq!(Run::new("cat /etc/resolv.conf").said(), "");
}

#[test]
fn ping_needs_no_capability() {
    let run = Run::new("ping -c1 -W2 127.0.0.1 >/dev/null && echo answered");
    assert_eq!(run.said(), "answered\n");
}

#[test]
fn the_status_of_the_command_is_ours_and_a_signal_is_128_more() {
    assert_eq!(Run::new("exit 7").status(), "7");
    assert_eq!(Run::new("kill -KILL $$").status(), "137");
    assert_eq!(Run::command(&["/proc/nonexistent"]).status(), "127 cannot execute `/proc/nonexistent`");
    assert_eq!(Run::command(&["/etc/passwd"]).status(), "126 cannot execute `/etc/passwd`");
    assert_eq!(Run::command(&["/etc"]).status(), "126 cannot execute `/etc`");
    assert_eq!(Run::command(&["true"]).status(), "0");
    let closed = "mkdir \"$RUN_DIRECTORY/closed\"; chmod 0 \"$RUN_DIRECTORY/closed\"; PATH=\"$RUN_DIRECTORY/closed:$PATH\"";
    let run = Run::start(closed, &[], &["surely-not-a-command"]);
    assert_eq!(run.status(), "127 cannot execute `surely-not-a-command`");
}

#[test]
fn a_signal_that_is_sent_to_us_reaches_the_command() {
    for (signal, status) in [("SIGTERM", "143"), ("SIGHUP", "129"), ("SIGINT", "130"), ("SIGUSR1", "138")] {
        let run = Run::start("true", &[&format!("RAISE={signal}")], &["sleep", "20"]);
        assert_eq!(run.status(), status, "{signal}");
    }
}

#[test]
fn a_command_that_is_never_let_go_is_gone_with_us() {
    let run = Run::with(&["NEVER_GO=1"], "echo ran");
    assert_eq!(run.said(), "");
    let namespaces = run.log();
    let line =
        namespaces.lines().find(|line| line.starts_with("namespace ")).expect("the namespace is named");
    let inode: u64 = line["namespace ".len()..].parse().expect("a number");
    wait_for("nobody is in the namespace", || !network_namespaces().contains(&inode));
}

#[test]
fn a_signal_before_the_command_runs_is_told() {
    assert_eq!(Run::with(&["INTERRUPT=1"], "echo ran").status(), "Signal(SIGTERM)");
}

/// The inodes of the network namespaces of every process we may look at.
fn network_namespaces() -> Vec<u64> {
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let namespaces = processes.filter_map(|process| fs::metadata(process.path().join("ns/net")).ok());
    namespaces.map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata)).collect()
}

/// What a run left behind.
struct Run {
    directory: tempfile::TempDir,
    output: std::process::Output,
}

impl Run {
    fn new(script: &str) -> Self {
        Self::with(&[], script)
    }

    fn with(variables: &[&str], script: &str) -> Self {
        Self::prepared("true", variables, script)
    }

    fn command(command: &[&str]) -> Self {
        Self::start("true", &[], command)
    }

    /// `prepare` is run by a shell that then becomes the caller.
    fn prepared(prepare: &str, variables: &[&str], script: &str) -> Self {
        let script = format!("exec >\"$RUN_DIRECTORY/said\"; {script}");
        Self::start(prepare, variables, &["sh", "-c", &script])
    }

    fn start(prepare: &str, variables: &[&str], command: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let test = "netns::run::as_a_caller";
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("{prepare}\nexec \"$RUN_TESTS\" --exact {test} --nocapture"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUN_TESTS", std::env::current_exe().expect("a running program has a file"))
            .env("RUN_DIRECTORY", directory.path())
            .env("RUN_COMMAND", serde_json::to_string(command).expect("text"))
            .envs(variables.iter().filter_map(|variable| variable.split_once('=')))
            .stdin(Stdio::null())
            .output()
            .expect("sh(1)");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Self { directory, output }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn said(&self) -> String {
        self.file("said")
    }

    fn status(&self) -> String {
        self.file("status")
    }

    fn warnings(&self) -> String {
        self.file("warnings")
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }
}

/// The caller's process: does what `run` does with the command in the environment, without a tunnel; nothing unless told.
#[test]
fn as_a_caller() {
    let Some(directory) = std::env::var_os("RUN_DIRECTORY").map(PathBuf::from) else { return };
    let set = |name: &str| std::env::var(name).ok();
    let caller = CallerState::capture();
    let command: Vec<String> =
        serde_json::from_str(&set("RUN_COMMAND").expect("set")).expect("a list of words");
    let options = RunOptions {
        link: request("wg0", &["10.9.0.2/24"], &["0.0.0.0/0"]),
        caller,
        map_root: set("MAP_ROOT").is_some(),
        resolv_conf: set("RESOLV_CONF").unwrap_or_default(),
        command: command.into_iter().map(Into::into).collect(),
    };
    let signals = SignalQueue::take(&RUN_SIGNALS).expect("a queue");
    let run = spawn_run(&helper(), &options, signals).expect("a child");
    let status = live(run, &directory);
    fs::write(directory.join("status"), status).expect("a file");
}

#[expect(clippy::print_stdout, reason = "the test that started this process reads its output")]
fn live(run: RunHandover, directory: &Path) -> String {
    let RunHandover { link, warnings, mut child } = run;
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    fs::write(directory.join("warnings"), warnings.concat()).expect("a file");
    assert_eq!(link.tun.len(), 1);
    let pid = child.pid();
    if std::env::var_os("NEVER_GO").is_some() {
        let inode = std::os::unix::fs::MetadataExt::ino(
            &fs::metadata(format!("/proc/{pid}/ns/net")).expect("the child lives"),
        );
        println!("\nnamespace {inode}");
        drop(child);
        assert!(PidFd::open(pid).is_err(), "the child is gone");
        return String::new();
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        if std::env::var_os("INTERRUPT").is_some() {
            nix::sys::signal::raise(Signal::SIGTERM).expect("a signal");
            return match child.interrupted().await.expect("no failure") {
                Interruption::Signal(signal) => format!("Signal({signal})"),
                Interruption::ChildEnded => "ended".to_owned(),
            };
        }
        if let Err(error) = child.go().await {
            return format!("{} {error}", error.exit_code());
        }
        if let Ok(signal) = std::env::var("RAISE") {
            nix::sys::signal::raise(signal.parse().expect("a signal's name")).expect("a signal");
        }
        let began = boot_nanos();
        let code = child.supervise().await.expect("no failure");
        assert!(boot_nanos() - began < 15_000_000_000, "the command ends soon");
        code.to_string()
    })
}
