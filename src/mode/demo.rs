//! `demo`: the whole thing on one machine, without configuration, server or root. (wiring)
//!
//! # Theory of operation
//! Nothing here is a short cut: every part is a process of its own and is reached by the command line that a user has.
//!
//! * The *peer* is [`super::demo_peer`]: boringtun, in namespaces of its own; it prints a configuration.
//! * The *far end* is `run` with a second device of ours, and a program that takes and gives bytes, for the speed.
//! * The *tunnel* is `run` with the peer's configuration plus the far end, and a program that tries everything and writes
//!   down what it finds ([`super::demo_inside`]).
//! * The *canary* is this process: it listens on every address of the host, and must never hear anything.
//! * The *guard* is this process's parent, and the one that the user knows (`demo_guard`).
//!
//! Last, the process that holds the tunnel is killed as a crash would. The program inside lives on, and tells what that
//! is like; a kill switch that works leaves it without any way out.

use std::fs::DirBuilder;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use nix::sys::signal::Signal;
use zeroize::Zeroizing;

use super::demo_guard;
use super::demo_inside::{CLIENT_ARGUMENT, FAR_ARGUMENT, Finding, Plan};
use super::demo_peer::{self, NAME};
use crate::crypto::{Entropy, SystemEntropy};
use crate::driver::command::TunnelReport;
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::logging::{LogFormat, LogLevel, LogOptions};
use crate::key::{KEY_LEN, PrivateKey};
use crate::sys::caller;
use crate::sys::clock::boot_nanos;

/// The show takes 6 s; if it is not over by then, something is wrong and that is said.
const LONGEST_SHOW: Duration = Duration::from_secs(15);

/// The far end's address: one that nothing else in the tunnel has.
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// Environment variable by which `run` is given its configuration: no file, and `run` removes it.
const CONFIG_VARIABLE: &str = "WG4NETNS_DEMO_CONFIG";

