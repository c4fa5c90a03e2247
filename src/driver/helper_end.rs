//! The end of a helper that nobody would notice until it is wanted. (tasks)
//!
//! Whoever talks to a helper sees that it has ended; some are not talked to until somebody connects, or until the
//! tunnel ends. What no longer works is then said when it happens, not when somebody wonders.

use std::process::Child;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::sys::async_fd::watch;
use crate::sys::pidfd::PidFd;

/// A helper, and what its end means.
#[derive(Debug)]
pub struct HelperEnd {
    process: PidFd,
    meaning: String,
}

impl HelperEnd {
    /// Of a child that nobody has waited for. To be called before lock-down; `None` where the kernel has no descriptor
    /// for us.
    #[must_use]
    pub fn of(child: &Child, meaning: String) -> Option<Self> {
        Some(Self { process: PidFd::open(child.id()).ok()?, meaning })
    }

    /// Says it, once. Must be polled within a tokio runtime.
    pub async fn tell(self) {
        let Ok(process) = watch(self.process, Interest::READABLE) else { return };
        ended(&process).await;
        warn!("{}", self.meaning);
    }
}

/// Waits until a process has ended.
pub(super) async fn ended(process: &AsyncFd<PidFd>) {
    loop {
        let Ok(mut guard) = process.readable().await else { return };
        if !matches!(guard.get_inner().has_ended(), Ok(false)) {
            return;
        }
        guard.clear_ready();
    }
}
