//! The timestamps of handshake initiations: TAI64N, coarse, and never the same twice. (core: no IO, no clock)

use crate::time::WallTime;

/// TAI64 label of the Unix epoch, with the ten seconds that TAI was ahead of UTC in 1970.
const EPOCH: u64 = 0x4000_0000_0000_000a;

/// Timestamps are rounded down to this many nanoseconds (16.8 ms) so that they tell little about the clock: the
/// largest power of two within the time that must lie between two initiations.
const GRAIN: u32 = 1 << 24;

const NANOS_PER_SEC: u32 = 1_000_000_000;

/// A moment as an initiation carries it; ordered as bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tai64n(pub(super) [u8; 12]);

/// Makes timestamps that only grow, whatever the wall clock does.
///
/// One for the whole device: a peer that is removed and added again must not see an old time.
#[derive(Debug, Default)]
pub(super) struct TimestampSource {
    last: Option<WallTime>,
}

impl TimestampSource {
    /// A timestamp later than all before it: `wall` rounded down, or the last one and a nanosecond.
    pub(super) fn next(&mut self, wall: WallTime) -> Tai64n {
        let coarse = WallTime { secs: wall.secs, nanos: wall.nanos - wall.nanos % GRAIN };
        let stamp = match self.last {
            Some(last) if coarse <= last => successor(last),
            Some(_) | None => coarse,
        };
        self.last = Some(stamp);
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&EPOCH.wrapping_add(stamp.secs).to_be_bytes());
        bytes[8..].copy_from_slice(&stamp.nanos.to_be_bytes());
        Tai64n(bytes)
    }
}

const fn successor(time: WallTime) -> WallTime {
    if time.nanos + 1 < NANOS_PER_SEC {
        WallTime { secs: time.secs, nanos: time.nanos + 1 }
    } else {
        WallTime { secs: time.secs.saturating_add(1), nanos: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_has_its_label() {
        let stamp = TimestampSource::default().next(WallTime { secs: 1, nanos: 0 });
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0, 0, 0, 0]);
    }

    #[test]
    fn nanoseconds_are_rounded_to_sixteen_milliseconds() {
        let stamp = TimestampSource::default().next(WallTime { secs: 0, nanos: 999_999_999 });
        let nanos = u32::from_be_bytes(stamp.0[8..].try_into().unwrap());
        assert_eq!(nanos % GRAIN, 0);
        assert!(999_999_999 - nanos < GRAIN);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_still_gives_later_timestamps() {
        let mut source = TimestampSource::default();
        let mut last = source.next(WallTime { secs: 1000, nanos: 999_999_999 });
        for secs in [1000, 1000, 500, 0, 1001, 1001, 3] {
            let stamp = source.next(WallTime { secs, nanos: 999_999_999 });
            assert!(stamp > last);
            last = stamp;
        }
    }
}
