//! `ls`, `status`, `logs` and `stop`: looking at tunnels from outside, and ending them. (wiring)
//!
//! Who runs is known from the locks, who they are from the records in them, and how they are from themselves: a
//! tunnel answers `report=1` on its configuration socket.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;

use crate::driver::command::TunnelReport;
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::instance::{
    DirectoryError, Instance, InstanceName, InstanceRecord, RuntimeDir, existing_runtime_dir, find, list,
    start_time,
};
use crate::driver::logging::{JOURNAL_IDENTIFIER, LogError, journal_is_there, log_path};
use crate::driver::uapi_client::{UapiClient, UapiClientError};
use crate::sys::os_error::OsError;
use crate::sys::pidfd::PidFd;

/// How long an end may take: a tunnel ends within a second, a command that `run` started may take longer.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Why a tunnel could not be looked at or ended.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The directory of the sockets cannot be trusted or read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its locks cannot be read.
    #[error("cannot read the locks in `{}`", path.display())]
    Locks {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody has that name.
    #[error("no tunnel named `{name}` is running")]
    NotRunning {
        /// The name.
        name: InstanceName,
    },
    /// It has the name but has not said who it is.
    #[error("the tunnel `{name}` is starting up")]
    Starting {
        /// The name.
        name: InstanceName,
    },
    /// Its socket does not answer, or not with a report: another program, or another version.
    #[error("cannot talk to `{name}`")]
    Talk {
        /// The name.
        name: InstanceName,
        /// What was seen.
        source: UapiClientError,
    },
    /// It may not be signalled.
    #[error("cannot end process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// What the system said.
        source: OsError,
    },
    /// It was asked to end and has not.
    #[error("process {pid} was asked to end and has not within {} s", END_DEADLINE.as_secs())]
    StillRunning {
        /// The process.
        pid: u32,
    },
    /// It has no log file, and there is no journal.
    #[error("cannot read the log `{}`", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name of the log file is not known.
    #[error(transparent)]
    LogPath(#[from] LogError),
    /// The journal's own program failed.
    #[error("cannot run `journalctl`")]
    Journal(#[source] io::Error),
    /// What was read cannot be passed on.
    #[error("cannot write the log out")]
    Output(#[source] io::Error),
}

impl Failure for InspectError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Directory(error) => error.class(),
            Self::Locks { .. }
            | Self::NotRunning { .. }
            | Self::Starting { .. }
            | Self::Talk { .. }
            | Self::Signal { .. }
            | Self::StillRunning { .. }
            | Self::Log { .. }
            | Self::LogPath(_)
            | Self::Journal(_)
            | Self::Output(_) => FailureClass::General,
        }
    }
}

/// All tunnels that run, by name.
///
/// # Errors
/// The directory cannot be trusted or read.
pub fn instances(uapi_dir: Option<&Path>) -> Result<Vec<Instance>, InspectError> {
    let Some(directory) = existing_runtime_dir(uapi_dir)? else { return Ok(Vec::new()) };
    list(&directory).map_err(|source| locks(&directory, source))
}

fn locks(directory: &RuntimeDir, source: io::Error) -> InspectError {
    InspectError::Locks { path: directory.path().into(), source }
}

/// The record of a tunnel that runs, and where its files are.
///
/// # Errors
/// It does not run, or has not written a record yet.
pub fn running(
    name: &InstanceName,
    uapi_dir: Option<&Path>,
) -> Result<(InstanceRecord, RuntimeDir), InspectError> {
    let not_running = || InspectError::NotRunning { name: name.clone() };
    let directory = existing_runtime_dir(uapi_dir)?.ok_or_else(not_running)?;
    let instance = find(&directory, name).map_err(|source| locks(&directory, source))?;
    match instance.ok_or_else(not_running)?.record {
        Some(record) => Ok((record, directory)),
        None => Err(InspectError::Starting { name: name.clone() }),
    }
}

/// What a tunnel tells about itself.
///
/// # Errors
/// It does not run or does not answer.
pub fn report(name: &InstanceName, uapi_dir: Option<&Path>) -> Result<TunnelReport, InspectError> {
    let (_record, directory) = running(name, uapi_dir)?;
    let client = UapiClient::at(&directory.socket(name));
    client.report().map_err(|source| InspectError::Talk { name: name.clone(), source })
}

/// Whether traffic can be expected to pass: the link is up, and a peer has answered within `max_age` if any can be
/// called at all.
#[must_use]
pub fn is_healthy(report: &TunnelReport, max_age: Duration) -> bool {
    let answered =
        report.peers.iter().any(|peer| peer.last_handshake_secs.is_some_and(|age| age <= max_age.as_secs()));
    let mut callable = report.peers.iter().filter(|peer| {
        peer.endpoint.is_some() || peer.endpoint_name.is_some() || peer.last_handshake_secs.is_some()
    });
    report.up && (answered || callable.next().is_none())
}

