//! What a running tunnel has given up, as seen from outside, and that it lives its life without it.

use std::fs;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wg4netns::sys::pidfd::PidFd;

use super::locked_tunnel::{Tunnel, children, is_there, said, threads};
use super::sandbox::wait_for;

#[test]
fn every_thread_and_helper_of_a_tunnel_is_confined() {
    let scratch = tempfile::tempdir().expect("a directory");
    let pidfile = format!("--pidfile={}", scratch.path().join("pid").display());
    let tunnel = Tunnel::start(&["-p127.0.0.1::80", &pidfile]);
    let helpers = children(tunnel.pid());
    assert_eq!(helpers.len(), 4, "broker, factory, forwarder, remover");
    let mut names = Vec::new();
    for process in helpers.into_iter().chain([tunnel.pid()]) {
        for thread in threads(process) {
            // Each installs its own filter, and may not have been given the processor yet. One that resolved a name
            // may end meanwhile.
            let status = || fs::read_to_string(thread.join("status")).ok();
            wait_for("the thread's filter", || status().is_none_or(|status| status.contains("Seccomp:\t2")));
            let (Some(status), Ok(name)) = (status(), fs::read_to_string(thread.join("comm"))) else {
                continue;
            };
            let mut wanted = vec!["NoNewPrivs:\t1".to_owned(), "Seccomp:\t2".to_owned()];
            // Only root can give up what it might be given.
            let bounding = nix::unistd::geteuid().is_root().then_some("Bnd");
            let sets = ["Inh", "Prm", "Eff", "Amb"].into_iter().chain(bounding);
            wanted.extend(sets.map(|set| format!("Cap{set}:\t0000000000000000")));
            for line in wanted {
                assert!(status.contains(&line), "no {line:?} in {status}");
            }
            names.push(name);
        }
    }
    for name in ["tx\n", "rx\n"] {
        assert!(names.iter().any(|one| one == name), "no {name:?} in {names:?}");
    }
    let said = tunnel.status();
    assert!(
        said.contains("sandbox: undumpable, no-new-privileges, capabilities, landlock, seccomp"),
        "{said}"
    );
}

#[test]
fn nobody_of_the_same_user_can_look_into_a_tunnel() {
    let tunnel = Tunnel::start(&["-p127.0.0.1::80"]);
    let dumpable = Bystander::start();
    let looks =
        ["cat /proc/$1/environ", "head -c1 /proc/$1/mem >&- || exec 3</proc/$1/mem", "ls -l /proc/$1/fd/0"];
    for look in looks {
        let allowed = without_capabilities(look, dumpable.pid());
        assert!(allowed.status.success(), "{look}: {}", said(&allowed));
        for process in children(tunnel.pid()).into_iter().chain([tunnel.pid()]) {
            let refused = without_capabilities(look, process);
            assert!(!refused.status.success(), "{look}: {}", said(&refused));
            assert!(said(&refused).contains("ermission denied"), "{look}: {}", said(&refused));
        }
    }
    if !is_there("strace") {
        println!("skipped the attempt to trace: strace(1) is not installed");
        return;
    }
    let trace = "timeout 2 strace -qq -o /dev/null -p $1";
    let allowed = without_capabilities(trace, dumpable.pid());
    assert_eq!(allowed.status.code(), Some(124), "{}", said(&allowed));
    for process in children(tunnel.pid()).into_iter().chain([tunnel.pid()]) {
        let refused = without_capabilities(trace, process);
        assert!(said(&refused).contains("Operation not permitted"), "{}", said(&refused));
    }
}

