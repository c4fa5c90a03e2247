//! One listener for datagrams: a flow for each client, forgotten when it is silent. (tasks)
//!
//! # Theory of operation
//! A client is an address and port, and which of our addresses it has asked. Its first datagram makes a flow: a socket
//! on the other side of its own, so that answers find their way back, and a task that carries them. A flow that was
//! never answered is forgotten soon, so that a scan of ports does not fill the table; one that was, later. When the
//! table is full the one that was silent longest makes room.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::process::{Association, Candidates, Counters, Dial, HEARS, Opened, Shared};
use crate::driver::clock;
use crate::sys::sockets::{self, Arrived};
use crate::time::BootTime;

/// Flows of all ports together, where there are enough descriptors.
pub(super) const MAX_FLOWS: usize = 1024;

/// A flow that was not answered is forgotten after this silence (as the kernel's connection tracking does).
const UNANSWERED: Duration = Duration::from_secs(30);

/// One that was, after this.
const ANSWERED: Duration = Duration::from_secs(180);

/// Datagrams that are taken before anybody else has a turn.
const BATCH: usize = 64;

/// Who asked, and which address of ours.
type Client = (SocketAddr, Option<IpAddr>);

struct Flow {
    number: u64,
    way: Way,
    last: Rc<Cell<BootTime>>,
    task: AbortHandle,
}

/// Where a flow goes at present.
type Way = Rc<RefCell<Rc<Association>>>;

/// Carries datagrams until it is aborted.
pub(super) async fn serve(
    shared: Rc<Shared>,
    listener: Rc<AsyncFd<OwnedFd>>,
    dial: Dial,
    counters: Rc<Counters>,
) {
    let mut table =
        FlowTable { shared, dial, counters, flows: HashMap::new(), tasks: JoinSet::new(), next: 0 };
    loop {
        tokio::select! {
            Some(ended) = table.tasks.join_next() => table.forget(ended.ok()),
            ready = listener.readable() => {
                let Ok(mut guard) = ready else { return };
                for _ in 0..BATCH {
                    match table.take(&listener).await {
                        Taken::Datagram => {}
                        Taken::Nothing => {
                            guard.clear_ready();
                            break;
                        }
                    }
                }
            }
        }
    }
}

enum Taken {
    Datagram,
    Nothing,
}

struct FlowTable {
    shared: Rc<Shared>,
    dial: Dial,
    counters: Rc<Counters>,
    flows: HashMap<Client, Flow>,
    tasks: JoinSet<(Client, u64)>,
    next: u64,
}

