//! Boot time for deadlines, wall time for what people and TAI64N see. (vocabulary: plain data, reads no clock)
//!
//! Deadlines must keep counting while the machine sleeps, or a session would outlive its 180 s across a suspend;
//! so the monotonic clock here is `CLOCK_BOOTTIME`. Only `sys::clock` makes these values.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point on `CLOCK_BOOTTIME`, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// From nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot: what an atomic stores.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not later.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for BootTime {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Time since the Unix epoch, as people read it; may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime {
    /// Whole seconds since 1970-01-01 UTC.
    pub secs: u64,
    /// Nanoseconds within the second, below 10⁹.
    pub nanos: u32,
}

/// The moment an input is handled: every core method that depends on time takes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub boot: BootTime,
    /// For TAI64N and for `wg show`.
    pub wall: WallTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_never_goes_negative() {
        let (early, late) = (BootTime::from_nanos(5), BootTime::from_nanos(9));
        assert_eq!(early.duration_since(late), Duration::ZERO);
        assert_eq!(late.duration_since(early), Duration::from_nanos(4));
    }

    #[test]
    fn adding_past_the_end_saturates() {
        assert_eq!(BootTime::from_nanos(1) + Duration::MAX, BootTime::from_nanos(u64::MAX));
    }
}