/// Why the show broke off.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No directory for the sockets of the two tunnels.
    #[error("cannot create `{path}`")]
    Directory {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The canary cannot listen, or does not hear.
    #[error("cannot listen on the host for what should not come")]
    Canary(#[source] io::Error),
    /// The process of the show could not be started or waited for.
    #[error("cannot run the show")]
    Guard(#[source] io::Error),
    /// A process could not be started or asked.
    #[error("cannot run {what}")]
    Process {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended too early; it has said why on standard error.
    #[error("{what} ended before its time")]
    Ended {
        /// Which.
        what: &'static str,
    },
    /// A process says nothing.
    #[error("{what} said nothing for too long")]
    Silent {
        /// Which.
        what: &'static str,
    },
    /// What a process said makes no sense.
    #[error("{what} said something unexpected")]
    Unexpected {
        /// Which.
        what: &'static str,
    },
    /// The program inside could not do something.
    #[error("inside the tunnel, the step `{step}` failed: {error}")]
    Step {
        /// Which.
        step: String,
        /// What the system said.
        error: String,
    },
    /// The canary heard something, or an answer came: the kill switch does not hold.
    #[error(
        "the program inside reached the host: {packets} packets were heard, {answered} attempts were answered"
    )]
    Leak {
        /// What the canary heard.
        packets: u32,
        /// What the program inside got an answer to.
        answered: u32,
    },
    /// Nobody reads what is shown.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure for DemoError {
    fn class(&self) -> FailureClass {
        FailureClass::General
    }
}

const PEER: &str = "the demo's peer";
const FAR: &str = "the far end of the demo's own pair";
const TUNNEL: &str = "the demo's tunnel";

/// Plays the show on `output`; the exit code if a part has failed and said why, else 0.
///
/// `log` is for its parts: what they say beyond errors stays away unless it is asked for.
///
/// # Errors
/// See [`DemoError`].
pub fn run(output: &mut dyn Write, log: LogOptions) -> Result<u8, DemoError> {
    let directory = Directory::create()?;
    demo_guard::guard(|| play(output, log, &directory)).map_err(DemoError::Guard)?
}

fn play(output: &mut dyn Write, log: LogOptions, directory: &Directory) -> Result<u8, DemoError> {
    let end = boot_nanos() + u64::try_from(LONGEST_SHOW.as_nanos()).unwrap_or(u64::MAX);
    let mut show = Show { output };
    let mut canary = Canary::listen().map_err(DemoError::Canary)?;

    let peer_log = serde_json::to_string(&log).map_err(|_| DemoError::Unexpected { what: PEER })?;
    let mut peer = Part::spawn(PEER, &[demo_peer::ARGUMENT, &peer_log], None, Stdio::null(), end)?;
    let config = Zeroizing::new(peer.rest()?);
    let Some(endpoint) = value_of(&config, "Endpoint") else {
        return Ok(peer.exit_code()); // its own words are on standard error
    };
    show.title("no configuration, no server, no root; everything stays on this machine")?;
    show.line("peer", &format!("boringtun, not ours, at {endpoint}, in a namespace of its own"))?;

    let (far_config, far_peer) = own_pair(&config)?;
    let far_name = format!("demo-{}b", std::process::id());
    let far = Part::run(FAR, &far_name, directory, &far_config, &[FAR_ARGUMENT], log, end)?;
    if far.line()? != "ready" {
        return Err(DemoError::Unexpected { what: FAR });
    }
    let port = status(&far_name, directory)?.listen_port;

    let plan = Plan { far: FAR_ADDRESS, hosts: host_addresses(), canary_port: canary.port };
    let plan = serde_json::to_string(&plan).map_err(|_| DemoError::Unexpected { what: TUNNEL })?;
    let name = format!("demo-{}", std::process::id());
    let config = Zeroizing::new(format!("{}{far_peer}Endpoint = 127.0.0.1:{port}\n", *config));
    let begun = boot_nanos();
    let mut tunnel = Part::run(TUNNEL, &name, directory, &config, &[CLIENT_ARGUMENT, &plan], log, end)?;

    loop {
        match tunnel.finding()? {
            Finding::Name { addresses } => {
                let report = status(&name, directory)?;
                show.line(
                    "tunnel",
                    &format!("`wg4netns run` was ready after {:.0} ms", millis_since(begun)),
                )?;
                show.line("handshake", &handshake(&report))?;
                let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                show.line("name", &format!("{NAME} is {}, says the DNS inside", addresses.join(" and ")))?;
            }
            Finding::Page { status, last_line, millis } => {
                show.line(
                    "page",
                    &format!("{status} from http://{NAME}/ in {millis:.1} ms: \"{last_line}\""),
                )?;
            }
            Finding::Ping { method, median_millis } => {
                show.line("ping", &format!("{median_millis:.2} ms, median of 20 ({method})"))?;
            }
            Finding::Speed { out, back } => {
                let text =
                    format!("{out:.1} Gbit/s out, {back:.1} Gbit/s back, one TCP stream to another wg4netns");
                show.line("speed", &text)?;
            }
            Finding::Ready => break,
            Finding::Failed { step, error } => return Err(DemoError::Step { step, error }),
            Finding::Unreachable { error, .. } => {
                return Err(DemoError::Step { step: "page".to_owned(), error });
            }
            Finding::Tried { .. } => return Err(DemoError::Unexpected { what: TUNNEL }),
        }
    }

    show.title(&format!("last act: kill -9 {}, the process that holds the tunnel", tunnel.child.id()))?;
    let killed = boot_nanos();
    tunnel.kill()?;
    let Finding::Unreachable { at, error } = tunnel.finding()? else {
        return Err(DemoError::Unexpected { what: TUNNEL });
    };
    let Finding::Tried { attempts, answered } = tunnel.finding()? else {
        return Err(DemoError::Unexpected { what: TUNNEL });
    };
    let packets = canary.heard();
    let millis = Duration::from_nanos(at.saturating_sub(killed)).as_millis();
    show.line("inside", &format!("the program lives on: {error}; tried {attempts} ways to the host"))?;
    show.line("result", &format!("page unreachable after {millis} ms; host canary heard {packets} packets"))?;
    if packets > 0 || answered > 0 {
        return Err(DemoError::Leak { packets, answered });
    }
    Ok(0)
}

/// The lines that are shown, each when it is true.
struct Show<'a> {
    output: &'a mut dyn Write,
}

impl Show<'_> {
    fn title(&mut self, text: &str) -> Result<(), DemoError> {
        self.write(&format!("wg4netns demo: {text}\n"))
    }

    fn line(&mut self, what: &str, text: &str) -> Result<(), DemoError> {
        self.write(&format!("  {what:<10} {text}\n"))
    }

    fn write(&mut self, text: &str) -> Result<(), DemoError> {
        let written = self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush());
        written.map_err(DemoError::Output)
    }
}

/// Where the two tunnels have their sockets; removed at the end with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn create() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("wg4netns-demo-{}", std::process::id()));
        let created = DirBuilder::new().mode(0o700).create(&path);
        created.map_err(|source| DemoError::Directory { path: path.clone(), source })?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Listens on every address of the host, UDP and TCP, on one port.
