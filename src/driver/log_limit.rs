//! Keeps what others can cause at will from filling the log. (driver: no IO)

use std::time::Duration;

use crate::time::BootTime;

/// How long lines are counted together.
const WINDOW: Duration = Duration::from_secs(60);

/// Counts the lines of one kind.
#[derive(Clone, Copy, Debug)]
pub struct LineLimit {
    lines: u32,
    since: Option<BootTime>,
    written: u32,
    left_out: u64,
}

/// A line may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Lines that were not, since the last that was.
    pub left_out: u64,
}

impl LineLimit {
    /// So many lines a minute.
    #[must_use]
    pub const fn of(lines: u32) -> Self {
        Self { lines, since: None, written: 0, left_out: 0 }
    }

    /// Whether one more line may be written at `now`.
    pub fn admit(&mut self, now: BootTime) -> Option<Admitted> {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written == self.lines {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(Admitted { left_out: std::mem::take(&mut self.left_out) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_a_minute_are_written_and_the_others_counted() {
        let start = BootTime::from_nanos(7_000_000_000);
        let mut limit = LineLimit::of(10);
        let at = |millis| start + Duration::from_millis(millis);
        let written = (0..59_000).filter(|millis| limit.admit(at(*millis)).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(limit.admit(at(60_000)), Some(Admitted { left_out: 58_990 }));
        assert_eq!(limit.admit(at(60_001)), Some(Admitted { left_out: 0 }));
    }
}
