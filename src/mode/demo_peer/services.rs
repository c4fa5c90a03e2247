//! What the peer of the demonstration offers inside its namespace: page, DNS, echo, sink and source. (tasks)
//!
//! Plain blocking sockets, a thread for each listener and for each connection, at most [`MAX_CONNECTIONS`] at once
//! and every one with a deadline on silence. Each listens on both address families with one socket.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::dns::{self, Zone};

/// Echo, TCP and UDP (RFC 862).
pub const ECHO_PORT: u16 = 7;
/// DNS, UDP and TCP.
pub const DNS_PORT: u16 = 53;
/// The page.
pub const PAGE_PORT: u16 = 80;
/// Reads and discards; says how many bytes it was when the client has finished.
pub const SINK_PORT: u16 = 5301;
/// Sends until the client closes.
pub const SOURCE_PORT: u16 = 5302;

/// Connections served at once, over all services; one more is closed at once.
const MAX_CONNECTIONS: usize = 64;

/// A client that is silent for longer is dropped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Largest head of a page request.
const MAX_REQUEST: usize = 8 * 1024;

/// Stack of a connection's thread: the largest buffer is on the heap.
const STACK: usize = 128 * 1024;

/// Bytes moved at once by sink and source.
const BULK: usize = 256 * 1024;

/// Why a service could not be offered.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The port is taken, or may not be used.
    #[error("cannot listen on port {port} inside the peer's namespace")]
    Listen {
        /// Which.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// No thread for it.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Offers everything, in threads that end with the process.
///
/// # Errors
/// See [`ServiceError`]; what was started by then goes on.
pub(crate) fn spawn(zone: Zone, speaker: &str) -> Result<(), ServiceError> {
    let speaker: Arc<str> = speaker.into();
    spawn_tcp(PAGE_PORT, move |stream, client| serve_page(stream, client, &speaker))?;
    spawn_tcp(DNS_PORT, move |stream, _| serve_dns_stream(stream, zone))?;
    spawn_tcp(ECHO_PORT, |stream, _| serve_echo(stream))?;
    spawn_bulk()?;
    spawn_udp(DNS_PORT, move |query| dns::answer(query, zone))?;
    // An echo of an echo would never end if two such ports were made to talk to each other.
    spawn_udp(ECHO_PORT, |datagram| Some(datagram.to_vec()))
}

/// Offers sink and source alone.
///
/// # Errors
/// See [`ServiceError`].
pub fn spawn_bulk() -> Result<(), ServiceError> {
    spawn_tcp(SINK_PORT, |stream, _| serve_sink(stream))?;
    spawn_tcp(SOURCE_PORT, |stream, _| serve_source(stream))
}

fn spawn_tcp<F>(port: u16, serve: F) -> Result<(), ServiceError>
where
    F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
{
    let listener = TcpListener::bind(any(port, Ipv6Addr::UNSPECIFIED.into()))
        .or_else(|_no_ipv6| TcpListener::bind(any(port, Ipv4Addr::UNSPECIFIED.into())))
        .map_err(|source| ServiceError::Listen { port, source })?;
    let serve = Arc::new(serve);
    thread(move || {
        loop {
            match listener.accept() {
                Ok((stream, client)) => connection(stream, client, &serve),
                // Out of descriptors, or the client is gone again: neither ends the service.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    })
}

/// Serves one connection in its own thread, if there is room.
fn connection<F>(stream: TcpStream, client: SocketAddr, serve: &Arc<F>)
where
    F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
{
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    let timeouts = [stream.set_read_timeout(Some(PATIENCE)), stream.set_write_timeout(Some(PATIENCE))];
    if OPEN.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS || timeouts.iter().any(Result::is_err) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let serve = Arc::clone(serve);
    let started = thread(move || {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        drop(serve(stream, client)); // a client that goes away is no news
        OPEN.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

fn spawn_udp<F>(port: u16, answer: F) -> Result<(), ServiceError>
where
    F: Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
{
    let socket = UdpSocket::bind(any(port, Ipv6Addr::UNSPECIFIED.into()))
        .or_else(|_no_ipv6| UdpSocket::bind(any(port, Ipv4Addr::UNSPECIFIED.into())))
        .map_err(|source| ServiceError::Listen { port, source })?;
    thread(move || {
        let mut datagram = vec![0; 65_535];
        loop {
            let Ok((len, client)) = socket.recv_from(&mut datagram) else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            if let Some(reply) = answer(&datagram[..len])
                && client.port() > ECHO_PORT
            {
                drop(socket.send_to(&reply, client));
            }
        }
    })
}

fn thread(work: impl FnOnce() + Send + 'static) -> Result<(), ServiceError> {
    let builder = std::thread::Builder::new().name("demo-service".to_owned()).stack_size(STACK);
    builder.spawn(work).map(drop).map_err(ServiceError::Thread)
}

const fn any(port: u16, address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// HTTP as far as browsers, curl and wget need it: one request, one page, close.
fn serve_page(mut stream: TcpStream, client: SocketAddr, speaker: &str) -> io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let len = stream.read(&mut chunk)?;
        if len == 0 || head.len() + len > MAX_REQUEST {
            return Ok(());
        }
        head.extend_from_slice(&chunk[..len]);
    }
    let line = String::from_utf8_lossy(&head);
    let mut words = line.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some("/" | "/index.html")) => ("200 OK", page(client, speaker)),
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "there is only one page: /\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
    };
    let body_sent = if line.starts_with("HEAD ") { "" } else { body.as_str() };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body_sent}",
        body.len()
    )?;
    stream.shutdown(std::net::Shutdown::Write)
}

fn page(client: SocketAddr, speaker: &str) -> String {
    format!("This page came through a WireGuard tunnel.\nserved by: {speaker}\nyou are: {}\n", client.ip())
}

/// DNS over TCP: each message behind its length.
fn serve_dns_stream(mut stream: TcpStream, zone: Zone) -> io::Result<()> {
    loop {
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut query = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut query)?;
        let Some(reply) = dns::answer(&query, zone) else { return Ok(()) };
        let len = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes()[..], &reply].concat())?;
    }
}