struct Canary {
    udp: UdpSocket,
    tcp: TcpListener,
    port: u16,
}

impl Canary {
    /// Listens, and makes sure that it hears.
    fn listen() -> io::Result<Self> {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let any_v4 = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let tcp = TcpListener::bind(any(0)).or_else(|_no_ipv6| TcpListener::bind(any_v4(0)))?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind(any(port)).or_else(|_no_ipv6| UdpSocket::bind(any_v4(port)))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let mut canary = Self { udp, tcp, port };
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.send_to(b"one", (Ipv4Addr::LOCALHOST, port))?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        match canary.heard() {
            2 => Ok(canary),
            heard => Err(io::Error::other(format!("2 packets were sent, {heard} heard"))),
        }
    }

    /// What has come since it was last asked.
    fn heard(&mut self) -> u32 {
        let mut heard = 0;
        while self.udp.recv_from(&mut [0; 16]).is_ok() {
            heard += 1;
        }
        while self.tcp.accept().is_ok() {
            heard += 1;
        }
        heard
    }
}

/// A process of the show; killed when dropped.
struct Part {
    what: &'static str,
    child: Child,
    /// A program inside lives until this is closed.
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Boot time by which it must have spoken.
    end: u64,
}

impl Part {
    /// Starts this program with other arguments; a thread reads what it says.
    fn spawn(
        what: &'static str,
        arguments: &[&str],
        config: Option<&str>,
        stdin: Stdio,
        end: u64,
    ) -> Result<Self, DemoError> {
        let failed = |source| DemoError::Process { what, source };
        let mut command = Command::new(THIS_PROGRAM);
        command.args(arguments).stdin(stdin).stdout(Stdio::piped());
        if let Some(config) = config {
            command.env(CONFIG_VARIABLE, config);
        }
        caller::end_with_us(&mut command, Signal::SIGTERM);
        let mut child = command.spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("standard output was asked for as a pipe");
        let (sender, lines) = sync_channel(16);
        let reader = move || {
            for line in BufReader::new(stdout.take(MAX_OUTPUT)).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        };
        // Ends when the pipe is closed by the last process that has it.
        std::thread::Builder::new().name("demo-lines".to_owned()).spawn(reader).map_err(failed)?;
        Ok(Self { what, child, stdin, lines, end })
    }

    /// Starts `run` with a configuration and, inside, this program again.
    fn run(
        what: &'static str,
        name: &str,
        directory: &Directory,
        config: &str,
        inside: &[&str],
        log: LogOptions,
        end: u64,
    ) -> Result<Self, DemoError> {
        let directory = directory.path().to_string_lossy();
        let level = match log.level {
            LogLevel::Trace => "-vv",
            LogLevel::Debug => "-v",
            LogLevel::Info | LogLevel::Warn | LogLevel::Error | LogLevel::Silent => "-qq",
        };
        let format = match log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let flags = ["run", "--config-env", CONFIG_VARIABLE, "--name", name, "--uapi-dir", &directory];
        let flags = [&flags[..], &[level, "--log-format", format]].concat();
        let arguments = [&flags[..], &["--", THIS_PROGRAM], inside].concat();
        Self::spawn(what, &arguments, Some(config), Stdio::piped(), end)
    }

    /// The next line.
    fn line(&self) -> Result<String, DemoError> {
        let left = Duration::from_nanos(self.end.saturating_sub(boot_nanos()));
        self.lines.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => DemoError::Silent { what: self.what },
            RecvTimeoutError::Disconnected => DemoError::Ended { what: self.what },
        })
    }

    /// Every line until it closes its output.
    fn rest(&self) -> Result<String, DemoError> {
        let mut text = String::new();
        loop {
            match self.line() {
                Ok(line) => text.extend([line.as_str(), "\n"]),
                Err(DemoError::Ended { .. }) => return Ok(text),
                Err(error) => return Err(error),
            }
        }
    }

    fn finding(&self) -> Result<Finding, DemoError> {
        serde_json::from_str(&self.line()?).map_err(|_| DemoError::Unexpected { what: self.what })
    }

    /// Ends it as a crash would.
    fn kill(&mut self) -> Result<(), DemoError> {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        ended.map(drop).map_err(|source| DemoError::Process { what: self.what, source })
    }

    /// How it ended by itself.
    fn exit_code(&mut self) -> u8 {
        let code = self.child.wait().ok().and_then(|status| status.code());
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or_else(|| FailureClass::General.exit_code())
    }

    /// Lets a program that reads leave by itself, within half a second.
    fn finish(&mut self) {
        if self.stdin.take().is_none() {
            return;
        }
        let deadline = boot_nanos() + 500_000_000;
        while boot_nanos() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.finish();
        // Reaped already if it has left; both calls then do nothing.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The kernel resolves this to the binary we run from, also if that was replaced or removed meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Most that a part may say: a configuration, or a dozen findings.
const MAX_OUTPUT: u64 = 64 * 1024;

/// What `status --json` tells of a running tunnel.
fn status(name: &str, directory: &Directory) -> Result<TunnelReport, DemoError> {
    let mut command = Command::new(THIS_PROGRAM);
    command.args(["status", name, "--json", "--uapi-dir"]).arg(directory.path()).stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| DemoError::Process { what: "`wg4netns status`", source })?;
    // Its exit code tells health, which a tunnel that nobody has talked to yet does not have.
    serde_json::from_slice(&output.stdout).map_err(|_| DemoError::Unexpected { what: "`wg4netns status`" })
}

