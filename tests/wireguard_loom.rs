//! What two data threads share of a session, under every order in which they can run (loom): the nonces of the sender,
//! the window of the receiver. The files of the engine itself are compiled here, against loom's atomics.

use loom::sync::{Arc, Mutex};
use loom::thread;

mod keypair {
    /// WireGuard paper §6.1, as in `src/wireguard/keypair.rs`.
    pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
}
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[expect(dead_code, reason = "the engine's own tests use the rest")]
#[path = "../src/wireguard/nonce.rs"]
mod nonce;
#[path = "../src/wireguard/replay.rs"]
mod replay;

use self::keypair::REJECT_AFTER_MESSAGES;
use self::nonce::NonceCounter;
use self::replay::ReplayWindow;

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
