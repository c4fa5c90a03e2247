//! Deadlines: six timers a peer, and the one that is due first in the whole device. (core: no IO, no clock)
//!
//! # Theory of operation
//! Each peer keeps its timers in an array; the device keeps one entry a peer, its earliest, in an ordered set. So the
//! next deadline is exact and costs no scan, and an idle peer costs nothing at all.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::time::BootTime;

/// WireGuard paper §6.1: an initiation without an answer is repeated after this long.
pub(super) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// WireGuard paper §6.1: on top of [`REKEY_TIMEOUT`], so that two ends that began together do not go on together.
pub(super) const MAX_JITTER: Duration = Duration::from_millis(333);
/// WireGuard paper §6.1: data received is answered after this long, by a keepalive if by nothing else.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// WireGuard paper §6.2: data sent and nothing heard for this long means a new handshake.
pub(super) const AWAIT_REPLY_TIMEOUT: Duration = Duration::from_secs(15);
/// The kernel module's MAX_TIMER_HANDSHAKES: 90 s of REKEY_TIMEOUTs.
pub(super) const MAX_HANDSHAKE_ATTEMPTS: u32 = 18;
/// WireGuard paper §6.3: keys that were not renewed for three times REJECT_AFTER_TIME are wiped.
pub(super) const ZERO_KEYS_AFTER: Duration = Duration::from_secs(3 * 180);

/// What a peer may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The answer to an initiation.
    Retransmit,
    /// The time when the next initiation may be sent.
    Initiate,
    /// The answer to data.
    AwaitReply,
    /// The time to answer the peer's data.
    Keepalive,
    /// The persistent keepalive.
    PersistentKeepalive,
    /// The time to wipe keys.
    ZeroKeys,
}

const ALL: [Timer; 6] = [
    Timer::Retransmit,
    Timer::Initiate,
    Timer::AwaitReply,
    Timer::Keepalive,
    Timer::PersistentKeepalive,
    Timer::ZeroKeys,
];

const NEVER: BootTime = BootTime::from_nanos(u64::MAX);

/// One peer's timers.
pub(super) struct Timers([BootTime; ALL.len()]);

impl Timers {
    pub(super) const fn new() -> Self {
        Self([NEVER; ALL.len()])
    }

    pub(super) const fn set(&mut self, timer: Timer, at: BootTime) {
        self.0[timer as usize] = at;
    }

    pub(super) const fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = NEVER;
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize] != NEVER
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.0.into_iter().min().filter(|at| *at != NEVER)
    }

    /// A timer whose time has come; it is cleared.
    pub(super) fn take_due(&mut self, now: BootTime) -> Option<Timer> {
        let timer = ALL.into_iter().find(|timer| self.0[*timer as usize] <= now)?;
        self.clear(timer);
        Some(timer)
    }
}

/// The peers' earliest deadlines, in order.
#[derive(Default)]
pub(super) struct Schedule {
    entries: BTreeSet<(BootTime, u32)>,
}

impl Schedule {
    /// Moves a peer's entry from `before` to `after`.
    pub(super) fn reschedule(&mut self, peer: u32, before: Option<BootTime>, after: Option<BootTime>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.entries.remove(&(before, peer));
        }
        if let Some(after) = after {
            self.entries.insert((after, peer));
        }
    }

    /// When the first peer is due.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// The first peer that is due.
    pub(super) fn first_due(&self, now: BootTime) -> Option<u32> {
        self.entries.first().filter(|(at, _)| *at <= now).map(|(_, peer)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> BootTime {
        BootTime::from_nanos(secs * 1_000_000_000)
    }

    #[test]
    fn every_timer_has_its_place() {
        for (place, timer) in ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, place);
        }
    }

    #[test]
    fn the_earliest_timer_is_next_and_goes_off_once() {
        let mut timers = Timers::new();
        assert_eq!(timers.next(), None);
        timers.set(Timer::ZeroKeys, at(9));
        timers.set(Timer::Keepalive, at(5));
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.take_due(at(4)), None);
        assert_eq!(timers.take_due(at(5)), Some(Timer::Keepalive));
        assert_eq!(timers.take_due(at(5)), None);
        assert_eq!(timers.next(), Some(at(9)));
    }

    #[test]
    fn the_schedule_yields_peers_in_order_of_their_deadlines() {
        let mut schedule = Schedule::default();
        schedule.reschedule(1, None, Some(at(5)));
        schedule.reschedule(2, None, Some(at(3)));
        schedule.reschedule(1, Some(at(5)), Some(at(2)));
        assert_eq!((schedule.next(), schedule.first_due(at(2))), (Some(at(2)), Some(1)));
        schedule.reschedule(1, Some(at(2)), None);
        assert_eq!((schedule.first_due(at(2)), schedule.first_due(at(3))), (None, Some(2)));
    }
}
