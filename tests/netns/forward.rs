//! Ports that are published and taken back while a forwarder runs, and what its end leaves.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::process::{Child, Stdio};

use tokio::task::JoinSet;
use wg4netns::config::publish::{ForwardPlan, PublishedPort, Transport};
use wg4netns::driver::port_forward::{ForwardError, Forwarder, ForwarderError};
use wg4netns::driver::socket_factory::SocketFactory;
use wg4netns::driver::target::Target;

use super::sandbox::{Namespace, helper, wait_for};

const INSIDE: u16 = 7000;

#[test]
fn a_port_is_published_and_taken_back_while_others_go_on() {
    let namespace = Namespace::new();
    let _server = Echo::start(&namespace);
    let forwarder = start(&namespace);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (ports, run, running) = forwarder.into_handle().expect("a handle");
        let mut tasks = JoinSet::new();
        tasks.spawn(run);
        let first = ports.add(port()).await.expect("published");
        let second = ports.add(port()).await.expect("published");
        assert_eq!((first.len(), second.len()), (1, 1));
        assert_ne!(first[0].id, second[0].id);
        assert_eq!(echo(first[0].listen), "hello");

        let listed = ports.list().await.expect("a list");
        let totals: Vec<_> = listed.iter().map(|forward| (forward.id, forward.total)).collect();
        assert_eq!(totals, [(first[0].id, 1), (second[0].id, 0)]);

        ports.remove(first[0].id).await.expect("taken back");
        assert!(TcpStream::connect(first[0].listen).is_err());
        assert_eq!(echo(second[0].listen), "hello");
        let again = ports.remove(first[0].id).await.expect_err("gone already");
        assert!(matches!(again, ForwarderError::Forward(ForwardError::NotThere(_))), "{again}");

        let taken = PublishedPort { host_port: NonZeroU16::new(second[0].listen.port()), ..port() };
        let refused = ports.add(taken).await.expect_err("in use");
        let said = format!("cannot listen on `{}` (tcp) to publish it", second[0].listen);
        assert_eq!(refused.to_string(), said);

        let datagrams =
            ports.add(PublishedPort { transport: Transport::Udp, ..port() }).await.expect("published");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        client.send_to(b"hello", datagrams[0].listen).expect("it is sent");
        let mut seen = false;
        for _ in 0..1000 {
            let listed = ports.list().await.expect("a list");
            seen |= listed.iter().any(|one| one.transport == Transport::Udp && one.active == 1);
        }
        assert!(seen, "the flow");
        ports.remove(datagrams[0].id).await.expect("taken back");
        drop(UdpSocket::bind(datagrams[0].listen).expect("the port is free at once"));

        // More than one record holds.
        let mut many = Vec::new();
        for _ in 0..250 {
            many.extend(ports.add(port()).await.expect("published"));
        }
        assert_eq!(ports.list().await.expect("a list").len(), 251);
        assert_eq!(echo(many[249].listen), "hello");

        drop(running);
        assert!(TcpStream::connect(second[0].listen).is_err());
        assert!(matches!(ports.add(port()).await, Err(ForwarderError::Ended)));
    });
}

#[test]
fn who_connects_before_the_start_is_served_after_it() {
    let namespace = Namespace::new();
    let _server = Echo::start(&namespace);
    let mut forwarder = Forwarder::spawn(&helper()).expect("a forwarder");
    let listen = forwarder.publish(port()).expect("published")[0].listen;
    let early = std::thread::spawn(move || echo(listen));
    let target = Target::Pid(namespace.pid()).open().expect("it lives");
    let factory = SocketFactory::spawn(&helper(), &target, Vec::new()).expect("a factory");
    forwarder.start(factory, &ForwardPlan::default(), Vec::new()).expect("started");
    assert_eq!(early.join().expect("no panic"), "hello");
}

/// Forwards nothing yet.
fn start(namespace: &Namespace) -> Forwarder {
    let target = Target::Pid(namespace.pid()).open().expect("it lives");
    let mut forwarder = Forwarder::spawn(&helper()).expect("a forwarder");
    let factory = SocketFactory::spawn(&helper(), &target, Vec::new()).expect("a factory");
    let plan = ForwardPlan { later: true, ..ForwardPlan::default() };
    forwarder.start(factory, &plan, Vec::new()).expect("started");
    forwarder
}

/// A free port of the host's loopback; the namespace has no address but its own.
fn port() -> PublishedPort {
    PublishedPort {
        transport: Transport::Tcp,
        host: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        host_port: None,
        inside: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        inside_port: NonZeroU16::new(INSIDE).expect("not 0"),
    }
}

/// Says hello and reads all that comes back.
fn echo(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("published");
    stream.write_all(b"hello").expect("it reads");
    stream.shutdown(Shutdown::Write).expect("a connection");
    let mut back = String::new();
    stream.read_to_string(&mut back).expect("it answers");
    back
}

/// A server inside that repeats what it is told.
struct Echo(Child);

impl Echo {
    fn start(namespace: &Namespace) -> Self {
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        let listen = format!("TCP4-LISTEN:{INSIDE},fork,reuseaddr");
        let server = namespace.enter().args(["socat", &listen, "EXEC:cat"]).stdout(Stdio::null()).spawn();
        let server = Self(server.expect("socat(1)"));
        wait_for("the server inside", || {
            !namespace.run(&["ss", "-Hltn", &format!("sport = {INSIDE}")]).is_empty()
        });
        server
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}
