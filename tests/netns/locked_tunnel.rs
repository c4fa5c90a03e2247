//! A tunnel to look at from outside, and what there is to see of a process.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wg4netns::key::PresharedKey;
use wg4netns::sys::pidfd::PidFd;

use super::sandbox::{Namespace, wait_for};

/// Where `demo --peer` is inside the tunnel, and its port that discards.
const PEER: &str = "10.77.0.1";
const SINK: &str = "TCP:10.77.0.1:5301";

/// A tunnel between a namespace and `demo --peer`, all on loopback.
pub(super) struct Tunnel {
    pub(super) directory: tempfile::TempDir,
    pub(super) namespace: Namespace,
    pub(super) peer: Child,
    pub(super) process: Child,
}

impl Tunnel {
    pub(super) fn start(flags: &[&str]) -> Self {
        Self::start_by(&[], flags)
    }

    /// One that does not begin: its status, and what it said.
    pub(super) fn start_in_vain(before: &[&str], flags: &[&str]) -> (Option<i32>, String) {
        let mut tunnel = Self::begin(before, flags);
        wait_for("its end", || matches!(tunnel.process.try_wait(), Ok(Some(_))));
        (tunnel.process.wait().expect("it has ended").code(), tunnel.log())
    }

    /// `before` is put before our own command line.
    pub(super) fn start_by(before: &[&str], flags: &[&str]) -> Self {
        let mut tunnel = Self::begin(before, flags);
        wait_for("the tunnel is ready", || {
            assert!(matches!(tunnel.process.try_wait(), Ok(None)), "it ended: {}", tunnel.log());
            tunnel.log().contains("ready")
        });
        tunnel
    }

    pub(super) fn begin(before: &[&str], flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let own = env!("CARGO_BIN_EXE_wg4netns");
        let config = directory.path().join("peer.conf");
        let peer = Command::new(own)
            .args(["demo", "--peer", "--psk", "--config-out"])
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
        Self { directory, namespace, peer, process }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(super) fn ask(&self, words: &[&str]) -> Output {
        let directory = self.directory.path().join("uapi");
        Command::new(env!("CARGO_BIN_EXE_wg4netns"))
            .arg(words[0])
            .arg("--uapi-dir")
            .arg(directory)
            .args(&words[1..])
            .output()
            .expect("our own program")
    }

    pub(super) fn status(&self) -> String {
        said(&self.ask(&["status", "t1"]))
    }

    /// Handshake, small packets, bulk both ways, a new port, a scope, a new MTU, down and up.
    pub(super) fn live(&mut self) {
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
        assert!(said(&self.ask(&["show", "t1"])).contains("[fe80::1%lo]:9"));
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
    pub(super) fn live_with_ports(&self, reached: &TcpListener) {
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
    pub(super) fn set(&self, lines: &str) -> String {
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
    pub(super) fn stop(&self) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        let pidfd = PidFd::open(self.pid()).expect("it lives");
        kill(pid, Signal::SIGTERM).expect("it lives");
        let ended = pidfd.wait_for_end(Some(std::time::Duration::from_secs(10))).expect("a pidfd");
        assert!(ended, "{}", self.log());
        assert!(self.log().contains("ending"), "{}", self.log());
        let left = fs::read_dir(self.directory.path().join("uapi")).expect("the directory").count();
        assert_eq!(left, 0, "socket and lock are gone");
    }

    /// A key of the configuration: as text, and as bytes.
    pub(super) fn secret(&self, name: &str) -> (String, Vec<u8>) {
        let config = fs::read_to_string(self.directory.path().join("peer.conf")).expect("the configuration");
        let text = value(&config, name).to_owned();
        let key = PresharedKey::parse_base64(&text).expect("a key");
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
pub(super) struct Forwarded;

impl Forwarded {
    /// Published for both protocols.
    pub(super) const ECHO: u16 = 35_807;
    /// Published, with nobody there.
    pub(super) const NOBODY: u16 = 35_808;

    pub(super) fn flags(reached: &TcpListener) -> [String; 4] {
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
pub(super) struct Guarded(pub(super) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

pub(super) fn occurrences(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn value<'a>(config: &'a str, key: &str) -> &'a str {
    let line = config.lines().find(|line| line.starts_with(key)).expect("the key is set");
    line.split_once('=').expect("an assignment").1.trim()
}

pub(super) fn threads(process: u32) -> Vec<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
    threads.map(|entry| entry.expect("it lives").path()).collect()
}

pub(super) fn children(process: u32) -> Vec<u32> {
    // A thread that resolved a name may end meanwhile.
    let read = |thread: PathBuf| fs::read_to_string(thread.join("children")).unwrap_or_default();
    let all: String = threads(process).into_iter().map(read).collect();
    all.split_ascii_whitespace().map(|number| number.parse().expect("a pid")).collect()
}

/// The one that was started with this argument.
pub(super) fn helper_of(process: u32, argument: &str) -> u32 {
    let is_it = |child: &u32| {
        let words = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        words.split('\0').nth(1) == Some(argument)
    };
    children(process).into_iter().find(is_it).unwrap_or_else(|| panic!("no {argument}"))
}

pub(super) fn log_file(path: &Path) -> fs::File {
    fs::File::create(path).expect("a file")
}

pub(super) fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

pub(super) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
