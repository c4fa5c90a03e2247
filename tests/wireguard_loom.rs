//! What two data threads share of a session, under every order in which they can run (loom): the nonces of the sender,
//! the window of the receiver,
//! the packets that wait while the control half swaps sessions. The files of the engine itself are compiled here, against loom's atomics.

use loom::sync::{Arc, Mutex};
use loom::thread;

mod keypair {
    /// WireGuard paper §6.1, as in `src/wireguard/keypair.rs`.
    pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
}
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
}
#[expect(dead_code, reason = "the engine's own tests use the rest")]
#[path = "../src/wireguard/nonce.rs"]
mod nonce;
#[path = "../src/wireguard/replay.rs"]
mod replay;
#[path = "../src/wireguard/waiting.rs"]
mod waiting;

use self::keypair::REJECT_AFTER_MESSAGES;
use self::nonce::NonceCounter;
use self::replay::ReplayWindow;
use self::waiting::Waiting;

/// Each thread takes batches until it is refused; what each got.
fn take_all(start: u64, counts: [u64; 2]) -> Vec<(u64, u64)> {
    let counter = Arc::new(NonceCounter::starting_at(start));
    let threads = counts.map(|count| {
        let counter = Arc::clone(&counter);
        thread::spawn(move || {
            let mut taken = Vec::new();
            for _ in 0..2 {
                taken.extend(counter.reserve(count).map(|first| (first, count)));
            }
            taken
        })
    });
    let taken: Vec<_> =
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect();
    assert!(counter.taken() >= start, "the counter has wrapped");
    taken
}

fn are_disjoint(mut taken: Vec<(u64, u64)>) -> bool {
    taken.sort_unstable();
    taken.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
}

#[test]
fn no_two_threads_get_the_same_nonce() {
    loom::model(|| {
        let taken = take_all(0, [64, 7]);
        assert_eq!(taken.len(), 4);
        assert!(are_disjoint(taken));
    });
}

#[test]
fn at_the_end_of_a_session_no_thread_gets_a_nonce_past_it() {
    for left in [0, 1, 5, 6, 11, 12] {
        loom::model(move || {
            let taken = take_all(REJECT_AFTER_MESSAGES - left, [5, 6]);
            assert!(taken.iter().all(|(first, count)| first + count <= REJECT_AFTER_MESSAGES), "{taken:?}");
            assert!(are_disjoint(taken));
        });
    }
}

#[test]
fn a_datagram_that_two_threads_receive_is_accepted_by_one() {
    loom::model(|| {
        let window = Arc::new(Mutex::new(ReplayWindow::new()));
        let threads = [[0, 70, 9000], [70, 9000, 0]].map(|counters| {
            let window = Arc::clone(&window);
            thread::spawn(move || {
                counters.map(|counter| (counter, window.lock().expect("no thread panics").accept(counter)))
            })
        });
        let seen: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        let accepted = |wanted| seen.iter().filter(|(counter, fresh)| *counter == wanted && *fresh).count();
        assert_eq!((accepted(70), accepted(9000)), (1, 1), "{seen:?}");
        // It may have fallen out of the window before anybody saw it.
        assert!(accepted(0) <= 1, "{seen:?}");
    });
}

/// A session: which it is, and its nonces.
type Session = (u64, NonceCounter);

/// What a data thread and the control half share of a peer.
struct Peer {
    session: Mutex<Option<Arc<Session>>>,
    staged: Mutex<usize>,
    waiting: Waiting,
    /// The notices that the control half has yet to see.
    told: Mutex<usize>,
}

impl Peer {
    fn new(session: Option<Arc<Session>>) -> Arc<Self> {
        let (staged, told) = (Mutex::new(0), Mutex::new(0));
        Arc::new(Self { session: Mutex::new(session), staged, waiting: Waiting::new(), told })
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().expect("no thread panics").clone()
    }

    /// As `TxPath`: seals under the session there is, or stages and tells.
    fn send(&self) -> Option<(u64, u64)> {
        if let Some(session) = self.session() {
            return session.1.reserve(1).map(|nonce| (session.0, nonce));
        }
        let mut staged = self.staged.lock().expect("no thread panics");
        *staged += 1;
        self.waiting.set(*staged);
        drop(staged);
        if self.waiting.ask() {
            *self.told.lock().expect("no thread panics") += 1;
        }
        None
    }

    /// As `Device::flush`: what waits is sealed under the new session.
    fn flush(&self) -> Vec<(u64, u64)> {
        let Some(session) = self.session().filter(|_| self.waiting.answer()) else { return Vec::new() };
        let mut staged = self.staged.lock().expect("no thread panics");
        let count = std::mem::take(&mut *staged);
        self.waiting.set(0);
        (0..count).filter_map(|_| session.1.reserve(1)).map(|nonce| (session.0, nonce)).collect()
    }
}

#[test]
fn a_packet_staged_while_the_session_comes_is_sent_or_asked_for() {
    loom::model(|| {
        let peer = Peer::new(None);
        // One packet waits already, and the control half knows it.
        assert_eq!(peer.send(), None);
        *peer.told.lock().expect("no thread panics") = 0;
        let data = thread::spawn({
            let peer = Arc::clone(&peer);
            move || peer.send()
        });
        *peer.session.lock().expect("no thread panics") = Some(Arc::new((1, NonceCounter::starting_at(0))));
        let flushed = peer.flush();
        let sent = data.join().expect("it does not panic");
        let told = *peer.told.lock().expect("no thread panics");
        let left = *peer.staged.lock().expect("no thread panics");
        assert_eq!(flushed.len() + usize::from(sent.is_some()) + left, 2);
        assert!(left == 0 || told != 0, "a packet waits and nobody knows");
    });
}

#[test]
fn no_nonce_is_used_twice_while_sessions_are_swapped() {
    loom::model(|| {
        let session = |number| Arc::new((number, NonceCounter::starting_at(0)));
        let peer = Peer::new(Some(session(1)));
        let data = thread::spawn({
            let peer = Arc::clone(&peer);
            move || [peer.send(), peer.send()]
        });
        // Sealed by the control half itself: a keepalive under the old session, then one under the new.
        let mut used = vec![peer.send()];
        *peer.session.lock().expect("no thread panics") = Some(session(2));
        used.push(peer.send());
        used.extend(data.join().expect("it does not panic"));
        let mut used: Vec<_> = used.into_iter().flatten().collect();
        assert_eq!(used.len(), 4);
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), 4, "a nonce twice");
    });
}
