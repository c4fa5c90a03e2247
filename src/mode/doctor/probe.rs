//! What is tried, in a process of its own; and the end that starts it, waits and reads. (wiring)

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::driver::veth;
use crate::sys::namespace::{NamespaceKind, map_one_user, unshare};
use crate::sys::netlink::{LinkSetting, Netlink};
use crate::sys::null_device;
use crate::sys::os_error::OsError;
use crate::sys::pidfd::PidFd;
use crate::sys::tun;
use crate::sys::udp::{Transmit, UdpSocket};
use crate::sys::wait::readable;

/// The hidden first argument that makes the program a probe; the second is its name.
pub const ARGUMENT: &str = "__doctor";

/// A probe takes milliseconds; one that has not answered by then never will.
const DEADLINE: Duration = Duration::from_secs(5);

/// One thing to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// A user namespace with us as root in it.
    User,
    /// One without any map, held until standard input closes: newuidmap writes the map.
    HoldUser,
    /// A network namespace in it.
    Network,
    /// A TUN interface in that.
    Tun,
    /// An overlay over `/etc` in a mount namespace.
    Overlay,
    /// Segmentation offload of UDP, over loopback.
    Udp,
}

const PROBES: &[(&str, Probe)] = &[
    ("user", Probe::User),
    ("hold-user", Probe::HoldUser),
    ("network", Probe::Network),
    ("tun", Probe::Tun),
    ("overlay", Probe::Overlay),
    ("udp", Probe::Udp),
];

/// What went wrong in a probe, as one step that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    /// `make a user namespace`, `open /dev/net/tun`…
    pub(super) step: Step,
    /// The call, for people.
    pub(super) call: String,
    /// What the system said; absent if the probe hung or died.
    pub(super) error: Option<OsError>,
}

/// The step that was refused: what the remedy hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// `unshare(CLONE_NEWUSER)`
    UnshareUser,
    /// Writing `uid_map`, `gid_map`, `setgroups`.
    Map,
    /// `unshare(CLONE_NEWNET)`
    UnshareNetwork,
    /// `unshare(CLONE_NEWNS)`
    UnshareMount,
    /// `open("/dev/net/tun")`
    OpenTun,
    /// `TUNSETIFF`
    MakeTun,
    /// Addresses, MTU, up.
    Configure,
    /// Mounting the overlay.
    Overlay,
    /// Sending or receiving over loopback.
    Udp,
    /// The probe itself: it hung, died or could not be started.
    Probe,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            Some(error) => write!(f, "{}: {error}", self.call),
            None => f.write_str(&self.call),
        }
    }
}

/// Maps an error to a refusal of this step.
fn at<E: Into<OsError>>(step: Step, call: &str) -> impl FnOnce(E) -> Refusal + use<E> {
    let call = call.to_owned();
    move |error| Refusal { step, call, error: Some(error.into()) }
}

type Seen = Result<String, Refusal>;

/// The whole life of a probe: try, print one JSON document, end.
#[must_use]
pub fn main(name: &str) -> ExitCode {
    let Some((_, probe)) = PROBES.iter().find(|(known, _)| *known == name) else {
        return ExitCode::FAILURE;
    };
    let seen = match probe {
        Probe::User => user(),
        Probe::HoldUser => unshare_user(),
        Probe::Network => user().and_then(|_| network()),
        Probe::Tun => user().and_then(|_| network()).and_then(|_| tun()),
        Probe::Overlay => user().and_then(|_| overlay()),
        Probe::Udp => udp(),
    };
    let Ok(mut line) = serde_json::to_string(&seen) else { return ExitCode::FAILURE };
    line.push('\n');
    // Whoever does not read it any more needs no answer.
    if io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
        return ExitCode::FAILURE;
    }
    if *probe == Probe::HoldUser {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
    }
    ExitCode::SUCCESS
}

fn user() -> Seen {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare_user()?;
    map_one_user((0, 0), (uid, gid)).map_err(|(path, error)| {
        let call = format!("write `{}`", path.display());
        Refusal { step: Step::Map, call, error: Some(error) }
    })?;
    Ok(format!("uid {uid} is root in one"))
}

fn unshare_user() -> Seen {
    unshare(&[NamespaceKind::User]).map_err(at(Step::UnshareUser, "unshare(CLONE_NEWUSER)"))?;
    Ok("made one".into())
}

