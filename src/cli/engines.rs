//! `oci-hook`, `cdi` and `drop-ins`: what container engines call, and what is written for them. (cli)

use std::io;
use std::path::PathBuf;

use super::args_engines::{CdiArgs, CdiCommand, DropInsArgs, DropInsCommand, OciHookArgs};
use super::report::{Exits, chain, print_lines};
use super::{cannot, hint, print_out};
use crate::compat::cdi;
use crate::compat::drop_ins::{self, Places};
use crate::compat::oci_hook::{self, Outcome};
use crate::driver::failure::{Failure, FailureClass};

/// `oci-hook`: whatever goes wrong is told to the engine, which tells the user.
pub(super) fn oci_hook(args: OciHookArgs) -> u8 {
    if args.print_definition {
        return match program() {
            Ok(program) => print_out(oci_hook::definition(&program).as_bytes()),
            Err(error) => cannot("find this program's own path", &error),
        };
    }
    match oci_hook::run(args.settings(), io::stdin().lock()) {
        Ok(Outcome::Attached) => 0,
        Ok(Outcome::Configuration(document)) => print_out(&document),
        Ok(Outcome::Refused { said, code }) => {
            oci_hook::tell_engine(&said);
            code
        }
        Err(error) => {
            let hint = hint::hint(&error).map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            oci_hook::tell_engine(&format!("wg4netns: {}\n{hint}", chain(&error)));
            error.class().exit_code()
        }
    }
}

/// `cdi generate`.
pub(super) fn cdi(args: CdiArgs) -> u8 {
    let exits = Exits::ByBlame;
    let CdiCommand::Generate(args) = args.command;
    let output = args.output.clone();
    let program = match program() {
        Ok(program) => program,
        Err(error) => return cannot("find this program's own path", &error),
    };
    let request = match args.request(program) {
        Ok(request) => request,
        Err(error) => return exits.fail(&error),
    };
    match (cdi::generate(&request), output) {
        (Err(error), _) => exits.fail(&error),
        (Ok(description), None) => print_out(description.as_bytes()),
        (Ok(description), Some(file)) => match std::fs::write(&file, description) {
            Ok(()) => 0,
            Err(error) => {
                print_lines(&format!("cannot write `{}`: {error}", file.display()), None);
                FailureClass::General.exit_code()
            }
        },
    }
}

/// `drop-ins install` and `drop-ins remove`.
pub(super) fn drop_ins(args: DropInsArgs) -> u8 {
    let exits = Exits::ByBlame;
    let said = Places::of_this_user().and_then(|places| match args.command {
        DropInsCommand::Install(args) => {
            let program = program().map_err(drop_ins::DropInsError::Program)?;
            drop_ins::install(&places, &program, args.config.as_deref())
        }
        DropInsCommand::Remove => drop_ins::remove(&places),
    });
    match said {
        Ok(text) => print_out(text.as_bytes()),
        Err(error) => exits.fail(&error),
    }
}

/// The path that an engine can call us by.
fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}
