//! The system calls that a tunnel makes, beside those that its filters let through.

use std::fs;
use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wg4netns::sys::seccomp::{self, Role};

use super::locked_tunnel::{Forwarded, Tunnel, helper_of, is_there, threads};
use super::sandbox::wait_for;

#[test]
fn a_running_tunnel_uses_no_more_calls_than_it_has_and_has_hardly_more_than_it_uses() {
    if !is_there("strace") {
        assert!(!super::is_required("strace"), "tracing was to be tested and cannot be");
        println!("skipped: strace(1) is not installed");
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let trace = scratch.path().join("trace");
    let pidfile = format!("--pidfile={}", scratch.path().join("pid").display());
    let reached = TcpListener::bind("127.0.0.1:0").expect("a port");
    let flags = Forwarded::flags(&reached);
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.push(&pidfile);
    let mut tunnel = Tunnel::start_by(&["strace", "-f", "-qq", "-o", trace.to_str().expect("text")], &flags);
    tunnel.live();
    tunnel.live_with_ports(&reached);
    let own: u32 =
        fs::read_to_string(scratch.path().join("pid")).expect("the file").trim().parse().expect("a pid");
    let mut roles = vec![
        (own, Role::Control),
        (helper_of(own, "__broker"), Role::Broker),
        (helper_of(own, "__namespace-child"), Role::Factory),
        (helper_of(own, "__forwarder"), Role::Forwarder),
        (helper_of(own, "__remover"), Role::Remover),
    ];
    for thread in threads(own) {
        let number =
            thread.file_name().and_then(|name| name.to_str()).expect("a number").parse().expect("a number");
        match fs::read_to_string(thread.join("comm")).expect("the thread lives").as_str() {
            "tx\n" => roles.push((number, Role::Transmit)),
            "rx\n" => roles.push((number, Role::Receive)),
            _ => {}
        }
    }
    kill(Pid::from_raw(own.cast_signed()), Signal::SIGTERM).expect("it lives");
    wait_for("the tunnel's end", || matches!(tunnel.process.try_wait(), Ok(Some(_))));
    let trace = fs::read_to_string(trace).expect("the trace");
    for (thread, role) in roles {
        let used = calls_under_filter(&trace, thread);
        let allowed = seccomp::allowed(role);
        let surplus: Vec<_> = used.iter().filter(|call| !allowed.contains(&call.as_str())).collect();
        assert!(surplus.is_empty(), "{role:?} is refused what it needs: {surplus:?}");
        let unused: Vec<_> =
            allowed.iter().filter(|call| !used.iter().any(|used| used == *call)).copied().collect();
        println!("{role:?}: {} of {} calls seen, not {unused:?}", used.len(), allowed.len());
        // What was not seen needs a reason.
        let unexplained: Vec<_> = unused.iter().filter(|call| !spare(role).contains(call)).collect();
        assert!(allowed.len() <= 45 && unexplained.is_empty(), "{role:?} has never used {unexplained:?}");
    }
}

/// Calls that a role has though this life may pass without them.
fn spare(role: Role) -> Vec<&'static str> {
    // Memory grows and shrinks when it must, time is read without a call where it can be, a call is restarted after a
    // stop, a panic ends the process, an error is logged, the last who holds a socket closes it.
    let mut spare = vec![
        "brk",
        "close",
        "clock_gettime",
        "exit_group",
        "futex",
        "getrandom",
        "gettid",
        "madvise",
        "mmap",
        "munmap",
        "recvmsg",
        "restart_syscall",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sendmsg",
        "sendto",
        "sigaltstack",
        "tgkill",
        "tkill",
        "write",
        "fcntl",
    ];
    spare.extend_from_slice(match role {
        // `run`: the command's signals and its end. `--background`: the standard streams are left. A log file that is
        // full, an interface's name in an endpoint.
        Role::Control => {
            &["exit", "dup2", "ftruncate", "getpid", "pidfd_send_signal", "poll", "ppoll", "ioctl", "read"]
        }
        Role::Transmit | Role::Receive => &[
            "ftruncate",
            "getpid",
            "mprotect",
            "mremap",
            "poll",
            "ppoll",
            "sched_getaffinity",
            "shutdown",
            "writev",
        ],
        // Both end with their parent, who kills them.
        Role::Factory => &["exit", "getpid", "mremap", "poll", "ppoll"],
        Role::Remover => &["exit", "getpid", "mremap"],
        // Ports that are published later.
        Role::Forwarder => {
            &["exit", "bind", "getpid", "getsockname", "ioctl", "listen", "mremap", "poll", "ppoll"]
        }
        // Whatever a resolver may need; here it has read /etc/hosts.
        Role::Broker => &[
            "bind",
            "connect",
            "exit",
            "fstat",
            "getsockname",
            "getsockopt",
            "ioctl",
            "lseek",
            "pread64",
            "poll",
            "ppoll",
            "recvfrom",
            "sendmmsg",
            "setsockopt",
            "socket",
            "uname",
            "close",
            "prctl",
            "rseq",
            "readv",
            "stat",
            "rt_sigaction",
            "sched_getaffinity",
            "set_robust_list",
            "newfstatat",
            "mprotect",
            "clone",
            "openat",
            "read",
        ],
    });
    spare
}

/// The names of the system calls that a thread made under its filters, but for those that were refused; also those
/// of threads it then started.
fn calls_under_filter(trace: &str, thread: u32) -> std::collections::BTreeSet<String> {
    let mut followed = vec![thread.to_string()];
    let mut filters = 0;
    let mut used = std::collections::BTreeSet::new();
    for line in trace.lines() {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        if !followed.iter().any(|one| one == number) {
            continue;
        }
        let rest = rest.trim_start();
        if filters < 2 {
            // One line or two: only the beginning counts.
            filters += u32::from(rest.starts_with("seccomp(SECCOMP_SET_MODE_FILTER"));
            continue;
        }
        let resumed =
            rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed")).map(|(name, _)| name);
        let begun = rest.split_once('(').map(|(name, _)| name);
        let Some(name) = resumed.or(begun) else { continue };
        let is_call = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_call || name == "seccomp" || rest.contains("= -1 ENOSYS") || rest.ends_with("<unfinished ...>")
        {
            continue;
        }
        if let ("clone", Some((_, started))) = (name, rest.rsplit_once("= ")) {
            followed.push(started.to_owned());
        }
        used.insert(name.to_owned());
    }
    assert_eq!(filters, 2, "thread {thread} has two filters");
    used
}
