//! The replay window, 64 counters a call as a received batch brings them. The file of the engine itself is compiled here,
//! which nobody else gets to see.

use std::hint::black_box;

use criterion::{Criterion, Throughput};

use self::replay::ReplayWindow;

mod keypair {
    /// WireGuard paper §6.1, as in `src/wireguard/keypair.rs`.
    pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
}
#[expect(unused_imports, reason = "what only its tests use")]
#[path = "../src/wireguard/replay.rs"]
mod replay;

/// Counters of a batch.
const BATCH: u64 = 64;

/// The counter at a place of a batch, out of the batch's number and the place.
type Counter = fn(u64, u64) -> u64;

/// How far back the late ones are: half the window.
const LATE: u64 = 4096;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(BATCH));
    // What batch `number` brings, and how many of it are new.
    let cases: [(_, Counter, _); 5] = [
        ("in order", |number, place| number * BATCH + place, BATCH),
        ("backwards", |number, place| number * BATCH + BATCH - 1 - place, BATCH),
        ("every other one 4096 late", late, BATCH),
        ("each twice", |number, place| number * BATCH / 2 + place / 2, BATCH / 2),
        // Each clears the whole ring.
        ("a window apart", |number, place| (number * BATCH + place) * 8192, BATCH),
    ];
    for (name, counter, fresh) in cases {
        let mut window = ReplayWindow::new();
        // The late ones of the first batches would be before the beginning.
        let mut numbers = 2 * LATE / BATCH..;
        let mut next = || {
            let number = numbers.next().expect("endless");
            (0..BATCH).map(|place| u64::from(window.accept(black_box(counter(number, place))))).sum::<u64>()
        };
        group.bench_function(name, |bencher| bencher.iter(&mut next));
        assert_eq!(next(), fresh, "{name}");
    }
    group.finish();
    criterion.final_summary();
}

/// Even counters as they come, odd ones late.
const fn late(number: u64, place: u64) -> u64 {
    let counter = number * BATCH + place;
    if place.is_multiple_of(2) { counter } else { counter - LATE }
}
