//! `exec`: a command in the namespaces of a tunnel that runs. (wiring)

use super::request::ExecRequest;
use super::run::command_or_shell;
use super::start::StartError;
use crate::driver::instance::{self, RecordedTarget};
use crate::driver::run_child::exec_into;
use crate::driver::target::Target;
use crate::sys::caller::CallerState;

/// Becomes the command; returns only if that failed.
#[must_use]
pub fn run(request: ExecRequest) -> StartError {
    let caller = CallerState::capture();
    match target_of(&request) {
        Ok(target) => {
            let named = target.to_string();
            match target.open() {
                Ok(mut target) => exec_into(&mut target, &caller, &command_or_shell(request.command)).into(),
                Err(source) => StartError::Enter { name: request.name, target: named, source },
            }
        }
        Err(error) => error,
    }
}

/// Where the tunnel is, from its lock file; a process that has its number from somebody else is not it.
fn target_of(request: &ExecRequest) -> Result<Target, StartError> {
    let not_running = || StartError::NotRunning { name: request.name.clone() };
    let directory = instance::existing_runtime_dir(request.uapi_dir.as_deref())?.ok_or_else(not_running)?;
    let found = instance::find(&directory, &request.name).map_err(StartError::Machinery)?;
    let record = found.and_then(|instance| instance.record).ok_or_else(not_running)?;
    match record.target {
        RecordedTarget::Pid { pid, starttime } => match instance::start_time(pid) {
            Ok(found) if found == starttime => Ok(Target::Pid(pid)),
            Ok(_) | Err(_) => Err(not_running()),
        },
        RecordedTarget::Path { netns, userns } => Ok(Target::Path { netns, userns }),
        RecordedTarget::Own => Ok(Target::Pid(record.pid)),
        RecordedTarget::Tun => Err(StartError::NoNamespace { name: request.name.clone() }),
    }
}