fn serve_echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            len => stream.write_all(&bytes[..len])?,
        }
    }
}

/// Counts until the client has finished sending, then tells it the count as a line of text.
fn serve_sink(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; BULK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut bytes)? {
            0 => break,
            len => total += len as u64,
        }
    }
    writeln!(stream, "{total}")
}

fn serve_source(mut stream: TcpStream) -> io::Result<()> {
    let bytes = vec![0x77; BULK];
    loop {
        stream.write_all(&bytes)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: Zone =
        Zone { v4: Ipv4Addr::new(10, 77, 0, 1), v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1) };

    #[test]
    fn the_page_says_who_serves_and_who_asks() {
        let answer = exchange(
            |stream, client| serve_page(stream, client, "somebody"),
            b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("served by: somebody\nyou are: 127.0.0.1\n"), "{answer}");
    }

    #[test]
    fn other_paths_and_methods_are_refused_and_a_head_has_no_body() {
        for (request, status, body) in [
            ("GET /x HTTP/1.0\r\n\r\n", "404", true),
            ("POST / HTTP/1.0\r\n\r\n", "405", true),
            ("HEAD / HTTP/1.0\r\n\r\n", "200", false),
        ] {
            let answer =
                exchange(|stream, client| serve_page(stream, client, "somebody"), request.as_bytes());
            assert!(answer.contains(status), "{answer}");
            assert_eq!(!answer.ends_with("\r\n\r\n"), body, "{answer}");
        }
    }

    #[test]
    fn an_endless_request_is_dropped_without_an_answer() {
        let answer =
            exchange(|stream, client| serve_page(stream, client, "somebody"), &vec![b'a'; MAX_REQUEST + 1]);
        assert_eq!(answer, "");
    }

    #[test]
    fn the_sink_tells_how_much_it_took() {
        assert_eq!(exchange(|stream, _| serve_sink(stream), &[0; 100_000]), "100000\n");
    }

    #[test]
    fn the_echo_gives_back_what_it_got() {
        assert_eq!(exchange(|stream, _| serve_echo(stream), b"hello"), "hello");
    }

    #[test]
    fn dns_over_tcp_answers_message_after_message() {
        let query = b"\x00\x1f\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04demo\x08wg4netns\x00\x00\x01\x00\x01";
        let bytes = exchange_bytes(|stream, _| serve_dns_stream(stream, ZONE), &query.repeat(2));
        let len = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        assert_eq!(bytes.len(), 2 * (2 + len));
        assert!(bytes.ends_with(&[10, 77, 0, 1]));
    }

    fn exchange<F>(serve: F, request: &[u8]) -> String
    where
        F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + 'static,
    {
        String::from_utf8(exchange_bytes(serve, request)).unwrap()
    }

    /// Serves one connection over loopback; the client sends, finishes, and reads to the end.
    fn exchange_bytes<F>(serve: F, request: &[u8]) -> Vec<u8>
    where
        F: Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (stream, client) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            drop(serve(stream, client));
        });
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A server that dropped an unfinished request resets the connection.
        let ended = stream.read_to_end(&mut answer);
        assert!(ended.is_ok() || answer.is_empty(), "{ended:?}");
        server.join().unwrap();
        answer
    }
}
