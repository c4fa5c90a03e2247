//! The system calls that a tunnel makes, beside those that its filters let through.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wg4netns::driver::broker::Broker;
use wg4netns::driver::endpoint_names::Lookup;
use wg4netns::driver::namespace_child::Helper;
use wg4netns::sys::sandbox::Policy;
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
        (helper_of(own, "__socket-factory"), Role::FactoryBegin),
        (helper_of(own, "__socket-factory"), Role::Factory),
        (helper_of(own, "__forwarder"), Role::Forwarder),
        (helper_of(own, "__remover"), Role::Remover),
    ];
    for thread in threads(own) {
        let number =
            thread.file_name().and_then(|name| name.to_str()).expect("a number").parse().expect("a number");
        match fs::read_to_string(thread.join("comm")).unwrap_or_default().as_str() {
            "tx\n" => roles.push((number, Role::Transmit)),
            "rx\n" => roles.push((number, Role::Receive)),
            _ => {}
        }
    }
    kill(Pid::from_raw(own.cast_signed()), Signal::SIGTERM).expect("it lives");
    wait_for("the tunnel's end", || matches!(tunnel.process.try_wait(), Ok(Some(_))));
    let trace = fs::read_to_string(trace).expect("the trace");
    // It has ended long ago.
    let started =
        trace.lines().find(|line| line.contains("execve(") && line.contains("\"__namespace-child\""));
    let started = started.and_then(|line| line.split_ascii_whitespace().next()).expect("a link maker");
    roles.push((started.parse().expect("a pid"), Role::LinkMaker));
    for (thread, role) in roles {
        compare(&trace, thread, role);
    }
}

/// What a thread was refused has a reason, and what it never used, too.
fn compare(trace: &str, thread: u32, role: Role) {
    // The factory installs two, and two more.
    let filters = if role == Role::Factory { 4 } else { 2 };
    let (used, refused) = calls_under_filters(trace, thread, filters);
    let surplus: Vec<_> = refused.iter().filter(|call| !probes(role).contains(&call.as_str())).collect();
    assert!(surplus.is_empty(), "{role:?} is refused what it may need: {surplus:?}");
    let allowed = seccomp::allowed(role);
    assert!(used.iter().all(|call| allowed.contains(&call.as_str())), "{role:?} has no filter: {used:?}");
    let unused: Vec<_> =
        allowed.iter().filter(|call| !used.iter().any(|used| used == *call)).copied().collect();
    // What was not seen needs a reason.
    let unexplained: Vec<_> = unused.iter().filter(|call| !spare(role).contains(call)).collect();
    assert!(allowed.len() <= 45 && unexplained.is_empty(), "{role:?} has never used {unexplained:?}");
}

/// Calls that a C library tries and does without.
fn probes(role: Role) -> &'static [&'static str] {
    match role {
        // Threads are started by the older call then.
        Role::Broker => &["clone3"],
        // At the end: a helper is killed where it cannot be waited for, the signal stack is left to the kernel.
        Role::Control => &["pidfd_open", "sigaltstack"],
        Role::Transmit
        | Role::Receive
        | Role::LinkMaker
        | Role::FactoryBegin
        | Role::Factory
        | Role::Forwarder
        | Role::Remover => &[],
    }
}

#[test]
fn the_broker_resolves_by_files_datagrams_and_connections_with_the_calls_that_takes() {
    for program in ["strace", "perl"] {
        if !is_there(program) {
            assert!(!super::is_required(program), "{program}(1) is required here");
            println!("skipped: {program}(1) is not installed");
            return;
        }
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let file = |name: &str| scratch.path().join(name);
    fs::create_dir(file("etc")).expect("a directory");
    fs::write(file("etc/nsswitch.conf"), "hosts: files dns\n").expect("a file");
    fs::write(file("etc/resolv.conf"), "nameserver 127.0.0.1\n").expect("a file");
    fs::write(file("etc/hosts"), "192.0.2.1 file.test\n").expect("a file");
    fs::write(file("server"), NAME_SERVER).expect("a script");
    let inside = format!(
        "ip link set lo up && mount --bind $0/etc /etc && (perl $0/server $0/up &) && \
         until [ -e $0/up ]; do :; done && exec strace -f -qq -o $0/trace {} \"$@\"",
        env!("CARGO_BIN_EXE_wg4netns")
    );
    let text = format!(
        "#!/bin/sh\nexec unshare -Urnm --fork sh -c '{inside}' {} \"$@\"\n",
        scratch.path().display()
    );
    fs::write(file("broker"), text).expect("a script");
    fs::set_permissions(file("broker"), fs::Permissions::from_mode(0o700)).expect("our file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let helper = Helper::at(file("broker")).under(Policy::Require);
        let resolver = Broker::spawn(&helper).and_then(Broker::into_resolver).expect("a broker");
        for (id, (host, address)) in
            [("file.test", "192.0.2.1"), ("udp.test", "192.0.2.2"), ("tcp.test", "192.0.2.3")]
                .iter()
                .enumerate()
        {
            resolver.ask(&Lookup { id: id as u64, host: (*host).to_owned(), port: 1 }).expect("it lives");
            let answer = tokio::time::timeout(std::time::Duration::from_secs(30), resolver.answer());
            let answer = answer.await.expect("no network is asked").expect("it lives").result;
            let found = answer.unwrap_or_else(|reason| panic!("{host}: {reason}"));
            assert_eq!(found[0].address, format!("{address}:1").parse().expect("an address"));
        }
    });
    // The tracer is not killed with its parent: it sees the broker end.
    let read = || fs::read_to_string(file("trace")).unwrap_or_default();
    let first = || read().split_ascii_whitespace().next().map(str::to_owned);
    wait_for("the end of the trace", || {
        first().is_some_and(|first| {
            read().lines().any(|line| line.starts_with(&first) && line.contains("exit_group"))
        })
    });
    let first = first().and_then(|first| first.parse().ok()).expect("a pid");
    let trace = read();
    compare(&trace, first, Role::Broker);
}

