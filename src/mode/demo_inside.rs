//! The two programs that `demo` runs inside its namespaces: one that tries everything, one that takes and gives bytes. (wiring)
//!
//! They are ordinary programs to `run`: the same binary under a hidden first argument, so that the demonstration needs no
//! curl, no ping and no iperf3. What the first one finds it writes to standard output, a JSON document a line; the
//! show itself is told by [`super::demo`].

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::getpid;
use serde::{Deserialize, Serialize};

use super::demo_peer::{self, PAGE_PORT, SINK_PORT, SOURCE_PORT};
use crate::sys::clock::boot_nanos;

/// The hidden first argument of the program that tries everything; the second is a [`Plan`] in JSON.
pub const CLIENT_ARGUMENT: &str = "__demo-client";

/// The hidden first argument of the program that takes and gives bytes.
pub const FAR_ARGUMENT: &str = "__demo-far";

/// No step takes longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long each direction of the throughput is measured.
const MEASURED: Duration = Duration::from_secs(2);

/// Echo requests whose median is told.
const PINGS: u16 = 20;

/// Between two looks at the page's reachability while the end is awaited.
const POLL: Duration = Duration::from_millis(2);

/// Every so many looks the page itself is fetched; in between the kernel is asked for a route, which takes no time, because
/// a request that is under way when the end comes waits for all of its patience.
const LOOKS_PER_FETCH: u32 = 50;

/// What such a request may take.
const POLL_PATIENCE: Duration = Duration::from_millis(200);

/// How long the end is awaited: whoever should bring it about may have died before.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes handed to the kernel at once.
const BULK: usize = 256 * 1024;