fn network() -> Seen {
    unshare(&[NamespaceKind::Network]).map_err(at(Step::UnshareNetwork, "unshare(CLONE_NEWNET)"))?;
    Ok("made one".into())
}

fn tun() -> Seen {
    let made = tun::create("wg0", 1);
    if let Err(tun::TunError::Open { source }) = &made
        && veth_instead()
    {
        return Ok(format!("no `{}` ({source}); a veth pair works instead", tun::TUN_PATH));
    }
    let queues = made.map_err(|error| match error {
        tun::TunError::Open { source } => {
            Refusal { step: Step::OpenTun, call: format!("open `{}`", tun::TUN_PATH), error: Some(source) }
        }
        tun::TunError::Create { source, .. } | tun::TunError::Ioctl { source, .. } => {
            Refusal { step: Step::MakeTun, call: "TUNSETIFF".into(), error: Some(source) }
        }
        other @ (tun::TunError::Exists { .. }
        | tun::TunError::NotATun
        | tun::TunError::Detached
        | tun::TunError::Tap { .. }
        | tun::TunError::PacketInformation { .. }) => {
            Refusal { step: Step::MakeTun, call: other.to_string(), error: None }
        }
    })?;
    configure().map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Refusal { step: Step::Configure, call: format!("{error}{cause}"), error: None }
    })?;
    let offloads = queues.first().map(|queue| tun::enable_offloads(queue.as_fd()).0).unwrap_or_default();
    let names = [("checksum", offloads.checksum), ("TCP", offloads.tcp), ("UDP", offloads.udp)];
    let on: Vec<_> = names.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let on = if on.is_empty() { "no offload".into() } else { format!("offloads: {}", on.join(", ")) };
    Ok(format!("made and configured one; {on}"))
}

/// Whether a tunnel could do without a TUN.
fn veth_instead() -> bool {
    let socket = Netlink::open().ok().and_then(|mut netlink| veth::make(&mut netlink, "wg0").ok()?.ok());
    socket.is_some() && configure().is_ok()
}

fn configure() -> Result<(), crate::sys::netlink::NetlinkError> {
    let mut netlink = Netlink::open()?;
    if let Some(link) = netlink.link_named("wg0")? {
        netlink.set_link(link.index, LinkSetting::Mtu(1420))?;
        netlink.add_address(link.index, ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 1), 32).into())?;
        netlink.set_link(link.index, LinkSetting::Up(true))?;
    }
    Ok(())
}

/// An overlay over `/etc` with its upper layer in a tmpfs, and a file replaced in it.
fn overlay() -> Seen {
    unshare(&[NamespaceKind::Mount]).map_err(at(Step::UnshareMount, "unshare(CLONE_NEWNS)"))?;
    let none: Option<&str> = None;
    let refused = |call: &str| at::<nix::errno::Errno>(Step::Overlay, call);
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(refused("make the mounts private"))?;
    let layers = Path::new(if Path::new("/tmp").is_dir() { "/tmp" } else { "/dev" });
    mount(Some("tmpfs"), layers, Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))
        .map_err(refused("mount a tmpfs"))?;
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    for layer in [&upper, &work] {
        std::fs::create_dir(layer).map_err(at(Step::Overlay, "make a layer"))?;
    }
    let options = format!("lowerdir=/etc,upperdir={},workdir={},userxattr", upper.display(), work.display());
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(refused("mount an overlay over `/etc`"))?;
    let file = Path::new("/etc/resolv.conf");
    if file.symlink_metadata().is_ok() {
        std::fs::remove_file(file)
            .map_err(at(Step::Overlay, "remove `/etc/resolv.conf` from the overlay"))?;
    }
    std::fs::write(file, "# tried\n")
        .map_err(at(Step::Overlay, "write `/etc/resolv.conf` in the overlay"))?;
    Ok("`/etc/resolv.conf` can be replaced without touching the host's".into())
}