#[test]
fn a_layer_that_is_taken_away_is_named_once_and_required_in_vain() {
    if !is_there("strace") {
        assert!(!super::is_required("strace"), "taking layers away was to be tested and cannot be");
        println!("skipped: strace(1) is not installed");
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let pidfile = format!("--pidfile={}", scratch.path().join("pid").display());
    // From every process: it is one line all the same.
    for (call, layer) in [("landlock_create_ruleset", "landlock"), ("seccomp", "seccomp")] {
        let inject = format!("inject={call}:error=ENOSYS");
        let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        let mut tunnel = Tunnel::start_by(&before, &["--sandbox=auto", "-p127.0.0.1::80", &pidfile]);
        let log = tunnel.log();
        let named = format!("no {layer} layer: ");
        assert_eq!(log.matches(&named).count(), 1, "{call}: {log}");
        tunnel.live();
        drop(tunnel);
        let (ended, log) = Tunnel::start_in_vain(&before, &["--sandbox=require", "-p127.0.0.1::80"]);
        assert_eq!(ended, Some(5), "{call}: {log}");
        assert!(log.contains(&named) && !log.contains("ready"), "{call}: {log}");
    }
}

#[test]
fn without_a_sandbox_no_process_has_landlock_or_a_filter() {
    let scratch = tempfile::tempdir().expect("a directory");
    let pidfile = format!("--pidfile={}", scratch.path().join("pid").display());
    let tunnel = Tunnel::start(&["--sandbox=off", "-p127.0.0.1::80", &pidfile]);
    let helpers = children(tunnel.pid());
    assert_eq!(helpers.len(), 4, "broker, factory, forwarder, remover");
    for process in helpers.into_iter().chain([tunnel.pid()]) {
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
        assert!(status.contains("Seccomp:\t0"), "{status}");
        assert!(
            status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"),
            "{status}"
        );
    }
    let said = tunnel.status();
    assert!(said.contains("sandbox: undumpable, no-new-privileges, capabilities\n"), "{said}");
}

#[test]
fn the_pid_file_is_removed_from_within_the_sandbox() {
    let scratch = tempfile::tempdir().expect("a directory");
    let pidfile = scratch.path().join("pid");
    let tunnel = Tunnel::start(&[&format!("--pidfile={}", pidfile.display())]);
    assert!(pidfile.exists());
    tunnel.stop();
    assert!(!pidfile.exists());
    // Nor does it stay behind a tunnel that could not remove anything any more.
    let tunnel = Tunnel::start(&[&format!("--pidfile={}", pidfile.display())]);
    kill(Pid::from_raw(tunnel.pid().cast_signed()), Signal::SIGKILL).expect("it lives");
    wait_for("the pid file's end", || !pidfile.exists());
}

#[test]
fn every_helper_dies_with_a_tunnel_that_is_killed() {
    let tunnel = Tunnel::start(&["-p127.0.0.1::80"]);
    let helpers = children(tunnel.pid());
    assert_eq!(helpers.len(), 3, "broker, factory, forwarder");
    kill(Pid::from_raw(i32::try_from(tunnel.pid()).expect("a pid")), Signal::SIGKILL).expect("it lives");
    wait_for("the helpers' end", || helpers.iter().all(|helper| PidFd::open(*helper).is_err()));
    wait_for("the interface's end", || !tunnel.namespace.run(&["ip", "-br", "link"]).contains("wg0"));
}

#[test]
fn a_confined_tunnel_lives_its_whole_life() {
    let mut tunnel = Tunnel::start(&["-v"]);
    tunnel.live();
    tunnel.stop();
    let log = tunnel.log();
    assert!(!log.contains("annot"), "{log}");
}

/// A process of our own user that hides nothing.
struct Bystander(Child);

impl Bystander {
    fn start() -> Self {
        let child = plain_user().args(["-c", "exec sleep 600"]).stdin(Stdio::null()).spawn().expect("sh(1)");
        let bystander = Self(child);
        // Before its last exec it may still have capabilities, and then nobody without them may look.
        let comm = format!("/proc/{}/comm", bystander.pid());
        wait_for("the bystander", || fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n"));
        bystander
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

/// Runs a script with a pid as `$1`, as our user but without the capabilities that root has.
fn without_capabilities(script: &str, pid: u32) -> Output {
    plain_user().env("LC_ALL", "C").args(["-c", script, "sh", &pid.to_string()]).output().expect("sh(1)")
}

/// A shell of our user without the capabilities that root has.
fn plain_user() -> Command {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "sh"]);
        command
    } else {
        Command::new("sh")
    }
}
