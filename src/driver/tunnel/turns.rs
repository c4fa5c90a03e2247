//! Which data thread reads the link, and how long it looks before it sleeps. (threads)
//!
//! # Theory of operation
//! Under load each data thread has a direction, and both processors work. On a quiet tunnel that is the slow way: a
//! packet that goes out and its answer that comes back wake two threads, each on another processor, and on a virtual
//! machine waking an idle processor takes longer (20 µs) than all work on a small packet (5 µs). So while batches are
//! small the rx thread does both directions and the tx thread sleeps; with the first large batch the link goes back to
//! the tx thread, for [`LINGER`] at least. What is read from the link is sealed and sent under one lock, so the moment
//! in which both threads read changes no order.
//!
//! A quiet rx thread also looks for a while before it sleeps, where looking has paid lately: an answer from nearby is
//! there sooner than a sleeping thread is woken. (The kernel's haltpoll governor and KVM do the same.)

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::driver::clock;
use crate::driver::link::{Link, LinkError, Ready, Watch};
use crate::packet::batch::PacketBatch;
use crate::sys::os_error::OsError;
use crate::time::BootTime;

/// How long after a large batch the tunnel counts as loaded.
const LINGER: Duration = Duration::from_millis(10);

/// Batches of more packets are load.
const QUIET_PACKETS: usize = 4;

/// Batches of more bytes are load: more than two full packets.
const QUIET_BYTES: usize = 4096;

/// One of the two data threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The one that has nothing else to do.
    Tx,
    /// The one that reads the socket.
    Rx,
}

/// How much a batch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    packets: usize,
    bytes: usize,
}

impl Load {
    /// As much as there can be.
    pub(super) const HEAVY: Self = Self { packets: usize::MAX, bytes: usize::MAX };

    pub(super) fn of(batch: &PacketBatch) -> Self {
        Self { packets: batch.len(), bytes: batch.used() }
    }

    const fn is_quiet(self) -> bool {
        self.packets <= QUIET_PACKETS && self.bytes <= QUIET_BYTES
    }
}

/// Whose turn it is to read the link.
pub(super) struct Turns {
    is_rx: AtomicBool,
    /// Readable when the turn has changed: wakes the tx thread.
    changed: EventFd,
    /// Boot time of the last large batch, in nanoseconds.
    loaded_at: AtomicU64,
}

