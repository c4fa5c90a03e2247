//! `demo`, its peer, and the programs it runs inside its namespaces. (cli)

use std::ffi::OsString;
use std::io;

use super::report::{self, Exits};
use crate::driver::failure::FailureClass;
use crate::mode::demo_inside::{self, CLIENT_ARGUMENT, FAR_ARGUMENT};
use crate::mode::request::{DemoPeerOptions, DemoRequest};
use crate::mode::{demo, demo_peer};

/// Whether a first argument means one of the demonstration's own processes.
pub(super) fn is_part(first: &str) -> bool {
    [demo_peer::ARGUMENT, CLIENT_ARGUMENT, FAR_ARGUMENT].contains(&first)
}

/// One of the demonstration's own processes; `arguments` begin with what [`is_part`] knows.
pub(super) fn part(arguments: &[OsString]) -> u8 {
    let first = arguments.first().and_then(|first| first.to_str());
    let exits = Exits::ByBlame;
    if first == Some(demo_peer::ARGUMENT) {
        let options = DemoPeerOptions { exit_with_parent: true, ..DemoPeerOptions::default() };
        let log =
            arguments.get(1).and_then(|log| log.to_str()).and_then(|log| serde_json::from_str(log).ok());
        let Some(log) = log else { return FailureClass::Usage.exit_code() };
        return demo_peer::run(&options, log).map_or_else(|error| exits.fail(&error), |()| 0);
    }
    let ended = if first == Some(FAR_ARGUMENT) {
        demo_inside::be_far(&mut io::stdout(), &mut io::stdin())
    } else {
        let plan = arguments.get(1).and_then(|plan| plan.to_str());
        match plan.and_then(|plan| serde_json::from_str(plan).ok()) {
            Some(plan) => demo_inside::try_everything(&plan, &mut io::stdout()),
            None => return FailureClass::Usage.exit_code(),
        }
    };
    match ended {
        Ok(()) => 0,
        Err(error) => {
            report::print(&error);
            FailureClass::General.exit_code()
        }
    }
}

/// `demo`.
pub(super) fn demo(request: &DemoRequest) -> u8 {
    let exits = Exits::ByBlame;
    match &request.peer {
        Some(options) => demo_peer::run(options, request.log).map_or_else(|error| exits.fail(&error), |()| 0),
        None => demo::run(&mut io::stdout(), request.log).unwrap_or_else(|error| exits.fail(&error)),
    }
}