fn handshake(report: &TunnelReport) -> String {
    let millis = report.peers.iter().find_map(|peer| peer.handshake_ms);
    millis.map_or_else(|| "done".to_owned(), |millis| format!("{millis:.1} ms with boringtun"))
}

/// The configuration of the far end, and the `[Peer]` section for it without its endpoint.
fn own_pair(config: &str) -> Result<(Zeroizing<String>, String), DemoError> {
    let ours = value_of(config, "PrivateKey").and_then(|key| PrivateKey::parse_base64(key).ok());
    let ours = ours.ok_or(DemoError::Unexpected { what: PEER })?;
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    SystemEntropy::new().fill(&mut *bytes);
    let far = PrivateKey::from_bytes(*bytes);
    let our_address = value_of(config, "Address").and_then(|all| all.split(['/', ',']).next());
    let our_address = our_address.ok_or(DemoError::Unexpected { what: PEER })?;
    let far_config = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {FAR_ADDRESS}/32\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = {our_address}/32\n",
        *far.to_base64(),
        ours.public_key().to_base64(),
    );
    let far_peer =
        format!("[Peer]\nPublicKey = {}\nAllowedIPs = {FAR_ADDRESS}/32\n", far.public_key().to_base64());
    Ok((Zeroizing::new(far_config), far_peer))
}

/// The first value of a key in a configuration that we wrote ourselves.
fn value_of<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
}

/// Every address of the host that something could be sent to.
fn host_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut addresses: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        // A link-local address means nothing without its link.
        .filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_HOSTS);
    addresses
}

/// Addresses that are tried: each may cost the patience of one connection.
const MAX_HOSTS: usize = 12;

fn millis_since(begun: u64) -> f64 {
    Duration::from_nanos(boot_nanos() - begun).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_hears_both_protocols_and_counts_anew_each_time() {
        let mut canary = Canary::listen().unwrap();
        assert_eq!(canary.heard(), 0);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", ("127.0.0.1", canary.port)).unwrap();
        socket.send_to(b"x", ("127.0.0.1", canary.port)).unwrap();
        drop(TcpStream::connect(("127.0.0.1", canary.port)).unwrap());
        assert_eq!((canary.heard(), canary.heard()), (3, 0));
    }

    #[test]
    fn the_two_configurations_of_our_pair_name_each_other() {
        let key = PrivateKey::from_bytes([5; KEY_LEN]);
        let config =
            format!("[Interface]\nPrivateKey = {}\nAddress = 10.77.0.2/24, fd77::2/64\n", *key.to_base64());
        let (far, peer) = own_pair(&config).unwrap();
        assert_eq!(value_of(&far, "AllowedIPs"), Some("10.77.0.2/32"));
        assert_eq!(value_of(&far, "PublicKey").unwrap(), key.public_key().to_base64());
        let far_key = PrivateKey::parse_base64(value_of(&far, "PrivateKey").unwrap()).unwrap();
        assert_eq!(value_of(&peer, "PublicKey").unwrap(), far_key.public_key().to_base64());
    }

    #[test]
    fn the_hosts_addresses_include_loopback() {
        assert!(host_addresses().contains(&Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_part_that_says_nothing_is_given_up_at_the_end_of_the_show() {
        let (_sender, lines) = sync_channel(1);
        let child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let part = Part { what: PEER, child, stdin: None, lines, end: boot_nanos() + 20_000_000 };
        assert!(matches!(part.line(), Err(DemoError::Silent { what: PEER })));
    }
}
