//! What a running tunnel has given up, as seen from outside, and that it lives its life without it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wg4netns::key::PrivateKey;
use wg4netns::sys::pidfd::PidFd;
use wg4netns::sys::sandbox;
use wg4netns::sys::seccomp::{self, Role};

use super::sandbox::{Namespace, wait_for};

/// Where `demo --peer` is inside the tunnel, and its port that discards.
const PEER: &str = "10.77.0.1";
const SINK: &str = "TCP:10.77.0.1:5301";

#[test]
fn every_thread_and_helper_of_a_tunnel_is_confined() {
    let tunnel = Tunnel::start(&["-p127.0.0.1::80"]);
    let helpers = children(tunnel.pid());
    assert_eq!(helpers.len(), 3, "broker, factory, forwarder");
    let mut names = Vec::new();
    for process in helpers.into_iter().chain([tunnel.pid()]) {
        for thread in threads(process) {
            let read = || fs::read_to_string(thread.join("status")).expect("the thread lives");
            // Each installs its own filter, and may not have been given the processor yet.
            wait_for("the thread's filter", || read().contains("Seccomp:\t2"));
            let status = read();
            for line in
                ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"]
            {
                assert!(status.contains(line), "no {line:?} in {status}");
            }
            names.push(fs::read_to_string(thread.join("comm")).expect("the thread lives"));
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
fn a_path_that_was_exchanged_after_lock_down_is_not_followed() {
    // The pid file is the one path that a tunnel opens in the end. Exchange its directory under it: a process that
    // may open and remove any file falls for that.
    for (policy, follows) in [("require", false), ("off", true)] {
        let scratch = tempfile::tempdir().expect("a directory");
        let (first, aside) = (scratch.path().join("a"), scratch.path().join("b"));
        fs::create_dir(&first).expect("a directory");
        let pidfile = first.join("pid");
        let policy = format!("--sandbox={policy}");
        let pidfile_flag = format!("--pidfile={}", pidfile.display());
        let tunnel = Tunnel::start(&[&policy, &pidfile_flag]);
        fs::rename(&first, &aside).expect("renamed");
        fs::create_dir(&first).expect("a directory");
        // The same file, so that it is the way there that decides.
        fs::hard_link(aside.join("pid"), &pidfile).expect("linked");
        tunnel.stop();
        assert_eq!(!pidfile.exists(), follows, "{policy}");
    }
}

#[test]
fn the_pid_file_is_removed_from_within_the_sandbox() {
    let scratch = tempfile::tempdir().expect("a directory");
    let pidfile = scratch.path().join("pid");
    let tunnel = Tunnel::start(&[&format!("--pidfile={}", pidfile.display())]);
    assert!(pidfile.exists());
    tunnel.stop();
    assert!(!pidfile.exists());
}

#[test]
fn files_addresses_and_forbidden_calls_are_out_of_reach_of_a_locked_process() {
    let scratch = tempfile::tempdir().expect("a directory");
    fs::write(scratch.path().join("own.sock"), "").expect("a file");
    fs::create_dir(scratch.path().join("run")).expect("a directory");
    fs::write(scratch.path().join("run/own.sock"), "").expect("a file");
    for (step, ending) in [("files", "files: ok"), ("unshare", "signal: 31")] {
        let output = Command::new(std::env::current_exe().expect("a running program has a file"))
            .args(["--exact", "netns::lock_down::as_a_locked_process", "--nocapture"])
            .env("LOCKED_STEP", step)
            .env("LOCKED_DIRECTORY", scratch.path())
            .output()
            .expect("this program");
        let told = format!("{}{}", said(&output), output.status);
        assert!(told.contains(ending), "{step}: {told}");
    }
}

/// A process of its own, which locks itself down and then tries what it must not; nothing unless told where.
#[test]
fn as_a_locked_process() {
    let Some(directory) = std::env::var_os("LOCKED_DIRECTORY").map(PathBuf::from) else { return };
    let role = sandbox::Role::Tunnel {
        socket_directory: directory.join("run"),
        keep_net_admin: false,
        pidfile: None,
    };
    let reached = sandbox::lock_down(&role, sandbox::Policy::Require).expect("every layer");
    assert_eq!(reached.on.len(), 5);
    if std::env::var("LOCKED_STEP").is_ok_and(|step| step == "unshare") {
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

#[test]
fn the_private_key_is_in_memory_once_as_bytes_and_nowhere_as_text() {
    let mut tunnel = Tunnel::start(&["-vv"]);
    tunnel.live();
    let (text, bytes) = tunnel.private_key();
    let hex = hex(&bytes);
    let log = tunnel.log();
    for secret in [&text, &hex] {
        assert!(!log.contains(secret.as_str()), "the log holds the private key");
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped the search through memory: only root can read it");
        return;
    }
    for process in [tunnel.pid(), tunnel.broker()] {
        let memory = memory(process);
        let found =
            |needle: &[u8]| -> usize { memory.iter().map(|part| occurrences(&part.bytes, needle)).sum() };
        // One copy is the device's: every handshake needs it. What the AEAD has of it is nothing: it works with the keys
        // of sessions, which it keeps expanded, in the same kind of memory.
        let wanted = usize::from(process == tunnel.pid());
        assert_eq!(
            (found(&bytes), found(text.as_bytes()), found(hex.as_bytes())),
            (wanted, 0, 0),
            "copies as bytes, as base64, as hex"
        );
        for part in memory.iter().filter(|part| occurrences(&part.bytes, &bytes) != 0) {
            for flag in ["lo", "dd", "wf"] {
                assert!(part.flags.split_whitespace().any(|one| one == flag), "not {flag}: {}", part.flags);
            }
        }
    }
}

#[test]
fn where_nothing_can_be_locked_into_memory_a_tunnel_says_so_and_runs() {
    if nix::unistd::geteuid().is_root() {
        println!("skipped: the limit does not hold for root");
        return;
    }
    let mut tunnel = Tunnel::start_by(&["prlimit", "--memlock=0"], &[]);
    tunnel.live();
    let said = "keys are not locked into memory and may be swapped out";
    assert_eq!(occurrences(tunnel.log().as_bytes(), said.as_bytes()), 1, "{}", tunnel.log());
}

/// A tunnel between a namespace and `demo --peer`, all on loopback.
struct Tunnel {
    directory: tempfile::TempDir,
    namespace: Namespace,
    peer: Child,
    process: Child,
}

impl Tunnel {
    fn start(flags: &[&str]) -> Self {
        Self::start_by(&[], flags)
    }

    /// `before` is put before our own command line.
    fn start_by(before: &[&str], flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let own = env!("CARGO_BIN_EXE_wg4netns");
        let config = directory.path().join("peer.conf");
        let peer = Command::new(own)
            .args(["demo", "--peer", "--config-out"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&directory.path().join("peer.log")))
            .spawn()
            .expect("our own program");
        wait_for("the peer's configuration", || {
            fs::read_to_string(&config).is_ok_and(|text| text.contains("Endpoint"))
        });
        // A name, so that there is a broker.
        let text =
            fs::read_to_string(&config).expect("the configuration").replace("127.0.0.1:", "localhost:");
        fs::write(&config, text).expect("the configuration");
        let namespace = Namespace::new();
        let words: Vec<&str> = before.iter().copied().chain([own]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["attach", "--netns-pid", &namespace.pid().to_string(), "--name", "t1"])
            .arg("--config")
            .arg(&config)
            .arg("--uapi-dir")
            .arg(directory.path().join("uapi"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&directory.path().join("log")));
        if !flags.iter().any(|flag| flag.starts_with("--sandbox")) {
            command.arg("--sandbox=require");
        }
        let process = command.args(flags).spawn().expect("a program");
        let mut tunnel = Self { directory, namespace, peer, process };
        wait_for("the tunnel is ready", || {
            assert!(matches!(tunnel.process.try_wait(), Ok(None)), "it ended: {}", tunnel.log());
            tunnel.log().contains("ready")
        });
        tunnel
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn broker(&self) -> u32 {
        helper_of(self.pid(), "__broker")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn ask(&self, words: &[&str]) -> Output {
        let directory = self.directory.path().join("uapi");
        Command::new(env!("CARGO_BIN_EXE_wg4netns"))
            .arg(words[0])
            .arg("--uapi-dir")
            .arg(directory)
            .args(&words[1..])
            .output()
            .expect("our own program")
    }

    fn status(&self) -> String {
        said(&self.ask(&["status", "t1"]))
    }

    /// Handshake, small packets, bulk both ways, a new port, a scope, a new MTU, down and up.
    fn live(&mut self) {
        let ping = ["ping", "-c2", "-i0.2", "-W5", PEER];
        self.namespace.run(&ping);
        let bulk = format!("head -c 5000000 /dev/zero | timeout 30 socat -t5 - {SINK}");
        assert_eq!(self.namespace.run(&["sh", "-c", &bulk]), "5000000\n");
        let back = "timeout 30 socat -u TCP:10.77.0.1:5302 - 2>/dev/null | head -c 5000000 | wc -c";
        assert_eq!(self.namespace.run(&["sh", "-c", back]), "5000000\n");
        let port = UdpSocket::bind("[::]:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let changed = self.ask(&["set", "t1", "listen-port", &port.to_string()]);
        assert!(changed.status.success(), "{}", said(&changed));
        let shown = said(&self.ask(&["show", "t1"]));
        assert!(shown.contains(&format!("listening port: {port}")), "{shown}");
        self.namespace.run(&ping);
        assert_eq!(self.set("public_key={key}\nendpoint=[fe80::1%lo]:9\n"), "errno=0\n\n");
        assert!(said(&self.ask(&["show", "t1"])).contains("[fe80::1%1]:9"));
        assert_eq!(self.set("public_key={key}\nendpoint={endpoint}\n"), "errno=0\n\n");
        self.namespace.run(&ping);
        self.namespace.run(&["ip", "link", "set", "wg0", "mtu", "1300"]);
        wait_for("the MTU is followed", || self.status().contains("mtu 1300"));
        self.namespace.run(&["ip", "link", "set", "wg0", "down"]);
        self.namespace.run(&["ip", "link", "set", "wg0", "up"]);
        let alive = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        assert!(alive.contains("Threads:"));
    }

    /// What comes to forwarded ports: connections and datagrams from either side, some to nobody, and a question.
    fn live_with_ports(&self, reached: &TcpListener) {
        let mut servers = Vec::new();
        // One process a datagram, so that none is left.
        for kind in ["TCP4-LISTEN", "UDP4-RECVFROM"] {
            let listen = format!("{kind}:{},fork", Forwarded::ECHO);
            servers.push(Guarded(
                self.namespace
                    .enter()
                    .args(["socat", &listen, "EXEC:cat"])
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("socat(1)"),
            ));
        }
        wait_for("the servers inside", || {
            let listening = self.namespace.run(&["ss", "-Hltun", &format!("sport = {}", Forwarded::ECHO)]);
            listening.lines().count() == 2
        });
        for host in ["127.0.0.1", "[::1]"] {
            let mut tcp =
                TcpStream::connect((host.trim_matches(['[', ']']), Forwarded::ECHO)).expect("published");
            tcp.write_all(&[7; 100_000]).expect("it reads");
            tcp.shutdown(Shutdown::Write).expect("a socket");
            let mut back = Vec::new();
            tcp.read_to_end(&mut back).expect("it answers");
            assert_eq!(back.len(), 100_000);
            let udp = UdpSocket::bind((host.trim_matches(['[', ']']), 0)).expect("a port");
            udp.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a socket");
            udp.send_to(b"datagram", (host.trim_matches(['[', ']']), Forwarded::ECHO)).expect("it is sent");
            assert_eq!(udp.recv(&mut [0; 100]).expect("it is answered"), 8);
        }
        // Nobody listens there.
        if let Ok(mut nobody) = TcpStream::connect(("127.0.0.1", Forwarded::NOBODY)) {
            assert_eq!(nobody.read(&mut [0]).unwrap_or_default(), 0);
        }
        let port = reached.local_addr().expect("bound").port();
        let connect = format!("TCP4:127.0.0.1:{port}");
        let mut client = Guarded(
            self.namespace
                .enter()
                .args(["socat", "-u", &connect, "-"])
                .stdout(Stdio::null())
                .spawn()
                .expect("socat(1)"),
        );
        reached.accept().expect("reached").0.write_all(b"from the host").expect("it reads");
        assert!(client.0.wait().expect("it ends").success());
        // What the peer says does not matter here, but that it is asked.
        let question = r"\001\002\001\000\000\001\000\000\000\000\000\000\001x\000\000\001\000\001";
        let ask = format!("printf '{question}' | timeout 10 socat -t3 - UDP4:10.0.2.3:53 | wc -c");
        let answer: usize = self.namespace.run(&["sh", "-c", &ask]).trim().parse().expect("a number");
        assert!(answer >= 19, "{answer} bytes");
        let shown = said(&self.ask(&["status", "t1", "--json"]));
        assert!(shown.contains("\"kind\": \"reach\""), "{shown}");
    }

    /// One `set` request over the socket; `{key}` and `{endpoint}` are the peer's.
    fn set(&self, lines: &str) -> String {
        let config = fs::read_to_string(self.directory.path().join("peer.conf")).expect("the configuration");
        let key = wg4netns::key::PublicKey::parse_base64(value(&config, "PublicKey")).expect("a key");
        let endpoint = value(&config, "Endpoint").replace("localhost", "127.0.0.1");
        let lines = lines.replace("{key}", &hex(key.as_bytes())).replace("{endpoint}", &endpoint);
        let mut socket =
            UnixStream::connect(self.directory.path().join("uapi/t1.sock")).expect("the tunnel listens");
        socket.write_all(format!("set=1\n{lines}\n").as_bytes()).expect("it reads");
        socket.shutdown(Shutdown::Write).expect("a socket");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Asks it to end, and waits for a clean end.
    fn stop(&self) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        let pidfd = PidFd::open(self.pid()).expect("it lives");
        kill(pid, Signal::SIGTERM).expect("it lives");
        let ended = pidfd.wait_for_end(Some(std::time::Duration::from_secs(10))).expect("a pidfd");
        assert!(ended, "{}", self.log());
        assert!(self.log().contains("ending"), "{}", self.log());
        let left = fs::read_dir(self.directory.path().join("uapi")).expect("the directory").count();
        assert_eq!(left, 0, "socket and lock are gone");
    }

    fn private_key(&self) -> (String, Vec<u8>) {
        let config = fs::read_to_string(self.directory.path().join("peer.conf")).expect("the configuration");
        let text = value(&config, "PrivateKey").to_owned();
        let key = PrivateKey::parse_base64(&text).expect("a key");
        (text, key.as_bytes().to_vec())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for process in [&mut self.process, &mut self.peer] {
            let _ended_already = process.kill();
            let _reaped_already = process.wait();
        }
    }
}

/// The forwarded ports of a tunnel.
struct Forwarded;

impl Forwarded {
    /// Published for both protocols.
    const ECHO: u16 = 35_807;
    /// Published, with nobody there.
    const NOBODY: u16 = 35_808;

    fn flags(reached: &TcpListener) -> [String; 4] {
        let (echo, nobody) = (Self::ECHO, Self::NOBODY);
        [
            format!("-p{echo}:{echo}/tcp,udp"),
            format!("-p{nobody}:{nobody}"),
            format!("--reach={}/tcp,udp", reached.local_addr().expect("bound")),
            "--dns-forward=10.0.2.3".to_owned(),
        ]
    }
}

/// Ended at the latest with the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

/// A mapping of a process that may hold secrets.
struct Memory {
    bytes: Vec<u8>,
    /// What the kernel does with it, in two letters each.
    flags: String,
}

/// All memory of a process that can be written, and read by root.
fn memory(process: u32) -> Vec<Memory> {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).expect("we are root");
    let memory = fs::File::open(format!("/proc/{process}/mem")).expect("we are root");
    let mut image: Vec<Memory> = Vec::new();
    let mut current = None;
    let end = |text| u64::from_str_radix(text, 16).ok();
    for line in maps.lines() {
        let (first, rest) = line.split_once(' ').expect("several words");
        if let Some((Some(from), Some(to))) = first.split_once('-').map(|(from, to)| (end(from), end(to))) {
            let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
            let read = rest.starts_with("rw") && memory.read_exact_at(&mut bytes, from).is_ok();
            current = read.then_some(bytes);
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            image.extend(current.take().map(|bytes| Memory { bytes, flags: flags.to_owned() }));
        }
    }
    let size: usize = image.iter().map(|part| part.bytes.len()).sum();
    assert!(size > 1 << 18, "{size} bytes of memory");
    image
}

/// A process of our own user that hides nothing.
struct Bystander(Child);

impl Bystander {
    fn start() -> Self {
        Self(plain_user().args(["-c", "exec sleep 600"]).stdin(Stdio::null()).spawn().expect("sh(1)"))
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

fn occurrences(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn value<'a>(config: &'a str, key: &str) -> &'a str {
    let line = config.lines().find(|line| line.starts_with(key)).expect("the key is set");
    line.split_once('=').expect("an assignment").1.trim()
}

fn threads(process: u32) -> Vec<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
    threads.map(|entry| entry.expect("it lives").path()).collect()
}

fn children(process: u32) -> Vec<u32> {
    let read = |thread: PathBuf| fs::read_to_string(thread.join("children")).expect("it lives");
    let all: String = threads(process).into_iter().map(read).collect();
    all.split_ascii_whitespace().map(|number| number.parse().expect("a pid")).collect()
}

/// The one that was started with this argument.
fn helper_of(process: u32, argument: &str) -> u32 {
    let is_it = |child: &u32| {
        let words = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        words.split('\0').nth(1) == Some(argument)
    };
    children(process).into_iter().find(is_it).unwrap_or_else(|| panic!("no {argument}"))
}

fn log_file(path: &Path) -> fs::File {
    fs::File::create(path).expect("a file")
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
