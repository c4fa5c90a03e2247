//! `exec`: a command in the namespaces of a tunnel that runs. (wiring)

use tracing::debug;

use super::request::ExecRequest;
use super::run::command_or_shell;
use super::start::StartError;
use crate::driver::instance::{self, RecordedTarget};
use crate::driver::logging::{self, LogDestination};
use crate::driver::run_child::exec_into;
use crate::driver::target::{OpenTarget, Target};
use crate::sys::caller::CallerState;

/// Becomes the command; returns only if that failed.
#[must_use]
pub fn run(request: ExecRequest) -> StartError {
    let caller = CallerState::capture();
    if let Err(error) = logging::start(request.log, &LogDestination::Stderr) {
        return error.into();
    }
    match open(&request) {
        Ok(mut target) => exec_into(&mut target, &caller, &command_or_shell(request.command)).into(),
        Err(error) => error,
    }
}

/// The namespaces of the tunnel.
fn open(request: &ExecRequest) -> Result<OpenTarget, StartError> {
    let (target, started) = target_of(request)?;
    let named = target.to_string();
    debug!(name = %request.name, target = named, "entering the namespace");
    let failed = |source| StartError::Enter { name: request.name.clone(), target: named, source };
    let opened = target.open().map_err(failed)?;
    match started {
        // Looked at only now, for a number can pass to another process until its descriptor is open.
        Some((pid, starttime)) if instance::start_time(pid).ok() != Some(starttime) => {
            Err(StartError::NotRunning { name: request.name.clone() })
        }
        Some(_) | None => Ok(opened),
    }
}

/// Where the tunnel is, from its lock file; and of a process when it must have begun, to be the one that is meant.
fn target_of(request: &ExecRequest) -> Result<(Target, Option<(u32, u64)>), StartError> {
    let not_running = || StartError::NotRunning { name: request.name.clone() };
    let directory = instance::existing_runtime_dir(request.uapi_dir.as_deref())?.ok_or_else(not_running)?;
    let found = instance::find(&directory, &request.name).map_err(StartError::Machinery)?;
    let record = found.and_then(|instance| instance.record).ok_or_else(not_running)?;
    match record.target {
        RecordedTarget::Pid { pid, starttime } => match instance::start_time(pid) {
            Ok(found) if found == starttime => Ok((Target::Pid(pid), Some((pid, starttime)))),
            Ok(_) | Err(_) => Err(not_running()),
        },
        RecordedTarget::Path { netns, userns } => Ok((Target::Path { netns, userns }, None)),
        RecordedTarget::Own => Ok((Target::Pid(record.pid), Some((record.pid, record.starttime)))),
        RecordedTarget::Tun => Err(StartError::NoNamespace { name: request.name.clone() }),
    }
}