/// Answers questions on loopback: what `tcp.test` is it says by TCP only. Ends by itself.
const NAME_SERVER: &str = r#"
use strict; use warnings; use Socket;
alarm 30;
socket(my $udp, PF_INET, SOCK_DGRAM, 17); bind($udp, sockaddr_in(53, INADDR_LOOPBACK)) or die;
socket(my $tcp, PF_INET, SOCK_STREAM, 6); bind($tcp, sockaddr_in(53, INADDR_LOOPBACK)) or die; listen($tcp, 5);
sub answer { my ($query, $by_tcp) = @_;
  my ($name) = substr($query, 12) =~ /^(.*?\0)/s; my $question = substr($query, 12, length($name) + 4);
  my $cut = !$by_tcp && $name =~ /tcp/; my $a = unpack("n", substr($question, -4, 2)) == 1 && !$cut;
  return substr($query, 0, 2) . pack("nnnnn", $cut ? 0x8380 : 0x8180, 1, $a ? 1 : 0, 0, 0) . $question
    . ($a ? pack("nnnNnC4", 0xc00c, 1, 1, 1, 4, 192, 0, 2, $by_tcp ? 3 : 2) : ""); }
open my $up, ">", $ARGV[0]; close $up;
while (1) {
  my $bits = ""; vec($bits, fileno($udp), 1) = 1; vec($bits, fileno($tcp), 1) = 1;
  select($bits, undef, undef, undef);
  if (vec($bits, fileno($udp), 1)) { my $from = recv($udp, my $query, 512, 0); send($udp, answer($query, 0), 0, $from); }
  if (vec($bits, fileno($tcp), 1)) {
    accept(my $one, $tcp);
    while (sysread($one, my $len, 2) == 2) {
      sysread($one, my $query, unpack("n", $len)); my $said = answer($query, 1); syswrite($one, pack("n", length $said) . $said);
    }
  }
}
"#;

/// Calls that a role has though this life may pass without them.
fn spare(role: Role) -> Vec<&'static str> {
    // Memory grows and shrinks when it must, time is read without a call where it can be, a call is restarted after a
    // stop, a panic ends the process, an error is logged, the last who holds a socket closes it, many datagrams leave by
    // one call where each is to go alone.
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
        "sendmmsg",
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
        // `readv`: on an older kernel (integration/201-calls.sh plays one).
        Role::Transmit | Role::Receive => {
            &["ftruncate", "getpid", "mprotect", "mremap", "poll", "ppoll", "readv", "writev"]
        }
        // The far end of a veth pair, a long answer (integration/201-calls.sh has both).
        Role::LinkMaker => &["exit", "getpid", "lseek", "memfd_create", "mremap", "setns", "unshare"],
        // What its filter is replaced by is not counted.
        Role::FactoryBegin => &["exit", "getpid", "mremap", "seccomp"],
        // Both end with their parent, who kills them.
        Role::Factory => &["exit", "getpid", "mremap", "poll", "ppoll"],
        Role::Remover => &["exit", "getpid", "mremap"],
        // Ports that are published later.
        Role::Forwarder => &["exit", "bind", "getpid", "getsockname", "listen", "mremap", "poll", "ppoll"],
        // Several addresses are put in order; another kind of resolver is a library, to be loaded; older C libraries. A new
        // thread's first calls can stand in the trace before the call that started it, and then nobody knows whose they are.
        Role::Broker => &["getsockname", "pread64", "fstat", "rseq", "set_robust_list"],
    });
    spare
}

/// The names of the system calls that a thread made under so many filters, and no more, and of those that it was refused;
/// also those of threads it then started.
fn calls_under_filters(trace: &str, thread: u32, wanted: u32) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut followed = vec![thread.to_string()];
    let mut filters = 0;
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in trace.lines() {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        if !followed.iter().any(|one| one == number) {
            continue;
        }
        let rest = rest.trim_start();
        // One line or two: only the beginning counts.
        filters += u32::from(rest.starts_with("seccomp(SECCOMP_SET_MODE_FILTER"));
        if filters != wanted {
            continue;
        }
        let resumed =
            rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed")).map(|(name, _)| name);
        let begun = rest.split_once('(').map(|(name, _)| name);
        let Some(name) = resumed.or(begun) else { continue };
        let is_call = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_call || name == "seccomp" || rest.ends_with("<unfinished ...>") {
            continue;
        }
        if rest.contains("= -1 ENOSYS") {
            refused.insert(name.to_owned());
            continue;
        }
        if let ("clone", Some((_, started))) = (name, rest.rsplit_once("= ")) {
            followed.push(started.to_owned());
        }
        used.insert(name.to_owned());
    }
    assert!(filters == wanted || filters == 4, "thread {thread} has {filters} filters instead of {wanted}");
    (used, refused)
}
