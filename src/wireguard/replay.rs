//! The sliding window that accepts each counter once (RFC 6479). (core: no IO, no clock)

use super::keypair::REJECT_AFTER_MESSAGES;

/// Bits in the ring; 8 KiB packets at 1 Gbit/s may overtake each other by 70 ms.
const BITS: u64 = 8192;
const WORDS: usize = 128;
const WORD_BITS: u64 = 64;

/// Counters that may lag behind the highest one: one word of the ring is always being cleared.
pub(super) const WINDOW: u64 = BITS - WORD_BITS;

/// Which counters were seen.
pub(super) struct ReplayWindow {
    /// One more than the highest counter seen; 0 before the first.
    next: u64,
    ring: [u64; WORDS],
}

impl ReplayWindow {
    pub(super) const fn new() -> Self {
        Self { next: 0, ring: [0; WORDS] }
    }

    /// Marks `counter` as seen; false if it was before, is too old, or is past the session's end.
    ///
    /// Only for counters of authenticated messages: an unauthenticated one would move the window.
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES || counter + WINDOW + 1 < self.next {
            return false;
        }
        let word = counter / WORD_BITS;
        if counter >= self.next {
            // Words between the highest one and this one belong to counters of a round ago.
            let highest = if self.next == 0 { 0 } else { (self.next - 1) / WORD_BITS };
            for passed in (highest + 1..=word).take(WORDS) {
                self.ring[ring_index(passed)] = 0;
            }
            self.next = counter + 1;
        }
        let bit = 1 << (counter % WORD_BITS);
        let word = &mut self.ring[ring_index(word)];
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

fn ring_index(word: u64) -> usize {
    usize::try_from(word % WORDS as u64).expect("less than WORDS")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_counter_is_accepted_once() {
        let mut window = ReplayWindow::new();
        let mut seen = HashSet::new();
        for counter in [0, 1, 1, 9, 8, 7, 7, 6, 5, 4, 3, 2, 2, 16, 0] {
            assert_eq!(window.accept(counter), seen.insert(counter), "{counter}");
        }
    }

    #[test]
    fn the_window_reaches_back_8128_and_no_further() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(20_000));
        assert!(window.accept(20_000 - WINDOW));
        assert!(!window.accept(20_000 - WINDOW - 1));
    }

    #[test]
    fn a_jump_by_more_than_the_ring_forgets_everything_before() {
        let mut window = ReplayWindow::new();
        for counter in 0..BITS {
            assert!(window.accept(counter));
        }
        assert!(window.accept(10 * BITS));
        for counter in 10 * BITS - WINDOW..10 * BITS {
            assert!(window.accept(counter), "{counter}");
            assert!(!window.accept(counter), "{counter}");
        }
    }

    #[test]
    fn the_last_counters_of_a_session_are_refused() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(REJECT_AFTER_MESSAGES));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(0));
    }

    /// A naive model: a set, and the highest counter.
    #[test]
    fn it_agrees_with_a_set_of_all_counters() {
        let mut random = 88_172_645_463_325_252_u64;
        let mut window = ReplayWindow::new();
        let (mut seen, mut highest) = (HashSet::new(), 0);
        for step in 0..200_000_u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let spread = [1, 70, 9000, 20_000][usize::try_from(random >> 62).unwrap()];
            let counter = (step + random % spread).saturating_sub(spread / 2);
            let in_window = seen.is_empty() || counter + WINDOW >= highest;
            let wanted = in_window && !seen.contains(&counter);
            assert_eq!(window.accept(counter), wanted, "step {step}, counter {counter}");
            if wanted {
                seen.insert(counter);
                highest = highest.max(counter);
            }
        }
    }

    /// The sequence of the kernel's own self-test, where `lim` is one more than the window.
    #[test]
    fn it_answers_as_the_kernel_does() {
        let lim = WINDOW + 1;
        let mut window = ReplayWindow::new();
        for (counter, fresh) in [
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (lim, true),
            (lim - 1, true),
            (lim - 1, false),
            (lim - 2, true),
            (2, true),
            (2, false),
            (lim + 16, true),
            (3, false),
            (lim + 16, false),
            (lim * 4, true),
            (lim * 4 - (lim - 1), true),
            (10, false),
            (lim * 4 - lim, false),
            (lim * 4 - (lim + 1), false),
            (lim * 4 - (lim - 2), true),
            (lim * 4 + 1 - lim, false),
            (0, false),
            (REJECT_AFTER_MESSAGES, false),
            (REJECT_AFTER_MESSAGES - 1, true),
            (REJECT_AFTER_MESSAGES, false),
            (REJECT_AFTER_MESSAGES - 1, false),
            (REJECT_AFTER_MESSAGES - 2, true),
            (REJECT_AFTER_MESSAGES + 1, false),
            (REJECT_AFTER_MESSAGES - 2, false),
            (REJECT_AFTER_MESSAGES - 3, true),
            (0, false),
        ] {
            assert_eq!(window.accept(counter), fresh, "{counter}");
        }
    }
}
