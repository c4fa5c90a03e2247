//! One listener for connections, and what becomes of them. (tasks)
//!
//! # Theory of operation
//! Each direction is copied through a buffer of its own: nothing is read before what was read is written, so a slow
//! reader slows its writer, and nobody else. The end of one direction is passed on as such (`shutdown`), while the
//! other goes on. What ends in disorder at one end ends so at the other: a connection that broke must not look like a
//! complete one.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::process::{Counters, Dial, Shared};
use crate::sys::sockets::{self, Closing};

/// Bytes on their way in one direction of a connection.
pub(super) const BUFFER: usize = 64 * 1024;

/// Rest after the machine has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until it is aborted.
pub(super) async fn serve(shared: Rc<Shared>, listener: TcpListener, dial: Dial, counters: Rc<Counters>) {
    loop {
        let client = match listener.accept().await {
            Ok((client, _from)) => client,
            Err(error) if is_the_clients(&error) => continue,
            Err(_out_of_descriptors) => {
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Rc::clone(&shared).slots.clone().acquire_owned().await else { return };
        let (task_shared, dial, counters) = (Rc::clone(&shared), dial.clone(), Rc::clone(&counters));
        let mut connections = shared.connections.borrow_mut();
        while connections.try_join_next().is_some() {}
        connections.spawn_local(async move {
            forward(&task_shared, client, &dial, &counters).await;
            drop(slot);
        });
    }
}

/// It went away before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn forward(shared: &Shared, client: TcpStream, dial: &Dial, counters: &Rc<Counters>) {
    let _open = counters.open();
    // Also if we are killed.
    sockets::set_closing(&client, Closing::Broken);
    let server = match shared.connect(dial).await {
        Ok(server) => server,
        Err(_refused) => {
            return counters.fail();
        }
    };
    sockets::set_closing(&server, Closing::Broken);
    for end in [&client, &server] {
        // What is written waits for nothing; who is no longer there is noticed. Refused for dead connections only.
        let _dead = end.set_nodelay(true);
        let _dead = sockets::keep_alive(end.as_fd());
    }
    let both = async { tokio::try_join!(carry(&client, &server), carry(&server, &client)).map(|_both| ()) };
    let complete = tokio::select! {
        result = both => result.is_ok(),
        () = broken(&client) => false,
        () = broken(&server) => false,
    };
    if complete {
        sockets::set_closing(&client, Closing::Complete);
        sockets::set_closing(&server, Closing::Complete);
    }
}

/// Everything from one end to the other, and then the end of it.
async fn carry(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        from.readable().await?;
        let mut rest = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(sockets::shutdown_writing(to)?),
            Ok(len) => &buffer[..len],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until a connection breaks: an end that has said all it had to say is not read from, and would not be missed.
async fn broken(connection: &TcpStream) {
    // Ready, or cannot be watched: broken either way.
    let _broken = connection.ready(Interest::ERROR).await;
}