impl Turns {
    /// A quiet tunnel's.
    ///
    /// # Errors
    /// What `eventfd(2)` says.
    pub(super) fn new() -> Result<Self, OsError> {
        let changed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { is_rx: AtomicBool::new(true), changed, loaded_at: AtomicU64::new(0) })
    }

    pub(super) fn has_link(&self, turn: Turn) -> bool {
        self.is_rx.load(Ordering::Acquire) == (turn == Turn::Rx)
    }

    /// Makes it `turn`'s.
    pub(super) fn give_link(&self, turn: Turn) {
        let is_rx = turn == Turn::Rx;
        if self.is_rx.swap(is_rx, Ordering::AcqRel) != is_rx {
            // The counter would have to be written 2⁶⁴ times to be full, and then the event is there anyway.
            let _full = self.changed.write(1);
        }
    }

    /// Takes the news that the turn has changed.
    pub(super) fn hear(&self) {
        // EAGAIN: taken already.
        let _nothing = self.changed.read();
    }

    /// Notes how much a batch was.
    pub(super) fn note(&self, load: Load, now: BootTime) {
        if !load.is_quiet() {
            self.loaded_at.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    /// Whether there has been no large batch for a while.
    pub(super) fn is_quiet(&self, now: BootTime) -> bool {
        let loaded = BootTime::from_nanos(self.loaded_at.load(Ordering::Relaxed));
        now > loaded + LINGER
    }
}

impl AsFd for Turns {
    /// Readable when the turn has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}

/// How long to look: about what waking a thread takes, twice.
const LOOK: Duration = Duration::from_micros(50);

/// What comes so soon after falling asleep would have been seen by looking.
const SOON: Duration = Duration::from_micros(100);

/// After looking in vain the next so many times are not looked at, doubled each time.
const MOST_RESTS: u32 = 1024;

/// Waits for the link and the socket.
pub(super) struct Lookout {
    /// With one processor, looking keeps others from working.
    may_look: bool,
    /// After a packet was sent, and after one was delivered: their answers differ in when they come.
    habits: [Habit; 2],
    sent: bool,
}

/// Whether looking pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Habit {
    pays: bool,
    rests: u32,
    penalty: u32,
}

impl Habit {
    /// Whether to look this time.
    fn looks(&mut self) -> bool {
        if self.rests > 0 {
            self.rests -= 1;
            return false;
        }
        self.pays
    }

    fn found(&mut self) {
        self.penalty = 0;
    }

    fn missed(&mut self) {
        self.pays = false;
        self.penalty = (self.penalty * 2).clamp(1, MOST_RESTS);
        self.rests = self.penalty;
    }

    fn slept(&mut self, slept: Duration) {
        self.pays = slept < SOON;
    }
}

impl Lookout {
    pub(super) fn new(processors: usize) -> Self {
        Self { may_look: processors > 1, habits: [Habit::default(); 2], sent: false }
    }

    /// Tells what was done since the last wait: a packet was sent, or not.
    pub(super) const fn note(&mut self, sent: bool) {
        self.sent = sent;
    }

    /// Waits for packets of the link or for `socket`, or for shutdown.
    ///
    /// # Errors
    /// The link's end.
    pub(super) fn wait(&mut self, link: &Link, socket: BorrowedFd<'_>) -> Result<Ready, LinkError> {
        let habit = &mut self.habits[usize::from(self.sent)];
        let begin = clock::now().boot;
        if self.may_look && habit.looks() {
            loop {
                let ready = link.wait(Watch::Packets, Some(socket), Some(Duration::ZERO))?;
                if ready.packets || ready.other {
                    habit.found();
                    return Ok(ready);
                }
                if clock::now().boot.duration_since(begin) >= LOOK {
                    habit.missed();
                    break;
                }
            }
            return link.wait(Watch::Packets, Some(socket), None);
        }
        let ready = link.wait(Watch::Packets, Some(socket), None)?;
        habit.slept(clock::now().boot.duration_since(begin));
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_batch_is_load_for_a_while() {
        let turns = Turns::new().unwrap();
        let at = |millis: u64| BootTime::from_nanos(1_000_000_000) + Duration::from_millis(millis);
        assert!(turns.is_quiet(at(0)));
        turns.note(Load { packets: 1, bytes: 1430 }, at(0));
        assert!(turns.is_quiet(at(0)), "one packet is no load");
        turns.note(Load { packets: 1, bytes: 60_000 }, at(1));
        assert!(!turns.is_quiet(at(2)));
        assert!(!turns.is_quiet(at(11)));
        assert!(turns.is_quiet(at(12)));
        turns.note(Load { packets: 64, bytes: 64 * 70 }, at(20));
        assert!(!turns.is_quiet(at(21)));
    }

    #[test]
    fn whoever_sleeps_is_told_that_the_turn_has_changed() {
        let turns = Turns::new().unwrap();
        assert!(turns.has_link(Turn::Rx) && !turns.has_link(Turn::Tx));
        turns.give_link(Turn::Rx);
        assert!(turns.changed.read().is_err(), "nothing has changed");
        turns.give_link(Turn::Tx);
        assert!(turns.has_link(Turn::Tx));
        assert_eq!(turns.changed.read(), Ok(1));
        turns.give_link(Turn::Rx);
        turns.hear();
        assert!(turns.changed.read().is_err(), "heard already");
    }

    #[test]
    fn looking_in_vain_becomes_rare() {
        let mut habit = Habit::default();
        assert!(!habit.looks(), "not before it has paid");
        let mut looked = 0;
        for _ in 0..10_000 {
            if habit.looks() {
                looked += 1;
                habit.missed();
            } else {
                // Just too late for looking, but soon after falling asleep.
                habit.slept(LOOK + Duration::from_micros(10));
            }
        }
        assert!(looked < 25, "looked {looked} times");
        habit = Habit::default();
        habit.slept(Duration::from_micros(40));
        assert!(habit.looks());
        habit.found();
        assert!(habit.looks(), "goes on while it pays");
    }
}