/// What there is to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The far end of our own pair.
    pub far: Ipv4Addr,
    /// Addresses of the host, all of which must be out of reach.
    pub hosts: Vec<IpAddr>,
    /// The port on which the host listens for what leaks.
    pub canary_port: u16,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Finding {
    /// The peer's name, by whatever resolver a program here gets.
    Name {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// The page, by name.
    Page {
        /// The status line.
        status: String,
        /// The last line, which says who asked.
        last_line: String,
        /// From the connection to the last byte.
        millis: f64,
    },
    /// Round trips.
    Ping {
        /// `ICMP echo`, or `TCP connection` where the former is forbidden.
        method: String,
        /// Of all round trips.
        median_millis: f64,
    },
    /// One TCP stream each way, in Gbit/s.
    Speed {
        /// From here to the far end.
        out: f64,
        /// From the far end to here.
        back: f64,
    },
    /// All is well and the page is asked for again and again: time for the last act.
    Ready,
    /// The page could not be had any more.
    Unreachable {
        /// Boot time, in nanoseconds.
        at: u64,
        /// What the system said.
        error: String,
    },
    /// Every way to the host was tried, and the program ends.
    Tried {
        /// How many packets and connections were attempted in all.
        attempts: u32,
        /// Those that got an answer from the host.
        answered: u32,
    },
    /// A step did not work, and the program ends.
    Failed {
        /// The step.
        step: String,
        /// What the system said.
        error: String,
    },
}

/// Runs the program that tries everything.
///
/// # Errors
/// When nobody reads the findings any more.
pub fn try_everything(plan: &Plan, output: &mut dyn Write) -> io::Result<()> {
    // The last act kills the process that started us, and we are to tell what that was like.
    prctl::set_pdeathsig(None)?;
    std::thread::Builder::new().name("demo-watch".to_owned()).spawn(end_with_input)?;
    let mut tell = |finding: &Finding| {
        writeln!(output, "{}", serde_json::to_string(finding).map_err(io::Error::from)?)?;
        output.flush()
    };
    let page = match steps(plan, &mut tell) {
        Ok(page) => page,
        Err((step, error)) => {
            return tell(&Finding::Failed { step: step.to_owned(), error: error.to_string() });
        }
    };
    let mut attempts = shout(plan); // into the tunnel, where the other end drops it
    tell(&Finding::Ready)?;
    let (at, error) = await_the_end(page, END_PATIENCE);
    tell(&Finding::Unreachable { at, error: error.to_string() })?;
    attempts += shout(plan);
    let (tried, answered) = knock(plan);
    tell(&Finding::Tried { attempts: attempts + tried, answered })
}

/// Whoever watches holds the other end of standard input, and cannot but let go of it when it ends.
fn end_with_input() {
    let mut rest = [0; 64];
    while io::stdin().read(&mut rest).is_ok_and(|len| len > 0) {}
    let _ended_by_then = kill(getpid(), Signal::SIGTERM);
}

/// Waits until the page cannot be had any more: since when, in boot time, and what the system says.
fn await_the_end(page: SocketAddr, patience: Duration) -> (u64, io::Error) {
    let begun = boot_nanos();
    for look in (1_u32..).take_while(|_| !elapsed(begun, patience)) {
        std::thread::sleep(POLL);
        let routed = has_route(page);
        let seen = boot_nanos();
        if routed && look % LOOKS_PER_FETCH != 0 {
            continue;
        }
        if let Err(error) = fetch(page, POLL_PATIENCE) {
            // As long as there is a route it is the request that tells, and only now.
            return (if routed { boot_nanos() } else { seen }, error);
        }
    }
    (boot_nanos(), io::ErrorKind::TimedOut.into())
}

type Step<T> = Result<T, (&'static str, io::Error)>;

/// The pleasant part; gives the address of the page.
fn steps(plan: &Plan, tell: &mut dyn FnMut(&Finding) -> io::Result<()>) -> Step<SocketAddr> {
    let named = |step| move |error| (step, error);
    let resolved = (demo_peer::NAME, PAGE_PORT).to_socket_addrs().map_err(named("name"))?;
    let addresses: Vec<SocketAddr> = resolved.collect();
    let names = addresses.iter().map(SocketAddr::ip).collect();
    tell(&Finding::Name { addresses: names }).map_err(named("report"))?;

    let page = addresses.first().copied().ok_or_else(|| ("name", io::ErrorKind::NotFound.into()))?;
    let begun = boot_nanos();
    let text = fetch(page, PATIENCE).map_err(named("page"))?;
    let millis = millis_since(begun);
    let line = |line: Option<&str>| line.unwrap_or_default().to_owned();
    let (status, last_line) = (line(text.lines().next()), line(text.lines().last()));
    tell(&Finding::Page { status, last_line, millis }).map_err(named("report"))?;

    let (method, median_millis) = ping().map_err(named("ping"))?;
    tell(&Finding::Ping { method: method.to_owned(), median_millis }).map_err(named("report"))?;

    let out = measure_out((plan.far, SINK_PORT).into()).map_err(named("throughput out"))?;
    let back = measure_back((plan.far, SOURCE_PORT).into()).map_err(named("throughput back"))?;
    tell(&Finding::Speed { out, back }).map_err(named("report"))?;
    Ok(page)
}

fn connect(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

fn fetch(page: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = connect(page, patience)?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {}\r\n\r\n", demo_peer::NAME)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(text) }
}

/// The method, and the median round trip to the peer in milliseconds.
fn ping() -> io::Result<(&'static str, f64)> {
    let peer = demo_peer::ADDRESSES.0;
    let opened = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
    let (method, mut rounds) = match opened {
        Ok(socket) => {
            let socket = UdpSocket::from(socket);
            socket.connect((peer, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let rounds: io::Result<Vec<f64>> =
                (0..PINGS).map(|sequence| echo_round(&socket, sequence)).collect();
            ("ICMP echo", rounds?)
        }
        // No ping_group_range for us: somebody runs this outside of `run`.
        Err(_) => {
            let round = |_| {
                let begun = boot_nanos();
                connect((peer, PAGE_PORT).into(), PATIENCE).map(|_stream| millis_since(begun))
            };
            ("TCP connection", (0..PINGS).map(round).collect::<io::Result<Vec<f64>>>()?)
        }
    };
    rounds.sort_by(f64::total_cmp);
    Ok((method, rounds[rounds.len() / 2]))
}

/// One echo request and its reply; the kernel fills in identifier and checksum of a ping socket.
fn echo_round(socket: &UdpSocket, sequence: u16) -> io::Result<f64> {
    const ECHO_REQUEST: u8 = 8;
    let [high, low] = sequence.to_be_bytes();
    let mut request = [0; 8 + 56];
    request[..8].copy_from_slice(&[ECHO_REQUEST, 0, 0, 0, 0, 0, high, low]);
    let begun = boot_nanos();
    socket.send(&request)?;
    let mut reply = [0; 128];
    loop {
        let len = socket.recv(&mut reply)?;
        if len >= 8 && reply[6..8] == [high, low] {
            return Ok(millis_since(begun));
        }
    }
}

/// Gbit/s from here to the sink, by the sink's own count.
fn measure_out(sink: SocketAddr) -> io::Result<f64> {
    let mut stream = connect(sink, PATIENCE)?;
    let bytes = vec![0x77; BULK];
    let begun = boot_nanos();
    while !elapsed(begun, MEASURED) {
        stream.write_all(&bytes)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut count = String::new();
    stream.read_to_string(&mut count)?;
    let count = count.trim().parse().map_err(io::Error::other)?;
    Ok(gigabits(count, begun))
}

/// Gbit/s from the source to here.
fn measure_back(source: SocketAddr) -> io::Result<f64> {
    let mut stream = connect(source, PATIENCE)?;
    let mut bytes = vec![0; BULK];
    let mut count = 0;
    let begun = boot_nanos();
    while !elapsed(begun, MEASURED) {
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => count += len as u64,
        }
    }
    Ok(gigabits(count, begun))
}

/// Asks the kernel's routing table: connecting a UDP socket sends nothing.
fn has_route(to: SocketAddr) -> bool {
    bind_any(to.ip()).and_then(|socket| socket.connect(to)).is_ok()
}

fn bind_any(family: IpAddr) -> io::Result<UdpSocket> {
    match family {
        IpAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Sends a datagram to every address of the host; how many were attempted.
fn shout(plan: &Plan) -> u32 {
    let mut attempts = 0;
    for host in &plan.hosts {
        let sent = bind_any(*host).and_then(|socket| socket.send_to(b"leak", (*host, plan.canary_port)));
        attempts += 1;
        drop(sent); // refused is what it should be; the canary is the judge
    }
    attempts
}

/// Tries to connect to every address of the host: attempts, and how many were accepted.
fn knock(plan: &Plan) -> (u32, u32) {
    let mut answered = 0;
    let mut attempts = 0;
    for host in &plan.hosts {
        let to = SocketAddr::new(*host, plan.canary_port);
        attempts += 1;
        if TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok() {
            answered += 1;
        }
    }
    (attempts, answered)
}

fn elapsed(begun: u64, time: Duration) -> bool {
    Duration::from_nanos(boot_nanos() - begun) >= time
}

fn millis_since(begun: u64) -> f64 {
    Duration::from_nanos(boot_nanos() - begun).as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people, with one decimal")]
fn gigabits(bytes: u64, begun: u64) -> f64 {
    bytes as f64 * 8e-9 / Duration::from_nanos(boot_nanos() - begun).as_secs_f64()
}

/// Runs the program that takes and gives bytes: says `ready`, and ends when standard input does.
///
/// # Errors
/// A port inside is taken, or the standard streams are closed.
pub fn be_far(output: &mut dyn Write, input: &mut dyn Read) -> io::Result<()> {
    demo_peer::serve_bulk().map_err(io::Error::other)?;
    output.write_all(b"ready\n")?;
    output.flush()?;
    let mut rest = [0; 64];
    while input.read(&mut rest)? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_never_comes_is_not_awaited_for_ever() {
        // Fewer looks than come before a fetch: only the route is looked at, and it stays.
        let page = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_, error) = await_the_end(page.local_addr().unwrap(), Duration::from_millis(20));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
    use std::net::TcpListener;

    #[test]
    fn throughput_out_is_what_the_sink_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sink = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let total = io::copy(&mut stream, &mut io::sink()).unwrap();
            writeln!(stream, "{}", total / 2).unwrap();
            total
        });
        let measured = measure_out(sink).unwrap();
        let total = server.join().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a figure with two digits")]
        let most = total as f64 / 2.0 * 8e-9 / MEASURED.as_secs_f64();
        assert!(measured > 0.0 && measured <= most, "{measured} of {most}");
    }

    #[test]
    fn an_open_port_of_the_host_is_reported_as_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut plan = Plan {
            far: Ipv4Addr::LOCALHOST,
            hosts: vec![Ipv4Addr::LOCALHOST.into()],
            canary_port: listener.local_addr().unwrap().port(),
        };
        assert_eq!(knock(&plan), (1, 1));
        drop(listener);
        assert_eq!(knock(&plan), (1, 0));
        plan.hosts.clear();
        assert_eq!((knock(&plan), shout(&plan)), ((0, 0), 0));
    }

    #[test]
    fn findings_survive_their_line_of_json() {
        for finding in [
            Finding::Ready,
            Finding::Speed { out: 5.25, back: 0.5 },
            Finding::Failed { step: "page".to_owned(), error: "no\nroute".to_owned() },
        ] {
            let line = serde_json::to_string(&finding).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Finding>(&line).unwrap(), finding);
        }
    }
}