/// Asks a tunnel to end, and waits until it has.
///
/// # Errors
/// It does not run, may not be signalled, or does not end in time.
pub fn stop(name: &InstanceName, uapi_dir: Option<&Path>) -> Result<(), InspectError> {
    let (record, directory) = running(name, uapi_dir)?;
    let pid = record.pid;
    let signal = |source| InspectError::Signal { pid, source };
    let process = match PidFd::open(pid) {
        Ok(process) => process,
        Err(error) if error.is(nix::errno::Errno::ESRCH) => return Ok(()),
        Err(error) => return Err(signal(error)),
    };
    // The descriptor is of whoever has the number now; only the same start time makes it the tunnel. A lock that is
    // held by a process of another number belongs to another PID namespace: not to be reached from here.
    if start_time(pid).ok() != Some(record.starttime) {
        return Err(InspectError::NotRunning { name: name.clone() });
    }
    match process.send_signal(Signal::SIGTERM) {
        Err(error) if !error.is(nix::errno::Errno::ESRCH) => return Err(signal(error)),
        Ok(()) | Err(_) => {}
    }
    if !process.wait_for_end(Some(END_DEADLINE)).map_err(signal)? {
        return Err(InspectError::StillRunning { pid });
    }
    // If it had no time to clean up, looking for it does.
    find(&directory, name).map(|_gone| ()).map_err(|source| locks(&directory, source))
}

/// Copies the log of a tunnel that runs, or ran, in the background; `follow` goes on as lines are added.
///
/// # Errors
/// There is no log.
pub fn logs(name: &InstanceName, follow: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    if journal_is_there() {
        return journal(name, follow);
    }
    let path = log_path(name)?;
    let failed = |source| InspectError::Log { path: path.clone(), source };
    let mut file = File::open(&path).map_err(failed)?;
    let changes = Inotify::init(InitFlags::IN_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    changes.add_watch(&path, AddWatchFlags::IN_MODIFY).map_err(|errno| failed(errno.into()))?;
    loop {
        io::copy(&mut file, out).and_then(|_bytes| out.flush()).map_err(InspectError::Output)?;
        if !follow {
            return Ok(());
        }
        changes.read_events().map_err(|errno| failed(errno.into()))?;
        // The file is bounded: a full one starts again from the top.
        if file.metadata().map_err(failed)?.len() < file.stream_position().map_err(failed)? {
            file.rewind().map_err(failed)?;
        }
    }
}

fn journal(name: &InstanceName, follow: bool) -> Result<(), InspectError> {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--output=short-iso", "-t", JOURNAL_IDENTIFIER]).arg(format!("NAME={name}"));
    if follow {
        command.arg("--follow");
    }
    // Its own complaints, and ^C, reach the user directly.
    let status = command.status().map_err(InspectError::Journal)?;
    if status.success() { Ok(()) } else { Err(InspectError::Journal(io::Error::other(status.to_string()))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::command::PeerReport;

    const MAX_AGE: Duration = Duration::from_secs(180);

    fn report_of(up: bool, peers: Vec<PeerReport>) -> TunnelReport {
        TunnelReport { up, peers, ..TunnelReport::default() }
    }

    fn peer(endpoint: Option<&str>, last_handshake_secs: Option<u64>) -> PeerReport {
        PeerReport { endpoint: endpoint.map(Into::into), last_handshake_secs, ..PeerReport::default() }
    }

    #[test]
    fn a_tunnel_is_healthy_if_a_peer_that_can_be_called_has_answered() {
        let called = Some("192.0.2.1:51820");
        for (healthy, report) in [
            (true, report_of(true, vec![])),
            (true, report_of(true, vec![peer(None, None)])),
            (true, report_of(true, vec![peer(called, Some(180))])),
            (true, report_of(true, vec![peer(called, None), peer(None, Some(3))])),
            (false, report_of(true, vec![peer(called, Some(181))])),
            (false, report_of(true, vec![peer(called, None)])),
            (false, report_of(true, vec![peer(None, Some(181))])),
            (false, report_of(false, vec![peer(called, Some(1))])),
        ] {
            assert_eq!(is_healthy(&report, MAX_AGE), healthy, "{report:?}");
        }
        let unresolved = PeerReport { endpoint_name: Some("vpn.example:1".into()), ..PeerReport::default() };
        assert!(!is_healthy(&report_of(true, vec![unresolved]), MAX_AGE));
    }
}
