//! Where `now` comes from. (tasks)

use crate::sys::clock;
use crate::time::{BootTime, Now, WallTime};

/// This moment on both clocks: taken once per input, then handed down.
#[must_use]
pub fn now() -> Now {
    let (secs, nanos) = clock::wall();
    Now { boot: BootTime::from_nanos(clock::boot_nanos()), wall: WallTime { secs, nanos } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_never_goes_back() {
        let earlier = now();
        assert!(now().boot >= earlier.boot);
    }
}
