//! Datagrams that could not be sent, counted by errno, and now and then told. (driver)

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::SendOutcome;
use crate::driver::log_limit::LineLimit;
use crate::time::BootTime;

/// What has failed so far; there are no more entries than errno values.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_errno: Mutex<BTreeMap<i32, Failure>>,
}

#[derive(Debug)]
struct Failure {
    datagrams: u64,
    said: LineLimit,
}

impl Failures {
    /// Counts what became of a batch; one line a minute and errno.
    pub(super) fn note(&self, outcome: &SendOutcome, now: BootTime) {
        if outcome.failures.is_empty() {
            return;
        }
        let mut by_errno = self.lock();
        for failed in &outcome.failures {
            let failure = by_errno
                .entry(failed.errno)
                .or_insert_with(|| Failure { datagrams: 0, said: LineLimit::of(1) });
            failure.datagrams = failure.datagrams.saturating_add(failed.datagrams as u64);
            if failure.said.admit(now).is_some() {
                let error = io::Error::from_raw_os_error(failed.errno);
                warn!(%error, datagrams = failure.datagrams, "datagrams cannot be sent");
            }
        }
    }

    /// How many, by errno.
    pub(super) fn by_errno(&self) -> BTreeMap<i32, u64> {
        self.lock().iter().map(|(errno, failure)| (*errno, failure.datagrams)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Failure>> {
        // Every change leaves the map whole.
        self.by_errno.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