/// Sends one run of datagrams to ourselves and counts how it arrives.
fn udp() -> Seen {
    const SEGMENTS: usize = 8;
    const SEGMENT: u16 = 1200;
    let refused = |call: &str| at::<io::Error>(Step::Udp, call);
    let sender = UdpSocket::bind(0).map_err(refused("bind a UDP socket"))?;
    let receiver = UdpSocket::bind(0).map_err(refused("bind a UDP socket"))?;
    let gro = receiver.enable_gro().is_ok();
    let port = receiver.local_port().map_err(refused("ask for the port"))?;
    let bytes = vec![0; SEGMENTS * usize::from(SEGMENT)];
    let transmit = Transmit {
        bytes: &bytes,
        segment_len: Some(SEGMENT),
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        source: None,
        traffic_class: 0,
        dont_wait: false,
    };
    let gso = sender.can_segment() && sender.send(&transmit).is_ok();
    if !gso {
        let single = Transmit { bytes: &bytes[..usize::from(SEGMENT)], segment_len: None, ..transmit };
        sender.send(&single).map_err(refused("send over loopback"))?;
    }
    if !readable(receiver.as_fd(), Some(Duration::from_secs(1)))
        .map_err(at(Step::Udp, "wait for a datagram"))?
    {
        return Err(Refusal { step: Step::Udp, call: "nothing came back over loopback".into(), error: None });
    }
    Ok(match (gso, gro) {
        (true, true) => "segmentation offload both ways".into(),
        (true, false) => "segmentation offload when sending only".into(),
        (false, true) => "segmentation offload when receiving only".into(),
        (false, false) => "no segmentation offload: every datagram costs a system call".into(),
    })
}

/// Starts a probe and waits for what it saw.
pub(super) fn run(probe: Probe) -> Seen {
    let broken = |call: String| Refusal { step: Step::Probe, call, error: None };
    let mut child = start(probe).map_err(|error| broken(format!("cannot start a probe: {error}")))?;
    let line = read_line(&mut child);
    // One that holds its namespace ends when its input closes.
    drop(child.stdin.take());
    let status = end(&mut child).map_err(|error| broken(format!("the probe did not end: {error}")))?;
    match line.as_deref().map(serde_json::from_str) {
        Some(Ok(seen)) => seen,
        Some(Err(_)) | None => Err(broken(format!("the probe did not answer ({status})"))),
    }
}

/// A probe that holds a user namespace, for as long as this value lives.
#[derive(Debug)]
pub(super) struct HeldNamespace {
    child: Child,
}

impl HeldNamespace {
    /// Makes one.
    pub(super) fn new() -> Result<Self, Refusal> {
        let broken = |call: String| Refusal { step: Step::Probe, call, error: None };
        let child =
            start(Probe::HoldUser).map_err(|error| broken(format!("cannot start a probe: {error}")))?;
        let mut held = Self { child };
        match read_line(&mut held.child).as_deref().map(serde_json::from_str::<Seen>) {
            Some(Ok(seen)) => seen.map(|_made| held),
            Some(Err(_)) | None => Err(broken("the probe did not answer".into())),
        }
    }

    /// The process whose namespace it is.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for HeldNamespace {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        end(&mut self.child).ok();
    }
}

fn start(probe: Probe) -> io::Result<Child> {
    let name = PROBES.iter().find(|(_, known)| *known == probe).map_or("", |(name, _)| *name);
    Command::new("/proc/self/exe")
        .args([ARGUMENT, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(null_device::open()?)
        .spawn()
}

fn read_line(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.as_mut()?;
    let mut line = Vec::new();
    // A line is far below the size of a pipe, so it comes in one piece or not at all.
    while !line.ends_with(b"\n") {
        if !readable(stdout.as_fd(), Some(DEADLINE)).ok()? {
            return None;
        }
        let mut chunk = [0; 4096];
        match stdout.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(length) => line.extend_from_slice(&chunk[..length]),
        }
    }
    String::from_utf8(line).ok()
}

/// Waits until the child has ended, and kills it if that takes too long.
fn end(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let ended = PidFd::open(child.id())?.wait_for_end(Some(DEADLINE))?;
    if !ended {
        child.kill()?;
    }
    child.wait()
}

/// Runs a program of others and waits for its output, but not for ever.
pub(super) fn run_program(program: &str, arguments: &[&str]) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(null_device::open()?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let status = end(&mut child)?;
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    // A version or a complaint fits into the pipe, which held it while the program ran.
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut output.stdout)?;
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut output.stderr)?;
    }
    Ok(output)
}

/// Where a program is that would be run by this name.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
}
