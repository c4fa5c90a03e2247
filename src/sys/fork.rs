//! `fork(2)` where it is sound: while there is one thread. (operating system)

use nix::errno::Errno;
use nix::unistd::Pid;

/// Which of the two processes we are.
#[derive(Debug)]
pub enum Fork {
    /// The one that called; holds the other's id.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Why there was no fork.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// A second thread may hold a lock that would stay locked in the child for ever.
    #[error("a process with {0} threads cannot fork")]
    Threads(usize),
    /// The threads could not be counted.
    #[error("cannot read `/proc/self/task`")]
    Count(#[source] std::io::Error),
    /// The kernel refused.
    #[error("cannot fork")]
    Fork(#[source] Errno),
}

/// Duplicates this process.
///
/// # Errors
/// The process has more than one thread, or the kernel refuses.
pub fn fork() -> Result<Fork, ForkError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(ForkError::Count)?.count();
    if threads != 1 {
        return Err(ForkError::Threads(threads));
    }
    // SAFETY: a fork is undefined only where another thread may hold a lock (the allocator's, stdio's) that the child
    // needs. There is no other thread: they were counted above, and only this thread could start one.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Parent { child }) => Ok(Fork::Parent(child)),
        Ok(nix::unistd::ForkResult::Child) => Ok(Fork::Child),
        Err(errno) => Err(ForkError::Fork(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_does_not_fork() {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().ok());
        assert!(matches!(fork(), Err(ForkError::Threads(2..))));
        drop(release);
        other.join().unwrap();
    }
}