impl FlowTable {
    /// Takes one datagram and sends it on.
    async fn take(&mut self, listener: &Rc<AsyncFd<OwnedFd>>) -> Taken {
        let shared = Rc::clone(&self.shared);
        let (client, first) = {
            let buffer = &mut *shared.buffer.borrow_mut();
            match sockets::receive(listener.as_fd(), buffer) {
                Ok(Arrived { len, from, to }) => {
                    let client = (from, to);
                    match self.flows.get(&client) {
                        Some(flow) => {
                            flow.last.set(clock::now().boot);
                            // What does not fit or is refused is lost, as datagrams are.
                            let way = flow.way.borrow();
                            let _lost = sockets::send(way.socket.as_fd(), &buffer[..len], way.to, None);
                            return Taken::Datagram;
                        }
                        None => (client, buffer[..len].to_vec()),
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Taken::Nothing,
                // Of an earlier answer that did not arrive.
                Err(_) => return Taken::Datagram,
            }
        };
        while let Some(ended) = self.tasks.try_join_next() {
            self.forget(ended.ok());
        }
        if self.shared.flows.get() >= self.shared.max_flows && !self.evict() {
            self.counters.fail();
            return Taken::Datagram;
        }
        let (addresses, inside) = self.shared.candidates(&self.dial);
        let mut others = Candidates { addresses: addresses.into(), inside };
        match self.shared.associate(&mut others).await {
            Ok(association) => {
                let _lost = sockets::send(association.socket.as_fd(), &first, association.to, None);
                self.insert(client, association, Others { candidates: others, first }, listener);
            }
            Err(_nowhere_to_go) => self.counters.fail(),
        }
        Taken::Datagram
    }

    fn insert(
        &mut self,
        client: Client,
        association: Association,
        others: Others,
        listener: &Rc<AsyncFd<OwnedFd>>,
    ) {
        let last = Rc::new(Cell::new(clock::now().boot));
        let number = self.next;
        self.next += 1;
        let way = Rc::new(RefCell::new(Rc::new(association)));
        let mut back = Back {
            shared: Rc::clone(&self.shared),
            way: Rc::clone(&way),
            others,
            listener: Rc::clone(listener),
            client,
            last: Rc::clone(&last),
            counters: Rc::clone(&self.counters),
            _open: self.counters.open(),
            _place: Place::take(&self.shared),
        };
        let task = self.tasks.spawn_local(async move {
            back.run().await;
            (client, number)
        });
        self.flows.insert(client, Flow { number, way, last, task });
    }

    /// Drops a flow whose task has ended, unless its client has a new one already.
    fn forget(&mut self, ended: Option<(Client, u64)>) {
        if let Some((client, number)) = ended
            && self.flows.get(&client).is_some_and(|flow| flow.number == number)
        {
            self.flows.remove(&client);
        }
    }

    /// Makes room; not at the cost of other ports.
    fn evict(&mut self) -> bool {
        let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.last.get()).map(|(client, _)| *client);
        let Some(flow) = oldest.and_then(|client| self.flows.remove(&client)) else { return false };
        flow.task.abort();
        true
    }
}

/// A place among [`Shared::max_flows`].
pub(super) struct Place(Rc<Shared>);

impl Place {
    pub(super) fn take(shared: &Rc<Shared>) -> Self {
        shared.flows.set(shared.flows.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.flows.set(self.0.flows.get().saturating_sub(1));
    }
}

/// Where else a flow may go as long as nobody has answered.
struct Others {
    candidates: Candidates,
    /// To be said again there.
    first: Vec<u8>,
}

/// The way back of one flow.
struct Back {
    shared: Rc<Shared>,
    way: Way,
    others: Others,
    listener: Rc<AsyncFd<OwnedFd>>,
    client: Client,
    last: Rc<Cell<BootTime>>,
    counters: Rc<Counters>,
    _open: Opened,
    _place: Place,
}

impl Back {
    /// Until nothing has come from either side for a while.
    async fn run(&mut self) {
        let mut patience = UNANSWERED;
        loop {
            let way = Rc::clone(&self.way.borrow());
            let silent = clock::now().boot.duration_since(self.last.get());
            let Some(left) = patience.checked_sub(silent).filter(|left| !left.is_zero()) else { return };
            let Ok(ready) = timeout(left, way.socket.ready(HEARS)).await else { continue };
            let Ok(mut guard) = ready else { return };
            let mut refused = false;
            for _ in 0..BATCH {
                let buffer = &mut *self.shared.buffer.borrow_mut();
                match sockets::receive(way.socket.as_fd(), buffer) {
                    Ok(Arrived { len, .. }) => {
                        patience = ANSWERED;
                        self.last.set(clock::now().boot);
                        let (to, from) = self.client;
                        let _lost = sockets::send(self.listener.as_fd(), &buffer[..len], to, from);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        guard.clear_ready();
                        break;
                    }
                    Err(_refused) => refused = true,
                }
            }
            // The server may have the other family only; else the client will try again, or not.
            if refused && (patience == ANSWERED || !self.try_another().await) {
                self.counters.fail();
            }
            tokio::task::yield_now().await;
        }
    }
    /// Whether there is somewhere else to go; then the flow goes there.
    async fn try_another(&mut self) -> bool {
        let Ok(association) = self.shared.associate(&mut self.others.candidates).await else { return false };
        let _lost = sockets::send(association.socket.as_fd(), &self.others.first, association.to, None);
        *self.way.borrow_mut() = Rc::new(association);
        true
    }
}
