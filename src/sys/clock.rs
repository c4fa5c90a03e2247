//! The two clocks, and a timer on the one that keeps counting while the machine sleeps. (operating system)

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

use super::os_error::OsError;

/// Nanoseconds of `CLOCK_BOOTTIME`: since boot, suspension included.
#[must_use]
pub fn boot_nanos() -> u64 {
    let now = clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("CLOCK_BOOTTIME exists since Linux 2.6.39 and the result is on our stack");
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds and nanoseconds of `CLOCK_REALTIME` since 1970; zero for a clock before that.
#[must_use]
pub fn wall() -> (u64, u32) {
    let now = clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .expect("CLOCK_REALTIME always exists and the result is on our stack");
    match (u64::try_from(now.tv_sec()), u32::try_from(now.tv_nsec())) {
        (Ok(secs), Ok(nanos)) => (secs, nanos),
        _ => (0, 0),
    }
}

/// A timer at an absolute boot time; readable (level triggered) from then until it is set again.
///
/// Wrap it in tokio's `AsyncFd`, or poll it.
#[derive(Debug)]
pub struct BootTimer {
    timer: TimerFd,
}

impl BootTimer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// What `timerfd_create(2)` says.
    pub fn new() -> Result<Self, OsError> {
        let timer =
            TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Self { timer })
    }

    /// Fires at `deadline` (nanoseconds since boot), at once if that has passed; `None` never.
    ///
    /// Setting also takes back an expiration that has not been noticed yet.
    ///
    /// # Errors
    /// What `timerfd_settime(2)` says.
    pub fn set(&self, deadline: Option<u64>) -> Result<(), OsError> {
        match deadline {
            // An absolute time of zero would disarm.
            Some(nanos) => self.timer.set(
                Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(nanos.max(1)))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )?,
            None => self.timer.unset()?,
        }
        Ok(())
    }
}

impl AsRawFd for BootTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_fd().as_raw_fd()
    }
}

impl AsFd for BootTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait::readable;

    #[test]
    fn a_timer_fires_at_its_deadline_and_not_before() {
        let timer = BootTimer::new().unwrap();
        timer.set(Some(boot_nanos() + 30_000_000)).unwrap();
        assert!(!readable(timer.as_fd(), Some(Duration::ZERO)).unwrap());
        let asked = boot_nanos();
        assert!(readable(timer.as_fd(), Some(Duration::from_secs(5))).unwrap());
        assert!(boot_nanos() - asked >= 20_000_000);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_once_and_none_disarms() {
        let timer = BootTimer::new().unwrap();
        timer.set(Some(0)).unwrap();
        assert!(readable(timer.as_fd(), Some(Duration::from_secs(1))).unwrap());
        timer.set(None).unwrap();
        assert!(!readable(timer.as_fd(), Some(Duration::ZERO)).unwrap());
    }

    #[test]
    fn the_wall_clock_is_in_this_century() {
        assert!(wall().0 > 1_600_000_000);
    }
}
